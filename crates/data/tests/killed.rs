//! A process that is killed at a random row and started again from the cursor it saved: over all its lives, the rows come in
//! the order of a run that nobody killed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use candlewick_data::{BatchOptions, Batches, Cursor, EncodeOptions, Order, Origin, Source, SourceOptions};
use common::{SMALL, encoder};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// Names the directory that the child works in.
const CHILD: &str = "CANDLEWICK_TEST_KILLED";
/// Enough for places inside an epoch, which are taken every 1,024 rows.
const ROWS: usize = 3000;
const EPOCHS: u64 = 2;
const TRIES: usize = 20;
/// Steps between two checkpoints: most kills lose some.
const SAVE_EVERY: usize = 7;

/// What a child saves: where it stands, and how much of its log was written then.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    cursor: Cursor,
    log_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    data: PathBuf,
    gather: Gather,
    workers: usize,
}

/// How examples become steps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Gather {
    InOrder,
    BothLabels,
    ByLength,
}

#[test]
fn lines() {
    killed_again_and_again("lines", pairs, &write_plain, Gather::InOrder);
}

#[test]
fn compressed_lines() {
    killed_again_and_again("compressed lines", pairs, &write_gz, Gather::InOrder);
}

#[test]
fn files_of_a_directory() {
    killed_again_and_again("directory", pairs, &write_directory, Gather::InOrder);
}

#[test]
fn one_array() {
    killed_again_and_again("array", pairs, &write_array, Gather::InOrder);
}

#[cfg(feature = "columnar")]
#[test]
fn parquet() {
    killed_again_and_again("parquet", pairs, &write_parquet, Gather::InOrder);
}

#[test]
fn steps_of_both_labels() {
    killed_again_and_again("both labels", labelled, &write_plain, Gather::BothLabels);
}

#[test]
fn steps_of_like_length() {
    killed_again_and_again("like length", pairs, &write_plain, Gather::ByLength);
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
        let label = (row / 40).is_multiple_of(3);
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

fn write_directory(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("rows");
    fs::create_dir(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (number, part) in lines.chunks(lines.len() / 3 + 1).enumerate() {
        fs::write(path.join(format!("{number}.jsonl")), part.concat()).unwrap();
    }
    path
}

fn write_array(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("rows.json");
    let rows: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    fs::write(&path, format!("[\n{}\n]\n", rows.join(",\n"))).unwrap();
    path
}

#[cfg(feature = "columnar")]
fn write_parquet(dir: &Path, text: &str) -> PathBuf {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    let rows: Vec<serde_json::Value> =
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[name].as_str().unwrap())))
    };
    let batch = RecordBatch::try_from_iter(["prompt", "chosen", "rejected"].map(|name| (name, column(name)))).unwrap();
    let path = dir.join("rows.parquet");
    let groups = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(groups)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

fn killed_again_and_again(name: &str, rows: fn() -> String, write: &dyn Fn(&Path, &str) -> PathBuf, gather: Gather) {
    let scratch = tempfile::tempdir().unwrap();
    let mut job = Job { data: write(scratch.path(), &rows()), gather, workers: 0 };
    let whole = scratch.path().join("whole");
    start(&whole, &job).wait().unwrap();
    let expected = fs::read_to_string(whole.join("order")).unwrap();
    let all = expected.split_whitespace().count();
    assert!(all > ROWS, "{name}: {all} rows in {EPOCHS} epochs of {ROWS}");

    let killed = scratch.path().join("killed");
    let mut random = Random(0x5eed ^ name.len() as u64);
    // Rows that a life gets to go on: on average the run ends with the last try.
    let most = 2 * all / TRIES;
    let (mut ended_by_itself, mut places) = (0, 0);
    for life in 0..TRIES {
        // The number of threads changes nothing.
        job.workers = life % 4;
        ended_by_itself += usize::from(!kill_after(start(&killed, &job), 1 + random.below(most)));
        places += usize::from(saved(&killed).cursor.place.is_some());
    }
    assert!(places > 0, "{name}: no run went on from a place inside an epoch");
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
            write!(log, "{}:{} ", file_name(&example.origin), example.origin.line).unwrap();
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

fn file_name(origin: &Origin) -> String {
    Path::new(&*origin.file).file_name().unwrap().to_string_lossy().into_owned()
}

fn batches(job: &Job) -> Batches {
    let source = Source::open(&SourceOptions::new(&job.data)).unwrap();
    let options = BatchOptions {
        examples: 2,
        micro_batches: 2,
        order: Order::Shuffled { seed: 7, buffer: 64 },
        epochs: Some(EPOCHS),
        stratified: matches!(job.gather, Gather::BothLabels),
        bucket: matches!(job.gather, Gather::ByLength).then_some(5),
        workers: job.workers,
        ..BatchOptions::default()
    };
    Batches::new(source, encoder(SMALL, EncodeOptions::default()), options).unwrap()
}

/// What the last process saved; the start, where none did.
fn saved(dir: &Path) -> Saved {
    fs::read(dir.join("saved")).map_or_else(|_| Saved::default(), |bytes| serde_json::from_slice(&bytes).unwrap())
}

/// Goes to where the last process saved; what it logged after that is cut off.
fn resume(dir: &Path, batches: &mut Batches) -> File {
    let saved = saved(dir);
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
