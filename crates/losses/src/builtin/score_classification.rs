//! `−log σ(±v)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::terms::{LossTerms, Rewards, Term};
use crate::valued::ValuedLabels;

/// A score model of single completions with a verdict: the log-odds of the verdict.
///
/// # Formula
/// `−log σ(s·v) + μ·v²`, the mean over rows; `v` is what one head of a score model says of a completion at its last token.
/// With `meaning = "reward"` the sign `s` is +1 for a desirable and −1 for an undesirable row; with `"cost"` it is the other way
/// round, so that higher is more harmful.
///
/// # Gradient
/// `−s·σ(−s·v) + 2·μ·v` for `v`.
///
/// # When to use
/// Flags and no pairs: thumbs, or responses that are called safe or unsafe one by one. It gives a cost model with a zero
/// that means something ([`CostModel`](crate::CostModel) has the same terms of the signs) but learns no order among two of
/// the same verdict.
///
/// # Source
/// Askell et al. 2021, arXiv 2112.00861, "binary discrimination". Confidence C: from notes on the paper; not verified are its
/// settings.
///
/// # Deviations
/// None known from the paper. TRL has no such loss.
///
/// # Checked by
/// Properties only, because nobody recorded values of it; its own test is logistic regression, worked by hand.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, ScoreClassification, Scores, TokenScores};
/// let values = Tensor::new(&[[1.0f64], [-1.0]], &Device::Cpu)?;
/// let scores = Scores::of_labelled(TokenScores::of_values(values)?, None, &[true, false]);
/// let loss = ScoreClassification::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15); // log(1 + e⁻¹)
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreClassification {
    /// Whether a high score is good or bad. Default `reward`.
    pub meaning: Meaning,
    /// `μ`, the weight of the squared score, at least 0. Default 0.
    pub l2: f64,
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

/// Whether a high score is good or bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Higher is better.
    #[default]
    Reward,
    /// Higher is more harmful.
    Cost,
}

impl Named for ScoreClassification {
    const NAME: &'static str = "score_classification";
    const ALIASES: &'static [&'static str] = &["binary_discrimination"];
    const SUMMARY: &'static str = "a score model of labelled rows, reward or cost: −log σ(±v)";
}

impl Loss for ScoreClassification {
    type Input = ValuedLabels;

    fn terms(&self, input: &ValuedLabels, _: &Context) -> Result<LossTerms> {
        let values = input.of_head(self.head)?;
        let better = if self.meaning == Meaning::Reward { 1.0 } else { -1.0 };
        let signs = input.desirable().iter().map(|&desirable| if desirable { better } else { -better });
        let signs = Tensor::from_iter(signs, values.device())?.to_dtype(values.dtype())?;
        let signed = (&values * signs)?;
        let mut losses = log_sigmoid(&signed)?.neg()?;
        if self.l2 > 0.0 {
            losses = (losses + (values.sqr()? * self.l2)?)?;
        }
        let right = signed.detach().gt(0.0)?.to_dtype(values.dtype())?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]);
        Ok(terms
            .with_rewards(Rewards::Labelled { rewards: (values.detach() * better)? })
            .with_metric("accuracies/sign", &right))
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("l2", self.l2)
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{Objective, Scores, TokenScores};

    #[test]
    fn is_logistic_regression() {
        let values = Var::new(&[[0.5f64], [-1.0], [2.0]], &Device::Cpu).unwrap();
        let verdicts = [true, true, false];
        let scores = Scores::of_labelled(TokenScores::of_values(values.as_tensor().clone()).unwrap(), None, &verdicts);
        for (meaning, better) in [(Meaning::Reward, 1.0), (Meaning::Cost, -1.0)] {
            let loss = ScoreClassification { meaning, l2: 0.25, head: 0 };
            let terms = loss.evaluate(&scores, &Context::default()).unwrap();
            let value = terms.loss(&scores.totals()).unwrap();
            // p = σ(v), and the slope of the cross-entropy is p − y.
            let expected: Vec<f64> = [0.5, -1.0, 2.0]
                .iter()
                .zip(verdicts)
                .map(|(v, desirable): (&f64, _)| {
                    let p = 1.0 / (1.0 + (-v).exp());
                    let y = f64::from(u8::from(desirable == (better > 0.0)));
                    (p - y + 0.5 * v) / 3.0
                })
                .collect();
            let slopes =
                value.backward().unwrap().get(&values).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert!(candlewick_testkit::worst(&slopes, &expected) < 1e-15, "{slopes:?} {expected:?}");
        }
    }
}
