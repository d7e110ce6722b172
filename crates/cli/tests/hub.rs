//! Data sets of the Hub by name: `wick train`, `wick eval` and `wick data` against a server on this machine.
#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;
#[path = "../../hub/tests/hub/server.rs"]
#[expect(clippy::disallowed_types, dead_code, reason = "a server on this machine; tests of the client use more of it")]
mod server;

use common::{Bench, Said};
use server::{COMMIT, Server};

const PARQUET: &str = "refs/convert/parquet";
const REPO: &str = "datasets/someone/pairs";

/// A folder, a server with its pairs under a name, and an empty cache.
struct Place {
    bench: Bench,
    server: Server,
}

impl Place {
    fn new() -> Self {
        let (bench, server) = (Bench::new(), Server::start());
        let text = std::fs::read_to_string(bench.path("pairs.jsonl")).unwrap();
        let rows: Vec<&str> = text.lines().collect();
        let parquet = |name: &str, rows: &[&str]| {
            bench.text(&format!("{name}.jsonl"), &rows.join("\n"));
            let (from, to) = (format!("{name}.jsonl"), format!("{name}.parquet"));
            bench.wick(&["data", "convert", &from, &to]).succeeds();
            std::fs::read(bench.path(&to)).unwrap()
        };
        let files = [
            ("default/train/0000.parquet", parquet("one", &rows[..20])),
            ("default/train/0001.parquet", parquet("two", &rows[20..32])),
            ("default/test/0000.parquet", parquet("three", &rows[32..])),
            ("small/train/0000.parquet", parquet("four", &rows[..8])),
        ];
        server.publish(REPO, PARQUET, COMMIT, &files);
        Self { bench, server }
    }

    /// `wick WORDS…` with the server as its Hub.
    fn wick(&self, words: &[&str], more: &[(&str, &str)]) -> Said {
        let mut command = self.bench.command(words);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"] {
            command.env_remove(name);
        }
        command
            .env("HF_ENDPOINT", &self.server.address)
            .env("HF_HOME", self.bench.path("hf"))
            .envs(more.iter().copied());
        Said::of(command.output().unwrap())
    }

    fn train(&self, output: &str, words: &[&str], more: &[(&str, &str)]) -> Said {
        let ours = ["train", "--model", "model", "--batch", "4", "--lr", "1e-3", "--threads", "1", "--output", output];
        self.wick(&[&ours[..], words].concat(), more)
    }
}

const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];

#[test]
fn a_run_on_a_data_set_by_name_is_that_on_its_files() {
    let place = Place::new();
    place.train("files", &["--data", "[ot][nw][eo].parquet"], &[]).succeeds();
    place.train("named", &["--data", "hub:someone/pairs"], &[]).succeeds();
    assert!(place.bench.weights("named") == place.bench.weights("files"));
    // What was fetched is not asked for again, with the Hub or without.
    place.server.forget();
    place.train("again", &["--data", "hub:someone/pairs"], &OFFLINE).succeeds();
    assert!(place.bench.weights("again") == place.bench.weights("files"));
    assert!(place.server.requests().is_empty());
    let small = place.train("small", &["--data", "hub:someone/pairs", "--subset", "small"], &[]);
    small.succeeds();
    assert!(small.out.contains("2 steps done"), "{}", small.out);
}

#[test]
fn another_split_of_the_same_name_is_held_out() {
    let place = Place::new();
    place.bench.text(
        "run.toml",
        "[model]\npath = \"model\"\n[data]\npath = \"hub:someone/pairs\"\n[evaluation]\nsplit = \"test\"\n[train]\nsteps = 2\n",
    );
    let config = ["--config", "run.toml"];
    let said = place.train("run", &config, &[]);
    said.succeeds();
    assert!(said.err.contains("held-out loss"), "{}", said.err);
    let eval = |words: &[&str]| {
        let said =
            place.wick(&[&["eval", "--config", "run.toml", "--model", "run/final", "--json"][..], words].concat(), &[]);
        said.succeeds();
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["completions"].clone()
    };
    assert_eq!(eval(&[]), 32);
    assert_eq!(eval(&["--split", "train"]), 64);
    assert_eq!(eval(&["--data", "hub:someone/pairs", "--subset", "small"]), 16);
    // Rows to train on are not measured on.
    let same = place.train("same", &[&config[..], &["--set", "evaluation.split=train"]].concat(), &[]);
    same.fails(2, &["evaluation.rows", "overlaps"]);
}

#[test]
fn stats_of_a_data_set_by_name() {
    let place = Place::new();
    let stats = |words: &[&str]| {
        let said = place.wick(&[&["data", "stats", "hub:someone/pairs", "--json"][..], words].concat(), &[]);
        said.succeeds();
        said.out
    };
    let rows = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["rows"]["read"].clone();
    assert_eq!(rows(&stats(&[])), 32);
    assert_eq!(rows(&stats(&["--split", "test"])), 16);
    assert_eq!(rows(&stats(&["--subset", "small"])), 8);
}

#[test]
fn names_that_are_not_there() {
    let place = Place::new();
    let train = |words: &[&str]| place.train("run", words, &[]);
    train(&["--data", "hub:someone/nothing"]).fails(3, &["someone/nothing"]);
    train(&["--data", "hub:someone/pairs", "--split", "dev"]).fails(3, &["no split dev", "test, train"]);
    train(&["--data", "hub:someone/pairs", "--subset", "big"]).fails(3, &["no subset big", "default, small"]);
    train(&["--data", "pairs.jsonl", "--subset", "big"]).fails(2, &["subset big", "pairs.jsonl", "hub:owner/name"]);
    place.train("run", &["--data", "hub:someone/other"], &OFFLINE).fails(3, &["someone/other", "offline"]);
    place.wick(&["data", "stats", "hub:someone/nothing"], &[]).fails(3, &["someone/nothing"]);
}
