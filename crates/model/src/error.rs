//! What can go wrong while a model is loaded, run or saved.
use std::path::PathBuf;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of models, weights and adapters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory lacks a file that a model or an adapter must have.
    #[error("{}: {missing} is not there; expected {expected}", directory.display())]
    MissingFile {
        /// The directory that was searched.
        directory: PathBuf,
        /// The file.
        missing: String,
        /// What such a directory holds.
        expected: &'static str,
    },
    /// A configuration file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The architecture or an option of it is not built.
    #[error("{what} is not supported; {instead}")]
    Unsupported {
        /// The thing asked for.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// A weight file is damaged or holds other tensors than the configuration asks for.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Token ids, masks or lengths that do not fit together or do not fit the model.
    #[error("{0}")]
    Input(String),
    /// A kernel refused its operands.
    #[error(transparent)]
    Kernel(#[from] candlewick_kernels::Error),
    /// candle refused an operation on a tensor of the public face.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn weights(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Weights { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn config(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Config { path: path.into(), reason: reason.into() }
    }
}
