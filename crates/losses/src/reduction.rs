//! From tokens to one number a row.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::scores::{TokenScores, per_token};

/// How the tokens of a completion become one number.
///
/// In a configuration: `"sum"`, `"mean"`, `{ length_desensitized = { alpha = 0.5 } }` or
/// `{ length_desensitized_mean = { alpha = 0.5 } }`.
///
/// The last two are LD-DPO (Liu et al. 2024, arXiv 2409.06411, eq. 9; TRL's `ld_alpha`): tokens beyond
/// the length of the pair's shorter completion count `α` times, for policy and reference alike. `α = 1` is
/// the plain sum, `α = 0` cuts both sides to their shared length. Confidence A✓ (TRL).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reduction {
    /// `Σ_t log p_t`.
    Sum,
    /// `Σ_t log p_t / n`, with `n` the number of scored tokens of the row; 0 for an empty row.
    Mean,
    /// `Σ_{t ≤ m} log p_t + α·Σ_{t > m} log p_t`, with `m` the scored tokens of the pair's shorter completion.
    LengthDesensitized {
        /// Weight of the tokens beyond the shared length, in [0, 1].
        alpha: f64,
    },
    /// The same divided by `n`, the number of scored tokens of the row (not the sum of the weights), as in TRL.
    LengthDesensitizedMean {
        /// Weight of the tokens beyond the shared length, in [0, 1].
        alpha: f64,
    },
}

impl Reduction {
    /// Reduces `[N, T]` to `[N]`; differentiable. A row on its own has no partner, so that the
    /// length-desensitized forms are the plain ones.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn reduce(self, scores: &TokenScores) -> Result<Tensor> {
        self.reduce_beyond(scores, scores.lengths())
    }

    /// Reduces `[N, T]` to `[N]`, where `shared[n]` is the number of scored tokens of the shortest
    /// completion of row `n`'s group; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn reduce_beyond(self, scores: &TokenScores, shared: &[usize]) -> Result<Tensor> {
        let sums = match self {
            Self::Sum | Self::Mean => scores.sums()?,
            Self::LengthDesensitized { alpha } | Self::LengthDesensitizedMean { alpha } => {
                let longer = scores.lengths().iter().zip(shared).any(|(own, shared)| own > shared);
                if longer { (scores.log_probs() * weights(scores, shared, alpha)?)?.sum(1)? } else { scores.sums()? }
            }
        };
        match self {
            Self::Sum | Self::LengthDesensitized { .. } => Ok(sums),
            Self::Mean | Self::LengthDesensitizedMean { .. } => per_token(&sums, scores.lengths().iter().copied()),
        }
    }

    /// Whether it divides by the number of tokens.
    pub fn is_mean(self) -> bool {
        matches!(self, Self::Mean | Self::LengthDesensitizedMean { .. })
    }

    /// The same without the division by the number of tokens.
    #[must_use]
    pub fn undivided(self) -> Self {
        match self {
            Self::Sum | Self::Mean => Self::Sum,
            Self::LengthDesensitized { alpha } | Self::LengthDesensitizedMean { alpha } => {
                Self::LengthDesensitized { alpha }
            }
        }
    }

    /// Whether its parameter is one it may have.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Sum | Self::Mean => true,
            Self::LengthDesensitized { alpha } | Self::LengthDesensitizedMean { alpha } => (0.0..=1.0).contains(&alpha),
        }
    }
}

/// 1 for the first `shared[n]` scored tokens of row `n` and `alpha` for the others, `[N, T]`.
fn weights(scores: &TokenScores, shared: &[usize], alpha: f64) -> Result<Tensor> {
    let mask = scores.mask().to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let mut weights = Vec::with_capacity(scores.rows() * scores.slots());
    for (row, &shared) in mask.iter().zip(shared) {
        let mut scored = 0;
        for slot in row {
            scored += usize::from(*slot > 0.5);
            weights.push(if scored > shared { alpha } else { 1.0 });
        }
    }
    let values = Tensor::from_vec(weights, scores.log_probs().dims(), scores.log_probs().device())?;
    Ok(values.to_dtype(scores.log_probs().dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn scores() -> TokenScores {
        let values = Tensor::new(&[[-1.0f64, -3.0, -9.0], [-9.0, -9.0, -9.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f64, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        TokenScores::new(values, mask).unwrap()
    }

    #[test]
    fn a_mean_divides_by_scored_tokens_only() {
        assert_eq!(Reduction::Sum.reduce(&scores()).unwrap().to_vec1::<f64>().unwrap(), [-4.0, 0.0]);
        assert_eq!(Reduction::Mean.reduce(&scores()).unwrap().to_vec1::<f64>().unwrap(), [-2.0, 0.0]);
    }

    #[test]
    fn tokens_beyond_the_shared_length_count_alpha_times() {
        // The middle slot is not scored: position counts scored tokens.
        let values = Tensor::new(&[[-1.0f64, -5.0, -2.0, -4.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f64, 0.0, 1.0, 1.0]], &Device::Cpu).unwrap();
        let scores = TokenScores::new(values, mask).unwrap();
        let reduced = |reduction: Reduction, shared| {
            reduction.reduce_beyond(&scores, &[shared]).unwrap().to_vec1::<f64>().unwrap()[0]
        };
        assert!((reduced(Reduction::LengthDesensitized { alpha: 0.5 }, 1) + 4.0).abs() < 1e-15);
        assert!((reduced(Reduction::LengthDesensitized { alpha: 0.0 }, 2) + 3.0).abs() < 1e-15);
        assert!((reduced(Reduction::LengthDesensitizedMean { alpha: 0.0 }, 2) + 1.0).abs() < 1e-15);
        assert!((reduced(Reduction::LengthDesensitized { alpha: 0.0 }, 3) + 7.0).abs() < 1e-15);
    }

    #[test]
    fn names_are_those_of_configurations() {
        let ld: Reduction = serde_json::from_str(r#"{ "length_desensitized": { "alpha": 0.5 } }"#).unwrap();
        assert_eq!(ld, Reduction::LengthDesensitized { alpha: 0.5 });
        assert_eq!(serde_json::from_str::<Reduction>(r#""mean""#).unwrap(), Reduction::Mean);
    }
}
