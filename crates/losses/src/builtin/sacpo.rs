//! `−log σ((β/λ)·z)` on pairs of safety, with the helpful model as the reference

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, in_range, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Stepwise alignment for constrained policy optimisation, its second stage: DPO on pairs of safety from a model that
/// was made helpful, held to it by `β/λ`.
///
/// # Formula
/// `−log σ((β/λ)·z)` with `z = Δ_w − Δ_l` in nats, where the chosen side is the safer one and `Δ` is against the
/// *helpful* model: the reference is what the first stage made, and not what that started from. The mean over pairs.
///
/// # Gradient
/// `−(β/λ)·σ(−(β/λ)·z)` for `log π(y_w)` and the opposite for `log π(y_l)`. As `λ → 0` it vanishes wherever the order
/// is right already, and grows without bound where it is not.
///
/// # When to use
/// Labels of helpfulness and of safety, and no score models: train `dpo` on the first, then this on the second
/// (`data.criterion = "safer"`), from that model and with it as the reference. Of a model that is trained whole that
/// is the reference if no other is named; an adapter of the first stage must be merged before the second, whose
/// reference would be the base without it. `β` is that of the first stage, and `λ` what a unit of cost is worth in
/// reward. If both stages are exact, so is the result: `π ∝ π_ref·exp((r − λ·c)/β)`, in either order of the stages.
/// Log-probabilities of a reference that were cached in the first stage are not those of the second.
///
/// # Source
/// Wachi et al. 2024 (SACPO), arXiv 2404.11049, and the authors' code, which trains with `β/λ` of 0.1, 0.05, 0.025 and
/// 0.01. The inner step of primal-dual DPO (arXiv 2510.05703, hence the alias) is the same loss, with `λ` moved
/// between fits. Confidence A✓.
///
/// # Deviations
/// `β` and `λ` stand apart, where the code has their quotient. The first stage is `dpo` or `kto`; a second stage by
/// KTO is `kto` with a `beta` of `β/λ`. P-SACPO averages the weights of both stages: `wick merge`.
///
/// # Checked by
/// Formulas: `sacpo step 2 beta/lambda=0.025`. That it is primal-dual DPO and MODPO, and that its optimum is the
/// Lagrangian's: `tests/safe_rlhf`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Sacpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let helpful = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(helpful));
/// let sacpo = Sacpo { beta: 1.0, lambda: 2.0, ..Sacpo::default() };
/// let loss = sacpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // ½·2 = 1: log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sacpo {
    /// Weight of the divergence in the first stage, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `λ`, what a unit of cost is worth in reward; positive. Default 1.
    pub lambda: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Sacpo {
    fn default() -> Self {
        Self { beta: 0.1, lambda: 1.0, reduction: Reduction::Sum }
    }
}

impl Named for Sacpo {
    const NAME: &'static str = "sacpo";
    const ALIASES: &'static [&'static str] = &["pd_dpo", "primal_dual_dpo"];
    const SUMMARY: &'static str = "the safety stage of SACPO: DPO with β/λ, against the helpful model";
}

impl Loss for Sacpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scale = self.beta / self.lambda;
        let margins = (input.log_ratios(self.reduction)?.margins()? * scale)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(scale)?);
        with_margins(terms, &margins, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        let is_positive = self.lambda.is_finite() && self.lambda > 0.0;
        let expected = "a positive number; at 0 the helpful model is the answer, and needs no second stage";
        in_range::<Self>("lambda", self.lambda, is_positive, expected)?;
        check_reduction::<Self>(self.reduction)
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
        check_pairs("sacpo step 2 beta/lambda=0.025", Sacpo { lambda: 4.0, ..Sacpo::default() });
        check_pairs("dpo", Sacpo::default());
    }
}
