//! JSON Lines: one object a line, blank lines left out.

use std::sync::Arc;

use super::input::Input;
use super::{MAX_LINE_BYTES, Raw, RawText, Rows, Start, sniff};
use crate::error::Error;
use crate::row::{Origin, Unit};

/// The non-blank lines of a file.
pub(crate) struct Lines {
    input: Input,
    /// Lines read, blank ones counted.
    line: u64,
    limit: usize,
}

impl Lines {
    /// From a place between two lines, of which `line` stand before it.
    pub(crate) fn new(input: Input, line: u64) -> Self {
        Self { input, line, limit: MAX_LINE_BYTES }
    }

    fn origin(&self, line: u64) -> Origin {
        Origin { file: Arc::clone(self.input.file()), line, unit: Unit::Line }
    }

    /// One line with its break; None at the end.
    fn read_line(&mut self) -> Result<Option<RawText>, Error> {
        let mut bytes = Vec::new();
        // The break does not count.
        let taken = self.input.take_until(b'\n', self.limit + 1, &mut bytes);
        taken.map_err(|error| self.input.failure(error, self.origin(self.line + 1)))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > self.limit {
            let held = bytes.len() as u64;
            drop(bytes);
            let rest =
                self.input.skip_until(b'\n').map_err(|error| self.input.failure(error, self.origin(self.line)))?;
            return Ok(Some(RawText::TooLong(held + rest)));
        }
        Ok(Some(RawText::Json { bytes, start: Start::Line }))
    }
}

impl Rows for Lines {
    fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        while let Some(text) = self.read_line()? {
            let text = match text {
                RawText::Json { mut bytes, start } => {
                    if self.line == 1 && bytes.starts_with(sniff::BYTE_ORDER_MARK) {
                        bytes.drain(..sniff::BYTE_ORDER_MARK.len());
                    }
                    if bytes.trim_ascii_start().is_empty() {
                        continue;
                    }
                    RawText::Json { bytes, start }
                }
                other => other,
            };
            return Ok(Some(Raw { origin: self.origin(self.line), text }));
        }
        Ok(None)
    }

    fn place(&self) -> (u64, u64) {
        (self.input.offset(), self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], limit: usize) -> Vec<(u64, Result<Vec<u8>, u64>)> {
        let mut reader = Lines { input: Input::of_memory(text, 3), line: 0, limit };
        let mut lines = Vec::new();
        while let Some(raw) = reader.next_raw().unwrap() {
            let text = match raw.text {
                RawText::Json { bytes, .. } => Ok(bytes),
                RawText::TooLong(length) => Err(length),
                RawText::Fault(_, detail) => unreachable!("{detail}"),
            };
            lines.push((raw.origin.line, text));
        }
        assert_eq!(reader.place().0, text.len() as u64);
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
        assert_eq!(lines(b"123456\n", 5), [(1, Err(6))]);
    }
}
