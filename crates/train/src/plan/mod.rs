//! A run with every word resolved: printable, stored in checkpoints, compared on resume.
mod resolve;
mod resume;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use candlewick_data::{EncodeOptions, Order, Source};
use candlewick_losses::{Needs, Objective, Recipe};
use candlewick_model::{LoraConfig, Recompute};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::TokenBudget;
use crate::config::{Config, OrderKind, ResultKind};
use crate::data_plan::DataPlan;
use crate::device::{DeviceKind, Dtype};
use crate::error::{Error, Result};
use crate::held_out::{EvaluationPlan, HeldOut, check_apart, resolve_evaluation};
use crate::optimizer::{OptimizerOptions, check_lora_plus, check_max_grad_norm, of_any_age};
use crate::safety::SafetyPlan;
use crate::schedule::Schedule;
use crate::trainer::moves_reference;
use crate::udm;
use crate::watch::WatchPlan;

pub(crate) use resolve::check_preferences;
use resolve::{
    check_device, check_may_move, check_optimizer, is_same, resolve_model, resolve_output, resolve_reference,
    resolve_tokens, resolve_udm,
};

/// Everything that decides what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plan {
    /// What is trained.
    pub model: ModelPlan,
    /// The rows to train on.
    pub data: DataPlan,
    /// Held-out rows.
    pub evaluation: Option<EvaluationPlan>,
    /// The loss.
    pub objective: Recipe,
    /// Where reference log-probabilities come from.
    pub reference: ReferencePlan,
    /// Whether a cache of reference log-probabilities may hold those of other references alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_reference: bool,
    /// How rows get the number `desirable_prompt`, where that is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udm: Option<UdmPlan>,
    /// Whose costs multipliers that move follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<SafetyPlan>,
    /// The optimizer.
    #[serde(deserialize_with = "of_any_age")]
    pub optimizer: OptimizerOptions,
    /// LoRA's B learns so many times as fast as its A.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_plus_ratio: Option<f64>,
    /// Gradients are scaled down to this norm; 0 for never.
    pub max_grad_norm: f64,
    /// The course of the learning rate.
    pub schedule: Schedule,
    /// Length, batches, order.
    pub train: TrainPlan,
    /// Alarms, and reasons to stop before the end.
    #[serde(default, skip_serializing_if = "WatchPlan::is_default")]
    pub watch: WatchPlan,
    /// Where results go.
    pub output: OutputPlan,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelPlan {
    /// Directory of the model.
    pub path: PathBuf,
    /// Which of its parameters change.
    pub tuning: TuningPlan,
    /// Names of the score heads, where they are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<String>>,
}

/// Which parameters change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TuningPlan {
    /// All.
    Full,
    /// A fresh LoRA adapter.
    Lora(LoraConfig),
    /// The adapter of this directory.
    Adapter(PathBuf),
}

/// How rows get the number `desirable_prompt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UdmPlan {
    /// What prompts are told apart by.
    pub embeddings: EmbeddingPlan,
    /// Prompts drawn of each verdict.
    pub prompt_sample_size: usize,
    /// Seed of the draw.
    pub seed: u64,
}

/// What prompts are told apart by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EmbeddingPlan {
    /// The mean hidden state of the starting policy, without an adapter.
    Policy,
    /// The vectors of this file.
    File(PathBuf),
}

impl UdmPlan {
    /// The file of embeddings, where they come from one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.embeddings {
            EmbeddingPlan::Policy => None,
            EmbeddingPlan::File(path) => Some(path),
        }
    }
}

/// Where reference log-probabilities come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReferencePlan {
    /// The objective uses none.
    None,
    /// The policy as it starts.
    Frozen,
    /// The model of this directory.
    Model(PathBuf),
    /// The policy without its adapter.
    AdapterOff,
    /// The policy with the adapter of this directory.
    Adapter(PathBuf),
    /// This cache, made by the policy as it starts if it is not there.
    Precomputed(PathBuf),
}

impl ReferencePlan {
    /// The directory of its own weights, where it has some.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Model(directory) | Self::Adapter(directory) => Some(directory),
            _ => None,
        }
    }
}

/// Length, batches, order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainPlan {
    /// When to stop.
    pub length: Length,
    /// Examples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub micro_batches: usize,
    /// Seed of fresh weights.
    pub seed: u64,
    /// The order of rows.
    pub order: Order,
    /// Most tokens of a micro-batch; of a run that has begun a number.
    pub tokens: Option<TokenBudget>,
    /// Steps whose rows are brought together by length.
    pub bucket: Option<usize>,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Threads; 0 lets the caller decide.
    pub threads: usize,
    /// Where policy and reference compute.
    #[serde(default)]
    pub device: DeviceKind,
    /// What they compute in.
    #[serde(default)]
    pub dtype: Dtype,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// After so many optimizer steps.
    Steps(u64),
    /// After so many passes over the rows.
    Epochs(u64),
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutputPlan {
    /// The directory.
    pub dir: PathBuf,
    /// Steps between checkpoints; 0 for one at the end only.
    pub save_every: u64,
    /// Minutes between checkpoints, beside `save_every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_minutes: Option<f64>,
    /// Checkpoints to keep; 0 keeps all.
    pub keep: usize,
    /// Whether the checkpoint of the best evaluation is kept beside them.
    #[serde(default)]
    pub keep_best: bool,
    /// Which weights are the result.
    #[serde(default)]
    pub result: ResultKind,
    /// Whether checkpoints are written while the run goes on.
    #[serde(default)]
    pub background: bool,
}

impl Plan {
    /// Resolves a configuration.
    ///
    /// # Errors
    /// A required key is missing, a value is out of range, or two keys contradict each other; each error names the keys.
    pub fn resolve(config: Config) -> Result<Self> {
        let Config {
            model,
            data,
            evaluation,
            objective,
            reference,
            udm,
            safety,
            optimizer,
            schedule,
            train,
            watch,
            output,
        } = config;
        objective.validate().map_err(|e| Error::config("objective", e.to_string()))?;
        let safety = SafetyPlan::resolve(safety, &objective)?;
        let dir = required("output.dir", "the directory for results", output.dir.clone())?;
        let mut data = DataPlan::resolve(data, &objective.needs(), &train)?;
        let model = resolve_model(model, &objective.needs())?;
        let length = match (train.steps, train.epochs) {
            (Some(_), Some(_)) => {
                return Err(Error::config("train.steps", "given beside train.epochs; give one of them"));
            }
            (Some(steps), None) => Length::Steps(at_least_one("train.steps", steps)?),
            (None, epochs) => Length::Epochs(at_least_one("train.epochs", epochs.unwrap_or(1))?),
        };
        let reference_plan = match (objective.needs().reference, reference.kind) {
            (true, kind) => {
                let resolved = resolve_reference(kind, reference.path.clone(), &model.tuning, &dir)?;
                check_may_move(&objective, &resolved, &model.tuning)?;
                resolved
            }
            (false, None) if reference.path.is_none() && !reference.shared => ReferencePlan::None,
            (false, _) => {
                return Err(Error::config(
                    "reference",
                    "the objective of [objective] uses no reference; leave the section out",
                ));
            }
        };
        if objective.needs().outputs.values && reference_plan != ReferencePlan::None {
            return Err(Error::config(
                "objective",
                "it reads values of a score model and compares with a reference; no run trains both, choose another objective",
            ));
        }
        match &model.tuning {
            TuningPlan::Lora(lora) => {
                check_preferences(&objective, lora.preferences, &model.tuning, &reference_plan)?;
            }
            TuningPlan::Full => check_preferences(&objective, 0, &model.tuning, &reference_plan)?,
            // Known from its files alone.
            TuningPlan::Adapter(_) => {}
        }
        if reference.shared && !matches!(reference_plan, ReferencePlan::Precomputed(_)) {
            return Err(Error::config(
                "reference.shared",
                "true, and it is for reference.kind = \"precomputed\"; leave it out",
            ));
        }
        check_max_grad_norm(optimizer.max_grad_norm)?;
        check_lora_plus(optimizer.lora_plus_ratio, model.tuning != TuningPlan::Full)?;
        let options = optimizer.options()?;
        let schedule = schedule.schedule(options.learning_rate())?;
        check_optimizer(&options, &schedule, &model.tuning)?;
        let udm = udm.map(|words| resolve_udm(words, &objective.needs(), train.seed)).transpose()?;
        if !train.device.is_cpu() {
            check_device(&objective, &options, &model.tuning, udm.as_ref())?;
        }
        let batch_size = at_least_one("train.batch_size", train.batch_size as u64)? as usize;
        let evaluation = evaluation.map(|words| resolve_evaluation(words, &mut data, batch_size)).transpose()?;
        if schedule.follows_evaluations() && evaluation.as_ref().is_none_or(|evaluation| evaluation.every == 0) {
            return Err(Error::config(
                "schedule.kind",
                "this schedule follows evaluations, and there are none while training; give evaluation.every, or choose another",
            ));
        }
        if schedule.follows_evaluations() && moves_reference(&objective) {
            return Err(Error::config(
                "schedule.kind",
                "this schedule follows the losses of evaluations, and the objective moves the reference that they compare with; choose \
                 another schedule, or set objective.update to \"frozen\"",
            ));
        }
        let evaluates = evaluation.as_ref().is_some_and(|evaluation| evaluation.every > 0);
        let output = resolve_output(output, dir, evaluation.is_some(), &model.tuning)?;
        Ok(Self {
            watch: WatchPlan::resolve(
                watch,
                &objective.needs(),
                evaluates,
                output.keep_best,
                moves_reference(&objective),
            )?,
            output,
            udm,
            evaluation,
            model,
            data,
            objective,
            reference: reference_plan,
            shares_reference: reference.shared,
            safety,
            optimizer: options,
            lora_plus_ratio: optimizer.lora_plus_ratio,
            max_grad_norm: optimizer.max_grad_norm,
            schedule,
            train: TrainPlan {
                length,
                batch_size,
                micro_batches: at_least_one("train.micro_batches", train.micro_batches as u64)? as usize,
                seed: train.seed,
                order: match train.order {
                    OrderKind::File => Order::File,
                    OrderKind::Shuffled => Order::Shuffled {
                        seed: train.seed,
                        buffer: at_least_one("train.shuffle_buffer", train.shuffle_buffer as u64)? as usize,
                    },
                },
                tokens: resolve_tokens(train.tokens, train.device)?,
                bucket: train
                    .bucket
                    .map(|steps| at_least_one("train.bucket", steps as u64))
                    .transpose()?
                    .map(|steps| steps as usize),
                recompute: train.recompute,
                threads: train.threads,
                device: train.device,
                dtype: Dtype::resolve(train.dtype, train.device)?,
            },
        })
    }

    /// Whether the policy is its own reference before the first step, to the rounding of sums in `f32`.
    pub fn starts_at_reference(&self) -> bool {
        match (&self.reference, &self.model.tuning) {
            // What another batch, or a cpu, has said before differs from what a device says by more than that.
            (ReferencePlan::Precomputed(_), _) if !self.train.device.is_cpu() => false,
            // A fresh adapter changes nothing.
            (ReferencePlan::Model(path), TuningPlan::Full | TuningPlan::Lora(_)) => is_same(path, &self.model.path),
            (ReferencePlan::Adapter(path), TuningPlan::Adapter(start)) => is_same(path, start),
            (ReferencePlan::Model(_) | ReferencePlan::Adapter(_), _) => false,
            // A trained adapter differs from the base on purpose.
            (ReferencePlan::AdapterOff, tuning) => matches!(tuning, TuningPlan::Lora(_)),
            _ => true,
        }
    }

    /// How its rows become tokens.
    pub fn encode_options(&self) -> EncodeOptions {
        self.data.encode_options(self.objective.needs().scored)
    }

    /// Opens its training rows, with what the objective needs of them. Where repeats are left out, or rows for balance, all
    /// rows are read once.
    ///
    /// # Errors
    /// Files that cannot be opened or read, or hold rows of no known form.
    pub fn open_rows(&self) -> Result<Source> {
        self.data.open(&self.row_needs())
    }

    /// Opens its held-out rows; None without an evaluation.
    ///
    /// # Errors
    /// As [`Plan::open_rows`].
    pub fn open_held_out(&self) -> Result<Option<Source>> {
        let rows = self.evaluation.as_ref().map(|evaluation| &evaluation.rows);
        let opened = rows.map(|rows| self.data.open_held_out(rows, &self.row_needs())).transpose()?;
        let slices = self.evaluation.as_ref().map(|evaluation| evaluation.slices.clone()).unwrap_or_default();
        Ok(opened.map(|source| source.with_labels(slices)))
    }

    /// Whether its rows can be opened, and none that is held out is trained on.
    ///
    /// # Errors
    /// As [`Plan::open_rows`]; rows of one file or range on both sides.
    pub fn check_held_out(&self) -> Result<()> {
        self.open_for_run().map(|_| ())
    }

    /// Opens the rows of a run: those to train on, and the held-out ones.
    pub(crate) fn open_for_run(&self) -> Result<(Source, Option<Source>)> {
        self.check_read_again()?;
        let (source, held_out) = (self.open_rows()?, self.open_held_out()?);
        if let (Some(evaluation), Some(held_out)) = (&self.evaluation, &held_out) {
            check_apart(&self.data, &evaluation.rows, [&source, held_out], &self.row_needs())?;
        }
        Ok((source, held_out))
    }

    /// A run meets its rows several times: to count them, in every epoch, in every evaluation, when it goes on.
    fn check_read_again(&self) -> Result<()> {
        let is_mixture = self.data.parts.len() > 1;
        let training = self.data.parts.iter().enumerate().map(|(index, part)| match is_mixture {
            true => (format!("data.mixture[{index}].path"), part),
            false => ("data.path".to_owned(), part),
        });
        let held_out = self.evaluation.iter().filter_map(|evaluation| match &evaluation.rows {
            HeldOut::Rows(part) => Some(("evaluation.path".to_owned(), &**part)),
            HeldOut::Prompts(_) => None,
        });
        for (key, part) in training.chain(held_out) {
            let is_stream = |path: &PathBuf| {
                path.as_os_str() == "-"
                    || std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
            };
            if part.files.is_empty() && is_stream(&part.path) {
                let reason = format!(
                    "{} can be read once, and a run reads its rows several times; write them to a file and name that",
                    if part.path.as_os_str() == "-" { "standard input".into() } else { part.path.to_string_lossy() }
                );
                return Err(Error::config(key, reason));
            }
        }
        Ok(())
    }

    /// What the objective needs that rows must bring.
    fn row_needs(&self) -> Needs {
        match self.udm {
            Some(_) => udm::without_probability(&self.objective.needs()),
            None => self.objective.needs(),
        }
    }

    /// The plan as JSON.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a plan holds only strings, numbers and maps with string keys")
    }
}

impl fmt::Display for Plan {
    /// One `path = value` a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries().iter().try_for_each(|(path, value)| writeln!(f, "{path} = {value}"))
    }
}

pub(crate) fn required(key: &str, what: &str, path: Option<PathBuf>) -> Result<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| Error::config(key, format!("missing; name {what}")))
}

pub(crate) fn at_least_one(key: &str, value: u64) -> Result<u64> {
    if value == 0 { Err(Error::config(key, "0; expected at least 1")) } else { Ok(value) }
}

/// The cache in an output directory.
pub(crate) const REFERENCE: &str = "reference-cache";
/// What earlier versions had in its place.
pub(crate) const REFERENCE_FILE: &str = "reference.safetensors";
