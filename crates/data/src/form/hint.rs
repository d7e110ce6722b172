//! What is said of a layout that is not known: the nearest form, and a mapping that would work.

use serde_json::{Map, Value};

use super::Form;
use super::aliases::ALIASES;
use super::columns::{Columns, View};
use super::detect::{LAYOUTS, Layout, told, verdicts};

/// Which forms there are, the nearest one and what it lacks.
pub(super) fn expected(view: View<'_>) -> String {
    let verdicts = verdicts(view);
    let single = view.has("prompt") && view.has("completion");
    let nearest = if single && !verdicts.is_empty() {
        format!(
            "of prompt and completion it could be a demonstration, and of {} a label, an attribute or neither (form = \
             \"prompt_completion\", or columns = {{ label = \"{}\" }}, or columns = {{ attributes = [\"{}\"] }}); ",
            verdicts.join(", "),
            verdicts.first().map_or("", String::as_str),
            verdicts.join("\", \"")
        )
    } else {
        near(view).map_or(String::new(), |(name, lacks)| format!("the nearest is {name}, which lacks {lacks}; "))
    };
    let forms: Vec<String> = Form::ALL.iter().map(|(_, name, needs)| format!("{name} ({needs})")).collect();
    format!("{nearest}the forms are: {}", forms.join("; "))
}

/// The form that has the most of its columns here, with those that are not.
fn near(view: View<'_>) -> Option<(&'static str, String)> {
    let lacks = |layout: &Layout| layout.needs.iter().filter(|name| !view.has(name)).count();
    let partly = |layout: &&Layout| (1..layout.needs.len()).contains(&lacks(layout));
    let nearest = LAYOUTS.iter().filter(partly).min_by_key(|layout| (lacks(layout), layout.needs.len()))?;
    let missing: Vec<String> =
        nearest.needs.iter().filter(|name| !view.has(name)).map(|name| format!("`{name}`")).collect();
    Some((nearest.form.name(), missing.join(", ")))
}

/// A mapping with which the object has a form, ready to be pasted; nothing where there is none.
pub(super) fn mapping(object: &Map<String, Value>, columns: &Columns) -> String {
    let resolved = columns.resolved(object);
    let view = View { object, columns: &resolved };
    let mut mapping: Vec<(String, String)> = Vec::new();
    for ours in MAPPED {
        let there = view.has(ours);
        let under_another = resolved.in_file(ours) != ours;
        if there && !under_another {
            continue;
        }
        let column = if there { Some(resolved.in_file(ours).to_owned()) } else { alike(object, columns, ours) };
        if let Some(column) = column.filter(|column| !mapping.iter().any(|(_, used)| used == column)) {
            mapping.push((ours.to_owned(), column));
        }
    }
    // As few columns as do.
    for size in 1..=mapping.len() {
        let tried = mapping.get(..size).unwrap_or_default();
        if works(object, columns, tried) {
            return format!("; did you mean columns = {{ {} }}?", pasted(tried));
        }
    }
    String::new()
}

/// In the order in which a mapping is tried.
const MAPPED: [&str; 6] = ["prompt", "chosen", "rejected", "completion", "completions", "ratings"];

fn works(object: &Map<String, Value>, columns: &Columns, mapping: &[(String, String)]) -> bool {
    let tried = columns.with(mapping);
    let tried = tried.resolved(object);
    told(View { object, columns: &tried }).is_some()
}

fn pasted(mapping: &[(String, String)]) -> String {
    let entries: Vec<String> = mapping.iter().map(|(ours, theirs)| format!("{ours} = {theirs:?}")).collect();
    entries.join(", ")
}

/// A column whose name has one of ours in it, and which holds what ours does.
fn alike(object: &Map<String, Value>, columns: &Columns, ours: &str) -> Option<String> {
    let alias = ALIASES.iter().find(|alias| alias.ours == ours)?;
    let words = || std::iter::once(ours).chain(alias.names.iter().copied());
    let held = |name: &str| {
        let lower = name.to_lowercase();
        words().any(|word| lower == word || (word.len() > 3 && lower.contains(word)))
    };
    object
        .iter()
        .find(|(name, value)| (alias.accepts)(value) && held(name) && !columns.is_source(name))
        .map(|(name, _)| name.clone())
}

/// What may have been meant where a column is missing in a row.
pub(super) fn of_column(object: &Map<String, Value>, columns: &Columns, ours: &str) -> String {
    let alias = ALIASES.iter().find(|alias| alias.ours == ours);
    let other = alias.and_then(|alias| super::aliases::candidates(object, columns, alias).next());
    other.map_or(String::new(), |other| format!("; did you mean columns = {{ {ours} = {other:?} }}?"))
}

/// The known name that differs from a name in the fewest letters, if it is not all of them.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let closest = known.iter().map(|known| (distance(&name, known), *known)).min()?;
    (closest.0 <= 3 && closest.0 < closest.1.len()).then_some(closest.1)
}

/// How many letters have to be put in, left out or exchanged.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, letter) in left.chars().enumerate() {
        let mut before = i;
        let mut last = i + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&right) {
            let cost = before + usize::from(letter != *other);
            before = *cell;
            last = cost.min(last + 1).min(before + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["prompt", "chosen", "rejected", "completion", "completions"];
        for (name, expected) in [
            ("promt", Some("prompt")),
            ("Choosen", Some("chosen")),
            ("reject", Some("rejected")),
            ("completion", Some("completion")),
            ("xyz", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("abc", "abc")), (3, 3, 0));
    }
}
