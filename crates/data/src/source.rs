//! Where rows come from: files, any reader, memory, or several of these.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Fault, Rejection};
use crate::form::{self, ColumnPath, Columns, Form, Reading, Ties};
use crate::mixture::{self, MixtureEnd, Shard};
use crate::numbers::{self, NumberColumn};
use crate::part::{Kind, Look, Met, Part, WhyLeftOut, origin};
use crate::pass::{Half, Item};
use crate::read::Files;
use crate::records::Records;
use crate::row::{Example, Origin, Record, Row};
use crate::rows::RowRange;
use crate::shape::SafetyOrder;
use crate::teacher::{self, TeacherColumn};

/// What to read and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceOptions {
    /// A file, a directory, a glob, or `-` for standard input, in any format that is read (told by the content). For
    /// [`Source::from_reader`], its name in messages.
    pub path: PathBuf,
    /// Files that are read in place of what `path` names, in this order; `path` then is only the name of them all. None by
    /// default.
    pub files: Vec<PathBuf>,
    /// Which split of a directory, a pattern or files that name several, as `train`.
    pub split: Option<String>,
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
    /// Columns whose words go along as labels, such as a category or an annotator; a row without one has no such label.
    pub labels: Vec<String>,
    /// What every row must bring of a teacher.
    pub teacher: TeacherColumn,
    /// Whether each pair becomes two labelled rows, a wanted and an unwanted one, which are shuffled apart.
    pub unpair: bool,
    /// By which label pairs are ordered, where rows bring labels of safety; by default as their form says.
    pub safety_order: Option<SafetyOrder>,
    /// Numbers that are the same for every row, whatever its columns say: `safer` = 0 for a file without labels of safety.
    /// They stand for the numbers of [`SourceOptions::numbers`] of their names.
    pub given_numbers: BTreeMap<String, f64>,
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
    name: Arc<str>,
    parts: Vec<Part>,
    end: MixtureEnd,
    /// Of the rows of a mixture.
    rows: RowRange,
    left_out: Option<WhyLeftOut>,
    shard: Shard,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .field("parts", &self.parts)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Opens files and looks at the first rows to tell the form.
    ///
    /// # Errors
    /// No such file, no rows, a first row that is not a JSON object or fits no form (when the form is not given), a
    /// compressed stream that is broken at its start, a mapping of an unknown column.
    pub fn open(options: &SourceOptions) -> Result<Self, Error> {
        let split = options.split.as_deref();
        if options.path.as_os_str() == "-" {
            Files::check_stream(split, &options.files)?;
        }
        let files = match options.files.as_slice() {
            [] => Files::open(&options.path, split)?,
            list => Files::of_list(&options.path, list, split)?,
        };
        Self::of_files(files, options)
    }

    /// Reads from any reader, once: a second epoch is an error.
    ///
    /// # Errors
    /// As [`Source::open`], and `split` or `files`, which a stream does not have.
    pub fn from_reader(reader: impl BufRead + Send + 'static, options: &SourceOptions) -> Result<Self, Error> {
        Files::check_stream(options.split.as_deref(), &options.files)?;
        let name = options.path.to_string_lossy();
        Self::of_files(Files::of_reader(reader, if name.is_empty() { "<reader>" } else { &name })?, options)
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

    /// Several sources as one, each with a weight: at any time the rows given are shared out as the weights are, to within
    /// a row, by a rule that draws nothing at random. Each part keeps its form, columns and range.
    ///
    /// # Errors
    /// No parts, a weight that is not above 0, a part that is a mixture or a shard itself.
    pub fn mixture(parts: Vec<(Self, f64)>, end: MixtureEnd) -> Result<Self, Error> {
        mixture::check_weights(parts.iter().map(|(_, weight)| *weight))?;
        let whole = parts.iter().find(|(source, _)| source.parts.len() != 1 || source.shard != Shard::default());
        if let Some((source, _)) = whole {
            return Err(Error::Option {
                name: "mixture.part",
                got: format!("{}, a mixture or a shard", source.name),
                expected: "sources that are whole; give the parts of a mixture one by one, and shard the mixture",
            });
        }
        let parts: Vec<Part> = parts
            .into_iter()
            .flat_map(|(source, weight)| source.parts.into_iter().map(move |part| Part { weight, ..part }))
            .collect();
        if parts.is_empty() {
            let expected = "at least one source with its weight";
            return Err(Error::Option { name: "mixture", got: "no parts".to_owned(), expected });
        }
        let name = parts.iter().map(|part| &*part.name).collect::<Vec<_>>().join(" + ").into();
        Ok(Self { name, parts, end, ..Self::from_rows([]) })
    }

    /// The same source under another name, in messages about the whole of it and in the report of a mixture.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        if let [part] = self.parts.as_mut_slice() {
            part.name = name.into();
        }
        self
    }

    /// The same source, where a row that cannot be used ends the run (or not).
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        self.each(|part| part.strict = strict)
    }

    /// The same source, of which only a range of rows is read; of a mixture, of its rows as they are mixed.
    #[must_use]
    pub fn select(mut self, rows: RowRange) -> Self {
        match self.parts.as_mut_slice() {
            [part] => part.rows = rows,
            _ => self.rows = rows,
        }
        self
    }

    /// The same source, of whose files these columns go along as [`Example::labels`](crate::Example::labels).
    #[must_use]
    pub fn with_labels(self, labels: impl Into<Arc<[String]>>) -> Self {
        let labels = labels.into();
        self.each(|part| part.labels = labels.clone())
    }

    /// The same source, of which every row must bring these numbers.
    #[must_use]
    pub fn with_numbers(self, numbers: impl Into<Arc<[NumberColumn]>>) -> Self {
        let numbers = numbers.into();
        self.each(|part| part.numbers = numbers.clone())
    }

    /// The same source, of which every row must bring this of a teacher.
    #[must_use]
    pub fn with_teacher(self, teacher: TeacherColumn) -> Self {
        self.each(|part| part.teacher = teacher)
    }

    /// The same source, where each pair becomes two labelled rows that are shuffled apart: the chosen completion as a wanted
    /// one, the rejected as an unwanted one. A row that is no pair is set aside.
    #[must_use]
    pub fn unpaired(self, unpair: bool) -> Self {
        self.each(|part| part.unpair = unpair)
    }

    /// The same source, whose pairs are ordered by a label of safety.
    #[must_use]
    pub fn ordered_by_safety(self, order: SafetyOrder) -> Self {
        self.each(|part| part.order(order))
    }

    /// The same source without some rows: asked for the number of a row, counted from 0 over the selected rows in the order
    /// of [`Source::records`], and for its origin, `why` gives the rejection to set it aside with, or None to keep it. Another
    /// call replaces the one before.
    ///
    /// The number is that of the source whole and as it is read: before [`Source::only`] chooses among its rows, whichever
    /// shard reads the row, and the same for both halves of an unpaired one. Of a mixture, rows are counted as they are
    /// mixed, those of a part that begins again anew; a source that had this said before it became part of a mixture keeps
    /// its own numbers.
    #[must_use]
    pub fn leaving_out(mut self, why: impl Fn(u64, &Origin) -> Option<Rejection> + Send + Sync + 'static) -> Self {
        let why: WhyLeftOut = Arc::new(why);
        match self.parts.as_mut_slice() {
            [part] => part.left_out = Some(why),
            _ => self.left_out = Some(why),
        }
        self
    }

    /// The same source, of which only the rows that `wanted` says yes to are used, as for the rows of some prompts; the
    /// others are counted ([`Report::elsewhere`](crate::Report::elsewhere)), neither kept nor rejected. Encoded examples have
    /// no text to be asked about and are set aside.
    #[must_use]
    pub fn only(self, wanted: impl Fn(&Row) -> bool + Send + Sync + 'static) -> Self {
        let wanted: Arc<dyn Fn(&Row) -> bool + Send + Sync> = Arc::new(wanted);
        self.each(|part| part.wanted = Some(wanted.clone()))
    }

    /// One share of the source, as a run on several devices reads it.
    ///
    /// # Errors
    /// A rank that does not exist.
    pub fn sharded(mut self, shard: Shard) -> Result<Self, Error> {
        shard.check()?;
        self.shard = shard;
        Ok(self)
    }

    /// Its rows in file order, without tokens.
    ///
    /// # Errors
    /// The files cannot be opened, or the source holds encoded examples.
    pub fn records(&self) -> Result<Records, Error> {
        Records::new(Arc::new(self.clone()))
    }

    /// The form of its rows, of a mixture that of its first part; [`Form::Auto`] for rows from memory.
    #[must_use]
    pub fn form(&self) -> Form {
        self.parts.first().map_or(Form::Auto, |part| part.reading.form)
    }

    /// The files it reads, part by part; none of a reader or of rows in memory.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let files = |part: &Part| match &part.kind {
            Kind::Files(files) => files.paths(),
            _ => Vec::new(),
        };
        self.parts.iter().flat_map(files).collect()
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(crate) fn end(&self) -> MixtureEnd {
        self.end
    }

    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    /// Which rows of a mixture are read, as they are mixed.
    pub(crate) fn mixed_range(&self) -> RowRange {
        self.rows
    }

    /// The selected rows, for messages.
    pub(crate) fn range(&self) -> RowRange {
        match self.parts.as_slice() {
            [part] => part.rows,
            _ => self.rows,
        }
    }

    pub(crate) fn holds_examples(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.kind, Kind::Examples(_)))
    }

    /// What an item says.
    pub(crate) fn look_into(&self, item: &Item) -> Look {
        match self.left_out.as_ref().and_then(|why| why(item.number, &origin(item))) {
            Some(_) if item.half == Some(Half::Rejected) => Look::without_flags(Ok(Met::Told)),
            Some(rejection) => Look::without_flags(Err(rejection)),
            None => self.parts[item.part].look_into(item),
        }
    }

    fn each(mut self, change: impl Fn(&mut Part)) -> Self {
        self.parts.iter_mut().for_each(change);
        self
    }

    fn of_files(files: Files, options: &SourceOptions) -> Result<Self, Error> {
        let reading = inspect(&files, options)?;
        let name = Arc::clone(files.name());
        Ok(Self::of_part(name, Kind::Files(files), reading, options))
    }

    fn of_memory(kind: Kind) -> Self {
        Self::of_part(Origin::memory(0).file, kind, Reading::default(), &SourceOptions::default())
    }

    fn of_part(name: Arc<str>, kind: Kind, reading: Reading, options: &SourceOptions) -> Self {
        let mut part = Part {
            name: name.clone(),
            kind,
            reading: Arc::new(reading),
            rows: options.rows,
            strict: options.strict,
            numbers: options.numbers.as_slice().into(),
            labels: options.labels.as_slice().into(),
            teacher: options.teacher,
            unpair: options.unpair,
            safety_order: None,
            defers_ties: false,
            given_numbers: options.given_numbers.clone().into(),
            left_out: None,
            wanted: None,
            weight: 1.0,
        };
        if let Some(order) = options.safety_order {
            part.order(order);
        }
        let (end, rows, shard) = (MixtureEnd::default(), RowRange::default(), Shard::default());
        Self { name, parts: vec![part], end, rows, left_out: None, shard }
    }
}

/// The preference of a tie.
const EVEN: f64 = 0.5;

/// What the object of a row says.
pub(crate) fn record(part: &Part, object: &Map<String, Value>) -> Result<Record, Fault> {
    let mut record = form::parse(&part.reading, object)?;
    let columns = &part.reading.columns;
    // A tie that was kept for the order to decide: no completion is the more helpful one.
    if part.defers_ties && record.numbers.get("preference") == Some(&EVEN) {
        record.numbers.entry("better".to_owned()).or_insert(0.0);
    }
    if part.safety_order.is_some() {
        let labels = numbers::read_if_there(&SafetyOrder::numbers(), &record, object, columns)?;
        record.numbers.extend(labels);
    }
    record.numbers.extend(part.given_numbers.iter().map(|(name, value)| (name.clone(), *value)));
    let numbers = numbers::read(&part.numbers, &record, object, columns)?;
    record.numbers.extend(numbers);
    record
        .labels
        .extend(part.labels.iter().filter_map(|name| Some((name.clone(), word(columns.value(object, name)?)))));
    record.teacher = teacher::read(part.teacher, &record.row, object, columns)?;
    Ok(record)
}

/// A value as a word: text as it is, the rest as JSON has it.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number that is the same for every row has no column, and is one.
fn check_given(options: &SourceOptions) -> Result<(), Error> {
    let refused = |(name, value): (&String, &f64)| match options.columns.get(name) {
        Some(column) => Some(format!("{name} = {value}, and columns.{name} = {column}")),
        None if !value.is_finite() => Some(format!("{name} = {value}")),
        None => None,
    };
    match options.given_numbers.iter().find_map(refused) {
        None => Ok(()),
        Some(got) => Err(Error::Option {
            name: "numbers",
            got,
            expected: "a finite number for every row, or a column of that number, not both",
        }),
    }
}

/// How rows are read: as the options say, or as the first rows tell.
fn inspect(files: &Files, options: &SourceOptions) -> Result<Reading, Error> {
    check_given(options)?;
    let of_order = options.safety_order.iter().flat_map(|_| SafetyOrder::numbers());
    let known: Vec<NumberColumn> = options.numbers.iter().cloned().chain(of_order).collect();
    let columns = Columns::new(&options.columns, &known)?;
    let reading = Reading::new(options.form, columns, options.criterion.clone(), options.ties, &options.numbers)?;
    let head = files.head()?;
    let Some(first) = head.first() else {
        return Err(Error::NoRows { file: Arc::clone(files.name()) });
    };
    let origin = first.origin.clone();
    let mut objects = Vec::new();
    for raw in &head {
        match raw.object() {
            Ok(object) => objects.push(object),
            // A form that is given is not told from the rows, and a broken row is met again.
            Err(_) if options.form != Form::Auto || !objects.is_empty() => {}
            Err(fault) => return Err(Error::Rejected(fault.at(&raw.origin))),
        }
    }
    reading.told_by(&objects, &origin.file, |(found, expected, hint)| Error::UnknownForm {
        origin: origin.clone(),
        found,
        expected,
        hint,
    })
}
