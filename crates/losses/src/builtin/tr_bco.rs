//! BCO with a reference that follows the policy

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Bco, Named, RewardMeans, RewardShift, check_update, under_name};
use crate::error::Result;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::numbers::Numbers;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::udm::DensityRatio;
use crate::view::{AnchoredLabels, StepWide};

/// Trust-region BCO: the loss is BCO's, and the reference follows the policy.
///
/// # Formula
/// That of [`Bco`], `−log σ(r − δ)` and `−w·log σ(−(r − δ))`, the mean over rows. After every `every`-th optimizer step
/// `ref ← α·policy + (1 − α)·ref` on every parameter (see [`ReferenceUpdate`]).
///
/// # Gradient
/// That of [`Bco`]; none flows through the update. After a hard update all rewards are 0 again, and `δ` is not.
///
/// # When to use
/// As [`TrDpo`](crate::TrDpo), for single completions with a verdict, where no second pass for KTO's mismatched
/// completions is wanted. `δ` is a mean over rewards about references that are gone: with hard updates the shift
/// `{ balanced_ema = { decay = 0.9 } }` forgets them.
///
/// The reference is a second copy of what is trained, all weights or an adapter, and part of every checkpoint. Of an adapter `A` and `B`
/// are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products, as the paper's equation would have
/// it of the weights; after a copy it is the policy's.
///
/// # Source
/// Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 (soft) and 5 (hard). Confidence A for the update, A✓ for the loss,
/// C for the recommended ranges; the paper has no BCO.
///
/// # Deviations
/// From the paper: the loss is not one of its three. From TRL: its trainer for BCO moves no reference.
///
/// # Checked by
/// Properties only, because the loss is [`Bco`]'s and is checked there; the update: formulas: `tr-dpo soft alpha=0.6`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Objective, Phase, Scores, Solo, StepScores, TokenScores, TrBco};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-1.0]], &Device::Cpu)?)?;
/// let step = [Scores::of_labelled(policy, Some(reference), &[true, false])];
/// let mut tr_bco = TrBco { beta: 1.0, ..TrBco::default() };
/// let context = tr_bco.prepare(&StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// let loss = tr_bco.evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?;
/// // Rewards 1 and −3, so δ = −1 and both rows are 2 away from it.
/// assert!((loss.to_scalar::<f64>()? - 0.126_928_011_042_972_5).abs() < 1e-15);
/// assert_eq!(Objective::reference_update(&tr_bco).weight_after(1), Some(0.6));
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrBco {
    /// Reward of a nat of log-ratio; positive. Default 0.1.
    pub beta: f64,
    /// What rewards are compared with. Default [`RewardShift::Cumulative`].
    pub shift: RewardShift,
    /// Weights of undesirable rows by their prompts, as in [`Bco`]. Default none: all weigh 1.
    pub density_ratio: Option<DensityRatio>,
    /// How the reference follows. Default [`ReferenceUpdate::Soft`] with `alpha` 0.6 after every step.
    pub update: ReferenceUpdate,
    /// The rewards seen in training: state of a run, not of its configuration.
    #[serde(skip)]
    pub seen: RewardMeans,
}

impl Default for TrBco {
    fn default() -> Self {
        let Bco { beta, shift, density_ratio, seen } = Bco::default();
        Self { beta, shift, density_ratio, update: ReferenceUpdate::soft(), seen }
    }
}

impl Named for TrBco {
    const NAME: &'static str = "tr_bco";
    const ALIASES: &'static [&'static str] = &["trust_region_bco"];
    const SUMMARY: &'static str = "BCO with a reference that follows the policy";
}

impl Loss for TrBco {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, context: &Context) -> Result<LossTerms> {
        self.bco().terms(input, context)
    }

    fn validate(&self) -> Result<()> {
        under_name::<Self, _>(Loss::validate(&self.bco()))?;
        check_update::<Self>(self.update)
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let mut bco = self.bco();
        let prepared = under_name::<Self, _>(Loss::prepare(&mut bco, step, phase));
        self.seen = bco.seen;
        prepared
    }

    fn step_wide(&self) -> StepWide {
        Loss::step_wide(&self.bco())
    }

    fn numbers(&self) -> Numbers {
        Loss::numbers(&self.bco())
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.update
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Loss::loss_at_zero_margin(&self.bco())
    }

    fn state(&self) -> Option<Value> {
        Loss::state(&self.bco())
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let mut bco = self.bco();
        Loss::restore(&mut bco, state)?;
        self.seen = bco.seen;
        Ok(())
    }
}

impl TrBco {
    fn bco(&self) -> Bco {
        Bco { beta: self.beta, shift: self.shift, density_ratio: self.density_ratio, seen: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{Objective, Scores, Solo, TokenScores};

    /// Two desirable and two undesirable rows of one token, with log-ratios about `shift`.
    fn rows(shift: f64) -> Scores {
        let log_probs = [[shift - 1.0], [shift + 0.5], [shift - 0.25], [shift - 2.0]];
        let policy = TokenScores::unmasked(Tensor::new(&log_probs, &Device::Cpu).unwrap()).unwrap();
        let zeros = TokenScores::unmasked(policy.log_probs().zeros_like().unwrap()).unwrap();
        Scores::of_labelled(policy, Some(zeros), &[true, true, false, false])
    }

    fn loss(objective: &mut impl Objective, scores: &Scores) -> f64 {
        let step = StepScores { micro: std::slice::from_ref(scores), collective: &Solo };
        let context = objective.prepare(&step, Phase::Train).unwrap();
        let terms = objective.evaluate(scores, &context.micro(0)).unwrap();
        terms.loss(&scores.totals()).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn loss_shift_and_state_are_those_of_bco() {
        let shift = RewardShift::BalancedEma { decay: 0.5 };
        let mut bco = Bco { beta: 0.3, shift, ..Bco::default() };
        let mut tr_bco = TrBco { beta: 0.3, shift, ..TrBco::default() };
        for step in 0..3 {
            let scores = rows(f64::from(step));
            assert_eq!(loss(&mut tr_bco, &scores).to_bits(), loss(&mut bco, &scores).to_bits());
            assert_ne!(tr_bco.seen, RewardMeans::default());
            assert_eq!(Objective::state(&tr_bco), Objective::state(&bco));
        }
        let mut again = TrBco { seen: RewardMeans::default(), ..tr_bco };
        Objective::restore(&mut again, &Objective::state(&bco).unwrap()).unwrap();
        assert_eq!(again, tr_bco);
    }

    #[test]
    fn errors_have_its_own_name() {
        let none = StepScores { micro: &[], collective: &Solo };
        let error = Objective::prepare(&mut TrBco::default(), &none, Phase::Train).unwrap_err().to_string();
        assert!(error.starts_with("tr_bco: the step holds no labelled rows"), "{error}");
        let decay = TrBco { shift: RewardShift::BalancedEma { decay: 1.0 }, ..TrBco::default() };
        let error = Loss::validate(&decay).unwrap_err().to_string();
        assert!(error.starts_with("tr_bco.shift.decay: got 1"), "{error}");
    }
}
