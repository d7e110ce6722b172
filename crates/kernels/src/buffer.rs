//! Operands that are owned, on whichever device they are.
use std::borrow::Cow;
use std::mem;

use crate::cuda::{self, Cuda, CudaBuffer};
use crate::float::sealed::Plain;
use crate::{Element, Error, Result, View, ViewMut};

/// Elements on the host or on a device, as an op wants them.
#[derive(Debug)]
pub enum Buffer<T> {
    /// In the memory of the host.
    Host(Vec<T>),
    /// In the memory of a CUDA device.
    Cuda(CudaBuffer<T>),
}

impl<T> Buffer<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(elements) => elements.len(),
            Self::Cuda(buffer) => buffer.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device, where it is not the host.
    pub fn device(&self) -> Option<&Cuda> {
        match self {
            Self::Host(_) => None,
            Self::Cuda(buffer) => Some(buffer.device()),
        }
    }

    /// All elements, for reading.
    pub fn view(&self) -> View<'_, T> {
        match self {
            Self::Host(elements) => elements.into(),
            Self::Cuda(buffer) => buffer.view(),
        }
    }

    /// All elements, for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        match self {
            Self::Host(elements) => elements.into(),
            Self::Cuda(buffer) => buffer.view_mut(),
        }
    }

    /// The elements, for `op`, which reads them on the host.
    ///
    /// # Errors
    /// [`Error::NoKernel`] where they are on a device.
    pub fn host(&self, op: &'static str) -> Result<&[T]> {
        match self {
            Self::Host(elements) => Ok(elements),
            Self::Cuda(_) => Err(Error::NoKernel { op, device: cuda::NAME }),
        }
    }

    /// The elements, for `op`, which changes them on the host.
    ///
    /// # Errors
    /// [`Error::NoKernel`] where they are on a device.
    pub fn host_mut(&mut self, op: &'static str) -> Result<&mut [T]> {
        match self {
            Self::Host(elements) => Ok(elements),
            Self::Cuda(_) => Err(Error::NoKernel { op, device: cuda::NAME }),
        }
    }
}

impl<T: Plain> Buffer<T> {
    /// A copy of the elements on `device`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the device has no memory left, [`Error::Cuda`] where its driver reports an error.
    pub fn upload(elements: &[T], device: &Cuda) -> Result<Self> {
        Ok(Self::Cuda(device.upload(elements)?))
    }

    /// A copy of the elements on the host. Of those of a device it waits for the work that was queued.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error, of this copy or of earlier work.
    pub fn to_host(&self) -> Result<Vec<T>> {
        match self {
            Self::Host(elements) => Ok(elements.clone()),
            Self::Cuda(buffer) => buffer.download(),
        }
    }
}

impl<T: Element> Buffer<T> {
    /// `len` zeros, on `device` or on the host.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the device has no memory left, [`Error::Cuda`] where its driver reports an error.
    pub fn zeros(len: usize, device: Option<&Cuda>) -> Result<Self> {
        let Some(device) = device else { return Ok(Self::Host(T::zeros(len))) };
        let mut buffer = Self::Cuda(device.unwritten(len)?);
        buffer.clear()?;
        Ok(buffer)
    }

    /// The elements on the host in the type of the arithmetic, without a copy where they are that already.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error, of this copy or of earlier work.
    pub fn to_wide(&self) -> Result<Cow<'_, [T::Wide]>> {
        match self {
            Self::Host(elements) => {
                Ok(T::wide(elements).map_or_else(|| Cow::Owned(T::widened(elements.clone())), Cow::Borrowed))
            }
            Self::Cuda(buffer) => Ok(Cow::Owned(T::widened(buffer.download()?))),
        }
    }

    /// As [`to_wide`](Self::to_wide), giving up the buffer.
    ///
    /// # Errors
    /// As [`to_wide`](Self::to_wide).
    pub fn into_wide(self) -> Result<Vec<T::Wide>> {
        match self {
            Self::Host(elements) => Ok(T::widened(elements)),
            Self::Cuda(buffer) => Ok(T::widened(buffer.download()?)),
        }
    }

    /// As many elements with the same values, where they are.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the device has no memory left, [`Error::Cuda`] where its driver reports an error.
    pub fn copied(&self) -> Result<Self> {
        match self {
            Self::Host(elements) => {
                let mut copy = T::zeros(elements.len());
                copy.copy_from_slice(elements);
                Ok(Self::Host(copy))
            }
            Self::Cuda(buffer) => {
                let mut copy = buffer.device().unwritten(buffer.len())?;
                copy.copy_from(buffer)?;
                Ok(Self::Cuda(copy))
            }
        }
    }

    /// Sets every element to zero. Large buffers of the host give their memory back to the system, and take it again where they are
    /// written.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error.
    pub fn clear(&mut self) -> Result<()> {
        match self {
            Self::Host(elements) => {
                let len = mem::take(elements).len();
                *elements = T::zeros(len);
                Ok(())
            }
            Self::Cuda(buffer) => buffer.clear(),
        }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self::Host(Vec::new())
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(elements: Vec<T>) -> Self {
        Self::Host(elements)
    }
}

impl<T> From<CudaBuffer<T>> for Buffer<T> {
    fn from(buffer: CudaBuffer<T>) -> Self {
        Self::Cuda(buffer)
    }
}

impl<'a, T> From<&'a Buffer<T>> for View<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        buffer.view()
    }
}

impl<'a, T> From<&'a mut Buffer<T>> for ViewMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        buffer.view_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_the_host_is_its_elements() {
        let mut buffer = Buffer::from(vec![1.0f32, 2.0]);
        assert_eq!((buffer.len(), buffer.device().is_none()), (2, true));
        buffer.host_mut("test").unwrap()[0] = 3.0;
        assert_eq!(buffer.to_host().unwrap(), [3.0, 2.0]);
        buffer.clear().unwrap();
        assert_eq!(buffer.host("test").unwrap(), [0.0, 0.0]);
    }
}
