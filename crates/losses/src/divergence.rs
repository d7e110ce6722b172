//! The divergence that ties the policy to its reference.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::math::guarded_expm1;

/// The divergence whose penalty a loss inverts, which decides the score `s(Δ)` that takes
/// the place of the log-ratio `Δ = log π − log π_ref` (both in nats).
///
/// | | `s(Δ)` |
/// |---|---|
/// | reverse KL | `Δ` |
/// | forward KL | `1 − e^{−Δ}` |
/// | Jensen–Shannon | `log 2 + log σ(Δ)` |
/// | alpha | `(e^{(α−1)Δ} − 1)/(α−1)` |
///
/// All are 0 at `Δ = 0`, with slope 1 there (½ for Jensen–Shannon). Exponentials are continued by
/// their tangent above an exponent of 31, so that values and gradients stay finite wherever
/// log-ratios are; TRL leaves the forward KL as it is, which overflows, and cuts the alpha
/// divergence's exponent at 80 (11 in half precision), where the gradient vanishes.
///
/// Source: Wang et al. 2023, arXiv 2309.16240, table 1, in the form of TRL 1.16. Confidence A✓.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::Divergence;
/// let log_ratios = Tensor::new(&[0.0f64, 1.0], &Device::Cpu)?;
/// let scores = Divergence::ForwardKl.score(&log_ratios)?.to_vec1::<f64>()?;
/// assert_eq!(scores[0], 0.0);
/// assert!((scores[1] - (1.0 - (-1f64).exp())).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `KL(π ‖ π_ref)`, that of DPO.
    #[default]
    ReverseKl,
    /// `KL(π_ref ‖ π)`.
    ForwardKl,
    /// Jensen–Shannon.
    #[serde(alias = "js_divergence")]
    JensenShannon,
    /// The alpha divergence of this `α`, any finite number (TRL's default is 0.5), in a configuration `{ alpha = 0.5 }`;
    /// within 1e-6 of 1 it is the reverse KL.
    #[serde(alias = "alpha_divergence")]
    Alpha(f64),
}

impl Divergence {
    /// The score of log-ratios, element-wise; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn score(self, log_ratios: &Tensor) -> Result<Tensor> {
        match self {
            Self::ReverseKl => Ok(log_ratios.clone()),
            Self::ForwardKl => Ok(guarded_expm1(&log_ratios.neg()?)?.neg()?),
            Self::JensenShannon => Ok((crate::math::log_sigmoid(log_ratios)? + std::f64::consts::LN_2)?),
            Self::Alpha(alpha) if (alpha - 1.0).abs() < 1e-6 => Ok(log_ratios.clone()),
            Self::Alpha(alpha) => {
                let power = alpha - 1.0;
                Ok((guarded_expm1(&(log_ratios * power)?)? / power)?)
            }
        }
    }

    /// Whether its parameter is one it may have.
    pub(crate) fn is_valid(self) -> bool {
        !matches!(self, Self::Alpha(alpha) if !alpha.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn scores_near_the_reverse_kl_keep_their_digits_in_single_precision() {
        // A step of 1e-4 in the exponent: e^x − 1 as a difference would have three digits.
        let alpha = 1.0 + 1e-4;
        let log_ratios = [1.0f32, -0.5, 1e-3, 7.0];
        let x = Var::new(&log_ratios, &Device::Cpu).unwrap();
        let scores = Divergence::Alpha(alpha).score(x.as_tensor()).unwrap();
        let slopes = scores.sum_all().unwrap().backward().unwrap().remove(&x).unwrap().to_vec1::<f32>().unwrap();
        for ((score, slope), x) in scores.to_vec1::<f32>().unwrap().into_iter().zip(slopes).zip(log_ratios) {
            let power = alpha - 1.0;
            let exact = (power * f64::from(x)).exp_m1() / power;
            assert!((f64::from(score) / exact - 1.0).abs() < 1e-6, "{x}: {score} {exact}");
            assert!((f64::from(slope) - (power * f64::from(x)).exp()).abs() < 1e-6, "{x}: {slope}");
        }
    }

    #[test]
    fn the_forward_kl_keeps_its_digits_near_the_reference() {
        let score = |x: f32| {
            let scores = Divergence::ForwardKl.score(&Tensor::new(&[x], &Device::Cpu).unwrap()).unwrap();
            f64::from(scores.to_vec1::<f32>().unwrap()[0])
        };
        for x in [1e-6f32, -1e-6, 1e-3, -2.0] {
            let exact = -(-f64::from(x)).exp_m1();
            assert!((score(x) / exact - 1.0).abs() < 1e-6, "{x}: {} {exact}", score(x));
        }
        assert!(score(-1e4).is_finite());
    }
}
