//! A packed batch, which shares prompts and has no padding, scores and trains like one in which nothing is shared and every
//! row is padded on the right.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use candle_core::WithDType;
use candlewick_kernels::{Float, Workspace};
use candlewick_model::{
    CausalLm, Config, Gradients, HeadCotangents, HeadScores, LoraConfig, Packed, Recompute, Statistics,
};
use support::Texts;

#[test]
fn a_packed_batch_is_a_padded_one_in_double_precision() {
    compare::<f64>(1e-12);
}

#[test]
fn a_packed_batch_is_a_padded_one_in_single_precision() {
    compare::<f32>(1e-5);
}

/// Compares what both give, with and without an adapter, on one and several threads.
fn compare<T: Float + WithDType>(same: f64) {
    for lora in [false, true] {
        let model = model::<T>(lora);
        let texts = Texts::new(&PAIRS, VOCABULARY);
        let (packed, padded) = (texts.shared(), texts.padded(LENGTH));
        assert_eq!((packed.targets().len(), packed.completions()), (padded.targets().len(), padded.completions()));
        assert_eq!(padded.tokens(), 2 * PAIRS.len() * LENGTH);
        assert!(packed.tokens() < padded.tokens() / 2);
        for threads in [1, 3] {
            let (scores, gradients) = step(&model, &packed, threads);
            let (expected, slopes) = step(&model, &padded, threads);
            let place = format!("lora {lora}, {threads} threads");
            for (statistic, (ours, theirs)) in columns(&scores).into_iter().zip(columns(&expected)).enumerate() {
                let gap = relative_gap(ours, theirs);
                assert!(gap < same, "{place}: statistic {statistic} differs by {gap:e}");
            }
            for i in 0..model.trainable().len() {
                let gap = relative_gap(gradients.tensor(i), slopes.tensor(i));
                assert!(gap < same, "{place}: the gradient of {} differs by {gap:e}", model.trainable().name(i));
            }
        }
    }
}

/// Scores of the targets, and gradients of a loss that weighs each of them otherwise.
fn step<T: Float + WithDType>(model: &CausalLm<T>, packed: &Packed, threads: usize) -> (HeadScores<T>, Gradients<T>) {
    let mut workspace = Workspace::new(threads);
    let (scores, saved) = model.forward(packed, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap();
    let weights_of =
        |count: usize, phase: f64| Some((0..count).map(|i| Float::from_f64((i as f64 + phase).sin())).collect());
    let weights = |phase: f64| weights_of(packed.targets().len(), phase);
    let cotangents = HeadCotangents {
        log_probs: weights(0.3),
        mean_log_probs: weights(1.1),
        log_sum_sq_probs: weights(2.2),
        entropy: weights(3.3),
        given_log_probs: weights_of(packed.given().len(), 4.4),
    };
    let mut gradients = Gradients::zeros(model.trainable());
    model.backward(packed, saved, &cotangents, &mut gradients, &mut workspace).unwrap();
    (scores, gradients)
}

const EVERYTHING: Statistics =
    Statistics { mean_log_probs: true, log_sum_sq_probs: true, entropy: true, is_top1: false, given_log_probs: true };

fn columns<T>(scores: &HeadScores<T>) -> Vec<&Vec<T>> {
    let HeadScores { log_probs, mean_log_probs, log_sum_sq_probs, entropy, given_log_probs, .. } = scores;
    let wanted = [mean_log_probs, log_sum_sq_probs, entropy, given_log_probs];
    std::iter::once(log_probs).chain(wanted.into_iter().flatten()).collect()
}

/// `‖a − b‖ / ‖b‖`
fn relative_gap<T: Float>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let whole = norm(&mut b.iter().map(|x| Float::to_f64(*x)));
    assert!(whole > 0.0, "there is nothing to compare");
    norm(&mut a.iter().zip(b).map(|(a, b)| Float::to_f64(*a) - Float::to_f64(*b))) / whole
}

/// Keys and values for two query heads each, and sizes that no block of a kernel divides.
fn model<T: Float + WithDType>(lora: bool) -> CausalLm<T> {
    let mut config = Config::llama(VOCABULARY as usize, 48, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (6, 3, 8);
    (config.intermediate_size, config.initializer_range) = (100, 0.15);
    let mut model = CausalLm::random(config, 3).unwrap();
    if lora {
        model.add_lora(&LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() }, 1).unwrap();
        // B starts at zero, where A has no gradient.
        for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
            *x += Float::from_f64(0.1 * (i as f64).sin());
        }
    }
    model
}

const VOCABULARY: u32 = 331;

/// Tokens of a prompt, of the chosen and of the rejected completion.
const PAIRS: [[usize; 3]; 5] = [[41, 22, 9], [3, 66, 17], [1, 1, 70], [27, 5, 5], [60, 3, 28]];
/// Tokens of a padded row: more than the longest has.
const LENGTH: usize = 97;
