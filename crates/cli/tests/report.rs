//! `wick report`, and the page that `wick train` leaves.

mod common;

use common::Bench;
use serde_json::{Value, json};

/// A world whose held-out pairs were judged by two annotators, the second of whom is wrong in half of them.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.wick(&["data", "make", "world", "--rows", "300", "--held-out", "40", "--model"]).succeeds();
    let text = std::fs::read_to_string(bench.path("world/held_out.jsonl")).expect("rows");
    let judged = text.lines().enumerate().flat_map(|(number, line)| {
        let row: Value = serde_json::from_str(line).expect("json");
        ["ann", "bob"].map(|annotator| {
            let is_swapped = annotator == "bob" && number % 2 == 0;
            let (chosen, rejected) = if is_swapped { ("rejected", "chosen") } else { ("chosen", "rejected") };
            json!({ "prompt": row["prompt"], "chosen": row[chosen], "rejected": row[rejected], "annotator": annotator })
        })
    });
    bench.lines("judged.jsonl", judged);
    bench
}

fn words<'a>(output: &'a str, objective: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let ours = [
        "train",
        "--model",
        "world/model",
        "--data",
        "world/pairs.jsonl",
        "--objective",
        objective,
        "--output",
        output,
        "--batch",
        "16",
        "--steps",
        "18",
        "--lr",
        "2e-3",
        "--set",
        "evaluation.path=judged.jsonl",
        "--set",
        "evaluation.every=6",
        "--set",
        "evaluation.at_start=true",
        "--set",
        "evaluation.slices=[\"annotator\"]",
    ];
    ours.iter().chain(more).copied().collect()
}

fn diagnostics(bench: &Bench, run: &str) -> Value {
    let said = bench.wick(&["report", run, "--json"]);
    said.succeeds();
    serde_json::from_str::<Value>(&said.out).expect("json")["diagnostics"].take()
}

#[test]
fn a_run_leaves_a_page_that_says_what_it_learned() {
    let bench = bench();
    let said = bench.wick(&words("run", "dpo", &[]));
    said.succeeds();
    assert!(said.out.contains("what it learned is drawn in run/report.html"), "{}", said.out);
    assert!(said.out.contains("of 80 held-out preferences"), "{}", said.out);

    let found = diagnostics(&bench, "run");
    assert_eq!((&found["against"], &found["items"]), (&json!("reference"), &json!(80)));
    let steps: Vec<u64> =
        found["course"].as_array().expect("a course").iter().filter_map(|m| m["step"].as_u64()).collect();
    assert_eq!(steps, [0, 6, 12, 18]);
    // Nothing differs from the reference before the first step.
    assert_eq!((&found["course"][0]["accuracy"], &found["course"][0]["margin"]), (&json!(0.5), &json!(0.0)));
    let of = |word: &str| {
        let slices = found["slices"]["annotator"].as_array().expect("slices");
        slices.iter().find(|slice| slice["word"] == word).cloned().expect("an annotator")
    };
    let last = |word: &str| of(word)["accuracy"]["estimate"].as_f64().expect("an accuracy");
    assert!(last("ann") > 0.7, "{}", of("ann"));
    // Who is wrong in half of the rows is agreed with in about half of them, and agrees with the other in just half.
    assert!((last("bob") - 0.5).abs() < 0.2, "{}", of("bob"));
    assert_eq!(of("bob")["with_others"], json!([40, 0.5]));
    for built_in in ["length", "difference", "before"] {
        assert!(found["slices"][built_in].as_array().is_some_and(|slices| slices.len() > 1), "{built_in}: {found}");
    }
    let (best, worst) = (&found["best"][0], &found["worst"][0]);
    assert!(best["margin"].as_f64() > Some(0.0) && worst["margin"].as_f64() < Some(0.0), "{best} {worst}");
    let page = std::fs::read_to_string(bench.path("run/report.html")).expect("a page");
    let shown = best["chosen"].as_str().expect("a text").trim();
    assert!(shown.len() > 5 && page.contains(&shown.replace('<', "&lt;").replace('>', "&gt;")), "{shown}");
    assert!(page.matches("<svg").count() >= 8 && page.contains("Pairs it gets wrong by most"));
    for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let said = bench.wick(&["report", "run", "--page", "elsewhere.html"]);
    said.succeeds();
    assert!(bench.path("elsewhere.html").exists() && said.out.contains("bob"), "{}", said.out);
}

#[test]
fn a_run_without_a_reference_is_compared_with_its_start() {
    let bench = bench();
    bench.wick(&words("free", "simpo", &[])).succeeds();
    let found = diagnostics(&bench, "free");
    assert_eq!((&found["against"], &found["course"][0]["accuracy"]), (&json!("start"), &json!(0.5)));
    // The same rows, scored by the model before, say the same as the reference of a run that has one.
    bench.wick(&words("held", "dpo", &[])).succeeds();
    assert_eq!(found["slices"]["before"][0]["items"], diagnostics(&bench, "held")["slices"]["before"][0]["items"]);
}

#[test]
fn a_reference_that_moves_is_not_what_is_measured_against() {
    let bench = bench();
    let copies = ["--set", "objective.update={hard={every=6}}"];
    bench.wick(&words("run", "tr_dpo", &copies)).succeeds();
    let found = diagnostics(&bench, "run");
    // The reference is the policy at every evaluation; what was learned shows beside the start.
    assert_eq!(found["against"], "start");
    assert!(found["course"][3]["margin"].as_f64() > Some(0.1), "{found}");
    let metrics = std::fs::read_to_string(bench.path("run/metrics.jsonl")).expect("metrics");
    let last = metrics.lines().rfind(|line| line.contains("eval_loss")).expect("an evaluation");
    let last: Value = serde_json::from_str(last).expect("json");
    assert!(last["eval_rewards/margins"].as_f64().is_some_and(|margin| margin.abs() < 1e-6), "{last}");
}

/// Of each slice the share of its own pairs of a desirable and an undesirable completion that are in order, from what was recorded.
#[test]
fn verdicts_of_a_slice_are_compared_with_one_another() {
    let bench = bench();
    let unpaired = [
        "--set",
        "data.unpair=true",
        "--set",
        "evaluation.path=world/held_out.jsonl",
        "--set",
        "evaluation.slices=[\"family\"]",
    ];
    let said = bench.wick(&words("run", "kto", &unpaired));
    said.succeeds();
    assert!(said.out.contains("area under the curve"), "{}", said.out);
    let found = diagnostics(&bench, "run");
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(bench.path("run/held_out").join(name)).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
    };
    let (rows, scores) = (lines("rows.jsonl"), lines("scores.jsonl"));
    let last = scores.last().expect("an evaluation");
    let value =
        |i: usize| last["log_probs"][i].as_f64().expect("a number") - last["reference"][i].as_f64().expect("a number");
    for slice in found["slices"]["family"].as_array().expect("slices") {
        let of = |desirable: bool| -> Vec<f64> {
            let is_in = |row: &Value| {
                row["labels"]["family"] == slice["word"] && row["annotation"]["labelled"]["desirable"] == desirable
            };
            rows.iter().enumerate().filter(|(_, row)| is_in(row)).map(|(i, _)| value(i)).collect()
        };
        let (better, worse) = (of(true), of(false));
        let right: f64 = better
            .iter()
            .flat_map(|a| {
                worse.iter().map(move |b| {
                    if a > b {
                        1.0
                    } else if a < b {
                        0.0
                    } else {
                        0.5
                    }
                })
            })
            .sum();
        let expected = right / (better.len() * worse.len()) as f64;
        let course = slice["course"].as_array().expect("a course");
        let ours = course.last().and_then(Value::as_f64).expect("an accuracy");
        assert!((ours - expected).abs() < 1e-9, "{slice}: {expected}");
    }
}

#[test]
fn a_run_without_held_out_rows_has_curves_only() {
    let bench = Bench::new();
    bench.train(&["--steps", "3"]).succeeds();
    let said = bench.wick(&["report", "run", "--json"]);
    said.succeeds();
    assert!(said.out.contains("\"diagnostics\":null"), "{}", said.out);
    assert!(bench.wick(&["report", "run"]).out.contains("No preferences were held out"));
    let page = std::fs::read_to_string(bench.path("run/report.html")).expect("a page");
    assert!(page.contains("Norm of the gradient") && !page.contains("Held-out preferences"));
}

#[test]
fn what_is_no_run_or_damaged_is_said() {
    let bench = Bench::new();
    bench.wick(&["report", "nowhere"]).fails(2, &["nowhere", "plan.json", "--output"]);
    bench.train(&["--steps", "3", "--set", "evaluation.held_out=0.3"]).succeeds();
    let scores = bench.path("run/held_out/scores.jsonl");
    let whole = std::fs::read_to_string(&scores).expect("scores");
    std::fs::write(&scores, whole.replacen("\"log_probs\":[", "\"log_probs\":[-1.0,", 1)).expect("written");
    bench.wick(&["report", "run"]).fails(4, &["scores.jsonl", "did the held-out rows change"]);
    std::fs::write(&scores, whole).expect("written");
    std::fs::write(bench.path("run/metrics.jsonl"), "{\"step\":1,\n{}\n").expect("written");
    bench.wick(&["report", "run"]).fails(4, &["metrics.jsonl line 1"]);
    std::fs::write(bench.path("run/plan.json"), "{}").expect("written");
    bench.wick(&["report", "run"]).fails(4, &["plan.json", "another version"]);
}
