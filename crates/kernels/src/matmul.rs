//! One door to the `gemm` crate.
use crate::Float;
use crate::parallel::Crew;

/// Products with fewer multiplications than this run on the caller's thread.
const SMALL: usize = 1 << 19;

/// Where a matrix lies: element (r, c) is `rows·r + cols·c` elements after `start`.
#[derive(Clone, Copy)]
pub(crate) struct At<P> {
    pub(crate) start: P,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<P> At<P> {
    /// Rows of `width` elements, one after the other.
    pub(crate) fn rows(start: P, width: usize) -> Self {
        Self { start, rows: width, cols: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { start: self.start, rows: self.cols, cols: self.rows }
    }
}

/// The sizes of a product `[m, k] · [k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// dst ← scale·lhs·rhs, plus dst where `accumulate`, on this thread.
///
/// # Safety
/// Every element of the three matrices is valid to read, those of `dst` to write; `dst` is touched by nobody else and
/// overlaps neither factor. Where nothing is accumulated, `dst` is still initialised memory.
pub(crate) unsafe fn product<T: Float>(
    size: Size,
    dst: At<*mut T>,
    accumulate: bool,
    lhs: At<*const T>,
    rhs: At<*const T>,
    scale: T,
) {
    // SAFETY: the same obligations.
    unsafe { product_on(1, size, dst, accumulate, lhs, rhs, scale) }
}

/// As [`product`], on up to `threads` threads of the current pool.
///
/// # Safety
/// As [`product`].
unsafe fn product_on<T: Float>(
    threads: usize,
    size: Size,
    dst: At<*mut T>,
    accumulate: bool,
    lhs: At<*const T>,
    rhs: At<*const T>,
    scale: T,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            for (r, c) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
                // SAFETY: an element of `dst`.
                unsafe { *dst.start.add(r * dst.rows + c * dst.cols) = T::ZERO };
            }
        }
        return;
    }
    #[cfg(not(target_arch = "wasm32"))]
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    #[cfg(target_arch = "wasm32")]
    let parallelism = {
        let _alone = threads;
        gemm::Parallelism::None
    };
    let stride = |s: usize| s as isize;
    // SAFETY: the caller's promise is what `gemm` asks for.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.start,
            stride(dst.cols),
            stride(dst.rows),
            accumulate,
            lhs.start,
            stride(lhs.cols),
            stride(lhs.rows),
            rhs.start,
            stride(rhs.cols),
            stride(rhs.rows),
            T::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A whole matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Whole<'a, T> {
    data: &'a [T],
    at: At<()>,
}

impl<'a, T> Whole<'a, T> {
    pub(crate) fn new(data: &'a [T], width: usize) -> Self {
        Self { data, at: At::rows((), width) }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, at: self.at.transposed() }
    }

    fn matrix(self, rows: usize, cols: usize) -> At<*const T> {
        assert!(reach(rows, cols, self.at.rows, self.at.cols) <= self.data.len(), "a factor is inside its slice");
        At { start: self.data.as_ptr(), rows: self.at.rows, cols: self.at.cols }
    }
}

/// Elements from the first to one past the last of a matrix.
fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// dst `[m, n]` ← scale·lhs·rhs, plus dst where `accumulate`, on the threads of `crew`.
pub(crate) fn whole<T: Float>(
    crew: &Crew,
    size: Size,
    dst: &mut [T],
    accumulate: bool,
    lhs: Whole<'_, T>,
    rhs: Whole<'_, T>,
    scale: T,
) {
    let Size { m, n, k } = size;
    let lhs = Shared(lhs.matrix(m, k));
    let rhs = Shared(rhs.matrix(k, n));
    assert!(m * n <= dst.len(), "the product is inside its slice");
    // SAFETY: the assertions; `dst` is borrowed mutably, so nothing else touches it.
    let mut work = move |threads: usize| unsafe {
        let (lhs, rhs) = (lhs.get(), rhs.get());
        product_on(threads, size, At::rows(dst.as_mut_ptr(), n), accumulate, lhs, rhs, scale);
    };
    if m.saturating_mul(n).saturating_mul(k) < SMALL { work(1) } else { crew.run(work) }
}

/// A factor that another thread may read.
#[derive(Clone, Copy)]
struct Shared<T>(At<*const T>);

impl<T> Shared<T> {
    fn get(self) -> At<*const T> {
        self.0
    }
}

// SAFETY: the pointee is only read, and outlives the call that carries it to another thread.
unsafe impl<T: Sync> Send for Shared<T> {}
