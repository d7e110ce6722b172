//! Metrics against what they are defined to be, computed by hand from the scores.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeMap;

use candlewick_data::{Batch, Example};
use candlewick_kernels::Workspace;
use candlewick_losses::{Dpo, Kto, Outputs, Sft};
use candlewick_model::{Adapter, CausalLm, CompletionIds, ContextIds, Packed, Statistics};
use candlewick_train::TrainerOptions;
use support::{batches, labelled, mismatched_batches, model, options, pairs, trainer, worst};

/// Log-probability, entropies and hits of every completion, each computed alone.
struct Row {
    log_prob: f64,
    entropy: Vec<f64>,
    is_top1: Vec<f64>,
}

fn rows(model: &CausalLm<f64>, examples: &[Example]) -> Vec<Row> {
    let context = |example: &Example| example.contexts[0].clone();
    let mut rows = Vec::new();
    for context in examples.iter().map(context) {
        for completion in &context.completions {
            let ids = ContextIds {
                prompt: &context.prompt,
                prompt_scored: &[],
                completions: vec![CompletionIds::all_scored(&completion.ids)],
            };
            let want = Statistics { entropy: true, is_top1: true, ..Statistics::default() };
            let scores = model.score(&Packed::new(&[ids]).unwrap(), want, Adapter::On, &mut Workspace::new(1)).unwrap();
            rows.push(Row {
                log_prob: scores.log_probs.iter().sum(),
                entropy: scores.entropy.unwrap(),
                is_top1: scores.is_top1.unwrap(),
            });
        }
    }
    rows
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn assert_values(got: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    let names: Vec<&str> = got.keys().map(String::as_str).collect();
    let mut expected_names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    expected_names.sort_unstable();
    assert_eq!(names, expected_names);
    for (name, value) in expected {
        assert!(worst(&[got[*name]], &[*value]) < 1e-12, "{name}: {} instead of {value}", got[*name]);
    }
}

fn with_statistics() -> TrainerOptions {
    TrainerOptions { monitor: Outputs { entropy: true, is_top1: true, ..Outputs::NONE }, ..options(1e-2) }
}

fn evaluated(batches: Vec<Batch>) -> impl Iterator<Item = candlewick_train::Result<Batch>> {
    batches.into_iter().map(Ok)
}

#[test]
fn pairs_are_measured_exactly_in_unequal_batches() {
    let beta = 0.3;
    let mut trainer = trainer(model::<f64>(1), Dpo { beta, ..Dpo::default() }, with_statistics());
    trainer.step(&batches(&pairs(6, 1), 3)).unwrap();
    let held_out = pairs(5, 2);
    let (policy, reference) = (rows(trainer.policy().model(), &held_out), rows(&model(1), &held_out));
    let log_ratio = |row: usize| policy[row].log_prob - reference[row].log_prob;
    let reward = |row: usize| beta * log_ratio(row);
    let chosen_tokens: usize = policy.iter().step_by(2).map(|row| row.entropy.len()).sum();
    let margins: Vec<f64> = (0..5).map(|pair| reward(2 * pair) - reward(2 * pair + 1)).collect();
    let tokens: Vec<f64> = policy.iter().flat_map(|row| row.entropy.clone()).collect();
    let hits: Vec<f64> = policy.iter().step_by(2).flat_map(|row| row.is_top1.clone()).collect();

    // Batches of 2, 2 and 1: a mean of means would differ.
    let report = trainer.evaluate(evaluated(batches(&held_out, 2))).unwrap();
    let expected = [
        ("rewards/chosen", mean((0..5).map(|pair| reward(2 * pair)))),
        ("rewards/rejected", mean((0..5).map(|pair| reward(2 * pair + 1)))),
        ("rewards/margins", mean(margins.clone())),
        ("rewards/accuracies", mean(margins.iter().map(|margin| f64::from(*margin > 0.0)))),
        ("logps/chosen", mean((0..5).map(|pair| policy[2 * pair].log_prob))),
        ("logps/rejected", mean((0..5).map(|pair| policy[2 * pair + 1].log_prob))),
        ("log_ratios/absolute", mean((0..10).map(|row| log_ratio(row).abs()))),
        ("log_ratios/chosen", (0..5).map(|pair| log_ratio(2 * pair)).sum::<f64>() / chosen_tokens as f64),
        ("entropy", mean(tokens)),
        ("mean_token_accuracy", mean(hits)),
    ];
    assert_values(&report.metrics.values(), &expected);
    let loss = mean(margins.iter().map(|margin| (-margin).exp().ln_1p()));
    assert!(worst(&[report.loss], &[loss]) < 1e-12);
    assert_eq!(report.rows, 10);
    assert!((report.metrics.mean("rewards/accuracies").unwrap().count - 5.0).abs() < f64::EPSILON);
}

#[test]
fn ties_count_as_wrong() {
    let mut trainer = trainer(model::<f64>(1), Dpo::default(), options(1e-2));
    let report = trainer.step(&batches(&pairs(4, 1), 2)).unwrap();
    assert_values(
        &report.metrics.values().into_iter().filter(|(name, _)| name.starts_with("rewards")).collect(),
        &[("rewards/accuracies", 0.0), ("rewards/chosen", 0.0), ("rewards/margins", 0.0), ("rewards/rejected", 0.0)],
    );
}

#[test]
fn verdicts_are_measured_by_label_and_not_by_batch() {
    let beta = 0.3;
    let mut trainer = trainer(model::<f64>(1), Kto { beta, ..Kto::default() }, options(1e-2));
    trainer.step(&mismatched_batches(&labelled(6, 1), 3)).unwrap();
    let held_out = labelled(7, 2);
    let (policy, reference) = (rows(trainer.policy().model(), &held_out), rows(&model(1), &held_out));
    let log_ratio = |row: usize| policy[row].log_prob - reference[row].log_prob;
    let batches = mismatched_batches(&held_out, 3);
    let shifted: Vec<Example> = batches
        .iter()
        .flat_map(|batch| &batch.mismatched)
        .enumerate()
        .map(|(i, context)| support::example(i, context.clone(), held_out[0].annotation.clone()))
        .collect();
    let (policy_shifted, reference_shifted) = (rows(trainer.policy().model(), &shifted), rows(&model(1), &shifted));
    let kl = mean(policy_shifted.iter().zip(&reference_shifted).map(|(a, b)| a.log_prob - b.log_prob)).max(0.0);

    let wanted = |row: &usize| !row.is_multiple_of(3);
    let (chosen, rejected): (Vec<usize>, Vec<usize>) = (0..7).partition(wanted);
    let rewards = |rows: &[usize]| mean(rows.iter().map(|row| beta * log_ratio(*row)));
    let report = trainer.evaluate(evaluated(batches)).unwrap();
    let chosen_tokens: usize = chosen.iter().map(|row| policy[*row].entropy.len()).sum();
    let expected = [
        ("kl", kl),
        ("log_ratios/absolute", mean((0..7).map(|row| log_ratio(row).abs()))),
        ("log_ratios/chosen", chosen.iter().map(|row| log_ratio(*row)).sum::<f64>() / chosen_tokens as f64),
        ("rewards/chosen", rewards(&chosen)),
        ("rewards/rejected", rewards(&rejected)),
        ("rewards/margins", rewards(&chosen) - rewards(&rejected)),
        ("logps/chosen", mean(chosen.iter().map(|row| policy[*row].log_prob))),
        ("logps/rejected", mean(rejected.iter().map(|row| policy[*row].log_prob))),
    ];
    assert_values(&report.metrics.values(), &expected);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let loss = mean((0..7).map(|row| {
        let u = beta * (log_ratio(row) - kl);
        1.0 - sigmoid(if wanted(&row) { u } else { -u })
    }));
    assert!(worst(&[report.loss], &[loss]) < 1e-12, "{} instead of {loss}", report.loss);
}

#[test]
fn imitation_is_the_mean_over_tokens_of_the_whole_step() {
    let mut trainer = trainer(model::<f64>(1), Sft {}, options(1e-2));
    let examples = pairs(5, 3);
    let lengths: Vec<usize> = examples.iter().map(|example| example.contexts[0].completions[0].ids.len()).collect();
    let before = rows(&model(1), &examples);
    let log_prob = |pair: usize| before[2 * pair].log_prob;
    let report = trainer.step(&batches(&examples, 2)).unwrap();
    let loss = -(0..5).map(log_prob).sum::<f64>() / lengths.iter().sum::<usize>() as f64;
    assert!(worst(&[report.loss], &[loss]) < 1e-12);
    let of = |pairs: std::ops::Range<usize>| {
        -pairs.clone().map(log_prob).sum::<f64>() / lengths[pairs].iter().sum::<usize>() as f64
    };
    assert!(worst(&report.micro_losses, &[of(0..2), of(2..4), of(4..5)]) < 1e-12);
    let tokens: usize = examples
        .iter()
        .flat_map(|e| &e.contexts)
        .map(|c| c.completions.iter().map(|x| c.prompt.len() + x.ids.len()).sum::<usize>())
        .sum();
    assert_eq!(report.tokens, tokens as u64);
}
