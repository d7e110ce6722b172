//! The pieces of policy-gradient methods that are pure functions of numbers: clipped surrogates, penalties, advantages,
//! and their Lagrangian mixtures.
//!
//! Whoever samples, scores the samples and steps puts them together. Group-relative policy optimisation of `P`
//! prompts with `G` samples each is, for rows in the order of `[P, G]`:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use candlewick_losses::TokenScores;
//! use candlewick_losses::policy_gradient::{Advantages, Clip, k3};
//! let log_probs = Tensor::new(&[[-1.0f64, -2.0], [-1.5, -0.5]], &Device::Cpu)?;
//! let policy = TokenScores::unmasked(log_probs.clone())?;
//! let old = policy.detach();
//! let reference = policy.detach();
//! let rewards = Tensor::new(&[[1.0f64, 0.0]], &Device::Cpu)?;
//! let advantages = Advantages::default().of(&rewards)?.flatten_all()?;
//! let losses = (Clip::default().losses(&policy, &old, &advantages)? + (k3(&policy, &reference)? * 0.04)?)?;
//! // One value a token, [N, T]: at the start the negative advantages, ±1/√2 but for the ε below them.
//! assert!((losses.to_vec2::<f64>()?[0][0] + 0.5f64.sqrt()).abs() < 1e-3);
//! # Ok::<(), candlewick_losses::Error>(())
//! ```
//!
//! Values are those of single tokens, 0 where the mask is 0: what they are divided by (tokens of a row and then rows,
//! as in the papers; tokens of the step; a constant, as in Dr. GRPO) is the caller's choice, made once for the whole
//! step. Advantages, rewards, costs, and what the policy is compared with are numbers: nothing flows back into them.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::dual::Weights;
use crate::error::{Error, Result};
use crate::groups::check_same_slots;
use crate::math::{guarded_exp, guarded_expm1};
use crate::scores::TokenScores;

/// The clip of proximal policy optimisation.
///
/// The loss of a token is `−min(r·A, clip(r, 1 − ε, 1 + ε)·A)` with `r = π(y_t)/π_old(y_t)`. Its slope with respect to
/// `log π(y_t)` is `−r·A` where `r·A` is the smaller (at ties too, as within the bounds), and 0 elsewhere. The ratio
/// is exact up to `e³⁰` and continued by its tangent beyond.
///
/// Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7. Confidence A.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{TokenScores, policy_gradient::Clip};
/// let scores = |ratio: f64| TokenScores::unmasked(Tensor::new(&[[ratio.ln()]], &Device::Cpu)?);
/// let advantage = Tensor::new(&[2.0f64], &Device::Cpu)?;
/// let losses = Clip { epsilon: 0.25 }.losses(&scores(1.5)?, &scores(1.0)?, &advantage)?;
/// assert_eq!(losses.to_vec2::<f64>()?, [[-2.5]]); // −1.25·2
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// `ε`, in (0, 1). Default 0.2.
    pub epsilon: f64,
}

impl Default for Clip {
    fn default() -> Self {
        Self { epsilon: 0.2 }
    }
}

impl Clip {
    /// The loss of every token, `[N, T]`; differentiable with respect to the policy. `old` scores the same tokens by
    /// the policy that sampled them; `advantages` are one a row, `[N]`, or one a token, `[N, T]`.
    ///
    /// # Errors
    /// If `ε` is out of range, shapes do not fit together, or `old` scores other tokens.
    pub fn losses(self, policy: &TokenScores, old: &TokenScores, advantages: &Tensor) -> Result<Tensor> {
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(out_of_range("clip", "epsilon", self.epsilon, "a number in (0, 1)"));
        }
        let advantages = spread_over_tokens(policy, advantages)?;
        let ratios = guarded_exp(&log_ratios(policy, old, "old")?)?;
        let unclipped = (&ratios * &advantages)?;
        let clipped = (clamped(&ratios.detach(), 1.0 - self.epsilon, 1.0 + self.epsilon)? * &advantages)?;
        // NaN is not greater than anything, and stays.
        let held = unclipped.detach().gt(&clipped)?;
        masked(policy, &held.where_cond(&clipped, &unclipped)?.neg()?)
    }
}

/// The penalty `e^d − d − 1` of every token with `d = log π_ref − log π`, `[N, T]`: an estimate of `KL(π ‖ π_ref)`
/// that is unbiased on samples of the policy and never negative but for rounding. Differentiable with respect to the
/// policy, with slope `1 − e^d`. Both keep their digits where the two are close, as at the start of a run. The
/// exponential is exact up to `d = 31` and continued by its tangent beyond.
///
/// Source: Schulman 2020, "Approximating KL divergence", where it is `k3`; used so in GRPO (Shao et al. 2024, arXiv
/// 2402.03300, eq. 4). Confidence A.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{TokenScores, policy_gradient::k3};
/// let scores = |value: f64| TokenScores::unmasked(Tensor::new(&[[value]], &Device::Cpu)?);
/// let penalty = k3(&scores(-1.0)?, &scores(-1.0 + 2f64.ln())?)?.to_vec2::<f64>()?;
/// assert!((penalty[0][0] - (1.0 - 2f64.ln())).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If the two score different tokens.
pub fn k3(policy: &TokenScores, reference: &TokenScores) -> Result<Tensor> {
    let gaps = log_ratios(policy, reference, "reference")?.neg()?;
    masked(policy, &above_tangent(&gaps)?)
}

/// `e^x − 1 − x`, by its series where it is near 0: a difference of numbers near 1 would leave nothing of it there.
fn above_tangent(x: &Tensor) -> Result<Tensor> {
    const NEAR: f64 = 0.1;
    // Beyond, the terms of the series are below the rounding of a double.
    const LAST: u32 = 12;
    let is_near = x.detach().abs()?.lt(NEAR)?;
    let nothing = x.detach().zeros_like()?;
    let (near, far) = (is_near.where_cond(x, &nothing)?, is_near.where_cond(&nothing, x)?);
    // x²/2·(1 + x/3·(1 + x/4·(1 + …)))
    let mut series = near.ones_like()?;
    for order in (3..=LAST).rev() {
        series = (&near * series)?.affine(1.0 / f64::from(order), 1.0)?;
    }
    let near = ((near.sqr()? * series)? * 0.5)?;
    // NaN is not near, and stays.
    Ok((near + (guarded_expm1(&far)? - far)?)?)
}

/// What becomes of the rewards of the `G` samples of one prompt.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::policy_gradient::Advantages;
/// let rewards = Tensor::new(&[[3.0f64, 1.0, 2.0], [0.1, 0.1, 0.1]], &Device::Cpu)?;
/// let of = |advantages: Advantages| Ok::<_, candlewick_losses::Error>(advantages.of(&rewards)?.to_vec2::<f64>()?);
/// assert_eq!(of(Advantages::Centred)?, [[1.0, -1.0, 0.0], [0.0; 3]]);
/// assert_eq!(of(Advantages::LeaveOneOut)?, [[1.5, -1.5, 0.0], [0.0; 3]]);
/// assert_eq!(of(Advantages::SampleStd { epsilon: 1.0 })?, [[0.5, -0.5, 0.0], [0.0; 3]]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantages {
    /// `(R − mean)/(std + ε)` with the standard deviation `√(Σ(R − mean)²/(G − 1))`: GRPO as in TRL. Arxiv 2402.03300;
    /// confidence A.
    SampleStd {
        /// `ε`, positive. TRL's is 1e-4.
        epsilon: f64,
    },
    /// The same with `√(Σ(R − mean)²/G)`, which is smaller by `√((G − 1)/G)`.
    PopulationStd {
        /// `ε`, positive.
        epsilon: f64,
    },
    /// `R − mean`: Dr. GRPO, arXiv 2503.20783, whose losses are divided by a constant, too. Confidence B.
    Centred,
    /// `R` minus the mean of the other samples' rewards, `(R − mean)·G/(G − 1)`: RLOO, arXiv 2402.14740. Needs two
    /// samples. Confidence A.
    LeaveOneOut,
}

impl Default for Advantages {
    fn default() -> Self {
        Self::SampleStd { epsilon: 1e-4 }
    }
}

impl Advantages {
    /// Those to mix rewards and costs with: centred, and divided by nothing, so that every prompt has the same multiplier.
    pub const CONSTRAINED: Self = Self::Centred;

    /// The advantages of `P` prompts' rewards, `[P, G]` to `[P, G]`; detached. Equal rewards have exactly 0.
    ///
    /// # Errors
    /// If the rewards are no `f32` or `f64` matrix with a sample (two, to leave one out) a prompt, or `ε` is not
    /// positive.
    pub fn of(self, rewards: &Tensor) -> Result<Tensor> {
        let least = if self == Self::LeaveOneOut { 2 } else { 1 };
        let (&[_, samples], true) = (rewards.dims(), rewards.dtype().is_float()) else {
            return Err(shape("rewards", rewards, "[P, G] of f32 or f64".to_owned()));
        };
        if samples < least {
            return Err(shape("rewards", rewards, format!("[P, G] with G at least {least}")));
        }
        if let Self::SampleStd { epsilon } | Self::PopulationStd { epsilon } = self
            && !(epsilon.is_finite() && epsilon > 0.0)
        {
            return Err(out_of_range("advantages", "epsilon", epsilon, "a positive number"));
        }
        // From the first reward, so that equal ones are exactly equal to their mean.
        let rewards = rewards.detach();
        let rewards = rewards.broadcast_sub(&rewards.narrow(1, 0, 1)?)?;
        let centred = rewards.broadcast_sub(&rewards.mean_keepdim(1)?)?;
        let others = (samples - 1).max(1) as f64;
        match self {
            Self::Centred => Ok(centred),
            Self::LeaveOneOut => Ok((centred * (samples as f64 / others))?),
            Self::SampleStd { epsilon } => standardised(&centred, others, epsilon),
            Self::PopulationStd { epsilon } => standardised(&centred, samples as f64, epsilon),
        }
    }

    /// `(A_R − λ·A_C)/(1 + λ)` of rewards and costs, `[P, G]` each: the advantages of both streams, mixed.
    ///
    /// Each stream is divided by its own standard deviation, if at all, which gives every prompt a multiplier of its
    /// own, `λ·σ_R/σ_C`; the constraint is met, and the reward falls short of the optimum. To divide the mixture by its
    /// one standard deviation, mix the rewards first: `self.of(&lagrangian(&rewards, &costs, λ)?)`.
    /// [`Centred`](Self::Centred) and [`LeaveOneOut`](Self::LeaveOneOut) give the same either way.
    ///
    /// # Errors
    /// As [`of`](Self::of) and [`lagrangian`].
    pub fn constrained(self, rewards: &Tensor, costs: &Tensor, multiplier: f64) -> Result<Tensor> {
        lagrangian(&self.of(rewards)?, &self.of(costs)?, multiplier)
    }
}

/// `(R − λ·C)/(1 + λ)` of rewards and costs, or of their advantages, of any one shape; detached. `λ` is the
/// multiplier, a plain number of at least 0.
///
/// Source: Dai et al. 2023, arXiv 2310.12773 (Safe RLHF), its update of the policy. Confidence A.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::policy_gradient::lagrangian;
/// let mixed = lagrangian(&Tensor::new(&[5.0f64], &Device::Cpu)?, &Tensor::new(&[1.0f64], &Device::Cpu)?, 3.0)?;
/// assert_eq!(mixed.to_vec1::<f64>()?, [0.5]); // (5 − 3)/4
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If the shapes or dtypes differ, or the multiplier is negative or not finite.
pub fn lagrangian(rewards: &Tensor, costs: &Tensor, multiplier: f64) -> Result<Tensor> {
    weighted(rewards, &[costs], &Weights::of(&[multiplier])?)
}

/// `w·R − Σ_k w_k·C_k` of rewards and the costs of several constraints, of any one shape; detached. The weights are those
/// of [`Weights`], finite however large a multiplier is.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{dual::Weights, policy_gradient::weighted};
/// let one = |value: f64| Tensor::new(&[value], &Device::Cpu);
/// let mixed = weighted(&one(8.0)?, &[&one(1.0)?, &one(2.0)?], &Weights::of(&[1.0, 2.0])?)?;
/// assert_eq!(mixed.to_vec1::<f64>()?, [0.75]); // (8 − 1 − 4)/4
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If the shapes or dtypes differ, or there are not as many weights as costs.
pub fn weighted(rewards: &Tensor, costs: &[&Tensor], weights: &Weights) -> Result<Tensor> {
    if costs.len() != weights.costs.len() {
        return Err(Error::Dual(format!(
            "got costs of {} constraints and weights of {}, expected as many",
            costs.len(),
            weights.costs.len()
        )));
    }
    let mut mixed = (rewards.detach() * weights.reward)?;
    for (costs, weight) in costs.iter().zip(&weights.costs) {
        check_like("costs", costs, rewards)?;
        mixed = (mixed - (costs.detach() * *weight)?)?;
    }
    Ok(mixed)
}

/// Where the penalty `κ·KL` stands when rewards are mixed with costs. It enters once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// The default: `((R − κ·KL) − λ·C)/(1 + λ)`: the Lagrangian of "the highest reward less `κ·KL`, at a cost of at most `d`". The
    /// factor `1/(1 + λ)` scales the step and nothing else.
    #[default]
    #[serde(alias = "reward")]
    Rewards,
    /// `(R − λ·C)/(1 + λ) − κ·KL`: with `−κ·KL` in the rewards and `+κ·KL` in the costs, as Safe RLHF was released, its
    /// weight in the mixture is `κ` whatever the multiplier is. The higher the multiplier, the stronger is
    /// the penalty beside the reward, and some constraints cannot be met by any multiplier.
    #[serde(alias = "split")]
    Both,
}

impl KlPlacement {
    /// The mixture of rewards, costs and `log π − log π_ref`, of one shape; detached. `weight` is `κ`, at least 0.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candlewick_losses::policy_gradient::KlPlacement;
    /// let one = |value: f64| Tensor::new(&[value], &Device::Cpu);
    /// let (rewards, costs, log_ratios) = (one(5.0)?, one(1.0)?, one(2.0)?);
    /// let mixed = |placement: KlPlacement| placement.mixed_rewards(&rewards, &costs, &log_ratios, 0.5, 3.0);
    /// assert_eq!(mixed(KlPlacement::Both)?.to_vec1::<f64>()?, [-0.5]); // (5 − 3)/4 − 1
    /// assert_eq!(mixed(KlPlacement::Rewards)?.to_vec1::<f64>()?, [0.25]); // (5 − 1 − 3)/4
    /// # Ok::<(), candlewick_losses::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`lagrangian`], or if the weight is negative or not finite.
    pub fn mixed_rewards(
        self,
        rewards: &Tensor,
        costs: &Tensor,
        log_ratios: &Tensor,
        weight: f64,
        multiplier: f64,
    ) -> Result<Tensor> {
        self.mixed_by(rewards, &[costs], log_ratios, weight, &Weights::of(&[multiplier])?)
    }

    /// The same for several constraints, by the weights of their multipliers.
    ///
    /// # Errors
    /// As [`weighted`], or if the weight of the penalty is negative or not finite.
    pub fn mixed_by(
        self,
        rewards: &Tensor,
        costs: &[&Tensor],
        log_ratios: &Tensor,
        weight: f64,
        weights: &Weights,
    ) -> Result<Tensor> {
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(out_of_range("mixed_rewards", "weight", weight, "a number of at least 0"));
        }
        check_like("log_ratios", log_ratios, rewards)?;
        let penalty = (log_ratios.detach() * weight)?;
        match self {
            Self::Rewards => weighted(&(rewards.detach() - penalty)?, costs, weights),
            Self::Both => Ok((weighted(rewards, costs, weights)? - penalty)?),
        }
    }
}

fn standardised(centred: &Tensor, count: f64, epsilon: f64) -> Result<Tensor> {
    let deviation = ((centred.sqr()?.sum_keepdim(1)? / count)?.sqrt()? + epsilon)?;
    Ok(centred.broadcast_div(&deviation)?)
}

/// `log π − log π_other` of every token; differentiable with respect to the policy only.
fn log_ratios(policy: &TokenScores, other: &TokenScores, what: &'static str) -> Result<Tensor> {
    check_same_slots(what, policy, other)?;
    Ok((policy.log_probs() - other.log_probs().detach())?)
}

/// Advantages as `[N, T]`, detached.
fn spread_over_tokens(policy: &TokenScores, advantages: &Tensor) -> Result<Tensor> {
    let like = policy.log_probs();
    let advantages = advantages.detach().to_dtype(like.dtype())?;
    if advantages.dims() == like.dims() {
        return Ok(advantages);
    }
    if advantages.dims() == [policy.rows()] {
        return Ok(advantages.unsqueeze(1)?.broadcast_as(like.dims())?.contiguous()?);
    }
    let (rows, slots) = (policy.rows(), policy.slots());
    Err(shape("advantages", &advantages, format!("[{rows}], one a row, or [{rows}, {slots}], one a token")))
}

/// Numbers within bounds; NaN stays.
fn clamped(values: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let bound = |bound: f64| -> Result<Tensor> { Ok(((values.zeros_like()?) + bound)?) };
    let capped = values.gt(high)?.where_cond(&bound(high)?, values)?;
    Ok(values.lt(low)?.where_cond(&bound(low)?, &capped)?)
}

/// The values of scored tokens, and 0 elsewhere.
fn masked(policy: &TokenScores, values: &Tensor) -> Result<Tensor> {
    Ok(policy.with_log_probs(values)?.log_probs().clone())
}

fn check_like(what: &'static str, got: &Tensor, like: &Tensor) -> Result<()> {
    if got.dims() != like.dims() {
        return Err(shape(what, got, format!("{:?}, as the other has", like.dims())));
    }
    if got.dtype() != like.dtype() {
        let expected = format!("{}, as the other has", like.dtype().as_str());
        return Err(Error::DType { what, got: got.dtype().as_str().to_owned(), expected });
    }
    Ok(())
}

fn shape(what: &'static str, got: &Tensor, expected: String) -> Error {
    Error::Shape { what, got: got.dims().to_vec(), expected }
}

fn out_of_range(of: &str, parameter: &'static str, got: f64, expected: &'static str) -> Error {
    Error::Parameter { loss: of.to_owned(), parameter, got, expected }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device, Var};
    use candlewick_testkit::{FormulaVectors, central_difference, error, worst};

    use super::*;

    fn vectors() -> FormulaVectors {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
        FormulaVectors::load(&path).unwrap()
    }

    fn column(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(1).unwrap()
    }

    fn scores(values: &[f64]) -> TokenScores {
        TokenScores::unmasked(column(values)).unwrap()
    }

    fn row(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
    }

    fn flat(values: &Tensor) -> Vec<f64> {
        values.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The mean over tokens of surrogate and penalty, and its gradient.
    fn grpo(policy: &[f64], old: &[f64], reference: &[f64], advantages: &[f64]) -> (f64, Vec<f64>) {
        let own = Var::from_tensor(&column(policy)).unwrap();
        let policy = TokenScores::unmasked(own.as_tensor().clone()).unwrap();
        let advantages = Tensor::new(advantages, &Device::Cpu).unwrap();
        let surrogate = Clip::default().losses(&policy, &scores(old), &advantages).unwrap();
        let penalty = (k3(&policy, &scores(reference)).unwrap() * 0.04).unwrap();
        let loss = (surrogate + penalty).unwrap().mean_all().unwrap();
        (loss.to_scalar().unwrap(), flat(loss.backward().unwrap().get(&own).unwrap()))
    }

    #[test]
    fn group_advantages_agree_with_the_formulas() {
        let recorded = |key| vectors().list("mo-grpo advantages", key).unwrap();
        let total = row(&recorded("total"));
        let epsilon = 1e-4;
        for (advantages, key) in [
            (Advantages::PopulationStd { epsilon }, "population_std"),
            (Advantages::SampleStd { epsilon }, "sample_std"),
        ] {
            assert!(worst(&flat(&advantages.of(&total).unwrap()), &recorded(key)) < 1e-9, "{key}");
        }
    }

    #[test]
    fn the_surrogate_and_its_penalty_agree_with_the_formulas() {
        let vectors = vectors();
        let name = "grpo clipped surrogate + k3";
        let advantages = vectors.list("mo-grpo advantages", "sample_std").unwrap();
        let (loss, gradient) =
            grpo(&[-1.0, -0.5, -2.0, -0.9], &[-1.3, -0.55, -1.9, -1.0], &[-1.1, -0.5, -2.2, -0.8], &advantages);
        assert!(error(loss, vectors.number(name, "loss").unwrap()) < 1e-9);
        assert!(worst(&gradient, &vectors.list(name, "grad").unwrap()) < 1e-9);
    }

    #[test]
    fn the_lagrangian_mixture_agrees_with_the_formulas() {
        let expected = vectors().list("safe-rlhf mixed advantage at lambda=2", "adv").unwrap();
        let mixed = lagrangian(&row(&[1.0, -0.5]), &row(&[0.4, 0.9]), 2.0).unwrap();
        assert!(worst(&flat(&mixed), &expected) < 1e-15);
    }

    #[test]
    fn slopes_are_central_differences_on_both_sides_of_the_bounds() {
        // Ratios below, within and above the bounds, for both signs of the advantage.
        let old = [0.0; 6];
        let policy = [0.7f64.ln(), 1.1f64.ln(), 1.4f64.ln(), 0.7f64.ln(), 1.1f64.ln(), 1.4f64.ln()];
        let advantages = [1.5, 1.5, 1.5, -1.5, -1.5, -1.5];
        let reference = [-0.3, 0.2, 0.0, 0.5, -0.1, 0.4];
        let (_, gradient) = grpo(&policy, &old, &reference, &advantages);
        let numeric = central_difference(|at| grpo(at, &old, &reference, &advantages).0, &policy, 1e-6);
        assert!(worst(&gradient, &numeric) < 1e-8, "{gradient:?} {numeric:?}");
        // Held: above with a positive, below with a negative advantage. Without the penalty their slope is exactly 0.
        let (_, slopes) = grpo(&policy, &old, &policy, &advantages);
        assert_eq!((slopes[2], slopes[3]), (0.0, 0.0));
        assert!([0, 1, 4, 5].iter().all(|&token| slopes[token] != 0.0));
    }

    #[test]
    fn ties_are_of_the_unclipped_side() {
        let slope = |advantage: f64| grpo(&[0.0], &[0.0], &[0.0], &[advantage]).1[0];
        assert_eq!((slope(2.0), slope(-2.0), slope(0.0)), (-2.0, 2.0, 0.0));
    }

    #[test]
    fn extremes_are_finite_and_nan_is_seen() {
        for dtype in [DType::F32, DType::F64] {
            for advantage in [1.0f64, -1.0] {
                let own = Var::from_tensor(&column(&[1e4, -1e4, 0.0]).to_dtype(dtype).unwrap()).unwrap();
                let policy = TokenScores::unmasked(own.as_tensor().clone()).unwrap();
                let other = TokenScores::unmasked(column(&[0.0; 3]).to_dtype(dtype).unwrap()).unwrap();
                let advantages = Tensor::new(&[advantage; 3], &Device::Cpu).unwrap();
                let losses = Clip::default().losses(&policy, &other, &advantages).unwrap();
                let loss = (losses + k3(&policy, &other).unwrap()).unwrap().sum_all().unwrap();
                assert!(flat(&loss)[0].is_finite(), "{dtype:?} {advantage}");
                let gradient = flat(loss.backward().unwrap().get(&own).unwrap());
                assert!(gradient.iter().all(|slope| slope.is_finite()), "{dtype:?} {advantage} {gradient:?}");
            }
        }
        assert!(grpo(&[f64::NAN], &[0.0], &[0.0], &[1.0]).0.is_nan());
        assert!(grpo(&[0.0], &[0.0], &[0.0], &[f64::NAN]).0.is_nan());
        assert!(flat(&Advantages::default().of(&row(&[1.0, f64::NAN])).unwrap()).iter().all(|a| a.is_nan()));
    }

    #[test]
    fn tokens_that_are_not_scored_are_nothing() {
        let values = Tensor::new(&[[-1.0f64, f64::NAN], [-2.0, -1.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f64, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
        let policy = TokenScores::new(values, mask).unwrap();
        let advantages = Tensor::new(&[3.0f64, -1.0], &Device::Cpu).unwrap();
        let losses = Clip::default().losses(&policy, &policy, &advantages).unwrap();
        assert_eq!(losses.to_vec2::<f64>().unwrap(), [[-3.0, 0.0], [1.0, 1.0]]);
        assert_eq!(flat(&k3(&policy, &policy).unwrap()), [0.0; 4]);
    }

    #[test]
    fn the_penalty_keeps_its_digits_where_the_two_are_close() {
        let gaps = [1e-6f32, -1e-6, 1e-4, -1e-4, 0.05, 0.0999, 0.1001, -0.1001, 2.0];
        let own = Var::new(&gaps, &Device::Cpu).unwrap();
        let penalty = above_tangent(own.as_tensor()).unwrap();
        let slopes = flat(penalty.sum_all().unwrap().backward().unwrap().get(&own).unwrap());
        for ((penalty, slope), gap) in flat(&penalty).into_iter().zip(slopes).zip(gaps.map(f64::from)) {
            // The series in double precision, and beyond it the difference, which has the digits that are asked for.
            let small = gap * gap / 2.0 * (1.0 + gap / 3.0 * (1.0 + gap / 4.0 * (1.0 + gap / 5.0)));
            let exact = if gap.abs() < 0.01 { small } else { gap.exp_m1() - gap };
            assert!((penalty / exact - 1.0).abs() < 1e-5, "{gap}: {penalty} {exact}");
            assert!((slope / gap.exp_m1() - 1.0).abs() < 1e-5, "{gap}: {slope}");
        }
        let scores = |value: f32| TokenScores::unmasked(Tensor::new(&[[value]], &Device::Cpu).unwrap()).unwrap();
        assert!(flat(&k3(&scores(-1.0), &scores(-1.0 + 1e-4)).unwrap())[0] > 0.0);
    }

    #[test]
    fn other_tokens_than_those_of_the_policy_are_refused() {
        let scored = |mask: [f64; 2]| {
            let values = Tensor::new(&[[-1.0f64, -2.0]], &Device::Cpu).unwrap();
            TokenScores::new(values, Tensor::new(&[mask], &Device::Cpu).unwrap()).unwrap()
        };
        // One token of each, at different places.
        let (policy, other) = (scored([1.0, 0.0]), scored([0.0, 1.0]));
        let advantage = Tensor::new(&[1.0f64], &Device::Cpu).unwrap();
        let clipped = Clip::default().losses(&policy, &other, &advantage).unwrap_err();
        assert!(matches!(clipped, Error::Shape { what: "old", .. }), "{clipped}");
        let penalised = k3(&policy, &other).unwrap_err().to_string();
        assert!(penalised.contains("the same tokens scored in row 0"), "{penalised}");
    }

    #[test]
    fn equal_rewards_have_no_advantage_and_others_the_mean_of_zero() {
        let epsilon = 1e-12;
        let kinds = [
            Advantages::SampleStd { epsilon },
            Advantages::PopulationStd { epsilon },
            Advantages::Centred,
            Advantages::LeaveOneOut,
        ];
        for kind in kinds {
            assert_eq!(flat(&kind.of(&row(&[0.1; 3])).unwrap()), [0.0; 3], "{kind:?}");
            let sum: f64 = flat(&kind.of(&row(&[0.3, -2.0, 7.0])).unwrap()).iter().sum();
            assert!(sum.abs() < 1e-12, "{kind:?}");
        }
        let left_out = flat(&Advantages::LeaveOneOut.of(&row(&[4.0, 1.0, 2.0])).unwrap());
        assert!(worst(&left_out, &[4.0 - 1.5, 1.0 - 3.0, 2.0 - 2.5]) < 1e-14);
        assert_eq!(flat(&Advantages::default().of(&row(&[5.0])).unwrap()), [0.0]);
    }

    #[test]
    fn the_penalty_enters_once_whatever_the_multiplier() {
        let (rewards, costs, log_ratios) = (row(&[0.5, -1.0]), row(&[0.4, 0.9]), row(&[0.2, -0.1]));
        for multiplier in [0.0, 0.3, 2.0, 1e300, f64::MAX] {
            let mixed = |placement: KlPlacement, weight| {
                flat(&placement.mixed_rewards(&rewards, &costs, &log_ratios, weight, multiplier).unwrap())
            };
            for (placement, weight) in [(KlPlacement::Both, 0.01), (KlPlacement::Rewards, 0.01 / (1.0 + multiplier))] {
                let (with, without) = (mixed(placement, 0.01), mixed(placement, 0.0));
                for ((with, without), kl) in with.into_iter().zip(without).zip([0.2, -0.1]) {
                    assert!((without - with - weight * kl).abs() < 1e-14, "{placement:?} {multiplier}");
                }
            }
        }
    }

    #[test]
    fn streams_are_mixed_after_or_before_they_are_standardised() {
        let (rewards, costs) = (row(&[1.0, 0.0, 0.5]), row(&[-3.0, 2.0, 0.0]));
        for centred in [Advantages::Centred, Advantages::LeaveOneOut] {
            let after = centred.constrained(&rewards, &costs, 2.0).unwrap();
            let before = centred.of(&lagrangian(&rewards, &costs, 2.0).unwrap()).unwrap();
            assert!(worst(&flat(&after), &flat(&before)) < 1e-14);
        }
        let own = Advantages::default();
        let (of_rewards, of_costs) = (flat(&own.of(&rewards).unwrap()), flat(&own.of(&costs).unwrap()));
        let expected: Vec<f64> = of_rewards.iter().zip(&of_costs).map(|(r, c)| (r - 2.0 * c) / 3.0).collect();
        assert!(worst(&flat(&own.constrained(&rewards, &costs, 2.0).unwrap()), &expected) < 1e-14);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let two = row(&[1.0, 2.0]);
        assert!(matches!(lagrangian(&two, &row(&[1.0]), 1.0), Err(Error::Shape { what: "costs", .. })));
        assert!(matches!(lagrangian(&two, &two, -1.0), Err(Error::Parameter { parameter: "multiplier", .. })));
        assert!(matches!(lagrangian(&two, &two, f64::INFINITY), Err(Error::Parameter { .. })));
        assert!(matches!(Advantages::LeaveOneOut.of(&row(&[1.0])), Err(Error::Shape { .. })));
        assert!(matches!(Advantages::Centred.of(&two.flatten_all().unwrap()), Err(Error::Shape { .. })));
        let zero = Advantages::SampleStd { epsilon: 0.0 };
        assert!(matches!(zero.of(&two), Err(Error::Parameter { parameter: "epsilon", .. })));
        let (one, other) = (scores(&[-1.0]), scores(&[-1.0, -2.0]));
        let advantage = Tensor::new(&[1.0f64], &Device::Cpu).unwrap();
        assert!(matches!(Clip::default().losses(&one, &other, &advantage), Err(Error::Shape { what: "old", .. })));
        assert!(matches!(Clip { epsilon: 1.0 }.losses(&one, &one, &advantage), Err(Error::Parameter { .. })));
        let wrong = Clip::default().losses(&other, &other, &advantage).unwrap_err().to_string();
        assert!(wrong.contains("[2], one a row, or [2, 1], one a token"), "{wrong}");
    }
}
