//! Checkpoints that are written while training goes on.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::checkpoint::{self, State};
use crate::error::{Error, Result};
use crate::policy::Copied;

/// Everything of a trainer that a checkpoint holds, apart from it: as much memory as what is trained and the optimizer's state.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) policy: Box<dyn Copied>,
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    pub(crate) state: State,
}

impl Snapshot {
    /// Writes the checkpoint, as [`Trainer::save`](crate::Trainer::save) would have when the snapshot was taken.
    ///
    /// # Errors
    /// The files cannot be written; what was there before stays whole.
    pub fn write(self, directory: &Path, companions: &[PathBuf]) -> Result<()> {
        let Self { policy, files, state } = self;
        checkpoint::write_checkpoint(directory, state, companions, |fresh| {
            policy.save(fresh)?;
            files.iter().try_for_each(|(name, bytes)| {
                let path = fresh.join(name);
                std::fs::write(&path, bytes).map_err(Error::io("writing", &path))
            })
        })
    }
}

/// A checkpoint on its way to the disk, in a thread of its own.
#[derive(Debug)]
pub(crate) struct Writing {
    directory: PathBuf,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writing {
    /// Begins to write. `before` reach the disk before the checkpoint does.
    pub(crate) fn begin(
        snapshot: Snapshot,
        directory: PathBuf,
        companions: Vec<PathBuf>,
        before: Vec<File>,
    ) -> Result<Self> {
        let place = directory.clone();
        let write = move || {
            before.iter().try_for_each(File::sync_all).map_err(Error::io("syncing the logs beside", &place))?;
            snapshot.write(&place, &companions)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        Ok(Self { thread: Some(thread.map_err(Error::io("starting a thread to write", &directory))?), directory })
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end, and says where the checkpoint is.
    pub(crate) fn wait(mut self) -> Result<PathBuf> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(std::mem::take(&mut self.directory))
    }
}

impl Drop for Writing {
    /// A run that ends in an error has its last checkpoint whole all the same.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Another error is on its way already.
            let _ = thread.join();
        }
    }
}
