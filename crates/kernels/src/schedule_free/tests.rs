use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, beta2: 0.999, eps: 0.0, weight_decay: 0.0, share: 1.0 };

/// The averaged parameters after so many steps of equal rates: the share of step t is 1/t.
fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], hyper: Hyper, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let (mut kept, mut z, mut v) = (vec![T::ONE; p.len()], p.clone(), vec![T::ZERO; p.len()]);
    for (i, g) in grads.iter().enumerate() {
        begin((&mut p).into(), (&mut kept).into(), (&z).into(), 0.9, &mut ws).unwrap();
        let hyper = Hyper { share: 1.0 / (i as f64 + 1.0), ..hyper };
        let (z, v) = ((&mut z).into(), (&mut v).into());
        let g = cast::<T>(g);
        step((&mut p).into(), (&g).into(), (&kept).into(), z, v, i as u64 + 1, 1.0, hyper, None, &mut ws).unwrap();
    }
    p
}

#[test]
fn two_steps_by_hand() {
    // The first step of Adam moves by lr·sign(g), and the average is z itself. In the second, v/(1 − β₂²) is
    // (0.999·4 + 1)·0.001/(1 − 0.999²), and the average is the mean of both z.
    let p = run::<f64>(&[1.0], &[vec![2.0], vec![-1.0]], HYPER, 1);
    let root = ((0.999 * 4.0 + 1.0) * 0.001 / (1.0 - 0.999f64.powi(2))).sqrt();
    let (first, second) = (0.99, 0.99 + 0.01 / root);
    assert!((p[0] - (first + second) / 2.0).abs() < 1e-14, "{}", p[0]);
}

#[test]
fn decay_is_of_the_weights_that_the_gradient_was_taken_at() {
    let p = run::<f64>(&[1.0], &[vec![2.0], vec![2.0]], Hyper { weight_decay: 0.5, ..HYPER }, 1);
    let first = 1.0 - 0.01 * (1.0 + 0.5);
    let y = first;
    let second = first - 0.01 * (1.0 + 0.5 * y);
    assert!((p[0] - (first + second) / 2.0).abs() < 1e-14, "{}", p[0]);
}

#[test]
fn what_is_kept_is_what_was_there() {
    let mut ws = Workspace::new(1);
    let start = cast::<f32>(&numbers(1, 1000));
    let (mut p, mut kept, z) = (start.clone(), vec![0.0f32; 1000], cast::<f32>(&numbers(2, 1000)));
    begin((&mut p).into(), (&mut kept).into(), (&z).into(), 0.9, &mut ws).unwrap();
    assert_eq!(kept, start);
    assert!(p != start);
    // Where z is x, so is y, to the bit.
    begin((&mut kept).into(), (&mut p).into(), (&start).into(), 0.9, &mut ws).unwrap();
    assert_eq!(kept, start);
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let hyper = Hyper { eps: 1e-8, weight_decay: 0.1, ..HYPER };
    let one = run::<f32>(&start, &grads, hyper, 1);
    assert_near(&one, &run::<f64>(&start, &grads, hyper, 1), 1e-6, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, hyper, 3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut kept, mut z, mut v) = (vec![0.0f32; 3], vec![0.0f32; 3], vec![0.0f32; 3], vec![0.0f32; 2]);
    assert_length(begin((&mut p).into(), (&mut kept).into(), (&v).into(), 0.9, &mut ws), "z");
    let refused = begin((&mut p).into(), (&mut kept).into(), (&z).into(), 1.0, &mut ws);
    assert!(refused.unwrap_err().to_string().contains("beta1 is 1"));
    let (g, z, v) = ([0.0f32; 3], (&mut z).into(), (&mut v).into());
    assert_length(step((&mut p).into(), (&g[..]).into(), (&kept).into(), z, v, 1, 1.0, HYPER, None, &mut ws), "v");
}
