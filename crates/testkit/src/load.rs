//! Finding and reading fixtures.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a fixture could not be read.
#[derive(Debug)]
pub struct LoadError {
    path: PathBuf,
    what: String,
}

impl LoadError {
    pub(crate) fn new(path: &Path, what: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), what: what.to_string() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for LoadError {}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The folder of fixtures that are too large or not ours to ship: that which
/// `CANDLEWICK_SHARED` names, else `shared` beside the workspace; `None` if it is not there.
///
/// A test that needs it says so and passes without it.
pub fn shared() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "tests find their fixtures by the environment; no library does")]
    let named = std::env::var_os("CANDLEWICK_SHARED").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| workspace().join("../shared"));
    folder.is_dir().then_some(folder)
}

/// Reads a JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let bytes = std::fs::read(path).map_err(|error| LoadError::new(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| LoadError::new(path, format!("not a fixture of this form: {error}")))
}
