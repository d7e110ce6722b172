//! Lines of a file, plain or gzip, one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use crate::error::Error;

/// A line longer than this is set aside: memory stays bounded whatever the file holds.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// What stands on a line.
#[derive(Debug)]
pub(crate) enum LineText {
    /// Its bytes without the line break.
    Bytes(Vec<u8>),
    /// It was longer than [`MAX_LINE_BYTES`]; only its length is known.
    TooLong(u64),
}

/// A non-blank line.
#[derive(Debug)]
pub(crate) struct Line {
    /// 1-based number, blank lines counted.
    pub(crate) number: u64,
    pub(crate) text: LineText,
}

/// Reads non-blank lines in order.
pub(crate) struct LineReader {
    file: Arc<str>,
    inner: Box<dyn BufRead + Send>,
    number: u64,
    limit: usize,
    peeked: Option<Line>,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReader").field("file", &self.file).field("number", &self.number).finish_non_exhaustive()
    }
}

impl LineReader {
    pub(crate) fn open(path: &Path, file: &Arc<str>) -> Result<Self, Error> {
        let cannot_open = |source| Error::Open { path: path.to_owned(), source };
        let opened = File::open(path).map_err(cannot_open)?;
        if opened.metadata().map_err(cannot_open)?.is_dir() {
            return Err(cannot_open(std::io::Error::new(ErrorKind::IsADirectory, "it is a directory")));
        }
        Self::new(Box::new(BufReader::new(opened)), file)
    }

    /// Compression is told by the first byte, which begins no JSON text.
    pub(crate) fn new(mut inner: Box<dyn BufRead + Send>, file: &Arc<str>) -> Result<Self, Error> {
        const GZIP: u8 = 0x1f;
        let first =
            inner.fill_buf().map_err(|source| Error::Read { file: file.clone(), line: 1, source })?.first().copied();
        if first == Some(GZIP) {
            inner = Box::new(BufReader::new(MultiGzDecoder::new(inner)));
        }
        Ok(Self { file: file.clone(), inner, number: 0, limit: MAX_LINE_BYTES, peeked: None })
    }

    #[cfg(test)]
    pub(crate) fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The next line without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<&Line>, Error> {
        if self.peeked.is_none() {
            self.peeked = self.read_line()?;
        }
        Ok(self.peeked.as_ref())
    }

    pub(crate) fn next_line(&mut self) -> Result<Option<Line>, Error> {
        match self.peeked.take() {
            Some(line) => Ok(Some(line)),
            None => self.read_line(),
        }
    }

    fn read_line(&mut self) -> Result<Option<Line>, Error> {
        loop {
            let Some(text) = self.read_raw()? else {
                return Ok(None);
            };
            self.number += 1;
            let text = match text {
                LineText::Bytes(mut bytes) => {
                    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
                    if self.number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
                        bytes.drain(..BYTE_ORDER_MARK.len());
                    }
                    if bytes.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    LineText::Bytes(bytes)
                }
                too_long => too_long,
            };
            return Ok(Some(Line { number: self.number, text }));
        }
    }

    /// One line with its break taken off; None at the end.
    fn read_raw(&mut self) -> Result<Option<LineText>, Error> {
        let mut bytes = Vec::new();
        let mut length = 0usize;
        loop {
            let chunk = match self.inner.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => {
                    let (file, line) = (self.file.clone(), self.number + 1);
                    return Err(if source.kind() == ErrorKind::UnexpectedEof {
                        Error::GzipCutShort { file, line }
                    } else {
                        Error::Read { file, line, source }
                    });
                }
            };
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(None);
                }
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if length + taken <= self.limit {
                bytes.extend_from_slice(&chunk[..taken]);
            } else {
                bytes = Vec::new();
            }
            length += taken;
            let consumed = taken + usize::from(end.is_some());
            self.inner.consume(consumed);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(if length > self.limit { LineText::TooLong(length as u64) } else { LineText::Bytes(bytes) }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(text: &[u8], limit: usize) -> Vec<(u64, Result<Vec<u8>, u64>)> {
        // A small buffer, so that lines span several reads.
        let inner = Box::new(BufReader::with_capacity(3, Cursor::new(text.to_vec())));
        let mut reader = LineReader::new(inner, &Arc::from("test")).unwrap().with_limit(limit);
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            let text = match line.text {
                LineText::Bytes(bytes) => Ok(bytes),
                LineText::TooLong(length) => Err(length),
            };
            lines.push((line.number, text));
        }
        lines
    }

    #[test]
    fn blank_lines_count_and_are_not_given() {
        let expected = vec![(2, Ok(b"abcdefg".to_vec())), (4, Ok(b"h\r".to_vec())), (6, Ok(b"i".to_vec()))];
        assert_eq!(lines(b"\nabcdefg\n \t\nh\r\n\ni", 100), expected);
        assert_eq!(lines(b"", 100), []);
        assert_eq!(lines(b"\n\n", 100), []);
    }

    #[test]
    fn a_line_beyond_the_limit_is_passed_over() {
        let expected = vec![(1, Ok(b"12345".to_vec())), (2, Err(6)), (3, Ok(b"1".to_vec())), (4, Err(12))];
        assert_eq!(lines(b"12345\n123456\n1\n123456789012", 5), expected);
    }

    #[test]
    fn peeking_takes_nothing() {
        let mut reader = LineReader::new(Box::new(Cursor::new(b"a\nb".to_vec())), &Arc::from("test")).unwrap();
        assert_eq!(reader.peek().unwrap().unwrap().number, 1);
        assert_eq!(reader.next_line().unwrap().unwrap().number, 1);
        assert_eq!(reader.next_line().unwrap().unwrap().number, 2);
        assert!(reader.peek().unwrap().is_none());
    }
}
