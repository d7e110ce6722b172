//! What can go wrong between a configuration and a trained model.
use std::path::{Path, PathBuf};

use crate::device::DeviceKind;
use crate::memory_plan::readable;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of this crate. Each says where, what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A word of the configuration is wrong.
    #[error("{key}: {reason}")]
    Config {
        /// The key, as `section.key`.
        key: String,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// The text of the configuration is not TOML.
    #[error("{place}: not a TOML file: {reason}")]
    Toml {
        /// File, or the argument that held the text.
        place: String,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done: `reading`, `writing`, …
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint's directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A resumed run differs from the run that wrote the checkpoint.
    #[error(
        "this run is not the one that wrote the checkpoint: {differences}; give the old values, or start anew in another output directory"
    )]
    OtherPlan {
        /// Each differing key with the stored and the given value.
        differences: String,
    },
    /// Reference log-probabilities cannot be used.
    #[error("reference {}: {reason}", path.display())]
    Reference {
        /// The file of precomputed log-probabilities.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The parts of a run do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// The rows do not suit the objective.
    #[error("{place}: {reason}")]
    Rows {
        /// The row, as `file:line`.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The loss or a gradient is not finite; no parameter was changed by the step.
    #[error(
        "step {step}: the {what} is {value} on {rows}; no parameter was changed; lower optimizer.learning_rate or look at these rows"
    )]
    NotFinite {
        /// The step, counted from one.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The rows, as `file:line` each.
        rows: String,
    },
    /// The first loss is not that of a policy equal to its reference, though the two agree on every token.
    #[error(
        "step 1: the loss is {loss}, but a policy equal to its reference has {expected}; policy and reference agree on every token, so the \
         objective's own value at zero margin is wrong"
    )]
    NotAtReference {
        /// The loss found.
        loss: f64,
        /// The loss expected.
        expected: f64,
    },
    /// A policy that should start as its reference scores a token otherwise; no parameter was changed.
    #[error(
        "step 1: on {place}, at scored token {token} (id {id}), the log-probability of the policy is {policy:.6} and that of the reference \
         {reference:.6}, where policy and reference should be the same; no parameter was changed; {cause}"
    )]
    OtherReference {
        /// The row where they differ most, as `file:line`.
        place: String,
        /// Which scored token of its completion, counted from one.
        token: usize,
        /// Its id.
        id: u32,
        /// log π there.
        policy: f64,
        /// log π_ref there.
        reference: f64,
        /// The likeliest cause, and what to do.
        cause: String,
    },
    /// A device had no memory left. What was under way has changed nothing.
    #[error("{at}: {device} has no memory left, {} were wanted and {} are free; {report}; {kept}", readable(*.wanted), readable(*.free))]
    OutOfMemory {
        /// Where the run was, as `after step 7`.
        at: String,
        /// The device.
        device: DeviceKind,
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that were free.
        free: u64,
        /// What the run is planned to take, part by part, and the smallest change that fits.
        report: String,
        /// What is kept of the run, and how it goes on.
        kept: String,
    },
    /// Somebody asked to stop in the middle of a step or of an evaluation.
    #[error("interrupted; nothing was changed by what was under way")]
    Interrupted,
    /// An update left a parameter that is not finite.
    #[error(
        "after step {step} the parameter {parameter} is not finite; nothing was saved, and checkpoints written before stay whole; lower optimizer.learning_rate"
    )]
    Diverged {
        /// The step, counted from one.
        step: u64,
        /// The first such parameter.
        parameter: String,
    },
    /// A trainable parameter receives no gradient.
    #[error(
        "step {step}: no gradient reaches {parameters}; it would never change; leave it out of what is trained, or repair the model's backward pass"
    )]
    NoGradient {
        /// The step, counted from one.
        step: u64,
        /// The names.
        parameters: String,
    },
    /// From the objectives.
    #[error(transparent)]
    Loss(#[from] candlewick_losses::Error),
    /// From the data.
    #[error(transparent)]
    Data(candlewick_data::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] candlewick_model::Error),
    /// From the kernels.
    #[error(transparent)]
    Kernel(#[from] candlewick_kernels::Error),
    /// From candle.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// An option outside its range is a key of the configuration.
impl From<candlewick_data::Error> for Error {
    fn from(error: candlewick_data::Error) -> Self {
        match error {
            candlewick_data::Error::Option { name, got, expected } => {
                let key = match name {
                    "tokens" | "bucket" => format!("train.{name}"),
                    "examples" => "train.batch_size".to_owned(),
                    "order.shuffled.buffer" => "train.shuffle_buffer".to_owned(),
                    "scored" => "objective".to_owned(),
                    name => format!("data.{name}"),
                };
                Self::config(key, format!("got {got}, expected {expected}"))
            }
            other => Self::Data(other),
        }
    }
}

/// Who has to act on an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The configuration or the arguments.
    Configuration,
    /// The data.
    Data,
    /// The model, the reference or the checkpoint.
    Model,
    /// Training diverged and stopped.
    Stopped,
    /// Nobody: it was asked to stop.
    Interrupted,
    /// The file system: a full disk, a missing permission.
    Files,
    /// This program.
    Internal,
}

impl Error {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config { .. } | Self::Toml { .. } | Self::OtherPlan { .. } | Self::OutOfMemory { .. } => {
                Fault::Configuration
            }
            Self::Io { .. } => Fault::Files,
            Self::Data(_) | Self::Rows { .. } => Fault::Data,
            // A missing file is a wrong path; everything else is the disk.
            Self::Model(candlewick_model::Error::Io { source, .. })
                if source.kind() != std::io::ErrorKind::NotFound =>
            {
                Fault::Files
            }
            Self::Model(_)
            | Self::Checkpoint { .. }
            | Self::Reference { .. }
            | Self::NotAtReference { .. }
            | Self::OtherReference { .. }
            | Self::NoGradient { .. } => Fault::Model,
            Self::NotFinite { .. } | Self::Diverged { .. } => Fault::Stopped,
            Self::Interrupted => Fault::Interrupted,
            Self::Loss(_) | Self::Mismatch(_) => Fault::Configuration,
            Self::Kernel(_) | Self::Tensor(_) => Fault::Internal,
        }
    }

    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.into(), reason: reason.into() }
    }

    /// Bytes that were wanted of a device and bytes that were free, where that is what is wrong.
    pub(crate) fn no_memory(&self) -> Option<(u64, u64)> {
        match self {
            Self::Kernel(candlewick_kernels::Error::OutOfMemory { wanted, free, .. })
            | Self::Model(candlewick_model::Error::Kernel(candlewick_kernels::Error::OutOfMemory {
                wanted,
                free,
                ..
            })) => Some((*wanted as u64, *free as u64)),
            _ => None,
        }
    }

    /// Attaches path and activity to an error of the operating system.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
