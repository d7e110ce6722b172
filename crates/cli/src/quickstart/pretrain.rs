//! Trains the untuned model from nothing, on text that is often wrong and often curt.

use std::path::Path;

use anyhow::{Context, Result};
use candlewick::model::{CausalLm, Config};
use candlewick::train::{Plan, Run, Words};

use super::{corpus, recipe};
use crate::drive::drive;
use crate::interrupt::Interrupt;

/// The seed of the shipped weights.
const SEED: u64 = 20_250;

/// Works in `home` and leaves the model in `destination`.
pub(crate) fn train(
    home: &Path,
    destination: &Path,
    steps: Option<u64>,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let steps = steps.unwrap_or(recipe::TEXT_STEPS);
    let untrained = home.join("untrained");
    for directory in [&untrained, &destination.to_path_buf()] {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    CausalLm::<f32>::random(Config::from_json(&recipe::architecture().to_string())?, SEED)?.save(&untrained)?;
    recipe::write_tokenizer(&untrained)?;
    // No text is seen twice.
    corpus::write_text(&home.join("text.jsonl"), SEED, steps as usize * recipe::TEXT_BATCH)?;
    let configuration = recipe::text_configuration(home, steps, threads);
    let plan = Plan::resolve(Words::parse(&configuration, "the text configuration")?.config()?)?;
    let mut run = Run::start(plan)?;
    drive(&mut run, "learning the language", interrupt, "start again when you like", &mut |_, _, _| Ok(()))?;
    run.trainer().policy().causal()?.model().save(destination)?;
    recipe::write_tokenizer(destination)
}
