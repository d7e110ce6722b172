//! Lion over one flat buffer.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The hyperparameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step: how far each parameter moves.
    pub lr: f64,
    /// Weight of the moment in the direction, in [0, 1).
    pub beta1: f64,
    /// Decay of the moment, in [0, 1).
    pub beta2: f64,
    /// Decay of the parameters, times the learning rate, before the update.
    pub weight_decay: f64,
}

/// One step of Lion (Chen et al. 2023, *Symbolic Discovery of Optimization Algorithms*, Algorithm 2,
/// [arXiv 2302.06675](https://arxiv.org/abs/2302.06675)):
///
/// g = grad_scale·grad; p ← p·(1 − lr·weight_decay) − lr·sign(β₁m + (1 − β₁)g); m ← β₂m + (1 − β₂)g.
///
/// `params`, `grads`, `m` of one length; `m` starts as zeros. The sign of 0 is 0. `grad_scale` folds clipping into the pass.
///
/// # Errors
/// Lengths that differ; a β outside of [0, 1); operands that are not on the CPU.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    m: ViewMut<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "lion::step";
    check::length(OP, "grads", grads.len(), &[params.len()], "as many as params")?;
    check::length(OP, "m", m.len(), &[params.len()], "as many as params")?;
    check::fraction(OP, "beta1", hyper.beta1)?;
    check::fraction(OP, "beta2", hyper.beta2)?;
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, m.cpu(OP)?, grad_scale, hyper, &ws.crew());
    Ok(())
}
