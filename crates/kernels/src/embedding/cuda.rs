//! Launches of the kernels in `embedding.cu`.
use super::BucketViews;
use crate::cuda::{Call, Cuda, Grid, lanes, lanes_beside};
use crate::{Element, Result, View, ViewMut};

const MOST_THREADS: usize = 256;
const MOST_BLOCKS: usize = 1 << 20;
const WARP: usize = 32;

pub(crate) fn gather<T: Element>(
    op: &'static str,
    device: &Cuda,
    ids: View<'_, u32>,
    table: View<'_, T>,
    mut y: ViewMut<'_, T>,
    hidden: usize,
) -> Result<()> {
    let rows = ids.len();
    if rows == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes("embedding_forward", hidden, &[Some(table), Some(y.as_view())]);
    let known = table.len() / hidden;
    let call = Call::new(op, device).read(ids).read(table).write(&mut y).index(known).index(rows).index(hidden);
    call.launch(&kernel, Grid::line(rows.min(MOST_BLOCKS), threads(hidden, width)))
}

pub(super) fn scatter<T: Element>(
    op: &'static str,
    device: &Cuda,
    buckets: BucketViews<'_>,
    dy: View<'_, T>,
    mut dtable: ViewMut<'_, T::Wide>,
    hidden: usize,
) -> Result<()> {
    let count = buckets.ids.len();
    if count == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes_beside("embedding_backward", hidden, &[Some(dy)], &[dtable.as_view()]);
    let threads = threads(hidden, width);
    let blocks = [count.min(MOST_BLOCKS) as u32, hidden.div_ceil(threads * width) as u32, 1];
    Call::new(op, device)
        .read(buckets.ids)
        .read(buckets.starts)
        .read(buckets.members)
        .read(dy)
        .write(&mut dtable)
        .index(dtable.len() / hidden)
        .index(count)
        .index(buckets.members.len())
        .index(hidden)
        .launch(&kernel, Grid { blocks, ..Grid::line(1, threads) })
}

/// A thread for every `width` columns, in whole warps.
fn threads(hidden: usize, width: usize) -> usize {
    hidden.div_ceil(width).next_multiple_of(WARP).min(MOST_THREADS)
}
