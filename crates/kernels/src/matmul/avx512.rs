//! The kernel for `f32` with AVX-512: 6 rows by 64 columns of a product in 24 registers.
//!
//! Measured alone it runs close to what the multipliers can do; what costs is waiting for memory beyond the second cache. So it asks
//! for the next panel while it multiplies with this one, and for its part of the product before it adds to it.
use std::arch::x86_64::*;

use super::blocked::{Kernel, PANEL, STRIP};
use super::{At, Size};

/// Elements of a register.
const LANES: usize = 16;
/// Registers that hold a row of a panel.
const VECTORS: usize = PANEL / LANES;
/// Rows and columns that change places together where strips and panels are packed.
const SIDE: usize = 8;

/// Only for machines of [`crate::simd::Level::Avx512`].
pub(super) static KERNEL: Kernel<f32> = Kernel { pack_left, pack_right, multiply };

/// # Safety
/// As [`Kernel::pack_left`].
unsafe fn pack_left(from: At<*const f32>, rows: usize, depth: usize, to: *mut f32) {
    // SAFETY: the machine has AVX-512; the caller's promise.
    unsafe {
        if from.cols == 1 {
            for first in (0..rows).step_by(STRIP) {
                let from = At { start: from.start.add(first * from.rows), ..from };
                transposed(from, STRIP.min(rows - first), depth, to.add(first * depth), STRIP);
            }
        } else if from.rows == 1 {
            columns_to_strips(from, rows, depth, to);
        } else {
            for (row, at) in (0..rows).flat_map(|row| (0..depth).map(move |at| (row, at))) {
                let strip = to.add(row / STRIP * STRIP * depth);
                *strip.add(at * STRIP + row % STRIP) = *from.start.add(row * from.rows + at * from.cols);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::pack_right`].
unsafe fn pack_right(from: At<*const f32>, depth: usize, columns: usize, to: *mut f32) {
    // SAFETY: the machine has AVX-512; the caller's promise.
    unsafe {
        for first in (0..columns).step_by(PANEL) {
            let (width, panel) = (PANEL.min(columns - first), to.add(first * depth));
            let from = At { start: from.start.add(first * from.cols), ..from };
            if from.rows == 1 {
                transposed(from.transposed(), width, depth, panel, PANEL);
            } else if from.cols == 1 {
                for at in 0..depth {
                    from.start.add(at * from.rows).copy_to_nonoverlapping(panel.add(at * PANEL), width);
                }
            } else {
                for (at, column) in (0..depth).flat_map(|at| (0..width).map(move |column| (at, column))) {
                    *panel.add(at * PANEL + column) = *from.start.add(at * from.rows + column * from.cols);
                }
            }
            for at in (0..depth).filter(|_| width < PANEL) {
                panel.add(at * PANEL + width).write_bytes(0, PANEL - width);
            }
        }
    }
}

/// Writes the transpose of `rows` rows of `depth` elements: element (row, at) goes to `at·step + row`. Whole registers are stored,
/// what they hold too much is written over by what comes next; only the very last is cut.
///
/// # Safety
/// The machine has AVX-512. The rows are valid to read, each element after the other; `to` to write, `depth·step` elements.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
unsafe fn transposed(from: At<*const f32>, rows: usize, depth: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller's promise: masks keep loads inside the rows and the last stores inside `to`.
    unsafe {
        for first in (0..rows).step_by(SIDE) {
            let count = SIDE.min(rows - first);
            let row = |i: usize| from.start.add((first + i) * from.rows);
            for at in (0..depth).step_by(SIDE) {
                let length = SIDE.min(depth - at);
                let mask = 0xff_u8 >> (SIDE - length);
                let loaded = std::array::from_fn(|i| match i < count {
                    true => _mm256_maskz_loadu_ps(mask, row(i).add(at)),
                    false => _mm256_setzero_ps(),
                });
                for (i, column) in transpose(loaded).into_iter().enumerate().take(length) {
                    let mask = if at + i + 1 < depth { 0xff } else { 0xff_u8 >> (SIDE - count) };
                    _mm256_mask_storeu_ps(to.add((at + i) * step + first), mask, column);
                }
            }
        }
    }
}

/// Pairs of rows are interleaved, then pairs of pairs, then the halves change places.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
#[inline]
fn transpose(rows: [__m256; SIDE]) -> [__m256; SIDE] {
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    let twos: [__m256; SIDE] = std::array::from_fn(|i| match i % 2 {
        0 => _mm256_unpacklo_ps(rows[i], rows[i + 1]),
        _ => _mm256_unpackhi_ps(rows[i - 1], rows[i]),
    });
    let fours: [__m256; SIDE] = std::array::from_fn(|i| {
        let (first, second) = (i / 4 * 4 + i % 4 / 2, i / 4 * 4 + i % 4 / 2 + 2);
        match i % 2 {
            0 => _mm256_shuffle_ps::<LOW>(twos[first], twos[second]),
            _ => _mm256_shuffle_ps::<HIGH>(twos[first], twos[second]),
        }
    });
    std::array::from_fn(|i| match i < SIDE / 2 {
        true => _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + SIDE / 2]),
        false => _mm256_permute2f128_ps::<0x31>(fours[i - SIDE / 2], fours[i]),
    })
}

/// Strips of a factor whose columns lie one after the other.
///
/// # Safety
/// As [`Kernel::pack_left`], on a machine with AVX-512.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
unsafe fn columns_to_strips(from: At<*const f32>, rows: usize, depth: usize, to: *mut f32) {
    /// Columns whose cache lines stay until every strip has taken its part.
    const COLUMNS: usize = 16;
    // SAFETY: the caller's promise: masks keep loads inside the factor's rows; what is stored beyond a strip's row is written over
    // by its next, and nothing is stored beyond its last.
    unsafe {
        for start in (0..depth).step_by(COLUMNS) {
            for first in (0..rows).step_by(STRIP) {
                let mask = 0xff_u8 >> (SIDE - STRIP.min(rows - first));
                for at in start..(start + COLUMNS).min(depth) {
                    let column = _mm256_maskz_loadu_ps(mask, from.start.add(at * from.cols + first));
                    let mask = if at + 1 < depth { 0xff } else { mask };
                    _mm256_mask_storeu_ps(to.add(first * depth + at * STRIP), mask, column);
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel::multiply`].
unsafe fn multiply(
    size: Size,
    left: *const f32,
    right: *const f32,
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
    scale: f32,
) {
    let Size { m, n, k } = size;
    let strips = m.div_ceil(STRIP);
    for column in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - column);
        let is_last = column + PANEL >= n;
        // Each strip asks for its share of the next panel.
        let share = if is_last { 0 } else { (k * VECTORS).div_ceil(strips).min(k) };
        for strip in 0..strips {
            let row = strip * STRIP;
            let ahead = right.wrapping_add((column + PANEL) * k + strip * share * LANES);
            // SAFETY: the machine has AVX-512; strip and panel lie inside what was packed, and the tile inside the product.
            unsafe {
                let tile = Tile {
                    depth: k,
                    left: left.add(row * k),
                    right: right.add(column * k),
                    dst: dst.add(row * stride + column),
                    stride,
                    accumulate,
                    scale,
                    ahead,
                    share,
                };
                tile.multiply(STRIP.min(m - row), width);
            }
        }
    }
}

/// A strip times a panel.
struct Tile {
    depth: usize,
    left: *const f32,
    right: *const f32,
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
    scale: f32,
    /// Cache lines of the next panel to ask for.
    ahead: *const f32,
    share: usize,
}

impl Tile {
    /// # Safety
    /// The machine has AVX-512; packed factors of `depth`, and `rows` by `width` elements of the product, are valid and nobody
    /// else's.
    unsafe fn multiply(&self, rows: usize, width: usize) {
        let last = u16::MAX >> (width.next_multiple_of(LANES) - width);
        macro_rules! of {
            ($($rows:literal)*) => {
                // SAFETY: the caller's promise.
                unsafe {
                    match (rows, width.div_ceil(LANES)) {
                        $(($rows, 1) => self.sized::<$rows, 1>(last),
                        ($rows, 2) => self.sized::<$rows, 2>(last),
                        ($rows, 3) => self.sized::<$rows, 3>(last),
                        ($rows, 4) => self.sized::<$rows, 4>(last),)*
                        _ => unreachable!("strips have 1 to {STRIP} rows, panels 1 to {PANEL} columns"),
                    }
                }
            };
        }
        of!(1 2 3 4 5 6);
    }

    /// # Safety
    /// As [`Tile::multiply`], for `R` rows and `V` registers of columns, of the last of which `last` are stored.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
    unsafe fn sized<const R: usize, const V: usize>(&self, last: u16) {
        let place = |row: usize, vector: usize| self.dst.wrapping_add(row * self.stride + vector * LANES);
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let (mut left, mut right, mut ahead) = (self.left, self.right, self.ahead);
        // SAFETY: the caller's promise; what is only asked for need not exist.
        unsafe {
            for row in 0..R {
                for vector in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(place(row, vector).cast());
                }
            }
            for at in 0..self.depth {
                let columns: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(right.add(v * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*left.add(row));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(x, column, *sum);
                    }
                }
                if at < self.share {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(LANES);
                }
                left = left.wrapping_add(STRIP);
                right = right.wrapping_add(PANEL);
            }
            let scale = _mm512_set1_ps(self.scale);
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let (to, mask) = (place(row, vector), if vector + 1 == V { last } else { u16::MAX });
                    let mut sum = _mm512_mul_ps(sum, scale);
                    if self.accumulate {
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
                    }
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}
