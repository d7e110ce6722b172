//! `−log σ(β·Δ_w) − log σ(−β·Δ_l)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Binary classifier optimisation on pairs: both completions are told from the reference, not from each other.
///
/// # Formula
/// `−log σ(β·Δ_w) − log σ(−β·Δ_l)`, the mean over pairs, with `Δ = Σ_t (log π − log π_ref)` in nats of the chosen (`w`)
/// and rejected (`l`) completion. It is never below the loss of [`Dpo`](crate::Dpo).
///
/// # Gradient
/// `−β·σ(−β·Δ_w)` for `log π(y_w)` and `β·σ(β·Δ_l)` for `log π(y_l)`: the chosen completion always rises and the other
/// always falls, each less the further it has come.
///
/// # When to use
/// As a part of a mix beside a loss of margins, where the absolute likelihoods must not drift.
///
/// # Source
/// Jung et al. 2024, arXiv 2404.04656, without the reward shift. Confidence A✓.
///
/// # Deviations
/// From the paper: no reward shift `δ` (it is 0), as in TRL since version 0.29. From TRL: none.
///
/// # Checked by
/// TRL: `bco_pair`, `sigmoid + bco_pair + sft`. Formulas: `bco_pair (no shift)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{BcoPair, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let bco = BcoPair { beta: 0.5, ..BcoPair::default() };
/// let loss = bco.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Δ_w = 1 and Δ_l = −1: 2·log(1 + e^−½).
/// assert!((loss.to_scalar::<f64>()? - 0.948_153_968_360_213_4).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BcoPair {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for BcoPair {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for BcoPair {
    const NAME: &'static str = "bco_pair";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "binary classifier optimisation on pairs: −log σ(β·Δ_w) − log σ(−β·Δ_l)";
}

impl Loss for BcoPair {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let (chosen, rejected) = ((&log_ratios.chosen * self.beta)?, (&log_ratios.rejected * self.beta)?);
        let losses = (log_sigmoid(&chosen)? + log_sigmoid(&rejected.neg()?)?)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(chosen - rejected)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(2.0 * std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs, pairs};
    use super::*;
    use crate::{Dpo, Objective};

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("bco_pair (no shift)", BcoPair::default());
    }

    #[test]
    fn it_bounds_dpo_from_above() {
        let (_, scores) = pairs();
        let values = |loss: &dyn Objective| {
            loss.evaluate(&scores, &Context::default()).unwrap().terms[0].numerator.to_vec1::<f64>().unwrap()
        };
        let (bco, dpo) = (values(&BcoPair::default()), values(&Dpo::default()));
        assert!(bco.iter().zip(&dpo).all(|(bco, dpo)| bco > dpo), "{bco:?} {dpo:?}");
    }
}
