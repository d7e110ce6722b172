//! Launches of the kernels in `elementwise.cu`.
use crate::cuda::{Call, Cuda, Grid, lanes, lanes_beside};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;

pub(super) fn add_assign<T: Element>(
    op: &'static str,
    device: &Cuda,
    mut y: ViewMut<'_, T>,
    x: View<'_, T>,
) -> Result<()> {
    let len = x.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes("elementwise_add_assign", len, &[Some(y.as_view()), Some(x)]);
    Call::new(op, device).write(&mut y).read(x).index(len).launch(&kernel, line(len, width))
}

pub(super) fn mix<T: Element>(
    op: &'static str,
    device: &Cuda,
    mut y: ViewMut<'_, T>,
    x: View<'_, T>,
    weight: f64,
) -> Result<()> {
    let len = x.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes("elementwise_mix", len, &[Some(y.as_view()), Some(x)]);
    Call::new(op, device).write(&mut y).read(x).double(weight).index(len).launch(&kernel, line(len, width))
}

pub(super) fn narrow<T: Element>(
    op: &'static str,
    device: &Cuda,
    mut y: ViewMut<'_, T>,
    x: View<'_, T::Wide>,
) -> Result<()> {
    let len = x.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes_beside("elementwise_narrow", len, &[Some(y.as_view())], &[x]);
    Call::new(op, device).write(&mut y).read(x).index(len).launch(&kernel, line(len, width))
}

pub(super) fn widen<T: Element>(
    op: &'static str,
    device: &Cuda,
    mut y: ViewMut<'_, T::Wide>,
    x: View<'_, T>,
) -> Result<()> {
    let len = x.len();
    if len == 0 {
        return Ok(());
    }
    let (kernel, width) = lanes_beside("elementwise_widen", len, &[Some(x)], &[y.as_view()]);
    Call::new(op, device).write(&mut y).read(x).index(len).launch(&kernel, line(len, width))
}

/// A thread for every `width` elements.
fn line(len: usize, width: usize) -> Grid {
    Grid::line(len.div_ceil(THREADS * width), THREADS)
}
