//! Score models: the written-out backward against central differences and candle's autograd, in f64; where a score is read.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candle_core::{Device, Tensor, Var};
use candlewick_kernels::Workspace;
use candlewick_model::{
    Adapter, CausalLm, CompletionIds, Config, ContextIds, Gradients, LoraConfig, Packed, Recompute, ScoreModel,
    ScoredAt,
};

const HEADS: usize = 2;

fn config() -> Config {
    let mut config = Config::llama(23, 16, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 4);
    // Large enough that a wrong gradient cannot hide behind tiny weights.
    config.initializer_range = 0.4;
    config
}

fn model(seed: u64) -> ScoreModel<f64> {
    ScoreModel::random(config(), &["reward".to_owned(), "cost".to_owned()], seed).unwrap()
}

fn adapted(targets: &[&str]) -> ScoreModel<f64> {
    let mut model = model(13);
    let targets = targets.iter().map(|&name| name.to_owned()).collect();
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, targets, ..LoraConfig::default() }, 1).unwrap();
    // B starts at zero, where A has no gradient: move it.
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).sin();
    }
    model
}

fn context<'a>(prompt: &'a [u32], completions: &[&'a [u32]]) -> ContextIds<'a> {
    let completions = completions.iter().map(|ids| CompletionIds::all_scored(ids)).collect();
    ContextIds { prompt, prompt_scored: &[], completions }
}

/// Two contexts; one completion is empty, and of one only the middle is scored.
fn batch() -> Packed {
    let mut first = context(&[1, 7, 9, 4], &[&[5, 6, 2], &[]]);
    first.completions.push(CompletionIds { ids: &[8, 8, 11, 2], scored: &[false, true, true, false] });
    Packed::new(&[first, context(&[1, 3], &[&[22, 2]])]).unwrap()
}

/// Weights that differ from number to number.
fn weights(count: usize) -> Vec<f64> {
    (0..count).map(|i| (i as f64 + 0.3).sin()).collect()
}

fn loss(values: &[f64]) -> f64 {
    values.iter().zip(weights(values.len())).map(|(x, w)| x * w).sum()
}

fn gradients(model: &ScoreModel<f64>, packed: &Packed, at: ScoredAt, recompute: Recompute) -> Gradients<f64> {
    let mut workspace = Workspace::new(1);
    let mut gradients = Gradients::zeros(model.trainable());
    let (values, saved) = model.forward(packed, at, recompute, &mut workspace).unwrap();
    model.backward(packed, saved, &weights(values.len()), &mut gradients, &mut workspace).unwrap();
    gradients
}

fn check_against_differences(mut model: ScoreModel<f64>, at: ScoredAt) {
    let packed = batch();
    let analytic = gradients(&model, &packed, at, Recompute::Nothing);
    let recomputed = gradients(&model, &packed, at, Recompute::Layers);
    assert_eq!(analytic.data(), recomputed.data(), "recomputation must not change a bit");

    let mut workspace = Workspace::new(1);
    let step = 1e-5;
    for parameter in 0..model.trainable().len() {
        let range = model.trainable().range(parameter);
        let name = model.trainable().name(parameter).to_owned();
        for k in 0..9 {
            let at_element = range.start + (k * 7919 + 3 * k * k) % range.len();
            let mut at_offset = |offset: f64| {
                let before = model.trainable().data()[at_element];
                model.trainable_mut().data_mut()[at_element] = before + offset;
                let values = model.score(&packed, at, Adapter::On, &mut workspace).unwrap();
                model.trainable_mut().data_mut()[at_element] = before;
                loss(&values)
            };
            let numeric = (at_offset(step) - at_offset(-step)) / (2.0 * step);
            let exact = analytic.data()[at_element];
            assert!(
                (numeric - exact).abs() <= 1e-7 * numeric.abs().max(1.0),
                "{at:?}, {name}[{}]: backward {exact}, central difference {numeric}",
                at_element - range.start
            );
        }
        assert!(analytic.tensor(parameter).iter().any(|g| g.abs() > 1e-12), "{name} received no gradient");
    }
}

#[test]
fn every_weight_has_the_gradient_of_central_differences() {
    check_against_differences(model(11), ScoredAt::Completions);
    check_against_differences(model(12), ScoredAt::Targets);
}

#[test]
fn an_adapter_and_its_heads_have_the_gradient_of_central_differences() {
    for at in [ScoredAt::Completions, ScoredAt::Targets] {
        check_against_differences(adapted(&["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]), at);
        check_against_differences(adapted(&["down_proj"]), at);
    }
}

/// The causal model of the same trunk gives the hidden states; candle gives their products, and the gradient of the heads.
#[test]
fn scores_are_products_with_the_last_hidden_states() {
    let model = model(14);
    let directory = tempfile::tempdir().unwrap();
    let mut causal = CausalLm::<f64>::random(config(), 0).unwrap();
    for i in 0..causal.parameters().len() {
        let name = causal.parameters().name(i).to_owned();
        causal.trainable_mut().tensor_mut(i).copy_from_slice(model.parameters().get(&name).unwrap());
    }
    causal.save(directory.path()).unwrap();
    let weight = Tensor::new(model.parameters().get("score.weight").unwrap(), &Device::Cpu).unwrap();
    let weight = Var::from_tensor(&weight.reshape((HEADS, 16)).unwrap()).unwrap();
    let mut workspace = Workspace::new(1);
    let texts: [&[u32]; 4] = [&[1, 7, 9, 4, 5, 6, 2], &[1, 7, 9, 4], &[1, 7, 9, 4, 8, 8, 11, 2], &[1, 3, 22, 2]];
    let last = texts.map(|ids| {
        let states = causal.hidden_states(ids, &mut workspace).unwrap();
        states.get(ids.len() - 1).unwrap()
    });
    let expected = Tensor::stack(&last, 0).unwrap().matmul(&weight.t().unwrap()).unwrap();
    let values = model.score(&batch(), ScoredAt::Completions, Adapter::On, &mut workspace).unwrap();
    for (ours, theirs) in values.iter().zip(expected.flatten_all().unwrap().to_vec1::<f64>().unwrap()) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
    }
    let d = Tensor::from_vec(weights(8), (4, HEADS), &Device::Cpu).unwrap();
    let slopes = (expected * d).unwrap().sum_all().unwrap().backward().unwrap().remove(&weight).unwrap();
    let ours = gradients(&model, &batch(), ScoredAt::Completions, Recompute::Nothing);
    let slopes = slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (ours, theirs) in ours.tensor(model.head_place()).iter().zip(slopes) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
    }
    // Fresh heads on that trunk say 0, and learn while the trunk has no gradient yet.
    let fresh = ScoreModel::<f64>::from_causal(directory.path(), &["score".to_owned()]).unwrap();
    assert_eq!(fresh.score(&batch(), ScoredAt::Completions, Adapter::On, &mut workspace).unwrap(), [0.0; 4]);
    let (_, saved) = fresh.forward(&batch(), ScoredAt::Completions, Recompute::Nothing, &mut workspace).unwrap();
    let mut slopes = Gradients::zeros(fresh.trainable());
    fresh.backward(&batch(), saved, &weights(4), &mut slopes, &mut workspace).unwrap();
    for i in 0..fresh.trainable().len() {
        let is_flat = slopes.tensor(i).iter().all(|x| *x == 0.0);
        assert_eq!(is_flat, i != fresh.head_place(), "{}", fresh.trainable().name(i));
    }
}

#[test]
fn shared_prompt_equals_unshared() {
    for model in [model(15), adapted(&["q_proj", "down_proj"])] {
        let prompt = [1, 7, 9, 4];
        let shared = Packed::new(&[context(&prompt, &[&[5, 6, 2], &[8, 8, 11, 2]])]).unwrap();
        let alone = Packed::new(&[context(&prompt, &[&[5, 6, 2]]), context(&prompt, &[&[8, 8, 11, 2]])]).unwrap();
        assert_eq!((shared.tokens(), alone.tokens()), (11, 15));
        for at in [ScoredAt::Completions, ScoredAt::Targets] {
            let score = |packed| model.score(packed, at, Adapter::On, &mut Workspace::new(1)).unwrap();
            for (a, b) in score(&shared).iter().zip(score(&alone)) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
            let slopes = |packed| gradients(&model, packed, at, Recompute::Nothing);
            for (a, b) in slopes(&shared).data().iter().zip(slopes(&alone).data()) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
        }
    }
}

/// Tokens behind the scored ones change no value of the tokens before them.
#[test]
fn packed_equals_padded() {
    let model = adapted(&["v_proj", "up_proj"]);
    let padded = |ids: &[u32], scored: usize| -> (Vec<u32>, Vec<bool>) {
        let mut ids = ids.to_vec();
        ids.resize(12, 0);
        (ids, (0..12).map(|place| place < scored).collect())
    };
    let (first, second) = (padded(&[5, 6, 2], 3), padded(&[22, 2], 2));
    let packed = Packed::new(&[context(&[1, 7, 9], &[&[5, 6, 2]]), context(&[1, 3], &[&[22, 2]])]).unwrap();
    let with = |prompt, row: &'static (Vec<u32>, Vec<bool>)| ContextIds {
        prompt,
        prompt_scored: &[],
        completions: vec![CompletionIds { ids: &row.0, scored: &row.1 }],
    };
    let (first, second): (&'static _, &'static _) = (Box::leak(Box::new(first)), Box::leak(Box::new(second)));
    let padded = Packed::new(&[with(&[1, 7, 9], first), with(&[1, 3], second)]).unwrap();
    assert_eq!((packed.tokens(), padded.tokens()), (10, 29));
    let score = |packed| model.score(packed, ScoredAt::Targets, Adapter::On, &mut Workspace::new(1)).unwrap();
    assert_eq!(score(&packed).len(), 5 * HEADS);
    for (a, b) in score(&packed).iter().zip(score(&padded)) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    let slopes = |packed| gradients(&model, packed, ScoredAt::Targets, Recompute::Nothing);
    for (a, b) in slopes(&packed).data().iter().zip(slopes(&padded).data()) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn without_its_adapter_a_model_scores_with_the_heads_it_had() {
    let base = model(13);
    let mut adapted = adapted(&["q_proj"]);
    let score = |model: &ScoreModel<f64>, adapter| {
        model.score(&batch(), ScoredAt::Completions, adapter, &mut Workspace::new(1)).unwrap()
    };
    assert_eq!(score(&adapted, Adapter::Off), score(&base, Adapter::On));
    assert_ne!(score(&adapted, Adapter::On), score(&base, Adapter::On));
    let before = score(&adapted, Adapter::On);
    adapted.merge_adapter(&mut Workspace::new(1)).unwrap();
    for (a, b) in score(&adapted, Adapter::On).iter().zip(before) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn a_fresh_adapter_changes_no_score() {
    let mut model = model(16);
    let score = |model: &ScoreModel<f64>| {
        model.score(&batch(), ScoredAt::Completions, Adapter::On, &mut Workspace::new(1)).unwrap()
    };
    let before = score(&model);
    model.add_lora(&LoraConfig::default(), 3).unwrap();
    assert_eq!(score(&model), before);
    assert_eq!(model.trainable().name(model.head_place()), "base_model.model.score.weight");
    let targets = vec!["lm_head".to_owned()];
    let error = self::model(16).add_lora(&LoraConfig { targets, ..LoraConfig::default() }, 3).unwrap_err().to_string();
    assert!(error.contains("lm_head") && error.ends_with("down_proj"), "{error}");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = model(17);
    let mut workspace = Workspace::new(1);
    let mut score = |packed: &Packed| model.score(packed, ScoredAt::Completions, Adapter::On, &mut workspace);
    let empty = Packed::new(&[context(&[], &[&[]])]).unwrap();
    assert!(score(&empty).unwrap_err().to_string().contains("both empty"));
    let beyond = Packed::new(&[context(&[1], &[&[23]])]).unwrap();
    assert!(score(&beyond).unwrap_err().to_string().contains("token id 23"));
    for names in [vec![], vec!["a".to_owned(), "a".to_owned()], vec![" ".to_owned()]] {
        assert!(ScoreModel::<f64>::random(config(), &names, 1).is_err(), "{names:?}");
    }
    let (_, saved) = model.forward(&batch(), ScoredAt::Completions, Recompute::Nothing, &mut workspace).unwrap();
    let mut gradients = Gradients::zeros(model.trainable());
    let error = model.backward(&batch(), saved, &[1.0; 3], &mut gradients, &mut workspace).unwrap_err().to_string();
    assert!(error.contains("hold 3 numbers; expected 8"), "{error}");
}
