//! One completion a row: to imitate, with a verdict, with a judgment in words, with scores of several attributes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Reading;
use super::aliases::is_score;
use super::columns::{Columns, View};
use super::prompt::{record, with_completion};
use super::value::{kind, number_cell, opened, shown, told_number};
use super::words;
use crate::error::{Fault, Reason};
use crate::row::{Record, Row};

/// `{"prompt": "p", "completion": "a", "label": true}`.
pub(super) fn labelled(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let (prompt, completion) = with_completion(view)?;
    record(view, Row::Labelled { prompt, completion, desirable: label(view)? })
}

/// `{"prompt": "p", "completion": "a"}`.
pub(super) fn demonstration(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let (prompt, completion) = with_completion(view)?;
    record(view, Row::Demonstration { prompt, completion })
}

/// `{"prompt": "p", "completion": "a", "judgment": "…", "positive": false}`.
pub(super) fn judged(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let (prompt, completion) = with_completion(view)?;
    let value = view.need("judgment")?;
    let judgment = value.as_str().map(str::to_owned).ok_or_else(|| {
        Fault::new(Reason::WrongType, format!("`{}` is {}, expected a string", view.name("judgment"), kind(value)))
    })?;
    let positive = positive(view)?;
    record(view, Row::Judged { prompt, completion, judgment, positive })
}

/// `{"prompt": "p", "response": "a", "helpfulness": 4, "correctness": 3}`: a demonstration whose attributes are numbers of the
/// record, and that of the criterion is its `score` too.
pub(super) fn rated(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let (prompt, completion) = with_completion(view)?;
    let attributes = attributes(view)?;
    let mut record = record(view, Row::Demonstration { prompt, completion })?;
    if let Some(criterion) = reading.criterion.as_deref().or_else(|| default_criterion(&attributes)) {
        let score = *attributes.get(criterion).ok_or_else(|| {
            let there: Vec<&str> = attributes.keys().map(String::as_str).collect();
            Fault::new(
                Reason::MissingColumn,
                format!("no attribute `{criterion}`, which is the criterion; found {}", there.join(", ")),
            )
        })?;
        record = record.with_number("score", score);
    }
    record.numbers.extend(attributes);
    Ok(record)
}

/// Attributes that data sets of ratings have.
pub(super) const ATTRIBUTES: [&str; 16] = [
    "helpfulness",
    "correctness",
    "coherence",
    "complexity",
    "verbosity",
    "honesty",
    "truthfulness",
    "instruction_following",
    "harmlessness",
    "toxicity",
    "humor",
    "creativity",
    "quality",
    "safety",
    "relevance",
    "overall",
];

/// The attribute that decides unless another is asked for.
fn default_criterion(attributes: &BTreeMap<String, f64>) -> Option<&'static str> {
    ["helpfulness", "overall", "quality"].into_iter().find(|name| attributes.contains_key(*name))
}

/// The names of the attributes of a row.
pub(super) fn attribute_names(view: View<'_>) -> Vec<String> {
    if let Some(parts) = view.columns.parts(view.object, "attributes") {
        return parts.iter().map(|(path, _)| last_name(path).to_owned()).collect();
    }
    match view.get("attributes").map(opened).as_deref() {
        Some(Value::Object(scores)) => scores.keys().cloned().collect(),
        Some(_) if view.columns.is_given("attributes") => vec![last_name(view.name("attributes")).to_owned()],
        _ => {
            let known = ATTRIBUTES.into_iter().filter(|name| view.plain(name).is_some_and(is_score));
            known.map(str::to_owned).collect()
        }
    }
}

fn attributes(view: View<'_>) -> Result<BTreeMap<String, f64>, Fault> {
    let scores: BTreeMap<String, f64> = match view.columns.parts(view.object, "attributes") {
        Some(parts) => parts
            .into_iter()
            .map(|(path, value)| {
                let value = value.ok_or_else(|| {
                    Fault::new(
                        Reason::MissingColumn,
                        format!("no `{path}`; found {}", super::value::found(view.object)),
                    )
                })?;
                Ok((last_name(path).to_owned(), score(value, path)?))
            })
            .collect::<Result<_, Fault>>()?,
        None => match view.get("attributes").map(|value| (value, opened(value).into_owned())) {
            Some((_, Value::Object(scores))) => scores
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| Ok((name.clone(), score(value, &format!("{}.{name}", view.name("attributes")))?)))
                .collect::<Result<_, Fault>>()?,
            Some((value, _)) => {
                let name = view.name("attributes");
                [(last_name(name).to_owned(), score(value, name)?)].into()
            }
            None => ATTRIBUTES
                .into_iter()
                .filter_map(|name| Some((name, view.plain(name)?)))
                .map(|(name, value)| Ok((name.to_owned(), score(value, name)?)))
                .collect::<Result<_, Fault>>()?,
        },
    };
    if scores.is_empty() {
        return Err(view.lacks("attributes"));
    }
    Ok(scores)
}

fn last_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A number; of a boolean 1 or 0.
pub(super) fn score(value: &Value, name: &str) -> Result<f64, Fault> {
    match value {
        Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        Value::String(text) if told_number(value).is_none() => match words::label(value) {
            Some(truth) if !text.trim().is_empty() => Ok(f64::from(u8::from(truth))),
            _ => number_cell(value, name, "a finite number"),
        },
        other => number_cell(other, name, "a finite number"),
    }
}

fn label(view: View<'_>) -> Result<bool, Fault> {
    let value = view.need("label")?;
    words::label(value).ok_or_else(|| {
        let shown = if value.is_string() { shown(value) } else { number_or_kind(value) };
        Fault::new(Reason::WrongType, format!("`{}` is {shown}, expected {}", view.name("label"), words::LABEL_WORDS))
    })
}

fn number_or_kind(value: &Value) -> String {
    if value.is_number() { shown(value) } else { kind(value).to_owned() }
}

/// From which `score` on a judgment is positive: as in the data that CUT (Xu et al. 2023) was trained on.
const POSITIVE_FROM: f64 = 7.0;

/// A scale that ends below the score from which on a judgment is positive has to be asked about.
pub(super) fn check_scale(rows: &[Map<String, Value>], columns: &Columns) -> Result<(), String> {
    const SHORT: f64 = 5.0;
    let scores = || rows.iter().filter_map(|row| columns.value(row, "score").and_then(told_number));
    let said = rows.iter().any(|row| columns.value(row, "positive").is_some());
    if said || scores().next().is_none() || scores().any(|score| score > SHORT) {
        return Ok(());
    }
    Err(format!(
        "`{}` is {SHORT} at most in the first rows, and counts as positive from {POSITIVE_FROM} of 10 on; say which judgments \
         are positive in a column of true and false, as columns = {{ positive = \"…\" }}",
        columns.in_file("score")
    ))
}

fn positive(view: View<'_>) -> Result<bool, Fault> {
    if view.get("positive").is_none()
        && let Some(score) = view.get("score")
    {
        return Ok(number_cell(score, view.name("score"), "a finite number")? >= POSITIVE_FROM);
    }
    let value = view.need("positive")?;
    let told = if value.is_number() { None } else { words::label(value) };
    told.ok_or_else(|| {
        let name = view.name("positive");
        Fault::new(Reason::WrongType, format!("`{name}` is {}, expected true (nothing wrong) or false", kind(value)))
    })
}
