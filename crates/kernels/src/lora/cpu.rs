//! The products of adapters, each on all threads.
use super::{Gradients, Projection, Shape, ranks, with_columns};
use crate::matmul::{Size, Whole, whole};
use crate::{Element, Float, Result, View, ViewMut, Workspace};

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn forward<T: Element>(
    op: &'static str,
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    u: ViewMut<'_, T>,
    y: Vec<ViewMut<'_, T>>,
    Shape { rows, in_features }: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    let (x, a, u, rank) = (x.cpu(op)?, a.cpu(op)?, u.cpu(op)?, ranks(projections));
    let size = Size { m: rows, n: rank, k: in_features };
    whole(ws, size, u, false, Whole::new(x, in_features), Whole::new(a, in_features).transposed(), T::Wide::ONE);
    for ((column, projection), y) in with_columns(projections).zip(y) {
        let (b, of_u) = (Whole::new(projection.b.cpu(op)?, projection.rank), part(u, column, rank));
        let size = Size { m: rows, n: projection.out_features, k: projection.rank };
        whole(ws, size, y.cpu(op)?, true, of_u, b.transposed(), projection.scale);
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Element>(
    op: &'static str,
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    u: View<'_, T>,
    dy: &[View<'_, T>],
    d: Gradients<'_, T>,
    Shape { rows, in_features }: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    let (x, a, u, all) = (x.cpu(op)?, a.cpu(op)?, u.cpu(op)?, ranks(projections));
    let mut du = ws.take::<T::Wide>(rows * all);
    for (((column, projection), dy), db) in with_columns(projections).zip(dy).zip(d.b) {
        let &Projection { b, rank, out_features, scale } = projection;
        let dy = Whole::new(dy.cpu(op)?, out_features);
        let mut of_du = ws.take(rows * rank);
        let size = Size { m: rows, n: rank, k: out_features };
        whole(ws, size, &mut of_du, false, dy, Whole::new(b.cpu(op)?, rank), scale);
        if rank > 0 {
            for (to, from) in du.chunks_exact_mut(all).zip(of_du.chunks_exact(rank)) {
                to[column..column + rank].copy_from_slice(from);
            }
        }
        ws.give_back(of_du);
        let size = Size { m: out_features, n: rank, k: rows };
        whole(ws, size, db.cpu(op)?, true, dy.transposed(), part(u, column, all), scale);
    }
    let of_du = Whole::new(&du, all);
    let size = Size { m: all, n: in_features, k: rows };
    whole(ws, size, d.a.cpu(op)?, true, of_du.transposed(), Whole::new(x, in_features), T::Wide::ONE);
    if let Some(dx) = d.x {
        let size = Size { m: rows, n: in_features, k: all };
        whole(ws, size, dx.cpu(op)?, true, of_du, Whole::new(a, in_features), T::Wide::ONE);
    }
    ws.give_back(du);
    Ok(())
}

/// The columns of a projection in rows of `width`.
fn part<T>(u: &[T], column: usize, width: usize) -> Whole<'_, T> {
    Whole::new(&u[column.min(u.len())..], width)
}
