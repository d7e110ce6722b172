//! One adapter for all trade-offs, by the commands: training, asking, measuring, writing it out.
#![cfg(unix)]

mod common;

use common::Bench;
use serde_json::{Value, json};

const OBJECTIVE: &str = r#"
[model]
path = "model"
lora = { rank = 2, alpha = 32.0, preferences = 2 }
[data]
path = "two.jsonl"
[objective]
type = "panacea"
[[objective.mix.parts]]
loss = { type = "dpo" }
[[objective.mix.parts]]
loss = { type = "ordered", by = "safer", loss = { type = "dpo" } }
[optimizer]
learning_rate = 0.005
[train]
steps = 120
threads = 1
[output]
dir = "run"
"#;

/// A trained adapter: the order of the file is opposed by `safer`.
fn bench() -> Bench {
    let bench = Bench::new();
    let row = |i: usize| {
        let (a, b) = (["one", "two", "three"][i % 3], ["red", "green"][i % 2]);
        json!({ "prompt": format!("{a} {b}"), "chosen": " yes", "rejected": " no", "safer": -1 })
    };
    bench.lines("two.jsonl", (0..24).map(row));
    bench.text("panacea.toml", OBJECTIVE);
    bench.wick(&["train", "--config", "panacea.toml"]).succeeds();
    bench
}

/// The accuracy of the order of the file, by `wick eval`.
fn accuracy(bench: &Bench, more: &[&str]) -> f64 {
    let words = ["eval", "--model", "model", "--data", "two.jsonl", "--objective", "dpo", "--json"];
    let said = bench.wick(&[&words[..], more].concat());
    said.succeeds();
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    report["rewards/accuracies"].as_f64().unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn a_preference_is_told_to_one_adapter() {
    let bench = bench();
    let adapter = ["--adapter", "run/final"];
    let at = |preference: &str| accuracy(&bench, &[&adapter[..], &["--preference", preference]].concat());
    assert!(at("1,0") > 0.95 && at("0,1") < 0.05, "{} {}", at("1,0"), at("0,1"));
    // By the objective of the run it is measured at what is asked for too.
    let words = ["eval", "--config", "panacea.toml", "--adapter", "run/final", "--preference", "0.25,0.75", "--json"];
    let said = bench.wick(&words);
    said.succeeds();
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(report["preference_2"], 0.75, "{report}");

    // An ordinary adapter, and an ordinary model, of it.
    let merged = |more: &[&str]| {
        let words = ["merge", "--adapter", "run/final", "--preference", "0,1"];
        bench.wick(&[&words[..], more].concat()).succeeds();
    };
    merged(&["--output", "lora"]);
    assert!(accuracy(&bench, &["--adapter", "lora"]) < 0.05);
    merged(&["--base", "model", "--output", "whole"]);
    let config = std::fs::read_to_string(bench.path("lora/adapter_config.json")).expect("a file");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!((&config["peft_type"], &config["r"]), (&"LORA".into(), &4.into()));

    let says = |preference: &[&str], model: &[&str]| {
        let words = ["generate", "--prompt", "one red", "--max-new-tokens", "1"];
        let said = bench.wick(&[&words[..], model, preference].concat());
        said.succeeds();
        (said.out, said.err)
    };
    let told = ["--model", "model", "--adapter", "run/final"];
    assert_eq!(says(&["--preference", "1,0"], &told).0.trim(), "yes");
    assert_eq!(says(&["--preference", "0,1"], &told).0.trim(), "no");
    assert_eq!(says(&[], &["--model", "whole"]).0.trim(), "no");
    let (_, err) = says(&[], &told);
    assert!(err.contains("asked at equal preferences (0.500, 0.500)"), "{err}");

    let log = std::fs::read_to_string(bench.path("run/metrics.jsonl")).expect("a file");
    let drawn: Vec<f64> =
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["preference_1"].as_f64()).collect();
    assert!(drawn.len() == 120 && drawn.iter().any(|x| *x < 0.3) && drawn.iter().any(|x| *x > 0.7), "{drawn:?}");
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_done() {
    let bench = bench();
    let refused = |words: &[&str], told: &str| {
        let said = bench.wick(words);
        assert!(said.code != Some(0) && said.err.contains(told), "{words:?}: {}", said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
    };
    let told = ["generate", "--prompt", "one", "--model", "model", "--adapter", "run/final", "--preference"];
    let asked = |preference: &'static str| [&told[..], &[preference]].concat();
    refused(&asked("0.5,0.6"), "expected 1");
    refused(&asked("1"), "1 numbers and the adapter 2 preferences");
    refused(&asked("0.5,x"), "--preference");
    refused(&["generate", "--prompt", "one", "--model", "model", "--preference", "0.5,0.5"], "no Panacea adapter");
    refused(&["merge", "--adapter", "run/final", "--output", "out"], "say at which preference");
    refused(&["merge", "--model", "model", "--preference", "1,0", "--output", "out"], "cannot be used with");
    let data = ["--data", "two.jsonl", "--output", "other"];
    let train = |more: &[&'static str]| [&["train", "--model", "model"][..], &data, more].concat();
    refused(&train(&["--adapter", "run/final"]), "the objective dpo weighs none");
    let config = ["train", "--config", "panacea.toml", "--output", "other", "--set"];
    let with = |assignment: &'static str| [&config[..], &[assignment]].concat();
    refused(&with("model.lora.preferences=3"), "the objective panacea has 2 parts");
    refused(&with("model.lora={ rank = 2 }"), "model.lora.preferences");
    refused(&with("model.lora.orthogonality=-1"), "orthogonality");
    refused(&with("model.lora.rank=64"), "orthogonal directions");
    refused(&with("objective.preference=[0.5, 0.6]"), "panacea.preference");
}
