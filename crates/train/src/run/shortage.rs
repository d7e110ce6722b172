//! What a run says where its device has no memory left.
use super::{Run, checkpoints};
use crate::checkpoint::Checkpoint;
use crate::device::Hardware;
use crate::error::{Error, Result};
use crate::memory_plan::MemoryPlan;
use crate::plan::Plan;
use crate::policy::Trainable;
use crate::udm::Fit;

impl Run {
    /// As [`build`](Self::build); `kept` says what is kept where the device has too little memory.
    pub(super) fn build_explained(
        plan: Plan,
        hardware: &Hardware,
        fit: Option<Fit>,
        step: u64,
        kept: String,
    ) -> Result<Self> {
        let planned = plan.clone();
        Self::build(plan, hardware, fit, step).map_err(|error| match (error.no_memory(), hardware.device()) {
            (Some((wanted, free)), Some(device)) => {
                // All of the run is gone from the device by now.
                let available = device.memory().map_or(free, |memory| (memory.free + memory.used) as u64);
                explained(&planned, "while models were loaded".into(), wanted, free, available, kept)
            }
            _ => error,
        })
    }

    /// The error for a device without memory. What was done is saved.
    pub(super) fn out_of_memory(&mut self, wanted: u64, free: u64) -> Error {
        let device = self.trainer.policy().parameters().device().cloned();
        let memory = device.and_then(|device| device.memory().ok());
        let available = memory.map_or(free, |memory| (memory.free + memory.used) as u64);
        let steps = self.trainer.steps_done();
        let (at, kept) = match self.precompute.is_some() {
            true => ("while the reference scored the rows".to_owned(), self.keep_scores()),
            false if steps == 0 => ("before the first step".to_owned(), self.keep_steps(steps)),
            false => (format!("after step {steps}"), self.keep_steps(steps)),
        };
        explained(&self.plan, at, wanted, free, available, kept)
    }

    fn keep_scores(&mut self) -> String {
        match self.keep_precomputed() {
            Ok(()) => "what it scored so far is kept".into(),
            Err(error) => format!("what it scored so far is not kept: {error}"),
        }
    }

    fn keep_steps(&mut self, steps: u64) -> String {
        if steps == 0 && self.saved.is_none() {
            return "no step was made".into();
        }
        let error = match self.save_now() {
            Ok(path) => return format!("nothing of it is lost, --resume goes on from {}", path.display()),
            Err(error) => error,
        };
        let last = Checkpoint::latest(&checkpoints(&self.plan.output.dir)).ok().and_then(|found| found.checkpoint);
        match last {
            Some(last) => {
                format!("--resume goes on from {}, since it could not be saved now: {error}", last.path.display())
            }
            None => format!("there is no checkpoint, and it could not be saved now: {error}"),
        }
    }
}

fn explained(plan: &Plan, at: String, wanted: u64, free: u64, available: u64, kept: String) -> Error {
    let report = match MemoryPlan::of_shortage(plan, available, wanted) {
        Ok(words) => words,
        Err(error) => format!("its memory is not planned: {error}"),
    };
    Error::OutOfMemory { at, device: plan.train.device, wanted, free, report, kept }
}
