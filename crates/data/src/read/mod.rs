//! From the bytes of data files to raw rows: each one JSON object as text, with its place.
//!
//! [`Files`] is what a path stands for; a [`Reader`] is one pass over it; a [`Position`] is a place between two rows.

mod array;
#[cfg(feature = "columnar")]
mod arrow;
#[cfg(feature = "columnar")]
mod columns;
mod files;
mod input;
mod lines;
#[cfg(feature = "columnar")]
mod parquet;
mod places;
mod sniff;
mod splits;
mod table;
mod text;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Fault, Reason};
use crate::row::Origin;

use files::DataFile;
pub(crate) use files::Files;

/// A row longer than this is set aside: memory stays bounded whatever the file holds.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// A place between two rows of the files of a source, which can be saved and returned to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Which file, in the order they are read; 0 for the first.
    pub file: u32,
    /// How far into the file: bytes of the uncompressed text, or rows of a Parquet or Arrow file.
    pub offset: u64,
    /// Lines or rows of this file before the place.
    pub line: u64,
}

/// A row as it stands in its file.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) origin: Origin,
    pub(crate) text: RawText,
}

/// What stands there.
#[derive(Clone, Debug)]
pub(crate) enum RawText {
    /// A JSON text.
    Json { bytes: Vec<u8>, start: Start },
    /// More than [`MAX_LINE_BYTES`]; only its length is known.
    TooLong(u64),
    /// A row that its format does not allow, and why.
    Fault(Reason, String),
}

/// Where the text of a row begins, as far as it helps a reader of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the start of the line that the origin names, or in no text file.
    Line,
    /// In an array that is read from its beginning: line and column, 1-based.
    Text { line: u64, column: u64 },
    /// In an array that is not: bytes before it.
    Byte(u64),
}

impl Raw {
    /// The object that the text is.
    pub(crate) fn object(&self) -> Result<Map<String, Value>, Fault> {
        match &self.text {
            RawText::Json { bytes, start } => text::object(bytes, *start),
            RawText::TooLong(length) => {
                Err(Fault::new(Reason::LineTooLong, format!("{length} bytes, at most {MAX_LINE_BYTES} are read")))
            }
            RawText::Fault(reason, detail) => Err(Fault::new(*reason, detail.clone())),
        }
    }
}

/// The rows of one file, in order.
pub(crate) trait Rows: Send {
    /// The next row; None at the end of the file.
    fn next_raw(&mut self) -> Result<Option<Raw>, Error>;

    /// Offset and line of a [`Position`] after the row given last.
    fn place(&self) -> (u64, u64);
}

/// One pass over the files of a source, from some place on.
pub(crate) struct Reader {
    files: Arc<[DataFile]>,
    file: usize,
    rows: Option<Box<dyn Rows>>,
    /// Where the current file was entered, until it is opened.
    enter: (u64, u64),
    /// A row read ahead, and the place before it.
    peeked: Option<(Position, Raw)>,
    /// Once reading has failed there is nothing to go on from.
    failed: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl Reader {
    fn new(files: Arc<[DataFile]>, at: Position) -> Self {
        let file = usize::try_from(at.file).unwrap_or(usize::MAX);
        Self { files, file, rows: None, enter: (at.offset, at.line), peeked: None, failed: false }
    }

    /// A pass from some place on. The first file is opened, so that a place beyond its end is told at once.
    fn at(files: Arc<[DataFile]>, at: Position) -> Result<Self, Error> {
        let mut reader = Self::new(files, at);
        if let Some(file) = reader.files.get(reader.file) {
            reader.rows = Some(file.rows(at.offset, at.line)?);
        }
        Ok(reader)
    }

    /// The rows of a stream that cannot be opened again.
    fn of_rows(files: Arc<[DataFile]>, rows: Box<dyn Rows>) -> Self {
        Self { rows: Some(rows), ..Self::new(files, Position::default()) }
    }

    /// The next row; None after the last row of the last file.
    pub(crate) fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        if let Some((_, raw)) = self.peeked.take() {
            return Ok(Some(raw));
        }
        if self.failed {
            return Ok(None);
        }
        let read = self.read();
        self.failed = read.is_err();
        read
    }

    fn read(&mut self) -> Result<Option<Raw>, Error> {
        loop {
            let Some(file) = self.files.get(self.file) else { return Ok(None) };
            let rows = match &mut self.rows {
                Some(rows) => rows,
                none => none.insert(file.rows(self.enter.0, self.enter.1)?),
            };
            if let Some(raw) = rows.next_raw()? {
                return Ok(Some(raw));
            }
            if self.file + 1 == self.files.len() {
                // The place after the last row stays one of the last file.
                return Ok(None);
            }
            self.file += 1;
            self.rows = None;
            self.enter = (0, 0);
        }
    }

    /// The next row without taking it.
    fn peek(&mut self) -> Result<Option<&Raw>, Error> {
        if self.peeked.is_none() {
            let before = self.position();
            self.peeked = self.next_raw()?.map(|raw| (before, raw));
        }
        Ok(self.peeked.as_ref().map(|(_, raw)| raw))
    }

    /// Passes over the rows before a place, in a stream.
    fn pass_over(&mut self, at: Position) -> Result<(), Error> {
        while self.position() != at {
            let here = self.position();
            if here.offset > at.offset || self.next_raw()?.is_none() {
                let name =
                    self.files.get(self.file).map_or_else(|| Arc::from("<stream>"), |file| Arc::clone(file.name()));
                return Err(input::beyond(&name, at.offset, here.offset));
            }
        }
        Ok(())
    }

    /// The place after the row given last.
    pub(crate) fn position(&self) -> Position {
        if let Some((before, _)) = &self.peeked {
            return *before;
        }
        let (offset, line) = self.rows.as_ref().map_or(self.enter, |rows| rows.place());
        Position { file: u32::try_from(self.file).unwrap_or(u32::MAX), offset, line }
    }
}

#[cfg(test)]
mod tests;
