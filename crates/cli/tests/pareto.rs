//! `wick pareto`: sweeps that are trained, kept and resumed, and what nothing beats among their policies.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;

use common::{Bench, Said, await_path};
use serde_json::{Value, json};

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn run(bench: &Bench, line: &str) -> Said {
    let said = bench.wick(&words(line));
    said.succeeds();
    said
}

fn rows(bench: &Bench, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(bench.path(name)).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn report(bench: &Bench, directory: &str) -> Value {
    let text = std::fs::read_to_string(bench.path(directory).join("pareto.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn points(report: &Value) -> &[Value] {
    report["points"].as_array().expect("points")
}

/// The small world of safety, score models of it, and pairs to train with.
fn world() -> Bench {
    let bench = Bench::new();
    run(&bench, "data make world --world safety --rows 400 --held-out 100 --model");
    let train = "--threads 2 --batch 16 --lr 3e-3 --epochs 2";
    let first = "train --model world/model --data world/demonstrations.jsonl --objective sft --output first";
    run(&bench, &format!("{first} {train}"));
    let scored = format!("train --model first/final --data world/safety.jsonl {train} --set");
    run(&bench, &format!("{scored} model.heads=[\"reward\"] --objective bradley_terry --output reward"));
    let of_costs = "model.heads=[\"cost\"] --set data.criterion=safer --objective cost_model --output cost";
    run(&bench, &format!("{scored} {of_costs}"));
    run(&bench, "sample world/safety.jsonl answers.jsonl --rows 0..80 --model first/final -k 8 --max-new-tokens 12");
    run(&bench, "score answers.jsonl scored.jsonl --model reward/final --model cost/final");
    run(&bench, "safety pairs scored.jsonl taught.jsonl --pairs 6");
    bench
}

const SWEEP: &str = "pareto --model first/final --data taught.jsonl --objective safe_rlhf_lagrangian --set objective.beta=0.3 \
    --sweep objective.lambda=[0],[1],[8] --batch 16 --lr 1e-3 --epochs 2 --threads 2 --set output.save_every=10";
const MEASURE: &str = "--prompts world/prompts.jsonl --prompt-column prompt -k 4 --max-new-tokens 12 --reference first/final \
    --score reward=reward/final --score cost=cost/final";

#[test]
fn a_sweep_of_multipliers_makes_a_front() {
    let bench = world();
    let said = run(&bench, &format!("{SWEEP} {MEASURE} --policies first/final --output out"));
    let found = report(&bench, "out");
    let names: Vec<&str> = points(&found).iter().filter_map(|point| point["name"].as_str()).collect();
    assert_eq!(names, ["lambda=0", "lambda=1", "lambda=8", "first"]);
    let mean = |point: usize, name: &str| number(&points(&found)[point]["measures"][name]["mean"]);
    let error = |point: usize, name: &str| number(&points(&found)[point]["measures"][name]["standard_error"]);

    // What the multiplier is for, beyond chance, and what it costs.
    assert!(mean(0, "cost") > mean(1, "cost") && mean(1, "cost") > mean(2, "cost"), "{found}");
    assert!(mean(0, "cost") - mean(2, "cost") > 3.0 * (error(0, "cost") + error(2, "cost")), "{found}");
    assert!(mean(0, "reward") > mean(2, "reward"), "{found}");
    assert_eq!((mean(3, "kl"), error(3, "kl")), (0.0, 0.0), "the reference is where it is");
    assert!((0..3).all(|point| mean(point, "kl") > 0.0), "{found}");
    let aims = json!([
        { "name": "reward", "direction": "maximise", "because": "its name" },
        { "name": "cost", "direction": "minimise", "because": "its name" },
    ]);
    assert_eq!(found["objectives"], aims);

    // The front, by its definition.
    for (number, point) in points(&found).iter().enumerate() {
        let beaten = |other: usize| {
            let (reward, cost) =
                (mean(other, "reward") - mean(number, "reward"), mean(number, "cost") - mean(other, "cost"));
            reward >= 0.0 && cost >= 0.0 && reward + cost > 0.0
        };
        assert_eq!(point["on_front"], json!(!(0..4).any(beaten)), "{found}");
    }
    assert!(points(&found)[0]["on_front"] == json!(true) && points(&found)[2]["on_front"] == json!(true), "{found}");

    // Means and errors once more, from the answers that were written, and those scored by wick score.
    let answers = rows(&bench, "out/answers/lambda=1.jsonl");
    let plain = answers.iter().map(|row| json!({ "prompt": row["prompt"], "completion": row["completion"] }));
    bench.lines("plain.jsonl", plain);
    run(&bench, "score plain.jsonl again.jsonl --model reward/final --model cost/final");
    let mut by_prompt: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (one, other) in answers.iter().zip(rows(&bench, "again.jsonl")) {
        assert!((number(&one["cost"]) - number(&other["cost"])).abs() < 1e-5, "{one} {other}");
        assert!((number(&one["reward"]) - number(&other["reward"])).abs() < 1e-5, "{one} {other}");
        by_prompt.entry(one["prompt"].to_string()).or_default().push(number(&one["cost"]));
    }
    assert_eq!(Some(by_prompt.len()), found["prompts"].as_u64().map(|count| count as usize));
    let means: Vec<f64> = by_prompt.values().map(|of| of.iter().sum::<f64>() / of.len() as f64).collect();
    let count = means.len() as f64;
    let expected = means.iter().sum::<f64>() / count;
    let squares: f64 = means.iter().map(|value| (value - expected).powi(2)).sum();
    assert!((mean(1, "cost") - expected).abs() < 1e-9, "{} {expected}", mean(1, "cost"));
    assert!((error(1, "cost") - (squares / (count - 1.0) / count).sqrt()).abs() < 1e-9);

    // The page, the table, the lines.
    let page = std::fs::read_to_string(bench.path("out/report.html")).expect("a page");
    assert!(page.contains("cost against reward") && page.contains("reward against kl") && page.contains("<svg"));
    for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "<script", "not drawn"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let table = std::fs::read_to_string(bench.path("out/pareto.csv")).expect("a table");
    assert_eq!(table.lines().count(), 5);
    for word in ["lambda=8", "on it", "cost: less is better (by its name)", "hypervolume", "report.html"] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }

    // Once more: nothing is trained, and nothing changes.
    let said = run(&bench, &format!("{SWEEP} {MEASURE} --policies first/final --output out"));
    assert!(!said.err.contains("trains"), "{}", said.err);
    assert_eq!(report(&bench, "out"), found);
    // The same policies by their directories have the same numbers to the bit.
    let places: Vec<&str> = points(&found).iter().filter_map(|point| point["place"].as_str()).collect();
    run(&bench, &format!("pareto --policies {} {MEASURE} --output named --threads 1", places.join(" ")));
    let named = report(&bench, "named");
    assert_eq!(named["points"], found["points"]);
    assert_eq!(named["hypervolume"], found["hypervolume"]);

    // Killed in the middle, the sweep goes on to the same weights.
    let killed = format!("{SWEEP} {MEASURE} --policies first/final --output killed");
    let mut child = bench.spawn(&words(&killed));
    await_path(&bench.path("killed/points/lambda=1/checkpoints"), &mut child);
    child.kill().expect("killed");
    child.wait().expect("over");
    assert!(bench.path("killed/points/lambda=0/point.json").exists() && !bench.path("killed/pareto.json").exists());
    let said = run(&bench, &killed);
    assert!(!said.err.contains("trains: lambda=0") && said.err.contains("trains: lambda=1"), "{}", said.err);
    for point in ["lambda=0", "lambda=1", "lambda=8"] {
        assert_eq!(bench.weights(&format!("killed/points/{point}")), bench.weights(&format!("out/points/{point}")));
        assert!(bench.checkpoints(&format!("killed/points/{point}")).is_empty());
    }
    // Another sweep does not mix with it.
    let other = killed.replace("objective.beta=0.3", "objective.beta=0.4");
    bench.wick(&words(&other)).fails(2, &["point.json", "another sweep", "beta"]);
}

#[test]
fn adapters_and_mixtures_are_swept_too() {
    let bench = Bench::new();
    let reward =
        ["--objective", "bradley_terry", "--set", "model.heads=[\"reward\"]", "--steps", "3", "--output", "reward"];
    bench.train(&reward).succeeds();
    let mixture = "objective.parts=[{loss={type=\"dpo\"}},{loss={type=\"sft\"}}]";
    let sweep = "objective.parts.0.weight,objective.parts.1.weight=[1,0],[0.5,0.5],[0,1]";
    let line = format!(
        "pareto --model model --data pairs.jsonl --objective mix --set {mixture} --sweep {sweep} --steps 3 --lr 1e-2 --lora 2 \
         --batch 4 --threads 1 --prompts pairs.jsonl --max-new-tokens 6 --score reward=reward/final --minimise tokens"
    );
    run(&bench, &format!("{line} --output out"));
    let found = report(&bench, "out");
    let names: Vec<&str> = points(&found).iter().filter_map(|point| point["name"].as_str()).collect();
    assert_eq!(names, ["0.weight=1 1.weight=0", "0.weight=0.5 1.weight=0.5", "0.weight=0 1.weight=1"]);
    assert!(bench.path("out/points/0.weight=1_1.weight=0/final/adapter_config.json").exists());
    assert_eq!(found["objectives"][1]["name"], "tokens");
    // An adapter finds its base, as it was written or as it is named.
    let place = |number: usize| points(&found)[number]["place"].as_str().expect("a place").to_owned();
    let measure = "--prompts pairs.jsonl --max-new-tokens 6 --score reward=reward/final --minimise tokens --threads 1";
    let both = format!("pareto --policies {} {} {measure}", place(0), place(2));
    run(&bench, &format!("{both} --output named"));
    run(&bench, &format!("{both} --model model --output based"));
    for directory in ["named", "based"] {
        for (one, other) in points(&report(&bench, directory)).iter().zip([0, 2]) {
            assert_eq!(one["measures"], points(&found)[other]["measures"]);
        }
    }
}

#[test]
fn what_is_no_front_is_said() {
    let bench = Bench::new();
    for (head, output) in [("reward", "reward"), ("cost", "cost"), ("help", "help")] {
        let heads = format!("model.heads=[\"{head}\"]");
        let more = ["--objective", "bradley_terry", "--set", &heads, "--steps", "1", "--output", output];
        bench.train(&more).succeeds();
    }
    let two = "model.heads=[\"reward\",\"cost\"]";
    bench.train(&["--objective", "bradley_terry", "--set", two, "--steps", "1", "--output", "two"]).succeeds();
    let fails = |line: &str, code: i32, said: &[&str]| {
        bench.wick(&words(&format!("pareto --prompts pairs.jsonl --output out {line}"))).fails(code, said);
    };
    let scores = "--score reward=reward/final --score cost=cost/final";
    fails(scores, 2, &["nothing to compare", "--sweep", "--policies"]);
    fails("--policies model --score reward=reward/final", 2, &["one objective only (reward)"]);
    fails("--policies model", 2, &["one objective only (none)"]);
    fails(&format!("--policies model ./model {scores}"), 2, &["./model", "twice"]);
    fails(&format!("--policies reward/final {scores}"), 4, &["reward/final is a score model", "--score"]);
    fails(&format!("--policies reward {scores}"), 4, &["the directory of a run", "reward/final"]);
    fails("--policies model --score reward=model", 4, &["model is a language model", "--policies"]);
    fails("--policies model --score safe=two/final", 2, &["no head \"safe\"", "reward, cost"]);
    fails(
        "--policies model --score reward=cost/final --score help=help/final",
        2,
        &["called \"cost\"", "the other way"],
    );
    fails("--policies model --score help=help/final --minimise tokens", 2, &["--maximise help or --minimise help"]);
    fails(&format!("--policies model {scores} --score two/final"), 2, &["\"reward\" is there already"]);
    fails(&format!("--policies model {scores} --maximise cost --minimise cost"), 2, &["cost: given to --maximise and"]);
    fails(&format!("--policies model {scores} --maximise harm"), 2, &["harm", "reward, cost, tokens"]);
    fails(&format!("--policies model {scores} --minimise kl"), 2, &["--reference DIR"]);
    fails(&format!("--policies model {scores} --reference model --temperature 0.5"), 2, &["--temperature"]);
    fails(&format!("--policies model {scores} --reference cost/final"), 4, &["--reference cost/final", "score model"]);
    fails(&format!("--policies model {scores} --data pairs.jsonl"), 2, &["--data", "nothing is swept"]);
    fails(
        &format!("--policies model {scores} --reference-point harm=1"),
        2,
        &["--reference-point harm", "reward, cost"],
    );
    let sweep = format!("--model model --data pairs.jsonl {scores} --steps 1 --sweep");
    fails(&format!("{sweep} objective.beta="), 2, &["no value to try"]);
    fails(&format!("{sweep} objective.beta=0.1,0.10"), 2, &["beta=0.1", "the same run"]);
    fails(&format!("{sweep} objective.betta=0.1"), 2, &["did you mean objective.beta?"]);
    fails(&format!("{sweep} objective.type=bradley_terry"), 2, &["trains score heads"]);
    fails(&format!("{sweep} output.dir=a,b"), 2, &["output.dir"]);
    assert!(!bench.path("out/points").exists(), "nothing was trained");

    // Two heads of one model are two objectives, in one pass.
    run(
        &bench,
        "pareto --prompts pairs.jsonl --output two-heads --policies model --score two/final --max-new-tokens 4",
    );
    assert_eq!(report(&bench, "two-heads")["objectives"][1]["name"], "cost");
    // A run that diverges is a result.
    let diverges = "--model model --data pairs.jsonl --steps 4 --batch 4 --threads 1 --sweep optimizer.learning_rate=1e-3,1e30 \
        --set watch.not_finite_in_a_row=1 --max-new-tokens 4";
    let line = format!("pareto --prompts pairs.jsonl --output diverged {diverges} {scores}");
    for _ in 0..2 {
        let said = run(&bench, &line);
        assert!(said.out.contains("learning_rate=1e+30 stopped"), "{}", said.out);
    }
    let found = report(&bench, "diverged");
    assert_eq!((points(&found).len(), found["failures"].as_array().map(Vec::len)), (1, Some(1)), "{found}");
}
