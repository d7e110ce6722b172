//! `(z − (b₁·b₃·s_w − b₃·s_l − α)/β)²`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::numbers::{SafeChosen, SafeRejected, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Bi-factorial preference optimisation: a regression of pairs of helpfulness on targets that follow from labels of
/// safety.
///
/// # Formula
/// `(z − t/β)²` with `z = Δ_w − Δ_l` in nats and `t = b₁·b₃·s_w − b₃·s_l − α`, where `s` is 1 for a safe completion
/// and 0 for another, and the chosen side is the more *helpful* one. The mean over pairs. With the defaults `t` is ½
/// for two safe completions, 1 where only the helpful one is safe, −1 where only the other is, and −½ for two unsafe
/// ones: of those it prefers the *less* helpful.
///
/// # Gradient
/// `2·(z − t/β)` for `log π(y_w)` and the opposite for `log π(y_l)`: linear in the residual and unbounded.
///
/// # When to use
/// Labels of both kinds and no wish to set a limit: how safe the result is follows from the targets, and no multiplier
/// moves it. For a limit on costs, see [`SafeRlhfLagrangian`](crate::SafeRlhfLagrangian).
///
/// # Source
/// Zhang et al. 2024 (BFPO), arXiv 2408.15313, and the authors' trainer, with which their README agrees. Not verified:
/// whether they average over tokens. Confidence A.
///
/// # Deviations
/// `b₁`, `b₃` and `α` have names. The sum over tokens is our default. The buffered training of some layers alone is
/// not there.
///
/// # Checked by
/// Properties only, because no recorded values of the authors' trainer are at hand. The four targets by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Bfpo, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0]);
/// scores.groups.numbers.insert("safe_rejected".to_owned(), vec![0.0]);
/// let loss = Bfpo { beta: 0.25, ..Bfpo::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 4.0); // (2 − 1/¼)²
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bfpo {
    /// The inverse of the nats that a target of 1 asks for; positive. Default 0.01.
    pub beta: f64,
    /// `b₁`, how much more the safety of the helpful side counts than that of the other; at least 0. Default 3.
    pub helpful_weight: f64,
    /// `b₃`, what the safety of the other side counts; at least 0. Default 0.5.
    pub safety_weight: f64,
    /// `α`, what is taken off every target; at least 0. Default 0.5.
    pub shift: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Bfpo {
    fn default() -> Self {
        Self { beta: 0.01, helpful_weight: 3.0, safety_weight: 0.5, shift: 0.5, reduction: Reduction::Sum }
    }
}

impl Named for Bfpo {
    const NAME: &'static str = "bfpo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "regression of pairs of helpfulness on targets made of `safe_chosen` and `safe_rejected`";
}

impl Loss for Bfpo {
    type Input = With<With<AnchoredPair, SafeChosen>, SafeRejected>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let chosen = (input.inner().number() * (self.helpful_weight * self.safety_weight))?;
        let targets = ((chosen - (input.number() * self.safety_weight)?)? - self.shift)?;
        let margins = input.log_ratios(self.reduction)?.margins()?;
        let losses = (&margins - (targets / self.beta)?)?.sqr()?;
        LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&(margins * self.beta)?)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("helpful_weight", self.helpful_weight)?;
        check_not_negative::<Self>("safety_weight", self.safety_weight)?;
        check_not_negative::<Self>("shift", self.shift)?;
        check_reduction::<Self>(self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::pairs;
    use super::*;
    use crate::Objective;

    #[test]
    fn the_four_targets() {
        let (_, mut scores) = pairs();
        // Policy and reference agree, so that losses are squares of the targets over β.
        scores.policy = scores.reference.clone().unwrap();
        scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0, 1.0, 0.0, 0.0]);
        scores.groups.numbers.insert("safe_rejected".to_owned(), vec![1.0, 0.0, 1.0, 0.0]);
        let terms = Bfpo { beta: 1.0, ..Bfpo::default() }.evaluate(&scores, &Context::default()).unwrap();
        assert_eq!(terms.terms[0].numerator.to_vec1::<f64>().unwrap(), [0.25, 1.0, 1.0, 0.25]);
    }

    #[test]
    fn a_label_that_is_none_is_named() {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0, 0.5, 0.0, 0.0]);
        scores.groups.numbers.insert("safe_rejected".to_owned(), vec![1.0; 4]);
        let error = Bfpo::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert_eq!(error, "safe_chosen, item 1: got 0.5, expected 0 or 1");
    }
}
