//! AdamW with moments in eight bits.
use std::ops::Range;

use candlewick_kernels::{Workspace, adamw, adamw_8bit, zeros};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::adamw::AdamWOptions;
use super::tensors::{Role, Tensor};
use super::{Method, Now, Rule, State, StateMut, any_nonzero, of_each_range};
use crate::error::Result;
use crate::tensor_file::Element;

/// AdamW whose moments are kept in eight bits each, by blocks of 256 (Dettmers et al. 2022, *8-bit Optimizers via Block-wise
/// Quantization*, [arXiv 2110.02861](https://arxiv.org/abs/2110.02861)): a quarter of the memory, and nearly the same steps.
///
/// Small tensors and the table of embeddings keep theirs in full, as with bitsandbytes under transformers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW8bitOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay. Norms and biases are spared.
    pub weight_decay: f64,
    /// Tensors of fewer numbers keep their moments in full.
    pub min_8bit_size: usize,
}

impl Default for AdamW8bitOptions {
    fn default() -> Self {
        let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = AdamWOptions::default();
        Self { learning_rate, beta1, beta2, eps, weight_decay, min_8bit_size: 4096 }
    }
}

impl AdamW8bitOptions {
    fn in_full(&self) -> AdamWOptions {
        let Self { learning_rate, beta1, beta2, eps, weight_decay, .. } = *self;
        AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay }
    }

    fn is_8bit(&self, tensor: &Tensor) -> bool {
        tensor.len() >= self.min_8bit_size && tensor.role != Role::Embedding
    }

    /// Numbers in eight bits, their blocks, and numbers in full.
    fn lengths(&self, tensors: &[Tensor]) -> [usize; 3] {
        let mut lengths = [0; 3];
        for tensor in tensors {
            match self.is_8bit(tensor) {
                true => {
                    lengths[0] += tensor.len();
                    lengths[1] += tensor.len().div_ceil(adamw_8bit::BLOCK);
                }
                false => lengths[2] += tensor.len(),
            }
        }
        lengths
    }
}

impl Method for AdamW8bitOptions {
    const KIND: &'static str = "adamw_8bit";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        self.in_full().check()
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, _: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let [codes, blocks, full] = self.lengths(&tensors);
        let (mut start, mut block, mut at) = (0, 0, 0);
        let place = |tensor: Tensor| match self.is_8bit(&tensor) {
            true => {
                let blocks = tensor.len().div_ceil(adamw_8bit::BLOCK);
                let place = Place::Codes { codes: start..start + tensor.len(), scales: block..block + blocks };
                (start, block) = (start + tensor.len(), block + blocks);
                (tensor, place)
            }
            false => {
                let place = Place::Full(at..at + tensor.len());
                at += tensor.len();
                (tensor, place)
            }
        };
        let places = tensors.into_iter().map(place).collect();
        let [zero_mean, zero_square] = adamw_8bit::zero();
        Ok(Box::new(AdamW8bit {
            options: *self,
            places,
            mean_codes: vec![zero_mean; codes],
            mean_square_codes: vec![zero_square; codes],
            mean_scales: zeros(blocks),
            mean_square_scales: zeros(blocks),
            mean: zeros(full),
            mean_square: zeros(full),
        }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        let [codes, blocks, full] = self.lengths(tensors);
        2 * (codes + number * (blocks + full))
    }
}

/// Where the moments of a tensor lie.
#[derive(Debug)]
enum Place {
    Codes { codes: Range<usize>, scales: Range<usize> },
    Full(Range<usize>),
}

#[derive(Debug)]
struct AdamW8bit<T> {
    options: AdamW8bitOptions,
    places: Vec<(Tensor, Place)>,
    mean_codes: Vec<u8>,
    mean_square_codes: Vec<u8>,
    mean_scales: Vec<T>,
    mean_square_scales: Vec<T>,
    mean: Vec<T>,
    mean_square: Vec<T>,
}

impl<T: Element> Rule<T> for AdamW8bit<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        for (tensor, place) in &self.places {
            let decay = tensor.weight_decay(self.options.weight_decay);
            let hyper = self.options.in_full().hyper(now, tensor.rate, decay);
            let params = (&mut parameters.data_mut()[tensor.range.clone()]).into();
            let grads = (&gradients.data()[tensor.range.clone()]).into();
            match place {
                Place::Codes { codes, scales } => {
                    let moments = adamw_8bit::Moments {
                        mean: (&mut self.mean_codes[codes.clone()]).into(),
                        mean_square: (&mut self.mean_square_codes[codes.clone()]).into(),
                        mean_scales: (&mut self.mean_scales[scales.clone()]).into(),
                        mean_square_scales: (&mut self.mean_square_scales[scales.clone()]).into(),
                    };
                    adamw_8bit::step(params, grads, moments, now.step, now.clip.factor()?, hyper, workspace)?;
                }
                Place::Full(at) => {
                    let mean = (&mut self.mean[at.clone()]).into();
                    let mean_square = (&mut self.mean_square[at.clone()]).into();
                    adamw::step(params, grads, mean, mean_square, now.step, now.clip.factor()?, hyper, workspace)?;
                }
            }
        }
        Ok(())
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        Ok(of_each_range(ends, |range| {
            let mut within = self.places.iter().filter(|(tensor, _)| tensor.range == range);
            within.any(|(_, place)| match place {
                Place::Codes { scales, .. } => any_nonzero(&self.mean_square_scales[scales.clone()]),
                Place::Full(at) => any_nonzero(&self.mean[at.clone()]) || any_nonzero(&self.mean_square[at.clone()]),
            })
        }))
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        vec![
            ("mean_codes", State::Codes(&self.mean_codes)),
            ("mean_square_codes", State::Codes(&self.mean_square_codes)),
            ("mean_scales", State::Numbers(&self.mean_scales)),
            ("mean_square_scales", State::Numbers(&self.mean_square_scales)),
            ("mean", State::Numbers(&self.mean)),
            ("mean_square", State::Numbers(&self.mean_square)),
        ]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        vec![
            ("mean_codes", StateMut::Codes(&mut self.mean_codes)),
            ("mean_square_codes", StateMut::Codes(&mut self.mean_square_codes)),
            ("mean_scales", StateMut::Numbers(&mut self.mean_scales)),
            ("mean_square_scales", StateMut::Numbers(&mut self.mean_square_scales)),
            ("mean", StateMut::Numbers(&mut self.mean)),
            ("mean_square", StateMut::Numbers(&mut self.mean_square)),
        ]
    }
}
