use super::*;
use crate::Float;
use crate::testing::*;

const SHAPE: Shape = Shape { rows: 5, in_features: 6 };
/// Rank, output, scale of each projection.
const PROJECTIONS: [(usize, usize, f64); 3] = [(2, 7, 0.5), (3, 4, 2.0), (2, 6, 1.5)];
const RANKS: usize = 7;

struct Operands {
    x: Vec<f64>,
    a: Vec<f64>,
    b: [Vec<f64>; 3],
    y: [Vec<f64>; 3],
}

fn operands() -> Operands {
    let mut seed = 10;
    let mut next = |len| {
        seed += 1;
        numbers(seed, len)
    };
    Operands {
        x: next(SHAPE.rows * SHAPE.in_features),
        a: next(RANKS * SHAPE.in_features),
        b: PROJECTIONS.map(|(rank, out, _)| next(rank * out)),
        y: PROJECTIONS.map(|(_, out, _)| next(SHAPE.rows * out)),
    }
}

fn projections<T: Float>(b: &[Vec<T>; 3]) -> Vec<Projection<'_, T>> {
    let of = |((rank, out_features, scale), b): ((usize, usize, f64), _)| Projection {
        b: View::from(b),
        rank,
        out_features,
        scale: T::from_f64(scale),
    };
    PROJECTIONS.into_iter().zip(b).map(of).collect()
}

fn outputs(x: &[f64], a: &[f64], b: &[Vec<f64>; 3], y: &[Vec<f64>; 3], threads: usize) -> ([Vec<f64>; 3], Vec<f64>) {
    let (mut y, mut u) = (y.clone(), vec![f64::NAN; SHAPE.rows * RANKS]);
    let into = y.iter_mut().map(Into::into).collect();
    let ws = &mut Workspace::new(threads);
    forward(x.into(), a.into(), &projections(b), (&mut u).into(), into, SHAPE, ws).unwrap();
    (y, u)
}

#[test]
fn gradients_are_those_of_autograd_and_of_differences() {
    let Operands { x, a, b, y } = operands();
    let c = PROJECTIONS.map(|(_, out, _)| numbers(50 + out as u64, SHAPE.rows * out));
    let (vx, va) = (var(&x, &[SHAPE.rows, SHAPE.in_features]), var(&a, &[RANKS, SHAPE.in_features]));
    let (made, u) = outputs(&x, &a, &b, &y, 1);
    let (mut dx, mut da) = (numbers(90, x.len()), numbers(91, a.len()));
    let mut db = b.each_ref().map(|b| numbers(92, b.len()));
    let (first_dx, first_da, first_db) = (dx.clone(), da.clone(), db.clone());
    let d = Gradients { x: Some((&mut dx).into()), a: (&mut da).into(), b: db.iter_mut().map(Into::into).collect() };
    let dy = c.each_ref().map(View::from);
    let ws = &mut Workspace::new(1);
    backward((&x).into(), (&a).into(), &projections(&b), (&u).into(), &dy, d, SHAPE, ws).unwrap();
    let [mut by_x, mut by_a] = [vec![0.0; x.len()], vec![0.0; a.len()]];
    let mut column = 0;
    for (j, (rank, out, scale)) in PROJECTIONS.into_iter().enumerate() {
        let vb = var(&b[j], &[out, rank]);
        let of_a = va.narrow(0, column, rank).unwrap();
        let low = vx.matmul(&of_a.t().unwrap()).unwrap().matmul(&vb.t().unwrap()).unwrap();
        let naive = (low * scale).unwrap();
        let expected: Vec<f64> = elements(&naive).iter().zip(&y[j]).map(|(low, y)| low + y).collect();
        assert_near(&made[j], &expected, 1e-14, "y");
        let gradients = autograd(&naive, &c[j], &[&vx, &va, &vb]);
        by_x.iter_mut().zip(&gradients[0]).for_each(|(sum, d)| *sum += d);
        by_a.iter_mut().zip(&gradients[1]).for_each(|(sum, d)| *sum += d);
        let of_b: Vec<f64> = gradients[2].iter().zip(&first_db[j]).map(|(d, first)| d + first).collect();
        assert_near(&db[j], &of_b, 1e-13, "db");
        column += rank;
    }
    let added = |d: &[f64], first: &[f64]| -> Vec<f64> { d.iter().zip(first).map(|(d, first)| d + first).collect() };
    assert_near(&dx, &added(&by_x, &first_dx), 1e-13, "dx");
    assert_near(&da, &added(&by_a, &first_da), 1e-13, "da");
    let loss =
        |x: &[f64], a: &[f64]| -> f64 { outputs(x, a, &b, &y, 1).0.iter().zip(&c).map(|(y, c)| weighted(y, c)).sum() };
    let by_differences = central_differences(&x, |x| loss(x, &a));
    assert_near(&dx, &added(&by_differences, &first_dx), 1e-8, "dx by differences");
    let by_differences = central_differences(&a, |a| loss(&x, a));
    assert_near(&da, &added(&by_differences, &first_da), 1e-8, "da by differences");
}

#[test]
fn threads_change_no_bit() {
    let Operands { x, a, b, y } = operands();
    assert_eq!(outputs(&x, &a, &b, &y, 1), outputs(&x, &a, &b, &y, 3));
}

#[test]
fn without_projections_nothing_is_written() {
    let x = numbers(1, SHAPE.rows * SHAPE.in_features);
    let mut dx = x.clone();
    let (mut empty, ws) = (Vec::<f64>::new(), &mut Workspace::new(1));
    forward((&x).into(), (&[][..]).into(), &[], (&mut empty).into(), vec![], SHAPE, ws).unwrap();
    let d = Gradients { x: Some((&mut dx).into()), a: (&mut empty).into(), b: vec![] };
    backward((&x).into(), (&[][..]).into(), &[], (&[][..]).into(), &[], d, SHAPE, ws).unwrap();
    assert_eq!(dx, x);
}

#[test]
fn wrong_operands_are_refused() {
    let Operands { x, a, b, mut y } = operands();
    let mut u = vec![0.0; SHAPE.rows * RANKS];
    let ws = &mut Workspace::new(1);
    let mut run = |a: &[f64], y: Vec<ViewMut<'_, f64>>| {
        forward((&x).into(), a.into(), &projections(&b), (&mut u).into(), y, SHAPE, ws).unwrap_err().to_string()
    };
    assert!(run(&a[1..], vec![]).contains("a has 41 elements, expected 42 (ranks × in_features)"));
    assert!(run(&a, vec![]).contains("y has 0 operands for 3 projections"));
    y[1].pop();
    let short = y.iter_mut().map(Into::into).collect();
    assert!(run(&a, short).contains("y has 19 elements, expected 20"));
}
