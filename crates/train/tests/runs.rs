//! Whole runs on files: to the end, resumed, refused.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::path::{Path, PathBuf};

use candlewick_train::{Checkpoint, Error, Event, Fault, Plan, Run, Words, checkpoints};
use support::{write_labelled, write_model, write_pairs};

struct Folder(tempfile::TempDir);

impl Folder {
    /// A model and files of rows.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        write_model(&folder.path("model"), 1);
        write_pairs(&folder.path("pairs.jsonl"), 14, 1);
        write_labelled(&folder.path("labelled.jsonl"), 24, 1);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A plan on the first ten pairs, four a step, with output in `output`.
    fn plan(&self, output: &str, assignments: &[&str]) -> Plan {
        self.try_plan(output, assignments).unwrap()
    }

    fn try_plan(&self, output: &str, assignments: &[&str]) -> Result<Plan, Error> {
        let mut words = Words::default();
        let path = |name: &str| self.path(name).display().to_string();
        words.put("model.path", &path("model"))?;
        words.put("data.path", &path("pairs.jsonl"))?;
        words.put("output.dir", &path(output))?;
        for assignment in [
            "data.rows=..10",
            "train.batch_size=2",
            "train.micro_batches=2",
            "optimizer.learning_rate=0.01",
            "train.steps=6",
        ] {
            words.set(assignment)?;
        }
        assignments.iter().try_for_each(|assignment| words.set(assignment))?;
        Plan::resolve(words.config()?)
    }

    fn refused(&self, assignments: &[&str]) -> Error {
        let output = format!("refused-{}", std::fs::read_dir(self.0.path()).unwrap().count());
        match self.try_plan(&output, assignments).and_then(Run::start) {
            Err(e) => e,
            Ok(mut run) => loop {
                match run.advance() {
                    Err(e) => break e,
                    Ok(event) => assert!(event.is_some(), "nothing was refused"),
                }
            },
        }
    }
}

fn finish(mut run: Run) -> Vec<Event> {
    std::iter::from_fn(|| run.advance().unwrap()).collect()
}

/// Every file below, with its bytes.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                false => all.push((path.strip_prefix(directory).unwrap().to_owned(), std::fs::read(&path).unwrap())),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_to_the_bit() {
    let folder = Folder::new();
    let variants: [&[&str]; 5] = [
        &["train.order=file"],
        &["train.order=shuffled", "train.seed=7", "train.shuffle_buffer=4"],
        &["model.lora={rank = 2}", "schedule.kind=cosine", "schedule.warmup_steps=2"],
        &["objective.type=sft", "train.recompute=layers", "optimizer.weight_decay=0.1"],
        &["reference.kind=precomputed", "objective.type=ipo"],
    ];
    for (i, variant) in variants.into_iter().enumerate() {
        let mut assignments = vec![
            "output.save_every=2",
            "output.keep=0",
            "evaluation.rows=10..",
            "evaluation.every=3",
            "evaluation.at_start=true",
        ];
        assignments.extend(variant);
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let events = finish(Run::start(folder.plan(&whole, &assignments)).unwrap());
        assert!(matches!(events.last(), Some(Event::Finished(summary)) if summary.steps == 6));
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Evaluated(_))).count(), 3);

        // Killed after the fifth step, of which nothing was saved.
        let mut run = Run::start(folder.plan(&parts, &assignments)).unwrap();
        while run.trainer().steps_done() < 5 {
            run.advance().unwrap();
        }
        drop(run);
        let latest = Checkpoint::latest(&checkpoints(&folder.path(&parts))).unwrap().checkpoint.unwrap();
        assert_eq!(latest.state.step, 4);
        finish(Run::resume(folder.plan(&parts, &assignments), &latest.path).unwrap());

        let (a, b) = (contents(&folder.path(&whole)), contents(&folder.path(&parts)));
        assert!(a.iter().map(|(path, _)| path).eq(b.iter().map(|(path, _)| path)));
        for ((path, a), (_, b)) in a.iter().zip(&b) {
            // These hold the name of the output directory.
            let named = ["plan.json", "state.json"].contains(&path.file_name().unwrap().to_str().unwrap());
            let same = if named { String::from_utf8_lossy(a).replace(&whole, &parts).len() == b.len() } else { a == b };
            assert!(same, "variant {i}: {} differs", path.display());
        }
    }
}

#[test]
fn a_precomputed_reference_is_the_frozen_one() {
    let folder = Folder::new();
    for (i, variant) in [&[][..], &["model.lora={rank = 2}"][..]].into_iter().enumerate() {
        let run = |output: &str, kind: &str| {
            let mut assignments = vec!["train.order=file", kind, "evaluation.rows=10..", "train.steps=5"];
            assignments.extend(variant);
            let events = finish(Run::start(folder.plan(&format!("{output}-{i}"), &assignments)).unwrap());
            let steps = events.iter().filter_map(|event| match event {
                Event::Step(report) => Some((report.loss.to_bits(), report.grad_norm.to_bits())),
                Event::Evaluated(report) => Some((report.loss.to_bits(), 0)),
                _ => None,
            });
            steps.collect::<Vec<_>>()
        };
        assert_eq!(run("a", "reference.kind=frozen"), run("b", "reference.kind=precomputed"));
        // The file serves a second run of other hyperparameters.
        let file = format!("reference.path={:?}", folder.path(&format!("b-{i}")).join("reference.safetensors"));
        let mut again = vec!["reference.kind=precomputed", "objective.beta=0.5", &file, "train.steps=2"];
        again.extend(variant);
        let events = finish(Run::start(folder.plan(&format!("c-{i}"), &again)).unwrap());
        assert!(!events.iter().any(|event| matches!(event, Event::Precomputed { .. })));
    }
}

#[test]
fn a_precomputed_reference_of_other_weights_or_rows_is_refused() {
    let folder = Folder::new();
    finish(Run::start(folder.plan("made", &["reference.kind=precomputed", "train.steps=1", "data.rows=..4"])).unwrap());
    let file = folder.path("made").join("reference.safetensors");
    let given = format!("reference.path={file:?}");
    let text = folder.refused(&["reference.kind=precomputed", &given, "train.order=file"]).to_string();
    assert!(text.contains("it has nothing for") && text.contains("pairs.jsonl:5"), "{text}");
    write_model(&folder.path("model"), 2);
    let error = folder.refused(&["reference.kind=precomputed", &given]);
    assert!(error.to_string().contains("made with the weights"), "{error}");
    std::fs::write(&file, b"nothing").unwrap();
    let error = folder.refused(&["reference.kind=precomputed", &given, "data.rows=..4"]);
    assert_eq!(error.fault(), Fault::Model);
    assert!(error.to_string().contains("not a whole safetensors file"), "{error}");
}

#[test]
fn verdicts_train_end_to_end() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let assignments = [
        "objective.type=kto",
        &data,
        "data.rows=..18",
        "train.epochs=12",
        "evaluation.rows=18..",
        "evaluation.at_start=true",
        "train.batch_size=3",
    ];
    let mut words = folder.try_plan("out", &assignments).unwrap_err().to_string();
    assert!(words.contains("train.epochs"), "{words}");
    let mut plan = folder.plan("out", &[&assignments[..3], &assignments[4..]].concat());
    plan.train.length = candlewick_train::Length::Epochs(12);
    let events = finish(Run::start(plan).unwrap());
    let evaluations: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Evaluated(report) = event { Some(report) } else { None })
        .collect();
    assert!((evaluations[0].loss - 0.5).abs() < 1e-6);
    assert!(evaluations[1].loss < 0.3, "{:?}", evaluations[1]);
    assert!(evaluations[1].metrics.value("rewards/margins").unwrap() > 1.0);
    assert!(evaluations[1].metrics.value("kl").is_some());
    words = std::fs::read_to_string(folder.path("out").join("metrics.jsonl")).unwrap();
    assert!(
        words.contains("\"kl\":") && words.contains("\"eval_rewards/margins\":") && words.contains("\"logps/chosen\":")
    );
    assert_eq!(words.lines().count(), 36 + 2);
}

#[test]
fn verdicts_with_a_precomputed_reference_are_those_with_a_frozen_one() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let losses = |kind: &str| {
        let assignments = ["objective.type=kto", &data, kind, "train.steps=7", "evaluation.rows=10.."];
        let events = finish(Run::start(folder.plan(kind, &assignments)).unwrap());
        let losses = events.iter().filter_map(|event| match event {
            Event::Step(report) => Some(report.loss.to_bits()),
            Event::Evaluated(report) => Some(report.loss.to_bits()),
            _ => None,
        });
        losses.collect::<Vec<_>>()
    };
    let frozen = losses("reference.kind=frozen");
    assert_eq!(frozen.len(), 8);
    assert_eq!(losses("reference.kind=precomputed"), frozen);
}

#[test]
fn a_damaged_foreign_or_newer_checkpoint_is_refused_in_words() {
    let folder = Folder::new();
    finish(Run::start(folder.plan("out", &["output.save_every=3", "output.keep=0"])).unwrap());
    let path = checkpoints(&folder.path("out")).join("step-00000003");
    let resume = |assignments: &[&str]| Run::resume(folder.plan("out", assignments), &path).unwrap_err().to_string();
    let text = resume(&["optimizer.learning_rate=0.5", "objective.beta=0.3"]);
    assert!(
        text.contains("objective.beta is 0.3, was 0.1") && text.contains("optimizer.learning_rate is 0.5, was 0.01"),
        "{text}"
    );
    assert!(resume(&["objective.type=ipo"]).contains("objective.type is \"ipo\", was \"dpo\""));

    let weights = path.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert!(resume(&[]).contains("model.safetensors has"), "{}", resume(&[]));
    std::fs::write(&weights, &whole).unwrap();

    // Longer runs may go on; other starting weights may not.
    finish(Run::resume(folder.plan("out", &["train.steps=8", "output.keep=0"]), &path).unwrap());
    write_model(&folder.path("model"), 2);
    assert!(resume(&[]).contains("its run started from the weights"));

    let state = path.join("state.json");
    let newer = std::fs::read_to_string(&state).unwrap().replace("\"format_version\": 1", "\"format_version\": 99");
    std::fs::write(&state, newer).unwrap();
    assert!(resume(&[]).contains("format version 99"));
}

#[test]
fn a_diverging_run_stops_and_its_last_checkpoint_is_whole() {
    let folder = Folder::new();
    let mut run = Run::start(
        folder.plan("out", &["optimizer.learning_rate=1e30", "output.save_every=1", "optimizer.max_grad_norm=0"]),
    )
    .unwrap();
    let error = loop {
        match run.advance() {
            Ok(event) => assert!(event.is_some()),
            Err(e) => break e,
        }
    };
    assert_eq!(error.fault(), Fault::Stopped);
    assert!(error.to_string().contains("pairs.jsonl:"), "{error}");
    let latest = Checkpoint::latest(&checkpoints(&folder.path("out"))).unwrap().checkpoint.unwrap();
    assert_eq!(latest.state.step, run.trainer().steps_done());
}

#[test]
fn an_output_directory_belongs_to_one_run() {
    let folder = Folder::new();
    finish(Run::start(folder.plan("out", &["train.steps=1"])).unwrap());
    let text = Run::start(folder.plan("out", &["train.steps=1"])).unwrap_err().to_string();
    assert!(text.contains("holds another run; resume it, or name another directory"), "{text}");
}

#[test]
fn what_is_not_there_or_does_not_fit_is_said() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).display().to_string();
    let error = folder.refused(&[&format!("model.path={}", path("nowhere"))]);
    assert!(error.to_string().contains("nowhere"), "{error}");
    let error = folder.refused(&[&format!("data.path={}", path("nowhere.jsonl"))]);
    assert!(error.to_string().contains("nowhere.jsonl"), "{error}");
    assert_eq!(error.fault(), Fault::Data);
    let error = folder.refused(&[&format!("data.path={}", path("labelled.jsonl"))]);
    assert!(error.to_string().contains("the row is a labelled completion, and the objective uses pairs"), "{error}");

    // A tokenizer with more words than the model.
    let tokenizer = folder.path("model").join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap().replace("\"w9\":9", "\"w9\":9,\"extra\":24");
    std::fs::write(&tokenizer, text).unwrap();
    let error = folder.refused(&[]);
    assert!(error.to_string().contains("does not fit the model") && error.to_string().contains("24"), "{error}");
}
