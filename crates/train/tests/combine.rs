//! The adapters of several domains as one.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::Batch;
use candlewick_losses::Dpo;
use candlewick_model::{CausalLm, LoraConfig, Parameters, Recompute};
use candlewick_train::{CausalPolicy, Error, Reference, Trainer, TrainerOptions, combine_adapters};
use support::{batches, lora_model, model, options, pairs};

const DPO: Dpo = Dpo {
    beta: 0.5,
    reduction: candlewick_losses::Reduction::Sum,
    divergence: candlewick_losses::Divergence::ReverseKl,
};

fn trainer(model: CausalLm<f64>) -> Trainer<CausalPolicy<f64>> {
    let options = TrainerOptions { starts_at_reference: false, ..options(2e-2) };
    let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    Trainer::new(policy, Reference::AdapterOff, Box::new(DPO), options).unwrap()
}

/// An adapter that was trained on the rows of a domain.
fn trained(domain: u64) -> Parameters<f64> {
    let mut trainer = trainer(lora_model(1));
    for _ in 0..12 {
        trainer.step(&batches(&pairs(6, domain), 3)).unwrap();
    }
    trainer.policy().model().trainable().clone()
}

fn memory() -> Vec<Batch> {
    [batches(&pairs(6, 1), 3), batches(&pairs(6, 2), 2)].concat()
}

/// The loss of a combination, by another way: a model that holds it, evaluated.
fn loss(adapters: &[Parameters<f64>], coefficients: &[f64]) -> f64 {
    let mut model = lora_model::<f64>(1);
    for (i, number) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *number = adapters.iter().zip(coefficients).map(|(adapter, w)| w * adapter.data()[i]).sum();
    }
    trainer(model).evaluate(memory().into_iter().map(Ok::<_, Error>)).unwrap().loss
}

#[test]
fn coefficients_are_fitted_to_where_no_other_is_better() {
    let adapters = [trained(1), trained(2)];
    let mut policy = CausalPolicy::new(lora_model::<f64>(1), Recompute::Nothing, 1);
    let found = combine_adapters(&mut policy, &adapters, &memory(), &DPO, 200).unwrap();
    assert!((found.losses[0] - loss(&adapters, &[0.5, 0.5])).abs() < 1e-12);
    assert!(found.losses.windows(2).all(|pair| pair[1] < pair[0]), "{:?}", found.losses);
    let best = loss(&adapters, &found.coefficients);
    assert!((found.losses.last().unwrap() - best).abs() < 1e-12);
    // Better than either domain's own, and than their mean.
    for other in [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]] {
        assert!(best < loss(&adapters, &other), "{other:?}");
    }
    // The slope there, by central differences, beside what it was at the start.
    let slope = |at: &[f64], k: usize| {
        let moved = |by: f64| {
            let mut at = at.to_vec();
            at[k] += by;
            loss(&adapters, &at)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    };
    for k in 0..2 {
        let (there, first) = (slope(&found.coefficients, k), slope(&[0.5, 0.5], k));
        assert!(there.abs() < 1e-2 * first.abs().max(1e-2), "coefficient {k}: {there} of {first}");
    }
    // It is what the policy holds.
    let combined =
        |i: usize| found.coefficients.iter().zip(&adapters).map(|(w, adapter)| w * adapter.data()[i]).sum::<f64>();
    let held = policy.model().trainable().data();
    assert!(held.iter().enumerate().all(|(i, held)| (held - combined(i)).abs() < 1e-15));
}

#[test]
fn one_adapter_is_scaled_and_others_are_refused() {
    let adapter = trained(1);
    let mut policy = CausalPolicy::new(lora_model::<f64>(1), Recompute::Nothing, 1);
    let found = combine_adapters(&mut policy, std::slice::from_ref(&adapter), &memory(), &DPO, 0).unwrap();
    assert_eq!((found.coefficients, found.losses.len()), (vec![1.0], 1));
    assert_eq!(policy.model().trainable().data(), adapter.data());

    let mut wide = model::<f64>(1);
    wide.add_lora(&LoraConfig { rank: 3, ..LoraConfig::default() }, 1).unwrap();
    let text = combine_adapters(&mut policy, &[adapter.clone(), wide.trainable().clone()], &memory(), &DPO, 1);
    assert!(text.unwrap_err().to_string().contains("adapter 2 of those to combine has other tensors"));
    assert_eq!(policy.model().trainable().data(), adapter.data());
    assert!(combine_adapters(&mut policy, &[], &memory(), &DPO, 1).unwrap_err().to_string().contains("one or more"));
    let mut full = CausalPolicy::new(model::<f64>(1), Recompute::Nothing, 1);
    assert!(combine_adapters(&mut full, &[adapter], &memory(), &DPO, 1).is_err());
}
