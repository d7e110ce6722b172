//! The policy of a run, whichever head its objective reads and wherever it computes.
use std::path::Path;

use candlewick_kernels::{Workspace, bf16};
use candlewick_losses::{Outputs, TokenScores};
use candlewick_model::{Packed, Parameters, Saved, ScoreSaved};

use crate::device_policy::DevicePolicy;
use crate::device_score_policy::DeviceScorePolicy;
use crate::error::{Error, Result};
use crate::policy::{CausalPolicy, Copied, Cotangents, Policy, Queued, Trainable, Tuning};
use crate::score_policy::ScorePolicy;

/// A causal language model or a score model in training.
#[derive(Debug)]
pub enum ModelPolicy {
    /// For objectives that read log-probabilities of tokens.
    Causal(CausalPolicy),
    /// For objectives that read values of completions.
    Score(ScorePolicy),
    /// For those that read log-probabilities, on a device, in bf16 with masters in f32.
    Bf16(DevicePolicy<bf16>),
    /// The same in f32.
    F32(DevicePolicy<f32>),
    /// For objectives that read values of completions, on a device, in bf16 with masters in f32.
    ScoreBf16(DeviceScorePolicy<bf16>),
    /// The same in f32.
    ScoreF32(DeviceScorePolicy<f32>),
}

/// What a forward pass of a [`ModelPolicy`] kept.
#[derive(Debug)]
pub enum ModelSaved {
    /// Of a causal language model, in f32.
    Causal(Saved<f32>),
    /// Of a score model, in f32.
    Score(ScoreSaved),
    /// Of a causal language model in bf16.
    Bf16(Saved<bf16>),
    /// Of a score model in bf16.
    ScoreBf16(ScoreSaved<bf16>),
}

/// The same of whichever policy it is.
macro_rules! of_each {
    ($which:expr, $policy:ident => $value:expr) => {
        match $which {
            Self::Causal($policy) => $value,
            Self::Score($policy) => $value,
            Self::Bf16($policy) => $value,
            Self::F32($policy) => $value,
            Self::ScoreBf16($policy) => $value,
            Self::ScoreF32($policy) => $value,
        }
    };
}

impl ModelPolicy {
    /// The causal language model on the host, where it is one.
    ///
    /// # Errors
    /// It is a score model, which predicts no tokens, or it is on a device.
    pub fn causal(&self) -> Result<&CausalPolicy> {
        match self {
            Self::Causal(policy) => Ok(policy),
            Self::Score(_) | Self::ScoreBf16(_) | Self::ScoreF32(_) => Err(no_tokens()),
            Self::Bf16(_) | Self::F32(_) => Err(elsewhere()),
        }
    }

    /// The causal language model on the host to be worked with, as for sampling from it.
    ///
    /// # Errors
    /// As [`causal`](Self::causal).
    pub fn causal_mut(&mut self) -> Result<&mut CausalPolicy> {
        match self {
            Self::Causal(policy) => Ok(policy),
            Self::Score(_) | Self::ScoreBf16(_) | Self::ScoreF32(_) => Err(no_tokens()),
            Self::Bf16(_) | Self::F32(_) => Err(elsewhere()),
        }
    }
}

impl Policy for ModelPolicy {
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        of_each!(self, policy => policy.score(batch, want))
    }

    fn queue<'a>(&mut self, batch: &'a Packed, want: Outputs, lent: Option<&mut Workspace>) -> Result<Queued<'a>> {
        of_each!(self, policy => policy.queue(batch, want, lent))
    }
}

impl Trainable for ModelPolicy {
    type Element = f32;
    type Saved = ModelSaved;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, ModelSaved)> {
        Ok(match self {
            Self::Causal(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Causal(saved))
            }
            Self::Score(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Score(saved))
            }
            Self::Bf16(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Bf16(saved))
            }
            Self::F32(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Causal(saved))
            }
            Self::ScoreBf16(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::ScoreBf16(saved))
            }
            Self::ScoreF32(policy) => {
                let (scores, saved) = policy.forward(batch, want)?;
                (scores, ModelSaved::Score(saved))
            }
        })
    }

    fn backward(&mut self, batch: &Packed, saved: ModelSaved, cotangents: &Cotangents) -> Result<()> {
        match (self, saved) {
            (Self::Causal(policy), ModelSaved::Causal(saved)) => policy.backward(batch, saved, cotangents),
            (Self::F32(policy), ModelSaved::Causal(saved)) => policy.backward(batch, saved, cotangents),
            (Self::Score(policy), ModelSaved::Score(saved)) => policy.backward(batch, saved, cotangents),
            (Self::ScoreF32(policy), ModelSaved::Score(saved)) => policy.backward(batch, saved, cotangents),
            (Self::Bf16(policy), ModelSaved::Bf16(saved)) => policy.backward(batch, saved, cotangents),
            (Self::ScoreBf16(policy), ModelSaved::ScoreBf16(saved)) => policy.backward(batch, saved, cotangents),
            _ => Err(Error::Mismatch(
                "what was kept belongs to a model of another kind; give back what forward gave".into(),
            )),
        }
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        of_each!(self, policy => policy.queue_without_adapter(batch, want))
    }

    fn parameters(&self) -> &Parameters<f32> {
        of_each!(self, policy => policy.parameters())
    }

    fn tuning(&mut self) -> Tuning<'_, f32> {
        of_each!(self, policy => policy.tuning())
    }

    fn workspace(&mut self) -> &mut Workspace {
        of_each!(self, policy => policy.workspace())
    }

    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>> {
        of_each!(self, policy => policy.gradients_may_be_zero(of))
    }

    fn preferences(&self) -> usize {
        of_each!(self, policy => policy.preferences())
    }

    fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        of_each!(self, policy => policy.set_preference(preference))
    }

    fn add_penalty(&mut self) -> Option<f64> {
        of_each!(self, policy => policy.add_penalty())
    }

    fn digest(&self) -> Result<String> {
        of_each!(self, policy => policy.digest())
    }

    fn save(&self, directory: &Path) -> Result<()> {
        of_each!(self, policy => policy.save(directory))
    }

    fn copied(&self) -> Result<Box<dyn Copied>> {
        of_each!(self, policy => policy.copied())
    }

    fn restore(&mut self, directory: &Path) -> Result<()> {
        of_each!(self, policy => policy.restore(directory))
    }
}

fn no_tokens() -> Error {
    Error::Mismatch(
        "the policy is a score model, which predicts no tokens; train a causal language model for that".into(),
    )
}

fn elsewhere() -> Error {
    Error::Mismatch("the policy is on a device, and its model on the host is wanted; set train.device = \"cpu\"".into())
}
