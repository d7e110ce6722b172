//! A reference that follows the policy: what it holds, what it scores, and that it comes back.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_losses::{Bema, Objective, ReferenceUpdate, TrBco, TrDpo, TrIpo, TrKto};
use candlewick_model::{CausalLm, Parameters, Recompute};
use candlewick_train::{
    CausalPolicy, Checkpoint, FrozenPolicy, MovingReference, Reference, Run, Trainer, TrainerOptions,
};
use support::folder::Folder;
use support::{batches, lora_model, model, options, pairs};

const SOFT: ReferenceUpdate = ReferenceUpdate::Soft { alpha: 0.6, every: 2 };
const HARD: ReferenceUpdate = ReferenceUpdate::Hard { every: 3 };
const EMA: ReferenceUpdate = ReferenceUpdate::Ema { mu: 0.05 };
const LAGGED: ReferenceUpdate = ReferenceUpdate::Lagged { every: 1 };

fn bema() -> Bema {
    Bema { every: 2, update_after: 1, lag: 2.0, ..Bema::default() }
}

/// `weight` of `from`, and the rest of what was there.
fn mix(weight: f64, from: &[f64], into: &mut [f64]) {
    into.iter_mut().zip(from).for_each(|(r, p)| *r = weight * p + (1.0 - weight) * *r);
}

fn moving(model: CausalLm<f64>, update: ReferenceUpdate) -> Trainer<CausalPolicy<f64>> {
    let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    let reference = Reference::Moving(MovingReference::of(&policy).unwrap());
    Trainer::new(policy, reference, Box::new(TrDpo { update, ..TrDpo::default() }), options(2e-2)).unwrap()
}

fn values(trainer: &Trainer<CausalPolicy<f64>>) -> Vec<f64> {
    let Reference::Moving(moving) = trainer.reference() else { panic!("it moves") };
    moving.parameters().data().to_vec()
}

/// The loss on some pairs by a frozen reference that holds `anchor`: nothing of it moves or changes places.
fn loss_beside(policy: &CausalLm<f64>, anchor: &[f64]) -> f64 {
    let mut reference = policy.clone();
    reference.trainable_mut().data_mut().copy_from_slice(anchor);
    let objective = Box::new(TrDpo { update: ReferenceUpdate::Frozen, ..TrDpo::default() });
    let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
    let frozen = Reference::Frozen(Box::new(FrozenPolicy::new(reference, 1)));
    let policy = CausalPolicy::new(policy.clone(), Recompute::Nothing, 1);
    loss(&mut Trainer::new(policy, frozen, objective, options).unwrap())
}

fn loss(trainer: &mut Trainer<CausalPolicy<f64>>) -> f64 {
    trainer.evaluate(batches(&pairs(6, 9), 3).into_iter().map(Ok::<_, candlewick_train::Error>)).unwrap().loss
}

#[test]
fn it_follows_all_weights_or_an_adapter_as_the_objective_says() {
    for start in [model::<f64>(1), lora_model(1)] {
        for update in [SOFT, HARD, EMA, LAGGED, ReferenceUpdate::Bema(bema())] {
            let mut expected = start.trainable().data().to_vec();
            let (mut mean, mut origin) = (expected.clone(), expected.clone());
            let mut trainer = moving(start.clone(), update);
            for step in 1..=7u64 {
                let before = trainer.policy().model().trainable().data().to_vec();
                trainer.step(&batches(&pairs(4, step), 2)).unwrap();
                let policy = trainer.policy().model().trainable().data();
                match update {
                    ReferenceUpdate::Soft { alpha, every } if step % every == 0 => mix(alpha, policy, &mut expected),
                    ReferenceUpdate::Hard { every } if step % every == 0 => expected.copy_from_slice(policy),
                    ReferenceUpdate::Ema { mu } => mix(mu, policy, &mut expected),
                    ReferenceUpdate::Lagged { .. } => expected = before,
                    ReferenceUpdate::Bema(_) if step == 1 => (mean, origin) = (policy.to_vec(), policy.to_vec()),
                    ReferenceUpdate::Bema(_) if step % 2 == 1 => {
                        // (2 + t)^−½ and (2 + t)^−⅕.
                        let age = 2.0 + step as f64;
                        mix(1.0 / age.sqrt(), policy, &mut mean);
                        let correction = (-age.ln() / 5.0).exp();
                        expected = (0..mean.len()).map(|i| mean[i] + correction * (policy[i] - origin[i])).collect();
                    }
                    _ => {}
                }
                let gap = values(&trainer).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(gap < 1e-14, "{update:?}, step {step}: {gap:e}");
                let beside = loss_beside(trainer.policy().model(), &expected);
                let ours = loss(&mut trainer);
                assert!((ours - beside).abs() < 1e-12, "{update:?}, step {step}: {ours} beside {beside}");
                if matches!(update, ReferenceUpdate::Hard { every } if step % every == 0) {
                    // The reference is the policy again.
                    assert!((ours - std::f64::consts::LN_2).abs() < 1e-12, "{ours}");
                }
            }
            // It went its own way, and the base of an adapter none.
            assert_ne!(expected, start.trainable().data());
            if start.has_adapter() {
                assert_eq!(trainer.policy().model().parameters().data(), start.parameters().data());
            }
        }
    }
}

#[test]
fn it_starts_as_the_base_of_a_trained_adapter_or_as_another_model() {
    let mut trained = lora_model::<f64>(1);
    trained.trainable_mut().data_mut().iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (i as f64).sin());
    let policy = CausalPolicy::new(trained, Recompute::Nothing, 1);
    let base = MovingReference::of_base(&policy).unwrap();
    for i in 0..base.parameters().len() {
        let name = base.parameters().name(i);
        assert_eq!(base.parameters().tensor(i).iter().all(|x| *x == 0.0), name.contains(".lora_B."), "{name}");
    }
    let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
    let objective = || Box::new(TrDpo { update: SOFT, ..TrDpo::default() });
    let mut ours = Trainer::new(policy, Reference::Moving(base), objective(), options.clone()).unwrap();
    let policy = CausalPolicy::new(ours.policy().model().clone(), Recompute::Nothing, 1);
    let still = Box::new(TrDpo { update: ReferenceUpdate::Frozen, ..TrDpo::default() });
    let mut off = Trainer::new(policy, Reference::AdapterOff, still, options).unwrap();
    assert_eq!(loss(&mut ours).to_bits(), loss(&mut off).to_bits());

    let full = CausalPolicy::new(model::<f64>(1), Recompute::Nothing, 1);
    assert!(MovingReference::of_base(&full).unwrap_err().to_string().contains("has none"));
    MovingReference::from_parameters(&full, model::<f64>(2).into_parameters()).unwrap();
    let small = Parameters::zeros([("a".to_owned(), vec![1])]).unwrap();
    let error = MovingReference::from_parameters(&full, small).unwrap_err();
    assert!(error.to_string().contains("other tensors"), "{error}");
}

#[test]
fn it_is_part_of_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let mut trainer = moving(lora_model(1), SOFT);
    for step in 1..=3 {
        trainer.step(&batches(&pairs(4, step), 2)).unwrap();
    }
    trainer.save(&path, &serde_json::Value::Null, &[]).unwrap();
    let mut again = moving(lora_model(1), SOFT);
    again.restore(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(values(&again), values(&trainer));
    assert_ne!(values(&again), again.policy().model().trainable().data());

    let file = path.join("moving_reference.safetensors");
    let whole = std::fs::read(&file).unwrap();
    // Of a run whose reference stood still, or of other tensors.
    std::fs::remove_file(&file).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("moving_reference.safetensors"));
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&file, flipped).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("moving_reference.safetensors"));
    std::fs::write(&file, whole).unwrap();
    let mut larger = lora_model(1);
    larger.remove_adapter();
    larger.add_lora(&candlewick_model::LoraConfig { rank: 3, ..Default::default() }, 1).unwrap();
    assert!(moving(larger, SOFT).restore(&Checkpoint::open(&path).unwrap()).is_err());
}

#[test]
fn runs_with_it_resume_to_the_bit() {
    let folder = Folder::new();
    let rows = support::folder::pairs(24);
    folder.lines("rows.jsonl", &rows);
    folder.lines("labelled.jsonl", &support::folder::unpaired(&rows));
    let labelled = folder.at("data.path", "labelled.jsonl");
    let other = folder.at("reference.path", "other");
    support::write_model(&folder.path("other"), 2);
    let variants: [&[&str]; 11] = [
        &["objective.type=tr_dpo"],
        &["objective.type=tr_dpo", "model.lora={rank = 2}", "objective.update={soft={alpha=0.5, every=2}}"],
        &["objective.type=tr_ipo", "objective.update={hard={every=2}}"],
        &[
            "objective.type=tr_dpo",
            "objective.update={hard={every=5}}",
            "data.rows=..18",
            "evaluation.rows=18..",
            "evaluation.every=3",
        ],
        &["objective.type=tr_kto", &labelled],
        &["objective.type=tr_dpo", &other],
        &["objective.type=tr_dpo", "objective.update={ema={mu=0.05}}"],
        &["objective.type=tr_dpo", "objective.update={bema={every=2, update_after=1}}", &other],
        &["objective.type=tr_dpo", "model.lora={rank = 2}", "objective.update={bema={every=3, update_after=5}}"],
        &[
            "objective.type=trust_region",
            "objective.update=lagged",
            "objective.loss={type=\"humanline\", loss={type=\"dpo\"}}",
        ],
        &["objective.type=tr_bco", "objective.update=soft", &labelled],
    ];
    for (i, variant) in variants.into_iter().enumerate() {
        let all = [&["output.save_every=2", "output.keep=0", "train.steps=7"], variant].concat();
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let read = |output: &str, file: &str| std::fs::read(folder.path(output).join(file)).unwrap();
        let mut run = Run::start(folder.plan(&whole, &all)).unwrap();
        while run.advance().unwrap().is_some() {}
        folder.stop_after(&parts, &all, 5);
        assert_eq!(folder.latest(&parts).state.step, 4);
        let mut run = folder.try_resume(&parts, &all).unwrap();
        while run.advance().unwrap().is_some() {}
        for file in ["metrics.jsonl", "checkpoints/step-00000007/moving_reference.safetensors"] {
            assert!(read(&whole, file) == read(&parts, file), "variant {i}: {file}");
        }
    }
}

#[test]
fn every_loss_of_the_family_moves_its_reference() {
    let objectives: [Box<dyn Objective>; 4] =
        [Box::<TrDpo>::default(), Box::<TrIpo>::default(), Box::<TrKto>::default(), Box::<TrBco>::default()];
    for objective in objectives {
        assert_ne!(objective.reference_update(), ReferenceUpdate::Frozen, "{objective:?}");
    }
}

#[test]
fn what_an_average_keeps_is_part_of_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    for (i, update) in [EMA, ReferenceUpdate::Bema(bema())].into_iter().enumerate() {
        let path = directory.path().join(i.to_string());
        let mut trainer = moving(model(1), update);
        for step in 1..=4 {
            trainer.step(&batches(&pairs(4, step), 2)).unwrap();
        }
        trainer.save(&path, &serde_json::Value::Null, &[]).unwrap();
        let mut again = moving(model(1), update);
        again.restore(&Checkpoint::open(&path).unwrap()).unwrap();
        for step in 5..=7 {
            trainer.step(&batches(&pairs(4, step), 2)).unwrap();
            again.step(&batches(&pairs(4, step), 2)).unwrap();
        }
        assert!(values(&trainer).iter().zip(values(&again)).all(|(a, b)| a.to_bits() == b.to_bits()), "{update:?}");
        // One that keeps less cannot go on with more.
        let soft = directory.path().join(format!("soft-{i}"));
        let mut trainer = moving(model(1), SOFT);
        trainer.step(&batches(&pairs(4, 1), 2)).unwrap();
        trainer.save(&soft, &serde_json::Value::Null, &[]).unwrap();
        let error = moving(model(1), update).restore(&Checkpoint::open(&soft).unwrap()).unwrap_err().to_string();
        assert!(error.contains("the tensor mean is missing"), "{error}");
    }
}
