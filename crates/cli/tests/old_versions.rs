//! Runs that earlier versions of the program began go on, and come to what those versions came to.
//!
//! `expected/runs/<version>/<name>/` holds what one left that stopped in the middle, with `metrics.jsonl` as it was at its end. To record a version:
//! `CANDLEWICK_OLD_WICK=the/wick/of/then CANDLEWICK_OLD_VERSION=1 cargo test -p candlewick-cli --test old_versions -- --ignored`.
#![expect(clippy::disallowed_methods, reason = "what is recorded is for the caller to say")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bench, Said};
use serde_json::Value;

const LORA: &str = "model.lora={rank = 1, targets = [\"q_proj\", \"v_proj\"]}";

/// What is trained: a name, and words of the command line.
const RUNS: [(&str, &[&str]); 3] = [
    ("tr_dpo", &["--objective", "tr_dpo", "--set", "objective.update={soft={alpha=0.5, every=3}}"]),
    ("bco", &["--objective", "bco", "--data", "labelled.jsonl", "--set", "optimizer.kind=schedule_free_adamw"]),
    ("precomputed", &["--set", "reference.kind=precomputed", "--set", "schedule.kind=cosine"]),
];

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let data = if more.contains(&"--data") { &[][..] } else { &["--data", "pairs.jsonl"] };
    let ours = ["train", "--model", "model", "--output", "run", "--batch", "4", "--lr", "1e-2", "--threads", "1"];
    let sets =
        ["data.rows=..40", "evaluation.rows=40..", "evaluation.every=2", "train.steps=8", "output.save_every=4", LORA];
    let sets = sets.iter().flat_map(|set| ["--set", *set]);
    ours.into_iter().chain(data.iter().copied()).chain(sets).chain(more.iter().copied()).collect()
}

fn bench() -> Bench {
    let bench = Bench::new();
    let rows = (0..48).map(|i| {
        let completion = if i % 2 == 0 { " yes" } else { " no no" };
        serde_json::json!({ "prompt": format!("one {}", ["red", "green"][i / 2 % 2]), "completion": completion, "label": i % 2 == 0 })
    });
    bench.lines("labelled.jsonl", rows);
    bench
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected/runs")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

fn log(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_run_of_every_version_goes_on_to_the_same_numbers() {
    let mut met = 0;
    for version in std::fs::read_dir(recorded()).expect("recorded runs").flatten() {
        for (name, more) in RUNS {
            let bench = bench();
            let old = version.path().join(name);
            copy(&old, &bench.path("run"));
            let expected = log(&old.join("metrics.jsonl"));
            assert_eq!(bench.checkpoints("run"), ["step-00000004"]);
            bench.wick(&["checkpoint", "verify", "run"]).succeeds();
            Said::of(bench.command(&[&words(more)[..], &["--resume"]].concat()).output().expect("wick")).succeeds();
            let found = log(&bench.path("run/metrics.jsonl"));
            let of_steps = |log: &[Value]| log.iter().filter(|line| line.get("loss").is_some()).count();
            assert_eq!((of_steps(&expected), of_steps(&found)), (8, 8));
            for (then, now) in expected.iter().zip(&found) {
                for (key, then) in then.as_object().expect("an object") {
                    let (then, now) = (then.as_f64().expect("a number"), now[key].as_f64().expect("a number"));
                    // The processor was another one.
                    let gap = (then - now).abs() / then.abs().max(0.1);
                    assert!(gap < 1e-3, "{name}: {key} was {then}, is {now}");
                }
            }
            met += 1;
        }
    }
    assert!(met >= RUNS.len());
}

#[test]
#[ignore = "records a version"]
fn record() {
    let (Some(wick), Some(version)) =
        (std::env::var_os("CANDLEWICK_OLD_WICK"), std::env::var_os("CANDLEWICK_OLD_VERSION"))
    else {
        return;
    };
    for (name, more) in RUNS {
        let bench = bench();
        let mut command = Command::new(&wick);
        command.args(words(more)).current_dir(bench.path("")).env("CI", "true").stdin(Stdio::null());
        Said::of(command.output().expect("the old wick")).succeeds();
        let target = recorded().join(&version).join(name);
        copy(&bench.path("run"), &target);
        // As if it had stopped after its first checkpoint.
        std::fs::remove_dir_all(target.join("final")).expect("removed");
        std::fs::remove_dir_all(target.join("checkpoints/step-00000008")).expect("removed");
        let _ = std::fs::remove_file(target.join("report.html"));
    }
}
