//! The worst of several objectives.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::{Scores, Totals};
use crate::loss::{Context, Objective, Phase, StepScores, forward_state};
use crate::mix::Mix;
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::{Needs, Rows, StepWide, Teacher};

/// The worst of several objectives, each measured from its ideal: what a weighted sum cannot reach where the front of
/// trade-offs is dented.
///
/// # Formula
/// `max_k w_k·(L_k − i_k)` over the parts of a mix, with `L_k` the loss of part `k` over the whole step, `w_k` its
/// weight and `i_k` its ideal; with a temperature `T > 0`, `T·log Σ_k exp(w_k·(L_k − i_k)/T)`. The shares of the
/// parts, `s_k = softmax(w_k·(L_k − i_k)/T)` or all of it for the worst (the first of equals), are found before the
/// step and are detached. What is reported as the loss is `Σ_k s_k·w_k·L_k`, whose gradient is that of the maximum.
///
/// # Gradient
/// `Σ_k s_k·w_k·∇L_k`.
///
/// # When to use
/// Two or more objectives none of which may fall behind, and no idea of what one is worth in the other. Where that is
/// known a sum, `mix`, is cheaper; where one of them is a limit, see
/// [`SafeRlhfLagrangian`](crate::SafeRlhfLagrangian). Every step is scored twice.
///
/// # Source
/// The Tchebycheff scalarisation of multi-objective optimisation (Bowman 1976; smooth: Lin et al. 2024, arXiv
/// 2402.19078), as Panacea (Zhong et al. 2024, arXiv 2402.02030) uses it for preferences. Not verified: Panacea's
/// details are second-hand. Confidence C.
///
/// # Deviations
/// From Panacea: the weights are fixed and not an input of the model; [`Panacea`](crate::Panacea) is the other way.
///
/// # Checked by
/// Properties only, because no recorded values are at hand. Against the maximum by central differences.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Objective, Phase, Recipe, Scores, Solo, StepScores, TokenScores};
/// let mut worst: Recipe = serde_json::from_str(
///     r#"{ "type": "tchebycheff", "ideals": [0.0, 0.5],
///          "mix": { "parts": [ { "loss": { "type": "dpo" } }, { "weight": 0.5, "loss": { "type": "sft" } } ] } }"#,
/// )?;
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -3.0], [-4.0, -1.0]], &Device::Cpu)?)?;
/// let step = [Scores::of_pairs(policy.clone(), Some(policy))];
/// let context = worst.prepare(&StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// // ln 2 of DPO where policy and reference agree, against ½·(2 − ½) of imitation.
/// assert_eq!(context.scalar("share/1")?, 1.0);
/// let loss = worst.evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 1.0); // ½·2
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tchebycheff<O = Recipe> {
    /// The objectives and their weights, each positive.
    pub mix: Mix<O>,
    /// `i_k`, what the loss of every part could be at best, one a part. Default 0 for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ideals: Vec<f64>,
    /// `T`, over what difference of weighted losses the parts share the step; at least 0. Default 0: the worst has all.
    #[serde(default)]
    pub temperature: f64,
}

impl<O: Objective> Objective for Tchebycheff<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { step_wide: StepWide::AllRows, ..self.mix.needs() }
    }

    fn validate(&self) -> Result<()> {
        self.mix.validate()?;
        let wrong =
            |parameter, got, expected| Err(Error::Parameter { loss: NAME.to_owned(), parameter, got, expected });
        if let Some(part) = self.mix.parts.iter().find(|part| part.weight <= 0.0) {
            return wrong("weight", part.weight, "a positive number");
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return wrong("temperature", self.temperature, "a number of at least 0");
        }
        check_ideals(NAME, &self.ideals, self.mix.parts.len())?;
        check_known_before(NAME, &self.mix.needs())
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let mut context = self.mix.prepare(step, phase)?;
        let losses = losses_of_step(&self.mix, step, &context)?;
        for (index, (share, loss)) in self.shares(&losses).into_iter().zip(losses).enumerate() {
            context.scalars.insert(share_name(index), share);
            context.scalars.insert(format!("loss/{index}"), loss);
        }
        Ok(context)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        let needs = self.needs();
        if !needs.rows.intersection(Rows::of(scores)).any() {
            return Err(needs.unmet(NAME, scores));
        }
        let weights = self.mix.parts.iter().enumerate();
        let weights = weights.map(|(index, part)| Ok(part.weight * context.scalar(&share_name(index))?));
        self.mix.evaluate_with(scores, context, &weights.collect::<Result<Vec<_>>>()?)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.mix.reference_update()
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        None
    }

    forward_state!(mix);
}

impl<O: Objective> Tchebycheff<O> {
    /// What part of the step each of the parts has; NaN for all where a loss is.
    fn shares(&self, losses: &[f64]) -> Vec<f64> {
        let ideal = |place: usize| self.ideals.get(place).copied().unwrap_or_default();
        let measured = losses.iter().zip(&self.mix.parts).enumerate();
        let measured: Vec<f64> = measured.map(|(place, (loss, part))| part.weight * (loss - ideal(place))).collect();
        shares(&measured, self.temperature)
    }
}

/// Refuses ideals that are not one finite number a part.
pub(crate) fn check_ideals(loss: &str, ideals: &[f64], parts: usize) -> Result<()> {
    let wrong = |got, expected| Err(Error::Parameter { loss: loss.to_owned(), parameter: "ideals", got, expected });
    if !ideals.is_empty() && ideals.len() != parts {
        return wrong(ideals.len() as f64, "one a part, or none");
    }
    match ideals.iter().find(|ideal| !ideal.is_finite()) {
        Some(&ideal) => wrong(ideal, "a finite number"),
        None => Ok(()),
    }
}

/// Refuses parts whose loss over the whole step is not known before it.
pub(crate) fn check_known_before(outer: &'static str, needs: &Needs) -> Result<()> {
    if needs.step_wide != StepWide::Mismatched && needs.teacher == Teacher::None {
        return Ok(());
    }
    let reason = "a part reads mismatched completions or a teacher, which are not there before the step; use a mix";
    Err(Error::Wrapped { outer, inner: "a mix", reason: reason.to_owned() })
}

/// The loss of every part over the whole step and all ranks.
pub(crate) fn losses_of_step<O: Objective>(mix: &Mix<O>, step: &StepScores<'_>, context: &Context) -> Result<Vec<f64>> {
    let mut totals = Totals::default();
    step.micro.iter().for_each(|scores| totals += scores.totals());
    let mut counts = totals.to_array();
    step.collective.sum(&mut counts)?;
    let totals = Totals::from_array(counts);
    let mut losses = vec![0.0; mix.parts.len()];
    for (index, scores) in step.micro.iter().enumerate() {
        let context = context.micro(index);
        for (place, (sum, part)) in losses.iter_mut().zip(&mix.parts).enumerate() {
            let loss = part.loss.evaluate(scores, &context.part(place))?.loss(&totals)?;
            *sum += loss.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        }
    }
    step.collective.sum(&mut losses)?;
    Ok(losses)
}

/// `softmax(measured/T)`, or at a temperature of 0 all of it for the first of the largest; NaN for all where one is.
pub(crate) fn shares(measured: &[f64], temperature: f64) -> Vec<f64> {
    if measured.iter().any(|value| value.is_nan()) {
        return vec![f64::NAN; measured.len()];
    }
    let highest = measured.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let of = |value: f64| if value >= highest { 1.0 } else { ((value - highest) / temperature).exp() };
    let mut shares: Vec<f64> = measured.iter().map(|&value| of(value)).collect();
    if temperature <= 0.0 {
        let first = measured.iter().position(|&value| value >= highest);
        shares = (0..measured.len()).map(|place| f64::from(u8::from(Some(place) == first))).collect();
    }
    let total: f64 = shares.iter().sum();
    shares.iter().map(|share| share / total).collect()
}

fn share_name(index: usize) -> String {
    format!("share/{index}")
}

const NAME: &str = "tchebycheff";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kto, Part, Sft, Solo, TokenScores};
    use candle_core::{Device, Tensor, Var};
    use candlewick_testkit::{central_difference, worst};

    fn recipe(temperature: f64) -> Recipe {
        let json = format!(
            r#"{{ "type": "tchebycheff", "temperature": {temperature}, "ideals": [0.1, 0.2],
                 "mix": {{ "parts": [ {{ "loss": {{ "type": "dpo", "beta": 0.5 }} }},
                                      {{ "weight": 0.4, "loss": {{ "type": "sft" }} }} ] }} }}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    /// Two micro-batches of one pair each: the variable, and the scores.
    fn step(values: &[f64]) -> (Var, Vec<Scores>) {
        let own = Var::from_vec(values.to_vec(), (4, 1), &Device::Cpu).unwrap();
        let reference = TokenScores::unmasked(Tensor::full(-1.5f64, (2, 1), &Device::Cpu).unwrap()).unwrap();
        let micro = |row: usize| {
            let rows = own.narrow(0, row, 2).unwrap();
            Scores::of_pairs(TokenScores::unmasked(rows).unwrap(), Some(reference.clone()))
        };
        let micro = vec![micro(0), micro(2)];
        (own, micro)
    }

    fn losses(recipe: &mut Recipe, values: &[f64]) -> (Context, Vec<f64>, f64) {
        let (own, micro) = step(values);
        let context = recipe.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
        let mut totals = Totals::default();
        micro.iter().for_each(|scores| totals += scores.totals());
        let mut sum: Option<Tensor> = None;
        for (index, scores) in micro.iter().enumerate() {
            let loss = recipe.evaluate(scores, &context.micro(index)).unwrap().loss(&totals).unwrap();
            sum = Some(match sum {
                None => loss,
                Some(sum) => (sum + loss).unwrap(),
            });
        }
        let gradient = sum.unwrap().backward().unwrap().get(&own).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let worst = (0..2).map(|part| {
            let (weight, ideal) = [(1.0, 0.1), (0.4, 0.2)][part];
            weight * (context.scalar(&format!("loss/{part}")).unwrap() - ideal)
        });
        let measured: Vec<f64> = worst.collect();
        let highest = measured.iter().copied().fold(f64::MIN, f64::max);
        (context, gradient, highest)
    }

    #[test]
    fn the_gradient_is_that_of_the_maximum_over_the_step() {
        for values in [[-1.0, -3.0, -0.4, -2.0], [-5.0, -9.0, -7.0, -8.0]] {
            let mut worst_of = recipe(0.0);
            let (_, gradient, _) = losses(&mut worst_of, &values);
            let numeric = central_difference(|at| losses(&mut recipe(0.0), at).2, &values, 1e-6);
            assert!(worst(&gradient, &numeric) < 1e-8, "{gradient:?} {numeric:?}");
            let smooth = |at: &[f64]| {
                let (context, ..) = losses(&mut recipe(0.3), at);
                let of = |part: usize| context.scalar(&format!("loss/{part}")).unwrap();
                0.3 * (((of(0) - 0.1) / 0.3).exp() + (0.4 * (of(1) - 0.2) / 0.3).exp()).ln()
            };
            let (_, gradient, _) = losses(&mut recipe(0.3), &values);
            let numeric = central_difference(smooth, &values, 1e-6);
            assert!(worst(&gradient, &numeric) < 1e-8, "{gradient:?} {numeric:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let part = |weight, loss: Recipe| Part { weight, loss };
        let sft = || Recipe::Builtin(Sft {}.into());
        let of = |parts| Tchebycheff { mix: Mix { parts }, ideals: Vec::new(), temperature: 0.0 };
        let refused = |it: Tchebycheff| it.validate().unwrap_err().to_string();
        assert!(refused(of(vec![part(0.0, sft())])).contains("tchebycheff.weight: got 0"));
        let kto = Recipe::Builtin(Kto::default().into());
        assert!(
            refused(of(vec![part(1.0, kto)])).starts_with("tchebycheff cannot wrap a mix: a part reads mismatched")
        );
        assert!(
            refused(Tchebycheff { temperature: -1.0, ..of(vec![part(1.0, sft())]) }).contains("temperature: got -1")
        );
        assert!(
            refused(Tchebycheff { ideals: vec![1.0, 2.0], ..of(vec![part(1.0, sft())]) }).contains("ideals: got 2")
        );
    }
}
