//! Weighted sums of objectives.

use serde::{Deserialize, Serialize};

use crate::dual::{Constraint, Observed};
use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::loss::{Context, Objective, Phase, StepScores};
use crate::numbers::Numbers;
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::{Needs, Rows, StepWide};

/// `Σ_k weight_k · loss_k`, each loss divided by its own totals.
///
/// The parts share one forward pass. Rewards are those of the first part that has any.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Mix, Objective, Part, Recipe, Scores, TokenScores};
/// let mix: Recipe = serde_json::from_str(
///     r#"{ "type": "mix", "parts": [ { "loss": { "type": "dpo" } }, { "weight": 0.5, "loss": { "type": "sft" } } ] }"#,
/// )?;
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-4.0, -1.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy.clone(), Some(policy));
/// let loss = mix.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // ln 2 of DPO where policy and reference agree, and half of 1.5 nats a chosen token.
/// assert!((loss.to_scalar::<f64>()? - (2f64.ln() + 0.75)).abs() < 1e-15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix<O = Recipe> {
    /// The addends.
    pub parts: Vec<Part<O>>,
}

/// One addend of a [`Mix`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part<O = Recipe> {
    /// Its factor; 1 if not given.
    #[serde(default = "one")]
    pub weight: f64,
    /// The objective.
    pub loss: O,
}

impl<O: Objective> Objective for Mix<O> {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn needs(&self) -> Needs {
        self.parts.iter().map(|part| part.loss.needs()).fold(Needs::of(Rows::ANY), Needs::and)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        let updates = self.parts.iter().map(|part| part.loss.reference_update());
        updates.into_iter().find(|update| *update != ReferenceUpdate::Frozen).unwrap_or_default()
    }

    fn validate(&self) -> Result<()> {
        if self.parts.is_empty() {
            return Err(Error::Mix("got no parts, expected at least one".to_owned()));
        }
        for part in &self.parts {
            part.loss.validate()?;
            if !part.weight.is_finite() {
                let expected = "a finite number";
                return Err(Error::Parameter {
                    loss: "mix".to_owned(),
                    parameter: "weight",
                    got: part.weight,
                    expected,
                });
            }
        }
        self.check_together()
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let parts = self.parts.iter_mut().map(|part| part.loss.prepare(step, phase)).collect::<Result<Vec<_>>>()?;
        let mut whole = Context::default();
        for (index, part) in parts.iter().enumerate() {
            for (name, &value) in &part.scalars {
                let name = if whole.scalars.contains_key(name) { format!("{name}/{index}") } else { name.clone() };
                whole.scalars.insert(name, value);
            }
        }
        whole.parts = parts;
        Ok(whole)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        self.evaluate_with(scores, context, &self.parts.iter().map(|part| part.weight).collect::<Vec<_>>())
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        self.parts.iter().map(|part| Some(part.weight * part.loss.loss_at_zero_margin()?)).sum()
    }

    /// Those of the first part that has some: every such part takes the same costs.
    fn constraints(&self) -> Vec<Constraint> {
        self.parts.iter().map(|part| part.loss.constraints()).find(|of| !of.is_empty()).unwrap_or_default()
    }

    /// Every part that reads costs takes them, or none does.
    fn observe(&mut self, observed: &Observed) -> Result<()> {
        if !self.observes() {
            return Err(Error::ReadsNoCosts { objective: self.name() });
        }
        let mark = self.mark();
        let mut readers = self.parts.iter_mut().filter(|part| part.loss.observes());
        let taken = readers.try_for_each(|part| part.loss.observe(observed));
        if let (Err(_), Some(mark)) = (&taken, mark) {
            self.undo(&mark)?;
        }
        taken
    }

    fn state(&self) -> Option<serde_json::Value> {
        of_parts(self.parts.iter().map(|part| part.loss.state()).collect())
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let count = self.parts.len();
        let states = state
            .as_array()
            .filter(|states| states.len() == count)
            .ok_or_else(|| Error::State(format!("a mix of {count} parts expects as many states, got {state}")))?;
        for (part, state) in self.parts.iter_mut().zip(states) {
            if !state.is_null() {
                part.loss.restore(state)?;
            } else if part.loss.state().is_some() {
                let name = part.loss.name();
                return Err(Error::State(format!(
                    "the part {name} of a mix has state, and the checkpoint holds none for it"
                )));
            }
        }
        Ok(())
    }

    fn mark(&mut self) -> Option<serde_json::Value> {
        of_parts(self.parts.iter_mut().map(|part| part.loss.mark()).collect())
    }

    fn undo(&mut self, mark: &serde_json::Value) -> Result<()> {
        let marks = mark.as_array().into_iter().flatten();
        let mut marked = self.parts.iter_mut().zip(marks).filter(|(_, mark)| !mark.is_null());
        marked.try_for_each(|(part, mark)| part.loss.undo(mark))
    }
}

impl<O: Objective> Mix<O> {
    /// The terms of all parts, with other weights than their own.
    pub(crate) fn evaluate_with(&self, scores: &Scores, context: &Context, weights: &[f64]) -> Result<LossTerms> {
        let mut sum = LossTerms::new([]);
        for (index, (part, weight)) in self.parts.iter().zip(weights).enumerate() {
            let LossTerms { mut terms, rewards, mut metrics } = part.loss.evaluate(scores, &context.part(index))?;
            for term in &mut terms {
                term.weight *= weight;
            }
            sum.terms.append(&mut terms);
            // As with numbers of the context: the mean over two parts would be the metric of neither.
            for metric in &mut metrics {
                if sum.metrics.iter().any(|known| known.name == metric.name) {
                    metric.name = format!("{}/{index}", metric.name).into();
                }
            }
            sum.metrics.append(&mut metrics);
            sum.rewards = sum.rewards.or(rewards);
        }
        Ok(sum)
    }

    fn check_together(&self) -> Result<()> {
        let needs: Vec<Needs> = self.parts.iter().map(|part| part.loss.needs()).collect();
        if let Some(place) = needs.iter().position(|one| one.preferences > 0) {
            let name = self.parts[place].loss.name();
            return Err(Error::Mix(format!(
                "part {place} is {name}, which tells the model its preference: put it outside"
            )));
        }
        // Every part that follows costs takes the same ones.
        let follow: Vec<Vec<Constraint>> = self.parts.iter().map(|part| part.loss.constraints()).collect();
        let mut follow = follow.iter().enumerate().filter(|(_, of)| !of.is_empty());
        if let Some((first, constraints)) = follow.next()
            && let Some((other, _)) = follow.find(|(_, of)| *of != constraints)
        {
            return Err(Error::Mix(format!(
                "parts {first} and {other} have other lists of `dual`, and costs come once for both: give both the same dual, lambda and beta"
            )));
        }
        if !self.needs().rows.any() {
            let reads: Vec<String> =
                needs.iter().enumerate().map(|(i, one)| format!("part {i} reads {}", one.rows)).collect();
            return Err(Error::Mix(format!("{}: no data serves all", reads.join(", "))));
        }
        let scored = needs.iter().position(|one| one.scored != needs[0].scored);
        if let Some(other) = scored {
            return Err(Error::Mix(format!("parts 0 and {other} score different tokens, which one pass cannot give")));
        }
        let values = needs.iter().position(|one| one.outputs.values != needs[0].outputs.values);
        if let Some(other) = values {
            return Err(Error::Mix(format!(
                "of parts 0 and {other} one reads values of a score model and one log-probabilities of tokens, which no model gives both"
            )));
        }
        if needs.iter().try_fold(Numbers::NONE, |sum, one| sum.union(one.numbers)).is_none() {
            return Err(Error::Mix(format!(
                "the parts read more than {} numbers an item, or one number in two ranges",
                Numbers::CAPACITY
            )));
        }
        let update = self.reference_update();
        let anchored = self.parts.iter().filter(|part| part.loss.needs().reference);
        let other = anchored.map(|part| &part.loss).find(|loss| loss.reference_update() != update);
        if let Some(other) = other {
            return Err(Error::Mix(format!(
                "{} compares with a reference that moves otherwise than that of another part, and there is one reference",
                other.name()
            )));
        }
        let mut wide = needs.iter().enumerate().filter(|(_, one)| one.step_wide != StepWide::Nothing);
        let Some((first, one)) = wide.next() else { return Ok(()) };
        match wide.find(|(_, other)| other.step_wide != one.step_wide) {
            Some((second, _)) => Err(Error::Mix(format!(
                "parts {first} and {second} look at different parts of the whole step, which one pass cannot give"
            ))),
            None => Ok(()),
        }
    }
}

/// One value a part, null where it has none; None where no part has any.
fn of_parts(values: Vec<Option<serde_json::Value>>) -> Option<serde_json::Value> {
    let any = values.iter().any(Option::is_some);
    any.then(|| values.into_iter().map(Option::unwrap_or_default).collect())
}

fn one() -> f64 {
    1.0
}
