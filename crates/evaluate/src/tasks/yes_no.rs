//! Questions that are answered by yes or no, each in several spellings.

use serde::{Deserialize, Serialize};

use super::choice::{groups_right, log_sum_exp};
use super::field::{Field, Values};
use super::forms::{Asked, Forms, consistency};
use super::report::Measures;
use super::subject::Score;
use super::words::Words;
use crate::error::{Error, Result};
use crate::stats::{Calibration, area_under_curve};

/// A task of kind `yes_no`.
#[derive(Debug, Clone)]
pub(super) struct YesNo {
    forms: Forms,
    yes: Vec<String>,
    no: Vec<String>,
    answer: Option<Field>,
}

/// What is asked of a row.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) asked: Vec<Asked>,
    right: Option<bool>,
    yes: usize,
}

/// What a model said to a question of yes or no.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct YesNoOutcome {
    /// The form, the log-probability of all spellings of yes together, and of no.
    pub forms: Vec<(String, f64, f64)>,
    /// The right answer, where there is one.
    pub right: Option<bool>,
}

impl YesNo {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let spellings = |key: &str, given: &Option<Vec<String>>, otherwise: [&str; 2]| match given {
            Some(given) if given.is_empty() || given.iter().any(|text| text.trim().is_empty()) => {
                Err(Error::config(format!("{file}: {key}"), "expected one spelling or more, none of them empty"))
            }
            Some(given) => Ok(given.clone()),
            None => Ok(otherwise.map(String::from).to_vec()),
        };
        let (yes, no) = (spellings("yes", &words.yes, ["yes", "Yes"])?, spellings("no", &words.no, ["no", "No"])?);
        if let Some(both) = yes.iter().find(|text| no.contains(text)) {
            return Err(Error::config(
                format!("{file}: no"),
                format!("{both:?} stands under `yes` too; take it out of one"),
            ));
        }
        let answer = Field::optional(file, "answer", words.answer.as_ref())?;
        Ok(Self { forms: Forms::new(words, file)?, yes, no, answer })
    }

    pub(super) fn ask(&self, values: &mut Values<'_>) -> Result<Question> {
        let right = self.answer.as_ref().map(|answer| answer.truth(values)).transpose()?.flatten();
        let spellings: Vec<String> = self.yes.iter().chain(&self.no).cloned().collect();
        Ok(Question { asked: self.forms.ask(values, &spellings)?, right, yes: self.yes.len() })
    }

    pub(super) fn measure(&self, rows: &[&YesNoOutcome], groups: &[Option<&str>], measures: &mut Measures) {
        let probabilities: Vec<f64> = rows.iter().map(|row| row.probability()).collect();
        let known: Vec<(f64, f64)> = rows
            .iter()
            .zip(&probabilities)
            .filter_map(|(row, p)| row.right.map(|right| (*p, f64::from(u8::from(right)))))
            .collect();
        let right: Vec<f64> = known.iter().map(|(p, right)| is_right(*p, *right)).collect();
        measures.mean("accuracy", &right);
        measures.of("area_under_curve", known.len(), |items| {
            let of = |truth: bool| {
                items
                    .iter()
                    .map(|i| known[*i])
                    .filter(|(_, right)| (*right > 0.5) == truth)
                    .map(|(p, _)| p)
                    .collect::<Vec<_>>()
            };
            area_under_curve(&of(true), &of(false))
        });
        let mut calibration = |name: &str, of: fn(Calibration) -> f64| {
            measures.of(name, known.len(), |items| {
                let drawn: Vec<(f64, f64)> = items.iter().map(|i| known[*i]).collect();
                Calibration::of(&drawn, 10).map(of)
            });
        };
        calibration("calibration_error", |found| found.expected_error);
        calibration("brier", |found| found.brier);
        let named = rows.iter().zip(groups).zip(&probabilities);
        let grouped: Vec<(String, f64)> = named
            .filter_map(|((row, group), p)| Some(((*group)?.to_owned(), is_right(*p, f64::from(u8::from(row.right?))))))
            .collect();
        groups_right(&grouped, measures);
        let base: Vec<f64> = known.iter().map(|(_, right)| *right).collect();
        measures.mean("right_is_yes", &base);
        measures.mean("probability_of_yes", &probabilities);
        measures.mean("probability_of_any_spelling", &rows.iter().map(|row| row.mass()).collect::<Vec<_>>());
        let steady: Vec<f64> = rows.iter().filter_map(|row| row.consistency()).collect();
        measures.mean("form_consistency", &steady);
    }
}

/// 1, or half where the probability is level.
fn is_right(probability: f64, right: f64) -> f64 {
    match (probability - 0.5) * (right - 0.5) {
        side if side > 0.0 => 1.0,
        side if side < 0.0 => 0.0,
        _ => 0.5,
    }
}

impl Question {
    pub(super) fn right(&self) -> Option<bool> {
        self.right
    }

    pub(super) fn answered(self, scores: &[Vec<Score>]) -> YesNoOutcome {
        let yes = self.yes;
        let forms = self.asked.into_iter().zip(scores).map(|(asked, scores)| {
            let mass = |scores: &[Score]| log_sum_exp(scores.iter().map(|score| score.log_prob));
            (asked.form, mass(&scores[..yes.min(scores.len())]), mass(scores.get(yes..).unwrap_or_default()))
        });
        YesNoOutcome { forms: forms.collect(), right: self.right }
    }
}

impl YesNoOutcome {
    /// The probability of yes, of yes and no together, over all forms.
    pub fn probability(&self) -> f64 {
        self.mean(yes_share)
    }

    /// How much probability all spellings have together: little means that the model would say something else.
    fn mass(&self) -> f64 {
        self.mean(|yes, no| (yes.exp() + no.exp()).min(1.0))
    }

    fn consistency(&self) -> Option<f64> {
        let asked: Vec<(&str, bool, usize)> =
            self.forms.iter().map(|(form, yes, no)| (form.as_str(), false, usize::from(yes > no))).collect();
        consistency(&asked).1
    }

    fn mean(&self, of: impl Fn(f64, f64) -> f64) -> f64 {
        self.forms.iter().map(|(_, yes, no)| of(*yes, *no)).sum::<f64>() / self.forms.len().max(1) as f64
    }
}

fn yes_share(yes: f64, no: f64) -> f64 {
    1.0 / (1.0 + (no - yes).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bootstrap;

    fn row(yes: f64, right: Option<bool>) -> YesNoOutcome {
        YesNoOutcome { forms: vec![("prompt".into(), yes.ln() - 3.0, (1.0 - yes).ln() - 3.0)], right }
    }

    #[test]
    fn spellings_add_up() {
        let score = |p: f64| Score { log_prob: p.ln(), tokens: 1 };
        let question = Question { asked: vec![asked()], right: Some(true), yes: 2 };
        let found = question.answered(&[vec![score(0.1), score(0.2), score(0.1)]]);
        assert!((found.probability() - 0.75).abs() < 1e-12 && (found.mass() - 0.4).abs() < 1e-12);
    }

    fn asked() -> Asked {
        let request = super::super::subject::Request {
            origin: candlewick_data::Origin::memory(1),
            prompt: "p".into(),
            delimiter: " ".into(),
            continuations: Vec::new(),
        };
        Asked { form: "prompt".into(), reversed: false, request, unconditional: None }
    }

    #[test]
    fn numbers_of_a_few_questions() {
        let text = "kind = \"yes_no\"\nprompt = \"p\"\nanswer = \"1\"\n";
        let task = YesNo::new(&Words::parse(text, "t.toml").expect("words"), "t.toml").expect("a task");
        let rows =
            [row(0.9, Some(true)), row(0.6, Some(false)), row(0.2, Some(false)), row(0.5, Some(true)), row(0.5, None)];
        let mut measures = Measures::new(Bootstrap { draws: 100, ..Bootstrap::default() });
        let groups = [Some("a"), Some("b"), Some("a"), None, None];
        task.measure(&rows.iter().collect::<Vec<_>>(), &groups, &mut measures);
        let value = |name: &str| measures.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
        assert_eq!(value("accuracy"), Some(2.5 / 4.0));
        assert_eq!(value("area_under_curve"), Some(0.75));
        assert_eq!(value("groups_right"), Some(0.5));
        let brier = (0.01 + 0.36 + 0.04 + 0.25) / 4.0;
        assert!((value("brier").expect("a score") - brier).abs() < 1e-12);
        assert!((value("probability_of_any_spelling").expect("a mass") - (-3f64).exp()).abs() < 1e-12);
        assert_eq!(value("form_consistency"), None);
    }

    #[test]
    fn a_spelling_stands_on_one_side() {
        let refused = |more: &str| {
            let text = format!("kind = \"yes_no\"\nprompt = \"p\"\n{more}\n");
            YesNo::new(&Words::parse(&text, "t.toml").expect("words"), "t.toml").expect_err("refused").to_string()
        };
        assert!(refused("no = [\"nope\", \"Yes\"]").contains("\"Yes\" stands under `yes` too"));
        assert!(refused("yes = []").contains("t.toml: yes"));
    }
}
