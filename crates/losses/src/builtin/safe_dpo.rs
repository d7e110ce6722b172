//! `−log σ(β·z − (u_l − u_w)·Δ)` on pairs that are turned so that the safe side wins

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{SafeChosen, SafeRejected, With};
use crate::reduction::Reduction;
use crate::scores::select_rows;
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::AnchoredPair;

/// SafeDPO: pairs of helpfulness, turned round where only the less helpful side is safe, and left out where neither is.
///
/// # Formula
/// `−log σ(β·z − (u_l − u_w)·Δ)` with `z = Δ_w − Δ_l` in nats, `u` 1 for an unsafe completion and 0 for a safe one,
/// and `w` the side that wins: the more helpful one, unless it is unsafe and the other is safe. A pair of two unsafe
/// completions has no loss and does not count: the mean is over the others of the whole step.
///
/// # Gradient
/// `−β·σ(Δ·(u_l − u_w) − β·z)` for the log-probability of the side that wins and the opposite for the other's. With an
/// offset of 10, pairs of a safe and an unsafe side pull at full strength for `10/β` nats.
///
/// # When to use
/// Labels of helpfulness and of safety, and safety that nothing may outweigh: no multiplier, no limit, no score
/// models, one run. It is the limit `λ → ∞`, `π ∝ π_ref·exp(r/β)` over safe completions. `pairs/both_unsafe` is the
/// share of pairs that are left out, of PKU-SafeRLHF 44 %; the losses of pairs with costs use those too.
///
/// # Source
/// Kim et al. 2025 (SafeDPO), arXiv 2505.20065. Not verified: the default of the offset in the authors' runs.
/// Confidence B.
///
/// # Deviations
/// None known. The rewards that are reported are those of the sides as the data have them.
///
/// # Checked by
/// Properties only, because no recorded values of the authors' code are at hand. Against [`Dpo`](crate::Dpo) on rows
/// that were turned and left out by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, SafeDpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-3.0f64], [-9.0], [-1.0], [-1.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::full(-2.0f64, (4, 1), &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("safe_chosen".to_owned(), vec![0.0, 0.0]);
/// scores.groups.numbers.insert("safe_rejected".to_owned(), vec![1.0, 0.0]);
/// let safe_dpo = SafeDpo { beta: 1.0, offset: 1.0, ..SafeDpo::default() };
/// let loss = safe_dpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // The first pair is turned: z = 2, log(1 + e^(1 − 2)). The second does not count.
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SafeDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `Δ`, by how much the reward of a safe completion is to exceed that of an unsafe one; at least 0. Default 10.
    pub offset: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for SafeDpo {
    fn default() -> Self {
        Self { beta: 0.1, offset: 10.0, reduction: Reduction::Sum }
    }
}

impl Named for SafeDpo {
    const NAME: &'static str = "safe_dpo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "DPO on pairs turned by `safe_chosen` and `safe_rejected`, with an offset between safe and unsafe";
}

impl Loss for SafeDpo {
    type Input = With<With<AnchoredPair, SafeChosen>, SafeRejected>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let (chosen, rejected) = (input.inner().number(), input.number());
        // 1 where only the chosen side is safe, −1 where only the other is, 0 where both or neither are.
        let lead = (chosen - rejected)?;
        let turned = lead.lt(0.0)?.to_dtype(lead.dtype())?;
        let counts = (chosen + rejected)?.gt(0.0)?.to_dtype(lead.dtype())?;
        let margins = (input.log_ratios(self.reduction)?.margins()? * turned.affine(-2.0 * self.beta, self.beta)?)?;
        let margins = (margins - (lead.abs()? * self.offset)?)?;
        let numerator = (log_sigmoid(&margins)? * counts.neg()?)?;
        let kept = places(&counts)?;
        let term = Term { name: Self::NAME, numerator, normaliser: Normaliser::SafePairs, weight: 1.0 };
        let terms = LossTerms::new([term])
            .with_rewards(input.rewards(self.beta)?)
            .with_metric(BOTH_UNSAFE, &counts.affine(-1.0, 1.0)?)
            .with_metric(TURNED, &turned);
        terms.with_optimised_margins(&select_rows(&margins, &kept)?)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("offset", self.offset)?;
        check_reduction::<Self>(self.reduction)
    }
}

/// The places of the items that count.
fn places(counts: &Tensor) -> Result<Vec<usize>> {
    let counts = counts.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    Ok(counts.iter().enumerate().filter(|&(_, &count)| count > 0.0).map(|(place, _)| place).collect())
}

/// The share of pairs that are left out.
const BOTH_UNSAFE: &str = "pairs/both_unsafe";
/// The share of pairs whose sides change places.
const TURNED: &str = "pairs/turned";

#[cfg(test)]
mod tests {
    use super::super::vectors::pairs;
    use super::*;
    use crate::{Dpo, Groups, Objective, PairRows, Scores, Totals};

    fn labelled() -> Scores {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0, 0.0, 0.0, 1.0]);
        scores.groups.numbers.insert("safe_rejected".to_owned(), vec![1.0, 1.0, 0.0, 0.0]);
        scores
    }

    #[test]
    fn without_an_offset_it_is_dpo_on_the_turned_pairs() {
        let (scores, plain) = (labelled(), SafeDpo { offset: 0.0, ..SafeDpo::default() });
        let pair = |chosen, rejected| PairRows { chosen, rejected };
        let by_hand = Groups { pairs: vec![pair(0, 4), pair(5, 1), pair(3, 7)], ..Groups::default() };
        let by_hand = Scores { groups: by_hand, ..scores.clone() };
        let value = |loss: &dyn Objective, scores: &Scores, totals: &Totals| {
            let loss = loss.evaluate(scores, &Context::default()).unwrap().loss(totals).unwrap();
            loss.to_scalar::<f64>().unwrap()
        };
        let (got, expected) =
            (value(&plain, &scores, &scores.totals()), value(&Dpo::default(), &by_hand, &by_hand.totals()));
        assert!((got - expected).abs() < 1e-14, "{got} {expected}");
    }

    #[test]
    fn what_is_left_out_is_reported() {
        let terms = SafeDpo::default().evaluate(&labelled(), &Context::default()).unwrap();
        let of = |name: &str| {
            let metric = terms.metrics.iter().find(|metric| metric.name == name).unwrap();
            metric.values.to_vec1::<f64>().unwrap()
        };
        assert_eq!((of("pairs/both_unsafe"), of("pairs/turned")), (vec![0., 0., 1., 0.], vec![0., 1., 0., 0.]));
        assert_eq!(of("margins/optimised").len(), 3);
    }

    #[test]
    fn a_step_of_unsafe_pairs_has_no_loss() {
        let mut scores = labelled();
        scores.groups.numbers.values_mut().for_each(|labels| labels.fill(0.0));
        let loss = SafeDpo::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        assert_eq!(loss.to_scalar::<f64>().unwrap().to_bits(), 0.0f64.to_bits());
    }
}
