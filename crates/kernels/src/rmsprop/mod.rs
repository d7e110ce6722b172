//! RMSprop over one flat buffer.
mod cpu;
#[cfg(test)]
mod tests;

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
/// # Errors
/// Lengths that differ; an α outside of [0, 1); operands that are not on the CPU.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    state: State<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rmsprop::step";
    let len = params.len();
    let State { mean_square, mean, velocity } = state;
    check::length(OP, "grads", grads.len(), &[len], "as many as params")?;
    check::length(OP, "mean_square", mean_square.len(), &[len], "as many as params")?;
    for (name, buffer) in [("mean", &mean), ("velocity", &velocity)] {
        check::length(OP, name, buffer.as_ref().map_or(len, ViewMut::len), &[len], "as many as params")?;
    }
    check::fraction(OP, "alpha", hyper.alpha)?;
    let mean = mean.map(|mean| mean.cpu(OP)).transpose()?;
    let velocity = velocity.map(|velocity| velocity.cpu(OP)).transpose()?;
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, mean_square.cpu(OP)?, mean, velocity, grad_scale, hyper, &ws.crew());
    Ok(())
}
