//! What a model said to a row of choices.

use serde::{Deserialize, Serialize};

use super::super::forms::consistency;
use super::super::words::ChoiceScore;

/// What a model said to a row of choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceOutcome {
    /// One for every form and order.
    pub variants: Vec<ChoiceVariant>,
    /// The right choices; none where there is no right one.
    pub right: Vec<usize>,
    /// How much speaks for each choice, such as a share of people; empty where nothing is known.
    pub weights: Vec<f64>,
    /// Which choices agree with a stereotype.
    pub bias: Option<BiasRole>,
}

/// The scores under one form and order, all in the order of the choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceVariant {
    /// The form.
    pub form: String,
    /// Whether the choices were shown in reversed order.
    pub reversed: bool,
    /// Σ log p of each, in nats.
    pub log_probs: Vec<f64>,
    /// Tokens of each.
    pub tokens: Vec<usize>,
    /// Characters of each, without the delimiter.
    pub characters: Vec<usize>,
    /// Bytes of each in UTF-8, without the delimiter.
    pub bytes: Vec<usize>,
    /// Σ log p of each under the unconditional prompt; empty where there is none.
    pub unconditional: Vec<f64>,
}

/// The parts that the choices of a question about groups of people play (BBQ).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BiasRole {
    /// The choice that agrees with the stereotype.
    pub target: usize,
    /// The choice that says it cannot be known.
    pub unknown: usize,
    /// Whether the context leaves it open.
    pub ambiguous: bool,
}

impl ChoiceVariant {
    /// The score of each choice. Without an unconditional prompt, mutual information is the sum.
    pub fn scores(&self, by: ChoiceScore) -> Vec<f64> {
        let over = |lengths: &[usize]| {
            self.log_probs.iter().zip(lengths).map(|(sum, length)| sum / (*length).max(1) as f64).collect::<Vec<f64>>()
        };
        match by {
            ChoiceScore::Sum => self.log_probs.clone(),
            ChoiceScore::Mean => over(&self.tokens),
            ChoiceScore::PerCharacter => over(&self.characters),
            ChoiceScore::PerByte => over(&self.bytes),
            ChoiceScore::Pmi => {
                let unconditional = self.unconditional.iter().copied().chain(std::iter::repeat(0.0));
                self.log_probs.iter().zip(unconditional).map(|(sum, alone)| sum - alone).collect()
            }
        }
    }

    /// The choice with the highest score, the first of several.
    pub fn best(&self, by: ChoiceScore) -> usize {
        first_largest(&self.scores(by))
    }

    /// log Σ p over some choices.
    fn log_mass(&self, of: impl Iterator<Item = usize>) -> f64 {
        log_sum_exp(of.filter_map(|choice| self.log_probs.get(choice).copied()))
    }
}

impl ChoiceOutcome {
    /// How many choices there are.
    pub fn choices(&self) -> usize {
        self.variants.first().map_or(0, |variant| variant.log_probs.len())
    }

    /// In which share of the ways to ask a right choice has the highest score.
    pub fn accuracy(&self, by: ChoiceScore) -> f64 {
        self.mean(|variant| f64::from(u8::from(self.right.contains(&variant.best(by)))))
    }

    /// log of the share of probability, among the choices, that the right ones have.
    pub(super) fn log_mass_of_right(&self) -> f64 {
        let mass = self.mean(|variant| {
            (variant.log_mass(self.right.iter().copied()) - variant.log_mass(0..variant.log_probs.len())).exp()
        });
        match self.variants.as_slice() {
            // Exact where the mass is too small for a number.
            [only] => only.log_mass(self.right.iter().copied()) - only.log_mass(0..only.log_probs.len()),
            _ => mass.ln(),
        }
    }

    /// The probability of the likeliest choice among the choices, and whether it is right.
    pub(super) fn forecast(&self) -> (f64, f64) {
        let choices = self.choices();
        let probabilities: Vec<f64> = (0..choices).map(|choice| self.probability(choice)).collect();
        let best = first_largest(&probabilities);
        let probability = probabilities.get(best).copied().unwrap_or_default().clamp(0.0, 1.0);
        (probability, f64::from(u8::from(self.right.contains(&best))))
    }

    /// The probability of a choice among the choices, over all ways to ask.
    pub fn probability(&self, choice: usize) -> f64 {
        self.mean(|variant| {
            let all = variant.log_mass(0..variant.log_probs.len());
            variant.log_probs.get(choice).map_or(0.0, |log_prob| (log_prob - all).exp())
        })
    }

    pub(super) fn share(&self, by: ChoiceScore, choice: usize) -> f64 {
        self.mean(|variant| f64::from(u8::from(variant.best(by) == choice)))
    }

    pub(super) fn agreement(&self, by: ChoiceScore) -> f64 {
        self.mean(|variant| self.weights.get(variant.best(by)).copied().unwrap_or_default())
    }

    /// −Σ weight × log probability.
    pub(super) fn cross_entropy(&self) -> f64 {
        let weighted = self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        weighted.map(|(choice, weight)| -weight * self.probability(choice).ln()).sum()
    }

    pub(super) fn consistency(&self, by: ChoiceScore) -> (Option<f64>, Option<f64>) {
        let asked: Vec<(&str, bool, usize)> =
            self.variants.iter().map(|variant| (variant.form.as_str(), variant.reversed, variant.best(by))).collect();
        consistency(&asked)
    }

    fn mean(&self, of: impl Fn(&ChoiceVariant) -> f64) -> f64 {
        self.variants.iter().map(of).sum::<f64>() / self.variants.len().max(1) as f64
    }
}

/// The number of the largest value, the first of several.
pub(in super::super) fn first_largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// log Σ exp, −∞ of nothing.
pub(in super::super) fn log_sum_exp(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln()
}
