//! `mean₊ −log π/n + mean₋ −log σ(−β·d)`

use serde::{Deserialize, Serialize};

use super::pointwise_dpo::by_verdict;
use super::{Named, check_beta, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredLabels;

/// Unified language model alignment: imitation of desirable completions, and point-wise DPO on undesirable ones.
///
/// # Formula
/// `w·mean₊ −a + mean₋ −log σ(−β·d)`, with `a = Σ_t log π/n` and `d = Σ_t (log π − log π_ref)/n` in nats a token. `mean₊`
/// runs over the desirable and `mean₋` over the undesirable rows of the step; a verdict without rows contributes 0.
///
/// # Gradient
/// `−w/(n·n_D)` for `log π` of a token of a desirable row, which never saturates, and `β·σ(β·d)/(n·n_U)` for one of an
/// undesirable row.
///
/// # When to use
/// Demonstrations that were written by people together with completions that were marked as bad. The imitation does not
/// hold back from leaving the reference: `w = β` is the gentler variant of the authors' code.
///
/// # Source
/// Cai et al. 2023, arXiv 2312.02554, in the form of the authors' code. Confidence A✓.
///
/// # Deviations
/// From the authors' code: its constant `Z`, which it holds at 0, is left out, and so is its variant that averages over all
/// tokens of desirable rows at once; the means run over the whole optimizer step instead of one micro-batch. From TRL: TRL
/// has no such loss.
///
/// # Checked by
/// Formulas: `ulma (nll on positives)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, TokenScores, Ulma};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-3.0, -3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64, -2.0], [-1.0, -1.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let loss = Ulma { beta: 1.0, ..Ulma::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // 1.5 nats a token of the desirable row, and log(1 + e⁻²) of the undesirable one.
/// assert!((loss.to_scalar::<f64>()? - 1.626_928_011_042_972_5).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ulma {
    /// Weight of the divergence from the reference, per nat a token; positive. Default 0.1.
    pub beta: f64,
    /// `w`, the weight of the imitation, at least 0. Default 1.
    pub imitation_weight: f64,
}

impl Default for Ulma {
    fn default() -> Self {
        Self { beta: 0.1, imitation_weight: 1.0 }
    }
}

impl Named for Ulma {
    const NAME: &'static str = "ulma";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "imitation of desirable completions and point-wise DPO on undesirable ones";
}

impl Loss for Ulma {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, _: &Context) -> Result<LossTerms> {
        let worse = (input.log_ratios(Reduction::Mean)? * -self.beta)?;
        let terms = [
            imitation("ulma/imitation", input, self.imitation_weight)?,
            by_verdict("ulma/undesirable", input, &log_sigmoid(&worse)?.neg()?, false)?,
        ];
        LossTerms::new(terms)
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&input.of_label(&worse, false)?)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("imitation_weight", self.imitation_weight)
    }
}

/// The mean over the desirable rows of the whole step of the negative log-probability a token.
pub(super) fn imitation(name: &'static str, input: &AnchoredLabels, weight: f64) -> Result<Term> {
    let losses = Reduction::Mean.reduce(&input.policy()?)?.neg()?;
    Ok(Term { weight, ..by_verdict(name, input, &losses, true)? })
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_labelled;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_labelled("ulma (nll on positives)", Ulma::default());
    }
}
