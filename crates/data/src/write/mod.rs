//! Rows out: TRL's JSON lines, or Parquet.

mod file;
mod layout;
mod row;
#[cfg(feature = "columnar")]
mod schema;
#[cfg(feature = "columnar")]
mod table;

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::row::Record;
use file::{Compression, Sink, Temporary, failed};

pub use layout::Layout;

/// A column that cannot be written, before its file is known.
#[derive(Debug, thiserror::Error)]
#[error("`{column}` {message}")]
struct Unfit {
    column: String,
    message: String,
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Existing {
    /// It stays, and writing is refused.
    #[default]
    Keep,
    /// It is replaced once the new one is whole.
    Replace,
}

/// Writes records to a file: `.jsonl`, `.jsonl.gz`, `.jsonl.zst` (TRL's JSON lines) or `.parquet`, by its name.
///
/// Standard texts are written as strings, conversations as lists of messages, numbers under their names; the columns are those
/// of [`Record`]'s serialized form. In Parquet `tools` is JSON as text, as TRL has it; every other column has one type, and rows
/// that do not fit it are an error that names the column. Rows go out as they come: a Parquet file, whose columns are known only
/// after the last row, is written from lines kept in a file beside it, in row groups of at most 64 MiB.
///
/// Nothing is in the place of the file before [`finish`](Self::finish); a writer that is dropped leaves nothing behind.
///
/// ```
/// use candlewick_data::{Existing, Record, Row, Source, SourceOptions, Text, Writer};
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("pairs.jsonl.gz");
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let mut writer = Writer::create(&path, Existing::Keep)?;
/// writer.write(&Row::Pair { prompt: text("p"), chosen: text(" a"), rejected: text(" b") }.into())?;
/// assert_eq!(writer.finish()?, 1);
/// assert!(Source::open(&SourceOptions::new(path)).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temporary: Temporary,
    sink: Sink,
    #[cfg(feature = "columnar")]
    table: Option<schema::Table>,
    rows: u64,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// A name of no known ending, a file that is there already, a directory that cannot be written to.
    pub fn create(path: &Path, existing: Existing) -> Result<Self, Error> {
        let format = Format::of(path)?;
        if existing == Existing::Keep && path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: path.to_owned() });
        }
        if path.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(Error::Write { path: path.to_owned(), doing: "writing", source });
        }
        let (temporary, file) = Temporary::beside(path)?;
        let sink = Sink::new(file, format.compression()).map_err(failed(temporary.path(), "writing"))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            sink,
            #[cfg(feature = "columnar")]
            table: (format == Format::Parquet).then(schema::Table::default),
            rows: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The disk is full, or the row has a column that cannot be written: one name for two things, or in Parquet another type
    /// than in the rows before.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        self.rows += 1;
        let row = self.rows;
        let unfit = |Unfit { column, message }| Error::Unfit { path: self.path.clone(), row, column, message };
        #[cfg_attr(not(feature = "columnar"), expect(unused_mut, reason = "tables have columns of their own"))]
        let mut fields = row::fields(record).map_err(unfit)?;
        #[cfg(feature = "columnar")]
        if let Some(table) = &mut self.table {
            schema::tools_as_text(&mut fields);
            table.add(&fields).map_err(unfit)?;
        }
        let mut line = Vec::new();
        let written = write_line(&mut line, &fields).and_then(|()| self.sink.write_all(&line));
        written.map_err(failed(self.temporary.path(), "writing"))
    }

    /// Rows written so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Completes the file and puts it in its place; gives the number of rows.
    ///
    /// # Errors
    /// The disk is full; in Parquet, a column without any value in it.
    pub fn finish(self) -> Result<u64, Error> {
        let file = self.sink.finish().map_err(failed(self.temporary.path(), "writing"))?;
        #[cfg(feature = "columnar")]
        if let Some(table) = self.table {
            table::write(&self.path, &table, file)?;
            return Ok(self.rows);
        }
        self.temporary.place(&file)?;
        Ok(self.rows)
    }
}

fn write_line(line: &mut Vec<u8>, fields: &row::Fields) -> std::io::Result<()> {
    line.push(b'{');
    for (place, (name, value)) in fields.iter().enumerate() {
        if place > 0 {
            line.extend_from_slice(b", ");
        }
        serde_json::to_writer(&mut *line, name)?;
        line.extend_from_slice(b": ");
        serde_json::to_writer(&mut *line, value)?;
    }
    line.extend_from_slice(b"}\n");
    Ok(())
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Lines(Compression),
    #[cfg(feature = "columnar")]
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let lines =
            |ending: &str| name.ends_with(&format!(".jsonl{ending}")) || name.ends_with(&format!(".ndjson{ending}"));
        if lines("") {
            return Ok(Self::Lines(Compression::None));
        }
        if lines(".gz") {
            return Ok(Self::Lines(Compression::Gzip));
        }
        #[cfg(feature = "zstd")]
        if lines(".zst") {
            return Ok(Self::Lines(Compression::Zstd));
        }
        #[cfg(feature = "columnar")]
        if name.ends_with(".parquet") {
            return Ok(Self::Parquet);
        }
        Err(Error::Option { name: "output file", got: path.display().to_string(), expected: ENDINGS })
    }

    fn compression(self) -> Compression {
        match self {
            Self::Lines(compression) => compression,
            #[cfg(feature = "columnar")]
            Self::Parquet => Compression::None,
        }
    }
}

/// The endings of this build.
const ENDINGS: &str = match (cfg!(feature = "zstd"), cfg!(feature = "columnar")) {
    (true, true) => "a name that ends with .jsonl, .jsonl.gz, .jsonl.zst or .parquet",
    (true, false) => "a name that ends with .jsonl, .jsonl.gz or .jsonl.zst (.parquet needs the feature `columnar`)",
    (false, true) => "a name that ends with .jsonl, .jsonl.gz or .parquet (.jsonl.zst needs the feature `zstd`)",
    (false, false) => {
        "a name that ends with .jsonl or .jsonl.gz (.jsonl.zst needs the feature `zstd`, .parquet the feature `columnar`)"
    }
};

#[cfg(test)]
mod tests;
