//! Log-ratios of single tokens held within bounds.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::{MismatchedScores, Scores};
use crate::loss::{Context, Objective, Phase, StepScores, forward_state};
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::scores::TokenScores;
use crate::terms::LossTerms;
use crate::view::Needs;

/// Humanline clamping: any loss on log-ratios of single tokens that are held within bounds, as if outcomes that people
/// find hard to believe were left out.
///
/// # Formula
/// The inner loss of `log π_ref(y_t) + clamp(log π(y_t) − log π_ref(y_t), low, high)` in place of `log π(y_t)`, in
/// nats. The fraction of scored tokens within the bounds is reported as `unclamped`.
///
/// # Gradient
/// That of the inner loss for tokens within the bounds (which belong to the inside), and 0 for the others.
///
/// # When to use
/// With pairs or verdicts that the policy did not write itself, together with a reference that follows one step behind, as
/// the paper trains: `{ type = "humanline", loss = { type = "tr_dpo", update = "lagged" } }`, or any loss within
/// [`TrustRegion`](crate::TrustRegion).
///
/// # Source
/// arXiv 2509.24207, as in the authors' library HALOs. Confidence A for the clamp on the policy's rows; whether
/// mismatched completions are clamped too is not verified (they are here).
///
/// # Deviations
/// From the paper and HALOs: the reference is the business of the inner loss, and a frozen one stays. Theirs is set to
/// the policy at every step, before the optimizer moves it: that is the `update` `"lagged"`, or `{ lagged = { every = 4 } }`
/// for less often. Implicit rewards and margins that the inner loss reports are those of the clamped log-ratios. Other statistics of the tokens (entropies and the like, and the weights
/// of an inner [`Wpo`](crate::Wpo)'s vocabulary) are not changed: put `wpo` outside. TRL has no such option.
///
/// # Checked by
/// Properties only, because no other program's numbers are at hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Recipe, Scores, TokenScores};
/// let humanline = r#"{ "type": "humanline", "loss": { "type": "dpo", "beta": 1.0 } }"#;
/// let humanline: Recipe = serde_json::from_str(humanline)?;
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-9.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = humanline.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Log-ratios 1 and −7, held at −1: the margin is 2, and the loss log(1 + e⁻²).
/// assert!((loss.to_scalar::<f64>()? - 0.126_928_011_042_972_5).abs() < 1e-15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Humanline<O = Box<Recipe>> {
    /// The smallest log-ratio of a token, in nats; at most 0. Default −1.
    #[serde(default = "low")]
    pub low: f64,
    /// The largest log-ratio of a token, in nats; at least 0 and above `low`. Default 1.5.
    #[serde(default = "high")]
    pub high: f64,
    /// The loss that sees the clamped log-ratios.
    pub loss: O,
}

impl<O> Humanline<O> {
    /// A loss with the published bounds, −1 and 1.5.
    pub fn new(loss: O) -> Self {
        Self { low: low(), high: high(), loss }
    }
}

impl<O: Objective> Objective for Humanline<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { reference: true, ..self.loss.needs() }
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        let wrong =
            |parameter, got, expected| Err(Error::Parameter { loss: NAME.to_owned(), parameter, got, expected });
        if !(self.low.is_finite() && self.low <= 0.0) {
            return wrong("low", self.low, "a finite number of at most 0");
        }
        if !(self.high.is_finite() && self.high >= 0.0 && self.high > self.low) {
            return wrong("high", self.high, "a finite number of at least 0 and above `low`");
        }
        Ok(())
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let micro = step.micro.iter().map(|scores| self.clamp_step(scores)).collect::<Result<Vec<_>>>()?;
        let step = StepScores { micro: &micro, collective: step.collective };
        Ok(self.loss.prepare(&step, phase)?.wrapped())
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        scores.check()?;
        let reference = scores.reference.as_ref().ok_or_else(|| self.needs().unmet(NAME, scores))?;
        let Clamped { policy, inside } = self.clamp(&scores.policy, reference)?;
        let clamped = Scores { policy, ..scores.clone() };
        let terms = self.loss.evaluate(&clamped, &context.part(0))?;
        Ok(terms.with_metric(UNCLAMPED, &scored(&inside, scores.policy.mask())?))
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.loss.reference_update()
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // 0 lies within the bounds.
        self.loss.loss_at_zero_margin()
    }

    forward_state!(loss);
}

/// Scores of a policy with clamped log-ratios.
struct Clamped {
    policy: TokenScores,
    /// 1 where the log-ratio is within the bounds and 0 elsewhere, `[N, T]`.
    inside: Tensor,
}

impl<O: Objective> Humanline<O> {
    fn clamp(&self, policy: &TokenScores, reference: &TokenScores) -> Result<Clamped> {
        let (own, anchor) = (policy.log_probs(), reference.log_probs().detach());
        let log_ratios = (own.detach() - &anchor)?;
        // NaN is neither below nor above, and stays.
        let (below, above) = (log_ratios.lt(self.low)?, log_ratios.gt(self.high)?);
        let held = below.where_cond(&(&anchor + self.low)?, own)?;
        let held = above.where_cond(&(&anchor + self.high)?, &held)?;
        let outside = (below.to_dtype(DType::F64)? + above.to_dtype(DType::F64)?)?;
        Ok(Clamped { policy: policy.with_log_probs(&held)?, inside: (1.0 - outside)? })
    }

    /// What the inner loss sees of the step: rows that were not scored by a reference are as they are.
    fn clamp_step(&self, scores: &Scores) -> Result<Scores> {
        scores.check()?;
        let mut scores = scores.clone();
        if let Some(reference) = &scores.reference {
            scores.policy = self.clamp(&scores.policy, reference)?.policy;
        }
        if let Some(MismatchedScores { policy, reference }) = &mut scores.mismatched {
            *policy = self.clamp(policy, reference)?.policy;
        }
        Ok(scores)
    }
}

/// The values at scored slots, `[M]`.
fn scored(values: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let host = |values: &Tensor| values.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (values, mask, device) = (host(values)?, host(mask)?, mask.device());
    let scored = values.into_iter().zip(mask).filter(|&(_, mask)| mask > 0.5).map(|(value, _)| value);
    Ok(Tensor::new(scored.collect::<Vec<f64>>(), device)?)
}

fn low() -> f64 {
    -1.0
}

fn high() -> f64 {
    1.5
}

const NAME: &str = "humanline";
const UNCLAMPED: &str = "unclamped";

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use candlewick_testkit::{central_difference, error, worst};

    use super::*;
    use crate::{Dpo, Kto, Solo, TrDpo};

    const REFERENCE: [[f64; 2]; 2] = [[-2.0, -3.0], [-4.0, -2.5]];

    fn scores(policy: &[f64]) -> (Var, Scores) {
        let own = Var::from_tensor(&Tensor::new(policy, &Device::Cpu).unwrap().reshape((2, 2)).unwrap()).unwrap();
        let rows = TokenScores::unmasked(own.as_tensor().clone()).unwrap();
        let reference = TokenScores::unmasked(Tensor::new(&REFERENCE, &Device::Cpu).unwrap()).unwrap();
        (own, Scores::of_pairs(rows, Some(reference)))
    }

    fn loss(objective: &dyn Objective, policy: &[f64]) -> (f64, Vec<f64>) {
        let (own, scores) = scores(policy);
        let loss = objective.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let gradient = loss.backward().unwrap().get(&own).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (loss.to_scalar().unwrap(), gradient)
    }

    #[test]
    fn tokens_outside_the_bounds_are_held_and_have_no_gradient() {
        let humanline = Humanline::new(Dpo { beta: 0.5, ..Dpo::default() });
        // Log-ratios 0.5, 2.5 (held at 1.5), −3 (held at −1), 0.2.
        let policy = [-1.5, -0.5, -7.0, -2.3];
        let (value, gradient) = loss(&humanline, &policy);
        let margin: f64 = (0.5 + 1.5) - (-1.0 + 0.2);
        assert!(error(value, (-0.5 * margin).exp().ln_1p()) < 1e-14);
        assert_eq!((gradient[1], gradient[2]), (0.0, 0.0));
        assert!(gradient[0] < 0.0 && gradient[3] > 0.0);
        let numeric = central_difference(|policy| loss(&humanline, policy).0, &policy, 1e-5);
        assert!(worst(&gradient, &numeric) < 1e-9, "{gradient:?} {numeric:?}");
        let (_, scores) = scores(&policy);
        let terms = humanline.evaluate(&scores, &Context::default()).unwrap();
        let unclamped = terms.metrics.iter().find(|metric| metric.name == UNCLAMPED).unwrap();
        assert_eq!(unclamped.values.to_vec1::<f64>().unwrap(), [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn within_the_bounds_nothing_changes_and_extremes_are_finite() {
        let dpo = Dpo { beta: 0.5, ..Dpo::default() };
        let humanline = Humanline::new(dpo);
        let near = [-1.5, -3.5, -4.9, -1.1];
        assert_eq!(loss(&humanline, &near), loss(&dpo, &near));
        assert_eq!(humanline.loss_at_zero_margin(), Some(std::f64::consts::LN_2));
        let (value, gradient) = loss(&humanline, &[1e4, -1e4, -1e4, 1e4]);
        assert!(value.is_finite() && gradient.iter().all(|&slope| slope == 0.0));
        assert!(loss(&humanline, &[f64::NAN, -1.0, -1.0, -1.0]).0.is_nan());
    }

    #[test]
    fn the_reference_point_of_kto_is_made_of_clamped_log_ratios() {
        let (_, scores) = scores(&[-1.5, -0.5, -7.0, -2.3]);
        let mismatched =
            MismatchedScores { policy: scores.policy.clone(), reference: scores.reference.clone().unwrap() };
        let micro = [Scores { mismatched: Some(mismatched), ..scores }];
        let step = StepScores { micro: &micro, collective: &Solo };
        let mut kto = Humanline::new(Kto::default());
        let context = kto.prepare(&step, Phase::Train).unwrap();
        let expected = ((0.5 + 1.5) + (-1.0 + 0.2)) / 2.0;
        assert!(error(context.scalar("kl").unwrap(), expected) < 1e-14);
        assert!(error(context.micro(0).part(0).scalar("kl").unwrap(), expected) < 1e-14);
    }

    #[test]
    fn bounds_and_references_are_checked() {
        let wrong = |low, high| Humanline { low, high, loss: Dpo::default() }.validate().unwrap_err().to_string();
        assert!(wrong(0.5, 1.0).starts_with("humanline.low: got 0.5"));
        assert!(wrong(-1.0, f64::NAN).starts_with("humanline.high: got NaN"));
        assert!(wrong(0.0, 0.0).starts_with("humanline.high: got 0"));
        let (_, scores) = scores(&[-1.0; 4]);
        let alone = Scores { reference: None, ..scores };
        let error = Humanline::new(Dpo::default()).evaluate(&alone, &Context::default()).unwrap_err().to_string();
        assert!(error.starts_with("humanline compares the policy with a reference"), "{error}");
        let moving = Humanline::new(TrDpo::default());
        assert_eq!(moving.reference_update(), Objective::reference_update(&TrDpo::default()));
    }
}
