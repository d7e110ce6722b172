//! Jinja's filters: those of single values here, those of sequences beside it.

use super::Fail;
use super::json::Style;
use super::machine::{Given, Machine};
use super::text;
use super::value::Value;

impl Machine {
    pub(super) fn filter(&mut self, name: &str, value: Value, mut given: Given) -> Result<Value, Fail> {
        let made = match name {
            "tojson" => self.written_as_json(&value, &mut given)?,
            "string" => Value::Str(self.text(&value)?),
            // No environment of chat templates escapes by itself.
            "safe" => Value::Str(self.text(&value)?),
            "default" | "d" => {
                let otherwise = given.take(0, "default_value").unwrap_or_else(|| Value::from(""));
                let for_false = given.flag(1, "boolean");
                if value.is_undefined() || (for_false && !value.is_true()) { otherwise } else { value }
            }
            "attr" => {
                let wanted = given.required(0, "name")?;
                let wanted = self.text(&wanted)?;
                match self.attribute(&value, &wanted)? {
                    _ if matches!(value, Value::Dict(_)) && !super::methods::has(&value, &wanted) => {
                        Value::Undefined(format!("attribute `{wanted}` of a dict").into())
                    }
                    found => found,
                }
            }
            "length" | "count" => self.length(&value)?,
            "int" => self.as_whole(&value, &mut given)?,
            "float" => {
                let otherwise = given.take(0, "default").unwrap_or(Value::Float(0.0));
                self.step(value.size())?;
                let parsed = match &value {
                    Value::Str(text) => text.trim_matches(text::is_space).parse().ok(),
                    other => other.number(),
                };
                parsed.map_or(otherwise, Value::Float)
            }
            "abs" => match &value {
                Value::Float(number) => Value::Float(number.abs()),
                other => match other.integer().and_then(i128::checked_abs) {
                    Some(number) => Value::Int(number),
                    None => return Err(Fail::new(format!("abs of {}", value.described()))),
                },
            },
            "round" => round(&value, &mut given)?,
            "upper" | "lower" | "capitalize" | "title" | "trim" | "replace" | "indent" | "center" | "escape" | "e"
            | "forceescape" | "wordcount" | "format" => self.text_filter(name, &value, &mut given)?,
            _ => return self.sequence_filter(name, value, given),
        };
        given.finish(&format!("the filter `{name}`"))?;
        Ok(made)
    }

    fn written_as_json(&mut self, value: &Value, given: &mut Given) -> Result<Value, Fail> {
        let ensure_ascii = given.flag(0, "ensure_ascii");
        let indent = given.take(1, "indent").unwrap_or(Value::None);
        let separators = given.take(2, "separators").unwrap_or(Value::None);
        let sort_keys = given.flag(3, "sort_keys");
        let style = Style::new(ensure_ascii, &indent, &separators, sort_keys)?;
        self.grow(value.size())?;
        let mut out = String::new();
        style.write(value, 0, &mut out)?;
        self.make(out)
    }

    pub(super) fn length(&mut self, value: &Value) -> Result<Value, Fail> {
        Ok(Value::int(match value {
            Value::Str(text) => {
                self.step(text.len())?;
                text.chars().count()
            }
            Value::List(items) | Value::Tuple(items) => items.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Loop(round) => round.items.len(),
            Value::Undefined(_) => 0,
            other => return Err(Fail::new(format!("{} has no length", other.kind()))),
        }))
    }

    fn as_whole(&mut self, value: &Value, given: &mut Given) -> Result<Value, Fail> {
        let otherwise = given.take(0, "default").unwrap_or(Value::Int(0));
        let base = given.take(1, "base").map_or(Some(10), |base| base.integer());
        if base != Some(10) {
            return Err(Fail::new("int: only numbers of base 10 are read"));
        }
        self.step(value.size())?;
        let whole = |number: f64| (number.abs() < 1e38).then_some(number.trunc() as i128);
        let parsed = match value {
            Value::Str(text) => {
                let text = text.trim_matches(text::is_space).replace('_', "");
                text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
            }
            Value::Float(number) => whole(*number),
            other => other.integer(),
        };
        Ok(parsed.map_or(otherwise, Value::Int))
    }

    fn text_filter(&mut self, name: &str, value: &Value, given: &mut Given) -> Result<Value, Fail> {
        let text = self.text(value)?;
        self.grow(text.len())?;
        let made = match name {
            "upper" => text.to_uppercase(),
            "lower" => text.to_lowercase(),
            "capitalize" => text::capitalized(&text),
            "title" => {
                let breaks = |character: char| text::is_space(character) || "-({[<".contains(character);
                let words = text.split_inclusive(breaks);
                words.map(text::capitalized).collect()
            }
            "trim" => match given.take(0, "chars") {
                None | Some(Value::None) => text.trim_matches(text::is_space).to_owned(),
                Some(characters) => {
                    let characters = self.text(&characters)?;
                    self.step(text.len().saturating_mul(characters.len()) / 8)?;
                    text.trim_matches(|character| characters.contains(character)).to_owned()
                }
            },
            "replace" => {
                let (old, new) = (given.required(0, "old")?, given.required(1, "new")?);
                let (old, new) = (self.text(&old)?, self.text(&new)?);
                let count = given.take(2, "count").and_then(|count| count.integer());
                return self.replaced(&text, &old, &new, count.unwrap_or(-1));
            }
            "indent" if !matches!(value, Value::Str(_) | Value::Undefined(_)) => {
                return Err(Fail::new(format!("indent of {}", value.described())));
            }
            "indent" => return self.indented(&text, given),
            "center" => {
                let width = given.take(0, "width").unwrap_or(Value::Int(80));
                return self.padded(&text, &width, ' ', super::methods::Side::Center);
            }
            "wordcount" => {
                let words = text.split(|character: char| !(character.is_alphanumeric() || character == '_'));
                return Ok(Value::int(words.filter(|word| !word.is_empty()).count()));
            }
            "format" => {
                let values = given.rest();
                return self.percent(&text, values);
            }
            _ => {
                let mut escaped = String::with_capacity(text.len());
                for character in text.chars() {
                    match character {
                        '&' => escaped.push_str("&amp;"),
                        '<' => escaped.push_str("&lt;"),
                        '>' => escaped.push_str("&gt;"),
                        '"' => escaped.push_str("&#34;"),
                        '\'' => escaped.push_str("&#39;"),
                        other => escaped.push(other),
                    }
                }
                escaped
            }
        };
        self.make(made)
    }

    fn indented(&mut self, text: &str, given: &mut Given) -> Result<Value, Fail> {
        let width = given.take(0, "width").unwrap_or(Value::Int(4));
        let (first, blank) = (given.flag(1, "first"), given.flag(2, "blank"));
        let indent = match &width {
            Value::Str(text) => text.to_string(),
            other => {
                let width = other.integer().and_then(|width| usize::try_from(width.max(0)).ok());
                let width = width.filter(|width| *width <= super::LARGEST);
                " ".repeat(width.ok_or_else(|| Fail::new("indent: `width` is no number of spaces"))?)
            }
        };
        let with_end = format!("{text}\n");
        let lines = text::lines(&with_end, false);
        self.grow(text.len().saturating_add(indent.len().saturating_mul(lines.len())))?;
        let mut out = String::new();
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            let indents = if index == 0 { first } else { blank || !line.is_empty() };
            out.push_str(if indents { &indent } else { "" });
            out.push_str(line);
        }
        self.make(out)
    }
}

fn round(value: &Value, given: &mut Given) -> Result<Value, Fail> {
    let precision = given.take(0, "precision").map_or(Some(0), |precision| precision.integer());
    let method = given.take(1, "method").unwrap_or_else(|| Value::from("common"));
    let number = value.number().ok_or_else(|| Fail::new(format!("round of {}", value.described())))?;
    let precision = precision
        .and_then(|precision| i32::try_from(precision).ok())
        .filter(|precision| precision.abs() <= 300)
        .ok_or_else(|| Fail::new("round: `precision` is no small whole number"))?;
    let Value::Str(method) = method else {
        return Err(Fail::new("round: `method` is no text"));
    };
    if let (Some(number), "common", 0..) = (value.integer(), &*method, precision) {
        return Ok(Value::Int(number));
    }
    let scale = 10f64.powi(precision);
    Ok(Value::Float(match &*method {
        // Through the decimal text, as Python rounds; a tie goes to the even digit.
        "common" if precision > 0 => {
            let places = usize::try_from(precision).unwrap_or_default();
            format!("{number:.places$}").parse().unwrap_or(number)
        }
        "common" => (number * scale).round_ties_even() / scale,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        other => return Err(Fail::new(format!("round: the method {other:?}, expected common, ceil or floor"))),
    }))
}
