//! `w·NLL(y_w) + w_d·[w_c·KL(T‖S)(y_w) + w_r·KL(T‖S)(y_l)]`

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::{Named, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::terms::{LossTerms, Normaliser, Term};
use crate::view::{TaughtPair, TaughtSide};

/// Dual-constrained knowledge distillation: a small model imitates the chosen completions and follows an aligned
/// teacher of the same vocabulary on both sides of every pair.
///
/// # Formula
/// `w·NLL(y_w) + w_d·[w_c·KL(T‖S)(y_w) + w_r·KL(T‖S)(y_l)]` in nats, each a mean over the tokens of its side in the
/// whole step. `KL(T‖S) = Σ_a T(a)·(log T(a) − log max(S(a), 1e-7))` a token, over the tokens `a` that the teacher's
/// rows give and one bucket for all others, of mass `1 − Σ_a T(a)` and `1 − Σ_a S(a)`. With the bucket the divergence
/// is that of coarser distributions, hence by the data-processing inequality at most the full one, and equal to it
/// where all tokens are given. A bucket in which the teacher has at most 1e-6 is rounding and counts as empty.
///
/// # Gradient
/// With respect to `log S(a)`: `−T(a)` for a given token, which with the softmax makes `S − T` of every logit where all
/// tokens are given; 0 where `S(a)` is below the floor. The bucket's slope is `T(rest)·S(a)/S(rest)`: what the student
/// puts on given tokens it takes from the others.
///
/// # When to use
/// A small model and a large aligned one that shares its vocabulary, before [`Adpa`](crate::Adpa) or alone.
/// What it does to `K` given log-probabilities a token grows with `K`: at `K = 8` a scored row costs 3 times what it costs
/// [`Dpo`](crate::Dpo) in steps of 8 pairs, and 28 times where 65,536 pairs at once are bound by memory.
///
/// # Source
/// Gao et al. 2025, arXiv 2502.17927, and the authors' trainer, which was read but not executed. Not verified: its
/// headline numbers. Confidence A.
///
/// # Deviations
/// From the release: its configuration sets the weights to 0 unless they are given, these are 1 unless they are given;
/// the teacher's rows may be sparse, with the bucket above; the floor is set on log-probabilities. TRL has no such
/// loss.
///
/// # Checked by
/// Formulas: `dckd forward kl to teacher`, `dckd total (nll + kl)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Dckd, Objective, Scores, TeacherScores, TokenScores};
/// let ln = |p: f64| p.ln();
/// let policy = TokenScores::unmasked(Tensor::new(&[[ln(0.5)], [ln(0.5)]], &Device::Cpu)?)?
///     .with_given(Tensor::new(&[[[ln(0.5)]], [[ln(0.5)]]], &Device::Cpu)?)?;
/// let teacher = Tensor::new(&[[[ln(0.75)]], [[ln(0.5)]]], &Device::Cpu)?;
/// let teacher = Some(TeacherScores { log_probs: teacher, reference: None });
/// let scores = Scores { teacher, ..Scores::of_pairs(policy, None) };
/// let loss = Dckd::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // log 2, the divergence of (¾, ¼) from (½, ½), and 0.
/// let expected = 2f64.ln() + 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
/// assert!((loss.to_scalar::<f64>()? - expected).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dckd {
    /// `w`, weight of the imitation of the chosen completions; at least 0. Default 1.
    pub nll_weight: f64,
    /// `w_d`, weight of both divergences; at least 0. Default 1.
    pub kd_weight: f64,
    /// `w_c`, weight of the divergence on the chosen completions; at least 0. Default 1.
    pub chosen_weight: f64,
    /// `w_r`, weight of the divergence on the rejected completions; at least 0. Default 1.
    pub rejected_weight: f64,
}

impl Default for Dckd {
    fn default() -> Self {
        Self { nll_weight: 1.0, kd_weight: 1.0, chosen_weight: 1.0, rejected_weight: 1.0 }
    }
}

impl Named for Dckd {
    const NAME: &'static str = "dckd";
    const ALIASES: &'static [&'static str] = &["dual_constrained_kd"];
    const SUMMARY: &'static str =
        "dual-constrained distillation: imitates chosen completions and follows a teacher on both sides";
}

impl Loss for Dckd {
    type Input = TaughtPair;

    fn terms(&self, input: &TaughtPair, _: &Context) -> Result<LossTerms> {
        let (chosen, rejected) = (input.chosen()?, input.rejected()?);
        let term = |name, numerator, normaliser, weight| Term { name, numerator, normaliser, weight };
        let on_chosen = divergence(&chosen)?;
        let on_rejected = divergence(&rejected)?;
        Ok(LossTerms::new([
            term("nll", chosen.scores.sums()?.neg()?, Normaliser::DemonstrationTokens, self.nll_weight),
            term("kd_chosen", on_chosen, Normaliser::DemonstrationTokens, self.kd_weight * self.chosen_weight),
            term("kd_rejected", on_rejected, Normaliser::RejectedTokens, self.kd_weight * self.rejected_weight),
        ]))
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("nll_weight", self.nll_weight)?;
        check_not_negative::<Self>("kd_weight", self.kd_weight)?;
        check_not_negative::<Self>("chosen_weight", self.chosen_weight)?;
        check_not_negative::<Self>("rejected_weight", self.rejected_weight)
    }
}

/// The smallest probability of the student.
const FLOOR: f64 = 1e-7;
/// The largest mass of the teacher outside of the given tokens that is taken for rounding.
const ROUNDING: f64 = 1e-6;

/// `Σ_t KL(T‖S)` of every completion in nats, `[B]`.
fn divergence(side: &TaughtSide) -> Result<Tensor> {
    let given = side.given()?;
    let zeros = given.zeros_like()?;
    let teacher = given.gt(0.5)?.where_cond(&side.teacher, &zeros)?;
    let shares = (teacher.exp()? * &given)?;
    let floored = at_least(&side.policy, FLOOR.ln())?;
    let over_given = (&shares * (teacher - floored)?)?.sum(D::Minus1)?;

    // A log-probability above 0, which rounding may give, counts as 0.
    let student = (&side.policy - positive_part(&side.policy)?)?;
    let rest_of_student = (1.0 - (student.exp()? * &given)?.sum(D::Minus1)?)?;
    let rest_of_student = at_least(&rest_of_student, FLOOR)?.log()?;
    let rest = (1.0 - shares.sum(D::Minus1)?)?;
    let is_there = rest.gt(ROUNDING)?.to_dtype(rest.dtype())?;
    let over_rest = ((&rest * (at_least(&rest, FLOOR)?.log()? - rest_of_student)?)? * is_there)?;

    Ok(((over_given + over_rest)? * side.scores.mask())?.sum(1)?)
}

/// `max(x, least)` with slope 0 at and below `least`.
fn at_least(x: &Tensor, least: f64) -> Result<Tensor> {
    Ok((positive_part(&(x - least)?)? + least)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candlewick_testkit::{central_difference, error, worst};

    use super::super::vectors::{TOLERANCE, check_logits, taught_pair};
    use super::*;
    use crate::{Objective, Scores, TeacherScores, TokenScores};

    fn loss(dckd: Dckd, scores: &Scores) -> Tensor {
        dckd.evaluate(scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap()
    }

    #[test]
    fn agrees_with_the_formulas() {
        let none = Dckd { nll_weight: 0.0, kd_weight: 1.0, chosen_weight: 0.0, rejected_weight: 0.0 };
        let (logits, scores) = taught_pair(true);
        check_logits("dckd forward kl to teacher", &loss(Dckd { chosen_weight: 1.0, ..none }, &scores), &logits);
        let with_nll = Dckd { nll_weight: 1.0, chosen_weight: 1.0, ..none };
        check_logits("dckd total (nll + kl)", &loss(with_nll, &scores), &logits);
        let (logits, scores) = taught_pair(false);
        check_logits("dckd forward kl to teacher", &loss(Dckd { rejected_weight: 1.0, ..none }, &scores), &logits);
    }

    /// One pair of one token a side, of which `student` and `teacher` are the probabilities of the given tokens.
    fn sparse(student: &[f64], teacher: &[f64], dtype: DType) -> (Var, Scores) {
        let logs = |values: &[f64]| -> Tensor {
            let values: Vec<f64> = values.iter().chain(values).map(|value| value.ln()).collect();
            let count = values.len() / 2;
            Tensor::from_vec(values, (2, 1, count), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let given = Var::from_tensor(&logs(student)).unwrap();
        let policy = TokenScores::unmasked(Tensor::zeros((2, 1), dtype, &Device::Cpu).unwrap()).unwrap();
        let policy = policy.with_given(given.as_tensor().clone()).unwrap();
        let teacher = Some(TeacherScores { log_probs: logs(teacher), reference: None });
        (given, Scores { teacher, ..Scores::of_pairs(policy, None) })
    }

    #[test]
    fn sparse_rows_bound_the_full_divergence_from_below() {
        let (student, teacher) = ([0.5, 0.2, 0.2, 0.1], [0.6, 0.1, 0.05, 0.25]);
        let kept = |count: usize| {
            let (_, scores) = sparse(&student[..count], &teacher[..count], DType::F64);
            loss(Dckd { nll_weight: 0.0, rejected_weight: 0.0, ..Dckd::default() }, &scores).to_scalar::<f64>().unwrap()
        };
        let full: f64 = student.iter().zip(teacher).map(|(s, t)| t * (t / s).ln()).sum();
        assert!(error(kept(4), full) < TOLERANCE);
        assert!(kept(1) < kept(2) && kept(2) < kept(3) && kept(1) > 0.0);
        // One token is left for the bucket, so that nothing is lost.
        assert!(error(kept(3), full) < TOLERANCE);
    }

    #[test]
    fn the_slopes_of_sparse_rows_are_central_differences() {
        let (given, scores) = sparse(&[0.5, 0.2], &[0.6, 0.1], DType::F64);
        let slopes = loss(Dckd::default(), &scores).backward().unwrap().get(&given).unwrap().flatten_all().unwrap();
        let at = given.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let value = |at: &[f64]| {
            let given = Tensor::from_slice(at, given.dims(), &Device::Cpu).unwrap();
            let policy = scores.policy.clone().with_given(given).unwrap();
            loss(Dckd::default(), &Scores { policy, ..scores.clone() }).to_scalar::<f64>().unwrap()
        };
        let numeric = central_difference(value, &at, 1e-5);
        assert!(worst(&slopes.to_vec1::<f64>().unwrap(), &numeric) < 1e-8, "{slopes} {numeric:?}");
    }

    #[test]
    fn fewer_tokens_than_slots_and_a_padded_slot_change_nothing() {
        let (_, scores) = sparse(&[0.5, 0.2], &[0.6, 0.1], DType::F64);
        let (_, padded) = sparse(&[0.5, 0.2, 0.9], &[0.6, 0.1, 0.0], DType::F64);
        let [plain, padded] = [scores, padded].map(|scores| loss(Dckd::default(), &scores));
        assert!(error(padded.to_scalar().unwrap(), plain.to_scalar().unwrap()) < 1e-15, "{plain} {padded}");
    }

    #[test]
    fn the_floor_has_slope_zero_and_everything_is_finite() {
        for dtype in [DType::F32, DType::F64] {
            for student in [[f64::MIN_POSITIVE, 1.0 - 1e-9], [1e-7, 1e-7], [1.0, 1.0]] {
                let (given, scores) = sparse(&student, &[0.3, 0.3], dtype);
                let loss = loss(Dckd::default(), &scores);
                let slopes = loss.backward().unwrap().get(&given).unwrap().to_dtype(DType::F64).unwrap();
                let slopes = slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert!(loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap().is_finite());
                assert!(slopes.iter().all(|slope| slope.is_finite()), "{slopes:?}");
                assert!(student[0] > 1e-8 || slopes[0] == 0.0, "{slopes:?}");
            }
        }
    }
}
