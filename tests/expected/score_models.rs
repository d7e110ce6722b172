//! Score models and an adapter of one read here give the scores that transformers and peft computed
//! (`tools/interop/make_score_models.py`), and what is written here reads back the same.
use std::path::{Path, PathBuf};

use candle_core::WithDType;
use candlewick::kernels::{Float, Workspace};
use candlewick::model::{
    Adapter, CausalLm, CompletionIds, ContextIds, LoraConfig, Normaliser, Packed, ScoreModel, ScoredAt,
};
use serde_json::{Value, json};

use crate::{F32, F64, expected, folders, ids, name, numbers};

#[test]
fn score_models_have_the_scores_of_transformers() {
    let mut seen = 0;
    for directory in folders(&expected().join("score_models")) {
        agrees::<f64>(&directory, None, F64);
        agrees::<f32>(&directory, None, F32);
        for adapter in folders(&directory) {
            agrees::<f64>(&directory, Some(&adapter), F64);
            agrees::<f32>(&directory, Some(&adapter), F32);
            seen += 1;
        }
        seen += 1;
    }
    assert_eq!(seen, 4, "score models and adapters under tests/expected/score_models");
}

#[test]
fn heads_have_the_names_of_the_labels() {
    let heads = |name: &str| load::<f32>(&expected().join("score_models").join(name), None).heads().to_vec();
    assert_eq!(heads("reward_cost"), ["reward", "cost"]);
    assert_eq!(heads("one_head"), ["LABEL_0"]);
    assert_eq!(heads("default_labels"), ["LABEL_0", "LABEL_1"]);
}

/// Writes every score model and adapter again and reads it back; and one made of a causal language model, with a fresh adapter.
/// `just interop` names a folder to keep the copies in and lets Python read them too.
#[test]
fn what_is_written_of_score_models_reads_back() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    #[expect(clippy::disallowed_methods, reason = "how `just interop` says where it wants the files")]
    let output = std::env::var_os("CANDLEWICK_INTEROP_SCORES").map_or(scratch.path().to_owned(), PathBuf::from);
    for directory in folders(&expected().join("score_models")) {
        rewrites(&output.join(name(&directory)), &mut load(&directory, None));
        for adapter in folders(&directory) {
            let name = format!("{}-{}", name(&directory), self::name(&adapter));
            rewrites(&output.join(name), &mut load(&directory, Some(&adapter)));
        }
    }
    for causal in ["gqa_tied", "untied_head"] {
        let directory = expected().join("models").join(causal);
        let names = ["reward".to_owned(), "cost".to_owned()];
        let mut model = ScoreModel::<f32>::from_causal(&directory, &names).expect("a causal language model");
        assert!(scores(&model).into_iter().flatten().all(|x| x == 0.0), "fresh heads give 0");
        stir(&mut model);
        rewrites(&output.join(format!("from-{causal}")), &mut model);
        model.add_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 1).expect("a fresh adapter");
        stir(&mut model);
        rewrites(&output.join(format!("from-{causal}-adapter")), &mut model);
    }
}

#[test]
fn a_score_model_is_no_causal_one_and_the_other_way_about() {
    let (score, causal) = (expected().join("score_models/reward_cost"), expected().join("models/gqa_tied"));
    let error = CausalLm::<f32>::load(&score).expect_err("no causal model").to_string();
    assert!(error.contains("config.json: this is a score model"), "{error}");
    let error = ScoreModel::<f32>::from_causal(&score, &["a".into()]).expect_err("no causal model").to_string();
    assert!(error.contains("config.json: this is a score model"), "{error}");
    let error = ScoreModel::<f32>::load(&causal).expect_err("no score model").to_string();
    assert!(error.contains("a score model is expected"), "{error}");
    let error = CausalLm::<f32>::load(&causal).and_then(|mut model| model.load_adapter(&score.join("adapter")));
    let error = error.expect_err("an adapter of a score model").to_string();
    assert!(error.contains("SEQ_CLS"), "{error}");
    let error = load::<f32>(&score, None).load_adapter(&causal.join("adapter_patterns")).expect_err("no heads in it");
    assert!(error.to_string().contains("base_model.model.score.weight is not in the weight files"), "{error}");
}

#[test]
fn a_normaliser_is_kept_with_the_model() {
    let mut model = load::<f32>(&expected().join("score_models/reward_cost"), None);
    assert_eq!(model.normaliser(0), None);
    let of_reward = Normaliser::Affine { mean: 0.25, deviation: 2.0 };
    model.set_normaliser(0, Some(of_reward)).expect("a normaliser");
    let directory = tempfile::tempdir().expect("a temporary directory");
    model.save(directory.path()).expect("the model is saved");
    let again = load::<f32>(directory.path(), None);
    assert_eq!((again.normaliser(0), again.normaliser(1)), (Some(of_reward), None));
    assert_eq!(scores(&again), scores(&model), "no score is normalised unasked");
    let mut values = [1.25, 3.0];
    again.normalise(&mut values);
    assert_eq!(values.map(f32::to_bits), [0.5, 3.0].map(f32::to_bits));
}

fn rewrites(output: &Path, first: &mut ScoreModel<f32>) {
    let adapter_copy = first.has_adapter().then(|| output.join("adapter"));
    first.save(&output.join("model")).expect("the model is saved");
    if let Some(copy) = &adapter_copy {
        first.save_adapter(copy, "model").expect("the adapter is saved");
    }
    let second = load::<f32>(&output.join("model"), adapter_copy.as_deref());
    assert_eq!(second.heads(), first.heads());
    let before = scores(first);
    assert_eq!(before, scores(&second), "{}: the copy computes something else", output.display());
    if adapter_copy.is_some() {
        let mut merged = second.clone();
        merged.merge_adapter(&mut Workspace::new(1)).expect("an adapter to merge");
        for (a, b) in scores(&merged).iter().flatten().zip(before.iter().flatten()) {
            assert!((a - b).abs() < F32, "merged {a}, beside {b}");
        }
    }
    let sequences: Vec<Value> =
        TEXTS.iter().zip(before).map(|(ids, scores)| json!({ "ids": ids, "scores": scores })).collect();
    std::fs::write(output.join("scores.json"), json!({ "sequences": sequences }).to_string()).expect("written");
}

const TEXTS: [&[u32]; 2] = [&[1, 17, 5, 30, 9, 23, 31, 12, 2], &[1, 4, 2]];

fn scores(model: &ScoreModel<f32>) -> Vec<Vec<f64>> {
    TEXTS.iter().map(|ids| score(model, ids)).collect()
}

/// A text as a prompt and the rest.
fn score<T: Float + WithDType>(model: &ScoreModel<T>, ids: &[u32]) -> Vec<f64> {
    let (prompt, completion) = ids.split_at(2);
    let completions = vec![CompletionIds::all_scored(completion)];
    let packed = Packed::new(&[ContextIds { prompt, prompt_scored: &[], completions }]).expect("a text");
    let values = model.score(&packed, ScoredAt::Completions, Adapter::On, &mut Workspace::new(1)).expect("scores");
    values.into_iter().map(Float::to_f64).collect()
}

fn agrees<T: Float + WithDType>(directory: &Path, adapter: Option<&Path>, tolerance: f64) {
    let path = adapter.unwrap_or(directory).join("expected.json");
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("an expectation")).expect("an expectation is JSON");
    let model = load::<T>(directory, adapter);
    for sequence in document["sequences"].as_array().expect("sequences") {
        let ours = score(&model, &ids(&sequence["ids"]));
        let theirs = numbers(&sequence["f64"]);
        assert_eq!((ours.len(), theirs.len()), (model.heads().len(), model.heads().len()));
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let error = (ours - theirs).abs() / theirs.abs().max(1.0);
            assert!(error <= tolerance, "{}: {ours}, expected {theirs}, off by {error:e}", path.display());
        }
    }
}

/// Moves what is trained away from where it starts.
fn stir(model: &mut ScoreModel<f32>) {
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.2 * (i as f32 * 0.7).sin();
    }
}

fn load<T: Float + WithDType>(directory: &Path, adapter: Option<&Path>) -> ScoreModel<T> {
    let mut model = ScoreModel::load(directory).unwrap_or_else(|e| panic!("{e}"));
    if let Some(adapter) = adapter {
        model.load_adapter(adapter).unwrap_or_else(|e| panic!("{e}"));
    }
    model
}
