use super::*;
use crate::testing::*;

const HYPER: Hyper = Hyper { lr: 0.1, step_size: 0.2, momentum: 0.95, nesterov: true, ns_steps: 5, weight_decay: 0.5 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], shape: Shape, hyper: Hyper, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let mut momentum = vec![T::ZERO; p.len()];
    for g in grads {
        let g = cast::<T>(g);
        step((&mut p).into(), (&g).into(), (&mut momentum).into(), shape, 0.5, hyper, &mut ws).unwrap();
    }
    p
}

/// One step of the iteration on a single number.
fn polynomial(x: f64) -> f64 {
    3.4445 * x - 4.7750 * x.powi(3) + 2.0315 * x.powi(5)
}

#[test]
fn a_diagonal_goes_the_way_of_its_elements() {
    // The iteration works on singular values alone: on 0.6 and 0.8 here, since the norm is 1 after the division.
    let shape = Shape { rows: 2, cols: 3 };
    let hyper = Hyper { ns_steps: 3, nesterov: false, ..HYPER };
    let grads = [vec![3.0, 0.0, 0.0, 0.0, 0.0, -4.0]];
    let p = run::<f64>(&[1.0; 6], &grads, shape, hyper, 1);
    let [a, b] = [0.6, 0.8].map(|x| polynomial(polynomial(polynomial(x))));
    let keep = 1.0 - 0.1 * 0.5;
    assert_near(&p, &[keep - 0.2 * a, keep, keep, keep, keep, keep + 0.2 * b], 1e-13, "p");
}

#[test]
fn tall_and_wide_matrices_are_treated_alike() {
    let (start, grads) = (numbers(1, 7 * 4), [numbers(2, 7 * 4), numbers(3, 7 * 4)]);
    let transposed = |x: &[f64]| (0..28).map(|i| x[(i % 4) * 7 + i / 4]).collect::<Vec<_>>();
    let wide = run::<f64>(&start, &grads, Shape { rows: 4, cols: 7 }, HYPER, 1);
    let of_tall = grads.each_ref().map(|g| transposed(g));
    let tall = run::<f64>(&transposed(&start), &of_tall, Shape { rows: 7, cols: 4 }, HYPER, 1);
    assert_near(&tall, &transposed(&wide), 1e-12, "transposed");
}

#[test]
fn the_momentum_is_mixed_in_once_more() {
    // On one number the iteration sees the sign alone, so the momentum decides it: b = 0.05·g₁·0.95 + 0.05·g₂.
    let one = Shape { rows: 1, cols: 1 };
    let signs = |nesterov: bool| {
        let hyper = Hyper { ns_steps: 0, weight_decay: 0.0, nesterov, ..HYPER };
        run::<f64>(&[0.0], &[vec![2.0], vec![-1.0]], one, hyper, 1)[0]
    };
    // Without Nesterov both steps go down; with it the second gradient outweighs what is left of the first.
    assert!((signs(false) + 0.4).abs() < 1e-12, "{}", signs(false));
    assert!(signs(true).abs() < 1e-12, "{}", signs(true));
}

#[test]
fn threads_do_not_change_a_bit() {
    let shape = Shape { rows: 150, cols: 230 };
    let start = numbers(1, 150 * 230);
    let grads = [numbers(2, 150 * 230), numbers(3, 150 * 230)];
    let one = run::<f32>(&start, &grads, shape, HYPER, 1);
    assert_near(&one, &run::<f64>(&start, &grads, shape, HYPER, 1), 1e-4, "p in f32");
    assert_eq!(one, run::<f32>(&start, &grads, shape, HYPER, 3));
}

#[test]
fn nothing_to_do_is_fine_and_what_does_not_fit_is_refused() {
    let shape = Shape { rows: 2, cols: 2 };
    let still = run::<f64>(&[1.0; 4], &[vec![0.0; 4]], shape, Hyper { weight_decay: 0.0, ..HYPER }, 1);
    assert_eq!(still, [1.0; 4]);
    let mut ws = Workspace::new(1);
    let (mut p, g, mut b) = (vec![0.0f32; 4], vec![0.0f32; 4], vec![0.0f32; 3]);
    assert_length(step((&mut p).into(), (&g).into(), (&mut b).into(), shape, 1.0, HYPER, &mut ws), "momentum");
}
