//! Where rows come from: a file, any reader, or memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::{Error, Fault, Reason, Rejection, excerpt};
use crate::form::{self, ColumnPath, Columns, Form, Reading, Ties};
use crate::numbers::{self, NumberColumn};
use crate::read::{Line, LineReader, LineText, MAX_LINE_BYTES};
use crate::row::{Example, Origin, Record, Row};
use crate::rows::RowRange;
use crate::teacher::{self, TeacherColumn};

/// What to read and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceOptions {
    /// A file of one JSON object a line, plain or gzip (told by its content). For [`Source::from_reader`], its name in messages.
    pub path: PathBuf,
    /// The layout of its rows.
    pub form: Form,
    /// Which rows are read.
    pub rows: RowRange,
    /// Our name of a column → its place in the file, as `completion` → `response`.
    pub columns: BTreeMap<String, ColumnPath>,
    /// Which attribute or label decides, where rows have several: `safer`, `correctness`, …
    pub criterion: Option<String>,
    /// What becomes of rows whose completions were found even.
    pub ties: Ties,
    /// Whether a row that cannot be used ends the run; else it is set aside and reported.
    pub strict: bool,
    /// Numbers that every row must bring beside its texts.
    pub numbers: Vec<NumberColumn>,
    /// What every row must bring of a teacher.
    pub teacher: TeacherColumn,
}

impl SourceOptions {
    /// Everything by default for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

/// Rows that can be read in passes, one an epoch; cheap to clone.
#[derive(Clone)]
pub struct Source {
    file: Arc<str>,
    kind: Kind,
    reading: Arc<Reading>,
    rows: RowRange,
    strict: bool,
    numbers: Arc<[NumberColumn]>,
    teacher: TeacherColumn,
}

#[derive(Clone)]
enum Kind {
    File(PathBuf),
    Reader(Arc<Mutex<Option<LineReader>>>),
    Rows(Arc<[Row]>),
    Records(Arc<[Record]>),
    Examples(Arc<[Example]>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("form", &self.reading.form)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a file and looks at its first row to tell the form.
    ///
    /// # Errors
    /// No such file, no rows, a first row that is not a JSON object or fits no form (when the form is not given), a
    /// compressed stream that is broken at its start, a mapping of an unknown column.
    pub fn open(options: &SourceOptions) -> Result<Self, Error> {
        let file: Arc<str> = options.path.to_string_lossy().into();
        let mut lines = LineReader::open(&options.path, &file)?;
        let reading = inspect(&file, &mut lines, options)?;
        Ok(Self::of_lines(file, Kind::File(options.path.clone()), reading, options))
    }

    /// Reads from any reader, once: a second epoch is an error.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn from_reader(reader: impl BufRead + Send + 'static, options: &SourceOptions) -> Result<Self, Error> {
        let name = options.path.to_string_lossy();
        let file: Arc<str> = if name.is_empty() { "<reader>".into() } else { name.into() };
        let mut lines = LineReader::new(Box::new(reader), &file)?;
        let reading = inspect(&file, &mut lines, options)?;
        let kind = Kind::Reader(Arc::new(Mutex::new(Some(lines))));
        Ok(Self::of_lines(file, kind, reading, options))
    }

    /// Rows an application holds.
    pub fn from_rows(rows: impl Into<Arc<[Row]>>) -> Self {
        Self::of_memory(Kind::Rows(rows.into()))
    }

    /// Rows an application holds, with the numbers and the teacher it has for them.
    pub fn from_records(records: impl Into<Arc<[Record]>>) -> Self {
        Self::of_memory(Kind::Records(records.into()))
    }

    /// Examples an application has encoded; they are handed on as they are.
    pub fn from_examples(examples: impl Into<Arc<[Example]>>) -> Self {
        Self::of_memory(Kind::Examples(examples.into()))
    }

    /// The same source, where a row that cannot be used ends the run (or not).
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The same source, of which only a range of rows is read.
    #[must_use]
    pub fn select(mut self, rows: RowRange) -> Self {
        self.rows = rows;
        self
    }

    /// The same source, of which every row must bring these numbers.
    #[must_use]
    pub fn with_numbers(mut self, numbers: impl Into<Arc<[NumberColumn]>>) -> Self {
        self.numbers = numbers.into();
        self
    }

    /// The same source, of which every row must bring this of a teacher.
    #[must_use]
    pub fn with_teacher(mut self, teacher: TeacherColumn) -> Self {
        self.teacher = teacher;
        self
    }

    /// Its rows in file order, without tokens.
    ///
    /// # Errors
    /// The file cannot be opened, or the source holds encoded examples.
    pub fn records(&self) -> Result<Records, Error> {
        if matches!(self.kind, Kind::Examples(_)) {
            return Err(Error::Option {
                name: "records",
                got: "a source of encoded examples".to_owned(),
                expected: "rows: of a file, or from Source::from_rows or Source::from_records",
            });
        }
        Ok(Records { pass: self.pass()?, source: self.clone() })
    }

    /// The form of its rows; [`Form::Auto`] for rows from memory.
    #[must_use]
    pub fn form(&self) -> Form {
        self.reading.form
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.file
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(crate) fn range(&self) -> RowRange {
        self.rows
    }

    /// A new pass over the selected rows.
    pub(crate) fn pass(&self) -> Result<Pass, Error> {
        let rows = match &self.kind {
            Kind::File(path) => Items::Lines(LineReader::open(path, &self.file)?),
            Kind::Reader(reader) => {
                let taken = reader.lock().unwrap_or_else(PoisonError::into_inner).take();
                Items::Lines(taken.ok_or_else(|| Error::SinglePass { file: self.file.clone() })?)
            }
            Kind::Rows(rows) => Items::Memory(rows.len()),
            Kind::Records(records) => Items::Memory(records.len()),
            Kind::Examples(examples) => Items::Memory(examples.len()),
        };
        Ok(Pass { items: rows, next: 0, range: self.rows })
    }

    /// What a drawn item says.
    pub(crate) fn parse(&self, item: Item) -> Result<Parsed, Rejection> {
        match (item, &self.kind) {
            (Item::Index(index), Kind::Rows(rows)) => self.remember(index, rows[index].clone().into()),
            (Item::Index(index), Kind::Records(records)) => self.remember(index, records[index].clone()),
            (Item::Index(index), Kind::Examples(examples)) => {
                let example = &examples[index];
                numbers::check(&self.numbers, &example.numbers)
                    .and_then(|()| teacher::check_example(self.teacher, example))
                    .map_err(|fault| fault.at(&example.origin))?;
                Ok(Parsed::Example(example.clone()))
            }
            (Item::Index(_), _) => unreachable!("a pass over lines gives lines"),
            (Item::Line(line), _) => {
                let origin = Origin::line(self.file.clone(), line.number);
                match object(&line).and_then(|object| self.record(&object)) {
                    Ok(record) => Ok(Parsed::Record(origin, record)),
                    Err(fault) => Err(fault.at(&origin)),
                }
            }
        }
    }

    fn record(&self, object: &Map<String, Value>) -> Result<Record, Fault> {
        let mut record = form::parse(&self.reading, object)?;
        let columns = &self.reading.columns;
        let numbers = numbers::read(&self.numbers, &record, object, columns)?;
        record.numbers.extend(numbers);
        record.teacher = teacher::read(self.teacher, &record.row, object, columns)?;
        Ok(record)
    }

    fn remember(&self, index: usize, record: Record) -> Result<Parsed, Rejection> {
        let origin = Origin::memory(index as u64 + 1);
        let checked =
            numbers::check(&self.numbers, &record.numbers).and_then(|()| teacher::check(self.teacher, &record.teacher));
        match checked {
            Ok(()) => Ok(Parsed::Record(origin, record)),
            Err(fault) => Err(fault.at(&origin)),
        }
    }

    fn of_lines(file: Arc<str>, kind: Kind, reading: Reading, options: &SourceOptions) -> Self {
        Self {
            file,
            kind,
            reading: Arc::new(reading),
            rows: options.rows,
            strict: options.strict,
            numbers: options.numbers.as_slice().into(),
            teacher: options.teacher,
        }
    }

    fn of_memory(kind: Kind) -> Self {
        let file = Origin::memory(0).file;
        Self::of_lines(file, kind, Reading::default(), &SourceOptions::default())
    }
}

/// One selected row, not yet looked into.
#[derive(Debug)]
pub(crate) enum Item {
    Line(Line),
    /// Of rows in memory.
    Index(usize),
}

/// A row looked into.
#[derive(Debug)]
pub(crate) enum Parsed {
    Record(Origin, Record),
    Example(Example),
}

/// The rows of a source in file order, each as a [`Record`] or with the reason why it cannot be used.
#[derive(Debug)]
pub struct Records {
    source: Source,
    pass: Pass,
}

impl Iterator for Records {
    type Item = Result<Result<(Origin, Record), Rejection>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = match self.pass.next_item() {
                Ok(item) => item?,
                Err(error) => return Some(Err(error)),
            };
            match self.source.parse(item) {
                Ok(Parsed::Record(origin, record)) => return Some(Ok(Ok((origin, record)))),
                Ok(Parsed::Example(_)) => {}
                Err(rejection) => return Some(Ok(Err(rejection))),
            }
        }
    }
}

/// One pass over the selected rows of a source.
#[derive(Debug)]
pub(crate) struct Pass {
    items: Items,
    next: u64,
    range: RowRange,
}

#[derive(Debug)]
enum Items {
    Lines(LineReader),
    Memory(usize),
}

impl Pass {
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if self.range.end.is_some_and(|end| self.next >= end) {
                return Ok(None);
            }
            let item = match &mut self.items {
                Items::Lines(lines) => lines.next_line()?.map(Item::Line),
                Items::Memory(count) => {
                    // A row in memory has an index that fits.
                    let index = usize::try_from(self.next).unwrap_or(usize::MAX);
                    (index < *count).then_some(Item::Index(index))
                }
            };
            let Some(item) = item else { return Ok(None) };
            self.next += 1;
            if self.next > self.range.start {
                return Ok(Some(item));
            }
        }
    }
}

/// How the rows are read: the form of the first row, unless given, and the column mapping.
fn inspect(file: &Arc<str>, lines: &mut LineReader, options: &SourceOptions) -> Result<Reading, Error> {
    let columns = Columns::new(&options.columns, &options.numbers)?;
    let reading = Reading::new(options.form, columns, options.criterion.clone(), options.ties, &options.numbers)?;
    let Some(first) = lines.peek()? else {
        return Err(Error::NoRows { file: file.clone() });
    };
    if let LineText::Bytes(bytes) = &first.text
        && options.form == Form::Auto
        && bytes.trim_ascii_start().starts_with(b"[")
    {
        return Err(Error::JsonArray { file: file.clone() });
    }
    let row = match (object(first), options.form) {
        (Ok(object), _) => vec![object],
        // A form that is given is not told from the rows.
        (Err(_), form) if form != Form::Auto => Vec::new(),
        (Err(fault), _) => return Err(Error::Rejected(fault.at(&Origin::line(file.clone(), first.number)))),
    };
    let line = first.number;
    reading.told_by(&row, file, |(found, expected, hint)| Error::UnknownForm {
        file: file.clone(),
        line,
        found,
        expected,
        hint,
    })
}

fn object(line: &Line) -> Result<Map<String, Value>, Fault> {
    let bytes = match &line.text {
        LineText::Bytes(bytes) => bytes,
        LineText::TooLong(length) => {
            return Err(Fault::new(Reason::LineTooLong, format!("{length} bytes, at most {MAX_LINE_BYTES} are read")));
        }
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Fault::new(Reason::NotUtf8, format!("byte {} of the line is not UTF-8", error.valid_up_to() + 1))
    })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Fault::new(Reason::NotJson, format!("column 1: expected an object, found {}", excerpt(text)))),
        Err(error) => Err(Fault::new(Reason::NotJson, format!("column {}: {}", error.column(), json_message(&error)))),
    }
}

/// serde_json's message without its own position, which counts lines from ours.
fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
