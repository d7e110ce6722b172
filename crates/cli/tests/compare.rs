//! `wick compare` and `wick data make`, on the small model that ships.

mod common;

use common::{Bench, await_path};
use serde_json::{Value, json};

/// A comparison of objectives that read rows of four kinds, two of them with settings to choose from.
const MATRIX: &str = r#"
[model]
path = "world/model"

[data]
path = "world/pairs.jsonl"
max_length = 128

[evaluation]
path = "world/held_out.jsonl"
batch_size = 30
slices = ["family"]

[optimizer]
learning_rate = 1e-3

[train]
batch_size = 8
steps = 12

[output]
save_every = 4

[compare]
objectives = ["dpo", "simpo"]
seeds = 2
tuning_seeds = 1
every = 4
accuracy = 0.5
drift_prompts = 6
drift_tokens = 20

[compare.grid]
objective.beta = [0.05, 2.0]

[[compare.arms]]
objective = { type = "kto", beta = 0.2 }
set = { data.path = "world/labelled.jsonl" }

[[compare.arms]]
name = "imitation"
objective = "sft"
set = { "data.path" = "world/demonstrations.jsonl" }
grid = { optimizer.learning_rate = [1e-3] }
"#;

fn world() -> Bench {
    let bench = Bench::new();
    bench.wick(&["data", "make", "world", "--rows", "300", "--held-out", "60", "--model"]).succeeds();
    bench.text("matrix.toml", MATRIX);
    bench
}

/// What came out, without what the clock said.
fn results(bench: &Bench, directory: &str) -> Value {
    let text = std::fs::read_to_string(bench.path(directory).join("results.json")).expect("results");
    let mut results: Value = serde_json::from_str(&text).expect("json");
    for arm in results["arms"].as_array_mut().expect("arms") {
        assert!(arm["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{arm}");
        arm["seconds"] = Value::Null;
    }
    results
}

#[test]
fn objectives_of_all_kinds_are_compared() {
    let bench = world();
    let said = bench.wick(&["compare", "--config", "matrix.toml", "--output", "out", "--parallel", "2"]);
    said.succeeds();
    let found = results(&bench, "out");
    let arms = found["arms"].as_array().expect("arms");
    let names: Vec<&str> = arms.iter().filter_map(|arm| arm["name"].as_str()).collect();
    assert_eq!(names, ["dpo", "simpo", "kto", "imitation"]);
    for arm in arms {
        assert_eq!((&arm["seeds"], &arm["failures"]), (&json!(2), &json!(0)), "{arm}");
        let accuracy = &arm["accuracy"];
        let [low, estimate, high] = ["low", "estimate", "high"].map(|end| accuracy[end].as_f64().expect("a number"));
        assert!(0.0 <= low && low <= estimate && estimate <= high && high <= 1.0, "{arm}");
        assert!(arm["drift"]["estimate"].as_f64().is_some_and(|kl| kl > 0.0), "{arm}");
        let steps: Vec<u64> =
            arm["curve"].as_array().expect("points").iter().filter_map(|p| p["step"].as_u64()).collect();
        assert_eq!(steps, [0, 4, 8, 12]);
        assert_eq!(arm["curve"][0]["accuracy"], json!(0.5), "before the first step nothing is preferred");
    }
    assert_eq!(arms[0]["tried"].as_array().map(Vec::len), Some(2));
    assert!(["beta=0.05", "beta=2.0"].contains(&arms[0]["settings"].as_str().expect("text")), "{}", arms[0]);
    assert_eq!(arms[2]["tried"].as_array().map(Vec::len), Some(1), "kto gives its own beta");
    assert_eq!(arms[3]["settings"], json!("learning_rate=0.001"));
    assert!(arms[0]["difference"].is_null() && arms[1]["difference"]["test"]["pairs"] == json!(2));
    let (items, tuning) =
        (found["items"].as_u64().expect("a number"), found["tuning_items"].as_u64().expect("a number"));
    assert!(items + tuning == 60 && items > 15 && tuning > 15, "{items} {tuning}");

    // The slices of the rows that are reported on are all of them, so that their mean is the accuracy.
    let families = arms[0]["slices"]["family"].as_object().expect("slices");
    assert!(families.len() > 1, "{families:?}");
    let shares: Vec<f64> = families.values().filter_map(|slice| slice["accuracy"]["estimate"].as_f64()).collect();
    let (low, high) = shares.iter().fold((1.0f64, 0.0f64), |(low, high), share| (low.min(*share), high.max(*share)));
    let whole = arms[0]["accuracy"]["estimate"].as_f64().expect("an accuracy");
    assert!(low <= whole && whole <= high, "{whole} beside {shares:?}");
    let page = std::fs::read_to_string(bench.path("out/report.html")).expect("a page");
    assert!(page.contains("Accuracy by family"));
    for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("imitation") && page.contains("<svg") && !page.contains("not drawn"));
    let table = std::fs::read_to_string(bench.path("out/results.csv")).expect("a table");
    assert_eq!(table.lines().count(), 5);
    let cells = table.lines().next().map_or(0, |line| line.split(',').count());
    assert!(table.lines().all(|line| line.split(',').count() == cells), "{table}");
    assert!(said.out.contains("imitation") && said.out.contains("report.html"), "{}", said.out);

    // Nothing is left of the runs but what they measured, and a second call has nothing to do.
    let leftovers = std::fs::read_dir(bench.path("out/cells")).expect("cells").flatten();
    assert!(
        leftovers
            .into_iter()
            .all(|cell| !cell.path().join("final").exists() && !cell.path().join("checkpoints").exists())
    );
    let again = bench.wick(&["compare", "--config", "matrix.toml", "--output", "out"]);
    again.succeeds();
    assert_eq!((again.out.as_str(), again.err.contains("runs,")), (said.out.as_str(), false), "{}", again.err);
    // The same, one run at a time and on other threads.
    bench
        .wick(&["compare", "--config", "matrix.toml", "--output", "one", "--parallel", "1", "--threads", "2"])
        .succeeds();
    assert_eq!(results(&bench, "one"), found);
}

#[cfg(unix)]
#[test]
fn a_killed_comparison_goes_on_to_the_same_numbers() {
    let bench = world();
    let words = |output: &'static str| {
        [
            "compare",
            "--config",
            "matrix.toml",
            "--output",
            output,
            "--parallel",
            "1",
            "--steps",
            "40",
            "--objectives",
            "dpo,ipo",
        ]
    };
    bench.wick(&words("whole")).succeeds();
    // Killed while a run has a checkpoint, twice.
    for cell in ["dpo_beta=0.05__seed_0", "ipo_beta=2.0__seed_0"] {
        let mut child = bench.spawn(&words("parts"));
        await_path(&bench.path("parts/cells").join(cell).join("checkpoints"), &mut child);
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(!bench.path("parts/results.json").exists());
    }
    bench.wick(&words("parts")).succeeds();
    assert_eq!(results(&bench, "parts"), results(&bench, "whole"));
}

#[test]
fn words_that_do_not_go_together_are_refused_before_the_first_run() {
    let bench = world();
    let refused = |more: &[&str], code: i32, expected: &[&str]| {
        let words: Vec<&str> =
            ["compare", "--config", "matrix.toml", "--output", "out"].iter().chain(more).copied().collect();
        bench.wick(&words).fails(code, expected);
        assert!(!bench.path("out/cells").exists());
    };
    refused(&["--set", "compare.sedes=3"], 2, &["compare.sedes", "did you mean compare.seeds?"]);
    refused(&["--set", "compare.seeds=[1, 1]"], 2, &["compare.seeds", "each once"]);
    refused(&["--set", "compare.baseline=\"orpo\""], 2, &["compare.baseline", "orpo", "imitation"]);
    refused(&["--set", "compare.grid.objective.betta=[1.0]"], 2, &["compare.grid.objective.betta", "no arm"]);
    refused(&["--set", "compare.grid.output.dir=[\"a\"]"], 2, &["compare.grid.output.dir", "the same for all arms"]);
    refused(&["--set", "compare.tuning_seeds=3"], 2, &["compare.tuning_seeds", "1 to 2"]);
    refused(&["--set", "evaluation.rows=..1"], 2, &["evaluation", "1 held-out preferences", "hold out more rows"]);
    refused(&["--set", "evaluation.slices=[\"kindd\"]"], 2, &["evaluation.slices", "kindd"]);
    refused(&["--report"], 2, &["--report", "nothing was compared in out"]);
    refused(&["--objectives", "dpo,hinje"], 2, &["compare.objectives[1]", "hinge"]);
    for key in ["output.dir=\"a\"", "train.seed=3", "evaluation.every=5", "evaluation.at_start=true"] {
        let name = key.split('=').next().unwrap_or(key);
        refused(&["--set", key], 2, &[name, "given beside [compare]"]);
    }
    refused(&["--objective", "dpo"], 2, &["--objective", "compare"]);
    refused(&["--set", "evaluation.path=world/pairs.jsonl"], 2, &["evaluation.rows", "overlaps"]);
    bench.text("no.toml", "[model]\npath = \"world/model\"\n");
    bench.wick(&["compare", "--config", "no.toml", "--output", "out"]).fails(2, &["compare", "missing"]);
}

#[test]
fn a_comparison_starts_from_a_trained_adapter() {
    let bench = world();
    let train = ["train", "--model", "world/model", "--data", "world/pairs.jsonl", "--lora", "4", "--lr", "3e-3"];
    bench.wick(&[&train[..], &["--batch", "8", "--steps", "20", "--output", "first"]].concat()).succeeds();
    let compare = |output: &'static str, more: &[&'static str]| {
        let words =
            ["compare", "--config", "matrix.toml", "--objectives", "dpo,simpo", "--seeds", "1", "--output", output];
        bench.wick(&[&words[..], more].concat()).succeeds();
        results(&bench, output)
    };
    let (from_adapter, from_model) = (compare("adapted", &["--adapter", "first/final"]), compare("plain", &[]));
    // Log-ratios are to the model with its adapter, whose own log-probabilities are others.
    assert_ne!(from_adapter["answers_at_start"], from_model["answers_at_start"]);
    for arm in from_adapter["arms"].as_array().expect("arms") {
        let first = &arm["curve"][0];
        assert_eq!(
            (&first["step"], &first["margin"], &first["accuracy"]),
            (&json!(0), &json!(0.0), &json!(0.5)),
            "{arm}"
        );
    }
}

#[test]
fn another_comparison_is_told_from_this_one() {
    let bench = world();
    let words = ["compare", "--config", "matrix.toml", "--output", "out", "--objectives", "dpo", "--seeds", "1"];
    let with = |more: &[&'static str]| bench.wick(&words.iter().chain(more).copied().collect::<Vec<_>>());
    with(&[]).succeeds();
    with(&["--steps", "13"]).fails(2, &["cell.json", "another comparison", "remove"]);
    std::fs::write(bench.path("out/cells/dpo_beta=2.0__seed_0/cell.json"), b"{").expect("written");
    with(&[]).fails(2, &["cell.json", "damaged", "remove"]);
}

#[test]
fn a_world_is_decided_by_its_seed_and_refuses_nonsense() {
    let bench = Bench::new();
    let make = |directory: &str, more: &[&str]| {
        let words: Vec<&str> =
            ["data", "make", directory, "--rows", "50", "--held-out", "20"].iter().chain(more).copied().collect();
        bench.wick(&words)
    };
    make("one", &["--seed", "5", "--noise", "0.3"]).succeeds();
    make("two", &["--seed", "5", "--noise", "0.3"]).succeeds();
    make("other", &["--seed", "6"]).succeeds();
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).expect("a file");
    for kind in ["pairs", "edits", "labelled", "ranked", "judged", "demonstrations", "held_out"] {
        assert_eq!(read(&format!("one/{kind}.jsonl")), read(&format!("two/{kind}.jsonl")), "{kind}");
        assert_ne!(read(&format!("one/{kind}.jsonl")), read(&format!("other/{kind}.jsonl")), "{kind}");
        let inspected = bench.wick(&["data", "stats", &format!("one/{kind}.jsonl"), "--json"]);
        inspected.succeeds();
        let stats: Value = serde_json::from_str(&inspected.out).expect("json");
        assert_eq!(stats["rows"]["dropped"], json!(0), "{kind}");
    }
    assert!(
        read("one/pairs.jsonl").contains("\"flipped\":true") && !read("other/pairs.jsonl").contains("\"flipped\":true")
    );
    // A teacher speaks of the same pairs, of a few tokens at every place of their completions.
    make("taught", &["--teacher", "nowhere"]).fails(4, &["nowhere"]);
    make("taught", &["--seed", "5", "--noise", "0.3", "--teacher", "taught/model"]).succeeds();
    let first =
        |name: &str| -> Value { serde_json::from_str(read(name).lines().next().expect("a row")).expect("json") };
    let (taught, plain) = (first("taught/taught.jsonl"), first("one/pairs.jsonl"));
    assert_eq!((&taught["chosen"], &taught["flipped"]), (&plain["chosen"], &plain["flipped"]));
    let place = &taught["teacher"]["rejected"][0];
    assert_eq!((place["ids"].as_array().map(Vec::len), &place["log_probs"]), (Some(8), &place["reference_log_probs"]));
    make("three", &["--noise", "1.5"]).fails(2, &["--noise", "between 0 and 1"]);
}

/// A run on pairs of which a quarter are planted the wrong way round.
const PLANTED: &str = r#"
[model]
path = "world/model"
lora = { rank = 8, alpha = 16.0 }

[data]
path = "world/pairs.jsonl"
max_length = 128

[evaluation]
path = "world/held_out.jsonl"
slices = ["family"]

[objective]
type = "dpo"

[optimizer]
learning_rate = 3e-3

[train]
batch_size = 16
steps = 15

[output]
dir = "run"
"#;

#[test]
fn planted_wrong_labels_are_found_and_slices_are_told_apart() {
    let bench = Bench::new();
    let made =
        ["data", "make", "world", "--rows", "240", "--held-out", "80", "--noise", "0.25", "--seed", "3", "--model"];
    bench.wick(&made).succeeds();
    bench.text("run.toml", PLANTED);
    bench.wick(&["why", "--config", "run.toml", "--mislabelled"]).fails(4, &["run/final", "--output"]);
    bench.wick(&["train", "--config", "run.toml"]).succeeds();
    let rows = std::fs::read_to_string(bench.path("world/pairs.jsonl")).expect("rows");
    let flipped: Vec<bool> = rows.lines().map(|row| row.contains("\"flipped\":true")).collect();
    let wrong = flipped.iter().filter(|flipped| **flipped).count();
    let shown = wrong.to_string();
    let said = bench.wick(&["why", "--config", "run.toml", "--mislabelled", "--top", &shown, "--json"]);
    said.succeeds();
    let line_of = |line: &str| -> usize {
        let row: Value = serde_json::from_str(line).expect("json");
        let place = row["place"].as_str().expect("a place");
        place.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).expect("a line")
    };
    let hits = said.out.lines().filter(|line| flipped[line_of(line) - 1]).count();
    assert_eq!(said.out.lines().count(), wrong);
    // As many as are wrong are shown: by chance a quarter of them would be.
    let (recall, chance) = (hits as f64 / wrong as f64, wrong as f64 / flipped.len() as f64);
    assert!(recall > 1.6 * chance, "{recall} where chance gives {chance}");

    let prompt = "the old cup is in the barn and the red hat is in the hall . where is the red hat ?";
    let said = bench.wick(&[
        "why",
        "--config",
        "run.toml",
        "--prompt",
        prompt,
        "--answer",
        " the red hat is in the hall .",
        "--top",
        "3",
        "--json",
    ]);
    said.succeeds();
    let cosines: Vec<f64> =
        said.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["cosine"].as_f64()).collect();
    assert!(cosines.len() == 3 && cosines[0] >= cosines[1] && cosines[2] > 0.0, "{cosines:?}");
    bench.wick(&["why", "--config", "run.toml"]).fails(2, &["--prompt", "--mislabelled"]);

    let said = bench.wick(&["eval", "--config", "run.toml", "--adapter", "run/final", "--json"]);
    said.succeeds();
    let found: Value = serde_json::from_str(&said.out).expect("json");
    let preferences = &found["preferences"];
    assert_eq!(preferences["all"]["accuracy"]["estimate"], found["rewards/accuracies"]);
    let families = preferences["slices"]["family"].as_object().expect("slices");
    let items: u64 = families.values().filter_map(|slice| slice["items"].as_u64()).sum();
    assert_eq!((families.len(), items), (5, 80));
    assert!(preferences["all"]["calibration"]["brier"].as_f64().is_some_and(|brier| brier < 0.3), "{preferences}");
    let said = bench.wick(&["eval", "--config", "run.toml", "--adapter", "run/final", "--slices", "colour"]);
    said.fails(3, &["--slices", "colour"]);
}
