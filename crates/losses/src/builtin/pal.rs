//! `max(0, m − (‖f_l − p_u‖ − ‖f_w − p_u‖))` with ideal points `p_u` of people

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bco::{exact, number};
use super::bradley_terry::of_sides;
use super::{Named, in_range};
use crate::collective::gather;
use crate::error::{Error, Result};
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::positive_part;
use crate::numbers::{Annotator, With};
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedPair;
use crate::view::{Sides, StepWide, window};

/// A reward model of people who differ: each has an ideal point between a few prototypes, and prefers what is near it.
///
/// # Formula
/// `max(0, m − (‖f_l − p_u‖ − ‖f_w − p_u‖))`, the mean over pairs; `f ∈ ℝ^d` is what `d` heads of a score model say of a completion at
/// its last token, `p_u = Σ_k softmax(w_u)_k·P_k` the ideal point of the pair's `annotator`. Prototypes `P` and weights `w_u` are
/// learned beside the model.
///
/// # Gradient
/// Where the hinge is open, the unit vector from the ideal point to `f_w`, and the opposite of that to `f_l`; nothing flows from
/// the model's loss into `P` and `w`. They take one step of Adam on the same loss before it is evaluated.
///
/// # When to use
/// Votes whose annotators are known and do not agree. With one prototype everybody has the same ideal point. The learned points
/// stand in the checkpoint's state of the objective; an annotator who was never seen stands at the mean of the prototypes.
///
/// # Source
/// Chen et al. 2024 (PAL: Pluralistic Alignment), arXiv 2406.08469, model A, as the authors' code. Confidence A for the hinge on distances.
///
/// # Deviations
/// The authors map completions and prototypes by a multilayer perceptron; here the heads are linear and the prototypes lie where
/// the heads map to. Their rate of 5e-3 for prototypes and weights is kept; one step of Adam for them goes before the
/// model's, instead of at once. TRL has no such loss.
///
/// # Checked by
/// Formulas: `pal-a hinge on distances`. The steps of the ideal points are checked against central differences in its own test.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candlewick_losses::{Objective, Pal, Phase, Scores, Solo, StepScores, TokenScores};
/// let mut scores = Scores::of_pairs(TokenScores::of_values(Tensor::zeros((2, 4), DType::F64, &Device::Cpu)?)?, None);
/// scores.groups.numbers.insert("annotator".to_owned(), vec![7.0]);
/// let (step, mut pal) = ([scores], Pal { dimensions: 4, ..Pal::default() });
/// let context = Objective::prepare(&mut pal, &StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// // Both completions are in one place: the margin is missed whole.
/// assert_eq!(pal.evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?.to_scalar::<f64>()?, 1.0);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pal {
    /// How many prototypes there are, from 1 to 65,536. Default 2.
    pub prototypes: usize,
    /// `d`, how many heads make a point, from 1 to 65,536: `model.heads` names as many. Default 8.
    pub dimensions: usize,
    /// `m`, by how much the chosen completion shall be nearer; positive. Default 1.
    pub margin: f64,
    /// The rate of Adam for prototypes and weights; positive. Default 0.005.
    pub learning_rate: f64,
    /// The first of the `d` heads, counted from 0. Default 0.
    pub head: usize,
    /// What was learned of people.
    #[serde(skip)]
    pub people: IdealPoints,
}

/// The ideal point of every pair of a micro-batch, one after the other.
const POINTS: &str = "ideal_points";
/// Keeps the slope of a distance finite at 0.
const SMALL: f64 = 1e-12;
/// Prototypes, and dimensions, at most.
const MOST: usize = 65_536;
const FORMAT: u64 = 1;

impl Default for Pal {
    fn default() -> Self {
        Self { prototypes: 2, dimensions: 8, margin: 1.0, learning_rate: 5e-3, head: 0, people: IdealPoints::default() }
    }
}

impl Named for Pal {
    const NAME: &'static str = "pal";
    const ALIASES: &'static [&'static str] = &["ideal_points"];
    const SUMMARY: &'static str = "a reward model of people with ideal points between prototypes, by `annotator`";
}

impl Loss for Pal {
    type Input = With<ValuedPair, Annotator>;

    fn terms(&self, input: &Self::Input, context: &Context) -> Result<LossTerms> {
        let points = input.of_heads(self.head, self.dimensions)?;
        let ideal = context.vector(POINTS)?;
        let ideal = Tensor::new(ideal, points.chosen.device())?.to_dtype(points.chosen.dtype())?;
        let ideal = ideal.reshape(points.chosen.dims())?;
        let nearness = |points: &Tensor| (((points - &ideal)?.sqr()?.sum(1)? + SMALL)?.sqrt()?).neg();
        let rewards = Sides { chosen: nearness(&points.chosen)?, rejected: nearness(&points.rejected)? };
        let losses = positive_part(&rewards.margins()?.affine(-1.0, self.margin)?)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(of_sides(&rewards)))
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let mut pairs = Vec::new();
        for micro in step.micro {
            let input: With<ValuedPair, Annotator> = window(Self::NAME, micro)?;
            let points = input.of_heads(self.head, self.dimensions)?;
            let [chosen, rejected] = [points.chosen, points.rejected].map(|points| host_rows(&points));
            let people = host(input.number())?.into_iter().map(|person| person as u64);
            let pair = |((person, chosen), rejected)| PairOf { person, chosen, rejected };
            pairs.push(people.zip(chosen?).zip(rejected?).map(pair).collect::<Vec<_>>());
        }
        self.people.begin(self.prototypes, self.dimensions);
        if phase == Phase::Train {
            let gradients = self.gradients(pairs.iter().flatten(), step)?;
            self.people.step(&gradients, self.learning_rate);
        }
        let points = |micro: &Vec<PairOf>| micro.iter().flat_map(|pair| self.people.point(pair.person)).collect();
        let vectors = pairs.iter().map(|micro| [(POINTS.to_owned(), points(micro))].into()).collect();
        Ok(Context { vectors, ..Context::default() })
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(self.dimensions)
    }

    fn validate(&self) -> Result<()> {
        let count = |parameter, got: usize| {
            in_range::<Self>(parameter, got as f64, (1..=MOST).contains(&got), "a whole number from 1 to 65536")
        };
        count("prototypes", self.prototypes)?;
        count("dimensions", self.dimensions)?;
        let positive = |got: f64| got.is_finite() && got > 0.0;
        in_range::<Self>("margin", self.margin, positive(self.margin), "a positive number")?;
        in_range::<Self>("learning_rate", self.learning_rate, positive(self.learning_rate), "a positive number")
    }

    fn state(&self) -> Option<Value> {
        Some(self.people.to_json())
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let people = IdealPoints::of_json(state, self.prototypes, self.dimensions);
        self.people = people.ok_or_else(|| {
            let expected =
                format!("format {FORMAT} with {} prototypes of {} numbers", self.prototypes, self.dimensions);
            Error::State(format!("pal reads {expected}, and got another state"))
        })?;
        Ok(())
    }

    /// A step changes the prototypes and the people in it, who may be few of those that are known: only they are kept.
    fn mark(&mut self) -> Option<Value> {
        self.people.before = Some(Before::default());
        Some(Value::Bool(true))
    }

    fn undo(&mut self, _: &Value) -> Result<()> {
        self.people.go_back();
        Ok(())
    }
}

/// A pair on the host.
#[derive(Debug)]
struct PairOf {
    person: u64,
    chosen: Vec<f64>,
    rejected: Vec<f64>,
}

/// The slopes of a step's loss.
#[derive(Debug)]
struct Slopes {
    prototypes: Vec<f64>,
    /// Of the weights of every person of the step.
    weights: BTreeMap<u64, Vec<f64>>,
}

impl Pal {
    /// Of the mean over the pairs of all ranks.
    fn gradients<'a>(&self, pairs: impl Iterator<Item = &'a PairOf>, step: &StepScores<'_>) -> Result<Slopes> {
        let mut prototypes = vec![0.0; self.prototypes * self.dimensions];
        let mut weights: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        let mut count = 0.0;
        for pair in pairs {
            count += 1.0;
            let shares = self.people.shares(pair.person);
            let point = self.people.point(pair.person);
            let slopes = weights.entry(pair.person).or_insert_with(|| vec![0.0; self.prototypes]);
            let (near, far) = (distance(&pair.chosen, &point), distance(&pair.rejected, &point));
            if self.margin - (far - near) <= 0.0 {
                continue;
            }
            let pull = |i: usize| (point[i] - pair.chosen[i]) / near - (point[i] - pair.rejected[i]) / far;
            let pull: Vec<f64> = (0..self.dimensions).map(pull).collect();
            let along: f64 = point.iter().zip(&pull).map(|(p, g)| p * g).sum();
            for (k, share) in shares.iter().enumerate() {
                let place = k * self.dimensions..(k + 1) * self.dimensions;
                let prototype = &self.people.prototypes.values[place.clone()];
                slopes[k] += share * (prototype.iter().zip(&pull).map(|(p, g)| p * g).sum::<f64>() - along);
                prototypes[place].iter_mut().zip(&pull).for_each(|(slope, g)| *slope += share * g);
            }
        }
        let own: Vec<f64> = weights.keys().map(|person| *person as f64).collect();
        for person in gather(step.collective, &own)?.concat() {
            weights.entry(person as u64).or_insert_with(|| vec![0.0; self.prototypes]);
        }
        let mut flat = vec![count];
        flat.extend(&prototypes);
        flat.extend(weights.values().flatten());
        step.collective.sum(&mut flat)?;
        let total = flat[0].max(1.0);
        let mut sums = flat[1..].iter().map(|sum| sum / total);
        prototypes.iter_mut().for_each(|slope| *slope = sums.next().unwrap_or(0.0));
        weights.values_mut().flatten().for_each(|slope| *slope = sums.next().unwrap_or(0.0));
        Ok(Slopes { prototypes, weights })
    }
}

/// What [`Pal`] has learned of people: prototypes, and each one's weights of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IdealPoints {
    prototypes: Learned,
    weights: BTreeMap<u64, Learned>,
    size: usize,
    before: Option<Before>,
}

/// What was changed since the last mark, as it was there.
#[derive(Debug, Clone, Default, PartialEq)]
struct Before {
    prototypes: Option<Learned>,
    /// None for somebody who was not known.
    weights: BTreeMap<u64, Option<Learned>>,
}

/// Numbers that Adam moves.
#[derive(Debug, Clone, Default, PartialEq)]
struct Learned {
    values: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    steps: u64,
}

impl Learned {
    fn new(values: Vec<f64>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { values, first: zeros.clone(), second: zeros, steps: 0 }
    }

    fn step(&mut self, slopes: &[f64], rate: f64) {
        const DECAYS: (f64, f64) = (0.9, 0.999);
        self.steps += 1;
        let age = self.steps.min(1 << 20) as i32; // Beyond it both corrections are 1 to the last bit.
        let (first, second) = (1.0 - DECAYS.0.powi(age), 1.0 - DECAYS.1.powi(age));
        for (i, slope) in slopes.iter().enumerate() {
            self.first[i] = DECAYS.0 * self.first[i] + (1.0 - DECAYS.0) * slope;
            self.second[i] = DECAYS.1 * self.second[i] + (1.0 - DECAYS.1) * slope * slope;
            self.values[i] -= rate * (self.first[i] / first) / ((self.second[i] / second).sqrt() + 1e-8);
        }
    }

    fn to_json(&self) -> Value {
        let list = |values: &[f64]| values.iter().map(|value| exact(*value)).collect::<Vec<_>>();
        json!({ "values": list(&self.values), "first": list(&self.first), "second": list(&self.second), "steps": self.steps })
    }

    fn of_json(state: &Value, count: usize) -> Option<Self> {
        let list = |key: &str| {
            let list = state.get(key)?.as_array()?.iter().map(|value| number(value).filter(|value| value.is_finite()));
            list.collect::<Option<Vec<f64>>>().filter(|list| list.len() == count)
        };
        let steps = state.get("steps")?.as_u64().filter(|steps| *steps < u64::MAX)?;
        let second = list("second")?;
        if second.iter().any(|square| *square < 0.0) {
            return None;
        }
        Some(Self { values: list("values")?, first: list("first")?, second, steps })
    }
}

impl IdealPoints {
    /// Draws the prototypes, unless they are there.
    fn begin(&mut self, prototypes: usize, size: usize) {
        if !self.prototypes.values.is_empty() {
            return;
        }
        let mut state: u64 = 20_240_608;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        // Of variance 1/d, so that a prototype is about as long as 1.
        let width = (12.0 / size as f64).sqrt();
        self.size = size;
        self.keep_prototypes();
        self.prototypes = Learned::new((0..prototypes * size).map(|_| width * (uniform() - 0.5)).collect());
    }

    fn shares(&self, person: u64) -> Vec<f64> {
        let count = self.prototypes.values.len() / self.size;
        let Some(weights) = self.weights.get(&person) else { return vec![1.0 / count as f64; count] };
        let highest = weights.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = weights.values.iter().map(|weight| (weight - highest).exp()).collect();
        let total: f64 = exps.iter().sum();
        exps.iter().map(|exp| exp / total).collect()
    }

    fn point(&self, person: u64) -> Vec<f64> {
        let mut point = vec![0.0; self.size];
        for (share, prototype) in self.shares(person).iter().zip(self.prototypes.values.chunks_exact(self.size)) {
            point.iter_mut().zip(prototype).for_each(|(sum, x)| *sum += share * x);
        }
        point
    }

    fn keep_prototypes(&mut self) {
        if let Some(before) = &mut self.before {
            before.prototypes.get_or_insert_with(|| self.prototypes.clone());
        }
    }

    fn go_back(&mut self) {
        let Some(Before { prototypes, weights }) = self.before.take() else { return };
        if let Some(prototypes) = prototypes {
            self.prototypes = prototypes;
        }
        for (person, weights) in weights {
            match weights {
                Some(weights) => self.weights.insert(person, weights),
                None => self.weights.remove(&person),
            };
        }
    }

    fn step(&mut self, slopes: &Slopes, rate: f64) {
        self.keep_prototypes();
        self.prototypes.step(&slopes.prototypes, rate);
        for (person, slopes) in &slopes.weights {
            if let Some(before) = &mut self.before {
                before.weights.entry(*person).or_insert_with(|| self.weights.get(person).cloned());
            }
            let weights = self.weights.entry(*person).or_insert_with(|| Learned::new(vec![0.0; slopes.len()]));
            weights.step(slopes, rate);
        }
    }

    fn to_json(&self) -> Value {
        let weights: BTreeMap<String, Value> =
            self.weights.iter().map(|(person, weights)| (person.to_string(), weights.to_json())).collect();
        json!({ "format": FORMAT, "prototypes": self.prototypes.to_json(), "weights": weights })
    }

    fn of_json(state: &Value, prototypes: usize, size: usize) -> Option<Self> {
        if state.get("format")?.as_u64()? != FORMAT {
            return None;
        }
        let stored = state.get("prototypes")?;
        let begun = stored.get("values")?.as_array()?.is_empty();
        let learned = Learned::of_json(stored, if begun { 0 } else { prototypes * size })?;
        let person =
            |(person, weights): (&String, &Value)| Some((person.parse().ok()?, Learned::of_json(weights, prototypes)?));
        let weights = state.get("weights")?.as_object()?.iter().map(person).collect::<Option<BTreeMap<_, _>>>()?;
        Some(Self { prototypes: learned, weights, size: if begun { 0 } else { size }, before: None })
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() + SMALL).sqrt()
}

fn host_rows(values: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(values.detach().to_dtype(candle_core::DType::F64)?.to_vec2()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candlewick_testkit::{central_difference, worst};

    use super::super::vectors::vectors;
    use super::*;
    use crate::{Objective, Scores, Solo, TokenScores};

    fn scores(points: &[Vec<f64>], people: &[f64]) -> Scores {
        let values = TokenScores::of_values(Tensor::new(points.to_vec(), &Device::Cpu).unwrap()).unwrap();
        let mut scores = Scores::of_pairs(values, None);
        scores.groups.numbers.insert("annotator".to_owned(), people.to_vec());
        scores
    }

    fn prepare(pal: &mut Pal, scores: &Scores, phase: Phase) -> Context {
        Objective::prepare(pal, &StepScores { micro: std::slice::from_ref(scores), collective: &Solo }, phase).unwrap()
    }

    #[test]
    fn agrees_with_the_recorded_hinge() {
        // Points on a line, as far from the ideal point as was recorded.
        let (near, far) = ([0.6, 1.4, 0.9, 0.2], [1.1, 1.3, 2.4, 0.9]);
        let mut pal = Pal { prototypes: 1, dimensions: 1, ..Pal::default() };
        pal.people = IdealPoints { prototypes: Learned::new(vec![0.25]), size: 1, ..IdealPoints::default() };
        let points: Vec<Vec<f64>> = near.iter().chain(&far).map(|distance| vec![0.25 + distance]).collect();
        let scores = scores(&points, &[0.0; 4]);
        let context = prepare(&mut pal, &scores, Phase::Evaluate).micro(0);
        let loss = pal.evaluate(&scores, &context).unwrap().loss(&scores.totals()).unwrap();
        let expected = vectors().number("pal-a hinge on distances", "loss").unwrap();
        assert!((loss.to_scalar::<f64>().unwrap() - expected).abs() < 1e-9);
    }

    fn sample() -> (Pal, Scores) {
        let wave = |i: usize| (0..3).map(|k| ((i * 3 + k) as f64 * 0.7).sin()).collect();
        let scores = scores(&(0..8).map(wave).collect::<Vec<_>>(), &[3.0, 9.0, 3.0, 9.0]);
        (Pal { dimensions: 3, ..Pal::default() }, scores)
    }

    #[test]
    fn ideal_points_move_down_the_slope_of_the_loss() {
        let (mut pal, scores) = sample();
        prepare(&mut pal, &scores, Phase::Train);
        let loss = |flat: &[f64]| {
            let mut moved = pal.clone();
            moved.people.prototypes.values.copy_from_slice(&flat[..6]);
            for (weights, new) in moved.people.weights.values_mut().zip(flat[6..].chunks_exact(2)) {
                weights.values.copy_from_slice(new);
            }
            let context = prepare(&mut moved, &scores, Phase::Evaluate).micro(0);
            moved.evaluate(&scores, &context).unwrap().loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap()
        };
        let mut at = pal.people.prototypes.values.clone();
        at.extend(pal.people.weights.values().flat_map(|weights| weights.values.clone()));
        let pairs: Vec<PairOf> = (0..4)
            .map(|pair| {
                let rows = scores.policy.values().unwrap().to_vec2::<f64>().unwrap();
                PairOf { person: [3, 9, 3, 9][pair], chosen: rows[pair].clone(), rejected: rows[4 + pair].clone() }
            })
            .collect();
        let slopes = pal.gradients(pairs.iter(), &StepScores { micro: &[], collective: &Solo }).unwrap();
        let got: Vec<f64> = slopes.prototypes.into_iter().chain(slopes.weights.into_values().flatten()).collect();
        let expected = central_difference(loss, &at, 1e-6);
        assert!(expected.iter().any(|slope| slope.abs() > 1e-3));
        assert!(worst(&got, &expected) < 1e-8, "{got:?} {expected:?}");
    }

    #[test]
    fn what_was_learned_survives_text_to_the_bit() {
        let (mut pal, scores) = sample();
        (0..3).for_each(|_| drop(prepare(&mut pal, &scores, Phase::Train)));
        let text = serde_json::to_string(&Objective::state(&pal).unwrap()).unwrap();
        let mut resumed = Pal { dimensions: 3, ..Pal::default() };
        Objective::restore(&mut resumed, &serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(resumed, pal);
        let (one, other) = (prepare(&mut resumed, &scores, Phase::Train), prepare(&mut pal, &scores, Phase::Train));
        assert_eq!(one, other);
        let mut wider = Pal { dimensions: 4, ..Pal::default() };
        let error = Objective::restore(&mut wider, &serde_json::from_str(&text).unwrap()).unwrap_err().to_string();
        assert!(error.contains("2 prototypes of 4 numbers"), "{error}");
        // Before the first step there is nothing, and that is restored too.
        let fresh = Pal::default();
        let mut again = Pal::default();
        Objective::restore(&mut again, &Objective::state(&fresh).unwrap()).unwrap();
        assert_eq!(again, fresh);
    }

    #[test]
    fn a_step_is_undone_to_the_bit_from_the_first_on() {
        let (mut pal, scores) = sample();
        for _ in 0..3 {
            let state = Objective::state(&pal);
            let mark = Objective::mark(&mut pal).unwrap();
            assert!(mark.to_string().len() < 8, "a mark holds no state: {mark}");
            prepare(&mut pal, &scores, Phase::Train);
            assert_ne!(Objective::state(&pal), state);
            Objective::undo(&mut pal, &mark).unwrap();
            assert_eq!(Objective::state(&pal), state);
            // The next mark begins where others are known too.
            prepare(&mut pal, &scores, Phase::Train);
        }
        let mark = Objective::mark(&mut pal).unwrap();
        let mut others = scores.clone();
        others.groups.numbers.insert("annotator".to_owned(), vec![3.0, 5.0, 5.0, 7.0]);
        let state = Objective::state(&pal);
        (0..2).for_each(|_| drop(prepare(&mut pal, &others, Phase::Train)));
        Objective::undo(&mut pal, &mark).unwrap();
        assert_eq!(Objective::state(&pal), state);
    }

    #[test]
    fn people_who_disagree_come_apart() {
        // One of them prefers the point at 1, the other that at −1.
        let points = [vec![1.0], vec![-1.0], vec![-1.0], vec![1.0]];
        let scores = scores(&points, &[1.0, 2.0]);
        let mut pal = Pal { dimensions: 1, learning_rate: 0.05, ..Pal::default() };
        (0..200).for_each(|_| drop(prepare(&mut pal, &scores, Phase::Train)));
        let (one, two) = (pal.people.point(1)[0], pal.people.point(2)[0]);
        assert!(one > 0.4 && two < -0.4, "{one} {two}");
    }
}
