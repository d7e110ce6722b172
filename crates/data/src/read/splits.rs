//! Splits of a data set told from the names of its files, as `datasets` tells them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Stands for every file whatever its split.
const ALL: &str = "all";

/// A split and the words that stand for it in names.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Of files found under a place, those of a split; without one, all of them if they are of one.
pub(crate) fn select(
    place: &str,
    base: &Path,
    found: Vec<PathBuf>,
    split: Option<&str>,
) -> Result<Vec<PathBuf>, Error> {
    let dictionary = dictionary(base);
    let of = |path: &PathBuf| told(path, base, &dictionary);
    choose(place, found, split, &dictionary, &of)
}

/// Of files that someone has listed, those of a split, told by their paths below the directory that they share, and where
/// these tell none, by its own name.
pub(crate) fn of_list(place: &str, list: &[PathBuf], split: &str) -> Result<Vec<PathBuf>, Error> {
    if let [only] = list {
        return check(place, only, split).map(|()| list.to_vec());
    }
    let base = shared(list);
    let dictionary = dictionary(&base);
    let own = base.file_name().and_then(|name| keyword(&name.to_string_lossy()));
    let of = |path: &PathBuf| told(path, &base, &dictionary).or_else(|| own.map(str::to_owned));
    choose(place, list.to_vec(), Some(split), &dictionary, &of)
}

/// The directory that holds all files of a list, however deep.
fn shared(list: &[PathBuf]) -> PathBuf {
    let mut parents = list.iter().map(|path| path.parent().unwrap_or(Path::new("")));
    let first = parents.next().unwrap_or(Path::new("")).to_owned();
    parents.fold(first, |shared, parent| {
        shared.components().zip(parent.components()).take_while(|(a, b)| a == b).map(|(part, _)| part).collect()
    })
}

/// The split that the path of a file below a base tells.
fn told(path: &Path, base: &Path, dictionary: &BTreeSet<String>) -> Option<String> {
    let inside = path.strip_prefix(base).unwrap_or(path);
    let directory = inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    directory.filter(|name| dictionary.contains(name)).map_or_else(|| split_of(inside), Some)
}

fn choose(
    place: &str,
    found: Vec<PathBuf>,
    split: Option<&str>,
    dictionary: &BTreeSet<String>,
    of: &dyn Fn(&PathBuf) -> Option<String>,
) -> Result<Vec<PathBuf>, Error> {
    let splits: BTreeSet<Option<String>> = found.iter().map(of).collect();
    let named = listed(&splits);
    let wrong = |message| Error::NoFiles { place: place.to_owned(), message };
    match split {
        Some(ALL) => Ok(found),
        None if splits.len() <= 1 => Ok(found),
        None => Err(wrong(format!(
            "its files are of several splits ({named}); name the one to read, or `{ALL}` for every file"
        ))),
        Some(asked) => {
            let asked = if dictionary.contains(asked) { asked.to_owned() } else { canonical(asked) };
            // Files without the name of a split are those to train on.
            let selected: Vec<PathBuf> =
                found.into_iter().filter(|path| of(path).unwrap_or_else(|| "train".to_owned()) == asked).collect();
            if selected.is_empty() {
                return Err(wrong(format!("it has no split `{asked}`, only {named}")));
            }
            Ok(selected)
        }
    }
}

/// The splits of a dictionary of data sets that `save_to_disk` wrote, each a directory of its name; none of another place.
fn dictionary(base: &Path) -> BTreeSet<String> {
    let listed = std::fs::read(base.join("dataset_dict.json")).unwrap_or_default();
    let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap_or_default();
    let names = listed.get("splits").and_then(serde_json::Value::as_array).into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Whether one file can be of a split, as its name or that of its directory tells.
pub(crate) fn check(place: &str, path: &Path, split: &str) -> Result<(), Error> {
    let base = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let dictionary = dictionary(base);
    let asked = if dictionary.contains(split) { split.to_owned() } else { canonical(split) };
    let wrong = |message| Err(Error::NoFiles { place: place.to_owned(), message });
    match told(path, base, &dictionary) {
        _ if split == ALL => Ok(()),
        Some(found) if found != asked => {
            wrong(format!("it is a file of the split `{found}`, `{split}` was asked for; name its file or directory"))
        }
        // What names no split is there to train on.
        None if asked != "train" => wrong(format!(
            "neither the name of the file nor that of its directory tells a split, `{split}` was asked for; leave it out, \
             or name the file of that split"
        )),
        _ => Ok(()),
    }
}

fn listed(splits: &BTreeSet<Option<String>>) -> String {
    let words: Vec<&str> =
        splits.iter().map(|split| split.as_deref().unwrap_or("files without a split in the name")).collect();
    words.join(", ")
}

fn canonical(split: &str) -> String {
    let known = KEYWORDS.iter().find(|(_, words)| words.contains(&split.to_lowercase().as_str()));
    known.map_or(split, |(name, _)| name).to_owned()
}

/// The split that a path names: by `train-00000-of-00002`, by a word of the file's name, by a directory's name.
fn split_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let stem = name.split('.').next().unwrap_or(&name);
    if let Some(prefix) = sharded(stem).filter(|prefix| *prefix != "data") {
        return Some(canonical(prefix));
    }
    let directories =
        path.parent().into_iter().flat_map(Path::components).map(|part| part.as_os_str().to_string_lossy());
    let found = std::iter::once(stem.into()).chain(directories.collect::<Vec<_>>().into_iter().rev());
    found.into_iter().find_map(|part: std::borrow::Cow<'_, str>| keyword(&part).map(str::to_owned))
}

/// What stands before `-00000-of-00002`.
fn sharded(stem: &str) -> Option<&str> {
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, count) = stem.rsplit_once("-of-")?;
    // A fingerprint may follow.
    let count = count.split('-').next().unwrap_or(count);
    let (prefix, index) = before.rsplit_once('-')?;
    (digits(count) && digits(index)).then_some(prefix)
}

/// The split of the first word that names one.
fn keyword(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    let mut words =
        lower.split(|character: char| matches!(character, '-' | '.' | '_' | ' ') || character.is_ascii_digit());
    words.find_map(|word| KEYWORDS.iter().find(|(_, keys)| keys.contains(&word)).map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_files_are_told_by_their_directories() {
        let list = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let chosen = |paths: &[&str], split| of_list("it", &list(paths), split);
        let both = ["/data/train/rows-0.jsonl", "/data/test/rows-0.jsonl"];
        assert_eq!(chosen(&both, "train").unwrap(), list(&both[..1]));
        assert_eq!(chosen(&both, "testing").unwrap(), list(&both[1..]));
        assert_eq!(chosen(&both, "all").unwrap(), list(&both));
        let error = chosen(&both, "dev").unwrap_err().to_string();
        assert!(error.contains("no split `validation`, only test, train"), "{error}");
        // The directory that they share tells where nothing below it does; one further up does not.
        let same = ["/train/test/a.jsonl", "/train/test/b.jsonl"];
        assert_eq!(chosen(&same, "test").unwrap(), list(&same));
        assert!(chosen(&same, "train").is_err());
        assert!(chosen(&same[..1], "train").unwrap_err().to_string().contains("of the split `test`"));
        assert_eq!(chosen(&same[..1], "test").unwrap(), list(&same[..1]));
        // A file that tells no split is one to train on.
        assert_eq!(chosen(&["rows.jsonl"], "train").unwrap(), list(&["rows.jsonl"]));
        assert!(chosen(&["rows.jsonl"], "test").unwrap_err().to_string().contains("tells a split"));
    }

    #[test]
    fn names_tell_splits_as_datasets_does() {
        let split = |path: &str| split_of(Path::new(path));
        for (path, expected) in [
            ("train.jsonl", Some("train")),
            ("data/train-00000-of-00001.parquet", Some("train")),
            ("data/train-00000-of-00001-5e66e2e0bb0ba2b2.parquet", Some("train")),
            ("data/train_prefs-00000-of-00001.parquet", Some("train_prefs")),
            ("data/human-00003-of-00010.parquet", Some("human")),
            ("dev/a.csv", Some("validation")),
            ("my-val_2.json.gz", Some("validation")),
            ("test/data-00000-of-00001.arrow", Some("test")),
            ("data-00000-of-00001.arrow", None),
            ("pairs.jsonl", None),
            ("latest.jsonl", None),
            ("pretrained.jsonl", None),
            ("helpful-base/test.jsonl.gz", Some("test")),
        ] {
            assert_eq!(split(path).as_deref(), expected, "{path}");
        }
    }
}
