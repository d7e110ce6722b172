//! `−log σ(β·(sorted Δ_w − sorted Δ_l))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_label_smoothing, check_reduction, smoothed_logistic};
use crate::error::Result;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::reduction::Reduction;
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::transport::{partners, partners_of};
use crate::view::{AnchoredPair, StepWide, window};

/// Distributional preference alignment by optimal transport on two sets: the log-ratios of the chosen completions, as a
/// distribution, shall lie above those of the rejected ones, whichever belong together.
///
/// # Formula
/// `−(1 − ε)·log σ(β·d_k) − ε·log σ(−β·d_k)`, the mean over places `k`, with `d_k = Δ_w(k) − Δ_l(k)` in nats: the
/// `k`-th smallest of `Δ_w` minus the `k`-th smallest of `Δ_l`, where `Δ = log π − log π_ref`. Equal values stay in
/// the order of ranks, micro-batches and pairs. A step of one pair is [`Dpo`](crate::Dpo): order statistics need more
/// than one.
///
/// # Gradient
/// `−β·((1 − ε)·σ(−β·d_k) − ε·σ(β·d_k))` for the chosen completion at place `k` and the same with the other sign for
/// the rejected one there; the order is a constant. The two may stand in different micro-batches: each side is
/// differentiated beside its partner's value, and the value is counted with the chosen side.
///
/// # When to use
/// For good and bad completions that were not compared with each other: the data still come as pairs, and who shares a
/// pair with whom does not matter.
///
/// # Source
/// Melnyk et al. 2024, arXiv 2406.05882. Confidence A✓ for the logistic cost; the paper's other costs (hinge, squares)
/// are not offered.
///
/// # Deviations
/// From the paper: none known for the logistic cost. From TRL: the sort spans all micro-batches and ranks of the
/// optimizer step, and in evaluation the whole set, where TRL sorts each device's micro-batch; `beta` defaults to the
/// paper's 0.01, where TRL has 0.1 for all its losses.
///
/// # Checked by
/// TRL: `aot_unpaired`. Formulas: `aot unpaired beta=0.01`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{AotUnpaired, Objective, Phase, Scores, Solo, StepScores, TokenScores};
/// // Log-ratios: 1 and 3 of the chosen, 2 and 0 of the rejected completions.
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-1.0], [-1.0], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-4.0], [-3.0], [-3.0]], &Device::Cpu)?)?;
/// let micro = [Scores::of_pairs(policy, Some(reference))];
/// let mut aot = AotUnpaired { beta: 1.0, ..AotUnpaired::default() };
/// let context = aot.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train)?;
/// let loss = aot.evaluate(&micro[0], &context.micro(0))?.loss(&micro[0].totals())?;
/// // d = (1 − 0, 3 − 2), so that both places have log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AotUnpaired {
    /// Steepness, per nat; positive. Default 0.01.
    pub beta: f64,
    /// `ε`, the rate of flipped labels, in [0, 0.5). Default 0.
    pub label_smoothing: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for AotUnpaired {
    fn default() -> Self {
        Self { beta: 0.01, label_smoothing: 0.0, reduction: Reduction::Sum }
    }
}

impl Named for AotUnpaired {
    const NAME: &'static str = "aot_unpaired";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str = "optimal transport: sorted log-ratios of chosen above those of rejected completions";
}

impl Loss for AotUnpaired {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, context: &Context) -> Result<LossTerms> {
        let sides = input.log_ratios(self.reduction)?;
        let margins = ((&sides.chosen - partners_of(&sides.chosen, context, REJECTED)?)? * self.beta)?;
        let mirrored = ((partners_of(&sides.rejected, context, CHOSEN)? - &sides.rejected)? * self.beta)?;
        let losses = smoothed_logistic(&margins, self.label_smoothing)?;
        // The value of these places is counted where their chosen completions are.
        let of_rejected = smoothed_logistic(&mirrored, self.label_smoothing)?;
        let slopes_only = (&of_rejected - of_rejected.detach())?;
        LossTerms::new([Term::per_item(Self::NAME, (losses + slopes_only)?)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_reduction::<Self>(self.reduction)
    }

    fn prepare(&mut self, step: &StepScores<'_>, _: Phase) -> Result<Context> {
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for micro in step.micro {
            let sides = window::<AnchoredPair>(Self::NAME, micro)?.log_ratios(self.reduction)?;
            chosen.push(host(&sides.chosen)?);
            rejected.push(host(&sides.rejected)?);
        }
        let of_chosen = partners(step.collective, &chosen, &rejected)?;
        let of_rejected = partners(step.collective, &rejected, &chosen)?;
        let both = of_chosen.into_iter().zip(of_rejected);
        let vectors = both.map(|(r, c)| [(REJECTED.to_owned(), r), (CHOSEN.to_owned(), c)].into()).collect();
        Ok(Context { vectors, ..Context::default() })
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

/// The log-ratio of the rejected completion at the place of each chosen one.
const REJECTED: &str = "partners/rejected";
/// The log-ratio of the chosen completion at the place of each rejected one.
const CHOSEN: &str = "partners/chosen";

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_in_order, order_of, pairs, step_gradient};
    use super::*;
    use crate::transport::tests::Ranks;
    use crate::{Dpo, Objective, Solo, View};
    use candlewick_testkit::{error, worst};

    fn sides() -> [Vec<f64>; 2] {
        let (_, scores) = pairs();
        let sides = AnchoredPair::view(&scores).unwrap().log_ratios(Reduction::Sum).unwrap();
        [host(&sides.chosen).unwrap(), host(&sides.rejected).unwrap()]
    }

    #[test]
    fn agrees_with_the_formulas() {
        check_in_order("aot unpaired beta=0.01", AotUnpaired::default(), &order_of(&sides()[0]));
    }

    #[test]
    fn one_pair_is_dpo() {
        let beta = 0.7;
        let (value, gradient) = step_gradient(&mut AotUnpaired { beta, ..AotUnpaired::default() }, &[&[2]]);
        let (expected, slopes) = step_gradient(&mut Dpo { beta, ..Dpo::default() }, &[&[2]]);
        assert!(error(value, expected) < 1e-14 && worst(&gradient, &slopes) < 1e-14);
    }

    #[test]
    fn micro_batches_of_a_step_agree_although_partners_are_in_others() {
        let mut aot = AotUnpaired { beta: 1.0, label_smoothing: 0.1, ..AotUnpaired::default() };
        let (whole, gradient) = step_gradient(&mut aot, &[&[0, 1, 2, 3]]);
        let (split, slopes) = step_gradient(&mut aot, &[&[0], &[1], &[2], &[3]]);
        assert!(error(split, whole) < 1e-14 && worst(&slopes, &gradient) < 1e-14);
        let alone: f64 = (0..4).map(|pair| step_gradient(&mut aot, &[&[pair]]).0 / 4.0).sum();
        assert!(error(alone, whole) > 1e-3, "the step is not sorted as a whole");
    }

    #[test]
    fn ranks_agree_with_one_that_holds_all() {
        let [chosen, rejected] = sides();
        let part =
            |range: std::ops::Range<usize>, order: [&Vec<f64>; 4]| order.map(|list| list[range.clone()].to_vec());
        // `prepare` gathers chosen and rejected, and once more the other way round.
        let order = [&chosen, &rejected, &rejected, &chosen];
        let lists = vec![part(0..1, order).to_vec(), part(1..4, order).to_vec()];
        let (_, scores) = pairs();
        let prepare = |scores: &crate::Scores, collective: &dyn crate::Collective| {
            let micro = std::slice::from_ref(scores);
            let context =
                Objective::prepare(&mut AotUnpaired::default(), &StepScores { micro, collective }, Phase::Train);
            let context = context.unwrap().micro(0);
            [REJECTED, CHOSEN].map(|name| context.vector(name).unwrap().to_vec())
        };
        let whole = prepare(&scores, &Solo);
        for (rank, range) in [(0, 0..1), (1, 1..4)] {
            let mut part = scores.clone();
            part.groups.pairs = scores.groups.pairs[range.clone()].to_vec();
            let ranks = Ranks { rank, lists: lists.clone(), calls: std::cell::Cell::new(0) };
            assert_eq!(prepare(&part, &ranks), [whole[0][range.clone()].to_vec(), whole[1][range].to_vec()]);
        }
    }

    #[test]
    fn the_value_is_counted_once_and_a_nan_is_seen() {
        let (_, scores) = pairs();
        let [mut chosen, mut rejected] = sides();
        chosen.sort_by(f64::total_cmp);
        rejected.sort_by(f64::total_cmp);
        let expected: f64 =
            chosen.iter().zip(&rejected).map(|(c, r)| (0.01 * (r - c)).exp().ln_1p()).sum::<f64>() / 4.0;
        assert!(error(step_gradient(&mut AotUnpaired::default(), &[&[0, 1], &[2, 3]]).0, expected) < 1e-14);
        let mut poisoned = scores.clone();
        let row = scores.policy.log_probs().affine(1.0, f64::NAN).unwrap();
        poisoned.policy = crate::TokenScores::new(row, scores.policy.mask().clone()).unwrap();
        let micro = [poisoned];
        let mut aot = AotUnpaired::default();
        let context =
            Objective::prepare(&mut aot, &StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
        let loss = aot.evaluate(&micro[0], &context.micro(0)).unwrap().loss(&micro[0].totals()).unwrap();
        assert!(loss.to_scalar::<f64>().unwrap().is_nan());
    }
}
