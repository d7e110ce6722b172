//! Products of factors that are packed for a kernel: strips of rows of the left one, panels of columns of the right one.
//!
//! An element of a product is the sum over pieces of the inner dimension, each a chain of multiply-adds in order. Pieces depend
//! on the inner dimension alone, so the bits of an element depend neither on threads nor on what else is multiplied with it, as
//! long as there is enough of it for [`is_worth_it`].
use std::ops::Range;

use super::{At, Shared, Size};
use crate::Float;
use crate::parallel::{Crew, Disjoint};

/// Rows of the left factor that are packed together, column by column.
pub(crate) const STRIP: usize = 6;
/// Columns of the right factor that are packed together, row by row.
pub(crate) const PANEL: usize = 64;
/// The most of the inner dimension that is multiplied at once.
const DEPTH: usize = 768;
/// Rows of the left factor that a thread packs at once: with a panel or two they fill half of a second cache of 2 MiB.
const ROWS: usize = 240;
/// Columns of the right factor that are packed at once, for all threads.
const COLUMNS: usize = 1536;
/// Elements to which panels are aligned: a cache line of the smallest type.
const ALIGNED: usize = 16;
/// Parts of a product for each thread, so that a slow one holds nobody up for long.
const TASKS: usize = 3;

/// How one machine multiplies.
#[derive(Debug)]
pub struct Kernel<T> {
    /// Packs `rows` rows of a left factor, `depth` deep: element (row, at) of a strip goes to `at·STRIP + row`.
    ///
    /// # Safety
    /// The factor is valid to read; `to` is valid to write, whole strips, and nobody else's.
    pub(super) pack_left: unsafe fn(from: At<*const T>, rows: usize, depth: usize, to: *mut T),
    /// Packs `columns` columns of a right factor, `depth` deep: element (at, column) of a panel goes to `at·PANEL + column`.
    ///
    /// # Safety
    /// The factor is valid to read; `to` is valid to write, whole panels, and nobody else's.
    pub(super) pack_right: unsafe fn(from: At<*const T>, depth: usize, columns: usize, to: *mut T),
    /// dst ← scale·left·right, plus dst where `accumulate`, for packed factors; rows of dst are `stride` elements apart.
    ///
    /// # Safety
    /// The factors hold whole strips and panels; `dst` is initialised, valid to write and nobody else's.
    pub(super) multiply:
        unsafe fn(size: Size, left: *const T, right: *const T, dst: *mut T, stride: usize, accumulate: bool, scale: T),
}

/// Whether a product is large enough for its factors to be worth packing.
pub(super) fn is_worth_it(Size { m, n, k }: Size) -> bool {
    m >= 32 && n >= PANEL && k >= 32
}

/// The inner dimension in pieces of nearly the same size.
fn pieces(k: usize) -> impl Iterator<Item = Range<usize>> {
    let step = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
    (0..k).step_by(step).map(move |start| start..(start + step).min(k))
}

/// The deepest piece.
fn deepest(k: usize) -> usize {
    pieces(k).next().map_or(0, |piece| piece.len())
}

/// Elements that [`whole`] packs at once.
pub(super) fn packed(Size { m, n, k }: Size, threads: usize) -> usize {
    let (right, left) = (n.min(COLUMNS).next_multiple_of(PANEL), m.min(ROWS).next_multiple_of(STRIP));
    right * deepest(k) + threads * lane(left * deepest(k)) + ALIGNED
}

/// Elements of one thread's part, so that threads do not write the same cache lines.
fn lane(elements: usize) -> usize {
    (elements + ALIGNED).next_multiple_of(ALIGNED)
}

/// From the first element on a cache line of its own.
fn aligned<T>(buffer: &mut [T]) -> &mut [T] {
    let skipped = buffer.as_ptr().align_offset(64).min(ALIGNED).min(buffer.len());
    &mut buffer[skipped..]
}

/// dst `[m, n]` ← scale·lhs·rhs, plus dst where `accumulate`; `packing` holds [`packed`] elements.
///
/// # Safety
/// The factors are valid to read and do not overlap `dst`, which holds the product.
#[expect(clippy::too_many_arguments, reason = "operands of one product")]
pub(super) unsafe fn whole<T: Float>(
    kernel: &Kernel<T>,
    crew: &Crew,
    size: Size,
    dst: &mut [T],
    accumulate: bool,
    (lhs, rhs): (Shared<T>, Shared<T>),
    scale: T,
    packing: &mut [T],
) {
    let Size { m, n, k } = size;
    let deepest = deepest(k);
    let (panels, lanes) = aligned(packing).split_at_mut(n.min(COLUMNS).next_multiple_of(PANEL) * deepest);
    let parts = Parts::new(m, n.min(COLUMNS), crew.threads());
    let per_lane = lane(parts.rows * deepest);
    let lanes = &mut lanes[..per_lane * crew.threads()];
    let (dst, panels) = (Disjoint::new(dst), Disjoint::new(panels));
    crew.run(|_| {
        for piece in pieces(k) {
            let accumulate = accumulate || piece.start > 0;
            let depth = piece.len();
            for first in (0..n).step_by(COLUMNS) {
                let columns = COLUMNS.min(n - first);
                crew.tasks(columns.div_ceil(PANEL), |i| {
                    let at = i * PANEL;
                    let from = rhs.from(piece.start, first + at);
                    // SAFETY: the caller's promise; panels do not overlap.
                    unsafe { (kernel.pack_right)(from, depth, PANEL.min(columns - at), panels.at(at * depth)) };
                });
                let parts = Parts { columns: parts.columns.min(columns), ..parts };
                let across = columns.div_ceil(parts.columns);
                crew.tasks_with(m.div_ceil(parts.rows) * across, lanes, per_lane, |task, lane| {
                    let (row, column) = (task / across * parts.rows, task % across * parts.columns);
                    let size = Size { m: parts.rows.min(m - row), n: parts.columns.min(columns - column), k: depth };
                    let dst = dst.at(row * n + first + column);
                    let right = panels.at(column * depth).cast_const();
                    // SAFETY: as above; `lane` has room for the strips, and each task has its own part of the product.
                    unsafe {
                        (kernel.pack_left)(lhs.from(row, piece.start), size.m, depth, lane.as_mut_ptr());
                        (kernel.multiply)(size, lane.as_ptr(), right, dst, n, accumulate, scale);
                    }
                });
            }
        }
    });
}

/// How a product is shared out.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// Rows of a part, whole strips.
    rows: usize,
    /// Columns of a part, whole panels.
    columns: usize,
}

impl Parts {
    /// Parts of at most [`ROWS`] rows, [`TASKS`] or more for each thread; where that leaves less than 48 rows to a part, it has fewer
    /// columns instead.
    fn new(m: usize, n: usize, threads: usize) -> Self {
        const FEWEST: usize = 48;
        let enough = m.div_ceil(ROWS).max(TASKS * threads).next_multiple_of(threads);
        let rows = m.div_ceil(enough).max(FEWEST).min(m.max(1)).next_multiple_of(STRIP);
        let across = enough.div_ceil(m.div_ceil(rows).max(1));
        Self { rows, columns: n.div_ceil(PANEL).div_ceil(across).max(1) * PANEL }
    }
}

/// A factor packed whole, piece after piece.
pub(crate) struct Packed<'a, T> {
    elements: &'a [T],
    /// Rows of a left factor or columns of a right one, padded.
    across: usize,
}

/// Elements of a left factor, packed whole.
pub(super) fn left_len(m: usize, k: usize) -> usize {
    lane(m.next_multiple_of(STRIP) * k)
}

/// Elements of a right factor, packed whole.
pub(super) fn right_len(k: usize, n: usize) -> usize {
    lane(n.next_multiple_of(PANEL) * k)
}

impl<'a, T: Float> Packed<'a, T> {
    /// A left factor `[m, k]`, into [`left_len`] elements.
    ///
    /// # Safety
    /// The factor is valid to read.
    pub(super) unsafe fn left(
        kernel: &Kernel<T>,
        crew: &Crew,
        lhs: At<*const T>,
        m: usize,
        k: usize,
        to: &'a mut [T],
    ) -> Self {
        let (lhs, to, across) = (Shared(lhs), aligned(to), m.next_multiple_of(STRIP));
        let parts = Disjoint::new(&mut to[..across * k]);
        for piece in pieces(k) {
            crew.pieces(m, ROWS, |_, rows| {
                let place = parts.at(across * piece.start + rows.start * piece.len());
                // SAFETY: the caller's promise; each range of whole strips has its own place.
                unsafe { (kernel.pack_left)(lhs.from(rows.start, piece.start), rows.len(), piece.len(), place) };
            });
        }
        Self { elements: to, across }
    }

    /// A right factor `[k, n]`, into [`right_len`] elements.
    ///
    /// # Safety
    /// The factor is valid to read.
    pub(super) unsafe fn right(
        kernel: &Kernel<T>,
        crew: &Crew,
        rhs: At<*const T>,
        k: usize,
        n: usize,
        to: &'a mut [T],
    ) -> Self {
        let (rhs, to, across) = (Shared(rhs), aligned(to), n.next_multiple_of(PANEL));
        let parts = Disjoint::new(&mut to[..across * k]);
        for piece in pieces(k) {
            crew.pieces(n, PANEL, |_, columns| {
                let place = parts.at(across * piece.start + columns.start * piece.len());
                // SAFETY: the caller's promise; each panel has its own place.
                unsafe { (kernel.pack_right)(rhs.from(piece.start, columns.start), piece.len(), columns.len(), place) };
            });
        }
        Self { elements: to, across }
    }

    /// dst ← rows·right, plus dst where `accumulate`, for rows of this left factor from `first` on, on this thread. Rows of dst are
    /// `stride` elements apart.
    ///
    /// # Safety
    /// The first row is that of a strip; both factors have as many rows and columns as `size` wants. `dst` is initialised, valid to
    /// write and nobody else's.
    #[expect(clippy::too_many_arguments, reason = "operands of one product")]
    pub(super) unsafe fn times(
        &self,
        kernel: &Kernel<T>,
        first: usize,
        right: &Packed<'_, T>,
        size: Size,
        dst: *mut T,
        stride: usize,
        accumulate: bool,
    ) {
        for piece in pieces(size.k) {
            let depth = piece.len();
            let left = &self.elements[self.across * piece.start + first * depth..];
            let right = &right.elements[right.across * piece.start..];
            let accumulate = accumulate || piece.start > 0;
            // SAFETY: the caller's promise.
            unsafe {
                let size = Size { k: depth, ..size };
                (kernel.multiply)(size, left.as_ptr(), right.as_ptr(), dst, stride, accumulate, T::ONE);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A kernel that packs and multiplies element by element.
    pub(crate) const fn by_definition<T: Float>() -> Kernel<T> {
        Kernel { pack_left: pack_left::<T>, pack_right: pack_right::<T>, multiply: multiply::<T> }
    }

    unsafe fn pack_left<T: Float>(from: At<*const T>, rows: usize, depth: usize, to: *mut T) {
        for (row, at) in (0..rows).flat_map(|row| (0..depth).map(move |at| (row, at))) {
            let place = row / STRIP * STRIP * depth + at * STRIP + row % STRIP;
            // SAFETY: the caller's promise.
            unsafe { *to.add(place) = *from.start.add(row * from.rows + at * from.cols) };
        }
    }

    unsafe fn pack_right<T: Float>(from: At<*const T>, depth: usize, columns: usize, to: *mut T) {
        for (at, column) in (0..depth).flat_map(|at| (0..columns).map(move |column| (at, column))) {
            let place = column / PANEL * PANEL * depth + at * PANEL + column % PANEL;
            // SAFETY: the caller's promise.
            unsafe { *to.add(place) = *from.start.add(at * from.rows + column * from.cols) };
        }
    }

    unsafe fn multiply<T: Float>(
        size: Size,
        left: *const T,
        right: *const T,
        dst: *mut T,
        stride: usize,
        accumulate: bool,
        scale: T,
    ) {
        let Size { m, n, k } = size;
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let (strip, panel) = (row / STRIP * STRIP * k, column / PANEL * PANEL * k);
            // SAFETY: the caller's promise.
            unsafe {
                let at = |at: usize| {
                    *left.add(strip + at * STRIP + row % STRIP) * *right.add(panel + at * PANEL + column % PANEL)
                };
                let sum = (0..k).map(at).sum::<T>() * scale;
                let dst = dst.add(row * stride + column);
                *dst = if accumulate { *dst + sum } else { sum };
            }
        }
    }

    #[test]
    fn parts_cover_a_product_evenly() {
        for (m, n, threads) in
            [(1, 64, 2), (336, 384, 2), (1512, 576, 2), (2037, 1536, 2), (96, 1056, 4), (50_257, 384, 8)]
        {
            let parts = Parts::new(m, n, threads);
            assert!(
                parts.rows.is_multiple_of(STRIP) && parts.rows <= ROWS && parts.columns.is_multiple_of(PANEL),
                "{parts:?}"
            );
            let tasks = m.div_ceil(parts.rows) * n.div_ceil(parts.columns);
            assert!(tasks >= TASKS * threads || parts.columns == PANEL, "{m} by {n} on {threads}: {tasks} tasks");
        }
    }

    #[test]
    fn pieces_cover_the_inner_dimension() {
        for k in [0, 1, 767, 768, 769, 1536, 50_257] {
            let lengths: Vec<usize> = pieces(k).map(|piece| piece.len()).collect();
            assert_eq!(lengths.iter().sum::<usize>(), k);
            assert!(lengths.iter().all(|&length| length <= DEPTH && length <= deepest(k)), "{lengths:?}");
        }
    }
}
