//! What a file is, told from its first bytes, then from its name.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::text;
use crate::error::{Error, excerpt};

/// As many bytes are looked at.
pub(crate) const HEAD: usize = 4 << 10;

/// How the whole file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// How the uncompressed file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Nothing but white space.
    Empty,
    Lines,
    Array,
    /// CSV or TSV with its delimiter.
    Table {
        delimiter: u8,
    },
    Parquet,
    ArrowFile,
    ArrowStream,
}

/// Compression of a file by its first bytes, which begin no text.
pub(crate) fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one that decoders skip, as parallel compressors write first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The format of an uncompressed text.
pub(crate) fn format(file: &Arc<str>, path: &Path, head: &[u8], outer: Compression) -> Result<Format, Error> {
    let wrong = |message: String| Error::Format { file: Arc::clone(file), message };
    match head {
        [b'P', b'A', b'R', b'1', ..] if is_binary(head) => {
            if outer != Compression::None {
                return Err(wrong(format!(
                    "it is a Parquet file compressed once more with {outer}; decompress it (`{}`), Parquet is compressed \
                     inside",
                    undo(outer)
                )));
            }
            return columnar(Format::Parquet, "a Parquet file").map_err(wrong);
        }
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] if is_binary(head) => {
            return columnar(Format::ArrowFile, "an Arrow file").map_err(wrong);
        }
        [0xff, 0xff, 0xff, 0xff, ..] => return columnar(Format::ArrowStream, "an Arrow stream").map_err(wrong),
        _ => {}
    }
    if let Some((what, todo)) = foreign(head) {
        return Err(wrong(format!("it is {what}; {todo}")));
    }
    let text = without_mark(head).trim_ascii_start();
    let named = named(path);
    match text.first() {
        None => Ok(Format::Empty),
        Some(b'{' | b'[') if text::looks_like_python(&String::from_utf8_lossy(text)) => {
            Err(wrong(format!("not JSON{}", text::PYTHON)))
        }
        Some(b'[') => Ok(Format::Array),
        Some(b'{') => lines(text).map_err(wrong),
        Some(_) => match named {
            Some(named) => Ok(named),
            None => Err(wrong(format!(
                "no data file that can be read: it begins with {}; expected JSON objects (one a line, or in one array), \
                 Parquet, Arrow, or CSV or TSV in a file named .csv or .tsv",
                excerpt(String::from_utf8_lossy(text).lines().next().unwrap_or(""))
            ))),
        },
    }
}

/// A text without the mark that some editors begin UTF-8 with.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// The mark that some editors begin UTF-8 with.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The format that the name of a text file promises.
fn named(path: &Path) -> Option<Format> {
    match extension(path)?.as_str() {
        "jsonl" | "ndjson" | "json" => Some(Format::Lines),
        "csv" => Some(Format::Table { delimiter: b',' }),
        "tsv" => Some(Format::Table { delimiter: b'\t' }),
        _ => None,
    }
}

/// The extension in lower case, without that of a compression.
pub(crate) fn extension(path: &Path) -> Option<String> {
    let lower = |path: &Path| path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match lower(path)?.as_str() {
        "gz" | "zst" | "zstd" => lower(Path::new(path.file_stem()?)),
        other => Some(other.to_owned()),
    }
}

/// Whether an object that begins a file begins lines of objects: not if it stands alone over several lines.
fn lines(text: &[u8]) -> Result<Format, String> {
    let (first, rest) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], &text[end..]),
        None => return Ok(Format::Lines),
    };
    let opens_only = first.trim_ascii().iter().all(|byte| matches!(byte, b'{' | b'[' | b' ' | b'"'));
    if !opens_only && !ends_open(first) {
        return Ok(Format::Lines);
    }
    let inner = rest.trim_ascii_start();
    if let Some(name) = holds_list(first, inner) {
        return Err(format!(
            "it is one JSON object that holds the rows under {name:?}, expected rows; write them alone with `jq -c \
             '.[{name:?}][]'`"
        ));
    }
    Err("a JSON object is spread over several lines, expected one object a line or one array; write it with `jq -c .`"
        .to_owned())
}

/// Whether a line ends inside an object, as lines of printed JSON do.
fn ends_open(line: &[u8]) -> bool {
    let ends = matches!(line.trim_ascii_end().last(), Some(b'{' | b'[' | b','));
    ends && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

/// The first key of an object, if a list stands under it.
fn holds_list(first: &[u8], inner: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&[first, b" ", inner].concat()).into_owned();
    let after = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix('"')?;
    let (name, after) = after.split_once('"')?;
    after.trim_start().strip_prefix(':')?.trim_start().starts_with('[').then(|| name.to_owned())
}

fn undo(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => "zstd -d",
        _ => "gunzip",
    }
}

#[cfg(feature = "columnar")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature it is an error")]
fn columnar(format: Format, _: &str) -> Result<Format, String> {
    Ok(format)
}

#[cfg(not(feature = "columnar"))]
fn columnar(_: Format, what: &str) -> Result<Format, String> {
    Err(format!("it is {what}, which this build does not read: build with the feature `columnar`"))
}

/// Whether a head is no text. What begins with letters that stand for a format may be text too, such as a column's name.
fn is_binary(head: &[u8]) -> bool {
    let is_control = |byte: &u8| matches!(*byte, 0..=8 | 0x0e..=0x1f);
    // A character that the end of the head cuts is none that is wrong.
    head.iter().any(is_control) || std::str::from_utf8(head).is_err_and(|error| error.error_len().is_some())
}

/// Files that people take for data files: what they are and what to do.
fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const EXPORT: &str = "export the rows as JSON Lines, CSV or Parquet";
    const DECOMPRESS: &str = "decompress it; gzip and zstd are read as they are";
    let has = |word: &[u8]| head.windows(word.len()).any(|window| window == word);
    let begins = without_mark(head).trim_ascii_start().to_ascii_lowercase();
    let found = match head {
        [b'P', b'K', 3, 4, ..] if has(b"xl/") || has(b"[Content_Types].xml") => {
            ("an Excel workbook", "save the sheet as CSV (UTF-8) and read that")
        }
        [b'P', b'K', 3, 4, ..] if has(b"/data.pkl") || has(b".data/") => {
            ("a file of torch.save", "write its rows as JSON Lines or Parquet from Python")
        }
        [b'P', b'K', 3, 4, ..] => ("a zip archive", "unpack it and read the files inside"),
        [0xd0, 0xcf, 0x11, 0xe0, ..] => ("an old Excel workbook", "save the sheet as CSV (UTF-8) and read that"),
        [0x80, 2..=5, ..] => {
            ("a Python pickle", "write its rows as JSON Lines or Parquet from Python; pickles are never opened")
        }
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => ("compressed twice", "decompress it once"),
        [b'B', b'Z', b'h', ..] if is_binary(head) => ("compressed with bzip2", DECOMPRESS),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("compressed with xz", DECOMPRESS),
        [4, 0x22, 0x4d, 0x18, ..] => ("compressed with lz4", DECOMPRESS),
        [b'7', b'z', 0xbc, 0xaf, ..] => ("a 7z archive", "unpack it and read the files inside"),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file", EXPORT),
        [b'O', b'b', b'j', 1, ..] => ("an Avro file", EXPORT),
        [b'O', b'R', b'C', ..] if is_binary(head) => ("an ORC file", EXPORT),
        [b'F', b'E', b'A', b'1', ..] if is_binary(head) => {
            ("a Feather file of version 1", "write it again with a newer pyarrow")
        }
        [b'P', b'A', b'R', b'E', ..] if is_binary(head) => ("an encrypted Parquet file", "write it without encryption"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ("UTF-16 text", "convert it with `iconv -f UTF-16 -t UTF-8`"),
        _ if head.starts_with(b"SQLite format 3\0") => ("an SQLite database", EXPORT),
        _ if head.get(257..262) == Some(b"ustar") && is_binary(head) => {
            ("a tar archive", "unpack it and read the files inside")
        }
        _ if head.starts_with(b"version https://git-lfs") => (
            "a pointer of Git LFS, not the data",
            "fetch the data with `git lfs pull`, or download the file from its page",
        ),
        _ if begins.starts_with(b"<!doctype html") || begins.starts_with(b"<html") => {
            ("an HTML page", "the download got a page instead of the file: use the link of the raw file")
        }
        _ if begins.starts_with(b"<?xml") => ("an XML file", EXPORT),
        _ => return None,
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_whose_names_begin_as_a_format_does() {
        let told = |name: &str, head: &[u8]| format(&Arc::from(name), Path::new(name), head, Compression::None);
        for name in ["ORCID", "PARENT_ID", "FEA1", "BZhID", "PAR1", "ARROW1"] {
            let head = format!("{name},prompt,chosen,rejected\n1,\"wie geht’s?\",a,b\n");
            let table = Format::Table { delimiter: b',' };
            assert_eq!(told("rows.csv", head.as_bytes()).unwrap(), table, "{name}");
            // The end of the head may cut a character.
            let cut = head.find('’').unwrap() + 1;
            assert_eq!(told("rows.csv", &head.as_bytes()[..cut]).unwrap(), table, "{name}");
        }
        for (head, expected) in [
            (&b"ORC\x0a\x03\x00\x00"[..], "an ORC file"),
            (b"PARE\x15\x04", "an encrypted Parquet file"),
            (b"FEA1\x00\x00", "a Feather file of version 1"),
            (b"BZh91AY&SY\xff\xfe", "compressed with bzip2"),
        ] {
            let error = told("rows.csv", head).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
