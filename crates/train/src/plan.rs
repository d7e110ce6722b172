//! A run with every word resolved: printable, stored in checkpoints, compared on resume.
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use candlewick_data::{EncodeOptions, Order, Source};
use candlewick_losses::{Needs, Objective, Recipe};
use candlewick_model::{LoraConfig, Recompute};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, ModelWords, OrderKind, OutputWords, POLICY, ReferenceKind, ResultKind, UdmWords};
use crate::data_plan::DataPlan;
use crate::error::{Error, Result};
use crate::held_out::{EvaluationPlan, HeldOut, check_apart, resolve_evaluation};
use crate::optimizer::{OptimizerOptions, check_lora_plus, in_range, of_any_age};
use crate::safety::SafetyPlan;
use crate::schedule::Schedule;
use crate::score_policy::check_head_count;
use crate::trainer::moves_reference;
use crate::udm;
use crate::watch::WatchPlan;

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
    /// Most tokens of a micro-batch.
    pub tokens: Option<usize>,
    /// Steps whose rows are brought together by length.
    pub bucket: Option<usize>,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Threads; 0 lets the caller decide.
    pub threads: usize,
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
        let (limit, limits) = (optimizer.max_grad_norm, "a positive number, or 0 for no clipping");
        in_range("max_grad_norm", limit, limit >= 0.0, limits)?;
        check_lora_plus(optimizer.lora_plus_ratio, model.tuning != TuningPlan::Full)?;
        let options = optimizer.options()?;
        let schedule = schedule.schedule(options.learning_rate())?;
        check_optimizer(&options, &schedule, &model.tuning)?;
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
            udm: udm.map(|words| resolve_udm(words, &objective.needs(), train.seed)).transpose()?,
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
                tokens: (train.tokens > 0).then_some(train.tokens),
                bucket: train
                    .bucket
                    .map(|steps| at_least_one("train.bucket", steps as u64))
                    .transpose()?
                    .map(|steps| steps as usize),
                recompute: train.recompute,
                threads: train.threads,
            },
        })
    }

    /// Checks that a run of this plan may go on from a checkpoint of `stored`, after `step` steps.
    ///
    /// Allowed to differ: `output` (and with it the place of a precomputed reference that lies there by default), `watch`,
    /// `reference.shared`, `train.threads`, `data.workers`, and `train.length` where the learning rate does not depend on it and the new
    /// length is no shorter than what is done (of epochs: than it was). What `stored` does not say, since a plan had no such key when it
    /// was written, has its default.
    ///
    /// # Errors
    /// Any other difference, by name, with both values.
    pub fn check_resumes(&self, stored: &Value, step: u64) -> Result<()> {
        let ours = self.entries();
        let theirs = match Self::deserialize(stored) {
            Ok(stored) => stored.entries(),
            Err(_) => entries(stored),
        };
        let mut differences = Vec::new();
        for key in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (our, their) = (ours.get(key), theirs.get(key));
            if key == "reference.precomputed"
                && is_default_reference(our, &ours)
                && is_default_reference(their, &theirs)
            {
                continue;
            }
            let is_of_no_step = key.starts_with("output.") || key.starts_with("watch.") || key == "shares_reference";
            if our == their || is_of_no_step || key == "train.threads" || key == "data.workers" {
                continue;
            }
            if key.starts_with("train.length") {
                if self.schedule.depends_on_length() {
                    differences.push(format!(
                        "{key} is {}, was {} (schedule.kind makes the learning rate depend on it)",
                        show(our),
                        show(their)
                    ));
                } else if matches!(self.train.length, Length::Steps(steps) if steps < step) {
                    differences.push(format!("{key} is {}, and {step} steps are done", show(our)));
                } else if key == "train.length.epochs"
                    && let (Some(our), Some(their)) = (our.and_then(Value::as_u64), their.and_then(Value::as_u64))
                    && our < their
                {
                    differences.push(format!("{key} is {our}, was {their}"));
                }
                continue;
            }
            differences.push(format!("{key} is {}, was {}", show(our), show(their)));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(Error::OtherPlan { differences: differences.join("; ") }),
        }
    }

    /// Whether the policy is its own reference before the first step.
    pub fn starts_at_reference(&self) -> bool {
        match (&self.reference, &self.model.tuning) {
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

    /// Every value under its dotted path.
    fn entries(&self) -> BTreeMap<String, Value> {
        entries(&self.to_json())
    }
}

impl fmt::Display for Plan {
    /// One `path = value` a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries().iter().try_for_each(|(path, value)| writeln!(f, "{path} = {value}"))
    }
}

fn resolve_model(model: ModelWords, needs: &Needs) -> Result<ModelPlan> {
    let path = required("model.path", "the directory of a Hugging Face model", model.path)?;
    let tuning = match (model.lora, model.adapter) {
        (Some(_), Some(_)) => {
            return Err(Error::config(
                "model.lora",
                "given beside model.adapter; a fresh adapter or one to go on with, not both",
            ));
        }
        (Some(lora), None) if lora.rank == 0 => return Err(Error::config("model.lora.rank", "0; expected at least 1")),
        (Some(lora), None) => TuningPlan::Lora(lora),
        (None, Some(adapter)) => TuningPlan::Adapter(adapter),
        (None, None) => TuningPlan::Full,
    };
    if let Some(heads) = &model.heads {
        check_heads(heads, needs)?;
    }
    Ok(ModelPlan { path, tuning, heads: model.heads })
}

fn check_heads(heads: &[String], needs: &Needs) -> Result<()> {
    let refuse = |reason: String| Err(Error::config("model.heads", reason));
    if !needs.outputs.values {
        return refuse("given, and the objective of [objective] trains no score heads; leave it out".into());
    }
    let is_odd = |(i, name): (usize, &String)| name.trim().is_empty() || heads[..i].contains(name);
    match heads.iter().enumerate().find(|entry| is_odd(*entry)) {
        Some((_, name)) => refuse(format!("it holds {name:?}; expected names that differ and are not empty")),
        None if heads.is_empty() => refuse("an empty list; name at least one head, or leave it out".into()),
        None => check_head_count(heads, needs),
    }
}

fn resolve_reference(
    kind: Option<ReferenceKind>,
    path: Option<PathBuf>,
    tuning: &TuningPlan,
    dir: &Path,
) -> Result<ReferencePlan> {
    let default = if matches!(tuning, TuningPlan::Lora(_)) { ReferenceKind::AdapterOff } else { ReferenceKind::Frozen };
    Ok(match (kind.unwrap_or(default), path) {
        (ReferenceKind::Frozen, None) => ReferencePlan::Frozen,
        (ReferenceKind::Frozen, Some(path)) => ReferencePlan::Model(path),
        (ReferenceKind::AdapterOff, Some(_)) => {
            return Err(Error::config(
                "reference.path",
                "given, and reference.kind = \"adapter_off\" reads no file; leave it out",
            ));
        }
        (ReferenceKind::AdapterOff, None) if *tuning == TuningPlan::Full => {
            return Err(Error::config(
                "reference.kind",
                "\"adapter_off\", and there is no adapter; give model.lora or model.adapter",
            ));
        }
        (ReferenceKind::AdapterOff, None) => ReferencePlan::AdapterOff,
        (ReferenceKind::Adapter, path) => {
            if *tuning == TuningPlan::Full {
                return Err(Error::config(
                    "reference.kind",
                    "\"adapter\", and there is none to change places with; give model.lora or model.adapter",
                ));
            }
            ReferencePlan::Adapter(required("reference.path", "the directory of an adapter", path)?)
        }
        (ReferenceKind::Precomputed, path) => ReferencePlan::Precomputed(path.unwrap_or_else(|| dir.join(REFERENCE))),
    })
}

/// A reference that moves starts somewhere, and cannot be known beforehand.
fn check_may_move(objective: &Recipe, reference: &ReferencePlan, tuning: &TuningPlan) -> Result<()> {
    if !moves_reference(objective) {
        return Ok(());
    }
    match (reference, tuning) {
        (ReferencePlan::Precomputed(_), _) => Err(Error::config(
            "reference.kind",
            "\"precomputed\", and the objective moves its reference: what was computed before is void after the first update; leave \
             it out, or set objective.update to \"frozen\"",
        )),
        (ReferencePlan::Model(_), TuningPlan::Lora(_) | TuningPlan::Adapter(_)) => Err(Error::config(
            "reference.path",
            "given, and the objective moves its reference, which is a second adapter on the base of the policy; leave it out, name that \
             adapter with reference.kind = \"adapter\", or train all weights",
        )),
        _ => Ok(()),
    }
}

/// Whether objective and adapter speak of the same preferences, and the reference is one at each of them.
pub(crate) fn check_preferences(
    objective: &Recipe,
    of_adapter: usize,
    tuning: &TuningPlan,
    reference: &ReferencePlan,
) -> Result<()> {
    let wanted = objective.needs().preferences;
    let place = if matches!(tuning, TuningPlan::Adapter(_)) { "model.adapter" } else { "model.lora.preferences" };
    if wanted > 0 && !matches!(objective, Recipe::Panacea(_)) {
        return Err(Error::config(
            "objective",
            format!("{} is made of a panacea, which must be the outermost: put it around the parts", objective.name()),
        ));
    }
    if wanted != of_adapter {
        let reason = match (wanted, of_adapter) {
            (0, count) => format!(
                "a Panacea adapter of {count} preferences, and the objective {} weighs none; give [objective] of type \"panacea\" with {count} \
                 parts, or a plain LoRA adapter",
                objective.name()
            ),
            (count, 0) => format!(
                "no Panacea adapter, and the objective panacea has {count} parts to be told of; give model.lora.preferences = {count}"
            ),
            (count, other) => {
                format!("{other}, and the objective panacea has {count} parts; give one preference a part")
            }
        };
        return Err(Error::config(place, reason));
    }
    match reference {
        ReferencePlan::Adapter(_) if wanted > 0 => Err(Error::config(
            "reference.kind",
            "\"adapter\", and a Panacea adapter is trained, whose place no other adapter takes; choose adapter_off or frozen",
        )),
        ReferencePlan::Precomputed(_) if wanted > 0 && matches!(tuning, TuningPlan::Adapter(_)) => Err(Error::config(
            "reference.kind",
            "\"precomputed\", and the Panacea adapter of model.adapter says something else at every preference; choose adapter_off or frozen",
        )),
        _ => Ok(()),
    }
}

fn resolve_output(words: OutputWords, dir: PathBuf, has_held_out: bool, tuning: &TuningPlan) -> Result<OutputPlan> {
    let OutputWords { save_every, save_minutes, keep, keep_best, result, background, .. } = words;
    if let Some(minutes) = save_minutes.filter(|minutes| !(*minutes > 0.0 && minutes.is_finite())) {
        return Err(Error::config("output.save_minutes", format!("{minutes}; expected a positive number")));
    }
    let of_best = [("output.keep_best", keep_best), ("output.result", result == ResultKind::Best)];
    if let (Some((key, _)), false) = (of_best.into_iter().find(|(_, asked)| *asked), has_held_out) {
        let reason = "the best checkpoint is asked for, and nothing is evaluated; give [evaluation], or leave it out";
        return Err(Error::config(key, reason));
    }
    let keep_best = keep_best || result == ResultKind::Best;
    let background = background.unwrap_or(*tuning != TuningPlan::Full);
    Ok(OutputPlan { dir, save_every, save_minutes, keep, keep_best, result, background })
}

fn resolve_udm(words: UdmWords, needs: &Needs, seed: u64) -> Result<UdmPlan> {
    if !udm::is_read(needs) {
        return Err(Error::config(
            "udm",
            "the objective of [objective] reads no desirable_prompt; leave the section out, or choose bco with density_ratio",
        ));
    }
    let embeddings = match words.embeddings.as_str() {
        "" => return Err(Error::config("udm.embeddings", "missing; name a file, or \"policy\"")),
        POLICY => EmbeddingPlan::Policy,
        path => EmbeddingPlan::File(path.into()),
    };
    let size = at_least_one("udm.prompt_sample_size", words.prompt_sample_size as u64)? as usize;
    Ok(UdmPlan { embeddings, prompt_sample_size: size, seed: words.seed.unwrap_or(seed) })
}

/// Whether an optimizer suits the schedule and what is trained.
fn check_optimizer(options: &OptimizerOptions, schedule: &Schedule, tuning: &TuningPlan) -> Result<()> {
    match options {
        OptimizerOptions::ScheduleFreeAdamW(_) if !schedule.is_constant() => Err(Error::config(
            "schedule.kind",
            "optimizer.kind = \"schedule_free_adamw\" averages in the place of a falling rate; choose constant, which may \
             have warmup_steps",
        )),
        OptimizerOptions::Muon(_) if *tuning != TuningPlan::Full => Err(Error::config(
            "optimizer.kind",
            "\"muon\" updates the matrices of layers, and with model.lora or model.adapter none is trained; choose adamw",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn required(key: &str, what: &str, path: Option<PathBuf>) -> Result<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| Error::config(key, format!("missing; name {what}")))
}

pub(crate) fn at_least_one(key: &str, value: u64) -> Result<u64> {
    if value == 0 { Err(Error::config(key, "0; expected at least 1")) } else { Ok(value) }
}

fn entries(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
                }
            }
            leaf => {
                out.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

/// Whether a precomputed reference lies where one of these entries does if nothing else is said, now or in earlier versions.
fn is_default_reference(place: Option<&Value>, entries: &BTreeMap<String, Value>) -> bool {
    let dir = Path::new(entries.get("output.dir").and_then(Value::as_str).unwrap_or_default());
    let place = place.and_then(Value::as_str).map(Path::new);
    place.is_some_and(|place| [REFERENCE, REFERENCE_FILE].iter().any(|name| place == dir.join(name)))
}

/// Whether two paths are of one directory.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The cache in an output directory.
const REFERENCE: &str = "reference-cache";
/// What earlier versions had in its place.
pub(crate) const REFERENCE_FILE: &str = "reference.safetensors";

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Words;

    const MINIMAL: &str = "model.path = \"base\"\ndata.path = \"pairs.jsonl\"\noutput.dir = \"out\"\n";

    fn plan(assignments: &[&str]) -> Result<Plan> {
        let mut words = Words::parse(MINIMAL, "test").unwrap();
        assignments.iter().try_for_each(|assignment| words.set(assignment))?;
        Plan::resolve(words.config()?)
    }

    fn refused(assignments: &[&str]) -> String {
        plan(assignments).unwrap_err().to_string()
    }

    #[test]
    fn defaults_follow_from_the_objective_and_the_adapter() {
        assert_eq!(plan(&[]).unwrap().reference, ReferencePlan::Frozen);
        assert_eq!(plan(&["model.lora.rank=4"]).unwrap().reference, ReferencePlan::AdapterOff);
        assert_eq!(plan(&["model.adapter=a"]).unwrap().reference, ReferencePlan::Frozen);
        assert_eq!(plan(&["objective.type=sft"]).unwrap().reference, ReferencePlan::None);
        assert_eq!(plan(&["reference.path=other"]).unwrap().reference, ReferencePlan::Model("other".into()));
        let precomputed = plan(&["reference.kind=precomputed"]).unwrap().reference;
        assert_eq!(precomputed, ReferencePlan::Precomputed("out/reference-cache".into()));
        assert_eq!(plan(&[]).unwrap().train.length, Length::Epochs(1));
    }

    #[test]
    fn stratified_steps_are_the_default_of_verdicts_in_shuffled_order() {
        for (assignments, stratified) in [
            (&["objective.type=kto"][..], true),
            (&["objective.type=bco"], true),
            (&["objective.type=kto", "data.stratified=false"], false),
            (&["objective.type=kto", "train.order=file"], false),
            (&["objective.type=kto", "train.order=file", "data.stratified=true"], true),
            (&["objective.type=bco", "train.batch_size=1"], false),
            (&["objective.type=sft"], false),
            (&["objective.type=sft", "data.stratified=true"], true),
            (&[], false),
        ] {
            assert_eq!(plan(assignments).unwrap().data.stratified, stratified, "{assignments:?}");
        }
        assert!(refused(&["data.stratified=true"]).starts_with("data.stratified: true, and the objective"));
    }

    #[test]
    fn preferences_are_those_of_objective_and_adapter() {
        let panacea = [
            "objective.type=panacea",
            "objective.mix={ parts = [ { loss = { type = \"dpo\" } }, { loss = { type = \"ipo\" } } ] }",
        ];
        let with = |more: &[&'static str]| [&panacea[..], more].concat();
        let resolved = plan(&with(&["model.lora={ rank = 2, preferences = 2 }"])).unwrap();
        assert_eq!(resolved.reference, ReferencePlan::AdapterOff);
        assert!(resolved.to_string().contains("model.tuning.lora.preferences = 2\n"));
        // The base says the same at every preference.
        plan(&with(&["model.lora={ rank = 2, preferences = 2 }", "reference.kind=precomputed"])).unwrap();
        for (assignments, words) in [
            (
                with(&["model.lora.rank=2"]),
                "model.lora.preferences: no Panacea adapter, and the objective panacea has 2 parts",
            ),
            (with(&[]), "no Panacea adapter"),
            (
                with(&["model.lora={ rank = 2, preferences = 3 }"]),
                "model.lora.preferences: 3, and the objective panacea has 2 parts",
            ),
            (
                vec!["model.lora={ rank = 2, preferences = 2 }"],
                "a Panacea adapter of 2 preferences, and the objective dpo weighs none",
            ),
            (
                with(&["model.lora={ rank = 2, preferences = 2 }", "reference.kind=adapter", "reference.path=x"]),
                "whose place no other adapter takes",
            ),
        ] {
            let text = refused(&assignments);
            assert!(text.contains(words), "{text}");
        }
        let inner = "objective.loss={ type = \"panacea\", mix = { parts = [ { loss = { type = \"dpo\" } }, { loss = { type = \"ipo\" } } ] } }";
        let text = refused(&["objective.type=wpo", inner, "model.lora={ rank = 2, preferences = 2 }"]);
        assert!(text.contains("which must be the outermost"), "{text}");
        // Plans of before say the same as ever.
        let plain = plan(&["model.lora.rank=2"]).unwrap().to_string();
        assert!(!plain.contains("preferences") && !plain.contains("orthogonality"), "{plain}");
    }

    #[test]
    fn multipliers_that_nothing_could_move_are_refused() {
        let fixed = ["objective.type=safe_rlhf_lagrangian", "objective.lambda=[1.5]"];
        plan(&fixed).unwrap();
        let moving = refused(&[fixed[0], "objective.dual=[{ limit = 0.5 }]"]);
        assert!(moving.starts_with("objective.dual: given, and nobody says what answers"), "{moving}");
        assert!(moving.contains("[safety] with prompts and costs"), "{moving}");
        let section = ["safety.prompts=asked.jsonl", "safety.costs=[\"cost\"]"];
        let dual = [fixed[0], "objective.dual=[{ limit = 0.5 }]", section[0], section[1]];
        let plan_of_it = plan(&dual).unwrap();
        let safety = plan_of_it.safety.clone().unwrap();
        assert_eq!((safety.costs[0].models.len(), &safety.costs[0].head, safety.every), (1, &None, 8));
        let text = serde_json::to_string(&plan_of_it).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan_of_it);
        let nobody = refused(&[&fixed[..], &section].concat());
        assert!(nobody.starts_with("safety: the objective of [objective] has no multipliers"), "{nobody}");
        for (assignment, text) in [
            ("safety.costs=[]", "safety.costs: it has 0 entries, and objective.dual has 1; give"),
            ("safety.costs=[\"a\", \"b\"]", "safety.costs: it has 2 entries"),
            ("safety.costs=[[]]", "safety.costs[0]: it names no model"),
            ("safety.prompts=\"\"", "safety.prompts: missing; name a file of prompts"),
            ("safety.every=0", "safety.every: 0; expected at least 1"),
            ("safety.completions=0", "safety.completions: 0; expected at least 1"),
            ("safety.temperature=0", "safety.temperature: 0, and every one of the 4 answers"),
            ("safety.temperature=-1.0", "safety.temperature: -1; expected 0 or a positive number"),
            ("safety.top_p=1.5", "safety.top_p: 1.5; expected a number above 0 and at most 1"),
            ("safety.top_k=0", "safety.top_k: 0; expected at least 1"),
        ] {
            let found = refused(&[&dual[..], &[assignment]].concat());
            assert!(found.starts_with(text), "{found}");
        }
        for (costs, head) in
            [("[[\"a\", \"b\"]]", None), ("[{ model = [\"a\", \"b\"], head = \"cost\" }]", Some("cost"))]
        {
            let safety = plan(&[&dual[..], &[&format!("safety.costs={costs}")]].concat()).unwrap().safety.unwrap();
            assert_eq!((safety.costs[0].models.len(), safety.costs[0].head.as_deref()), (2, head));
        }
        let odd = Words::parse(MINIMAL, "test").unwrap().set("safety.costs=[{ model = \"a\", haed = \"cost\" }]");
        let odd = odd.unwrap_err().to_string();
        assert!(odd.starts_with("safety.costs[0]: ") && odd.contains("a directory of a score model, a list"), "{odd}");
        // Another round is another run.
        let text = plan(&[&dual[..], &["safety.every=3"]].concat()).unwrap();
        let text = text.check_resumes(&plan_of_it.to_json(), 4).unwrap_err().to_string();
        assert!(text.contains("safety.every is 3, was 8"), "{text}");
    }

    #[test]
    fn prompts_are_told_apart_where_the_objective_reads_it() {
        let bco = ["objective.type=bco", "objective.density_ratio={}", "train.seed=5"];
        assert_eq!(plan(&bco).unwrap().udm, None);
        let with = |assignment| plan(&[&bco[..], &[assignment]].concat());
        let policy =
            |prompt_sample_size, seed| Some(UdmPlan { embeddings: EmbeddingPlan::Policy, prompt_sample_size, seed });
        assert_eq!(with("udm.prompt_sample_size=64").unwrap().udm, policy(64, 5));
        assert_eq!(with("udm.seed=9").unwrap().udm, policy(1024, 9));
        let udm = with("udm.embeddings=vectors.jsonl").unwrap().udm.unwrap();
        assert_eq!(udm.embeddings, EmbeddingPlan::File("vectors.jsonl".into()));
        // What is computed is not asked of the data.
        let names =
            |plan: Plan| plan.row_needs().numbers.iter().map(|number| number.name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(plan(&bco).unwrap()), ["desirable_prompt"]);
        assert_eq!(names(with("udm.seed=9").unwrap()), [] as [&str; 0]);
        assert!(refused(&["udm.seed=1"]).starts_with("udm: the objective of [objective] reads no desirable_prompt"));
        assert!(refused(&["objective.type=bco", "udm.seed=1"]).contains("bco with density_ratio"));
        assert!(with("udm.prompt_sample_size=0").is_err());
    }

    #[test]
    fn a_reference_that_moves_is_none_that_was_computed_before() {
        for name in ["tr_dpo", "tr_ipo", "tr_kto"] {
            let kind = format!("objective.type={name}");
            assert_eq!(plan(&[&kind]).unwrap().reference, ReferencePlan::Frozen);
            assert_eq!(plan(&[&kind, "model.lora.rank=2"]).unwrap().reference, ReferencePlan::AdapterOff);
            let computed = [kind.as_str(), "reference.kind=precomputed"];
            let text = refused(&computed);
            assert!(text.starts_with("reference.kind") && text.contains("void after the first update"), "{text}");
            plan(&[&computed[..], &["objective.update=frozen"]].concat()).unwrap();
            let text = refused(&[&kind, "reference.kind=frozen", "reference.path=other", "model.lora.rank=2"]);
            assert!(text.starts_with("reference.path") && text.contains("second adapter"), "{text}");
        }
    }

    #[test]
    fn contradictions_name_both_keys() {
        for (assignments, words) in [
            (&["train.steps=1", "train.epochs=1"][..], ["train.steps", "train.epochs"]),
            (&["model.lora.rank=4", "model.adapter=a"], ["model.lora", "model.adapter"]),
            (&["reference.kind=adapter_off"], ["reference.kind", "model.lora"]),
            (&["reference.kind=frozen", "objective.type=sft"], ["reference", "objective"]),
            (&["evaluation.every=1"], ["evaluation.rows", "data.rows"]),
            (&["evaluation.rows=5..", "data.rows=..6"], ["evaluation.rows", "data.rows"]),
        ] {
            let text = refused(assignments);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        plan(&["evaluation.rows=6..", "data.rows=..6"]).unwrap();
    }

    #[test]
    fn values_out_of_range_name_key_and_range() {
        for (assignment, text) in [
            ("optimizer.learning_rate=0", "optimizer.learning_rate: 0; expected a positive number"),
            ("optimizer.beta2=1.0", "optimizer.beta2: 1; expected 0 <= beta2 < 1"),
            ("train.batch_size=0", "train.batch_size: 0; expected at least 1"),
            ("train.steps=0", "train.steps: 0; expected at least 1"),
            ("output.dir=\"\"", "output.dir: missing; name the directory for results"),
        ] {
            assert_eq!(refused(&[assignment]), text);
        }
        assert!(refused(&["objective.beta=-1.0"]).starts_with("objective: "));
    }

    #[test]
    fn a_resumed_run_may_grow_move_and_change_its_threads() {
        let stored = plan(&["train.steps=10"]).unwrap().to_json();
        plan(&["train.steps=20", "output.dir=elsewhere", "output.keep=7", "train.threads=2"])
            .unwrap()
            .check_resumes(&stored, 10)
            .unwrap();
        let refused = |assignments: &[&str]| {
            let mut all = vec!["train.steps=10"];
            all.extend(assignments);
            plan(&all).unwrap().check_resumes(&stored, 10).unwrap_err().to_string()
        };
        assert!(refused(&["optimizer.learning_rate=0.5"]).contains("optimizer.learning_rate is 0.5, was 1e-6"));
        assert!(refused(&["objective.beta=0.5"]).contains("objective.beta is 0.5, was 0.1"));
        assert!(refused(&["train.seed=3"]).contains("train.seed is 3, was 0"));
        // An older plan lacks what has a default now; what is no plan is compared as it stands.
        let mut older = stored.clone();
        older["data"].as_object_mut().unwrap().remove("stratified").unwrap();
        older["objective"].as_object_mut().unwrap().remove("divergence").unwrap();
        plan(&["train.steps=10"]).unwrap().check_resumes(&older, 10).unwrap();
        let text = plan(&["train.steps=10", "objective.divergence=forward_kl"]).unwrap().check_resumes(&older, 10);
        assert!(text.unwrap_err().to_string().contains("objective.divergence is "));
        older["data"]["from_the_future"] = true.into();
        let text = plan(&["train.steps=10"]).unwrap().check_resumes(&older, 10).unwrap_err().to_string();
        assert!(text.contains("data.from_the_future is absent, was true"), "{text}");
        assert!(text.contains("data.stratified is false, was absent"), "{text}");
        let moving =
            |dir: &str, more: &str| plan(&["reference.kind=precomputed", "train.epochs=3", dir, more]).unwrap();
        let stored = moving("output.dir=out", "output.keep=2").to_json();
        moving("output.dir=elsewhere", "output.keep=2").check_resumes(&stored, 10).unwrap();
        moving("output.dir=out", "reference.shared=true").check_resumes(&stored, 10).unwrap();
        // What earlier versions had in its place.
        let mut older = stored.clone();
        older["reference"]["precomputed"] = "out/reference.safetensors".into();
        moving("output.dir=elsewhere", "output.keep=2").check_resumes(&older, 10).unwrap();
        let text = moving("output.dir=out", "reference.path=t").check_resumes(&stored, 10).unwrap_err().to_string();
        assert!(text.contains("reference.precomputed is \"t\", was \"out/reference-cache\""), "{text}");
        moving("output.dir=out", "train.epochs=4").check_resumes(&stored, 10).unwrap();
        let text = moving("output.dir=out", "train.epochs=2").check_resumes(&stored, 10).unwrap_err().to_string();
        assert!(text.contains("train.length.epochs is 2, was 3"), "{text}");
        assert!(refused(&["train.steps=5"]).contains("train.length.steps is 5, and 10 steps are done"));
        let text = refused(&["train.steps=20", "schedule.kind=cosine"]);
        assert!(text.contains("train.length.steps") && text.contains("schedule.kind"), "{text}");
    }

    #[test]
    fn keys_of_another_kind_name_what_to_do() {
        for (assignments, text) in [
            (
                &["optimizer.momentum=0.9"][..],
                "optimizer.momentum: not a key of kind = \"adamw\", which has learning_rate, beta1, beta2, eps, weight_decay; \
                 leave it out, or choose rmsprop, muon",
            ),
            (
                &["optimizer.kind=lion", "optimizer.eps=1e-8"],
                "optimizer.eps: not a key of kind = \"lion\", which has learning_rate, beta1, beta2, weight_decay; leave it \
                 out, or choose adamw, rmsprop, adamw_8bit, schedule_free_adamw, muon",
            ),
            (
                &["schedule.kind=reduce_lr_on_plateau", "schedule.warmup_steps=5"],
                "schedule.warmup_steps: not a key of kind = \"reduce_lr_on_plateau\", which has factor, patience, threshold, \
                 threshold_mode, cooldown, min_lr, eps; leave it out, or choose linear, cosine, cosine_with_restarts, \
                 polynomial, constant, constant_with_warmup, inverse_sqrt, cosine_with_min_lr, cosine_warmup_with_min_lr, \
                 warmup_stable_decay",
            ),
            (
                &["schedule.kind=warmup_stable_decay"],
                "schedule.num_decay_steps: missing; kind = \"warmup_stable_decay\" needs it",
            ),
        ] {
            assert_eq!(refused(assignments), text);
        }
        let unknown = refused(&["optimizer.kind=adam"]);
        assert!(unknown.starts_with("optimizer.kind: unknown word \"adam\"; did you mean \"adamw\"?"), "{unknown}");
        let infinite = refused(&["optimizer.kind=lion", "optimizer.learning_rate=inf"]);
        assert_eq!(infinite, "optimizer.learning_rate: inf; expected a positive number");
    }

    #[test]
    fn every_kind_has_its_plan() {
        let kinds = ["adamw", "lion", "adafactor", "rmsprop", "adamw_8bit", "schedule_free_adamw", "muon"];
        for kind in kinds {
            let plan = plan(&[&format!("optimizer.kind={kind}"), "optimizer.learning_rate=0.5"]).unwrap();
            assert_eq!((plan.optimizer.kind(), plan.optimizer.learning_rate()), (kind, 0.5));
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }

    #[test]
    fn optimizers_and_schedules_that_do_not_suit_a_run_are_refused() {
        for (assignments, words) in [
            (&["optimizer.kind=schedule_free_adamw", "schedule.kind=cosine"][..], ["schedule.kind", "averages"]),
            (&["optimizer.kind=muon", "model.lora.rank=4"], ["optimizer.kind", "model.lora"]),
            (&["optimizer.lora_plus_ratio=16"], ["optimizer.lora_plus_ratio", "no adapter"]),
            (&["optimizer.lora_plus_ratio=0", "model.lora.rank=4"], ["optimizer.lora_plus_ratio", "positive"]),
            (&["schedule.kind=reduce_lr_on_plateau"], ["schedule.kind", "evaluation.every"]),
            (
                &["schedule.kind=polynomial", "optimizer.learning_rate=1e-8"],
                ["schedule.lr_end", "optimizer.learning_rate"],
            ),
        ] {
            let text = refused(assignments);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        plan(&["optimizer.lora_plus_ratio=16", "model.lora.rank=4", "schedule.kind=polynomial"]).unwrap();
        let followed = ["evaluation.path=held.jsonl", "evaluation.every=5", "schedule.kind=reduce_lr_on_plateau"];
        assert!(plan(&followed).unwrap().schedule.follows_evaluations());
    }

    #[test]
    fn a_plan_from_before_there_was_a_choice_goes_on() {
        let mut stored = plan(&["train.steps=10", "schedule.kind=cosine"]).unwrap().to_json();
        stored["optimizer"].as_object_mut().unwrap().remove("kind").unwrap();
        stored["schedule"].as_object_mut().unwrap().remove("num_cycles").unwrap();
        plan(&["train.steps=10", "schedule.kind=cosine"]).unwrap().check_resumes(&stored, 5).unwrap();
        let other = plan(&["train.steps=10", "schedule.kind=cosine", "optimizer.kind=lion"]).unwrap();
        let text = other.check_resumes(&stored, 5).unwrap_err().to_string();
        assert!(text.contains("optimizer.kind is \"lion\", was \"adamw\""), "{text}");
    }

    #[test]
    fn a_plan_survives_its_file() {
        let plan = plan(&["model.lora.rank=4", "evaluation.path=held.jsonl", "optimizer.learning_rate=0.3"]).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert!(plan.to_string().contains("model.tuning.lora.rank = 4\n"));
    }
}
