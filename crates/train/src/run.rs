//! A whole run from its plan, advanced by its caller one event at a time.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_data::{
    BatchOptions, Batches, Cursor, EncodeOptions, Encoder, LastStep, Order, Report, Source, SourceOptions,
};
use candlewick_losses::{Needs, Objective, Outputs, StepWide};
use candlewick_model::CausalLm;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::error::{Error, Result};
use crate::log::MetricsLog;
use crate::plan::{DataPlan, Length, Plan, ReferencePlan, TuningPlan};
use crate::policy::{CausalPolicy, FrozenPolicy, weights_digest};
use crate::reference::{PrecomputedReference, Reference};
use crate::trainer::{EvalReport, StepReport, Trainer, TrainerOptions};

/// A run in f32. Nothing happens between calls of [`advance`](Self::advance).
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    encoder: Arc<Encoder>,
    batches: Batches,
    trainer: Trainer<CausalPolicy<f32>>,
    /// Rows still to be scored by the reference, with what is scored so far.
    precompute: Option<Precompute>,
    log: MetricsLog,
    total_steps: u64,
    place: Place,
    saved: Option<u64>,
    finished: bool,
    companions: Vec<PathBuf>,
}

/// What a checkpoint remembers beside the trainer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bookmark {
    plan: serde_json::Value,
    place: Place,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Where the next step begins in the data.
    pub cursor: Cursor,
    /// Tokens trained on, unpadded and unshared.
    pub tokens: u64,
    /// The step of the last evaluation.
    pub evaluated: Option<u64>,
}

/// What a call of [`Run::advance`] did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Rows were scored by the reference before the first step.
    Precomputed {
        /// Distinct completions scored so far.
        rows: usize,
        /// Whether these were the last.
        done: bool,
    },
    /// An optimizer step.
    Step(StepReport),
    /// An evaluation on the held-out rows.
    Evaluated(EvalReport),
    /// A checkpoint was written here.
    Saved(PathBuf),
    /// The last step is done and the result written.
    Finished(Summary),
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
}

#[derive(Debug)]
struct Precompute {
    batches: Batches,
    /// Steps whose rows are still to be scored.
    steps: u64,
    evaluation: Option<Batches>,
    table: PrecomputedReference,
}

impl Run {
    /// Loads everything a plan names and writes `plan.json`.
    ///
    /// # Errors
    /// Files that are missing or do not fit together; an output directory that holds another run.
    pub fn start(plan: Plan) -> Result<Self> {
        let output = &plan.output.dir;
        let found = Checkpoint::latest(&checkpoints(output))?;
        if found.checkpoint.is_some() || !found.damaged.is_empty() || output.join(METRICS).exists() {
            return Err(Error::config(
                "output.dir",
                format!("{} holds another run; resume it, or name another directory", output.display()),
            ));
        }
        let run = Self::build(plan)?;
        std::fs::create_dir_all(&run.plan.output.dir).map_err(Error::io("creating", &run.plan.output.dir))?;
        run.write_plan()?;
        Ok(run)
    }

    /// Goes on from a checkpoint, to the same bits as if the run had not been interrupted.
    ///
    /// # Errors
    /// As [`start`](Self::start); a checkpoint of another plan or of other starting weights; a damaged one.
    pub fn resume(plan: Plan, checkpoint: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(checkpoint)?;
        let bookmark: Bookmark = serde_json::from_value(checkpoint.state.bookmark.clone())
            .map_err(|e| Error::checkpoint(&checkpoint.path, format!("it was not written by a run of a plan ({e})")))?;
        plan.check_resumes(&bookmark.plan, checkpoint.state.step)?;
        let mut run = Self::build(plan)?;
        if let (Some(_), ReferencePlan::Precomputed(path)) = (&run.precompute, &run.plan.reference) {
            let reason = "the file is gone, and it can be made before the first step only; put it back, or start anew"
                .to_owned();
            return Err(Error::Reference { path: path.clone(), reason });
        }
        run.trainer.restore(&checkpoint)?;
        run.place = bookmark.place;
        run.saved = Some(checkpoint.state.step);
        run.batches.resume(bookmark.place.cursor)?;
        run.log.truncate(checkpoint.state.step, bookmark.place.evaluated)?;
        run.write_plan()?;
        Ok(run)
    }

    fn build(plan: Plan) -> Result<Self> {
        let encoder = Arc::new(Encoder::from_dir(&plan.model.path, encode_options(&plan.data))?);
        let mut model = CausalLm::<f32>::load(&plan.model.path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        let threads = plan.train.threads.max(1);
        // The digest a table of reference log-probabilities belongs to; a fresh adapter changes no output.
        let mut reference_digest = String::new();
        match &plan.model.tuning {
            TuningPlan::Full => {}
            TuningPlan::Lora(lora) => {
                reference_digest = weights_digest(&model);
                model.add_lora(lora, plan.train.seed)?;
            }
            TuningPlan::Adapter(directory) => model.load_adapter(directory)?,
        }
        if reference_digest.is_empty() && matches!(plan.reference, ReferencePlan::Precomputed(_)) {
            reference_digest = weights_digest(&model);
        }
        let needs = plan.objective.needs();
        let batches = training_batches(&plan, &encoder, &needs)?;
        let total_steps = total_steps(&plan, &encoder, &needs)?;
        let mut precompute = None;
        let mut starts_at_reference = true;
        let reference = match &plan.reference {
            ReferencePlan::None => Reference::None,
            ReferencePlan::Frozen => Reference::Frozen(Box::new(FrozenPolicy::new(model.frozen_copy(), threads))),
            ReferencePlan::Model(directory) => {
                starts_at_reference = false;
                let other = CausalLm::<f32>::load(directory)?;
                encoder.check_vocabulary(other.config().vocab_size)?;
                Reference::Frozen(Box::new(FrozenPolicy::new(other, threads)))
            }
            ReferencePlan::AdapterOff => {
                // A trained adapter differs from the base on purpose.
                starts_at_reference = matches!(plan.model.tuning, TuningPlan::Lora(_));
                Reference::AdapterOff
            }
            ReferencePlan::Precomputed(path) if path.exists() => {
                Reference::Precomputed(PrecomputedReference::load(path, &reference_digest)?)
            }
            ReferencePlan::Precomputed(path) => {
                let table = PrecomputedReference::new(reference_digest, path);
                let evaluation =
                    plan.evaluation.is_some().then(|| evaluation_batches(&plan, &encoder, &needs)).transpose()?;
                precompute = Some(Precompute {
                    batches: training_batches(&plan, &encoder, &needs)?,
                    steps: total_steps,
                    evaluation,
                    table: table.clone(),
                });
                Reference::Precomputed(table)
            }
        };
        let options = TrainerOptions {
            optimizer: plan.optimizer,
            max_grad_norm: plan.max_grad_norm,
            schedule: plan.schedule,
            total_steps,
            starts_at_reference,
            monitor: Outputs { entropy: true, is_top1: true, ..Outputs::NONE },
        };
        let companions = tokenizer_files(&plan.model.path);
        let policy =
            CausalPolicy::new(model, plan.train.recompute, threads).with_base_name(plan.model.path.to_string_lossy());
        let trainer = Trainer::new(policy, reference, Box::new(plan.objective.clone()), options)?;
        let log = MetricsLog::new(plan.output.dir.join(METRICS));
        let place = Place::default();
        Ok(Self {
            plan,
            encoder,
            batches,
            trainer,
            precompute,
            log,
            total_steps,
            place,
            saved: None,
            finished: false,
            companions,
        })
    }

    /// Does the next thing: scores rows by the reference, steps, evaluates, saves, or finishes. After [`Event::Finished`] it
    /// returns `None`.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] and of the file system. Checkpoints written before stay whole.
    pub fn advance(&mut self) -> Result<Option<Event>> {
        if self.finished {
            return Ok(None);
        }
        if self.precompute.is_some() {
            return self.precompute().map(Some);
        }
        let step = self.trainer.steps_done();
        let done = step >= self.total_steps;
        let every = |interval: u64| interval > 0 && step.is_multiple_of(interval);
        if let Some(evaluation) = &self.plan.evaluation
            && self.place.evaluated != Some(step)
            && if step == 0 { evaluation.at_start } else { done || every(evaluation.every) }
        {
            return self.evaluate().map(|report| Some(Event::Evaluated(report)));
        }
        if step > 0 && self.saved != Some(step) && (done || every(self.plan.output.save_every)) {
            return self.save_now().map(|path| Some(Event::Saved(path)));
        }
        if done {
            return self.finish().map(|summary| Some(Event::Finished(summary)));
        }
        self.step().map(|report| Some(Event::Step(report)))
    }

    /// Writes a checkpoint now, whatever the plan says, and removes those beyond `output.keep`.
    ///
    /// # Errors
    /// The file system; checkpoints written before stay whole.
    pub fn save_now(&mut self) -> Result<PathBuf> {
        let step = self.trainer.steps_done();
        let directory = checkpoint::step_directory(&checkpoints(&self.plan.output.dir), step);
        let bookmark = Bookmark { plan: self.plan.to_json(), place: self.place };
        let bookmark = serde_json::to_value(bookmark).map_err(|e| Error::checkpoint(&directory, e.to_string()))?;
        self.log.sync()?;
        self.trainer.save(&directory, &bookmark, &self.companions)?;
        self.saved = Some(step);
        checkpoint::prune(&checkpoints(&self.plan.output.dir), self.plan.output.keep)?;
        Ok(directory)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<CausalPolicy<f32>> {
        &self.trainer
    }

    /// The trainer, as for sampling from its policy between events.
    pub fn trainer_mut(&mut self) -> &mut Trainer<CausalPolicy<f32>> {
        &mut self.trainer
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// How far the run has come.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What became of the training rows met so far.
    pub fn rows(&self) -> &Report {
        self.batches.report()
    }

    fn step(&mut self) -> Result<StepReport> {
        let Some(batches) = self.batches.next_step()? else {
            let (done, total) = (self.trainer.steps_done(), self.total_steps);
            return Err(Error::Mismatch(format!(
                "the rows ended after step {done} of {total}; did the data file change?"
            )));
        };
        let report = self.trainer.step(&batches)?;
        self.place.cursor = self.batches.cursor();
        self.place.tokens += report.tokens;
        self.log.step(&report, &self.place)?;
        Ok(report)
    }

    fn evaluate(&mut self) -> Result<EvalReport> {
        let batches = evaluation_batches(&self.plan, &self.encoder, &self.trainer.needs())?;
        let report = self.trainer.evaluate(flatten(batches))?;
        self.place.evaluated = Some(report.step);
        self.log.evaluation(&report)?;
        Ok(report)
    }

    fn precompute(&mut self) -> Result<Event> {
        let Some(work) = &mut self.precompute else { unreachable!("advance looked") };
        let needs = self.trainer.needs();
        // Rows come back every epoch, so that one is enough; mismatched ones are paired anew at every step.
        let more = match needs.step_wide {
            StepWide::Mismatched => work.steps > 0,
            _ => work.batches.cursor().epoch == 0,
        };
        let next = if more { work.batches.next_step()? } else { None };
        work.steps = work.steps.saturating_sub(1);
        let next = match (next, &mut work.evaluation) {
            (None, Some(evaluation)) => evaluation.next_step()?,
            (next, _) => next,
        };
        let done = next.is_none();
        for batch in next.iter().flatten() {
            work.table.add(self.trainer.policy_mut(), batch, &needs)?;
        }
        let rows = work.table.len();
        if let (true, Some(work)) = (done, self.precompute.take_if(|_| done)) {
            work.table.save()?;
            self.trainer.set_reference(Reference::Precomputed(work.table));
        }
        Ok(Event::Precomputed { rows, done })
    }

    fn finish(&mut self) -> Result<Summary> {
        let result = self.plan.output.dir.join(RESULT);
        checkpoint::write_directory(&result, |fresh| {
            use crate::policy::Trainable;
            self.trainer.policy().save(fresh)?;
            checkpoint::copy_into(fresh, &self.companions)
        })?;
        self.finished = true;
        let rows = self.batches.report().clone();
        Ok(Summary { steps: self.trainer.steps_done(), tokens: self.place.tokens, result, rows })
    }

    fn write_plan(&self) -> Result<()> {
        let text = format!("{:#}\n", self.plan.to_json());
        checkpoint::write_file(&self.plan.output.dir.join(PLAN), |path| {
            std::fs::write(path, text).map_err(Error::io("writing", path))
        })
    }
}

/// The directory of a run's checkpoints, given its output directory.
pub fn checkpoints(output: &Path) -> PathBuf {
    output.join("checkpoints")
}

fn encode_options(data: &DataPlan) -> EncodeOptions {
    EncodeOptions {
        max_length: data.max_length,
        boundary: data.boundary,
        truncation: data.truncation,
        end_of_sequence: data.end_of_sequence,
    }
}

fn source(data: &DataPlan, path: &Path, rows: candlewick_data::RowRange) -> Result<Source> {
    let options =
        SourceOptions { path: path.into(), form: data.form, rows, columns: data.columns.clone(), strict: data.strict };
    Ok(Source::open(&options)?)
}

fn training_batches(plan: &Plan, encoder: &Arc<Encoder>, needs: &Needs) -> Result<Batches> {
    let mismatched = needs.step_wide == StepWide::Mismatched;
    let options = BatchOptions {
        examples: plan.train.batch_size,
        micro_batches: plan.train.micro_batches,
        order: plan.train.order,
        epochs: match plan.train.length {
            Length::Steps(_) => None,
            Length::Epochs(epochs) => Some(epochs),
        },
        last_step: last_step(mismatched),
        mismatched,
    };
    Ok(Batches::new(source(&plan.data, &plan.data.path, plan.data.rows)?, encoder.clone(), options)?)
}

/// A step of one row has no other to mismatch it with.
fn last_step(mismatched: bool) -> LastStep {
    if mismatched { LastStep::Drop } else { LastStep::Keep }
}

fn evaluation_batches(plan: &Plan, encoder: &Arc<Encoder>, needs: &Needs) -> Result<Batches> {
    let Some(evaluation) = &plan.evaluation else {
        return Err(Error::Mismatch("the plan has no held-out rows; give an [evaluation] section".into()));
    };
    let mismatched = needs.step_wide == StepWide::Mismatched;
    let options = BatchOptions {
        examples: evaluation.batch_size,
        // Mismatched completions come from all held-out rows, so that batching changes nothing.
        micro_batches: if mismatched { usize::MAX } else { 1 },
        order: Order::File,
        epochs: Some(1),
        last_step: LastStep::Keep,
        mismatched,
    };
    Ok(Batches::new(source(&plan.data, &evaluation.path, evaluation.rows)?, encoder.clone(), options)?)
}

fn flatten(batches: Batches) -> impl Iterator<Item = Result<candlewick_data::Batch, candlewick_data::Error>> {
    batches.flat_map(|step| match step {
        Ok(batches) => batches.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(e) => vec![Err(e)],
    })
}

/// Optimizer steps of the run; for epochs the usable rows are counted in one pass.
fn total_steps(plan: &Plan, encoder: &Arc<Encoder>, needs: &Needs) -> Result<u64> {
    let epochs = match plan.train.length {
        Length::Steps(steps) => return Ok(steps),
        Length::Epochs(epochs) => epochs,
    };
    let mut rows = candlewick_data::Stream::new(
        source(&plan.data, &plan.data.path, plan.data.rows)?,
        encoder.clone(),
        Order::File,
    )?;
    let mut kept = 0u64;
    while rows.next_example()?.is_some() {
        kept += 1;
    }
    let step = plan.train.batch_size as u64 * plan.train.micro_batches as u64;
    let steps = match last_step(needs.step_wide == StepWide::Mismatched) {
        LastStep::Keep => kept.div_ceil(step),
        LastStep::Drop => kept / step,
    };
    if steps == 0 {
        return Err(Error::Rows {
            place: plan.data.path.display().to_string(),
            reason: format!("no full step in it: {}", rows.report().summary()),
        });
    }
    Ok(steps * epochs)
}

/// The files a tokenizer is read from.
fn tokenizer_files(model: &Path) -> Vec<PathBuf> {
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
const PLAN: &str = "plan.json";
const RESULT: &str = "final";
