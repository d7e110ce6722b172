//! `−p·log σ(β·z) − (1−p)·log σ(−β·z)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::soft_logistic;
use crate::numbers::{Preference, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// DPO with soft labels: every pair says how likely it is that the chosen completion is the better one.
///
/// # Formula
/// `−p·log σ(β·z) − (1−p)·log σ(−β·z)` with `z = Δ_w − Δ_l` in nats and `p` the pair's `preference` in [0, 1]: the
/// share of annotators who prefer the chosen completion, or what a preference model says. The mean over pairs.
///
/// # Gradient
/// `β·(σ(β·z) − p)` for `log π(y_w)` and the opposite for `log π(y_l)`: bounded, and 0 where the implicit preference
/// `σ(β·z)` is `p`. Only `p` of 0 and 1 let the margin grow for ever.
///
/// # When to use
/// Pairs that several people or a preference model judged. [`Dpo`](crate::Dpo) is `p = 1`, [`Cdpo`](crate::Cdpo) with a
/// rate of `ε` is `p = 1 − ε` for all pairs, and a pair of `p` below ½ is one whose sides are swapped.
///
/// # Source
/// The likelihood of the Bradley–Terry model under soft labels; with one `p` for all pairs: Mitchell 2023, "A note on
/// DPO with noisy preferences and relationship to IPO", of which one `p` a pair is this library's generalisation.
/// Confidence A✓.
///
/// # Deviations
/// From the note: `p` belongs to the pair. TRL has no such loss.
///
/// # Checked by
/// Formulas: `dpo`, `cdpo eps=0.1`, of which it is the general form, `mo-dpo weighted sum`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, SoftDpo, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("preference".to_owned(), vec![0.75]);
/// let loss = SoftDpo { beta: 0.5, ..SoftDpo::default() }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 2: ¾·log(1 + e⁻¹) + ¼·log(1 + e).
/// assert!((loss.to_scalar::<f64>()? - 0.563_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for SoftDpo {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for SoftDpo {
    const NAME: &'static str = "soft_dpo";
    const ALIASES: &'static [&'static str] = &["soft_label_dpo"];
    const SUMMARY: &'static str = "DPO with the share of votes of every pair, `preference`, as its label";
}

impl Loss for SoftDpo {
    type Input = With<AnchoredPair, Preference>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let margins = (input.log_ratios(self.reduction)?.margins()? * self.beta)?;
        let losses = soft_logistic(&margins, input.number())?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &margins, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs_with, pairs};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas_that_it_generalises() {
        check_pairs_with("dpo", SoftDpo::default(), &[("preference", vec![1.0; 4])]);
        check_pairs_with("cdpo eps=0.1", SoftDpo::default(), &[("preference", vec![0.9; 4])]);
    }

    #[test]
    fn a_preference_that_is_no_share_is_an_error() {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("preference".to_owned(), vec![1.0, 0.5, 1.5, 0.0]);
        let error = SoftDpo::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert_eq!(error, "preference, item 2: got 1.5, expected a number in [0, 1]");
    }

    #[test]
    fn objectives_that_prefer_different_sides_are_votes() {
        // Two objectives of weights 0.7 and 0.3, of which the second prefers the other side of the last pair.
        let votes = [("preference", vec![1.0, 1.0, 1.0, 0.7])];
        super::super::vectors::check_pairs_with("mo-dpo weighted sum", SoftDpo::default(), &votes);
    }
}
