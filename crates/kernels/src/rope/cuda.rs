//! The launch of the kernel in `rope.cu`.
use super::{Direction, PairShape};
use crate::cuda::{Call, Cuda, Grid};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;
/// The most that a grid has along y; rows beyond it have their turns.
const MOST_ROWS: usize = 32_768;

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
    let half = head_dim / 2;
    let pairs = (q_heads + k_heads) * half;
    if rows == 0 || pairs == 0 {
        return Ok(());
    }
    let blocks = [pairs.div_ceil(THREADS) as u32, rows.min(MOST_ROWS) as u32, 1];
    Call::new(op, device)
        .write(&mut q)
        .write(&mut k)
        .read(positions)
        .read(cos)
        .read(sin)
        .index(rows)
        .index(q_heads)
        .index(k_heads)
        .index(q_heads * head_dim)
        .index(k_heads * head_dim)
        .index(head_dim)
        .index(half)
        .flag(direction == Direction::Backward)
        .launch(&format!("rope_{}", T::NAME), Grid { blocks, ..Grid::line(1, THREADS) })
}
