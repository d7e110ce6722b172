//! Runs that must agree, agree.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::{Annotation, Context, Example};
use candlewick_losses::{Dpo, Ipo, Kto, Mix, Objective, Part, Recipe, Sft};
use candlewick_model::{CausalLm, Recompute};
use candlewick_train::{CausalPolicy, FrozenPolicy, Reference, StepReport, Trainer, TrainerOptions};
use support::{Threads, batches, labelled, lora_model, mismatched_batches, model, options, pairs, trainer, worst};

type Make = fn() -> Box<dyn Objective>;

fn mix() -> Box<dyn Objective> {
    Box::new(Recipe::Mix(Mix {
        parts: vec![
            Part { weight: 1.0, loss: candlewick_losses::Builtin::from(Dpo::default()).into() },
            Part { weight: 0.5, loss: candlewick_losses::Builtin::from(Sft {}).into() },
        ],
    }))
}

const PAIR_OBJECTIVES: [(&str, Make); 4] = [
    ("dpo", || Box::new(Dpo::default())),
    ("ipo", || Box::new(Ipo::default())),
    ("sft", || Box::new(Sft {})),
    ("mix", mix),
];

/// Reports of three steps, gradients of the last, parameters after it.
fn three_steps(
    mut trainer: Trainer<CausalPolicy<f64>>,
    steps: [Vec<candlewick_data::Batch>; 3],
) -> (Vec<StepReport>, Vec<f64>, Vec<f64>) {
    let reports = steps.iter().map(|step| trainer.step(step).unwrap()).collect();
    let policy = trainer.policy();
    (reports, policy.gradients().data().to_vec(), policy.model().trainable().data().to_vec())
}

/// Same losses, norms, metrics, gradients and parameters, to 1e-12.
fn assert_same(name: &str, a: &(Vec<StepReport>, Vec<f64>, Vec<f64>), b: &(Vec<StepReport>, Vec<f64>, Vec<f64>)) {
    for (a, b) in a.0.iter().zip(&b.0) {
        assert!(worst(&[a.loss, a.grad_norm], &[b.loss, b.grad_norm]) < 1e-12, "{name}: {a:?} and {b:?}");
        let (a, b) = (a.metrics.values(), b.metrics.values());
        assert!(a.keys().eq(b.keys()), "{name}: {a:?} and {b:?}");
        for (name, value) in &a {
            assert!(worst(&[*value], &[b[name]]) < 1e-12, "{name}: {a:?} and {b:?}");
        }
    }
    assert!(worst(&a.1, &b.1) < 1e-12, "{name}: gradients");
    assert!(worst(&a.2, &b.2) < 1e-11, "{name}: parameters");
}

fn steps_of(size: usize) -> [Vec<candlewick_data::Batch>; 3] {
    [1, 2, 3].map(|seed| batches(&pairs(8, seed), size))
}

fn mismatched_steps_of(size: usize) -> [Vec<candlewick_data::Batch>; 3] {
    [1, 2, 3].map(|seed| mismatched_batches(&labelled(8, seed), size))
}

#[test]
fn one_batch_of_eight_is_eight_batches_of_one() {
    for (name, objective) in PAIR_OBJECTIVES {
        for make in [model::<f64>, lora_model::<f64>] {
            let a = three_steps(trainer(make(1), objective(), options(1e-2)), steps_of(8));
            let b = three_steps(trainer(make(1), objective(), options(1e-2)), steps_of(1));
            assert_same(name, &a, &b);
            assert_eq!(b.0[0].micro_losses.len(), 8);
            assert_eq!(a.0[0].tokens, b.0[0].tokens);
        }
    }
    let kto = || Kto { undesirable_weight: 1.5, ..Kto::default() };
    let a = three_steps(trainer(model(1), kto(), options(1e-2)), mismatched_steps_of(8));
    let b = three_steps(trainer(model(1), kto(), options(1e-2)), mismatched_steps_of(1));
    assert_same("kto", &a, &b);
    assert!(a.0[2].metrics.value("kl").is_some());
}

#[test]
fn a_shared_prompt_is_an_unshared_one() {
    let unshared = |examples: Vec<Example>| -> Vec<Example> {
        let split = |context: Context| {
            context.completions.into_iter().map(move |completion| Context {
                prompt: context.prompt.clone(),
                prompt_scored: context.prompt_scored.clone(),
                completions: vec![completion],
            })
        };
        examples
            .into_iter()
            .map(|example| Example { contexts: example.contexts.into_iter().flat_map(split).collect(), ..example })
            .collect()
    };
    for (name, objective) in PAIR_OBJECTIVES {
        let a = three_steps(trainer(model(2), objective(), options(1e-2)), steps_of(4));
        let apart = [1, 2, 3].map(|seed| batches(&unshared(pairs(8, seed)), 4));
        let b = three_steps(trainer(model(2), objective(), options(1e-2)), apart);
        assert_same(name, &a, &b);
        assert!(a.0[0].computed_tokens < b.0[0].computed_tokens);
        assert_eq!(a.0[0].tokens, b.0[0].tokens);
        assert_eq!(b.0[0].tokens, b.0[0].computed_tokens);
    }
}

#[test]
fn recomputed_activations_are_the_kept_ones() {
    let run = |recompute| {
        let start = model::<f64>(3);
        let reference = Reference::Frozen(Box::new(FrozenPolicy::new(start.frozen_copy(), 1)));
        let policy = CausalPolicy::new(start, recompute, 1);
        three_steps(Trainer::new(policy, reference, Box::new(Dpo::default()), options(1e-2)).unwrap(), steps_of(4))
    };
    assert_eq!(run(Recompute::Nothing), run(Recompute::Layers));
}

#[test]
fn the_policy_without_its_adapter_is_the_frozen_copy() {
    let run = |reference: fn(&CausalLm<f64>) -> Reference<f64>| {
        let start = lora_model::<f64>(4);
        let reference = reference(&start);
        let policy = CausalPolicy::new(start, Recompute::Nothing, 1);
        three_steps(Trainer::new(policy, reference, Box::new(Dpo::default()), options(1e-2)).unwrap(), steps_of(4))
    };
    let frozen = run(|model| Reference::Frozen(Box::new(FrozenPolicy::new(model.frozen_copy(), 1))));
    assert_eq!(run(|_| Reference::AdapterOff), frozen);
}

#[test]
fn two_ranks_are_one() {
    let both = |objective: Make, data: fn(usize) -> [Vec<candlewick_data::Batch>; 3]| {
        let alone = three_steps(trainer(model(5), objective(), options(1e-2)), data(4));
        let ranks = Threads::new(2).into_iter().enumerate().map(|(rank, collective)| {
            std::thread::spawn(move || {
                let mine = data(4).map(|step| vec![step[rank].clone()]);
                three_steps(trainer(model(5), objective(), options(1e-2)).with_collective(Box::new(collective)), mine)
            })
        });
        for rank in ranks.collect::<Vec<_>>() {
            let rank = rank.join().unwrap();
            assert_same("two ranks", &rank, &alone);
            assert_eq!(rank.0[0].tokens, alone.0[0].tokens);
        }
    };
    both(|| Box::new(Dpo::default()), steps_of);
    both(|| Box::new(Sft {}), steps_of);
    // The second rank holds other counts of either label than the first.
    both(|| Box::new(Kto::default()), mismatched_steps_of);
}

#[test]
fn an_evaluation_does_not_depend_on_its_batches() {
    let evaluate = |objective: Box<dyn Objective>, data: Vec<candlewick_data::Batch>| {
        let mut trainer =
            trainer(model::<f64>(6), objective, TrainerOptions { starts_at_reference: true, ..options(1e-2) });
        trainer.step(&data).unwrap();
        let before = support::bits(&trainer);
        let report = trainer.evaluate(data.into_iter().map(Ok::<_, candlewick_train::Error>)).unwrap();
        assert_eq!(support::bits(&trainer), before, "an evaluation changes nothing");
        report
    };
    let dpo = |size| evaluate(Box::<Dpo>::default(), batches(&pairs(7, 9), size));
    let kto = |size| evaluate(Box::<Kto>::default(), mismatched_batches(&labelled(7, 9), size));
    for (whole, single) in [(dpo(7), dpo(1)), (kto(7), kto(2))] {
        assert!(worst(&[whole.loss], &[single.loss]) < 1e-12);
        let (a, b) = (whole.metrics.values(), single.metrics.values());
        assert!(
            a.keys().eq(b.keys()) && a.iter().all(|(name, value)| worst(&[*value], &[b[name]]) < 1e-12),
            "{a:?} and {b:?}"
        );
    }
}

#[test]
fn an_annotation_of_another_kind_is_refused_by_place() {
    let mut examples = pairs(2, 1);
    examples[1].annotation = Annotation::Demonstration;
    let text =
        trainer(model::<f64>(1), Dpo::default(), options(1e-2)).step(&batches(&examples, 2)).unwrap_err().to_string();
    assert!(text.starts_with("made-up:2: the row is a demonstration, and the objective uses pairs"), "{text}");
}
