//! Sums of equal shapes.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// y += x, element by element.
///
/// # Errors
/// Lengths that differ; operands that are not on the CPU.
pub fn add_assign<T: Float>(y: ViewMut<'_, T>, x: View<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::add_assign";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    cpu::add_assign(y.cpu(OP)?, x.cpu(OP)?, &ws.crew());
    Ok(())
}

/// y ← weight·x + (1 − weight)·y, element by element, each product rounded before the sum; at a weight of 1 a copy of x, whatever
/// y held.
///
/// # Errors
/// Lengths that differ; a weight outside of [0, 1]; operands that are not on the CPU.
pub fn mix<T: Float>(y: ViewMut<'_, T>, x: View<'_, T>, weight: f64, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "elementwise::mix";
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    check::shape(OP, (0.0..=1.0).contains(&weight), || {
        format!("weight is {weight}, expected at least 0 and at most 1")
    })?;
    cpu::mix(y.cpu(OP)?, x.cpu(OP)?, weight, &ws.crew());
    Ok(())
}
