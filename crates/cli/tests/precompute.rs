//! `wick precompute`: what it makes, what it goes on with after it was killed, and what it refuses.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;

use common::{Bench, Said, await_path};
use serde_json::{Value, json};

/// Rows of which each is another one.
fn many(bench: &Bench, count: usize) {
    let rows = (0..count).map(|i| {
        let noise: Vec<&str> = (0..15).map(|bit| if i >> bit & 1 == 1 { "red" } else { "blue" }).collect();
        json!({ "prompt": noise.join(" "), "chosen": " yes", "rejected": " no" })
    });
    bench.lines("many.jsonl", rows);
    bench.text(
        "run.toml",
        "model.path = \"model\"\ndata.path = \"many.jsonl\"\ntrain = { batch_size = 16, threads = 1 }\noutput.dir = \"run\"\n\
         evaluation.held_out = 0.02\n",
    );
}

const PRECOMPUTE: [&str; 5] = ["precompute", "--config", "run.toml", "--cache", "cache"];

/// Files of the cache that will never change, with their bytes.
fn segments(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(bench.path("cache")).expect("a cache").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let named: Value =
        serde_json::from_slice(&std::fs::read(bench.path("cache/manifest.json")).expect("a manifest")).expect("JSON");
    let is_named = |name: &String| named["cache"]["segments"].to_string().contains(name.as_str());
    names
        .filter(is_named)
        .map(|name| (name.clone(), std::fs::read(bench.path("cache").join(name)).expect("whole")))
        .collect()
}

#[test]
fn a_killed_one_goes_on_where_it_was_and_runs_find_what_it_made() {
    let bench = Bench::new();
    many(&bench, 12_000);
    let mut child = bench.spawn(&PRECOMPUTE);
    // In the middle of a segment, perhaps.
    await_path(&bench.path("cache/segment-00000003.safetensors"), &mut child);
    child.kill().expect("SIGKILL");
    child.wait().expect("a child");
    let kept = segments(&bench);
    assert!(kept.len() >= 2, "{:?}", kept.keys());

    // Interrupted in words, and what was scored by then is kept too.
    let mut command = bench.command(&PRECOMPUTE);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("wick");
    let next = format!("cache/segment-{:08}.safetensors", kept.len() + 2);
    await_path(&bench.path(&next), &mut child);
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(sent.expect("sh").success());
    Said::of(child.wait_with_output().expect("output"))
        .fails(130, &["interrupted", "are kept in cache", "the same command goes on"]);

    let said = bench.wick(&PRECOMPUTE);
    said.succeeds();
    assert!(said.out.contains("completions were scored; cache holds 24000"), "{}", said.out);
    assert!(said.err.contains("steps") && said.err.contains("completions"), "{}", said.err);
    let whole = segments(&bench);
    assert!(kept.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)), "a segment was written a second time");
    let said = bench.wick(&PRECOMPUTE);
    said.succeeds();
    assert!(said.out.contains("nothing is left to do: cache holds 24000 completions"), "{}", said.out);
    assert!(segments(&bench) == whole);
    assert!(!bench.path("run").exists(), "nothing is written but the cache");

    // A run with the cache is the run without it.
    let train = |output, more: &[&str]| {
        let said = bench.wick(&[&["train", "--config", "run.toml", "--steps", "3", "--output", output], more].concat());
        said.succeeds();
        assert!(!said.err.contains("completions scored by the reference"), "{}", said.err);
        std::fs::read_to_string(bench.path(output).join("metrics.jsonl")).expect("metrics")
    };
    let cached = ["--set", "reference.kind=precomputed", "--set", "reference.path=cache"];
    assert_eq!(train("cached", &cached), train("frozen", &[]));

    // A segment that is damaged ends the next run, and is left as it is.
    let damaged = bench.path("cache/segment-00000001.safetensors");
    let mut bytes = std::fs::read(&damaged).expect("a segment");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&damaged, &bytes).expect("written");
    for words in [
        &PRECOMPUTE[..],
        &["train", "--config", "run.toml", "--output", "c", cached[0], cached[1], cached[2], cached[3]],
    ] {
        bench.wick(words).fails(4, &["segment-00000001.safetensors", "another checksum", "remove the directory"]);
    }
    assert_eq!(std::fs::read(&damaged).expect("a segment"), bytes);
}

#[test]
fn what_it_cannot_make_is_refused_by_name() {
    let bench = Bench::new();
    many(&bench, 20);
    let refuses =
        |more: &[&str], code, words: &[&str]| bench.wick(&[&PRECOMPUTE[..], more].concat()).fails(code, words);
    refuses(&["--objective", "sft"], 2, &["objective.type = \"sft\"", "uses no reference"]);
    refuses(
        &["--objective", "tr_dpo"],
        2,
        &["reference.kind", "the objective moves its reference", "objective.update"],
    );
    refuses(&["--set", "reference.kind=frozen"], 2, &["reference.kind = \"frozen\"", "precomputed"]);
    refuses(&["--set", "reference.path=model"], 2, &["reference.path = model", "--cache"]);
    bench
        .wick(&["precompute", "--config", "run.toml", "--cache", "model"])
        .fails(4, &["model", "not a reference cache"]);
    bench
        .wick(&["precompute", "--model", "model", "--data", "many.jsonl"])
        .fails(2, &["--cache: missing", "output.dir"]);
    // Of other weights.
    bench.wick(&PRECOMPUTE).succeeds();
    bench.model("other", 14);
    let text = std::fs::read_to_string(bench.path("other/config.json")).expect("a file");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["rms_norm_eps"] = 0.5.into();
    bench.text("other/config.json", &config.to_string());
    refuses(&["--model", "other"], 4, &["made with other weights, adapters or settings", "reference.shared = true"]);
    let said = bench.wick(&[&PRECOMPUTE[..], &["--model", "other", "--shared"]].concat());
    said.succeeds();
    assert!(said.out.contains("40 completions were scored; cache holds 40"), "{}", said.out);
}
