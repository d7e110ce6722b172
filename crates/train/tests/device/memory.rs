//! The memory of a device that a run is planned to take beside what its buffers had: on a GPU where there is one, else emulated.
use candlewick_kernels::Cuda;
use candlewick_model::{CausalLm, Config};
use candlewick_train::{
    DeviceMemory, Error, Event, Fault, Hardware, MemoryPlan, Plan, Precomputation, Run, TokenBudget,
};
use serde_json::json;

use crate::support::VOCABULARY;
use crate::support::device::device;
use crate::support::folder::{Folder, pairs};

/// A small model beside rows of many lengths.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut config = Config::llama(VOCABULARY, 32, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 8);
    CausalLm::<f32>::random(config, 1).unwrap().save(&folder.path("model")).unwrap();
    let text =
        |from: usize, words: usize| (0..words).map(|i| format!(" w{}", 3 + (from + 5 * i) % 20)).collect::<String>();
    let row = |i: usize| {
        let (prompt, chosen, rejected) = (text(i, 4 + i % 5), text(7 * i + 1, 5 + i % 7), text(3 * i + 2, 6 + i % 4));
        json!({"prompt": prompt.trim_start(), "chosen": chosen, "rejected": rejected})
    };
    let rows: Vec<_> = (0..14).map(row).collect();
    folder.lines("rows.jsonl", &rows[..10]);
    folder.lines("held-out.jsonl", &rows[10..]);
    folder
}

const LORA: &str = "model.lora.rank=8";

fn on_device<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train.device=cuda"], more].concat()
}

/// Runs a plan to its end; the most bytes that its buffers had.
fn most_used(device: &Cuda, plan: Plan) -> u64 {
    let mut run = Run::start_on(&Hardware::on(device), plan).unwrap();
    while run.advance().unwrap().is_some() {}
    device.memory().unwrap().most_used as u64
}

fn planned(plan: &Plan) -> DeviceMemory {
    MemoryPlan::of(plan).unwrap().device.unwrap()
}

/// What does not follow from how large batches are.
fn fixed(memory: &DeviceMemory) -> u64 {
    let DeviceMemory { weights, adapter, masters, reference, gradients, optimizer, .. } = memory;
    weights + adapter + masters + reference + gradients + optimizer
}

#[test]
fn a_run_takes_what_was_planned() {
    let folder = folder();
    let held_out = folder.at("evaluation.path", "held-out.jsonl");
    let frozen = folder.at("reference.path", "model");
    let kinds: [&[&str]; 14] = [
        &[],
        &["train.dtype=f32", "train.recompute=layers"],
        &["train.recompute=layers", "reference.kind=precomputed"],
        &["train.dtype=f32", "objective.type=simpo", "train.tokens=60"],
        &["train.batch_size=2", "train.micro_batches=2", "evaluation.batch_size=4"],
        &[LORA],
        &[LORA, "train.dtype=f32"],
        &[LORA, "reference.kind=frozen"],
        &[LORA, "reference.kind=frozen", &frozen],
        &["objective.type=tr_dpo", "objective.update={ ema = { mu = 0.1 } }", "train.dtype=f32"],
        &[LORA, "objective.type=tr_dpo", "optimizer.kind=lion"],
        &[LORA, "objective.type=tr_dpo", "objective.update=bema", "train.dtype=f32"],
        &["objective.type=bradley_terry", "optimizer.kind=schedule_free_adamw"],
        &["objective.type=kto", "data.unpair=true", "train.batch_size=2", "train.micro_batches=2", &frozen],
    ];
    for (number, kind) in kinds.iter().enumerate() {
        let Some(device) = device() else { return };
        let plan = folder.plan(&format!("out-{number}"), &[&on_device(kind)[..], &[&held_out]].concat());
        let memory = planned(&plan);
        let (planned, most) = (memory.total(), most_used(&device, plan));
        let (passes, had) = (planned - fixed(&memory), most - fixed(&memory));
        assert!(planned >= most, "{kind:?}: {planned} bytes are planned, and there were {most}: {memory:?}");
        // What is told of a batch is planned for the worst of all batches of its size.
        assert!(
            passes as f64 <= 1.15 * had as f64,
            "{kind:?}: {passes} bytes are planned for passes, and there were {had}"
        );
    }
}

/// Beyond 2²⁸ logits the head keeps none, and a larger micro-batch takes less memory than some that a budget makes
/// beside it.
#[test]
fn the_plan_of_a_budget_is_no_less_than_that_of_a_smaller_one() {
    let folder = folder();
    let path = folder.path("model/config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["vocab_size"] = json!(1 << 21);
    std::fs::write(&path, config.to_string()).unwrap();
    for kind in [&["train.device=cpu"][..], &["train.device=cuda", "train.dtype=f32"], &["train.device=cuda"]] {
        let plan = |tokens: usize| {
            let words = ["train.batch_size=10", "train.steps=3", &format!("train.tokens={tokens}")];
            MemoryPlan::of(&folder.plan("out", &[kind, &words].concat())).unwrap()
        };
        let total = |plan: MemoryPlan| plan.device.as_ref().map_or(plan.total(), DeviceMemory::total);
        let whole = plan(1000);
        assert!(whole.batch.targets > 128, "{:?}: logits of all are kept", whole.batch);
        let smaller = (30..whole.batch.tokens).step_by(10).map(|tokens| total(plan(tokens)));
        // But for what batches of other sizes leave behind, of which there are more of them.
        let whole = total(whole);
        assert!(smaller.max().unwrap() <= whole + whole / 1000, "{kind:?}");
    }
}

/// A plan of three steps of all ten pairs, whose tokens outweigh the adapter.
fn large_steps(folder: &Folder, output: &str, more: &[&str]) -> Plan {
    folder.plan(output, &[&on_device(&["train.batch_size=10", "train.steps=3", LORA]), more].concat())
}

fn tokens_of(run: &Run) -> usize {
    run.plan().train.tokens.and_then(TokenBudget::tokens).unwrap()
}

fn finish(run: &mut Run) -> Result<(), Error> {
    while run.advance()?.is_some() {}
    Ok(())
}

#[test]
fn a_budget_of_tokens_is_chosen_by_the_memory_that_is_free_and_kept() {
    let Some(free) = device() else { return };
    let folder = folder();
    let auto = ["train.tokens=auto", "output.save_every=1"];
    let whole = Run::start_on(&Hardware::on(&free), large_steps(&folder, "whole", &auto)).unwrap();
    let whole_step = tokens_of(&whole);
    drop(whole);
    let half = planned(&large_steps(&folder, "half", &[&format!("train.tokens={}", whole_step / 2)])).total() as usize;

    // As much memory as half a step takes.
    let limited = || {
        let device = device().unwrap();
        device.limit_memory(half * 6 / 5);
        device
    };
    let device = limited();
    let mut run = Run::start_on(&Hardware::on(&device), large_steps(&folder, "out", &auto)).unwrap();
    let Some(Event::TokensChosen(chosen)) = run.advance().unwrap() else { panic!("nothing was said of the budget") };
    let tokens = tokens_of(&run);
    assert!(
        (tokens, chosen.whole_step) == (chosen.tokens, false) && tokens < whole_step && tokens >= whole_step / 4,
        "{chosen:?}"
    );
    assert!(chosen.planned <= chosen.free - chosen.reserve && chosen.free as usize == half * 6 / 5, "{chosen:?}");
    assert!(chosen.to_string().starts_with(&format!("train.tokens = {tokens}: ")), "{chosen}");
    let said = std::fs::read_to_string(folder.path("out/plan.json")).unwrap();
    assert!(said.contains(&format!("\"tokens\": {tokens}")), "{said}");
    finish(&mut run).unwrap();
    assert!(device.memory().unwrap().most_used as u64 <= chosen.planned, "{chosen:?}");
    drop((run, device));

    // A run that goes on takes the number of its checkpoint, though ten times as much is free, and ends in the same bits.
    let device = limited();
    let mut run = Run::start_on(&Hardware::on(&device), large_steps(&folder, "resumed", &auto)).unwrap();
    while run.trainer().steps_done() < 1 {
        run.advance().unwrap();
    }
    let saved = run.save_now().unwrap();
    drop(run);
    let plan = large_steps(&folder, "resumed", &auto);
    let mut run = Run::resume_on(&Hardware::on(&free), plan, &saved).unwrap();
    assert_eq!(tokens_of(&run), tokens);
    finish(&mut run).unwrap();
    let weights = |output: &str| std::fs::read(folder.path(output).join("final/adapter_model.safetensors")).unwrap();
    assert!(weights("resumed") == weights("out"), "weights of other bits");

    // Not even one row.
    let device = limited();
    device.limit_memory(half / 3);
    let refused = Run::start_on(&Hardware::on(&device), large_steps(&folder, "none", &auto)).unwrap_err().to_string();
    let words = ["train.tokens: \"auto\"", "weights ", "kept by layers ", " free, and ", "train.recompute"];
    assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
}

/// The change that an error names, as assignments.
fn named(text: &str) -> Option<Vec<String>> {
    let (_, after) = text.split_once("the smallest change that fits is ")?;
    let (change, _) = after.split_once(", with ")?;
    let change = change.strip_prefix("a LoRA adapter, as ").unwrap_or(change);
    Some(change.split(" with ").map(|assignment| assignment.replace(" = ", "=")).collect())
}

#[test]
fn the_change_that_is_named_fits() {
    let folder = folder();
    let held_out = folder.at("evaluation.path", "held-out.jsonl");
    let kinds: [(&[&str], &[usize]); 5] = [
        (&["train.batch_size=8", &held_out, "evaluation.batch_size=1"], &[65]),
        (&["objective.type=kto", "data.unpair=true", "train.batch_size=8"], &[80]),
        (&["train.batch_size=1", "train.recompute=layers", LORA, &held_out, "evaluation.batch_size=4"], &[85, 50]),
        (&["train.dtype=f32", "train.batch_size=1"], &[85]),
        (&["train.batch_size=1"], &[93]),
    ];
    let mut met = Vec::new();
    for (number, (kind, percents)) in kinds.iter().enumerate() {
        let all = [on_device(kind), vec!["train.steps=2"]].concat();
        let total = planned(&folder.plan("planned", &all)).total() as usize;
        for percent in *percents {
            let Some(device) = device() else { return };
            device.limit_memory(total * percent / 100);
            let output = format!("{number}-{percent}");
            let ended =
                Run::start_on(&Hardware::on(&device), folder.plan(&output, &all)).and_then(|mut run| finish(&mut run));
            let Err(error) = ended else { continue };
            assert!(matches!(error, Error::OutOfMemory { .. }) && error.fault() == Fault::Configuration, "{error}");
            let text = error.to_string();
            assert!(text.contains("is planned to take") && text.contains("gradients "), "{text}");
            let Some(change) = named(&text) else {
                assert!(text.contains("no single change"), "{text}");
                continue;
            };
            met.extend(change.iter().filter_map(|assignment| assignment.split('=').next().map(str::to_owned)));
            let again = [all.clone(), change.iter().map(String::as_str).collect()].concat();
            let plan = folder.plan(&format!("{output}-again"), &again);
            let mut run = Run::start_on(&Hardware::on(&device), plan).unwrap();
            finish(&mut run).unwrap_or_else(|error| panic!("{change:?} was named, and then: {error}"));
        }
    }
    let keys = ["train.tokens", "train.batch_size", "evaluation.batch_size", "train.dtype", "model.lora.rank"];
    assert!(keys.iter().all(|key| met.iter().any(|other| other == key)), "{met:?}");
}

#[test]
fn a_run_without_memory_loses_nothing() {
    let Some(device) = device() else { return };
    let folder = folder();
    let mut run = Run::start_on(&Hardware::on(&device), large_steps(&folder, "out", &[])).unwrap();
    run.advance().unwrap();
    // Other programs take what is idle, and more.
    let had = device.memory().unwrap().used;
    device.limit_memory(had * 3 / 4);
    let error = run.advance().unwrap_err();
    let text = error.to_string();
    let Error::OutOfMemory { at, kept, .. } = error else { panic!("{error}") };
    assert_eq!(at, "after step 1");
    let checkpoint = folder.path("out/checkpoints/step-00000001");
    assert!(kept.contains(&checkpoint.display().to_string()), "{kept}");
    drop(run);

    // What it names goes on from there.
    let change = named(&text).unwrap();
    let plan = large_steps(&folder, "out", &change.iter().map(String::as_str).collect::<Vec<_>>());
    let mut run = Run::resume_on(&Hardware::on(&device), plan, &checkpoint).unwrap();
    assert_eq!(run.trainer().steps_done(), 1);
    finish(&mut run).unwrap();
    assert_eq!(run.trainer().steps_done(), 3);
}

#[test]
fn rows_that_could_not_be_scored_are_scored_later() {
    let folder = folder();
    let plan = |output: &str| large_steps(&folder, output, &["reference.kind=precomputed"]);
    let mut ended = Vec::new();
    for disturbed in [false, true] {
        let Some(device) = device() else { return };
        let output = format!("out-{disturbed}");
        let mut run = Run::start_on(&Hardware::on(&device), plan(&output)).unwrap();
        if disturbed {
            device.limit_memory(device.memory().unwrap().used + 4096);
            let text = run.advance().unwrap_err().to_string();
            let words = ["while the reference scored the rows", "what it scored so far is kept"];
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            device.limit_memory(isize::MAX as usize);
        }
        finish(&mut run).unwrap();
        ended.push(std::fs::read(folder.path(&output).join("final/adapter_model.safetensors")).unwrap());
    }
    assert!(ended[0] == ended[1], "weights of other bits");
}

#[test]
fn a_run_goes_on_with_the_change_that_is_named_or_is_told_to_start_anew() {
    let folder = folder();
    let held_out = folder.at("evaluation.path", "held-out.jsonl");
    let cases: [(&[&str], usize); 7] = [
        (&["train.batch_size=5"], 80),
        (&["train.batch_size=1", "train.recompute=layers", LORA, &held_out, "evaluation.batch_size=4"], 85),
        (&["objective.type=kto", "data.unpair=true", "train.batch_size=8", LORA, "optimizer.kind=lion"], 87),
        (&["objective.type=kto", "data.unpair=true", "train.batch_size=8", "train.recompute=layers"], 93),
        (&["train.batch_size=1", "train.recompute=layers", "train.dtype=f32", "optimizer.kind=lion"], 93),
        (&["train.batch_size=1", "train.recompute=layers", "train.dtype=f32", "reference.kind=precomputed"], 95),
        (&["train.batch_size=1", "train.recompute=layers"], 92),
    ];
    // What is named, and whether the run goes on with it.
    let keys = [
        ("train.tokens", true),
        ("evaluation.batch_size", true),
        ("train.recompute", true),
        ("train.batch_size", false),
        ("reference.kind", false),
        ("train.dtype", false),
        ("model.lora.rank", false),
    ];
    let mut met = Vec::new();
    for (number, (plan, percent)) in cases.iter().enumerate() {
        let Some(device) = device() else { return };
        let hardware = Hardware::on(&device);
        let all = [on_device(plan), vec!["train.steps=2"]].concat();
        let output = format!("out-{number}");
        let plan = folder.plan(&output, &all);
        let total = planned(&plan).total() as usize;
        let mut run = Run::start_on(&hardware, plan).unwrap();
        while run.trainer().steps_done() < 1 {
            run.advance().unwrap();
        }
        device.limit_memory(total * percent / 100);
        let error = finish(&mut run).unwrap_err();
        drop(run);
        let text = error.to_string();
        let named = named(&text).unwrap_or_else(|| panic!("{text}"));
        let (key, goes_on) = *keys.iter().find(|(key, _)| named[0].starts_with(key)).unwrap();
        met.push(key);
        let Error::OutOfMemory { at, .. } = error else { panic!("{text}") };
        let step = if at == "after step 1" { 1 } else { 2 };
        let checkpoint = folder.path(&output).join(format!("checkpoints/step-{step:08}"));
        assert!(text.contains(&format!("--resume goes on from {}", checkpoint.display())), "{text}");
        assert_eq!(text.contains("with this change --resume goes on from"), goes_on, "{text}");
        assert_eq!(text.contains("with this change a run starts anew in another output.dir"), !goes_on, "{text}");
        let changed: Vec<&str> = all.iter().copied().chain(named.iter().map(String::as_str)).collect();
        let resumed = Run::resume_on(&hardware, folder.plan(&output, &changed), &checkpoint);
        let mut run = match goes_on {
            true => resumed.unwrap_or_else(|error| panic!("{named:?} does not go on: {error}")),
            false => {
                assert!(matches!(resumed, Err(Error::OtherPlan { .. })), "{named:?} goes on");
                Run::start_on(&hardware, folder.plan(&format!("{output}-anew"), &changed)).unwrap()
            }
        };
        finish(&mut run).unwrap_or_else(|error| panic!("{named:?} was named, and then: {error}"));
        assert_eq!(run.trainer().steps_done(), 2);
    }
    assert!(keys.iter().all(|(key, _)| met.contains(key)), "{met:?}");
}

#[test]
fn a_number_that_failed_is_not_what_auto_takes_again() {
    let Some(device) = device() else { return };
    let folder = folder();
    let hardware = Hardware::on(&device);
    // Begun without a budget: it is chosen when the run goes on.
    let mut run = Run::start_on(&hardware, large_steps(&folder, "out", &["output.save_every=1"])).unwrap();
    while run.trainer().steps_done() < 1 {
        run.advance().unwrap();
    }
    let saved = run.save_now().unwrap();
    drop(run);
    let auto = || large_steps(&folder, "out", &["train.tokens=auto"]);
    let mut run = Run::resume_on(&hardware, auto(), &saved).unwrap();
    let Some(Event::TokensChosen(chosen)) = run.advance().unwrap() else { panic!("nothing was said of the budget") };
    assert_eq!(tokens_of(&run), chosen.tokens);
    while run.trainer().steps_done() < 2 {
        run.advance().unwrap();
    }
    device.limit_memory(device.memory().unwrap().used * 3 / 4);
    let text = finish(&mut run).unwrap_err().to_string();
    drop(run);
    // Its number fails again, and another one is named.
    let number = named(&text).unwrap();
    let smaller = number[0].strip_prefix("train.tokens=").and_then(|number| number.parse::<usize>().ok()).unwrap();
    let again = format!("\"auto\" would take its {} again", chosen.tokens);
    assert!(smaller < chosen.tokens && text.contains("with this number --resume") && text.contains(&again), "{text}");
    let saved = folder.latest("out").path;
    let resumed = Run::resume_on(&hardware, auto(), &saved).unwrap();
    assert_eq!(tokens_of(&resumed), chosen.tokens);
    drop(resumed);
    let mut run = Run::resume_on(&hardware, large_steps(&folder, "out", &[&number[0]]), &saved).unwrap();
    finish(&mut run).unwrap();
}

#[test]
fn what_others_have_on_a_device_is_not_what_a_run_can_have() {
    let Some(device) = device() else { return };
    let folder = folder();
    let of_others = device.unwritten::<u8>(3 << 20).unwrap();
    let mut run = Run::start_on(&Hardware::on(&device), large_steps(&folder, "out", &[])).unwrap();
    while run.trainer().steps_done() < 1 {
        run.advance().unwrap();
    }
    let own = device.memory().unwrap().used - of_others.len();
    device.limit_memory(of_others.len() + own * 3 / 4);
    let text = finish(&mut run).unwrap_err().to_string();
    let (_, after) = text.split_once(") of ").unwrap();
    let can_have = after.split_once(" KiB;").and_then(|(number, _)| number.parse::<f64>().ok());
    assert!(can_have.is_some_and(|kibibytes| kibibytes * 1024.0 < own as f64 + 100.0), "it had {own} bytes: {text}");
}

#[test]
fn answers_that_are_drawn_count_for_a_budget() {
    let Some(device) = device() else { return };
    let folder = folder();
    let mut rows = pairs(10);
    for row in &mut rows {
        (row["reward_gap"], row["cost_gap"]) = (json!(0.5), json!(-0.5));
    }
    folder.lines("rows.jsonl", &rows);
    let answers = [
        "objective.type=safe_rlhf_lagrangian",
        "objective.dual=[{ limit = 0.0, ascent = { linear = { rate = 0.5 } } }]",
        &folder.at("safety.prompts", "rows.jsonl"),
        &format!("safety.costs=[{:?}]", folder.path("model")),
        "safety.prompts_per_round=3",
        "safety.max_new_tokens=400",
    ];
    let plan = |tokens: &str| large_steps(&folder, "out", &[&answers[..], &[tokens]].concat());
    let least = planned(&plan("train.tokens=auto"));
    assert!(least.answers > least.total() / 8, "{least:?}");
    device.limit_memory(least.total() as usize * 5 / 4);
    let (chosen, said) = plan("train.tokens=auto").with_token_budget(&Hardware::on(&device)).unwrap();
    let said = said.unwrap();
    let memory = planned(&plan(&format!("train.tokens={}", said.tokens)));
    assert_eq!(chosen.train.tokens, Some(TokenBudget::Tokens(said.tokens)));
    assert!(!said.whole_step && memory.total() <= said.planned && said.planned <= said.free - said.reserve, "{said:?}");
    // And for what is said where there is too little.
    device.limit_memory((least.total() - least.answers) as usize);
    let refused = plan("train.tokens=auto").with_token_budget(&Hardware::on(&device)).unwrap_err().to_string();
    assert!(refused.contains("answers that are drawn "), "{refused}");
}

#[test]
fn a_cache_made_before_says_its_budget() {
    let Some(device) = device() else { return };
    let folder = folder();
    let of = |tokens: &str| large_steps(&folder, "out", &["reference.kind=precomputed", tokens]);
    let work = |tokens: &str| Precomputation::start_on(&Hardware::on(&device), of(tokens)).unwrap();
    assert!(work("train.tokens=64").tokens_chosen().is_none());
    let mut auto = work("train.tokens=auto");
    assert!(auto.tokens_chosen().is_some_and(|choice| choice.whole_step && choice.first_steps.is_none()));
    while auto.advance().unwrap() {}
    assert_eq!(auto.rows(), 20);
}
