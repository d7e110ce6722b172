//! JSON values as cells of a table: what they are called in messages, numbers, and strings that hold JSON.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Fault, Reason, excerpt};

/// The type of a value, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value with its type, short.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{} (a string)", excerpt(text)),
        Value::Bool(truth) => format!("{truth} (a boolean)"),
        Value::Number(number) => format!("{number} (a number)"),
        other => kind(other).to_owned(),
    }
}

/// The columns of an object with their types, for messages.
pub(super) fn found(object: &Map<String, Value>) -> String {
    const SHOWN: usize = 40;
    if object.is_empty() {
        return "none".to_owned();
    }
    // In one order, whatever the format gives them in.
    let mut keys: Vec<(&String, &Value)> = object.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    let mut columns: Vec<String> =
        keys.iter().take(SHOWN).map(|(key, value)| format!("{} ({})", short(key), kind(value))).collect();
    if object.len() > SHOWN {
        columns.push(format!("and {} more", object.len() - SHOWN));
    }
    columns.join(", ")
}

/// A name as it is, unless it is of a length that no name has.
fn short(name: &str) -> Cow<'_, str> {
    const LONGEST: usize = 80;
    if name.len() <= LONGEST { Cow::Borrowed(name) } else { Cow::Owned(excerpt(name)) }
}

/// A finite number.
pub(crate) fn number(value: &Value, name: &str, expected: &str) -> Result<f64, Fault> {
    value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| not_a_number(value, name, expected))
}

/// A finite number of a column, which in a file of text cells is a string.
pub(crate) fn number_cell(value: &Value, name: &str, expected: &str) -> Result<f64, Fault> {
    told_number(value).ok_or_else(|| not_a_number(value, name, expected))
}

/// A finite number, or a string that says one.
pub(super) fn told_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

fn not_a_number(value: &Value, name: &str, expected: &str) -> Fault {
    let shown = match value {
        Value::Number(_) => kind(value).to_owned(),
        other => shown(other),
    };
    Fault::new(Reason::WrongType, format!("`{name}` is {shown}, expected {expected}"))
}

/// The list or object that a string holds as JSON, else the value itself.
pub(super) fn opened(value: &Value) -> Cow<'_, Value> {
    if let Value::String(text) = value
        && text.trim_start().starts_with(['[', '{'])
        && let Ok(inner) = serde_json::from_str(text)
    {
        return Cow::Owned(inner);
    }
    Cow::Borrowed(value)
}

/// Whether a value is a list, or a string that holds one.
pub(super) fn is_list(value: &Value) -> bool {
    opened(value).is_array()
}

/// The entries of a list, or of a string that holds one.
pub(super) fn list(value: &Value, name: &str) -> Result<Vec<Value>, Fault> {
    match opened(value) {
        Cow::Borrowed(Value::Array(list)) => Ok(list.clone()),
        Cow::Owned(Value::Array(list)) => Ok(list),
        _ => Err(Fault::new(Reason::WrongType, format!("`{name}` is {}, expected a list", kind(value)))),
    }
}

/// The value without the keys that are null at any depth: columnar files give every key to every object.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_that_hold_json_are_opened() {
        assert_eq!(*opened(&json!(" [1, 2]")), json!([1, 2]));
        assert_eq!(*opened(&json!("[1, 2")), json!("[1, 2"));
        assert_eq!(*opened(&json!("12")), json!("12"));
        // Nested deeper than a parser follows, it stays a string.
        let deep = json!("[".repeat(100_000));
        assert_eq!(*opened(&deep), deep);
    }

    #[test]
    fn nulls_go_at_any_depth() {
        let value = json!({"a": null, "b": [{"c": null, "d": 1}], "e": {"f": null}});
        assert_eq!(without_nulls(value), json!({"b": [{"d": 1}], "e": {}}));
    }

    #[test]
    fn numbers_are_told_from_text_cells() {
        assert_eq!(number_cell(&json!(" 2.5 "), "x", "a finite number").unwrap().to_string(), "2.5");
        for wrong in [json!("inf"), json!("NaN"), json!(true), json!("2,5")] {
            assert!(number_cell(&wrong, "x", "a finite number").is_err(), "{wrong}");
        }
    }
}
