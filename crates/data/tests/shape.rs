//! Lengths, splits, repeats, balance and pairing on real files, against counts made independently of the crate.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;

use candlewick_data::{
    Balance, Batch, CompletionTruncation, Deduplicate, EncodeOptions, Error, LeftOut, Message, Order, Origin, PairBy,
    Pairing, PromptRange, PromptTruncation, Reason, Record, Rejection, Row, Selection, SelectionOptions, Source,
    Stream, Text, fill_mismatched, pair_up, prompt_place, ranked_pairs, unpair,
};
use common::{BOS, SMALL, Small, asset, chat, encoder, labelled, plain_pair, shared_tokenizer};
use serde_json::Value;

/// The objects of a file of JSON lines of the shared fixtures, plain or `.gz`.
fn objects(path: &str) -> Option<Vec<Value>> {
    let bytes = std::fs::read(asset(path)?).unwrap();
    let mut text = String::new();
    match path.ends_with(".gz") {
        true => flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap(),
        false => bytes.as_slice().read_to_string(&mut text).unwrap(),
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn string(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap().to_owned()
}

fn with_origins(
    records: impl IntoIterator<Item = Record>,
) -> impl Iterator<Item = Result<(Origin, Record), Rejection>> {
    records.into_iter().zip(1..).map(|(record, number)| Ok((Origin::memory(number), record)))
}

/// 2,312 pairs of 2,310 prompts.
fn hh() -> Option<Vec<Record>> {
    const MARK: &str = "\n\nAssistant:";
    let objects = objects("assets/preferences/hh_harmless_base_test.jsonl.gz")?;
    let pair = |object: &Value| {
        let (chosen, rejected) = (string(object, "chosen"), string(object, "rejected"));
        let cut = |text: &str| text.rfind(MARK).unwrap() + MARK.len();
        Record::from(plain_pair(&chosen[..cut(&chosen)], &chosen[cut(&chosen)..], &rejected[cut(&rejected)..]))
    };
    Some(objects.iter().map(pair).collect())
}

/// 22,434 answers with a verdict, of which 4,096 are repeated and 27 have both verdicts.
fn truthful() -> Option<Vec<Record>> {
    let objects = objects("assets/preferences/truthfulqa_finetune_truth.jsonl.gz")?;
    let row = |object: &Value| {
        let text = string(object, "prompt");
        let cut = text.find("\nA:").unwrap() + "\nA:".len();
        Record::from(labelled(&text[..cut], &text[cut..], object["completion"] == " yes"))
    };
    Some(objects.iter().map(row).collect())
}

fn count(selection: &Selection, reason: Reason) -> usize {
    selection.left_out().filter(|(_, why)| why.reason() == reason).count()
}

#[test]
fn no_prompt_is_on_both_sides_of_a_split() {
    for share in [0.02, 0.1, 0.5, 0.9] {
        let (train, held_out) = PromptRange::split(share).unwrap();
        let mut sides: HashMap<String, bool> = HashMap::new();
        for prompt in 0..400 {
            for answer in 0..3 {
                let name = format!("prompt {prompt}");
                let row = match answer {
                    0 => plain_pair(&name, "a", "b"),
                    1 => labelled(&format!("{name}\n"), "c", true),
                    _ => labelled(&format!("  {name}"), "d", false),
                };
                assert_ne!(train.contains(&row), held_out.contains(&row));
                assert!(*sides.entry(name).or_insert(train.contains(&row)) == train.contains(&row));
            }
        }
    }
    let Some(rows) = hh() else { return };
    let (train, held_out) = PromptRange::split(0.05).unwrap();
    let mut sides: HashMap<String, bool> = HashMap::new();
    for record in &rows {
        assert!((0.0..1.0).contains(&prompt_place(&record.row)));
        assert_ne!(train.contains(&record.row), held_out.contains(&record.row));
        let Row::Pair { prompt: Text::Plain(prompt), .. } = &record.row else { panic!("{record:?}") };
        let side = sides.entry(prompt.trim().to_owned()).or_insert(train.contains(&record.row));
        assert_eq!(*side, train.contains(&record.row));
    }
    assert_eq!(sides.len(), 2310);
    // 115.5 expected, with a standard deviation of 10.5.
    let count = sides.values().filter(|train| !**train).count();
    assert!((75..=155).contains(&count), "{count}");
}

#[test]
fn repeats_and_contradictions_of_real_files_are_counted() {
    let options = SelectionOptions { deduplicate: Some(Deduplicate::Exact), ..SelectionOptions::default() };
    if let Some(rows) = hh() {
        let swapped = rows.clone().into_iter().map(|record| match record.row {
            Row::Pair { prompt, chosen, rejected } => Row::Pair { prompt, chosen: rejected, rejected: chosen }.into(),
            _ => record,
        });
        let twice = rows.iter().cloned().chain(rows.iter().cloned()).chain(swapped);
        let selection = Selection::of(with_origins(twice), &options).unwrap();
        assert_eq!((selection.rows(), count(&selection, Reason::Duplicate)), (3 * 2312, 2312));
        assert_eq!(selection.why(2312), Some(&LeftOut::Duplicate { of: 0 }));
        // All but the pairs of one text twice, which are their own opposite.
        let one_text =
            |record: &&Record| matches!(&record.row, Row::Pair { chosen, rejected, .. } if chosen == rejected);
        assert_eq!(selection.contradictions().len(), 2312 - rows.iter().filter(one_text).count());
    }
    let Some(rows) = truthful() else { return };
    let selection = Selection::of(with_origins(rows), &options).unwrap();
    assert_eq!((selection.rows(), selection.left_out().count()), (22_434, 4096));
    assert_eq!(selection.contradictions().len(), 27);
}

#[test]
fn a_selection_balances_what_repeats_leave() {
    let Some(rows) = truthful() else { return };
    let select = |ratio, seed| {
        let balance = Some(Balance { ratio, seed });
        let options = SelectionOptions { deduplicate: Some(Deduplicate::Exact), balance };
        Selection::of(with_origins(rows.clone()), &options).unwrap()
    };
    let labels = |selection: &Selection| {
        let kept = rows.iter().zip(0..).filter(|(_, row)| selection.keeps(*row));
        let is_desirable = |record: &Record| matches!(record.row, Row::Labelled { desirable: true, .. });
        kept.fold([0usize; 2], |mut counts, (record, _)| {
            counts[usize::from(is_desirable(record))] += 1;
            counts
        })
    };
    let all = labels(&select(1e9, 0));
    assert_eq!(all.iter().sum::<usize>(), 22_434 - 4096);
    let fewer = *all.iter().min().unwrap();
    assert_eq!(labels(&select(1.0, 0)), [fewer, fewer]);
    assert_eq!(labels(&select(1.2, 0)).iter().sum::<usize>(), fewer + (fewer as f64 * 1.2) as usize);
    let left_out = |selection: Selection| selection.left_out().map(|(row, _)| row).collect::<Vec<_>>();
    assert_eq!(left_out(select(1.0, 3)), left_out(select(1.0, 3)));
    assert_ne!(left_out(select(1.0, 3)), left_out(select(1.0, 4)));
}

/// Runs of three words of a text in Latin letters.
fn runs(text: &str) -> HashSet<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut inside = false;
    for character in text.to_lowercase().chars() {
        let joins = character.is_alphanumeric();
        if joins && inside {
            words.last_mut().unwrap().push(character);
        } else if !character.is_whitespace() {
            words.push(character.to_string());
        }
        inside = joins;
    }
    if words.len() < 3 {
        return if words.is_empty() { HashSet::new() } else { [words].into() };
    }
    words.windows(3).map(<[String]>::to_vec).collect()
}

fn jaccard(left: &HashSet<Vec<String>>, right: &HashSet<Vec<String>>) -> f64 {
    let shared = left.intersection(right).count();
    let all = left.len() + right.len() - shared;
    if all == 0 { 1.0 } else { shared as f64 / all as f64 }
}

#[test]
fn near_repeats_are_those_that_comparing_every_pair_finds() {
    const SIMILARITY: f64 = 0.7;
    let Some(mut rows) = truthful() else { return };
    rows.truncate(1200);
    let parts: Vec<([HashSet<Vec<String>>; 2], bool)> = rows
        .iter()
        .map(|record| match &record.row {
            Row::Labelled { prompt: Text::Plain(prompt), completion: Text::Plain(completion), desirable } => {
                ([runs(prompt), runs(completion)], *desirable)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let exact = |row: usize, of: usize| match parts[row].1 == parts[of].1 {
        true => (0..2).map(|part| jaccard(&parts[row].0[part], &parts[of].0[part])).fold(1.0, f64::min),
        false => 0.0,
    };
    let near = SelectionOptions { deduplicate: Some(Deduplicate::Near { similarity: SIMILARITY }), balance: None };
    let selection = Selection::of(with_origins(rows.clone()), &near).unwrap();
    for (row, why) in selection.left_out() {
        match *why {
            LeftOut::Duplicate { of } => assert_eq!(rows[row as usize], rows[of as usize]),
            LeftOut::NearDuplicate { of, similarity } => {
                let exact = exact(row as usize, of as usize);
                // Four standard deviations of an estimate by 128 minima.
                assert!(
                    (exact - similarity).abs() < 0.17 && exact > SIMILARITY - 0.17,
                    "{row} {of} {exact} {similarity}"
                );
            }
            LeftOut::Unbalanced => panic!("{why:?}"),
        }
    }
    let kept: Vec<usize> = (0..rows.len()).filter(|row| selection.keeps(*row as u64)).collect();
    let missed = |row: &&usize| kept.iter().take_while(|of| of < row).any(|of| exact(**row, *of) > SIMILARITY + 0.15);
    let missed = kept.iter().filter(missed).count();
    let found = count(&selection, Reason::NearDuplicate);
    assert!(found >= 20 && missed * 50 <= found, "{found} found, {missed} missed");
    let again = Selection::of(with_origins(rows), &near).unwrap();
    assert!(again.left_out().eq(selection.left_out()));
}

#[test]
fn near_repeats_are_found_in_chinese() {
    let Some(objects) = objects("assets/ready/ranked_oasst1_zh.jsonl") else { return };
    let mut rows = Vec::new();
    for object in &objects {
        let answer = object["ranked_responses"][0].as_str().unwrap();
        rows.push(Record::from(labelled(object["prompt"].as_str().unwrap(), answer, true)));
    }
    let long = |record: &&Record| match &record.row {
        Row::Labelled { prompt: Text::Plain(prompt), completion: Text::Plain(text), .. } => {
            text.chars().count() > 200 && prompt.chars().count() > 5
        }
        _ => false,
    };
    // The same with another first character of the answer, and a space more.
    let edited: Vec<Record> = rows
        .iter()
        .filter(long)
        .map(|record| match &record.row {
            Row::Labelled { prompt: Text::Plain(prompt), completion: Text::Plain(text), .. } => {
                let rest: String = text.chars().skip(1).collect();
                Record::from(labelled(&format!(" {prompt}"), &format!("烛{rest}"), true))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let options = SelectionOptions { deduplicate: Some(Deduplicate::Near { similarity: 0.9 }), balance: None };
    let originals = Selection::of(with_origins(rows.clone()), &options).unwrap().left_out().count();
    let all = rows.iter().chain(&edited).cloned();
    let found = Selection::of(with_origins(all), &options).unwrap().left_out().count() - originals;
    assert!(edited.len() >= 30 && found == edited.len(), "{found} of {}", edited.len());
}

#[test]
fn labelled_rows_of_one_prompt_are_paired() {
    let Some(objects) = objects("assets/ready/multiobj_truthful_informative.jsonl") else { return };
    let rows: Vec<Record> = objects
        .iter()
        .map(|object| {
            let (prompt, answer) = (string(object, "prompt"), string(object, "response"));
            labelled(&prompt, &answer, object["truthful"] == true).into()
        })
        .collect();
    let mut pairs = Vec::new();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    for item in pair_up(with_origins(rows.clone()), PairBy::Label) {
        match item {
            Ok((origin, pair)) => pairs.push((origin, pair)),
            Err(rejection) => *reasons.entry(rejection.reason).or_default() += 1,
        }
    }
    assert_eq!(pairs.len(), 176);
    assert_eq!(reasons, [(Reason::NoPartner, 1000 - 2 * 176)].into());
    for (origin, pair) in pairs {
        let [chosen, rejected] = unpair(pair, &origin).unwrap();
        assert_eq!(rows[origin.line as usize - 1], chosen);
        assert!(rows.contains(&rejected));
    }
}

#[test]
fn ranked_rows_give_the_pairs_that_counting_gives() {
    let Some(objects) = objects("assets/ready/ranked_oasst1_zh.jsonl") else { return };
    let counts = [(Pairing::BestWorst, 120), (Pairing::Adjacent, 341 - 120), (Pairing::All, 351)];
    for (pairing, expected) in counts {
        let mut made = 0;
        for object in &objects {
            let texts = object["ranked_responses"].as_array().unwrap();
            let completions = texts
                .iter()
                .enumerate()
                .map(|(place, text)| (Text::Plain(text.as_str().unwrap().to_owned()), -(place as f64)));
            let prompt = Text::Plain(string(object, "prompt"));
            let record: Record = Row::Ranked { prompt, completions: completions.collect() }.into();
            for pair in ranked_pairs(record, &Origin::memory(1), pairing).unwrap() {
                assert!(pair.numbers["margin"] >= 1.0);
                made += 1;
            }
        }
        assert_eq!(made, expected, "{pairing:?}");
    }
}

fn free() -> EncodeOptions {
    EncodeOptions { max_length: None, ..EncodeOptions::default() }
}

fn run(rows: Vec<Row>, options: EncodeOptions) -> (Vec<candlewick_data::Example>, candlewick_data::Report) {
    let mut stream = Stream::new(Source::from_rows(rows), encoder(SMALL, options), Order::Sequential).unwrap();
    let examples = stream.by_ref().collect::<Result<_, _>>().unwrap();
    (examples, stream.report().clone())
}

#[test]
fn pairs_that_cutting_makes_identical_are_counted() {
    // "▁", "a", "b", "c" are the prompt; a completion of 4 characters and its end has 5 tokens.
    let rows = vec![plain_pair("abc", "xyzv", "xyzw"), plain_pair("abc", "xyzv", "uyzv"), plain_pair("ab", "x", "y")];
    let (examples, report) = run(rows.clone(), EncodeOptions { max_completion_length: Some(3), ..free() });
    assert_eq!((examples.len(), report.reasons), (2, [(Reason::IdenticalAfterTruncation, 1)].into()));
    assert!(report.rejected[0].to_string().ends_with("the completions differ only beyond 3 tokens of completion"));
    let counts = report.counts;
    assert_eq!((counts.truncated, counts.cut_prompts, counts.cut_completions), (2, 0, 2));

    let (examples, report) = run(rows, EncodeOptions { max_prompt_length: Some(3), ..free() });
    let whole = encoder(SMALL, free()).encode(&plain_pair("abc", "xyzv", "xyzw"), &Origin::memory(1)).unwrap();
    let prompt = &whole.contexts[0].prompt;
    assert_eq!(examples[0].contexts[0].prompt, [&[BOS], &prompt[prompt.len() - 2..]].concat());
    let counts = report.counts;
    assert_eq!((counts.truncated, counts.cut_prompts, counts.cut_completions), (6, 3, 0));
    assert!(report.to_string().contains("6 truncated (3 prompts and 0 completions cut)"), "{report}");
}

#[test]
fn rows_over_a_limit_can_end_the_run() {
    let rows = vec![plain_pair("a", "b", "c"), plain_pair("abcdef", "b", "c"), plain_pair("a", "bcdefg", "c")];
    let options = [
        (
            EncodeOptions { max_prompt_length: Some(4), prompt_truncation: PromptTruncation::Error, ..free() },
            2,
            "prompt",
        ),
        (
            EncodeOptions {
                max_completion_length: Some(4),
                completion_truncation: CompletionTruncation::Error,
                ..free()
            },
            3,
            "completion",
        ),
    ];
    for (options, row, what) in options {
        let source = Source::from_rows(rows.clone());
        let mut stream = Stream::new(source, encoder(SMALL, options), Order::Sequential).unwrap();
        let error = stream.find_map(Result::err).unwrap();
        let told = error.to_string();
        assert!(matches!(error, Error::Rejected(_)), "{told}");
        let start = format!("<memory>:{row}: over the limit: ");
        assert!(told.starts_with(&start) && told.contains(&format!("max_{what}_length is 4")), "{told}");
    }
    let words = r#"{"truncation": "error", "prompt_truncation": "drop", "completion_truncation": "raise"}"#;
    let read: EncodeOptions = serde_json::from_str(words).unwrap();
    assert_eq!(read.prompt_truncation, PromptTruncation::Reject);
    assert_eq!(read.completion_truncation, CompletionTruncation::Error);
}

#[test]
fn mismatched_completions_are_no_longer_than_the_limit() {
    let encoder = encoder(SMALL, EncodeOptions { max_completion_length: Some(3), ..free() });
    let rows = [labelled("a", "bcdefgh", true), labelled("k", "lmnopqrs", false)];
    let examples = rows.iter().zip(1..).map(|(row, line)| encoder.encode(row, &Origin::memory(line)).unwrap());
    let mut step = [Batch { examples: examples.collect(), mismatched: Vec::new() }];
    fill_mismatched(&mut step, encoder.options().max_length).unwrap();
    assert_eq!(step[0].mismatched.len(), 2);
    for (own, context) in step[0].mismatched.iter().enumerate() {
        assert_eq!(context.completions[0].scored_tokens(), 3);
        assert_eq!(context.completions[0].ids, step[0].examples[1 - own].contexts[0].completions[0].ids);
    }
}

#[test]
fn the_head_of_an_answer_stays_when_a_chat_prompt_is_cut() {
    let small = Small { chat: true, ..SMALL };
    let row = Row::Demonstration { prompt: chat(&[("user", "abcdef")]), completion: chat(&[("assistant", "gh")]) };
    let origin = Origin::memory(1);
    let whole = encoder(small, free()).encode(&row, &origin).unwrap().contexts.remove(0);
    let end = &whole.prompt[whole.prompt.len() - 3..];
    let limited =
        |limit| encoder(small, EncodeOptions { max_prompt_length: Some(limit), ..free() }).encode(&row, &origin);
    let cut = limited(4).unwrap().contexts.remove(0);
    assert_eq!(cut.prompt, [&[BOS], end].concat());
    assert_eq!(cut.completions, whole.completions);
    assert_eq!(limited(3).unwrap().contexts[0].prompt, [&[BOS], &end[1..]].concat());
    assert_eq!(limited(2).unwrap_err().reason, Reason::PromptTooLong);

    let Some(objects) = objects("assets/ready/pairs_dpo_en_chat.jsonl") else { return };
    let options = EncodeOptions { max_prompt_length: Some(12), max_completion_length: Some(20), ..free() };
    let Some(qwen) = shared_tokenizer("qwen2.5", options) else { return };
    let mut cut = 0;
    for object in &objects {
        let messages = object["messages"].as_array().unwrap();
        let prompt = messages.iter().map(|message| Message::new(string(message, "role"), string(message, "content")));
        let answer = |name| chat(&[("assistant", object[name].as_str().unwrap())]);
        let row =
            Row::Pair { prompt: Text::Chat(prompt.collect()), chosen: answer("chosen"), rejected: answer("rejected") };
        let example = match qwen.encode(&row, &origin) {
            Ok(example) => example,
            Err(rejection) => {
                assert_eq!(rejection.reason, Reason::IdenticalAfterTruncation, "{rejection}");
                continue;
            }
        };
        let context = &example.contexts[0];
        assert!(context.prompt.len() <= 12);
        assert!(qwen.decode(&context.prompt).ends_with("<|im_end|>\n<|im_start|>assistant\n"));
        assert!(context.completions.iter().all(|completion| (1..=20).contains(&completion.ids.len())));
        cut += usize::from(context.prompt.len() == 12);
    }
    assert!(cut >= 30, "{cut}");
}

#[test]
fn limits_hold_over_a_real_file() {
    let Some(rows) = hh() else { return };
    let limits = EncodeOptions { max_prompt_length: Some(96), max_completion_length: Some(24), ..free() };
    let (Some(whole), Some(limited)) = (shared_tokenizer("gpt2", free()), shared_tokenizer("gpt2", limits)) else {
        return;
    };
    let (mut prompts, mut completions, mut alike) = (0, 0, 0);
    let mut stream =
        Stream::new(Source::from_records(&rows[..400]), std::sync::Arc::new(limited), Order::Sequential).unwrap();
    let examples: Vec<_> = stream.by_ref().collect::<Result<_, _>>().unwrap();
    let mut kept = examples.iter();
    for (record, line) in rows[..400].iter().zip(1..) {
        let Ok(full) = whole.encode_record(record, &Origin::memory(line)) else { continue };
        let full = &full.contexts[0];
        let starts: Vec<&[u32]> =
            full.completions.iter().map(|completion| &completion.ids[..completion.ids.len().min(24)]).collect();
        if starts[0] == starts[1] {
            alike += 1;
            continue;
        }
        let cut = &kept.next().unwrap().contexts[0];
        assert_eq!(cut.prompt, full.prompt[full.prompt.len().saturating_sub(96)..]);
        assert_eq!(cut.completions.iter().map(|completion| completion.ids.as_slice()).collect::<Vec<_>>(), starts);
        prompts += u64::from(full.prompt.len() > 96);
        completions += full.completions.iter().filter(|completion| completion.ids.len() > 24).count() as u64;
    }
    let report = stream.report();
    assert!(kept.next().is_none() && prompts > 50 && completions > 50);
    assert_eq!((report.counts.cut_prompts, report.counts.cut_completions), (prompts, completions));
    assert_eq!(report.reasons.get(&Reason::IdenticalAfterTruncation).copied().unwrap_or_default(), alike);
}
