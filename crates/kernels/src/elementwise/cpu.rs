//! Elements in parallel.
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd;

pub(super) fn add_assign<T: Float>(y: &mut [T], x: &[T], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        simd::add(unsafe { y.part(range.clone()) }, &x[range]);
    });
}
