//! `−(1−m)·log σ(β·z) + m·e^{−β·z}` with `m = σ(β·z/τ)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_divergence, check_reduction, in_range, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::{guarded_exp, log_sigmoid, sigmoid};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// DiscoPOP, a loss that a search by a language model found: logistic for wrong pairs, exponential for right ones.
///
/// # Formula
/// `−(1−m)·log σ(β·z) + m·e^{−β·z}` with `m = σ(β·z/τ)` and `z = s(Δ_w) − s(Δ_l)` in nats, the mean over pairs. `Δ =
/// Σ_t (log π − log π_ref)` of the chosen (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`],
/// the identity by default. `m·e^{−β·z}` is computed as one exponential of `log σ(β·z/τ) − β·z`.
///
/// # Gradient
/// With `u = β·z`, for `z`: `β·(m·(1−m)/τ·(e^{−u} + log σ(u)) − (1−m)·σ(−u) − m·e^{−u})`. `m` is not held constant, so
/// the loss is not monotone: with `τ = 0.05` the margin is pushed down where `u` lies between −0.1185 and 0.0722.
///
/// # When to use
/// To reproduce its authors' results. The bump near a margin of 0 holds back pairs that policy and reference see alike.
///
/// # Source
/// Lu et al. 2024, arXiv 2406.08414, eq. 5 (there also called LRML). Confidence A✓.
///
/// # Deviations
/// From the paper: for `τ > 1` the loss grows exponentially where `z` is very negative; it is continued by its tangent
/// where `m·e^{−β·z}` exceeds `e^30`. From TRL: the same, and its product `m·e^{−β·z}` is 0·∞, not a number, for
/// very negative `z`.
///
/// # Checked by
/// TRL: `discopop`. Formulas: `discopop tau=0.05`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Discopop, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let discopop = Discopop { beta: 0.5, tau: 0.5, ..Discopop::default() };
/// let loss = discopop.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // β·z = 1 and m = σ(2): σ(−2)·log(1 + e⁻¹) + σ(2)·e⁻¹.
/// assert!((loss.to_scalar::<f64>()? - 0.361_368_845_341_694_4).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discopop {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `τ`, the width of the passage from one part to the other, in units of `β·z`; positive. Default 0.05.
    pub tau: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Discopop {
    fn default() -> Self {
        Self { beta: 0.1, tau: 0.05, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
    }
}

impl Named for Discopop {
    const NAME: &'static str = "discopop";
    const ALIASES: &'static [&'static str] = &["disco_pop", "lrml"];
    const SUMMARY: &'static str =
        "DiscoPOP: logistic for wrong pairs and exponential for right ones, by a log-ratio's share";
}

impl Loss for Discopop {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scaled = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let inner = (&scaled / self.tau)?;
        let logistic = (sigmoid(&inner.neg()?)? * log_sigmoid(&scaled)?)?;
        let exponential = guarded_exp(&(log_sigmoid(&inner)? - &scaled)?)?;
        let losses = (exponential - logistic)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &scaled, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        in_range::<Self>("tau", self.tau, self.tau.is_finite() && self.tau > 0.0, "a positive number")?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(0.5 * (1.0 + std::f64::consts::LN_2))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};

    use super::super::vectors::check_pairs;
    use super::*;
    use crate::{Objective, Scores, TokenScores};

    /// Value and gradient for the chosen side of one pair with this log-ratio there and none on the other.
    fn at(loss: Discopop, log_ratio: f64, dtype: DType) -> (f64, f64) {
        let reference = Tensor::new(&[[-1.0f64], [-1.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let policy = Tensor::new(&[[log_ratio - 1.0], [-1.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let policy = Var::from_tensor(&policy).unwrap();
        let rows = |values: &Tensor| TokenScores::unmasked(values.clone()).unwrap();
        let scores = Scores::of_pairs(rows(policy.as_tensor()), Some(rows(&reference)));
        let value = loss.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let gradient = value.backward().unwrap().remove(&policy).unwrap();
        let gradient = gradient.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        (value.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), gradient[0][0])
    }

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("discopop tau=0.05", Discopop::default());
    }

    #[test]
    fn it_is_finite_far_out_whatever_tau_is() {
        for tau in [0.01, 0.05, 1.0, 5.0] {
            for beta in [0.1, 1.0] {
                for (log_ratio, dtype) in [(1e4, DType::F64), (-1e4, DType::F64), (1e4, DType::F32), (-1e4, DType::F32)]
                {
                    let (value, gradient) = at(Discopop { beta, tau, ..Discopop::default() }, log_ratio, dtype);
                    assert!(value.is_finite() && gradient.is_finite(), "{tau} {log_ratio}: {value} {gradient}");
                    assert!(gradient <= 0.0, "a wrong pair is pushed the right way: {tau} {log_ratio}: {gradient}");
                }
            }
        }
    }

    #[test]
    fn near_a_margin_of_zero_it_pushes_the_wrong_way() {
        let slope = |log_ratio| at(Discopop::default(), log_ratio, DType::F64).1;
        assert!(slope(-3.0) < 0.0 && slope(0.0) > 0.0 && slope(3.0) < 0.0);
    }
}
