//! A step in f32 on one, two and three threads, with activations kept and made again: the same bits.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_kernels::Workspace;
use candlewick_model::{
    CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, Packed, Recompute, Statistics,
};

/// Large enough that every product and every loop over rows is shared out.
fn model(lora: bool) -> CausalLm<f32> {
    let mut config = Config::llama(1_203, 96, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (6, 2, 16);
    config.intermediate_size = 200;
    let mut model = CausalLm::random(config, 3).unwrap();
    if lora {
        model.add_lora(&LoraConfig { rank: 8, ..LoraConfig::default() }, 1).unwrap();
        for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
            *x += 0.02 * (i as f32).sin();
        }
    }
    model
}

fn batch() -> Packed {
    let ids: Vec<u32> = (0..400).map(|i| i * 37 % 1_203).collect();
    let contexts = [(70, 55, 81), (3, 160, 9), (140, 20, 33)].map(|(prompt, chosen, rejected)| ContextIds {
        prompt: &ids[..prompt],
        prompt_scored: &[],
        completions: [chosen, rejected].map(|length| CompletionIds::all_scored(&ids[200 - length..200])).into(),
    });
    Packed::new(&contexts).unwrap()
}

fn step(model: &CausalLm<f32>, recompute: Recompute, threads: usize) -> Vec<u32> {
    let (packed, mut workspace) = (batch(), Workspace::new(threads));
    let (scores, saved) = model.forward(&packed, Statistics::default(), recompute, &mut workspace).unwrap();
    let d = (0..scores.log_probs.len()).map(|i| (i as f32 + 0.3).sin()).collect();
    let d = HeadCotangents { log_probs: Some(d), ..HeadCotangents::default() };
    let mut gradients = Gradients::zeros(model.trainable());
    model.backward(&packed, saved, &d, &mut gradients, &mut workspace).unwrap();
    scores.log_probs.iter().chain(gradients.data()).map(|x| x.to_bits()).collect()
}

#[test]
fn a_step_has_the_same_bits_on_any_number_of_threads_and_whatever_is_kept() {
    for lora in [false, true] {
        let model = model(lora);
        let alone = step(&model, Recompute::Nothing, 1);
        assert!(alone.iter().filter(|&&bits| bits != 0).count() > alone.len() / 4, "gradients are there");
        for recompute in [Recompute::Nothing, Recompute::Layers] {
            for threads in [1, 2, 3] {
                assert!(alone == step(&model, recompute, threads), "lora {lora}, {recompute:?}, {threads} threads");
            }
        }
    }
}
