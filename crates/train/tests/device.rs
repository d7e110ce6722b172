//! A trainer on a device beside a trainer on the host: on a GPU where there is one, else with its kernels emulated.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_kernels::{Cuda, Element, Float, Workspace, bf16};
use candlewick_losses::{Dpo, Kto, Objective, Simpo, TrDpo};
use candlewick_model::{CausalLm, Recompute};
use candlewick_train::{
    AdapterReference, Checkpoint, DevicePolicy, FrozenPolicy, LionOptions, MovingReference, OptimizerOptions,
    Reference, StepReport, Trainable, Trainer,
};
use support::device::{device, model};
use support::{batches, labelled, mismatched_batches, options, pairs, worst};

/// A trainer on the device whose reference is a frozen copy there, or the base of an adapter.
fn trainer<T: Element>(
    model: &CausalLm<T::Wide>,
    device: &Cuda,
    objective: impl Objective + 'static,
) -> Trainer<DevicePolicy<T>>
where
    T::Wide: candlewick_train::Element,
{
    let policy = DevicePolicy::<T>::new(model, device, Recompute::Nothing).unwrap();
    let reference = match (objective.needs().reference, model.has_adapter()) {
        (false, _) => Reference::None,
        (true, true) => Reference::AdapterOff,
        (true, false) => {
            let frozen = model.to_device::<T>(device, &mut Workspace::new(1).on(device)).unwrap();
            Reference::Frozen(Box::new(FrozenPolicy::new(frozen, 1)))
        }
    };
    Trainer::new(policy, reference, Box::new(objective), options(1e-2)).unwrap()
}

fn masters<P: Trainable>(trainer: &Trainer<P>) -> Vec<f64> {
    let numbers = trainer.policy().parameters().to_host().unwrap();
    numbers.data().iter().map(|x| Float::to_f64(*x)).collect()
}

fn assert_same(a: &StepReport, b: &StepReport) {
    assert!(worst(&[a.loss, a.grad_norm], &[b.loss, b.grad_norm]) < 1e-10, "{a:?} and {b:?}");
    let (a, b) = (a.metrics.values(), b.metrics.values());
    assert!(a.keys().eq(b.keys()), "{a:?} and {b:?}");
    for (name, value) in &a {
        assert!(worst(&[*value], &[b[name]]) < 1e-10, "{name}: {a:?} and {b:?}");
    }
}

/// Three steps on the device and on the host, in f64.
fn check(with_adapter: bool, objective: impl Objective + Clone + 'static, steps: &[Vec<candlewick_data::Batch>]) {
    let Some(device) = device() else { return };
    let host = model(with_adapter);
    let mut ours = trainer::<f64>(&host, &device, objective.clone());
    let mut theirs = support::trainer(host, objective, options(1e-2));
    for step in steps {
        assert_same(&ours.step(step).unwrap(), &theirs.step(step).unwrap());
    }
    assert!(worst(&masters(&ours), &masters(&theirs)) < 1e-9);
    let held_out = batches(&pairs(4, 9), 2);
    if ours.needs() == Dpo::default().needs() {
        let batches = || held_out.iter().cloned().map(Ok::<_, candlewick_train::Error>);
        let (ours, theirs) = (ours.evaluate(batches()).unwrap(), theirs.evaluate(batches()).unwrap());
        assert!(worst(&[ours.loss], &[theirs.loss]) < 1e-10);
    }
}

#[test]
fn steps_on_a_device_are_those_of_the_host() {
    let steps = [1, 2, 3].map(|seed| batches(&pairs(6, seed), 3));
    check(false, Dpo::default(), &steps);
    check(true, Dpo::default(), &steps);
    check(false, Simpo::default(), &steps);
    check(true, Kto::default(), &[1, 2].map(|seed| mismatched_batches(&labelled(6, seed), 3)));
}

#[test]
fn in_bf16_the_policy_starts_as_its_reference_and_learns() {
    let Some(device) = device() else { return };
    for with_adapter in [false, true] {
        let mut trainer = trainer::<bf16>(&model(with_adapter).convert().unwrap(), &device, Dpo::default());
        let step = batches(&pairs(6, 1), 3);
        let losses: Vec<f64> = (0..4).map(|_| trainer.step(&step).unwrap().loss).collect();
        // To the bit: both say the same of every token.
        assert!((losses[0] - f64::ln(2.0)).abs() < 1e-7, "{losses:?}");
        assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let Some(device) = device() else { return };
    for with_adapter in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let model = model(with_adapter).convert::<f32>().unwrap();
        let steps = [1, 2, 3, 4].map(|seed| batches(&pairs(4, seed), 2));
        let mut whole = trainer::<bf16>(&model, &device, Dpo::default());
        for step in &steps[..2] {
            whole.step(step).unwrap();
        }
        whole.save(&path, &serde_json::Value::Null, &[]).unwrap();
        let saved = masters(&whole);
        let mut resumed = trainer::<bf16>(&model, &device, Dpo::default());
        resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
        for step in &steps[2..] {
            assert_eq!(whole.step(step).unwrap(), resumed.step(step).unwrap());
        }
        assert!(masters(&whole) == masters(&resumed), "masters of other bits");
        // What was written is what everybody reads: f32 masters, of a model or of an adapter.
        let mut read = model.frozen_copy();
        match with_adapter {
            true => {
                read.remove_adapter();
                read.load_adapter(&path).unwrap();
            }
            false => read = CausalLm::load(&path).unwrap(),
        }
        let written: Vec<f64> = read.trainable().data().iter().map(|x| Float::to_f64(*x)).collect();
        assert!(written == saved, "files of other bits");
    }
}

#[test]
fn an_adapter_as_it_started_is_the_base() {
    let Some(device) = device() else { return };
    let model = model(true).convert::<f32>().unwrap();
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    let mut off = trainer::<bf16>(&model, &device, Dpo::default());
    let policy = DevicePolicy::<bf16>::new(&model, &device, Recompute::Nothing).unwrap();
    let reference = Reference::Adapter(AdapterReference::of(&policy).unwrap());
    let mut started = Trainer::new(policy, reference, Box::new(Dpo::default()), options(1e-2)).unwrap();
    for step in &steps {
        assert_eq!(off.step(step).unwrap(), started.step(step).unwrap());
    }
    assert!(masters(&off) == masters(&started), "masters of other bits");
}

#[test]
fn a_step_that_found_no_memory_has_changed_nothing() {
    let Some(device) = device() else { return };
    let model = model(false).convert::<f32>().unwrap();
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    let mut whole = trainer::<bf16>(&model, &device, Dpo::default());
    let expected = steps.each_ref().map(|step| whole.step(step).unwrap());
    let expected_masters = masters(&whole);
    drop(whole);

    let mut disturbed = trainer::<bf16>(&model, &device, Dpo::default());
    let used = device.memory().unwrap().used;
    let mut refused = 0;
    for (step, expected) in steps.iter().zip(&expected) {
        // Ever more room, so that another place of the step finds none each time.
        for room in (0..400 << 10).step_by(20 << 10) {
            device.limit_memory(used + room);
            match disturbed.step(step) {
                Ok(report) => {
                    assert_eq!(&report, expected);
                    break;
                }
                Err(error) => {
                    assert!(error.to_string().contains("device memory"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 3 && disturbed.steps_done() == 3, "{refused} refused, {} done", disturbed.steps_done());
    assert!(masters(&disturbed) == expected_masters, "masters of other bits");
}

#[test]
fn what_no_device_does_is_refused() {
    let Some(device) = device() else { return };
    let host = model(false).convert::<f32>().unwrap();
    let policy = || DevicePolicy::<bf16>::new(&host, &device, Recompute::Nothing).unwrap();
    let lion =
        candlewick_train::TrainerOptions { optimizer: OptimizerOptions::Lion(LionOptions::default()), ..options(1e-3) };
    let error = Trainer::new(policy(), Reference::None, Box::new(Simpo::default()), lion).unwrap_err().to_string();
    assert!(error.contains("optimizer.kind") && error.contains("adamw"), "{error}");

    let policy = policy();
    let reference = Reference::Moving(MovingReference::of(&policy).unwrap());
    let error = Trainer::new(policy, reference, Box::new(TrDpo::default()), options(1e-3)).unwrap_err().to_string();
    assert!(error.contains("device") && error.contains("frozen"), "{error}");
}
