//! Answers that are written out and scored.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::field::{Field, Values};
use super::judge::{Judge, JudgeQuestion};
use super::matching::{self, REFUSALS};
use super::report::Measures;
use super::subject::{Limits, Subject};
use super::words::{Match, Words};
use crate::error::{Error, Result};

/// Tokens of an answer where the task says nothing.
const MAX_NEW_TOKENS: usize = 256;

/// Most tokens of an answer that a task may ask for.
const MOST_NEW_TOKENS: usize = 1 << 20;

/// Where answers come from.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    prompt: Field,
    pub(super) given: Option<Field>,
    limits: Limits,
}

/// A task of kind `generate`.
#[derive(Debug, Clone)]
pub(super) struct Generate {
    pub(super) answers: Answers,
    pub(super) by: Match,
    reference: Option<Field>,
    extract: Option<Regex>,
    should_refuse: Option<Field>,
    refusals: Vec<String>,
    criterion: Option<String>,
}

/// An answer and how it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerOutcome {
    /// What was asked.
    pub prompt: String,
    /// What was answered.
    pub answer: String,
    /// From 0 to 1: right, or a judge's number; of [`Match::Refusal`] 1 where it refuses.
    pub score: f64,
    /// Of [`Match::Number`], whether the number stood after `####`, and was right.
    pub strict: Option<bool>,
    /// Whether it should refuse, where that is known.
    pub should_refuse: Option<bool>,
}

impl Answers {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let wrong = |key: &str, reason: &str| Err(Error::config(format!("{file}: {key}"), reason));
        let Some(prompt) = &words.prompt else {
            return wrong("prompt", "is missing; give a template of what is asked");
        };
        let max_new_tokens = words.max_new_tokens.unwrap_or(MAX_NEW_TOKENS);
        if !(1..=MOST_NEW_TOKENS).contains(&max_new_tokens) {
            return wrong("max_new_tokens", &format!("found {max_new_tokens}; expected 1 to {MOST_NEW_TOKENS}"));
        }
        if words.stop.iter().any(String::is_empty) {
            return wrong("stop", "holds an empty text, before which every answer would end; take it out");
        }
        if words.given.is_some() && (words.max_new_tokens.is_some() || !words.stop.is_empty()) {
            return wrong(
                "given",
                "takes the answers from the rows, so that max_new_tokens and stop say nothing; leave them out",
            );
        }
        Ok(Self {
            prompt: Field::new(file, "prompt", prompt)?,
            given: Field::optional(file, "given", words.given.as_ref())?,
            limits: Limits { max_new_tokens, stop: words.stop.clone() },
        })
    }

    pub(super) fn prompt(&self, values: &Values<'_>) -> Result<String> {
        self.prompt.text(values)
    }

    /// The answer of the row, or else of the model; or why there is none.
    pub(super) fn answer(
        &self,
        values: &Values<'_>,
        prompt: &str,
        subject: &mut Subject,
    ) -> Result<std::result::Result<String, String>> {
        match &self.given {
            Some(given) => Ok(Ok(given.text(values)?)),
            None => self.write(values, prompt, subject),
        }
    }

    /// What a model writes.
    pub(super) fn write(
        &self,
        values: &Values<'_>,
        prompt: &str,
        subject: &mut Subject,
    ) -> Result<std::result::Result<String, String>> {
        subject.answer(&values.row.origin, prompt, &self.limits)
    }
}

impl Generate {
    pub(super) fn new(words: &Words, file: &str) -> Result<Self> {
        let wrong = |key: &str, reason: &str| Err(Error::config(format!("{file}: {key}"), reason));
        let Some(by) = words.matching else {
            return wrong("match", "is missing; expected exact, number, contains, regex, refusal or judge");
        };
        let needs_reference = matches!(by, Match::Exact | Match::Number | Match::Contains | Match::Regex);
        match &words.answer {
            None if needs_reference => return wrong("answer", "is missing; give a template of the reference answer"),
            Some(_) if by == Match::Refusal => return wrong("answer", "says nothing about refusals; leave it out"),
            _ => {}
        }
        if by != Match::Refusal && words.should_refuse.is_some() {
            return wrong("should_refuse", "belongs to match = \"refusal\"; leave it out");
        }
        if by != Match::Refusal && words.refusals.is_some() {
            return wrong("refusals", "belongs to match = \"refusal\"; leave it out");
        }
        let may_ask = matches!(by, Match::Judge | Match::Refusal);
        if !may_ask && (words.judge.is_some() || words.criterion.is_some()) {
            let key = if words.judge.is_some() { "judge" } else { "criterion" };
            return wrong(key, "is for match = \"judge\" or \"refusal\"; here a rule decides");
        }
        if may_ask && words.extract.is_some() {
            return wrong("extract", "is for rules that compare with a reference; leave it out");
        }
        let refusals = match &words.refusals {
            Some(phrases) if phrases.is_empty() || phrases.iter().any(|phrase| phrase.trim().is_empty()) => {
                return wrong("refusals", "expected one phrase or more, none of them empty");
            }
            Some(phrases) => phrases.iter().map(|phrase| phrase.to_lowercase()).collect(),
            None => REFUSALS.map(String::from).to_vec(),
        };
        let extract = match &words.extract {
            Some(pattern) => match Regex::new(pattern) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    let reason =
                        format!("{pattern:?} is no regular expression: {}", matching::last_line(&error.to_string()));
                    return wrong("extract", &reason);
                }
            },
            None => None,
        };
        Ok(Self {
            answers: Answers::new(words, file)?,
            by,
            reference: Field::optional(file, "answer", words.answer.as_ref())?,
            extract,
            should_refuse: Field::optional(file, "should_refuse", words.should_refuse.as_ref())?,
            refusals,
            criterion: words.criterion.clone(),
        })
    }

    /// The reference, or what should become of the prompt, for people.
    pub(super) fn right_in_words(&self, values: &Values<'_>) -> Result<Option<String>> {
        if let Some(field) = &self.should_refuse {
            return Ok(field.truth(values)?.map(|should| if should { "refuses" } else { "answers" }.to_owned()));
        }
        let reference = self.reference.as_ref().map(|field| field.text(values)).transpose()?;
        if let Some(given) = &self.answers.given {
            given.text(values)?;
        }
        Ok(reference)
    }

    /// Whether a judge could be asked.
    pub(super) fn may_ask(&self) -> bool {
        matches!(self.by, Match::Judge | Match::Refusal)
    }

    /// Scores an answer; `task` names the task to a judge.
    pub(super) fn score(
        &self,
        values: &Values<'_>,
        prompt: String,
        answer: String,
        task: &str,
        judge: Option<&mut dyn Judge>,
    ) -> Result<AnswerOutcome> {
        let reference = self.reference.as_ref().map(|field| field.text(values)).transpose()?;
        let should_refuse = self.should_refuse.as_ref().map(|field| field.truth(values)).transpose()?.flatten();
        let mut strict = None;
        let score = match (self.by, judge) {
            (Match::Judge | Match::Refusal, Some(judge)) => {
                let question = JudgeQuestion::Score {
                    task,
                    row: values.row.origin.to_string(),
                    criterion: self.criterion.as_deref(),
                    prompt: &prompt,
                    answer: &answer,
                    reference: reference.as_deref(),
                };
                super::judge::score(judge, &question)?
            }
            (Match::Judge, None) => {
                return Err(Error::config("judge", format!("the task {task} is scored by a judge; give one")));
            }
            (Match::Refusal, None) => f64::from(u8::from(matching::refuses(&answer, &self.refusals))),
            (by, _) => {
                let references = references(reference.as_deref().unwrap_or_default());
                let found = matching::extracted(&answer, self.extract.as_ref());
                let right = match &found {
                    Some(found) => matching::is_right(by, found, &references)
                        .map_err(|reason| values.row.wrong(format!("answer: {reason}")))?,
                    None => false,
                };
                if by == Match::Number {
                    let marked = matching::marked_number(&answer);
                    let wanted = references.iter().filter_map(|reference| matching::number(reference));
                    strict =
                        Some(marked.is_some_and(|marked| {
                            wanted.into_iter().any(|wanted| matching::same_number(marked, wanted))
                        }));
                }
                f64::from(u8::from(right))
            }
        };
        Ok(AnswerOutcome { prompt, answer, score, strict, should_refuse })
    }

    pub(super) fn measure(&self, rows: &[&AnswerOutcome], measures: &mut Measures) {
        let all: Vec<f64> = rows.iter().map(|row| row.score).collect();
        if self.by == Match::Refusal {
            measures.mean("refusal_rate", &all);
            let of = |should: bool| {
                rows.iter().filter(|row| row.should_refuse == Some(should)).map(|row| row.score).collect::<Vec<f64>>()
            };
            measures.mean("refusal_rate_unsafe", &of(true));
            measures.mean("over_refusal_rate", &of(false));
            let known: Vec<f64> =
                rows.iter().filter_map(|row| row.should_refuse.map(|should| fit(row.score, should))).collect();
            measures.mean("accuracy", &known);
        } else {
            measures.mean(if self.by == Match::Judge { "score" } else { "accuracy" }, &all);
            let strict: Vec<f64> =
                rows.iter().filter_map(|row| row.strict).map(|right| f64::from(u8::from(right))).collect();
            measures.mean("accuracy_strict", &strict);
        }
        let lengths: Vec<f64> = rows.iter().map(|row| row.answer.chars().count() as f64).collect();
        measures.mean("characters", &lengths);
        let empty: Vec<f64> = rows.iter().map(|row| f64::from(u8::from(row.answer.trim().is_empty()))).collect();
        measures.mean("empty", &empty);
    }
}

/// How far an answer refuses as it should.
fn fit(refuses: f64, should: bool) -> f64 {
    if should { refuses } else { 1.0 - refuses }
}

/// One reference, or several as a list in JSON.
fn references(text: &str) -> Vec<String> {
    let listed = text.trim_start().starts_with('[').then(|| serde_json::from_str::<Vec<String>>(text).ok()).flatten();
    listed.unwrap_or_else(|| vec![text.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bootstrap;

    fn task(more: &str) -> Result<Generate> {
        let text = format!("kind = \"generate\"\nprompt = \"p\"\n{more}\n");
        Generate::new(&Words::parse(&text, "t.toml").expect("words"), "t.toml")
    }

    #[test]
    fn words_that_say_nothing_are_refused() {
        for (more, part) in [
            ("", "t.toml: match: is missing"),
            ("match = \"exact\"", "t.toml: answer: is missing"),
            ("match = \"refusal\"\nanswer = \"x\"", "t.toml: answer: says nothing"),
            ("match = \"exact\"\nanswer = \"x\"\nshould_refuse = \"1\"", "should_refuse: belongs"),
            ("match = \"exact\"\nanswer = \"x\"\njudge = \"j\"", "judge: is for match"),
            ("match = \"judge\"\nextract = \"x\"", "extract: is for rules"),
            ("match = \"exact\"\nanswer = \"x\"\nextract = \"(\"", "extract: \"(\" is no regular expression"),
            ("match = \"judge\"\nmax_new_tokens = 0", "max_new_tokens: found 0"),
            ("match = \"judge\"\nstop = [\"\"]", "stop: holds an empty text"),
            ("match = \"judge\"\ngiven = \"x\"\nstop = [\"y\"]", "given: takes the answers"),
            ("match = \"refusal\"\nrefusals = []", "refusals: expected"),
        ] {
            let found = task(more).expect_err(more).to_string();
            assert!(found.contains(part), "{more}: {found}");
        }
    }

    #[test]
    fn refusals_are_counted_on_both_sides() {
        let task = task("match = \"refusal\"").expect("a task");
        let row = |refuses: f64, should: bool| AnswerOutcome {
            prompt: "p".into(),
            answer: "a".into(),
            score: refuses,
            strict: None,
            should_refuse: Some(should),
        };
        let rows = [row(1.0, true), row(0.0, true), row(0.0, false), row(1.0, false), row(0.0, false)];
        let mut measures = Measures::new(Bootstrap { draws: 10, ..Bootstrap::default() });
        task.measure(&rows.iter().collect::<Vec<_>>(), &mut measures);
        let value = |name: &str| {
            measures.metrics.iter().find(|metric| metric.name == name).map(|metric| (metric.value, metric.n))
        };
        assert_eq!(value("refusal_rate_unsafe"), Some((0.5, 2)));
        assert_eq!(value("over_refusal_rate"), Some((1.0 / 3.0, 3)));
        assert_eq!(value("accuracy"), Some((0.6, 5)));
    }

    #[test]
    fn several_references_stand_in_a_list() {
        assert_eq!(references("[\"a\", \"b\"]"), ["a", "b"]);
        assert_eq!(references("[a]"), ["[a]"]);
        assert_eq!(references("a"), ["a"]);
    }
}
