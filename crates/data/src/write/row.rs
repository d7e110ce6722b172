//! Records as the objects that TRL's data sets are made of.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Unfit;
use crate::row::{Message, Record, Row, TeacherToken, Text};

/// Columns in the order in which they are written.
pub(super) type Fields = Vec<(String, Value)>;

impl Serialize for Record {
    /// The object that [`Form`](crate::Form) reads back: `prompt`, `chosen` and `rejected` of a pair, `prompt`, `completion` and
    /// `label` of a labelled row, `prompt` and `completion` of a demonstration, `prompt`, `completions` and `ratings` of a
    /// ranked row, `prompt`, `completion`, `judgment` and `positive` of a judged one; then the numbers and labels under their names, and
    /// `tools`, `chat_template_kwargs` and `teacher` where there are any. Conversations are lists of messages.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = fields(self).map_err(serde::ser::Error::custom)?;
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in &fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The columns of a record.
pub(super) fn fields(record: &Record) -> Result<Fields, Unfit> {
    let mut fields = texts(&record.row);
    for (name, number) in &record.numbers {
        if fields.iter().any(|(other, _)| other == name) || RESERVED.contains(&name.as_str()) {
            return Err(Unfit {
                column: name.clone(),
                message: "is a number of the row and a column of its form; give the number another name".to_owned(),
            });
        }
        fields.push((name.clone(), json!(number)));
    }
    for (name, label) in &record.labels {
        // A label may be a column that is written anyhow.
        if fields.iter().all(|(other, _)| other != name) && !RESERVED.contains(&name.as_str()) {
            fields.push((name.clone(), json!(label)));
        }
    }
    let mut put = |name: &str, value: Value| fields.push((name.to_owned(), value));
    if !record.tools.is_empty() {
        put(TOOLS, Value::Array(record.tools.clone()));
    }
    if !record.template_arguments.is_empty() {
        put("chat_template_kwargs", Value::Object(record.template_arguments.clone()));
    }
    if !record.teacher.is_empty() {
        put("teacher", teacher(&record.row, &record.teacher));
    }
    Ok(fields)
}

/// The column of tools.
pub(super) const TOOLS: &str = "tools";

/// Columns that are not a row's numbers.
const RESERVED: [&str; 3] = [TOOLS, "chat_template_kwargs", "teacher"];

fn texts(row: &Row) -> Fields {
    let named = |prompt: &Text, more: Vec<(&str, Value)>| {
        let prompt = ("prompt".to_owned(), text(prompt));
        std::iter::once(prompt).chain(more.into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
    };
    match row {
        Row::Pair { prompt, chosen, rejected } => {
            named(prompt, vec![("chosen", text(chosen)), ("rejected", text(rejected))])
        }
        Row::Labelled { prompt, completion, desirable } => {
            named(prompt, vec![("completion", text(completion)), ("label", json!(desirable))])
        }
        Row::Demonstration { prompt, completion } => named(prompt, vec![("completion", text(completion))]),
        Row::Ranked { prompt, completions } => {
            let texts: Vec<Value> = completions.iter().map(|(completion, _)| text(completion)).collect();
            let ratings: Vec<f64> = completions.iter().map(|(_, rating)| *rating).collect();
            named(prompt, vec![("completions", Value::Array(texts)), ("ratings", json!(ratings))])
        }
        Row::Judged { prompt, completion, judgment, positive } => named(
            prompt,
            vec![("completion", text(completion)), ("judgment", json!(judgment)), ("positive", json!(positive))],
        ),
    }
}

fn text(text: &Text) -> Value {
    match text {
        Text::Plain(text) => json!(text),
        Text::Chat(messages) => Value::Array(messages.iter().map(message).collect()),
    }
}

fn message(message: &Message) -> Value {
    let Message { role, content, extra } = message;
    let own = [("role".to_owned(), json!(role)), ("content".to_owned(), json!(content))];
    Value::Object(own.into_iter().chain(extra.clone()).collect())
}

/// Lists under the names of their completions.
fn teacher(row: &Row, lists: &[Vec<TeacherToken>]) -> Value {
    let names: &[&str] = if matches!(row, Row::Pair { .. }) { &["chosen", "rejected"] } else { &["completion"] };
    let token = |token: &TeacherToken| {
        let mut entry =
            Map::from_iter([("ids".to_owned(), json!(token.ids)), ("log_probs".to_owned(), json!(token.log_probs))]);
        if !token.reference_log_probs.is_empty() {
            entry.insert("reference_log_probs".to_owned(), json!(token.reference_log_probs));
        }
        Value::Object(entry)
    };
    let list = |list: &Vec<TeacherToken>| Value::Array(list.iter().map(token).collect());
    Value::Object(names.iter().zip(lists).map(|(name, tokens)| ((*name).to_owned(), list(tokens))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_in_the_order_of_the_form() {
        let text = |text: &str| Text::Plain(text.to_owned());
        let row = Row::Labelled { prompt: text("p"), completion: text(" a"), desirable: true };
        let mut record = Record::from(row).with_number("score", 0.5);
        record.tools = vec![json!({"name": "f"})];
        let written = serde_json::to_string(&record).unwrap();
        assert_eq!(written, r#"{"prompt":"p","completion":" a","label":true,"score":0.5,"tools":[{"name":"f"}]}"#);
    }

    #[test]
    fn a_number_under_the_name_of_a_column_is_refused() {
        let text = |text: &str| Text::Plain(text.to_owned());
        let row = Row::Demonstration { prompt: text("p"), completion: text(" a") };
        let refused = |name: &str| fields(&Record::from(row.clone()).with_number(name, 1.0)).unwrap_err().column;
        assert_eq!(refused("prompt"), "prompt");
        assert_eq!(refused("tools"), "tools");
    }
}
