//! Ids and masks of TRL's own runs, under its own rule.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candlewick_data::{Boundary, EncodeOptions, Encoder, Source, SourceOptions, Stream};
use candlewick_testkit::shared;

const UNKNOWN: u32 = 0;

/// Prompt and completion without padding.
#[derive(Clone, Debug, PartialEq)]
struct Tokens {
    ids: Vec<u32>,
    mask: Vec<u32>,
}

/// Completion sequences of a file in order, as TRL lays them out: ids and mask, prompt first.
fn sequences(options: &SourceOptions, boundary: Boundary) -> Option<Vec<Vec<Tokens>>> {
    let model = common::asset("assets/weights/tinystories-656k")?;
    let encode = EncodeOptions { max_length: Some(256), boundary, ..EncodeOptions::default() };
    let encoder = std::sync::Arc::new(Encoder::from_dir(&model, encode).unwrap());
    let stream = Stream::new(Source::open(options).unwrap(), encoder, candlewick_data::Order::File).unwrap();
    let rows = stream.map(|example| {
        let example = example.unwrap();
        let context = &example.contexts[0];
        let whole = |completion: &candlewick_data::Completion| {
            let mask =
                context.prompt_scored.iter().chain(&completion.scored).map(|scored| u32::from(*scored)).collect();
            let ids = [context.prompt.clone(), completion.ids.clone()].concat();
            Tokens { ids, mask }
        };
        context.completions.iter().map(whole).collect()
    });
    Some(rows.collect())
}

/// The unpadded rows of a recorded batch.
fn recorded(batch: &serde_json::Value, prefix: &str) -> Vec<Tokens> {
    let rows = |name: &str| serde_json::from_value::<Vec<Vec<u32>>>(batch[format!("{prefix}{name}")].clone()).unwrap();
    let real = rows("attention_mask");
    let keep = |rows: Vec<Vec<u32>>| {
        rows.into_iter().zip(&real).map(|(row, real)| {
            row.into_iter().zip(real).filter(|(_, real)| **real == 1).map(|(value, _)| value).collect::<Vec<u32>>()
        })
    };
    keep(rows("input_ids")).zip(keep(rows("completion_mask"))).map(|(ids, mask)| Tokens { ids, mask }).collect()
}

fn batches(name: &str) -> Option<Vec<serde_json::Value>> {
    let path = common::asset(&format!("parity/{name}.json"))?;
    let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Some(fixture["batches"].as_array().unwrap().clone())
}

/// Compares; every difference has to be explained by a character the tokenizer does not know, which transformers drops.
fn compare(ours: &[Tokens], theirs: &[Tokens]) -> usize {
    assert_eq!(ours.len(), theirs.len());
    let mut differing = 0;
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        if ours == theirs {
            assert!(!ours.ids.contains(&UNKNOWN), "sequence {index} is equal with an unknown character in it");
        } else {
            assert!(ours.ids.contains(&UNKNOWN), "sequence {index}:\nours   {ours:?}\ntheirs {theirs:?}");
            differing += 1;
        }
    }
    differing
}

#[test]
fn pairs() {
    let Some(batches) = batches("dpo_sigmoid") else {
        return;
    };
    let path = shared().unwrap().join("assets/ready/pairs_polite_1100.jsonl");
    let options = SourceOptions { rows: "..48".parse().unwrap(), ..SourceOptions::new(path) };
    for boundary in [Boundary::CommonPrefix, Boundary::Offsets] {
        let rows = sequences(&options, boundary).unwrap();
        let mut ours = Vec::new();
        for step in rows.chunks(4) {
            for side in 0..2 {
                ours.extend(step.iter().map(|row| row[side].clone()));
            }
        }
        let theirs: Vec<_> = batches.iter().flat_map(|batch| recorded(batch, "")).collect();
        assert_eq!(compare(&ours, &theirs), 10, "{boundary:?}");
    }
}

#[test]
fn labelled_rows() {
    let Some(batches) = batches("kto") else {
        return;
    };
    let path = shared().unwrap().join("assets/ready/unpaired_diasafety_test.jsonl");
    // The recorded run put a space before each response.
    let dir = tempfile::tempdir().unwrap();
    let spaced = dir.path().join("spaced.jsonl");
    let rows: Vec<String> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .take(48)
        .map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["response"] = format!(" {}", row["response"].as_str().unwrap()).into();
            row.to_string()
        })
        .collect();
    std::fs::write(&spaced, rows.join("\n")).unwrap();
    let columns = [("completion".to_owned(), "response".into())].into();
    let options = SourceOptions { columns, ..SourceOptions::new(spaced) };
    let ours: Vec<_> = sequences(&options, Boundary::CommonPrefix).unwrap().concat();
    let theirs: Vec<_> = batches.iter().flat_map(|batch| recorded(batch, "")).collect();
    assert_eq!(compare(&ours, &theirs), 11);
}

#[test]
fn mismatched_completions() {
    use candlewick_data::{BatchOptions, Batches};
    let Some(batches) = batches("kto") else {
        return;
    };
    // The recorded ids, regrouped: each row's prompt with the completion of the row before it in its batch of four.
    let examples: Vec<_> = batches
        .iter()
        .flat_map(|batch| recorded(batch, ""))
        .enumerate()
        .map(|(index, Tokens { ids, mask })| {
            let cut = mask.iter().position(|scored| *scored == 1).unwrap();
            candlewick_data::Example::new(
                candlewick_data::Origin::memory(index as u64 + 1),
                vec![candlewick_data::Context {
                    prompt: ids[..cut].to_vec(),
                    prompt_scored: vec![false; cut],
                    completions: vec![candlewick_data::Completion::all_scored(ids[cut..].to_vec())],
                }],
                candlewick_data::Annotation::Labelled { desirable: true },
            )
        })
        .collect();
    let options = BatchOptions { examples: 4, mismatched: true, ..BatchOptions::default() };
    let encode = EncodeOptions { max_length: Some(256), ..EncodeOptions::default() };
    let ours = Batches::new(Source::from_examples(examples), common::encoder(common::SMALL, encode), options).unwrap();
    let mut compared = 0;
    for (step, batch) in ours.zip(&batches) {
        for (context, Tokens { ids, mask }) in step.unwrap()[0].mismatched.iter().zip(recorded(batch, "KL_")) {
            assert_eq!([context.prompt.clone(), context.completions[0].ids.clone()].concat(), ids);
            assert_eq!(context.prompt.len(), mask.iter().filter(|scored| **scored == 0).count());
            compared += 1;
        }
    }
    assert_eq!(compared, 48);
}
