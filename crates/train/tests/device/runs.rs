//! Runs of a configuration on a device: on a GPU where there is one, else with its kernels emulated.
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candlewick_kernels::Cuda;
use candlewick_model::{Adapter, CompletionIds, Config, ContextIds, Packed, Sampling, ScoreModel, Statistics};
use candlewick_train::{Dtype, Event, Hardware, Plan, Precomputation, Run};
use serde_json::json;

use crate::support::device::{device, model};
use crate::support::folder::{Folder, pairs};
use crate::support::{VOCABULARY, worst, write_model};

/// A model whose heads a device has, and pairs.
fn folder() -> Folder {
    let folder = Folder::new();
    model(false).convert::<f32>().unwrap().save(&folder.path("model")).unwrap();
    folder.lines("rows.jsonl", &pairs(16));
    folder
}

/// Five steps with an evaluation.
const COURSE: [&str; 6] = [
    "data.rows=..12",
    "train.steps=5",
    "output.save_every=2",
    "output.keep=0",
    "evaluation.rows=12..",
    "evaluation.every=2",
];

fn plan(folder: &Folder, output: &str, assignments: &[&str]) -> Plan {
    folder.plan(output, &COURSE.iter().chain(assignments).copied().collect::<Vec<_>>())
}

/// What a run said of itself: loss and gradient norm of each step, then loss and accuracy of each evaluation.
fn finish(mut run: Run) -> Vec<[f64; 2]> {
    let mut said = Vec::new();
    while let Some(event) = run.advance().unwrap() {
        match event {
            Event::Step(report) => said.push([report.loss, report.grad_norm]),
            Event::Evaluated(report) => {
                let values = report.metrics.values();
                let accuracy = ["rewards/accuracies", "accuracy"].iter().find_map(|name| values.get(*name));
                said.push([report.loss, *accuracy.unwrap()]);
            }
            _ => {}
        }
    }
    said
}

fn weights(folder: &Folder, output: &str) -> Vec<u8> {
    let directory = folder.path(output).join("final");
    let names = ["model.safetensors", "adapter_model.safetensors"].map(|name| directory.join(name));
    std::fs::read(names.iter().find(|path| path.exists()).unwrap()).unwrap()
}

const KINDS: [&[&str]; 6] = [
    &[],
    &["objective.type=bradley_terry"],
    &["model.lora={rank = 8}", "reference.kind=precomputed", "objective.type=ipo"],
    &["model.lora={rank = 8}", "reference.kind=frozen", "train.recompute=layers"],
    &["objective.type=tr_dpo", "objective.update={ema={mu=0.1}}"],
    &[
        "model.lora={rank = 8}",
        "objective.type=tr_dpo",
        "objective.update={bema={every=2, update_after=1}}",
        "optimizer.kind=schedule_free_adamw",
        "schedule.kind=constant",
    ],
];

#[test]
fn in_f32_a_run_on_a_device_is_that_of_the_host() {
    let Some(device) = device() else { return };
    let (folder, hardware) = (folder(), Hardware::on(&device));
    for (i, kind) in KINDS.into_iter().enumerate() {
        let (here, there) = (format!("cpu-{i}"), format!("cuda-{i}"));
        let host = finish(Run::start(plan(&folder, &here, kind)).unwrap());
        let kind = [kind, &["train.device=cuda", "train.dtype=f32"]].concat();
        let on_device = finish(Run::start_on(&hardware, plan(&folder, &there, &kind)).unwrap());
        assert_eq!(host.len(), 5 + 3);
        assert_eq!(on_device.len(), host.len());
        assert!(worst(on_device.as_flattened(), host.as_flattened()) < 1e-3, "{i}: {on_device:?} and {host:?}");
        // Both results are read by everybody.
        let numbers = |output: &str| {
            let tensors = candle_core::safetensors::load_buffer(&weights(&folder, output), &Device::Cpu).unwrap();
            let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
            let numbers =
                |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>();
            tensors.values().flat_map(|tensor| numbers(tensor).unwrap()).collect::<Vec<_>>()
        };
        // Where a gradient is little more than rounding, AdamW makes a whole step of it: all weights together, then.
        let (ours, theirs) = (numbers(&there), numbers(&here));
        let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
        let gap = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied());
        assert!(ours.len() == theirs.len() && gap < 1e-3, "{i}: weights differ by {gap}");
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let Some(device) = device() else { return };
    let folder = folder();
    for (i, kind) in KINDS.into_iter().enumerate() {
        let kind = [kind, &["train.device=cuda"]].concat();
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let hardware = Hardware::on(&device);
        let said = finish(Run::start_on(&hardware, plan(&folder, &whole, &kind)).unwrap());
        // Stopped after the third step, of which nothing was saved.
        let mut run = Run::start_on(&hardware, plan(&folder, &parts, &kind)).unwrap();
        while run.trainer().steps_done() < 3 {
            run.advance().unwrap();
        }
        drop(run);
        let latest = folder.latest(&parts);
        assert_eq!(latest.state.step, 2);
        // The number of the device is none of what decides.
        let kind = [kind, vec!["train.device=cuda:3"]].concat();
        let resumed = finish(Run::resume_on(&hardware, plan(&folder, &parts, &kind), &latest.path).unwrap());
        assert_eq!(said[said.len() - resumed.len()..], resumed);
        assert!(weights(&folder, &whole) == weights(&folder, &parts), "{i}: files of other bits");
        let [whole, parts] = [&whole, &parts].map(|output| {
            let file = folder.path(output).join("checkpoints/step-00000004/moving_reference.safetensors");
            std::fs::read(file).ok()
        });
        assert_eq!(whole.is_some(), kind.contains(&"objective.type=tr_dpo"));
        assert!(whole == parts, "{i}: references of other bits");
    }
}

#[test]
fn what_a_reference_says_in_bf16_is_kept_apart() {
    let Some(device) = device() else { return };
    let (folder, hardware) = (folder(), Hardware::on(&device));
    let cache = folder.at("reference.path", "cache");
    let plan = |output: &str, more: &[&str]| {
        let kind = ["reference.kind=precomputed", &cache, "train.device=cuda"];
        plan(&folder, output, &[&kind, more].concat())
    };
    let precompute = |plan: Plan| {
        let mut work = Precomputation::start_on(&hardware, plan).unwrap();
        let before = work.rows();
        while work.advance().unwrap() {}
        (before, work.rows())
    };
    assert_eq!(precompute(plan("one", &[])), (0, 32));
    assert_eq!(precompute(plan("one", &[])), (32, 32));
    // f32 says other numbers, and takes none of them.
    let error = Precomputation::start_on(&hardware, plan("two", &["train.dtype=f32"])).unwrap_err().to_string();
    assert!(error.contains("-bf16") && error.contains("reference.shared"), "{error}");
    assert_eq!(precompute(plan("two", &["train.dtype=f32", "reference.shared=true"])), (0, 32));
    let said = finish(Run::start_on(&hardware, plan("three", &[])).unwrap());
    assert!((said[0][0] - f64::ln(2.0)).abs() < 2e-2, "{said:?}");
}

#[test]
fn answers_are_drawn_on_a_device_as_on_the_host() {
    let Some(device) = device() else { return };
    let folder = folder();
    let mut rows = pairs(8);
    for (i, row) in rows.iter_mut().enumerate() {
        (row["reward_gap"], row["cost_gap"]) = (json!(i as f64 / 4.0), json!((i % 3) as f64 - 1.0));
    }
    folder.lines("rows.jsonl", &rows);
    let cost = folder.path("cost");
    write_model(&cost, 3);
    ScoreModel::<f32>::random(Config::llama(VOCABULARY, 16, 2), &["cost".to_owned()], 5).unwrap().save(&cost).unwrap();
    let plan = |output: &str, device: &str| {
        let words = [
            "train.steps=3",
            "objective.type=safe_rlhf_lagrangian",
            "objective.dual=[{ limit = 0.0, ascent = { linear = { rate = 0.5 } } }]",
            &folder.at("safety.prompts", "rows.jsonl"),
            &format!("safety.costs=[{cost:?}]"),
            "safety.every=2",
            "safety.prompts_per_round=3",
            "safety.completions=1",
            "safety.max_new_tokens=3",
            "train.dtype=f32",
            device,
        ];
        folder.plan(output, &words)
    };
    let lambdas = |mut run: Run| {
        let mut said = Vec::new();
        while let Some(event) = run.advance().unwrap() {
            match event {
                Event::Answered(report) => said.extend([report.answers as f64, report.costs[0].mean]),
                Event::Step(report) => said.push(report.metrics.values()["lambda"]),
                _ => {}
            }
        }
        said
    };
    let host = lambdas(Run::start(plan("here", "train.device=cpu")).unwrap());
    let there = lambdas(Run::start_on(&Hardware::on(&device), plan("there", "train.device=cuda")).unwrap());
    assert!(host.len() == 7 && worst(&there, &host) < 1e-4, "{there:?} and {host:?}");
}

#[test]
fn a_placed_model_goes_on_as_on_the_host() {
    let Some(device) = device() else { return };
    let sampling = Sampling { max_new_tokens: 6, temperature: 1.0, seed: 3, ..Sampling::default() };
    let context = ContextIds {
        prompt: &[1, 5, 9],
        prompt_scored: &[],
        completions: vec![CompletionIds { ids: &[7, 3], scored: &[true, true] }],
    };
    let packed = Packed::new(&[context]).unwrap();
    let said = |hardware: Hardware, dtype: Dtype| {
        let model = model(true).convert::<f32>().unwrap();
        let (model, mut workspace) = hardware.place(model, dtype, 1).unwrap();
        let text = model.generate(&[1, 5], &sampling, &mut workspace).unwrap();
        let scores = model.score(&packed, Statistics::default(), Adapter::On, &mut workspace).unwrap();
        (text, scores.log_probs.into_iter().map(f64::from).collect::<Vec<_>>())
    };
    let host = said(Hardware::default(), Dtype::F32);
    let [single, half] = [Dtype::F32, Dtype::Bf16].map(|dtype| said(Hardware::on(&device), dtype));
    assert_eq!(single.0, host.0);
    assert!(worst(&single.1, &host.1) < 1e-4, "{single:?} and {host:?}");
    assert!(worst(&half.1, &host.1) < 5e-2 && half.1 != host.1, "{half:?} and {host:?}");
}

#[test]
fn what_no_device_does_is_refused_by_its_key() {
    let folder = folder();
    for (assignments, words) in
        [(&["optimizer.kind=muon"][..], "optimizer.kind"), (&["train.dtype=bf16", "train.device=cpu"], "train.dtype")]
    {
        let assignments = [&["train.device=cuda"], assignments].concat();
        let error = folder.try_plan("refused", &assignments).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("train.device"), "{error}");
    }
    let plan = |kind: &str| plan(&folder, "refused", &[kind]);
    let error = Run::start_on(&Hardware::default(), plan("train.device=cuda")).unwrap_err().to_string();
    assert!(error.contains("train.device") && error.contains("host"), "{error}");
    if let Some(device) = device() {
        let error = Run::start_on(&Hardware::on(&device), plan("train.device=cpu")).unwrap_err().to_string();
        assert!(error.contains("train.device") && error.contains("cuda"), "{error}");
    }
    if Cuda::new(0).is_err() {
        let error = Run::start(plan("train.device=cuda")).unwrap_err().to_string();
        assert!(error.contains("train.device: cuda:0"), "{error}");
    }
    assert!(!Path::new(&folder.path("refused")).exists());
}
