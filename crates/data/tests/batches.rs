//! Order, steps, resuming, mismatched completions, bounded memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candlewick_data::{
    Annotation, Batch, BatchOptions, Batches, Cursor, EncodeOptions, Encoder, Error, LastStep, Order, Row, Source,
    SourceOptions, Stream,
};
use common::{SMALL, demonstration, encoder, labelled, numbered_pairs};

fn small() -> Arc<Encoder> {
    encoder(SMALL, EncodeOptions::default())
}

/// Numbered demonstrations; every fifth is empty and set aside.
fn rows(count: usize) -> Source {
    let row = |index: usize| demonstration(&format!("q {index}"), if index % 5 == 3 { "" } else { " a" });
    Source::from_rows((0..count).map(row).collect::<Vec<Row>>())
}

fn lines(steps: &[Vec<Batch>]) -> Vec<Vec<Vec<u64>>> {
    let of_batch = |batch: &Batch| batch.examples.iter().map(|example| example.origin.line).collect();
    steps.iter().map(|step| step.iter().map(of_batch).collect()).collect()
}

#[test]
fn a_step_is_cut_into_micro_batches_and_the_last_may_be_small() {
    let options = BatchOptions { examples: 2, micro_batches: 2, ..BatchOptions::default() };
    let steps: Vec<_> = Batches::new(rows(9), small(), options).unwrap().map(Result::unwrap).collect();
    assert_eq!(lines(&steps), [vec![vec![1, 2], vec![3, 5]], vec![vec![6, 7], vec![8]]]);
    let one_by_one = BatchOptions { examples: 1, micro_batches: 4, ..options };
    let single: Vec<_> = Batches::new(rows(9), small(), one_by_one).unwrap().map(Result::unwrap).collect();
    let flat = |steps: &[Vec<Batch>]| lines(steps).into_iter().map(|step| step.concat()).collect::<Vec<_>>();
    assert_eq!(flat(&single), flat(&steps));
    let dropping = BatchOptions { last_step: LastStep::Drop, ..options };
    assert_eq!(Batches::new(rows(9), small(), dropping).unwrap().count(), 1);
    let error = Batches::new(rows(3), small(), dropping).unwrap().next_step().unwrap_err().to_string();
    assert!(error.contains("no full step"), "{error}");
}

#[test]
fn an_epoch_is_a_permutation_that_seed_and_epoch_decide() {
    let order = |seed, buffer| Order::Shuffled { seed, buffer };
    let epochs = |order| -> Vec<Vec<u64>> {
        let mut stream = Stream::new(rows(50), small(), order).unwrap();
        (0..3)
            .map(|_| {
                let mut lines = Vec::new();
                while let Some(example) = stream.next_example().unwrap() {
                    lines.push(example.origin.line);
                }
                stream.next_epoch();
                lines
            })
            .collect()
    };
    let in_order = epochs(Order::File);
    assert!(in_order[0].is_sorted() && in_order[0] == in_order[1]);
    let all: BTreeSet<u64> = in_order[0].iter().copied().collect();
    let mut seen = BTreeSet::new();
    for (seed, buffer) in [(0, 100), (1, 100), (0, 7), (1, 7)] {
        assert_eq!(epochs(order(seed, buffer)), epochs(order(seed, buffer)));
        for epoch in epochs(order(seed, buffer)) {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), all);
            // No row comes before the buffer has reached it.
            assert!(epoch.iter().enumerate().all(|(place, line)| *line as usize <= place * 5 / 4 + 2 + buffer));
            assert!(seen.insert(epoch), "two orders are the same");
        }
    }
    assert_eq!(epochs(order(9, 1)), in_order);
    assert!(Stream::new(rows(3), small(), order(0, 0)).unwrap_err().to_string().contains("buffer: got 0"));
}

#[test]
fn a_resumed_run_sees_the_same_steps() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        || Source::open(&SourceOptions::new(numbered_pairs(dir.path(), 23))).unwrap().select("1..".parse().unwrap());
    for source in [file(), rows(21)] {
        for order in [Order::File, Order::Shuffled { seed: 3, buffer: 100 }, Order::Shuffled { seed: 3, buffer: 4 }] {
            for last_step in [LastStep::Keep, LastStep::Drop] {
                for (examples, micro_batches) in [(1, 1), (2, 2), (3, 1), (17, 1)] {
                    let options = BatchOptions {
                        examples,
                        micro_batches,
                        order,
                        epochs: Some(3),
                        last_step,
                        ..BatchOptions::default()
                    };
                    let mut whole = Batches::new(source.clone(), small(), options).unwrap();
                    let mut cursors = vec![whole.cursor()];
                    let mut steps = Vec::new();
                    while let Some(step) = whole.next_step().unwrap() {
                        steps.push(step);
                        cursors.push(whole.cursor());
                    }
                    assert!(steps.len() >= 3);
                    for (done, cursor) in cursors.iter().enumerate() {
                        let saved: Cursor = serde_json::from_str(&serde_json::to_string(cursor).unwrap()).unwrap();
                        let mut resumed = Batches::new(source.clone(), small(), options).unwrap();
                        resumed.resume(saved).unwrap();
                        let rest: Vec<_> = resumed.map(Result::unwrap).collect();
                        assert_eq!(rest, steps[done..], "{options:?} {cursor:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_cursor_of_another_file_is_refused() {
    let mut batches = Batches::new(rows(5), small(), BatchOptions::default()).unwrap();
    let error = batches.resume(Cursor { epoch: 1, consumed: 6, ..Cursor::default() }).unwrap_err();
    assert!(matches!(error, Error::Cursor { rows: 5, consumed: 6, .. }), "{error}");
}

#[test]
fn endless_epochs_go_on() {
    let options = BatchOptions { examples: 3, epochs: None, ..BatchOptions::default() };
    let steps: Vec<_> = Batches::new(rows(5), small(), options).unwrap().take(5).map(Result::unwrap).collect();
    assert_eq!(lines(&steps).concat(), [vec![1, 2, 3], vec![5], vec![1, 2, 3], vec![5], vec![1, 2, 3]]);
}

#[test]
fn ranges_split_a_file_before_rows_are_rejected() {
    let of = |range: &str| -> Vec<u64> {
        Stream::new(rows(10).select(range.parse().unwrap()), small(), Order::File)
            .unwrap()
            .map(|example| example.unwrap().origin.line)
            .collect()
    };
    assert_eq!(of("..5"), [1, 2, 3, 5]);
    assert_eq!(of("5.."), [6, 7, 8, 10]);
    assert_eq!(of("2..3"), [3]);
    let beyond = rows(10).select("10..".parse().unwrap());
    let error = Batches::new(beyond, small(), BatchOptions::default()).unwrap().next_step().unwrap_err().to_string();
    assert!(error.contains("0 rows, 0 kept, 0 rejected (selected: 10..)"), "{error}");
}

#[test]
fn mismatched_completions_span_the_step() {
    let labelled: Vec<Row> =
        ["a", "b", "c", "d", "e"].iter().map(|word| labelled(word, &format!(" x{word}"), true)).collect();
    let options = BatchOptions { examples: 2, micro_batches: 2, mismatched: true, ..BatchOptions::default() };
    let encoder = small();
    let mut batches = Batches::new(Source::from_rows(labelled), encoder.clone(), options).unwrap();
    let step = batches.next_step().unwrap().unwrap();
    let shown: Vec<Vec<String>> = step
        .iter()
        .map(|batch| {
            let text = |context: &candlewick_data::Context| {
                encoder.decode(&[context.prompt.clone(), context.completions[0].ids.clone()].concat())
            };
            batch.mismatched.iter().map(text).collect()
        })
        .collect();
    assert_eq!(shown, [["<s> a xd</s>", "<s> b xa</s>"], ["<s> c xb</s>", "<s> d xc</s>"]]);
    // The fifth row is left alone in the last step.
    let error = batches.next_step().unwrap_err();
    assert!(matches!(error, Error::OnePrompt { examples: 1, .. }), "{error}");
}

#[test]
fn mismatched_completions_of_pairs_and_long_rows() {
    let encode = EncodeOptions { max_length: Some(6), ..EncodeOptions::default() };
    let pairs = vec![
        common::plain_pair("sl", "ow", "im"),
        common::plain_pair("abc", "d", "e"),
        demonstration("p", "q"),
        labelled("u", "v", false),
    ];
    let options = BatchOptions { mismatched: true, ..BatchOptions::default() };
    let encoder = encoder(SMALL, encode);
    let step = Batches::new(Source::from_rows(pairs), encoder.clone(), options).unwrap().next_step().unwrap().unwrap();
    let batch = &step[0];
    // A pair keeps two completions; the demonstration takes no part.
    assert_eq!(batch.mismatched.len(), 3);
    assert_eq!(batch.mismatched.iter().map(|context| context.completions.len()).collect::<Vec<_>>(), [2, 2, 1]);
    for (context, example) in batch.mismatched.iter().zip([0, 1, 3].map(|index| &batch.examples[index])) {
        assert_eq!(context.prompt, example.contexts[0].prompt);
        for completion in &context.completions {
            assert!(context.prompt.len() + completion.ids.len() <= 6);
            assert_eq!(completion.ids.len(), completion.scored.len());
            assert!(completion.scored_tokens() > 0);
        }
    }
    // What "sl" + "im" leaves of its prompt before the completion stays there, unscored.
    assert_eq!(batch.mismatched[0].completions[1].scored[..2], [false, true]);
    assert!(matches!(batch.examples[3].annotation, Annotation::Labelled { desirable: false }));
}

/// Gives rows without end and counts how many bytes it was asked for.
struct Endless {
    text: Vec<u8>,
    at: usize,
    given: Arc<AtomicUsize>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.text[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at = (self.at + count) % self.text.len();
        self.given.fetch_add(count, Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn no_more_is_read_than_steps_and_buffer_need() {
    const BLOCK: usize = 256;
    const BUFFER: usize = 50;
    /// The first bytes tell the format.
    const HEAD: usize = 4 << 10;
    let line = b"{\"prompt\": \"q\", \"chosen\": \" a\", \"rejected\": \" b\"}\n".to_vec();
    let given = Arc::new(AtomicUsize::new(0));
    let length = line.len();
    let endless = Endless { text: line, at: 0, given: given.clone() };
    let reader: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(BLOCK, endless));
    let source = Source::from_reader(reader, &SourceOptions::default()).unwrap();
    let order = Order::Shuffled { seed: 0, buffer: BUFFER };
    let options = BatchOptions { examples: 4, order, epochs: None, ..BatchOptions::default() };
    let mut batches = Batches::new(source, small(), options).unwrap();
    for step in 1..=200 {
        batches.next_step().unwrap().unwrap();
        let needed = ((BUFFER + 4 * step) * length).max(HEAD) + BLOCK;
        let read = given.load(Ordering::Relaxed);
        assert!(read <= needed, "step {step}: read {read} bytes, {needed} are enough");
    }
    assert_eq!(batches.cursor(), Cursor { epoch: 0, consumed: 800, ..Cursor::default() });
}
