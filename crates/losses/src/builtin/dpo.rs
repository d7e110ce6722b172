//! `−log σ(β·(s(Δ_w) − s(Δ_l)))`

use serde::{Deserialize, Serialize};

use super::{Named, Preset, check_beta, check_divergence, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Direct preference optimisation: a logistic regression on the difference of two log-ratios.
///
/// # Formula
/// `−log σ(β·z)` with `z = s(Δ_w) − s(Δ_l)` in nats, the mean over pairs. `Δ = Σ_t (log π − log π_ref)` of the chosen
/// (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`], the identity by default. Under a mean
/// reduction each score is divided by the tokens of its side.
///
/// # Gradient
/// `−β·σ(−β·z)·s′(Δ_w)` for `log π(y_w)` and the same with the other sign for `log π(y_l)`. Only the difference is
/// constrained: both log-probabilities may fall.
///
/// # When to use
/// The default for pairs. Lengths that differ much between the sides call for `length_normalized_dpo` or a
/// length-desensitized reduction, labels that are often wrong for [`Cdpo`](crate::Cdpo).
///
/// # Source
/// Rafailov et al. 2023, arXiv 2305.18290, eq. 7; divergences: Wang et al. 2023, arXiv 2309.16240. Confidence A✓.
///
/// # Deviations
/// From the papers: none. From TRL: exponentials of the forward KL and the alpha divergence are continued by their
/// tangent where they would overflow (see [`Divergence`]). TRL ignores `label_smoothing` here, and this loss has none.
///
/// # Checked by
/// TRL: `sigmoid`, `sigmoid_norm`. Formulas: `dpo`, `dpo beta=1`, `sigmoid_norm`, `f-dpo forward_kl`, `f-dpo js`,
/// `f-dpo alpha`, `sacpo step 2 beta/lambda=0.025`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Dpo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = Dpo { beta: 0.5, ..Dpo::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 1 − (−1) = 2, so the loss is log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
    }
}

impl Named for Dpo {
    const NAME: &'static str = "dpo";
    const ALIASES: &'static [&'static str] = &["sigmoid"];
    const SUMMARY: &'static str = "direct preference optimisation: −log σ(β·(Δ_w − Δ_l))";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "length_normalized_dpo",
        aliases: &["sigmoid_norm"],
        summary: "DPO on log-ratios a token: −log σ(β·(Δ_w/n_w − Δ_l/n_l))",
        settings: r#"{ "reduction": "mean" }"#,
    }];
}

impl Loss for Dpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &margins, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
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
        let with = |divergence| Dpo { divergence, ..Dpo::default() };
        check_pairs("dpo", Dpo::default());
        check_pairs("dpo beta=1", Dpo { beta: 1.0, ..Dpo::default() });
        check_pairs("sigmoid_norm", Dpo { reduction: Reduction::Mean, ..Dpo::default() });
        check_pairs("f-dpo forward_kl", with(Divergence::ForwardKl));
        check_pairs("f-dpo js", with(Divergence::JensenShannon));
        check_pairs("f-dpo alpha", with(Divergence::Alpha(0.5)));
        check_pairs("sacpo step 2 beta/lambda=0.025", Dpo { beta: 0.025, ..Dpo::default() });
    }
}
