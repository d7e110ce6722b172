//! `metrics.jsonl`: one JSON object a step or evaluation, under TRL's names.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::run::Place;
use crate::trainer::{EvalReport, StepReport};

/// The log of a run. Each line is written as it comes.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    path: PathBuf,
    file: Option<File>,
}

impl MetricsLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    pub(crate) fn step(&mut self, report: &StepReport, place: &Place) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), json!(report.step));
        line.insert("epoch".into(), json!(place.cursor.epoch));
        line.insert("loss".into(), json!(report.loss));
        line.insert("grad_norm".into(), json!(report.grad_norm));
        line.insert("learning_rate".into(), json!(report.learning_rate));
        line.insert("num_tokens".into(), json!(place.tokens));
        line.extend(report.metrics.values().into_iter().map(|(name, value)| (name, json!(value))));
        self.append(&Value::Object(line))
    }

    pub(crate) fn evaluation(&mut self, report: &EvalReport) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), json!(report.step));
        line.insert("eval_loss".into(), json!(report.loss));
        line.extend(report.metrics.values().into_iter().map(|(name, value)| (format!("eval_{name}"), json!(value))));
        self.append(&Value::Object(line))
    }

    /// Drops what was written after a checkpoint of `step` steps, whose last evaluation was after `evaluated` steps.
    pub(crate) fn truncate(&mut self, step: u64, evaluated: Option<u64>) -> Result<()> {
        let text = match std::fs::read(&self.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("reading", &self.path)(e)),
        };
        let keep = |line: &&str| {
            // A line cut short by a crash is no JSON.
            let Ok(value) = serde_json::from_str::<Value>(line) else { return false };
            match value.get("step").and_then(Value::as_u64) {
                Some(at) if value.get("eval_loss").is_some() => at < step || (at == step && evaluated == Some(at)),
                Some(at) => at <= step,
                None => false,
            }
        };
        let kept: String = text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
        self.file = None;
        checkpoint::write_file(&self.path, |path| std::fs::write(path, kept).map_err(Error::io("writing", path)))
    }

    /// Waits until what was written has reached the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_all().map_err(Error::io("syncing", &self.path)))
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                none.insert(file.map_err(Error::io("opening", &self.path))?)
            }
        };
        file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("writing", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let text = "{\"step\":1,\"loss\":1.0}\n{\"step\":2,\"loss\":0.5}\n{\"step\":2,\"eval_loss\":0.5}\n{\"step\":3,\"loss\":0.25}\n{\"step\":4,\"lo";
        for (evaluated, lines) in [(Some(2), 3), (None, 2)] {
            std::fs::write(&path, text).unwrap();
            let mut log = MetricsLog::new(path.clone());
            log.truncate(2, evaluated).unwrap();
            log.append(&json!({"step": 3, "loss": 0.125})).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), lines + 1);
            assert!(text.ends_with("{\"loss\":0.125,\"step\":3}\n"), "{text}");
        }
    }
}
