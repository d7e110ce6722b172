//! Elements in parallel.
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

/// √(2/π).
const ROOT: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

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

/// (1 + tanh(√(2/π)·(g + 0.044715·g³)))/2, which is σ of twice that.
#[inline(always)]
fn share<T: Float>(g: T) -> T {
    let inner = T::from_f64(2.0 * ROOT) * (g + T::from_f64(CUBIC) * g * g * g);
    T::ONE / (T::ONE + (-inner).exp_fast())
}

vectorised! {
    fn activate<T>(gate: &[T], up: &[T], y: &mut [T]) {
        let n = y.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            y[i] = gate[i] * share(gate[i]) * up[i];
        }
    }

    fn differentiate<T>(gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T]) {
        let n = dy.len();
        let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
        for i in 0..n {
            let (g, s) = (gate[i], share(gate[i]));
            let slope = T::from_f64(2.0 * ROOT) * (T::ONE + T::from_f64(3.0 * CUBIC) * g * g);
            dgate[i] = dy[i] * up[i] * s * (T::ONE + g * (T::ONE - s) * slope);
            dup[i] = dy[i] * g * s;
        }
    }
}
