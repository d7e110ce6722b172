//! The smallest change of a plan with which it fits into the memory of its device.
use candlewick_losses::{Objective, StepWide};
use candlewick_model::{LoraConfig, Recompute};

use super::walk::Seen;
use super::{DeviceMemory, Models, budget, readable};
use crate::device::Dtype;
use crate::error::Result;
use crate::plan::{Plan, REFERENCE, ReferencePlan, TuningPlan};
use crate::trainer::moves_reference;

/// A change, as a user types it, and the bytes that are planned with it.
struct Change {
    words: String,
    planned: u64,
}

/// What a change of a run that has begun comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayOn {
    /// No single change is enough.
    None,
    /// The run goes on with another number of `train.tokens`.
    Tokens,
    /// The run goes on.
    Resume,
    /// It is another run.
    Anew,
}

/// In words, what to change so that a run which is planned to take `planned` bytes takes at most `most`: the first of some changes, in
/// the order of how little they change of what is learned, that is enough by itself. And whether a run that has `begun` goes on with
/// it: those of other runs come last for one.
pub(super) fn of(plan: &Plan, seen: &Seen, planned: u64, most: u64, begun: bool) -> Result<(String, WayOn)> {
    type Find = fn(&Plan, &Seen, u64) -> Result<Option<Change>>;
    let mut changes: [(Find, WayOn); 6] = [
        (of_batches, WayOn::Tokens),
        (of_evaluation, WayOn::Resume),
        (of_recompute, WayOn::Resume),
        (of_reference, WayOn::Anew),
        (of_dtype, WayOn::Anew),
        (of_tuning, WayOn::Anew),
    ];
    if plan.objective.needs().step_wide == StepWide::Mismatched {
        // Other rows in a micro-batch.
        changes[0].1 = WayOn::Anew;
        if begun {
            changes[..3].rotate_left(1);
        }
    }
    for (change, way) in changes {
        if let Some(Change { words, planned }) = change(plan, seen, most)? {
            let words = format!("the smallest change that fits is {words}, with {} planned", readable(planned));
            return Ok((words, way));
        }
    }
    let words = format!(
        "no single change of train.tokens, evaluation.batch_size, train.recompute, reference.kind, train.dtype or model.lora is enough \
         ({} are planned, {} can be had): take several, a smaller data.max_length, a smaller model, or another device",
        readable(planned),
        readable(most)
    );
    Ok((words, WayOn::None))
}

/// What a changed plan takes, where that is little enough.
fn fitting(plan: &Plan, seen: &Seen, most: u64, words: impl Into<String>) -> Result<Option<Change>> {
    let planned = DeviceMemory::of(plan, &Models::of(plan)?, seen)?.total();
    Ok((planned <= most).then(|| Change { words: words.into(), planned }))
}

/// Smaller micro-batches of the same steps.
fn of_batches(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    if plan.objective.needs().step_wide == StepWide::Mismatched {
        let step = plan.train.batch_size.saturating_mul(plan.train.micro_batches);
        for rows in (1..plan.train.batch_size).rev().filter(|rows| step.is_multiple_of(*rows)) {
            let mut changed = plan.clone();
            (changed.train.batch_size, changed.train.micro_batches) = (rows, step / rows);
            let words = format!("train.batch_size = {rows} with train.micro_batches = {}", step / rows);
            if let Some(change) = fitting(&changed, &seen.with_rows(rows), most, words)? {
                return Ok(Some(change));
            }
        }
        return Ok(None);
    }
    let models = Models::of(plan)?;
    let need = |tokens| budget::needed(plan, &models, seen, tokens);
    let Some(tokens) = budget::largest(seen, most, need)? else { return Ok(None) };
    // No change, or none that is smaller.
    let now = plan.train.tokens.and_then(|budget| budget.tokens()).unwrap_or(usize::MAX).min(seen.training.tokens);
    match tokens < now {
        true => Ok(Some(Change { words: format!("train.tokens = {tokens}"), planned: need(tokens)? })),
        false => Ok(None),
    }
}

fn of_evaluation(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    let Some(evaluation) = &plan.evaluation else { return Ok(None) };
    for rows in (1..evaluation.batch_size).rev() {
        let mut changed = plan.clone();
        changed.evaluation.iter_mut().for_each(|evaluation| evaluation.batch_size = rows);
        let words = format!("evaluation.batch_size = {rows}");
        if let Some(change) = fitting(&changed, &seen.with_held_out_rows(rows), most, words)? {
            return Ok(Some(change));
        }
    }
    Ok(None)
}

fn of_recompute(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    let mut changed = plan.clone();
    changed.train.recompute = Recompute::Layers;
    match plan.train.recompute {
        Recompute::Layers => Ok(None),
        Recompute::Nothing => fitting(&changed, seen, most, "train.recompute = \"layers\""),
    }
}

fn of_reference(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    // Another model's log-probabilities cannot be made by the policy.
    if plan.reference != ReferencePlan::Frozen || moves_reference(&plan.objective) {
        return Ok(None);
    }
    let mut changed = plan.clone();
    changed.reference = ReferencePlan::Precomputed(plan.output.dir.join(REFERENCE));
    fitting(&changed, seen, most, "reference.kind = \"precomputed\"")
}

fn of_dtype(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    let mut changed = plan.clone();
    changed.train.dtype = Dtype::Bf16;
    match plan.train.dtype {
        Dtype::Bf16 => Ok(None),
        Dtype::F32 => fitting(&changed, seen, most, "train.dtype = \"bf16\""),
    }
}

fn of_tuning(plan: &Plan, seen: &Seen, most: u64) -> Result<Option<Change>> {
    if plan.model.tuning != TuningPlan::Full || moves_reference(&plan.objective) {
        return Ok(None);
    }
    let lora = LoraConfig::default();
    let words = format!("a LoRA adapter, as model.lora.rank = {}", lora.rank);
    let mut changed = plan.clone();
    changed.model.tuning = TuningPlan::Lora(lora);
    if changed.reference == ReferencePlan::Frozen {
        changed.reference = ReferencePlan::AdapterOff;
    }
    fitting(&changed, seen, most, words)
}
