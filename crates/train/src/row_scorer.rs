//! What the heads of a score model say of rows.
use candlewick_data::{Encoder, Example, Origin, Record, Rejection};
use candlewick_kernels::Workspace;
use candlewick_model::{Adapter, CompletionIds, ContextIds, Packed, ScoreModel, ScoredAt};

use crate::error::Result;

/// Gives the completions of rows the numbers of a score model's heads, normalised as the model says.
#[derive(Debug)]
pub struct RowScorer {
    model: ScoreModel,
    encoder: Encoder,
    workspace: Workspace,
}

/// The numbers of the completions of a row: `[completions][heads]`.
pub type RowValues = Vec<Vec<f64>>;

impl RowScorer {
    /// Scores on `threads` threads.
    ///
    /// # Errors
    /// A tokenizer with more ids than the model has.
    pub fn new(model: ScoreModel, encoder: Encoder, threads: usize) -> Result<Self> {
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok(Self { model, encoder, workspace: Workspace::new(threads) })
    }

    /// The names of the heads, in order.
    pub fn heads(&self) -> &[String] {
        self.model.heads()
    }

    /// Scores rows together; a row that cannot be tokenized is answered with the reason.
    ///
    /// # Errors
    /// If the model refuses what the tokenizer made.
    pub fn score(&mut self, rows: &[(Origin, Record)]) -> Result<Vec<std::result::Result<RowValues, Rejection>>> {
        let encoded: Vec<_> = rows.iter().map(|(origin, record)| self.encoder.encode_record(record, origin)).collect();
        if encoded.iter().all(Result::is_err) {
            return Ok(encoded.into_iter().map(|row| row.map(|_| Vec::new())).collect());
        }
        let packed = Packed::new(&encoded.iter().flatten().flat_map(contexts).collect::<Vec<_>>())?;
        let mut values = self.model.score(&packed, ScoredAt::Completions, Adapter::On, &mut self.workspace)?;
        self.model.normalise(&mut values);
        let mut all = values.chunks_exact(self.heads().len()).map(|row| row.iter().map(|x| f64::from(*x)).collect());
        let mut of = |example: &Example| {
            let completions: usize = example.contexts.iter().map(|context| context.completions.len()).sum();
            all.by_ref().take(completions).collect()
        };
        Ok(encoded.iter().map(|row| row.as_ref().map(&mut of).map_err(Clone::clone)).collect())
    }
}

fn contexts(example: &Example) -> impl Iterator<Item = ContextIds<'_>> {
    example.contexts.iter().map(|context| ContextIds {
        prompt: &context.prompt,
        prompt_scored: &[],
        completions: context.completions.iter().map(|completion| CompletionIds::all_scored(&completion.ids)).collect(),
    })
}
