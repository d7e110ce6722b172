//! IPO with a reference that follows the policy

use serde::{Deserialize, Serialize};

use super::{Ipo, Named, check_update, under_name};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::AnchoredPair;

/// Trust-region IPO: the loss is IPO's, and the reference follows the policy.
///
/// # Formula
/// That of [`Ipo`], `(Δ_w − Δ_l − 1/(2β))²`, the mean over pairs. After every `every`-th optimizer step
/// `ref ← α·policy + (1 − α)·ref` on every parameter (see [`ReferenceUpdate`]).
///
/// # Gradient
/// That of [`Ipo`]; none flows through the update. After a hard update the margin is 0 again and the loss jumps back to
/// `1/(4β²)`.
///
/// # When to use
/// As [`TrDpo`](crate::TrDpo), with IPO's bounded target: every update moves the target on by another `1/(2β)`.
///
/// The reference is a second copy of what is trained, all weights or an adapter, and part of every checkpoint. Of an adapter `A` and `B`
/// are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products, as the paper's equation would have
/// it of the weights; after a copy it is the policy's.
///
/// # Source
/// Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 (soft) and 5 (hard). Confidence A for the update, A✓ for the loss,
/// C for the recommended ranges; the paper's `β` for IPO is not verified.
///
/// # Deviations
/// From the paper: `beta` and `reduction` default to those of [`Ipo`]. From TRL: the default is the paper's soft
/// update, `α = 0.6` after every step; TRL pairs `α = 0.6` with an update every 512 steps, which belongs to the hard
/// update.
///
/// # Checked by
/// Properties only, because the loss is [`Ipo`]'s and is checked there; the update: formulas: `tr-dpo soft alpha=0.6`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Reduction, Scores, TokenScores, TrIpo};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let tr_ipo = TrIpo { beta: 0.5, reduction: Reduction::Sum, ..TrIpo::default() };
/// let loss = tr_ipo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 1.0); // (2 − 1)²
/// assert_eq!(Objective::reference_update(&tr_ipo).weight_after(1), Some(0.6));
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrIpo {
    /// Half the inverse of the target margin; positive. Default 0.1: a target of 5 nats.
    pub beta: f64,
    /// Whether log-ratios are sums over tokens or means. Default [`Reduction::Mean`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
    /// How the reference follows. Default [`ReferenceUpdate::Soft`] with `alpha` 0.6 after every step.
    pub update: ReferenceUpdate,
}

impl Default for TrIpo {
    fn default() -> Self {
        let Ipo { beta, reduction, divergence } = Ipo::default();
        Self { beta, reduction, divergence, update: ReferenceUpdate::soft() }
    }
}

impl Named for TrIpo {
    const NAME: &'static str = "tr_ipo";
    const ALIASES: &'static [&'static str] = &["trust_region_ipo"];
    const SUMMARY: &'static str = "IPO with a reference that follows the policy";
}

impl Loss for TrIpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, context: &Context) -> Result<LossTerms> {
        self.ipo().terms(input, context)
    }

    fn validate(&self) -> Result<()> {
        under_name::<Self, _>(Loss::validate(&self.ipo()))?;
        check_update::<Self>(self.update)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.update
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Loss::loss_at_zero_margin(&self.ipo())
    }
}

impl TrIpo {
    fn ipo(&self) -> Ipo {
        Ipo { beta: self.beta, reduction: self.reduction, divergence: self.divergence }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::step_gradient;
    use super::*;

    #[test]
    fn the_loss_is_that_of_ipo() {
        let mut ipo = Ipo { beta: 0.3, reduction: Reduction::Sum, ..Ipo::default() };
        let mut tr_ipo = TrIpo { beta: 0.3, reduction: Reduction::Sum, ..TrIpo::default() };
        let all: [&[usize]; 1] = [&[0, 1, 2, 3]];
        assert_eq!(step_gradient(&mut tr_ipo, &all), step_gradient(&mut ipo, &all));
        assert_eq!(Loss::loss_at_zero_margin(&tr_ipo), Loss::loss_at_zero_margin(&ipo));
        let error = Loss::validate(&TrIpo { beta: -1.0, ..TrIpo::default() }).unwrap_err().to_string();
        assert!(error.starts_with("tr_ipo.beta: got -1"), "{error}");
    }
}
