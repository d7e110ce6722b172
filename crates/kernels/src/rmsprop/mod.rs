//! RMSprop over one flat buffer, with a CUDA back end whose bits are those of the CPU.
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
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Added to the gradient, times the parameters.
    pub weight_decay: f64,
    /// Decay of the velocity; without a velocity it is not read.
    pub momentum: f64,
}

/// What is kept from step to step, each as long as the parameters and zero at first.
#[derive(Debug)]
pub struct State<'a, T> {
    /// The mean of squared gradients.
    pub mean_square: ViewMut<'a, T>,
    /// The mean of gradients, whose square is taken off: the centred form.
    pub mean: Option<ViewMut<'a, T>>,
    /// The velocity, where there is momentum.
    pub velocity: Option<ViewMut<'a, T>>,
}

/// One step, with the operations of PyTorch's `RMSprop` (Hinton's lecture 6e; Graves 2013,
/// [arXiv 1308.0850](https://arxiv.org/abs/1308.0850), equations 38 to 45, for the centred form):
///
/// g = grad_scale·grad + weight_decay·p; s ← αs + (1 − α)g²; u = g / (√s + eps); p ← p − lr·u.
///
/// Centred: a ← a + (1 − α)(g − a), and √(s − a²) stands for √s, the difference held at 0 or above. With momentum: b ← momentum·b + u,
/// and b stands for u.
///
/// Without `groups` all parameters learn alike; on a device groups are not looked at before they are used.
///
/// # Errors
/// Lengths that differ; an α outside of [0, 1); groups that do not end where the parameters do, on the CPU; operands on different devices.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    state: State<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rmsprop::step";
    let len = params.len();
    let State { mean_square, mean, velocity } = &state;
    check::length(OP, "grads", grads.len(), &[len], "as many as params")?;
    check::length(OP, "mean_square", mean_square.len(), &[len], "as many as params")?;
    for (name, buffer) in [("mean", mean), ("velocity", velocity)] {
        check::length(OP, name, buffer.as_ref().map_or(len, ViewMut::len), &[len], "as many as params")?;
    }
    check::fraction(OP, "alpha", hyper.alpha)?;
    groups.map_or(Ok(()), |groups| groups.check(OP))?;
    if let Some(device) = grads.device() {
        return cuda::step(OP, device, params, grads, state, grad_scale, hyper, groups);
    }
    let groups = OnHost::of(OP, groups, len)?;
    let state = cpu::Kept {
        mean_square: state.mean_square.cpu(OP)?,
        mean: state.mean.map(|mean| mean.cpu(OP)).transpose()?,
        velocity: state.velocity.map(|velocity| velocity.cpu(OP)).transpose()?,
    };
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, state, grad_scale, hyper, &groups, &ws.crew());
    Ok(())
}
