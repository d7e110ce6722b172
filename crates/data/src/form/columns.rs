//! Which column of a file holds what: as told, under our own name, or under a name that others use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::aliases;
use super::value::{found, kind};
use crate::error::{Error, Fault, Reason};
use crate::numbers::NumberColumn;

/// Where a column of ours stands in a file: the name of a column, a dotted path into objects and lists
/// (`solutions.0.text`), or a list of such paths, which together are one list.
///
/// ```
/// use candlewick_data::ColumnPath;
/// assert_eq!(ColumnPath::from("a.b"), ColumnPath::One("a.b".to_owned()));
/// assert_eq!(ColumnPath::from(["a", "b"]).to_string(), "[a, b]");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ColumnPath {
    /// One column.
    One(String),
    /// Several, for what is a list: `completions`, `ratings`, `votes`, `attributes`.
    List(Vec<String>),
}

impl ColumnPath {
    fn paths(&self) -> &[String] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::List(paths) => paths,
        }
    }
}

impl From<&str> for ColumnPath {
    fn from(path: &str) -> Self {
        Self::One(path.to_owned())
    }
}

impl From<String> for ColumnPath {
    fn from(path: String) -> Self {
        Self::One(path)
    }
}

impl From<Vec<String>> for ColumnPath {
    fn from(paths: Vec<String>) -> Self {
        Self::List(paths)
    }
}

impl<const N: usize> From<[&str; N]> for ColumnPath {
    fn from(paths: [&str; N]) -> Self {
        Self::List(paths.map(str::to_owned).into())
    }
}

impl std::fmt::Display for ColumnPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(path) => f.write_str(path),
            Self::List(paths) => write!(f, "[{}]", paths.join(", ")),
        }
    }
}

/// Our names that can be mapped.
const NAMES: [&str; 19] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "completions",
    "ratings",
    "best_first",
    "votes",
    "comparisons",
    "attributes",
    "system",
    "history",
    "tools",
    "judgment",
    "positive",
    "score",
    "teacher",
    "chat_template_kwargs",
];

/// Those of them that are lists, and so can be put together from several columns.
const LISTS: [&str; 4] = ["completions", "ratings", "votes", "attributes"];

/// Our name of a column → its place in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    given: BTreeMap<String, ColumnPath>,
    /// Found under another name; told once a file, so that all its rows are read alike.
    told: BTreeMap<String, ColumnPath>,
}

impl Columns {
    /// Names that can be mapped are those of the forms, of the numbers asked for, and of what these are made of.
    pub(crate) fn new(mapping: &BTreeMap<String, ColumnPath>, numbers: &[NumberColumn]) -> Result<Self, Error> {
        let own = numbers.iter().flat_map(NumberColumn::columns).filter(|name| !NAMES.contains(name));
        let known: Vec<&str> = NAMES.into_iter().chain(own).collect();
        for (name, path) in mapping {
            if !known.contains(&name.as_str()) {
                let nearest = super::hint::nearest(name, &known);
                let nearest = nearest.map_or(String::new(), |nearest| format!("; the nearest is {nearest}"));
                return Err(Error::UnknownColumn {
                    name: name.clone(),
                    known: format!("{}{nearest}", known.join(", ")),
                });
            }
            let empty = path.paths().iter().any(|path| path.trim().is_empty()) || path.paths().is_empty();
            if empty || (matches!(path, ColumnPath::List(_)) && !LISTS.contains(&name.as_str())) {
                return Err(Error::Option {
                    name: "columns",
                    got: format!("{name} = {path}"),
                    expected: "the name of a column or a dotted path; lists of them for completions, ratings, votes and attributes",
                });
            }
        }
        Ok(Self { given: mapping.clone(), told: BTreeMap::new() })
    }

    /// The same with names that others use for ours, where the file has them and not ours.
    pub(crate) fn resolved(&self, object: &Map<String, Value>) -> Self {
        let mut columns = Self { given: self.given.clone(), told: BTreeMap::new() };
        columns.told = aliases::told(object, &columns);
        columns
    }

    /// The same with more of the mapping given.
    pub(super) fn with(&self, more: &[(String, String)]) -> Self {
        let mut columns = self.clone();
        for (name, path) in more {
            columns.given.insert(name.clone(), ColumnPath::One(path.clone()));
        }
        columns
    }

    /// Whether a column of ours is mapped by the user.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Whether the user mapped one of ours to a column of the file.
    pub(super) fn is_source(&self, column: &str) -> bool {
        self.given.values().any(|path| path.paths().iter().any(|path| path == column))
    }

    fn path(&self, name: &str) -> Option<&ColumnPath> {
        self.given.get(name).or_else(|| self.told.get(name))
    }

    /// Its name in the file.
    pub(crate) fn in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.path(name).and_then(|path| path.paths().first()).map_or(name, String::as_str)
    }

    /// Whether a column of the file is another of ours by the mapping, and so is not read for itself.
    fn is_taken(&self, name: &str) -> bool {
        self.path(name).is_none() && self.is_source(name)
    }

    /// Whether the file has one of ours, null or not; one that is mapped it has in every row.
    pub(super) fn holds(&self, object: &Map<String, Value>, name: &str) -> bool {
        self.is_given(name) || (!self.is_taken(name) && object.contains_key(self.in_file(name)))
    }

    /// Refuses a mapping to a column that none of the first rows has: rows would be read without it, or as others than was
    /// meant.
    pub(super) fn check_given(&self, rows: &[Map<String, Value>], union: &Map<String, Value>) -> Result<(), Error> {
        // What is null may have such a key in another row.
        let null = |row: &Map<String, Value>, path: &str| {
            path.split_once('.').is_some_and(|(head, _)| row.get(head).is_some_and(Value::is_null))
        };
        let nowhere =
            |path: &&String| !rows.iter().any(|row| walk(row, path.as_str()).is_some() || null(row, path.as_str()));
        if rows.is_empty() {
            return Ok(());
        }
        // A number that is not there is missed in every row that lacks it.
        for (name, path) in self.given.iter().filter(|(name, _)| NAMES.contains(&name.as_str())) {
            let Some(path) = path.paths().iter().find(nowhere) else { continue };
            let known: Vec<&str> = union.keys().map(String::as_str).collect();
            let near = match super::hint::nearest(path, &known) {
                Some(nearest) => format!("the nearest is {nearest:?}"),
                None => format!("they have {}", found(union)),
            };
            return Err(Error::Option {
                name: "columns",
                got: format!("{name} = {path:?}, which none of the first rows has ({near})"),
                expected: "the name of a column, or a dotted path into one",
            });
        }
        Ok(())
    }

    /// The value of a column that is not null.
    pub(crate) fn value<'a>(&self, object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        if self.is_taken(name) {
            return None;
        }
        walk(object, self.in_file(name)).filter(|value| !value.is_null())
    }

    /// The columns that together are one list, with their values; None where it is one column.
    pub(super) fn parts<'a>(
        &'a self,
        object: &'a Map<String, Value>,
        name: &str,
    ) -> Option<Vec<(&'a str, Option<&'a Value>)>> {
        let Some(ColumnPath::List(paths)) = self.path(name) else { return None };
        let part = |path: &'a String| (path.as_str(), walk(object, path).filter(|value| !value.is_null()));
        Some(paths.iter().map(part).collect())
    }
}

/// The value at a dotted path; a column whose own name has dots in it comes first.
fn walk<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    // The longest beginning of the path that is a key.
    let (mut value, mut rest) = path.rmatch_indices('.').find_map(|(dot, _)| {
        let (head, tail) = path.split_at(dot);
        Some((object.get(head)?, tail.strip_prefix('.')?))
    })?;
    loop {
        let (head, tail) = rest.split_once('.').unwrap_or((rest, ""));
        value = match value {
            Value::Object(object) => object.get(head)?,
            Value::Array(list) => list.get(head.parse::<usize>().ok()?)?,
            _ => return None,
        };
        if tail.is_empty() {
            return Some(value);
        }
        rest = tail;
    }
}

pub(crate) fn column<'a>(object: &'a Map<String, Value>, columns: &Columns, name: &str) -> Result<&'a Value, Fault> {
    columns.value(object, name).ok_or_else(|| missing(object, columns, name))
}

pub(crate) fn missing(object: &Map<String, Value>, columns: &Columns, name: &str) -> Fault {
    let hint = if columns.is_given(name) { String::new() } else { super::hint::of_column(object, columns, name) };
    Fault::new(Reason::MissingColumn, format!("no `{}`; found {}{hint}", columns.in_file(name), found(object)))
}

/// One object seen through the columns of its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) object: &'a Map<String, Value>,
    pub(super) columns: &'a Columns,
}

impl<'a> View<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.columns.value(self.object, name)
    }

    /// Whether there is such a column: one that is not null, or a list put together of which one is.
    pub(super) fn has(&self, name: &str) -> bool {
        match self.columns.parts(self.object, name) {
            Some(parts) => parts.iter().any(|(_, value)| value.is_some()),
            None => self.get(name).is_some(),
        }
    }

    pub(super) fn need(&self, name: &str) -> Result<&'a Value, Fault> {
        column(self.object, self.columns, name)
    }

    /// What is said where a column is not there.
    pub(super) fn lacks(&self, name: &str) -> Fault {
        missing(self.object, self.columns, name)
    }

    pub(super) fn name(&self, name: &'a str) -> &'a str {
        self.columns.in_file(name)
    }

    /// A column of the file by its own name.
    pub(super) fn plain(&self, column: &str) -> Option<&'a Value> {
        self.object.get(column).filter(|value| !value.is_null())
    }

    /// A list: one column that holds it, or several put together, each entry with its name.
    pub(super) fn list(&self, name: &'a str) -> Result<Vec<(String, Value)>, Fault> {
        if let Some(parts) = self.columns.parts(self.object, name) {
            return parts
                .into_iter()
                .map(|(path, value)| {
                    let value = value.ok_or_else(|| {
                        Fault::new(Reason::MissingColumn, format!("no `{path}`; found {}", found(self.object)))
                    })?;
                    Ok((path.to_owned(), value.clone()))
                })
                .collect();
        }
        let file = self.name(name);
        let list = super::value::list(self.need(name)?, file)?;
        Ok(list.into_iter().enumerate().map(|(index, value)| (format!("{file}[{index}]"), value)).collect())
    }

    /// A string that is not required.
    pub(super) fn string(&self, name: &'a str) -> Result<Option<&'a str>, Fault> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| {
            Fault::new(Reason::WrongType, format!("`{}` is {}, expected a string", self.name(name), kind(value)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_into_objects_and_lists() {
        let value = json!({"a.b": {"c": 1}, "a": {"b": {"c": 2, "d": [3, {"e": 4}]}}});
        let object = value.as_object().unwrap();
        assert_eq!(walk(object, "a.b"), Some(&json!({"c": 1})));
        assert_eq!(walk(object, "a.b.c"), Some(&json!(1)));
        assert_eq!(walk(object, "a.b.d"), None);
        let value = json!({"a": {"b": {"d": [3, {"e": 4}]}}});
        let object = value.as_object().unwrap();
        assert_eq!(walk(object, "a.b.d.1.e"), Some(&json!(4)));
        for nowhere in ["", ".", "a.", "a.b.d.2", "a.b.d.x", "a.b.d.0.e", "b"] {
            assert_eq!(walk(object, nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn paths_are_strings_or_lists_of_them() {
        let read: ColumnPath = serde_json::from_str(r#"["a", "b"]"#).unwrap();
        assert_eq!(read, ColumnPath::from(["a", "b"]));
        let one: ColumnPath = serde_json::from_str(r#""a""#).unwrap();
        assert_eq!(one, ColumnPath::from("a"));
        let open = |name: &str, path: ColumnPath| Columns::new(&[(name.to_owned(), path)].into(), &[]);
        assert!(open("completions", read.clone()).is_ok());
        assert!(matches!(open("prompt", read), Err(Error::Option { name: "columns", .. })));
        assert!(matches!(open("prompt", ColumnPath::from("")), Err(Error::Option { .. })));
        let error = open("promt", one).unwrap_err().to_string();
        assert!(error.ends_with("the nearest is prompt"), "{error}");
    }
}
