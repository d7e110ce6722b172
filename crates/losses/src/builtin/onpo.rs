//! `(z − η/2)²`

use serde::{Deserialize, Serialize};

use super::{Named, check_reduction, in_range, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// One step of optimistic online mirror descent: a regression of the margin on half a step length.
///
/// # Formula
/// `(z − η/2)²` with `z = Δ_w − Δ_l` in nats, the mean over pairs. The reference is the policy of the step before.
///
/// # Gradient
/// `2·(z − η/2)` for `log π(y_w)` and the opposite for `log π(y_l)`: linear in the residual and unbounded.
///
/// # When to use
/// Rounds of self-play: sample pairs from the current policy, let a preference model rank them, and train twice on
/// them: once with the last reference, then with the policy that came out of it as the reference. This is one such
/// training; it is [`Ipo`](crate::Ipo) of sums with `β = 1/η`, under the step's own parameter.
///
/// # Source
/// Zhang et al. 2025 (Optimistic Nash Policy Optimization), arXiv 2502.16852. The
/// formula was read in the paper's text; the step length `η` of its experiments was not recorded, and 1 is no published
/// default. Confidence B.
///
/// # Deviations
/// From the paper: one step of a round; who trains changes the reference. TRL has no such loss.
///
/// # Checked by
/// Formulas: `onpo one step eta=1`, `ipo sum tau=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Onpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = Onpo { eta: 1.0, ..Onpo::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 2.25); // (2 − ½)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Onpo {
    /// `η`, the length of the step: twice the target of the margin in nats; positive. Default 1.
    pub eta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Onpo {
    fn default() -> Self {
        Self { eta: 1.0, reduction: Reduction::Sum }
    }
}

impl Named for Onpo {
    const NAME: &'static str = "onpo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "a step of optimistic mirror descent on preferences: (z − η/2)²";
}

impl Loss for Onpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(self.reduction)?.margins()?;
        let losses = (&margins - self.eta / 2.0)?.sqr()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]);
        // The β of which the target is 1/(2β).
        let beta = 1.0 / self.eta;
        let terms = terms.with_rewards(input.rewards(beta)?);
        with_margins(terms, &(margins * beta)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        in_range::<Self>("eta", self.eta, self.eta.is_finite() && self.eta > 0.0, "a positive number")?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some((self.eta / 2.0).powi(2))
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("onpo one step eta=1", Onpo::default());
        check_pairs("ipo sum tau=0.1", Onpo { eta: 10.0, ..Onpo::default() });
    }
}
