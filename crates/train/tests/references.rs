//! What a policy can be compared with: adapters beside its own, checkpoints, and what does not go together.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_losses::Dpo;
use candlewick_model::{CausalLm, LoraConfig, Recompute};
use candlewick_train::{
    AdapterReference, CausalPolicy, Element, Event, FrozenPolicy, MemoryPlan, Reference, ReferencePlan, Run, Trainer,
    TrainerOptions,
};
use support::folder::{self, Folder};
use support::{batches, bits, lora_model, options, pairs};

/// An adapter that has learned something.
fn trained<T: Element>(seed: u64) -> CausalLm<T> {
    let mut model = lora_model::<T>(seed);
    let numbers = model.trainable_mut().data_mut().iter_mut().enumerate();
    numbers.for_each(|(i, x)| *x = candlewick_kernels::Float::from_f64((i as f64 * 0.7).sin() * 0.2));
    model
}

fn steps<T: Element>(policy: CausalPolicy<T>, reference: Reference<T>, starts: bool) -> (Vec<u64>, Vec<u64>) {
    let options = TrainerOptions { starts_at_reference: starts, ..options(1e-2) };
    let mut trainer = Trainer::new(policy, reference, Box::<Dpo>::default(), options).unwrap();
    let losses = (1..5).map(|seed| trainer.step(&batches(&pairs(4, seed), 2)).unwrap().loss.to_bits()).collect();
    (losses, bits(&trainer))
}

fn policy<T: Element>(model: CausalLm<T>) -> CausalPolicy<T> {
    CausalPolicy::new(model, Recompute::Nothing, 1)
}

fn an_adapter_is_a_copy_of_the_whole_model<T: Element>() {
    let of_start = policy(trained::<T>(1));
    let adapter = Reference::Adapter(AdapterReference::of(&of_start).unwrap());
    let whole: Reference<T> = Reference::Frozen(Box::new(FrozenPolicy::new(trained::<T>(1), 1)));
    assert_eq!(steps(of_start, adapter, true), steps(policy(trained(1)), whole, true));

    // Another adapter of the same shape, from its files.
    let directory = tempfile::tempdir().unwrap();
    let mut other = trained::<T>(1);
    other.trainable_mut().data_mut().iter_mut().for_each(|x| *x *= candlewick_kernels::Float::from_f64(0.5));
    other.save_adapter(directory.path(), "").unwrap();
    let start = policy(lora_model::<T>(1));
    let adapter = AdapterReference::load(&start, directory.path()).unwrap();
    let held: Vec<f64> = adapter.parameters().data().iter().map(|x| candlewick_kernels::Float::to_f64(*x)).collect();
    let expected: Vec<f64> = other.trainable().data().iter().map(|x| candlewick_kernels::Float::to_f64(*x)).collect();
    assert!(held.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-7));
    let mut loaded = lora_model::<T>(1);
    loaded.remove_adapter();
    loaded.load_adapter(directory.path()).unwrap();
    let whole: Reference<T> = Reference::Frozen(Box::new(FrozenPolicy::new(loaded, 1)));
    let beside = steps(start, Reference::Adapter(adapter), false);
    assert_eq!(beside, steps(policy(lora_model(1)), whole, false));
    assert_ne!(beside, steps(policy(lora_model::<T>(1)), Reference::AdapterOff, false));
}

#[test]
fn an_adapter_beside_the_policys_own_is_a_second_model() {
    an_adapter_is_a_copy_of_the_whole_model::<f32>();
    an_adapter_is_a_copy_of_the_whole_model::<f64>();
}

#[test]
fn an_adapter_of_another_kind_is_refused_by_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    let ours = policy(lora_model::<f32>(1));
    let base = LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() };
    let cases = [
        (LoraConfig { rank: 3, alpha: 6.0, ..base.clone() }, "has shape [3, 16], the policy's [2, 16]"),
        (
            LoraConfig { alpha: 8.0, ..base.clone() },
            "its scale (lora_alpha / r) of model.layers.0.mlp.down_proj is 4, the policy's 2",
        ),
        (LoraConfig { rank_stabilised: true, ..base.clone() }, "its scale"),
        (
            LoraConfig { targets: vec!["q_proj".into()], ..base.clone() },
            "it has no base_model.model.model.layers.0.self_attn.k_proj",
        ),
        (
            LoraConfig { targets: [&base.targets[..], &["lm_head".into()]].concat(), ..base.clone() },
            "which the policy has not",
        ),
    ];
    for (number, (lora, words)) in cases.into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        std::fs::create_dir(&path).unwrap();
        let mut other = support::model::<f32>(1);
        other.add_lora(&lora, 1).unwrap();
        other.save_adapter(&path, "").unwrap();
        let text = AdapterReference::load(&ours, &path).unwrap_err().to_string();
        assert!(text.starts_with("reference.path: ") && text.contains(words), "{words}: {text}");
    }
    let full = policy(support::model::<f32>(1));
    let text = AdapterReference::load(&full, &directory.path().join("0")).unwrap_err().to_string();
    assert!(text.contains("the policy has none"), "{text}");
    AdapterReference::load(&ours, directory.path()).unwrap_err();
}

fn rows() -> Folder {
    let folder = Folder::new();
    folder.lines("rows.jsonl", &folder::pairs(12));
    folder
}

const LORA: [&str; 3] = ["train.steps=3", "model.lora={rank = 2}", "output.save_every=2"];

/// Steps and evaluations of a run, to the bit.
fn finish(mut run: Run) -> Vec<u64> {
    let events = std::iter::from_fn(|| run.advance().unwrap());
    let losses = events.filter_map(|event| match event {
        Event::Step(report) => Some(report.loss.to_bits()),
        Event::Evaluated(report) => Some(report.loss.to_bits()),
        _ => None,
    });
    losses.collect()
}

#[test]
fn adapters_and_checkpoints_of_runs_are_references() {
    let folder = rows();
    finish(Run::start(folder.plan("lora", &LORA)).unwrap());
    finish(Run::start(folder.plan("full", &["train.steps=3", "output.save_every=2"])).unwrap());
    let trained = folder.at("model.adapter", "lora/final");
    let going_on = [LORA[0], &trained];
    let run = |name: &str, more: &[&str]| finish(Run::start(folder.plan(name, more)).unwrap());

    // A trained adapter goes on from itself: as it starts, by its name, or computed before.
    let frozen = run("a", &going_on);
    let adapter = |name: &str| folder.at("reference.path", name);
    let named = folder.plan("b", &[&going_on[..], &["reference.kind=adapter", &adapter("lora/final")]].concat());
    assert!(named.starts_at_reference());
    assert_eq!(finish(Run::start(named).unwrap()), frozen);
    assert_eq!(run("c", &[&going_on[..], &["reference.kind=precomputed"]].concat()), frozen);
    assert!((f64::from_bits(frozen[0]) - std::f64::consts::LN_2).abs() < 1e-6);
    // From an earlier state of it.
    let checkpoint = adapter("lora/checkpoints/step-00000002");
    let earlier = ["reference.kind=adapter", &checkpoint];
    let plan = folder.plan("d", &[&going_on[..], &earlier].concat());
    assert!(!plan.starts_at_reference());
    assert_eq!(plan.reference, ReferencePlan::Adapter(folder.path("lora/checkpoints/step-00000002")));
    assert_ne!(finish(Run::start(plan).unwrap()), frozen);
    // One that then moves, and starts there.
    let moving = ["objective.type=tr_dpo", "objective.update={hard = {every = 2}}"];
    let moved = run("e", &[&going_on[..], &earlier, &moving].concat());
    assert_ne!(moved[0], frozen[0]);

    // Models: the result of a run, and a checkpoint of it.
    let base = run("f", &["train.steps=3"]);
    for name in ["full/final", "full/checkpoints/step-00000002"] {
        assert_ne!(run(&name.replace('/', "-"), &["train.steps=3", &adapter(name)]), base);
    }
    let same = folder.plan("g", &["train.steps=3", &adapter("model")]);
    assert!(same.starts_at_reference());
    // What was computed before, perhaps on a cpu, rounds otherwise than a device.
    let before = folder.plan("h", &["reference.kind=precomputed"]);
    assert!(before.starts_at_reference());
    for dtype in ["f32", "bf16"] {
        let on_device = ["train.device=cuda", &format!("train.dtype={dtype}")];
        assert!(folder.plan("i", &on_device).starts_at_reference(), "{dtype}");
        let before = [&["reference.kind=precomputed"], &on_device[..]].concat();
        assert!(!folder.plan("j", &before).starts_at_reference(), "{dtype}");
    }
    assert_eq!(finish(Run::start(same).unwrap()), base);

    // What does not go together.
    folder.refuses(&["reference.kind=adapter"], &["reference.kind", "model.lora or model.adapter"]);
    folder.refuses(&[&LORA[..], &["reference.kind=adapter"]].concat(), &["reference.path: missing", "an adapter"]);
    folder.refuses(&["reference.shared=true"], &["reference.shared", "precomputed"]);
    folder.refuses(&["train.steps=3", &adapter("lora/final")], &["this is an adapter"]);
    folder.refuses(&[&LORA[..], &["reference.kind=adapter", &adapter("full/final")]].concat(), &["a PEFT adapter"]);
    // A checkpoint is looked at before it is used.
    let weights = folder.path("full/checkpoints/step-00000002/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    folder.refuses(
        &["train.steps=3", &adapter("full/checkpoints/step-00000002")],
        &["model.safetensors has another checksum"],
    );
    // Another base under the adapter.
    support::write_model(&folder.path("other"), 5);
    let (other, theirs) = (folder.at("model.path", "other"), adapter("lora/final"));
    folder.refuses(
        &[LORA[0], LORA[1], &other, "reference.kind=adapter", &theirs],
        &["it was trained over", "others than those of model.path"],
    );
}

#[test]
fn an_adapter_as_reference_takes_the_memory_of_an_adapter() {
    let folder = rows();
    finish(Run::start(folder.plan("lora", &LORA)).unwrap());
    let plan = |more: &[&str]| {
        let adapter = folder.at("model.adapter", "lora/final");
        let all = [&[LORA[0], &adapter][..], more].concat();
        MemoryPlan::of(&folder.plan("out", &all)).unwrap()
    };
    let path = folder.at("reference.path", "lora/final");
    let named = ["reference.kind=adapter", &path];
    for memory in [plan(&[]), plan(&named)] {
        assert_eq!(memory.reference, memory.adapter);
    }
    assert_eq!(plan(&["reference.kind=adapter_off"]).reference, 0);
}
