//! Completions that stand alone: with a verdict, or to be imitated.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Needs, Rows, View};
use crate::error::{Error, Result};
use crate::groups::{LabelledRow, Scores};
use crate::reduction::Reduction;
use crate::scores::{Outputs, TokenScores, select_rows};
use crate::terms::Rewards;

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
