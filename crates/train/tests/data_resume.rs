//! Runs that are stopped and go on in their data.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use serde_json::{Value, json};
use support::folder::{Folder, pairs, unpaired};

/// Rows of every kind in a folder.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut rows = pairs(40);
    rows[5] = rows[1].clone();
    rows[17]["rejected"] = "".into();
    folder.lines("rows.jsonl", &rows);
    folder.lines("more.jsonl", &pairs(70)[40..]);
    folder.lines("verdicts.jsonl", &unpaired(&rows[20..]));
    folder.convert("more.jsonl", "more.parquet");
    folder.convert("more.jsonl", "more.jsonl.zst");
    folder
}

#[test]
fn a_resumed_run_meets_the_rows_of_the_uninterrupted_one() {
    let folder = folder();
    let at = |name: &str| folder.at("data.path", name);
    let part = |name: &str, weight: f64| format!("{{ path = {:?}, weight = {weight:?} }}", folder.path(name));
    let mixture = format!("data.mixture=[{}, {}]", part("rows.jsonl", 3.0), part("more.parquet", 1.0));
    let shuffled =
        ["train.order=shuffled", "train.shuffle_buffer=7", "train.epochs=2", "output.save_every=1", "output.keep=0"];
    let (parquet, zst) = (at("more.parquet"), at("more.jsonl.zst"));
    let verdicts = at("verdicts.jsonl");
    let variants: Vec<Vec<&str>> = vec![
        vec!["data.workers=3"],
        vec![&mixture, "data.mixture_end=all_exhausted", "data.workers=2"],
        vec![&mixture, "train.bucket=2"],
        vec!["train.bucket=3", "train.tokens=30"],
        vec!["train.tokens=30", &zst],
        vec!["objective.type=kto", "data.unpair=true"],
        vec!["objective.type=kto", "data.unpair=true", "data.deduplicate=exact", "evaluation.held_out=0.2"],
        vec!["data.deduplicate=exact", &parquet],
        vec!["objective.type=kto", "data.balance={}", &verdicts, "data.workers=0"],
    ];
    for (index, variant) in variants.iter().enumerate() {
        let all = [&shuffled[..], variant].concat();
        let whole = folder.run(&format!("whole-{index}"), &all);
        for stop in [3, whole.steps.len() as u64 - 2] {
            let output = format!("parts-{index}-{stop}");
            folder.stop_after(&output, &all, stop + 1);
            assert_eq!(folder.latest(&output).state.step, stop, "{variant:?}");
            // The number of threads ahead is free.
            let other = [&all[..], &["data.workers=1"]].concat();
            let rest = folder.resume(&output, &other);
            let steps = &whole.steps[stop as usize..];
            assert_eq!(rest.steps, steps, "{variant:?} after {stop}");
            assert!(rest.weights == whole.weights, "{variant:?} after {stop}");
        }
    }
}

/// Takes the hash of all bytes out of what a checkpoint says of its rows.
fn without_content(checkpoint: &std::path::Path) {
    let path = checkpoint.join("state.json");
    let mut envelope: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    envelope["state"]["bookmark"]["data"].as_object_mut().unwrap().remove("content").unwrap();
    envelope["crc32"] = format!("{:08x}", crc32fast::hash(envelope["state"].to_string().as_bytes())).into();
    std::fs::write(path, envelope.to_string()).unwrap();
}

#[test]
fn rows_before_the_place_are_not_read_again() {
    let folder = Folder::new();
    let word = |n: usize| format!("w{}", 3 + n % 20);
    let row = |i: usize| json!({ "prompt": format!("{} {} {:0>6}", word(i), word(i / 20), i), "completion": format!(" {}", word(i * 7)) });
    let rows: Vec<Value> = (0..6000).map(row).collect();
    folder.lines("rows.jsonl", &rows);
    let all = [
        "objective.type=sft",
        "train.order=shuffled",
        "train.shuffle_buffer=16",
        "train.batch_size=250",
        "train.steps=22",
        "output.save_every=1",
        "output.keep=1",
    ];
    let whole = folder.run("whole", &all);
    folder.stop_after("parts", &all, 21);
    let text = std::fs::read_to_string(folder.path("rows.jsonl")).unwrap();
    // Past the ends that tell one file from another, and well before row 5000.
    let line = text.lines().nth(2000).unwrap();
    assert!(text.len() > 250_000 && text.find(line).unwrap() > 70_000);
    folder.text("rows.jsonl", &text.replace(line, &"?".repeat(line.len())));
    let refused = folder.try_resume("parts", &all).unwrap_err().to_string();
    assert!(refused.contains("data.path") && refused.contains("rows.jsonl"), "{refused}");
    // One that knows the ends of its file alone, as checkpoints once did, does not come to where the row is.
    without_content(&folder.latest("parts").path);
    let rest = folder.resume("parts", &all);
    assert_eq!(rest.steps, whole.steps[20..]);
    assert!(rest.weights == whole.weights);
    assert_eq!(rest.rows.rejected_rows(), 0, "the broken row was met");
    // The last rows belong to what tells one file from another.
    folder.stop_after("other", &all, 3);
    folder.text("rows.jsonl", &text.replace("5999", "5998"));
    let refused = folder.try_resume("other", &all).unwrap_err().to_string();
    assert!(refused.contains("data.path") && refused.contains("rows.jsonl"), "{refused}");
}

#[test]
fn what_may_differ_after_an_interruption_and_what_may_not() {
    let folder = folder();
    let part = |name: &str| format!("{{ path = {:?} }}", folder.path(name));
    let mixture = format!("data.mixture=[{}, {}]", part("rows.jsonl"), part("more.jsonl"));
    let all = [&mixture, "output.save_every=1"];
    folder.stop_after("out", &all, 3);
    let with = |more: &[&str]| folder.try_resume("out", &[&all[..], more].concat()).map(drop);
    with(&["data.workers=4"]).unwrap();
    with(&["train.threads=2"]).unwrap();
    with(&["train.tokens=30", "train.recompute=layers"]).unwrap();
    for (assignment, key) in [
        ("data.deduplicate=exact", "data.selection.deduplicate"),
        ("data.mixture_end=all_exhausted", "data.mixture_end"),
        ("train.bucket=2", "train.bucket"),
        ("data.max_prompt_length=4", "data.max_prompt_length"),
        ("evaluation.held_out=0.2", "data.prompts"),
        ("data.ties=keep", "data.ties"),
        ("data.date=2026-03-07", "data.date"),
    ] {
        let text = with(&[assignment]).unwrap_err().to_string();
        assert!(text.contains(key), "{assignment}: {text}");
    }
    // Any file of a mixture.
    folder.lines("more.jsonl", &pairs(71)[41..]);
    let text = with(&[]).unwrap_err().to_string();
    assert!(text.contains("data.path") && text.contains("more.jsonl"), "{text}");
}

#[test]
fn what_can_be_read_once_is_not_trained_on() {
    let folder = folder();
    let stdin = ["standard input", "several times", "write them to a file"];
    folder.refuses(&["data.path=-"], &[&["data.path"][..], &stdin].concat());
    folder.refuses(&["evaluation.path=-"], &[&["evaluation.path"][..], &stdin].concat());
    let mixture = format!("data.mixture=[{{ path = {:?} }}, {{ path = \"-\" }}]", folder.path("rows.jsonl"));
    folder.refuses(&[&mixture], &[&["data.mixture[1].path"][..], &stdin].concat());
    #[cfg(target_os = "linux")]
    folder.refuses(&["data.path=/dev/null"], &["data.path", "/dev/null", "can be read once"]);
}
