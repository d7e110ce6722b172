//! One part of a source: where its rows are and what is made of each.

use std::fmt;
use std::sync::Arc;

use crate::error::{Fault, Reason, Rejection};
use crate::form::Reading;
use crate::numbers::{self, NumberColumn};
use crate::pass::{Half, Item, ItemText};
use crate::read::Files;
use crate::row::{Example, Origin, Record, Row};
use crate::rows::RowRange;
use crate::shape::unpair;
use crate::source;
use crate::teacher::{self, TeacherColumn};

/// Why a row, by its number and origin, is left out; None for rows that are kept.
pub(crate) type WhyLeftOut = Arc<dyn Fn(u64, &Origin) -> Option<Rejection> + Send + Sync>;

/// Whether a row is one of those wanted.
pub(crate) type Wanted = Arc<dyn Fn(&Row) -> bool + Send + Sync>;

/// A source that is no mixture, or what a mixture has of one.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) reading: Arc<Reading>,
    pub(crate) rows: RowRange,
    pub(crate) strict: bool,
    pub(crate) numbers: Arc<[NumberColumn]>,
    pub(crate) labels: Arc<[String]>,
    pub(crate) teacher: TeacherColumn,
    pub(crate) unpair: bool,
    pub(crate) left_out: Option<WhyLeftOut>,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) weight: f64,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Files(Files),
    Rows(Arc<[Row]>),
    Records(Arc<[Record]>),
    Examples(Arc<[Example]>),
}

/// An item looked into.
#[derive(Debug)]
pub(crate) enum Met {
    Record(Origin, Record),
    Example(Example),
    /// It is not one of the rows wanted.
    Elsewhere,
    /// The second half of a row that cannot be used: the first half has told why.
    Told,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("name", &self.name)
            .field("form", &self.reading.form)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Part {
    /// What an item says.
    pub(crate) fn look_into(&self, item: &Item) -> Result<Met, Rejection> {
        let origin = origin(item);
        let left_out = self.left_out.as_ref().and_then(|why| why(item.row, &origin));
        let met = left_out.map_or_else(|| self.met(item, origin), Err);
        if met.is_err() && item.half == Some(Half::Rejected) { Ok(Met::Told) } else { met }
    }

    fn met(&self, item: &Item, origin: Origin) -> Result<Met, Rejection> {
        let record = match (&item.text, &self.kind) {
            (ItemText::Raw(raw), _) => raw.object().and_then(|object| source::record(self, &object)),
            (ItemText::Index(index), Kind::Rows(rows)) => self.checked(rows[*index].clone().into()),
            (ItemText::Index(index), Kind::Records(records)) => self.checked(records[*index].clone()),
            (ItemText::Index(index), Kind::Examples(examples)) => {
                let example = self.example(&examples[*index], item.half);
                return example.map(Met::Example).map_err(|fault| fault.at(&origin));
            }
            (ItemText::Index(_), Kind::Files(_)) => unreachable!("a pass over files gives texts"),
        };
        let record = record.map_err(|fault| fault.at(&origin))?;
        if self.wanted.as_ref().is_some_and(|wanted| !wanted(&record.row)) {
            return Ok(Met::Elsewhere);
        }
        let record = match item.half {
            None => record,
            Some(half) => {
                let [chosen, rejected] = unpair(record, &origin)?;
                if half == Half::Chosen { chosen } else { rejected }
            }
        };
        Ok(Met::Record(origin, record))
    }

    fn checked(&self, record: Record) -> Result<Record, Fault> {
        numbers::check(&self.numbers, &record.numbers)?;
        teacher::check(self.teacher, &record.teacher)?;
        Ok(record)
    }

    fn example(&self, example: &Example, half: Option<Half>) -> Result<Example, Fault> {
        if half.is_some() || self.wanted.is_some() {
            let detail = "an encoded example has no text to be unpaired or to tell its prompt by; give rows";
            return Err(Fault::new(Reason::WrongType, detail));
        }
        numbers::check(&self.numbers, &example.numbers)?;
        teacher::check_example(self.teacher, example)?;
        Ok(example.clone())
    }
}

/// Where an item came from.
pub(crate) fn origin(item: &Item) -> Origin {
    match &item.text {
        ItemText::Raw(raw) => raw.origin.clone(),
        ItemText::Index(index) => Origin::memory(*index as u64 + 1),
    }
}
