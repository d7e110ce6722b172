//! The reference log-probabilities of a plan, and nothing else.
use std::path::PathBuf;

use crate::device::Hardware;
use crate::error::Result;
use crate::memory_plan::TokenChoice;
use crate::plan::Plan;
use crate::reference::Reference;
use crate::run::Run;

/// The rows of a plan, to train on and held out, scored by its reference into the cache. Nothing is trained, and nothing else is written.
#[derive(Debug)]
pub struct Precomputation {
    run: Run,
    chosen: Option<TokenChoice>,
}

impl Precomputation {
    /// Loads what the plan names, and looks which rows the cache lacks. A cache that a process left when it ended is gone on with.
    ///
    /// # Errors
    /// A plan whose reference is not precomputed; as [`Run::start`] of files that are missing or do not fit together.
    pub fn start(plan: Plan) -> Result<Self> {
        let hardware = Hardware::open(plan.train.device)?;
        Self::start_on(&hardware, plan)
    }

    /// The same on hardware that is open already.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on(hardware: &Hardware, plan: Plan) -> Result<Self> {
        let (run, chosen) = Run::to_precompute(hardware, plan)?;
        Ok(Self { run, chosen })
    }

    /// Scores the rows of the next step, and now and then writes what was scored. Once nothing is left to score it returns false.
    ///
    /// # Errors
    /// Rows that the objective cannot use; the cache cannot be written. What it holds stays whole.
    pub fn advance(&mut self) -> Result<bool> {
        if !self.run.is_precomputing() {
            return Ok(false);
        }
        self.run.advance()?;
        Ok(self.run.is_precomputing())
    }

    /// Writes what was scored so far.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn keep(&mut self) -> Result<()> {
        self.run.keep_precomputed()
    }

    /// What `train.tokens = "auto"` came to, by the memory of the training that the plan is of; None where a number stands there.
    pub fn tokens_chosen(&self) -> Option<&TokenChoice> {
        self.chosen.as_ref()
    }

    /// Steps whose rows are scored, and how many there are at most; None where nothing is left to score.
    pub fn steps(&self) -> Option<(u64, u64)> {
        self.run.precomputed_steps()
    }

    /// Completions of this reference that are known, those of other runs included.
    pub fn rows(&self) -> usize {
        match self.run.trainer().reference() {
            Reference::Precomputed(table) => table.len(),
            _ => 0,
        }
    }

    /// Where the cache lies.
    pub fn path(&self) -> PathBuf {
        match self.run.trainer().reference() {
            Reference::Precomputed(table) => table.path().to_owned(),
            _ => PathBuf::new(),
        }
    }
}
