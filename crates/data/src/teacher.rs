//! What a teacher says of the tokens of a completion, in sparse form.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Fault, Reason};
use crate::form::{Columns, column, kind};
use crate::row::{Annotation, Completion, Context, Example, Row, TeacherToken};

/// By how much the probabilities of one entry may sum to more than 1: what rounding does to them.
const ROUNDING: f64 = 1e-3;

/// What every row must bring of a teacher, in the column `teacher`: a list for each completion, under the completion's own
/// name, with one entry for each of its scored tokens, in order.
///
/// ```json
/// {"prompt": "p", "chosen": "a", "rejected": "b", "teacher": {
///   "chosen":   [{"ids": [5, 9], "log_probs": [-0.1, -2.5], "reference_log_probs": [-0.3, -1.5]}, …],
///   "rejected": [{"ids": [7],    "log_probs": [-0.4],       "reference_log_probs": [-0.2]}, …]}}
/// ```
///
/// `ids` are tokens that may stand at this place, each once; `log_probs` their log-probabilities (nats) under the teacher;
/// `reference_log_probs` under its own reference. The probabilities of an entry sum to at most 1 (1.001 with rounding). The
/// end-of-sequence token that the encoder appends is a scored token too. Of a labelled row or a demonstration the list stands
/// under `completion`; ranked and judged rows take no teacher. Entries beyond the length limit are cut off with their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherColumn {
    /// Nothing; a column `teacher` is not read.
    #[default]
    None,
    /// Its log-probabilities. Those of its reference are not read.
    LogProbs,
    /// Those of its own reference too.
    WithReference,
}

/// The lists of an object's completions, in the order of the completions; none where no teacher is wanted.
pub(crate) fn read(
    wanted: TeacherColumn,
    row: &Row,
    object: &Map<String, Value>,
    columns: &Columns,
) -> Result<Vec<Vec<TeacherToken>>, Fault> {
    if wanted == TeacherColumn::None {
        return Ok(Vec::new());
    }
    let name = columns.in_file("teacher");
    let teacher = column(object, columns, "teacher")?;
    let teacher = teacher.as_object().ok_or_else(|| {
        Fault::new(Reason::WrongType, format!("`{name}` is {}, expected an object of lists", kind(teacher)))
    })?;
    names(row)?.iter().map(|side| list(teacher.get(*side), &format!("{name}.{side}"), wanted)).collect()
}

/// Whether a row from memory brings what is wanted.
pub(crate) fn check(wanted: TeacherColumn, teacher: &[Vec<TeacherToken>]) -> Result<(), Fault> {
    if wanted == TeacherColumn::None {
        return Ok(());
    }
    if teacher.is_empty() {
        return Err(Fault::new(Reason::MissingColumn, "the row brings no teacher's log-probabilities"));
    }
    let missing = |token: &TeacherToken| token.reference_log_probs.is_empty();
    if wanted == TeacherColumn::WithReference && teacher.iter().flatten().any(missing) {
        return Err(Fault::new(
            Reason::MissingColumn,
            "the row brings a teacher's log-probabilities without those of its reference",
        ));
    }
    Ok(())
}

/// The same of an example.
pub(crate) fn check_example(wanted: TeacherColumn, example: &Example) -> Result<(), Fault> {
    if wanted == TeacherColumn::None {
        return Ok(());
    }
    let completions = example.contexts.iter().flat_map(|context| &context.completions);
    completions.into_iter().try_for_each(|completion| {
        check(wanted, if completion.teacher.is_empty() { &[] } else { std::slice::from_ref(&completion.teacher) })
    })
}

/// Gives every completion its list, one entry a scored token.
pub(crate) fn attach(
    context: &mut Context,
    teacher: &[Vec<TeacherToken>],
    annotation: &Annotation,
    vocabulary: usize,
) -> Result<(), Fault> {
    if teacher.is_empty() {
        return Ok(());
    }
    let names: &[&str] = if *annotation == Annotation::Pair { &PAIR } else { &SINGLE };
    if matches!(annotation, Annotation::Ranked { .. } | Annotation::Judged { .. }) || teacher.len() != names.len() {
        return Err(Fault::new(
            Reason::TeacherMismatch,
            format!(
                "lists for {} completion(s), expected one for each of {}; ranked and judged rows take none",
                teacher.len(),
                names.join(", ")
            ),
        ));
    }
    for ((completion, list), name) in context.completions.iter_mut().zip(teacher).zip(names) {
        fit(completion, list, name, vocabulary)?;
        completion.teacher.clone_from(list);
    }
    Ok(())
}

const PAIR: [&str; 2] = ["chosen", "rejected"];
const SINGLE: [&str; 1] = ["completion"];

fn names(row: &Row) -> Result<&'static [&'static str], Fault> {
    match row {
        Row::Pair { .. } => Ok(&PAIR),
        Row::Labelled { .. } | Row::Demonstration { .. } => Ok(&SINGLE),
        Row::Ranked { .. } | Row::Judged { .. } => {
            Err(Fault::new(Reason::TeacherMismatch, "ranked and judged rows take no teacher; use pairs"))
        }
    }
}

fn list(value: Option<&Value>, name: &str, wanted: TeacherColumn) -> Result<Vec<TeacherToken>, Fault> {
    let list = value.and_then(Value::as_array).ok_or_else(|| {
        let found = value.map_or("missing", kind);
        Fault::new(Reason::WrongType, format!("`{name}` is {found}, expected a list of one entry a scored token"))
    })?;
    list.iter().enumerate().map(|(index, entry)| token(entry, &format!("{name}[{index}]"), wanted)).collect()
}

fn token(entry: &Value, name: &str, wanted: TeacherColumn) -> Result<TeacherToken, Fault> {
    let reference_log_probs = match wanted {
        TeacherColumn::WithReference => log_probs(entry, name, "reference_log_probs")?,
        TeacherColumn::None | TeacherColumn::LogProbs => Vec::new(),
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(TeacherToken {
        ids: values(entry, name, "ids", "token ids", id)?,
        log_probs: log_probs(entry, name, "log_probs")?,
        reference_log_probs,
    })
}

/// They are held as f32; one that overflows is refused when it is fitted to its token.
fn log_probs(entry: &Value, name: &str, key: &str) -> Result<Vec<f32>, Fault> {
    values(entry, name, key, "numbers", |value| value.as_f64().map(|value| value as f32))
}

fn values<T>(
    entry: &Value,
    name: &str,
    key: &str,
    what: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, Fault> {
    let wrong =
        |found: &str| Fault::new(Reason::WrongType, format!("`{name}.{key}` is {found}, expected a list of {what}"));
    let list = entry.get(key).ok_or_else(|| wrong("missing"))?;
    let list = list.as_array().ok_or_else(|| wrong(kind(list)))?;
    list.iter().map(|value| read(value).ok_or_else(|| wrong(&format!("a list with {value} in it")))).collect()
}

fn fit(completion: &Completion, list: &[TeacherToken], name: &str, vocabulary: usize) -> Result<(), Fault> {
    let scored = completion.scored_tokens();
    if list.len() != scored {
        return Err(Fault::new(
            Reason::TeacherMismatch,
            format!("{} entries for `{name}`, which has {scored} scored tokens; expected one each", list.len()),
        ));
    }
    list.iter().enumerate().try_for_each(|(index, token)| {
        check_token(token, vocabulary).map_err(|what| {
            Fault::new(Reason::TeacherMismatch, format!("`{name}`, scored token {} of {scored}: {what}", index + 1))
        })
    })
}

fn check_token(token: &TeacherToken, vocabulary: usize) -> Result<(), String> {
    let count = token.ids.len();
    if count == 0 {
        return Err("no ids, expected at least one".to_owned());
    }
    if let Some(id) = token.ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(format!("id {id}, the tokenizer's ids are 0 to {}", vocabulary.saturating_sub(1)));
    }
    let mut sorted = token.ids.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("id {} stands there twice", twice[0]));
    }
    check_log_probs("log_probs", &token.log_probs, count)?;
    if token.reference_log_probs.is_empty() {
        return Ok(());
    }
    check_log_probs("reference_log_probs", &token.reference_log_probs, count)
}

fn check_log_probs(name: &str, log_probs: &[f32], count: usize) -> Result<(), String> {
    if log_probs.len() != count {
        return Err(format!("{} {name} for {count} ids", log_probs.len()));
    }
    if let Some(value) = log_probs.iter().find(|value| !value.is_finite() || **value > 0.0) {
        return Err(format!("a value of {value} in {name}, expected finite numbers of at most 0"));
    }
    let sum: f64 = log_probs.iter().map(|value| f64::from(*value).exp()).sum();
    if sum > 1.0 + ROUNDING {
        return Err(format!("the probabilities of {name} sum to {sum:.4}, expected at most 1"));
    }
    Ok(())
}
