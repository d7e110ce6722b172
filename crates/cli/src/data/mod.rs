//! `wick data`: rows as they are read, measured, and written in another form.

mod condition;
mod convert;
mod dropped;
mod inspect;
mod make;
mod make_safety;
mod stats;
pub(crate) mod words;

use std::io;
use std::path::Path;

use anyhow::Result;
use candlewick::data::{
    ColumnPath, Deduplicate, EncodeOptions, Encoder, Form, NumberColumn, Source, SourceOptions, Ties,
};
use serde::de::DeserializeOwned;

use crate::places::{self, Kind};
pub(crate) use convert::create;
pub(crate) use dropped::{Dropped, refuse_input};
use words::{Data, DataRows, DataTokens, TiesWord};

/// Does what is asked.
pub(crate) fn data(command: &Data) -> Result<()> {
    match command {
        Data::Inspect(arguments) => inspect::inspect(arguments),
        Data::Stats(arguments) => stats::stats(arguments),
        Data::Convert(arguments) => convert::convert(arguments),
        Data::Condition(arguments) => condition::condition(arguments),
        Data::Make(arguments) => make::make(arguments),
    }
}

/// The rows that are named.
pub(crate) fn source(rows: &DataRows) -> Result<Source> {
    source_with(rows, &[])
}

/// The same, of which every row must bring these numbers too.
pub(crate) fn source_with(rows: &DataRows, more: &[String]) -> Result<Source> {
    Ok(Source::open(&options(rows, more)?)?)
}

/// How the rows are read.
fn options(rows: &DataRows, more: &[String]) -> Result<SourceOptions> {
    let fetched = places::data(&rows.path, rows.subset.as_deref(), rows.split.as_deref())?;
    let mut numbers: Vec<NumberColumn> = rows.numbers.iter().chain(more).map(NumberColumn::any).collect();
    // A soft label is read as this number.
    if rows.ties == TiesWord::Soft && !rows.numbers.iter().any(|name| name == "preference") {
        numbers.push(NumberColumn::share("preference"));
    }
    Ok(SourceOptions {
        form: rows.form.unwrap_or_default(),
        rows: rows.rows.unwrap_or_default(),
        columns: rows.columns.iter().cloned().collect(),
        criterion: rows.criterion.clone(),
        ties: match rows.ties {
            TiesWord::Drop => Ties::Drop,
            TiesWord::Keep => Ties::Keep,
            TiesWord::Soft => Ties::Soft,
        },
        strict: rows.strict,
        safety_order: rows.safety_order,
        numbers,
        // What was fetched is of the split.
        split: rows.split.clone().filter(|_| fetched.is_none()),
        files: fetched.unwrap_or_default(),
        ..SourceOptions::new(&rows.path)
    })
}

/// The tokenizer that is named.
fn encoder(tokens: &DataTokens) -> Result<Option<Encoder>> {
    let Some(place) = &tokens.model else { return Ok(None) };
    let options = EncodeOptions {
        max_length: tokens.max_length,
        max_prompt_length: tokens.max_prompt_length,
        max_completion_length: tokens.max_completion_length,
        truncation: tokens.truncation.unwrap_or_default(),
        boundary: tokens.boundary.unwrap_or_default(),
        end_of_sequence: tokens.end_of_sequence.unwrap_or_default(),
        date: tokens.date,
        ..EncodeOptions::default()
    };
    Ok(Some(Encoder::from_dir(&places::directory(place, Kind::Model)?, options)?))
}

/// `--form`.
pub(crate) fn form(name: &str) -> Result<Form, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|_| {
        let names: Vec<&str> = Form::ALL.iter().map(|(_, name, _)| *name).collect();
        format!("the forms are auto, {}", names.join(", "))
    })
}

/// A word as `[data]` of a configuration has it.
pub(crate) fn word<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|error| error.to_string())
}

/// `--columns`: one path, or several for what is a list.
pub(crate) fn column(words: &str) -> Result<(String, ColumnPath), String> {
    let expected =
        || "expected our name of the column, =, and its place in the file, as completion=response".to_owned();
    let (name, paths) = words.split_once('=').ok_or_else(expected)?;
    let paths: Vec<String> = paths.split(',').map(|path| path.trim().to_owned()).collect();
    if name.trim().is_empty() || paths.iter().any(String::is_empty) {
        return Err(expected());
    }
    let path = match <[String; 1]>::try_from(paths) {
        Ok([path]) => ColumnPath::One(path),
        Err(paths) => ColumnPath::List(paths),
    };
    Ok((name.trim().to_owned(), path))
}

/// `--deduplicate`.
pub(crate) fn deduplicate(words: &str) -> Result<Deduplicate, String> {
    const USUAL: f64 = 0.8;
    let expected = || "expected exact, near, or near=S with a similarity S from 0.5 to 1".to_owned();
    match words.split_once('=') {
        None if words == "exact" => Ok(Deduplicate::Exact),
        None if words == "near" => Ok(Deduplicate::Near { similarity: USUAL }),
        Some(("near", similarity)) => {
            let similarity: f64 = similarity.trim().parse().map_err(|_| expected())?;
            if (0.5..=1.0).contains(&similarity) { Ok(Deduplicate::Near { similarity }) } else { Err(expected()) }
        }
        _ => Err(expected()),
    }
}

/// What was written; a reader that has seen enough, as `head`, is no failure.
fn shown(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A path for messages.
pub(crate) fn name(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use candlewick::data::{Boundary, Truncation};

    use super::*;

    #[test]
    fn words_are_read() {
        assert_eq!(form("hh_pair"), Ok(Form::HhPair));
        assert!(form("hh").unwrap_err().contains("hh_pair"));
        assert_eq!(word::<Boundary>("common_prefix"), Ok(Boundary::CommonPrefix));
        assert_eq!(word::<Truncation>("keep_end_of_prompt"), Ok(Truncation::KeepEndOfPrompt));
        assert!(word::<Boundary>("prefix").unwrap_err().contains("`common_prefix`"));
        assert_eq!(column("completion = a.b"), Ok(("completion".to_owned(), ColumnPath::from("a.b"))));
        assert_eq!(column("votes=x, y"), Ok(("votes".to_owned(), ColumnPath::from(["x", "y"]))));
        assert!(column("completion").is_err() && column("=x").is_err());
        assert_eq!(deduplicate("near=0.9"), Ok(Deduplicate::Near { similarity: 0.9 }));
        assert_eq!(deduplicate("exact"), Ok(Deduplicate::Exact));
        for words in ["near=2", "near=x", "all", "exact=1"] {
            assert!(deduplicate(words).is_err(), "{words}");
        }
    }
}
