//! Products of matrices: large ones by the crate's own kernel where the machine has one, all others through the `gemm` crate.
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
#[cfg(test)]
mod tests;

use blocked::Packed;
pub(crate) use blocked::{Kernel, STRIP};

use crate::parallel::Crew;
use crate::{Float, Workspace};

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
#[derive(Debug, Clone, Copy)]
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

/// dst `[m, n]` ← scale·lhs·rhs, plus dst where `accumulate`, on all threads.
pub(crate) fn whole<T: Float>(
    ws: &mut Workspace,
    size: Size,
    dst: &mut [T],
    accumulate: bool,
    lhs: Whole<'_, T>,
    rhs: Whole<'_, T>,
    scale: T,
) {
    let Size { m, n, k } = size;
    let crew = if m.saturating_mul(n).saturating_mul(k) < SMALL { Crew::default() } else { ws.crew() };
    let (lhs, rhs) = (Shared(lhs.matrix(m, k)), Shared(rhs.matrix(k, n)));
    assert!(m * n <= dst.len(), "the product is inside its slice");
    if let Some(kernel) = kernel::<T>(size) {
        let mut packing = ws.take_packing(blocked::packed(size, crew.threads()));
        // SAFETY: `matrix` and the assertion; `dst` is borrowed mutably, so nothing else touches it.
        unsafe { blocked::whole(kernel, &crew, size, dst, accumulate, (lhs, rhs), scale, &mut packing) };
        return ws.give_back_packing(packing);
    }
    // SAFETY: as above.
    let work = move |threads: usize| unsafe {
        let (lhs, rhs) = (lhs.from(0, 0), rhs.from(0, 0));
        product_on(threads, size, At::rows(dst.as_mut_ptr(), n), accumulate, lhs, rhs, scale);
    };
    crew.run(work);
}

/// The kernel of this machine for `f32`.
pub(crate) fn kernel_for_f32() -> Option<&'static Kernel<f32>> {
    #[cfg(target_arch = "x86_64")]
    if matches!(crate::simd::level(), crate::simd::Level::Avx512) {
        return Some(&avx512::KERNEL);
    }
    None
}

/// The kernel for a product, where the machine has one and packing pays.
fn kernel<T: Float>(size: Size) -> Option<&'static Kernel<T>> {
    T::kernel().filter(|_| blocked::is_worth_it(size))
}

/// Elements that [`whole`] packs at once; an estimate from above for the `gemm` crate.
pub(crate) fn packed<T: Float>(size: Size, threads: usize) -> usize {
    /// The most of the inner dimension that `gemm` packs at once. Where caches are small it packs less.
    const DEPTH: usize = 512;
    match kernel::<T>(size) {
        Some(_) => blocked::packed(size, threads),
        None => size.m * size.k.min(DEPTH),
    }
}

/// How factors are kept that threads on their own multiply more than once.
pub(crate) struct Factors<T: 'static> {
    kernel: Option<&'static Kernel<T>>,
}

/// A factor as [`Factors`] keep it.
pub(crate) enum Factor<'a, T> {
    AsItLies(Shared<T>),
    Packed(Packed<'a, T>),
}

impl<T: Float> Factors<T> {
    /// For products of about this size.
    pub(crate) fn of(size: Size) -> Self {
        Self { kernel: kernel(size) }
    }

    /// Elements of the buffer for a left factor `[m, k]`.
    pub(crate) fn left_len(&self, m: usize, k: usize) -> usize {
        self.kernel.map_or(0, |_| blocked::left_len(m, k))
    }

    /// Elements of the buffer for a right factor `[k, n]`.
    pub(crate) fn right_len(&self, k: usize, n: usize) -> usize {
        self.kernel.map_or(0, |_| blocked::right_len(k, n))
    }

    /// A left factor `[m, k]`.
    ///
    /// # Safety
    /// It is valid to read for as long as the result lives.
    pub(crate) unsafe fn left<'a>(
        &self,
        crew: &Crew,
        at: At<*const T>,
        m: usize,
        k: usize,
        to: &'a mut [T],
    ) -> Factor<'a, T> {
        match self.kernel {
            // SAFETY: the caller's promise.
            Some(kernel) => Factor::Packed(unsafe { Packed::left(kernel, crew, at, m, k, to) }),
            None => Factor::AsItLies(Shared(at)),
        }
    }

    /// A right factor `[k, n]`.
    ///
    /// # Safety
    /// As [`Factors::left`].
    pub(crate) unsafe fn right<'a>(
        &self,
        crew: &Crew,
        at: At<*const T>,
        k: usize,
        n: usize,
        to: &'a mut [T],
    ) -> Factor<'a, T> {
        match self.kernel {
            // SAFETY: the caller's promise.
            Some(kernel) => Factor::Packed(unsafe { Packed::right(kernel, crew, at, k, n, to) }),
            None => Factor::AsItLies(Shared(at)),
        }
    }

    /// dst ← left·right, plus dst where `accumulate`, for `size.m` rows of the left factor from `first` on, on this thread.
    ///
    /// # Safety
    /// Both factors come from these `Factors` and have what `size` wants; `first` is a multiple of [`STRIP`]. `dst`, its columns one
    /// after the other, is initialised, valid to write and touched by nobody else.
    pub(crate) unsafe fn multiply(
        &self,
        size: Size,
        dst: At<*mut T>,
        accumulate: bool,
        (left, first): (&Factor<'_, T>, usize),
        right: &Factor<'_, T>,
    ) {
        match (self.kernel, left, right) {
            // SAFETY: the caller's promise.
            (Some(kernel), Factor::Packed(left), Factor::Packed(right)) => unsafe {
                left.times(kernel, first, right, size, dst.start, dst.rows, accumulate);
            },
            // SAFETY: the caller's promise.
            (None, Factor::AsItLies(left), Factor::AsItLies(right)) => unsafe {
                product(size, dst, accumulate, left.from(first, 0), right.from(0, 0), T::ONE);
            },
            _ => unreachable!("both factors come from the same place"),
        }
    }
}

/// A factor that other threads may read.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(At<*const T>);

impl<T> Shared<T> {
    /// The factor from an element on.
    fn from(self, row: usize, column: usize) -> At<*const T> {
        At { start: self.0.start.wrapping_add(row * self.0.rows + column * self.0.cols), ..self.0 }
    }
}

// SAFETY: the pointee is only read, and outlives the call that carries it to another thread.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}
