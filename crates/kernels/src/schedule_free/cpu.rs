//! One pass over the flat buffers before the gradient, and one after it.
use super::{Hyper, root_correction};
use crate::Float;
use crate::groups::OnHost;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

pub(super) fn begin<T: Float>(params: &mut [T], kept: &mut [T], z: &[T], beta1: f64, crew: &Crew) {
    let weight = T::from_f64(1.0 - beta1);
    let (params, kept) = (Disjoint::new(params), Disjoint::new(kept));
    crew.rows(z.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (p, kept) = unsafe { (params.part(range.clone()), kept.part(range.clone())) };
        kept.copy_from_slice(p);
        towards(p, &z[range], weight);
    });
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    kept: &[T],
    z: &mut [T],
    v: &mut [T],
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    groups: &OnHost<'_>,
    crew: &Crew,
) {
    let (params, z, v) = (Disjoint::new(params), Disjoint::new(z), Disjoint::new(v));
    groups.each(grads.len(), |group, lr, weight_decay| {
        let factors = Factors {
            grad_scale: T::from_f64(grad_scale),
            lr: T::from_f64(hyper.lr * lr),
            beta2: T::from_f64(hyper.beta2),
            one_minus_beta2: T::from_f64(1.0 - hyper.beta2),
            root_correction2: T::from_f64(root_correction(hyper.beta2, step)),
            eps: T::from_f64(hyper.eps),
            weight_decay: T::from_f64(hyper.weight_decay * weight_decay),
            share: T::from_f64(hyper.share),
        };
        crew.rows(group.len(), 1, |rows| {
            let range = group.start + rows.start..group.start + rows.end;
            // SAFETY: the ranges do not overlap.
            let (p, z, v) = unsafe { (params.part(range.clone()), z.part(range.clone()), v.part(range.clone())) };
            update(p, &grads[range.clone()], &kept[range], z, v, factors);
        });
    });
}

#[derive(Clone, Copy)]
struct Factors<T> {
    grad_scale: T,
    lr: T,
    beta2: T,
    one_minus_beta2: T,
    root_correction2: T,
    eps: T,
    weight_decay: T,
    share: T,
}

vectorised! {
    /// pᵢ ← pᵢ + weight·(zᵢ − pᵢ).
    fn towards<T>(p: &mut [T], z: &[T], weight: T) {
        for (p, &z) in p.iter_mut().zip(z) {
            *p += weight * (z - *p);
        }
    }

    fn update<T>(p: &mut [T], g: &[T], x: &[T], z: &mut [T], v: &mut [T], f: Factors<T>) {
        let n = g.len();
        let (p, x, z, v) = (&mut p[..n], &x[..n], &mut z[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * f.grad_scale;
            v[i] = v[i] * f.beta2 + f.one_minus_beta2 * g * g;
            let direction = g / (v[i].sqrt() / f.root_correction2 + f.eps) + f.weight_decay * p[i];
            z[i] -= f.lr * direction;
            p[i] = x[i] + f.share * (z[i] - x[i]);
        }
    }
}
