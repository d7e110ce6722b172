//! Multiple choice, and pairs, which are choices of two.

mod bias;
mod outcome;

use serde_json::json;

use super::field::{Field, Values};
use super::forms::{Asked, Forms};
use super::report::Measures;
use super::subject::Score;
use super::words::{ChoiceScore, Words};
use crate::error::{Error, Result};
use crate::stats::Calibration;

pub use outcome::{BiasRole, ChoiceOutcome, ChoiceVariant};
pub(super) use outcome::{first_largest, log_sum_exp};

/// A task of kind `choice` or `pair`.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    forms: Forms,
    choices: Choices,
    answer: Option<Field>,
    weights: Option<Field>,
    scores: Vec<ChoiceScore>,
    bias: Option<Bias>,
}

#[derive(Debug, Clone)]
enum Choices {
    Each(Vec<Field>),
    Listed(Field),
}

#[derive(Debug, Clone)]
struct Bias {
    target: Field,
    unknown: Field,
    ambiguous: Field,
}

/// What is asked of a row, before the answers are known.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) asked: Vec<Asked>,
    choices: Vec<String>,
    right: Vec<usize>,
    weights: Vec<f64>,
    bias: Option<BiasRole>,
}

impl Choice {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let choices = match (&words.choices, &words.choices_list) {
            (Some(choices), None) if choices.len() > 1 => Choices::Each(Field::all(file, "choices", choices)?),
            (None, Some(list)) => Choices::Listed(Field::new(file, "choices_list", list)?),
            _ => {
                let reason = "give two templates or more, or in their place `choices_list`, a template that writes a list in JSON";
                return Err(Error::config(format!("{file}: choices"), reason));
            }
        };
        let bias = match &words.bias {
            Some(bias) => Some(Bias {
                target: Field::new(file, "bias.target", &bias.target)?,
                unknown: Field::new(file, "bias.unknown", &bias.unknown)?,
                ambiguous: Field::new(file, "bias.ambiguous", &bias.ambiguous)?,
            }),
            None => None,
        };
        Ok(Self {
            forms: Forms::new(words, file)?,
            choices,
            answer: Field::optional(file, "answer", words.answer.as_ref())?,
            weights: Field::optional(file, "weights", words.weights.as_ref())?,
            scores: scores(words, file)?,
            bias,
        })
    }

    /// Which of two texts is likelier: the first choice is the right one.
    pub(super) fn pair(words: &Words, file: &str) -> Result<Self> {
        let side = |key: &str, source: &Option<String>| match source {
            Some(source) => Field::new(file, key, source),
            None => Err(Error::config(format!("{file}: {key}"), "is missing; give a template of the text")),
        };
        let mut words = words.clone();
        words.prompt.get_or_insert_default();
        if words.prompt.as_deref() == Some("") {
            words.delimiter.get_or_insert_default();
        }
        Ok(Self {
            forms: Forms::new(&words, file)?,
            choices: Choices::Each(vec![side("better", &words.better)?, side("worse", &words.worse)?]),
            answer: Some(Field::new(file, "answer", "0")?),
            weights: None,
            scores: scores(&words, file)?,
            bias: None,
        })
    }

    /// What is asked of a row.
    pub(super) fn ask(&self, values: &mut Values<'_>) -> Result<Question> {
        let choices = match &self.choices {
            Choices::Each(fields) => fields.iter().map(|field| field.text(values)).collect::<Result<Vec<_>>>()?,
            Choices::Listed(field) => field.list(values)?,
        };
        if choices.len() < 2 {
            return Err(values.row.wrong(format!("{} choice(s), expected two or more", choices.len())));
        }
        values.set("choices", json!(choices));
        let right = match &self.answer {
            Some(answer) => answer.indices(values, &choices)?,
            None => Vec::new(),
        };
        let weights = match &self.weights {
            Some(field) => {
                normalised(field.numbers(values)?, choices.len()).map_err(|reason| values.row.wrong(reason))?
            }
            None => Vec::new(),
        };
        let bias = match &self.bias {
            Some(bias) => {
                let one = |field: &Field| match field.indices(values, &choices)?.as_slice() {
                    [] => Ok(None),
                    [index] => Ok(Some(*index)),
                    several => {
                        Err(values.row.wrong(format!("bias names {} choices at once, expected one", several.len())))
                    }
                };
                let (target, unknown) = (one(&bias.target)?, one(&bias.unknown)?);
                let ambiguous = bias.ambiguous.truth(values)?.unwrap_or(false);
                // A row without one of the two is not counted.
                target.zip(unknown).map(|(target, unknown)| BiasRole { target, unknown, ambiguous })
            }
            None => None,
        };
        Ok(Question { asked: self.forms.ask(values, &choices)?, choices, right, weights, bias })
    }

    /// What is reported of these rows. `groups` names the group of each row, where rows have one.
    pub(super) fn measure(&self, rows: &[&ChoiceOutcome], groups: &[Option<&str>], measures: &mut Measures) {
        let first = self.scores.first().copied().unwrap_or(ChoiceScore::Sum);
        let known: Vec<&ChoiceOutcome> = rows.iter().copied().filter(|row| !row.right.is_empty()).collect();
        for score in &self.scores {
            let right: Vec<f64> = known.iter().map(|row| row.accuracy(*score)).collect();
            measures.mean(format!("accuracy_{}", score.name()), &right);
        }
        let each = |of: &dyn Fn(&ChoiceOutcome) -> f64| known.iter().map(|row| of(row)).collect::<Vec<f64>>();
        measures.mean("probability_of_right", &each(&|row| row.log_mass_of_right().exp()));
        measures.mean("log_loss", &each(&|row| -row.log_mass_of_right()));
        let chance = each(&|row| row.right.len() as f64 / row.choices() as f64);
        measures.exact("chance", crate::stats::mean(&chance), chance.len());
        let forecasts: Vec<(f64, f64)> = known.iter().map(|row| row.forecast()).collect();
        measures.of("calibration_error", forecasts.len(), |items| {
            let drawn: Vec<(f64, f64)> = items.iter().map(|i| forecasts[*i]).collect();
            Calibration::of(&drawn, 10).map(|found| found.expected_error)
        });
        groups_right(&known_groups(rows, groups, first), measures);
        let soft: Vec<&&ChoiceOutcome> = rows.iter().filter(|row| !row.weights.is_empty()).collect();
        measures.mean("agreement", &soft.iter().map(|row| row.agreement(first)).collect::<Vec<_>>());
        measures.mean("cross_entropy", &soft.iter().map(|row| row.cross_entropy()).collect::<Vec<_>>());
        self.measure_shares(rows, first, measures);
        if self.bias.is_some() {
            bias::measure(rows, first, measures);
        }
    }

    /// How often and how likely each choice is, where no row has a right one, and how steady the choice is.
    fn measure_shares(&self, rows: &[&ChoiceOutcome], score: ChoiceScore, measures: &mut Measures) {
        /// More are not told apart.
        const MOST: usize = 8;
        let choices = rows.first().map_or(0, |row| row.choices());
        let alike = rows.iter().all(|row| row.choices() == choices) && choices <= MOST;
        if alike && rows.iter().all(|row| row.right.is_empty()) {
            for choice in 0..choices {
                let chosen: Vec<f64> = rows.iter().map(|row| row.share(score, choice)).collect();
                measures.mean(format!("chosen_{choice}"), &chosen);
                let probability: Vec<f64> = rows.iter().map(|row| row.probability(choice)).collect();
                measures.mean(format!("probability_{choice}"), &probability);
            }
        }
        let (orders, forms): (Vec<_>, Vec<_>) = rows.iter().map(|row| row.consistency(score)).unzip();
        measures.mean("order_consistency", &orders.into_iter().flatten().collect::<Vec<_>>());
        measures.mean("form_consistency", &forms.into_iter().flatten().collect::<Vec<_>>());
    }
}

impl Question {
    /// The right choices, for people.
    pub(super) fn right_in_words(&self) -> Option<String> {
        let texts =
            self.choices.iter().enumerate().filter(|(i, _)| self.right.contains(i)).map(|(_, text)| text.as_str());
        let texts: Vec<&str> = texts.collect();
        (!texts.is_empty()).then(|| texts.join(" | "))
    }

    /// With what the model said: for each way to ask the scores, and those under the unconditional prompt.
    pub(super) fn answered(self, scores: &[(Vec<Score>, Option<Vec<Score>>)]) -> ChoiceOutcome {
        let variants = self.asked.into_iter().zip(scores).map(|(asked, (scores, unconditional))| {
            let texts = &asked.request.continuations;
            ChoiceVariant {
                form: asked.form,
                reversed: asked.reversed,
                log_probs: scores.iter().map(|score| score.log_prob).collect(),
                tokens: scores.iter().map(|score| score.tokens).collect(),
                characters: texts.iter().map(|text| text.chars().count()).collect(),
                bytes: texts.iter().map(String::len).collect(),
                unconditional: unconditional.iter().flatten().map(|score| score.log_prob).collect(),
            }
        });
        ChoiceOutcome { variants: variants.collect(), right: self.right, weights: self.weights, bias: self.bias }
    }
}

fn known_groups(rows: &[&ChoiceOutcome], groups: &[Option<&str>], by: ChoiceScore) -> Vec<(String, f64)> {
    let named = rows.iter().zip(groups).filter(|(row, _)| !row.right.is_empty());
    named.filter_map(|(row, group)| Some(((*group)?.to_owned(), row.accuracy(by)))).collect()
}

/// The share of groups of which every row is right. Nothing where rows have no group.
pub(super) fn groups_right(rows: &[(String, f64)], measures: &mut Measures) {
    let mut groups: std::collections::BTreeMap<&str, bool> = std::collections::BTreeMap::new();
    for (group, accuracy) in rows {
        *groups.entry(group.as_str()).or_insert(true) &= *accuracy >= 1.0;
    }
    let right: Vec<f64> = groups.values().map(|right| f64::from(u8::from(*right))).collect();
    measures.mean("groups_right", &right);
}

fn scores(words: &Words, file: &str) -> Result<Vec<ChoiceScore>> {
    use ChoiceScore::{Mean, PerByte, PerCharacter, Pmi, Sum};
    let wrong = |reason: &str| Err(Error::config(format!("{file}: scores"), reason));
    let has_pmi = words.unconditional.is_some();
    match &words.scores {
        None if has_pmi => Ok(vec![Sum, Mean, PerCharacter, PerByte, Pmi]),
        None => Ok(vec![Sum, Mean, PerCharacter, PerByte]),
        Some(scores) if scores.is_empty() => {
            wrong("is empty; name one of sum, mean, per_character, per_byte and pmi, or leave it out")
        }
        Some(scores) if scores.contains(&Pmi) && !has_pmi => {
            wrong("pmi needs a prompt that says nothing of the question; give it as `unconditional`")
        }
        Some(scores) => Ok(scores.clone()),
    }
}

fn normalised(weights: Vec<f64>, choices: usize) -> std::result::Result<Vec<f64>, String> {
    let sum: f64 = weights.iter().sum();
    if weights.len() != choices
        || weights.iter().any(|weight| !(weight.is_finite() && *weight >= 0.0))
        || !(sum > 0.0 && sum.is_finite())
    {
        return Err(format!(
            "weights: found {weights:?} for {choices} choices; expected a number of at least 0 for each, not all 0"
        ));
    }
    Ok(weights.into_iter().map(|weight| weight / sum).collect())
}

#[cfg(test)]
mod tests;
