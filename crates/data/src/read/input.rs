//! The bytes of one text file, uncompressed, with their count.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::sniff::{self, Compression};
use crate::error::Error;
use crate::row::{Origin, Unit};

const BUFFER: usize = 256 << 10;

/// What the library says of a stream whose window is longer than it keeps.
const WINDOW_TOO_LARGE: &str = "requires too much memory";

/// A stream of uncompressed bytes that knows how many were taken.
pub(crate) struct Input {
    file: Arc<str>,
    inner: Box<dyn BufRead + Send>,
    compression: Compression,
    offset: u64,
    /// Of a file that can be opened at any of its bytes.
    path: Option<PathBuf>,
}

impl Input {
    /// A reader whose compression is known.
    pub(crate) fn new(
        file: &Arc<str>,
        inner: Box<dyn BufRead + Send>,
        compression: Compression,
    ) -> Result<Self, Error> {
        let inner = decompress(file, inner, compression)?;
        Ok(Self { file: Arc::clone(file), inner, compression, offset: 0, path: None })
    }

    /// A file from some byte of its uncompressed text on.
    pub(crate) fn open(path: &Path, file: &Arc<str>, compression: Compression, offset: u64) -> Result<Self, Error> {
        let mut opened = open(path)?;
        if compression != Compression::None || offset == 0 {
            let mut input = Self::new(file, Box::new(BufReader::with_capacity(BUFFER, opened)), compression)?;
            input.path = (compression == Compression::None).then(|| path.to_owned());
            input.advance(offset)?;
            return Ok(input);
        }
        let cannot_open = |source| Error::Open { path: path.to_owned(), source };
        let length = opened.metadata().map_err(cannot_open)?.len();
        if offset > length {
            return Err(beyond(file, offset, length));
        }
        opened.seek(SeekFrom::Start(offset)).map_err(cannot_open)?;
        let inner = Box::new(BufReader::with_capacity(BUFFER, opened));
        Ok(Self { file: Arc::clone(file), inner, compression, offset, path: Some(path.to_owned()) })
    }

    #[cfg(test)]
    pub(crate) fn of_memory(text: &[u8], capacity: usize) -> Self {
        let inner = Box::new(BufReader::with_capacity(capacity, io::Cursor::new(text.to_vec())));
        Self::new(&Arc::from("test"), inner, Compression::None).unwrap()
    }

    /// The first bytes, which stay to be read.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        let inner = std::mem::replace(&mut self.inner, Box::new(io::empty()));
        let (head, inner) = head(inner);
        self.inner = inner;
        head
    }

    pub(crate) fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Bytes taken.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Passes over bytes up to an offset.
    pub(crate) fn advance(&mut self, offset: u64) -> Result<(), Error> {
        while self.offset < offset {
            let left = usize::try_from(offset - self.offset).unwrap_or(usize::MAX);
            let here = self.offset;
            let available = match self.fill_buf() {
                Ok(available) => available.len(),
                Err(error) => return Err(self.failure(error, origin_of(&self.file))),
            };
            if available == 0 {
                return Err(beyond(&self.file, offset, here));
            }
            self.consume(available.min(left));
        }
        Ok(())
    }

    /// Goes to an offset further on: at once in a plain file, by reading in a stream.
    #[cfg(feature = "columnar")]
    pub(crate) fn jump(&mut self, offset: u64) -> Result<(), Error> {
        match self.path.take() {
            Some(path) if offset - self.offset > BUFFER as u64 => {
                *self = Self::open(&path, &self.file, self.compression, offset)?;
                Ok(())
            }
            path => {
                self.path = path;
                self.advance(offset)
            }
        }
    }

    /// Appends bytes up to and with a mark, or up to a limit, or to the end; how many.
    pub(crate) fn take_until(&mut self, mark: u8, limit: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let taken = (&mut self.inner).take(limit as u64).read_until(mark, bytes)?;
        self.offset += taken as u64;
        Ok(taken)
    }

    /// Passes over bytes up to and with a mark, or to the end; how many there were before the mark.
    pub(crate) fn skip_until(&mut self, mark: u8) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let chunk = match self.inner.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = chunk.iter().position(|byte| *byte == mark);
            let taken = end.unwrap_or(chunk.len());
            let done = end.is_some() || chunk.is_empty();
            skipped += taken as u64;
            self.consume(taken + usize::from(end.is_some()));
            if done {
                return Ok(skipped);
            }
        }
    }

    /// The error that ends reading at a place.
    pub(crate) fn failure(&self, error: io::Error, origin: Origin) -> Error {
        let (file, line) = (origin.file.clone(), origin.line);
        match (self.compression, error.kind(), origin.unit) {
            (Compression::Gzip, ErrorKind::UnexpectedEof, Unit::Line) => Error::GzipCutShort { file, line },
            (Compression::None, _, Unit::Line) => Error::Read { file, line, source: error },
            (Compression::None, _, _) => Error::Broken { origin, message: error.to_string() },
            (compression, ErrorKind::UnexpectedEof, _) => Error::Broken {
                origin,
                message: format!(
                    "the {compression} stream ends in the middle of its data; the file was cut short, copy it again"
                ),
            },
            (Compression::Zstd, ..) if error.to_string().contains(WINDOW_TOO_LARGE) => Error::Broken {
                origin,
                message: "the zstd stream asks for a window of more than 128 MiB (`--long=28` and above, `--ultra`), which \
                          its reading would keep in memory; decompress it with `zstd -d --long=31`, or compress it again \
                          without `--long`"
                    .to_owned(),
            },
            (compression, ..) => Error::Broken {
                origin,
                message: format!("the {compression} stream is damaged ({error}); copy the file again"),
            },
        }
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(into)?;
        self.offset += taken as u64;
        Ok(taken)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.inner.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                // Asked again, since the borrow of the first answer would outlive the loop.
                Ok(_) => return self.inner.fill_buf(),
            }
        }
    }

    fn consume(&mut self, amount: usize) {
        self.offset += amount as u64;
        self.inner.consume(amount);
    }
}

/// The first bytes of a reader, and the reader as if none had been taken: an error on the way comes in its place.
pub(crate) fn head(mut inner: Box<dyn BufRead + Send>) -> (Vec<u8>, Box<dyn BufRead + Send>) {
    let mut head = Vec::new();
    let read = (&mut inner).take(sniff::HEAD as u64).read_to_end(&mut head);
    let again = io::Cursor::new(head.clone());
    match read {
        Ok(_) => (head, Box::new(again.chain(inner))),
        Err(error) => (head, Box::new(again.chain(Failed(error)))),
    }
}

/// A reader that fails as another one did.
struct Failed(io::Error);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.fill_buf().map(<[u8]>::len)
    }
}

impl BufRead for Failed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Err(io::Error::new(self.0.kind(), self.0.to_string()))
    }

    fn consume(&mut self, _: usize) {}
}

/// Opens what is no directory.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    let cannot_open = |source| Error::Open { path: path.to_owned(), source };
    let opened = File::open(path).map_err(cannot_open)?;
    if opened.metadata().map_err(cannot_open)?.is_dir() {
        return Err(cannot_open(io::Error::new(ErrorKind::IsADirectory, "it is a directory")));
    }
    Ok(opened)
}

/// The error of a place beyond the end of a file; both in bytes or both in rows.
pub(crate) fn beyond(file: &Arc<str>, offset: u64, length: u64) -> Error {
    Error::Position { file: Arc::clone(file), offset, length }
}

/// The place of a failure before any row.
pub(crate) fn origin_of(file: &Arc<str>) -> Origin {
    Origin { file: Arc::clone(file), line: 1, unit: Unit::Row }
}

fn decompress(
    file: &Arc<str>,
    inner: Box<dyn BufRead + Send>,
    compression: Compression,
) -> Result<Box<dyn BufRead + Send>, Error> {
    match compression {
        Compression::None => Ok(inner),
        Compression::Gzip => Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(inner)))),
        Compression::Zstd => zstd(file, inner),
    }
}

#[cfg(feature = "zstd")]
fn zstd(file: &Arc<str>, inner: Box<dyn BufRead + Send>) -> Result<Box<dyn BufRead + Send>, Error> {
    let decoder = zstd::stream::read::Decoder::with_buffer(inner).map_err(|error| Error::Format {
        file: Arc::clone(file),
        message: format!("the zstd stream cannot be opened: {error}"),
    })?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
}

#[cfg(not(feature = "zstd"))]
fn zstd(file: &Arc<str>, _: Box<dyn BufRead + Send>) -> Result<Box<dyn BufRead + Send>, Error> {
    Err(Error::Format {
        file: Arc::clone(file),
        message: "it is compressed with zstd, which this build does not read: build with the feature `zstd`, or \
                  decompress it with `zstd -d`"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_window_is_told_from_damage() {
        // One byte in a raw block, with a window of 2 GiB.
        #[cfg(feature = "zstd")]
        let error = {
            let stream = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 9, 0, 0, b'{'];
            let mut input =
                Input::new(&Arc::from("test"), Box::new(io::Cursor::new(stream)), Compression::Zstd).unwrap();
            input.fill_buf().map(<[u8]>::to_vec).unwrap_err()
        };
        #[cfg(not(feature = "zstd"))]
        let error = io::Error::other("Frame requires too much memory for decoding");
        let mut input = Input::of_memory(b"", 64);
        input.compression = Compression::Zstd;
        let message = input.failure(error, origin_of(&Arc::from("rows.jsonl.zst"))).to_string();
        assert!(message.contains("`zstd -d --long=31`") && !message.contains("damaged"), "{message}");
        let message = input.failure(io::Error::other("checksum"), origin_of(&Arc::from("rows.jsonl.zst"))).to_string();
        assert!(message.contains("damaged (checksum)"), "{message}");
    }
}
