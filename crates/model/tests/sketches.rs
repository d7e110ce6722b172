//! Sketches of each item's gradient, made in one backward, against gradients of each item alone, in f64.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use candlewick_kernels::Workspace;
use candlewick_kernels::count_sketch::Projection;
use candlewick_model::{
    CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, Packed, Recompute, Sketch,
    Sketches, Statistics,
};

const SKETCH: Sketch = Sketch { dimensions: 64, seed: 5 };

/// A small model with an adapter on all linears, none of it zero.
fn model() -> CausalLm<f64> {
    let mut config = Config::llama(23, 16, 2);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (4, 2, 4);
    config.initializer_range = 0.4;
    let mut model = CausalLm::random(config, 13).unwrap();
    model.add_lora(&LoraConfig { rank: 3, alpha: 5.0, ..LoraConfig::default() }, 1).unwrap();
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.3 * (i as f64).sin();
    }
    model
}

/// A pair with a scored prompt token, one without a prompt but for a token, a prompt that nothing follows, a single row.
fn contexts() -> Vec<ContextIds<'static>> {
    let context = |prompt, prompt_scored, completions| ContextIds { prompt, prompt_scored, completions };
    vec![
        context(
            &[1, 7, 9, 4],
            &[false, false, true, false],
            vec![
                CompletionIds::all_scored(&[5, 6, 2]),
                CompletionIds { ids: &[8, 8, 11, 2], scored: &[true, false, true, true] },
            ],
        ),
        context(&[3], &[], vec![CompletionIds::all_scored(&[22, 2]), CompletionIds::all_scored(&[2])]),
        context(&[1, 4], &[], vec![]),
        context(&[1, 12, 20], &[], vec![CompletionIds::all_scored(&[5, 17, 2])]),
    ]
}

/// The cotangent of target `i` of the batch.
fn weight(i: usize) -> f64 {
    (i as f64 + 0.3).sin()
}

struct Made {
    gradients: Gradients<f64>,
    sketches: Option<Sketches>,
}

fn backward(
    model: &CausalLm<f64>,
    packed: &Packed,
    weights: Vec<f64>,
    sketch: Option<Sketch>,
    recompute: Recompute,
    threads: usize,
) -> Made {
    let mut workspace = Workspace::new(threads);
    let mut gradients = Gradients::zeros(model.trainable());
    let saved = model.forward(packed, Statistics::default(), recompute, &mut workspace).unwrap().1;
    let d = HeadCotangents { log_probs: Some(weights), ..HeadCotangents::default() };
    let sketches = match sketch {
        Some(sketch) => {
            Some(model.backward_with_sketches(packed, saved, &d, &mut gradients, sketch, &mut workspace).unwrap())
        }
        None => {
            model.backward(packed, saved, &d, &mut gradients, &mut workspace).unwrap();
            None
        }
    };
    Made { gradients, sketches }
}

fn whole_batch(sketch: Sketch, recompute: Recompute, threads: usize) -> Made {
    let packed = Packed::new(&contexts()).unwrap();
    let weights = (0..packed.targets().len()).map(weight).collect();
    backward(&model(), &packed, weights, Some(sketch), recompute, threads)
}

fn sketches(sketch: Sketch) -> Sketches {
    whole_batch(sketch, Recompute::Nothing, 1).sketches.unwrap()
}

/// The gradient of each context in a batch of its own, with the cotangents that its targets have in the whole batch.
fn gradients_alone() -> Vec<Vec<f64>> {
    let model = model();
    let mut first = 0;
    contexts()
        .into_iter()
        .map(|context| {
            let packed = Packed::new(&[context]).unwrap();
            let count = packed.targets().len();
            let weights = (first..first + count).map(weight).collect();
            first += count;
            backward(&model, &packed, weights, None, Recompute::Nothing, 1).gradients.data().to_vec()
        })
        .collect()
}

/// Element by element.
fn projected(gradient: &[f64], sketch: Sketch) -> Vec<f64> {
    let model = model();
    let parameters = model.trainable();
    let mut out = vec![0.0; sketch.dimensions];
    for tensor in 0..parameters.len() {
        let projection = Projection::new(parameters.name(tensor), sketch.seed, sketch.dimensions).unwrap();
        for (i, x) in gradient[parameters.range(tensor)].iter().enumerate() {
            let (bucket, sign) = projection.place(i);
            out[bucket] += sign * x;
        }
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[track_caller]
fn assert_near(a: &[f64], b: &[f64], bound: f64) {
    assert_eq!(a.len(), b.len());
    let (difference, size) =
        a.iter().zip(b).fold((0.0f64, 1.0f64), |(d, s), (a, b)| (d.max((a - b).abs()), s.max(b.abs())));
    assert!(difference <= bound * size, "{difference:e} of {size}");
}

#[test]
fn sketches_are_projections_of_the_gradients_of_items_alone() {
    for sketch in [SKETCH, Sketch { dimensions: 1, seed: 0 }, Sketch { dimensions: 5000, seed: u64::MAX }] {
        let (ours, alone) = (sketches(sketch), gradients_alone());
        assert_eq!((ours.len(), ours.item(0).len()), (4, sketch.dimensions));
        for (ours, alone) in ours.items().zip(&alone) {
            assert_near(ours, &projected(alone, sketch), 1e-10);
        }
        assert!(ours.item(0).iter().any(|x| x.abs() > 1e-3));
        assert!(ours.item(2).iter().all(|x| *x == 0.0), "nothing is scored there");
    }
}

#[test]
fn they_add_up_to_the_sketch_of_the_batch() {
    let Made { gradients, sketches } = whole_batch(SKETCH, Recompute::Nothing, 1);
    let sketches = sketches.unwrap();
    let whole = SKETCH.of(model().trainable(), &gradients).unwrap();
    let total: Vec<f64> = (0..SKETCH.dimensions).map(|j| sketches.items().map(|item| item[j]).sum()).collect();
    assert_eq!(whole.len(), 1);
    assert_near(&total, whole.item(0), 1e-10);
}

#[test]
fn gradients_have_the_bits_of_a_plain_backward() {
    let packed = Packed::new(&contexts()).unwrap();
    let weights: Vec<f64> = (0..packed.targets().len()).map(weight).collect();
    for recompute in [Recompute::Nothing, Recompute::Layers] {
        let plain = backward(&model(), &packed, weights.clone(), None, recompute, 2);
        assert_eq!(plain.gradients.data(), whole_batch(SKETCH, recompute, 2).gradients.data());
    }
}

#[test]
fn neither_recomputation_nor_threads_show() {
    let kept = sketches(SKETCH);
    for (recompute, threads) in [(Recompute::Layers, 1), (Recompute::Nothing, 3)] {
        assert_eq!(whole_batch(SKETCH, recompute, threads).sketches.unwrap(), kept, "{recompute:?}, {threads} threads");
    }
}

/// Both completions of a pair with a prompt each make two items, whose sketches add up to the pair's.
#[test]
fn a_shared_prompt_counts_for_its_item() {
    let all = CompletionIds::all_scored;
    let context = |completions| ContextIds { prompt: &[1, 7, 9, 4], prompt_scored: &[], completions };
    let (first, second): (&[u32], &[u32]) = (&[5, 6, 2], &[8, 8, 11, 2]);
    let shared = Packed::new(&[context(vec![all(first), all(second)])]).unwrap();
    let apart = Packed::new(&[context(vec![all(first)]), context(vec![all(second)])]).unwrap();
    let made = [shared, apart].map(|packed| {
        let weights = (0..packed.targets().len()).map(weight).collect();
        backward(&model(), &packed, weights, Some(SKETCH), Recompute::Nothing, 1).sketches.unwrap()
    });
    let [shared, apart] = made;
    assert_eq!((shared.len(), apart.len()), (1, 2));
    let sum: Vec<f64> = apart.item(0).iter().zip(apart.item(1)).map(|(a, b)| a + b).collect();
    assert_near(shared.item(0), &sum, 1e-10);
}

/// Within five standard deviations at 4096 dimensions, and, over seeds, unbiased.
#[test]
fn inner_products_are_those_of_the_gradients() {
    const SEEDS: u64 = 40;
    let alone = gradients_alone();
    let scored = [0, 1, 3];
    let k = 4096.0;
    let estimates: Vec<Vec<f64>> = (0..SEEDS)
        .map(|seed| {
            let sketches = sketches(Sketch { dimensions: 4096, seed });
            sketches.inner_products(&sketches).unwrap()
        })
        .collect();
    for (a, b) in scored.iter().flat_map(|a| scored.iter().map(move |b| (*a, *b))) {
        let (g, h) = (&alone[a], &alone[b]);
        let shared: f64 = g.iter().zip(h).map(|(g, h)| (g * h).powi(2)).sum();
        let exact = dot(g, h);
        let deviation = ((dot(g, g) * dot(h, h) + exact * exact - 2.0 * shared) / k).sqrt();
        let of_pair = || estimates.iter().map(|products| products[4 * a + b]);
        for estimate in of_pair() {
            assert!((estimate - exact).abs() < 5.0 * deviation, "{a} {b}: {estimate} for {exact} ± {deviation}");
        }
        let mean = of_pair().sum::<f64>() / SEEDS as f64;
        let bound = 4.0 * deviation / (SEEDS as f64).sqrt();
        assert!((mean - exact).abs() < bound, "{a} {b}: {mean} for {exact} ± {bound}");
    }
}

#[test]
fn sketches_of_different_projections_are_not_compared() {
    let a = sketches(SKETCH);
    let b = sketches(Sketch { seed: 6, ..SKETCH });
    assert_ne!(a.values(), b.values());
    let text = a.inner_products(&b).unwrap_err().to_string();
    assert!(text.contains("with the same dimensions and seed"), "{text}");
}

#[test]
fn what_cannot_be_sketched_is_refused() {
    let packed = Packed::new(&contexts()).unwrap();
    let refusal = |model: &CausalLm<f64>, sketch| {
        let mut workspace = Workspace::new(1);
        let mut gradients = Gradients::zeros(model.trainable());
        let saved = model.forward(&packed, Statistics::default(), Recompute::Nothing, &mut workspace).unwrap().1;
        let d = HeadCotangents::default();
        let made = model.backward_with_sketches(&packed, saved, &d, &mut gradients, sketch, &mut workspace);
        made.unwrap_err().to_string()
    };
    let mut model = model();
    for dimensions in [0, (1 << 24) + 1] {
        let text = refusal(&model, Sketch { dimensions, seed: 0 });
        assert!(text.contains("expected 1 to 16777216"), "{text}");
    }
    model.remove_adapter();
    let text = refusal(&model, SKETCH);
    assert!(text.contains("add_lora or load_adapter"), "{text}");
    assert!(SKETCH.of(model.trainable(), &Gradients::zeros(self::model().trainable())).is_err());
    let targets = vec!["lm_head".to_owned(), "q_proj".to_owned()];
    model.add_lora(&LoraConfig { targets, ..LoraConfig::default() }, 1).unwrap();
    let text = refusal(&model, SKETCH);
    assert!(text.contains("an adapter without lm_head among its targets"), "{text}");
}
