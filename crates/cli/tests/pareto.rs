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

    // What only the draws, the measuring or the end would have met is met before the first run too.
    let swept = format!("{sweep} objective.beta=0.1,0.2");
    fails(&format!("{swept} --top-p 2"), 2, &["--top-p 2", "at most 1"]);
    fails(&format!("{swept} --top-k 0"), 2, &["--top-k 0", "1 or more"]);
    fails(&format!("{swept} --temperature=-1"), 2, &["--temperature -1", "a positive number"]);
    fails(&format!("{swept} --temperature nan"), 2, &["--temperature NaN"]);
    let said =
        bench.wick(&words(&format!("pareto --prompts pairs.jsonl --output out {swept} --reference-point cost=inf")));
    assert!(said.code == Some(2) && said.err.contains("a finite number, as cost=3.5"), "{}", said.err);
    let twice = "--reference-point cost=3 --reference-point cost=5";
    fails(&format!("{swept} {twice}"), 2, &["--reference-point cost", "given twice"]);
    let bare = "--policies model --maximise tokens --minimise cut --end-of-sequence keep";
    fails(bare, 2, &["--end-of-sequence", "--score"]);
    let parts = "objective.mix.parts=[{loss={type=\"dpo\"}},{loss={type=\"sft\"}}]";
    let panacea = format!("{sweep} train.seed=0,1 --objective panacea --set {parts}");
    fails(&panacea, 2, &["objective: panacea", "wick merge --preference"]);
    std::fs::create_dir(bench.path("told")).expect("made");
    bench.text("told/adapter_config.json", "{\"peft_type\":\"PANACEA\",\"base_model_name_or_path\":\"model\"}");
    fails(&format!("{swept} --policies told"), 4, &["told is a Panacea adapter", "wick merge --preference"]);
    bench.model("wide", 20);
    fails(&format!("{swept} --reference wide"), 2, &["--reference wide", "it has 20 tokens", "beta=0.1 has 14"]);
    bench.model("other", 14);
    bench.cost_model("nine", &["cost", "cost_1", "cost_2", "cost_3", "cost_4", "cost_5", "cost_6", "cost_7", "cost_8"]);
    std::fs::copy(bench.path("nine/tokenizer.json"), bench.path("other/tokenizer.json")).expect("copied");
    fails(&format!("{swept} --reference other"), 2, &["--reference other: its token 3 is \"no\"", "\"one\""]);
    fails("--policies model --score nine", 2, &["9 objectives", "8 at most", "--score NAME,NAME=DIR"]);
    // A path with the sign that stands between a name and a path.
    std::fs::create_dir(bench.path("lr=1")).expect("made");
    std::fs::rename(bench.path("help"), bench.path("lr=1/help")).expect("moved");
    fails("--policies model --score lr=1/help/final --maximise help", 2, &["one objective only (help)"]);
    // Prompts that no policy, or not every score model can read.
    let chat = |i: usize| json!({ "prompt": [{ "role": "user", "content": "one ".repeat(i) }] });
    bench.lines("chats.jsonl", (1..4).map(chat));
    let chats = swept.clone() + " --prompts chats.jsonl --prompt-column prompt --output out";
    let said = bench.wick(&words(&format!("pareto {chats}")));
    said.fails(3, &["chats.jsonl: prompt 0", "cannot be read by beta=0.1", "chat template"]);
    bench.text("model/chat_template.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}");
    let said = bench.wick(&words(&format!("pareto {chats}")));
    said.fails(3, &["chats.jsonl: prompt 0", "cannot be read by --score reward=reward/final", "chat template"]);
    std::fs::remove_file(bench.path("model/chat_template.jinja")).expect("removed");
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
        assert!(said.out.contains("learning_rate=1e+30 is not measured: the run stopped: "), "{}", said.out);
    }
    let found = report(&bench, "diverged");
    assert_eq!((points(&found).len(), found["failures"].as_array().map(Vec::len)), (1, Some(1)), "{found}");
}

#[test]
fn a_policy_that_answers_nothing_is_not_measured() {
    let bench = Bench::new();
    bench.questions();
    let prompts = rows(&bench, "asked.jsonl");
    // Policies that answer the first so many prompts, and say nothing to the others.
    for (name, answered) in [("mute", 0), ("shy", 1), ("half", 5), ("whole", 9)] {
        let said = |i: usize| if i < answered { " yes" } else { " </s>" };
        let row = |(i, row): (usize, &Value)| json!({ "prompt": row["prompt"], "completion": said(i) });
        bench.lines("taught.jsonl", prompts.iter().enumerate().map(row));
        let more = ["--data", "taught.jsonl", "--objective", "sft", "--steps", "150", "--lr", "1e-2", "--output", name];
        bench.train(&more).succeeds();
    }
    for head in ["reward", "cost"] {
        bench.cost_model(head, &[head]);
    }
    let measure = |policies: &str, output: &str| {
        bench.wick(&words(&format!(
            "pareto --prompts asked.jsonl --prompt-column prompt --temperature 0 --max-new-tokens 4 --score reward --score cost \
             --threads 1 --policies {policies} --output {output}"
        )))
    };
    let said = measure("whole/final mute/final half/final", "out");
    said.succeeds();
    let found = report(&bench, "out");
    let names: Vec<&str> = points(&found).iter().filter_map(|point| point["name"].as_str()).collect();
    assert_eq!(names, ["whole", "half"]);
    assert_eq!(found["failures"], json!([{ "name": "mute", "why": "every answer was empty" }]));
    assert_eq!((&found["prompts"], &found["left_out"]), (&json!(5), &json!(4)));
    assert!(said.out.contains("mute is not measured: every answer was empty"), "{}", said.out);
    assert!(said.out.contains("4 prompts left out") && said.out.contains("half (4) have none"), "{}", said.out);
    assert_eq!((rows(&bench, "out/answers/mute.jsonl").len(), rows(&bench, "out/answers/half.jsonl").len()), (0, 5));

    measure("whole/final half/final shy/final", "few")
        .fails(3, &["1 of 9 prompts", "shy has none to 8", "leave that policy"]);
    measure("mute/final", "none").fails(3, &["every answer was empty (mute)"]);
}
