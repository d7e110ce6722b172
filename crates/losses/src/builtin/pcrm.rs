//! `−log σ(r_w − r_l) − log σ(δ − (r_w − r_l))`

use serde::{Deserialize, Serialize};

use super::bradley_terry::of_sides;
use super::{Named, check_not_negative, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Similarity, With};
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedPair;

/// A prior-constrained reward model: a band for the difference of rewards, narrower the more alike both sides are.
///
/// # Formula
/// `−log σ(r_w − r_l) − log σ(δ − (r_w − r_l))` with `δ = β₁/(s + β₂) + β₃` and the pair's `similarity` as `s`, the mean over
/// pairs; `r` is what one head of a score model says of a completion at its last token.
///
/// # Gradient
/// `σ(r_w − r_l − δ) − σ(r_l − r_w)` for `r_w` and the opposite for `r_l`. It is zero where the difference is `δ/2`, and larger
/// differences are pushed back: a band and not a margin. Nothing flows into `δ`.
///
/// # When to use
/// Rewards that a policy is trained with afterwards, where the scale of a reward model must not run away on easy pairs.
///
/// # Source
/// Zhou et al. 2024 (Prior Constraints-based Reward Model Training), arXiv 2404.00978, as the authors' code, at the last token. Confidence A.
///
/// # Deviations
/// The authors sum over positions from the first different token on; here the last token alone is scored. `s` comes from
/// the data: the authors take the ratio of the lengths of the parts that differ, or a cosine of embeddings of both sides.
/// TRL has no such loss.
///
/// # Checked by
/// Formulas: `pcrm`, `pcrm stationary gap is half the target`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Pcrm, Scores, TokenScores};
/// let values = Tensor::new(&[[1.0f64], [0.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// scores.groups.numbers.insert("similarity".to_owned(), vec![2.5]);
/// let pcrm = Pcrm { scale: 6.0, offset: 0.5, ..Pcrm::default() };
/// let loss = pcrm.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // δ = 6/3 = 2: both terms are log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 2.0 * 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pcrm {
    /// `β₁`, at least 0. Default 6.
    pub scale: f64,
    /// `β₂`, positive. Default 0.001.
    pub offset: f64,
    /// `β₃`, at least 0; with `scale = 0` the width of every band. Default 0.
    pub shift: f64,
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

impl Default for Pcrm {
    fn default() -> Self {
        Self { scale: 6.0, offset: 1e-3, shift: 0.0, head: 0 }
    }
}

impl Named for Pcrm {
    const NAME: &'static str = "pcrm";
    const ALIASES: &'static [&'static str] = &["prior_constrained_reward"];
    const SUMMARY: &'static str = "a reward model of pairs that keeps differences in a band, by their `similarity`";
}

impl Loss for Pcrm {
    type Input = With<ValuedPair, Similarity>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let rewards = input.of_head(self.head)?;
        let gaps = rewards.margins()?;
        let widths = ((input.number() + self.offset)?.recip()? * self.scale)?.affine(1.0, self.shift)?;
        let losses = (log_sigmoid(&gaps)? + log_sigmoid(&(&widths - &gaps)?)?)?.neg()?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(of_sides(&rewards));
        Ok(terms.with_metric("bands", &widths))
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("scale", self.scale)?;
        let positive = self.offset.is_finite() && self.offset > 0.0;
        in_range::<Self>("offset", self.offset, positive, "a positive number")?;
        check_not_negative::<Self>("shift", self.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_values, of_values, vectors};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        check_values("pcrm", Pcrm::default(), &[("similarity", vec![0.8, 1.5, 0.5, 2.0])]);
    }

    #[test]
    fn the_gradient_is_zero_at_half_the_band() {
        let gaps = vectors().list("pcrm stationary gap is half the target", "gap_at_minimum").unwrap();
        let (values, mut scores) = of_values(&gaps, &[0.0; 4]);
        scores.groups.numbers.insert("similarity".to_owned(), vec![0.8, 1.5, 0.5, 2.0]);
        let terms = Pcrm::default().evaluate(&scores, &Context::default()).unwrap();
        let slopes = terms.loss(&scores.totals()).unwrap().backward().unwrap();
        let slopes = slopes.get(&values).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!(slopes.iter().all(|slope| slope.abs() < 1e-12), "{slopes:?}");
    }
}
