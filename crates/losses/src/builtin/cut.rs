//! `−mean_t(fitting: log p; unfitting: α·log(1 − p))`, and imitation under the judgment

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, Preset, check_not_negative, in_range, token_means};
use crate::error::{Error, Result};
use crate::loss::{Context, Loss};
use crate::math::log1m_exp;
use crate::scores::TokenScores;
use crate::terms::{LossTerms, Term};
use crate::view::Judged;

/// Contrastive unlikelihood training: learns from judgments in words, by lowering the tokens that the judgment makes
/// more probable.
///
/// # Formula
/// A completion `y` that was judged badly is scored twice: under its prompt `x`, and under `x` and the judgment `j`.
/// Token `t` is inappropriate where `sg[p(y_t|x,j)/p(y_t|x)] > λ`: who has read the judgment expects the mistake. The
/// loss of the item is
/// `½·mean_t(appropriate: −log p(y_t|x); inappropriate: −α·log(1 − p(y_t|x))) + ½·mean_t(−log p(y_t|x,j))`.
/// Of a completion that was judged well it is `mean_t(−log p(y_t|x))`. Means over the tokens of the completion in
/// nats, then the mean over completions.
///
/// # Gradient
/// With respect to `log p(y_t|x)`: `−1/2n` for an appropriate token and `+α·p/(1 − p)/2n` for an inappropriate one,
/// so that tokens which are improbable already are left alone; `−1/2n` for `log p(y_t|x,j)`. The ratio is detached:
/// which tokens are inappropriate is not learned.
///
/// # When to use
/// Judgments in words of the model's own completions, where it matters which part of a completion is wrong. Without
/// words, use pairs or verdicts.
///
/// # Source
/// Xu et al. 2023, arXiv 2312.14591; defaults of its online setting, `cut_offline` of its offline one. The released
/// unlikelihood was executed. Confidence A✓.
///
/// # Deviations
/// From the release: ratios are compared as differences of log-probabilities, and `log(1 − p)` is computed from
/// `log p`, with `p` held below `1 − 1e-7` where the release adds 1e-5 to a complement of 0. The release has an `α` for
/// every completion and reads that of the first of a batch; here there is one. TRL has no such loss.
///
/// # Checked by
/// Formulas: `cut d/d(plain log-prob)`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Cut, Groups, JudgedRows, Objective, Scores, TokenScores};
/// let half = -(2f64.ln());
/// let policy = TokenScores::unmasked(Tensor::new(&[[2.0 * half, -1.0], [half, -1.0]], &Device::Cpu)?)?;
/// let judged = vec![JudgedRows { plain: 0, judged: 1, positive: false }];
/// let scores = Scores::new(policy, None, Groups { judged, ..Groups::default() });
/// let loss = Cut::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // The judgment doubles the first token: −log(1 − ¼). The second stays: 1. Under the judgment: log 2 and 1.
/// let expected = ((4f64 / 3.0).ln() + 1.0) / 4.0 + (2f64.ln() + 1.0) / 4.0;
/// assert!((loss.to_scalar::<f64>()? - expected).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cut {
    /// `λ`: by what factor a judgment must raise a token's probability to make it inappropriate; positive. Default 1.1.
    pub threshold: f64,
    /// Weight of the unlikelihood of inappropriate tokens; at least 0. Default 1.
    pub alpha: f64,
}

impl Default for Cut {
    fn default() -> Self {
        Self { threshold: 1.1, alpha: 1.0 }
    }
}

impl Named for Cut {
    const NAME: &'static str = "cut";
    const ALIASES: &'static [&'static str] = &["contrastive_unlikelihood"];
    const SUMMARY: &'static str =
        "contrastive unlikelihood training: lowers the tokens that a judgment makes more probable";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "cut_offline",
        aliases: &[],
        summary: "CUT as set for judgments of other models' completions",
        settings: r#"{ "threshold": 1.2, "alpha": 0.5 }"#,
    }];
}

impl Loss for Cut {
    type Input = Judged;

    fn terms(&self, input: &Judged, _: &Context) -> Result<LossTerms> {
        let (plain, judged) = (input.plain()?, input.judged()?);
        check_alignment(&plain, &judged)?;
        let positive: Vec<bool> = input.items().iter().map(|item| item.positive).collect();
        let likelihood = token_means(plain.log_probs(), &plain)?.neg()?;
        let inappropriate = self.inappropriate(&plain, &judged)?;
        let (own, under_judgment) =
            (self.unlikelihood(&plain, &inappropriate)?, token_means(judged.log_probs(), &judged)?.neg()?);
        let corrected = ((own + under_judgment)? * 0.5)?;
        let losses = Tensor::new(positive.iter().map(|&is| u8::from(is)).collect::<Vec<_>>(), plain.mask().device())?
            .where_cond(&likelihood, &corrected)?;
        let shares = token_means(&inappropriate, &plain)?;
        let negative = (0u32..).zip(&positive).filter(|(_, is)| !**is).map(|(item, _)| item);
        let negative = Tensor::from_iter(negative, shares.device())?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]);
        if negative.elem_count() == 0 {
            return Ok(terms);
        }
        Ok(terms.with_metric("inappropriate_tokens", &shares.index_select(&negative, 0)?))
    }

    fn validate(&self) -> Result<()> {
        let is_in = self.threshold.is_finite() && self.threshold > 0.0;
        in_range::<Self>("threshold", self.threshold, is_in, "a positive number")?;
        check_not_negative::<Self>("alpha", self.alpha)
    }
}

impl Cut {
    /// 1 where a scored token is inappropriate and 0 elsewhere, `[B, T]`; detached.
    fn inappropriate(&self, plain: &TokenScores, judged: &TokenScores) -> Result<Tensor> {
        let log_ratios = (judged.log_probs().detach() - plain.log_probs().detach())?;
        let above = log_ratios.gt(self.threshold.ln())?.to_dtype(log_ratios.dtype())?;
        Ok((above * plain.mask())?)
    }

    /// The token mean of the plain run's losses, `[B]`.
    fn unlikelihood(&self, plain: &TokenScores, inappropriate: &Tensor) -> Result<Tensor> {
        let kept = (plain.log_probs() * (1.0 - inappropriate)?)?;
        let lowered = ((log1m_exp(plain.log_probs())? * inappropriate)? * self.alpha)?;
        Ok(token_means(&(kept + lowered)?, plain)?.neg()?)
    }
}

/// Both runs must score the same tokens.
fn check_alignment(plain: &TokenScores, judged: &TokenScores) -> Result<()> {
    let what = "completions under their judgments";
    let different = plain.mask().ne(judged.mask())?.to_dtype(plain.mask().dtype())?.sum_all()?;
    if different.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? == 0.0 {
        return Ok(());
    }
    let expected = format!("the same tokens scored as under the prompts alone, {:?}", plain.lengths());
    Err(Error::Shape { what, got: judged.lengths().to_vec(), expected })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use candlewick_testkit::{error, worst};

    use super::super::vectors::{TOLERANCE, vectors};
    use super::*;
    use crate::{Groups, JudgedRows, Objective, Scores};

    /// The recorded completion, without and with its judgment.
    fn recorded(positive: bool) -> (Var, Scores) {
        let rows = [[0.60f64, 0.30, 0.75, 0.20], [0.62, 0.55, 0.40, 0.26]];
        let log_probs = Var::new(&rows.map(|row| row.map(f64::ln)), &Device::Cpu).unwrap();
        (log_probs.clone(), of_rows(TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap(), positive))
    }

    fn of_rows(policy: TokenScores, positive: bool) -> Scores {
        let judged = vec![JudgedRows { plain: 0, judged: 1, positive }];
        Scores::new(policy, None, Groups { judged, ..Groups::default() })
    }

    #[test]
    fn agrees_with_the_formulas() {
        let name = "cut d/d(plain log-prob)";
        let vectors = vectors();
        let (log_probs, scores) = recorded(false);
        let terms = Cut::default().evaluate(&scores, &Context::default()).unwrap();
        assert_eq!(terms.metrics[0].values.to_vec1::<f64>().unwrap(), [0.5]);
        let loss = terms.loss(&scores.totals()).unwrap();
        assert!(error(loss.to_scalar().unwrap(), vectors.number(name, "loss").unwrap()) < TOLERANCE);
        let slopes = loss.backward().unwrap().get(&log_probs).unwrap().to_vec2::<f64>().unwrap();
        assert!(worst(&slopes[0], &vectors.list(name, "grad").unwrap()) < TOLERANCE, "{slopes:?}");
        assert_eq!(slopes[1], [-0.125; 4]);
        let [plain, judged] = [0, 1].map(|row| scores.policy.select(&[row]).unwrap());
        let inappropriate = Cut::default().inappropriate(&plain, &judged).unwrap();
        assert_eq!(inappropriate.to_vec2::<f64>().unwrap()[0], vectors.list(name, "inappropriate").unwrap());
    }

    #[test]
    fn a_completion_that_was_judged_well_is_imitated() {
        let (log_probs, scores) = recorded(true);
        let terms = Cut::default().evaluate(&scores, &Context::default()).unwrap();
        assert!(terms.metrics.is_empty());
        let slopes = terms.loss(&scores.totals()).unwrap().backward().unwrap();
        assert_eq!(slopes.get(&log_probs).unwrap().to_vec2::<f64>().unwrap(), [[-0.25; 4], [0.0; 4]]);
    }

    #[test]
    fn what_is_certain_or_impossible_has_finite_losses_and_slopes() {
        for dtype in [DType::F32, DType::F64] {
            let rows = [[0.0f64, -1e4, -1e4, 0.0], [0.0, 0.0, -1e4, -1e4]];
            let log_probs =
                Var::from_tensor(&Tensor::new(&rows, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
            let scores = of_rows(TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap(), false);
            // Below 1, a token may be inappropriate although the judgment changes nothing.
            for threshold in [1.1, 0.5] {
                let cut = Cut { threshold, ..Cut::default() };
                let loss = cut.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
                let slopes = loss.backward().unwrap().get(&log_probs).unwrap().to_dtype(DType::F64).unwrap();
                let slopes = slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert!(loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap().is_finite());
                assert!(slopes.iter().all(|slope| slope.is_finite()), "{slopes:?}");
            }
        }
    }

    #[test]
    fn runs_that_score_other_tokens_are_refused() {
        let rows = Tensor::new(&[[-1.0f64, -1.0], [-1.0, -1.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1.0f64, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let scores = of_rows(TokenScores::new(rows, mask).unwrap(), false);
        let error = Cut::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
        assert!(error.contains("under their judgments") && error.contains("the same tokens"), "{error}");
    }
}
