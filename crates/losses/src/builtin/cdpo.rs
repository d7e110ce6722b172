//! `−(1−ε)·log σ(β·z) − ε·log σ(−β·z)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_label_smoothing};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Conservative DPO, for labels of which a share `ε` is flipped:
/// `−(1−ε)·log σ(β·z) − ε·log σ(−β·z)` with `z = Δ_w − Δ_l`, the mean over pairs.
///
/// The gradient vanishes at `z* = log((1−ε)/ε)/β`: unlike [`RobustDpo`](crate::RobustDpo)
/// the margin has a finite target and the loss is bounded below.
///
/// Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".
/// Confidence A✓. TRL has lost it: its `sigmoid` ignores label smoothing.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Cdpo, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let cdpo = Cdpo { beta: 0.5, label_smoothing: 0.25 };
/// let loss = cdpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 2: ¾·log(1 + e⁻¹) + ¼·log(1 + e).
/// assert!((loss.to_scalar::<f64>()? - 0.563_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cdpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`. Default 0.1; 0 is [`Dpo`](crate::Dpo).
    pub label_smoothing: f64,
}

impl Default for Cdpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.1 }
    }
}

impl Named for Cdpo {
    const NAME: &'static str = "cdpo";
    const ALIASES: &'static [&'static str] = &["conservative_dpo"];
    const SUMMARY: &'static str = "conservative DPO: label smoothing, with a finite target for the margin";
}

impl Loss for Cdpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scaled = (input.log_ratios(Reduction::Sum)?.margins()? * self.beta)?;
        let kept = (log_sigmoid(&scaled)? * (self.label_smoothing - 1.0))?;
        let flipped = (log_sigmoid(&scaled.neg()?)? * self.label_smoothing)?;
        let losses = (kept - flipped)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}
