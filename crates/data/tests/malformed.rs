//! A folder of files that are wrong, and what is said of each.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Write as _;
use std::path::Path;

use candlewick_data::{EncodeOptions, Error, Order, Source, SourceOptions, Stream};
use common::{SMALL, encoder};

/// What opening or reading a file says, its directory left out.
fn message(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    said(dir, &SourceOptions { strict: true, ..SourceOptions::new(path) })
}

fn said(dir: &Path, options: &SourceOptions) -> String {
    let read = || -> Result<(), Error> {
        let source = Source::open(options)?;
        let mut stream = Stream::new(source, encoder(SMALL, EncodeOptions::default()), Order::File)?;
        while stream.next_example()?.is_some() {}
        Ok(())
    };
    let text = read().err().map_or_else(|| "no error".to_owned(), |error| error.to_string());
    text.replace(&format!("{}/", dir.display()), "").replace(&dir.display().to_string(), "DIR")
}

const GOOD: &str = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_that_are_no_data_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "pretty.json",
            b"{\n  \"prompt\": \"p\",\n  \"chosen\": \"a\"\n}\n",
            "pretty.json: a JSON object is spread over several lines, expected one object a line or one array; write it with \
             `jq -c .`",
        ),
        (
            "data.json",
            b"{\"data\": [\n  {\"prompt\": \"p\"}\n]}",
            "data.json: it is one JSON object that holds the rows under \"data\", expected rows; write them alone with \
             `jq -c '.[\"data\"][]'`",
        ),
        (
            "python.jsonl",
            b"{'prompt': 'p', 'chosen': 'a', 'rejected': None}\n",
            "python.jsonl: not JSON; it is written as Python writes a dict, with single quotes: write it with json.dumps, not \
             with str or print",
        ),
        (
            "page.json",
            b"<!DOCTYPE html>\n<html><body>404</body></html>",
            "page.json: it is an HTML page; the download got a page instead of the file: use the link of the raw file",
        ),
        (
            "book.csv",
            b"PK\x03\x04\x14\0\0\0\x08\0xl/worksheets/sheet1.xml",
            "book.csv: it is an Excel workbook; save the sheet as CSV (UTF-8) and read that",
        ),
        (
            "rows.pt",
            b"PK\x03\x04\0\0\x08\x08rows/data.pkl",
            "rows.pt: it is a file of torch.save; write its rows as JSON Lines or Parquet from Python",
        ),
        (
            "rows.pkl",
            b"\x80\x04\x95\x10\0\0\0",
            "rows.pkl: it is a Python pickle; write its rows as JSON Lines or Parquet from Python; pickles are never opened",
        ),
        (
            "pointer.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
            "pointer.parquet: it is a pointer of Git LFS, not the data; fetch the data with `git lfs pull`, or download the \
             file from its page",
        ),
        ("wide.jsonl", b"\xff\xfe{\0\"\0", "wide.jsonl: it is UTF-16 text; convert it with `iconv -f UTF-16 -t UTF-8`"),
        (
            "notes.txt",
            b"Some notes\non the data",
            "notes.txt: no data file that can be read: it begins with \"Some notes\"; expected JSON objects (one a line, or \
             in one array), Parquet, Arrow, or CSV or TSV in a file named .csv or .tsv",
        ),
        (
            "empty.jsonl",
            b"",
            "empty.jsonl: no rows; expected JSON objects (one a line, or in one array), or rows of CSV, TSV, Parquet or Arrow",
        ),
        (
            "none.json",
            b"[ ]",
            "none.json: no rows; expected JSON objects (one a line, or in one array), or rows of CSV, TSV, Parquet or Arrow",
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(message(dir.path(), name, bytes), *expected);
        let squeezed = message(dir.path(), &format!("{name}.gz"), &gzip(bytes));
        assert_eq!(squeezed.replace(".gz", ""), *expected);
    }
    let twice = message(dir.path(), "twice.jsonl.gz", &gzip(&gzip(GOOD.as_bytes())));
    assert_eq!(twice, "twice.jsonl.gz: it is compressed twice; decompress it once");
}

#[test]
fn broken_text_files_are_said_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let json: &[(&str, String, &str)] = &[
        (
            "brace.jsonl",
            format!("{GOOD}\n{{\"prompt\": \"p\","),
            "brace.jsonl:2: not a JSON object: column 15: EOF while parsing a value; an object has to end on the line on which \
             it begins, `jq -c .` writes it so",
        ),
        (
            "quotes.jsonl",
            format!("{GOOD}\n{{'prompt': 'p'}}\n"),
            "quotes.jsonl:2: not a JSON object: column 2: key must be a string; it is written as Python writes a dict, with \
             single quotes: write it with json.dumps, not with str or print",
        ),
        (
            "nan.jsonl",
            format!("{GOOD}\n{{\"score\": NaN}}\n"),
            "nan.jsonl:2: not a JSON object: column 11: expected value; JSON has no NaN and no Infinity: write null",
        ),
        (
            "return.jsonl",
            format!("{GOOD}\r{GOOD}\r"),
            "return.jsonl:1: not a JSON object: column 49: trailing characters; a carriage return stands inside the line: end \
             lines with a line feed, as `tr '\\r' '\\n'` does",
        ),
        (
            "nul.jsonl",
            format!("{GOOD}\n\0\0\0\0\n"),
            "nul.jsonl:2: not a JSON object: column 1: expected value; the row holds NUL bytes, as files have that were \
             damaged while they were written: write or copy it again",
        ),
        (
            "cut.json",
            format!("[\n{GOOD},\n{{\"prompt\": \"p\""),
            "cut.json: row 2: cannot read on: the file ends before the array does; it was cut short, copy it again",
        ),
        (
            "comma.json",
            format!("[\n{GOOD},\n]"),
            "comma.json: row 2: cannot read on: a comma stands before the end of the array (line 3, column 1); take it away, or \
             copy the file again if rows are missing",
        ),
        (
            "between.json",
            format!("[\n{GOOD}\n{GOOD}]"),
            "between.json: row 2: cannot read on: line 3, column 1: expected `,` or `]` after the row before, found \
             \"{\\\"prompt\\\": \\\"p\\\", \\\"cho\"",
        ),
        (
            "element.json",
            format!("[\n{GOOD},\n  {{\"prompt\": \"p\"\n   \"chosen\": 1}}]"),
            "element.json: row 2: not a JSON object: line 4, column 4: expected `,` or `}`",
        ),
        (
            "header.csv",
            "prompt,completion,prompt\n1,2,3\n".to_owned(),
            "header.csv: column 3 is named \"prompt\" as one before; rename it",
        ),
        (
            "unnamed.csv",
            "prompt,,completion\n1,2,3\n".to_owned(),
            "unnamed.csv: column 2 has no name; the first row has to hold the names of the columns",
        ),
        (
            "numbers.csv",
            "1,2,3\n1,2,3\n".to_owned(),
            "numbers.csv: its first row holds only numbers; the first row has to hold the names of the columns",
        ),
        (
            "semicolons.csv",
            "prompt;completion\n1;2\n".to_owned(),
            "semicolons.csv: its first row \"prompt;completion\" seems to be separated by ';', expected ','; .csv files are \
             separated by commas, .tsv files by tabs",
        ),
        (
            "cells.csv",
            "prompt,completion\na,b\na,b,c\n".to_owned(),
            "cells.csv: row 2: malformed row: 3 cell(s), the header has 2; a cell that holds a delimiter or a line break has \
             to stand in quotes",
        ),
        (
            "unquoted.csv",
            "prompt,completion\na,b\na,\"b\" c\n".to_owned(),
            "unquoted.csv: row 2: malformed row: text follows the closing quote of cell 2 (`completion`); a quote inside a \
             quoted cell is written twice",
        ),
        (
            "open.csv",
            "prompt,completion\na,b\na,\"b\n".to_owned(),
            "open.csv: row 2: cannot read on: the file ends inside the quotes of cell 2; close them, a quote inside a cell is \
             written twice, or copy the file again if it was cut short",
        ),
    ];
    for (name, text, expected) in json {
        assert_eq!(message(dir.path(), name, text.as_bytes()), *expected);
    }
    assert_eq!(
        message(dir.path(), "latin.csv", b"prompt,completion\na,b\na,caf\xe9\n"),
        "latin.csv: row 2: not UTF-8: byte 4 of column `completion` is not UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        message(dir.path(), "latin.json", &[b"[".as_slice(), GOOD.as_bytes(), b",\n {\"prompt\": \"\xe9\"}]"].concat()),
        "latin.json: row 2: not UTF-8: byte 13 of the element at line 2, column 2 is not UTF-8"
    );
    let squeezed = gzip(format!("prompt,completion\n{}", "a,b\n".repeat(3)).as_bytes());
    assert_eq!(
        message(dir.path(), "cut.csv.gz", &squeezed[..squeezed.len() - 9]),
        "cut.csv.gz: row 4: cannot read on: the gzip stream ends in the middle of its data; the file was cut short, copy it again"
    );
}

#[test]
fn compressed_files_that_were_cut_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..4000).map(|row| format!("{}\n", GOOD.replace(r#""p""#, &format!(r#""{row}""#)))).collect();
    let cut = |bytes: &[u8]| bytes[..bytes.len() * 2 / 3].to_vec();
    let read = |name: &str, bytes: &[u8]| message(dir.path(), name, bytes);
    let line = |said: &str| -> u64 {
        let digits: String = said.chars().skip_while(|c| *c != ':').filter(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let said = read("cut.jsonl.gz", &cut(&gzip(rows.as_bytes())));
    let end = ": the gzip stream ends in the middle of its data; the file was cut short, copy it again";
    assert!(said.starts_with("cut.jsonl.gz:") && said.ends_with(end), "{said}");
    assert!((1000..4000).contains(&line(&said)), "{said}");
    let mut damaged = gzip(rows.as_bytes());
    // A bit of its checksum.
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    let said = read("damaged.jsonl.gz", &damaged);
    assert!(
        said.contains(": cannot read on: the gzip stream is damaged (") && said.ends_with("); copy the file again"),
        "{said}"
    );
    #[cfg(feature = "zstd")]
    {
        let squeezed = zstd::encode_all(rows.as_bytes(), 1).unwrap();
        let end =
            ": cannot read on: the zstd stream ends in the middle of its data; the file was cut short, copy it again";
        let said = read("cut.jsonl.zst", &cut(&squeezed));
        assert!(said.starts_with("cut.jsonl.zst:") && said.ends_with(end), "{said}");
        // Cut before its first block is whole, and without its last bytes.
        let small = zstd::encode_all(GOOD.as_bytes(), 1).unwrap();
        assert_eq!(read("begun.jsonl.zst", &small[..small.len() / 2]), format!("begun.jsonl.zst:1{end}"));
        assert_eq!(read("begun.csv.zst", &small[..small.len() / 2]), format!("begun.csv.zst:1{end}"));
        let table = zstd::encode_all("prompt,completion\na,b\n".as_bytes(), 1).unwrap();
        assert_eq!(read("end.csv.zst", &table[..table.len() - 1]), format!("end.csv.zst: row 1{end}"));
        let mut damaged = squeezed;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 40].fill(0xaa);
        let said = read("damaged.jsonl.zst", &damaged);
        assert!(
            said.contains("cannot read on: the zstd stream is damaged (") && said.ends_with("); copy the file again"),
            "{said}"
        );
    }
}

#[cfg(feature = "columnar")]
#[test]
fn columnar_files_that_were_cut_or_are_something_else() {
    use std::sync::Arc;

    use arrow_array::{RecordBatch, StringArray};
    use arrow_ipc::writer::StreamWriter;
    use parquet::arrow::ArrowWriter;

    let dir = tempfile::tempdir().unwrap();
    let columns = |names: [&str; 2]| {
        let texts = || -> Arc<dyn arrow_array::Array> { Arc::new(StringArray::from(vec!["a", "b"])) };
        RecordBatch::try_from_iter(names.map(|name| (name, texts()))).unwrap()
    };
    let parquet = |batch: &RecordBatch| {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    };
    let stream = |batch: &RecordBatch| {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    };
    let good = columns(["prompt", "completion"]);
    // What no form is told of is a row of a table, whatever holds the table.
    let found = "found the columns left (a string), right (a string); ";
    let unknown = columns(["left", "right"]);
    for (name, bytes) in [
        ("pairs.parquet", parquet(&unknown)),
        ("pairs.arrow", stream(&unknown)),
        ("pairs.csv", b"left,right\na,b\n".to_vec()),
        ("pairs.json", br#"[{"left": "a", "right": "b"}]"#.to_vec()),
    ] {
        let said = message(dir.path(), name, &bytes);
        assert!(said.starts_with(&format!("{name}: row 1: {found}")), "{said}");
    }
    let said = message(dir.path(), "pairs.jsonl", br#"{"left": "a", "right": "b"}"#);
    assert!(said.starts_with(&format!("pairs.jsonl:1: {found}")), "{said}");

    let whole = parquet(&good);
    let said = message(dir.path(), "cut.parquet", &whole[..whole.len() - 9]);
    let start = "cut.parquet: the Parquet file is damaged or cut short (";
    assert!(said.starts_with(start) && said.ends_with("); copy it again, or write it anew"), "{said}");
    assert_eq!(
        message(dir.path(), "twice.parquet.gz", &gzip(&whole)),
        "twice.parquet.gz: it is a Parquet file compressed once more with gzip; decompress it (`gunzip`), Parquet is \
         compressed inside"
    );
    let whole = stream(&good);
    let said = message(dir.path(), "cut.arrow", &whole[..whole.len() - 60]);
    assert!(said.starts_with("cut.arrow: row 1: cannot read on: "), "{said}");
    let none = RecordBatch::new_empty(good.schema());
    let said = message(dir.path(), "none.parquet", &parquet(&none));
    assert!(said.starts_with("none.parquet: no rows; expected JSON objects"), "{said}");
}

/// A row above the limit is set aside in every format; those around it are read.
#[test]
fn rows_too_long_to_be_read() {
    const LONG: usize = candlewick_data::MAX_LINE_BYTES + 1;
    let dir = tempfile::tempdir().unwrap();
    let read = |path: std::path::PathBuf| {
        let source = Source::open(&SourceOptions::new(&path)).unwrap();
        let rows: Vec<_> = source.records().unwrap().map(Result::unwrap).collect();
        assert!(rows.len() == 3 && rows[0].is_ok() && rows[2].is_ok(), "{}", path.display());
        let rejection = rows.into_iter().nth(1).unwrap().unwrap_err();
        rejection.to_string().replace(&format!("{}/", dir.path().display()), "")
    };
    let put = |name: &str, texts: [&[u8]; 3]| {
        let path = dir.path().join(name);
        std::fs::write(&path, texts.concat()).unwrap();
        path
    };
    let long = vec![b'x'; LONG];
    let said = read(put("long.csv", [b"prompt,completion\np,a\np,", &long, b"\np,a\n"]));
    assert_eq!(said, format!("long.csv: row 2: line too long: {} bytes, at most 67108864 are read", LONG + 3));
    let start = br#"{"prompt": "p", "completion": "a"}
{"prompt": "p", "completion": ""#;
    let said = read(put("long.jsonl", [start, &long, b"\"}\n{\"prompt\": \"p\", \"completion\": \"a\"}\n"]));
    assert_eq!(said, format!("long.jsonl:2: line too long: {} bytes, at most 67108864 are read", LONG + 33));
    #[cfg(feature = "columnar")]
    {
        use std::sync::Arc;

        use arrow_array::{RecordBatch, StringArray};

        // Too long as it is, or once its quotes are escaped.
        for (text, length) in [("x".repeat(LONG), LONG + 1), ("\"".repeat(LONG / 2), LONG / 2 * 2 + 30)] {
            let columns: [(&str, Arc<dyn arrow_array::Array>); 2] = [
                ("prompt", Arc::new(StringArray::from(vec!["p"; 3]))),
                ("completion", Arc::new(StringArray::from(vec!["a", &text, "a"]))),
            ];
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let path = dir.path().join("long.parquet");
            let properties = parquet::file::properties::WriterProperties::builder()
                .set_dictionary_enabled(false)
                .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
                .build();
            let file = std::fs::File::create(&path).unwrap();
            let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let said = read(path);
            assert_eq!(said, format!("long.parquet: row 2: line too long: {length} bytes, at most 67108864 are read"));
        }
    }
}

#[test]
fn places_without_data_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = |name: &str| SourceOptions::new(dir.path().join(name));
    let names = "the names of data files end in .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .feather, .ipc (also with \
                 .gz or .zst)";
    assert_eq!(
        said(dir.path(), &SourceOptions::new(dir.path())),
        format!("DIR: the directory holds no data file; {names}")
    );
    assert_eq!(
        said(dir.path(), &options("*.jsonl")),
        "*.jsonl: no file matches the pattern; `**` stands for directories at any depth"
    );
    let missing = said(dir.path(), &options("missing.jsonl"));
    assert!(
        missing.starts_with("missing.jsonl: cannot open the data file: ") && missing.ends_with("; check the path"),
        "{missing}"
    );
    let listed = SourceOptions { files: vec![dir.path().to_owned()], ..options("list") };
    assert_eq!(said(dir.path(), &listed), "DIR: cannot open the data file: it is a directory; check the path");
    for (state, message) in [
        ("{", "state.json: not JSON: EOF while parsing an object at line 1 column 1; save the data set again"),
        ("{}", "state.json: it lists no files under `_data_files`; save the data set again"),
    ] {
        std::fs::create_dir_all(dir.path().join("saved")).unwrap();
        std::fs::write(dir.path().join("saved/dataset_info.json"), "{}").unwrap();
        std::fs::write(dir.path().join("saved/state.json"), state).unwrap();
        assert_eq!(said(dir.path(), &options("saved")), format!("saved/{message}"));
    }
    std::fs::remove_dir_all(dir.path().join("saved")).unwrap();
    std::fs::write(dir.path().join("train.jsonl"), GOOD).unwrap();
    std::fs::write(dir.path().join("test.jsonl"), GOOD).unwrap();
    let splits = said(dir.path(), &SourceOptions::new(dir.path()));
    assert_eq!(
        splits,
        "DIR: its files are of several splits (test, train); name the one to read, or `all` for every file"
    );
}
