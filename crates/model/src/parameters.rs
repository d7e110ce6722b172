//! Named tensors in one flat buffer.
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candlewick_kernels::{Buffer, Cuda, Element, Float, View, ViewMut, Workspace, elementwise, zeros};

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
///
/// The buffer is the host's, or a device's ([`to_device`](Self::to_device)). The numbers of the host are slices; wherever they are,
/// [`view`](Self::view) and its like are what ops take.
pub struct Parameters<T> {
    entries: Arc<Entries>,
    data: Buffer<T>,
}

struct Entries {
    list: Vec<Entry>,
    index: HashMap<String, usize>,
}

/// Numbers that go to a device at once.
const PIECE: usize = 1 << 24;

/// What numbers of a device are asked for that only the host has.
const HOST: &str = "the numbers are on a device; copy them with Parameters::to_host";

impl<T: Float> Parameters<T> {
    /// Lays out tensors of the given names and shapes, all zero.
    ///
    /// # Errors
    /// Two tensors of one name, or more elements than can be addressed.
    pub fn zeros(layout: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self> {
        let mut list = Vec::new();
        let mut index = HashMap::new();
        let mut offset = 0;
        for (name, shape) in layout {
            let length = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
            let end = length.and_then(|length| length.checked_add(offset));
            let end =
                end.ok_or_else(|| Error::Input(format!("{name} of shape {shape:?} is too large for this machine")))?;
            if index.insert(name.clone(), list.len()).is_some() {
                return Err(Error::Input(format!("two parameters are named {name}")));
            }
            list.push(Entry { name, shape, range: offset..end });
            offset = end;
        }
        Ok(Self { entries: Arc::new(Entries { list, index }), data: zeros(offset).into() })
    }

    /// A clone whose numbers lie on huge pages, where the system has them; of a device, on the same device.
    ///
    /// # Panics
    /// Where the device has no memory left.
    #[must_use]
    pub fn copied(&self) -> Self {
        self.with(self.data.copied().expect("as much memory as there is"))
    }

    /// As [`copied`](Self::copied), where there may be no memory for it.
    ///
    /// # Errors
    /// The device that the numbers are on has no memory left, or its driver reports an error.
    pub fn try_copied(&self) -> Result<Self> {
        Ok(self.with(self.data.copied()?))
    }

    /// The same numbers on `device`, each rounded to the nearest of its type there.
    ///
    /// # Errors
    /// The device has no memory left, or its driver reports an error.
    pub fn to_device<U: Element<Wide = T>>(&self, device: &Cuda, workspace: &mut Workspace) -> Result<Parameters<U>> {
        let numbers = self.data.host("Parameters::to_device")?;
        let mut copy = device.unwritten::<U>(numbers.len())?;
        // Piece by piece: the device may have no room for all of them in both types.
        for (i, piece) in numbers.chunks(PIECE).enumerate() {
            let (wide, start) = (device.upload(piece)?, i * PIECE);
            let to = copy.view_mut().part(start..start + piece.len())?;
            elementwise::narrow::<U>(to, wide.view(), workspace)?;
        }
        Ok(self.with(copy.into()))
    }
}

impl<T: Element> Parameters<T> {
    /// The same numbers on the host, in the type that they are computed with.
    ///
    /// # Errors
    /// The driver of the device they are on reports an error.
    pub fn to_host(&self) -> Result<Parameters<T::Wide>> {
        Ok(self.with(self.data.to_wide()?.into_owned().into()))
    }
}

impl<T> Parameters<T> {
    /// The same layout with other numbers, as many.
    fn with<U>(&self, data: Buffer<U>) -> Parameters<U> {
        debug_assert_eq!(data.len(), self.data.len(), "one layout");
        Parameters { entries: Arc::clone(&self.entries), data }
    }

    /// Refuses numbers for tensors of other names, shapes or order.
    ///
    /// # Errors
    /// The first tensor that is another one.
    pub fn check_same_layout<U>(&self, other: &Parameters<U>) -> Result<()> {
        let said = |(name, shape): (&str, &[usize])| format!("{name} of shape {shape:?}");
        let at = |i| (i < self.len()).then(|| (self.name(i), self.shape(i)));
        let theirs = |i| (i < other.len()).then(|| (other.name(i), other.shape(i)));
        let Some(i) = (0..self.len().max(other.len())).find(|i| at(*i) != theirs(*i)) else { return Ok(()) };
        let or_none = |tensor: Option<_>| tensor.map_or_else(|| "nothing".to_owned(), said);
        Err(Error::Input(format!(
            "tensor {i} is {}, and {} is expected; give the parameters of the same model",
            or_none(theirs(i)),
            or_none(at(i))
        )))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.list.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.list.is_empty()
    }

    /// How many numbers there are in all.
    pub fn element_count(&self) -> usize {
        self.data.len()
    }

    /// The names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.list.iter().map(|entry| entry.name.as_str())
    }

    /// The name of tensor `i`.
    pub fn name(&self, i: usize) -> &str {
        &self.entries.list[i].name
    }

    /// The shape of tensor `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        &self.entries.list[i].shape
    }

    /// Where tensor `i` lies in [`data`](Self::data).
    pub fn range(&self, i: usize) -> Range<usize> {
        self.entries.list[i].range.clone()
    }

    /// The position of the tensor called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.entries.index.get(name).copied()
    }

    /// The device the numbers are on, where that is not the host.
    pub fn device(&self) -> Option<&Cuda> {
        self.data.device()
    }

    /// Tensor `i`, wherever it is.
    pub fn view(&self, i: usize) -> View<'_, T> {
        self.data.view().part(self.range(i)).expect("tensors lie in their buffer")
    }

    /// All numbers, in order, wherever they are.
    pub fn all(&self) -> View<'_, T> {
        self.data.view()
    }

    /// All numbers, in order, to be changed, wherever they are.
    pub fn all_mut(&mut self) -> ViewMut<'_, T> {
        self.data.view_mut()
    }

    /// The tensor called `name`, row-major.
    ///
    /// # Panics
    /// Where the numbers are on a device.
    pub fn get(&self, name: &str) -> Option<&[T]> {
        self.position(name).map(|i| self.tensor(i))
    }

    /// Tensor `i`, row-major.
    ///
    /// # Panics
    /// Where the numbers are on a device; [`view`](Self::view) is for both.
    pub fn tensor(&self, i: usize) -> &[T] {
        &self.data()[self.range(i)]
    }

    /// Tensor `i`, row-major, to be changed.
    ///
    /// # Panics
    /// Where the numbers are on a device.
    pub fn tensor_mut(&mut self, i: usize) -> &mut [T] {
        let range = self.range(i);
        &mut self.data_mut()[range]
    }

    /// All numbers, in order.
    ///
    /// # Panics
    /// Where the numbers are on a device; [`all`](Self::all) is for both.
    pub fn data(&self) -> &[T] {
        self.data.host("Parameters::data").expect(HOST)
    }

    /// All numbers, in order, to be changed.
    ///
    /// # Panics
    /// Where the numbers are on a device; [`all_mut`](Self::all_mut) is for both.
    pub fn data_mut(&mut self) -> &mut [T] {
        self.data.host_mut("Parameters::data_mut").expect(HOST)
    }
}

impl<T: Element> Clone for Parameters<T> {
    /// # Panics
    /// Where the device that the numbers are on has no memory left.
    fn clone(&self) -> Self {
        self.with(self.data.copied().expect("as much memory as there is"))
    }
}

/// Gradients in the layout of the [`Parameters`] they belong to, where those are.
pub struct Gradients<T> {
    data: Buffer<T>,
    ranges: Vec<Range<usize>>,
}

impl<T: Float> Gradients<T> {
    /// A zero gradient for each of `parameters`, on the host.
    pub fn zeros(parameters: &Parameters<T>) -> Self {
        Self { data: zeros(parameters.element_count()).into(), ranges: ranges(parameters) }
    }

    /// A zero gradient for each of `parameters`, where they are: those of `bf16` are `f32`.
    ///
    /// # Errors
    /// The device has no memory left, or its driver reports an error.
    pub fn beside<U: Element<Wide = T>>(parameters: &Parameters<U>) -> Result<Self> {
        let data = Buffer::zeros(parameters.element_count(), parameters.device())?;
        Ok(Self { data, ranges: ranges(parameters) })
    }

    /// Sets every gradient to zero. Large gradients of the host give their memory back to the system, and take it again where they are
    /// written.
    ///
    /// # Errors
    /// The driver of the device they are on reports an error.
    pub fn clear(&mut self) -> Result<()> {
        Ok(self.data.clear()?)
    }

    /// The numbers on the host.
    ///
    /// # Errors
    /// The driver of the device they are on reports an error.
    pub fn to_host(&self) -> Result<Vec<T>> {
        Ok(self.data.to_host()?)
    }
}

impl<T> Gradients<T> {
    /// How many numbers there are in all.
    pub fn element_count(&self) -> usize {
        self.data.len()
    }

    /// Whether they are not on the host.
    pub fn is_on_device(&self) -> bool {
        self.data.device().is_some()
    }

    /// All numbers, in the order of the parameters, wherever they are.
    pub fn all(&self) -> View<'_, T> {
        self.data.view()
    }

    /// The gradient of parameter `i`, wherever it is, to be added to.
    pub fn view_mut(&mut self, i: usize) -> ViewMut<'_, T> {
        self.data.view_mut().part(self.ranges[i].clone()).expect("gradients lie in their buffer")
    }

    /// All numbers, in the order of the parameters.
    ///
    /// # Panics
    /// Where the numbers are on a device; [`all`](Self::all) is for both.
    pub fn data(&self) -> &[T] {
        self.data.host("Gradients::data").expect(HOST)
    }

    /// All numbers, to be changed.
    ///
    /// # Panics
    /// Where the numbers are on a device.
    pub fn data_mut(&mut self) -> &mut [T] {
        self.data.host_mut("Gradients::data_mut").expect(HOST)
    }

    /// The gradient of parameter `i`.
    ///
    /// # Panics
    /// Where the numbers are on a device.
    pub fn tensor(&self, i: usize) -> &[T] {
        &self.data()[self.ranges[i].clone()]
    }

    /// The gradient of parameter `i`, to be added to.
    ///
    /// # Panics
    /// Where the numbers are on a device; [`view_mut`](Self::view_mut) is for both.
    pub fn tensor_mut(&mut self, i: usize) -> &mut [T] {
        let range = self.ranges[i].clone();
        &mut self.data_mut()[range]
    }
}

impl<T: Element> Clone for Gradients<T> {
    /// # Panics
    /// Where the device that the numbers are on has no memory left.
    fn clone(&self) -> Self {
        Self { data: self.data.copied().expect("as much memory as there is"), ranges: self.ranges.clone() }
    }
}

fn ranges<T>(parameters: &Parameters<T>) -> Vec<Range<usize>> {
    (0..parameters.len()).map(|i| parameters.range(i)).collect()
}

// Numbers by the million help nobody who prints a model.
impl<T> fmt::Debug for Parameters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters").field("tensors", &self.len()).field("elements", &self.data.len()).finish()
    }
}

impl<T> fmt::Debug for Gradients<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gradients").field("tensors", &self.ranges.len()).field("elements", &self.data.len()).finish()
    }
}
