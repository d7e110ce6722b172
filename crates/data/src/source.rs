//! Where rows come from: a file, any reader, or memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Fault, Rejection};
use crate::form::{self, Columns, Form};
use crate::numbers::{self, NumberColumn};
use crate::read::{Files, Raw, Reader};
use crate::row::{Example, Origin, Record, Row};
use crate::rows::RowRange;
use crate::teacher::{self, TeacherColumn};

/// What to read and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceOptions {
    /// A file, a directory, a glob, or `-` for standard input, in any format that is read (told by the content). For
    /// [`Source::from_reader`], its name in messages.
    pub path: PathBuf,
    /// The layout of its rows.
    pub form: Form,
    /// Which rows are read.
    pub rows: RowRange,
    /// Our name of a column → its name in the file, as `completion` → `response`.
    pub columns: BTreeMap<String, String>,
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
    form: Form,
    columns: Columns,
    rows: RowRange,
    strict: bool,
    numbers: Arc<[NumberColumn]>,
    teacher: TeacherColumn,
}

#[derive(Clone)]
enum Kind {
    Files(Files),
    Rows(Arc<[Row]>),
    Records(Arc<[Record]>),
    Examples(Arc<[Example]>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.file)
            .field("form", &self.form)
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
        Self::of_files(Files::open(&options.path, None)?, options)
    }

    /// Reads from any reader, once: a second epoch is an error.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn from_reader(reader: impl BufRead + Send + 'static, options: &SourceOptions) -> Result<Self, Error> {
        let name = options.path.to_string_lossy();
        Self::of_files(Files::of_reader(reader, if name.is_empty() { "<reader>" } else { &name })?, options)
    }

    fn of_files(files: Files, options: &SourceOptions) -> Result<Self, Error> {
        let (form, columns) = inspect(&files, options)?;
        Ok(Self::of_lines(Arc::clone(files.name()), Kind::Files(files), form, columns, options))
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

    /// The form of its rows; [`Form::Auto`] for rows from memory.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
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
            Kind::Files(files) => Items::Files(files.pass()?),
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
            (Item::Raw(raw), _) => match raw.object().and_then(|object| self.record(&object)) {
                Ok(record) => Ok(Parsed::Record(raw.origin, record)),
                Err(fault) => Err(fault.at(&raw.origin)),
            },
        }
    }

    fn record(&self, object: &Map<String, Value>) -> Result<Record, Fault> {
        let row = form::parse(self.form, object, &self.columns)?;
        let numbers = numbers::read(&self.numbers, &row, object, &self.columns)?;
        let teacher = teacher::read(self.teacher, &row, object, &self.columns)?;
        Ok(Record { numbers, teacher, ..Record::from(row) })
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

    fn of_lines(file: Arc<str>, kind: Kind, form: Form, columns: Columns, options: &SourceOptions) -> Self {
        Self {
            file,
            kind,
            form,
            columns,
            rows: options.rows,
            strict: options.strict,
            numbers: options.numbers.as_slice().into(),
            teacher: options.teacher,
        }
    }

    fn of_memory(kind: Kind) -> Self {
        let file = Origin::memory(0).file;
        Self::of_lines(file, kind, Form::Auto, Columns::default(), &SourceOptions::default())
    }
}

/// One selected row, not yet looked into.
#[derive(Debug)]
pub(crate) enum Item {
    Raw(Raw),
    /// Of rows in memory.
    Index(usize),
}

/// A row looked into.
#[derive(Debug)]
pub(crate) enum Parsed {
    Record(Origin, Record),
    Example(Example),
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
    Files(Reader),
    Memory(usize),
}

impl Pass {
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if self.range.end.is_some_and(|end| self.next >= end) {
                return Ok(None);
            }
            let item = match &mut self.items {
                Items::Files(reader) => reader.next_raw()?.map(Item::Raw),
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

/// The form of the first row, unless given, and the column mapping.
fn inspect(files: &Files, options: &SourceOptions) -> Result<(Form, Columns), Error> {
    let columns = Columns::new(&options.columns, &options.numbers)?;
    let Some(first) = files.first()? else {
        return Err(Error::NoRows { file: Arc::clone(files.name()) });
    };
    let form = match options.form {
        Form::Auto => detect(&first, &columns)?,
        form => form,
    };
    Ok((form, columns))
}

fn detect(first: &Raw, columns: &Columns) -> Result<Form, Error> {
    let object = first.object().map_err(|fault| Error::Rejected(fault.at(&first.origin)))?;
    form::detect(&object, columns).map_err(|(found, expected, hint)| Error::UnknownForm {
        file: Arc::clone(&first.origin.file),
        line: first.origin.line,
        found,
        expected,
        hint,
    })
}
