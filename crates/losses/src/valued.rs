//! Windows on the numbers that a score model says of rows.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::scores::{Outputs, select_rows};
use crate::view::{Needs, Rows, Sides, View};

const VALUES: Outputs = Outputs { values: true, ..Outputs::NONE };

/// Pairs with the numbers that a score model says of both sides.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Scores, TokenScores, ValuedPair, View};
/// let values = Tensor::new(&[[0.5f64, 7.0], [-1.0, 8.0]], &Device::Cpu)?;
/// let scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// let pair = ValuedPair::view(&scores).expect("all is there");
/// assert_eq!(pair.of_head(0)?.margins()?.to_vec1::<f64>()?, [1.5]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ValuedPair {
    values: Values,
    chosen: Vec<usize>,
    rejected: Vec<usize>,
}

/// As [`ValuedPair`], with what the heads read of every row. It derefs to [`ValuedPair`].
#[derive(Debug, Clone)]
pub struct PooledPair {
    pair: ValuedPair,
    pooled: Tensor,
}

/// Completions with a verdict and the numbers that a score model says of them.
#[derive(Debug, Clone)]
pub struct ValuedLabels {
    values: Values,
    rows: Vec<usize>,
    desirable: Vec<bool>,
}

/// Single completions, of data that hold demonstrations, with the numbers that a score model says of them. Item `b` is
/// demonstration `b`.
#[derive(Debug, Clone)]
pub struct ValuedDemonstrations {
    values: Values,
    rows: Vec<usize>,
}

/// Numbers of rows, `[N, K]`, and those that the data bring.
#[derive(Debug, Clone)]
struct Values {
    values: Tensor,
    numbers: BTreeMap<String, Vec<f64>>,
}

impl Values {
    fn of(scores: &Scores) -> Option<Self> {
        let values = scores.policy.values()?.clone();
        Some(Self { values, numbers: scores.groups.numbers.clone() })
    }

    /// `count` heads of the given rows, `[B, count]`.
    fn heads(&self, first: usize, count: usize, rows: &[usize]) -> Result<Tensor> {
        let heads = self.values.dims()[1];
        if first.checked_add(count).is_none_or(|end| end > heads) {
            return Err(Error::Head { head: first.saturating_add(count - 1), heads });
        }
        Ok(select_rows(&self.values, rows)?.narrow(1, first, count)?)
    }

    fn head(&self, head: usize, rows: &[usize]) -> Result<Tensor> {
        Ok(self.heads(head, 1, rows)?.squeeze(1)?)
    }

    /// A number of every item by name, `[B]`.
    fn number(&self, name: &str, items: usize) -> Result<Tensor> {
        let values = self.numbers.get(name).filter(|values| values.len() == items);
        let values = values.ok_or_else(|| Error::MissingScalar { name: name.to_owned() })?;
        Ok(Tensor::new(values.as_slice(), self.values.device())?.to_dtype(self.values.dtype())?)
    }
}

impl View for ValuedPair {
    const NEEDS: Needs = Needs { outputs: VALUES, ..Needs::of(Rows::PAIRS) };

    fn view(scores: &Scores) -> Option<Self> {
        let pairs = &scores.groups.pairs;
        let values = Values::of(scores).filter(|_| !pairs.is_empty())?;
        let chosen = pairs.iter().map(|pair| pair.chosen).collect();
        Some(Self { values, chosen, rejected: pairs.iter().map(|pair| pair.rejected).collect() })
    }
}

impl ValuedPair {
    /// What one head says of both sides, `[B]` each; differentiable.
    ///
    /// # Errors
    /// If the model has no such head.
    pub fn of_head(&self, head: usize) -> Result<Sides> {
        Ok(Sides { chosen: self.values.head(head, &self.chosen)?, rejected: self.values.head(head, &self.rejected)? })
    }

    /// What `count` heads say of both sides, `[B, count]` each; differentiable.
    ///
    /// # Errors
    /// If the model has fewer heads.
    pub fn of_heads(&self, first: usize, count: usize) -> Result<Sides> {
        let [chosen, rejected] = [&self.chosen, &self.rejected].map(|rows| self.values.heads(first, count, rows));
        Ok(Sides { chosen: chosen?, rejected: rejected? })
    }

    /// A number of every pair, `[B]`: for a loss that reads it only under some of its settings, which
    /// [`Loss::numbers`](crate::Loss::numbers) then names.
    ///
    /// # Errors
    /// If the data gave none of that name.
    pub fn number(&self, name: &str) -> Result<Tensor> {
        self.values.number(name, self.chosen.len())
    }
}

impl View for PooledPair {
    const NEEDS: Needs = Needs { outputs: Outputs { pooled: true, ..VALUES }, ..ValuedPair::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        Some(Self { pair: ValuedPair::view(scores)?, pooled: scores.policy.pooled()?.clone() })
    }
}

impl PooledPair {
    /// What the heads read of the chosen side less what they read of the rejected one, `[B, H]`, on the host.
    pub(crate) fn differences(&self) -> Result<Vec<Vec<f64>>> {
        let [chosen, rejected] = [&self.pair.chosen, &self.pair.rejected].map(|rows| select_rows(&self.pooled, rows));
        Ok((chosen? - rejected?)?.to_dtype(DType::F64)?.to_vec2()?)
    }
}

impl std::ops::Deref for PooledPair {
    type Target = ValuedPair;

    fn deref(&self) -> &ValuedPair {
        &self.pair
    }
}

impl View for ValuedLabels {
    const NEEDS: Needs = Needs { outputs: VALUES, ..Needs::of(Rows::LABELLED) };

    fn view(scores: &Scores) -> Option<Self> {
        let labelled = &scores.groups.labelled;
        let values = Values::of(scores).filter(|_| !labelled.is_empty())?;
        let rows = labelled.iter().map(|label| label.row).collect();
        Some(Self { values, rows, desirable: labelled.iter().map(|label| label.desirable).collect() })
    }
}

impl ValuedLabels {
    /// What one head says of every row, `[B]`; differentiable.
    ///
    /// # Errors
    /// If the model has no such head.
    pub fn of_head(&self, head: usize) -> Result<Tensor> {
        self.values.head(head, &self.rows)
    }

    /// The verdicts, `[B]`.
    pub fn desirable(&self) -> &[bool] {
        &self.desirable
    }
}

impl View for ValuedDemonstrations {
    const NEEDS: Needs = Needs { outputs: VALUES, ..Needs::of(Rows::DEMONSTRATIONS) };

    fn view(scores: &Scores) -> Option<Self> {
        let rows = scores.groups.demonstrations.clone();
        let values = Values::of(scores).filter(|_| !rows.is_empty())?;
        Some(Self { values, rows })
    }
}

impl ValuedDemonstrations {
    /// What one head says of every row, `[B]`; differentiable.
    ///
    /// # Errors
    /// If the model has no such head.
    pub fn of_head(&self, head: usize) -> Result<Tensor> {
        self.values.head(head, &self.rows)
    }

    /// What `count` heads say of every row, `[B, count]`; differentiable.
    ///
    /// # Errors
    /// If the model has fewer heads.
    pub fn of_heads(&self, first: usize, count: usize) -> Result<Tensor> {
        self.values.heads(first, count, &self.rows)
    }

    /// A number of every row, `[B]`: see [`ValuedPair::number`].
    ///
    /// # Errors
    /// If the data gave none of that name.
    pub fn number(&self, name: &str) -> Result<Tensor> {
        self.values.number(name, self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{BradleyTerry, Context, Objective, TokenScores};

    #[test]
    fn a_head_that_is_not_there_is_named() {
        let values = Tensor::new(&[[0.5f64, 7.0], [-1.0, 8.0]], &Device::Cpu).unwrap();
        let scores = Scores::of_pairs(TokenScores::of_values(values).unwrap(), None);
        let loss = BradleyTerry { head: 2, ..BradleyTerry::default() };
        let error = loss.evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "head 2 is read, and the score model has 2 heads, counted from 0; in a run, model.heads names as many as the objective reads"
        );
    }

    #[test]
    fn a_policy_says_no_numbers() {
        let log_probs = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-2.0]], &Device::Cpu).unwrap()).unwrap();
        let scores = Scores::of_pairs(log_probs, None);
        let error = BradleyTerry::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert!(error.contains("values"), "{error}");
    }
}
