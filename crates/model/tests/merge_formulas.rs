//! The methods of merging beside other programs' numbers, and what must hold of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use candlewick_model::merge::{Angle, drop_out, elect, iso_c, iso_cts, trim, weighted_sum};
use serde_json::Value;

/// Numbers in [-0.5, 0.5).
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / 2f64.powi(31) - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// What `tools/merging/make.py` wrote.
fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected/merging.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// An entry of the recorded formulas, which the losses' tests hold.
fn formula(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../losses/tests/golden/formula-vectors.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let entry = vectors["results"][name].clone();
    assert!(entry.is_object(), "{name} is not recorded");
    entry
}

fn vector(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(vector).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn vectors(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(vector).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[track_caller]
fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "element {i}: {got} instead of {want}");
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn slerp(a: &[f64], b: &[f64], t: f64) -> Vec<f64> {
    let mut angle = Angle::default();
    angle.add(a, b);
    let between = angle.at(t);
    assert!(!between.straight);
    weighted_sum(&[a.to_vec(), b.to_vec()], &[between.a, between.b])
}

#[test]
fn recorded_formulas_of_warp_and_iso() {
    let policy = vec![1.0, -2.0, 0.5];
    let mut anchor = vec![0.0, 1.0, 0.25];
    for _ in 0..3 {
        anchor = weighted_sum(&[anchor, policy.clone()], &[0.99, 0.01]);
    }
    close(&anchor, &vector(&formula("warp ema anchor mu=0.01, 3 steps")["ema"]), 1e-15);

    let warp = formula("warp slerp lambda=.5 then liti eta=.3");
    let merged = slerp(&[0.5, 0.1, -0.2], &[0.1, 0.6, 0.3], 0.5);
    close(&merged, &vector(&warp["slerp"]), 1e-15);
    close(&weighted_sum(&[merged], &[0.3]), &vector(&warp["liti"]), 1e-15);

    let deltas = [vec![1.0, 0.2, 0.0, 0.5], vec![0.3, -0.4, 0.8, 0.1]];
    let iso = formula("iso-c merged delta (alpha=1)");
    let merged = iso_c(&deltas, 2, 2).unwrap();
    close(&merged, &vector(&iso["delta"]), 1e-14);
    // All singular values are the mean: the columns are orthogonal and of that length.
    let level = number(&iso["singular_mean"]);
    close(&[norm(&[merged[0], merged[2]]), norm(&[merged[1], merged[3]])], &[level, level], 1e-14);
}

#[test]
fn ties_is_that_of_peft_with_equal_weights() {
    let expected = &expected()["ties_peft"];
    for case in expected["cases"].as_array().unwrap() {
        let mut deltas = vectors(&expected["deltas"]);
        deltas.iter_mut().for_each(|delta| trim(delta, number(&case["density"])));
        assert_eq!(deltas, vectors(&case["trimmed"]));
        close(&elect(&deltas, &[1.0; 3], true), &vector(&case["merged"]), 1e-15);
    }
}

#[test]
fn weights_take_part_in_election_and_average() {
    let expected = &expected()["ties_weighted"];
    let (mut deltas, weights) = (vectors(&expected["deltas"]), vector(&expected["weights"]));
    deltas.iter_mut().for_each(|delta| trim(delta, number(&expected["density"])));
    close(&elect(&deltas, &weights, true), &vector(&expected["mean"]), 1e-15);
    close(&elect(&deltas, &weights, false), &vector(&expected["total"]), 1e-15);
}

#[test]
fn ties_of_one_whole_model_is_that_model() {
    let delta = numbers(3, 200);
    let mut kept = delta.clone();
    trim(&mut kept, 1.0);
    assert_eq!(kept, delta);
    assert_eq!(elect(&[kept], &[0.25], true), delta, "a weight alone divides itself out");
}

#[test]
fn trimming_keeps_as_many_as_it_says_whatever_is_equal() {
    for (density, kept) in [(0.2, 3), (0.5, 7), (0.01, 1), (0.999, 14), (1.0, 15)] {
        let mut equal = vec![0.5; 15];
        trim(&mut equal, density);
        assert_eq!(equal.iter().filter(|x| **x != 0.0).count(), kept, "density {density}");
        assert!(equal[..kept].iter().all(|x| *x > 0.0), "the first are kept");
    }
    let mut ragged = vec![-0.0, 3.0, -3.0, 1.0, 3.0, -5.0];
    trim(&mut ragged, 0.5);
    assert_eq!(ragged, [0.0, 3.0, -3.0, 0.0, 0.0, -5.0]);
    trim(&mut [], 0.5);
}

#[test]
fn the_draw_of_dare_is_the_one_that_is_written_down() {
    let expected = &expected()["dare"];
    let (name, density) = (expected["name"].as_str().unwrap(), number(&expected["density"]));
    let seed = expected["seed"].as_u64().unwrap();
    let (masks, whole) = (vectors(&expected["masks"]), vectors(&expected["deltas"]));
    let mut deltas = whole.clone();
    for (model, delta) in deltas.iter_mut().enumerate() {
        drop_out(delta, density, true, seed, model, name);
        let kept: Vec<f64> = delta.iter().map(|x| f64::from(u8::from(*x != 0.0))).collect();
        assert_eq!(kept, masks[model]);
    }
    close(&weighted_sum(&deltas, &vector(&expected["weights"])), &vector(&expected["linear"]), 1e-14);
    close(&elect(&deltas, &[1.0; 2], true), &vector(&expected["ties"]), 1e-14);

    let mut unscaled = whole[0].clone();
    drop_out(&mut unscaled, density, false, seed, 0, name);
    let masked: Vec<f64> = masks[0].iter().zip(&whole[0]).map(|(kept, x)| kept * x).collect();
    assert_eq!(unscaled, masked);
}

#[test]
fn dare_keeps_the_expectation() {
    const SEEDS: u64 = 4000;
    let delta = numbers(1, 16);
    let mut mean = [0.0; 16];
    for seed in 0..SEEDS {
        let mut dropped = delta.clone();
        drop_out(&mut dropped, 0.25, true, seed, 0, "w");
        mean.iter_mut().zip(&dropped).for_each(|(mean, x)| *mean += x / SEEDS as f64);
    }
    // The deviation of the mean is |x|·√(3/4000) of 0.027·|x|; five of them.
    for (mean, x) in mean.iter().zip(&delta) {
        assert!((mean - x).abs() <= 0.137 * x.abs(), "{mean} for {x}");
    }
}

#[test]
fn slerp_is_a_rotation_at_a_constant_rate() {
    let expected = &expected()["slerp"];
    let (a, b) = (vector(&expected["a"]), vector(&expected["b"]));
    for case in expected["cases"].as_array().unwrap() {
        close(&slerp(&a, &b, number(&case["t"])), &vector(&case["merged"]), 1e-13);
    }
    assert_eq!(slerp(&a, &b, 0.0), a);
    close(&slerp(&a, &b, 1.0), &b, 1e-15);

    let unit = |x: &[f64]| weighted_sum(&[x.to_vec()], &[1.0 / norm(x)]);
    let (a, b) = (unit(&a), unit(&b));
    let angle = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>().acos();
    let whole = angle(&a, &b);
    for step in 1..8 {
        let t = f64::from(step) / 8.0;
        let x = slerp(&a, &b, t);
        assert!((norm(&x) - 1.0).abs() < 1e-14);
        assert!((angle(&a, &x) - t * whole).abs() < 1e-12);
    }
}

#[test]
fn vectors_without_an_angle_are_joined_by_a_line() {
    let a = numbers(5, 12);
    let times = |factor: f64| a.iter().map(|x| factor * x).collect::<Vec<f64>>();
    for b in [times(0.0), times(1.0), times(-2.0), times(1e-200)] {
        let mut angle = Angle::default();
        angle.add(&a, &b);
        let between = angle.at(0.25);
        assert!(between.straight);
        close(&[between.a, between.b], &[0.75, 0.25], 0.0);
    }
    // Large and small vectors have an angle like others.
    let mut angle = Angle::default();
    angle.add(&[1e150, 0.0], &[1e-150, 1e-150]);
    let between = angle.at(0.5);
    assert!(!between.straight && (between.a - between.b).abs() < 1e-12, "{between:?}");
}

#[test]
fn iso_is_that_of_torch() {
    for case in expected()["iso"].as_array().unwrap() {
        let deltas = vectors(&case["deltas"]);
        let shape = vector(&case["shape"]);
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        close(&iso_c(&deltas, rows, columns).unwrap(), &vector(&case["iso_c"]), 1e-13);
        let fraction = number(&case["fraction"]);
        close(&iso_cts(&deltas, rows, columns, fraction).unwrap(), &vector(&case["iso_cts"]), 1e-12);
    }
}

/// `M·Mᵀ` of a row-major matrix.
fn gram(matrix: &[f64], rows: usize) -> Vec<f64> {
    let columns = matrix.len() / rows;
    let row = |i: usize| &matrix[i * columns..(i + 1) * columns];
    let dot = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum();
    (0..rows * rows).map(|at| dot(at / rows, at % rows)).collect()
}

#[test]
fn the_spectrum_of_iso_is_flat_also_where_directions_are_missing() {
    // Full rank: M·Mᵀ is a multiple of the identity.
    let deltas: Vec<Vec<f64>> = (0..3).map(|seed| numbers(seed, 5 * 9)).collect();
    for merged in [iso_c(&deltas, 5, 9).unwrap(), iso_cts(&deltas, 5, 9, 0.4).unwrap()] {
        let gram = gram(&merged, 5);
        let level = gram[0];
        assert!(level > 0.0);
        for (at, x) in gram.iter().enumerate() {
            let want = if at / 5 == at % 5 { level } else { 0.0 };
            assert!((x - want).abs() < 1e-12, "{at}: {x}");
        }
    }
    // Rank 1 each: the sum has two directions, and what is merged is a multiple of a projection on them.
    let product = |u: &[f64], v: &[f64]| u.iter().flat_map(|x| v.iter().map(move |y| x * y)).collect::<Vec<f64>>();
    let thin = [product(&numbers(1, 5), &numbers(2, 9)), product(&numbers(3, 5), &numbers(4, 9))];
    for merged in [iso_c(&thin, 5, 9).unwrap(), iso_cts(&thin, 5, 9, 0.0).unwrap()] {
        let gram = gram(&merged, 5);
        let trace: f64 = (0..5).map(|i| gram[i * 6]).sum();
        let square: f64 = gram.iter().map(|x| x * x).sum();
        assert!((trace * trace / square - 2.0).abs() < 1e-9, "two equal values: {trace} {square}");
    }
    // Of one matrix whose values are equal nothing changes; of zeros nothing comes.
    let turn = vec![0.0, -2.0, 2.0, 0.0];
    close(&iso_c(std::slice::from_ref(&turn), 2, 2).unwrap(), &turn, 1e-14);
    close(&iso_cts(std::slice::from_ref(&turn), 2, 2, 0.8).unwrap(), &turn, 1e-14);
    let opposite = vec![0.0, 2.0, -2.0, 0.0];
    for merged in [iso_c(&[turn.clone(), opposite.clone()], 2, 2), iso_cts(&[turn, opposite], 2, 2, 0.8)] {
        assert_eq!(merged.unwrap(), [0.0; 4]);
    }
}
