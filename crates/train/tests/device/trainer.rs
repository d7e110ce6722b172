//! A trainer on a device beside a trainer on the host: on a GPU where there is one, else with its kernels emulated.
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use candle_core::Tensor;
use candlewick_data::Batch;
use candlewick_kernels::{Cuda, Element, Float, Workspace, bf16};
use candlewick_losses::{
    Bema, BradleyTerry, Context, Dpo, Kto, Loss, LossTerms, Objective, Outputs, Pair, Reduction, ReferenceUpdate,
    Simpo, Term, TokenScores, TrDpo, TrKto,
};
use candlewick_model::{CausalLm, CompletionIds, ContextIds, LoraConfig, Packed, Parameters, Recompute, ScoreModel};
use candlewick_train::{
    AdapterReference, CausalPolicy, Checkpoint, DevicePolicy, DeviceScorePolicy, Error, EvalReport, FrozenPolicy,
    LionOptions, MovingReference, MuonOptions, OptimizerOptions, Policy, Reference, RmsPropOptions,
    ScheduleFreeAdamWOptions, ScorePolicy, StepReport, Trainable, Trainer, TrainerOptions, weights_digest,
};

use crate::support;
use crate::support::device::{device, model};
use crate::support::{batches, labelled, mismatched_batches, options, pairs, worst};

/// A trainer on the device whose reference follows as the objective says, or is a frozen copy there, or the base of an adapter.
fn trainer<T: Element>(
    model: &CausalLm<T::Wide>,
    device: &Cuda,
    objective: impl Objective + 'static,
) -> Trainer<DevicePolicy<T>>
where
    T::Wide: candlewick_train::Element,
{
    trainer_by(model, device, objective, options(1e-2))
}

/// The same by these options.
fn trainer_by<T: Element>(
    model: &CausalLm<T::Wide>,
    device: &Cuda,
    objective: impl Objective + 'static,
    options: TrainerOptions,
) -> Trainer<DevicePolicy<T>>
where
    T::Wide: candlewick_train::Element,
{
    let policy = DevicePolicy::<T>::new(model, device, Recompute::Nothing).unwrap();
    let reference = match (objective.needs().reference, model.has_adapter()) {
        (false, _) => Reference::None,
        _ if objective.reference_update() != ReferenceUpdate::Frozen => {
            Reference::Moving(MovingReference::of(&policy).unwrap())
        }
        (true, true) => Reference::AdapterOff,
        (true, false) => {
            let frozen = model.to_device::<T>(device, &mut Workspace::new(1).on(device)).unwrap();
            Reference::Frozen(Box::new(FrozenPolicy::new(frozen, 1)))
        }
    };
    Trainer::new(policy, reference, Box::new(objective), options).unwrap()
}

fn numbers<T: Float>(parameters: &Parameters<T>) -> Vec<f64> {
    let numbers = parameters.to_host().unwrap();
    numbers.data().iter().map(|x| Float::to_f64(*x)).collect()
}

fn masters<P: Trainable>(trainer: &Trainer<P>) -> Vec<f64> {
    numbers(trainer.policy().parameters())
}

/// What the reference is that follows.
fn followed<P: Trainable>(trainer: &Trainer<P>) -> Vec<f64> {
    let Reference::Moving(moving) = trainer.reference() else { panic!("it follows") };
    numbers(moving.parameters())
}

const BEMA: Bema = Bema {
    every: 2,
    update_after: 1,
    ema_power: 0.5,
    bias_power: 0.2,
    lag: 2.0,
    multiplier: 1.0,
    min_ema_multiplier: 0.0,
};

/// How references follow, all of which have moved after three steps.
const UPDATES: [ReferenceUpdate; 5] = [
    ReferenceUpdate::Soft { alpha: 0.6, every: 2 },
    ReferenceUpdate::Hard { every: 3 },
    ReferenceUpdate::Ema { mu: 0.05 },
    ReferenceUpdate::Lagged { every: 1 },
    ReferenceUpdate::Bema(BEMA),
];

fn following(update: ReferenceUpdate) -> TrDpo {
    TrDpo { update, ..TrDpo::default() }
}

fn evaluate<P: Trainable>(trainer: &mut Trainer<P>) -> EvalReport {
    trainer.evaluate(batches(&pairs(6, 9), 2).into_iter().map(Ok::<_, candlewick_train::Error>)).unwrap()
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
fn check(with_adapter: bool, objective: impl Objective + Clone + 'static, steps: &[Vec<Batch>]) {
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

/// `−(log p_w − log p_l)`; when told so, of a slope that is not finite.
#[derive(Debug)]
struct Steep(Rc<Cell<bool>>);

impl Loss for Steep {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> candlewick_losses::Result<LossTerms> {
        let margins = input.log_probs(Reduction::Sum)?.margins()?;
        let mut losses = margins.neg()?;
        if self.0.get() {
            losses = (losses + (&margins - margins.detach())?.sqrt()?)?;
        }
        Ok(LossTerms::new([Term::per_item("steep", losses)]))
    }
}

/// By an update that looks at the norm itself, and by one for which the host does.
#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let Some(device) = device() else { return };
    let lion = LionOptions { learning_rate: 1e-3, ..LionOptions::default() };
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    for optimizer in [options(1e-2).optimizer, OptimizerOptions::Lion(lion)] {
        let run = |fails: bool| {
            let is_steep = Rc::new(Cell::new(false));
            let options = TrainerOptions { optimizer, ..options(1e-2) };
            let host = model(false).convert::<f32>().unwrap();
            let mut trainer = trainer_by::<bf16>(&host, &device, Steep(is_steep.clone()), options);
            for step in &steps {
                trainer.step(step).unwrap();
                if fails {
                    let (before, evaluated) = (masters(&trainer), evaluate(&mut trainer));
                    is_steep.set(true);
                    let error = trainer.step(step).unwrap_err();
                    assert!(matches!(error, Error::NotFinite { what: "gradient norm", .. }), "{error}");
                    is_steep.set(false);
                    assert_eq!((masters(&trainer), evaluate(&mut trainer)), (before, evaluated));
                }
            }
            let folder = tempfile::tempdir().unwrap();
            trainer.save(&folder.path().join("end"), &serde_json::Value::Null, &[]).unwrap();
            std::fs::read(folder.path().join("end/optimizer.safetensors")).unwrap()
        };
        assert!(run(true) == run(false), "{optimizer:?}");
    }
}

/// Three steps of every optimizer that has a kernel, beside the host's in f64; and a run in f32 that is stopped and goes on, in the same bits.
#[test]
fn other_optimizers_are_those_of_the_host() {
    let Some(device) = device() else { return };
    let lion = LionOptions { learning_rate: 1e-3, weight_decay: 0.1, ..LionOptions::default() };
    let rmsprop = RmsPropOptions { learning_rate: 1e-3, weight_decay: 0.1, ..RmsPropOptions::default() };
    let centred = RmsPropOptions { momentum: 0.5, centered: true, ..rmsprop };
    let averaged =
        ScheduleFreeAdamWOptions { learning_rate: 1e-2, weight_decay: 0.1, ..ScheduleFreeAdamWOptions::default() };
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    for optimizer in [
        OptimizerOptions::Lion(lion),
        OptimizerOptions::RmsProp(rmsprop),
        OptimizerOptions::RmsProp(centred),
        OptimizerOptions::ScheduleFreeAdamW(averaged),
    ] {
        for with_adapter in [false, true] {
            let options = TrainerOptions { optimizer, lora_plus_ratio: with_adapter.then_some(4.0), ..options(1.0) };
            let host = model(with_adapter);
            let mut ours = trainer_by::<f64>(&host, &device, Simpo::default(), options.clone());
            let mut theirs = support::trainer(host.clone(), Simpo::default(), options.clone());
            for step in &steps {
                assert_same(&ours.step(step).unwrap(), &theirs.step(step).unwrap());
            }
            assert!(worst(&masters(&ours), &masters(&theirs)) < 1e-9, "{optimizer:?}");
            assert!(worst(&masters(&ours), host.trainable().data()) > 1e-4, "{optimizer:?}");

            let (folder, narrow) = (tempfile::tempdir().unwrap(), host.convert::<f32>().unwrap());
            let path = folder.path().join("checkpoint");
            let start = || trainer_by::<f32>(&narrow, &device, Simpo::default(), options.clone());
            let (mut whole, mut resumed) = (start(), start());
            whole.step(&steps[0]).unwrap();
            whole.save(&path, &serde_json::Value::Null, &[]).unwrap();
            resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
            for step in &steps[1..] {
                assert_eq!(whole.step(step).unwrap(), resumed.step(step).unwrap());
            }
            assert!(masters(&whole) == masters(&resumed), "{optimizer:?}: masters of other bits");
        }
    }
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

/// Which tensors have met a gradient is read from the optimizer's state.
#[test]
fn a_resumed_run_still_looks_for_parameters_without_a_gradient() {
    let Some(device) = device() else { return };
    let model = model(false).convert::<f32>().unwrap();
    let silenced = |name: &str| name.contains("layers.0.") && name.contains("o_proj");
    let o_proj = (0..model.trainable().len()).find(|&i| silenced(model.trainable().name(i))).unwrap();
    let step = batches(&pairs(4, 1), 2);
    for optimizer in [OptimizerOptions::default(), OptimizerOptions::Lion(LionOptions::default())] {
        for steps_before in [0, 1] {
            let options = TrainerOptions { optimizer, ..options(1e-3) };
            let make = || trainer_by::<f32>(&model, &device, Simpo::default(), options.clone());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("checkpoint");
            let mut first = make();
            (0..steps_before).for_each(|_| drop(first.step(&step).unwrap()));
            first.save(&path, &serde_json::Value::Null, &[]).unwrap();
            let mut resumed = make();
            resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
            // Nothing comes through it to the queries, keys and values of its layer.
            let parameters = resumed.policy_mut().tuning().parameters;
            let mut numbers = parameters.all().download().unwrap();
            numbers[parameters.range(o_proj)].fill(0.0);
            parameters.all_mut().write(&numbers).unwrap();
            match (steps_before, resumed.step(&step)) {
                (0, Err(Error::NoGradient { parameters, .. })) => {
                    assert!(parameters.contains("layers.0.self_attn.q_proj"), "{parameters}");
                    assert!(!parameters.contains("layers.1.") && !parameters.contains("o_proj"), "{parameters}");
                }
                (1, Ok(_)) => {}
                (_, other) => panic!("{optimizer:?} after {steps_before} steps: {other:?}"),
            }
        }
    }
}

#[test]
fn a_resumed_run_has_the_bits_of_a_reference_that_follows() {
    let Some(device) = device() else { return };
    let steps = [1, 2, 3, 4].map(|seed| batches(&pairs(4, seed), 2));
    for (with_adapter, update) in [false, true].into_iter().zip([UPDATES[3], UPDATES[4]]).chain([(true, UPDATES[2])]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let model = model(with_adapter).convert::<f32>().unwrap();
        let mut whole = trainer::<bf16>(&model, &device, following(update));
        for step in &steps[..2] {
            whole.step(step).unwrap();
        }
        let snapshot = whole.snapshot(&serde_json::Value::Null).unwrap();
        for step in &steps[2..] {
            whole.step(step).unwrap();
        }
        snapshot.write(&path, &[]).unwrap();
        let mut resumed = trainer::<bf16>(&model, &device, following(update));
        resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
        for step in &steps[2..] {
            resumed.step(step).unwrap();
        }
        assert!(masters(&whole) == masters(&resumed), "{update:?}: masters of other bits");
        assert!(followed(&whole) == followed(&resumed), "{update:?}: a reference of other bits");
        assert!(followed(&whole) != masters(&whole), "{update:?}");
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
    check_without_memory(Dpo::default(), options(1e-2));
    check_without_memory(following(ReferenceUpdate::Lagged { every: 1 }), options(1e-2));
    check_without_memory(following(ReferenceUpdate::Bema(BEMA)), options(1e-2));
    let averaged = OptimizerOptions::ScheduleFreeAdamW(ScheduleFreeAdamWOptions::default());
    check_without_memory(Simpo::default(), TrainerOptions { optimizer: averaged, ..options(1.0) });
}

fn check_without_memory(objective: impl Objective + Clone + 'static, options: TrainerOptions) {
    let Some(device) = device() else { return };
    let model = model(false).convert::<f32>().unwrap();
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    let mut whole = trainer_by::<bf16>(&model, &device, objective.clone(), options.clone());
    let expected = steps.each_ref().map(|step| whole.step(step).unwrap());
    let followed_by =
        |trainer: &Trainer<_>| matches!(trainer.reference(), Reference::Moving(_)).then(|| followed(trainer));
    let (expected_masters, expected_reference) = (masters(&whole), followed_by(&whole));
    drop(whole);

    let mut disturbed = trainer_by::<bf16>(&model, &device, objective, options);
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
    assert!(followed_by(&disturbed) == expected_reference, "a reference of other bits");
}

#[test]
fn what_no_device_does_is_refused() {
    let Some(device) = device() else { return };
    let host = model(false).convert::<f32>().unwrap();
    let policy = || DevicePolicy::<bf16>::new(&host, &device, Recompute::Nothing).unwrap();
    let muon = TrainerOptions { optimizer: OptimizerOptions::Muon(MuonOptions::default()), ..options(1e-3) };
    let error = Trainer::new(policy(), Reference::None, Box::new(Simpo::default()), muon).unwrap_err().to_string();
    assert!(error.contains("optimizer.kind") && error.contains("adamw"), "{error}");

    let elsewhere = CausalPolicy::new(host.frozen_copy(), Recompute::Nothing, 1);
    let reference = Reference::Moving(MovingReference::of(&elsewhere).unwrap());
    let error = Trainer::new(policy(), reference, Box::new(TrDpo::default()), options(1e-3)).unwrap_err().to_string();
    assert!(error.contains("on a device") && error.contains("to_device"), "{error}");
}

/// Steps of a trainer on the device and of one on the host whose references follow.
fn check_following<O: Objective + Clone + 'static>(with_adapter: bool, objective: O, steps: &[Vec<Batch>]) {
    let Some(device) = device() else { return };
    let host = model(with_adapter);
    let mut ours = trainer::<f64>(&host, &device, objective.clone());
    let policy = CausalPolicy::new(host.clone(), Recompute::Nothing, 1);
    let reference = Reference::Moving(MovingReference::of(&policy).unwrap());
    let mut theirs = Trainer::new(policy, reference, Box::new(objective.clone()), options(1e-2)).unwrap();
    for step in steps {
        assert_same(&ours.step(step).unwrap(), &theirs.step(step).unwrap());
        assert!(worst(&masters(&ours), &masters(&theirs)) < 1e-10, "{objective:?}");
        assert!(worst(&followed(&ours), &followed(&theirs)) < 1e-10, "{objective:?}");
    }
    assert!(worst(&followed(&ours), host.trainable().data()) > 1e-5, "{objective:?}: the reference stands still");

    // What is written on a device is what the host writes of the same numbers.
    let folder = tempfile::tempdir().unwrap();
    let [written, again] = ["device", "host"].map(|name| folder.path().join(name));
    ours.save(&written, &serde_json::Value::Null, &[]).unwrap();
    theirs.restore(&Checkpoint::open(&written).unwrap()).unwrap();
    theirs.save(&again, &serde_json::Value::Null, &[]).unwrap();
    let read = |directory: &Path| std::fs::read(directory.join("moving_reference.safetensors")).unwrap();
    assert!(read(&written) == read(&again), "{objective:?}: files of other bytes");
}

#[test]
fn references_follow_as_on_the_host() {
    for with_adapter in [false, true] {
        for update in UPDATES {
            let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
            check_following(with_adapter, following(update), &steps);
        }
    }
    let steps = [1, 2].map(|seed| mismatched_batches(&labelled(6, seed), 3));
    check_following(false, TrKto { update: ReferenceUpdate::Ema { mu: 0.3 }, ..TrKto::default() }, &steps);
}

#[test]
fn a_reference_in_bf16_says_what_a_policy_of_its_weights_does() {
    let Some(device) = device() else { return };
    for with_adapter in [false, true] {
        let model = model(with_adapter).convert::<f32>().unwrap();
        let mut ours = trainer::<bf16>(&model, &device, following(UPDATES[0]));
        for seed in 1..=3 {
            ours.step(&batches(&pairs(4, seed), 2)).unwrap();
        }
        let frozen = |numbers: &[f64]| {
            let mut model = model.clone();
            model.trainable_mut().data_mut().iter_mut().zip(numbers).for_each(|(x, value)| *x = *value as f32);
            model
        };
        let reference = frozen(&followed(&ours)).to_device::<bf16>(&device, &mut Workspace::new(1).on(&device));
        let reference = Reference::Frozen(Box::new(FrozenPolicy::new(reference.unwrap(), 1)));
        let policy = DevicePolicy::<bf16>::new(&frozen(&masters(&ours)), &device, Recompute::Nothing).unwrap();
        let objective = Box::new(following(ReferenceUpdate::Frozen));
        let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
        let mut beside = Trainer::new(policy, reference, objective, options).unwrap();
        let report = evaluate(&mut ours);
        let expected = evaluate(&mut beside);
        assert_eq!((report.loss, &report.metrics), (expected.loss, &expected.metrics));
        // They are not the same, and the policy is what it was.
        assert!((report.loss - f64::ln(2.0)).abs() > 1e-4, "{report:?}");
        assert_eq!(evaluate(&mut ours), report);
    }
}

#[test]
fn a_reference_starts_as_the_base_of_a_trained_adapter() {
    let Some(device) = device() else { return };
    let mut model = model(true).convert::<f32>().unwrap();
    model.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (i as f32).sin());
    let policy = || DevicePolicy::<bf16>::new(&model, &device, Recompute::Nothing).unwrap();
    let base = MovingReference::of_base(&policy()).unwrap();
    let on_host = CausalPolicy::new(model.clone(), Recompute::Nothing, 1);
    let expected = MovingReference::of_base(&on_host).unwrap();
    assert!(numbers(base.parameters()) == numbers(expected.parameters()));
    assert!(numbers(expected.to_device(&device).unwrap().parameters()) == numbers(base.parameters()));
    let trainer = |reference, update| {
        let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
        Trainer::new(policy(), reference, Box::new(following(update)), options).unwrap()
    };
    let mut moving = trainer(Reference::Moving(base), UPDATES[0]);
    let mut off = trainer(Reference::AdapterOff, ReferenceUpdate::Frozen);
    assert_eq!(evaluate(&mut moving), evaluate(&mut off));
    // Without an adapter there is no base of one.
    let full = DevicePolicy::<bf16>::new(&self::model(false).convert().unwrap(), &device, Recompute::Nothing).unwrap();
    assert!(MovingReference::of_base(&full).unwrap_err().to_string().contains("has none"));
}

/// Tensor by tensor, and the same wherever the weights are.
#[test]
fn a_digest_is_that_of_the_host() {
    let Some(device) = device() else { return };
    for with_adapter in [false, true] {
        let host = model(with_adapter).convert::<f32>().unwrap();
        let policy = DevicePolicy::<f32>::new(&host, &device, Recompute::Nothing).unwrap();
        assert_eq!(policy.digest().unwrap(), weights_digest(&host));
        let mut other = host.clone();
        *other.trainable_mut().data_mut().last_mut().unwrap() += 1.0;
        let other = DevicePolicy::<f32>::new(&other, &device, Recompute::Nothing).unwrap();
        assert_ne!(other.digest().unwrap(), weights_digest(&host));
        // What is rounded in the passes is not in the masters.
        let rounded = DevicePolicy::<bf16>::new(&host, &device, Recompute::Nothing).unwrap();
        assert_eq!(rounded.digest().unwrap() == weights_digest(&host), !with_adapter);
    }
}

/// Two heads on the trunk of [`model`]: zero as they begin, or drawn.
fn score_model(with_adapter: bool, fresh: bool) -> ScoreModel<f64> {
    let names = ["reward".to_owned(), "other".to_owned()];
    let mut scores = ScoreModel::random(model(false).config().clone(), &names, 1).unwrap();
    if with_adapter {
        scores.add_lora(&LoraConfig { rank: 8, ..LoraConfig::default() }, 1).unwrap();
    }
    if fresh {
        let place = scores.head_place();
        scores.trainable_mut().tensor_mut(place).fill(0.0);
    }
    scores
}

fn score_options(fresh: bool) -> TrainerOptions {
    TrainerOptions { starts_at_reference: fresh, ..options(1e-2) }
}

fn score_trainer<T: Element>(model: &ScoreModel<T::Wide>, device: &Cuda, fresh: bool) -> Trainer<DeviceScorePolicy<T>>
where
    T::Wide: candlewick_train::Element,
{
    let policy = DeviceScorePolicy::<T>::new(model, device, Recompute::Nothing).unwrap();
    assert_eq!(policy.starts_at_zero().unwrap(), fresh);
    Trainer::new(policy, Reference::None, Box::new(BradleyTerry::default()), score_options(fresh)).unwrap()
}

#[test]
fn score_models_step_as_on_the_host() {
    let Some(device) = device() else { return };
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    let want = Outputs { values: true, pooled: true, ..Outputs::NONE };
    let prompt = ContextIds {
        prompt: &[1, 5, 9],
        prompt_scored: &[],
        completions: vec![CompletionIds::all_scored(&[4, 2]), CompletionIds::all_scored(&[8, 8, 2])],
    };
    let texts = Packed::new(&[prompt]).unwrap();
    let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (with_adapter, fresh) in [(false, true), (true, false)] {
        let model = score_model(with_adapter, fresh);
        let policy = ScorePolicy::new(model.clone(), Recompute::Nothing, 1);
        let objective = Box::new(BradleyTerry::default());
        let mut on_host = Trainer::new(policy, Reference::None, objective, score_options(fresh)).unwrap();
        let mut on_device = score_trainer::<f64>(&model, &device, fresh);
        assert_eq!(on_device.policy().digest().unwrap(), on_host.policy().digest().unwrap());
        for step in &steps {
            assert_same(&on_device.step(step).unwrap(), &on_host.step(step).unwrap());
        }
        assert!(worst(&masters(&on_device), &masters(&on_host)) < 1e-9);
        let scores = on_host.policy_mut().score(&texts, want).unwrap();
        let found = on_device.policy_mut().score(&texts, want).unwrap();
        let read = |scores: &TokenScores| [numbers(scores.values().unwrap()), numbers(scores.pooled().unwrap())];
        for (found, expected) in read(&found).iter().zip(read(&scores)) {
            assert!(expected.iter().any(|x| *x != 0.0) && worst(found, &expected) < 1e-9);
        }
        let refused = on_device.policy_mut().score(&texts, Outputs { entropy: true, ..want }).unwrap_err().to_string();
        assert!(refused.contains("entropy"), "{refused}");
        if with_adapter {
            let base = |scores: TokenScores| numbers(scores.values().unwrap());
            let expected = base(on_host.policy_mut().queue_without_adapter(&texts, want).unwrap().read().unwrap());
            let found = base(on_device.policy_mut().queue_without_adapter(&texts, want).unwrap().read().unwrap());
            assert!(worst(&found, &expected) < 1e-10 && worst(&found, &numbers(scores.values().unwrap())) > 1e-6);
        }
    }
}

#[test]
fn score_models_in_bf16_go_on_from_what_they_saved() {
    let Some(device) = device() else { return };
    let steps = [1, 2, 3].map(|seed| batches(&pairs(4, seed), 2));
    for with_adapter in [false, true] {
        let model = score_model(with_adapter, true).convert::<f32>().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step");
        let mut whole = score_trainer::<bf16>(&model, &device, true);
        let first = whole.step(&steps[0]).unwrap();
        assert!((first.loss - f64::ln(2.0)).abs() < 1e-7, "{first:?}");
        whole.step(&steps[1]).unwrap();
        whole.save(&path, &serde_json::Value::Null, &[]).unwrap();
        let saved = masters(&whole);
        let mut resumed = score_trainer::<bf16>(&model, &device, true);
        resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
        assert!(masters(&resumed) == saved, "masters of other bits");
        assert_eq!(whole.step(&steps[2]).unwrap(), resumed.step(&steps[2]).unwrap());
        assert!(masters(&whole) == masters(&resumed), "masters of other bits");
        // What was written is what everybody reads.
        let mut read = model.frozen_copy();
        match with_adapter {
            true => {
                read.remove_adapter();
                read.load_adapter(&path).unwrap();
            }
            false => read = ScoreModel::load(&path).unwrap(),
        }
        assert!(read.trainable().data().iter().map(|x| f64::from(*x)).eq(saved), "files of other bits");
    }
}

#[test]
fn an_adapter_of_another_scale_is_not_restored() {
    let Some(device) = device() else { return };
    let lora = |alpha: f64| LoraConfig { rank: 8, alpha, ..LoraConfig::default() };
    let causal = |alpha| {
        let mut model = model(false).convert::<f32>().unwrap();
        model.add_lora(&lora(alpha), 1).unwrap();
        DevicePolicy::<f32>::new(&model, &device, Recompute::Nothing).unwrap()
    };
    let score = |alpha| {
        let mut model = score_model(false, false).convert::<f32>().unwrap();
        model.add_lora(&lora(alpha), 1).unwrap();
        DeviceScorePolicy::<f32>::new(&model, &device, Recompute::Nothing).unwrap()
    };
    fn check<P: Trainable>(policy: impl Fn(f64) -> P) {
        let folder = tempfile::tempdir().unwrap();
        policy(8.0).save(folder.path()).unwrap();
        policy(8.0).restore(folder.path()).unwrap();
        let error = policy(4.0).restore(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is 1, the policy's 0.5; give model.lora.alpha"), "{error}");
    }
    check(causal);
    check(score);
}
