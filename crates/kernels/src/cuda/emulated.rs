//! A device that runs kernels on the host, through a library that a host compiler made of their sources.
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::product::{Place, Product};
use super::{Grid, Order, Properties};
use crate::float::sealed::Kind;
use crate::matmul::{self, At, Size};
use crate::{Element, Error, Float, Result};

type Alloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, usize, *mut *mut c_void, c_int) -> *const c_char;

/// The library keeps the state of the block that runs; all devices of a process have their turns.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
pub(super) struct Driver {
    alloc: Alloc,
    free: Free,
    launch: Launch,
    order: Order,
}

impl Driver {
    pub(super) fn new(library: &Path, order: Order) -> Result<Self> {
        let refused = |reason: &str| Error::NoDevice { reason: format!("{}: {reason}", library.display()) };
        let name = CString::new(library.as_os_str().as_bytes()).map_err(|_| refused("a name with a zero byte"))?;
        // SAFETY: the library's initialisers put kernels into a list and do nothing else. It is never closed.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: an error of the call before, valid until the next.
            let reason = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned();
            return Err(refused(&reason));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open.
            let at = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if at.is_null() { Err(refused("no library of emulated kernels")) } else { Ok(at) }
        };
        // SAFETY: functions of these types, in every library that has their names.
        unsafe {
            Ok(Self {
                alloc: std::mem::transmute::<*mut c_void, Alloc>(symbol(c"emulated_alloc")?),
                free: std::mem::transmute::<*mut c_void, Free>(symbol(c"emulated_free")?),
                launch: std::mem::transmute::<*mut c_void, Launch>(symbol(c"emulated_launch")?),
                order,
            })
        }
    }

    pub(super) fn alloc(&self, _op: &'static str, bytes: usize) -> Result<Option<u64>> {
        let _turn = turn();
        // SAFETY: the library gives memory of any size, or ends the process.
        Ok(Some(unsafe { (self.alloc)(bytes) } as u64))
    }

    pub(super) fn free(&self, address: u64) {
        let _turn = turn();
        // SAFETY: memory of `alloc`, freed once.
        unsafe { (self.free)(address as *mut c_void) }
    }

    pub(super) fn write(&self, _op: &'static str, address: u64, bytes: &[u8]) -> Result<()> {
        let _turn = turn();
        // SAFETY: a buffer of the host, at least as long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    pub(super) fn read(&self, _op: &'static str, address: u64, bytes: &mut [u8]) -> Result<()> {
        let _turn = turn();
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    pub(super) fn zero(&self, _op: &'static str, address: u64, bytes: usize) -> Result<()> {
        let _turn = turn();
        // SAFETY: as in `write`.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    /// Makes a product; always does.
    pub(super) fn multiply(&self, _op: &'static str, product: &Product) -> Result<bool> {
        let _turn = turn();
        // SAFETY: matrices inside of buffers, of these types, as `product` has checked.
        unsafe {
            match (product.factors, product.result) {
                (Kind::F64, _) => multiply::<f64, f64>(product),
                (Kind::F32, _) => multiply::<f32, f32>(product),
                (Kind::Bf16, Kind::Bf16) => multiply::<half::bf16, half::bf16>(product),
                (Kind::Bf16, _) => multiply::<half::bf16, f32>(product),
            }
        }
        Ok(true)
    }

    pub(super) fn copy(&self, _op: &'static str, from: u64, to: u64, bytes: usize) -> Result<()> {
        let _turn = turn();
        // SAFETY: two buffers of the host, at least as long.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    pub(super) fn time(&self, _op: &'static str, _work: impl FnOnce() -> Result<()>) -> Result<f64> {
        Err(Error::NoDevice { reason: "kernels that are emulated take no time of a device".into() })
    }

    pub(super) fn properties(&self, _op: &'static str) -> Result<Properties> {
        let name = format!("emulated, threads {:?}", self.order).to_lowercase();
        Ok(Properties {
            name,
            compute_capability: (0, 0),
            multiprocessors: 1,
            l2_bytes: 0,
            memory_bytes: 0,
            has_cublas_lt: false,
        })
    }

    /// Bytes that are free, and of all memory: as many as there can be, so that only a limit is one.
    pub(super) fn memory(&self, _op: &'static str) -> Result<(usize, usize)> {
        Ok((isize::MAX as usize, isize::MAX as usize))
    }

    pub(super) fn synchronize(&self, _op: &'static str) -> Result<()> {
        Ok(())
    }

    pub(super) fn launch(
        &self,
        op: &'static str,
        kernel: &str,
        grid: Grid,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let _turn = turn();
        let name = CString::new(kernel).expect("names of kernels have no zero byte");
        let descending = c_int::from(self.order == Order::Descending);
        let (blocks, threads) = (grid.blocks.as_ptr(), grid.threads.as_ptr());
        // SAFETY: as many arguments as the kernel has parameters; buffers outlive the call, which runs to its end.
        let error = unsafe {
            (self.launch)(
                name.as_ptr(),
                blocks,
                threads,
                grid.shared_bytes as usize,
                arguments.as_mut_ptr(),
                descending,
            )
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: words that stay until the next launch, and nobody else has a turn now.
        let reason = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
        Err(Error::Cuda { op, reason: format!("{kernel}: {reason}") })
    }
}

/// A product by the CPU's kernels, as a library of the device would make it.
///
/// # Safety
/// The three matrices lie in memory of the types `T` and `S`, and the result overlaps no factor.
unsafe fn multiply<T: Element, S: Element<Wide = T::Wide>>(product: &Product) {
    let Size { m, n, k } = product.size;
    // SAFETY: matrices in memory.
    let (a, b) = unsafe { (widened::<T>(product.a, m, k), widened::<T>(product.b, k, n)) };
    let at = product.c.address as *mut S;
    // SAFETY: as above.
    let mut c = if product.accumulate { unsafe { widened::<S>(product.c, m, n) } } else { vec![T::Wide::ZERO; m * n] };
    let scale = T::Wide::from_f64(product.scale);
    let (a, b) = (At::rows(a.as_ptr(), k), At::rows(b.as_ptr(), n));
    // SAFETY: whole matrices of their own.
    unsafe { matmul::product(product.size, At::rows(c.as_mut_ptr(), n), product.accumulate, a, b, scale) };
    for (row, sums) in c.chunks_exact(n).enumerate() {
        for (column, &sum) in sums.iter().enumerate() {
            // SAFETY: an element of the result.
            unsafe { at.add(row * product.c.stride + column).write(S::narrow(sum)) };
        }
    }
}

/// A copy of a matrix `[rows, cols]` in the type of sums, row by row.
///
/// # Safety
/// The matrix lies in memory of the type `T`.
unsafe fn widened<T: Element>(place: Place, rows: usize, cols: usize) -> Vec<T::Wide> {
    let from = place.address as *const T;
    let at = |r, c| if place.is_transposed { c * place.stride + r } else { r * place.stride + c };
    // SAFETY: elements of the matrix.
    (0..rows).flat_map(|r| (0..cols).map(move |c| unsafe { from.add(at(r, c)).read() }.widen())).collect()
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
