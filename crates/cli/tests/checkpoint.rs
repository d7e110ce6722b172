//! `wick checkpoint`: list, verify, export.

mod common;

use common::Bench;
use serde_json::Value;

#[test]
fn checkpoints_are_listed_verified_and_exported() {
    let bench = Bench::new();
    bench.train(&["--steps", "4", "--set", "output.save_every=2", "--set", "output.keep=0"]).succeeds();
    let listed = bench.wick(&["checkpoint", "list", "run"]);
    listed.succeeds();
    assert!(listed.out.contains("step-00000002") && listed.out.contains("step-00000004"), "{}", listed.out);
    let lines = bench.wick(&["checkpoint", "list", "run", "--json"]);
    let steps: Vec<u64> =
        lines.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["step"].as_u64()).collect();
    assert_eq!(steps, [2, 4]);
    let verified = bench.wick(&["checkpoint", "verify", "run"]);
    verified.succeeds();
    assert!(verified.out.contains("2 checkpoints") && verified.out.contains("all whole"), "{}", verified.out);

    // What is exported is the model of that step and nothing of the run; the last one is that which the run left.
    bench.wick(&["checkpoint", "export", "run", "--output", "exported"]).succeeds();
    let names = |directory: &str| {
        let entries = std::fs::read_dir(bench.path(directory)).expect("a directory").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("exported"), names("run/final"));
    let weights = |directory: &str| std::fs::read(bench.path(directory).join("model.safetensors")).expect("weights");
    assert!(weights("exported") == weights("run/final"));
    bench.wick(&["checkpoint", "export", "run", "--output", "exported"]).fails(2, &["exported", "not there"]);
    bench.wick(&["checkpoint", "export", "run/checkpoints/step-00000002", "-o", "earlier"]).succeeds();
    assert!(weights("earlier") != weights("run/final"));
    bench.wick(&["eval", "--model", "exported", "--reference", "model", "--data", "pairs.jsonl"]).succeeds();

    // One flipped bit is found, named, and passed over.
    let file = bench.path("run/checkpoints/step-00000004/optimizer.safetensors");
    let mut bytes = std::fs::read(&file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, bytes).expect("written");
    bench.wick(&["checkpoint", "verify", "run"]).fails(4, &["1 of 2 checkpoints are damaged"]);
    assert!(bench.wick(&["checkpoint", "verify", "run"]).out.contains("optimizer.safetensors"));
    bench.wick(&["checkpoint", "verify", "run/checkpoints/step-00000002"]).succeeds();
    let said = bench.wick(&["checkpoint", "export", "run", "--output", "older"]);
    said.succeeds();
    assert!(said.err.contains("passed over") && said.out.contains("2 steps") && weights("older") == weights("earlier"));
    std::fs::remove_file(bench.path("run/checkpoints/step-00000004/state.json")).expect("removed");
    let one = "run/checkpoints/step-00000004";
    bench.wick(&["checkpoint", "verify", one]).fails(4, &["1 of 1 checkpoints are damaged"]);
    bench.wick(&["checkpoint", "export", one, "-o", "none"]).fails(4, &["state.json"]);
    bench.wick(&["checkpoint", "list", "nowhere"]).fails(2, &["nowhere", "no checkpoint"]);
}
