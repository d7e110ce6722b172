//! All three products through `gemm`, which takes strides instead of transposed copies.
use super::Shape;
use crate::Float;
use crate::matmul::{Size, Whole, whole};
use crate::parallel::Crew;

pub(super) fn forward<T: Float>(x: &[T], w: &[T], y: &mut [T], shape: Shape, scale: T, accumulate: bool, crew: &Crew) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: out_features, k: in_features };
    whole(crew, size, y, accumulate, Whole::new(x, in_features), Whole::new(w, in_features).transposed(), scale);
}

pub(super) fn backward_input<T: Float>(
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    shape: Shape,
    scale: T,
    accumulate: bool,
    crew: &Crew,
) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: rows, n: in_features, k: out_features };
    whole(crew, size, dx, accumulate, Whole::new(dy, out_features), Whole::new(w, in_features), scale);
}

pub(super) fn backward_weight<T: Float>(
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    shape: Shape,
    scale: T,
    accumulate: bool,
    crew: &Crew,
) {
    let Shape { rows, in_features, out_features } = shape;
    let size = Size { m: out_features, n: in_features, k: rows };
    whole(crew, size, dw, accumulate, Whole::new(dy, out_features).transposed(), Whole::new(x, in_features), scale);
}
