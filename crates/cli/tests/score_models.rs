//! A reward model from pairs: trained, killed and gone on with, measured; and what has no use for one.
#![cfg(unix)]

mod common;

use std::path::Path;

use common::{Bench, await_path};
use serde_json::Value;

const OBJECTIVE: [&str; 2] = ["--objective", "bradley_terry"];
const LORA: [&str; 2] = ["--set", "model.lora={rank = 2}"];

/// `wick train` of a reward model to `output`.
fn words<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let ours =
        ["train", "--model", "model", "--data", "pairs.jsonl", "--output", output, "--batch", "4", "--lr", "1e-2"];
    let sets = [
        "--threads",
        "1",
        "--set",
        "model.heads=[\"reward\"]",
        "--set",
        "train.epochs=6",
        "--set",
        "output.save_every=1",
        "--set",
        "evaluation.held_out=0.2",
    ];
    [&ours[..], &OBJECTIVE, &sets, more].concat()
}

/// Every file of a directory, by name.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_killed_reward_model_goes_on_to_the_same_bits_and_is_measured() {
    let bench = Bench::new();
    for (whole, killed, more) in [("full", "full-killed", &[][..]), ("lora", "lora-killed", &LORA)] {
        bench.wick(&words(whole, more)).succeeds();
        let mut child = bench.spawn(&words(killed, more));
        await_path(&bench.path(killed).join("checkpoints/step-00000003/state.json"), &mut child);
        child.kill().expect("SIGKILL");
        child.wait().expect("a child");
        bench.wick(&[words(killed, more), vec!["--resume"]].concat()).succeeds();
        let of = |run: &str| files(&bench.path(run).join("final"));
        let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&of(whole)), names(&of(killed)));
        assert!(of(whole) == of(killed), "{whole}: the bits differ");
        let log = |run: &str| std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).expect("a log");
        assert!(log(whole) == log(killed), "{whole}: the logs differ");
        let first: Value = serde_json::from_str(log(whole).lines().next().expect("a step")).expect("JSON");
        assert!((first["loss"].as_f64().expect("a loss") - 2f64.ln()).abs() < 1e-6, "{first}");
    }
    let eval = |more: &[&str]| -> Value {
        let words = [&["eval", "--data", "pairs.jsonl", "--json"][..], &OBJECTIVE, more].concat();
        let said = bench.wick(&words);
        said.succeeds();
        serde_json::from_str(&said.out).expect("JSON")
    };
    for model in [&["--model", "full/final"][..], &["--model", "model", "--adapter", "lora/final"]] {
        let measured = eval(model);
        assert!(measured["rewards/accuracies"].as_f64().is_some_and(|accuracy| accuracy > 0.9), "{measured}");
        assert!(measured["loss"].as_f64().is_some_and(|loss| loss < 0.5), "{measured}");
        assert_eq!((&measured["preferences"], measured.get("logps/chosen")), (&Value::Null, None), "{measured}");
    }
    // It is told by words too, and its memory is planned.
    bench.wick(&[&["eval", "--data", "pairs.jsonl", "--model", "full/final"][..], &OBJECTIVE].concat()).succeeds();
}

#[test]
fn what_predicts_tokens_refuses_a_reward_model() {
    let bench = Bench::new();
    bench.wick(&words("full", &["--steps", "2", "--set", "train.epochs=1"])).fails(2, &["train.steps", "train.epochs"]);
    bench.wick(&words("full", &[])).succeeds();
    bench.wick(&words("lora", &LORA)).succeeds();
    let is_one = "is a score model";
    bench.wick(&["generate", "--model", "full/final", "--prompt", "one"]).fails(4, &["full/final", is_one]);
    bench
        .wick(&["generate", "--model", "model", "--adapter", "lora/final", "--prompt", "one"])
        .fails(4, &["SEQ_CLS", "objective of score heads"]);
    bench
        .wick(&["merge", "--model", "full/final", "--model", "full/final", "-o", "merged"])
        .fails(4, &["full/final", is_one]);
    bench.wick(&["merge", "--base", "model", "--adapter", "lora/final", "-o", "merged"]).fails(4, &["SEQ_CLS"]);
    let dpo = ["--model", "full/final", "--data", "pairs.jsonl"];
    bench.wick(&[&["train", "--output", "other"][..], &dpo].concat()).fails(2, &["model.path", "full/final", is_one]);
    bench.wick(&[&["eval"][..], &dpo].concat()).fails(4, &["full/final", is_one]);
    let scored = [&["--data", "pairs.jsonl"][..], &OBJECTIVE].concat();
    bench
        .wick(&[&["eval", "--model", "model"][..], &scored].concat())
        .fails(4, &["its score heads are fresh", "--adapter"]);
    bench
        .wick(&[&["eval", "--model", "full/final", "--slices", "prompt"][..], &scored].concat())
        .fails(2, &["--slices"]);
    bench
        .wick(&[&["precompute", "--model", "model", "--cache", "cache"][..], &scored].concat())
        .fails(2, &["uses no reference"]);
    bench
        .wick(
            &[&["why", "--model", "model", "--output", "full", "--prompt", "a", "--answer", "b"][..], &scored].concat(),
        )
        .fails(2, &["it trains score heads"]);
    bench
        .wick(&[&["bench", "step", "--model", "model"][..], &scored].concat())
        .fails(2, &["--objective bradley_terry", "score heads"]);
    bench.text(
        "matrix.toml",
        "[model]\npath = \"model\"\n[data]\npath = \"pairs.jsonl\"\n[evaluation]\nheld_out = 0.3\n[train]\nsteps = 2\n\
         [compare]\nseeds = 1\n[[compare.arms]]\nobjective = { type = \"dpo\" }\n[[compare.arms]]\nobjective = { type = \"bradley_terry\" }\n",
    );
    bench
        .wick(&["compare", "--config", "matrix.toml", "--output", "compared"])
        .fails(2, &["it trains score heads", "wick eval"]);
}

/// What was learned of people is read from the checkpoint that is measured, and from nowhere else.
#[test]
fn a_checkpoint_is_measured_with_the_people_of_its_run() {
    let bench = Bench::new();
    let people = |i: usize| {
        let words = ["red yes", "blue no"];
        let (chosen, rejected) = (words[i % 2], words[1 - i % 2]);
        serde_json::json!({ "prompt": "one two", "chosen": format!(" {chosen}"), "rejected": format!(" {rejected}"), "annotator": i % 2 })
    };
    bench.lines("people.jsonl", (0..40).map(people));
    let pal = ["--objective", "pal", "--set", "objective.dimensions=2", "--set", "objective.learning_rate=0.1"];
    let run = [
        &["train", "--model", "model", "--data", "people.jsonl", "--output", "run", "--batch", "4", "--lr", "1e-2"][..],
        &pal,
        &[
            "--threads",
            "1",
            "--set",
            "model.heads=[\"a\", \"b\"]",
            "--set",
            "train.epochs=3",
            "--set",
            "data.rows=..30",
        ],
        &["--set", "evaluation.rows=30..", "--set", "evaluation.every=1", "--set", "output.save_every=1"],
    ];
    bench.wick(&run.concat()).succeeds();
    let log = std::fs::read_to_string(bench.path("run/metrics.jsonl")).expect("a log");
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let evaluated = lines.rfind(|line| line["eval_loss"].is_f64()).expect("an evaluation");
    let step = evaluated["step"].as_u64().expect("a step");
    let checkpoint = format!("run/checkpoints/step-{step:08}");
    let eval = |model: &str, more: &[&str]| {
        let words = [&["eval", "--data", "people.jsonl", "--rows", "30..", "--json", "--model", model][..], &pal, more];
        bench.wick(&words.concat())
    };
    let said = eval(&checkpoint, &[]);
    said.succeeds();
    let measured: Value = serde_json::from_str(&said.out).expect("JSON");
    let loss = |value: &Value| value.as_f64().expect("a loss");
    assert!((loss(&measured["loss"]) - loss(&evaluated["eval_loss"])).abs() < 1e-6, "{measured} {evaluated}");
    assert!(loss(&measured["loss"]) < 0.9, "both of them are understood: {measured}");
    eval("run/final", &[]).fails(2, &["keeps what it learned of people", "RUN/checkpoints/step-"]);
    eval(&checkpoint, &["--set", "objective.prototypes=3"]).fails(2, &["none with these settings"]);
}
