//! Which rows belong together, and how many of them a step holds.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::numbers::{PerItem, SafeChosen, SafeRejected};
use crate::scores::TokenScores;

/// Rows of a [`TokenScores`], grouped by what was said about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Groups {
    /// Pairs: one completion was preferred to another.
    pub pairs: Vec<PairRows>,
    /// Single completions with a verdict.
    pub labelled: Vec<LabelledRow>,
    /// Single completions to be imitated.
    pub demonstrations: Vec<usize>,
    /// Several completions of one prompt, each with a rating.
    pub ranked: Vec<RankedRows>,
    /// Completions with a judgment in words.
    pub judged: Vec<JudgedRows>,
    /// Numbers that the data give beside the texts, by name: one an item, in the order of the items.
    pub numbers: BTreeMap<String, Vec<f64>>,
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

/// Completions of one prompt, with a rating each: higher is better.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RankedRows {
    /// Rows of the completions.
    pub rows: Vec<usize>,
    /// Their ratings, as many and in the same order.
    pub ratings: Vec<f64>,
}

/// One completion scored twice: under its prompt alone, and under the prompt with a judgment of the
/// completion. Both rows score the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedRows {
    /// Row of the completion under its prompt alone.
    pub plain: usize,
    /// Row of the completion under prompt and judgment.
    pub judged: usize,
    /// Whether the judgment finds nothing wrong: the completion is then one to imitate.
    pub positive: bool,
}

/// What the numerators of a step are divided by. Add those of all micro-batches
/// (and of all ranks) before the first backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Pairs, or labelled rows, or demonstrations, or ranked groups, or judged completions.
    pub items: f64,
    /// Scored tokens of the demonstration rows (see [`Groups::demonstration_rows`]).
    pub demonstration_tokens: f64,
    /// Scored tokens of the rejected completions of pairs.
    pub rejected_tokens: f64,
    /// Rows labelled desirable.
    pub desirable: f64,
    /// Rows labelled undesirable.
    pub undesirable: f64,
    /// Pairs of which at least one side is safe, by the numbers `safe_chosen` and `safe_rejected`; 0 where the data
    /// bring neither.
    pub safe_pairs: f64,
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
    /// What a teacher says of the tokens whose log-probabilities the policy was asked for.
    pub teacher: Option<TeacherScores>,
}

/// Log-probabilities of a teacher at the scored slots, for `K` tokens a slot: those whose log-probabilities under
/// the policy stand in [`TokenScores::given`].
#[derive(Debug, Clone)]
pub struct TeacherScores {
    /// Of the teacher in nats, `[N, T, K]`; `−∞` where a slot has fewer than `K` tokens.
    pub log_probs: Tensor,
    /// Of the teacher's own reference on the same tokens, `[N, T, K]`, where there is one.
    pub reference: Option<Tensor>,
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

    /// Pairs, or labelled rows, or demonstrations, or ranked groups, or judged completions.
    pub fn items(&self) -> usize {
        // A micro-batch holds one kind; of several, which `Scores::check` refuses, the first counts.
        [self.pairs.len(), self.labelled.len(), self.demonstrations.len(), self.ranked.len(), self.judged.len()]
            .into_iter()
            .find(|&count| count > 0)
            .unwrap_or(0)
    }

    /// The rows to be imitated: the demonstrations; without any, the chosen rows
    /// of the pairs; without those, the rows labelled desirable, the best rated row of every ranked group (the
    /// first of equals), and the plain rows of completions that were judged well.
    pub fn demonstration_rows(&self) -> Vec<usize> {
        if !self.demonstrations.is_empty() {
            self.demonstrations.clone()
        } else if !self.pairs.is_empty() {
            self.pairs.iter().map(|pair| pair.chosen).collect()
        } else {
            let desirable = self.labelled.iter().filter(|label| label.desirable).map(|label| label.row);
            let best = self.ranked.iter().filter_map(RankedRows::best);
            let praised = self.judged.iter().filter(|item| item.positive).map(|item| item.plain);
            desirable.chain(best).chain(praised).collect()
        }
    }

    /// Counts of this micro-batch, from the number of scored tokens of every
    /// row; a row beyond `lengths` counts as empty. Host only: it needs no forward pass.
    pub fn totals(&self, lengths: &[usize]) -> Totals {
        let length = |row: usize| lengths.get(row).copied().unwrap_or(0);
        let tokens: usize = self.demonstration_rows().into_iter().map(length).sum();
        let rejected: usize = self.pairs.iter().map(|pair| length(pair.rejected)).sum();
        let desirable = self.labelled.iter().filter(|label| label.desirable).count();
        Totals {
            items: self.items() as f64,
            demonstration_tokens: tokens as f64,
            rejected_tokens: rejected as f64,
            desirable: desirable as f64,
            undesirable: (self.labelled.len() - desirable) as f64,
            safe_pairs: self.safe_pairs() as f64,
        }
    }

    /// Pairs of which at least one side is safe.
    fn safe_pairs(&self) -> usize {
        let labels = |name: &str| self.numbers.get(name).map_or(&[][..], Vec::as_slice);
        let pairs = labels(SafeChosen::NUMBER.name).iter().zip(labels(SafeRejected::NUMBER.name));
        pairs.take(self.pairs.len()).filter(|&(&chosen, &rejected)| chosen > 0.0 || rejected > 0.0).count()
    }

    fn check(&self, rows: usize) -> Result<()> {
        let kinds = [
            (!self.pairs.is_empty(), "pairs"),
            (!self.labelled.is_empty(), "labelled rows"),
            (!self.demonstrations.is_empty(), "demonstrations"),
            (!self.ranked.is_empty(), "ranked completions"),
            (!self.judged.is_empty(), "judged completions"),
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
        let ranked =
            self.ranked.iter().enumerate().flat_map(|(index, group)| {
                group.rows.iter().map(move |&row| (format!("ranked completions {index}"), row))
            });
        let judged = self.judged.iter().enumerate().flat_map(|(index, item)| {
            [
                (format!("judged completion {index}, plain"), item.plain),
                (format!("judged completion {index}"), item.judged),
            ]
        });
        if let Some((index, group)) = self.ranked.iter().enumerate().find(|(_, group)| !group.is_whole()) {
            return Err(Error::Ranking { index, rows: group.rows.len(), ratings: group.ratings.len() });
        }
        match pairs.chain(labelled).chain(demonstrations).chain(ranked).chain(judged).find(|&(_, row)| row >= rows) {
            Some((group, row)) => Err(Error::RowOutOfRange { group, row, rows }),
            None => Ok(()),
        }
    }
}

impl RankedRows {
    /// The row with the highest rating, the first of equals.
    pub fn best(&self) -> Option<usize> {
        self.order().first().map(|&place| self.rows[place])
    }

    /// Places in [`rows`](Self::rows) from the best rating to the worst; equals stay in order.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len().min(self.ratings.len())).collect();
        order.sort_by(|&a, &b| self.ratings[b].total_cmp(&self.ratings[a]));
        order
    }

    fn is_whole(&self) -> bool {
        self.rows.len() >= 2
            && self.ratings.len() == self.rows.len()
            && self.ratings.iter().all(|rating| rating.is_finite())
    }
}

impl Totals {
    /// The counts in a fixed order, as for a sum over ranks.
    pub fn to_array(self) -> [f64; 6] {
        let Self { items, demonstration_tokens, rejected_tokens, desirable, undesirable, safe_pairs } = self;
        [items, demonstration_tokens, rejected_tokens, desirable, undesirable, safe_pairs]
    }

    /// From counts in the order of [`to_array`](Self::to_array).
    pub fn from_array(counts: [f64; 6]) -> Self {
        let [items, demonstration_tokens, rejected_tokens, desirable, undesirable, safe_pairs] = counts;
        Self { items, demonstration_tokens, rejected_tokens, desirable, undesirable, safe_pairs }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let mut sum = self.to_array();
        sum.iter_mut().zip(other.to_array()).for_each(|(sum, more)| *sum += more);
        *self = Self::from_array(sum);
    }
}

impl Scores {
    /// Scores of `2·B` rows: first the chosen, then the rejected completions of `B` pairs.
    pub fn of_pairs(policy: TokenScores, reference: Option<TokenScores>) -> Self {
        let groups = Groups::of_pairs(policy.rows() / 2);
        Self::new(policy, reference, groups)
    }

    /// Scores of rows that are grouped in any way.
    pub fn new(policy: TokenScores, reference: Option<TokenScores>, groups: Groups) -> Self {
        Self { policy, reference, groups, mismatched: None, teacher: None }
    }

    /// Scores of single completions, one verdict a row.
    pub fn of_labelled(policy: TokenScores, reference: Option<TokenScores>, desirable: &[bool]) -> Self {
        Self::new(policy, reference, Groups::of_labelled(desirable))
    }

    /// Scores of completions to be imitated.
    pub fn of_demonstrations(policy: TokenScores) -> Self {
        let groups = Groups::of_demonstrations(policy.rows());
        Self::new(policy, None, groups)
    }

    /// A number of every item, `[B]`, in the dtype of the scores; `None` if the data gave none of that name, or not one
    /// an item.
    pub fn number(&self, name: &str) -> Option<Tensor> {
        let values = self.groups.numbers.get(name).filter(|values| values.len() == self.groups.items())?;
        let like = self.policy.log_probs();
        Tensor::new(values.as_slice(), like.device()).and_then(|values| values.to_dtype(like.dtype())).ok()
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
        self.reference.as_ref().map_or(Ok(()), |reference| check_same_slots("reference", &self.policy, reference))?;
        self.teacher.as_ref().map_or(Ok(()), |teacher| teacher.check(&self.policy))
    }
}

impl TeacherScores {
    fn check(&self, policy: &TokenScores) -> Result<()> {
        let expected = policy.given().map(Tensor::dims);
        for (what, values) in [("teacher", Some(&self.log_probs)), ("teacher's reference", self.reference.as_ref())] {
            let Some(values) = values else { continue };
            if Some(values.dims()) != expected {
                let expected = format!("{expected:?}, that of the policy's log-probabilities of the same tokens");
                return Err(Error::Shape { what, got: values.dims().to_vec(), expected });
            }
            if values.dtype() != policy.log_probs().dtype() {
                let expected = format!("{}, that of the policy", policy.log_probs().dtype().as_str());
                return Err(Error::DType { what, got: values.dtype().as_str().to_owned(), expected });
            }
        }
        Ok(())
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

pub(crate) fn check_same_slots(what: &'static str, policy: &TokenScores, reference: &TokenScores) -> Result<()> {
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
        let expected = Totals { items: 2.0, demonstration_tokens: 7.0, rejected_tokens: 110.0, ..Totals::default() };
        assert_eq!(pairs, expected);
        let labelled = Groups::of_labelled(&[true, false, true]).totals(&[1, 2, 3]);
        let expected =
            Totals { items: 3.0, demonstration_tokens: 4.0, desirable: 2.0, undesirable: 1.0, ..Totals::default() };
        assert_eq!(labelled, expected);
        let mut sum = pairs;
        sum += labelled;
        assert_eq!(sum.to_array(), [5.0, 11.0, 110.0, 2.0, 1.0, 0.0]);
        assert_eq!(Totals::from_array(sum.to_array()), sum);
    }

    #[test]
    fn a_pair_is_safe_if_one_of_its_sides_is() {
        let mut groups = Groups::of_pairs(4);
        groups.numbers.insert("safe_chosen".to_owned(), vec![1.0, 0.0, 1.0, 0.0]);
        assert_eq!(groups.totals(&[1; 8]).safe_pairs, 0.0);
        groups.numbers.insert("safe_rejected".to_owned(), vec![1.0, 1.0, 0.0, 0.0]);
        assert_eq!(groups.totals(&[1; 8]).safe_pairs, 3.0);
    }

    #[test]
    fn ranked_groups_are_ordered_by_rating() {
        let group = RankedRows { rows: vec![4, 5, 6], ratings: vec![1.0, 7.0, 7.0] };
        assert_eq!((group.best(), group.order()), (Some(5), vec![1, 2, 0]));
        let groups = Groups { ranked: vec![group.clone()], ..Groups::default() };
        groups.check(7).unwrap();
        assert_eq!(groups.totals(&[0, 0, 0, 0, 1, 2, 3]).to_array(), [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        let short = RankedRows { ratings: vec![1.0], ..group };
        let error = Groups { ranked: vec![short], ..Groups::default() }.check(7).unwrap_err().to_string();
        assert!(error.contains("3 completions and 1 ratings"), "{error}");
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
