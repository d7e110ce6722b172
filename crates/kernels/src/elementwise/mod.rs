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
