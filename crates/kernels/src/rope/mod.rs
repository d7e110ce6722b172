//! Rotary position embedding in the half-split layout of Hugging Face models, in place.
mod cpu;
#[cfg(test)]
mod tests;

use crate::{Float, Result, ViewMut, Workspace, check};

/// The sizes of what is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows, `[N]`.
    pub rows: usize,
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head, even, `[D]`.
    pub head_dim: usize,
}

/// Which way to rotate. The gradient of a rotation is the rotation back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By +position·frequency.
    Forward,
    /// By −position·frequency.
    Backward,
}

/// Cosines and sines of position·frequency.
#[derive(Debug, Clone)]
pub struct Tables<T> {
    /// Cosines, `[P, D/2]`.
    pub cos: Vec<T>,
    /// Sines, `[P, D/2]`.
    pub sin: Vec<T>,
    half: usize,
}

impl<T: Float> Tables<T> {
    /// Tables for positions `0..positions` and the frequencies `inv_freq` `[D/2]`, in radians a position.
    ///
    /// Angles are formed and turned into sines in `f64`, then rounded once.
    pub fn new(inv_freq: &[f64], positions: usize) -> Self {
        let angles = || (0..positions).flat_map(|p| inv_freq.iter().map(move |f| p as f64 * f));
        Self {
            cos: angles().map(|a| T::from_f64(a.cos())).collect(),
            sin: angles().map(|a| T::from_f64(a.sin())).collect(),
            half: inv_freq.len(),
        }
    }

    /// The number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }
}

/// Rotates the pair `(x[j], x[j + D/2])` of every head by the angle of its row's position and frequency j:
/// (a, b) → (a·cos − b·sin, b·cos + a·sin).
///
/// `x` `[N, heads, D]`, `positions` `[N]`. Positions need not be in order and may repeat. After Su et al., “RoFormer”
/// (2021), with the halves laid out as in Hugging Face's Llama.
///
/// # Errors
/// A length that is not its shape's, a head size that is not twice the number of frequencies, a position beyond the
/// tables, or an operand that is not on the CPU.
pub fn apply<T: Float>(
    x: ViewMut<'_, T>,
    positions: &[u32],
    tables: &Tables<T>,
    shape: Shape,
    direction: Direction,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rope::apply";
    check::length(OP, "x", x.len(), &[shape.rows, shape.heads, shape.head_dim], "rows × heads × head_dim")?;
    check::length(OP, "positions", positions.len(), &[shape.rows], "rows")?;
    check::shape(OP, shape.head_dim == 2 * tables.half, || {
        format!("head_dim is {}, expected twice the {} frequencies of the tables", shape.head_dim, tables.half)
    })?;
    check::shape(OP, tables.cos.len() == tables.sin.len(), || "the tables have been given different lengths".into())?;
    check::indices(OP, "positions", positions, tables.positions())?;
    cpu::apply(x.cpu(OP)?, positions, tables, shape, direction, &ws.crew());
    Ok(())
}
