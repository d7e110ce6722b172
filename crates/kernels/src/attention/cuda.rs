//! Launches of the kernels in `attention.cu` and `flash.cu`.
use super::{Shape, TileViews, tiles};
use crate::cuda::{Call, Cuda, Grid, lanes, zero};
use crate::float::sealed::Kind;
use crate::{Element, Result, View, ViewMut, Workspace, check};

/// Elements of a head that kernels have registers for.
const MOST_HEAD_DIM: usize = 256;
/// Warps of a block in the kernels of `attention.cu`, and the parts that they make of a tile's rows.
const WARPS: usize = 4;
const PARTS: usize = 8;
const WARP: usize = 32;
/// Rows of a cache that a warp of `decode` goes through.
const PART: usize = 128;

/// What `flash.cu` has kernels for. Heads of another size go by the next larger one.
const FLASH: [Flash; 4] = [
    Flash { dim: 64, forward: (128, 64), queries: 128, keys: 64, steps: 2 },
    Flash { dim: 96, forward: (128, 64), queries: 128, keys: 64, steps: 2 },
    Flash { dim: 128, forward: (128, 64), queries: 128, keys: 64, steps: 2 },
    Flash { dim: 256, forward: (64, 32), queries: 64, keys: 32, steps: 1 },
];
/// Elements of space behind a row of shared memory there, and rows of a step of the backward.
const SPACE: usize = 8;
const STEP: usize = 32;

/// The kernels for one size of heads.
#[derive(Clone, Copy)]
struct Flash {
    dim: usize,
    /// Rows of a block of the forward: of queries, which stay, and of keys in each step.
    forward: (usize, usize),
    /// Rows that stay in a block of the backward, of queries in one kernel and of keys in the other.
    queries: usize,
    keys: usize,
    /// Steps of the backward that shared memory holds, of queries and of keys; of values it is one.
    steps: usize,
}

impl Flash {
    /// Bytes of shared memory for so many rows.
    fn rows(self, count: usize) -> usize {
        count * (self.dim + SPACE) * size_of::<half::bf16>()
    }

    fn forward_bytes(self) -> usize {
        let (queries, keys) = self.forward;
        self.rows(queries + 2 * keys)
    }

    fn backward_queries_bytes(self) -> usize {
        self.rows(2 * self.queries + (self.steps + 1) * STEP)
    }

    /// Beside the rows, P of a step.
    fn backward_keys_bytes(self) -> usize {
        self.rows(2 * self.keys + 2 * self.steps * STEP) + self.keys * STEP * size_of::<f32>()
    }
}

/// What both directions read.
pub(super) struct Inputs<'a, T> {
    pub(super) q: View<'a, T>,
    pub(super) k: View<'a, T>,
    pub(super) v: View<'a, T>,
    pub(super) tiles: TileViews<'a>,
    pub(super) shape: Shape,
}

pub(super) struct Saved<'a, T: Element> {
    pub(super) out: View<'a, T>,
    pub(super) lse: View<'a, T::Wide>,
    pub(super) dout: View<'a, T>,
}

pub(super) struct Gradients<'a, T> {
    pub(super) dq: ViewMut<'a, T>,
    pub(super) dk: ViewMut<'a, T>,
    pub(super) dv: ViewMut<'a, T>,
}

pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    inputs: Inputs<'_, T>,
    mut out: ViewMut<'_, T>,
    mut lse: ViewMut<'_, T::Wide>,
) -> Result<()> {
    check_head(op, inputs.shape)?;
    if inputs.tiles.covered < inputs.shape.rows {
        zero(op, device, &mut out)?;
        zero(op, device, &mut lse)?;
    }
    if inputs.query_tiles() == 0 {
        return Ok(());
    }
    let flash = inputs.flash(&[Some(out.as_view())]);
    let call = inputs.call(op, device).write(&mut out).write(&mut lse).read(inputs.tiles.queries);
    let blocks = inputs.query_tiles() * inputs.shape.heads;
    match flash {
        Some(flash) => {
            let grid = flash_grid(blocks * (tiles::QUERIES / flash.forward.0), flash.forward_bytes());
            call.launch(&format!("flash_forward_{}", flash.dim), grid)
        }
        None => call.launch(&format!("attention_forward_{}", T::NAME), rows(blocks)),
    }
}

pub(super) fn backward<T: Element>(
    op: &'static str,
    device: &Cuda,
    inputs: Inputs<'_, T>,
    saved: Saved<'_, T>,
    gradients: Gradients<'_, T>,
    ws: &mut Workspace,
) -> Result<()> {
    check_head(op, inputs.shape)?;
    let Gradients { mut dq, mut dk, mut dv } = gradients;
    let (shape, tiles) = (inputs.shape, inputs.tiles);
    if tiles.covered < shape.rows {
        for gradient in [&mut dq, &mut dk, &mut dv] {
            zero(op, device, gradient)?;
        }
    }
    if inputs.query_tiles() == 0 {
        return Ok(());
    }
    let others = [Some(saved.out), Some(saved.dout), Some(dq.as_view()), Some(dk.as_view()), Some(dv.as_view())];
    let flash = inputs.flash(&others);
    // Two numbers a row and head, which `attention.cu` has apart.
    let numbers = shape.rows * shape.heads * size_of::<T::Wide>();
    let deltas = ws.device_scratch.at_least(device, 2 * numbers)?;
    let inverses = deltas + numbers as u64;

    let blocks = inputs.query_tiles() * shape.heads;
    let call = inputs.call(op, device).read(saved.out).read(saved.lse).read(saved.dout).write(&mut dq).word(deltas);
    match flash {
        Some(flash) => {
            let grid = flash_grid(blocks * (tiles::QUERIES / flash.queries), flash.backward_queries_bytes());
            call.read(tiles.queries).launch(&format!("flash_backward_queries_{}", flash.dim), grid)
        }
        None => {
            let kernel = format!("attention_backward_queries_{}", T::NAME);
            call.word(inverses).read(tiles.queries).launch(&kernel, rows(blocks))
        }
    }?;

    let blocks = inputs.key_tiles() * shape.kv_heads;
    let call = inputs.call(op, device);
    match flash {
        Some(flash) => {
            let grid = flash_grid(blocks * (tiles::KEYS / flash.keys), flash.backward_keys_bytes());
            let call = call.read(saved.dout).word(deltas);
            let call = call.write(&mut dk).write(&mut dv).read(tiles.keys).read(tiles.ranges);
            call.launch(&format!("flash_backward_keys_{}", flash.dim), grid)
        }
        None => {
            let call = call.read(saved.lse).read(saved.dout).word(deltas).word(inverses);
            let call = call.write(&mut dk).write(&mut dv).read(tiles.keys).read(tiles.ranges);
            call.launch(&format!("attention_backward_keys_{}", T::NAME), rows(blocks))
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn decode<T: Element>(
    op: &'static str,
    device: &Cuda,
    q: View<'_, T>,
    keys: View<'_, T>,
    values: View<'_, T>,
    mut out: ViewMut<'_, T>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    check_head(op, shape)?;
    let Shape { rows, heads, head_dim, window, .. } = shape;
    let parts = window.unwrap_or(rows).min(rows).div_ceil(PART);
    // Of each part and head the largest score, a sum, and as many sums as the head has elements.
    let scratch = ws.device_scratch.at_least(device, parts * heads * (2 + head_dim) * size_of::<T::Wide>())?;
    let call = call(op, device, q, keys, values, shape).word(scratch).index(rows);
    let blocks = (parts * heads).div_ceil(WARPS);
    call.launch(&format!("attention_decode_{}", T::NAME), Grid::line(blocks, WARPS * WARP))?;
    let call = Call::new(op, device).word(scratch).write(&mut out).index(heads).index(head_dim).index(parts);
    let grid = Grid::line(heads, head_dim.next_multiple_of(WARP));
    call.launch(&format!("attention_decode_parts_{}", T::NAME), grid)
}

impl<T: Element> Inputs<'_, T> {
    fn query_tiles(&self) -> usize {
        self.tiles.queries.len() / tiles::QUERY_TILE
    }

    fn key_tiles(&self) -> usize {
        self.tiles.keys.len() / tiles::KEY_TILE
    }

    /// The kernels of `flash.cu`, where it has some for these operands.
    fn flash(&self, others: &[Option<View<'_, T>>]) -> Option<Flash> {
        let operands = [&[Some(self.q), Some(self.k), Some(self.v)], others].concat();
        let (_, width) = lanes("flash", self.shape.head_dim, &operands);
        let is_flash = T::KIND == Kind::Bf16 && width > 1;
        FLASH.into_iter().find(|flash| is_flash && flash.dim >= self.shape.head_dim)
    }

    fn call<'a>(&self, op: &'static str, device: &'a Cuda) -> Call<'a> {
        call(op, device, self.q, self.k, self.v, self.shape)
    }
}

fn check_head(op: &'static str, shape: Shape) -> Result<()> {
    check::shape(op, shape.head_dim <= MOST_HEAD_DIM, || {
        format!("head_dim is {}, expected at most {MOST_HEAD_DIM} on a device; use the cpu", shape.head_dim)
    })
}

/// A call with the arguments that all kernels begin with.
fn call<'a, T: Element>(
    op: &'static str,
    device: &'a Cuda,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    shape: Shape,
) -> Call<'a> {
    let Shape { rows, heads, kv_heads, head_dim, soft_cap, window } = shape;
    Call::new(op, device)
        .read(q)
        .read(k)
        .read(v)
        .index(heads)
        .index(kv_heads)
        .index(head_dim)
        // Nobody sees more keys than there are rows.
        .index(window.map_or(rows, |window| window.min(rows)))
        .double(1.0 / (head_dim as f64).sqrt())
        .double(soft_cap.unwrap_or(0.0))
        .double(soft_cap.map_or(0.0, f64::recip))
}

/// Blocks for the rows of so many tiles and heads.
fn rows(tiles: usize) -> Grid {
    Grid { blocks: [tiles as u32, PARTS as u32, 1], ..Grid::line(1, WARPS * WARP) }
}

/// Blocks of `flash.cu` with so many bytes of shared memory.
fn flash_grid(blocks: usize, bytes: usize) -> Grid {
    Grid { shared_bytes: bytes as u32, ..Grid::line(blocks, WARPS * WARP) }
}
