//! How much memory a run will take, told before it begins.
mod advice;
mod budget;
mod device;
mod walk;

use std::fmt;
use std::path::Path;

use candlewick_losses::{Objective, ReferenceUpdate};
use candlewick_model::{Adapter, BatchSize, ModelSize, Part, Pool, Statistics};
use serde::Serialize;

pub(crate) use self::advice::WayOn;
pub use self::budget::TokenChoice;
pub use self::device::DeviceMemory;
use self::walk::{Passes, Seen};

use crate::budget::TokenBudget;
use crate::costs::SCORED_AT_ONCE;
use crate::error::Result;
use crate::plan::{Plan, ReferencePlan, TuningPlan};
use crate::safety::SafetyPlan;
use crate::score_policy::score_heads;
use crate::trainer::moves_reference;

/// Bytes of a number on the host, and of what is trained anywhere: f32.
const NUMBER: u64 = size_of::<f32>() as u64;
/// Bytes of a row of reference log-probabilities that were computed before: key, place and length. The numbers stay in their files.
const TABLE_ROW: u64 = 32;
/// Bytes from which freed memory goes back to the system at once whatever was freed before: glibc's largest threshold.
const GIVEN_BACK: u64 = 32 << 20;

/// The memory of a run at its peak, in bytes, part by part: of the host, and where the run is on a device, of the device
/// ([`device`](Self::device)).
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
    /// The memory of the device, where the run is on one: what is said beside it is the memory of the host then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceMemory>,
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

impl MemoryPlan {
    /// Plans the memory of a run. Rows are read as the run would, up to 65,536 of them; where that fails, the limits of
    /// `data.max_length` and its kin decide. Where `train.tokens` is `"auto"` and not decided, micro-batches are the
    /// least there can be.
    ///
    /// # Errors
    /// The configuration of a model or adapter cannot be read; neither rows nor limits tell how large a micro-batch can be.
    pub fn of(plan: &Plan) -> Result<Self> {
        let (seen, basis) = Seen::of(plan)?;
        match plan.train.tokens {
            Some(TokenBudget::Auto) => Self::of_batches(plan, &seen.with_budget(0), basis),
            _ => Self::of_batches(plan, &seen, basis),
        }
    }

    /// In words, the memory of a run for which a device with `available` bytes had none left when `wanted` more were asked for, and the
    /// smallest change that fits; and how a run that has `begun` goes on with it.
    pub(crate) fn of_shortage(plan: &Plan, available: u64, wanted: u64, begun: bool) -> Result<(String, WayOn)> {
        let (seen, basis) = Seen::of(plan)?;
        let (seen, _) = seen.or_limits(plan, &basis);
        let memory = Self::of_batches(plan, &seen, basis)?;
        let Some(device) = &memory.device else { return Ok((String::new(), WayOn::None)) };
        // Where the plan fits, memory is in pieces: then what is changed has to give back as much as was asked for.
        let less = device.total().saturating_sub(wanted.max(device.total() / 16));
        let most = budget::room(available).min(less);
        let (advice, way) = advice::of(plan, &seen, device.total(), most, begun)?;
        let words = format!("the run is planned to take {} of {}; {advice}", device.in_a_line(), readable(available));
        Ok((words, way))
    }

    /// Plans the memory of a run of these micro-batches.
    fn of_batches(plan: &Plan, seen: &Seen, basis: Basis) -> Result<Self> {
        let models = Models::of(plan)?;
        match plan.train.device.is_cpu() {
            true => Self::of_host(plan, &models, seen, basis),
            false => Self::beside_device(plan, &models, seen, basis),
        }
    }

    /// Of a run on the host.
    fn of_host(plan: &Plan, models: &Models, seen: &Seen, basis: Basis) -> Result<Self> {
        let Models { policy, reference, base } = models;
        let bytes = |elements: usize| elements as u64 * NUMBER;
        let threads = plan.train.threads.max(1);
        let weights = bytes(policy.base_elements());
        let trained = bytes(policy.trained_elements());
        let adapter = bytes(policy.adapter_elements());
        let moving = moving(plan, trained);
        let of_reference = moving
            + beside(plan, trained)
            + reference.as_ref().map_or(0, |size| bytes(size.base_elements() + size.adapter_elements()));
        let passes = Passes { plan, policy, reference: reference.as_ref() };
        let pool = seen.settled(passes);
        let most = pool.most_elements().max(seen.walked(passes).most_elements());
        let largest = [(seen.training, true), (seen.mismatched, false), (seen.held_out, false)];
        let packed = |size: &ModelSize, trains: bool| {
            largest.iter().map(|(batch, backward)| size.packed(*batch, *backward && trains, threads)).max().unwrap_or(0)
        };
        let packed = packed(policy, true).max(reference.as_ref().map_or(0, |size| packed(size, false)));
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
        let of_costs =
            plan.safety.as_ref().map(|safety| OfCosts::of(plan, safety, base, seen.longest_answer)).transpose()?;
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
            scratch: bytes(pool.elements(Part::Scratch) + packed),
            of_other_sizes: bytes(most.saturating_sub(pool.all_elements())),
            table: table(plan, seen),
            cost_models,
            answers,
            written,
            process: 0,
            loading,
            batch: seen.training,
            basis,
            device: None,
        })
    }

    /// Of a run on a device: that of the host is what it takes to begin, and to write a checkpoint.
    fn beside_device(plan: &Plan, models: &Models, seen: &Seen, basis: Basis) -> Result<Self> {
        let bytes = |elements: usize| elements as u64 * NUMBER;
        let (weights, adapter) = (bytes(models.policy.base_elements()), bytes(models.policy.adapter_elements()));
        let trained = bytes(models.policy.trained_elements());
        let optimizer = plan.optimizer.memory(&models.policy.trained_tensors()?, NUMBER as usize) as u64;
        let moving = moving(plan, trained);
        let written = match plan.output.background {
            // What was read from the device becomes bytes, which wait for the disk with a copy of what is trained.
            true => (2 * (optimizer + moving)).max(optimizer + moving + trained),
            false => trained.max(optimizer + moving),
        };
        // Copies of weights go to the device from the host, and what is trained comes back to be told from others.
        let models_at_once = match &models.reference {
            Some(other) if matches!(plan.reference, ReferencePlan::Model(_)) => bytes(other.base_elements()),
            _ => 0,
        };
        let adapters = adapter + moving + beside(plan, trained);
        let files = plan.reference.directory().map_or(0, weight_files).max(weight_files(&plan.model.path));
        let told = weights + adapter;
        let of_costs = plan.safety.as_ref();
        let of_costs =
            of_costs.map(|safety| OfCosts::of(plan, safety, &models.base, seen.longest_answer)).transpose()?;
        let OfCosts { models: cost_models, .. } = of_costs.unwrap_or_default();
        Ok(Self {
            cost_models,
            table: table(plan, seen),
            written: written + bytes(models.policy.largest_trained_tensor()),
            loading: cost_models + (weights + models_at_once + adapters + files).max(told),
            device: Some(DeviceMemory::of(plan, models, seen)?),
            ..Self::nothing(seen.training, basis)
        })
    }

    fn nothing(batch: BatchSize, basis: Basis) -> Self {
        Self {
            weights: 0,
            adapter: 0,
            reference: 0,
            gradients: 0,
            gradients_beside_head: 0,
            optimizer: 0,
            kept_by_layers: 0,
            kept_by_head: 0,
            head_alone: 0,
            passing: 0,
            scratch: 0,
            of_other_sizes: 0,
            table: 0,
            cost_models: 0,
            answers: 0,
            written: 0,
            process: 0,
            loading: 0,
            batch,
            basis,
            device: None,
        }
    }

    /// The same with what the rest of the process takes.
    #[must_use]
    pub fn with_process(self, bytes: u64) -> Self {
        Self { process: bytes, ..self }
    }

    /// The peak of the whole run on the host.
    pub fn total(&self) -> u64 {
        let parts = self.parts().iter().map(|(_, bytes)| bytes).sum::<u64>();
        parts.max(self.process + self.loading)
    }

    /// The parts that are there at once at the peak of training, by name: while the head's backward runs, or while a checkpoint is
    /// written, when all gradients are there and what the head had is gone.
    pub fn parts(&self) -> [(&'static str, u64); 16] {
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
        let BatchSize { tokens, targets, longest, .. } = self.batch;
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
        if let Some(device) = &self.device {
            write!(f, "{device}")?;
            writeln!(f, "and on the host beside it:")?;
        }
        for (name, bytes) in self.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
            line(f, name, bytes)?;
        }
        if self.total() == self.process + self.loading {
            line(f, "or, while weights are read", self.loading)?;
        }
        line(f, self.device.as_ref().map_or("total at the peak", |_| "total on the host"), self.total())
    }
}

/// So many bytes, as people read them.
pub(crate) fn readable(bytes: u64) -> String {
    let of = |shift: u32, unit: &str| format!("{:.1} {unit}", bytes as f64 / f64::from(1 << shift));
    match bytes.checked_ilog2().unwrap_or(0) {
        0..20 => of(10, "KiB"),
        20..30 => of(20, "MiB"),
        _ => of(30, "GiB"),
    }
}

/// A part and its MiB.
fn line(f: &mut fmt::Formatter<'_>, name: &str, bytes: u64) -> fmt::Result {
    writeln!(f, "{name:<28}{:>10.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The models of a run as far as sizes go.
#[derive(Debug, Clone)]
struct Models {
    policy: ModelSize,
    /// A reference of its own.
    reference: Option<ModelSize>,
    /// The policy without adapter and heads.
    base: ModelSize,
}

impl Models {
    fn of(plan: &Plan) -> Result<Self> {
        let base = ModelSize::from_dir(&plan.model.path)?;
        let whole = match score_heads(plan)? {
            Some(heads) => base.clone().with_score_heads(heads.count()),
            None => base.clone(),
        };
        let policy = match &plan.model.tuning {
            TuningPlan::Full => whole,
            TuningPlan::Lora(lora) => whole.with_lora(lora),
            TuningPlan::Adapter(directory) => whole.with_adapter(directory)?,
        };
        let reference = match &plan.reference {
            // What is trained a second time, scored by the policy's own passes.
            _ if moves_reference(&plan.objective) || is_adapter(plan) => None,
            ReferencePlan::Frozen => Some(policy.clone()),
            ReferencePlan::Model(directory) => Some(ModelSize::from_dir(directory)?),
            _ => None,
        };
        Ok(Self { policy, reference, base })
    }
}

/// Bytes of a reference that follows what is trained, of so many bytes: a running mean is in f64, and a correction counts from a start.
fn moving(plan: &Plan, trained: u64) -> u64 {
    match plan.objective.reference_update() {
        ReferenceUpdate::Frozen => 0,
        ReferenceUpdate::Soft { .. } | ReferenceUpdate::Hard { .. } | ReferenceUpdate::Lagged { .. } => trained,
        ReferenceUpdate::Ema { .. } => 3 * trained,
        ReferenceUpdate::Bema(_) => 4 * trained,
    }
}

/// Bytes of an adapter beside that of the policy, which no checkpoint holds.
fn beside(plan: &Plan, trained: u64) -> u64 {
    if is_adapter(plan) && !moves_reference(&plan.objective) { trained } else { 0 }
}

fn table(plan: &Plan, seen: &Seen) -> u64 {
    match &plan.reference {
        ReferencePlan::Precomputed(_) => seen.completions * TABLE_ROW,
        _ => 0,
    }
}

/// What `[safety]` takes, in bytes.
#[derive(Debug, Default)]
struct OfCosts {
    models: u64,
    answers: u64,
}

impl OfCosts {
    fn of(plan: &Plan, safety: &SafetyPlan, policy: &ModelSize, longest: usize) -> Result<Self> {
        let threads = plan.train.threads.max(1);
        // An answer is scored in tokens of another tokenizer, of which there are taken to be as many.
        let at_once = safety.completions.min(SCORED_AT_ONCE);
        let targets = at_once * safety.max_new_tokens;
        let batch = BatchSize { tokens: at_once * longest, targets, completions: at_once, longest };
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

/// Whether the reference is an adapter beside that of the policy, on one base.
fn is_adapter(plan: &Plan) -> bool {
    match plan.reference {
        ReferencePlan::Adapter(_) => true,
        ReferencePlan::Frozen => plan.model.tuning != TuningPlan::Full,
        _ => false,
    }
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
