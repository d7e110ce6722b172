//! `−log σ(β·(Δ_w − Δ_l))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Direct preference optimisation: `−log σ(β·z)` with `z = Δ_w − Δ_l` in nats, the
/// mean over pairs.
///
/// `Δ = Σ_t (log π − log π_ref)` of the chosen (`w`) and rejected (`l`) completion.
/// Only the difference is constrained: both log-probabilities may fall.
///
/// Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7. Confidence A✓: agrees in
/// value and gradient with the authors' and with TRL's function (`sigmoid`; TRL ignores
/// its `label_smoothing` there: see [`Cdpo`](crate::Cdpo)).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Dpo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = Dpo { beta: 0.5 }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 1 − (−1) = 2, so the loss is log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Named for Dpo {
    const NAME: &'static str = "dpo";
    const ALIASES: &'static [&'static str] = &["sigmoid"];
    const SUMMARY: &'static str = "direct preference optimisation: −log σ(β·(Δ_w − Δ_l))";
}

impl Loss for Dpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        let losses = log_sigmoid(&(margins * self.beta)?)?.neg()?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}
