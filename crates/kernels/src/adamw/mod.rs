//! Adam with decoupled weight decay over one flat buffer, and the sum of squares for clipping by the global norm.
pub(crate) mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The hyperparameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of the parameters, times the learning rate, before the update.
    pub weight_decay: f64,
}

/// One step, with the operations of PyTorch's `AdamW` in their order:
///
/// g = grad_scale·grad; p ← p·(1 − lr·weight_decay); m ← m + (1 − β₁)(g − m); v ← β₂v + (1 − β₂)g²;
/// p ← p − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps).
///
/// `params`, `grads`, `m`, `v` of one length; `m` and `v` start as zeros. `step` is t, from 1. Bias corrections are in
/// `f64`. `grad_scale` folds clipping (and averaging) into the pass: min(1, max_norm/norm), or 1. After Loshchilov and
/// Hutter, “Decoupled Weight Decay Regularization” (2019).
///
/// # Errors
/// Lengths that differ; a step of 0; a β outside of [0, 1); operands that are not on the CPU.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    m: ViewMut<'_, T>,
    v: ViewMut<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "adamw::step";
    check::length(OP, "grads", grads.len(), &[params.len()], "as many as params")?;
    check::length(OP, "m", m.len(), &[params.len()], "as many as params")?;
    check::length(OP, "v", v.len(), &[params.len()], "as many as params")?;
    check::counted(OP, step)?;
    check::fraction(OP, "beta1", hyper.beta1)?;
    check::fraction(OP, "beta2", hyper.beta2)?;
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, m.cpu(OP)?, v.cpu(OP)?, step, grad_scale, hyper, &ws.crew());
    Ok(())
}

/// Σ grads², in `f64` and in a fixed order that does not depend on the number of threads.
///
/// # Errors
/// An operand that is not on the CPU.
pub fn sum_squares<T: Float>(grads: View<'_, T>, ws: &mut Workspace) -> Result<f64> {
    const OP: &str = "adamw::sum_squares";
    Ok(cpu::sum_squares(grads.cpu(OP)?, ws))
}
