//! Borrowed operands, on whichever device they are.
use std::ops::Range;

use crate::cuda::{self, Cuda, CudaBuffer};
use crate::float::sealed::Plain;
use crate::{Element, Error, Result, check};

/// A borrowed operand that an op reads: a slice on the CPU or a range of a [`CudaBuffer`].
#[derive(Debug)]
pub struct View<'a, T> {
    repr: Repr<&'a [T], &'a CudaBuffer<T>>,
}

/// A borrowed operand that an op writes: a slice on the CPU or a range of a [`CudaBuffer`].
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    // The elements of a device are no memory of the host: parts of one buffer that do not overlap share its handle.
    repr: Repr<&'a mut [T], &'a CudaBuffer<T>>,
}

#[derive(Debug, Clone, Copy)]
enum Repr<S, B> {
    Cpu(S),
    Cuda {
        buffer: B,
        start: usize,
        len: usize,
    },
    /// Stands for a device of which no op has a kernel, so that tests see the refusals on any machine.
    #[cfg(test)]
    Elsewhere(usize),
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.repr {
            Repr::Cpu(slice) => slice.len(),
            Repr::Cuda { len, .. } => *len,
            #[cfg(test)]
            Repr::Elsewhere(len) => *len,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part in `range`.
    ///
    /// # Errors
    /// [`Error::Shape`] where `range` is not inside.
    pub fn part(self, range: Range<usize>) -> Result<Self> {
        inside(&range, self.len())?;
        let repr = match self.repr {
            Repr::Cpu(slice) => Repr::Cpu(&slice[range]),
            Repr::Cuda { buffer, start, .. } => Repr::Cuda { buffer, start: start + range.start, len: range.len() },
            #[cfg(test)]
            Repr::Elsewhere(_) => Repr::Elsewhere(range.len()),
        };
        Ok(Self { repr })
    }

    /// The device, where it is a CUDA device.
    pub(crate) fn device(&self) -> Option<&'a Cuda> {
        self.buffer().map(|(buffer, _)| buffer.device())
    }

    /// The buffer of a device and where the operand begins in it.
    pub(crate) fn buffer(&self) -> Option<(&'a CudaBuffer<T>, usize)> {
        match self.repr {
            Repr::Cuda { buffer, start, .. } => Some((buffer, start)),
            _ => None,
        }
    }

    /// The slice, or the refusal of an op that has no other kernel than the CPU's.
    pub(crate) fn host(self, op: &'static str) -> Result<&'a [T]> {
        match self.repr {
            Repr::Cpu(slice) => Ok(slice),
            Repr::Cuda { .. } => Err(Error::NoKernel { op, device: cuda::NAME }),
            #[cfg(test)]
            Repr::Elsewhere(_) => Err(Error::NoKernel { op, device: "elsewhere" }),
        }
    }

    pub(crate) fn of_buffer(buffer: &'a CudaBuffer<T>, len: usize) -> Self {
        Self { repr: Repr::Cuda { buffer, start: 0, len } }
    }

    #[cfg(test)]
    pub(crate) fn elsewhere(len: usize) -> Self {
        Self { repr: Repr::Elsewhere(len) }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_view().len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same operand, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        let repr = match &mut self.repr {
            Repr::Cpu(slice) => Repr::Cpu(&mut **slice),
            Repr::Cuda { buffer, start, len } => Repr::Cuda { buffer: *buffer, start: *start, len: *len },
            #[cfg(test)]
            Repr::Elsewhere(len) => Repr::Elsewhere(*len),
        };
        ViewMut { repr }
    }

    /// The same operand, for reading.
    pub fn as_view(&self) -> View<'_, T> {
        let repr = match &self.repr {
            Repr::Cpu(slice) => Repr::Cpu(&**slice),
            Repr::Cuda { buffer, start, len } => Repr::Cuda { buffer: *buffer, start: *start, len: *len },
            #[cfg(test)]
            Repr::Elsewhere(len) => Repr::Elsewhere(*len),
        };
        View { repr }
    }

    /// The part in `range`.
    ///
    /// # Errors
    /// [`Error::Shape`] where `range` is not inside.
    pub fn part(self, range: Range<usize>) -> Result<Self> {
        inside(&range, self.len())?;
        let repr = match self.repr {
            Repr::Cpu(slice) => Repr::Cpu(&mut slice[range]),
            Repr::Cuda { buffer, start, .. } => Repr::Cuda { buffer, start: start + range.start, len: range.len() },
            #[cfg(test)]
            Repr::Elsewhere(_) => Repr::Elsewhere(range.len()),
        };
        Ok(Self { repr })
    }

    /// The first `at` elements and those behind them.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are fewer.
    pub fn split_at(self, at: usize) -> Result<(Self, Self)> {
        inside(&(0..at), self.len())?;
        let (first, second) = match self.repr {
            Repr::Cpu(slice) => {
                let (first, second) = slice.split_at_mut(at);
                (Repr::Cpu(first), Repr::Cpu(second))
            }
            Repr::Cuda { buffer, start, len } => {
                (Repr::Cuda { buffer, start, len: at }, Repr::Cuda { buffer, start: start + at, len: len - at })
            }
            #[cfg(test)]
            Repr::Elsewhere(len) => (Repr::Elsewhere(at), Repr::Elsewhere(len - at)),
        };
        Ok((Self { repr: first }, Self { repr: second }))
    }

    /// The slice, or the refusal of an op that has no other kernel than the CPU's.
    pub(crate) fn host(self, op: &'static str) -> Result<&'a mut [T]> {
        match self.repr {
            Repr::Cpu(slice) => Ok(slice),
            Repr::Cuda { .. } => Err(Error::NoKernel { op, device: cuda::NAME }),
            #[cfg(test)]
            Repr::Elsewhere(_) => Err(Error::NoKernel { op, device: "elsewhere" }),
        }
    }

    pub(crate) fn of_buffer(buffer: &'a mut CudaBuffer<T>, len: usize) -> Self {
        Self { repr: Repr::Cuda { buffer, start: 0, len } }
    }

    #[cfg(test)]
    pub(crate) fn elsewhere(len: usize) -> Self {
        Self { repr: Repr::Elsewhere(len) }
    }
}

impl<'a, T: Element> View<'a, T> {
    /// The slice for an op that has no other kernel than the CPU's.
    ///
    /// # Errors
    /// [`Error::NoKernel`] for an operand on a device, [`Error::Narrow`] for `bf16`.
    pub fn cpu(self, op: &'static str) -> Result<&'a [T::Wide]> {
        T::wide(self.host(op)?).ok_or(Error::Narrow { op })
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// As [`View::cpu`], for writing.
    ///
    /// # Errors
    /// As [`View::cpu`].
    pub fn cpu(self, op: &'static str) -> Result<&'a mut [T::Wide]> {
        T::wide_mut(self.host(op)?).ok_or(Error::Narrow { op })
    }
}

impl<T: Plain> View<'_, T> {
    /// A copy of the elements; of those on a device once the work queued so far is done.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver reports an error, of this copy or of earlier work.
    pub fn download(self) -> Result<Vec<T>> {
        let mut elements = vec![T::default(); self.len()];
        self.read_into(&mut elements)?;
        Ok(elements)
    }

    /// As [`View::download`], into as many elements as there are.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of elements; those of [`View::download`].
    pub fn read_into(self, into: &mut [T]) -> Result<()> {
        const OP: &str = "View::read_into";
        check::length(OP, "into", into.len(), &[self.len()], "as many as there are")?;
        match self.buffer() {
            Some((buffer, start)) => buffer.read_from(OP, start, into),
            None => {
                into.copy_from_slice(self.host(OP)?);
                Ok(())
            }
        }
    }
}

impl<T: Plain> ViewMut<'_, T> {
    /// Copies as many elements as there are to the operand; on a device in the order of the stream, without waiting for what was queued
    /// so far. What the elements are now is copied.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of elements; [`Error::Cuda`] where the driver reports an error.
    pub fn write(self, elements: &[T]) -> Result<()> {
        const OP: &str = "ViewMut::write";
        check::length(OP, "elements", elements.len(), &[self.len()], "as many as there are")?;
        if let Repr::Cuda { buffer, start, .. } = self.repr {
            return buffer.write_from(OP, start, elements);
        }
        self.host(OP)?.copy_from_slice(elements);
        Ok(())
    }
}

fn inside(range: &Range<usize>, len: usize) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(Error::Shape { op: "view", reason: format!("the part {range:?} is not inside an operand of {len} elements") })
}

impl<'a, T> From<&'a [T]> for View<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        Self { repr: Repr::Cpu(slice) }
    }
}

impl<'a, T> From<&'a Vec<T>> for View<'a, T> {
    fn from(vec: &'a Vec<T>) -> Self {
        vec.as_slice().into()
    }
}

impl<'a, T> From<&'a mut [T]> for ViewMut<'a, T> {
    fn from(slice: &'a mut [T]) -> Self {
        Self { repr: Repr::Cpu(slice) }
    }
}

impl<'a, T> From<&'a mut Vec<T>> for ViewMut<'a, T> {
    fn from(vec: &'a mut Vec<T>) -> Self {
        vec.as_mut_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_range_of_the_operand() {
        let mut data = vec![1.0f32, 2.0, 3.0];
        assert_eq!(View::from(&data).part(1..3).unwrap().cpu("test").unwrap(), [2.0, 3.0]);
        ViewMut::from(&mut data).part(0..1).unwrap().reborrow().cpu("test").unwrap()[0] = 9.0;
        assert_eq!(data, [9.0, 2.0, 3.0]);
        assert!(View::from(&data).part(2..4).unwrap_err().to_string().contains("2..4"));
        let (first, second) = ViewMut::from(&mut data).split_at(1).unwrap();
        first.write(&[4.0]).unwrap();
        second.write(&[5.0, 6.0]).unwrap();
        assert_eq!(data, [4.0, 5.0, 6.0]);
        assert!(ViewMut::from(&mut data).split_at(4).is_err());
    }

    #[test]
    fn elements_of_the_host_are_copied_too() {
        let mut data = vec![1.0f32, 2.0, 3.0];
        ViewMut::from(&mut data).part(1..3).unwrap().write(&[5.0, 6.0]).unwrap();
        assert_eq!(View::from(&data).part(0..2).unwrap().download().unwrap(), [1.0, 5.0]);
        let mut into = [0.0; 2];
        assert!(matches!(View::from(&data).read_into(&mut into), Err(Error::Length { got: 2, expected: 3, .. })));
        assert!(matches!(ViewMut::from(&mut data).write(&into), Err(Error::Length { got: 2, expected: 3, .. })));
        assert!(matches!(ViewMut::<u32>::elsewhere(1).write(&[1]), Err(Error::NoKernel { .. })));
    }
}
