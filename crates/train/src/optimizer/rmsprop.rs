//! RMSprop.

use candlewick_kernels::{Buffer, Workspace, rmsprop};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::tensors::{Stretches, Tensor, spans};
use super::{Method, Now, Rule, State, StateMut, fraction, nonzero_tensors, not_negative, positive};
use crate::error::Result;
use crate::tensor_file::Element;

/// RMSprop (Hinton, *Neural Networks for Machine Learning*, lecture 6e; centred: Graves 2013,
/// [arXiv 1308.0850](https://arxiv.org/abs/1308.0850), equations 38 to 45), as in torch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RmsPropOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Decay of the mean of squared gradients.
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Times the weights, added to their gradient as in torch: it goes through the mean square. Norms and biases are spared.
    pub weight_decay: f64,
    /// Decay of the velocity; 0 for none.
    pub momentum: f64,
    /// Whether the square of the mean gradient is taken off the mean square.
    pub centered: bool,
}

impl Default for RmsPropOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-6, alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }
    }
}

impl Method for RmsPropOptions {
    const KIND: &'static str = "rmsprop";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        fraction("alpha", self.alpha)?;
        not_negative("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        fraction("momentum", self.momentum)
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, parameters: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let (count, device) = (tensors.iter().map(Tensor::len).sum(), parameters.device());
        let zeros = || Buffer::zeros(count, device);
        Ok(Box::new(RmsProp {
            options: *self,
            stretches: Stretches::new(&spans(&tensors, self.weight_decay), device)?,
            mean_square: zeros()?,
            mean: self.centered.then(zeros).transpose()?,
            velocity: (self.momentum > 0.0).then(zeros).transpose()?,
        }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        let buffers = 1 + usize::from(self.centered) + usize::from(self.momentum > 0.0);
        buffers * number * tensors.iter().map(Tensor::len).sum::<usize>()
    }
}

#[derive(Debug)]
struct RmsProp<T> {
    options: RmsPropOptions,
    stretches: Stretches,
    mean_square: Buffer<T>,
    mean: Option<Buffer<T>>,
    velocity: Option<Buffer<T>>,
}

impl<T: Element> Rule<T> for RmsProp<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let RmsPropOptions { learning_rate, alpha, eps, momentum, .. } = self.options;
        let state = rmsprop::State {
            mean_square: self.mean_square.view_mut(),
            mean: self.mean.as_mut().map(Buffer::view_mut),
            velocity: self.velocity.as_mut().map(Buffer::view_mut),
        };
        let hyper = rmsprop::Hyper { lr: learning_rate * now.factor, alpha, eps, weight_decay: 1.0, momentum };
        let (params, groups) = (parameters.all_mut(), self.stretches.groups());
        Ok(rmsprop::step(params, gradients.all(), state, now.clip.factor()?, hyper, groups, workspace)?)
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        nonzero_tensors(&self.mean_square, ends)
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        let mut state = vec![("mean_square", State::Buffer(&self.mean_square))];
        state.extend(self.mean.iter().map(|mean| ("mean", State::Buffer(mean))));
        state.extend(self.velocity.iter().map(|velocity| ("velocity", State::Buffer(velocity))));
        state
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        let mut state = vec![("mean_square", StateMut::Buffer(&mut self.mean_square))];
        state.extend(self.mean.iter_mut().map(|mean| ("mean", StateMut::Buffer(mean))));
        state.extend(self.velocity.iter_mut().map(|velocity| ("velocity", StateMut::Buffer(velocity))));
        state
    }
}
