//! Memory of a device that waits to be lent again.
use std::marker::PhantomData;

use super::{Allocation, Cuda, CudaBuffer};
use crate::float::sealed::Plain;
use crate::{Error, Lendable, Result, Shelf};

/// Where buffers begin and end, so that their bytes serve elements of any type and size.
const GRAIN: usize = 256;

/// Bytes that were lent and came back, with as many as were asked for.
#[derive(Debug)]
struct Idle {
    memory: Allocation,
    asked: usize,
}

impl Lendable for Idle {
    fn capacity(&self) -> usize {
        self.memory.bytes
    }

    fn len(&self) -> usize {
        self.asked
    }
}

/// Buffers of a device for elements of all types. What is lent again is not waited for: the stream has one order.
#[derive(Debug)]
pub(crate) struct DevicePool {
    device: Cuda,
    shelf: Shelf<Idle>,
}

impl DevicePool {
    pub(crate) fn new(device: &Cuda) -> Self {
        Self { device: device.clone(), shelf: Shelf::default() }
    }

    pub(crate) fn device(&self) -> &Cuda {
        &self.device
    }

    pub(crate) fn lend<T: Plain>(&mut self, len: usize) -> Result<CudaBuffer<T>> {
        let asked = bytes_of::<T>(len);
        let memory = match self.shelf.take(asked, drop) {
            Some(idle) => idle.memory,
            None => match Allocation::new(&self.device, asked) {
                Err(Error::OutOfMemory { .. }) => {
                    self.shelf.let_all_go();
                    Allocation::new(&self.device, asked)?
                }
                allocated => allocated?,
            },
        };
        Ok(CudaBuffer { memory, len, of: PhantomData })
    }

    pub(crate) fn reclaim<T: Plain>(&mut self, buffer: CudaBuffer<T>) {
        let CudaBuffer { memory, len, .. } = buffer;
        if memory.device.is(&self.device) {
            self.shelf.give_back(Idle { memory, asked: bytes_of::<T>(len) });
        }
    }
}

fn bytes_of<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(GRAIN)
}
