//! How a multiplier follows the violation of its constraint.

use serde::{Deserialize, Serialize};

use super::window::Average;

/// The rule by which `λ` follows the violation `v = J − d` of its constraint.
///
/// For a policy that is trained beside it, with old multipliers in its step, the linear rule is stable up to a rate of
/// `β/Var_π(c)` ([`DualSettings::largest_rate`](super::DualSettings::largest_rate)). Adam is not among them: its steps
/// have the same length however small the violation is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ascent {
    /// `λ ← clip(λ + rate·v, 0, cap)`: gradient ascent, which reaches 0 exactly.
    Linear {
        /// Step a unit of violation; positive. Default 0.05.
        #[serde(default = "linear_rate")]
        rate: f64,
        /// The largest multiplier; positive. Default none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<f64>,
    },
    /// `log λ ← clip(log λ + rate·λ·v, log floor, log cap)`: gradient ascent on `log λ`, as Safe RLHF was released.
    /// Since `λ' = rate·λ²·v`, it would be infinite after `1/(rate·λ·v)` steps and takes as many to come back from
    /// near 0: hence the cap and the floor.
    LogGradient {
        /// Step; positive. Default 0.1.
        #[serde(default = "log_rate")]
        rate: f64,
        /// The largest multiplier. Default 5.
        #[serde(default = "log_cap")]
        cap: f64,
        /// The smallest multiplier; positive and below the cap. Default 0.01, which is ours: the released rule has
        /// none.
        #[serde(default = "log_floor")]
        floor: f64,
    },
    /// `log λ ← clip(log λ + rate·v, log floor, log cap)`: the exponentiated gradient, which grows no faster than an
    /// exponential.
    Exponentiated {
        /// Step; positive. Default 0.05.
        #[serde(default = "linear_rate")]
        rate: f64,
        /// The largest multiplier. Default 100.
        #[serde(default = "exponentiated_cap")]
        cap: f64,
        /// The smallest multiplier; positive and below the cap. Default 0.01.
        #[serde(default = "log_floor")]
        floor: f64,
    },
    /// `λ = clip(proportional·v̄ + I + derivative·max(0, ΔJ̄), 0, cap)` with `I ← clip(I + integral·v, 0, cap)`. The
    /// proportional term damps like a stronger `β`: `β + proportional·Var_π(c)`. `v̄` and `J̄` are moving averages that
    /// are corrected for their start, so that the first costs give no kick, and the integral stops at both bounds.
    Pid {
        /// Of the violation; at least 0. Default 0.1.
        #[serde(default = "proportional")]
        proportional: f64,
        /// Of the sum of violations; positive. Default 0.01.
        #[serde(default = "integral")]
        integral: f64,
        /// Of a rise of the cost; at least 0. Default 0.01.
        #[serde(default = "integral")]
        derivative: f64,
        /// Weight of the past in the averages, in [0, 1). Default 0: none.
        #[serde(default)]
        smoothing: f64,
        /// The largest multiplier; positive. Default none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cap: Option<f64>,
    },
}

impl Default for Ascent {
    fn default() -> Self {
        Self::Linear { rate: linear_rate(), cap: None }
    }
}

/// Where a multiplier stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) multiplier: f64,
    /// Of the rules that step on it: `ln` of the multiplier, with the digits that a small step needs.
    log: f64,
    integral: f64,
    violation: Average,
    cost: Average,
}

impl Position {
    /// Whether all its numbers are finite, as those of a rule are.
    pub(super) fn is_sound(&self) -> bool {
        [self.multiplier, self.log, self.integral].iter().all(|value| value.is_finite())
            && self.multiplier >= 0.0
            && self.violation.is_sound()
            && self.cost.is_sound()
    }
}

impl Ascent {
    /// The settings of Safe RLHF (Beaver) as released: gradient ascent on `log λ` at a rate of 0.1, at most 5.
    pub fn beaver() -> Self {
        Self::LogGradient { rate: log_rate(), cap: log_cap(), floor: log_floor() }
    }

    /// The first setting that is out of range: its name, its value, and the range.
    pub(super) fn fault(self) -> Option<(&'static str, f64, &'static str)> {
        const POSITIVE: &str = "a positive number";
        const NOT_NEGATIVE: &str = "a number of at least 0";
        let positive = |name, value: f64| (!(value.is_finite() && value > 0.0)).then_some((name, value, POSITIVE));
        let not_negative =
            |name, value: f64| (!(value.is_finite() && value >= 0.0)).then_some((name, value, NOT_NEGATIVE));
        match self {
            Self::Linear { rate, cap } => {
                positive("dual.ascent.rate", rate).or_else(|| positive("dual.ascent.cap", cap.unwrap_or(1.0)))
            }
            Self::LogGradient { rate, cap, floor } | Self::Exponentiated { rate, cap, floor } => {
                let ordered = (floor >= cap).then_some(("dual.ascent.floor", floor, "a number below `cap`"));
                positive("dual.ascent.rate", rate)
                    .or_else(|| positive("dual.ascent.cap", cap))
                    .or_else(|| positive("dual.ascent.floor", floor))
                    .or(ordered)
            }
            Self::Pid { proportional, integral, derivative, smoothing, cap } => {
                let share = (!(0.0..1.0).contains(&smoothing)).then_some((
                    "dual.ascent.smoothing",
                    smoothing,
                    "a weight in [0, 1)",
                ));
                not_negative("dual.ascent.proportional", proportional)
                    .or_else(|| positive("dual.ascent.integral", integral))
                    .or_else(|| not_negative("dual.ascent.derivative", derivative))
                    .or(share)
                    .or_else(|| positive("dual.ascent.cap", cap.unwrap_or(1.0)))
            }
        }
    }

    /// The multipliers that the rule can take, from and to.
    pub(super) fn bounds(self) -> (f64, f64) {
        match self {
            Self::Linear { cap, .. } | Self::Pid { cap, .. } => (0.0, cap.unwrap_or(f64::MAX)),
            Self::LogGradient { cap, floor, .. } | Self::Exponentiated { cap, floor, .. } => (floor, cap),
        }
    }

    /// The step a unit of violation: of a controller, that of its integral.
    pub fn rate(self) -> f64 {
        match self {
            Self::Linear { rate, .. } | Self::LogGradient { rate, .. } | Self::Exponentiated { rate, .. } => rate,
            Self::Pid { integral, .. } => integral,
        }
    }

    /// Where a multiplier starts.
    pub(super) fn start(self, multiplier: f64) -> Position {
        // The rules that do not step on the logarithm do not read it, and a 0 has none.
        let log = if multiplier > 0.0 { multiplier.ln() } else { 0.0 };
        let (violation, cost) = (Average::default(), Average::default());
        Position { multiplier, log, integral: multiplier, violation, cost }
    }

    /// One step, for a cost `J` that violates its limit by `violation`.
    pub(super) fn step(self, at: &mut Position, cost: f64, violation: f64) {
        let (low, high) = self.bounds();
        match self {
            Self::Linear { rate, .. } => at.multiplier = (at.multiplier + rate * violation).clamp(low, high),
            Self::LogGradient { rate, .. } => step_on_log(at, rate * at.multiplier * violation, low, high),
            Self::Exponentiated { rate, .. } => step_on_log(at, rate * violation, low, high),
            Self::Pid { proportional, integral, derivative, smoothing, .. } => {
                let before = at.cost.mean();
                let smoothed = at.violation.add(violation, smoothing);
                let now = at.cost.add(cost, smoothing);
                let rise = before.map_or(0.0, |before| (now - before).max(0.0));
                at.integral = (at.integral + integral * violation).clamp(low, high);
                at.multiplier = (proportional * smoothed + at.integral + derivative * rise).clamp(low, high);
            }
        }
    }

    /// The largest rate (of a controller, `integral`) that is stable where the cost that is looked at is `delay` steps
    /// old; see [`DualSettings::largest_rate`](super::DualSettings::largest_rate).
    pub(super) fn largest_rate(self, delay: f64, beta: f64, variance: f64, multiplier: f64) -> f64 {
        let damping = match self {
            Self::Pid { proportional, .. } => beta + proportional * variance,
            _ => beta,
        };
        // Without any it swings for ever, however slow it is.
        if damping <= 0.0 {
            return 0.0;
        }
        let linear = damping / (delay * variance);
        match self {
            Self::Linear { .. } | Self::Pid { .. } => linear,
            Self::LogGradient { .. } => linear / (multiplier * multiplier),
            Self::Exponentiated { .. } => linear / multiplier,
        }
    }
}

fn step_on_log(at: &mut Position, by: f64, low: f64, high: f64) {
    at.log = (at.log + by).clamp(low.ln(), high.ln());
    at.multiplier = at.log.exp().clamp(low, high);
}

fn linear_rate() -> f64 {
    0.05
}

fn log_rate() -> f64 {
    0.1
}

fn log_cap() -> f64 {
    5.0
}

fn exponentiated_cap() -> f64 {
    100.0
}

fn log_floor() -> f64 {
    0.01
}

fn proportional() -> f64 {
    0.1
}

fn integral() -> f64 {
    0.01
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candlewick_testkit::{FormulaVectors, worst};

    use super::*;

    const NAME: &str = "safe-rlhf multiplier, log space (lr .1, max 5)";

    fn recorded(key: &str) -> Vec<f64> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
        FormulaVectors::load(&path).unwrap().list(NAME, key).unwrap()
    }

    fn path(rule: Ascent, costs: &[f64]) -> Vec<f64> {
        let mut at = rule.start(1.0);
        let mut path = vec![at.multiplier];
        for &cost in costs {
            rule.step(&mut at, cost, cost);
            path.push(at.multiplier);
        }
        path
    }

    #[test]
    fn the_released_rule_and_the_linear_one_agree_with_the_formulas() {
        let costs = recorded("J_cost");
        assert!(worst(&path(Ascent::beaver(), &costs), &recorded("multiplier")) < 1e-12);
        let linear = Ascent::Linear { rate: 0.1, cap: None };
        assert!(worst(&path(linear, &costs), &recorded("plain_gradient_variant")) < 1e-12);
    }

    #[test]
    fn on_the_logarithm_the_gradient_explodes_in_finite_time_and_stops_at_the_cap() {
        // λ' = rate·λ²·v ends at step 10 for a rate of 0.1, from 1 with a violation of 1; in steps, at 14.
        let wild = path(Ascent::LogGradient { rate: 0.1, cap: f64::MAX, floor: 0.01 }, &[1.0; 40]);
        assert!(wild[9] < 6.0 && wild[13] < f64::from(f32::MAX) && wild[14] > f64::from(f32::MAX), "{wild:?}");
        assert!(wild.iter().all(|multiplier| multiplier.is_finite()));
        assert!((path(Ascent::beaver(), &[1.0; 40])[40] - 5.0).abs() < 1e-14);
        // The plain ratio grows like an exponential.
        let tame = path(Ascent::Exponentiated { rate: 0.1, cap: 1e9, floor: 0.01 }, &[1.0; 40]);
        assert!((tame[40] / 4f64.exp() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_slack_undoes_the_floor_keeps_in_reach() {
        let mut costs = vec![-1.0; 1000];
        costs.extend(vec![1.0; 1100]);
        let steps_back = |floor: f64| {
            let path = path(Ascent::LogGradient { rate: 0.1, cap: 5.0, floor }, &costs);
            path[1000..].iter().position(|&multiplier| multiplier >= 1.0).unwrap()
        };
        // Without a floor a thousand steps of slack take a thousand steps to undo; from 0.1 about 1/(0.1·0.1) − 10.
        assert!((990..=1010).contains(&steps_back(1e-300)), "{}", steps_back(1e-300));
        assert!((80..=110).contains(&steps_back(0.1)), "{}", steps_back(0.1));
    }

    #[test]
    fn no_rule_moves_against_the_violation() {
        let pid = |smoothing| Ascent::Pid { proportional: 0.3, integral: 0.1, derivative: 0.2, smoothing, cap: None };
        let exponentiated = Ascent::Exponentiated { rate: 0.05, cap: 10.0, floor: 0.1 };
        for rule in [Ascent::default(), Ascent::beaver(), exponentiated, pid(0.0), pid(0.9)] {
            for (cost, sign) in [(0.7, 1.0), (-0.7, -1.0)] {
                let path = path(rule, &[cost; 30]);
                // The proportional term of a controller acts at once, so its first step is one from no violation.
                assert!(path.windows(2).skip(1).all(|two| sign * (two[1] - two[0]) >= 0.0), "{rule:?} {path:?}");
                assert!(sign * (path[30] - path[0]) > 0.0, "{rule:?}");
            }
        }
    }

    #[test]
    fn a_controller_starts_without_a_kick_and_comes_back_from_both_ends() {
        let rule = Ascent::Pid { proportional: 0.0, integral: 0.1, derivative: 10.0, smoothing: 0.9, cap: Some(2.0) };
        // The first cost is no rise from 0.
        assert!((path(rule, &[5.0])[1] - 1.5).abs() < 1e-12);
        // However long the limit was violated or met, ten steps of a unit move the multiplier by one.
        let mut costs = vec![1.0; 500];
        costs.extend(vec![-1.0; 10]);
        assert!((path(rule, &costs)[510] - 1.0).abs() < 1e-12);
        let falling = Ascent::Pid { proportional: 0.0, integral: 0.1, derivative: 0.0, smoothing: 0.0, cap: None };
        let mut costs = vec![-1.0; 500];
        costs.extend(vec![1.0; 10]);
        assert!((path(falling, &costs)[510] - 1.0).abs() < 1e-12);
    }
}
