//! Adam with decoupled weight decay over one flat buffer, and the sum of squares for clipping by the global norm.
//!
//! [`step`] is told how to scale gradients. [`step_clipped`] and [`step_bf16`] read it from where
//! [`clip::by_norm`](crate::clip::by_norm) has left it and have a CUDA back end, whose bits are those of the CPU.
pub(crate) mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use half::bf16;

use crate::clip::OUTCOME;
pub use crate::groups::Groups;
use crate::groups::OnHost;
pub use crate::stochastic::Draws;
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
    check_operands(OP, params.len(), grads.len(), m.len(), v.len())?;
    let numbers = hyper.at(OP, step)?;
    let (params, m, v) = (params.cpu(OP)?, m.cpu(OP)?, v.cpu(OP)?);
    cpu::step(params, grads.cpu(OP)?, m, v, None, grad_scale, &numbers, &OnHost::one(), &ws.crew());
    Ok(())
}

/// As [`step`], with gradients scaled as [`clip::by_norm`](crate::clip::by_norm) has found, and a copy of the
/// parameters in bf16.
///
/// `clip` `[3]` is its outcome. Where the norm is not finite, nothing is written: `params`, `m`, `v` and `copy` keep
/// their bits, and whoever counts steps has counted one that was none. `params`, `grads`, `m`, `v` of one length, and
/// `copy` too, which takes what has become of `params`, rounded to nearest. Without `groups` all parameters learn
/// alike. On a device groups are not looked at before they are used.
///
/// # Errors
/// Lengths that differ; a step of 0; a β outside of [0, 1); groups that do not end where the parameters do, on the
/// CPU; operands on different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn step_clipped<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    m: ViewMut<'_, T>,
    v: ViewMut<'_, T>,
    copy: Option<ViewMut<'_, bf16>>,
    clip: View<'_, f64>,
    step: u64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "adamw::step_clipped";
    check_operands(OP, params.len(), grads.len(), m.len(), v.len())?;
    if let Some(copy) = &copy {
        check::length(OP, "copy", copy.len(), &[params.len()], "as many as params")?;
    }
    check_clip(OP, clip, groups)?;
    let numbers = hyper.at(OP, step)?;
    if let Some(device) = grads.device() {
        return cuda::step_clipped(OP, device, params, grads, m, v, copy, clip, &numbers, groups);
    }
    let groups = OnHost::of(OP, groups, params.len())?;
    let (params, m, v) = (params.cpu(OP)?, m.cpu(OP)?, v.cpu(OP)?);
    let copy = copy.map(|copy| copy.host(OP)).transpose()?;
    let (grads, clip) = (grads.cpu(OP)?, clip.cpu(OP)?);
    if clip[2] > 0.0 {
        cpu::step(params, grads, m, v, copy, clip[1], &numbers, &groups, &ws.crew());
    }
    Ok(())
}

/// As [`step_clipped`] with parameters that exist in bf16 alone: each is computed in `f32` and rounded up or down by
/// chance, so that on average it moves as it should, however small the step is beside it.
///
/// `params` `[N]` in bf16; `grads`, `m`, `v` `[N]`. The chance of a parameter is decided by `draws`, whose step is t, and its
/// index: the same bits every time, on the CPU and on a device. Different buffers of one step want different seeds.
/// The generator is Philox4x32-10 of Salmon et al., “Parallel random numbers: as easy as 1, 2, 3” (2011). What is
/// finite stays finite: values beyond the largest of bf16 become that one.
///
/// # Errors
/// As [`step_clipped`].
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn step_bf16(
    params: ViewMut<'_, bf16>,
    grads: View<'_, f32>,
    m: ViewMut<'_, f32>,
    v: ViewMut<'_, f32>,
    clip: View<'_, f64>,
    draws: Draws,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "adamw::step_bf16";
    check_operands(OP, params.len(), grads.len(), m.len(), v.len())?;
    check_clip(OP, clip, groups)?;
    let numbers = hyper.at(OP, draws.step)?;
    if let Some(device) = grads.device() {
        return cuda::step_bf16(OP, device, params, grads, m, v, clip, &numbers, groups, draws);
    }
    let groups = OnHost::of(OP, groups, params.len())?;
    let (params, m, v) = (params.host(OP)?, m.cpu(OP)?, v.cpu(OP)?);
    let (grads, clip) = (grads.cpu(OP)?, clip.cpu(OP)?);
    if clip[2] > 0.0 {
        cpu::step_bf16(params, grads, m, v, clip[1], &numbers, &groups, draws, &ws.crew());
    }
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

/// What all elements of a step share, in `f64`.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    lr: f64,
    weight_decay: f64,
    beta1: f64,
    one_minus_beta1: f64,
    beta2: f64,
    one_minus_beta2: f64,
    step_size: f64,
    root_correction2: f64,
    eps: f64,
}

impl Hyper {
    fn at(self, op: &'static str, step: u64) -> Result<Numbers> {
        check::counted(op, step)?;
        check::fraction(op, "beta1", self.beta1)?;
        check::fraction(op, "beta2", self.beta2)?;
        let Self { lr, beta1, beta2, eps, weight_decay } = self;
        let t = step as f64;
        Ok(Numbers {
            lr,
            weight_decay,
            beta1,
            one_minus_beta1: 1.0 - beta1,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            step_size: lr / (1.0 - beta1.powf(t)),
            root_correction2: (1.0 - beta2.powf(t)).sqrt(),
            eps,
        })
    }
}

fn check_operands(op: &'static str, params: usize, grads: usize, m: usize, v: usize) -> Result<()> {
    check::length(op, "grads", grads, &[params], "as many as params")?;
    check::length(op, "m", m, &[params], "as many as params")?;
    check::length(op, "v", v, &[params], "as many as params")
}

fn check_clip(op: &'static str, clip: View<'_, f64>, groups: Option<Groups<'_>>) -> Result<()> {
    check::length(op, "clip", clip.len(), &[OUTCOME], "norm, factor, finite")?;
    groups.map_or(Ok(()), |groups| groups.check(op))
}
