//! `−(1−ε)·log σ(β·z) − ε·log σ(−β·z)`

use serde::{Deserialize, Serialize};

use super::{
    Named, check_beta, check_divergence, check_label_smoothing, check_reduction, smoothed_logistic, with_margins,
};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Conservative DPO, for labels of which a share is flipped: the margin has a finite target.
///
/// # Formula
/// `−(1−ε)·log σ(β·z) − ε·log σ(−β·z)` with `z = s(Δ_w) − s(Δ_l)` in nats, the mean over pairs. `Δ = Σ_t (log π − log
/// π_ref)` of the chosen (`w`) and rejected (`l`) completion; `s` is the score of the [`Divergence`], the identity by
/// default. `ε = 0` is [`Dpo`](crate::Dpo).
///
/// # Gradient
/// `β·(σ(β·z) − (1−ε))` for `z`: it vanishes at `z* = log((1−ε)/ε)/β`, beyond which it pulls the margin back. Unlike
/// [`RobustDpo`](crate::RobustDpo) the loss is bounded below.
///
/// # When to use
/// For labels that are known to disagree with themselves, and against margins that grow without end.
///
/// # Source
/// Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO". Confidence A✓.
///
/// # Deviations
/// From the note: none. TRL has lost it: since version 0.29 its `sigmoid` ignores label smoothing.
///
/// # Checked by
/// Formulas: `cdpo eps=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Cdpo, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let cdpo = Cdpo { beta: 0.5, label_smoothing: 0.25, ..Cdpo::default() };
/// let loss = cdpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 2: ¾·log(1 + e⁻¹) + ¼·log(1 + e).
/// assert!((loss.to_scalar::<f64>()? - 0.563_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cdpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`. Default 0.1; 0 is [`Dpo`](crate::Dpo).
    pub label_smoothing: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Cdpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.1, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
    }
}

impl Named for Cdpo {
    const NAME: &'static str = "cdpo";
    const ALIASES: &'static [&'static str] = &["conservative_dpo"];
    const SUMMARY: &'static str = "conservative DPO: label smoothing, with a finite target for the margin";
}

impl Loss for Cdpo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scaled = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let losses = smoothed_logistic(&scaled, self.label_smoothing)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &scaled, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs, pairs};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("cdpo eps=0.1", Cdpo::default());
    }

    #[test]
    fn without_flipped_labels_it_is_dpo() {
        check_pairs("dpo", Cdpo { label_smoothing: 0.0, ..Cdpo::default() });
    }

    #[test]
    fn margins_are_reported_where_they_are_not_those_of_the_rewards() {
        let (_, scores) = pairs();
        let metrics = |reduction| {
            let terms = Cdpo { reduction, ..Cdpo::default() }.evaluate(&scores, &Context::default()).unwrap();
            terms.metrics.into_iter().map(|metric| metric.name).collect::<Vec<_>>()
        };
        assert!(metrics(Reduction::Sum).is_empty());
        assert_eq!(metrics(Reduction::Mean), ["margins/optimised", "accuracies/optimised"]);
    }
}
