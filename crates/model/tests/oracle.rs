//! Forward passes against candle-transformers' inference model, and against what Python's transformers computed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use candlewick_kernels::Workspace;
use candlewick_model::{CausalLm, Config, Sampling};

/// Logits `[T, V]` of candle-transformers' Llama on the files of `directory`.
fn candle_logits(directory: &std::path::Path, ids: &[u32]) -> Vec<f32> {
    let device = Device::Cpu;
    let config: llama::LlamaConfig =
        serde_json::from_str(&std::fs::read_to_string(directory.join("config.json")).unwrap()).unwrap();
    let config = config.into_config(false);
    let mut tensors = candle_core::safetensors::load(directory.join("model.safetensors"), &device).unwrap();
    if config.tie_word_embeddings {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    }
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &device);
    let model = llama::Llama::load(builder, &config).unwrap();
    // It returns the last position only: ask for each prefix.
    let mut logits = Vec::new();
    for end in 1..=ids.len() {
        let mut cache = llama::Cache::new(false, DType::F32, &config, &device).unwrap();
        let input = Tensor::new(&ids[..end], &device).unwrap().unsqueeze(0).unwrap();
        logits.extend(model.forward(&input, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    logits
}

#[test]
fn logits_equal_those_of_candle_transformers() {
    for (seed, tied, kv_heads) in [(1, true, 4), (2, false, 2), (3, true, 1)] {
        let mut config = Config::llama(50, 32, 3);
        (config.tie_word_embeddings, config.num_key_value_heads, config.initializer_range) = (tied, kv_heads, 0.2);
        config.bos_token_id = Some(1);
        config.eos_token_ids = vec![2];
        let model = CausalLm::<f32>::random(config, seed).unwrap();
        let directory = tempfile::tempdir().unwrap();
        model.save(directory.path()).unwrap();
        let ids = [1, 17, 33, 4, 49, 0, 12, 12, 30];
        let ours = model.logits(&ids, &mut Workspace::new(1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let theirs = candle_logits(directory.path(), &ids);
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "seed {seed}: ours {a}, candle's {b}");
        }
    }
}

#[test]
fn a_cache_of_keys_changes_no_greedy_token() {
    let mut config = Config::llama(40, 32, 2);
    (config.num_key_value_heads, config.initializer_range) = (2, 0.3);
    let model = CausalLm::<f64>::random(config, 5).unwrap();
    let mut workspace = Workspace::new(1);
    let sampling = Sampling { max_new_tokens: 20, ..Sampling::default() };
    let cached = model.generate(&[1, 8, 3], &sampling, &mut workspace).unwrap();
    let mut text = vec![1, 8, 3];
    for _ in 0..20 {
        let logits = model.logits(&text, &mut workspace).unwrap();
        let last = logits.get(text.len() - 1).unwrap().to_vec1::<f64>().unwrap();
        let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
        text.push(best as u32);
    }
    assert_eq!(cached, text[3..]);
}

#[test]
fn sampling_follows_its_seed_and_its_limits() {
    let mut config = Config::llama(40, 32, 1);
    config.initializer_range = 0.3;
    let model = CausalLm::<f32>::random(config, 6).unwrap();
    let mut workspace = Workspace::new(1);
    let mut draw = |sampling: &Sampling| model.generate(&[1, 2], sampling, &mut workspace);
    let warm = Sampling { temperature: 1.5, max_new_tokens: 30, seed: 1, ..Sampling::default() };
    assert_eq!(draw(&warm).unwrap(), draw(&warm).unwrap());
    assert_ne!(draw(&warm).unwrap(), draw(&Sampling { seed: 2, ..warm.clone() }).unwrap());
    let greedy = draw(&Sampling { temperature: 0.0, ..warm.clone() }).unwrap();
    assert_eq!(draw(&Sampling { top_k: Some(1), ..warm.clone() }).unwrap(), greedy);
    let stopped = draw(&Sampling { temperature: 0.0, stop: vec![greedy[3]], ..warm.clone() }).unwrap();
    assert_eq!(stopped, greedy[..=greedy.iter().position(|id| *id == greedy[3]).unwrap()]);
    for wrong in [
        Sampling { temperature: -1.0, ..warm.clone() },
        Sampling { top_k: Some(0), ..warm.clone() },
        Sampling { top_p: Some(1.5), ..warm.clone() },
    ] {
        assert!(draw(&wrong).is_err(), "{wrong:?}");
    }
    assert!(model.generate(&[], &warm, &mut workspace).unwrap_err().to_string().contains("empty prompt"));
    assert!(model.generate(&[40], &warm, &mut workspace).unwrap_err().to_string().contains("vocabulary"));
}
