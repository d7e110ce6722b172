//! Launches over flat buffers, of which a thread handles four elements (`quad.cuh`).
use super::{Call, Grid};
use crate::{Result, View};

const QUAD: usize = 4;

/// Blocks of so many threads that together have all elements.
pub(crate) fn blocks(len: usize, threads: usize) -> usize {
    len.div_ceil(QUAD * threads)
}

/// Whether an operand begins where four of its elements can be moved in one access. One that is on no device does:
/// the launch refuses it.
pub(crate) fn begins<T>(operand: View<'_, T>) -> bool {
    let quad = (QUAD * size_of::<T>()) as u64;
    operand.buffer().is_none_or(|(buffer, start)| buffer.address(start).is_multiple_of(quad))
}

/// What the name of a kernel has before its type where all operands [`begins`] so.
pub(crate) fn layout(begin: &[bool]) -> &'static str {
    if begin.iter().all(|&begins| begins) { "packed_" } else { "" }
}

/// Launches a kernel on `len` elements, where there are any.
pub(crate) fn launch(call: Call<'_>, kernel: &str, len: usize, threads: usize) -> Result<()> {
    match blocks(len, threads) {
        0 => Ok(()),
        blocks => call.launch(kernel, Grid::line(blocks, threads)),
    }
}
