//! Whether probabilities come true as often as they say.

use serde::{Deserialize, Serialize};

use super::Interval;

/// Probabilities beside what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Forecasts by the probability they name, in bins of equal width; empty bins are left out.
    pub bins: Vec<Bin>,
    /// Expected calibration error (Naeini, Cooper and Hauskrecht, 2015): the gap of each bin, weighted by its forecasts.
    pub expected_error: f64,
    /// The mean squared gap of forecast and outcome (Brier, 1950).
    pub brier: f64,
    /// The mean negative log-probability of what happened, in nats; infinite where the impossible did.
    pub log_loss: f64,
    /// Forecasts.
    pub count: usize,
}

/// Forecasts of nearly the same probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The mean probability.
    pub forecast: f64,
    /// How often it came true.
    pub outcome: f64,
    /// Forecasts in it.
    pub count: usize,
}

impl Calibration {
    /// Of probabilities in 0..=1 and whether (1), half (0.5) or not (0) they came true. Nothing of no forecasts.
    pub fn of(forecasts: &[(f64, f64)], bins: usize) -> Option<Self> {
        let bins = bins.max(1);
        if forecasts.is_empty() {
            return None;
        }
        let mut sums = vec![(0.0, 0.0, 0usize); bins];
        for (probability, outcome) in forecasts {
            let sum = &mut sums[((probability * bins as f64) as usize).min(bins - 1)];
            *sum = (sum.0 + probability, sum.1 + outcome, sum.2 + 1);
        }
        let bins: Vec<Bin> = sums
            .into_iter()
            .filter(|(.., count)| *count > 0)
            .map(|(p, o, count)| Bin { forecast: p / count as f64, outcome: o / count as f64, count })
            .collect();
        let all = forecasts.len() as f64;
        let mean = |of: &dyn Fn(f64, f64) -> f64| forecasts.iter().map(|(p, o)| of(*p, *o)).sum::<f64>() / all;
        let loss = |weight: f64, probability: f64| if weight == 0.0 { 0.0 } else { -weight * probability.ln() };
        Some(Self {
            expected_error: bins.iter().map(|bin| (bin.forecast - bin.outcome).abs() * bin.count as f64).sum::<f64>()
                / all,
            brier: mean(&|p, o| (p - o).powi(2)),
            log_loss: mean(&|p, o| loss(o, p) + loss(1.0 - o, 1.0 - p)),
            count: forecasts.len(),
            bins,
        })
    }
}

/// Wilson's score interval of a share (1927), which stays within 0 and 1; nothing of no trials. `z` is the normal quantile, 1.96
/// for 95 %.
pub fn wilson(hits: f64, trials: f64, z: f64) -> Option<Interval> {
    if trials <= 0.0 {
        return None;
    }
    let share = hits / trials;
    let square = z * z / trials;
    let centre = (share + square / 2.0) / (1.0 + square);
    let reach = z / (1.0 + square) * (share * (1.0 - share) / trials + square / (4.0 * trials)).sqrt();
    Some(Interval { low: (centre - reach).max(0.0), estimate: share, high: (centre + reach).min(1.0) })
}

/// The interval of a share of so many trials, where draws of them cannot tell: where all are alike, every draw is what was seen, and
/// Wilson's interval takes its place.
pub fn of_a_share(drawn: Interval, trials: usize) -> Interval {
    match drawn.low < drawn.high {
        true => drawn,
        false => wilson(drawn.estimate * trials as f64, trials as f64, NORMAL).unwrap_or(drawn),
    }
}

/// The normal quantile of an interval of 95 %.
pub(crate) const NORMAL: f64 = 1.96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_true_forecaster_has_no_error_and_a_boaster_has() {
        let honest: Vec<(f64, f64)> = (0..100).map(|i| (0.75, f64::from(u8::from(i % 4 != 0)))).collect();
        let found = Calibration::of(&honest, 10).expect("forecasts");
        assert!(found.expected_error < 1e-12 && (found.brier - 0.1875).abs() < 1e-12, "{found:?}");
        let boaster: Vec<(f64, f64)> = honest.iter().map(|(_, outcome)| (1.0, *outcome)).collect();
        let found = Calibration::of(&boaster, 10).expect("forecasts");
        assert!((found.expected_error - 0.25).abs() < 1e-12 && found.log_loss.is_infinite(), "{found:?}");
        assert_eq!(found.bins.len(), 1);
        assert_eq!(Calibration::of(&[], 10), None);
    }

    #[test]
    fn log_loss_is_the_mean_surprise() {
        let found = Calibration::of(&[(0.9, 1.0), (0.2, 0.0), (0.6, 1.0)], 10).expect("forecasts");
        let expected = -(0.9f64.ln() + 0.8f64.ln() + 0.6f64.ln()) / 3.0;
        assert!((found.log_loss - expected).abs() < 1e-12);
    }

    #[test]
    fn a_share_has_an_interval_that_stays_inside() {
        // statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson") with z = 1.96
        let found = wilson(8.0, 10.0, 1.959_963_984_540_054).expect("trials");
        assert!(
            (found.low - 0.490_162_471_536_641_8).abs() < 1e-9 && (found.high - 0.943_317_848_545_624_8).abs() < 1e-9,
            "{found:?}"
        );
        assert_eq!(wilson(5.0, 5.0, 1.96).map(|found| found.high), Some(1.0));
        assert_eq!(wilson(0.0, 0.0, 1.96), None);
    }
}
