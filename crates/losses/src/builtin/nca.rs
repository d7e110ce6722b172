//! `−log σ(β·Δ_w) − ½·log σ(−β·Δ_w) − ½·log σ(−β·Δ_l)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Noise contrastive alignment on pairs: absolute rewards, so that the chosen completion stays likely.
///
/// # Formula
/// `−log σ(β·Δ_w) − ½·log σ(−β·Δ_w) − ½·log σ(−β·Δ_l)`, the mean over pairs, with `Δ = Σ_t (log π − log π_ref)` in
/// nats of the chosen (`w`) and rejected (`l`) completion.
///
/// # Gradient
/// `β·(3/2·σ(β·Δ_w) − 1)` for `log π(y_w)`, which vanishes at `Δ_w = log 2/β`, and `½·β·σ(β·Δ_l)` for `log π(y_l)`.
/// Each side is moved for itself: the chosen completion rises to its target whatever becomes of the other.
///
/// # When to use
/// Where [`Dpo`](crate::Dpo) lets the likelihood of chosen completions fall, as on reasoning data.
///
/// # Source
/// Chen et al. 2024, arXiv 2402.05369, the case of two completions. Confidence A✓.
///
/// # Deviations
/// From the paper: only pairs, the better completion with weight 1. From TRL: none.
///
/// # Checked by
/// TRL: `nca_pair`. Formulas: `nca`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Nca, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let nca = Nca { beta: 0.5, ..Nca::default() };
/// let loss = nca.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Δ_w = 1 and Δ_l = −1: 3/2·log(1 + e^−½) + ½·log(1 + e^½).
/// assert!((loss.to_scalar::<f64>()? - 1.198_153_968_360_213_4).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nca {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Nca {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for Nca {
    const NAME: &'static str = "nca";
    const ALIASES: &'static [&'static str] = &["nca_pair"];
    const SUMMARY: &'static str = "noise contrastive alignment: absolute rewards of both sides of a pair";
}

impl Loss for Nca {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let (chosen, rejected) = ((&log_ratios.chosen * self.beta)?, (&log_ratios.rejected * self.beta)?);
        let noise = ((log_sigmoid(&chosen.neg()?)? + log_sigmoid(&rejected.neg()?)?)? * 0.5)?;
        let losses = (log_sigmoid(&chosen)? + noise)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(chosen - rejected)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(2.0 * std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("nca", Nca::default());
    }
}
