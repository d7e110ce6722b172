use super::*;
use crate::testing::*;

const SHAPE: Shape = Shape { rows: 11, left: 3, right: 70 };

fn projection(dimensions: usize) -> Projection {
    Projection::new("model.layers.0.weight", 7, dimensions).unwrap()
}

/// With an item of no rows, and a row that belongs to none.
fn items() -> Vec<Range<usize>> {
    vec![0..4, 4..4, 5..6, 6..11]
}

fn operands<T: Float>() -> (Vec<T>, Vec<T>) {
    (cast(&numbers(1, SHAPE.rows * SHAPE.left)), cast(&numbers(2, SHAPE.rows * SHAPE.right)))
}

fn sketches<T: Float>(dimensions: usize, threads: usize) -> Vec<f64> {
    let (u, v) = operands::<T>();
    let items = items();
    let mut out = vec![0.25; items.len() * dimensions];
    let (scale, mut ws) = (T::from_f64(0.5), Workspace::new(threads));
    outer_products((&u).into(), (&v).into(), &items, projection(dimensions), scale, (&mut out).into(), SHAPE, &mut ws)
        .unwrap();
    out
}

/// Element by element, on top of what is there.
fn naive(dimensions: usize) -> Vec<f64> {
    let (u, v) = operands::<f64>();
    let projection = projection(dimensions);
    let mut out = vec![0.25; items().len() * dimensions];
    for (item, rows) in items().into_iter().enumerate() {
        for (l, r) in (0..SHAPE.left).flat_map(|l| (0..SHAPE.right).map(move |r| (l, r))) {
            let (bucket, sign) = projection.place(l * SHAPE.right + r);
            let element: f64 = rows.clone().map(|t| 0.5 * u[t * SHAPE.left + l] * v[t * SHAPE.right + r]).sum();
            out[item * dimensions + bucket] += sign * element;
        }
    }
    out
}

#[test]
fn sketches_of_outer_products_are_those_of_their_sums() {
    for dimensions in [1, 8, 61, 1000] {
        assert_near(&sketches::<f64>(dimensions, 1), &naive(dimensions), 1e-14, "f64");
        assert_near(&sketches::<f32>(dimensions, 1), &naive(dimensions), 1e-5, "f32");
        assert_eq!(sketches::<f32>(dimensions, 1), sketches::<f32>(dimensions, 3), "the number of threads shows");
    }
}

#[test]
fn a_dense_tensor_has_the_sketch_of_its_elements() {
    let x = numbers(3, 1000);
    let projection = projection(32);
    let mut expected = vec![1.0; 32];
    for (i, x) in x.iter().enumerate() {
        let (bucket, sign) = projection.place(i);
        expected[bucket] += sign * x;
    }
    let mut out = vec![1.0; 32];
    dense((&x).into(), projection, (&mut out).into()).unwrap();
    assert_eq!(out, expected);
}

/// What is stored must be comparable with what later versions make: the numbers were worked out by another program, from
/// the description alone.
#[test]
fn the_projection_stays_what_it_is() {
    let places = |name, seed| {
        let projection = Projection::new(name, seed, 1000).unwrap();
        [0, 1, 2, 1_000_000].map(|i| projection.place(i))
    };
    assert_eq!(places("a", 0), [(927, 1.0), (756, 1.0), (564, 1.0), (849, 1.0)]);
    assert_eq!(
        places("model.layers.0.self_attn.q_proj.weight", 12_345),
        [(732, 1.0), (976, -1.0), (149, -1.0), (711, 1.0)]
    );
    assert_ne!(places("a", 0), places("a", 1));
    assert_ne!(places("a", 0), places("b", 0));
}

/// Squared norms and inner products over many seeds: unbiased, and no wider than the variance of independent hashes,
/// (‖g‖²‖h‖² + ⟨g,h⟩² − 2 Σ gᵢ²hᵢ²)/k.
#[test]
fn inner_products_are_unbiased_with_the_stated_variance() {
    const SEEDS: u64 = 4000;
    let (g, h) = (numbers(4, 300), numbers(5, 300));
    let h: Vec<f64> = g.iter().zip(&h).map(|(g, h)| 0.5 * g + h).collect();
    let dot = |a: &[f64], b: &[f64]| weighted(a, b);
    let k = 16;
    let sketch = |x: &[f64], seed| {
        let mut out = vec![0.0; k];
        dense(x.into(), Projection::new("x", seed, k).unwrap(), (&mut out).into()).unwrap();
        out
    };
    let estimates: Vec<f64> = (0..SEEDS).map(|seed| dot(&sketch(&g, seed), &sketch(&h, seed))).collect();
    let mean = estimates.iter().sum::<f64>() / SEEDS as f64;
    let variance = estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / SEEDS as f64;
    let shared: f64 = g.iter().zip(&h).map(|(g, h)| (g * h).powi(2)).sum();
    let exact = dot(&g, &h);
    let expected = (dot(&g, &g) * dot(&h, &h) + exact * exact - 2.0 * shared) / k as f64;
    // Five standard errors of a mean; the variance of 4000 draws is known to a few percent.
    assert!((mean - exact).abs() < 5.0 * (expected / SEEDS as f64).sqrt(), "{mean} {exact}");
    assert!((variance / expected - 1.0).abs() < 0.15, "{variance} {expected}");
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let (u, v) = operands::<f32>();
    let mut ws = Workspace::new(1);
    let mut call = |u: &[f32], v: &[f32], items: &[Range<usize>], out: usize| {
        outer_products(u.into(), v.into(), items, projection(5), 1.0, (&mut vec![0.0; out]).into(), SHAPE, &mut ws)
    };
    assert_length(call(&u[1..], &v, &items(), 20), "u");
    assert_length(call(&u, &v[1..], &items(), 20), "v");
    assert_length(call(&u, &v, &items(), 19), "out");
    let text = call(&u, &v, &[0..4, 4..12], 10).unwrap_err().to_string();
    assert!(text.contains("rows 4..12, expected a range within 11"), "{text}");
    assert_length(dense((&u).into(), projection(5), (&mut vec![0.0; 4]).into()), "out");
    assert_no_kernel(dense(View::<f32>::elsewhere(3), projection(5), (&mut vec![0.0; 5]).into()));
    for dimensions in [0, MOST_DIMENSIONS + 1] {
        let text = Projection::new("a", 0, dimensions).unwrap_err().to_string();
        assert!(text.contains("expected 1 to 16777216"), "{text}");
    }
}
