//! The policy of a run, whichever head its objective reads.
use std::path::Path;

use candlewick_losses::{Outputs, TokenScores};
use candlewick_model::{Packed, Parameters, Saved, ScoreSaved};

use crate::error::{Error, Result};
use crate::policy::{CausalPolicy, Copied, Cotangents, Policy, Trainable, Tuning};
use crate::score_policy::ScorePolicy;
use crate::tensor_file::Element;

/// A causal language model or a score model in training.
#[derive(Debug)]
pub enum ModelPolicy<T: Element = f32> {
    /// For objectives that read log-probabilities of tokens.
    Causal(CausalPolicy<T>),
    /// For objectives that read values of completions.
    Score(ScorePolicy<T>),
}

/// What a forward pass of a [`ModelPolicy`] kept.
#[derive(Debug)]
pub enum ModelSaved<T: Element> {
    /// Of a causal language model.
    Causal(Saved<T>),
    /// Of a score model.
    Score(ScoreSaved<T>),
}

impl<T: Element> ModelPolicy<T> {
    /// The causal language model, where it is one.
    ///
    /// # Errors
    /// It is a score model, which predicts no tokens.
    pub fn causal(&self) -> Result<&CausalPolicy<T>> {
        match self {
            Self::Causal(policy) => Ok(policy),
            Self::Score(_) => Err(no_tokens()),
        }
    }

    /// The causal language model to be worked with, as for sampling from it.
    ///
    /// # Errors
    /// As [`causal`](Self::causal).
    pub fn causal_mut(&mut self) -> Result<&mut CausalPolicy<T>> {
        match self {
            Self::Causal(policy) => Ok(policy),
            Self::Score(_) => Err(no_tokens()),
        }
    }
}

impl<T: Element> Policy for ModelPolicy<T> {
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        match self {
            Self::Causal(policy) => policy.score(batch, want),
            Self::Score(policy) => policy.score(batch, want),
        }
    }
}

impl<T: Element> Trainable for ModelPolicy<T> {
    type Element = T;
    type Saved = ModelSaved<T>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, ModelSaved<T>)> {
        Ok(match self {
            Self::Causal(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Causal(saved))
            }
            Self::Score(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Score(saved))
            }
        })
    }

    fn backward(&mut self, batch: &Packed, saved: ModelSaved<T>, cotangents: &Cotangents) -> Result<()> {
        match (self, saved) {
            (Self::Causal(policy), ModelSaved::Causal(saved)) => policy.backward(batch, saved, cotangents),
            (Self::Score(policy), ModelSaved::Score(saved)) => policy.backward(batch, saved, cotangents),
            _ => Err(Error::Mismatch(
                "what was kept belongs to a model of another kind; give back what forward gave".into(),
            )),
        }
    }

    fn score_without_adapter(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        match self {
            Self::Causal(policy) => policy.score_without_adapter(batch, want),
            Self::Score(policy) => policy.score_without_adapter(batch, want),
        }
    }

    fn parameters(&self) -> &Parameters<T> {
        match self {
            Self::Causal(policy) => policy.parameters(),
            Self::Score(policy) => policy.parameters(),
        }
    }

    fn tuning(&mut self) -> Tuning<'_, T> {
        match self {
            Self::Causal(policy) => policy.tuning(),
            Self::Score(policy) => policy.tuning(),
        }
    }

    fn gradient_may_be_zero(&self, i: usize) -> bool {
        match self {
            Self::Causal(policy) => policy.gradient_may_be_zero(i),
            Self::Score(policy) => policy.gradient_may_be_zero(i),
        }
    }

    fn preferences(&self) -> usize {
        match self {
            Self::Causal(policy) => policy.preferences(),
            Self::Score(policy) => policy.preferences(),
        }
    }

    fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        match self {
            Self::Causal(policy) => policy.set_preference(preference),
            Self::Score(policy) => policy.set_preference(preference),
        }
    }

    fn add_penalty(&mut self) -> Option<f64> {
        match self {
            Self::Causal(policy) => policy.add_penalty(),
            Self::Score(policy) => policy.add_penalty(),
        }
    }

    fn digest(&self) -> Result<String> {
        match self {
            Self::Causal(policy) => policy.digest(),
            Self::Score(policy) => policy.digest(),
        }
    }

    fn save(&self, directory: &Path) -> Result<()> {
        match self {
            Self::Causal(policy) => policy.save(directory),
            Self::Score(policy) => policy.save(directory),
        }
    }

    fn copied(&self) -> Result<Box<dyn Copied>> {
        match self {
            Self::Causal(policy) => policy.copied(),
            Self::Score(policy) => policy.copied(),
        }
    }

    fn restore(&mut self, directory: &Path) -> Result<()> {
        match self {
            Self::Causal(policy) => policy.restore(directory),
            Self::Score(policy) => policy.restore(directory),
        }
    }
}

fn no_tokens() -> Error {
    Error::Mismatch(
        "the policy is a score model, which predicts no tokens; train a causal language model for that".into(),
    )
}
