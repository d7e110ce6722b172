//! Elements in parallel.
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

pub(super) fn forward<T: Float>(gate: &[T], up: &[T], y: &mut [T], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(gate.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { y.part(range.clone()) };
        activate(&gate[range.clone()], &up[range], y);
    });
}

pub(super) fn backward<T: Float>(gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T], crew: &Crew) {
    let (dgate, dup) = (Disjoint::new(dgate), Disjoint::new(dup));
    crew.rows(gate.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (dgate, dup) = unsafe { (dgate.part(range.clone()), dup.part(range.clone())) };
        differentiate(&gate[range.clone()], &up[range.clone()], &dy[range], dgate, dup);
    });
}

/// σ(x). At −∞ the sum is at most 1 + e⁸⁸, so nothing is divided by infinity.
#[inline(always)]
fn sigmoid<T: Float>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp_fast())
}

vectorised! {
    fn activate<T>(gate: &[T], up: &[T], y: &mut [T]) {
        let n = y.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            y[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    }

    fn differentiate<T>(gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T]) {
        let n = dy.len();
        let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
        for i in 0..n {
            let (g, s) = (gate[i], sigmoid(gate[i]));
            dgate[i] = dy[i] * up[i] * s * (T::ONE + g * (T::ONE - s));
            dup[i] = dy[i] * g * s;
        }
    }
}
