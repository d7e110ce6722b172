//! KTO with a reference that follows the policy

use serde::{Deserialize, Serialize};

use super::{Kto, Named, check_update, under_name};
use crate::error::Result;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::{AnchoredLabels, StepWide};

/// Trust-region KTO: the loss is KTO's, and the reference follows the policy.
///
/// # Formula
/// That of [`Kto`], `λ·(1 − σ(±β·(Δ − z₀)))`, the mean over rows. After every `every`-th optimizer step
/// `ref ← α·policy + (1 − α)·ref` on every parameter (see [`ReferenceUpdate`]).
///
/// # Gradient
/// That of [`Kto`]; none flows through the update. After a hard update all log-ratios and `z₀` are 0 again.
///
/// # When to use
/// As [`TrDpo`](crate::TrDpo), for single completions with a verdict. A soft update also keeps `z₀` small, so that
/// KTO's slope, which falls on both sides of `z₀`, does not vanish as the policy moves.
///
/// The reference is a second copy of what is trained, all weights or an adapter, and part of every checkpoint. Of an adapter `A` and `B`
/// are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products, as the paper's equation would have
/// it of the weights; after a copy it is the policy's.
///
/// # Source
/// Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 (soft) and 5 (hard). Confidence A for the update, A✓ for the loss,
/// C for the recommended ranges; the paper's `β` for KTO is not verified.
///
/// # Deviations
/// From the paper: `beta` and the weights default to those of [`Kto`]; the reference point is that of [`Kto`]. From
/// TRL: the default is the paper's soft update, `α = 0.6` after every step; TRL pairs `α = 0.6` with an update every
/// 512 steps, which belongs to the hard update.
///
/// # Checked by
/// Properties only, because the loss is [`Kto`]'s and is checked there; the update: formulas: `tr-dpo soft alpha=0.6`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, TokenScores, TrKto};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let tr_kto = TrKto { beta: 1.0, ..TrKto::default() };
/// let context = Context::default().with_scalar("kl", 0.5);
/// let loss = tr_kto.evaluate(&scores, &context)?.loss(&scores.totals())?;
/// // ½·(σ(−0.5) + σ(−2.5))
/// assert!((loss.to_scalar::<f64>()? - 0.226_699_424_409_694_5).abs() < 1e-15);
/// assert_eq!(Objective::reference_update(&tr_kto).weight_after(1), Some(0.6));
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrKto {
    /// Steepness of the value function, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `λ_D`, at least 0. Default 1.
    pub desirable_weight: f64,
    /// `λ_U`, at least 0. Default 1.
    pub undesirable_weight: f64,
    /// How the reference follows. Default [`ReferenceUpdate::Soft`] with `alpha` 0.6 after every step.
    pub update: ReferenceUpdate,
}

impl Default for TrKto {
    fn default() -> Self {
        let Kto { beta, desirable_weight, undesirable_weight } = Kto::default();
        Self { beta, desirable_weight, undesirable_weight, update: ReferenceUpdate::soft() }
    }
}

impl Named for TrKto {
    const NAME: &'static str = "tr_kto";
    const ALIASES: &'static [&'static str] = &["trust_region_kto"];
    const SUMMARY: &'static str = "KTO with a reference that follows the policy";
}

impl Loss for TrKto {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, context: &Context) -> Result<LossTerms> {
        self.kto().terms(input, context)
    }

    fn validate(&self) -> Result<()> {
        under_name::<Self, _>(Loss::validate(&self.kto()))?;
        check_update::<Self>(self.update)
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        under_name::<Self, _>(Loss::prepare(&mut self.kto(), step, phase))
    }

    fn step_wide(&self) -> StepWide {
        Loss::step_wide(&self.kto())
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.update
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Loss::loss_at_zero_margin(&self.kto())
    }
}

impl TrKto {
    fn kto(&self) -> Kto {
        Kto { beta: self.beta, desirable_weight: self.desirable_weight, undesirable_weight: self.undesirable_weight }
    }
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::FormulaVectors;

    use super::super::vectors::{check_labelled, vectors};
    use super::*;
    use crate::{Objective, Solo};

    #[test]
    fn the_loss_is_that_of_kto() {
        let recorded: FormulaVectors = vectors();
        assert!(recorded.number("kto", "loss").is_some());
        check_labelled("kto", TrKto::default());
    }

    #[test]
    fn errors_have_its_own_name() {
        let none = StepScores { micro: &[], collective: &Solo };
        let error = Objective::prepare(&mut TrKto::default(), &none, Phase::Train).unwrap_err().to_string();
        assert!(error.starts_with("tr_kto: the step holds no mismatched completions"), "{error}");
        let error = Loss::validate(&TrKto { beta: -1.0, ..TrKto::default() }).unwrap_err().to_string();
        assert!(error.starts_with("tr_kto.beta: got -1"), "{error}");
    }
}
