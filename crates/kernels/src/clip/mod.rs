//! Clipping by the global norm, decided where the gradient is: steps of optimizers read the outcome from there, and
//! the host need not wait for it.
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, adamw, check};

/// The numbers of an outcome, `[3]`: the norm; the factor that gradients are to be multiplied by; 1, or 0 where the
/// norm is not finite, for which the factor is 0 too and steps that read the outcome leave everything as it is.
pub const OUTCOME: usize = 3;

/// The Euclidean norm of a gradient and the [`factor`] that brings it down to `max_norm`, which where it is 0 is no
/// limit.
///
/// `grads` any length; `outcome` `[3]`, see [`OUTCOME`], is overwritten. The sum of squares is in `f64`, in an order
/// that the length of `grads` alone decides. Squares of `f32` cannot overflow there, so that the norm is finite where
/// all gradients are.
///
/// # Errors
/// A length that does not fit; a limit that is negative or NaN; operands on different devices.
pub fn by_norm<T: Float>(
    grads: View<'_, T>,
    max_norm: f64,
    outcome: ViewMut<'_, f64>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "clip::by_norm";
    check::length(OP, "outcome", outcome.len(), &[OUTCOME], "norm, factor, finite")?;
    check::shape(OP, max_norm >= 0.0, || format!("max_norm is {max_norm}, expected a positive number, or 0 for none"))?;
    if let Some(device) = grads.device() {
        return cuda::by_norm(OP, device, grads, max_norm, outcome, ws);
    }
    let (grads, outcome) = (grads.cpu(OP)?, outcome.cpu(OP)?);
    let norm = adamw::cpu::sum_squares(grads, ws).sqrt();
    let found = if norm.is_finite() { [norm, factor(norm, max_norm), 1.0] } else { [norm, 0.0, 0.0] };
    outcome.copy_from_slice(&found);
    Ok(())
}

/// The factor that brings gradients of norm `norm` down to `max_norm`, as `torch.nn.utils.clip_grad_norm_` computes it:
/// `min(1, max_norm / (norm + 1e-6))`. A limit of 0 means none.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
