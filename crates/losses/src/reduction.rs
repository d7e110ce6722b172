//! From tokens to one number a row.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::scores::TokenScores;

/// How the tokens of a completion become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// `Σ_t log p_t`.
    Sum,
    /// `Σ_t log p_t / n`, with `n` the number of scored tokens of the row; 0 for an empty row.
    Mean,
}

impl Reduction {
    /// Reduces `[N, T]` to `[N]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn reduce(self, scores: &TokenScores) -> Result<Tensor> {
        let sums = scores.sums()?;
        match self {
            Self::Sum => Ok(sums),
            Self::Mean => {
                let inverse: Vec<f64> = scores.lengths().iter().map(|&length| 1.0 / length.max(1) as f64).collect();
                let inverse = Tensor::new(inverse, sums.device())?.to_dtype(sums.dtype())?;
                Ok((sums * inverse)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_mean_divides_by_scored_tokens_only() {
        let values = Tensor::new(&[[-1.0f64, -3.0, -9.0], [-9.0, -9.0, -9.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f64, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let scores = TokenScores::new(values, mask).unwrap();
        assert_eq!(Reduction::Sum.reduce(&scores).unwrap().to_vec1::<f64>().unwrap(), [-4.0, 0.0]);
        assert_eq!(Reduction::Mean.reduce(&scores).unwrap().to_vec1::<f64>().unwrap(), [-2.0, 0.0]);
    }
}
