//! Causal attention over packed rows in which the completions of a prompt share the prompt's keys and values.
mod cpu;
mod cuda;
mod decode;
mod segment;
#[cfg(test)]
mod tests;
mod tiles;

pub use decode::decode;
pub(crate) use segment::Block;
pub use segment::Segment;
pub use tiles::{TileViews, Tiles};

use crate::{Element, Error, Result, View, ViewMut, Workspace, check};

/// The sizes of an attention, and what its scores are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Rows of all segments, `[N]`.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`, whose groups of consecutive query heads share one.
    pub kv_heads: usize,
    /// Elements of a head, `[D]`.
    pub head_dim: usize,
    /// The soft cap c of scores: a score s becomes c·tanh(s/c), as in Gemma Team, “Gemma 2” (2024).
    pub soft_cap: Option<f64>,
    /// The number of keys that a row sees at most, itself among them: the latest. Those of a shared prompt come before a completion's own.
    pub window: Option<usize>,
}

/// Who attends to whom.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Prompts and completions. The CPU goes by them.
    pub segments: &'a [Segment],
    /// The same in tiles, where the operands are. A device goes by them, and does not look at them before.
    pub tiles: Option<TileViews<'a>>,
}

impl<'a> From<&'a [Segment]> for Layout<'a> {
    /// For the CPU.
    fn from(segments: &'a [Segment]) -> Self {
        Self { segments, tiles: None }
    }
}

impl<'a> Layout<'a> {
    fn tiles(&self, op: &'static str, shape: Shape) -> Result<TileViews<'a>> {
        let tiles = self.tiles.ok_or_else(|| Error::Shape {
            op,
            reason: "operands on a device need the segments' tiles there; make them with attention::Tiles::of and give views of copies".into(),
        })?;
        check::length(op, "tiles.rows", tiles.rows, &[shape.rows], "rows")?;
        for (name, len, width) in [
            ("tiles.queries", tiles.queries.len(), tiles::QUERY_TILE),
            ("tiles.keys", tiles.keys.len(), tiles::KEY_TILE),
            ("tiles.ranges", tiles.ranges.len(), tiles::QUERY_RANGE),
        ] {
            check::shape(op, len.is_multiple_of(width), || {
                format!("{name} has {len} numbers, expected {width} for each")
            })?;
        }
        Ok(tiles)
    }
}

impl Shape {
    fn check(&self, op: &'static str) -> Result<()> {
        if let Some(cap) = self.soft_cap {
            check::shape(op, cap > 0.0 && cap.is_finite(), || {
                format!("soft_cap is {cap}, expected a positive number")
            })?;
        }
        check::shape(op, self.window != Some(0), || "window is 0, expected at least the row itself".into())?;
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
/// sees the whole prompt, and its own completion up to itself; of that the latest where `shape` has a window. Scores q·kᵀ/√D
/// are capped where it has a cap.
///
/// `q`, `out` `[N, heads, D]`; `k`, `v` `[N, kv_heads, D]`; `lse` `[N, heads]`, the natural logarithm of each row's sum of
/// exponentials, is what [`backward`] needs besides the inputs and `out`. Rows of no segment give zeros. Scores exist
/// only as one tile of 128 rows a thread on the CPU, and in registers on a device.
///
/// On a device, `bf16` goes by tensor cores where heads have a multiple of 8 elements and operands begin on 16 bytes, with P rounded to
/// `bf16` before it meets v; heads have at most 256 elements.
///
/// # Errors
/// A length that is not its shape's, segments that overlap or leave the rows; on a device a layout without tiles, tiles of another number of
/// rows, a head that is too large, or operands on different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn forward<T: Element>(
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    out: ViewMut<'_, T>,
    lse: ViewMut<'_, T::Wide>,
    layout: Layout<'_>,
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
    if let Some(device) = q.device() {
        let tiles = layout.tiles(OP, shape)?;
        return cuda::forward(OP, device, cuda::Inputs { q, k, v, tiles, shape }, out, lse);
    }
    segment::check(OP, layout.segments, shape.rows, &mut ws.blocks)?;
    let inputs = cpu::Inputs { q: q.cpu(OP)?, k: k.cpu(OP)?, v: v.cpu(OP)? };
    cpu::forward(inputs, out.cpu(OP)?, lse.cpu(OP)?, layout.segments, shape, ws);
    Ok(())
}

/// The gradients of [`forward`]. With P the softmax, dP = dout·vᵀ and δ = Σ over D of dout·out:
/// dS = P·(dP − δ)/√D, dq = dS·k, dk = dSᵀ·q, dv = Pᵀ·dout. Under a soft cap c, dS has the factor 1 − (s/c)², s the capped score.
///
/// `q`, `out`, `dout`, `dq` `[N, heads, D]`; `k`, `v`, `dk`, `dv` `[N, kv_heads, D]`; `lse` `[N, heads]`. `dq`, `dk` and `dv`
/// are overwritten. A key's gradient is summed over its group of query heads, and a prompt's over its completions, in
/// order. P is recomputed tile by tile, as in Dao et al., “FlashAttention” (2022), and its rows are brought back to a sum
/// of 1, which a rounded `lse` alone does not give where scores are large. On tensor cores, whose scores are no more exact than that,
/// they are not, and P and dS are rounded to `bf16` before they are multiplied.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Element>(
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    out: View<'_, T>,
    lse: View<'_, T::Wide>,
    dout: View<'_, T>,
    dq: ViewMut<'_, T>,
    dk: ViewMut<'_, T>,
    dv: ViewMut<'_, T>,
    layout: Layout<'_>,
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
    if let Some(device) = q.device() {
        let inputs = cuda::Inputs { q, k, v, tiles: layout.tiles(OP, shape)?, shape };
        return cuda::backward(OP, device, inputs, cuda::Saved { out, lse, dout }, cuda::Gradients { dq, dk, dv }, ws);
    }
    segment::check(OP, layout.segments, shape.rows, &mut ws.blocks)?;
    let inputs = cpu::Inputs { q: q.cpu(OP)?, k: k.cpu(OP)?, v: v.cpu(OP)? };
    let saved = cpu::Saved { out: out.cpu(OP)?, lse: lse.cpu(OP)?, dout: dout.cpu(OP)? };
    cpu::backward(inputs, saved, dq.cpu(OP)?, dk.cpu(OP)?, dv.cpu(OP)?, layout.segments, shape, ws);
    Ok(())
}

fn refuse(op: &'static str, reason: String) -> Result<()> {
    Err(Error::Shape { op, reason })
}
