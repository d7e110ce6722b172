//! The written-out backward of the whole model against central differences, in f64.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_kernels::Workspace;
use candlewick_model::{
    Adapter, CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, HeadScores, LoraConfig, Packed,
    Recompute, Statistics,
};

const EVERYTHING: Statistics =
    Statistics { mean_log_probs: true, log_sum_sq_probs: true, entropy: true, is_top1: true, given_log_probs: true };

fn config(tied: bool) -> Config {
    let mut config = Config::llama(23, 16, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 4);
    config.tie_word_embeddings = tied;
    // Large enough that a wrong gradient cannot hide behind tiny weights.
    config.initializer_range = 0.4;
    config
}

/// Two contexts; the first has two completions, one of them partly scored, and a scored prompt token. Three further tokens
/// are asked for at every target, the target itself and repetitions among them.
fn batch() -> Packed {
    let packed = Packed::new(&[
        ContextIds {
            prompt: &[1, 7, 9, 4],
            prompt_scored: &[false, false, true, false],
            completions: vec![
                CompletionIds::all_scored(&[5, 6, 2]),
                CompletionIds { ids: &[8, 8, 11, 2], scored: &[true, false, true, true] },
            ],
        },
        ContextIds { prompt: &[1, 3], prompt_scored: &[], completions: vec![CompletionIds::all_scored(&[22, 2])] },
    ])
    .unwrap();
    with_given(packed)
}

fn with_given(packed: Packed) -> Packed {
    let ids = packed.targets().iter().enumerate().flat_map(|(i, target)| [target.id, (5 * i as u32 + 3) % 23, 4]);
    let ids = ids.collect();
    packed.with_given(ids, 3).unwrap()
}

/// A loss that touches every differentiable output with weights that differ from target to target.
fn loss(scores: &HeadScores<f64>) -> f64 {
    let sum = |values: &[f64], phase: f64| -> f64 {
        values.iter().enumerate().map(|(i, x)| (i as f64 + phase).sin() * x).sum()
    };
    sum(&scores.log_probs, 0.3)
        + sum(scores.mean_log_probs.as_ref().unwrap(), 1.1) * 0.5
        + sum(scores.log_sum_sq_probs.as_ref().unwrap(), 2.2) * 0.7
        + sum(scores.entropy.as_ref().unwrap(), 3.3) * 0.9
        + sum(scores.given_log_probs.as_ref().unwrap(), 4.4) * 0.6
}

fn cotangents(count: usize) -> HeadCotangents<f64> {
    let weights_of =
        |count: usize, phase: f64, scale: f64| Some((0..count).map(|i| (i as f64 + phase).sin() * scale).collect());
    let weights = |phase: f64, scale: f64| weights_of(count, phase, scale);
    HeadCotangents {
        log_probs: weights(0.3, 1.0),
        mean_log_probs: weights(1.1, 0.5),
        log_sum_sq_probs: weights(2.2, 0.7),
        entropy: weights(3.3, 0.9),
        given_log_probs: weights_of(3 * count, 4.4, 0.6),
    }
}

fn gradients(model: &CausalLm<f64>, packed: &Packed, recompute: Recompute) -> Gradients<f64> {
    let mut workspace = Workspace::new(1);
    let mut gradients = Gradients::zeros(model.trainable());
    let (scores, saved) = model.forward(packed, EVERYTHING, recompute, &mut workspace).unwrap();
    model.backward(packed, saved, &cotangents(scores.log_probs.len()), &mut gradients, &mut workspace).unwrap();
    gradients
}

fn check_against_differences(mut model: CausalLm<f64>) {
    let packed = batch();
    let analytic = gradients(&model, &packed, Recompute::Nothing);
    let recomputed = gradients(&model, &packed, Recompute::Layers);
    assert_eq!(analytic.data(), recomputed.data(), "recomputation must not change a bit");

    let mut workspace = Workspace::new(1);
    let step = 1e-5;
    for parameter in 0..model.trainable().len() {
        let range = model.trainable().range(parameter);
        let name = model.trainable().name(parameter).to_owned();
        // A few entries of each tensor, spread over it; the embedding's touched rows among them.
        for k in 0..9 {
            let at = range.start + (k * 7919 + 3 * k * k) % range.len();
            let mut at_offset = |offset: f64| {
                let before = model.trainable().data()[at];
                model.trainable_mut().data_mut()[at] = before + offset;
                let scores = model.forward(&packed, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
                model.trainable_mut().data_mut()[at] = before;
                loss(&scores)
            };
            let numeric = (at_offset(step) - at_offset(-step)) / (2.0 * step);
            let exact = analytic.data()[at];
            assert!(
                (numeric - exact).abs() <= 1e-7 * numeric.abs().max(1.0),
                "{name}[{}]: backward {exact}, central difference {numeric}",
                at - range.start
            );
        }
        assert!(analytic.tensor(parameter).iter().any(|g| g.abs() > 1e-12), "{name} received no gradient");
    }
}

#[test]
fn tied_full() {
    check_against_differences(CausalLm::random(config(true), 11).unwrap());
}

#[test]
fn untied_full() {
    check_against_differences(CausalLm::random(config(false), 12).unwrap());
}

#[test]
fn adapter_on_all_linears() {
    let mut model = CausalLm::<f64>::random(config(true), 13).unwrap();
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, ..LoraConfig::default() }, 1).unwrap();
    // B starts at zero, where A has no gradient: move it.
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).sin();
    }
    check_against_differences(model);
}

#[test]
fn adapter_on_some_linears() {
    let mut model = CausalLm::<f64>::random(config(false), 14).unwrap();
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    model
        .add_lora(&LoraConfig { rank: 2, alpha: 2.0, targets, rank_stabilised: true, ..LoraConfig::default() }, 1)
        .unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).cos();
    }
    assert_eq!(model.trainable().len(), 2 * 2 * 2);
    check_against_differences(model);
}

/// A Panacea adapter whose numbers all have been moved.
fn panacea(preference: [f64; 3]) -> CausalLm<f64> {
    let mut model = CausalLm::<f64>::random(config(false), 21).unwrap();
    let lora = LoraConfig { rank: 3, alpha: 5.0, preferences: 3, ..LoraConfig::default() };
    model.add_lora(&lora, 1).unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).sin();
    }
    model.set_preference(&preference).unwrap();
    model
}

#[test]
fn panacea_on_all_linears() {
    for preference in [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]] {
        let model = panacea(preference);
        assert_eq!(model.trainable().len(), 2 * 7 * 4);
        check_against_differences(model);
    }
}

/// The adapted layers as the formula has them, and their gradients by candle's autograd.
#[test]
fn panacea_agrees_with_autograd_on_the_written_out_weights() {
    use candle_core::{Device, Tensor, Var};
    let preference = [0.2, 0.5, 0.3];
    let model = panacea(preference);
    let packed = batch();
    let ours = gradients(&model, &packed, Recompute::Nothing);

    // The gradient of each whole weight, from a model without an adapter that has the merged weights.
    let mut merged = model.clone();
    merged.merge_adapter(&mut Workspace::new(1)).unwrap();
    let of_weights = gradients(&merged, &packed, Recompute::Nothing);
    let prefix = "base_model.model.";
    let mut checked = 0;
    for a_place in (0..model.trainable().len()).filter(|i| model.trainable().name(*i).ends_with("lora_A.weight")) {
        let module = model.trainable().name(a_place).strip_prefix(prefix).unwrap();
        let module = module.strip_suffix(".lora_A.weight").unwrap().to_owned();
        let place = |side: &str| model.trainable().position(&format!("{prefix}{module}.lora_{side}")).unwrap();
        let places = ["A.weight", "B.weight", "sigma", "s"].map(place);
        let variables = places.map(|place| {
            let values = Tensor::new(model.trainable().tensor(place), &Device::Cpu).unwrap();
            Var::from_tensor(&values.reshape(model.trainable().shape(place)).unwrap()).unwrap()
        });
        let [a, b, sigma, s] = &variables;
        // W = W₀ + c·U·diag(σ, s·λ)·Vᵀ
        let of_preference = Tensor::new(&preference, &Device::Cpu).unwrap().broadcast_mul(s).unwrap();
        let values = Tensor::cat(&[sigma.as_tensor(), &of_preference], 0).unwrap();
        let change = (b.broadcast_mul(&values).unwrap().matmul(a).unwrap() * (5.0 / 3.0)).unwrap();
        let weight = model.parameters().position(&format!("{module}.weight")).unwrap();
        let base = Tensor::new(model.parameters().tensor(weight), &Device::Cpu).unwrap();
        let whole =
            (base.reshape(change.dims()).unwrap() + &change).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (ours, theirs) in merged.parameters().tensor(weight).iter().zip(whole) {
            assert!((ours - theirs).abs() < 1e-13, "{module}: {ours} {theirs}");
        }
        let d = Tensor::new(of_weights.tensor(weight), &Device::Cpu).unwrap().reshape(change.dims()).unwrap();
        let mut theirs = (change * d).unwrap().sum_all().unwrap().backward().unwrap();
        for (variable, place) in variables.iter().zip(places) {
            let theirs = theirs.remove(variable).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (ours, theirs) in ours.tensor(place).iter().zip(theirs) {
                let name = model.trainable().name(place);
                assert!((ours - theirs).abs() < 1e-10 * theirs.abs().max(1.0), "{name}: {ours} {theirs}");
            }
        }
        checked += 1;
    }
    assert_eq!(checked, 14);
}

#[test]
fn a_fresh_panacea_adapter_changes_nothing_at_any_preference() {
    let base = CausalLm::<f32>::random(config(true), 22).unwrap();
    let score = |model: &CausalLm<f32>| {
        model.score(&batch(), EVERYTHING, Adapter::On, &mut Workspace::new(1)).unwrap().log_probs
    };
    let expected = score(&base);
    let mut model = base;
    model.add_lora(&LoraConfig { rank: 2, preferences: 2, ..LoraConfig::default() }, 1).unwrap();
    for preference in [[1.0, 0.0], [0.3, 0.7]] {
        model.set_preference(&preference).unwrap();
        assert_eq!(score(&model), expected);
    }
    // Its directions are orthonormal, and the penalty knows.
    let mut gradients = Gradients::zeros(model.trainable());
    assert!(model.add_orthogonality(&mut gradients).unwrap() < 1e-10);
    for (wrong, words) in [(vec![1.0], "1 numbers"), (vec![0.5, 0.6], "sum of 1.1"), (vec![1.5, -0.5], "holds -0.5")] {
        let text = model.set_preference(&wrong).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(model.preference(), [0.3, 0.7]);
    model.remove_adapter();
    assert!(model.set_preference(&[0.5, 0.5]).unwrap_err().to_string().contains("no Panacea adapter"));
}

#[test]
fn the_penalty_of_a_panacea_adapter_is_its_formula_and_its_gradient_the_central_difference() {
    let mut model = panacea([0.2, 0.5, 0.3]);
    let mut gradients = Gradients::zeros(model.trainable());
    let whole = model.add_orthogonality(&mut gradients).unwrap();
    let mut by_hand = 0.0;
    for i in (0..model.trainable().len()).filter(|i| model.trainable().name(*i).ends_with(".weight")) {
        let (rows, columns) = (model.trainable().shape(i)[0], model.trainable().shape(i)[1]);
        let m = model.trainable().tensor(i);
        let of_rows = model.trainable().name(i).contains("lora_A");
        let k = if of_rows { rows } else { columns };
        let at = |vector: usize, j: usize| if of_rows { m[vector * columns + j] } else { m[j * columns + vector] };
        for (p, q) in (0..k).flat_map(|p| (0..k).map(move |q| (p, q))) {
            let product: f64 = (0..m.len() / k).map(|j| at(p, j) * at(q, j)).sum();
            by_hand += (product - if p == q { 1.0 } else { 0.0 }).powi(2);
        }
    }
    assert!((whole - by_hand).abs() < 1e-9 * by_hand, "{whole} {by_hand}");
    let count = model.trainable().element_count();
    let scratch = Gradients::zeros(model.trainable());
    for at in (0..40).map(|i| i * 7919 % count) {
        let mut moved = |by: f64| {
            let before = model.trainable().data()[at];
            model.trainable_mut().data_mut()[at] = before + by;
            let penalty = model.add_orthogonality(&mut scratch.clone()).unwrap();
            model.trainable_mut().data_mut()[at] = before;
            penalty
        };
        let numeric = LoraConfig::ORTHOGONALITY * (moved(1e-5) - moved(-1e-5)) / 2e-5;
        let ours = gradients.data()[at];
        assert!((ours - numeric).abs() < 1e-6 * numeric.abs().max(1.0), "{at}: {ours} {numeric}");
    }
}

#[test]
fn a_panacea_adapter_that_cannot_be_is_refused() {
    let refused = |lora: LoraConfig| {
        CausalLm::<f64>::random(config(false), 23).unwrap().add_lora(&lora, 1).unwrap_err().to_string()
    };
    let of = |rank, preferences| LoraConfig { rank, preferences, ..LoraConfig::default() };
    assert!(refused(of(2, 1)).contains("preferences is 1; expected 2 to 64"));
    // Two heads of 4 for keys and values.
    let text = refused(of(7, 2));
    assert!(text.contains("k_proj is [8, 16], which has no more than 8 orthogonal directions"), "{text}");
    assert!(refused(LoraConfig { orthogonality: Some(0.1), ..of(2, 0) }).contains("LoRA has no such penalty"));
    assert!(refused(LoraConfig { orthogonality: Some(-1.0), ..of(2, 2) }).contains("orthogonality is -1"));
    let targets = vec!["lm_head".to_owned()];
    assert!(refused(LoraConfig { targets, ..of(2, 2) }).contains("of lm_head"));
}

#[test]
fn adapter_on_the_head() {
    for tied in [true, false] {
        let mut model = CausalLm::<f64>::random(config(tied), 17).unwrap();
        let targets = vec!["lm_head".to_owned(), "v_proj".to_owned()];
        model.add_lora(&LoraConfig { rank: 3, alpha: 4.0, targets, ..LoraConfig::default() }, 1).unwrap();
        for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
            *x += 0.3 * (i as f64).cos();
        }
        check_against_differences(model);
    }
}

/// Each completion with its own copy of the prompt.
#[test]
fn shared_prompt_equals_unshared() {
    let model = CausalLm::<f64>::random(config(true), 15).unwrap();
    let (prompt, first, second): (&[u32], &[u32], &[u32]) = (&[1, 7, 9, 4], &[5, 6, 2], &[8, 8, 11, 2]);
    let context = |completions: Vec<CompletionIds<'static>>| ContextIds {
        prompt: &[1, 7, 9, 4],
        prompt_scored: &[],
        completions,
    };
    assert_eq!(prompt, context(vec![]).prompt);
    let all = |ids: &[u32]| CompletionIds::all_scored(Box::leak(ids.to_vec().into_boxed_slice()));
    let shared = with_given(Packed::new(&[context(vec![all(first), all(second)])]).unwrap());
    let unshared = with_given(Packed::new(&[context(vec![all(first)]), context(vec![all(second)])]).unwrap());
    assert_eq!((shared.tokens(), unshared.tokens()), (11, 15));

    let mut workspace = Workspace::new(1);
    let a = model.forward(&shared, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
    let b = model.forward(&unshared, EVERYTHING, Recompute::Nothing, &mut workspace).unwrap().0;
    for (a, b) in a.log_probs.iter().zip(&b.log_probs) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    let (a, b) = (gradients(&model, &shared, Recompute::Nothing), gradients(&model, &unshared, Recompute::Nothing));
    for (a, b) in a.data().iter().zip(b.data()) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

/// Log-probabilities of further tokens, and a gradient through them alone, against candle's autograd on the hidden states.
#[test]
fn further_tokens_agree_with_autograd_on_the_head() {
    use candle_core::{Device, Tensor, Var};
    let model = CausalLm::<f64>::random(config(false), 18).unwrap();
    let ids = [1, 7, 9, 4, 5, 6, 2];
    let (prompt, completion) = ids.split_at(4);
    let packed = with_given(
        Packed::new(&[ContextIds {
            prompt,
            prompt_scored: &[],
            completions: vec![CompletionIds::all_scored(completion)],
        }])
        .unwrap(),
    );
    let mut workspace = Workspace::new(1);
    let want = Statistics { given_log_probs: true, ..Statistics::default() };
    let (scores, saved) = model.forward(&packed, want, Recompute::Nothing, &mut workspace).unwrap();
    let ours = scores.given_log_probs.unwrap();

    let head = Tensor::new(model.parameters().get("lm_head.weight").unwrap(), &Device::Cpu).unwrap();
    let head = Var::from_tensor(&head.reshape((23, 16)).unwrap()).unwrap();
    let hidden = model.hidden_states(&ids, &mut workspace).unwrap();
    let logits = hidden.matmul(&head.t().unwrap()).unwrap();
    let log_probs = logits.broadcast_sub(&logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap()).unwrap();
    let rows: Vec<u32> = packed.targets().iter().map(|target| target.hidden_row).collect();
    let log_probs = log_probs.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
    let given = Tensor::from_vec(packed.given().to_vec(), (3, 3), &Device::Cpu).unwrap();
    let expected = log_probs.gather(&given, 1).unwrap();
    for (ours, theirs) in ours.iter().zip(expected.flatten_all().unwrap().to_vec1::<f64>().unwrap()) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
    }

    let weights: Vec<f64> = (0..9).map(|i| (f64::from(i) + 0.7).cos()).collect();
    let loss =
        (expected * Tensor::from_vec(weights.clone(), (3, 3), &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
    let theirs = loss.backward().unwrap().remove(&head).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let mut gradients = Gradients::zeros(model.trainable());
    let cotangents = HeadCotangents { given_log_probs: Some(weights), ..HeadCotangents::default() };
    model.backward(&packed, saved, &cotangents, &mut gradients, &mut workspace).unwrap();
    let head = (0..model.trainable().len()).find(|i| model.trainable().name(*i) == "lm_head.weight").unwrap();
    for (ours, theirs) in gradients.tensor(head).iter().zip(theirs) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
    }
}

#[test]
fn further_tokens_that_nobody_named_or_knows_are_refused() {
    let model = CausalLm::<f64>::random(config(true), 19).unwrap();
    let packed = || {
        let completions = vec![CompletionIds::all_scored(&[5, 6])];
        Packed::new(&[ContextIds { prompt: &[1], prompt_scored: &[], completions }]).unwrap()
    };
    let score = |packed: Packed| {
        let mut workspace = Workspace::new(1);
        model.score(&packed, EVERYTHING, Adapter::On, &mut workspace).unwrap_err().to_string()
    };
    let text = score(packed());
    assert!(text.contains("the batch names none; add them by Packed::with_given"), "{text}");
    let text = score(packed().with_given(vec![1, 23], 1).unwrap());
    assert!(text.contains("token id 23 is beyond the model's vocabulary"), "{text}");
}

#[test]
fn prompt_means_are_those_of_the_prompts_alone() {
    let mut model = CausalLm::<f64>::random(config(true), 20).unwrap();
    let mut workspace = Workspace::new(1);
    let prompts: [&[u32]; 2] = [&[1, 7, 9, 4], &[1, 3]];
    let expected = prompts
        .map(|prompt| model.hidden_states(prompt, &mut workspace).unwrap().mean(0).unwrap().to_vec1::<f64>().unwrap());
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, ..LoraConfig::default() }, 1).unwrap();
    model.trainable_mut().data_mut().iter_mut().for_each(|x| *x += 0.3);
    let means = |adapter| model.prompt_means(&batch(), adapter, &mut Workspace::new(1)).unwrap();
    for (ours, expected) in means(Adapter::Off).iter().flatten().zip(expected.iter().flatten()) {
        assert!((ours - expected).abs() < 1e-12, "{ours} {expected}");
    }
    assert_ne!(means(Adapter::On), means(Adapter::Off));
    let empty = Packed::new(&[ContextIds { prompt: &[], prompt_scored: &[], completions: vec![] }]).unwrap();
    assert!(model.prompt_means(&empty, Adapter::On, &mut workspace).unwrap_err().to_string().contains("empty prompt"));
}

#[test]
fn wrong_gradient_buffer_is_refused() {
    let mut model = CausalLm::<f64>::random(config(true), 16).unwrap();
    let mut gradients = Gradients::zeros(model.trainable());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    let mut workspace = Workspace::new(1);
    let (scores, saved) = model.forward(&batch(), EVERYTHING, Recompute::Nothing, &mut workspace).unwrap();
    let error = model
        .backward(&batch(), saved, &cotangents(scores.log_probs.len()), &mut gradients, &mut workspace)
        .unwrap_err();
    assert!(error.to_string().contains("Gradients::zeros"), "{error}");
}
