//! Files of every form, and files that are wrong.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use candlewick_data::{
    EncodeOptions, Encoder, Error, Form, Message, Order, Reason, Report, Row, Source, SourceOptions, Stream, Text,
};
use common::{SMALL, Small, encoder};

fn small() -> Arc<Encoder> {
    encoder(Small { chat: true, ..SMALL }, EncodeOptions { max_length: None, ..EncodeOptions::default() })
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> SourceOptions {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    SourceOptions::new(path)
}

fn report(options: &SourceOptions) -> Report {
    let mut stream = Stream::new(Source::open(options).unwrap(), small(), Order::File).unwrap();
    while stream.next_example().unwrap().is_some() {}
    stream.report().clone()
}

/// What the rows of a text become: prompt and completions, decoded.
fn decoded(text: &str) -> (Form, Vec<Vec<String>>) {
    let encoder = small();
    let source = Source::from_reader(std::io::Cursor::new(text.to_owned()), &SourceOptions::default()).unwrap();
    let form = source.form();
    let rows = Stream::new(source, encoder.clone(), Order::File).unwrap().map(|example| {
        let context = &example.unwrap().contexts[0];
        let completions = context.completions.iter().map(|completion| encoder.decode(&completion.ids));
        std::iter::once(encoder.decode(&context.prompt)).chain(completions).collect()
    });
    (form, rows.collect())
}

#[test]
fn every_form_is_told_from_its_columns() {
    let row = |text: &str, form, expected: &[&str]| {
        assert_eq!(decoded(text), (form, vec![expected.iter().map(|&text| text.to_owned()).collect()]), "{text}");
    };
    row(r#"{"prompt": "p", "chosen": " a", "rejected": " b"}"#, Form::TrlPair, &["<s> p", " a</s>", " b</s>"]);
    row(
        r#"{"chosen": "sky is blue", "rejected": "sky is black", "n": 1}"#,
        Form::TrlPair,
        &["<s> sky is", " blue</s>", " black</s>"],
    );
    row(r#"{"prompt": "p", "completion": " a", "label": false}"#, Form::TrlUnpaired, &["<s> p", " a</s>"]);
    row(r#"{"prompt": "p", "completion": " a"}"#, Form::PromptCompletion, &["<s> p", " a</s>"]);
    row(
        r#"{"prompt": "p", "completion": " a", "judgment": "j", "score": 3, "label": false}"#,
        Form::TrlUnpaired,
        &["<s> p", " a</s>"],
    );
    row(
        r#"{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}"#,
        Form::HhPair,
        &["<s> \n\nHuman: q\n\nAssistant:", " a</s>", " b</s>"],
    );
    let turn = |role: &str, content: &str| format!(r#"{{"role": "{role}", "content": "{content}"}}"#);
    let (user, yes, no) = (turn("user", "q"), turn("assistant", "a"), turn("assistant", "b"));
    let chat: &[&str] = &["<s><|user|> q<|end|><|assistant|>", " a<|end|>", " b<|end|>"];
    row(&format!(r#"{{"prompt": [{user}], "chosen": [{yes}], "rejected": [{no}]}}"#), Form::TrlPair, chat);
    row(&format!(r#"{{"chosen": [{user}, {yes}], "rejected": [{user}, {no}]}}"#), Form::TrlPair, chat);
    row(&format!(r#"{{"prompt": [{user}], "chosen": "a", "rejected": "b"}}"#), Form::TrlPair, chat);
    row(&format!(r#"{{"prompt": [{user}], "completion": [{yes}], "label": true}}"#), Form::TrlUnpaired, &chat[..2]);
    row(&format!(r#"{{"prompt": [{user}], "completion": [{yes}]}}"#), Form::PromptCompletion, &chat[..2]);
}

#[test]
fn plain_and_compressed_files_give_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // A byte order mark, blank lines, a carriage return, no break at the end.
    let text = "\u{feff}{\"prompt\":\"p\",\"completion\":\" a\"}\r\n\n  \n{\"prompt\":\"q\",\"completion\":\" b\"}";
    let plain = write(dir.path(), "a.jsonl", text);
    let mut members = Vec::new();
    for half in [&text[..20], &text[20..]] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(half.as_bytes()).unwrap();
        members.extend(encoder.finish().unwrap());
    }
    // Told by its content, not by its name; of two members.
    let compressed = write(dir.path(), "b.jsonl", &members);
    let lines = |options: &SourceOptions| -> Vec<(u64, Vec<u32>)> {
        let stream = Stream::new(Source::open(options).unwrap(), small(), Order::File).unwrap();
        stream
            .map(|example| example.unwrap())
            .map(|example| (example.origin.line, example.contexts[0].prompt.clone()))
            .collect()
    };
    assert_eq!(lines(&plain), lines(&compressed));
    assert_eq!(lines(&plain).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4]);

    let cut = write(dir.path(), "cut.jsonl.gz", &members[..members.len() - 12]);
    let mut stream = Stream::new(Source::open(&cut).unwrap(), small(), Order::File).unwrap();
    let error = stream.find_map(Result::err).unwrap();
    assert!(matches!(error, Error::GzipCutShort { line: 4, .. }), "{error}");
    assert!(error.to_string().contains("cut.jsonl.gz:4: the gzip stream ends"), "{error}");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = |options: &SourceOptions| Source::open(options).unwrap_err().to_string();
    let missing = error(&SourceOptions::new("/nowhere/pairs.jsonl"));
    assert!(missing.contains("/nowhere/pairs.jsonl: cannot open the data file"), "{missing}");
    assert!(error(&SourceOptions::new(dir.path())).contains("the directory holds no data file"));
    assert!(error(&write(dir.path(), "empty", "\n \n")).contains("no rows"));
    let array = error(&write(dir.path(), "array", "[\n 1, {\"prompt\": 1}]"));
    assert!(array.contains("array: row 1: not a JSON object: line 2, column 2: expected an object"), "{array}");
    let not_json = error(&write(dir.path(), "not_json", "\n{\"prompt\": \"a\" \"b\"}"));
    assert!(not_json.contains("not_json:2: not a JSON object: column 16: expected `,` or `}`"), "{not_json}");
    let columns = error(&write(dir.path(), "columns", r#"{"question": "q", "response": "r", "score": 1}"#));
    for part in [
        "columns:1: found the columns question (a string), response (a string), score (a number)",
        "trl_pair (chosen, rejected [, prompt])",
        "trl_unpaired (prompt, completion, label)",
        "prompt_completion (prompt, completion)",
        "hh_pair",
        r#"did you mean columns = { prompt = "question", completion = "response" }?"#,
    ] {
        assert!(columns.contains(part), "{columns} lacks {part}");
    }
    let mut mapped = write(dir.path(), "mapped", r#"{"question": "q", "response": "r"}"#);
    mapped.columns = [("prompt".into(), "question".into()), ("completion".into(), "response".into())].into();
    assert_eq!(Source::open(&mapped).unwrap().form(), Form::PromptCompletion);
    mapped.columns = [("promt".into(), "question".into())].into();
    assert!(error(&mapped).contains("columns.promt: no form has a column of this name"), "{}", error(&mapped));
}

/// Every kind of bad row between two good ones, with its line and reason.
#[test]
fn bad_rows_are_set_aside_with_their_place() {
    let rows: [(&[u8], Option<Reason>, &str); 11] = [
        (br#"{"prompt": "p", "chosen": " a", "rejected": " b"}"#, None, ""),
        (br#"{"prompt": "p", "chosen": " a", "rejected""#, Some(Reason::NotJson), "column 42"),
        (br#"["prompt"]"#, Some(Reason::NotJson), "expected an object"),
        (b"{\"prompt\": \"\xff\"}", Some(Reason::NotUtf8), "byte 13"),
        (
            br#"{"prompt": "p", "chosen": " a", "reject": " b"}"#,
            Some(Reason::MissingColumn),
            "no `rejected`; found chosen (a string), prompt",
        ),
        (br#"{"prompt": "p", "chosen": 3, "rejected": " b"}"#, Some(Reason::WrongType), "`chosen` is a number"),
        (br#"{"prompt": "p", "chosen": " ", "rejected": " b"}"#, Some(Reason::EmptyCompletion), "\" \""),
        (br#"{"prompt": "p", "chosen": " b", "rejected": " b"}"#, Some(Reason::Identical), "same text"),
        (
            br#"{"prompt": "p", "chosen": [{"role": "assistant", "content": "x"}], "rejected": " b"}"#,
            Some(Reason::WrongType),
            "list of messages",
        ),
        (
            br#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#,
            Some(Reason::WrongType),
            "`prompt[0]` has role (a string)",
        ),
        (br#"{"prompt": "q", "chosen": " a", "rejected": " b"}"#, None, ""),
    ];
    let dir = tempfile::tempdir().unwrap();
    let text: Vec<u8> = rows.iter().flat_map(|(row, _, _)| [row, b"\n".as_slice()].concat()).collect();
    let mut options = write(dir.path(), "mixed.jsonl", text);
    let report = report(&options);
    assert_eq!((report.rows, report.kept, report.rejected_rows()), (11, 2, 9));
    let expected = rows
        .iter()
        .enumerate()
        .filter_map(|(index, (_, reason, detail))| reason.map(|reason| (index as u64 + 1, reason, *detail)));
    for (rejection, (line, reason, detail)) in report.rejected.iter().zip(expected) {
        assert_eq!((rejection.origin.line, rejection.reason), (line, reason), "{rejection}");
        assert!(rejection.detail.contains(detail), "{rejection} lacks {detail}");
        assert!(rejection.to_string().contains(&format!("mixed.jsonl:{line}: ")), "{rejection}");
    }
    assert!(
        report.summary().starts_with("11 rows, 2 kept, 9 rejected (not UTF-8 1, not a JSON object 2, "),
        "{}",
        report.summary()
    );

    options.strict = true;
    let mut stream = Stream::new(Source::open(&options).unwrap(), small(), Order::File).unwrap();
    let error = stream.find_map(Result::err).unwrap().to_string();
    assert!(error.contains("mixed.jsonl:2: not a JSON object"), "{error}");
}

#[test]
fn a_form_that_is_forced_is_not_told_from_the_first_row() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "{\"prompt\": \"p\", \"completion\": \" a\"}\n{\"prompt\": \"p\", \"completion\": \" a\", \"label\": true}\n";
    let mut options = write(dir.path(), "forced", text);
    // One of the first rows has a label, so that all should.
    assert_eq!(report(&options).kept, 1);
    options.form = Form::PromptCompletion;
    assert_eq!(report(&options).kept, 2);
    options.form = Form::TrlUnpaired;
    let report = report(&options);
    assert_eq!((report.kept, report.reasons[&Reason::MissingColumn]), (1, 1));
    options.form = Form::HhPair;
    let mut batches =
        candlewick_data::Batches::new(Source::open(&options).unwrap(), small(), Default::default()).unwrap();
    let error = batches.next_step().unwrap_err().to_string();
    assert!(
        error.contains("no usable row came out of a whole pass: 2 rows, 0 kept, 2 rejected (missing column 2)"),
        "{error}"
    );
}

#[test]
fn a_stream_has_no_splits() {
    let row = || std::io::Cursor::new(r#"{"prompt": "p", "completion": "a"}"#);
    let split = SourceOptions { split: Some("test".to_owned()), ..SourceOptions::new("-") };
    let files = SourceOptions { files: vec!["a.jsonl".into()], ..SourceOptions::new("-") };
    for (options, name) in [(split, "split: got \"test\" of a stream"), (files, "files: got \"a.jsonl\" of a stream")] {
        for error in [Source::open(&options).unwrap_err(), Source::from_reader(row(), &options).unwrap_err()] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn a_reader_is_read_once() {
    let options = SourceOptions::default();
    let source = Source::from_reader(std::io::Cursor::new(r#"{"prompt": "p", "completion": "a"}"#), &options).unwrap();
    let mut stream = Stream::new(source, small(), Order::File).unwrap();
    assert!(stream.next_example().unwrap().is_some());
    assert!(stream.next_example().unwrap().is_none());
    stream.next_epoch();
    assert!(matches!(stream.next_example(), Err(Error::SinglePass { .. })));
}

#[test]
fn a_conversation_needs_a_template() {
    let rows = vec![Row::Demonstration {
        prompt: Text::Chat(vec![Message::new("user", "a")]),
        completion: Text::Chat(vec![Message::new("assistant", "b")]),
    }];
    let mut stream =
        Stream::new(Source::from_rows(rows), encoder(SMALL, EncodeOptions::default()), Order::File).unwrap();
    let error = stream.next_example().unwrap_err();
    assert!(matches!(error, Error::NoChatTemplate { .. }));
    assert!(error.to_string().contains("<memory>:1: the row is a conversation"), "{error}");
}

#[test]
fn counts_are_exact_beyond_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "{\"prompt\": \"p\", \"completion\": \" a\"}\n".to_owned();
    for _ in 0..250 {
        writeln!(text, "{{}}").unwrap();
    }
    let options = write(dir.path(), "many", text);
    let report = report(&options);
    assert_eq!(report.reasons[&Reason::MissingColumn], 250);
    assert_eq!(report.rejected.len(), candlewick_data::LISTED_REJECTIONS);

    // All can be had as they come, those of a second pass not again.
    let mut stream = Stream::new(Source::open(&options).unwrap(), small(), Order::File).unwrap();
    stream.hold_rejections();
    while stream.next_example().unwrap().is_some() {}
    let taken = stream.take_rejections();
    assert_eq!(taken.len(), 250);
    assert_eq!(taken[249].origin.line, 251);
    stream.next_epoch();
    while stream.next_example().unwrap().is_some() {}
    assert!(stream.take_rejections().is_empty());
}

#[test]
fn ids_of_special_tokens_come_from_either_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    put("tokenizer.json", &common::tokenizer_json(SMALL));
    put("generation_config.json", br#"{"eos_token_id": [7, 8], "bos_token_id": null}"#);
    put("config.json", br#"{"eos_token_id": 5, "bos_token_id": 6}"#);
    let encoder = Encoder::from_dir(dir.path(), EncodeOptions::default()).unwrap();
    assert_eq!((encoder.eos_id(), encoder.bos_id()), (Some(7), Some(6)));
    put("config.json", b"{");
    let text = Encoder::from_dir(dir.path(), EncodeOptions::default()).unwrap_err().to_string();
    assert!(text.contains("config.json: not JSON") && text.contains(&dir.path().display().to_string()), "{text}");
}

#[test]
fn truncation_alone_is_in_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let options = write(dir.path(), "long", "{\"prompt\": \"p\", \"completion\": \" a b c d e f g h i j k l\"}\n");
    let encoder = encoder(SMALL, EncodeOptions { max_length: Some(4), ..EncodeOptions::default() });
    let mut stream = Stream::new(Source::open(&options).unwrap(), encoder, Order::File).unwrap();
    stream.next_example().unwrap().unwrap();
    assert_eq!(stream.report().summary(), "1 rows, 1 kept, 0 rejected; 1 of 1 sequences truncated");
}

#[test]
fn hh_transcripts() {
    let Some(path) = common::asset("assets/preferences/hh_harmless_base_test.jsonl.gz") else {
        return;
    };
    let options = SourceOptions::new(path);
    assert_eq!(Source::open(&options).unwrap().form(), Form::HhPair);
    let report = report(&options);
    assert_eq!((report.rows, report.kept), (2312, 2303));
    let of = |reason| -> Vec<u64> {
        report
            .rejected
            .iter()
            .filter(|rejection| rejection.reason == reason)
            .map(|rejection| rejection.origin.line)
            .collect()
    };
    assert_eq!(of(Reason::EmptyCompletion), [87, 517, 926, 1104]);
    assert_eq!(of(Reason::PromptsDiffer), [1255, 1689, 1951, 1953, 2037]);
    assert_eq!(report.rejected.len(), 9);
}

#[test]
fn the_other_files_of_the_fixtures_are_read_whole() {
    let file = |name: &str, columns: &[(&str, &str)], rows: u64, rejected: &[(u64, Reason)]| {
        let Some(path) = common::asset(&format!("assets/ready/{name}")) else {
            return;
        };
        let columns = columns.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).into())).collect();
        let report = report(&SourceOptions { columns, ..SourceOptions::new(path) });
        assert_eq!(report.rows, rows, "{name}: {report}");
        let set_aside: Vec<_> =
            report.rejected.iter().map(|rejection| (rejection.origin.line, rejection.reason)).collect();
        assert_eq!(set_aside, rejected, "{name}: {report}");
    };
    file("pairs_dpo_en_chat.jsonl", &[("prompt", "messages")], 40, &[]);
    file("pairs_hh_harmless.jsonl", &[], 300, &[]);
    let same = [123, 227, 401, 567, 629, 677].map(|line| (line, Reason::Identical));
    file("pairs_polite_1100.jsonl", &[], 1100, &same);
    file("unpaired_diasafety_test.jsonl", &[("completion", "response")], 800, &[(379, Reason::EmptyCompletion)]);
}

/// A file of LLaMA-Factory's kind: its prompt stands under another name and must not be lost.
#[test]
fn a_prompt_under_another_name_is_not_dropped() {
    let text = r#"{"messages": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"}"#;
    let chat = ["<s><|user|> q<|end|><|assistant|>", " good<|end|>", " bad<|end|>"].map(str::to_owned).to_vec();
    assert_eq!(decoded(text), (Form::MessagesPair, vec![chat]));
    let dir = tempfile::tempdir().unwrap();
    let forced = SourceOptions { form: Form::TrlPair, ..write(dir.path(), "chat.jsonl", text) };
    assert_eq!(report(&forced).kept, 1);
}
