//! How a policy prefers: accuracy and calibration on held-out preferences, in all and by slice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::preferences::Preferences;
use crate::stats::{Bootstrap, Calibration, Interval, of_a_share, spearman};

/// Bins of the probabilities whose calibration is measured.
const BINS: usize = 10;

/// Accuracy and calibration on held-out preferences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferenceReport {
    /// Of all items.
    pub all: SliceReport,
    /// By the name of a label and its words.
    pub slices: BTreeMap<String, BTreeMap<String, SliceReport>>,
    /// β of the probabilities that are calibrated, σ(β·margin); of log-ratios where there is a reference.
    pub beta: f64,
    /// Whether margins are of log-ratios to a reference, or of log-probabilities alone.
    pub has_reference: bool,
}

/// Of some items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceReport {
    /// Items.
    pub items: usize,
    /// Accuracy of log π(y|x) − log π_ref(y|x); none without a reference.
    pub accuracy: Option<Interval>,
    /// Accuracy of log π(y|x).
    pub by_log_prob: Option<Interval>,
    /// Accuracy of log π(y|x) divided by the tokens of y.
    pub by_mean_log_prob: Option<Interval>,
    /// Mean margin, in nats.
    pub margin: Option<Interval>,
    /// Of σ(β·margin) as the probability that the preferred completion is preferred. Each item is entered from both sides, since
    /// which of its completions is called the preferred one is part of the answer: a certain forecaster who is right in 3 of 4
    /// cases is off by a quarter.
    pub calibration: Option<Calibration>,
    /// Spearman's ρ of the margin with the preferred completion's tokens less the other's.
    pub margin_and_length: Option<f64>,
}

impl PreferenceReport {
    /// Of Σ log-probabilities of every completion under a policy, and under a reference where there is one.
    ///
    /// # Panics
    /// Other numbers of scores than there are completions.
    pub fn of(held_out: &Preferences, policy: &[f64], reference: Option<&[f64]>, beta: f64) -> Self {
        let tokens: Vec<f64> = held_out.tokens().iter().map(|tokens| *tokens as f64).collect();
        let ratios: Option<Vec<f64>> =
            reference.map(|reference| policy.iter().zip(reference).map(|(a, b)| a - b).collect());
        let means: Vec<f64> = policy.iter().zip(&tokens).map(|(sum, tokens)| sum / tokens).collect();
        let of = |held_out: &Preferences| {
            let values = Values {
                by_ratio: ratios.as_deref().map(|ratios| held_out.agreement(ratios)),
                by_log_prob: held_out.agreement(policy),
                by_mean: held_out.agreement(&means),
                margins: held_out.margins(ratios.as_deref().unwrap_or(policy)),
                lengths: held_out.margins(&tokens),
                beta,
            };
            values.report()
        };
        let by_label = |label: &str| -> BTreeMap<String, SliceReport> {
            let words = held_out.slices(label).into_keys();
            words.filter_map(|word| Some((word.to_owned(), of(&held_out.slice(label, word)?.0)))).collect()
        };
        let slices = held_out.labels().into_iter().map(|label| (label.to_owned(), by_label(label))).collect();
        Self { all: of(held_out), slices, beta, has_reference: reference.is_some() }
    }
}

/// Values of all items.
struct Values {
    by_ratio: Option<Vec<f64>>,
    by_log_prob: Vec<f64>,
    by_mean: Vec<f64>,
    margins: Vec<f64>,
    lengths: Vec<f64>,
    beta: f64,
}

impl Values {
    fn report(&self) -> SliceReport {
        let share =
            |values: &[f64]| Bootstrap::default().mean(values).map(|interval| of_a_share(interval, values.len()));
        let forecasts: Vec<(f64, f64)> = self
            .margins
            .iter()
            .map(|margin| 1.0 / (1.0 + (-self.beta * margin).exp()))
            .flat_map(|probability| [(probability, 1.0), (1.0 - probability, 0.0)])
            .collect();
        SliceReport {
            items: self.margins.len(),
            accuracy: self.by_ratio.as_deref().and_then(share),
            by_log_prob: share(&self.by_log_prob),
            by_mean_log_prob: share(&self.by_mean),
            margin: Bootstrap::default().mean(&self.margins),
            calibration: Calibration::of(&forecasts, BINS),
            margin_and_length: spearman(&self.margins, &self.lengths),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_data::{Annotation, Batch, Completion, Context, Example, Origin};

    fn held_out() -> Preferences {
        let example = |number: u32| {
            let context = Context {
                prompt: vec![number],
                prompt_scored: vec![false],
                completions: vec![Completion::all_scored(vec![1; 2]), Completion::all_scored(vec![1])],
            };
            let mut example = Example::new(Origin::memory(number.into()), vec![context], Annotation::Pair);
            let word = if number < 3 { "easy" } else { "hard" };
            example.labels.insert("kind".to_owned(), word.to_owned());
            example
        };
        let examples = (0..4).map(example).collect();
        Preferences::new(vec![Batch { examples, ..Batch::default() }]).expect("pairs")
    }

    #[test]
    fn slices_are_measured_apart() {
        let rows = held_out();
        let policy = [-1.0, -2.0, -1.0, -2.0, -1.0, -2.0, -2.0, -1.0];
        let reference = [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0];
        let found = PreferenceReport::of(&rows, &policy, Some(&reference), 2.0);
        let estimate = |slice: &SliceReport| slice.accuracy.map(|interval| interval.estimate);
        assert_eq!(estimate(&found.all), Some(0.75));
        let kinds = &found.slices["kind"];
        assert_eq!((estimate(&kinds["easy"]), estimate(&kinds["hard"])), (Some(1.0), Some(0.0)));
        assert_eq!((kinds["easy"].items, kinds["hard"].items), (3, 1));
        let sure = 1.0 / (1.0 + (-2.0f64).exp());
        let calibration = found.all.calibration.as_ref().expect("forecasts");
        // Three of four came true of forecasts of σ(2).
        assert!((calibration.expected_error - (sure - 0.75)).abs() < 1e-12, "{calibration:?}");
        assert_eq!(calibration.count, 8);
    }

    #[test]
    fn without_a_reference_log_probabilities_are_compared() {
        let rows = held_out();
        let found = PreferenceReport::of(&rows, &[-1.0, -2.0, -1.0, -2.0, -1.0, -2.0, -2.0, -1.0], None, 1.0);
        assert!(found.all.accuracy.is_none() && !found.has_reference);
        assert_eq!(found.all.by_log_prob.map(|interval| interval.estimate), Some(0.75));
        // The chosen ones are twice as long: −1/2 against −2, −2/2 against −1.
        assert_eq!(found.all.by_mean_log_prob.map(|interval| interval.estimate), Some(0.875));
    }
}
