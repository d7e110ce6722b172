//! Lion over one flat buffer, with a CUDA back end whose bits are those of the CPU.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::groups::{Groups, OnHost};
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
/// `params`, `grads`, `m` of one length; `m` starts as zeros. The sign of 0 is 0. `grad_scale` folds clipping into the pass. Without
/// `groups` all parameters learn alike; on a device groups are not looked at before they are used.
///
/// # Errors
/// Lengths that differ; a β outside of [0, 1); groups that do not end where the parameters do, on the CPU; operands on different devices.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    m: ViewMut<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "lion::step";
    check::length(OP, "grads", grads.len(), &[params.len()], "as many as params")?;
    check::length(OP, "m", m.len(), &[params.len()], "as many as params")?;
    check::fraction(OP, "beta1", hyper.beta1)?;
    check::fraction(OP, "beta2", hyper.beta2)?;
    groups.map_or(Ok(()), |groups| groups.check(OP))?;
    if let Some(device) = grads.device() {
        return cuda::step(OP, device, params, grads, m, grad_scale, hyper, groups);
    }
    let groups = OnHost::of(OP, groups, params.len())?;
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, m.cpu(OP)?, grad_scale, hyper, &groups, &ws.crew());
    Ok(())
}
