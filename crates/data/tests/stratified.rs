//! Steps that hold both labels.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use candlewick_data::{
    Annotation, Batch, BatchOptions, Batches, Cursor, EncodeOptions, Encoder, Error, LOOK_AHEAD, LastStep, Order, Row,
    Source,
};
use common::{SMALL, demonstration, encoder, labelled};

fn small() -> Arc<Encoder> {
    encoder(SMALL, EncodeOptions::default())
}

/// Labelled rows by letters: `+`, `-`, and `x` or `o` for a wanted or unwanted row that is set aside.
fn rows(letters: &str) -> Source {
    let row = |(index, letter): (usize, char)| {
        let completion = if matches!(letter, 'x' | 'o') { "" } else { " a" };
        labelled(&format!("q {index}"), completion, matches!(letter, '+' | 'x'))
    };
    Source::from_rows(letters.chars().enumerate().map(row).collect::<Vec<Row>>())
}

fn options(examples: usize) -> BatchOptions {
    BatchOptions { examples, stratified: true, ..BatchOptions::default() }
}

fn steps_of(source: Source, options: BatchOptions) -> (Vec<Vec<Batch>>, u64) {
    let mut batches = Batches::new(source, small(), options).unwrap();
    let steps: Vec<_> = batches.by_ref().map(Result::unwrap).collect();
    (steps, batches.report().one_label_steps)
}

/// Each step as labels and lines: `+1 -3`.
fn shown(steps: &[Vec<Batch>]) -> Vec<String> {
    let example = |example: &candlewick_data::Example| {
        let sign = if example.annotation == (Annotation::Labelled { desirable: true }) { '+' } else { '-' };
        format!("{sign}{}", example.origin.line)
    };
    let step =
        |step: &Vec<Batch>| step.iter().flat_map(|batch| &batch.examples).map(example).collect::<Vec<_>>().join(" ");
    steps.iter().map(step).collect()
}

#[test]
fn rows_come_forward_and_none_twice() {
    let of = |letters: &str, examples| {
        let (steps, one_label) = steps_of(rows(letters), options(examples));
        (shown(&steps), one_label)
    };
    assert_eq!(of("++++--", 3), (vec!["+1 +2 -5".to_owned(), "+3 +4 -6".to_owned()], 0));
    assert_eq!(of("+-+-", 2), (vec!["+1 -2".to_owned(), "+3 -4".to_owned()], 0));
    // Rejected rows count for nothing.
    assert_eq!(of("+x+oo--x", 2), (vec!["+1 -6".to_owned(), "+3 -7".to_owned()], 0));
    // One label runs out: the rest goes on with the other.
    assert_eq!(of("+-+++", 2), (vec!["+1 -2".to_owned(), "+3 +4".to_owned(), "+5".to_owned()], 1));
    let (_, one_label) = of("++++", 2);
    assert_eq!(one_label, 2);
    let (_, one_label) = of("+-+", 2);
    assert_eq!(one_label, 0, "a last step of one row is none of those that could hold both");
    let (_, not_counted) = steps_of(rows("++++"), BatchOptions { stratified: false, ..options(2) });
    assert_eq!(not_counted, 0);
    let mut batches = Batches::new(rows("+++-++"), small(), options(3)).unwrap();
    while batches.next_step().unwrap().is_some() {}
    assert_eq!(batches.report().summary(), "6 rows, 6 kept, 0 rejected; 1 step with one label only");
}

/// A small generator, so that the mixtures are the same everywhere.
fn letters(seed: u64, count: usize, wanted_in_ten: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    (0..count)
        .map(|_| match (draw(10) < wanted_in_ten, draw(8) == 0) {
            (true, false) => '+',
            (true, true) => 'x',
            (false, false) => '-',
            (false, true) => 'o',
        })
        .collect()
}

#[test]
fn as_many_steps_hold_both_labels_as_can() {
    for seed in 1..40 {
        for wanted_in_ten in [1, 3, 5, 9] {
            let letters = letters(seed, 45, wanted_in_ten);
            let count = |letter| letters.chars().filter(|other| *other == letter).count();
            for (examples, micro_batches) in [(2, 1), (2, 2), (5, 1), (1, 3)] {
                let order = Order::Shuffled { seed, buffer: 20 };
                let (steps, one_label) =
                    steps_of(rows(&letters), BatchOptions { micro_batches, order, ..options(examples) });
                let steps = shown(&steps);
                let both = steps.iter().filter(|step| step.contains('+') && step.contains('-')).count();
                let full = examples * micro_batches;
                let kept = count('+') + count('-');
                let can = kept / full + usize::from(kept % full >= 2);
                assert_eq!(both, can.min(count('+')).min(count('-')), "{letters} {full} {steps:?}");
                let of_two = steps.iter().filter(|step| step.contains(' ')).count();
                assert_eq!(one_label as usize, of_two - both);
                assert_eq!(steps.len(), kept.div_ceil(full));
                let mut lines: Vec<usize> =
                    steps.iter().flat_map(|step| step.split(' ')).map(|row| row[1..].parse().unwrap()).collect();
                lines.sort_unstable();
                let usable = letters.chars().enumerate().filter(|(_, letter)| matches!(letter, '+' | '-'));
                assert_eq!(lines, usable.map(|(index, _)| index + 1).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_resumed_run_sees_the_same_steps() {
    for (seed, wanted_in_ten) in [(3, 1), (4, 5), (5, 8)] {
        let source = rows(&letters(seed, 41, wanted_in_ten));
        for order in [Order::File, Order::Shuffled { seed, buffer: 100 }, Order::Shuffled { seed, buffer: 6 }] {
            for last_step in [LastStep::Keep, LastStep::Drop] {
                for (examples, micro_batches) in [(2, 1), (2, 2), (3, 1)] {
                    let options =
                        BatchOptions { micro_batches, order, epochs: Some(2), last_step, ..options(examples) };
                    resumes_everywhere(&source, options);
                }
            }
        }
    }
}

/// A source much longer than what is held, so that the epoch's end is out of sight for most of its steps.
#[test]
fn a_resumed_run_sees_the_same_steps_of_a_long_source() {
    let rows = rows(&letters(7, 2 * LOOK_AHEAD, 1));
    let order = Order::Shuffled { seed: 1, buffer: 300 };
    let options = BatchOptions { micro_batches: 5, order, epochs: Some(2), ..options(25) };
    resumes_everywhere(&rows, options);
}

fn resumes_everywhere(source: &Source, options: BatchOptions) {
    let mut whole = Batches::new(source.clone(), small(), options).unwrap();
    let mut cursors = vec![whole.cursor()];
    let mut steps = Vec::new();
    while let Some(step) = whole.next_step().unwrap() {
        steps.push(step);
        cursors.push(whole.cursor());
    }
    assert!(steps.len() >= 4);
    assert!(cursors.iter().any(|cursor| cursor.held != [0; 2]), "no row ever waits");
    for (done, cursor) in cursors.iter().enumerate() {
        let saved: Cursor = serde_json::from_str(&serde_json::to_string(cursor).unwrap()).unwrap();
        let mut resumed = Batches::new(source.clone(), small(), options).unwrap();
        resumed.resume(saved).unwrap();
        assert_eq!(resumed.cursor(), *cursor);
        let rest: Vec<_> = resumed.map(Result::unwrap).collect();
        assert!(rest == steps[done..], "{options:?} {cursor:?}: {:?} {:?}", shown(&rest), shown(&steps[done..]));
    }
}

#[test]
fn no_more_is_held_than_said() {
    // One row in two thousand is unwanted.
    let letters: String = (0..4000).map(|index| if index == 2500 { '-' } else { '+' }).collect();
    let mut batches = Batches::new(rows(&letters), small(), options(4)).unwrap();
    let mut taken = 0;
    let mut with_both = Vec::new();
    while let Some(step) = batches.next_step().unwrap() {
        taken += step[0].examples.len() as u64;
        assert!(batches.cursor().consumed - taken <= LOOK_AHEAD as u64);
        let shown = shown(&[step]).remove(0);
        if shown.contains('-') {
            with_both.push((taken, shown));
        }
    }
    // It comes as soon as it is within reach, and not before.
    let (place, step) = with_both.pop().unwrap();
    assert!(step.ends_with(" -2501") && with_both.is_empty(), "{step}");
    assert_eq!(place, ((2501 - LOOK_AHEAD as u64 - 4).div_ceil(4) + 1) * 4, "{step}");
    assert_eq!(batches.report().one_label_steps, 999);
}

#[test]
fn what_cannot_be_is_said() {
    let error = Batches::new(rows("+-"), small(), options(1)).unwrap_err().to_string();
    assert!(error.contains("stratified: got true with steps of one example, expected at least two"), "{error}");
    let pairs = Source::from_rows(vec![demonstration("p", " a")]);
    let error = Batches::new(pairs, small(), options(2)).unwrap().next_step().unwrap_err();
    assert!(matches!(error, Error::NotLabelled { .. }), "{error}");
    assert!(error.to_string().starts_with("<memory>:1: stratified steps hold labelled rows"), "{error}");
    // A place where rows wait is no place of a run that holds none.
    let mut batches = Batches::new(rows("+++-+-"), small(), options(2)).unwrap();
    batches.next_step().unwrap().unwrap();
    let cursor = batches.cursor();
    assert_ne!(cursor.held, [0; 2]);
    let mut plain = Batches::new(rows("+++-+-"), small(), BatchOptions { stratified: false, ..options(2) }).unwrap();
    let error = plain.resume(cursor.clone()).unwrap_err().to_string();
    assert!(error.contains("stratified: got false, expected true, as in the run"), "{error}");
    let error = batches.resume(Cursor { consumed: 7, ..cursor }).unwrap_err();
    assert!(matches!(error, Error::Cursor { rows: 6, consumed: 7, .. }), "{error}");
    // Cursors written before rows could wait are read, and plain ones written as before.
    let old: Cursor = serde_json::from_str(r#"{"epoch": 1, "consumed": 4}"#).unwrap();
    assert_eq!(old, Cursor { epoch: 1, consumed: 4, ..Cursor::default() });
    assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"epoch":1,"consumed":4}"#);
}

/// A last step of one row has no other to take a completion from: an error, or left out by rule.
#[test]
fn a_step_of_one_row_is_never_mismatched() {
    let mismatched = BatchOptions { mismatched: true, ..options(2) };
    let mut batches = Batches::new(rows("+-+"), small(), mismatched).unwrap();
    assert_eq!(batches.next_step().unwrap().unwrap()[0].mismatched.len(), 2);
    assert!(matches!(batches.next_step().unwrap_err(), Error::OnePrompt { examples: 1, .. }));
    let dropping = BatchOptions { last_step: LastStep::Drop, ..mismatched };
    let (steps, _) = steps_of(rows("+-+"), dropping);
    assert_eq!(shown(&steps), ["+1 -2"]);
}
