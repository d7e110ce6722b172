use super::*;
use crate::Float;
use crate::testing::*;

fn activated<T: Float>(gate: &[f64], up: &[f64], threads: usize) -> Vec<T> {
    let mut y = vec![T::from_f64(f64::NAN); gate.len()];
    let (gate, up) = (cast::<T>(gate), cast::<T>(up));
    forward((&gate).into(), (&up).into(), (&mut y).into(), &mut Workspace::new(threads)).unwrap();
    y
}

#[test]
fn gradients_are_those_of_autograd_and_of_differences() {
    let gate: Vec<f64> = numbers(1, 37).iter().map(|g| g * 3.0).collect();
    let (up, c) = (numbers(2, 37), numbers(3, 37));
    let (vg, vu) = (var(&gate, &[37]), var(&up, &[37]));
    // Candle's own GELU has a gradient with constants of seven digits.
    let cube = (vg.powf(3.0).unwrap() * 0.044_715).unwrap();
    let inner = ((vg.as_tensor() + cube).unwrap() * (2.0 / std::f64::consts::PI).sqrt()).unwrap();
    let gelu = ((vg.as_tensor() * 0.5).unwrap() * (inner.tanh().unwrap() + 1.0).unwrap()).unwrap();
    let y = (gelu * vu.as_tensor()).unwrap();
    assert_near(&activated::<f64>(&gate, &up, 1), &elements(&y), 1e-14, "y");
    assert_near(&activated::<f32>(&gate, &up, 1), &elements(&y), 1e-6, "y in f32");
    let expected = autograd(&y, &c, &[&vg, &vu]);
    let (mut dgate, mut dup) = (vec![f64::NAN; 37], vec![f64::NAN; 37]);
    let ws = &mut Workspace::new(2);
    backward((&gate).into(), (&up).into(), (&c).into(), (&mut dgate).into(), (&mut dup).into(), ws).unwrap();
    assert_near(&dgate, &expected[0], 1e-12, "dgate");
    assert_near(&dup, &expected[1], 1e-13, "dup");
    let loss = |gate: &[f64]| weighted(&activated::<f64>(gate, &up, 1), &c);
    assert_near(&dgate, &central_differences(&gate, loss), 1e-8, "dgate by differences");
}

#[test]
fn extremes_stay_finite() {
    let gate = [-1e6, -60.0, 0.0, 60.0, 1e6];
    assert_eq!(activated::<f64>(&gate, &[1.0; 5], 1), [0.0, 0.0, 0.0, 60.0, 1e6]);
    assert!(activated::<f32>(&gate, &[1.0; 5], 1).iter().all(|y| y.is_finite()));
}
