//! The buffers of a workspace by their sizes, on the host or on a device.
use candlewick_kernels::{DEVICE_GRAIN, Element, Lendable, Shelf, rms_norm, token_log_probs};

use super::{BatchSize, scored};
use crate::causal_lm::Statistics;

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What layers keep for their backward.
    Layers,
    /// What the head keeps for its backward.
    Head,
    /// Activations and gradients that live for a part of a layer, or for a chunk of the head.
    Passing,
    /// What kernels need while they run.
    Scratch,
    /// What the head makes anew for each pass and gives back to the system after its backward, before most gradients of the
    /// layers are there: a softmax; the weight with its adapter, and the gradient of that. None of it on a device.
    HeadAlone,
    /// On a device: what kernels read of a batch beside numbers, the tables of rotations, what is scored, and its cotangents.
    Batch,
}

const PARTS: usize = 6;

/// The buffers of a workspace by their sizes: of the host in elements, of a device ([`Pool::on_device`]) in bytes.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    shelf: Shelf<Lent>,
    held: [usize; PARTS],
    /// Bytes on a device that are not lent: they are there for a pass, or for a part of it.
    beside: usize,
    /// Bytes of tables of rotations, which grow and stay.
    rotations: usize,
    /// And those of the other model that works here.
    rotations_of_other: usize,
    /// Bytes of a device's scratch, which grows and stays.
    scratch: usize,
    most: usize,
    pub(super) device: Option<DeviceSizes>,
}

/// What sizes on a device depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceSizes {
    /// Bytes of a number, and of one in the type of the sums.
    element: usize,
    pub(super) wide: usize,
    /// [`token_log_probs::logits_stride`].
    pub(super) logits_stride: fn(usize) -> usize,
    /// [`token_log_probs::device_chunk`].
    pub(super) chunk: fn(usize, usize) -> usize,
    /// [`rms_norm::device_scratch`].
    pub(super) norm_scratch: fn(rms_norm::Shape) -> usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Lent {
    elements: usize,
    len: usize,
    part: Part,
}

impl Lendable for Lent {
    fn capacity(&self) -> usize {
        self.elements
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Pool {
    /// The pool of a workspace of a device ([`Workspace::on`](candlewick_kernels::Workspace::on)) for passes in `T`, with what a pass
    /// has on the device beside it. What is counted are bytes.
    pub fn on_device<T: Element>() -> Self {
        let device = DeviceSizes {
            element: size_of::<T>(),
            wide: size_of::<T::Wide>(),
            logits_stride: token_log_probs::logits_stride::<T>,
            chunk: token_log_probs::device_chunk::<T>,
            norm_scratch: rms_norm::device_scratch::<T>,
        };
        Self { device: Some(device), ..Self::default() }
    }

    /// Elements (on a device: bytes) of the buffers of a part, those in use and those returned; what serves several counts for the
    /// first.
    pub fn elements(&self, part: Part) -> usize {
        self.held[part as usize]
    }

    /// Elements (on a device: bytes) of all buffers that are returned.
    pub fn all_elements(&self) -> usize {
        self.shelf.idle_elements()
    }

    /// The most elements (on a device: bytes) that buffers had at once, those in use and those returned.
    pub fn most_elements(&self) -> usize {
        self.most
    }

    /// What is there now: elements of the host, or bytes of a device.
    pub fn now(&self) -> usize {
        self.shelf.idle_elements() + self.shelf.lent_elements() + self.beside + self.tables() + self.scratch
    }

    /// What `pass` takes while scores of a batch that were queued before it wait on a device to be read; none wait on the host.
    pub fn beside_scores(&mut self, batch: BatchSize, want: Statistics, pass: impl FnOnce(&mut Self)) {
        let scores = self.device.map_or(0, |device| self.make(batch.targets * scored(want) * device.wide));
        pass(self);
        self.free(scores);
    }

    /// What a pass of another model takes here, which has tables of rotations of its own.
    pub fn by_other(&mut self, pass: impl FnOnce(&mut Self)) {
        std::mem::swap(&mut self.rotations, &mut self.rotations_of_other);
        pass(self);
        std::mem::swap(&mut self.rotations, &mut self.rotations_of_other);
    }

    /// Bytes of the tables of rotations.
    fn tables(&self) -> usize {
        self.rotations + self.rotations_of_other
    }

    fn note(&mut self) {
        self.most = self.most.max(self.now());
    }

    /// A buffer of so many numbers.
    pub(super) fn take(&mut self, part: Part, len: usize) -> Lent {
        match self.device {
            None => self.take_units(part, len),
            Some(device) => self.take_bytes(part, len * device.element),
        }
    }

    /// A buffer of so many numbers in the type of the sums.
    pub(super) fn take_wide(&mut self, part: Part, len: usize) -> Lent {
        match self.device {
            None => self.take_units(part, len),
            Some(device) => self.take_bytes(part, len * device.wide),
        }
    }

    fn take_bytes(&mut self, part: Part, bytes: usize) -> Lent {
        match bytes {
            // Nobody asks for it.
            0 => Lent { elements: 0, len: 0, part },
            bytes => self.take_units(part, bytes.next_multiple_of(DEVICE_GRAIN)),
        }
    }

    fn take_units(&mut self, part: Part, len: usize) -> Lent {
        let held = &mut self.held;
        let found = self.shelf.take(len, |gone| held[gone.part as usize] -= gone.elements);
        let lent = match found {
            Some(lent) => self.relabelled(Lent { len, ..lent }, part),
            None => {
                held[part as usize] += len;
                Lent { elements: len, len, part }
            }
        };
        self.note();
        lent
    }

    /// A buffer that serves several parts in turn counts for the first of them, in the order of [`Part`].
    fn relabelled(&mut self, lent: Lent, part: Part) -> Lent {
        if part as usize >= lent.part as usize {
            return lent;
        }
        self.held[lent.part as usize] -= lent.elements;
        self.held[part as usize] += lent.elements;
        Lent { part, ..lent }
    }

    pub(super) fn give_back(&mut self, lent: Lent) {
        if lent.elements > 0 || self.device.is_none() {
            self.shelf.give_back(lent);
        }
    }

    pub(super) fn give_back_all(&mut self, lents: impl IntoIterator<Item = Lent>) {
        lents.into_iter().for_each(|lent| self.give_back(lent));
    }

    /// What the head has beside the pool of the host in one pass.
    pub(super) fn beside(&mut self, elements: usize) {
        let held = &mut self.held[Part::HeadAlone as usize];
        *held = elements.max(*held);
    }

    pub(super) fn lend(&mut self, part: Part, len: usize) {
        let lent = self.take(part, len);
        self.give_back(lent);
    }

    /// So many bytes more of a device, which are not lent.
    pub(super) fn make(&mut self, bytes: usize) -> usize {
        self.beside += bytes;
        self.held[Part::Batch as usize] = self.held[Part::Batch as usize].max(self.beside + self.tables());
        self.note();
        bytes
    }

    /// Takes back what [`make`](Self::make) made.
    pub(super) fn free(&mut self, bytes: usize) {
        self.beside -= bytes;
    }

    /// Bytes of a device that a kernel works in, of which nothing else is asked.
    pub(super) fn work_in(&mut self, numbers: usize) {
        let Some(device) = self.device else { return };
        self.beside += numbers * device.element;
        self.note();
        self.beside -= numbers * device.element;
    }

    /// The scratch of a device's kernels has at least so many bytes.
    pub(super) fn scratch(&mut self, bytes: usize) {
        self.scratch = self.scratch.max(bytes);
        self.held[Part::Scratch as usize] = self.scratch;
        self.note();
    }

    /// The tables of rotations have at least so many numbers.
    pub(super) fn rotations(&mut self, numbers: usize) {
        let Some(device) = self.device else { return };
        self.rotations = self.rotations.max(numbers * device.wide);
        self.make(0);
    }
}
