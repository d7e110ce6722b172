//! Products of the smaller side for the iteration, passes over the flat buffers for the rest.
use super::{Hyper, Shape};
use crate::matmul::{self, Size, Whole};
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;
use crate::{Float, Workspace, adamw};

/// The polynomial of the iteration, whose slope at 0 is as large as it can be.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// The least norm that is divided by.
const LEAST_NORM: f64 = 1e-7;

pub(super) fn step<T: Float>(
    params: &mut [T],
    grads: &[T],
    momentum: &mut [T],
    shape: Shape,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) {
    let crew = ws.crew();
    let mut update = ws.take::<T>(grads.len());
    let momenta = Disjoint::new(momentum);
    let updates = Disjoint::new(&mut update);
    let (scale, decay) = (T::from_f64(grad_scale), T::from_f64(hyper.momentum));
    crew.rows(grads.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (b, u) = unsafe { (momenta.part(range.clone()), updates.part(range.clone())) };
        mix(b, u, &grads[range], scale, decay, hyper.nesterov);
    });
    let update = orthogonalised(update, shape, hyper.ns_steps, ws);
    let (keep, size) = (T::from_f64(1.0 - hyper.lr * hyper.weight_decay), T::from_f64(hyper.step_size));
    let params = Disjoint::new(params);
    crew.rows(update.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        subtract(unsafe { params.part(range.clone()) }, &update[range], keep, size);
    });
    ws.give_back(update);
}

/// The matrix with its singular values brought near 1, in the place of the one that is given.
pub(super) fn orthogonalised<T: Float>(mut x: Vec<T>, shape: Shape, steps: u32, ws: &mut Workspace) -> Vec<T> {
    let Shape { rows, cols } = shape;
    let (side, other) = (rows.min(cols), rows.max(cols));
    let is_tall = rows > cols;
    let norm = adamw::cpu::sum_squares(&x, ws).sqrt().max(LEAST_NORM);
    let [a, b, c] = COEFFICIENTS.map(T::from_f64);
    let crew = ws.crew();
    let mut next = ws.take::<T>(x.len());
    write_scaled(&mut next, &x, T::from_f64(1.0 / norm), &crew);
    std::mem::swap(&mut x, &mut next);
    let (mut gram, mut polynomial) = (ws.take::<T>(side * side), ws.take::<T>(side * side));
    for _ in 0..steps {
        let of_x = Whole::new(&x, cols);
        let (left, right) = if is_tall { (of_x.transposed(), of_x) } else { (of_x, of_x.transposed()) };
        matmul::whole(ws, Size { m: side, n: side, k: other }, &mut gram, false, left, right, T::ONE);
        write_scaled(&mut polynomial, &gram, b, &crew);
        let of_gram = Whole::new(&gram, side);
        matmul::whole(ws, Size { m: side, n: side, k: side }, &mut polynomial, true, of_gram, of_gram, c);
        write_scaled(&mut next, &x, a, &crew);
        let (of_x, of_polynomial) = (Whole::new(&x, cols), Whole::new(&polynomial, side));
        let (left, right) = if is_tall { (of_x, of_polynomial) } else { (of_polynomial, of_x) };
        matmul::whole(ws, Size { m: rows, n: cols, k: side }, &mut next, true, left, right, T::ONE);
        std::mem::swap(&mut x, &mut next);
    }
    ws.give_back_all([next, gram, polynomial]);
    x
}

fn write_scaled<T: Float>(to: &mut [T], from: &[T], factor: T, crew: &Crew) {
    let to = Disjoint::new(to);
    crew.rows(from.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        multiply(unsafe { to.part(range.clone()) }, &from[range], factor);
    });
}

vectorised! {
    fn mix<T>(b: &mut [T], u: &mut [T], g: &[T], scale: T, decay: T, nesterov: bool) {
        let n = g.len();
        let (b, u) = (&mut b[..n], &mut u[..n]);
        let again = if nesterov { decay } else { T::ONE };
        for i in 0..n {
            let g = g[i] * scale;
            b[i] += (T::ONE - decay) * (g - b[i]);
            u[i] = g + again * (b[i] - g);
        }
    }

    fn multiply<T>(to: &mut [T], from: &[T], factor: T) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = from * factor;
        }
    }

    fn subtract<T>(p: &mut [T], u: &[T], keep: T, size: T) {
        for (p, &u) in p.iter_mut().zip(u) {
            *p = *p * keep - size * u;
        }
    }
}
