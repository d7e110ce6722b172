//! What a user can get wrong, and what the program then says.

mod common;

use common::Bench;
use serde_json::json;

#[test]
fn a_missing_data_file() {
    let bench = Bench::new();
    bench.train(&["--data", "nowhere.jsonl"]).fails(3, &["nowhere.jsonl", "check the path"]);
    bench.wick(&["bench", "step", "--model", "model", "--data", "nowhere.jsonl"]).fails(3, &["nowhere.jsonl"]);
}

#[test]
fn a_missing_model() {
    let bench = Bench::new();
    bench.train(&["--model", "no-model"]).fails(4, &["no-model"]);
    bench.wick(&["generate", "--model", "no-model", "--prompt", "x"]).fails(4, &["no-model"]);
}

#[test]
fn a_missing_configuration_file() {
    let bench = Bench::new();
    bench.train(&["--config", "nowhere.toml"]).fails(6, &["nowhere.toml"]);
}

#[test]
fn a_first_line_that_is_not_json() {
    let bench = Bench::new();
    bench.text("bad.jsonl", "prompt,chosen,rejected\n");
    bench.train(&["--data", "bad.jsonl"]).fails(3, &["bad.jsonl:1", "not a JSON object"]);
}

#[test]
fn missing_held_out_rows() {
    let bench = Bench::new();
    bench
        .train(&["--steps", "1", "--set", "evaluation.path=nowhere.jsonl"])
        .fails(3, &["nowhere.jsonl", "check the path"]);
    bench.text("run.toml", "data.path = \"pairs.jsonl\"\nevaluation.path = \"nowhere.jsonl\"\n");
    bench.wick(&["eval", "--config", "run.toml", "--model", "model"]).fails(3, &["nowhere.jsonl"]);
}

#[test]
fn held_out_rows_that_are_trained_on_under_another_name() {
    let bench = Bench::new();
    bench
        .train(&["--steps", "1", "--set", "evaluation.path=./model/../pairs.jsonl"])
        .fails(2, &["evaluation.rows", "overlaps data.rows"]);
}

#[test]
fn columns_of_no_known_form() {
    let bench = Bench::new();
    bench.lines("columns.jsonl", [json!({ "title": "one", "body": "two" })].into_iter());
    bench.train(&["--data", "columns.jsonl"]).fails(3, &["columns.jsonl:1", "title", "body", "chosen", "rejected"]);
    // A form that is known, and an objective that reads another.
    bench.lines("questions.jsonl", [json!({ "question": "one", "answer": "two" })].into_iter());
    bench.train(&["--data", "questions.jsonl"]).fails(3, &["questions.jsonl:1", "a demonstration", "uses pairs"]);
}

/// A bad row among good ones: reported and left out, or with `data.strict` an error; both say where and why.
#[track_caller]
fn one_bad_row(bad: &str, reason: &str) {
    let bench = Bench::new();
    let good = std::fs::read_to_string(bench.path("pairs.jsonl")).expect("pairs");
    let (first, rest) = good.split_once('\n').expect("lines");
    bench.text("mixed.jsonl", &format!("{first}\n{bad}\n{rest}"));
    let strict = ["--data", "mixed.jsonl", "--epochs", "1", "--max-length", "12", "--set", "data.strict=true"];
    bench.train(&strict).fails(3, &["mixed.jsonl:2", reason]);
    let said = bench.train(&strict[..6]);
    said.succeeds();
    assert!(said.out.contains("mixed.jsonl:2") && said.out.contains(reason), "{}", said.out);
    assert!(said.out.contains("rejected.jsonl"), "{}", said.out);
    assert!(said.err.contains("the first row, as it is trained on"), "{}", said.err);
    // The same of held-out rows.
    let said = bench.train(&[
        "--output",
        "other",
        "--steps",
        "1",
        "--max-length",
        "12",
        "--set",
        "evaluation.path=mixed.jsonl",
    ]);
    said.succeeds();
    assert!(said.out.contains("held-out rows: 49 rows, 48 kept, 1 rejected"), "{}", said.out);
}

#[test]
fn a_row_that_is_not_json() {
    one_bad_row("{\"prompt\": \"one\", ", "not a JSON object");
}

#[test]
fn a_row_without_a_column() {
    one_bad_row(r#"{"prompt": "one", "chosen": " yes"}"#, "missing column");
}

#[test]
fn an_empty_completion() {
    one_bad_row(r#"{"prompt": "one", "chosen": "", "rejected": " no"}"#, "empty completion");
}

#[test]
fn a_prompt_longer_than_the_limit() {
    let prompt = "one ".repeat(40);
    one_bad_row(
        &json!({ "prompt": prompt, "chosen": " yes", "rejected": " no" }).to_string(),
        "prompt longer than the limit",
    );
}

#[test]
fn chosen_equal_to_rejected() {
    one_bad_row(r#"{"prompt": "one", "chosen": " yes", "rejected": " yes"}"#, "chosen equals rejected");
}

#[test]
fn a_tokenizer_that_does_not_fit_the_vocabulary() {
    let bench = Bench::new();
    bench.model("small", 10);
    for words in [
        &["train", "--model", "small", "--data", "pairs.jsonl", "--output", "run"][..],
        &["eval", "--model", "small", "--data", "pairs.jsonl"],
        &["generate", "--model", "small", "--prompt", "one"],
        &["bench", "step", "--model", "small", "--data", "pairs.jsonl"],
    ] {
        bench.wick(words).fails(4, &["does not fit the model", "10"]);
    }
}

#[test]
fn a_typo_in_the_configuration() {
    let bench = Bench::new();
    bench.text("run.toml", "[optimizer]\nlearnin_rate = 1e-4\n");
    bench
        .train(&["--config", "run.toml"])
        .fails(2, &["optimizer.learnin_rate", "did you mean optimizer.learning_rate?"]);
    bench.train(&["--set", "train.stepps=3"]).fails(2, &["train.stepps", "did you mean train.steps?"]);
    bench.train(&["--set", "train.steps"]).fails(2, &["section.key=value"]);
    bench.train(&["--objective", "dppo"]).fails(2, &["dppo", "did you mean"]);
    bench.text("run.toml", "[optimizer\n");
    bench.train(&["--config", "run.toml"]).fails(2, &["run.toml", "line 1"]);
}

#[test]
fn wrong_words_on_the_command_line() {
    let bench = Bench::new();
    for words in [&["trian"][..], &["train", "--stepps", "3"], &["train", "--steps", "many"]] {
        let said = bench.wick(words);
        assert_eq!(said.code, Some(2), "{}", said.err);
    }
    assert!(bench.wick(&["trian"]).err.contains("train"), "the nearest command is named");
    bench.wick(&["train", "--model", "model", "--data", "pairs.jsonl"]).fails(2, &["output.dir"]);
    bench.train(&["--steps", "1", "--lora", "4", "--set", "model.lora.targets=[\"q_prjo\"]"]).fails(2, &["q_prjo"]);
}

#[test]
fn numbers_beyond_all_use_are_refused_before_anything_happens() {
    let bench = Bench::new();
    bench.wick(&["quickstart", "--steps", "1", "--output", "q"]).succeeds();
    let generate = ["generate", "--model", "model", "--prompt", "one", "--max-new-tokens", "18446744073709551615"];
    let seed = ["--seed", "9223372036854775808"];
    let step = ["bench", "step", "--model", "model", "--data", "pairs.jsonl", "--steps"];
    for words in [
        &generate[..],
        &[&["train"], &seed[..]].concat(),
        &["train", "--steps", "18446744073709551615"],
        &["train", "--epochs", "18446744073709551615"],
        &[&["quickstart", "--output", "q"], &seed[..]].concat(),
        &[&step[..], &["18446744073709551615"]].concat(),
        &[&step[..], &["9223372036854775807", "--batch", "4"]].concat(),
    ] {
        let said = bench.wick(words);
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
    }
    assert!(bench.path("q/report.html").exists(), "a wrong seed empties nothing");
}

#[test]
fn a_reference_that_was_computed_for_training_only() {
    let bench = Bench::new();
    bench
        .wick(&["eval", "--model", "model", "--data", "pairs.jsonl", "--set", "reference.kind=precomputed"])
        .fails(2, &["precomputed", "--reference DIR"]);
}

#[test]
fn a_benchmark_of_another_rank_than_the_adapter_has() {
    let bench = Bench::new();
    let step = ["bench", "step", "--model", "model", "--data", "pairs.jsonl", "--steps", "1", "--warmup", "0"];
    let with = |rank: &str| bench.wick(&[&step[..], &["--adapter", "start", "--lora", rank]].concat());
    with("4").succeeds();
    with("8").fails(2, &["--lora is 8", "--adapter start", "rank 4"]);
    with("0").fails(2, &["--adapter", "--lora is 0"]);
}

#[test]
fn a_device_that_is_not_there() {
    let bench = Bench::new();
    let commands: [&[&str]; 3] = [
        &["bench", "step", "--model", "model", "--data", "pairs.jsonl", "--steps", "1", "--warmup", "0"],
        &["generate", "--model", "model", "--prompt", "yes"],
        &["sample", "pairs.jsonl", "answers.jsonl", "--model", "model"],
    ];
    for command in commands {
        let with = |more: &[&str]| bench.wick(&[command, more].concat());
        for word in ["gpu", "cuda:x"] {
            let said = with(&["--device", word]);
            assert!(said.code == Some(2) && said.err.contains("cuda:N"), "{}", said.err);
        }
        with(&["--dtype", "bf16"]).fails(2, &["--dtype bf16", "--device cuda"]);
        let said = with(&["--dtype", "f16"]);
        assert!(said.code == Some(2) && said.err.contains("bf16"), "{}", said.err);
        // No machine has so many.
        with(&["--device", "cuda:4096"]).fails(2, &["--device", "no cuda device"]);
    }
    let more = ["--steps", "1", "--device", "cuda:4096"];
    bench.train(&more).fails(2, &["train.device", "no cuda device"]);
    assert!(!bench.path("run").exists());
    bench.train(&["--steps", "1", "--set", "train.dtype=bf16"]).fails(2, &["train.dtype", "train.device = \"cuda\""]);
    let eval = ["eval", "--model", "model", "--data", "pairs.jsonl", "--device", "cuda:4096"];
    bench.wick(&eval).fails(2, &["train.device", "no cuda device"]);
    // What only steps read is no reason against it.
    let of_steps = ["--set", "optimizer.kind=muon", "--set", "train.tokens=auto"];
    bench.wick(&[&eval[..], &of_steps].concat()).fails(2, &["train.device", "no cuda device"]);
}

#[test]
fn pairs_where_verdicts_are_read() {
    let bench = Bench::new();
    let said = bench.train(&["--steps", "1", "--objective", "kto"]);
    said.fails(3, &["pairs.jsonl:1", "the row is a pair, and the objective uses labelled completions"]);
    assert!(!said.err.contains("stratified"), "{}", said.err);
}

#[test]
fn a_slice_that_no_row_has() {
    let bench = Bench::new();
    let words = ["--steps", "2", "--set", "evaluation.held_out=0.3", "--set", "evaluation.slices=[\"kindd\"]"];
    bench.train(&words).fails(2, &["evaluation.slices", "kindd", "name one that the rows have"]);
    assert!(bench.checkpoints("run").is_empty());
}

#[test]
fn settings_of_another_objective_than_the_one_that_is_named() {
    let bench = Bench::new();
    bench.text("run.toml", "[objective]\ntype = \"dpo\"\nbeta = 0.3\n");
    let said = bench.train(&["--config", "run.toml", "--objective", "simpo", "--print-plan"]);
    said.succeeds();
    assert!(
        said.err.contains("left out: beta") && said.out.contains("objective.beta = 2.0"),
        "{} {}",
        said.err,
        said.out
    );
    // Another name of the same one keeps them.
    let said = bench.train(&["--config", "run.toml", "--objective", "sigmoid", "--print-plan"]);
    assert!(!said.err.contains("left out") && said.out.contains("objective.beta = 0.3"), "{} {}", said.err, said.out);
}

#[test]
fn held_out_rows_that_change_under_a_run() {
    let bench = Bench::new();
    let row = |word: &str| serde_json::json!({ "prompt": "yes one", "chosen": format!(" {word}"), "rejected": " no" });
    bench.lines("held.jsonl", ["one", "two", "three"].map(row).into_iter());
    let words = [
        "--steps",
        "4",
        "--set",
        "output.save_every=2",
        "--set",
        "evaluation.path=held.jsonl",
        "--set",
        "evaluation.every=1",
    ];
    bench.train(&words).succeeds();
    std::fs::remove_dir_all(bench.path("run/checkpoints/step-00000004")).expect("removed");
    bench.lines("held.jsonl", ["three", "two", "one"].map(row).into_iter());
    bench.train(&[&words[..], &["--resume"]].concat()).fails(2, &["held-out rows", "start anew"]);
}

#[test]
fn a_reference_that_moves_and_was_computed_before() {
    let bench = Bench::new();
    let words = ["--objective", "tr_dpo", "--set", "reference.kind=precomputed", "--print-plan"];
    bench.train(&words).fails(2, &["reference.kind", "moves its reference", "objective.update to \"frozen\""]);
    bench.train(&[&words[..], &["--set", "objective.update=frozen"]].concat()).succeeds();
    // Rows that moved a policy are told by gradients against one reference.
    bench.train(&["--objective", "tr_dpo", "--steps", "2"]).succeeds();
    let why = ["why", "--model", "model", "--data", "pairs.jsonl", "--objective", "tr_dpo", "--output", "run"];
    let why = [&why[..], &["--set", "evaluation.held_out=0.3", "--mislabelled"]].concat();
    bench.wick(&why).fails(2, &["moves its reference", "objective.update=frozen"]);
}

#[test]
fn a_prompt_that_is_none() {
    let bench = Bench::new();
    // Without a token for the beginning there is nothing to go on from.
    bench.text("model/tokenizer_config.json", r#"{ "eos_token": "</s>" }"#);
    let generate = ["generate", "--model", "model", "--prompt"];
    let said = bench.wick(&[&generate[..], &[""]].concat());
    said.fails(2, &["--prompt"]);
    assert!(!said.err.contains("<memory>"), "{}", said.err);
    bench.wick(&[&generate[..], &["one", "--chat"]].concat()).fails(2, &["--chat", "no chat template"]);
}

#[test]
fn sampling_out_of_range() {
    let bench = Bench::new();
    let generate = ["generate", "--model", "model", "--prompt", "one", "--temperature"];
    let said = bench.wick(&[&generate[..], &["-1"]].concat());
    assert_eq!(said.code, Some(2), "{}", said.err);
    bench.wick(&[&generate[..], &["1", "--top-p", "1.5"]].concat()).fails(2, &["top_p", "1.5"]);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint() {
    let bench = Bench::new();
    let said = bench.train(&[
        "--steps",
        "50",
        "--lr",
        "1e30",
        "--set",
        "output.save_every=1",
        "--set",
        "schedule.warmup_steps=4",
    ]);
    said.fails(5, &["step ", "pairs.jsonl:", "no parameter was changed"]);
    let step: usize = said
        .err
        .split("error: step ")
        .nth(1)
        .and_then(|rest| rest.split(':').next())
        .expect("a step")
        .parse()
        .expect("a number");
    let last = format!("step-{:08}", step - 1);
    assert_eq!(bench.checkpoints("run").last(), Some(&last), "{}", said.err);
    assert!(!bench.path("run/final").exists());
}

#[test]
fn an_output_directory_that_holds_another_run() {
    let bench = Bench::new();
    bench.train(&["--steps", "2"]).succeeds();
    bench.train(&["--steps", "2"]).fails(2, &["output.dir", "resume"]);
}

#[test]
fn a_checkpoint_of_another_plan() {
    let bench = Bench::new();
    bench.train(&["--steps", "2"]).succeeds();
    bench
        .train(&["--steps", "4", "--resume", "--set", "objective.beta=0.7"])
        .fails(2, &["objective.beta", "0.7", "0.1"]);
}

#[test]
fn nothing_to_resume_from() {
    let bench = Bench::new();
    bench.train(&["--steps", "4", "--resume"]).fails(4, &["no usable checkpoint", "start without --resume"]);
    // A run that came to no checkpoint is started again as told.
    std::fs::create_dir_all(bench.path("run/checkpoints")).expect("a directory");
    bench.train(&["--steps", "1"]).succeeds();
}

#[test]
fn a_checkpoint_cut_short_is_passed_over_and_named() {
    let bench = Bench::new();
    let words = ["--steps", "4", "--set", "output.save_every=2"];
    bench.train(&words).succeeds();
    assert_eq!(bench.checkpoints("run"), ["step-00000002", "step-00000004"]);
    let whole = bench.weights("run");
    std::fs::remove_dir_all(bench.path("run/final")).expect("removed");
    cut(&bench.path("run/checkpoints/step-00000004/model.safetensors"));
    let said = bench.train(&[&words[..], &["--resume"]].concat());
    said.succeeds();
    for word in ["passed over", "step-00000004", "cut short", "resuming from", "step-00000002"] {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
    assert_eq!(bench.weights("run"), whole);

    for name in ["step-00000002", "step-00000004"] {
        cut(&bench.path("run/checkpoints").join(name).join("optimizer.safetensors"));
    }
    bench
        .train(&[&words[..], &["--resume"]].concat())
        .fails(4, &["no usable checkpoint", "cut short", "another --output"]);
}

fn cut(path: &std::path::Path) {
    let bytes = std::fs::read(path).expect("a file");
    std::fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
}

/// A limit on the size of files stands in for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_while_saving_leaves_what_was_there() {
    let bench = Bench::new();
    bench.train(&["--steps", "2"]).succeeds();
    let before = bench.weights("run");
    let wick = [&common::TRAIN[..], &["--steps", "4", "--resume"]].concat();
    let script = "trap '' XFSZ; ulimit -f 24; exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, common::WICK]).args(&wick).current_dir(bench.path("."));
    common::Said::of(command.output().expect("sh")).fails(6, &["step-00000004", "large"]);
    assert_eq!(bench.checkpoints("run"), ["step-00000002"]);
    assert_eq!(bench.weights("run"), before);
    bench.train(&["--steps", "4", "--resume"]).succeeds();
    assert_ne!(bench.weights("run"), before);
}
