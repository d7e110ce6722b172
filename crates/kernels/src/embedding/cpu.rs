//! Copies in parallel over rows, sums in parallel over columns: every sum is made by one thread in the order of rows.
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd;

pub(super) fn forward<T: Float>(ids: &[u32], table: &[T], y: &mut [T], hidden: usize, crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(ids.len(), hidden, |rows| {
        // SAFETY: ranges of rows do not overlap.
        let y = unsafe { y.part(rows.start * hidden..rows.end * hidden) };
        for (&id, y) in ids[rows].iter().zip(y.chunks_exact_mut(hidden)) {
            y.copy_from_slice(&table[id as usize * hidden..][..hidden]);
        }
    });
}

pub(super) fn backward<T: Float>(ids: &[u32], dy: &[T], dtable: &mut [T], hidden: usize, crew: &Crew) {
    let dtable = Disjoint::new(dtable);
    crew.rows(hidden, ids.len(), |columns| {
        for (row, &id) in ids.iter().enumerate() {
            let at = id as usize * hidden;
            // SAFETY: ranges of columns do not overlap.
            let sum = unsafe { dtable.part(at + columns.start..at + columns.end) };
            simd::add(sum, &dy[row * hidden + columns.start..row * hidden + columns.end]);
        }
    });
}
