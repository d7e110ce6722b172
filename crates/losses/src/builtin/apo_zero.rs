//! `1 − σ(β·Δ_w) + σ(β·Δ_l)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Anchored preference optimisation for chosen completions that are better than the policy's own: they rise, the others
/// fall.
///
/// # Formula
/// `1 − σ(β·Δ_w) + σ(β·Δ_l)`, the mean over pairs, with `Δ = Σ_t (log π − log π_ref)` in nats of the chosen (`w`) and
/// rejected (`l`) completion. It is [`Kto`](crate::Kto) of both sides with a reference point of 0.
///
/// # Gradient
/// `−β·σ(β·Δ_w)·σ(−β·Δ_w)` for `log π(y_w)` and `β·σ(β·Δ_l)·σ(−β·Δ_l)` for `log π(y_l)`: both vanish where a log-ratio
/// is large, of either sign.
///
/// # When to use
/// Where a stronger model wrote the chosen completions. Where they are worse than what the policy writes, see
/// [`ApoDown`](crate::ApoDown).
///
/// # Source
/// D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7. Confidence A✓.
///
/// # Deviations
/// From the paper and from TRL: none; `1 − σ(x)` is computed as `σ(−x)`.
///
/// # Checked by
/// TRL: `apo_zero`. Formulas: `apo_zero`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{ApoZero, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let apo = ApoZero { beta: 0.5, ..ApoZero::default() };
/// let loss = apo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Δ_w = 1 and Δ_l = −1: 2·σ(−½).
/// assert!((loss.to_scalar::<f64>()? - 0.755_081_337_596_290_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApoZero {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for ApoZero {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for ApoZero {
    const NAME: &'static str = "apo_zero";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "anchored preference optimisation, chosen up and rejected down";
}

impl Loss for ApoZero {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let (chosen, rejected) = ((&log_ratios.chosen * self.beta)?, (&log_ratios.rejected * self.beta)?);
        let losses = (sigmoid(&chosen.neg()?)? + sigmoid(&rejected)?)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(chosen - rejected)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(1.0)
    }
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::error;

    use super::super::vectors::{TOLERANCE, check_pairs, labelled, pairs};
    use super::*;
    use crate::{Kto, Objective};

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("apo_zero", ApoZero::default());
    }

    #[test]
    fn it_is_kto_of_both_sides_with_a_reference_point_of_zero() {
        let (_, scores) = pairs();
        let apo = ApoZero::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let (_, scores) = labelled();
        let context = Context::default().with_scalar("kl", 0.0);
        let kto = Kto::default().evaluate(&scores, &context).unwrap().loss(&scores.totals()).unwrap();
        let (apo, kto) = (apo.to_scalar::<f64>().unwrap(), kto.to_scalar::<f64>().unwrap());
        assert!(error(apo, 2.0 * kto) < TOLERANCE, "{apo} {kto}");
    }
}
