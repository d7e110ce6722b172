//! `Σ_k |P_k − Q_k|` of cumulative distributions over satisfaction

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::{Named, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::masked_log_sum_exp;
use crate::numbers::{Number, Numbers};
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedDemonstrations;

/// A distributional reward model: how satisfied a crowd is, as a distribution over six categories from worst to best.
///
/// # Formula
/// `Σ_{k=1}^{5} |P_k − Q_k|`, the mean over rows: the cost of carrying one histogram into the other where neighbours are one
/// apart. `P` is the cumulative softmax of six heads of a score model at the last token. `Q` is that of the target: a prior
/// `Beta(a, b)` on [0, 1], to which every vote for category `j` adds `(j − 1)/5` to `a` and the rest of 1 to `b`, cut into six equal parts and
/// smoothed, `(1 − ε)·q + ε/6`. The votes are the numbers `votes_1`, the worst, to `votes_6`.
///
/// # Gradient
/// `Σ_k sign(P_k − Q_k)·∂P_k`: of constant size as the distributions come closer, so let the rate decay.
///
/// # When to use
/// Several people's verdicts on each completion, where the mean of a reward model would hide that they differ.
///
/// # Source
/// Li et al. 2024 (Distributional Preference Reward Modeling), arXiv 2402.09764. Confidence C: the prior and the rate of
/// smoothing that the authors use are not verified, nor how a vote moves the prior.
///
/// # Deviations
/// See the source. TRL has no such loss.
///
/// # Checked by
/// Properties only, because nobody recorded values of it; its own tests are worked by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Dprm, Objective, Scores, TokenScores};
/// let values = Tensor::zeros((1, 6), candle_core::DType::F64, &Device::Cpu)?;
/// let mut scores = Scores::of_demonstrations(TokenScores::of_values(values)?);
/// for k in 1..=6 {
///     scores.groups.numbers.insert(format!("votes_{k}"), vec![0.0]);
/// }
/// // Without votes the uniform prior is the target, and so are six equal logits.
/// let loss = Dprm::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!(loss.to_scalar::<f64>()? < 1e-12);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dprm {
    /// `a` of the prior, at least 1. Default 1.
    pub prior_a: f64,
    /// `b` of the prior, at least 1. Default 1.
    pub prior_b: f64,
    /// `ε`, the rate of smoothing, in [0, 1). Default 0.
    pub label_smoothing: f64,
    /// The first of the six heads, counted from 0. Default 0.
    pub head: usize,
}

const CATEGORIES: usize = 6;
const VOTES: [&str; CATEGORIES] = ["votes_1", "votes_2", "votes_3", "votes_4", "votes_5", "votes_6"];

impl Default for Dprm {
    fn default() -> Self {
        Self { prior_a: 1.0, prior_b: 1.0, label_smoothing: 0.0, head: 0 }
    }
}

impl Named for Dprm {
    const NAME: &'static str = "dprm";
    const ALIASES: &'static [&'static str] = &["distributional_reward"];
    const SUMMARY: &'static str = "a reward model of votes over six categories: the distance of two distributions";
}

impl Loss for Dprm {
    type Input = ValuedDemonstrations;

    fn terms(&self, input: &ValuedDemonstrations, _: &Context) -> Result<LossTerms> {
        let logits = input.of_heads(self.head, CATEGORIES)?;
        let everywhere = logits.ones_like()?;
        let log_total = masked_log_sum_exp(&logits, &everywhere)?.unsqueeze(1)?;
        let probabilities = logits.broadcast_sub(&log_total)?.exp()?;
        let votes: Vec<Vec<f64>> = VOTES.iter().map(|name| host(&input.number(name)?)).collect::<Result<_>>()?;
        let targets = (0..logits.dims()[0]).flat_map(|row| self.target(std::array::from_fn(|k| votes[k][row])));
        let targets = Tensor::from_iter(targets, logits.device())?.to_dtype(logits.dtype())?.reshape(logits.dims())?;
        let mut losses = probabilities.zeros_like()?.sum(1)?;
        for k in 1..CATEGORIES {
            let gap = (probabilities.narrow(1, 0, k)?.sum(1)? - targets.narrow(1, 0, k)?.sum(1)?)?;
            losses = (losses + gap.abs()?)?;
        }
        let ranks = Tensor::from_iter((1..=CATEGORIES).map(|k| k as f64), logits.device())?.to_dtype(logits.dtype())?;
        let satisfaction = probabilities.detach().broadcast_mul(&ranks)?.sum(D::Minus1)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_metric("satisfaction", &satisfaction))
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(CATEGORIES)
    }

    fn numbers(&self) -> Numbers {
        Numbers::of_all(&VOTES.map(|name| Number {
            name,
            low: 0.0,
            high: 1e9,
            whole: false,
            meaning: "how many people voted for that category",
        }))
    }

    fn validate(&self) -> Result<()> {
        let prior = |value: f64| value.is_finite() && value >= 1.0;
        in_range::<Self>("prior_a", self.prior_a, prior(self.prior_a), "a number of at least 1")?;
        in_range::<Self>("prior_b", self.prior_b, prior(self.prior_b), "a number of at least 1")?;
        let rate = self.label_smoothing;
        in_range::<Self>("label_smoothing", rate, (0.0..1.0).contains(&rate), "a rate in [0, 1)")
    }
}

impl Dprm {
    /// The target of a row's votes, worst category first.
    fn target(&self, votes: [f64; CATEGORIES]) -> [f64; CATEGORIES] {
        let top = (CATEGORIES - 1) as f64;
        let up: f64 = votes.iter().enumerate().map(|(j, count)| count * j as f64 / top).sum();
        let total: f64 = votes.iter().sum();
        let masses = masses(self.prior_a + up, self.prior_b + total - up);
        masses.map(|mass| (1.0 - self.label_smoothing) * mass + self.label_smoothing / CATEGORIES as f64)
    }
}

/// What a beta distribution with `a, b ≥ 1` has in each of six equal parts of [0, 1], by Simpson's rule.
fn masses(a: f64, b: f64) -> [f64; CATEGORIES] {
    const STEPS: usize = 512;
    let power = |base: f64, exponent: f64| if exponent > 0.0 { exponent * base.ln() } else { 0.0 };
    let log_density = |x: f64| power(x, a - 1.0) + power(1.0 - x, b - 1.0);
    let mode = if a + b > 2.0 { (a - 1.0) / (a + b - 2.0) } else { 0.5 };
    let highest = log_density(mode);
    let width = 1.0 / (CATEGORIES * STEPS) as f64;
    let at = |i: usize| (log_density((i as f64 * width).min(1.0)) - highest).exp();
    let part = |k: usize| {
        let first = k * STEPS;
        (0..STEPS / 2).map(|i| at(first + 2 * i) + 4.0 * at(first + 2 * i + 1) + at(first + 2 * i + 2)).sum::<f64>()
    };
    let parts: [f64; CATEGORIES] = std::array::from_fn(part);
    let total: f64 = parts.iter().sum();
    parts.map(|part| part / total)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Objective, Scores, TokenScores};

    #[test]
    fn the_parts_of_a_beta_distribution() {
        // Beta(2, 1) has the distribution function x², Beta(3, 2) has 4x³ − 3x⁴.
        type Law = fn(f64) -> f64;
        let laws: [(f64, f64, Law); 2] = [(2.0, 1.0, |x| x * x), (3.0, 2.0, |x| 4.0 * x.powi(3) - 3.0 * x.powi(4))];
        for (a, b, law) in laws {
            for (k, mass) in masses(a, b).into_iter().enumerate() {
                let expected = law((k + 1) as f64 / 6.0) - law(k as f64 / 6.0);
                assert!((mass - expected).abs() < 1e-9, "Beta({a}, {b}), part {k}: {mass} {expected}");
            }
        }
        assert!(masses(1e5, 1e5).iter().all(|mass| mass.is_finite()));
    }

    #[test]
    fn the_distance_is_that_of_cumulative_distributions() {
        let values = Tensor::new(&[[2f64.ln(), 0.0, 0.0, 0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let mut scores = Scores::of_demonstrations(TokenScores::of_values(values).unwrap());
        for name in VOTES {
            scores.groups.numbers.insert(name.to_owned(), vec![0.0]);
        }
        let loss = |dprm: Dprm| {
            let terms = dprm.evaluate(&scores, &Context::default()).unwrap();
            terms.loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap()
        };
        // 2/7 and five times 1/7 beside six times 1/6: gaps of (6 − k)/42 for k = 1 … 5.
        assert!((loss(Dprm::default()) - 15.0 / 42.0).abs() < 1e-12);
        // One vote for the best category makes Beta(2, 1) of the uniform prior.
        scores.groups.numbers.insert("votes_6".to_owned(), vec![1.0]);
        let expected: f64 = (1..6).map(|k| (f64::from(k) + 1.0) / 7.0 - (f64::from(k) / 6.0).powi(2)).sum();
        let got = Dprm::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        assert!((got.to_scalar::<f64>().unwrap() - expected).abs() < 1e-9);
    }
}
