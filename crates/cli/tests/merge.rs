//! `wick merge`: models and adapters made of others.

mod common;

use candlewick::kernels::Workspace;
use candlewick::model::CausalLm;
use common::Bench;

/// A model, two that were trained from it and an adapter of it, all short runs.
fn family() -> Bench {
    let bench = Bench::new();
    for (run, more) in [
        ("one", &["--seed", "1", "--set", "output.save_every=2"][..]),
        ("two", &["--seed", "2", "--objective", "ipo"]),
        ("lora", &["--lora", "2"]),
    ] {
        bench.train(&[&["--steps", "4", "--output", run], more].concat()).succeeds();
    }
    bench
}

fn weights(bench: &Bench, directory: &str) -> Vec<f32> {
    CausalLm::<f32>::load(&bench.path(directory)).expect("a model").parameters().data().to_vec()
}

fn close(got: &[f32], want: impl Iterator<Item = f32>) {
    let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "off by {worst}");
}

#[test]
fn models_and_checkpoints_are_merged_and_go_on_as_models() {
    let bench = family();
    let said = bench.wick(&["merge", "--model", "one/final", "--model", "two/final", "--weight", "3,1", "-o", "mean"]);
    said.succeeds();
    assert!(said.out.contains("2 models merged by linear: 20 tensors") && said.out.contains("mean"), "{}", said.out);
    let (base, one, two) = (weights(&bench, "model"), weights(&bench, "one/final"), weights(&bench, "two/final"));
    close(&weights(&bench, "mean"), one.iter().zip(&two).map(|(x, y)| 0.75 * x + 0.25 * y));
    // The tokenizer came along, and nothing of the run.
    let mut names: Vec<_> = std::fs::read_dir(bench.path("mean"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    bench.wick(&["eval", "--model", "mean", "--reference", "model", "--data", "pairs.jsonl"]).succeeds();

    // A checkpoint is a model; the way back to the base.
    let step = "one/checkpoints/step-00000002";
    let words =
        ["merge", "--base", "model", "--model", step, "--method", "task_arithmetic", "--lambda", "0.3", "-o", "back"];
    bench.wick(&words).succeeds();
    let step = weights(&bench, step);
    close(&weights(&bench, "back"), base.iter().zip(&step).map(|(x, y)| 0.7 * x + 0.3 * y));
    assert!(!bench.path("back/state.json").exists() && !bench.path("back/optimizer.safetensors").exists());

    // WARP's step, and the others.
    let pair = ["merge", "--base", "model", "--model", "one/final", "--model", "two/final"];
    for (output, more) in [
        ("warp", &["--method", "slerp", "--by", "layer", "--lambda", "0.3"][..]),
        ("ties", &["--method", "ties", "--density", "0.4", "--weight", "1,0.5"]),
        ("dare", &["--method", "dare_linear", "--density", "0.5,0.9", "--seed", "3", "--normalize", "true"]),
        ("dare ties", &["--method", "dare_ties", "--density", "0.5", "--rescale", "false"]),
        ("iso", &["--method", "iso_c", "--dtype", "bfloat16"]),
        ("iso cts", &["--method", "iso_cts", "--common-space-fraction", "0.5"]),
    ] {
        let said = bench.wick(&[&pair[..], more, &["--output", output]].concat());
        said.succeeds();
        assert!(weights(&bench, output) != base, "{output} is the base");
        assert!(!said.out.contains("straight") || output == "warp", "{}", said.out);
    }
    assert!(bench.path("iso/model.safetensors").metadata().expect("a file").len() < 30_000 * 4);
}

#[test]
fn adapters_go_into_their_base_and_into_one_another() {
    let bench = family();
    bench.train(&["--steps", "4", "--output", "other", "--lora", "3", "--seed", "5"]).succeeds();
    let said = bench.wick(&["merge", "--base", "model", "--adapter", "lora/final", "-o", "full"]);
    said.succeeds();
    assert!(said.out.contains("1 adapter merged by linear into the base: 20 tensors"), "{}", said.out);
    let mut model = CausalLm::<f32>::load(&bench.path("model")).expect("a model");
    model.load_adapter(&bench.path("lora/final")).expect("an adapter");
    model.merge_adapter(&mut Workspace::new(1)).expect("merged");
    close(&weights(&bench, "full"), model.parameters().data().iter().copied());

    let two = ["merge", "--adapter", "lora/final", "--adapter", "other/final", "--method", "task_arithmetic"];
    let said = bench.wick(&[&two[..], &["-o", "both"]].concat());
    said.succeeds();
    assert!(said.out.contains("2 adapters") && said.out.contains("rank 5; nothing is lost"), "{}", said.out);
    let said = bench.wick(&[&two[..], &["--rank", "2", "--weight", "-1,2", "-o", "cut"]].concat());
    said.succeeds();
    assert!(said.out.contains("rank 2; of the square") && said.out.contains("% or more is held"), "{}", said.out);
    bench.wick(&["eval", "--model", "model", "--adapter", "both", "--data", "pairs.jsonl"]).succeeds();
    bench.wick(&["generate", "--model", "model", "--adapter", "cut", "--prompt", "one red"]).succeeds();
    // It can be trained on.
    bench.train(&["--steps", "2", "--output", "more", "--adapter", "cut"]).succeeds();
}

#[test]
fn mistakes_are_told() {
    let bench = Bench::new();
    bench.model("larger", 20);
    let merge = |words: &[&str]| bench.wick(&[&["merge"], words, &["--output", "out"]].concat());
    let two = ["--model", "model", "--model", "model"];
    let with = |more: &[&'static str]| [&two[..], more].concat();
    merge(&with(&["--density", "0.5"])).fails(2, &["--density", "linear", "--weight, --normalize"]);
    merge(&with(&["--method", "slerp", "--weight", "1,1"])).fails(2, &["--weight", "slerp", "--t"]);
    merge(&with(&["--method", "ties"])).fails(2, &["ties", "--density"]);
    merge(&with(&["--method", "ties", "--density", "0.5"])).fails(2, &["ties", "base"]);
    merge(&with(&["--method", "ties", "--density", "2", "--base", "model"])).fails(2, &["density is 2"]);
    merge(&with(&["--base", "model"])).fails(2, &["linear", "base"]);
    merge(&with(&["--weight", "1"])).fails(2, &["1 weights for 2 models"]);
    merge(&["--model", "model", "--model", "larger"]).fails(4, &["larger", "model.embed_tokens.weight", "[20, 32]"]);
    merge(&["--model", "model", "--model", "nowhere"]).fails(4, &["nowhere"]);
    merge(&["--adapter", "model"]).fails(4, &["adapter_config.json"]);
    assert!(!bench.path("out").exists() && !bench.path(".out.new").exists(), "a merge that failed leaves nothing");
    let clap = |words: &[&str], word: &str| {
        let said = merge(words);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(word), "{}", said.err);
    };
    clap(&[], "--model");
    clap(&["--model", "model", "--adapter", "model"], "--adapter");
    clap(&with(&["--method", "magic"]), "magic");
    // Every method has its rows in the docs.
    let page = include_str!("../../../docs/merging.md");
    let said = merge(&with(&["--method", "magic"])).err;
    let methods = said.split("possible values: ").nth(1).and_then(|rest| rest.split(']').next()).expect("the values");
    assert_eq!(methods.split(", ").count(), 8);
    for method in methods.split(", ") {
        let row = format!("| `{method}`");
        assert!(page.lines().any(|line| line.starts_with(&row)), "{method} is not in docs/merging.md");
    }
    clap(&["--adapter", "a", "--base", "model", "--rank", "2"], "--rank");

    // Nothing is overwritten, and a checkpoint that has changed is not taken.
    bench.text("out", "mine");
    merge(&two).fails(2, &["out", "something already"]);
    assert_eq!(std::fs::read_to_string(bench.path("out")).expect("it is there"), "mine");
    bench.train(&["--steps", "2", "--set", "output.save_every=2"]).succeeds();
    let checkpoint = bench.path("run/checkpoints/step-00000002");
    let file = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let place = checkpoint.to_string_lossy().into_owned();
    bench.wick(&["merge", "--model", &place, "-o", "new"]).fails(4, &["model.safetensors", "checksum"]);
    assert!(!bench.path("new").exists());

    // Another tokenizer is said.
    bench.model("other", 14);
    bench.text("other/tokenizer.json", "{}");
    let said = bench.wick(&["merge", "--model", "model", "--model", "other", "-o", "mixed"]);
    said.succeeds();
    assert!(said.err.contains("warning: other: its tokenizer.json is not that of model"), "{}", said.err);
}
