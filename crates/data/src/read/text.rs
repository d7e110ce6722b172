//! A JSON object from its text, and what to say of a text that is none.

use serde_json::{Map, Value};

use super::Start;
use crate::error::{Fault, Reason, excerpt};

/// The object that a text is.
pub(crate) fn object(bytes: &[u8], start: Start) -> Result<Map<String, Value>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(error.valid_up_to(), start))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => {
            let place = place(start, 1, 1);
            Err(Fault::new(Reason::NotJson, format!("{place}: expected an object, found {}", excerpt(text))))
        }
        Err(error) => Err(Fault::new(
            Reason::NotJson,
            format!("{}: {}{}", place(start, error.line(), error.column()), message(&error), hint(text, &error)),
        )),
    }
}

fn not_utf8(valid: usize, start: Start) -> Fault {
    let detail = match start {
        Start::Line => format!("byte {} of the line is not UTF-8", valid + 1),
        Start::Text { line, column } => {
            format!("byte {} of the element at line {line}, column {column} is not UTF-8", valid + 1)
        }
        Start::Byte(before) => format!("byte {} of the file is not UTF-8", before + valid as u64 + 1),
    };
    Fault::new(Reason::NotUtf8, detail)
}

/// A place inside the text as one of the file. `line` and `column` are 1-based.
fn place(start: Start, line: usize, column: usize) -> String {
    let (line, column) = (line as u64, column as u64);
    match start {
        Start::Line if line <= 1 => format!("column {column}"),
        Start::Line => format!("line {line}, column {column} of the row"),
        Start::Text { line: first, column: before } if line <= 1 => {
            format!("line {first}, column {}", before + column.saturating_sub(1))
        }
        Start::Text { line: first, .. } => format!("line {}, column {column}", first + line - 1),
        Start::Byte(before) => {
            format!("line {line}, column {column} of the element, which begins after {before} bytes")
        }
    }
}

/// serde_json's message without its own position, which counts lines from ours.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// What the mistake probably is and what to do.
fn hint(text: &str, error: &serde_json::Error) -> &'static str {
    let trimmed = text.trim_start();
    if text.contains('\0') {
        "; the row holds NUL bytes, as files have that were damaged while they were written: write or copy it again"
    } else if looks_like_python(trimmed) {
        PYTHON
    } else if text.trim_end().contains('\r') {
        "; a carriage return stands inside the line: end lines with a line feed, as `tr '\\r' '\\n'` does"
    } else if error.is_eof() {
        "; an object has to end on the line on which it begins, `jq -c .` writes it so"
    } else if ["NaN", "Infinity", "-Infinity"].iter().any(|word| at(text, error).contains(word)) {
        "; JSON has no NaN and no Infinity: write null"
    } else {
        ""
    }
}

/// What the hint for Python's way of writing says.
pub(crate) const PYTHON: &str =
    "; it is written as Python writes a dict, with single quotes: write it with json.dumps, not with str or print";

/// Whether a text begins like a printed dict.
pub(crate) fn looks_like_python(text: &str) -> bool {
    let inside = text.trim_start_matches('[').trim_start();
    inside.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('\''))
}

/// A few bytes around the place of an error.
fn at<'a>(text: &'a str, error: &serde_json::Error) -> &'a str {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("");
    let column = error.column();
    let mut from = column.saturating_sub(4).min(line.len());
    while !line.is_char_boundary(from) {
        from -= 1;
    }
    let mut to = (column + 10).min(line.len());
    while !line.is_char_boundary(to) {
        to += 1;
    }
    line.get(from..to).unwrap_or("")
}
