//! `(h − 1/(2β))²`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_divergence, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Identity preference optimisation: a least-squares fit of the margin to a fixed target.
///
/// # Formula
/// `(h − 1/(2β))²` with `h = s(Δ_w)/n_w − s(Δ_l)/n_l` in nats a token, the mean over pairs. `Δ = Σ_t (log π − log
/// π_ref)` of the chosen (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`], the identity by
/// default, and `n` the scored tokens of a side. With `reduction = "sum"` nothing is divided and `h` is in nats. The
/// paper writes `β` as `τ`.
///
/// # Gradient
/// `2·(h − 1/(2β))` for `h`: linear in the residual and unbounded, so clip it. Under the mean each side's share is
/// divided by its own length, and the two do not cancel.
///
/// # When to use
/// Where [`Dpo`](crate::Dpo) overfits labels that never disagree. Two readings of `h` are in use, and the target is
/// far easier to reach under one than under the other: `reduction = "mean"` (TRL, HALOs) and `"sum"` (the DPO authors'
/// code, OpenRLHF).
///
/// # Source
/// Azar et al. 2023, arXiv 2310.12036, eq. 17. Confidence A✓ for both readings.
///
/// # Deviations
/// From the paper: it does not mention the division by the length, which its authors confirmed to TRL. From TRL:
/// exponentials of divergences are continued by their tangent (see [`Divergence`]).
///
/// # Checked by
/// TRL: `ipo`. Formulas: `ipo sum tau=0.1`, `ipo length-averaged tau=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Ipo, Objective, Reduction, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = |reduction| {
///     let ipo = Ipo { beta: 0.5, reduction, ..Ipo::default() };
///     ipo.evaluate(&scores, &Context::default())?.loss(&scores.totals())
/// };
/// assert_eq!(loss(Reduction::Sum)?.to_scalar::<f64>()?, 1.0); // (2 − 1)²
/// assert_eq!(loss(Reduction::Mean)?.to_scalar::<f64>()?, 0.0); // (1 − 1)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ipo {
    /// Half the inverse of the target margin; positive. Default 0.1: a target of 5 nats.
    pub beta: f64,
    /// Whether scores are sums over tokens or divided by their number. Default [`Reduction::Mean`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Mean, divergence: Divergence::ReverseKl }
    }
}

impl Named for Ipo {
    const NAME: &'static str = "ipo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "identity preference optimisation: (Δ_w − Δ_l − 1/(2β))², of means or sums";
}

impl Loss for Ipo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.divergence_scores(self.divergence, self.reduction)?.margins()?;
        let losses = (&margins - self.target())?.sqr()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(margins * self.beta)?, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(self.target().powi(2))
    }
}

impl Ipo {
    fn target(&self) -> f64 {
        1.0 / (2.0 * self.beta)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("ipo sum tau=0.1", Ipo { reduction: Reduction::Sum, ..Ipo::default() });
        check_pairs("ipo length-averaged tau=0.1", Ipo::default());
    }
}
