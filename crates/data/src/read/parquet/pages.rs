//! The pages of a column, each looked at before it is decompressed and before its values are decoded: their decoders reserve what
//! pages claim, and memory that cannot be had ends the process.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::RowGroups;
use ::parquet::basic::Compression;
use ::parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use ::parquet::file::serialized_reader::SerializedPageReader;
use flate2::bufread::MultiGzDecoder;

use super::delta;
use super::thrift::{Kind, Message};

/// The most that one page may hold, uncompressed.
const MAX_PAGE_BYTES: u64 = 256 << 20;
/// The most values of one page, in a column of lists: a row takes them all at once.
const MAX_PAGE_VALUES: u64 = 1 << 24;
/// The same of all pages of a row group.
const MAX_GROUP_VALUES: u64 = 1 << 26;

/// One row group, its columns read through [`Pages`].
pub(super) struct Group {
    pub(super) file: Arc<File>,
    pub(super) metadata: Arc<ParquetMetaData>,
    pub(super) index: usize,
}

impl Group {
    fn meta(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.index)
    }
}

impl RowGroups for Group {
    fn num_rows(&self) -> usize {
        usize::try_from(self.meta().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let pages = Pages::new(&self.file, self.meta().column(column), self.num_rows())?;
        Ok(Box::new(OneColumn(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.meta()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

struct OneColumn(Option<Box<dyn PageReader>>);

impl Iterator for OneColumn {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneColumn {}

/// The pages of one column of a row group.
struct Pages {
    inner: SerializedPageReader<File>,
    file: Arc<File>,
    compression: Compression,
    /// Levels of repetition and definition.
    levels: [i16; 2],
    /// Where the next page begins, and where the last ends.
    at: u64,
    end: u64,
    /// Values of the pages before.
    values: u64,
}

impl Pages {
    fn new(file: &Arc<File>, column: &ColumnChunkMetaData, rows: usize) -> Result<Self> {
        let (at, length) = column.byte_range();
        let description = column.column_descr();
        Ok(Self {
            inner: SerializedPageReader::new(Arc::clone(file), column, rows, None)?,
            file: Arc::clone(file),
            compression: column.compression(),
            levels: [description.max_rep_level(), description.max_def_level()],
            at,
            end: at.saturating_add(length),
            values: 0,
        })
    }

    /// Looks at the header of the next page and goes on behind the page.
    fn look(&mut self) -> std::result::Result<(), String> {
        if self.at >= self.end {
            return Ok(());
        }
        let (header, length) = Header::read(BufReader::with_capacity(256, self.bytes(self.at)?))?;
        header.check(self.compression)?;
        if matches!(self.compression, Compression::GZIP(_)) {
            let data = self.bytes(self.at + length + header.levels)?;
            header.check_gzip(data)?;
        }
        if self.levels[0] > 0 && header.values > 0 {
            self.values += header.values;
            if header.values > MAX_PAGE_VALUES || self.values > MAX_GROUP_VALUES {
                return Err(format!(
                    "lists of {} values in one page, at most {MAX_PAGE_VALUES} are read, and {MAX_GROUP_VALUES} in a row group",
                    header.values
                ));
            }
        }
        self.at += length + header.compressed;
        Ok(())
    }

    /// The file from some byte on.
    fn bytes(&self, at: u64) -> std::result::Result<File, String> {
        let mut file = self.file.try_clone().map_err(|error| error.to_string())?;
        file.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
        Ok(file)
    }
}

fn damaged(message: String) -> ParquetError {
    ParquetError::General(format!("a page cannot be read: {message}"))
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.look().map_err(damaged)?;
        let page = self.inner.get_next_page()?;
        if let Some(page) = &page {
            delta::check(page, self.levels).map_err(damaged)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.look().map_err(damaged)?;
        self.inner.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.inner.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.inner.take_deferred_dictionary()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

/// Fields of `PageHeader` in parquet.thrift.
const PAGE: &[(i16, Kind)] = &[
    (1, Kind::Int32),
    (2, Kind::Int32),
    (3, Kind::Int32),
    (4, Kind::Int32),
    (DATA, Kind::Struct(&[(1, Kind::Int32), (2, Kind::Int32), (3, Kind::Int32), (4, Kind::Int32)])),
    (6, Kind::Struct(&[])),
    (DICTIONARY, Kind::Struct(&[(1, Kind::Int32), (2, Kind::Int32), (3, Kind::Bool)])),
    (
        DATA_V2,
        Kind::Struct(&[
            (1, Kind::Int32),
            (2, Kind::Int32),
            (3, Kind::Int32),
            (4, Kind::Int32),
            (5, Kind::Int32),
            (6, Kind::Int32),
            (7, Kind::Bool),
        ]),
    ),
];
const DATA: i16 = 5;
const DICTIONARY: i16 = 7;
const DATA_V2: i16 = 8;
const INDEX_PAGE: i64 = 1;

/// What the header of a page claims.
#[derive(Debug, Default)]
struct Header {
    kind: i64,
    uncompressed: u64,
    compressed: u64,
    values: u64,
    dictionary: u64,
    /// Bytes of levels, which are never compressed; only of pages of version 2.
    levels: u64,
}

impl Header {
    fn read(reader: impl Read) -> std::result::Result<(Self, u64), String> {
        let mut message = Message::new(reader);
        let mut header = Self::default();
        let mut negative = false;
        message.structure(PAGE, &mut |outer, field, value| {
            let place = match (outer, field) {
                (0, 1) => return header.kind = value,
                (0, 2) => &mut header.uncompressed,
                (0, 3) => &mut header.compressed,
                (DATA | DATA_V2, 1) => &mut header.values,
                (DICTIONARY, 1) => &mut header.dictionary,
                (DATA_V2, 5 | 6) => {
                    header.levels = header.levels.saturating_add(u64::try_from(value).unwrap_or(0));
                    return;
                }
                _ => return,
            };
            // Decoders keep the lower half.
            negative |= i32::try_from(value).map_or(true, |value| value < 0);
            *place = u64::try_from(value).unwrap_or(0);
        })?;
        if negative { Err("its header has a negative length".to_owned()) } else { Ok((header, message.at)) }
    }

    fn check(&self, compression: Compression) -> std::result::Result<(), String> {
        if self.kind == INDEX_PAGE {
            return Err("an index, which no writer makes".to_owned());
        }
        // The most bytes that one byte of a codec can stand for; where there is no such number, the limit does.
        let most = match compression {
            Compression::SNAPPY => 64,
            Compression::LZ4 | Compression::LZ4_RAW => 256,
            Compression::GZIP(_) => 1_100,
            _ => MAX_PAGE_BYTES,
        };
        let most = self.compressed.saturating_mul(most).saturating_add(1 << 10).min(MAX_PAGE_BYTES);
        if self.uncompressed > most {
            let (claimed, held) = (self.uncompressed, self.compressed);
            return Err(format!("it claims {claimed} bytes and has {held}, of which at most {most} are made"));
        }
        if self.dictionary > self.uncompressed {
            return Err(format!("a dictionary of {} values in {} bytes", self.dictionary, self.uncompressed));
        }
        Ok(())
    }

    /// Whether gzip makes no more of the data than the header claims: its decoder goes on to the end.
    fn check_gzip(&self, data: File) -> std::result::Result<(), String> {
        let (held, most) = (self.compressed.saturating_sub(self.levels), self.uncompressed.saturating_sub(self.levels));
        let mut made = MultiGzDecoder::new(BufReader::new(data.take(held))).take(most + 1);
        // What is damaged is left to the decoder.
        match std::io::copy(&mut made, &mut std::io::sink()) {
            Ok(made) if made > most => Err(format!("it claims {} bytes and holds more", self.uncompressed)),
            _ => Ok(()),
        }
    }
}
