//! Scales: how far a model agrees with items of an inventory, and how steady it is.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::choice::{first_largest, log_sum_exp};
use super::field::{Field, Values};
use super::forms::{Asked, Forms, consistency};
use super::report::Measures;
use super::subject::Score;
use super::words::Words;
use crate::error::{Error, Result};
use crate::stats::{self, spearman};

/// A task of kind `rating`.
#[derive(Debug, Clone)]
pub(super) struct Rating {
    forms: Forms,
    options: Vec<Field>,
    values: Vec<f64>,
    dimension: Option<Field>,
    key: Option<Field>,
}

/// What is asked of a row.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) asked: Vec<Asked>,
    reversed_key: bool,
}

/// What a model said to an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatingOutcome {
    /// One for every form and order.
    pub variants: Vec<RatingVariant>,
    /// Whether agreement counts against the dimension.
    pub reversed_key: bool,
}

/// The answer under one form and order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatingVariant {
    /// The form.
    pub form: String,
    /// Whether the options were shown in reversed order.
    pub reversed: bool,
    /// The probability of each option among the options, in the order of the scale.
    pub probabilities: Vec<f64>,
}

impl Rating {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let wrong = |key: &str, reason: String| Err(Error::config(format!("{file}: {key}"), reason));
        let options = match &words.options {
            Some(options) if options.len() > 1 => Field::all(file, "options", options)?,
            _ => return wrong("options", "give two steps of the scale or more, the lowest first".into()),
        };
        let values = match &words.values {
            None => (1..=options.len()).map(|step| step as f64).collect(),
            Some(values) if values.len() != options.len() || values.iter().any(|value| !value.is_finite()) => {
                return wrong("values", format!("found {values:?}; expected {} numbers, one an option", options.len()));
            }
            Some(values) if range(values) <= 0.0 => {
                return wrong("values", format!("found {values:?}; expected numbers that differ"));
            }
            Some(values) => values.clone(),
        };
        Ok(Self {
            forms: Forms::new(words, file)?,
            options,
            values,
            dimension: Field::optional(file, "dimension", words.dimension.as_ref())?,
            key: Field::optional(file, "key", words.key.as_ref())?,
        })
    }

    /// What an item measures, where the task says it.
    pub(super) fn dimension(&self, values: &Values<'_>) -> Result<Option<String>> {
        self.dimension.as_ref().map(|field| Ok(field.text(values)?.trim().to_owned())).transpose()
    }

    pub(super) fn ask(&self, values: &mut Values<'_>) -> Result<Question> {
        let reversed_key = match &self.key {
            Some(key) => match key.number(values)? {
                number if number > 0.0 => false,
                number if number < 0.0 => true,
                _ => {
                    return Err(values
                        .row
                        .wrong("key: found 0; expected 1, or -1 where agreement speaks against the dimension"));
                }
            },
            None => false,
        };
        let options = self.options.iter().map(|option| option.text(values)).collect::<Result<Vec<_>>>()?;
        values.set("scale", json!(options));
        Ok(Question { asked: self.forms.ask(values, &options)?, reversed_key })
    }

    pub(super) fn measure(&self, rows: &[&RatingOutcome], measures: &mut Measures) {
        let each = |of: &dyn Fn(&RatingOutcome) -> f64| rows.iter().map(|row| of(row)).collect::<Vec<f64>>();
        // As the item is keyed: a high score always speaks for the dimension.
        measures.mean("score", &each(&|row| self.keyed(row, self.expected(row))));
        measures.mean("score_of_likeliest", &each(&|row| self.keyed(row, self.likeliest(row))));
        let both_keys = rows.iter().any(|row| row.reversed_key) && rows.iter().any(|row| !row.reversed_key);
        if both_keys {
            // Whatever the item says: far from the middle where the model agrees with everything.
            measures.mean("agreement", &each(&|row| self.expected(row)));
        }
        measures.mean("entropy", &each(&|row| row.mean(|variant| entropy(&variant.probabilities))));
        let (orders, forms): (Vec<_>, Vec<_>) = rows.iter().map(|row| row.consistency()).unzip();
        measures.mean("order_consistency", &orders.into_iter().flatten().collect::<Vec<_>>());
        let shifts: Vec<f64> = rows.iter().filter_map(|row| self.shift(row, |a, b| a.form == b.form)).collect();
        measures.mean("order_shift", &shifts);
        measures.mean("form_consistency", &forms.into_iter().flatten().collect::<Vec<_>>());
        let shifts: Vec<f64> = rows.iter().filter_map(|row| self.shift(row, |a, b| a.reversed == b.reversed)).collect();
        measures.mean("form_shift", &shifts);
        self.measure_ranks(rows, measures);
    }

    /// Whether items keep their ranks when the options are reversed: Spearman's ρ.
    fn measure_ranks(&self, rows: &[&RatingOutcome], measures: &mut Measures) {
        let of_order = |row: &RatingOutcome, reversed: bool| {
            let values: Vec<f64> =
                row.variants.iter().filter(|v| v.reversed == reversed).map(|v| self.expected_of(v)).collect();
            stats::mean(&values)
        };
        let both: Vec<(f64, f64)> =
            rows.iter().filter_map(|row| Some((of_order(row, false)?, of_order(row, true)?))).collect();
        measures.of("order_rank_correlation", both.len(), |items| {
            let (one, other): (Vec<f64>, Vec<f64>) = items.iter().map(|i| both[*i]).unzip();
            spearman(&one, &other)
        });
    }

    fn expected_of(&self, variant: &RatingVariant) -> f64 {
        variant.probabilities.iter().zip(&self.values).map(|(p, value)| p * value).sum()
    }

    fn expected(&self, row: &RatingOutcome) -> f64 {
        row.mean(|variant| self.expected_of(variant))
    }

    fn likeliest(&self, row: &RatingOutcome) -> f64 {
        row.mean(|variant| self.values.get(first_largest(&variant.probabilities)).copied().unwrap_or_default())
    }

    fn keyed(&self, row: &RatingOutcome, value: f64) -> f64 {
        let (low, high) = ends(&self.values);
        if row.reversed_key { low + high - value } else { value }
    }

    /// The mean distance of expected values over pairs of ways to ask that are alike in one thing, as a share of the scale.
    fn shift(&self, row: &RatingOutcome, alike: fn(&RatingVariant, &RatingVariant) -> bool) -> Option<f64> {
        let mut shifts = Vec::new();
        for (i, variant) in row.variants.iter().enumerate() {
            for other in row.variants[..i].iter().filter(|other| alike(variant, other)) {
                shifts.push((self.expected_of(variant) - self.expected_of(other)).abs() / range(&self.values));
            }
        }
        stats::mean(&shifts)
    }
}

impl Question {
    pub(super) fn has_reversed_key(&self) -> bool {
        self.reversed_key
    }

    pub(super) fn answered(self, scores: &[Vec<Score>]) -> RatingOutcome {
        let variants = self.asked.into_iter().zip(scores).map(|(asked, scores)| {
            let all = log_sum_exp(scores.iter().map(|score| score.log_prob));
            let even = 1.0 / scores.len().max(1) as f64;
            let share = |score: &Score| if all.is_finite() { (score.log_prob - all).exp() } else { even };
            RatingVariant {
                form: asked.form,
                reversed: asked.reversed,
                probabilities: scores.iter().map(share).collect(),
            }
        });
        RatingOutcome { variants: variants.collect(), reversed_key: self.reversed_key }
    }
}

impl RatingOutcome {
    fn mean(&self, of: impl Fn(&RatingVariant) -> f64) -> f64 {
        self.variants.iter().map(of).sum::<f64>() / self.variants.len().max(1) as f64
    }

    fn consistency(&self) -> (Option<f64>, Option<f64>) {
        let asked: Vec<(&str, bool, usize)> = self
            .variants
            .iter()
            .map(|variant| (variant.form.as_str(), variant.reversed, first_largest(&variant.probabilities)))
            .collect();
        consistency(&asked)
    }
}

/// In nats.
fn entropy(probabilities: &[f64]) -> f64 {
    -probabilities.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

fn ends(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

fn range(values: &[f64]) -> f64 {
    let (low, high) = ends(values);
    high - low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bootstrap;

    fn variant(form: &str, reversed: bool, probabilities: &[f64]) -> RatingVariant {
        RatingVariant { form: form.into(), reversed, probabilities: probabilities.to_vec() }
    }

    fn task(more: &str) -> Result<Rating> {
        let text = format!("kind = \"rating\"\nprompt = \"p\"\noptions = [\"no\", \"so so\", \"yes\"]\n{more}\n");
        Rating::new(&Words::parse(&text, "t.toml").expect("words"), "t.toml")
    }

    #[test]
    fn keyed_items_count_against_their_dimension() {
        let task = task("").expect("a task");
        let plain = RatingOutcome { variants: vec![variant("f", false, &[0.0, 0.5, 0.5])], reversed_key: false };
        let turned = RatingOutcome { reversed_key: true, ..plain.clone() };
        let mut measures = Measures::new(Bootstrap { draws: 100, ..Bootstrap::default() });
        task.measure(&[&plain, &turned], &mut measures);
        let value = |name: &str| measures.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        // 2.5 and 4 − 2.5.
        assert_eq!((value("score"), value("agreement")), (Some(2.0), Some(2.5)));
        assert!((value("entropy").expect("a number") - 2f64.ln()).abs() < 1e-12);
        assert_eq!((value("order_consistency"), value("form_consistency"), value("order_shift")), (None, None, None));
    }

    #[test]
    fn steadiness_is_told_by_order_and_by_form() {
        let task = task("values = [0, 1, 2]").expect("a task");
        let row = RatingOutcome {
            variants: vec![
                variant("a", false, &[1.0, 0.0, 0.0]),
                variant("a", true, &[0.0, 0.0, 1.0]),
                variant("b", false, &[0.5, 0.5, 0.0]),
                variant("b", true, &[0.0, 0.0, 1.0]),
            ],
            reversed_key: false,
        };
        let mut measures = Measures::new(Bootstrap { draws: 10, ..Bootstrap::default() });
        task.measure(&[&row], &mut measures);
        let value = |name: &str| measures.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        assert_eq!((value("order_consistency"), value("form_consistency")), (Some(0.0), Some(1.0)));
        // Of a scale of 2: 1 and 0.75; 0.25 and 0.
        assert_eq!((value("order_shift"), value("form_shift")), (Some(0.875), Some(0.125)));
    }

    #[test]
    fn scales_that_are_none_are_refused() {
        let refused = |more: &str| task(more).expect_err("refused").to_string();
        assert!(refused("values = [1, 2]").contains("expected 3 numbers"));
        assert!(refused("values = [1, 1, 1]").contains("that differ"));
        let words = Words::parse("kind = \"rating\"\nprompt = \"p\"\noptions = [\"a\"]", "t.toml").expect("words");
        assert!(Rating::new(&words, "t.toml").expect_err("one step").to_string().contains("t.toml: options"));
    }
}
