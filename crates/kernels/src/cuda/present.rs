//! A device through the CUDA driver, which is loaded when the first device is opened.
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::cublas_lt::{self, CublasLt};
use super::product::Product;
use super::staging::Staging;
use super::{Grid, Properties};
use crate::{Error, Result};

// A fat binary of every source, and the names of all kernels.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Dynamic shared memory that a kernel may have without asking for it.
const SHARED_BYTES_OF_EVERY_KERNEL: u32 = 48 << 10;

pub(super) struct Driver {
    stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    products: Option<CublasLt>,
    /// None where the driver is going down. What is read does not keep waiting what is written.
    written: Option<Mutex<Staging>>,
    read: Option<Mutex<Staging>>,
}

struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    shared_bytes: Mutex<u32>,
}

/// An image as the driver wants it, which reads words of it.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

impl Drop for Driver {
    fn drop(&mut self) {
        // A driver that is going down has freed everything.
        if self.stream.context().bind_to_thread().is_err() {
            return std::mem::forget((self.products.take(), self.written.take(), self.read.take()));
        }
        let _ = self.stream.synchronize();
        drop((self.products.take(), self.written.take(), self.read.take()));
        for module in self.modules.drain(..) {
            // SAFETY: loaded by `new`, and nothing of it runs any more.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

// SAFETY: functions belong to the context, which every thread may use once it is bound to it.
unsafe impl Send for Driver {}
// SAFETY: as above; launches into one stream are ordered by the driver.
unsafe impl Sync for Driver {}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.stream.context().ordinal())
    }
}

/// Why there is no device of this number.
fn not_opened(ordinal: usize, error: &dyn fmt::Display) -> String {
    match CudaContext::device_count() {
        Ok(count) if usize::try_from(count).is_ok_and(|count| ordinal >= count) => {
            format!("device {ordinal}, and there are {count}, numbered from 0")
        }
        _ => format!("device {ordinal} cannot be opened: {error}"),
    }
}

impl Driver {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        const OP: &str = "Cuda::new";
        // SAFETY: loading the driver library runs its initialisers, as any use of CUDA does.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDevice {
                reason: "the cuda driver is not installed (no libcuda); install NVIDIA's, 580 or newer".into(),
            });
        }
        let context =
            CudaContext::new(ordinal).map_err(|error| Error::NoDevice { reason: not_opened(ordinal, &error) })?;
        // One stream: there is nothing to wait for, and no event an allocation.
        // SAFETY: buffers are used in this stream alone.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(refused(OP))?;
        let staging = || Ok(Some(Mutex::new(Staging::new(&stream).map_err(refused(OP))?)));
        let (written, read) = (staging()?, staging()?);
        let mut this = Self { stream, modules: Vec::new(), functions: HashMap::new(), products: None, written, read };
        for (image, names) in MODULES {
            // SAFETY: a whole image that nvcc made.
            let module = unsafe { result::module::load_data(image.0.as_ptr().cast()) }.map_err(refused(OP))?;
            this.modules.push(module);
            for name in *names {
                let symbol = CString::new(*name).expect("names of kernels have no zero byte");
                // SAFETY: the module is loaded.
                let function = unsafe { result::module::get_function(module, symbol) }.map_err(refused(OP))?;
                let shared_bytes = Mutex::new(SHARED_BYTES_OF_EVERY_KERNEL);
                this.functions.insert(*name, Function { handle: function, shared_bytes });
            }
        }
        this.keep_freed_memory(OP)?;
        // SAFETY: what an algorithm does not write in its workspace it does not read.
        let workspace = || unsafe { result::malloc_sync(cublas_lt::WORKSPACE) }.map_err(refused(OP));
        this.products = CublasLt::new(workspace)?;
        Ok(this)
    }

    /// None where there is not so much memory.
    pub(super) fn alloc(&self, op: &'static str, bytes: usize) -> Result<Option<u64>> {
        self.bind(op)?;
        // SAFETY: what is not written is not read, as the emulation of every kernel shows.
        let alloc = || unsafe { result::malloc_async(self.stream.cu_stream(), bytes) };
        let none = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let mut found = alloc();
        if found == Err(none) {
            // What the pool has kept may be in pieces that are too small.
            self.synchronize(op)?;
            // SAFETY: the pool of a device that is open.
            unsafe { result::mem_pool::trim_to(self.pool(op)?, 0) }.map_err(refused(op))?;
            found = alloc();
        }
        match found {
            Err(error) if error == none => Ok(None),
            found => found.map(Some).map_err(refused(op)),
        }
    }

    pub(super) fn free(&self, address: u64) {
        // A driver that is going down has freed everything.
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: memory of `alloc`, freed once, after all work that was queued before.
            let _ = unsafe { result::free_async(address, self.stream.cu_stream()) };
        }
    }

    pub(super) fn write(&self, op: &'static str, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind(op)?;
        // SAFETY: the buffer is at least as long.
        unsafe { staging(&self.written).write(address, bytes) }.map_err(refused(op))
    }

    pub(super) fn read(&self, op: &'static str, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind(op)?;
        // SAFETY: the buffer is at least as long.
        unsafe { staging(&self.read).read(address, bytes) }.map_err(refused(op))
    }

    pub(super) fn zero(&self, op: &'static str, address: u64, bytes: usize) -> Result<()> {
        self.bind(op)?;
        // SAFETY: the buffer is at least as long.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }.map_err(refused(op))
    }

    /// Queues a product where there is a library that makes it, and says whether there is.
    pub(super) fn multiply(&self, op: &'static str, product: &Product) -> Result<bool> {
        let Some(library) = &self.products else { return Ok(false) };
        self.bind(op)?;
        library.multiply(op, product, self.stream.cu_stream().cast())
    }

    pub(super) fn copy(&self, op: &'static str, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind(op)?;
        // SAFETY: two buffers of this device, at least as long.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }.map_err(refused(op))
    }

    pub(super) fn time(&self, op: &'static str, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let event = || {
            let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
            self.stream.record_event(Some(flags)).map_err(refused(op))
        };
        let begin = event()?;
        work()?;
        let end = event()?;
        let milliseconds = begin.elapsed_ms(&end).map_err(refused(op))?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    pub(super) fn properties(&self, op: &'static str) -> Result<Properties> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as L2,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
        };
        let context = self.stream.context();
        let attribute = |which| context.attribute(which).map(|value| value.max(0) as usize).map_err(refused(op));
        Ok(Properties {
            name: context.name().map_err(refused(op))?,
            compute_capability: (attribute(MAJOR)?, attribute(MINOR)?),
            multiprocessors: attribute(MULTIPROCESSORS)?,
            l2_bytes: attribute(L2)?,
            memory_bytes: context.total_mem().map_err(refused(op))?,
            has_cublas_lt: self.products.is_some(),
        })
    }

    /// Bytes that are free, with those that the pool has kept and no buffer has, and of all memory.
    pub(super) fn memory(&self, op: &'static str) -> Result<(usize, usize)> {
        use sys::CUmemPool_attribute::{
            CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT as RESERVED, CU_MEMPOOL_ATTR_USED_MEM_CURRENT as USED,
        };
        let (free, total) = self.stream.context().mem_get_info().map_err(refused(op))?;
        let pool = self.pool(op)?;
        let attribute = |which| {
            let mut bytes = 0u64;
            // SAFETY: the pool of a device that is open, and an attribute of 64 bits.
            unsafe { result::mem_pool::get_attribute(pool, which, std::ptr::from_mut(&mut bytes).cast()) }
                .map_err(refused(op))?;
            Ok(bytes as usize)
        };
        let kept = attribute(RESERVED)?.saturating_sub(attribute(USED)?);
        Ok((free + kept, total))
    }

    pub(super) fn synchronize(&self, op: &'static str) -> Result<()> {
        self.stream.synchronize().map_err(refused(op))
    }

    pub(super) fn launch(
        &self,
        op: &'static str,
        kernel: &str,
        grid: Grid,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        self.bind(op)?;
        let function = self.functions.get(kernel).expect("every kernel that is called is compiled");
        let axes = |[x, y, z]: [u32; 3]| (x, y, z);
        let (blocks, threads, stream) = (axes(grid.blocks), axes(grid.threads), self.stream.cu_stream());
        function.allow(grid.shared_bytes).map_err(refused(op))?;
        // SAFETY: as many arguments as the kernel has parameters, on this device, as long as their ops have checked.
        unsafe { result::launch_kernel(function.handle, blocks, threads, grid.shared_bytes, stream, arguments) }
            .map_err(refused(op))
    }

    fn bind(&self, op: &'static str) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(refused(op))
    }

    /// Lets the pool of the device keep what is freed: by default it goes back to the system whenever the stream is waited for.
    fn keep_freed_memory(&self, op: &'static str) -> Result<()> {
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let mut all = u64::MAX;
        // SAFETY: the pool of a device that is open, and an attribute of 64 bits.
        unsafe { result::mem_pool::set_attribute(self.pool(op)?, threshold, std::ptr::from_mut(&mut all).cast()) }
            .map_err(refused(op))
    }

    fn pool(&self, op: &'static str) -> Result<sys::CUmemoryPool> {
        // SAFETY: a device of this process.
        unsafe { result::device::get_default_mem_pool(self.stream.context().cu_device()) }.map_err(refused(op))
    }
}

impl Function {
    /// Lets launches have so much dynamic shared memory, and never less again: another thread may be about to launch.
    fn allow(&self, bytes: u32) -> Result<(), DriverError> {
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
        let mut most = self.shared_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > *most {
            // SAFETY: a function of this context.
            unsafe { result::function::set_function_attribute(self.handle, MOST, bytes as i32) }?;
            *most = bytes;
        }
        Ok(())
    }
}

fn staging(of: &Option<Mutex<Staging>>) -> MutexGuard<'_, Staging> {
    let staging = of.as_ref().expect("it is there until the driver is dropped");
    staging.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the driver, during `op`.
fn refused(op: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { op, reason: error.to_string() }
}
