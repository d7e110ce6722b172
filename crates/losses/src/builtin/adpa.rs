//! `NLL(y_w) − γ·mean_t Σ_a π(a)·A(a)`

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::{Named, check_not_negative, token_means};
use crate::error::{Error, Result};
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::{AdvisedPair, TaughtSide};

/// Advantage-guided distillation: a small model imitates the chosen completions and, on completions of its own, is
/// rewarded for the tokens that a teacher's alignment made more probable.
///
/// # Formula
/// `NLL(y_w) − γ·mean_t Σ_a π(a|s_t)·A(a|s_t)` with `A = log π_T − log π_Tref`, in nats: the log-probability under the
/// aligned teacher less that under the teacher before its alignment. The second mean is over the tokens of the rejected
/// completions, which the model itself has sampled; both are means over the whole step. A token that the teacher's
/// rows do not give has an advantage of 0.
///
/// # Gradient
/// With respect to the logits of a token: `−γ·π(a)·(A(a) − Σ_b π(b)·A(b))`, the exact policy gradient over the
/// vocabulary, whose sum over the logits is 0.
///
/// # When to use
/// After [`Dckd`](crate::Dckd) or supervised fine-tuning of a small model, with an aligned teacher of the same
/// vocabulary and the model that it was aligned from. No reference of the model itself is read.
/// What it does to `K` given log-probabilities a token grows with `K`: at `K = 8` a scored row costs 1.4 times what it costs
/// [`Dpo`](crate::Dpo) in steps of 8 pairs, and 4 times where 65,536 pairs at once are bound by memory.
///
/// # Source
/// Gao et al. 2025, arXiv 2502.17927, and the authors' trainer, which was read but not executed. Not verified: its
/// headline numbers. Confidence A.
///
/// # Deviations
/// From the release: its configuration sets the weights to 0 unless they are given, `γ` is 1 here; the teacher's rows
/// may be sparse; the optional importance weight, through which the release lets a gradient pass, is left out. TRL has
/// no such loss.
///
/// # Checked by
/// Formulas: `adpa advantage term`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Adpa, Context, Objective, Scores, TeacherScores, TokenScores};
/// let half = 0.5f64.ln();
/// let given = Tensor::full(half, (2, 1, 2), &Device::Cpu)?;
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [half]], &Device::Cpu)?)?.with_given(given)?;
/// let log_probs = Tensor::new(&[[[-1.0f64, -2.0]], [[-1.0, -2.0]]], &Device::Cpu)?;
/// let reference = Tensor::new(&[[[-1.0f64, -2.0]], [[-3.0, -1.0]]], &Device::Cpu)?;
/// let teacher = Some(TeacherScores { log_probs, reference: Some(reference) });
/// let scores = Scores { teacher, ..Scores::of_pairs(policy, None) };
/// let loss = Adpa::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Advantages of 2 and −1, each with probability ½.
/// assert!((loss.to_scalar::<f64>()? - (1.0 - 0.5)).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adpa {
    /// `γ`, weight of the advantages; at least 0. Default 1.
    pub gamma: f64,
}

impl Default for Adpa {
    fn default() -> Self {
        Self { gamma: 1.0 }
    }
}

impl Named for Adpa {
    const NAME: &'static str = "adpa";
    const ALIASES: &'static [&'static str] = &["advantage_guided_distillation"];
    const SUMMARY: &'static str =
        "advantage-guided distillation: rewards the tokens that a teacher's alignment made more probable";
}

impl Loss for Adpa {
    type Input = AdvisedPair;

    fn terms(&self, input: &AdvisedPair, _: &Context) -> Result<LossTerms> {
        let (chosen, rejected) = (input.chosen()?, input.rejected()?);
        let advantages = expected_advantages(&rejected)?;
        let imitation = Term {
            name: "nll",
            numerator: chosen.scores.sums()?.neg()?,
            normaliser: Normaliser::DemonstrationTokens,
            weight: 1.0,
        };
        let guidance = Term {
            name: "advantage",
            numerator: advantages.sum(1)?.neg()?,
            normaliser: Normaliser::RejectedTokens,
            weight: self.gamma,
        };
        let means = token_means(&advantages, &rejected.scores)?;
        Ok(LossTerms::new([imitation, guidance]).with_metric("advantages", &means))
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("gamma", self.gamma)
    }
}

/// `Σ_a π(a)·A(a)` at every slot, `[B, T]`; 0 where nothing is scored.
fn expected_advantages(side: &TaughtSide) -> Result<Tensor> {
    let reference = side.reference.as_ref();
    let reference = reference.ok_or_else(|| Error::MissingTeacher { loss: "Adpa".to_owned(), with_reference: true })?;
    let by_both = reference.gt(f64::from(f32::MIN))?.to_dtype(reference.dtype())?;
    let given = (side.given()? * by_both)?.gt(0.5)?;
    let advantages = given.where_cond(&(&side.teacher - reference)?, &reference.zeros_like()?)?;
    // A log-probability above 0, which rounding may give, counts as 0.
    let student = (&side.policy - positive_part(&side.policy)?)?;
    Ok((student.exp()? * advantages)?.sum(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candlewick_testkit::error;

    use super::super::vectors::{check_logits, taught_pair};
    use super::*;
    use crate::{Objective, Scores, TeacherScores, TokenScores};

    #[test]
    fn agrees_with_the_formulas() {
        let (logits, scores) = taught_pair(false);
        let terms = Adpa::default().evaluate(&scores, &Context::default()).unwrap();
        let advantage = terms.terms.iter().find(|term| term.name == "advantage").unwrap();
        check_logits("adpa advantage term", &advantage.value(&scores.totals()).unwrap(), &logits);
        let total = terms.loss(&scores.totals()).unwrap();
        let nll = terms.terms[0].value(&scores.totals()).unwrap();
        let sum = (nll + advantage.value(&scores.totals()).unwrap()).unwrap();
        assert!(error(total.to_scalar().unwrap(), sum.to_scalar().unwrap()) < 1e-15, "{total} {sum}");
    }

    #[test]
    fn what_is_not_given_has_no_advantage_and_extremes_are_finite() {
        let none = f64::NEG_INFINITY;
        for dtype in [DType::F32, DType::F64] {
            let tensor = |values: [f64; 4]| {
                let twice = [values, values].concat();
                Tensor::from_vec(twice, (2, 1, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
            };
            let given = Var::from_tensor(&tensor([-1.0, -1e4, 1e4, -0.5])).unwrap();
            let policy = TokenScores::unmasked(Tensor::zeros((2, 1), dtype, &Device::Cpu).unwrap()).unwrap();
            let policy = policy.with_given(given.as_tensor().clone()).unwrap();
            let reference = Some(tensor([-2.0, -1.0, -1e4, none]));
            let teacher = Some(TeacherScores { log_probs: tensor([none, -1e4, -1.0, -1.0]), reference });
            let scores = Scores { teacher, ..Scores::of_pairs(policy, None) };
            let loss = Adpa::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
            // Only the third token is given by both, with an advantage of 9999 and a probability of 1.
            assert!(error(loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), -9999.0) < 1e-15, "{loss}");
            let slopes = loss.backward().unwrap().get(&given).unwrap().to_dtype(DType::F64).unwrap();
            assert_eq!(slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap(), [0.0; 8]);
        }
    }
}
