//! One of several runs that one command makes: its directory, the reference that they share, and its way on after a stop.

use std::path::{Path, PathBuf};

use candlewick_losses::{Objective, ReferenceUpdate};
use candlewick_train::{Checkpoint, Config, Hardware, Plan, ReferenceKind, ReferenceWords, Run, checkpoints};
use serde_json::Value;

use crate::error::{Error, Result};

/// A name that is a name of a directory everywhere.
pub(crate) fn slug(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '=' | '-' | '_') { c } else { '_' };
    name.chars().map(safe).collect::<String>().trim_matches('.').to_owned()
}

/// Has a run take the reference's log-probabilities from the cache of all runs, where it has a reference and nothing else was said.
pub(crate) fn share_reference(config: &mut Config, cache: PathBuf) {
    // One that moves cannot be known beforehand.
    let moves = config.objective.reference_update() != ReferenceUpdate::Frozen;
    let is_open = config.reference.kind.is_none() && config.reference.path.is_none() && !moves;
    match config.objective.needs().reference {
        // The section speaks of the runs that have a reference.
        false => config.reference = ReferenceWords::default(),
        true if is_open => {
            config.reference.kind = Some(ReferenceKind::Precomputed);
            config.reference.path = Some(cache);
            config.reference.shared = true;
        }
        true => {}
    }
}

/// Goes on with a run from its newest whole checkpoint, or begins it.
///
/// # Errors
/// Those of [`Run::start`] and [`Run::resume`].
pub(crate) fn open(plan: &Plan, hardware: &Hardware) -> Result<Run> {
    let found = Checkpoint::latest(&checkpoints(&plan.output.dir))?;
    if let Some(checkpoint) = &found.checkpoint {
        return Ok(Run::resume_on(hardware, plan.clone(), &checkpoint.path)?);
    }
    // Nothing of a run without a whole checkpoint is of use.
    for old in [checkpoints(&plan.output.dir), plan.output.dir.join("final")] {
        remove(&old)?;
    }
    Ok(Run::start_on(hardware, plan.clone())?)
}

/// What makes a run that was stored another one than this, in words.
pub(crate) fn difference(plan: &Plan, stored: &Value) -> Option<String> {
    let length = |plan: &Value| plan["train"]["length"].clone();
    let other = plan.check_resumes(stored, 0).err().map(|error| error.to_string());
    other.or_else(|| (length(stored) != length(&plan.to_json())).then(|| "it is of another length".to_owned()))
}

/// Removes a directory, if it is there.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", directory)(error)),
        _ => Ok(()),
    }
}
