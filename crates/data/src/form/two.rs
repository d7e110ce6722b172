//! Two completions of one prompt, and who is better: votes, a winner, labels, a strength.
//!
//! `{"prompt": "p", "response_a": "a", "response_b": "b", "votes": ["a", "b", "a"]}`

use serde_json::{Map, Value};

use super::columns::{Columns, View};
use super::messages::text;
use super::pair::{implicit_prompt, tied};
use super::prompt::{completion, prompt, record};
use super::value::{found, is_list, list, number_cell, opened, shown, told_number};
use super::words::{self, Counting, Vote};
use super::{Reading, aliases};
use crate::error::{Fault, Reason};
use crate::row::{Message, Record, Row, Text};

/// Both completions as they stand, with the names of their columns.
struct Two {
    names: [String; 2],
    values: [Value; 2],
}

impl Two {
    fn read(view: View<'_>) -> Result<Self, Fault> {
        let list = view.list("completions")?;
        match <[(String, Value); 2]>::try_from(list) {
            Ok([(first, one), (second, two)]) => Ok(Self { names: [first, second], values: [one, two] }),
            Err(list) => Err(Fault::new(
                Reason::WrongType,
                format!("{} completions, expected two that were compared", list.len()),
            )),
        }
    }

    /// A vote by number or word, or by the whole name of a column.
    fn vote(&self, value: &Value, counting: Counting) -> Option<Vote> {
        let named = |name: &String| value.as_str().is_some_and(|word| word.trim().eq_ignore_ascii_case(name));
        let [first, second] = self.names.each_ref().map(named);
        match (first, second) {
            (true, false) => Some(Vote::First),
            (false, true) => Some(Vote::Second),
            _ => words::vote(value, counting),
        }
    }

    /// The pair whose chosen completion is the first one, or the second.
    fn pair(self, view: View<'_>, second: bool) -> Result<Record, Fault> {
        let [first_name, second_name] = &self.names;
        let [one, two] = &self.values;
        let row = match prompt_of(view, [one, two])? {
            Some(Prompt::Turns(turns)) => {
                let side = |value, name| interleaved(&turns, value, name).map(Text::Chat);
                ordered(None, side(one, first_name)?, side(two, second_name)?, second)?
            }
            Some(Prompt::Text(prompt)) => {
                let side = |value, name: &str| completion(&prompt, text(value, name)?, name);
                let (one, two) = (side(one, first_name)?, side(two, second_name)?);
                ordered(Some(prompt), one, two, second)?
            }
            None => ordered(None, text(one, first_name)?, text(two, second_name)?, second)?,
        };
        record(view, row)
    }
}

fn ordered(prompt: Option<Text>, one: Text, two: Text, second: bool) -> Result<Row, Fault> {
    let (chosen, rejected) = if second { (two, one) } else { (one, two) };
    match prompt {
        Some(prompt) => Ok(Row::Pair { prompt, chosen, rejected }),
        None => implicit_prompt(chosen, rejected),
    }
}

enum Prompt {
    Text(Text),
    /// The user's turns of a conversation whose answers stand in the completions.
    Turns(Vec<String>),
}

fn prompt_of(view: View<'_>, completions: [&Value; 2]) -> Result<Option<Prompt>, Fault> {
    let value = view.get("prompt");
    let turns = value.and_then(|value| strings(&opened(value)));
    if turns.is_none() && value.is_some_and(looks_listed) && completions.into_iter().all(looks_listed) {
        return Err(Fault::new(
            Reason::WrongType,
            format!(
                "`{}` is a list of turns in a string, and no JSON of strings alone: one of them is null, or holds half of a \
                 character that is written in two",
                view.name("prompt")
            ),
        ));
    }
    Ok(match turns {
        Some(turns) => Some(Prompt::Turns(turns)),
        None => prompt(view)?.map(Prompt::Text),
    })
}

/// Whether a string is written as a list of strings, whether or not it can be read as one.
fn looks_listed(value: &Value) -> bool {
    let inside = value.as_str().and_then(|text| text.trim().strip_prefix('[')?.strip_suffix(']'));
    inside.is_some_and(|inside| inside.trim_start().starts_with('"') || inside.trim_start().starts_with("null"))
}

/// A list that holds nothing but strings.
fn strings(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array().filter(|list| !list.is_empty())?;
    list.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

/// A conversation of questions and answers in two lists.
fn interleaved(questions: &[String], answers: &Value, name: &str) -> Result<Vec<Message>, Fault> {
    let answers = strings(&opened(answers)).filter(|answers| answers.len() == questions.len()).ok_or_else(|| {
        Fault::new(
            Reason::WrongType,
            format!("`{name}` is not a list of {} strings, one answer to each turn of the prompt", questions.len()),
        )
    })?;
    let turns = questions.iter().zip(answers);
    Ok(turns
        .flat_map(|(question, answer)| [Message::new("user", question.as_str()), Message::new("assistant", answer)])
        .collect())
}

/// Votes of annotators, one or several; a tie counts as half a vote for each.
pub(super) fn voted(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let two = Two::read(view)?;
    let counting = match reading.counting {
        Some(counting) => counting,
        None => counting(std::slice::from_ref(view.object), view.columns)
            .map_err(|asked| Fault::new(Reason::WrongType, asked))?,
    };
    let count = Count::of(view, &two, counting)?;
    let names = two.names.clone();
    decide(view, reading, two, &count, &names)
}

fn decide(view: View<'_>, reading: &Reading, two: Two, count: &Count, names: &[String; 2]) -> Result<Record, Fault> {
    let second = count.second > count.first;
    let record = count.recorded(two.pair(view, second)?, second);
    if count.first == count.second {
        let [first, second] = names;
        let even =
            format!("{} vote(s) for `{first}`, {} for `{second}`, {} for a tie", count.first, count.second, count.ties);
        return tied(record, even, reading.ties);
    }
    Ok(record.with_number("preference", count.share()))
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    first: u64,
    second: u64,
    ties: u64,
}

impl Count {
    fn add(&mut self, vote: Vote) {
        match vote {
            Vote::First => self.first += 1,
            Vote::Second => self.second += 1,
            Vote::Tie => self.ties += 1,
        }
    }

    fn total(self) -> u64 {
        self.first + self.second + self.ties
    }

    /// The winner's share of the votes, ties halved.
    fn share(self) -> f64 {
        (self.first.max(self.second) as f64 + self.ties as f64 / 2.0) / self.total() as f64
    }

    /// The pair with its votes as numbers, from which agreement is told; `second` where the second completion is the chosen one.
    fn recorded(self, pair: Record, second: bool) -> Record {
        let (chosen, rejected) = if second { (self.second, self.first) } else { (self.first, self.second) };
        pair.with_number("votes_chosen", chosen as f64)
            .with_number("votes_rejected", rejected as f64)
            .with_number("votes_tied", self.ties as f64)
    }

    fn of(view: View<'_>, two: &Two, counting: Counting) -> Result<Self, Fault> {
        let mut count = Self::default();
        if let Some(vote) = flags(view)? {
            count.add(vote);
            return Ok(count);
        }
        for (name, value) in &votes(view)? {
            count.add(two.vote(value, counting).ok_or_else(|| {
                let [first, second] = &two.names;
                Fault::new(
                    Reason::WrongType,
                    format!("`{name}` is {}, expected a vote for `{first}`, for `{second}` or for a tie", shown(value)),
                )
            })?);
        }
        if count.total() == 0 {
            return Err(Fault::new(Reason::MissingColumn, format!("no vote; found {}", found(view.object))));
        }
        Ok(count)
    }
}

/// The votes of a row, each with its name.
fn votes(view: View<'_>) -> Result<Vec<(String, Value)>, Fault> {
    Ok(match view.columns.parts(view.object, "votes") {
        // An annotator who gave no vote has an empty cell.
        Some(parts) => parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect(),
        None if view.get("votes").is_some_and(is_list) => view.list("votes")?,
        None => vec![(view.name("votes").to_owned(), view.need("votes")?.clone())],
    })
}

/// How the numbers of votes count in a file, told from the names of the completions and the first rows; else what is asked.
pub(super) fn counting(rows: &[Map<String, Value>], columns: &Columns) -> Result<Counting, String> {
    let views = || rows.iter().map(|object| View { object, columns });
    let Some(two) = views().find_map(|view| Two::read(view).ok()) else { return Ok(Counting::Words) };
    let [first, second] = &two.names;
    let flagged = |view: View<'_>| has_flags(view) && !columns.is_given("votes");
    let votes = views().filter(|view| !flagged(*view)).flat_map(|view| votes(view).unwrap_or_default());
    let numbers: Vec<f64> = votes.filter_map(|(_, vote)| words::vote_number(&vote)).collect();
    let [zero, one, two] = [0.0, 1.0, 2.0].map(|number| numbers.contains(&number));
    match aliases::counting(first, second) {
        Some(Counting::Places) if two && !zero => Ok(Counting::FromOne),
        Some(named) if named != Counting::Places || !two => Ok(named),
        None if two => Ok(Counting::FromOne),
        None if !zero && !one => Ok(Counting::Words),
        _ => {
            let votes = columns.in_file("votes");
            let numbers = if two { "0, 1 and 2" } else { "no numbers but 0 and 1" };
            Err(format!(
                "`{votes}` has {numbers} in the first rows, which does not say whether 1 is `{first}` or `{second}`; write the \
                 votes as words (first, second, tie), or give the completions names that end in 0 and 1, or in 1 and 2, as \
                 the votes count them"
            ))
        }
    }
}

/// Columns that say in one flag each who won.
const FLAGS: [(&str, Vote); 6] = [
    ("winner_model_a", Vote::First),
    ("winner_model_b", Vote::Second),
    ("winner_tie", Vote::Tie),
    ("winner_a", Vote::First),
    ("winner_b", Vote::Second),
    ("winner_both_bad", Vote::Tie),
];

/// Whether an object has winners as flags.
pub(super) fn has_flags(view: View<'_>) -> bool {
    FLAGS.iter().filter(|(name, _)| view.plain(name).is_some()).count() >= 2
}

fn flags(view: View<'_>) -> Result<Option<Vote>, Fault> {
    if view.columns.is_given("votes") || !has_flags(view) {
        return Ok(None);
    }
    let mut won = Vec::new();
    for (name, vote) in FLAGS {
        let Some(value) = view.plain(name) else { continue };
        match words::label(value) {
            Some(true) => won.push((name, vote)),
            Some(false) => {}
            None => {
                return Err(Fault::new(Reason::WrongType, format!("`{name}` is {}, expected 0 or 1", shown(value))));
            }
        }
    }
    match won.as_slice() {
        [(_, vote)] => Ok(Some(*vote)),
        [] => Err(Fault::new(Reason::WrongType, "none of the columns winner_… is 1, expected one of them")),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            Err(Fault::new(Reason::WrongType, format!("{} are all 1, expected one of them", names.join(", "))))
        }
    }
}

/// Where HelpSteer-like data keep the strength of a preference, and its annotators' own.
pub(super) const STRENGTH: [&str; 2] = ["preference_strength", "overall_preference"];
const INDIVIDUAL: [&str; 3] = ["individual_preference", "individual_preferences", "three_most_similar_preferences"];

/// A strength in −3…3, positive where the second response is better: the margin is its size. The annotators' own
/// strengths are votes.
pub(super) fn strength(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let two = Two::read(view)?;
    let (name, value) = STRENGTH.iter().find_map(|name| Some((*name, view.plain(name)?))).ok_or_else(|| {
        Fault::new(Reason::MissingColumn, format!("no `{}`; found {}", STRENGTH.join("` or `"), found(view.object)))
    })?;
    let strength = told_number(value).filter(|strength| strength.abs() <= 3.0).ok_or_else(|| {
        Fault::new(
            Reason::WrongType,
            format!("`{name}` is {}, expected a number from -3 (the first is much better) to 3", shown(value)),
        )
    })?;
    let votes = individual(view)?;
    let second = strength > 0.0;
    let votes = votes.filter(|count| count.total() > 0);
    let mut record = two.pair(view, second)?.with_number("margin", strength.abs());
    if let Some(count) = votes {
        record = count.recorded(record, second);
    }
    if strength == 0.0 {
        return tied(record, format!("`{name}` is 0"), reading.ties);
    }
    let share = match votes {
        Some(count) => {
            let won = if second { count.second } else { count.first };
            (won as f64 + count.ties as f64 / 2.0) / count.total() as f64
        }
        None => 1.0,
    };
    Ok(record.with_number("preference", share))
}

fn individual(view: View<'_>) -> Result<Option<Count>, Fault> {
    let Some((name, value)) = INDIVIDUAL.iter().find_map(|name| Some((*name, view.plain(name)?))) else {
        return Ok(None);
    };
    let mut count = Count::default();
    for (index, entry) in list(value, name)?.iter().enumerate() {
        let held = ["score", "strength", "preference"].iter().find_map(|key| entry.get(key)).unwrap_or(entry);
        let strength = number_cell(held, &format!("{name}[{index}]"), "a strength from -3 to 3")?;
        count.add(match strength.total_cmp(&0.0) {
            _ if strength == 0.0 => Vote::Tie,
            std::cmp::Ordering::Greater => Vote::Second,
            _ => Vote::First,
        });
    }
    Ok(Some(count))
}

/// The labels of PKU-SafeRLHF, by the criteria that choose among them.
pub(super) const LABELS: [(&str, &str); 2] = [("better", "better_response_id"), ("safer", "safer_response_id")];

/// Two responses with a label for the better one and one for the safer one. The criterion decides which; both become numbers,
/// 1 where the label prefers the chosen one and −1 where it does not, and `safe_chosen` and `safe_rejected` are 1 or 0. The
/// release of 2024 has a severity of harm and its categories for each response.
pub(super) fn safety(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let two = Two::read(view)?;
    let [better, safer] = LABELS;
    let criterion = match reading.criterion.as_deref() {
        Some(name) => LABELS.into_iter().find(|(label, _)| *label == name).unwrap_or(better),
        None if view.plain(better.1).is_some() => better,
        None => safer,
    };
    let decided = named(view, criterion.1)?.ok_or_else(|| {
        Fault::new(Reason::MissingColumn, format!("no `{}`; found {}", criterion.1, found(view.object)))
    })?;
    let second = decided == Vote::Second;
    let mut record = two.pair(view, second)?;
    for (name, column) in LABELS {
        let Some(winner) = named(view, column)? else { continue };
        let agrees = match winner {
            Vote::Tie => 0.0,
            vote if (vote == Vote::Second) == second => 1.0,
            _ => -1.0,
        };
        record = record.with_number(name, agrees);
    }
    for (name, read) in PER_RESPONSE {
        if let [Some(first), Some(last)] = [read(view, 0)?, read(view, 1)?] {
            let (chosen, rejected) = if second { (last, first) } else { (first, last) };
            record =
                record.with_number(format!("{name}_chosen"), chosen).with_number(format!("{name}_rejected"), rejected);
        }
    }
    for name in SCORES {
        let columns = [0, 1].map(|response| format!("{name}_{response}"));
        let [Some(first), Some(last)] = columns.each_ref().map(|column| view.plain(column)) else { continue };
        let score = |value, column: &str| number_cell(value, column, "a finite number");
        let (first, last) = (score(first, &columns[0])?, score(last, &columns[1])?);
        let (chosen, rejected) = if second { (last, first) } else { (first, last) };
        record = record.with_number(format!("{name}_chosen"), chosen).with_number(format!("{name}_rejected"), rejected);
    }
    if decided == Vote::Tie {
        return tied(record, format!("`{}` names neither response", criterion.1), reading.ties);
    }
    Ok(record.with_number("preference", 1.0))
}

/// Which response a label names.
fn named(view: View<'_>, column: &str) -> Result<Option<Vote>, Fault> {
    let Some(value) = view.plain(column) else { return Ok(None) };
    words::vote(value, Counting::FromZero)
        .map(Some)
        .ok_or_else(|| Fault::new(Reason::WrongType, format!("`{column}` is {}, expected 0 or 1", shown(value))))
}

/// Reads what a row says of one of its responses.
type OfResponse = fn(View<'_>, usize) -> Result<Option<f64>, Fault>;

const PER_RESPONSE: [(&str, OfResponse); 3] = [("safe", safe), ("severity", severity), ("harms", harms)];

/// Scores that a row may bring for each response: `reward_0` and `reward_1`, ….
const SCORES: [&str; 5] = ["reward", "cost", "cost_2", "cost_3", "cost_4"];

fn safe(view: View<'_>, response: usize) -> Result<Option<f64>, Fault> {
    let name = format!("is_response_{response}_safe");
    view.plain(&name).map(|value| words::flag_cell(value, &name)).transpose()
}

fn severity(view: View<'_>, response: usize) -> Result<Option<f64>, Fault> {
    let name = format!("response_{response}_severity_level");
    let Some(value) = view.plain(&name) else { return Ok(None) };
    let expected = "a level of harm from 0 (none) on";
    let level = number_cell(value, &name, expected)?;
    if level < 0.0 {
        return Err(Fault::new(Reason::OutOfRange, format!("`{name}` is {level}, expected {expected}")));
    }
    Ok(Some(level))
}

/// In how many categories of harm a response falls: an object of flags by category.
fn harms(view: View<'_>, response: usize) -> Result<Option<f64>, Fault> {
    let name = format!("response_{response}_harm_category");
    let Some(value) = view.plain(&name) else { return Ok(None) };
    let categories = opened(value);
    let Some(categories) = categories.as_object() else {
        let detail = format!("`{name}` is {}, expected an object of true and false by category", shown(value));
        return Err(Fault::new(Reason::WrongType, detail));
    };
    let mut count = 0.0;
    for (category, flag) in categories.iter().filter(|(_, flag)| !flag.is_null()) {
        let holds = words::label(flag).ok_or_else(|| {
            let detail = format!("`{name}` has {category:?} as {}, expected true or false", shown(flag));
            Fault::new(Reason::WrongType, detail)
        })?;
        count += f64::from(u8::from(holds));
    }
    Ok(Some(count))
}
