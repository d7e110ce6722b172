//! A directory of reference log-probabilities: a manifest, and segments that are written once.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::tensor_file::{self, Column, ColumnFile};

/// The version of directories, and the greatest one that is read.
pub(super) const VERSION: u64 = 2;
/// What the metadata of a segment, and of a file of version 1, call their format.
const FORMAT: &str = "candlewick-reference";
/// What the manifest calls its own.
const CACHE_FORMAT: &str = "candlewick-reference-cache";
const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";

/// What a directory holds. Without the lock it is what was there at some moment, whole.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) segments: Vec<SegmentRecord>,
}

/// One segment as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentRecord {
    /// Its name in the directory.
    pub(super) name: String,
    /// The digest of the reference whose log-probabilities it holds.
    pub(super) reference: String,
    /// Its completions.
    pub(super) rows: u64,
    /// Its length in bytes.
    length: u64,
    /// Its CRC-32, as eight hex digits.
    crc32: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: String,
    format_version: u64,
    crc32: String,
    cache: serde_json::Value,
}

/// The lock of a directory, held until it is dropped, by one process at a time.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The rows of one segment: their keys, where each one's values end, and the file that holds the values.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Ascending.
    pub(super) keys: Vec<u128>,
    /// Ascending.
    pub(super) ends: Vec<u64>,
    pub(super) values: Values,
}

/// Log-probabilities in a file, one after another.
#[derive(Debug)]
pub(super) struct Values {
    file: ColumnFile,
    begin: u64,
    /// Whether they are F64, and not F32.
    wide: bool,
}

impl Lock {
    /// Waits for the lock of a directory, which is created if it is not there.
    pub(super) fn take(directory: &Path) -> Result<Self> {
        checkpoint::create_directory(directory)?;
        let path = directory.join(LOCK);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(Error::io("opening", &path))?;
        // A file system without locks, as some networks have, holds nothing.
        let _ = file.lock();
        Ok(Self { _file: file })
    }
}

impl Manifest {
    /// What the directory says it holds. One that is not there, or empty, holds nothing.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(MANIFEST);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::of_none(directory),
            Err(e) => return Err(Error::io("reading", &path)(e)),
        };
        let damaged =
            |reason: &str| refuse(directory, format!("{MANIFEST} is damaged or cut short ({reason}); {AGAIN}"));
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&e.to_string()))?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                return Err(refuse(
                    directory,
                    format!(
                        "it has format version {version}, and this program reads up to {VERSION}; use a newer candlewick"
                    ),
                ));
            }
            _ => return Err(damaged("no format_version")),
        }
        let envelope: Envelope = serde_json::from_value(value).map_err(|e| damaged(&e.to_string()))?;
        if envelope.format != CACHE_FORMAT {
            return Err(damaged("its format has another name"));
        }
        if checkpoint::hex(crc32fast::hash(envelope.cache.to_string().as_bytes())) != envelope.crc32 {
            return Err(damaged("its checksum differs"));
        }
        serde_json::from_value(envelope.cache).map_err(|e| damaged(&e.to_string()))
    }

    /// Without a manifest there must be nothing, so that no other directory is taken for a cache.
    fn of_none(directory: &Path) -> Result<Self> {
        let entries = match std::fs::read_dir(directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(Error::io("reading", directory))?,
        };
        for entry in entries {
            let name = entry.map_err(Error::io("reading", directory))?.file_name().to_string_lossy().into_owned();
            if is_segment(&name) {
                return Err(refuse(directory, format!("{MANIFEST} is missing beside {name}; {AGAIN}")));
            }
            if name != LOCK && !name.starts_with('.') {
                return Err(refuse(
                    directory,
                    format!(
                        "it holds {name} and no {MANIFEST}: not a reference cache; name another directory in reference.path"
                    ),
                ));
            }
        }
        Ok(Self::default())
    }

    /// Replaces the manifest. The lock is held.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let cache = checkpoint::sorted(serde_json::to_value(self).map_err(|e| refuse(directory, e.to_string()))?);
        let crc32 = checkpoint::hex(crc32fast::hash(cache.to_string().as_bytes()));
        let envelope = Envelope { format: CACHE_FORMAT.to_owned(), format_version: VERSION, crc32, cache };
        let text = serde_json::to_string_pretty(&envelope).map_err(|e| refuse(directory, e.to_string()))?;
        checkpoint::replace_file(&directory.join(MANIFEST), format!("{text}\n").as_bytes())
    }

    /// Writes rows, by their keys, as a segment of a reference, and names it in the manifest. The lock is held.
    pub(super) fn append(&mut self, directory: &Path, reference: &str, rows: &BTreeMap<u128, Vec<f64>>) -> Result<()> {
        let last = self.segments.iter().filter_map(|segment| number(&segment.name)).max().unwrap_or(0);
        // What a process that was killed has left under this name is in no manifest.
        let name = format!("segment-{:08}.safetensors", last + 1);
        let path = directory.join(&name);
        checkpoint::write_file(&path, |path| write_segment(path, reference, rows))?;
        let (length, crc) = checkpoint::checksum(&path)?;
        let record = SegmentRecord {
            name,
            reference: reference.to_owned(),
            rows: rows.len() as u64,
            length,
            crc32: checkpoint::hex(crc),
        };
        self.segments.push(record);
        self.write(directory)
    }
}

impl SegmentRecord {
    /// Opens the segment after it was found whole.
    pub(super) fn open(&self, directory: &Path) -> Result<Segment> {
        if !is_segment(&self.name) {
            return Err(refuse(directory, format!("{MANIFEST} names {:?}, which is no segment; {AGAIN}", self.name)));
        }
        let path = directory.join(&self.name);
        let damaged = |reason: String| refuse(directory, format!("{}: {reason}; {AGAIN}", self.name));
        if !path.is_file() {
            return Err(damaged("it is gone".into()));
        }
        let (length, crc) = checkpoint::checksum(&path)?;
        if length != self.length {
            return Err(damaged(format!("{length} bytes instead of {}: it was cut short or changed", self.length)));
        }
        if checkpoint::hex(crc) != self.crc32 {
            return Err(damaged("another checksum than when it was written".into()));
        }
        let file = ColumnFile::open(&path)?.map_err(damaged)?;
        let reference = file.metadata("reference");
        if version(&file).as_deref() != Some("2") || reference != Some(&self.reference) {
            return Err(damaged(format!("not a segment of version 2 of the reference {}", self.reference)));
        }
        let segment = Segment::of(path, file).map_err(damaged)?;
        if segment.keys.len() as u64 != self.rows {
            return Err(damaged(format!("{} rows instead of {}", segment.keys.len(), self.rows)));
        }
        Ok(segment)
    }
}

impl Segment {
    /// Reads all but the values.
    fn of(path: PathBuf, file: ColumnFile) -> std::result::Result<Self, String> {
        let halves = file.column::<u64>("keys")?;
        let ends = file.column::<u64>("ends")?;
        let (dtype, begin, count) = file.place("log_probs")?;
        let wide = match dtype.as_str() {
            "F32" => false,
            "F64" => true,
            other => return Err(format!("the tensor log_probs is {other}; expected F32 or F64")),
        };
        let keys: Vec<u128> =
            halves.chunks_exact(2).map(|half| u128::from(half[0]) | (u128::from(half[1]) << 64)).collect();
        if halves.len() != 2 * ends.len() || ends.last().copied().unwrap_or(0) != count as u64 {
            return Err("keys, rows and values do not match in number".into());
        }
        let fits = |(from, to): (u64, u64)| to.checked_sub(from).is_some_and(|length| u32::try_from(length).is_ok());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        if !keys.is_sorted_by(|a, b| a < b) || !starts.zip(ends.iter().copied()).all(fits) {
            return Err("keys or rows are out of order".into());
        }
        Ok(Self { path, keys, ends, values: Values { file, begin, wide } })
    }

    /// Opens a file of version 1, made by the reference whose weights have this digest.
    pub(super) fn of_version_1(path: &Path, weights: &str) -> Result<Self> {
        let file = ColumnFile::open(path)?.map_err(|reason| refuse(path, format!("{reason}; {FILE_AGAIN}")))?;
        match version(&file).as_deref() {
            Some("1") => {}
            Some(version) => {
                return Err(refuse(
                    path,
                    format!("format version {version}; of single files this program reads version 1; {FILE_AGAIN}"),
                ));
            }
            None => {
                return Err(refuse(
                    path,
                    "not a file of reference log-probabilities; name another one, or a directory, in reference.path"
                        .into(),
                ));
            }
        }
        let made_with = file.metadata("weights").unwrap_or("unknown");
        if made_with != weights {
            return Err(refuse(
                path,
                format!("made with the weights {made_with}, and this run starts from {weights}; {FILE_AGAIN}"),
            ));
        }
        Self::of(path.to_owned(), file).map_err(|reason| refuse(path, format!("{reason}; {FILE_AGAIN}")))
    }
}

impl Values {
    /// Those from number `from` to before number `to`.
    pub(super) fn read(&self, from: u64, to: u64) -> std::io::Result<Vec<f64>> {
        let count = (to - from) as usize;
        if self.wide {
            return self.file.read::<f64>(self.begin + from * 8, count);
        }
        Ok(self.file.read::<f32>(self.begin + from * 4, count)?.into_iter().map(f64::from).collect())
    }
}

/// The format version of a file of reference log-probabilities; None of any other.
fn version(file: &ColumnFile) -> Option<String> {
    (file.metadata("format") == Some(FORMAT)).then(|| file.metadata("version").unwrap_or("unknown").to_owned())
}

fn write_segment(path: &Path, reference: &str, rows: &BTreeMap<u128, Vec<f64>>) -> Result<()> {
    let keys: Vec<u64> = rows.keys().flat_map(|key| [*key as u64, (*key >> 64) as u64]).collect();
    let ends: Vec<u64> = rows
        .values()
        .scan(0, |end, values| {
            *end += values.len() as u64;
            Some(*end)
        })
        .collect();
    let metadata = [("format", FORMAT), ("version", "2"), ("reference", reference)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let wide: Vec<f64> = rows.values().flatten().copied().collect();
    let narrow: Vec<f32> = wide.iter().map(|value| *value as f32).collect();
    // Half the bytes where nothing is lost by it, as of all runs in f32.
    let loses = wide.iter().zip(&narrow).any(|(wide, narrow)| wide.to_bits() != f64::from(*narrow).to_bits());
    let log_probs = if loses { Column::new(&wide) } else { Column::new(&narrow) };
    tensor_file::write(
        path,
        &metadata,
        &[("keys", Column::new(&keys)), ("ends", Column::new(&ends)), ("log_probs", log_probs)],
    )
}

/// The number in a segment's name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".safetensors")?;
    if (8..=16).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

fn is_segment(name: &str) -> bool {
    number(name).is_some()
}

pub(super) fn refuse(path: &Path, reason: String) -> Error {
    Error::Reference { path: path.to_owned(), reason }
}

/// What to do about a directory that is damaged.
const AGAIN: &str = "put back a whole copy, or remove the directory to have it made again, without which runs that have begun cannot go on";
/// What to do about a file of version 1.
const FILE_AGAIN: &str = "remove the file, and leave reference.path out or name a directory, to have it made again";
