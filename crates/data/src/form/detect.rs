//! Telling the form of a file from its columns: one table, the first entry that fits counts.

use serde_json::{Map, Value};

use super::aliases::{ALIASES, candidates, is_score};
use super::columns::{Columns, View};
use super::messages::is_message;
use super::value::{found, is_list, opened};
use super::{Form, Reading, comparisons, hint, pair, ranked, single, two, words};
use crate::error::Fault;
use crate::row::Record;
use crate::split;

/// How a form is told, what it needs, and how its rows are read.
pub(super) struct Layout {
    pub(super) form: Form,
    /// Our columns without which it cannot be.
    pub(super) needs: &'static [&'static str],
    /// What tells it from others that need no more.
    fits: fn(View<'_>) -> bool,
    pub(super) read: fn(View<'_>, &Reading) -> Result<Record, Fault>,
}

const PAIR: &[&str] = &["chosen", "rejected"];
const PROMPTED_PAIR: &[&str] = &["prompt", "chosen", "rejected"];
const TWO: &[&str] = &["completions"];
const SINGLE: &[&str] = &["prompt", "completion"];
const LABELLED: &[&str] = &["prompt", "completion", "label"];

macro_rules! layouts {
    ($($form:ident $needs:expr, $fits:expr, $read:expr;)*) => {
        [$(Layout { form: Form::$form, needs: $needs, fits: $fits, read: $read }),*]
    };
}

/// Every form, those first that need more.
#[rustfmt::skip]
pub(super) static LAYOUTS: [Layout; 29] = layouts! {
    LlamaFactoryPair PAIR, |view| view.name("chosen") == "chosen_messages", pair::read_weighted;
    SharegptPair PROMPTED_PAIR, |view| prompt_is(view, &["conversations", "conversation"]), pair::read;
    MessagesPair PROMPTED_PAIR, |view| prompt_is(view, &["messages"]), pair::read;
    HhPair PAIR, is_hh, pair::read_transcripts;
    StackExchangePair PROMPTED_PAIR, |view| view.name("chosen") == "response_j", pair::read;
    UltrafeedbackBinarized PROMPTED_PAIR, is_binarized, pair::read_scored;
    ArgillaPair PAIR, is_argilla, pair::read_scored;
    AlpacaPair PROMPTED_PAIR, |view| prompt_is(view, &["instruction"]), pair::read;
    OrcaPair &["system", "prompt", "chosen", "rejected"], |view| prompt_is(view, &["question", "input"]), pair::read;
    TrlPair PAIR, |_| true, pair::read;
    SafeRlhf TWO, |view| is_two(view) && two::LABELS.iter().any(|(_, column)| view.plain(column).is_some()), two::safety;
    HelpsteerPreferences TWO, |view| is_two(view) && two::STRENGTH.iter().any(|name| view.plain(name).is_some()), two::strength;
    Arena TWO, is_arena, two::voted;
    Votes &["completions", "votes"], is_two, two::voted;
    Comparisons &["prompt", "completions", "comparisons"], comparisons::fits, comparisons::read;
    Nectar &["prompt", "completions"], |view| ranked::first_has(view, "rank"), ranked::by_rank;
    Ultrafeedback &["prompt", "completions"], |view| ranked::first_has(view, "annotations"), ranked::annotated;
    OasstRanked &["prompt", "best_first"], |view| !view.has("completions") && told_elsewhere(view, "best_first"), ranked::best_first;
    Ranked &["prompt"], is_ranked, ranked::best_first;
    SharegptUnpaired &["prompt", "label"], |view| talk(view, &["conversations", "conversation"]), single::labelled;
    MessagesUnpaired &["prompt", "label"], |view| talk(view, &["messages"]), single::labelled;
    AlpacaUnpaired LABELLED, |view| prompt_is(view, &["instruction"]) && view.name("completion") == "output", single::labelled;
    Thumbs LABELLED, |view| THUMBS.contains(&view.name("label")), single::labelled;
    TrlUnpaired LABELLED, |_| true, single::labelled;
    Judged &["prompt", "completion", "judgment"], |view| view.has("positive") || view.has("score"), single::judged;
    HelpsteerRatings SINGLE, |view| view.plain("helpfulness").is_some() && single::attribute_names(view).len() > 1, single::rated;
    Rated SINGLE, |view| view.has("attributes") || single::attribute_names(view).len() > 1, single::rated;
    PromptCompletion SINGLE, is_demonstration, single::demonstration;
    Conversation &["prompt"], is_conversation, single::demonstration;
};

const THUMBS: [&str; 6] = ["thumbs_up", "thumbs", "thumb", "feedback", "liked", "rating"];

/// The layout of a form; rows of a form not yet told have none.
pub(super) fn layout(form: Form) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.form == form)
}

/// The form of the first rows of a file, or the words of an unknown one: columns found, what was expected, a hint.
pub(crate) fn detect_rows(rows: &[Map<String, Value>], columns: &Columns) -> Result<Form, (String, String, String)> {
    detect_in(rows, &union(rows), columns)
}

/// The form of one object.
pub(crate) fn detect(object: &Map<String, Value>, columns: &Columns) -> Result<Form, (String, String, String)> {
    detect_in(std::slice::from_ref(object), object, columns)
}

fn detect_in(
    rows: &[Map<String, Value>],
    object: &Map<String, Value>,
    columns: &Columns,
) -> Result<Form, (String, String, String)> {
    let resolved = columns.resolved(object);
    let view = View { object, columns: &resolved };
    let Some(form) = told(view) else {
        return Err((found(object), hint::expected(view), hint::mapping(object, columns)));
    };
    match conflict(rows, view, form) {
        None => Ok(form),
        Some(conflict) => Err((found(object), conflict, String::new())),
    }
}

/// The first form of the table that fits.
pub(super) fn told(view: View<'_>) -> Option<Form> {
    let needs = |layout: &&Layout| layout.needs.iter().all(|name| view.has(name));
    LAYOUTS.iter().find(|layout| needs(layout) && (layout.fits)(view)).map(|layout| layout.form)
}

/// One object with every column of several: of its values the first that is not empty, and rather one that is no verdict, so
/// that a rating of stars is not taken for a thumb.
pub(super) fn union(rows: &[Map<String, Value>]) -> Map<String, Value> {
    let mut union: Map<String, Value> = Map::new();
    for (name, value) in rows.iter().flatten() {
        let held = union.entry(name.clone()).or_insert(Value::Null);
        let plainer = words::label(held).is_some() && !is_empty(value) && words::label(value).is_none();
        if is_empty(held) && !value.is_null() || plainer {
            held.clone_from(value);
        }
    }
    union
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn prompt_is(view: View<'_>, names: &[&str]) -> bool {
    view.has("prompt") && !view.columns.is_given("prompt") && names.contains(&view.name("prompt"))
}

/// Whether one of ours is there under a name that the user did not give.
fn told_elsewhere(view: View<'_>, name: &'static str) -> bool {
    !view.columns.is_given(name) && view.columns.in_file(name) != name
}

fn is_transcript(view: View<'_>, name: &str) -> bool {
    view.get(name).and_then(Value::as_str).is_some_and(|text| text.starts_with(split::HH_HUMAN))
}

fn is_hh(view: View<'_>) -> bool {
    if view.has("prompt") {
        return is_transcript(view, "prompt") && ["chosen", "rejected"].iter().all(|name| is_plain(view, name));
    }
    is_transcript(view, "chosen") && is_transcript(view, "rejected")
}

fn is_plain(view: View<'_>, name: &str) -> bool {
    view.get(name).is_some_and(|value| value.is_string() && !is_talk(value))
}

/// Whether a value is a conversation.
fn is_talk(value: &Value) -> bool {
    opened(value).as_array().is_some_and(|list| list.first().is_some_and(is_message))
}

fn is_binarized(view: View<'_>) -> bool {
    is_plain(view, "prompt") && ["chosen", "rejected"].iter().all(|name| view.get(name).is_some_and(is_talk))
}

fn is_argilla(view: View<'_>) -> bool {
    let status = view.plain("status").and_then(Value::as_str);
    let scored = ["score_chosen", "score_rejected"].iter().all(|name| view.has(name) && told_elsewhere(view, name));
    scored || status.is_some_and(|status| ["tie", "unchanged", "swapped"].contains(&status))
}

fn is_two(view: View<'_>) -> bool {
    match view.columns.parts(view.object, "completions") {
        Some(parts) => parts.len() == 2,
        None => {
            view.get("completions").is_some_and(|value| opened(value).as_array().is_some_and(|list| list.len() == 2))
        }
    }
}

fn is_arena(view: View<'_>) -> bool {
    let talks = view
        .columns
        .parts(view.object, "completions")
        .is_some_and(|parts| parts.iter().all(|(name, _)| name.starts_with("conversation")));
    is_two(view) && (two::has_flags(view) || (talks && view.has("votes")))
}

fn is_ranked(view: View<'_>) -> bool {
    let rated = view.has("completions") && (view.has("ratings") || ranked::holds_text(view));
    rated || view.has("best_first")
}

/// A conversation whose last turn is the completion.
fn talk(view: View<'_>, names: &[&str]) -> bool {
    prompt_is(view, names) && !view.has("completion") && view.get("prompt").is_some_and(is_list)
}

fn is_conversation(view: View<'_>) -> bool {
    talk(view, &["messages", "conversations", "conversation"]) && verdicts(view).is_empty()
}

fn is_demonstration(view: View<'_>) -> bool {
    // A completion under a name that says less must not lose a verdict that stands beside it.
    !told_elsewhere(view, "completion") || verdicts(view).is_empty()
}

/// Columns that may be a verdict on the one completion, and that nobody said what to do with.
pub(super) fn verdicts(view: View<'_>) -> Vec<String> {
    const SCORES: [&str; 6] = ["score", "rating", "reward", "label", "quality", "overall_score"];
    let verdict = |name: &str, value: &Value| value.is_boolean() || (SCORES.contains(&name) && is_score(value));
    let unsaid = |name: &str| !view.columns.is_source(name);
    view.object
        .iter()
        .filter(|(name, value)| verdict(name, value) && unsaid(name))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Two columns for one thing, of which the choice would change what a row means.
fn conflict(rows: &[Map<String, Value>], view: View<'_>, form: Form) -> Option<String> {
    let ours: &[&'static str] = match form {
        Form::TrlUnpaired | Form::Thumbs | Form::AlpacaUnpaired => &["prompt", "completion", "label"],
        Form::SharegptUnpaired | Form::MessagesUnpaired => &["prompt", "label"],
        Form::PromptCompletion | Form::HelpsteerRatings | Form::Rated | Form::Judged => &["prompt", "completion"],
        _ => &["prompt"],
    };
    ours.iter().find_map(|name| rival(rows, view, name)).map(|(name, held, rival)| {
        format!(
            "`{held}` and `{rival}` could both be the {name}; say which it is, as columns = {{ {name} = \"{held}\" }}, or give the \
             form"
        )
    })
}

fn rival<'a>(
    rows: &[Map<String, Value>],
    view: View<'a>,
    name: &'static str,
) -> Option<(&'static str, &'a str, &'static str)> {
    let held = view.name(name);
    if view.columns.is_given(name) || !view.has(name) {
        return None;
    }
    let alias = ALIASES.iter().find(|alias| alias.ours == name)?;
    // Row by row: what one row says in one column, another may say in the other.
    let differs_in = |row: &Map<String, Value>, rival: &str| {
        let row = View { object: row, columns: view.columns };
        let text = row.get(name).and_then(Value::as_str).map(str::trim);
        let other = row.plain(rival).and_then(Value::as_str).map(str::trim);
        // Of conversations beside a prompt, and of lists, nothing is lost: the prompt is said in them.
        text.zip(other).is_some_and(|(text, other)| !other.is_empty() && !text.contains(other))
    };
    // A verdict twice is one too many, whatever the rows say.
    let differs = |rival: &&'static str| name == "label" || rows.iter().any(|row| differs_in(row, rival));
    let joined = |rival: &&'static str| held == "instruction" && *rival == "input";
    candidates(view.object, view.columns, alias)
        .filter(|rival| *rival != held && !joined(rival))
        .find(differs)
        .map(|rival| (name, held, rival))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(rows: &[Value]) -> Form {
        let rows: Vec<Map<String, Value>> = rows.iter().map(|row| row.as_object().unwrap().clone()).collect();
        detect_rows(&rows, &Columns::default()).unwrap_or_else(|(found, expected, _)| panic!("{found}; {expected}"))
    }

    #[test]
    fn every_form_has_a_layout_and_its_own_name() {
        assert_eq!(LAYOUTS.len(), Form::ALL.len());
        for (form, name, _) in Form::ALL {
            assert!(layout(form).is_some(), "{name}");
            assert_eq!(serde_json::to_value(form).unwrap(), json!(name));
            assert_eq!(form.name(), name);
        }
        assert_eq!(Form::Auto.name(), "auto");
    }

    #[test]
    fn columns_may_be_empty_in_the_first_rows() {
        let rows = [
            json!({"prompt": "p", "completion": "a", "label": null, "tools": null}),
            json!({"prompt": "p", "completion": "a"}),
            json!({"prompt": "p", "completion": "a", "label": true}),
        ];
        assert_eq!(form(&rows[..2]), Form::PromptCompletion);
        assert_eq!(form(&rows), Form::TrlUnpaired);
        let rows = [
            json!({"prompt": "p", "responses": [], "scores": []}),
            json!({"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}),
        ];
        assert_eq!(form(&rows), Form::Ranked);
    }

    #[test]
    fn stars_are_no_thumbs() {
        let rated = |rating: i32| json!({"prompt": "p", "completion": "a", "rating": rating});
        assert_eq!(form(&[rated(1), rated(-1), rated(1)]), Form::Thumbs);
        assert_eq!(form(&[rated(1), rated(4), rated(1)]), Form::PromptCompletion);
    }

    #[test]
    fn text_cells_hold_json() {
        let chat = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]"#;
        assert_eq!(form(&[json!({"messages": chat, "label": "yes"})]), Form::MessagesUnpaired);
        let rows = [json!({"prompt": "p", "responses": "[\"a\", \"b\"]", "scores": "[1, 2]"})];
        assert_eq!(form(&rows), Form::Ranked);
    }
}
