//! Parquet: row groups in order, some rows at a time.
//!
//! The parquet crate decodes; what it would take on trust of a damaged or hostile file is looked at before: `footer`, `pages` and
//! `delta` say where and how far.

mod delta;
mod footer;
mod pages;
#[cfg(test)]
mod tests;
mod thrift;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, RowSelection, RowSelector,
};
use ::parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels};
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use ::parquet::arrow::arrow_reader::RowGroups;
use arrow_array::RecordBatch;

use pages::Group;

use super::columns::{self, Columns, contained};
use super::input::{self, beyond};
use super::{Raw, Rows};
use crate::error::Error;
use crate::row::{Origin, Unit};

/// The most rows decoded at once.
const BATCH_ROWS: u64 = 256;
/// About the most bytes decoded at once, unless one row is larger.
const BATCH_BYTES: u64 = 4 << 20;

/// The rows of a file.
pub(crate) struct Groups {
    file: Arc<str>,
    opened: Arc<File>,
    metadata: Arc<ParquetMetaData>,
    levels: FieldLevels,
    /// The group that comes next, and the rows of it to pass over.
    next: usize,
    skip: u64,
    reader: Option<ParquetRecordBatchReader>,
    columns: Columns,
    /// Rows given or passed over.
    row: u64,
}

impl Groups {
    /// From some row on.
    pub(crate) fn open(path: &Path, file: &Arc<str>, row: u64) -> Result<Self, Error> {
        let opened = input::open(path)?;
        let length = opened.metadata().map_err(|source| Error::Open { path: path.to_owned(), source })?.len();
        let wrong = |message: String| Error::Format {
            file: Arc::clone(file),
            message: format!("the Parquet file is damaged or cut short ({message}); copy it again, or write it anew"),
        };
        footer::check(&opened, length).map_err(wrong)?;
        // Types as Parquet has them: what Arrow would rather have is left alone. Indexes of pages are not needed.
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Skip);
        let (loaded, levels) = contained(|| load(&opened, options)).map_err(wrong)?;
        columns::check(loaded.schema()).map_err(|message| Error::Format { file: Arc::clone(file), message })?;
        let metadata = Arc::clone(loaded.metadata());
        let groups = rows_of_groups(&metadata, length).map_err(wrong)?;
        let total = groups.iter().sum();
        if row > total {
            return Err(beyond(file, row, total));
        }
        let (next, before) = group_of(&groups, row);
        let (opened, columns) = (Arc::new(opened), Columns::default());
        let file = Arc::clone(file);
        Ok(Self { file, opened, metadata, levels, next, skip: row - before, reader: None, columns, row })
    }

    /// The next batch of rows; None at the end.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, String> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(batch) = reader.next().transpose().map_err(|error| error.to_string())?
            {
                return Ok(Some(batch));
            }
            if self.next >= self.metadata.num_row_groups() {
                self.reader = None;
                return Ok(None);
            }
            self.reader = Some(self.open_group()?);
        }
    }

    fn open_group(&mut self) -> Result<ParquetRecordBatchReader, String> {
        let (file, metadata) = (Arc::clone(&self.opened), Arc::clone(&self.metadata));
        let group = Group { file, metadata, index: self.next };
        let rows = group.num_rows();
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rows);
        let selection =
            (skip > 0).then(|| RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(rows - skip)]));
        self.next += 1;
        self.skip = 0;
        ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, batch_rows(&self.metadata), selection)
            .map_err(|error| error.to_string())
    }

    fn origin(&self) -> Origin {
        Origin { file: Arc::clone(&self.file), line: self.row + 1, unit: Unit::Row }
    }

    fn broken(&self, message: &str) -> Error {
        let message = format!("the Parquet data is damaged ({message}); copy the file again, or write it anew");
        Error::Broken { origin: self.origin(), message }
    }
}

impl Rows for Groups {
    fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        loop {
            if let Some(text) = self.columns.next_text().map_err(|message| self.broken(&message))? {
                let raw = Raw { origin: self.origin(), text };
                self.row += 1;
                return Ok(Some(raw));
            }
            let batch = contained(|| self.next_batch());
            match batch.map_err(|message| self.broken(&message))? {
                Some(batch) => self.columns.set(batch, 0),
                None => return Ok(None),
            }
        }
    }

    fn place(&self) -> (u64, u64) {
        (self.row, self.row)
    }
}

fn load(opened: &File, options: ArrowReaderOptions) -> Result<(ArrowReaderMetadata, FieldLevels), String> {
    let loaded = ArrowReaderMetadata::load(opened, options).map_err(|error| error.to_string())?;
    let schema = loaded.metadata().file_metadata().schema_descr();
    let levels = parquet_to_arrow_field_levels(schema, ProjectionMask::all(), None);
    Ok((loaded, levels.map_err(|error| error.to_string())?))
}

/// Rows of each group, if the groups lie within the file: what the metadata claims is reserved before it is read.
fn rows_of_groups(metadata: &ParquetMetaData, length: u64) -> Result<Vec<u64>, String> {
    let mut total = 0u64;
    let mut groups = Vec::new();
    for group in metadata.row_groups() {
        let rows = u64::try_from(group.num_rows()).map_err(|_| format!("a row group of {} rows", group.num_rows()))?;
        total = total.checked_add(rows).ok_or_else(|| "more rows than can be counted".to_owned())?;
        groups.push(rows);
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let fits = start >= 0
                && column.compressed_size() >= 0
                && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= length);
            if !fits {
                return Err(format!("column `{}` lies beyond the end of the file", column.column_path()));
            }
        }
    }
    Ok(groups)
}

/// The group that holds a row, and the rows before the group.
fn group_of(groups: &[u64], row: u64) -> (usize, u64) {
    let mut before = 0;
    for (index, rows) in groups.iter().enumerate() {
        if row < before + rows {
            return (index, before);
        }
        before += rows;
    }
    (groups.len(), before)
}

/// Rows to decode at once: few where they are large.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let largest = metadata.row_groups().iter().filter(|group| group.num_rows() > 0);
    let bytes = |group: &::parquet::file::metadata::RowGroupMetaData| group.total_byte_size() / group.num_rows();
    let largest = largest.map(bytes).max().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    usize::try_from((BATCH_BYTES / largest.max(1)).clamp(1, BATCH_ROWS)).unwrap_or(1)
}
