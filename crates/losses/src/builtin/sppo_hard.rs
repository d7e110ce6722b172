//! `(Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Self-play preference optimisation with hard labels: each side's log-ratio is fitted to a target of its own.
///
/// # Formula
/// `(Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²`, the mean over pairs, with `Δ = Σ_t (log π − log π_ref)` in nats of the chosen
/// (`w`) and rejected (`l`) completion. It is the paper's `(Δ − η·(P − ½))²` with `η = 1/β` and the winning probability
/// `P` set to 1 for the chosen and to 0 for the rejected completion.
///
/// # Gradient
/// `2·(Δ_w − 1/(2β))` and `2·(Δ_l + 1/(2β))`: linear in the residuals and unbounded, so clip it. The chosen completion
/// is pushed up and the other down, each for itself.
///
/// # When to use
/// On completions that the policy itself wrote, round by round, the reference being the policy at the start of the
/// round.
///
/// # Source
/// Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with hard labels. Confidence A✓ for the formula; the default of `β` is
/// TRL's, and that of the paper's own runs is not verified.
///
/// # Deviations
/// From the paper: no estimated winning probabilities. From TRL: none; log-ratios are sums there too.
///
/// # Checked by
/// TRL: `sppo_hard`. Formulas: `sppo_hard`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, SppoHard, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let sppo = SppoHard { beta: 0.25, ..SppoHard::default() };
/// let loss = sppo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 2.0); // (1 − 2)² + (−1 + 2)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SppoHard {
    /// Half the inverse of the target of either side; positive. Default 0.1: targets of ±5 nats.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for SppoHard {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for SppoHard {
    const NAME: &'static str = "sppo_hard";
    const ALIASES: &'static [&'static str] = &["sppo"];
    const SUMMARY: &'static str = "self-play preference optimisation, hard labels: (Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²";
}

impl Loss for SppoHard {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let winner = (&log_ratios.chosen - self.target())?.sqr()?;
        let loser = (&log_ratios.rejected + self.target())?.sqr()?;
        let losses = (winner + loser)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(log_ratios.margins()? * self.beta)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(2.0 * self.target().powi(2))
    }
}

impl SppoHard {
    fn target(&self) -> f64 {
        0.5 / self.beta
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("sppo_hard", SppoHard::default());
    }
}
