//! `−log σ(β·z − α·m)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Margin, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// DPO with an offset: every pair says by how much its rewards must differ.
///
/// # Formula
/// `−log σ(β·z − α·m)` with `z = Δ_w − Δ_l` in nats and `m` the pair's `margin`, the mean over pairs. `m` is in units
/// of rewards and may have any sign.
///
/// # Gradient
/// `−β·σ(α·m − β·z)` for `log π(y_w)` and the opposite for `log π(y_l)`. A pair with a large margin keeps its full
/// gradient for longer; one with a negative margin loses it early.
///
/// # When to use
/// Pairs that come with a strength of the preference: a gap of reward models or of ratings.
///
/// # Source
/// Amini et al. 2024, arXiv 2402.10571 (ODPO); the margin as it is: turbo-alignment's `sigmoid_with_margin`.
/// Confidence A✓.
///
/// # Deviations
/// From the paper: its offset is `α·f(gap)`, with the logarithm as `f` in its experiments. Here `f` is the identity:
/// put `log(gap)` into the column where it is wanted. TRL has no such loss.
///
/// # Checked by
/// Formulas: `dpo with external margin`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, OffsetDpo, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("margin".to_owned(), vec![0.5]);
/// let odpo = OffsetDpo { beta: 0.5, scale: 2.0, ..OffsetDpo::default() };
/// let loss = odpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // β·z = 1 and the offset is 2·0.5: log 2.
/// assert!((loss.to_scalar::<f64>()? - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OffsetDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `α`, the factor of the margins; at least 0. Default 1; 0 is [`Dpo`](crate::Dpo).
    pub scale: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for OffsetDpo {
    fn default() -> Self {
        Self { beta: 0.1, scale: 1.0, reduction: Reduction::Sum }
    }
}

impl Named for OffsetDpo {
    const NAME: &'static str = "offset_dpo";
    const ALIASES: &'static [&'static str] = &["odpo", "margin_dpo", "sigmoid_with_margin"];
    const SUMMARY: &'static str = "DPO with an offset of every pair, its `margin`: −log σ(β·z − α·m)";
}

impl Loss for OffsetDpo {
    type Input = With<AnchoredPair, Margin>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let margins = (input.log_ratios(self.reduction)?.margins()? * self.beta)?;
        let margins = (margins - (input.number() * self.scale)?)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("scale", self.scale)?;
        check_reduction::<Self>(self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs_with, pairs, vectors};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        let margins = vectors().input("margins").unwrap();
        let halves = margins.iter().map(|margin| margin / 2.0).collect();
        check_pairs_with("dpo with external margin", OffsetDpo::default(), &[("margin", margins.clone())]);
        let doubled = OffsetDpo { scale: 2.0, ..OffsetDpo::default() };
        check_pairs_with("dpo with external margin", doubled, &[("margin", halves)]);
        check_pairs_with("dpo", OffsetDpo { scale: 0.0, ..OffsetDpo::default() }, &[("margin", margins)]);
    }
    #[test]
    fn the_margins_that_are_compared_are_reported() {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("margin".to_owned(), vec![0.5, -1.0, 0.0, 2.0]);
        let terms = OffsetDpo::default().evaluate(&scores, &Context::default()).unwrap();
        let reported = &terms.metrics[0];
        assert_eq!(reported.name, "margins/optimised");
        let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        for (margin, loss) in reported.values.to_vec1::<f64>().unwrap().into_iter().zip(losses) {
            assert!(((-margin).exp().ln_1p() - loss).abs() < 1e-12, "{margin}: {loss}");
        }
    }
}
