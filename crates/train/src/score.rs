//! Scores of completions alone, without a loss.
use candlewick_data::Batch;
use candlewick_losses::{Outputs, TokenScores};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metrics::to_f64;
use crate::pack::PackedRows;
use crate::policy::Policy;

/// What a policy says of one completion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CompletionScore {
    /// Σ of the log-probabilities of the scored tokens, in nats.
    pub log_prob: f64,
    /// Scored tokens.
    pub tokens: usize,
}

impl CompletionScore {
    pub(crate) fn of(scores: &TokenScores, rows: &PackedRows) -> Result<Vec<Self>> {
        let sums = to_f64(&scores.sums()?.detach())?;
        let of_row = |(log_prob, tokens): (f64, &usize)| Self { log_prob, tokens: *tokens };
        Ok(sums.into_iter().zip(&rows.lengths).map(of_row).collect())
    }
}

/// Scores every completion of a batch, in the order of examples, contexts and completions. What the examples are annotated
/// with does not matter.
///
/// # Errors
/// A batch without examples; a completion without a scored token; ids the model does not know.
pub fn score_completions<P: Policy + ?Sized>(policy: &mut P, batch: &Batch) -> Result<Vec<CompletionScore>> {
    if batch.examples.is_empty() {
        return Err(Error::Mismatch("a batch without examples; leave it out".into()));
    }
    let rows = PackedRows::of_examples(&batch.examples)?;
    CompletionScore::of(&policy.score(&rows.packed, Outputs::default())?, &rows)
}
