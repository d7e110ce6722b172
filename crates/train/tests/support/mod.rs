//! A tiny model, made-up rows, and a trainer over them.
#![expect(dead_code, unreachable_pub, reason = "each test file uses a part")]

#[cfg(unix)]
pub mod device;
pub mod folder;

use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};

use candlewick_data::{Annotation, Batch, Completion, Context, Example, Origin, fill_mismatched, split_step};
use candlewick_losses::{Collective, Objective};
use candlewick_model::{CausalLm, Config, LoraConfig, Recompute};
use candlewick_train::{AdamWOptions, CausalPolicy, Element, FrozenPolicy, Reference, Trainer, TrainerOptions};

pub const VOCABULARY: usize = 24;

/// Two layers of width 16, weights far enough from zero that every gradient is.
pub fn model<T: Element>(seed: u64) -> CausalLm<T> {
    let mut config = Config::llama(VOCABULARY, 16, 2);
    config.initializer_range = 0.2;
    CausalLm::random(config, seed).unwrap()
}

pub fn lora_model<T: Element>(seed: u64) -> CausalLm<T> {
    let mut model = model(seed);
    model.add_lora(&LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() }, seed).unwrap();
    model
}

pub fn options(learning_rate: f64) -> TrainerOptions {
    TrainerOptions {
        optimizer: AdamWOptions { learning_rate, ..AdamWOptions::default() }.into(),
        total_steps: 100,
        ..TrainerOptions::default()
    }
}

/// A trainer whose reference is a frozen copy, where the objective needs one.
pub fn trainer<T: Element>(
    model: CausalLm<T>,
    objective: impl Objective + 'static,
    options: TrainerOptions,
) -> Trainer<CausalPolicy<T>> {
    let reference = match objective.needs().reference {
        true => Reference::Frozen(Box::new(FrozenPolicy::new(model.frozen_copy(), 1))),
        false => Reference::None,
    };
    Trainer::new(CausalPolicy::new(model, Recompute::Nothing, 1), reference, Box::new(objective), options).unwrap()
}

/// Pairs of varied lengths, deterministic in `seed`.
pub fn pairs(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let prompt = random.ids(1, 5);
            let completions = [random.ids(1, 6), random.ids(1, 6)].map(completion).into();
            example(i, Context { prompt_scored: vec![false; prompt.len()], prompt, completions }, Annotation::Pair)
        })
        .collect()
}

/// Completions with verdicts, both kinds.
pub fn labelled(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let mut prompt = random.ids(1, 5);
            // Distinct prompts, so that every step can be mismatched.
            prompt.insert(0, (i % VOCABULARY) as u32);
            let completions = vec![completion(random.ids(1, 6))];
            let context = Context { prompt_scored: vec![false; prompt.len()], prompt, completions };
            example(i, context, Annotation::Labelled { desirable: i % 3 != 0 })
        })
        .collect()
}

/// Micro-batches of `size` examples each.
pub fn batches(examples: &[Example], size: usize) -> Vec<Batch> {
    split_step(examples.to_vec(), size)
}

/// The same with mismatched completions over the whole step.
pub fn mismatched_batches(examples: &[Example], size: usize) -> Vec<Batch> {
    let mut batches = batches(examples, size);
    fill_mismatched(&mut batches, None).unwrap();
    batches
}

pub fn example(line: usize, context: Context, annotation: Annotation) -> Example {
    Example::new(Origin::line("made-up".into(), line as u64 + 1), vec![context], annotation)
}

pub fn completion(ids: Vec<u32>) -> Completion {
    Completion::all_scored(ids)
}

/// The bits of every trained number.
pub fn bits<T: Element>(trainer: &Trainer<CausalPolicy<T>>) -> Vec<u64> {
    use candlewick_kernels::Float;
    trainer.policy().model().trainable().data().iter().map(|x| Float::to_f64(*x).to_bits()).collect()
}

/// The largest |a − b| / max(1, |b|).
pub fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}

/// Numbers that are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub fn ids(&mut self, least: u64, most: u64) -> Vec<u32> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| self.below(VOCABULARY as u64) as u32).collect()
    }
}

/// Ranks that are threads of one process. Each adds in the order of ranks, so all get the same bits.
#[derive(Debug, Clone)]
pub struct Threads {
    rank: usize,
    parts: Arc<Mutex<Vec<Vec<f64>>>>,
    barrier: Arc<Barrier>,
}

impl Threads {
    pub fn new(ranks: usize) -> Vec<Self> {
        let (parts, barrier) = (Arc::new(Mutex::new(vec![Vec::new(); ranks])), Arc::new(Barrier::new(ranks)));
        (0..ranks).map(|rank| Self { rank, parts: parts.clone(), barrier: barrier.clone() }).collect()
    }
}

impl Collective for Threads {
    fn sum(&self, values: &mut [f64]) -> candlewick_losses::Result<()> {
        self.parts.lock().unwrap()[self.rank] = values.to_vec();
        self.barrier.wait();
        {
            let parts = self.parts.lock().unwrap();
            values.iter_mut().enumerate().for_each(|(i, value)| *value = parts.iter().map(|part| part[i]).sum());
        }
        self.barrier.wait();
        Ok(())
    }

    fn ranks(&self) -> usize {
        self.parts.lock().unwrap().len()
    }

    fn rank(&self) -> usize {
        self.rank
    }
}

/// A model directory with a tokenizer of whole words `w0`, `w1`, ….
pub fn write_model(directory: &Path, seed: u64) {
    std::fs::create_dir_all(directory).unwrap();
    model::<f32>(seed).save(directory).unwrap();
    let names = (0..VOCABULARY).map(|id| match id {
        0 => "<unk>".to_owned(),
        1 => "<s>".to_owned(),
        2 => "</s>".to_owned(),
        id => format!("w{id}"),
    });
    let vocab: serde_json::Map<String, serde_json::Value> =
        names.enumerate().map(|(id, name)| (name, serde_json::json!(id))).collect();
    let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings =
        serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true});
    std::fs::write(directory.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

/// A file of pairs in words of [`write_model`].
pub fn write_pairs(path: &Path, count: usize, seed: u64) {
    let mut random = Random(seed);
    let mut words = |least, most| {
        let words: Vec<String> = random.ids(least, most).into_iter().map(|id| format!("w{}", id.max(3))).collect();
        words.join(" ")
    };
    let lines = (0..count).map(|i| {
        // The first word numbers the row, so that no two rows or sides are equal.
        let (prompt, chosen, rejected) = (words(1, 4), words(1, 5), words(1, 5));
        serde_json::json!({"prompt": format!("w{} {prompt}", 3 + i % 20), "chosen": format!(" w3 {chosen}"), "rejected": format!(" w4 {rejected}")}).to_string() + "\n"
    });
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

/// A file of completions with verdicts; the wanted ones begin with another word than the others.
pub fn write_labelled(path: &Path, count: usize, seed: u64) {
    let mut random = Random(seed);
    let lines = (0..count).map(|i| {
        let (label, first) = if i % 2 == 0 { (true, "w5") } else { (false, "w6") };
        let last = 7 + random.below(10);
        serde_json::json!({"prompt": format!("w{} w7", 3 + i % 20), "completion": format!(" {first} w{last}"), "label": label}).to_string() + "\n"
    });
    std::fs::write(path, lines.collect::<String>()).unwrap();
}
