//! `mean₊ −log σ(β·d) + mean₋ −log σ(−β·d)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::AnchoredLabels;

/// Point-wise DPO: a logistic regression on the log-ratio a token of single completions, each verdict averaged on its own.
///
/// # Formula
/// `mean₊ −log σ(β·d) + mean₋ −log σ(−β·d)`, with `d = Σ_t (log π − log π_ref)/n` in nats a token. `mean₊` runs over the
/// desirable and `mean₋` over the undesirable rows of the step; a verdict without rows contributes 0.
///
/// # Gradient
/// `−β·σ(−β·d)/(n·n_D)` for `log π` of a token of a desirable row, `β·σ(β·d)/(n·n_U)` for one of an undesirable row. One
/// lone undesirable row weighs as much as all desirable ones.
///
/// # When to use
/// Single completions with a verdict whose lengths differ much. As `d` is an average, `β = 0.1` is a soft constraint:
/// `β·d` is about 0.01. For its gentler treatment of demonstrations see [`Ulma`](crate::Ulma).
///
/// # Source
/// Cai et al. 2023, arXiv 2312.02554, in the form of the authors' code. Confidence A✓.
///
/// # Deviations
/// From the authors' code: its constant `Z`, which it holds at 0, is left out; the means run over the whole optimizer step
/// instead of one micro-batch. From TRL: TRL has no such loss.
///
/// # Checked by
/// Formulas: `pointwise dpo`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, PointwiseDpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -1.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -2.0], [-1.0, -1.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let loss = PointwiseDpo { beta: 1.0 }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // d = 1 and −2: log(1 + e⁻¹) + log(1 + e⁻²)
/// assert!((loss.to_scalar::<f64>()? - 0.440_189_698_561_195_4).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PointwiseDpo {
    /// Weight of the divergence from the reference, per nat a token; positive. Default 0.1.
    pub beta: f64,
}

impl Default for PointwiseDpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Named for PointwiseDpo {
    const NAME: &'static str = "pointwise_dpo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "logistic regression on single completions' log-ratios a token, verdict by verdict";
}

impl Loss for PointwiseDpo {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, _: &Context) -> Result<LossTerms> {
        let right = (input.log_ratios(Reduction::Mean)? * input.by_label(self.beta, -self.beta)?)?;
        let losses = log_sigmoid(&right)?.neg()?;
        let terms = [
            by_verdict("pointwise_dpo/desirable", input, &losses, true)?,
            by_verdict("pointwise_dpo/undesirable", input, &losses, false)?,
        ];
        LossTerms::new(terms).with_rewards(input.rewards(self.beta)?).with_optimised_margins(&right)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)
    }
}

/// The mean over the rows of one verdict in the whole step of `losses`, `[B]`.
pub(super) fn by_verdict(
    name: &'static str,
    input: &AnchoredLabels,
    losses: &candle_core::Tensor,
    desirable: bool,
) -> Result<Term> {
    let normaliser = if desirable { Normaliser::Desirable } else { Normaliser::Undesirable };
    Ok(Term { name, numerator: input.of_label(losses, desirable)?, normaliser, weight: 1.0 })
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_labelled, labelled};
    use super::*;
    use crate::{Groups, Objective, Scores};

    #[test]
    fn agrees_with_the_formulas() {
        check_labelled("pointwise dpo", PointwiseDpo::default());
    }

    #[test]
    fn a_verdict_without_rows_contributes_nothing() {
        let value = |verdicts: [bool; 8]| {
            let (_, scores) = labelled();
            let scores = Scores { groups: Groups::of_labelled(&verdicts), ..scores };
            let terms = PointwiseDpo::default().evaluate(&scores, &Context::default()).unwrap();
            terms.loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap()
        };
        // −log σ(x) is between 0.6 and 0.8 for every row here, so one class gives about ln 2 and two about twice that.
        for (verdicts, classes) in
            [([true; 8], 1.0), ([false; 8], 1.0), ([true, false].repeat(4).try_into().unwrap(), 2.0)]
        {
            let value = value(verdicts);
            assert!((value / classes - std::f64::consts::LN_2).abs() < 0.1, "{verdicts:?}: {value}");
        }
    }
}
