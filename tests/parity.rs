//! TRL's recorded runs come out of our trainer.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "../examples/parity/replay.rs"]
mod replay;

use std::path::{Path, PathBuf};

use candlewick::kernels::{Cuda, Order};
use candlewick::model::CausalLm;
use candlewick::train::CausalPolicy;
use replay::{Replay, ReplayError};

const NAMES: &[&str] = &[
    "dpo_sigmoid",
    "dpo_sigmoid_accum2",
    "ipo",
    "hinge",
    "robust_eps0.1",
    "apo_zero",
    "aot",
    "dpo_plus_sft",
    "dpo_lora",
    "kto",
    "tr_dpo_soft",
];

#[test]
fn recorded_runs_come_out() {
    let Some(shared) = candlewick_testkit::shared() else {
        println!("skipped: no shared folder");
        return;
    };
    let folder = shared.join("parity");
    let replay = Replay {
        model: shared.join("assets/weights/tinystories-656k"),
        adapter: Some(folder.join("dpo_lora_adapter/init")),
    };
    for name in NAMES {
        let (deviations, policy) =
            replay.run(&folder.join(format!("{name}.json"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{deviations}");
        assert!(deviations.are_small(), "{deviations}");
        if *name == "dpo_lora" {
            assert_adapter_is_near(&policy, &replay.model, &folder.join("dpo_lora_adapter/final"));
        }
    }
}

/// On a GPU where there is one, else with its kernels emulated, which takes its time, so that fewer are replayed.
#[test]
fn recorded_runs_come_out_on_a_device() {
    let (Some(shared), Some(device)) = (candlewick_testkit::shared(), device()) else {
        println!("skipped: no shared folder, or no device");
        return;
    };
    let folder = shared.join("parity");
    let replay = Replay {
        model: shared.join("assets/weights/tinystories-656k"),
        adapter: Some(folder.join("dpo_lora_adapter/init")),
    };
    let is_emulated = device.properties().unwrap().name.starts_with("emulated");
    let names = if is_emulated { &["dpo_sigmoid", "dpo_lora"][..] } else { NAMES };
    for name in names {
        let path = folder.join(format!("{name}.json"));
        let deviations = replay.run_on(&device, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{deviations}");
        assert!(deviations.are_small(), "{deviations}");
    }
}

#[test]
fn a_reference_that_is_copied_every_four_steps_comes_out_on_a_device() {
    let Some(device) = device() else {
        println!("skipped: no device");
        return;
    };
    let (replay, path) = hard();
    let deviations = replay.run_on(&device, &path).unwrap_or_else(|e| panic!("{e}"));
    println!("{deviations}");
    assert!(deviations.are_small(), "{deviations}");
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "loads a library of the project's own kernels")]
fn device() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(device) => return Some(device),
        Err(error) if candlewick_testkit::needs_gpu() => panic!("{error}"),
        Err(_) => {}
    }
    let library = candlewick_testkit::emulated_kernels(Path::new(env!("CARGO_TARGET_TMPDIR")), &[]).unwrap()?;
    // SAFETY: made of the kernels' sources.
    Some(unsafe { Cuda::emulated(&library, Order::Ascending) }.unwrap())
}

#[cfg(not(unix))]
fn device() -> Option<Cuda> {
    Cuda::new(0).ok()
}

/// Of a model and rows made for it, so that it stands beside the tests (`tools/interop/tr_dpo_hard.py`).
fn hard() -> (Replay, PathBuf) {
    let here = Path::new("tests/expected");
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(here);
    // In a package for a machine with a GPU they lie where the program runs.
    let expected = if expected.is_dir() { expected } else { here.to_owned() };
    (Replay { model: expected.join("models/untied_head"), adapter: None }, expected.join("tr_dpo_hard.json"))
}

#[test]
fn a_reference_that_is_copied_every_four_steps_comes_out() {
    let (replay, path) = hard();
    let (deviations, _) = replay.run(&path).unwrap_or_else(|e| panic!("{e}"));
    println!("{deviations}");
    assert!(deviations.are_small(), "{deviations}");
}

/// Tensor by tensor, |ours − theirs| / |theirs| ≤ 5e-3: three times what f32 arithmetic alone explains.
fn assert_adapter_is_near(policy: &CausalPolicy, model: &Path, adapter: &Path) {
    let mut theirs = CausalLm::<f32>::load(model).unwrap();
    theirs.load_adapter(adapter).unwrap();
    let (ours, theirs) = (policy.model().adapter().unwrap(), theirs.adapter().unwrap());
    assert_eq!(ours.len(), theirs.len());
    for name in theirs.names() {
        let (a, b) = (ours.get(name).unwrap(), theirs.get(name).unwrap());
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let gap = norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied());
        assert!(gap <= 5e-3, "{name}: {gap}");
    }
}

#[test]
fn what_is_no_fixture_is_told() {
    let Some(shared) = candlewick_testkit::shared() else {
        println!("skipped: no shared folder");
        return;
    };
    let replay = Replay { model: shared.join("assets/weights/tinystories-656k"), adapter: None };
    let run = |path: &str| replay.run(&shared.join(path)).unwrap_err();
    assert!(matches!(run("parity/dpo_lora.json"), ReplayError::Unusable(what) if what.contains("--adapter")));
    assert!(matches!(run("README.md"), ReplayError::Unusable(_)));
    assert!(matches!(run("parity/nowhere.json"), ReplayError::Unusable(_)));
}
