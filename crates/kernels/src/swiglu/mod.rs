//! The gated activation `silu(gate)·up`.
mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check};

/// y = silu(gate)·up, where silu(g) = g·σ(g), element by element.
///
/// All three of one length. After Shazeer, “GLU Variants Improve Transformer” (2020).
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn forward<T: Element>(gate: View<'_, T>, up: View<'_, T>, y: ViewMut<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "swiglu::forward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "y", y.len(), &[gate.len()], "as many as gate")?;
    if let Some(device) = gate.device() {
        return cuda::forward(OP, "swiglu", device, gate, up, y);
    }
    cpu::forward(gate.cpu(OP)?, up.cpu(OP)?, y.cpu(OP)?, &ws.crew());
    Ok(())
}

/// The gradients of [`forward`]: dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))) and dup = dy·silu(g), recomputing σ.
///
/// All five of one length; `dgate` and `dup` are overwritten.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn backward<T: Element>(
    gate: View<'_, T>,
    up: View<'_, T>,
    dy: View<'_, T>,
    dgate: ViewMut<'_, T>,
    dup: ViewMut<'_, T>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "swiglu::backward";
    check_gradients(OP, gate, up, dy, &dgate, &dup)?;
    if let Some(device) = gate.device() {
        return cuda::backward(OP, "swiglu", device, gate, up, dy, dgate, dup);
    }
    cpu::backward(gate.cpu(OP)?, up.cpu(OP)?, dy.cpu(OP)?, dgate.cpu(OP)?, dup.cpu(OP)?, &ws.crew());
    Ok(())
}

/// Refuses operands of a gated activation's backward that are not of one length.
pub(crate) fn check_gradients<T>(
    op: &'static str,
    gate: View<'_, T>,
    up: View<'_, T>,
    dy: View<'_, T>,
    dgate: &ViewMut<'_, T>,
    dup: &ViewMut<'_, T>,
) -> Result<()> {
    check::length(op, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(op, "dy", dy.len(), &[gate.len()], "as many as gate")?;
    check::length(op, "dgate", dgate.len(), &[gate.len()], "as many as gate")?;
    check::length(op, "dup", dup.len(), &[gate.len()], "as many as gate")
}
