//! Launches of kernels by their names, without an op, on memory of the emulation.
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{PoisonError, RwLockWriteGuard};

use crate::harness::{AS_THEY_ARE, Library, library};

/// The library of kernels, while nobody else runs one.
pub(crate) struct Direct {
    library: &'static Library,
    _alone: RwLockWriteGuard<'static, ()>,
}

/// Where there is a compiler.
pub(crate) fn direct() -> Option<Direct> {
    let library = library()?;
    Some(Direct { library, _alone: AS_THEY_ARE.write().unwrap_or_else(PoisonError::into_inner) })
}

impl Direct {
    /// A buffer with these elements.
    pub(crate) fn upload<T: Copy>(&self, elements: &[T]) -> Memory<'_> {
        let memory = self.unwritten(size_of_val(elements));
        // SAFETY: a new buffer of as many bytes.
        unsafe { memory.address.cast::<T>().copy_from_nonoverlapping(elements.as_ptr(), elements.len()) };
        memory
    }

    pub(crate) fn unwritten(&self, bytes: usize) -> Memory<'_> {
        type Alloc = unsafe extern "C" fn(usize) -> *mut c_void;
        // SAFETY: the function of this name.
        let address =
            unsafe { std::mem::transmute::<*mut c_void, Alloc>(self.library.symbol(c"emulated_alloc"))(bytes) };
        Memory { direct: self, address, bytes }
    }

    /// How many pairs of rows of matrices met in a bank of shared memory during the last launch.
    pub(crate) fn conflicts(&self) -> i32 {
        type Conflicts = unsafe extern "C" fn() -> c_int;
        // SAFETY: the function of this name.
        unsafe { std::mem::transmute::<*mut c_void, Conflicts>(self.library.symbol(c"emulated_conflicts"))() }
    }

    /// Runs a kernel whose parameters are words, or the first bytes of words; the error's text where it fails.
    pub(crate) fn launch(
        &self,
        kernel: &str,
        blocks: [u32; 3],
        threads: u32,
        is_descending: bool,
        words: &[u64],
    ) -> Result<(), String> {
        type Launch = unsafe extern "C" fn(
            *const c_char,
            *const u32,
            *const u32,
            usize,
            *mut *mut c_void,
            c_int,
        ) -> *const c_char;
        let (name, mut words) = (CString::new(kernel).unwrap(), words.to_vec());
        let mut arguments: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast::<c_void>()).collect();
        let (threads, order) = ([threads, 1, 1], c_int::from(is_descending));
        // SAFETY: the function of this name; the caller gives as many words as the kernel has parameters.
        let error = unsafe {
            let launch = std::mem::transmute::<*mut c_void, Launch>(self.library.symbol(c"emulated_launch"));
            launch(name.as_ptr(), blocks.as_ptr(), threads.as_ptr(), 0, arguments.as_mut_ptr(), order)
        };
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: words that stay until the next launch.
        Err(unsafe { CStr::from_ptr(error) }.to_str().unwrap().to_owned())
    }
}

/// A buffer, which is freed at the end.
pub(crate) struct Memory<'a> {
    direct: &'a Direct,
    address: *mut c_void,
    bytes: usize,
}

impl Memory<'_> {
    /// The address of a byte.
    pub(crate) fn at(&self, byte: usize) -> u64 {
        self.address as u64 + byte as u64
    }

    pub(crate) fn download<T: Copy>(&self) -> Vec<T> {
        // SAFETY: the buffer is filled when it is made, and has this many elements.
        unsafe { std::slice::from_raw_parts(self.address.cast::<T>(), self.bytes / size_of::<T>()) }.to_vec()
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        type Free = unsafe extern "C" fn(*mut c_void);
        // SAFETY: the function of this name; a buffer is freed once.
        unsafe { std::mem::transmute::<*mut c_void, Free>(self.direct.library.symbol(c"emulated_free"))(self.address) };
    }
}
