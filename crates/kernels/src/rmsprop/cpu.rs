//! One pass over the flat buffers, by pieces that stay in the cache.
use super::Hyper;
use crate::Float;
use crate::groups::OnHost;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

/// Elements whose gradients and denominators are held at a time.
const PIECE: usize = 512;

/// [`State`](super::State) on the host.
pub(super) struct Kept<'a, T> {
    pub(super) mean_square: &'a mut [T],
    pub(super) mean: Option<&'a mut [T]>,
    pub(super) velocity: Option<&'a mut [T]>,
}

pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    state: Kept<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    groups: &OnHost<'_>,
    crew: &Crew,
) {
    let Kept { mean_square, mean, velocity } = state;
    let (params, mean_square) = (Disjoint::new(params), Disjoint::new(mean_square));
    let (mean, velocity) = (mean.map(Disjoint::new), velocity.map(Disjoint::new));
    groups.each(grads.len(), |group, lr, weight_decay| {
        let factors = Factors {
            grad_scale: T::from_f64(grad_scale),
            weight_decay: T::from_f64(hyper.weight_decay * weight_decay),
            alpha: T::from_f64(hyper.alpha),
            one_minus_alpha: T::from_f64(1.0 - hyper.alpha),
            eps: T::from_f64(hyper.eps),
            lr: T::from_f64(hyper.lr * lr),
            momentum: T::from_f64(hyper.momentum),
        };
        crew.rows(group.len(), 1, |rows| {
            let (mut start, end) = (group.start + rows.start, group.start + rows.end);
            while start < end {
                let piece = start..(start + PIECE).min(end);
                start = piece.end;
                // SAFETY: the ranges do not overlap, nor do pieces of one.
                let (p, s) = unsafe { (params.part(piece.clone()), mean_square.part(piece.clone())) };
                // SAFETY: as above.
                let a = mean.as_ref().map(|mean| unsafe { mean.part(piece.clone()) });
                // SAFETY: as above.
                let b = velocity.as_ref().map(|velocity| unsafe { velocity.part(piece.clone()) });
                update(p, &grads[piece], s, a, b, factors);
            }
        });
    });
}

#[derive(Clone, Copy)]
struct Factors<T> {
    grad_scale: T,
    weight_decay: T,
    alpha: T,
    one_minus_alpha: T,
    eps: T,
    lr: T,
    momentum: T,
}

vectorised! {
    fn update<T>(p: &mut [T], g: &[T], s: &mut [T], a: Option<&mut [T]>, b: Option<&mut [T]>, f: Factors<T>) {
        let n = g.len().min(PIECE);
        let (mut with_decay, mut update) = ([T::ZERO; PIECE], [T::ZERO; PIECE]);
        let (with_decay, update) = (&mut with_decay[..n], &mut update[..n]);
        let (p, g, s) = (&mut p[..n], &g[..n], &mut s[..n]);
        for i in 0..n {
            let g = g[i] * f.grad_scale + p[i] * f.weight_decay;
            with_decay[i] = g;
            s[i] = s[i] * f.alpha + f.one_minus_alpha * g * g;
            update[i] = s[i];
        }
        if let Some(a) = a {
            let a = &mut a[..n];
            for i in 0..n {
                a[i] += f.one_minus_alpha * (with_decay[i] - a[i]);
                let variance = update[i] - a[i] * a[i];
                update[i] = if variance > T::ZERO { variance } else { T::ZERO };
            }
        }
        for i in 0..n {
            update[i] = with_decay[i] / (update[i].sqrt() + f.eps);
        }
        if let Some(b) = b {
            let b = &mut b[..n];
            for i in 0..n {
                b[i] = b[i] * f.momentum + update[i];
                update[i] = b[i];
            }
        }
        for i in 0..n {
            p[i] -= f.lr * update[i];
        }
    }
}
