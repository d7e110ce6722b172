//! `wick eval --task`: the examples of docs/benchmarks.md, the built-in tasks, judges that run only when they may, and wrong words.

mod common;

use std::path::{Path, PathBuf};

use candlewick::model::{CausalLm, Config};
use common::{Bench, Said};
use serde_json::{Map, Value, json};

/// A model over bytes, small enough for a test, in which every text has tokens of its own.
fn bench() -> Bench {
    let bench = Bench::new();
    // The letters that byte-level tokenizers write for the 256 bytes.
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let mut letters: Vec<String> = Vec::new();
    for byte in 0..=255u8 {
        let code = if printable(byte) { u32::from(byte) } else { others.next().expect("a number") };
        letters.push(char::from_u32(code).expect("a character").to_string());
    }
    let specials = ["<s>".to_owned(), "</s>".to_owned()];
    let vocabulary: Map<String, Value> =
        specials.iter().chain(&letters).enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let size = vocabulary.len();
    let special = |id: usize, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                   "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": [] },
    });
    let configuration = json!({
        "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true,
        "chat_template": "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}",
    });
    for (name, seed) in [("bytes", 1), ("other", 2)] {
        let directory = bench.path(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut config = Config::llama(size, 32, 1);
        config.max_position_embeddings = 2048;
        CausalLm::<f32>::random(config, seed).expect("a model").save(&directory).expect("saved");
        std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).expect("written");
        std::fs::write(directory.join("tokenizer_config.json"), configuration.to_string()).expect("written");
    }
    bench
}

fn root() -> PathBuf {
    candlewick_testkit::workspace()
}

fn reports(said: &Said) -> Vec<Value> {
    said.succeeds();
    let found: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out));
    assert_eq!(found["version"], 1);
    found["tasks"].as_array().expect("reports").clone()
}

fn metric<'a>(report: &'a Value, name: &str) -> &'a Value {
    let metrics = report["metrics"].as_array().expect("metrics");
    metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Scores 1 and prefers the second answer.
#[cfg(unix)]
const JUDGE: &str = r#"while read -r line; do case "$line" in *'"ask":"score"'*) echo '{"score": 1}';; *) echo '{"winner": "second", "why": "so"}';; esac; done"#;

#[test]
fn examples_of_the_page_are_the_files_and_run() {
    let page = std::fs::read_to_string(root().join("docs/benchmarks.md")).expect("the page");
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let mut shown: Vec<String> = Vec::new();
    for block in blocks {
        let name = block.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a block begins with its file");
        assert_eq!(std::fs::read_to_string(root().join(name)).expect("the file"), block, "{name}");
        shown.push(name.to_owned());
    }
    let mut files: Vec<String> = std::fs::read_dir(root().join("examples/tasks"))
        .expect("examples")
        .map(|entry| format!("examples/tasks/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".toml"))
        .collect();
    files.sort();
    shown.sort();
    assert_eq!(files, shown);
    let bench = bench();
    let place = |name: &str| root().join(format!("examples/tasks/{name}.toml")).display().to_string();
    let run = |name: &str, more: &[&str]| {
        let task = place(name);
        let words =
            [&["eval", "--model", "bytes", "--threads", "1", "--json", "--task", task.as_str()][..], more].concat();
        reports(&bench.wick(&words)).remove(0)
    };
    for (name, rows, numbers) in [
        ("facts", 4, &["accuracy_sum", "accuracy_pmi", "probability_of_right", "calibration_error", "chance"][..]),
        ("stories", 4, &["accuracy_sum", "accuracy_mean"]),
        ("claims", 4, &["accuracy", "area_under_curve", "groups_right", "form_consistency", "brier"]),
        ("inventory", 6, &["score", "agreement", "order_consistency", "form_consistency", "order_shift", "form_shift"]),
        ("dilemmas", 4, &["chosen_0", "probability_1", "order_consistency", "form_consistency"]),
        ("cultures", 4, &["agreement", "cross_entropy"]),
        ("sums", 3, &["accuracy", "accuracy_strict"]),
    ] {
        let report = run(name, &[]);
        assert_eq!(
            (&report["task"], &report["items"], &report["left_out"]),
            (&json!(name), &json!(rows), &json!(0)),
            "{report}"
        );
        for number in numbers {
            let found = metric(&report, number);
            let ends = [&found["low"], &found["value"], &found["high"]].map(|end| end.as_f64().expect("a number"));
            assert!(
                ends[0] <= ends[1] + 1e-12 && ends[1] <= ends[2] + 1e-12 && found["n"].as_u64() > Some(0),
                "{name}: {found}"
            );
        }
    }
    let refusals = run("refusals", &[]);
    // By the rows: one of two unsafe prompts and one of two safe ones is refused.
    assert_eq!(
        (
            metric(&refusals, "refusal_rate_unsafe")["value"].as_f64(),
            metric(&refusals, "over_refusal_rate")["value"].as_f64()
        ),
        (Some(0.5), Some(0.5))
    );
    let ranked = run("rewards", &["--reference", "other"]);
    assert_eq!(
        (metric(&ranked, "accuracy")["n"].as_u64(), metric(&ranked, "accuracy_mean_of_slices")["n"].as_u64()),
        (Some(4), Some(3))
    );
    #[cfg(unix)]
    {
        let judged = run("adversarial", &["--judge", JUDGE]);
        assert_eq!(metric(&judged, "score")["value"].as_f64(), Some(1.0));
        assert_eq!(judged["slices"].as_array().map(Vec::len), Some(4));
        let won = run("helpfulness", &["--judge", JUDGE]);
        // Whoever is second wins: once each.
        assert_eq!(
            (metric(&won, "win_rate")["value"].as_f64(), metric(&won, "position_consistency")["value"].as_f64()),
            (Some(0.5), Some(0.0))
        );
        assert_eq!(metric(&won, "first_place_wins")["value"].as_f64(), Some(0.0));
    }
}

#[cfg(unix)]
#[test]
fn a_command_of_a_task_file_runs_only_when_it_is_allowed() {
    let bench = bench();
    let judge = format!("touch ran; {JUDGE}");
    let task = format!(
        "kind = \"generate\"\nrows = \"rows.jsonl\"\nprompt = \"p\"\nmax_new_tokens = 2\nmatch = \"judge\"\njudge = '''{judge}'''\n"
    );
    bench.text("task.toml", &task);
    bench.text("rows.jsonl", "{\"a\": 1}\n{\"a\": 2}\n");
    let words = ["eval", "--model", "bytes", "--task", "task.toml"];
    bench.wick(&words).fails(2, &["names a judge", "touch ran", "was not run", "--allow-commands"]);
    assert!(!bench.path("ran").exists());
    // Another judge takes its place.
    bench.wick(&[&words[..], &["--judge", JUDGE]].concat()).succeeds();
    assert!(!bench.path("ran").exists());
    bench.wick(&[&words[..], &["--allow-commands"]].concat()).succeeds();
    assert!(bench.path("ran").exists());
    // A rule decides, and yet the file names a command: not run either.
    std::fs::remove_file(bench.path("ran")).expect("there");
    bench.text("task.toml", &task.replace("\"judge\"\njudge", "\"refusal\"\njudge"));
    bench.wick(&words).fails(2, &["--allow-commands"]);
    assert!(!bench.path("ran").exists());
    // A preview runs nothing and needs no model.
    bench.text("task.toml", &task);
    let said = bench.wick(&["eval", "--task", "task.toml", "--preview", "1"]);
    said.succeeds();
    assert!(said.out.contains("\"prompt\":\"p\"") && said.out.lines().count() == 1, "{}", said.out);
    assert!(!bench.path("ran").exists());
}

#[cfg(unix)]
#[test]
fn judges_that_fail_are_told_with_the_row() {
    let bench = bench();
    bench.text(
        "task.toml",
        "kind = \"generate\"\nrows = \"rows.jsonl\"\nprompt = \"p\"\nmax_new_tokens = 2\nmatch = \"judge\"\n",
    );
    bench.text("rows.jsonl", "{\"a\": 1}\n{\"a\": 2}\n");
    let judged = |judge: &str, more: &[&str]| {
        bench.wick(&[&["eval", "--model", "bytes", "--task", "task.toml", "--judge", judge][..], more].concat())
    };
    judged("exit 3", &[]).fails(3, &["rows.jsonl:1", "ended before it answered", "3"]);
    judged("read -r line; echo '{\"score\": 1}'", &[]).fails(3, &["rows.jsonl:2", "ended before it answered"]);
    judged("while read -r line; do echo no; done", &[]).fails(3, &["rows.jsonl:1", "\"no\"", "x from 0 to 1"]);
    judged("sleep 30", &["--judge-timeout", "1"]).fails(3, &["rows.jsonl:1", "within 1 s", "--judge-timeout"]);
    judged("while read -r line; do echo '{\"score\": 1}'; done; exit 5", &[]).fails(3, &["failed at its end", "5"]);
    judged("no-such-program-of-any-kind", &[]).fails(3, &["ended before it answered"]);
}

#[test]
fn nothing_that_is_given_is_ignored() {
    let bench = bench();
    bench.text(
        "task.toml",
        "kind = \"choice\"\nrows = \"rows.jsonl\"\nprompt = \"{{ q }}\"\nchoices = [\"a\", \"b\"]\nanswer = \"0\"\n",
    );
    bench.text("rows.jsonl", "{\"q\": \"x\"}\n");
    let fails = |more: &[&str], words: &[&str]| {
        bench.wick(&[&["eval", "--model", "bytes", "--task", "task.toml"][..], more].concat()).fails(2, words);
    };
    fails(&["--judge", "true"], &["--judge", "none of the tasks asks a judge"]);
    fails(&["--judge-timeout", "5"], &["--judge-timeout"]);
    fails(&["--against", "other"], &["--against"]);
    fails(&["--reference", "other"], &["--reference", "none of the tasks"]);
    fails(&["--reward", "other", "--reward-reference", "other"], &["--reward"]);
    fails(&["--task-rows", "rows.jsonl", "--task-rows", "rows.jsonl"], &["2 files for 1 tasks"]);
    fails(&["--set", "data.path=rows.jsonl"], &["--set data.path"]);
    fails(&["--task", "no_such_task"], &["no_such_task", "ethics_cm", "xstest"]);
    for (flag, value) in [("--data", "pairs.jsonl"), ("--objective", "dpo"), ("--rows", "..3"), ("--batch", "2")] {
        let said = bench.wick(&["eval", "--model", "bytes", "--task", "task.toml", flag, value]);
        assert_eq!(said.code, Some(2), "{flag}: {}", said.err);
        assert!(said.err.contains(flag) && said.err.contains("--task"), "{}", said.err);
    }
    for words in [["--limit", "3"], ["--judge", "true"], ["--task-rows", "rows.jsonl"]] {
        let said = bench.wick(&[&["eval", "--model", "bytes", "--data", "pairs.jsonl"][..], &words].concat());
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.err);
    }
}

#[test]
fn tasks_and_rows_that_do_not_fit_are_told_with_their_place() {
    let bench = bench();
    let run = |task: &str, rows: &str| {
        bench.text("task.toml", task);
        bench.text("rows.jsonl", rows);
        bench.wick(&["eval", "--model", "bytes", "--task", "task.toml", "--task-rows", "rows.jsonl"])
    };
    let choice = "kind = \"choice\"\nprompt = \"{{ q }}\"\nchoices = [\"a\", \"b\"]\nanswer = \"{{ right }}\"\n";
    run("kind = \"choice\"\nprompt = 3\n", "{}\n").fails(2, &["task.toml:2"]);
    run("kind = \"quiz\"\n", "{}\n").fails(2, &["quiz", "choice"]);
    run("not toml", "{}\n").fails(2, &["task.toml:1"]);
    run(choice, "{\"q\": \"x\", \"right\": 0}\n{\"q\": \"x\", \"wrong\": 0}\n")
        .fails(3, &["rows.jsonl:2", "answer", "`right` is undefined", "wrong"]);
    run(choice, "{\"q\": \"x\", \"right\": 7}\n").fails(3, &["rows.jsonl:1", "\"7\"", "0 to 1"]);
    run(choice, "").fails(3, &["rows.jsonl"]);
    run(choice, "[1, 2").fails(3, &["rows.jsonl"]);
    run(&format!("{choice}slices = [\"topic\"]\n"), "{\"q\": \"x\", \"right\": 0}\n").fails(3, &["slices", "topic"]);
    run(&format!("{choice}only = \"{{{{ right == 5 }}}}\"\n"), "{\"q\": \"x\", \"right\": 0}\n")
        .fails(3, &["no row to measure"]);
    bench.wick(&["eval", "--model", "bytes", "--task", "xstest"]).fails(2, &["xstest: rows", "is missing"]);
    bench
        .wick(&["eval", "--model", "bytes", "--task", "xstest", "--task-rows", "missing.csv"])
        .fails(3, &["missing.csv"]);
    bench.wick(&["eval", "--task", "task.toml", "--task-rows", "rows.jsonl"]).fails(3, &["no row to measure"]);
    bench.text("rows.jsonl", "{\"q\": \"x\", \"right\": 0}\n");
    bench.text("task.toml", choice);
    bench.wick(&["eval", "--task", "task.toml", "--task-rows", "rows.jsonl"]).fails(2, &["--model"]);
    bench
        .wick(&["eval", "--model", "model", "--task", "task.toml", "--task-rows", "rows.jsonl", "--chat"])
        .fails(2, &["chat template"]);
}

#[test]
fn rows_are_limited_left_out_and_written() {
    let bench = bench();
    bench.text("task.toml", "kind = \"choice\"\nprompt = \"{{ q }}\"\nchoices = [\"a\", \"b\"]\nanswer = \"0\"\n");
    let long = "x".repeat(3000);
    bench.text(
        "rows.jsonl",
        &format!("{{\"q\": \"x\"}}\nnot json\n{{\"q\": \"{long}\"}}\n{{\"q\": \"y\"}}\n{{\"q\": \"z\"}}\n"),
    );
    let words = [
        "eval",
        "--model",
        "bytes",
        "--task",
        "task.toml",
        "--task-rows",
        "rows.jsonl",
        "--limit",
        "3",
        "--task-items",
        "items.jsonl",
    ];
    let said = bench.wick(&words);
    said.succeeds();
    assert!(
        said.err.contains("2 rows could not be measured")
            && said.err.contains("rows.jsonl:2")
            && said.err.contains("the model was made for 2048"),
        "{}",
        said.err
    );
    assert!(
        said.out.contains("task (choice), 2 rows of rows.jsonl") && said.out.contains("accuracy_sum"),
        "{}",
        said.out
    );
    let items = std::fs::read_to_string(bench.path("items.jsonl")).expect("items");
    let items: Vec<Value> = items.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(items.len(), 2);
    assert_eq!((&items[1]["item"]["place"], &items[1]["version"]), (&json!("rows.jsonl:4"), &json!(1)));
    assert_eq!(items[1]["item"]["outcome"]["choice"]["variants"][0]["log_probs"].as_array().map(Vec::len), Some(2));
}

#[test]
fn several_tasks_with_chat_rewards_and_another_model() {
    let bench = bench();
    bench.text("a.toml", "kind = \"win_rate\"\nprompt = \"{{ q }}\"\nmax_new_tokens = 3\nby = \"log_ratio\"\n");
    bench.text("b.toml", "kind = \"yes_no\"\nprompt = \"{{ q }}?\"\nanswer = \"{{ a }}\"\n");
    bench.text("rows.jsonl", "{\"q\": \"x\", \"a\": true}\n{\"q\": \"y\", \"a\": false}\n");
    let words = [
        "eval",
        "--model",
        "bytes",
        "--task",
        "a.toml",
        "--task",
        "b.toml",
        "--task-rows",
        "rows.jsonl",
        "--task-rows",
        "rows.jsonl",
        "--against",
        "other",
        "--reward",
        "other",
        "--reward-reference",
        "bytes",
        "--chat",
        "--json",
    ];
    let found = reports(&bench.wick(&words));
    assert_eq!(found.len(), 2);
    assert_eq!(metric(&found[0], "win_rate")["n"].as_u64(), Some(2));
    assert_eq!(metric(&found[1], "accuracy")["n"].as_u64(), Some(2));
    // The same twice.
    assert_eq!(reports(&bench.wick(&words)), found);
    bench.wick(&words[..words.len() - 8]).fails(2, &["--against"]);
    // Answers of the rows: what is left out is empty.
    let given = "kind = \"win_rate\"\nprompt = \"{{ q }}\"\ngiven = \"{{ own }}\"\nopponent = \"{{ other }}\"\nby = \"log_ratio\"\n";
    bench.text("c.toml", given);
    let row = |own: &str, other: &str| format!("{{\"q\": \"x\", \"own\": \"{own}\", \"other\": \"{other}\"}}\n");
    bench.text("rows.jsonl", &[row("yes", "no"), row("no", "yes"), row("yes", "yes"), row("", "yes")].concat());
    let words = [
        "eval",
        "--model",
        "bytes",
        "--task",
        "c.toml",
        "--task-rows",
        "rows.jsonl",
        "--reward",
        "other",
        "--reward-reference",
        "bytes",
        "--json",
    ];
    let found = reports(&bench.wick(&words)).remove(0);
    // One of the first two wins, the third is level, the last one loses.
    let number = |name: &str, key: &str| metric(&found, name)[key].as_f64();
    assert_eq!(
        (number("wins", "value"), number("ties", "value"), number("losses", "value")),
        (Some(0.25), Some(0.25), Some(0.5))
    );
    assert_eq!((number("margin", "n"), number("win_rate", "value")), (Some(3.0), Some(0.375)));
    assert!(number("margin", "value").is_some_and(|margin| margin.abs() < 1e-6));
}

#[test]
fn built_in_tasks_run_on_their_files() {
    let Some(folder) =
        candlewick_testkit::shared().map(|shared| shared.join("assets/eval")).filter(|folder| folder.is_dir())
    else {
        eprintln!("skipped: assets/eval is not there; CANDLEWICK_SHARED names the folder of fixtures");
        return;
    };
    let bench = bench();
    let file = |name: &str| -> String { Path::new(&folder).join(name).display().to_string() };
    let tasks = [
        ("ethics_cm", "ethics/cm_test.csv.gz"),
        ("ethics_deontology", "ethics/deontology_test.csv.gz"),
        ("ethics_justice", "ethics/justice_test.csv.gz"),
        ("ethics_utilitarianism", "ethics/util_test.csv.gz"),
        ("ethics_virtue", "ethics/virtue_test.csv.gz"),
        ("moralchoice", "moralchoice_low_ambiguity.csv.gz"),
        ("moralchoice", "moralchoice_high_ambiguity.csv.gz"),
        ("truthfulqa_mc1", "TruthfulQA.csv.gz"),
        ("truthfulqa_mc2", "TruthfulQA.csv.gz"),
        ("bbq", "bbq_Religion.jsonl.gz"),
        ("valuebench", "valuebench_value_orientation.csv.gz"),
        ("jcommonsensemorality", "jcommonsensemorality_test.csv.gz"),
        ("cvalues_refusal", "cvalues_responsibility_prompts.jsonl.gz"),
        ("xstest", "xstest_prompts.csv"),
        ("gsm8k", "gsm8k_test.jsonl.gz"),
    ];
    let mut words: Vec<String> = ["eval", "--model", "bytes", "--limit", "4", "--json"].map(String::from).to_vec();
    for (task, name) in tasks {
        words.extend(["--task".to_owned(), task.to_owned(), "--task-rows".to_owned(), file(name)]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = reports(&bench.wick(&words));
    assert_eq!(found.len(), tasks.len());
    for (report, (task, _)) in found.iter().zip(tasks) {
        assert_eq!(
            (&report["task"], &report["items"], &report["left_out"]),
            (&json!(task), &json!(4), &json!(0)),
            "{report}"
        );
    }
    for name in ["bias_disambiguated", "bias_ambiguous", "accuracy_sum"] {
        metric(&found[9], name);
    }
    metric(&found[13], "over_refusal_rate");
    metric(&found[6], "chosen_0");
    metric(&found[5], "accuracy_mean");
}
