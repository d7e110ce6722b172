//! Learning rates over the steps of a run.
use serde::{Deserialize, Serialize};

/// The course of the learning rate after its warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Stays at its peak.
    #[default]
    Constant,
    /// Falls in a straight line to 0 at the last step.
    Linear,
    /// Falls along half a cosine to 0 at the last step.
    Cosine,
}

/// A warm-up of `warmup_steps` from 0 in a straight line, then a [`Decay`].
///
/// The factors are those of `get_{constant,linear,cosine}_schedule_with_warmup` in transformers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: Decay,
    /// Steps of the warm-up; the very first step then has rate 0.
    pub warmup_steps: u64,
}

impl Schedule {
    /// The factor of the peak learning rate at `step` (counted from 0) of `total` steps, in 0..=1.
    ///
    /// Warm-up: `step / max(1, w)` for `step < w`. Then constant: 1; linear: `(total − step) / max(1, total − w)`;
    /// cosine: `½ (1 + cos(π (step − w) / max(1, total − w)))`; never below 0.
    ///
    /// ```
    /// use candlewick_train::{Decay, Schedule};
    /// let schedule = Schedule { kind: Decay::Linear, warmup_steps: 2 };
    /// let factors: Vec<f64> = (0..6).map(|step| schedule.factor(step, 6)).collect();
    /// assert_eq!(factors, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
    /// ```
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        match self.kind {
            Decay::Constant => 1.0,
            Decay::Linear => total.saturating_sub(step) as f64 / span,
            Decay::Cosine => {
                let progress = (step - warmup) as f64 / span;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(kind: Decay, warmup_steps: u64, total: u64) -> Vec<f64> {
        (0..total).map(|step| Schedule { kind, warmup_steps }.factor(step, total)).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() < 1e-15, "{got:?} instead of {expected:?}");
        }
    }

    // The numbers transformers' own tests of these schedules state for a peak of 10, ten steps, warm-up 2, divided by 10
    // and, for the cosine, written exactly.
    #[test]
    fn factors_are_those_of_transformers() {
        assert_close(&factors(Decay::Constant, 4, 10), &[0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_close(&factors(Decay::Linear, 2, 10), &[0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]);
        let c = |eighths: f64| 0.5 * (1.0 + (std::f64::consts::PI * eighths / 8.0).cos());
        assert_close(
            &factors(Decay::Cosine, 2, 10),
            &[0.0, 0.5, 1.0, c(1.0), c(2.0), c(3.0), 0.5, c(5.0), c(6.0), c(7.0)],
        );
        assert_close(&factors(Decay::Constant, 0, 2), &[1.0, 1.0]);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_never_divides_by_zero() {
        for kind in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            assert!(factors(kind, 10, 4).iter().all(|f| (0.0..1.0).contains(f)));
            assert!(Schedule { kind, warmup_steps: 4 }.factor(9, 4).is_finite());
        }
    }
}
