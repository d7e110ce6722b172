//! Templates of a task, and the values of a row that go into them.

use candlewick_data::{Origin, RowTemplate};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// One row of a task's file.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Where it stands.
    pub origin: Origin,
    /// How many rows stand before it, those counted that are not used.
    pub number: u64,
    /// Its columns.
    pub columns: Map<String, Value>,
}

impl TaskRow {
    /// The text of a column, or of a key inside of one, as `info.group`; nothing where it is not there.
    pub(super) fn column(&self, name: &str) -> Option<String> {
        let inside = || {
            let (first, rest) = name.split_once('.')?;
            rest.split('.').try_fold(self.columns.get(first)?, |value, key| value.get(key))
        };
        let value = self.columns.get(name).or_else(inside)?;
        Some(match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        })
    }

    pub(super) fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Rows { place: self.origin.to_string(), reason: reason.into() }
    }
}

/// What templates see: the columns by their names, `row` with all of them, `number`, and what the kind of task adds.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) row: &'a TaskRow,
    whole: Value,
    number: Value,
    extra: Vec<(&'static str, Value)>,
}

impl<'a> Values<'a> {
    pub(super) fn of(row: &'a TaskRow) -> Self {
        Self { row, whole: Value::Object(row.columns.clone()), number: json!(row.number), extra: Vec::new() }
    }

    /// Adds a variable, or gives it another value.
    pub(super) fn set(&mut self, name: &'static str, value: Value) {
        self.extra.retain(|(other, _)| *other != name);
        self.extra.push((name, value));
    }
}

/// A template and the key it stands under.
#[derive(Debug, Clone)]
pub(super) struct Field {
    key: String,
    template: RowTemplate,
}

impl Field {
    pub(super) fn new(file: &str, key: &str, source: &str) -> Result<Self> {
        let template =
            RowTemplate::new(source).map_err(|fail| Error::config(format!("{file}: {key}"), fail.to_string()))?;
        Ok(Self { key: key.to_owned(), template })
    }

    pub(super) fn optional(file: &str, key: &str, source: Option<&String>) -> Result<Option<Self>> {
        source.map(|source| Self::new(file, key, source)).transpose()
    }

    pub(super) fn all(file: &str, key: &str, sources: &[String]) -> Result<Vec<Self>> {
        sources.iter().enumerate().map(|(i, source)| Self::new(file, &format!("{key}[{i}]"), source)).collect()
    }

    /// The text it makes of a row.
    pub(super) fn text(&self, values: &Values<'_>) -> Result<String> {
        let columns = values.row.columns.iter().map(|(name, value)| (name.as_str(), value));
        let own = [("row", &values.whole), ("number", &values.number)];
        let extra = values.extra.iter().map(|(name, value)| (*name, value));
        self.template.render(columns.chain(own).chain(extra)).map_err(|fail| {
            let known: Vec<&str> = values.row.columns.keys().map(String::as_str).collect();
            values.row.wrong(format!("{}: {fail}; the row has the columns {}", self.key, known.join(", ")))
        })
    }

    /// The list of texts that it writes as JSON.
    pub(super) fn list(&self, values: &Values<'_>) -> Result<Vec<String>> {
        let text = self.text(values)?;
        let wrong = || self.wrong(values, &text, "a list of texts in JSON, as `{{ … | list | tojson }}` writes it");
        let items: Vec<Value> = serde_json::from_str(&text).map_err(|_| wrong())?;
        let texts = items.into_iter().map(|item| match item {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(wrong()),
        });
        texts.collect()
    }

    /// Numbers, as a list in JSON.
    pub(super) fn numbers(&self, values: &Values<'_>) -> Result<Vec<f64>> {
        let text = self.text(values)?;
        serde_json::from_str(&text).map_err(|_| self.wrong(values, &text, "a list of numbers in JSON"))
    }

    /// A number.
    pub(super) fn number(&self, values: &Values<'_>) -> Result<f64> {
        let text = self.text(values)?;
        let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| self.wrong(values, &text, "a number"))
    }

    /// Yes or no; nothing of an empty text.
    pub(super) fn truth(&self, values: &Values<'_>) -> Result<Option<bool>> {
        let text = self.text(values)?;
        match text.trim().to_lowercase().as_str() {
            "" => Ok(None),
            "1" | "true" | "yes" => Ok(Some(true)),
            "0" | "false" | "no" => Ok(Some(false)),
            _ => Err(self.wrong(values, &text, "1, true or yes; 0, false or no; or nothing")),
        }
    }

    /// Numbers of the right ones among the choices: a number from 0 on, a list of them, the text of a choice, or a letter from A
    /// on; none of an empty text.
    pub(super) fn indices(&self, values: &Values<'_>, choices: &[String]) -> Result<Vec<usize>> {
        let text = self.text(values)?;
        let written = text.trim();
        let wrong = || {
            let last = choices.len().saturating_sub(1);
            self.wrong(
                values,
                &text,
                &format!("a number from 0 to {last}, a list of such, one of the choices, or nothing"),
            )
        };
        let listed = if written.starts_with('[') { serde_json::from_str::<Vec<usize>>(written).ok() } else { None };
        let letter = |text: &str| match text.as_bytes() {
            [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
            _ => None,
        };
        let found = match (written, listed) {
            ("", _) => Vec::new(),
            (_, Some(list)) => list,
            (text, None) => {
                let named = || choices.iter().position(|choice| choice.trim() == text);
                vec![text.parse().ok().or_else(named).or_else(|| letter(text)).ok_or_else(wrong)?]
            }
        };
        if found.iter().any(|index| *index >= choices.len()) { Err(wrong()) } else { Ok(found) }
    }

    fn wrong(&self, values: &Values<'_>, found: &str, expected: &str) -> Error {
        let shown: String = found.chars().take(80).collect();
        values.row.wrong(format!("{}: {:?} gives {shown:?}; expected {expected}", self.key, self.template.source()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: Value) -> TaskRow {
        let Value::Object(columns) = columns else { panic!("an object") };
        TaskRow { origin: Origin::memory(3), number: 2, columns }
    }

    fn field(source: &str) -> Field {
        Field::new("t.toml", "answer", source).expect("a template")
    }

    #[test]
    fn right_choices_are_named_in_several_ways() {
        let choices = ["left".to_owned(), "7".to_owned(), "right".to_owned()];
        let row = row(json!({"n": 2, "text": "right", "letter": "B", "list": [0, 2], "none": null, "far": "9"}));
        let values = Values::of(&row);
        let of = |source: &str| field(source).indices(&values, &choices);
        assert_eq!(of("{{ n }}").expect("a number"), [2]);
        assert_eq!(of("{{ text }}").expect("a text"), [2]);
        assert_eq!(of("{{ letter }}").expect("a letter"), [1]);
        assert_eq!(of("{{ list | tojson }}").expect("a list"), [0, 2]);
        assert!(of("{{ none or '' }}").expect("nothing").is_empty());
        let error = of("{{ far }}").expect_err("out of range").to_string();
        assert!(
            error.starts_with("<memory>:3: answer: ") && error.contains("\"9\"") && error.contains("0 to 2"),
            "{error}"
        );
        let error = of("{{ nothing }}").expect_err("no such column").to_string();
        assert!(error.contains("`nothing` is undefined") && error.contains("far"), "{error}");
    }

    #[test]
    fn truths_and_lists() {
        let row = row(json!({"label": "1", "python": "False", "row": 5, "other": "maybe", "n": 3.5}));
        let values = Values::of(&row);
        assert_eq!(field("{{ label }}").truth(&values).expect("a truth"), Some(true));
        assert_eq!(field("{{ python }}").truth(&values).expect("a truth"), Some(false));
        assert_eq!(field("{{ '' }}").truth(&values).expect("nothing"), None);
        assert!(field("{{ other }}").truth(&values).expect_err("no truth").to_string().contains("\"maybe\""));
        assert_eq!(field("{{ ['a', n] | tojson }}").list(&values).expect("a list"), ["a", "3.5"]);
        assert!(field("{{ label }}, {{ n }}").list(&values).is_err());
        assert_eq!(field("{{ number }} {{ row.label }}").text(&values).expect("a text"), "2 1");
    }

    #[test]
    fn columns_are_found_by_their_path() {
        let row = row(json!({"a": {"b": [1], "c": "x"}, "a.b": "flat", "none": null}));
        assert_eq!(row.column("a.b").as_deref(), Some("flat"));
        assert_eq!(row.column("a.c").as_deref(), Some("x"));
        assert_eq!(row.column("none").as_deref(), Some(""));
        assert_eq!(row.column("a.d"), None);
    }
}
