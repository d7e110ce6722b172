//! Muon of one matrix.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The hyperparameters of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step, which the decay is multiplied by.
    pub lr: f64,
    /// What the orthogonalised update is multiplied by.
    pub step_size: f64,
    /// Decay of the momentum, in [0, 1).
    pub momentum: f64,
    /// Whether the gradient is mixed into the momentum once more for the update.
    pub nesterov: bool,
    /// Steps of the iteration that orthogonalises.
    pub ns_steps: u32,
    /// Decay of the parameters, times the learning rate, before the update.
    pub weight_decay: f64,
}

/// The sides of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// R.
    pub rows: usize,
    /// C.
    pub cols: usize,
}

impl Shape {
    /// Numbers of the buffers that [`step`] works in.
    pub fn scratch(self) -> usize {
        let side = self.rows.min(self.cols);
        2 * self.rows * self.cols + 2 * side * side
    }
}

/// One step of Muon (Jordan et al. 2024, *Muon: An optimizer for hidden layers in neural networks*,
/// <https://kellerjordan.github.io/posts/muon/>), in the form of PyTorch's `Muon`:
///
/// g = grad_scale·grad; b ← b + (1 − μ)(g − b); u = g + μ(b − g) with Nesterov's momentum, else b;
/// p ← p·(1 − lr·weight_decay) − step_size·O(u).
///
/// O brings the singular values of u near 1 by the iteration X ← aX + (bA + cA²)X with A = XXᵀ, (a, b, c) = (3.4445, −4.7750, 2.0315),
/// from X = u / max(‖u‖, 10⁻⁷), ‖·‖ the Frobenius norm. It runs in `T`, not in bfloat16 as PyTorch's.
///
/// `params`, `grads`, `momentum` are `[R, C]`, row-major; the momentum starts as zeros.
///
/// # Errors
/// Lengths that differ; a momentum outside of [0, 1); operands that are not on the CPU.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    momentum: ViewMut<'_, T>,
    shape: Shape,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "muon::step";
    for (name, len) in [("params", params.len()), ("grads", grads.len()), ("momentum", momentum.len())] {
        check::length(OP, name, len, &[shape.rows, shape.cols], "rows × columns")?;
    }
    check::fraction(OP, "momentum", hyper.momentum)?;
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, momentum.cpu(OP)?, shape, grad_scale, hyper, ws);
    Ok(())
}
