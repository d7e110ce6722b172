//! The walk through sizes ends with the memory that a device has after the passes themselves.
use candlewick_kernels::{Cuda, Element, Workspace, bf16};
use candlewick_model::{
    Adapter, BatchSize, CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, ModelSize,
    Packed, Pool, Recompute, ScoreModel, ScoredAt, Statistics,
};

use super::{LOG_PROBS, config, device};

/// Pairs whose prompt and completions have the given lengths.
fn batch(lengths: &[[usize; 3]]) -> Packed {
    let ids: Vec<u32> = (0..60).map(|i| 1 + i % 22).collect();
    let contexts = lengths.iter().map(|&[prompt, chosen, rejected]| ContextIds {
        prompt: &ids[..prompt],
        prompt_scored: &[],
        completions: [chosen, rejected].map(|length| CompletionIds::all_scored(&ids[..length])).into(),
    });
    Packed::new(&contexts.collect::<Vec<_>>()).unwrap()
}

fn batches() -> [Packed; 5] {
    let lengths: [&[[usize; 3]]; 5] =
        [&[[5, 3, 4]], &[[9, 14, 2], [3, 6, 8]], &[[4, 2, 2]], &[[30, 9, 12], [3, 3, 3], [8, 5, 5]], &[[7, 9, 3]]];
    lengths.map(batch)
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 8, targets: ["v_proj", "up_proj"].map(str::to_owned).into(), ..LoraConfig::default() }
}

/// Trains and scores batch after batch by `pass`, beside the walk.
fn check(size: &ModelSize, recompute: Recompute, device: &Cuda, mut pool: Pool, mut pass: impl FnMut(&Packed, bool)) {
    let loaded = device.memory().unwrap();
    for (i, packed) in batches().iter().enumerate() {
        let batch = BatchSize::of(packed);
        for trains in [true, false] {
            pass(packed, trains);
            match trains {
                true => size.train(batch, LOG_PROBS, recompute, 1, &mut pool),
                false => size.score(batch, LOG_PROBS, Adapter::On, 1, &mut pool),
            }
            let memory = device.memory().unwrap();
            let place = format!("{recompute:?}, batch {i}, {}", if trains { "trained" } else { "scored" });
            assert_eq!(pool.now(), memory.used - loaded.used, "{place}");
            // What kernels read of a batch is planned for the worst of all batches of its size.
            let planned = loaded.most_used.max(loaded.used + pool.most_elements());
            assert!(planned >= memory.most_used, "{place}: {memory:?}, and {planned} planned at most");
        }
    }
}

fn check_causal<T: Element>(recompute: Recompute, with_adapter: bool)
where
    T::Wide: candle_core::WithDType,
{
    let Some(device) = device() else { return };
    let (mut host, mut size) = (CausalLm::<T::Wide>::random(config(true), 5).unwrap(), ModelSize::new(config(true)));
    if with_adapter {
        host.add_lora(&lora(), 3).unwrap();
        size = size.with_lora(&lora());
    }
    let mut workspace = Workspace::new(1).on(&device);
    let model = host.to_device::<T>(&device, &mut workspace).unwrap();
    let mut workspace = Workspace::new(1).on(&device);
    let mut gradients = Gradients::<T::Wide>::beside(model.trainable()).unwrap();
    check(&size, recompute, &device, Pool::on_device::<T>(), |packed, trains| {
        if !trains {
            model.score(packed, LOG_PROBS, Adapter::On, &mut workspace).unwrap();
            return;
        }
        let (scores, saved) = model.forward(packed, Statistics::default(), recompute, &mut workspace).unwrap();
        let d = HeadCotangents { log_probs: Some(scores.log_probs), ..HeadCotangents::default() };
        model.backward(packed, saved, &d, &mut gradients, &mut workspace).unwrap();
    });
}

fn check_scores<T: Element>(recompute: Recompute, with_adapter: bool)
where
    T::Wide: candle_core::WithDType,
{
    let Some(device) = device() else { return };
    let names = ["reward".to_owned(), "cost".to_owned()];
    let mut host = ScoreModel::<T::Wide>::random(config(true), &names, 5).unwrap();
    let mut size = ModelSize::of_scores(config(true), 2);
    if with_adapter {
        host.add_lora(&lora(), 3).unwrap();
        size = size.with_lora(&lora());
    }
    let mut workspace = Workspace::new(1).on(&device);
    let model = host.to_device::<T>(&device, &mut workspace).unwrap();
    let mut workspace = Workspace::new(1).on(&device);
    let mut gradients = Gradients::<T::Wide>::beside(model.trainable()).unwrap();
    let at = ScoredAt::Completions;
    check(&size, recompute, &device, Pool::on_device::<T>(), |packed, trains| {
        if !trains {
            model.score(packed, at, Adapter::On, &mut workspace).unwrap();
            return;
        }
        let (values, saved) = model.forward(packed, at, recompute, &mut workspace).unwrap();
        model.backward(packed, saved, &values, &mut gradients, &mut workspace).unwrap();
    });
}

#[test]
fn a_pool_ends_with_the_memory_of_a_device() {
    check_causal::<bf16>(Recompute::Nothing, false);
    check_causal::<f32>(Recompute::Layers, false);
    check_causal::<bf16>(Recompute::Nothing, true);
    check_causal::<f32>(Recompute::Layers, true);
}

#[test]
fn sizes_of_score_models_are_theirs_too() {
    check_scores::<bf16>(Recompute::Nothing, false);
    check_scores::<f32>(Recompute::Layers, false);
    check_scores::<bf16>(Recompute::Layers, true);
    check_scores::<f32>(Recompute::Nothing, true);
}

/// A reference of other sizes works in the policy's memory, and its scores are read after the pass that is queued behind it.
#[test]
fn two_models_have_one_pool() {
    let Some(device) = device() else { return };
    let mut other = Config::llama(23, 48, 3);
    (other.num_attention_heads, other.num_key_value_heads, other.head_dim) = (2, 1, 16);
    let sizes = [config(true), other.clone()].map(ModelSize::new);
    let mut workspace = Workspace::new(1).on(&device);
    let [model, other] = [config(true), other]
        .map(|config| CausalLm::<f32>::random(config, 5).unwrap().to_device::<bf16>(&device, &mut workspace).unwrap());
    let mut workspace = Workspace::new(1).on(&device);
    let mut gradients = Gradients::<f32>::beside(model.trainable()).unwrap();
    let (loaded, mut pool) = (device.memory().unwrap(), Pool::on_device::<bf16>());
    for (i, packed) in batches().iter().enumerate() {
        let asked = other.queue_scores(packed, LOG_PROBS, Adapter::On, &mut workspace).unwrap();
        let (scores, saved) = model.forward(packed, LOG_PROBS, Recompute::Nothing, &mut workspace).unwrap();
        let alone = other.score(packed, LOG_PROBS, Adapter::On, &mut Workspace::new(1).on(&device)).unwrap();
        assert_eq!(asked.read().unwrap().log_probs, alone.log_probs, "batch {i}");
        let d = HeadCotangents { log_probs: Some(scores.log_probs), ..HeadCotangents::default() };
        model.backward(packed, saved, &d, &mut gradients, &mut workspace).unwrap();

        let batch = BatchSize::of(packed);
        pool.by_other(|pool| sizes[1].score(batch, LOG_PROBS, Adapter::On, 1, pool));
        pool.beside_scores(batch, LOG_PROBS, |pool| sizes[0].train(batch, LOG_PROBS, Recompute::Nothing, 1, pool));
        assert_eq!(pool.now(), device.memory().unwrap().used - loaded.used, "batch {i}");
    }
}
