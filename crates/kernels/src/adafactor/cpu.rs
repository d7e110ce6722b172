//! Sums of rows and columns in `f64` and in a fixed order, then one pass for the size of the update and one that makes it.
use super::Hyper;
use crate::parallel::{Crew, Disjoint};
use crate::simd::{squares, vectorised};
use crate::{Float, Workspace};

/// Columns that are summed at a time.
const COLUMNS: usize = 256;
/// Elements of a part of a tensor that is no matrix.
const PART: usize = 1 << 12;

/// What a step multiplies by.
#[derive(Clone, Copy)]
pub(super) struct Now {
    grad_scale: f64,
    /// 1 − β₂ of this step.
    weight: f64,
    /// The relative step, before the size of the parameters.
    rate: f64,
    keep: f64,
    hyper: Hyper,
}

impl Now {
    pub(super) fn new(step: u64, grad_scale: f64, hyper: Hyper) -> Self {
        let t = step as f64;
        Self {
            grad_scale,
            weight: t.powf(hyper.beta2_decay),
            rate: hyper.lr.min(1.0 / t.sqrt()),
            keep: 1.0 - hyper.lr * hyper.weight_decay,
            hyper,
        }
    }

    /// What the update is multiplied by, of sums of squares over `count` elements: of the parameters, and of the update.
    fn step_size(self, params: f64, update: f64, count: usize) -> f64 {
        let root_mean = |sum: f64| (sum / count.max(1) as f64).sqrt();
        let size = root_mean(params).max(self.hyper.eps2) * self.rate;
        size / (root_mean(update) / self.hyper.clip_threshold).max(1.0)
    }

    fn towards<T: Float>(self, from: T, to: f64) -> T {
        let from = from.to_f64();
        T::from_f64(from + self.weight * (to - from))
    }

    /// The least mean square.
    fn floor<T: Float>(self) -> T {
        T::from_f64(self.hyper.eps1 * self.hyper.eps1)
    }
}

pub(super) fn matrix<T: Float>(
    params: &mut [T],
    grads: &[T],
    row_means: &mut [T],
    col_means: &mut [T],
    now: Now,
    ws: &mut Workspace,
) {
    let (rows, cols) = (row_means.len(), col_means.len());
    let crew = ws.crew();
    let mut sums = ws.take::<f64>(rows);
    let row = |r: usize| r * cols..(r + 1) * cols;
    let of_params = each(&crew, &mut sums, cols, |r| squares(&params[row(r)]));
    let scale2 = now.grad_scale * now.grad_scale;
    each(&crew, &mut sums, cols, |r| squares(&grads[row(r)]));
    for (mean, sum) in row_means.iter_mut().zip(&sums) {
        *mean = now.towards(*mean, scale2 * sum / cols as f64);
    }
    let means = Disjoint::new(col_means);
    crew.pieces(cols, COLUMNS, |_, range| {
        let mut sums = [0.0; COLUMNS];
        let sums = &mut sums[..range.len()];
        for r in 0..rows {
            add_squares(sums, &grads[r * cols..][range.clone()]);
        }
        // SAFETY: the pieces do not overlap.
        for (mean, sum) in unsafe { means.part(range) }.iter_mut().zip(sums) {
            *mean = now.towards(*mean, scale2 * *sum / rows as f64);
        }
    });
    let mean = row_means.iter().fold(0.0, |sum, mean| sum + mean.to_f64()) / rows.max(1) as f64;
    let mean = mean.max(now.hyper.eps1);
    let (col_means, floor) = (&*col_means, now.floor::<T>());
    let factor = |r: usize| T::from_f64(row_means[r].to_f64() / mean);
    let of_update = each(&crew, &mut sums, cols, |r| row_squares(&grads[row(r)], col_means, factor(r), floor)) * scale2;
    ws.give_back(sums);

    let size = T::from_f64(now.step_size(of_params, of_update, params.len()) * now.grad_scale);
    let keep = T::from_f64(now.keep);
    let params = Disjoint::new(params);
    crew.rows(rows, cols, |range| {
        for r in range {
            // SAFETY: the ranges of rows do not overlap.
            let p = unsafe { params.part(row(r)) };
            update_row(p, &grads[row(r)], col_means, factor(r), floor, keep, size);
        }
    });
}

pub(super) fn vector<T: Float>(params: &mut [T], grads: &[T], means: &mut [T], now: Now, ws: &mut Workspace) {
    let crew = ws.crew();
    let mut sums = ws.take::<f64>(params.len().div_ceil(PART));
    let part = |i: usize| i * PART..((i + 1) * PART).min(grads.len());
    let of_params = each(&crew, &mut sums, PART, |i| squares(&params[part(i)]));
    let (scale, weight) = (T::from_f64(now.grad_scale), T::from_f64(now.weight));
    let floor = now.floor::<T>();
    {
        let means = Disjoint::new(means);
        crew.rows(grads.len(), 1, |range| {
            // SAFETY: the ranges do not overlap.
            average(unsafe { means.part(range.clone()) }, &grads[range], scale, weight);
        });
    }
    let means = &*means;
    let scale2 = now.grad_scale * now.grad_scale;
    let of_update =
        each(&crew, &mut sums, PART, |i| row_squares(&grads[part(i)], &means[part(i)], T::ONE, floor)) * scale2;
    ws.give_back(sums);

    let size = T::from_f64(now.step_size(of_params, of_update, params.len()) * now.grad_scale);
    let keep = T::from_f64(now.keep);
    let params = Disjoint::new(params);
    crew.rows(grads.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let p = unsafe { params.part(range.clone()) };
        update_row(p, &grads[range.clone()], &means[range], T::ONE, floor, keep, size);
    });
}

/// Fills `sums` by `sum`, on all threads; their total, in order.
fn each(crew: &Crew, sums: &mut [f64], width: usize, sum: impl Fn(usize) -> f64 + Sync) -> f64 {
    let (rows, parts) = (sums.len(), Disjoint::new(sums));
    crew.rows(rows, width, |range| {
        for r in range {
            // SAFETY: each row has its own sum.
            let own = unsafe { parts.part(r..r + 1) };
            own[0] = sum(r);
        }
    });
    sums.iter().fold(0.0, |total, sum| total + sum)
}

vectorised! {
    fn add_squares<T>(sums: &mut [f64], x: &[T]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            let x = x.to_f64();
            *sum += x * x;
        }
    }

    fn average<T>(means: &mut [T], g: &[T], scale: T, weight: T) {
        for (mean, &g) in means.iter_mut().zip(g) {
            let g = g * scale;
            *mean += weight * (g * g - *mean);
        }
    }

    /// Σ g² / max(factor·mean, floor).
    fn row_squares<T>(g: &[T], means: &[T], factor: T, floor: T) -> f64 {
        let n = g.len();
        let means = &means[..n];
        crate::simd::sum_of(n, |i| {
            let mean = factor * means[i];
            let mean = if mean > floor { mean } else { floor };
            let g = g[i].to_f64();
            g * g / mean.to_f64()
        })
    }

    fn update_row<T>(p: &mut [T], g: &[T], means: &[T], factor: T, floor: T, keep: T, size: T) {
        let n = g.len();
        let (p, means) = (&mut p[..n], &means[..n]);
        for i in 0..n {
            let mean = factor * means[i];
            let mean = if mean > floor { mean } else { floor };
            p[i] = p[i] * keep - size * g[i] / mean.sqrt();
        }
    }
}
