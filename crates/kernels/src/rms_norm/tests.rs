use super::*;
use crate::Float;
use crate::testing::*;

const SHAPE: Shape = Shape { rows: 6, hidden: 11 };
const EPS: f64 = 1e-5;

fn normalised<T: Float>(x: &[f64], w: &[f64], shape: Shape, threads: usize) -> (Vec<T>, Vec<T>) {
    let nan = T::from_f64(f64::NAN);
    let (mut y, mut rstd) = (vec![nan; x.len()], vec![nan; shape.rows]);
    let (x, w) = (cast::<T>(x), cast::<T>(w));
    forward((&x).into(), (&w).into(), (&mut y).into(), (&mut rstd).into(), shape, EPS, &mut Workspace::new(threads))
        .unwrap();
    (y, rstd)
}

fn gradients<T: Float>(x: &[f64], w: &[f64], dy: &[f64], shape: Shape, threads: usize) -> (Vec<T>, Vec<T>) {
    let (_, rstd) = normalised::<T>(x, w, shape, threads);
    let (x, w, dy) = (cast::<T>(x), cast::<T>(w), cast::<T>(dy));
    let (mut dx, mut dw) = (vec![T::from_f64(f64::NAN); x.len()], vec![T::ZERO; w.len()]);
    let (into_x, into_w) = ((&mut dx).into(), Some((&mut dw).into()));
    let mut ws = Workspace::new(threads);
    backward((&x).into(), (&w).into(), (&rstd).into(), (&dy).into(), into_x, false, into_w, shape, &mut ws).unwrap();
    (dx, dw)
}

fn case(shape: Shape) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    (numbers(1, shape.rows * shape.hidden), numbers(2, shape.hidden), numbers(3, shape.rows * shape.hidden))
}

#[test]
fn a_row_by_hand() {
    let (y, rstd) = normalised::<f64>(&[3.0, 4.0], &[1.0, 2.0], Shape { rows: 1, hidden: 2 }, 1);
    let expected = 1.0 / (12.5f64 + EPS).sqrt();
    assert_near(&rstd, &[expected], 1e-15, "rstd");
    assert_near(&y, &[3.0 * expected, 8.0 * expected], 1e-15, "y");
}

#[test]
fn gradients_are_those_of_autograd_and_of_differences() {
    let (x, w, c) = case(SHAPE);
    let (vx, vw) = (var(&x, &[6, 11]), var(&w, &[11]));
    let mean = (vx.sqr().unwrap().mean_keepdim(1).unwrap() + EPS).unwrap();
    let y = vx.broadcast_div(&mean.sqrt().unwrap()).unwrap().broadcast_mul(&vw).unwrap();
    assert_near(&normalised::<f64>(&x, &w, SHAPE, 1).0, &elements(&y), 1e-14, "y");
    let expected = autograd(&y, &c, &[&vx, &vw]);
    let (dx, dw) = gradients::<f64>(&x, &w, &c, SHAPE, 1);
    assert_near(&dx, &expected[0], 1e-13, "dx");
    assert_near(&dw, &expected[1], 1e-13, "dw");
    let loss = |x: &[f64], w: &[f64]| weighted(&normalised::<f64>(x, w, SHAPE, 1).0, &c);
    assert_near(&dx, &central_differences(&x, |x| loss(x, &w)), 1e-8, "dx by differences");
    assert_near(&dw, &central_differences(&w, |w| loss(&x, w)), 1e-8, "dw by differences");
}

#[test]
fn with_a_residual_it_is_the_sum_that_is_normalised() {
    let (x, w, residual) = case(SHAPE);
    let [mut sum, mut y] = [vec![f64::NAN; x.len()], vec![f64::NAN; x.len()]];
    let (mut rstd, ws) = (vec![f64::NAN; SHAPE.rows], &mut Workspace::new(2));
    let mut run = |residual: &[f64], sum: &mut [f64]| {
        let (into_y, into_rstd) = ((&mut y).into(), (&mut rstd).into());
        forward_residual((&x).into(), residual.into(), (&w).into(), sum.into(), into_y, into_rstd, SHAPE, EPS, ws)
    };
    run(&residual, &mut sum).unwrap();
    let error = run(&residual[1..], &mut sum).unwrap_err().to_string();
    assert!(error.contains("residual has 65 elements, expected 66 (rows × hidden)"), "{error}");
    let expected: Vec<f64> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
    assert_eq!(sum, expected);
    assert_eq!((y, rstd), normalised::<f64>(&sum, &w, SHAPE, 1));
}

#[test]
fn single_precision_and_threads_change_nothing_but_rounding() {
    let shape = Shape { rows: 300, hidden: 577 };
    let (x, w, dy) = case(shape);
    let (exact_y, (exact_dx, exact_dw)) =
        (normalised::<f64>(&x, &w, shape, 1).0, gradients::<f64>(&x, &w, &dy, shape, 1));
    let (dx, dw) = gradients::<f32>(&x, &w, &dy, shape, 1);
    assert_near(&normalised::<f32>(&x, &w, shape, 1).0, &exact_y, 1e-6, "y in f32");
    assert_near(&dx, &exact_dx, 1e-6, "dx in f32");
    assert_near(&dw, &exact_dw, 1e-6, "dw in f32");
    // Rows are cut into blocks whose number does not depend on the threads, so not even a bit differs.
    for threads in [2, 3] {
        assert_eq!((dx.clone(), dw.clone()), gradients::<f32>(&x, &w, &dy, shape, threads));
    }
}

#[test]
fn dx_accumulates_on_request_and_dw_always() {
    let (x, w, dy) = case(SHAPE);
    let (dx, dw) = gradients::<f64>(&x, &w, &dy, SHAPE, 1);
    let (_, rstd) = normalised::<f64>(&x, &w, SHAPE, 1);
    let (mut into_x, mut into_w) = (vec![1.0; dx.len()], vec![1.0; dw.len()]);
    let mut ws = Workspace::new(1);
    let mut run = |into_x: &mut Vec<f64>, into_w: Option<&mut Vec<f64>>, accumulate| {
        let into_w = into_w.map(ViewMut::from);
        let x_view = View::from(&x);
        backward(x_view, (&w).into(), (&rstd).into(), (&dy).into(), into_x.into(), accumulate, into_w, SHAPE, &mut ws)
            .unwrap();
    };
    run(&mut into_x, Some(&mut into_w), true);
    assert_near(&into_x, &dx.iter().map(|v| v + 1.0).collect::<Vec<_>>(), 1e-14, "dx");
    assert_near(&into_w, &dw.iter().map(|v| v + 1.0).collect::<Vec<_>>(), 1e-14, "dw");
    run(&mut into_x, None, false);
    assert_eq!(into_x, dx, "a frozen weight and an overwritten dx");
}

#[test]
fn large_rows_stay_finite() {
    let (x, w, dy) = case(SHAPE);
    let x: Vec<f64> = x.iter().map(|v| v * 1e4).collect();
    let (dx, dw) = gradients::<f32>(&x, &w, &dy, SHAPE, 1);
    assert!(dx.iter().chain(&dw).chain(&normalised::<f32>(&x, &w, SHAPE, 1).0).all(|v| v.is_finite()));
    let (zeros, _) = normalised::<f32>(&[0.0; 66], &w, SHAPE, 1);
    assert_eq!(zeros, [0.0; 66]);
}

#[test]
fn operands_that_do_not_fit_are_refused_and_no_rows_are_fine() {
    let mut ws = Workspace::new(1);
    let (x, w, mut y, mut rstd) = (vec![0.0f32; 66], vec![0.0f32; 11], vec![0.0f32; 66], vec![0.0f32; 6]);
    assert_length(
        forward((&x).into(), (&w[1..]).into(), (&mut y).into(), (&mut rstd).into(), SHAPE, EPS, &mut ws),
        "weight",
    );
    assert_length(
        forward((&x).into(), (&w).into(), (&mut y).into(), (&mut rstd[1..]).into(), SHAPE, EPS, &mut ws),
        "rstd",
    );
    assert_no_kernel(forward(
        View::elsewhere(66),
        (&w).into(),
        (&mut y).into(),
        (&mut rstd).into(),
        SHAPE,
        EPS,
        &mut ws,
    ));
    let none = Shape { rows: 0, hidden: 11 };
    let empty: Vec<f32> = vec![];
    forward((&empty).into(), (&w).into(), (&mut vec![]).into(), (&mut vec![]).into(), none, EPS, &mut ws).unwrap();
    let mut dw = vec![2.0f32; 11];
    let (e, d) = (View::from(&empty), Some((&mut dw).into()));
    backward(e, (&w).into(), e, e, (&mut vec![]).into(), false, d, none, &mut ws).unwrap();
    assert_eq!(dw, [2.0; 11]);
}
