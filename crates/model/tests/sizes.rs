//! The walk through sizes ends with the buffers that the passes themselves end with.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_kernels::Workspace;
use candlewick_model::{
    Adapter, BatchSize, CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, ModelSize,
    Packed, Parameters, Part, Pool, Recompute, ScoreModel, ScoredAt, Statistics,
};

fn config(tied: bool) -> Config {
    let mut config = Config::llama(61, 24, 3);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 6);
    config.tie_word_embeddings = tied;
    config
}

fn lora(targets: &[&str]) -> LoraConfig {
    LoraConfig { rank: 3, targets: targets.iter().map(|&name| name.to_owned()).collect(), ..LoraConfig::default() }
}

/// Pairs whose prompt and completions have the given lengths.
fn batch(lengths: &[[usize; 3]]) -> Packed {
    let ids: Vec<u32> = (0..200).map(|i| i % 61).collect();
    let contexts = lengths.iter().map(|&[prompt, chosen, rejected]| ContextIds {
        prompt: &ids[..prompt],
        prompt_scored: &[],
        completions: [chosen, rejected].map(|length| CompletionIds::all_scored(&ids[..length])).into(),
    });
    Packed::new(&contexts.collect::<Vec<_>>()).unwrap()
}

/// The last ones are many of many sizes, so that buffers of some are let go.
fn batches() -> Vec<Packed> {
    let many = (0..40).map(|i| batch(&[[5 + i * 37 % 90, 3 + i * 53 % 80, 4 + i * 11 % 60], [8, 3 + i * 29 % 70, 9]]));
    let few = [
        batch(&[[40, 30, 20], [7, 90, 3]]),
        batch(&[[9, 3, 2]]),
        batch(&[[40, 30, 20], [7, 90, 3], [33, 33, 33]]),
        batch(&[[20, 25, 22], [17, 40, 31]]),
    ];
    few.into_iter().chain(many).collect()
}

fn train(model: &CausalLm<f32>, packed: &Packed, want: Statistics, recompute: Recompute, workspace: &mut Workspace) {
    let (scores, saved) = model.forward(packed, want, recompute, workspace).unwrap();
    let ones = vec![1.0; scores.log_probs.len()];
    let cotangents = HeadCotangents {
        log_probs: Some(ones.clone()),
        entropy: want.entropy.then_some(ones),
        ..HeadCotangents::default()
    };
    let mut gradients = Gradients::zeros(model.trainable());
    model.backward(packed, saved, &cotangents, &mut gradients, workspace).unwrap();
}

fn layout(parameters: &Parameters<f32>) -> Vec<(String, Vec<usize>)> {
    (0..parameters.len()).map(|i| (parameters.name(i).to_owned(), parameters.shape(i).to_vec())).collect()
}

#[test]
fn sizes_are_those_of_the_model() {
    for tied in [true, false] {
        let mut model = CausalLm::<f32>::random(config(tied), 1).unwrap();
        let size = ModelSize::new(config(tied));
        assert_eq!(size.base_elements(), model.parameters().element_count());
        assert_eq!((size.adapter_elements(), size.trained_elements()), (0, size.base_elements()));
        let largest = (0..model.parameters().len()).map(|i| model.parameters().tensor(i).len()).max().unwrap();
        assert_eq!(size.largest_trained_tensor(), largest);
        assert_eq!(size.trained_tensors().unwrap(), layout(model.parameters()));

        let lora = lora(&["q_proj", "down_proj", "lm_head"]);
        model.add_lora(&lora, 1).unwrap();
        let size = size.with_lora(&lora);
        let adapter = model.adapter().unwrap();
        assert_eq!(size.adapter_elements(), adapter.element_count());
        assert_eq!(size.trained_elements(), adapter.element_count());
        let largest = (0..adapter.len()).map(|i| adapter.tensor(i).len()).max().unwrap();
        assert_eq!(size.largest_trained_tensor(), largest);
        assert_eq!(size.trained_tensors().unwrap(), layout(adapter));

        let directory = tempfile::tempdir().unwrap();
        model.save_adapter(directory.path(), "base").unwrap();
        let read = ModelSize::new(config(tied)).with_adapter(directory.path()).unwrap();
        assert_eq!(read.adapter_elements(), adapter.element_count());
    }
}

#[test]
fn sizes_of_a_panacea_adapter_are_its_own() {
    let mut model = CausalLm::<f32>::random(config(true), 1).unwrap();
    let lora = LoraConfig { preferences: 2, ..lora(&["q_proj", "down_proj"]) };
    model.add_lora(&lora, 1).unwrap();
    let adapter = model.adapter().unwrap();
    let directory = tempfile::tempdir().unwrap();
    model.save_adapter(directory.path(), "base").unwrap();
    let size = ModelSize::new(config(true));
    for size in [size.clone().with_lora(&lora), size.with_adapter(directory.path()).unwrap()] {
        assert_eq!(size.adapter_elements(), adapter.element_count());
        assert_eq!(size.trained_tensors().unwrap(), layout(adapter));
    }
}

#[test]
fn batches_are_measured_with_each_prompt_once() {
    let packed = batch(&[[40, 30, 20], [7, 90, 3]]);
    assert_eq!(BatchSize::of(&packed), BatchSize { tokens: 190, targets: 143, completions: 4, longest: 97 });
}

#[test]
fn a_pool_ends_with_the_buffers_of_a_workspace() {
    let all = LoraConfig::default().targets;
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let entropy = Statistics { entropy: true, ..Statistics::default() };
    let with_head = ["v_proj", "lm_head"];
    for (targets, preferences, threads) in [
        (None, 0, 1),
        (Some(&all[..]), 0, 1),
        (Some(&["v_proj", "up_proj"][..]), 0, 2),
        (Some(&with_head[..]), 0, 1),
        (Some(&all[..]), 2, 1),
    ] {
        for recompute in [Recompute::Nothing, Recompute::Layers] {
            for want in [Statistics::default(), entropy] {
                let mut model = CausalLm::<f32>::random(config(true), 1).unwrap();
                let mut size = ModelSize::new(config(true));
                if let Some(targets) = targets {
                    let lora = LoraConfig { preferences, ..lora(targets) };
                    model.add_lora(&lora, 1).unwrap();
                    size = size.with_lora(&lora);
                }
                let (mut workspace, mut pool) = (Workspace::new(threads), Pool::default());
                let threads = workspace.threads();
                for (i, packed) in batches().iter().enumerate() {
                    let batch = BatchSize::of(packed);
                    train(&model, packed, want, recompute, &mut workspace);
                    size.train(batch, want, recompute, threads, &mut pool);
                    let held = workspace.idle_elements::<f32>();
                    let place = format!("{targets:?} {recompute:?} {want:?}: training on batch {i}");
                    assert_eq!(pool.all_elements(), held, "{place}");
                    assert_eq!(workspace.lent_elements::<f32>(), 0, "{targets:?} {recompute:?}: training on batch {i}");
                    for adapter in [Adapter::On, Adapter::Off] {
                        model.score(packed, want, adapter, &mut workspace).unwrap();
                        size.score(batch, want, adapter, threads, &mut pool);
                        let held = workspace.idle_elements::<f32>();
                        let place = format!("{targets:?} {adapter:?}: scoring batch {i}");
                        assert_eq!(pool.all_elements(), held, "{place}");
                        assert_eq!(workspace.lent_elements::<f32>(), 0, "{targets:?} {adapter:?}: scoring batch {i}");
                    }
                }
            }
        }
    }
}

/// As the two tests above, of score models.
#[test]
fn sizes_of_score_models_are_theirs_too() {
    let names = ["reward".to_owned(), "cost".to_owned()];
    for (targets, recompute) in [
        (None, Recompute::Nothing),
        (Some(["v_proj", "up_proj"]), Recompute::Nothing),
        (Some(["v_proj", "up_proj"]), Recompute::Layers),
    ] {
        let mut model = ScoreModel::<f32>::random(config(true), &names, 1).unwrap();
        let directory = tempfile::tempdir().unwrap();
        model.save(directory.path()).unwrap();
        let mut size = ModelSize::from_dir(directory.path()).unwrap();
        if let Some(targets) = targets {
            model.add_lora(&lora(&targets), 1).unwrap();
            size = size.with_lora(&lora(&targets));
        }
        assert_eq!(size.base_elements(), model.parameters().element_count());
        assert_eq!(size.trained_elements(), model.trainable().element_count());
        assert_eq!(size.trained_tensors().unwrap(), layout(model.trainable()));
        let largest = (0..model.trainable().len()).map(|i| model.trainable().tensor(i).len()).max().unwrap();
        assert_eq!(size.largest_trained_tensor(), largest);
        assert_eq!(size.head_gradient_elements(), 2 * 24);

        let (mut workspace, mut pool) = (Workspace::new(1), Pool::default());
        let threads = workspace.threads();
        for (i, packed) in batches().iter().enumerate() {
            let (batch, at) = (BatchSize::of(packed), ScoredAt::Completions);
            let (values, saved) = model.forward(packed, at, recompute, &mut workspace).unwrap();
            let mut gradients = Gradients::zeros(model.trainable());
            model.backward(packed, saved, &vec![1.0; values.len()], &mut gradients, &mut workspace).unwrap();
            size.train(batch, Statistics::default(), recompute, threads, &mut pool);
            assert_eq!(pool.all_elements(), workspace.idle_elements::<f32>(), "{targets:?}: training on batch {i}");
            model.score(packed, at, Adapter::On, &mut workspace).unwrap();
            size.score(batch, Statistics::default(), Adapter::On, threads, &mut pool);
            assert_eq!(pool.all_elements(), workspace.idle_elements::<f32>(), "{targets:?}: scoring batch {i}");
            assert_eq!(workspace.lent_elements::<f32>(), 0);
        }
    }
}

#[test]
fn everything_that_is_lent_comes_back() {
    let model = CausalLm::<f32>::random(config(true), 1).unwrap();
    let mut workspace = Workspace::new(1);
    let prompts = batch(&[[9, 3, 2], [20, 25, 22]]);
    model.prompt_means(&prompts, Adapter::Off, &mut workspace).unwrap();
    model.logits(&[1, 2, 3], &mut workspace).unwrap();
    model.hidden_states(&[1, 2, 3], &mut workspace).unwrap();
    assert_eq!(workspace.lent_elements::<f32>(), 0);
}

#[test]
fn what_layers_keep_is_what_is_kept_of_each_token() {
    let size = ModelSize::new(config(true));
    let mut pool = Pool::default();
    let batch = BatchSize { tokens: 300, targets: 120, completions: 6, longest: 90 };
    size.train(batch, Statistics::default(), Recompute::Nothing, 1, &mut pool);
    // And the input of the final norm.
    let kept = 3 * 300 * size.kept_per_token_and_layer() + 300 * 24;
    // A buffer that passed by counts for the layer that keeps it later, though it may be larger.
    let (planned, tolerance) = (pool.elements(Part::Layers) as f64, 0.03);
    assert!((planned / kept as f64 - 1.0).abs() < tolerance, "{planned} {kept}");
    let mut again = Pool::default();
    size.train(batch, Statistics::default(), Recompute::Layers, 1, &mut again);
    assert!(again.all_elements() < pool.all_elements(), "{again:?} {pool:?}");
}
