//! A fast and a slow module: their losses, their updates, their roles, and that they come back.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::Batch;
use candlewick_losses::{Dpo, FastSlowDpo};
use candlewick_model::{CausalLm, LoraConfig, Recompute};
use candlewick_train::{
    AdamWOptions, CausalPolicy, Checkpoint, Element, Error, FastSlow, FastSlowOptions, FrozenPolicy, Reference,
    Trainer, TrainerOptions,
};
use support::{batches, lora_model, model, options, pairs};

const RATE: f64 = 2e-2;

fn rates(interval: u64) -> FastSlowOptions {
    let optimizer = AdamWOptions { learning_rate: RATE, ..AdamWOptions::default() };
    FastSlowOptions { optimizer, slow_learning_rate: RATE / 2.0, max_grad_norm: 1.0, interval }
}

/// The base with another adapter.
fn other<T: Element>(seed: u64) -> CausalLm<T> {
    let mut model = model(1);
    model.add_lora(&LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() }, seed).unwrap();
    model
}

fn modules<T: Element>(alpha: f64, interval: u64) -> FastSlow<T> {
    let policy = CausalPolicy::new(lora_model(1), Recompute::Nothing, 1);
    let slow = other::<T>(5).trainable().clone();
    FastSlow::new(policy, slow, FastSlowDpo { beta: 0.5, alpha }, rates(interval)).unwrap()
}

fn dpo<T: Element>(model: CausalLm<T>, reference: Reference<T>, rate: f64) -> Trainer<CausalPolicy<T>> {
    let options = TrainerOptions { starts_at_reference: false, ..options(rate) };
    let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    Trainer::new(policy, reference, Box::new(Dpo { beta: 0.5, ..Dpo::default() }), options).unwrap()
}

/// DPO's loss of one model about another.
fn about(model: &CausalLm<f64>, reference: &CausalLm<f64>, rows: &[Batch]) -> f64 {
    let reference = Reference::Frozen(Box::new(FrozenPolicy::new(reference.clone(), 1)));
    dpo(model.clone(), reference, 1e-3).evaluate(rows.iter().cloned().map(Ok::<_, Error>)).unwrap().loss
}

#[test]
fn without_a_term_between_them_they_are_two_runs_of_dpo() {
    let mut both = modules::<f64>(0.0, 100);
    let mut fast = dpo(lora_model::<f64>(1), Reference::AdapterOff, RATE);
    let mut slow = dpo(other::<f64>(5), Reference::AdapterOff, RATE / 2.0);
    for step in 1..=5 {
        let rows = batches(&pairs(6, step), 3);
        let report = both.step(&rows).unwrap();
        let (of_fast, of_slow) = (fast.step(&rows).unwrap(), slow.step(&rows).unwrap());
        assert_eq!((report.fast.loss, report.slow.loss), (of_fast.loss, of_slow.loss));
        assert_eq!((report.fast.dpo, report.slow.grad_norm), (of_fast.loss, of_slow.grad_norm));
        assert_eq!(both.policy().model().trainable().data(), fast.policy().model().trainable().data());
        assert_eq!(both.slow().data(), slow.policy().model().trainable().data());
    }
    assert_eq!(both.steps_done(), 5);
}

#[test]
fn each_loss_has_the_term_between_them_with_its_own_sign() {
    let alpha = 0.3;
    let mut both = modules::<f64>(alpha, 100);
    let base = model::<f64>(1);
    for step in 1..=4 {
        let rows = batches(&pairs(6, step), 2);
        let fast = both.policy().model().clone();
        let mut slow = fast.clone();
        slow.trainable_mut().data_mut().copy_from_slice(both.slow().data());
        let between = about(&fast, &slow, &rows);
        let report = both.step(&rows).unwrap();
        let (of_fast, of_slow) = (about(&fast, &base, &rows), about(&slow, &base, &rows));
        assert!((report.fast.dpo - of_fast).abs() < 1e-12, "{report:?}");
        assert!((report.fast.loss - (of_fast + alpha * between)).abs() < 1e-12, "{report:?}");
        assert!((report.slow.loss - (of_slow - alpha * between)).abs() < 1e-12, "{report:?}");
    }
}

#[test]
fn the_module_that_did_better_becomes_the_fast_one() {
    let (mut given, mut kept) = (modules::<f64>(0.1, 2), modules::<f64>(0.1, 1000));
    let (mut fast, mut slow, mut swaps) = (0.0, 0.0, 0);
    for step in 1..=12 {
        // Rows that come again suit the fast one, rows that nobody has seen the slow one.
        let rows = batches(&pairs(6, if step <= 4 { 1 } else { step }), 3);
        let report = given.step(&rows).unwrap();
        (fast, slow) = (fast + report.fast.dpo, slow + report.slow.dpo);
        assert_eq!(report.swapped, step % 2 == 0 && slow < fast, "step {step}");
        if swaps == 0 {
            kept.step(&rows).unwrap();
            let [policy, aside] = match report.swapped {
                true => [kept.slow().data(), kept.policy().model().trainable().data()],
                false => [kept.policy().model().trainable().data(), kept.slow().data()],
            };
            assert!(given.policy().model().trainable().data() == policy && given.slow().data() == aside);
        }
        swaps += usize::from(report.swapped);
        if step % 2 == 0 {
            (fast, slow) = (0.0, 0.0);
        }
    }
    assert!((1..6).contains(&swaps), "{swaps} changes of roles in six intervals: the rows decide, choose others");
}

#[test]
fn they_resume_to_the_bit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let bits = |modules: &FastSlow<f32>| {
        let numbers = modules.policy().model().trainable().data().iter().chain(modules.slow().data());
        numbers.map(|x| x.to_bits()).collect::<Vec<u32>>()
    };
    let mut whole = modules::<f32>(0.1, 2);
    for step in 1..=3 {
        whole.step(&batches(&pairs(6, step), 3)).unwrap();
    }
    whole.save(&path).unwrap();
    let mut again = modules::<f32>(0.1, 2);
    again.restore(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(bits(&again), bits(&whole));
    for step in 4..=8 {
        let rows = batches(&pairs(6, step), 3);
        assert_eq!(again.step(&rows).unwrap(), whole.step(&rows).unwrap());
        assert_eq!(bits(&again), bits(&whole), "step {step}");
    }
    // What is exported is the fast module alone.
    let exported = directory.path().join("exported");
    Checkpoint::open(&path).unwrap().export(&exported).unwrap();
    assert!(exported.join("adapter_model.safetensors").exists() && !exported.join("slow.safetensors").exists());

    let mut elsewhere = modules::<f32>(0.1, 2);
    elsewhere.step(&batches(&pairs(6, 1), 3)).unwrap();
    let policy = CausalPolicy::new(lora_model::<f32>(2), Recompute::Nothing, 1);
    let slow = policy.model().trainable().clone();
    let mut another = FastSlow::new(policy, slow, FastSlowDpo::default(), rates(2)).unwrap();
    let error = another.restore(&Checkpoint::open(&path).unwrap()).unwrap_err().to_string();
    assert!(error.contains("started from the weights"), "{error}");
    let single = directory.path().join("single");
    dpo(lora_model::<f32>(1), Reference::AdapterOff, RATE).save(&single, &serde_json::Value::Null, &[]).unwrap();
    let error = elsewhere.restore(&Checkpoint::open(&single).unwrap()).unwrap_err().to_string();
    assert!(error.contains("not one of a fast and a slow module"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let new = |model: CausalLm<f64>, change: fn(&mut FastSlowOptions)| {
        let mut options = rates(2);
        change(&mut options);
        let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
        let slow = other::<f64>(5).trainable().clone();
        FastSlow::new(policy, slow, FastSlowDpo::default(), options).unwrap_err().to_string()
    };
    assert!(new(model(1), |_| ()).contains("the policy has none"));
    assert!(new(lora_model(1), |options| options.interval = 0).starts_with("interval: 0"));
    let above = new(lora_model(1), |options| options.slow_learning_rate = 1.0);
    assert!(above.starts_with("slow_learning_rate: 1; expected"), "{above}");
    let mut larger = model::<f64>(1);
    larger.add_lora(&LoraConfig { rank: 3, ..LoraConfig::default() }, 1).unwrap();
    assert!(new(larger, |_| ()).contains("other tensors"));
}
