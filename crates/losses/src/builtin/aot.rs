//! `−log σ(β·(sorted (log π_w − log π_l) − sorted (log π_ref,w − log π_ref,l)))`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_label_smoothing, check_reduction, smoothed_logistic};
use crate::error::Result;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::reduction::Reduction;
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::transport::{partners, partners_of};
use crate::view::{AnchoredPair, StepWide, window};

/// Distributional preference alignment by optimal transport on pairs: the policy's margins, as a distribution, shall
/// lie above those of the reference, whichever pairs they belong to.
///
/// # Formula
/// `−(1 − ε)·log σ(β·d_i) − ε·log σ(−β·d_i)`, the mean over pairs, with `d_i = m_i − m_ref(i)` in nats: `m = log
/// π(y_w) − log π(y_l)` is the margin of a pair under the policy, and `m_ref(i)` is, of the reference's margins, the
/// one at the place that `m_i` has among the policy's when both are sorted. Equal margins stay in the order of ranks,
/// micro-batches and pairs. A step of one pair is [`Dpo`](crate::Dpo): order statistics need more than one.
///
/// # Gradient
/// `−β·((1 − ε)·σ(−β·d_i) − ε·σ(β·d_i))` for `log π(y_w)` and the same with the other sign for `log π(y_l)`; the order
/// is a constant. It jumps where two margins of the policy are equal.
///
/// # When to use
/// For pairs whose labels are right on average rather than one by one. The value of a pair depends on the others of its
/// step, so large steps describe the distributions better, and weights of single pairs mean nothing.
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
/// TRL: `aot`. Formulas: `aot paired beta=0.01`, `aot paired beta=0.1 eps=0.1`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Aot, Objective, Phase, Scores, Solo, StepScores, TokenScores};
/// // Two pairs; margins of the policy 3 and 1, of the reference 0 and 2.
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-1.0], [-4.0], [-2.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-1.0], [-2.0], [-3.0]], &Device::Cpu)?)?;
/// let micro = [Scores::of_pairs(policy, Some(reference))];
/// let mut aot = Aot { beta: 1.0, ..Aot::default() };
/// let context = aot.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train)?;
/// let loss = aot.evaluate(&micro[0], &context.micro(0))?.loss(&micro[0].totals())?;
/// // d = (3 − 2, 1 − 0), so that both pairs have log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aot {
    /// Steepness, per nat; positive. Default 0.01.
    pub beta: f64,
    /// `ε`, the rate of flipped labels, in [0, 0.5). Default 0.
    pub label_smoothing: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Aot {
    fn default() -> Self {
        Self { beta: 0.01, label_smoothing: 0.0, reduction: Reduction::Sum }
    }
}

impl Named for Aot {
    const NAME: &'static str = "aot";
    const ALIASES: &'static [&'static str] = &["aot_paired", "aot_pair"];
    const SUMMARY: &'static str = "optimal transport: DPO on the sorted margins of policy and reference over the step";
}

impl Loss for Aot {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, context: &Context) -> Result<LossTerms> {
        let margins = input.policy().log_probs(self.reduction)?.margins()?;
        let margins = ((&margins - partners_of(&margins, context, PARTNERS)?)? * self.beta)?;
        let losses = smoothed_logistic(&margins, self.label_smoothing)?;
        LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_reduction::<Self>(self.reduction)
    }

    fn prepare(&mut self, step: &StepScores<'_>, _: Phase) -> Result<Context> {
        let (mut policy, mut reference) = (Vec::new(), Vec::new());
        for micro in step.micro {
            let input: AnchoredPair = window(Self::NAME, micro)?;
            policy.push(host(&input.policy().log_probs(self.reduction)?.margins()?)?);
            reference.push(host(&input.reference().log_probs(self.reduction)?.margins()?)?);
        }
        let partners = partners(step.collective, &policy, &reference)?;
        let vectors = partners.into_iter().map(|partners| [(PARTNERS.to_owned(), partners)].into()).collect();
        Ok(Context { vectors, ..Context::default() })
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

/// The margin of the reference at the place of each pair's margin under the policy.
const PARTNERS: &str = "partners";

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_in_order, order_of, pairs, step_gradient};
    use super::*;
    use crate::transport::tests::Ranks;
    use crate::view::View;
    use crate::{Dpo, Objective, Solo};
    use candlewick_testkit::{error, worst};

    #[test]
    fn agrees_with_the_formulas() {
        let (_, scores) = pairs();
        let margins =
            AnchoredPair::view(&scores).unwrap().policy().log_probs(Reduction::Sum).unwrap().margins().unwrap();
        let order = order_of(&host(&margins).unwrap());
        check_in_order("aot paired beta=0.01", Aot::default(), &order);
        let smoothed = Aot { beta: 0.1, label_smoothing: 0.1, ..Aot::default() };
        check_in_order("aot paired beta=0.1 eps=0.1", smoothed, &order);
    }

    #[test]
    fn one_pair_is_dpo() {
        let beta = 0.7;
        let (value, gradient) = step_gradient(&mut Aot { beta, ..Aot::default() }, &[&[0]]);
        let (expected, slopes) = step_gradient(&mut Dpo { beta, ..Dpo::default() }, &[&[0]]);
        assert!(error(value, expected) < 1e-14 && worst(&gradient, &slopes) < 1e-14);
    }

    #[test]
    fn micro_batches_of_a_step_agree_exactly() {
        let mut aot = Aot { beta: 1.0, label_smoothing: 0.1, ..Aot::default() };
        let (whole, gradient) = step_gradient(&mut aot, &[&[0, 1, 2, 3]]);
        let (split, slopes) = step_gradient(&mut aot, &[&[0], &[1], &[2], &[3]]);
        assert!(error(split, whole) < 1e-14 && worst(&slopes, &gradient) < 1e-14);
        let alone: f64 = (0..4).map(|pair| step_gradient(&mut aot, &[&[pair]]).0 / 4.0).sum();
        assert!(error(alone, whole) > 1e-3, "the step is not sorted as a whole");
    }

    #[test]
    fn the_partner_may_be_on_another_rank() {
        let (_, scores) = pairs();
        let input = AnchoredPair::view(&scores).unwrap();
        let own = [input.policy(), input.reference()]
            .map(|p| host(&p.log_probs(Reduction::Sum).unwrap().margins().unwrap()).unwrap());
        // The other rank holds one pair: best for the policy, worst for the reference.
        let lists = vec![own.to_vec(), vec![vec![1e3], vec![-1e3]]];
        let ranks = Ranks { rank: 0, lists, calls: std::cell::Cell::new(0) };
        let micro = [scores];
        let context =
            Objective::prepare(&mut Aot::default(), &StepScores { micro: &micro, collective: &ranks }, Phase::Train);
        let context = context.unwrap();
        let partners = context.micro(0);
        let lowest = order_of(&own[0])[0];
        assert!(error(partners.vector(PARTNERS).unwrap()[lowest], -1e3) < 1e-15);
    }

    #[test]
    fn a_nan_is_seen_in_the_loss() {
        let (_, mut scores) = pairs();
        let poisoned = (scores.policy.log_probs() * f64::NAN).unwrap();
        scores.policy = crate::TokenScores::new(poisoned, scores.policy.mask().clone()).unwrap();
        let micro = [scores];
        let mut aot = Aot::default();
        let context =
            Objective::prepare(&mut aot, &StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
        let loss = aot.evaluate(&micro[0], &context.micro(0)).unwrap().loss(&micro[0].totals()).unwrap();
        assert!(loss.to_scalar::<f64>().unwrap().is_nan());
    }

    #[test]
    fn a_context_of_another_micro_batch_is_refused() {
        let (_, scores) = pairs();
        let missing = Aot::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert!(missing.contains("`partners` is missing"), "{missing}");
        let context = Context { vectors: vec![[(PARTNERS.to_owned(), vec![0.0])].into()], ..Context::default() };
        let other = Aot::default().evaluate(&scores, &context).unwrap_err().to_string();
        assert!(other.contains("got shape [1], expected [4]"), "{other}");
    }
}
