//! Block by block: read the moments, update, write them.
use super::{BLOCK, map};
use crate::Float;
use crate::adamw::Hyper;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

/// Blocks that a thread takes at once.
const BLOCKS: usize = 64;

pub(super) struct Moments<'a, T> {
    pub(super) mean: &'a mut [u8],
    pub(super) mean_square: &'a mut [u8],
    pub(super) mean_scales: &'a mut [T],
    pub(super) mean_square_scales: &'a mut [T],
}

pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    moments: Moments<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    crew: &Crew,
) {
    let t = step as f64;
    let factors = Factors {
        grad_scale: T::from_f64(grad_scale),
        keep: T::from_f64(1.0 - hyper.lr * hyper.weight_decay),
        one_minus_beta1: T::from_f64(1.0 - hyper.beta1),
        beta2: T::from_f64(hyper.beta2),
        one_minus_beta2: T::from_f64(1.0 - hyper.beta2),
        step_size: T::from_f64(hyper.lr / (1.0 - hyper.beta1.powf(t))),
        root_correction2: T::from_f64((1.0 - hyper.beta2.powf(t)).sqrt()),
        eps: T::from_f64(hyper.eps),
    };
    let params = Disjoint::new(params);
    let (mean, mean_square) = (Disjoint::new(moments.mean), Disjoint::new(moments.mean_square));
    let (mean_scales, mean_square_scales) =
        (Disjoint::new(moments.mean_scales), Disjoint::new(moments.mean_square_scales));
    crew.pieces(grads.len().div_ceil(BLOCK), BLOCKS, |_, blocks| {
        let (mut m, mut v) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK]);
        for block in blocks {
            let range = block * BLOCK..((block + 1) * BLOCK).min(grads.len());
            // SAFETY: the ranges of blocks do not overlap.
            let (p, m8, v8) =
                unsafe { (params.part(range.clone()), mean.part(range.clone()), mean_square.part(range.clone())) };
            // SAFETY: each block has its own scales.
            let (m_scale, v_scale) =
                unsafe { (mean_scales.part(block..block + 1), mean_square_scales.part(block..block + 1)) };
            let (m, v) = (&mut m[..range.len()], &mut v[..range.len()]);
            read(m, m8, m_scale[0], map::signed());
            read(v, v8, v_scale[0], map::unsigned());
            update(p, &grads[range], m, v, factors);
            m_scale[0] = write(m, m8, map::signed());
            v_scale[0] = write(v, v8, map::unsigned());
        }
    });
}

fn read<T: Float>(values: &mut [T], codes: &[u8], scale: T, map: &map::Map) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = T::from_f64(map.values[usize::from(*code)]) * scale;
    }
}

/// The codes of `values`; the scale that goes with them.
fn write<T: Float>(values: &[T], codes: &mut [u8], map: &map::Map) -> T {
    let scale = largest(values);
    let by = scale.to_f64();
    for (code, value) in codes.iter_mut().zip(values) {
        *code = map.code(if by > 0.0 { value.to_f64() / by } else { 0.0 });
    }
    scale
}

#[derive(Clone, Copy)]
struct Factors<T> {
    grad_scale: T,
    keep: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    step_size: T,
    root_correction2: T,
    eps: T,
}

vectorised! {
    fn update<T>(p: &mut [T], g: &[T], m: &mut [T], v: &mut [T], f: Factors<T>) {
        let n = g.len();
        let (p, m, v) = (&mut p[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * f.grad_scale;
            m[i] += f.one_minus_beta1 * (g - m[i]);
            v[i] = v[i] * f.beta2 + f.one_minus_beta2 * g * g;
            let denominator = v[i].sqrt() / f.root_correction2 + f.eps;
            p[i] = p[i] * f.keep - f.step_size * m[i] / denominator;
        }
    }

    /// The largest magnitude.
    fn largest<T>(x: &[T]) -> T {
        let mut largest = T::ZERO;
        for x in x {
            let x = x.abs();
            largest = if x > largest { x } else { largest };
        }
        largest
    }
}
