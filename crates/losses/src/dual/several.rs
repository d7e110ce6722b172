//! Several constraints at once.

use serde_json::{Value, json};

use super::variable::{DualSettings, DualVariable, Readings};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::loss::Context;

/// What fresh completions of the policy were scored at. With several ranks, those of all of them, in the same order on
/// each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Costs, one list a constraint, one number a completion.
    pub costs: Vec<Vec<f64>>,
    /// Rewards of the completions, which are only reported; may be empty.
    pub rewards: Vec<f64>,
}

/// The multipliers of several constraints, each with its own settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Duals {
    variables: Vec<DualVariable>,
    reward: Option<f64>,
}

impl Duals {
    /// One multiplier a constraint, with where it starts.
    ///
    /// # Errors
    /// As [`DualVariable::new`], or if there are not as many starts as constraints.
    pub fn new(settings: &[DualSettings], initial: &[f64]) -> Result<Self> {
        if settings.len() != initial.len() {
            return Err(Error::Dual(format!(
                "got {} multipliers to start from for {} constraints, expected one each",
                initial.len(),
                settings.len()
            )));
        }
        let variables = settings.iter().zip(initial).map(|(settings, &initial)| DualVariable::new(*settings, initial));
        Ok(Self { variables: variables.collect::<Result<_>>()?, reward: None })
    }

    /// `λ` of every constraint, as the policy is to use it now.
    pub fn multipliers(&self) -> Vec<f64> {
        self.variables.iter().map(DualVariable::multiplier).collect()
    }

    /// The weights of reward and costs that the multipliers give.
    ///
    /// # Errors
    /// None that a rule within its bounds can give.
    pub fn weights(&self) -> Result<Weights> {
        Weights::of(&self.multipliers())
    }

    /// Takes costs of every constraint.
    ///
    /// # Errors
    /// If there are not as many lists as constraints, or as [`DualVariable::observe`]; then nothing is taken.
    pub fn observe(&mut self, observed: &Observed) -> Result<()> {
        if observed.costs.len() != self.variables.len() {
            return Err(Error::Dual(format!(
                "got costs of {} constraints, expected {}",
                observed.costs.len(),
                self.variables.len()
            )));
        }
        let mut next = self.variables.clone();
        for (index, (variable, costs)) in next.iter_mut().zip(&observed.costs).enumerate() {
            let named = |error: Error| Error::Dual(format!("constraint {}: {error}", index + 1));
            variable.observe(costs).map_err(named)?;
        }
        self.variables = next;
        let count = observed.rewards.len() as f64;
        self.reward = (count > 0.0).then(|| observed.rewards.iter().sum::<f64>() / count);
        Ok(())
    }

    /// The steps of all multipliers that belong to an optimizer step; see [`DualVariable::step`].
    pub fn step(&mut self) -> Context {
        for variable in &mut self.variables {
            variable.step();
        }
        self.context()
    }

    /// What is known now, as numbers to log: `lambda`, `expected_cost`, `violation` and `p_unsafe`, of further
    /// constraints with `_2`, `_3`, … behind the name, and `expected_reward` where rewards were given.
    pub fn context(&self) -> Context {
        let mut context = Context::default();
        for (index, variable) in self.variables.iter().enumerate() {
            let Readings { multiplier, expected_cost, violation, unsafe_share } = variable.readings();
            let numbers = [
                ("lambda", Some(multiplier)),
                ("expected_cost", expected_cost),
                ("violation", violation),
                ("p_unsafe", unsafe_share),
            ];
            for (name, value) in numbers {
                if let Some(value) = value {
                    context.scalars.insert(scalar_name(name, index), value);
                }
            }
        }
        context.scalars.extend(self.reward.map(|reward| ("expected_reward".to_owned(), reward)));
        context
    }

    /// What a checkpoint must hold.
    pub fn state(&self) -> Value {
        let variables: Vec<Value> = self.variables.iter().map(DualVariable::state).collect();
        json!({ "variables": variables, "expected_reward": self.reward })
    }

    /// Takes up saved state.
    ///
    /// # Errors
    /// As [`DualVariable::restore`], or if it is of another number of constraints; then nothing changes.
    pub fn restore(&mut self, state: &Value) -> Result<()> {
        let count = self.variables.len();
        let states = state.get("variables").and_then(Value::as_array).filter(|states| states.len() == count);
        let unfit = || Error::State(format!("{count} constraints expect as many states, got {state}"));
        let states = states.ok_or_else(unfit)?;
        let reward = state.get("expected_reward").and_then(Value::as_f64);
        let mut next = self.variables.clone();
        next.iter_mut().zip(states).try_for_each(|(variable, state)| variable.restore(state))?;
        (self.variables, self.reward) = (next, reward);
        Ok(())
    }
}

/// The name under which a number of a constraint is logged, such as `lambda`; constraints count from 0, and the first has
/// nothing behind the name.
pub fn scalar_name(name: &str, constraint: usize) -> String {
    if constraint == 0 { name.to_owned() } else { format!("{name}_{}", constraint + 1) }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_named_by_their_place() {
        let settings = [DualSettings::default(), DualSettings { limit: 1.0, ..DualSettings::default() }];
        let mut duals = Duals::new(&settings, &[1.0, 0.5]).unwrap();
        duals.observe(&Observed { costs: vec![vec![1.0, -1.0], vec![3.0]], rewards: vec![2.0, 4.0] }).unwrap();
        let context = duals.step();
        let names: Vec<&str> = context.scalars.keys().map(String::as_str).collect();
        let of_each = ["expected_cost", "expected_cost_2", "expected_reward", "lambda", "lambda_2", "p_unsafe"];
        assert_eq!(names, [&of_each[..], &["p_unsafe_2", "violation", "violation_2"]].concat());
        assert_eq!(duals.multipliers(), [1.0, 0.6]);
        assert_eq!(context.scalar("expected_reward").unwrap(), 3.0);
        let weights = duals.weights().unwrap();
        assert!((weights.costs[1] - 0.6 / 2.6).abs() < 1e-15);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut duals = Duals::new(&[DualSettings::default(); 2], &[1.0, 1.0]).unwrap();
        let before = duals.clone();
        let observe = |duals: &mut Duals, costs| duals.observe(&Observed { costs, rewards: vec![] }).unwrap_err();
        let few = observe(&mut duals, vec![vec![1.0]]).to_string();
        assert!(few.contains("got costs of 1 constraints, expected 2"), "{few}");
        let wrong = observe(&mut duals, vec![vec![1.0], vec![f64::NAN]]).to_string();
        assert!(wrong.contains("constraint 2: ") && wrong.contains("cost 0: got NaN"), "{wrong}");
        let half = json!({ "variables": [duals.state()["variables"][0], null] });
        assert!(duals.restore(&half).is_err());
        assert_eq!(duals, before);
        assert!(Duals::new(&[DualSettings::default()], &[]).is_err());
    }
}
