//! The launch of the kernel in `rope.cu`.
use super::{Direction, PairShape};
use crate::cuda::{Call, Cuda, Grid, lanes_beside};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;
/// What a thread turns by the cosines and sines that it has loaded, where a block has threads enough for that.
const HEADS_OF_THREAD: usize = 4;
/// The most that a block has along z.
const MOST_ROWS_OF_BLOCK: usize = 64;
/// The most that a grid has; rows beyond have their turns.
const MOST_BLOCKS: usize = 1 << 20;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn apply_pair<T: Element>(
    op: &'static str,
    device: &Cuda,
    mut q: ViewMut<'_, T>,
    mut k: ViewMut<'_, T>,
    positions: View<'_, u32>,
    (cos, sin): (View<'_, T::Wide>, View<'_, T::Wide>),
    shape: PairShape,
    direction: Direction,
) -> Result<()> {
    let PairShape { rows, q_heads, k_heads, head_dim } = shape;
    let (half, heads) = (head_dim / 2, q_heads + k_heads);
    if rows == 0 || heads == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes_beside("rope", half, &[Some(q.as_view()), Some(k.as_view())], &[cos, sin]);
    // Powers of 2, so that a block is whole warps.
    let x = half.div_ceil(width).next_power_of_two().min(THREADS);
    let y = heads.div_ceil(HEADS_OF_THREAD).next_power_of_two().min(THREADS / x);
    let z = (THREADS / (x * y)).min(MOST_ROWS_OF_BLOCK);
    let threads = [x as u32, y as u32, z as u32];
    Call::new(op, device)
        .write(&mut q)
        .write(&mut k)
        .read(positions)
        .read(cos)
        .read(sin)
        .index(cos.len() / half)
        .index(rows)
        .index(q_heads)
        .index(k_heads)
        .index(half)
        .flag(direction == Direction::Backward)
        .launch(&kernel, Grid { threads, ..Grid::line(rows.div_ceil(z).min(MOST_BLOCKS), 0) })
}
