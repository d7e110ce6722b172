//! `metrics.jsonl`: one JSON object a step or evaluation, under TRL's names. `rejected.jsonl`: one a row set aside.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use candlewick_data::Rejection;
use serde_json::{Map, Value, json};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::run::{Place, Skipped};
use crate::trainer::{EvalReport, StepReport};
use crate::watch::{Alarm, Stop};

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

    /// Logs a step. `epoch` is TRL's: passes over the rows, with the part of the last, where the plan's length is in epochs;
    /// where it is in steps the rows of a pass are not counted, and it is the number of passes completed.
    pub(crate) fn step(&mut self, report: &StepReport, place: &Place, epoch: f64) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), json!(report.step));
        line.insert("epoch".into(), json!(epoch));
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

    /// Logs a step that changed nothing.
    pub(crate) fn skipped(&mut self, skipped: &Skipped) -> Result<()> {
        let Skipped { step, what, value, rows } = skipped;
        // JSON has no number for what is not finite.
        self.append(&json!({"step": step, "skipped": format!("the {what} is {value}"), "rows": rows}))
    }

    /// Logs an alarm of a step or of an evaluation.
    pub(crate) fn alarm(&mut self, step: u64, evaluated: bool, alarm: &Alarm) -> Result<()> {
        self.note(step, evaluated, json!({"alarm": alarm.key(), "message": alarm.to_string()}))
    }

    /// Logs why the run stops here.
    pub(crate) fn stopped(&mut self, step: u64, evaluated: bool, stop: &Stop) -> Result<()> {
        self.note(step, evaluated, json!({"stopped": stop, "message": stop.to_string()}))
    }

    fn note(&mut self, step: u64, evaluated: bool, mut line: Value) -> Result<()> {
        line["step"] = json!(step);
        if evaluated {
            line[AFTER_EVALUATION] = json!(true);
        }
        self.append(&line)
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
                Some(at) if OF_EVALUATIONS.iter().any(|key| value.get(key).is_some()) => {
                    at < step || (at == step && evaluated == Some(at))
                }
                Some(at) => at <= step,
                None => false,
            }
        };
        let kept: String = text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect();
        self.file = None;
        checkpoint::write_file(&self.path, |path| std::fs::write(path, kept).map_err(Error::io("writing", path)))
    }

    /// Leaves no line: the run starts anew.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.file = None;
        checkpoint::remove_file(&self.path)
    }

    /// The file, to wait for its way to the disk elsewhere.
    pub(crate) fn file(&self) -> Result<Option<File>> {
        self.file.as_ref().map(File::try_clone).transpose().map_err(Error::io("opening", &self.path))
    }

    /// Waits until what was written has reached the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_all().map_err(Error::io("syncing", &self.path)))
    }

    pub(crate) fn append(&mut self, line: &Value) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                self.path.parent().map_or(Ok(()), checkpoint::create_directory)?;
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                none.insert(file.map_err(Error::io("opening", &self.path))?)
            }
        };
        file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("writing", &self.path))
    }
}

/// `rejected.jsonl`: one JSON object of `file`, `line`, `reason` and `detail` for every row set aside in the first pass, and
/// for every one of the first evaluation. There is no file where there is none.
#[derive(Debug)]
pub(crate) struct RejectedLog {
    path: PathBuf,
    length: u64,
}

impl RejectedLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, length: 0 }
    }

    /// Bytes written; what a checkpoint remembers.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn append(&mut self, rejections: &[Rejection]) -> Result<()> {
        if rejections.is_empty() {
            return Ok(());
        }
        let line = |rejection: &Rejection| {
            let Rejection { origin, reason, detail } = rejection;
            format!("{}\n", json!({"file": &*origin.file, "line": origin.line, "reason": reason, "detail": detail}))
        };
        let text: String = rejections.iter().map(line).collect();
        let written = OpenOptions::new().create(true).append(true).open(&self.path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(Error::io("writing", &self.path))?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// Drops what was written after the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: u64) -> Result<()> {
        let io = |doing| Error::io(doing, &self.path);
        let file = match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) => file,
            // Of a run that was moved here without it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io("opening")(e)),
        };
        let there = file.metadata().map_err(io("reading"))?.len();
        self.length = length.min(there);
        file.set_len(self.length).map_err(io("writing"))
    }
}

/// What says that a line comes after an evaluation, which a run that goes on from its step makes again.
const AFTER_EVALUATION: &str = "after_evaluation";
const OF_EVALUATIONS: [&str; 3] = ["eval_loss", "log_probs", AFTER_EVALUATION];

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
            assert!(text.ends_with("{\"step\":3,\"loss\":0.125}\n"), "{text}");
        }
    }
}
