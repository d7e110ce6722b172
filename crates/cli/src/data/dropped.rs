//! Rows that are dropped: listed in a file where that is asked for, and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candlewick::data::{self, Reason, Record, Rejection};
use serde_json::Value;

use crate::failure::Failure;

/// Counts rejections by reason, and writes each down.
#[derive(Debug)]
pub(crate) struct Dropped {
    file: Option<(PathBuf, BufWriter<File>)>,
    strict: bool,
    reasons: BTreeMap<Reason, u64>,
}

impl Dropped {
    /// Begins the list; what was in the file before is replaced. It may be none of the files that are read or written.
    pub(crate) fn new(path: Option<&Path>, strict: bool, others: &[PathBuf]) -> Result<Self> {
        if let Some(path) = path
            && let Some(other) = others.iter().find(|other| is_same(path, other))
        {
            bail!(Failure::Usage(format!(
                "--dropped {}: rows are read from or written to {}; name another file",
                path.display(),
                other.display()
            )));
        }
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
    pub(crate) fn add(&mut self, rejection: Rejection, record: Option<&Record>) -> Result<()> {
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
    pub(crate) fn finish(&mut self) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let written = file.flush().and_then(|()| file.get_ref().sync_all());
            written.with_context(|| format!("--dropped: writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// `9 dropped (prompts differ 5, empty completion 4)`.
    pub(crate) fn summary(&self) -> String {
        let all: u64 = self.reasons.values().sum();
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if reasons.is_empty() { format!("{all} dropped") } else { format!("{all} dropped ({})", reasons.join(", ")) }
    }
}

/// A file that is written may be none that is read: what it does not take over would be lost.
pub(crate) fn refuse_input(out: &Path, inputs: &[PathBuf]) -> Result<()> {
    match inputs.iter().find(|input| is_same(out, input)) {
        Some(input) => {
            bail!(Failure::Usage(format!(
                "{}: rows are read from {}; name another file",
                out.display(),
                input.display()
            )))
        }
        None => Ok(()),
    }
}

/// Whether two paths lead to one file, which need not be there yet.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        path.canonicalize().ok().or_else(|| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(parent.canonicalize().ok()?.join(path.file_name()?))
        })
    };
    one == other || place(one).zip(place(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_dropped_rows_replaces_no_rows() {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("rows.jsonl");
        std::fs::write(&rows, "{}").unwrap();
        let same = folder.path().join(".").join("rows.jsonl");
        let refused = Dropped::new(Some(&same), false, std::slice::from_ref(&rows)).unwrap_err().to_string();
        assert!(refused.contains("name another file"), "{refused}");
        assert_eq!(std::fs::read_to_string(&rows).unwrap(), "{}");
        let new = folder.path().join("out.jsonl");
        assert!(Dropped::new(Some(&new), false, &[rows.clone(), new.clone()]).is_err());
        assert!(Dropped::new(Some(&folder.path().join("dropped.jsonl")), false, &[rows, new]).is_ok());
    }
}
