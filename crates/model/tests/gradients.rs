//! The written-out backward of the whole model against central differences, in f64.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_kernels::Workspace;
use candlewick_model::{
    CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, HeadScores, LoraConfig, Packed, Recompute,
    Statistics,
};

const EVERYTHING: Statistics =
    Statistics { mean_log_probs: true, log_sum_sq_probs: true, entropy: true, is_top1: true };

fn config(tied: bool) -> Config {
    let mut config = Config::llama(23, 16, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 4);
    config.tie_word_embeddings = tied;
    // Large enough that a wrong gradient cannot hide behind tiny weights.
    config.initializer_range = 0.4;
    config
}

/// Two contexts; the first has two completions, one of them partly scored, and a scored prompt token.
fn batch() -> Packed {
    Packed::new(&[
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
    .unwrap()
}

/// A loss that touches every differentiable output with weights that differ from target to target.
fn loss(scores: &HeadScores<f64>) -> f64 {
    let sum = |values: &[f64], phase: f64| -> f64 {
        values.iter().enumerate().map(|(i, x)| (i as f64 + phase).sin() * x).sum()
    };
    sum(&scores.log_probs, 0.3)
        + sum(scores.mean_log_probs.as_ref().unwrap(), 1.1) * 0.5
        + sum(scores.log_sum_sq_probs.as_ref().unwrap(), 2.2) * 0.7
        + sum(scores.entropy.as_ref().unwrap(), 3.3) * 0.9
}

fn cotangents(count: usize) -> HeadCotangents<f64> {
    let weights = |phase: f64, scale: f64| Some((0..count).map(|i| (i as f64 + phase).sin() * scale).collect());
    HeadCotangents {
        log_probs: weights(0.3, 1.0),
        mean_log_probs: weights(1.1, 0.5),
        log_sum_sq_probs: weights(2.2, 0.7),
        entropy: weights(3.3, 0.9),
    }
}

fn gradients(model: &CausalLm<f64>, packed: &Packed, recompute: Recompute) -> Gradients<f64> {
    let mut workspace = Workspace::new(1);
    let mut gradients = Gradients::zeros(model.trainable());
    let (scores, saved) = model.forward(packed, EVERYTHING, recompute, &mut workspace).unwrap();
    model.backward(packed, saved, &cotangents(scores.log_probs.len()), &mut gradients, &mut workspace).unwrap();
    gradients
}

fn check_against_differences(mut model: CausalLm<f64>) {
    let packed = batch();
    let analytic = gradients(&model, &packed, Recompute::Nothing);
    let recomputed = gradients(&model, &packed, Recompute::Layers);
    assert_eq!(analytic.data(), recomputed.data(), "recomputation must not change a bit");

    let mut workspace = Workspace::new(1);
    let step = 1e-5;
    for parameter in 0..model.trainable().len() {
        let range = model.trainable().range(parameter);
        let name = model.trainable().name(parameter).to_owned();
        // A few entries of each tensor, spread over it; the embedding's touched rows among them.
        for k in 0..9 {
            let at = range.start + (k * 7919 + 3 * k * k) % range.len();
            let mut at_offset = |offset: f64| {
                let before = model.trainable().data()[at];
                model.trainable_mut().data_mut()[at] = before + offset;
                let scores = model.forward(&packed, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
                model.trainable_mut().data_mut()[at] = before;
                loss(&scores)
            };
            let numeric = (at_offset(step) - at_offset(-step)) / (2.0 * step);
            let exact = analytic.data()[at];
            assert!(
                (numeric - exact).abs() <= 1e-7 * numeric.abs().max(1.0),
                "{name}[{}]: backward {exact}, central difference {numeric}",
                at - range.start
            );
        }
        assert!(analytic.tensor(parameter).iter().any(|g| g.abs() > 1e-12), "{name} received no gradient");
    }
}

#[test]
fn tied_full() {
    check_against_differences(CausalLm::random(config(true), 11).unwrap());
}

#[test]
fn untied_full() {
    check_against_differences(CausalLm::random(config(false), 12).unwrap());
}

#[test]
fn adapter_on_all_linears() {
    let mut model = CausalLm::<f64>::random(config(true), 13).unwrap();
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, ..LoraConfig::default() }, 1).unwrap();
    // B starts at zero, where A has no gradient: move it.
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).sin();
    }
    check_against_differences(model);
}

#[test]
fn adapter_on_some_linears() {
    let mut model = CausalLm::<f64>::random(config(false), 14).unwrap();
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    model.add_lora(&LoraConfig { rank: 2, alpha: 2.0, targets, rank_stabilised: true }, 1).unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).cos();
    }
    assert_eq!(model.trainable().len(), 2 * 2 * 2);
    check_against_differences(model);
}

#[test]
fn adapter_on_the_head() {
    for tied in [true, false] {
        let mut model = CausalLm::<f64>::random(config(tied), 17).unwrap();
        let targets = vec!["lm_head".to_owned(), "v_proj".to_owned()];
        model.add_lora(&LoraConfig { rank: 3, alpha: 4.0, targets, ..LoraConfig::default() }, 1).unwrap();
        for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
            *x += 0.3 * (i as f64).cos();
        }
        check_against_differences(model);
    }
}

/// Each completion with its own copy of the prompt.
#[test]
fn shared_prompt_equals_unshared() {
    let model = CausalLm::<f64>::random(config(true), 15).unwrap();
    let (prompt, first, second): (&[u32], &[u32], &[u32]) = (&[1, 7, 9, 4], &[5, 6, 2], &[8, 8, 11, 2]);
    let context = |completions: Vec<CompletionIds<'static>>| ContextIds {
        prompt: &[1, 7, 9, 4],
        prompt_scored: &[],
        completions,
    };
    assert_eq!(prompt, context(vec![]).prompt);
    let all = |ids: &[u32]| CompletionIds::all_scored(Box::leak(ids.to_vec().into_boxed_slice()));
    let shared = Packed::new(&[context(vec![all(first), all(second)])]).unwrap();
    let unshared = Packed::new(&[context(vec![all(first)]), context(vec![all(second)])]).unwrap();
    assert_eq!((shared.tokens(), unshared.tokens()), (11, 15));

    let mut workspace = Workspace::new(1);
    let a = model.forward(&shared, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
    let b = model.forward(&unshared, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
    for (a, b) in a.log_probs.iter().zip(&b.log_probs) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    let (a, b) = (gradients(&model, &shared, Recompute::Nothing), gradients(&model, &unshared, Recompute::Nothing));
    for (a, b) in a.data().iter().zip(b.data()) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn wrong_gradient_buffer_is_refused() {
    let mut model = CausalLm::<f64>::random(config(true), 16).unwrap();
    let mut gradients = Gradients::zeros(model.trainable());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    let mut workspace = Workspace::new(1);
    let (scores, saved) = model.forward(&batch(), EVERYTHING, Recompute::Nothing, &mut workspace).unwrap();
    let error = model
        .backward(&batch(), saved, &cotangents(scores.log_probs.len()), &mut gradients, &mut workspace)
        .unwrap_err();
    assert!(error.to_string().contains("Gradients::zeros"), "{error}");
}
