//! The rows of a plan: opened, batched, counted, checked.
use std::collections::BTreeSet;
use std::sync::Arc;

use candlewick_data::{Annotation, Batch, BatchOptions, Batches, Encoder, Example, LastStep, Order, Source, Stream};
use candlewick_losses::{Needs, Objective, StepWide};

use crate::budget::TokenBudget;
use crate::error::{Error, Result};
use crate::pack::{Micro, to_be_scored};
use crate::plan::{Length, Plan};
use crate::reference::PrecomputedReference;
use crate::udm::{Udm, without_probability};

pub(crate) fn training_batches(plan: &Plan, source: &Source, encoder: &Arc<Encoder>, needs: &Needs) -> Result<Batches> {
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
        stratified: plan.data.stratified,
        tokens: plan.train.tokens.and_then(TokenBudget::tokens),
        bucket: plan.train.bucket,
        workers: plan.data.workers,
    };
    Ok(Batches::new(source.clone(), encoder.clone(), options)?)
}

/// Whether the first usable row is one that the objective can use, and one that can be stratified where that is asked.
pub(crate) fn check_first(plan: &Plan, source: &Source, encoder: &Arc<Encoder>, needs: &Needs) -> Result<()> {
    let Some(example) = first(source, encoder)? else { return Ok(()) };
    let origin = example.origin.to_string();
    let is_labelled = matches!(example.annotation, Annotation::Labelled { .. });
    let needs = if plan.udm.is_some() { without_probability(needs) } else { *needs };
    Micro::new(&Batch { examples: vec![example], ..Batch::default() }, &needs)?;
    if plan.data.stratified && !is_labelled {
        return Err(Error::config(STRATIFIED, format!("true, and {origin} is not labelled; leave it out")));
    }
    Ok(())
}

/// A step of one row has no other to mismatch it with.
fn last_step(mismatched: bool) -> LastStep {
    if mismatched { LastStep::Drop } else { LastStep::Keep }
}

pub(crate) fn evaluation_batches(
    plan: &Plan,
    held_out: Option<&Source>,
    encoder: &Arc<Encoder>,
    needs: &Needs,
) -> Result<Batches> {
    let (Some(evaluation), Some(rows)) = (&plan.evaluation, held_out) else {
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
        workers: plan.data.workers,
        ..BatchOptions::default()
    };
    Ok(Batches::new(rows.clone(), encoder.clone(), options)?)
}

/// The batches of all steps, one by one.
pub(crate) fn flatten(batches: &mut Batches) -> impl Iterator<Item = Result<Batch, candlewick_data::Error>> {
    batches.flat_map(|step| match step {
        Ok(batches) => batches.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(e) => vec![Err(e)],
    })
}

/// Optimizer steps of the run; for epochs the usable rows are counted in one pass.
pub(crate) fn total_steps(plan: &Plan, source: &Source, encoder: &Arc<Encoder>, needs: &Needs) -> Result<u64> {
    let epochs = match plan.train.length {
        Length::Steps(steps) => return Ok(steps),
        Length::Epochs(epochs) => epochs,
    };
    let too_many = |key: &str, reason: String| Error::config(key, format!("{reason}; expected less than 2^64"));
    let (batch_size, micro_batches) = (plan.train.batch_size as u64, plan.train.micro_batches as u64);
    let step = batch_size.checked_mul(micro_batches).ok_or_else(|| {
        too_many("train.micro_batches", format!("{micro_batches} times train.batch_size = {batch_size} rows a step"))
    })?;
    let mut rows = Stream::new(source.clone(), encoder.clone(), Order::File)?.with_workers(plan.data.workers)?;
    let mut kept = 0u64;
    while rows.next_example()?.is_some() {
        kept += 1;
    }
    let steps = match last_step(needs.step_wide == StepWide::Mismatched) {
        LastStep::Keep => kept.div_ceil(step),
        LastStep::Drop => kept / step,
    };
    if steps == 0 {
        let report = rows.report();
        let first = report.rejected.first().map(|rejection| format!("; the first: {rejection}")).unwrap_or_default();
        return Err(Error::Rows {
            place: plan.data.name(),
            reason: format!("no full step in it: {}{first}", report.summary()),
        });
    }
    steps.checked_mul(epochs).ok_or_else(|| too_many("train.epochs", format!("{epochs} times {steps} steps")))
}

/// The first usable row of the training file, decoded, with what is scored of it.
pub(crate) fn sample(source: &Source, encoder: &Arc<Encoder>) -> Result<Option<String>> {
    Ok(first(source, encoder)?.map(|example| encoder.describe(&example)))
}

fn first(source: &Source, encoder: &Arc<Encoder>) -> Result<Option<Example>> {
    let source = source.clone().strict(false);
    Ok(Stream::new(source, encoder.clone(), Order::File)?.next_example()?)
}

/// Finds before the first step what would end an evaluation after the last: a file that is not there or of another form, rows
/// that the objective cannot use, a rejected row where that is an error, one prompt only where completions are mismatched,
/// and, where there is a `table` of reference log-probabilities or a file of embeddings, rows it lacks. The first batch is looked
/// at; all of them where any row can end it.
pub(crate) fn check_evaluation(
    plan: &Plan,
    held_out: &Source,
    encoder: &Arc<Encoder>,
    needs: &Needs,
    table: Option<&PrecomputedReference>,
    udm: Option<&Udm>,
) -> Result<()> {
    let mut batches = evaluation_batches(plan, Some(held_out), encoder, needs)?;
    let all = plan.data.strict || table.is_some() || udm.is_some_and(Udm::may_lack_rows);
    let slices = plan.evaluation.iter().flat_map(|evaluation| &evaluation.slices);
    let mut unseen: BTreeSet<&String> = slices.collect();
    let needs = if udm.is_some() { without_probability(needs) } else { *needs };
    for batch in flatten(&mut batches) {
        let batch = batch?;
        if let Some(udm) = udm {
            batch.examples.iter().try_for_each(|example| udm.check(example))?;
        }
        let micro = Micro::new(&batch, &needs)?;
        if let Some(table) = table {
            table.check_holds(&micro)?;
        }
        unseen.retain(|name| batch.examples.iter().all(|example| !example.labels.contains_key(*name)));
        if !all && unseen.is_empty() {
            break;
        }
    }
    match unseen.first() {
        None => Ok(()),
        Some(name) => Err(Error::config(
            "evaluation.slices",
            format!("no held-out row has a column {name:?} with a word in it; name one that the rows have"),
        )),
    }
}

/// Whether a file of embeddings has one for every training row.
pub(crate) fn check_embeddings(source: &Source, encoder: &Arc<Encoder>, udm: &Udm) -> Result<()> {
    if !udm.may_lack_rows() {
        return Ok(());
    }
    let mut rows = Stream::new(source.clone(), encoder.clone(), Order::File)?;
    while let Some(example) = rows.next_example()? {
        udm.check(&example)?;
    }
    Ok(())
}

/// Whether a table of reference log-probabilities holds every row of a run, held-out ones included.
pub(crate) fn are_known(
    plan: &Plan,
    source: &Source,
    held_out: Option<&Source>,
    encoder: &Arc<Encoder>,
    total_steps: u64,
    table: &PrecomputedReference,
) -> Result<bool> {
    let needs = to_be_scored(&plan.objective.needs());
    let training = check_training(plan, source, encoder, &needs, total_steps, table);
    let all = training.and_then(|()| match held_out {
        None => Ok(()),
        Some(rows) => flatten(&mut evaluation_batches(plan, Some(rows), encoder, &needs)?)
            .try_for_each(|batch| table.check_holds(&Micro::new(&batch?, &needs)?)),
    });
    match all {
        Ok(()) => Ok(true),
        Err(Error::Reference { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Whether a table of reference log-probabilities holds the rows of all steps.
pub(crate) fn check_training(
    plan: &Plan,
    source: &Source,
    encoder: &Arc<Encoder>,
    needs: &Needs,
    total_steps: u64,
    table: &PrecomputedReference,
) -> Result<()> {
    let mut batches = training_batches(plan, source, encoder, needs)?;
    let mut steps = 0;
    while is_new(needs, steps, total_steps, &batches)
        && let Some(step) = batches.next_step()?
    {
        for batch in &step {
            table.check_holds(&Micro::new(batch, &to_be_scored(needs))?)?;
        }
        steps += 1;
    }
    Ok(())
}

/// Whether the next step may bring rows that the steps before did not. Rows come back every epoch, so that one is enough;
/// mismatched ones are paired anew at every step.
pub(crate) fn is_new(needs: &Needs, steps: u64, total_steps: u64, batches: &Batches) -> bool {
    steps < total_steps && (needs.step_wide == StepWide::Mismatched || batches.cursor().epoch == 0)
}

const STRATIFIED: &str = "data.stratified";
