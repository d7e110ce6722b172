//! The three products; strides say what is transposed, nothing is copied for it.
use super::Shape;
use crate::matmul::{Size, Whole, packed, whole};
use crate::{Float, Workspace};

pub(super) fn most_packed<T: Float>(
    Shape { rows, in_features, out_features }: Shape,
    trains: bool,
    threads: usize,
) -> usize {
    let of = |m: usize, n: usize, k: usize| packed::<T>(Size { m, n, k }, threads);
    let forward = of(rows, out_features, in_features);
    if !trains {
        return forward;
    }
    forward.max(of(rows, in_features, out_features)).max(of(out_features, in_features, rows))
}

pub(super) fn forward<T: Float>(
    x: &[T],
    w: &[T],
    y: &mut [T],
    shape: Shape,
    scale: T,
    accumulate: bool,
    ws: &mut Workspace,
) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: out_features, k: in_features };
    whole(ws, size, y, accumulate, Whole::new(x, in_features), Whole::new(w, in_features).transposed(), scale);
}

pub(super) fn backward_input<T: Float>(
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    shape: Shape,
    scale: T,
    accumulate: bool,
    ws: &mut Workspace,
) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: in_features, k: out_features };
    whole(ws, size, dx, accumulate, Whole::new(dy, out_features), Whole::new(w, in_features), scale);
}

pub(super) fn backward_weight<T: Float>(
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    shape: Shape,
    scale: T,
    accumulate: bool,
    ws: &mut Workspace,
) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: out_features, n: in_features, k: rows };
    whole(ws, size, dw, accumulate, Whole::new(dy, out_features).transposed(), Whole::new(x, in_features), scale);
}
