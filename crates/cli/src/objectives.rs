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
    lines.extend(choices(recipe)?);
    Ok(lines.join("\n"))
}

/// What options may be that are none of text or number: `# KEY: WORD, WORD, …` of words, `# KEY: keys …` of tables.
fn choices(recipe: &Recipe) -> Result<Vec<String>> {
    let whole = serde_json::to_value(recipe)?;
    let mut found = Vec::new();
    let mut seek = Seek { whole: &whole, lines: &mut found };
    seek.within(&mut Vec::new(), &whole);
    // Options that are not written where they are empty.
    for key in seek.admitted(&[UNKNOWN.to_owned()], &Value::from(0)) {
        if whole.get(&key).is_none() {
            seek.option(&mut vec![key], &Value::Null);
        }
    }
    Ok(found)
}

/// A search for what the reader of configurations admits. It is asked with something it does not know, and its error lists the rest, so
/// that no list is kept beside it.
struct Seek<'a> {
    whole: &'a Value,
    lines: &'a mut Vec<String>,
}

impl Seek<'_> {
    /// Looks into all options below a value of the objective.
    fn within(&mut self, path: &mut Vec<String>, value: &Value) {
        let Value::Object(fields) = value else { return };
        for (key, value) in fields.iter().filter(|(key, _)| *key != "type" && *key != "loss" && *key != "parts") {
            path.push(key.clone());
            self.option(path, value);
            path.pop();
        }
    }

    fn option(&mut self, path: &mut Vec<String>, value: &Value) {
        let words = self.admitted(path, &Value::from(UNKNOWN));
        if !words.is_empty() {
            self.lines.push(format!("# {}: {}", shown(path), words.join(", ")));
        }
        if words.is_empty() && (value.is_null() || value.as_array().is_some_and(Vec::is_empty)) {
            self.tables(path);
        }
        // Words with options of their own: `{ word = { … } }`.
        for word in words {
            let keys = self.admitted(path, &serde_json::json!({ word.as_str(): { UNKNOWN: 0 } }));
            if !keys.is_empty() {
                self.lines.push(format!("#     {{ {word} = {{ … }} }} with {}", keys.join(", ")));
            }
        }
        if words_are_tables(value) {
            return;
        }
        self.within(path, value);
    }

    /// The keys of an option that is not there: of a table, or of each in a list of them.
    fn tables(&mut self, path: &mut Vec<String>) {
        let keys = self.admitted(path, &serde_json::json!({ UNKNOWN: 0 }));
        if !keys.is_empty() {
            self.lines.push(format!("# {}: a table with {}", shown(path), keys.join(", ")));
            return;
        }
        let keys = self.admitted(path, &serde_json::json!([{ UNKNOWN: 0 }]));
        if !keys.is_empty() {
            self.lines.push(format!("# {}: tables, each with {}", shown(path), keys.join(", ")));
        }
        path.push(FIRST.to_owned());
        for key in keys {
            path.push(key);
            self.option(path, &Value::Null);
            path.pop();
        }
        path.pop();
    }

    /// What the reader lists in the place of `probe` at a path.
    fn admitted(&self, path: &[String], probe: &Value) -> Vec<String> {
        let mut asked = self.whole.clone();
        put(&mut asked, path, probe.clone());
        let Err(error) = serde_json::from_value::<Recipe>(asked) else { return Vec::new() };
        listed(&error.to_string())
    }
}

/// A word that no option has.
const UNKNOWN: &str = "?";
/// In a path, the one table of a list.
const FIRST: &str = "[0]";

/// Whether a value is a word with options, such as `{ soft = { … } }`: these are listed with the word.
fn words_are_tables(value: &Value) -> bool {
    matches!(value, Value::Object(fields) if fields.len() == 1 && fields.values().all(Value::is_object))
}

/// Puts a value at a path of keys and places; what is missing on the way is made.
fn put(whole: &mut Value, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else {
        *whole = value;
        return;
    };
    if key == FIRST {
        *whole = Value::Array(vec![Value::Object(serde_json::Map::new())]);
        put(&mut whole[0], rest, value);
        return;
    }
    if !whole.is_object() {
        *whole = Value::Object(serde_json::Map::new());
    }
    put(&mut whole[key.as_str()], rest, value);
}

/// The names in "unknown variant `?`, expected one of `a`, `b`", "unknown field `?`, expected `a` or `b`" and "missing field `a`".
fn listed(error: &str) -> Vec<String> {
    let told =
        [format!("unknown variant `{UNKNOWN}`, "), format!("unknown field `{UNKNOWN}`, "), "missing field ".to_owned()];
    let Some(rest) = told.iter().find_map(|told| error.split(told.as_str()).nth(1)) else { return Vec::new() };
    rest.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn shown(path: &[String]) -> String {
    path.iter().filter(|key| *key != FIRST).cloned().collect::<Vec<_>>().join(".")
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
    if needs.heads > 0 {
        reads.push(format!("the values of a score model with {} heads or more", needs.heads));
    }
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
        assert!(block.contains("\n# not set, and without a value of their own: density_ratio\n"), "{block}");
        assert!(block.ends_with("\n# density_ratio: a table with min, max"), "{block}");
    }

    #[test]
    fn options_of_words_are_listed_and_every_word_can_be_written() {
        let names = Builtin::NAMES.iter().map(|name| Recipe::from_name(name).expect("a loss"));
        let mut options = 0;
        for recipe in names {
            let lines = choices(&recipe).expect("options");
            let whole = serde_json::to_value(&recipe).expect("JSON");
            for (key, value) in whole.as_object().expect("a table").iter().filter(|(key, _)| *key != "type") {
                let told = lines.iter().find_map(|line| line.strip_prefix(&format!("# {key}: ")));
                let Some(word) = value.as_str() else { continue };
                let words = told.unwrap_or_else(|| panic!("{}.{key} is {word}: {lines:?}", recipe.name()));
                assert!(words.split(", ").any(|other| other == word), "{key}: {word} is not among {words}");
                for other in words.split(", ") {
                    options += 1;
                    let mut asked = whole.clone();
                    asked[key] = other.into();
                    // Some words want options.
                    if let Err(error) = serde_json::from_value::<Recipe>(asked) {
                        assert!(error.to_string().contains("invalid type: unit variant"), "{key} = {other}: {error}");
                    }
                }
            }
        }
        assert!(options > 100, "{options}");
    }

    #[test]
    fn the_keys_of_dual_are_told_with_their_words() {
        let block = section(&Recipe::from_name("safe_rlhf_lagrangian").expect("a loss")).expect("text");
        for line in [
            "# target: soft, regress",
            "# dual: tables, each with limit, measure, ascent, window, order",
            "# dual.measure: mean, rate, rectified",
            "# dual.ascent: linear, log_gradient, exponentiated, pid",
            "#     { pid = { … } } with proportional, integral, derivative, smoothing, cap",
            "# dual.order: before, after",
        ] {
            assert!(block.lines().any(|other| other == line), "{line} is not in\n{block}");
        }
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
