//! `(1 − s(u))·NLL + s(u)·mean_v(−log p_v)`

use serde::{Deserialize, Serialize};

use super::{Named, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::numbers::{Uncertainty, With};
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::DemonstrationMeans;

/// Uncertainty-aware learning: supervised fine-tuning with a label smoothing of its own for every demonstration.
///
/// # Formula
/// `[(1 − s)·Σ_t −log p_t + s·Σ_t mean_v(−log p_tv)] / Σ tokens` in nats, summed over demonstrations; the tokens are
/// those of the whole step. `s = low + (high − low)·u`, where `u` in [0, 1] is the demonstration's `uncertainty`.
/// The smoothed target puts `1 − s` on the token of the data and spreads `s` evenly over the whole vocabulary, that
/// token included.
///
/// # Gradient
/// With respect to the logits `softmax − (1 − s)·onehot − s/V` a token: every logit is pulled up a little, so that
/// the optimum is not a one-hot distribution but keeps entropy where the data is uncertain.
///
/// # When to use
/// Imitation of data whose answers are not all equally settled, with an estimate of that for every sample, for
/// example a stronger model's. Without such a number use [`Sft`](crate::Sft).
///
/// # Source
/// Wang et al. 2024, arXiv 2406.04854. Not verified: the ends of the range of `s` (the paper's could not be recovered;
/// the defaults here are the range from no smoothing to the customary 0.1), and whether the paper's smoothing mass
/// includes the target. Confidence C.
///
/// # Deviations
/// From the paper: see what is not verified. TRL has no such loss.
///
/// # Checked by
/// Formulas: `ual smoothed ce s=0.0`, `ual smoothed ce s=0.1`, `ual smoothed ce s=0.3`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, TokenScores, Ual};
/// let log_probs = Tensor::new(&[[-1.0f64, -2.0]], &Device::Cpu)?;
/// let means = Tensor::new(&[[-4.0f64, -6.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_demonstrations(TokenScores::unmasked(log_probs)?.with_mean_log_probs(means)?);
/// scores.groups.numbers.insert("uncertainty".to_owned(), vec![0.5]);
/// let ual = Ual { low: 0.0, high: 0.2 };
/// let loss = ual.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // s = 0.1: (0.9·3 + 0.1·10) over 2 tokens.
/// assert!((loss.to_scalar::<f64>()? - 1.85).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ual {
    /// Smoothing of a demonstration of uncertainty 0, in [0, 1]. Default 0, unverified.
    pub low: f64,
    /// Smoothing of a demonstration of uncertainty 1, in [0, 1]. Default 0.1, unverified.
    pub high: f64,
}

impl Default for Ual {
    fn default() -> Self {
        Self { low: 0.0, high: 0.1 }
    }
}

impl Named for Ual {
    const NAME: &'static str = "ual";
    const ALIASES: &'static [&'static str] = &["uncertainty_aware"];
    const SUMMARY: &'static str =
        "uncertainty-aware learning: supervised fine-tuning, smoothed by each sample's uncertainty";
}

impl Loss for Ual {
    type Input = With<DemonstrationMeans, Uncertainty>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let smoothing = ((input.number() * (self.high - self.low))? + self.low)?;
        let imitated = (input.sums()? * (1.0 - &smoothing)?)?;
        let spread = (input.sums_of_means()? * &smoothing)?;
        let term = Term {
            name: Self::NAME,
            numerator: (imitated + spread)?.neg()?,
            normaliser: Normaliser::DemonstrationTokens,
            weight: 1.0,
        };
        Ok(LossTerms::new([term]).with_metric("label_smoothing", &smoothing))
    }

    fn validate(&self) -> Result<()> {
        for (parameter, got) in [("low", self.low), ("high", self.high)] {
            in_range::<Self>(parameter, got, (0.0..=1.0).contains(&got), "a share in [0, 1]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::vectors::{check_logits, student};
    use super::*;
    use crate::{Error, Objective, Scores, TokenScores};

    #[test]
    fn agrees_with_the_formulas() {
        for (name, smoothing) in
            [("ual smoothed ce s=0.0", 0.0), ("ual smoothed ce s=0.1", 0.1), ("ual smoothed ce s=0.3", 0.3)]
        {
            // The smoothing as a constant, and as the uncertainty itself.
            for (ual, uncertainty) in
                [(Ual { low: smoothing, high: smoothing }, 0.7), (Ual { low: 0.0, high: 1.0 }, smoothing)]
            {
                let (logits, policy) = student();
                let mut scores = Scores::of_demonstrations(policy);
                scores.groups.numbers.insert("uncertainty".to_owned(), vec![uncertainty]);
                let loss = ual.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
                check_logits(name, &loss, &logits);
            }
        }
    }

    #[test]
    fn every_demonstration_has_its_own_smoothing() {
        let log_probs = Tensor::new(&[[-1.0f64], [-1.0]], &Device::Cpu).unwrap();
        let means = Tensor::new(&[[-1e4f64], [-1e4]], &Device::Cpu).unwrap();
        let policy = TokenScores::unmasked(log_probs).unwrap();
        let with_means = policy.clone().with_mean_log_probs(means).unwrap();
        let mut scores = Scores::of_demonstrations(with_means);
        scores.groups.numbers.insert("uncertainty".to_owned(), vec![1.0, 0.0]);
        let terms = Ual::default().evaluate(&scores, &Context::default()).unwrap();
        assert_eq!(terms.terms[0].numerator.to_vec1::<f64>().unwrap(), [1000.9, 1.0]);
        scores.policy = policy;
        let error = Ual::default().evaluate(&scores, &Context::default()).unwrap_err();
        assert!(matches!(error, Error::MissingOutput { .. }), "{error}");
    }
}
