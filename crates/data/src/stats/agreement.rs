//! How far annotators agree: Krippendorff's α for nominal votes.
//!
//! Of a row with m ≥ 2 votes, v<sub>c</sub> of which are for category c (the one completion, the other, a tie), the share of
//! its ordered pairs of votes that differ is (m² − Σ v<sub>c</sub>²) / (m (m − 1)). With n votes in all such rows, n<sub>c</sub>
//! of them for c,
//!
//! ```text
//! observed = Σ over rows of (m² − Σ v_c²) / (m − 1) / n
//! expected = (n² − Σ n_c²) / (n (n − 1))
//! α        = 1 − observed / expected
//! ```
//!
//! (Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011, section B: nominal data, any number of observers, missing
//! data.) 1 is agreement, 0 what chance gives. Which completion of a pair is called chosen follows from the votes themselves, so
//! the votes for the two sides are entered in both orders: n<sub>chosen</sub> and n<sub>rejected</sub> are both half of their
//! sum. Without that, chance agreement would be overstated.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::{Histogram, LengthSummary};

/// More votes than this on one row are taken for something else.
const MOST_VOTES: f64 = 1e9;

/// Counts of votes over rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agreement {
    votes_per_row: Histogram,
    rows: u64,
    /// Votes for chosen, rejected, tie.
    votes: [u64; 3],
    /// Of rows with two votes or more.
    compared: Compared,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    rows: u64,
    unanimous: u64,
    votes: [u64; 3],
    /// Sum over rows of (m² − Σ v²) / (m − 1).
    differing: f64,
    /// Sum over rows of the share of pairs of votes that agree.
    agreeing: f64,
}

impl Agreement {
    /// Adds the votes of a row that brings counts of them; ties are 0 where they are not given.
    pub(crate) fn add(&mut self, numbers: &BTreeMap<String, f64>) {
        let count = |name: &str| numbers.get(name).copied();
        let (Some(chosen), Some(rejected)) = (count("votes_chosen"), count("votes_rejected")) else { return };
        let votes = [chosen, rejected, count("votes_tied").unwrap_or(0.0)];
        if votes.iter().all(|votes| (0.0..=MOST_VOTES).contains(votes) && votes.fract() == 0.0) {
            self.add_counts(votes.map(|votes| votes as u64));
        }
    }

    fn add_counts(&mut self, votes: [u64; 3]) {
        let all: u64 = votes.iter().sum();
        if all == 0 {
            return;
        }
        self.rows += 1;
        self.votes_per_row.add(all);
        add(&mut self.votes, votes);
        if all < 2 {
            return;
        }
        let m = all as f64;
        let differing = m * m - squares(votes.map(|votes| votes as f64));
        self.compared.rows += 1;
        self.compared.unanimous += u64::from(votes.contains(&all));
        add(&mut self.compared.votes, votes);
        self.compared.differing += differing / (m - 1.0);
        self.compared.agreeing += 1.0 - differing / (m * (m - 1.0));
    }

    pub(crate) fn summary(&self) -> Option<VoteSummary> {
        let [chosen, rejected, tied] = self.votes;
        let compared = &self.compared;
        let share = |part: f64| (compared.rows > 0).then(|| part / compared.rows as f64);
        Some(VoteSummary {
            rows: self.rows,
            chosen,
            rejected,
            tied,
            votes_per_row: self.votes_per_row.summary()?,
            compared_rows: compared.rows,
            unanimous_share: share(compared.unanimous as f64),
            raw_agreement: share(compared.agreeing),
            krippendorff_alpha: compared.alpha(),
        })
    }
}

impl Compared {
    fn alpha(&self) -> Option<f64> {
        let [chosen, rejected, tied] = self.votes.map(|votes| votes as f64);
        let n = chosen + rejected + tied;
        let side = (chosen + rejected) / 2.0;
        let expected = (n * n - squares([side, side, tied])) / (n * (n - 1.0));
        (n >= 2.0 && expected > 0.0).then(|| 1.0 - self.differing / n / expected)
    }
}

/// Votes of several annotators.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VoteSummary {
    /// Rows that bring votes.
    pub rows: u64,
    /// Votes for the chosen completion.
    pub chosen: u64,
    /// Votes for the rejected one.
    pub rejected: u64,
    /// Votes for a tie.
    pub tied: u64,
    /// Votes on a row.
    pub votes_per_row: LengthSummary,
    /// Rows with two votes or more: the figures below are about them.
    pub compared_rows: u64,
    /// Share of rows on which all votes are the same.
    pub unanimous_share: Option<f64>,
    /// Mean over rows of the share of pairs of votes that are the same.
    pub raw_agreement: Option<f64>,
    /// Krippendorff's α of nominal votes, ties a category of their own, the two sides exchangeable: 1 for agreement, 0 for
    /// chance. None where nothing could differ.
    pub krippendorff_alpha: Option<f64>,
}

fn squares(values: [f64; 3]) -> f64 {
    values.iter().map(|value| value * value).sum()
}

fn add(sum: &mut [u64; 3], more: [u64; 3]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[[u64; 3]]) -> VoteSummary {
        let mut agreement = Agreement::default();
        for [chosen, rejected, tied] in rows {
            let number = |name: &str, votes: &u64| (name.to_owned(), *votes as f64);
            let numbers =
                [number("votes_chosen", chosen), number("votes_rejected", rejected), number("votes_tied", tied)];
            agreement.add(&numbers.into());
        }
        agreement.summary().unwrap()
    }

    #[test]
    fn four_rows_worked_by_hand() {
        // Pairs of votes that differ, over m - 1: 0, 4/2, 6/2, 4/2; of n = 12 votes: observed 7/12.
        // 10 votes for a side are 5 and 5, 2 are ties: expected (144 - 25 - 25 - 4) / (12 * 11) = 90/132.
        let summary = of(&[[3, 0, 0], [2, 1, 0], [1, 1, 1], [2, 0, 1]]);
        assert!((summary.krippendorff_alpha.unwrap() - (1.0 - (7.0 / 12.0) / (90.0 / 132.0))).abs() < 1e-12);
        // 1, 1/3, 0, 1/3 of the pairs of votes agree.
        assert!((summary.raw_agreement.unwrap() - 5.0 / 12.0).abs() < 1e-12);
        assert_eq!(summary.unanimous_share, Some(0.25));
        assert_eq!((summary.rows, summary.chosen, summary.rejected, summary.tied), (4, 8, 2, 2));
    }

    #[test]
    fn agreement_is_one_and_chance_is_nought() {
        assert_eq!(of(&[[3, 0, 0], [0, 3, 0], [5, 0, 0]]).krippendorff_alpha, Some(1.0));
        // Two votes a row, half of the rows split: what two coins give, but for the votes drawn without replacement.
        let rows: Vec<[u64; 3]> = (0..10_000).map(|row| if row % 2 == 0 { [2, 0, 0] } else { [1, 1, 0] }).collect();
        assert!(of(&rows).krippendorff_alpha.unwrap().abs() < 1e-3);
        // TieShare only: nothing could differ.
        assert_eq!(of(&[[0, 0, 3], [0, 0, 2]]).krippendorff_alpha, None);
    }

    #[test]
    fn single_votes_are_counted_and_not_compared() {
        let summary = of(&[[1, 0, 0], [0, 1, 0]]);
        assert_eq!((summary.rows, summary.compared_rows, summary.raw_agreement), (2, 0, None));
        let mut agreement = Agreement::default();
        agreement.add(&[("votes_chosen".to_owned(), 0.5), ("votes_rejected".to_owned(), 1.0)].into());
        agreement.add(&[("votes_chosen".to_owned(), 2.0)].into());
        assert!(agreement.summary().is_none());
    }
}
