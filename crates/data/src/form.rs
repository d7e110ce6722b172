//! From a JSON object to a [`Row`]: which columns a form has and how they are read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Fault, Reason, excerpt, tail_excerpt};
use crate::numbers::NumberColumn;
use crate::row::{Message, Row, Text};
use crate::split;

/// The layout of a data file.
///
/// | form | columns |
/// |---|---|
/// | `trl_pair` | `prompt`, `chosen`, `rejected`; or only the last two, whose common beginning is the prompt |
/// | `trl_unpaired` | `prompt`, `completion`, `label` (true for wanted) |
/// | `prompt_completion` | `prompt`, `completion` |
/// | `hh_pair` | `chosen`, `rejected`: whole transcripts that begin with `\n\nHuman:` |
/// | `ranked` | `prompt`, `completions` (a list of texts), `ratings` (a list of numbers, higher for better) |
/// | `ranked` | `prompt`, `completions` as a list of `{"response": …, "rating": …}`, or with `text`, and with `overall_score` or `score` |
/// | `ranked` | `prompt`, `best_first` (a list of texts, the best one first) |
/// | `judged` | `prompt`, `completion`, `judgment` (a string), `positive` (true if it finds nothing wrong) |
/// | `judged` | `prompt`, `completion`, `judgment`, `score` (a number, positive from 7) |
///
/// A completion with a `label` is `trl_unpaired` whatever else the row has, unless the form is given.
///
/// Each text is a string, or a list of messages `{"role": …, "content": …}`. A conversation may be followed by a plain
/// string, which then is the assistant's answer. Further columns are ignored, but for the numbers ([`NumberColumn`]) and the
/// teacher ([`TeacherColumn`](crate::TeacherColumn)) that a source is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Told from the columns of the first row.
    #[default]
    Auto,
    /// `prompt`, `chosen`, `rejected`, or only the last two.
    TrlPair,
    /// `prompt`, `completion`, `label`.
    TrlUnpaired,
    /// `prompt`, `completion`.
    PromptCompletion,
    /// `chosen`, `rejected` as whole transcripts, split after the last `\n\nAssistant:`.
    HhPair,
    /// `prompt`, `completions`, `ratings`, or `prompt`, `best_first`.
    Ranked,
    /// `prompt`, `completion`, `judgment`, `positive` or `score`.
    Judged,
}

impl Form {
    /// Every form with its name in configurations and the columns it needs.
    pub const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::TrlPair, "trl_pair", "chosen, rejected [, prompt]"),
        (Self::TrlUnpaired, "trl_unpaired", "prompt, completion, label"),
        (Self::PromptCompletion, "prompt_completion", "prompt, completion"),
        (Self::HhPair, "hh_pair", "chosen, rejected as transcripts beginning with \"\\n\\nHuman:\""),
        (Self::Ranked, "ranked", "prompt, completions, ratings; or prompt, best_first"),
        (Self::Judged, "judged", "prompt, completion, judgment, positive or score"),
    ];
}

/// Our name of a column → its name in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns(BTreeMap<String, String>);

const NAMES: [&str; 12] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "completions",
    "ratings",
    "best_first",
    "judgment",
    "positive",
    "score",
    "teacher",
];

/// From which `score` on a judgment is positive: as in the data that CUT (Xu et al. 2023) was trained on.
const POSITIVE_FROM: f64 = 7.0;

/// Names under which completions that are objects hold their text and their rating.
const RESPONSE: [&str; 2] = ["response", "text"];
const RATING: [&str; 3] = ["rating", "overall_score", "score"];

/// Names that other trainers' files use for ours.
const KNOWN_ALIASES: [(&str, &[&str]); 8] = [
    ("prompt", &["question", "instruction", "messages", "conversations", "query", "context", "input"]),
    ("chosen", &["chosen_response", "preferred", "response_chosen", "win"]),
    ("rejected", &["rejected_response", "dispreferred", "response_rejected", "lose"]),
    ("completion", &["response", "answer", "output", "reply"]),
    ("label", &["desirable", "kto_tag", "is_safe", "liked"]),
    ("completions", &["responses", "candidates"]),
    ("ratings", &["scores", "rewards"]),
    ("best_first", &["ranked_responses"]),
];

impl Columns {
    /// Names that can be mapped are those of the forms, of the numbers asked for, and of what these are made of.
    pub(crate) fn new(mapping: &BTreeMap<String, String>, numbers: &[NumberColumn]) -> Result<Self, Error> {
        let own = numbers.iter().flat_map(NumberColumn::columns).filter(|name| !NAMES.contains(name));
        let known: Vec<&str> = NAMES.into_iter().chain(own).collect();
        match mapping.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Error::UnknownColumn { name: name.clone(), known: known.join(", ") }),
            None => Ok(Self(mapping.clone())),
        }
    }

    pub(crate) fn in_file<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }

    pub(crate) fn value<'a>(&self, object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        object.get(self.in_file(name)).filter(|value| !value.is_null())
    }
}

/// The form of an object, or the words of [`Error::UnknownForm`]: columns found, forms known, a hint.
pub(crate) fn detect(object: &Map<String, Value>, columns: &Columns) -> Result<Form, (String, String, String)> {
    let has = |name| columns.value(object, name).is_some();
    let transcript = |name| {
        columns.value(object, name).and_then(Value::as_str).is_some_and(|text| text.starts_with(split::HH_HUMAN))
    };
    if has("chosen") && has("rejected") {
        let is_hh = !has("prompt") && transcript("chosen") && transcript("rejected");
        if is_hh || has("prompt") {
            return Ok(if is_hh { Form::HhPair } else { Form::TrlPair });
        }
        // A prompt under another name must not be dropped in silence.
        let hint = hint(object, columns);
        if hint.is_empty() {
            return Ok(Form::TrlPair);
        }
        let expected = "without a prompt column the prompt is what chosen and rejected begin with, and one of these looks like it \
                        (form = \"trl_pair\" reads them so all the same)";
        return Err((found(object), expected.to_owned(), hint));
    }
    if has("prompt") && has("completion") {
        // A verdict tells more than a judgment or a score beside it.
        return Ok(match has("judgment") && (has("positive") || has("score")) {
            _ if has("label") => Form::TrlUnpaired,
            true => Form::Judged,
            false => Form::PromptCompletion,
        });
    }
    let holds_text = |list: &Value| RESPONSE.iter().any(|key| list[0].get(key).is_some());
    let rated = columns.value(object, "completions").is_some_and(|list| has("ratings") || holds_text(list));
    if has("prompt") && (rated || has("best_first")) {
        return Ok(Form::Ranked);
    }
    let forms: Vec<String> = Form::ALL.iter().map(|(_, name, needs)| format!("{name} ({needs})")).collect();
    Err((found(object), format!("the forms are: {}", forms.join("; ")), hint(object, columns)))
}

/// Reads one object as a row of a form.
pub(crate) fn parse(form: Form, object: &Map<String, Value>, columns: &Columns) -> Result<Row, Fault> {
    let text = |name| column(object, columns, name).and_then(|value| text(value, columns.in_file(name)));
    let row = match form {
        Form::Auto => detect(object, columns)
            .map_err(|(found, expected, hint)| {
                Fault::new(Reason::MissingColumn, format!("found the columns {found}; {expected}{hint}"))
            })
            .and_then(|form| parse(form, object, columns))?,
        Form::TrlPair if columns.value(object, "prompt").is_some() => {
            let prompt = text("prompt")?;
            let chosen = completion(&prompt, text("chosen")?, "chosen")?;
            let rejected = completion(&prompt, text("rejected")?, "rejected")?;
            Row::Pair { prompt, chosen, rejected }
        }
        Form::TrlPair => implicit_prompt(text("chosen")?, text("rejected")?)?,
        Form::TrlUnpaired => {
            let prompt = text("prompt")?;
            let completion = completion(&prompt, text("completion")?, "completion")?;
            Row::Labelled { prompt, completion, desirable: label(object, columns)? }
        }
        Form::PromptCompletion => {
            let prompt = text("prompt")?;
            let completion = completion(&prompt, text("completion")?, "completion")?;
            Row::Demonstration { prompt, completion }
        }
        Form::HhPair => hh_pair(text("chosen")?, text("rejected")?)?,
        Form::Ranked => {
            let prompt = text("prompt")?;
            let completions = ranked(&prompt, object, columns)?;
            Row::Ranked { prompt, completions }
        }
        Form::Judged => {
            let prompt = text("prompt")?;
            let completion = completion(&prompt, text("completion")?, "completion")?;
            let judgment = judgment(object, columns)?;
            Row::Judged { prompt, completion, judgment, positive: positive(object, columns)? }
        }
    };
    Ok(row)
}

fn implicit_prompt(chosen: Text, rejected: Text) -> Result<Row, Fault> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            if chosen == rejected {
                return Err(Fault::new(Reason::Identical, "`chosen` and `rejected` are the same string"));
            }
            let (prompt, chosen_end) = chosen.split_at(split::common_prompt(&chosen, &rejected));
            Ok(Row::Pair {
                prompt: Text::Plain(prompt.to_owned()),
                chosen: Text::Plain(chosen_end.to_owned()),
                rejected: Text::Plain(rejected[prompt.len()..].to_owned()),
            })
        }
        (Text::Chat(mut chosen), Text::Chat(mut rejected)) => {
            if chosen == rejected {
                return Err(Fault::new(Reason::Identical, "`chosen` and `rejected` are the same conversation"));
            }
            let shared = split::common_messages(&chosen, &rejected);
            if shared == 0 {
                return Err(Fault::new(
                    Reason::PromptsDiffer,
                    "`chosen` and `rejected` share no message at their beginning; give a `prompt` column",
                ));
            }
            let chosen_end = chosen.split_off(shared);
            Ok(Row::Pair {
                prompt: Text::Chat(chosen),
                chosen: Text::Chat(chosen_end),
                rejected: Text::Chat(rejected.split_off(shared)),
            })
        }
        _ => Err(Fault::new(
            Reason::WrongType,
            "one of `chosen` and `rejected` is a string and the other a list of messages; give both alike",
        )),
    }
}

fn hh_pair(chosen: Text, rejected: Text) -> Result<Row, Fault> {
    let (Text::Plain(chosen), Text::Plain(rejected)) = (chosen, rejected) else {
        return Err(Fault::new(Reason::WrongType, "`chosen` or `rejected` is a list, expected transcripts as strings"));
    };
    let (prompt, chosen) = split::hh(&chosen, "chosen")?;
    let (other_prompt, rejected) = split::hh(&rejected, "rejected")?;
    if prompt != other_prompt {
        return Err(Fault::new(
            Reason::PromptsDiffer,
            format!(
                "the prompt of `chosen` ends with {}, that of `rejected` with {}",
                tail_excerpt(&prompt),
                tail_excerpt(&other_prompt)
            ),
        ));
    }
    Ok(Row::Pair { prompt: Text::Plain(prompt), chosen: Text::Plain(chosen), rejected: Text::Plain(rejected) })
}

/// A completion of the same kind as its prompt.
fn completion(prompt: &Text, completion: Text, name: &str) -> Result<Text, Fault> {
    match (prompt, completion) {
        (Text::Chat(_), Text::Plain(answer)) => Ok(Text::Chat(vec![Message::new("assistant", answer)])),
        (Text::Plain(_), Text::Chat(_)) => Err(Fault::new(
            Reason::WrongType,
            format!("`prompt` is a string and `{name}` a list of messages; give the prompt as messages too"),
        )),
        (_, completion) => Ok(completion),
    }
}

/// Completions with their ratings.
fn ranked(prompt: &Text, object: &Map<String, Value>, columns: &Columns) -> Result<Vec<(Text, f64)>, Fault> {
    let best_first = columns.value(object, "completions").is_none() && columns.value(object, "best_first").is_some();
    let name = if best_first { "best_first" } else { "completions" };
    let list = list(object, columns, name)?;
    let ratings = match columns.value(object, "ratings") {
        _ if best_first => (0..list.len()).rev().map(|rank| rank as f64).collect(),
        Some(_) => self::list(object, columns, "ratings")?
            .iter()
            .enumerate()
            .map(|(index, value)| number(value, &format!("{}[{index}]", columns.in_file("ratings")), "a finite number"))
            .collect::<Result<_, _>>()?,
        None => own_ratings(list, object, columns)?,
    };
    if ratings.len() != list.len() {
        return Err(Fault::new(
            Reason::WrongType,
            format!(
                "`{}` has {} entries and `{}` {}, expected as many",
                columns.in_file(name),
                list.len(),
                columns.in_file("ratings"),
                ratings.len()
            ),
        ));
    }
    list.iter()
        .zip(ratings)
        .enumerate()
        .map(|(index, (value, rating))| {
            let name = format!("{}[{index}]", columns.in_file(name));
            let response = RESPONSE.iter().find_map(|key| value.get(key)).unwrap_or(value);
            Ok((completion(prompt, text(response, &name)?, &name)?, rating))
        })
        .collect()
}

/// Ratings that stand in the completions themselves.
fn own_ratings(list: &[Value], object: &Map<String, Value>, columns: &Columns) -> Result<Vec<f64>, Fault> {
    let rating = |(index, value): (usize, &Value)| {
        if !value.is_object() {
            return Err(missing(object, columns, "ratings"));
        }
        let name = format!("{}[{index}]", columns.in_file("completions"));
        let (key, value) = RATING.iter().find_map(|key| Some((key, value.get(key)?))).ok_or_else(|| {
            Fault::new(
                Reason::MissingColumn,
                format!("no `{}`, and `{name}` has no {}", columns.in_file("ratings"), RATING.join(" or ")),
            )
        })?;
        number(value, &format!("{name}.{key}"), "a finite number")
    };
    list.iter().enumerate().map(rating).collect()
}

fn list<'a>(object: &'a Map<String, Value>, columns: &Columns, name: &str) -> Result<&'a [Value], Fault> {
    let value = column(object, columns, name)?;
    value.as_array().map(Vec::as_slice).ok_or_else(|| {
        Fault::new(Reason::WrongType, format!("`{}` is {}, expected a list", columns.in_file(name), kind(value)))
    })
}

/// A finite number.
pub(crate) fn number(value: &Value, name: &str, expected: &str) -> Result<f64, Fault> {
    value.as_f64().filter(|value| value.is_finite()).ok_or_else(|| {
        let shown = match value {
            Value::String(text) => format!("{} (a string)", excerpt(text)),
            Value::Bool(truth) => format!("{truth} (a boolean)"),
            other => kind(other).to_owned(),
        };
        Fault::new(Reason::WrongType, format!("`{name}` is {shown}, expected {expected}"))
    })
}

fn judgment(object: &Map<String, Value>, columns: &Columns) -> Result<String, Fault> {
    let value = column(object, columns, "judgment")?;
    value.as_str().map(str::to_owned).ok_or_else(|| {
        Fault::new(
            Reason::WrongType,
            format!("`{}` is {}, expected a string", columns.in_file("judgment"), kind(value)),
        )
    })
}

fn positive(object: &Map<String, Value>, columns: &Columns) -> Result<bool, Fault> {
    if columns.value(object, "positive").is_none()
        && let Some(score) = columns.value(object, "score")
    {
        return Ok(number(score, columns.in_file("score"), "a finite number")? >= POSITIVE_FROM);
    }
    let value = column(object, columns, "positive")?;
    value.as_bool().ok_or_else(|| {
        let name = columns.in_file("positive");
        Fault::new(Reason::WrongType, format!("`{name}` is {}, expected true (nothing wrong) or false", kind(value)))
    })
}

pub(crate) fn column<'a>(object: &'a Map<String, Value>, columns: &Columns, name: &str) -> Result<&'a Value, Fault> {
    columns.value(object, name).ok_or_else(|| missing(object, columns, name))
}

pub(crate) fn missing(object: &Map<String, Value>, columns: &Columns, name: &str) -> Fault {
    Fault::new(
        Reason::MissingColumn,
        format!("no `{}`; found {}{}", columns.in_file(name), found(object), hint(object, columns)),
    )
}

fn text(value: &Value, name: &str) -> Result<Text, Fault> {
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, value)| message(value, name, index))
            .collect::<Result<_, _>>()
            .and_then(|messages: Vec<_>| {
                if messages.is_empty() {
                    return Err(Fault::new(Reason::WrongType, format!("`{name}` is an empty list, expected messages")));
                }
                Ok(Text::Chat(messages))
            }),
        other => Err(Fault::new(
            Reason::WrongType,
            format!("`{name}` is {}, expected a string or a list of messages", kind(other)),
        )),
    }
}

fn message(value: &Value, name: &str, index: usize) -> Result<Message, Fault> {
    let wrong = |what: &str| {
        Fault::new(
            Reason::WrongType,
            format!("`{name}[{index}]` {what}, expected {{\"role\": string, \"content\": string}}"),
        )
    };
    let object = value.as_object().ok_or_else(|| wrong(&format!("is {}", kind(value))))?;
    let field = |key| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let (Some(role), Some(content)) = (field("role"), field("content")) else {
        return Err(wrong(&format!("has {}", found(object))));
    };
    let extra = object
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "role" | "content"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Ok(Message { role, content, extra })
}

fn label(object: &Map<String, Value>, columns: &Columns) -> Result<bool, Fault> {
    let value = column(object, columns, "label")?;
    value.as_bool().ok_or_else(|| {
        Fault::new(
            Reason::WrongType,
            format!("`{}` is {}, expected true (wanted) or false", columns.in_file("label"), kind(value)),
        )
    })
}

/// The columns of an object, for messages.
fn found(object: &Map<String, Value>) -> String {
    if object.is_empty() {
        return "none".to_owned();
    }
    object.iter().map(|(key, value)| format!("{key} ({})", kind(value))).collect::<Vec<_>>().join(", ")
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A mapping that would give a missing column a name found in the file.
fn hint(object: &Map<String, Value>, columns: &Columns) -> String {
    let pair = ["chosen", "rejected"].iter().any(|name| columns.value(object, name).is_some());
    let wanted = |name: &str| match name {
        "chosen" | "rejected" => true,
        "prompt" => true,
        _ => !pair,
    };
    let mapping: Vec<String> = KNOWN_ALIASES
        .iter()
        .filter(|(name, _)| wanted(name) && columns.value(object, name).is_none())
        .filter_map(|(name, aliases)| {
            let alias = aliases.iter().find(|alias| object.contains_key(**alias))?;
            Some(format!("{name} = \"{alias}\""))
        })
        .collect();
    if mapping.is_empty() { String::new() } else { format!("; did you mean columns = {{ {} }}?", mapping.join(", ")) }
}
