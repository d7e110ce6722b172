//! Page-locked memory of the host, by way of which copies to and from a device are queued. For a copy from other memory the host would
//! wait until all that was queued before is done.
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};

/// Bytes of a half, and of a copy: what is longer goes in pieces.
const HALF: usize = 8 << 20;
/// What the room of a copy begins on a multiple of.
const ALIGNMENT: usize = 64;

/// Two halves that are filled in turn, each by one copy behind the other. Before a half is filled anew its copies are waited for; all that
/// the other half holds was queued since.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    halves: [Half; 2],
    current: usize,
    /// Bytes of the current half that copies have.
    used: usize,
}

struct Half {
    memory: *mut u8,
    /// All copies of the half, once it is left.
    copied: CudaEvent,
}

// SAFETY: memory of the host, which whoever has the half reads and writes alone.
unsafe impl Send for Half {}

impl Staging {
    /// The context of the stream is bound to the thread, here and below and when this is dropped.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let halves = [Half::new(stream)?, Half::new(stream)?];
        Ok(Self { stream: stream.clone(), halves, current: 0, used: 0 })
    }

    /// Queues a copy of what `bytes` are now.
    ///
    /// # Safety
    /// `address` is memory of the device, of at least as many bytes.
    pub(super) unsafe fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        for (piece, to) in bytes.chunks(HALF).zip((address..).step_by(HALF)) {
            let at = self.room(piece.len())?;
            // SAFETY: room of as many bytes, which nobody writes before the copy is done; memory of the device, says the caller.
            unsafe {
                at.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                let room = std::slice::from_raw_parts(at, piece.len());
                result::memcpy_htod_async(to, room, self.stream.cu_stream())?;
            }
        }
        Ok(())
    }

    /// Copies to `bytes`, once all that was queued before is done.
    ///
    /// # Safety
    /// As of [`Staging::write`].
    pub(super) unsafe fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        // A piece is copied on while the next one comes into the other half.
        let mut before: Option<(&mut [u8], *mut u8)> = None;
        for (piece, from) in bytes.chunks_mut(HALF).zip((address..).step_by(HALF)) {
            let at = self.room(piece.len())?;
            // SAFETY: room of as many bytes, which nobody reads before the copy is done; memory of the device, says the caller.
            unsafe {
                let room = std::slice::from_raw_parts_mut(at, piece.len());
                result::memcpy_dtoh_async(room, from, self.stream.cu_stream())?;
            }
            if let Some((piece, room)) = before.replace((piece, at)) {
                // It filled a half, which was left when there was to be room for this one.
                self.halves[1 - self.current].copied.synchronize()?;
                // SAFETY: room of as many bytes, whose copy is done.
                unsafe { piece.as_mut_ptr().copy_from_nonoverlapping(room, piece.len()) };
            }
        }
        if let Some((piece, room)) = before {
            self.stream.synchronize()?;
            // SAFETY: as above.
            unsafe { piece.as_mut_ptr().copy_from_nonoverlapping(room, piece.len()) };
        }
        Ok(())
    }

    /// Room for `len` bytes, at most a half, of which every copy is done.
    fn room(&mut self, len: usize) -> Result<*mut u8, DriverError> {
        if HALF - self.used < len {
            self.halves[self.current].copied.record(&self.stream)?;
            self.halves[1 - self.current].copied.synchronize()?;
            (self.current, self.used) = (1 - self.current, 0);
        }
        // SAFETY: inside of the half.
        let at = unsafe { self.halves[self.current].memory.add(self.used) };
        self.used += len.next_multiple_of(ALIGNMENT);
        Ok(at)
    }
}

impl Half {
    fn new(stream: &CudaStream) -> Result<Self, DriverError> {
        let copied = stream.context().new_event(None)?;
        // SAFETY: written before it is read: by zeros.
        let memory = unsafe {
            let memory = result::malloc_host(HALF, 0)?.cast::<u8>();
            memory.write_bytes(0, HALF);
            memory
        };
        Ok(Self { memory, copied })
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // SAFETY: of `malloc_host`; what is queued is done, as `Driver` sees to.
        let _ = unsafe { result::free_host(self.memory.cast()) };
    }
}
