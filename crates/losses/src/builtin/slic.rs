//! `max(0, δ − ℓ_w + ℓ_l) − λ·ℓ_w`

use serde::{Deserialize, Serialize};

use super::reference_free::rewards;
use super::{Named, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Pair;

/// Sequence likelihood calibration: a hinge on log-probabilities and imitation of the chosen completion, without a
/// reference.
///
/// # Formula
/// `max(0, δ − ℓ_w + ℓ_l) − λ·ℓ_w` with `ℓ = Σ_t log π` in nats, the mean over pairs. Both terms are sums over the
/// tokens of a completion; under a mean reduction both are means.
///
/// # Gradient
/// `−1 − λ` for `log π(y_w)` and 1 for `log π(y_l)` where `ℓ_w − ℓ_l < δ`, and `−λ` and 0 beyond and at the edge. It
/// does not fade near the edge.
///
/// # When to use
/// Pairs without a reference, where a margin that is reached shall be left alone. [`Hinge`](crate::Hinge) is the form
/// with a reference and without imitation.
///
/// # Source
/// Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425; as read in HALOs' function, and not run against it. Confidence A.
///
/// # Deviations
/// From the paper: the imitated completion is the chosen one, as in HALOs, and not a reference answer. TRL's `hinge` is
/// [`Hinge`](crate::Hinge).
///
/// # Checked by
/// Properties only, because no recorded vector exists, and values computed by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, Slic, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-2.0, -1.5]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let slic = Slic { delta: 2.0, lambda: 0.5, ..Slic::default() };
/// let loss = slic.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 3.0); // 2 + 3 − 3.5, and ½·3
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slic {
    /// `δ`, the margin in nats beyond which a pair no longer counts; at least 0. Default 1.
    pub delta: f64,
    /// `λ`, weight of the imitation of the chosen completion; at least 0. Default 0.1.
    pub lambda: f64,
    /// How the tokens of a completion add up, in both terms. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Slic {
    fn default() -> Self {
        Self { delta: 1.0, lambda: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for Slic {
    const NAME: &'static str = "slic";
    const ALIASES: &'static [&'static str] = &["slic_hf"];
    const SUMMARY: &'static str = "sequence likelihood calibration, without a reference: max(0, δ − ℓ_w + ℓ_l) − λ·ℓ_w";
}

impl Loss for Slic {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> Result<LossTerms> {
        let compared = input.log_probs(self.reduction)?;
        let losses = positive_part(&compared.margins()?.affine(-1.0, self.delta)?)?;
        let nll = compared.chosen.neg()?;
        let rewards = rewards(&compared, 1.0)?;
        let imitation = Term { weight: self.lambda, ..Term::per_item("nll", nll.clone()) };
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses), imitation]);
        Ok(terms.with_rewards(rewards).with_metric("nll", &nll))
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("delta", self.delta)?;
        check_not_negative::<Self>("lambda", self.lambda)?;
        check_reduction::<Self>(self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{Objective, Scores, TokenScores};

    #[test]
    fn a_pair_at_the_edge_is_imitated_only() {
        let slopes = |rejected: f64| {
            let log_probs = Var::new(&[[-1.0], [rejected]], &Device::Cpu).unwrap();
            let scores = Scores::of_pairs(TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap(), None);
            let loss = Slic::default().evaluate(&scores, &Context::default()).unwrap();
            let gradient = loss.loss(&scores.totals()).unwrap().backward().unwrap().remove(&log_probs).unwrap();
            gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        assert_eq!(slopes(-2.0), [-0.1, 0.0]);
        assert_eq!(slopes(-3.0), [-0.1, 0.0]);
        assert_eq!(slopes(-1.0), [-1.1, 1.0]);
    }
}
