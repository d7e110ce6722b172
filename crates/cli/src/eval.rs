//! `wick eval`: what a model prefers, measured without changing it.

use std::sync::Arc;

use anyhow::{Result, bail};
use candlewick::data::{BatchOptions, Batches, EncodeOptions, Encoder, Order, Source, SourceOptions};
use candlewick::losses::{Objective, StepWide};
use candlewick::model::{CausalLm, Recompute};
use candlewick::train::{
    CausalPolicy, Config, EvalReport, FrozenPolicy, Plan, PrecomputedReference, Reference, ReferenceKind,
    ReferencePlan, Trainer, TrainerOptions, TuningPlan, weights_digest,
};
use serde_json::{Value, json};

use crate::arguments::Eval;
use crate::failure::Failure;
use crate::{places, words};

/// Measures and prints.
pub(crate) fn eval(arguments: &Eval) -> Result<()> {
    let plan = Plan::resolve(configuration(arguments)?)?;
    let threads = words::threads(plan.train.threads);
    let encoder = Arc::new(encoder(&plan)?);
    let mut trainer = trainer(&plan, &encoder, threads)?;
    let mut batches = batches(&plan, Arc::clone(&encoder))?;
    let steps = std::iter::from_fn(|| batches.next_step().transpose());
    let report = trainer.evaluate(steps.flat_map(|step| match step {
        Ok(step) => step.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }))?;
    show(&report, arguments.json);
    let rows = batches.report();
    if rows.rows > rows.kept {
        eprintln!("{}", rows.summary());
    }
    Ok(())
}

fn configuration(arguments: &Eval) -> Result<Config> {
    let mut words = words::of_common(&arguments.common)?;
    words::put(&mut words, [("reference.path", arguments.reference.clone()), ("data.rows", arguments.rows.clone())])?;
    words::assign(&mut words, &arguments.common.set)?;
    let mut config = words.config()?;
    places::resolve(&mut config)?;
    // Nothing is written, and held-out rows are those of [data].
    config.output.dir = Some(".".into());
    config.evaluation = None;
    // An adapter is compared with its base unless another reference is named.
    let unnamed = config.reference.kind.is_none() && config.reference.path.is_none();
    if config.model.adapter.is_some() && unnamed && config.objective.needs().reference {
        config.reference.kind = Some(ReferenceKind::AdapterOff);
    }
    Ok(config)
}

fn encoder(plan: &Plan) -> Result<Encoder> {
    let options = EncodeOptions {
        max_length: plan.data.max_length,
        boundary: plan.data.boundary,
        truncation: plan.data.truncation,
        end_of_sequence: plan.data.end_of_sequence,
    };
    Ok(Encoder::from_dir(&plan.model.path, options)?)
}

fn trainer(plan: &Plan, encoder: &Encoder, threads: usize) -> Result<Trainer<CausalPolicy>> {
    let load = |path: &std::path::Path| -> Result<CausalLm> {
        let model = CausalLm::load(path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok(model)
    };
    let mut model = load(&plan.model.path)?;
    match &plan.model.tuning {
        TuningPlan::Full => {}
        TuningPlan::Adapter(directory) => model.load_adapter(directory)?,
        _ => bail!(Failure::Usage(
            "model.lora makes a fresh adapter, which changes nothing; name a trained one with --adapter".into()
        )),
    }
    let frozen = |model: CausalLm| Reference::Frozen(Box::new(FrozenPolicy::new(model, threads)));
    let reference = match &plan.reference {
        ReferencePlan::None => Reference::None,
        ReferencePlan::Frozen => frozen(model.frozen_copy()),
        ReferencePlan::Model(directory) => frozen(load(directory)?),
        ReferencePlan::AdapterOff => Reference::AdapterOff,
        ReferencePlan::Precomputed(path) => {
            Reference::Precomputed(PrecomputedReference::load(path, &weights_digest(&model))?)
        }
        other => bail!(Failure::Usage(format!("reference: wick eval cannot use {other:?}"))),
    };
    let policy = CausalPolicy::new(model, Recompute::Nothing, threads);
    Ok(Trainer::new(policy, reference, Box::new(plan.objective.clone()), TrainerOptions::default())?)
}

fn batches(plan: &Plan, encoder: Arc<Encoder>) -> Result<Batches> {
    let data = &plan.data;
    let source = Source::open(&SourceOptions {
        path: data.path.clone(),
        form: data.form,
        rows: data.rows,
        columns: data.columns.clone(),
        strict: data.strict,
    })?;
    let mismatched = plan.objective.needs().step_wide == StepWide::Mismatched;
    let options = BatchOptions {
        examples: plan.train.batch_size,
        // Mismatched completions come from all rows, so that batching changes nothing.
        micro_batches: if mismatched { usize::MAX } else { 1 },
        order: Order::File,
        mismatched,
        ..BatchOptions::default()
    };
    Ok(Batches::new(source, encoder, options)?)
}

fn show(report: &EvalReport, as_json: bool) {
    let mut values: serde_json::Map<String, Value> =
        report.metrics.values().into_iter().map(|(name, value)| (name, json!(value))).collect();
    values.insert("loss".into(), json!(report.loss));
    values.insert("rows".into(), json!(report.rows));
    values.insert("tokens".into(), json!(report.tokens));
    if as_json {
        println!("{}", Value::Object(values));
        return;
    }
    for (name, value) in values {
        println!("{name:24} {value}");
    }
}
