//! Typed windows on scores: what a loss takes is what it needs.

mod judged;
mod pair;
mod ranked;
mod single;
mod taught;

use std::fmt;

use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::numbers::Numbers;
use crate::scores::Outputs;

pub use judged::Judged;
pub use pair::{AnchoredPair, EditedPair, Pair, Sides};
pub use ranked::{AnchoredRanked, Comparisons, Ranked, RankedValues};
pub use single::{AnchoredLabels, DemonstrationMeans, Demonstrations};
pub use taught::{AdvisedPair, TaughtPair, TaughtSide};

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
    /// Its log-probabilities: [`TeacherScores::log_probs`](crate::TeacherScores::log_probs).
    LogProbs,
    /// Those of its own reference too: [`TeacherScores::reference`](crate::TeacherScores::reference).
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
    /// How many heads a score model must have for it, as many as its last one's place says; 0 where it does not say.
    pub heads: usize,
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
            heads: 0,
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
            heads: self.heads.max(other.heads),
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
