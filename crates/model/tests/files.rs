//! Weights and adapters in and out.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use candlewick_kernels::Workspace;
use candlewick_model::{CausalLm, Config, LoraConfig};

fn model() -> CausalLm<f32> {
    let mut config = Config::llama(29, 16, 2);
    config.initializer_range = 0.2;
    CausalLm::random(config, 3).unwrap()
}

fn logits(model: &CausalLm<f32>) -> Vec<f32> {
    model.logits(&[1, 5, 28, 0, 9], &mut Workspace::new(1)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn error_of(directory: &Path) -> String {
    CausalLm::<f32>::load(directory).unwrap_err().to_string()
}

#[test]
fn whole_and_sharded_files_hold_the_same_bits() {
    let model = model();
    let directory = tempfile::tempdir().unwrap();
    model.save(directory.path()).unwrap();
    assert_eq!(CausalLm::<f32>::load(directory.path()).unwrap().parameters().data(), model.parameters().data());

    let shards = tempfile::tempdir().unwrap();
    model.save_sharded(shards.path(), 4000).unwrap();
    assert!(shards.path().join("model.safetensors.index.json").exists());
    assert!(!shards.path().join("model.safetensors").exists());
    assert_eq!(CausalLm::<f32>::load(shards.path()).unwrap().parameters().data(), model.parameters().data());

    model.save(shards.path()).unwrap();
    assert!(!shards.path().join("model.safetensors.index.json").exists());
    model.save_sharded(shards.path(), 4000).unwrap();
    assert!(!shards.path().join("model.safetensors").exists(), "a single file from before would win over the shards");
    let second = std::fs::read_dir(shards.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.to_string_lossy().contains("model-00002"));
    std::fs::remove_file(second.unwrap()).unwrap();
    assert!(error_of(shards.path()).contains("model-00002"));
}

#[test]
fn f64_files_are_exact_too() {
    let model = CausalLm::<f64>::random(Config::llama(29, 16, 1), 3).unwrap();
    let directory = tempfile::tempdir().unwrap();
    model.save(directory.path()).unwrap();
    assert_eq!(CausalLm::<f64>::load(directory.path()).unwrap().parameters().data(), model.parameters().data());
    let narrowed = CausalLm::<f32>::load(directory.path()).unwrap();
    assert_eq!(narrowed.parameters().data()[7].to_bits(), (model.parameters().data()[7] as f32).to_bits());
}

#[test]
fn damaged_directories_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(error_of(&path.join("absent")).contains("absent is not there"));
    assert!(error_of(path).contains("config.json is not there"));
    model().save(path).unwrap();
    let weights = path.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(error_of(path).contains("not a whole safetensors file"));
    std::fs::write(&weights, b"").unwrap();
    assert!(error_of(path).contains("empty"));
    std::fs::write(&weights, vec![0xff; 100]).unwrap();
    assert!(error_of(path).contains("safetensors"));
    std::fs::remove_file(&weights).unwrap();
    assert!(error_of(path).contains("model.safetensors is not there"));

    std::fs::write(&weights, &bytes).unwrap();
    let config = std::fs::read_to_string(path.join("config.json")).unwrap();
    std::fs::write(path.join("config.json"), config.replace("\"vocab_size\": 29", "\"vocab_size\": 31")).unwrap();
    assert!(error_of(path).contains("model.embed_tokens.weight has shape [29, 16]"));
    std::fs::write(path.join("config.json"), config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"))
        .unwrap();
    assert!(error_of(path).contains("has no place"));
    std::fs::write(path.join("config.json"), config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"))
        .unwrap();
    assert!(error_of(path).contains("model.layers.2"));
}

#[test]
fn adapters_round_trip_and_merge() {
    let mut with = model();
    let plain = logits(&with);
    with.add_lora(&LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }, 9).unwrap();
    assert_eq!(logits(&with), plain, "a fresh adapter changes nothing");
    for (i, x) in with.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.05 * (i as f32).sin();
    }
    let adapted = logits(&with);
    assert_ne!(adapted, plain);

    let directory = tempfile::tempdir().unwrap();
    with.save_adapter(directory.path(), "a/base").unwrap();
    let mut again = model();
    again.load_adapter(directory.path()).unwrap();
    assert_eq!(logits(&again), adapted);
    assert!(again.load_adapter(directory.path()).unwrap_err().to_string().contains("second adapter"));

    again.merge_adapter(&mut Workspace::new(1)).unwrap();
    assert!(!again.has_adapter());
    for (a, b) in logits(&again).iter().zip(&adapted) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }

    let config = directory.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("a/base"));
    for (from, to, expected) in [
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"LORA\"", "\"IA3\"", "IA3"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"lora_alpha\": 8.0", "\"lora_alpha\": \"x\"", "lora_alpha"),
    ] {
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let error = model().load_adapter(directory.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::write(&config, &text).unwrap();
    let mut other = CausalLm::<f32>::random(Config::llama(29, 16, 1), 3).unwrap();
    assert!(other.load_adapter(directory.path()).unwrap_err().to_string().contains("model.layers.1"));
}

#[test]
fn bad_adapter_settings_name_the_setting() {
    let lora = LoraConfig::default();
    for (lora, expected) in [
        (LoraConfig { rank: 0, ..lora.clone() }, "rank"),
        (LoraConfig { alpha: f64::NAN, ..lora.clone() }, "alpha"),
        (LoraConfig { targets: vec![], ..lora.clone() }, "targets"),
        (LoraConfig { targets: vec!["q_prj".into()], ..lora }, "q_prj"),
    ] {
        assert!(model().add_lora(&lora, 0).unwrap_err().to_string().contains(expected));
    }
    assert!(model().save_adapter(Path::new("/nonexistent"), "x").unwrap_err().to_string().contains("no adapter"));
}

/// The adapter that PEFT wrote before a training run with TRL, and its scale of 16/8.
#[test]
fn an_adapter_written_by_peft_loads() {
    let Some(shared) = candlewick_testkit::shared() else { return };
    let mut model = CausalLm::<f32>::load(&shared.join("assets/weights/tinystories-656k")).unwrap();
    model.load_adapter(&shared.join("parity/dpo_lora_adapter/final")).unwrap();
    assert_eq!(model.trainable().len(), 28);
    assert!(
        model
            .trainable()
            .names()
            .next()
            .unwrap()
            .starts_with("base_model.model.model.layers.0.self_attn.q_proj.lora_A")
    );
}
