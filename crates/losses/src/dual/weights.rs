//! What a reward and costs weigh in a mixture.

use crate::error::{Error, Result};

/// The weights `1/(1 + Σλ)` of the reward and `λ_k/(1 + Σλ)` of every cost: they add up to 1.
///
/// The factor only scales the step of a policy. From logarithms they are `σ(−log λ)` and `σ(log λ)` (the softmax of 0
/// and the logarithms, for several), which is finite for every one; the quotient is NaN in single precision from `log
/// λ = 89` on. All of it is computed in double precision.
///
/// ```
/// use candlewick_losses::dual::Weights;
/// let weights = Weights::of(&[3.0])?;
/// assert_eq!((weights.reward, weights.costs[0]), (0.25, 0.75));
/// assert_eq!(Weights::of_logs(&[1e4])?, Weights { reward: 0.0, costs: vec![1.0] });
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Of the reward.
    pub reward: f64,
    /// Of every cost.
    pub costs: Vec<f64>,
}

impl Weights {
    /// From multipliers, each at least 0 and finite.
    ///
    /// # Errors
    /// If one is not.
    pub fn of(multipliers: &[f64]) -> Result<Self> {
        for &got in multipliers {
            if !(got.is_finite() && got >= 0.0) {
                let (parameter, expected) = ("multiplier", "a number of at least 0");
                return Err(Error::Parameter { loss: "lagrangian".to_owned(), parameter, got, expected });
            }
        }
        let total = 1.0 + multipliers.iter().sum::<f64>();
        if total.is_finite() {
            let costs = multipliers.iter().map(|multiplier| multiplier / total).collect();
            return Ok(Self { reward: 1.0 / total, costs });
        }
        Self::of_logs(&multipliers.iter().map(|multiplier| multiplier.ln()).collect::<Vec<_>>())
    }

    /// From their logarithms: finite ones, or `−∞` for a multiplier of 0.
    ///
    /// # Errors
    /// If one is NaN or `+∞`.
    pub fn of_logs(logs: &[f64]) -> Result<Self> {
        for &got in logs {
            if got.is_nan() || got == f64::INFINITY {
                let (parameter, expected) = ("log_multiplier", "a finite number, or −∞ for a multiplier of 0");
                return Err(Error::Parameter { loss: "lagrangian".to_owned(), parameter, got, expected });
            }
        }
        let highest = logs.iter().copied().fold(0.0, f64::max);
        let total = (-highest).exp() + logs.iter().map(|log| (log - highest).exp()).sum::<f64>();
        Ok(Self {
            reward: (-highest).exp() / total,
            costs: logs.iter().map(|log| (log - highest).exp() / total).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_add_up_to_one_whatever_the_multiplier() {
        for step in -100..=100 {
            let log = 100.0 * f64::from(step);
            let Weights { reward, costs } = Weights::of_logs(&[log]).unwrap();
            assert!((reward + costs[0] - 1.0).abs() < 1e-15, "{log}");
            // σ(−log λ) by itself.
            let sigmoid = if log >= 0.0 { (-log).exp() / (1.0 + (-log).exp()) } else { 1.0 / (1.0 + log.exp()) };
            assert!((reward - sigmoid).abs() < 1e-15, "{log}");
        }
        let several = Weights::of(&[1.0, 0.0, 2.0]).unwrap();
        assert!((several.reward - 0.25).abs() < 1e-15 && (several.costs[2] - 0.5).abs() < 1e-15);
        let beyond = Weights::of(&[f64::MAX, f64::MAX]).unwrap();
        assert!((beyond.costs[0] - 0.5).abs() < 1e-15 && beyond.reward < 1e-300, "{beyond:?}");
    }

    #[test]
    fn multipliers_that_are_none_are_named() {
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let error = Weights::of(&[1.0, wrong]).unwrap_err().to_string();
            assert!(error.starts_with("lagrangian.multiplier: got "), "{error}");
        }
        assert!(Weights::of_logs(&[f64::NAN]).is_err());
    }
}
