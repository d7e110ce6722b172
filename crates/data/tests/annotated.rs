//! What rows bring beside prompt and completions: numbers, ratings, judgments, edits, a teacher.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use candlewick_data::{
    Annotation, EncodeOptions, Encoder, Error, Example, Form, NumberColumn, Order, Origin, Reason, Record, Rejection,
    Row, ScoredTokens, Source, SourceOptions, Stream, TeacherColumn, TeacherToken, Text, Truncation,
};
use common::{SMALL, Small, chat, encoder, labelled, plain_pair};

fn small(options: EncodeOptions) -> Arc<Encoder> {
    encoder(Small { chat: true, ..SMALL }, options)
}

fn read_with(encoder: &Arc<Encoder>, text: &str, options: &SourceOptions) -> (Vec<Example>, Vec<Rejection>) {
    let source = Source::from_reader(std::io::Cursor::new(text.to_owned()), options).unwrap();
    of_source(encoder, source)
}

fn of_source(encoder: &Arc<Encoder>, source: Source) -> (Vec<Example>, Vec<Rejection>) {
    let mut stream = Stream::new(source, encoder.clone(), Order::File).unwrap();
    let examples = stream.by_ref().map(Result::unwrap).collect();
    (examples, stream.report().rejected.clone())
}

fn read(text: &str, options: &SourceOptions) -> (Vec<Example>, Vec<Rejection>) {
    read_with(&small(EncodeOptions::default()), text, options)
}

/// The one example of one row.
fn one(text: &str, options: &SourceOptions) -> Example {
    let (mut examples, rejected) = read(text, options);
    assert_eq!(rejected, [], "{text}");
    examples.pop().unwrap()
}

/// Why the one row is set aside.
fn fault(text: &str, options: &SourceOptions) -> Rejection {
    let (examples, mut rejected) = read(text, options);
    assert_eq!(examples, [], "{text}");
    rejected.pop().unwrap()
}

fn pair(more: &str) -> String {
    format!(r#"{{"prompt": "p", "chosen": " ab", "rejected": " ac"{more}}}"#)
}

fn wanting(numbers: &[NumberColumn]) -> SourceOptions {
    SourceOptions { numbers: numbers.to_vec(), ..SourceOptions::default() }
}

fn mapped(options: SourceOptions, columns: &[(&str, &str)]) -> SourceOptions {
    let columns = columns.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).into())).collect();
    SourceOptions { columns, ..options }
}

fn scored(example: &Example, context: usize, completion: usize) -> Vec<u32> {
    let completion = &example.contexts[context].completions[completion];
    completion.ids.iter().zip(&completion.scored).filter(|(_, scored)| **scored).map(|(id, _)| *id).collect()
}

#[test]
fn numbers_come_from_columns() {
    let margin = wanting(&[NumberColumn::any("margin")]);
    let number = |more: &str, options: &SourceOptions, name: &str| one(&pair(more), options).numbers[name].to_string();
    assert_eq!(number(r#", "margin": 0.5"#, &margin, "margin"), "0.5");
    assert_eq!(number(r#", "margin": -3"#, &margin, "margin"), "-3");
    assert_eq!(number(r#", "score_gap": 2"#, &mapped(margin.clone(), &[("margin", "score_gap")]), "margin"), "2");
    // Of a name that no form knows.
    let safety = mapped(wanting(&[NumberColumn::share("safety")]), &[("safety", "safe")]);
    assert_eq!(number(r#", "safe": 1"#, &safety, "safety"), "1");
    // What is not asked for is not read.
    assert!(one(&pair(r#", "margin": "high""#), &SourceOptions::default()).numbers.is_empty());
    let both = wanting(&[NumberColumn::any("score"), NumberColumn::share("uncertainty")]);
    let row = r#"{"prompt": "p", "completion": " a", "score": 3, "uncertainty": 0.25}"#;
    let numbers = one(row, &both).numbers;
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [("score".to_owned(), 3.0), ("uncertainty".to_owned(), 0.25)]);
}

#[test]
fn margins_and_preferences_are_taken_from_scores_and_votes() {
    let margin = wanting(&[NumberColumn::any("margin")]);
    let number = |more: &str, options: &SourceOptions, name: &str| one(&pair(more), options).numbers[name].to_string();
    assert_eq!(number(r#", "score_chosen": 8.5, "score_rejected": 6"#, &margin, "margin"), "2.5");
    assert_eq!(number(r#", "score_chosen": 8.5, "score_rejected": 6, "margin": 1"#, &margin, "margin"), "1");
    let named = mapped(margin, &[("score_chosen", "better"), ("score_rejected", "worse")]);
    assert_eq!(number(r#", "better": 1, "worse": 3"#, &named, "margin"), "-2");
    let preference = wanting(&[NumberColumn::share("preference")]);
    assert_eq!(number(r#", "votes_chosen": 3, "votes_rejected": 1"#, &preference, "preference"), "0.75");
    assert_eq!(number(r#", "votes_chosen": 0, "votes_rejected": 5"#, &preference, "preference"), "0");
}

#[test]
fn a_row_without_its_number_is_set_aside() {
    let margin = wanting(&[NumberColumn::any("margin")]);
    let preference = wanting(&[NumberColumn::share("preference")]);
    let case = |more: &str, options: &SourceOptions, reason: Reason, detail: &str| {
        let fault = fault(&pair(more), options);
        assert_eq!((fault.reason, fault.detail.as_str()), (reason, detail));
    };
    case(
        "",
        &margin,
        Reason::MissingColumn,
        "no `margin`; found chosen (a string), prompt (a string), rejected (a string); `score_chosen` and `score_rejected` \
         would do as well",
    );
    case(
        r#", "score_chosen": 1"#,
        &margin,
        Reason::MissingColumn,
        "no `score_rejected`; found chosen (a string), prompt (a string), rejected (a string), score_chosen (a number)",
    );
    case(
        r#", "margin": "high""#,
        &margin,
        Reason::WrongType,
        "`margin` is \"high\" (a string), expected a finite number",
    );
    case(r#", "margin": true"#, &margin, Reason::WrongType, "`margin` is true (a boolean), expected a finite number");
    case(r#", "preference": 1.5"#, &preference, Reason::OutOfRange, "`preference` is 1.5, expected a number in [0, 1]");
    case(
        r#", "preference": true"#,
        &preference,
        Reason::WrongType,
        "`preference` is true (a boolean), expected a number in [0, 1]",
    );
    case(
        r#", "votes_chosen": 0, "votes_rejected": 0"#,
        &preference,
        Reason::OutOfRange,
        "`votes_chosen` and `votes_rejected` are both 0, expected at least one vote",
    );
    case(
        r#", "votes_chosen": -1, "votes_rejected": 2"#,
        &preference,
        Reason::OutOfRange,
        "`votes_chosen` is -1, expected a count of votes",
    );
    let positive = wanting(&[NumberColumn { name: "margin".to_owned(), low: 0.0, high: 10.0 }]);
    case(
        r#", "score_chosen": 1, "score_rejected": 3"#,
        &positive,
        Reason::OutOfRange,
        "`margin` is -2 (the difference of the scores), expected a number in [0, 10]",
    );
    case(
        r#", "share": 2"#,
        &mapped(preference.clone(), &[("preference", "share")]),
        Reason::OutOfRange,
        "`share` is 2, expected a number in [0, 1]",
    );
    let computed = fault(&pair(""), &wanting(&[NumberColumn::share("desirable_prompt")])).detail;
    assert!(computed.ends_with("; in training, a section [udm] has it computed"), "{computed}");
    // JSON has no infinity, and a number beyond f64 is none.
    let (_, rejected) = read(&format!("{}\n{}", pair(r#", "margin": 1"#), pair(r#", "margin": 1e999"#)), &margin);
    assert_eq!((rejected[0].origin.line, rejected[0].reason), (2, Reason::NotJson));
    // Scores of a pair say nothing of other rows.
    let row = r#"{"prompt": "p", "completion": " a", "score_chosen": 1, "score_rejected": 0}"#;
    assert!(fault(row, &margin).detail.starts_with("no `margin`; found completion (a string)"));
}

#[test]
fn columns_that_neither_a_form_nor_a_number_has_cannot_be_mapped() {
    let open = |options: &SourceOptions| Source::from_reader(std::io::Cursor::new(pair("")), options);
    let wrong = mapped(SourceOptions::default(), &[("safety", "safe")]);
    let error = open(&wrong).unwrap_err().to_string();
    assert!(error.starts_with("columns.safety: no form has a column of this name"), "{error}");
    // Nor one that is not read, though others read it.
    let gap = mapped(SourceOptions::default(), &[("margin", "gap")]);
    assert!(open(&gap).unwrap_err().to_string().starts_with("columns.margin: no form has"));
    let parts = mapped(wanting(&[NumberColumn::any("margin")]), &[("score_chosen", "a"), ("score_rejected", "b")]);
    assert!(open(&parts).is_ok());
    assert!(open(&SourceOptions { numbers: vec![NumberColumn::any("safety")], ..wrong }).is_ok());
    // Without the column that was meant, the prompt would be taken from what the completions share.
    let typo = mapped(SourceOptions::default(), &[("prompt", "promt")]);
    let error = open(&typo).unwrap_err().to_string();
    assert!(
        error.contains(r#"prompt = "promt", which none of the first rows has (the nearest is "prompt")"#),
        "{error}"
    );
}

#[test]
fn rows_from_memory_bring_numbers() {
    let encoder = small(EncodeOptions::default());
    let records: Vec<Record> = vec![
        Record::from(plain_pair("p", " a", " b")).with_number("margin", 0.5).with_number("other", 7.0),
        plain_pair("p", " a", " c").into(),
        Record::from(plain_pair("p", " a", " d")).with_number("other", 1.0),
        Record::from(plain_pair("p", " a", " e")).with_number("margin", f64::NAN),
    ];
    let source = Source::from_records(records.clone()).with_numbers([NumberColumn::any("margin")]);
    let (examples, rejected) = of_source(&encoder, source);
    assert_eq!(examples.len(), 1);
    assert_eq!(examples[0].numbers, records[0].numbers);
    let shown: Vec<String> = rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "<memory>:2: missing column: no number `margin`, the row brings no numbers; expected a finite number",
            "<memory>:3: missing column: no number `margin`, the row brings other; expected a finite number",
            "<memory>:4: number out of range: `margin` is NaN, expected a finite number",
        ]
    );
    // Without the demand only what is no number is refused.
    let (kept, rejected) = of_source(&encoder, Source::from_records(records.clone()));
    assert_eq!((kept.len(), rejected[0].reason), (3, Reason::OutOfRange));
    // Examples are checked too, and rows that can bring none.
    let source = Source::from_examples(kept).with_numbers([NumberColumn::share("margin")]);
    assert_eq!(of_source(&encoder, source).0.len(), 1);
    let rows = Source::from_rows(vec![plain_pair("p", " a", " b")]).with_numbers([NumberColumn::share("margin")]);
    assert_eq!(of_source(&encoder, rows).1[0].reason, Reason::MissingColumn);
    let alone = encoder.encode_record(&records[0], &Origin::memory(1)).unwrap();
    assert_eq!(alone.numbers["other"].to_string(), "7");
}

#[test]
fn ranked_rows_share_their_prompt() {
    let encoder = small(EncodeOptions::default());
    let row = r#"{"prompt": "sl", "completions": ["ow", "im", "ip"], "ratings": [1, 3.5, -2]}"#;
    let example = one(row, &SourceOptions::default());
    assert_eq!(example.annotation, Annotation::Ranked { ratings: vec![1.0, 3.5, -2.0] });
    let [context] = &example.contexts[..] else { panic!("one context") };
    // "low" takes a token of the prompt with it.
    assert_eq!(encoder.decode(&context.prompt), "<s> s");
    let texts: Vec<String> = context.completions.iter().map(|completion| encoder.decode(&completion.ids)).collect();
    assert_eq!(texts, ["low</s>", "lim</s>", "lip</s>"]);
    assert_eq!(context.completions[1].scored, [false, true, true, true]);
    assert_eq!(
        encoder.describe(&example),
        "<reader>:1 (ranked)\n  prompt, 3 tokens: \"<s> s\"\n  completion rated 1, 3 tokens, 3 scored: ⟦\"low</s>\"⟧\n  \
         completion rated 3.5, 4 tokens, 3 scored: \"l\"⟦\"im</s>\"⟧\n  \
         completion rated -2, 4 tokens, 3 scored: \"l\"⟦\"ip</s>\"⟧"
    );
}

#[test]
fn ranked_rows_of_other_layouts() {
    let same = one(r#"{"prompt": "p", "completions": [" a", " b"], "ratings": [4, 2]}"#, &SourceOptions::default());
    let rows = [
        // UltraFeedback's.
        r#"{"prompt": "p", "completions": [{"model": "x", "response": " a", "overall_score": 4}, {"response": " b", "overall_score": 2}]}"#,
        r#"{"prompt": "p", "completions": [{"text": " a", "rating": 9}, {"text": " b"}], "ratings": [4, 2]}"#,
        r#"{"prompt": "p", "completions": [{"response": " a", "score": 4.0}, {"response": " b", "score": 2}]}"#,
        r#"{"prompt": "p", "completions": [{"text": " a", "rating": 4.0}, {"text": " b", "rating": 2}]}"#,
    ];
    for row in rows {
        let example = one(row, &SourceOptions::default());
        assert_eq!(example, same, "{row}");
    }
    let best_first = one(r#"{"prompt": "p", "best_first": [" a", " b", " c"]}"#, &SourceOptions::default());
    assert_eq!(best_first.annotation, Annotation::Ranked { ratings: vec![2.0, 1.0, 0.0] });
    let named = mapped(SourceOptions::default(), &[("completions", "responses"), ("ratings", "scores")]);
    assert_eq!(one(r#"{"prompt": "p", "responses": [" a", " b"], "scores": [4, 2]}"#, &named), same);
    let talk = r#"{"prompt": [{"role": "user", "content": "q"}], "completions": ["a", [{"role": "assistant", "content": "b"}]], "ratings": [1, 0]}"#;
    let example = one(talk, &SourceOptions::default());
    let encoder = small(EncodeOptions::default());
    assert_eq!(encoder.decode(&example.contexts[0].completions[1].ids), " b<|end|>");
}

#[test]
fn ranked_rows_that_cannot_be() {
    let forced = SourceOptions { form: Form::Ranked, ..SourceOptions::default() };
    let case = |more: &str, reason: Reason, detail: &str| {
        let fault = fault(&format!(r#"{{"prompt": "p", {more}}}"#), &forced);
        assert_eq!((fault.reason, fault.detail.as_str()), (reason, detail), "{more}");
    };
    case(
        r#""completions": [" a"], "ratings": [1]"#,
        Reason::TooFewCompletions,
        "1 completion(s), expected at least two to rank",
    );
    case(
        r#""completions": [" a", " b"], "ratings": [1]"#,
        Reason::WrongType,
        "`completions` has 2 entries and `ratings` 1, expected as many",
    );
    case(
        r#""completions": [" a", " b"], "ratings": [1, "5"]"#,
        Reason::WrongType,
        "`ratings[1]` is \"5\" (a string), expected a finite number",
    );
    case(r#""completions": " a", "ratings": [1]"#, Reason::WrongType, "`completions` is a string, expected a list");
    case(
        r#""completions": [" a", 3], "ratings": [1, 2]"#,
        Reason::WrongType,
        "`completions[1]` is a number, expected a string or a list of messages",
    );
    case(
        r#""completions": [" a", " b"]"#,
        Reason::MissingColumn,
        "no `ratings`; found completions (a list), prompt (a string)",
    );
    case(
        r#""completions": [{"response": " a", "rating": 1}, {"response": " b"}]"#,
        Reason::MissingColumn,
        "no `ratings`, and `completions[1]` has no rating or overall_score or score",
    );
    case(r#""completions": [" a", " a"], "ratings": [1, 0]"#, Reason::AllAlike, "all completions give the same tokens");
    case(r#""completions": [" a", " "], "ratings": [1, 0]"#, Reason::EmptyCompletion, "the completion is \" \"");
    let tight = small(EncodeOptions { max_length: Some(5), ..EncodeOptions::default() });
    let text = Text::Plain("ab".into());
    let completion = |text: &str, rating| (Text::Plain(text.into()), rating);
    let ranked = |completions| Row::Ranked { prompt: text.clone(), completions };
    let reason = |row: &Row| tight.encode(row, &Origin::memory(1)).unwrap_err();
    let cut = reason(&ranked(vec![completion("cd", 1.0), completion("ce", 0.0)]));
    assert_eq!(cut.to_string(), "<memory>:1: all completions alike: the completions differ only beyond 5 tokens");
    let nan = reason(&ranked(vec![completion("c", f64::NAN), completion("d", 0.0)]));
    assert_eq!(nan.to_string(), "<memory>:1: number out of range: a rating of NaN, expected a finite number");
    // A list without ratings is of no form, and the error says what would be.
    let row = r#"{"prompt": "p", "completions": ["a", "b"]}"#;
    let error = Source::from_reader(row.as_bytes(), &SourceOptions::default()).unwrap_err().to_string();
    assert!(error.contains("ranked (prompt, completions, ratings; or prompt, best_first)"), "{error}");
    let row = r#"{"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}"#;
    let source = Source::from_reader(row.as_bytes(), &SourceOptions::default()).unwrap();
    assert_eq!(source.form(), Form::Ranked);
}

#[test]
fn judged_rows_score_the_same_tokens_under_two_prompts() {
    let encoder = small(EncodeOptions::default());
    let row = r#"{"prompt": "q:", "completion": " ab", "judgment": "bad", "positive": false}"#;
    let example = one(row, &SourceOptions::default());
    assert_eq!(example.annotation, Annotation::Judged { positive: false });
    let [plain, judged] = &example.contexts[..] else { panic!("two contexts") };
    assert_eq!(plain.completions, judged.completions);
    assert_eq!(encoder.decode(&plain.prompt), "<s> q:");
    let with = "<s> Judgment of the answer to the request below: bad\n\nq:";
    assert_eq!(encoder.decode(&judged.prompt), with);
    assert_eq!(
        encoder.describe(&example),
        format!(
            "<reader>:1 (judged badly)\n  prompt, 4 tokens: \"<s> q:\"\n  completion, 4 tokens, 4 scored: ⟦\" ab</s>\"⟧\n  \
             prompt with judgment, {} tokens: {with:?}\n  completion, 4 tokens, 4 scored: ⟦\" ab</s>\"⟧",
            judged.prompt.len()
        )
    );
    for (score, positive) in [("7", true), ("6.9", false), ("10", true)] {
        let row = format!(r#"{{"prompt": "q:", "completion": " ab", "judgment": "x", "score": {score}}}"#);
        assert_eq!(one(&row, &SourceOptions::default()).annotation, Annotation::Judged { positive }, "{score}");
    }
    let (prompt, completion) =
        (chat(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]), chat(&[("assistant", "d")]));
    let row = Row::Judged { prompt, completion, judgment: "good".into(), positive: true };
    let example = encoder.encode(&row, &Origin::memory(1)).unwrap();
    assert_eq!(
        encoder.decode(&example.contexts[1].prompt),
        "<s> <|system|>s<|end|><|user|> a<|end|><|assistant|> b<|end|><|user|> \
         Judgment of the answer to the request below: good\n\nc<|end|><|assistant|>"
    );
}

#[test]
fn judged_rows_that_cannot_be() {
    let forced = SourceOptions { form: Form::Judged, ..SourceOptions::default() };
    let case = |more: &str, reason: Reason, detail: &str| {
        let fault = fault(&format!(r#"{{"completion": " ab", {more}}}"#), &forced);
        assert_eq!((fault.reason, fault.detail.as_str()), (reason, detail), "{more}");
    };
    case(r#""prompt": "p", "judgment": " ", "positive": true"#, Reason::EmptyJudgment, "the judgment is \" \"");
    case(
        r#""prompt": "p", "judgment": ["x"], "positive": true"#,
        Reason::WrongType,
        "`judgment` is a list, expected a string",
    );
    case(
        r#""prompt": "p", "judgment": "x", "positive": 1"#,
        Reason::WrongType,
        "`positive` is a number, expected true (nothing wrong) or false",
    );
    case(
        r#""prompt": "p", "judgment": "x""#,
        Reason::MissingColumn,
        "no `positive`; found completion (a string), judgment (a string), prompt (a string)",
    );
    case(
        r#""prompt": "p", "judgment": "x", "score": "good""#,
        Reason::WrongType,
        "`score` is \"good\" (a string), expected a finite number",
    );
    // Without a prompt the completion begins the text, where this tokenizer puts a space before it.
    let fault = fault(r#"{"prompt": "", "completion": "ab", "judgment": "x", "positive": true}"#, &forced);
    assert_eq!(fault.reason, Reason::JudgmentChangesTokens);
    assert!(
        fault
            .detail
            .starts_with("4 tokens under the prompt alone and 3 under prompt and judgment, which part at token 1;"),
        "{fault}"
    );
    let talk = Row::Judged {
        prompt: chat(&[("system", "s")]),
        completion: chat(&[("assistant", "a")]),
        judgment: "x".into(),
        positive: true,
    };
    let refused = small(EncodeOptions::default()).encode(&talk, &Origin::memory(1)).unwrap_err().to_string();
    assert!(refused.ends_with("the prompt has no message of role \"user\" to put the judgment before"), "{refused}");
}

#[test]
fn judged_rows_are_cut_alike() {
    let row = |completion: &str| Row::Judged {
        prompt: Text::Plain("p".into()),
        completion: Text::Plain(completion.into()),
        judgment: "x".into(),
        positive: true,
    };
    let free = small(EncodeOptions { max_length: None, ..EncodeOptions::default() });
    let whole = free.encode(&row(" abcdef"), &Origin::memory(1)).unwrap();
    let judged_prompt = whole.contexts[1].prompt.len();
    let limited = |limit, truncation| {
        let encoder = small(EncodeOptions { max_length: Some(limit), truncation, ..EncodeOptions::default() });
        encoder.encode(&row(" abcdef"), &Origin::memory(1))
    };
    let cut = limited(judged_prompt + 3, Truncation::KeepStart).unwrap();
    assert_eq!(cut.contexts[0].completions, cut.contexts[1].completions);
    assert_eq!(cut.contexts[0].completions[0].ids, whole.contexts[0].completions[0].ids[..3]);
    assert_eq!(limited(judged_prompt, Truncation::KeepStart).unwrap_err().reason, Reason::PromptTooLong);
    let refused = limited(judged_prompt + 3, Truncation::KeepEndOfPrompt).unwrap_err();
    assert!(refused.to_string().contains("and the judgment would be cut; raise max_length"), "{refused}");
    assert_eq!(limited(judged_prompt + 3, Truncation::Reject).unwrap_err().reason, Reason::TooLong);
    assert_eq!(limited(judged_prompt + 8, Truncation::KeepEndOfPrompt).unwrap().contexts, whole.contexts);
}

fn edits(max_length: Option<usize>) -> Arc<Encoder> {
    small(EncodeOptions { scored: ScoredTokens::Edits, max_length, ..EncodeOptions::default() })
}

#[test]
fn of_a_revision_only_the_edits_are_scored() {
    let encoder = edits(None);
    let example = encoder.encode(&plain_pair("p", " axcd", " abc"), &Origin::memory(1)).unwrap();
    assert_eq!(
        encoder.describe(&example),
        "<memory>:1 (pair)\n  prompt, 3 tokens: \"<s> p\"\n  chosen, 6 tokens, 3 scored: \" a\"⟦\"x\"⟧\"c\"⟦\"d</s>\"⟧\n  \
         rejected, 5 tokens, 1 scored: \" a\"⟦\"b\"⟧\"c</s>\""
    );
    // A conversation's end is the template's: only the tokenizer's own end-of-sequence token is always scored.
    let talk = Row::Pair {
        prompt: chat(&[("user", "q")]),
        chosen: chat(&[("assistant", "ab")]),
        rejected: chat(&[("assistant", "ac")]),
    };
    let example = encoder.encode(&talk, &Origin::memory(1)).unwrap();
    assert_eq!(encoder.decode(&scored(&example, 0, 0)), "b");
    assert_eq!(encoder.decode(&scored(&example, 0, 1)), "c");
}

#[test]
fn a_revision_without_edits_on_one_side_is_set_aside() {
    let reason = |encoder: &Encoder, row: &Row| encoder.encode(row, &Origin::memory(1)).unwrap_err().to_string();
    let encoder = edits(None);
    assert_eq!(
        reason(&encoder, &plain_pair("p", " abc", " ab")),
        "<memory>:1: no edited token: the edit script from rejected to chosen only inserts: no token of `rejected` is touched"
    );
    // What only deletes still scores the end of the revision.
    let example = encoder.encode(&plain_pair("p", " ab", " abc"), &Origin::memory(1)).unwrap();
    assert_eq!(encoder.decode(&scored(&example, 0, 0)), "</s>");
    let keep = EncodeOptions {
        scored: ScoredTokens::Edits,
        end_of_sequence: candlewick_data::EndOfSequence::Keep,
        ..EncodeOptions::default()
    };
    assert!(
        reason(&small(keep), &plain_pair("p", " ab", " abc"))
            .ends_with("only deletes: no token of `chosen` is touched")
    );
    assert!(reason(&encoder, &plain_pair("p", "ж", "я")).contains("chosen equals rejected"));
    assert_eq!(
        reason(&encoder, &labelled("p", " a", true)),
        "<memory>:1: not a pair: scored = \"edits\" scores what tells the completions of a pair apart; use pairs, or scored = \
         \"all\""
    );
    // <s> ▁ p | ▁ a b …: of eight tokens the last edits are cut off.
    let (row, tight) = (plain_pair("p", " abcdefx", " abcdefy"), edits(Some(8)));
    assert_eq!(
        reason(&tight, &row),
        "<memory>:1: no edited token: all edited tokens of a completion lie beyond the limit of 8 tokens; raise max_length"
    );
    // Edits are found before the cut: what it takes from the end is no edit.
    let cut = edits(Some(7)).encode(&plain_pair("p", " wyabcd", " zabcd"), &Origin::memory(1)).unwrap();
    assert_eq!(cut.contexts[0].completions[1].scored, [false, true, false, false]);
    let mismatched = candlewick_data::BatchOptions { mismatched: true, ..Default::default() };
    let error = candlewick_data::Batches::new(Source::from_rows(vec![row]), encoder, mismatched).unwrap_err();
    assert!(matches!(error, Error::Option { name: "scored", .. }), "{error}");
}

fn taught(chosen: &str, rejected: &str) -> String {
    pair(&format!(r#", "teacher": {{"chosen": [{chosen}], "rejected": [{rejected}]}}"#))
}

const WITH: &str = r#"{"ids": [5, 9], "log_probs": [-0.5, -2], "reference_log_probs": [-1, -1.5]}"#;

fn teacher(wanted: TeacherColumn) -> SourceOptions {
    SourceOptions { teacher: wanted, ..SourceOptions::default() }
}

#[test]
fn a_teacher_speaks_of_every_scored_token() {
    // " ab</s>" is four tokens.
    let row = taught(&[WITH; 4].join(", "), &[WITH; 4].join(", "));
    let example = one(&row, &teacher(TeacherColumn::WithReference));
    let token = TeacherToken { ids: vec![5, 9], log_probs: vec![-0.5, -2.0], reference_log_probs: vec![-1.0, -1.5] };
    assert_eq!(example.contexts[0].completions[1].teacher, vec![token.clone(); 4]);
    let plain = TeacherToken { reference_log_probs: Vec::new(), ..token.clone() };
    let example = one(&row, &teacher(TeacherColumn::LogProbs));
    assert_eq!(example.contexts[0].completions[0].teacher, vec![plain.clone(); 4]);
    assert!(small(EncodeOptions::default()).describe(&example).contains("chosen, 4 tokens, 4 scored, 4 taught: "));
    assert!(one(&row, &SourceOptions::default()).contexts[0].completions[0].teacher.is_empty());
    // What a cut takes away, it takes from the teacher too.
    let tight = small(EncodeOptions { max_length: Some(6), ..EncodeOptions::default() });
    let (examples, _) = read_with(&tight, &row, &teacher(TeacherColumn::LogProbs));
    assert_eq!(examples[0].contexts[0].completions[0].teacher, vec![plain.clone(); 3]);
    // Of edits there are fewer: "b" and the end here, "c" there.
    let two = taught(&[WITH; 2].join(", "), WITH);
    let (examples, rejected) = read_with(&edits(None), &two, &teacher(TeacherColumn::LogProbs));
    assert_eq!(rejected, []);
    assert_eq!(examples[0].contexts[0].completions[0].teacher.len(), 2);
    // One completion, and rows from memory.
    let row = format!(r#"{{"prompt": "p", "completion": "a", "teacher": {{"completion": [{WITH}, {WITH}]}}}}"#);
    assert_eq!(one(&row, &teacher(TeacherColumn::LogProbs)).contexts[0].completions[0].teacher, vec![plain; 2]);
    let encoder = small(EncodeOptions::default());
    let row = plain_pair("p", "a", "b");
    let record = Record { teacher: vec![vec![token.clone(); 2]; 2], ..Record::from(row.clone()) };
    let of = |record: Record, wanted| of_source(&encoder, Source::from_records(vec![record]).with_teacher(wanted));
    let (examples, _) = of(record, TeacherColumn::WithReference);
    assert_eq!(examples[0].contexts[0].completions[0].teacher, vec![token; 2]);
    assert_eq!(
        of_source(&encoder, Source::from_examples(examples.clone()).with_teacher(TeacherColumn::LogProbs)).0,
        examples
    );
    let (_, rejected) = of(Record::from(row), TeacherColumn::LogProbs);
    assert_eq!(rejected[0].to_string(), "<memory>:1: missing column: the row brings no teacher's log-probabilities");
    let mut bare = examples;
    bare[0].contexts[0].completions[1].teacher[1].reference_log_probs.clear();
    let (_, rejected) = of_source(&encoder, Source::from_examples(bare).with_teacher(TeacherColumn::WithReference));
    assert_eq!(rejected[0].detail, "the row brings a teacher's log-probabilities without those of its reference");
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_with_its_place() {
    let last = |entry: &str| taught(&[WITH, WITH, WITH, entry].join(", "), &[WITH; 4].join(", "));
    let case = |row: &str, wanted, reason: Reason, detail: &str| {
        let fault = fault(row, &teacher(wanted));
        assert_eq!((fault.reason, fault.detail.as_str()), (reason, detail), "{row}");
    };
    let bad = |entry: &str, detail: &str| {
        let detail = format!("`chosen`, scored token 4 of 4: {detail}");
        case(&last(entry), TeacherColumn::LogProbs, Reason::TeacherMismatch, &detail);
    };
    bad(r#"{"ids": [], "log_probs": []}"#, "no ids, expected at least one");
    bad(r#"{"ids": [5, 7, 5], "log_probs": [-3, -3, -3]}"#, "id 5 stands there twice");
    bad(r#"{"ids": [5], "log_probs": [-3, -3]}"#, "2 log_probs for 1 ids");
    bad(r#"{"ids": [5], "log_probs": [0.1]}"#, "a value of 0.1 in log_probs, expected finite numbers of at most 0");
    bad(r#"{"ids": [5], "log_probs": [-1e300]}"#, "a value of -inf in log_probs, expected finite numbers of at most 0");
    bad(
        r#"{"ids": [5, 6], "log_probs": [-0.1, -0.1]}"#,
        "the probabilities of log_probs sum to 1.8097, expected at most 1",
    );
    let highest = small(EncodeOptions::default()).vocab_size() - 1;
    bad(r#"{"ids": [4000000], "log_probs": [-1]}"#, &format!("id 4000000, the tokenizer's ids are 0 to {highest}"));
    case(
        &last(r#"{"ids": [5], "log_probs": [-1], "reference_log_probs": [-0.5, -1]}"#),
        TeacherColumn::WithReference,
        Reason::TeacherMismatch,
        "`chosen`, scored token 4 of 4: 2 reference_log_probs for 1 ids",
    );
    case(
        &taught(&[WITH; 3].join(", "), &[WITH; 4].join(", ")),
        TeacherColumn::LogProbs,
        Reason::TeacherMismatch,
        "3 entries for `chosen`, which has 4 scored tokens; expected one each",
    );
    let wrong = |row: &str, wanted, detail: &str| case(row, wanted, Reason::WrongType, detail);
    wrong(
        &last(r#"{"ids": [5], "log_probs": [-1]}"#),
        TeacherColumn::WithReference,
        "`teacher.chosen[3].reference_log_probs` is missing, expected a list of numbers",
    );
    wrong(
        &last(r#"{"ids": [-5], "log_probs": [-1]}"#),
        TeacherColumn::LogProbs,
        "`teacher.chosen[3].ids` is a list with -5 in it, expected a list of token ids",
    );
    wrong(
        &last(r#"{"ids": 5, "log_probs": [-1]}"#),
        TeacherColumn::LogProbs,
        "`teacher.chosen[3].ids` is a number, expected a list of token ids",
    );
    wrong(
        &pair(r#", "teacher": {"chosen": []}"#).replace("[]", &format!("[{}]", [WITH; 4].join(", "))),
        TeacherColumn::LogProbs,
        "`teacher.rejected` is missing, expected a list of one entry a scored token",
    );
    wrong(&pair(r#", "teacher": 3"#), TeacherColumn::LogProbs, "`teacher` is a number, expected an object of lists");
    case(
        &pair(""),
        TeacherColumn::LogProbs,
        Reason::MissingColumn,
        "no `teacher`; found chosen (a string), prompt (a string), rejected (a string)",
    );
    let ranked = r#"{"prompt": "p", "completions": ["a", "b"], "ratings": [1, 2], "teacher": {}}"#;
    case(ranked, TeacherColumn::LogProbs, Reason::TeacherMismatch, "ranked and judged rows take no teacher; use pairs");
    let record = Record {
        teacher: vec![Vec::new()],
        ..Record::from(Row::Judged {
            prompt: Text::Plain("p".into()),
            completion: Text::Plain(" a".into()),
            judgment: "x".into(),
            positive: true,
        })
    };
    let refused = small(EncodeOptions::default()).encode_record(&record, &Origin::memory(1)).unwrap_err();
    assert_eq!(refused.reason, Reason::TeacherMismatch);
}

#[test]
fn ranked_replies_of_the_fixtures() {
    let Some(path) = common::asset("assets/ready/ranked_oasst1_zh.jsonl") else {
        return;
    };
    // Earlier turns stand in a column of their own, so that the rows are conversations.
    let Some(gpt2) =
        common::shared_chat_tokenizer("gpt2", EncodeOptions { max_length: None, ..EncodeOptions::default() })
    else {
        return;
    };
    let options = mapped(SourceOptions::new(path), &[("best_first", "ranked_responses")]);
    let source = Source::open(&options).unwrap();
    assert_eq!(source.form(), Form::Ranked);
    let (examples, rejected) = of_source(&Arc::new(gpt2), source);
    assert_eq!((examples.len(), rejected.len()), (120, 0), "{rejected:?}");
    let completions: usize = examples.iter().map(|example| example.contexts[0].completions.len()).sum();
    let lines = std::fs::read_to_string(&options.path).unwrap();
    let replies = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["ranked_responses"].as_array().unwrap().len()
    };
    assert_eq!(completions, lines.lines().map(replies).sum::<usize>());
}

#[test]
fn votes_of_the_fixtures_become_preferences() {
    let Some(path) = common::asset("assets/ready/votes_pandalm_3annot.jsonl") else {
        return;
    };
    // Each vote is for "a", "b" or neither: counted, they are the columns a preference is made of.
    let rows: Vec<String> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            let votes = row["votes"].as_array().unwrap().clone();
            let count = |side: &str| votes.iter().filter(|vote| vote.as_str() == Some(side)).count();
            row["votes_chosen"] = count("a").into();
            row["votes_rejected"] = count("b").into();
            row.to_string()
        })
        .collect();
    let options =
        mapped(wanting(&[NumberColumn::share("preference")]), &[("chosen", "response_a"), ("rejected", "response_b")]);
    let encoder = small(EncodeOptions { max_length: None, ..EncodeOptions::default() });
    let (examples, rejected) = read_with(&encoder, &rows.join("\n"), &options);
    let count = |reason| rejected.iter().filter(|rejection| rejection.reason == reason).count();
    // Six answers are JSON's true or false, seven are empty, and in 62 rows all votes are ties.
    let reasons = [Reason::WrongType, Reason::EmptyCompletion, Reason::OutOfRange].map(count);
    assert_eq!((examples.len(), reasons, rejected.len()), (325, [6, 7, 62], 75));
    assert!(examples.iter().all(|example| (0.0..=1.0).contains(&example.numbers["preference"])));
    let undecided = rejected.iter().filter(|rejection| rejection.reason == Reason::OutOfRange);
    undecided.for_each(|rejection| assert!(rejection.detail.ends_with("are both 0, expected at least one vote")));
}
