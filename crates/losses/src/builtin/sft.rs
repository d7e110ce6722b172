//! `−Σ log p / Σ tokens`

use serde::{Deserialize, Serialize};

use super::Named;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::Demonstrations;

/// Supervised fine-tuning: the negative log-likelihood of the demonstrations.
///
/// # Formula
/// `−Σ log p / Σ tokens` in nats a token, both sums over the scored tokens of all demonstrations of the whole
/// optimizer step. Demonstrations are those of the data; of pairs, the chosen completions; of labelled rows, the
/// desirable ones; of ranked completions, the best of each prompt; of judged ones, those whose judgment is good. No
/// reference is read.
///
/// # Gradient
/// `−1/Σ tokens` for every scored `log p`: long demonstrations weigh more than short ones.
///
/// # When to use
/// Before preference optimisation, and as a part of a mix that keeps the chosen completions likely.
///
/// # Source
/// The usual token mean; TRL's `sft` branch of DPO. Confidence A✓.
///
/// # Deviations
/// From TRL: the mean runs over the optimizer step, not over one micro-batch.
///
/// # Checked by
/// TRL: `sft`, `sigmoid + sft`, `sigmoid + bco_pair + sft`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, Sft, TokenScores};
/// let log_probs = Tensor::new(&[[-1.0f64, -2.0], [-6.0, 0.0]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1.0f64, 1.0], [1.0, 0.0]], &Device::Cpu)?;
/// let scores = Scores::of_demonstrations(TokenScores::new(log_probs, mask)?);
/// let loss = Sft {}.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 3.0); // 9 nats over 3 tokens
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sft {}

impl Named for Sft {
    const NAME: &'static str = "sft";
    const ALIASES: &'static [&'static str] = &["nll"];
    const SUMMARY: &'static str = "supervised fine-tuning: negative log-likelihood a token of the demonstrations";
}

impl Loss for Sft {
    type Input = Demonstrations;

    fn terms(&self, input: &Demonstrations, _: &Context) -> Result<LossTerms> {
        let numerator = input.sums()?.neg()?;
        Ok(LossTerms::new([Term {
            name: Self::NAME,
            numerator,
            normaliser: Normaliser::DemonstrationTokens,
            weight: 1.0,
        }]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::pairs;
    use super::*;
    use crate::Objective;

    #[test]
    fn of_pairs_the_chosen_completions_are_imitated() {
        let (log_probs, scores) = pairs();
        let value = Sft {}.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        // The recorded chosen completions have 5, 3, 6 and 4 tokens and sum to −4.6, −2.75, −5.75 and −5.4.
        assert!((value.to_scalar::<f64>().unwrap() - 18.5 / 18.0).abs() < 1e-15);
        let gradient = value.backward().unwrap().remove(&log_probs).unwrap().to_vec2::<f64>().unwrap();
        let expected = |row: usize, slot: usize| {
            if row < 4 && slot < scores.policy.lengths()[row] { -1.0 / 18.0 } else { 0.0 }
        };
        for (row, slots) in gradient.iter().enumerate() {
            for (slot, got) in slots.iter().enumerate() {
                assert!((got - expected(row, slot)).abs() < 1e-15, "row {row}, slot {slot}: {got}");
            }
        }
    }
}
