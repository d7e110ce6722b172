//! One part of a source: where its rows are and what is made of each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::{Fault, Reason, Rejection};
use crate::form::{Form, Reading, Ties};
use crate::numbers::{self, NumberColumn};
use crate::pass::{Half, Item, ItemText};
use crate::read::Files;
use crate::row::{Example, Origin, Record, Row};
use crate::rows::RowRange;
use crate::shape::{SafetyCounts, SafetyOrder, safety, unpair};
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
    pub(crate) safety_order: Option<SafetyOrder>,
    /// Whether ties of helpfulness are read, and dropped only where the order asks which completion is the more helpful.
    pub(crate) defers_ties: bool,
    pub(crate) given_numbers: Arc<BTreeMap<String, f64>>,
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

/// An item looked into, and what its flags of safety say, whatever became of it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) met: Result<Met, Rejection>,
    pub(crate) safety: SafetyCounts,
}

impl Look {
    /// Of an item that brings no flags.
    pub(crate) fn without_flags(met: Result<Met, Rejection>) -> Self {
        Self { met, safety: SafetyCounts::default() }
    }
}

/// What an item is.
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
    /// Orders pairs by a label. One of safety may order a pair whose helpfulness is even.
    pub(crate) fn order(&mut self, order: SafetyOrder) {
        self.safety_order = Some(order);
        if order.reads_safety() && self.reading.ties == Ties::Drop {
            self.defers_ties = true;
            self.reading = Arc::new(self.reading.with_ties(Ties::Keep));
        }
    }

    /// What an item says.
    pub(crate) fn look_into(&self, item: &Item) -> Look {
        let origin = origin(item);
        let left_out = self.left_out.as_ref().and_then(|why| why(item.row, &origin));
        let Look { met, safety } =
            left_out.map_or_else(|| self.look(item, origin), |why| Look::without_flags(Err(why)));
        if item.half != Some(Half::Rejected) {
            return Look { met, safety };
        }
        // Both halves are one row.
        Look::without_flags(met.or(Ok(Met::Told)))
    }

    fn look(&self, item: &Item, origin: Origin) -> Look {
        let record = match (&item.text, &self.kind) {
            (ItemText::Raw(raw), _) => raw.object().and_then(|object| source::record(self, &object)),
            (ItemText::Index(index), Kind::Rows(rows)) => self.checked(rows[*index].clone().into()),
            (ItemText::Index(index), Kind::Records(records)) => self.checked(records[*index].clone()),
            (ItemText::Index(index), Kind::Examples(examples)) => {
                let example = self.example(&examples[*index], item.half);
                return Look::without_flags(example.map(Met::Example).map_err(|fault| fault.at(&origin)));
            }
            (ItemText::Index(_), Kind::Files(_)) => unreachable!("a pass over files gives texts"),
        };
        match record {
            Err(fault) => Look::without_flags(Err(fault.at(&origin))),
            Ok(record) if self.wanted.as_ref().is_some_and(|wanted| !wanted(&record.row)) => {
                Look::without_flags(Ok(Met::Elsewhere))
            }
            Ok(record) => {
                let without_better = u64::from(self.lacks_better(&record));
                let safety = SafetyCounts { without_better, ..SafetyCounts::of(&record) };
                Look { safety, met: self.settled(record, item.half, origin) }
            }
        }
    }

    /// A record as it is used: in the order that is asked for, and one half of it.
    fn settled(&self, record: Record, half: Option<Half>, origin: Origin) -> Result<Met, Rejection> {
        let record = self.ordered(record).map_err(|fault| fault.at(&origin))?;
        let record = match half {
            None => record,
            Some(half) => {
                let [chosen, rejected] = unpair(record, &origin)?;
                if half == Half::Chosen { chosen } else { rejected }
            }
        };
        Ok(Met::Record(origin, record))
    }

    fn ordered(&self, record: Record) -> Result<Record, Fault> {
        let Some(order) = self.safety_order else {
            if self.reads_safety(&record) {
                safety::check(&record)?;
            }
            return Ok(record);
        };
        let record = safety::ordered(record, order)?;
        // A number that has changed its sign may have left its range.
        numbers::check(&self.numbers, &record.numbers)?;
        Ok(record)
    }

    /// Whether labels of safety are read: by the order of the pair, or as numbers that are asked for.
    fn reads_safety(&self, record: &Record) -> bool {
        let asked =
            || self.numbers.iter().any(|number| ["safer", "safe_chosen", "safe_rejected"].contains(&&*number.name));
        let decides = || self.reading.form == Form::SafeRlhf && self.reading.decides_by_safety(&record.numbers);
        decides() || asked()
    }

    /// Whether a pair that is to stand in the order of helpfulness has no label of it, and stands in that of safety.
    fn lacks_better(&self, record: &Record) -> bool {
        self.reading.form == Form::SafeRlhf
            && self.safety_order != Some(SafetyOrder::Safer)
            && self.reading.criterion.is_none()
            && self.reading.decides_by_safety(&record.numbers)
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
