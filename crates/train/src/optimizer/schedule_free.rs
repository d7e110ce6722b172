//! Schedule-free AdamW.

use candlewick_kernels::{Buffer, Workspace, elementwise, schedule_free};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::tensors::{Stretches, Tensor, spans};
use super::{Method, Now, Rule, State, StateMut, fraction, in_range, nonzero_tensors, not_negative, positive};
use crate::error::Result;
use crate::tensor_file::Element;

/// Schedule-free AdamW (Defazio et al. 2024, *The Road Less Scheduled*, Algorithm 1,
/// [arXiv 2405.15682](https://arxiv.org/abs/2405.15682)): an average over the steps stands in the place of a falling learning rate.
///
/// Between steps the policy holds the averaged weights x: they are what is evaluated, sampled from, and saved, in checkpoints and
/// at the end. Within a step it holds the weights y at which the gradient is taken. The state is z and the mean square.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleFreeAdamWOptions {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// The share of the average in the weights at which the gradient is taken; above 0.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled decay of the weights at which the gradient is taken. Norms and biases are spared.
    pub weight_decay: f64,
    /// Step t counts in the average by `t^r`.
    pub r: f64,
    /// And by the largest learning rate so far to this power, so that a warm-up counts little.
    pub weight_lr_power: f64,
}

impl Default for ScheduleFreeAdamWOptions {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            r: 0.0,
            weight_lr_power: 2.0,
        }
    }
}

impl Method for ScheduleFreeAdamWOptions {
    const KIND: &'static str = "schedule_free_adamw";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        in_range("beta1", self.beta1, self.beta1 > 0.0 && self.beta1 < 1.0, "0 < beta1 < 1")?;
        fraction("beta2", self.beta2)?;
        not_negative("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("r", self.r)?;
        not_negative("weight_lr_power", self.weight_lr_power)
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, parameters: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        let (count, device) = (tensors.iter().map(Tensor::len).sum(), parameters.device());
        let zeros = || Buffer::zeros(count, device);
        let mut z = zeros()?;
        elementwise::copy(z.view_mut(), parameters.all())?;
        Ok(Box::new(ScheduleFreeAdamW {
            options: *self,
            stretches: Stretches::new(&spans(&tensors, self.weight_decay), device)?,
            z,
            mean_square: zeros()?,
            average: [0.0; 2],
            kept: zeros()?,
        }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        2 * number * tensors.iter().map(Tensor::len).sum::<usize>() + size_of::<[f64; 2]>()
    }

    fn scratch(&self, tensors: &[Tensor], number: usize) -> usize {
        number * tensors.iter().map(Tensor::len).sum::<usize>()
    }
}

#[derive(Debug)]
struct ScheduleFreeAdamW<T> {
    options: ScheduleFreeAdamWOptions,
    stretches: Stretches,
    z: Buffer<T>,
    mean_square: Buffer<T>,
    /// The sum of all steps' weights in the average, and the largest learning rate so far.
    average: [f64; 2],
    /// The average, while the gradient is taken elsewhere.
    kept: Buffer<T>,
}

impl<T: Element> Rule<T> for ScheduleFreeAdamW<T> {
    fn begin(&mut self, parameters: &mut Parameters<T>, workspace: &mut Workspace) -> Result<()> {
        let (params, kept) = (parameters.all_mut(), self.kept.view_mut());
        Ok(schedule_free::begin(params, kept, self.z.view(), self.options.beta1, workspace)?)
    }

    fn give_up(&mut self, parameters: &mut Parameters<T>) -> Result<()> {
        Ok(elementwise::copy(parameters.all_mut(), self.kept.view())?)
    }

    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let ScheduleFreeAdamWOptions { learning_rate, beta2, eps, r, weight_lr_power, .. } = self.options;
        let base = learning_rate * now.factor;
        let [sum, largest] = self.average;
        let largest = largest.max(base);
        let weight = (now.step as f64).powf(r) * largest.powf(weight_lr_power);
        let sum = sum + weight;
        let share = if sum > 0.0 { weight / sum } else { 0.0 };
        schedule_free::step(
            parameters.all_mut(),
            gradients.all(),
            self.kept.view(),
            self.z.view_mut(),
            self.mean_square.view_mut(),
            now.step,
            now.clip.factor()?,
            schedule_free::Hyper { lr: base, beta2, eps, weight_decay: 1.0, share },
            self.stretches.groups(),
            workspace,
        )?;
        self.average = [sum, largest];
        Ok(())
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        nonzero_tensors(&self.mean_square, ends)
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        vec![
            ("z", State::Buffer(&self.z)),
            ("mean_square", State::Buffer(&self.mean_square)),
            ("average", State::Wide(&self.average)),
        ]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        vec![
            ("z", StateMut::Buffer(&mut self.z)),
            ("mean_square", StateMut::Buffer(&mut self.mean_square)),
            ("average", StateMut::Wide(&mut self.average)),
        ]
    }
}
