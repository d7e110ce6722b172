//! `λ·(1 − σ(±β·(Δ + sign(Δ)·z₀)))`

use serde::{Deserialize, Serialize};

use super::kto::{KL, reference_point};
use super::{Named, check_beta, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::{log_sigmoid, sigmoid};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::{AnchoredLabels, StepWide};

/// KTO whose reference point has the sign of the log-ratio, so that drift damps the step: experimental, unverified.
///
/// # Formula
/// With `Δ = Σ_t (log π − log π_ref)` in nats, `S = sign(Δ)` (detached, `S(0) = 0`) and KTO's reference point `z₀ ≥ 0`,
/// the mean over rows of
/// - `symmetric`: `λ_D·(1 − σ(β·u))` for desirable and `λ_U·(1 − σ(−β·u))` for undesirable rows, with `u = Δ + S·z₀`;
/// - `third_party`: `−λ_D·log σ(β·(Δ + S·z₀))` and `−λ_U·log σ(β·(S·z₀ − Δ))`.
///
/// # Gradient
/// `symmetric`: `∓λ·β·σ(β·u)·σ(−β·u)`. As `|u|` grows with `z₀`, steps shrink once the policy has drifted, where KTO's
/// grow for `Δ > 0`. For `Δ < 0` it is KTO. The loss jumps where `Δ` changes sign, by `2·z₀` in `u`.
///
/// # When to use
/// To try whether a damped KTO is steadier on a long run. [`Kto`](crate::Kto) is the verified one.
///
/// # Source
/// Lim et al. 2025, arXiv 2502.12485, whose equation was not at hand. Confidence C: unverified. `symmetric` is the reading that
/// agrees with what the abstract claims; `third_party` is the one public implementation that was found, and brings back an
/// undesirable row with `Δ < 0` by the drift, which looks like a slip.
///
/// # Deviations
/// From the paper: unknown. From the public implementation: `z₀` is detached, clamped at 0 and a mean over the whole
/// optimizer step, as in [`Kto`](crate::Kto).
///
/// # Checked by
/// Formulas: `kto-s symmetric`, `kto-s third-party branch`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, KtoS, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_labelled(policy, Some(reference), &[true, false]);
/// let context = Context::default().with_scalar("kl", 0.5);
/// let loss = KtoS { beta: 1.0, ..KtoS::default() }.evaluate(&scores, &context)?.loss(&scores.totals())?;
/// // Δ = 1 and −2, so u = 1.5 and −2.5: ½·(σ(−1.5) + σ(−2.5))
/// assert!((loss.to_scalar::<f64>()? - 0.129_141_851_913_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KtoS {
    /// Steepness of the value function, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `λ_D`, at least 0. Default 1.
    pub desirable_weight: f64,
    /// `λ_U`, at least 0. Default 1.
    pub undesirable_weight: f64,
    /// Which reading of the paper. Default [`KtoSForm::Symmetric`].
    pub form: KtoSForm,
}

/// A reading of KTO-S.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoSForm {
    /// The same shift for both verdicts, in KTO's value function.
    #[default]
    Symmetric,
    /// That of the one public implementation: logistic, and with the shift of undesirable rows turned round.
    ThirdParty,
}

impl Default for KtoS {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0, form: KtoSForm::Symmetric }
    }
}

impl Named for KtoS {
    const NAME: &'static str = "kto_s";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "KTO with a reference point of the log-ratio's sign (experimental, unverified)";
}

impl Loss for KtoS {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, context: &Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(Reduction::Sum)?;
        let shifts = (log_ratios.detach().sign()? * context.scalar(KL)?)?;
        let signs = input.by_label(1.0, -1.0)?;
        let better = match self.form {
            KtoSForm::Symmetric => ((log_ratios + shifts)? * signs)?,
            KtoSForm::ThirdParty => ((log_ratios * signs)? + shifts)?,
        };
        let better = (better * self.beta)?;
        let losses = match self.form {
            // 1 − σ(u) = σ(−u), which keeps its precision where σ(u) is near 1.
            KtoSForm::Symmetric => sigmoid(&better.neg()?)?,
            KtoSForm::ThirdParty => log_sigmoid(&better)?.neg()?,
        };
        let losses = (losses * input.by_label(self.desirable_weight, self.undesirable_weight)?)?;
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
        let value = match self.form {
            KtoSForm::Symmetric => 0.5,
            KtoSForm::ThirdParty => std::f64::consts::LN_2,
        };
        equal.then_some(value * self.desirable_weight)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::super::vectors::check_labelled;
    use super::*;
    use crate::{Kto, Objective, Scores, TokenScores};

    #[test]
    fn agrees_with_the_formulas() {
        check_labelled("kto-s symmetric", KtoS::default());
        check_labelled("kto-s third-party branch", KtoS { form: KtoSForm::ThirdParty, ..KtoS::default() });
    }

    /// Loss and slope of one row with that log-ratio where the policy has drifted by half a nat.
    fn at(loss: &dyn Objective, log_ratio: f64, desirable: bool) -> (f64, f64) {
        let rows = Var::new(&[[log_ratio]], &Device::Cpu).unwrap();
        let reference = TokenScores::unmasked(Tensor::new(&[[0.0f64]], &Device::Cpu).unwrap()).unwrap();
        let policy = TokenScores::unmasked(rows.as_tensor().clone()).unwrap();
        let scores = Scores::of_labelled(policy, Some(reference), &[desirable]);
        let context = Context::default().with_scalar(KL, 0.5);
        let value = loss.evaluate(&scores, &context).unwrap().loss(&scores.totals()).unwrap();
        let slope = value.backward().unwrap().get(&rows).unwrap().to_vec2::<f64>().unwrap()[0][0];
        (value.to_scalar().unwrap(), slope)
    }

    #[test]
    fn it_is_kto_below_the_reference_and_damped_above() {
        let (damped, kto) = (KtoS { beta: 1.0, ..KtoS::default() }, Kto { beta: 1.0, ..Kto::default() });
        assert_eq!(at(&damped, -2.0, false), at(&kto, -2.0, false));
        assert!(at(&damped, 2.0, true).1.abs() < at(&kto, 2.0, true).1.abs());
    }

    #[test]
    fn at_the_reference_there_is_no_shift() {
        let (loss, slope) = at(&KtoS::default(), 0.0, true);
        assert!((loss - 0.5).abs() < 1e-15 && (slope + 0.1 * 0.25).abs() < 1e-15, "{loss} {slope}");
    }
}
