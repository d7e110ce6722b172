//! What every command does when it is used well.

mod common;

use common::{Bench, Said};
use serde_json::{Value, json};

#[test]
fn help_lists_commands_and_exit_codes() {
    let bench = Bench::new();
    let said = bench.wick(&["--help"]);
    said.succeeds();
    for word in ["train", "eval", "generate", "bench", "objectives", "quickstart", "130", "full disk"] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }
}

#[test]
fn the_objectives_are_listed_and_described() {
    let bench = Bench::new();
    let list = bench.wick(&["objectives"]);
    list.succeeds();
    for name in candlewick::losses::Builtin::NAMES {
        assert!(list.out.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {}", list.out);
    }
    let one = bench.wick(&["objectives", "sigmoid"]);
    one.succeeds();
    for word in ["dpo: ", "reads pairs, a reference", "type = \"dpo\"", "beta = 0.1", "length_normalized_dpo"] {
        assert!(one.out.contains(word), "{word}: {}", one.out);
    }
    let told = |name: &str, words: &[&str]| {
        let said = bench.wick(&["objectives", name]);
        said.succeeds();
        words.iter().for_each(|word| assert!(said.out.contains(word), "{word}: {}", said.out));
    };
    told("tr_dpo", &["a reference that moves", "[objective.update.soft]"]);
    told("adpa", &["a teacher's log-probabilities and those of its reference"]);
    told(
        "WPO",
        &["wpo: ", "made of other objectives", "[objective]\ntype = \"wpo\"", "[objective.loss]\ntype = \"dpo\""],
    );
    for name in ["mix", "wpo", "humanline", "trust_region", "tchebycheff", "panacea", "ordered"] {
        assert!(list.out.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {}", list.out);
    }
    let typo = bench.wick(&["objectives", "dppo"]);
    assert!(typo.err.contains("did you mean `dpo`?"), "{}", typo.err);
}

#[test]
fn the_plan_is_printed_and_nothing_else_happens() {
    let bench = Bench::new();
    let said = bench.train(&["--lora", "4", "--set", "schedule.kind=cosine", "--print-plan"]);
    said.succeeds();
    for line in [
        "train.batch_size = 4",
        "objective.type = \"dpo\"",
        "schedule.kind = \"cosine\"",
        "reference = \"adapter_off\"",
    ] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn flags_go_before_the_file_and_assignments_before_both() {
    let bench = Bench::new();
    bench.text("run.toml", "[train]\nbatch_size = 2\nsteps = 7\n[data]\nmax_length = 50\n");
    let said = bench.train(&["--config", "run.toml", "--set", "data.max_length=60", "--print-plan"]);
    said.succeeds();
    for line in ["train.batch_size = 4", "train.length.steps = 7", "data.max_length = 60"] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }
}

#[test]
fn a_flag_takes_the_place_of_what_the_file_says_in_its_stead() {
    let bench = Bench::new();
    let plan = |file: &str, words: &[&str]| {
        bench.text("run.toml", file);
        bench.train(&[words, &["--config", "run.toml", "--print-plan"]].concat())
    };
    let says = |file: &str, words: &[&str], line: &str| {
        let said = plan(file, words);
        said.succeeds();
        assert!(said.out.contains(line), "{line}: {}", said.out);
    };
    says("train.epochs = 2", &["--steps", "3"], "train.length.steps = 3");
    says("train.steps = 2", &["--epochs", "3"], "train.length.epochs = 3");
    says("model.lora.rank = 4", &["--adapter", "a"], "model.tuning.adapter = \"a\"");
    says("model.adapter = \"a\"", &["--lora", "5"], "model.tuning.lora.rank = 5");
    // An assignment is no part of the file: what it says beside a flag is not overruled.
    plan("", &["--steps", "3", "--set", "train.epochs=2"]).fails(2, &["train.steps", "train.epochs"]);
    plan("", &["--lora", "5", "--set", "model.adapter=a"]).fails(2, &["model.lora", "model.adapter"]);
}

#[test]
fn a_plan_states_the_threads_it_would_use() {
    let bench = Bench::new();
    let said = bench.train(&["--threads", "0", "--print-plan"]);
    said.succeeds();
    assert!(!said.out.contains("train.threads = 0\n"), "{}", said.out);
}

#[test]
fn eval_measures_held_out_prompts_splits_and_what_is_named_beside_a_mixture() {
    let bench = Bench::new();
    let text = std::fs::read_to_string(bench.path("pairs.jsonl")).expect("pairs");
    let lines: Vec<&str> = text.lines().collect();
    std::fs::create_dir(bench.path("set")).expect("a directory");
    bench.text("set/train.jsonl", &lines[..30].join("\n"));
    bench.text("set/test.jsonl", &lines[30..].join("\n"));
    let run = |data: &str, evaluation: &str, words: &[&str]| -> Value {
        bench.text(
            "run.toml",
            &format!("[model]\npath = \"model\"\n{data}\n[evaluation]\n{evaluation}\n[train]\nsteps = 1\n"),
        );
        let said = bench.wick(&[&["eval", "--config", "run.toml", "--json"][..], words].concat());
        said.succeeds();
        serde_json::from_str(&said.out).expect("json")
    };
    let completions = |data: &str, evaluation: &str, words: &[&str]| {
        run(data, evaluation, words)["completions"].as_u64().expect("a number")
    };
    let set = "[data]\npath = \"set\"\nsplit = \"train\"";
    assert_eq!(completions(set, "split = \"test\"", &[]), 36);
    assert_eq!(completions(set, "split = \"test\"", &["--split", "train"]), 60);
    let pairs = "[data]\npath = \"pairs.jsonl\"\ndeduplicate = \"exact\"";
    let held_out = completions(pairs, "held_out = 0.4", &[]);
    assert!(held_out > 0 && held_out < 96, "{held_out}");
    // As the run itself measures.
    let said = bench.wick(&["train", "--config", "run.toml", "--output", "run", "--lr", "1e-30"]);
    said.succeeds();
    assert!(said.out.contains(&format!("held-out rows: 48 rows, {} kept", held_out / 2)), "{}", said.out);
    let mixture = "[[data.mixture]]\npath = \"set/train.jsonl\"\n[[data.mixture]]\npath = \"set/test.jsonl\"";
    assert_eq!(completions(mixture, "path = \"set/test.jsonl\"\nrows = \"..4\"", &["--data", "pairs.jsonl"]), 96);
    assert!(completions(mixture, "held_out = 0.4", &[]) > 0);
}

#[test]
fn standard_input_is_measured_and_not_trained_on() {
    let bench = Bench::new();
    bench.train(&["--data", "-"]).fails(2, &["data.path", "standard input", "several times"]);
    let mut command = bench.command(&["eval", "--model", "model", "--data", "-", "--json"]);
    let pairs = std::fs::File::open(bench.path("pairs.jsonl")).expect("pairs");
    let said = Said::of(command.stdin(pairs).output().expect("wick starts"));
    said.succeeds();
    let values: Value = serde_json::from_str(&said.out).expect("json");
    assert_eq!(values["completions"], 96);
}

#[test]
fn eval_measures_the_held_out_rows_of_a_configuration() {
    let bench = Bench::new();
    bench.text(
        "run.toml",
        "[model]\npath = \"model\"\nlora = { rank = 4 }\n[data]\npath = \"pairs.jsonl\"\nrows = \"..40\"\n\
         [evaluation]\nrows = \"40..\"\n[train]\nsteps = 2\n",
    );
    bench.wick(&["train", "--config", "run.toml", "--output", "run"]).succeeds();
    let eval = |words: &[&str], place: &str, completions: u64| {
        let said =
            bench.wick(&[&["eval", "--config", "run.toml", "--adapter", "run/final", "--json"][..], words].concat());
        said.succeeds();
        assert!(said.err.contains(place), "{place}: {}", said.err);
        let values: Value = serde_json::from_str(&said.out).expect("json");
        assert_eq!(values["completions"], completions, "{values}");
        values
    };
    let held_out = eval(&[], "pairs.jsonl, rows 40..", 16);
    assert_ne!(held_out["rewards/margins"], 0.0, "an adapter is compared with its base");
    eval(&["--rows", "..10"], "pairs.jsonl, rows ..10", 20);
    eval(&["--set", "data.rows=..10"], "pairs.jsonl, rows ..10", 20);
    eval(&["--data", "pairs.jsonl", "--rows", ".."], "pairs.jsonl, all rows", 96);
    // A table that was computed for training holds what the base says; it is asked again.
    let text = std::fs::read_to_string(bench.path("run.toml")).expect("a file");
    bench.text("run.toml", &format!("{text}[reference]\nkind = \"precomputed\"\npath = \"gone\"\n"));
    assert_eq!(eval(&[], "rows 40..", 16)["rewards/margins"], held_out["rewards/margins"]);
    assert_eq!(eval(&["--reference", "model"], "rows 40..", 16)["rewards/margins"], held_out["rewards/margins"]);
}

#[test]
fn eval_says_what_it_does_not_know_of_the_run() {
    let bench = Bench::new();
    let row = |i: usize| json!({ "prompt": if i < 4 { "one" } else { "two" }, "completion": " yes", "label": i.is_multiple_of(2), "desirable_prompt": 0.5 });
    bench.lines("labelled.jsonl", (0..8).map(row));
    let eval = |more: &[&str]| {
        let words = ["eval", "--model", "model", "--data", "labelled.jsonl", "--objective"];
        let said = bench.wick(&[&words[..], more].concat());
        said.succeeds();
        said.err
    };
    let err = eval(&["bco", "--set", "objective.density_ratio={}", "--set", "udm.seed=1"]);
    for word in
        ["running value", "delta", "metrics.jsonl", "[udm] belongs to training", "`desirable_prompt` as a column"]
    {
        assert!(err.contains(word), "{word}: {err}");
    }
    let err = eval(&["kto"]);
    assert!(!err.contains("warning"), "{err}");
}

#[test]
fn a_trained_model_prefers_what_it_was_taught_and_an_adapter_serves_as_well() {
    let bench = Bench::new();
    for (run, more) in [("full", &["--lr", "3e-3"][..]), ("adapter", &["--lr", "3e-2", "--lora", "4"])] {
        let said = bench.train(&[&["--output", run, "--steps", "40"][..], more].concat());
        said.succeeds();
        assert!(said.err.contains("40/40 steps"), "plain lines where there is no terminal: {}", said.err);
        assert!(bench.path(run).join("metrics.jsonl").exists() && bench.path(run).join("plan.json").exists());
    }
    let eval = |words: &[&str]| -> Value {
        let said = bench.wick(&[&["eval", "--data", "pairs.jsonl", "--json"][..], words].concat());
        said.succeeds();
        serde_json::from_str(&said.out).expect("json")
    };
    let full = eval(&["--model", "full/final", "--reference", "model"]);
    assert!(full["rewards/accuracies"].as_f64() > Some(0.95), "{full}");
    let adapter = eval(&["--model", "model", "--adapter", "adapter/final"]);
    assert!(adapter["rewards/accuracies"].as_f64() > Some(0.95), "{adapter}");
    let same = eval(&["--model", "model", "--rows", "..10"]);
    assert_eq!(same["rewards/margins"], 0.0);
    assert_eq!(same["completions"], 20);
}

#[test]
fn generation_is_greedy_or_seeded() {
    let bench = Bench::new();
    let generate = |more: &[&str]| {
        let said = bench.wick(
            &[&["generate", "--model", "model", "--prompt", "one two", "--max-new-tokens", "8"][..], more].concat(),
        );
        said.succeeds();
        said.out
    };
    assert_eq!(generate(&[]), generate(&["--seed", "5"]), "greedy knows no seed");
    let draw = |seed: &str| generate(&["--temperature", "1.5", "--top-k", "10", "--top-p", "0.99", "--seed", seed]);
    assert_eq!(draw("1"), draw("1"));
    assert!((2..12).any(|seed| draw(&seed.to_string()) != draw("1")));
}

#[test]
fn a_timed_step_speaks_the_peers_language() {
    let bench = Bench::new();
    let step = |more: &[&str]| -> Value {
        let words = ["bench", "step", "--model", "model", "--batch", "4", "--steps", "3", "--warmup", "1", "--json"];
        let data = if more.contains(&"--data") { &[][..] } else { &["--data", "pairs.jsonl"] };
        let said = bench.wick(&[&words[..], data, more].concat());
        said.succeeds();
        serde_json::from_str(&said.out).expect("one json line")
    };
    let full = step(&[]);
    for key in ["peer", "device", "batch", "lora", "precompute", "step_s", "pairs_per_s", "tokens_per_s", "losses"] {
        assert!(!full[key].is_null(), "{key}: {full}");
    }
    let losses = |line: &Value| -> Vec<f64> {
        line["losses"].as_array().expect("list").iter().map(|l| l.as_f64().expect("number")).collect()
    };
    assert_eq!(losses(&full).len(), 4);
    assert!((losses(&full)[0] - std::f64::consts::LN_2).abs() < 1e-6);
    let before = step(&["--precompute"]);
    for (a, b) in losses(&full).iter().zip(losses(&before)) {
        assert!((a - b).abs() < 1e-6, "a reference computed before gives the same losses");
    }
    // What the reference says of the chosen completions stands before what it says of the rejected ones.
    let sums = |line: &Value| -> Vec<f64> {
        line["first_reference_sums"].as_array().expect("list").iter().map(|x| x.as_f64().expect("number")).collect()
    };
    let text = std::fs::read_to_string(bench.path("pairs.jsonl")).expect("pairs");
    let swapped = |line: &str| {
        let mut row: Value = serde_json::from_str(line).expect("a row");
        let chosen = row["chosen"].take();
        row["chosen"] = std::mem::replace(&mut row["rejected"], chosen);
        row
    };
    bench.lines("swapped.jsonl", text.lines().map(swapped));
    let (said, other) = (sums(&full), sums(&step(&["--data", "swapped.jsonl"])));
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert_eq!((said.len(), other.len()), (8, 8));
    assert!(apart(&said[..4], &other[4..]) < 1e-4 && apart(&said[4..], &other[..4]) < 1e-4, "{said:?}, {other:?}");
    assert!(said.iter().all(|sum| *sum < 0.0) && apart(&said[..4], &said[4..]) > 1e-2, "{said:?}");
    assert!(apart(&said, &sums(&before)) < 1e-4, "{said:?}");
    let fresh = step(&["--lora", "4", "--adapter", "start"]);
    assert!(bench.path("start/adapter_model.safetensors").exists());
    assert_eq!(losses(&fresh), losses(&step(&["--lora", "4", "--adapter", "start"])), "the written start is the start");
}

#[test]
fn a_timed_step_of_verdicts_meets_mismatched_completions() {
    let bench = Bench::new();
    let words = ["one", "two", "three", "four", "five", "six"];
    let row = |i: usize| json!({ "prompt": format!("{} red", words[i % 6]), "response": " blue yes", "label": i.is_multiple_of(3) });
    bench.lines("verdicts.jsonl", (0..12).map(row));
    let step = |more: &[&str]| {
        let words =
            ["bench", "step", "--model", "model", "--data", "verdicts.jsonl", "--objective", "kto", "--warmup", "0"];
        bench.wick(&[&words[..], &["--steps", "3", "--json"], more].concat())
    };
    let losses = |more: &[&str]| -> Vec<f64> {
        let said = step(more);
        said.succeeds();
        let line: Value = serde_json::from_str(&said.out).expect("one json line");
        assert_eq!(line["tokens"], 3 * 6 * 5, "prompts of two, completions of two and their end");
        line["losses"].as_array().expect("list").iter().map(|loss| loss.as_f64().expect("number")).collect()
    };
    let kept = losses(&["--batch", "6"]);
    assert!((kept[0] - 0.5).abs() < 1e-6 && (kept[2] - 0.5).abs() > 1e-7, "{kept:?}");
    for more in [["--batch", "6", "--recompute", "layers"], ["--batch", "6", "--precompute", "--threads=1"]] {
        for (a, b) in kept.iter().zip(losses(&more)) {
            assert!((a - b).abs() < 1e-6, "{more:?}");
        }
    }
    step(&["--batch", "1"]).fails(2, &["kto", "--batch of at least 2"]);
    bench
        .wick(&["bench", "step", "--model", "model", "--data", "verdicts.jsonl"])
        .fails(3, &["verdicts.jsonl:1", "chosen"]);
}
