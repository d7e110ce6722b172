use super::*;
use crate::testing::*;

const HYPER: Hyper =
    Hyper { lr: 0.1, beta2_decay: -0.8, eps1: 1e-7, eps2: 1e-3, clip_threshold: 1.0, weight_decay: 0.0 };

fn run<T: Float>(start: &[f64], grads: &[Vec<f64>], shape: Option<[usize; 2]>, hyper: Hyper, threads: usize) -> Vec<T> {
    let mut ws = Workspace::new(threads);
    let mut p = cast::<T>(start);
    let [rows, cols] = shape.unwrap_or([p.len(), 0]);
    let (mut rows, mut cols) = (vec![T::ZERO; rows], vec![T::ZERO; cols]);
    for (i, g) in grads.iter().enumerate() {
        let mean_square = match shape {
            Some(_) => MeanSquare::Factored { rows: (&mut rows).into(), cols: (&mut cols).into() },
            None => MeanSquare::Whole((&mut rows).into()),
        };
        let g = cast::<T>(g);
        step((&mut p).into(), (&g).into(), mean_square, i as u64 + 1, 0.5, hyper, &mut ws).unwrap();
    }
    p
}

#[test]
fn the_first_step_by_hand() {
    // The first weight is 1: of a vector v = g², and u = sign(g), whose root mean square is 1. The parameters' is 5, so α = 0.5.
    let p = run::<f64>(&[7.0, -1.0], &[vec![8.0, -0.2]], None, HYPER, 1);
    assert_near(&p, &[6.5, -0.5], 1e-14, "a vector");
    // g = [[1, 1], [3, 3]]: rows' means 1 and 9, columns' 5 and 5, so v = r·c/5 = g², and u = 1 everywhere.
    let p = run::<f64>(&[2.0; 4], &[vec![2.0, 2.0, 6.0, 6.0]], Some([2, 2]), HYPER, 1);
    assert_near(&p, &[1.8; 4], 1e-14, "a matrix of rank one");
    let decayed = Hyper { weight_decay: 0.5, ..HYPER };
    let p = run::<f64>(&[2.0; 4], &[vec![2.0, 2.0, 6.0, 6.0]], Some([2, 2]), decayed, 1);
    assert_near(&p, &[1.9 - 0.2; 4], 1e-14, "with decay");
}

#[test]
fn large_updates_are_cut_and_small_parameters_move() {
    // v of the second step is 1 + 2^−0.8·(4 − 1), and u = 2/√v; zeros count as eps2.
    let p = run::<f64>(&[0.0], &[vec![0.0], vec![4.0]], None, HYPER, 1);
    // After no gradient v = 0, so that v = 2^−0.8·4 and u = 2^0.4 is cut to 1.
    assert!((p[0] + 1e-3 * 0.1).abs() < 1e-15, "{}", p[0]);
    let still = run::<f64>(&[1.0; 4], &[vec![0.0; 4]], Some([2, 2]), HYPER, 1);
    assert_eq!(still, [1.0; 4]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let start = numbers(1, 300 * 401);
    let grads = [numbers(2, 300 * 401), numbers(3, 300 * 401)];
    for shape in [Some([300, 401]), Some([401, 300]), None] {
        let one = run::<f32>(&start, &grads, shape, HYPER, 1);
        assert_near(&one, &run::<f64>(&start, &grads, shape, HYPER, 1), 1e-6, "p in f32");
        assert_eq!(one, run::<f32>(&start, &grads, shape, HYPER, 3));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (mut p, mut rows, mut cols) = (vec![0.0f32; 6], vec![0.0f32; 2], vec![0.0f32; 2]);
    let g = [0.0f32; 6];
    let mean_square = MeanSquare::Factored { rows: (&mut rows).into(), cols: (&mut cols).into() };
    assert_length(step((&mut p).into(), (&g[..]).into(), mean_square, 1, 1.0, HYPER, &mut ws), "params");
    let mean_square = MeanSquare::Whole((&mut rows).into());
    assert_length(step((&mut p).into(), (&g[..]).into(), mean_square, 1, 1.0, HYPER, &mut ws), "mean_square");
    let (mean_square, upwards) = (MeanSquare::Whole((&mut cols).into()), Hyper { beta2_decay: 0.5, ..HYPER });
    let refused = step((&mut p[..2]).into(), (&g[..2]).into(), mean_square, 1, 1.0, upwards, &mut ws);
    assert!(refused.unwrap_err().to_string().contains("beta2_decay is 0.5"));
}
