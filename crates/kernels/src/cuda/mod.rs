//! A CUDA device and buffers on it. The types exist in every build; without the feature `cuda` no value of them does.
#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod present;

#[cfg(not(feature = "cuda"))]
use absent as back;
#[cfg(feature = "cuda")]
use present as back;

#[cfg(feature = "cuda")]
pub(crate) use present::{Bytes, Device, refused};

use crate::{Float, Result, View, ViewMut};

/// What errors call the device.
pub(crate) const NAME: &str = "cuda";

/// A CUDA device with one stream, on which all work of its buffers is queued in order.
#[derive(Debug, Clone)]
pub struct Cuda {
    back: back::Device,
}

impl Cuda {
    /// Opens the device with this number, counted from 0.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] where the crate was built without the feature `cuda`, the driver is not installed, or
    /// there is no such device; [`crate::Error::Cuda`] where the driver refuses the kernels.
    pub fn new(ordinal: usize) -> Result<Self> {
        Ok(Self { back: back::Device::new(ordinal)? })
    }

    /// Copies elements to a new buffer on the device.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] where the driver reports an error, such as no memory.
    pub fn upload<T: Float>(&self, elements: &[T]) -> Result<CudaBuffer<T>> {
        Ok(CudaBuffer { back: self.back.upload(elements)?, len: elements.len() })
    }
}

/// Elements in the memory of a CUDA device.
#[derive(Debug)]
pub struct CudaBuffer<T> {
    back: back::Buffer<T>,
    len: usize,
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

    #[cfg(feature = "cuda")]
    pub(crate) fn back(&self) -> &back::Buffer<T> {
        &self.back
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn back_mut(&mut self) -> &mut back::Buffer<T> {
        &mut self.back
    }
}

impl<T: Float> CudaBuffer<T> {
    /// Waits for the work queued so far and copies the elements to the host.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] where the driver reports an error, of this copy or of earlier work.
    pub fn download(&self) -> Result<Vec<T>> {
        self.back.download()
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
