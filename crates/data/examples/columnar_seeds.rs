//! Writes the seeds of the fuzz target `parquet`: small files of every codec and of the column types that data sets have.
//!
//! `cargo run -p candlewick-data --example columnar_seeds -- fuzz/seeds/parquet`

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

const PAIRS: &str = r#"{"prompt": "Name a colour.", "chosen": " Blue.", "rejected": " Seven.", "margin": 1.5}
{"prompt": "Name a bird.", "chosen": " Wren.", "rejected": " Stone.", "margin": null}
{"prompt": null, "chosen": " Yes.", "rejected": " No.", "margin": -1.0}
"#;

const CHATS: &str = r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello"}], "rejected": [{"role": "assistant", "content": "Go"}]}
{"prompt": [], "chosen": [{"role": "assistant", "content": null}], "rejected": null}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("expected the directory to write to")?;
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    let pairs = batch(PAIRS, pair_fields())?;
    let chats = batch(CHATS, chat_fields())?;
    let codecs = [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4", Compression::LZ4_RAW),
    ];
    for (name, codec) in codecs {
        parquet(&dir.join(format!("pairs_{name}.parquet")), &pairs, codec, true)?;
    }
    parquet(&dir.join("pairs_without_dictionary.parquet"), &pairs, Compression::UNCOMPRESSED, false)?;
    parquet(&dir.join("chats.parquet"), &chats, Compression::UNCOMPRESSED, true)?;
    for (name, encoding) in [("lengths", Encoding::DELTA_LENGTH_BYTE_ARRAY), ("prefixes", Encoding::DELTA_BYTE_ARRAY)] {
        let text = |name: &str| ColumnPath::from(name);
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_column_encoding(text("prompt"), encoding)
            .set_column_encoding(text("chosen"), encoding)
            .build();
        write(&dir.join(format!("pairs_{name}.parquet")), &pairs, properties)?;
    }
    for (name, codec) in
        [("plain", None), ("lz4", Some(CompressionType::LZ4_FRAME)), ("zstd", Some(CompressionType::ZSTD))]
    {
        let options = IpcWriteOptions::default().try_with_compression(codec)?;
        let file = File::create(dir.join(format!("chats_{name}.arrow")))?;
        let mut writer = FileWriter::try_new_with_options(file, &chats.schema(), options)?;
        writer.write(&chats)?;
        writer.finish()?;
    }
    let mut stream = StreamWriter::try_new(File::create(dir.join("pairs_stream.arrow"))?, &pairs.schema())?;
    stream.write(&pairs)?;
    stream.finish()?;
    Ok(())
}

fn parquet(path: &Path, batch: &RecordBatch, codec: Compression, dictionary: bool) -> Result<(), Box<dyn Error>> {
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_dictionary_enabled(dictionary)
        .set_max_row_group_row_count(Some(2))
        .build();
    write(path, batch, properties)
}

fn write(path: &Path, batch: &RecordBatch, properties: WriterProperties) -> Result<(), Box<dyn Error>> {
    let mut writer = ArrowWriter::try_new(File::create(path)?, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(())
}

fn batch(rows: &str, fields: Vec<Field>) -> Result<RecordBatch, Box<dyn Error>> {
    let mut reader = ReaderBuilder::new(Arc::new(Schema::new(fields))).build(rows.as_bytes())?;
    Ok(reader.next().ok_or("no rows")??)
}

fn pair_fields() -> Vec<Field> {
    let mut fields: Vec<Field> =
        ["prompt", "chosen", "rejected"].into_iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    fields.push(Field::new("margin", DataType::Float64, true));
    fields
}

fn chat_fields() -> Vec<Field> {
    let message: Vec<Field> =
        ["role", "content"].into_iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let messages = DataType::List(Arc::new(Field::new("item", DataType::Struct(message.into()), true)));
    ["prompt", "chosen", "rejected"].into_iter().map(|name| Field::new(name, messages.clone(), true)).collect()
}
