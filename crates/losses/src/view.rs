//! Typed windows on scores: what a loss takes is what it needs.

use std::fmt;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::groups::{LabelledRow, Scores};
use crate::reduction::Reduction;
use crate::scores::{Outputs, TokenScores, select_rows};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Whether rows must be scored by a reference too.
    pub reference: bool,
    /// The kinds of rows that it can use; one of them suffices.
    pub rows: Rows,
    /// The statistics it reads beside log-probabilities.
    pub outputs: Outputs,
    /// What it must see of the whole step.
    pub step_wide: StepWide,
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
}

/// Completions with a verdict, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredLabels {
    policy: TokenScores,
    reference: TokenScores,
    labelled: Vec<LabelledRow>,
}

/// Completions to be imitated: demonstrations, or the chosen rows of pairs, or
/// the rows labelled desirable (see [`Groups::demonstration_rows`](crate::Groups::demonstration_rows)).
#[derive(Debug, Clone)]
pub struct Demonstrations {
    scores: TokenScores,
    rows: Vec<usize>,
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
    pub const PAIRS: Self = Self { pairs: true, labelled: false, demonstrations: false };
    /// Labelled rows only.
    pub const LABELLED: Self = Self { pairs: false, labelled: true, demonstrations: false };
    /// Every kind.
    pub const ANY: Self = Self { pairs: true, labelled: true, demonstrations: true };

    /// The kinds that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self {
            pairs: self.pairs && other.pairs,
            labelled: self.labelled && other.labelled,
            demonstrations: self.demonstrations && other.demonstrations,
        }
    }

    /// Whether there is any kind.
    pub fn any(self) -> bool {
        self.pairs || self.labelled || self.demonstrations
    }

    /// The kinds of rows that scores hold.
    pub fn of(scores: &Scores) -> Self {
        Self {
            pairs: !scores.groups.pairs.is_empty(),
            labelled: !scores.groups.labelled.is_empty(),
            demonstrations: !scores.groups.demonstrations.is_empty(),
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("pairs", self.pairs), ("labelled rows", self.labelled), ("demonstrations", self.demonstrations)];
        let kinds: Vec<&str> = kinds.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        if kinds.is_empty() { f.write_str("no rows") } else { f.write_str(&kinds.join(" or ")) }
    }
}

impl Needs {
    /// The error that tells what the scores lack.
    pub(crate) fn unmet(&self, loss: &str, scores: &Scores) -> Error {
        let loss = loss.to_owned();
        let found = Rows::of(scores);
        let outputs = self.outputs.missing_from(scores.policy.outputs());
        if !self.rows.intersection(found).any() {
            Error::WrongRows { loss, wanted: self.rows.to_string(), found: found.to_string() }
        } else if self.reference && scores.reference.is_none() {
            Error::MissingReference { loss }
        } else if !outputs.is_empty() {
            Error::MissingOutput { loss, wanted: outputs.join(", ") }
        } else {
            Error::View { loss }
        }
    }
}

impl View for Pair {
    const NEEDS: Needs =
        Needs { reference: false, rows: Rows::PAIRS, outputs: Outputs::NONE, step_wide: StepWide::Nothing };

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
        let rows = reduction.reduce(&self.scores)?;
        Ok(Sides { chosen: select_rows(&rows, &self.chosen)?, rejected: select_rows(&rows, &self.rejected)? })
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
        Some(Self { policy, reference })
    }
}

impl AnchoredPair {
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
    const NEEDS: Needs =
        Needs { reference: true, rows: Rows::LABELLED, outputs: Outputs::NONE, step_wide: StepWide::Nothing };

    fn view(scores: &Scores) -> Option<Self> {
        let labelled = &scores.groups.labelled;
        if labelled.is_empty() {
            return None;
        }
        let reference = scores.reference.as_ref()?.detach();
        Some(Self { policy: scores.policy.clone(), reference, labelled: labelled.clone() })
    }
}

impl AnchoredLabels {
    /// Rows and verdicts, in order.
    pub fn labelled(&self) -> &[LabelledRow] {
        &self.labelled
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
    const NEEDS: Needs =
        Needs { reference: false, rows: Rows::ANY, outputs: Outputs::NONE, step_wide: StepWide::Nothing };

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
