//! Learning rates over the steps of a run: the twelve courses that transformers' `SchedulerType` names.
mod greedy;
mod plateau;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use greedy::Greedy;
use greedy::GreedyState;
use plateau::PlateauState;
pub use plateau::{Plateau, ThresholdMode};

use crate::error::{Error, Result};

/// The course of the learning rate. The factors are those of transformers 5.23.0 (`transformers/optimization.py`), names and
/// defaults too.
///
/// A warm-up goes from 0 in a straight line: the factor of step `s` (from 0) is `s / warmup_steps`, so that the first step has rate 0.
/// Below, `q = (s − warmup_steps) / max(1, total − warmup_steps)` is the part of the rest that is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Schedule {
    /// Stays at its peak after a warm-up, which transformers' `constant` has not.
    Constant {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// The same, by the name that it has in transformers.
    ConstantWithWarmup {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Falls in a straight line to 0 at the last step: `1 − q`.
    Linear {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Falls along a cosine, `½(1 + cos(2π·num_cycles·q))`.
    Cosine {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Waves; half of one ends at 0.
        #[serde(default = "half")]
        num_cycles: f64,
    },
    /// Falls along half a cosine several times, from the peak each time: `½(1 + cos(π·(num_cycles·q mod 1)))`, and 0 at the end.
    CosineWithRestarts {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// How often; a whole number.
        #[serde(default = "one")]
        num_cycles: f64,
    },
    /// Falls to a rate by a power: `(peak − lr_end)(1 − q)^power + lr_end`.
    Polynomial {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// The rate at the end, below the peak.
        #[serde(default = "least_rate")]
        lr_end: f64,
        /// The power.
        #[serde(default = "one")]
        power: f64,
    },
    /// Falls by the root of the steps: `1 / √((s + timescale − warmup_steps) / timescale)`. It has no end.
    InverseSqrt {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps after the warm-up in which the square of the rate halves; `warmup_steps` where it is not given, or 10,000.
        #[serde(default)]
        timescale: Option<u64>,
    },
    /// Falls whenever evaluations stop to improve.
    ReduceLrOnPlateau(Plateau),
    /// Falls along a cosine to a rate other than 0. Exactly one of `min_lr` and `min_lr_rate` is given.
    CosineWithMinLr {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Waves.
        #[serde(default = "half")]
        num_cycles: f64,
        /// The rate at the bottom.
        #[serde(default)]
        min_lr: Option<f64>,
        /// The rate at the bottom as a share of the peak.
        #[serde(default)]
        min_lr_rate: Option<f64>,
    },
    /// As `cosine_with_min_lr`, with a warm-up that does not start from 0, and one step ahead. Exactly one of `min_lr` and
    /// `min_lr_rate` is given.
    CosineWarmupWithMinLr {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Waves.
        #[serde(default = "half")]
        num_cycles: f64,
        /// The rate at the bottom.
        #[serde(default)]
        min_lr: Option<f64>,
        /// The rate at the bottom as a share of the peak.
        #[serde(default)]
        min_lr_rate: Option<f64>,
        /// The share of the peak that the warm-up starts from; `1 / warmup_steps` where it is not given.
        #[serde(default)]
        warmup_lr_rate: Option<f64>,
    },
    /// Rises, stays, and falls in its last `num_decay_steps`.
    WarmupStableDecay {
        /// Steps of the warm-up.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps of the fall.
        num_decay_steps: u64,
        /// Steps at the peak; what is left of the run where it is not given.
        #[serde(default)]
        num_stable_steps: Option<u64>,
        /// How it rises.
        #[serde(default)]
        warmup_type: Ramp,
        /// How it falls.
        #[serde(default = "cosine")]
        decay_type: Ramp,
        /// The share of the peak that it rises from and falls to.
        #[serde(default)]
        min_lr_ratio: f64,
        /// Waves of a fall by the cosine.
        #[serde(default = "half")]
        num_cycles: f64,
    },
    /// Rises while evaluations improve and falls while they do not.
    Greedy(Greedy),
}

/// How a rate goes from one value to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ramp {
    /// In a straight line.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// Along a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// Falling by `1 − √q`, rising by `1 − √(1 − q)`.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant { warmup_steps: 0 }
    }
}

impl Schedule {
    /// The factor of the peak learning rate `peak` at `step` (counted from 0) of `total` steps; never below 0. Of a schedule that
    /// follows evaluations it is 1: a [`Trainer`](crate::Trainer) multiplies it by what [`follow`](crate::Trainer::follow) found.
    ///
    /// ```
    /// use candlewick_train::Schedule;
    /// let schedule = Schedule::Linear { warmup_steps: 2 };
    /// let factors: Vec<f64> = (0..6).map(|step| schedule.factor(step, 6, 1e-6)).collect();
    /// assert_eq!(factors, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
    /// ```
    pub fn factor(&self, step: u64, total: u64, peak: f64) -> f64 {
        if let Self::CosineWarmupWithMinLr { .. } | Self::WarmupStableDecay { .. } = self {
            return self.factor_with_its_own_warmup(step as f64, total as f64, peak);
        }
        let warmup = self.warmup_steps();
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        let q = (step - warmup) as f64 / span;
        match *self {
            Self::Linear { .. } => total.saturating_sub(step) as f64 / span,
            Self::Cosine { num_cycles, .. } => wave(num_cycles, q),
            Self::CosineWithRestarts { .. } if q >= 1.0 => 0.0,
            Self::CosineWithRestarts { num_cycles, .. } => wave(0.5, (num_cycles * q) % 1.0),
            Self::Polynomial { lr_end, .. } if step > total => lr_end / peak,
            Self::Polynomial { lr_end, power, .. } => ((peak - lr_end) * (1.0 - q).powf(power) + lr_end) / peak,
            Self::InverseSqrt { timescale, .. } => {
                let timescale = timescale.unwrap_or(if warmup > 0 { warmup } else { 10_000 }) as f64;
                1.0 / ((step as f64 + (timescale - warmup as f64)) / timescale).sqrt()
            }
            Self::CosineWithMinLr { num_cycles, min_lr, min_lr_rate, .. } => {
                above(wave(num_cycles, q), least(min_lr, min_lr_rate, peak))
            }
            _ => 1.0,
        }
    }

    fn factor_with_its_own_warmup(&self, step: f64, total: f64, peak: f64) -> f64 {
        match *self {
            Self::CosineWarmupWithMinLr { warmup_steps, num_cycles, min_lr, min_lr_rate, warmup_lr_rate } => {
                let warmup = warmup_steps as f64;
                if step < warmup {
                    return match warmup_lr_rate {
                        None => (step + 1.0) / warmup,
                        Some(start) => start + (1.0 - start) * step / (warmup - 1.0).max(1.0),
                    };
                }
                let q = (step - warmup + 1.0) / (total - warmup).max(1.0);
                above(wave(num_cycles, q), least(min_lr, min_lr_rate, peak)).max(0.0)
            }
            Self::WarmupStableDecay {
                warmup_steps,
                num_decay_steps,
                num_stable_steps,
                warmup_type,
                decay_type,
                min_lr_ratio,
                num_cycles,
            } => {
                let (warmup, decay) = (warmup_steps as f64, num_decay_steps as f64);
                let stable = num_stable_steps.map_or(total - warmup - decay, |steps| steps as f64);
                if step < warmup {
                    let q = step / warmup;
                    let risen = match warmup_type {
                        Ramp::Linear => q,
                        Ramp::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * q).cos()),
                        Ramp::OneMinusSqrt => 1.0 - (1.0 - q).sqrt(),
                    };
                    return above(risen, min_lr_ratio).max(0.0);
                }
                if step < warmup + stable {
                    return 1.0;
                }
                if step >= warmup + stable + decay {
                    return min_lr_ratio;
                }
                let q = (step - warmup - stable) / decay.max(1.0);
                let left = match decay_type {
                    Ramp::Linear => 1.0 - q,
                    Ramp::Cosine => wave(num_cycles, q),
                    Ramp::OneMinusSqrt => 1.0 - q.sqrt(),
                };
                above(left, min_lr_ratio).max(0.0)
            }
            _ => 1.0,
        }
    }

    fn warmup_steps(&self) -> u64 {
        match *self {
            Self::Constant { warmup_steps }
            | Self::ConstantWithWarmup { warmup_steps }
            | Self::Linear { warmup_steps }
            | Self::Cosine { warmup_steps, .. }
            | Self::CosineWithRestarts { warmup_steps, .. }
            | Self::Polynomial { warmup_steps, .. }
            | Self::InverseSqrt { warmup_steps, .. }
            | Self::CosineWithMinLr { warmup_steps, .. }
            | Self::CosineWarmupWithMinLr { warmup_steps, .. }
            | Self::WarmupStableDecay { warmup_steps, .. } => warmup_steps,
            Self::ReduceLrOnPlateau(_) | Self::Greedy(_) => 0,
        }
    }

    /// Whether the rate of a step depends on how many steps there will be.
    pub(crate) fn depends_on_length(&self) -> bool {
        match self {
            Self::Constant { .. }
            | Self::ConstantWithWarmup { .. }
            | Self::InverseSqrt { .. }
            | Self::ReduceLrOnPlateau(_)
            | Self::Greedy(_) => false,
            Self::WarmupStableDecay { num_stable_steps, .. } => num_stable_steps.is_none(),
            _ => true,
        }
    }

    /// Whether it stays at its peak once it is there.
    pub(crate) fn is_constant(&self) -> bool {
        matches!(self, Self::Constant { .. } | Self::ConstantWithWarmup { .. })
    }

    /// Whether it follows evaluations.
    pub(crate) fn follows_evaluations(&self) -> bool {
        matches!(self, Self::ReduceLrOnPlateau(_) | Self::Greedy(_))
    }

    /// Whether every value is in its range, for this peak.
    ///
    /// # Errors
    /// The first that is not, as a key of `[schedule]`.
    pub fn check(&self, peak: f64) -> Result<()> {
        match *self {
            Self::Cosine { num_cycles, .. } => not_negative("num_cycles", num_cycles),
            Self::CosineWithRestarts { num_cycles, .. } => in_range(
                "num_cycles",
                num_cycles,
                num_cycles >= 1.0 && num_cycles.fract() == 0.0,
                "a whole number from 1",
            ),
            Self::Polynomial { lr_end, power, .. } => {
                in_range("lr_end", lr_end, lr_end >= 0.0 && lr_end < peak, &below("optimizer.learning_rate", peak))?;
                in_range("power", power, power > 0.0, "a positive number")
            }
            Self::InverseSqrt { timescale: Some(0), .. } => {
                Err(Error::config("schedule.timescale", "0; expected at least 1"))
            }
            Self::ReduceLrOnPlateau(plateau) => plateau.check(peak),
            Self::CosineWithMinLr { num_cycles, min_lr, min_lr_rate, .. } => {
                not_negative("num_cycles", num_cycles)?;
                check_least(min_lr, min_lr_rate, peak)
            }
            Self::CosineWarmupWithMinLr { num_cycles, min_lr, min_lr_rate, warmup_lr_rate, .. } => {
                not_negative("num_cycles", num_cycles)?;
                check_least(min_lr, min_lr_rate, peak)?;
                warmup_lr_rate.map_or(Ok(()), |rate| share("warmup_lr_rate", rate))
            }
            Self::WarmupStableDecay { min_lr_ratio, num_cycles, .. } => {
                not_negative("num_cycles", num_cycles)?;
                share("min_lr_ratio", min_lr_ratio)
            }
            Self::Greedy(greedy) => greedy.check(peak),
            _ => Ok(()),
        }
    }
}

/// The state of a schedule that follows evaluations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Follower {
    Plateau(Plateau, PlateauState),
    Greedy(Greedy, GreedyState),
}

impl Follower {
    /// The state before the first evaluation; None of a schedule that follows none.
    pub(crate) fn new(schedule: &Schedule, peak: f64) -> Option<Self> {
        match *schedule {
            Schedule::ReduceLrOnPlateau(options) => Some(Self::Plateau(options, PlateauState::new(peak))),
            Schedule::Greedy(options) => Some(Self::Greedy(options, GreedyState::new(options, peak))),
            _ => None,
        }
    }

    /// An evaluation has found this loss.
    pub(crate) fn follow(&mut self, loss: f64) {
        match self {
            Self::Plateau(options, state) => state.follow(*options, loss),
            Self::Greedy(options, state) => state.follow(*options, loss),
        }
    }

    /// The learning rate now.
    pub(crate) fn learning_rate(&self) -> f64 {
        match self {
            Self::Plateau(_, state) => state.learning_rate,
            Self::Greedy(_, state) => state.learning_rate,
        }
    }

    /// The state, for a checkpoint.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a state holds only numbers and words")
    }

    /// Goes back to a state that was stored, of the same options.
    pub(crate) fn restore(&mut self, stored: &Value) -> Result<(), String> {
        let stored = Self::deserialize(stored).map_err(|e| format!("the state of its schedule: {e}"))?;
        let same = match (&*self, &stored) {
            (Self::Plateau(ours, _), Self::Plateau(theirs, _)) => ours == theirs,
            (Self::Greedy(ours, _), Self::Greedy(theirs, _)) => ours == theirs,
            _ => false,
        };
        if !same {
            return Err("it was written with another schedule; give the same one".into());
        }
        *self = stored;
        Ok(())
    }
}

/// `½(1 + cos(2π·cycles·q))`.
fn wave(cycles: f64, q: f64) -> f64 {
    (0.5 * (1.0 + (std::f64::consts::PI * cycles * 2.0 * q).cos())).max(0.0)
}

/// A factor brought from 0..1 to least..1.
fn above(factor: f64, least: f64) -> f64 {
    factor * (1.0 - least) + least
}

fn least(min_lr: Option<f64>, min_lr_rate: Option<f64>, peak: f64) -> f64 {
    min_lr.map(|rate| rate / peak).or(min_lr_rate).unwrap_or(0.0)
}

fn check_least(min_lr: Option<f64>, min_lr_rate: Option<f64>, peak: f64) -> Result<()> {
    match (min_lr, min_lr_rate) {
        (Some(rate), None) => in_range(
            "min_lr",
            rate,
            (0.0..=peak).contains(&rate),
            &format!("0 to optimizer.learning_rate, which is {peak:e}"),
        ),
        (None, Some(rate)) => share("min_lr_rate", rate),
        (None, None) => Err(Error::config("schedule.min_lr", "missing; give it or schedule.min_lr_rate")),
        (Some(_), Some(_)) => {
            Err(Error::config("schedule.min_lr", "given beside schedule.min_lr_rate; give one of them"))
        }
    }
}

fn below(what: &str, limit: f64) -> String {
    format!("a number that is not negative and below {what}, which is {limit:e}")
}

pub(crate) fn in_range(key: &str, value: f64, fits: bool, expected: &str) -> Result<()> {
    match fits && value.is_finite() {
        true => Ok(()),
        false => Err(Error::config(format!("schedule.{key}"), format!("{value}; expected {expected}"))),
    }
}

fn not_negative(key: &str, value: f64) -> Result<()> {
    in_range(key, value, value >= 0.0, "a number that is not negative")
}

fn share(key: &str, value: f64) -> Result<()> {
    in_range(key, value, (0.0..=1.0).contains(&value), "0 to 1")
}

fn half() -> f64 {
    0.5
}

fn one() -> f64 {
    1.0
}

fn least_rate() -> f64 {
    1e-7
}

fn cosine() -> Ramp {
    Ramp::Cosine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: Schedule, total: u64) -> Vec<f64> {
        (0..total).map(|step| schedule.factor(step, total, 1.0)).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64], what: &str) {
        assert_eq!(got.len(), expected.len(), "{what}");
        for (step, (a, b)) in got.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 4e-15 * b.abs().max(1e-3), "{what}, step {step}: {a} instead of {b}");
        }
    }

    // The numbers transformers' own tests of these schedules state for a peak of 10, ten steps, warm-up 2, divided by 10
    // and, for the cosine, written exactly.
    #[test]
    fn factors_are_those_of_transformers_own_tests() {
        let constant = Schedule::Constant { warmup_steps: 4 };
        assert_close(&factors(constant, 10), &[0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "constant");
        let linear = Schedule::Linear { warmup_steps: 2 };
        assert_close(&factors(linear, 10), &[0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125], "linear");
        let c = |eighths: f64| 0.5 * (1.0 + (std::f64::consts::PI * eighths / 8.0).cos());
        let cosine = Schedule::Cosine { warmup_steps: 2, num_cycles: 0.5 };
        let expected = [0.0, 0.5, 1.0, c(1.0), c(2.0), c(3.0), 0.5, c(5.0), c(6.0), c(7.0)];
        assert_close(&factors(cosine, 10), &expected, "cosine");
        assert_close(&factors(Schedule::default(), 2), &[1.0, 1.0], "the default");
    }

    // `tools/optimizers/make.py` asked transformers.
    #[test]
    fn all_twelve_are_those_of_transformers() {
        let text = include_str!("../../tests/expected/schedules.json");
        let file: Value = serde_json::from_str(text).unwrap();
        let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        let mut kinds = std::collections::BTreeSet::new();
        for case in file["cases"].as_array().unwrap() {
            let schedule = Schedule::deserialize(&case["schedule"]).unwrap();
            let (total, peak) = (case["total_steps"].as_u64().unwrap(), case["peak"].as_f64().unwrap());
            let name = case["schedule"].to_string();
            kinds.insert(case["schedule"]["kind"].as_str().unwrap().to_owned());
            schedule.check(peak).unwrap();
            let got: Vec<f64> = match Follower::new(&schedule, peak) {
                None => (0..total + 3).map(|step| schedule.factor(step, total, peak)).collect(),
                Some(mut follower) => {
                    let mut after = |loss: f64| {
                        follower.follow(loss);
                        // Kept as JSON, it goes on as if nothing had been.
                        let stored = follower.to_json();
                        follower = Follower::new(&schedule, peak).unwrap();
                        follower.restore(&stored).unwrap();
                        follower.learning_rate() / peak
                    };
                    numbers(&case["losses"]).into_iter().map(&mut after).collect()
                }
            };
            assert_close(&got, &numbers(&case["factors"]), &name);
        }
        assert_eq!(kinds.len(), 12, "{kinds:?}");
    }

    #[test]
    fn a_warm_up_longer_than_the_run_never_divides_by_zero() {
        let kinds = [
            Schedule::Constant { warmup_steps: 10 },
            Schedule::Linear { warmup_steps: 10 },
            Schedule::Cosine { warmup_steps: 10, num_cycles: 0.5 },
            Schedule::CosineWithRestarts { warmup_steps: 10, num_cycles: 3.0 },
            Schedule::Polynomial { warmup_steps: 10, lr_end: 0.1, power: 2.0 },
            Schedule::InverseSqrt { warmup_steps: 10, timescale: None },
        ];
        for schedule in kinds {
            assert!(factors(schedule, 4).iter().all(|f| (0.0..1.0).contains(f)), "{schedule:?}");
            assert!((4..30).all(|step| schedule.factor(step, 10, 1.0).is_finite()), "{schedule:?}");
        }
    }

    #[test]
    fn values_that_contradict_the_peak_are_refused() {
        let refused = |schedule: Schedule| schedule.check(1e-6).unwrap_err().to_string();
        let polynomial = Schedule::Polynomial { warmup_steps: 0, lr_end: 1e-6, power: 1.0 };
        assert!(
            refused(polynomial).contains("schedule.lr_end: 0.000001; expected a number that is not negative and below")
        );
        let neither = Schedule::CosineWithMinLr { warmup_steps: 0, num_cycles: 0.5, min_lr: None, min_lr_rate: None };
        assert!(refused(neither).contains("schedule.min_lr: missing; give it or schedule.min_lr_rate"));
        let greedy = Schedule::Greedy(Greedy::default());
        assert!(refused(greedy).contains("schedule.min_lr: 0.001; expected"), "{}", refused(greedy));
        let plateau = Schedule::ReduceLrOnPlateau(Plateau { factor: 1.0, ..Plateau::default() });
        assert!(refused(plateau).contains("schedule.factor: 1; expected"));
    }
}
