use candle_core::backprop::GradStore;
use candle_nn::Optimizer;

use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], scale: f64, hyper: Hyper, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let (mut m, mut v) = (vec![T::ZERO; p.len()], vec![T::ZERO; p.len()]);
    for (i, g) in grads.iter().enumerate() {
        let g = cast::<T>(g);
        let (m, v) = ((&mut m).into(), (&mut v).into());
        step((&mut p).into(), (&g).into(), m, v, i as u64 + 1, scale, hyper, &mut ws).unwrap();
    }
    p
}

#[test]
fn the_first_step_by_hand() {
    // m̂ = g and v̂ = g², so that the first step is lr·sign(g) but for eps: 2·(1 − 0.001) − 0.01 and 1·(1 − 0.001) + 0.01.
    let p = run::<f64>(&[2.0, 1.0], &[vec![0.5, -3.0]], 1.0, HYPER, 1);
    assert_near(&p, &[1.998 - 0.01, 0.999 + 0.01], 1e-9, "p");
}

#[test]
fn several_steps_are_those_of_candle() {
    let start = numbers(1, 23);
    let grads: Vec<Vec<f64>> = (0..5).map(|i| numbers(10 + i, 23)).collect();
    let var = var(&start, &[23]);
    let params = candle_nn::ParamsAdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    let mut oracle = candle_nn::AdamW::new(vec![var.clone()], params).unwrap();
    for g in &grads {
        let loss = (var.as_tensor() * tensor(g, &[23])).unwrap().sum_all().unwrap();
        let store: GradStore = loss.backward().unwrap();
        oracle.step(&store).unwrap();
    }
    let p = run::<f64>(&start, &grads, 1.0, HYPER, 1);
    assert_near(&p, &elements(&var), 1e-12, "p");
    let halves: Vec<Vec<f64>> = grads.iter().map(|g| g.iter().map(|g| 2.0 * g).collect()).collect();
    assert_near(&run::<f64>(&start, &halves, 0.5, HYPER, 1), &p, 1e-14, "scaled gradients");
    let exact = run::<f64>(&start, &grads, 1.0, Hyper { beta1: 0.3, ..HYPER }, 1);
    assert_near(
        &run::<f32>(&start, &grads, 1.0, Hyper { beta1: 0.3, ..HYPER }, 1),
        &exact,
        1e-6,
        "p in f32, low beta1",
    );
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let one = run::<f32>(&start, &grads, 0.7, HYPER, 1);
    assert_near(&one, &run::<f64>(&start, &grads, 0.7, HYPER, 1), 1e-6, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, 0.7, HYPER, 3));
    let grads = cast::<f32>(&grads[0]);
    let sum = |threads| sum_squares((&grads).into(), &mut Workspace::new(threads)).unwrap();
    let expected: f64 = grads.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    assert!((sum(1) / expected - 1.0).abs() < 1e-13);
    assert_eq!(sum(1).to_bits(), sum(3).to_bits());
}

#[test]
fn squares_neither_overflow_nor_underflow() {
    let mut ws = Workspace::new(1);
    let sum = sum_squares((&[1e30f32, 1e-30][..]).into(), &mut ws).unwrap();
    assert!((sum / 1e60 - 1.0).abs() < 1e-6, "{sum}");
    let small = sum_squares((&[1e-30f32][..]).into(), &mut ws).unwrap();
    assert!((small / 1e-60 - 1.0).abs() < 1e-6, "{small}");
    let none = sum_squares::<f32>((&[][..]).into(), &mut ws).unwrap();
    assert_eq!(none.to_bits(), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut m, mut v) = (vec![0.0f32; 3], vec![0.0f32; 3], vec![0.0f32; 3]);
    let mut run = |grads: &[f32], t, hyper| {
        step((&mut p).into(), grads.into(), (&mut m).into(), (&mut v).into(), t, 1.0, hyper, &mut ws)
    };
    assert_length(run(&[0.0; 2], 1, HYPER), "grads");
    assert!(run(&[0.0; 3], 0, HYPER).unwrap_err().to_string().contains("step is 0"));
    assert!(run(&[0.0; 3], 1, Hyper { beta2: 1.0, ..HYPER }).unwrap_err().to_string().contains("beta2 is 1"));
    run(&[0.0; 3], 1, HYPER).unwrap();
    assert!(sum_squares(View::<f32>::elsewhere(3), &mut ws).is_err());
}
