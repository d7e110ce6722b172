use candle_core::Tensor;

use super::*;
use crate::View;
use crate::testing::*;

const SHAPE: Shape = Shape { rows: 5, heads: 3, head_dim: 8 };
const POSITIONS: [u32; 5] = [0, 1, 7, 2, 7];

fn frequencies() -> Vec<f64> {
    (0..4).map(|j| 100f64.powf(-f64::from(j) / 4.0)).collect()
}

fn rotated<T: Float>(x: &[f64], direction: Direction, threads: usize) -> Vec<T> {
    let mut x = cast::<T>(x);
    let tables = Tables::new(&frequencies(), 8);
    apply((&mut x).into(), &POSITIONS, &tables, SHAPE, direction, &mut Workspace::new(threads)).unwrap();
    x
}

/// x·cos + rotate_half(x)·sin, as Hugging Face writes it.
fn decomposed(x: &Tensor) -> Tensor {
    let angles: Vec<f64> =
        POSITIONS.iter().flat_map(|&p| frequencies().repeat(2).into_iter().map(move |f| f64::from(p) * f)).collect();
    let angles = tensor(&angles, &[5, 1, 8]);
    let (a, b) = (x.narrow(2, 0, 4).unwrap(), x.narrow(2, 4, 4).unwrap());
    let turned = Tensor::cat(&[&b.neg().unwrap(), &a], 2).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    (x.broadcast_mul(&cos).unwrap() + turned.broadcast_mul(&sin).unwrap()).unwrap()
}

#[test]
fn a_quarter_turn_by_hand() {
    let tables = Tables::<f64>::new(&[std::f64::consts::FRAC_PI_2], 2);
    let mut x = [3.0, 4.0];
    let shape = Shape { rows: 1, heads: 1, head_dim: 2 };
    apply((&mut x[..]).into(), &[1], &tables, shape, Direction::Forward, &mut Workspace::new(1)).unwrap();
    assert_near(&x, &[-4.0, 3.0], 1e-15, "x");
}

#[test]
fn the_gradient_is_that_of_autograd_and_of_differences() {
    let (x, c) = (numbers(1, 120), numbers(2, 120));
    let v = var(&x, &[5, 3, 8]);
    let y = decomposed(&v);
    assert_near(&rotated::<f64>(&x, Direction::Forward, 1), &elements(&y), 1e-14, "y");
    let dx = rotated::<f64>(&c, Direction::Backward, 1);
    assert_near(&dx, &autograd(&y, &c, &[&v])[0], 1e-14, "dx");
    let loss = |x: &[f64]| weighted(&rotated::<f64>(x, Direction::Forward, 1), &c);
    assert_near(&dx, &central_differences(&x, loss), 1e-8, "dx by differences");
}

#[test]
fn backward_undoes_forward_in_single_precision() {
    let x = numbers(1, 120);
    let there = rotated::<f32>(&x, Direction::Forward, 2);
    assert_near(&there, &rotated::<f64>(&x, Direction::Forward, 1), 1e-6, "y in f32");
    let there: Vec<f64> = there.iter().map(|&v| f64::from(v)).collect();
    assert_near(&rotated::<f32>(&there, Direction::Backward, 2), &x, 1e-6, "there and back");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let tables = Tables::<f32>::new(&frequencies(), 7);
    let mut x = vec![0.0f32; 120];
    let mut run = |x: ViewMut<'_, f32>, positions: &[u32], shape| {
        apply(x, positions, &tables, shape, Direction::Forward, &mut ws)
    };
    let beyond = run((&mut x).into(), &POSITIONS, SHAPE).unwrap_err();
    assert_eq!(beyond.to_string(), "rope::apply: positions[2] is 7, expected less than 7");
    assert_length(run((&mut x[1..]).into(), &POSITIONS, SHAPE), "x");
    assert_length(run((&mut x).into(), &POSITIONS[1..], SHAPE), "positions");
    let wide = Shape { heads: 2, head_dim: 12, ..SHAPE };
    assert!(run((&mut x).into(), &POSITIONS, wide).unwrap_err().to_string().contains("head_dim is 12"));
    assert_no_kernel(run(ViewMut::elsewhere(120), &[0; 5], SHAPE));
    run((&mut vec![]).into(), &[], Shape { rows: 0, ..SHAPE }).unwrap();
    assert!(View::from(&x).cpu("test").unwrap().iter().all(|&v| v == 0.0));
}
