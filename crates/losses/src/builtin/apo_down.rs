//! `σ(β·Δ_w) + 1 − σ(β·(Δ_w − Δ_l))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Anchored preference optimisation for chosen completions that are worse than the policy's own: both fall, the
/// rejected one more.
///
/// # Formula
/// `σ(β·Δ_w) + 1 − σ(β·(Δ_w − Δ_l))`, the mean over pairs, with `Δ = Σ_t (log π − log π_ref)` in nats of the chosen
/// (`w`) and rejected (`l`) completion.
///
/// # Gradient
/// With `σ′(x) = σ(x)·σ(−x)` and `z = Δ_w − Δ_l`: `β·(σ′(β·Δ_w) − σ′(β·z))` for `log π(y_w)`, 0 where policy and
/// reference agree, and `β·σ′(β·z)` for `log π(y_l)`.
///
/// # When to use
/// Where the policy already writes better than the chosen completions, and the order of the two is what it can learn.
/// Otherwise see [`ApoZero`](crate::ApoZero).
///
/// # Source
/// D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8. Confidence A✓.
///
/// # Deviations
/// From the paper and from TRL: none; `1 − σ(x)` is computed as `σ(−x)`.
///
/// # Checked by
/// TRL: `apo_down`. Formulas: `apo_down`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{ApoDown, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let apo = ApoDown { beta: 0.5, ..ApoDown::default() };
/// let loss = apo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Δ_w = 1 and z = 2: σ(½) + σ(−1).
/// assert!((loss.to_scalar::<f64>()? - 0.891_400_752_571_849_7).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApoDown {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for ApoDown {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for ApoDown {
    const NAME: &'static str = "apo_down";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "anchored preference optimisation, both sides down and the rejected one more";
}

impl Loss for ApoDown {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let margins = (log_ratios.margins()? * self.beta)?;
        let losses = (sigmoid(&(log_ratios.chosen * self.beta)?)? + sigmoid(&margins.neg()?)?)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &margins, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("apo_down", ApoDown::default());
    }
}
