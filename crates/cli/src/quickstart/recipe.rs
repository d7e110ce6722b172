//! The quickstart's model, and how it is trained: on text first, on pairs then.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::world::lexicon::{tokenizer_config_json, tokenizer_json, vocabulary};

/// The untuned model that ships with this program: made by `wick quickstart --from-scratch --export`.
const SHIPPED_WEIGHTS: &[u8] = include_bytes!("../../assets/quickstart/model.safetensors");
const SHIPPED_CONFIG: &str = include_str!("../../assets/quickstart/config.json");

/// Pairs to train on.
pub(crate) const TRAIN_PAIRS: usize = 25_600;
/// Pairs to measure on.
pub(crate) const HELD_OUT_PAIRS: usize = 500;
/// Held-out prompts to answer before and after.
pub(crate) const ANSWERED_PROMPTS: usize = 200;
/// Steps on pairs.
pub(crate) const STEPS: u64 = 800;
/// Pairs a step.
pub(crate) const BATCH: usize = 32;
/// Steps on text, from scratch.
pub(crate) const TEXT_STEPS: u64 = 6000;
/// Texts a step.
pub(crate) const TEXT_BATCH: usize = 64;
/// Steps of the runs that are killed and compared.
pub(crate) const CHECK_STEPS: u64 = 60;
/// DPO's β.
pub(crate) const BETA: f64 = 0.1;

/// Writes the shipped model.
pub(crate) fn write_shipped_model(directory: &Path) -> Result<()> {
    write(&directory.join("model.safetensors"), SHIPPED_WEIGHTS)?;
    write(&directory.join("config.json"), SHIPPED_CONFIG.as_bytes())?;
    write_tokenizer(directory)
}

/// The names of a model's files.
const MODEL_FILES: [&str; 4] = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"];

/// Lets everybody read a model that is made to be passed on.
pub(crate) fn readable_by_all(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    for name in MODEL_FILES {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join(name);
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, mode).with_context(|| format!("setting the mode of {}", path.display()))?;
    }
    #[cfg(not(unix))]
    let _ = (directory, MODEL_FILES);
    Ok(())
}

/// Writes the tokenizer beside a model.
pub(crate) fn write_tokenizer(directory: &Path) -> Result<()> {
    write_json(&directory.join("tokenizer.json"), &tokenizer_json())?;
    write_json(&directory.join("tokenizer_config.json"), &tokenizer_config_json())
}

/// The architecture, in the words of Hugging Face.
pub(crate) fn architecture() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": vocabulary().len(), "hidden_size": 80, "intermediate_size": 208, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.08,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// The configuration of the training on pairs.
pub(crate) fn pairs_configuration(directory: &Path, steps: u64, seed: u64, threads: usize) -> String {
    let path = |name: &str| toml_text(&directory.join(name));
    format!(
        "[model]\npath = {}\n\n[data]\npath = {}\nmax_length = 128\n\n\
         [evaluation]\npath = {}\nevery = {}\nat_start = true\nbatch_size = 100\n\n\
         [objective]\ntype = \"dpo\"\nbeta = {BETA}\n\n[optimizer]\nlearning_rate = 1e-3\n\n\
         [schedule]\nkind = \"linear\"\nwarmup_steps = {}\n\n\
         [train]\nbatch_size = {BATCH}\nsteps = {steps}\nseed = {seed}\nthreads = {threads}\n\n\
         [output]\ndir = {}\nsave_every = {}\n",
        path("model"),
        path("train.jsonl"),
        path("held_out.jsonl"),
        (steps / 20).max(1),
        steps.min(10),
        path("run"),
        (steps / 2).max(1),
    )
}

/// The configuration of the training on text.
pub(crate) fn text_configuration(directory: &Path, steps: u64, threads: usize) -> String {
    let path = |name: &str| toml_text(&directory.join(name));
    format!(
        "[model]\npath = {}\n\n[data]\npath = {}\nmax_length = 128\n\n[objective]\ntype = \"sft\"\n\n\
         [optimizer]\nlearning_rate = 3e-3\n\n[schedule]\nkind = \"cosine\"\nwarmup_steps = {}\n\n\
         [train]\nbatch_size = {TEXT_BATCH}\nsteps = {steps}\norder = \"file\"\nthreads = {threads}\n\n[output]\ndir = {}\n",
        path("untrained"),
        path("text.jsonl"),
        (steps / 20).min(100),
        path("text-run"),
    )
}

/// The configuration of the short runs that are killed and compared; the output directory comes as a flag.
pub(crate) fn check_configuration(directory: &Path, steps: u64, threads: usize) -> String {
    let path = |name: &str| toml_text(&directory.join(name));
    format!(
        "[model]\npath = {}\n\n[data]\npath = {}\nmax_length = 128\n\n[objective]\ntype = \"dpo\"\nbeta = {BETA}\n\n\
         [optimizer]\nlearning_rate = 5e-4\n\n[train]\nbatch_size = 8\nsteps = {steps}\nthreads = {threads}\n\n\
         [output]\nsave_every = {}\n",
        path("model"),
        path("train.jsonl"),
        check_save_every(steps),
    )
}

/// Steps between the checkpoints of those runs.
pub(crate) fn check_save_every(steps: u64) -> u64 {
    (steps / 5).max(1)
}

/// A path as TOML text.
fn toml_text(path: &Path) -> String {
    Value::from(path.to_string_lossy().into_owned()).to_string()
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, format!("{value:#}\n").as_bytes())
}

/// Writes a file, naming it when that fails.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_small_and_of_this_architecture() {
        assert!(SHIPPED_WEIGHTS.len() <= 2_000_000, "{}", SHIPPED_WEIGHTS.len());
        let shipped: Value = serde_json::from_str(SHIPPED_CONFIG).expect("json");
        for (key, value) in architecture().as_object().expect("object") {
            assert_eq!(&shipped[key], value, "{key}");
        }
        let tokenizer = include_str!("../../assets/quickstart/tokenizer.json");
        assert_eq!(serde_json::from_str::<Value>(tokenizer).expect("json"), tokenizer_json());
    }
}
