//! What `wick train --print-plan` says of memory is what `wick train` then takes.
#![cfg(target_os = "linux")]

mod common;

use candlewick::model::{CausalLm, Config};
use common::Bench;
use serde_json::json;

const VOCABULARY: usize = 32_000;

/// A model of five million numbers, and rows of up to a few hundred tokens.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.model("model", 14);
    let config = Config::llama(VOCABULARY, 144, 3);
    CausalLm::<f32>::random(config, 1).expect("a model").save(&bench.path("model")).expect("saved");
    let words = ["one", "two", "three", "four", "five", "six", "red", "green", "blue"];
    let text = |from: usize, count: usize| -> String {
        (0..count).map(|i| format!(" {}", words[(from + i * i) % words.len()])).collect()
    };
    let pair = |i: usize| json!({ "prompt": format!("yes{}", text(i, 60 + 7 * (i % 5))), "chosen": text(i + 1, 20 + i % 9), "rejected": text(i + 2, 25 + i % 7) });
    bench.lines("long.jsonl", (0..24).map(pair));
    bench
}

/// MiB of a line of the plan.
fn mebibytes(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.trim().strip_suffix(" MiB"));
    found.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// The planned and the measured peak, with the plan.
fn peaks(bench: &Bench, output: &str, more: &[&str]) -> (f64, f64, String) {
    let mut ours = vec!["--data", "long.jsonl", "--output", output, "--set", "data.workers=0"];
    if !more.contains(&"--steps") {
        ours.extend(["--steps", "4"]);
    }
    let words = [&ours[..], more].concat();
    let plan = bench.train(&[&words[..], &["--print-plan"]].concat());
    plan.succeeds();
    assert!(plan.out.contains("largest micro-batch of all rows"), "{}", plan.out);
    let said = bench.train(&words);
    said.succeeds();
    let peak = said.out.lines().find_map(|line| line.strip_prefix("peak memory ")?.strip_suffix(" MiB"));
    let peak: f64 = peak.and_then(|number| number.parse().ok()).expect("the peak is reported");
    (mebibytes(&plan.out, "total at the peak"), peak, plan.out)
}

#[test]
fn the_planned_peak_is_the_measured_one() {
    let bench = bench();
    let mut totals = Vec::new();
    for (output, more) in [
        ("full", &[][..]),
        ("lora", &["--lora", "8"][..]),
        ("precomputed", &["--set", "reference.kind=precomputed"]),
        ("layers", &["--set", "train.recompute=layers"]),
        // Gradients of the first half are there while the head keeps a softmax of the second.
        ("accumulated", &["--set", "train.micro_batches=2"]),
        ("threads", &["--batch", "6", "--threads", "2"]),
        ("head", &["--lora", "8", "--set", "model.lora.targets=[\"v_proj\", \"lm_head\"]"]),
    ] {
        let (planned, measured, plan) = peaks(&bench, output, more);
        let off = planned / measured - 1.0;
        eprintln!("{output}: planned {planned:.1} MiB, measured {measured:.1} MiB, {:+.1} %", 100.0 * off);
        assert!(off.abs() <= 0.15, "{output}: planned {planned} MiB, measured {measured} MiB\n{plan}");
        // What the process has beside the run is measured, and is another number every time.
        totals.push(planned - mebibytes(&plan, "process"));
    }
    // The plan tells the ways of running apart, so that it is no constant that happens to fit.
    let [full, lora, precomputed, layers, accumulated, _, head] = totals[..] else { panic!("seven runs") };
    assert!(lora < 0.8 * full && precomputed < 0.9 * full && layers < full && accumulated > full, "{totals:?}");
    assert!(head > lora, "{totals:?}");
}

/// Buffers of every size would otherwise stay behind.
#[test]
fn rows_of_many_lengths_keep_to_the_plan() {
    let bench = bench();
    let words = |count: usize| " red".repeat(count);
    let pair = |i: usize| json!({ "prompt": format!("yes{}", words(3 + i * 37 % 90)), "chosen": words(2 + i * 53 % 120), "rejected": words(2 + i * 29 % 110) });
    bench.lines("long.jsonl", (0..240).map(pair));
    for (output, more) in
        [("full", &[][..]), ("lora", &["--lora", "8"][..]), ("moving", &["--objective", "tr_dpo", "--lora", "8"][..])]
    {
        let words = [&["--steps", "60"][..], more].concat();
        let (planned, measured, plan) = peaks(&bench, output, &words);
        let off = planned / measured - 1.0;
        eprintln!("{output}: planned {planned:.1} MiB, measured {measured:.1} MiB, {:+.1} %", 100.0 * off);
        assert!(off.abs() <= 0.15, "{output}: planned {planned} MiB, measured {measured} MiB\n{plan}");
        assert!(plan.contains("buffers of other sizes"), "{plan}");
    }
}

/// The sizes are held against a device's by `crates/train/tests/device/memory.rs`.
#[test]
fn the_memory_of_a_device_is_told_without_one() {
    let bench = bench();
    let words = ["--data", "long.jsonl", "--print-plan", "--set", "train.device=cuda"];
    let said = bench.train(&words);
    said.succeeds();
    let (on_device, on_host) = said.out.split_once("# and on the host beside it:\n").expect("both are told");
    assert!(on_device.contains("# on cuda:0:\n"), "{}", said.out);
    let (weights, masters) = (mebibytes(on_device, "weights"), mebibytes(on_device, "master weights"));
    // In bf16 and in f32.
    assert!((masters / weights - 2.0).abs() < 0.02, "{}", said.out);
    assert!(mebibytes(on_device, "total on the device") > 5.0 * masters, "{}", said.out);
    assert!(mebibytes(on_host, "total on the host") > mebibytes(on_host, "process"), "{}", said.out);
    let wide = bench.train(&[&words[..], &["--set", "train.dtype=f32"]].concat());
    assert!((mebibytes(&wide.out, "weights") - masters).abs() < 0.2, "{}", wide.out);

    // What the budget would be, only the device can say.
    let said = bench.train(&[&words[..], &["--set", "train.tokens=auto"]].concat());
    said.succeeds();
    if !cfg!(feature = "cuda") {
        assert!(said.out.contains("train.tokens = \"auto\"\n"), "{}", said.out);
        assert!(said.out.contains("# train.tokens is not decided: train.device"), "{}", said.out);
        assert!(said.out.contains("; give a number to see the memory it takes\n"), "{}", said.out);
    }
    let said = bench.train(&["--data", "long.jsonl", "--print-plan", "--set", "train.tokens=auto"]);
    assert!(!said.err.is_empty() && said.err.contains("train.tokens: \"auto\""), "{}", said.err);
}

#[test]
fn where_rows_do_not_tell_the_limits_do() {
    let bench = bench();
    let limits = ["--data", "nowhere.jsonl", "--max-length", "100", "--print-plan"];
    let said = bench.train(&limits);
    said.succeeds();
    assert!(said.out.contains("that the limits allow (800 tokens, 800 of them scored, 100 in a row)"), "{}", said.out);
    assert!(said.out.contains("nowhere.jsonl"), "{}", said.out);
    let said = bench.train(&["--data", "nowhere.jsonl", "--max-length", "0", "--print-plan"]);
    said.succeeds();
    assert!(said.out.contains("# memory is not planned: "), "{}", said.out);
}
