//! Several completions of one prompt that were compared two by two.
//!
//! The rating of a completion is its Copeland score: the comparisons it won, and half of those that ended in a tie.

use serde_json::Value;

use super::Reading;
use super::columns::View;
use super::ranked::row;
use super::value::{is_list, kind, shown, told_number};
use crate::error::{Fault, Reason};
use crate::row::Record;

/// Completions with `comparisons`: objects `{"i": 0, "j": 1, "winner": 1}` (null for a tie), or one verdict for each pair of
/// completions in the order 1–2, 1–3, …, 2–3, …: 1 for the first of the two, 2 for the second, 0 for a tie.
pub(super) fn read(view: View<'_>, _: &Reading) -> Result<Record, Fault> {
    let completions = view.list("completions")?;
    let comparisons = view.list("comparisons")?;
    let mut scores = vec![0.0; completions.len()];
    if comparisons.iter().all(|(_, comparison)| comparison.is_object()) {
        for (name, comparison) in &comparisons {
            let [i, j] = [index(comparison, "i", name, scores.len())?, index(comparison, "j", name, scores.len())?];
            if i == j {
                return Err(Fault::new(Reason::OutOfRange, format!("`{name}` compares completion {i} with itself")));
            }
            award(&mut scores, [i, j], winner(comparison, [i, j], name)?);
        }
    } else {
        verdicts(&comparisons, &mut scores, view)?;
    }
    row(view, &completions, scores)
}

/// Whether comparisons are of several completions, and there are as many as can be.
pub(super) fn fits(view: View<'_>) -> bool {
    let (Ok(completions), Some(comparisons)) = (view.list("completions"), view.get("comparisons")) else {
        return false;
    };
    if !is_list(comparisons) {
        return false;
    }
    let Ok(comparisons) = view.list("comparisons") else { return false };
    let objects = comparisons.iter().all(|(_, value)| value.get("i").is_some() && value.get("j").is_some());
    (objects && !comparisons.is_empty()) || comparisons.len() == pairs(completions.len())
}

fn pairs(completions: usize) -> usize {
    completions * completions.saturating_sub(1) / 2
}

fn verdicts(comparisons: &[(String, Value)], scores: &mut [f64], view: View<'_>) -> Result<(), Fault> {
    let count = scores.len();
    if comparisons.len() != pairs(count) {
        return Err(Fault::new(
            Reason::WrongType,
            format!(
                "`{}` has {} entries, expected {}: one for each pair of the {count} completions",
                view.name("comparisons"),
                comparisons.len(),
                pairs(count)
            ),
        ));
    }
    let all = (0..count).flat_map(|i| (i + 1..count).map(move |j| [i, j]));
    for (both, (name, verdict)) in all.zip(comparisons) {
        let won = match told_number(verdict) {
            Some(0.0) => None,
            Some(1.0) => Some(both[0]),
            Some(2.0) => Some(both[1]),
            _ => {
                return Err(Fault::new(
                    Reason::WrongType,
                    format!(
                        "`{name}` is {}, expected 1 for the first of two, 2 for the second or 0 for a tie",
                        shown(verdict)
                    ),
                ));
            }
        };
        award(scores, both, won);
    }
    Ok(())
}

fn award(scores: &mut [f64], both: [usize; 2], won: Option<usize>) {
    for at in both {
        let points = match won {
            Some(winner) if winner == at => 1.0,
            Some(_) => 0.0,
            None => 0.5,
        };
        if let Some(score) = scores.get_mut(at) {
            *score += points;
        }
    }
}

fn index(comparison: &Value, key: &str, name: &str, count: usize) -> Result<usize, Fault> {
    let value = comparison.get(key).unwrap_or(&Value::Null);
    let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
    match index {
        Some(index) if index < count => Ok(index),
        Some(index) => Err(Fault::new(
            Reason::OutOfRange,
            format!("`{name}.{key}` is {index}, the completions are 0 to {}", count.saturating_sub(1)),
        )),
        None => Err(Fault::new(
            Reason::WrongType,
            format!("`{name}.{key}` is {}, expected the index of a completion", kind(value)),
        )),
    }
}

fn winner(comparison: &Value, both: [usize; 2], name: &str) -> Result<Option<usize>, Fault> {
    match comparison.get("winner") {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("tie")) => Ok(None),
        Some(value) => {
            let won = value.as_u64().and_then(|index| usize::try_from(index).ok()).filter(|index| both.contains(index));
            won.map(Some).ok_or_else(|| {
                Fault::new(
                    Reason::WrongType,
                    format!("`{name}.winner` is {}, expected {}, {} or null for a tie", shown(value), both[0], both[1]),
                )
            })
        }
    }
}
