use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 1e-2, alpha: 0.75, eps: 0.5, weight_decay: 0.0, momentum: 0.0 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], hyper: Hyper, centred: bool, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let [mut mean_square, mut mean, mut velocity] = [(); 3].map(|()| vec![T::ZERO; p.len()]);
    for g in grads {
        let state = State {
            mean_square: (&mut mean_square).into(),
            mean: centred.then(|| (&mut mean).into()),
            velocity: (hyper.momentum > 0.0).then(|| (&mut velocity).into()),
        };
        step((&mut p).into(), (&cast::<T>(g)).into(), state, 0.5, hyper, None, &mut ws).unwrap();
    }
    p
}

#[test]
fn the_first_step_by_hand() {
    // s = 0.25·4 = 1, so that the update is 2 / 1.5; centred, a = 0.5 and s − a² = 0.75; decay adds 0.1·3 to the gradient.
    let grads = [vec![4.0]];
    let moved = |hyper, centred| 3.0 - run::<f64>(&[3.0], &grads, hyper, centred, 1)[0];
    assert!((moved(HYPER, false) - 0.02 / 1.5).abs() < 1e-15);
    assert!((moved(HYPER, true) - 0.02 / (0.75f64.sqrt() + 0.5)).abs() < 1e-15);
    let decayed = Hyper { weight_decay: 0.1, ..HYPER };
    assert!((moved(decayed, false) - 0.023 / (1.15 + 0.5)).abs() < 1e-15);
}

#[test]
fn momentum_adds_what_it_keeps() {
    let hyper = Hyper { momentum: 0.5, ..HYPER };
    let p = run::<f64>(&[0.0], &[vec![4.0], vec![0.0]], hyper, false, 1);
    assert!((p[0] + 0.02 / 1.5 * 1.5).abs() < 1e-15, "{}", p[0]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 70_001);
    let grads = [numbers(2, 70_001), numbers(3, 70_001)];
    let hyper = Hyper { momentum: 0.9, weight_decay: 0.1, ..HYPER };
    let one = run::<f32>(&start, &grads, hyper, true, 1);
    assert_near(&one, &run::<f64>(&start, &grads, hyper, true, 1), 1e-6, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, hyper, true, 3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut s, mut b) = (vec![0.0f32; 3], vec![0.0f32; 3], vec![0.0f32; 2]);
    let state = State { mean_square: (&mut s).into(), mean: None, velocity: Some((&mut b).into()) };
    assert_length(step((&mut p).into(), (&[0.0; 3][..]).into(), state, 1.0, HYPER, None, &mut ws), "velocity");
    let state = State { mean_square: (&mut s).into(), mean: None, velocity: None };
    let refused =
        step((&mut p).into(), (&[0.0; 3][..]).into(), state, 1.0, Hyper { alpha: 1.0, ..HYPER }, None, &mut ws);
    assert!(refused.unwrap_err().to_string().contains("alpha is 1"));
}
