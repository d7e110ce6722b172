//! A process that is killed at a random row and started again from the cursor it saved: over all its lives, the rows come in
//! the order of a run that nobody killed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use candlewick_data::{BatchOptions, Batches, Cursor, EncodeOptions, Order, Source, SourceOptions};
use common::{SMALL, encoder};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// Names the directory that the child works in.
const CHILD: &str = "CANDLEWICK_TEST_KILLED";
const ROWS: usize = 700;
const EPOCHS: u64 = 2;
const TRIES: usize = 20;
/// Steps between two checkpoints: most kills lose some.
const SAVE_EVERY: usize = 3;

/// What a child saves: where it stands, and how much of its log was written then.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Saved {
    cursor: Cursor,
    log_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    data: PathBuf,
    stratified: bool,
}

#[test]
fn lines() {
    killed_again_and_again("plain", pairs, &write_plain, false);
}

#[test]
fn compressed_lines() {
    killed_again_and_again("gz", pairs, &write_gz, false);
}

#[test]
fn steps_of_both_labels() {
    killed_again_and_again("stratified", labelled, &write_plain, true);
}

/// A file with a row that is set aside here and there, and blank lines.
fn pairs() -> String {
    let row = |row: usize| match row % 50 {
        13 => format!("{{\"prompt\": \"q {row}\", \"chosen\": \"same\", \"rejected\": \"same\"}}\n\n"),
        _ => format!("{{\"prompt\": \"q {row}\", \"chosen\": \" yes {row}\", \"rejected\": \" no {row}\"}}\n"),
    };
    (0..ROWS).map(row).collect()
}

/// Runs of one label, so that rows wait for those of the other.
fn labelled() -> String {
    let row = |row: usize| {
        let label = row / 40 % 3 == 0;
        format!("{{\"prompt\": \"q {row}\", \"completion\": \" a {row}\", \"label\": {label}}}\n")
    };
    (0..ROWS).map(row).collect()
}

fn write_plain(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("rows.jsonl");
    fs::write(&path, text).unwrap();
    path
}

fn write_gz(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("rows.jsonl.gz");
    let mut gz = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap();
    path
}

fn killed_again_and_again(name: &str, rows: fn() -> String, write: &dyn Fn(&Path, &str) -> PathBuf, stratified: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let job = Job { data: write(scratch.path(), &rows()), stratified };
    let whole = scratch.path().join("whole");
    start(&whole, &job).wait().unwrap();
    let expected = fs::read_to_string(whole.join("order")).unwrap();
    let all = expected.split_whitespace().count();
    assert!(all > ROWS, "{name}: {all} rows in {EPOCHS} epochs of {ROWS}");

    let killed = scratch.path().join("killed");
    let mut random = Random(0x5eed ^ name.len() as u64);
    // Rows that a life gets to go on: on average the run ends with the last try.
    let most = 2 * all / TRIES;
    let mut ended_by_itself = 0;
    for _ in 0..TRIES {
        ended_by_itself += usize::from(!kill_after(start(&killed, &job), 1 + random.below(most)));
    }
    assert!(ended_by_itself < TRIES / 2, "{name}: {ended_by_itself} of {TRIES} runs were over before they were killed");
    assert!(start(&killed, &job).wait().unwrap().success());
    let resumed = fs::read_to_string(killed.join("order")).unwrap();
    assert_eq!(resumed, expected, "{name}");
}

/// A process of its own that works in a directory, from where the last one saved.
fn start(dir: &Path, job: &Job) -> Child {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("job"), serde_json::to_vec(job).unwrap()).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills a process once it has said a number of rows; whether it was still alive then.
fn kill_after(mut child: Child, rows: usize) -> bool {
    let mut said = child.stdout.take().unwrap();
    let mut left = rows;
    let mut buffer = [0; 64];
    while left > 0 {
        match said.read(&mut buffer).unwrap() {
            0 => break,
            read => left = left.saturating_sub(buffer[..read].iter().filter(|byte| **byte == ROW).count()),
        }
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Said on the standard output for each row; the test harness itself does not say it.
const ROW: u8 = 0x06;

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "the parent names the directory in the environment")]
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let job: Job = serde_json::from_slice(&fs::read(dir.join("job")).unwrap()).unwrap();
    let mut batches = batches(&job);
    let mut log = resume(dir, &mut batches);
    let mut out = std::io::stdout();
    let mut steps = 0;
    while let Some(step) = batches.next_step().unwrap() {
        for example in step.iter().flat_map(|batch| &batch.examples) {
            write!(log, "{} ", example.origin.line).unwrap();
            out.write_all(&[ROW]).unwrap();
            out.flush().unwrap();
        }
        writeln!(log).unwrap();
        steps += 1;
        if steps % SAVE_EVERY == 0 {
            save(dir, &batches, &mut log);
        }
    }
    save(dir, &batches, &mut log);
}

fn batches(job: &Job) -> Batches {
    let source = Source::open(&SourceOptions::new(&job.data)).unwrap();
    let options = BatchOptions {
        examples: 2,
        micro_batches: 2,
        order: Order::Shuffled { seed: 7, buffer: 64 },
        epochs: Some(EPOCHS),
        stratified: job.stratified,
        ..BatchOptions::default()
    };
    Batches::new(source, encoder(SMALL, EncodeOptions::default()), options).unwrap()
}

/// Goes to where the last process saved; what it logged after that is cut off.
fn resume(dir: &Path, batches: &mut Batches) -> File {
    let saved: Saved = match fs::read(dir.join("saved")) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => Saved::default(),
    };
    let log = OpenOptions::new().create(true).append(true).open(dir.join("order")).unwrap();
    log.set_len(saved.log_bytes).unwrap();
    batches.resume(saved.cursor).unwrap();
    log
}

/// The log first, then the cursor under its name at once.
fn save(dir: &Path, batches: &Batches, log: &mut File) {
    log.sync_all().unwrap();
    let saved = Saved { cursor: batches.cursor(), log_bytes: log.metadata().unwrap().len() };
    let fresh = dir.join("saved.new");
    let mut file = File::create(&fresh).unwrap();
    file.write_all(&serde_json::to_vec(&saved).unwrap()).unwrap();
    file.sync_all().unwrap();
    fs::rename(&fresh, dir.join("saved")).unwrap();
}

/// SplitMix64: the rows at which processes are killed are the same in every run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
