//! What finding the reference log-probabilities of a batch costs in a cache of a million rows, beside a step of a small model.
//!
//! `cargo bench -p candlewick-train --bench reference_cache [-- MODEL]`, by default on the model of 656 thousand numbers among the shared
//! fixtures. It prints ratios, and one line of JSON for `benches/record/`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark speaks, has a clock, and stops at what it did not expect"
)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use candlewick_data::{Annotation, Batch, Completion, Context, Example, Origin};
use candlewick_losses::{Dpo, Objective, Outputs, TokenScores};
use candlewick_model::{CausalLm, Packed, Recompute};
use candlewick_train::{
    CausalPolicy, Policy, PrecomputedReference, Reference, Result, Trainer, TrainerOptions, reference_digest,
};

const PAIRS: usize = 500_000;
/// Tokens of a prompt and of a completion.
const LENGTHS: [usize; 2] = [60, 100];
const BATCH: usize = 8;

/// Says the same of every token: what is measured does not depend on it.
#[derive(Debug)]
struct Said;

impl Policy for Said {
    fn score(&mut self, batch: &Packed, _: Outputs) -> Result<TokenScores> {
        let shape = (batch.completions(), batch.slots());
        let values = Tensor::full(-1.5f32, shape, &Device::Cpu)?;
        Ok(TokenScores::new(values, Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu)?)?)
    }
}

/// Pair number `i`; no two are the same.
fn pair(i: usize, vocabulary: usize) -> Example {
    let ids = |from: usize, count: usize| -> Vec<u32> {
        let digits = [i % vocabulary, i / vocabulary % vocabulary];
        digits.into_iter().chain((2..count).map(|k| (from + i + 7 * k) % vocabulary)).map(|id| id as u32).collect()
    };
    let [prompt, completion] = LENGTHS;
    let completions = [1, 2].map(|side| Completion::all_scored(ids(side * 1_000, completion))).into();
    let prompt = ids(0, prompt);
    let context = Context { prompt_scored: vec![false; prompt.len()], prompt, completions };
    Example::new(Origin::line("made-up".into(), i as u64 + 1), vec![context], Annotation::Pair)
}

fn batch(pairs: impl Iterator<Item = usize>, vocabulary: usize) -> Batch {
    Batch { examples: pairs.map(|i| pair(i, vocabulary)).collect(), ..Batch::default() }
}

/// Resident bytes, where the system tells.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The median of the seconds that calls took.
fn median(mut call: impl FnMut(usize), times: usize) -> f64 {
    let mut seconds: Vec<f64> = (0..times)
        .map(|i| {
            let start = Instant::now();
            call(i);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[times / 2]
}

/// The word by which this program asks itself what it takes to open a cache.
const OPEN: &str = "--open";

/// Says by how many bytes opening a cache makes the process larger.
fn open(cache: &str, digest: &str) {
    let before = resident();
    let table = PrecomputedReference::open(Path::new(cache), digest, false).unwrap();
    if let (Some(before), Some(after)) = (before, resident()) {
        println!("{}", after.saturating_sub(before));
    }
    drop(table);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, cache, digest] = &words[..]
        && word == OPEN
    {
        return open(cache, digest);
    }
    let given = std::env::args().skip(1).find(|word| !word.starts_with('-')).map(PathBuf::from);
    let shared = || candlewick_testkit::shared().map(|shared| shared.join("assets/weights/tinystories-656k"));
    let Some(path) = given.or_else(shared) else {
        println!("skipped: name the directory of a model");
        return;
    };
    let model = CausalLm::<f32>::load(&path).unwrap();
    let vocabulary = model.config().vocab_size;
    let (digest, needs) = (reference_digest(&model), Dpo::default().needs());
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");

    let start = Instant::now();
    let mut table = PrecomputedReference::open(&cache, &digest, false).unwrap();
    let mut written = 0;
    for first in (0..PAIRS).step_by(64) {
        table.add(&mut Said, &batch(first..(first + 64).min(PAIRS), vocabulary), &needs).unwrap();
        if table.len() - written >= 1024.max(written / 16) {
            table.append().unwrap();
            written = table.len();
        }
    }
    table.append().unwrap();
    let rows = table.len();
    println!("{rows} rows made in {:.0} s", start.elapsed().as_secs_f64());
    drop(table);

    // Memory in a process that has done nothing else.
    let again = std::env::current_exe().unwrap();
    let said = std::process::Command::new(again).args([Path::new(OPEN), &cache, Path::new(&digest)]).output().unwrap();
    let bytes: Option<u64> = String::from_utf8(said.stdout).unwrap().trim().parse().ok();
    let start = Instant::now();
    let table = PrecomputedReference::open(&cache, &digest, false).unwrap();
    let opened = start.elapsed().as_secs_f64();
    let segments = std::fs::read_dir(&cache).unwrap().count() - 2;

    // Rows from all over the cache.
    let batches: Vec<Batch> =
        (0..400).map(|n| batch((0..BATCH).map(|k| (n * 7_919 + k * 104_729) % PAIRS), vocabulary)).collect();
    let find = |i: usize| drop(table.scores::<f32>(&batches[i]).unwrap());
    let found = median(find, batches.len());
    // Of which laying the batch out is a part that a step has anyway.
    let empty = PrecomputedReference::new("none", "none");
    let laid_out = median(|i| drop(empty.scores::<f32>(&batches[i]).unwrap_err()), batches.len());

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let policy = CausalPolicy::new(model, Recompute::Nothing, threads);
    let options = TrainerOptions { starts_at_reference: false, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(policy, Reference::Precomputed(table), Box::<Dpo>::default(), options).unwrap();
    let step = median(|i| drop(trainer.step(std::slice::from_ref(&batches[i])).unwrap()), 40);

    println!("finding {BATCH} pairs takes {:.3} % of a step of {threads} threads", 100.0 * (found - laid_out) / step);
    println!("with laying them out: {:.3} %", 100.0 * found / step);
    println!("{segments} segments; opening takes {:.0} steps", opened / step);
    println!("memory of the rows: {:.1} bytes each", bytes.map_or(f64::NAN, |bytes| bytes as f64 / rows as f64));
    let line = serde_json::json!({
        "rows": rows, "tokens_a_row": LENGTHS[1], "segments": segments, "pairs_a_batch": BATCH, "threads": threads,
        "found_by_step": (found - laid_out) / step, "found_and_laid_out_by_step": found / step, "opened_by_step": opened / step,
        "bytes_a_row": bytes.map(|bytes| bytes as f64 / rows as f64),
    });
    println!("{line}");
}
