//! Devices and buffers through the CUDA driver, which is loaded when the first device is opened.
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, DriverError, sys};
use cudarc::nvrtc::Ptx;

use crate::{Error, Float, Result};

const RMS_NORM: &str = include_str!(concat!(env!("OUT_DIR"), "/rms_norm.ptx"));

/// Every kernel, loaded when a device is opened so that none can be missing later.
const KERNELS: [&str; 6] = [
    "rms_norm_forward_f32",
    "rms_norm_forward_f64",
    "rms_norm_backward_f32",
    "rms_norm_backward_f64",
    "rms_norm_sum_parts_f32",
    "rms_norm_sum_parts_f64",
];

#[derive(Clone)]
pub(crate) struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.inner.stream.context().ordinal())
    }
}

impl Device {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        const OP: &str = "Cuda::new";
        // SAFETY: loading the driver library runs its initialisers, as any use of CUDA does.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDevice { reason: "the cuda driver is not installed (no libcuda)".into() });
        }
        let context = CudaContext::new(ordinal)
            .map_err(|error| Error::NoDevice { reason: format!("device {ordinal} cannot be opened: {error}") })?;
        let stream = context.new_stream().map_err(refused(OP))?;
        let module = context.load_module(Ptx::from_src(RMS_NORM)).map_err(refused(OP))?;
        let functions = KERNELS
            .into_iter()
            .map(|name| Ok((name, module.load_function(name).map_err(refused(OP))?)))
            .collect::<Result<_>>()?;
        Ok(Self { inner: Arc::new(Inner { stream, functions }) })
    }

    pub(super) fn upload<T: Float>(&self, elements: &[T]) -> Result<Buffer<T>> {
        const OP: &str = "Cuda::upload";
        // The driver refuses buffers of no bytes.
        let slice = if elements.is_empty() {
            self.inner.stream.clone_htod(&[T::ZERO])
        } else {
            self.inner.stream.clone_htod(elements)
        };
        Ok(Buffer { device: self.clone(), slice: slice.map_err(refused(OP))?, len: elements.len() })
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    /// The kernel of this name for elements of `T`.
    pub(crate) fn function<T: Float>(&self, name: &str) -> &CudaFunction {
        let name = format!("{name}_{}", T::NAME);
        self.inner.functions.get(name.as_str()).expect("every kernel is in the list of kernels")
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

#[derive(Debug)]
pub(crate) struct Buffer<T> {
    device: Device,
    slice: CudaSlice<T>,
    len: usize,
}

impl<T> Buffer<T> {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn slice(&self) -> &CudaSlice<T> {
        &self.slice
    }

    pub(crate) fn slice_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.slice
    }
}

impl<T: DeviceRepr> Buffer<T> {
    pub(super) fn download(&self) -> Result<Vec<T>> {
        const OP: &str = "CudaBuffer::download";
        let mut elements = self.device.stream().clone_dtoh(&self.slice).map_err(refused(OP))?;
        elements.truncate(self.len);
        Ok(elements)
    }
}

/// Scratch on a device.
#[derive(Debug)]
pub(crate) struct Bytes {
    device: Device,
    slice: CudaSlice<u8>,
}

impl Bytes {
    /// At least `len` bytes with arbitrary contents, from `kept` where that is large enough and on the device.
    pub(crate) fn at_least<'a>(
        kept: &'a mut Option<Self>,
        op: &'static str,
        device: &Device,
        len: usize,
    ) -> Result<&'a mut CudaSlice<u8>> {
        if !kept.as_ref().is_some_and(|bytes| bytes.device.is(device) && bytes.slice.len() >= len) {
            let slice = device.stream().alloc_zeros(len.max(1)).map_err(refused(op))?;
            *kept = Some(Self { device: device.clone(), slice });
        }
        Ok(&mut kept.as_mut().expect("just made").slice)
    }
}

/// An error of the driver, during `op`.
pub(crate) fn refused(op: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { op, reason: error.to_string() }
}
