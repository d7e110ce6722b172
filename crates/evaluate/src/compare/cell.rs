//! One run of a comparison: driven by its caller, measured on the way, resumable at any moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_data::Encoder;
use candlewick_kernels::{Cuda, Element, Workspace};
use candlewick_losses::{Dpo, Recipe};
use candlewick_model::CausalLm;
use candlewick_train::{
    DevicePolicy, Event, Fault, Hardware, ModelPolicy, Plan, ReferencePlan, Run, StepReport, TuningPlan, checkpoints,
    replace_file,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::matrix::{Cell, Matrix};
use crate::again;
use crate::drift::{Drift, DriftOptions};
use crate::error::{Error, Result};
use crate::preferences::{Half, Preferences};
use crate::stats;

/// What all runs of a comparison share: the held-out rows, the model they start from, and what it says of the rows.
#[derive(Debug)]
pub struct Common {
    held_out: Preferences,
    /// Σ log-probability of each held-out completion before training.
    reference: Vec<f64>,
    model: CausalLm,
    /// One device for all runs, where they have one.
    hardware: Hardware,
    stop: Vec<u32>,
    drift: DriftOptions,
    at_start: Option<Drift>,
    every: u64,
    keep_models: bool,
}

impl Common {
    /// Loads the model, and reads and scores the held-out rows, on `threads` threads or on the device of `hardware`, which all runs
    /// share. Rows are encoded as the first arm's are, with all of their tokens scored.
    ///
    /// # Errors
    /// Files that are missing or do not fit together; held-out rows that prefer nothing.
    pub fn load(matrix: &Matrix, hardware: Hardware, threads: usize) -> Result<Self> {
        let plan = matrix.whole_plan(0, 0, matrix.seeds[0])?;
        // Any loss of pairs will do: it is the rows that are asked for, not the numbers that a loss may want beside them.
        let mut rows = plan.clone();
        rows.objective = Recipe::Builtin(Dpo::default().into());
        rows.data.unpair = false;
        let encoder =
            Encoder::from_dir(&plan.model.path, rows.encode_options()).map_err(candlewick_train::Error::from)?;
        let encoder = Arc::new(encoder);
        let Some(evaluation) = &plan.evaluation else {
            return Err(Error::config("evaluation", "missing; objectives are compared on held-out rows"));
        };
        let source = rows.open_held_out()?.ok_or_else(|| Error::config("evaluation", "it names no rows"))?;
        let held_out = Preferences::read(source, Arc::clone(&encoder), evaluation.batch_size)?;
        let empty = |half: Half| held_out.items().iter().all(|item| item.half != half);
        if matrix.chooses() && (empty(Half::Tuning) || empty(Half::Report)) {
            let count = held_out.items().len();
            let reason = format!(
                "{count} held-out preferences leave none for one of two halves, by prompts: settings are chosen on the one, results are of the \
                 other; hold out more rows"
            );
            return Err(Error::config("evaluation", reason));
        }
        if let Some(name) = evaluation.slices.iter().find(|name| !held_out.labels().contains(name.as_str())) {
            let reason =
                format!("no held-out row has a column {name:?} with a word in it; name one that the rows have");
            return Err(Error::config("evaluation.slices", reason));
        }
        let mut train = plan.train.clone();
        train.threads = threads;
        let mut model = CausalLm::<f32>::load(&plan.model.path)?;
        if let TuningPlan::Adapter(start) = &plan.model.tuning {
            model.load_adapter(start)?;
        }
        encoder.check_vocabulary(model.config().vocab_size).map_err(candlewick_train::Error::from)?;
        let reference = held_out.score(&mut *hardware.frozen_copy(&model, &train)?)?;
        let mut stop = model.config().eos_token_ids.clone();
        stop.extend(encoder.eos_id().filter(|id| !stop.contains(id)));
        let mut common = Self {
            held_out,
            reference,
            model,
            hardware,
            stop,
            drift: matrix.drift,
            at_start: None,
            every: matrix.every,
            keep_models: matrix.keep_models,
        };
        common.at_start = common.drift_of(&common.model, &common.model, &mut Workspace::new(threads))?;
        Ok(common)
    }

    /// What the runs compute on.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The held-out rows.
    pub fn held_out(&self) -> &Preferences {
        &self.held_out
    }

    /// Σ log-probability of each held-out completion before training.
    pub fn reference(&self) -> &[f64] {
        &self.reference
    }

    /// What the model answers before training: no drift, and the length of its answers.
    pub fn at_start(&self) -> Option<&Drift> {
        self.at_start.as_ref()
    }

    fn drift_of<T: Element<Wide = f32>>(
        &self,
        policy: &CausalLm<T>,
        start: &CausalLm<T>,
        workspace: &mut Workspace,
    ) -> Result<Option<Drift>> {
        let prompts = self.held_out.prompts();
        let prompts: Vec<&[u32]> = prompts.into_iter().filter(|prompt| !prompt.is_empty()).collect();
        Drift::measure(policy, start, &prompts, &self.stop, self.drift, workspace)
    }

    /// The same of a policy in training.
    fn drift_of_policy(&self, policy: &mut ModelPolicy) -> Result<Option<Drift>> {
        match (policy, self.hardware.device()) {
            (ModelPolicy::Bf16(policy), Some(device)) => self.drift_on(device, policy),
            (ModelPolicy::F32(policy), Some(device)) => self.drift_on(device, policy),
            (policy, _) => {
                let (model, workspace) = policy.causal_mut()?.model_and_workspace();
                self.drift_of(model, &self.model, workspace)
            }
        }
    }

    fn drift_on<T: Element<Wide = f32>>(&self, device: &Cuda, policy: &mut DevicePolicy<T>) -> Result<Option<Drift>> {
        let (model, workspace) = policy.model_and_workspace()?;
        let start = self.model.to_device::<T>(device, workspace)?;
        self.drift_of(model, &start, workspace)
    }

    fn point(&self, step: u64, tokens: u64, scores: &[f64]) -> Point {
        let ratios: Vec<f64> = scores.iter().zip(&self.reference).map(|(a, b)| a - b).collect();
        let (better, worse) = self.held_out.sides(&ratios);
        let mean = |values: &[f64]| stats::mean(values).unwrap_or(f64::NAN);
        Point {
            step,
            tokens,
            accuracy: mean(&self.held_out.agreement(&ratios)),
            margin: mean(&self.held_out.margins(&ratios)),
            chosen: mean(&better),
            rejected: mean(&worse),
        }
    }
}

/// A measurement on the held-out rows in the course of a run. Log-ratios are log π(y|x) − log π_start(y|x), in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens trained on, unpadded and unshared.
    pub tokens: u64,
    /// Share of the preferences with which the log-ratios agree; half before the first step, where all are 0.
    pub accuracy: f64,
    /// Mean difference of the log-ratios of preferred and other completions.
    pub margin: f64,
    /// Mean log-ratio of the preferred completions.
    pub chosen: f64,
    /// Mean log-ratio of the others.
    pub rejected: f64,
}

/// A run of a comparison, as far as it has come: the file `cell.json` in its directory, format version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellResult {
    format: String,
    version: u32,
    /// The run's plan.
    pub plan: Value,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Seconds spent in steps, as its caller has told.
    pub seconds: f64,
    /// Measurements, by step.
    pub points: Vec<Point>,
    /// Whether the run is over.
    pub finished: bool,
    /// Why it stopped before its end: a loss or gradient that was not finite.
    pub failure: Option<String>,
    /// Σ log-probability of each held-out completion after the last step.
    pub scores: Vec<f64>,
    /// How far the trained policy is from the one it started as.
    pub drift: Option<Drift>,
    /// What the run's own evaluation measured at its end, under TRL's names.
    pub metrics: BTreeMap<String, f64>,
}

const FORMAT: &str = "candlewick-cell";
const VERSION: u32 = 1;

impl CellResult {
    fn new(plan: &Plan) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            plan: plan.to_json(),
            total_steps: 0,
            seconds: 0.0,
            points: Vec::new(),
            finished: false,
            failure: None,
            scores: Vec::new(),
            drift: None,
            metrics: BTreeMap::new(),
        }
    }

    /// What stands in the directory of a run; nothing where it has not begun.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged or of another version, or belongs to another run.
    pub fn read(plan: &Plan) -> Result<Option<Self>> {
        let path = file(plan);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        let again = "remove the directory it lies in to have the run made again";
        let result: Self = serde_json::from_slice(&text)
            .map_err(|error| Error::results(&path, format!("damaged ({error}); {again}")))?;
        if (result.format.as_str(), result.version) != (FORMAT, VERSION) {
            let found = format!(
                "format {:?}, version {}; this program reads version {VERSION}; {again}",
                result.format, result.version
            );
            return Err(Error::results(&path, found));
        }
        match again::difference(plan, &result.plan) {
            Some(difference) => Err(Error::results(
                &path,
                format!(
                    "the run of another comparison ({difference}); name another output directory, or remove this run's"
                ),
            )),
            None => Ok(Some(result)),
        }
    }

    fn write(&self, plan: &Plan) -> Result<()> {
        let path = file(plan);
        let text = serde_json::to_vec(self).map_err(|error| Error::results(&path, error.to_string()))?;
        Ok(replace_file(&path, &text)?)
    }

    /// The last measurement.
    pub fn last(&self) -> Option<&Point> {
        self.points.last()
    }
}

fn file(plan: &Plan) -> PathBuf {
    plan.output.dir.join("cell.json")
}

/// What a call of [`CellRun::advance`] did.
#[derive(Debug)]
#[non_exhaustive]
pub enum CellEvent {
    /// Rows were scored by the reference; so many are known. After the last ones the shared file is written.
    Precomputed(usize),
    /// An optimizer step.
    Step(StepReport),
    /// A measurement on the held-out rows.
    Measured(Point),
    /// A checkpoint, or the run's own evaluation.
    Kept,
    /// The run is over.
    Finished(Box<CellResult>),
}

/// A run of a comparison, advanced by its caller one event at a time. Nothing is lost between calls but steps since the last
/// checkpoint.
#[derive(Debug)]
pub struct CellRun<'a> {
    common: &'a Common,
    run: Run,
    result: CellResult,
    every: u64,
    over: bool,
}

impl<'a> CellRun<'a> {
    /// Begins a run or goes on with it.
    ///
    /// Runs that share a file of reference log-probabilities add to it what they lack, so that only one of them may be between
    /// here and its first event that is not [`CellEvent::Precomputed`].
    ///
    /// # Errors
    /// Those of [`Run::start`] and [`Run::resume`], and of [`CellResult::read`].
    pub fn open(cell: &Cell, common: &'a Common) -> Result<Self> {
        let plan = &cell.plan;
        let stored = CellResult::read(plan)?;
        let run = again::open(plan, &common.hardware)?;
        let step = run.trainer().steps_done();
        let mut result = stored.unwrap_or_else(|| CellResult::new(plan));
        result.points.retain(|point| point.step <= step);
        result.total_steps = run.total_steps();
        let every = if common.every > 0 { common.every } else { (run.total_steps() / 10).max(1) };
        Ok(Self { common, run, result, every, over: false })
    }

    /// Does the next thing. After [`CellEvent::Finished`] it returns `None`.
    ///
    /// # Errors
    /// Those of [`Run::advance`], but a loss or gradient that is not finite: that is a result.
    pub fn advance(&mut self) -> Result<Option<CellEvent>> {
        if self.over {
            return Ok(None);
        }
        let step = self.run.trainer().steps_done();
        let done = step >= self.run.total_steps();
        let is_due = done || step.is_multiple_of(self.every);
        // Of what a reference still has to score nothing is known before the first step.
        let waits = step == 0 && self.is_precomputing();
        if is_due && !waits && self.result.points.iter().all(|point| point.step != step) {
            return self.measure().map(|point| Some(CellEvent::Measured(point)));
        }
        match self.run.advance() {
            Ok(Some(Event::Precomputed { rows, .. })) => Ok(Some(CellEvent::Precomputed(rows))),
            Ok(Some(Event::Step(report))) => Ok(Some(CellEvent::Step(report))),
            Ok(Some(Event::Evaluated(report))) => {
                self.result.metrics = report.metrics.values();
                self.result.metrics.insert("loss".into(), report.loss);
                Ok(Some(CellEvent::Kept))
            }
            Ok(Some(Event::Finished(_))) => {
                self.result.drift = self.common.drift_of_policy(self.run.trainer_mut().policy_mut())?;
                self.finish().map(Some)
            }
            Ok(_) => Ok(Some(CellEvent::Kept)),
            Err(error) if error.fault() == Fault::Stopped => {
                self.result.failure = Some(error.to_string());
                self.finish().map(Some)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Counts time that its caller saw pass in steps.
    pub fn add_seconds(&mut self, seconds: f64) {
        self.result.seconds += seconds;
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// As [`Run::save_now`].
    pub fn save(&mut self) -> Result<()> {
        if !self.over {
            self.run.save_now()?;
            self.result.write(self.run.plan())?;
        }
        Ok(())
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    fn is_precomputing(&self) -> bool {
        matches!(self.run.plan().reference, ReferencePlan::Precomputed(_)) && self.run.is_precomputing()
    }

    fn measure(&mut self) -> Result<Point> {
        let step = self.run.trainer().steps_done();
        let tokens = self.run.place().tokens;
        let scores = match step {
            // Every run starts as the model that was scored for all of them.
            0 => self.common.reference.clone(),
            _ => self.common.held_out.score(self.run.trainer_mut().policy_mut())?,
        };
        let point = self.common.point(step, tokens, &scores);
        if step >= self.run.total_steps() {
            self.result.scores = scores;
        }
        self.result.points.push(point);
        self.result.points.sort_by_key(|point| point.step);
        self.result.write(self.run.plan())?;
        Ok(point)
    }

    fn finish(&mut self) -> Result<CellEvent> {
        self.over = true;
        self.result.finished = true;
        self.result.write(self.run.plan())?;
        if !self.common.keep_models {
            let directory = &self.run.plan().output.dir;
            for left in [checkpoints(directory), directory.join("final")] {
                again::remove(&left)?;
            }
        }
        Ok(CellEvent::Finished(Box::new(self.result.clone())))
    }
}
