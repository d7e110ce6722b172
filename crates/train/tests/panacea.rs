//! One adapter for all trade-offs: training, resuming, refusals.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::{Annotation, Context, Example};
use candlewick_losses::{Dpo, Outputs, Recipe};
use candlewick_model::{CausalLm, CompletionIds, ContextIds, LoraConfig, Packed, Recompute};
use candlewick_train::{
    AdapterReference, CausalPolicy, Checkpoint, Error, Policy, Reference, Trainable, Trainer, TrainerOptions,
};
use serde_json::json;
use support::{Random, Threads, batches, bits, completion, example, lora_model, model, options};

/// Helpfulness in the order of the file, safety in that of `safer`.
fn objective(more: &str) -> Recipe {
    let json = format!(
        r#"{{ "type": "panacea" {more},
             "mix": {{ "parts": [ {{ "loss": {{ "type": "dpo", "beta": 0.5 }} }},
                                  {{ "loss": {{ "type": "ordered", "by": "safer", "loss": {{ "type": "dpo", "beta": 0.5 }} }} }} ] }} }}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn panacea(seed: u64) -> CausalLm<f64> {
    let mut model = model(seed);
    model.add_lora(&LoraConfig { rank: 2, alpha: 8.0, preferences: 2, ..LoraConfig::default() }, seed).unwrap();
    model
}

fn trainer(objective: Recipe, options: TrainerOptions) -> Trainer<CausalPolicy<f64>> {
    let policy = CausalPolicy::new(panacea(1), Recompute::Nothing, 1);
    Trainer::new(policy, Reference::AdapterOff, Box::new(objective), options).unwrap()
}

/// Pairs whose helpful side, of tokens 8 to 11, is preferred; in two of three the other, of tokens 12 to 15, is the
/// safer one.
fn rows(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let prompt = random.ids(2, 4);
            let mut words = |first: u32| (0..3).map(|_| first + random.below(4) as u32).collect::<Vec<u32>>();
            let completions = vec![completion(words(8)), completion(words(12))];
            let context = Context { prompt_scored: vec![false; prompt.len()], prompt, completions };
            let mut row = example(i, context, Annotation::Pair);
            row.numbers.insert("safer".to_owned(), if i % 3 == 0 { 1.0 } else { -1.0 });
            row
        })
        .collect()
}

/// The mean margin of the helpful side over the base at a preference, of rows whose other side is the safer one.
fn margin(policy: &mut CausalPolicy<f64>, rows: &[Example], preference: [f64; 2]) -> f64 {
    policy.set_preference(&preference).unwrap();
    let rows: Vec<Example> = rows.iter().filter(|row| row.numbers["safer"] < 0.0).cloned().collect();
    let contexts = rows.iter().flat_map(|row| &row.contexts).map(|context| ContextIds {
        prompt: &context.prompt,
        prompt_scored: &[],
        completions: context.completions.iter().map(|one| CompletionIds::all_scored(&one.ids)).collect(),
    });
    let batch = Packed::new(&contexts.collect::<Vec<_>>()).unwrap();
    let sums = |scores: candlewick_losses::TokenScores| scores.sums().unwrap().to_vec1::<f64>().unwrap();
    let ours = sums(policy.score(&batch, Outputs::default()).unwrap());
    let base = sums(policy.queue_without_adapter(&batch, Outputs::default()).unwrap().read().unwrap());
    let ratios: Vec<f64> = ours.iter().zip(base).map(|(ours, base)| ours - base).collect();
    ratios.chunks_exact(2).map(|pair| pair[0] - pair[1]).sum::<f64>() / rows.len() as f64
}

#[test]
fn one_run_spans_the_trade_off() {
    let mut trainer = trainer(objective(""), TrainerOptions { seed: 5, total_steps: 0, ..options(2e-2) });
    for step in 0..120 {
        let report = trainer.step(&batches(&rows(12, 100 + step), 6)).unwrap();
        let told: Vec<f64> = ["preference_1", "preference_2"].map(|name| report.metrics.value(name).unwrap()).into();
        assert!((told.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(report.metrics.value("orthogonality").unwrap().is_finite());
    }
    let held_out = rows(30, 7);
    let mut policy = trainer.into_policy();
    let margins = [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]
        .map(|preference| margin(&mut policy, &held_out, preference));
    println!("helpful over safe, at helpfulness 1 to 0: {margins:?}");
    assert!(margins.windows(2).all(|pair| pair[0] > pair[1]), "{margins:?}");
    assert!(margins[0] > 1.0 && margins[4] < -0.5, "{margins:?}");
}

#[test]
fn a_resumed_run_is_told_what_the_uninterrupted_one_is() {
    let start = || trainer(objective(""), TrainerOptions { seed: 3, ..options(1e-2) });
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = directory.path().join("checkpoint");
    let of = |step: u64| batches(&rows(6, step), 3);
    let mut whole = start();
    let mut reports = Vec::new();
    for step in 0..6 {
        reports.push(whole.step(&of(step)).unwrap());
        if step == 2 {
            whole.save(&checkpoint, &json!(null), &[]).unwrap();
        }
        // What is measured between steps changes nothing.
        whole.evaluate(of(99).into_iter().map(Ok::<_, Error>)).unwrap();
    }
    let mut again = start();
    again.restore(&Checkpoint::open(&checkpoint).unwrap()).unwrap();
    for step in 3..6 {
        assert_eq!(again.step(&of(step)).unwrap(), reports[step as usize]);
    }
    assert_eq!(bits(&again), bits(&whole));
}

#[test]
fn micro_batches_and_ranks_of_a_step_have_one_preference() {
    let rows = rows(8, 1);
    let mut one = trainer(objective(""), options(1e-2));
    let mut split = trainer(objective(""), options(1e-2));
    let ranks = Threads::new(2);
    for _ in 0..3 {
        one.step(&batches(&rows, 8)).unwrap();
        split.step(&batches(&rows, 1)).unwrap();
    }
    let halves: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let rows = &rows;
        let workers: Vec<_> = ranks
            .into_iter()
            .enumerate()
            .map(|(rank, collective)| {
                scope.spawn(move || {
                    let mut trainer = trainer(objective(""), options(1e-2)).with_collective(Box::new(collective));
                    (0..3).for_each(|_| drop(trainer.step(&batches(&rows[rank * 4..][..4], 4)).unwrap()));
                    bits(&trainer)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(halves[0], halves[1]);
    for others in [bits(&split), halves[0].clone()] {
        for (a, b) in bits(&one).into_iter().zip(others) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }
}

#[test]
fn an_evaluation_is_at_the_preference_that_is_stated() {
    let mut trained = trainer(objective(r#", "evaluate_at": [0.25, 0.75]"#), options(2e-2));
    for step in 0..5 {
        trained.step(&batches(&rows(6, step), 6)).unwrap();
    }
    let report = trained.evaluate(batches(&rows(6, 9), 6).into_iter().map(Ok::<_, Error>)).unwrap();
    assert_eq!(report.metrics.value("preference_1"), Some(0.25));
    assert_eq!(trained.policy().model().preference(), [0.25, 0.75]);
}

#[test]
fn an_objective_and_an_adapter_of_other_preferences_are_refused() {
    let refused = |model: CausalLm<f64>, objective: Recipe, words: &str| {
        let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
        let made = Trainer::new(policy, Reference::AdapterOff, Box::new(objective), options(1e-2));
        let error = made.and_then(|mut trainer| trainer.step(&batches(&rows(2, 1), 2)).map(drop)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(lora_model(1), objective(""), "the objective has 2 preferences, and the policy no Panacea adapter");
    refused(panacea(1), Recipe::Builtin(Dpo::default().into()), "Panacea adapter of 2 preferences, and the objective");
    let mut three = model(1);
    three.add_lora(&LoraConfig { rank: 2, preferences: 3, ..LoraConfig::default() }, 1).unwrap();
    refused(three, objective(""), "2 numbers and the adapter 3 preferences");
    let wrapped = format!(r#"{{ "type": "humanline", "loss": {} }}"#, serde_json::to_string(&objective("")).unwrap());
    refused(panacea(1), serde_json::from_str(&wrapped).unwrap(), "which must be the outermost");
    let policy = CausalPolicy::new(panacea(1), Recompute::Nothing, 1);
    let directory = tempfile::tempdir().unwrap();
    policy.save(directory.path()).unwrap();
    let error = AdapterReference::load(&policy, directory.path()).unwrap_err().to_string();
    assert!(error.contains("whose place no other takes"), "{error}");
}
