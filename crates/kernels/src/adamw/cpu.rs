//! One pass over the flat buffers; the norm by blocks whose sums are added in order.
use half::bf16;

use super::Numbers;
use crate::groups::OnHost;
use crate::parallel::{Crew, Disjoint};
use crate::simd::{squares, vectorised};
use crate::stochastic::{self, Draws};
use crate::{Float, Workspace};

/// Elements of one partial sum of squares.
const BLOCK: usize = 1 << 14;
/// Parameters in bf16 that are widened at a time.
const WIDENED: usize = 1 << 10;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    m: &mut [T],
    v: &mut [T],
    copy: Option<&mut [bf16]>,
    grad_scale: f64,
    numbers: &Numbers,
    groups: &OnHost<'_>,
    crew: &Crew,
) {
    let (params, m, v) = (Disjoint::new(params), Disjoint::new(m), Disjoint::new(v));
    let copy = copy.map(Disjoint::new);
    groups.each(grads.len(), |group, lr, weight_decay| {
        let factors = Factors::of(numbers, grad_scale, lr, weight_decay);
        crew.rows(group.len(), 1, |rows| {
            let range = group.start + rows.start..group.start + rows.end;
            // SAFETY: the ranges do not overlap.
            let (p, m, v) = unsafe { (params.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
            update(p, &grads[range.clone()], m, v, factors);
            if let Some(copy) = &copy {
                // SAFETY: as above.
                let copy = unsafe { copy.part(range) };
                copy.iter_mut().zip(p).for_each(|(copy, p)| *copy = bf16::from_f32(p.to_f64() as f32));
            }
        });
    });
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step_bf16(
    params: &mut [bf16],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    grad_scale: f64,
    numbers: &Numbers,
    groups: &OnHost<'_>,
    draws: Draws,
    crew: &Crew,
) {
    let (params, m, v) = (Disjoint::new(params), Disjoint::new(m), Disjoint::new(v));
    groups.each(grads.len(), |group, lr, weight_decay| {
        let factors = Factors::of(numbers, grad_scale, lr, weight_decay);
        crew.pieces(group.len(), WIDENED, |_, rows| {
            let range = group.start + rows.start..group.start + rows.end;
            // SAFETY: the pieces do not overlap.
            let (p, m, v) = unsafe { (params.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
            let mut wide = [0.0; WIDENED];
            let wide = &mut wide[..p.len()];
            wide.iter_mut().zip(&*p).for_each(|(wide, p)| *wide = p.to_f32());
            update(wide, &grads[range.clone()], m, v, factors);
            round(wide, p, range.start as u64, draws);
        });
    });
}

/// Rounds consecutive elements, of which the first has the index `first`.
fn round(wide: &[f32], to: &mut [bf16], first: u64, draws: Draws) {
    let mut words = draws.of_block(first / stochastic::BLOCK);
    for (i, (to, &wide)) in (first..).zip(to.iter_mut().zip(wide)) {
        let lane = i % stochastic::BLOCK;
        if lane == 0 {
            words = draws.of_block(i / stochastic::BLOCK);
        }
        *to = stochastic::round(wide, words[lane as usize]);
    }
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

impl<T: Float> Factors<T> {
    /// Those of a group, with the factors of its learning rate and weight decay.
    fn of(numbers: &Numbers, grad_scale: f64, lr: f64, weight_decay: f64) -> Self {
        Self {
            grad_scale: T::from_f64(grad_scale),
            keep: T::from_f64(1.0 - numbers.lr * lr * (numbers.weight_decay * weight_decay)),
            beta1: T::from_f64(numbers.beta1),
            one_minus_beta1: T::from_f64(numbers.one_minus_beta1),
            beta2: T::from_f64(numbers.beta2),
            one_minus_beta2: T::from_f64(numbers.one_minus_beta2),
            step_size: T::from_f64(numbers.step_size * lr),
            root_correction2: T::from_f64(numbers.root_correction2),
            eps: T::from_f64(numbers.eps),
        }
    }
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
