//! CSV and TSV as RFC 4180 has it: a header, then rows of as many cells; a cell in quotes may hold anything.

use std::collections::HashSet;
use std::io::BufRead;
use std::sync::Arc;

use super::input::Input;
use super::{MAX_LINE_BYTES, Raw, RawText, Rows, Start, sniff};
use crate::error::{Error, Reason, excerpt};
use crate::row::{Origin, Unit};

/// The rows of a table after its header.
pub(crate) struct Table {
    input: Input,
    delimiter: u8,
    /// For each column `"name":`; None for a column without a name, which is left out.
    keys: Vec<Option<Vec<u8>>>,
    names: Vec<String>,
    /// Rows read.
    number: u64,
    /// Offset after the row read last.
    end: u64,
    limit: usize,
    /// Cells of a row whose places are kept; the others are counted.
    most_cells: usize,
}

/// Most columns of a table.
const MAX_COLUMNS: usize = 1 << 14;

/// Most bytes of a column's name.
const MAX_NAME: usize = 200;

/// What stands between two breaks outside quotes.
#[derive(Debug, Default)]
struct Record {
    /// The cells one after the other.
    text: Vec<u8>,
    /// Where each ends, of the first `most_cells`.
    ends: Vec<usize>,
    most_cells: usize,
    /// How many there are.
    count: usize,
    /// Bytes, breaks and quotes included.
    length: u64,
    /// A cell, counted from 0, after whose closing quote something stands.
    after_quote: Option<usize>,
    /// No delimiter and no quote.
    plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Unquoted,
    Quoted,
    /// After a quote in a quoted cell: its end, or the first of two that stand for one.
    Quote,
    /// After a carriage return outside quotes.
    Return,
}

impl Table {
    /// A table from its beginning.
    pub(crate) fn new(input: Input, delimiter: u8) -> Result<Self, Error> {
        let (keys, names) = (Vec::new(), Vec::new());
        let (limit, most_cells) = (MAX_LINE_BYTES, MAX_COLUMNS);
        let mut table = Self { input, delimiter, keys, names, number: 0, end: 0, limit, most_cells };
        table.read_header()?;
        // One more tells that a row is too long.
        table.most_cells = table.names.len() + 1;
        Ok(table)
    }

    /// A table without a header, whose columns are these.
    pub(crate) fn without_header(input: Input, delimiter: u8, names: &[String]) -> Result<Self, Error> {
        let (keys, limit) = (Vec::new(), MAX_LINE_BYTES);
        let mut table = Self {
            input,
            delimiter,
            keys,
            names: names.to_vec(),
            number: 0,
            end: 0,
            limit,
            most_cells: names.len() + 1,
        };
        table.pass_over_mark()?;
        table.check_names()?;
        Ok(table)
    }

    /// The same table from the end of a row on, of which `number` stand before.
    pub(crate) fn go_to(&mut self, input: Input, number: u64) {
        self.end = input.offset();
        self.input = input;
        self.number = number;
    }

    fn read_header(&mut self) -> Result<(), Error> {
        self.pass_over_mark()?;
        let Some(record) = self.record()? else { return Ok(()) };
        let wrong = |message| Error::Format { file: Arc::clone(self.input.file()), message };
        if record.length > self.limit as u64 {
            return Err(wrong(format!("its header is {} bytes long; {NO_HEADER}", record.length)));
        }
        if record.count > MAX_COLUMNS {
            let message = format!("its header has {} cells, at most {MAX_COLUMNS} are read; {NO_HEADER}", record.count);
            return Err(wrong(message));
        }
        self.names = record.cells().map(name).collect();
        self.check_names()
    }

    fn pass_over_mark(&mut self) -> Result<(), Error> {
        if self.input.head().starts_with(sniff::BYTE_ORDER_MARK) {
            self.input.advance(sniff::BYTE_ORDER_MARK.len() as u64)?;
        }
        Ok(())
    }

    fn check_names(&mut self) -> Result<(), Error> {
        let wrong = |message| Error::Format { file: Arc::clone(self.input.file()), message };
        check(&self.names, self.delimiter).map_err(wrong)?;
        let key = |name: &String| (!name.is_empty()).then(|| [json(name).as_slice(), b":"].concat());
        self.keys = self.names.iter().map(key).collect();
        Ok(())
    }

    fn origin(&self) -> Origin {
        Origin { file: Arc::clone(self.input.file()), line: self.number + 1, unit: Unit::Row }
    }

    /// The next record that is no blank line; None at the end.
    fn record(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some(record) = self.read_record()? else { return Ok(None) };
            if !(record.plain && record.text.trim_ascii().is_empty() && record.length <= self.limit as u64) {
                return Ok(Some(record));
            }
        }
    }

    fn read_record(&mut self) -> Result<Option<Record>, Error> {
        let mut record = Record { plain: true, most_cells: self.most_cells, ..Record::default() };
        let mut state = State::Start;
        loop {
            // The borrow of an answer in hand would outlive the error's need of `self`.
            if let Err(error) = self.input.fill_buf() {
                return Err(self.input.failure(error, self.origin()));
            }
            let chunk = self.input.fill_buf().unwrap_or_default();
            if chunk.is_empty() {
                return self.end_of_file(record, state);
            }
            let (taken, done) = record.feed(chunk, &mut state, self.delimiter, self.limit);
            self.input.consume(taken);
            record.length += taken as u64;
            if done {
                return Ok(Some(record));
            }
        }
    }

    fn end_of_file(&self, mut record: Record, state: State) -> Result<Option<Record>, Error> {
        match state {
            State::Quoted => Err(Error::Broken {
                origin: self.origin(),
                message: format!(
                    "the file ends inside the quotes of cell {}; close them, a quote inside a cell is written twice, or \
                     copy the file again if it was cut short",
                    record.count + 1
                ),
            }),
            State::Start if record.length == 0 => Ok(None),
            State::Return => Ok(Some(record)),
            _ => {
                record.end_cell();
                Ok(Some(record))
            }
        }
    }

    /// A record as the text of an object.
    fn text(&self, record: &Record) -> RawText {
        if record.length > self.limit as u64 {
            return RawText::TooLong(record.length);
        }
        let malformed = |detail| RawText::Fault(Reason::MalformedRow, detail);
        let column = |index: usize| self.names.get(index).map_or("", String::as_str);
        if let Some(cell) = record.after_quote {
            return malformed(format!(
                "text follows the closing quote of cell {} (`{}`); a quote inside a quoted cell is written twice",
                cell + 1,
                column(cell)
            ));
        }
        if record.count != self.names.len() {
            return malformed(format!(
                "{} cell(s), the header has {}; a cell that holds a delimiter or a line break has to stand in quotes",
                record.count,
                self.names.len()
            ));
        }
        let mut bytes = Vec::with_capacity(record.text.len() + record.text.len() / 8 + 16 * self.keys.len());
        bytes.push(b'{');
        for (index, (cell, key)) in record.cells().zip(&self.keys).enumerate() {
            let Some(key) = key else { continue };
            let cell = match std::str::from_utf8(cell) {
                Ok(cell) if cell.contains('\0') => {
                    return malformed(format!(
                        "column `{}` holds a NUL byte; the file was damaged, copy it again",
                        column(index)
                    ));
                }
                Ok(cell) => cell,
                Err(error) => {
                    let place = error.valid_up_to() + 1;
                    let detail =
                        format!("byte {place} of column `{}` is not UTF-8; save the file as UTF-8", column(index));
                    return RawText::Fault(Reason::NotUtf8, detail);
                }
            };
            if bytes.len() > 1 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&if cell.is_empty() { b"null".to_vec() } else { json(cell) });
        }
        bytes.push(b'}');
        RawText::Json { bytes, start: Start::Line }
    }
}

impl Rows for Table {
    fn next_raw(&mut self) -> Result<Option<Raw>, Error> {
        let Some(record) = self.record()? else { return Ok(None) };
        let raw = Raw { origin: self.origin(), text: self.text(&record) };
        self.number += 1;
        self.end = self.input.offset();
        Ok(Some(raw))
    }

    fn place(&self) -> (u64, u64) {
        (self.end, self.number)
    }
}

impl Record {
    fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    fn end_cell(&mut self) {
        self.count += 1;
        if self.ends.len() < self.most_cells {
            self.ends.push(self.text.len());
        }
    }

    /// Takes bytes up to the end of the record: how many, and whether it ended.
    fn feed(&mut self, chunk: &[u8], state: &mut State, delimiter: u8, limit: usize) -> (usize, bool) {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if *state == State::Return {
                // A line feed belongs to the carriage return before it.
                return (at + usize::from(byte == b'\n'), true);
            }
            let special =
                byte == b'"' || (*state != State::Quoted && (byte == delimiter || byte == b'\n' || byte == b'\r'));
            if !special {
                let rest = chunk.get(at..).unwrap_or_default();
                let quoted = *state == State::Quoted;
                let plain =
                    |byte: &u8| *byte == b'"' || (!quoted && (*byte == delimiter || *byte == b'\n' || *byte == b'\r'));
                let run = rest.iter().position(plain).unwrap_or(rest.len());
                self.hold(rest.get(..run).unwrap_or(rest), state, limit, self.length + at as u64);
                at += run;
                continue;
            }
            at += 1;
            match (byte, *state) {
                (b'"', State::Start) => {
                    self.plain = false;
                    *state = State::Quoted;
                }
                (b'"', State::Quoted) => *state = State::Quote,
                (b'"', State::Quote) => {
                    self.hold(b"\"", &mut State::Quoted, limit, self.length + at as u64);
                    *state = State::Quoted;
                }
                // A quote in a cell that does not begin with one stands for itself.
                (b'"', _) => self.hold(b"\"", state, limit, self.length + at as u64),
                (b'\n', _) => {
                    self.end_cell();
                    return (at, true);
                }
                (b'\r', _) => {
                    self.end_cell();
                    *state = State::Return;
                }
                _ => {
                    self.plain = false;
                    self.end_cell();
                    *state = State::Start;
                }
            }
        }
        (at, false)
    }

    /// Keeps bytes of a cell as long as the record is short enough to be used.
    fn hold(&mut self, bytes: &[u8], state: &mut State, limit: usize, read: u64) {
        match *state {
            State::Start => *state = State::Unquoted,
            State::Quote => {
                self.after_quote.get_or_insert(self.count);
                *state = State::Unquoted;
            }
            _ => {}
        }
        if read + bytes.len() as u64 <= limit as u64 {
            self.text.extend_from_slice(bytes);
        } else {
            self.text = Vec::new();
        }
    }
}

const NO_HEADER: &str = "the first row has to hold the names of the columns";

/// The name that a cell of the header holds; of one that is far too long, the beginning.
fn name(cell: &[u8]) -> String {
    let cell = cell.trim_ascii_start();
    String::from_utf8_lossy(cell.get(..8 * MAX_NAME).unwrap_or(cell)).trim().to_owned()
}

/// Whether the first row can be the header.
fn check(names: &[String], delimiter: u8) -> Result<(), String> {
    if let [only] = names
        && let Some(other) =
            [',', ';', '\t', '|'].into_iter().find(|&other| other != char::from(delimiter) && only.contains(other))
    {
        return Err(format!(
            "its first row {} seems to be separated by {other:?}, expected {:?}; .csv files are separated by commas, .tsv \
             files by tabs",
            excerpt(only),
            char::from(delimiter)
        ));
    }
    if let Some(name) = names.iter().find(|name| name.len() > MAX_NAME || name.contains('\n')) {
        return Err(format!("its first row holds {}, which is no name of a column; {NO_HEADER}", excerpt(name)));
    }
    if names.iter().all(|name| name.parse::<f64>().is_ok()) {
        return Err(format!("its first row holds only numbers; {NO_HEADER}"));
    }
    // The first name is empty where pandas writes its index.
    if let Some(index) = names.iter().skip(1).position(String::is_empty) {
        return Err(format!("column {} has no name; {NO_HEADER}", index + 2));
    }
    let mut seen = HashSet::new();
    let twice = names.iter().enumerate().find(|(_, name)| !seen.insert(*name));
    match twice {
        Some((index, name)) => Err(format!("column {} is named {name:?} as one before; rename it", index + 1)),
        None => Ok(()),
    }
}

fn json(text: &str) -> Vec<u8> {
    serde_json::Value::from(text).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_beyond_the_columns_are_counted_not_kept() {
        let text = format!("a,b\n1,2\n{}\n3,4\n", ",".repeat(100_000));
        let mut table = Table::new(Input::of_memory(text.as_bytes(), 64), b',').unwrap();
        let record = table.record().unwrap().unwrap();
        assert_eq!((record.count, record.ends.len()), (2, 2));
        let record = table.record().unwrap().unwrap();
        assert_eq!((record.count, record.ends.len()), (100_001, 3));
        let RawText::Fault(Reason::MalformedRow, detail) = table.text(&record) else { panic!("a row of two columns") };
        assert!(detail.starts_with("100001 cell(s), the header has 2"), "{detail}");
        let record = table.record().unwrap().unwrap();
        assert!(matches!(table.text(&record), RawText::Json { bytes, .. } if bytes == br#"{"a":"3","b":"4"}"#));
    }

    #[test]
    fn headers_that_name_no_columns() {
        let refused = |text: &str| {
            let Err(error) = Table::new(Input::of_memory(text.as_bytes(), 1 << 12), b',') else { panic!("a header") };
            error.to_string()
        };
        let many = |count: usize| (0..count).map(|name| format!("c{name}")).collect::<Vec<_>>().join(",");
        let error = refused(&many(MAX_COLUMNS + 1));
        assert!(error.contains("its header has 16385 cells, at most 16384 are read"), "{error}");
        assert_eq!(
            Table::new(Input::of_memory(many(MAX_COLUMNS).as_bytes(), 1 << 12), b',').ok().unwrap().names.len(),
            16384
        );
        assert!(refused(&format!("a,{}", "b".repeat(100_000))).contains("which is no name of a column"));
        let error = refused(&format!("{},c7", many(MAX_COLUMNS - 1)));
        assert!(error.contains("column 16384 is named \"c7\" as one before"), "{error}");
        let error = refused(&format!("a;{};b\n", "c".repeat(300)));
        assert!(error.contains("seems to be separated by ';'"), "{error}");
    }

    /// The rows of a table whose buffer is small, each as its text or as the length of what is too long.
    fn rows(text: &str, limit: usize) -> Vec<Result<String, u64>> {
        let mut table = Table::new(Input::of_memory(text.as_bytes(), 3), b',').unwrap();
        table.limit = limit;
        let mut rows = Vec::new();
        while let Some(raw) = table.next_raw().unwrap() {
            assert_eq!(raw.origin.line, rows.len() as u64 + 1);
            rows.push(match raw.text {
                RawText::Json { bytes, .. } => Ok(String::from_utf8(bytes).unwrap()),
                RawText::TooLong(length) => Err(length),
                RawText::Fault(_, detail) => unreachable!("{detail}"),
            });
        }
        assert_eq!(table.place(), (text.len() as u64, rows.len() as u64));
        rows
    }

    #[test]
    fn a_row_beyond_the_limit_is_passed_over() {
        let short = Ok(r#"{"a":"1","b":"2"}"#.to_owned());
        // With its break the second row is 10 bytes long.
        for long in ["123,56789\n", "\"2\n4\",7\"9\n", "\"2\"\"\",7,9\n", "1234567,9\n", "\"      \"\r\n"] {
            assert_eq!(long.len(), 10);
            let text = format!("a,b\n1,2\n{long}1,2\n");
            assert_eq!(rows(&text, 9), [short.clone(), Err(10), short.clone()], "{long:?}");
        }
        assert_eq!(rows("a,b\n1,2\n123,56789\n", 10)[1], Ok(r#"{"a":"123","b":"56789"}"#.to_owned()));
        assert_eq!(rows("a,b\n1,2\n123,567890", 9), [short, Err(10)]);
    }
}
