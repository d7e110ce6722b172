//! `wick objectives`: the list of losses, and one of them in full.

use anyhow::{Result, anyhow};
use candlewick::losses::{
    Builtin, Dpo, Humanline, Mix, Objective, Ordered, OrderedBy, Panacea, Part, Recipe, ReferenceUpdate, Scored, Sft,
    StepWide, Tchebycheff, Teacher, TrustRegion, Wpo,
};
use serde::Serialize;
use serde_json::Value;

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
    let made = composites().into_iter().map(|(recipe, summary)| (recipe.name(), summary));
    let all: Vec<(&str, &str)> = losses.chain(presets).chain(made).collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, summary) in all {
        println!("{name:width$}  {summary}");
    }
    println!("\n`wick objectives NAME` tells what one reads and its settings.");
}

fn describe(name: &str) -> Result<()> {
    let made = composites().into_iter().find(|(recipe, _)| recipe.name().eq_ignore_ascii_case(name));
    if let Some((example, summary)) = made {
        println!("{}: {summary}", example.name());
        println!("\nmade of other objectives, which are written out in it, and reads what they read; for example");
        println!("\n{}", section(&example)?);
        return Ok(());
    }
    let loss = Builtin::parse(name).map_err(|error| anyhow!(Failure::Usage(error.to_string())))?;
    println!("{}: {}", loss.name(), loss.summary());
    for (of, preset) in Builtin::presets().filter(|(of, _)| *of == loss.name()) {
        println!("  {}: {} ({of} with {})", preset.name, preset.summary, preset.settings);
    }
    println!("\nreads {}", reads(&loss).join(", "));
    println!("\n{}", section(&loss.into())?);
    Ok(())
}

/// The objectives that are made of others, each as it may be written, with one line about it.
fn composites() -> [(Recipe, &'static str); 7] {
    let dpo = || Recipe::Builtin(Dpo::default().into());
    let safer = || Ordered { by: OrderedBy::Safer, loss: Box::new(dpo()) }.into();
    let sft = Recipe::Builtin(Sft {}.into());
    let mix = Mix { parts: vec![Part { weight: 1.0, loss: dpo() }, Part { weight: 0.5, loss: sft }] };
    [
        (mix.clone().into(), "a weighted sum of objectives"),
        (
            Wpo { loss: Box::new(dpo()) }.into(),
            "any loss of pairs, each pair weighted by how likely the policy would write both completions itself",
        ),
        (
            Humanline::new(Box::new(dpo())).into(),
            "any loss, on log-ratios of single tokens to a reference held within bounds",
        ),
        (TrustRegion::new(Box::new(dpo())).into(), "any loss with a reference, which follows the policy"),
        (
            Tchebycheff { mix, ideals: Vec::new(), temperature: 0.0 }.into(),
            "the worst of several objectives, each weighed and measured from its ideal",
        ),
        (
            Panacea::new(Mix { parts: vec![Part { weight: 1.0, loss: dpo() }, Part { weight: 1.0, loss: safer() }] })
                .into(),
            "several objectives, weighted by a preference that is drawn for every step and told to the model (model.lora.preferences)",
        ),
        (safer(), "any loss of pairs, in the order that a number of the row says"),
    ]
}

/// The section `[objective]` of a configuration, which says all there is to say.
fn section(recipe: &Recipe) -> Result<String> {
    #[derive(Serialize)]
    struct Configuration<'a> {
        objective: &'a Recipe,
    }
    let text = toml::to_string(&Configuration { objective: recipe })?;
    let mut lines = vec![text.trim_end().to_owned()];
    let mut unset = Vec::new();
    find_unset("", &serde_json::to_value(recipe)?, &mut unset);
    if !unset.is_empty() {
        lines.push(format!("# not set, and without a value of their own: {}", unset.join(", ")));
    }
    Ok(lines.join("\n"))
}

/// The dotted keys of options without a value, which TOML cannot write.
fn find_unset(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null => found.push(path.to_owned()),
        Value::Object(fields) => {
            for (key, value) in fields {
                find_unset(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, found);
            }
        }
        _ => {}
    }
}

fn reads(objective: &dyn Objective) -> Vec<String> {
    let needs = objective.needs();
    let mut reads = vec![needs.rows.to_string()];
    reads.push(if needs.reference { "a reference" } else { "no reference" }.to_owned());
    reads.extend(needs.numbers.iter().map(|number| format!("the column `{}` ({})", number.name, number.meaning)));
    let further = [
        (needs.scored == Scored::Edits, "only the tokens in which the two sides differ"),
        (needs.teacher == Teacher::LogProbs, "a teacher's log-probabilities"),
        (needs.teacher == Teacher::WithReference, "a teacher's log-probabilities and those of its reference"),
        (needs.step_wide == StepWide::Mismatched, "mismatched completions, which the batches bring"),
        (
            needs.step_wide == StepWide::AllRows,
            "the scores of the whole step first, which costs a second forward pass where a step has several micro-batches",
        ),
        (
            objective.reference_update() != ReferenceUpdate::Frozen,
            "a reference that moves at the optimizer's steps (update = \"frozen\" keeps it in its place)",
        ),
    ];
    reads.extend(further.into_iter().filter(|(does, _)| *does).map(|(_, what)| what.to_owned()));
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick::train::Words;

    #[test]
    fn every_block_is_the_section_of_a_configuration() {
        let presets: Vec<&str> = Builtin::presets().map(|(_, preset)| preset.name).collect();
        let losses = Builtin::NAMES.iter().chain(&presets).map(|name| Recipe::from_name(name).expect("a loss"));
        for recipe in losses.chain(composites().map(|(recipe, _)| recipe)) {
            let block = section(&recipe).expect("text");
            assert!(block.starts_with("[objective]\n"), "{block}");
            let config = Words::parse(&block, "a block").and_then(|words| words.config()).expect(&block);
            assert_eq!(config.objective, recipe, "{block}");
        }
        let moving = section(&Recipe::from_name("tr_dpo").expect("a loss")).expect("text");
        assert!(moving.contains("[objective.update.soft]\n"), "{moving}");
    }

    #[test]
    fn options_without_a_value_are_named() {
        let block = section(&Recipe::from_name("bco").expect("a loss")).expect("text");
        assert!(block.ends_with("# not set, and without a value of their own: density_ratio"), "{block}");
    }

    #[test]
    fn all_that_are_made_of_others_are_told() {
        // The error lists every name that a `type` may have.
        let error = serde_json::from_str::<Recipe>("{}").expect_err("no type").to_string();
        let names = error.split("one of ").nth(1).expect("names");
        let losses = Builtin::NAMES.len();
        let made: Vec<&str> =
            names.split(", ").skip(losses).map(|name| name.split(' ').next().unwrap_or(name)).collect();
        assert_eq!(made, composites().map(|(recipe, _)| recipe.name()));
        for (recipe, _) in composites() {
            recipe.validate().expect("an example that can be used");
        }
    }
}
