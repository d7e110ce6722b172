//! Pairs weighted by how likely the policy would write them.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::loss::{Context, Objective, Phase, StepScores, forward_state};
use crate::math::guarded_exp;
use crate::recipe::Recipe;
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::scores::{Outputs, TokenScores, select_rows};
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::{Needs, Rows, StepWide};

/// Weighted preference optimisation: any loss of pairs, each pair weighted by how likely the policy would have written
/// both its completions itself.
///
/// # Formula
/// `w(y_w)·w(y_l)·loss` of every pair, divided by the number of pairs (not by the sum of the weights), with
/// `w(y) = exp(mean_t [log π(y_t) − log Σ_v π(v)²])`: 1 for a completion that looks like a sample of the policy at
/// every token. The mean of the weights is reported as `weights/wpo`.
///
/// # Gradient
/// That of the inner loss, times the weight; none flows through the weights.
///
/// # When to use
/// When the pairs were written by other models: pairs that the policy would not write count less, as if the data were
/// its own.
///
/// # Source
/// Zhou et al. 2024, arXiv 2406.11827; the weight with alignment by sampling, its default. Confidence A✓ (TRL's
/// function).
///
/// # Deviations
/// From the paper: its other alignments of the weights are not offered. From TRL: none for losses of pairs; TRL also
/// multiplies a supervised term by the weights, which is refused here, because that term is divided by tokens: weight
/// the loss of pairs inside a mix instead. Sums of two log-weights above 30, which no vocabulary gives, are continued
/// by the tangent of the exponential.
///
/// # Checked by
/// TRL: `sigmoid` and `ipo` with `use_weighting`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Recipe, Scores, TokenScores};
/// let wpo: Recipe = serde_json::from_str(r#"{ "type": "wpo", "loss": { "type": "dpo" } }"#)?;
/// let log_probs = Tensor::new(&[[0.5f64.ln()], [0.25f64.ln()]], &Device::Cpu)?;
/// // Tokens as likely as a sample is on average, Σ p², weigh 1 …
/// let sure = TokenScores::unmasked(log_probs.clone())?.with_log_sum_sq_probs(log_probs.clone())?;
/// // … and one of probability ¼ where Σ p² is ½ weighs ½.
/// let half = TokenScores::unmasked(log_probs.clone())?
///     .with_log_sum_sq_probs(Tensor::new(&[[0.5f64.ln()], [0.5f64.ln()]], &Device::Cpu)?)?;
/// for (policy, weight) in [(sure, 1.0), (half, 0.5)] {
///     let scores = Scores::of_pairs(policy.clone(), Some(policy));
///     let loss = wpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
///     assert!((loss.to_scalar::<f64>()? - weight * 2f64.ln()).abs() < 1e-15);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wpo<O = Box<Recipe>> {
    /// The loss whose pairs are weighted.
    pub loss: O,
}

impl<O: Objective> Objective for Wpo<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        let inner = self.loss.needs();
        let outputs = Outputs { log_sum_sq_probs: true, ..inner.outputs };
        Needs { outputs, rows: inner.rows.intersection(Rows::PAIRS), ..inner }
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        let Needs { rows, step_wide, .. } = self.loss.needs();
        if !rows.pairs {
            return Err(self.refusal(format!("it reads {rows}, and the weights are those of pairs")));
        }
        if step_wide == StepWide::AllRows {
            let reason =
                "it compares the pairs of the step with each other, so that no value belongs to one pair alone";
            return Err(self.refusal(reason.to_owned()));
        }
        // What the loss divides by, it says of any pair: of one of a single token, before there is data.
        match self.loss.evaluate(&sample(&self.loss.needs())?, &Context::default()) {
            Ok(terms) => terms.terms.iter().try_for_each(|term| self.check(term, 1)),
            Err(_) => Ok(()),
        }
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        Ok(self.loss.prepare(step, phase)?.wrapped())
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        let mut terms = self.loss.evaluate(scores, &context.part(0))?;
        let weights = self.weights(scores)?;
        for term in &mut terms.terms {
            self.check(term, scores.groups.pairs.len())?;
            term.numerator = (&term.numerator * &weights)?;
        }
        Ok(terms.with_metric(WEIGHTS, &weights))
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.loss.reference_update()
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        None
    }

    forward_state!(loss);
}

impl<O: Objective> Wpo<O> {
    /// `w(y_w)·w(y_l)` of every pair, `[B]`; detached.
    fn weights(&self, scores: &Scores) -> Result<Tensor> {
        let policy = &scores.policy;
        let expected = policy.log_sum_sq_probs().ok_or_else(|| self.needs().unmet(NAME, scores))?;
        let likeness = (policy.log_probs().detach() - expected.detach())?;
        let rows = Reduction::Mean.reduce(&TokenScores::new(likeness, policy.mask().clone())?)?;
        let (chosen, rejected): (Vec<usize>, Vec<usize>) =
            scores.groups.pairs.iter().map(|pair| (pair.chosen, pair.rejected)).unzip();
        guarded_exp(&(select_rows(&rows, &chosen)? + select_rows(&rows, &rejected)?)?)
    }

    /// Whether a term has one value a pair, and is divided by their number.
    fn check(&self, term: &Term, pairs: usize) -> Result<()> {
        if term.normaliser == Normaliser::Items && term.numerator.dims() == [pairs] {
            return Ok(());
        }
        let reason = "is not divided by the number of pairs; weight a loss of pairs alone, and add the other in a mix";
        Err(self.refusal(format!("its term `{}` {reason}", term.name)))
    }

    fn refusal(&self, reason: String) -> Error {
        Error::Wrapped { outer: NAME, inner: self.loss.name(), reason }
    }
}

/// One pair of one token a side, with the numbers that are needed.
fn sample(needs: &Needs) -> Result<Scores> {
    let rows = Tensor::full(-1.0f64, (2, 1), &Device::Cpu)?;
    let policy = TokenScores::unmasked(rows.clone())?.with_mean_log_probs(rows.clone())?.with_log_sum_sq_probs(rows)?;
    let mut scores = Scores::of_pairs(policy.clone(), Some(policy));
    let numbers =
        needs.numbers.iter().map(|number| (number.name.to_owned(), vec![0.5f64.clamp(number.low, number.high)]));
    scores.groups.numbers.extend(numbers);
    Ok(scores)
}

const NAME: &str = "wpo";
const WEIGHTS: &str = "weights/wpo";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Var;
    use candlewick_testkit::{Golden, Matrix, error, shifted, worst};

    use super::*;
    use crate::{Aot, Cpo, Dpo, Ipo, Irepo, Kto, Mix, Part, Sft};

    fn tensor(rows: &Matrix) -> Tensor {
        Tensor::new(rows.clone(), &Device::Cpu).unwrap()
    }

    fn flat(values: &Tensor) -> Vec<f64> {
        values.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn agrees_with_trl() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trl_golden.json");
        let Golden::Tokens(golden) = Golden::load(&path).unwrap() else { panic!("another form") };
        let golden = golden.dpo;
        let mask = tensor(&shifted(&golden.mask));
        let mut checked = 0;
        for case in golden.cases.iter().filter(|case| case.config.use_weighting) {
            let beta = case.config.beta;
            let wpo: Wpo<Box<dyn Objective>> = match case.config.loss_types[0].as_str() {
                "sigmoid" => Wpo { loss: Box::new(Dpo { beta, ..Dpo::default() }) },
                _ => Wpo { loss: Box::new(Ipo { beta, ..Ipo::default() }) },
            };
            wpo.validate().unwrap();
            let log_probs = Var::from_tensor(&tensor(&golden.policy_token_logps)).unwrap();
            let policy = TokenScores::new(log_probs.as_tensor().clone(), mask.clone()).unwrap();
            let policy = policy.with_log_sum_sq_probs(tensor(&golden.log_sum_sq_probs)).unwrap();
            let reference = TokenScores::new(tensor(&golden.ref_token_logps), mask.clone()).unwrap();
            let scores = Scores::of_pairs(policy, Some(reference));
            let loss = wpo.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
            assert!(error(loss.to_scalar().unwrap(), case.loss) < 1e-9, "{:?}", case.config);
            let gradient = flat(loss.backward().unwrap().get(&log_probs).unwrap());
            assert!(worst(&gradient, &case.grad_policy_token_logps.concat()) < 1e-9, "{:?}", case.config);
            checked += 1;
        }
        assert_eq!(checked, 2);
    }

    #[test]
    fn losses_whose_values_belong_to_no_single_pair_are_refused() {
        let refused = |loss: Box<dyn Objective>| Wpo { loss }.validate().unwrap_err().to_string();
        let error = refused(Box::<Kto>::default());
        assert_eq!(error, "wpo cannot wrap Kto: it reads labelled rows, and the weights are those of pairs");
        assert!(refused(Box::<Aot>::default()).starts_with("wpo cannot wrap Aot: it compares the pairs of the step"));
        let part = |loss: Box<dyn Objective>| Part { weight: 1.0, loss };
        let parts = vec![part(Box::<Dpo>::default()), part(Box::<Aot>::default())];
        assert!(refused(Box::new(Mix { parts })).starts_with("wpo cannot wrap mix"));
    }

    #[test]
    fn terms_that_are_divided_by_tokens_are_refused_and_missing_statistics_named() {
        let rows = Tensor::new(&[[-1.0f64], [-2.0]], &Device::Cpu).unwrap();
        let bare = TokenScores::unmasked(rows.clone()).unwrap();
        let scores = |policy: TokenScores| Scores::of_pairs(policy.clone(), Some(policy));
        let full = scores(bare.clone().with_log_sum_sq_probs(rows).unwrap());
        let error = Wpo { loss: Sft {} }.evaluate(&full, &Context::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("wpo cannot wrap Sft: its term `sft` is not divided by the number of pairs"),
            "{error}"
        );
        for (loss, term) in [(Box::new(Sft {}) as Box<dyn Objective>, "sft"), (Box::<Cpo>::default(), "nll")] {
            let error = Wpo { loss }.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("its term `{term}` is not divided by the number of pairs")), "{error}");
        }
        Wpo { loss: Irepo::default() }.validate().unwrap();
        let wpo = Wpo { loss: Dpo::default() };
        let error = wpo.evaluate(&scores(bare), &Context::default()).unwrap_err().to_string();
        assert!(error.starts_with("wpo reads log_sum_sq_probs of every token"), "{error}");
        let terms = wpo.evaluate(&full, &Context::default()).unwrap();
        let weights = terms.metrics.iter().find(|metric| metric.name == WEIGHTS).unwrap();
        assert_eq!(flat(&weights.values), [1.0]);
        assert!(wpo.needs().outputs.log_sum_sq_probs && wpo.needs().reference);
        assert_eq!(wpo.loss_at_zero_margin(), None);
    }
}
