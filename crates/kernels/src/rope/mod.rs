//! Rotary position embedding in the half-split layout of Hugging Face models, in place.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Float, Result, View, ViewMut, Workspace, check};

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
    cpu::apply(x.cpu(OP)?, positions, (&tables.cos, &tables.sin), shape, direction, &ws.crew());
    Ok(())
}

/// The sizes of queries and keys that are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairShape {
    /// Rows of both, `[N]`.
    pub rows: usize,
    /// Heads of a row of queries.
    pub q_heads: usize,
    /// Heads of a row of keys.
    pub k_heads: usize,
    /// Elements of a head, even, `[D]`.
    pub head_dim: usize,
}

/// As [`apply`] on queries and keys at once, with positions and tables where they are.
///
/// `q` `[N, q_heads, D]`, `k` `[N, k_heads, D]`; `positions` `[N]`; `cos` and `sin` `[P, D/2]` as [`Tables`] has them. On a device
/// positions are not looked at before they are used: a row whose position is not below P becomes NaN.
///
/// # Errors
/// A length that is not its shape's, tables that are no rows of D/2, a position beyond them on the CPU, or operands on different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn apply_pair<T: Element>(
    q: ViewMut<'_, T>,
    k: ViewMut<'_, T>,
    positions: View<'_, u32>,
    cos: View<'_, T::Wide>,
    sin: View<'_, T::Wide>,
    shape: PairShape,
    direction: Direction,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rope::apply_pair";
    let PairShape { rows, q_heads, k_heads, head_dim } = shape;
    let half = head_dim / 2;
    check::shape(OP, head_dim > 0 && head_dim.is_multiple_of(2), || {
        format!("head_dim is {head_dim}, expected an even number above 0")
    })?;
    check::length(OP, "q", q.len(), &[rows, q_heads, head_dim], "rows × q_heads × head_dim")?;
    check::length(OP, "k", k.len(), &[rows, k_heads, head_dim], "rows × k_heads × head_dim")?;
    check::length(OP, "positions", positions.len(), &[rows], "rows")?;
    check::length(OP, "sin", sin.len(), &[cos.len()], "as many as cos")?;
    check::shape(OP, cos.len().is_multiple_of(half), || {
        format!("cos has {} elements, expected whole rows of {half}", cos.len())
    })?;
    if let Some(device) = positions.device() {
        return cuda::apply_pair(OP, device, q, k, positions, (cos, sin), shape, direction);
    }
    let positions = positions.host(OP)?;
    let (cos, sin) = (cos.cpu(OP)?, sin.cpu(OP)?);
    check::indices(OP, "positions", positions, cos.len() / half)?;
    for (x, heads) in [(q.cpu(OP)?, q_heads), (k.cpu(OP)?, k_heads)] {
        cpu::apply(x, positions, (cos, sin), Shape { rows, heads, head_dim }, direction, &ws.crew());
    }
    Ok(())
}
