//! Gated activations, `activation(gate)·up`, after Shazeer, “GLU Variants Improve Transformer” (2020), with a CUDA back end beside
//! the CPU's.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check};

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// silu(g) = g·σ(g), which makes SwiGLU. Models call it `silu`, or `swish`.
    Silu,
    /// gelu(g) = g/2·(1 + tanh(√(2/π)·(g + 0.044715·g³))), the form by tanh of Hendrycks and Gimpel, “Gaussian Error Linear Units” (2016),
    /// which makes GeGLU. Models call it `gelu_pytorch_tanh`.
    GeluTanh,
}

/// y = activation(gate)·up, element by element.
///
/// All three of one length.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn forward<T: Element>(
    activation: Activation,
    gate: View<'_, T>,
    up: View<'_, T>,
    y: ViewMut<'_, T>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "gated::forward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "y", y.len(), &[gate.len()], "as many as gate")?;
    if let Some(device) = gate.device() {
        return cuda::forward(OP, device, activation, gate, up, y);
    }
    cpu::forward(activation, gate.cpu(OP)?, up.cpu(OP)?, y.cpu(OP)?, &ws.crew());
    Ok(())
}

/// The gradients of [`forward`]: dgate = dy·up·activation′(gate) and dup = dy·activation(gate), recomputing the activation.
///
/// All five of one length; `dgate` and `dup` are overwritten.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn backward<T: Element>(
    activation: Activation,
    gate: View<'_, T>,
    up: View<'_, T>,
    dy: View<'_, T>,
    dgate: ViewMut<'_, T>,
    dup: ViewMut<'_, T>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "gated::backward";
    check::length(OP, "up", up.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dy", dy.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dgate", dgate.len(), &[gate.len()], "as many as gate")?;
    check::length(OP, "dup", dup.len(), &[gate.len()], "as many as gate")?;
    if let Some(device) = gate.device() {
        return cuda::backward(OP, device, activation, gate, up, dy, dgate, dup);
    }
    let inputs = cpu::Inputs { gate: gate.cpu(OP)?, up: up.cpu(OP)? };
    cpu::backward(activation, inputs, dy.cpu(OP)?, dgate.cpu(OP)?, dup.cpu(OP)?, &ws.crew());
    Ok(())
}
