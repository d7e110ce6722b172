//! `(v − a)²`

use serde::{Deserialize, Serialize};

use super::Named;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::numbers::{Number, Numbers};
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedDemonstrations;

/// A score model that predicts a rating of single completions.
///
/// # Formula
/// `(v − a)²`, the mean over rows; `v` is what one head of a score model says of a completion at its last token, `a` the rating:
/// the number that `attribute` names.
///
/// # Gradient
/// `2·(v − a)` for `v`: linear and unbounded, so clip where ratings are far from zero at the start.
///
/// # When to use
/// Rated responses (HelpSteer2's attributes, 0 to 4). Several attributes at once are a mix of this loss, one a head, with
/// `heads` as many in the model's section. A regression on helpfulness alone is also the start that HelpSteer2-Preference
/// recommends for [`BradleyTerryScaled`](crate::BradleyTerryScaled).
///
/// # Source
/// Wang et al. 2024 (HelpSteer2), arXiv 2406.08673. Confidence B.
///
/// # Deviations
/// None known from the paper. TRL has no such loss.
///
/// # Checked by
/// Properties only, because nobody recorded values of it.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, ScoreRegression, Scores, TokenScores};
/// let values = Tensor::new(&[[1.0f64], [3.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_demonstrations(TokenScores::of_values(values)?);
/// scores.groups.numbers.insert("score".to_owned(), vec![2.0, 3.0]);
/// let loss = ScoreRegression::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 0.5);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreRegression {
    /// Which number of the data is predicted. Default `score`.
    pub attribute: Attribute,
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

/// A rating that data bring: `score`, or one of HelpSteer's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the column of its name")]
pub enum Attribute {
    #[default]
    Score,
    Helpfulness,
    Correctness,
    Coherence,
    Complexity,
    Verbosity,
}

impl Attribute {
    fn number(self) -> Number {
        let (name, meaning) = match self {
            Self::Score => ("score", "how good the completion is"),
            Self::Helpfulness => ("helpfulness", "how helpful the completion is"),
            Self::Correctness => ("correctness", "how correct the completion is"),
            Self::Coherence => ("coherence", "how coherent the completion is"),
            Self::Complexity => ("complexity", "how much skill the completion takes"),
            Self::Verbosity => ("verbosity", "how wordy the completion is"),
        };
        Number::any(name, meaning)
    }
}

impl Named for ScoreRegression {
    const NAME: &'static str = "score_regression";
    const ALIASES: &'static [&'static str] = &["attribute_regression"];
    const SUMMARY: &'static str = "a score model that predicts a rating of single completions: (v − a)²";
}

impl Loss for ScoreRegression {
    type Input = ValuedDemonstrations;

    fn terms(&self, input: &ValuedDemonstrations, _: &Context) -> Result<LossTerms> {
        let values = input.of_head(self.head)?;
        let residuals = (&values - input.number(self.attribute.number().name)?)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, residuals.sqr()?)]);
        Ok(terms.with_metric("scores/predicted", &values).with_metric("scores/error", &residuals.abs()?))
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }

    fn numbers(&self) -> Numbers {
        Numbers::of(self.attribute.number())
    }
}
