//! `metrics.jsonl` as curves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Points of a curve that are drawn.
const DRAWN: usize = 1000;

/// What a run logged, name by name.
#[derive(Debug, Default)]
pub(crate) struct Course {
    of: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Course {
    /// Reads the log. The last line of a run that goes on may be cut short.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::Usage(format!("{}: {error}; has the run made its first step?", path.display()))
        })?;
        let mut course = Self::default();
        let count = text.lines().count();
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str::<Map<String, Value>>(line) {
                Ok(values) => course.add(&values),
                Err(_) if number + 1 == count && !text.ends_with('\n') => {}
                Err(error) => {
                    bail!(Failure::Model(format!("{} line {}: {error}; it is damaged", path.display(), number + 1)))
                }
            }
        }
        Ok(course)
    }

    fn add(&mut self, values: &Map<String, Value>) {
        let Some(step) = values.get("step").and_then(Value::as_f64) else { return };
        for (name, value) in values {
            if let Some(value) = value.as_f64() {
                self.of.entry(name.clone()).or_default().push((step, value));
            }
        }
    }

    /// The values called `name`, by step.
    pub(crate) fn of(&self, name: &str) -> Vec<(f64, f64)> {
        self.of.get(name).cloned().unwrap_or_default()
    }

    /// The same for a drawing: of many values every so manieth, and the last.
    pub(crate) fn drawn(&self, name: &str) -> Vec<(f64, f64)> {
        let all = self.of(name);
        let step = all.len().div_ceil(DRAWN).max(1);
        let last = all.last().copied().filter(|_| !(all.len() - 1).is_multiple_of(step));
        all.into_iter().step_by(step).chain(last).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_evaluations_are_told_apart_by_their_names() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("metrics.jsonl");
        fs::write(
            &path,
            "{\"step\":1,\"loss\":0.7}\n{\"step\":1,\"eval_loss\":0.6}\n{\"step\":2,\"loss\":0.5}\n{\"step\":3,\"lo",
        )
        .expect("written");
        let course = Course::read(&path).expect("lines");
        assert_eq!(course.of("loss"), [(1.0, 0.7), (2.0, 0.5)]);
        assert_eq!(course.of("eval_loss"), [(1.0, 0.6)]);
        assert!(course.of("other").is_empty() && course.drawn("other").is_empty());
        let lines: String = (1..=2500).map(|step| format!("{{\"step\":{step},\"loss\":0.5}}\n")).collect();
        fs::write(&path, lines).expect("written");
        let drawn = Course::read(&path).expect("lines").drawn("loss");
        assert!(drawn.len() <= DRAWN + 1, "{}", drawn.len());
        assert_eq!((drawn[0].0, drawn[drawn.len() - 1].0), (1.0, 2500.0));
        fs::write(&path, "{\"step\":1,\"lo\n{\"step\":2}\n").expect("written");
        assert!(Course::read(&path).expect_err("damaged").to_string().contains("line 1"));
    }
}
