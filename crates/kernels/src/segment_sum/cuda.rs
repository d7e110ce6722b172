//! Launches of the kernels in `segment_sum.cu`.
use crate::cuda::{Call, Cuda, Grid};
use crate::{Float, Result, View, ViewMut};

const THREADS: usize = 256;
const MOST_BLOCKS: usize = 1 << 20;

pub(super) fn forward<T: Float>(
    op: &'static str,
    device: &Cuda,
    values: View<'_, T>,
    starts: View<'_, u32>,
    weights: Option<View<'_, T>>,
    mut sums: ViewMut<'_, T>,
) -> Result<()> {
    let segments = sums.len();
    let call = Call::new(op, device).read(values).read(starts).read_if(weights).write(&mut sums).index(segments);
    launch(call, &format!("segment_sum_forward_{}", T::NAME), segments)
}

pub(super) fn backward<T: Float>(
    op: &'static str,
    device: &Cuda,
    dsums: View<'_, T>,
    starts: View<'_, u32>,
    weights: Option<View<'_, T>>,
    mut dvalues: ViewMut<'_, T>,
) -> Result<()> {
    let segments = dsums.len();
    let call = Call::new(op, device).read(dsums).read(starts).read_if(weights).write(&mut dvalues).index(segments);
    launch(call, &format!("segment_sum_backward_{}", T::NAME), segments)
}

/// A block of threads for every segment.
fn launch(call: Call<'_>, kernel: &str, segments: usize) -> Result<()> {
    match segments {
        0 => Ok(()),
        _ => call.launch(kernel, Grid::line(segments.min(MOST_BLOCKS), THREADS)),
    }
}
