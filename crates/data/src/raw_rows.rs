//! Rows of files as they are, for readers with a meaning of their own for the columns.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Rejection};
use crate::read::{Files, Reader};
use crate::row::Origin;

/// The rows of a path, each as the object of its columns; the path, formats and limits are those of
/// [`SourceOptions::path`](crate::SourceOptions::path). The cells of a table in text are strings, and null where they are empty.
///
/// An iterator: an `Err` outside says that reading failed, after which there is no more to come; one inside tells a row that
/// cannot be read.
#[derive(Debug)]
pub struct RawRows {
    paths: Vec<PathBuf>,
    reader: Reader,
}

impl RawRows {
    /// Opens the files. `header` names the columns of tables in text that have no header.
    ///
    /// # Errors
    /// Files that are not there or of no format that is read; a header for files whose columns have names.
    pub fn open(path: &Path, header: Option<&[String]>) -> Result<Self, Error> {
        let files = Files::open(path, None)?;
        let files = match header {
            Some(names) => files.without_header(names)?,
            None => files,
        };
        Ok(Self { paths: files.paths(), reader: files.pass()? })
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl Iterator for RawRows {
    type Item = Result<Result<(Origin, Map<String, Value>), Rejection>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = match self.reader.next_raw() {
            Ok(raw) => raw?,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(match raw.object() {
            Ok(columns) => Ok((raw.origin, columns)),
            Err(fault) => Err(fault.at(&raw.origin)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, text: &str, header: Option<&[&str]>) -> Result<Vec<Value>, Error> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        let header: Option<Vec<String>> = header.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let rows = RawRows::open(&path, header.as_deref())?;
        rows.map(|row| Ok(row?.map_or_else(|rejection| Value::String(rejection.detail), |(_, row)| Value::Object(row))))
            .collect()
    }

    #[test]
    fn a_table_may_have_no_header() {
        let text = "\u{feff}I won.,\"I lost, again.\"\nx,\none\n";
        let found = rows("pairs.csv", text, Some(&["better", "worse"])).unwrap();
        assert_eq!(found[0], serde_json::json!({"better": "I won.", "worse": "I lost, again."}));
        assert_eq!(found[1], serde_json::json!({"better": "x", "worse": null}));
        assert!(found[2].as_str().is_some_and(|detail| detail.contains("1 cell(s)")), "{found:?}");
        let found = rows("rows.jsonl", "{\"a\": 1}\n{\n", None).unwrap();
        assert_eq!(found[0], serde_json::json!({"a": 1}));
        assert!(found[1].is_string());
        let error = rows("rows.jsonl", "{\"a\": 1}\n", Some(&["a"])).unwrap_err().to_string();
        assert!(error.contains("header") && error.contains("rows.jsonl"), "{error}");
        let error = rows("rows.csv", "1,2\n", Some(&["a", "a"])).unwrap_err().to_string();
        assert!(error.contains("as one before"), "{error}");
    }
}
