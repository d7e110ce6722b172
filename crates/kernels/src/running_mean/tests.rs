use super::*;
use crate::testing::*;

#[test]
fn the_mean_and_its_correction_are_what_is_written() {
    let count = 50_001;
    let (x, start): (Vec<f64>, Vec<f64>) = (numbers(1, count), numbers(2, count));
    for threads in [1, 2] {
        let mut ws = Workspace::new(threads);
        let (mut y, mut mean) = (vec![f64::NAN; count], numbers(3, count));
        let expected: Vec<f64> = mean.iter().zip(&x).map(|(m, x)| 0.75 * m + 0.25 * x).collect();
        step((&mut y).into(), (&mut mean).into(), (&x).into(), 0.25, None, &mut ws).unwrap();
        assert_eq!((&y, &mean), (&expected, &expected));
        let correction = Correction { start: (&start).into(), weight: 0.5 };
        step((&mut y).into(), (&mut mean).into(), (&x).into(), 0.0, Some(correction), &mut ws).unwrap();
        assert_eq!(mean, expected);
        let corrected: Vec<f64> = (0..count).map(|i| mean[i] + 0.5 * (x[i] - start[i])).collect();
        assert_eq!(y, corrected);
    }
}

#[test]
fn small_addends_are_not_lost_to_f32() {
    let (policy, mut ws) = ([1.000_1f32], Workspace::new(1));
    let (mut mixed, mut y, mut mean) = ([1.0f32], [1.0f32], [1.0f64]);
    for _ in 0..10_000 {
        crate::elementwise::mix((&mut mixed[..]).into(), (&policy[..]).into(), 1e-4, &mut ws).unwrap();
        step((&mut y[..]).into(), (&mut mean[..]).into(), (&policy[..]).into(), 1e-4, None, &mut ws).unwrap();
    }
    // 1 − (1 − 1e-4)^10000 of the way, and none of it.
    let expected = 1.0 + (f64::from(policy[0]) - 1.0) * (1.0 - (1.0f64 - 1e-4).powi(10_000));
    assert!((f64::from(y[0]) - expected).abs() < 1e-7, "{} {expected}", y[0]);
    assert!((f64::from(mixed[0]) - 1.0).abs() < 2e-6, "{}", mixed[0]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let mut ws = Workspace::new(1);
    let x = vec![0.0f32; 3];
    assert_length(
        step((&mut vec![0.0f32; 3]).into(), (&mut vec![0.0; 2]).into(), (&x).into(), 0.5, None, &mut ws),
        "mean",
    );
    assert_length(
        step((&mut vec![0.0f32; 2]).into(), (&mut vec![0.0; 2]).into(), (&x).into(), 0.5, None, &mut ws),
        "x",
    );
    assert_length(begin((&mut vec![0.0; 2]).into(), (&x).into(), &mut ws), "x");
    let correction = || Some(Correction { start: (&x).into(), weight: 0.5 });
    let mut two = vec![0.0f32; 2];
    assert_length(
        step((&mut two).into(), (&mut vec![0.0; 2]).into(), (&x[..2]).into(), 0.5, correction(), &mut ws),
        "start",
    );
    let error = step((&mut two).into(), (&mut vec![0.0; 2]).into(), (&x[..2]).into(), 1.5, None, &mut ws).unwrap_err();
    assert!(error.to_string().contains("weight is 1.5"), "{error}");
}
