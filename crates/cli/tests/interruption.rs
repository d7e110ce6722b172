//! Runs that end before their end: killed, interrupted, resumed. The same bits come out.
#![cfg(unix)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Bench, Said, TRAIN, await_path};

fn words<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = TRAIN.to_vec();
    words[6] = output;
    words.extend(more);
    words
}

#[test]
fn control_c_saves_and_says_how_to_go_on() {
    let bench = Bench::new();
    let long = ["--steps", "100000", "--set", "output.save_every=5"];
    let mut child = bench.spawn(&words("run", &long));
    await_path(&bench.path("run/checkpoints/step-00000005"), &mut child);
    interrupt(child.id());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
    let stopped = bench.checkpoints("run").pop().expect("a checkpoint");
    let step: u64 = stopped.trim_start_matches("step-").parse().expect("a step");
    assert!((5..100_000).contains(&step), "{stopped}");

    let end = (step + 3).to_string();
    let rest = ["--steps", end.as_str()];
    let resume = || bench.wick(&words("run", &[&rest[..], &["--resume"]].concat()));
    resume().succeeds();
    bench.wick(&words("whole", &rest)).succeeds();
    assert_eq!(bench.weights("run"), bench.weights("whole"));

    // Once more, where nothing is left.
    let again = resume();
    again.succeeds();
    assert!(again.out.contains("no step was left to take"), "{}", again.out);
    assert_eq!(bench.weights("run"), bench.weights("whole"));
}

#[test]
fn control_c_tells_the_way_back() {
    let bench = Bench::new();
    let mut command = bench.command(&words("run", &["--steps", "100000", "--set", "output.save_every=2"]));
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("wick");
    await_path(&bench.path("run/checkpoints/step-00000002"), &mut child);
    interrupt(child.id());
    Said::of(child.wait_with_output().expect("output"))
        .fails(130, &["wick: stopping", "interrupted after step", "--resume"]);
}

#[test]
fn control_c_before_anything_is_saved_promises_nothing() {
    let bench = Bench::new();
    let rows = (0..20_000).map(|i| {
        let noise: Vec<&str> = (0..15).map(|bit| if i >> bit & 1 == 1 { "red" } else { "blue" }).collect();
        serde_json::json!({ "prompt": noise.join(" "), "chosen": " yes", "rejected": " no" })
    });
    bench.lines("many.jsonl", rows);
    let mut precompute = words("run", &["--steps", "20000", "--set", "reference.kind=precomputed"]);
    precompute[4] = "many.jsonl";
    let mut command = bench.command(&precompute);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("wick");
    await_path(&bench.path("run/plan.json"), &mut child);
    interrupt(child.id());
    let said = Said::of(child.wait_with_output().expect("output"));
    said.fails(130, &["reference", "scores so far are kept", "start again without --resume"]);
    assert!(bench.checkpoints("run").is_empty());
    bench.wick(&words("run", &["--steps", "1"])).succeeds();
}

/// A scheduler sends SIGTERM, and waits no longer than it likes.
#[test]
fn a_step_that_takes_long_is_given_up_and_made_again() {
    let bench = Bench::new();
    let row = |i: usize| {
        let prompt = ["one", "two"][i % 2];
        serde_json::json!({ "prompt": prompt, "chosen": " yes", "rejected": " no no" })
    };
    bench.lines("many.jsonl", (0..40_000).map(row));
    let step = ["--steps", "1", "--set", "train.micro_batches=10000"];
    let mut long = words("run", &step);
    long[4] = "many.jsonl";
    let mut command = bench.command(&long);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("wick");
    await_path(&bench.path("run/plan.json"), &mut child);
    signal("TERM", child.id());
    let said = Said::of(child.wait_with_output().expect("output"));
    said.fails(130, &["interrupted after step 0", "step-00000000", "--resume"]);
    assert_eq!(bench.checkpoints("run"), ["step-00000000"]);
}

#[test]
fn a_second_training_in_the_same_directory_is_refused() {
    let bench = Bench::new();
    let long = ["--steps", "100000", "--set", "output.save_every=5"];
    let mut child = bench.spawn(&words("run", &long));
    await_path(&bench.path("run/checkpoints/step-00000005"), &mut child);
    bench
        .wick(&words("run", &[&long[..], &["--resume"]].concat()))
        .fails(2, &["output.dir", "run", "another process trains there"]);
    interrupt(child.id());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
}

#[test]
fn a_hangup_is_ignored_where_it_was() {
    let bench = Bench::new();
    let steps = ["--steps", "400", "--set", "output.save_every=5"];
    let words = words("run", &steps);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", common::WICK]).args(&words);
    let mut child = command
        .current_dir(bench.path(""))
        .env("CI", "true")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("sh");
    await_path(&bench.path("run/checkpoints/step-00000005"), &mut child);
    assert!(signal("HUP", child.id()), "it was over");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_and_corrupts_nothing() {
    let bench = Bench::new();
    let steps = ["--steps", "60", "--set", "output.save_every=1", "--set", "output.keep=0"];
    bench.wick(&words("whole", &steps)).succeeds();
    for (number, wait) in [1, 3, 9, 20, 40].into_iter().enumerate() {
        let output = format!("run-{number}");
        let mut child = bench.spawn(&words(&output, &steps));
        await_path(&bench.path(&format!("{output}/checkpoints/step-{wait:08}")), &mut child);
        signal("TERM", child.id());
        signal("INT", child.id());
        // It may have been done with saving by then, or with everything.
        let code = child.wait().expect("a child").code();
        assert!(matches!(code, Some(130 | 0)), "{code:?}");
        bench.wick(&words(&output, &[&steps[..], &["--resume"]].concat())).succeeds();
        assert_eq!(bench.weights(&output), bench.weights("whole"));
    }
}

/// 2,000 real rows, a real model, SIGKILL in the middle. Rows whose completion has more than 48 tokens are
/// set aside, to save time; so the log of these rows must be the same too.
#[test]
fn a_killed_run_on_real_rows_resumes_to_the_same_bits() {
    let Some(shared) = candlewick_testkit::shared() else {
        println!("skipped: the shared fixtures are not here");
        return;
    };
    let bench = Bench::new();
    bench.text("run.toml", &configuration(&shared));
    let run = |output: &'static str| ["train", "--config", "run.toml", "--output", output];

    let mut child = bench.spawn(&run("killed"));
    await_path(&bench.path("killed/checkpoints/step-00000020"), &mut child);
    child.kill().expect("SIGKILL");
    child.wait().expect("a child");
    assert!(!bench.path("killed/final").exists(), "it was over before it was killed");
    let went_on = bench.wick(&[&run("killed")[..], &["--resume"]].concat());
    went_on.succeeds();

    let said = bench.wick(&run("whole"));
    said.succeeds();
    assert!(said.err.contains("held-out loss"), "{}", said.err);
    assert!(said.out.contains("rows: 2000 rows, "), "{}", said.out);
    let of_rows =
        |said: &Said| said.out.lines().filter(|line| line.contains("rows: ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(of_rows(&went_on), of_rows(&said));
    assert_eq!(bench.weights("killed"), bench.weights("whole"));
    let metrics = |run: &str| std::fs::read_to_string(bench.path(run).join("metrics.jsonl")).expect("metrics");
    assert_eq!(metrics("killed"), metrics("whole"));
    for name in ["rows", "scores"] {
        let held_out =
            |run: &str| std::fs::read(bench.path(run).join(format!("held_out/{name}.jsonl"))).expect("held-out rows");
        assert!(held_out("killed") == held_out("whole"), "{name}");
    }
    let rejected = |run: &str| std::fs::read_to_string(bench.path(run).join("rejected.jsonl")).expect("rejected rows");
    assert_eq!(rejected("killed"), rejected("whole"));
}

fn configuration(shared: &std::path::Path) -> String {
    let path = |place: PathBuf| serde_json::Value::from(place.to_string_lossy().into_owned()).to_string();
    let rows = path(shared.join("assets/preferences/hh_harmless_base_test.jsonl.gz"));
    let model = path(shared.join("assets/weights/tinystories-656k"));
    format!(
        "[model]\npath = {model}\n\n[data]\npath = {rows}\nrows = \"..2000\"\nmax_length = 48\ntruncation = \"keep_end_of_prompt\"\n\n\
         [evaluation]\nrows = \"2000..2060\"\nbatch_size = 16\n\n[optimizer]\nlearning_rate = 1e-4\n\n\
         [train]\nbatch_size = 16\nepochs = 1\nthreads = 2\n\n[output]\nsave_every = 10\nkeep = 3\n"
    )
}

fn interrupt(process: u32) {
    assert!(signal("INT", process), "it was over");
}

/// Whether the process was there to be told.
fn signal(name: &str, process: u32) -> bool {
    Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().expect("sh").success()
}
