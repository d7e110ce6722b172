//! A directory with a small model and files of rows, and runs in it.

use std::path::PathBuf;

use candlewick_data::{Existing, Report, Source, SourceOptions, Writer};
use candlewick_train::{Checkpoint, Error, Event, Plan, Run, Words, checkpoints};
use serde_json::{Value, json};

use super::write_model;

pub struct Folder(tempfile::TempDir);

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Loss and gradient norm of every step.
    pub steps: Vec<(f64, f64)>,
    pub rows: Report,
    pub held_out: Option<Report>,
    pub weights: Vec<u8>,
}

impl Outcome {
    /// What two runs have in common that met the same rows in the same order.
    pub fn bits(&self) -> (Vec<(u64, u64)>, &[u8]) {
        (self.steps.iter().map(|(loss, norm)| (loss.to_bits(), norm.to_bits())).collect(), &self.weights)
    }
}

impl Folder {
    /// A model alone.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        write_model(&folder.path("model"), 1);
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `key="path"`, a name in the folder.
    pub fn at(&self, key: &str, name: &str) -> String {
        format!("{key}={:?}", self.path(name).display().to_string())
    }

    pub fn lines(&self, name: &str, rows: &[Value]) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.text(name, &text);
    }

    pub fn text(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The rows of one file in another, whose name tells the format.
    pub fn convert(&self, from: &str, to: &str) {
        let source = Source::open(&SourceOptions::new(self.path(from))).unwrap();
        let mut writer = Writer::create(&self.path(to), Existing::Keep).unwrap();
        for record in source.records().unwrap() {
            writer.write(&record.unwrap().unwrap().1).unwrap();
        }
        writer.finish().unwrap();
    }

    /// A plan on `rows.jsonl` in file order, four rows a step, once over the rows, that assignments change.
    pub fn try_plan(&self, output: &str, assignments: &[&str]) -> Result<Plan, Error> {
        let mut words = Words::default();
        for (key, name) in [("model.path", "model"), ("output.dir", output)] {
            words.put(key, &self.path(name).display().to_string())?;
        }
        if !assignments.iter().any(|assignment| assignment.starts_with("data.mixture=")) {
            words.put("data.path", &self.path("rows.jsonl").display().to_string())?;
        }
        let ours = ["train.order=file", "train.batch_size=4", "optimizer.learning_rate=0.01"];
        for assignment in ours.iter().chain(assignments) {
            words.set(assignment)?;
        }
        Plan::resolve(words.config()?)
    }

    pub fn plan(&self, output: &str, assignments: &[&str]) -> Plan {
        self.try_plan(output, assignments).unwrap()
    }

    /// A run from its start to its end.
    pub fn run(&self, output: &str, assignments: &[&str]) -> Outcome {
        self.finish(output, Run::start(self.plan(output, assignments)).unwrap())
    }

    fn finish(&self, output: &str, mut run: Run) -> Outcome {
        let (mut steps, mut ended) = (Vec::new(), None);
        while let Some(event) = run.advance().unwrap() {
            match event {
                Event::Step(report) => steps.push((report.loss, report.grad_norm)),
                Event::Finished(summary) => ended = Some(summary),
                _ => {}
            }
        }
        let summary = ended.unwrap();
        let weights = std::fs::read(self.path(output).join("final/model.safetensors")).unwrap();
        Outcome { steps, rows: summary.rows, held_out: summary.held_out, weights }
    }

    /// Stops a run after so many steps; what was saved last stays.
    pub fn stop_after(&self, output: &str, assignments: &[&str], steps: u64) {
        let mut run = Run::start(self.plan(output, assignments)).unwrap();
        while run.trainer().steps_done() < steps {
            run.advance().unwrap();
        }
    }

    pub fn latest(&self, output: &str) -> Checkpoint {
        Checkpoint::latest(&checkpoints(&self.path(output))).unwrap().checkpoint.unwrap()
    }

    /// Goes on from the newest checkpoint.
    pub fn try_resume(&self, output: &str, assignments: &[&str]) -> Result<Run, Error> {
        Run::resume(self.plan(output, assignments), &self.latest(output).path)
    }

    pub fn resume(&self, output: &str, assignments: &[&str]) -> Outcome {
        self.finish(output, self.try_resume(output, assignments).unwrap())
    }

    /// What the configuration, the start or a step says against it.
    pub fn refused(&self, assignments: &[&str]) -> Error {
        let output = format!("refused-{}", std::fs::read_dir(self.0.path()).unwrap().count());
        match self.try_plan(&output, assignments).and_then(Run::start) {
            Err(error) => error,
            Ok(mut run) => loop {
                match run.advance() {
                    Err(error) => break error,
                    Ok(event) => assert!(event.is_some(), "nothing was refused: {assignments:?}"),
                }
            },
        }
    }

    #[track_caller]
    pub fn refuses(&self, assignments: &[&str], words: &[&str]) {
        let text = self.refused(assignments).to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not all in: {text}");
    }
}

/// The rows of a source, as JSON lines have them, without those that are rejected.
pub fn records(source: &Source) -> Vec<Value> {
    let rows = source.records().unwrap().filter_map(|record| record.unwrap().ok());
    rows.map(|(_, record)| serde_json::to_value(&record).unwrap()).collect()
}

/// Pairs in words of the model, each of another prompt and length.
pub fn pairs(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| {
            let word = |n: usize| format!("w{}", 3 + n % 20);
            let more = |n: usize| (0..n).map(|k| format!(" {}", word(i + 3 * k))).collect::<String>();
            json!({
                "prompt": format!("{} {}{}", word(i), word(i / 20), more(i % 3)),
                "chosen": format!(" w3 {}{}", word(i * 7), more(i % 4)),
                "rejected": format!(" w4 {}{}", word(i * 5), more(i % 5)),
            })
        })
        .collect()
}

/// Every completion of the pairs as a row with a verdict, the chosen one first.
pub fn unpaired(pairs: &[Value]) -> Vec<Value> {
    let row = |pair: &Value, side: &str, label: bool| json!({ "prompt": pair["prompt"], "completion": pair[side], "label": label });
    pairs.iter().flat_map(|pair| [row(pair, "chosen", true), row(pair, "rejected", false)]).collect()
}
