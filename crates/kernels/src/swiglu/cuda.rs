//! Launches of the kernels in `swiglu.cu`, for each `activation`: swiglu or geglu.
use crate::cuda::{Call, Cuda, Grid, lanes};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;

pub(crate) fn forward<T: Element>(
    op: &'static str,
    activation: &str,
    device: &Cuda,
    gate: View<'_, T>,
    up: View<'_, T>,
    mut y: ViewMut<'_, T>,
) -> Result<()> {
    let len = gate.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes(&format!("{activation}_forward"), len, &[Some(gate), Some(up), Some(y.as_view())]);
    let call = Call::new(op, device).read(gate).read(up).write(&mut y);
    call.index(1).index(len).index(len).index(len).launch(&kernel, one_row(len, width))
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(crate) fn backward<T: Element>(
    op: &'static str,
    activation: &str,
    device: &Cuda,
    gate: View<'_, T>,
    up: View<'_, T>,
    dy: View<'_, T>,
    mut dgate: ViewMut<'_, T>,
    mut dup: ViewMut<'_, T>,
) -> Result<()> {
    let len = gate.len();
    if len == 0 {
        return Ok(());
    }
    let operands = [Some(gate), Some(up), Some(dy), Some(dgate.as_view()), Some(dup.as_view())];
    let (kernel, width) = lanes(&format!("{activation}_backward"), len, &operands);
    let call = Call::new(op, device).read(gate).read(up).read(dy).write(&mut dgate).write(&mut dup);
    call.index(1).index(len).index(len).index(len).index(len).launch(&kernel, one_row(len, width))
}

/// A thread for every `width` elements.
fn one_row(len: usize, width: usize) -> Grid {
    Grid::line(len.div_ceil(THREADS * width), THREADS)
}
