//! `CE_b + ratio·max(0, mean_i(CE_b − CE_i + M·(s_b − s_i)/scale))`

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{Named, check_not_negative, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Ranked;

/// Stable alignment: imitates the best rated completion, and keeps the others less probable by a margin that grows with
/// the gap of their ratings.
///
/// # Formula
/// `CE_b + ratio·max(0, mean_{i ≠ b}[CE_b − CE_i + M·(s_b − s_i)/scale])`, the mean over prompts. `CE` is the mean of
/// `−log p` over the tokens of a completion in nats, `s` its rating, `b` the best rated completion (the first of
/// equals). With `aggregate = "max"` the hinge takes the largest of the gaps instead of their mean (the first of
/// equals).
///
/// # Gradient
/// With respect to `CE_b`: 1, and `1 + ratio` while the hinge is active, since `CE_b` inside it is not detached; with
/// respect to the other `CE_i`: `−ratio/(K − 1)` while it is active. 0 for the hinge at exactly 0.
///
/// # When to use
/// Three or more completions of a prompt with ratings on a common scale. Of mere rankings use
/// [`Rrhf`](crate::Rrhf), and with a reference [`PlackettLuce`](crate::PlackettLuce).
///
/// # Source
/// Liu et al. 2023, arXiv 2305.16960, and its release, whose constants are the defaults and whose loss was executed.
/// Confidence A✓.
///
/// # Deviations
/// From the release: it sorts the ratings and then takes them by their places before the sort, so that margins belong
/// to the wrong completions; here every margin is that of its own completion, as the paper has it. (The recorded
/// `stable alignment (as released, index slip)` is therefore not reproduced. Its gradient is the same while the hinge
/// is active.) The release admits one prompt a micro-batch; here there may be several. TRL has no such loss.
///
/// # Checked by
/// Formulas: `stable alignment (ratings matched)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Groups, Objective, RankedRows, Scores, StableAlignment, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-1.0]], &Device::Cpu)?)?;
/// let ranked = vec![RankedRows { rows: vec![0, 1], ratings: vec![1.0, 4.5] }];
/// let scores = Scores::new(policy, None, Groups { ranked, ..Groups::default() });
/// let loss = StableAlignment::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // The second is the best: 1 + 0.2·(1 − 2 + 10·3.5/7).
/// assert!((loss.to_scalar::<f64>()? - 1.8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StableAlignment {
    /// Weight of the hinge; at least 0. Default 0.2.
    pub ratio: f64,
    /// `M`, the margin in nats a token between ratings that are a whole scale apart; at least 0. Default 10.
    pub margin: f64,
    /// The scale of the ratings; positive. Default 7, for ratings from 1 to 7.
    pub scale: f64,
    /// What the hinge takes of the gaps. Default [`Aggregate::Mean`].
    pub aggregate: Aggregate,
}

/// What becomes of the gaps between the best completion and the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Their mean.
    #[default]
    Mean,
    /// The largest, the first of equals: `max_flow` of the release.
    Max,
}

impl Default for StableAlignment {
    fn default() -> Self {
        Self { ratio: 0.2, margin: 10.0, scale: 7.0, aggregate: Aggregate::Mean }
    }
}

impl Named for StableAlignment {
    const NAME: &'static str = "stable_alignment";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "stable alignment: imitates the best rated completion and keeps a rated margin to the others";
}

impl Loss for StableAlignment {
    type Input = Ranked;

    fn terms(&self, input: &Ranked, _: &Context) -> Result<LossTerms> {
        let (means, ratings) = (input.log_probs(Reduction::Mean)?, input.ratings()?);
        let best = means.best()?;
        // CE_b − CE_i = log p_i − log p_b.
        let differences = means.values.broadcast_sub(&best.unsqueeze(1)?)?;
        let by_rating = ratings.best()?.unsqueeze(1)?.broadcast_sub(&ratings.values)?;
        let gaps = (differences + (by_rating * (self.margin / self.scale))?)?;
        let gaps = (&gaps * self.aggregate.weights(&gaps.detach(), &means.mask)?)?.sum(1)?;
        let hinge = Term { weight: self.ratio, ..Term::per_item("hinge", positive_part(&gaps)?) };
        LossTerms::new([Term::per_item("nll", best.neg()?), hinge]).with_optimised_margins(&gaps.neg()?)
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("ratio", self.ratio)?;
        check_not_negative::<Self>("margin", self.margin)?;
        in_range::<Self>("scale", self.scale, self.scale.is_finite() && self.scale > 0.0, "a positive number")
    }
}

impl Aggregate {
    /// The weights of the gaps, `[G, K]`, best first; that of the best completion itself is 0. `mask` is 1 where there
    /// is a completion.
    fn weights(self, gaps: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let on_host = |values: &Tensor| values.to_dtype(DType::F64)?.to_vec2::<f64>();
        let mut weights = Vec::with_capacity(gaps.elem_count());
        for (gaps, mask) in on_host(gaps)?.into_iter().zip(on_host(mask)?) {
            let count = mask.iter().filter(|&&is| is > 0.5).count();
            let others = 1..count;
            match self {
                Self::Mean => {
                    let share = 1.0 / others.len().max(1) as f64;
                    weights.extend((0..gaps.len()).map(|place| if others.contains(&place) { share } else { 0.0 }));
                }
                Self::Max => {
                    let largest = others.reduce(|best, place| if gaps[place] > gaps[best] { place } else { best });
                    weights.extend((0..gaps.len()).map(|place| f64::from(u8::from(Some(place) == largest))));
                }
            }
        }
        Ok(Tensor::from_vec(weights, gaps.dims(), gaps.device())?.to_dtype(gaps.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::error;

    use super::super::vectors::{TOLERANCE, ranked, vectors};
    use super::*;
    use crate::{Objective, RankedRows};

    /// Cross-entropies and ratings of the recorded completions.
    const RECORDED: ([f64; 3], [f64; 3]) = ([1.40, 0.90, 1.10], [3.0, 7.0, 4.0]);

    fn value_and_slopes(loss: StableAlignment, log_probs: &[f64], ratings: &[f64]) -> (f64, Vec<f64>) {
        let (log_probs, scores) = ranked(log_probs, ratings);
        let value = loss.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let slopes = value.backward().unwrap().get(&log_probs).unwrap().flatten_all().unwrap();
        (value.to_scalar().unwrap(), slopes.to_vec1().unwrap())
    }

    #[test]
    fn agrees_with_the_formulas() {
        let name = "stable alignment (ratings matched)";
        let (value, slopes) = value_and_slopes(StableAlignment::default(), &RECORDED.0.map(|ce| -ce), &RECORDED.1);
        let vectors = vectors();
        assert!(error(value, vectors.number(name, "loss").unwrap()) < TOLERANCE, "{value}");
        // The recorded slopes are those with respect to the cross-entropies.
        for (slope, expected) in slopes.iter().zip(vectors.list(name, "grad").unwrap()) {
            assert!(error(-slope, expected) < TOLERANCE, "{slopes:?}");
        }
    }

    #[test]
    fn the_largest_gap_is_that_of_the_worst_rating() {
        let loss = StableAlignment { aggregate: Aggregate::Max, ..StableAlignment::default() };
        let (value, slopes) = value_and_slopes(loss, &RECORDED.0.map(|ce| -ce), &RECORDED.1);
        // 0.9 + 0.2·(0.9 − 1.4 + 10·4/7)
        assert!(error(value, 0.9 + 0.2 * (40.0 / 7.0 - 0.5)) < TOLERANCE, "{value}");
        assert_eq!(slopes, [0.2, -1.2, 0.0]);
    }

    #[test]
    fn the_hinge_is_flat_at_zero_and_equals_are_taken_once() {
        let flat = StableAlignment { margin: 0.0, ..StableAlignment::default() };
        assert_eq!(value_and_slopes(flat, &[-1.0, -1.0], &[2.0, 1.0]), (1.0, vec![-1.0, 0.0]));
        let largest = StableAlignment { aggregate: Aggregate::Max, ..StableAlignment::default() };
        let slopes = value_and_slopes(largest, &[-1.0, -2.0, -2.0], &[2.0, 1.0, 1.0]).1;
        assert_eq!(slopes, [-1.2, 0.2, 0.0]);
    }

    #[test]
    fn groups_of_different_sizes_stay_apart() {
        let loss = StableAlignment::default();
        let (log_probs, mut scores) = ranked(&[-1.4, -0.9, -1.1, -0.5, -0.25], &[0.0; 5]);
        scores.groups.ranked = vec![
            RankedRows { rows: vec![0, 1, 2], ratings: RECORDED.1.to_vec() },
            RankedRows { rows: vec![4, 3], ratings: vec![1.0, 2.0] },
        ];
        let terms = loss.evaluate(&scores, &Context::default()).unwrap();
        let together = terms.loss(&scores.totals()).unwrap();
        let alone = value_and_slopes(loss, &RECORDED.0.map(|ce| -ce), &RECORDED.1).0;
        let second = value_and_slopes(loss, &[-0.25, -0.5], &[1.0, 2.0]).0;
        assert!(error(together.to_scalar().unwrap(), f64::midpoint(alone, second)) < TOLERANCE);
        assert!(together.backward().unwrap().get(&log_probs).is_some());
    }

    #[test]
    fn extremes_are_finite() {
        for extreme in [1e4, -1e4] {
            let (value, slopes) =
                value_and_slopes(StableAlignment::default(), &[extreme, -extreme, 0.0], &[1.0, 2.0, 3.0]);
            assert!(value.is_finite() && slopes.iter().all(|slope| slope.is_finite()));
        }
    }
}
