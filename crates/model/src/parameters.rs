//! Named tensors in one flat buffer.
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use candlewick_kernels::{Float, copied, zeros};

use crate::error::{Error, Result};

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Ordered, named tensors laid one after another in one buffer.
///
/// The optimizer, the gradients and the checkpoints all share this order, so that one pass over one slice serves every
/// parameter.
#[derive(Clone)]
pub struct Parameters<T> {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    data: Vec<T>,
}

impl<T: Float> Parameters<T> {
    /// Lays out tensors of the given names and shapes, all zero.
    ///
    /// # Errors
    /// Two tensors of one name, or more elements than can be addressed.
    pub fn zeros(layout: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self> {
        let mut entries = Vec::new();
        let mut index = HashMap::new();
        let mut offset = 0;
        for (name, shape) in layout {
            let length = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
            let end = length.and_then(|length| length.checked_add(offset));
            let end =
                end.ok_or_else(|| Error::Input(format!("{name} of shape {shape:?} is too large for this machine")))?;
            if index.insert(name.clone(), entries.len()).is_some() {
                return Err(Error::Input(format!("two parameters are named {name}")));
            }
            entries.push(Entry { name, shape, range: offset..end });
            offset = end;
        }
        Ok(Self { entries, index, data: zeros(offset) })
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A clone whose numbers lie on huge pages, where the system has them.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self { entries: self.entries.clone(), index: self.index.clone(), data: copied(&self.data) }
    }

    /// How many numbers there are in all.
    pub fn element_count(&self) -> usize {
        self.data.len()
    }

    /// The names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The name of tensor `i`.
    pub fn name(&self, i: usize) -> &str {
        &self.entries[i].name
    }

    /// The shape of tensor `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        &self.entries[i].shape
    }

    /// Where tensor `i` lies in [`data`](Self::data).
    pub fn range(&self, i: usize) -> Range<usize> {
        self.entries[i].range.clone()
    }

    /// The position of the tensor called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The tensor called `name`, row-major.
    pub fn get(&self, name: &str) -> Option<&[T]> {
        self.position(name).map(|i| self.tensor(i))
    }

    /// Tensor `i`, row-major.
    pub fn tensor(&self, i: usize) -> &[T] {
        &self.data[self.range(i)]
    }

    /// Tensor `i`, row-major, to be changed.
    pub fn tensor_mut(&mut self, i: usize) -> &mut [T] {
        let range = self.range(i);
        &mut self.data[range]
    }

    /// All numbers, in order.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// All numbers, in order, to be changed.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

/// Gradients in the layout of the [`Parameters`] they belong to.
#[derive(Clone)]
pub struct Gradients<T> {
    data: Vec<T>,
    ranges: Vec<Range<usize>>,
}

impl<T: Float> Gradients<T> {
    /// A zero gradient for each of `parameters`.
    pub fn zeros(parameters: &Parameters<T>) -> Self {
        Self {
            data: zeros(parameters.element_count()),
            ranges: (0..parameters.len()).map(|i| parameters.range(i)).collect(),
        }
    }

    /// All numbers, in the order of the parameters.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// All numbers, to be changed.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The gradient of parameter `i`.
    pub fn tensor(&self, i: usize) -> &[T] {
        &self.data[self.ranges[i].clone()]
    }

    /// The gradient of parameter `i`, to be added to.
    pub fn tensor_mut(&mut self, i: usize) -> &mut [T] {
        &mut self.data[self.ranges[i].clone()]
    }

    /// Sets every gradient to zero. Large gradients give their memory back to the system, and take it again where they are written.
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.data).len();
        self.data = zeros(len);
    }
}

// Numbers by the million help nobody who prints a model.
impl<T> fmt::Debug for Parameters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters").field("tensors", &self.entries.len()).field("elements", &self.data.len()).finish()
    }
}

impl<T> fmt::Debug for Gradients<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gradients").field("tensors", &self.ranges.len()).field("elements", &self.data.len()).finish()
    }
}
