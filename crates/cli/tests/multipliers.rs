//! Multipliers that move in a run: they follow what fresh answers of the policy cost, and a resumed run has the same bits.
#![cfg(unix)]

mod common;

use common::{Bench, Said};
use serde_json::Value;

const DUAL: &str = "{ limit = LIMIT, ascent = { linear = { rate = 2.0 } } }";

fn run(bench: &Bench, words: &[&str]) -> Said {
    let said = bench.wick(words);
    said.succeeds();
    said
}

/// The lines of a run's log that are steps.
fn steps(bench: &Bench, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line.get("loss").is_some()).collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

/// Pairs with gaps, prompts, and a score model of costs with a tokenizer of its own.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.gaps("gaps.jsonl");
    bench.cost_model("cost", &["cost"]);
    bench
}

/// `wick train` with multipliers that move, and more words.
fn train<'a>(output: &'a str, dual: &'a str, more: &[&'a str]) -> Vec<String> {
    let words = [
        "train",
        "--model",
        "model",
        "--data",
        "gaps.jsonl",
        "--output",
        output,
        "--batch",
        "4",
        "--lr",
        "1e-2",
        "--threads",
        "2",
        "--objective",
        "safe_rlhf_lagrangian",
        "--set",
        "safety.prompts=asked.jsonl",
        "--set",
        "safety.prompt_column=prompt",
        "--set",
        "safety.costs=[\"cost\"]",
        "--set",
        "safety.every=2",
        "--set",
        "safety.prompts_per_round=5",
        "--set",
        "safety.max_new_tokens=6",
    ];
    let dual = format!("objective.dual=[{dual}]");
    words.into_iter().chain(["--set", &dual]).chain(more.iter().copied()).map(str::to_owned).collect()
}

fn limited(limit: f64) -> String {
    DUAL.replace("LIMIT", &format!("{limit:?}"))
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

#[test]
fn a_multiplier_rises_while_its_limit_is_violated_and_falls_to_0_under_slack() {
    let bench = bench();
    let said = run(&bench, &words(&train("hard", &limited(-1.0), &["--steps", "6"])));
    assert!(said.err.contains("costs of 20 answers of the policy before the first step"), "{}", said.err);
    assert!(
        said.err.contains("objective.dual[0]: mean ") && said.err.contains("settle at rates below"),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("the limit of objective.dual[0] is -1, and the best of the first answers"),
        "{}",
        said.err
    );
    let hard = steps(&bench, "hard");
    let mut expected = 1.0;
    for (place, line) in hard.iter().enumerate() {
        // A round comes before the steps 1, 3 and 5; in between the multiplier stands and the last costs are told.
        let (cost, violation) = (number(line, "expected_cost"), number(line, "violation"));
        assert!((violation - (cost + 1.0)).abs() < 1e-12 && violation > 0.0, "{line}");
        assert!((0.0..=1.0).contains(&number(line, "p_unsafe")), "{line}");
        if place % 2 == 0 {
            expected += 2.0 * violation;
        } else {
            assert_eq!(cost.to_bits(), number(&hard[place - 1], "expected_cost").to_bits(), "{line}");
        }
        assert!((number(line, "lambda") - expected).abs() < 1e-9, "{line} {expected}");
    }
    assert_ne!(hard[0]["expected_cost"], hard[2]["expected_cost"], "the second round is another one");

    run(&bench, &words(&train("easy", &limited(3.0), &["--steps", "3"])));
    let easy = steps(&bench, "easy");
    assert!(easy.iter().all(|line| number(line, "lambda") == 0.0 && number(line, "violation") < -2.0), "{easy:?}");
    // What the multiplier is decides what is learned.
    assert_ne!(hard[2]["loss"], easy[2]["loss"]);
}

#[test]
fn the_costs_are_those_of_the_policy_as_it_is_then() {
    let bench = bench();
    // Greedy answers to all prompts leave nothing to chance, and other commands can give them.
    let greedy =
        ["--set", "safety.temperature=0", "--set", "safety.completions=1", "--set", "safety.prompts_per_round=9"];
    let saved = ["--steps", "3", "--set", "output.save_every=2", "--set", "output.keep=0"];
    let lora = ["--set", "model.lora={ rank = 2 }"];
    let asked =
        "sample asked.jsonl out.jsonl --force --prompt-column prompt --temperature 0 --max-new-tokens 6 --model";
    let mean_cost = |model: &[&str]| {
        let words: Vec<&str> = asked.split(' ').chain(model.iter().copied()).collect();
        run(&bench, &words);
        let said = run(&bench, &["score", "out.jsonl", "--model", "cost", "--json"]);
        let figures: Value = serde_json::from_str(&said.out).expect("JSON");
        number(&figures[0], "mean")
    };
    for (output, more) in [("full", &[][..]), ("lora", &lora)] {
        run(&bench, &words(&train(output, &limited(-1.0), &[&greedy[..], &saved, more].concat())));
        let steps = steps(&bench, output);
        let [first, second] = [0, 2].map(|place| number(&steps[place], "expected_cost"));
        assert!((first - mean_cost(&["model"])).abs() < 1e-6, "{output}: {first}");
        let checkpoint = format!("{output}/checkpoints/step-00000002");
        let trained = if more.is_empty() { vec![checkpoint.as_str()] } else { vec!["model", "--adapter", &checkpoint] };
        assert!((second - mean_cost(&trained)).abs() < 1e-6, "{output}: {second}");
        assert!((first - second).abs() > 1e-6, "{output}: training changed the answers");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let bench = bench();
    bench.cost_model("other", &["harm", "cost"]);
    // Two constraints, one of them the mean of two models, with windows and rules of their own.
    let duals = "{ limit = -0.5, window = { last = { costs = 30 } }, ascent = { pid = {} } }, { limit = 0.2, measure = \"rate\", \
                 order = \"after\", window = { average = { decay = 0.5 } } }";
    let two = [
        "--set",
        "objective.lambda=[1.0, 0.5]",
        "--set",
        "safety.costs=[{ model = [\"cost\", \"other\"], head = \"cost\" }, { model = \"other\", head = \"harm\" }]",
        "--steps",
    ];
    let with = |more: &[&'static str]| [&two[..], more].concat();
    run(&bench, &words(&train("whole", duals, &with(&["6"]))));
    for (output, half) in [("between", "3"), ("before", "4")] {
        run(&bench, &words(&train(output, duals, &with(&[half]))));
        run(&bench, &words(&train(output, duals, &with(&["6", "--resume"]))));
        assert_eq!(bench.weights("whole"), bench.weights(output), "{output}");
        assert_eq!(steps(&bench, "whole"), steps(&bench, output), "{output}");
    }
    let last = &steps(&bench, "whole")[5];
    assert!(number(last, "lambda_2") > 0.0 && last.get("p_unsafe_2").is_some(), "{last}");
    // Other prompts, or another cost model, are another run.
    let resume = train("before", duals, &with(&["8", "--resume"]));
    bench.lines("asked.jsonl", (0..7).map(|i| serde_json::json!({ "prompt": "red ".repeat(1 + i) })));
    bench.wick(&words(&resume)).fails(2, &["safety.prompts asked.jsonl has"]);
    bench.questions();
    bench.cost_model("cost", &["cost"]);
    bench.wick(&words(&resume)).succeeds();
    let weights = std::fs::read(bench.path("model/model.safetensors")).expect("weights");
    std::fs::write(bench.path("other/more.safetensors"), weights).expect("written");
    let resume = train("before", duals, &with(&["9", "--resume"]));
    bench.wick(&words(&resume)).fails(2, &["safety.costs other/more.safetensors has"]);
}

#[test]
fn a_multiplier_that_stays_at_its_cap_is_told_and_so_is_the_plan() {
    let bench = bench();
    let capped = "{ limit = -1.0, ascent = { linear = { rate = 500.0, cap = 1.5 } }, order = \"after\" }";
    let every = ["--steps", "12", "--set", "safety.every=1"];
    let said = run(&bench, &words(&train("run", capped, &every)));
    assert!(
        said.err.contains("the rate of objective.dual[0] is 500, and multiplier and policy settle below"),
        "{}",
        said.err
    );
    let told = "the multiplier of objective.dual[0] has been at its cap of 1.5 for 10 rounds of answers";
    assert_eq!(said.err.matches(told).count(), 1, "{}", said.err);
    let log = std::fs::read_to_string(bench.path("run/metrics.jsonl")).expect("a log");
    let alarm = log.lines().find(|line| line.contains("\"alarm\":\"dual.cap\"")).expect("a line");
    // The multiplier of step 1 is where it started.
    assert!(alarm.contains("\"step\":11") && alarm.contains("the least so far is "), "{alarm}");

    let plan = run(&bench, &words(&train("none", capped, &["--print-plan"])));
    assert!(plan.out.contains("safety.every = 2") && plan.out.contains("# score models of costs"), "{}", plan.out);
    assert!(plan.out.contains("# answers that are drawn"), "{}", plan.out);
    assert!(!bench.path("none").exists());
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let bench = bench();
    bench.cost_model("two", &["harm", "cost"]);
    bench.text("empty.jsonl", "");
    let chat = |i: usize| serde_json::json!({ "prompt": [{ "role": "user", "content": "one ".repeat(i) }] });
    bench.lines("chats.jsonl", (1..6).map(chat));
    let refused = |set: &str, said: &[&str]| {
        bench.wick(&words(&train("run", &limited(0.0), &["--steps", "2", "--set", set]))).fails(2, said);
        assert!(!bench.path("run/final").exists(), "{set}");
    };
    refused("safety.costs=[\"model\"]", &["safety.costs[0]: model: no score model"]);
    refused("safety.costs=[\"nowhere\"]", &["safety.costs[0]: nowhere: "]);
    refused("safety.costs=[\"cost\", \"two\"]", &["safety.costs: it has 2 entries, and objective.dual has 1"]);
    refused("safety.costs=[\"two\"]", &["safety.costs[0]: two has the heads harm, cost, and none is named"]);
    refused("safety.costs=[{ model = \"two\", head = \"good\" }]", &["\"good\" is none of them"]);
    refused("safety.prompts=empty.jsonl", &["safety.prompts: ", "empty.jsonl"]);
    refused("safety.prompts=nowhere.jsonl", &["safety.prompts: ", "nowhere.jsonl"]);
    refused("safety.prompt_column=question", &["safety.prompt_column: ", "\"question\"", "asked.jsonl:1"]);
    refused("safety.prompts_per_round=10", &["safety.prompts_per_round: 10, and asked.jsonl has 9 different prompts"]);
    refused("safety.prompts=chats.jsonl", &["safety.prompts: prompt 0", "chat template"]);
    let bare =
        "train --model model --data gaps.jsonl --output run --objective safe_rlhf_lagrangian --set objective.dual=[{}]";
    bench.wick(&bare.split(' ').collect::<Vec<_>>()).fails(2, &["objective.dual: given, and nobody says", "[safety]"]);
    let fixed =
        "train --model model --data gaps.jsonl --output run --objective safe_rlhf_lagrangian --set safety.every=3";
    bench
        .wick(&fixed.split(' ').collect::<Vec<_>>())
        .fails(2, &["safety: the objective of [objective] has no multipliers"]);
}

#[test]
fn evaluations_and_comparisons_know_the_section() {
    let bench = bench();
    let configuration = r#"
[model]
path = "model"
[data]
path = "gaps.jsonl"
[evaluation]
held_out = 0.25
[optimizer]
learning_rate = 1e-2
[train]
batch_size = 4
steps = 4
threads = 1
[safety]
prompts = "asked.jsonl"
prompt_column = "prompt"
costs = ["cost"]
every = 2
prompts_per_round = 5
max_new_tokens = 6
"#;
    let moving = "type = \"safe_rlhf_lagrangian\"\ndual = [{ limit = -1.0 }]";
    bench.text("run.toml", &format!("{configuration}[objective]\n{moving}\n"));
    let said = bench.wick(&["eval", "--config", "run.toml"]);
    said.succeeds();
    assert!(said.err.contains("[safety] belongs to training") && said.err.contains("objective.lambda"), "{}", said.err);
    // One arm follows costs, the other has nothing to follow them with.
    let arms = "[compare]\nobjectives = [\"dpo\", { type = \"safe_rlhf_lagrangian\", dual = [{ limit = -1.0 }] }]\nseeds = [1, 2]\n\
                every = 2\ndrift_prompts = 0\n";
    bench.text("compare.toml", &format!("{configuration}{arms}"));
    run(&bench, &["compare", "--config", "compare.toml", "--output", "comparison"]);
    let moved = std::fs::read_dir(bench.path("comparison/cells")).expect("cells").flatten().filter(|cell| {
        let log = std::fs::read_to_string(cell.path().join("metrics.jsonl")).expect("a log");
        log.contains("\"expected_cost\"")
    });
    assert_eq!(moved.count(), 2);
}
