//! Sections whose keys depend on a `kind`.
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The variant that the words of a section name, made of the keys that were given. `kinds` are all the words for a kind; the keys
/// `beside` belong to every one of them and to none.
pub(crate) fn of_kind<T: DeserializeOwned>(
    section: &str,
    words: &impl Serialize,
    kinds: &[&str],
    beside: &[&str],
) -> Result<T> {
    let key = |name: &str| format!("{section}.{name}");
    let words = toml::Table::try_from(words).map_err(|e| Error::config(section, e.to_string()))?;
    let mut given = words;
    given.retain(|name, _| !beside.contains(&name));
    let kind = given.get("kind").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let error = match read(given.clone()) {
        Ok(variant) => return Ok(variant),
        Err(message) => message,
    };
    let (Some(word), known) = quoted(&error) else { return Err(Error::config(section, error)) };
    if error.starts_with("missing field") {
        return Err(Error::config(key(word), format!("missing; kind = {kind:?} needs it")));
    }
    if !error.starts_with("unknown field") {
        return Err(Error::config(section, error));
    }
    let has_it = |other: &&&str| {
        let mut alone = toml::Table::new();
        alone.insert("kind".into(), toml::Value::String((**other).into()));
        alone.extend(given.get_key_value(word).map(|(name, value)| (name.clone(), value.clone())));
        !read::<T>(alone).is_err_and(|e| e.starts_with("unknown field"))
    };
    let others: Vec<&str> = kinds.iter().filter(has_it).copied().collect();
    let instead = if others.is_empty() { String::new() } else { format!(", or choose {}", others.join(", ")) };
    let reason = format!("not a key of kind = {kind:?}, which has {}; leave it out{instead}", known.join(", "));
    Err(Error::config(key(word), reason))
}

fn read<T: DeserializeOwned>(given: toml::Table) -> Result<T, String> {
    T::deserialize(toml::Value::Table(given)).map_err(|e| e.message().to_owned())
}

/// The first word in backticks, and the others.
fn quoted(message: &str) -> (Option<&str>, Vec<&str>) {
    let mut words = message.split('`').skip(1).step_by(2);
    (words.next(), words.collect())
}
