//! Tiles of scores in scratch: strided products for each head, a softmax of each row.
use std::ops::Range;

use super::Shape;
use super::segment::{Block, Segment};
use crate::matmul::{At, Size, product};
use crate::parallel::Disjoint;
use crate::simd::{self, vectorised};
use crate::{Float, Workspace};

/// Query rows of a tile.
const TILE: usize = 128;

#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, T> {
    pub(super) q: &'a [T],
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
}

#[derive(Clone, Copy)]
pub(super) struct Saved<'a, T> {
    pub(super) out: &'a [T],
    pub(super) lse: &'a [T],
    pub(super) dout: &'a [T],
}

pub(super) fn forward<T: Float>(
    inputs: Inputs<'_, T>,
    out: &mut [T],
    lse: &mut [T],
    segments: &[Segment],
    shape: Shape,
    ws: &mut Workspace,
) {
    let blocks = std::mem::take(&mut ws.blocks);
    if covered(&blocks) < shape.rows {
        out.fill(T::ZERO);
        lse.fill(T::ZERO);
    }
    let per_lane = TILE * most_keys(segments);
    let crew = ws.crew();
    let mut scratch = ws.take(per_lane * crew.threads());
    let (out, lse) = (Disjoint::new(out), Disjoint::new(lse));
    crew.tasks_with(blocks.len() * shape.heads, &mut scratch, per_lane, |task, scratch| {
        let (block, head) = (&blocks[task / shape.heads], task % shape.heads);
        let lanes = Lanes::new(inputs, shape, head);
        for tile in tiles(block) {
            // SAFETY: blocks share no row, and no other task has this block and head.
            unsafe { forward_tile(lanes, &tile, block, out, lse, scratch) };
        }
    });
    ws.give_back(scratch);
    ws.blocks = blocks;
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Float>(
    inputs: Inputs<'_, T>,
    saved: Saved<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    segments: &[Segment],
    shape: Shape,
    ws: &mut Workspace,
) {
    if covered(&ws.blocks) < shape.rows {
        dq.fill(T::ZERO);
    }
    dk.fill(T::ZERO);
    dv.fill(T::ZERO);
    let width = most_keys(segments);
    let tile_len = TILE * width;
    let per_lane = 2 * tile_len + if shape.soft_cap.is_some() { width } else { 0 };
    let crew = ws.crew();
    let mut scratch = ws.take(per_lane * crew.threads());
    let grads = Gradients { dq: Disjoint::new(dq), dk: Disjoint::new(dk), dv: Disjoint::new(dv) };
    crew.tasks_with(segments.len() * shape.kv_heads, &mut scratch, per_lane, |task, scratch| {
        let (segment, kv_head) = (&segments[task / shape.kv_heads], task % shape.kv_heads);
        let (p, rest) = scratch.split_at_mut(tile_len);
        let (ds, slopes) = rest.split_at_mut(tile_len);
        let group = shape.heads / shape.kv_heads;
        for block in segment.blocks() {
            for head in kv_head * group..(kv_head + 1) * group {
                let lanes = Lanes::new(inputs, shape, head);
                for tile in tiles(&block) {
                    // SAFETY: segments share no row, and no other task has this segment and key head.
                    unsafe { backward_tile(lanes, &tile, &block, saved, &grads, p, ds, slopes) };
                }
            }
        }
    });
    ws.give_back(scratch);
}

/// Query rows, and how many keys of their own block the last of them sees.
struct Tile {
    queries: Range<usize>,
    own_keys: Range<usize>,
}

fn tiles(block: &Block) -> impl Iterator<Item = Tile> {
    let own = block.own.clone();
    own.clone().step_by(TILE).map(move |start| {
        let end = (start + TILE).min(own.end);
        Tile { queries: start..end, own_keys: own.start..end }
    })
}

fn most_keys(segments: &[Segment]) -> usize {
    segments.iter().flat_map(Segment::blocks).map(|block| block.keys()).max().unwrap_or(0)
}

fn covered(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| block.own.len()).sum()
}

/// One query head and its key head, as strided matrices.
#[derive(Clone, Copy)]
struct Lanes<'a, T> {
    inputs: Inputs<'a, T>,
    shape: Shape,
    head: usize,
    kv_head: usize,
    scale: T,
}

impl<'a, T: Float> Lanes<'a, T> {
    fn new(inputs: Inputs<'a, T>, shape: Shape, head: usize) -> Self {
        let kv_head = head / (shape.heads / shape.kv_heads);
        Self { inputs, shape, head, kv_head, scale: T::from_f64(1.0 / (shape.head_dim as f64).sqrt()) }
    }

    fn query_at(&self, row: usize) -> usize {
        (row * self.shape.heads + self.head) * self.shape.head_dim
    }

    fn key_at(&self, row: usize) -> usize {
        (row * self.shape.kv_heads + self.kv_head) * self.shape.head_dim
    }

    fn query_rows(&self, of: &[T], row: usize) -> At<*const T> {
        At::rows(of[self.query_at(row)..].as_ptr(), self.shape.heads * self.shape.head_dim)
    }

    /// The rows of a key or value matrix from `row` on; of none where nothing follows.
    fn key_rows(&self, of: &[T], row: usize) -> At<*const T> {
        let at = self.key_at(row).min(of.len());
        At::rows(of[at..].as_ptr(), self.shape.kv_heads * self.shape.head_dim)
    }

    fn query_rows_mut(&self, of: &Disjoint<'_, T>, row: usize) -> At<*mut T> {
        At::rows(of.at(self.query_at(row)), self.shape.heads * self.shape.head_dim)
    }

    fn key_rows_mut(&self, of: &Disjoint<'_, T>, row: usize) -> At<*mut T> {
        At::rows(of.at(self.key_at(row)), self.shape.kv_heads * self.shape.head_dim)
    }

    /// tile ← scale·rows·keysᵀ, for the shared keys and then the tile's own.
    ///
    /// # Safety
    /// `rows` are the tile's rows of a `[N, heads, D]` matrix of this head.
    unsafe fn scores(&self, rows: At<*const T>, keys: &[T], tile: &Tile, block: &Block, scale: T, into: &mut [T]) {
        let (m, width) = (tile.queries.len(), block.shared.len() + tile.own_keys.len());
        assert!(m * width <= into.len());
        let k = self.shape.head_dim;
        for (range, column) in [(&block.shared, 0), (&tile.own_keys, block.shared.len())] {
            let dst = At::rows(into[column..].as_mut_ptr(), width);
            let rhs = self.key_rows(keys, range.start).transposed();
            // SAFETY: `range` was checked to be within the rows, and `into` holds m rows of `width`.
            unsafe { product(Size { m, n: range.len(), k }, dst, false, rows, rhs, scale) };
        }
    }

    /// The columns of a tile's scores that a row sees: its number among the block's keys and as many before it as the window has.
    fn seen(&self, row: usize, block: &Block) -> Range<usize> {
        let end = block.shared.len() + row - block.own.start + 1;
        end.saturating_sub(self.shape.window.unwrap_or(end))..end
    }

    /// rows ← weights·keys, over the shared keys and the tile's own.
    ///
    /// # Safety
    /// `rows` are the tile's rows of a `[N, heads, D]` matrix of this head that nobody else touches.
    unsafe fn mix(&self, weights: &[T], keys: &[T], tile: &Tile, block: &Block, rows: At<*mut T>) {
        let (m, width) = (tile.queries.len(), block.shared.len() + tile.own_keys.len());
        let n = self.shape.head_dim;
        let shares = !block.shared.is_empty();
        for (range, column, add) in [(&block.shared, 0, false), (&tile.own_keys, block.shared.len(), shares)] {
            if range.is_empty() {
                continue;
            }
            let lhs = At::rows(weights[column..].as_ptr(), width);
            // SAFETY: as in `scores`.
            unsafe { product(Size { m, n, k: range.len() }, rows, add, lhs, self.key_rows(keys, range.start), T::ONE) };
        }
    }

    /// keys ← keys + weightsᵀ·rows, over the shared keys and the tile's own.
    ///
    /// # Safety
    /// `rows` are the tile's rows of a `[N, heads, D]` matrix of this head; nobody else touches these keys.
    unsafe fn spread(&self, weights: &[T], rows: At<*const T>, tile: &Tile, block: &Block, keys: &Disjoint<'_, T>) {
        let (k, width) = (tile.queries.len(), block.shared.len() + tile.own_keys.len());
        let n = self.shape.head_dim;
        for (range, column) in [(&block.shared, 0), (&tile.own_keys, block.shared.len())] {
            if range.is_empty() {
                continue;
            }
            let lhs = At::rows(weights[column..].as_ptr(), width).transposed();
            let dst = self.key_rows_mut(keys, range.start);
            // SAFETY: as in `scores`.
            unsafe { product(Size { m: range.len(), n, k }, dst, true, lhs, rows, T::ONE) };
        }
    }
}

/// # Safety
/// Nobody else touches the tile's rows of `out` and `lse` for this head.
unsafe fn forward_tile<T: Float>(
    lanes: Lanes<'_, T>,
    tile: &Tile,
    block: &Block,
    out: Disjoint<'_, T>,
    lse: Disjoint<'_, T>,
    scratch: &mut [T],
) {
    let width = block.shared.len() + tile.own_keys.len();
    let first = tile.queries.start;
    // SAFETY: these are the tile's rows of `q`.
    unsafe {
        lanes.scores(lanes.query_rows(lanes.inputs.q, first), lanes.inputs.k, tile, block, lanes.scale, scratch);
    }
    let mut inverse = [T::ZERO; TILE];
    for (i, row) in tile.queries.clone().enumerate() {
        let seen = zeros_beside(&mut scratch[i * width..][..width], lanes.seen(row, block));
        if let Some(cap) = lanes.shape.soft_cap {
            cap_scores(seen, cap);
        }
        let largest = simd::max(seen);
        let sum = simd::exp_in_place(seen, largest);
        inverse[i] = T::from_f64(1.0 / sum);
        // SAFETY: this row and head are the task's.
        unsafe { *lse.at(row * lanes.shape.heads + lanes.head) = T::from_f64(largest.to_f64() + sum.ln()) };
    }
    // SAFETY: the caller's promise.
    unsafe { lanes.mix(scratch, lanes.inputs.v, tile, block, lanes.query_rows_mut(&out, first)) };
    for (i, row) in tile.queries.clone().enumerate() {
        let at = lanes.query_at(row);
        // SAFETY: this row and head are the task's.
        simd::scale(unsafe { out.part(at..at + lanes.shape.head_dim) }, inverse[i]);
    }
}

struct Gradients<'a, T> {
    dq: Disjoint<'a, T>,
    dk: Disjoint<'a, T>,
    dv: Disjoint<'a, T>,
}

/// The `seen` part of a row, beside which it becomes zero.
fn zeros_beside<T: Float>(row: &mut [T], seen: Range<usize>) -> &mut [T] {
    row[..seen.start].fill(T::ZERO);
    row[seen.end..].fill(T::ZERO);
    &mut row[seen]
}

/// s ← cap·tanh(s/cap)
fn cap_scores<T: Float>(scores: &mut [T], cap: f64) {
    scores.iter_mut().for_each(|s| *s = T::from_f64(cap * (s.to_f64() / cap).tanh()));
}

/// The derivatives of capped scores with respect to what they were: 1 − (s/cap)².
fn slopes_of_cap<T: Float>(scores: &[T], cap: f64, slopes: &mut [T]) {
    for (slope, s) in slopes.iter_mut().zip(scores) {
        *slope = T::from_f64(1.0 - (s.to_f64() / cap).powi(2));
    }
}

/// # Safety
/// Nobody else touches the rows of the tile's segment for this head, or of `dk` and `dv` for its key head.
#[expect(clippy::too_many_arguments, reason = "a tile, and scratch for it")]
unsafe fn backward_tile<T: Float>(
    lanes: Lanes<'_, T>,
    tile: &Tile,
    block: &Block,
    saved: Saved<'_, T>,
    grads: &Gradients<'_, T>,
    p: &mut [T],
    ds: &mut [T],
    slopes: &mut [T],
) {
    let width = block.shared.len() + tile.own_keys.len();
    let first = tile.queries.start;
    let Inputs { q, k, v } = lanes.inputs;
    let (q_rows, dout_rows) = (lanes.query_rows(q, first), lanes.query_rows(saved.dout, first));
    // SAFETY: these are the tile's rows of `q` and `dout`.
    unsafe {
        lanes.scores(q_rows, k, tile, block, lanes.scale, p);
        lanes.scores(dout_rows, v, tile, block, T::ONE, ds);
    }
    for (i, row) in tile.queries.clone().enumerate() {
        let seen = lanes.seen(row, block);
        let p = zeros_beside(&mut p[i * width..][..width], seen.clone());
        let ds = zeros_beside(&mut ds[i * width..][..width], seen);
        if let Some(cap) = lanes.shape.soft_cap {
            cap_scores(p, cap);
            slopes_of_cap(p, cap, slopes);
        }
        let sum = simd::exp_in_place(p, saved.lse[row * lanes.shape.heads + lanes.head]);
        let at = lanes.query_at(row);
        let of_head = at..at + lanes.shape.head_dim;
        let delta = T::from_f64(simd::dot(&saved.dout[of_head.clone()], &saved.out[of_head]));
        through_softmax(p, T::from_f64(1.0 / sum), ds, delta, lanes.scale);
        if lanes.shape.soft_cap.is_some() {
            ds.iter_mut().zip(&*slopes).for_each(|(ds, &slope)| *ds *= slope);
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        lanes.spread(p, dout_rows, tile, block, &grads.dv);
        lanes.mix(ds, k, tile, block, lanes.query_rows_mut(&grads.dq, first));
        lanes.spread(ds, q_rows, tile, block, &grads.dk);
    }
}

vectorised! {
    /// p ← p·inverse, the softmax; ds ← p·(ds − delta)·scale, where ds was the gradient of p.
    fn through_softmax<T>(p: &mut [T], inverse: T, ds: &mut [T], delta: T, scale: T) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p *= inverse;
            *ds = *p * (*ds - delta) * scale;
        }
    }
}
