//! One pass over the rows of a source, not yet looked into.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::mixture::{self, MixtureEnd};
use crate::part::{Kind, Part};
use crate::read::{Position, Raw, RawText, Reader};
use crate::source::Source;

/// Where a pass over a source stands, between two rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassState {
    /// Rows given: those of this shard, each half of an unpaired row counted.
    pub items: u64,
    /// Rows of the source before this place, those of other shards included.
    pub rows: u64,
    /// Where each part of a mixture stands; one entry for a source that is none.
    pub parts: Vec<PartState>,
}

/// Where a pass stands in one part of its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartState {
    /// The place in the files; for rows in memory, offset and line are the number of rows before it.
    pub at: Position,
    /// Rows before the place, those before the selected range included.
    pub row: u64,
    /// Rows it has given since the pass began.
    pub taken: u64,
    /// How often it was read to its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub laps: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A selected row, or half of one.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its number among the items of the pass, from 0.
    pub(crate) at: u64,
    /// Its row's number among the selected ones of the source, from 0, those of other shards counted.
    pub(crate) number: u64,
    pub(crate) part: usize,
    /// Its row's number among the selected ones of the part, from 0.
    pub(crate) row: u64,
    pub(crate) half: Option<Half>,
    pub(crate) text: ItemText,
}

/// Which completion of an unpaired pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Chosen,
    Rejected,
}

/// What is known of an item before it is looked into.
#[derive(Clone, Debug)]
pub(crate) enum ItemText {
    /// Shared by both halves.
    Raw(Arc<Raw>),
    /// Of rows in memory.
    Index(usize),
}

impl Item {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        match &self.text {
            ItemText::Raw(raw) => raw.text().len(),
            ItemText::Index(_) => 0,
        }
    }
}

/// One pass over the selected rows of a source.
#[derive(Debug)]
pub(crate) struct Pass {
    source: Arc<Source>,
    parts: Vec<PartRows>,
    items: u64,
    rows: u64,
    digest: u64,
    second_half: Option<Item>,
    ended: bool,
}

impl Pass {
    /// From the first row on.
    pub(crate) fn new(source: Arc<Source>) -> Result<Self, Error> {
        let parts = vec![PartState::default(); source.parts().len()];
        Self::of_state(source, &PassState { parts, ..PassState::default() })
    }

    /// From a place on; None if it is none of this source.
    pub(crate) fn at(source: Arc<Source>, state: &PassState) -> Result<Option<Self>, Error> {
        if state.parts.len() != source.parts().len() {
            return Ok(None);
        }
        match Self::of_state(source, state) {
            Err(Error::Position { .. }) => Ok(None),
            pass => pass.map(Some),
        }
    }

    fn of_state(source: Arc<Source>, state: &PassState) -> Result<Self, Error> {
        let parts = source.parts().iter().zip(&state.parts);
        let parts = parts.map(|(part, state)| PartRows::open(part, *state)).collect::<Result<_, _>>()?;
        let PassState { items, rows, .. } = *state;
        Ok(Self { source, parts, items, rows, digest: 0, second_half: None, ended: false })
    }

    /// The next item; None at the end.
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Error> {
        if let Some(item) = self.second_half.take() {
            self.items = self.items.saturating_add(1);
            return Ok(Some(item));
        }
        while !self.ended {
            let range = self.source.mixed_range();
            let next = if range.end.is_some_and(|end| self.rows >= end) { None } else { self.next_row()? };
            let Some((part, row, text)) = next else { break };
            let number = self.rows;
            self.rows = self.rows.saturating_add(1);
            if number < range.start || !self.source.shard().takes(number) {
                continue;
            }
            let number = number - range.start;
            let at = self.items;
            self.items = self.items.saturating_add(1);
            let item = |at, half| Item { at, number, part, row, half, text: text.clone() };
            if self.source.parts()[part].unpair {
                self.second_half = Some(item(at.saturating_add(1), Some(Half::Rejected)));
                return Ok(Some(item(at, Some(Half::Chosen))));
            }
            return Ok(Some(item(at, None)));
        }
        self.ended = true;
        Ok(None)
    }

    /// Where it stands; None between the halves of a row.
    pub(crate) fn state(&self) -> Option<PassState> {
        let parts = || self.parts.iter().map(|part| part.state).collect();
        self.second_half.is_none().then(|| PassState { items: self.items, rows: self.rows, parts: parts() })
    }

    /// Items given, those before the place where it began included.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// A sum over the rows read since it began, each with its number.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The next row of the part whose turn it is, and its number in the part.
    fn next_row(&mut self) -> Result<Option<(usize, u64, ItemText)>, Error> {
        loop {
            let of_source = self.source.parts();
            let weights = of_source.iter().map(|part| part.weight);
            let index = mixture::next_part(self.parts.iter().map(|part| part.state.taken).zip(weights));
            if let Some((row, text)) = self.parts[index].next_row(&of_source[index])? {
                let number = self.rows.wrapping_mul(2).wrapping_add(1);
                self.digest = self.digest.wrapping_add(digest(&text).wrapping_mul(number));
                return Ok(Some((index, row, text)));
            }
            self.parts[index].state.laps = self.parts[index].state.laps.saturating_add(1);
            let all_read = self.parts.iter().all(|part| part.state.laps > 0);
            if all_read || self.source.end() == MixtureEnd::FirstExhausted {
                return Ok(None);
            }
            self.parts[index].begin_again(&of_source[index])?;
        }
    }
}

/// The rows of one part.
#[derive(Debug)]
struct PartRows {
    rows: Rows,
    state: PartState,
}

#[derive(Debug)]
enum Rows {
    Files(Reader),
    /// So many in memory.
    Memory(usize),
}

impl PartRows {
    fn open(part: &Part, state: PartState) -> Result<Self, Error> {
        let rows = match &part.kind {
            Kind::Files(files) => Rows::Files(files.pass_at(state.at)?),
            Kind::Rows(rows) => Rows::Memory(rows.len()),
            Kind::Records(records) => Rows::Memory(records.len()),
            Kind::Examples(examples) => Rows::Memory(examples.len()),
        };
        Ok(Self { rows, state })
    }

    fn begin_again(&mut self, part: &Part) -> Result<(), Error> {
        // A part that gave nothing the first time would give nothing for ever.
        if self.state.taken == 0 {
            return Err(Error::NoRows { file: part.name.clone() });
        }
        let PartState { taken, laps, .. } = self.state;
        *self = Self::open(part, PartState { taken, laps, ..PartState::default() })?;
        Ok(())
    }

    fn next_row(&mut self, part: &Part) -> Result<Option<(u64, ItemText)>, Error> {
        loop {
            let row = self.state.row;
            if part.rows.end.is_some_and(|end| row >= end) {
                return Ok(None);
            }
            let Some(text) = self.rows.next_text(&mut self.state.at)? else { return Ok(None) };
            self.state.row = row.saturating_add(1);
            if row >= part.rows.start {
                self.state.taken = self.state.taken.saturating_add(1);
                return Ok(Some((row - part.rows.start, text)));
            }
        }
    }
}

impl Rows {
    fn next_text(&mut self, at: &mut Position) -> Result<Option<ItemText>, Error> {
        match self {
            Self::Files(reader) => {
                let Some(mut raw) = reader.next_raw()? else { return Ok(None) };
                *at = reader.position();
                if let RawText::Json { bytes, .. } = &mut raw.text {
                    // It may wait in a buffer for long.
                    bytes.shrink_to_fit();
                }
                Ok(Some(ItemText::Raw(Arc::new(raw))))
            }
            Self::Memory(count) => {
                let index = usize::try_from(at.offset).ok().filter(|index| index < count);
                if index.is_some() {
                    at.offset = at.offset.saturating_add(1);
                    at.line = at.line.saturating_add(1);
                }
                Ok(index.map(ItemText::Index))
            }
        }
    }
}

fn digest(text: &ItemText) -> u64 {
    match text {
        ItemText::Raw(raw) => match &raw.text {
            RawText::TooLong(length) => *length,
            _ => xxh3_64(raw.text()),
        },
        ItemText::Index(_) => 0,
    }
}
