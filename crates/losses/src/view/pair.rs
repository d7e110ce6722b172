//! Pairs, and the number of either side.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Needs, Rows, Scored, View};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::groups::Scores;
use crate::reduction::Reduction;
use crate::scores::{TokenScores, per_token, select_rows};
use crate::terms::Rewards;

/// Pairs, scored by the policy alone.
#[derive(Debug, Clone)]
pub struct Pair {
    pub(super) scores: TokenScores,
    pub(super) chosen: Vec<usize>,
    pub(super) rejected: Vec<usize>,
}

/// Pairs, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredPair {
    policy: Pair,
    reference: Pair,
    numbers: BTreeMap<String, Vec<f64>>,
}

/// Pairs of which one side was edited into the other: only the tokens by which they differ are scored (see
/// [`Scored::Edits`]), by the policy alone. It derefs to [`Pair`].
#[derive(Debug, Clone)]
pub struct EditedPair(Pair);

/// One number for both sides of every pair.
#[derive(Debug, Clone)]
pub struct Sides {
    /// Of the chosen completions, `[B]`.
    pub chosen: Tensor,
    /// Of the rejected completions, `[B]`.
    pub rejected: Tensor,
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
