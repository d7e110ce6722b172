//! From labels to a policy within a limit, by the commands alone: score models, samples, scores, a multiplier, pairs.
#![cfg(unix)]

mod common;

use common::{Bench, Said};
use serde_json::Value;

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

/// A small world, a first model that answers in it, and what its answers are worth.
fn world() -> Bench {
    let bench = Bench::new();
    run(&bench, "data make world --world safety --rows 400 --held-out 100 --model");
    let train = "--threads 1 --batch 16 --lr 3e-3 --epochs 2";
    run(
        &bench,
        &format!("train --model world/model --data world/demonstrations.jsonl --objective sft --output first {train}"),
    );
    let scored = format!("train --model first/final --data world/safety.jsonl {train} --set");
    run(&bench, &format!("{scored} model.heads=[\"reward\"] --objective bradley_terry --output reward"));
    let of_costs = "model.heads=[\"cost\"] --set data.criterion=safer --objective cost_model --output cost";
    run(&bench, &format!("{scored} {of_costs}"));
    bench
}

#[test]
fn the_chain_of_commands_ends_in_a_policy() {
    let bench = world();
    // A reward model that is an adapter scores over its causal base.
    let lora =
        "--set model.lora={rank=2} --objective bradley_terry --output lora --threads 1 --batch 16 --lr 3e-3 --epochs 1";
    run(&bench, &format!("train --model first/final --data world/safety.jsonl {lora}"));
    let figures =
        run(&bench, "score world/held_out.jsonl --model first/final --adapter lora/final --heads reward --json");
    let figures: Value = serde_json::from_str(&figures.out).expect("JSON");
    let mean = |said: Said| serde_json::from_str::<Value>(&said.out).expect("JSON")[0]["mean"].clone();
    let scored_by =
        "score world/held_out.jsonl --model first/final --adapter lora/final --heads reward --json --max-length 12";
    let [start, end] =
        ["keep_start", "keep_end_of_prompt"].map(|kept| mean(run(&bench, &format!("{scored_by} --truncation {kept}"))));
    assert_ne!(start, end, "what is cut makes another text");
    let prefix = "score world/held_out.jsonl --model first/final --adapter lora/final --heads reward --json --boundary common_prefix";
    assert_eq!(mean(run(&bench, prefix)), figures[0]["mean"], "where the completion begins does not change the text");
    assert_eq!(figures[0]["head"], "reward");
    assert!(figures[0]["chosen_above"].as_f64().is_some_and(|share| share > 0.6), "{figures}");
    // What a cost model says is compared with what the rows say.
    let flags = "--criterion safer --numbers safe_chosen --numbers safe_rejected";
    let figures = run(&bench, &format!("score world/held_out.jsonl {flags} --model cost/final --json"));
    let figures: Value = serde_json::from_str(&figures.out).expect("JSON");
    let cost = &figures[0];
    assert_eq!((&cost["head"], &cost["completions"]), (&"cost".into(), &200.into()), "{cost}");
    assert!(cost["sign_accuracy"].as_f64().is_some_and(|share| share > 0.8), "{cost}");
    assert!(cost["chosen_above"].as_f64().is_some_and(|share| share < 0.3), "{cost}");

    let of_prompts =
        "sample world/prompts.jsonl asked.jsonl --prompt-column prompt --model first/final --max-new-tokens 8";
    run(&bench, of_prompts);
    let asked: Vec<Value> = rows(&bench, "world/prompts.jsonl");
    assert_eq!(rows(&bench, "asked.jsonl").len(), asked.len());
    run(&bench, "sample world/safety.jsonl answers.jsonl --rows 0..30 --model first/final -k 8 --max-new-tokens 12");
    run(
        &bench,
        "sample world/safety.jsonl again.jsonl --rows 0..30 --model first/final -k 8 --max-new-tokens 12 --threads 1",
    );
    assert_eq!(rows(&bench, "answers.jsonl"), rows(&bench, "again.jsonl"), "threads do not change answers");
    // Why an answer ends is said of each, and goes along.
    let shorter =
        run(&bench, "sample world/safety.jsonl cut.jsonl --rows 0..30 --model first/final -k 2 --max-new-tokens 3");
    let reasons = |name: &str| -> Vec<String> {
        rows(&bench, name).iter().map(|row| row["finish_reason"].as_str().expect("a word").to_owned()).collect()
    };
    let cut = reasons("cut.jsonl").iter().filter(|reason| *reason == "length").count();
    assert!(
        cut > 0 && shorter.out.contains(&format!("{cut} answers were cut at --max-new-tokens 3")),
        "{}",
        shorter.out
    );
    assert!(reasons("answers.jsonl").iter().any(|reason| reason == "stop"));
    run(&bench, "score answers.jsonl scored.jsonl --model reward/final --model cost/final");
    let scored = rows(&bench, "scored.jsonl");
    assert_eq!(reasons("scored.jsonl"), reasons("answers.jsonl"));
    assert_eq!(scored.len(), rows(&bench, "answers.jsonl").len());
    let number = |row: &Value, name: &str| row[name].as_f64().expect("a number");

    // The rate at the multiplier is the limit, by the same table in another way.
    let solved = run(&bench, "safety solve scored.jsonl --measure rate --limit 0.1 --beta 0.5 --json");
    assert!(solved.err.contains("only 8 completions") || solved.err.contains("77 %"), "{}", solved.err);
    let solved: Value = serde_json::from_str(&solved.out).expect("JSON");
    assert_eq!(solved["solution"], "active", "{solved}");
    let lambda = solved["lambda"][0].as_f64().expect("a multiplier");
    let mut by_prompt: std::collections::BTreeMap<String, Vec<&Value>> = std::collections::BTreeMap::new();
    scored.iter().for_each(|row| by_prompt.entry(row["prompt"].to_string()).or_default().push(row));
    let rate = |rows: &Vec<&Value>| {
        let harmful = |row: &Value| f64::from(u8::from(number(row, "cost") > 0.0));
        let weight = |row: &Value| ((number(row, "reward") - lambda * harmful(row)) / 0.5).exp();
        let all: f64 = rows.iter().map(|row| weight(row)).sum();
        rows.iter().map(|row| weight(row) * harmful(row)).sum::<f64>() / all
    };
    let mean = by_prompt.values().map(rate).sum::<f64>() / by_prompt.len() as f64;
    assert!((mean - 0.1).abs() < 1e-6, "{mean}");

    run(&bench, "safety pairs scored.jsonl scored-pairs.jsonl --measure rate --pairs 4");
    for pair in rows(&bench, "scored-pairs.jsonl") {
        assert!(number(&pair, "reward_gap") >= 0.0 && [-1.0, 0.0, 1.0].contains(&number(&pair, "cost_gap")), "{pair}");
        assert_ne!(pair["chosen"], pair["rejected"]);
    }
    let policy =
        "train --model first/final --data scored-pairs.jsonl --objective safe_rlhf_lagrangian --threads 1 --epochs 1";
    run(&bench, &format!("{policy} --set objective.beta=0.5 --set objective.lambda=[{lambda}] --output policy"));
    let log = rows(&bench, "policy/metrics.jsonl");
    assert!((number(&log[0], "lambda") - lambda).abs() < 1e-9, "{}", log[0]);

    let threshold = run(&bench, "safety threshold scored.jsonl --target-rate 0.05 --json");
    let threshold: Value = serde_json::from_str(&threshold.out).expect("JSON");
    let (safe, harmful) = (number(&threshold, "safe_mean"), number(&threshold, "unsafe_mean"));
    assert!((number(&threshold, "threshold") - (0.95 * safe + 0.05 * harmful)).abs() < 1e-9, "{threshold}");
}

/// A template that shows its tools, asked with and without them.
#[test]
fn rows_with_tools_are_asked_with_them() {
    let bench = Bench::new();
    let template = "{{ mood }} {% for tool in tools or [] %}{{ tool.name }} {% endfor %}{% for m in messages %}{{ m.content }} {% endfor %}";
    std::fs::write(bench.path("model/chat_template.jinja"), template).expect("a template");
    let row = |tools: Value, mood: &str| {
        serde_json::json!({"prompt": [{"role": "user", "content": "one two"}],
            "completion": [{"role": "assistant", "content": "yes"}], "tools": tools, "chat_template_kwargs": {"mood": mood}})
    };
    let tools = serde_json::json!([{"name": "red"}]);
    // The third says what the first does.
    let asked = [row(tools.clone(), "blue"), row(Value::Null, "blue"), row(tools.clone(), "blue"), row(tools, "green")];
    bench.lines("tools.jsonl", asked.into_iter());
    run(&bench, "sample tools.jsonl answers.jsonl --model model -k 2 --max-new-tokens 4 --seed 3");
    let answers = rows(&bench, "answers.jsonl");
    assert_eq!(answers.len(), 6, "{answers:?}");
    assert_eq!(answers[0]["tools"][0]["name"], "red");
    assert_eq!(answers[0]["chat_template_kwargs"]["mood"], "blue");
    assert!(answers[2].get("tools").is_none_or(Value::is_null), "{}", answers[2]);
    // They are rows to train on, each with its tools.
    run(&bench, "train --model model --data answers.jsonl --objective sft --output asked --threads 1 --epochs 1");
}

/// Several completions in a row say the same as one in each.
#[test]
fn rows_of_several_completions_are_read() {
    let bench = Bench::new();
    let of_prompt = |prompt: usize| {
        (0..3 + prompt % 2).map(move |place| {
            let (reward, cost) = ((prompt * 7 + place * 5) % 9, (prompt * 5 + place * 3) % 7);
            (format!(" answer {place} of {prompt}"), reward as f64 / 3.0, cost as f64 - 2.5)
        })
    };
    let (mut single, mut several) = (String::new(), String::new());
    for prompt in 0..12 {
        let mut row = serde_json::json!({"prompt": format!("p{prompt}"), "completions": [], "ratings": []});
        for (place, (completion, reward, cost)) in of_prompt(prompt).enumerate() {
            let one =
                serde_json::json!({"prompt": row["prompt"], "completion": completion, "reward": reward, "cost": cost});
            single += &format!("{one}\n");
            row["completions"].as_array_mut().expect("a list").push(completion.into());
            row["ratings"].as_array_mut().expect("a list").push((place as f64).into());
            row[format!("reward_{}", place + 1)] = reward.into();
            row[format!("cost_{}", place + 1)] = cost.into();
        }
        several += &format!("{row}\n");
    }
    std::fs::write(bench.path("single.jsonl"), single).expect("a file");
    std::fs::write(bench.path("several.jsonl"), &several).expect("a file");
    for line in ["safety solve FILE --limit -0.5 --beta 0.5 --json", "safety threshold FILE --target-rate 0.05 --json"]
    {
        let [one, other] =
            ["single", "several"].map(|file| run(&bench, &line.replace("FILE", &format!("{file}.jsonl"))).out);
        assert_eq!(one, other, "{line}");
    }
    run(&bench, "safety pairs single.jsonl single-pairs.jsonl");
    run(&bench, "safety pairs several.jsonl several-pairs.jsonl");
    assert_eq!(rows(&bench, "single-pairs.jsonl"), rows(&bench, "several-pairs.jsonl"));
    // A row that lacks a number is told by the column.
    let broken = several.replacen("\"cost_2\"", "\"cost_9\"", 1);
    std::fs::write(bench.path("broken.jsonl"), broken).expect("a file");
    bench
        .wick(&words("safety solve broken.jsonl --limit 0 --strict"))
        .fails(3, &["broken.jsonl:1", "`cost_2` is nothing"]);
    bench.wick(&words("safety threshold several.jsonl --target-rate 0.05 --flags")).fails(2, &["--flags"]);
}

#[test]
fn what_cannot_be_is_said() {
    let bench = Bench::new();
    let table: String = (0..4)
        .flat_map(|prompt| [(1.0, 2.0), (0.0, 0.5)].map(|(reward, cost)| (prompt, reward, cost)))
        .enumerate()
        .map(|(row, (prompt, reward, cost))| {
            format!(
                "{{\"prompt\": \"p{prompt}\", \"completion\": \" c{row}\", \"reward\": {reward}, \"cost\": {cost}}}\n"
            )
        })
        .collect();
    std::fs::write(bench.path("table.jsonl"), table).expect("a file");
    let fails = |line: &str, code: i32, said: &[&str]| bench.wick(&words(line)).fails(code, said);
    fails(
        "safety solve table.jsonl --limit 0.2",
        3,
        &["least mean that can be reached is 0.5000", "0.3000 too much", "1.000"],
    );
    fails("safety solve table.jsonl --limit 0.2 --limit 0.3", 2, &["--limit is given 2 times and --cost 1 times"]);
    fails("safety solve table.jsonl --limit 1 --cost cost --cost cost --limit 1", 2, &["--cost cost: given twice"]);
    fails("safety solve table.jsonl --limit 1 --cost harm", 3, &["harm"]);
    fails("safety solve table.jsonl --limit 1 --beta 0", 3, &["beta"]);
    fails("safety threshold table.jsonl --target-rate 0.05", 3, &["safe"]);
    fails("safety threshold table.jsonl --target-rate 5", 3, &["a share in [0, 1]"]);
    let slack = bench.wick(&words("safety solve table.jsonl --limit 3"));
    slack.succeeds();
    assert!(slack.out.contains("λ = 0.000000 (slack)"), "{}", slack.out);
    // A causal language model has no heads to score with; a sampler needs something to draw.
    fails("score pairs.jsonl --model model", 4, &["sequence classification"]);
    fails("sample pairs.jsonl out.jsonl --model model -k 2 --temperature 0", 2, &["--temperature 0"]);
    assert!(!bench.path("out.jsonl").exists());
    fails("sample table.jsonl out.jsonl --model model --prompt-column reward", 3, &["table.jsonl:1", "holds 1;"]);
    fails("sample table.jsonl out.jsonl --model model --prompt-column prompt --rows 0..1", 2, &["--rows"]);
    fails("safety pairs table.jsonl o.jsonl --dropped o.jsonl", 2, &["--dropped"]);
    fails("safety threshold - --target-rate 0.1", 2, &["standard input"]);
}

#[test]
fn centred_numbers_are_log_probabilities() {
    let bench = world();
    run(&bench, "sample world/safety.jsonl answers.jsonl --rows 0..6 --model first/final -k 5 --max-new-tokens 8");
    run(&bench, "score answers.jsonl plain.jsonl --model reward/final");
    run(&bench, "score answers.jsonl centred.jsonl --model reward/final --centred 0.5");
    let (plain, centred) = (rows(&bench, "plain.jsonl"), rows(&bench, "centred.jsonl"));
    for row in &plain {
        let same = |other: &&Value| other["prompt"] == row["prompt"];
        let mut of_prompt: Vec<f64> = plain.iter().filter(same).filter_map(|row| row["reward"].as_f64()).collect();
        of_prompt.sort_by(f64::total_cmp);
        let (low, high) = (of_prompt[(of_prompt.len() - 1) / 2], of_prompt[of_prompt.len() / 2]);
        let gap = row["reward"].as_f64().expect("a reward") - f64::midpoint(low, high);
        let is_it = |other: &&Value| other["completion"] == row["completion"] && other["prompt"] == row["prompt"];
        let found = centred.iter().find(is_it).expect("the row");
        let expected = -(-gap).exp().ln_1p();
        assert!((found["reward"].as_f64().expect("a number") - expected).abs() < 1e-5, "{found} {expected}");
        assert_eq!(found["reward"], found["all"]);
    }
}
