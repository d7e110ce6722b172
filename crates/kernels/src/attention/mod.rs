//! Causal attention over packed rows in which the completions of a prompt share the prompt's keys and values.
mod cpu;
mod decode;
mod segment;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub(crate) use segment::Block;
pub use segment::Segment;

use crate::{Error, Float, Result, View, ViewMut, Workspace, check};

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of all segments, `[N]`.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`, whose groups of consecutive query heads share one.
    pub kv_heads: usize,
    /// Elements of a head, `[D]`.
    pub head_dim: usize,
}

impl Shape {
    fn check(&self, op: &'static str) -> Result<()> {
        check::shape(op, self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), || {
            format!("heads is {}, expected a multiple of the {} kv_heads", self.heads, self.kv_heads)
        })?;
        check::shape(op, self.head_dim > 0, || "head_dim is 0, expected at least 1".into())
    }

    fn queries(&self, op: &'static str, name: &'static str, len: usize) -> Result<()> {
        check::length(op, name, len, &[self.rows, self.heads, self.head_dim], "rows × heads × head_dim")
    }

    fn keys(&self, op: &'static str, name: &'static str, len: usize) -> Result<()> {
        check::length(op, name, len, &[self.rows, self.kv_heads, self.head_dim], "rows × kv_heads × head_dim")
    }
}

/// out = softmax(q·kᵀ/√D)·v over what each row sees: a row of a prompt sees the prompt up to itself; a row of a completion
/// sees the whole prompt, and its own completion up to itself.
///
/// `q`, `out` `[N, heads, D]`; `k`, `v` `[N, kv_heads, D]`; `lse` `[N, heads]`, the natural logarithm of each row's sum of
/// exponentials, is what [`backward`] needs besides the inputs and `out`. Rows of no segment give zeros. Scores exist
/// only as one tile of 128 rows a thread.
///
/// # Errors
/// A length that is not its shape's, segments that overlap or leave the rows, operands that are not on the CPU.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn forward<T: Float>(
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    out: ViewMut<'_, T>,
    lse: ViewMut<'_, T>,
    segments: &[Segment],
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "attention::forward";
    shape.check(OP)?;
    shape.queries(OP, "q", q.len())?;
    shape.keys(OP, "k", k.len())?;
    shape.keys(OP, "v", v.len())?;
    shape.queries(OP, "out", out.len())?;
    check::length(OP, "lse", lse.len(), &[shape.rows, shape.heads], "rows × heads")?;
    segment::check(OP, segments, shape.rows, &mut ws.blocks)?;
    let inputs = cpu::Inputs { q: q.cpu(OP)?, k: k.cpu(OP)?, v: v.cpu(OP)? };
    cpu::forward(inputs, out.cpu(OP)?, lse.cpu(OP)?, segments, shape, ws);
    Ok(())
}

/// The gradients of [`forward`]. With P the softmax, dP = dout·vᵀ and δ = Σ over D of dout·out:
/// dS = P·(dP − δ)/√D, dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·dout.
///
/// `q`, `out`, `dout`, `dq` `[N, heads, D]`; `k`, `v`, `dk`, `dv` `[N, kv_heads, D]`; `lse` `[N, heads]`. `dq`, `dk` and `dv`
/// are overwritten. A key's gradient is summed over its group of query heads, and a prompt's over its completions, in
/// order. P is recomputed tile by tile, as in Dao et al., “FlashAttention” (2022), and its rows are brought back to a sum
/// of 1, which a rounded `lse` alone does not give where scores are large.
///
/// # Errors
/// A length that is not its shape's, segments that overlap or leave the rows, operands that are not on the CPU.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Float>(
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    out: View<'_, T>,
    lse: View<'_, T>,
    dout: View<'_, T>,
    dq: ViewMut<'_, T>,
    dk: ViewMut<'_, T>,
    dv: ViewMut<'_, T>,
    segments: &[Segment],
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "attention::backward";
    shape.check(OP)?;
    for (name, len) in [("q", q.len()), ("out", out.len()), ("dout", dout.len()), ("dq", dq.len())] {
        shape.queries(OP, name, len)?;
    }
    for (name, len) in [("k", k.len()), ("v", v.len()), ("dk", dk.len()), ("dv", dv.len())] {
        shape.keys(OP, name, len)?;
    }
    check::length(OP, "lse", lse.len(), &[shape.rows, shape.heads], "rows × heads")?;
    segment::check(OP, segments, shape.rows, &mut ws.blocks)?;
    let inputs = cpu::Inputs { q: q.cpu(OP)?, k: k.cpu(OP)?, v: v.cpu(OP)? };
    let saved = cpu::Saved { out: out.cpu(OP)?, lse: lse.cpu(OP)?, dout: dout.cpu(OP)? };
    cpu::backward(inputs, saved, dq.cpu(OP)?, dk.cpu(OP)?, dv.cpu(OP)?, segments, shape, ws);
    Ok(())
}

fn refuse(op: &'static str, reason: String) -> Result<()> {
    Err(Error::Shape { op, reason })
}
