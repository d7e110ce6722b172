//! DPO with a reference that follows the policy

use serde::{Deserialize, Serialize};

use super::{Dpo, Named, check_update, under_name};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::AnchoredPair;

/// Trust-region DPO: the loss is DPO's, and the reference follows the policy.
///
/// # Formula
/// That of [`Dpo`], `−log σ(β·z)`, the mean over pairs. After every `every`-th optimizer step
/// `ref ← α·policy + (1 − α)·ref` on every parameter (see [`ReferenceUpdate`]).
///
/// # Gradient
/// That of [`Dpo`]; none flows through the update. After a hard update `z` is 0 again and the loss jumps back to `ln
/// 2`: do not steer a schedule by the loss.
///
/// # When to use
/// When DPO drifts far from its reference before it is done, or pushes down both log-probabilities. Log-probabilities
/// of the reference cannot be computed once and kept.
///
/// The reference is a second copy of what is trained, all weights or an adapter, and part of every checkpoint. Of an adapter `A` and `B`
/// are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products, as the paper's equation would have
/// it of the weights; after a copy it is the policy's.
///
/// # Source
/// Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 (soft) and 5 (hard). Confidence A for the update, A✓ for the loss,
/// C for the recommended ranges: `α` 0.5 to 0.7 with updates as often as every step, or hard updates every 32 to 512
/// steps.
///
/// # Deviations
/// From the paper: none known. From TRL: the default is the paper's soft update, `α = 0.6` after every step; TRL pairs
/// `α = 0.6` with an update every 512 steps, which belongs to the hard update, and has `beta` 0.1. The published
/// `beta` of 0.05 is the default here.
///
/// # Checked by
/// Properties only, because the loss is [`Dpo`]'s and is checked there; the update: formulas: `tr-dpo soft alpha=0.6`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, ReferenceUpdate, Scores, TokenScores, TrDpo};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let tr_dpo = TrDpo { beta: 0.5, update: ReferenceUpdate::Hard { every: 64 }, ..TrDpo::default() };
/// let loss = tr_dpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 1 − (−1) = 2, so the loss is log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// assert_eq!(Objective::reference_update(&tr_dpo).weight_after(64), Some(1.0));
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.05.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
    /// How the reference follows. Default [`ReferenceUpdate::Soft`] with `alpha` 0.6 after every step.
    pub update: ReferenceUpdate,
}

impl Default for TrDpo {
    fn default() -> Self {
        Self {
            beta: 0.05,
            reduction: Reduction::Sum,
            divergence: Divergence::ReverseKl,
            update: ReferenceUpdate::soft(),
        }
    }
}

impl Named for TrDpo {
    const NAME: &'static str = "tr_dpo";
    const ALIASES: &'static [&'static str] = &["trust_region_dpo"];
    const SUMMARY: &'static str = "DPO with a reference that follows the policy";
}

impl Loss for TrDpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, context: &Context) -> Result<LossTerms> {
        self.dpo().terms(input, context)
    }

    fn validate(&self) -> Result<()> {
        under_name::<Self, _>(Loss::validate(&self.dpo()))?;
        check_update::<Self>(self.update)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.update
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Loss::loss_at_zero_margin(&self.dpo())
    }
}

impl TrDpo {
    fn dpo(&self) -> Dpo {
        Dpo { beta: self.beta, reduction: self.reduction, divergence: self.divergence }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::step_gradient;
    use super::*;
    use crate::Error;

    #[test]
    fn the_loss_is_that_of_dpo() {
        let mut dpo = Dpo { beta: 0.3, reduction: Reduction::Mean, divergence: Divergence::JensenShannon };
        let mut tr_dpo =
            TrDpo { beta: 0.3, reduction: Reduction::Mean, divergence: Divergence::JensenShannon, ..TrDpo::default() };
        let all: [&[usize]; 1] = [&[0, 1, 2, 3]];
        assert_eq!(step_gradient(&mut tr_dpo, &all), step_gradient(&mut dpo, &all));
    }

    #[test]
    fn what_is_out_of_range_is_named_as_it_was_written() {
        let wrong = |loss: TrDpo| Loss::validate(&loss).unwrap_err().to_string();
        assert!(wrong(TrDpo { beta: 0.0, ..TrDpo::default() }).starts_with("tr_dpo.beta: got 0"));
        let alpha = ReferenceUpdate::Soft { alpha: 1.5, every: 1 };
        assert!(wrong(TrDpo { update: alpha, ..TrDpo::default() }).starts_with("tr_dpo.update.alpha: got 1.5"));
        let never = TrDpo { update: ReferenceUpdate::Hard { every: 0 }, ..TrDpo::default() };
        assert!(matches!(Loss::validate(&never), Err(Error::Parameter { parameter: "update.every", .. })));
        let read: TrDpo = serde_json::from_str(r#"{ "update": { "hard": { "every": 8 } } }"#).unwrap();
        assert_eq!(read.update, ReferenceUpdate::Hard { every: 8 });
    }
}
