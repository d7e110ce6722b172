//! Every kind of model there is, on the device beside the host.
use candlewick_kernels::Element;
use candlewick_model::{CausalLm, Config, LoraConfig, Recompute, RopeScaling};
use half::bf16;

use super::{BRAIN, EXACT, LOG_PROBS, SINGLE, check};

/// Query heads, key and value heads, the width of a head; the width of the residual stream.
fn heads(heads: usize, kv_heads: usize, head_dim: usize, hidden: usize) -> Config {
    let mut config = Config::llama(23, hidden, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (heads, kv_heads, head_dim);
    config.initializer_range = 1.5 / (hidden as f64).sqrt();
    config
}

/// A model of the configuration whose norms are not all one.
fn model(config: Config) -> CausalLm<f64> {
    let mut model = CausalLm::<f64>::random(config, 5).unwrap();
    for i in 0..model.parameters().len() {
        if model.parameters().shape(i).len() == 1 {
            let norm = model.trainable_mut().tensor_mut(i);
            norm.iter_mut().enumerate().for_each(|(i, x)| *x += 0.3 * (i as f64).cos());
        }
    }
    model
}

fn check_full<T: Element>(config: Config, tolerance: f64)
where
    T::Wide: candle_core::WithDType,
{
    check::<T>(&model(config), LOG_PROBS, Recompute::Nothing, tolerance);
}

#[test]
fn every_share_of_keys() {
    for kv_heads in [4, 1] {
        check_full::<f64>(heads(4, kv_heads, 8, 32), EXACT);
    }
    // Heads that together are wider than the residual stream, and narrower.
    check_full::<f64>(heads(4, 2, 16, 32), EXACT);
    check_full::<f64>(heads(3, 1, 4, 32), EXACT);
}

/// Nothing is a multiple of what a kernel takes at once.
#[test]
fn sizes_that_nothing_divides() {
    let odd = || {
        let mut config = heads(3, 3, 6, 21);
        (config.intermediate_size, config.vocab_size, config.num_hidden_layers) = (37, 29, 1);
        config
    };
    check_full::<f64>(odd(), EXACT);
    check_full::<f32>(odd(), SINGLE);
    check_full::<bf16>(odd(), BRAIN);
}

/// The widths of heads that attention has kernels of its own for.
#[test]
fn heads_of_models_that_there_are() {
    for head_dim in [64, 96, 128, 256] {
        let mut config = heads(2, 1, head_dim, 32);
        // So many products add up in a row of the output that with larger weights one token has all attention, and roundings decide which.
        config.initializer_range /= 2.0;
        check_full::<bf16>(config, BRAIN / 2.0);
    }
    check_full::<f32>(heads(2, 1, 64, 32), SINGLE);
}

/// Positions of the batch are beyond those that the frequencies were made for.
#[test]
fn every_scaling_of_positions() {
    let original = 4;
    for scaling in [
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 0.2,
            high_freq_factor: 0.6,
            original_max_position_embeddings: original,
        },
        RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 2.0,
            beta_slow: 0.1,
            original_max_position_embeddings: original,
            attention_factor: 1.3,
            truncate: true,
        },
    ] {
        let mut config = heads(4, 2, 8, 32);
        (config.rope_scaling, config.rope_theta, config.rms_norm_eps) = (scaling, 500.0, 1e-2);
        check_full::<f64>(config, EXACT);
    }
}

/// Adapters of every linear, of one in each place, of ranks that no pack divides, and scaled by the root of the rank.
#[test]
fn every_adapter() {
    let linears = LoraConfig::default().targets;
    let whole = LoraConfig { rank: 3, alpha: 5.0, rank_stabilised: true, ..LoraConfig::default() };
    let each = linears.iter().map(|name| LoraConfig { rank: 5, targets: vec![name.clone()], ..LoraConfig::default() });
    for lora in each.chain([whole]) {
        let mut model = model(heads(4, 2, 8, 32));
        model.add_lora(&lora, 3).unwrap();
        // B starts at zero, where A has no gradient.
        model.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * (i as f64).sin());
        check::<f64>(&model, LOG_PROBS, Recompute::Nothing, EXACT);
    }
}
