//! The real program, on a small model made on the spot.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use candlewick::model::{CausalLm, Config, ScoreModel};
use serde_json::{Map, Value, json};

/// The program under test.
pub(crate) const WICK: &str = env!("CARGO_BIN_EXE_wick");

/// A directory with a model, its tokenizer and some pairs.
pub(crate) struct Bench {
    home: tempfile::TempDir,
}

/// What a run of the program said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

const WORDS: [&str; 14] =
    ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "five", "six", "red", "green", "blue", "yes", "no"];

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { home: tempfile::tempdir().expect("a directory") };
        bench.model("model", WORDS.len());
        let pair = |i: usize| {
            let (a, b) = (WORDS[3 + i % 6], WORDS[9 + i % 3]);
            json!({ "prompt": format!("{a} {b} {a}"), "chosen": format!(" {b} yes"), "rejected": format!(" {a} no {b}") })
        };
        bench.lines("pairs.jsonl", (0..48).map(pair));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A model of `vocabulary` words beside a tokenizer of fourteen.
    pub(crate) fn model(&self, name: &str, vocabulary: usize) {
        let directory = self.path(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        CausalLm::<f32>::random(Config::llama(vocabulary, 32, 2), 1).expect("a model").save(&directory).expect("saved");
        tokenizer(&directory, WORDS.into_iter());
    }

    /// A score model beside a tokenizer that gives the same words other ids.
    pub(crate) fn cost_model(&self, name: &str, heads: &[&str]) {
        let directory = self.path(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        let model = ScoreModel::<f32>::random(Config::llama(WORDS.len(), 32, 2), &heads, 5).expect("a model");
        model.save(&directory).expect("saved");
        let words = WORDS[..3].iter().chain(WORDS[3..].iter().rev());
        tokenizer(&directory, words.copied());
    }

    /// Pairs with a `reward_gap` and two costs, and prompts beside them.
    pub(crate) fn gaps(&self, name: &str) {
        let row = |i: usize| {
            let (a, b) = (WORDS[3 + i % 6], WORDS[9 + i % 3]);
            let gaps = ((i % 5) as f64 / 4.0, (i % 3) as f64 - 1.0, (i % 2) as f64);
            json!({
                "prompt": format!("{a} {b} {a}"), "chosen": format!(" {b} yes"), "rejected": format!(" {a} no {b}"),
                "reward_gap": gaps.0, "cost_gap": gaps.1, "cost_gap_2": gaps.2,
            })
        };
        self.lines(name, (0..48).map(row));
        self.questions();
    }

    /// `asked.jsonl`: nine prompts.
    pub(crate) fn questions(&self) {
        let prompt = |i: usize| json!({ "prompt": format!("{} {}", WORDS[3 + i % 6], WORDS[9 + i / 3]) });
        self.lines("asked.jsonl", (0..9).map(prompt));
    }

    pub(crate) fn lines(&self, name: &str, rows: impl Iterator<Item = Value>) {
        let text: String = rows.map(|row| format!("{row}\n")).collect();
        self.text(name, &text);
    }

    pub(crate) fn text(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    /// `wick WORDS…`, run in the directory.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(WICK);
        command.args(words).current_dir(self.home.path()).env("CI", "true").stdin(Stdio::null());
        command
    }

    /// Runs `wick WORDS…` to its end.
    pub(crate) fn wick(&self, words: &[&str]) -> Said {
        Said::of(self.command(words).output().expect("wick starts"))
    }

    /// `wick train` on the pairs, to `run`, with more words; a flag among them replaces ours.
    pub(crate) fn train(&self, more: &[&str]) -> Said {
        let ours = TRAIN[1..].chunks(2).filter(|flag| !more.contains(&flag[0])).flatten();
        let words: Vec<&str> = std::iter::once(&TRAIN[0]).chain(ours).chain(more).copied().collect();
        self.wick(&words)
    }

    /// Starts `wick WORDS…` and lets it run.
    pub(crate) fn spawn(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wick starts")
    }

    pub(crate) fn weights(&self, run: &str) -> Vec<u8> {
        std::fs::read(self.path(run).join("final/model.safetensors")).expect("a trained model")
    }

    /// Names of the checkpoints of a run, oldest first.
    pub(crate) fn checkpoints(&self, run: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(run).join("checkpoints")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("step-"));
        names.sort();
        names
    }
}

/// A short training on the small model.
pub(crate) const TRAIN: [&str; 13] = [
    "train",
    "--model",
    "model",
    "--data",
    "pairs.jsonl",
    "--output",
    "run",
    "--batch",
    "4",
    "--lr",
    "1e-3",
    "--threads",
    "1",
];

/// A tokenizer that splits at spaces, with ids in the order of the words.
fn tokenizer(directory: &Path, words: impl Iterator<Item = &'static str>) {
    let ids: Map<String, Value> = words.enumerate().map(|(id, word)| (word.to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": "<unk>" },
    });
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let configuration = json!({ "eos_token": "</s>", "bos_token": "<s>" });
    std::fs::write(directory.join("tokenizer_config.json"), configuration.to_string()).expect("written");
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The exit code is this one, and standard error holds every one of these words.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        assert!(self.err.contains("wick: error: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing in: {}", self.err);
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "out: {}\nerr: {}", self.out, self.err);
    }
}

/// Waits until something is there.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a test of a process waits for it")]
pub(crate) fn await_path(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(child.try_wait().expect("a child").is_none(), "wick ended before {} was there", path.display());
        assert!(start.elapsed() < Duration::from_secs(120), "{} did not come", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}
