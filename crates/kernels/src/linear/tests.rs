use super::*;
use crate::testing::*;

const SHAPE: Shape = Shape { rows: 7, in_features: 5, out_features: 9 };

fn product<T: Float>(x: &[f64], w: &[f64], shape: Shape, scale: f64, threads: usize) -> Vec<T> {
    let mut y = vec![T::from_f64(f64::NAN); shape.rows * shape.out_features];
    let (x, w) = (cast::<T>(x), cast::<T>(w));
    forward((&x).into(), (&w).into(), (&mut y).into(), shape, T::from_f64(scale), false, &mut Workspace::new(threads))
        .unwrap();
    y
}

fn gradients<T: Float>(x: &[f64], w: &[f64], dy: &[f64], shape: Shape, threads: usize) -> (Vec<T>, Vec<T>) {
    let mut ws = Workspace::new(threads);
    let (x, w, dy) = (cast::<T>(x), cast::<T>(w), cast::<T>(dy));
    let nan = T::from_f64(f64::NAN);
    let (mut dx, mut dw) = (vec![nan; x.len()], vec![nan; w.len()]);
    let scale = T::from_f64(0.5);
    backward_input((&dy).into(), (&w).into(), (&mut dx).into(), shape, scale, false, &mut ws).unwrap();
    backward_weight((&x).into(), (&dy).into(), (&mut dw).into(), shape, scale, false, &mut ws).unwrap();
    (dx, dw)
}

fn case(shape: Shape) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let Shape { rows, in_features, out_features } = shape;
    (numbers(1, rows * in_features), numbers(2, out_features * in_features), numbers(3, rows * out_features))
}

#[test]
fn gradients_are_those_of_autograd_and_of_differences() {
    let (x, w, c) = case(SHAPE);
    let (vx, vw) = (var(&x, &[7, 5]), var(&w, &[9, 5]));
    let y = (vx.matmul(&vw.t().unwrap()).unwrap() * 0.5).unwrap();
    assert_near(&product::<f64>(&x, &w, SHAPE, 0.5, 1), &elements(&y), 1e-14, "y");
    let expected = autograd(&y, &c, &[&vx, &vw]);
    let (dx, dw) = gradients::<f64>(&x, &w, &c, SHAPE, 1);
    assert_near(&dx, &expected[0], 1e-14, "dx");
    assert_near(&dw, &expected[1], 1e-14, "dw");
    let loss = |x: &[f64], w: &[f64]| weighted(&product::<f64>(x, w, SHAPE, 0.5, 1), &c);
    assert_near(&dx, &central_differences(&x, |x| loss(x, &w)), 1e-8, "dx by differences");
    assert_near(&dw, &central_differences(&w, |w| loss(&x, w)), 1e-8, "dw by differences");
}

#[test]
fn single_precision_and_threads_change_nothing_but_rounding() {
    let shape = Shape { rows: 130, in_features: 96, out_features: 77 };
    let (x, w, dy) = case(shape);
    let exact = (product::<f64>(&x, &w, shape, 0.5, 1), gradients::<f64>(&x, &w, &dy, shape, 1));
    for threads in [1, 2] {
        let y = product::<f32>(&x, &w, shape, 0.5, threads);
        let (dx, dw) = gradients::<f32>(&x, &w, &dy, shape, threads);
        assert_near(&y, &exact.0, 1e-6, "y in f32");
        assert_near(&dx, &exact.1.0, 1e-6, "dx in f32");
        assert_near(&dw, &exact.1.1, 1e-6, "dw in f32");
        assert_eq!(y, product::<f32>(&x, &w, shape, 0.5, threads), "the same bits again");
    }
}

#[test]
fn accumulation_adds_to_what_is_there() {
    let (x, w, dy) = case(SHAPE);
    let mut ws = Workspace::new(1);
    let fresh = product::<f64>(&x, &w, SHAPE, 1.0, 1);
    let mut y = vec![2.0; fresh.len()];
    forward((&x).into(), (&w).into(), (&mut y).into(), SHAPE, 1.0, true, &mut ws).unwrap();
    assert_near(&y, &fresh.iter().map(|v| v + 2.0).collect::<Vec<_>>(), 1e-14, "y");
    let (dx, dw) = gradients::<f64>(&x, &w, &dy, SHAPE, 1);
    let (mut into_x, mut into_w) = (dx.clone(), dw.clone());
    backward_input((&dy).into(), (&w).into(), (&mut into_x).into(), SHAPE, 0.5, true, &mut ws).unwrap();
    backward_weight((&x).into(), (&dy).into(), (&mut into_w).into(), SHAPE, 0.5, true, &mut ws).unwrap();
    assert_near(&into_x, &dx.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-14, "dx");
    assert_near(&into_w, &dw.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-14, "dw");
}

#[test]
fn nothing_times_something_is_zero() {
    let mut ws = Workspace::new(1);
    let none: Vec<f32> = vec![];
    let no_rows = Shape { rows: 0, ..SHAPE };
    let w = vec![1.0f32; 45];
    forward((&none).into(), (&w).into(), (&mut vec![]).into(), no_rows, 1.0, false, &mut ws).unwrap();
    let mut dw = vec![f32::NAN; 45];
    backward_weight((&none).into(), (&none).into(), (&mut dw).into(), no_rows, 1.0, false, &mut ws).unwrap();
    assert_eq!(dw, vec![0.0; 45]);
    let mut kept = vec![3.0f32; 45];
    backward_weight((&none).into(), (&none).into(), (&mut kept).into(), no_rows, 1.0, true, &mut ws).unwrap();
    assert_eq!(kept, vec![3.0; 45]);
    let no_columns = Shape { in_features: 0, ..SHAPE };
    let mut y = vec![f32::NAN; 63];
    forward((&none).into(), (&none).into(), (&mut y).into(), no_columns, 1.0, false, &mut ws).unwrap();
    assert_eq!(y, vec![0.0; 63]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let mut ws = Workspace::new(1);
    let (x, w, mut y) = (vec![0.0f32; 35], vec![0.0f32; 45], vec![0.0f32; 63]);
    assert_length(forward((&x[1..]).into(), (&w).into(), (&mut y).into(), SHAPE, 1.0, false, &mut ws), "x");
    assert_length(forward((&x).into(), (&w[1..]).into(), (&mut y).into(), SHAPE, 1.0, false, &mut ws), "w");
    assert_length(backward_input((&x).into(), (&w).into(), (&mut y).into(), SHAPE, 1.0, false, &mut ws), "dx");
    assert_length(
        backward_weight((&x).into(), (&y).into(), (&mut vec![0.0; 1]).into(), SHAPE, 1.0, false, &mut ws),
        "dw",
    );
    assert_no_kernel(forward(View::elsewhere(35), (&w).into(), (&mut y).into(), SHAPE, 1.0, false, &mut ws));
    assert_no_kernel(forward((&x).into(), (&w).into(), ViewMut::elsewhere(63), SHAPE, 1.0, false, &mut ws));
}
