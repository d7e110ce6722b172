//! The products of adapters on a device.
use super::{Gradients, Projection, Shape, ranks, with_columns};
use crate::cuda::{Cuda, Factor, product};
use crate::matmul::Size;
use crate::{Element, Float, Result, View, ViewMut};

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    mut u: ViewMut<'_, T>,
    y: Vec<ViewMut<'_, T>>,
    Shape { rows, in_features }: Shape,
) -> Result<()> {
    let all = ranks(projections);
    let size = Size { m: rows, n: all, k: in_features };
    let (x, a) = (Factor::new(x, in_features), Factor::new(a, in_features).transposed());
    product(op, device, size, u.reborrow(), all, false, x, a, T::Wide::ONE)?;
    for ((column, projection), y) in with_columns(projections).zip(y) {
        let &Projection { b, rank, out_features, scale } = projection;
        let of_u = Factor::new(from_column(u.as_view(), column)?, all);
        let size = Size { m: rows, n: out_features, k: rank };
        product(op, device, size, y, out_features, true, of_u, Factor::new(b, rank).transposed(), scale)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    u: View<'_, T>,
    dy: &[View<'_, T>],
    d: Gradients<'_, T>,
    Shape { rows, in_features }: Shape,
) -> Result<()> {
    let all = ranks(projections);
    let mut du = device.unwritten::<T>(rows * all)?;
    for (((column, projection), &dy), db) in with_columns(projections).zip(dy).zip(d.b) {
        let &Projection { b, rank, out_features, scale } = projection;
        let dy = Factor::new(dy, out_features);
        let len = du.len();
        let of_du = du.view_mut().part(column.min(len)..len)?;
        let size = Size { m: rows, n: rank, k: out_features };
        product(op, device, size, of_du, all, false, dy, Factor::new(b, rank), scale)?;
        let of_u = Factor::new(from_column(u, column)?, all);
        let size = Size { m: out_features, n: rank, k: rows };
        product(op, device, size, db, rank, true, dy.transposed(), of_u, scale)?;
    }
    let of_du = Factor::new(du.view(), all);
    let size = Size { m: all, n: in_features, k: rows };
    product(op, device, size, d.a, in_features, true, of_du.transposed(), Factor::new(x, in_features), T::Wide::ONE)?;
    let Some(dx) = d.x else { return Ok(()) };
    let size = Size { m: rows, n: in_features, k: all };
    product(op, device, size, dx, in_features, true, of_du, Factor::new(a, in_features), T::Wide::ONE)
}

/// What a matrix has from a column of its first row on.
fn from_column<T>(view: View<'_, T>, column: usize) -> Result<View<'_, T>> {
    view.part(column.min(view.len())..view.len())
}
