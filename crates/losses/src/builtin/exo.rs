//! `KL([σ(β·z), σ(−β·z)] ‖ [1−ε, ε])`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_divergence, check_reduction, in_range, with_margins};
use crate::divergence::Divergence;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::{log_sigmoid, sigmoid};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Efficient exact optimisation on pairs: the reverse Kullback–Leibler divergence of the policy's preference from the
/// labels'.
///
/// # Formula
/// `q·(log q − log(1−ε)) + (1−q)·(log(1−q) − log ε)` with `q = σ(β·z)` and `z = s(Δ_w) − s(Δ_l)` in nats, the mean over
/// pairs. `Δ = Σ_t (log π − log π_ref)` of the chosen (`w`) and rejected (`l`) completion; `s` is the score of the
/// [`Divergence`], the identity by default. The labels say that the chosen completion is better with probability `1−ε`.
///
/// # Gradient
/// `β·q·(1−q)·(β·z − log((1−ε)/ε))` for `z`. It vanishes at `z* = log((1−ε)/ε)/β`, as that of [`Cdpo`](crate::Cdpo)
/// does, and also where the policy is sure of the contrary: the divergence seeks a mode and gives up pairs that it has
/// lost.
///
/// # When to use
/// Where labels contradict each other and the policy should settle on one answer, not average over them.
///
/// # Source
/// Ji et al. 2024, arXiv 2402.00856, eq. 16. Confidence A✓.
///
/// # Deviations
/// From the paper: none for two completions. From TRL: `label_smoothing` has the paper's 1e-3 as its default; TRL's is
/// 0, which it refuses with this loss.
///
/// # Checked by
/// TRL: `exo_pair`. Formulas: `exo eps=1e-3`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Exo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let exo = Exo { beta: 0.5, label_smoothing: 0.25, ..Exo::default() };
/// let loss = exo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // z = 2 and q = σ(1) = 0.7311, close to the 0.75 of the labels.
/// assert!((loss.to_scalar::<f64>()? - 0.000_941_314_012_507_73).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `ε`, the probability that a label is wrong, in `(0, 0.5)`. Default 1e-3.
    pub label_smoothing: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// The divergence from the reference. Default [`Divergence::ReverseKl`].
    pub divergence: Divergence,
}

impl Default for Exo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 1e-3, reduction: Reduction::Sum, divergence: Divergence::ReverseKl }
    }
}

impl Named for Exo {
    const NAME: &'static str = "exo";
    const ALIASES: &'static [&'static str] = &["exo_pair"];
    const SUMMARY: &'static str = "efficient exact optimisation: KL([σ(β·z), σ(−β·z)] ‖ [1−ε, ε])";
}

impl Loss for Exo {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let scaled = (input.divergence_scores(self.divergence, self.reduction)?.margins()? * self.beta)?;
        let opposite = scaled.neg()?;
        let kept = (sigmoid(&scaled)? * (log_sigmoid(&scaled)? - self.log_kept())?)?;
        let flipped = (sigmoid(&opposite)? * (log_sigmoid(&opposite)? - self.log_flipped())?)?;
        let losses = (kept + flipped)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?);
        with_margins(terms, &scaled, self.reduction, self.divergence)
    }

    fn validate(&self) -> Result<()> {
        let rate = self.label_smoothing;
        let expected = "a rate above 0, where the loss is infinite, and below 0.5; the paper has 0.001";
        check_beta::<Self>(self.beta)?;
        in_range::<Self>("label_smoothing", rate, rate > 0.0 && rate < 0.5, expected)?;
        check_reduction::<Self>(self.reduction)?;
        check_divergence::<Self>(self.divergence)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(-std::f64::consts::LN_2 - 0.5 * (self.log_kept() + self.log_flipped()))
    }
}

impl Exo {
    fn log_kept(&self) -> f64 {
        (-self.label_smoothing).ln_1p()
    }

    fn log_flipped(&self) -> f64 {
        self.label_smoothing.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("exo eps=1e-3", Exo::default());
    }

    #[test]
    fn labels_that_are_never_wrong_are_refused() {
        for rate in [0.0, 0.5, f64::NAN] {
            let error = Objective::validate(&Exo { label_smoothing: rate, ..Exo::default() }).unwrap_err().to_string();
            assert!(error.starts_with("exo.label_smoothing: got ") && error.contains("above 0"), "{error}");
        }
    }
}
