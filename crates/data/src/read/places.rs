//! Which files a path stands for: a file, a directory, or a glob.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{sniff, splits};
use crate::error::Error;

/// What data files are named, without the extension of a compression.
const EXTENSIONS: [&str; 9] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "feather", "ipc"];

/// JSON files that stand beside data files and hold none.
const ABOUT: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// The files in the order they are read.
pub(crate) fn find(path: &Path, split: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    let place = path.to_string_lossy();
    if path.is_dir() {
        let mut found = Vec::new();
        walk(path, &mut found, &mut HashSet::new())?;
        if found.is_empty() {
            return Err(none(&place, format!("the directory holds no data file; {}", known())));
        }
        return one_copy(&place, splits::select(&place, path, found, split)?);
    }
    if path.exists() || !place.contains(['*', '?', '[']) {
        return match split {
            Some(split) => splits::check(&place, path, split).map(|()| vec![path.to_owned()]),
            None => Ok(vec![path.to_owned()]),
        };
    }
    let mut found = matches(&place)?;
    found.retain(|path| !path.is_dir());
    if found.is_empty() {
        return Err(none(&place, "no file matches the pattern; `**` stands for directories at any depth".to_owned()));
    }
    let fixed: PathBuf =
        path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '['])).collect();
    one_copy(&place, splits::select(&place, &fixed, found, split)?)
}

/// The same rows in two formats, or plain and compressed, would be read twice.
fn one_copy(place: &str, files: Vec<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let mut stems: HashMap<PathBuf, &PathBuf> = HashMap::new();
    for file in &files {
        if let Some(other) = stem(file).and_then(|stem| stems.insert(stem, file)) {
            let message = format!(
                "{} and {} differ in their format alone and may hold the same rows twice; keep one of them there, or name \
                 the files to read",
                other.display(),
                file.display()
            );
            return Err(none(place, message));
        }
    }
    Ok(files)
}

/// The path of a data file without the extensions of its format and compression; None if it has none.
fn stem(file: &Path) -> Option<PathBuf> {
    let format = sniff::extension(file).filter(|extension| EXTENSIONS.contains(&extension.as_str()))?;
    let plain = file.with_extension("");
    let is_format = |path: &Path| path.extension().is_some_and(|last| last.to_string_lossy().to_lowercase() == format);
    Some(if is_format(file) { plain } else { plain.with_extension("") })
}

fn none(place: &str, message: String) -> Error {
    Error::NoFiles { place: place.to_owned(), message }
}

fn known() -> String {
    format!("the names of data files end in .{} (also with .gz or .zst)", EXTENSIONS.join(", ."))
}

/// Files that match a pattern, sorted.
fn matches(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, options).map_err(|error| {
        none(pattern, format!("the pattern is wrong at its character {}: {}", error.pos + 1, error.msg))
    })?;
    paths
        .map(|path| path.map_err(|error| Error::Open { path: error.path().to_owned(), source: error.into() }))
        .collect()
}

/// Every data file below a directory: hidden ones and those of other names are left out.
fn walk(dir: &Path, found: &mut Vec<PathBuf>, seen: &mut HashSet<PathBuf>) -> Result<(), Error> {
    let cannot_open = |source| Error::Open { path: dir.to_owned(), source };
    // A link to a directory above would lead round in circles.
    if !seen.insert(fs::canonicalize(dir).map_err(cannot_open)?) {
        return Ok(());
    }
    if let Some(listed) = saved(dir)? {
        found.extend(listed);
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(cannot_open)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(cannot_open)?;
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, found, seen)?;
        } else if sniff::extension(&path).is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
            && !ABOUT.contains(&name.as_str())
        {
            found.push(path);
        }
    }
    Ok(())
}

/// The files of a data set that `save_to_disk` wrote: those it lists, since others beside them are caches.
fn saved(dir: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    let path = dir.join("state.json");
    if !path.is_file() || !dir.join("dataset_info.json").is_file() {
        return Ok(None);
    }
    let text = fs::read(&path).map_err(|source| Error::Open { path: path.clone(), source })?;
    let state: Value = serde_json::from_slice(&text)
        .map_err(|error| none(&path.to_string_lossy(), format!("not JSON: {error}; save the data set again")))?;
    let listed = state.get("_data_files").and_then(Value::as_array);
    let names = listed.into_iter().flatten().filter_map(|file| file.get("filename").and_then(Value::as_str));
    // Only names: a list that leads out of the directory is not followed.
    let files: Vec<PathBuf> = names.filter_map(|name| Path::new(name).file_name()).map(|name| dir.join(name)).collect();
    if files.is_empty() {
        return Err(none(
            &path.to_string_lossy(),
            "it lists no files under `_data_files`; save the data set again".to_owned(),
        ));
    }
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rows_twice_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let found = |names: &[&str], place: &str| {
            let dir = dir.path().join(names.join("+").replace('/', "_"));
            for name in names {
                let path = dir.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            find(&dir.join(place), Some("all")).map(|found| found.len()).map_err(|error| error.to_string())
        };
        for names in [
            ["train.jsonl", "train.jsonl.gz"],
            ["train.jsonl", "train.parquet"],
            ["train.JSONL.zst", "train.csv.gz"],
            ["a/v1.2.json", "a/v1.2.json.zst"],
        ] {
            for place in ["", "**/*"] {
                let error = found(&names, place).unwrap_err();
                assert!(names.iter().all(|name| error.contains(name)) && error.contains("rows twice"), "{error}");
            }
        }
        for names in
            [["train-1.jsonl", "train-2.jsonl.gz"], ["a/train.jsonl", "b/train.parquet"], ["v1.1.csv", "v1.2.csv"]]
        {
            assert_eq!(found(&names, "").unwrap(), 2);
        }
    }
}
