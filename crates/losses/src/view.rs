//! Typed windows on scores: what a loss takes is what it needs.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{DType, Tensor};

use crate::divergence::Divergence;
use crate::error::{Error, Result};
use crate::groups::{JudgedRows, LabelledRow, RankedRows, Scores, TeacherScores};
use crate::numbers::Numbers;
use crate::reduction::Reduction;
use crate::scores::{Outputs, TokenScores, per_token, select_rows};
use crate::terms::Rewards;

/// Kinds of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Pairs of a chosen and a rejected completion.
    pub pairs: bool,
    /// Completions with a verdict.
    pub labelled: bool,
    /// Completions to be imitated.
    pub demonstrations: bool,
    /// Several rated completions of one prompt.
    pub ranked: bool,
    /// Completions with a judgment in words.
    pub judged: bool,
}

/// Which tokens of a completion are scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scored {
    /// All of them, the end token included.
    #[default]
    All,
    /// Of pairs, those by which one side was edited into the other: the tokens that the chosen completion has and the
    /// rejected one has not, and the other way round.
    Edits,
}

/// What an objective reads of a teacher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Teacher {
    /// Nothing.
    #[default]
    None,
    /// Its log-probabilities: [`TeacherScores::log_probs`].
    LogProbs,
    /// Those of its own reference too: [`TeacherScores::reference`].
    WithReference,
}

/// What an objective must see of the whole optimizer step before its first
/// micro-batch is evaluated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StepWide {
    /// Nothing: micro-batches are independent.
    #[default]
    Nothing,
    /// Scores of completions under prompts they do not answer, by policy and
    /// reference: [`Scores::mismatched`]. The other scores are not read.
    Mismatched,
    /// The scores of all rows.
    AllRows,
}

/// What an objective needs of data, reference and model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needs {
    /// Whether rows must be scored by a reference too.
    pub reference: bool,
    /// The kinds of rows that it can use; one of them suffices.
    pub rows: Rows,
    /// The statistics it reads beside log-probabilities.
    pub outputs: Outputs,
    /// What it must see of the whole step.
    pub step_wide: StepWide,
    /// Numbers that every item must bring.
    pub numbers: Numbers,
    /// Which tokens are scored.
    pub scored: Scored,
    /// What it reads of a teacher.
    pub teacher: Teacher,
    /// How many preferences the model is told, by a Panacea adapter; 0 for none.
    pub preferences: usize,
}

/// A typed window on [`Scores`].
///
/// The constant says what must be there; [`view`](View::view) gives `None` if it
/// is not. A view is cheap: it shares the tensors of the scores.
pub trait View: Sized {
    /// What must be there.
    const NEEDS: Needs;

    /// The window, or `None` if the scores lack something.
    fn view(scores: &Scores) -> Option<Self>;
}

/// Pairs, scored by the policy alone.
#[derive(Debug, Clone)]
pub struct Pair {
    scores: TokenScores,
    chosen: Vec<usize>,
    rejected: Vec<usize>,
}

/// Pairs, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredPair {
    policy: Pair,
    reference: Pair,
    numbers: BTreeMap<String, Vec<f64>>,
}

/// Completions with a verdict, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredLabels {
    policy: TokenScores,
    reference: TokenScores,
    labelled: Vec<LabelledRow>,
    numbers: BTreeMap<String, Vec<f64>>,
}

/// Completions to be imitated: demonstrations, or the chosen rows of pairs, or
/// the rows labelled desirable (see [`Groups::demonstration_rows`](crate::Groups::demonstration_rows)).
#[derive(Debug, Clone)]
pub struct Demonstrations {
    scores: TokenScores,
    rows: Vec<usize>,
}

/// Completions to be imitated, of data that hold demonstrations, with the mean over the vocabulary of the
/// log-probabilities at every token. Item `b` is demonstration `b`.
#[derive(Debug, Clone)]
pub struct DemonstrationMeans {
    scores: TokenScores,
}

/// Pairs of which one side was edited into the other: only the tokens by which they differ are scored (see
/// [`Scored::Edits`]), by the policy alone. It derefs to [`Pair`].
#[derive(Debug, Clone)]
pub struct EditedPair(Pair);

/// Several rated completions of each prompt, scored by the policy alone.
#[derive(Debug, Clone)]
pub struct Ranked {
    scores: TokenScores,
    groups: Vec<RankedRows>,
}

/// Several rated completions of each prompt, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredRanked {
    policy: Ranked,
    reference: Ranked,
}

/// Numbers of ranked completions, best first, `[G, K]` with `K` the largest group.
#[derive(Debug, Clone)]
pub struct RankedValues {
    /// The numbers; 0 where a group has fewer than `K` completions.
    pub values: Tensor,
    /// 1 where there is a completion and 0 elsewhere.
    pub mask: Tensor,
}

/// Every ranked completion against every other one of its group, best first.
#[derive(Debug, Clone)]
pub struct Comparisons {
    /// The number of completion `k` less that of completion `j`, `[G, K, K]`.
    pub gaps: Tensor,
    /// 1 where completion `k` is rated higher than completion `j` and 0 elsewhere, `[G, K, K]`: equal ratings are in
    /// no order.
    pub better: Tensor,
}

/// Completions that were judged in words, scored with and without the judgment.
#[derive(Debug, Clone)]
pub struct Judged {
    scores: TokenScores,
    items: Vec<JudgedRows>,
}

/// Pairs with what a teacher says of their tokens.
#[derive(Debug, Clone)]
pub struct TaughtPair {
    pair: Pair,
    teacher: TeacherScores,
}

/// As [`TaughtPair`], with what the teacher's own reference says too.
#[derive(Debug, Clone)]
pub struct AdvisedPair(TaughtPair);

/// One side of pairs with a teacher.
#[derive(Debug, Clone)]
pub struct TaughtSide {
    /// Scores of the policy, `[B, T]`.
    pub scores: TokenScores,
    /// Log-probabilities of the given tokens under the policy, `[B, T, K]`; differentiable.
    pub policy: Tensor,
    /// The same under the teacher; `−∞` where a slot has fewer than `K` tokens.
    pub teacher: Tensor,
    /// The same under the teacher's reference, where there is one.
    pub reference: Option<Tensor>,
}

/// One number for both sides of every pair.
#[derive(Debug, Clone)]
pub struct Sides {
    /// Of the chosen completions, `[B]`.
    pub chosen: Tensor,
    /// Of the rejected completions, `[B]`.
    pub rejected: Tensor,
}

impl Rows {
    /// Pairs only.
    pub const PAIRS: Self = Self { pairs: true, ..Self::NONE };
    /// Labelled rows only.
    pub const LABELLED: Self = Self { labelled: true, ..Self::NONE };
    /// Demonstrations only.
    pub const DEMONSTRATIONS: Self = Self { demonstrations: true, ..Self::NONE };
    /// Ranked completions only.
    pub const RANKED: Self = Self { ranked: true, ..Self::NONE };
    /// Judged completions only.
    pub const JUDGED: Self = Self { judged: true, ..Self::NONE };
    /// No kind.
    pub const NONE: Self = Self { pairs: false, labelled: false, demonstrations: false, ranked: false, judged: false };
    /// Every kind.
    pub const ANY: Self = Self { pairs: true, labelled: true, demonstrations: true, ranked: true, judged: true };

    /// The kinds that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self {
            pairs: self.pairs && other.pairs,
            labelled: self.labelled && other.labelled,
            demonstrations: self.demonstrations && other.demonstrations,
            ranked: self.ranked && other.ranked,
            judged: self.judged && other.judged,
        }
    }

    /// Whether there is any kind.
    pub fn any(self) -> bool {
        self.pairs || self.labelled || self.demonstrations || self.ranked || self.judged
    }

    /// The kinds of rows that scores hold.
    pub fn of(scores: &Scores) -> Self {
        Self {
            pairs: !scores.groups.pairs.is_empty(),
            labelled: !scores.groups.labelled.is_empty(),
            demonstrations: !scores.groups.demonstrations.is_empty(),
            ranked: !scores.groups.ranked.is_empty(),
            judged: !scores.groups.judged.is_empty(),
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("pairs", self.pairs),
            ("labelled rows", self.labelled),
            ("demonstrations", self.demonstrations),
            ("ranked completions", self.ranked),
            ("judged completions", self.judged),
        ];
        let kinds: Vec<&str> = kinds.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        if kinds.is_empty() { f.write_str("no rows") } else { f.write_str(&kinds.join(" or ")) }
    }
}

impl Needs {
    /// Rows, and nothing else.
    pub const fn of(rows: Rows) -> Self {
        Self {
            reference: false,
            rows,
            outputs: Outputs::NONE,
            step_wide: StepWide::Nothing,
            numbers: Numbers::NONE,
            scored: Scored::All,
            teacher: Teacher::None,
            preferences: 0,
        }
    }

    /// What two objectives need that look at the same rows; kinds of rows that serve both. Where they cannot both be
    /// served (see [`Mix`](crate::Mix)), what `other` needs counts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            reference: self.reference || other.reference,
            rows: self.rows.intersection(other.rows),
            outputs: self.outputs.union(other.outputs),
            step_wide: if other.step_wide == StepWide::Nothing { self.step_wide } else { other.step_wide },
            numbers: self.numbers.union(other.numbers).unwrap_or(other.numbers),
            scored: if other.scored == Scored::All { self.scored } else { other.scored },
            teacher: self.teacher.max(other.teacher),
            preferences: self.preferences.max(other.preferences),
        }
    }

    /// The error that tells what the scores lack.
    pub(crate) fn unmet(&self, loss: &str, scores: &Scores) -> Error {
        let loss = loss.to_owned();
        let found = Rows::of(scores);
        let outputs = self.outputs.missing_from(scores.policy.outputs());
        if !self.rows.intersection(found).any() {
            Error::WrongRows { loss, wanted: self.rows.to_string(), found: found.to_string() }
        } else if self.reference && scores.reference.is_none() {
            Error::MissingReference { loss }
        } else if self.teacher != Teacher::None && !has_teacher(self.teacher, scores) {
            Error::MissingTeacher { loss, with_reference: self.teacher == Teacher::WithReference }
        } else if !outputs.is_empty() {
            Error::MissingOutput { loss, wanted: outputs.join(", ") }
        } else {
            Error::View { loss }
        }
    }
}

fn has_teacher(wanted: Teacher, scores: &Scores) -> bool {
    let there = match &scores.teacher {
        None => Teacher::None,
        Some(teacher) if teacher.reference.is_none() => Teacher::LogProbs,
        Some(_) => Teacher::WithReference,
    };
    there >= wanted
}

/// The window of a loss on a micro-batch of the step.
///
/// # Errors
/// If the scores lack something.
pub(crate) fn window<V: View>(loss: &str, scores: &Scores) -> Result<V> {
    scores.check()?;
    V::view(scores).ok_or_else(|| V::NEEDS.unmet(loss, scores))
}

impl View for Pair {
    const NEEDS: Needs = Needs::of(Rows::PAIRS);

    fn view(scores: &Scores) -> Option<Self> {
        (!scores.groups.pairs.is_empty()).then(|| Self::of(scores.policy.clone(), scores))
    }
}

impl Pair {
    /// Number of pairs, `B`.
    pub fn count(&self) -> usize {
        self.chosen.len()
    }

    /// Token scores of the chosen completions, `[B, T]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn chosen(&self) -> Result<TokenScores> {
        self.scores.select(&self.chosen)
    }

    /// Token scores of the rejected completions, `[B, T]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn rejected(&self) -> Result<TokenScores> {
        self.scores.select(&self.rejected)
    }

    /// One log-probability a side, `[B]` each; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_probs(&self, reduction: Reduction) -> Result<Sides> {
        let rows = reduction.reduce_beyond(&self.scores, &self.shared_lengths())?;
        Ok(Sides { chosen: select_rows(&rows, &self.chosen)?, rejected: select_rows(&rows, &self.rejected)? })
    }

    /// Scored tokens of both sides of every pair: chosen, rejected.
    pub fn lengths(&self) -> impl Iterator<Item = (usize, usize)> {
        let lengths = self.scores.lengths();
        self.chosen.iter().zip(&self.rejected).map(|(&chosen, &rejected)| (lengths[chosen], lengths[rejected]))
    }

    /// Scored tokens of the shorter side of every row's pair; of rows without a pair, their own.
    fn shared_lengths(&self) -> Vec<usize> {
        let mut shared = self.scores.lengths().to_vec();
        for (&chosen, &rejected) in self.chosen.iter().zip(&self.rejected) {
            let shorter = self.scores.lengths()[chosen].min(self.scores.lengths()[rejected]);
            (shared[chosen], shared[rejected]) = (shared[chosen].min(shorter), shared[rejected].min(shorter));
        }
        shared
    }

    fn of(values: TokenScores, scores: &Scores) -> Self {
        let pairs = &scores.groups.pairs;
        Self {
            scores: values,
            chosen: pairs.iter().map(|pair| pair.chosen).collect(),
            rejected: pairs.iter().map(|pair| pair.rejected).collect(),
        }
    }
}

impl View for AnchoredPair {
    const NEEDS: Needs = Needs { reference: true, ..Pair::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        let policy = Pair::view(scores)?;
        let reference = Pair::of(scores.reference.as_ref()?.detach(), scores);
        Some(Self { policy, reference, numbers: scores.groups.numbers.clone() })
    }
}

impl AnchoredPair {
    /// A number of every pair by name, `[B]` in the dtype of the scores, if the data gave one a pair: for a loss that
    /// reads it only under some of its settings, which [`Loss::numbers`](crate::Loss::numbers) then names. Where it
    /// always does, see [`With`](crate::With).
    pub fn number(&self, name: &str) -> Option<Tensor> {
        let values = self.numbers.get(name).filter(|values| values.len() == self.policy.count())?;
        let like = self.policy.scores.log_probs();
        Tensor::new(values.as_slice(), like.device()).and_then(|values| values.to_dtype(like.dtype())).ok()
    }

    /// The pairs as the policy scores them.
    pub fn policy(&self) -> &Pair {
        &self.policy
    }

    /// The pairs as the reference scores them; detached.
    pub fn reference(&self) -> &Pair {
        &self.reference
    }

    /// `Δ = log π − log π_ref` of both sides, `[B]` each; differentiable with
    /// respect to the policy.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_ratios(&self, reduction: Reduction) -> Result<Sides> {
        let (policy, reference) = (self.policy.log_probs(reduction)?, self.reference.log_probs(reduction)?);
        Ok(Sides { chosen: (policy.chosen - reference.chosen)?, rejected: (policy.rejected - reference.rejected)? })
    }

    /// `s(Δ)/n` of both sides, `[B]` each: the scores of a [`Divergence`] of the summed log-ratios, divided by the tokens
    /// of each side where the reduction is a mean (afterwards, as in TRL). Differentiable with respect to the policy.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn divergence_scores(&self, divergence: Divergence, reduction: Reduction) -> Result<Sides> {
        if divergence == Divergence::ReverseKl {
            return self.log_ratios(reduction);
        }
        let sums = self.log_ratios(reduction.undivided())?;
        let (chosen, rejected) = (divergence.score(&sums.chosen)?, divergence.score(&sums.rejected)?);
        if !reduction.is_mean() {
            return Ok(Sides { chosen, rejected });
        }
        let (chosen_lengths, rejected_lengths): (Vec<usize>, Vec<usize>) = self.policy.lengths().unzip();
        Ok(Sides { chosen: per_token(&chosen, chosen_lengths)?, rejected: per_token(&rejected, rejected_lengths)? })
    }

    /// Implicit rewards `β·Δ` made of sums, detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn rewards(&self, beta: f64) -> Result<Rewards> {
        let log_ratios = self.log_ratios(Reduction::Sum)?;
        Ok(Rewards::Pair {
            chosen: (log_ratios.chosen.detach() * beta)?,
            rejected: (log_ratios.rejected.detach() * beta)?,
        })
    }
}

impl Sides {
    /// Chosen minus rejected, `[B]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn margins(&self) -> Result<Tensor> {
        Ok((&self.chosen - &self.rejected)?)
    }
}

impl View for AnchoredLabels {
    const NEEDS: Needs = Needs { reference: true, ..Needs::of(Rows::LABELLED) };

    fn view(scores: &Scores) -> Option<Self> {
        let labelled = &scores.groups.labelled;
        if labelled.is_empty() {
            return None;
        }
        let reference = scores.reference.as_ref()?.detach();
        let (labelled, numbers) = (labelled.clone(), scores.groups.numbers.clone());
        Some(Self { policy: scores.policy.clone(), reference, labelled, numbers })
    }
}

impl AnchoredLabels {
    /// Rows and verdicts, in order.
    pub fn labelled(&self) -> &[LabelledRow] {
        &self.labelled
    }

    /// A number of every row by name, `[B]` in order, if the data gave one a row: for a loss that reads it only under some
    /// of its settings, which [`Loss::numbers`](crate::Loss::numbers) then names. Where it always does, see
    /// [`With`](crate::With).
    pub fn numbers(&self, name: &str) -> Option<&[f64]> {
        self.numbers.get(name).map(Vec::as_slice).filter(|values| values.len() == self.labelled.len())
    }

    /// The elements of `values`, `[B]`, that belong to the rows of one verdict, in order; `[0]` if there are none.
    /// Differentiable.
    ///
    /// # Errors
    /// If `values` does not hold one element a row.
    pub fn of_label(&self, values: &Tensor, desirable: bool) -> Result<Tensor> {
        let of_label = self.labelled.iter().enumerate().filter(|(_, label)| label.desirable == desirable);
        select_rows(values, &of_label.map(|(index, _)| index).collect::<Vec<_>>())
    }

    /// `Δ = log π − log π_ref` of every labelled row, `[B]`; differentiable with
    /// respect to the policy.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_ratios(&self, reduction: Reduction) -> Result<Tensor> {
        let rows: Vec<usize> = self.labelled.iter().map(|label| label.row).collect();
        let log_ratios = (reduction.reduce(&self.policy)? - reduction.reduce(&self.reference)?)?;
        select_rows(&log_ratios, &rows)
    }

    /// The rows as the policy scores them, `[B, T]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn policy(&self) -> Result<TokenScores> {
        let rows: Vec<usize> = self.labelled.iter().map(|label| label.row).collect();
        self.policy.select(&rows)
    }

    /// One number a row by its verdict, `[B]`, in the dtype of the scores.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn by_label(&self, desirable: f64, undesirable: f64) -> Result<Tensor> {
        let values = self.labelled.iter().map(|label| if label.desirable { desirable } else { undesirable });
        let like = self.policy.log_probs();
        Ok(Tensor::from_iter(values, like.device())?.to_dtype(like.dtype())?)
    }

    /// Implicit rewards `β·Δ` made of sums, detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn rewards(&self, beta: f64) -> Result<Rewards> {
        Ok(Rewards::Labelled { rewards: (self.log_ratios(Reduction::Sum)?.detach() * beta)? })
    }
}

impl View for Demonstrations {
    const NEEDS: Needs = Needs::of(Rows::ANY);

    fn view(scores: &Scores) -> Option<Self> {
        // No desirable row among labelled ones is an empty window, not a missing one.
        Rows::of(scores).any().then(|| Self { scores: scores.policy.clone(), rows: scores.groups.demonstration_rows() })
    }
}

impl Demonstrations {
    /// Token scores of the demonstrations, `[B, T]`; `B` is 0 where labelled rows hold no desirable one.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn scores(&self) -> Result<TokenScores> {
        self.scores.select(&self.rows)
    }

    /// `Σ_t log p_t` of every demonstration in nats, `[B]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn sums(&self) -> Result<Tensor> {
        select_rows(&self.scores.sums()?, &self.rows)
    }
}

impl View for DemonstrationMeans {
    const NEEDS: Needs =
        Needs { outputs: Outputs { mean_log_probs: true, ..Outputs::NONE }, ..Needs::of(Rows::DEMONSTRATIONS) };

    fn view(scores: &Scores) -> Option<Self> {
        let rows = &scores.groups.demonstrations;
        if rows.is_empty() || scores.policy.mean_log_probs().is_none() {
            return None;
        }
        scores.policy.select(rows).ok().map(|scores| Self { scores })
    }
}

impl DemonstrationMeans {
    /// `Σ_t log p_t` of every demonstration in nats, `[B]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn sums(&self) -> Result<Tensor> {
        self.scores.sums()
    }

    /// `Σ_t Σ_v log p_tv / V` of every demonstration in nats, `[B]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn sums_of_means(&self) -> Result<Tensor> {
        let means = self.scores.mean_log_probs();
        let means = means.ok_or_else(|| Error::View { loss: "DemonstrationMeans".to_owned() })?;
        Ok(means.sum(1)?)
    }
}

impl View for EditedPair {
    const NEEDS: Needs = Needs { scored: Scored::Edits, ..Pair::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        Pair::view(scores).map(Self)
    }
}

impl std::ops::Deref for EditedPair {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.0
    }
}

impl View for Ranked {
    const NEEDS: Needs = Needs::of(Rows::RANKED);

    fn view(scores: &Scores) -> Option<Self> {
        let groups = scores.groups.ranked.clone();
        (!groups.is_empty()).then(|| Self { scores: scores.policy.clone(), groups })
    }
}

impl Ranked {
    /// Rows and ratings of every group.
    pub fn groups(&self) -> &[RankedRows] {
        &self.groups
    }

    /// Log-probabilities of the completions, best first; differentiable. The length-desensitized reductions compare
    /// every completion with the shortest of its group.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_probs(&self, reduction: Reduction) -> Result<RankedValues> {
        let lengths = self.scores.lengths();
        let mut shared = lengths.to_vec();
        for group in &self.groups {
            let shortest = group.rows.iter().map(|&row| lengths[row]).min().unwrap_or(0);
            group.rows.iter().for_each(|&row| shared[row] = shared[row].min(shortest));
        }
        self.arrange(&reduction.reduce_beyond(&self.scores, &shared)?)
    }

    /// The ratings, best first; detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn ratings(&self) -> Result<RankedValues> {
        let width = self.width();
        let ratings = self.groups.iter().flat_map(|group| {
            let order = group.order();
            (0..width).map(move |place| order.get(place).map_or(0.0, |&index| group.ratings[index]))
        });
        let like = self.scores.log_probs();
        let values = Tensor::from_iter(ratings, like.device())?.to_dtype(like.dtype())?;
        Ok(RankedValues { values: values.reshape((self.groups.len(), width))?, mask: self.mask(width)? })
    }

    /// Numbers of the completions, `[G, K]`, against each other; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails, or the numbers are not of these groups.
    pub fn comparisons(&self, values: &Tensor) -> Result<Comparisons> {
        let gaps = values.unsqueeze(2)?.broadcast_sub(&values.unsqueeze(1)?)?;
        let width = values.dim(1)?;
        let mut better = Vec::with_capacity(self.groups.len() * width * width);
        for group in &self.groups {
            let order = group.order();
            let ratings: Vec<Option<f64>> =
                (0..width).map(|place| order.get(place).map(|&at| group.ratings[at])).collect();
            for own in &ratings {
                let is_better = |other: &Option<f64>| matches!((own, other), (Some(own), Some(other)) if own > other);
                better.extend(ratings.iter().map(|other| f64::from(u8::from(is_better(other)))));
            }
        }
        let better = Tensor::from_vec(better, gaps.dims(), values.device())?.to_dtype(values.dtype())?;
        Ok(Comparisons { gaps, better })
    }

    /// Completions of the largest group, `K`.
    fn width(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).max().unwrap_or(0)
    }

    /// 1 where a group has a completion and 0 elsewhere, `[G, K]`.
    fn mask(&self, width: usize) -> Result<Tensor> {
        let like = self.scores.log_probs();
        let there =
            self.groups.iter().flat_map(|group| (0..width).map(|place| f64::from(u8::from(place < group.rows.len()))));
        let there = Tensor::from_iter(there, like.device())?.to_dtype(like.dtype())?;
        Ok(there.reshape((self.groups.len(), width))?)
    }

    /// Numbers of rows, `[N]`, as groups from the best completion to the worst, `[G, K]`.
    fn arrange(&self, rows: &Tensor) -> Result<RankedValues> {
        let width = self.width();
        let mut picks = Vec::with_capacity(self.groups.len() * width);
        for group in &self.groups {
            let order = group.order();
            // A place without a completion holds that of the first row; the mask takes it out.
            picks.extend((0..width).map(|place| order.get(place).map_or(0, |&index| group.rows[index])));
        }
        let mask = self.mask(width)?;
        let values = select_rows(rows, &picks)?.reshape((self.groups.len(), width))?;
        let zeros = values.detach().zeros_like()?;
        Ok(RankedValues { values: mask.gt(0.5)?.where_cond(&values, &zeros)?, mask })
    }
}

impl RankedValues {
    /// The number of the best completion of every group, `[G]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn best(&self) -> Result<Tensor> {
        Ok(self.values.narrow(1, 0, 1)?.squeeze(1)?)
    }
}

impl Comparisons {
    /// The gaps of a better completion to a worse one, `[M]` with `M` their number; detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn margins(&self) -> Result<Tensor> {
        let on_host = |values: &Tensor| -> Result<Vec<f64>> {
            Ok(values.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let (gaps, better) = (on_host(&self.gaps)?, on_host(&self.better)?);
        let margins: Vec<f64> = gaps.into_iter().zip(better).filter(|(_, is)| *is > 0.5).map(|(gap, _)| gap).collect();
        let count = margins.len();
        Ok(Tensor::from_vec(margins, count, self.gaps.device())?.to_dtype(self.gaps.dtype())?)
    }
}

impl View for AnchoredRanked {
    const NEEDS: Needs = Needs { reference: true, ..Ranked::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        let policy = Ranked::view(scores)?;
        let reference = Ranked { scores: scores.reference.as_ref()?.detach(), groups: policy.groups.clone() };
        Some(Self { policy, reference })
    }
}

impl AnchoredRanked {
    /// The completions as the policy scores them.
    pub fn policy(&self) -> &Ranked {
        &self.policy
    }

    /// `Δ = log π − log π_ref` of the completions, best first; differentiable with respect to the policy.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_ratios(&self, reduction: Reduction) -> Result<RankedValues> {
        let RankedValues { values, mask } = self.policy.log_probs(reduction)?;
        Ok(RankedValues { values: (values - self.reference.log_probs(reduction)?.values)?, mask })
    }
}

impl View for Judged {
    const NEEDS: Needs = Needs::of(Rows::JUDGED);

    fn view(scores: &Scores) -> Option<Self> {
        let items = scores.groups.judged.clone();
        (!items.is_empty()).then(|| Self { scores: scores.policy.clone(), items })
    }
}

impl Judged {
    /// Rows and verdicts, in order.
    pub fn items(&self) -> &[JudgedRows] {
        &self.items
    }

    /// Token scores of the completions under their prompts alone, `[B, T]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn plain(&self) -> Result<TokenScores> {
        self.scores.select(&self.items.iter().map(|item| item.plain).collect::<Vec<_>>())
    }

    /// Token scores of the completions under prompt and judgment, `[B, T]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn judged(&self) -> Result<TokenScores> {
        self.scores.select(&self.items.iter().map(|item| item.judged).collect::<Vec<_>>())
    }
}

impl View for TaughtPair {
    const NEEDS: Needs = Needs {
        outputs: Outputs { given: true, ..Outputs::NONE },
        teacher: Teacher::LogProbs,
        ..Needs::of(Rows::PAIRS)
    };

    fn view(scores: &Scores) -> Option<Self> {
        scores.policy.given()?;
        Some(Self { pair: Pair::view(scores)?, teacher: scores.teacher.clone()? })
    }
}

impl TaughtPair {
    /// The chosen completions.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn chosen(&self) -> Result<TaughtSide> {
        self.side(&self.pair.chosen)
    }

    /// The rejected completions.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn rejected(&self) -> Result<TaughtSide> {
        self.side(&self.pair.rejected)
    }

    fn side(&self, rows: &[usize]) -> Result<TaughtSide> {
        let scores = self.pair.scores.select(rows)?;
        let policy = scores.given().cloned().ok_or_else(|| Error::View { loss: "TaughtPair".to_owned() })?;
        let teacher = select_rows(&self.teacher.log_probs.detach(), rows)?;
        let reference =
            self.teacher.reference.as_ref().map(|values| select_rows(&values.detach(), rows)).transpose()?;
        Ok(TaughtSide { scores, policy, teacher, reference })
    }
}

impl TaughtSide {
    /// 1 where the teacher gives a token, at a slot that is scored, and 0 elsewhere, `[B, T, K]`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn given(&self) -> Result<Tensor> {
        let slots = self.scores.mask().unsqueeze(2)?;
        let there = self.teacher.gt(f64::from(f32::MIN))?.to_dtype(slots.dtype())?;
        Ok(there.broadcast_mul(&slots)?)
    }
}

impl View for AdvisedPair {
    const NEEDS: Needs = Needs { teacher: Teacher::WithReference, ..TaughtPair::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        has_teacher(Teacher::WithReference, scores).then_some(())?;
        TaughtPair::view(scores).map(Self)
    }
}

impl std::ops::Deref for AdvisedPair {
    type Target = TaughtPair;

    fn deref(&self) -> &TaughtPair {
        &self.0
    }
}
