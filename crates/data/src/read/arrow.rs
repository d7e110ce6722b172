//! Arrow IPC: a stream of messages. A file of the file format is such a stream between a mark and an index, which is not
//! needed: messages before a place are passed over by their lengths.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, Read};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{MessageHeader, root_as_message};

use super::columns::{self, Columns, contained};
use super::input::{Input, beyond};
use super::{Raw, Rows};
use crate::error::Error;
use crate::row::{Origin, Unit};

/// The most that one message may hold, compressed or not: it is decoded whole.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;
/// The most values that one column of a message may have.
const MAX_VALUES: i64 = 1 << 28;

const MARK: &[u8] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The rows of the record batches of a stream.
pub(crate) struct Messages {
    input: Input,
    decoder: StreamDecoder,
    batches: VecDeque<RecordBatch>,
    columns: Columns,
    /// Rows given or passed over.
    row: u64,
    ended: bool,
    checked: bool,
}

/// A message without its body.
struct Head {
    bytes: Vec<u8>,
    kind: MessageHeader,
    body: u64,
    /// Rows of a record batch.
    rows: u64,
}

impl Messages {
    /// From some row on.
    pub(crate) fn new(mut input: Input, row: u64) -> Result<Self, Error> {
        let file = Arc::clone(input.file());
        skip_mark(&mut input)
            .map_err(|error| input.failure(error, Origin { file: Arc::clone(&file), line: 1, unit: Unit::Row }))?;
        let (decoder, columns) = (StreamDecoder::new(), Columns::default());
        let mut messages =
            Self { input, decoder, batches: VecDeque::new(), columns, row: 0, ended: false, checked: false };
        messages.go_to(row)?;
        Ok(messages)
    }

    fn go_to(&mut self, row: u64) -> Result<(), Error> {
        while self.row < row {
            if let Some(batch) = self.batches.pop_front() {
                let rows = batch.num_rows() as u64;
                if self.row + rows > row {
                    let from = usize::try_from(row - self.row).unwrap_or(usize::MAX);
                    self.columns.set(batch, from);
                    self.row = row;
                } else {
                    self.row += rows;
                }
            } else if self.ended {
                return Err(beyond(self.input.file(), row, self.row));
            } else {
                self.read_message(row)?;
            }
        }
        Ok(())
    }

    fn origin(&self) -> Origin {
        Origin { file: Arc::clone(self.input.file()), line: self.row + 1, unit: Unit::Row }
    }

    fn broken(&self, message: &str) -> Error {
        let message = format!("the Arrow data is damaged ({message}); copy the file again, or write it anew");
        Error::Broken { origin: self.origin(), message }
    }

    fn failure(&self, error: std::io::Error) -> Error {
        if error.kind() == ErrorKind::UnexpectedEof {
            let message = "the file ends in the middle of an Arrow message; it was cut short, copy it again".to_owned();
            return Error::Broken { origin: self.origin(), message };
        }
        self.input.failure(error, self.origin())
    }

    /// Reads and decodes one message; a record batch that ends before a row is passed over.
    fn read_message(&mut self, row: u64) -> Result<(), Error> {
        let Some(head) = self.read_head()? else {
            self.ended = true;
            // The decoder looks at a message without a body when more comes.
            return self.decode(END.to_vec());
        };
        if head.kind == MessageHeader::RecordBatch && self.row + head.rows <= row {
            // Earlier messages may still wait for more to come.
            if self.batches.is_empty() {
                self.row += head.rows;
                return self.input.jump(self.input.offset() + head.body);
            }
        }
        let mut bytes = head.bytes;
        self.read_exactly(head.body, &mut bytes)?;
        let body = bytes.len() - usize::try_from(head.body).unwrap_or(0);
        check(&bytes, body).map_err(|message| self.broken(&message))?;
        self.decode(bytes)
    }

    /// The length and the header of the next message; None at the end.
    fn read_head(&mut self) -> Result<Option<Head>, Error> {
        let mut bytes = Vec::new();
        (&mut self.input).take(4).read_to_end(&mut bytes).map_err(|error| self.failure(error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes == CONTINUATION {
            self.read_exactly(4, &mut bytes)?;
        } else {
            // As written before version 0.15.
            bytes.splice(..0, CONTINUATION);
        }
        let length = match bytes.get(4..8).map(<[u8; 4]>::try_from) {
            Some(Ok(length)) => u64::from(u32::from_le_bytes(length)),
            _ => return Err(self.failure(ErrorKind::UnexpectedEof.into())),
        };
        if length == 0 {
            return Ok(None);
        }
        self.read_exactly(length, &mut bytes)?;
        let parsed = contained(|| head(&bytes));
        let (kind, body, rows) = parsed.map_err(|message| self.broken(&message))?;
        if body > MAX_MESSAGE_BYTES {
            return Err(self.too_large(body));
        }
        Ok(Some(Head { bytes, kind, body, rows }))
    }

    fn too_large(&self, bytes: u64) -> Error {
        let message = format!(
            "one record batch holds {bytes} bytes, at most {MAX_MESSAGE_BYTES} are read; write the file with smaller batches \
             (`writer_batch_size` of datasets, `max_chunksize` of pyarrow)"
        );
        Error::Broken { origin: self.origin(), message }
    }

    fn read_exactly(&mut self, count: u64, bytes: &mut Vec<u8>) -> Result<(), Error> {
        if count > MAX_MESSAGE_BYTES {
            return Err(self.too_large(count));
        }
        let read = (&mut self.input).take(count).read_to_end(bytes).map_err(|error| self.failure(error))?;
        if (read as u64) < count { Err(self.failure(ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    fn decode(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let mut buffer = bytes.into();
        let (decoder, batches) = (&mut self.decoder, &mut self.batches);
        let decoded = contained(|| {
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(batch)) => batches.push_back(batch),
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        });
        decoded.map_err(|message| self.broken(&message))?;
        if !self.checked
            && let Some(schema) = self.decoder.schema()
        {
            self.checked = true;
            let file = Arc::clone(self.input.file());
            columns::check(&schema).map_err(|message| Error::Format { file, message })?;
        }
        Ok(())
    }
}

impl Rows for Messages {
    fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        loop {
            if let Some(text) = self.columns.next_text().map_err(|message| self.broken(&message))? {
                let raw = Raw { origin: self.origin(), text };
                self.row += 1;
                return Ok(Some(raw));
            }
            match self.batches.pop_front() {
                Some(batch) => self.columns.set(batch, 0),
                None if self.ended => return Ok(None),
                None => self.read_message(self.row)?,
            }
        }
    }

    fn place(&self) -> (u64, u64) {
        (self.row, self.row)
    }
}

/// Passes over the mark of the file format and the zeros after it.
fn skip_mark(input: &mut Input) -> std::io::Result<()> {
    if !input.head().starts_with(MARK) {
        return Ok(());
    }
    let mut mark = [0; MARK.len()];
    input.read_exact(&mut mark)?;
    loop {
        let chunk = input.fill_buf()?;
        let zeros = chunk.iter().take_while(|byte| **byte == 0).count();
        let done = chunk.is_empty() || zeros < chunk.len();
        input.consume(zeros);
        if done {
            return Ok(());
        }
    }
}

/// Kind, length of the body, and rows of a message, after its mark and length.
fn head(bytes: &[u8]) -> Result<(MessageHeader, u64, u64), String> {
    let message = root_as_message(bytes.get(8..).unwrap_or_default()).map_err(|error| error.to_string())?;
    let body = u64::try_from(message.bodyLength()).map_err(|_| "a negative length".to_owned())?;
    let rows = message.header_as_record_batch().map_or(0, |batch| batch.length());
    let rows = u64::try_from(rows).map_err(|_| "a negative number of rows".to_owned())?;
    Ok((message.header_type(), body, rows))
}

/// Whether a message asks for more memory than it may: the decoder reserves what the message claims.
fn check(bytes: &[u8], body: usize) -> Result<(), String> {
    contained(|| {
        let message = root_as_message(bytes.get(8..body).unwrap_or_default()).map_err(|error| error.to_string())?;
        let dictionary = message.header_as_dictionary_batch();
        let Some(batch) = message.header_as_record_batch().or_else(|| dictionary.and_then(|batch| batch.data())) else {
            return Ok(());
        };
        if !(0..=MAX_VALUES).contains(&batch.length()) {
            return Err(format!("a batch of {} rows", batch.length()));
        }
        for node in batch.nodes().into_iter().flatten() {
            if !(0..=MAX_VALUES).contains(&node.length()) {
                return Err(format!("a column of {} values", node.length()));
            }
        }
        if batch.compression().is_none() {
            return Ok(());
        }
        let data = bytes.get(body..).unwrap_or_default();
        let mut total = 0u64;
        for buffer in batch.buffers().into_iter().flatten().filter(|buffer| buffer.length() > 0) {
            let start = usize::try_from(buffer.offset()).map_err(|_| "a negative offset".to_owned())?;
            let claimed =
                start.checked_add(8).and_then(|end| data.get(start..end)).and_then(|word| word.try_into().ok());
            let claimed = i64::from_le_bytes(claimed.ok_or_else(|| "a buffer beyond the end".to_owned())?);
            total = total.saturating_add(u64::try_from(claimed).unwrap_or(0));
        }
        if total > MAX_MESSAGE_BYTES { Err(format!("a batch of {total} bytes uncompressed")) } else { Ok(()) }
    })
}
