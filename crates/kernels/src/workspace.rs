//! Scratch and threads, lent to every op.
use std::fmt;

use crate::attention::Block;
use crate::cuda::{Cuda, DevicePool, DeviceScratch};
use crate::float::sealed::Scratch;
use crate::pages::zeros;
use crate::parallel::Crew;
#[cfg(doc)]
use crate::shelf::Shelf;
use crate::{Buffer, Element, Float, Result};

/// Starting more takes minutes and helps nobody.
const MOST_THREADS: usize = 1024;

/// Scratch buffers and a crew of threads. One workspace serves one caller at a time; ops return what they take from it,
/// so after the first step of a size no scratch is allocated again.
#[derive(Default)]
pub struct Workspace {
    scratch: Scratch,
    crew: Crew,
    pub(crate) blocks: Vec<Block>,
    pub(crate) device_scratch: DeviceScratch,
    pool: Option<DevicePool>,
}

impl Workspace {
    /// A workspace whose ops run on `threads` threads, at most 1024; 0 means as many as the machine runs at once.
    ///
    /// Where threads cannot be started (WebAssembly, or a system that refuses), ops run on the caller's;
    /// [`Workspace::threads`] tells.
    pub fn new(threads: usize) -> Self {
        Self { crew: Crew::new(threads.min(MOST_THREADS)), ..Self::default() }
    }

    /// The same workspace for ops on `device`: [`Workspace::lend`] lends buffers there.
    #[must_use]
    pub fn on(self, device: &Cuda) -> Self {
        Self { pool: Some(DevicePool::new(device)), ..self }
    }

    /// The device whose buffers it lends, where it is not the host.
    pub fn device(&self) -> Option<&Cuda> {
        self.pool.as_ref().map(DevicePool::device)
    }

    /// Lends a buffer of `len` elements with arbitrary contents where the ops of this workspace run; [`Workspace::reclaim`] takes it
    /// back. Buffers of a device are parts of one pool for all element types, which keeps what it has; where the device has no memory
    /// left, what is idle is freed first.
    ///
    /// # Errors
    /// [`Error::Narrow`](crate::Error::Narrow) for `bf16` on the host; [`Error::OutOfMemory`](crate::Error::OutOfMemory) where the device
    /// has no memory left.
    pub fn lend<T: Element>(&mut self, len: usize) -> Result<Buffer<T>> {
        match &mut self.pool {
            Some(pool) => Ok(Buffer::Cuda(pool.lend(len)?)),
            None => Ok(Buffer::Host(T::lend(self, len)?)),
        }
    }

    /// As [`Workspace::lend`], all zeros.
    ///
    /// # Errors
    /// As [`Workspace::lend`].
    pub fn lend_zeros<T: Element>(&mut self, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.lend(len)?;
        match &mut buffer {
            Buffer::Host(elements) => elements.fill(T::default()),
            Buffer::Cuda(elements) => elements.clear()?,
        }
        Ok(buffer)
    }

    /// Takes a buffer back for later use.
    pub fn reclaim<T: Element>(&mut self, buffer: Buffer<T>) {
        match (buffer, &mut self.pool) {
            (Buffer::Host(elements), _) => T::reclaim(self, elements),
            (Buffer::Cuda(buffer), Some(pool)) => pool.reclaim(buffer),
            (Buffer::Cuda(_), None) => {}
        }
    }

    /// Takes several buffers back.
    pub fn reclaim_all<T: Element>(&mut self, buffers: impl IntoIterator<Item = Buffer<T>>) {
        buffers.into_iter().for_each(|buffer| self.reclaim(buffer));
    }

    /// The number of threads that ops run on.
    pub fn threads(&self) -> usize {
        self.crew.threads()
    }

    /// Lends a buffer of `len` elements with arbitrary contents; [`Workspace::give_back`] returns it.
    ///
    /// It is one that was returned, if one suits, else a new one ([`Shelf`] says when). So the buffers of steps of similar sizes are
    /// the same ones, and those of other sizes do not pile up.
    pub fn take<T: Float>(&mut self, len: usize) -> Vec<T> {
        // Nothing of what is let go is wanted in the new place; fresh zeros are not written before somebody does.
        let Some(mut buffer) = T::buffers(&mut self.scratch).take(len, drop) else { return zeros(len) };
        if buffer.len() > len {
            buffer.truncate(len);
        } else {
            buffer.resize(len, T::ZERO);
        }
        buffer
    }

    /// As [`Workspace::take`], all zeros.
    pub fn take_zeros<T: Float>(&mut self, len: usize) -> Vec<T> {
        let mut buffer = self.take(len);
        buffer.fill(T::ZERO);
        buffer
    }

    /// Returns a buffer for later use.
    pub fn give_back<T: Float>(&mut self, buffer: Vec<T>) {
        T::buffers(&mut self.scratch).give_back(buffer);
    }

    /// Elements of all returned buffers of this type.
    pub fn idle_elements<T: Float>(&mut self) -> usize {
        T::buffers(&mut self.scratch).idle_elements()
    }

    /// Elements of all buffers of this type that are lent.
    pub fn lent_elements<T: Float>(&mut self) -> usize {
        T::buffers(&mut self.scratch).lent_elements()
    }

    /// Returns several buffers.
    pub fn give_back_all<T: Float>(&mut self, buffers: impl IntoIterator<Item = Vec<T>>) {
        buffers.into_iter().for_each(|buffer| self.give_back(buffer));
    }

    /// Lends the buffer that factors of products are packed into, at least `len` elements with arbitrary contents.
    pub(crate) fn take_packing<T: Float>(&mut self, len: usize) -> Vec<T> {
        let packing = std::mem::take(T::packing(&mut self.scratch));
        if packing.len() >= len {
            return packing;
        }
        drop(packing);
        zeros(len)
    }

    /// Returns what [`Workspace::take_packing`] lent.
    pub(crate) fn give_back_packing<T: Float>(&mut self, packing: Vec<T>) {
        *T::packing(&mut self.scratch) = packing;
    }

    pub(crate) fn crew(&self) -> Crew {
        self.crew.clone()
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again() {
        let mut ws = Workspace::new(1);
        let buffer = ws.take::<f32>(100);
        let address = buffer.as_ptr();
        ws.give_back(buffer);
        let again = ws.take::<f32>(60);
        assert_eq!((again.as_ptr(), again.len()), (address, 60));
        ws.give_back(again);
        let grown = ws.take::<f32>(100);
        assert_eq!(grown.as_ptr(), address);
    }

    #[test]
    fn a_large_buffer_is_not_lent_for_a_small_one() {
        let mut ws = Workspace::new(1);
        // Much is lent besides, so that nothing has to be let go.
        let besides = ws.take::<f32>(1000);
        let buffer = ws.take::<f32>(100);
        let address = buffer.as_ptr();
        ws.give_back(buffer);
        let small = ws.take::<f32>(40);
        assert_eq!(small.len(), 40);
        assert_ne!(small.as_ptr(), address);
        let large = ws.take::<f32>(90);
        assert_eq!((large.as_ptr(), besides.len()), (address, 1000));
    }

    #[test]
    fn a_buffer_that_is_too_small_is_replaced() {
        let mut ws = Workspace::new(1);
        let buffer = ws.take::<f32>(100);
        ws.give_back(buffer);
        let larger = ws.take::<f32>(150);
        assert_eq!(larger.len(), 150);
        assert_eq!((ws.idle_elements::<f32>(), ws.lent_elements::<f32>()), (0, 150));
    }
}
