//! Completions that were judged in words.

use super::{Needs, Rows, View};
use crate::error::Result;
use crate::groups::{JudgedRows, Scores};
use crate::scores::TokenScores;

/// Completions that were judged in words, scored with and without the judgment.
#[derive(Debug, Clone)]
pub struct Judged {
    scores: TokenScores,
    items: Vec<JudgedRows>,
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
