use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::row::{Message, Row, Text};

fn text(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn pair(number: usize) -> Record {
    let row = Row::Pair { prompt: text("p"), chosen: text(&format!(" a{number}")), rejected: text(" b\n\"ü\"") };
    Record::from(row).with_number("margin", 0.25 * number as f64)
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn write(path: &Path, records: &[Record]) -> Result<u64, Error> {
    let mut writer = Writer::create(path, Existing::Keep)?;
    records.iter().try_for_each(|record| writer.write(record))?;
    writer.finish()
}

#[test]
fn nothing_is_there_before_the_end_and_nothing_is_left_of_a_failure() {
    let place = Place::new();
    let path = place.path("rows.jsonl");
    let mut writer = Writer::create(&path, Existing::Keep).unwrap();
    writer.write(&pair(1)).unwrap();
    assert!(!path.exists());
    drop(writer);
    assert_eq!(place.names(), [""; 0]);
    assert_eq!(write(&path, &[pair(1), pair(2)]).unwrap(), 2);
    assert_eq!(place.names(), ["rows.jsonl"]);
    let written = std::fs::read_to_string(&path).unwrap();
    let first = "{\"prompt\": \"p\", \"chosen\": \" a1\", \"rejected\": \" b\\n\\\"ü\\\"\", \"margin\": 0.25}\n";
    assert!(written.starts_with(first), "{written}");
}

#[test]
fn a_file_that_is_there_is_kept_unless_it_is_to_be_replaced() {
    let place = Place::new();
    let path = place.path("rows.jsonl");
    std::fs::write(&path, "mine").unwrap();
    let refused = Writer::create(&path, Existing::Keep).unwrap_err();
    assert!(matches!(&refused, Error::Exists { path: named } if *named == path), "{refused}");
    let writer = Writer::create(&path, Existing::Replace).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    writer.finish().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    let unknown = Writer::create(&place.path("rows.txt"), Existing::Keep).unwrap_err().to_string();
    assert!(unknown.contains("rows.txt") && unknown.contains(".jsonl"), "{unknown}");
    assert!(Writer::create(&place.path("nowhere/rows.jsonl"), Existing::Keep).is_err());
}

#[test]
fn gzip_is_read_back() {
    let place = Place::new();
    let path = place.path("rows.jsonl.gz");
    write(&path, &[pair(1)]).unwrap();
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert!(text.ends_with("}\n") && text.contains("\"margin\": 0.25"), "{text}");
}

#[cfg(feature = "columnar")]
mod columnar {
    use arrow_array::RecordBatch;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use serde_json::Value;

    use super::*;

    fn read(path: &Path) -> Vec<Value> {
        let file = std::fs::File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn rows_are_read_back_as_they_were_written() {
        let place = Place::new();
        let path = place.path("rows.parquet");
        let records: Vec<Record> = (0..3000).map(pair).collect();
        assert_eq!(write(&path, &records).unwrap(), 3000);
        assert_eq!(place.names(), ["rows.parquet"]);
        let rows = read(&path);
        assert_eq!(rows.len(), 3000);
        for (row, record) in rows.iter().zip(&records) {
            assert_eq!(*row, serde_json::to_value(record).unwrap());
        }
    }

    #[test]
    fn conversations_tools_and_further_keys() {
        let place = Place::new();
        let path = place.path("chat.parquet");
        let mut call = Message::new("assistant", "");
        call.extra.insert("tool_calls".to_owned(), json!([{"function": {"name": "f", "arguments": {"x": 1}}}]));
        let chat = |messages: Vec<Message>| Text::Chat(messages);
        let row = Row::Labelled {
            prompt: chat(vec![Message::new("user", "hi")]),
            completion: chat(vec![call]),
            desirable: true,
        };
        let mut record = Record::from(row);
        record.tools = vec![json!({"name": "f", "parameters": {"properties": {}}})];
        record.template_arguments.insert("enable_thinking".to_owned(), json!(false));
        let plain = Row::Labelled {
            prompt: chat(vec![Message::new("user", "hi")]),
            completion: chat(vec![Message::new("assistant", "yes")]),
            desirable: false,
        };
        write(&path, &[record.clone(), plain.clone().into()]).unwrap();
        let rows = read(&path);
        let mut first = serde_json::to_value(&record).unwrap();
        first["tools"] = json!(first["tools"].to_string());
        assert_eq!(rows, [first, serde_json::to_value(Record::from(plain)).unwrap()]);
    }

    #[test]
    fn rows_that_do_not_fit_one_table_are_named() {
        let place = Place::new();
        let path = place.path("mixed.parquet");
        let chat = Text::Chat(vec![Message::new("user", "hi")]);
        let answer = Text::Chat(vec![Message::new("assistant", "yes")]);
        let records = [
            Record::from(Row::Demonstration { prompt: text("p"), completion: text("a") }),
            Record::from(Row::Demonstration { prompt: chat, completion: answer }),
        ];
        let error = write(&path, &records).unwrap_err().to_string();
        for word in ["mixed.parquet", "row 2", "`prompt`", "a list", "a string", ".jsonl"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(place.names(), [""; 0]);
    }
}
