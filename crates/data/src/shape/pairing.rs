//! Rated completions of one prompt as pairs.
//!
//! The ratings 5, 3, 3, 1 give the pair 5–1 as best and worst; 5–3 and 3–1 as neighbours; 5–3, 5–3, 5–1, 3–1, 3–1 as all.

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row};
use crate::shape::unpair::ranked;

/// Which of several rated completions are paired. The better rated one is the preferred one, and none are paired that are
/// rated alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// The best with the worst: one pair. Of several best ones the first in the row, of several worst ones the last.
    #[default]
    BestWorst,
    /// Each with the next worse one when they stand by rating, the earlier one in the row first among equals.
    Adjacent,
    /// Each with every worse one: n completions give up to n(n − 1)/2 pairs.
    All,
}

/// The pairs of a ranked row, best first, each with the difference of the ratings as its number `margin`, and the ratings as
/// `score_chosen` and `score_rejected`. They are made one by one, so that a row of many completions needs no more memory.
///
/// Tools, template arguments and teachers go along; other numbers of the row do not.
///
/// # Errors
/// A row that is not ranked, a rating that is not finite, fewer than two completions, or none that are rated differently.
///
/// ```
/// use candlewick_data::{Origin, Pairing, Record, Row, Text, ranked_pairs};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let completions = vec![(text("a"), 1.0), (text("b"), 5.0), (text("c"), 3.0)];
/// let record: Record = Row::Ranked { prompt: text("p"), completions }.into();
/// let pair = ranked_pairs(record, &Origin::memory(1), Pairing::BestWorst)?.next().unwrap();
/// assert_eq!(pair.row, Row::Pair { prompt: text("p"), chosen: text("b"), rejected: text("a") });
/// assert_eq!(pair.numbers["margin"], 4.0);
/// # Ok::<(), candlewick_data::Rejection>(())
/// ```
pub fn ranked_pairs(record: Record, origin: &Origin, pairing: Pairing) -> Result<RankedPairs, Rejection> {
    let completions = ranked(&record).map_err(|fault| fault.at(origin))?;
    let ratings: Vec<f64> = completions.iter().map(|(_, rating)| *rating).collect();
    if ratings.len() < 2 {
        let detail = format!("{} completion(s), expected at least two to pair", ratings.len());
        return Err(Fault::new(Reason::TooFewCompletions, detail).at(origin));
    }
    let couples = Couples::new(ratings, pairing);
    if couples.is_tied() {
        let detail = format!("all {} completions are rated alike", couples.order.len());
        return Err(Fault::new(Reason::Tied, detail).at(origin));
    }
    Ok(RankedPairs { record, couples })
}

/// The pairs of a ranked row; made by [`ranked_pairs`].
#[derive(Clone, Debug)]
pub struct RankedPairs {
    record: Record,
    couples: Couples,
}

impl Iterator for RankedPairs {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let (better, worse) = self.couples.next()?;
        let Row::Ranked { prompt, completions } = &self.record.row else {
            return None;
        };
        let (chosen, best) = completions.get(better)?;
        let (rejected, least) = completions.get(worse)?;
        let row = Row::Pair { prompt: prompt.clone(), chosen: chosen.clone(), rejected: rejected.clone() };
        let taught = self.record.teacher.get(better).zip(self.record.teacher.get(worse));
        Some(Record {
            row,
            numbers: [("margin", best - least), ("score_chosen", *best), ("score_rejected", *least)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            labels: self.record.labels.clone(),
            teacher: taught.map(|(better, worse)| vec![better.clone(), worse.clone()]).unwrap_or_default(),
            tools: self.record.tools.clone(),
            template_arguments: self.record.template_arguments.clone(),
        })
    }
}

/// Which completions are paired, by their indices, the better first.
#[derive(Clone, Debug)]
pub(crate) struct Couples {
    ratings: Vec<f64>,
    /// Indices by rating, the best first.
    order: Vec<usize>,
    pairing: Pairing,
    /// Places in `order` of the pair to look at next.
    better: usize,
    worse: usize,
}

impl Couples {
    pub(crate) fn new(ratings: Vec<f64>, pairing: Pairing) -> Self {
        let mut order: Vec<usize> = (0..ratings.len()).collect();
        order.sort_by(|left, right| ratings[*right].total_cmp(&ratings[*left]));
        let worse = if pairing == Pairing::BestWorst { order.len().saturating_sub(1) } else { 1 };
        Self { ratings, order, pairing, better: 0, worse }
    }

    /// Whether no two are rated differently.
    pub(crate) fn is_tied(&self) -> bool {
        let rating = |index: Option<&usize>| index.and_then(|index| self.ratings.get(*index));
        rating(self.order.first()) <= rating(self.order.last())
    }

    fn step(&mut self) {
        (self.better, self.worse) = match self.pairing {
            Pairing::BestWorst => (self.order.len(), self.order.len()),
            Pairing::Adjacent => (self.better + 1, self.worse + 1),
            Pairing::All if self.worse + 1 < self.order.len() => (self.better, self.worse + 1),
            Pairing::All => (self.better + 1, self.better + 2),
        };
    }
}

impl Iterator for Couples {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        loop {
            let (better, worse) = (*self.order.get(self.better)?, *self.order.get(self.worse)?);
            self.step();
            if self.ratings[better] > self.ratings[worse] {
                return Some((better, worse));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Text;

    fn couples(ratings: &[f64], pairing: Pairing) -> Vec<(usize, usize)> {
        Couples::new(ratings.to_vec(), pairing).collect()
    }

    #[test]
    fn pairs_are_best_and_worst_neighbours_or_all() {
        let ratings = [3.0, 5.0, 1.0, 3.0];
        assert_eq!(couples(&ratings, Pairing::BestWorst), [(1, 2)]);
        assert_eq!(couples(&ratings, Pairing::Adjacent), [(1, 0), (3, 2)]);
        assert_eq!(couples(&ratings, Pairing::All), [(1, 0), (1, 3), (1, 2), (0, 2), (3, 2)]);
        assert_eq!(couples(&[2.0, 2.0, 1.0, 1.0], Pairing::BestWorst), [(0, 3)]);
        for pairing in [Pairing::BestWorst, Pairing::Adjacent, Pairing::All] {
            assert_eq!(couples(&[], pairing), []);
            assert_eq!(couples(&[1.0], pairing), []);
            assert_eq!(couples(&[1.0, 1.0, 1.0], pairing), []);
            // Zeros of either sign are one rating.
            assert_eq!(couples(&[0.0, -0.0], pairing), []);
            assert!(Couples::new(vec![0.0, -0.0], pairing).is_tied());
        }
    }

    #[test]
    fn all_pairs_are_those_of_unequal_rating() {
        // Every assignment of three ratings to five completions.
        for code in 0..3usize.pow(5) {
            let ratings: Vec<f64> = (0..5).map(|place| (code / 3usize.pow(place) % 3) as f64).collect();
            let expected = (0..25).filter(|index| ratings[index / 5] > ratings[index % 5]).count();
            let mut all = couples(&ratings, Pairing::All);
            assert!(all.iter().all(|(better, worse)| ratings[*better] > ratings[*worse]), "{ratings:?}");
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), expected, "{ratings:?}");
            assert_eq!(Couples::new(ratings.clone(), Pairing::All).is_tied(), expected == 0);
            assert!(couples(&ratings, Pairing::BestWorst).iter().all(|couple| all.contains(couple)));
            assert!(couples(&ratings, Pairing::Adjacent).iter().all(|couple| all.contains(couple)));
        }
    }

    #[test]
    fn rows_that_give_no_pair_are_named() {
        let reason = |ratings: &[f64]| {
            let completions = ratings.iter().map(|rating| (Text::Plain("c".to_owned()), *rating)).collect();
            let record = Record::from(Row::Ranked { prompt: Text::Plain("p".to_owned()), completions });
            ranked_pairs(record, &Origin::memory(1), Pairing::All).unwrap_err().reason
        };
        assert_eq!(reason(&[1.0]), Reason::TooFewCompletions);
        assert_eq!(reason(&[1.0, 1.0]), Reason::Tied);
        assert_eq!(reason(&[1.0, f64::INFINITY]), Reason::OutOfRange);
    }
}
