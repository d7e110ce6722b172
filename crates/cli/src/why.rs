//! `wick why`: which training rows moved a model towards what it says.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candlewick::data::{Batch, BatchOptions, Batches, Encoder, LastStep, Order, Row, Source, Text};
use candlewick::evaluate::influence::{Gradients, Influence};
use candlewick::losses::{Objective, Sft, StepWide};
use candlewick::model::{CausalLm, LoraConfig, Recompute, Sketch};
use candlewick::train::{
    CausalPolicy, Config, FrozenPolicy, Plan, Reference, ReferencePlan, Trainer, TrainerOptions, TuningPlan,
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
    let plan = Plan::resolve(configuration(arguments)?)?;
    let threads = words::threads(plan.train.threads);
    let encoder = Arc::new(Encoder::from_dir(&plan.model.path, plan.encode_options())?);
    let sketch = Sketch { dimensions: arguments.dimensions, seed: 0 };
    let mut trainer = trainer(&plan, &encoder, threads)?;
    let gradients = |trainer: &mut Trainer<CausalPolicy>, source: Source, limit: Option<usize>| -> Result<Gradients> {
        let all = batches(&plan, source, &encoder, limit)?;
        Ok(Gradients::of(trainer, all.into_iter().map(Ok), sketch)?)
    };
    let query = if arguments.mislabelled {
        let Some(held_out) = plan.open_held_out()? else {
            bail!(Failure::Usage(
                "--mislabelled: training rows are held against held-out ones; give [evaluation], such as held_out = 0.1".into()
            ));
        };
        gradients(&mut trainer, held_out, None)?.mean()
    } else if let Some(path) = &arguments.rows {
        gradients(&mut trainer, like(&plan, path)?, None)?.mean()
    } else {
        let (prompt, answer) =
            (arguments.prompt.clone().unwrap_or_default(), arguments.answer.clone().unwrap_or_default());
        let row = Row::Demonstration { prompt: Text::Plain(prompt), completion: Text::Plain(answer) };
        let (asked, back) = ask(trainer, &encoder, row, sketch, &plan, threads)?;
        trainer = back;
        asked
    };
    let of_training = gradients(&mut trainer, plan.open_rows()?, arguments.limit)?;
    let mut influences = of_training.on(&query);
    // Rows that speak for it come first, unless those that oppose are asked for.
    let sign = if arguments.mislabelled { 1.0 } else { -1.0 };
    influences.sort_by(|a, b| (sign * a.cosine).total_cmp(&(sign * b.cosine)));
    show(arguments, &influences);
    Ok(())
}

fn configuration(arguments: &Why) -> Result<Config> {
    let mut words = words::of_common(&arguments.common)?;
    words::put(&mut words, [("output.dir", arguments.output.clone())])?;
    words::assign(&mut words, &arguments.common.set)?;
    let mut config = words.config()?;
    words::put_data_first(&mut config, &arguments.common);
    places::resolve(&mut config)?;
    Ok(config)
}

/// The result of the run, with an adapter: its own, or a fresh one that changes nothing but has gradients.
fn trainer(plan: &Plan, encoder: &Encoder, threads: usize) -> Result<Trainer<CausalPolicy>> {
    let result = plan.output.dir.join("final");
    if !result.is_dir() {
        bail!(Failure::Model(format!(
            "{}: no such directory; name that of a run that is over by --output",
            result.display()
        )));
    }
    let load = |path: &Path| -> Result<CausalLm> {
        let model = CausalLm::load(path)?;
        encoder.check_vocabulary(model.config().vocab_size)?;
        Ok(model)
    };
    let (model, trains_all) = match &plan.model.tuning {
        TuningPlan::Full => {
            let mut model = load(&result)?;
            model.add_lora(&LoraConfig::default(), plan.train.seed)?;
            (model, true)
        }
        _ => {
            let mut model = load(&plan.model.path)?;
            model.load_adapter(&result)?;
            (model, false)
        }
    };
    let frozen = |model: CausalLm| Reference::Frozen(Box::new(FrozenPolicy::new(model, threads)));
    let reference = match &plan.reference {
        ReferencePlan::None => Reference::None,
        ReferencePlan::Model(path) => frozen(load(path)?),
        _ if trains_all => frozen(load(&plan.model.path)?),
        // What was computed before is what the model says without its adapter.
        _ => Reference::AdapterOff,
    };
    let policy = CausalPolicy::new(model, Recompute::Nothing, threads);
    let options = TrainerOptions { starts_at_reference: false, ..TrainerOptions::default() };
    Ok(Trainer::new(policy, reference, Box::new(plan.objective.clone()), options)?)
}

/// The gradient of an answer's negative log-likelihood; gives the trainer back.
fn ask(
    trainer: Trainer<CausalPolicy>,
    encoder: &Arc<Encoder>,
    row: Row,
    sketch: Sketch,
    plan: &Plan,
    threads: usize,
) -> Result<(Vec<f64>, Trainer<CausalPolicy>)> {
    let options = TrainerOptions::default();
    let mut asked = Trainer::new(trainer.into_policy(), Reference::None, Box::new(Sft::default()), options)?;
    let all = batches(plan, Source::from_rows(vec![row]), encoder, None)?;
    let query = Gradients::of(&mut asked, all.into_iter().map(Ok), sketch)?.mean();
    drop(asked);
    Ok((query, self::trainer(plan, encoder, threads)?))
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
    let mut table = vec![["cosine", "row", ""].map(str::to_owned).to_vec()];
    for influence in shown {
        let text = text_of(&influence.place).unwrap_or_default();
        table.push(vec![format!("{:+.3}", influence.cosine), influence.place.clone(), rows::shortened(&text)]);
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
