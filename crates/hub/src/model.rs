//! Which files make a model or an adapter.

use std::path::{Path, PathBuf};

use crate::repo::is_inside;
use crate::snapshot::{Snapshot, some_of};
use crate::{Error, Result};

/// Files a model directory may do without.
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
];
pub(crate) const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";

/// Fetches a model and returns its directory.
pub(crate) fn model(snapshot: &Snapshot) -> Result<PathBuf> {
    let config = required(snapshot, CONFIG)?;
    required(snapshot, "tokenizer.json")?;
    for file in OPTIONAL.iter().filter(|file| snapshot.has(file)) {
        snapshot.get(file)?;
    }
    if snapshot.has(INDEX) {
        for shard in shards(&snapshot.get(INDEX)?)? {
            required(snapshot, &shard)?;
        }
    } else {
        required(snapshot, WEIGHTS)?;
    }
    Ok(config.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// Fetches a PEFT adapter and returns its directory.
pub(crate) fn adapter(snapshot: &Snapshot) -> Result<PathBuf> {
    required(snapshot, ADAPTER)?;
    let config = required(snapshot, "adapter_config.json")?;
    Ok(config.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn required(snapshot: &Snapshot, file: &str) -> Result<PathBuf> {
    match snapshot.get(file) {
        Err(Error::Content { .. }) => Err(snapshot.repo.wrong(format!(
            "{file} is not among its files ({}); expected config.json, tokenizer.json and weights as safetensors, or an \
             adapter of PEFT: convert it, or name another revision",
            some_of(&snapshot.files)
        ))),
        outcome => outcome,
    }
}

/// The files an index of shards names.
fn shards(index: &Path) -> Result<Vec<String>> {
    let wrong = |reason: String| Error::Setup(format!("{}: {reason}", index.display()));
    let text = std::fs::read_to_string(index).map_err(|e| wrong(e.to_string()))?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| wrong("no weight_map; expected the index of a sharded model".into()))?;
    let mut names = Vec::with_capacity(map.len());
    for file in map.values() {
        // What the network says may not lead out of the cache.
        let name = file.as_str().filter(|name| is_inside(name));
        names.push(
            name.ok_or_else(|| wrong(format!("weight_map holds {file}, which is no file of the repository")))?
                .to_owned(),
        );
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
