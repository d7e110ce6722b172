//! From a task, its rows and a model to a report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::choice::ChoiceOutcome;
use super::field::{TaskRow, Values};
use super::generate::AnswerOutcome;
use super::judge::Judge;
use super::rank::{self, RankOutcome};
use super::rating::RatingOutcome;
use super::report::{Measures, Metric, Slice, TaskReport, VERSION};
use super::rows::TaskRows;
use super::subject::{Request, Score, Subject};
use super::task::{Ask, Task};
use super::win_rate::{ComparisonOutcome, WinRate};
use super::words::CompareBy;
use super::yes_no::YesNoOutcome;
use crate::error::{Error, Result};
use crate::stats::Bootstrap;

/// Rows whose continuations are scored together.
const AT_ONCE: usize = 32;

/// Who takes part.
pub struct Parties<'a> {
    /// The model that is measured.
    pub subject: &'a mut Subject,
    /// What it started from, for log-ratios; without it, it is compared with itself without its adapter.
    pub reference: Option<&'a mut Subject>,
    /// Another model that answers beside it.
    pub opponent: Option<&'a mut Subject>,
    /// The model whose rewards decide which answer is better, and its reference; without one, it is compared with itself without
    /// its adapter.
    pub reward: Option<(&'a mut Subject, Option<&'a mut Subject>)>,
    /// Who judges answers.
    pub judge: Option<&'a mut dyn Judge>,
}

impl std::fmt::Debug for Parties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parties")
            .field("subject", &self.subject)
            .field("judge", &self.judge.is_some())
            .finish_non_exhaustive()
    }
}

impl<'a> Parties<'a> {
    /// A model alone.
    pub fn new(subject: &'a mut Subject) -> Self {
        Self { subject, reference: None, opponent: None, reward: None, judge: None }
    }
}

/// A task that was run.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun {
    /// The numbers.
    pub report: TaskReport,
    /// What was said to each row.
    pub items: Vec<TaskItem>,
}

/// What came of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskItem {
    /// Where the row stands.
    pub place: String,
    /// Which group it belongs to.
    pub group: Option<String>,
    /// Columns by which it is sliced, with their values.
    pub slices: Vec<(String, String)>,
    /// What the model said.
    pub outcome: Outcome,
}

/// What a model said to a row, by the kind of task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Of `choice` and `pair`.
    Choice(ChoiceOutcome),
    /// Of `yes_no`.
    YesNo(YesNoOutcome),
    /// Of `rating`.
    Rating(RatingOutcome),
    /// Of `generate`.
    Answer(AnswerOutcome),
    /// Of `win_rate`.
    Comparison(ComparisonOutcome),
    /// Of `rank`.
    Rank(RankOutcome),
}

/// Measures a model on a task. `progress` is told after every few rows how many are done.
///
/// # Errors
/// A template that does not suit a row; a judge that fails; somebody missing whom the task needs ([`Task::needs`]).
pub fn run_task(
    task: &Task,
    mut rows: TaskRows,
    parties: &mut Parties<'_>,
    bootstrap: Bootstrap,
    progress: &mut dyn FnMut(usize),
) -> Result<TaskRun> {
    check(task, parties)?;
    let all = std::mem::take(&mut rows.rows);
    let mut items = Vec::with_capacity(all.len());
    let mut done = 0;
    // A model answers one row after the other; scores are computed together.
    let at_once = if matches!(task.ask, Ask::Generate(_) | Ask::WinRate(_)) { 1 } else { AT_ONCE };
    for some in all.chunks(at_once) {
        for (row, outcome) in some.iter().zip(outcomes(task, some, parties)?) {
            match outcome {
                Ok(outcome) => {
                    let values = Values::of(row);
                    items.push(TaskItem {
                        place: row.origin.to_string(),
                        group: task.group(&values)?,
                        slices: task.slices(&values)?,
                        outcome,
                    });
                }
                Err(reason) => rows.leave_out(reason),
            }
        }
        done += some.len();
        progress(done);
    }
    if items.is_empty() {
        let reason = rows.reasons.first().cloned().unwrap_or_default();
        return Err(Error::Rows { place: rows.name, reason: format!("no row could be measured: {reason}") });
    }
    Ok(TaskRun { report: report(task, &rows, &items, bootstrap), items })
}

fn check(task: &Task, parties: &Parties<'_>) -> Result<()> {
    let needs = task.needs();
    let missing = |what: &str| Err(Error::config(task.name(), format!("the task needs {what}")));
    if needs.judge && parties.judge.is_none() {
        return missing("a judge, and none is given");
    }
    if needs.opponent && parties.opponent.is_none() {
        return missing(
            "another model to answer beside this one, or `opponent` in the task, a template of the other answer",
        );
    }
    if needs.reward && parties.reward.is_none() {
        return missing("a model whose rewards decide, and none is given");
    }
    if needs.reference && parties.reference.is_none() && !parties.subject.has_adapter() {
        return missing("the reference of the model, or its adapter, to compare with; or by = \"mean\"");
    }
    Ok(())
}

type Outcomes = Vec<std::result::Result<Outcome, String>>;

fn outcomes(task: &Task, rows: &[TaskRow], parties: &mut Parties<'_>) -> Result<Outcomes> {
    match &task.ask {
        Ask::Choice(choice) => {
            let questions = rows.iter().map(|row| choice.ask(&mut Values::of(row))).collect::<Result<Vec<_>>>()?;
            let requests: Vec<Request> = questions
                .iter()
                .flat_map(|question| &question.asked)
                .flat_map(|asked| [Some(&asked.request), asked.unconditional.as_ref()].into_iter().flatten())
                .cloned()
                .collect();
            let mut scored = parties.subject.score(&requests)?.into_iter();
            let answered = questions.into_iter().map(|question| {
                // All of them are taken, whether one fails or not.
                let scores: Vec<std::result::Result<_, String>> = question
                    .asked
                    .iter()
                    .map(|asked| {
                        let own = scored.next().unwrap_or_else(|| Ok(Vec::new()));
                        let alone = asked.unconditional.as_ref().and_then(|_| scored.next());
                        Ok((own?, alone.transpose()?))
                    })
                    .collect();
                let scores = scores.into_iter().collect::<std::result::Result<Vec<_>, String>>()?;
                Ok(Outcome::Choice(question.answered(&scores)))
            });
            Ok(answered.collect())
        }
        Ask::YesNo(ask) => {
            let questions = rows.iter().map(|row| ask.ask(&mut Values::of(row))).collect::<Result<Vec<_>>>()?;
            let scored = score_forms(parties.subject, questions.iter().map(|question| question.asked.as_slice()))?;
            let answered = questions.into_iter().zip(scored);
            Ok(answered.map(|(question, scores)| Ok(Outcome::YesNo(question.answered(&scores?)))).collect())
        }
        Ask::Rating(ask) => {
            let questions = rows.iter().map(|row| ask.ask(&mut Values::of(row))).collect::<Result<Vec<_>>>()?;
            let scored = score_forms(parties.subject, questions.iter().map(|question| question.asked.as_slice()))?;
            let answered = questions.into_iter().zip(scored);
            Ok(answered.map(|(question, scores)| Ok(Outcome::Rating(question.answered(&scores?)))).collect())
        }
        Ask::Rank(ask) => {
            let questions = rows.iter().map(|row| ask.ask(&Values::of(row))).collect::<Result<Vec<_>>>()?;
            let requests: Vec<Request> = questions.iter().map(|question| question.request.clone()).collect();
            let scored = rank::rewards(ask.by, parties.subject, parties.reference.as_deref_mut(), &requests)?;
            let answered = questions.into_iter().zip(scored);
            Ok(answered.map(|(question, scores)| Ok(Outcome::Rank(question.answered(&scores?)))).collect())
        }
        Ask::Generate(ask) => rows
            .iter()
            .map(|row| {
                let values = Values::of(row);
                let prompt = ask.answers.prompt(&values)?;
                match ask.answers.answer(&values, &prompt, parties.subject)? {
                    Err(reason) => Ok(Err(reason)),
                    Ok(answer) => {
                        let judge = parties.judge.as_deref_mut().map(|judge| judge as &mut dyn Judge);
                        Ok(Ok(Outcome::Answer(ask.score(&values, prompt, answer, task.name(), judge)?)))
                    }
                }
            })
            .collect(),
        Ask::WinRate(ask) => rows.iter().map(|row| compare(task, ask, row, parties)).collect(),
    }
}

/// Scores what is asked in each question; a question of which one part fails has failed.
fn score_forms<'q>(
    subject: &mut Subject,
    questions: impl Iterator<Item = &'q [super::forms::Asked]>,
) -> Result<Vec<std::result::Result<Vec<Vec<Score>>, String>>> {
    let questions: Vec<&[super::forms::Asked]> = questions.collect();
    let requests: Vec<Request> =
        questions.iter().flat_map(|asked| asked.iter()).map(|asked| asked.request.clone()).collect();
    let mut scored = subject.score(&requests)?.into_iter();
    let each = questions.iter().map(|asked| {
        let own: Vec<_> = scored.by_ref().take(asked.len()).collect();
        own.into_iter().collect()
    });
    Ok(each.collect())
}

fn compare(
    task: &Task,
    ask: &WinRate,
    row: &TaskRow,
    parties: &mut Parties<'_>,
) -> Result<std::result::Result<Outcome, String>> {
    let values = Values::of(row);
    let prompt = ask.answers.prompt(&values)?;
    let answer = match ask.answers.answer(&values, &prompt, parties.subject)? {
        Ok(answer) => answer,
        Err(reason) => return Ok(Err(reason)),
    };
    let opponent = match (ask.opponent(&values)?, parties.opponent.as_deref_mut()) {
        (Some(opponent), _) => opponent,
        (None, Some(other)) => match ask.answers.write(&values, &prompt, other)? {
            Ok(answer) => answer,
            Err(reason) => return Ok(Err(reason)),
        },
        (None, None) => return Err(Error::config(task.name(), "nobody answers beside the model")),
    };
    if ask.by != CompareBy::LogRatio {
        let Some(judge) = parties.judge.as_deref_mut() else {
            return Err(Error::config(task.name(), "nobody judges"));
        };
        let found = ask.judged(&values, [prompt, answer, opponent], task.name(), judge)?;
        return Ok(Ok(Outcome::Comparison(found)));
    }
    let Some((reward, reference)) = &mut parties.reward else {
        return Err(Error::config(task.name(), "no rewards decide"));
    };
    if answer.trim().is_empty() || opponent.trim().is_empty() {
        return Ok(Ok(Outcome::Comparison(WinRate::unrewarded([prompt, answer, opponent]))));
    }
    let request = Request {
        origin: row.origin.clone(),
        prompt: prompt.clone(),
        delimiter: if prompt.ends_with(char::is_whitespace) { String::new() } else { " ".into() },
        continuations: vec![answer.trim().to_owned(), opponent.trim().to_owned()],
    };
    let scored = rank::rewards(CompareBy::LogRatio, reward, reference.as_deref_mut(), &[request])?;
    Ok(match scored.into_iter().next() {
        Some(Ok(scores)) => {
            let (own, other) = (scores.first().copied(), scores.get(1).copied());
            let (own, other) = (own.unwrap_or(f64::NAN), other.unwrap_or(f64::NAN));
            Ok(Outcome::Comparison(WinRate::rewarded([prompt, answer, opponent], own, other)))
        }
        Some(Err(reason)) => Err(reason),
        None => Err(format!("{}: no score", row.origin)),
    })
}

fn report(task: &Task, rows: &TaskRows, items: &[TaskItem], bootstrap: Bootstrap) -> TaskReport {
    let all: Vec<&TaskItem> = items.iter().collect();
    let mut by_slice: BTreeMap<(usize, &str, &str), Vec<&TaskItem>> = BTreeMap::new();
    for item in items {
        for (place, (column, value)) in item.slices.iter().enumerate() {
            by_slice.entry((place, column.as_str(), value.as_str())).or_default().push(item);
        }
    }
    let slices: Vec<Slice> = by_slice
        .into_iter()
        .map(|((_, column, value), items)| Slice {
            column: column.to_owned(),
            value: value.to_owned(),
            metrics: measure(task, &items, bootstrap),
        })
        .collect();
    let mut metrics = measure(task, &all, bootstrap);
    if let (Ask::Rank(_), Some(first)) = (&task.ask, slices.first()) {
        let of_slices = slices.iter().filter(|slice| slice.column == first.column);
        let shares: Vec<f64> = of_slices
            .filter_map(|slice| slice.metrics.iter().find(|metric| metric.name == "accuracy"))
            .map(|m| m.value)
            .collect();
        // Over slices and not over rows, so without an interval.
        let mut measures = Measures::new(bootstrap);
        measures.exact("accuracy_mean_of_slices", crate::stats::mean(&shares), shares.len());
        metrics.append(&mut measures.metrics);
    }
    TaskReport {
        version: VERSION,
        task: task.name().to_owned(),
        kind: task.kind(),
        rows: rows.name.clone(),
        items: items.len(),
        left_out: rows.left_out,
        reasons: rows.reasons.clone(),
        metrics,
        slices,
    }
}

/// The numbers of some rows.
fn measure(task: &Task, items: &[&TaskItem], bootstrap: Bootstrap) -> Vec<Metric> {
    macro_rules! outcomes {
        ($kind:ident) => {
            items
                .iter()
                .filter_map(|item| match &item.outcome {
                    Outcome::$kind(found) => Some(found),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
    }
    let groups: Vec<Option<&str>> = items.iter().map(|item| item.group.as_deref()).collect();
    let mut measures = Measures::new(bootstrap);
    match &task.ask {
        Ask::Choice(ask) => ask.measure(&outcomes!(Choice), &groups, &mut measures),
        Ask::YesNo(ask) => ask.measure(&outcomes!(YesNo), &groups, &mut measures),
        Ask::Rating(ask) => ask.measure(&outcomes!(Rating), &mut measures),
        Ask::Generate(ask) => ask.measure(&outcomes!(Answer), &mut measures),
        Ask::WinRate(ask) => ask.measure(&outcomes!(Comparison), &mut measures),
        Ask::Rank(ask) => ask.measure(&outcomes!(Rank), &mut measures),
    }
    measures.metrics
}
