//! Rows that are dropped: listed in a file where that is asked for, and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candlewick::data::{self, Reason, Record, Rejection};
use serde_json::Value;

/// Counts rejections by reason, and writes each down.
#[derive(Debug)]
pub(super) struct Dropped {
    file: Option<(PathBuf, BufWriter<File>)>,
    strict: bool,
    reasons: BTreeMap<Reason, u64>,
}

impl Dropped {
    /// Begins the list; what was in the file before is replaced.
    pub(super) fn new(path: Option<&Path>, strict: bool) -> Result<Self> {
        let open = |path: &Path| -> Result<_> {
            let file = File::create(path).with_context(|| format!("--dropped: creating {}", path.display()))?;
            Ok((path.to_owned(), BufWriter::new(file)))
        };
        Ok(Self { file: path.map(open).transpose()?, strict, reasons: BTreeMap::new() })
    }

    /// A row that cannot be used, with what was read of it, if it could be read.
    ///
    /// # Errors
    /// The rejection itself where rows have to be usable, and those of the file.
    pub(super) fn add(&mut self, rejection: Rejection, record: Option<&Record>) -> Result<()> {
        *self.reasons.entry(rejection.reason).or_default() += 1;
        if let Some((path, file)) = &mut self.file {
            let mut line = serde_json::to_value(&rejection)?;
            if let (Some(record), Some(line)) = (record, line.as_object_mut()) {
                line.insert("row".to_owned(), serde_json::to_value(record).unwrap_or(Value::Null));
            }
            writeln!(file, "{line}").with_context(|| format!("--dropped: writing {}", path.display()))?;
        }
        if self.strict {
            self.finish()?;
            return Err(data::Error::Rejected(rejection).into());
        }
        Ok(())
    }

    /// Completes the file.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let written = file.flush().and_then(|()| file.get_ref().sync_all());
            written.with_context(|| format!("--dropped: writing {}", path.display()))?;
        }
        Ok(())
    }

    /// `9 dropped (prompts differ 5, empty completion 4)`.
    pub(super) fn summary(&self) -> String {
        let all: u64 = self.reasons.values().sum();
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if reasons.is_empty() { format!("{all} dropped") } else { format!("{all} dropped ({})", reasons.join(", ")) }
    }
}
