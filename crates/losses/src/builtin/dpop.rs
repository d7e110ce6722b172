//! `−log σ(β·(z − λ·max(0, −Δ_w)))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::{log_sigmoid, positive_part};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// DPO-positive: DPO with a penalty where the chosen completion has become less likely than under the reference.
///
/// # Formula
/// `−log σ(β·(z − λ·max(0, −Δ_w)))` with `z = Δ_w − Δ_l` and `Δ = log π − log π_ref` in nats, the mean over pairs.
///
/// # Gradient
/// With `m` the argument of `σ`: `−β·σ(−m)·(1 + λ)` for `log π(y_w)` where `Δ_w < 0` and `−β·σ(−m)` elsewhere, at
/// `Δ_w = 0` included; `β·σ(−m)` for `log π(y_l)`. The two sides are not each other's opposite while the chosen
/// completion is below its reference.
///
/// # When to use
/// Pairs that differ in few tokens, where DPO lowers both log-probabilities. With a small `λ` the penalty is slight;
/// with that of the paper the chosen completion hardly falls below its reference.
///
/// # Source
/// Pal et al. 2024 (Smaug), arXiv 2402.13228; as turbo-alignment's function. That the paper trains with a `λ` around 50
/// is from memory. Confidence A✓.
///
/// # Deviations
/// From the paper: the default `λ` is 0.1, that of turbo-alignment. From turbo-alignment: rewards are reported without
/// the penalty, which `margins/optimised` includes. TRL has no such loss.
///
/// # Checked by
/// Formulas: `dpop lam=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Dpop, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-3.0f64], [-6.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let dpop = Dpop { beta: 0.5, lambda: 3.0, ..Dpop::default() };
/// let loss = dpop.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = −1 + 4 = 3 and the penalty is 3·1, so nothing is left: log 2.
/// assert!((loss.to_scalar::<f64>()? - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpop {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `λ`, what a nat counts by which the chosen completion is below its reference; at least 0. Default 0.1.
    pub lambda: f64,
    /// How the tokens of a completion add up, in `z` and in the penalty. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Dpop {
    fn default() -> Self {
        Self { beta: 0.1, lambda: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for Dpop {
    const NAME: &'static str = "dpop";
    const ALIASES: &'static [&'static str] = &["dpo_positive", "smaug"];
    const SUMMARY: &'static str =
        "DPO that penalises a chosen completion below its reference: −log σ(β·(z − λ·max(0, −Δ_w)))";
}

impl Loss for Dpop {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(self.reduction)?;
        let shortfalls = positive_part(&log_ratios.chosen.neg()?)?;
        let margins = ((log_ratios.margins()? - (shortfalls * self.lambda)?)? * self.beta)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        terms.with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("lambda", self.lambda)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::super::vectors::check_pairs;
    use super::*;
    use crate::{Objective, Scores, TokenScores};

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("dpop lam=0.1", Dpop::default());
        check_pairs("dpo", Dpop { lambda: 0.0, ..Dpop::default() });
    }

    #[test]
    fn a_run_that_starts_from_its_reference_starts_as_dpo() {
        let log_probs = Var::new(&[[-1.0f64], [-2.0]], &Device::Cpu).unwrap();
        let reference = Tensor::new(&[[-1.0f64], [-2.0]], &Device::Cpu).unwrap();
        let policy = TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap();
        let scores = Scores::of_pairs(policy, Some(TokenScores::unmasked(reference).unwrap()));
        let dpop = Dpop { lambda: 50.0, ..Dpop::default() };
        let loss = dpop.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let gradient = loss.backward().unwrap().remove(&log_probs).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(gradient, [[-0.05], [0.05]]);
    }
}
