//! Records of one completion from those of several, and back: which numbers and whose teacher go along.
//!
//! A number of one side of a pair is named after it: `score_chosen` or `chosen_score` of a pair is `score` of the chosen
//! completion alone.

use std::collections::BTreeMap;

use crate::numbers::is_difference;
use crate::row::{Record, Row, Text};

/// The sides of a pair, in the order of its teachers, as names of numbers have them.
const SIDES: [&str; 2] = ["chosen", "rejected"];

/// Numbers that a name says belong to one side of a pair (0 for chosen), under their names without the side.
pub(crate) fn numbers_of_side(numbers: &BTreeMap<String, f64>, side: usize) -> BTreeMap<String, f64> {
    let side = SIDES[side.min(1)];
    let own = |name: &str| {
        let before = name.strip_prefix(side).and_then(|rest| rest.strip_prefix('_'));
        let after = name.strip_suffix(side).and_then(|rest| rest.strip_suffix('_'));
        before.or(after).filter(|rest| !rest.is_empty()).map(str::to_owned)
    };
    numbers.iter().filter_map(|(name, value)| Some((own(name)?, *value))).collect()
}

/// A pair whose completions have changed places, with everything that is said of each, and of one beside the other.
pub(crate) fn swapped(mut record: Record) -> Record {
    if let Row::Pair { chosen, rejected, .. } = &mut record.row {
        std::mem::swap(chosen, rejected);
    }
    record.teacher.reverse();
    let number = |(name, value): (String, f64)| {
        let value = if name == "better" || is_difference(&name) { 0.0 - value } else { value };
        (other_side(&name).unwrap_or(name), value)
    };
    record.numbers = record.numbers.into_iter().map(number).collect();
    record
}

/// The name of the number that says the same of the other side.
fn other_side(name: &str) -> Option<String> {
    let [one, other] = SIDES;
    [(one, other), (other, one)].into_iter().find_map(|(side, other)| {
        let before = name.strip_prefix(side).filter(|rest| rest.starts_with('_'));
        let after = || name.strip_suffix(side).filter(|rest| rest.ends_with('_'));
        before.map(|rest| format!("{other}{rest}")).or_else(|| after().map(|rest| format!("{rest}{other}")))
    })
}

/// One completion of a record as a record of its own, with its teacher and labels; numbers are the caller's.
pub(crate) fn alone(record: &Record, completion: usize, row: Row, numbers: BTreeMap<String, f64>) -> Record {
    let teacher = record.teacher.get(completion).cloned().into_iter().collect();
    Record {
        row,
        numbers,
        labels: record.labels.clone(),
        teacher,
        tools: record.tools.clone(),
        template_arguments: record.template_arguments.clone(),
    }
}

/// Two completions of the prompt of the first as a pair; what numbers each has are `…_chosen` and `…_rejected`, labels those
/// of the first.
pub(crate) fn join(chosen: Record, rejected: Record) -> Option<Record> {
    let (prompt, preferred) = only_completion(chosen.row)?;
    let (_, other) = only_completion(rejected.row)?;
    let named = |numbers: BTreeMap<String, f64>, side: &'static str| {
        numbers.into_iter().map(move |(name, value)| (format!("{name}_{side}"), value))
    };
    let numbers = named(chosen.numbers, SIDES[0]).chain(named(rejected.numbers, SIDES[1])).collect();
    let both_taught = chosen.teacher.len() == 1 && rejected.teacher.len() == 1;
    let teacher = if both_taught { chosen.teacher.into_iter().chain(rejected.teacher).collect() } else { Vec::new() };
    Some(Record {
        row: Row::Pair { prompt, chosen: preferred, rejected: other },
        numbers,
        labels: chosen.labels,
        teacher,
        tools: chosen.tools,
        template_arguments: chosen.template_arguments,
    })
}

/// Prompt and completion of a row that has one completion.
fn only_completion(row: Row) -> Option<(Text, Text)> {
    match row {
        Row::Labelled { prompt, completion, .. }
        | Row::Demonstration { prompt, completion }
        | Row::Judged { prompt, completion, .. } => Some((prompt, completion)),
        Row::Pair { .. } | Row::Ranked { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_side_lose_its_name() {
        let names = ["score_chosen", "rejected_score", "margin", "chosen", "chosen_", "unchosen_score", "chosen_len"];
        let numbers: BTreeMap<String, f64> =
            names.into_iter().map(str::to_owned).zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).collect();
        let expected = |entries: &[(&str, f64)]| {
            entries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(numbers_of_side(&numbers, 0), expected(&[("len", 7.0), ("score", 1.0)]));
        assert_eq!(numbers_of_side(&numbers, 1), expected(&[("score", 2.0)]));
    }
}
