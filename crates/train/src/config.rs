//! The words of a run: TOML text, `section.key=value` assignments, typed sections.
//!
//! ```
//! use candlewick_train::Words;
//! let mut words = Words::parse("[model]\npath = \"base\"\n[data]\npath = \"pairs.jsonl\"", "run.toml")?;
//! words.set("optimizer.learning_rate=5e-5")?;
//! let typo = words.clone().set("optimizer.learnin_rate=1").unwrap_err();
//! assert!(typo.to_string().contains("did you mean optimizer.learning_rate"));
//! assert_eq!(words.config()?.optimizer.learning_rate, 5e-5);
//! # Ok::<(), candlewick_train::Error>(())
//! ```
use std::path::{Path, PathBuf};

use candlewick_losses::Recipe;
use candlewick_model::{LoraConfig, Recompute};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::budget::TokenBudget;
use crate::data_words::{DataWords, EvaluationWords};
use crate::device::{DeviceKind, Dtype};
use crate::error::{Error, Result};
use crate::kinds::of_kind;
use crate::nearest::nearest;
use crate::optimizer::{AdamWOptions, AdjustLr, OptimizerOptions};
use crate::peers;
use crate::safety::SafetyWords;
use crate::schedule::{Ramp, Schedule, ThresholdMode};
use crate::watch::WatchWords;

/// The sections of a configuration as they were written, with defaults where nothing was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// What is trained.
    #[serde(default)]
    pub model: ModelWords,
    /// The rows to train on.
    #[serde(default)]
    pub data: DataWords,
    /// Held-out rows; none without this section.
    #[serde(default)]
    pub evaluation: Option<EvaluationWords>,
    /// The loss and its hyperparameters; `type = "dpo"` unless named.
    pub objective: Recipe,
    /// Where reference log-probabilities come from.
    #[serde(default)]
    pub reference: ReferenceWords,
    /// How rows get the number `desirable_prompt`; without this section it is a column of the data.
    #[serde(default)]
    pub udm: Option<UdmWords>,
    /// Whose costs multipliers that move follow; none without this section.
    #[serde(default)]
    pub safety: Option<SafetyWords>,
    /// The optimizer and the clip.
    #[serde(default)]
    pub optimizer: OptimizerWords,
    /// The course of the learning rate.
    #[serde(default)]
    pub schedule: ScheduleWords,
    /// Length, batches, order.
    #[serde(default)]
    pub train: TrainWords,
    /// Alarms, and reasons to stop before the end.
    #[serde(default)]
    pub watch: WatchWords,
    /// Where results go.
    #[serde(default)]
    pub output: OutputWords,
}

/// `[model]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ModelWords {
    /// Directory of a Hugging Face model. Required.
    pub path: Option<PathBuf>,
    /// Directory of a PEFT adapter to go on training.
    pub adapter: Option<PathBuf>,
    /// A fresh LoRA adapter. Without this and `adapter`, all parameters are trained.
    pub lora: Option<LoraConfig>,
    /// Names of the score heads, for objectives that train such heads: one called `score` by default over a causal language
    /// model, those that it has over a score model.
    pub heads: Option<Vec<String>>,
}

/// `[reference]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ReferenceWords {
    /// The kind; by default `adapter_off` with a fresh LoRA adapter, `frozen` otherwise.
    pub kind: Option<ReferenceKind>,
    /// For `frozen`: directory of another model. For `adapter`: directory of an adapter. For `precomputed`: directory of the cache, by
    /// default in the output directory.
    pub path: Option<PathBuf>,
    /// For `precomputed`: whether the cache may hold log-probabilities of other references alone.
    pub shared: bool,
}

/// `[udm]`: underlying-distribution matching. A classifier tells prompts of desirable completions from those of others, and
/// gives each row the probability that its prompt is one of them; `bco` with `density_ratio` reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct UdmWords {
    /// `"policy"` for the mean hidden state of the starting policy over the prompt, or a file of JSON lines,
    /// `{"line": 3, "embedding": [0.5, …]}`, where `line` is that of the row in `data.path`; of rows of another file its
    /// name stands under `"file"`, as the configuration gives it.
    pub embeddings: String,
    /// Prompts drawn of each verdict to fit the classifier on.
    pub prompt_sample_size: usize,
    /// Seed of the draw; `train.seed` by default.
    pub seed: Option<u64>,
}

impl Default for UdmWords {
    fn default() -> Self {
        Self { embeddings: POLICY.to_owned(), prompt_sample_size: 1024, seed: None }
    }
}

/// The word for embeddings of the policy's own.
pub(crate) const POLICY: &str = "policy";

/// Where reference log-probabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReferenceKind {
    /// A copy of the policy as it starts, or another model.
    Frozen,
    /// The policy without its adapter.
    AdapterOff,
    /// The policy's base with the adapter of a directory.
    Adapter,
    /// A cache of log-probabilities, made on the first run; a run adds what it lacks before its first step.
    Precomputed,
}

/// `[optimizer]`. Keys that the kind does not have are an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct OptimizerWords {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of all weights but those of norms and biases; decoupled, but for `rmsprop`.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0 for never.
    pub max_grad_norm: f64,
    /// LoRA's B learns so many times as fast as its A (Hayou et al. 2024, *LoRA+*,
    /// [arXiv 2402.12354](https://arxiv.org/abs/2402.12354)); as fast where it is not given.
    pub lora_plus_ratio: Option<f64>,
    /// Of `adamw`, `adamw_8bit`, `lion`, `muon` and `schedule_free_adamw`: decay of the mean of gradients, or what stands for it.
    pub beta1: Option<f64>,
    /// Of the same: decay of the mean of squared gradients, of `lion` of the mean of gradients.
    pub beta2: Option<f64>,
    /// Of all but `lion` and `adafactor`: added to the root of the mean square.
    pub eps: Option<f64>,
    /// Of `adafactor`: the power of the step that the mean squares decay by.
    pub beta2_decay: Option<f64>,
    /// Of `adafactor`: the least root of a mean square.
    pub eps1: Option<f64>,
    /// Of `adafactor`: the least size that weights are taken to have.
    pub eps2: Option<f64>,
    /// Of `adafactor`: the largest root mean square of an update.
    pub clip_threshold: Option<f64>,
    /// Of `rmsprop`: decay of the mean of squared gradients.
    pub alpha: Option<f64>,
    /// Of `rmsprop` and `muon`: decay of the velocity.
    pub momentum: Option<f64>,
    /// Of `rmsprop`: whether the square of the mean gradient is taken off.
    pub centered: Option<bool>,
    /// Of `adamw_8bit`: tensors of fewer numbers keep their moments in full.
    pub min_8bit_size: Option<usize>,
    /// Of `schedule_free_adamw`: step t counts in the average by `t^r`.
    pub r: Option<f64>,
    /// Of `schedule_free_adamw`: and by the largest learning rate so far to this power.
    pub weight_lr_power: Option<f64>,
    /// Of `muon`: whether the gradient is mixed into the momentum once more.
    pub nesterov: Option<bool>,
    /// Of `muon`: steps of the iteration that orthogonalises.
    pub ns_steps: Option<u32>,
    /// Of `muon`: what the learning rate of a matrix is multiplied by.
    pub adjust_lr_fn: Option<AdjustLr>,
    /// Of `muon`: peak learning rate of what AdamW updates.
    pub adamw_learning_rate: Option<f64>,
}

impl Default for OptimizerWords {
    fn default() -> Self {
        let AdamWOptions { learning_rate, weight_decay, .. } = AdamWOptions::default();
        Self {
            kind: OptimizerKind::AdamW,
            learning_rate,
            weight_decay,
            max_grad_norm: 1.0,
            lora_plus_ratio: None,
            beta1: None,
            beta2: None,
            eps: None,
            beta2_decay: None,
            eps1: None,
            eps2: None,
            clip_threshold: None,
            alpha: None,
            momentum: None,
            centered: None,
            min_8bit_size: None,
            r: None,
            weight_lr_power: None,
            nesterov: None,
            ns_steps: None,
            adjust_lr_fn: None,
            adamw_learning_rate: None,
        }
    }
}

impl OptimizerWords {
    /// The optimizer that they name, with its defaults where nothing was given.
    ///
    /// # Errors
    /// A key that the kind does not have; a value out of range.
    pub fn options(&self) -> Result<OptimizerOptions> {
        const KINDS: [&str; 7] = ["adamw", "lion", "adafactor", "rmsprop", "adamw_8bit", "schedule_free_adamw", "muon"];
        let options: OptimizerOptions = of_kind("optimizer", self, &KINDS, &["max_grad_norm", "lora_plus_ratio"])?;
        options.check()?;
        Ok(options)
    }
}

/// The word for an optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// [`AdamWOptions`].
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// [`LionOptions`](crate::LionOptions).
    #[serde(rename = "lion")]
    Lion,
    /// [`AdafactorOptions`](crate::AdafactorOptions).
    #[serde(rename = "adafactor")]
    Adafactor,
    /// [`RmsPropOptions`](crate::RmsPropOptions).
    #[serde(rename = "rmsprop")]
    RmsProp,
    /// [`AdamW8bitOptions`](crate::AdamW8bitOptions).
    #[serde(rename = "adamw_8bit")]
    AdamW8bit,
    /// [`ScheduleFreeAdamWOptions`](crate::ScheduleFreeAdamWOptions).
    #[serde(rename = "schedule_free_adamw")]
    ScheduleFreeAdamW,
    /// [`MuonOptions`](crate::MuonOptions).
    #[serde(rename = "muon")]
    Muon,
}

/// `[schedule]`. Keys that the kind does not have are an error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ScheduleWords {
    /// Which course.
    pub kind: ScheduleKind,
    /// Of all but `reduce_lr_on_plateau` and `greedy`: steps of the warm-up.
    pub warmup_steps: Option<u64>,
    /// Of the cosines and `warmup_stable_decay`: waves; of `cosine_with_restarts` how often, a whole number.
    pub num_cycles: Option<f64>,
    /// Of `polynomial`: the rate at the end.
    pub lr_end: Option<f64>,
    /// Of `polynomial`: the power.
    pub power: Option<f64>,
    /// Of `inverse_sqrt`: its time scale in steps.
    pub timescale: Option<u64>,
    /// Of `cosine_with_min_lr`, `cosine_warmup_with_min_lr`, `reduce_lr_on_plateau` and `greedy`: the least rate.
    pub min_lr: Option<f64>,
    /// Of the first two: the least rate as a share of the peak.
    pub min_lr_rate: Option<f64>,
    /// Of `cosine_warmup_with_min_lr`: the share of the peak that the warm-up starts from.
    pub warmup_lr_rate: Option<f64>,
    /// Of `warmup_stable_decay`: steps of the fall.
    pub num_decay_steps: Option<u64>,
    /// Of `warmup_stable_decay`: steps at the peak.
    pub num_stable_steps: Option<u64>,
    /// Of `warmup_stable_decay`: how it rises.
    pub warmup_type: Option<Ramp>,
    /// Of `warmup_stable_decay`: how it falls.
    pub decay_type: Option<Ramp>,
    /// Of `warmup_stable_decay`: the share of the peak that it rises from and falls to.
    pub min_lr_ratio: Option<f64>,
    /// Of `reduce_lr_on_plateau` and `greedy`, as all that follow: what the rate is multiplied by.
    pub factor: Option<f64>,
    /// Evaluations of one kind that are waited for.
    pub patience: Option<u64>,
    /// By how much a loss must be lower to count.
    pub threshold: Option<f64>,
    /// What the threshold is a part of.
    pub threshold_mode: Option<ThresholdMode>,
    /// Evaluations after a fall that are not counted.
    pub cooldown: Option<u64>,
    /// A change by less is not made.
    pub eps: Option<f64>,
    /// Of `greedy`, as all that follow: evaluations after a rise that are not counted.
    pub warmup: Option<u64>,
    /// The largest rate.
    pub max_lr: Option<f64>,
    /// Whether a mean of losses is looked at.
    pub smooth: Option<bool>,
    /// Losses in that mean.
    pub window_size: Option<usize>,
    /// Falls that find the rate at its least, after which all begins anew.
    pub reset_start: Option<u64>,
}

impl ScheduleWords {
    /// The schedule that they name, with its defaults where nothing was given, for a peak learning rate.
    ///
    /// # Errors
    /// A key that the kind does not have, or lacks; a value out of range.
    pub fn schedule(&self, peak: f64) -> Result<Schedule> {
        const KINDS: [&str; 12] = [
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "reduce_lr_on_plateau",
            "cosine_with_min_lr",
            "cosine_warmup_with_min_lr",
            "warmup_stable_decay",
            "greedy",
        ];
        let schedule: Schedule = of_kind("schedule", self, &KINDS, &[])?;
        schedule.check(peak)?;
        Ok(schedule)
    }
}

/// The word for a schedule: transformers' twelve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduleKind {
    /// [`Schedule::Linear`].
    Linear,
    /// [`Schedule::Cosine`].
    Cosine,
    /// [`Schedule::CosineWithRestarts`].
    CosineWithRestarts,
    /// [`Schedule::Polynomial`].
    Polynomial,
    /// [`Schedule::Constant`].
    #[default]
    Constant,
    /// [`Schedule::ConstantWithWarmup`].
    ConstantWithWarmup,
    /// [`Schedule::InverseSqrt`].
    InverseSqrt,
    /// [`Schedule::ReduceLrOnPlateau`].
    ReduceLrOnPlateau,
    /// [`Schedule::CosineWithMinLr`].
    CosineWithMinLr,
    /// [`Schedule::CosineWarmupWithMinLr`].
    CosineWarmupWithMinLr,
    /// [`Schedule::WarmupStableDecay`].
    WarmupStableDecay,
    /// [`Schedule::Greedy`].
    Greedy,
}

/// `[train]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TrainWords {
    /// Examples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub micro_batches: usize,
    /// Optimizer steps; not with `epochs`.
    pub steps: Option<u64>,
    /// Passes over the rows; 1 when `steps` is absent too. What is left of a pass makes a smaller step, or, where the
    /// objective needs mismatched completions, none.
    pub epochs: Option<u64>,
    /// Seed of the order of rows and of fresh weights.
    pub seed: u64,
    /// The order of rows.
    pub order: OrderKind,
    /// Rows held at once to shuffle them.
    pub shuffle_buffer: usize,
    /// Most tokens of a micro-batch: a step is cut into as many micro-batches as it takes; 0 leaves it to `batch_size`, and `"auto"`
    /// to the memory of the device that is free.
    pub tokens: TokenBudget,
    /// Steps whose rows are brought together by length; none by default.
    pub bucket: Option<usize>,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Threads; 0 lets the caller decide.
    pub threads: usize,
    /// Where policy and reference compute.
    pub device: DeviceKind,
    /// What they compute in; by default f32 on the cpu and bf16 on a device.
    pub dtype: Option<Dtype>,
}

impl Default for TrainWords {
    fn default() -> Self {
        Self {
            batch_size: 8,
            micro_batches: 1,
            steps: None,
            epochs: None,
            seed: 0,
            order: OrderKind::Shuffled,
            shuffle_buffer: 10_000,
            tokens: TokenBudget::Tokens(0),
            bucket: None,
            recompute: Recompute::Nothing,
            threads: 0,
            device: DeviceKind::Cpu,
            dtype: None,
        }
    }
}

/// The order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OrderKind {
    /// Anew each epoch, by the seed.
    Shuffled,
    /// As in the file.
    File,
}

/// `[output]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct OutputWords {
    /// The directory. Required.
    pub dir: Option<PathBuf>,
    /// Steps between checkpoints; 0 for one at the end only.
    pub save_every: u64,
    /// Minutes between checkpoints, beside `save_every`; by the clock of whoever drives the run.
    pub save_minutes: Option<f64>,
    /// Checkpoints to keep; 0 keeps all.
    pub keep: usize,
    /// Whether the checkpoint of the best evaluation is written and kept beside them; `watch.metric` says which is best.
    pub keep_best: bool,
    /// Which weights are the result.
    pub result: ResultKind,
    /// Whether checkpoints are written while the run goes on, from a copy of what they hold; by default where an adapter is trained, of
    /// which a copy is small.
    pub background: Option<bool>,
}

impl Default for OutputWords {
    fn default() -> Self {
        Self {
            dir: None,
            save_every: 500,
            save_minutes: None,
            keep: 2,
            keep_best: false,
            result: ResultKind::Last,
            background: None,
        }
    }
}

/// Which weights are the result of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResultKind {
    /// Those after the last step.
    #[default]
    Last,
    /// Those of the best evaluation.
    Best,
}

/// TOML words that assignments may still change.
#[derive(Debug, Clone, Default)]
pub struct Words {
    table: toml::Table,
}

impl Words {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a configuration; `place` names it in errors.
    ///
    /// # Errors
    /// Text that is not TOML.
    pub fn parse(text: &str, place: &str) -> Result<Self> {
        match text.parse() {
            Ok(table) => Ok(Self { table }),
            Err(e) => Err(Error::Toml { place: place.into(), reason: e.to_string() }),
        }
    }

    /// Applies `section.key=value`. The value is read as TOML; where the key wants text, quotes may be left out. Elements of a list
    /// that is there have numbers, counted from 0: `objective.parts.1.weight=0.5`.
    ///
    /// # Errors
    /// No `=`, no section, an unknown key, a value of the wrong type.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Error::config(assignment, "not an assignment; expected section.key=value"));
        };
        self.put(key.trim(), value.trim())
    }

    /// As [`set`](Self::set), with key and value apart.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let text = toml::Value::String(value.to_owned());
        let readings = match format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("value"))
        {
            Some(parsed) => vec![parsed, text],
            None => vec![text],
        };
        let mut first_error = None;
        for reading in readings {
            let mut probe = self.lists_of(key);
            insert(&mut probe, key, reading.clone())?;
            match probe_error(probe, key) {
                None => return insert(&mut self.table, key, reading),
                Some(e) => {
                    first_error.get_or_insert(e);
                }
            }
        }
        match first_error {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// The section of a key that names an element of a list, which must be there; nothing of other keys.
    fn lists_of(&self, key: &str) -> toml::Table {
        let names_element = key.split('.').any(|name| name.parse::<usize>().is_ok());
        let section =
            key.split('.').next().filter(|_| names_element).and_then(|section| self.table.get_key_value(section));
        section.map(|(section, words)| (section.clone(), words.clone())).into_iter().collect()
    }

    /// Puts a value under a key, or a whole section, whatever it was before.
    ///
    /// # Errors
    /// A value that TOML cannot hold; a key below one that holds a value. Whether the key is known shows in
    /// [`config`](Self::config).
    pub fn put_value(&mut self, key: &str, value: &impl Serialize) -> Result<()> {
        let value = toml::Value::try_from(value).map_err(|e| Error::config(key, e.to_string()))?;
        match key.contains('.') {
            true => insert(&mut self.table, key, value),
            false => {
                self.table.insert(key.to_owned(), value);
                Ok(())
            }
        }
    }

    /// Takes a section out that is not one of a run, such as that of a program which makes several runs of one configuration;
    /// nothing where it is not given.
    ///
    /// # Errors
    /// An unknown key in it (naming the nearest), or a value of the wrong type.
    pub fn take<T: DeserializeOwned>(&mut self, section: &str) -> Result<Option<T>> {
        let Some(value) = self.table.remove(section) else { return Ok(None) };
        let read = serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            let path = if path == "." { section.to_owned() } else { format!("{section}.{path}") };
            explain(&path, &e.inner().to_string())
        });
        read.map(Some)
    }

    /// Whether a section is given, or a key as `section.key`.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// What stands under a section, or under a key as `section.key`.
    fn value(&self, key: &str) -> Option<&toml::Value> {
        let mut names = key.split('.');
        let first = self.table.get(names.next()?)?;
        names.try_fold(first, |at, name| at.get(name))
    }

    /// The typed sections.
    ///
    /// # Errors
    /// An unknown section or key (naming the nearest), or a value of the wrong type.
    pub fn config(&self) -> Result<Config> {
        read(self.table.clone()).map_err(|Unread { path, message }| {
            // The word that is missing stands behind the comma, the value that is none before it.
            let wants_word = message.starts_with("invalid type")
                && message.split_once(", expected").is_some_and(|(_, expected)| expected.contains("string"));
            wants_word.then(|| self.no_word(&path)).flatten().unwrap_or_else(|| explain(&path, &message))
        })
    }

    /// The error of what is not a word, where one is expected: which words there are, the error of an unknown one tells.
    fn no_word(&self, path: &str) -> Option<Error> {
        let value = self.value(path)?;
        let mut probe = self.table.clone();
        insert(&mut probe, path, toml::Value::String("?".into())).ok()?;
        let unread = read(probe).err()?;
        let Error::Config { key, reason } = explain(&unread.path, &unread.message) else { return None };
        let (unknown, expected) = reason.split_once("; ")?;
        (key == path && unknown.ends_with("\"?\"")).then(|| Error::config(path, format!("{value}; {expected}")))
    }
}

/// Where a table is no configuration, and serde's words for why.
struct Unread {
    path: String,
    message: String,
}

fn read(mut table: toml::Table) -> Result<Config, Unread> {
    let objective = table.entry("objective").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let Some(objective) = objective.as_table_mut() {
        objective.entry("type").or_insert_with(|| toml::Value::String("dpo".into()));
    }
    // On the way to a loss they would become nothing.
    if let Some((path, value)) = table.get("objective").and_then(|objective| not_finite("objective", objective)) {
        return Err(Unread { path, message: format!("{value}; expected a finite number") });
    }
    serde_path_to_error::deserialize(toml::Value::Table(table))
        .map_err(|e| Unread { path: e.path().to_string(), message: e.inner().to_string() })
}

/// The first number that is none or infinite, under its dotted path.
fn not_finite(path: &str, value: &toml::Value) -> Option<(String, f64)> {
    match value {
        toml::Value::Float(number) => (!number.is_finite()).then(|| (path.to_owned(), *number)),
        toml::Value::Table(table) => table.iter().find_map(|(key, value)| not_finite(&format!("{path}.{key}"), value)),
        toml::Value::Array(list) => {
            list.iter().enumerate().find_map(|(place, value)| not_finite(&format!("{path}.{place}"), value))
        }
        _ => None,
    }
}

/// The error that the value under `key` causes by itself, if any.
fn probe_error(probe: toml::Table, key: &str) -> Option<Error> {
    let error = Words { table: probe }.config().err()?;
    match &error {
        // Another objective than the default may well have this key.
        Error::Config { key: at, .. } if key.starts_with("objective.") && at.starts_with("objective") => None,
        _ => Some(error),
    }
}

/// Puts a value under a key with dots. A number in it names an element of a list that is there, counted from 0.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<()> {
    let Some((path, last)) = key.rsplit_once('.') else {
        let hint = peers::here(key).map(|here| format!("; {here}")).unwrap_or_default();
        return Err(Error::config(key, format!("no section; expected section.key, such as train.steps{hint}")));
    };
    let mut at = Place::Table(table);
    for name in path.split('.') {
        let entry = match at {
            Place::Table(table) => table.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new())),
            Place::List(list) => element(list, name, key)?,
        };
        at = match entry {
            toml::Value::Table(inner) => Place::Table(inner),
            toml::Value::Array(inner) => Place::List(inner),
            _ => return Err(Error::config(key, format!("{name} holds a value, not keys"))),
        };
    }
    match at {
        Place::Table(table) => drop(table.insert(last.to_owned(), value)),
        Place::List(list) => *element(list, last, key)? = value,
    }
    Ok(())
}

/// What keys lie in.
enum Place<'a> {
    Table(&'a mut toml::Table),
    List(&'a mut Vec<toml::Value>),
}

fn element<'a>(list: &'a mut [toml::Value], name: &str, key: &str) -> Result<&'a mut toml::Value> {
    let count = list.len();
    let found = name.parse::<usize>().ok().and_then(|number| list.get_mut(number));
    found.ok_or_else(|| {
        Error::config(key, format!("{name} is no element of the list, which has {count}, counted from 0"))
    })
}

/// Turns serde's words into ours: the key, what was found, what was expected, the nearest known word.
fn explain(path: &str, message: &str) -> Error {
    let message = message.lines().next().unwrap_or_default();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let parent = |word: &str| match path {
        "." => String::new(),
        _ if path == word => String::new(),
        _ => match path.strip_suffix(&format!(".{word}")) {
            Some(parent) => format!("{parent}."),
            None => format!("{path}."),
        },
    };
    let message = message.strip_prefix("objective: ").unwrap_or(message);
    let Some((&word, known)) = quoted.split_first() else { return Error::config(path, message) };
    if message.contains("unknown field `") {
        let section = parent(word);
        if let Some(here) = peers::here(word) {
            return Error::config(format!("{section}{word}"), format!("unknown key; {here}"));
        }
        let hint = nearest(word, known.iter().copied()).map(|near| format!("; did you mean {section}{near}?"));
        let reason = format!("unknown key{}; known here: {}", hint.unwrap_or_default(), known.join(", "));
        return Error::config(format!("{section}{word}"), reason);
    }
    if message.contains("unknown variant `") {
        let hint = nearest(word, known.iter().copied()).map(|near| format!("; did you mean {near:?}?"));
        let reason = format!("unknown word {word:?}{}; expected one of {}", hint.unwrap_or_default(), known.join(", "));
        return Error::config(path, reason);
    }
    if message.contains("missing field `") {
        return Error::config(format!("{}{word}", parent(word)), "missing; it has no default");
    }
    Error::config(path, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Words::parse(text, "test").unwrap().config().unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_word_is_told_which_there_are() {
        for (text, expected) in [
            ("[train]\ndtype = 16", "train.dtype: 16; expected one of f32, bf16"),
            ("[train]\ndevice = 0", "train.device: 0; expected \"cpu\", \"cuda\" or \"cuda:N\""),
            ("[train]\nrecompute = true", "train.recompute: true; expected one of nothing, layers"),
            ("[train]\norder = 3.5", "train.order: 3.5; expected one of"),
        ] {
            assert!(error(text).contains(expected), "{}", error(text));
        }
        // Any text is right there.
        assert!(
            error("[output]\ndir = 3").contains("output.dir: invalid type: integer `3`"),
            "{}",
            error("[output]\ndir = 3")
        );
    }

    #[test]
    fn a_typo_names_the_nearest_key() {
        assert!(
            error("[optimizer]\nlearnin_rate = 1.0")
                .starts_with("optimizer.learnin_rate: unknown key; did you mean optimizer.learning_rate?")
        );
        assert!(
            error("[optimiser]\nlearning_rate = 1.0").starts_with("optimiser: unknown key; did you mean optimizer?")
        );
        assert!(
            error("[model]\nlora = { ranc = 4 }")
                .starts_with("model.lora.ranc: unknown key; did you mean model.lora.rank?")
        );
        assert!(
            error("[objective]\ntype = \"dpo\"\nbetta = 0.1")
                .starts_with("objective.betta: unknown key; did you mean objective.beta?")
        );
        assert!(
            error("[objective]\ntype = \"hinje\"")
                .starts_with("objective: unknown loss `hinje` (did you mean `hinge`?)")
        );
        assert!(
            error("[train]\norder = \"shufled\"")
                .contains("train.order: unknown word \"shufled\"; did you mean \"shuffled\"?")
        );
    }

    #[test]
    fn a_wrong_type_names_key_and_expectation() {
        let text = error("[optimizer]\nlearning_rate = \"fast\"");
        assert!(text.starts_with("optimizer.learning_rate: invalid type: string \"fast\", expected"), "{text}");
        // What stands in the text says nothing of what is wanted.
        let text = error("[train]\nsteps = \"ten, expected string\"");
        assert!(text.starts_with("train.steps: invalid type: string"), "{text}");
        let text = error("[train]\nbatch_size = -1");
        assert!(text.starts_with("train.batch_size: "), "{text}");
    }

    #[test]
    fn an_assignment_reaches_into_a_list() {
        let text =
            "[objective]\ntype = \"mix\"\nparts = [{ loss = { type = \"dpo\" } }, { loss = { type = \"sft\" } }]";
        let mut words = Words::parse(text, "test").unwrap();
        words.set("objective.parts.1.weight=0.25").unwrap();
        words.put_value("objective.parts.0.loss.beta", &0.5).unwrap();
        let objective = serde_json::to_value(words.config().unwrap().objective).unwrap();
        assert_eq!(objective["parts"][1]["weight"], 0.25);
        assert_eq!(objective["parts"][0]["loss"]["beta"], 0.5);
        for (assignment, said) in [
            ("objective.parts.2.weight=1", "2 is no element of the list, which has 2, counted from 0"),
            ("objective.parts.first.weight=1", "first is no element"),
            ("objective.parts.1.weight.x=1", "weight holds a value"),
        ] {
            let error = words.set(assignment).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        words.put("objective.parts.0", "{ loss = { type = \"ipo\" } }").unwrap();
        assert_eq!(serde_json::to_value(words.config().unwrap().objective).unwrap()["parts"][0]["loss"]["type"], "ipo");
    }

    #[test]
    fn assignments_are_typed_by_their_key() {
        let mut words = Words::default();
        for assignment in [
            "output.dir=2024",
            "data.path=a b.jsonl",
            "data.path = \"quoted\"",
            "train.steps=5",
            "model.lora.rank=4",
            "objective.beta=0.5",
        ] {
            words.set(assignment).unwrap();
        }
        let config = words.config().unwrap();
        assert_eq!(config.output.dir.as_deref(), Some(Path::new("2024")));
        assert_eq!(config.data.path.as_deref(), Some(Path::new("quoted")));
        assert_eq!(config.train.steps, Some(5));
        assert_eq!(config.model.lora.unwrap().rank, 4);
        assert!(words.set("train.steps=many").unwrap_err().to_string().starts_with("train.steps: invalid type"));
        assert!(words.set("train.step=1").unwrap_err().to_string().contains("did you mean train.steps?"));
        assert!(words.set("steps=1").unwrap_err().to_string().contains("section.key"));
        assert!(words.set("train.steps").unwrap_err().to_string().contains("section.key=value"));
        assert!(words.set("train.steps.more=1").unwrap_err().to_string().contains("train.steps"));
    }

    #[test]
    fn text_that_is_not_toml_says_where() {
        let text = Words::parse("[train\nsteps = 1", "run.toml").unwrap_err().to_string();
        assert!(text.contains("run.toml") && text.contains("line 1"), "{text}");
    }
}
