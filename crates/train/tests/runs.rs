//! Whole runs on files: to the end, resumed, refused.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::path::{Path, PathBuf};

use candlewick_train::{Checkpoint, Error, Event, Fault, Plan, Run, Trainable, Words, checkpoints};
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
    let variants: [&[&str]; 6] = [
        &["train.order=file"],
        &["train.order=shuffled", "train.seed=7", "train.shuffle_buffer=4"],
        &["model.lora={rank = 2}", "schedule.kind=cosine", "schedule.warmup_steps=2"],
        &["objective.type=sft", "train.recompute=layers", "optimizer.weight_decay=0.1"],
        &["reference.kind=precomputed", "objective.type=ipo"],
        &[
            "model.lora={rank = 2, preferences = 2}",
            "objective.type=panacea",
            "objective.mix={ parts = [ { loss = { type = \"dpo\" } }, { loss = { type = \"sft\" } } ] }",
        ],
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
        let file = format!("reference.path={:?}", folder.path(&format!("b-{i}")).join("reference-cache"));
        let mut again = vec!["reference.kind=precomputed", "objective.beta=0.5", &file, "train.steps=2"];
        again.extend(variant);
        let events = finish(Run::start(folder.plan(&format!("c-{i}"), &again)).unwrap());
        assert!(!events.iter().any(|event| matches!(event, Event::Precomputed { .. })));
    }
}

#[test]
fn a_precomputed_reference_that_lacks_rows_is_completed() {
    let folder = Folder::new();
    let few = ["reference.kind=precomputed", "train.order=file", "train.steps=1", "data.rows=..4"];
    finish(Run::start(folder.plan("few", &few)).unwrap());
    let given = format!("reference.path={:?}", folder.path("few").join("reference-cache"));
    let all = ["reference.kind=precomputed", "train.order=file", "train.steps=5", "evaluation.rows=10.."];
    let events = finish(Run::start(folder.plan("more", &[&all[..], &[&given]].concat())).unwrap());
    // Fourteen pairs, eight completions of which were there.
    assert!(events.iter().any(|event| matches!(event, Event::Precomputed { rows: 28, done: true })), "{events:?}");
    finish(Run::start(folder.plan("whole", &all)).unwrap());
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    assert_eq!(read(folder.path("more").join("metrics.jsonl")), read(folder.path("whole").join("metrics.jsonl")));
    // Another run finds all that it needs.
    let again = finish(Run::start(folder.plan("again", &[&all[..], &[&given]].concat())).unwrap());
    assert!(!again.iter().any(|event| matches!(event, Event::Precomputed { .. })));
}

#[test]
fn a_precomputed_reference_of_other_weights_is_refused() {
    let folder = Folder::new();
    finish(Run::start(folder.plan("made", &["reference.kind=precomputed", "train.steps=1", "data.rows=..4"])).unwrap());
    let given = format!("reference.path={:?}", folder.path("made").join("reference-cache"));
    write_model(&folder.path("model"), 2);
    let error = folder.refused(&["reference.kind=precomputed", &given]);
    assert_eq!(error.fault(), Fault::Model);
    assert!(error.to_string().contains("made with other weights, adapters or settings"), "{error}");
    let file = folder.path("reference.safetensors");
    std::fs::write(&file, b"nothing").unwrap();
    let error = folder.refused(&["reference.kind=precomputed", &format!("reference.path={file:?}")]);
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

#[test]
fn verdicts_and_falling_rates_over_epochs_resume_to_the_bit() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let variants: [&[&str]; 2] = [&["objective.type=kto", &data, "data.rows=..18"], &[]];
    for (i, variant) in variants.into_iter().enumerate() {
        let plan = |output: &str| {
            let mut assignments = vec!["output.save_every=2", "output.keep=0", "schedule.kind=cosine"];
            assignments.extend(variant);
            let mut plan = folder.plan(output, &assignments);
            plan.train.length = candlewick_train::Length::Epochs(2);
            plan
        };
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let run = Run::start(plan(&whole)).unwrap();
        let total = run.total_steps();
        finish(run);
        let mut run = Run::start(plan(&parts)).unwrap();
        while run.trainer().steps_done() < total - 1 {
            run.advance().unwrap();
        }
        drop(run);
        let at = checkpoints(&folder.path(&parts)).join(format!("step-{:08}", (total - 1) / 2 * 2));
        finish(Run::resume(plan(&parts), &at).unwrap());
        for file in ["final/model.safetensors", "metrics.jsonl"] {
            let read = |output: &str| std::fs::read(folder.path(output).join(file)).unwrap();
            assert_eq!(read(&whole), read(&parts), "variant {i}: {file}");
        }
        let log = std::fs::read_to_string(folder.path(&whole).join("metrics.jsonl")).unwrap();
        let epochs: Vec<f64> = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["epoch"].as_f64().unwrap())
            .collect();
        let expected: Vec<f64> = (1..=total).map(|step| step as f64 * 2.0 / total as f64).collect();
        assert_eq!(epochs, expected);
    }
}

#[test]
fn an_evaluation_that_cannot_be_is_refused_before_the_first_step() {
    let folder = Folder::new();
    let path = |name: &str| format!("{:?}", folder.path(name));
    let text = "{\"prompt\": \"w1\", \"completion\": \" w2\", \"label\": true}\n{\"prompt\": \"w1\", \"completion\": \" w3\", \"label\": false}\n";
    std::fs::write(folder.path("one-prompt.jsonl"), text).unwrap();
    let labelled = format!("data.path={}", path("labelled.jsonl"));
    let held_out = |name: &str| format!("evaluation.path={}", path(name));
    for (assignments, expected) in [
        (vec![held_out("nowhere.jsonl")], "nowhere.jsonl"),
        (vec![held_out("labelled.jsonl")], "the objective uses pairs"),
        (vec![labelled, "objective.type=kto".into(), held_out("one-prompt.jsonl")], "at least two different prompts"),
        (vec!["evaluation.rows=20..".into()], "no usable row"),
    ] {
        let output = format!("refused-{}", std::fs::read_dir(folder.0.path()).unwrap().count());
        let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
        let text = Run::start(folder.plan(&output, &assignments)).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!folder.path(&output).exists());
    }
}

#[test]
fn an_evaluation_that_fails_at_the_end_costs_nothing() {
    let folder = Folder::new();
    let held_out = folder.path("held-out.jsonl");
    write_pairs(&held_out, 4, 2);
    let assignments = [&format!("evaluation.path={held_out:?}")[..], "train.steps=2"];
    let mut run = Run::start(folder.plan("out", &assignments)).unwrap();
    std::fs::remove_file(&held_out).unwrap();
    let error = loop {
        match run.advance() {
            Ok(event) => assert!(event.is_some()),
            Err(e) => break e,
        }
    };
    assert!(error.to_string().contains("held-out.jsonl"), "{error}");
    assert!(folder.path("out").join("final/model.safetensors").is_file());
    let newest = checkpoints(&folder.path("out")).join("step-00000002");
    write_pairs(&held_out, 4, 2);
    let busy = Run::resume(folder.plan("out", &assignments), &newest).unwrap_err().to_string();
    assert!(busy.starts_with("output.dir: ") && busy.contains("another process trains there"), "{busy}");
    drop(run);
    let latest = Checkpoint::latest(&checkpoints(&folder.path("out"))).unwrap().checkpoint.unwrap();
    let events = finish(Run::resume(folder.plan("out", &assignments), &latest.path).unwrap());
    let [Event::Evaluated(_), Event::Finished(summary)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(summary.held_out.as_ref().unwrap().kept, 4);
}

#[test]
fn a_run_saved_while_its_reference_is_made_goes_on() {
    let folder = Folder::new();
    for (i, variant) in [&[][..], &["model.lora={rank = 2}"][..]].into_iter().enumerate() {
        let mut assignments = vec!["reference.kind=precomputed", "evaluation.rows=10..", "train.steps=3"];
        assignments.extend(variant);
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        finish(Run::start(folder.plan(&whole, &assignments)).unwrap());
        let mut run = Run::start(folder.plan(&parts, &assignments)).unwrap();
        assert!(matches!(run.advance().unwrap(), Some(Event::Precomputed { done: false, .. })));
        let saved = run.save_now().unwrap();
        drop(run);
        finish(Run::resume(folder.plan(&parts, &assignments), &saved).unwrap());
        for file in ["reference-cache/segment-00000001.safetensors", "metrics.jsonl"] {
            let read = |output: &str| std::fs::read(folder.path(output).join(file)).unwrap();
            assert_eq!(read(&whole), read(&parts), "{file}");
        }
    }
}

#[test]
fn a_reference_is_made_for_the_steps_of_the_run_only() {
    let folder = Folder::new();
    let short = ["reference.kind=precomputed", "train.order=file", "train.steps=1"];
    let events = finish(Run::start(folder.plan("out", &short)).unwrap());
    // One step of four pairs of ten.
    assert!(events.iter().any(|event| matches!(event, Event::Precomputed { rows: 8, done: true })), "{events:?}");
    let at = checkpoints(&folder.path("out")).join("step-00000001");
    let longer = [short[0], short[1], "train.steps=2"];
    let text = Run::resume(folder.plan("out", &longer), &at).unwrap_err().to_string();
    assert!(text.contains("it has nothing for") && text.contains("pairs.jsonl:5"), "{text}");
}

#[test]
fn what_a_resumed_run_saves_survives_damaged_and_later_checkpoints() {
    let folder = Folder::new();
    let assignments = ["output.save_every=2", "output.keep=1"];
    finish(Run::start(folder.plan("out", &["output.save_every=2", "output.keep=0"])).unwrap());
    let directory = checkpoints(&folder.path("out"));
    std::fs::write(directory.join("step-00000006/model.safetensors"), [1, 2, 3]).unwrap();
    let found = Checkpoint::latest(&directory).unwrap();
    assert_eq!((found.damaged.len(), found.checkpoint.as_ref().unwrap().state.step), (1, 4));

    let mut run = Run::resume(folder.plan("out", &assignments), &directory.join("step-00000002")).unwrap();
    assert!(directory.join("aside/step-00000006").is_dir() && directory.join("aside/step-00000004").is_dir());
    while run.trainer().steps_done() < 5 {
        run.advance().unwrap();
    }
    assert_eq!(Checkpoint::latest(&directory).unwrap().checkpoint.unwrap().state.step, 4);
    assert!(!directory.join("step-00000002").exists());
    // What is saved already is not written again.
    let saved = run.save_now().unwrap();
    let written = std::fs::metadata(saved.join("state.json")).unwrap().modified().unwrap();
    assert_eq!(run.save_now().unwrap(), saved);
    assert_eq!(std::fs::metadata(saved.join("state.json")).unwrap().modified().unwrap(), written);
    finish(run);
    assert_eq!(Checkpoint::latest(&directory).unwrap().checkpoint.unwrap().state.step, 6);
}

#[test]
fn a_directory_without_a_whole_checkpoint_says_what_to_do() {
    let folder = Folder::new();
    let assignments = ["train.steps=2", "train.order=file"];
    let mut run = Run::start(folder.plan("out", &assignments)).unwrap();
    run.advance().unwrap();
    drop(run);
    finish(Run::start(folder.plan("out", &assignments)).unwrap());
    let log = std::fs::read_to_string(folder.path("out").join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 2, "{log}");

    let directory = checkpoints(&folder.path("out"));
    std::fs::write(directory.join("step-00000002/state.json"), "{").unwrap();
    let start = || Run::start(folder.plan("out", &assignments)).unwrap_err().to_string();
    assert!(start().contains(&format!("remove {} to start anew", directory.display())), "{}", start());
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(start().contains("holds the result of another run in final"), "{}", start());
}

#[test]
fn other_threads_go_on_to_the_same_bits() {
    let folder = Folder::new();
    let words = ["train.steps=3", "output.save_every=1", "output.keep=0"];
    finish(Run::start(folder.plan("out", &words)).unwrap());
    let written = || std::fs::read(folder.path("out/final/model.safetensors")).unwrap();
    let alone = written();
    let at = checkpoints(&folder.path("out")).join("step-00000001");
    finish(Run::resume(folder.plan("out", &[&words[..], &["train.threads=2"]].concat()), &at).unwrap());
    assert!(written() == alone);
}

#[test]
fn other_data_is_refused() {
    let folder = Folder::new();
    let assignments = ["train.steps=3", "output.save_every=1", "output.keep=0"];
    finish(Run::start(folder.plan("out", &assignments)).unwrap());
    let at = checkpoints(&folder.path("out")).join("step-00000001");
    write_pairs(&folder.path("pairs.jsonl"), 15, 1);
    let error = Run::resume(folder.plan("out", &assignments), &at).unwrap_err();
    let length = std::fs::metadata(folder.path("pairs.jsonl")).unwrap().len();
    assert!(error.to_string().contains(&format!("has {length} bytes")), "{error}");
    assert!(error.to_string().contains("had "), "{error}");
    assert_eq!(error.fault(), Fault::Configuration);
}

#[test]
fn every_rejected_row_is_written_down_once() {
    let folder = Folder::new();
    let file = folder.path("pairs.jsonl");
    let rows = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = rows.lines().collect();
    lines.insert(1, "{\"prompt\": \"w3\"}");
    lines.insert(12, "nothing");
    std::fs::write(&file, format!("{}\n", lines.join("\n"))).unwrap();
    let assignments = [
        "data.rows=..11",
        "evaluation.rows=11..",
        "evaluation.every=1",
        "train.order=file",
        "train.steps=6",
        "output.save_every=1",
        "output.keep=0",
    ];
    let mut run = Run::start(folder.plan("out", &assignments)).unwrap();
    let sample = run.sample().unwrap().unwrap();
    assert!(sample.contains("pairs.jsonl:1 (pair)") && sample.contains('⟦'), "{sample}");
    while run.advance().unwrap().is_some() {}
    assert_eq!(run.held_out_rows().unwrap().rejected_rows(), 1);
    let log = || std::fs::read_to_string(folder.path("out").join("rejected.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[0]["line"], &lines[0]["reason"]), (&2.into(), &"missing_column".into()));
    assert_eq!((&lines[1]["line"], &lines[1]["reason"]), (&13.into(), &"not_json".into()));
    let before = log();
    let at = checkpoints(&folder.path("out")).join("step-00000001");
    finish(Run::resume(folder.plan("out", &assignments), &at).unwrap());
    assert_eq!(log(), before);
}

#[test]
fn parameters_that_are_not_finite_are_not_saved() {
    let folder = Folder::new();
    let mut run = Run::start(folder.plan("out", &["output.save_every=1"])).unwrap();
    while run.trainer().steps_done() < 2 {
        run.advance().unwrap();
    }
    let tuning = candlewick_train::Trainable::tuning(run.trainer_mut().policy_mut());
    tuning.parameters.data_mut()[3] = f32::INFINITY;
    let error = run.save_now().unwrap_err();
    assert_eq!(error.fault(), Fault::Stopped);
    assert!(error.to_string().contains("after step 2 the parameter ") && error.to_string().contains("learning_rate"));
    assert_eq!(Checkpoint::latest(&checkpoints(&folder.path("out"))).unwrap().checkpoint.unwrap().state.step, 1);

    // An update can be what breaks them.
    let error = folder.refused(&["optimizer.learning_rate=1e300", "train.steps=1"]);
    assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error}");
}

#[test]
fn numbers_of_steps_that_overflow_are_refused() {
    let folder = Folder::new();
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = folder.plan("out", &[]);
        plan.train.length = candlewick_train::Length::Epochs(2);
        change(&mut plan);
        Run::start(plan).unwrap_err().to_string()
    };
    assert!(refused(&|plan| plan.train.length = candlewick_train::Length::Epochs(u64::MAX)).contains("train.epochs"));
    assert!(refused(&|plan| plan.train.micro_batches = usize::MAX).contains("train.micro_batches"));
}

/// Weights, log and classifier of a run that is killed and goes on, beside those of one that is not.
fn assert_resumes(folder: &Folder, name: &str, assignments: &[&str], files: &[&str]) {
    let all = [&["output.save_every=2", "output.keep=0"], assignments].concat();
    let (whole, parts) = (format!("whole-{name}"), format!("parts-{name}"));
    finish(Run::start(folder.plan(&whole, &all)).unwrap());
    let mut run = Run::start(folder.plan(&parts, &all)).unwrap();
    while run.trainer().steps_done() < 5 {
        run.advance().unwrap();
    }
    drop(run);
    let at = checkpoints(&folder.path(&parts)).join("step-00000004");
    finish(Run::resume(folder.plan(&parts, &all), &at).unwrap());
    for file in files {
        let read = |output: &str| std::fs::read(folder.path(output).join(file)).unwrap();
        assert_eq!(read(&whole), read(&parts), "{name}: {file}");
    }
}

#[test]
fn every_optimizer_resumes_to_the_bit() {
    let folder = Folder::new();
    let lora = ["model.lora={rank = 2}", "optimizer.lora_plus_ratio=8"];
    let variants: [(&str, &[&str]); 9] = [
        ("lion", &["optimizer.weight_decay=0.1"]),
        ("adafactor", &[]),
        ("rmsprop", &["optimizer.momentum=0.5", "optimizer.centered=true"]),
        ("adamw_8bit", &["optimizer.min_8bit_size=100"]),
        ("schedule_free_adamw", &["schedule.warmup_steps=2", "optimizer.weight_decay=0.1"]),
        ("muon", &["schedule.kind=warmup_stable_decay", "schedule.num_decay_steps=3"]),
        ("adamw", &lora),
        ("schedule_free_adamw", &lora),
        ("lion", &lora),
    ];
    for (i, (kind, variant)) in variants.into_iter().enumerate() {
        let kind_key = format!("optimizer.kind={kind}");
        let held_out = ["evaluation.rows=10..", "evaluation.every=2", &kind_key];
        let weights = match variant.contains(&lora[0]) {
            true => "final/adapter_model.safetensors",
            false => "final/model.safetensors",
        };
        let files = ["metrics.jsonl", weights, "checkpoints/step-00000006/optimizer.safetensors"];
        assert_resumes(&folder, &format!("{kind}-{i}"), &[&held_out[..], variant].concat(), &files);
    }
    // The state of another optimizer is not taken for its own, whatever the plan says.
    let at = checkpoints(&folder.path("parts-lion-0")).join("step-00000004");
    let text = Run::resume(folder.plan("parts-lion-0", &["output.save_every=2", "output.keep=0"]), &at).unwrap_err();
    assert!(text.to_string().contains("optimizer.kind is \"adamw\", was \"lion\""), "{text}");
}

#[test]
fn schedules_that_follow_evaluations_resume_to_the_bit() {
    let folder = Folder::new();
    let held_out = ["evaluation.rows=10..", "evaluation.every=1"];
    let waits = ["schedule.patience=0", "schedule.factor=0.5"];
    let plateau = ["schedule.kind=reduce_lr_on_plateau", "schedule.threshold=0.9"];
    let greedy = ["schedule.kind=greedy", "schedule.min_lr=1e-4", "schedule.smooth=true"];
    let rates = |output: &str| -> Vec<f64> {
        log(&folder, output).iter().filter_map(|line| line["learning_rate"].as_f64()).collect()
    };
    for (name, kind) in [("plateau", &plateau[..]), ("greedy", &greedy)] {
        let assignments = [&held_out[..], &waits, kind].concat();
        assert_resumes(&folder, name, &assignments, &["metrics.jsonl", "final/model.safetensors"]);
    }
    // The first evaluation is good; none of the others is below a tenth of the best.
    let expected = [0.01, 0.01, 0.005, 0.0025, 0.00125, 0.000625];
    let found = rates("whole-plateau");
    assert!(found.iter().zip(expected).all(|(a, b): (&f64, f64)| (a - b).abs() < 1e-15), "{found:?}");
    assert!(rates("whole-greedy")[1] > 0.01);
}

/// What is evaluated, kept and written is the average; the first step moves nothing but z where its rate is 0.
#[test]
fn what_is_averaged_is_what_is_evaluated_and_written() {
    let folder = Folder::new();
    let assignments = ["optimizer.kind=schedule_free_adamw", "output.save_every=3", "evaluation.rows=10.."];
    let mut run = Run::start(folder.plan("out", &assignments)).unwrap();
    let mut last = None;
    while let Some(event) = run.advance().unwrap() {
        if let Event::Evaluated(report) = event {
            last = Some(report.loss);
        }
    }
    let read = |name: &str| std::fs::read(folder.path("out").join(name)).unwrap();
    assert!(read("final/model.safetensors") == read("checkpoints/step-00000006/model.safetensors"));
    let held = run.trainer().policy().parameters().data().to_vec();
    let written = candlewick_model::CausalLm::<f32>::load(&folder.path("out/final")).unwrap();
    assert!(written.trainable().data() == held);
    // A run from what was written, as it is, evaluates to the same loss against the same reference.
    let model = format!("model.path={:?}", folder.path("out/final"));
    let reference = format!("reference.path={:?}", folder.path("model"));
    let again = [&model, &reference, "evaluation.rows=10..", "evaluation.at_start=true", "train.steps=1"];
    let mut run = Run::start(folder.plan("again", &again)).unwrap();
    let Some(Event::Evaluated(report)) = run.advance().unwrap() else { panic!("nothing was evaluated") };
    assert_eq!(Some(report.loss), last);
}

fn log(folder: &Folder, output: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.path(output).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const BCO: [&str; 3] = ["objective.type=bco", "objective.density_ratio={}", "data.rows=..18"];

#[test]
fn prompts_told_apart_weigh_rows_and_resume_to_the_bit() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let held_out = ["evaluation.rows=18..", "evaluation.every=3"];
    for (name, tuning) in [("full", "train.seed=1"), ("lora", "model.lora={rank = 2}")] {
        let assignments =
            [&BCO[..], &held_out, &[&data, tuning, "udm.embeddings=policy", "udm.prompt_sample_size=64"]].concat();
        assert_resumes(&folder, name, &assignments, &["metrics.jsonl", "udm.json"]);
        let text = std::fs::read_to_string(folder.path(&format!("whole-{name}")).join("udm.json")).unwrap();
        let fit: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&fit["format"], &fit["desirable"], &fit["undesirable"]), (&1.into(), &9.into(), &9.into()));
        assert_eq!(fit["classifier"]["weights"].as_array().unwrap().len(), 16);
    }
    let lines = log(&folder, "whole-full");
    assert!(lines[0]["delta"].is_number() && lines[0]["margins/optimised"].is_number(), "{}", lines[0]);
    assert!(lines.iter().any(|line| line["eval_accuracies/optimised"].is_number()));
    // The prompts of the two verdicts differ, so undesirable rows weigh less than 1 and the first loss is below ln 2.
    assert!(lines[0]["loss"].as_f64().unwrap() < 0.69, "{}", lines[0]);
}

/// Fitting anew would give the same numbers here, and others where a library's solver has changed in between.
#[test]
fn the_classifier_of_a_run_that_goes_on_is_that_of_its_checkpoint() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let assignments =
        [&BCO[..], &[&data, "udm.embeddings=policy", "udm.prompt_sample_size=64", "output.save_every=2"]].concat();
    let mut run = Run::start(folder.plan("out", &assignments)).unwrap();
    while !matches!(run.advance().unwrap(), Some(Event::Saved(_))) {}
    drop(run);
    let checkpoint = Checkpoint::latest(&checkpoints(&folder.path("out"))).unwrap().checkpoint.unwrap().path;
    let state = checkpoint.join("state.json");
    let mut envelope: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
    envelope["state"]["bookmark"]["udm"]["classifier"]["weights"][0] = 0.125.into();
    envelope["crc32"] = format!("{:08x}", crc32fast::hash(envelope["state"].to_string().as_bytes())).into();
    std::fs::write(&state, envelope.to_string()).unwrap();
    let _run = Run::resume(folder.plan("out", &assignments), &checkpoint).unwrap();
    let fit: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path("out").join("udm.json")).unwrap()).unwrap();
    assert_eq!(fit["classifier"]["weights"][0], 0.125);
}

#[test]
fn embeddings_may_come_from_a_file_that_knows_every_row() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let vectors = format!("udm.embeddings={:?}", folder.path("vectors.jsonl"));
    let write = |lines: std::ops::RangeInclusive<u64>| {
        let line = |line| {
            let x = if line % 2 == 1 { 1.0 } else { -1.0 };
            serde_json::json!({"line": line, "embedding": [4.0 * x, 0.5]}).to_string() + "\n"
        };
        std::fs::write(folder.path("vectors.jsonl"), lines.map(line).collect::<String>()).unwrap();
    };
    let assignments = [&BCO[..], &[&data, &vectors, "evaluation.rows=18.."]].concat();
    write(1..=24);
    assert_resumes(&folder, "file", &assignments, &["metrics.jsonl", "udm.json"]);

    for (lines, missing) in [(1..=17, 18), (1..=20, 21)] {
        write(lines);
        let error = folder.refused(&assignments);
        assert_eq!(error.fault(), Fault::Data);
        let text = error.to_string();
        assert!(
            text.contains(&format!("labelled.jsonl:{missing}: udm.embeddings, "))
                && text.contains("vectors.jsonl, has no embedding of its prompt"),
            "{text}"
        );
    }
    // Another file than the run began with is refused, and the one it had is taken.
    write(1..=24);
    let at = checkpoints(&folder.path("parts-file")).join("step-00000004");
    let resume = || Run::resume(folder.plan("parts-file", &[&["output.keep=0"], &assignments[..]].concat()), &at);
    resume().unwrap();
    let text = std::fs::read_to_string(folder.path("vectors.jsonl")).unwrap();
    std::fs::write(folder.path("vectors.jsonl"), text.replacen("4.0", "5.0", 1)).unwrap();
    let error = resume().unwrap_err();
    assert_eq!(error.fault(), Fault::Configuration);
    let text = error.to_string();
    assert!(text.contains("udm.embeddings ") && text.contains("vectors.jsonl has") && text.contains("had"), "{text}");

    let of = |text: &str| {
        std::fs::write(folder.path("vectors.jsonl"), text).unwrap();
        folder.refused(&assignments).to_string()
    };
    let all: String = (1..=24).map(|line| format!("{{\"line\": {line}, \"embedding\": [{line}]}}\n")).collect();
    let text = of(&format!("{all}{{\"line\": 3, \"embedding\": [1]}}\n"));
    assert!(text.contains("vectors.jsonl:25: a second embedding of") && text.contains(":3; remove one"), "{text}");
    let text = of(&all.replace("\"line\": 23, \"embedding\": [", "\"line\": 23, \"embedding\": [1, "));
    assert!(text.contains("vectors.jsonl:23: "), "{text}");
    let text = of(&all.replace("\"line\": 3, \"embedding\": [", "\"line\": 3, \"embedding\": [1, "));
    assert!(text.contains("vectors.jsonl: "), "{text}");
    let text = of(&all.replace("\"embedding\": [7]", "\"vector\": [7]"));
    assert!(text.contains("vectors.jsonl:7: unknown field `vector`"), "{text}");
}

#[test]
fn a_classifier_that_no_run_saved_goes_with_its_logs() {
    let folder = Folder::new();
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    drop(Run::start(folder.plan("out", &[&BCO[..], &[&data, "udm.seed=1"]].concat())).unwrap());
    assert!(folder.path("out").join("udm.json").exists());
    drop(Run::start(folder.plan("out", &["objective.type=kto", &data])).unwrap());
    assert!(!folder.path("out").join("udm.json").exists());
}

#[test]
fn rows_without_a_verdict_are_refused_by_what_the_objective_reads() {
    let folder = Folder::new();
    for objective in ["objective.type=kto", "objective.type=bco"] {
        assert!(folder.plan("out", &[objective]).data.stratified);
        let error = folder.refused(&[objective]);
        assert_eq!(error.fault(), Fault::Data);
        let text = error.to_string();
        assert!(text.contains("pairs.jsonl:1: the row is a pair, and the objective uses labelled"), "{text}");
        assert!(!text.contains("stratified"), "{text}");
    }
    // Those that the objective reads all the same cannot be arranged by a verdict.
    let rows = (3..9).map(|i| format!("{{\"prompt\": \"w{i} w7\", \"completion\": \" w5\"}}\n")).collect::<String>();
    std::fs::write(folder.path("plain.jsonl"), rows).unwrap();
    let data = format!("data.path={:?}", folder.path("plain.jsonl"));
    let text = folder.refused(&["objective.type=sft", &data, "data.stratified=true"]).to_string();
    assert!(
        text.starts_with("data.stratified: true, and ") && text.contains("plain.jsonl:1 is not labelled"),
        "{text}"
    );
    let data = format!("data.path={:?}", folder.path("labelled.jsonl"));
    let one = ["train.batch_size=1", "train.micro_batches=1", "data.stratified=true"];
    let text = folder.refused(&[&["objective.type=kto", &data], &one[..]].concat()).to_string();
    assert!(text.starts_with("data.stratified: got true with steps of one example, expected"), "{text}");
}

#[test]
fn prompts_of_one_verdict_cannot_be_told_apart() {
    let folder = Folder::new();
    let rows = |label: bool| {
        let row = |i| serde_json::json!({"prompt": format!("w{i} w7"), "completion": " w5", "label": label});
        (3..20).map(|i| row(i).to_string() + "\n").collect::<String>()
    };
    std::fs::write(folder.path("one.jsonl"), rows(true)).unwrap();
    let data = format!("data.path={:?}", folder.path("one.jsonl"));
    let error = folder.refused(&[&BCO[..], &[&data, "udm.seed=1"]].concat());
    assert_eq!(error.fault(), Fault::Data);
    assert!(error.to_string().contains("one.jsonl: "), "{error}");
}

#[test]
fn a_number_is_a_column_of_the_rows() {
    let folder = Folder::new();
    let labelled = std::fs::read_to_string(folder.path("labelled.jsonl")).unwrap();
    let with = |name: &str, value: f64| {
        let rows = labelled.lines().map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            row[name] = value.into();
            row.to_string() + "\n"
        });
        std::fs::write(folder.path("numbers.jsonl"), rows.collect::<String>()).unwrap();
    };
    let data = format!("data.path={:?}", folder.path("numbers.jsonl"));
    let bco = |more: &[&'static str]| [&BCO[..], &[&data], more].concat();
    with("desirable_prompt", 0.5);
    let run = Run::start(folder.plan("column", &bco(&[]))).unwrap();
    // Every row weighs 1, as without a density ratio.
    let first = finish(run).into_iter().find_map(|event| match event {
        Event::Step(report) => Some(report.loss),
        _ => None,
    });
    assert!((first.unwrap() - 2f64.ln()).abs() < 1e-6);
    assert!(!folder.path("column").join("udm.json").exists());
    with("p", 0.5);
    finish(Run::start(folder.plan("mapped", &bco(&["data.columns={desirable_prompt = \"p\"}"]))).unwrap());
    let text = folder.refused(&bco(&["data.strict=true"])).to_string();
    assert!(text.contains("numbers.jsonl:1") && text.contains("desirable_prompt"), "{text}");
    with("desirable_prompt", 1.5);
    let text = folder.refused(&bco(&["data.strict=true"])).to_string();
    assert!(text.contains("numbers.jsonl:1") && text.contains("a number in [0, 1]"), "{text}");
}

#[test]
fn every_step_holds_both_verdicts_of_a_sorted_file() {
    let folder = Folder::new();
    let row = |i: u64| {
        let (label, word) = if i < 12 { (true, "w5") } else { (false, "w6") };
        let row =
            serde_json::json!({"prompt": format!("w{} w7", 3 + i), "completion": format!(" {word}"), "label": label});
        row.to_string() + "\n"
    };
    std::fs::write(folder.path("sorted.jsonl"), (0..16).map(row).collect::<String>()).unwrap();
    let data = format!("data.path={:?}", folder.path("sorted.jsonl"));
    let both = |name: &str, more: &[&str]| {
        let assignments = [&["objective.type=kto", &data, "data.rows=..", "train.shuffle_buffer=1"], more].concat();
        finish(Run::start(folder.plan(name, &assignments)).unwrap());
        log(&folder, name).iter().all(|line| line["logps/chosen"].is_number() && line["logps/rejected"].is_number())
    };
    assert!(both("stratified", &[]));
    assert!(!both("not", &["data.stratified=false"]));
    assert!(!both("file", &["train.order=file"]));
    let assignments = ["objective.type=kto", &data, "data.rows=..", "train.shuffle_buffer=2"];
    assert_resumes(&folder, "sorted", &assignments, &["metrics.jsonl", "final/model.safetensors"]);
}

#[test]
fn ranked_and_judged_rows_come_from_files_too() {
    let folder = Folder::new();
    let ranked = |i: u64| serde_json::json!({"prompt": format!("w{} w7", 3 + i), "completions": [" w5", " w6", " w8 w9"], "ratings": [1, 3, 2]});
    let judged = |i: u64| serde_json::json!({"prompt": format!("w{} w7", 3 + i), "completion": " w5 w6", "judgment": "w9", "positive": i.is_multiple_of(2)});
    let lines = |row: &dyn Fn(u64) -> serde_json::Value| (0..10).map(|i| row(i).to_string() + "\n").collect::<String>();
    for (name, rows, completions) in [("ranked", lines(&ranked), 12), ("judged", lines(&judged), 8)] {
        let file = folder.path(&format!("{name}.jsonl"));
        std::fs::write(&file, rows).unwrap();
        let data = format!("data.path={file:?}");
        let events = finish(Run::start(folder.plan(name, &[&data, "objective.type=sft", "train.order=file"])).unwrap());
        let Some(Event::Step(report)) = events.first() else { panic!("{events:?}") };
        assert_eq!(report.rows, completions);
        let (first, last) = (log(&folder, name)[0]["loss"].as_f64(), log(&folder, name)[5]["loss"].as_f64());
        assert!(last.unwrap() < first.unwrap(), "{name}: {first:?} {last:?}");
    }
}
