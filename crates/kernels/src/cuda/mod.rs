//! A CUDA device and buffers on it. The types exist in every build; without the feature `cuda` the only device is the emulated one,
//! which runs the same kernels on the host for tests.
#![cfg_attr(
    not(any(unix, feature = "cuda")),
    expect(dead_code, reason = "where no device can be, nobody reads what is launched")
)]

mod call;
#[cfg(feature = "cuda")]
mod cublas_lt;
#[cfg_attr(not(unix), path = "not_emulated.rs")]
mod emulated;
mod own_product;
mod pool;
#[cfg(feature = "cuda")]
mod present;
mod product;
pub(crate) mod quads;
#[cfg(feature = "cuda")]
mod staging;

use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use call::{Call, Grid, lanes, lanes_beside};
pub use pool::DEVICE_GRAIN;
pub(crate) use pool::DevicePool;
use pool::Pools;
use product::Multiplier;
pub(crate) use product::{Factor, product};

use crate::float::sealed::Plain;
use crate::{Error, Result, View, ViewMut, check};

/// What errors call the device.
pub(crate) const NAME: &str = "cuda";

/// In which order the emulated device lets the threads of a block run ahead of each other; a kernel without a data race gives the same
/// bits in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The threads of low numbers first.
    Ascending,
    /// The threads of high numbers first.
    Descending,
}

/// A CUDA device with one stream, on which all work of its buffers is queued in order.
#[derive(Debug, Clone)]
pub struct Cuda {
    driver: Arc<Driver>,
    ledger: Arc<Ledger>,
    pools: Arc<Pools>,
    multiplier: Multiplier,
}

/// What runs kernels and holds their operands.
#[derive(Debug)]
enum Driver {
    #[cfg(feature = "cuda")]
    Present(Box<present::Driver>),
    Emulated(emulated::Driver),
}

/// Calls a method of whichever driver there is.
macro_rules! on {
    ($driver:expr, $name:ident => $call:expr) => {
        match *$driver {
            #[cfg(feature = "cuda")]
            Driver::Present(ref $name) => $call,
            Driver::Emulated(ref $name) => $call,
        }
    };
}
use on;

impl Cuda {
    /// Opens the device with this number, counted from 0.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where the crate was built without the feature `cuda`, the driver is not installed, or there is no such
    /// device; [`Error::Cuda`] where the driver refuses the kernels.
    pub fn new(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self::of(Driver::Present(Box::new(present::Driver::new(ordinal)?))));
        #[cfg(not(feature = "cuda"))]
        Err(Error::NoDevice {
            reason: format!(
                "this build has no cuda back end for device {ordinal}; build with the feature `cuda` (docs/gpu.md)"
            ),
        })
    }

    /// A device that is not there: the kernels of `library`, which a host compiler made of their sources with the emulation (as
    /// `tests/emulation` does), run thread after thread in the given order. For tests of kernels and of what calls them.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where the library cannot be loaded or is none of ours, and on systems without shared libraries of that kind.
    ///
    /// # Safety
    /// The library is one that was made so: loading another runs whatever it wants to.
    pub unsafe fn emulated(library: &Path, order: Order) -> Result<Self> {
        Ok(Self::of(Driver::Emulated(emulated::Driver::new(library, order)?)))
    }

    fn of(driver: Driver) -> Self {
        Self {
            driver: Arc::new(driver),
            ledger: Arc::default(),
            pools: Arc::default(),
            multiplier: Multiplier::Library,
        }
    }

    /// The same device, with products of matrices by the crate's own kernel instead of cuBLASLt. Without cuBLASLt
    /// ([`Properties::has_cublas_lt`]) they are made so anyway.
    ///
    /// A buffer keeps the handle that it was made with, and an op multiplies as its first operand's says: make operands with the handle
    /// that is returned.
    #[must_use]
    pub fn with_own_products(&self) -> Self {
        Self { multiplier: Multiplier::Own, ..self.clone() }
    }

    /// The same device, through a handle whose buffers are counted by themselves too: what [`Cuda::memory`] says of it and its clones is
    /// what was made with them. They count for this handle as well, with its limit.
    #[must_use]
    pub fn counted_apart(&self) -> Self {
        Self { ledger: Arc::new(Ledger { whole: Some(self.ledger.clone()), ..Ledger::default() }), ..self.clone() }
    }

    /// A new buffer of elements that nobody has written yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there is not so much memory; [`Error::Cuda`] where the driver reports another error.
    pub fn unwritten<T: Plain>(&self, len: usize) -> Result<CudaBuffer<T>> {
        let memory = Allocation::new(self, len.saturating_mul(size_of::<T>()))?;
        Ok(CudaBuffer { memory, len, of: PhantomData })
    }

    /// Copies elements to a new buffer on the device, as [`CudaBuffer::write`] does.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where there is not so much memory; [`Error::Cuda`] where the driver reports another error.
    pub fn upload<T: Plain>(&self, elements: &[T]) -> Result<CudaBuffer<T>> {
        let mut buffer = self.unwritten(elements.len())?;
        buffer.write(elements)?;
        Ok(buffer)
    }

    /// How much memory there is, and how much of it buffers have. A buffer that was dropped has its bytes until the work that was queued
    /// before is done, so that less may be free for a while: [`Cuda::synchronize`] first to be sure.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error.
    pub fn memory(&self) -> Result<Memory> {
        let (free, total) = on!(self.driver, driver => driver.memory("Cuda::memory"))?;
        let Counts { used, most_used, .. } = *self.ledger.counts();
        let (left, limit) = self.ledger.room();
        Ok(Memory { free: free.min(left), total: total.min(limit), used, most_used })
    }

    /// Lets all buffers of the device have at most `bytes` bytes together from now on, beside those of other programs. A larger one
    /// than that leaves room for is [`Error::OutOfMemory`], on the emulated device too, which else has as much memory as the host.
    ///
    /// The limit is one of this handle and of all its clones.
    pub fn limit_memory(&self, bytes: usize) {
        self.ledger.counts().limit = bytes;
    }

    /// Waits until all work that was queued is done.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error of that work.
    pub fn synchronize(&self) -> Result<()> {
        on!(self.driver, driver => driver.synchronize("Cuda::synchronize"))
    }

    /// The seconds that the device takes for what `work` queues, by events before and after it in the stream, once all that was queued
    /// earlier is done. Reading the time waits for the work. Events count half microseconds, so what is shorter is queued often.
    ///
    /// # Errors
    /// What `work` returns; [`Error::Cuda`] where the driver reports an error; [`Error::NoDevice`] on the emulated device, whose time
    /// would say nothing of a device's.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        on!(self.driver, driver => driver.time("Cuda::time", work))
    }

    /// What the device is.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error.
    pub fn properties(&self) -> Result<Properties> {
        on!(self.driver, driver => driver.properties("Cuda::properties"))
    }

    /// Whether both are one device, opened once.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }
}

/// What a device is; see [`Cuda::properties`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Its name, as the driver tells it.
    pub name: String,
    /// The major and minor number of its architecture, such as (9, 0).
    pub compute_capability: (usize, usize),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of its second-level cache.
    pub l2_bytes: usize,
    /// Bytes of its memory, free or not.
    pub memory_bytes: usize,
    /// Whether cuBLASLt makes products of matrices; else the crate's own kernel does.
    pub has_cublas_lt: bool,
}

/// The memory of a device in bytes; see [`Cuda::memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What new buffers can have: what other programs have left, and what freed buffers had. It may be in pieces, so that one buffer of
    /// so many bytes does not fit.
    pub free: usize,
    /// All memory, free or not.
    pub total: usize,
    /// What buffers of this handle and its clones have, those of handles that are [counted apart](Cuda::counted_apart) from it too.
    pub used: usize,
    /// The most that they had at once.
    pub most_used: usize,
}

/// Counts the bytes of all buffers of a device, or of some of them.
#[derive(Debug, Default)]
struct Ledger {
    counts: Mutex<Counts>,
    /// What counts these too.
    whole: Option<Arc<Ledger>>,
}

#[derive(Debug)]
struct Counts {
    used: usize,
    most_used: usize,
    limit: usize,
}

impl Default for Counts {
    fn default() -> Self {
        Self { used: 0, most_used: 0, limit: isize::MAX as usize }
    }
}

impl Ledger {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the limits leave for more, and the least of them.
    fn room(&self) -> (usize, usize) {
        let (left, least) = self.whole.as_ref().map_or((usize::MAX, usize::MAX), |whole| whole.room());
        let Counts { used, limit, .. } = *self.counts();
        (left.min(limit.saturating_sub(used)), least.min(limit))
    }

    /// Whether there is room for so many more.
    fn add(&self, bytes: usize) -> bool {
        if self.whole.as_ref().is_some_and(|whole| !whole.add(bytes)) {
            return false;
        }
        let fits = self.add_here(bytes);
        if let (false, Some(whole)) = (fits, &self.whole) {
            whole.remove(bytes);
        }
        fits
    }

    fn add_here(&self, bytes: usize) -> bool {
        let mut counts = self.counts();
        let fits = bytes <= counts.limit.saturating_sub(counts.used);
        if fits {
            counts.used += bytes;
            counts.most_used = counts.most_used.max(counts.used);
        }
        fits
    }

    fn remove(&self, bytes: usize) {
        self.counts().used -= bytes;
        if let Some(whole) = &self.whole {
            whole.remove(bytes);
        }
    }
}

/// Bytes of a device, which are freed in the order of its stream.
#[derive(Debug)]
struct Allocation {
    device: Cuda,
    address: u64,
    bytes: usize,
}

impl Allocation {
    /// Where the device has no memory left, what is idle in its pools is freed first.
    fn new(device: &Cuda, bytes: usize) -> Result<Self> {
        match Self::try_new(device, bytes) {
            Err(Error::OutOfMemory { .. }) => {
                device.pools.let_go();
                Self::try_new(device, bytes)
            }
            made => made,
        }
    }

    fn try_new(device: &Cuda, bytes: usize) -> Result<Self> {
        const OP: &str = "Cuda::unwritten";
        if device.ledger.add(bytes) {
            // Drivers refuse buffers of no bytes.
            match on!(device.driver, driver => driver.alloc(OP, bytes.max(1))) {
                Ok(Some(address)) => return Ok(Self { device: device.clone(), address, bytes }),
                none => {
                    device.ledger.remove(bytes);
                    none?;
                }
            }
        }
        Err(Error::OutOfMemory { op: OP, wanted: bytes, free: device.memory()?.free })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        on!(self.device.driver, driver => driver.free(self.address));
        self.device.ledger.remove(self.bytes);
    }
}

/// Elements in the memory of a CUDA device: `f32`, `f64`, `bf16`, or numbers such as ids and positions.
#[derive(Debug)]
pub struct CudaBuffer<T> {
    memory: Allocation,
    len: usize,
    of: PhantomData<T>,
}

impl<T> CudaBuffer<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All elements, for reading.
    pub fn view(&self) -> View<'_, T> {
        View::of_buffer(self, self.len)
    }

    /// All elements, for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let len = self.len;
        ViewMut::of_buffer(self, len)
    }

    /// The device it is on.
    pub fn device(&self) -> &Cuda {
        &self.memory.device
    }

    /// Queues zeros for all elements.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error.
    pub fn clear(&mut self) -> Result<()> {
        let (device, bytes) = (&self.memory.device, self.len * size_of::<T>());
        if bytes == 0 {
            return Ok(());
        }
        on!(device.driver, driver => driver.zero("CudaBuffer::clear", self.memory.address, bytes))
    }

    /// Where the element `start` is in the memory of the device.
    pub(crate) fn address(&self, start: usize) -> u64 {
        self.memory.address + (start * size_of::<T>()) as u64
    }
}

impl<T: Plain> CudaBuffer<T> {
    /// Copies as many elements as the buffer has to it, in the order of the stream. What they are now is copied, and nothing queued so
    /// far is waited for.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of elements; [`Error::Cuda`] where the driver reports an error.
    pub fn write(&mut self, elements: &[T]) -> Result<()> {
        self.view_mut().write(elements)
    }

    /// Copies all elements of another buffer of the same device and length, in the order of the stream.
    ///
    /// # Errors
    /// [`Error::Length`] for another length, [`Error::MixedDevices`] for another device, [`Error::Cuda`] where the driver reports an error.
    pub fn copy_from(&mut self, from: &Self) -> Result<()> {
        const OP: &str = "CudaBuffer::copy_from";
        check::length(OP, "from", from.len, &[self.len], "as many as there are")?;
        if !self.device().is(from.device()) {
            return Err(Error::MixedDevices { op: OP });
        }
        let bytes = self.len * size_of::<T>();
        on!(self.memory.device.driver, driver => driver.copy(OP, from.memory.address, self.memory.address, bytes))
    }

    /// Waits for the work queued so far and copies the elements to the host.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error, of this copy or of earlier work.
    pub fn download(&self) -> Result<Vec<T>> {
        self.view().download()
    }

    /// Queues a copy of elements to those from `start` on.
    pub(crate) fn write_from(&self, op: &'static str, start: usize, elements: &[T]) -> Result<()> {
        assert!(elements.len() <= self.len - start, "a view is inside of its buffer");
        // SAFETY: a plain type is its bytes.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        on!(self.memory.device.driver, driver => driver.write(op, self.address(start), bytes))
    }

    /// Waits for the work queued so far and copies the elements from `start` on.
    pub(crate) fn read_from(&self, op: &'static str, start: usize, into: &mut [T]) -> Result<()> {
        assert!(into.len() <= self.len - start, "a view is inside of its buffer");
        // SAFETY: a plain type is its bytes, and any bytes are one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<u8>(), size_of_val(into)) };
        on!(self.memory.device.driver, driver => driver.read(op, self.address(start), bytes))
    }
}

/// Queues zeros for every element of an operand on `device`.
pub(crate) fn zero<T>(op: &'static str, device: &Cuda, operand: &mut ViewMut<'_, T>) -> Result<()> {
    match operand.as_view().buffer() {
        Some((buffer, start)) if buffer.device().is(device) => {
            let bytes = operand.len() * size_of::<T>();
            on!(device.driver, driver => driver.zero(op, buffer.address(start), bytes))
        }
        _ => Err(Error::MixedDevices { op }),
    }
}

/// Queues a copy of an operand to another of `device`, as long.
pub(crate) fn copy<T>(op: &'static str, device: &Cuda, to: ViewMut<'_, T>, from: View<'_, T>) -> Result<()> {
    match (to.as_view().buffer(), from.buffer()) {
        (Some((to, at)), Some((source, start))) if to.device().is(device) => {
            let bytes = from.len() * size_of::<T>();
            if bytes == 0 {
                return Ok(());
            }
            on!(device.driver, driver => driver.copy(op, source.address(start), to.address(at), bytes))
        }
        _ => Err(Error::MixedDevices { op }),
    }
}

/// Scratch on a device, which grows.
#[derive(Debug, Default)]
pub(crate) struct DeviceScratch {
    kept: Option<CudaBuffer<u8>>,
}

impl DeviceScratch {
    /// The address of at least `bytes` bytes with arbitrary contents, aligned as every buffer is.
    pub(crate) fn at_least(&mut self, device: &Cuda, bytes: usize) -> Result<u64> {
        let fits = |kept: &CudaBuffer<u8>| kept.device().is(device) && kept.len() >= bytes;
        if !self.kept.as_ref().is_some_and(fits) {
            // Not both at once.
            self.kept = None;
            self.kept = Some(device.unwritten(bytes)?);
        }
        Ok(self.kept.as_ref().expect("just made").address(0))
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_feature_says_so() {
        let error = Cuda::new(0).unwrap_err();
        assert!(error.to_string().contains("feature `cuda`"), "{error}");
    }
}
