//! `wick eval`: what a model prefers, measured without changing it.

use std::sync::Arc;

use anyhow::{Result, bail};
use candlewick::data::{Batch, BatchOptions, Batches, Encoder, Order, RowRange};
use candlewick::evaluate::{self, PreferenceReport, Preferences, SliceReport};
use candlewick::losses::{Objective, Recipe, StepWide};
use candlewick::model::{CausalLm, LoraConfig, Recompute};
use candlewick::train::{
    AdapterReference, CausalPolicy, Checkpoint, Config, EvalReport, Hardware, HeldOut, ModelPolicy, OptimizerWords,
    Plan, Reference, ReferenceKind, ReferencePlan, ScheduleWords, ScorePolicy, ScoredBatch, TokenBudget, Trainer,
    TrainerOptions, TuningPlan,
};
use serde_json::{Value, json};

use crate::arguments::Eval;
use crate::failure::Failure;
use crate::{places, preference, rows, words};

/// Measures and prints.
pub(crate) fn eval(arguments: &Eval) -> Result<()> {
    if !arguments.tasks.tasks.is_empty() {
        return crate::eval_tasks::eval(arguments);
    }
    let (config, slices) = configuration(arguments)?;
    let mut plan = Plan::resolve(config)?;
    if let (Recipe::Panacea(panacea), false) = (&mut plan.objective, arguments.preference.is_empty()) {
        panacea.evaluate_at = Some(arguments.preference.clone());
        plan.objective.validate().map_err(|error| Failure::Usage(format!("--preference: {error}")))?;
    }
    let has_learned = take_up_state(&mut plan);
    let threads = words::threads(plan.train.threads);
    eprintln!("measuring {}, {}", plan.data.name(), selected(&plan));
    if matches!((&plan.reference, &plan.model.tuning), (ReferencePlan::Frozen, TuningPlan::Full)) {
        eprintln!(
            "the model is compared with itself, so every margin is 0; name what it started from by --reference DIR"
        );
    }
    let of_scores = plan.objective.needs().outputs.values;
    if plan.objective.state().is_some() && !has_learned && !of_scores {
        eprintln!(
            "wick: warning: the objective keeps a running value while training (of bco, delta), which a checkpoint of its run holds and \
             this directory does not, so that it starts as new (delta at 0) and the loss is not that of the run; accuracies and margins of \
             rewards do not depend on it, and the eval_ lines of the run's metrics.jsonl, from [evaluation], are measured with it"
        );
    }
    if plan.objective.state().is_some() && !has_learned && of_scores {
        let name = serde_json::to_value(&plan.objective)?["type"].clone();
        bail!(Failure::Usage(format!(
            "objective.type = {name} keeps what it learned of people in the checkpoints of its run, and none with these settings is named: give \
             one as --model, or as --adapter where one was trained (RUN/checkpoints/step-…); the eval_ lines of the run's metrics.jsonl, from \
             [evaluation], are measured with it too"
        )));
    }
    if of_scores && !slices.is_empty() {
        bail!(Failure::Usage(
            "--slices: results are shown apart by log-probabilities, and a score model has none; leave it out".into()
        ));
    }
    let encoder = Arc::new(encoder(&plan)?);
    let mut trainer = trainer(&plan, &encoder, &arguments.preference, threads)?;
    let mut batches = batches(&plan, Arc::clone(&encoder), &slices)?;
    let steps = std::iter::from_fn(|| batches.next_step().transpose());
    let mut scored = Scored::default();
    // Of each batch its rows are kept, to tell afterwards which completion is which.
    let kept = &mut scored.batches;
    let each = steps.flat_map(|step| match step {
        Ok(step) => step.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    let each = each.inspect(|batch| {
        if let Ok(batch) = batch {
            kept.push(Batch { examples: batch.examples.clone(), ..Batch::default() });
        }
    });
    let mut sums = Vec::new();
    let report = trainer.evaluate_each(each, |batch| sums.push(batch))?;
    sums.into_iter().for_each(|batch| scored.add(batch));
    // It tells preferences by log-probabilities; those of a score model are among the metrics.
    let preferences = if of_scores { None } else { scored.report(&plan, &slices)? };
    show(&report, preferences.as_ref(), arguments.json);
    for line in rows::lines("rows", batches.report()) {
        eprintln!("{line}");
    }
    Ok(())
}

/// Takes up what the objective learned, where what is measured is a checkpoint of a run of it. Whether there was anything.
fn take_up_state(plan: &mut Plan) -> bool {
    // Multipliers that moved are those of training: here pairs are labelled with objective.lambda, which says what is measured.
    if plan.objective.observes() {
        return false;
    }
    let trained = match &plan.model.tuning {
        TuningPlan::Adapter(directory) => directory,
        _ => &plan.model.path,
    };
    let state = Checkpoint::open(trained).ok().and_then(|checkpoint| checkpoint.state.objective);
    // That of another objective, or of one with other settings, is none of this one.
    state.is_some_and(|state| plan.objective.restore(&state).is_ok())
}

/// The configuration, and the columns by which results are shown apart.
fn configuration(arguments: &Eval) -> Result<(Config, Vec<String>)> {
    let set = &arguments.common.set;
    let mut words = words::of_common(&arguments.common)?;
    words::put(&mut words, [("reference.path", arguments.reference.clone()), ("data.rows", arguments.rows.clone())])?;
    words::assign(&mut words, set)?;
    let mut config = words.config()?;
    words::put_data_first(&mut config, &arguments.common);
    // The configuration's adapter was a fresh one; the one that is named was trained.
    let was_fresh = config.model.lora.is_some();
    if arguments.common.adapter.is_some() && !words::is_assigned(set, "model.lora") {
        config.model.lora = None;
    }
    let kind_is_given = words::is_assigned(set, "reference.kind");
    if arguments.reference.is_some() && !kind_is_given {
        config.reference.kind = None;
    }
    if config.reference.kind == Some(ReferenceKind::Precomputed) && !kind_is_given && was_fresh {
        // What was computed before is what the model says without its adapter.
        config.reference.kind = Some(ReferenceKind::AdapterOff);
        config.reference.path = None;
    }
    let slices = match (arguments.slices.as_slice(), &mut config.evaluation) {
        ([], Some(evaluation)) => std::mem::take(&mut evaluation.slices),
        (given, _) => given.to_vec(),
    };
    choose_rows(&mut config, arguments);
    places::resolve(&mut config)?;
    // The classifier of prompts is that of a run, fitted on its starting weights; here its number is a column.
    if config.udm.take().is_some() {
        eprintln!(
            "wick: warning: [udm] belongs to training: here the rows must bring `desirable_prompt` as a column; [evaluation] \
             measures with the classifier while training"
        );
    }
    // No step is made: what only steps read decides nothing.
    config.optimizer = OptimizerWords::default();
    config.schedule = ScheduleWords::default();
    config.train.tokens = TokenBudget::Tokens(0);
    warn_of_multipliers(&config);
    // Nothing is written.
    config.output.dir = Some(".".into());
    // An adapter is compared with its base unless another reference is named.
    let unnamed = config.reference.kind.is_none() && config.reference.path.is_none();
    if config.model.adapter.is_some() && unnamed && config.objective.needs().reference {
        config.reference.kind = Some(ReferenceKind::AdapterOff);
    }
    Ok((config, slices))
}

/// What a run's multipliers came to is in its log and its checkpoints, and not in a configuration.
pub(crate) fn warn_of_multipliers(config: &Config) {
    if config.objective.observes() {
        eprintln!(
            "wick: warning: [safety] belongs to training: here pairs are labelled with the multipliers of objective.lambda; give those that a \
             run ended with (lambda in its metrics.jsonl) there"
        );
    }
}

/// The rows to measure on: those that are named, else the held-out ones of the configuration, else all of its data.
fn choose_rows(config: &mut Config, arguments: &Eval) {
    let common = &arguments.common;
    let named = [&common.data, &common.split, &common.subset, &arguments.rows].into_iter().any(Option::is_some)
        || ["data.path", "data.files", "data.split", "data.subset", "data.rows", "data.mixture"]
            .iter()
            .any(|key| words::is_assigned(&common.set, key));
    let Some(held_out) = config.evaluation.take().filter(|_| !named) else {
        return;
    };
    if let (Some(examples), None) = (held_out.batch_size, common.batch) {
        config.train.batch_size = examples;
    }
    // As in a run, no held-out row is left out for the others.
    let data = &mut config.data;
    (data.deduplicate, data.balance) = (None, None);
    let of_its_own = held_out.path.is_some() || !held_out.files.is_empty();
    if held_out.held_out.is_some() || (!data.mixture.is_empty() && !of_its_own) {
        config.evaluation = Some(held_out);
        return;
    }
    if of_its_own {
        data.path = held_out.path.or(data.path.take());
        (data.files, data.subset, data.split) = (held_out.files, held_out.subset, held_out.split);
        (data.mixture, data.mixture_end) = (Vec::new(), None);
    } else {
        data.subset = held_out.subset.or(data.subset.take());
        data.split = held_out.split.or(data.split.take());
    }
    data.rows = held_out.rows.unwrap_or_default();
}

fn encoder(plan: &Plan) -> Result<Encoder> {
    Ok(Encoder::from_dir(&plan.model.path, plan.encode_options())?)
}

fn trainer(plan: &Plan, encoder: &Encoder, preference: &[f64], threads: usize) -> Result<Trainer<ModelPolicy>> {
    if matches!(plan.model.tuning, TuningPlan::Lora(_)) {
        bail!(Failure::Usage(
            "model.lora makes a fresh adapter, which changes nothing; name a trained one with --adapter".into()
        ));
    }
    let hardware = Hardware::open(plan.train.device)?;
    if plan.objective.needs().outputs.values {
        if !preference.is_empty() {
            bail!(Failure::Usage("--preference: given, and a score model is told none; leave it out".into()));
        }
        return score_trainer(plan, &hardware, encoder, threads);
    }
    let mut train = plan.train.clone();
    (train.threads, train.recompute) = (threads, Recompute::Nothing);
    let load = |path: &std::path::Path| -> Result<CausalLm> {
        let model = CausalLm::load(path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok(model)
    };
    let mut model = load(&plan.model.path)?;
    match &plan.model.tuning {
        TuningPlan::Full => {}
        TuningPlan::Adapter(directory) => model.load_adapter(directory)?,
        other => bail!(Failure::Usage(format!("model: wick eval does not know {other:?}"))),
    }
    let told = match &plan.objective {
        Recipe::Panacea(panacea) => panacea.evaluate_at.clone().or_else(|| panacea.preference.clone()),
        _ => None,
    };
    preference::set(&mut model, told.as_deref().unwrap_or(preference))?;
    let frozen = |model: CausalLm| -> Result<Reference> { Ok(Reference::Frozen(hardware.frozen(model, &train)?)) };
    let base = plan.model.path.to_string_lossy();
    let reference = match &plan.reference {
        ReferencePlan::None => Reference::None,
        ReferencePlan::Frozen => Reference::Frozen(hardware.frozen_copy(&model, &train)?),
        ReferencePlan::Model(directory) => frozen(load(directory)?)?,
        ReferencePlan::Adapter(directory) => {
            let policy = CausalPolicy::new(model, Recompute::Nothing, threads);
            let adapter = hardware.adapter(AdapterReference::load(&policy, directory)?)?;
            let policy = hardware.policy(policy.into_model(), &train, &base)?;
            return trainer_of(policy, Reference::Adapter(adapter), plan);
        }
        ReferencePlan::AdapterOff => Reference::AdapterOff,
        ReferencePlan::Precomputed(_) => bail!(Failure::Usage(
            "reference.kind = \"precomputed\": such a table holds the training rows, as the model before training scored them; \
             name the model to compare with by --reference DIR"
                .into()
        )),
        other => bail!(Failure::Usage(format!("reference: wick eval cannot use {other:?}"))),
    };
    if hardware.device().is_some() && !model.has_adapter() {
        model.add_lora(&of_no_weight(), 0)?;
    }
    trainer_of(hardware.policy(model, &train, &base)?, reference, plan)
}

/// A fresh adapter, which changes no bit. What is trained lies on a device with masters, gradients and moments: of the adapter that is
/// little, of all weights several times what they take.
fn of_no_weight() -> LoraConfig {
    LoraConfig { rank: 8, ..LoraConfig::default() }
}

/// Of a score model, whose heads were trained.
fn score_trainer(plan: &Plan, hardware: &Hardware, encoder: &Encoder, threads: usize) -> Result<Trainer<ModelPolicy>> {
    let policy = ScorePolicy::of_plan(plan, threads)?;
    if policy.starts_at_zero() {
        bail!(Failure::Model(format!(
            "{}: its score heads are fresh, and say 0 of every text; name a score model, such as the final directory of a run, or the \
             adapter of one with --adapter",
            plan.model.path.display()
        )));
    }
    encoder.check_vocabulary(policy.model().config().vocab_size)?;
    let policy = match hardware.device().is_some() && !policy.model().has_adapter() {
        true => {
            let mut model = policy.into_model();
            model.add_lora(&of_no_weight(), 0)?;
            ScorePolicy::new(model, Recompute::Nothing, threads)
        }
        false => policy,
    };
    trainer_of(hardware.score_policy(policy, &plan.train)?, Reference::None, plan)
}

fn trainer_of(policy: ModelPolicy, reference: Reference, plan: &Plan) -> Result<Trainer<ModelPolicy>> {
    Ok(Trainer::new(policy, reference, Box::new(plan.objective.clone()), TrainerOptions::default())?)
}

fn batches(plan: &Plan, encoder: Arc<Encoder>, slices: &[String]) -> Result<Batches> {
    let source = match plan.open_held_out()? {
        Some(held_out) => held_out,
        None => plan.open_rows()?,
    };
    let mismatched = plan.objective.needs().step_wide == StepWide::Mismatched;
    let options = BatchOptions {
        examples: plan.train.batch_size,
        // Mismatched completions come from all rows, so that batching changes nothing.
        micro_batches: if mismatched { usize::MAX } else { 1 },
        order: Order::File,
        mismatched,
        workers: plan.data.workers,
        ..BatchOptions::default()
    };
    Ok(Batches::new(source.with_labels(slices), encoder, options)?)
}

/// Which rows of their files.
fn selected(plan: &Plan) -> String {
    match (plan.evaluation.as_ref().map(|evaluation| &evaluation.rows), plan.data.parts.as_slice()) {
        (Some(HeldOut::Prompts(_)), _) => "the rows of the prompts held out".to_owned(),
        (_, [part]) if part.rows != RowRange::default() => format!("rows {}", part.rows),
        _ => "all rows".to_owned(),
    }
}

/// What rows scored, as far as they prefer something.
#[derive(Default)]
struct Scored {
    batches: Vec<Batch>,
    policy: Vec<f64>,
    reference: Option<Vec<f64>>,
}

impl Scored {
    fn add(&mut self, batch: ScoredBatch) {
        self.policy.extend(batch.policy.iter().map(|score| score.log_prob));
        if let Some(reference) = batch.reference {
            self.reference.get_or_insert_default().extend(reference.iter().map(|score| score.log_prob));
        }
    }

    /// Accuracy and calibration of pairs, rankings or verdicts; nothing of rows that prefer nothing.
    fn report(self, plan: &Plan, slices: &[String]) -> Result<Option<PreferenceReport>> {
        let preferences = match Preferences::new(self.batches) {
            Ok(preferences) => preferences,
            // Rows that prefer nothing have no accuracy; slices of it are asked for in vain.
            Err(evaluate::Error::Rows { .. }) if slices.is_empty() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(unknown) = slices.iter().find(|name| !preferences.labels().contains(name.as_str())) {
            bail!(Failure::Data(format!("--slices: no row has a column {unknown:?}; name one that the rows have")));
        }
        let beta = serde_json::to_value(&plan.objective)?["beta"].as_f64().unwrap_or(1.0);
        Ok(Some(PreferenceReport::of(&preferences, &self.policy, self.reference.as_deref(), beta)))
    }
}

fn show(report: &EvalReport, preferences: Option<&PreferenceReport>, as_json: bool) {
    let mut values: serde_json::Map<String, Value> =
        report.metrics.values().into_iter().map(|(name, value)| (name, json!(value))).collect();
    values.insert("loss".into(), json!(report.loss));
    values.insert("completions".into(), json!(report.rows));
    values.insert("tokens".into(), json!(report.tokens));
    if as_json {
        values.insert("preferences".into(), json!(preferences));
        println!("{}", Value::Object(values));
        return;
    }
    for (name, value) in values {
        match value.as_f64().filter(|_| value.is_f64()) {
            Some(number) => println!("{name:24} {number:.6}"),
            None => println!("{name:24} {value}"),
        }
    }
    for line in preferences.into_iter().flat_map(table) {
        println!("{line}");
    }
}

/// Accuracy and calibration, in all and by slice.
fn table(report: &PreferenceReport) -> Vec<String> {
    let head = [
        "",
        "items",
        "accuracy",
        "95 % interval",
        "by log π",
        "by log π a token",
        "margin",
        "calibration error",
        "Brier",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec(), row("all", &report.all)];
    for (label, slices) in &report.slices {
        rows.extend(slices.iter().map(|(word, slice)| row(&format!("{label} {word}"), slice)));
    }
    let mut lines = vec![String::new()];
    lines.extend(crate::screen::columns(&rows));
    let of = if report.has_reference { "log π/π_ref" } else { "log π" };
    lines.push(format!("    margins are of {of} in nats; calibrated is σ(β·margin) with β = {}", report.beta));
    lines
}

fn row(name: &str, slice: &SliceReport) -> Vec<String> {
    let estimate = |interval: Option<evaluate::stats::Interval>| {
        interval.map(|i| format!("{:.3}", i.estimate)).unwrap_or_default()
    };
    let calibration = slice.calibration.as_ref();
    let shown = slice.accuracy.or(slice.by_log_prob);
    vec![
        name.to_owned(),
        slice.items.to_string(),
        estimate(slice.accuracy),
        shown.map(|i| format!("{:.3} to {:.3}", i.low, i.high)).unwrap_or_default(),
        estimate(slice.by_log_prob),
        estimate(slice.by_mean_log_prob),
        estimate(slice.margin),
        calibration.map(|c| format!("{:.3}", c.expected_error)).unwrap_or_default(),
        calibration.map(|c| format!("{:.3}", c.brier)).unwrap_or_default(),
    ]
}
