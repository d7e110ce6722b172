//! Properties that every format has.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::row::Unit;

const ROWS: usize = 23;

fn row(index: usize) -> Value {
    let prompt =
        if index % 5 == 3 { Value::Null } else { json!(format!("q {index}, \"é\"\n{}", "x".repeat(index * 7))) };
    json!({"prompt": prompt, "chosen": format!("yes {index}"), "rejected": "no"})
}

fn lines() -> String {
    (0..ROWS).fold(String::new(), |mut text, index| {
        let blank = if index % 4 == 0 { "\n" } else { "" };
        writeln!(text, "{}{blank}", row(index)).unwrap();
        text
    })
}

fn array() -> String {
    let rows: Vec<String> = (0..ROWS).map(|index| serde_json::to_string_pretty(&row(index)).unwrap()).collect();
    format!(" [\n{}\n]\n", rows.join(" ,\n"))
}

fn table(delimiter: char, end: &str) -> String {
    let quoted =
        |value: &Value| value.as_str().map_or(String::new(), |text| format!("\"{}\"", text.replace('"', "\"\"")));
    (0..ROWS).map(row).fold(format!("prompt{delimiter}chosen{delimiter}\"rejected\"{end}"), |mut text, row| {
        let cells = [&row["prompt"], &row["chosen"], &row["rejected"]].map(quoted);
        write!(text, "{}{end}", cells.join(&delimiter.to_string())).unwrap();
        text
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file of the same rows in every format, by name.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("rows.jsonl", lines().into_bytes()),
        ("array.json", array().into_bytes()),
        ("table.csv", table(',', "\r\n").into_bytes()),
        ("tabs.tsv", table('\t', "\n").into_bytes()),
        ("return.csv", format!("\u{feff}{}", table(',', "\r")).into_bytes()),
    ];
    files.push(("lines.jsonl.gz", gzip(lines().as_bytes())));
    files.push(("array_gz.json.gz", gzip(array().as_bytes())));
    files.push(("table_gz.csv.gz", gzip(table(',', "\n").as_bytes())));
    #[cfg(feature = "zstd")]
    files.push(("lines_zst.jsonl.zst", zstd::encode_all(lines().as_bytes(), 1).unwrap()));
    #[cfg(feature = "columnar")]
    columnar::push(&mut files);
    files
        .into_iter()
        .map(|(name, bytes)| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect()
}

#[cfg(feature = "columnar")]
mod columnar {
    use std::sync::Arc;

    use ::parquet::arrow::ArrowWriter;
    use ::parquet::basic::Compression;
    use ::parquet::file::properties::WriterProperties;
    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, DictionaryArray, LargeStringArray, RecordBatch, StringArray};
    use arrow_ipc::writer::{FileWriter, StreamWriter};

    use super::*;

    /// Rows of a range: a string, a large one, and one by a dictionary.
    fn batch(from: usize, to: usize) -> RecordBatch {
        let text = |name: &'static str| (from..to).map(move |index| row(index)[name].as_str().map(str::to_owned));
        let columns: [(&str, ArrayRef); 3] = [
            ("prompt", Arc::new(text("prompt").collect::<StringArray>())),
            ("chosen", Arc::new(text("chosen").collect::<LargeStringArray>())),
            ("rejected", {
                let texts: Vec<String> = text("rejected").flatten().collect();
                Arc::new(texts.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>())
            }),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    fn batches() -> Vec<RecordBatch> {
        [(0, 5), (5, 6), (6, 6), (6, 17), (17, ROWS)].map(|(from, to)| batch(from, to)).into()
    }

    pub(super) fn parquet(compression: Compression) -> Vec<u8> {
        let properties =
            WriterProperties::builder().set_compression(compression).set_max_row_group_row_count(Some(5)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch(0, 1).schema(), Some(properties)).unwrap();
        for batch in batches() {
            writer.write(&batch).unwrap();
        }
        writer.into_inner().unwrap()
    }

    pub(super) fn stream() -> Vec<u8> {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch(0, 1).schema()).unwrap();
        for batch in batches() {
            writer.write(&batch).unwrap();
        }
        writer.into_inner().unwrap()
    }

    pub(super) fn file() -> Vec<u8> {
        // One dictionary for all: the file format allows no other.
        let mut writer = FileWriter::try_new(Vec::new(), &batch(0, 1).schema()).unwrap();
        let whole = batch(0, ROWS);
        for (from, length) in [(0, 9), (9, 1), (10, ROWS - 10)] {
            writer.write(&whole.slice(from, length)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    pub(super) fn push(files: &mut Vec<(&str, Vec<u8>)>) {
        files.push(("plain.parquet", parquet(Compression::UNCOMPRESSED)));
        files.push(("snappy.parquet", parquet(Compression::SNAPPY)));
        files.push(("gzip.parquet", parquet(Compression::GZIP(Default::default()))));
        files.push(("zstd.parquet", parquet(Compression::ZSTD(Default::default()))));
        files.push(("lz4.parquet", parquet(Compression::LZ4_RAW)));
        files.push(("stream.arrow", stream()));
        files.push(("file.arrow", file()));
        files.push(("stream_gz.arrow.gz", gzip(&stream())));
        files.push(("file_gz.feather.gz", gzip(&file())));
    }
}

/// Where a row stands, what it is, and the place after it.
type Read = (Origin, Result<Map<String, Value>, String>, Position);

/// The rows from a place on.
fn read(mut reader: Reader) -> Vec<Read> {
    let mut rows = Vec::new();
    while let Some(raw) = reader.next_raw().unwrap() {
        rows.push((raw.origin.clone(), raw.object().map_err(|fault| fault.detail), reader.position()));
    }
    assert!(reader.next_raw().unwrap().is_none());
    rows
}

#[test]
fn every_format_gives_the_same_rows_from_every_place() {
    let dir = tempfile::tempdir().unwrap();
    for path in files(dir.path()) {
        let name = path.display();
        let files = Files::open(&path, None).unwrap();
        let whole = read(files.pass().unwrap());
        assert_eq!(whole.len(), ROWS, "{name}");
        for (index, (origin, object, _)) in whole.iter().enumerate() {
            assert_eq!(Value::Object(object.clone().unwrap()), row(index), "{name}");
            if origin.unit == Unit::Row {
                assert_eq!(origin.line, index as u64 + 1);
            }
        }
        assert_eq!(files.pass().unwrap().position(), Position::default());
        for (index, (_, _, after)) in whole.iter().enumerate() {
            let resumed = files.pass_at(*after).unwrap();
            assert_eq!(resumed.position(), *after, "{name} {index}");
            assert_eq!(read(resumed), whole[index + 1..], "{name} {index}");
        }
        let last = whole.last().unwrap().2;
        let beyond = Position { offset: last.offset + 100, ..last };
        let error = files.pass_at(beyond).map(read).unwrap_err().to_string();
        assert!(error.contains("it is not the source this position was saved from"), "{error}");
    }
}

#[test]
fn streams_give_what_files_give() {
    let dir = tempfile::tempdir().unwrap();
    for path in files(dir.path()) {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.to_string_lossy();
        let of_stream =
            || Files::of_reader(std::io::BufReader::with_capacity(3, std::io::Cursor::new(bytes.clone())), &name);
        if name.ends_with(".parquet") {
            assert!(of_stream().unwrap_err().to_string().contains("save it to a file"));
            continue;
        }
        let whole = read(Files::open(&path, None).unwrap().pass().unwrap());
        let files = of_stream().unwrap();
        assert_eq!(files.head().unwrap()[0].origin, whole[0].0);
        assert_eq!(read(files.pass().unwrap()), whole, "{name}");
        assert!(matches!(files.pass(), Err(Error::SinglePass { .. })));
        assert_eq!(read(of_stream().unwrap().pass_at(whole[7].2).unwrap()), whole[8..], "{name}");
    }
}

#[test]
fn places_lead_from_file_to_file() {
    let dir = tempfile::tempdir().unwrap();
    let paths = files(dir.path());
    std::fs::write(dir.path().join("empty.jsonl"), "\n").unwrap();
    std::fs::write(dir.path().join("README.md"), "about").unwrap();
    std::fs::write(dir.path().join(".hidden.jsonl"), "hidden").unwrap();
    let files = Files::open(dir.path(), None).unwrap();
    let whole = read(files.pass().unwrap());
    assert_eq!(whole.len(), paths.len() * ROWS);
    let mut sorted = paths.clone();
    sorted.sort();
    for (path, rows) in sorted.iter().zip(whole.chunks(ROWS)) {
        assert!(rows.iter().all(|(origin, ..)| *origin.file == *path.to_string_lossy()));
    }
    for index in (0..whole.len()).step_by(11) {
        assert_eq!(read(files.pass_at(whole[index].2).unwrap()), whole[index + 1..]);
    }
    let pattern = dir.path().join("*.json*");
    let of_glob = Files::open(&pattern, None).unwrap();
    let names =
        ["array.json", "array_gz.json.gz", "empty.jsonl", "lines.jsonl.gz", "lines_zst.jsonl.zst", "rows.jsonl"];
    let found: Vec<_> = of_glob.list().iter().map(|file| file.name().rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        found,
        names.into_iter().filter(|name| cfg!(feature = "zstd") || !name.ends_with("zst")).collect::<Vec<_>>()
    );
}

/// Every byte near either end of a file changed in two ways, and the file cut anywhere there: an error or other rows, no panic.
#[cfg(feature = "columnar")]
#[test]
fn damaged_columnar_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged");
    let hook = std::panic::take_hook();
    // What the readers panic with is contained; it is not to fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let mut errors = 0;
    let mut tried = 0;
    for bytes in [columnar::parquet(::parquet::basic::Compression::SNAPPY), columnar::stream(), columnar::file()] {
        let near = 800.min(bytes.len() / 2);
        for at in (0..near).chain(bytes.len() - near..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= [0x01, 0x80, 0xff][at % 3];
            tried += 1;
            std::fs::write(&path, &damaged).unwrap();
            let rows = Files::open(&path, None).and_then(|files| files.pass()).and_then(|mut reader| {
                // A damaged count may promise rows without end.
                for _ in 0..10 * ROWS {
                    if reader.next_raw()?.is_none() {
                        break;
                    }
                }
                Ok(())
            });
            errors += usize::from(rows.is_err());
        }
        for length in (0..bytes.len()).step_by(197) {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let _ = Files::open(&path, None)
                .and_then(|files| files.pass())
                .map(|mut reader| while let Ok(Some(_)) = reader.next_raw() {});
        }
    }
    std::panic::set_hook(hook);
    assert!(errors > tried / 10, "{errors} of {tried}");
}
