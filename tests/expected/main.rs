//! Models and adapters read here give the logits that transformers and peft computed (`tools/interop` made the files beside this one),
//! and what is written here reads back the same.
mod score_models;

use std::path::{Path, PathBuf};

use candle_core::{DType, WithDType};
use candlewick::kernels::{Float, Workspace};
use candlewick::model::{CausalLm, Sampling};
use serde_json::{Value, json};

/// Largest |a − b| / max(1, |b|) where both sides computed in f64.
const F64: f64 = 1e-11;
/// The same where this library computes in f32: transformers' own f32 run is up to 1.5e-5 away.
const F32: f64 = 3e-5;

#[test]
fn tiny_models_have_the_logits_of_transformers() {
    let mut seen = 0;
    for directory in folders(&expected().join("models")) {
        agrees(&directory, None, &directory.join("expected.json"));
        seen += 1;
        for adapter in folders(&directory) {
            agrees(&directory, Some(&adapter), &adapter.join("expected.json"));
            seen += 1;
        }
    }
    assert_eq!(seen, 10, "models and adapters under tests/expected/models");
}

#[test]
fn a_trained_model_has_the_logits_of_transformers() {
    let Some(model) = tinystories() else { return };
    agrees(&model, None, &expected().join("logits_tinystories.json"));
}

#[test]
fn a_trained_adapter_has_the_logits_of_peft() {
    let (Some(model), Some(shared)) = (tinystories(), candlewick_testkit::shared()) else {
        return;
    };
    let adapter = shared.join("parity/dpo_lora_adapter/final");
    agrees(&model, Some(&adapter), &expected().join("adapter_dpo_lora.json"));
}

/// Writes every model and adapter again and reads it back. `just interop` names a folder to keep the copies in and lets Python read
/// them too.
#[test]
fn what_is_written_reads_back() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    #[expect(clippy::disallowed_methods, reason = "how `just interop` says where it wants the files")]
    let output = std::env::var_os("CANDLEWICK_INTEROP").map_or(scratch.path().to_owned(), PathBuf::from);
    let mut cases = Vec::new();
    for model in folders(&expected().join("models")) {
        let name = name(&model);
        cases.push((name.clone(), model.clone(), None));
        for adapter in folders(&model) {
            cases.push((format!("{name}-{}", self::name(&adapter)), model.clone(), Some(adapter)));
        }
    }
    if let (Some(model), Some(shared)) = (tinystories(), candlewick_testkit::shared()) {
        cases.push(("tinystories".to_owned(), model.clone(), None));
        cases.push(("tinystories-dpo_lora".to_owned(), model, Some(shared.join("parity/dpo_lora_adapter/final"))));
    }
    for (name, model, adapter) in cases {
        rewrites(&output.join(&name), &model, adapter.as_deref());
    }
}

fn rewrites(output: &Path, directory: &Path, adapter: Option<&Path>) {
    let mut workspace = Workspace::new(1);
    let first = load::<f32>(directory, adapter);
    let (model_copy, adapter_copy) = (output.join("model"), adapter.map(|_| output.join("adapter")));
    first.save(&model_copy).expect("the model is saved");
    if let Some(copy) = &adapter_copy {
        first.save_adapter(copy, "model").expect("the adapter is saved");
    }
    let second = load::<f32>(&model_copy, adapter_copy.as_deref());
    let ids: Vec<u32> = [1, 17, 5, 30, 2, 2, 9, 23, 0, 31, 12].to_vec();
    let (before, after) = (logits(&first, &ids, &mut workspace), logits(&second, &ids, &mut workspace));
    assert_eq!(before, after, "{}: the copy computes something else", output.display());
    let document = json!({ "sequences": [{ "ids": ids, "logits": before }] });
    std::fs::write(output.join("logits.json"), document.to_string()).expect("the logits are written");
}

fn agrees(model: &Path, adapter: Option<&Path>, expected: &Path) {
    let file = std::fs::read_to_string(expected).unwrap_or_else(|e| panic!("{}: {e}", expected.display()));
    let document: Value = serde_json::from_str(&file).expect("an expectation is JSON");
    compare::<f64>(model, adapter, &document, F64, expected);
    compare::<f32>(model, adapter, &document, F32, expected);
}

fn compare<T: Float + WithDType>(model: &Path, adapter: Option<&Path>, document: &Value, tolerance: f64, from: &Path) {
    let mut workspace = Workspace::new(1);
    let model = load::<T>(model, adapter);
    let columns = ids(&document["vocab_ids"]);
    let sequences = document["sequences"].as_array().expect("sequences");
    assert!(!sequences.is_empty());
    for sequence in sequences {
        let rows = logits(&model, &ids(&sequence["ids"]), &mut workspace);
        let positions = ids(&sequence["positions"]);
        let (wanted, sums) = (&sequence["f64"]["logits"], numbers(&sequence["f64"]["log_sum_exp"]));
        assert_eq!(positions.len(), sums.len());
        for (i, position) in positions.into_iter().enumerate() {
            let row = &rows[position as usize];
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum_exp = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
            let got = columns.iter().map(|&id| row[id as usize]).chain([log_sum_exp]);
            for (got, want) in got.zip(numbers(&wanted[i]).into_iter().chain([sums[i]])) {
                let error = (got - want).abs() / want.abs().max(1.0);
                assert!(
                    error <= tolerance,
                    "{} position {position}: {got}, expected {want}, off by {error:e}",
                    from.display()
                );
            }
        }
    }
    let greedy = &document["greedy"];
    let generated = ids(&greedy["generated"]);
    let sampling = Sampling { max_new_tokens: generated.len(), ..Sampling::default() };
    let text = model.generate(&ids(&greedy["prompt"]), &sampling, &mut workspace).expect("a continuation");
    assert_eq!(text, generated, "{}: the greedy continuation", from.display());
}

fn load<T: Float + WithDType>(directory: &Path, adapter: Option<&Path>) -> CausalLm<T> {
    let mut model = CausalLm::load(directory).unwrap_or_else(|e| panic!("{e}"));
    if let Some(adapter) = adapter {
        model.load_adapter(adapter).unwrap_or_else(|e| panic!("{e}"));
    }
    model
}

fn logits<T: Float + WithDType>(model: &CausalLm<T>, ids: &[u32], workspace: &mut Workspace) -> Vec<Vec<f64>> {
    let logits = model.logits(ids, workspace).and_then(|x| Ok(x.to_dtype(DType::F64)?.to_vec2()?));
    logits.expect("logits [T, V]")
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn tinystories() -> Option<PathBuf> {
    candlewick_testkit::shared().map(|shared| shared.join("assets/weights/tinystories-656k"))
}

fn expected() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected")
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("a directory entry").path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().expect("a named folder").to_string_lossy().into_owned()
}
