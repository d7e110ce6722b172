//! Which rows of a pass are left out: repeats of earlier rows, and rows of a verdict that there are too many of.
//!
//! Of the rows `a b a c` the third is left out, since it is the same as the first.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Rejection};
use crate::row::{Origin, Record, Row};
use crate::shape::balance::{Balance, Balancer};
use crate::shape::content::Content;
use crate::shape::exact::{Relation, Seen};
use crate::shape::near::Near;
use crate::shape::places::Places;

/// Which repeats are left out; of rows that repeat each other the first stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deduplicate {
    /// Rows that are the same in prompt, completions, verdict or ratings, tools and template arguments. Their numbers may
    /// differ. Needs 27 to 55 bytes a row; where files alternate, as in a mixture, 67 to 135.
    Exact,
    /// Those, and rows of which every part is nearly the same: prompt without system messages, and each completion of a
    /// pair. How alike two parts are is told by the runs of three words they share, without regard to case and spaces, and is
    /// an estimate: of parts as similar as this about half are taken for alike, of those that differ by 0.1 more or
    /// less nearly none or all. Needs, beside that, 0.6 to 1 kB a row that is kept.
    Near {
        /// How similar the least similar parts are at least: shared runs of words over all, from 0.5 to 1. 0.8 is usual.
        similarity: f64,
    },
}

/// What rows are left out for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionOptions {
    /// Repeats; None, the default, keeps them.
    pub deduplicate: Option<Deduplicate>,
    /// Too many rows of one verdict, looked at after repeats are gone; None, the default, keeps them.
    pub balance: Option<Balance>,
}

/// Why a row is left out. Rows are counted from 0 in the order of the pass, rejected ones included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeftOut {
    /// It says the same as an earlier row.
    Duplicate {
        /// The earlier row.
        of: u64,
    },
    /// It says nearly the same as an earlier row.
    NearDuplicate {
        /// The earlier row.
        of: u64,
        /// How similar the least similar parts are, as estimated.
        similarity: f64,
    },
    /// There are too many rows of its verdict.
    Unbalanced,
}

impl LeftOut {
    /// The kind of reason, for counting.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Duplicate { .. } => Reason::Duplicate,
            Self::NearDuplicate { .. } => Reason::NearDuplicate,
            Self::Unbalanced => Reason::Unbalanced,
        }
    }
}

/// Two rows of the same texts and opposite verdicts: a pair and the same pair swapped, an answer that is both desirable and
/// not. Neither is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The later row.
    pub row: u64,
    /// The earlier one.
    pub of: u64,
}

/// Which rows of a pass are left out, and why. It needs 32 bytes for each of them.
///
/// ```
/// use candlewick_data::{Deduplicate, Origin, Record, Row, Selection, SelectionOptions, Text};
/// let row = |completion: &str| -> Record {
///     let text = |text: &str| Text::Plain(text.to_owned());
///     Row::Demonstration { prompt: text("p"), completion: text(completion) }.into()
/// };
/// let rows = ["a", "b", "a"].map(row).into_iter().zip(1..);
/// let rows = rows.map(|(record, number)| Ok((Origin::memory(number), record)));
/// let options = SelectionOptions { deduplicate: Some(Deduplicate::Exact), ..SelectionOptions::default() };
/// let selection = Selection::of(rows, &options)?;
/// assert!(selection.keeps(0) && selection.keeps(1));
/// let rejection = selection.rejection(2, &Origin::memory(3)).unwrap();
/// assert_eq!(rejection.to_string(), "<memory>:3: duplicate: the same as <memory>:1");
/// # Ok::<(), candlewick_data::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Selection {
    rows: u64,
    /// In ascending order.
    left_out: Vec<(u64, LeftOut)>,
    contradictions: Vec<Contradiction>,
    places: Places,
    ratio: f64,
}

impl Selection {
    /// Looks at all rows of a pass.
    ///
    /// # Errors
    /// An option outside its range, or rows to be balanced of which one verdict is missing.
    pub fn of(
        records: impl IntoIterator<Item = Result<(Origin, Record), Rejection>>,
        options: &SelectionOptions,
    ) -> Result<Self, Error> {
        let mut selector = Selector::new(options)?;
        for record in records {
            match record {
                Ok((origin, record)) => selector.add(&origin, &record),
                Err(_) => selector.skip(),
            }
        }
        selector.finish()
    }

    /// Rows of the pass, rejected ones included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether a row, counted from 0 in the order of the pass, is kept; whether it can be used at all is not told here.
    #[must_use]
    pub fn keeps(&self, row: u64) -> bool {
        self.why(row).is_none()
    }

    /// Why a row is left out; None where it is kept.
    #[must_use]
    pub fn why(&self, row: u64) -> Option<&LeftOut> {
        let place = self.left_out.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        self.left_out.get(place).map(|(_, left_out)| left_out)
    }

    /// The same as a rejection of the row.
    #[must_use]
    pub fn rejection(&self, row: u64, origin: &Origin) -> Option<Rejection> {
        let left_out = self.why(row)?;
        let place =
            |row: u64| self.places.at(row).map_or_else(|| format!("row {}", row + 1), |origin| origin.to_string());
        let detail = match left_out {
            LeftOut::Duplicate { of } => format!("the same as {}", place(*of)),
            LeftOut::NearDuplicate { of, similarity } => {
                format!("nearly the same as {}, with a similarity of about {similarity:.2}", place(*of))
            }
            LeftOut::Unbalanced => {
                format!("more than {} rows of its verdict for each of the other", self.ratio)
            }
        };
        Some(Rejection { origin: origin.clone(), reason: left_out.reason(), detail })
    }

    /// The rows left out, in order.
    pub fn left_out(&self) -> impl Iterator<Item = (u64, &LeftOut)> {
        self.left_out.iter().map(|(row, left_out)| (*row, left_out))
    }

    /// Rows that contradict an earlier one, in order; found where repeats are looked for.
    #[must_use]
    pub fn contradictions(&self) -> &[Contradiction] {
        &self.contradictions
    }
}

/// Makes a [`Selection`] row by row.
#[derive(Debug)]
pub struct Selector {
    selection: Selection,
    seen: Option<Seen>,
    near: Option<Near>,
    balancer: Option<Balancer>,
}

impl Selector {
    /// Before the first row.
    ///
    /// # Errors
    /// An option outside its range.
    pub fn new(options: &SelectionOptions) -> Result<Self, Error> {
        let near = match options.deduplicate {
            Some(Deduplicate::Near { similarity }) if !(0.5..=1.0).contains(&similarity) => {
                return Err(Error::Option {
                    name: "deduplicate.near.similarity",
                    got: similarity.to_string(),
                    expected: "a number from 0.5 to 1, such as 0.8",
                });
            }
            Some(Deduplicate::Near { similarity }) => Some(Near::new(similarity)),
            Some(Deduplicate::Exact) | None => None,
        };
        options.balance.iter().try_for_each(Balance::check)?;
        Ok(Self {
            selection: Selection {
                ratio: options.balance.map_or(1.0, |balance| balance.ratio),
                ..Selection::default()
            },
            seen: options.deduplicate.map(|_| Seen::default()),
            near,
            balancer: options.balance.map(Balancer::new),
        })
    }

    /// The next row of the pass.
    pub fn add(&mut self, origin: &Origin, record: &Record) {
        let row = self.selection.rows;
        self.selection.rows += 1;
        if self.seen.is_some() {
            self.selection.places.add(row, origin);
        }
        let content = Content::of(record);
        if let Some(left_out) = self.repeated(row, &content, record) {
            self.selection.left_out.push((row, left_out));
            return;
        }
        if let (Some(balancer), Row::Labelled { desirable, .. }) = (&mut self.balancer, &record.row) {
            balancer.meet(row, *desirable, content.own);
        }
    }

    /// The next row of the pass, which cannot be used.
    pub fn skip(&mut self) {
        self.selection.rows += 1;
    }

    /// After the last row.
    ///
    /// # Errors
    /// Rows are to be balanced, and one verdict is missing.
    pub fn finish(mut self) -> Result<Selection, Error> {
        if let Some(balancer) = self.balancer {
            let rows = balancer.finish()?;
            self.selection.left_out.extend(rows.into_iter().map(|row| (row, LeftOut::Unbalanced)));
            self.selection.left_out.sort_unstable_by_key(|(row, _)| *row);
        }
        Ok(self.selection)
    }

    fn repeated(&mut self, row: u64, content: &Content, record: &Record) -> Option<LeftOut> {
        match self.seen.as_mut()?.meet(row, content) {
            Relation::Repeats(of) => return Some(LeftOut::Duplicate { of }),
            Relation::Contradicts(of) => self.selection.contradictions.push(Contradiction { row, of }),
            Relation::New => {}
        }
        let (of, similarity) = self.near.as_mut()?.meet(row, record)?;
        Some(LeftOut::NearDuplicate { of, similarity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Text;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair(chosen: &str, rejected: &str) -> Record {
        Row::Pair { prompt: text("p"), chosen: text(chosen), rejected: text(rejected) }.into()
    }

    fn select(rows: Vec<Option<Record>>, options: &SelectionOptions) -> Result<Selection, Error> {
        let rejected = |origin| Rejection { origin, reason: Reason::NotJson, detail: String::new() };
        let rows = rows.into_iter().zip(1..).map(|(record, number)| {
            let origin = Origin::memory(number);
            record.map(|record| (origin.clone(), record)).ok_or_else(|| rejected(origin))
        });
        Selection::of(rows, options)
    }

    const EXACT: SelectionOptions = SelectionOptions { deduplicate: Some(Deduplicate::Exact), balance: None };

    #[test]
    fn repeats_are_left_out_and_contradictions_counted() {
        let rows = vec![
            Some(pair("a", "b")),
            None,
            Some(pair("a", "b").with_number("margin", 2.0)),
            Some(pair("b", "a")),
            Some(pair("b", "a")),
            Some(pair("a", "c")),
        ];
        let selection = select(rows, &EXACT).unwrap();
        let left_out: Vec<_> = selection.left_out().map(|(row, why)| (row, *why)).collect();
        assert_eq!(left_out, [(2, LeftOut::Duplicate { of: 0 }), (4, LeftOut::Duplicate { of: 3 })]);
        assert_eq!(selection.contradictions(), [Contradiction { row: 3, of: 0 }]);
        assert_eq!((selection.rows(), selection.keeps(1), selection.keeps(4)), (6, true, false));
        let rejection = selection.rejection(4, &Origin::memory(5)).unwrap();
        assert_eq!((rejection.reason, rejection.detail.as_str()), (Reason::Duplicate, "the same as <memory>:4"));
        assert_eq!(selection.rejection(5, &Origin::memory(6)), None);
    }

    #[test]
    fn near_repeats_say_how_near() {
        let long = (0..100).map(|number| format!("word{number}")).collect::<Vec<_>>().join(" ");
        let rows = vec![Some(pair(&long, "b")), Some(pair(&format!("{long}!"), "b")), Some(pair(&long, "b"))];
        let options = SelectionOptions { deduplicate: Some(Deduplicate::Near { similarity: 0.8 }), balance: None };
        let selection = select(rows, &options).unwrap();
        let reasons: Vec<_> = selection.left_out().map(|(row, why)| (row, why.reason())).collect();
        assert_eq!(reasons, [(1, Reason::NearDuplicate), (2, Reason::Duplicate)]);
        let told = selection.rejection(1, &Origin::memory(2)).unwrap().to_string();
        assert!(
            told.starts_with("<memory>:2: near duplicate: nearly the same as <memory>:1, with a similarity of about ")
        );
    }

    #[test]
    fn repeats_go_before_rows_are_balanced() {
        let labelled = |completion: &str, desirable| -> Option<Record> {
            Some(Row::Labelled { prompt: text("p"), completion: text(completion), desirable }.into())
        };
        let mut rows: Vec<_> = (0..4).map(|number| labelled(&format!("good {number}"), true)).collect();
        rows.extend([labelled("bad", false), labelled("bad", false), labelled("bad", false)]);
        let balance = Some(Balance { ratio: 2.0, seed: 1 });
        let selection = select(rows, &SelectionOptions { balance, ..EXACT }).unwrap();
        let of = |reason| selection.left_out().filter(|(_, why)| why.reason() == reason).count();
        assert_eq!((of(Reason::Duplicate), of(Reason::Unbalanced)), (2, 2));
        let (row, _) = selection.left_out().next().unwrap();
        let told = selection.rejection(row, &Origin::memory(row + 1)).unwrap();
        assert_eq!(told.detail, "more than 2 rows of its verdict for each of the other");
        assert!(matches!(
            select(vec![Some(pair("a", "b"))], &SelectionOptions { balance, ..EXACT }),
            Err(Error::OneVerdict { .. })
        ));
    }

    #[test]
    fn options_are_words() {
        let read = |json: &str| serde_json::from_str::<SelectionOptions>(json);
        assert_eq!(read(r#"{"deduplicate": "exact"}"#).unwrap(), EXACT);
        let near = read(r#"{"deduplicate": {"near": {"similarity": 0.9}}, "balance": {"ratio": 2}}"#).unwrap();
        assert_eq!(near.deduplicate, Some(Deduplicate::Near { similarity: 0.9 }));
        assert_eq!(near.balance, Some(Balance { ratio: 2.0, seed: 0 }));
        assert!(read(r#"{"deduplicate": {"near": {"similarity": 0.9, "words": 5}}}"#).is_err());
        for similarity in [0.0, 0.49, 1.01, f64::NAN] {
            let options = SelectionOptions { deduplicate: Some(Deduplicate::Near { similarity }), balance: None };
            let error = Selector::new(&options).unwrap_err().to_string();
            assert!(error.starts_with("deduplicate.near.similarity: got"), "{error}");
        }
    }
}
