//! `Σ max(0, p_worse − p_better) − w·p_best`

use serde::{Deserialize, Serialize};

use super::{Named, Preset, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Ranked;

/// Rank responses: a hinge on the order of length-averaged log-probabilities, and imitation of the best completion.
///
/// # Formula
/// `Σ_{i worse than j} max(0, p_i − p_j) − w·p_b`, the mean over prompts. `p` is the mean of `log π` over the tokens of
/// a completion in nats, `b` the best rated completion (the first of equals). Equal ratings compare nothing.
///
/// # Gradient
/// With respect to `p`: for every pair in the wrong order 1 for the worse completion and −1 for the better one, nothing
/// for a pair in the right order or at exactly the same `p`: the hinge has no margin. `−w` for the best one.
///
/// # When to use
/// Rankings of completions without a reference, of any source. With a reference, [`PlackettLuce`](crate::PlackettLuce);
/// where ratings have a scale, [`StableAlignment`](crate::StableAlignment).
///
/// # Source
/// Yuan et al. 2023, arXiv 2304.05302 (RRHF); CycleAlign (Hong et al. 2023, arXiv 2310.16271), whose rankings come from
/// agreement with a black-box model, is taken to train with the same loss. Not verified: neither text was at hand;
/// that CycleAlign has this form is an assumption. Confidence D.
///
/// # Deviations
/// From RRHF: imitation is the mean over the tokens of the best completion, where its equation is said to have their
/// sum; the weight `w` is not in it (1 is its value). TRL has no such loss.
///
/// # Checked by
/// Formulas: `rrhf (rank + sft, CycleAlign)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Groups, Objective, RankedRows, Rrhf, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -3.0], [-1.0, -2.0]], &Device::Cpu)?)?;
/// let ranked = vec![RankedRows { rows: vec![0, 1], ratings: vec![5.0, 1.0] }];
/// let scores = Scores::new(policy, None, Groups { ranked, ..Groups::default() });
/// let loss = Rrhf::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // The worse one is more probable by half a nat a token, and the best one costs 2.
/// assert_eq!(loss.to_scalar::<f64>()?, 2.5);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rrhf {
    /// `w`, weight of the imitation of the best completion; at least 0. Default 1.
    pub nll_weight: f64,
}

impl Default for Rrhf {
    fn default() -> Self {
        Self { nll_weight: 1.0 }
    }
}

impl Named for Rrhf {
    const NAME: &'static str = "rrhf";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "rank responses: a hinge on the order of mean log-probabilities, and imitation of the best";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "cyclealign",
        aliases: &["cycle_align"],
        summary: "the loss that CycleAlign is taken to use on the rankings that two models agree on",
        settings: "{}",
    }];
}

impl Loss for Rrhf {
    type Input = Ranked;

    fn terms(&self, input: &Ranked, _: &Context) -> Result<LossTerms> {
        let means = input.log_probs(Reduction::Mean)?;
        let comparisons = input.comparisons(&means.values)?;
        let wrong = (positive_part(&comparisons.gaps.neg()?)? * &comparisons.better)?;
        let imitation = Term { weight: self.nll_weight, ..Term::per_item("nll", means.best()?.neg()?) };
        let rank = Term::per_item("rank", wrong.sum((1, 2))?);
        LossTerms::new([rank, imitation]).with_optimised_margins(&comparisons.margins()?)
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("nll_weight", self.nll_weight)
    }
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::worst;

    use super::super::vectors::{check, ranked, vectors};
    use super::*;
    use crate::Objective;

    fn slopes(log_probs: &[f64], ratings: &[f64]) -> Vec<f64> {
        let (log_probs, scores) = ranked(log_probs, ratings);
        let loss = Rrhf::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let slopes = loss.backward().unwrap().get(&log_probs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(loss.to_scalar::<f64>().unwrap().is_finite());
        slopes
    }

    #[test]
    fn agrees_with_the_formulas() {
        let rows = vectors().rows("policy_chosen_tokens").unwrap();
        let means: Vec<f64> = rows.iter().map(|row| row.iter().sum::<f64>() / row.len() as f64).collect();
        // The recorded ranks are 2, 0, 3, 1, with 0 for the best.
        let (log_probs, scores) = ranked(&means, &[1.0, 3.0, 0.0, 2.0]);
        check("rrhf (rank + sft, CycleAlign)", Rrhf::default(), scores, &log_probs, &["grad"]);
    }

    #[test]
    fn equal_ratings_compare_nothing_and_the_hinge_is_flat_at_zero() {
        assert_eq!(slopes(&[-2.0, -1.0, -1.5], &[1.0, 1.0, 1.0]), [-1.0, 0.0, 0.0]);
        assert_eq!(slopes(&[-1.0, -1.0], &[1.0, 0.0]), [-1.0, 0.0]);
        assert_eq!(slopes(&[-1e4, 1e4], &[1.0, 0.0]), [-2.0, 1.0]);
    }

    #[test]
    fn margins_are_those_of_better_completions_to_worse_ones() {
        let (_, scores) = ranked(&[-2.0, -1.0, -1.5], &[3.0, 1.0, 1.0]);
        let terms = Rrhf::default().evaluate(&scores, &Context::default()).unwrap();
        let margins = terms.metrics[0].values.to_vec1::<f64>().unwrap();
        assert!(worst(&margins, &[-1.0, -0.5]) < 1e-15, "{margins:?}");
    }
}
