//! `tojson` as transformers has it: Python's `json.dumps`, nothing escaped for HTML.

use super::Fail;
use super::text;
use super::value::Value;

/// The widest `indent`, in characters: a template cannot ask for more memory than its text is worth.
const WIDEST_INDENT: usize = 64;

pub(super) struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Style {
    /// From the arguments `ensure_ascii`, `indent`, `separators` and `sort_keys`.
    pub(super) fn new(ensure_ascii: bool, indent: &Value, separators: &Value, sort_keys: bool) -> Result<Self, Fail> {
        let wide = |width: i128| usize::try_from(width.max(0)).ok().filter(|width| *width <= WIDEST_INDENT);
        let too_wide = || Fail::new(format!("tojson: an indent of more than {WIDEST_INDENT} characters"));
        let indent = match indent {
            Value::None | Value::Undefined(_) => None,
            Value::Str(text) if text.len() <= WIDEST_INDENT => Some(text.to_string()),
            other => {
                let width =
                    other.integer().ok_or_else(|| Fail::new("tojson: `indent` is neither a number nor a text"))?;
                Some(" ".repeat(wide(width).ok_or_else(too_wide)?))
            }
        };
        let (item_separator, key_separator) = match separators {
            Value::None | Value::Undefined(_) => {
                ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned())
            }
            other => match other.items() {
                Some([Value::Str(item), Value::Str(key)]) if item.len() + key.len() <= WIDEST_INDENT => {
                    (item.to_string(), key.to_string())
                }
                _ => return Err(Fail::new("tojson: `separators` are not two short texts")),
            },
        };
        Ok(Self { ensure_ascii, indent, item_separator, key_separator, sort_keys })
    }

    pub(super) fn write(&self, value: &Value, level: usize, out: &mut String) -> Result<(), Fail> {
        if out.len() > super::LARGEST {
            return Err(Fail::new(format!("tojson: a text larger than {} bytes", super::LARGEST)));
        }
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Float(number) => out.push_str(&float(*number)),
            Value::Str(text) => self.string(text, out),
            Value::List(items) | Value::Tuple(items) => {
                self.group('[', ']', items.items.iter(), level, out, |item, out| self.write(item, level + 1, out))?;
            }
            Value::Dict(dict) => {
                let mut entries: Vec<(String, &Value)> = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    entries.push((key_text(key)?, value));
                }
                if self.sort_keys {
                    entries.sort_by(|left, right| left.0.cmp(&right.0));
                }
                self.group('{', '}', entries.iter(), level, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(&self.key_separator);
                    self.write(value, level + 1, out)
                })?;
            }
            other => return Err(Fail::new(format!("tojson: {} has no JSON", other.described()))),
        }
        Ok(())
    }

    fn group<T>(
        &self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        level: usize,
        out: &mut String,
        mut write: impl FnMut(T, &mut String) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        let count = items.len();
        out.push(open);
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            self.new_line(level + 1, out);
            write(item, out)?;
        }
        if count > 0 {
            self.new_line(level, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, level: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), level));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
                _ if self.ensure_ascii && !(' '..='~').contains(&character) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

fn key_text(key: &Value) -> Result<String, Fail> {
    match key {
        Value::Str(text) => Ok(text.to_string()),
        Value::None => Ok("null".to_owned()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(float(*number)),
        other => Err(Fail::new(format!("tojson: {} as a key", other.described()))),
    }
}

fn float(number: f64) -> String {
    match text::float(number).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        other => other.to_owned(),
    }
}
