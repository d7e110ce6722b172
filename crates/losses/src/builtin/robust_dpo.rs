//! `(−(1−ε)·log σ(β·z) + ε·log σ(−β·z)) / (1−2ε)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_divergence, check_label_smoothing, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Robust DPO: an unbiased estimate of the DPO loss under a known share of flipped labels.
///
/// # Formula
/// `(−(1−ε)·log σ(β·z) + ε·log σ(−β·z)) / (1−2ε)` with `z = s(Δ_w) − s(Δ_l)` in nats, the mean over pairs. `Δ = Σ_t
/// (log π − log π_ref)` of the chosen (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`], the
/// identity by default. `ε = 0` is [`Dpo`](crate::Dpo).
///
/// # Gradient
/// `−β·(1−ε − (1−2ε)·σ(β·z))/(1−2ε)` for `z`: at least `β·ε/(1−2ε)` in size however large the margin is. The loss is
/// unbounded below: a large margin pays without end.
///
/// # When to use
/// Where the share of wrong labels is known. Where it is a guess, [`Cdpo`](crate::Cdpo) is the safer one.
///
/// # Source
/// Chowdhury et al. 2024, arXiv 2403.00409, eq. 12. Confidence A✓.
///
/// # Deviations
/// From the paper: none. From TRL: `ε` beyond `[0, 0.5)` is an error, where TRL warns and divides by what is left.
///
/// # Checked by
/// TRL: `robust`. Formulas: `robust eps=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, RobustDpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let robust = RobustDpo { beta: 0.5, label_smoothing: 0.25, ..RobustDpo::default() };
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
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for RobustDpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.1, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
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
        let scaled = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let scale = 1.0 / (1.0 - 2.0 * self.label_smoothing);
        let kept = (log_sigmoid(&scaled)? * (scale * (self.label_smoothing - 1.0)))?;
        let flipped = (log_sigmoid(&scaled.neg()?)? * (scale * self.label_smoothing))?;
        let losses = (kept + flipped)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &scaled, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("robust eps=0.1", RobustDpo::default());
    }

    #[test]
    fn without_flipped_labels_it_is_dpo() {
        check_pairs("dpo", RobustDpo { label_smoothing: 0.0, ..RobustDpo::default() });
    }
}
