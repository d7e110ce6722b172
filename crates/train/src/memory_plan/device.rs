//! The memory of a device that a run takes.
use std::fmt;
use std::ops::Range;

use candlewick_model::{Adapter, BatchSize, Part, Statistics};
use serde::Serialize;

use super::walk::{Passes, Seen, pool_of};
use super::{Models, NUMBER, beside, line, moving, readable};
use crate::device::{DeviceKind, Dtype};
use crate::error::Result;
use crate::plan::Plan;

/// The most bytes that go to a device at once when weights do, in f32.
const PIECE: u64 = 64 << 20;
/// Those of the [parts](DeviceMemory::parts) that belong to passes.
const OF_PASSES: Range<usize> = 6..12;
/// Bytes of the sums of a norm over all gradients.
const NORM: u64 = 8 << 10;
/// Bytes that a step uploads of each tensor: where it ends, how fast it learns, what is to be known of it.
const OF_TENSOR: u64 = 64;

/// The memory of a device at the peak of a run, in bytes, part by part: what buffers of the program have there, as
/// [`Cuda::memory`](candlewick_kernels::Cuda::memory) counts them. What the driver takes for the program itself, and what lies idle
/// between buffers, is not among it; nor are log-probabilities of tokens that a teacher names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// The device.
    pub name: DeviceKind,
    /// The weights of the model, in `train.dtype`.
    pub weights: u64,
    /// The weights of its adapter, in `train.dtype`.
    pub adapter: u64,
    /// What is trained once more, in f32: what the optimizer changes and checkpoints hold.
    pub masters: u64,
    /// The weights of a reference of its own.
    pub reference: u64,
    /// The gradients of what is trained, in f32.
    pub gradients: u64,
    /// What the optimizer keeps of what is trained, in f32.
    pub optimizer: u64,
    /// What layers keep for their backward.
    pub kept_by_layers: u64,
    /// What the head keeps for its backward.
    pub kept_by_head: u64,
    /// Buffers that live for a part of a layer, or for a chunk of the head's logits.
    pub passing: u64,
    /// What kernels work in.
    pub scratch: u64,
    /// What is told of the largest micro-batch beside numbers, tables of rotations, scores and their cotangents.
    pub batch: u64,
    /// Buffers that micro-batches of other sizes leave behind.
    pub of_other_sizes: u64,
    /// Of an answer that the policy draws: keys and values of its tokens, and what a pass over its prompt takes.
    pub answers: u64,
    /// What is there while weights are copied to the device.
    pub loading: u64,
}

impl DeviceMemory {
    pub(super) fn of(plan: &Plan, models: &Models, seen: &Seen) -> Result<Self> {
        let in_passes = |elements: usize| elements as u64 * bytes_of(plan.train.dtype);
        let policy = &models.policy;
        let (weights, adapter) = (in_passes(policy.base_elements()), in_passes(policy.adapter_elements()));
        let trained = policy.trained_elements() as u64 * NUMBER;
        let of_frozen = models.reference.as_ref().map_or(0, |size| size.base_elements() + size.adapter_elements());
        let reference = in_passes(of_frozen) + moving(plan, trained) + beside(plan, trained);
        let tensors = policy.trained_tensors()?;
        let optimizer = plan.optimizer.memory(&tensors, NUMBER as usize) as u64;

        let passes = Passes { plan, policy, reference: models.reference.as_ref() };
        let settled = seen.settled(passes);
        let most = settled.most_elements().max(seen.walked(passes).most_elements()) as u64;
        let of = |part| settled.elements(part) as u64;
        let (kept_by_layers, kept_by_head) = (of(Part::Layers), of(Part::Head));
        let (scratch, batch) = (of(Part::Scratch), of(Part::Batch));
        // The peak has more for a while than what stays.
        let passing = (settled.most_elements() as u64).saturating_sub(kept_by_layers + kept_by_head + scratch + batch);
        let of_other_sizes = most - settled.most_elements() as u64;

        let copied = weights + adapter + trained + reference;
        let piece = PIECE.min(NUMBER * policy.base_elements().max(of_frozen) as u64);
        Ok(Self {
            name: plan.train.device,
            weights,
            adapter,
            masters: trained,
            reference,
            gradients: trained,
            optimizer,
            kept_by_layers,
            kept_by_head,
            passing,
            scratch: scratch + NORM + OF_TENSOR * tensors.len() as u64,
            batch,
            of_other_sizes,
            answers: of_answers(plan, models, seen.longest_answer),
            loading: copied + piece,
        })
    }

    /// The peak of the whole run on the device.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum::<u64>().max(self.loading)
    }

    /// What of it depends on how large micro-batches are.
    pub(super) fn passes(&self) -> u64 {
        self.parts()[OF_PASSES].iter().map(|(_, bytes)| bytes).sum()
    }

    /// The total and its parts, in a line.
    pub(super) fn in_a_line(&self) -> String {
        let parts = self.parts().into_iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<_> = parts.map(|(name, bytes)| format!("{name} {}", readable(bytes))).collect();
        format!("{} ({})", readable(self.total()), parts.join(", "))
    }

    /// The parts that are there at once at the peak of training, by name.
    pub fn parts(&self) -> [(&'static str, u64); 13] {
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("master weights", self.masters),
            ("weights of the reference", self.reference),
            ("gradients", self.gradients),
            ("state of the optimizer", self.optimizer),
            ("kept by layers", self.kept_by_layers),
            ("kept by the head", self.kept_by_head),
            ("passing buffers", self.passing),
            ("scratch of kernels", self.scratch),
            ("the batch", self.batch),
            ("buffers of other sizes", self.of_other_sizes),
            ("answers that are drawn", self.answers),
        ]
    }
}

/// Bytes of an answer that the policy draws, one at a time, of which the longest has so many tokens with its prompt; 0 for none.
fn of_answers(plan: &Plan, models: &Models, longest: usize) -> u64 {
    if longest == 0 {
        return 0;
    }
    let batch = BatchSize { tokens: longest, targets: 1, completions: 1, longest };
    let mut pool = pool_of(plan);
    models.policy.score(batch, Statistics::default(), Adapter::On, 1, &mut pool);
    // Buffers of keys and values double as they grow.
    let cache = 2 * models.base.cached_per_token() * longest;
    cache as u64 * bytes_of(plan.train.dtype) + pool.most_elements() as u64
}

/// Bytes of a number in passes.
fn bytes_of(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    }
}

impl fmt::Display for DeviceMemory {
    /// A line for each part, and the total, in MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "on {}:", self.name)?;
        for (name, bytes) in self.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
            line(f, name, bytes)?;
        }
        if self.total() == self.loading {
            line(f, "or, while weights are copied", self.loading)?;
        }
        line(f, "total on the device", self.total())
    }
}
