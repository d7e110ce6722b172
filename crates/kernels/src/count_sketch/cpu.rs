//! One item a task: its tensor by one product, then every element to its bucket.
use std::ops::Range;

use super::{Projection, Shape, bucket, hash, signed};
use crate::matmul::{At, Size, product};
use crate::parallel::Disjoint;
use crate::simd::vectorised;
use crate::{Float, Workspace};

/// Hashes computed before they are used, so that they are made by vector instructions.
const BLOCK: usize = 64;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn outer_products<T: Float>(
    u: &[T],
    v: &[T],
    items: &[Range<usize>],
    projection: Projection,
    scale: T,
    out: &mut [f64],
    shape: Shape,
    ws: &mut Workspace,
) {
    let Shape { left, right, .. } = shape;
    let elements = left * right;
    if elements == 0 {
        return;
    }
    let crew = ws.crew();
    let mut scratch = ws.take(elements * crew.threads());
    let out = Disjoint::new(out);
    crew.tasks_with(items.len(), &mut scratch, elements, |item, tensor: &mut [T]| {
        let rows = &items[item];
        if rows.is_empty() {
            return;
        }
        let u = At::rows(u[rows.start * left..rows.end * left].as_ptr(), left).transposed();
        let v = At::rows(v[rows.start * right..rows.end * right].as_ptr(), right);
        let dst = At::rows(tensor.as_mut_ptr(), right);
        // SAFETY: the factors are the slices just taken; `tensor` is this thread's and has left × right elements.
        unsafe { product(Size { m: left, n: right, k: rows.len() }, dst, false, u, v, scale) };
        let dimensions = projection.dimensions;
        // SAFETY: each item is one task and owns its row.
        let sums = unsafe { out.part(item * dimensions..(item + 1) * dimensions) };
        scatter(tensor, projection.key, sums);
    });
    ws.give_back(scratch);
}

vectorised! {
    /// Adds each element, signed, to its bucket, in order.
    pub(super) fn scatter<T>(x: &[T], key: u64, sums: &mut [f64]) {
        let mut hashes = [0u64; BLOCK];
        for (number, block) in x.chunks(BLOCK).enumerate() {
            let first = (number * BLOCK) as u64;
            for (i, h) in hashes.iter_mut().enumerate() {
                *h = hash(key, first + i as u64);
            }
            for (x, &h) in block.iter().zip(&hashes) {
                sums[bucket(h, sums.len())] += signed(x.to_f64(), h);
            }
        }
    }
}
