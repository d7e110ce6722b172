//! Folders as the `datasets` library of Hugging Face writes them and as the Hub holds them: which files are a split's.
#![cfg(feature = "columnar")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use candlewick_data::{Row, Source, SourceOptions, Text};
use parquet::arrow::ArrowWriter;
use serde_json::json;

/// Pairs whose prompts are these.
fn batch(prompts: &[&str]) -> RecordBatch {
    let column = |texts: Vec<String>| -> Arc<dyn arrow_array::Array> { Arc::new(StringArray::from(texts)) };
    let of = |what: &str| prompts.iter().map(|prompt| format!("{what} {prompt}")).collect();
    let prompt = prompts.iter().map(|prompt| (*prompt).to_owned()).collect();
    RecordBatch::try_from_iter([
        ("prompt", column(prompt)),
        ("chosen", column(of("yes"))),
        ("rejected", column(of("no"))),
    ])
    .unwrap()
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn parquet(prompts: &[&str]) -> Vec<u8> {
    let batch = batch(prompts);
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// A stream of one message for each row, as `datasets` writes of small batches.
fn stream(prompts: &[&str]) -> Vec<u8> {
    let whole = batch(prompts);
    let mut writer = StreamWriter::try_new(Vec::new(), &whole.schema()).unwrap();
    for row in 0..whole.num_rows() {
        writer.write(&whole.slice(row, 1)).unwrap();
    }
    writer.into_inner().unwrap()
}

/// What `save_to_disk` leaves of a data set.
fn save(dir: &Path, shards: &[&[&str]]) {
    let names: Vec<String> = (0..shards.len()).map(|at| format!("data-{at:05}-of-{:05}.arrow", shards.len())).collect();
    for (name, prompts) in names.iter().zip(shards) {
        put(dir, name, stream(prompts));
    }
    let listed: Vec<_> = names.iter().map(|name| json!({"filename": name})).collect();
    let state = json!({"_data_files": listed, "_fingerprint": "0123456789abcdef", "_format_columns": null,
        "_format_kwargs": {}, "_format_type": null, "_output_all_columns": false, "_split": null});
    put(dir, "state.json", serde_json::to_vec_pretty(&state).unwrap());
    let string = json!({"dtype": "string", "_type": "Value"});
    let features = json!({"prompt": string, "chosen": string, "rejected": string});
    let info = json!({"citation": "", "description": "", "features": features, "homepage": "", "license": ""});
    put(dir, "dataset_info.json", serde_json::to_vec_pretty(&info).unwrap());
}

/// The prompts that are read, or what is said instead.
fn read(options: &SourceOptions) -> Result<Vec<String>, String> {
    let source = Source::open(options).map_err(|error| error.to_string())?;
    let mut prompts = Vec::new();
    for row in source.records().unwrap() {
        let (_, record) = row.unwrap().unwrap();
        let Row::Pair { prompt: Text::Plain(prompt), chosen: Text::Plain(chosen), .. } = record.row else {
            unreachable!("{record:?}")
        };
        assert_eq!(chosen, format!("yes {prompt}"));
        prompts.push(prompt);
    }
    Ok(prompts)
}

fn of_split(path: &Path, split: &str) -> Result<Vec<String>, String> {
    let options = SourceOptions { split: Some(split.to_owned()), ..SourceOptions::new(path) };
    read(&options).map_err(|text| text.replace(&path.display().to_string(), "DIR"))
}

fn prompts(names: &[&str]) -> Result<Vec<String>, String> {
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_split_of_a_repository_is_read_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "README.md", "---\nlicense: mit\n---\n");
    put(dir.path(), "data/train-00000-of-00002.parquet", parquet(&["a", "b"]));
    put(dir.path(), "data/train-00001-of-00002.parquet", parquet(&["c"]));
    put(dir.path(), "data/test-00000-of-00001.parquet", parquet(&["d"]));
    put(dir.path(), "data/train_prefs-00000-of-00001.parquet", parquet(&["e"]));
    assert_eq!(of_split(dir.path(), "train"), prompts(&["a", "b", "c"]));
    assert_eq!(of_split(dir.path(), "test"), prompts(&["d"]));
    assert_eq!(of_split(dir.path(), "train_prefs"), prompts(&["e"]));
    assert_eq!(of_split(dir.path(), "all"), prompts(&["d", "a", "b", "c", "e"]));
    assert_eq!(
        of_split(dir.path(), "dev"),
        Err("DIR: it has no split `validation`, only test, train, train_prefs".to_owned())
    );
    let any = read(&SourceOptions::new(dir.path())).unwrap_err();
    assert!(
        any.ends_with(
            "its files are of several splits (test, train, train_prefs); name the one to read, or `all` for every file"
        ),
        "{any}"
    );

    let pattern = dir.path().join("data/t*.parquet");
    assert_eq!(of_split(&pattern, "test"), prompts(&["d"]));
    let one = dir.path().join("data/test-00000-of-00001.parquet");
    assert_eq!(of_split(&one, "test"), prompts(&["d"]));
    assert_eq!(
        of_split(&one, "train"),
        Err("DIR: it is a file of the split `test`, `train` was asked for; name its file or directory".to_owned())
    );
}

#[test]
fn a_split_of_listed_files_is_read_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let files = vec![
        put(dir.path(), "blobs/test-00000-of-00001.parquet", parquet(&["d"])),
        put(dir.path(), "blobs/train-00001-of-00002.parquet", parquet(&["c"])),
        put(dir.path(), "blobs/train-00000-of-00002.parquet", parquet(&["a", "b"])),
    ];
    let listed = |split: Option<&str>| {
        let split = split.map(str::to_owned);
        read(&SourceOptions { files: files.clone(), split, ..SourceOptions::new("user/pairs") })
    };
    // In the order of the list.
    assert_eq!(listed(Some("train")), prompts(&["c", "a", "b"]));
    assert_eq!(listed(Some("test")), prompts(&["d"]));
    assert_eq!(listed(None), prompts(&["d", "c", "a", "b"]));
    assert_eq!(
        listed(Some("validation")),
        Err("user/pairs: it has no split `validation`, only test, train".to_owned())
    );
}

#[test]
fn a_data_set_that_was_saved_is_read() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &[&["a", "b", "c"], &["d"]]);
    put(dir.path(), "cache-0f1e2d3c4b5a6978.arrow", stream(&["stale"]));
    assert_eq!(read(&SourceOptions::new(dir.path())), prompts(&["a", "b", "c", "d"]));
    // Files without a split in their name are those to train on.
    assert_eq!(of_split(dir.path(), "train"), prompts(&["a", "b", "c", "d"]));
    let one = dir.path().join("data-00001-of-00002.arrow");
    assert_eq!(read(&SourceOptions::new(&one)), prompts(&["d"]));
    assert_eq!(of_split(&one, "train"), prompts(&["d"]));
    assert!(of_split(&one, "test").unwrap_err().contains("tells a split, `test` was asked for; leave it out"));
}

#[test]
fn a_dictionary_of_data_sets_is_read_by_split() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "dataset_dict.json", r#"{"splits": ["train", "test"]}"#);
    save(&dir.path().join("train"), &[&["a", "b"]]);
    save(&dir.path().join("test"), &[&["d"]]);
    put(dir.path(), "train/cache-0f1e2d3c4b5a6978.arrow", stream(&["stale"]));
    assert_eq!(of_split(dir.path(), "train"), prompts(&["a", "b"]));
    assert_eq!(of_split(dir.path(), "test"), prompts(&["d"]));
    let any = read(&SourceOptions::new(dir.path())).unwrap_err();
    assert!(any.contains("its files are of several splits (test, train)"), "{any}");
    assert_eq!(read(&SourceOptions::new(dir.path().join("train"))), prompts(&["a", "b"]));
}

/// Splits of a `DatasetDict` may have any name: it is that of their directory.
#[test]
fn a_dictionary_may_name_its_splits_as_it_likes() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "dataset_dict.json", r#"{"splits": ["harmless", "helpful"]}"#);
    save(&dir.path().join("harmless"), &[&["a"]]);
    save(&dir.path().join("helpful"), &[&["b"]]);
    assert_eq!(of_split(dir.path(), "helpful"), prompts(&["b"]));
    assert_eq!(of_split(dir.path(), "harmless"), prompts(&["a"]));
    assert_eq!(of_split(dir.path(), "train"), Err("DIR: it has no split `train`, only harmless, helpful".to_owned()));
    let any = read(&SourceOptions::new(dir.path())).unwrap_err();
    assert!(any.contains("its files are of several splits (harmless, helpful)"), "{any}");
}
