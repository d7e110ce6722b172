//! The three products on a device.
use super::Shape;
use crate::cuda::{Cuda, Factor, product};
use crate::matmul::Size;
use crate::{Element, Result, View, ViewMut};

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    w: View<'_, T>,
    y: ViewMut<'_, T>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
) -> Result<()> {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: out_features, k: in_features };
    let (x, w) = (Factor::new(x, in_features), Factor::new(w, in_features).transposed());
    product(op, device, size, y, out_features, accumulate, x, w, scale)
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward_input<T: Element>(
    op: &'static str,
    device: &Cuda,
    dy: View<'_, T>,
    w: View<'_, T>,
    dx: ViewMut<'_, T>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
) -> Result<()> {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: in_features, k: out_features };
    let (dy, w) = (Factor::new(dy, out_features), Factor::new(w, in_features));
    product(op, device, size, dx, in_features, accumulate, dy, w, scale)
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward_weight<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    dy: View<'_, T>,
    dw: ViewMut<'_, T::Wide>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
) -> Result<()> {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: out_features, n: in_features, k: rows };
    let (dy, x) = (Factor::new(dy, out_features).transposed(), Factor::new(x, in_features));
    product(op, device, size, dw, in_features, accumulate, dy, x, scale)
}
