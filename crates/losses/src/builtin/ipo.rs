//! `(h − 1/(2β))²`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Identity preference optimisation: `(h − 1/(2β))²` with `h = Δ_w − Δ_l`, the mean over pairs.
///
/// Two readings of `Δ` are in use, and the target `1/(2β)` is far easier to reach
/// under one than under the other: `reduction = "mean"` divides each side by its own
/// number of tokens (TRL, HALOs), `"sum"` does not (the DPO authors' code, OpenRLHF). The
/// paper writes `β` as `τ`. The gradient is linear in the residual and unbounded: clip it.
///
/// Source: Azar et al. 2023, arXiv 2310.12036, eq. 17. Confidence A✓ for both readings.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Ipo, Objective, Reduction, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -1.0], [-3.0, -2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = |reduction| {
///     Ipo { beta: 0.5, reduction }.evaluate(&scores, &Context::default())?.loss(&scores.totals())
/// };
/// assert_eq!(loss(Reduction::Sum)?.to_scalar::<f64>()?, 1.0); // (2 − 1)²
/// assert_eq!(loss(Reduction::Mean)?.to_scalar::<f64>()?, 0.0); // (1 − 1)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ipo {
    /// Half the inverse of the target margin; positive. Default 0.1: a target of 5 nats.
    pub beta: f64,
    /// Whether log-ratios are sums over tokens or means. Default [`Reduction::Mean`].
    pub reduction: Reduction,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Mean }
    }
}

impl Named for Ipo {
    const NAME: &'static str = "ipo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "identity preference optimisation: (Δ_w − Δ_l − 1/(2β))², of means or sums";
}

impl Loss for Ipo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(self.reduction)?.margins()?;
        let losses = (margins - self.target())?.sqr()?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(self.target().powi(2))
    }
}

impl Ipo {
    fn target(&self) -> f64 {
        1.0 / (2.0 * self.beta)
    }
}
