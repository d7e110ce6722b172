//! Every key of `[data]`, `[[data.mixture]]` and `[evaluation]` changes something or is an error.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeSet;

use candlewick_train::{DataWords, EvaluationWords, PartWords};
use serde::Serialize;
use serde_json::{Value, json};
use support::folder::{Folder, Outcome, pairs, unpaired};

/// What a value of a key does beside the same run without it.
enum Does {
    /// Other steps.
    Steps,
    /// Other rows are kept of those to train on.
    Rows,
    /// Something else is held out.
    HeldOut,
    /// An error of these words.
    Refuses(&'static [&'static str]),
    /// The same bits, by design.
    Nothing,
}

use Does::{HeldOut, Nothing, Refuses, Rows, Steps};

/// A key and its value, the assignments of the run that it is compared with, and the difference.
type Case = (String, Vec<String>, Does);

fn keys<T: Serialize>(words: &T) -> BTreeSet<String> {
    serde_json::to_value(words).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn folder() -> Folder {
    let folder = Folder::new();
    let mut rows = pairs(20);
    rows[9] = rows[2].clone();
    rows[11]["chosen"] = "".into();
    rows[13]["chosen"] = " w3 w4 w5 w6 w7 w8 w9 w10".into();
    rows[14]["prompt"] = "w3 w4 w5 w6 w7 w8 w9 w10".into();
    // A word that begins in the prompt and ends in the completion.
    rows[15] = json!({ "prompt": "w3 x", "chosen": "y w5", "rejected": "y w6" });
    folder.lines("rows.jsonl", &rows);
    folder.lines("other.jsonl", &pairs(30)[20..]);
    folder.lines("set/train.jsonl", &pairs(12));
    folder.lines("set/test.jsonl", &pairs(30)[20..]);
    let verdicts = unpaired(&pairs(8));
    let of = |label: bool| verdicts.iter().filter(move |row| row["label"] == label).cloned();
    folder.lines("verdicts.jsonl", &of(true).chain(of(false).take(4)).collect::<Vec<_>>());
    let rewritten = |name: &str, more: &dyn Fn(usize, &Value) -> Value| {
        folder.lines(name, &pairs(8).iter().enumerate().map(|(i, row)| more(i, row)).collect::<Vec<_>>());
    };
    rewritten("votes.jsonl", &|i, row| {
        let votes = if i % 2 == 0 { json!(["a", "b"]) } else { json!(["b"]) };
        json!({ "prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "votes": votes })
    });
    rewritten("safe.jsonl", &|_, row| {
        json!({ "prompt": row["prompt"], "response_0": row["chosen"], "response_1": row["rejected"],
                "is_response_0_safe": true, "is_response_1_safe": true, "better_response_id": 1, "safer_response_id": 0 })
    });
    rewritten("unsafe.jsonl", &|i, row| {
        json!({ "prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"],
                "is_chosen_safe": i % 2 == 0, "is_rejected_safe": i % 4 == 1 })
    });
    rewritten("margins.jsonl", &|i, row| {
        let mut row = row.clone();
        row["margin"] = json!(i);
        row
    });
    let template = "{{ strftime_now('w%d') }}{% for m in messages %} {{ m.content }}{% endfor %}";
    folder.text("model/chat_template.jinja", template);
    rewritten("talks.jsonl", &|_, row| {
        let said = |name: &str, role: &str| json!([{ "role": role, "content": row[name].as_str().unwrap().trim() }]);
        json!({ "prompt": said("prompt", "user"), "chosen": said("chosen", "assistant"), "rejected": said("rejected", "assistant") })
    });
    folder
}

/// Of `[data]`.
fn data(folder: &Folder) -> Vec<Case> {
    let at = |name: &str| folder.at("data.path", name);
    let none = Vec::new;
    let case = |key: &str, before: Vec<String>, does: Does| (format!("data.{key}"), before, does);
    let files = format!("files=[{:?}]", folder.path("other.jsonl"));
    let kto = || vec!["objective.type=kto".to_owned(), at("verdicts.jsonl")];
    let mixture = format!("mixture=[{{ path = {0:?} }}]", folder.path("other.jsonl"));
    vec![
        (at("other.jsonl"), none(), Rows),
        case(&files, none(), Rows),
        case("subset=x", none(), Refuses(&["data.subset"])),
        case("split=test", vec![at("set"), "data.split=train".into()], Rows),
        case("form=ranked", none(), Refuses(&["rows.jsonl"])),
        case("rows=..10", none(), Rows),
        case("columns={ chosen = \"rejected\", rejected = \"chosen\" }", none(), Steps),
        case("criterion=better", vec![at("safe.jsonl"), "data.criterion=safer".into()], Steps),
        case("numbers={ margin = 0.5 }", vec!["objective.type=modpo".into(), at("margins.jsonl")], Steps),
        case("numbers={ margin = 0.5 }", none(), Refuses(&["data.numbers.margin", "reads no numbers"])),
        case(&mixture, vec![at("rows.jsonl")], Refuses(&["data.mixture", "data.path"])),
        case("mixture_end=all_exhausted", none(), Refuses(&["data.mixture_end", "[[data.mixture]]"])),
        case("ties=keep", vec![at("votes.jsonl")], Rows),
        case("safety_order=safer", vec![at("safe.jsonl")], Steps),
        case("safety_order=safe_dpo", vec![at("unsafe.jsonl")], Rows),
        case("safety_order=safer", kto(), Refuses(&["data.safety_order", "data.unpair"])),
        case("deduplicate=exact", none(), Rows),
        case("balance={}", kto(), Rows),
        case("unpair=true", none(), Refuses(&["data.unpair"])),
        case("max_length=7", none(), Steps),
        case("max_prompt_length=4", none(), Steps),
        case("max_completion_length=3", none(), Steps),
        case("boundary=common_prefix", vec!["objective.type=sft".into()], Steps),
        case("truncation=reject", vec!["data.max_length=7".into()], Rows),
        case("prompt_truncation=reject", vec!["data.max_prompt_length=4".into()], Rows),
        case("completion_truncation=reject", vec!["data.max_completion_length=3".into()], Rows),
        case("end_of_sequence=keep", none(), Steps),
        case("date=2026-03-10", vec![at("talks.jsonl"), "data.date=2026-03-11".into()], Steps),
        case("strict=true", none(), Refuses(&["rows.jsonl:12"])),
        case("stratified=true", kto(), Steps),
        case("workers=3", none(), Nothing),
    ]
}

/// Of `[[data.mixture]]`: the parts of two mixtures, and the difference.
fn parts(folder: &Folder) -> Vec<(&'static str, [String; 2], Does)> {
    let at = |name: &str| format!("path = {:?}", folder.path(name));
    let rows = || at("rows.jsonl");
    let with = |words: &str| format!("{}, {words}", rows());
    vec![
        ("path", [rows(), at("safe.jsonl")], Rows),
        ("files", [rows(), with(&format!("files = [{:?}]", folder.path("safe.jsonl")))], Rows),
        ("subset", [rows(), with("subset = \"x\"")], Refuses(&["data.mixture[0].subset"])),
        ("split", ["split = \"train\", ".to_owned() + &at("set"), "split = \"test\", ".to_owned() + &at("set")], Steps),
        ("form", [rows(), with("form = \"ranked\"")], Rows),
        ("rows", [rows(), with("rows = \"..5\"")], Rows),
        ("columns", [rows(), with("columns = { chosen = \"rejected\", rejected = \"chosen\" }")], Steps),
        ("numbers", [rows(), with("numbers = { margin = 1 }")], Refuses(&["data.mixture[0].numbers.margin"])),
        ("criterion", ["better", "safer"].map(|word| format!("{}, criterion = {word:?}", at("safe.jsonl"))), Steps),
        ("weight", [rows(), with("weight = 0.25")], Rows),
        ("weight", [rows(), with("weight = -1.0")], Refuses(&["data.mixture[0].weight", "-1"])),
    ]
}

/// Of `[evaluation]`, beside one of the first rows of another file.
fn evaluation(folder: &Folder) -> Vec<Case> {
    let other = || folder.at("evaluation.path", "other.jsonl");
    let case = |key: &str, before: Vec<String>, does: Does| (format!("evaluation.{key}"), before, does);
    let set = || vec![folder.at("data.path", "set"), "data.split=train".to_owned()];
    vec![
        (other(), Vec::new(), HeldOut),
        case(&format!("files=[{:?}]", folder.path("other.jsonl")), Vec::new(), HeldOut),
        case("subset=x", vec![other()], Refuses(&["evaluation.subset"])),
        case("split=test", set(), HeldOut),
        case("rows=..4", vec![other()], HeldOut),
        case("held_out=0.3", Vec::new(), Rows),
        case("every=2", vec![other()], HeldOut),
        case("at_start=true", vec![other()], HeldOut),
        case("batch_size=0", vec![other()], Refuses(&["evaluation.batch_size"])),
        // What it tells apart is shown by those who evaluate, and changes no step; a column that is not there is refused.
        case("slices=[\"category\"]", vec![other()], Refuses(&["evaluation.slices", "category"])),
    ]
}

struct Runs<'a> {
    folder: &'a Folder,
    count: usize,
}

impl Runs<'_> {
    fn run(&mut self, assignments: &[&str]) -> (Outcome, Vec<Value>) {
        self.count += 1;
        let output = format!("out-{}", self.count);
        let outcome = self.folder.run(&output, assignments);
        let log = std::fs::read_to_string(self.folder.path(&output).join("metrics.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        (outcome, lines.filter(|line| line.as_object().unwrap().keys().any(|key| key.starts_with("eval_"))).collect())
    }

    #[track_caller]
    fn check(&mut self, before: &[&str], after: &[&str], does: &Does) {
        if let Refuses(words) = does {
            return self.folder.refuses(after, words);
        }
        let ((one, evaluated), (other, evaluated_too)) = (self.run(before), self.run(after));
        let (same_rows, same_bits) = (one.rows.kept == other.rows.kept, one.bits() == other.bits());
        let same_held_out = evaluated == evaluated_too;
        let found = format!("{before:?} → {after:?}: rows {same_rows}, bits {same_bits}, held out {same_held_out}");
        match does {
            Steps => assert!(!same_bits, "{found}"),
            Rows => assert!(!same_rows, "{found}"),
            HeldOut => assert!(same_bits && !same_held_out, "{found}"),
            Nothing => assert!(same_rows && same_bits, "{found}"),
            Refuses(_) => {}
        }
    }
}

/// Runs every case; the keys that were met.
fn check_all(folder: &Folder, cases: Vec<Case>) -> BTreeSet<String> {
    let mut runs = Runs { folder, count: std::fs::read_dir(folder.path("")).unwrap().count() };
    let mut met = BTreeSet::new();
    for (assignment, before, does) in cases {
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        runs.check(&before, &[&before[..], &[assignment.as_str()]].concat(), &does);
        let key = assignment.split('=').next().unwrap();
        met.insert(key.rsplit('.').next().unwrap().to_owned());
    }
    met
}

#[test]
fn every_key_of_data_changes_something_or_is_an_error() {
    let folder = folder();
    assert_eq!(check_all(&folder, data(&folder)), keys(&DataWords::default()));
}

#[test]
fn every_key_of_an_evaluation_changes_something_or_is_an_error() {
    let folder = folder();
    assert_eq!(check_all(&folder, evaluation(&folder)), keys(&EvaluationWords::default()));
}

#[test]
fn every_key_of_a_part_changes_something_or_is_an_error() {
    let folder = folder();
    let mut runs = Runs { folder: &folder, count: 0 };
    let mut met = BTreeSet::new();
    for (key, mixtures, does) in parts(&folder) {
        let [before, after] =
            mixtures.map(|part| format!("data.mixture=[{{ {part} }}, {{ path = {:?} }}]", folder.path("other.jsonl")));
        runs.check(&[&before], &[&after], &does);
        met.insert(key.to_owned());
    }
    assert_eq!(met, keys(&PartWords::default()));
}
