//! `α·(−ℓ_w) + (1 − α)·(z − 1/(2β*))²`

use serde::{Deserialize, Serialize};

use super::{Named, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// `BoNBoN`: imitates best-of-n sampling, from the best and the worst of `n` samples.
///
/// # Formula
/// `α·(−log π(y_w)) + (1 − α)·(z − 1/(2β*))²` with `z = Δ_w − Δ_l` of sums in nats and
/// `β* = 1/(2·(n−1)·H_{n−1})`, `H` the harmonic number. The mean over pairs. `1/(2β*)` is the margin that the policy of
/// best-of-n has in expectation: `(n−1)·H_{n−1}`, 18.15 nats for `n = 8`. As `form = "logistic"` the second factor is
/// `−log σ(β*·z)`.
///
/// # Gradient
/// `−α + 2(1−α)·(z − 1/(2β*))` for `log π(y_w)` and `−2(1−α)·(z − 1/(2β*))` for `log π(y_l)`: about 36 a pair at the
/// start for `n = 8`, so clip it. The logistic form's is bounded by `α + (1−α)·β*`.
///
/// # When to use
/// `n` samples of the reference for each prompt, scored by a reward model: the chosen completion is the best of them
/// and the rejected one the worst. `n` must be the number of samples.
///
/// # Source
/// Gui et al. 2024, arXiv 2406.00832. The target of the margin was read in the paper's text; both forms agree with the
/// released function. Confidence A✓.
///
/// # Deviations
/// From the released code: its published command never switches to the squared form and trains the logistic one, which
/// `form = "logistic"` gives. No length division, as in both. TRL has no such loss.
///
/// # Checked by
/// Formulas: `bonbon n=8 alpha=0.005`, `bonbon as released (logistic)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Bonbon, Context, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let bonbon = Bonbon { n: 3, alpha: 0.5, ..Bonbon::default() };
/// let loss = bonbon.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // The target is 2·(1 + ½) = 3 and z = 2: ½·1 + ½·(2 − 3)².
/// assert!((loss.to_scalar::<f64>()? - 1.0).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bonbon {
    /// How many samples the chosen completion is the best of, and the rejected one the worst; from 2 to 65536. Default
    /// 8.
    pub n: u32,
    /// `α`, the share of the imitation of the best sample, in [0, 1]. Default 0.005.
    pub alpha: f64,
    /// The loss on the margin. Default [`BonbonForm::Squared`].
    pub form: BonbonForm,
}

/// The loss that [`Bonbon`] takes on the margin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BonbonForm {
    /// `(z − 1/(2β*))²`, that of the paper.
    #[default]
    Squared,
    /// `−log σ(β*·z)`, that of the released command.
    Logistic,
}

impl Default for Bonbon {
    fn default() -> Self {
        Self { n: 8, alpha: 0.005, form: BonbonForm::Squared }
    }
}

impl Named for Bonbon {
    const NAME: &'static str = "bonbon";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "imitation of best-of-n sampling from the best and the worst sample";
}

impl Loss for Bonbon {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        let beta = self.beta();
        let losses = match self.form {
            BonbonForm::Squared => (margins - 1.0 / (2.0 * beta))?.sqr()?,
            BonbonForm::Logistic => log_sigmoid(&(margins * beta)?)?.neg()?,
        };
        let nll = input.policy().log_probs(Reduction::Sum)?.chosen.neg()?;
        let imitation = Term { weight: self.alpha, ..Term::per_item("nll", nll) };
        let contrast = Term { weight: 1.0 - self.alpha, ..Term::per_item(Self::NAME, losses) };
        Ok(LossTerms::new([imitation, contrast]).with_rewards(input.rewards(beta)?))
    }

    fn validate(&self) -> Result<()> {
        let is_count = (2..=65_536).contains(&self.n);
        in_range::<Self>("n", f64::from(self.n), is_count, "a number of samples from 2 to 65536")?;
        in_range::<Self>("alpha", self.alpha, (0.0..=1.0).contains(&self.alpha), "a share in [0, 1]")
    }
}

impl Bonbon {
    /// `β* = 1/(2·(n−1)·H_{n−1})`, the divergence weight under which best-of-n is optimal.
    fn beta(&self) -> f64 {
        let harmonic: f64 = (1..self.n).map(|i| 1.0 / f64::from(i)).sum();
        1.0 / (2.0 * (f64::from(self.n) - 1.0) * harmonic)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("bonbon n=8 alpha=0.005", Bonbon::default());
        check_pairs("bonbon as released (logistic)", Bonbon { form: BonbonForm::Logistic, ..Bonbon::default() });
    }

    #[test]
    fn one_sample_has_no_worst() {
        assert!((Bonbon::default().beta() - 0.027_548_209_4).abs() < 5e-11);
        for n in [0, 1, 65_537] {
            let error = Loss::validate(&Bonbon { n, ..Bonbon::default() }).unwrap_err().to_string();
            assert_eq!(error, format!("bonbon.n: got {n}, expected a number of samples from 2 to 65536"));
        }
    }
}
