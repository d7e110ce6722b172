//! Every form of preference data: which one a file has, what its rows become, what is asked where a file is unclear.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;

use candlewick_data::{
    ColumnPath, Error, Form, Message, NumberColumn, Reason, Record, Rejection, Row, Source, SourceOptions, Text, Ties,
};
use serde_json::{Value, json};

fn open(rows: &[Value], options: &SourceOptions) -> Result<Source, Error> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    Source::from_reader(Cursor::new(text), options)
}

fn read(source: &Source) -> (Vec<Record>, Vec<Rejection>) {
    let (mut records, mut rejections) = (Vec::new(), Vec::new());
    for row in source.records().unwrap() {
        match row.unwrap() {
            Ok((_, record)) => records.push(record),
            Err(rejection) => rejections.push(rejection),
        }
    }
    (records, rejections)
}

fn one(row: &Value, options: &SourceOptions) -> (Form, Record) {
    let source = open(std::slice::from_ref(row), options).unwrap_or_else(|error| panic!("{row}: {error}"));
    let (mut records, rejections) = read(&source);
    assert_eq!(rejections, [], "{row}");
    (source.form(), records.pop().unwrap())
}

/// What a row without options becomes.
fn golden(row: &Value) -> (Form, Record) {
    one(row, &SourceOptions::default())
}

fn mapped(columns: &[(&str, ColumnPath)]) -> SourceOptions {
    let columns = columns.iter().map(|(ours, theirs)| ((*ours).to_owned(), theirs.clone())).collect();
    SourceOptions { columns, ..SourceOptions::default() }
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn chat(turns: &[(&str, &str)]) -> Text {
    Text::Chat(turns.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

fn pair(prompt: Text, chosen: Text, rejected: Text) -> Record {
    Row::Pair { prompt, chosen, rejected }.into()
}

fn ranked(prompt: &str, completions: &[(&str, f64)]) -> Record {
    let completions = completions.iter().map(|(text, rating)| (plain(text), *rating)).collect();
    Row::Ranked { prompt: plain(prompt), completions }.into()
}

fn with(record: Record, numbers: &[(&str, f64)]) -> Record {
    numbers.iter().fold(record, |record, (name, value)| record.with_number(*name, *value))
}

const QUESTION: &str = "Why is the sea salty?";

/// One file: its form, its rows, and how many of them are set aside for which reason.
struct File {
    path: &'static str,
    columns: Vec<(&'static str, ColumnPath)>,
    form: Form,
    rows: usize,
    rejected: &'static [(Reason, usize)],
}

fn file(path: &'static str, form: Form, rows: usize, rejected: &'static [(Reason, usize)]) -> File {
    File { path, columns: Vec::new(), form, rows, rejected }
}

fn files() -> Vec<File> {
    const NONE: &[(Reason, usize)] = &[];
    const PANDA: &[(Reason, usize)] = &[(Reason::WrongType, 6), (Reason::EmptyCompletion, 53), (Reason::Tied, 85)];
    let solvers = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"];
    let of_solvers =
        |key: &str| ColumnPath::from(solvers.iter().map(|name| format!("{name}.{key}")).collect::<Vec<_>>());
    vec![
        file("preferences/diasafety_test.json.gz", Form::TrlUnpaired, 1095, &[(Reason::EmptyCompletion, 1)]),
        file("preferences/diasafety_train.json.gz", Form::TrlUnpaired, 9017, &[(Reason::EmptyCompletion, 2)]),
        file("preferences/diasafety_val.json.gz", Form::TrlUnpaired, 1097, NONE),
        file("preferences/finegrained_qa_dev_feedback.json.gz", Form::Comparisons, 500, NONE),
        File {
            columns: vec![
                ("prompt", "question".into()),
                ("completions", of_solvers("solution")),
                ("ratings", of_solvers("is_correct")),
            ],
            ..file("preferences/gsm8k_example_model_solutions.jsonl.gz", Form::Ranked, 1319, NONE)
        },
        file(
            "preferences/hh_harmless_base_test.jsonl.gz",
            Form::HhPair,
            2312,
            &[(Reason::EmptyCompletion, 4), (Reason::PromptsDiffer, 5)],
        ),
        file("preferences/lf_dpo_en_demo.json.gz", Form::SharegptPair, 300, NONE),
        file("preferences/lf_dpo_zh_demo.json.gz", Form::SharegptPair, 300, NONE),
        file("preferences/lf_kto_en_demo.json.gz", Form::MessagesUnpaired, 300, NONE),
        file("preferences/lf_v1_dpo_demo.jsonl", Form::LlamaFactoryPair, 10, NONE),
        file("preferences/oasst1_rm_zh.json.gz", Form::OasstRanked, 775, &[(Reason::AllAlike, 3)]),
        file("preferences/pandalm_human_testset_v1.json.gz", Form::Votes, 999, PANDA),
        file("preferences/rasbt_polite_preference_1100.json.gz", Form::AlpacaPair, 1100, &[(Reason::Identical, 6)]),
        file("preferences/stack_exchange_paired_tiny.json.gz", Form::StackExchangePair, 25, NONE),
        File {
            columns: vec![("prompt", "prompt".into()), ("completion", "completion".into())],
            ..file("preferences/truthfulqa_finetune_info.jsonl.gz", Form::PromptCompletion, 22_434, NONE)
        },
        File {
            columns: vec![("prompt", "prompt".into()), ("completion", "completion".into())],
            ..file("preferences/truthfulqa_finetune_truth.jsonl.gz", Form::PromptCompletion, 22_434, NONE)
        },
        File {
            columns: vec![("prompt", "context".into()), ("chosen", "action_a".into()), ("rejected", "action_b".into())],
            ..file("ready/multiobj_moralchoice.jsonl", Form::TrlPair, 400, NONE)
        },
        File {
            columns: vec![("attributes", ["truthful", "informative"].into())],
            ..file("ready/multiobj_truthful_informative.jsonl", Form::Rated, 1000, &[(Reason::EmptyCompletion, 2)])
        },
        File {
            columns: vec![("label", "truthful".into())],
            ..file(
                "ready/multiobj_truthful_informative.jsonl",
                Form::TrlUnpaired,
                1000,
                &[(Reason::EmptyCompletion, 2)],
            )
        },
        file("ready/pairs_dpo_en_chat.jsonl", Form::MessagesPair, 40, NONE),
        file("ready/pairs_ethics_util.jsonl", Form::TrlPair, 1000, NONE),
        file("ready/pairs_hh_harmless.jsonl", Form::HhPair, 300, NONE),
        file("ready/pairs_polite_1100.jsonl", Form::TrlPair, 1100, &[(Reason::Identical, 6)]),
        file("ready/ranked_finegrained_qa.jsonl", Form::Comparisons, 100, NONE),
        file("ready/ranked_oasst1_zh.jsonl", Form::OasstRanked, 120, NONE),
        file("ready/unpaired_diasafety_test.jsonl", Form::TrlUnpaired, 800, &[(Reason::EmptyCompletion, 1)]),
        file("ready/unpaired_gsm8k_solutions.jsonl", Form::TrlUnpaired, 300, NONE),
        file("ready/unpaired_kto_en_chat.jsonl", Form::MessagesUnpaired, 60, NONE),
        file(
            "ready/votes_pandalm_3annot.jsonl",
            Form::Votes,
            400,
            &[(Reason::WrongType, 6), (Reason::EmptyCompletion, 7), (Reason::Tied, 62)],
        ),
    ]
}

#[test]
fn every_file_has_its_form_and_its_rows() {
    for File { path, columns, form, rows, rejected } in files() {
        let Some(found) = common::asset(&format!("assets/{path}")) else { continue };
        // No option but the path, and the columns where the table has them.
        let options = SourceOptions { path: found, ..mapped(&columns) };
        let source = Source::open(&options).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(source.form(), form, "{path}");
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let mut kept = 0;
        for row in source.records().unwrap() {
            match row.unwrap().and_then(|(origin, record)| record.check(&origin)) {
                Ok(()) => kept += 1,
                Err(rejection) => *reasons.entry(rejection.reason).or_default() += 1,
            }
        }
        let expected: BTreeMap<Reason, usize> = rejected.iter().copied().collect();
        assert_eq!(reasons, expected, "{path}");
        assert_eq!(kept + reasons.values().sum::<usize>(), rows, "{path}");
    }
}

#[test]
fn every_file_of_the_fixtures_is_in_the_table() {
    for folder in ["preferences", "ready"] {
        let Some(found) = common::asset(&format!("assets/{folder}")) else { return };
        let known: Vec<&str> = files().iter().map(|file| file.path).collect();
        for entry in std::fs::read_dir(found).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            assert!(entry.path().is_dir() || known.contains(&path.as_str()), "{path}");
        }
    }
}

/// How many rows a file of the fixtures has, as the list beside them says: `- **preferences/NAME** …` with `rows N` on the
/// next line, or `| NAME | N |` for those of `ready`.
fn listed_rows(list: &str, path: &str) -> Option<usize> {
    let number = |text: &str| text.trim().parse().ok();
    let mut lines = list.lines();
    let name = path.strip_prefix("ready/");
    while let Some(line) = lines.next() {
        if line.starts_with(&format!("- **{path}**")) {
            return number(lines.next()?.trim().strip_prefix("rows ")?.split(';').next()?);
        }
        let mut cells = line.trim_start_matches('|').split('|');
        if name.is_some() && cells.next().map(str::trim) == name {
            return number(cells.next()?);
        }
    }
    None
}

#[test]
fn the_rows_of_the_table_are_those_that_were_counted_before() {
    let Some(list) = common::asset("assets/SOURCES.md") else { return };
    let list = std::fs::read_to_string(list).unwrap();
    for file in files() {
        assert_eq!(listed_rows(&list, file.path), Some(file.rows), "{}", file.path);
    }
}

#[test]
fn pairs() {
    let prompted = || pair(plain(QUESTION), plain("Rivers."), plain("Whales."));
    let chatted = |system: Option<&str>| {
        let mut turns: Vec<(&str, &str)> = system.map(|system| ("system", system)).into_iter().collect();
        turns.push(("user", QUESTION));
        pair(chat(&turns), chat(&[("assistant", "Rivers.")]), chat(&[("assistant", "Whales.")]))
    };
    let (yes, no) = (json!({"from": "gpt", "value": "Rivers."}), json!({"role": "assistant", "content": "Whales."}));
    let ask = json!({"role": "user", "content": QUESTION});
    let rows = [
        (json!({"prompt": QUESTION, "chosen": "Rivers.", "rejected": "Whales."}), Form::TrlPair, prompted()),
        (json!({"question": QUESTION, "chosen": "Rivers.", "rejected": "Whales."}), Form::TrlPair, prompted()),
        (
            json!({"question": QUESTION, "response_j": "Rivers.", "response_k": "Whales."}),
            Form::StackExchangePair,
            prompted(),
        ),
        (
            json!({"chosen": "It is far too hot", "rejected": "It is far too cold", "id": 3}),
            Form::TrlPair,
            pair(plain("It is far too"), plain(" hot"), plain(" cold")),
        ),
        (
            json!({"chosen": [ask, {"role": "assistant", "content": "Rivers."}], "rejected": [ask, no]}),
            Form::TrlPair,
            chatted(None),
        ),
        (
            json!({"conversations": [{"from": "human", "value": QUESTION}], "chosen": yes, "rejected": no}),
            Form::SharegptPair,
            chatted(None),
        ),
        (
            json!({"conversations": [{"from": "human", "value": QUESTION}], "chosen": yes, "rejected": no, "system": "Be short."}),
            Form::SharegptPair,
            chatted(Some("Be short.")),
        ),
        (json!({"messages": [ask], "chosen": "Rivers.", "rejected": "Whales."}), Form::MessagesPair, chatted(None)),
        (
            json!({"messages": json!([ask]).to_string(), "chosen": "Rivers.", "rejected": "Whales."}),
            Form::MessagesPair,
            chatted(None),
        ),
        (
            json!({"system": "Be short.", "question": QUESTION, "chosen": "Rivers.", "rejected": "Whales."}),
            Form::OrcaPair,
            chatted(Some("Be short.")),
        ),
        (
            json!({"system": "", "question": QUESTION, "chosen": "Rivers.", "rejected": "Whales."}),
            Form::OrcaPair,
            chatted(None),
        ),
        (
            json!({"instruction": "Say why.", "input": QUESTION, "chosen": "Rivers.", "rejected": "Whales.", "output": "Rivers."}),
            Form::AlpacaPair,
            pair(plain("Say why.\nWhy is the sea salty?"), plain("Rivers."), plain("Whales.")),
        ),
        (
            json!({"instruction": "And now?", "input": "", "history": [["Hi", "Hello"]], "chosen": "Rivers.", "rejected": "Whales."}),
            Form::AlpacaPair,
            pair(
                chat(&[("user", "Hi"), ("assistant", "Hello"), ("user", "And now?")]),
                chat(&[("assistant", "Rivers.")]),
                chat(&[("assistant", "Whales.")]),
            ),
        ),
        (
            json!({"chosen": "\n\nHuman: Why?\n\nAssistant: Rivers.", "rejected": "\n\nHuman: Why?\n\nAssistant: Whales."}),
            Form::HhPair,
            pair(plain("\n\nHuman: Why?\n\nAssistant:"), plain(" Rivers."), plain(" Whales.")),
        ),
        (
            json!({"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": " Rivers.", "rejected": " Whales."}),
            Form::HhPair,
            pair(plain("\n\nHuman: Why?\n\nAssistant:"), plain(" Rivers."), plain(" Whales.")),
        ),
        (
            json!({"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "\n\nHuman: Why?\n\nAssistant: Rivers.",
                "rejected": "\n\nHuman: Why?\n\nAssistant: Whales."}),
            Form::HhPair,
            pair(plain("\n\nHuman: Why?\n\nAssistant:"), plain(" Rivers."), plain(" Whales.")),
        ),
    ];
    for (row, form, record) in rows {
        assert_eq!(golden(&row), (form, record), "{row}");
    }
}

#[test]
fn pairs_with_scores() {
    let ask = json!({"role": "user", "content": QUESTION});
    let answer = |text: &str| json!({"role": "assistant", "content": text});
    let record =
        pair(chat(&[("user", QUESTION)]), chat(&[("assistant", "Rivers.")]), chat(&[("assistant", "Whales.")]));
    let binarized = json!({"prompt": QUESTION, "prompt_id": "7", "chosen": [ask, answer("Rivers.")], "rejected": [ask, answer("Whales.")],
        "messages": [ask, answer("Rivers.")], "score_chosen": 8.5, "score_rejected": 6.0});
    let numbers = [("score_chosen", 8.5), ("score_rejected", 6.0), ("margin", 2.5), ("preference", 1.0)];
    assert_eq!(golden(&binarized), (Form::UltrafeedbackBinarized, with(record, &numbers)));

    let strings = || pair(plain(QUESTION), plain("Rivers."), plain("Whales."));
    for (chosen, rejected) in [
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
        ("rating_chosen", "rating_rejected"),
    ] {
        let row = json!({"prompt": QUESTION, "chosen": "Rivers.", "rejected": "Whales.", chosen: 8.5, rejected: "6"});
        assert_eq!(golden(&row), (Form::ArgillaPair, with(strings(), &numbers)), "{row}");
    }
    let row = json!({"instruction": QUESTION, "chosen_response": "Rivers.", "rejected_response": "Whales.",
        "chosen_avg_rating": 8.5, "rejected_avg_rating": 6});
    assert_eq!(golden(&row), (Form::ArgillaPair, with(strings(), &numbers)));
    // Ratings in a list, in the order of the generations.
    let listed = |rating: Value, status: &str| {
        json!({"input": QUESTION, "chosen": "Rivers.", "rejected": "Whales.", "rating": rating,
            "order": ["rejected", "chosen"], "status": status})
    };
    assert_eq!(golden(&listed(json!([6, 8.5]), "unchanged")), (Form::ArgillaPair, with(strings(), &numbers)));
    // The order is that of the columns before they were swapped.
    assert_eq!(golden(&listed(json!([8.5, 6]), "swapped")), (Form::ArgillaPair, with(strings(), &numbers)));
    for (name, score) in [("chosen_score", 8.5), ("rejected_score", 6.0)] {
        let mut row = listed(json!([8.5, 6]), "unchanged");
        row[name] = json!(score);
        assert_eq!(golden(&row), (Form::ArgillaPair, with(strings(), &numbers)), "{row}");
    }
}

#[test]
fn llama_factory_in_its_second_generation() {
    let turn = |role: &str, key: &str, text: &str, weight: f64| json!({"role": role, "content": [{"type": "text", key: text}], "loss_weight": weight});
    let side = |answer: &str| json!([turn("user", "value", "Why?", 0.0), turn("assistant", "text", answer, 1.0)]);
    let row = json!({"chosen_messages": side("Rivers."), "rejected_messages": side("Whales.")});
    let record = pair(chat(&[("user", "Why?")]), chat(&[("assistant", "Rivers.")]), chat(&[("assistant", "Whales.")]));
    assert_eq!(golden(&row), (Form::LlamaFactoryPair, record));
}

#[test]
fn labelled_completions() {
    let labelled = |desirable| -> Record {
        Row::Labelled { prompt: plain("How far?"), completion: plain("A mile."), desirable }.into()
    };
    let row =
        |name: &str, value: Value| json!({"prompt": "How far?", "response": "A mile.", name: value, "user": "x7"});
    for (name, value, form, desirable) in [
        ("label", json!(true), Form::TrlUnpaired, true),
        ("label", json!("Unsafe"), Form::TrlUnpaired, false),
        ("label", json!("0"), Form::TrlUnpaired, false),
        ("desirable", json!("no"), Form::TrlUnpaired, false),
        ("is_safe", json!(1), Form::TrlUnpaired, true),
        ("kto_tag", json!(false), Form::TrlUnpaired, false),
        ("thumbs_up", json!(true), Form::Thumbs, true),
        ("feedback", json!("down"), Form::Thumbs, false),
        ("thumb", json!("👍"), Form::Thumbs, true),
        ("liked", json!("False"), Form::Thumbs, false),
        ("rating", json!(-1), Form::Thumbs, false),
    ] {
        let row = row(name, value);
        assert_eq!(golden(&row), (form, labelled(desirable)), "{row}");
    }
    let talk = Row::Labelled {
        prompt: chat(&[("user", "How far?")]),
        completion: chat(&[("assistant", "A mile."), ("assistant", "Or two.")]),
        desirable: true,
    };
    let turns = [("user", "How far?"), ("assistant", "A mile."), ("assistant", "Or two.")];
    let messages: Vec<Value> = turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
    assert_eq!(golden(&json!({"messages": messages, "label": true})), (Form::MessagesUnpaired, talk.clone().into()));
    let shared: Vec<Value> = turns.iter().map(|(role, text)| json!({"from": role, "value": text})).collect();
    assert_eq!(golden(&json!({"conversations": shared, "kto_tag": true})), (Form::SharegptUnpaired, talk.into()));
    let alpaca = json!({"instruction": "How far?", "input": "", "output": "A mile.", "kto_tag": true});
    assert_eq!(golden(&alpaca), (Form::AlpacaUnpaired, labelled(true)));
}

#[test]
fn demonstrations_and_ratings() {
    let shown = |prompt: Text, completion: Text| -> Record { Row::Demonstration { prompt, completion }.into() };
    let simple = || shown(plain("How far?"), plain("A mile."));
    let row = json!({"instruction": "How far?", "output": "A mile."});
    assert_eq!(golden(&row), (Form::PromptCompletion, simple()));
    let row =
        json!({"messages": [{"role": "user", "content": "How far?"}, {"role": "assistant", "content": "A mile."}]});
    let talk = shown(chat(&[("user", "How far?")]), chat(&[("assistant", "A mile.")]));
    assert_eq!(golden(&row), (Form::Conversation, talk));
    let row = json!({"prompt": "How far?", "response": "A mile.", "helpfulness": 3, "correctness": 4, "verbosity": 1});
    let attributes = [("helpfulness", 3.0), ("correctness", 4.0), ("verbosity", 1.0)];
    let rated = with(simple(), &attributes);
    assert_eq!(golden(&row), (Form::HelpsteerRatings, rated.clone().with_number("score", 3.0)));
    let correct = SourceOptions { criterion: Some("correctness".to_owned()), ..SourceOptions::default() };
    assert_eq!(one(&row, &correct), (Form::HelpsteerRatings, rated.with_number("score", 4.0)));
    let row = json!({"prompt": "How far?", "completion": "A mile.", "scores": {"wit": 2, "brevity": true}});
    assert_eq!(golden(&row), (Form::Rated, with(simple(), &[("wit", 2.0), ("brevity", 1.0)])));
    let row = json!({"prompt": "How far?", "response": "A mile.", "marks": {"true": false, "kind": true}});
    let named = mapped(&[("attributes", ["marks.true", "marks.kind"].into())]);
    assert_eq!(one(&row, &named), (Form::Rated, with(simple(), &[("true", 0.0), ("kind", 1.0)])));
}

#[test]
fn rankings() {
    let rows = [
        (
            json!({"prompt": "Tea?", "responses": ["Green.", "Black."], "scores": [4, 2.5]}),
            Form::Ranked,
            ranked("Tea?", &[("Green.", 4.0), ("Black.", 2.5)]),
        ),
        (
            json!({"prompt": "Tea?", "answers": [{"answer": "Green.", "model": "m", "rank": 1.0}, {"answer": "Black.", "rank": 2}]}),
            Form::Nectar,
            ranked("Tea?", &[("Green.", -1.0), ("Black.", -2.0)]),
        ),
        (
            json!({"instruction": "Tea", "input": "now?", "output": ["Green.", "Black.", "No."]}),
            Form::OasstRanked,
            ranked("Tea\nnow?", &[("Green.", 2.0), ("Black.", 1.0), ("No.", 0.0)]),
        ),
        (
            json!({"prompt": "Tea?", "ranked_responses": ["Green.", "Black."]}),
            Form::OasstRanked,
            ranked("Tea?", &[("Green.", 1.0), ("Black.", 0.0)]),
        ),
        (
            json!({"prompt": "Tea?", "responses": ["Green.", "Black.", "No."], "comparisons":
                [{"i": 0, "j": 1, "winner": 1}, {"i": 0, "j": 2, "winner": null}, {"i": 1, "j": 2, "winner": 1}]}),
            Form::Comparisons,
            ranked("Tea?", &[("Green.", 0.5), ("Black.", 2.0), ("No.", 0.5)]),
        ),
        (
            json!({"question": "Tea?", "prediction 1": "Green.", "prediction 2": "Black.", "prediction 3": "No.", "preference": [2, 0, 1]}),
            Form::Comparisons,
            ranked("Tea?", &[("Green.", 0.5), ("Black.", 2.0), ("No.", 0.5)]),
        ),
    ];
    for (row, form, record) in rows {
        assert_eq!(golden(&row), (form, record), "{row}");
    }
    let completion = |text: &str, overall: f64, helpful: &str, honest: &str| {
        json!({"response": text, "overall_score": overall,
            "annotations": {"helpfulness": {"Rating": helpful}, "honesty": {"Rating": honest}}})
    };
    let row = json!({"instruction": "Tea?", "completions": [completion("Green.", 7.5, "4", "5"), completion("Black.", 6.0, "5", "2")]});
    for (criterion, ratings) in [
        (None, [7.5, 6.0]),
        (Some("helpfulness"), [4.0, 5.0]),
        (Some("honesty"), [5.0, 2.0]),
        (Some("mean"), [4.5, 3.5]),
    ] {
        let options = SourceOptions { criterion: criterion.map(str::to_owned), ..SourceOptions::default() };
        let expected = ranked("Tea?", &[("Green.", ratings[0]), ("Black.", ratings[1])]);
        assert_eq!(one(&row, &options), (Form::Ultrafeedback, expected), "{criterion:?}");
    }
}

/// A record with the numbers of its votes: for the chosen one, for the rejected one, for a tie.
fn voted(record: Record, preference: f64, [chosen, rejected, tied]: [f64; 3]) -> Record {
    let record = record.with_number("preference", preference).with_number("votes_chosen", chosen);
    record.with_number("votes_rejected", rejected).with_number("votes_tied", tied)
}

#[test]
fn votes() {
    let won = |chosen: &str, rejected: &str, preference, votes: [f64; 3]| {
        voted(pair(plain("Tea?"), plain(chosen), plain(rejected)), preference, votes)
    };
    let row = |more: Value| {
        let mut row = json!({"prompt": "Tea?", "response_a": "Green.", "response_b": "Black."});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    for (more, record) in [
        (json!({"votes": ["b", "b", "a", "tie"]}), won("Black.", "Green.", 0.625, [2.0, 1.0, 1.0])),
        (json!({"votes": "[\"A\", \"tie\"]"}), won("Green.", "Black.", 0.75, [1.0, 0.0, 1.0])),
        (json!({"winner": "model_b"}), won("Black.", "Green.", 1.0, [1.0, 0.0, 0.0])),
        (
            json!({"annotator1": 1, "annotator2": 0, "annotator3": null, "annotator4": 1, "annotator5": 2}),
            won("Green.", "Black.", 0.625, [2.0, 1.0, 1.0]),
        ),
        (json!({"preference": "left"}), won("Green.", "Black.", 1.0, [1.0, 0.0, 0.0])),
    ] {
        assert_eq!(golden(&row(more.clone())), (Form::Votes, record), "{more}");
    }
    let flags = row(json!({"winner_model_a": 0, "winner_model_b": "1", "winner_tie": 0}));
    assert_eq!(golden(&flags), (Form::Arena, won("Black.", "Green.", 1.0, [1.0, 0.0, 0.0])));
    let turns = json!({"prompt": "[\"Tea?\", \"Milk?\"]", "response_a": "[\"Green.\", \"No.\"]", "response_b": "[\"Black.\", \"Yes.\"]",
        "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0});
    let side = |first: &str, second: &str| chat(&[("assistant", first), ("user", "Milk?"), ("assistant", second)]);
    let record = pair(chat(&[("user", "Tea?")]), side("Green.", "No."), side("Black.", "Yes."));
    assert_eq!(golden(&turns), (Form::Arena, voted(record, 1.0, [1.0, 0.0, 0.0])));
    let talk = |answer: &str| json!([{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": answer}]);
    let arena =
        json!({"conversation_a": talk("Green."), "conversation_b": talk("Black."), "winner": "model_b", "turn": 1});
    let record = pair(chat(&[("user", "Tea?")]), chat(&[("assistant", "Black.")]), chat(&[("assistant", "Green.")]));
    assert_eq!(golden(&arena), (Form::Arena, voted(record, 1.0, [1.0, 0.0, 0.0])));
}

#[test]
fn strengths_and_safety() {
    let record = |chosen: &str, rejected: &str| pair(plain("Tea?"), plain(chosen), plain(rejected));
    let steer = |strength: i32| {
        json!({"prompt": "Tea?", "response_1": "Green.", "response_2": "Black.", "preference_strength": strength,
            "three_most_similar_preferences": [{"strength": 2, "statement": "s"}, {"strength": 0}, {"strength": -1}]})
    };
    assert_eq!(
        golden(&steer(2)),
        (
            Form::HelpsteerPreferences,
            with(
                record("Black.", "Green."),
                &[
                    ("margin", 2.0),
                    ("preference", 0.5),
                    ("votes_chosen", 1.0),
                    ("votes_rejected", 1.0),
                    ("votes_tied", 1.0)
                ]
            )
        )
    );
    // Two for the second, one for the first, whichever is chosen.
    for (strength, chosen, rejected) in [(1, 2.0, 1.0), (-1, 1.0, 2.0)] {
        let row = json!({"prompt": "p", "response_1": "a", "response_2": "b", "overall_preference": strength,
            "individual_preference": [{"score": 3}, {"score": 1}, {"score": -2}]});
        let numbers = golden(&row).1.numbers;
        assert_eq!(
            (numbers["votes_chosen"], numbers["votes_rejected"], numbers["votes_tied"]),
            (chosen, rejected, 0.0)
        );
    }
    assert_eq!(golden(&steer(-3)).1.row, record("Green.", "Black.").row);
    let margin = SourceOptions { numbers: vec![NumberColumn::any("margin")], ..SourceOptions::default() };
    assert_eq!(one(&steer(-3), &margin).1.numbers["margin"].to_string(), "3");

    let safe = json!({"prompt": "Tea?", "response_0": "Green.", "response_1": "Black.", "is_response_0_safe": false,
        "is_response_1_safe": true, "better_response_id": 0, "safer_response_id": 1});
    let labels = |better, safer, chosen, rejected| {
        [
            ("better", better),
            ("safer", safer),
            ("safe_chosen", chosen),
            ("safe_rejected", rejected),
            ("preference", 1.0),
        ]
    };
    let numbers = labels(1.0, -1.0, 0.0, 1.0);
    assert_eq!(golden(&safe), (Form::SafeRlhf, with(record("Green.", "Black."), &numbers)));
    let safer = SourceOptions { criterion: Some("safer".to_owned()), ..SourceOptions::default() };
    let numbers = labels(-1.0, 1.0, 1.0, 0.0);
    assert_eq!(one(&safe, &safer), (Form::SafeRlhf, with(record("Black.", "Green."), &numbers)));
}

#[test]
fn tools_and_template_arguments_go_to_the_record() {
    let tool = json!({"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}});
    for tools in [json!([tool]), json!(json!([tool]).to_string())] {
        let row = json!({"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b", "tools": tools,
            "chat_template_kwargs": {"enable_thinking": false, "other": null}});
        let (form, record) = golden(&row);
        assert_eq!((form, record.tools), (Form::TrlPair, vec![tool.clone()]));
        assert_eq!(Value::Object(record.template_arguments), json!({"enable_thinking": false}));
    }
}

#[test]
fn ties_are_dropped_kept_or_made_soft() {
    let row = json!({"prompt": "Tea?", "response_a": "Green.", "response_b": "Black.", "votes": ["a", "b", "tie"]});
    let options =
        |ties, numbers: &[NumberColumn]| SourceOptions { ties, numbers: numbers.to_vec(), ..SourceOptions::default() };
    let (_, rejections) = read(&open(std::slice::from_ref(&row), &options(Ties::Drop, &[])).unwrap());
    assert_eq!(
        rejections[0].to_string(),
        "<reader>:1: tie: 1 vote(s) for `response_a`, 1 for `response_b`, 1 for a tie; ties = \"soft\" keeps such rows with a \
         preference of 0.5, \"keep\" as they stand"
    );
    let kept = voted(pair(plain("Tea?"), plain("Green."), plain("Black.")), 0.5, [1.0, 1.0, 1.0]);
    assert_eq!(one(&row, &options(Ties::Keep, &[])).1, kept);
    assert_eq!(one(&row, &options(Ties::Soft, &[NumberColumn::share("preference")])).1, kept);
    let error = open(&[row], &options(Ties::Soft, &[])).unwrap_err();
    assert!(matches!(error, Error::Option { name: "ties", .. }), "{error}");
    for even in [
        json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_rating": 3, "rejected_rating": 3}),
        json!({"prompt": "p", "chosen": "a", "rejected": "b", "status": "tie"}),
        json!({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0}),
        json!({"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": -1}),
        json!({"prompt": "p", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"}),
    ] {
        let (records, rejections) = read(&open(std::slice::from_ref(&even), &SourceOptions::default()).unwrap());
        assert!(records.is_empty() && rejections[0].reason == Reason::Tied, "{even}: {rejections:?}");
        assert_eq!(one(&even, &options(Ties::Keep, &[])).1.numbers["preference"].to_string(), "0.5", "{even}");
    }
}

#[test]
fn a_criterion_must_be_one_that_the_rows_have() {
    let error = |row: Value, criterion: &str| {
        let options = SourceOptions { criterion: Some(criterion.to_owned()), ..SourceOptions::default() };
        open(&[row], &options).unwrap_err().to_string()
    };
    assert_eq!(
        error(json!({"prompt": "p", "response": "a", "helpfulness": 1, "correctness": 2}), "wit"),
        "<reader>: criterion: got \"wit\", and the rows have helpfulness, correctness"
    );
    assert_eq!(
        error(json!({"prompt": "p", "chosen": "a", "rejected": "b"}), "safer"),
        "<reader>: criterion: got \"safer\", and rows of the form trl_pair have nothing to choose from; leave it out"
    );
}

#[test]
fn columns_lead_into_objects() {
    let row =
        json!({"task": {"text": "Tea?"}, "runs": [{"out": "Green.", "ok": false}, {"out": "Black.", "ok": true}]});
    let columns = mapped(&[
        ("prompt", "task.text".into()),
        ("completions", ["runs.0.out", "runs.1.out"].into()),
        ("ratings", ["runs.0.ok", "runs.1.ok"].into()),
    ]);
    assert_eq!(one(&row, &columns), (Form::Ranked, ranked("Tea?", &[("Green.", 0.0), ("Black.", 1.0)])));
    let error = open(&[row], &mapped(&[("chosn", "x".into())])).unwrap_err().to_string();
    assert!(error.contains("columns.chosn") && error.ends_with("the nearest is chosen"), "{error}");
}

#[test]
fn what_could_mean_two_things_is_asked() {
    let error = |row: Value| open(&[row], &SourceOptions::default()).unwrap_err().to_string();
    let two = error(json!({"question": "q", "context": "c", "chosen": "a", "rejected": "b"}));
    assert!(two.contains("`question` and `context` could both be the prompt"), "{two}");
    assert!(two.contains("columns = { prompt = \"question\" }"), "{two}");
    let two = error(json!({"prompt": "p", "instruction": "i", "chosen": "a", "rejected": "b"}));
    assert!(two.contains("`prompt` and `instruction` could both be the prompt"), "{two}");
    let two = error(json!({"prompt": "p", "completion": "c", "label": true, "liked": false}));
    assert!(two.contains("`label` and `liked` could both be the label"), "{two}");
    let two = error(json!({"prompt": "p", "response": "c", "answer": "d", "label": true}));
    assert!(two.contains("`response` and `answer` could both be the completion"), "{two}");
    // Told what it is, it loads.
    let row = json!({"question": "q", "context": "c", "chosen": "a", "rejected": "b"});
    assert_eq!(one(&row, &mapped(&[("prompt", "context".into())])).1, pair(plain("c"), plain("a"), plain("b")));
    let verdict = error(json!({"prompt": "p", "response": "r", "truthful": false, "informative": true}));
    assert!(verdict.contains("columns = { label = \"truthful\" }"), "{verdict}");
}

#[test]
fn an_unknown_layout_is_answered_with_what_would_work() {
    let error = |row: Value| open(&[row], &SourceOptions::default()).unwrap_err().to_string();
    let near = error(json!({"prompt": "p", "chosen": "a", "worse": "b"}));
    assert!(near.contains("found the columns chosen (a string), prompt (a string), worse (a string)"), "{near}");
    assert!(near.contains("the nearest is trl_pair, which lacks `rejected`"), "{near}");
    assert!(!near.contains("did you mean"), "{near}");
    let row = json!({"user_question": "q", "chosen_text": "a", "rejected_text": "b"});
    let hint = error(row.clone());
    let columns = "columns = { prompt = \"user_question\", chosen = \"chosen_text\", rejected = \"rejected_text\" }";
    assert!(hint.ends_with(&format!("did you mean {columns}?")), "{hint}");
    let columns = [("prompt", "user_question"), ("chosen", "chosen_text"), ("rejected", "rejected_text")];
    let columns = columns.map(|(ours, theirs)| (ours, ColumnPath::from(theirs)));
    assert_eq!(one(&row, &mapped(&columns)).1, pair(plain("q"), plain("a"), plain("b")));
}

/// What the first row is that is set aside.
fn set_aside(row: &Value, options: &SourceOptions) -> (Reason, String) {
    let (records, mut rejections) = read(&open(std::slice::from_ref(row), options).unwrap());
    assert_eq!((records.len(), rejections.len()), (0, 1), "{row}");
    let rejection = rejections.remove(0);
    (rejection.reason, rejection.detail)
}

/// Rows of a file, of which more than one is looked at.
fn filed(rows: &[Value], options: &SourceOptions) -> Result<Vec<Record>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let source = Source::open(&SourceOptions { path, ..options.clone() })?;
    let (records, rejections) = read(&source);
    assert_eq!(rejections, []);
    Ok(records)
}

fn chosen(record: &Record) -> &str {
    match &record.row {
        Row::Pair { chosen: Text::Plain(chosen), .. } => chosen,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_of_votes_count_as_the_names_or_the_votes_say() {
    let chosen_of = |rows: &[Value], options: &SourceOptions| -> Vec<String> {
        filed(rows, options).unwrap().iter().map(|record| chosen(record).to_owned()).collect()
    };
    let summaries =
        |choice: i32| json!({"info": {"post": "p"}, "summaries": [{"text": "one"}, {"text": "two"}], "choice": choice});
    let paths =
        mapped(&[("prompt", "info.post".into()), ("completions", ["summaries.0.text", "summaries.1.text"].into())]);
    assert_eq!(chosen_of(&[summaries(0), summaries(1)], &paths), ["one", "two"]);
    let listed = |winner: i32| json!({"prompt": "p", "responses": ["one", "two"], "winner": winner});
    assert_eq!(chosen_of(&[listed(1), listed(0)], &SourceOptions::default()), ["two", "one"]);
    assert_eq!(chosen_of(&[listed(1), listed(2)], &SourceOptions::default()), ["one", "two"]);
    let lettered = |winner: i32| json!({"prompt": "p", "response_a": "one", "response_b": "two", "preference": winner});
    assert_eq!(chosen_of(&[lettered(1), lettered(2)], &SourceOptions::default()), ["one", "two"]);

    let human = |label: i32| json!({"history": "p", "human_ref_A": "one", "human_ref_B": "two", "labels": label});
    let columns = mapped(&[
        ("prompt", "history".into()),
        ("completions", ["human_ref_A", "human_ref_B"].into()),
        ("votes", "labels".into()),
    ]);
    for (rows, options) in [
        (vec![human(1), human(0)], &columns),
        (vec![lettered(1), lettered(0)], &SourceOptions::default()),
        (vec![lettered(1)], &SourceOptions::default()),
        (vec![listed(0), listed(1), listed(2)], &SourceOptions::default()),
    ] {
        let error = filed(&rows, options).unwrap_err().to_string();
        assert!(error.contains("does not say whether 1 is `") && error.contains("(first, second, tie)"), "{error}");
    }
    // The name of a column is as good as a word; what is mapped to the prompt is no history.
    let named = json!({"history": "p", "human_ref_A": "one", "human_ref_B": "two", "labels": "human_ref_B"});
    assert_eq!(one(&named, &columns).1.row, pair(plain("p"), plain("two"), plain("one")).row);
}

#[test]
fn a_sentence_is_no_vote_and_both_bad_is_a_tie() {
    let row = |winner: &str| json!({"prompt": "p", "response_a": "a", "response_b": "b", "votes": ["a", winner]});
    let (reason, detail) = set_aside(&row("Response B is better than A"), &SourceOptions::default());
    assert_eq!(reason, Reason::WrongType);
    assert!(detail.starts_with("`votes[1]` is \"Response B is better than A\" (a string)"), "{detail}");
    assert_eq!(golden(&row("both_bad")).1.numbers["votes_tied"].to_string(), "1");
}

#[test]
fn turns_in_strings_are_lists_or_nothing() {
    let row = |prompt: &str, one: &str| {
        json!({"prompt": prompt, "response_a": one, "response_b": "[\"b\"]", "winner_model_a": 1, "winner_model_b": 0,
            "winner_tie": 0})
    };
    for (prompt, one) in [("[\"Hi \\ud83d\"]", "[\"a\"]"), ("[null]", "[\"a\"]"), ("[\"Hi\"]", "[null]")] {
        assert_eq!(set_aside(&row(prompt, one), &SourceOptions::default()).0, Reason::WrongType, "{prompt}");
    }
    assert!(matches!(golden(&row("[\"Hi\"]", "[\"a\"]")).1.row, Row::Pair { prompt: Text::Chat(_), .. }));
}

#[test]
fn a_mapped_column_must_be_there() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "sys": null, "meta": {"system": "s"}});
    let error = |name: &str, path: &str| {
        open(std::slice::from_ref(&row), &mapped(&[(name, path.into())])).unwrap_err().to_string()
    };
    for (name, path, part) in [
        ("system", "syss", "system = \"syss\", which none of the first rows has (the nearest is \"sys\")"),
        ("tools", "functions_of_it", "(they have chosen (a string), meta (an object)"),
        ("system", "meta.sistem", "which none of the first rows has"),
    ] {
        let error = error(name, path);
        assert!(error.contains(part), "{error}");
    }
    assert!(open(std::slice::from_ref(&row), &mapped(&[("system", "sys".into())])).is_ok());
    let record = one(&row, &mapped(&[("system", "meta.system".into())])).1;
    let prompt = chat(&[("system", "s"), ("user", "p")]);
    assert_eq!(record, pair(prompt, chat(&[("assistant", "a")]), chat(&[("assistant", "b")])));
}

#[test]
fn rows_with_pictures_are_set_aside() {
    let row = |name: &str, value: Value| json!({"prompt": "p", "chosen": "a", "rejected": "b", name: value});
    for (name, value) in [
        ("images", json!(["x.png"])),
        ("image", json!({"bytes": null, "path": "x.png"})),
        ("videos", json!("[\"x.mp4\"]")),
        ("audios", json!("x.wav")),
    ] {
        let (reason, detail) = set_aside(&row(name, value), &SourceOptions::default());
        assert_eq!(reason, Reason::WrongType);
        assert_eq!(detail, format!("`{name}` is not empty; only text can be trained on, leave such rows out"));
    }
    for value in [json!([]), json!(null), json!([{"bytes": null, "path": null}]), json!("[]")] {
        golden(&row("images", value));
    }
}

#[test]
fn a_row_is_rated_by_scores_or_by_means() {
    let rated = |score: Value, rating: i32| json!({"response": format!("r{rating}"), "overall_score": score, "annotations": {"honesty": {"Rating": rating}}});
    let row =
        |first: Value, second: Value| json!({"instruction": "i", "completions": [rated(first, 4), rated(second, 5)]});
    let all = |first: f64, second: f64| ranked("i", &[("r4", first), ("r5", second)]);
    assert_eq!(golden(&row(json!(8), json!(6))), (Form::Ultrafeedback, all(8.0, 6.0)));
    assert_eq!(golden(&row(json!(8), json!(null))), (Form::Ultrafeedback, all(4.0, 5.0)));
}

#[test]
fn each_side_goes_on_from_the_prompt() {
    let turns = |turns: &[(&str, &str)]| -> Value {
        turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
    };
    let row = |chosen: Value, rejected: Value| json!({"prompt": turns(&[("user", "q")]), "chosen": chosen, "rejected": rejected});
    let (again, short) = (turns(&[("user", "q"), ("assistant", "a")]), turns(&[("assistant", "b")]));
    let expected = pair(chat(&[("user", "q")]), chat(&[("assistant", "a")]), chat(&[("assistant", "b")]));
    assert_eq!(golden(&row(again.clone(), short.clone())).1, expected);
    assert_eq!(golden(&row(again.clone(), json!("b"))).1, expected);
    for first in ["user", "system"] {
        let other = turns(&[(first, "other"), ("assistant", "b")]);
        for row in [row(again.clone(), other.clone()), row(other, short.clone())] {
            assert_eq!(set_aside(&row, &SourceOptions::default()).0, Reason::PromptsDiffer, "{row}");
        }
    }
}

#[test]
fn two_system_messages_must_be_one() {
    let row = |system: &str| {
        json!({"system": system, "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "q"}],
            "chosen": "a", "rejected": "b"})
    };
    let (reason, detail) = set_aside(&row("Be long."), &SourceOptions::default());
    assert_eq!(reason, Reason::PromptsDiffer);
    assert!(
        detail.contains("`system` is \"Be long.\", and the system message of `messages` is \"Be short.\""),
        "{detail}"
    );
    for same in ["Be short. ", ""] {
        let prompt = chat(&[("system", "Be short."), ("user", "q")]);
        assert_eq!(golden(&row(same)).1, pair(prompt, chat(&[("assistant", "a")]), chat(&[("assistant", "b")])));
    }
}

#[test]
fn what_could_be_the_prompt_is_compared_row_by_row() {
    let row =
        |prompt: &str, question: &str| json!({"prompt": prompt, "question": question, "chosen": "a", "rejected": "b"});
    let records = filed(&[row("x", ""), row("y", "y")], &SourceOptions::default()).unwrap();
    assert_eq!(records.len(), 2);
    let error = filed(&[row("x", "x"), row("y", "z")], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`prompt` and `question` could both be the prompt"), "{error}");
}

#[test]
fn even_scores_are_a_tie_of_any_pair() {
    let row =
        |score: i32| json!({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": score, "score_rejected": 2});
    assert_eq!(set_aside(&row(2), &SourceOptions::default()).0, Reason::Tied);
    let record = pair(plain("p"), plain("a"), plain("b"));
    assert_eq!(golden(&row(3)), (Form::TrlPair, record.clone().with_number("preference", 1.0)));
    let keep = SourceOptions { ties: Ties::Keep, ..SourceOptions::default() };
    assert_eq!(one(&row(2), &keep).1, record.with_number("preference", 0.5));
    // A share that the file has itself stays.
    let mut own = row(3);
    own["preference"] = json!(0.7);
    let wanted = SourceOptions { numbers: vec![NumberColumn::share("preference")], ..SourceOptions::default() };
    assert_eq!(one(&own, &wanted).1.numbers["preference"].to_string(), "0.7");
}

#[test]
fn a_short_scale_of_judgments_is_asked_about() {
    let row = |score: i32, more: Value| {
        let mut row = json!({"prompt": "p", "completion": "c", "judgment": "j", "score": score});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let error = filed(&[row(5, json!({})), row(2, json!({}))], &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`score` is 5 at most") && error.contains("positive = "), "{error}");
    for rows in [
        [row(5, json!({})), row(6, json!({}))],
        [row(5, json!({"positive": true})), row(2, json!({"positive": false}))],
    ] {
        assert_eq!(filed(&rows, &SourceOptions::default()).unwrap().len(), 2);
    }
}
