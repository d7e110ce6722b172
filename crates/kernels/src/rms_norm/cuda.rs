//! Launches of the kernels in `rms_norm.cu`.
use super::Shape;
use crate::cuda::{Call, Cuda, Grid, lanes};
use crate::{Element, Result, View, ViewMut, Workspace};

const WARP: usize = 32;
const MOST_BLOCKS: usize = 1 << 20;
/// Threads of a block of the forward kernel.
const MOST_THREADS: usize = 256;
/// Threads of a block of the backward kernel, which has a lane of columns for each.
const MOST_LANES: usize = 1024;
/// Threads of the backward kernel where it has parts of the weight's gradient: as many as 132 multiprocessors run at once. A
/// constant, so that sums do not depend on the device.
const THREADS_WITH_PARTS: usize = 132 * 1024;
/// The fewest rows that are worth a part.
const ROWS_OF_PART: usize = 8;

pub(super) struct Residual<'a, T> {
    pub(super) residual: View<'a, T>,
    pub(super) sum: ViewMut<'a, T>,
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    mut residual: Option<Residual<'_, T>>,
    weight: View<'_, T>,
    mut y: ViewMut<'_, T>,
    mut rstd: ViewMut<'_, T::Wide>,
    shape: Shape,
    eps: f64,
) -> Result<()> {
    if shape.rows == 0 {
        return Ok(());
    }
    let views = [
        Some(x),
        residual.as_ref().map(|r| r.residual),
        Some(weight),
        Some(y.as_view()),
        residual.as_ref().map(|r| r.sum.as_view()),
    ];
    let (kernel, width) = lanes("rms_norm_forward", shape.hidden, &views);
    Call::new(op, device)
        .read(x)
        .read_if(residual.as_ref().map(|r| r.residual))
        .read(weight)
        .write_if(residual.as_mut().map(|r| &mut r.sum))
        .write(&mut y)
        .write(&mut rstd)
        .index(shape.rows)
        .index(shape.hidden)
        .double(eps)
        .launch(&kernel, by_rows(shape, width))
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    weight: View<'_, T>,
    rstd: View<'_, T::Wide>,
    dy: View<'_, T>,
    mut dx: ViewMut<'_, T>,
    accumulate_dx: bool,
    dw: Option<ViewMut<'_, T::Wide>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    if shape.rows == 0 {
        return Ok(());
    }
    let views = [Some(x), Some(weight), Some(dy), Some(dx.as_view())];
    let (kernel, width) = lanes("rms_norm_backward", shape.hidden, &views);
    let lanes = shape.hidden.div_ceil(width);
    let threads = lanes.next_multiple_of(WARP).min(MOST_LANES);
    let parts = parts(threads, shape.rows);
    let blocks = if dw.is_some() { parts } else { shape.rows.min(MOST_BLOCKS) };
    let blocks = [blocks as u32, lanes.div_ceil(threads) as u32, 1];
    let partial = match &dw {
        Some(_) => ws.device_scratch.at_least(device, parts * shape.hidden * size_of::<T::Wide>())?,
        None => 0,
    };
    Call::new(op, device)
        .read(x)
        .read(weight)
        .read(rstd)
        .read(dy)
        .write(&mut dx)
        .flag(accumulate_dx)
        .word(partial)
        .index(shape.rows)
        .index(shape.hidden)
        .launch(&kernel, Grid { blocks, ..Grid::line(1, threads) })?;
    let Some(mut dw) = dw else { return Ok(()) };
    let threads = [WARP as u32, (MOST_LANES / WARP) as u32, 1];
    Call::new(op, device).word(partial).write(&mut dw).index(parts).index(shape.hidden).launch(
        &format!("rms_norm_sum_parts_{}", T::Wide::NAME),
        Grid { threads, ..Grid::line(shape.hidden.div_ceil(WARP), 0) },
    )
}

/// Parts of the weight's gradient.
fn parts(threads: usize, rows: usize) -> usize {
    (THREADS_WITH_PARTS / threads).min(rows.div_ceil(ROWS_OF_PART))
}

/// Bytes of all parts, at most: threads that have packs of columns are the fewest.
pub(super) fn scratch<T: Element>(shape: Shape) -> usize {
    let threads = shape.hidden.div_ceil(16 / size_of::<T>()).next_multiple_of(WARP).clamp(WARP, MOST_LANES);
    parts(threads, shape.rows) * shape.hidden * size_of::<T::Wide>()
}

/// One block of threads a row, with a thread for every `width` columns, up to [`MOST_THREADS`], in whole warps.
fn by_rows(shape: Shape, width: usize) -> Grid {
    let threads = shape.hidden.div_ceil(width).next_multiple_of(WARP).min(MOST_THREADS);
    Grid::line(shape.rows.min(MOST_BLOCKS), threads)
}
