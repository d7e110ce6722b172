//! `−log σ(β(δ)·z)` with `β(δ) = β·(1 + w·(1 − e^{−k·δ}))`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::{guarded_exp, log_sigmoid};
use crate::numbers::{Margin, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// The smallest `β` of a pair, that of the released trainer; a smaller `β` of the configuration counts instead.
const FLOOR: f64 = 1e-3;

/// Dynamic reward scaling: DPO whose `β` grows with the reward gap of the pair.
///
/// # Formula
/// `−log σ(β(δ)·z)` with `β(δ) = β·(1 + w·(1 − e^{−k·δ}))`, `z = Δ_w − Δ_l` in nats and `δ` the pair's `margin`: the
/// gap of a reward model. The mean over pairs. `β(δ)` runs from `β` at a gap of 0 to `β·(1 + w)`; for negative gaps it
/// falls, and it is held at `min(β, 10⁻³)` where it would be lower.
///
/// # Gradient
/// `−β(δ)·σ(−β(δ)·z)` for `log π(y_w)` and the opposite for `log π(y_l)`; `β(δ)` is a constant.
///
/// # When to use
/// Pairs with the scores of a reward model, where those with a clear gap are to count more than doubtful ones.
///
/// # Source
/// Zhang et al. 2025 (MM-RLHF), arXiv 2502.10391. Not verified: the formula is second-hand, and `w = k = 0.5` is from
/// memory. Confidence C.
///
/// # Deviations
/// From the released trainer (a different loss, read in its code): a flag that is on by default replaces `β(δ)` by one
/// `β·(1 + w·(mean over a random 80 % of z − mean of z))` for the whole batch, at least 10⁻³, which does not depend on
/// the gaps. From the paper: the floor, which only negative gaps can reach; exponents `−k·δ` above 30 are continued by
/// the tangent, far below the floor. The paper's script adds 0.25 of the NLL of the chosen completion: mix in `sft`.
/// TRL has no such loss.
///
/// # Checked by
/// Formulas: `mm-rlhf beta(gap)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, MmRlhf, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("margin".to_owned(), vec![2f64.ln()]);
/// let mm_rlhf = MmRlhf { beta: 0.25, weight: 2.0, rate: 1.0, ..MmRlhf::default() };
/// let loss = mm_rlhf.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // β(δ) = ¼·(1 + 2·½) = ½ and z = 2: log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MmRlhf {
    /// Weight of the divergence from the reference where the gap is 0, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `w`, by what share `β` may grow; at least 0. Default 0.5; 0 is [`Dpo`](crate::Dpo).
    pub weight: f64,
    /// `k`, how fast it grows, per unit of the gap; at least 0. Default 0.5.
    pub rate: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for MmRlhf {
    fn default() -> Self {
        Self { beta: 0.1, weight: 0.5, rate: 0.5, reduction: Reduction::Sum }
    }
}

impl Named for MmRlhf {
    const NAME: &'static str = "mm_rlhf";
    const ALIASES: &'static [&'static str] = &["mmrlhf", "dynamic_reward_scaling"];
    const SUMMARY: &'static str = "DPO whose β grows with the reward gap of the pair, its `margin`";
}

impl Loss for MmRlhf {
    type Input = With<AnchoredPair, Margin>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let betas = self.betas(input.number())?;
        let margins = (input.log_ratios(self.reduction)?.margins()? * &betas)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        Ok(terms.with_optimised_margins(&margins)?.with_metric("beta", &betas))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("weight", self.weight)?;
        check_not_negative::<Self>("rate", self.rate)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

impl MmRlhf {
    /// `β(δ)` of every pair, `[B]`; detached.
    fn betas(&self, gaps: &Tensor) -> Result<Tensor> {
        let decay = guarded_exp(&(gaps * -self.rate)?)?;
        let factors = decay.affine(-self.weight, 1.0 + self.weight)?;
        Ok((factors * self.beta)?.maximum(self.beta.min(FLOOR))?.detach())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::vectors::{check_pairs_with, vectors};
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        let margins = vectors().input("margins").unwrap();
        check_pairs_with("mm-rlhf beta(gap)", MmRlhf::default(), &[("margin", margins.clone())]);
        check_pairs_with("dpo", MmRlhf { weight: 0.0, ..MmRlhf::default() }, &[("margin", margins)]);
    }

    #[test]
    fn beta_stays_positive_whatever_the_gap() {
        let gaps = Tensor::new(&[-1e4f32, -3.0, 0.0, 1e4], &Device::Cpu).unwrap();
        let betas = MmRlhf::default().betas(&gaps).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(betas, [1e-3, 1e-3, 0.1, 0.15]);
        let small = MmRlhf { beta: 1e-4, ..MmRlhf::default() }.betas(&gaps).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(small[..2], [1e-4, 1e-4]);
    }
}
