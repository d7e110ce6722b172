//! What losses without a reference have in common.

use candle_core::Tensor;

use crate::error::Result;
use crate::math::guarded_expm1;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Normaliser, Rewards, Term};
use crate::view::{Pair, Sides};

/// Below this, a shape of a reward is the logarithm: the difference is below the rounding of a double.
const LOGARITHM: f64 = 1e-12;

/// `(1 − e^{−α·l})/α` of log-probabilities `l`: the reward of a completion whose shape `α` sets, `l` itself at `α = 0`.
/// The exponential is continued by its tangent above an exponent of 31.
pub(crate) fn shaped(log_probs: Sides, alpha: f64) -> Result<Sides> {
    if alpha.abs() < LOGARITHM {
        return Ok(log_probs);
    }
    let shape = |log_probs: Tensor| -> Result<Tensor> { Ok((guarded_expm1(&(log_probs * -alpha)?)? / -alpha)?) };
    Ok(Sides { chosen: shape(log_probs.chosen)?, rejected: shape(log_probs.rejected)? })
}

/// `β` times the numbers that a loss compares, detached.
pub(crate) fn rewards(compared: &Sides, beta: f64) -> Result<Rewards> {
    Ok(Rewards::Pair { chosen: (compared.chosen.detach() * beta)?, rejected: (compared.rejected.detach() * beta)? })
}

/// Adds the negative log-likelihood of the chosen completions, a mean over their tokens, and reports that of each as
/// `nll`.
pub(crate) fn with_nll(mut terms: LossTerms, input: &Pair, weight: f64) -> Result<LossTerms> {
    let numerator = input.log_probs(Reduction::Sum)?.chosen.neg()?;
    terms.terms.push(Term { name: "nll", numerator, normaliser: Normaliser::DemonstrationTokens, weight });
    Ok(terms.with_metric("nll", &input.log_probs(Reduction::Mean)?.chosen.neg()?))
}
