//! `max(0, 1 − β·z)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Hinge on the implicit reward margin: `max(0, 1 − β·z)` with `z = Δ_w − Δ_l`, the
/// mean over pairs.
///
/// Pairs whose margin has reached `1/β` nats have no gradient; at the edge itself it is 0.
///
/// Source: Zhao et al. 2023 (SLiC), arXiv 2305.10425, and Liu et al. 2023 (RSO),
/// arXiv 2309.06657, with a reference. Confidence A✓: agrees with TRL's function (`hinge`).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Hinge, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = Hinge { beta: 0.25 }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 0.5); // z = 2
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hinge {
    /// The inverse of the margin in nats beyond which a pair no longer counts; positive. Default 0.1.
    pub beta: f64,
}

impl Default for Hinge {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Named for Hinge {
    const NAME: &'static str = "hinge";
    const ALIASES: &'static [&'static str] = &["rso"];
    const SUMMARY: &'static str = "hinge on the reward margin: max(0, 1 − β·(Δ_w − Δ_l))";
}

impl Loss for Hinge {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        let losses = positive_part(&margins.affine(-self.beta, 1.0)?)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(1.0)
    }
}
