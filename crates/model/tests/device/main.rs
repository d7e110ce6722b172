//! The model on a device beside the model on the host: on a GPU where there is one, else with its kernels emulated.
//!
//! Without a GPU the tests need a C++ compiler; without either they say so and pass.
#![cfg(unix)]
#![expect(clippy::unwrap_used, unsafe_code, reason = "helpers of tests, which load a library")]

mod architectures;
mod padded;
mod refusals;
mod scores;
mod sizes;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::OnceLock;

use candle_core::WithDType;
use candlewick_kernels::{Cuda, Element, Float, Order, Workspace};
use candlewick_model::{
    Adapter, CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, HeadScores, LoraConfig, Packed,
    Recompute, Sampling, Statistics,
};
use candlewick_testkit::{emulated_kernels, needs_gpu};
use half::bf16;

const EVERYTHING: Statistics =
    Statistics { mean_log_probs: true, log_sum_sq_probs: true, entropy: true, is_top1: true, given_log_probs: true };
const LOG_PROBS: Statistics = Statistics {
    mean_log_probs: false,
    log_sum_sq_probs: false,
    entropy: false,
    is_top1: false,
    given_log_probs: false,
};

/// A device whose memory is counted apart: a GPU, or the emulated one.
fn device() -> Option<Cuda> {
    static LIBRARY: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    match Cuda::new(0) {
        Ok(device) => return Some(device),
        Err(error) if needs_gpu() => panic!("{error}"),
        Err(_) => {}
    }
    let library = LIBRARY.get_or_init(|| emulated_kernels(Path::new(env!("CARGO_TARGET_TMPDIR")), &[]).unwrap());
    // SAFETY: made of the kernels' sources.
    library.as_ref().map(|library| unsafe { Cuda::emulated(library, Order::Ascending) }.unwrap())
}

/// Heads of 8 elements, two queries to a key.
fn config(tied: bool) -> Config {
    let mut config = Config::llama(23, 32, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 8);
    config.tie_word_embeddings = tied;
    // Large enough that a wrong gradient cannot hide behind tiny weights.
    config.initializer_range = 0.3;
    config
}

fn model(tied: bool) -> CausalLm<f64> {
    CausalLm::random(config(tied), 5).unwrap()
}

/// With an adapter of four linears whose B is not zero.
fn adapted() -> CausalLm<f64> {
    let mut model = model(false);
    let targets = ["q_proj", "v_proj", "gate_proj", "down_proj"].map(str::to_owned).to_vec();
    model.add_lora(&LoraConfig { rank: 8, targets, ..LoraConfig::default() }, 3).unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.05 * (i as f64).sin();
    }
    model
}

/// Two contexts; the first has two completions, one of them partly scored, and a scored prompt token. Three further tokens
/// are asked for at every target.
fn batch() -> Packed {
    let packed = Packed::new(&[
        ContextIds {
            prompt: &[1, 7, 9, 4],
            prompt_scored: &[false, false, true, false],
            completions: vec![
                CompletionIds::all_scored(&[5, 6, 2]),
                CompletionIds { ids: &[8, 8, 11, 2], scored: &[true, false, true, true] },
            ],
        },
        ContextIds { prompt: &[1, 3], prompt_scored: &[], completions: vec![CompletionIds::all_scored(&[22, 2])] },
    ])
    .unwrap();
    let ids = packed.targets().iter().enumerate().flat_map(|(i, target)| [target.id, (5 * i as u32 + 3) % 23, 4]);
    let ids = ids.collect();
    packed.with_given(ids, 3).unwrap()
}

fn cotangents<W: Float>(packed: &Packed, want: Statistics) -> HeadCotangents<W> {
    let count = packed.targets().len();
    let weights = |wanted: bool, count: usize, phase: f64| {
        wanted.then(|| (0..count).map(|i| W::from_f64((i as f64 + phase).sin())).collect())
    };
    HeadCotangents {
        log_probs: weights(true, count, 0.3),
        mean_log_probs: weights(want.mean_log_probs, count, 1.1),
        log_sum_sq_probs: weights(want.log_sum_sq_probs, count, 2.2),
        entropy: weights(want.entropy, count, 3.3),
        given_log_probs: weights(want.given_log_probs, packed.given().len(), 4.4),
    }
}

/// Scores and gradients, in f64.
fn step<T: Element>(
    model: &CausalLm<T>,
    packed: &Packed,
    want: Statistics,
    recompute: Recompute,
    workspace: &mut Workspace,
) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (scores, saved) = model.forward(packed, want, recompute, workspace).unwrap();
    let mut gradients = Gradients::<T::Wide>::beside(model.trainable()).unwrap();
    let d = cotangents(packed, want);
    model.backward(packed, saved, &d, &mut gradients, workspace).unwrap();
    (widened(scores), gradients.to_host().unwrap().into_iter().map(Float::to_f64).collect())
}

fn widened<W: Float>(scores: HeadScores<W>) -> Vec<Vec<f64>> {
    let HeadScores { log_probs, mean_log_probs, log_sum_sq_probs, entropy, is_top1, given_log_probs } = scores;
    let all = [Some(log_probs), mean_log_probs, log_sum_sq_probs, entropy, is_top1, given_log_probs];
    all.into_iter().flatten().map(|scores| scores.into_iter().map(Float::to_f64).collect()).collect()
}

/// ‖a − b‖ / ‖b‖, 0 where both are 0.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(f64::MIN_POSITIVE)
}

/// A step in `T` on the device beside one of the same weights in f64 on the host.
fn check<T: Element>(host: &CausalLm<f64>, want: Statistics, recompute: Recompute, tolerance: f64)
where
    T::Wide: WithDType,
{
    let Some(device) = device() else { return };
    let (mut on_host, mut on_device) = (Workspace::new(1), Workspace::new(1).on(&device));
    let wide = host.convert::<T::Wide>().unwrap();
    let model = wide.to_device::<T>(&device, &mut on_device).unwrap();
    let packed = batch();
    // The weights as the device has rounded them.
    let host = model.to_host().unwrap().convert::<f64>().unwrap();
    let (scores, gradients) = step(&host, &packed, want, recompute, &mut on_host);
    let (found, pulled) = step(&model, &packed, want, recompute, &mut on_device);
    for (found, expected) in found.iter().zip(&scores) {
        assert!(distance(found, expected) < tolerance, "{found:?} {expected:?}");
    }
    let far = distance(&pulled, &gradients);
    assert!(far < tolerance, "gradients: {far}");
    // Every tensor by itself: a small one hides behind large ones.
    let trained = host.trainable();
    for i in 0..trained.len() {
        let far = distance(&pulled[trained.range(i)], &gradients[trained.range(i)]);
        assert!(far < 4.0 * tolerance, "{}: {far}", trained.name(i));
    }
    // The same bits again, and without keeping anything.
    let (again, pulled_again) = step(&model, &packed, want, recompute, &mut on_device);
    assert!(again == found && pulled_again == pulled, "another run has other bits");
    let scored = model.score(&packed, want, Adapter::On, &mut on_device).unwrap();
    assert!(widened(scored) == found, "scores that nothing is kept of have other bits");
}

const EXACT: f64 = 1e-12;
const SINGLE: f64 = 2e-5;
/// bf16 keeps 8 bits, and some forty roundings follow each other.
const BRAIN: f64 = 0.05;

#[test]
fn all_weights_in_double_precision() {
    for (tied, want, recompute) in [
        (false, EVERYTHING, Recompute::Nothing),
        (true, EVERYTHING, Recompute::Layers),
        (false, LOG_PROBS, Recompute::Layers),
        (true, LOG_PROBS, Recompute::Nothing),
    ] {
        check::<f64>(&model(tied), want, recompute, EXACT);
    }
}

#[test]
fn all_weights_in_single_precision() {
    check::<f32>(&model(true), EVERYTHING, Recompute::Nothing, SINGLE);
    check::<f32>(&model(false), LOG_PROBS, Recompute::Layers, SINGLE);
}

#[test]
fn all_weights_in_bf16() {
    check::<bf16>(&model(false), LOG_PROBS, Recompute::Nothing, BRAIN);
    check::<bf16>(&model(true), LOG_PROBS, Recompute::Layers, BRAIN);
}

#[test]
fn an_adapter() {
    check::<f64>(&adapted(), EVERYTHING, Recompute::Nothing, EXACT);
    check::<f64>(&adapted(), LOG_PROBS, Recompute::Layers, EXACT);
    check::<f32>(&adapted(), LOG_PROBS, Recompute::Nothing, SINGLE);
    check::<bf16>(&adapted(), LOG_PROBS, Recompute::Nothing, BRAIN);
}

#[test]
fn a_fresh_adapter_changes_no_bit() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let mut host = model(false).convert::<f32>().unwrap();
    host.add_lora(&LoraConfig { rank: 8, ..LoraConfig::default() }, 1).unwrap();
    let model = host.to_device::<bf16>(&device, &mut workspace).unwrap();
    let mut score = |adapter| model.score(&batch(), LOG_PROBS, adapter, &mut workspace).unwrap().log_probs;
    assert_eq!(score(Adapter::On), score(Adapter::Off));
}

#[test]
fn a_shared_prompt_is_one_that_is_not() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let model = model(false).to_device::<f64>(&device, &mut workspace).unwrap();
    let context = |completions| ContextIds { prompt: &[1, 7, 9, 4], prompt_scored: &[], completions };
    let completion = |ids| CompletionIds::all_scored(ids);
    let (one, other) = (&[5, 6, 2][..], &[8, 8, 11, 2][..]);
    let shared = Packed::new(&[context(vec![completion(one), completion(other)])]).unwrap();
    let apart = Packed::new(&[context(vec![completion(one)]), context(vec![completion(other)])]).unwrap();
    let (scores, gradients) = step(&model, &shared, LOG_PROBS, Recompute::Nothing, &mut workspace);
    let (scores_apart, gradients_apart) = step(&model, &apart, LOG_PROBS, Recompute::Nothing, &mut workspace);
    assert!(distance(&scores[0], &scores_apart[0]) < EXACT);
    assert!(distance(&gradients, &gradients_apart) < EXACT);
}

#[test]
fn greedy_texts_are_those_of_the_host() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    for host in [model(true), adapted()] {
        let model = host.to_device::<f64>(&device, &mut workspace).unwrap();
        let sampling = Sampling { max_new_tokens: 9, ..Sampling::default() };
        let expected = host.generate(&[1, 7, 9], &sampling, &mut Workspace::new(1)).unwrap();
        assert_eq!(model.generate(&[1, 7, 9], &sampling, &mut workspace).unwrap(), expected);
    }
}

#[test]
fn weights_come_back_as_they_went() {
    let Some(device) = device() else { return };
    let mut workspace = Workspace::new(1).on(&device);
    let host = adapted().convert::<f32>().unwrap();
    let model = host.to_device::<f32>(&device, &mut workspace).unwrap();
    let back = model.to_host().unwrap();
    assert_eq!(back.parameters().data(), host.parameters().data());
    assert_eq!(back.adapter().unwrap().data(), host.adapter().unwrap().data());
}
