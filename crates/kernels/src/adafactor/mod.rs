//! Adafactor of one tensor.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The hyperparameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step, relative to the size of the parameters.
    pub lr: f64,
    /// The exponent of the step that the mean squares decay by, at most 0: β₂ of step t is 1 − t^beta2_decay.
    pub beta2_decay: f64,
    /// The least root of a mean square.
    pub eps1: f64,
    /// The least size of parameters.
    pub eps2: f64,
    /// The largest root mean square of an update before the learning rate.
    pub clip_threshold: f64,
    /// Decay of the parameters, times the learning rate, before the update.
    pub weight_decay: f64,
}

/// The mean squares of gradients that are kept from step to step, zero at first.
#[derive(Debug)]
pub enum MeanSquare<'a, T> {
    /// Of a matrix `[R, C]`: the means of its rows, `[R]`, and of its columns, `[C]`.
    Factored {
        /// `[R]`.
        rows: ViewMut<'a, T>,
        /// `[C]`.
        cols: ViewMut<'a, T>,
    },
    /// Of anything else: one for each element.
    Whole(ViewMut<'a, T>),
}

/// One step of Adafactor with an outer learning rate (Shazeer & Stern 2018, *Adafactor*, Algorithms 4 and 5,
/// [arXiv 1804.04235](https://arxiv.org/abs/1804.04235)), in the form of PyTorch's `Adafactor`:
///
/// g = grad_scale·grad; w = t^beta2_decay; α = max(eps2, RMS(p))·min(lr, 1/√t); p ← p·(1 − lr·weight_decay);
/// r ← r + w(mean of g² over columns − r); c ← c + w(mean of g² over rows − c); v = r·cᵀ / max(mean(r), eps1);
/// u = g / √max(v, eps1²); p ← p − α·u / max(1, RMS(u) / clip_threshold).
///
/// Of a tensor that is no matrix v is kept itself, v ← v + w(g² − v). `step` is t, from 1.
///
/// # Errors
/// Lengths that differ; a step of 0; a beta2_decay above 0; operands that are not on the CPU.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    mean_square: MeanSquare<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "adafactor::step";
    check::length(OP, "grads", grads.len(), &[params.len()], "as many as params")?;
    match &mean_square {
        MeanSquare::Factored { rows, cols } => {
            check::length(OP, "params", params.len(), &[rows.len(), cols.len()], "rows × columns")?;
        }
        MeanSquare::Whole(all) => check::length(OP, "mean_square", all.len(), &[params.len()], "as many as params")?,
    }
    check::counted(OP, step)?;
    check::shape(OP, hyper.beta2_decay <= 0.0, || format!("beta2_decay is {}, expected at most 0", hyper.beta2_decay))?;
    let (params, grads) = (params.cpu(OP)?, grads.cpu(OP)?);
    let now = cpu::Now::new(step, grad_scale, hyper);
    match mean_square {
        MeanSquare::Factored { rows, cols } => cpu::matrix(params, grads, rows.cpu(OP)?, cols.cpu(OP)?, now, ws),
        MeanSquare::Whole(all) => cpu::vector(params, grads, all.cpu(OP)?, now, ws),
    }
    Ok(())
}
