//! Pairs in the order that a number says.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::{Groups, PairRows, Scores};
use crate::loss::{Context, Objective, Phase, StepScores, forward_state};
use crate::numbers::{COST_GAPS, Margin, Number, Numbers, PerItem, RewardGap, Safer};
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::terms::{LossTerms, Normaliser};
use crate::view::{Needs, Rows, StepWide};

/// Any loss of pairs, with the pairs in the order that a number of the row says and not that of the file: what lets
/// several losses of one row disagree on which side is the better one.
///
/// # Formula
/// `loss(y_w, y_l)` where the number says that the chosen side is the better one, `loss(y_l, y_w)` where it says that
/// the rejected side is, and 0 where it says neither; divided by the number of all pairs. How often the two orders
/// agree, among pairs that are in some order, is reported as `agreement`.
///
/// # Gradient
/// That of the inner loss, with both sides exchanged where the order is turned.
///
/// # When to use
/// Pairs made of one label, such as helpfulness, with a second judgment in a number beside them, such as safety: a
/// [`Panacea`](crate::Panacea) or a `mix` of a loss and of the same loss in the other order.
///
/// # Source
/// None: bookkeeping. Confidence A.
///
/// # Deviations
/// From nothing published. Implicit rewards, and what else the inner loss reports, belong to the turned pairs, those in
/// no order among them as the file has them.
///
/// # Checked by
/// Properties only, because no other program has it; its own tests exchange the sides by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Recipe, Scores, TokenScores};
/// let json = r#"{ "type": "ordered", "by": "safer", "loss": { "type": "dpo", "beta": 1.0 } }"#;
/// let ordered: Recipe = serde_json::from_str(json)?;
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// // The chosen side has a margin of 2; the rejected one, which is the safer, of −2.
/// for (safer, expected) in [(1.0, 0.126_928_011_042_972_5), (-1.0, 2.126_928_011_042_972_5), (0.0, 0.0)] {
///     scores.groups.numbers.insert("safer".to_owned(), vec![safer]);
///     let loss = ordered.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
///     assert!((loss.to_scalar::<f64>()? - expected).abs() < 1e-15);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ordered<O = Box<Recipe>> {
    /// The number that says which side is the better one.
    pub by: OrderedBy,
    /// The loss of pairs: of one value a pair, that reads no numbers.
    pub loss: O,
}

/// What says which side of a pair is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderedBy {
    /// `safer`: 1 the chosen side, −1 the rejected one, 0 neither.
    Safer,
    /// `margin`: above 0 the chosen side, below 0 the rejected one.
    Margin,
    /// `reward_gap`: above 0 the chosen side, below 0 the rejected one.
    RewardGap,
    /// `cost_gap`: below 0 the chosen side, which costs less, above 0 the rejected one.
    CostGap,
    /// `cost_gap_2`, as `cost_gap` of the second constraint.
    #[serde(rename = "cost_gap_2")]
    CostGap2,
    /// `cost_gap_3`, as `cost_gap` of the third constraint.
    #[serde(rename = "cost_gap_3")]
    CostGap3,
    /// `cost_gap_4`, as `cost_gap` of the fourth constraint.
    #[serde(rename = "cost_gap_4")]
    CostGap4,
}

impl OrderedBy {
    fn number(self) -> Number {
        match self {
            Self::Safer => Safer::NUMBER,
            Self::Margin => Margin::NUMBER,
            Self::RewardGap => RewardGap::NUMBER,
            Self::CostGap => COST_GAPS[0],
            Self::CostGap2 => COST_GAPS[1],
            Self::CostGap3 => COST_GAPS[2],
            Self::CostGap4 => COST_GAPS[3],
        }
    }

    /// By how much a value of the number speaks for the chosen side.
    fn for_chosen(self, value: f64) -> f64 {
        match self {
            Self::Safer | Self::Margin | Self::RewardGap => value,
            Self::CostGap | Self::CostGap2 | Self::CostGap3 | Self::CostGap4 => -value,
        }
    }
}

impl<O: Objective> Objective for Ordered<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        let inner = self.loss.needs();
        let numbers = Numbers::of(self.by.number());
        Needs { rows: inner.rows.intersection(Rows::PAIRS), numbers, ..inner }
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        let Needs { rows, step_wide, numbers, .. } = self.loss.needs();
        if !rows.pairs {
            return Err(self.refusal(format!("it reads {rows}, and the order is that of pairs")));
        }
        if step_wide != StepWide::Nothing {
            let reason =
                "it compares the pairs of the step with each other, so that no value belongs to one pair alone";
            return Err(self.refusal(reason.to_owned()));
        }
        if let Some(number) = numbers.iter().next() {
            return Err(self.refusal(format!("it reads `{}`, which belongs to the order of the file", number.name)));
        }
        Ok(())
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        Ok(self.loss.prepare(step, phase)?.wrapped())
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        scores.check()?;
        let needs = self.needs();
        if scores.groups.pairs.is_empty() {
            return Err(needs.unmet(NAME, scores));
        }
        needs.numbers.check(NAME, &scores.groups)?;
        let values = &scores.groups.numbers[self.by.number().name];
        let order: Vec<f64> = values.iter().map(|value| self.by.for_chosen(*value)).collect();
        let pairs = scores.groups.pairs.iter().zip(&order);
        let turn = |(pair, order): (&PairRows, &f64)| match *order < 0.0 {
            true => PairRows { chosen: pair.rejected, rejected: pair.chosen },
            false => *pair,
        };
        let pairs = pairs.map(turn).collect();
        let turned = Scores { groups: Groups { pairs, ..Groups::default() }, ..scores.clone() };
        let mut terms = self.loss.evaluate(&turned, &context.part(0))?;
        let named: Vec<f64> = order.iter().map(|order| f64::from(u8::from(*order != 0.0))).collect();
        let like = scores.policy.log_probs();
        let tensor = |values: Vec<f64>| Tensor::new(values, like.device())?.to_dtype(like.dtype());
        let mask = tensor(named)?;
        for term in &mut terms.terms {
            if term.normaliser != Normaliser::Items || term.numerator.dims() != [order.len()] {
                let reason =
                    "is not divided by the number of pairs; order a loss of pairs alone, and add the other in a mix";
                return Err(self.refusal(format!("its term `{}` {reason}", term.name)));
            }
            term.numerator = (&term.numerator * &mask)?;
        }
        let agree = order.iter().filter(|order| **order != 0.0).map(|order| f64::from(u8::from(*order > 0.0)));
        Ok(terms.with_metric(AGREEMENT, &tensor(agree.collect())?))
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.loss.reference_update()
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // A pair in no order has no loss.
        None
    }

    forward_state!(loss);
}

impl<O: Objective> Ordered<O> {
    fn refusal(&self, reason: String) -> Error {
        Error::Wrapped { outer: NAME, inner: self.loss.name(), reason }
    }
}

const NAME: &str = "ordered";
const AGREEMENT: &str = "agreement";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dpo, TokenScores};
    use candle_core::{Device, Var};

    fn ordered(by: &str, loss: &str) -> Ordered {
        serde_json::from_str(&format!(r#"{{ "by": "{by}", "loss": {{ "type": "{loss}" }} }}"#)).unwrap()
    }

    /// Three pairs: values and gradients of a loss that sees the rows in the given order.
    fn evaluated(objective: &dyn Objective, pairs: [[usize; 2]; 3], number: Option<(&str, [f64; 3])>) -> Vec<Vec<f64>> {
        let rows = [[-1.0f64, -0.5], [-3.0, -1.0], [-0.2, -2.0], [-2.0, -2.5], [-1.5, -0.1], [-4.0, -1.0]];
        let own = Var::new(&rows, &Device::Cpu).unwrap();
        let reference = TokenScores::unmasked(Tensor::full(-1.7f64, (6, 2), &Device::Cpu).unwrap()).unwrap();
        let pairs = pairs.map(|[chosen, rejected]| PairRows { chosen, rejected }).to_vec();
        let mut groups = Groups { pairs, ..Groups::default() };
        if let Some((name, values)) = number {
            groups.numbers.insert(name.to_owned(), values.to_vec());
        }
        let scores = Scores::new(TokenScores::unmasked(own.as_tensor().clone()).unwrap(), Some(reference), groups);
        let terms = objective.evaluate(&scores, &Context::default()).unwrap();
        let values = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        let mut gradient = terms.loss(&scores.totals()).unwrap().backward().unwrap();
        vec![values, gradient.remove(&own).unwrap().flatten_all().unwrap().to_vec1().unwrap()]
    }

    #[test]
    fn the_number_turns_pairs_and_leaves_out_those_without_an_order() {
        let dpo = Dpo::default();
        let by_hand = evaluated(&dpo, [[0, 1], [3, 2], [4, 5]], None);
        for (by, values) in
            [("safer", [1.0, -1.0, 0.0]), ("reward_gap", [0.3, -7.0, 0.0]), ("cost_gap", [-0.1, 2.0, 0.0])]
        {
            let got = evaluated(&ordered(by, "dpo"), [[0, 1], [2, 3], [4, 5]], Some((by, values)));
            assert_eq!(got[0][..2], by_hand[0][..2]);
            assert_eq!(got[0][2].to_bits(), 0f64.to_bits());
            assert_eq!(got[1][..8], by_hand[1][..8]);
            assert!(got[1][8..].iter().all(|slope| slope.abs() < 1e-300));
        }
    }

    #[test]
    fn agreement_is_over_pairs_in_some_order() {
        let rows = TokenScores::unmasked(Tensor::full(-1.0f64, (6, 1), &Device::Cpu).unwrap()).unwrap();
        let mut scores = Scores::of_pairs(rows.clone(), Some(rows));
        scores.groups.numbers.insert("safer".to_owned(), vec![1.0, -1.0, 0.0]);
        let terms = ordered("safer", "dpo").evaluate(&scores, &Context::default()).unwrap();
        let agreement = terms.metrics.iter().find(|metric| metric.name == AGREEMENT).unwrap();
        assert_eq!(agreement.values.to_vec1::<f64>().unwrap(), [1.0, 0.0]);
        scores.groups.numbers.insert("safer".to_owned(), vec![0.5, -1.0, 0.0]);
        assert!(ordered("safer", "dpo").evaluate(&scores, &Context::default()).is_err());
    }

    #[test]
    fn what_has_no_order_of_pairs_is_refused() {
        for (loss, words) in [
            ("kto", "it reads labelled rows"),
            ("aot", "compares the pairs of the step"),
            ("modpo", "belongs to the order of the file"),
        ] {
            let text = ordered("safer", loss).validate().unwrap_err().to_string();
            assert!(text.starts_with("ordered cannot wrap") && text.contains(words), "{text}");
        }
        let rows = TokenScores::unmasked(Tensor::full(-1.0f64, (2, 1), &Device::Cpu).unwrap()).unwrap();
        let mut scores = Scores::of_pairs(rows.clone(), Some(rows));
        scores.groups.numbers.insert("safer".to_owned(), vec![1.0]);
        let text = ordered("safer", "sft").evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert!(text.contains("is not divided by the number of pairs"), "{text}");
    }
}
