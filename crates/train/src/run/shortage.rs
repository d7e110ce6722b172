//! What a run says where its device has no memory left.
use std::path::PathBuf;

use candlewick_kernels::{Cuda, Memory};

use super::{Run, checkpoints};
use crate::checkpoint::Checkpoint;
use crate::device::Hardware;
use crate::error::{Error, Result};
use crate::memory_plan::{MemoryPlan, WayOn};
use crate::plan::Plan;
use crate::policy::Trainable;
use crate::udm::Fit;

impl Run {
    /// As [`build`](Self::build); `kept` is what is kept where the device has too little memory.
    pub(super) fn build_explained(
        plan: Plan,
        hardware: &Hardware,
        fit: Option<Fit>,
        step: u64,
        kept: Kept,
    ) -> Result<Self> {
        let planned = plan.clone();
        Self::build(plan, hardware, fit, step).map_err(|error| match (error.no_memory(), hardware.device()) {
            (Some((wanted, free)), Some(device)) => {
                let available = available(device).unwrap_or(free);
                explained(&planned, "while models were loaded".into(), wanted, free, available, kept)
            }
            _ => error,
        })
    }

    /// The error for a device without memory. What was done is saved.
    pub(super) fn out_of_memory(&mut self, wanted: u64, free: u64) -> Error {
        let available = self.trainer.policy().parameters().device().and_then(available).unwrap_or(free);
        let steps = self.trainer.steps_done();
        let (at, kept) = match self.precompute.is_some() {
            true => ("while the reference scored the rows".to_owned(), self.keep_scores()),
            false if steps == 0 => ("before the first step".to_owned(), self.keep_steps(steps)),
            false => (format!("after step {steps}"), self.keep_steps(steps)),
        };
        explained(&self.plan, at, wanted, free, available, kept)
    }

    fn keep_scores(&mut self) -> Kept {
        Kept::nothing(match self.keep_precomputed() {
            Ok(()) => "what it scored so far is kept".into(),
            Err(error) => format!("what it scored so far is not kept: {error}"),
        })
    }

    fn keep_steps(&mut self, steps: u64) -> Kept {
        if steps == 0 && self.saved.is_none() {
            return Kept::nothing("no step was made");
        }
        let error = match self.save_now() {
            Ok(path) => return Kept { words: "nothing of it is lost".into(), checkpoint: Some(path) },
            Err(error) => error,
        };
        let last = Checkpoint::latest(&checkpoints(&self.plan.output.dir)).ok().and_then(|found| found.checkpoint);
        match last {
            Some(last) => Kept { words: format!("it could not be saved now: {error}"), checkpoint: Some(last.path) },
            None => Kept::nothing(format!("there is no checkpoint, and it could not be saved now: {error}")),
        }
    }
}

/// What is kept of a run for which a device had too little memory.
pub(super) struct Kept {
    pub(super) words: String,
    /// Where it can go on from.
    pub(super) checkpoint: Option<PathBuf>,
}

impl Kept {
    pub(super) fn nothing(words: impl Into<String>) -> Self {
        Self { words: words.into(), checkpoint: None }
    }

    /// In words, with how the run goes on after a change.
    fn with(self, way: WayOn, plan: &Plan) -> String {
        let Self { words, checkpoint } = self;
        let Some(path) = checkpoint.map(|path| path.display().to_string()) else { return words };
        match (way, plan.train.tokens) {
            (WayOn::Tokens, Some(budget)) => {
                format!(
                    "{words}, with this number --resume goes on from {path}, where \"auto\" would take its {budget} again"
                )
            }
            (WayOn::Tokens | WayOn::Resume, _) => format!("{words}, with this change --resume goes on from {path}"),
            (WayOn::Anew, _) => format!(
                "{words}, and with this change a run starts anew in another output.dir: --resume goes on from {path} without it, where more \
                 memory is free"
            ),
            (WayOn::None, _) => format!("{words}, --resume goes on from {path} where more memory is free"),
        }
    }
}

/// Bytes that a run can have, by a handle that counts its buffers alone: theirs, and what is free once all that was queued is done.
fn available(device: &Cuda) -> Option<u64> {
    device.synchronize().ok()?;
    let Memory { free, used, total, .. } = device.memory().ok()?;
    Some((free + used).min(total) as u64)
}

fn explained(plan: &Plan, at: String, wanted: u64, free: u64, available: u64, kept: Kept) -> Error {
    let (report, way) = match MemoryPlan::of_shortage(plan, available, wanted, kept.checkpoint.is_some()) {
        Ok(found) => found,
        Err(error) => (format!("its memory is not planned: {error}"), WayOn::None),
    };
    Error::OutOfMemory { at, device: plan.train.device, wanted, free, report, kept: kept.with(way, plan) }
}
