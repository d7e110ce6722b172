//! Which files of a data set make which split of which subset, told by their names.
//!
//! `train.jsonl` → `default`/`train`; `data/dev-00000-of-00002.parquet` → `default`/`dev`; `en/test/0.csv` →
//! `en`/`test`. The rules are those of Python's `datasets` where a data set's card configures nothing, but a folder at
//! the top is a subset of its own instead of being poured into the others.

use std::collections::BTreeMap;

/// The subset of files that are in no folder of their own.
const DEFAULT: &str = "default";
const TRAIN: &str = "train";
/// What the Hub calls a split of which it converted a part only.
const PARTIAL: &str = "partial-";
const FORMATS: [&str; 6] = ["parquet", "arrow", "jsonl", "json", "csv", "tsv"];
const COMPRESSIONS: [&str; 2] = ["gz", "zst"];
/// Files about the data.
const ABOUT: [&str; 5] = ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
const KEYWORDS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// A file and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) file: String,
    pub(crate) subset: String,
    pub(crate) split: String,
}

/// The files of one split, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) subset: String,
    pub(crate) split: String,
    pub(crate) files: Vec<String>,
}

/// Reads the names of the Parquet branch: `SUBSET/SPLIT/NNNN.parquet`.
pub(crate) fn of_parquet_branch(files: &[String]) -> Vec<Entry> {
    let entry = |file: &String| {
        let mut parts = file.split('/');
        let (subset, split, name) = (parts.next()?, parts.next()?, parts.next()?);
        let is_data = name.ends_with(".parquet") && parts.next().is_none();
        is_data.then(|| Entry { file: file.clone(), subset: subset.to_owned(), split: split.to_owned() })
    };
    files.iter().filter_map(entry).collect()
}

/// Reads the names of a repository's own files.
pub(crate) fn of_own_files(files: &[String]) -> Vec<Entry> {
    let mut subsets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_data(file)) {
        subsets.entry(subset(file)).or_default().push(file);
    }
    // How a split is named, most telling first. Files that do not name theirs so are about something else.
    let ways: [fn(&str) -> Option<String>; 3] = [of_shard, of_folder, of_file_name];
    let mut entries = Vec::new();
    let mut unnamed = Vec::new();
    for (subset, files) in subsets {
        let named = ways.iter().find(|way| files.iter().any(|file| way(file).is_some()));
        for file in files {
            let entry = |split| Entry { file: file.to_owned(), subset: subset.to_owned(), split };
            match named {
                Some(way) => entries.extend(way(file).map(entry)),
                None => unnamed.push(entry(TRAIN.to_owned())),
            }
        }
    }
    if entries.is_empty() { unnamed } else { entries }
}

/// Chooses a split.
///
/// # Errors
/// There is none of that name, or none is named and several are there. The text lists what there is.
pub(crate) fn choose(entries: &[Entry], subset: Option<&str>, split: Option<&str>) -> Result<Choice, String> {
    let subsets = names(entries.iter().map(|entry| &entry.subset));
    let subset = match subset {
        Some(asked) if subsets.contains(&asked) => asked,
        Some(asked) => return Err(format!("there is no subset {asked}; there is: {}", subsets.join(", "))),
        None if subsets.contains(&DEFAULT) => DEFAULT,
        None => match subsets.as_slice() {
            [] => return Err(format!("there are no data files ({})", known_formats())),
            [only] => only,
            several => return Err(format!("there are several subsets; name one of: {}", several.join(", "))),
        },
    };
    let inside: Vec<_> = entries.iter().filter(|entry| entry.subset == subset).collect();
    let splits = names(inside.iter().map(|entry| &entry.split));
    let asked = split.unwrap_or(TRAIN);
    let wanted = of_name(asked, &splits).ok_or_else(|| no_split(subset, asked, &splits))?;
    let chosen = inside.iter().filter(|entry| entry.split == wanted);
    let mut files: Vec<_> = chosen.map(|entry| entry.file.clone()).collect();
    files.sort_unstable();
    check_one_copy(&files, subset, wanted)?;
    Ok(Choice { subset: subset.to_owned(), split: wanted.to_owned(), files })
}

/// The split of a name, or the only one whose name means the same: `dev` is `validation`.
fn of_name<'a>(asked: &str, splits: &[&'a str]) -> Option<&'a str> {
    let exact = splits.iter().find(|split| **split == asked);
    let mut alike = splits.iter().filter(|split| canonical(split) == canonical(asked));
    match (exact, alike.next(), alike.next()) {
        (Some(split), ..) | (None, Some(split), None) => Some(split),
        _ => None,
    }
}

/// What a split is called that goes by several names.
fn canonical(split: &str) -> &str {
    let known = KEYWORDS.iter().find(|(_, words)| words.contains(&split.to_ascii_lowercase().as_str()));
    known.map_or(split, |(name, _)| name)
}

/// What there should be beside the files, as their names (`train-00000-of-00003.parquet`) say.
pub(crate) fn missing_shard(files: &[String]) -> Option<String> {
    let have = |name: &str| files.iter().any(|file| file.contains(name));
    files.iter().filter_map(|file| Shard::of(file)).find_map(|shard| {
        let name = |number| format!("{}-{number:05}-of-{:05}", shard.before, shard.count);
        // Whoever writes more shards than this names them otherwise.
        (0..shard.count.min(99_999)).map(name).find(|name| !have(name))
    })
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<_> = all.map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn no_split(subset: &str, wanted: &str, splits: &[&str]) -> String {
    let partial = format!("{PARTIAL}{wanted}");
    if splits.contains(&partial.as_str()) {
        return format!(
            "subset {subset} has the first part of split {wanted} only, as the hub converts no more to Parquet; name \
             the split {partial} for that part, or the revision main for the repository's own files"
        );
    }
    format!("subset {subset} has no split {wanted}; name one of: {}", splits.join(", "))
}

/// The same rows in two formats, or plain and compressed, would be counted twice.
fn check_one_copy(files: &[String], subset: &str, split: &str) -> Result<(), String> {
    let mut stems: BTreeMap<&str, &str> = BTreeMap::new();
    let mut formats: BTreeMap<&str, &str> = BTreeMap::new();
    let mut two = None;
    for file in files {
        let plain = without_compression(file);
        two = two.or(stems.insert(plain, file).map(|other| (other, file.as_str())));
        formats.insert(format_of(plain).unwrap_or_default(), file);
    }
    let mut kinds = formats.into_values();
    let pair = two.or_else(|| Some((kinds.next()?, kinds.next()?)));
    pair.map_or(Ok(()), |(one, other)| {
        Err(format!(
            "split {split} of subset {subset} has files of several forms, which may hold the same rows ({one}, {other}); \
             download the one to use with `hf download` and name its path"
        ))
    })
}

fn known_formats() -> String {
    format!(".{}, also .{}", FORMATS.join(", ."), COMPRESSIONS.join(", ."))
}

fn without_compression(file: &str) -> &str {
    match file.rsplit_once('.') {
        Some((plain, end)) if COMPRESSIONS.contains(&end) => plain,
        _ => file,
    }
}

fn format_of(plain: &str) -> Option<&str> {
    plain.rsplit_once('.').map(|(_, end)| end).filter(|end| FORMATS.contains(end))
}

fn is_data(file: &str) -> bool {
    let hidden = |part: &str| part.starts_with('.') || part.starts_with("__");
    let name = file.rsplit('/').next().unwrap_or(file);
    format_of(without_compression(file)).is_some() && !ABOUT.contains(&name) && !file.split('/').any(hidden)
}

fn folders(file: &str) -> impl DoubleEndedIterator<Item = &str> {
    file.rsplit_once('/').map(|(folders, _)| folders.split('/')).into_iter().flatten()
}

/// The folder at the top (or right below `data`), unless it is named for a split.
fn subset(file: &str) -> &str {
    let mut folders = folders(file).peekable();
    folders.next_if_eq(&"data");
    let is_split = |name: &str| KEYWORDS.iter().any(|(_, words)| words.contains(&name.to_ascii_lowercase().as_str()));
    folders.next().filter(|name| !is_split(name)).unwrap_or(DEFAULT)
}

/// The number in a name such as `train-00000-of-00002-0a1b.parquet`.
struct Shard<'a> {
    before: &'a str,
    count: usize,
}

impl<'a> Shard<'a> {
    fn of(file: &'a str) -> Option<Self> {
        let (before, after) = file.split_once("-of-")?;
        let (before, number) = before.rsplit_once('-')?;
        let count = after.get(..5)?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(number) && digits(count)).then_some(())?;
        Some(Self { before, count: count.parse().ok()? })
    }

    /// The name of the split that the shard is of, if it is a plain word.
    fn split(&self) -> Option<&'a str> {
        let name = self.before.rsplit('/').next()?;
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        (!name.is_empty() && name.chars().all(plain)).then_some(name)
    }
}

/// `data/NAME-00000-of-00001.parquet`: whatever the name is.
fn of_shard(file: &str) -> Option<String> {
    let right_in_data = folders(file).eq(["data"]);
    right_in_data.then(|| Shard::of(file)?.split().map(str::to_owned)).flatten()
}

/// The innermost folder that names a split.
fn of_folder(file: &str) -> Option<String> {
    folders(file).rev().find_map(keyword).map(str::to_owned)
}

fn of_file_name(file: &str) -> Option<String> {
    let split = keyword(file.rsplit('/').next()?)?;
    // `train_prefs-00000-of-00001.parquet` is not `train`.
    let shard = Shard::of(file).and_then(|shard| shard.split());
    Some(shard.filter(|name| keyword(name).is_some()).unwrap_or(split).to_owned())
}

/// The split that a name holds as a word.
fn keyword(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.' | '_' | ' '));
    words.find_map(|word| KEYWORDS.iter().find(|(_, known)| known.contains(&word)).map(|(split, _)| *split))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(files: &[&str]) -> Vec<String> {
        files.iter().map(|file| (*file).to_owned()).collect()
    }

    fn own(files: &[&str]) -> Vec<String> {
        let entries = of_own_files(&all(files));
        entries.into_iter().map(|entry| format!("{} = {}/{}", entry.file, entry.subset, entry.split)).collect()
    }

    #[test]
    fn names_as_repositories_use_them() {
        assert_eq!(own(&["README.md", "x.jsonl", "y.csv.gz"]), ["x.jsonl = default/train", "y.csv.gz = default/train"]);
        let expected = ["test.csv = default/test", "my-train_file.csv = default/train", "Dev.csv = default/validation"];
        assert_eq!(own(&["test.csv", "my-train_file.csv", "Dev.csv", "stats.csv"]), expected);
        assert_eq!(
            own(&[
                "data/train_prefs-00000-of-00001.parquet",
                "data/gen.sub-00000-of-00001-0a1b.parquet",
                "data/x.json"
            ]),
            [
                "data/train_prefs-00000-of-00001.parquet = default/train_prefs",
                "data/gen.sub-00000-of-00001-0a1b.parquet = default/gen.sub",
            ]
        );
        assert_eq!(
            own(&["en/test/0.jsonl", "de/train-00000-of-00002.parquet", "de/train_sft-00000-of-00001.parquet"]),
            [
                "de/train-00000-of-00002.parquet = de/train",
                "de/train_sft-00000-of-00001.parquet = de/train_sft",
                "en/test/0.jsonl = en/test",
            ]
        );
        assert_eq!(own(&["train/data-00000-of-00002.arrow"]), ["train/data-00000-of-00002.arrow = default/train"]);
        assert_eq!(own(&["train/part-1/a.csv"]), ["train/part-1/a.csv = default/train"]);
        assert_eq!(own(&["latest.csv", "contest.csv"]).len(), 2, "a keyword is a word");
    }

    #[test]
    fn what_is_about_the_data_is_not_data() {
        let files =
            ["dataset_infos.json", ".hidden/train.csv", "__cache__/train.csv", "train.py", "a/state.json", "train.csv"];
        assert_eq!(own(&files), ["train.csv = default/train"]);
    }

    #[test]
    fn the_parquet_branch_names_subset_and_split() {
        let files = all(&["README.md", "default/train/0000.parquet", "default/train/x/0.parquet", "0.parquet"]);
        let entries = of_parquet_branch(&files);
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].subset.as_str(), entries[0].split.as_str()), ("default", "train"));
    }

    fn chosen(files: &[&str], subset: Option<&str>, split: Option<&str>) -> Result<Vec<String>, String> {
        choose(&of_own_files(&all(files)), subset, split).map(|choice| choice.files)
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let files = ["en/train.csv", "en/test.csv", "de/test.csv"];
        let refused = |subset, split| chosen(&files, subset, split).unwrap_err();
        assert_eq!(refused(None, None), "there are several subsets; name one of: de, en");
        assert_eq!(refused(Some("fr"), None), "there is no subset fr; there is: de, en");
        assert_eq!(refused(Some("de"), None), "subset de has no split train; name one of: test");
        assert_eq!(refused(Some("en"), Some("dev")), "subset en has no split dev; name one of: test, train");
        assert_eq!(chosen(&files, Some("en"), None).unwrap(), ["en/train.csv"]);
        assert_eq!(chosen(&files[..2], None, Some("test")).unwrap(), ["en/test.csv"]);
        assert_eq!(chosen(&["train.csv", "en/train.csv"], None, None).unwrap(), ["train.csv"]);
        let nothing = chosen(&["a.txt"], None, None).unwrap_err();
        assert_eq!(nothing, "there are no data files (.parquet, .arrow, .jsonl, .json, .csv, .tsv, also .gz, .zst)");
    }

    #[test]
    fn a_split_goes_by_several_names() {
        for asked in ["validation", "dev", "val", "valid"] {
            let found = choose(&of_own_files(&all(&["dev.csv", "test.csv"])), None, Some(asked)).unwrap();
            assert_eq!((found.split.as_str(), found.files), ("validation", all(&["dev.csv"])));
        }
        let shards = ["data/dev-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"];
        assert_eq!(chosen(&shards, None, Some("validation")).unwrap(), shards[..1]);
        // The name itself comes first; between others nobody can choose.
        let both = ["data/dev-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"];
        assert_eq!(chosen(&both, None, Some("dev")).unwrap(), both[..1]);
        assert_eq!(chosen(&both, None, Some("validation")).unwrap(), both[1..]);
        let error = chosen(&both, None, Some("val")).unwrap_err();
        assert_eq!(error, "subset default has no split val; name one of: dev, validation");
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        let entries = of_parquet_branch(&all(&["default/partial-train/0000.parquet"]));
        let error = choose(&entries, None, None).unwrap_err();
        assert!(error.contains("the first part of split train only") && error.contains("partial-train"), "{error}");
        assert_eq!(choose(&entries, None, Some("partial-train")).unwrap().files.len(), 1);
    }

    #[test]
    fn the_same_rows_twice_are_refused() {
        for files in [["train.csv", "train.jsonl"], ["train.csv", "train.csv.gz"]] {
            let error = chosen(&files, None, None).unwrap_err();
            assert!(error.contains("may hold the same rows (train.csv, "), "{error}");
        }
        assert_eq!(chosen(&["train-1.csv", "train-2.csv.gz"], None, None).unwrap().len(), 2);
    }

    #[test]
    fn a_gap_between_shards_is_seen() {
        let name = |number: u32| format!("en/train-{number:05}-of-00003.parquet");
        assert_eq!(missing_shard(&[name(0), name(1), name(2)]), None);
        assert_eq!(missing_shard(&[name(0), name(2)]), Some("en/train-00001-of-00003".into()));
        assert_eq!(missing_shard(&all(&["default/train/0000.parquet"])), None);
    }
}
