//! What tells one file from another that has its place.
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::error::{Error, Result};

/// Length, a hash of the first and last 64 KiB, and one of all bytes. Of a file of more than 256 MiB the last is a hash of 4,096 blocks of
/// 64 KiB that are spread over it: a change elsewhere that keeps the length is not noticed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fingerprint {
    length: u64,
    ends: String,
    /// Checkpoints of before there was one lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        let same_content = match (&self.content, &other.content) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.length == other.length && self.ends == other.ends && same_content
    }
}

impl Fingerprint {
    /// Of several files: of their fingerprints.
    pub(crate) fn of_all(paths: &[PathBuf]) -> Result<Self> {
        if let [path] = paths {
            return Self::of(path);
        }
        let each = paths.iter().map(|path| Self::of(path)).collect::<Result<Vec<_>>>()?;
        let ends: String = each.iter().map(|one| format!("{}:{};", one.length, one.ends)).collect();
        let content: String = each.iter().flat_map(|one| one.content.as_deref()).collect();
        let length = each.iter().fold(0u64, |length, one| length.saturating_add(one.length));
        Ok(Self { length, ends: hex(xxh3_128(ends.as_bytes())), content: Some(hex(xxh3_128(content.as_bytes()))) })
    }

    pub(crate) fn of(path: &Path) -> Result<Self> {
        Self::read(path, WHOLE).map_err(Error::io("reading", path))
    }

    /// Files of more than `whole` bytes are looked at in blocks.
    fn read(path: &Path, whole: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut ends = Vec::new();
        file.by_ref().take(BLOCK).read_to_end(&mut ends)?;
        file.seek(SeekFrom::Start(length.saturating_sub(BLOCK)))?;
        file.by_ref().take(BLOCK).read_to_end(&mut ends)?;
        let mut hasher = Xxh3::new();
        let blocks = if length > whole { whole / BLOCK } else { length.div_ceil(BLOCK) };
        let apart = if length > whole { length / blocks } else { BLOCK };
        let mut bytes = Vec::new();
        for block in 0..blocks {
            file.seek(SeekFrom::Start(block * apart))?;
            bytes.clear();
            file.by_ref().take(BLOCK).read_to_end(&mut bytes)?;
            hasher.update(&bytes);
        }
        Ok(Self { length, ends: hex(xxh3_128(&ends)), content: Some(hex(hasher.digest128())) })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.content.as_ref().unwrap_or(&self.ends);
        write!(f, "{} bytes (xxh3-128 {hash})", self.length)
    }
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

const BLOCK: u64 = 64 << 10;
/// Files up to this length are read whole.
const WHOLE: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_file_counts_and_of_a_long_one_those_of_its_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.jsonl");
        let mut bytes: Vec<u8> = (0..300_001u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (whole, blocks) = (Fingerprint::of(&path).unwrap(), Fingerprint::read(&path, 4 * BLOCK).unwrap());
        for at in [0, 70_000, 150_000, 300_000] {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_ne!(Fingerprint::of(&path).unwrap(), whole, "{at}");
            bytes[at] ^= 1;
        }
        // The second block begins at a quarter.
        bytes[75_000 + 5] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(Fingerprint::read(&path, 4 * BLOCK).unwrap(), blocks);
        bytes[75_000 + 5] ^= 1;
        bytes.push(0);
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(Fingerprint::read(&path, 4 * BLOCK).unwrap(), blocks);
        // One of an older checkpoint is compared by what it has.
        let older = Fingerprint { content: None, ..whole.clone() };
        assert_eq!(older, whole);
        assert_ne!(Fingerprint { ends: String::new(), ..older }, whole);
    }
}
