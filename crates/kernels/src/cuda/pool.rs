//! Memory of a device that waits to be lent again.
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Allocation, Cuda, CudaBuffer};
use crate::float::sealed::Plain;
use crate::{Lendable, Result, Shelf};

/// Bytes of which buffers that a workspace lends on a device have a whole multiple, so that they serve elements of any type and size.
pub const DEVICE_GRAIN: usize = 256;

/// Bytes that were lent and came back, with as many as were asked for.
#[derive(Debug)]
pub(super) struct Idle {
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
    shelf: Arc<Mutex<Shelf<Idle>>>,
}

/// All pools of a device, which give up what is idle where it has no memory left.
#[derive(Debug, Default)]
pub(super) struct Pools(Mutex<Vec<Weak<Mutex<Shelf<Idle>>>>>);

impl Pools {
    fn add(&self, shelf: &Arc<Mutex<Shelf<Idle>>>) {
        let mut pools = lock(&self.0);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(shelf));
    }

    /// Frees what is idle.
    pub(super) fn let_go(&self) {
        let pools: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        pools.iter().for_each(|shelf| lock(shelf).let_all_go());
    }
}

impl DevicePool {
    pub(crate) fn new(device: &Cuda) -> Self {
        let shelf = Arc::default();
        device.pools.add(&shelf);
        Self { device: device.clone(), shelf }
    }

    pub(crate) fn device(&self) -> &Cuda {
        &self.device
    }

    pub(crate) fn lend<T: Plain>(&mut self, len: usize) -> Result<CudaBuffer<T>> {
        let asked = bytes_of::<T>(len);
        // The lock is not held while memory is made, which may have to empty this pool too.
        let found = lock(&self.shelf).take(asked, drop);
        let memory = match found {
            Some(idle) => idle.memory,
            None => Allocation::new(&self.device, asked).inspect_err(|_| lock(&self.shelf).take_back(asked))?,
        };
        Ok(CudaBuffer { memory, len, of: PhantomData })
    }

    pub(crate) fn reclaim<T: Plain>(&mut self, buffer: CudaBuffer<T>) {
        let CudaBuffer { memory, len, .. } = buffer;
        if memory.device.is(&self.device) {
            lock(&self.shelf).give_back(Idle { memory, asked: bytes_of::<T>(len) });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes_of<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(DEVICE_GRAIN)
}
