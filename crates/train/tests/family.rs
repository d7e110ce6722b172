//! Every objective of the list trains a model: its loss falls, and those of pairs teach the preference.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::{Annotation, Batch, Completion, Context, Example, Origin, TeacherToken};
use candlewick_kernels::Workspace;
use candlewick_losses::{Builtin, Needs, Objective, Recipe, StepWide, Teacher};
use candlewick_model::{Adapter, CausalLm, CompletionIds, ContextIds, Packed, Recompute, ScoreModel, Statistics};
use candlewick_train::{Reference, ScorePolicy, Trainer};
use support::{Random, VOCABULARY, batches, mismatched_batches, model, options, trainer};

const STEPS: usize = 50;

#[test]
fn every_objective_lowers_its_loss_and_pairs_teach_their_preference() {
    let presets = Builtin::presets().map(|(_, preset)| preset.name);
    for name in Builtin::NAMES.iter().copied().chain(presets) {
        let other = SETTINGS.iter().find(|(of, _)| *of == name).map(|(_, settings)| (*settings).to_owned());
        let loss = other.unwrap_or_else(|| format!(r#"{{ "type": "{name}" }}"#));
        train(serde_json::from_str(&loss).unwrap());
    }
}

/// Losses whose defaults suit no run from the reference that is as short as this, or whose reference moves.
const SETTINGS: [(&str, &str); 6] = [
    // About a reference that follows the loss stays near where it began; see `moving_reference.rs`.
    ("tr_dpo", r#"{ "type": "tr_dpo", "update": "frozen" }"#),
    ("tr_ipo", r#"{ "type": "tr_ipo", "update": "frozen" }"#),
    ("tr_kto", r#"{ "type": "tr_kto", "update": "frozen" }"#),
    ("tr_bco", r#"{ "type": "tr_bco", "update": "frozen" }"#),
    // At its default τ the loss rises with the margin around 0: see its documentation.
    ("discopop", r#"{ "type": "discopop", "tau": 1.0 }"#),
    // Its target is a margin of half a nat a round, which a handful of rows reaches by heart.
    ("onpo", r#"{ "type": "onpo", "eta": 20.0 }"#),
];

#[test]
fn objectives_that_wrap_others_train_too() {
    for json in [
        r#"{ "type": "mix", "parts": [ { "loss": { "type": "dpo" } }, { "weight": 0.2, "loss": { "type": "sft" } } ] }"#,
        r#"{ "type": "wpo", "loss": { "type": "dpo" } }"#,
        r#"{ "type": "humanline", "loss": { "type": "dpo" } }"#,
        r#"{ "type": "trust_region", "update": "frozen", "loss": { "type": "dpo" } }"#,
    ] {
        train(serde_json::from_str(json).unwrap());
    }
}

fn train(objective: Recipe) {
    let needs = objective.needs();
    let batches = steps(&needs, examples(&needs, 24, 1));
    let held_out = pairs(48, 99);
    let before = accuracy(&model(1), &held_out);
    let name = format!("{objective:?}");
    if needs.outputs.values {
        let model = score_model();
        let policy = ScorePolicy::new(model, Recompute::Nothing, 1);
        let mut trainer = Trainer::new(policy, Reference::None, Box::new(objective), options(5e-3)).unwrap();
        let losses: Vec<f64> = (0..STEPS).map(|_| trainer.step(&batches).unwrap().loss).collect();
        let (first, last) = (mean(&losses[..5]), mean(&losses[STEPS - 5..]));
        assert!(last < first, "{name}: the loss went from {first} to {last}");
        return;
    }
    let mut trainer = trainer(model::<f32>(1), objective, options(5e-3));
    let losses: Vec<f64> = (0..STEPS).map(|_| trainer.step(&batches).unwrap().loss).collect();
    let (first, last) = (mean(&losses[..5]), mean(&losses[STEPS - 5..]));
    assert!(last < first, "{name}: the loss went from {first} to {last}");
    // What is weighed against costs follows the preference as far as those allow.
    let weighs_costs =
        needs.numbers.iter().any(|number| ["cost_", "safe_"].iter().any(|of| number.name.starts_with(of)));
    if needs.rows.pairs && needs.reference && !weighs_costs {
        let after = accuracy(trainer.policy().model(), &held_out);
        assert!(after > before && after >= 0.65, "{name}: held-out accuracy went from {before} to {after}");
    }
}

/// Fresh heads, enough for every objective, on the trunk of the small model.
fn score_model() -> ScoreModel<f32> {
    let directory = tempfile::tempdir().unwrap();
    model::<f32>(1).save(directory.path()).unwrap();
    let names: Vec<String> = (0..16).map(|head| format!("head {head}")).collect();
    ScoreModel::from_causal(directory.path(), &names).unwrap()
}

/// The micro-batches of a step.
fn steps(needs: &Needs, examples: Vec<Example>) -> Vec<Batch> {
    if needs.step_wide == StepWide::Mismatched { mismatched_batches(&examples, 8) } else { batches(&examples, 8) }
}

/// Examples of a kind that the objective reads, with all that it reads of them. Even tokens are wanted, odd ones are not.
fn examples(needs: &Needs, count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    let mut examples: Vec<Example> = match needs.rows {
        rows if rows.pairs => pairs(count, seed),
        rows if rows.labelled => (0..count)
            .map(|i| {
                let desirable = !i.is_multiple_of(3);
                let parity = u32::from(!desirable);
                support::example(i, context(i, &mut random, &[parity]), Annotation::Labelled { desirable })
            })
            .collect(),
        rows if rows.ranked => (0..count)
            .map(|i| {
                let context = context(i, &mut random, &[1, 0, 2]);
                support::example(i, context, Annotation::Ranked { ratings: vec![1.0, 7.0, 4.0] })
            })
            .collect(),
        rows if rows.judged => (0..count).map(|i| judged(i, &mut random)).collect(),
        _ => {
            (0..count).map(|i| support::example(i, context(i, &mut random, &[0]), Annotation::Demonstration)).collect()
        }
    };
    for (i, example) in examples.iter_mut().enumerate() {
        for number in needs.numbers.iter() {
            let desirable = matches!(example.annotation, Annotation::Labelled { desirable: true });
            let value = match number.name {
                "preference" => 0.9,
                "score" if needs.outputs.values => 1.0 + (i % 3) as f64,
                "score" => f64::from(u8::from(desirable)),
                // More than a cost that is weighed against it, which the chosen side has less of.
                "reward_gap" => 2.0,
                "cost_gap" => -1.0,
                "safe_chosen" | "safe_rejected" => 1.0,
                _ if number.whole => f64::from(u8::from(i % 3 != 0)),
                _ => 0.2 + 0.1 * (i % 5) as f64,
            };
            example.numbers.insert(number.name.to_owned(), value);
        }
        if needs.teacher != Teacher::None {
            example.contexts.iter_mut().flat_map(|context| &mut context.completions).for_each(teach);
        }
    }
    examples
}

fn pairs(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count).map(|i| support::example(i, context(i, &mut random, &[0, 1]), Annotation::Pair)).collect()
}

/// A prompt of its own with one completion for each taste: even tokens (0), odd ones (1), or any (2).
fn context(i: usize, random: &mut Random, tastes: &[u32]) -> Context {
    let mut prompt = random.ids(1, 4);
    prompt.insert(0, (i % VOCABULARY) as u32);
    let mut completion = |taste: u32| {
        let ids = random.ids(2, 5).into_iter().map(|id| if taste < 2 { id / 2 * 2 + taste } else { id });
        Completion::all_scored(ids.collect())
    };
    let completions = tastes.iter().map(|&taste| completion(taste)).collect();
    Context { prompt_scored: vec![false; prompt.len()], prompt, completions }
}

/// A completion under its prompt, and under its prompt with a judgment: a token that stands for it.
fn judged(i: usize, random: &mut Random) -> Example {
    let positive = i.is_multiple_of(3);
    let plain = context(i, random, &[u32::from(!positive)]);
    let mut with = plain.clone();
    with.prompt.push(if positive { 2 } else { 3 });
    with.prompt_scored.push(false);
    let origin = Origin::line("made-up".into(), i as u64 + 1);
    Example::new(origin, vec![plain, with], Annotation::Judged { positive })
}

/// A teacher that likes even tokens, and whose own reference does not care.
fn teach(completion: &mut Completion) {
    let ids: Vec<u32> = (0..8).collect();
    let log_probs = ids.iter().map(|id| if id % 2 == 0 { 0.2f32.ln() } else { 0.02f32.ln() }).collect();
    let token = TeacherToken { reference_log_probs: vec![0.1f32.ln(); ids.len()], log_probs, ids };
    completion.teacher = vec![token; completion.scored_tokens()];
}

/// How often the chosen completion has gained more log-probability than the rejected one; ties count half.
fn accuracy(model: &CausalLm<f32>, held_out: &[Example]) -> f64 {
    let start = support::model::<f32>(1);
    let gain = |context: &Context, side: usize| -> f64 {
        let of = |model: &CausalLm<f32>| -> f64 {
            let ids = ContextIds {
                prompt: &context.prompt,
                prompt_scored: &[],
                completions: vec![CompletionIds::all_scored(&context.completions[side].ids)],
            };
            let packed = Packed::new(&[ids]).unwrap();
            let scores = model.score(&packed, Statistics::default(), Adapter::On, &mut Workspace::new(1)).unwrap();
            scores.log_probs.iter().map(|log_prob| f64::from(*log_prob)).sum()
        };
        of(model) - of(&start)
    };
    let right = held_out.iter().map(|example| {
        let (chosen, rejected) = (gain(&example.contexts[0], 0), gain(&example.contexts[0], 1));
        if chosen > rejected {
            1.0
        } else if chosen < rejected {
            0.0
        } else {
            0.5
        }
    });
    mean(&right.collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
