//! Functions that losses are made of, finite and with the right slope where
//! textbook forms are not. All act element-wise on any shape and are
//! differentiable by candle's autograd.

use candle_core::{D, Tensor};

use crate::error::Result;

/// `log σ(x)`, finite for every finite `x`, with slope exactly `σ(−x)`.
///
/// It is computed as `−(m + log(e^{−m} + e^{−x−m}))` with `m = max(−x, 0)` held
/// constant, whose derivative is `σ(−x)` term by term. The textbook form
/// `min(x, 0) − log(1 + e^{−|x|})` has slope 1 at 0 under candle's autograd, which
/// is where every run that starts from its reference begins. The value is exact to
/// the type's rounding of 1: below that, far right, it is 0 while the slope still is not.
///
/// ```
/// use candle_core::{Device, Var};
/// let x = Var::new(&[0.0f64, 1e4, -1e4], &Device::Cpu)?;
/// let y = candlewick_losses::math::log_sigmoid(x.as_tensor())?;
/// assert_eq!(y.to_vec1::<f64>()?, [-(2f64.ln()), 0.0, -1e4]);
/// let grads = y.sum_all()?.backward()?;
/// assert_eq!(grads.get(&x).expect("x is a variable").to_vec1::<f64>()?, [0.5, 0.0, 1.0]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    let minus_x = x.neg()?;
    let shift = minus_x.detach().relu()?;
    let sum = (shift.neg()?.exp()? + (minus_x - &shift)?.exp()?)?;
    Ok((sum.log()? + shift)?.neg()?)
}

/// `σ(x) = 1/(1 + e^{−x})`, with slope `σ(x)·σ(−x)` that keeps its relative
/// precision in both tails.
///
/// ```
/// use candle_core::{Device, Var};
/// let x = Var::new(&[0.0f64, -1e4], &Device::Cpu)?;
/// let y = candlewick_losses::math::sigmoid(x.as_tensor())?;
/// assert!((y.to_vec1::<f64>()?[0] - 0.5).abs() < 1e-15);
/// let grads = y.sum_all()?.backward()?;
/// assert!((grads.get(&x).expect("x is a variable").to_vec1::<f64>()?[0] - 0.25).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(log_sigmoid(x)?.exp()?)
}

/// `−t·log σ(x) − (1 − t)·log σ(−x)`: the logistic loss of a margin `x` whose label `t` in [0, 1] is soft, with slope
/// `σ(x) − t`. Finite for every finite `x`. With `x = a·(β·z − m)` it is the loss of a pair whose margin of implicit
/// rewards `β·z` is compared with `m` on a scale `a`: `a = 1`, `m = 0`, `t = 1` is DPO.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let values = |values: &[f64]| Tensor::new(values, &Device::Cpu);
/// let losses = candlewick_losses::math::soft_logistic(&values(&[0.0, 1e4, -1e4])?, &values(&[0.3, 0.75, 1.0])?)?;
/// assert_eq!(losses.to_vec1::<f64>()?, [2f64.ln(), 2500.0, 1e4]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If the shapes differ.
pub fn soft_logistic(x: &Tensor, label: &Tensor) -> Result<Tensor> {
    let label = label.detach();
    let (agree, disagree) = ((log_sigmoid(x)? * &label)?, (log_sigmoid(&x.neg()?)? * label.affine(-1.0, 1.0)?)?);
    Ok((agree + disagree)?.neg()?)
}

/// `max(0, x)` with slope 0 at 0; NaN stays NaN, and −∞, which no finite log-probability gives, becomes NaN.
///
/// ```
/// use candle_core::{Device, Var};
/// let x = Var::new(&[-2.0f64, 0.0, 3.0], &Device::Cpu)?;
/// let y = candlewick_losses::math::positive_part(x.as_tensor())?;
/// assert_eq!(y.to_vec1::<f64>()?, [0.0, 0.0, 3.0]);
/// let grads = y.sum_all()?.backward()?;
/// assert_eq!(grads.get(&x).expect("x is a variable").to_vec1::<f64>()?, [0.0, 0.0, 1.0]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn positive_part(x: &Tensor) -> Result<Tensor> {
    let detached = x.detach();
    let is_positive = detached.gt(&detached.zeros_like()?)?.to_dtype(x.dtype())?;
    Ok((x * is_positive)?)
}

/// `e^x` up to an exponent of 30, and its tangent there beyond: `e^30·(x − 29)`. Finite, with a finite slope that
/// does not vanish, for every finite `x`; exact below.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[0.0f64, 30.0, 31.0, 1e4], &Device::Cpu)?;
/// let y = candlewick_losses::math::guarded_exp(&x)?.to_vec1::<f64>()?;
/// assert_eq!((y[0], y[2] / y[1]), (1.0, 2.0));
/// assert!(y[3].is_finite());
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn guarded_exp(x: &Tensor) -> Result<Tensor> {
    const CAP: f64 = 30.0;
    let above = positive_part(&(x - CAP)?)?;
    // x where it is below the cap and the cap elsewhere, with slope 1 and 0.
    let below = (x - &above)?;
    Ok((below.exp()? + (above * CAP.exp())?)?)
}

/// `e^x − 1` without the loss of digits near 0; above an exponent of 31 continued by its tangent, so that it is finite
/// for every finite `x`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[0.0f64, 1e-9, 1.0, 5.0, -1e4, 1e4], &Device::Cpu)?;
/// let y = candlewick_losses::math::guarded_expm1(&x)?.to_vec1::<f64>()?;
/// for (got, x) in y.iter().zip([0.0f64, 1e-9, 1.0, 5.0, -1e4]) {
///     assert!((got - x.exp_m1()).abs() <= 1e-14 * x.exp_m1().abs());
/// }
/// assert!(y[5].is_finite());
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn guarded_expm1(x: &Tensor) -> Result<Tensor> {
    // In two parts that meet at 1, each of them constant where the other is not: e^x − e above, and below
    // e^x − 1 = 2t/(1 − t) with t = tanh(x/2), which keeps its precision near 0.
    let above = positive_part(&(x - 1.0)?)?;
    let t = ((x - &above)? * 0.5)?.tanh()?;
    let below = ((&t * 2.0)? / (1.0 - &t)?)?;
    Ok((below + ((guarded_exp(&above)? - 1.0)? * std::f64::consts::E)?)?)
}

/// `log(1 − e^x)` for `x < 0`; `x` is held below `−1e-7` (a probability of at most `1 − 1e-7`), with slope 0 there.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[-(2f64.ln()), -50.0, 0.0], &Device::Cpu)?;
/// let y = candlewick_losses::math::log1m_exp(&x)?.to_vec1::<f64>()?;
/// assert!((y[0] - 0.5f64.ln()).abs() < 1e-15);
/// assert_eq!(y[1], 0.0);
/// assert!((y[2] - 1e-7f64.ln()).abs() < 1e-6);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn log1m_exp(x: &Tensor) -> Result<Tensor> {
    const NEAREST: f64 = 1e-7;
    // x where it is below the nearest exponent, and that one elsewhere; a difference would round to 0 in single precision.
    let is_below = x.detach().lt(-NEAREST)?.to_dtype(x.dtype())?;
    let x = ((x * &is_below)? + is_below.affine(NEAREST, -NEAREST)?)?;
    // −expm1(x) from tanh keeps its precision near 0: e^x − 1 = 2t/(1 − t) with t = tanh(x/2).
    let t = (&x * 0.5)?.tanh()?;
    Ok((((&t * -2.0)? / (1.0 - &t)?)?).log()?)
}

/// `log Σ_j e^{x_j}` over the last dimension, of the places where `mask`, of the same shape, is 1. Finite wherever
/// those `x` are; the slopes are their shares, which add up to 1. The mask needs at least one 1 along the last
/// dimension: a sum of nothing is `−∞`.
///
/// ```
/// use candle_core::{Device, Var};
/// let x = Var::new(&[[1e4f64, 1e4, 3e4]], &Device::Cpu)?;
/// let mask = candle_core::Tensor::new(&[[1.0f64, 1.0, 0.0]], &Device::Cpu)?;
/// let y = candlewick_losses::math::masked_log_sum_exp(x.as_tensor(), &mask)?;
/// assert!((y.to_vec1::<f64>()?[0] - (1e4 + 2f64.ln())).abs() < 1e-11);
/// let grads = y.sum_all()?.backward()?;
/// assert_eq!(grads.get(&x).expect("x is a variable").to_vec2::<f64>()?, [[0.5, 0.5, 0.0]]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a tensor operation fails.
pub fn masked_log_sum_exp(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let counts = mask.gt(0.5)?;
    let lowest = x.detach().zeros_like()?.affine(1.0, f64::from(f32::MIN))?;
    // Held constant: it cancels.
    let largest = counts.where_cond(&x.detach(), &lowest)?.max_keepdim(D::Minus1)?;
    let shifted = x.broadcast_sub(&largest)?;
    let shifted = counts.where_cond(&shifted, &shifted.detach().zeros_like()?)?;
    let sum = (shifted.exp()? * mask)?.sum(D::Minus1)?;
    Ok((sum.log()? + largest.squeeze(D::Minus1)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use candlewick_testkit::{FormulaVectors, central_difference, error, worst};

    use super::*;

    fn slope(function: fn(&Tensor) -> Result<Tensor>, at: &[f64]) -> Vec<f64> {
        let x = Var::new(at, &Device::Cpu).unwrap();
        let grads = function(x.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        grads.get(&x).unwrap().to_vec1().unwrap()
    }

    fn total(function: fn(&Tensor) -> Result<Tensor>, at: &[f64]) -> f64 {
        let x = Tensor::new(at, &Device::Cpu).unwrap();
        function(&x).unwrap().sum_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn slopes_are_those_of_the_function() {
        let points = [-30.0, -3.0, -0.1, 0.0, 0.1, 3.0, 30.0];
        for function in [log_sigmoid, sigmoid, guarded_expm1] {
            for point in points {
                // One at a time: beside e^30 the others would vanish in a sum.
                let numeric = central_difference(|x| total(function, x), &[point], 1e-5);
                let (got, expected) = (slope(function, &[point])[0], numeric[0]);
                assert!(error(got, expected) < 1e-8, "{point}: {got} {expected}");
            }
        }
    }

    #[test]
    fn exponentials_without_one_have_the_slope_of_exponentials() {
        let points = [-30.0, -3.0, -0.1, 0.0, 1e-9, 0.1, 1.0, 3.0];
        for (got, x) in slope(guarded_expm1, &points).into_iter().zip(points) {
            assert!(error(got, x.exp()) < 1e-14, "{got} {}", x.exp());
        }
        assert!(slope(guarded_expm1, &[-1e4, 1e4]).iter().all(|slope| slope.is_finite()));
        let single = Tensor::new(&[1e-6f32], &Device::Cpu).unwrap();
        assert!((guarded_expm1(&single).unwrap().to_vec1::<f32>().unwrap()[0] / 1e-6 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_slope_at_zero_is_exactly_one_half() {
        assert_eq!(slope(log_sigmoid, &[0.0]), [0.5]);
        let x = Var::new(&[0.0f32], &Device::Cpu).unwrap();
        let grads = log_sigmoid(x.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.5]);
    }

    #[test]
    fn log_sigmoid_agrees_with_the_formulas_at_the_ends() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
        let vectors = FormulaVectors::load(&path).unwrap();
        let recorded = |key| vectors.list("log-sigmoid extremes", key).unwrap();
        let x = Tensor::new(recorded("x"), &Device::Cpu).unwrap();
        let got = log_sigmoid(&x).unwrap().to_vec1::<f64>().unwrap();
        assert!(worst(&got, &recorded("value")) < 1e-15, "{got:?}");
    }

    #[test]
    fn masked_sums_of_exponentials_have_their_shares_as_slopes() {
        let mask = Tensor::new(&[[0.0f64, 1.0, 1.0], [1.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let rows = |x: &[f64]| Var::from_vec(x.to_vec(), (2, 3), &Device::Cpu).unwrap();
        let sum = |x: &Var| masked_log_sum_exp(x.as_tensor(), &mask).unwrap().sum_all().unwrap();
        let x = [7.0, -1.0, 0.5, 2.0, 1e4, -1e4];
        let variable = rows(&x);
        let slopes = sum(&variable).backward().unwrap().remove(&variable).unwrap().flatten_all().unwrap();
        let numeric = central_difference(|x| sum(&rows(x)).to_scalar::<f64>().unwrap(), &x, 1e-5);
        for (got, expected) in slopes.to_vec1::<f64>().unwrap().into_iter().zip(numeric) {
            assert!(error(got, expected) < 1e-8, "{got} {expected}");
        }
    }

    #[test]
    fn the_complement_of_a_certain_token_is_finite_in_single_precision() {
        let x = Var::new(&[1e4f32, 5.0, 0.0, -1e4], &Device::Cpu).unwrap();
        let y = log1m_exp(x.as_tensor()).unwrap();
        let slopes = y.sum_all().unwrap().backward().unwrap().remove(&x).unwrap().to_vec1::<f32>().unwrap();
        assert!(y.to_vec1::<f32>().unwrap().iter().all(|value| (-17.0..=0.0).contains(value)), "{y}");
        assert!(slopes[..3].iter().all(|slope| *slope == 0.0) && slopes[3].is_finite(), "{slopes:?}");
    }

    #[test]
    fn complements_of_certain_events_are_held() {
        let x = Var::new(&[-1.0f32, -1e-8, 0.0, 1e-3, 1e4], &Device::Cpu).unwrap();
        let y = log1m_exp(x.as_tensor()).unwrap();
        let gradient = y.sum_all().unwrap().backward().unwrap().remove(&x).unwrap().to_vec1::<f32>().unwrap();
        assert!(error(f64::from(gradient[0]), -1.0 / (1f64.exp() - 1.0)) < 1e-6);
        assert_eq!(gradient[1..], [0.0; 4]);
        assert!(y.to_vec1::<f32>().unwrap()[1..].iter().all(|y| (y + 16.118_096).abs() < 1e-5));
    }

    #[test]
    fn tails_are_finite() {
        assert_eq!(slope(log_sigmoid, &[1e4, -1e4]), [0.0, 1.0]);
        assert_eq!(slope(sigmoid, &[1e4, -1e4]), [0.0, 0.0]);
        assert!(total(positive_part, &[f64::NAN]).is_nan());
    }
}
