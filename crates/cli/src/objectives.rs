//! `wick objectives`: the list of losses, and one of them in full.

use anyhow::{Result, anyhow};
use candlewick::losses::{Builtin, Objective, Recipe, ReferenceUpdate, Scored, StepWide, Teacher};

use crate::arguments::Objectives;
use crate::failure::Failure;

pub(crate) fn objectives(arguments: &Objectives) -> Result<()> {
    match &arguments.name {
        None => list(),
        Some(name) => describe(name)?,
    }
    Ok(())
}

fn list() {
    let losses = Builtin::NAMES.iter().zip(Builtin::SUMMARIES).map(|(name, summary)| (*name, *summary));
    let presets = Builtin::presets().map(|(_, preset)| (preset.name, preset.summary));
    let all: Vec<(&str, &str)> = losses.chain(presets).collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, summary) in all {
        println!("{name:width$}  {summary}");
    }
    println!("\n`wick objectives NAME` tells what one reads and its settings; a mix of several is a loss too.");
}

fn describe(name: &str) -> Result<()> {
    let recipe = Recipe::from_name(name).map_err(|error| anyhow!(Failure::Usage(error.to_string())))?;
    let Recipe::Builtin(loss) = &recipe else { return Ok(()) };
    println!("{}: {}", loss.name(), loss.summary());
    for (of, preset) in Builtin::presets().filter(|(of, _)| *of == loss.name()) {
        println!("  {}: {} ({of} with {})", preset.name, preset.summary, preset.settings);
    }
    println!("\nreads {}", reads(&recipe).join(", "));
    println!("\n[objective]\n{}", toml::to_string(&recipe)?.trim_end());
    Ok(())
}

fn reads(objective: &dyn Objective) -> Vec<String> {
    let needs = objective.needs();
    let mut reads = vec![needs.rows.to_string()];
    reads.push(if needs.reference { "a reference" } else { "no reference" }.to_owned());
    reads.extend(needs.numbers.iter().map(|number| format!("the column `{}` ({})", number.name, number.meaning)));
    let further = [
        (needs.scored == Scored::Edits, "only the tokens in which the two sides differ"),
        (needs.teacher != Teacher::None, "a teacher's log-probabilities"),
        (needs.step_wide == StepWide::Mismatched, "mismatched completions, which the batches bring"),
        (needs.step_wide == StepWide::AllRows, "the scores of the whole step first, which costs a second forward pass"),
        (objective.reference_update() != ReferenceUpdate::Frozen, "a reference that moves"),
    ];
    reads.extend(further.into_iter().filter(|(does, _)| *does).map(|(_, what)| what.to_owned()));
    reads
}
