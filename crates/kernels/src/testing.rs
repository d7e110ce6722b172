//! What the tests of the ops share: numbers, differences, candle's autograd as oracle.
use candle_core::{Device, Tensor, Var};

use crate::{Error, Float};

/// `n` numbers in (−1.5, 1.5), decided by `seed`.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(|_| uniform() + uniform() + uniform() - 1.5).collect()
}

/// The same numbers in another type.
pub(crate) fn cast<T: Float>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&v| T::from_f64(v)).collect()
}

/// ‖a − b‖/‖b‖, or ‖a‖ where b is zero; NaN where any number is.
pub(crate) fn distance<A: Float, B: Float>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |sum: f64| sum.sqrt();
    let difference = norm(a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2)).sum());
    let size = norm(b.iter().map(|b| b.to_f64().powi(2)).sum());
    if size > 0.0 { difference / size } else { difference }
}

/// Fails unless the distance is below `bound`, which NaN is not.
#[track_caller]
pub(crate) fn assert_near<A: Float, B: Float>(a: &[A], b: &[B], bound: f64, what: &str) {
    let distance = distance(a, b);
    println!("{what}: {distance:.2e} (bound {bound:.0e})");
    assert!(distance < bound, "{what}: {distance:e}, bound {bound:e}");
}

/// (f(x + h·eᵢ) − f(x − h·eᵢ))/2h for every i.
pub(crate) fn central_differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let h = 1e-5;
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            at[i] = x[i] + h;
            let above = f(&at);
            at[i] = x[i] - h;
            let below = f(&at);
            at[i] = x[i];
            (above - below) / (2.0 * h)
        })
        .collect()
}

pub(crate) fn var(x: &[f64], shape: &[usize]) -> Var {
    Var::from_slice(x, shape, &Device::Cpu).unwrap()
}

pub(crate) fn tensor(x: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(x, shape, &Device::Cpu).unwrap()
}

pub(crate) fn elements(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// candle's gradients of Σ out·weights with respect to `vars`.
pub(crate) fn autograd(out: &Tensor, weights: &[f64], vars: &[&Var]) -> Vec<Vec<f64>> {
    let weights = tensor(weights, out.dims());
    let grads = (out * weights).unwrap().sum_all().unwrap().backward().unwrap();
    vars.iter().map(|var| elements(grads.get(var).expect("candle reaches every variable"))).collect()
}

pub(crate) fn weighted(out: &[f64], weights: &[f64]) -> f64 {
    out.iter().zip(weights).map(|(a, b)| a * b).sum()
}

/// Asserts that the refusal names the operand.
#[track_caller]
pub(crate) fn assert_length(result: Result<(), Error>, name: &str) {
    match result {
        Err(Error::Length { operand, .. }) => assert_eq!(operand, name),
        other => panic!("expected a refusal of the length of {name}, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_no_kernel(result: Result<(), Error>) {
    assert!(matches!(result, Err(Error::NoKernel { device: "elsewhere", .. })), "{result:?}");
}
