//! Lines of JSON to a Parquet file, in pieces of bounded size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::Unfit;
use super::file::{Temporary, failed};
use super::schema::Table;
use crate::error::Error;

/// Rows turned into columns at once: this many, or as few as hold so many bytes.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// A row group is written out when it has one of these.
const GROUP_ROWS: usize = 100_000;
const GROUP_BYTES: usize = 64 << 20;

/// Writes the lines of a file as a table to its place.
pub(super) fn write(place: &Path, table: &Table, lines: File) -> Result<(), Error> {
    let unfit = |Unfit { column, message }| Error::Unfit { path: place.to_owned(), row: 0, column, message };
    let schema = Arc::new(table.schema().map_err(unfit)?);
    let (temporary, file) = Temporary::beside(place)?;
    let path = temporary.path().to_owned();
    let wrong = |error: ParquetError| failed(&path, "writing")(as_io(error));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).with_strict_mode(true).build_decoder();
    let mut decoder = decoder.map_err(|error| wrong(error.into()))?;
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(wrong)?;
    let mut lines = BufReader::new(lines);
    lines.rewind().map_err(failed(place, "reading again what is written to"))?;
    let mut line = Vec::new();
    let mut bytes = 0;
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(failed(place, "reading again what is written to"))?;
        decode(&mut decoder, &line).map_err(|error| wrong(error.into()))?;
        bytes += read;
        if read == 0 || bytes >= BATCH_BYTES || decoder.len() >= BATCH_ROWS {
            bytes = 0;
            if let Some(batch) = decoder.flush().map_err(|error| wrong(error.into()))? {
                writer.write(&batch).map_err(wrong)?;
            }
            if writer.in_progress_size() >= GROUP_BYTES {
                writer.flush().map_err(wrong)?;
            }
        }
        if read == 0 {
            break;
        }
    }
    let file = writer.into_inner().map_err(wrong)?;
    temporary.place(&file)
}

/// Takes a whole line: there is always room for one more row.
fn decode(decoder: &mut Decoder, line: &[u8]) -> Result<(), ArrowError> {
    let taken = decoder.decode(line)?;
    // The line break may be left.
    match line[taken..].trim_ascii().is_empty() {
        true => Ok(()),
        false => Err(ArrowError::JsonError("a row was not read to its end".to_owned())),
    }
}

/// The system's error, where it is one: a full disk is to be told from the rest.
fn as_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}
