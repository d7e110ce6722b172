//! What goes wrong around a run: a full disk, files that cannot be read, bits that flip, rows and settings that change. Each is named,
//! and what was good stays as it was.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, Said, WICK};

const RUN: [&str; 10] = [
    "--steps",
    "12",
    "--set",
    "output.save_every=4",
    "--set",
    "output.keep=0",
    "--set",
    "data.rows=..40",
    "--set",
    "evaluation.rows=40..",
];

fn words<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let ours =
        ["train", "--model", "model", "--data", "pairs.jsonl", "--output", output, "--batch", "4", "--lr", "1e-3"];
    [&ours[..], &["--threads", "1"], &RUN, more].concat()
}

/// Every file below a directory, with its bytes.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(contents(&path)),
            path => {
                let bytes = std::fs::read(&path).expect("a file");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// A run that was killed after its second checkpoint, beside one that was not.
struct Scene {
    bench: Bench,
}

impl Scene {
    fn new(more: &[&str]) -> Self {
        Self::of(Bench::new(), more)
    }

    fn of(bench: Bench, more: &[&str]) -> Self {
        bench.wick(&words("whole", more)).succeeds();
        // As if killed: the last checkpoint and the result are not there, and the log is longer than the checkpoint.
        bench.wick(&words("run", more)).succeeds();
        std::fs::remove_dir_all(bench.path("run/final")).expect("removed");
        std::fs::remove_dir_all(bench.path("run/checkpoints/step-00000012")).expect("removed");
        Self { bench }
    }

    fn resume(&self, more: &[&str]) -> Said {
        self.bench.wick(&words("run", &[more, &["--resume"]].concat()))
    }

    /// It goes on and ends as the other did.
    fn ends_well(&self, more: &[&str]) -> Said {
        let said = self.resume(more);
        said.succeeds();
        for file in ["final/model.safetensors", "metrics.jsonl", "checkpoints/step-00000012/optimizer.safetensors"] {
            let read = |run: &str| std::fs::read(self.bench.path(run).join(file)).expect("a file");
            assert!(read("run") == read("whole"), "{file}");
        }
        said
    }

    /// It is refused with these words, and nothing on the disk is another.
    #[track_caller]
    fn is_refused(&self, more: &[&str], code: i32, words: &[&str]) {
        let before = contents(&self.bench.path("run"));
        self.resume(more).fails(code, words);
        assert!(before == contents(&self.bench.path("run")), "something was changed");
    }
}

#[test]
fn a_checkpoint_with_a_flipped_bit_is_passed_over_by_name() {
    let scene = Scene::new(&[]);
    let newest = scene.bench.path("run/checkpoints/step-00000008");
    let mut at = 7usize;
    for (path, whole) in contents(&newest) {
        for cut in [false, true] {
            at = at * 31 + 11;
            let mut bytes = whole.clone();
            let place = at % bytes.len();
            match cut {
                true => bytes.truncate(place),
                // White space of JSON alone has no meaning.
                false => bytes[place] ^= if bytes[place].is_ascii_whitespace() { 0x40 } else { 1 << (at % 7) },
            }
            std::fs::write(&path, &bytes).expect("written");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let said = scene.bench.wick(&["checkpoint", "verify", "run"]);
            said.fails(4, &["1 of 2 checkpoints are damaged"]);
            assert!(said.out.contains(&name) && said.out.contains("step-00000008"), "{name}: {}", said.out);
            std::fs::write(&path, &whole).expect("written");
        }
    }
    let optimizer = newest.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&optimizer).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 4;
    std::fs::write(&optimizer, bytes).expect("written");
    let said = scene.ends_well(&[]);
    for word in ["passed over", "step-00000008", "optimizer.safetensors has another checksum", "resuming from"] {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
}

#[test]
fn where_no_checkpoint_is_whole_nothing_is_overwritten() {
    let scene = Scene::new(&[]);
    for step in ["step-00000004", "step-00000008"] {
        let path = scene.bench.path("run/checkpoints").join(step).join("model.safetensors");
        let bytes = std::fs::read(&path).expect("a file");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    }
    scene.is_refused(&[], 4, &["no usable checkpoint", "model.safetensors has", "instead of"]);
    let before = contents(&scene.bench.path("run"));
    scene.bench.wick(&words("run", &[])).fails(2, &["output.dir", "holds another run"]);
    assert!(before == contents(&scene.bench.path("run")), "something was changed");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let scene = Scene::new(&[]);
    for file in ["optimizer.safetensors", "state.json", "model.safetensors"] {
        let path = scene.bench.path("run/checkpoints/step-00000008").join(file);
        let bytes = std::fs::read(&path).expect("a file");
        // Even for whoever may read everything.
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a directory in its place");
        let said = scene.bench.wick(&["checkpoint", "verify", "run"]);
        said.fails(4, &["1 of 2"]);
        assert!(said.out.contains(file), "{file}: {}", said.out);
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, bytes).expect("written");
    }
    std::fs::remove_file(scene.bench.path("run/checkpoints/step-00000008/optimizer.safetensors")).expect("removed");
    assert!(scene.ends_well(&[]).err.contains("optimizer.safetensors"));
}

#[test]
fn rows_settings_and_tokenizers_that_changed_are_refused_by_name() {
    let scene = Scene::new(&["--set", "train.order=file"]);
    let file_order = ["--set", "train.order=file"];
    let pairs = scene.bench.path("pairs.jsonl");
    let rows = std::fs::read_to_string(&pairs).expect("rows");
    for changed in [
        rows.replacen("yes", "no!", 1),
        rows.replacen(" yes", " yes red", 1),
        rows.lines().skip(1).map(|row| format!("{row}\n")).collect(),
    ] {
        std::fs::write(&pairs, changed).expect("written");
        scene.is_refused(&file_order, 2, &["data.path", "pairs.jsonl", "had"]);
    }
    std::fs::write(&pairs, &rows).expect("written");

    scene.is_refused(
        &[&file_order[..], &["--set", "objective.beta=0.2"]].concat(),
        2,
        &["objective.beta is 0.2, was 0.1"],
    );
    scene.is_refused(&[&file_order[..], &["--set", "train.seed=1"]].concat(), 2, &["train.seed is 1, was 0"]);

    // As many tokens as before, others.
    let tokenizer = scene.bench.path("model/tokenizer.json");
    let whole = std::fs::read_to_string(&tokenizer).expect("a tokenizer");
    std::fs::write(&tokenizer, whole.replace("\"yes\":12", "\"yes\":13").replace("\"no\":13", "\"no\":12"))
        .expect("written");
    assert_ne!(std::fs::read_to_string(&tokenizer).expect("a tokenizer"), whole);
    scene.is_refused(&file_order, 2, &["tokenizer.json", "had"]);
    std::fs::write(&tokenizer, whole).expect("written");

    let config = scene.bench.path("model/config.json");
    let whole = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, whole.replace("10000", "20000")).expect("written");
    assert_ne!(std::fs::read_to_string(&config).expect("a configuration"), whole, "{whole}");
    scene.is_refused(&file_order, 2, &["config.json", "had"]);
    std::fs::write(&config, whole).expect("written");

    let weights = scene.bench.path("model/model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    let mut other = whole.clone();
    let last = other.len() - 3;
    other[last] ^= 1;
    std::fs::write(&weights, other).expect("written");
    scene.is_refused(&file_order, 4, &["started from the weights"]);
    std::fs::write(&weights, whole).expect("written");
    scene.ends_well(&file_order);
}

#[test]
fn a_reference_that_changed_is_refused_by_name() {
    let more = ["--set", "reference.path=other"];
    let bench = Bench::new();
    bench.model("other", 14);
    let other = bench.path("other/model.safetensors");
    let mut bytes = std::fs::read(&other).expect("weights");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&other, &bytes).expect("written");
    let scene = Scene::of(bench, &more);
    bytes[last] ^= 2;
    std::fs::write(&other, &bytes).expect("written");
    scene.is_refused(&more, 2, &["reference.path", "other/model.safetensors", "had"]);
    bytes[last] ^= 2;
    std::fs::write(&other, &bytes).expect("written");
    scene.ends_well(&more);
}

/// A limit on the size of files is to a process what a full disk is: its writes fail.
#[test]
fn a_disk_that_fills_leaves_what_was_saved() {
    let scene = Scene::new(&[]);
    let model = std::fs::metadata(scene.bench.path("model/model.safetensors")).expect("a file").len();
    for background in ["output.background=false", "output.background=true"] {
        // In blocks of 512 bytes, or of 1024 in some shells: the weights fit, the optimizer does not.
        let blocks = (model / 1024 + 4).to_string();
        let resumed = words("run", &["--resume", "--set", background]);
        let limited = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"", "sh", &blocks, WICK])
            .args(&resumed)
            .current_dir(scene.bench.path(""))
            .env("CI", "true")
            .output()
            .expect("sh");
        Said::of(limited).fails(6, &["safetensors"]);
        assert_eq!(scene.bench.checkpoints("run"), ["step-00000004", "step-00000008"]);
        let left = std::fs::read_dir(scene.bench.path("run/checkpoints")).expect("a directory").count();
        assert_eq!(left, 2, "something half written remains");
    }
    scene.ends_well(&[]);
}
