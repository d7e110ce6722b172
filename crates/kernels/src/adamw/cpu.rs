//! One pass over the flat buffers; the norm by blocks whose sums are added in order.
use super::Hyper;
use crate::parallel::{Crew, Disjoint};
use crate::simd::{squares, vectorised};
use crate::{Float, Workspace};

/// Elements of one partial sum of squares.
const BLOCK: usize = 1 << 14;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    m: &mut [T],
    v: &mut [T],
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    crew: &Crew,
) {
    let t = step as f64;
    let factors = Factors {
        grad_scale: T::from_f64(grad_scale),
        keep: T::from_f64(1.0 - hyper.lr * hyper.weight_decay),
        beta1: T::from_f64(hyper.beta1),
        one_minus_beta1: T::from_f64(1.0 - hyper.beta1),
        beta2: T::from_f64(hyper.beta2),
        one_minus_beta2: T::from_f64(1.0 - hyper.beta2),
        step_size: T::from_f64(hyper.lr / (1.0 - hyper.beta1.powf(t))),
        root_correction2: T::from_f64((1.0 - hyper.beta2.powf(t)).sqrt()),
        eps: T::from_f64(hyper.eps),
    };
    let (params, m, v) = (Disjoint::new(params), Disjoint::new(m), Disjoint::new(v));
    crew.rows(grads.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (p, m, v) = unsafe { (params.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
        update(p, &grads[range], m, v, factors);
    });
}

#[derive(Clone, Copy)]
struct Factors<T> {
    grad_scale: T,
    keep: T,
    beta1: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    step_size: T,
    root_correction2: T,
    eps: T,
}

pub(crate) fn sum_squares<T: Float>(grads: &[T], ws: &mut Workspace) -> f64 {
    let mut sums = ws.take::<f64>(grads.len().div_ceil(BLOCK));
    let parts = Disjoint::new(&mut sums);
    ws.crew().pieces(grads.len(), BLOCK, |block, range| {
        // SAFETY: each block has its own sum.
        let sum = unsafe { parts.part(block..block + 1) };
        sum[0] = squares(&grads[range]);
    });
    let total = sums.iter().fold(0.0, |total, sum| total + sum);
    ws.give_back(sums);
    total
}

vectorised! {
    fn update<T>(p: &mut [T], g: &[T], m: &mut [T], v: &mut [T], f: Factors<T>) {
        let n = g.len();
        let (p, m, v) = (&mut p[..n], &mut m[..n], &mut v[..n]);
        // PyTorch interpolates from the nearer end.
        let from_m = f.one_minus_beta1 < T::from_f64(0.5);
        for i in 0..n {
            let g = g[i] * f.grad_scale;
            m[i] = if from_m { m[i] + f.one_minus_beta1 * (g - m[i]) } else { g - (g - m[i]) * f.beta1 };
            v[i] = v[i] * f.beta2 + f.one_minus_beta2 * g * g;
            let denominator = v[i].sqrt() / f.root_correction2 + f.eps;
            p[i] = p[i] * f.keep - f.step_size * m[i] / denominator;
        }
    }
}
