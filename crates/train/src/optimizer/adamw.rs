//! AdamW.

use candlewick_kernels::{Buffer, Workspace, adamw};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::tensors::{Span, Stretches, Tensor, spans};
use super::{Method, Now, Rule, State, StateMut, fraction, nonzero_tensors, not_negative, positive};
use crate::error::Result;
use crate::tensor_file::Element;

/// AdamW (Loshchilov & Hutter 2019, *Decoupled Weight Decay Regularization*, Algorithm 2,
/// [arXiv 1711.05101](https://arxiv.org/abs/1711.05101)), as in torch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay. Norms and biases are spared, as transformers' trainer does.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamWOptions {
    /// The hyperparameters of a step for what learns `rate` times as fast and decays by `weight_decay`.
    pub(super) fn hyper(&self, now: Now<'_>, rate: f64, weight_decay: f64) -> adamw::Hyper {
        let lr = self.learning_rate * now.factor * rate;
        adamw::Hyper { lr, beta1: self.beta1, beta2: self.beta2, eps: self.eps, weight_decay }
    }
}

impl Method for AdamWOptions {
    const KIND: &'static str = "adamw";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        fraction("beta1", self.beta1)?;
        fraction("beta2", self.beta2)?;
        not_negative("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, parameters: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let count = tensors.iter().map(Tensor::len).sum();
        let spans = spans(&tensors, self.weight_decay);
        let zeros = || Buffer::zeros(count, parameters.device());
        let on_device = parameters.device().map(|device| Stretches::new(&spans, Some(device))).transpose()?;
        Ok(Box::new(AdamW { options: *self, spans, on_device, mean: zeros()?, mean_square: zeros()? }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        2 * number * tensors.iter().map(Tensor::len).sum::<usize>()
    }
}

#[derive(Debug)]
struct AdamW<T> {
    options: AdamWOptions,
    spans: Vec<Span>,
    /// The same where the parameters are, if that is a device.
    on_device: Option<Stretches>,
    mean: Buffer<T>,
    mean_square: Buffer<T>,
}

impl<T: Element> AdamW<T> {
    fn step_on_host(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        for Span { range, weight_decay, rate } in &self.spans {
            adamw::step(
                parameters.all_mut().part(range.clone())?,
                gradients.all().part(range.clone())?,
                self.mean.view_mut().part(range.clone())?,
                self.mean_square.view_mut().part(range.clone())?,
                now.step,
                now.clip.factor()?,
                self.options.hyper(now, *rate, *weight_decay),
                workspace,
            )?;
        }
        Ok(())
    }
}

impl<T: Element> Rule<T> for AdamW<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Some(stretches) = &self.on_device else {
            return self.step_on_host(parameters, gradients, now, workspace);
        };
        adamw::step_clipped(
            parameters.all_mut(),
            gradients.all(),
            self.mean.view_mut(),
            self.mean_square.view_mut(),
            None,
            now.clip.outcome(),
            now.step,
            self.options.hyper(now, 1.0, 1.0),
            stretches.groups(),
            workspace,
        )?;
        Ok(())
    }

    fn heeds_norm(&self) -> bool {
        self.on_device.is_some()
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        let (mean, mean_square) = (nonzero_tensors(&self.mean, ends)?, nonzero_tensors(&self.mean_square, ends)?);
        Ok(mean.into_iter().zip(mean_square).map(|(mean, square)| mean || square).collect())
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        vec![("mean", State::Buffer(&self.mean)), ("mean_square", State::Buffer(&self.mean_square))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        vec![("mean", StateMut::Buffer(&mut self.mean)), ("mean_square", StateMut::Buffer(&mut self.mean_square))]
    }
}
