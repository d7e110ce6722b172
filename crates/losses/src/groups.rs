//! Which rows belong together, and how many of them a step holds.

use std::ops::AddAssign;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::scores::TokenScores;

/// Rows of a [`TokenScores`], grouped by what was said about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Pairs: one completion was preferred to another.
    pub pairs: Vec<PairRows>,
    /// Single completions with a verdict.
    pub labelled: Vec<LabelledRow>,
    /// Single completions to be imitated.
    pub demonstrations: Vec<usize>,
}

/// A preferred completion and the one it was preferred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRows {
    /// Row of the preferred completion.
    pub chosen: usize,
    /// Row of the other one.
    pub rejected: usize,
}

/// A completion with a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelledRow {
    /// Row of the completion.
    pub row: usize,
    /// Whether it is wanted.
    pub desirable: bool,
}

/// What the numerators of a step are divided by. Add those of all micro-batches
/// (and of all ranks) before the first backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Pairs; without pairs, labelled rows; without either, demonstrations.
    pub items: f64,
    /// Scored tokens of the demonstration rows (see [`Groups::demonstration_rows`]).
    pub demonstration_tokens: f64,
    /// Rows labelled desirable.
    pub desirable: f64,
    /// Rows labelled undesirable.
    pub undesirable: f64,
}

/// Everything a loss may look at: one micro-batch.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Scores of the policy that is trained.
    pub policy: TokenScores,
    /// Scores of the reference on the same rows and slots.
    pub reference: Option<TokenScores>,
    /// What was said about the rows.
    pub groups: Groups,
    /// Completions under prompts they do not answer; given to
    /// [`prepare`](crate::Objective::prepare) only.
    pub mismatched: Option<MismatchedScores>,
}

/// Scores of completions under prompts they do not answer.
#[derive(Debug, Clone)]
pub struct MismatchedScores {
    /// Scores of the policy.
    pub policy: TokenScores,
    /// Scores of the reference on the same rows and slots.
    pub reference: TokenScores,
}

impl Groups {
    /// `count` pairs over `2·count` rows: first all chosen, then all rejected ones.
    pub fn of_pairs(count: usize) -> Self {
        let pairs = (0..count).map(|pair| PairRows { chosen: pair, rejected: count + pair }).collect();
        Self { pairs, ..Self::default() }
    }

    /// One labelled row for every verdict.
    pub fn of_labelled(desirable: &[bool]) -> Self {
        let labelled = desirable.iter().enumerate().map(|(row, &desirable)| LabelledRow { row, desirable }).collect();
        Self { labelled, ..Self::default() }
    }

    /// `count` demonstrations over as many rows.
    pub fn of_demonstrations(count: usize) -> Self {
        Self { demonstrations: (0..count).collect(), ..Self::default() }
    }

    /// The rows to be imitated: the demonstrations; without any, the chosen rows
    /// of the pairs; without those, the rows labelled desirable.
    pub fn demonstration_rows(&self) -> Vec<usize> {
        if !self.demonstrations.is_empty() {
            self.demonstrations.clone()
        } else if !self.pairs.is_empty() {
            self.pairs.iter().map(|pair| pair.chosen).collect()
        } else {
            self.labelled.iter().filter(|label| label.desirable).map(|label| label.row).collect()
        }
    }

    /// Counts of this micro-batch, from the number of scored tokens of every
    /// row; a row beyond `lengths` counts as empty. Host only: it needs no forward pass.
    pub fn totals(&self, lengths: &[usize]) -> Totals {
        let items = if !self.pairs.is_empty() {
            self.pairs.len()
        } else if !self.labelled.is_empty() {
            self.labelled.len()
        } else {
            self.demonstrations.len()
        };
        let rows = self.demonstration_rows();
        let tokens: usize = rows.iter().map(|&row| lengths.get(row).copied().unwrap_or(0)).sum();
        let desirable = self.labelled.iter().filter(|label| label.desirable).count();
        Totals {
            items: items as f64,
            demonstration_tokens: tokens as f64,
            desirable: desirable as f64,
            undesirable: (self.labelled.len() - desirable) as f64,
        }
    }

    fn check(&self, rows: usize) -> Result<()> {
        let kinds = [
            (!self.pairs.is_empty(), "pairs"),
            (!self.labelled.is_empty(), "labelled rows"),
            (!self.demonstrations.is_empty(), "demonstrations"),
        ];
        let found: Vec<&str> = kinds.iter().filter(|(there, _)| *there).map(|(_, kind)| *kind).collect();
        if found.len() > 1 {
            return Err(Error::SeveralKinds { found: found.join(" and ") });
        }
        let pairs = self.pairs.iter().enumerate().flat_map(|(index, pair)| {
            [(format!("pair {index}, chosen"), pair.chosen), (format!("pair {index}, rejected"), pair.rejected)]
        });
        let labelled =
            self.labelled.iter().enumerate().map(|(index, label)| (format!("labelled row {index}"), label.row));
        let demonstrations =
            self.demonstrations.iter().enumerate().map(|(index, &row)| (format!("demonstration {index}"), row));
        match pairs.chain(labelled).chain(demonstrations).find(|&(_, row)| row >= rows) {
            Some((group, row)) => Err(Error::RowOutOfRange { group, row, rows }),
            None => Ok(()),
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.demonstration_tokens += other.demonstration_tokens;
        self.desirable += other.desirable;
        self.undesirable += other.undesirable;
    }
}

impl Scores {
    /// Scores of `2·B` rows: first the chosen, then the rejected completions of `B` pairs.
    pub fn of_pairs(policy: TokenScores, reference: Option<TokenScores>) -> Self {
        let groups = Groups::of_pairs(policy.rows() / 2);
        Self { policy, reference, groups, mismatched: None }
    }

    /// Scores of single completions, one verdict a row.
    pub fn of_labelled(policy: TokenScores, reference: Option<TokenScores>, desirable: &[bool]) -> Self {
        Self { policy, reference, groups: Groups::of_labelled(desirable), mismatched: None }
    }

    /// Scores of completions to be imitated.
    pub fn of_demonstrations(policy: TokenScores) -> Self {
        let groups = Groups::of_demonstrations(policy.rows());
        Self { policy, reference: None, groups, mismatched: None }
    }

    /// Counts of this micro-batch.
    pub fn totals(&self) -> Totals {
        self.groups.totals(self.policy.lengths())
    }

    /// Checks that the groups name rows that are there and that policy and
    /// reference scored the same slots.
    ///
    /// # Errors
    /// If they do not.
    pub fn check(&self) -> Result<()> {
        self.groups.check(self.policy.rows())?;
        self.reference.as_ref().map_or(Ok(()), |reference| check_same_slots("reference", &self.policy, reference))
    }
}

impl MismatchedScores {
    /// Checks that policy and reference scored the same slots.
    ///
    /// # Errors
    /// If they did not.
    pub fn check(&self) -> Result<()> {
        check_same_slots("mismatched reference", &self.policy, &self.reference)
    }
}

fn check_same_slots(what: &'static str, policy: &TokenScores, reference: &TokenScores) -> Result<()> {
    let (got, expected) = (reference.log_probs(), policy.log_probs());
    if got.dims() != expected.dims() {
        let expected = format!("{:?}, that of the policy", expected.dims());
        return Err(Error::Shape { what, got: got.dims().to_vec(), expected });
    }
    if got.dtype() != expected.dtype() {
        let expected = format!("{}, that of the policy", expected.dtype().as_str());
        return Err(Error::DType { what, got: got.dtype().as_str().to_owned(), expected });
    }
    match policy.lengths().iter().zip(reference.lengths()).position(|(ours, theirs)| ours != theirs) {
        Some(row) => Err(Error::Shape {
            what,
            got: vec![reference.lengths()[row]],
            expected: format!("{} scored tokens in row {row}, as the policy has", policy.lengths()[row]),
        }),
        None => check_same_mask(what, policy, reference),
    }
}

/// As many scored tokens are not enough: they must be the same ones.
fn check_same_mask(what: &'static str, policy: &TokenScores, reference: &TokenScores) -> Result<()> {
    let differing = policy.mask().ne(reference.mask())?.to_dtype(DType::F64)?.sum(1)?.to_vec1::<f64>()?;
    match differing.iter().position(|count| *count > 0.0) {
        Some(row) => Err(Error::Shape {
            what,
            got: reference.mask().dims().to_vec(),
            expected: format!("the same tokens scored in row {row} as the policy has"),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn totals_count_what_each_normaliser_divides_by() {
        let pairs = Groups::of_pairs(2).totals(&[3, 4, 50, 60]);
        assert_eq!(pairs, Totals { items: 2.0, demonstration_tokens: 7.0, ..Totals::default() });
        let labelled = Groups::of_labelled(&[true, false, true]).totals(&[1, 2, 3]);
        let expected = Totals { items: 3.0, demonstration_tokens: 4.0, desirable: 2.0, undesirable: 1.0 };
        assert_eq!(labelled, expected);
        let mut sum = pairs;
        sum += labelled;
        assert_eq!(sum, Totals { items: 5.0, demonstration_tokens: 11.0, desirable: 2.0, undesirable: 1.0 });
    }

    #[test]
    fn demonstrations_come_before_chosen_rows() {
        let groups = Groups { demonstrations: vec![4], ..Groups::of_pairs(2) };
        assert_eq!(groups.demonstration_rows(), [4]);
        assert_eq!(groups.totals(&[1, 1, 1, 1, 9]).demonstration_tokens, 9.0);
    }

    #[test]
    fn kinds_of_rows_do_not_mix() {
        let groups = Groups { demonstrations: vec![4], ..Groups::of_pairs(2) };
        assert!(groups.check(5).unwrap_err().to_string().contains("pairs and demonstrations"));
    }

    #[test]
    fn a_reference_scored_the_same_tokens() {
        let zeros = || Tensor::zeros((1, 3), DType::F64, &Device::Cpu).unwrap();
        let scored = |mask: [f64; 3]| TokenScores::new(zeros(), Tensor::new(&[mask], &Device::Cpu).unwrap()).unwrap();
        let other = check_same_slots("reference", &scored([1.0, 1.0, 0.0]), &scored([1.0, 0.0, 1.0]));
        assert!(other.unwrap_err().to_string().contains("row 0"));
        check_same_slots("reference", &scored([1.0, 0.0, 1.0]), &scored([1.0, 0.0, 1.0])).unwrap();
    }

    #[test]
    fn a_row_out_of_range_is_named() {
        let error = Groups::of_pairs(2).check(3).unwrap_err();
        assert_eq!(error.to_string(), "pair 1, rejected: row 3 is named, but the scores hold 3 rows (0..3)");
    }
}
