//! A packed batch, which shares prompts and has no padding, scores and trains like one in which nothing is shared and every
//! row is padded on the right.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::WithDType;
use candlewick_kernels::{Float, Workspace};
use candlewick_model::{
    CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, HeadScores, LoraConfig, Packed, Recompute,
    Statistics,
};

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
        let (packed, padded) = (packed(), padded());
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

/// Tokens of a prompt, of the chosen and of the rejected completion; of the second and fourth prompt a token is scored.
const PAIRS: [[usize; 3]; 5] = [[41, 22, 9], [3, 66, 17], [1, 1, 70], [27, 5, 5], [60, 3, 28]];
/// Tokens of a padded row: more than the longest has.
const LENGTH: usize = 97;
const PADDING: u32 = 0;

/// Rows of the pairs: the tokens of the prompt and of the completion, each with whether it is scored.
struct Text {
    prompt: (Vec<u32>, Vec<bool>),
    completions: [(Vec<u32>, Vec<bool>); 2],
}

fn texts() -> Vec<Text> {
    let mut state = 7u64;
    let mut ids = |count: usize| -> Vec<u32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            1 + (state >> 33) as u32 % (VOCABULARY - 1)
        };
        (0..count).map(|_| next()).collect()
    };
    let text = |(i, [prompt, chosen, rejected]): (usize, [usize; 3])| Text {
        prompt: (ids(prompt), (0..prompt).map(|place| i % 2 == 1 && place == prompt / 2).collect()),
        completions: [chosen, rejected].map(|length| {
            // Some hold tokens that are not scored, the first or the last among them.
            (ids(length), (0..length).map(|place| length < 3 || (place + i) % 7 != 0).collect())
        }),
    };
    PAIRS.into_iter().enumerate().map(text).collect()
}

/// Each prompt once, with both completions after it.
fn packed() -> Packed {
    let texts = texts();
    let contexts: Vec<ContextIds<'_>> = texts
        .iter()
        .map(|Text { prompt: (prompt, prompt_scored), completions }| ContextIds {
            prompt,
            prompt_scored,
            completions: completions.iter().map(|(ids, scored)| CompletionIds { ids, scored }).collect(),
        })
        .collect();
    with_given(Packed::new(&contexts).unwrap())
}

/// Every completion after a prompt of its own, with tokens that are not scored behind it up to one length.
fn padded() -> Packed {
    let mut texts = texts();
    for Text { prompt: (prompt, _), completions } in &mut texts {
        for (ids, scored) in completions {
            ids.resize(LENGTH - prompt.len(), PADDING);
            scored.resize(LENGTH - prompt.len(), false);
        }
    }
    let contexts: Vec<ContextIds<'_>> = texts
        .iter()
        .flat_map(|Text { prompt: (prompt, prompt_scored), completions }| {
            completions.iter().map(move |(ids, scored)| ContextIds {
                prompt,
                prompt_scored,
                completions: vec![CompletionIds { ids, scored }],
            })
        })
        .collect();
    with_given(Packed::new(&contexts).unwrap())
}

/// Two further tokens at every target.
fn with_given(packed: Packed) -> Packed {
    let ids =
        packed.targets().iter().enumerate().flat_map(|(i, target)| [(i as u32 * 5 + 3) % VOCABULARY, target.id / 2]);
    let ids = ids.collect();
    packed.with_given(ids, 2).unwrap()
}
