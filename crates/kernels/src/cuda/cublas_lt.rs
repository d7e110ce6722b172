//! Products by cuBLASLt, which is loaded with the first device where it is installed.
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::result as driver;

use super::product::{Place, Product};
use crate::float::sealed::Kind;
use crate::matmul::Size;

/// Bytes that algorithms may use: what NVIDIA advises for devices of capability 9.0.
pub(super) const WORKSPACE: usize = 32 << 20;

/// The library, its workspace on the device, and the algorithms it has chosen, or that it has none.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    chosen: Mutex<HashMap<Key, Option<sys::cublasLtMatmulAlgo_t>>>,
}

// SAFETY: the library allows a handle to be used by several threads at once.
unsafe impl Send for CublasLt {}
// SAFETY: as above; products of one stream have their turns with the workspace.
unsafe impl Sync for CublasLt {}

/// What an algorithm is chosen for. The same product has the same algorithm in every step, so the same bits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    alignments: [u32; 3],
    factors: Kind,
    result: Kind,
    accumulate: bool,
}

impl CublasLt {
    /// The library, if it is installed, for the device of the current context.
    pub(super) fn new(workspace: impl FnOnce() -> crate::Result<u64>) -> crate::Result<Option<Self>> {
        // SAFETY: loading the library runs its initialisers, as any use of it does.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let handle = result::create_handle().map_err(refused("Cuda::new"))?;
        Ok(Some(Self { handle, workspace: workspace()?, chosen: Mutex::default() }))
    }

    /// Queues a product on a stream, unless the library has no algorithm for it.
    pub(super) fn multiply(&self, op: &'static str, product: &Product, stream: *mut c_void) -> crate::Result<bool> {
        self.try_multiply(product, stream).map_err(refused(op))
    }

    fn try_multiply(&self, product: &Product, stream: *mut c_void) -> Result<bool, CublasError> {
        let Product { size: Size { m, n, k }, a, b, c, factors, result: kind, scale, accumulate } = *product;
        // The library knows columns one after the other: there the result is cᵀ = bᵀ·aᵀ, and our rows are its columns.
        let description = Description::new(factors, b.is_transposed, a.is_transposed)?;
        let layout = |kind: Kind, at: Place, rows: usize, cols: usize| {
            let (rows, cols) = if at.is_transposed { (cols, rows) } else { (rows, cols) };
            Layout::new(kind, cols, rows, at.stride)
        };
        let (left, right, into) = (layout(factors, b, k, n)?, layout(factors, a, m, k)?, layout(kind, c, m, n)?);
        let key = Key {
            size: [m, n, k],
            strides: [a.stride, b.stride, c.stride],
            transposed: [a.is_transposed, b.is_transposed],
            alignments: [a, b, c].map(|at| alignment(at.address)),
            factors,
            result: kind,
            accumulate,
        };
        let Some(algorithm) = self.algorithm(key, &description, &left, &right, &into)? else { return Ok(false) };
        let (scales_f32, scales_f64) = ([scale as f32, f32::from(accumulate)], [scale, f64::from(accumulate)]);
        let [alpha, beta]: [*const c_void; 2] = match factors {
            Kind::F64 => scales_f64.each_ref().map(|scale| std::ptr::from_ref(scale).cast()),
            Kind::F32 | Kind::Bf16 => scales_f32.each_ref().map(|scale| std::ptr::from_ref(scale).cast()),
        };
        // SAFETY: matrices of these layouts lie in buffers of this device, as `product` has checked; descriptions live until the call
        // has returned, and scales are read by then.
        unsafe {
            result::matmul(
                self.handle,
                description.0,
                alpha,
                beta,
                b.address as *const c_void,
                left.0,
                a.address as *const c_void,
                right.0,
                c.address as *const c_void,
                into.0,
                c.address as *mut c_void,
                into.0,
                &raw const algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }?;
        Ok(true)
    }

    fn algorithm(
        &self,
        key: Key,
        description: &Description,
        left: &Layout,
        right: &Layout,
        into: &Layout,
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = chosen.get(&key) {
            return Ok(*algorithm);
        }
        let [a, b, c] = key.alignments;
        let preference = Preference::new([b, a, c])?;
        // SAFETY: descriptions that live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, description.0, left.0, right.0, into.0, into.0, preference.0)
        };
        let algorithm = match found {
            Ok(found) => Some(found.algo),
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => None,
            Err(error) => return Err(error),
        };
        chosen.insert(key, algorithm);
        Ok(algorithm)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: a handle of this library and memory of the device, which nobody uses any more: freeing waits for what is queued. The
        // driver has bound its context.
        unsafe {
            let _ = driver::free_sync(self.workspace);
            let _ = result::destroy_handle(self.handle);
        }
    }
}

/// What a product is computed in and which factors are transposed.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(factors: Kind, left_is_transposed: bool, right_is_transposed: bool) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        // Whole f32, not its leading bits.
        let compute = match factors {
            Kind::F64 => sys::cublasComputeType_t::CUBLAS_COMPUTE_64F,
            Kind::F32 | Kind::Bf16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let this = Self(result::create_matmul_desc(compute, data_type(factors.sums()))?);
        for (attribute, is_transposed) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, left_is_transposed), (CUBLASLT_MATMUL_DESC_TRANSB, right_is_transposed)]
        {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let operation = i32::from(is_transposed);
            // SAFETY: an attribute of four bytes.
            unsafe {
                result::set_matmul_desc_attribute(this.0, attribute, std::ptr::from_ref(&operation).cast(), 4)?;
            }
        }
        Ok(this)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Where a matrix lies, by columns.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: Kind, rows: usize, cols: usize, stride: usize) -> Result<Self, CublasError> {
        // A matrix of a single column may have any stride, and the library wants one no shorter than a column.
        let stride = stride.max(rows) as i64;
        Ok(Self(result::create_matrix_layout(data_type(kind), rows as u64, cols as u64, stride)?))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may use and what it may rely on.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    /// With the alignments of the left factor, the right one, and the result.
    fn new(alignments: [u32; 3]) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let this = Self(result::create_matmul_pref()?);
        let [left, right, into] = alignments;
        // SAFETY: attributes of these sizes.
        unsafe {
            let bytes = WORKSPACE as u64;
            let most = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(this.0, most, std::ptr::from_ref(&bytes).cast(), 8)?;
            // Where parts of a sum are made apart, they are kept and added in the type of sums, in order.
            let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let schemes = Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            result::set_matmul_pref_attribute(this.0, schemes, std::ptr::from_ref(&scheme).cast(), 4)?;
            for (attribute, alignment) in [
                (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, left),
                (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, right),
                (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, into),
                (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, into),
            ] {
                result::set_matmul_pref_attribute(this.0, attribute, std::ptr::from_ref(&alignment).cast(), 4)?;
            }
        }
        Ok(this)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// The largest power of two that divides an address, up to the 256 that algorithms ask about.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

fn data_type(kind: Kind) -> sys::cudaDataType {
    match kind {
        Kind::F32 => sys::cudaDataType::CUDA_R_32F,
        Kind::F64 => sys::cudaDataType::CUDA_R_64F,
        Kind::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// An error of the library, during `op`.
fn refused(op: &'static str) -> impl Fn(CublasError) -> crate::Error {
    move |error| crate::Error::Cuda { op, reason: format!("cuBLASLt: {error}") }
}
