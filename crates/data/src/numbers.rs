//! Numbers that rows bring beside their texts: a margin, a share of votes, a score.
//!
//! `{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5}` brings the number `margin`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Fault, Reason};
use crate::form::{Columns, column, flag_cell, missing, number_cell};
use crate::row::{Record, Row};

/// A number that every row must bring; a row without it, or with another value than it may have, is set aside.
///
/// It is what the row's form says (a share of votes, a score: [`Form`](crate::Form)), unless a column is mapped to its name;
/// else it stands in the column of its name. Pairs that lack the column may bring what the number is made of:
///
/// | number | of a pair without that column |
/// |---|---|
/// | `margin` | `score_chosen` − `score_rejected` |
/// | `preference` | `votes_chosen` / (`votes_chosen` + `votes_rejected`) |
/// | `reward_gap` | `reward_chosen` − `reward_rejected` |
/// | `cost_gap`, and `cost_gap_2` to `cost_gap_4` | `cost_chosen` − `cost_rejected`, `cost_2_chosen` − `cost_2_rejected`, … |
/// | `safer` | `safe_chosen` − `safe_rejected` |
///
/// `safe_chosen` and `safe_rejected` of a pair, and `safe` of another row, are flags: 1 for safe and 0 for not, in the file also
/// true and false or a word ([`Form`](crate::Form)).
///
/// ```
/// use candlewick_data::{NumberColumn, Source, SourceOptions};
/// let rows = r#"{"prompt": "p", "chosen": " a", "rejected": " b", "score_gap": 0.5}"#;
/// let options = SourceOptions {
///     numbers: vec![NumberColumn::any("margin")],
///     columns: [("margin".to_owned(), "score_gap".into())].into(),
///     ..SourceOptions::default()
/// };
/// assert!(Source::from_reader(rows.as_bytes(), &options).is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NumberColumn {
    /// Its name, here and in [`Example::numbers`](crate::Example::numbers).
    pub name: String,
    /// The smallest value it may have.
    pub low: f64,
    /// The largest value it may have.
    pub high: f64,
}

impl NumberColumn {
    /// A number that may have any value that single precision holds.
    pub fn any(name: impl Into<String>) -> Self {
        Self { name: name.into(), low: f64::from(f32::MIN), high: f64::from(f32::MAX) }
    }

    /// A number in \[0, 1\].
    pub fn share(name: impl Into<String>) -> Self {
        Self { name: name.into(), low: 0.0, high: 1.0 }
    }

    fn range(&self) -> String {
        if self.low <= f64::from(f32::MIN) && self.high >= f64::from(f32::MAX) {
            "a finite number".to_owned()
        } else {
            format!("a number in [{}, {}]", self.low, self.high)
        }
    }

    /// The columns it may come from: its own, and those of what it is made of.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        let parts = Parts::of(&self.name).into_iter().flat_map(|parts| parts.columns);
        std::iter::once(self.name.as_str()).chain(parts)
    }

    /// The value, which stands in the column `name`, if it is in range.
    fn admit(&self, name: &str, value: f64, from: &str) -> Result<f64, Fault> {
        if (self.low..=self.high).contains(&value) {
            return Ok(value);
        }
        Err(Fault::new(Reason::OutOfRange, format!("`{name}` is {value}{from}, expected {}", self.range())))
    }

    fn read(&self, record: &Record, object: &Map<String, Value>, columns: &Columns) -> Result<f64, Fault> {
        let own = columns.in_file(&self.name);
        if let Some(value) = record.numbers.get(&self.name).filter(|_| !columns.is_given(&self.name)) {
            return self.admit(&self.name, *value, "");
        }
        if let Some(value) = columns.value(object, &self.name) {
            return cell(&self.name, value, own, &self.range()).and_then(|value| self.admit(own, value, ""));
        }
        let parts = Parts::of(&self.name).filter(|_| matches!(record.row, Row::Pair { .. }));
        let Some(parts) = parts else {
            let Fault { reason, detail } = missing(object, columns, &self.name);
            return Err(Fault::new(reason, format!("{detail}{}", otherwise(&self.name))));
        };
        let [chosen, rejected] = parts.columns;
        let of_form = |name: &str| record.numbers.get(name).filter(|_| !columns.is_given(name)).copied();
        let is_there = |name: &str| of_form(name).is_some() || columns.value(object, name).is_some();
        if !is_there(chosen) && !is_there(rejected) {
            let Fault { reason, detail } = missing(object, columns, &self.name);
            let (chosen, rejected) = (columns.in_file(chosen), columns.in_file(rejected));
            return Err(Fault::new(reason, format!("{detail}; `{chosen}` and `{rejected}` would do as well")));
        }
        let [chosen, rejected] = parts.columns.map(|name| {
            if let Some(value) = of_form(name) {
                return Ok((name, value));
            }
            let value = column(object, columns, name)?;
            cell(name, value, columns.in_file(name), parts.expected).map(|value| (columns.in_file(name), value))
        });
        let value = parts.combine(chosen?, rejected?)?;
        self.admit(own, value, parts.how)
    }
}

/// Numbers that say whether a completion is safe.
pub(crate) const FLAGS: [&str; 3] = ["safe_chosen", "safe_rejected", "safe"];

/// The value of a column: of a flag 1 or 0.
fn cell(name: &str, value: &Value, in_file: &str, expected: &str) -> Result<f64, Fault> {
    if FLAGS.contains(&name) { flag_cell(value, in_file) } else { number_cell(value, in_file, expected) }
}

/// Where a number that a row lacks may come from instead.
fn otherwise(name: &str) -> &'static str {
    match name {
        "desirable_prompt" => "; in training, a section [udm] has it computed",
        _ => "",
    }
}

/// Two columns of a pair that together give a number.
struct Parts {
    columns: [&'static str; 2],
    expected: &'static str,
    how: &'static str,
    votes: bool,
}

/// Numbers that are the difference of two columns: of the chosen completion's and the rejected one's.
const DIFFERENCES: [(&str, [&str; 2], &str); 7] = [
    ("margin", ["score_chosen", "score_rejected"], " (the difference of the scores)"),
    ("reward_gap", ["reward_chosen", "reward_rejected"], " (the difference of the rewards)"),
    ("cost_gap", ["cost_chosen", "cost_rejected"], " (the difference of the costs)"),
    ("cost_gap_2", ["cost_2_chosen", "cost_2_rejected"], " (the difference of the costs)"),
    ("cost_gap_3", ["cost_3_chosen", "cost_3_rejected"], " (the difference of the costs)"),
    ("cost_gap_4", ["cost_4_chosen", "cost_4_rejected"], " (the difference of the costs)"),
    ("safer", ["safe_chosen", "safe_rejected"], " (the difference of the flags)"),
];

impl Parts {
    fn of(name: &str) -> Option<Self> {
        if name == "preference" {
            return Some(Self {
                columns: ["votes_chosen", "votes_rejected"],
                expected: "a count of votes",
                how: " (the share of the votes)",
                votes: true,
            });
        }
        let (_, columns, how) = DIFFERENCES.into_iter().find(|(difference, ..)| *difference == name)?;
        Some(Self { columns, expected: "a finite number", how, votes: false })
    }

    fn combine(&self, chosen: (&str, f64), rejected: (&str, f64)) -> Result<f64, Fault> {
        if !self.votes {
            return Ok(chosen.1 - rejected.1);
        }
        for (name, votes) in [chosen, rejected] {
            if votes < 0.0 || votes.fract() != 0.0 {
                return Err(Fault::new(Reason::OutOfRange, format!("`{name}` is {votes}, expected {}", self.expected)));
            }
        }
        let votes = chosen.1 + rejected.1;
        if votes > 0.0 {
            return Ok(chosen.1 / votes);
        }
        let (chosen, rejected) = (chosen.0, rejected.0);
        Err(Fault::new(
            Reason::OutOfRange,
            format!("`{chosen}` and `{rejected}` are both 0, expected at least one vote"),
        ))
    }
}

/// Whether a number is the difference of one of the chosen completion and one of the rejected one.
pub(crate) fn is_difference(name: &str) -> bool {
    DIFFERENCES.iter().any(|(difference, ..)| *difference == name)
}

/// The wanted numbers of a record: its own first, then those of its object.
pub(crate) fn read(
    wanted: &[NumberColumn],
    record: &Record,
    object: &Map<String, Value>,
    columns: &Columns,
) -> Result<BTreeMap<String, f64>, Fault> {
    wanted.iter().map(|wanted| Ok((wanted.name.clone(), wanted.read(record, object, columns)?))).collect()
}

/// Those numbers that a record lacks and its object has.
pub(crate) fn read_if_there(
    names: &[NumberColumn],
    record: &Record,
    object: &Map<String, Value>,
    columns: &Columns,
) -> Result<BTreeMap<String, f64>, Fault> {
    let there = names
        .iter()
        .filter(|number| !record.numbers.contains_key(&number.name) && columns.value(object, &number.name).is_some());
    there.map(|number| Ok((number.name.clone(), number.read(record, object, columns)?))).collect()
}

/// Whether a row from memory brings the wanted numbers.
pub(crate) fn check(wanted: &[NumberColumn], numbers: &BTreeMap<String, f64>) -> Result<(), Fault> {
    wanted.iter().try_for_each(|wanted| match numbers.get(&wanted.name) {
        Some(value) => wanted.admit(&wanted.name, *value, "").map(drop),
        None => {
            let given: Vec<&str> = numbers.keys().map(String::as_str).collect();
            let given = if given.is_empty() { "no numbers".to_owned() } else { given.join(", ") };
            Err(Fault::new(
                Reason::MissingColumn,
                format!("no number `{}`, the row brings {given}; expected {}", wanted.name, wanted.range()),
            ))
        }
    })
}
