//! One constraint and its multiplier.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ascent::{Ascent, Position};
use super::table::CostMeasure;
use super::window::{Seen, Window};
use crate::error::{Error, Result};

/// What a constraint is, and how its multiplier follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DualSettings {
    /// `d`, the most that the measured cost may be; finite. Default 0, which is not safe by itself: see
    /// [`threshold_for_target_rate`](super::threshold_for_target_rate).
    pub limit: f64,
    /// What is held below the limit. Default the mean cost.
    pub measure: CostMeasure,
    /// The rule. Default [`Ascent::Linear`].
    pub ascent: Ascent,
    /// The costs it looks at. Default [`Window::Latest`].
    pub window: Window,
    /// Whether it moves before or after the policy. Default before.
    pub order: Order,
}

/// A constraint of an objective whose multipliers move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constraint {
    /// What it is, and how its multiplier follows it.
    pub settings: DualSettings,
    /// Where its multiplier starts.
    pub start: f64,
    /// The weight of the divergence from the reference, per nat.
    pub beta: f64,
}

/// When a multiplier moves within a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First the multiplier and then the policy, which uses the new one: as in Safe RLHF. It admits far larger rates.
    #[default]
    Before,
    /// The policy uses the old multiplier: both move at once.
    After,
}

/// A multiplier that follows the costs of a policy.
///
/// Costs are given by [`observe`](Self::observe), as often as there are any; [`step`](Self::step) is called once an
/// optimizer step, moves the multiplier if costs were given since the last, and says what the policy's step is to use.
/// All in double precision, on the host.
///
/// ```
/// use candlewick_losses::dual::{Ascent, DualSettings, DualVariable};
/// let ascent = Ascent::Linear { rate: 0.5, cap: None };
/// let mut dual = DualVariable::new(DualSettings { limit: 0.1, ascent, ..DualSettings::default() }, 1.0)?;
/// dual.observe(&[0.2, 0.8])?;
/// let readings = dual.step();
/// assert_eq!((readings.multiplier, readings.violation), (1.2, Some(0.4))); // 1 + ½·(½ − 0.1)
/// // Nothing new was seen: it stays.
/// assert_eq!(dual.step().multiplier, 1.2);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DualVariable {
    settings: DualSettings,
    saved: Saved,
}

/// What a checkpoint holds of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    at: Position,
    /// The multiplier that the policy uses.
    in_use: f64,
    seen: Seen,
    /// Whether costs were given that no step has used.
    fresh: bool,
}

/// What a multiplier and its constraint are at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Readings {
    /// `λ`, as the policy's step is to use it.
    pub multiplier: f64,
    /// `J`, the mean over the window; `None` before the first cost.
    pub expected_cost: Option<f64>,
    /// `J − d`.
    pub violation: Option<f64>,
    /// The share of costs above 0 over the window.
    pub unsafe_share: Option<f64>,
}

impl DualSettings {
    /// Which rule and which window it has: what was saved under others means something else.
    fn kinds(&self) -> Value {
        let kind = |value: Option<Value>| match value {
            Some(Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
            Some(Value::String(word)) => word,
            _ => String::new(),
        };
        json!([kind(serde_json::to_value(self.ascent).ok()), kind(serde_json::to_value(self.window).ok())])
    }

    /// The settings of Safe RLHF (Beaver) as released: a limit of 0 on the mean of the last 128 costs, gradient ascent
    /// on `log λ` before the policy's step. It starts at 1. To have its optimum too, the penalty must stand in [both
    /// streams](crate::policy_gradient::KlPlacement::Both).
    ///
    /// ```
    /// use candlewick_losses::dual::{DualSettings, DualVariable};
    /// let mut beaver = DualVariable::new(DualSettings::beaver(), 1.0)?;
    /// beaver.observe(&[1.6, 0.0])?;
    /// assert!((beaver.step().multiplier - 0.08f64.exp()).abs() < 1e-15);
    /// # Ok::<(), candlewick_losses::Error>(())
    /// ```
    pub fn beaver() -> Self {
        Self { ascent: Ascent::beaver(), window: Window::Last { costs: 128 }, ..Self::default() }
    }

    /// The first setting that is out of range: its name, its value, and the range.
    pub(crate) fn fault(&self) -> Option<(&'static str, f64, &'static str)> {
        let limit = (!self.limit.is_finite()).then_some(("dual.limit", self.limit, "a finite number"));
        limit.or_else(|| self.ascent.fault()).or_else(|| self.window.fault())
    }

    /// The multipliers that it can take, from and to.
    pub fn bounds(&self) -> (f64, f64) {
        self.ascent.bounds()
    }

    /// The rate (of a controller, `integral`) from which on multiplier and policy oscillate ever more, where the policy
    /// is to settle: `β/(τ·Var_π(c))`, with `τ` the steps by which the costs it looks at are older than those of the
    /// policy that it acts on: 1 where it moves [`After`](Order::After) the policy, and half of a window's length less
    /// one. On `log λ` a step is one of `λ` times `λ²` (of [`Ascent::Exponentiated`], times `λ`), and a proportional
    /// term adds to `β`.
    ///
    /// It does not depend on the learning rate of the policy, to the first order. Where `τ` is 0 the first order says
    /// nothing and the limit is infinite. Without `β` and a proportional term nothing damps the two: no rate settles, and
    /// the limit is 0. `variance` is the mean over prompts of the variance of the measured cost
    /// under the policy ([`Optimum::variances`](super::Optimum::variances) has it; of a rate it is at most ¼), and
    /// `multiplier` the one that it will settle at. Stay at a tenth of the limit.
    ///
    /// ```
    /// use candlewick_losses::dual::{DualSettings, Order, Window};
    /// let dual = DualSettings { order: Order::After, ..DualSettings::default() };
    /// assert_eq!(dual.largest_rate(0.1, 0.25, 1.0, 16), 0.4);
    /// let windowed = DualSettings { window: Window::Last { costs: 128 }, ..DualSettings::default() };
    /// assert!((windowed.largest_rate(0.1, 0.25, 1.0, 16) - 2.0 * 0.1 / (7.0 * 0.25)).abs() < 1e-15);
    /// ```
    pub fn largest_rate(&self, beta: f64, variance: f64, multiplier: f64, costs_a_step: usize) -> f64 {
        let delay = self.window.delay(costs_a_step) + self.lag();
        self.ascent.largest_rate(delay, beta, variance, multiplier)
    }

    /// The same where costs come in rounds, every so many steps of the policy, and the multiplier steps once a round: the
    /// lower of two limits. To the first order it is `every·β/(τ·Var_π(c))`, where a window counts rounds and
    /// [`After`](Order::After) one step of the policy. A policy that is done moving before the next round comes settles
    /// below `2β/Var_π(c)`, however rarely it comes; one that takes longer admits more.
    ///
    /// ```
    /// use candlewick_losses::dual::{DualSettings, Window};
    /// let dual = DualSettings::default();
    /// assert_eq!(dual.largest_rate_of_rounds(0.1, 0.25, 1.0, 16, 8), 2.0 * 0.1 / 0.25);
    /// let windowed = DualSettings { window: Window::Last { costs: 128 }, ..dual };
    /// let rate = windowed.largest_rate_of_rounds(0.1, 0.25, 1.0, 16, 8);
    /// assert!((rate - 2.0 * 0.1 / (7.0 * 0.25)).abs() < 1e-15);
    /// ```
    pub fn largest_rate_of_rounds(
        &self,
        beta: f64,
        variance: f64,
        multiplier: f64,
        costs_a_round: usize,
        every: u64,
    ) -> f64 {
        let rounds = self.window.delay(costs_a_round) + self.lag() / every.max(1) as f64;
        self.ascent.largest_rate(rounds.max(0.5), beta, variance, multiplier)
    }

    /// Steps of the policy that the multiplier comes late by.
    fn lag(&self) -> f64 {
        if self.order == Order::After { 1.0 } else { 0.0 }
    }
}

impl DualVariable {
    /// A multiplier that starts at `initial`, within the bounds of its rule.
    ///
    /// # Errors
    /// Names the setting that is out of range, its value and its range.
    pub fn new(settings: DualSettings, initial: f64) -> Result<Self> {
        let (low, high) = settings.bounds();
        let outside = (!(low..=high).contains(&initial)).then_some((
            "initial multiplier",
            initial,
            "a number within the bounds of the rule (floor or 0, to cap)",
        ));
        if let Some((parameter, got, expected)) = settings.fault().or(outside) {
            return Err(Error::Parameter { loss: "dual variable".to_owned(), parameter, got, expected });
        }
        let at = settings.ascent.start(initial);
        Ok(Self { settings, saved: Saved { at, in_use: initial, seen: Seen::default(), fresh: false } })
    }

    /// Its settings.
    pub fn settings(&self) -> &DualSettings {
        &self.settings
    }

    /// `λ`, as the policy is to use it now.
    pub fn multiplier(&self) -> f64 {
        self.saved.in_use
    }

    /// Costs of fresh completions of the policy, as they were scored; those of all ranks, in the same order on each.
    ///
    /// # Errors
    /// If there is none, or one is not finite; then none is taken.
    pub fn observe(&mut self, costs: &[f64]) -> Result<()> {
        if costs.is_empty() {
            return Err(Error::Dual(
                "got no costs, expected one a completion; give none only by not calling".to_owned(),
            ));
        }
        if let Some((place, got)) = costs.iter().enumerate().find(|(_, cost)| !cost.is_finite()) {
            return Err(Error::Dual(format!(
                "cost {place}: got {got}, expected a finite number; look at its completion"
            )));
        }
        let measured: Vec<(f64, bool)> =
            costs.iter().map(|&cost| (self.settings.measure.of(cost), cost > 0.0)).collect();
        self.settings.window.add(&mut self.saved.seen, &measured);
        self.saved.fresh = true;
        Ok(())
    }

    /// The step of the multiplier that belongs to an optimizer step: call it once, before the policy's. Without costs
    /// since the last call it stays where it is.
    pub fn step(&mut self) -> Readings {
        if self.settings.order == Order::After {
            self.saved.in_use = self.saved.at.multiplier;
        }
        if let Some((cost, _)) = self.settings.window.means(&self.saved.seen).filter(|_| self.saved.fresh) {
            self.settings.ascent.step(&mut self.saved.at, cost, cost - self.settings.limit);
            self.saved.fresh = false;
        }
        if self.settings.order == Order::Before {
            self.saved.in_use = self.saved.at.multiplier;
        }
        self.readings()
    }

    /// What is known now.
    pub fn readings(&self) -> Readings {
        let means = self.settings.window.means(&self.saved.seen);
        let expected_cost = means.map(|(cost, _)| cost);
        Readings {
            multiplier: self.saved.in_use,
            expected_cost,
            violation: expected_cost.map(|cost| cost - self.settings.limit),
            unsafe_share: means.map(|(_, share)| share),
        }
    }

    /// What a checkpoint must hold: the multiplier, the window and the averages.
    pub fn state(&self) -> Value {
        json!({ "format": FORMAT, "kinds": self.settings.kinds(), "dual": self.saved })
    }

    /// Takes up saved state.
    ///
    /// # Errors
    /// If it is none that [`state`](Self::state) returned, or the multiplier is out of the bounds of the rule.
    pub fn restore(&mut self, state: &Value) -> Result<()> {
        let unfit =
            || Error::State(format!("a dual variable reads format {FORMAT} with finite numbers, and got {state}"));
        if state.get("format").and_then(Value::as_u64) != Some(FORMAT) {
            return Err(unfit());
        }
        let kinds = self.settings.kinds();
        if state.get("kinds") != Some(&kinds) {
            let was = state.get("kinds").cloned().unwrap_or_default();
            return Err(Error::State(format!(
                "a dual variable was saved with ascent and window {was}, and goes on with {kinds}; give those that it was saved with"
            )));
        }
        let saved = state.get("dual").cloned().ok_or_else(unfit)?;
        let saved: Saved = serde_json::from_value(saved).map_err(|_| unfit())?;
        let (low, high) = self.settings.bounds();
        if !(saved.at.is_sound() && saved.seen.is_sound()) {
            return Err(unfit());
        }
        for multiplier in [saved.at.multiplier, saved.in_use] {
            if !(low..=high).contains(&multiplier) {
                return Err(Error::State(format!(
                    "the saved multiplier is {multiplier}, and the rule keeps it in [{low}, {high}]; use the settings of \
                     that run"
                )));
            }
        }
        self.saved = saved;
        Ok(())
    }
}

const FORMAT: u64 = 1;

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    fn dual(settings: DualSettings) -> DualVariable {
        DualVariable::new(settings, 1.0).unwrap()
    }

    fn rate(order: Order) -> DualSettings {
        DualSettings { limit: 0.25, measure: CostMeasure::Rate, order, ..DualSettings::default() }
    }

    #[test]
    fn a_rate_counts_costs_above_zero() {
        let mut dual = dual(rate(Order::Before));
        dual.observe(&[7.0, -3.0, 0.0, 0.5]).unwrap();
        let readings = dual.step();
        assert_eq!((readings.expected_cost, readings.violation), (Some(0.5), Some(0.25)));
        assert_eq!((readings.unsafe_share, readings.multiplier), (Some(0.5), 1.0 + 0.05 * 0.25));
    }

    #[test]
    fn the_policy_sees_the_new_multiplier_or_the_old_one() {
        let (mut before, mut after) = (dual(rate(Order::Before)), dual(rate(Order::After)));
        for dual in [&mut before, &mut after] {
            dual.observe(&[1.0]).unwrap();
            dual.step();
        }
        assert_eq!((before.multiplier(), after.multiplier()), (1.0 + 0.05 * 0.75, 1.0));
        after.step();
        assert_eq!(after.multiplier(), before.multiplier());
    }

    #[test]
    fn it_moves_once_for_costs_given_in_parts() {
        let mut dual = dual(DualSettings { window: Window::Last { costs: 2 }, ..DualSettings::default() });
        dual.observe(&[1.0]).unwrap();
        dual.observe(&[3.0]).unwrap();
        assert_eq!(dual.step().multiplier, 1.0 + 0.05 * 2.0);
        assert_eq!(dual.step().multiplier, 1.0 + 0.05 * 2.0);
    }

    #[test]
    fn a_saved_one_goes_on_with_the_same_bits() {
        let pid = Ascent::Pid { proportional: 0.3, integral: 0.07, derivative: 0.2, smoothing: 0.9, cap: Some(3.0) };
        let log = Ascent::Exponentiated { rate: 0.3, cap: 7.0, floor: 0.01 };
        let windows = [Window::Latest, Window::Last { costs: 5 }, Window::Average { decay: 0.7 }];
        for ascent in [Ascent::default(), Ascent::beaver(), log, pid] {
            for window in windows {
                for order in [Order::Before, Order::After] {
                    let settings = DualSettings { limit: 0.1, ascent, window, order, ..DualSettings::default() };
                    let (mut whole, mut first) = (dual(settings), dual(settings));
                    let cost = |step: u32| f64::from(step * 37 % 11) / 7.0 - 0.6;
                    let run = |dual: &mut DualVariable, steps: std::ops::Range<u32>| {
                        for step in steps {
                            dual.observe(&[cost(step), cost(step + 5)]).unwrap();
                            dual.step();
                        }
                        dual.observe(&[0.3]).unwrap();
                    };
                    run(&mut whole, 0..10);
                    run(&mut first, 0..10);
                    // As text, as a checkpoint has it.
                    let text = first.state().to_string();
                    let mut second = dual(settings);
                    second.restore(&serde_json::from_str(&text).unwrap()).unwrap();
                    assert_eq!(second, whole);
                    run(&mut whole, 10..25);
                    run(&mut second, 10..25);
                    assert_eq!(second.multiplier().to_bits(), whole.multiplier().to_bits(), "{settings:?}");
                    assert_eq!(second, whole);
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |settings, initial| DualVariable::new(settings, initial).unwrap_err().to_string();
        let fast = DualSettings { ascent: Ascent::Linear { rate: -1.0, cap: None }, ..DualSettings::default() };
        assert_eq!(wrong(fast, 1.0), "dual variable.dual.ascent.rate: got -1, expected a positive number");
        let beaver = DualSettings { ascent: Ascent::beaver(), ..DualSettings::default() };
        assert!(wrong(beaver, 0.0).contains("initial multiplier: got 0, expected a number within the bounds"));
        let mut dual = dual(DualSettings::default());
        assert!(dual.observe(&[]).unwrap_err().to_string().contains("got no costs"));
        let error = dual.observe(&[1.0, f64::NAN]).unwrap_err().to_string();
        assert!(error.contains("cost 1: got NaN, expected a finite number"), "{error}");
        assert_eq!(dual.step(), Readings { multiplier: 1.0, expected_cost: None, violation: None, unsafe_share: None });
        for state in [serde_json::json!({}), serde_json::json!({ "format": 1, "dual": { "at": 3 } })] {
            assert!(matches!(dual.restore(&state), Err(Error::State(_))));
        }
        let mut capped = DualVariable::new(beaver, 4.0).unwrap();
        let other = DualVariable::new(DualSettings::default(), 1.0).unwrap().state();
        assert!(capped.restore(&other).unwrap_err().to_string().contains("saved with ascent and window"));
        let uncapped = Ascent::LogGradient { rate: 0.1, floor: 1e-3, cap: 10.0 };
        let high =
            DualVariable::new(DualSettings { ascent: uncapped, ..DualSettings::default() }, 8.0).unwrap().state();
        assert!(capped.restore(&high).unwrap_err().to_string().contains("the saved multiplier is 8"));
    }
}
