//! The gated activation `silu(gate)·up`.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// y = silu(gate)·up, where silu(g) = g·σ(g), element by element.
///
/// All three of one length. After Shazeer, “GLU Variants Improve Transformer” (2020).
///
/// # Errors
/// Lengths that differ; operands that are not on the CPU.
pub fn forward<T: Float>(gate: View<'_, T>, up: View<'_, T>, y: ViewMut<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "swiglu::forward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "y", y.len(), &[gate.len()], "as many as gate")?;
    cpu::forward(gate.cpu(OP)?, up.cpu(OP)?, y.cpu(OP)?, &ws.crew());
    Ok(())
}

/// The gradients of [`forward`]: dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))) and dup = dy·silu(g), recomputing σ.
///
/// All five of one length; `dgate` and `dup` are overwritten.
///
/// # Errors
/// Lengths that differ; operands that are not on the CPU.
pub fn backward<T: Float>(
    gate: View<'_, T>,
    up: View<'_, T>,
    dy: View<'_, T>,
    dgate: ViewMut<'_, T>,
    dup: ViewMut<'_, T>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "swiglu::backward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dy", dy.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dgate", dgate.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dup", dup.len(), &[gate.len()], "as many as gate")?;
    cpu::backward(gate.cpu(OP)?, up.cpu(OP)?, dy.cpu(OP)?, dgate.cpu(OP)?, dup.cpu(OP)?, &ws.crew());
    Ok(())
}
