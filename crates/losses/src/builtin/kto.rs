//! `λ·(1 − σ(±β·(Δ − z₀)))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_not_negative};
use crate::error::{Error, Result};
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::sigmoid;
use crate::reduction::Reduction;
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::view::{AnchoredLabels, StepWide};

/// Kahneman–Tversky optimisation of single completions with a verdict.
///
/// # Formula
/// `λ_D·(1 − σ(β·(Δ − z₀)))` for desirable and `λ_U·(1 − σ(β·(z₀ − Δ)))` for undesirable completions, the mean over
/// rows, with `Δ = Σ_t (log π − log π_ref)` in nats. The reference point `z₀ = max(0, mean of Δ over mismatched
/// completions)` estimates how far the policy has moved; it is detached and reported as `kl`.
///
/// # Gradient
/// `∓λ·β·s·(1 − s)` for `Δ` with `s = σ(β·(Δ − z₀))`: largest where `Δ = z₀`, vanishing on both sides, so that hopeless
/// and settled completions are left alone.
///
/// # When to use
/// For thumbs up and thumbs down without pairs. Keep `λ_D·n_D / (λ_U·n_U)` in [1, 4/3].
///
/// # Source
/// Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8. Confidence A✓.
///
/// # Deviations
/// From the paper: none. From TRL and HALOs: the mean of `z₀` runs over all micro-batches of the optimizer step and all
/// ranks, each mismatched completion counting once, and is clamped afterwards. There it is made of one micro-batch: TRL
/// takes the mean of the ranks' means; HALOs counts every completion of all ranks once, but for those whose log-ratio
/// is exactly 0.
///
/// # Checked by
/// TRL: `kto`. Formulas: `kto`, `kto lambda_D=1 lambda_U=1.33`, `kto z0 clamped to 0`, `kto reference point`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Kto, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let kto = Kto { beta: 1.0, ..Kto::default() };
/// let context = Context::default().with_scalar("kl", 0.5);
/// let loss = kto.evaluate(&scores, &context)?.loss(&scores.totals())?;
/// // ½·(σ(−0.5) + σ(−2.5))
/// assert!((loss.to_scalar::<f64>()? - 0.226_699_424_409_694_5).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kto {
    /// Steepness of the value function, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `λ_D`, at least 0. Default 1.
    pub desirable_weight: f64,
    /// `λ_U`, at least 0. Default 1.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Named for Kto {
    const NAME: &'static str = "kto";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "Kahneman–Tversky optimisation: single completions, desirable or not";
}

impl Loss for Kto {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, context: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(Reduction::Sum)?;
        let drift = context.scalar(KL)?;
        // 1 − σ(u) = σ(−u), which keeps its precision where σ(u) is near 1.
        let worse = ((log_ratios - drift)? * input.by_label(-self.beta, self.beta)?)?;
        let losses = (sigmoid(&worse)? * input.by_label(self.desirable_weight, self.undesirable_weight)?)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(input.rewards(self.beta)?))
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("desirable_weight", self.desirable_weight)?;
        check_not_negative::<Self>("undesirable_weight", self.undesirable_weight)
    }

    fn prepare(&mut self, step: &StepScores<'_>, _: Phase) -> Result<Context> {
        reference_point::<Self>(step)
    }

    fn step_wide(&self) -> StepWide {
        StepWide::Mismatched
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // With unequal weights the value depends on how many rows of either kind there are.
        let equal = (self.desirable_weight - self.undesirable_weight).abs() <= 0.0;
        equal.then_some(0.5 * self.desirable_weight)
    }
}

/// The reference point `z₀ = max(0, mean of Δ over the mismatched completions of the step)` in nats, as the scalar [`KL`].
pub(super) fn reference_point<L: Named>(step: &StepScores<'_>) -> Result<Context> {
    let mut sum_and_count = [0.0, 0.0];
    for mismatched in step.micro.iter().filter_map(|micro| micro.mismatched.as_ref()) {
        mismatched.check()?;
        let log_ratios = (mismatched.policy.detach().sums()? - mismatched.reference.detach().sums()?)?;
        let log_ratios = host(&log_ratios)?;
        sum_and_count[0] += log_ratios.iter().sum::<f64>();
        sum_and_count[1] += log_ratios.len() as f64;
    }
    step.collective.sum(&mut sum_and_count)?;
    let [sum, count] = sum_and_count;
    if count == 0.0 {
        let what = "mismatched completions";
        return Err(Error::EmptyStep { loss: L::NAME.to_owned(), what, scalar: KL });
    }
    let mean = sum / count;
    // Not `max`: it would turn a NaN, which must be seen, into 0.
    Ok(Context::default().with_scalar(KL, if mean < 0.0 { 0.0 } else { mean }))
}

/// The reference point by name, in nats.
pub(super) const KL: &str = "kl";

#[cfg(test)]
mod tests {
    use candlewick_testkit::error;

    use super::super::vectors::{TOLERANCE, check, check_labelled, labelled, vectors};
    use super::*;
    use crate::{Scores, Solo};

    /// The recorded rows with the roles of policy and reference exchanged in the mismatched ones: the policy has
    /// fallen.
    fn fallen() -> (candle_core::Var, Scores) {
        let (log_probs, mut scores) = labelled();
        let mismatched = scores.mismatched.as_mut().unwrap();
        std::mem::swap(&mut mismatched.policy, &mut mismatched.reference);
        (log_probs, scores)
    }

    fn point_of(scores: Scores) -> f64 {
        let micro = [scores];
        let step = StepScores { micro: &micro, collective: &Solo };
        Loss::prepare(&mut Kto::default(), &step, Phase::Train).unwrap().scalar(KL).unwrap()
    }

    #[test]
    fn agrees_with_the_formulas() {
        check_labelled("kto", Kto::default());
        check_labelled("kto lambda_D=1 lambda_U=1.33", Kto { undesirable_weight: 1.33, ..Kto::default() });
        let (log_probs, scores) = fallen();
        check("kto z0 clamped to 0", Kto::default(), scores, &log_probs, &["grad"]);
    }

    #[test]
    fn the_reference_point_agrees_with_the_formulas() {
        for ((_, scores), key) in [(labelled(), "z0"), (fallen(), "z0_when_negative")] {
            let expected = vectors().number("kto reference point", key).unwrap();
            let got = point_of(scores);
            assert!(error(got, expected) < TOLERANCE, "{key}: {got} {expected}");
        }
    }
}
