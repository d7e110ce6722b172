//! Pairs with a teacher.

use candle_core::Tensor;

use super::{Needs, Pair, Rows, Teacher, View, has_teacher};
use crate::error::{Error, Result};
use crate::groups::{Scores, TeacherScores};
use crate::scores::{Outputs, TokenScores, select_rows};

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
