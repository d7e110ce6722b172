//! How much memory a run will take, told before it begins.
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candlewick_data::{Batch, Context, Encoder};
use candlewick_losses::{Objective, ReferenceUpdate, StepWide};
use candlewick_model::{Adapter, BatchSize, ModelSize, Part, Pool, Statistics};
use serde::Serialize;

use crate::costs::{SCORED_AT_ONCE, encoder_of_answers};
use crate::error::{Error, Result};
use crate::plan::{Length, Plan, ReferencePlan, TuningPlan};
use crate::policy::statistics;
use crate::rows;
use crate::safety::SafetyPlan;
use crate::score_policy::score_heads;
use crate::trainer::moves_reference;

/// Bytes of a number: runs compute in f32.
const NUMBER: u64 = size_of::<f32>() as u64;
/// Rows that are looked at for the largest micro-batch.
const MOST_ROWS: usize = 1 << 16;
/// Bytes of a row of reference log-probabilities that were computed before: key, place and length. The numbers stay in their files.
const TABLE_ROW: u64 = 32;
/// Bytes from which freed memory goes back to the system at once whatever was freed before: glibc's largest threshold.
const GIVEN_BACK: u64 = 32 << 20;
/// Steps after which the pool no longer grows if batches stay the same.
const SETTLED: usize = 3;
/// Micro-batches, and held-out ones, of which the buffers are walked through in the order of the run.
const MOST_WALKED: usize = 512;

/// The memory of a run at its peak, in bytes, part by part.
///
/// The sizes are those of the buffers that a run makes, walked through without making them; nothing is loaded but the
/// configuration of the model, and rows to find the largest micro-batch. What the process has beside them is for the caller
/// to say ([`with_process`](Self::with_process)): the code, the tokenizer, rows that wait for their step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// The weights of the model.
    pub weights: u64,
    /// The weights of its adapter.
    pub adapter: u64,
    /// The weights of a reference of its own.
    pub reference: u64,
    /// The gradients of what is trained.
    pub gradients: u64,
    /// Those of them that are there while the head's backward runs.
    pub gradients_beside_head: u64,
    /// What the optimizer keeps of what is trained, and works in.
    pub optimizer: u64,
    /// What layers keep for their backward.
    pub kept_by_layers: u64,
    /// What the head keeps for its backward.
    pub kept_by_head: u64,
    /// What the head gives back to the system after its backward: a softmax, or an adapted weight and its gradient.
    pub head_alone: u64,
    /// Buffers that live for a part of a layer, or for a chunk of the head's logits.
    pub passing: u64,
    /// Scratch of kernels, and what factors of products are packed into.
    pub scratch: u64,
    /// Buffers that micro-batches of other sizes leave behind.
    pub of_other_sizes: u64,
    /// Activations of a reference of its own.
    pub reference_passes: u64,
    /// Reference log-probabilities held in memory.
    pub table: u64,
    /// The score models that say what answers of the policy cost: weights, and what a pass over answers takes.
    pub cost_models: u64,
    /// Keys and values of the answers that are drawn at once.
    pub answers: u64,
    /// What is copied to write a checkpoint.
    pub written: u64,
    /// The rest of the process: 0 until it is given.
    pub process: u64,
    /// What is there while weights are read: those read so far, and the file they are read from.
    pub loading: u64,
    /// The largest micro-batch.
    pub batch: BatchSize,
    /// How the largest micro-batch is known.
    pub basis: Basis,
}

/// How the largest micro-batch is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// From the rows, as the steps of the run meet them.
    Rows {
        /// The first so many steps.
        steps: u64,
        /// Whether those are all steps, or bring every row.
        all: bool,
    },
    /// From the limits of the configuration alone: no batch is larger, most are smaller.
    Limits {
        /// Why the rows do not tell.
        reason: String,
    },
}

/// What the micro-batches of a run come to.
#[derive(Debug, Default)]
struct Seen {
    training: BatchSize,
    mismatched: BatchSize,
    held_out: BatchSize,
    /// The first ones of the run, with those of completions that belong to other prompts, and of the held-out rows.
    in_order: Vec<[BatchSize; 2]>,
    held_out_in_order: Vec<BatchSize>,
    completions: u64,
}

impl MemoryPlan {
    /// Plans the memory of a run. Rows are read as the run would, up to 65,536 of them; where that fails, the limits of
    /// `data.max_length` and its kin decide.
    ///
    /// # Errors
    /// The configuration of a model or adapter cannot be read; neither rows nor limits tell how large a micro-batch can be.
    pub fn of(plan: &Plan) -> Result<Self> {
        if !plan.train.device.is_cpu() {
            let reason = format!("{}: only the memory of the cpu is planned so far", plan.train.device);
            return Err(Error::config("train.device", reason));
        }
        let (seen, basis) = match Seen::in_rows(plan) {
            Ok(found) => found,
            Err(error) => (Seen::within_limits(plan)?, Basis::Limits { reason: error.to_string() }),
        };
        let heads = score_heads(plan)?;
        let base = ModelSize::from_dir(&plan.model.path)?;
        let base_size = base.clone();
        let base = match heads {
            Some(heads) => base.with_score_heads(heads.count()),
            None => base,
        };
        let policy = match &plan.model.tuning {
            TuningPlan::Full => base,
            TuningPlan::Lora(lora) => base.with_lora(lora),
            TuningPlan::Adapter(directory) => base.with_adapter(directory)?,
        };
        let moves = moves_reference(&plan.objective);
        let reference = match &plan.reference {
            // What is trained a second time, scored by the policy's own passes.
            _ if moves || is_adapter(plan) => None,
            ReferencePlan::Frozen => Some(policy.clone()),
            ReferencePlan::Model(directory) => Some(ModelSize::from_dir(directory)?),
            _ => None,
        };
        let bytes = |elements: usize| elements as u64 * NUMBER;
        let threads = plan.train.threads.max(1);
        let weights = bytes(policy.base_elements());
        let trained = bytes(policy.trained_elements());
        let adapter = bytes(policy.adapter_elements());
        // A running mean is in f64, and a correction counts from a start.
        let moving = match plan.objective.reference_update() {
            ReferenceUpdate::Frozen => 0,
            ReferenceUpdate::Soft { .. } | ReferenceUpdate::Hard { .. } | ReferenceUpdate::Lagged { .. } => trained,
            ReferenceUpdate::Ema { .. } => 3 * trained,
            ReferenceUpdate::Bema(_) => 4 * trained,
        };
        // An adapter beside that of the policy, which no checkpoint holds.
        let beside = if is_adapter(plan) && !moves { trained } else { 0 };
        let of_reference = moving
            + beside
            + reference.as_ref().map_or(0, |size| bytes(size.base_elements() + size.adapter_elements()));
        let passes = Passes { plan, policy: &policy, reference: reference.as_ref() };
        let (pool, reference_pool) = seen.pools(passes);
        let (walked, walked_by_reference) = seen.walked(passes);
        let largest = [(seen.training, true), (seen.mismatched, false), (seen.held_out, false)];
        let packed = |size: &ModelSize, trains: bool| {
            largest.iter().map(|(batch, backward)| size.packed(*batch, *backward && trains, threads)).max().unwrap_or(0)
        };
        let of_reference_passes = reference.as_ref().map_or(0, |size| packed(size, false));
        // Gradients of a micro-batch before are there already, and so are those that an allocator does not give back.
        let accumulates = plan.train.micro_batches > 1 || plan.train.tokens.is_some() || trained < GIVEN_BACK;
        let beside_head = if accumulates { trained } else { bytes(policy.head_gradient_elements()) };
        let optimizer = plan.optimizer.memory(&policy.trained_tensors()?, NUMBER as usize) as u64;
        let written = match plan.output.background {
            // A copy of everything that a checkpoint holds waits for the disk.
            true => trained + optimizer + moving,
            // An adapter is cloned to be written.
            false => adapter,
        };
        // Each tensor becomes bytes.
        let written = written + bytes(policy.largest_trained_tensor());
        let of_costs = plan.safety.as_ref().map(|safety| OfCosts::of(plan, safety, &base_size)).transpose()?;
        let OfCosts { models: cost_models, answers } = of_costs.unwrap_or_default();
        // The score models of costs are there before.
        let mut loading = cost_models + weights + weight_files(&plan.model.path);
        if let ReferencePlan::Model(directory) = &plan.reference {
            loading = loading.max(cost_models + weights + adapter + of_reference + weight_files(directory));
        }
        Ok(Self {
            weights,
            adapter,
            reference: of_reference,
            gradients: trained,
            gradients_beside_head: beside_head,
            optimizer,
            kept_by_layers: bytes(pool.elements(Part::Layers)),
            kept_by_head: bytes(pool.elements(Part::Head)),
            head_alone: bytes(pool.elements(Part::HeadAlone)),
            passing: bytes(pool.elements(Part::Passing)),
            scratch: bytes(pool.elements(Part::Scratch) + packed(&policy, true)),
            of_other_sizes: bytes(walked.saturating_sub(pool.all_elements())),
            reference_passes: bytes(reference_pool.all_elements().max(walked_by_reference) + of_reference_passes),
            table: match &plan.reference {
                ReferencePlan::Precomputed(_) => seen.completions * TABLE_ROW,
                _ => 0,
            },
            cost_models,
            answers,
            written,
            process: 0,
            loading,
            batch: seen.training,
            basis,
        })
    }

    /// The same with what the rest of the process takes.
    #[must_use]
    pub fn with_process(self, bytes: u64) -> Self {
        Self { process: bytes, ..self }
    }

    /// The peak of the whole run.
    pub fn total(&self) -> u64 {
        let parts = self.parts().iter().map(|(_, bytes)| bytes).sum::<u64>();
        parts.max(self.process + self.loading)
    }

    /// The parts that are there at once at the peak of training, by name: while the head's backward runs, or while a checkpoint is
    /// written, when all gradients are there and what the head had is gone.
    pub fn parts(&self) -> [(&'static str, u64); 17] {
        let in_head = self.head_alone + self.gradients_beside_head > self.gradients + self.written;
        let (gradients, head_alone, written) = match in_head {
            true => (("gradients so far", self.gradients_beside_head), self.head_alone, 0),
            false => (("gradients", self.gradients), 0, self.written),
        };
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("weights of the reference", self.reference),
            gradients,
            ("state of the optimizer", self.optimizer),
            ("kept by layers", self.kept_by_layers),
            ("kept by the head", self.kept_by_head),
            ("of the head alone", head_alone),
            ("passing buffers", self.passing),
            ("scratch of kernels", self.scratch),
            ("buffers of other sizes", self.of_other_sizes),
            ("passes of the reference", self.reference_passes),
            ("reference log-probabilities", self.table),
            ("score models of costs", self.cost_models),
            ("answers that are drawn", self.answers),
            ("to write a checkpoint", written),
            ("process", self.process),
        ]
    }
}

impl fmt::Display for MemoryPlan {
    /// A line for what the plan rests on, one for each part, and the total, in MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchSize { tokens, targets, longest } = self.batch;
        let sizes = format!("{tokens} tokens, {targets} of them scored, {longest} in a row");
        match &self.basis {
            Basis::Rows { steps, all: true } => {
                writeln!(f, "memory with the largest micro-batch of all rows ({sizes}; {steps} steps):")?
            }
            Basis::Rows { steps, all: false } => {
                writeln!(f, "memory with the largest micro-batch of the first {steps} steps ({sizes}):")?;
            }
            Basis::Limits { reason } => {
                writeln!(
                    f,
                    "memory with the largest micro-batch that the limits allow ({sizes}), since the rows do not tell: {reason}"
                )?;
            }
        }
        let line = |f: &mut fmt::Formatter<'_>, name: &str, bytes: u64| {
            writeln!(f, "{name:<28}{:>10.1} MiB", bytes as f64 / f64::from(1 << 20))
        };
        for (name, bytes) in self.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
            line(f, name, bytes)?;
        }
        if self.total() == self.process + self.loading {
            line(f, "while weights are read", self.loading)?;
        }
        line(f, "total at the peak", self.total())
    }
}

/// What `[safety]` takes, in bytes.
#[derive(Debug, Default)]
struct OfCosts {
    models: u64,
    answers: u64,
}

impl OfCosts {
    fn of(plan: &Plan, safety: &SafetyPlan, policy: &ModelSize) -> Result<Self> {
        let encoder = encoder_of_answers(plan)?;
        let mut longest = 0;
        for prompt in &safety.read_prompts()?.1 {
            longest = longest.max(prompt.ids(&encoder)?.len());
        }
        let longest = longest + safety.max_new_tokens;
        let threads = plan.train.threads.max(1);
        // An answer is scored in tokens of another tokenizer, of which there are taken to be as many.
        let at_once = safety.completions.min(SCORED_AT_ONCE);
        let batch = BatchSize { tokens: at_once * longest, targets: at_once * safety.max_new_tokens, longest };
        let mut elements = 0;
        for model in safety.models() {
            let size = ModelSize::from_dir(model)?;
            let mut pool = Pool::default();
            size.score(batch, Statistics::default(), Adapter::On, threads, &mut pool);
            elements += size.base_elements() + pool.all_elements() + size.packed(batch, false, threads);
        }
        let at_once = threads.min(safety.prompts_per_round);
        let cache = policy.cached_per_token() * longest;
        Ok(Self { models: elements as u64 * NUMBER, answers: (at_once * cache) as u64 * NUMBER })
    }
}

impl Seen {
    /// Meets the rows of the run, up to [`MOST_ROWS`].
    fn in_rows(plan: &Plan) -> Result<(Self, Basis)> {
        let needs = plan.objective.needs();
        let encoder = Arc::new(Encoder::from_dir(&plan.model.path, plan.encode_options())?);
        let (source, held_out) = plan.open_for_run()?;
        let mut batches = rows::training_batches(plan, &source, &encoder, &needs)?;
        let total = match plan.train.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => u64::MAX,
        };
        let (mut seen, mut steps, mut met) = (Self::default(), 0, 0);
        let mut all = true;
        while rows::is_new(&needs, steps, total, &batches)
            && let Some(step) = batches.next_step()?
        {
            step.iter().for_each(|batch| seen.add(batch));
            steps += 1;
            met += step.iter().map(|batch| batch.examples.len()).sum::<usize>();
            if met >= MOST_ROWS {
                all = !rows::is_new(&needs, steps, total, &batches);
                break;
            }
        }
        if held_out.is_some() {
            let mut batches = rows::evaluation_batches(plan, held_out.as_ref(), &encoder, &needs)?;
            let mut met = 0;
            for batch in rows::flatten(&mut batches) {
                let batch = batch?;
                met += batch.examples.len();
                let contexts = batch.examples.iter().flat_map(|example| &example.contexts);
                for size in [size(contexts), size(&batch.mismatched)] {
                    seen.held_out = seen.held_out.or(size);
                    if size.tokens > 0 && seen.held_out_in_order.len() < MOST_WALKED {
                        seen.held_out_in_order.push(size);
                    }
                }
                if met >= MOST_ROWS {
                    break;
                }
            }
        }
        Ok((seen, Basis::Rows { steps, all }))
    }

    fn add(&mut self, batch: &Batch) {
        let contexts = || batch.examples.iter().flat_map(|example| &example.contexts);
        let size_of_batch = size(contexts());
        self.training = self.training.or(size_of_batch);
        let mismatched = size(&batch.mismatched);
        self.mismatched = self.mismatched.or(mismatched);
        if self.in_order.len() < MOST_WALKED {
            self.in_order.push([size_of_batch, mismatched]);
        }
        self.completions += contexts().map(|context| context.completions.len() as u64).sum::<u64>();
    }

    /// The largest batch of pairs, or of single completions, that the limits allow.
    fn within_limits(plan: &Plan) -> Result<Self> {
        let data = &plan.data;
        let least = |limits: [Option<usize>; 2]| limits.into_iter().flatten().min();
        let no_limit =
            || Error::config("data.max_length", "0, and the rows cannot be read: nothing limits a micro-batch");
        let completion = least([data.max_length, data.max_completion_length]).ok_or_else(no_limit)?;
        let prompt = match (data.max_length, data.max_prompt_length) {
            (None, None) => return Err(no_limit()),
            (None, Some(prompt)) => prompt,
            (Some(whole), prompt) => (whole - completion).min(prompt.unwrap_or(usize::MAX)),
        };
        let rows = plan.objective.needs().rows;
        let completions = if rows.pairs || rows.ranked || rows.judged { 2 } else { 1 };
        let examples = plan.train.batch_size;
        let of_one = prompt.saturating_add(completions * completion);
        let tokens = match plan.train.tokens {
            Some(budget) => budget.max(of_one),
            None => examples.saturating_mul(of_one),
        };
        let targets = (examples * completions).saturating_mul(completion).min(tokens);
        let training = BatchSize { tokens, targets, longest: prompt + completion };
        let mismatched = match plan.objective.needs().step_wide {
            StepWide::Mismatched => training,
            _ => BatchSize::default(),
        };
        let held_out = match &plan.evaluation {
            Some(evaluation) => {
                let rows = evaluation.batch_size;
                BatchSize {
                    tokens: rows.saturating_mul(of_one),
                    targets: rows.saturating_mul(completions * completion),
                    ..training
                }
            }
            None => BatchSize::default(),
        };
        Ok(Self { training, mismatched, held_out, ..Self::default() })
    }

    /// The pools of the policy and of a reference of its own, after some steps and evaluations of the largest sizes.
    fn pools(&self, passes: Passes<'_>) -> (Pool, Pool) {
        let (mut pool, mut of_reference) = (Pool::default(), Pool::default());
        for _ in 0..SETTLED {
            passes.train([self.training, self.mismatched], &mut pool, &mut of_reference);
            passes.score(self.held_out, &mut pool, &mut of_reference);
        }
        (pool, of_reference)
    }

    /// The most elements of the same two pools when micro-batches come in the order of the run, the largest last.
    fn walked(&self, passes: Passes<'_>) -> (usize, usize) {
        let (mut pool, mut of_reference) = (Pool::default(), Pool::default());
        let score_all = |pool: &mut Pool, of_reference: &mut Pool| {
            self.held_out_in_order.iter().for_each(|size| passes.score(*size, pool, of_reference));
        };
        score_all(&mut pool, &mut of_reference);
        for sizes in &self.in_order {
            passes.train(*sizes, &mut pool, &mut of_reference);
        }
        score_all(&mut pool, &mut of_reference);
        passes.train([self.training, self.mismatched], &mut pool, &mut of_reference);
        (pool.most_elements(), of_reference.most_elements())
    }
}

/// The passes of a run.
#[derive(Clone, Copy)]
struct Passes<'a> {
    plan: &'a Plan,
    policy: &'a ModelSize,
    reference: Option<&'a ModelSize>,
}

impl Passes<'_> {
    fn want(&self) -> Statistics {
        statistics(self.plan.objective.needs().outputs)
    }

    /// A micro-batch, and the completions of it that belong to other prompts.
    fn train(&self, [batch, mismatched]: [BatchSize; 2], pool: &mut Pool, of_reference: &mut Pool) {
        let train = &self.plan.train;
        // A micro-batch that is a step by itself is scored once.
        let alone = train.micro_batches == 1 && train.tokens.is_none();
        let scored_before = self.plan.objective.needs().step_wide == StepWide::AllRows && !alone;
        let makes_table = matches!(&self.plan.reference, ReferencePlan::Precomputed(path) if !path.exists());
        let threads = train.threads.max(1);
        if makes_table || scored_before {
            self.policy.score(batch, self.want(), Adapter::On, threads, pool);
        }
        self.score(mismatched, pool, of_reference);
        self.score_by_reference(batch, pool, of_reference);
        self.policy.train(batch, self.want(), train.recompute, threads, pool);
    }

    /// A batch that nothing is learned from.
    fn score(&self, batch: BatchSize, pool: &mut Pool, of_reference: &mut Pool) {
        if batch.tokens > 0 {
            self.policy.score(batch, self.want(), Adapter::On, self.plan.train.threads.max(1), pool);
            self.score_by_reference(batch, pool, of_reference);
        }
    }

    fn score_by_reference(&self, batch: BatchSize, pool: &mut Pool, of_reference: &mut Pool) {
        let threads = self.plan.train.threads.max(1);
        match (self.reference, &self.plan.reference) {
            _ if moves_reference(&self.plan.objective) || is_adapter(self.plan) => {
                self.policy.score(batch, self.want(), Adapter::On, threads, pool);
            }
            (Some(reference), _) => reference.score(batch, self.want(), Adapter::On, threads, of_reference),
            (None, ReferencePlan::AdapterOff) => {
                self.policy.score(batch, self.want(), Adapter::Off, threads, pool);
            }
            _ => {}
        }
    }
}

/// Whether the reference is an adapter beside that of the policy, on one base.
fn is_adapter(plan: &Plan) -> bool {
    match plan.reference {
        ReferencePlan::Adapter(_) => true,
        ReferencePlan::Frozen => plan.model.tuning != TuningPlan::Full,
        _ => false,
    }
}

/// What contexts come to when they are packed.
fn size<'a>(contexts: impl IntoIterator<Item = &'a Context>) -> BatchSize {
    let mut size = BatchSize::default();
    for context in contexts {
        let longest = context.completions.iter().map(|completion| completion.ids.len()).max().unwrap_or(0);
        size.tokens += context.prompt.len() + context.completions.iter().map(|one| one.ids.len()).sum::<usize>();
        let of_prompt = context.prompt_scored.iter().filter(|scored| **scored).count();
        size.targets += context.completions.iter().map(|one| of_prompt + one.scored_tokens()).sum::<usize>();
        size.longest = size.longest.max(context.prompt.len() + longest);
    }
    size
}

/// Bytes of the weight files of a directory: they are mapped while they are read.
fn weight_files(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let is_weights = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    let weights = entries.flatten().filter(|entry| is_weights(&entry.path()));
    weights.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
}
