//! Files that claim what they do not hold.

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, Encoding};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use arrow_array::builder::{BooleanBuilder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, StringArray};

use super::*;

fn texts(count: usize) -> RecordBatch {
    let column: StringArray = (0..count).map(|index| (index % 7 != 3).then(|| format!("text {index}"))).collect();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for index in 0..count {
        lists.append_value((0..index % 4).map(|turn| Some(format!("turn {turn}"))));
    }
    let columns: [(&str, ArrayRef); 2] = [("prompt", Arc::new(column)), ("turns", Arc::new(lists.finish()))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn written(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn read(bytes: &[u8], from: u64) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.parquet");
    std::fs::write(&path, bytes).unwrap();
    let mut groups = Groups::open(&path, &Arc::from("test"), from).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    while let Some(raw) = groups.next_raw().map_err(|error| error.to_string())? {
        rows.push(String::from_utf8(raw.text().to_vec()).unwrap());
    }
    Ok(rows)
}

/// A number as Thrift writes it, without a sign.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// A file of a footer alone.
fn of_footer(footer: &[u8]) -> Vec<u8> {
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", footer, &length, b"PAR1"].concat()
}

/// A footer of groups of columns, each with so many children.
fn nested(children: &[u64]) -> Vec<u8> {
    // Version 1, then the list of columns.
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    footer.extend(varint(children.len() as u64));
    for count in children {
        // Optional, named "a", with children where there are any.
        footer.extend([0x35, 0x02, 0x18, 0x01, b'a']);
        if *count > 0 {
            footer.push(0x15);
            footer.extend(varint(2 * count));
        }
        footer.push(0);
    }
    // No rows, no groups.
    footer.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
    footer
}

#[test]
fn every_encoding_and_version_is_read_from_every_row() {
    let batch = texts(60);
    let expected = read(&written(&batch, WriterProperties::builder().build()), 0).unwrap();
    assert_eq!(expected[4], r#"{"prompt":"text 4","turns":[]}"#);
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for encoding in [Encoding::PLAIN, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(false)
                .set_encoding(encoding)
                .set_compression(Compression::SNAPPY)
                .set_data_page_row_count_limit(9)
                .set_write_batch_size(3)
                .set_max_row_group_row_count(Some(25))
                .build();
            let bytes = written(&batch, properties);
            for from in [0, 1, 24, 25, 41, 60] {
                let rows = read(&bytes, from).unwrap();
                assert_eq!(rows, expected[usize::try_from(from).unwrap()..], "{version:?} {encoding} {from}");
            }
        }
    }
}

#[test]
fn schemas_that_nest_too_deep_or_promise_too_much_are_errors() {
    let found = |children: &[u64]| read(&of_footer(&nested(children)), 0).unwrap_err();
    let deep = vec![1; 100_000 / 2];
    assert!(found(&deep).contains("columns nest deeper than 64"), "{}", found(&deep));
    assert!(found(&[1, 1_000_000_000]).contains("where 0 are left"), "{}", found(&[1, 1_000_000_000]));
    assert!(found(&vec![0; 70_000]).contains("70000 columns, at most 65536 are read"));
    // Field 4, the name, declared as a number: decoders go by the number of the field.
    let mut footer = nested(&[1, 0]);
    assert_eq!(footer[7], 0x18);
    footer[7] = 0x15;
    assert!(read(&of_footer(&footer), 0).unwrap_err().contains("field 4 is of type 5"));
}

#[test]
fn row_groups_that_the_footer_cannot_hold_are_an_error() {
    let mut footer = nested(&[1, 0]);
    footer.truncate(footer.len() - 2);
    footer.push(0xfc);
    footer.extend(varint(1 << 30));
    footer.push(0);
    let error = read(&of_footer(&footer), 0).unwrap_err();
    assert!(error.contains("1073741824 row groups in 1 bytes"), "{error}");
}

/// A file of one column without a dictionary.
fn of_column(column: ArrayRef, properties: ::parquet::file::properties::WriterPropertiesBuilder) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable([("prompt", column, true)]).unwrap();
    written(&batch, properties.set_dictionary_enabled(false).build())
}

#[test]
fn pages_that_claim_more_than_they_can_hold_are_errors() {
    for compression in [Compression::SNAPPY, Compression::LZ4_RAW, Compression::GZIP(Default::default())] {
        let column = Arc::new(StringArray::from(vec!["a".repeat(20_000)]));
        let mut bytes = of_column(column, WriterProperties::builder().set_compression(compression));
        assert_eq!(read(&bytes, 0).unwrap().len(), 1);
        // Field 1 is the kind of page, 0; field 2 its size, in three bytes.
        assert_eq!(bytes[4..7], [0x15, 0x00, 0x15]);
        bytes[7..10].copy_from_slice(&varint(2 * 1_000_000));
        let error = read(&bytes, 0).unwrap_err();
        assert!(error.contains("it claims 1000000 bytes and has"), "{compression}: {error}");
    }
}

#[test]
fn gzip_that_goes_on_behind_what_the_page_claims_is_an_error() {
    let column = Arc::new(StringArray::from(vec!["a".repeat(20_000)]));
    let mut bytes =
        of_column(column, WriterProperties::builder().set_compression(Compression::GZIP(Default::default())));
    bytes[7..10].copy_from_slice(&varint(2 * 10_000));
    let error = read(&bytes, 0).unwrap_err();
    assert!(error.contains("it claims 10000 bytes and holds more"), "{error}");
}

#[test]
fn lengths_that_are_more_than_the_values_are_an_error() {
    for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
        let column = Arc::new((0..60).map(|index| Some(index.to_string())).collect::<StringArray>());
        let bytes = of_column(column, WriterProperties::builder().set_encoding(encoding));
        let heads: Vec<usize> =
            (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == [0x80, 0x01, 0x04, 60]).collect();
        assert_eq!(heads.len(), if encoding == Encoding::DELTA_BYTE_ARRAY { 2 } else { 1 });
        for head in heads {
            let mut changed = bytes.clone();
            changed[head + 3] = 0x7f;
            let error = read(&changed, 0).unwrap_err();
            assert!(error.contains("more than its 60 values"), "{encoding}: {error}");
        }
    }
}

#[test]
fn one_row_of_more_values_than_a_line_can_have_is_an_error() {
    let mut lists = ListBuilder::new(BooleanBuilder::new());
    lists.values().append_nulls((1 << 24) + 1);
    lists.append(true);
    let bytes = of_column(Arc::new(lists.finish()), WriterProperties::builder());
    assert!(bytes.len() < 1 << 16);
    let error = read(&bytes, 0).unwrap_err();
    assert!(error.contains("lists of 16777217 values in one page, at most 16777216 are read"), "{error}");
}
