//! The memory of a device that a run is planned to take beside what its buffers had: on a GPU where there is one, else emulated.
#![cfg(unix)]
#![expect(clippy::unwrap_used, unsafe_code, reason = "helpers of tests, which load a library")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candlewick_kernels::{Cuda, Order};
use candlewick_model::{CausalLm, Config};
use candlewick_testkit::{emulated_kernels, needs_gpu};
use candlewick_train::{DeviceMemory, Hardware, MemoryPlan, Plan, Run};
use serde_json::json;
use support::VOCABULARY;
use support::folder::Folder;

/// A GPU, or the emulated one; its buffers are counted by themselves.
fn device() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(device) => return Some(device),
        Err(error) if needs_gpu() => panic!("{error}"),
        Err(_) => {}
    }
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| emulated_kernels(Path::new(env!("CARGO_TARGET_TMPDIR")), &[]).unwrap());
    // SAFETY: made of the kernels' sources.
    library.as_ref().map(|library| unsafe { Cuda::emulated(library, Order::Ascending) }.unwrap())
}

/// A small model beside rows of many lengths.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut config = Config::llama(VOCABULARY, 32, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 8);
    CausalLm::<f32>::random(config, 1).unwrap().save(&folder.path("model")).unwrap();
    let text =
        |from: usize, words: usize| (0..words).map(|i| format!(" w{}", 3 + (from + 5 * i) % 20)).collect::<String>();
    let row = |i: usize| {
        let (prompt, chosen, rejected) = (text(i, 4 + i % 5), text(7 * i + 1, 5 + i % 7), text(3 * i + 2, 6 + i % 4));
        json!({"prompt": prompt.trim_start(), "chosen": chosen, "rejected": rejected})
    };
    let rows: Vec<_> = (0..14).map(row).collect();
    folder.lines("rows.jsonl", &rows[..10]);
    folder.lines("held-out.jsonl", &rows[10..]);
    folder
}

const LORA: &str = "model.lora.rank=8";

fn on_device<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train.device=cuda"], more].concat()
}

/// Runs a plan to its end; the most bytes that its buffers had.
fn most_used(device: &Cuda, plan: Plan) -> u64 {
    let mut run = Run::start_on(&Hardware::on(device), plan).unwrap();
    while run.advance().unwrap().is_some() {}
    device.memory().unwrap().most_used as u64
}

fn planned(plan: &Plan) -> DeviceMemory {
    MemoryPlan::of(plan).unwrap().device.unwrap()
}

/// What does not follow from how large batches are.
fn fixed(memory: &DeviceMemory) -> u64 {
    let DeviceMemory { weights, adapter, masters, reference, gradients, optimizer, .. } = memory;
    weights + adapter + masters + reference + gradients + optimizer
}

#[test]
fn a_run_takes_what_was_planned() {
    let folder = folder();
    let held_out = folder.at("evaluation.path", "held-out.jsonl");
    let frozen = folder.at("reference.path", "model");
    let kinds: [&[&str]; 9] = [
        &[],
        &["train.dtype=f32", "train.recompute=layers"],
        &["train.recompute=layers", "reference.kind=precomputed"],
        &["train.dtype=f32", "objective.type=simpo", "train.tokens=60"],
        &["train.batch_size=2", "train.micro_batches=2", "evaluation.batch_size=4"],
        &[LORA],
        &[LORA, "train.dtype=f32"],
        &[LORA, "reference.kind=frozen"],
        &[LORA, "reference.kind=frozen", &frozen],
    ];
    for (number, kind) in kinds.iter().enumerate() {
        let Some(device) = device() else { return };
        let plan = folder.plan(&format!("out-{number}"), &[&on_device(kind)[..], &[&held_out]].concat());
        let memory = planned(&plan);
        let (planned, most) = (memory.total(), most_used(&device, plan));
        let (passes, had) = (planned - fixed(&memory), most - fixed(&memory));
        assert!(planned >= most, "{kind:?}: {planned} bytes are planned, and there were {most}: {memory:?}");
        // What is told of a batch is planned for the worst of all batches of its size.
        assert!(
            passes as f64 <= 1.15 * had as f64,
            "{kind:?}: {passes} bytes are planned for passes, and there were {had}"
        );
    }
}
