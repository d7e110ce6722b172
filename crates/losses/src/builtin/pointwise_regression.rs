//! `mean₊ −log π/n + mean₋ (s − β·d)²`

use serde::{Deserialize, Serialize};

use super::pointwise_dpo::by_verdict;
use super::ulma::imitation;
use super::{Named, check_beta, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::numbers::{Score, With};
use crate::reduction::Reduction;
use crate::terms::LossTerms;
use crate::view::AnchoredLabels;

/// ULMA with continuous scores: imitation of desirable completions, and a regression of the others' log-ratios on scores.
///
/// # Formula
/// `w·mean₊ −a + mean₋ (s − β·d)²`, with the row's number `score` as `s`, `a = Σ_t log π/n` and
/// `d = Σ_t (log π − log π_ref)/n` in nats a token. `mean₊` runs over the desirable and `mean₋` over the undesirable rows of
/// the step; a verdict without rows contributes 0.
///
/// # Gradient
/// `−w/(n·n_D)` for `log π` of a token of a desirable row and `−2·β·(s − β·d)/(n·n_U)` for one of another row: linear in the
/// residual and unbounded, so clip. A row whose score is above 0 is pushed above its reference although it is labelled
/// undesirable: the label says only that it is rated, not imitated.
///
/// # When to use
/// Demonstrations together with completions that were rated by a real number. Scores should have the scale of `β·d`, a
/// few hundredths to a few tenths; every row must bring one, and those of desirable rows are not read. With
/// `imitation_weight = 0` only the rated rows count.
///
/// # Source
/// Cai et al. 2023, arXiv 2312.02554, in the form of the authors' code. Confidence A✓.
///
/// # Deviations
/// From the authors' code: its constant `Z`, which it holds at 0, is left out (subtract it from the scores); the means run
/// over the whole optimizer step instead of one micro-batch. From TRL: TRL has no such loss.
///
/// # Checked by
/// Formulas: `pointwise continuous`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, PointwiseRegression, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -2.0], [-1.0, -1.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// scores.groups.numbers.insert("score".to_owned(), vec![1.0, 0.5]);
/// let loss = PointwiseRegression { beta: 0.25, ..PointwiseRegression::default() };
/// let loss = loss.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // 1.5 nats a token of the desirable row, and (0.5 − 0.25·(−2))² = 1 of the other.
/// assert_eq!(loss.to_scalar::<f64>()?, 2.5);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PointwiseRegression {
    /// What a nat a token of log-ratio is worth in scores; positive. Default 0.1.
    pub beta: f64,
    /// `w`, the weight of the imitation, at least 0. Default 1.
    pub imitation_weight: f64,
}

impl Default for PointwiseRegression {
    fn default() -> Self {
        Self { beta: 0.1, imitation_weight: 1.0 }
    }
}

impl Named for PointwiseRegression {
    const NAME: &'static str = "pointwise_regression";
    const ALIASES: &'static [&'static str] = &["pointwise_continuous"];
    const SUMMARY: &'static str =
        "imitation of desirable completions and regression of the others' log-ratios on scores";
}

impl Loss for PointwiseRegression {
    type Input = With<AnchoredLabels, Score>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let predicted = (input.log_ratios(Reduction::Mean)? * self.beta)?;
        let losses = (input.number() - &predicted)?.sqr()?;
        let terms = [
            imitation("pointwise_regression/imitation", input, self.imitation_weight)?,
            by_verdict("pointwise_regression/rated", input, &losses, false)?,
        ];
        let terms = LossTerms::new(terms).with_rewards(input.rewards(self.beta)?);
        Ok(terms.with_metric("scores/predicted", &input.of_label(&predicted, false)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("imitation_weight", self.imitation_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_labelled_with;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        // The scores of desirable rows are not read.
        let scores = vec![9.0, 9.0, 9.0, 9.0, 0.2, 0.5, 0.0, -0.3];
        check_labelled_with("pointwise continuous", PointwiseRegression::default(), &[("score", scores)]);
    }
}
