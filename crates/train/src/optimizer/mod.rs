//! Optimizers over flat buffers, and the clip before them. A file holds everything about one of them.
mod adafactor;
mod adamw;
mod adamw_8bit;
mod clip;
mod lion;
mod muon;
mod rmsprop;
mod schedule_free;
mod tensors;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use candlewick_kernels::{Buffer, Float, Workspace, survey};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Deserializer, Serialize, de};

pub use adafactor::AdafactorOptions;
pub use adamw::AdamWOptions;
pub use adamw_8bit::AdamW8bitOptions;
pub(crate) use clip::Clip;
pub use lion::LionOptions;
pub use muon::{AdjustLr, MuonOptions};
pub use rmsprop::RmsPropOptions;
pub use schedule_free::ScheduleFreeAdamWOptions;
use tensors::{Tensor, layout, tensors};

use crate::error::{Error, Result};
use crate::tensor_file::{Column, Columns, Element, TensorFile};
use crate::tensor_flags::flags;

/// An optimizer and its hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[non_exhaustive]
pub enum OptimizerOptions {
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW(AdamWOptions),
    /// The sign of a mean of gradients.
    #[serde(rename = "lion")]
    Lion(LionOptions),
    /// Means over rows and columns in the place of a mean square.
    #[serde(rename = "adafactor")]
    Adafactor(AdafactorOptions),
    /// Gradients over the root of their mean square.
    #[serde(rename = "rmsprop")]
    RmsProp(RmsPropOptions),
    /// AdamW with moments in eight bits.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit(AdamW8bitOptions),
    /// AdamW whose weights are averaged instead of its learning rate lowered.
    #[serde(rename = "schedule_free_adamw")]
    ScheduleFreeAdamW(ScheduleFreeAdamWOptions),
    /// Orthogonalised momentum for the matrices of layers, AdamW for the rest.
    #[serde(rename = "muon")]
    Muon(MuonOptions),
}

/// The same of whichever optimizer it is.
macro_rules! of_each {
    ($which:expr, $options:ident => $value:expr) => {
        match $which {
            OptimizerOptions::AdamW($options) => $value,
            OptimizerOptions::Lion($options) => $value,
            OptimizerOptions::Adafactor($options) => $value,
            OptimizerOptions::RmsProp($options) => $value,
            OptimizerOptions::AdamW8bit($options) => $value,
            OptimizerOptions::ScheduleFreeAdamW($options) => $value,
            OptimizerOptions::Muon($options) => $value,
        }
    };
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self::AdamW(AdamWOptions::default())
    }
}

impl From<AdamWOptions> for OptimizerOptions {
    fn from(options: AdamWOptions) -> Self {
        Self::AdamW(options)
    }
}

impl OptimizerOptions {
    /// The word for it in a configuration.
    pub fn kind(&self) -> &'static str {
        of_each!(self, options => kind_of(options))
    }

    /// The peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        of_each!(self, options => options.learning_rate())
    }

    /// Whether every hyperparameter is in its range.
    ///
    /// # Errors
    /// The first that is not, as a key of `[optimizer]`.
    pub fn check(&self) -> Result<()> {
        of_each!(self, options => options.check())
    }

    /// Whether it works on a device.
    pub(crate) fn has_kernel(&self) -> bool {
        matches!(self, Self::AdamW(_) | Self::Lion(_) | Self::RmsProp(_) | Self::ScheduleFreeAdamW(_))
    }

    /// Bytes that it holds for tensors of these names and shapes, of numbers of `number` bytes: its state, and what it works in.
    pub(crate) fn memory(&self, layout: &[(String, Vec<usize>)], number: usize) -> usize {
        let tensors = tensors(layout.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())), None);
        of_each!(self, options => options.bytes(&tensors, number) + options.scratch(&tensors, number))
    }
}

fn kind_of<M: Method>(_: &M) -> &'static str {
    M::KIND
}

/// Reads options of a stored plan; before there was a choice it did not name the optimizer.
pub(crate) fn of_any_age<'de, D: Deserializer<'de>>(from: D) -> Result<OptimizerOptions, D::Error> {
    let mut options = serde_json::Map::deserialize(from)?;
    options.entry("kind").or_insert_with(|| AdamWOptions::KIND.into());
    OptimizerOptions::deserialize(serde_json::Value::Object(options)).map_err(de::Error::custom)
}

/// What an optimizer's file says of it.
trait Method {
    /// Its name in configurations and in the files of its state.
    const KIND: &'static str;
    fn learning_rate(&self) -> f64;
    fn check(&self) -> Result<()>;
    /// Its state before the first step.
    fn rule<T: Element>(&self, tensors: Vec<Tensor>, parameters: &Parameters<T>) -> Result<Box<dyn Rule<T>>>;
    /// Bytes of the state.
    fn bytes(&self, tensors: &[Tensor], number: usize) -> usize;
    /// Bytes that it works in beside its state.
    fn scratch(&self, _: &[Tensor], _: usize) -> usize {
        0
    }
}

/// An optimizer with its state.
trait Rule<T>: fmt::Debug {
    /// Before the gradient: puts those weights in place at which it is taken.
    fn begin(&mut self, _: &mut Parameters<T>, _: &mut Workspace) -> Result<()> {
        Ok(())
    }
    /// Undoes [`begin`](Self::begin) to the bit, where no step follows.
    fn give_up(&mut self, _: &mut Parameters<T>) -> Result<()> {
        Ok(())
    }
    /// One update.
    fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        now: Now<'_>,
        workspace: &mut Workspace,
    ) -> Result<()>;
    /// Whether [`step`](Self::step) looks at the norm where that lies, and changes nothing by one that is not finite.
    fn heeds_norm(&self) -> bool {
        false
    }
    /// Whether a gradient other than zero ever reached each of the tensors, which end here; an error where the state cannot be read from
    /// the device it is on.
    fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>>;
    /// The columns of its file.
    fn state(&self) -> Vec<(&'static str, State<'_, T>)>;
    /// The same, to be overwritten.
    fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_, T>)>;
}

/// What all rules need to know of a step.
#[derive(Debug, Clone, Copy)]
struct Now<'a> {
    /// The step, from 1.
    step: u64,
    /// The norm of the gradients, and what they are multiplied by.
    clip: &'a Clip,
    /// What the peak learning rate is multiplied by.
    factor: f64,
}

enum State<'a, T> {
    Numbers(&'a [T]),
    /// Wherever they are.
    Buffer(&'a Buffer<T>),
    Codes(&'a [u8]),
    Wide(&'a [f64]),
}

enum StateMut<'a, T> {
    Numbers(&'a mut [T]),
    /// Wherever they are.
    Buffer(&'a mut Buffer<T>),
    Codes(&'a mut [u8]),
    Wide(&'a mut [f64]),
}

impl<'a, T: Element> State<'a, T> {
    fn column(self) -> Result<Column<'a>> {
        Ok(match self {
            Self::Numbers(numbers) => Column::new(numbers),
            Self::Buffer(buffer) => Column::of(buffer)?,
            Self::Codes(codes) => Column::new(codes),
            Self::Wide(numbers) => Column::new(numbers),
        })
    }
}

impl<T: Element> StateMut<'_, T> {
    /// Overwrites it with the column called `name`.
    fn read(self, file: &Columns, name: &str) -> Result<(), String> {
        match self {
            Self::Numbers(numbers) => fill(name, numbers, &file.column(name)?),
            Self::Buffer(buffer) => {
                let numbers = file.column::<T>(name)?;
                same_length(name, buffer.len(), numbers.len())?;
                buffer.view_mut().write(&numbers).map_err(|error| error.to_string())
            }
            Self::Codes(codes) => fill(name, codes, &file.column(name)?),
            Self::Wide(numbers) => fill(name, numbers, &file.column(name)?),
        }
    }
}

/// The optimizer of a run.
#[derive(Debug)]
pub(crate) struct Optimizer<T> {
    kind: &'static str,
    steps: u64,
    rule: Box<dyn Rule<T>>,
}

impl<T: Element> Optimizer<T> {
    pub(crate) fn new(
        parameters: &Parameters<T>,
        options: &OptimizerOptions,
        lora_plus_ratio: Option<f64>,
    ) -> Result<Self> {
        options.check()?;
        if parameters.device().is_some() && !options.has_kernel() {
            return Err(Error::config(
                "optimizer.kind",
                format!(
                    "{:?} has no kernel on a device; choose \"adamw\", \"lion\", \"rmsprop\" or \"schedule_free_adamw\", or train on the cpu",
                    options.kind()
                ),
            ));
        }
        check_lora_plus(
            lora_plus_ratio,
            parameters.names().any(|name| tensors::Role::of(name) == tensors::Role::LoraB),
        )?;
        let tensors = tensors(layout(parameters), lora_plus_ratio);
        let rule = of_each!(options, options => options.rule(tensors, parameters)?);
        Ok(Self { kind: options.kind(), steps: 0, rule })
    }

    /// Before the gradient of a step is taken.
    pub(crate) fn begin(&mut self, parameters: &mut Parameters<T>, workspace: &mut Workspace) -> Result<()> {
        self.rule.begin(parameters, workspace)
    }

    /// Leaves the parameters as they were before [`begin`](Self::begin).
    pub(crate) fn give_up(&mut self, parameters: &mut Parameters<T>) -> Result<()> {
        self.rule.give_up(parameters)
    }

    /// Whether a [`step`](Self::step) with a norm that is not finite changes nothing; [`take_back`](Self::take_back) is to be called then.
    pub(crate) fn heeds_norm(&self) -> bool {
        self.rule.heeds_norm()
    }

    /// One update with clipped gradients and the learning rate scaled by `factor`. Of a norm that is not finite only what [heeds](Self::heeds_norm)
    /// it may be told.
    pub(crate) fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        clip: &Clip,
        factor: f64,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let step = self.steps + 1;
        self.rule.step(parameters, gradients, Now { step, clip, factor }, workspace)?;
        self.steps = step;
        Ok(())
    }

    /// The last update changed nothing, and does not count.
    pub(crate) fn take_back(&mut self) {
        self.steps -= 1;
    }

    /// Updates made.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether a gradient other than zero ever reached each of the tensors, which end here.
    ///
    /// # Errors
    /// Its state cannot be read from the device it is on.
    pub(crate) fn met_gradients(&self, ends: &[u64]) -> Result<Vec<bool>> {
        self.rule.met_gradients(ends)
    }

    /// Its state: a safetensors file whose metadata are `format` (`candlewick-` and the kind), `version` and `steps`.
    pub(crate) fn file(&self) -> Result<TensorFile<'_>> {
        let metadata = [("format", self.format()), ("version", VERSION.to_owned()), ("steps", self.steps.to_string())]
            .map(|(key, value)| (key.to_owned(), value));
        let columns = self.rule.state().into_iter().map(|(name, state)| Ok((name, state.column()?)));
        Ok(TensorFile { metadata: metadata.into(), columns: columns.collect::<Result<_>>()? })
    }

    /// Reads what [`file`](Self::file) holds, for parameters of the same layout.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let file = Columns::read(path)?.map_err(refuse)?;
        let found = file.metadata("format").and_then(|format| format.strip_prefix(FORMAT));
        if let Some(other) = found.filter(|other| *other != self.kind) {
            let ours = self.kind;
            return Err(refuse(format!(
                "it holds the state of {other}, and this run's optimizer.kind is {ours:?}; give {other:?}, or start anew"
            )));
        }
        if found.is_none() || file.metadata("version") != Some(VERSION) {
            return Err(refuse(format!("not the state of {} in format version {VERSION}", self.kind)));
        }
        let steps = file.metadata("steps").and_then(|text| text.parse().ok());
        self.steps = steps.ok_or_else(|| refuse("the number of steps is missing".into()))?;
        self.rule.state_mut().into_iter().try_for_each(|(name, state)| state.read(&file, name)).map_err(refuse)
    }

    fn format(&self) -> String {
        format!("{FORMAT}{}", self.kind)
    }
}

fn fill<N: Copy>(name: &str, to: &mut [N], from: &[N]) -> Result<(), String> {
    same_length(name, to.len(), from.len())?;
    to.copy_from_slice(from);
    Ok(())
}

fn same_length(name: &str, needed: usize, found: usize) -> Result<(), String> {
    match needed == found {
        true => Ok(()),
        false => Err(format!("its {name} holds {found} numbers; these parameters need {needed}")),
    }
}

/// Whether LoRA+ is possible; `has_adapter` tells whether an adapter is trained.
pub(crate) fn check_lora_plus(ratio: Option<f64>, has_adapter: bool) -> Result<()> {
    let Some(ratio) = ratio else { return Ok(()) };
    positive("lora_plus_ratio", ratio)?;
    if has_adapter {
        return Ok(());
    }
    Err(Error::config(
        "optimizer.lora_plus_ratio",
        format!("{ratio}, and there is no adapter whose lora_B it could speed up; give model.lora or leave it out"),
    ))
}

fn any_nonzero<T: Element>(numbers: &[T]) -> bool {
    numbers.iter().any(|x| Float::to_f64(*x) != 0.0)
}

/// What holds of each of the tensors, which end there.
fn of_each_range(ends: &[u64], holds: impl Fn(Range<usize>) -> bool) -> Vec<bool> {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(&start, &end)| holds(start as usize..end as usize)).collect()
}

/// Of each tensor of a buffer, wherever it lies, whether some number is not zero.
fn nonzero_tensors<T: Element>(state: &Buffer<T>, ends: &[u64]) -> Result<Vec<bool>> {
    let mut workspace = Workspace::new(1);
    if let Some(device) = state.device() {
        workspace = workspace.on(device);
    }
    let flags = flags(state.view(), ends, &mut workspace)?;
    Ok(flags.into_iter().map(|flags| flags & survey::NOT_ZERO != 0).collect())
}

/// What gradients are scaled down to.
pub(crate) fn check_max_grad_norm(norm: f64) -> Result<()> {
    in_range("max_grad_norm", norm, norm >= 0.0, "a positive number, or 0 for no clipping")
}

/// Refuses a value of `optimizer.key` that does not fit.
pub(crate) fn in_range(key: &str, value: f64, fits: bool, expected: &str) -> Result<()> {
    match fits && value.is_finite() {
        true => Ok(()),
        false => Err(Error::config(format!("optimizer.{key}"), format!("{value}; expected {expected}"))),
    }
}

fn positive(key: &str, value: f64) -> Result<()> {
    in_range(key, value, value > 0.0, "a positive number")
}

fn not_negative(key: &str, value: f64) -> Result<()> {
    in_range(key, value, value >= 0.0, "a number that is not negative")
}

fn fraction(key: &str, value: f64) -> Result<()> {
    in_range(key, value, (0.0..1.0).contains(&value), &format!("0 <= {key} < 1"))
}

const FORMAT: &str = "candlewick-";
const VERSION: &str = "1";
