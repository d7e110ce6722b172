//! Elements in parallel. Both activations are g·s(g) with s = σ of something: of g itself, or of 2·√(2/π)·(g + 0.044715·g³), since
//! (1 + tanh(x))/2 = σ(2x).
use super::Activation;
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, T> {
    pub(super) gate: &'a [T],
    pub(super) up: &'a [T],
}

pub(super) fn forward<T: Float>(activation: Activation, gate: &[T], up: &[T], y: &mut [T], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(gate.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { y.part(range.clone()) };
        activate(activation, &gate[range.clone()], &up[range], y);
    });
}

pub(super) fn backward<T: Float>(
    activation: Activation,
    Inputs { gate, up }: Inputs<'_, T>,
    dy: &[T],
    dgate: &mut [T],
    dup: &mut [T],
    crew: &Crew,
) {
    let (dgate, dup) = (Disjoint::new(dgate), Disjoint::new(dup));
    crew.rows(gate.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (dgate, dup) = unsafe { (dgate.part(range.clone()), dup.part(range.clone())) };
        differentiate(activation, &gate[range.clone()], &up[range.clone()], &dy[range], dgate, dup);
    });
}

/// σ(x). At −∞ the sum is at most 1 + e⁸⁸, so nothing is divided by infinity.
#[inline(always)]
fn sigmoid<T: Float>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp_fast())
}

/// 2·√(2/π).
const ROOT: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044_715;

/// s of GELU, and the slope of what σ is taken of.
#[inline(always)]
fn gelu<T: Float>(g: T) -> (T, T) {
    let (root, cubic) = (T::from_f64(ROOT), T::from_f64(CUBIC) * g * g);
    (sigmoid(root * (g + cubic * g)), root * (T::ONE + T::from_f64(3.0) * cubic))
}

/// s of `SiLU`.
#[inline(always)]
fn silu<T: Float>(g: T) -> (T, T) {
    (sigmoid(g), T::ONE)
}

vectorised! {
    fn activate<T>(activation: Activation, gate: &[T], up: &[T], y: &mut [T]) {
        #[inline(always)]
        fn all<T: Float>(gate: &[T], up: &[T], y: &mut [T], s: impl Fn(T) -> (T, T)) {
            let n = y.len();
            let (gate, up) = (&gate[..n], &up[..n]);
            for i in 0..n {
                y[i] = gate[i] * s(gate[i]).0 * up[i];
            }
        }
        match activation {
            Activation::Silu => all(gate, up, y, silu),
            Activation::GeluTanh => all(gate, up, y, gelu),
        }
    }

    fn differentiate<T>(activation: Activation, gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T]) {
        #[inline(always)]
        fn all<T: Float>(
            gate: &[T],
            up: &[T],
            dy: &[T],
            dgate: &mut [T],
            dup: &mut [T],
            s: impl Fn(T) -> (T, T),
        ) {
            let n = dy.len();
            let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
            for i in 0..n {
                let (g, (s, slope)) = (gate[i], s(gate[i]));
                dgate[i] = dy[i] * up[i] * s * (T::ONE + g * (T::ONE - s) * slope);
                dup[i] = dy[i] * g * s;
            }
        }
        match activation {
            Activation::Silu => all(gate, up, dy, dgate, dup, silu),
            Activation::GeluTanh => all(gate, up, dy, dgate, dup, gelu),
        }
    }
}
