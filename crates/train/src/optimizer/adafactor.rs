//! Adafactor.
use std::ops::Range;

use candlewick_kernels::adafactor::{self, MeanSquare};
use candlewick_kernels::{Workspace, zeros};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::tensors::Tensor;
use super::{Method, Now, Rule, State, StateMut, any_nonzero, in_range, not_negative, of_each_range, positive};
use crate::error::Result;
use crate::tensor_file::{Element, Plain};

/// Adafactor (Shazeer & Stern 2018, [arXiv 1804.04235](https://arxiv.org/abs/1804.04235), Algorithms 4 and 5), as in torch: of a matrix
/// only the means over its rows and columns are kept.
///
/// The step of a tensor is `min(learning_rate, 1/√t)` times the root mean square of its weights, so that the learning rate is a
/// share of their size: torch's default is 1e-2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorOptions {
    /// Peak learning rate, relative to the size of the weights; the schedule scales it.
    pub learning_rate: f64,
    /// The mean squares of step t decay by `1 − t^beta2_decay`; at most 0.
    pub beta2_decay: f64,
    /// The least root of a mean square; the rounding unit of the numbers (2⁻²³ in f32) where it is not given.
    pub eps1: Option<f64>,
    /// The least size that weights are taken to have.
    pub eps2: f64,
    /// An update whose root mean square is larger is scaled down to it; at least 1. torch calls it `d`.
    pub clip_threshold: f64,
    /// Decoupled weight decay. Norms and biases are spared.
    pub weight_decay: f64,
}

impl Default for AdafactorOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-6, beta2_decay: -0.8, eps1: None, eps2: 1e-3, clip_threshold: 1.0, weight_decay: 0.0 }
    }
}

impl Method for AdafactorOptions {
    const KIND: &'static str = "adafactor";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        in_range("beta2_decay", self.beta2_decay, self.beta2_decay <= 0.0, "a number that is not above 0")?;
        self.eps1.map_or(Ok(()), |eps1| positive("eps1", eps1))?;
        not_negative("eps2", self.eps2)?;
        in_range("clip_threshold", self.clip_threshold, self.clip_threshold >= 1.0, "at least 1")?;
        not_negative("weight_decay", self.weight_decay)
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, _: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let [rows, cols, whole] = lengths(&tensors);
        Ok(Box::new(Adafactor { options: *self, tensors, rows: zeros(rows), cols: zeros(cols), whole: zeros(whole) }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        number * lengths(tensors).iter().sum::<usize>()
    }
}

/// Numbers of all means over rows, over columns, and of whole tensors.
fn lengths(tensors: &[Tensor]) -> [usize; 3] {
    let mut lengths = [0; 3];
    for tensor in tensors {
        match tensor.matrix {
            Some((rows, cols)) => {
                lengths[0] += rows;
                lengths[1] += cols;
            }
            None => lengths[2] += tensor.len(),
        }
    }
    lengths
}

/// The distance from 1 to the next number.
fn rounding_unit<T: Element>() -> f64 {
    if T::SIZE == f32::SIZE { f64::from(f32::EPSILON) } else { f64::EPSILON }
}

/// The next `len` places after `at`.
fn next(at: &mut usize, len: usize) -> Range<usize> {
    *at += len;
    *at - len..*at
}

#[derive(Debug)]
struct Adafactor<T> {
    options: AdafactorOptions,
    tensors: Vec<Tensor>,
    rows: Vec<T>,
    cols: Vec<T>,
    whole: Vec<T>,
}

impl<T: Element> Rule<T> for Adafactor<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let AdafactorOptions { learning_rate, beta2_decay, eps1, eps2, clip_threshold, weight_decay } = self.options;
        let eps1 = eps1.unwrap_or(rounding_unit::<T>());
        let (mut row, mut col, mut at) = (0, 0, 0);
        for tensor in &self.tensors {
            let lr = learning_rate * now.factor * tensor.rate;
            let weight_decay = tensor.weight_decay(weight_decay);
            let hyper = adafactor::Hyper { lr, beta2_decay, eps1, eps2, clip_threshold, weight_decay };
            let mean_square = match tensor.matrix {
                Some((rows, cols)) => MeanSquare::Factored {
                    rows: (&mut self.rows[next(&mut row, rows)]).into(),
                    cols: (&mut self.cols[next(&mut col, cols)]).into(),
                },
                None => MeanSquare::Whole((&mut self.whole[next(&mut at, tensor.len())]).into()),
            };
            let params = &mut parameters.data_mut()[tensor.range.clone()];
            let grads = &gradients.data()[tensor.range.clone()];
            adafactor::step(params.into(), grads.into(), mean_square, now.step, now.clip.factor()?, hyper, workspace)?;
        }
        Ok(())
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        Ok(of_each_range(ends, |range| {
            let (mut row, mut at) = (0, 0);
            self.tensors.iter().any(|tensor| {
                let met = match tensor.matrix {
                    Some((rows, _)) => any_nonzero(&self.rows[next(&mut row, rows)]),
                    None => any_nonzero(&self.whole[next(&mut at, tensor.len())]),
                };
                met && tensor.range.start >= range.start && tensor.range.end <= range.end
            })
        }))
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        let [rows, cols, whole] = [&self.rows, &self.cols, &self.whole].map(|numbers| State::Numbers(numbers));
        vec![("mean_square_rows", rows), ("mean_square_cols", cols), ("mean_square", whole)]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        let [rows, cols, whole] =
            [&mut self.rows, &mut self.cols, &mut self.whole].map(|numbers| StateMut::Numbers(numbers));
        vec![("mean_square_rows", rows), ("mean_square_cols", cols), ("mean_square", whole)]
    }
}
