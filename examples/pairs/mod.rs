//! A model and pairs for examples that are given none.
use std::path::{Path, PathBuf};

use anyhow::Result;
use candlewick::model::{CausalLm, Config};
use serde_json::json;

/// A random model of sixteen words and pairs that prefer `yes`.
pub(crate) fn generate(home: &Path) -> Result<(PathBuf, PathBuf)> {
    const WORDS: [&str; 16] = [
        "<unk>", "</s>", "is", "it", "red", "green", "blue", "warm", "cold", "late", "here", "far", "yes", "no",
        "perhaps", "?",
    ];
    let (model, data) = (home.join("model"), home.join("pairs.jsonl"));
    std::fs::create_dir_all(&model)?;
    CausalLm::<f32>::random(Config::llama(WORDS.len(), 32, 2), 1)?.save(&model)?;
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string())?;
    std::fs::write(model.join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#)?;
    let rows: String = WORDS[4..12]
        .iter()
        .flat_map(|word| {
            [" no", " perhaps"]
                .map(|other| json!({ "prompt": format!("is it {word} ?"), "chosen": " yes", "rejected": other }))
        })
        .map(|row| format!("{row}\n"))
        .collect();
    std::fs::write(&data, rows)?;
    Ok((model, data))
}
