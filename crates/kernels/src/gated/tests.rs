use super::*;
use crate::Float;
use crate::testing::*;

fn activated<T: Float>(gate: &[f64], up: &[f64], threads: usize) -> Vec<T> {
    let mut y = vec![T::from_f64(f64::NAN); gate.len()];
    let (gate, up) = (cast::<T>(gate), cast::<T>(up));
    forward(Activation::Silu, (&gate).into(), (&up).into(), (&mut y).into(), &mut Workspace::new(threads)).unwrap();
    y
}

fn gradients<T: Float>(gate: &[f64], up: &[f64], dy: &[f64], threads: usize) -> (Vec<T>, Vec<T>) {
    let nan = vec![T::from_f64(f64::NAN); gate.len()];
    let (mut dgate, mut dup) = (nan.clone(), nan);
    let (gate, up, dy) = (cast::<T>(gate), cast::<T>(up), cast::<T>(dy));
    let mut ws = Workspace::new(threads);
    backward(
        Activation::Silu,
        (&gate).into(),
        (&up).into(),
        (&dy).into(),
        (&mut dgate).into(),
        (&mut dup).into(),
        &mut ws,
    )
    .unwrap();
    (dgate, dup)
}

#[test]
fn gradients_are_those_of_autograd_and_of_differences() {
    let (gate, up, c) = (numbers(1, 37), numbers(2, 37), numbers(3, 37));
    let (vg, vu) = (var(&gate, &[37]), var(&up, &[37]));
    let sigmoid = (vg.neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap();
    let y = ((vg.as_tensor() * sigmoid).unwrap() * vu.as_tensor()).unwrap();
    assert_near(&activated::<f64>(&gate, &up, 1), &elements(&y), 1e-14, "y");
    let expected = autograd(&y, &c, &[&vg, &vu]);
    let (dgate, dup) = gradients::<f64>(&gate, &up, &c, 1);
    assert_near(&dgate, &expected[0], 1e-13, "dgate");
    assert_near(&dup, &expected[1], 1e-13, "dup");
    let loss = |gate: &[f64], up: &[f64]| weighted(&activated::<f64>(gate, up, 1), &c);
    assert_near(&dgate, &central_differences(&gate, |gate| loss(gate, &up)), 1e-8, "dgate by differences");
    assert_near(&dup, &central_differences(&up, |up| loss(&gate, up)), 1e-8, "dup by differences");
}

#[test]
fn single_precision_and_threads_change_nothing_but_rounding() {
    let n = 40_001;
    let gate: Vec<f64> = numbers(1, n).iter().map(|v| v * 8.0).collect();
    let (up, dy) = (numbers(2, n), numbers(3, n));
    let one = (activated::<f32>(&gate, &up, 1), gradients::<f32>(&gate, &up, &dy, 1));
    let (dgate, dup) = gradients::<f64>(&gate, &up, &dy, 1);
    assert_near(&one.0, &activated::<f64>(&gate, &up, 1), 1e-6, "y in f32");
    assert_near(&one.1.0, &dgate, 1e-6, "dgate in f32");
    assert_near(&one.1.1, &dup, 1e-6, "dup in f32");
    assert_eq!(one, (activated::<f32>(&gate, &up, 2), gradients::<f32>(&gate, &up, &dy, 2)));
}

#[test]
fn large_gates_stay_finite() {
    let gate = [-1e4, -90.0, 90.0, 1e4];
    let y = activated::<f32>(&gate, &[1.0; 4], 1);
    assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
    assert_eq!(y[2..], [90.0, 1e4]);
    let (dgate, dup) = gradients::<f32>(&gate, &[1.0; 4], &[1.0; 4], 1);
    assert_near(&dgate, &[0.0, 0.0, 1.0, 1.0], 1e-6, "dgate");
    assert!(dup.iter().all(|v| v.is_finite()));
}

#[test]
fn operands_that_do_not_fit_are_refused_and_none_are_fine() {
    let mut ws = Workspace::new(1);
    let (a, b) = (vec![0.0f32; 4], vec![0.0f32; 3]);
    assert_length(forward(Activation::Silu, (&a).into(), (&b).into(), (&mut vec![0.0; 4]).into(), &mut ws), "up");
    assert_length(forward(Activation::Silu, (&a).into(), (&a).into(), (&mut vec![0.0; 3]).into(), &mut ws), "y");
    let (mut c, mut d) = (vec![0.0; 4], vec![0.0; 3]);
    assert_length(
        backward(Activation::Silu, (&a).into(), (&a).into(), (&a).into(), (&mut c).into(), (&mut d).into(), &mut ws),
        "dup",
    );
    assert_no_kernel(forward(Activation::Silu, View::elsewhere(4), (&a).into(), (&mut c).into(), &mut ws));
    assert!(activated::<f32>(&[], &[], 2).is_empty());
}

fn gelu<T: Float>(gate: &[f64], up: &[f64], threads: usize) -> Vec<T> {
    let mut y = vec![T::from_f64(f64::NAN); gate.len()];
    let (gate, up, ws) = (cast::<T>(gate), cast::<T>(up), &mut Workspace::new(threads));
    forward(Activation::GeluTanh, (&gate).into(), (&up).into(), (&mut y).into(), ws).unwrap();
    y
}

#[test]
fn gradients_of_gelu_are_those_of_autograd_and_of_differences() {
    let gate: Vec<f64> = numbers(1, 37).iter().map(|g| g * 3.0).collect();
    let (up, c) = (numbers(2, 37), numbers(3, 37));
    let (vg, vu) = (var(&gate, &[37]), var(&up, &[37]));
    // Candle's own GELU has a gradient with constants of seven digits.
    let cube = (vg.powf(3.0).unwrap() * 0.044_715).unwrap();
    let inner = ((vg.as_tensor() + cube).unwrap() * (2.0 / std::f64::consts::PI).sqrt()).unwrap();
    let activated = ((vg.as_tensor() * 0.5).unwrap() * (inner.tanh().unwrap() + 1.0).unwrap()).unwrap();
    let y = (activated * vu.as_tensor()).unwrap();
    assert_near(&gelu::<f64>(&gate, &up, 1), &elements(&y), 1e-14, "y");
    assert_near(&gelu::<f32>(&gate, &up, 1), &elements(&y), 1e-6, "y in f32");
    let expected = autograd(&y, &c, &[&vg, &vu]);
    let (mut dgate, mut dup) = (vec![f64::NAN; 37], vec![f64::NAN; 37]);
    let ws = &mut Workspace::new(2);
    backward(
        Activation::GeluTanh,
        (&gate).into(),
        (&up).into(),
        (&c).into(),
        (&mut dgate).into(),
        (&mut dup).into(),
        ws,
    )
    .unwrap();
    assert_near(&dgate, &expected[0], 1e-12, "dgate");
    assert_near(&dup, &expected[1], 1e-13, "dup");
    let loss = |gate: &[f64]| weighted(&gelu::<f64>(gate, &up, 1), &c);
    assert_near(&dgate, &central_differences(&gate, loss), 1e-8, "dgate by differences");
}

#[test]
fn large_gates_of_gelu_stay_finite() {
    let gate = [-1e6, -60.0, 0.0, 60.0, 1e6];
    assert_eq!(gelu::<f64>(&gate, &[1.0; 5], 1), [0.0, 0.0, 0.0, 60.0, 1e6]);
    assert!(gelu::<f32>(&gate, &[1.0; 5], 1).iter().all(|y| y.is_finite()));
}
