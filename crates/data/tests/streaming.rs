//! Places, worker threads, mixtures, shards, unpaired rows, token budgets, buckets.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_data::{
    Annotation, Batch, BatchOptions, Batches, Cursor, EncodeOptions, Encoder, Error, Example, LastStep, MixtureEnd,
    Order, PartCounts, Reason, Rejection, Row, Shard, Source, SourceOptions, Stream, Text, example_tokens,
};
use common::{SMALL, demonstration, encoder, labelled, numbered_pairs, plain_pair};

fn small() -> Arc<Encoder> {
    encoder(SMALL, EncodeOptions::default())
}

fn shuffled(seed: u64, buffer: usize) -> Order {
    Order::Shuffled { seed, buffer }
}

/// Lines of three kinds: labelled rows of both labels, rows set aside, and lines that are no JSON.
fn mixed_file(dir: &Path, name: &str, rows: usize) -> PathBuf {
    let mut text = String::new();
    for row in 0..rows {
        let padding = "x".repeat(row * 7 % 31);
        match row % 11 {
            4 => writeln!(text, "not JSON {row}"),
            7 => writeln!(text, r#"{{"prompt": "{name} {row}", "completion": "", "label": true}}"#),
            kind => {
                let label = kind % 3 == 0;
                writeln!(text, r#"{{"prompt": "{name} {row}", "completion": " {padding}y", "label": {label}}}"#)
            }
        }
        .unwrap();
    }
    let path = dir.join(format!("{name}.jsonl"));
    std::fs::write(&path, text).unwrap();
    path
}

fn open(path: &Path) -> Source {
    Source::open(&SourceOptions::new(path)).unwrap()
}

fn lines(examples: &[Example]) -> Vec<u64> {
    examples.iter().map(|example| example.origin.line).collect()
}

fn all(source: Source, order: Order) -> Vec<Example> {
    Stream::new(source, small(), order).unwrap().map(Result::unwrap).collect()
}

fn stored(cursor: &Cursor) -> Cursor {
    serde_json::from_str(&serde_json::to_string(cursor).unwrap()).unwrap()
}

#[test]
fn a_stream_resumes_at_every_position_of_a_long_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = mixed_file(dir.path(), "rows", 3500);
    let second = mixed_file(dir.path(), "more", 900);
    let mixture = || Source::mixture(vec![(open(&path), 3.0), (open(&second), 1.0)], MixtureEnd::AllExhausted).unwrap();
    let sharded = || open(&path).select("100..3400".parse().unwrap()).sharded(Shard { rank: 1, ranks: 2 }).unwrap();
    let pairs = numbered_pairs(dir.path(), 1700);
    for source in [open(&path), mixture(), sharded(), open(&pairs).unpaired(true)] {
        for order in [Order::File, shuffled(3, 40), shuffled(3, 1500), shuffled(3, 10_000)] {
            let whole = all(source.clone(), order);
            let mut stream = Stream::new(source.clone(), small(), order).unwrap();
            let mut given = 0;
            let mut places = 0;
            loop {
                if given % 463 == 0 || given + 2 > whole.len() {
                    let cursor = stored(&stream.cursor());
                    places += usize::from(cursor.place.is_some());
                    let mut resumed = Stream::new(source.clone(), small(), order).unwrap();
                    resumed.resume(cursor.clone()).unwrap();
                    assert_eq!(resumed.cursor(), cursor);
                    let next: Vec<_> = resumed.by_ref().take(700).map(Result::unwrap).collect();
                    let end = whole.len().min(given + 700);
                    assert!(next == whole[given..end], "{order:?} {given}: {:?}", lines(&next));
                    // Without the place the same rows come.
                    if given % 926 == 0 {
                        let mut slow = Stream::new(source.clone(), small(), order).unwrap();
                        slow.resume(Cursor { place: None, ..cursor }).unwrap();
                        assert!(
                            slow.by_ref().take(50).map(Result::unwrap).eq(whole[given..end].iter().take(50).cloned())
                        );
                    }
                }
                if stream.next_example().unwrap().is_none() {
                    break;
                }
                given += 1;
            }
            assert!(places > 1, "{order:?} {places}");
        }
    }
}

/// The same rows in other formats, compressed, in several files, and from a stream.
#[test]
fn every_format_resumes() {
    const ROWS: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(numbered_pairs(dir.path(), ROWS)).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let rows: Vec<&str> = text.lines().collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let csv = |row: usize| format!("q {row},\" yes {row}\", no {row}\n");
    let csv: String = std::iter::once("prompt,chosen,rejected\n".to_owned()).chain((0..ROWS).map(csv)).collect();
    for (number, part) in rows.chunks(1100).enumerate() {
        write(&format!("parts/{number}.jsonl"), part.join("\n").as_bytes());
    }
    let mut paths = vec![
        write("rows.jsonl.gz", &gzip.finish().unwrap()),
        write("rows.json", format!("[{}]", rows.join(",\n")).as_bytes()),
        write("rows.csv", csv.as_bytes()),
        dir.path().join("parts"),
    ];
    for (name, bytes) in columnar(&text) {
        paths.push(write(name, &bytes));
    }
    let stream = || {
        let reader = std::io::Cursor::new(text.clone());
        Source::from_reader(reader, &SourceOptions::default()).unwrap()
    };
    let mut opened: Vec<Box<dyn Fn() -> Source>> = vec![Box::new(stream)];
    for path in &paths {
        opened.push(Box::new(move || open(path)));
    }
    for source in opened {
        for order in [Order::File, shuffled(2, 120)] {
            let start = || Stream::new(source(), small(), order).unwrap();
            let whole: Vec<_> = start().map(Result::unwrap).collect();
            assert_eq!(whole.len(), ROWS);
            let mut stream = start();
            for given in 0..=ROWS {
                if given % 311 == 0 || given == ROWS {
                    let cursor = stored(&stream.cursor());
                    assert_eq!(cursor.place.is_some(), given >= 1024);
                    let mut resumed = start();
                    resumed.resume(cursor.clone()).unwrap();
                    assert_eq!(resumed.cursor(), cursor);
                    let rest: Vec<_> = resumed.map(Result::unwrap).collect();
                    assert!(rest == whole[given..], "{order:?} {given} {}", source().name());
                }
                stream.next_example().unwrap();
            }
        }
    }
}

/// The rows as Parquet, in row groups of 400, and as an Arrow file.
#[cfg(feature = "columnar")]
fn columnar(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    use arrow_schema::{DataType, Field, Schema};
    let field = |name| Field::new(name, DataType::Utf8, false);
    let schema = Arc::new(Schema::new(vec![field("prompt"), field("chosen"), field("rejected")]));
    let reader = arrow_json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(400);
    let batches: Vec<_> = reader.build(text.as_bytes()).unwrap().map(Result::unwrap).collect();
    let mut parquet = parquet::arrow::ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).unwrap();
    let mut arrow = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in &batches {
        parquet.write(batch).unwrap();
        parquet.flush().unwrap();
        arrow.write(batch).unwrap();
    }
    arrow.finish().unwrap();
    vec![("rows.parquet", parquet.into_inner().unwrap()), ("rows.arrow", arrow.into_inner().unwrap())]
}

#[cfg(not(feature = "columnar"))]
fn columnar(_: &str) -> Vec<(&'static str, Vec<u8>)> {
    Vec::new()
}

/// What stands before the place is not read again: it may be anything.
#[test]
fn resuming_reads_no_more_than_the_buffer_reaches_back_over() {
    const BUFFER: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let path = numbered_pairs(dir.path(), 20_000);
    for order in [Order::File, shuffled(5, BUFFER)] {
        let mut stream = Stream::new(open(&path), small(), order).unwrap();
        for _ in 0..17_000 {
            stream.next_example().unwrap().unwrap();
        }
        let cursor = stored(&stream.cursor());
        let place = cursor.place.clone().unwrap();
        assert!(cursor.consumed - place.consumed < 1024);
        assert!(place.read - place.pass.items < 1024 + 20 * BUFFER as u64, "{}", place.read - place.pass.items);
        let rest: Vec<_> = stream.map(Result::unwrap).collect();
        let text = std::fs::read(&path).unwrap();
        let before = usize::try_from(place.pass.parts[0].at.offset).unwrap();
        assert!(before > text.len() / 2);
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(60)).unwrap();
        file.write_all(&vec![b'?'; before - 61]).unwrap();
        let mut resumed = Stream::new(open(&path), small(), order).unwrap();
        resumed.resume(cursor).unwrap();
        assert!(resumed.map(Result::unwrap).eq(rest));
        std::fs::write(&path, text).unwrap();
    }
}

#[test]
fn a_place_in_other_rows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = numbered_pairs(dir.path(), 5000);
    let order = shuffled(1, 100);
    let mut stream = Stream::new(open(&path), small(), order).unwrap();
    for _ in 0..4000 {
        stream.next_example().unwrap();
    }
    let cursor = stored(&stream.cursor());
    let resume = |order, cursor: &Cursor| Stream::new(open(&path), small(), order).unwrap().resume(cursor.clone());
    resume(order, &cursor).unwrap();
    let error = resume(shuffled(1, 99), &cursor).unwrap_err();
    assert!(matches!(error, Error::Changed { consumed: 4000, .. }), "{error}");
    let text = std::fs::read_to_string(&path).unwrap();
    // A letter of a row that is read again.
    std::fs::write(&path, text.replace("q 3100", "Q 3100")).unwrap();
    let error = resume(order, &cursor).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    // A line more at the start moves all others.
    std::fs::write(&path, format!("{}\n{text}", text.lines().next().unwrap())).unwrap();
    assert!(matches!(resume(order, &cursor).unwrap_err(), Error::Changed { .. }));
    // Fewer rows than were read.
    std::fs::write(&path, text.lines().take(300).collect::<Vec<_>>().join("\n")).unwrap();
    let error = resume(order, &cursor).unwrap_err();
    assert!(matches!(error, Error::Cursor { rows: 300, consumed: 4000, .. }), "{error}");
    // More rows at the end are no harm.
    std::fs::write(&path, format!("{text}{}\n", text.lines().next().unwrap())).unwrap();
    resume(order, &cursor).unwrap();
    // A mixture has other parts.
    let two = Source::mixture(vec![(open(&path), 1.0), (open(&path), 1.0)], MixtureEnd::FirstExhausted).unwrap();
    let error = Stream::new(two, small(), order).unwrap().resume(cursor).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

fn run(source: &Source, options: BatchOptions, from: Option<Cursor>) -> (Vec<Vec<Batch>>, Vec<Cursor>, String) {
    let mut batches = Batches::new(source.clone(), small(), options).unwrap();
    batches.hold_rejections();
    if let Some(cursor) = from {
        batches.resume(cursor).unwrap();
    }
    let mut cursors = vec![batches.cursor()];
    let mut steps = Vec::new();
    let mut rejections = String::new();
    while let Some(step) = batches.next_step().unwrap() {
        steps.push(step);
        cursors.push(batches.cursor());
        for rejection in batches.take_rejections() {
            writeln!(rejections, "{} {rejection}", steps.len()).unwrap();
        }
    }
    (steps, cursors, format!("{}\n{rejections}", batches.report()))
}

#[test]
fn steps_report_and_cursors_do_not_depend_on_the_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&mixed_file(dir.path(), "rows", 2400));
    let plain = BatchOptions { examples: 9, micro_batches: 2, order: shuffled(2, 300), ..BatchOptions::default() };
    let kinds = [
        BatchOptions { epochs: Some(2), ..plain },
        BatchOptions { stratified: true, ..plain },
        BatchOptions { bucket: Some(7), tokens: Some(90), ..plain },
    ];
    for options in kinds {
        let alone = run(&source, options, None);
        assert!(alone.2.contains("not a JSON object") && alone.0.len() > 50);
        let middle = alone.1[60].clone();
        let rest = run(&source, options, Some(middle.clone()));
        assert!(rest.0 == alone.0[60..]);
        for workers in [1, 2, 5] {
            let options = BatchOptions { workers, ..options };
            assert!(run(&source, options, None) == alone, "{options:?}");
            assert!(run(&source, options, Some(stored(&middle))) == rest, "{options:?}");
        }
    }
}

#[test]
fn errors_come_at_the_same_row_whatever_the_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let path = mixed_file(dir.path(), "rows", 300);
    let strict = open(&path).strict(true);
    let of = |workers| {
        let stream = Stream::new(strict.clone(), small(), Order::File).unwrap().with_workers(workers).unwrap();
        let (mut given, mut errors) = (Vec::new(), Vec::new());
        for example in stream {
            match example {
                Ok(example) => given.push(example.origin.line),
                Err(error) => errors.push((given.len(), error.to_string())),
            }
        }
        (given, errors)
    };
    let alone = of(0);
    assert_eq!(alone.1[0].0, 4);
    assert!(alone.1[0].1.contains("rows.jsonl:5: not a JSON object"), "{:?}", alone.1[0]);
    for workers in [1, 2, 5] {
        assert_eq!(of(workers), alone);
    }
    // A reader that fails is told after the rows before it.
    let cut = || -> Source {
        let text = std::fs::read(&path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(&text).unwrap();
        let whole = gzip.finish().unwrap();
        std::fs::write(dir.path().join("cut.jsonl.gz"), &whole[..whole.len() * 2 / 3]).unwrap();
        open(&dir.path().join("cut.jsonl.gz"))
    };
    let of = |workers| {
        let mut stream = Stream::new(cut(), small(), Order::File).unwrap().with_workers(workers).unwrap();
        let mut given = Vec::new();
        loop {
            match stream.next_example() {
                Ok(Some(example)) => given.push(example.origin.line),
                Ok(None) => unreachable!("it ends in an error"),
                Err(error) => {
                    // What stands behind is not told: the epoch is not over.
                    assert!(stream.next_example().unwrap().is_none());
                    stream.resume(Cursor::default()).unwrap();
                    assert_eq!(stream.next_example().unwrap().unwrap().origin.line, given[0]);
                    return (given, error.to_string());
                }
            }
        }
    };
    let alone = of(0);
    assert!(alone.0.len() > 100 && alone.1.contains("cut"), "{alone:?}");
    assert_eq!(of(3), alone);
}

#[test]
fn steps_end_where_reading_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&std::fs::read(mixed_file(dir.path(), "rows", 300)).unwrap()).unwrap();
    let whole = gzip.finish().unwrap();
    let path = dir.path().join("cut.jsonl.gz");
    std::fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
    for (workers, bucket) in [(0, None), (3, None), (0, Some(4))] {
        let options = BatchOptions { epochs: None, workers, bucket, ..BatchOptions::default() };
        let mut batches = Batches::new(open(&path), small(), options).unwrap();
        let steps = batches.by_ref().take_while(Result::is_ok).count();
        assert!(steps > 10, "{steps}");
        // Another epoch would pass over the rows that could not be read.
        assert!(batches.next_step().unwrap().is_none());
        assert_eq!(batches.cursor().epoch, 0);
        batches.resume(Cursor::default()).unwrap();
        assert!(batches.next_step().unwrap().is_some());
    }
}

#[test]
fn a_stream_with_workers_can_be_left_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&mixed_file(dir.path(), "rows", 2000));
    for taken in [0, 1, 50, 1500] {
        let mut stream = Stream::new(source.clone(), small(), shuffled(1, 20)).unwrap().with_workers(3).unwrap();
        for _ in 0..taken {
            stream.next_example().unwrap().unwrap();
        }
        // In the middle of an epoch, with rows read ahead.
        stream.next_epoch();
        let first = stream.next_example().unwrap();
        let cursor = stream.cursor();
        drop(stream);
        let mut again = Stream::new(source.clone(), small(), shuffled(1, 20)).unwrap();
        again.next_epoch();
        assert_eq!(again.next_example().unwrap(), first);
        assert_eq!(again.cursor(), cursor);
    }
    let error = Stream::new(source, small(), Order::File).unwrap().with_workers(257).unwrap_err().to_string();
    assert!(error.contains("workers: got 257, expected at most 256"), "{error}");
}

#[test]
fn a_panic_while_a_row_is_encoded_is_an_error() {
    let rows: Vec<Row> = (0..40).map(|row| demonstration(&format!("q {row}"), " a")).collect();
    let source = Source::from_rows(rows).only(|row| {
        let Row::Demonstration { prompt: Text::Plain(prompt), .. } = row else { return true };
        assert!(prompt != "q 17", "a row that nobody expected");
        true
    });
    let mut stream = Stream::new(source, small(), Order::File).unwrap().with_workers(2).unwrap();
    for line in 1..=17 {
        assert_eq!(stream.next_example().unwrap().unwrap().origin.line, line);
    }
    let error = stream.next_example().unwrap_err().to_string();
    assert!(error.contains("a row that nobody expected"), "{error}");
    assert_eq!(stream.cursor().consumed, 18);
    assert_eq!(stream.next_example().unwrap().unwrap().origin.line, 19);
}

/// Rows of a part, told from those of others by their prompts.
fn part(name: &str, rows: usize) -> Source {
    let row = |row: usize| demonstration(&format!("{name} {row}"), if row % 10 == 9 { "" } else { " a" });
    Source::from_rows((0..rows).map(row).collect::<Vec<_>>()).named(name)
}

fn prompts(source: Source, order: Order) -> Vec<String> {
    let encoder = small();
    let prompt = |example: &Example| encoder.decode_text(&example.contexts[0].prompt).trim().to_owned();
    all(source, order).iter().map(prompt).collect()
}

#[test]
fn a_mixture_shares_rows_out_by_weight() {
    let mixture = |end| Source::mixture(vec![(part("a", 9), 1.0), (part("b", 100), 2.0)], end).unwrap();
    let mixed = prompts(mixture(MixtureEnd::FirstExhausted), Order::File);
    assert_eq!(mixed[..6], ["b 0", "a 0", "b 1", "b 2", "a 1", "b 3"]);
    assert_eq!(mixed.iter().filter(|prompt| prompt.starts_with('a')).count(), 9);
    assert_eq!(mixed.iter().filter(|prompt| prompt.starts_with('b')).count(), 18, "{mixed:?}");
    assert_eq!(mixed.iter().collect::<BTreeSet<_>>().len(), mixed.len());
    // The shorter part again and again, the longer once.
    let mixed = prompts(mixture(MixtureEnd::AllExhausted), Order::File);
    let of_b: Vec<_> = mixed.iter().filter(|prompt| prompt.starts_with('b')).collect();
    assert_eq!(of_b.len(), 90);
    assert_eq!(of_b.iter().collect::<BTreeSet<_>>().len(), 90);
    let of_a: Vec<_> = mixed.iter().filter(|prompt| prompt.starts_with('a')).collect();
    assert!((45..=55).contains(&of_a.len()), "{}", of_a.len());
    assert_eq!(of_a[..10], of_a[9..18].iter().chain([&of_a[0]]).copied().collect::<Vec<_>>()[..]);
    // What became of the rows of each part.
    let mut stream = Stream::new(mixture(MixtureEnd::FirstExhausted), small(), Order::File).unwrap();
    while stream.next_example().unwrap().is_some() {}
    let report = stream.report();
    assert_eq!(report.parts["a"], PartCounts { rows: 9, kept: 9 });
    assert_eq!(report.parts["b"], PartCounts { rows: 19, kept: 18 });
    assert!(report.to_string().contains("\nof b: 19 rows, 18 kept"), "{report}");
    assert!(all(part("a", 5), Order::File).len() == 5);
}

#[test]
fn a_mixture_keeps_the_form_of_each_part() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = open(&numbered_pairs(dir.path(), 4)).unpaired(true);
    let labelled = open(&mixed_file(dir.path(), "labels", 6)).select("..4".parse().unwrap());
    let mixed = Source::mixture(vec![(pairs, 1.0), (labelled, 1.0)], MixtureEnd::FirstExhausted).unwrap();
    let annotations: Vec<_> = all(mixed, Order::File).into_iter().map(|example| example.annotation).collect();
    assert_eq!(annotations.len(), 12);
    assert!(annotations.iter().all(|annotation| matches!(annotation, Annotation::Labelled { .. })));
}

#[test]
fn what_no_mixture_can_be_is_said() {
    let error = |parts| Source::mixture(parts, MixtureEnd::FirstExhausted).unwrap_err().to_string();
    assert!(error(vec![]).contains("mixture: got no parts"));
    assert!(error(vec![(part("a", 1), -1.0)]).contains("mixture.weight: got -1"));
    let two = Source::mixture(vec![(part("a", 1), 1.0), (part("b", 1), 1.0)], MixtureEnd::FirstExhausted).unwrap();
    assert!(error(vec![(two, 1.0)]).contains("mixture.part: got a + b, a mixture or a shard"));
    let shard = part("a", 4).sharded(Shard { rank: 0, ranks: 2 }).unwrap();
    assert!(error(vec![(shard, 1.0)]).contains("a mixture or a shard"));
    assert!(part("a", 1).sharded(Shard { rank: 2, ranks: 2 }).unwrap_err().to_string().contains("rank 2 of 2"));
    // A part of no rows cannot begin again.
    let empty = part("a", 4).select("4..".parse().unwrap());
    let both = Source::mixture(vec![(empty, 1.0), (part("b", 3), 1.0)], MixtureEnd::AllExhausted).unwrap();
    let error = Stream::new(both, small(), Order::File).unwrap().next_example().unwrap_err();
    assert!(matches!(error, Error::NoRows { .. }), "{error}");
}

#[test]
fn shards_are_the_whole_and_share_no_row() {
    let whole: BTreeSet<u64> = lines(&all(part("a", 53), Order::File)).into_iter().collect();
    for ranks in [1, 2, 3, 7, 60] {
        let mut seen = BTreeSet::new();
        for rank in 0..ranks {
            let shard = part("a", 53).sharded(Shard { rank, ranks }).unwrap();
            let in_order = lines(&all(shard.clone(), Order::File));
            assert!(in_order.is_sorted());
            let mixed = lines(&all(shard, shuffled(1, 100)));
            assert_eq!(mixed.iter().collect::<BTreeSet<_>>(), in_order.iter().collect());
            assert!(in_order.into_iter().all(|line| seen.insert(line)));
        }
        assert_eq!(seen, whole);
    }
}

#[test]
fn the_halves_of_pairs_are_shuffled_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = numbered_pairs(dir.path(), 200);
    let source = Source::open(&SourceOptions { unpair: true, ..SourceOptions::new(&path) }).unwrap();
    let label =
        |example: &Example| (example.origin.line, example.annotation == Annotation::Labelled { desirable: true });
    let in_order: Vec<_> = all(source.clone(), Order::File).iter().map(label).collect();
    assert_eq!(in_order, (1..=200).flat_map(|line| [(line, true), (line, false)]).collect::<Vec<_>>());
    let mixed: Vec<_> = all(source, shuffled(1, 1000)).iter().map(label).collect();
    assert!(mixed.windows(2).filter(|pair| pair[0].0 == pair[1].0).count() < 20);
    assert_eq!(mixed.into_iter().collect::<BTreeSet<_>>(), in_order.into_iter().collect());
}

#[test]
fn a_row_that_cannot_be_unpaired_is_told_once() {
    let rows = vec![plain_pair("p", " a", " b"), demonstration("q", " a"), plain_pair("r", "", " b")];
    for workers in [0, 2] {
        let source = Source::from_rows(rows.clone()).unpaired(true);
        let mut stream = Stream::new(source, small(), Order::File).unwrap().with_workers(workers).unwrap();
        let mut given = Vec::new();
        while let Some(example) = stream.next_example().unwrap() {
            given.push(example.origin.line);
        }
        assert_eq!(given, [1, 1, 3]);
        let report = stream.report();
        assert_eq!(report.reasons[&Reason::NotAPair], 1);
        assert_eq!(report.reasons[&Reason::EmptyCompletion], 1);
        assert_eq!((report.rows, report.kept), (5, 3));
        assert_eq!(stream.cursor().consumed, 6);
    }
}

#[test]
fn rows_are_left_out_or_not_wanted() {
    let rows: Vec<Row> = (0..20).map(|row| demonstration(&format!("q {row}"), " a")).collect();
    let source = Source::from_rows(rows)
        .select("5..".parse().unwrap())
        .leaving_out(|row, origin| {
            let detail = format!("row {row}");
            (row % 4 == 0).then(|| Rejection { origin: origin.clone(), reason: Reason::Duplicate, detail })
        })
        .only(|row| !matches!(row, Row::Demonstration { prompt: Text::Plain(prompt), .. } if prompt.ends_with('7')));
    for order in [Order::File, shuffled(3, 9)] {
        let mut stream = Stream::new(source.clone(), small(), order).unwrap();
        let mut given = Vec::new();
        while let Some(example) = stream.next_example().unwrap() {
            given.push(example.origin.line);
        }
        given.sort_unstable();
        assert_eq!(given, [7, 9, 11, 12, 13, 15, 16, 17, 19, 20]);
        let report = stream.report();
        assert_eq!((report.rows, report.kept, report.rejected_rows(), report.elsewhere), (15, 10, 4, 1));
        assert!(report.rejected.iter().any(|rejection| rejection.to_string() == "<memory>:6: duplicate: row 0"));
        assert!(report.summary().contains("4 rejected (duplicate 4), 1 not among those wanted"), "{report}");
    }
}

#[test]
fn rows_of_a_mixture_are_left_out_by_the_numbers_of_its_records() {
    let left_out = |source: Source, rows: &'static [u64]| {
        source.leaving_out(move |row, origin| {
            let detail = format!("row {row}");
            rows.contains(&row).then(|| Rejection { origin: origin.clone(), reason: Reason::Duplicate, detail })
        })
    };
    let parts = vec![(part("a", 6), 1.0), (part("b", 6), 1.0)];
    let mixed = Source::mixture(parts, MixtureEnd::FirstExhausted).unwrap().select("3..".parse().unwrap());
    let whole = prompts(mixed.clone(), Order::File);
    let kept = prompts(left_out(mixed.clone(), &[0, 4]), Order::File);
    let expected: Vec<String> =
        whole.iter().enumerate().filter(|(row, _)| ![0, 4].contains(row)).map(|(_, prompt)| prompt.clone()).collect();
    assert_eq!(kept, expected);
    // The numbers are those of the whole, whichever shard reads a row.
    let mut shared: Vec<String> = (0..2)
        .flat_map(|rank| {
            let shard = left_out(mixed.clone(), &[0, 4]).sharded(Shard { rank, ranks: 2 }).unwrap();
            prompts(shard, Order::File)
        })
        .collect();
    shared.sort();
    let mut sorted = expected;
    sorted.sort();
    assert_eq!(shared, sorted);
}

#[test]
fn records_are_the_rows_in_file_order() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&mixed_file(dir.path(), "rows", 12)).select("2..".parse().unwrap());
    let records: Vec<_> = source.records().unwrap().map(Result::unwrap).collect();
    let line = |record: &Result<(candlewick_data::Origin, candlewick_data::Record), Rejection>| match record {
        Ok((origin, _)) => origin.line,
        Err(rejection) => rejection.origin.line,
    };
    assert_eq!(records.iter().map(line).collect::<Vec<_>>(), (3..=12).collect::<Vec<_>>());
    assert_eq!(records.iter().filter(|record| record.is_err()).map(line).collect::<Vec<_>>(), [5]);
    let examples = Source::from_examples(all(source, Order::File));
    let error = examples.records().unwrap_err().to_string();
    assert!(error.contains("records: got a source of encoded examples, expected rows"), "{error}");
}

/// Rows of many lengths.
fn of_lengths(count: usize) -> Source {
    let row = |row: usize| labelled(&format!("q {row}"), &"y".repeat(row * 37 % 60 + 1), row.is_multiple_of(2));
    Source::from_rows((0..count).map(row).collect::<Vec<_>>())
}

fn steps(source: Source, options: BatchOptions) -> Vec<Vec<Batch>> {
    Batches::new(source, small(), options).unwrap().map(Result::unwrap).collect()
}

fn examples(step: &[Batch]) -> Vec<Example> {
    step.iter().flat_map(|batch| batch.examples.clone()).collect()
}

#[test]
fn a_token_budget_packs_a_step_and_changes_none() {
    let options = BatchOptions { examples: 8, micro_batches: 2, ..BatchOptions::default() };
    let plain = steps(of_lengths(100), options);
    let budget = 70;
    let mut batches = Batches::new(of_lengths(100), small(), BatchOptions { tokens: Some(budget), ..options }).unwrap();
    let mut over = 0;
    for step in &plain {
        let packed = batches.next_step().unwrap().unwrap();
        let mut own = examples(&packed);
        own.sort_by_key(|example| example.origin.line);
        assert_eq!(own, examples(step));
        for batch in &packed {
            let total: usize = batch.examples.iter().map(example_tokens).sum();
            assert!(total <= budget || batch.examples.len() == 1);
            over += u64::from(total > budget);
        }
        let tokens: usize = own.iter().map(example_tokens).sum();
        assert!(packed.len() >= tokens.div_ceil(budget) && packed.len() <= 2 * tokens.div_ceil(budget) + 1);
    }
    assert!(batches.next_step().unwrap().is_none());
    assert_eq!(batches.report().over_budget, over);
    let tight = BatchOptions { tokens: Some(30), ..options };
    let mut batches = Batches::new(of_lengths(100), small(), tight).unwrap();
    while batches.next_step().unwrap().is_some() {}
    assert!(batches.report().over_budget > 10);
    assert!(batches.report().summary().contains(" examples longer than the token budget"), "{}", batches.report());
}

#[test]
fn buckets_hold_rows_of_like_length_and_every_row_once() {
    let options = BatchOptions { examples: 4, order: shuffled(1, 50), epochs: Some(2), ..BatchOptions::default() };
    let spread = |steps: &[Vec<Batch>]| -> usize {
        let of = |step: &Vec<Batch>| {
            let sizes: Vec<usize> = examples(step).iter().map(example_tokens).collect();
            sizes.iter().max().unwrap() - sizes.iter().min().unwrap()
        };
        steps.iter().map(of).sum()
    };
    for (rows, last_step) in [(120, LastStep::Keep), (121, LastStep::Keep), (123, LastStep::Drop)] {
        let options = BatchOptions { last_step, ..options };
        let plain = steps(of_lengths(rows), options);
        let bucketed = steps(of_lengths(rows), BatchOptions { bucket: Some(10), ..options });
        assert_eq!(bucketed.len(), plain.len());
        assert!(spread(&bucketed) * 4 < spread(&plain), "{} {}", spread(&bucketed), spread(&plain));
        let mut epochs = bucketed.chunks(bucketed.len() / 2).map(|epoch| {
            let lines: Vec<u64> = epoch.iter().flat_map(|step| lines(&examples(step))).collect();
            let each: BTreeSet<u64> = lines.iter().copied().collect();
            assert_eq!(each.len(), lines.len(), "a row comes twice");
            assert_eq!(lines.len(), if last_step == LastStep::Keep { rows } else { rows / 4 * 4 });
            lines
        });
        assert_ne!(epochs.next(), epochs.next());
        // Short and long steps alternate.
        let sizes: Vec<usize> = bucketed[..10].iter().map(|step| example_tokens(&step[0].examples[0])).collect();
        assert!(!sizes.is_sorted(), "{sizes:?}");
    }
}

#[test]
fn a_run_of_buckets_resumes_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&mixed_file(dir.path(), "rows", 2600));
    for (bucket, last_step) in [(1, LastStep::Keep), (9, LastStep::Drop), (1000, LastStep::Keep)] {
        let options = BatchOptions {
            examples: 20,
            order: shuffled(7, 200),
            epochs: Some(2),
            last_step,
            bucket: Some(bucket),
            ..BatchOptions::default()
        };
        let (whole, cursors, _) = run(&source, options, None);
        for (done, cursor) in cursors.iter().enumerate().step_by(13) {
            let mut resumed = Batches::new(source.clone(), small(), options).unwrap();
            resumed.resume(stored(cursor)).unwrap();
            assert_eq!(resumed.cursor(), *cursor);
            let next: Vec<_> = resumed.by_ref().take(30).map(Result::unwrap).collect();
            assert!(next == whole[done..whole.len().min(done + 30)], "{options:?} {done} {cursor:?}");
        }
        let inside = cursors.iter().find(|cursor| cursor.skip > 0);
        assert_eq!(inside.is_some(), bucket > 1);
        if let Some(cursor) = inside {
            let mut plain = Batches::new(source.clone(), small(), BatchOptions { bucket: None, ..options }).unwrap();
            let error = plain.resume(cursor.clone()).unwrap_err().to_string();
            assert!(error.contains("bucket: got none, the position was saved with"), "{error}");
            for other in
                [BatchOptions { bucket: Some(bucket + 1), ..options }, BatchOptions { examples: 10, ..options }]
            {
                let error = Batches::new(source.clone(), small(), other).unwrap().resume(cursor.clone()).unwrap_err();
                let saved = format!("the position was saved with {bucket} steps of 20 examples, expected the same");
                assert!(error.to_string().contains(&saved), "{error}");
            }
        }
    }
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let error = |options| Batches::new(of_lengths(9), small(), options).unwrap_err().to_string();
    let plain = BatchOptions::default();
    let budget = BatchOptions { tokens: Some(10), ..plain };
    assert!(error(BatchOptions { mismatched: true, ..budget }).contains("tokens: got a budget, with mismatched"));
    let bucket = BatchOptions { bucket: Some(2), ..plain };
    assert!(
        error(BatchOptions { stratified: true, ..bucket }).contains("bucket: got a number of steps, with stratified")
    );
    assert!(error(BatchOptions { tokens: Some(0), ..plain }).contains("tokens: got 0, expected at least 1"));
    assert!(error(BatchOptions { bucket: Some(0), ..plain }).contains("bucket: got 0, expected at least 1"));
}

/// Positions written before there were places are read.
#[test]
fn positions_without_a_place_are_read() {
    let old: Cursor = serde_json::from_str(r#"{"epoch": 1, "consumed": 4}"#).unwrap();
    assert_eq!(old, Cursor { epoch: 1, consumed: 4, ..Cursor::default() });
    let dir = tempfile::tempdir().unwrap();
    let source = open(&numbered_pairs(dir.path(), 9));
    let mut stream = Stream::new(source.clone(), small(), shuffled(1, 5)).unwrap();
    stream.resume(old).unwrap();
    let mut whole = Stream::new(source, small(), shuffled(1, 5)).unwrap();
    whole.next_epoch();
    assert!(stream.map(Result::unwrap).eq(whole.skip(4).map(Result::unwrap)));
}
