//! `wick data make --world safety`: pairs with labels of helpfulness and of safety, whose truth is known.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candlewick::data::{SafetyPrompt, SafetyRow, SafetyWorld};
use candlewick::model::{CausalLm, Config};
use candlewick::train::replace_file;
use serde_json::{Value, json};

use super::make::write;
use super::words::DataMake;
use crate::failure::Failure;
use crate::world::lexicon::{BEGIN, END, UNKNOWN, tokenizer_config_json, tokenizer_json_of};

/// Width and layers of the model with random weights.
const WIDTH: usize = 64;
const LAYERS: usize = 2;

/// Writes the files.
pub(super) fn make(arguments: &DataMake) -> Result<()> {
    for (name, given) in [("--imbalance", arguments.imbalance != 1), ("--teacher", arguments.teacher.is_some())] {
        if given {
            bail!(Failure::Usage(format!("{name}: --world safety has no such rows; leave it out")));
        }
    }
    let directory = &arguments.directory;
    let world = SafetyWorld::new(arguments.seed).with_noise(arguments.noise)?;
    let file = |name: &str| directory.join(format!("{name}.jsonl"));
    write(&file("safety"), world.rows(arguments.rows).iter().map(SafetyRow::to_json))?;
    write(&file("held_out"), world.held_out_rows(arguments.held_out).iter().map(SafetyRow::to_json))?;
    let demonstrations = world.demonstrations(arguments.rows);
    let demonstration = |(prompt, answer): &(SafetyPrompt, _)| -> Value {
        let candlewick::data::SafetyAnswer { text, reward, cost } = answer;
        json!({ "prompt": prompt.text(), "completion": text, "reward": reward, "cost": cost })
    };
    write(&file("demonstrations"), demonstrations.iter().map(demonstration))?;
    let prompt = |prompt: &SafetyPrompt| json!({ "prompt": prompt.text(), "harmful": prompt.is_harmful() });
    write(&file("prompts"), SafetyWorld::held_out_prompts().iter().map(prompt))?;
    if arguments.model {
        write_model(&directory.join("model"), arguments.seed)?;
    }
    println!(
        "{} pairs to train on, {} held out, {} demonstrations and {} held-out prompts are in {}",
        arguments.rows,
        arguments.held_out,
        arguments.rows,
        SafetyWorld::held_out_prompts().len(),
        directory.display()
    );
    Ok(())
}

/// A model of random weights that knows the words of the world.
fn write_model(directory: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let words: Vec<&str> = [UNKNOWN, BEGIN, END].into_iter().chain(SafetyWorld::vocabulary()).collect();
    CausalLm::<f32>::random(Config::llama(words.len(), WIDTH, LAYERS), seed)?.save(directory)?;
    replace_file(&directory.join("tokenizer.json"), tokenizer_json_of(&words).to_string().as_bytes())?;
    replace_file(&directory.join("tokenizer_config.json"), tokenizer_config_json().to_string().as_bytes())?;
    Ok(())
}
