//! `−log σ(c_u − c_s) − log σ(s_u·c_u) − log σ(s_s·c_s)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::bradley_terry::with_l2;
use super::{Named, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Numbers, PerItem, SafeChosen, SafeRejected, Safer};
use crate::terms::{LossTerms, Rewards, Term};
use crate::valued::ValuedPair;
use crate::view::Sides;

/// The cost model of Safe RLHF: which side is less safe, and on which side of zero each of them stands.
///
/// # Formula
/// `−log σ(c_u − c_s) − w·[log σ(s_u·c_u) + log σ(s_s·c_s)] + μ·(c_u² + c_s²)/2`, the mean over pairs. `c` is what one head of
/// a score model says of a completion at its last token, `u` the less safe and `s` the safer side, and the sign `s_y` is +1 for
/// a completion that is flagged unsafe and −1 for a safe one (the numbers `safe_chosen` and `safe_rejected`: 1 is safe). Higher
/// is more harmful.
///
/// # Gradient
/// `−σ(c_s − c_u) − w·s_u·σ(−s_u·c_u) + μ·c_u` for `c_u`, and for `c_s` the same with the sign of the first term turned. A pair
/// with `safer = 0` has no first term.
///
/// # When to use
/// A constraint needs a zero that means something: the signs make the cost the log-odds of "unsafe" against a made-up
/// response of cost 0. Report both accuracies; a model that ranks well can still put safe responses above zero.
///
/// # Source
/// Dai et al. 2023 (Safe RLHF), arXiv 2310.12773, eq. 9; `μ` as in the released code. Confidence A.
///
/// # Deviations
/// From the released code: both sign terms have the weight `w` (there 1; align-anything has one), and pairs may stand in the order
/// of another label, where a number says which side is the safer one. The data's flags say 1 for safe: the sign is turned here. TRL has no such loss.
///
/// # Checked by
/// Formulas: `cost model`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, CostModel, Objective, Scores, TokenScores};
/// let values = Tensor::new(&[[0.0f64], [0.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0]);
/// scores.groups.numbers.insert("safe_rejected".to_owned(), vec![0.0]);
/// scores.groups.numbers.insert("safer".to_owned(), vec![1.0]);
/// let loss = CostModel::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!((loss.to_scalar::<f64>()? - 3.0 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostModel {
    /// What says which side is the safer one. Default `safer`.
    pub order: SafetyOrder,
    /// `w`, the weight of the terms of the signs, at least 0. Default 1.
    pub sign_weight: f64,
    /// `μ`, the weight of the mean of the squared costs, at least 0. Default 0.001.
    pub l2: f64,
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

/// What says which side of a pair is the safer one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyOrder {
    /// The chosen side is the safer one, of pairs that are made of that label alone.
    Chosen,
    /// The number `safer`: 1 the chosen side, −1 the rejected one, 0 neither. The pairs may be made of another label, such as
    /// helpfulness; data with flags bring it (`docs/data.md`).
    #[default]
    Safer,
}

impl Default for CostModel {
    fn default() -> Self {
        Self { order: SafetyOrder::Safer, sign_weight: 1.0, l2: 1e-3, head: 0 }
    }
}

impl Named for CostModel {
    const NAME: &'static str = "cost_model";
    const ALIASES: &'static [&'static str] = &["cost"];
    const SUMMARY: &'static str = "the cost model of Safe RLHF: which side is less safe, and the sign of each";
}

impl Loss for CostModel {
    type Input = ValuedPair;

    fn terms(&self, input: &ValuedPair, _: &Context) -> Result<LossTerms> {
        let costs = input.of_head(self.head)?;
        // How much more harmful the side is that was called less safe.
        let gaps = (&costs.rejected - &costs.chosen)?;
        let mut ranking = log_sigmoid(&gaps)?.neg()?;
        let mut ranked = gaps.detach();
        if self.order == SafetyOrder::Safer {
            let safer = input.number(Safer::NUMBER.name)?;
            let named = safer.abs()?;
            ranking = (log_sigmoid(&(&gaps * &safer)?)?.neg()? * &named)?;
            ranked = named_only(&(&gaps * &safer)?.detach(), &named)?;
        }
        let signs =
            Sides { chosen: sign(input, SafeChosen::NUMBER.name)?, rejected: sign(input, SafeRejected::NUMBER.name)? };
        let signed = Sides { chosen: (&costs.chosen * &signs.chosen)?, rejected: (&costs.rejected * &signs.rejected)? };
        let by_sign = (log_sigmoid(&signed.chosen)? + log_sigmoid(&signed.rejected)?)?.neg()?;
        let mut losses = with_l2(ranking, &costs, self.l2)?;
        if self.sign_weight > 0.0 {
            losses = (losses + (by_sign * self.sign_weight)?)?;
        }
        let mut terms = LossTerms::new([Term::per_item(Self::NAME, losses)]);
        if self.order == SafetyOrder::Chosen {
            let (chosen, rejected) = (costs.chosen.neg()?.detach(), costs.rejected.neg()?.detach());
            terms = terms.with_rewards(Rewards::Pair { chosen, rejected });
        }
        let (signed, signs) = (both(&signed)?, both(&signs)?);
        let right = above_zero(&signed)?;
        let all = both(&costs)?.detach();
        let [safe, unsafe_] = [signs.lt(0.0)?, signs.gt(0.0)?].map(|of| of.to_dtype(signed.dtype()));
        let (safe, unsafe_) = (safe?, unsafe_?);
        Ok(terms
            .with_metric("accuracies/ranking", &above_zero(&ranked)?)
            .with_metric("accuracies/sign", &right)
            .with_metric("accuracies/sign_safe", &named_only(&right, &safe)?)
            .with_metric("accuracies/sign_unsafe", &named_only(&right, &unsafe_)?)
            .with_metric("costs/safe", &named_only(&all, &safe)?)
            .with_metric("costs/unsafe", &named_only(&all, &unsafe_)?))
    }

    fn numbers(&self) -> Numbers {
        let flags = [SafeChosen::NUMBER, SafeRejected::NUMBER];
        match self.order {
            SafetyOrder::Chosen => Numbers::of_all(&flags),
            SafetyOrder::Safer => Numbers::of_all(&[flags[0], flags[1], Safer::NUMBER]),
        }
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("sign_weight", self.sign_weight)?;
        check_not_negative::<Self>("l2", self.l2)
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // Where a number says which side is the safer one, pairs without one have no term of their order.
        let order = (self.order == SafetyOrder::Chosen).then_some(1.0);
        order.map(|order| (order + 2.0 * self.sign_weight) * std::f64::consts::LN_2)
    }
}

/// +1 where a side is unsafe and −1 where it is safe, `[B]`: `1 − 2·safe`.
fn sign(input: &ValuedPair, name: &str) -> Result<Tensor> {
    Ok(input.number(name)?.affine(-2.0, 1.0)?)
}

/// Both sides, `[2B]`.
fn both(sides: &Sides) -> Result<Tensor> {
    Ok(Tensor::cat(&[&sides.chosen, &sides.rejected], 0)?)
}

/// 1 where a value is above 0 and 0 elsewhere; detached.
fn above_zero(values: &Tensor) -> Result<Tensor> {
    Ok(values.detach().gt(0.0)?.to_dtype(values.dtype())?)
}

/// The values whose flag is not 0.
fn named_only(values: &Tensor, flags: &Tensor) -> Result<Tensor> {
    let flags = crate::scores::host(flags)?;
    let places: Vec<usize> =
        flags.iter().enumerate().filter(|(_, flag)| **flag != 0.0).map(|(place, _)| place).collect();
    crate::scores::select_rows(&values.detach(), &places)
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_sides, of_values};
    use super::*;
    use crate::{Objective, Scores};

    const SAFER: [f64; 4] = [0.4, 0.1, -0.6, 1.5];
    const UNSAFER: [f64; 4] = [1.2, -0.3, 0.5, 2.0];
    // The recorded signs: −1, −1, 1, −1 of the safer side and 1, −1, 1, 1 of the other.
    const SAFE_SAFER: [f64; 4] = [1.0, 1.0, 0.0, 1.0];
    const SAFE_UNSAFER: [f64; 4] = [0.0, 1.0, 0.0, 0.0];

    #[test]
    fn agrees_with_the_formulas() {
        let numbers = [("safe_chosen", SAFE_SAFER.to_vec()), ("safe_rejected", SAFE_UNSAFER.to_vec())];
        // The safer side is the chosen one; its cost is the recorded "low" one.
        let loss = CostModel { order: SafetyOrder::Chosen, ..CostModel::default() };
        check_sides("cost model", loss, &SAFER, &UNSAFER, &numbers, ["grad_low", "grad_high"]);
    }

    fn with(values: (&[f64], &[f64]), numbers: &[(&str, &[f64])]) -> Scores {
        let (_, mut scores) = of_values(values.0, values.1);
        scores.groups.numbers = numbers.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect();
        scores
    }

    #[test]
    fn the_order_of_the_pair_does_not_matter_where_a_number_says_which_is_safer() {
        let by_number = CostModel { order: SafetyOrder::Safer, ..CostModel::default() };
        let loss = |loss: CostModel, scores: &Scores| {
            loss.evaluate(scores, &Context::default())
                .unwrap()
                .loss(&scores.totals())
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
        };
        let flags: [(&str, &[f64]); 2] = [("safe_chosen", &SAFE_SAFER), ("safe_rejected", &SAFE_UNSAFER)];
        let by_order = CostModel { order: SafetyOrder::Chosen, ..CostModel::default() };
        let expected = loss(by_order, &with((&SAFER, &UNSAFER), &flags));
        let straight = [flags[0], flags[1], ("safer", &[1.0; 4])];
        assert!((loss(by_number, &with((&SAFER, &UNSAFER), &straight)) - expected).abs() < 1e-15);
        let turned: [(&str, &[f64]); 3] =
            [("safe_chosen", &SAFE_UNSAFER), ("safe_rejected", &SAFE_SAFER), ("safer", &[-1.0; 4])];
        assert!((loss(by_number, &with((&UNSAFER, &SAFER), &turned)) - expected).abs() < 1e-15);
    }

    #[test]
    fn ranking_and_signs_are_counted_apart() {
        let numbers: [(&str, &[f64]); 3] =
            [("safe_chosen", &SAFE_SAFER), ("safe_rejected", &SAFE_UNSAFER), ("safer", &[1.0, 0.0, 1.0, -1.0])];
        let by_number = CostModel { order: SafetyOrder::Safer, ..CostModel::default() };
        let terms = by_number.evaluate(&with((&SAFER, &UNSAFER), &numbers), &Context::default()).unwrap();
        let metric = |name: &str| {
            let metric = terms.metrics.iter().find(|metric| metric.name == name).unwrap();
            metric.values.to_vec1::<f64>().unwrap()
        };
        assert_eq!(metric("accuracies/ranking"), [1.0, 1.0, 0.0]);
        assert_eq!(metric("accuracies/sign"), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(metric("accuracies/sign_safe"), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(metric("costs/unsafe"), [-0.6, 1.2, 0.5, 2.0]);
        assert!(terms.rewards.is_none());
    }
}
