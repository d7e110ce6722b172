//! `(−(1−ε)·log σ(β·z) + ε·log σ(−β·z)) / (1−2ε)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_label_smoothing};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Robust DPO, an unbiased estimate of the DPO loss under a share `ε` of flipped
/// labels: `(−(1−ε)·log σ(β·z) + ε·log σ(−β·z)) / (1−2ε)` with `z = Δ_w − Δ_l`, the
/// mean over pairs.
///
/// Unbounded below: a large margin pays without end.
///
/// Source: Chowdhury et al. 2024, arXiv 2403.00409, eq. 12. Confidence A✓: agrees with
/// TRL's function (`robust`).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, RobustDpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let robust = RobustDpo { beta: 0.5, label_smoothing: 0.25 };
/// let loss = robust.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 2: (¾·log(1 + e⁻¹) − ¼·log(1 + e)) / ½.
/// assert!((loss.to_scalar::<f64>()? + 0.186_738_312_481_777_2).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RobustDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`. Default 0.1; 0 is [`Dpo`](crate::Dpo).
    pub label_smoothing: f64,
}

impl Default for RobustDpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.1 }
    }
}

impl Named for RobustDpo {
    const NAME: &'static str = "robust_dpo";
    const ALIASES: &'static [&'static str] = &["robust"];
    const SUMMARY: &'static str = "robust DPO: unbiased under a known rate of flipped labels";
}

impl Loss for RobustDpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scaled = (input.log_ratios(Reduction::Sum)?.margins()? * self.beta)?;
        let scale = 1.0 / (1.0 - 2.0 * self.label_smoothing);
        let kept = (log_sigmoid(&scaled)? * (scale * (self.label_smoothing - 1.0)))?;
        let flipped = (log_sigmoid(&scaled.neg()?)? * (scale * self.label_smoothing))?;
        let losses = (kept + flipped)?;
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
