//! Several objectives, weighted by a preference vector that the model is told.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::loss::{Context, Objective, Phase, StepScores};
use crate::mix::Mix;
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::tchebycheff::{check_ideals, check_known_before, losses_of_step, shares};
use crate::terms::LossTerms;
use crate::view::{Needs, Rows, StepWide};

/// Several objectives weighted by a preference vector that is drawn for every step and told to the model, whose adapter
/// has a singular value for each of its numbers: one model for all trade-offs.
///
/// # Formula
/// `Σ_k λ_k·w_k·L_k` over the parts of a mix, with `λ` the step's preference vector (non-negative, of sum 1), `L_k` the
/// loss of part `k` and `w_k` its weight, which brings losses of different sizes to one scale. With
/// `aggregate = "tchebycheff"` instead `max_k λ_k·w_k·(L_k − i_k)` over the whole step, with ideals `i_k`; what is
/// reported is then the addend of the worst part without its ideal, whose gradient is that of the maximum. The policy
/// is scored at the same `λ`: its Panacea adapter (`model.lora.preferences`) makes of each weight
/// `W₀ + c·U·diag(σ₁ … σ_r, s·λ₁ … s·λ_m)·Vᵀ`.
///
/// `λ` is drawn from a symmetric Dirichlet distribution, as a function of the run's seed and the number of the step
/// alone. It is reported as `preference_1`, `preference_2`, ….
///
/// # Gradient
/// `Σ_k λ_k·w_k·∇L_k`, or `λ_k·w_k·∇L_k` of the worst. None flows into `λ`.
///
/// # When to use
/// Two or more objectives that pull apart, and several trade-offs to be served or compared afterwards: each is a choice
/// of `--preference` and no training. For one trade-off that is known, a `mix` of a plain adapter is simpler. Where
/// pairs are to be in another order for each part, wrap them in [`Ordered`](crate::Ordered).
///
/// # Source
/// Zhong et al. 2024 (Panacea), arXiv 2402.02030. Known second-hand, from its abstract and a third party's
/// implementation: the adapter, that `λ` is drawn from the simplex for each batch, and both aggregates. Confidence C;
/// not verified are the distribution of `λ`, how the adapter starts, its penalty and the weight of that.
///
/// # Deviations
/// From the paper: its parts are trained by imitation, DPO or PPO, here by any objective of the library. The
/// Tchebycheff aggregate is that of [`Tchebycheff`](crate::Tchebycheff). No reference may move.
///
/// # Checked by
/// Properties only, because no recorded values are at hand. The trade-off of a trained model:
/// `crates/train/tests/panacea.rs`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Objective, Phase, Recipe, Scores, Solo, StepScores, TokenScores};
/// let mut panacea: Recipe = serde_json::from_str(
///     r#"{ "type": "panacea", "preference": [0.25, 0.75],
///          "mix": { "parts": [ { "loss": { "type": "dpo" } }, { "loss": { "type": "sft" } } ] } }"#,
/// )?;
/// // Told to the model, and the same at every step.
/// assert_eq!(panacea.begin(7, Some(1)), Some(vec![0.25, 0.75]));
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -3.0], [-4.0, -1.0]], &Device::Cpu)?)?;
/// let step = [Scores::of_pairs(policy.clone(), Some(policy))];
/// let context = panacea.prepare(&StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// let loss = panacea.evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?;
/// // ln 2 of DPO where policy and reference agree, and 2 nats a chosen token.
/// assert!((loss.to_scalar::<f64>()? - (0.25 * 2f64.ln() + 0.75 * 2.0)).abs() < 1e-15);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panacea<O = Recipe> {
    /// The objectives, two or more, and their weights, each positive.
    pub mix: Mix<O>,
    /// How the parts become one loss. Default `linear`.
    #[serde(default)]
    pub aggregate: PanaceaAggregate,
    /// `i_k`, what the loss of every part could be at best, one a part; of `tchebycheff`. Default 0 for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ideals: Vec<f64>,
    /// Of the Dirichlet distribution that `λ` is drawn from: 1 draws all vectors alike, less draws corners, more draws
    /// the middle; positive. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concentration: Option<f64>,
    /// A `λ` that stays, in the place of draws. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<Vec<f64>>,
    /// The `λ` of evaluations. Default `preference`, or else equal numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate_at: Option<Vec<f64>>,
    /// The `λ` of the step that was begun; none before the first.
    #[serde(skip)]
    begun: Option<Vec<f64>>,
}

/// How the losses of a [`Panacea`] become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PanaceaAggregate {
    /// Their weighted sum.
    #[default]
    Linear,
    /// The worst of them, each measured from its ideal.
    Tchebycheff,
}

impl<O> Panacea<O> {
    /// The weighted sum of the parts, with preferences drawn from all alike.
    pub fn new(mix: Mix<O>) -> Self {
        let aggregate = PanaceaAggregate::Linear;
        Self {
            mix,
            aggregate,
            ideals: Vec::new(),
            concentration: None,
            preference: None,
            evaluate_at: None,
            begun: None,
        }
    }

    /// The preference vector of a step that trains.
    fn of_step(&self, seed: u64, step: u64) -> Vec<f64> {
        match &self.preference {
            Some(fixed) => fixed.clone(),
            None => dirichlet(self.mix.parts.len(), self.concentration.unwrap_or(1.0), seed, step),
        }
    }

    /// The preference vector of evaluations.
    fn of_evaluation(&self) -> Vec<f64> {
        let count = self.mix.parts.len();
        let given = self.evaluate_at.as_ref().or(self.preference.as_ref());
        given.cloned().unwrap_or_else(|| vec![1.0 / count as f64; count])
    }
}

impl<O: Objective> Objective for Panacea<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        let needs = self.mix.needs();
        let step_wide = match self.aggregate {
            PanaceaAggregate::Linear => needs.step_wide,
            PanaceaAggregate::Tchebycheff => StepWide::AllRows,
        };
        Needs { step_wide, preferences: self.mix.parts.len(), ..needs }
    }

    fn begin(&mut self, seed: u64, step: Option<u64>) -> Option<Vec<f64>> {
        self.begun = Some(match step {
            Some(step) => self.of_step(seed, step),
            None => self.of_evaluation(),
        });
        self.begun.clone()
    }

    fn validate(&self) -> Result<()> {
        self.mix.validate()?;
        let parts = &self.mix.parts;
        let wrong =
            |parameter, got, expected| Err(Error::Parameter { loss: NAME.to_owned(), parameter, got, expected });
        let refused = |reason: &str| Err(Error::Wrapped { outer: NAME, inner: "a mix", reason: reason.to_owned() });
        if parts.len() < 2 {
            return wrong("mix.parts", parts.len() as f64, "two objectives or more");
        }
        if let Some(part) = parts.iter().find(|part| !part.loss.constraints().is_empty()) {
            let name = part.loss.name();
            return refused(&format!(
                "the `dual` of {name} follows answers, which are drawn at one preference alone; give multipliers in lambda and leave dual out"
            ));
        }
        if let Some(part) = parts.iter().find(|part| part.weight <= 0.0) {
            return wrong("weight", part.weight, "a positive number");
        }
        if let Some(concentration) = self.concentration {
            if !(concentration.is_finite() && concentration > 0.0) {
                return wrong("concentration", concentration, "a positive number");
            }
            if self.preference.is_some() {
                return wrong(
                    "concentration",
                    concentration,
                    "nothing beside a preference, which is drawn from nothing",
                );
            }
        }
        if self.aggregate == PanaceaAggregate::Linear && !self.ideals.is_empty() {
            return wrong(
                "ideals",
                self.ideals.len() as f64,
                "none, which a sum has no use for; or aggregate = \"tchebycheff\"",
            );
        }
        check_ideals(NAME, &self.ideals, parts.len())?;
        let given = [("preference", &self.preference), ("evaluate_at", &self.evaluate_at)];
        for (parameter, vector) in given.into_iter().filter_map(|(name, vector)| Some((name, vector.as_ref()?))) {
            if vector.len() != parts.len() {
                return wrong(parameter, vector.len() as f64, "as many numbers as there are parts");
            }
            if let Some(&weight) = vector.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
                return wrong(parameter, weight, "numbers of at least 0");
            }
            let sum: f64 = vector.iter().sum();
            if (sum - 1.0).abs() > TOLERANCE {
                return wrong(parameter, sum, "numbers with a sum of 1");
            }
        }
        let needs = self.mix.needs();
        if needs.outputs.values || needs.outputs.pooled {
            return refused(
                "a part trains a score model, which has no Panacea adapter; use losses of token log-probabilities",
            );
        }
        if self.mix.reference_update() != ReferenceUpdate::Frozen {
            return refused(
                "the reference of a part moves, and would be another at every preference; set its update to \"frozen\"",
            );
        }
        match self.aggregate {
            PanaceaAggregate::Linear => Ok(()),
            PanaceaAggregate::Tchebycheff => check_known_before(NAME, &needs),
        }
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let mut context = self.mix.prepare(step, phase)?;
        let preference = self.begun.clone().unwrap_or_else(|| self.of_evaluation());
        let mut factors = preference.clone();
        if self.aggregate == PanaceaAggregate::Tchebycheff {
            let losses = losses_of_step(&self.mix, step, &context)?;
            let ideal = |place: usize| self.ideals.get(place).copied().unwrap_or_default();
            let parts = self.mix.parts.iter().zip(&losses).zip(&preference).enumerate();
            let measured: Vec<f64> =
                parts.map(|(place, ((part, loss), weight))| weight * part.weight * (loss - ideal(place))).collect();
            factors.iter_mut().zip(shares(&measured, 0.0)).for_each(|(factor, share)| *factor *= share);
            for (index, loss) in losses.into_iter().enumerate() {
                context.scalars.insert(format!("loss/{index}"), loss);
            }
        }
        for (index, (weight, factor)) in preference.into_iter().zip(factors).enumerate() {
            context.scalars.insert(format!("preference_{}", index + 1), weight);
            if self.aggregate == PanaceaAggregate::Tchebycheff {
                context.scalars.insert(factor_name(index), factor);
            }
        }
        Ok(context)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        let needs = self.needs();
        if !needs.rows.intersection(Rows::of(scores)).any() {
            return Err(needs.unmet(NAME, scores));
        }
        let factor = |index: usize| match self.aggregate {
            PanaceaAggregate::Linear => context.scalar(&format!("preference_{}", index + 1)),
            PanaceaAggregate::Tchebycheff => context.scalar(&factor_name(index)),
        };
        let weights = self.mix.parts.iter().enumerate().map(|(index, part)| Ok(part.weight * factor(index)?));
        self.mix.evaluate_with(scores, context, &weights.collect::<Result<Vec<_>>>()?)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // Whatever the preference is, where all parts say the same.
        let parts = self.mix.parts.iter().map(|part| Some(part.weight * part.loss.loss_at_zero_margin()?));
        let parts = parts.collect::<Option<Vec<f64>>>()?;
        let (first, rest) = parts.split_first()?;
        let same = rest.iter().all(|other| (other - first).abs() <= 1e-12 * first.abs());
        (same && self.aggregate == PanaceaAggregate::Linear).then_some(*first)
    }

    fn state(&self) -> Option<serde_json::Value> {
        self.mix.state()
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.mix.restore(state)
    }

    fn mark(&mut self) -> Option<serde_json::Value> {
        self.mix.mark()
    }

    fn undo(&mut self, mark: &serde_json::Value) -> Result<()> {
        self.mix.undo(mark)
    }
}

fn factor_name(index: usize) -> String {
    format!("factor/{index}")
}

/// `count` numbers of sum 1 from a symmetric Dirichlet distribution: a function of its arguments alone. Gamma variates
/// divided by their sum, in logarithms, so that a small concentration gives corners and not 0/0.
fn dirichlet(count: usize, concentration: f64, seed: u64, step: u64) -> Vec<f64> {
    let mut random = Random(seed ^ step.wrapping_mul(0xD134_2543_DE82_EF95));
    // The first number of neighbouring states would be neighbours' too.
    random.next();
    let logs: Vec<f64> = (0..count).map(|_| log_gamma_variate(concentration, &mut random)).collect();
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The logarithm of a draw from a gamma distribution of that shape: Marsaglia and Tsang 2000, with their step up from
/// shapes below 1.
fn log_gamma_variate(shape: f64, random: &mut Random) -> f64 {
    if shape < 1.0 {
        return log_gamma_variate(shape + 1.0, random) + random.uniform().ln() / shape;
    }
    let d = shape - 1.0 / 3.0;
    loop {
        let x = random.normal();
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && random.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln();
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// By Box and Muller.
    fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// How far the sum of a preference vector may be from 1.
const TOLERANCE: f64 = 1e-6;
const NAME: &str = "panacea";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Solo, TokenScores};
    use candle_core::{Device, Tensor, Var};
    use candlewick_testkit::{central_difference, worst};

    fn recipe(more: &str) -> Panacea {
        let json = format!(
            r#"{{ "mix": {{ "parts": [ {{ "loss": {{ "type": "dpo", "beta": 0.5 }} }},
                                       {{ "weight": 0.4, "loss": {{ "type": "sft" }} }} ] }} {more} }}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        for (count, concentration) in [(2, 1.0), (3, 1.0), (3, 0.2), (2, 5.0), (3, 40.0)] {
            let draws: Vec<Vec<f64>> = (1..=20_000).map(|step| dirichlet(count, concentration, 3, step)).collect();
            assert!(draws.iter().all(|draw| (draw.iter().sum::<f64>() - 1.0).abs() < 1e-12));
            let mean = 1.0 / count as f64;
            // The variance of one number of a symmetric Dirichlet distribution.
            let variance = mean * (1.0 - mean) / (count as f64 * concentration + 1.0);
            for place in 0..count {
                let values: Vec<f64> = draws.iter().map(|draw| draw[place]).collect();
                let got = values.iter().sum::<f64>() / values.len() as f64;
                let spread = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
                assert!((got - mean).abs() < 5.0 * (variance / values.len() as f64).sqrt(), "{concentration}: {got}");
                assert!((spread / variance - 1.0).abs() < 0.06, "{concentration}: {spread} for {variance}");
            }
        }
        // Corners, and no 0/0.
        assert!(dirichlet(3, 1e-6, 1, 1).iter().all(|weight| weight.is_finite()));
    }

    #[test]
    fn the_preference_is_a_function_of_seed_and_step() {
        let mut panacea = recipe("");
        let drawn = panacea.begin(7, Some(3)).unwrap();
        panacea.begin(7, Some(4));
        assert_eq!(panacea.begin(7, Some(3)), Some(drawn.clone()));
        assert_ne!(panacea.begin(7, Some(4)), Some(drawn.clone()));
        assert_ne!(panacea.begin(8, Some(3)), Some(drawn));
        assert_eq!(panacea.begin(7, None), Some(vec![0.5, 0.5]));
        assert_eq!(recipe(r#", "preference": [0.25, 0.75]"#).begin(7, None), Some(vec![0.25, 0.75]));
        let mut both = recipe(r#", "preference": [0.25, 0.75], "evaluate_at": [1, 0]"#);
        assert_eq!((both.begin(7, Some(1)), both.begin(7, None)), (Some(vec![0.25, 0.75]), Some(vec![1.0, 0.0])));
    }

    /// Losses of the parts, the loss and its gradient, of a step of two pairs in two micro-batches.
    fn measured(panacea: &mut Panacea, values: &[f64]) -> ([f64; 2], f64, Vec<f64>) {
        let own = Var::from_vec(values.to_vec(), (4, 1), &Device::Cpu).unwrap();
        let reference = TokenScores::unmasked(Tensor::full(-1.5f64, (2, 1), &Device::Cpu).unwrap()).unwrap();
        let micro = [0, 2].map(|row| {
            let rows = TokenScores::unmasked(own.narrow(0, row, 2).unwrap()).unwrap();
            Scores::of_pairs(rows, Some(reference.clone()))
        });
        panacea.begin(11, Some(5));
        let context = panacea.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train).unwrap();
        let mut totals = micro[0].totals();
        totals += micro[1].totals();
        let over = |of: &dyn Fn(usize) -> Tensor| (of(0) + of(1)).unwrap();
        let of_part = |part: usize| {
            let loss = &panacea.mix.parts[part].loss;
            over(&|i| loss.evaluate(&micro[i], &Context::default()).unwrap().loss(&totals).unwrap())
        };
        let parts = [0, 1].map(|part| of_part(part).to_scalar::<f64>().unwrap());
        let loss = over(&|i| panacea.evaluate(&micro[i], &context.micro(i)).unwrap().loss(&totals).unwrap());
        let gradient = loss.backward().unwrap().get(&own).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (parts, loss.to_scalar().unwrap(), gradient)
    }

    #[test]
    fn the_sum_is_weighted_by_the_preference() {
        let mut panacea = recipe("");
        let values = [-1.0, -3.0, -0.4, -2.0];
        let (parts, loss, gradient) = measured(&mut panacea, &values);
        let lambda = panacea.begin(11, Some(5)).unwrap();
        assert!((loss - (lambda[0] * parts[0] + lambda[1] * 0.4 * parts[1])).abs() < 1e-14);
        let numeric = central_difference(|at| measured(&mut recipe(""), at).1, &values, 1e-6);
        assert!(worst(&gradient, &numeric) < 1e-8, "{gradient:?} {numeric:?}");
    }

    #[test]
    fn the_worst_is_weighted_by_the_preference() {
        let more = r#", "aggregate": "tchebycheff", "ideals": [0.1, 0.2]"#;
        for values in [[-1.0, -3.0, -0.4, -2.0], [-5.0, -9.0, -7.0, -8.0], [-9.0, -1.0, -0.1, -0.2]] {
            let lambda = recipe(more).begin(11, Some(5)).unwrap();
            let highest = |at: &[f64]| {
                let (parts, ..) = measured(&mut recipe(more), at);
                (lambda[0] * (parts[0] - 0.1)).max(lambda[1] * 0.4 * (parts[1] - 0.2))
            };
            let (_, _, gradient) = measured(&mut recipe(more), &values);
            let numeric = central_difference(highest, &values, 1e-6);
            assert!(worst(&gradient, &numeric) < 1e-8, "{gradient:?} {numeric:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |panacea: Panacea| panacea.validate().unwrap_err().to_string();
        for (more, words) in [
            (r#", "preference": [0.5, 0.6]"#, "panacea.preference: got 1.1"),
            (r#", "preference": [1.5, -0.5]"#, "panacea.preference: got -0.5"),
            (r#", "evaluate_at": [1.0]"#, "panacea.evaluate_at: got 1"),
            (r#", "concentration": 0.0"#, "panacea.concentration: got 0"),
            (r#", "concentration": 1.0, "preference": [0.5, 0.5]"#, "nothing beside a preference"),
            (r#", "ideals": [0.0, 0.0]"#, "aggregate = \"tchebycheff\""),
            (r#", "ideals": [0.0], "aggregate": "tchebycheff""#, "panacea.ideals: got 1"),
        ] {
            let text = refused(recipe(more));
            assert!(text.contains(words), "{words:?} is missing in: {text}");
        }
        let with = |loss: &str| {
            let mut panacea = recipe("");
            panacea.mix.parts[1].loss = serde_json::from_str(loss).unwrap();
            panacea
        };
        let mut moving = with(r#"{ "type": "tr_dpo" }"#);
        moving.mix.parts[0].loss = moving.mix.parts[1].loss.clone();
        assert!(refused(moving).contains("the reference of a part moves"));
        let inner = serde_json::to_string(&Recipe::from(recipe(""))).unwrap();
        assert!(refused(with(&inner)).contains("panacea"));
        let mut one = recipe("");
        one.mix.parts.pop();
        assert!(refused(one).contains("panacea.mix.parts: got 1"));
        let mut models = recipe("");
        for part in &mut models.mix.parts {
            part.loss = serde_json::from_str(r#"{ "type": "bradley_terry" }"#).unwrap();
        }
        assert!(refused(models).contains("score model"));
    }
}
