//! The same rows in every format become the same examples.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Write as _;
use std::path::Path;

use candlewick_data::{EncodeOptions, Order, Source, SourceOptions, Stream, Unit};
use common::{SMALL, Small, encoder};

/// Decoded prompt and completions of every row, and where it came from.
fn rows(options: &SourceOptions) -> Vec<(Vec<String>, u64, Unit)> {
    let encoder =
        encoder(Small { chat: true, ..SMALL }, EncodeOptions { max_length: None, ..EncodeOptions::default() });
    let stream = Stream::new(Source::open(options).unwrap(), encoder.clone(), Order::File).unwrap();
    stream
        .map(|example| {
            let example = example.unwrap();
            let context = &example.contexts[0];
            let completions = context.completions.iter().map(|completion| encoder.decode(&completion.ids));
            let texts = std::iter::once(encoder.decode(&context.prompt)).chain(completions).collect();
            (texts, example.origin.line, example.origin.unit)
        })
        .collect()
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> SourceOptions {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    SourceOptions::new(path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const PAIRS: [&str; 2] = [
    r#"{"prompt": "p, \"q\"", "chosen": "a", "rejected": "b"}"#,
    r#"{"prompt": "r", "chosen": "c\nd", "rejected": "e"}"#,
];

#[test]
fn lines_arrays_and_tables_agree() {
    let dir = tempfile::tempdir().unwrap();
    let lines = rows(&write(dir.path(), "a.jsonl", PAIRS.join("\n")));
    assert_eq!(
        lines.iter().map(|(_, line, unit)| (*line, *unit)).collect::<Vec<_>>(),
        [(1, Unit::Line), (2, Unit::Line)]
    );
    let array = format!("[{}]", PAIRS.join(","));
    let csv = "prompt,chosen,rejected\n\"p, \"\"q\"\"\",a,b\nr,\"c\nd\",e\n";
    let tsv = "\tprompt\tchosen\trejected\r\n0\t\"p, \"\"q\"\"\"\ta\tb\r\n1\tr\t\"c\nd\"\te";
    for (name, text) in [("a.json", array.as_str()), ("a.csv", csv), ("b.tsv", tsv)] {
        for (name, bytes) in
            [(name.to_owned(), text.as_bytes().to_vec()), (format!("{name}.gz"), gzip(text.as_bytes()))]
        {
            let read = rows(&write(dir.path(), &name, bytes));
            assert_eq!(
                read.iter().map(|(texts, ..)| texts).collect::<Vec<_>>(),
                lines.iter().map(|(texts, ..)| texts).collect::<Vec<_>>(),
                "{name}"
            );
            assert_eq!(
                read.iter().map(|(_, line, unit)| (*line, *unit)).collect::<Vec<_>>(),
                [(1, Unit::Row), (2, Unit::Row)],
                "{name}"
            );
        }
    }
}

#[test]
fn directories_globs_and_names_like_globs() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b/2.jsonl", PAIRS[1]);
    write(dir.path(), "b/1.json", format!("[{}]", PAIRS[0]));
    write(dir.path(), "a[1].jsonl", PAIRS[0]);
    write(dir.path(), "notes.txt", "notes");
    write(dir.path(), ".cache/3.jsonl", "broken");
    assert_eq!(rows(&SourceOptions::new(dir.path())).len(), 3);
    assert_eq!(rows(&SourceOptions::new(dir.path().join("a[1].jsonl"))).len(), 1);
    assert_eq!(rows(&SourceOptions::new(dir.path().join("**/*.json*"))).len(), 3);
    assert_eq!(rows(&SourceOptions::new(dir.path().join("b/?.json"))).len(), 1);
}

/// A directory of `save_to_disk`: the files its state lists, not the caches beside them.
#[test]
fn a_saved_data_set_is_its_listed_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "dataset_info.json", "{\n\"citation\": \"\"\n}");
    write(dir.path(), "state.json", r#"{"_data_files": [{"filename": "data-1.jsonl"}, {"filename": "data-0.jsonl"}]}"#);
    write(dir.path(), "data-0.jsonl", PAIRS[0]);
    write(dir.path(), "data-1.jsonl", PAIRS[1]);
    write(dir.path(), "cache-0.jsonl", "stale");
    let read = rows(&SourceOptions::new(dir.path()));
    assert_eq!(read.iter().map(|(texts, ..)| texts[0].as_str()).collect::<Vec<_>>(), ["<s> r", "<s> p, \"q\""]);
}

/// Messages as nested columns, with nulls, through Parquet and both kinds of Arrow.
#[cfg(feature = "columnar")]
#[test]
fn nested_columns_are_conversations() {
    use std::sync::Arc;

    use arrow_ipc::writer::{FileWriter, StreamWriter};
    use arrow_schema::{DataType, Field, Schema, TimeUnit};
    use parquet::arrow::ArrowWriter;

    let text = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}], "at": null, "score": 0.5, "tags": []}
{"prompt": [{"role": "user", "content": "r"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "d"}], "at": "2024-01-02T03:04:05", "score": null, "tags": [null, "x"]}
"#;
    let message = DataType::Struct(
        vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::LargeUtf8, true)].into(),
    );
    let list = DataType::List(Arc::new(Field::new("item", message, true)));
    let column = |name: &str, of: DataType| Field::new(name, of, true);
    let schema = Arc::new(Schema::new(vec![
        column("prompt", list.clone()),
        column("chosen", list.clone()),
        column("rejected", list),
        column("at", DataType::Timestamp(TimeUnit::Microsecond, None)),
        column("score", DataType::Float64),
        column("tags", DataType::LargeList(Arc::new(Field::new("item", DataType::Utf8, true)))),
    ]));
    let batches: Vec<_> = arrow_json::ReaderBuilder::new(Arc::clone(&schema))
        .build(text.as_bytes())
        .unwrap()
        .map(|batch| batch.unwrap())
        .collect();
    let mut parquet = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &schema).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in &batches {
        parquet.write(batch).unwrap();
        file.write(batch).unwrap();
        stream.write(batch).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let expected: Vec<_> = rows(&write(dir.path(), "a.jsonl", text)).into_iter().map(|(texts, ..)| texts).collect();
    assert_eq!(expected.len(), 2);
    for (name, bytes) in [
        ("a.parquet", parquet.into_inner().unwrap()),
        ("a.arrow", file.into_inner().unwrap()),
        // Told by its content.
        ("b.data", stream.into_inner().unwrap()),
    ] {
        let read: Vec<_> = rows(&write(dir.path(), name, bytes)).into_iter().map(|(texts, ..)| texts).collect();
        assert_eq!(read, expected, "{name}");
    }
}

/// Real files: arrays and tables of the shared fixtures, row for row.
#[test]
fn rows_of_real_files_are_counted() {
    for (name, count) in [
        ("preferences/lf_dpo_en_demo.json.gz", 300),
        ("preferences/stack_exchange_paired_tiny.json.gz", 25),
        ("preferences/rasbt_polite_preference_1100.json.gz", 1100),
        ("preferences/diasafety_train.json.gz", 9017),
    ] {
        let Some(path) = common::asset(&format!("assets/{name}")) else { return };
        let columns = match name {
            "preferences/stack_exchange_paired_tiny.json.gz" => {
                vec![("prompt", "question"), ("completion", "response_j")]
            }
            "preferences/rasbt_polite_preference_1100.json.gz" => {
                vec![("prompt", "instruction"), ("completion", "output")]
            }
            "preferences/diasafety_train.json.gz" => vec![("prompt", "context"), ("completion", "response")],
            _ => vec![("prompt", "conversations"), ("completion", "chosen")],
        };
        let columns = columns.into_iter().map(|(ours, theirs)| (ours.to_owned(), theirs.into())).collect();
        let options =
            SourceOptions { columns, form: candlewick_data::Form::PromptCompletion, ..SourceOptions::new(path) };
        let encoder = encoder(Small { chat: true, ..SMALL }, EncodeOptions::default());
        let mut stream = Stream::new(Source::open(&options).unwrap(), encoder, Order::File).unwrap();
        while let Some(read) = stream.next_example().transpose() {
            read.unwrap();
        }
        assert_eq!(stream.report().rows, count, "{name}");
    }
}
