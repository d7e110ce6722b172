//! `max(0, 1 − β·z)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_divergence, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Hinge on the implicit reward margin: a pair counts until its margin is wide enough.
///
/// # Formula
/// `max(0, 1 − β·z)` with `z = s(Δ_w) − s(Δ_l)` in nats, the mean over pairs. `Δ = Σ_t (log π − log π_ref)` of the
/// chosen (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`], the identity by default.
///
/// # Gradient
/// `−β` for `z` below `1/β` and 0 from there on, the edge included.
///
/// # When to use
/// Where pairs that are already told apart should be left alone.
///
/// # Source
/// Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425, without a reference; with one, Liu et al. 2023 (RSO), arXiv
/// 2309.06657. Confidence A✓.
///
/// # Deviations
/// From RSO: none. From SLiC-HF: log-ratios in the place of log-probabilities, and its cross-entropy term is a part of
/// its own: a mix with [`Sft`](crate::Sft).
///
/// # Checked by
/// TRL: `hinge`. Formulas: `hinge`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Hinge, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let hinge = Hinge { beta: 0.25, ..Hinge::default() };
/// let loss = hinge.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 0.5); // z = 2
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hinge {
    /// The inverse of the margin in nats beyond which a pair no longer counts; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Hinge {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
    }
}

impl Named for Hinge {
    const NAME: &'static str = "hinge";
    const ALIASES: &'static [&'static str] = &["rso"];
    const SUMMARY: &'static str = "hinge on the reward margin: max(0, 1 − β·(Δ_w − Δ_l))";
}

impl Loss for Hinge {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let losses = positive_part(&margins.affine(-1.0, 1.0)?)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &margins, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
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
        check_pairs("hinge", Hinge::default());
    }
}
