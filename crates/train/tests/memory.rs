//! A run of many steps holds what it held after its first ones.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod support;

use candlewick_data::{Annotation, Batch, Context, split_step};
use candlewick_losses::Dpo;
use candlewick_model::{CausalLm, Config, LoraConfig};
use support::{completion, example, options, trainer};

const VOCABULARY: usize = 1500;
const STEPS: usize = 100;
/// The largest step comes first, then others of down to two thirds of it.
const LENGTHS: [usize; 5] = [24, 16, 20, 18, 22];

/// Four pairs; prompt and completions are about so long.
fn step(number: usize) -> Vec<Batch> {
    let length = LENGTHS[number % LENGTHS.len()];
    let ids = |from: usize, count: usize| (0..count).map(|i| ((from + 7 * i) % VOCABULARY) as u32).collect::<Vec<_>>();
    let pairs = (0..4).map(|i| {
        let prompt = ids(number + i, length);
        let completions = [1, 2].map(|side| completion(ids(13 * number + 5 * side + i, length - side))).into();
        example(i, Context { prompt_scored: vec![false; prompt.len()], prompt, completions }, Annotation::Pair)
    });
    split_step(pairs.collect(), 4)
}

/// Resident bytes now; nothing where the system does not tell.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn stays_flat(model: CausalLm<f32>, name: &str) {
    let mut trainer = trainer(model, Dpo::default(), options(1e-4));
    let mut after_three = None;
    for number in 0..STEPS {
        trainer.step(&step(number)).unwrap();
        if number == 2 {
            after_three = resident();
        }
    }
    let (Some(early), Some(late)) = (after_three, resident()) else {
        eprintln!("{name}: this system does not tell how much memory is resident; nothing was compared");
        return;
    };
    // One buffer of activations kept of each step would be 5 MB.
    let grown = late.saturating_sub(early);
    assert!(grown < 3 << 20, "{name}: {early} bytes after three steps, {late} after {STEPS}");
}

/// In one test: two at once would measure each other.
#[test]
fn resident_memory_is_flat_after_the_third_step() {
    let fresh = || CausalLm::<f32>::random(Config::llama(VOCABULARY, 48, 2), 1).unwrap();
    stays_flat(fresh(), "every weight");
    let mut adapted = fresh();
    adapted.add_lora(&LoraConfig { rank: 4, ..LoraConfig::default() }, 1).unwrap();
    stays_flat(adapted, "an adapter");
}
