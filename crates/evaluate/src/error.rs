//! What can go wrong between a comparison or a task and its numbers.
use std::path::{Path, PathBuf};

use candlewick_train::Fault;

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
    /// A file of results cannot be used.
    #[error("{}: {reason}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Rows or items that cannot be measured.
    #[error("{place}: {reason}")]
    Rows {
        /// The row, as `file:line`, or what names the rows.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A judge of answers that failed, or said what it may not.
    #[error("{place}: the judge failed: {reason}")]
    Judge {
        /// The row that it was asked about.
        place: String,
        /// What happened, what was expected.
        reason: String,
    },
    /// From the trainer.
    #[error(transparent)]
    Train(#[from] candlewick_train::Error),
    /// From the data.
    #[error(transparent)]
    Data(#[from] candlewick_data::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] candlewick_model::Error),
}

impl Error {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config { .. } => Fault::Configuration,
            Self::Io { .. } => Fault::Files,
            Self::Results { .. } => Fault::Configuration,
            Self::Rows { .. } | Self::Judge { .. } | Self::Data(_) => Fault::Data,
            Self::Train(error) => error.fault(),
            Self::Model(_) => Fault::Model,
        }
    }

    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn results(path: &Path, reason: impl Into<String>) -> Self {
        Self::Results { path: path.into(), reason: reason.into() }
    }

    /// Attaches path and activity to an error of the operating system.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
