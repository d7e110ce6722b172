//! Rows of a configuration: formats, mixtures, held-out prompts, repeats, balance, lengths, ties.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeSet;

use candlewick_train::Fault;
use serde_json::{Value, json};
use support::folder::{Folder, pairs, records, unpaired};

#[test]
fn the_same_rows_in_another_format_train_to_the_same_bits() {
    let folder = Folder::new();
    let rows = pairs(22);
    folder.lines("rows.jsonl", &rows);
    folder.lines("parts/a.jsonl", &rows[..9]);
    folder.lines("parts/b.jsonl", &rows[9..]);
    folder.convert("rows.jsonl", "rows.parquet");
    folder.convert("rows.jsonl", "rows.jsonl.zst");
    folder.text("rows.json", &Value::from(rows.clone()).to_string());
    let cell = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let csv =
        rows.iter().map(|row| format!("{},{},{}\n", cell(row, "chosen"), cell(row, "rejected"), cell(row, "prompt")));
    folder.text("rows.csv", &format!("chosen,rejected,prompt\n{}", csv.collect::<String>()));
    let seeded = ["train.order=shuffled", "train.shuffle_buffer=5", "train.seed=3", "train.epochs=2"];
    let plain = folder.run("plain", &seeded);
    assert_eq!((plain.steps.len(), plain.rows.kept), (12, 44));
    for name in ["rows.parquet", "rows.jsonl.zst", "rows.json", "rows.csv", "parts", "parts/*.jsonl"] {
        let path = folder.at("data.path", name);
        let output = format!("of-{}", name.replace(['/', '*'], "-"));
        let other = folder.run(&output, &[&seeded[..], &[&path]].concat());
        assert!(other.bits() == plain.bits(), "{name}");
    }
    // A list of files stands for what the path names.
    let list = format!("data.files=[{:?}, {:?}]", folder.path("parts/a.jsonl"), folder.path("parts/b.jsonl"));
    assert!(folder.run("list", &[&seeded[..], &["data.path=\"any name\"", &list]].concat()).bits() == plain.bits());
}

#[test]
fn a_mixture_gives_rows_by_weight_until_its_end() {
    let folder = Folder::new();
    let rows = pairs(60);
    folder.lines("long.jsonl", &rows[..50]);
    folder.lines("short.jsonl", &rows[50..56]);
    let part = |name: &str, more: &str| format!("{{ path = {:?}, {more} }}", folder.path(name));
    let mixture =
        format!("data.mixture=[{}, {}]", part("long.jsonl", "weight = 3.0"), part("short.jsonl", "weight = 1.0"));
    let parts = |output: &str, end: &str| {
        let rows = folder.run(output, &[&mixture, end]).rows;
        let of = |name: &str| rows.parts[&folder.path(name).display().to_string()].kept;
        assert_eq!(rows.kept, of("long.jsonl") + of("short.jsonl"));
        (of("long.jsonl"), of("short.jsonl"))
    };
    let (long, short) = parts("first", "data.mixture_end=first_exhausted");
    assert_eq!(short, 6);
    assert!((18..=21).contains(&long), "{long}");
    let (long, short) = parts("all", "data.mixture_end=all_exhausted");
    assert_eq!(long, 50);
    assert!((16..=17).contains(&short), "{short}");

    // A part has its own columns and range.
    let renamed: Vec<Value> = rows[..8]
        .iter()
        .map(|row| json!({ "q": row["prompt"], "good": row["chosen"], "bad": row["rejected"] }))
        .collect();
    folder.lines("renamed.jsonl", &renamed);
    let columns = "columns = { prompt = \"q\", chosen = \"good\", rejected = \"bad\" }, rows = \"2..6\"";
    let mixture =
        format!("data.mixture=[{}, {}]", part("renamed.jsonl", columns), part("long.jsonl", "rows = \"30..34\""));
    assert_eq!(folder.run("columns", &[&mixture]).rows.kept, 8);

    let repeated = ["data.mixture_end=all_exhausted", "data.deduplicate=exact", &mixture];
    folder.refuses(&repeated, &["data.deduplicate", "data.mixture_end"]);
    folder.refuses(&[&mixture, "evaluation.split=test"], &["evaluation.path: missing"]);
    let held_out = folder.at("evaluation.path", "long.jsonl");
    folder.refuses(&[&mixture, &held_out], &["evaluation.rows", "overlaps data.rows, 30..34"]);
    folder.run("apart", &[&mixture, &held_out, "evaluation.rows=40.."]);
}

#[test]
fn prompts_are_held_out_with_all_their_rows() {
    let folder = Folder::new();
    // Each prompt in two rows, and some rows twice.
    let mut rows = pairs(40);
    for i in 0..20 {
        rows[i + 20]["prompt"] = rows[i]["prompt"].clone();
    }
    let repeats: Vec<Value> = (0..10).map(|i| rows[i * 4].clone()).collect();
    let all = [rows.clone(), repeats].concat();
    folder.lines("rows.jsonl", &all);
    let plan = folder.plan("out", &["evaluation.held_out=0.3"]);
    let (train, held_out) = (records(&plan.open_rows().unwrap()), records(&plan.open_held_out().unwrap().unwrap()));
    assert_eq!(train.len() + held_out.len(), all.len());
    let prompts = |rows: &[Value]| rows.iter().map(|row| row["prompt"].to_string()).collect::<BTreeSet<_>>();
    assert!(!prompts(&train).is_empty() && !prompts(&held_out).is_empty());
    assert!(prompts(&train).is_disjoint(&prompts(&held_out)));

    let outcome = folder.run("out", &["evaluation.held_out=0.3"]);
    assert_eq!(outcome.rows.kept, train.len() as u64);
    // Those after the last row of a full step are not met.
    assert!((1..=held_out.len() as u64).contains(&outcome.rows.elsewhere));
    assert_eq!(outcome.held_out.unwrap().kept, held_out.len() as u64);

    // Repeats are looked for among the rows of the training prompts alone, and the right ones are left out.
    let plan = folder.plan("both", &["evaluation.held_out=0.3", "data.deduplicate=exact"]);
    let mut met = BTreeSet::new();
    let once: Vec<Value> = train.iter().filter(|row| met.insert(row.to_string())).cloned().collect();
    assert!(once.len() < train.len());
    assert_eq!(records(&plan.open_rows().unwrap()), once);
    assert_eq!(records(&plan.open_held_out().unwrap().unwrap()), held_out);

    for key in ["path=x", "files=[\"x\"]", "subset=x", "split=test", "rows=1.."] {
        let key = format!("evaluation.{key}");
        let name = key.split('=').next().unwrap();
        folder.refuses(&["evaluation.held_out=0.3", &key], &[name, "evaluation.held_out"]);
    }
    for share in ["0.0", "1.0", "nan"] {
        folder.refuses(&[&format!("evaluation.held_out={share}")], &["evaluation.held_out"]);
    }
}

#[test]
fn splits_of_a_directory_are_told_by_name() {
    let folder = Folder::new();
    let rows = pairs(20);
    folder.lines("set/train-00000-of-00001.jsonl", &rows[..12]);
    folder.lines("set/test-00000-of-00001.jsonl", &rows[12..]);
    let path = folder.at("data.path", "set");
    let outcome = folder.run("out", &[&path, "data.split=train", "evaluation.split=test"]);
    assert_eq!((outcome.rows.kept, outcome.held_out.unwrap().kept), (12, 8));
    folder.refuses(&[&path], &["several splits", "test", "train"]);
    folder.refuses(&[&path, "data.split=dev"], &["no split"]);
    folder.refuses(&[&path, "data.split=train", "evaluation.split=train"], &["evaluation.rows", "overlaps"]);
    // The same files under another name, and one of them by itself.
    let file = folder.at("evaluation.path", "set/../set/train-00000-of-00001.jsonl");
    folder.refuses(&[&path, "data.split=train", &file], &["evaluation.rows", "overlaps"]);
    folder.refuses(&[&path, "data.split=all", &file], &["evaluation.path", "read from too"]);
    folder.refuses(&[&path, "data.split=train", "data.subset=default"], &["data.subset", "Hub"]);
    folder
        .refuses(&[&path, "data.split=train", "evaluation.split=test", "evaluation.subset=x"], &["evaluation.subset"]);
    let list = format!(
        "data.files=[{:?}, {:?}]",
        folder.path("set/train-00000-of-00001.jsonl"),
        folder.path("set/test-00000-of-00001.jsonl")
    );
    let outcome = folder.run("listed", &[&path, &list, "data.split=train", "evaluation.split=test"]);
    assert_eq!((outcome.rows.kept, outcome.held_out.unwrap().kept), (12, 8));
}

#[test]
fn repeats_and_the_more_frequent_verdict_are_left_out() {
    let folder = Folder::new();
    let rows = pairs(16);
    let repeated = [&rows[..9], &rows[3..9], &rows[9..]].concat();
    folder.lines("rows.jsonl", &repeated);
    folder.lines("once.jsonl", &rows);
    let once = folder.at("data.path", "once.jsonl");
    let outcome = folder.run("left", &["data.deduplicate=exact"]);
    assert_eq!((outcome.rows.kept, outcome.rows.rejected_rows()), (16, 6));
    assert!(outcome.bits() == folder.run("once", &[&once]).bits());
    let outcome = folder.run("near", &["data.deduplicate={ near = { similarity = 0.9 } }"]);
    assert!(outcome.rows.rejected_rows() >= 6);
    folder.refuses(
        &["data.deduplicate={ near = { similarity = 2.0 } }"],
        &["data.deduplicate.near.similarity", "0.5 to 1"],
    );

    // Of pairs that are taken apart, both halves go.
    let kto = ["objective.type=kto", "data.stratified=false", "data.unpair=true"];
    let outcome = folder.run("halves", &[&kto[..], &["data.deduplicate=exact"]].concat());
    assert_eq!(outcome.rows.kept, 32);
    assert!(outcome.bits() == folder.run("halves-once", &[&kto[..], &[&once]].concat()).bits());

    let verdicts: Vec<Value> =
        unpaired(&rows).into_iter().enumerate().filter(|(i, _)| i % 2 == 0 || i % 6 == 1).map(|(_, row)| row).collect();
    let wanted = verdicts.iter().filter(|row| row["label"] == true).count() as u64;
    let unwanted = verdicts.len() as u64 - wanted;
    folder.lines("verdicts.jsonl", &verdicts);
    let path = folder.at("data.path", "verdicts.jsonl");
    let kto = ["objective.type=kto", &path, "train.batch_size=3"];
    let balanced = folder.run("balanced", &[&kto[..], &["data.balance={}"]].concat());
    assert_eq!((balanced.rows.kept, wanted > unwanted), (2 * unwanted, true));
    let wider = folder.run("wider", &[&kto[..], &["data.balance={ ratio = 2.0, seed = 3 }"]].concat());
    assert_eq!(wider.rows.kept, 3 * unwanted);
    folder.refuses(&[&kto[..], &["data.balance={ ratio = 0.5 }"]].concat(), &["data.balance.ratio", "0.5"]);
    folder.refuses(&["data.balance={}"], &["data.balance", "no verdicts"]);
    folder.refuses(&["objective.type=kto", "data.balance={}", "data.unpair=true"], &["data.balance", "data.unpair"]);
}

#[test]
fn pairs_are_read_as_two_rows_with_a_verdict_each() {
    let folder = Folder::new();
    let rows = pairs(18);
    folder.lines("rows.jsonl", &rows);
    folder.lines("unpaired.jsonl", &unpaired(&rows));
    let path = folder.at("data.path", "unpaired.jsonl");
    let apart = ["objective.type=kto", "data.unpair=true"];
    let outcome = folder.run("apart", &apart);
    assert_eq!(outcome.rows.kept, 36);
    assert!(outcome.bits() == folder.run("file", &["objective.type=kto", &path]).bits());
    let outcome = folder.run("shuffled", &[&apart[..], &["train.order=shuffled", "train.epochs=2"]].concat());
    assert_eq!((outcome.rows.kept, outcome.rows.one_label_steps), (72, 0));
    folder.refuses(&["data.unpair=true"], &["data.unpair", "more than rows with a verdict"]);
    folder.refuses(&["objective.type=kto", "data.unpair=true", &path], &["no full step", "unpaired.jsonl:1"]);
}

#[test]
fn ties_are_dropped_kept_or_soft() {
    let folder = Folder::new();
    let votes = [json!(["a", "b"]), json!(["a", "a"]), json!(["b", "a", "b"]), json!(["tie"])];
    let rows: Vec<Value> = pairs(12)
        .iter()
        .enumerate()
        .map(|(i, row)| json!({ "prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "votes": votes[i % 4] }))
        .collect();
    folder.lines("rows.jsonl", &rows);
    assert_eq!(folder.run("dropped", &[]).rows.kept, 6);
    assert_eq!(folder.run("kept", &["data.ties=keep"]).rows.kept, 12);
    let soft = folder.run("soft", &["objective.type=soft_dpo", "data.ties=soft"]);
    assert_eq!(soft.rows.kept, 12);
    assert_ne!(soft.bits(), folder.run("hard", &["data.ties=keep"]).bits());
    folder.refuses(&["data.ties=soft"], &["data.ties", "preference", "objective.type"]);
    folder.refuses(&["data.criterion=helpful"], &["helpful"]);
}

#[test]
fn a_criterion_chooses_among_labels() {
    let folder = Folder::new();
    let rows: Vec<Value> = pairs(8)
        .iter()
        .enumerate()
        .map(|(i, row)| {
            json!({ "prompt": row["prompt"], "response_0": row["chosen"], "response_1": row["rejected"],
                    "is_response_0_safe": true, "is_response_1_safe": true,
                    "better_response_id": i % 2, "safer_response_id": 0 })
        })
        .collect();
    folder.lines("rows.jsonl", &rows);
    let [better, safer] = ["better", "safer"].map(|criterion| {
        let criterion = format!("data.criterion={criterion}");
        records(&folder.plan("out", &[&criterion]).open_rows().unwrap())
    });
    let same = better.iter().zip(&safer).filter(|(a, b)| a["chosen"] == b["chosen"]).count();
    assert_eq!((better.len(), safer.len(), same), (8, 8, 4));
    folder.refuses(&["data.criterion=kinder"], &["kinder", "safer"]);
}

#[test]
fn lengths_are_cut_rejected_or_an_error_with_the_row() {
    let folder = Folder::new();
    let mut rows = pairs(8);
    rows[5]["prompt"] = "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12".into();
    rows[6]["chosen"] = " w3 w4 w5 w6 w7 w8 w9 w10 w11 w12".into();
    folder.lines("rows.jsonl", &rows);
    let plain = folder.run("plain", &[]);
    for (limit, policy, cut) in [
        ("data.max_prompt_length=8", "data.prompt_truncation", "keep_end"),
        ("data.max_completion_length=9", "data.completion_truncation", "keep_start"),
        ("data.max_length=14", "data.truncation", "keep_end_of_prompt"),
    ] {
        let with = |word: &str| format!("{policy}={word}");
        let name = policy.replace('.', "-");
        let outcome = folder.run(&format!("{name}-cut"), &[limit, &with(cut)]);
        assert_eq!(outcome.rows.kept, 8, "{limit}");
        assert!(outcome.rows.counts.truncated > 0, "{limit}");
        assert_ne!(outcome.bits(), plain.bits(), "{limit}");
        let outcome = folder.run(&format!("{name}-reject"), &[limit, &with("reject")]);
        assert!(outcome.rows.kept < 8, "{limit}");
        let error = folder.refused(&[limit, &with("error")]);
        let place = format!("rows.jsonl:{}", if limit.contains("completion") { 7 } else { 6 });
        assert!(error.to_string().contains(&place), "{error}");
        assert_eq!(error.fault(), Fault::Data);
    }
    folder.refuses(&["data.prompt_truncation=reject"], &["data.prompt_truncation", "data.max_prompt_length"]);
    folder
        .refuses(&["data.completion_truncation=error"], &["data.completion_truncation", "data.max_completion_length"]);
    folder.refuses(&["data.max_length=0", "data.truncation=reject"], &["data.truncation", "data.max_length"]);
    folder.refuses(&["data.max_prompt_length=1"], &["data.max_prompt_length", "at least 2"]);
}

#[test]
fn rows_are_gathered_by_tokens_or_by_length() {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &pairs(40));
    let eight = ["train.batch_size=8", "train.order=shuffled", "train.seed=2", "optimizer.learning_rate=1e-4"];
    let plain = folder.run("plain", &eight);
    let packed = folder.run("packed", &[&eight[..], &["train.tokens=40"]].concat());
    assert_eq!(packed.steps.len(), plain.steps.len());
    for ((loss, norm), (packed_loss, packed_norm)) in plain.steps.iter().zip(&packed.steps) {
        assert!((loss - packed_loss).abs() < 1e-6 && (norm - packed_norm).abs() < 1e-4 * norm.max(1.0));
    }
    let tight = folder.run("tight", &[&eight[..], &["train.tokens=3"]].concat());
    assert_eq!(tight.rows.over_budget, 40);
    let bucket = folder.run("bucket", &[&eight[..], &["train.bucket=3"]].concat());
    assert_eq!((bucket.steps.len(), bucket.rows.kept), (plain.steps.len(), 40));
    assert_ne!(bucket.bits(), plain.bits());

    folder.refuses(&["train.bucket=0"], &["train.bucket: 0", "at least 1"]);
    folder.lines("rows.jsonl", &unpaired(&pairs(20)));
    folder.refuses(&["objective.type=kto", "train.tokens=40"], &["train.tokens", "objective.type"]);
    let both = ["objective.type=kto", "train.bucket=2", "data.stratified=true"];
    folder.refuses(&both, &["train.bucket", "data.stratified"]);
    folder.run("verdicts", &["objective.type=kto", "train.bucket=2", "train.order=shuffled"]);
}

#[test]
fn any_number_of_workers_gives_the_same_bits() {
    let folder = Folder::new();
    let mut rows = pairs(40);
    rows[7]["chosen"] = "".into();
    folder.lines("rows.jsonl", &rows);
    let with = |workers: usize| {
        let workers = format!("data.workers={workers}");
        folder.run(&workers[5..], &["train.order=shuffled", "train.shuffle_buffer=9", "train.epochs=2", &workers])
    };
    let none = with(0);
    assert_eq!(none.rows.rejected_rows(), 2);
    for workers in [1, 3] {
        let some = with(workers);
        assert!(some.bits() == none.bits());
        assert_eq!(some.rows, none.rows);
    }
    folder.refuses(&["data.workers=1000"], &["data.workers", "256"]);
}

#[test]
fn templates_are_told_the_date_that_is_given() {
    let folder = Folder::new();
    let template = "{{ strftime_now('w%d') }}{% for m in messages %} {{ m.content }}{% endfor %}";
    folder.text("model/chat_template.jinja", template);
    let talk = |text: &Value, role: &str| json!([{ "role": role, "content": text.as_str().unwrap().trim() }]);
    let rows: Vec<Value> = pairs(8)
        .iter()
        .map(|row| json!({ "prompt": talk(&row["prompt"], "user"), "chosen": talk(&row["chosen"], "assistant"), "rejected": talk(&row["rejected"], "assistant") }))
        .collect();
    folder.lines("rows.jsonl", &rows);
    let ten = folder.run("ten", &["data.date=2026-03-10"]);
    assert_eq!(ten.rows.kept, 8);
    assert_ne!(ten.bits(), folder.run("eleven", &["data.date=2026-03-11"]).bits());
    folder.refuses(&[], &["date"]);
    folder.refuses(&["data.date=someday"], &["data.date", "someday"]);
}
