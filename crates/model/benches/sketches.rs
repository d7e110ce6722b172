//! What sketches of each item's gradient add to a forward and backward pass of an adapter.
#![expect(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use candlewick_kernels::Workspace;
use candlewick_model::{
    CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, Packed, Recompute, Sketch,
    Statistics,
};
use criterion::{Criterion, criterion_group, criterion_main};

fn passes(criterion: &mut Criterion) {
    let mut config = Config::llama(8_192, 384, 6);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (6, 6, 64);
    config.intermediate_size = 1_024;
    let mut model = CausalLm::<f32>::random(config, 1).unwrap();
    model.add_lora(&LoraConfig { rank: 16, ..LoraConfig::default() }, 1).unwrap();
    let ids: Vec<u32> = (0..400).map(|i| i * 37 % 8_192).collect();
    let contexts = [(120, 60, 50), (40, 100, 30), (90, 45, 70), (60, 60, 60)].map(|(prompt, chosen, rejected)| {
        let completions = [chosen, rejected].map(|length| CompletionIds::all_scored(&ids[200..200 + length])).into();
        ContextIds { prompt: &ids[..prompt], prompt_scored: &[], completions }
    });
    let packed = Packed::new(&contexts).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut workspace, mut gradients) = (Workspace::new(threads), Gradients::zeros(model.trainable()));
    let mut run = |sketch: Option<Sketch>| {
        let saved = model.forward(&packed, Statistics::default(), Recompute::Nothing, &mut workspace).unwrap().1;
        let d = HeadCotangents { log_probs: Some(vec![1.0; packed.targets().len()]), ..HeadCotangents::default() };
        match sketch {
            None => model.backward(&packed, saved, &d, &mut gradients, &mut workspace).unwrap(),
            Some(sketch) => {
                model.backward_with_sketches(&packed, saved, &d, &mut gradients, sketch, &mut workspace).unwrap();
            }
        }
    };
    let mut group = criterion.benchmark_group("forward and backward, LoRA 16, 4 contexts");
    group.sample_size(10);
    group.bench_function("gradients", |bencher| bencher.iter(|| run(None)));
    for dimensions in [256, 4_096] {
        let sketch = Sketch { dimensions, seed: 1 };
        group.bench_function(format!("and sketches of {dimensions}"), |bencher| bencher.iter(|| run(Some(sketch))));
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
