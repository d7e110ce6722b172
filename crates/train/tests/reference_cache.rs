//! Reference log-probabilities on disk: what comes back, what is refused, and what a process that is killed leaves.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candlewick_data::{Batch, Example};
use candlewick_losses::{Dpo, Objective, Outputs, TokenScores};
use candlewick_model::Packed;
use candlewick_train::{
    Checkpoint, Error, Event, Fault, Policy, Precomputation, PrecomputedReference, Result, Run, checkpoints,
};
use support::folder::{self, Folder};
use support::{batches, pairs};

const ONE: &str = "xxh3-128:00000000000000000000000000000001/xxh3-128:00000000000000000000000000000000";
const TWO: &str = "xxh3-128:00000000000000000000000000000002/xxh3-128:00000000000000000000000000000000";

/// Says of every scored token −(1 + id)/16 − slot/1024 − `more`.
#[derive(Debug)]
struct Said {
    more: f64,
    passes: usize,
}

fn said(more: f64) -> Said {
    Said { more, passes: 0 }
}

impl Policy for Said {
    fn score(&mut self, batch: &Packed, _: Outputs) -> Result<TokenScores> {
        self.passes += 1;
        let (rows, slots) = (batch.completions(), batch.slots());
        let (mut values, mut mask) = (vec![0f64; rows * slots], vec![0f64; rows * slots]);
        for target in batch.targets() {
            let place = target.completion as usize * slots + target.slot as usize;
            values[place] = -f64::from(1 + target.id) / 16.0 - f64::from(target.slot) / 1024.0 - self.more;
            mask[place] = 1.0;
        }
        let tensor = |values| Tensor::from_vec(values, (rows, slots), &Device::Cpu).unwrap();
        Ok(TokenScores::new(tensor(values), tensor(mask)).unwrap())
    }
}

/// What [`Said`] says of a batch, from its examples and not from what is packed.
fn expected(batch: &Batch, more: f64) -> Vec<Vec<f64>> {
    let completions = batch.examples.iter().flat_map(|example| &example.contexts[0].completions);
    completions
        .map(|one| {
            one.ids.iter().enumerate().map(|(i, id)| -f64::from(1 + id) / 16.0 - i as f64 / 1024.0 - more).collect()
        })
        .collect()
}

#[track_caller]
fn holds(table: &PrecomputedReference, batch: &Batch, more: f64) {
    let found = table.scores::<f64>(batch).unwrap();
    let (found, mask) = (found.log_probs().to_vec2::<f64>().unwrap(), found.mask().to_vec2::<f64>().unwrap());
    for ((found, mask), expected) in found.iter().zip(&mask).zip(expected(batch, more)) {
        let found: Vec<u64> =
            found.iter().zip(mask).filter(|(_, mask)| **mask > 0.5).map(|(value, _)| value.to_bits()).collect();
        assert_eq!(found, expected.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }
}

fn add(table: &mut PrecomputedReference, examples: &[Example], policy: &mut Said) {
    for batch in batches(examples, 2) {
        table.add(policy, &batch, &Dpo::default().needs()).unwrap();
    }
}

fn open(path: &Path, reference: &str) -> PrecomputedReference {
    PrecomputedReference::open(path, reference, false).unwrap()
}

fn refused(path: &Path) -> String {
    let error = PrecomputedReference::open(path, ONE, false).unwrap_err();
    assert_eq!(error.fault(), Fault::Model, "{error}");
    error.to_string()
}

/// A cache of eight pairs in two segments.
fn cache(path: &Path) -> Vec<Example> {
    let examples = pairs(8, 1);
    for part in examples.chunks(4) {
        let mut table = open(path, ONE);
        add(&mut table, part, &mut said(0.25));
        table.append().unwrap();
    }
    examples
}

fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// Files that the version before caches wrote (commit 19fc143): one by a policy that says what [`Said`] says with a third more, of
/// `pairs(5, 1)` two at a time; one by a run of [`RUN`] on [`rows`].
fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name)
}

#[test]
fn values_come_back_to_the_bit_whatever_their_width() {
    let directory = tempfile::tempdir().unwrap();
    // A quarter is an f32, a third is not.
    for (name, more, bytes) in [("narrow", 0.25, 4), ("wide", 1.0 / 3.0, 8)] {
        let path = directory.path().join(name);
        let examples = pairs(40, 1);
        let (mut table, mut policy) = (open(&path, ONE), said(more));
        assert!(table.is_empty() && !path.exists());
        add(&mut table, &examples, &mut policy);
        assert_eq!(policy.passes, 20);
        holds(&table, &batches(&examples, 40)[0], more);
        table.append().unwrap();
        let length = table.len();
        table.append().unwrap();
        assert_eq!(contents(&path).len(), 3, "the manifest, a segment, the lock");
        for table in [&table, &open(&path, ONE)] {
            assert_eq!(table.len(), length);
            // In whatever batches they come.
            batches(&examples, 3).iter().for_each(|batch| holds(table, batch, more));
        }
        // They are not scored a second time.
        let mut again = open(&path, ONE);
        add(&mut again, &examples, &mut policy);
        assert_eq!(policy.passes, 20);
        let segment = std::fs::read(path.join("segment-00000001.safetensors")).unwrap();
        let header = u64::from_le_bytes(segment[..8].try_into().unwrap()) as usize;
        let tokens: usize = distinct(&examples).iter().map(Vec::len).sum();
        assert_eq!(segment.len(), 8 + header + length * (16 + 8) + tokens * bytes);
        let error = table.scores::<f64>(&batches(&pairs(1, 99), 1)[0]).unwrap_err().to_string();
        assert!(error.contains("it has nothing for made-up:1"), "{error}");
    }
}

/// Completions with their prompts, each once.
fn distinct(examples: &[Example]) -> Vec<Vec<u32>> {
    let rows = examples.iter().flat_map(|example| {
        let context = &example.contexts[0];
        context.completions.iter().map(|one| (context.prompt.clone(), one.ids.clone()))
    });
    rows.collect::<std::collections::BTreeSet<_>>().into_iter().map(|(_, ids)| ids).collect()
}

#[test]
fn a_file_of_version_1_is_read_and_not_added_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reference.safetensors");
    let bytes = std::fs::read(recorded("reference-v1.safetensors")).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let examples = pairs(5, 1);
    let mut table = open(&path, ONE);
    assert_eq!(table.len(), 10);
    batches(&examples, 3).iter().for_each(|batch| holds(&table, batch, 1.0 / 3.0));
    add(&mut table, &pairs(5, 2), &mut said(1.0 / 3.0));
    assert!(table.append().unwrap_err().to_string().contains("read and not added to"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let error = PrecomputedReference::open(&path, TWO, true).unwrap_err().to_string();
    assert!(error.contains("made with the weights xxh3-128:00000000000000000000000000000001"), "{error}");
    // It says nothing of the settings, and was never made in bf16.
    let error = PrecomputedReference::open(&path, &format!("{ONE}-bf16"), true).unwrap_err().to_string();
    assert!(error.contains("this run computes in bf16") && error.contains("train.dtype"), "{error}");
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(refused(&path).contains("remove the file"), "cut at {cut}");
    }
    // It has no checksum, so that a change of a value is not seen; nothing may panic.
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 0x11;
        std::fs::write(&path, &changed).unwrap();
        if let Ok(table) = PrecomputedReference::open(&path, ONE, false) {
            let _ = batches(&examples, 3).iter().map(|batch| table.scores::<f64>(batch).is_ok()).collect::<Vec<_>>();
        }
    }
}

#[test]
fn every_byte_that_changes_and_every_cut_is_noticed_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    let examples = cache(&path);
    let whole = contents(&path);
    let names: Vec<&str> = whole.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["lock", "manifest.json", "segment-00000001.safetensors", "segment-00000002.safetensors"]);
    let mut fresh = PrecomputedReference::new(ONE, &path);
    add(&mut fresh, &pairs(2, 7), &mut said(0.25));
    for (name, bytes) in &whole[1..] {
        let file = path.join(name);
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 0x11;
            for bytes in [&bytes[..i], &changed] {
                std::fs::write(&file, bytes).unwrap();
                // White space between the tokens of JSON is the one thing without meaning.
                if name == "manifest.json" && bytes.len() > i && whole[1].1[i].is_ascii_whitespace() {
                    if let Ok(table) = PrecomputedReference::open(&path, ONE, false) {
                        holds(&table, &batches(&examples, 8)[0], 0.25);
                    }
                    continue;
                }
                if name == "manifest.json" && bytes.len() + 1 == whole[1].1.len() {
                    continue; // Its last line break.
                }
                let text = refused(&path);
                assert!(text.contains(name.as_str()) || text.contains("format version"), "{name} at {i}: {text}");
                if i % 17 == 0 {
                    let before = contents(&path);
                    assert!(fresh.append().is_err(), "{name} at {i}");
                    assert_eq!(contents(&path), before, "{name} at {i}");
                }
            }
        }
        std::fs::write(&file, bytes).unwrap();
        holds(&open(&path, ONE), &batches(&examples, 8)[0], 0.25);
    }
    // What was refused is not lost: it goes there when the cache is whole again.
    fresh.append().unwrap();
    assert_eq!(open(&path, ONE).len(), fresh.len());
    holds(&open(&path, ONE), &batches(&pairs(2, 7), 2)[0], 0.25);
}

#[test]
fn a_manifest_that_is_gone_a_newer_one_and_another_directory_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    cache(&path);
    let manifest = path.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"format_version\": 2", "\"format_version\": 3")).unwrap();
    assert!(refused(&path).contains("format version 3, and this program reads up to 2; use a newer candlewick"));
    std::fs::remove_file(&manifest).unwrap();
    assert!(refused(&path).contains("manifest.json is missing beside segment-0000000"), "{}", refused(&path));
    std::fs::write(&manifest, &text).unwrap();
    std::fs::remove_file(path.join("segment-00000001.safetensors")).unwrap();
    assert!(refused(&path).contains("segment-00000001.safetensors: it is gone"), "{}", refused(&path));
    // A manifest names files of its own directory.
    let outside = text.replace("segment-00000001", "../segment-00000001");
    std::fs::write(&manifest, outside).unwrap();
    assert!(refused(&path).contains("manifest.json"), "{}", refused(&path));

    std::fs::write(directory.path().join("config.json"), "{}").unwrap();
    assert!(refused(directory.path()).contains("not a reference cache; name another directory in reference.path"));
}

#[test]
fn what_a_killed_append_leaves_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    // Before the first manifest.
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("lock"), "").unwrap();
    std::fs::write(path.join(".manifest.json.new"), "{\"form").unwrap();
    let examples = cache(&path);
    // A segment that no manifest names yet, and one half written.
    let manifest = std::fs::read(path.join("manifest.json")).unwrap();
    let mut table = open(&path, ONE);
    add(&mut table, &pairs(3, 5), &mut said(0.25));
    table.append().unwrap();
    std::fs::write(path.join("manifest.json"), &manifest).unwrap();
    std::fs::write(path.join(".segment-00000004.safetensors.new"), [1, 2, 3]).unwrap();
    let mut table = open(&path, ONE);
    holds(&table, &batches(&examples, 8)[0], 0.25);
    assert!(table.scores::<f64>(&batches(&pairs(3, 5), 3)[0]).is_err());
    // The next one takes its place.
    add(&mut table, &pairs(2, 6), &mut said(0.25));
    table.append().unwrap();
    let table = open(&path, ONE);
    holds(&table, &batches(&pairs(2, 6), 2)[0], 0.25);
    holds(&table, &batches(&examples, 8)[0], 0.25);
}

#[test]
fn references_share_a_cache_and_are_not_mistaken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    let examples = cache(&path);
    let batch = &batches(&examples, 8)[0];
    let text = PrecomputedReference::open(&path, TWO, false).unwrap_err().to_string();
    assert!(text.contains(ONE) && text.contains(TWO) && text.contains("reference.shared = true"), "{text}");
    let mut other = PrecomputedReference::open(&path, TWO, true).unwrap();
    assert!(other.is_empty() && other.scores::<f64>(batch).is_err());
    let mut policy = said(0.5);
    add(&mut other, &examples, &mut policy);
    assert_eq!(policy.passes, 4, "nothing of the other reference served");
    other.append().unwrap();
    // Now that it holds both, neither has to be told.
    holds(&open(&path, ONE), batch, 0.25);
    holds(&open(&path, TWO), batch, 0.5);
    // Damage of the one is none of the other.
    std::fs::write(path.join("segment-00000001.safetensors"), [0; 9]).unwrap();
    assert!(refused(&path).contains("segment-00000001.safetensors: 9 bytes instead of"));
    holds(&open(&path, TWO), batch, 0.5);
    // A segment under the name of another reference is none of it, whatever the manifest says.
    let third = "xxh3-128:3/xxh3-128:0";
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.join("manifest.json")).unwrap()).unwrap();
    manifest["cache"]["segments"][2]["reference"] = third.into();
    manifest["crc32"] = format!("{:08x}", crc32fast::hash(manifest["cache"].to_string().as_bytes())).into();
    std::fs::write(path.join("manifest.json"), manifest.to_string()).unwrap();
    let text = PrecomputedReference::open(&path, third, false).unwrap_err().to_string();
    assert!(text.contains("segment-00000003.safetensors: not a segment of version 2 of the reference"), "{text}");
}

#[test]
fn many_append_at_once_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    let writers = (0..4u64).map(|writer| {
        let path = path.clone();
        std::thread::spawn(move || {
            // Opened while there was nothing; every third pair is everybody's.
            let mut table = open(&path, ONE);
            for turn in 0..6 {
                let seed = if turn % 3 == 0 { turn } else { 100 * writer + turn };
                add(&mut table, &pairs(3, seed), &mut said(0.25));
                table.append().unwrap();
            }
        })
    });
    writers.collect::<Vec<_>>().into_iter().for_each(|writer| writer.join().unwrap());
    let table = open(&path, ONE);
    for writer in 0..4u64 {
        for turn in 0..6 {
            let seed = if turn % 3 == 0 { turn } else { 100 * writer + turn };
            holds(&table, &batches(&pairs(3, seed), 3)[0], 0.25);
        }
    }
    let names: Vec<String> = contents(&path).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
}

const RUN: [&str; 4] = ["data.rows=..8", "evaluation.rows=8..", "train.steps=2", "reference.kind=precomputed"];

/// Steps and evaluations, to the bit, and how many events were of rows that the reference scored.
fn finish(mut run: Run) -> (Vec<(u64, u64)>, usize) {
    let (mut numbers, mut scored) = (Vec::new(), 0);
    while let Some(event) = run.advance().unwrap() {
        match event {
            Event::Step(report) => numbers.push((report.loss.to_bits(), report.grad_norm.to_bits())),
            Event::Evaluated(report) => numbers.push((report.loss.to_bits(), 0)),
            Event::Precomputed { .. } => scored += 1,
            _ => {}
        }
    }
    (numbers, scored)
}

fn rows() -> Folder {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &folder::pairs(12));
    folder
}

#[test]
fn a_cache_made_before_serves_runs_to_the_bit() {
    let folder = rows();
    let cache = folder.at("reference.path", "cache");
    let cached = [&RUN[..], &[&cache]].concat();
    let mut work = Precomputation::start(folder.plan("unused", &cached)).unwrap();
    assert_eq!((work.steps(), work.rows()), (Some((0, 2)), 0));
    // Killed after a step, of which it was asked to keep what it had.
    assert!(work.advance().unwrap());
    work.keep().unwrap();
    let kept = work.rows();
    assert!(kept > 0);
    drop(work);
    let mut work = Precomputation::start(folder.plan("unused", &cached)).unwrap();
    assert_eq!(work.rows(), kept);
    while work.advance().unwrap() {}
    assert_eq!(work.rows(), 24);
    assert!(!folder.path("unused").exists(), "nothing is written but the cache");
    let again = Precomputation::start(folder.plan("unused", &cached)).unwrap();
    assert_eq!((again.steps(), again.rows()), (None, 24));

    let (with, scored) = finish(Run::start(folder.plan("with", &cached)).unwrap());
    assert_eq!(scored, 0);
    let (without, _) = finish(Run::start(folder.plan("without", &RUN[..3])).unwrap());
    assert_eq!(with, without);
    // Another objective and a fresh adapter have the same reference; a trained adapter has another.
    let more = [&cached[..], &["objective.type=ipo", "model.lora={rank = 2}"]].concat();
    assert_eq!(finish(Run::start(folder.plan("lora", &more)).unwrap()).1, 0);
    let adapter = folder.at("model.adapter", "lora/final");
    let trained = [&cached[..], &[&adapter]].concat();
    let text = folder.refused(&trained).to_string();
    assert!(text.contains("reference.shared = true"), "{text}");
    let shared = [&trained[..], &["reference.shared=true"]].concat();
    assert!(finish(Run::start(folder.plan("shared", &shared)).unwrap()).1 > 0);
    // That a cache is shared decides nothing of what a run computes.
    let latest = Checkpoint::latest(&checkpoints(&folder.path("shared"))).unwrap().checkpoint.unwrap();
    Run::resume(folder.plan("shared", &trained), &latest.path).unwrap();
}

#[test]
fn other_settings_of_the_same_weights_are_another_reference() {
    let folder = rows();
    let cache = folder.at("reference.path", "cache");
    let cached = [&RUN[..], &[&cache]].concat();
    finish(Run::start(folder.plan("out", &cached)).unwrap());
    let path = folder.path("model/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["rope_theta"] = 20_000.0.into();
    std::fs::write(&path, config.to_string()).unwrap();
    folder.refuses(&cached, &["other weights, adapters or settings of the model"]);
}

#[test]
fn an_objective_without_a_reference_or_with_one_that_moves_is_refused() {
    let folder = rows();
    for (objective, words) in [
        ("objective.type=sft", ["reference", "the objective of [objective] uses no reference"]),
        ("objective.type=tr_dpo", ["reference.kind", "the objective moves its reference"]),
    ] {
        let text = folder.try_plan("out", &[&RUN[..], &[objective]].concat()).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let error = Precomputation::start(folder.plan("out", &RUN[..3])).unwrap_err();
    assert!(matches!(error, Error::Config { ref key, .. } if key == "reference.kind"), "{error}");
}

#[test]
fn a_run_with_a_file_of_version_1_goes_on_with_it() {
    let folder = rows();
    let (frozen, _) = finish(Run::start(folder.plan("frozen", &RUN[..3])).unwrap());
    std::fs::copy(recorded("reference-v1-run.safetensors"), folder.path("v1.safetensors")).unwrap();
    let file = folder.at("reference.path", "v1.safetensors");
    let given = [&RUN[..], &[&file]].concat();
    let (old, scored) = finish(Run::start(folder.plan("given", &given)).unwrap());
    assert_eq!((old.len(), scored), (frozen.len(), 0));
    for ((old, _), (frozen, _)) in old.iter().zip(&frozen) {
        // Another processor may have made the file.
        assert!((f64::from_bits(*old) - f64::from_bits(*frozen)).abs() < 1e-5);
    }
    folder.refuses(
        &[&given[..], &["data.rows=..7", "evaluation.rows=10..", "data.max_length=5"]].concat(),
        &["format version 1", "not added to"],
    );
    // A run that began under an earlier version has the file where the cache would be.
    finish(Run::start(folder.plan("begun", &RUN)).unwrap());
    std::fs::remove_dir_all(folder.path("begun/reference-cache")).unwrap();
    let latest = folder.latest("begun").path;
    let gone = Run::resume(folder.plan("begun", &RUN), &latest).unwrap_err().to_string();
    assert!(gone.contains("the cache is gone"), "{gone}");
    std::fs::copy(recorded("reference-v1-run.safetensors"), folder.path("begun/reference.safetensors")).unwrap();
    Run::resume(folder.plan("begun", &RUN), &latest).unwrap();
}
