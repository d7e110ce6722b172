//! Runs that are killed at random moments, again and again: every one ends in the bits of a run that was not.
//!
//! `CANDLEWICK_KILLS` says how often each of the runs is killed; by default as often as makes more than fifty in all.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Bench, Said};
use serde_json::json;

/// What is trained and how: a name, and words of the command line.
const RUNS: [(&str, &[&str]); 9] = [
    ("dpo, frozen reference", &[]),
    ("dpo, adapter off, in the background", &["--set", "model.lora={rank = 2}", "--set", "output.background=true"]),
    ("dpo, precomputed", &["--set", "reference.kind=precomputed", "--set", "train.order=file"]),
    ("tr_dpo, all weights", &["--objective", "tr_dpo", "--set", "output.background=true", "--set", "output.keep=3"]),
    (
        "tr_dpo, adapter",
        &["--objective", "tr_dpo", "--set", "model.lora={rank = 2}", "--set", "objective.update={hard={every=4}}"],
    ),
    (
        "kto, steps with both verdicts",
        &["--objective", "kto", "--data", "labelled.jsonl", "--set", "optimizer.kind=adamw_8bit"],
    ),
    ("bco, a running shift", &["--objective", "bco", "--data", "labelled.jsonl", "--set", "optimizer.kind=lion"]),
    (
        "ipo, the best of its evaluations",
        &[
            "--objective",
            "ipo",
            "--set",
            "output.result=best",
            "--set",
            "optimizer.kind=schedule_free_adamw",
            "--set",
            "watch.metric=rewards/accuracies",
        ],
    ),
    (
        "a multiplier that follows costs",
        &[
            "--objective",
            "safe_rlhf_lagrangian",
            "--data",
            "gaps.jsonl",
            "--set",
            "objective.dual=[{ window = { last = { costs = 30 } } }]",
            "--set",
            "safety.prompts=asked.jsonl",
            "--set",
            "safety.prompt_column=prompt",
            "--set",
            "safety.costs=[\"cost\"]",
            "--set",
            "safety.every=2",
            "--set",
            "safety.prompts_per_round=3",
            "--set",
            "safety.max_new_tokens=4",
        ],
    ),
];

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a run takes says when to kill it")]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_bits() {
    let bench = Bench::new();
    let rows = (0..48).map(|i| {
        let (color, other) = (["red", "green", "blue"][i % 3], ["one", "two"][i % 2]);
        json!({ "prompt": format!("{other} {color}"), "completion": if i % 4 == 0 { " yes" } else { " no no" }, "label": i % 4 == 0 })
    });
    bench.lines("labelled.jsonl", rows);
    bench.gaps("gaps.jsonl");
    bench.cost_model("cost", &["cost"]);
    let mut random = Random(7);
    let (mut kills, mut halves) = (0, 0);
    for (number, (name, more)) in RUNS.into_iter().enumerate() {
        let whole = format!("whole-{number}");
        let began = Instant::now();
        Said::of(bench.command(&words(&whole, more)).output().expect("wick starts")).succeeds();
        let took = began.elapsed();
        let (mut attempt, mut here) = (0, 0);
        while here < kills_each() {
            attempt += 1;
            let output = format!("killed-{number}-{attempt}");
            while here < kills_each() {
                let was_half_written = is_half_written(&bench.path(&output));
                let mut child = bench.spawn(&resuming(&bench, &output, more));
                // Every other one in the middle of a checkpoint, a fresh one.
                let mut is_stale = was_half_written;
                let ended = match here % 2 {
                    0 => ends_within(&mut child, took.mul_f64(random.fraction())),
                    _ => is_over_before(&mut child, || {
                        let is_half = is_half_written(&bench.path(&output));
                        is_stale &= is_half;
                        is_half && !is_stale
                    }),
                };
                if ended {
                    assert!(child.wait().expect("a child").success(), "{name}: it failed by itself");
                    break;
                }
                child.kill().expect("SIGKILL");
                child.wait().expect("a child");
                here += 1;
                halves += usize::from(is_half_written(&bench.path(&output)));
            }
            Said::of(bench.command(&resuming(&bench, &output, more)).output().expect("wick starts")).succeeds();
            assert_same(&bench.path(&whole), &bench.path(&output), name);
        }
        kills += here;
    }
    assert!(halves > 0, "no kill met a checkpoint half written");
    println!("{}", json!({ "runs": RUNS.len(), "kills": kills, "in_checkpoints": halves }));
}

fn words<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let data = if more.contains(&"--data") { &[][..] } else { &["--data", "pairs.jsonl"] };
    let ours = ["train", "--model", "model", "--output", output, "--batch", "4", "--lr", "1e-3", "--threads", "1"];
    let sets =
        ["data.rows=..36", "evaluation.rows=36..", "evaluation.every=3", "train.epochs=4", "output.save_every=1"];
    let sets = sets.iter().flat_map(|set| ["--set", *set]);
    ours.into_iter().chain(data.iter().copied()).chain(sets).chain(more.iter().copied()).collect()
}

/// The same, going on where something was saved.
fn resuming<'a>(bench: &Bench, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = words(output, more);
    if !bench.checkpoints(output).is_empty() {
        words.push("--resume");
    }
    words
}

/// Whether what a run leaves is the same: results, logs, and all of the last checkpoint.
fn assert_same(whole: &Path, killed: &Path, name: &str) {
    let last = last_checkpoint(whole);
    let directories = ["final", "held_out", last.as_str()].map(|directory| (directory, files(&whole.join(directory))));
    let logs = ["metrics.jsonl"].map(PathBuf::from);
    let listed = directories.iter().flat_map(|(at, names)| names.iter().map(move |name| Path::new(at).join(name)));
    for file in logs.into_iter().chain(listed) {
        // Its plan names the directory.
        if file.ends_with("state.json") {
            continue;
        }
        let read =
            |run: &Path| std::fs::read(run.join(&file)).unwrap_or_else(|e| panic!("{name}: {}: {e}", file.display()));
        assert!(read(whole) == read(killed), "{name}: {} differs", file.display());
    }
    let state = |run: &Path| {
        let text = std::fs::read_to_string(run.join(&last).join("state.json")).expect("a state");
        let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let state = state["state"].take();
        (state["step"].clone(), state["objective"].clone(), state["bookmark"]["place"].clone())
    };
    assert_eq!(state(whole), state(killed), "{name}");
}

fn last_checkpoint(run: &Path) -> String {
    let names = files(&run.join("checkpoints"));
    let last = names.iter().filter(|name| name.starts_with("step-")).max().expect("a checkpoint");
    format!("checkpoints/{last}")
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a checkpoint is being written, or was when the run was killed.
fn is_half_written(run: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".step-"))
}

/// Waits so long; whether the child ended by itself before.
#[expect(clippy::disallowed_methods, reason = "a test of a process waits for it")]
fn ends_within(child: &mut Child, time: Duration) -> bool {
    let began = Instant::now();
    is_over_before(child, || {
        std::thread::sleep(Duration::from_micros(200));
        began.elapsed() >= time
    })
}

/// Waits for something; whether the child ended before it came.
fn is_over_before(child: &mut Child, mut came: impl FnMut() -> bool) -> bool {
    loop {
        if child.try_wait().expect("a child").is_some() {
            return true;
        }
        if came() {
            return false;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a test takes is for its caller to say")]
fn kills_each() -> usize {
    std::env::var("CANDLEWICK_KILLS").map_or(7, |kills| kills.parse().expect("CANDLEWICK_KILLS is a number"))
}

/// Numbers that look random (xorshift).
struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}
