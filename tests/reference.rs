//! The reference pages are made of the losses' own doc comments: `docs/reference/objectives.md` and `docs/papers.md`.
//!
//! `UPDATE_EXPECTED=1 cargo test --test reference` (or `just docs-update`) writes them again; without it they are compared. What
//! an objective needs is asked of the library; what it is comes from the sections of its doc comment, which must all be there.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use candlewick::losses::{Builtin, Needs, Objective, Recipe, ReferenceUpdate, Rows, Scored, StepWide, Teacher, trl};
use serde_json::Value;

/// The sections that the doc comment of a loss must have, in this order.
const SECTIONS: &[&str] = &["Formula", "Gradient", "When to use", "Source", "Deviations", "Checked by", "Example"];
/// Objectives that are made of others, outside the list; a mix is no method of anybody's and needs no sections.
const COMPOSITES: &[(&str, bool)] = &[
    ("mix", false),
    ("wpo", true),
    ("humanline", true),
    ("trust_region", true),
    ("tchebycheff", true),
    ("panacea", true),
    ("ordered", true),
];
/// How well a formula may be known.
const MARKS: &[&str] = &["A✓", "A", "B", "C", "D"];
const LOSSES: &str = "crates/losses/src";
const GOLDEN: &str = "crates/losses/tests/golden";
const OBJECTIVES: &str = "docs/reference/objectives.md";
const PAPERS: &str = "docs/papers.md";
/// What stands between these lines of `docs/papers.md` is written by hand.
const BY_HAND: (&str, &str) = ("<!-- by hand, from here -->", "<!-- by hand, to here -->");

#[test]
fn every_loss_says_what_it_is() {
    let problems: Vec<String> = entries().iter().flat_map(Entry::problems).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_recorded_formula_is_claimed_or_explained() {
    let recorded = recorded_formulas();
    let entries = entries();
    let mut problems = Vec::new();
    let mut claimed = BTreeSet::new();
    for entry in &entries {
        for name in entry.formulas() {
            if !recorded.contains(&name) {
                problems.push(format!("{}, # Checked by: formula-vectors.json has no entry `{name}`", entry.file));
            }
            claimed.insert(name);
        }
    }
    let explained = explained(&by_hand());
    for (name, reason) in &explained {
        if !recorded.contains(name) {
            problems.push(format!("{PAPERS}: formula-vectors.json has no entry `{name}`"));
        }
        if claimed.contains(name) {
            problems.push(format!("{PAPERS}: a loss claims `{name}`, so it needs no explanation"));
        }
        if reason.is_empty() {
            problems.push(format!("{PAPERS}: `{name}` has no reason"));
        }
    }
    for name in recorded.iter().filter(|&name| !claimed.contains(name) && !explained.contains_key(name)) {
        problems.push(format!("formula-vectors.json: no loss claims `{name}`, and {PAPERS} does not say why"));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_reference_pages_are_those_of_the_library() {
    let entries = entries();
    let pages = [(OBJECTIVES, objectives_page(&entries)), (PAPERS, papers_page(&entries))];
    #[expect(clippy::disallowed_methods, reason = "how a person asks for the pages to be written")]
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let stale: Vec<String> = pages.iter().filter_map(|(page, made)| stale(page, made, update)).collect();
    assert!(stale.is_empty(), "{}\nmake them again: UPDATE_EXPECTED=1 cargo test --test reference", stale.join("\n"));
}

#[test]
fn the_loss_that_contributing_shows_is_a_whole_one() {
    let page = read("CONTRIBUTING.md");
    let block = page.split("```rust\n").nth(1).and_then(|rest| rest.split("\n```\n").next()).expect("a file in Rust");
    let entry = Entry::parse("CONTRIBUTING.md", block, "SquaredHinge", "squared_hinge", true);
    let problems = entry.problems();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(entry.fields.iter().all(|field| !field.docs.is_empty()));
}

#[test]
fn doc_comments_come_apart_as_they_should() {
    let source = r"
/// One line
/// of summary.
///
/// Notes.
///
/// # Source
/// Doe 2020, arXiv 2001.00001. Confidence B.
///
/// # Deviations
///
/// # Checked by
/// TRL: `x`. Formulas: `a.b c`, `d` (its `key`). Properties of `e`.
#[serde(
    default,
)]
pub struct Some<O = u8> {
    /// A rate,
    /// of `[0, 1]`.
    pub rate: f64,
    /// Moved by training.
    #[serde(skip)]
    pub seen: f64,
}
";
    let entry = Entry::parse("some.rs", source, "Some", "some", true);
    assert_eq!((entry.summary.as_str(), entry.notes.as_str()), ("One line\nof summary.", "Notes."));
    assert_eq!(entry.formulas(), ["a.b c", "d"]);
    assert_eq!((entry.source(), entry.confidence()), ("Doe 2020, arXiv 2001.00001".to_owned(), "B".to_owned()));
    assert_eq!(entry.fields.len(), 1);
    assert_eq!((entry.fields[0].name.as_str(), entry.fields[0].docs.as_str()), ("rate", "A rate,\nof `[0, 1]`."));
    let problems = entry.problems();
    for problem in ["some.rs: section `# Formula` is missing", "some.rs: section `# Deviations` is empty"] {
        assert!(problems.iter().any(|found| found == problem), "{problems:?}");
    }
    let unmarked = Entry::parse("some.rs", &source.replace(" Confidence B.", ""), "Some", "some", true);
    assert_eq!(unmarked.problems().len(), problems.len() + 1);
    assert_eq!(plain_links("[`Dpo`](crate::Dpo), `[0, 1)`, [`X::y`], \\[B\\] [a](https://b.c)", &[("Dpo", "dpo")]), {
        "[`dpo`](#dpo), `[0, 1)`, `X::y`, \\[B\\] [a](https://b.c)"
    });
}

/// An objective as its file describes it.
struct Entry {
    /// Path below the root.
    file: String,
    name: String,
    type_name: String,
    /// Whether every section must be there.
    whole: bool,
    summary: String,
    /// What else stands before the first section.
    notes: String,
    sections: Vec<(String, String)>,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    docs: String,
}

impl Entry {
    fn parse(file: &str, source: &str, type_name: &str, name: &str, whole: bool) -> Self {
        let (docs, fields) = declaration(source, type_name);
        let mut sections: Vec<(String, String)> = Vec::new();
        let (mut intro, mut in_code) = (String::new(), false);
        for line in docs.lines() {
            in_code ^= line.trim_start().starts_with("```");
            match line.strip_prefix("# ").filter(|_| !in_code) {
                Some(heading) => sections.push((heading.trim().to_owned(), String::new())),
                None => {
                    let text = sections.last_mut().map_or(&mut intro, |(_, text)| text);
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        sections.iter_mut().for_each(|(_, text)| *text = text.trim().to_owned());
        let (summary, notes) = intro.trim().split_once("\n\n").unwrap_or((intro.trim(), ""));
        // Of a loss without sections, the example is code and no prose.
        let notes = notes.split("```").step_by(2).collect::<String>();
        Self {
            file: file.to_owned(),
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            whole,
            summary: summary.to_owned(),
            notes: notes.trim().to_owned(),
            sections,
            fields,
        }
    }

    fn section(&self, heading: &str) -> Option<&str> {
        self.sections.iter().find(|(known, _)| known == heading).map(|(_, text)| text.as_str())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut problem = |text: String| problems.push(format!("{}: {text}", self.file));
        if self.summary.is_empty() {
            problem(format!("`{}` has no summary in its doc comment", self.type_name));
        }
        for field in self.fields.iter().filter(|field| field.docs.is_empty()) {
            problem(format!("hyperparameter `{}` has no doc comment", field.name));
        }
        if !self.whole {
            return problems;
        }
        for &heading in SECTIONS {
            match self.section(heading) {
                None => problem(format!("section `# {heading}` is missing")),
                Some("") => problem(format!("section `# {heading}` is empty")),
                Some(text) if heading == "Example" && !text.contains("assert") => {
                    problem("section `# Example` asserts nothing".to_owned());
                }
                Some(_) if heading == "Source" && self.mark().is_empty() => {
                    problem(
                        "section `# Source` does not end with `Confidence MARK.`, a mark of A✓, A, B, C, D".to_owned(),
                    );
                }
                Some(text)
                    if heading == "Source"
                        && ["Confidence C", "Confidence D"].iter().any(|mark| text.contains(mark))
                        && !text.contains("verified") =>
                {
                    problem("section `# Source` does not say what of it is not verified".to_owned());
                }
                Some(text)
                    if heading == "Checked by"
                        && !["TRL:", "Formulas:", "formulas:", "Properties only, because"]
                            .iter()
                            .any(|by| text.contains(by)) =>
                {
                    problem("section `# Checked by` names neither `TRL:` nor `Formulas:`, nor says `Properties only, because …`".to_owned());
                }
                Some(_) => {}
            }
        }
        let order: Vec<&str> = self
            .sections
            .iter()
            .map(|(heading, _)| heading.as_str())
            .filter(|heading| SECTIONS.contains(heading))
            .collect();
        let expected: Vec<&str> = SECTIONS.iter().copied().filter(|heading| order.contains(heading)).collect();
        if order != expected {
            problem(format!("the sections are in the order {order:?}, expected {expected:?}"));
        }
        problems
    }

    /// The entries of formula-vectors.json that it is checked by.
    fn formulas(&self) -> Vec<String> {
        self.checked_by("ormulas:")
    }

    /// The names in backticks between a word and the end of its sentence, leaving out what stands in parentheses.
    fn checked_by(&self, word: &str) -> Vec<String> {
        let text = self.section("Checked by").unwrap_or_default().replace('\n', " ");
        let Some((_, rest)) = text.split_once(word) else { return Vec::new() };
        let (mut names, mut depth) = (Vec::new(), 0_usize);
        for (index, part) in rest.split('`').enumerate() {
            if index % 2 == 1 {
                names.extend((depth == 0).then(|| part.to_owned()));
                continue;
            }
            depth = (depth + part.matches('(').count()).saturating_sub(part.matches(')').count());
            if depth == 0 && part.trim_end().ends_with('.') || part.contains(". ") {
                break;
            }
        }
        names
    }

    /// `# Source` without the mark.
    fn source(&self) -> String {
        let text = self.section("Source").unwrap_or_default().replace('\n', " ");
        let text = text.split("Confidence ").next().unwrap_or_default().trim();
        text.trim_end_matches('.').to_owned()
    }

    /// What follows `Confidence`.
    fn confidence(&self) -> String {
        let text = self.section("Source").unwrap_or_default().replace('\n', " ");
        let mark = text.split_once("Confidence ").map(|(_, mark)| mark.to_owned()).unwrap_or_default();
        mark.trim().trim_end_matches('.').to_owned()
    }

    /// The first work that it names.
    fn short_source(&self) -> String {
        let source = self.source();
        let first = source.split(';').next().unwrap_or_default();
        let end = first.find("arXiv ").map_or(first.len(), |at| {
            let digits =
                first[at + 6..].find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(first.len() - at - 6);
            at + 6 + digits
        });
        with_arxiv_links(first[..end].trim_end_matches(['.', ',']))
    }

    /// The marks alone, of the first sentence.
    fn mark(&self) -> String {
        let confidence = self.confidence();
        let mut marks: Vec<&str> = Vec::new();
        for word in confidence.split(". ").next().unwrap_or_default().split([' ', ',', ':', ';', '(', ')']) {
            if MARKS.contains(&word) && !marks.contains(&word) {
                marks.push(word);
            }
        }
        marks.join(", ")
    }

    fn recipe(&self) -> Option<Recipe> {
        Recipe::from_name(&self.name).ok()
    }
}

/// The doc comment of a struct and its public fields, from lines.
fn declaration(source: &str, type_name: &str) -> (String, Vec<Field>) {
    let mut lines = source.lines();
    let (mut docs, mut attribute) = (String::new(), false);
    let mut is_empty = true;
    for line in lines.by_ref() {
        let line = line.trim_end();
        if attribute || line.starts_with("#[") {
            attribute = !line.ends_with(']');
        } else if let Some(text) = line.strip_prefix("///") {
            docs.push_str(text.strip_prefix(' ').unwrap_or(text));
            docs.push('\n');
        } else if is_struct(line, type_name) {
            is_empty = !line.ends_with('{');
            break;
        } else {
            docs.clear();
        }
    }
    let mut fields = Vec::new();
    let (mut field_docs, mut is_state) = (Vec::new(), false);
    for line in lines.take_while(|line| !is_empty && *line != "}").map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            field_docs.push(text.strip_prefix(' ').unwrap_or(text));
        } else if line.starts_with("#[serde(skip)]") {
            // State of a run, not a hyperparameter.
            is_state = true;
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            let field = Field { name: name.to_owned(), docs: field_docs.join("\n") };
            fields.extend((!is_state).then_some(field));
            (field_docs, is_state) = (Vec::new(), false);
        }
    }
    (docs, fields)
}

fn is_struct(line: &str, type_name: &str) -> bool {
    let rest = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_prefix(type_name));
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// All objectives: those of the list in its order, then those made of others.
fn entries() -> Vec<Entry> {
    let list = read(&format!("{LOSSES}/builtin/mod.rs"));
    let list = list.split_once("builtin! {").and_then(|(_, rest)| rest.split_once('}')).expect("the list of losses").0;
    let list: Vec<(&str, &str)> = list
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| line.split(','))
        .filter_map(|item| item.trim().split_once("::"))
        .collect();
    assert_eq!(list.len(), Builtin::NAMES.len(), "the list of losses as it reads and as it is: {list:?}");
    let mut entries: Vec<Entry> = list
        .into_iter()
        .zip(Builtin::NAMES)
        .map(|((file, type_name), name)| {
            let file = format!("{LOSSES}/builtin/{file}.rs");
            Entry::parse(&file, &read(&file), type_name, name, true)
        })
        .collect();
    for &(name, whole) in COMPOSITES {
        let file = format!("{LOSSES}/{name}.rs");
        if !root().join(&file).exists() {
            continue;
        }
        let source = read(&file);
        let structs = source.lines().filter_map(|line| line.strip_prefix("pub struct "));
        let names = structs.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
        let type_name = names.into_iter().find(|known| known.to_lowercase() == name.replace('_', ""));
        let type_name = type_name.unwrap_or_else(|| panic!("{file} has no struct of its name"));
        entries.push(Entry::parse(&file, &source, type_name, name, whole));
    }
    entries
}

fn objectives_page(entries: &[Entry]) -> String {
    let mut page = String::from(OBJECTIVES_INTRO);
    page.push_str("\n| name | what it is | rows | reference | whole step | also reads | source | confidence |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for entry in entries {
        let summary =
            Builtin::from_name(&entry.name).map_or(plain_links(&entry.summary, &[]), |loss| loss.summary().to_owned());
        let [rows, reference, step, also] = entry.recipe().map_or_else(
            || ["those of its parts", "", "", ""].map(str::to_owned),
            |recipe| needs_in_words(&recipe, &recipe.needs()),
        );
        let cells = [
            format!("[`{0}`](#{0})", entry.name),
            summary,
            rows,
            reference,
            step,
            also,
            entry.short_source(),
            entry.mark(),
        ];
        row(&mut page, &cells);
    }
    page.push_str("\n## Presets\n\nNames for an objective with settings of their own; every hyperparameter that is given wins over them.\n");
    page.push_str("\n| name | other names | is | with | what it is |\n|---|---|---|---|---|\n");
    for (name, preset) in Builtin::presets() {
        let settings: Value = serde_json::from_str(preset.settings).expect("the settings of a preset are JSON");
        let settings =
            settings.as_object().into_iter().flatten().map(|(key, value)| format!("`{key} = {}`", toml(value)));
        let cells = [
            format!("`{}`", preset.name),
            code_list(preset.aliases),
            format!("[`{name}`](#{name})"),
            or(&settings.collect::<Vec<_>>().join(", "), "its defaults").to_owned(),
            preset.summary.to_owned(),
        ];
        row(&mut page, &cells);
    }
    for entry in entries {
        page.push_str(&objective_section(entry, entries));
    }
    page
}

fn objective_section(entry: &Entry, entries: &[Entry]) -> String {
    let types: Vec<(&str, &str)> =
        entries.iter().map(|entry| (entry.type_name.as_str(), entry.name.as_str())).collect();
    let links = |text: &str| with_arxiv_links(&plain_links(text, &types));
    let mut text = format!("\n## {}\n\n{}\n", entry.name, links(&entry.summary));
    if !entry.notes.is_empty() {
        let _ = write!(text, "\n{}\n", links(&entry.notes));
    }
    for (heading, body) in entry.sections.iter().filter(|(heading, _)| heading != "Example") {
        // A table, a list or a block starts its own line.
        let gap = if body.starts_with(['|', '-', '*']) || body.starts_with("```") { "\n\n" } else { " " };
        let _ = write!(text, "\n**{heading}.**{gap}{}\n", links(body));
        if heading == "When to use" {
            text.push_str(&hyperparameters(entry, &links));
        }
    }
    if entry.section("When to use").is_none() {
        text.push_str(&hyperparameters(entry, &links));
    }
    let mut facts = format!("`{}` in [`{1}`](../../{1}).", entry.type_name, entry.file);
    if let Some(recipe) = entry.recipe() {
        let [rows, reference, step, also] = needs_in_words(&recipe, &recipe.needs());
        let reference = if reference.is_empty() { "" } else { " and a reference" };
        let _ = write!(facts, " Reads {rows}{reference}");
        let more = [if step.is_empty() { step } else { format!("{step} of the whole step first") }, also];
        more.iter().filter(|more| !more.is_empty()).for_each(|more| _ = write!(facts, "; {more}"));
        facts.push('.');
        let names: Vec<&str> = Builtin::NAMES
            .iter()
            .zip(Builtin::ALIASES)
            .find(|(name, _)| **name == entry.name)
            .map_or_else(Vec::new, |(_, aliases)| aliases.to_vec());
        let trl = names_of_trl(&entry.name);
        let _ = write!(facts, " Other names: {}.", or(&code_list(&names), "none"));
        let trl: Vec<&str> = trl.iter().map(String::as_str).collect();
        if !trl.is_empty() {
            let _ = write!(facts, " TRL's `loss_type`: {}.", code_list(&trl));
        }
        if let Some(loss) = recipe.loss_at_zero_margin() {
            let _ = write!(facts, " Where policy and reference agree it is {}.", (loss * 1e6).round() / 1e6);
        }
    }
    let _ = write!(text, "\n{facts}\n");
    text
}

fn hyperparameters(entry: &Entry, links: &impl Fn(&str) -> String) -> String {
    if entry.fields.is_empty() {
        return "\n**Hyperparameters.** None.\n".to_owned();
    }
    let defaults = entry.recipe().map(|recipe| serde_json::to_value(recipe).expect("a recipe is JSON"));
    let mut text = "\n| hyperparameter | default | |\n|---|---|---|\n".to_owned();
    for field in &entry.fields {
        let default = match &defaults {
            Some(defaults) => defaults.get(&field.name).map_or("not set".to_owned(), |value| match value {
                Value::Null => "not set".to_owned(),
                value => format!("`{}`", toml(value)),
            }),
            None => String::new(),
        };
        row(&mut text, &[format!("`{}`", field.name), default, links(&field.docs)]);
    }
    if let Some(Value::Object(defaults)) = &defaults {
        let unknown =
            defaults.keys().find(|key| *key != "type" && entry.fields.iter().all(|field| field.name != **key));
        assert!(unknown.is_none(), "{}: no public field of the name {unknown:?}", entry.file);
    }
    text
}

fn papers_page(entries: &[Entry]) -> String {
    let mut page = String::from(PAPERS_INTRO);
    page.push_str(
        "\n| objective | paper | confidence | recorded by TRL | recorded formulas |\n|---|---|---|---|---|\n",
    );
    for entry in entries.iter().filter(|entry| entry.whole) {
        let trl = entry.checked_by("TRL:");
        let formulas = entry.formulas();
        let cells = [
            format!("[`{0}`](reference/objectives.md#{0})", entry.name),
            with_arxiv_links(&plain_links(&entry.source(), &[])),
            plain_links(&entry.confidence(), &[]),
            code_list(&trl.iter().map(String::as_str).collect::<Vec<_>>()),
            code_list(&formulas.iter().map(String::as_str).collect::<Vec<_>>()),
        ];
        row(&mut page, &cells);
    }
    let (from, to) = BY_HAND;
    let _ = write!(page, "\n{PAPERS_REST}\n{from}\n{}\n{to}\n", by_hand());
    page
}

/// Rows, reference, step-wide statistics and whatever else it reads, in words.
fn needs_in_words(recipe: &Recipe, needs: &Needs) -> [String; 4] {
    let step = match needs.step_wide {
        StepWide::Nothing => "",
        StepWide::Mismatched => "mismatched completions",
        StepWide::AllRows => "all rows",
    };
    let outputs = [
        (needs.outputs.mean_log_probs, "mean log-probabilities"),
        (needs.outputs.log_sum_sq_probs, "`log Σ p²`"),
        (needs.outputs.entropy, "entropies"),
        (needs.outputs.is_top1, "whether a token is the most probable"),
    ];
    let mut also: Vec<String> = outputs.iter().filter(|(read, _)| *read).map(|(_, what)| (*what).to_owned()).collect();
    also.extend(needs.numbers.iter().map(|number| format!("column `{}`, {}", number.name, number.range())));
    also.extend((needs.scored == Scored::Edits).then(|| "edited tokens only".to_owned()));
    match needs.teacher {
        Teacher::None => {}
        Teacher::LogProbs => also.push("a teacher".to_owned()),
        Teacher::WithReference => also.push("a teacher and its reference".to_owned()),
    }
    also.extend((recipe.reference_update() != ReferenceUpdate::Frozen).then(|| "the reference moves".to_owned()));
    also.extend(recipe.state().is_some().then(|| "state in checkpoints".to_owned()));
    // The mismatched completions are scored by the reference too, so that "yes" covers them.
    let rows = if needs.rows == Rows::ANY { "any rows".to_owned() } else { needs.rows.to_string() };
    [rows, if needs.reference { "yes" } else { "" }.to_owned(), step.to_owned(), also.join("; ")]
}

/// TRL's names of losses in the recorded cases that mean this objective.
fn names_of_trl(name: &str) -> Vec<String> {
    let mut known = BTreeSet::new();
    for file in std::fs::read_dir(root().join(GOLDEN)).expect("the recorded cases") {
        let path = file.expect("a file").path();
        let is_trl = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trl_"));
        if is_trl {
            loss_types(&json(&path), &mut known);
        }
    }
    // `sigmoid` of `CPOTrainer` is another loss; what only that trainer has is asked of it.
    let means_it = |loss_type: &String| {
        let trainer = if loss_type == "simpo" { "cpo" } else { "dpo" };
        let options = serde_json::json!({ "trainer": trainer, "loss_type": loss_type });
        let recipe = serde_json::from_value::<trl::Options>(options).ok().and_then(|options| options.recipe().ok());
        recipe.is_some_and(|recipe| recipe.name() == name)
    };
    known.into_iter().filter(means_it).collect()
}

fn loss_types(value: &Value, known: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| loss_types(value, known)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("loss_type", Value::String(name)) => _ = known.insert(name.clone()),
                    ("loss_types", Value::Array(names)) => {
                        known.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    _ => loss_types(value, known),
                }
            }
        }
        _ => {}
    }
}

fn recorded_formulas() -> BTreeSet<String> {
    let vectors = json(&root().join(GOLDEN).join("formula-vectors.json"));
    vectors["results"].as_object().expect("results by name").keys().cloned().collect()
}

/// What people wrote between the markers of `docs/papers.md`.
fn by_hand() -> String {
    let page = read(PAPERS);
    let (from, to) = BY_HAND;
    let rest = page.split_once(from).unwrap_or_else(|| panic!("{PAPERS} has no line `{from}`")).1;
    rest.split_once(to).unwrap_or_else(|| panic!("{PAPERS} has no line `{to}`")).0.trim().to_owned()
}

/// The rows of the table by hand: the names in backticks of the first cell, with the reason in the second.
fn explained(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix('|')?.split_once(" | "));
    let mut explained = BTreeMap::new();
    for (names, reason) in rows.filter(|(names, _)| names.contains('`')) {
        let reason = reason.trim_end_matches(['|', ' ']);
        let names = names.split('`').skip(1).step_by(2).map(|name| name.replace("\\|", "|"));
        explained.extend(names.map(|name| (name, reason.to_owned())));
    }
    explained
}

/// Links of rustdoc as Markdown: those to an objective lead to its section, the others become code.
fn plain_links(text: &str, types: &[(&str, &str)]) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let escaped = rest[..at].ends_with('\\');
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        // `[0, 1)` is an interval, and what stands after it may be a link.
        let close = rest.find(']').filter(|&close| !escaped && !rest[1..close].contains('['));
        let Some(close) = close else {
            plain.push('[');
            rest = &rest[1..];
            continue;
        };
        let (label, after) = (&rest[1..close], &rest[close + 1..]);
        let target = after.strip_prefix('(').and_then(|after| after.split_once(')')).map(|(target, _)| target);
        let is_path = target.is_some_and(|target| target.contains("::"));
        let is_code = label.len() > 2 && label.starts_with('`') && label.ends_with('`');
        let is_rustdoc = is_path || (is_code && target.is_none());
        if !is_rustdoc {
            plain.push('[');
            rest = &rest[1..];
            continue;
        }
        let name = types.iter().find(|(known, _)| label.trim_matches('`') == *known).map(|(_, name)| name);
        match name {
            Some(name) => plain.push_str(&format!("[`{name}`](#{name})")),
            None => plain.push_str(label),
        }
        rest = if is_path { &after[target.map_or(0, str::len) + 2..] } else { after };
    }
    plain + rest
}

/// `arXiv 1234.56789` as a link.
fn with_arxiv_links(text: &str) -> String {
    let mut parts = text.split("arXiv ");
    let mut linked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(part.len());
        let number = part[..end].trim_end_matches('.');
        let rest = &part[number.len()..];
        if number.len() >= 9 {
            let _ = write!(linked, "[arXiv {number}](https://arxiv.org/abs/{number}){rest}");
        } else {
            let _ = write!(linked, "arXiv {part}");
        }
    }
    linked
}

/// A line of a table.
fn row(page: &mut String, cells: &[String]) {
    for cell in cells {
        let cell = cell.replace('\n', " ").replace('|', "\\|");
        let _ = write!(page, "| {cell} ");
    }
    page.push_str("|\n");
}

fn code_list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// A value as configuration has it.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Says where a page differs from what it should be, or writes it.
fn stale(page: &str, made: &str, update: bool) -> Option<String> {
    let path = root().join(page);
    if update {
        std::fs::create_dir_all(path.parent()?).expect("a folder for the page");
        std::fs::write(&path, made).unwrap_or_else(|e| panic!("{page}: {e}"));
        return None;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    if there == made {
        return None;
    }
    let lines = there.lines().chain([""]).zip(made.lines().chain([""]));
    let (line, (old, new)) = lines.enumerate().find(|(_, (old, new))| old != new).unwrap_or_default();
    Some(format!("{page}:{}: is\n  {old}\nand would be\n  {new}", line + 1))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

const OBJECTIVES_INTRO: &str = "\
# Objectives

<!-- Made of the doc comments of the losses by `just docs-update`; changes here are lost. -->

Every objective that configuration can name, as `[objective] type = \"…\"` with its hyperparameters beside it, and as a struct of
`candlewick::losses`. Names may be written with `-` for `_`. `Δ = Σ_t (log π − log π_ref)` is the log-ratio of a completion in nats,
`w` the chosen and `l` the rejected completion of a pair, `σ` the logistic function. What an objective needs is that of its
default settings. [`docs/papers.md`](../papers.md) says what the marks of confidence mean and which recorded values settle what.
";

const PAPERS_INTRO: &str = "\
# Objectives and papers

<!-- Made of the doc comments of the losses by `just docs-update`; only the last table is written by hand. -->

Where every objective comes from, and the recorded values that its value and gradient must agree with. The mark says how well the
formula is known:

| mark | the formula was |
|---|---|
| A✓ | read in code of the authors or of a reference library, and that code's numbers agree in value and gradient |
| A | read in such code |
| B | read in the paper, its poster or its authors' notes |
| C | taken from somebody else's account or code |
| D | known from an abstract and from memory: a hypothesis |

*Recorded by TRL* are cases of `crates/losses/tests/golden/trl_*.json`, *recorded formulas* entries of
`crates/losses/tests/golden/formula-vectors.json`; losses must agree with both to 1e-9 in f64. The formulas were worked out from the
same notes as the losses, so they check the arithmetic and not the reading of the paper.

## From objective to paper
";

const PAPERS_REST: &str = "\
## Recorded formulas that no objective computes

`formula-vectors.json` also holds values of methods that are no objectives, or not yet. Each has its reason.
";
