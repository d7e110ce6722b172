//! Schedule-free AdamW over one flat buffer, with a CUDA back end whose bits are those of the CPU.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::groups::{Groups, OnHost};
use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The hyperparameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decay of the parameters at which the gradient was taken, times the learning rate.
    pub weight_decay: f64,
    /// The share of the new `z` in the new average, in [0, 1].
    pub share: f64,
}

/// Before the gradient: keeps the averaged parameters, and puts those in their place at which it is taken,
/// y = x + (1 − β₁)(z − x).
///
/// `params` holds x, and then y; `kept` is overwritten with x; all of one length.
///
/// # Errors
/// Lengths that differ; a β₁ outside of [0, 1); operands on different devices.
pub fn begin<T: Float>(
    params: ViewMut<'_, T>,
    kept: ViewMut<'_, T>,
    z: View<'_, T>,
    beta1: f64,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "schedule_free::begin";
    check::length(OP, "kept", kept.len(), &[params.len()], "as many as params")?;
    check::length(OP, "z", z.len(), &[params.len()], "as many as params")?;
    check::fraction(OP, "beta1", beta1)?;
    if let Some(device) = z.device() {
        return cuda::begin(OP, device, params, kept, z, beta1);
    }
    cpu::begin(params.cpu(OP)?, kept.cpu(OP)?, z.cpu(OP)?, beta1, &ws.crew());
    Ok(())
}

/// One step of schedule-free AdamW (Defazio et al. 2024, *The Road Less Scheduled*, Algorithm 1,
/// [arXiv 2405.15682](https://arxiv.org/abs/2405.15682)):
///
/// g = grad_scale·grad; v ← β₂v + (1 − β₂)g²; z ← z − lr·(g / (√(v / (1 − β₂ᵗ)) + eps) + weight_decay·y);
/// x ← x + share·(z − x).
///
/// `params` holds y, at which the gradient was taken, and then the new x; `kept` holds the old x ([`begin`]). `z` starts as the
/// parameters and `v` as zeros; all of one length. `step` is t, from 1. Without `groups` all
/// parameters learn alike; on a device groups are not looked at before they are used.
///
/// # Errors
/// Lengths that differ; a step of 0; a β₂ outside of [0, 1); groups that do not end where the parameters do, on the CPU; operands on
/// different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    kept: View<'_, T>,
    z: ViewMut<'_, T>,
    v: ViewMut<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "schedule_free::step";
    for (name, len) in [("grads", grads.len()), ("kept", kept.len()), ("z", z.len()), ("v", v.len())] {
        check::length(OP, name, len, &[params.len()], "as many as params")?;
    }
    check::counted(OP, step)?;
    check::fraction(OP, "beta2", hyper.beta2)?;
    groups.map_or(Ok(()), |groups| groups.check(OP))?;
    if let Some(device) = grads.device() {
        return cuda::step(OP, device, params, grads, kept, z, v, step, grad_scale, hyper, groups);
    }
    let groups = OnHost::of(OP, groups, params.len())?;
    let (z, v) = (z.cpu(OP)?, v.cpu(OP)?);
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, kept.cpu(OP)?, z, v, step, grad_scale, hyper, &groups, &ws.crew());
    Ok(())
}

/// √(1 − β₂ᵗ)
fn root_correction(beta2: f64, step: u64) -> f64 {
    (1.0 - beta2.powf(step as f64)).sqrt()
}
