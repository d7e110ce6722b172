//! The quickstart, in small: every part of it runs.

mod common;

use common::Bench;
use serde_json::Value;

#[test]
fn a_short_quickstart_makes_its_checks_and_its_report() {
    let bench = Bench::new();
    let said = bench.wick(&["quickstart", "--steps", "12", "--output", "q"]);
    said.succeeds();
    for word in [
        "before and after",
        "bag of words",
        "length alone",
        "chance",
        "SIGKILL",
        "report.html",
        " train --model YOUR_MODEL_DIRECTORY",
        "peak memory",
    ] {
        assert!(said.out.contains(word), "{word} is missing in: {}", said.out);
    }
    let summary: Value =
        serde_json::from_slice(&std::fs::read(bench.path("q/summary.json")).expect("summary")).expect("json");
    let checks = summary["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 3);
    assert!(checks.iter().all(|check| check["holds"] == true), "{summary}");
    assert!((summary["baselines"]["length alone"]["share"].as_f64().expect("share") - 0.5).abs() < 0.06);
    let page = std::fs::read_to_string(bench.path("q/report.html")).expect("report");
    assert!(page.matches("<svg").count() == 4 && page.contains("objective.type = &quot;dpo&quot;"));
    for outside in ["http://", "https://", "src=", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Its own directory is replaced; one of somebody else's is not.
    bench.text("own.txt", "mine");
    bench.wick(&["quickstart", "--steps", "2", "--output", "."]).fails(2, &["--output", "not empty"]);
    assert!(bench.path("own.txt").exists());
}

#[test]
fn the_untuned_model_can_be_made_again() {
    let bench = Bench::new();
    // What is there stays there.
    std::fs::create_dir_all(bench.path("made/work")).expect("a directory");
    bench.text("made/work/own.txt", "mine");
    bench.wick(&["quickstart", "--from-scratch", "--export", "made", "--text-steps", "3"]).succeeds();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        let path = bench.path("made").join(name);
        assert!(path.exists(), "{name}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o644, "{name}");
        }
    }
    assert!(bench.path("made/work/own.txt").exists());
    assert_eq!(std::fs::read_dir(bench.path("made")).expect("a directory").count(), 5, "no trace of the work is left");
    let again = bench.wick(&["quickstart", "--from-scratch", "--export", "again", "--text-steps", "3"]);
    again.succeeds();
    let weights = |name: &str| std::fs::read(bench.path(name).join("model.safetensors")).expect("weights");
    assert_eq!(weights("made"), weights("again"));
}
