//! Parquet: row groups in order, some rows at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

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
    reader: ParquetRecordBatchReader,
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
        // Types as Parquet has them: what Arrow would rather have is left alone. Indexes of pages are not needed.
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Skip);
        let metadata = contained(|| ArrowReaderMetadata::load(&opened, options).map_err(|error| error.to_string()))
            .map_err(wrong)?;
        columns::check(metadata.schema()).map_err(|message| Error::Format { file: Arc::clone(file), message })?;
        let groups = rows_of_groups(metadata.metadata(), length).map_err(wrong)?;
        let total = groups.iter().sum();
        if row > total {
            return Err(beyond(file, row, total));
        }
        let (first, before) = group_of(&groups, row);
        let batch = batch_rows(metadata.metadata());
        let reader = contained(|| build(opened, metadata, (first..groups.len()).collect(), row - before, batch));
        Ok(Self { file: Arc::clone(file), reader: reader.map_err(wrong)?, columns: Columns::default(), row })
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
            let reader = &mut self.reader;
            let batch = contained(|| reader.next().transpose().map_err(|error| error.to_string()));
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

fn build(
    opened: File,
    metadata: ArrowReaderMetadata,
    groups: Vec<usize>,
    offset: u64,
    batch: usize,
) -> Result<ParquetRecordBatchReader, String> {
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, metadata)
        .with_row_groups(groups)
        .with_batch_size(batch);
    if offset > 0 {
        builder = builder.with_offset(usize::try_from(offset).map_err(|error| error.to_string())?);
    }
    builder.build().map_err(|error| error.to_string())
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
