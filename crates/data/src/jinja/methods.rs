//! Methods of Python's `str`, `list` and `dict`, those that change nothing.

use super::Fail;
use super::machine::{Given, Machine};
use super::text::{self, is_space};
use super::value::{Loop, Value};

const OF_TEXTS: [&str; 41] = [
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "replace",
    "startswith",
    "endswith",
    "upper",
    "lower",
    "title",
    "capitalize",
    "swapcase",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "join",
    "format",
    "isdigit",
    "isdecimal",
    "isnumeric",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "istitle",
    "isascii",
    "isidentifier",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "isprintable",
];

/// Where a text stands in its padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Center,
}

/// Whether a value has a method of this name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => OF_TEXTS.contains(&name),
        Value::Dict(_) => matches!(name, "get" | "items" | "keys" | "values" | "copy"),
        Value::List(_) => matches!(name, "count" | "index" | "copy"),
        Value::Tuple(_) => matches!(name, "count" | "index"),
        Value::Loop(_) => name == "cycle",
        _ => false,
    }
}

impl Machine {
    pub(super) fn method(&mut self, value: &Value, name: &str, mut given: Given) -> Result<Value, Fail> {
        let made = match value {
            Value::Str(text) => {
                let text = text.clone();
                self.grow(text.len())?;
                self.text_method(&text, name, &mut given)
            }
            Value::Dict(_) => self.dict_method(value, name, &mut given),
            Value::Loop(round) => cycle(round, &given.rest()),
            _ => self.list_method(value, name, &mut given),
        };
        let named = |fail: Fail| Fail::new(format!("{name}: {fail}"));
        let made = made.map_err(named)?;
        given.finish(name)?;
        Ok(made)
    }

    fn dict_method(&mut self, value: &Value, name: &str, given: &mut Given) -> Result<Value, Fail> {
        let Value::Dict(dict) = value else {
            return Err(Fail::new("expected a dict"));
        };
        self.grow(16 * dict.entries.len())?;
        match name {
            "get" => {
                let key = given.required(0, "key")?;
                let otherwise = given.take(1, "default").unwrap_or(Value::None);
                self.step(dict.effort_of_find(&key))?;
                Ok(dict.find(&key).cloned().unwrap_or(otherwise))
            }
            "items" => self.pairs(value),
            "keys" => Value::list(dict.entries.iter().map(|(key, _)| key.clone()).collect()),
            "values" => Value::list(dict.entries.iter().map(|(_, value)| value.clone()).collect()),
            _ => Ok(value.clone()),
        }
    }

    fn list_method(&mut self, value: &Value, name: &str, given: &mut Given) -> Result<Value, Fail> {
        if name == "copy" {
            return Ok(value.clone());
        }
        let wanted = given.required(0, "value")?;
        let items = value.items().unwrap_or_default();
        self.step(items.len().saturating_mul(wanted.effort()).min(value.effort()))?;
        let found = items.iter().position(|item| item.equals(&wanted));
        match (name, found) {
            ("index", Some(place)) => Ok(Value::int(place)),
            ("index", None) => Err(Fail::new("the value is not in the list")),
            _ => Ok(Value::int(items.iter().filter(|item| item.equals(&wanted)).count())),
        }
    }

    /// An argument that has to be a text.
    fn wanted(&mut self, given: &mut Given, place: usize, name: &str) -> Result<std::rc::Rc<str>, Fail> {
        match given.required(place, name)? {
            Value::Str(text) => {
                self.step(text.len())?;
                Ok(text)
            }
            other => Err(Fail::new(format!("`{name}` is {}, expected a str", other.described()))),
        }
    }

    fn text_method(&mut self, text: &str, name: &str, given: &mut Given) -> Result<Value, Fail> {
        let made = match name {
            "strip" | "lstrip" | "rstrip" => return self.stripped(text, name, given),
            "split" | "rsplit" => return self.split(text, name == "rsplit", given),
            "splitlines" => {
                let keep = given.flag(0, "keepends");
                self.grow(16 * text.chars().filter(|character| text::ends_line(*character)).count())?;
                let lines = text::lines(text, keep);
                return Value::list(lines.into_iter().map(Value::from).collect());
            }
            "replace" => {
                let (old, new) = (self.wanted(given, 0, "old")?, self.wanted(given, 1, "new")?);
                let count = given.take(2, "count").and_then(|count| count.integer());
                return self.replaced(text, &old, &new, count.unwrap_or(-1));
            }
            "startswith" | "endswith" => return self.begins_or_ends(text, name == "startswith", given),
            "find" | "rfind" | "index" | "rindex" | "count" => return self.found(text, name, given),
            "join" => {
                let items = given.required(0, "iterable")?;
                let items = self.iterate(&items)?;
                if let Some(other) = items.iter().find(|item| !matches!(item, Value::Str(_))) {
                    return Err(Fail::new(format!("{} among the texts", other.described())));
                }
                return self.join(&items, text);
            }
            "format" => {
                let (positional, named) = (given.rest(), given.rest_named());
                return self.format(text, &positional, &named);
            }
            "partition" | "rpartition" => {
                let between = self.wanted(given, 0, "sep")?;
                if between.is_empty() {
                    return Err(Fail::new("an empty separator"));
                }
                let split = if name == "partition" { text.split_once(&*between) } else { text.rsplit_once(&*between) };
                let parts = match (split, name) {
                    (Some((before, after)), _) => [before, &between, after],
                    (None, "partition") => [text, "", ""],
                    (None, _) => ["", "", text],
                };
                return Value::tuple(parts.map(Value::from).to_vec());
            }
            "removeprefix" => {
                let prefix = self.wanted(given, 0, "prefix")?;
                text.strip_prefix(&*prefix).unwrap_or(text).to_owned()
            }
            "removesuffix" => {
                let suffix = self.wanted(given, 0, "suffix")?;
                text.strip_suffix(&*suffix).unwrap_or(text).to_owned()
            }
            "zfill" => {
                let width = given.required(0, "width")?;
                let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
                let width = width.integer().map(|width| Value::Int(width.saturating_sub(sign.len() as i128)));
                let padded = self.padded(digits, &width.unwrap_or(Value::None), '0', Side::Right)?;
                sign.to_owned() + &self.text(&padded)?
            }
            "ljust" | "rjust" | "center" => {
                let width = given.required(0, "width")?;
                let fill = given.take(1, "fillchar").unwrap_or_else(|| Value::from(" "));
                let fill = self.text(&fill)?;
                let mut fill = fill.chars();
                let (Some(fill), None) = (fill.next(), fill.next()) else {
                    return Err(Fail::new("`fillchar` is not one character"));
                };
                let side = match name {
                    "ljust" => Side::Left,
                    "rjust" => Side::Right,
                    _ => Side::Center,
                };
                return self.padded(text, &width, fill, side);
            }
            "upper" => text.to_uppercase(),
            "lower" => text.to_lowercase(),
            "title" => text::titled(text),
            "capitalize" => text::capitalized(text),
            "swapcase" => {
                let swap = |character: char| -> String {
                    if character.is_uppercase() {
                        character.to_lowercase().collect()
                    } else if character.is_lowercase() {
                        character.to_uppercase().collect()
                    } else {
                        character.to_string()
                    }
                };
                text.chars().map(swap).collect()
            }
            _ => return Ok(Value::Bool(is(text, name))),
        };
        self.make(made)
    }

    fn stripped(&mut self, text: &str, name: &str, given: &mut Given) -> Result<Value, Fail> {
        let characters = match given.take(0, "chars") {
            None | Some(Value::None) => None,
            Some(Value::Str(characters)) => Some(characters),
            Some(other) => return Err(Fail::new(format!("`chars` is {}, expected a str", other.described()))),
        };
        if let Some(characters) = &characters {
            self.step(text.len().saturating_mul(characters.len()) / 8)?;
        }
        let strips = |character: char| characters.as_ref().map_or(is_space(character), |all| all.contains(character));
        self.make(match name {
            "strip" => text.trim_matches(strips),
            "lstrip" => text.trim_start_matches(strips),
            _ => text.trim_end_matches(strips),
        })
    }

    fn split(&mut self, text: &str, from_right: bool, given: &mut Given) -> Result<Value, Fail> {
        let separator = match given.take(0, "sep") {
            None | Some(Value::None) => None,
            Some(Value::Str(separator)) if separator.is_empty() => return Err(Fail::new("an empty separator")),
            Some(Value::Str(separator)) => Some(separator),
            Some(other) => return Err(Fail::new(format!("`sep` is {}, expected a str", other.described()))),
        };
        if let Some(separator) = &separator {
            self.step(separator.len())?;
        }
        let most = given.take(1, "maxsplit").and_then(|most| most.integer()).unwrap_or(-1);
        let parts = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
        // Room is asked for before the parts are listed.
        let found = match &separator {
            Some(separator) => text.matches(&**separator).count() + 1,
            None => text.split(is_space).filter(|part| !part.is_empty()).count(),
        };
        self.grow(32 * found.min(parts))?;
        let parts: Vec<&str> = match (&separator, from_right) {
            (Some(separator), false) => text.splitn(parts, &**separator).collect(),
            (Some(separator), true) => {
                let mut parts: Vec<&str> = text.rsplitn(parts, &**separator).collect();
                parts.reverse();
                parts
            }
            (None, false) => {
                let mut found = Vec::new();
                let mut rest = text::strip_start(text);
                while !rest.is_empty() {
                    let end = rest.find(is_space).filter(|_| found.len() + 1 < parts).unwrap_or(rest.len());
                    found.push(&rest[..end]);
                    rest = text::strip_start(&rest[end..]);
                }
                found
            }
            (None, true) => {
                let mut found = Vec::new();
                let mut rest = text::strip_end(text);
                while !rest.is_empty() {
                    let cut = rest.rfind(is_space).filter(|_| found.len() + 1 < parts);
                    let start = cut.map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
                    found.push(&rest[start..]);
                    rest = text::strip_end(&rest[..cut.unwrap_or(0)]);
                }
                found.reverse();
                found
            }
        };
        Value::list(parts.into_iter().map(Value::from).collect())
    }

    pub(super) fn replaced(&mut self, text: &str, old: &str, new: &str, count: i128) -> Result<Value, Fail> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.step(old.len())?;
        let found = text.matches(old).count().min(count);
        self.grow(text.len().saturating_add(found.saturating_mul(new.len())))?;
        Ok(Value::Str(text.replacen(old, new, count).into()))
    }

    fn begins_or_ends(&mut self, text: &str, begins: bool, given: &mut Given) -> Result<Value, Fail> {
        let wanted = given.required(0, "prefix")?;
        self.step(wanted.size())?;
        let all = match &wanted {
            Value::Tuple(items) => items.items.clone(),
            _ => vec![wanted],
        };
        let mut found = false;
        for one in &all {
            let Value::Str(one) = one else {
                return Err(Fail::new(format!("looks for {}, expected a str", one.described())));
            };
            found |= if begins { text.starts_with(&**one) } else { text.ends_with(&**one) };
        }
        Ok(Value::Bool(found))
    }

    fn found(&mut self, text: &str, name: &str, given: &mut Given) -> Result<Value, Fail> {
        let wanted = self.wanted(given, 0, "sub")?;
        self.step(text.len())?;
        if name == "count" {
            return Ok(Value::int(text.matches(&*wanted).count()));
        }
        let start = given.take(1, "start").and_then(|start| start.integer()).unwrap_or(0);
        let length = text.chars().count() as i128;
        let start = if start < 0 { start.saturating_add(length).max(0) } else { start };
        if start > length {
            return Ok(Value::Int(-1));
        }
        let start = usize::try_from(start).unwrap_or_default();
        let from = text.char_indices().nth(start).map_or(text.len(), |(at, _)| at);
        let rest = &text[from..];
        let at = if name.starts_with('r') { rest.rfind(&*wanted) } else { rest.find(&*wanted) };
        match at {
            Some(at) => Ok(Value::int(start + rest[..at].chars().count())),
            None if name.ends_with("index") => Err(Fail::new("the text is not found")),
            None => Ok(Value::Int(-1)),
        }
    }

    pub(super) fn padded(&mut self, text: &str, width: &Value, fill: char, side: Side) -> Result<Value, Fail> {
        let width = width.integer().ok_or_else(|| Fail::new("the width is no whole number"))?;
        let length = text.chars().count();
        let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
        let missing = width.saturating_sub(length);
        self.grow(text.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
        let before = match side {
            Side::Left => 0,
            Side::Right => missing,
            // CPython puts the odd one on the left where the width is odd.
            Side::Center => missing / 2 + (missing & width & 1),
        };
        let mut out: String = std::iter::repeat_n(fill, before).collect();
        out.push_str(text);
        out.extend(std::iter::repeat_n(fill, missing - before));
        Ok(Value::Str(out.into()))
    }
}

fn cycle(round: &Loop, values: &[Value]) -> Result<Value, Fail> {
    let index = round.index.checked_rem(values.len()).ok_or_else(|| Fail::new("nothing to go round"))?;
    Ok(values.get(index).cloned().unwrap_or(Value::None))
}

/// The questions that a text answers with yes or no.
fn is(text: &str, name: &str) -> bool {
    let all = |holds: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let cased = |character: char| character.is_lowercase() || character.is_uppercase();
    match name {
        "isdigit" | "isdecimal" => all(&|character| character.is_ascii_digit()),
        "isnumeric" => all(&char::is_numeric),
        "isalpha" => all(&char::is_alphabetic),
        "isalnum" => all(&char::is_alphanumeric),
        "isspace" => all(&is_space),
        "isascii" => text.is_ascii(),
        "isupper" => text.chars().any(cased) && !text.chars().any(char::is_lowercase),
        "islower" => text.chars().any(cased) && !text.chars().any(char::is_uppercase),
        "istitle" => text.chars().any(cased) && text::titled(text) == text,
        "isprintable" => {
            let mut quoted = String::new();
            text::quoted(&text.replace(['\\', '\'', '"'], ""), &mut quoted);
            !quoted.contains('\\')
        }
        _ => {
            let mut characters = text.chars();
            characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
                && characters.all(|character| character.is_alphanumeric() || character == '_')
        }
    }
}
