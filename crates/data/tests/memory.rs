//! Memory does not grow with the file: 2 GB are read, shuffled, tokenized and gathered in less than 200 MB.
//!
//! Every row is 4 KB of the file and goes the whole way to a batch. Of one row in 1,024 the 4 KB are the completion; of the
//! others they are a column that no form reads, so that 2 GB are read and parsed and a small part of them is tokenized: all of
//! it would take minutes. What waits in the shuffle buffer is 4 KB for every row all the same.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use candlewick_data::{BatchOptions, Batches, EncodeOptions, Order, Source, SourceOptions};
use common::{SMALL, encoder};

/// Names the file that the child reads.
const CHILD: &str = "CANDLEWICK_TEST_MEMORY";
const ROWS: usize = 1 << 19;
const ROW_BYTES: usize = 4 << 10;
const LONG_EVERY: usize = 1024;
const MOST_BYTES: u64 = 200 << 20;

#[test]
fn two_gigabytes_pass_through_two_hundred_megabytes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("rows.jsonl");
    write_rows(&path);
    assert!(path.metadata().unwrap().len() > 2_000_000_000);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let number = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {said}"));
        line.trim().parse().unwrap()
    };
    assert_eq!(number("rows "), ROWS as u64);
    let peak = number("peak ");
    assert!(peak < MOST_BYTES, "{peak} bytes at most");
    // It holds 10,000 rows of 4 KB: a peak below that would have measured nothing.
    assert!(peak > 10_000 * ROW_BYTES as u64, "{peak} bytes at most");
}

fn write_rows(path: &Path) {
    let filler = "the quick brown fox jumps over the lazy dog ".repeat(ROW_BYTES / 44 + 1);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    for row in 0..ROWS {
        let (completion, notes) = if row % LONG_EVERY == 0 { (filler.as_str(), "") } else { ("", filler.as_str()) };
        let used = completion.len() + notes.len();
        let prefix = format!("{{\"prompt\": \"q {row}\", \"completion\": \" a {row} ");
        let cut = ROW_BYTES.saturating_sub(prefix.len() + 16).min(used);
        let (completion, notes) = (&completion[..cut.min(completion.len())], &notes[..cut.min(notes.len())]);
        writeln!(file, "{prefix}{completion}\", \"notes\": \"{notes}\"}}").unwrap();
    }
    file.flush().unwrap();
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "the parent names the file in the environment")]
    let Some(path) = std::env::var_os(CHILD) else { return };
    let source = Source::open(&SourceOptions::new(Path::new(&path))).unwrap();
    let order = Order::Shuffled { seed: 1, buffer: 10_000 };
    let options = BatchOptions { order, workers: 2, ..BatchOptions::default() };
    let mut batches =
        Batches::new(source, encoder(SMALL, EncodeOptions { max_length: None, ..EncodeOptions::default() }), options)
            .unwrap();
    let mut rows = 0;
    while let Some(step) = batches.next_step().unwrap() {
        rows += step.iter().map(|batch| batch.examples.len()).sum::<usize>();
    }
    println!("\nrows {rows}\npeak {}", peak_bytes());
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap()
}
