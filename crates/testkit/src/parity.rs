//! Recorded training runs of another trainer, to be replayed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::load::{LoadError, json};

/// A whole run by TRL: what it was fed, and what came out.
#[derive(Debug, Clone, Deserialize)]
pub struct Fixture {
    /// Its name.
    pub name: String,
    /// `dpo` or `kto`.
    pub trainer: String,
    /// Options that differ from TRL's defaults, by TRL's names.
    pub options: BTreeMap<String, Value>,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs, or completions with a verdict, a micro-batch.
    pub batch_size: usize,
    /// Micro-batches a step; 1 if the file has none.
    #[serde(default = "one")]
    pub gradient_accumulation_steps: usize,
    /// Learning rate, constant.
    pub lr: f64,
    /// The optimizer; TRL's usual one if the file has none.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Longest row in tokens.
    pub max_length: usize,
    /// What TRL logged, one entry a step, by TRL's names.
    pub logs: Vec<BTreeMap<String, f64>>,
    /// The loss of every micro-batch, each divided by its own totals.
    pub micro_losses: Vec<f64>,
    /// The micro-batches, in order.
    pub batches: Vec<Batch>,
    /// Sum and sum of squares of every trained parameter after the last step.
    pub final_params_sum_sumsq: BTreeMap<String, [f64; 2]>,
}

/// An optimizer and its settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// `adamw`.
    pub name: String,
    /// Decay of both moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The norm to which the gradient is clipped.
    pub max_grad_norm: f64,
    /// `constant`.
    pub schedule: String,
}

/// A micro-batch: token ids with masks, right-padded. Rows `0..B` of a batch of
/// pairs are chosen, `B..2B` rejected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Token ids, `[N, L]`.
    pub input_ids: Vec<Vec<u32>>,
    /// 1 on tokens, 0 on padding, `[N, L]`.
    pub attention_mask: Vec<Vec<u8>>,
    /// 1 on tokens of the completion, `[N, L]`.
    pub completion_mask: Vec<Vec<u8>>,
    /// Verdicts, `[N]`; of KTO only.
    pub label: Option<Vec<bool>>,
    /// Token ids of mismatched completions, `[N, L]`; of KTO only.
    #[serde(rename = "KL_input_ids")]
    pub kl_input_ids: Option<Vec<Vec<u32>>>,
    /// 1 on their tokens, `[N, L]`.
    #[serde(rename = "KL_attention_mask")]
    pub kl_attention_mask: Option<Vec<Vec<u8>>>,
    /// 1 on tokens of the mismatched completion, `[N, L]`.
    #[serde(rename = "KL_completion_mask")]
    pub kl_completion_mask: Option<Vec<Vec<u8>>>,
}

impl Fixture {
    /// Reads a fixture.
    ///
    /// # Errors
    /// If it cannot be read or has another form.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        json(path)
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            name: "adamw".to_owned(),
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: "constant".to_owned(),
        }
    }
}

fn one() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared;

    #[test]
    fn every_fixture_is_read_and_consistent() {
        let Some(shared) = shared() else {
            println!("skipped: no shared folder");
            return;
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(shared.join("parity")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let fixture = Fixture::load(&path).unwrap();
            let micro = fixture.steps * fixture.gradient_accumulation_steps;
            assert_eq!(fixture.batches.len(), micro, "{}", fixture.name);
            assert_eq!(fixture.micro_losses.len(), micro, "{}", fixture.name);
            assert_eq!(fixture.logs.len(), fixture.steps, "{}", fixture.name);
            assert_eq!(fixture.optimizer, Optimizer::default(), "{}", fixture.name);
            assert_eq!(fixture.batches[0].label.is_some(), fixture.trainer == "kto");
            names.push(fixture.name);
        }
        assert!(names.iter().any(|name| name == "dpo_sigmoid") && names.iter().any(|name| name == "kto"));
    }
}
