use serde_json::{Value, json};

use super::*;
use crate::tensor_flags::ends;

const STEPS: u64 = 20;

/// Numbers in [−0.5, 0.5), the same as `tools/optimizers/make.py` makes.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
    };
    (0..count).map(next).collect()
}

fn put<T: Element>(to: &mut [T], from: impl Iterator<Item = f64>) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = Float::from_f64(from));
}

/// A run of some steps that can stop, be stored and go on.
struct Trial<T> {
    parameters: Parameters<T>,
    optimizer: Optimizer<T>,
    workspace: Workspace,
}

impl<T: Element> Trial<T> {
    fn new(layout: &[(String, Vec<usize>)], options: &OptimizerOptions, ratio: Option<f64>, threads: usize) -> Self {
        let mut parameters = Parameters::zeros(layout.to_vec()).unwrap();
        let count = parameters.element_count();
        put(parameters.data_mut(), numbers(1, count).into_iter());
        let optimizer = Optimizer::new(&parameters, options, ratio).unwrap();
        Self { parameters, optimizer, workspace: Workspace::new(threads) }
    }

    fn step(&mut self, step: u64, factor: f64) {
        let mut gradients = Gradients::zeros(&self.parameters);
        let count = self.parameters.element_count();
        // Twice as large, and halved by the scale.
        let of_step = numbers(1000 + step, count).into_iter().enumerate().map(|(i, g)| 2.0 * g * (1 + i % 3) as f64);
        put(gradients.data_mut(), of_step);
        self.optimizer.begin(&mut self.parameters, &mut self.workspace).unwrap();
        self.optimizer.step(&mut self.parameters, &gradients, &Clip::by(0.5), factor, &mut self.workspace).unwrap();
    }

    fn numbers(&self) -> Vec<f64> {
        self.parameters.data().iter().map(|x| Float::to_f64(*x)).collect()
    }

    fn bits(&self) -> Vec<u64> {
        self.numbers().into_iter().map(f64::to_bits).collect()
    }
}

struct Case {
    options: OptimizerOptions,
    ratio: Option<f64>,
    factors: Vec<f64>,
    bound: f64,
    layout: Vec<(String, Vec<usize>)>,
    expected: Vec<f64>,
}

fn cases() -> Vec<Case> {
    let file: Value = serde_json::from_str(include_str!("../../tests/expected/optimizers.json")).unwrap();
    let case = |case: &Value| Case {
        options: OptimizerOptions::deserialize(&case["optimizer"]).unwrap(),
        ratio: case["lora_plus_ratio"].as_f64(),
        factors: serde_json::from_value(case["factors"].clone()).unwrap(),
        bound: case["bound"].as_f64().unwrap(),
        layout: serde_json::from_value(case["tensors"].clone()).unwrap(),
        expected: serde_json::from_value(case["parameters"].clone()).unwrap(),
    };
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

fn run<T: Element>(case: &Case, threads: usize) -> Trial<T> {
    let mut trial = Trial::new(&case.layout, &case.options, case.ratio, threads);
    (0..STEPS).for_each(|step| trial.step(step, case.factors[step as usize]));
    trial
}

/// The largest |a − b| / max(|b|, 1e-2).
fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1e-2)).fold(0.0, f64::max)
}

// `tools/optimizers/make.py` says which program computed them.
#[test]
fn twenty_steps_are_those_of_other_programs() {
    let mut kinds = std::collections::BTreeSet::new();
    for case in cases() {
        let (name, got) = (format!("{:?}", case.options), run::<f64>(&case, 1));
        let distance = worst(&got.numbers(), &case.expected);
        println!("{distance:.1e}: {name}");
        assert!(distance <= case.bound, "{distance:e}: {name}");
        kinds.insert(case.options.kind());
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

#[test]
fn f32_goes_the_same_way() {
    for case in cases() {
        // A code that falls the other way in f32 moves a parameter by a share of a step.
        let bound = if matches!(case.options, OptimizerOptions::AdamW8bit(_)) { 5e-2 } else { 2e-3 };
        let distance = worst(&run::<f32>(&case, 1).numbers(), &case.expected);
        assert!(distance <= bound, "{distance:e}: {:?}", case.options);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for case in cases() {
        assert_eq!(run::<f32>(&case, 1).bits(), run::<f32>(&case, 3).bits(), "{:?}", case.options);
    }
}

#[test]
fn a_state_comes_back_to_the_bit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("optimizer.safetensors");
    for case in cases() {
        let whole = run::<f32>(&case, 1);
        // Stored before the first step too.
        for stop in [0, 7] {
            let mut first = Trial::<f32>::new(&case.layout, &case.options, case.ratio, 1);
            (0..stop).for_each(|step| first.step(step, case.factors[step as usize]));
            first.optimizer.file().unwrap().write(&path).unwrap();
            let mut second = Trial::<f32>::new(&case.layout, &case.options, case.ratio, 1);
            second.optimizer.load(&path).unwrap();
            second.parameters = first.parameters;
            let met = second.optimizer.met_gradients(&ends(&second.parameters)).unwrap();
            assert_eq!(met, vec![stop > 0; second.parameters.len()], "{:?}", case.options);
            (stop..STEPS).for_each(|step| second.step(step, case.factors[step as usize]));
            assert_eq!(second.bits(), whole.bits(), "{:?}", case.options);
        }
    }
}

#[test]
fn the_state_is_as_large_as_the_memory_plan_says() {
    for case in cases() {
        let trial = Trial::<f32>::new(&case.layout, &case.options, case.ratio, 1);
        let bytes = |(_, state): (_, State<'_, f32>)| match state {
            State::Numbers(numbers) => size_of_val(numbers),
            State::Buffer(numbers) => numbers.len() * size_of::<f32>(),
            State::Codes(codes) => size_of_val(codes),
            State::Wide(numbers) => size_of_val(numbers),
        };
        let state: usize = trial.optimizer.rule.state().into_iter().map(bytes).sum();
        let planned = case.options.memory(&case.layout, size_of::<f32>());
        let scratch = match case.options {
            OptimizerOptions::ScheduleFreeAdamW(_) => size_of_val(trial.parameters.data()),
            OptimizerOptions::Muon(_) => planned - state,
            _ => 0,
        };
        assert_eq!(planned, state + scratch, "{:?}", case.options);
    }
}

#[test]
fn a_step_that_fails_leaves_every_weight_as_it_was() {
    for case in cases() {
        let mut trial = run::<f32>(&case, 1);
        let before = trial.bits();
        trial.optimizer.begin(&mut trial.parameters, &mut trial.workspace).unwrap();
        let is_averaged = matches!(case.options, OptimizerOptions::ScheduleFreeAdamW(_));
        assert_eq!(trial.bits() != before, is_averaged);
        trial.optimizer.give_up(&mut trial.parameters).unwrap();
        assert_eq!(trial.bits(), before, "{:?}", case.options);
    }
}

fn small() -> Vec<(String, Vec<usize>)> {
    let layout = [("a.weight", 2), ("b.norm.weight", 1), ("c.weight", 1), ("c.bias", 1)];
    layout.map(|(name, length)| (name.to_owned(), vec![length])).into()
}

// The first step of Adam moves each weight by lr · sign(gradient), whatever the gradient's size (eps = 0).
#[test]
fn weights_decay_and_norms_and_biases_do_not() {
    let mut p = Parameters::<f64>::zeros(small()).unwrap();
    p.data_mut().copy_from_slice(&[1.0, -2.0, 3.0, 4.0, 5.0]);
    let mut gradients = Gradients::zeros(&p);
    gradients.data_mut().copy_from_slice(&[1.0, -10.0, 2.0, -3.0, 0.5]);
    let options = AdamWOptions { learning_rate: 0.2, eps: 0.0, weight_decay: 0.5, ..AdamWOptions::default() };
    let mut optimizer = Optimizer::new(&p, &options.into(), None).unwrap();
    optimizer.step(&mut p, &gradients, &Clip::by(0.25), 0.5, &mut Workspace::new(1)).unwrap();
    let expected = [1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1, 3.0 - 0.1, 4.0 * 0.95 + 0.1, 5.0 - 0.1];
    for (got, expected) in p.data().iter().zip(expected) {
        assert!((got - expected).abs() < 1e-12, "{got} instead of {expected}");
    }
}

#[test]
fn a_state_of_another_layout_or_optimizer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("optimizer.safetensors");
    let of = |layout: &[(String, Vec<usize>)], options: &OptimizerOptions| {
        Optimizer::new(&Parameters::<f64>::zeros(layout.to_vec()).unwrap(), options, None).unwrap()
    };
    let adamw = OptimizerOptions::default();
    of(&small(), &adamw).file().unwrap().write(&path).unwrap();
    let refused = |mut optimizer: Optimizer<f64>| optimizer.load(&path).unwrap_err().to_string();
    let text = refused(of(&small()[..1], &adamw));
    assert!(text.contains("its mean holds 5 numbers; these parameters need 2"), "{text}");
    let text = refused(of(&small(), &OptimizerOptions::Lion(LionOptions::default())));
    assert!(text.contains("it holds the state of adamw, and this run's optimizer.kind is \"lion\""), "{text}");
    let text = std::fs::read(&path).unwrap();
    let newer = String::from_utf8_lossy(&text[8..]).find("\"version\":\"1\"").unwrap() + 8 + "\"version\":\"".len();
    let mut bytes = text;
    bytes[newer] = b'2';
    std::fs::write(&path, bytes).unwrap();
    let text = refused(of(&small(), &adamw));
    assert!(text.contains("not the state of adamw in format version 1"), "{text}");
}

#[test]
fn what_an_optimizer_cannot_do_is_refused() {
    let p = Parameters::<f64>::zeros(small()).unwrap();
    let refused = |options: OptimizerOptions, ratio| Optimizer::new(&p, &options, ratio).unwrap_err().to_string();
    let text = refused(OptimizerOptions::Muon(MuonOptions::default()), None);
    assert!(text.contains("optimizer.kind: \"muon\" updates the matrices of layers, and none is trained"), "{text}");
    let text = refused(OptimizerOptions::default(), Some(16.0));
    assert!(text.contains("optimizer.lora_plus_ratio: 16, and there is no adapter"), "{text}");
    let text = refused(AdamWOptions { beta1: 1.0, ..AdamWOptions::default() }.into(), None);
    assert_eq!(text, "optimizer.beta1: 1; expected 0 <= beta1 < 1");
}

#[test]
fn options_of_a_plan_that_named_no_optimizer_are_adamws() {
    let text = r#"{"learning_rate": 0.5, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.1}"#;
    let read = of_any_age(&mut serde_json::Deserializer::from_str(text)).unwrap();
    let expected = AdamWOptions { learning_rate: 0.5, beta1: 0.8, beta2: 0.9, eps: 1e-6, weight_decay: 0.1 };
    assert_eq!(read, expected.into());
    let named = json!({"kind": "lion", "learning_rate": 0.5});
    assert_eq!(of_any_age(named).unwrap().kind(), "lion");
    let unknown = json!({"kind": "lion", "eps": 0.5});
    assert!(of_any_age(unknown).unwrap_err().to_string().contains("unknown field `eps`"));
}
