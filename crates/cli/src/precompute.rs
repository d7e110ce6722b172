//! `wick precompute`: the log-probabilities of the reference, before there is a run that needs them.

use std::time::Instant;

use anyhow::{Result, bail};
use candlewick::losses::Objective;
use candlewick::train::{Config, Plan, Precomputation, ReferenceKind};

use crate::arguments::Precompute;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{places, words};

/// Scores what the cache lacks.
pub(crate) fn precompute(arguments: &Precompute) -> Result<()> {
    let mut plan = Plan::resolve(configuration(arguments)?)?;
    plan.train.threads = words::threads(plan.train.threads);
    let interrupt = Interrupt::listen()?;
    let mut work = Precomputation::start(plan)?;
    if let Some(choice) = work.tokens_chosen() {
        println!("{choice}");
    }
    let (before, start) = (work.rows(), Instant::now());
    let mut progress = Progress::start("precompute", 0, work.steps().map_or(0, |(_, most)| most));
    while let Some((done, _)) = work.steps() {
        if interrupt.asked() {
            work.keep()?;
            progress.finish();
            bail!(Failure::Interrupted(format!(
                "interrupted; {} completions are kept in {}, and the same command goes on from there",
                work.rows(),
                work.path().display()
            )));
        }
        progress.scored(done, work.rows() - before, start.elapsed());
        if let Err(error) = work.advance() {
            progress.finish();
            return Err(error.into());
        }
    }
    progress.finish();
    let (rows, path) = (work.rows(), work.path());
    match rows - before {
        0 => println!(
            "nothing is left to do: {} holds {rows} completions, every one of these rows among them",
            path.display()
        ),
        new => println!("{new} completions were scored; {} holds {rows}", path.display()),
    }
    Ok(())
}

/// The configuration of a run with a precomputed reference.
fn configuration(arguments: &Precompute) -> Result<Config> {
    let set = &arguments.common.set;
    let mut words = words::of_common(&arguments.common)?;
    words::assign(&mut words, set)?;
    let mut config = words.config()?;
    words::put_data_first(&mut config, &arguments.common);
    if !config.objective.needs().reference {
        let name = serde_json::to_value(&config.objective)?["type"].clone();
        bail!(Failure::Usage(format!(
            "objective.type = {name} uses no reference, so that there is nothing to compute before; choose another objective"
        )));
    }
    match (config.reference.kind, &config.reference.path) {
        (Some(ReferenceKind::Precomputed), _) | (None, None) => {}
        (Some(other), _) => bail!(Failure::Usage(format!(
            "reference.kind = {}: wick precompute makes what reference.kind = \"precomputed\" reads, the log-probabilities of the model as \
             training starts; leave reference.kind out, or set it to \"precomputed\"",
            serde_json::to_value(other)?
        ))),
        (None, Some(path)) => bail!(Failure::Usage(format!(
            "reference.path = {}: without reference.kind it names a model; set reference.kind = \"precomputed\", or leave it out and name the \
             cache by --cache",
            path.display()
        ))),
    }
    config.reference.kind = Some(ReferenceKind::Precomputed);
    if let Some(cache) = &arguments.cache {
        config.reference.path = Some(cache.clone());
    }
    config.reference.shared |= arguments.shared;
    if config.reference.path.is_none() && config.output.dir.is_none() {
        bail!(Failure::Usage(
            "--cache: missing; name the directory of the cache, or give output.dir, in which runs look for it".into()
        ));
    }
    // Nothing else is written.
    config.output.dir.get_or_insert_with(|| ".".into());
    places::resolve(&mut config)?;
    Ok(config)
}
