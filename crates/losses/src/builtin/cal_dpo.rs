//! `−log σ(z) + λ·((Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Calibrated DPO: a logistic regression on the margin, and a target for each of the two log-ratios.
///
/// # Formula
/// `−log σ(z) + λ·((Δ_w − 1/(2β))² + (Δ_l + 1/(2β))²)` with `z = Δ_w − Δ_l` and `Δ = log π − log π_ref` in nats, the
/// mean over pairs. `β` sets the targets alone: it does not stand in the logistic term.
///
/// # Gradient
/// `−σ(−z) + 2λ·(Δ_w − 1/(2β))` for `log π(y_w)` and `σ(−z) + 2λ·(Δ_l + 1/(2β))` for `log π(y_l)`: linear in the
/// residuals and unbounded, so clip it. At the start both squares have slopes of `λ/β`, ten times the largest slope of
/// the logistic term at `β = 0.1`.
///
/// # When to use
/// Where the chosen log-probability falls under DPO: the log-ratios themselves have targets here, of opposite signs.
/// `sppo_hard` is the same without the logistic term.
///
/// # Source
/// Xiao et al. 2024, arXiv 2412.14516. The two terms, and that `β` stands outside the logistic one, were read in the
/// authors' released trainer and in turbo-alignment, and not run against them. Their weights `λ` differ (see
/// Deviations), and which of them the paper has is not verified. Confidence A.
///
/// # Deviations
/// From the authors' released trainer: `λ` is 1 by default, as in turbo-alignment; the trainer has 0.5. The equation of
/// the paper was not available to decide between them. TRL has no such loss.
///
/// # Checked by
/// Properties only, because no recorded vector exists, and a value computed by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{CalDpo, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let cal_dpo = CalDpo { beta: 0.25, calibration_weight: 0.5, ..CalDpo::default() };
/// let loss = cal_dpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Both log-ratios are 1 nat short of their targets of 2: ½·(1 + 1), and log(1 + e⁻²) for the margin of 2.
/// assert!((loss.to_scalar::<f64>()? - 1.126_928_011_042_972_5).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalDpo {
    /// Half the inverse of the targets; positive. Default 0.1: targets of ±5 nats.
    pub beta: f64,
    /// `λ`, the weight of the two squares; at least 0. Default 1.
    pub calibration_weight: f64,
    /// How the tokens of a completion add up, in both terms. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for CalDpo {
    fn default() -> Self {
        Self { beta: 0.1, calibration_weight: 1.0, reduction: Reduction::Sum }
    }
}

impl Named for CalDpo {
    const NAME: &'static str = "cal_dpo";
    const ALIASES: &'static [&'static str] = &["caldpo", "calibrated_dpo"];
    const SUMMARY: &'static str = "calibrated DPO: −log σ(z) and squares that hold each log-ratio at ±1/(2β)";
}

impl Loss for CalDpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let margins = log_ratios.margins()?;
        let target = self.target();
        let squares = ((log_ratios.chosen - target)?.sqr()? + (log_ratios.rejected + target)?.sqr()?)?;
        let logistic = Term::per_item(Self::NAME, log_sigmoid(&margins)?.neg()?);
        let calibration = Term { weight: self.calibration_weight, ..Term::per_item("calibration", squares) };
        let terms = LossTerms::new([logistic, calibration]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &(margins * self.beta)?, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("calibration_weight", self.calibration_weight)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2 + 2.0 * self.calibration_weight * self.target().powi(2))
    }
}

impl CalDpo {
    fn target(&self) -> f64 {
        1.0 / (2.0 * self.beta)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs, pairs};
    use super::*;
    use crate::Objective;

    #[test]
    fn it_is_dpo_of_beta_one_plus_squares_of_log_ratios() {
        check_pairs("dpo beta=1", CalDpo { calibration_weight: 0.0, ..CalDpo::default() });
        check_pairs("sppo_hard", Squares);
    }

    /// The calibration term alone, which is SPPO.
    #[derive(Debug)]
    struct Squares;

    impl Loss for Squares {
        type Input = AnchoredPair;

        fn terms(&self, input: &AnchoredPair, context: &Context) -> Result<LossTerms> {
            let mut terms = CalDpo::default().terms(input, context)?;
            terms.terms.remove(0);
            Ok(terms)
        }
    }

    #[test]
    fn the_loss_where_nothing_has_moved_is_as_stated() {
        let (_, mut scores) = pairs();
        scores.policy = scores.reference.clone().unwrap();
        let loss = CalDpo::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        // log 2 + 5² + 5².
        assert!((loss.to_scalar::<f64>().unwrap() - 50.0 - std::f64::consts::LN_2).abs() < 1e-12);
    }
}
