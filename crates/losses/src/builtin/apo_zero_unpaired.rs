//! `w_D·(1 − σ(β·Δ))` and `w_U·σ(β·Δ)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredLabels;

/// Anchored preference optimisation of single completions: desirable ones up, undesirable ones down, about the reference.
///
/// # Formula
/// `w_D·(1 − σ(β·Δ))` for desirable and `w_U·σ(β·Δ)` for undesirable rows, the mean over rows.
/// `Δ = Σ_t (log π − log π_ref)` in nats. It is [`Kto`](crate::Kto) with the reference point `z₀ = 0`.
///
/// # Gradient
/// `−w_D·β·σ(β·Δ)·σ(−β·Δ)` for `log π` of desirable rows, with the other sign and weight for undesirable ones. It is
/// largest at `Δ = 0` and vanishes in both directions, so that rows which are far gone are left alone.
///
/// # When to use
/// Single completions with a verdict where the mismatched completions of KTO are too dear, or where the policy stays
/// near its reference, so that KTO's reference point is about 0.
///
/// # Source
/// D'Oosterlinck et al. 2024, arXiv 2408.06266 (APO-zero, for pairs), in TRL's form for single completions. Confidence A✓.
///
/// # Deviations
/// From the paper: rows need no partner. From TRL: none; TRL reports a `kl` of 0 and this loss reports none.
///
/// # Checked by
/// TRL: `apo_zero_unpaired`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{ApoZeroUnpaired, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let loss = ApoZeroUnpaired { beta: 1.0, ..ApoZeroUnpaired::default() };
/// let loss = loss.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // ½·(σ(−1) + σ(−2))
/// assert!((loss.to_scalar::<f64>()? - 0.194_072_171_696_056_34).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApoZeroUnpaired {
    /// Steepness, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `w_D`, at least 0. Default 1.
    pub desirable_weight: f64,
    /// `w_U`, at least 0. Default 1.
    pub undesirable_weight: f64,
}

impl Default for ApoZeroUnpaired {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Named for ApoZeroUnpaired {
    const NAME: &'static str = "apo_zero_unpaired";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "anchored preference optimisation of single completions: KTO about the reference itself";
}

impl Loss for ApoZeroUnpaired {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, _: &Context) -> Result<LossTerms> {
        // 1 − σ(u) = σ(−u), which keeps its precision where σ(u) is near 1.
        let worse = (input.log_ratios(Reduction::Sum)? * input.by_label(-self.beta, self.beta)?)?;
        let losses = (sigmoid(&worse)? * input.by_label(self.desirable_weight, self.undesirable_weight)?)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("desirable_weight", self.desirable_weight)?;
        check_not_negative::<Self>("undesirable_weight", self.undesirable_weight)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // With unequal weights the value depends on how many rows of either kind there are.
        let equal = (self.desirable_weight - self.undesirable_weight).abs() <= 0.0;
        equal.then_some(0.5 * self.desirable_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_in, labelled};
    use super::*;
    use crate::{Kto, Objective};

    #[test]
    fn it_is_kto_with_a_reference_point_of_zero() {
        // The recorded KTO whose reference point is clamped to 0.
        let (log_probs, scores) = labelled();
        let loss = ApoZeroUnpaired::default();
        check_in("kto z0 clamped to 0", &loss, &scores, &Context::default(), &log_probs, &["grad"]);
    }

    #[test]
    fn weights_are_those_of_kto() {
        let (_, scores) = labelled();
        let apo = ApoZeroUnpaired { beta: 0.3, desirable_weight: 1.5, undesirable_weight: 0.5 };
        let kto = Kto { beta: 0.3, desirable_weight: 1.5, undesirable_weight: 0.5 };
        let value = |loss: &dyn Objective, context: &Context| {
            loss.evaluate(&scores, context).unwrap().loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap()
        };
        let (apo, kto) = (value(&apo, &Context::default()), value(&kto, &Context::default().with_scalar("kl", 0.0)));
        assert!((apo - kto).abs() < 1e-15, "{apo} {kto}");
    }
}
