//! Lion.

use candlewick_kernels::{Buffer, Workspace, lion};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::tensors::{Stretches, Tensor, spans};
use super::{Method, Now, Rule, State, StateMut, fraction, nonzero_tensors, not_negative, positive};
use crate::error::Result;
use crate::tensor_file::Element;

/// Lion (Chen et al. 2023, *Symbolic Discovery of Optimization Algorithms*, Algorithm 2,
/// [arXiv 2302.06675](https://arxiv.org/abs/2302.06675)). Every number moves by the learning rate, whatever its gradient; the
/// authors take three to ten times less than for AdamW, and as much more decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LionOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Weight of the mean of gradients in the direction.
    pub beta1: f64,
    /// Decay of the mean of gradients.
    pub beta2: f64,
    /// Decoupled weight decay. Norms and biases are spared.
    pub weight_decay: f64,
}

impl Default for LionOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-6, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Method for LionOptions {
    const KIND: &'static str = "lion";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        fraction("beta1", self.beta1)?;
        fraction("beta2", self.beta2)?;
        not_negative("weight_decay", self.weight_decay)
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, parameters: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let (count, device) = (tensors.iter().map(Tensor::len).sum(), parameters.device());
        let stretches = Stretches::new(&spans(&tensors, self.weight_decay), device)?;
        Ok(Box::new(Lion { options: *self, stretches, mean: Buffer::zeros(count, device)? }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        number * tensors.iter().map(Tensor::len).sum::<usize>()
    }
}

#[derive(Debug)]
struct Lion<T> {
    options: LionOptions,
    stretches: Stretches,
    mean: Buffer<T>,
}

impl<T: Element> Rule<T> for Lion<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let LionOptions { learning_rate, beta1, beta2, .. } = self.options;
        let hyper = lion::Hyper { lr: learning_rate * now.factor, beta1, beta2, weight_decay: 1.0 };
        let (params, mean, groups) = (parameters.all_mut(), self.mean.view_mut(), self.stretches.groups());
        Ok(lion::step(params, gradients.all(), mean, now.clip.factor()?, hyper, groups, workspace)?)
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        nonzero_tensors(&self.mean, ends)
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        vec![("mean", State::Buffer(&self.mean))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        vec![("mean", StateMut::Buffer(&mut self.mean))]
    }
}
