//! Derivatives by differences, and how far two numbers are apart.

/// `|got − expected| / max(1, |expected|)`: absolute below 1, relative above. NaN
/// on either side gives infinity, so that no comparison with a tolerance lets it pass.
///
/// ```
/// assert_eq!(candlewick_testkit::error(0.5, 0.25), 0.25);
/// assert_eq!(candlewick_testkit::error(90.0, 100.0), 0.1);
/// assert_eq!(candlewick_testkit::error(f64::NAN, 1.0), f64::INFINITY);
/// ```
pub fn error(got: f64, expected: f64) -> f64 {
    let error = (got - expected).abs() / expected.abs().max(1.0);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// The largest [`error`] of two lists; infinity if their lengths differ.
///
/// ```
/// assert_eq!(candlewick_testkit::worst(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
/// assert_eq!(candlewick_testkit::worst(&[1.0], &[]), f64::INFINITY);
/// ```
pub fn worst(got: &[f64], expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    got.iter().zip(expected).map(|(&got, &expected)| error(got, expected)).fold(0.0, f64::max)
}

/// The gradient of `function` at `at` by central differences,
/// `(f(x + h·e_i) − f(x − h·e_i)) / 2h`, with an error of order `h²`.
///
/// ```
/// let gradient = candlewick_testkit::central_difference(|x| x[0] * x[1], &[2.0, 3.0], 1e-5);
/// assert!(candlewick_testkit::worst(&gradient, &[3.0, 2.0]) < 1e-9);
/// ```
pub fn central_difference(mut function: impl FnMut(&[f64]) -> f64, at: &[f64], step: f64) -> Vec<f64> {
    let mut point = at.to_vec();
    (0..at.len())
        .map(|index| {
            point[index] = at[index] + step;
            let above = function(&point);
            point[index] = at[index] - step;
            let below = function(&point);
            point[index] = at[index];
            (above - below) / (2.0 * step)
        })
        .collect()
}
