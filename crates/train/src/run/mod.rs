//! A whole run from its plan, advanced by its caller one event at a time.
mod bookmark;
mod build;
mod shortage;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candlewick_data::{Batch, Batches, Cursor, Encoder, Report, Source};
use candlewick_losses::{Needs, Objective, StepWide};
use serde::{Deserialize, Serialize};

use self::bookmark::{Bookmark, Files};
use self::shortage::Kept;
use crate::checkpoint::{self, Checkpoint};
use crate::config::ResultKind;
use crate::costs::{CostReport, Costs};
use crate::device::Hardware;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::held_out_log::HeldOutWriter;
use crate::log::{MetricsLog, RejectedLog};
use crate::memory_plan::TokenChoice;
use crate::model_policy::ModelPolicy;
use crate::plan::{Length, Plan, ReferencePlan};
use crate::rows;
use crate::snapshot::Writing;
use crate::trainer::{EvalReport, StepReport, Trainer};
use crate::udm::Udm;
use crate::watch::{self, Alarm, Best, Noticed, WatchPlan, Watched};

/// A run. Nothing happens between calls of [`advance`](Self::advance), but for a checkpoint that is being written where
/// `output.background` says so.
///
/// # Output directory
/// - `plan.json`: the [`Plan`].
/// - `metrics.jsonl`: an object a step or evaluation under TRL's names. `epoch` is passes over the rows with the part of the
///   last, where the length of the run is in epochs; where it is in steps the rows are not counted beforehand, and it is passes
///   completed.
/// - `held_out/`, where the plan has an evaluation and trains no score heads: what every held-out completion scored, see
///   [`HeldOutLog`](crate::HeldOutLog).
/// - `reference-cache/`, where the plan has a precomputed reference that lies nowhere else: see
///   [`PrecomputedReference`](crate::PrecomputedReference).
/// - `udm.json`, where the plan has a `udm`: the classifier of prompts, fitted when the run starts.
/// - `rejected.jsonl`, where a row was set aside: an object of `file`, `line`, `reason` and `detail` for each one of the first
///   pass and of the first evaluation.
/// - `checkpoints/step-…/`: see [`Checkpoint`]. `checkpoints/aside/`: those of later steps than one that was resumed.
/// - `final/`: the trained model or adapter, written before the last evaluation; after it where `output.result` is the best.
///
/// The same plan gives the same bits on the same kind of processor, on any number of threads, interrupted or not.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    encoder: Arc<Encoder>,
    source: Source,
    held_out_source: Option<Source>,
    batches: Batches,
    trainer: Trainer<ModelPolicy>,
    /// Rows still to be scored by the reference.
    precompute: Option<Precompute>,
    log: MetricsLog,
    rejected: RejectedLog,
    held_out_log: HeldOutWriter,
    data: Fingerprint,
    held_out_data: Option<Fingerprint>,
    model_files: Files,
    reference_files: Option<Files>,
    /// By directory.
    cost_files: Option<BTreeMap<String, Files>>,
    total_steps: u64,
    place: Place,
    saved: Option<u64>,
    /// A checkpoint on its way to the disk.
    writing: Option<Writing>,
    /// What keeps other runs out of the output directory.
    held: Option<File>,
    /// The time by the caller's clock, and when the last checkpoint was begun.
    time: Option<Duration>,
    saved_at: Duration,
    /// What the caller has not been told yet.
    alarms: VecDeque<Event>,
    result_written: bool,
    metric_is_checked: bool,
    held_out: Option<Report>,
    finished: bool,
    companions: Vec<PathBuf>,
    udm: Option<Udm>,
    costs: Option<Costs>,
    /// Set by somebody who wants what is under way to end.
    interrupt: Arc<AtomicBool>,
}

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Where the next step begins in the data.
    pub cursor: Cursor,
    /// Tokens trained on, unpadded and unshared.
    pub tokens: u64,
    /// The step of the last evaluation.
    pub evaluated: Option<u64>,
    /// Steps done before the last round of answers whose costs were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// What was watched so far.
    #[serde(default)]
    pub watched: Watched,
}

/// What a call of [`Run::advance`] did.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "one at a time, and the largest is the last")]
pub enum Event {
    /// Rows were scored by the reference before the first step.
    Precomputed {
        /// Distinct completions scored so far.
        rows: usize,
        /// Whether these were the last.
        done: bool,
    },
    /// The policy answered prompts, and the multipliers of the objective will follow what its answers cost.
    Answered(CostReport),
    /// `train.tokens = "auto"` was decided, before anything else.
    TokensChosen(TokenChoice),
    /// An optimizer step.
    Step(StepReport),
    /// A step whose loss or gradient was not finite: it is counted, and changed nothing.
    Skipped(Skipped),
    /// Something that a person should look at, in the step or evaluation before.
    Alarm {
        /// Steps done.
        step: u64,
        /// Whether it is one of an evaluation, not of a step.
        evaluated: bool,
        /// What it is.
        alarm: Alarm,
    },
    /// An evaluation on the held-out rows.
    Evaluated(EvalReport),
    /// A checkpoint has been written here. Of one that is written in the background this comes some steps later.
    Saved(PathBuf),
    /// The last step is done and the result written.
    Finished(Summary),
}

/// A step that changed nothing.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Skipped {
    /// The step, counted from one.
    pub step: u64,
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// The rows, as `file:line` each.
    pub rows: String,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Optimizer steps done.
    pub steps: u64,
    /// Tokens trained on, unpadded and unshared.
    pub tokens: u64,
    /// The directory of the trained model or adapter.
    pub result: PathBuf,
    /// What became of the training rows.
    pub rows: Report,
    /// What became of the held-out rows in the last evaluation.
    pub held_out: Option<Report>,
    /// Steps among them that changed nothing, since their loss or gradient was not finite; the best evaluation; and why the run
    /// stopped before its end, if it did.
    pub watched: Watched,
}

#[derive(Debug)]
struct Precompute {
    batches: Batches,
    /// Steps whose rows are scored.
    steps: u64,
    evaluation: Option<Batches>,
    /// A step that could not be scored.
    left: Option<Vec<Batch>>,
}

impl Run {
    /// Loads everything a plan names, looks at its rows and held-out rows, and writes `plan.json`. The logs of a run that never
    /// saved are begun anew, and its classifier of prompts goes; its cache of reference log-probabilities is used again.
    ///
    /// # Errors
    /// Files that are missing or do not fit together; an output directory that holds another run, or in which one trains.
    pub fn start(plan: Plan) -> Result<Self> {
        let hardware = Hardware::open(plan.train.device)?;
        Self::start_on(&hardware, plan)
    }

    /// The same on hardware that is open already, as for several runs on one device.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on(hardware: &Hardware, plan: Plan) -> Result<Self> {
        refuse_other_run(&plan.output.dir)?;
        hardware.check(&plan.train)?;
        let hardware = &hardware.of_one_run();
        let (plan, chosen) = plan.with_token_budget(hardware)?;
        let mut run = Self::build_explained(plan, hardware, None, 0, Kept::nothing("the run has not begun"))?;
        run.hold()?;
        refuse_other_run(&run.plan.output.dir)?;
        checkpoint::sweep(&checkpoints(&run.plan.output.dir))?;
        run.log.clear()?;
        run.alarms.extend(chosen.map(Event::TokensChosen));
        run.warn_of_reference();
        run.held_out_log.clear()?;
        run.rejected.truncate(0)?;
        checkpoint::remove_file(&run.plan.output.dir.join(UDM))?;
        run.write_plan()?;
        Ok(run)
    }

    /// Goes on from a checkpoint, to the same bits as if the run had not been interrupted. Checkpoints of later steps are moved into
    /// `checkpoints/aside/`.
    ///
    /// # Errors
    /// As [`start`](Self::start); a checkpoint of another plan, of other data or embeddings, or of other starting weights; a
    /// damaged one.
    pub fn resume(plan: Plan, checkpoint: &Path) -> Result<Self> {
        let hardware = Hardware::open(plan.train.device)?;
        Self::resume_on(&hardware, plan, checkpoint)
    }

    /// The same on hardware that is open already.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn resume_on(hardware: &Hardware, plan: Plan, checkpoint: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(checkpoint)?;
        let bookmark: Bookmark = serde_json::from_value(checkpoint.state.bookmark.clone()).map_err(|e| {
            let reason =
                format!("it was not written by a run of this version of the program ({e}); use the one that wrote it");
            Error::checkpoint(&checkpoint.path, reason)
        })?;
        let plan = plan.with_tokens_of(&bookmark.plan);
        plan.check_resumes(&bookmark.plan, checkpoint.state.step)?;
        bookmark.check_embeddings(&plan)?;
        let step = checkpoint.state.step;
        hardware.check(&plan.train)?;
        let hardware = &hardware.of_one_run();
        let (plan, chosen) = plan.with_token_budget(hardware)?;
        let kept = Kept { words: "its checkpoint is as it was".into(), checkpoint: Some(checkpoint.path.clone()) };
        let mut run = Self::build_explained(plan, hardware, bookmark.udm.clone(), step, kept)?;
        run.check_bookmark(&bookmark, step)?;
        if let (1.., Some(_), ReferencePlan::Precomputed(path)) = (step, &run.precompute, &run.plan.reference) {
            let reason = "the cache is gone, and it can be made before the first step only; put it back, or start anew"
                .to_owned();
            return Err(Error::Reference { path: path.clone(), reason });
        }
        run.hold()?;
        run.trainer.restore(&checkpoint)?;
        run.place = bookmark.place.clone();
        let watched_before = bookmark.plan.get("watch").map(WatchPlan::deserialize).transpose().ok().flatten();
        run.place.watched.go_on_under(&run.plan.watch, &watched_before.unwrap_or_default());
        run.forget_lost_best();
        run.saved = Some(step);
        run.batches.resume(bookmark.place.cursor.clone())?;
        run.batches.count_on_from(bookmark.rows.unwrap_or_default());
        run.held_out = bookmark.held_out_rows;
        let directory = checkpoints(&run.plan.output.dir);
        checkpoint::sweep(&directory)?;
        checkpoint::set_aside_after(&directory, step)?;
        run.log.truncate(step, run.place.evaluated)?;
        run.held_out_log.truncate(step, run.place.evaluated)?;
        run.rejected.truncate(bookmark.rejected)?;
        run.alarms.extend(chosen.map(Event::TokensChosen));
        run.write_plan()?;
        Ok(run)
    }

    /// Puts a run together to fill its cache of reference log-probabilities, and tells what `train.tokens = "auto"` came to; nothing is
    /// written into its directory.
    pub(crate) fn to_precompute(hardware: &Hardware, plan: Plan) -> Result<(Self, Option<TokenChoice>)> {
        if !matches!(plan.reference, ReferencePlan::Precomputed(_)) {
            return Err(Error::config("reference.kind", "not \"precomputed\", and there is nothing to compute before"));
        }
        hardware.check(&plan.train)?;
        let hardware = &hardware.of_one_run();
        // Nothing is answered.
        let (plan, chosen) = Plan { safety: None, ..plan }.with_token_budget(hardware)?;
        let run = Self::build_explained(plan, hardware, None, 0, Kept::nothing("nothing was scored"))?;
        Ok((run, chosen))
    }

    /// Of a reference that would follow the policy, had the run more steps.
    fn warn_of_reference(&mut self) {
        let steps = self.total_steps;
        if let Some(first) = self.plan.objective.reference_update().first_step().filter(|first| *first > steps) {
            let alarm = Alarm::NeverMoves { first, steps };
            self.alarms.push_back(Event::Alarm { step: 0, evaluated: false, alarm });
        }
    }

    /// Of a best checkpoint that is not there any more, or not whole, nothing is kept: another one will be the best.
    fn forget_lost_best(&mut self) {
        let place = checkpoints(&self.plan.output.dir);
        let is_lost = |best: &Best| Checkpoint::open(&checkpoint::step_directory(&place, best.step)).is_err();
        if self.plan.output.keep_best && self.place.watched.best.as_ref().is_some_and(is_lost) {
            self.place.watched.best = None;
        }
    }

    /// Does the next thing: scores rows by the reference, steps, saves, evaluates, or finishes. A step is saved before it is
    /// evaluated, the last one's result too, so that nothing is lost when an evaluation fails. After [`Event::Finished`] it
    /// returns `None`.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] and of the file system, those of a checkpoint that was being written too. Of steps whose loss or
    /// gradient is not finite, the one that is `watch.not_finite_in_a_row` in a row. Checkpoints written before stay whole.
    /// [`Error::OutOfMemory`] where a device has no memory left: what was under way has changed nothing then, and where the run had made
    /// a step it has been saved.
    pub fn advance(&mut self) -> Result<Option<Event>> {
        self.advance_unexplained().map_err(|error| match error.no_memory() {
            Some((wanted, free)) => self.out_of_memory(wanted, free),
            None => error,
        })
    }

    fn advance_unexplained(&mut self) -> Result<Option<Event>> {
        if self.finished {
            return Ok(None);
        }
        if let Some(alarm) = self.alarms.pop_front() {
            return Ok(Some(alarm));
        }
        if let Some(written) = self.writing.take_if(|writing| writing.is_over()) {
            return self.written(written).map(|path| Some(Event::Saved(path)));
        }
        if self.precompute.is_some() {
            return self.precompute().map(Some);
        }
        let step = self.trainer.steps_done();
        let done = step >= self.total_steps || self.place.watched.stopped.is_some();
        let every = |interval: u64| interval > 0 && step.is_multiple_of(interval);
        let is_best = self.plan.output.keep_best && self.place.watched.best.is_some_and(|best| best.step == step);
        let is_due = step > 0 && (done || every(self.plan.output.save_every) || self.is_time_to_save()?);
        if self.saved != Some(step)
            && (is_due || is_best)
            && let Some(path) = self.save()?
        {
            return Ok(Some(Event::Saved(path)));
        }
        if done && !self.result_written && self.plan.output.result == ResultKind::Last {
            self.write_result()?;
        }
        if let Some(evaluation) = &self.plan.evaluation
            && self.place.evaluated != Some(step)
            && if step == 0 { evaluation.at_start } else { done || every(evaluation.every) }
        {
            return self.evaluate().map(|report| Some(Event::Evaluated(report)));
        }
        if done {
            if let Some(writing) = self.writing.take() {
                return self.written(writing).map(|path| Some(Event::Saved(path)));
            }
            if !self.result_written {
                self.write_result()?;
            }
            return Ok(Some(Event::Finished(self.finish())));
        }
        if self.place.answered != Some(step) && self.costs.as_ref().is_some_and(|costs| costs.are_due(step)) {
            return self.answer().map(|report| Some(Event::Answered(report)));
        }
        self.step().map(Some)
    }

    /// Looks at `interrupt` in the middle of steps and evaluations too. [`advance`](Self::advance) gives up with [`Error::Interrupted`] once it
    /// is set; the run is then where it was before, and can be saved or go on.
    pub fn set_interrupt(&mut self, interrupt: Arc<AtomicBool>) {
        self.trainer.set_interrupt(interrupt.clone());
        self.interrupt = interrupt;
    }

    /// Tells how long the run has been going, by the clock of its caller: what `output.save_minutes` is measured by. Time decides when
    /// a checkpoint is written, and no number.
    pub fn tell_time(&mut self, elapsed: Duration) {
        self.time = Some(elapsed);
    }

    fn is_time_to_save(&self) -> Result<bool> {
        let Some(minutes) = self.plan.output.save_minutes else { return Ok(false) };
        let Some(now) = self.time else {
            let reason = "given, and the program that drives the run tells it no time; call Run::tell_time before every advance, or leave \
                          it out";
            return Err(Error::config("output.save_minutes", reason));
        };
        Ok(now.saturating_sub(self.saved_at).as_secs_f64() >= 60.0 * minutes)
    }

    /// Saves as the plan says; where the checkpoint is, if one is on the disk now that was not before.
    fn save(&mut self) -> Result<Option<PathBuf>> {
        if let Some(writing) = self.writing.take() {
            // One at a time: a disk that cannot keep up holds up the run, and not its memory.
            return self.written(writing).map(Some);
        }
        self.saved_at = self.time.unwrap_or_default();
        if !self.plan.output.background {
            return self.save_now().map(Some);
        }
        let step = self.trainer.steps_done();
        let directory = checkpoint::step_directory(&checkpoints(&self.plan.output.dir), step);
        let snapshot = self.trainer.snapshot(&self.bookmark()?)?;
        let logs = [self.log.file()?, self.held_out_log.file()?].into_iter().flatten().collect();
        self.writing = Some(Writing::begin(snapshot, directory, self.companions.clone(), logs)?);
        self.saved = Some(step);
        Ok(None)
    }

    /// Waits for a checkpoint that is being written, and removes what is not to be kept beside it.
    fn written(&mut self, writing: Writing) -> Result<PathBuf> {
        let directory = writing.wait()?;
        self.prune()?;
        Ok(directory)
    }

    fn prune(&self) -> Result<()> {
        let best = self.place.watched.best.filter(|_| self.plan.output.keep_best).map(|best| best.step);
        let spared: Vec<u64> = self.saved.into_iter().chain(best).collect();
        checkpoint::prune(&checkpoints(&self.plan.output.dir), self.plan.output.keep, &spared)
    }

    /// Writes a checkpoint now, whatever the plan says, and removes those beyond `output.keep`. A step that is saved already is
    /// left as it is. Before the first step too: a run that goes on from there scores what its reference still has to.
    ///
    /// # Errors
    /// A parameter that is not finite; the file system. Checkpoints written before stay whole.
    pub fn save_now(&mut self) -> Result<PathBuf> {
        if let Some(writing) = self.writing.take() {
            self.written(writing)?;
        }
        let step = self.trainer.steps_done();
        let directory = checkpoint::step_directory(&checkpoints(&self.plan.output.dir), step);
        if self.saved == Some(step) && Checkpoint::open(&directory).is_ok_and(|saved| saved.state.step == step) {
            return Ok(directory);
        }
        let bookmark = self.bookmark()?;
        self.log.sync()?;
        self.held_out_log.sync()?;
        self.trainer.save(&directory, &bookmark, &self.companions)?;
        self.saved = Some(step);
        self.prune()?;
        Ok(directory)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<ModelPolicy> {
        &self.trainer
    }

    /// The trainer, as for sampling from its policy between events.
    pub fn trainer_mut(&mut self) -> &mut Trainer<ModelPolicy> {
        &mut self.trainer
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Whether the next events are rows that are scored by the reference.
    pub fn is_precomputing(&self) -> bool {
        self.precompute.is_some()
    }

    /// Steps whose rows the reference has scored, and how many there are at most; None where nothing is left to score.
    pub fn precomputed_steps(&self) -> Option<(u64, u64)> {
        let work = self.precompute.as_ref()?;
        let every_step = self.trainer.needs().step_wide == StepWide::Mismatched;
        let most = match self.plan.train.length {
            Length::Epochs(epochs) if !every_step => self.total_steps / epochs.max(1),
            _ => self.total_steps,
        };
        Some((work.steps.min(most), most))
    }

    /// Writes to the cache what the reference has scored so far, as when a run is interrupted before its first step.
    ///
    /// # Errors
    /// Those of [`PrecomputedReference::append`](crate::PrecomputedReference::append).
    pub fn keep_precomputed(&mut self) -> Result<()> {
        if self.precompute.is_some() { self.trainer.policy_and_table()?.1.append() } else { Ok(()) }
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// How far the run has come.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What became of the training rows met so far.
    pub fn rows(&self) -> &Report {
        self.batches.report()
    }

    /// What became of the held-out rows in the last evaluation; none before the first.
    pub fn held_out_rows(&self) -> Option<&Report> {
        self.held_out.as_ref()
    }

    /// The first usable row of the training file, decoded, with what is scored of it
    /// ([`Encoder::describe`](candlewick_data::Encoder::describe)): a wrong template or boundary shows before it is trained on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn sample(&self) -> Result<Option<String>> {
        rows::sample(&self.source, &self.encoder)
    }

    /// Lets the policy answer prompts, and hands what its answers cost to the objective.
    fn answer(&mut self) -> Result<CostReport> {
        let Some(costs) = &mut self.costs else { unreachable!("advance looked") };
        let step = self.trainer.steps_done();
        let threads = self.plan.train.threads.max(1);
        let interrupt = &self.interrupt;
        let (observed, report) = match self.trainer.policy_mut() {
            ModelPolicy::Bf16(policy) => costs.round(step, policy.model_and_workspace()?.0, threads, interrupt)?,
            ModelPolicy::F32(policy) => costs.round(step, policy.model_and_workspace()?.0, threads, interrupt)?,
            policy => costs.round(step, policy.causal()?.model(), threads, interrupt)?,
        };
        if let Some(observed) = observed {
            self.trainer.observe(&observed)?;
        }
        self.place.answered = Some(step);
        self.note(step, false, Noticed { alarms: watch::of_costs(&report), stop: None })?;
        Ok(report)
    }

    fn step(&mut self) -> Result<Event> {
        self.check_metric()?;
        let (rejected, rows) = (self.rejected.length(), self.batches.report().clone());
        let batches = self.batches.next_step();
        self.rejected.append(&self.batches.take_rejections())?;
        let Some(mut batches) = batches? else {
            let (done, total) = (self.trainer.steps_done(), self.total_steps);
            return Err(Error::Mismatch(format!(
                "the rows ended after step {done} of {total}; did the data file change?"
            )));
        };
        self.tell_prompts_apart(&mut batches)?;
        let report = match self.trainer.step(&batches) {
            Ok(report) => report,
            Err(Error::NotFinite { step, what, value, rows }) if !self.place.watched.not_finite(&self.plan.watch) => {
                return self.skip(Skipped { step, what, value, rows }).map(Event::Skipped);
            }
            Err(error) => {
                // The rows come again, if anything does. Where that fails there is nothing more to come, and this error is the one to tell.
                let _ = self.batches.resume(self.place.cursor.clone());
                self.batches.count_on_from(rows);
                self.rejected.truncate(rejected)?;
                return Err(error);
            }
        };
        self.place.cursor = self.batches.cursor();
        self.place.tokens += report.tokens;
        self.log.step(&report, &self.place, self.epoch())?;
        let mut noticed = self.place.watched.step(&self.plan.watch, &report);
        if let Some(costs) = self.costs.as_ref().filter(|_| self.place.answered == Some(report.step - 1)) {
            noticed.alarms.extend(self.place.watched.constrained(costs.constraints(), &report.metrics));
        }
        self.note(report.step, false, noticed)?;
        Ok(Event::Step(report))
    }

    /// Goes past a step that was not finite.
    fn skip(&mut self, skipped: Skipped) -> Result<Skipped> {
        self.trainer.skip()?;
        self.place.cursor = self.batches.cursor();
        self.log.skipped(&skipped)?;
        Ok(skipped)
    }

    /// Writes down what was alarming about a step or an evaluation, and whether the run stops after it.
    fn note(&mut self, step: u64, evaluated: bool, noticed: Noticed) -> Result<()> {
        for alarm in noticed.alarms {
            self.log.alarm(step, evaluated, &alarm)?;
            self.alarms.push_back(Event::Alarm { step, evaluated, alarm });
        }
        noticed.stop.map_or(Ok(()), |stop| self.log.stopped(step, evaluated, &stop))
    }

    /// Whether evaluations measure what the best one is chosen by: found out once, before a step is made, on the first held-out rows.
    fn check_metric(&mut self) -> Result<()> {
        let is_read = self.plan.output.keep_best || self.plan.watch.patience.is_some();
        if !is_read || std::mem::replace(&mut self.metric_is_checked, true) {
            return Ok(());
        }
        let rows = self.held_out_source.as_ref();
        let mut batches = rows::evaluation_batches(&self.plan, rows, &self.encoder, &self.trainer.needs())?;
        let Some(mut first) = batches.next_step()? else { return Ok(()) };
        self.tell_prompts_apart(&mut first)?;
        let report = self.trainer.evaluate(first.into_iter().map(Ok::<_, Error>))?;
        self.plan.watch.measured(&report).map(|_| ())
    }

    /// Keeps other runs out of the output directory.
    fn hold(&mut self) -> Result<()> {
        self.held = Some(checkpoint::hold_directory(&self.plan.output.dir)?);
        Ok(())
    }

    fn epoch(&self) -> f64 {
        match self.plan.train.length {
            Length::Epochs(epochs) => self.trainer.steps_done() as f64 * epochs as f64 / self.total_steps.max(1) as f64,
            Length::Steps(_) => self.place.cursor.epoch as f64,
        }
    }

    fn evaluate(&mut self) -> Result<EvalReport> {
        let rows = self.held_out_source.as_ref();
        let mut batches = rows::evaluation_batches(&self.plan, rows, &self.encoder, &self.trainer.needs())?;
        let rejected = self.rejected.length();
        if self.place.evaluated.is_none() {
            batches.hold_rejections();
        }
        let (mut texts, mut scores) = (self.held_out_log.texts(&self.encoder), Vec::new());
        let each = rows::flatten(&mut batches).inspect(|batch| batch.iter().for_each(|batch| texts.add(batch)));
        let report = match self.udm {
            None => self.trainer.evaluate_each(each, |batch| scores.push(batch)),
            // An objective that reads probabilities of prompts is one that is evaluated over all rows at once.
            Some(_) => each.collect::<Result<Vec<_>, _>>().map_err(Error::from).and_then(|mut all| {
                self.tell_prompts_apart(&mut all)?;
                self.trainer.evaluate_each(all.into_iter().map(Ok::<_, Error>), |batch| scores.push(batch))
            }),
        };
        self.rejected.append(&batches.take_rejections())?;
        if matches!(report, Err(Error::Interrupted)) {
            self.rejected.truncate(rejected)?;
        }
        let report = report?;
        self.held_out = Some(batches.report().clone());
        self.trainer.follow(&report);
        self.place.evaluated = Some(report.step);
        // It tells log-probabilities, and a score model has none.
        if !self.trainer.needs().outputs.values {
            self.held_out_log.write(texts, &scores, &report)?;
        }
        self.log.evaluation(&report)?;
        let noticed = self.place.watched.evaluation(&self.plan.watch, &report)?;
        self.note(report.step, true, noticed)?;
        Ok(report)
    }

    /// Gives every row the probability that its prompt is one of a desirable completion, where that is computed.
    fn tell_prompts_apart(&mut self, batches: &mut [Batch]) -> Result<()> {
        let Some(udm) = &mut self.udm else { return Ok(()) };
        udm.fill(batches, self.trainer.policy_mut())
    }

    fn precompute(&mut self) -> Result<Event> {
        let Some(work) = &mut self.precompute else { unreachable!("advance looked") };
        let needs = self.trainer.needs();
        let next = match work.left.take() {
            Some(left) => Some(left),
            None => work.next_step(&needs, self.total_steps)?,
        };
        let done = next.is_none();
        let (policy, table) = self.trainer.policy_and_table()?;
        if let Err(error) = next.iter().flatten().try_for_each(|batch| table.add(policy, batch, &needs)) {
            work.left = next;
            return Err(error);
        }
        table.append_when_due()?;
        if done {
            table.append()?;
            self.precompute = None;
        }
        Ok(Event::Precomputed { rows: table.len(), done })
    }

    fn write_result(&mut self) -> Result<()> {
        let place = self.plan.output.dir.join(RESULT);
        if let (ResultKind::Best, Some(best)) = (self.plan.output.result, self.place.watched.best) {
            let best = checkpoint::step_directory(&checkpoints(&self.plan.output.dir), best.step);
            Checkpoint::open(&best)?.write_result(&place)?;
            self.result_written = true;
            return Ok(());
        }
        self.trainer.check_finite()?;
        checkpoint::write_directory(&place, |fresh| {
            use crate::policy::Trainable;
            self.trainer.policy().save(fresh)?;
            checkpoint::copy_into(fresh, &self.companions)
        })?;
        self.result_written = true;
        Ok(())
    }

    fn finish(&mut self) -> Summary {
        self.finished = true;
        self.held = None;
        Summary {
            steps: self.trainer.steps_done(),
            tokens: self.place.tokens,
            result: self.plan.output.dir.join(RESULT),
            rows: self.batches.report().clone(),
            held_out: self.held_out.clone(),
            watched: self.place.watched.clone(),
        }
    }

    fn write_plan(&self) -> Result<()> {
        if let Some(udm) = &self.udm {
            udm.save(&self.plan.output.dir.join(UDM))?;
        }
        let text = format!("{:#}\n", self.plan.to_json());
        checkpoint::write_file(&self.plan.output.dir.join(PLAN), |path| {
            std::fs::write(path, text).map_err(Error::io("writing", path))
        })
    }
}

impl Precompute {
    /// The rows to be scored next, those to train on and then the held-out ones.
    fn next_step(&mut self, needs: &Needs, total_steps: u64) -> Result<Option<Vec<Batch>>> {
        let more = rows::is_new(needs, self.steps, total_steps, &self.batches);
        let next = if more { self.batches.next_step()? } else { None };
        self.steps += 1;
        match (next, &mut self.evaluation) {
            (None, Some(evaluation)) => Ok(evaluation.next_step()?),
            (next, _) => Ok(next),
        }
    }
}

/// The directory of a run's checkpoints, given its output directory.
pub fn checkpoints(output: &Path) -> PathBuf {
    output.join("checkpoints")
}

/// Whether a run may start in a directory: none has saved anything there.
fn refuse_other_run(output: &Path) -> Result<()> {
    let refuse = |reason: String| Err(Error::config("output.dir", format!("{} {reason}", output.display())));
    let checkpoints = checkpoints(output);
    let found = Checkpoint::latest(&checkpoints)?;
    if found.checkpoint.is_some() {
        return refuse("holds another run; resume it, or name another directory".into());
    }
    if let Some(first) = found.damaged.first() {
        let count = found.damaged.len();
        return refuse(format!(
            "holds another run, and none of its {count} checkpoints is whole ({first}); remove {} to start anew there, or name another directory",
            checkpoints.display()
        ));
    }
    if output.join(RESULT).exists() {
        return refuse(format!("holds the result of another run in {RESULT}; name another directory"));
    }
    Ok(())
}

/// The files of a model directory that a tokenizer is read from, and the settings of generation, as far as they are there.
pub fn tokenizer_files(model: &Path) -> Vec<PathBuf> {
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
    ];
    names.iter().map(|name| model.join(name)).filter(|path| path.is_file()).collect()
}

const METRICS: &str = "metrics.jsonl";
const REJECTED: &str = "rejected.jsonl";
const PLAN: &str = "plan.json";
const UDM: &str = "udm.json";
const RESULT: &str = "final";
