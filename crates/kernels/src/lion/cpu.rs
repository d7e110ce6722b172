//! One pass over the flat buffers.
use super::Hyper;
use crate::Float;
use crate::groups::OnHost;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    m: &mut [T],
    grad_scale: f64,
    hyper: Hyper,
    groups: &OnHost<'_>,
    crew: &Crew,
) {
    let (params, m) = (Disjoint::new(params), Disjoint::new(m));
    groups.each(grads.len(), |group, lr, weight_decay| {
        let (lr, weight_decay) = (hyper.lr * lr, hyper.weight_decay * weight_decay);
        let factors = Factors {
            grad_scale: T::from_f64(grad_scale),
            keep: T::from_f64(1.0 - lr * weight_decay),
            lr: T::from_f64(lr),
            beta1: T::from_f64(hyper.beta1),
            one_minus_beta1: T::from_f64(1.0 - hyper.beta1),
            beta2: T::from_f64(hyper.beta2),
            one_minus_beta2: T::from_f64(1.0 - hyper.beta2),
        };
        crew.rows(group.len(), 1, |rows| {
            let range = group.start + rows.start..group.start + rows.end;
            // SAFETY: the ranges do not overlap.
            let (p, m) = unsafe { (params.part(range.clone()), m.part(range.clone())) };
            update(p, &grads[range], m, factors);
        });
    });
}

#[derive(Clone, Copy)]
struct Factors<T> {
    grad_scale: T,
    keep: T,
    lr: T,
    beta1: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
}

vectorised! {
    fn update<T>(p: &mut [T], g: &[T], m: &mut [T], f: Factors<T>) {
        let n = g.len();
        let (p, m) = (&mut p[..n], &mut m[..n]);
        for i in 0..n {
            let g = g[i] * f.grad_scale;
            let direction = m[i] * f.beta1 + g * f.one_minus_beta1;
            let up = if direction > T::ZERO { f.lr } else { T::ZERO };
            let down = if direction < T::ZERO { f.lr } else { T::ZERO };
            p[i] = p[i] * f.keep - up + down;
            m[i] = m[i] * f.beta2 + g * f.one_minus_beta2;
        }
    }
}
