//! Snapshots of a pass and of its shuffle buffer: what brings a run back without reading its epoch again.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::pass::{Item, Pass, PassState};

/// How many items are read between two marks, at least.
const ITEMS_BETWEEN_MARKS: u64 = 1024;

/// How many items are drawn between two places, at least; a large buffer is written down less often.
const DRAWS_BETWEEN_PLACES: u64 = 1024;

/// Where a pass stood when so many rows were drawn of it. From here a run goes on after reading as many rows as the buffer
/// reaches back over, whatever stands before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Rows drawn in this pass.
    pub consumed: u64,
    /// Where reading begins.
    pub pass: PassState,
    /// Rows read in this pass, those that wait in the buffer included.
    pub read: u64,
    /// The rows that wait in the shuffle buffer, in its order, counted from where reading begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<u32>,
    /// A checksum over the bytes of the rows that are read again.
    pub checksum: u32,
}

/// A place between two rows, and the digest of all that was read before it.
#[derive(Clone, Debug)]
struct Mark {
    state: PassState,
    digest: u64,
}

/// The marks of a pass back to the oldest row that waits, and the places taken so far that may still be asked for.
#[derive(Debug)]
pub(crate) struct Trail {
    marks: VecDeque<Mark>,
    places: VecDeque<Place>,
    between_marks: u64,
    between_places: u64,
}

impl Trail {
    /// Of a pass that begins, in any state, and a buffer of so many rows.
    pub(crate) fn new(pass: &Pass, buffer: usize) -> Self {
        Self::with_spacing(pass, ITEMS_BETWEEN_MARKS, DRAWS_BETWEEN_PLACES.max(buffer as u64 / 8))
    }

    pub(crate) fn with_spacing(pass: &Pass, between_marks: u64, between_places: u64) -> Self {
        let first = pass.state().map(|state| Mark { state, digest: pass.digest() });
        Self { marks: first.into_iter().collect(), places: VecDeque::new(), between_marks, between_places }
    }

    /// Called after each item that is read.
    pub(crate) fn mark(&mut self, pass: &Pass) {
        let is_far = self.marks.back().is_none_or(|last| pass.items() - last.state.items >= self.between_marks);
        if is_far && let Some(state) = pass.state() {
            self.marks.push_back(Mark { state, digest: pass.digest() });
        }
    }

    /// Called after each item that is drawn, with what waits then.
    pub(crate) fn draw(&mut self, consumed: u64, pass: &Pass, waiting: &[Item]) {
        if !consumed.is_multiple_of(self.between_places) {
            return;
        }
        let oldest = waiting.iter().map(|item| item.at).min().unwrap_or_else(|| pass.items());
        while self.marks.get(1).is_some_and(|second| second.state.items <= oldest) {
            self.marks.pop_front();
        }
        let Some(Mark { state, digest }) = self.marks.front().cloned() else { return };
        let offset = |item: &Item| u32::try_from(item.at - state.items).ok();
        // Rows that lie further apart than a u32 counts: the place before this one serves.
        let Some(waiting) = waiting.iter().map(offset).collect() else { return };
        let checksum = fold(pass.digest().wrapping_sub(digest));
        self.places.push_back(Place { consumed, pass: state, read: pass.items(), waiting, checksum });
    }

    /// The newest place at or before so many drawn rows.
    pub(crate) fn place(&self, consumed: u64) -> Option<&Place> {
        self.places.iter().rev().find(|place| place.consumed <= consumed)
    }

    /// From now on no place before so many drawn rows is asked for.
    pub(crate) fn release(&mut self, consumed: u64) {
        while self.places.get(1).is_some_and(|second| second.consumed <= consumed) {
            self.places.pop_front();
        }
    }

    /// A pass that has gone back to a place can be asked for it again.
    pub(crate) fn keep(&mut self, place: Place) {
        self.places.push_back(place);
    }
}

impl Place {
    /// Whether the rows read since its mark are those that it was taken of.
    pub(crate) fn fits(&self, pass: &Pass) -> bool {
        // The pass began at the mark.
        self.checksum == fold(pass.digest())
    }
}

/// The waiting rows of a place, found again while reading.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: HashMap<u64, usize>,
    held: Vec<Option<Item>>,
}

impl Slots {
    pub(crate) fn new(place: &Place) -> Self {
        let at = |(slot, offset): (usize, &u32)| (place.pass.items.saturating_add(u64::from(*offset)), slot);
        Self {
            slots: place.waiting.iter().enumerate().map(at).collect(),
            held: place.waiting.iter().map(|_| None).collect(),
        }
    }

    /// Keeps an item that waits.
    pub(crate) fn meet(&mut self, item: Item) {
        if let Some(&slot) = self.slots.get(&item.at) {
            self.held[slot] = Some(item);
        }
    }

    /// All that wait, in order; None if one was not met.
    pub(crate) fn all(self) -> Option<Vec<Item>> {
        self.held.into_iter().collect()
    }
}

fn fold(digest: u64) -> u32 {
    ((digest >> 32) ^ (digest & u64::from(u32::MAX))) as u32
}
