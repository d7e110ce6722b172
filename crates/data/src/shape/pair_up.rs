//! Rows of one completion as pairs, where two of them have the same prompt.
//!
//! Of the rows `p: a desirable`, `p: b desirable`, `p: c not` the first and the third become `{p, chosen a, rejected c}`, and
//! the second is left over.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row};
use crate::shape::content::exact_prompt;
use crate::shape::joined::join;
use crate::shape::pairing::{Couples, Pairing};

/// By what rows of the same prompt are paired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairBy {
    /// Labelled rows: the first desirable completion of a prompt with its first undesirable one, the second with the second,
    /// and so on. A pair comes as soon as both are met; memory holds the rows that wait for another.
    #[default]
    Label,
    /// Labelled rows and demonstrations with a number `score`, paired as ratings are, with the difference as the number
    /// `margin`. All rows are held in memory until the last is read.
    Score(Pairing),
}

/// Pairs of rows that have the same prompt, to the last space, and the same tools and template arguments.
///
/// A pair stands where its preferred completion stood. The numbers of its rows are kept as `…_chosen` and `…_rejected`.
/// Rejections are handed on as they come; a row that is left over, that has no prompt or that is of another kind is one.
pub fn pair_up<I>(records: I, by: PairBy) -> PairUp<I::IntoIter>
where
    I: IntoIterator<Item = Result<(Origin, Record), Rejection>>,
{
    PairUp { records: records.into_iter(), by, met: 0, groups: HashMap::new(), ended: None, couples: None }
}

/// Pairs of rows that have the same prompt; made by [`pair_up`].
#[derive(Debug)]
pub struct PairUp<I> {
    records: I,
    by: PairBy,
    met: u64,
    /// Rows by their prompt that may yet be paired: under [`PairBy::Label`] all of one label.
    groups: HashMap<u128, VecDeque<Waiting>>,
    /// What is left when the rows are read: groups by their first row, or the rows left over.
    ended: Option<VecDeque<VecDeque<Waiting>>>,
    couples: Option<Group>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    origin: Origin,
    record: Record,
}

/// Rated rows of one prompt.
#[derive(Debug)]
struct Group {
    rows: VecDeque<Waiting>,
    couples: Couples,
    /// Whether each row is in a pair.
    paired: Vec<bool>,
    /// Rows looked at for being left over.
    looked_at: usize,
}

type Item = Result<(Origin, Record), Rejection>;

impl<I: Iterator<Item = Item>> Iterator for PairUp<I> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.ended.is_none() {
            while let Some(record) = self.records.next() {
                let met = record.and_then(|(origin, record)| self.meet(origin, record));
                if let Some(item) = met.transpose() {
                    return Some(item);
                }
            }
            let mut groups: Vec<VecDeque<Waiting>> = self.groups.drain().map(|(_, rows)| rows).collect();
            if self.by == PairBy::Label {
                groups = groups.into_iter().flatten().map(|row| VecDeque::from([row])).collect();
            }
            groups.sort_unstable_by_key(|rows| rows.front().map(|row| row.number));
            self.ended = Some(groups.into());
        }
        self.next_of_the_end()
    }
}

impl<I> PairUp<I> {
    /// Takes a row in; the pair it completes, if it does.
    fn meet(&mut self, origin: Origin, record: Record) -> Result<Option<(Origin, Record)>, Rejection> {
        let prompt = match self.fault(&record) {
            Some(fault) => return Err(fault.at(&origin)),
            None => exact_prompt(&record).ok_or_else(|| no_partner("a row without a prompt").at(&origin))?,
        };
        self.met += 1;
        let row = Waiting { number: self.met, origin, record };
        let waiting = self.groups.entry(prompt).or_default();
        let label = |row: &Waiting| is_desirable(&row.record.row);
        if self.by != PairBy::Label || waiting.front().is_none_or(|first| label(first) == label(&row)) {
            waiting.push_back(row);
            return Ok(None);
        }
        let other = waiting.pop_front();
        if waiting.is_empty() {
            self.groups.remove(&prompt);
        }
        Ok(other.and_then(|other| if label(&row) { couple(row, other) } else { couple(other, row) }))
    }

    /// Why a row cannot be paired, whatever the others are.
    fn fault(&self, record: &Record) -> Option<Fault> {
        match (self.by, &record.row) {
            (PairBy::Label, Row::Labelled { .. }) => None,
            (PairBy::Label, _) => {
                Some(Fault::new(Reason::NotLabelled, "only labelled rows are paired by their labels"))
            }
            (PairBy::Score(_), Row::Labelled { .. } | Row::Demonstration { .. }) => match record.numbers.get("score") {
                Some(score) if score.is_finite() => None,
                Some(score) => Some(Fault::new(
                    Reason::OutOfRange,
                    format!("the number `score` is {score}, expected a finite number"),
                )),
                None => Some(Fault::new(
                    Reason::MissingColumn,
                    "rows are paired by the number `score`, and this one has none; ask the source for it by `numbers`",
                )),
            },
            (PairBy::Score(_), _) => {
                Some(Fault::new(Reason::WrongType, "only rows of one completion are paired by their scores"))
            }
        }
    }

    fn next_of_the_end(&mut self) -> Option<Item> {
        loop {
            if let Some(group) = &mut self.couples {
                if let Some(pair) = group.next_pair() {
                    return Some(Ok(pair));
                }
                if let Some(rejection) = group.next_left_over() {
                    return Some(Err(rejection));
                }
            }
            let mut rows = self.ended.as_mut()?.pop_front()?;
            let PairBy::Score(pairing) = self.by else {
                let row = rows.pop_front()?;
                return Some(Err(no_partner("no row of the opposite label has the same prompt").at(&row.origin)));
            };
            self.couples = Some(Group::new(rows, pairing));
        }
    }
}

impl Group {
    fn new(rows: VecDeque<Waiting>, pairing: Pairing) -> Self {
        let scores = rows.iter().map(|row| row.record.numbers.get("score").copied().unwrap_or_default()).collect();
        Self { couples: Couples::new(scores, pairing), paired: vec![false; rows.len()], looked_at: 0, rows }
    }

    fn next_pair(&mut self) -> Option<(Origin, Record)> {
        let (better, worse) = self.couples.next()?;
        for place in [better, worse] {
            if let Some(paired) = self.paired.get_mut(place) {
                *paired = true;
            }
        }
        let (better, worse) = (self.rows.get(better)?, self.rows.get(worse)?);
        let pair = join(better.record.clone(), worse.record.clone())?;
        let score = |row: &Waiting| row.record.numbers.get("score").copied().unwrap_or_default();
        Some((better.origin.clone(), pair.with_number("margin", score(better) - score(worse))))
    }

    /// After the last pair: the next row that is in none.
    fn next_left_over(&mut self) -> Option<Rejection> {
        let place = self.looked_at + self.paired.iter().skip(self.looked_at).position(|paired| !paired)?;
        self.looked_at = place + 1;
        let row = self.rows.get(place)?;
        Some(if self.rows.len() == 1 {
            no_partner("no other row has the same prompt").at(&row.origin)
        } else if self.couples.is_tied() {
            let detail = format!("all {} rows of this prompt have the same score", self.rows.len());
            Fault::new(Reason::Tied, detail).at(&row.origin)
        } else {
            no_partner("other rows of the same prompt are paired in its place").at(&row.origin)
        })
    }
}

fn couple(chosen: Waiting, rejected: Waiting) -> Option<(Origin, Record)> {
    Some((chosen.origin, join(chosen.record, rejected.record)?))
}

fn is_desirable(row: &Row) -> bool {
    matches!(row, Row::Labelled { desirable: true, .. })
}

fn no_partner(detail: &str) -> Fault {
    Fault::new(Reason::NoPartner, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Text;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn labelled(prompt: &str, completion: &str, desirable: bool) -> Record {
        Row::Labelled { prompt: text(prompt), completion: text(completion), desirable }.into()
    }

    fn scored(prompt: &str, completion: &str, score: f64) -> Record {
        Record::from(Row::Demonstration { prompt: text(prompt), completion: text(completion) })
            .with_number("score", score)
    }

    /// `line: chosen > rejected` of the pairs and `line: reason` of the rest.
    fn told(records: Vec<Record>, by: PairBy) -> Vec<String> {
        let rows = records.into_iter().zip(1..).map(|(record, number)| Ok((Origin::memory(number), record)));
        let tell = |item: Item| match item {
            Ok((
                origin,
                Record { row: Row::Pair { chosen: Text::Plain(chosen), rejected: Text::Plain(rejected), .. }, .. },
            )) => {
                format!("{}: {chosen} > {rejected}", origin.line)
            }
            Ok(other) => panic!("{other:?}"),
            Err(rejection) => format!("{}: {}", rejection.origin.line, rejection.reason),
        };
        pair_up(rows, by).map(tell).collect()
    }

    #[test]
    fn labelled_rows_are_paired_in_their_order() {
        let rows = vec![
            labelled("p", "a", true),
            labelled("q", "x", false),
            labelled("p", "b", true),
            labelled("p", "c", false),
            labelled("q ", "y", true),
            labelled("p", "d", false),
            labelled("p", "e", false),
            labelled("", "f", true),
            labelled("", "g", false),
        ];
        let expected = [
            "1: a > c",
            "3: b > d",
            "8: no partner",
            "9: no partner",
            "2: no partner",
            "5: no partner",
            "7: no partner",
        ];
        assert_eq!(told(rows, PairBy::Label), expected);
        assert_eq!(told(vec![scored("p", "a", 1.0)], PairBy::Label), ["1: not labelled"]);
        assert_eq!(told(vec![], PairBy::Label), [""; 0]);
    }

    #[test]
    fn rated_rows_are_paired_by_their_scores() {
        let rows = || {
            vec![
                scored("p", "a", 3.0),
                scored("q", "x", 1.0),
                scored("p", "b", 5.0),
                scored("p", "c", 1.0),
                scored("q", "y", 1.0),
                scored("r", "z", 1.0),
                labelled("p", "none", true),
                labelled("p", "nan", true).with_number("score", f64::NAN),
            ]
        };
        let by = |pairing| told(rows(), PairBy::Score(pairing));
        let refused = ["7: missing column", "8: number out of range"];
        let rest = ["2: tie", "5: tie", "6: no partner"];
        assert_eq!(by(Pairing::BestWorst), [&refused[..], &["3: b > c", "1: no partner"], &rest].concat());
        assert_eq!(by(Pairing::Adjacent), [&refused[..], &["3: b > a", "1: a > c"], &rest].concat());
        assert_eq!(by(Pairing::All), [&refused[..], &["3: b > a", "3: b > c", "1: a > c"], &rest].concat());
    }

    #[test]
    fn numbers_are_named_after_their_side() {
        let rows = [scored("p", "a", 1.0), scored("p", "b", 4.0)];
        let rows = rows.into_iter().map(|record| Ok((Origin::memory(1), record)));
        let (_, pair) = pair_up(rows, PairBy::Score(Pairing::BestWorst)).next().unwrap().unwrap();
        let numbers: Vec<_> = pair.numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(numbers, [("margin", 3.0), ("score_chosen", 4.0), ("score_rejected", 1.0)]);
    }
}
