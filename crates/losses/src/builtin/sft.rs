//! `−Σ log p / Σ tokens`

use serde::{Deserialize, Serialize};

use super::Named;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::Demonstrations;

/// Supervised fine-tuning: the negative log-likelihood of the demonstrations in nats
/// a token, `−Σ log p / Σ tokens`, both sums over the whole optimizer step.
///
/// Demonstrations are those of the data; of pairs, the chosen completions; of
/// labelled rows, the desirable ones. No reference is read.
///
/// Source: the usual token mean; TRL's `sft` branch of DPO is the same over one
/// micro-batch. Confidence A✓.
///
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
