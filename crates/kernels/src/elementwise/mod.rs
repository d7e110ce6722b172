//! Sums of equal shapes and conversions, with a CUDA back end beside the CPU's.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check};

/// y = x
///
/// `y`, `x` of one length.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn copy<T: Element>(y: ViewMut<'_, T>, x: View<'_, T>) -> Result<()> {
    const OP: &str = "elementwise::copy";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    if let Some(device) = x.device() {
        return crate::cuda::copy(OP, device, y, x);
    }
    y.host(OP)?.copy_from_slice(x.host(OP)?);
    Ok(())
}

/// y += x, element by element.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn add_assign<T: Element>(y: ViewMut<'_, T>, x: View<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::add_assign";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    if let Some(device) = x.device() {
        return cuda::add_assign(OP, device, y, x);
    }
    cpu::add_assign(y.cpu(OP)?, x.cpu(OP)?, &ws.crew());
    Ok(())
}

/// y ← weight·x + (1 − weight)·y, element by element, each product rounded before the sum; at a weight of 1 a copy of x, whatever
/// y held.
///
/// # Errors
/// Lengths that differ; a weight outside of [0, 1]; operands on different devices.
pub fn mix<T: Element>(y: ViewMut<'_, T>, x: View<'_, T>, weight: f64, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::mix";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    check::shape(OP, (0.0..=1.0).contains(&weight), || {
        format!("weight is {weight}, expected at least 0 and at most 1")
    })?;
    if let Some(device) = x.device() {
        return cuda::mix(OP, device, y, x, weight);
    }
    cpu::mix(y.cpu(OP)?, x.cpu(OP)?, weight, &ws.crew());
    Ok(())
}

/// y ← x, rounded to the nearest value of its type, ties to even: parameters in bf16 of those in `f32`. Where the type is that of
/// the arithmetic, a copy.
///
/// `x` and `y` `[N]`. What is beyond the largest value becomes infinite, and NaN stays NaN, of which the bits may differ between devices.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn narrow<T: Element>(y: ViewMut<'_, T>, x: View<'_, T::Wide>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::narrow";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    if let Some(device) = x.device() {
        return cuda::narrow(OP, device, y, x);
    }
    cpu::narrow(y.host(OP)?, x.host(OP)?, &ws.crew());
    Ok(())
}

/// y ← x, the same values in the type of the arithmetic: `f32` of bf16. Where that is the type of x, a copy.
///
/// `x` and `y` `[N]`.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn widen<T: Element>(y: ViewMut<'_, T::Wide>, x: View<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::widen";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    if let Some(device) = x.device() {
        return cuda::widen(OP, device, y, x);
    }
    cpu::widen(y.host(OP)?, x.host(OP)?, &ws.crew());
    Ok(())
}
