//! `wick data`: the real program on small files written here, and on the real ones of the shared assets.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests find their assets by a variable, and say so where there are none"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

/// A directory to run the program in.
struct Place(tempfile::TempDir);

/// What a run of the program said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn lines(&self, name: &str, rows: &[Value]) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.text(name, &text);
    }

    fn read(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// A tokenizer of whole words.
    fn tokenizer(&self) {
        let words = ["<unk>", "<s>", "</s>", "one", "two", "three", "yes", "no"];
        let ids: Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
        let special = |id: usize| {
            json!({ "id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(1), special(2)],
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": ids, "unk_token": "<unk>" },
        });
        std::fs::create_dir_all(self.path("model")).expect("a directory");
        self.text("model/tokenizer.json", &tokenizer.to_string());
        self.text("model/tokenizer_config.json", r#"{"eos_token": "</s>", "bos_token": "<s>"}"#);
    }

    /// `wick data WORDS…`.
    fn data(&self, words: &[&str]) -> Said {
        self.data_of(words, Stdio::null())
    }

    /// The same with something at its standard input.
    fn data_of(&self, words: &[&str], input: Stdio) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wick"));
        command.arg("data").args(words).current_dir(self.0.path()).stdin(input);
        let output = command.env("COLUMNS", "80").env_remove("CLICOLOR_FORCE").output().expect("wick starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Said {
    #[track_caller]
    fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// The exit code is this one, and the error holds all of these words.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing in: {}", self.err);
        }
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.succeeds().out).expect("JSON")
    }
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected })
}

/// Four rows: two that can be used, a repeat of the first, one without a completion.
fn pairs(place: &Place) {
    let rows = [
        pair("one", " two", " no"),
        pair("one two", " yes three", " no"),
        pair("one", " two", " no"),
        pair("one", " ", " no"),
    ];
    place.lines("pairs.jsonl", &rows);
}

fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CANDLEWICK_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn statistics_of_a_small_file() {
    let place = Place::new();
    pairs(&place);
    let said = place.data(&["stats", "pairs.jsonl"]).succeeds();
    assert_eq!(said.out, include_str!("data/stats.txt"), "{}", said.out);
    place.tokenizer();
    let said = place.data(&["stats", "pairs.jsonl", "--model", "model"]).succeeds();
    assert_eq!(said.out, include_str!("data/stats_tokens.txt"), "{}", said.out);
}

/// From standard input a file is read as from its path, whatever its format; what cannot be read once is told.
#[test]
fn statistics_of_standard_input() {
    let place = Place::new();
    pairs(&place);
    let rows = place.read("pairs.jsonl");
    place.text("pairs.json", &json!(rows).to_string());
    place.data(&["convert", "pairs.jsonl", "pairs.jsonl.gz"]).succeeds();
    place.data(&["convert", "pairs.jsonl", "pairs.parquet"]).succeeds();
    let piped = |name: &str, words: &[&str]| {
        let file = std::fs::File::open(place.path(name)).expect("a file");
        place.data_of(words, file.into())
    };
    let told = |name: &str| piped(name, &["stats", "-", "--json"]).json();
    let expected = place.data(&["stats", "pairs.jsonl", "--json"]).json();
    for name in ["pairs.jsonl", "pairs.json"] {
        let mut stats = told(name);
        assert_eq!(stats["sources"], json!([{ "name": "<stdin>", "form": "trl_pair" }]), "{name}");
        stats["sources"] = expected["sources"].clone();
        assert_eq!(stats, expected, "{name}");
    }
    // The row that cannot be used is not written.
    assert_eq!(told("pairs.jsonl.gz")["rows"], json!({ "read": 3, "kept": 3, "dropped": 0, "reasons": {} }));
    piped("pairs.parquet", &["stats", "-"]).fails(3, &["<stdin>", "Parquet is read from its end", "save it to a file"]);
    place.data(&["stats", "-"]).fails(3, &["<stdin>: no rows"]);
}

#[test]
fn statistics_as_json() {
    let place = Place::new();
    pairs(&place);
    place.tokenizer();
    let stats = place.data(&["stats", "pairs.jsonl", "--json", "--tokenizer", "model", "--max-length", "4"]).json();
    assert_eq!(stats["sources"], json!([{ "name": "pairs.jsonl", "form": "trl_pair" }]));
    assert_eq!(stats["rows"], json!({ "read": 4, "kept": 3, "dropped": 1, "reasons": { "empty_completion": 1 } }));
    assert_eq!(stats["duplicates"]["rows"], 1);
    // The second row has two tokens of prompt and three of the chosen completion.
    assert_eq!(stats["tokens"]["counts"]["truncated"], 1);
    assert_eq!((&stats["tokens"]["lengths"]["total"]["max"], &stats["prompts"]["unit"]), (&json!(4), &json!("tokens")));
    assert_eq!(stats["characters"]["prompt"]["max"], 7);
    // Which its limit cuts to the length of the others.
    assert_eq!(stats["length_bias"]["equal"], 3);
}

#[test]
fn rows_are_shown_as_they_were_read() {
    let place = Place::new();
    pairs(&place);
    let said = place.data(&["inspect", "pairs.jsonl", "-n", "1"]).succeeds();
    assert_eq!(said.out, "pairs.jsonl:1  pair\n  prompt\n    one\n  chosen\n     two\n  rejected\n     no\n\n");
    let said = place.data(&["inspect", "pairs.jsonl", "--rows", "2.."]).succeeds();
    assert!(said.out.starts_with("pairs.jsonl:3  pair\n"), "{}", said.out);
    assert!(
        said.out.ends_with("pairs.jsonl:4  dropped: empty completion: the completion is \" \"\n\n"),
        "{}",
        said.out
    );
    let escape = json!({ "prompt": [{ "role": "user", "content": "a\u{1b}[31m" }], "completion": "b", "label": true });
    place.lines("chat.jsonl", &[escape]);
    let said = place.data(&["inspect", "chat.jsonl"]).succeeds();
    assert_eq!(
        said.out,
        "chat.jsonl:1  labelled, desirable\n  prompt\n    user: a\\u{1b}[31m\n  completion\n    assistant: b\n\n"
    );
}

#[test]
fn rows_are_shown_token_by_token() {
    let place = Place::new();
    pairs(&place);
    place.tokenizer();
    let words = ["inspect", "pairs.jsonl", "--model", "model", "--rows", "1..2"];
    let plain = place.data(&words).succeeds().out;
    assert_eq!(plain, include_str!("data/inspect.txt"), "{plain}");
    let ids = place.data(&[&words[..], &["--ids"]].concat()).succeeds().out;
    assert!(ids.contains("⟦·yes[6]|·three[5]|</s>[2]⟧"), "{ids}");
    let coloured = place.data(&[&words[..], &["--color", "always"]].concat()).succeeds().out;
    assert!(coloured.contains("\u{1b}[32m·yes\u{1b}[0m") && !coloured.contains('⟦'), "{coloured:?}");
}

#[test]
fn every_dropped_row_is_listed() {
    let place = Place::new();
    pairs(&place);
    place.data(&["stats", "pairs.jsonl", "--dropped", "dropped.jsonl"]).succeeds();
    let expected = json!({
        "file": "pairs.jsonl", "line": 4, "unit": "line", "reason": "empty_completion",
        "detail": "the completion is \" \"", "row": pair("one", " ", " no"),
    });
    assert_eq!(place.read("dropped.jsonl"), [expected]);
    place.data(&["stats", "pairs.jsonl", "--strict"]).fails(3, &["pairs.jsonl:4", "empty completion"]);
}

#[test]
fn real_transcripts_lose_nine_rows() {
    let Some(path) = shared("assets/preferences/hh_harmless_base_test.jsonl.gz") else { return };
    let place = Place::new();
    let path = path.to_str().expect("a path");
    let stats = place.data(&["stats", path, "--json", "--dropped", "dropped.jsonl"]).json();
    assert_eq!((&stats["rows"]["read"], &stats["rows"]["dropped"]), (&json!(2312), &json!(9)));
    assert_eq!(stats["kinds"], json!({ "pair": 2303 }));
    let dropped = place.read("dropped.jsonl");
    assert_eq!(dropped.len(), 9);
    assert!(dropped.iter().all(|row| row["reason"] == "prompts_differ" || row["reason"] == "empty_completion"));
    let said = place.data(&["convert", path, "pairs.jsonl"]).succeeds();
    assert!(said.out.starts_with("2303 rows written to pairs.jsonl\n9 dropped ("), "{}", said.out);
    // The same rows in the form they were written in.
    let mut again = place.data(&["stats", "pairs.jsonl", "--json"]).json();
    let mut stats = stats;
    for stats in [&mut again, &mut stats] {
        stats["sources"].take();
        stats["rows"].take();
    }
    assert_eq!(again, stats);
}

#[test]
fn rows_are_written_in_another_form() {
    let place = Place::new();
    pairs(&place);
    let said =
        place.data(&["convert", "pairs.jsonl", "out.jsonl", "--to", "unpaired", "--deduplicate", "exact"]).succeeds();
    assert_eq!(said.out, "4 rows written to out.jsonl\n2 dropped (empty completion 1, duplicate 1)\n");
    let labelled = |prompt: &str, completion: &str, label: bool| json!({ "prompt": prompt, "completion": completion, "label": label });
    let expected = [
        labelled("one", " two", true),
        labelled("one", " no", false),
        labelled("one two", " yes three", true),
        labelled("one two", " no", false),
    ];
    assert_eq!(place.read("out.jsonl"), expected);
    // And back: two of the same prompt make a pair.
    place.data(&["convert", "out.jsonl", "back.jsonl", "--to", "pairs"]).succeeds();
    assert_eq!(place.read("back.jsonl"), [pair("one", " two", " no"), pair("one two", " yes three", " no")]);
    place
        .data(&["convert", "out.jsonl", "none.jsonl", "--to", "ranked"])
        .fails(3, &["no row could be written", "another kind"]);
    assert!(!place.path("none.jsonl").exists());
}

/// What a row says, without its numbers.
fn texts(row: &Value) -> Value {
    let columns = ["prompt", "chosen", "rejected", "completion", "label", "completions", "ratings"];
    row.as_object()
        .expect("a row")
        .iter()
        .filter(|(name, _)| columns.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[test]
fn rows_of_every_kind_pass_through_every_format() {
    for name in ["ranked_oasst1_zh", "unpaired_kto_en_chat", "votes_pandalm_3annot", "pairs_dpo_en_chat"] {
        let Some(path) = shared(&format!("assets/ready/{name}.jsonl")) else { return };
        let place = Place::new();
        place.data(&["convert", path.to_str().expect("a path"), "rows.jsonl"]).succeeds();
        place.data(&["convert", "rows.jsonl", "rows.parquet"]).succeeds();
        place.data(&["convert", "rows.parquet", "rows.jsonl.zst"]).succeeds();
        place.data(&["convert", "rows.jsonl.zst", "again.jsonl"]).succeeds();
        let written: Vec<Value> = place.read("rows.jsonl").iter().map(texts).collect();
        let again: Vec<Value> = place.read("again.jsonl").iter().map(texts).collect();
        assert!(written.len() >= 40 && written == again, "{name}");
    }
}

#[test]
fn three_annotators_agree_somewhat() {
    let Some(path) = shared("assets/ready/votes_pandalm_3annot.jsonl") else { return };
    let place = Place::new();
    let path = path.to_str().expect("a path");
    let stats = place.data(&["stats", path, "--json", "--ties", "keep"]).json();
    let votes = &stats["votes"];
    assert_eq!((&votes["rows"], &votes["votes_per_row"]["max"]), (&stats["rows"]["kept"], &json!(3)));
    let alpha = votes["krippendorff_alpha"].as_f64().expect("a number");
    assert!((0.84..0.88).contains(&alpha), "{alpha}");
    assert!(stats["ties"]["kept"].as_u64() > Some(0) && stats["ties"]["dropped"] == 0);
    // A tie may be unusable for another reason too.
    let dropped = place.data(&["stats", path, "--json"]).json();
    assert!(dropped["ties"]["kept"] == 0 && dropped["ties"]["dropped"].as_u64() >= stats["ties"]["kept"].as_u64());
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let place = Place::new();
    pairs(&place);
    place.text("out.jsonl", "mine");
    place.data(&["convert", "pairs.jsonl", "out.jsonl"]).fails(2, &["out.jsonl", "--force"]);
    assert_eq!(std::fs::read_to_string(place.path("out.jsonl")).expect("a file"), "mine");
    place.data(&["convert", "pairs.jsonl", "out.jsonl", "--force"]).succeeds();
    assert_eq!(place.read("out.jsonl").len(), 3);
    place.data(&["convert", "pairs.jsonl", "out.txt"]).fails(2, &["out.txt", ".jsonl.gz", ".parquet"]);
    place.data(&["convert", "pairs.jsonl", "nowhere/out.jsonl"]).fails(6, &["nowhere"]);
    let left: Vec<_> = std::fs::read_dir(place.0.path()).expect("a directory").collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn prompts_are_held_out_whole() {
    let place = Place::new();
    let rows: Vec<Value> =
        (0..200).map(|row| pair(&format!("prompt {}", row / 2), &format!(" a{row}"), " b")).collect();
    place.lines("pairs.jsonl", &rows);
    place.data(&["convert", "pairs.jsonl", "out.jsonl", "--held-out", "0.3"]).succeeds();
    let (train, held_out) = (place.read("out.jsonl"), place.read("out-held-out.jsonl"));
    assert_eq!(train.len() + held_out.len(), 200);
    assert!((20..120).contains(&held_out.len()), "{}", held_out.len());
    assert!(held_out.iter().all(|row| train.iter().all(|other| other["prompt"] != row["prompt"])));
}

#[test]
fn wrong_words_are_told() {
    let place = Place::new();
    pairs(&place);
    place.data(&["stats", "nowhere.jsonl"]).fails(3, &["nowhere.jsonl", "check the path"]);
    place.data(&["stats", "pairs.jsonl", "--form", "hh"]).fails(2, &["--form", "hh_pair"]);
    place.data(&["stats", "pairs.jsonl", "--columns", "prompt"]).fails(2, &["--columns", "completion=response"]);
    place.data(&["stats", "pairs.jsonl", "--rows", "5..2"]).fails(2, &["--rows", "..2000"]);
    place.data(&["stats", "pairs.jsonl", "--subset", "default"]).fails(2, &["subset default", "hub:owner/name"]);
    place.data(&["inspect", "pairs.jsonl", "--model", "nowhere"]).fails(4, &["nowhere", "tokenizer.json"]);
    place.data(&["inspect", "pairs.jsonl", "--ids"]).fails(2, &["--model"]);
    place.data(&["convert", "-", "o.jsonl", "--deduplicate", "exact"]).fails(3, &["<stdin>", "no rows"]);
    place.data(&["convert", "pairs.jsonl", "o.jsonl", "--held-out", "2"]).fails(2, &["held_out", "between 0 and 1"]);
    place.data(&["convert", "pairs.jsonl", "o.jsonl", "--deduplicate", "near=7"]).fails(2, &["near=S"]);
    place.data(&["stats", "pairs.jsonl", "--dropped", "nowhere/d.jsonl"]).fails(6, &["--dropped", "nowhere/d.jsonl"]);
    place.data(&["convert", "pairs.jsonl", "o.jsonl", "--pairing", "all"]).fails(2, &["--to"]);
    place
        .data(&["convert", "pairs.jsonl", "o.jsonl", "--pairing", "all", "--to", "unpaired"])
        .fails(2, &["--to pairs"]);
    place.data(&["convert", "pairs.jsonl", "o.jsonl", "--seed", "3"]).fails(2, &["--balance"]);
    place.data(&["stats", "pairs.jsonl", "--boundary", "offsets"]).fails(2, &["--model"]);
    place.data(&["stats", "pairs.jsonl", "--model", "m", "--boundary", "x"]).fails(2, &["--boundary", "common_prefix"]);
    place.data(&["stats", "pairs.jsonl", "--dropped", "pairs.jsonl"]).fails(2, &["--dropped", "name another file"]);
    place.data(&["convert", "pairs.jsonl", "o.jsonl", "--dropped", "o.jsonl"]).fails(2, &["name another file"]);
}

#[test]
fn rows_are_paired_up_whatever_the_first_one_is() {
    let place = Place::new();
    let row = |completion: &str, label: bool| json!({ "prompt": "p", "completion": completion, "label": label });
    place.lines("rows.jsonl", &[row("", true), row("a", true), row("b", false)]);
    let said = place.data(&["convert", "rows.jsonl", "pairs.jsonl", "--to", "pairs"]).succeeds();
    assert!(said.out.contains("1 rows written") && said.out.contains("1 dropped (empty completion 1)"), "{}", said.out);
}

/// A world of requests, as files.
fn safety_world(place: &Place, name: &str, more: &[&str]) {
    let words = ["make", name, "--world", "safety", "--rows", "120", "--held-out", "30"];
    let said = place.data(&[&words[..], more].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn a_world_of_requests_is_made_and_measured_before_rows_are_dropped() {
    let place = Place::new();
    safety_world(&place, "one", &["--seed", "5", "--model"]);
    safety_world(&place, "two", &["--seed", "5"]);
    assert_eq!(place.read("one/safety.jsonl"), place.read("two/safety.jsonl"));
    assert_eq!((place.read("one/held_out.jsonl").len(), place.read("one/prompts.jsonl").len()), (30, 96));
    assert!(place.path("one/model/model.safetensors").exists() && place.path("one/model/tokenizer.json").exists());
    // The shares by another way than the program's: of the columns as they stand.
    let flags = |row: &Value| ["is_response_0_safe", "is_response_1_safe"].map(|name| row[name] == json!(true));
    let rows = place.read("one/safety.jsonl");
    let count =
        |wanted: usize| rows.iter().filter(|row| flags(row).into_iter().filter(|safe| *safe).count() == wanted).count();
    let said = place.data(&["stats", "one/safety.jsonl", "--safety-order", "safe_dpo", "--json"]);
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    let safety = &told["safety"];
    assert_eq!(
        [&safety["both_unsafe"], &safety["mixed"], &safety["both_safe"]],
        [0, 1, 2].map(|safe| json!(count(safe))).each_ref()
    );
    assert_eq!(told["rows"]["reasons"], json!({ "both_unsafe": count(0) }));
    assert_eq!(safety["contradictions"], json!(0));
    let written = place.data(&[
        "convert",
        "one/safety.jsonl",
        "ordered.jsonl",
        "--safety-order",
        "safe_dpo",
        "--dropped",
        "dropped.jsonl",
    ]);
    assert_eq!(written.code, Some(0), "{}", written.err);
    assert!(place.read("ordered.jsonl").iter().all(|row| row["safe_chosen"] == json!(1.0)));
    let dropped = place.read("dropped.jsonl");
    assert!(dropped.len() == count(0) && dropped.iter().all(|row| row["reason"] == json!("both_unsafe")));
    for (words, said) in
        [(["--imbalance", "3"], "--imbalance"), (["--noise", "2"], "--noise"), (["--teacher", "x"], "--teacher")]
    {
        let refused = place.data(&[&["make", "three", "--world", "safety"][..], &words].concat());
        assert!(refused.code == Some(2) && refused.err.contains(said), "{}", refused.err);
    }
}

#[test]
fn scores_and_ratings_are_put_into_prompts() {
    let place = Place::new();
    safety_world(&place, "world", &[]);
    let said = place.data(&["condition", "world/safety.jsonl", "scored.jsonl", "--scores", "reward,-cost"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let (rows, scored) = (place.read("world/safety.jsonl"), place.read("scored.jsonl"));
    assert_eq!(scored.len(), 2 * rows.len());
    let values = |name: &str| -> Vec<f64> {
        let of = |row: &Value, side: &str| row[format!("{name}_{side}")].as_f64().expect("a number");
        rows.iter().flat_map(|row| [of(row, "0"), of(row, "1")]).collect()
    };
    let normal = |values: &[f64], value: f64| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        (value - mean) / (square - mean * mean).sqrt()
    };
    let (rewards, costs) = (values("reward"), values("cost"));
    for (number, row) in rows.iter().enumerate() {
        let [better, worse] = if row["better_response_id"] == json!(0) { [0, 1] } else { [1, 0] };
        for (half, response) in [better, worse].into_iter().enumerate() {
            let made = &scored[2 * number + half];
            let (reward, cost) = (rewards[2 * number + response], costs[2 * number + response]);
            let (r, c) = (normal(&rewards, reward), -normal(&costs, cost));
            let words = format!(" <rm1_score> {r:.1} <rm2_score> {c:.1}").replace("-0.0", "0.0");
            assert_eq!(made["prompt"], json!(format!("{}{words}", row["prompt"].as_str().expect("a text"))));
            assert_eq!(made["completion"], row[format!("response_{response}")]);
        }
    }
    let scales: Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("scored.scales.json")).expect("a file"))
            .expect("JSON");
    let refused = place.data(&["condition", "world/safety.jsonl", "other.jsonl", "--scores", "tact"]);
    assert!(refused.code == Some(3) && refused.err.contains("no `tact_chosen`"), "{}", refused.err);
    let high = |index: usize| scales["scores"][index]["high"].as_f64().expect("a number");
    let ask = ["condition", "world/demonstrations.jsonl", "asked.jsonl", "--scales", "scored.scales.json"];
    let asked = place.data(&[&ask[..], &["--preference", "0.5,0.5", "--rule", "capped"]].concat());
    assert!(
        asked.out.contains(&format!("asked for: <rm1_score> {:.1} <rm2_score> {:.1}", high(0), high(1))),
        "{}",
        asked.out
    );
    let refused = place.data(&[&ask[..], &["--preference", "1", "--force"]].concat());
    assert!(refused.code != Some(0) && refused.err.contains("preference"), "{}", refused.err);

    place.lines(
        "rated.jsonl",
        &[
            json!({ "prompt": "p", "chosen": "a", "rejected": "b", "tact_chosen": 5, "tact_rejected": 2 }),
            json!({ "prompt": "q", "chosen": "a", "rejected": "b", "tact_chosen": 3, "tact_rejected": 1 }),
        ],
    );
    place.lines("named.jsonl", &[json!({ "prompt": "p", "chosen": "a", "rejected": "b", "x": { "l": 5, "r": 2 } })]);
    let mapped = ["--columns", "tact_chosen=x.l", "--columns", "tact_rejected=x.r", "--control", "tact=2"];
    let said = place.data(&[&["condition", "named.jsonl", "mapped.jsonl"][..], &mapped].concat());
    assert!(said.code == Some(0) && place.read("mapped.jsonl")[0]["chosen"] == json!("b"), "{}", said.err);
    // What is written reads back, and says the same once ordered again.
    let said = place.data(&["convert", "world/safety.jsonl", "safer.jsonl", "--criterion", "safer"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let labels = ["better", "safer", "safe_chosen", "safe_rejected"].map(|name| ["--numbers", name]).concat();
    let back =
        place.data(&[&["convert", "safer.jsonl", "again.jsonl", "--safety-order", "safer"][..], &labels].concat());
    assert_eq!(back.code, Some(0), "{}", back.err);
    let (once, again) = (place.read("safer.jsonl"), place.read("again.jsonl"));
    assert!(once.iter().zip(&again).all(|(one, other)| texts(one) == texts(other) && one["better"] == other["better"]));
    assert_eq!(once.len(), again.len());
    let said = place.data(&[
        "condition",
        "rated.jsonl",
        "controlled.jsonl",
        "--control",
        "tact=2",
        "--dropped",
        "dropped.jsonl",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let rows = place.read("controlled.jsonl");
    assert_eq!(
        (rows.len(), &rows[0]["prompt"], &rows[0]["chosen"], &rows[0]["margin"]),
        (1, &json!("<tact: 2> p"), &json!("b"), &json!(3.0))
    );
    assert_eq!(place.read("dropped.jsonl")[0]["reason"], json!("tied"));
    for words in
        [&["--control", "tact"][..], &["--control", "tact=free"], &["--control", "tact=2", "--weight", "wit=2"], &[]]
    {
        let refused = place.data(&[&["condition", "rated.jsonl", "other.jsonl"], words].concat());
        assert!(
            refused.code.is_some_and(|code| code != 0) && !place.path("other.jsonl").exists(),
            "{words:?} {}",
            refused.err
        );
    }
}
