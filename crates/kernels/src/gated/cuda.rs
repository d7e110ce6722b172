//! Launches of the kernels in `gated.cu`.
use super::Activation;
use crate::cuda::{Call, Cuda, Grid, lanes};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;

pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    activation: Activation,
    gate: View<'_, T>,
    up: View<'_, T>,
    mut y: ViewMut<'_, T>,
) -> Result<()> {
    let len = gate.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) =
        lanes(&format!("{}_forward", name(activation)), len, &[Some(gate), Some(up), Some(y.as_view())]);
    let call = Call::new(op, device).read(gate).read(up).write(&mut y);
    call.index(len).launch(&kernel, one_each(len, width))
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Element>(
    op: &'static str,
    device: &Cuda,
    activation: Activation,
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
    let (kernel, width) = lanes(&format!("{}_backward", name(activation)), len, &operands);
    let call = Call::new(op, device).read(gate).read(up).read(dy).write(&mut dgate).write(&mut dup);
    call.index(len).launch(&kernel, one_each(len, width))
}

fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "swiglu",
        Activation::GeluTanh => "geglu",
    }
}

/// A thread for every `width` elements.
fn one_each(len: usize, width: usize) -> Grid {
    Grid::line(len.div_ceil(THREADS * width), THREADS)
}
