//! Several completions of one prompt, with ratings or in an order.
//!
//! `{"prompt": "p", "completions": ["a", "b"], "ratings": [4, 2]}`; `{"prompt": "p", "best_first": ["a", "b"]}`.

use serde_json::{Map, Value};

use super::Reading;
use super::columns::View;
use super::messages::{is_message, text};
use super::prompt::{completion, need_prompt, record};
use super::single::score;
use super::value::{kind, number, opened, told_number};
use crate::error::{Fault, Reason};
use crate::row::{Record, Row, Text};

/// Names under which completions that are objects hold their text and their rating.
const RESPONSE: [&str; 4] = ["response", "text", "answer", "completion"];
const RATING: [&str; 3] = ["rating", "overall_score", "score"];

/// Completions with ratings beside them or in them.
pub(super) fn rated(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let completions = view.list("completions")?;
    let ratings = if view.has("ratings") { ratings(view)? } else { own_ratings(view, &completions)? };
    if ratings.len() != completions.len() {
        return Err(Fault::new(
            Reason::WrongType,
            format!(
                "`{}` has {} entries and `{}` {}, expected as many",
                view.name("completions"),
                completions.len(),
                view.name("ratings"),
                ratings.len()
            ),
        ));
    }
    row(view, &completions, ratings)
}

/// Completions in a list, the best one first.
pub(super) fn best_first(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    if view.has("completions") || !view.has("best_first") {
        return rated(view, reading);
    }
    let completions = view.list("best_first")?;
    let ratings = (0..completions.len()).rev().map(|rank| rank as f64).collect();
    row(view, &completions, ratings)
}

/// Completions with a rank each, 1 for the best: the rating is its negative.
pub(super) fn by_rank(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let completions = view.list("completions")?;
    let rank = |(name, value): &(String, Value)| {
        let name = format!("{name}.rank");
        let rank = value.get("rank").ok_or_else(|| {
            Fault::new(Reason::MissingColumn, format!("no `{name}`, expected the rank of the answer"))
        })?;
        told_number(rank).map(|rank| -rank).ok_or_else(|| {
            Fault::new(Reason::WrongType, format!("`{name}` is {}, expected a finite number", kind(rank)))
        })
    };
    let ratings = completions.iter().map(rank).collect::<Result<_, _>>()?;
    row(view, &completions, ratings)
}

/// Completions annotated on several aspects, as UltraFeedback has them; the criterion is one of these, `overall_score`, or
/// `mean` of the aspects.
pub(super) fn annotated(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let completions = view.list("completions")?;
    // Scores and means are of different scales: a row is rated by the one or the other.
    let scored = completions.iter().all(|(_, value)| overall_score(value).is_some());
    let criterion = reading.criterion.as_deref().unwrap_or(if scored { "overall_score" } else { "mean" });
    let ratings = completions
        .iter()
        .map(|(name, value)| match criterion {
            "overall_score" => overall_score(value)
                .ok_or_else(|| Fault::new(Reason::MissingColumn, format!("no number at `{name}.overall_score`"))),
            "mean" => mean_of_aspects(value, name),
            aspect => aspect_rating(value, aspect).ok_or_else(|| {
                Fault::new(
                    Reason::MissingColumn,
                    format!("no number at `{name}.annotations.{aspect}.Rating`; found {}", aspects(value).join(", ")),
                )
            }),
        })
        .collect::<Result<_, _>>()?;
    row(view, &completions, ratings)
}

/// What a criterion may be, told from the first completion.
pub(super) fn criteria(view: View<'_>) -> Vec<String> {
    let completions = view.list("completions").unwrap_or_default();
    let Some((_, first)) = completions.first() else { return Vec::new() };
    ["overall_score", "mean"].into_iter().map(str::to_owned).chain(aspects(first)).collect()
}

fn aspects(completion: &Value) -> Vec<String> {
    completion.get("annotations").and_then(Value::as_object).map_or(Vec::new(), |all| all.keys().cloned().collect())
}

fn overall_score(completion: &Value) -> Option<f64> {
    completion.get("overall_score").and_then(told_number)
}

fn aspect_rating(completion: &Value, aspect: &str) -> Option<f64> {
    let annotation = completion.get("annotations")?.get(aspect)?;
    annotation.get("Rating").or_else(|| annotation.get("rating")).and_then(told_number)
}

fn mean_of_aspects(completion: &Value, name: &str) -> Result<f64, Fault> {
    let ratings: Vec<f64> = aspects(completion).iter().filter_map(|aspect| aspect_rating(completion, aspect)).collect();
    if ratings.is_empty() {
        return Err(Fault::new(
            Reason::MissingColumn,
            format!("no number at the `overall_score` of every completion, nor at any `{name}.annotations.….Rating`"),
        ));
    }
    Ok(ratings.iter().sum::<f64>() / ratings.len() as f64)
}

/// A ranked row of completions that are texts, or objects with a text in them.
pub(super) fn row(view: View<'_>, completions: &[(String, Value)], ratings: Vec<f64>) -> Result<Record, Fault> {
    let prompt = need_prompt(view)?;
    let completions = completions
        .iter()
        .zip(ratings)
        .map(|((name, value), rating)| Ok((completion_text(&prompt, value, name)?, rating)))
        .collect::<Result<_, Fault>>()?;
    record(view, Row::Ranked { prompt, completions })
}

fn completion_text(prompt: &Text, value: &Value, name: &str) -> Result<Text, Fault> {
    let response = if is_message(value) { None } else { RESPONSE.iter().find_map(|key| value.get(key)) };
    completion(prompt, text(response.unwrap_or(value), name)?, name)
}

fn ratings(view: View<'_>) -> Result<Vec<f64>, Fault> {
    let parts = view.columns.parts(view.object, "ratings").is_some();
    let rating = |(name, value): &(String, Value)| {
        if parts || value.is_boolean() { score(value, name) } else { number(value, name, "a finite number") }
    };
    view.list("ratings")?.iter().map(rating).collect()
}

/// Ratings that stand in the completions themselves.
fn own_ratings(view: View<'_>, completions: &[(String, Value)]) -> Result<Vec<f64>, Fault> {
    let rating = |(name, value): &(String, Value)| {
        let Some(object) = value.as_object() else { return Err(view.lacks("ratings")) };
        let (key, value) = own_rating(object).ok_or_else(|| {
            Fault::new(
                Reason::MissingColumn,
                format!("no `{}`, and `{name}` has no {}", view.name("ratings"), RATING.join(" or ")),
            )
        })?;
        number(value, &format!("{name}.{key}"), "a finite number")
    };
    completions.iter().map(rating).collect()
}

fn own_rating(object: &Map<String, Value>) -> Option<(&'static str, &Value)> {
    RATING.into_iter().find_map(|key| Some((key, object.get(key).filter(|value| !value.is_null())?)))
}

/// What the first of the completions has, for telling the forms apart.
pub(super) fn first_has(view: View<'_>, key: &str) -> bool {
    let Some(value) = view.get("completions") else { return false };
    opened(value).get(0).is_some_and(|first| first.get(key).is_some_and(|value| !value.is_null()))
}

/// Whether the completions are objects that hold a text.
pub(super) fn holds_text(view: View<'_>) -> bool {
    RESPONSE.iter().any(|key| first_has(view, key))
}
