#![expect(clippy::float_cmp, reason = "results that are exact")]
use super::*;
use crate::testing::*;

const STARTS: [u32; 6] = [0, 4, 4, 5, 30, 37];

fn sums<T: Float>(values: &[f64], weights: Option<&[f64]>) -> Vec<T> {
    let mut sums = vec![T::from_f64(f64::NAN); STARTS.len() - 1];
    let (values, weights) = (cast::<T>(values), weights.map(cast::<T>));
    let weights = weights.as_ref().map(|weights| weights.into());
    forward((&values).into(), (&STARTS[..]).into(), weights, (&mut sums).into()).unwrap();
    sums
}

fn gradient<T: Float>(dsums: &[f64], weights: Option<&[f64]>) -> Vec<T> {
    let mut dvalues = vec![T::from_f64(f64::NAN); 37];
    let (dsums, weights) = (cast::<T>(dsums), weights.map(cast::<T>));
    let weights = weights.as_ref().map(|weights| weights.into());
    backward((&dsums).into(), (&STARTS[..]).into(), weights, (&mut dvalues).into()).unwrap();
    dvalues
}

#[test]
fn sums_are_those_of_a_matrix_of_segments_and_gradients_those_of_differences() {
    let (values, dsums) = (numbers(1, 37), numbers(2, 5));
    let mut weights = numbers(3, 37);
    weights[7] = 0.0;
    for weights in [None, Some(&weights[..])] {
        // [S, M], 1 where the element is of the segment.
        let is_of = |segment: usize, i: usize| (STARTS[segment]..STARTS[segment + 1]).contains(&(i as u32));
        let weight = |i: usize| weights.map_or(1.0, |weights| weights[i]);
        let term = |segment: usize, i: usize| if is_of(segment, i) { weight(i) * values[i] } else { 0.0 };
        let expected: Vec<f64> = (0..5).map(|segment| (0..37).map(|i| term(segment, i)).sum()).collect();
        assert_near(&sums::<f64>(&values, weights), &expected, 1e-14, "sums");
        assert_near(&sums::<f32>(&values, weights), &expected, 1e-7, "sums in f32");
        let found = gradient::<f64>(&dsums, weights);
        let loss = |values: &[f64]| weighted(&sums::<f64>(values, weights), &dsums);
        assert_near(&found, &central_differences(&values, loss), 1e-9, "dvalues by differences");
        assert_near(&gradient::<f32>(&dsums, weights), &found, 1e-7, "dvalues in f32");
    }
}

#[test]
fn elements_of_weight_0_do_not_count() {
    let (mut values, mut weights) = (numbers(1, 37), vec![1.0; 37]);
    let without = {
        let mut values = values.clone();
        (values[2], values[30]) = (0.0, 0.0);
        sums::<f64>(&values, None)
    };
    (values[2], values[30], weights[2], weights[30]) = (f64::NEG_INFINITY, f64::NAN, 0.0, 0.0);
    assert_eq!(sums::<f64>(&values, Some(&weights)), without);
    let dvalues = gradient::<f64>(&[f64::INFINITY, 1.0, 1.0, 2.0, 3.0], Some(&weights));
    assert_eq!([dvalues[2], dvalues[29], dvalues[30], dvalues[31]], [0.0, 2.0, 0.0, 3.0]);
}

#[test]
fn long_sums_in_single_precision_lose_nothing() {
    // In `f32`, 1e8 + 1 − 1e8 is 0.
    let values: Vec<f32> = [1e8, 1.0, -1e8].repeat(1000);
    let mut sum = [0.0];
    forward((&values).into(), (&[0, 3000][..]).into(), None, (&mut sum[..]).into()).unwrap();
    assert_eq!(sum, [1000.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let values = [1.0f32; 4];
    let run = |starts: &[u32], weights: usize, segments: usize| {
        let (weights, mut sums) = (vec![1.0; weights], vec![0.0; segments]);
        forward((&values[..]).into(), starts.into(), Some((&weights).into()), (&mut sums).into())
    };
    assert_length(run(&[0, 2, 4], 4, 3), "starts");
    assert_length(run(&[], 4, 0), "starts");
    assert_length(run(&[0, 2, 4], 3, 2), "weights");
    assert!(run(&[0, 2, 5], 4, 2).unwrap_err().to_string().contains("from 0 to 5, expected from 0 to the 4 values"));
    assert!(run(&[1, 2, 4], 4, 2).unwrap_err().to_string().contains("from 1 to 4"));
    assert!(run(&[0, 3, 2, 4], 4, 3).unwrap_err().to_string().contains("starts fall"));
    run(&[0, 2, 4], 4, 2).unwrap();
    let mut dvalues = [0.0f32; 4];
    assert_no_kernel(backward(View::elsewhere(1), (&[0, 4][..]).into(), None, (&mut dvalues[..]).into()));
}
