//! `(β·z − logit p)²`

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::numbers::{Preference, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// How near to 0 and 1 a preference may come.
const CLIP: f64 = 1e-6;

/// Implicit reward pairwise difference: a regression of the implicit reward margin on the logit of a vote.
///
/// # Formula
/// `(β·z − log(p/(1 − p)))²` with `z = Δ_w − Δ_l` in nats and `p` the pair's `preference`: the share of votes for the
/// chosen completion. The mean over pairs. `p` is held in `[10⁻⁶, 1 − 10⁻⁶]`: a logit of ±13.8.
///
/// # Gradient
/// `2β·(β·z − logit p)` for `log π(y_w)` and the opposite for `log π(y_l)`: linear in the residual and unbounded.
/// Unanimous votes have targets of `13.8/β` nats, 138 at the default: clip it, or smooth the votes.
///
/// # When to use
/// Several votes on each pair, and rounds in which the policy samples its own pairs and becomes the next reference.
/// With few votes a pair, [`SoftDpo`](crate::SoftDpo) is the bounded alternative.
///
/// # Source
/// Le et al. 2024 (iREPO), arXiv 2405.15230. Second-hand: its details, and how votes are turned into `p`, are not
/// verified. Confidence C.
///
/// # Deviations
/// From the paper: `p` is given by the data; the paper estimates it by a Zermelo ranking of votes. TRL has no such
/// loss.
///
/// # Checked by
/// Formulas: `irepo`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Irepo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("preference".to_owned(), vec![0.5]);
/// let loss = Irepo { beta: 1.0, ..Irepo::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 4.0); // (2 − 0)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Irepo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Irepo {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for Irepo {
    const NAME: &'static str = "irepo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "regression of the reward margin on the logit of the votes, `preference`: (β·z − logit p)²";
}

impl Loss for Irepo {
    type Input = With<AnchoredPair, Preference>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let margins = (input.log_ratios(self.reduction)?.margins()? * self.beta)?;
        let margins = (margins - logits(input.number())?)?;
        LossTerms::new([Term::per_item(Self::NAME, margins.sqr()?)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }
}

/// `log(p/(1 − p))`, computed in double precision: `1 − p` is far below the rounding of a single near 1.
fn logits(preferences: &Tensor) -> Result<Tensor> {
    let held = preferences.to_dtype(DType::F64)?.clamp(CLIP, 1.0 - CLIP)?;
    Ok((held.log()? - held.affine(-1.0, 1.0)?.log()?)?.to_dtype(preferences.dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::vectors::{check_pairs_with, pairs, vectors};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        let preferences = vectors().input("preference").unwrap();
        check_pairs_with("irepo", Irepo::default(), &[("preference", preferences)]);
    }

    #[test]
    fn unanimous_votes_have_finite_targets() {
        let votes = Tensor::new(&[0.0f32, 0.5, 1.0], &Device::Cpu).unwrap();
        let targets = logits(&votes).unwrap().to_vec1::<f32>().unwrap();
        assert!((targets[0] + 13.815_51).abs() < 1e-5 && (targets[2] - 13.815_51).abs() < 1e-5, "{targets:?}");
        assert_eq!(targets[1..2], [0.0]);
    }
    #[test]
    fn the_margins_that_are_compared_are_reported() {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("preference".to_owned(), vec![0.5, 0.9, 0.2, 1.0]);
        let terms = Irepo::default().evaluate(&scores, &Context::default()).unwrap();
        let reported = &terms.metrics[0];
        assert_eq!(reported.name, "margins/optimised");
        let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        for (margin, loss) in reported.values.to_vec1::<f64>().unwrap().into_iter().zip(losses) {
            assert!((margin.powi(2) - loss).abs() < 1e-12, "{margin}: {loss}");
        }
    }
}
