//! A call of a kernel: its arguments in the order of its parameters, then the launch.
use std::ffi::c_void;

use super::{Cuda, Driver, on};
use crate::{Element, Error, Float, Result, View, ViewMut};

/// Blocks and threads of a launch. Shared memory whose size is known when kernels are compiled is not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) shared_bytes: u32,
}

impl Grid {
    /// Blocks and threads along one axis.
    pub(crate) fn line(blocks: usize, threads: usize) -> Self {
        Self { blocks: [blocks as u32, 1, 1], threads: [threads as u32, 1, 1], shared_bytes: 0 }
    }
}

/// More parameters than any kernel has.
const MOST: usize = 32;

/// Arguments of a kernel. Operands on another device than the call's are told at the launch.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    op: &'static str,
    device: &'a Cuda,
    /// Each argument from the first byte of a word, which is where the driver reads it.
    words: [u64; MOST],
    len: usize,
    is_mixed: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(op: &'static str, device: &'a Cuda) -> Self {
        Self { op, device, words: [0; MOST], len: 0, is_mixed: false }
    }

    /// An operand that is read. One of no elements may be anywhere.
    pub(crate) fn read<T>(mut self, operand: View<'_, T>) -> Self {
        if operand.is_empty() {
            return self.word(0);
        }
        match operand.buffer() {
            Some((buffer, start)) if buffer.device().is(self.device) => self.word(buffer.address(start)),
            _ => {
                self.is_mixed = true;
                self
            }
        }
    }

    /// An operand that is written.
    pub(crate) fn write<T>(self, operand: &mut ViewMut<'_, T>) -> Self {
        self.read(operand.as_view())
    }

    /// An operand that may be absent: a null pointer.
    pub(crate) fn read_if<T>(self, operand: Option<View<'_, T>>) -> Self {
        match operand {
            Some(operand) => self.read(operand),
            None => self.word(0),
        }
    }

    /// An operand that is written where it is there.
    pub(crate) fn write_if<T>(self, operand: Option<&mut ViewMut<'_, T>>) -> Self {
        self.read_if(operand.map(|operand| operand.as_view()))
    }

    /// A parameter of type `Index`, or an address.
    pub(crate) fn word(mut self, word: u64) -> Self {
        self.words[self.len] = word;
        self.len += 1;
        self
    }

    /// A parameter of type `Index`.
    pub(crate) fn index(self, index: usize) -> Self {
        self.word(index as u64)
    }

    /// A parameter of type `int` that is a flag.
    pub(crate) fn flag(self, flag: bool) -> Self {
        self.bytes(&i32::from(flag).to_ne_bytes())
    }

    /// A parameter of type `double`.
    pub(crate) fn double(self, value: f64) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// A parameter of the type of the arithmetic, rounded to it.
    pub(crate) fn rounded<T: Float>(self, value: f64) -> Self {
        if size_of::<T>() == size_of::<f32>() { self.bytes(&(value as f32).to_ne_bytes()) } else { self.double(value) }
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        self.word(u64::from_ne_bytes(word))
    }

    /// Refuses operands on another device than the call's, for what is queued before the launch.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_mixed { Err(Error::MixedDevices { op: self.op }) } else { Ok(()) }
    }

    /// Queues the kernel of this name.
    ///
    /// The arguments are those of its parameters, as every kernel's test shows in the emulation; views are as long as their ops have
    /// checked.
    pub(crate) fn launch(mut self, kernel: &str, grid: Grid) -> Result<()> {
        self.check()?;
        let words = &mut self.words[..self.len];
        let mut arguments = [std::ptr::null_mut::<c_void>(); MOST];
        for (argument, word) in arguments.iter_mut().zip(words) {
            *argument = std::ptr::from_mut(word).cast();
        }
        on!(self.device.driver, driver => driver.launch(self.op, kernel, grid, &mut arguments[..self.len]))
    }
}

/// The name of the kernel for these operands, and how many elements each of its threads handles at once: whole packs of 16 bytes where
/// every row begins on one.
pub(crate) fn lanes<T: Element>(kernel: &str, row: usize, operands: &[Option<View<'_, T>>]) -> (String, usize) {
    lanes_beside(kernel, row, operands, &[])
}

/// As [`lanes`], beside operands of as long rows in the type of the arithmetic.
pub(crate) fn lanes_beside<T: Element>(
    kernel: &str,
    row: usize,
    operands: &[Option<View<'_, T>>],
    wide: &[View<'_, T::Wide>],
) -> (String, usize) {
    let width = 16 / size_of::<T>();
    let mut all = operands.iter().flatten().map(|view| begins_on_pack(*view));
    let mut all_wide = wide.iter().map(|view| begins_on_pack(*view));
    if row.is_multiple_of(width) && all.all(|begins| begins) && all_wide.all(|begins| begins) {
        (format!("{kernel}_packed_{}", T::NAME), width)
    } else {
        (format!("{kernel}_{}", T::NAME), 1)
    }
}

/// An operand that is on no device does: the launch refuses it.
fn begins_on_pack<T>(view: View<'_, T>) -> bool {
    view.buffer().is_none_or(|(buffer, start)| buffer.address(start).is_multiple_of(16))
}
