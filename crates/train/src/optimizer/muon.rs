//! Muon.

use candlewick_kernels::muon::{self, Shape};
use candlewick_kernels::{Workspace, adamw, zeros};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use super::adamw::AdamWOptions;
use super::tensors::{Role, Tensor};
use super::{Method, Now, Rule, State, StateMut, any_nonzero, fraction, not_negative, of_each_range, positive};
use crate::error::{Error, Result};
use crate::tensor_file::Element;

/// Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>) for the matrices of layers, and AdamW for embeddings, head,
/// norms, biases and adapters, as its authors advise. The iteration is torch's, in the numbers of the weights and not in bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Decay of the momentum of matrices.
    pub momentum: f64,
    /// Whether the gradient is mixed into the momentum once more.
    pub nesterov: bool,
    /// Steps of the iteration that orthogonalises an update; below 100.
    pub ns_steps: u32,
    /// What the learning rate of a matrix is multiplied by.
    pub adjust_lr_fn: AdjustLr,
    /// Decoupled weight decay. Norms and biases are spared.
    pub weight_decay: f64,
    /// Peak learning rate of what AdamW updates; `learning_rate` where it is not given.
    pub adamw_learning_rate: Option<f64>,
    /// AdamW's decay of the mean of gradients.
    pub beta1: f64,
    /// AdamW's decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of AdamW's mean square.
    pub eps: f64,
}

/// How the learning rate of a matrix `[R, C]` follows from its shape; names and rules of `torch.optim.Muon`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdjustLr {
    /// `0.2·√max(R, C)`: updates as large as AdamW's, so that a learning rate found for AdamW serves (Liu et al. 2025, *Muon is Scalable
    /// for LLM Training*, equation 4, [arXiv 2502.16982](https://arxiv.org/abs/2502.16982)).
    #[default]
    MatchRmsAdamw,
    /// `√max(1, R/C)`: the authors' own, and torch's default.
    Original,
    /// `√(R/C)`.
    SpectralUnclamped,
}

impl AdjustLr {
    fn factor(self, Shape { rows, cols }: Shape) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Self::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
            Self::Original => (rows / cols).max(1.0).sqrt(),
            Self::SpectralUnclamped => (rows / cols).sqrt(),
        }
    }
}

impl Default for MuonOptions {
    fn default() -> Self {
        let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = AdamWOptions::default();
        Self {
            learning_rate,
            momentum: 0.95,
            nesterov: true,
            ns_steps: 5,
            adjust_lr_fn: AdjustLr::default(),
            weight_decay,
            adamw_learning_rate: None,
            beta1,
            beta2,
            eps,
        }
    }
}

impl MuonOptions {
    /// AdamW for all else.
    fn adamw(&self) -> AdamWOptions {
        let Self { learning_rate, beta1, beta2, eps, weight_decay, .. } = *self;
        let learning_rate = self.adamw_learning_rate.unwrap_or(learning_rate);
        AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay }
    }
}

/// The shape of what Muon updates.
fn hidden(tensor: &Tensor) -> Option<Shape> {
    let (rows, cols) = tensor.matrix.filter(|_| tensor.role == Role::Weight)?;
    Some(Shape { rows, cols })
}

/// Numbers of what AdamW updates.
fn others(tensors: &[Tensor]) -> usize {
    tensors.iter().filter(|tensor| hidden(tensor).is_none()).map(Tensor::len).sum()
}

impl Method for MuonOptions {
    const KIND: &'static str = "muon";

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn check(&self) -> Result<()> {
        positive("learning_rate", self.learning_rate)?;
        fraction("momentum", self.momentum)?;
        if self.ns_steps >= 100 {
            return Err(Error::config("optimizer.ns_steps", format!("{}; expected less than 100", self.ns_steps)));
        }
        not_negative("weight_decay", self.weight_decay)?;
        self.adamw_learning_rate.map_or(Ok(()), |rate| positive("adamw_learning_rate", rate))?;
        self.adamw().check()
    }

    fn rule<T: Element>(&self, tensors: Vec<Tensor>, _: &Parameters<T>) -> Result<Box<dyn Rule<T>>> {
        if tensors.iter().all(|tensor| hidden(tensor).is_none()) {
            return Err(Error::config(
                "optimizer.kind",
                "\"muon\" updates the matrices of layers, and none is trained (an adapter's are AdamW's); choose adamw",
            ));
        }
        let (count, others) = (tensors.iter().map(Tensor::len).sum(), others(&tensors));
        Ok(Box::new(Muon { options: *self, tensors, mean: zeros(count), mean_square: zeros(others) }))
    }

    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize {
        number * (tensors.iter().map(Tensor::len).sum::<usize>() + others(tensors))
    }

    fn scratch(&self, tensors: &[Tensor], number: usize) -> usize {
        number * tensors.iter().filter_map(hidden).map(Shape::scratch).max().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Muon<T> {
    options: MuonOptions,
    tensors: Vec<Tensor>,
    /// Muon's momentum, or AdamW's mean.
    mean: Vec<T>,
    /// Of what AdamW updates, one after the other.
    mean_square: Vec<T>,
}

impl<T: Element> Rule<T> for Muon<T> {
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let MuonOptions { learning_rate, momentum, nesterov, ns_steps, adjust_lr_fn, .. } = self.options;
        let mut at = 0;
        for tensor in &self.tensors {
            let range = tensor.range.clone();
            let weight_decay = tensor.weight_decay(self.options.weight_decay);
            let params = (&mut parameters.data_mut()[range.clone()]).into();
            let grads = (&gradients.data()[range.clone()]).into();
            let mean = (&mut self.mean[range]).into();
            if let Some(shape) = hidden(tensor) {
                let lr = learning_rate * now.factor * tensor.rate;
                let step_size = lr * adjust_lr_fn.factor(shape);
                let hyper = muon::Hyper { lr, step_size, momentum, nesterov, ns_steps, weight_decay };
                muon::step(params, grads, mean, shape, now.clip.factor()?, hyper, workspace)?;
            } else {
                let mean_square = (&mut self.mean_square[at..at + tensor.len()]).into();
                at += tensor.len();
                let hyper = self.options.adamw().hyper(now, tensor.rate, weight_decay);
                adamw::step(params, grads, mean, mean_square, now.step, now.clip.factor()?, hyper, workspace)?;
            }
        }
        Ok(())
    }

    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        Ok(of_each_range(ends, |range| any_nonzero(&self.mean[range])))
    }

    fn state(&self) -> Vec<(&'static str, State<'_, T>)> {
        vec![("mean", State::Numbers(&self.mean)), ("mean_square", State::Numbers(&self.mean_square))]
    }

    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)> {
        vec![("mean", StateMut::Numbers(&mut self.mean)), ("mean_square", StateMut::Numbers(&mut self.mean_square))]
    }
}
