//! `[Σ_new −log p − w·Σ_old −log p] / tokens`, the second sum where `−log p` is small

use serde::{Deserialize, Serialize};

use super::{Named, in_range, token_means};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::terms::{LossTerms, Term};
use crate::view::EditedPair;

/// Fine-grained quality signals: imitates the tokens by which a completion was improved, and lowers those that they
/// replaced.
///
/// # Formula
/// `[w₊·Σ_{t ∈ new} CE_t − w₋·Σ_{t ∈ old} g_t·CE_t] / (|new| + Σ_{t ∈ old} g_t)` with `CE = −log p` in nats, the mean
/// over pairs. The chosen completion is the revised one, and *new* are its inserted and substituted tokens and the end
/// token; the rejected completion is the initial one, and *old* are its deleted and substituted tokens. `g_t` is 1
/// where `sg[CE_t] ≤ gate` and 0 elsewhere. The divisor counts the tokens that have a weight and is detached; an item
/// without any is 0.
///
/// # Gradient
/// With respect to `log p_t`: `−w₊/n` for a new token, `+w₋/n` for an old one, constant until its `CE` reaches the
/// gate (0.6: a probability of 0.549) and 0 beyond. The gate stops the unbounded second sum before it diverges.
///
/// # When to use
/// Pairs whose better side is an edited version of the worse one, by a person or a stronger model. Of pairs of
/// independent completions nearly all tokens are edits, and [`Dpo`](crate::Dpo) says more.
///
/// # Source
/// Guo et al. 2023, arXiv 2311.04072, and its release, whose weights and gate are the defaults. Confidence A.
///
/// # Deviations
/// From the release: the weights and the gate, constants there, are hyperparameters. TRL has no such loss.
///
/// # Checked by
/// Formulas: `figa d/d(old-response ce)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Figa, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-0.5, -0.7]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let loss = Figa::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Two new tokens of 3 nats, one old token below the gate: (3 − 0.5·0.5)/3.
/// assert!((loss.to_scalar::<f64>()? - 2.75 / 3.0).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Figa {
    /// `w₊`, weight of the tokens that the revision brought; positive. Default 1.
    pub revised_weight: f64,
    /// `w₋`, weight with which the tokens that it took away are lowered; positive. Default 0.5.
    pub initial_weight: f64,
    /// The largest `−log p`, in nats, at which a token that was taken away is still lowered; at least 0. Default 0.6.
    pub gate: f64,
}

impl Default for Figa {
    fn default() -> Self {
        Self { revised_weight: 1.0, initial_weight: 0.5, gate: 0.6 }
    }
}

impl Named for Figa {
    const NAME: &'static str = "figa";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "fine-grained quality signals: imitates the tokens of an edit and lowers those it replaced";
}

impl Loss for Figa {
    type Input = EditedPair;

    fn terms(&self, input: &EditedPair, _: &Context) -> Result<LossTerms> {
        let (revised, initial) = (input.chosen()?, input.rejected()?);
        let below_gate = initial.log_probs().detach().ge(-self.gate)?.to_dtype(initial.log_probs().dtype())?;
        let kept = (below_gate * initial.mask())?;
        let raised = (revised.sums()? * -self.revised_weight)?;
        let lowered = ((initial.log_probs() * &kept)?.sum(1)? * self.initial_weight)?;
        let counts = (revised.mask().sum(1)? + kept.sum(1)?)?;
        // Where no token counts, both sums are 0: any divisor will do.
        let divisors = counts.clamp(1.0, f64::from(f32::MAX))?;
        let losses = ((raised + lowered)? / divisors)?;
        let share = token_means(&kept, &initial)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_metric("edits/lowered", &share))
    }

    fn validate(&self) -> Result<()> {
        for (parameter, got) in [("revised_weight", self.revised_weight), ("initial_weight", self.initial_weight)] {
            in_range::<Self>(parameter, got, got.is_finite() && got > 0.0, "a positive number")?;
        }
        super::check_not_negative::<Self>("gate", self.gate)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};
    use candlewick_testkit::{error, worst};

    use super::super::vectors::{TOLERANCE, vectors};
    use super::*;
    use crate::{Objective, Scored, Scores, TokenScores};

    fn pair(log_probs: &[[f64; 4]; 2], mask: &[[f64; 4]; 2], dtype: DType) -> (Var, Scores) {
        let tensor = |rows: &[[f64; 4]; 2]| Tensor::new(rows, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let log_probs = Var::from_tensor(&tensor(log_probs)).unwrap();
        let policy = TokenScores::new(log_probs.as_tensor().clone(), tensor(mask)).unwrap();
        (log_probs, Scores::of_pairs(policy, None))
    }

    fn value_and_slopes(log_probs: &Var, scores: &Scores) -> (f64, Vec<Vec<f64>>) {
        let loss = Figa::default().evaluate(scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let slopes = loss.backward().unwrap().get(log_probs).unwrap().to_dtype(DType::F64).unwrap();
        (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), slopes.to_vec2().unwrap())
    }

    #[test]
    fn agrees_with_the_formulas() {
        let name = "figa d/d(old-response ce)";
        let rows = [[-0.4, -1.2, -0.9, f64::NAN], [-0.3, -0.8, -0.55, -0.1]];
        let mask = [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]];
        let (log_probs, scores) = pair(&rows, &mask, DType::F64);
        let (loss, slopes) = value_and_slopes(&log_probs, &scores);
        let vectors = vectors();
        assert!(error(loss, vectors.number(name, "loss").unwrap()) < TOLERANCE, "{loss}");
        // The recorded slopes are those with respect to −log p.
        let expected: Vec<f64> = vectors.list(name, "grad").unwrap().iter().map(|slope| -slope).collect();
        assert!(worst(&slopes[1], &expected) < TOLERANCE, "{slopes:?}");
        assert_eq!(slopes[0], [-0.25, 0.0, -0.25, 0.0]);
        assert_eq!(Figa::default().needs().scored, Scored::Edits);
    }

    #[test]
    fn an_item_without_weighted_tokens_is_zero() {
        let (log_probs, scores) = pair(&[[-1.0; 4], [-2.0; 4]], &[[0.0; 4], [1.0; 4]], DType::F64);
        assert_eq!(value_and_slopes(&log_probs, &scores), (0.0, vec![vec![0.0; 4]; 2]));
    }

    #[test]
    fn the_gate_is_open_at_its_own_value() {
        let (log_probs, scores) = pair(&[[-1.0; 4], [-0.6; 4]], &[[0.0; 4], [1.0, 0.0, 0.0, 0.0]], DType::F64);
        assert_eq!(value_and_slopes(&log_probs, &scores).1[1], [0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn extremes_are_finite() {
        for dtype in [DType::F32, DType::F64] {
            for extreme in [1e4, -1e4] {
                let (log_probs, scores) = pair(&[[extreme; 4], [-extreme; 4]], &[[1.0; 4]; 2], dtype);
                let (loss, slopes) = value_and_slopes(&log_probs, &scores);
                assert!(loss.is_finite() && slopes.concat().iter().all(|slope| slope.is_finite()));
            }
        }
    }
}
