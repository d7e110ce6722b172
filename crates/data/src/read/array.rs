//! One JSON array, element by element: only the element being read is held.

use std::io::BufRead;
use std::sync::Arc;

use super::input::Input;
use super::{MAX_LINE_BYTES, Raw, RawText, Rows, Start, sniff};
use crate::error::{Error, excerpt};
use crate::row::{Origin, Unit};

/// The elements of an array that is a whole file.
pub(crate) struct Array {
    input: Input,
    state: State,
    /// Elements read.
    number: u64,
    /// Offset after the element read last.
    end: u64,
    /// Where the input stands, if it was read from its beginning.
    text: Option<Place>,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    AfterElement,
    End,
}

/// Line and column of the next byte, 1-based.
#[derive(Clone, Copy, Debug)]
struct Place {
    line: u64,
    column: u64,
}

impl Array {
    /// From the start of the file, or from the end of an element, of which `number` stand before.
    pub(crate) fn new(input: Input, number: u64) -> Self {
        let end = input.offset();
        let (state, text) = match end {
            0 => (State::Start, Some(Place { line: 1, column: 1 })),
            _ => (State::AfterElement, None),
        };
        Self { input, state, number, end, text, limit: MAX_LINE_BYTES }
    }

    fn origin(&self) -> Origin {
        Origin { file: Arc::clone(self.input.file()), line: self.number + 1, unit: Unit::Row }
    }

    fn broken(&self, message: String) -> Error {
        Error::Broken { origin: self.origin(), message }
    }

    /// Where the next byte stands, in words.
    fn here(&self) -> String {
        match self.text {
            Some(Place { line, column }) => format!("line {line}, column {column}"),
            None => format!("byte {} of the text", self.input.offset() + 1),
        }
    }

    fn chunk(&mut self) -> Result<&[u8], Error> {
        // The borrow of an answer in hand would outlive the error's need of `self`.
        if let Err(error) = self.input.fill_buf() {
            return Err(self.input.failure(error, self.origin()));
        }
        Ok(self.input.fill_buf().unwrap_or_default())
    }

    fn consume(&mut self, count: usize) -> Result<(), Error> {
        let before = self.text;
        if let Some(mut place) = before {
            let chunk = self.chunk()?;
            place.pass(chunk.get(..count).unwrap_or(chunk));
            self.text = Some(place);
        }
        self.input.consume(count);
        Ok(())
    }

    /// The next byte that is no white space, not taken; None at the end.
    fn next_byte(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let blank = chunk.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
            let found = blank.and_then(|at| chunk.get(at).copied());
            let count = blank.unwrap_or(chunk.len());
            self.consume(count)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Goes to the first byte of the next element; false at the end of the array.
    fn go_to_element(&mut self) -> Result<bool, Error> {
        match self.state {
            State::End => return Ok(false),
            State::Start => {
                self.open()?;
                if self.next_byte()? == Some(b']') {
                    return self.close();
                }
            }
            State::AfterElement => match self.next_byte()? {
                Some(b',') => {
                    self.consume(1)?;
                    if self.next_byte()? == Some(b']') {
                        let here = self.here();
                        return Err(self.broken(format!(
                            "a comma stands before the end of the array ({here}); take it away, or copy the file again if \
                             rows are missing"
                        )));
                    }
                }
                Some(b']') => return self.close(),
                Some(_) => return Err(self.unexpected("`,` or `]` after the row before")?),
                None => return Err(self.unended()),
            },
        }
        match self.next_byte()? {
            Some(b',' | b']' | b'}' | b':') => Err(self.unexpected("an element of the array")?),
            Some(_) => Ok(true),
            None => Err(self.unended()),
        }
    }

    fn open(&mut self) -> Result<(), Error> {
        let mark = self.chunk()?.starts_with(sniff::BYTE_ORDER_MARK);
        if mark {
            self.input.consume(sniff::BYTE_ORDER_MARK.len());
        }
        match self.next_byte()? {
            Some(b'[') => self.consume(1),
            _ => Err(self.unexpected("`[`")?),
        }
    }

    fn close(&mut self) -> Result<bool, Error> {
        self.consume(1)?;
        self.state = State::End;
        match self.next_byte()? {
            None => Ok(false),
            Some(_) => Err(self
                .unexpected("nothing after the end of the array (for several arrays, join them with `jq -c '.[]'`)")?),
        }
    }

    fn unended(&self) -> Error {
        self.broken("the file ends before the array does; it was cut short, copy it again".to_owned())
    }

    fn unexpected(&mut self, expected: &str) -> Result<Error, Error> {
        let here = self.here();
        let chunk = self.chunk()?;
        let found = excerpt(&String::from_utf8_lossy(chunk.get(..20).unwrap_or(chunk)));
        Ok(self.broken(format!("{here}: expected {expected}, found {found}")))
    }

    /// The bytes of an element, or how many there are if they are too many.
    fn element(&mut self) -> Result<Result<Vec<u8>, u64>, Error> {
        let mut scan = Scan::default();
        let mut bytes = Vec::new();
        let mut length = 0u64;
        loop {
            let limit = self.limit;
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return if scan.is_scalar() { Ok(Ok(bytes)) } else { Err(self.unended()) };
            }
            let end = scan.feed(chunk);
            let taken = end.unwrap_or(chunk.len());
            length += taken as u64;
            if length <= limit as u64 {
                bytes.extend_from_slice(chunk.get(..taken).unwrap_or(chunk));
            } else {
                bytes = Vec::new();
            }
            self.consume(taken)?;
            if end.is_some() {
                return Ok(if length <= limit as u64 { Ok(bytes) } else { Err(length) });
            }
        }
    }
}

impl Rows for Array {
    fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        if !self.go_to_element()? {
            return Ok(None);
        }
        let start = match self.text {
            Some(Place { line, column }) => Start::Text { line, column },
            None => Start::Byte(self.input.offset()),
        };
        let element = self.element()?;
        let origin = self.origin();
        self.number += 1;
        self.end = self.input.offset();
        self.state = State::AfterElement;
        let text = match element {
            Ok(bytes) => RawText::Json { bytes, start },
            Err(length) => RawText::TooLong(length),
        };
        Ok(Some(Raw { origin, text }))
    }

    fn place(&self) -> (u64, u64) {
        (self.end, self.number)
    }
}

impl Place {
    fn pass(&mut self, bytes: &[u8]) {
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            None => self.column += bytes.len() as u64,
            Some(last) => {
                self.line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.column = (bytes.len() - last) as u64;
            }
        }
    }
}

/// Finds the end of one JSON value by its brackets and quotes; whether the value is right is not looked at.
#[derive(Debug, Default)]
struct Scan {
    kind: Kind,
    depth: u64,
    in_string: bool,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    /// An object, an array or a string: ends with its last byte.
    Closed,
    /// A number or a word: ends before what follows.
    Scalar,
}

impl Scan {
    fn is_scalar(&self) -> bool {
        self.kind == Kind::Scalar
    }

    /// How many of these bytes belong to the value, if it ends in them.
    fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        if self.kind == Kind::Unknown {
            self.kind = if matches!(chunk.first(), Some(b'{' | b'[' | b'"')) { Kind::Closed } else { Kind::Scalar };
        }
        if self.is_scalar() {
            return chunk.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n'));
        }
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            let step = if self.in_string { self.feed_string(rest) } else { self.feed_outside(rest) };
            at += step;
            if self.depth == 0 && !self.in_string {
                return Some(at);
            }
        }
        None
    }

    fn feed_string(&mut self, rest: &[u8]) -> usize {
        if self.escaped {
            self.escaped = false;
            return 1;
        }
        match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
            None => rest.len(),
            Some(at) => {
                self.escaped = rest.get(at) == Some(&b'\\');
                self.in_string = self.escaped;
                at + 1
            }
        }
    }

    fn feed_outside(&mut self, rest: &[u8]) -> usize {
        match rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']')) {
            None => rest.len(),
            Some(at) => {
                match rest.get(at) {
                    Some(b'"') => self.in_string = true,
                    Some(b'{' | b'[') => self.depth += 1,
                    _ => self.depth = self.depth.saturating_sub(1),
                }
                at + 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str, limit: usize) -> Result<Vec<Result<String, u64>>, String> {
        let mut whole = None;
        // Elements span buffers of every size.
        for capacity in [1, 2, 3, 7, 1000] {
            let mut array = Array::new(Input::of_memory(text.as_bytes(), capacity), 0);
            array.limit = limit;
            let mut found = Vec::new();
            let read = loop {
                match array.next_raw() {
                    Ok(Some(Raw { text: RawText::Json { bytes, .. }, .. })) => {
                        found.push(Ok(String::from_utf8(bytes).unwrap()));
                    }
                    Ok(Some(Raw { text: RawText::TooLong(length), .. })) => found.push(Err(length)),
                    Ok(Some(other)) => unreachable!("{other:?}"),
                    Ok(None) => break Ok(found),
                    Err(error) => break Err(error.to_string()),
                }
            };
            let first = whole.get_or_insert_with(|| read.clone());
            let same = match (&*first, &read) {
                (Ok(first), Ok(read)) => first == read,
                // What is shown of the text depends on the buffer.
                (Err(first), Err(read)) => first.split(", found").next() == read.split(", found").next(),
                _ => false,
            };
            assert!(same, "{capacity}: {first:?} {read:?}");
            whole = Some(read);
        }
        whole.unwrap()
    }

    #[test]
    fn elements_of_every_kind() {
        let ok = |text: &str| elements(text, 100).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(ok("[]"), [""; 0]);
        assert_eq!(ok(" [ \n] \n"), [""; 0]);
        assert_eq!(ok("\u{feff}[{}]"), ["{}"]);
        assert_eq!(
            ok(r#"[{"a": "]}\"\\"}, [1, {"b": []}],3 ,"x,]\"" , null,true]"#),
            [r#"{"a": "]}\"\\"}"#, r#"[1, {"b": []}]"#, "3", r#""x,]\"""#, "null", "true"]
        );
    }

    #[test]
    fn long_elements_are_passed_over() {
        assert_eq!(
            elements(r#"[{"a":1}, {"a":1234}, 1]"#, 8),
            Ok(vec![Ok("{\"a\":1}".into()), Err(10), Ok("1".into())])
        );
    }

    #[test]
    fn an_array_that_is_wrong_ends_with_its_place() {
        let error = |text: &str| elements(text, 100).unwrap_err();
        assert!(error("[{}, {}").starts_with("test: row 3: cannot read on: the file ends before the array does"));
        assert!(error("[{}, {").contains("row 2: cannot read on: the file ends before the array does"));
        assert!(
            error("[{},\n  ]")
                .contains("row 2: cannot read on: a comma stands before the end of the array (line 2, column 3)")
        );
        assert!(
            error("[{}\n {}]")
                .contains("row 2: cannot read on: line 2, column 2: expected `,` or `]` after the row before")
        );
        assert!(error("[{},,{}]").contains("line 1, column 5: expected an element of the array"));
        assert!(error("[{}] {}").contains("line 1, column 6: expected nothing after the end of the array"));
        assert!(error("[{}]\n]").contains("line 2, column 1"));
    }
}
