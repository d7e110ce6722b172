//! `wick why`: which training rows moved a model towards what it says.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candlewick::data::{Batch, BatchOptions, Batches, Encoder, LastStep, Order, Origin, Row, Source, Text};
use candlewick::evaluate;
use candlewick::evaluate::influence::{self, Influence, Influences};
use candlewick::losses::{Objective, ReferenceUpdate, Sft, StepWide};
use candlewick::model::{CausalLm, LoraConfig, Recompute, Sketch};
use candlewick::train::{
    AdapterReference, CausalPolicy, Config, DeviceKind, FrozenPolicy, Plan, Reference, ReferencePlan, TokenBudget,
    Trainer, TrainerOptions, TuningPlan,
};
use serde_json::json;

use crate::arguments::Why;
use crate::failure::Failure;
use crate::{places, rows, words};

/// Rows whose gradients are made at once.
const AT_ONCE: usize = 8;

/// Names the rows.
pub(crate) fn why(arguments: &Why) -> Result<()> {
    if arguments.prompt.is_none() && arguments.rows.is_none() && !arguments.mislabelled {
        bail!(Failure::Usage("nothing is asked: give --prompt with --answer, --rows, or --mislabelled".into()));
    }
    if arguments.common.device.is_some_and(|device| device != DeviceKind::Cpu) {
        bail!(Failure::Usage("--device: rows are traced on the cpu; leave it out".into()));
    }
    let mut config = configuration(arguments)?;
    if config.train.device != DeviceKind::Cpu {
        eprintln!("wick: rows are traced on the cpu, whatever train.device says");
        (config.train.device, config.train.dtype) = (DeviceKind::Cpu, None);
        config.train.tokens = TokenBudget::Tokens(0);
    }
    let plan = Plan::resolve(config)?;
    if plan.objective.reference_update() != ReferenceUpdate::Frozen {
        bail!(Failure::Usage(
            "the objective moves its reference, and rows are held against one that stood still; --set objective.update=frozen asks \
             about the loss beside the reference that the run started from"
                .into()
        ));
    }
    let threads = words::threads(plan.train.threads);
    let encoder = Arc::new(Encoder::from_dir(&plan.model.path, plan.encode_options())?);
    if plan.objective.needs().outputs.values {
        bail!(Failure::Usage(
            "objective: it trains score heads, and wick why follows gradients of the adapters of causal language models alone".into()
        ));
    }
    let sketch = Sketch { dimensions: arguments.dimensions, seed: 0 };
    let asked = asked(arguments, &plan, &encoder)?;
    let rows = batches(&plan, plan.open_rows()?, &encoder, arguments.limit)?;
    let each = |batches: &[Batch]| batches.iter().cloned().map(Ok::<_, evaluate::Error>).collect::<Vec<_>>();
    let mut influences = Influences::default();
    for state in [State::Start, State::End] {
        let mut policy = policy(&plan, state, &encoder, threads)?;
        let query = match &asked {
            Asked::Rows(batches) => {
                let mut trainer = trainer(policy, &plan, &encoder, threads)?;
                let query = influence::query(&mut trainer, each(batches), sketch)?;
                policy = trainer.into_policy();
                query
            }
            Asked::Answer(batch) => {
                let objective = Box::new(Sft::default());
                let mut trainer = Trainer::new(policy, Reference::None, objective, TrainerOptions::default())?;
                let query = influence::query(&mut trainer, each(std::slice::from_ref(batch)), sketch)?;
                policy = trainer.into_policy();
                query
            }
        };
        let query = query.context("a query without rows")?;
        influences.add(&mut trainer(policy, &plan, &encoder, threads)?, each(&rows), sketch, &query)?;
    }
    let mut influences = influences.list();
    match arguments.mislabelled {
        // A row that is wrong has a large loss as well: its size belongs to the suspicion.
        true => influences.sort_by(|a, b| a.product.total_cmp(&b.product)),
        // Rows that speak for it come first, whatever their size.
        false => influences.sort_by(|a, b| b.cosine.total_cmp(&a.cosine)),
    }
    show(arguments, &influences);
    Ok(())
}

/// What is asked about.
enum Asked {
    /// The mean of rows like those of the run.
    Rows(Vec<Batch>),
    /// An answer to a prompt.
    Answer(Batch),
}

fn asked(arguments: &Why, plan: &Plan, encoder: &Arc<Encoder>) -> Result<Asked> {
    if arguments.mislabelled {
        let Some(held_out) = plan.open_held_out()? else {
            bail!(Failure::Usage(
                "--mislabelled: training rows are held against held-out ones; give [evaluation], such as held_out = 0.1".into()
            ));
        };
        return Ok(Asked::Rows(batches(plan, held_out, encoder, None)?));
    }
    if let Some(path) = &arguments.rows {
        return Ok(Asked::Rows(batches(plan, like(plan, path)?, encoder, None)?));
    }
    let (prompt, answer) = (arguments.prompt.clone().unwrap_or_default(), arguments.answer.clone().unwrap_or_default());
    let row = Row::Demonstration { prompt: Text::Plain(prompt), completion: Text::Plain(answer) };
    let example = encoder.encode(&row, &Origin::memory(0)).map_err(|rejection| {
        Failure::Usage(format!("--prompt, --answer: {}: {}", rejection.reason, rejection.detail))
    })?;
    Ok(Asked::Answer(Batch { examples: vec![example], ..Batch::default() }))
}

/// A state of the training.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first step.
    Start,
    /// After the last.
    End,
}

fn configuration(arguments: &Why) -> Result<Config> {
    let mut words = words::of_common(&arguments.common)?;
    words::put(&mut words, [("output.dir", arguments.output.clone())])?;
    words::assign(&mut words, &arguments.common.set)?;
    let mut config = words.config()?;
    words::put_data_first(&mut config, &arguments.common);
    places::resolve(&mut config)?;
    crate::eval::warn_of_multipliers(&config);
    Ok(config)
}

/// The policy at a state of the run, with an adapter: its own, or a fresh one that changes nothing but has gradients.
fn policy(plan: &Plan, state: State, encoder: &Encoder, threads: usize) -> Result<CausalPolicy> {
    let result = plan.output.dir.join("final");
    if !result.is_dir() {
        bail!(Failure::Model(format!(
            "{}: no such directory; name that of a run that is over by --output",
            result.display()
        )));
    }
    let model = match (&plan.model.tuning, state) {
        (TuningPlan::Full, _) => {
            let mut model = load(if state == State::End { &result } else { &plan.model.path }, encoder)?;
            model.add_lora(&LoraConfig::default(), plan.train.seed)?;
            model
        }
        (TuningPlan::Lora(lora), State::Start) => {
            let mut model = load(&plan.model.path, encoder)?;
            model.add_lora(lora, plan.train.seed)?;
            model
        }
        (TuningPlan::Adapter(start), State::Start) => with_adapter(plan, start, encoder)?,
        (_, State::End) => with_adapter(plan, &result, encoder)?,
        (other, State::Start) => bail!(Failure::Usage(format!("model: wick why does not know {other:?}"))),
    };
    Ok(CausalPolicy::new(model, Recompute::Nothing, threads))
}

fn with_adapter(plan: &Plan, adapter: &Path, encoder: &Encoder) -> Result<CausalLm> {
    let mut model = load(&plan.model.path, encoder)?;
    model.load_adapter(adapter)?;
    Ok(model)
}

fn load(path: &Path, encoder: &Encoder) -> Result<CausalLm> {
    let model = CausalLm::load(path)?;
    encoder.check_vocabulary(model.config().vocab_size)?;
    Ok(model)
}

/// The trainer of the run around a policy.
fn trainer(policy: CausalPolicy, plan: &Plan, encoder: &Encoder, threads: usize) -> Result<Trainer<CausalPolicy>> {
    let frozen = |model: CausalLm| Reference::Frozen(Box::new(FrozenPolicy::new(model, threads)));
    let reference = match (&plan.reference, &plan.model.tuning) {
        (ReferencePlan::None, _) => Reference::None,
        (ReferencePlan::Model(path), _) => frozen(load(path, encoder)?),
        (ReferencePlan::AdapterOff, _) => Reference::AdapterOff,
        (ReferencePlan::Adapter(directory), _) => Reference::Adapter(AdapterReference::load(&policy, directory)?),
        // What was computed before is what the model says before training, without a fresh adapter.
        (_, TuningPlan::Adapter(start)) => frozen(with_adapter(plan, start, encoder)?),
        _ => frozen(load(&plan.model.path, encoder)?),
    };
    let options = TrainerOptions { starts_at_reference: false, ..TrainerOptions::default() };
    Ok(Trainer::new(policy, reference, Box::new(plan.objective.clone()), options)?)
}

/// Rows of another file, read as those of the run.
fn like(plan: &Plan, path: &Path) -> Result<Source> {
    let mut other = plan.clone();
    other.evaluation = None;
    if let Some(part) = other.data.parts.first_mut() {
        part.path = path.to_owned();
        part.files = Vec::new();
        part.split = None;
        part.rows = candlewick::data::RowRange::default();
    }
    other.data.parts.truncate(1);
    other.data.prompts = candlewick::data::PromptRange::default();
    Ok(other.open_rows()?)
}

/// All rows, or the first so many, a few at a time; those that cannot be used are told.
fn batches(plan: &Plan, source: Source, encoder: &Arc<Encoder>, limit: Option<usize>) -> Result<Vec<Batch>> {
    let mismatched = plan.objective.needs().step_wide == StepWide::Mismatched;
    let options = BatchOptions {
        examples: AT_ONCE,
        micro_batches: 1,
        order: Order::File,
        last_step: LastStep::Keep,
        mismatched,
        workers: plan.data.workers,
        ..BatchOptions::default()
    };
    let mut read = Batches::new(source, Arc::clone(encoder), options)?;
    let mut all: Vec<Batch> = Vec::new();
    let mut left = limit.unwrap_or(usize::MAX);
    while left > 0
        && let Some(step) = read.next_step()?
    {
        for mut batch in step {
            batch.examples.truncate(left);
            left -= batch.examples.len();
            all.push(batch);
        }
    }
    for line in rows::lines("rows", read.report()) {
        eprintln!("{line}");
    }
    if all.is_empty() {
        bail!(Failure::Data("there is no usable row".into()));
    }
    Ok(all)
}

fn show(arguments: &Why, influences: &[Influence]) {
    let shown = influences.iter().take(arguments.top);
    if arguments.json {
        for influence in shown {
            println!("{}", json!(influence));
        }
        return;
    }
    let what = match arguments.mislabelled {
        true => "training rows that most oppose the held-out ones: look at their labels",
        false => "training rows that spoke most for it",
    };
    println!("{what} ({} rows looked at)", influences.len());
    let mut table = vec![["cosine", "product", "row", ""].map(str::to_owned).to_vec()];
    for influence in shown {
        let text = text_of(&influence.place).unwrap_or_default();
        let numbers = [format!("{:+.3}", influence.cosine), format!("{:+.2e}", influence.product)];
        table.push([&numbers[..], &[influence.place.clone(), rows::shortened(&text)]].concat());
    }
    for line in crate::screen::columns(&table) {
        println!("{line}");
    }
}

/// The line of a plain file that a place names; nothing where it is not one.
fn text_of(place: &str) -> Option<String> {
    use std::io::BufRead;
    let (path, line) = place.rsplit_once(':')?;
    let line: usize = line.parse().ok()?;
    let file = std::fs::File::open(path).context("reading").ok()?;
    std::io::BufReader::new(file).lines().nth(line.checked_sub(1)?)?.ok()
}
