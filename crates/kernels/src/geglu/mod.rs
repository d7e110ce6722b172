//! The gated activation `gelu(gate)·up`, with GELU in its form by tanh.
mod cpu;
#[cfg(test)]
mod tests;

use crate::swiglu::{check_gradients, cuda};
use crate::{Element, Result, View, ViewMut, Workspace, check};

/// y = gelu(gate)·up, where gelu(g) = g/2·(1 + tanh(√(2/π)·(g + 0.044715·g³))), element by element.
///
/// All three of one length. After Hendrycks and Gimpel, “Gaussian Error Linear Units” (2016), and Shazeer, “GLU Variants Improve
/// Transformer” (2020); what models call `gelu_pytorch_tanh`.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn forward<T: Element>(gate: View<'_, T>, up: View<'_, T>, y: ViewMut<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "geglu::forward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "y", y.len(), &[gate.len()], "as many as gate")?;
    if let Some(device) = gate.device() {
        return cuda::forward(OP, "geglu", device, gate, up, y);
    }
    cpu::forward(gate.cpu(OP)?, up.cpu(OP)?, y.cpu(OP)?, &ws.crew());
    Ok(())
}

/// The gradients of [`forward`]: dgate = dy·up·gelu′(g) and dup = dy·gelu(g), recomputing the tanh.
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
    const OP: &str = "geglu::backward";
    check_gradients(OP, gate, up, dy, &dgate, &dup)?;
    if let Some(device) = gate.device() {
        return cuda::backward(OP, "geglu", device, gate, up, dy, dgate, dup);
    }
    cpu::backward(gate.cpu(OP)?, up.cpu(OP)?, dy.cpu(OP)?, dgate.cpu(OP)?, dup.cpu(OP)?, &ws.crew());
    Ok(())
}
