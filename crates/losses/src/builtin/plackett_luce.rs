//! `−Σ_k [β·Δ_k − log Σ_{j ≥ k} e^{β·Δ_j}]`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::masked_log_sum_exp;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredRanked;

/// Listwise DPO: the Plackett–Luce likelihood of a whole ranking of completions. Of two completions it is
/// [`Dpo`](crate::Dpo).
///
/// # Formula
/// `−Σ_k [r_k − log Σ_{j ∈ R_k} e^{r_j}]` with `r = β·Δ`, `Δ = Σ_t (log π − log π_ref)` in nats, the mean over prompts.
/// `R_k` holds completion `k` and those that are rated strictly lower: the choice of `k` from what is left of the
/// ranking. Without equal ratings these are the completions from place `k` on. Equals are not compared with each other:
/// each of them is chosen from itself and what is below them all.
///
/// # Gradient
/// With respect to `log π` of completion `i`: `β·(Σ_{k: i ∈ R_k} q_k(i) − 1)`, where `q_k` is the softmax of `r` over
/// `R_k`. The slopes of a group add up to 0.
///
/// # When to use
/// Rankings of three or more completions of a prompt, with a reference. Where ratings have a meaning beyond their
/// order, that meaning is not used: see [`StableAlignment`](crate::StableAlignment).
///
/// # Source
/// Rafailov et al. 2023, arXiv 2305.18290, appendix A.3. Confidence B.
///
/// # Deviations
/// From the paper: it has no equal ratings; see the formula for theirs. TRL has no such loss.
///
/// # Checked by
/// Properties only, because no value of it is recorded; beside the properties of all losses, its tests compare two
/// completions with DPO and three with the probabilities of all rankings.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Groups, Objective, PlackettLuce, RankedRows, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-1.0], [-1.0]], &Device::Cpu)?)?;
/// let ranked = vec![RankedRows { rows: vec![0, 1, 2], ratings: vec![1.0, 3.0, 2.0] }];
/// let scores = Scores::new(policy.clone(), Some(policy), Groups { ranked, ..Groups::default() });
/// let loss = PlackettLuce::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // All 3! rankings are equally likely.
/// assert!((loss.to_scalar::<f64>()? - 6f64.ln()).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlackettLuce {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for PlackettLuce {
    fn default() -> Self {
        Self { beta: 0.1, reduction: Reduction::Sum }
    }
}

impl Named for PlackettLuce {
    const NAME: &'static str = "plackett_luce";
    const ALIASES: &'static [&'static str] = &["listwise_dpo", "dpo_pl"];
    const SUMMARY: &'static str = "listwise DPO: the Plackett–Luce likelihood of a ranking of completions";
}

impl Loss for PlackettLuce {
    type Input = AnchoredRanked;

    fn terms(&self, input: &AnchoredRanked, _: &Context) -> Result<LossTerms> {
        let rewards = (input.log_ratios(self.reduction)?.values * self.beta)?;
        let comparisons = input.policy().comparisons(&rewards)?;
        let (groups, width) = rewards.dims2()?;
        let itself = Tensor::eye(width, rewards.dtype(), rewards.device())?.unsqueeze(0)?;
        // The risk set of every place; that of a place without a completion is the place alone, which adds 0.
        let left = comparisons.better.broadcast_add(&itself)?;
        let candidates = rewards.unsqueeze(1)?.broadcast_as((groups, width, width))?.contiguous()?;
        let losses = (masked_log_sum_exp(&candidates, &left)? - &rewards)?.sum(1)?;
        LossTerms::new([Term::per_item(Self::NAME, losses)]).with_optimised_margins(&comparisons.margins()?)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_reduction::<Self>(self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candlewick_testkit::{error, worst};

    use super::super::vectors::{TOLERANCE, pairs, ranked};
    use super::*;
    use crate::{Dpo, Groups, Objective, RankedRows, Scores};

    fn value_and_slopes(loss: &dyn Objective, log_probs: &Var, scores: &Scores) -> (f64, Vec<f64>) {
        let value = loss.evaluate(scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        let slopes = value.backward().unwrap().get(log_probs).unwrap().to_dtype(DType::F64).unwrap();
        let slopes = slopes.flatten_all().unwrap().to_vec1().unwrap();
        (value.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), slopes)
    }

    /// Completions of one token whose rewards are given, at `β = 1`.
    fn of_rewards(rewards: &[f64], ratings: &[f64]) -> (f64, Vec<f64>) {
        let (log_probs, mut scores) = ranked(rewards, ratings);
        let zeros = log_probs.zeros_like().unwrap();
        scores.reference = Some(crate::TokenScores::unmasked(zeros).unwrap());
        value_and_slopes(&PlackettLuce { beta: 1.0, ..PlackettLuce::default() }, &log_probs, &scores)
    }

    #[test]
    fn two_completions_are_dpo() {
        for reduction in [Reduction::Sum, Reduction::Mean, Reduction::LengthDesensitized { alpha: 0.5 }] {
            let (log_probs, scores) = pairs();
            let dpo = value_and_slopes(&Dpo { reduction, ..Dpo::default() }, &log_probs, &scores);
            let rows = scores
                .groups
                .pairs
                .iter()
                .map(|pair| RankedRows { rows: vec![pair.rejected, pair.chosen], ratings: vec![-1.0, 0.5] });
            let groups = Groups { ranked: rows.collect(), ..Groups::default() };
            let scores = Scores { groups, ..scores };
            let listwise = PlackettLuce { reduction, ..PlackettLuce::default() };
            let (value, slopes) = value_and_slopes(&listwise, &log_probs, &scores);
            assert!(error(value, dpo.0) < TOLERANCE, "{value} {}", dpo.0);
            assert!(worst(&slopes, &dpo.1) < TOLERANCE, "{slopes:?} {:?}", dpo.1);
        }
    }

    #[test]
    fn the_probabilities_of_all_rankings_add_up_to_one() {
        let rewards = [0.3, -1.2, 2.0];
        let rankings = [[3., 2., 1.], [3., 1., 2.], [2., 3., 1.], [1., 3., 2.], [2., 1., 3.], [1., 2., 3.]];
        let sum: f64 = rankings.iter().map(|ratings| (-of_rewards(&rewards, ratings).0).exp()).sum();
        assert!(error(sum, 1.0) < TOLERANCE, "{sum}");
    }

    #[test]
    fn equals_are_not_compared() {
        assert_eq!(of_rewards(&[0.3, -1.2], &[1.0, 1.0]), (0.0, vec![0.0, 0.0]));
        // Two equals above a third: each of them against it.
        let (value, slopes) = of_rewards(&[0.3, -1.2, 0.5], &[1.0, 1.0, 0.0]);
        let against = |reward: f64| (1.0 + (0.5 - reward).exp()).ln();
        assert!(error(value, against(0.3) + against(-1.2)) < TOLERANCE, "{value}");
        assert!(slopes.iter().sum::<f64>().abs() < TOLERANCE, "{slopes:?}");
    }

    #[test]
    fn a_smaller_group_beside_a_larger_one_changes_nothing() {
        let rewards = [0.3, -1.2, 0.5, 0.1, 0.9];
        let (log_probs, mut scores) = ranked(&rewards, &[0.0; 5]);
        scores.reference = Some(crate::TokenScores::unmasked(log_probs.zeros_like().unwrap()).unwrap());
        let group = |rows: &[usize], ratings: &[f64]| RankedRows { rows: rows.to_vec(), ratings: ratings.to_vec() };
        scores.groups.ranked = vec![group(&[0, 1, 2], &[1.0, 2.0, 3.0]), group(&[4, 3], &[1.0, 2.0])];
        let loss = PlackettLuce { beta: 1.0, ..PlackettLuce::default() };
        let (value, slopes) = value_and_slopes(&loss, &log_probs, &scores);
        let (three, two) = (of_rewards(&rewards[..3], &[1.0, 2.0, 3.0]), of_rewards(&rewards[3..], &[2.0, 1.0]));
        assert!(error(value, f64::midpoint(three.0, two.0)) < TOLERANCE, "{value}");
        let expected: Vec<f64> = three.1.iter().chain(&two.1).map(|slope| slope / 2.0).collect();
        assert!(worst(&slopes, &expected) < TOLERANCE, "{slopes:?} {expected:?}");
    }

    #[test]
    fn extremes_are_finite() {
        for dtype in [DType::F32, DType::F64] {
            let rows = Tensor::new(&[[1e4f64], [-1e4], [0.0]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let log_probs = Var::from_tensor(&rows).unwrap();
            let policy = crate::TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap();
            let reference = crate::TokenScores::unmasked(log_probs.zeros_like().unwrap()).unwrap();
            for ratings in [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]] {
                let ranked = vec![RankedRows { rows: vec![0, 1, 2], ratings: ratings.to_vec() }];
                let groups = Groups { ranked, ..Groups::default() };
                let scores = Scores::new(policy.clone(), Some(reference.clone()), groups);
                let (value, slopes) = value_and_slopes(&PlackettLuce::default(), &log_probs, &scores);
                assert!(value.is_finite() && slopes.iter().all(|slope| slope.is_finite()), "{value} {slopes:?}");
            }
        }
    }
}
