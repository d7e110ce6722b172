//! Rows in parallel; the gradient of the weight by blocks of rows that are summed in order.
use super::Shape;
use crate::parallel::{Crew, Disjoint};
use crate::simd::{self, sum_of, vectorised};
use crate::{Float, Workspace};

/// Blocks of rows whose parts of `dw` are kept apart until they are summed.
const MOST_BLOCKS: usize = 32;
const LEAST_ROWS: usize = 8;

pub(super) fn forward<T: Float>(
    x: &[T],
    weight: &[T],
    y: &mut [T],
    rstd: &mut [T],
    shape: Shape,
    eps: f64,
    crew: &Crew,
) {
    let hidden = shape.hidden;
    let (y, rstd) = (Disjoint::new(y), Disjoint::new(rstd));
    crew.rows(shape.rows, hidden, |rows| {
        // SAFETY: ranges of rows do not overlap.
        let (y, rstd) = unsafe { (y.part(rows.start * hidden..rows.end * hidden), rstd.part(rows.clone())) };
        for (i, row) in rows.enumerate() {
            let x = &x[row * hidden..][..hidden];
            let mean_square = simd::dot(x, x) / hidden.max(1) as f64;
            rstd[i] = T::from_f64(1.0 / (mean_square + eps).sqrt());
            normalise(x, weight, rstd[i], &mut y[i * hidden..][..hidden]);
        }
    });
}

#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, T> {
    pub(super) x: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) rstd: &'a [T],
    pub(super) dy: &'a [T],
}

pub(super) fn backward<T: Float>(
    inputs: Inputs<'_, T>,
    dx: &mut [T],
    accumulate_dx: bool,
    dw: Option<&mut [T]>,
    shape: Shape,
    ws: &mut Workspace,
) {
    let Shape { rows, hidden } = shape;
    if rows == 0 || hidden == 0 {
        return;
    }
    let crew = ws.crew();
    let step = rows.div_ceil(MOST_BLOCKS).max(LEAST_ROWS);
    let mut partial = ws.take(if dw.is_some() { rows.div_ceil(step) * hidden } else { 0 });
    partial.fill(T::ZERO);
    let wants_dw = dw.is_some();
    let (dx, parts) = (Disjoint::new(dx), Disjoint::new(&mut partial));
    crew.pieces(rows, step, |block, range| {
        // SAFETY: ranges of rows do not overlap, and each block has its own part of the weight's gradient.
        let (dx, mut part) = unsafe {
            let part = wants_dw.then(|| parts.part(block * hidden..(block + 1) * hidden));
            (dx.part(range.start * hidden..range.end * hidden), part)
        };
        for (row, dx) in range.zip(dx.chunks_exact_mut(hidden)) {
            let at = row * hidden..(row + 1) * hidden;
            let (x, dy, rstd) = (&inputs.x[at.clone()], &inputs.dy[at], inputs.rstd[row]);
            let mean = mean_product(x, dy, inputs.weight) * rstd.to_f64();
            let pull = T::from_f64(mean) * rstd;
            input_gradient(x, dy, inputs.weight, rstd, pull, dx, accumulate_dx);
            if let Some(part) = part.as_deref_mut() {
                add_weight_gradient(x, dy, rstd, part);
            }
        }
    });
    if let Some(dw) = dw {
        partial.chunks_exact(hidden).for_each(|part| simd::add(dw, part));
    }
    ws.give_back(partial);
}

vectorised! {
    fn normalise<T>(x: &[T], weight: &[T], rstd: T, y: &mut [T]) {
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * rstd * w;
        }
    }

    fn mean_product<T>(x: &[T], dy: &[T], weight: &[T]) -> f64 {
        let n = x.len();
        let (x, dy, weight) = (&x[..n], &dy[..n], &weight[..n]);
        sum_of(n, |i| dy[i] * weight[i] * x[i]) / n as f64
    }

    /// dx (+)= rstd·(dy·weight − x·pull), where pull = rstd·mean(dy·weight·x̂).
    fn input_gradient<T>(x: &[T], dy: &[T], weight: &[T], rstd: T, pull: T, dx: &mut [T], accumulate: bool) {
        let n = dx.len();
        let (x, dy, weight) = (&x[..n], &dy[..n], &weight[..n]);
        if accumulate {
            for i in 0..n {
                dx[i] += rstd * (dy[i] * weight[i] - x[i] * pull);
            }
        } else {
            for i in 0..n {
                dx[i] = rstd * (dy[i] * weight[i] - x[i] * pull);
            }
        }
    }

    fn add_weight_gradient<T>(x: &[T], dy: &[T], rstd: T, part: &mut [T]) {
        for ((part, &x), &dy) in part.iter_mut().zip(x).zip(dy) {
            *part += dy * (x * rstd);
        }
    }
}
