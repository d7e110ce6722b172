//! Pairs: two completions, the better one named by its column.
//!
//! `{"prompt": "p", "chosen": "a", "rejected": "b"}`; without a prompt it is what both begin with.

use serde_json::Value;

use super::columns::View;
use super::messages::{settle_weights, text};
use super::prompt::{completion, prompt, record};
use super::value::{list, number_cell, opened};
use super::{Reading, Ties};
use crate::error::{Fault, Reason, excerpt, tail_excerpt};
use crate::row::{Message, Record, Row, Text};
use crate::split;

/// A pair with or without a prompt, in strings or conversations. Where both sides have a score, even ones are a tie.
pub(super) fn read(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let record = unscored(view)?;
    let Some([chosen, rejected]) = told_scores(view)? else { return Ok(record) };
    if chosen.total_cmp(&rejected).is_eq() {
        return tied(record, even_scores(chosen), reading.ties);
    }
    // A share of votes that the file has itself says more.
    let shares = ["preference", "votes_chosen", "votes_rejected"];
    let said = shares.into_iter().any(|name| view.has(name));
    Ok(if said { record } else { record.with_number("preference", 1.0) })
}

fn even_scores(score: f64) -> String {
    format!("both completions have the score {score}")
}

fn unscored(view: View<'_>) -> Result<Record, Fault> {
    let (chosen, rejected) = completions(view)?;
    let row = match prompt(view)? {
        None => implicit_prompt(chosen, rejected)?,
        Some(prompt) => explicit_prompt(prompt, chosen, rejected, view)?,
    };
    record(view, row)
}

/// A pair of transcripts, each with the prompt in it; or of replies, with a transcript as the prompt.
pub(super) fn read_transcripts(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    if view.has("prompt") {
        return read(view, reading);
    }
    let (chosen, rejected) = completions(view)?;
    record(view, hh_pair(chosen, rejected)?)
}

/// A pair whose sides have scores: these go with the record, and even ones are a tie.
pub(super) fn read_scored(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let mut record = unscored(view)?;
    let scores = scores(view)?;
    if let Some([chosen, rejected]) = scores {
        record = record
            .with_number("score_chosen", chosen)
            .with_number("score_rejected", rejected)
            .with_number("margin", chosen - rejected);
    }
    let status = view.plain("status").and_then(Value::as_str);
    let even = match scores {
        _ if status == Some("tie") => Some("`status` is \"tie\"".to_owned()),
        Some([chosen, rejected]) if chosen.total_cmp(&rejected).is_eq() => Some(even_scores(chosen)),
        _ => None,
    };
    match even {
        Some(even) => tied(record, even, reading.ties),
        None => Ok(record.with_number("preference", 1.0)),
    }
}

/// A record of a tie, if ties stay.
pub(super) fn tied(record: Record, even: String, ties: Ties) -> Result<Record, Fault> {
    match ties {
        Ties::Drop => Err(Fault::new(
            Reason::Tied,
            format!("{even}; ties = \"soft\" keeps such rows with a preference of 0.5, \"keep\" as they stand"),
        )),
        Ties::Keep | Ties::Soft => Ok(record.with_number("preference", 0.5)),
    }
}

fn score(value: &Value, name: &str) -> Result<f64, Fault> {
    number_cell(value, name, "a finite number")
}

/// The scores of both sides in columns of their own.
fn told_scores(view: View<'_>) -> Result<Option<[f64; 2]>, Fault> {
    let (Some(chosen), Some(rejected)) = (view.get("score_chosen"), view.get("score_rejected")) else {
        return Ok(None);
    };
    Ok(Some([score(chosen, view.name("score_chosen"))?, score(rejected, view.name("score_rejected"))?]))
}

/// The scores of both sides: two columns, or a list of two. Of a list the chosen's is the one that a column names, or that
/// `order` does, or else the higher one. An `order` is of the sides as they stood before a `status` of "swapped".
fn scores(view: View<'_>) -> Result<Option<[f64; 2]>, Fault> {
    if let Some(scores) = told_scores(view)? {
        return Ok(Some(scores));
    }
    let Some(both) = view.plain("rating").filter(|value| super::value::is_list(value)) else { return Ok(None) };
    let both = list(both, "rating")?;
    let [first, second] = both.as_slice() else { return Ok(None) };
    let (first, second) = (score(first, "rating[0]")?, score(second, "rating[1]")?);
    let names_chosen = match (view.get("score_chosen"), view.get("score_rejected")) {
        (Some(chosen), None) => Some((score(chosen, view.name("score_chosen"))?, true)),
        (None, Some(rejected)) => Some((score(rejected, view.name("score_rejected"))?, false)),
        _ => None,
    };
    if let Some((told, chosen)) = names_chosen
        && let Some(other) = match told {
            _ if told.total_cmp(&first).is_eq() => Some(second),
            _ if told.total_cmp(&second).is_eq() => Some(first),
            _ => None,
        }
    {
        return Ok(Some(if chosen { [told, other] } else { [other, told] }));
    }
    let swapped = view.plain("status").and_then(Value::as_str) == Some("swapped");
    let order = view.plain("order").filter(|_| !swapped).map(opened);
    let order = order.as_ref().and_then(|order| order.get(0)).and_then(Value::as_str);
    Ok(Some(match order {
        Some("chosen") => [first, second],
        Some("rejected") => [second, first],
        _ => [first.max(second), first.min(second)],
    }))
}

/// Conversations whose turns may bring weights.
pub(super) fn read_weighted(view: View<'_>, reading: &Reading) -> Result<Record, Fault> {
    let mut record = read(view, reading)?;
    if let Row::Pair { prompt, chosen, rejected } = &mut record.row {
        settle_weights(prompt, vec![chosen], view.name("chosen"))?;
        settle_weights(&mut Text::Plain(String::new()), vec![rejected], view.name("rejected"))?;
    }
    Ok(record)
}

fn completions(view: View<'_>) -> Result<(Text, Text), Fault> {
    let side = |name| text(view.need(name)?, view.name(name));
    Ok((side("chosen")?, side("rejected")?))
}

fn explicit_prompt(prompt: Text, chosen: Text, rejected: Text, view: View<'_>) -> Result<Row, Fault> {
    match (prompt, chosen, rejected) {
        (Text::Plain(prompt), Text::Plain(chosen), Text::Plain(rejected)) => {
            let whole = prompt.starts_with(split::HH_HUMAN)
                && [&chosen, &rejected].iter().all(|side| side.starts_with(&prompt) && side.len() > prompt.len());
            let from = if whole { prompt.len() } else { 0 };
            Ok(Row::Pair {
                chosen: Text::Plain(chosen.get(from..).unwrap_or_default().to_owned()),
                rejected: Text::Plain(rejected.get(from..).unwrap_or_default().to_owned()),
                prompt: Text::Plain(prompt),
            })
        }
        (Text::Plain(prompt), Text::Chat(chosen), Text::Chat(rejected)) if begins(&chosen) && begins(&rejected) => {
            whole_conversations(&prompt, chosen, rejected, view)
        }
        (prompt, chosen, rejected) => {
            let side = |side, name| completion(&prompt, answer(&prompt, side, name, view)?, name);
            let (chosen, rejected) = (side(chosen, view.name("chosen"))?, side(rejected, view.name("rejected"))?);
            Ok(Row::Pair { prompt, chosen, rejected })
        }
    }
}

/// A side without the messages of its prompt, if it says them again.
fn answer(prompt: &Text, side: Text, name: &str, view: View<'_>) -> Result<Text, Fault> {
    let (Text::Chat(prompt), Text::Chat(messages)) = (prompt, &side) else { return Ok(side) };
    if let Some(again) = said_again(prompt, messages) {
        return Ok(Text::Chat(messages.get(again..).unwrap_or_default().to_vec()));
    }
    let asked = prompt.last().is_some_and(|last| last.role == "user");
    let anew = messages.first().is_some_and(|first| first.role == "system" || (asked && begins(messages)));
    if anew {
        return Err(Fault::new(
            Reason::PromptsDiffer,
            format!(
                "`{name}` begins with other messages than `{}`; give an answer, or a conversation that begins with it",
                view.name("prompt")
            ),
        ));
    }
    Ok(side)
}

/// How many messages of a conversation say the prompt once more, with or without the system message of a column of its own;
/// None if it goes on right after the prompt.
fn said_again(prompt: &[Message], conversation: &[Message]) -> Option<usize> {
    let without_system = prompt.split_first().filter(|(first, _)| first.role == "system").map(|(_, rest)| rest);
    [Some(prompt), without_system].into_iter().flatten().find_map(|prompt| {
        let whole = !prompt.is_empty() && conversation.len() > prompt.len() && conversation.starts_with(prompt);
        whole.then_some(prompt.len())
    })
}

/// Whether a conversation has its beginning, not only an answer.
fn begins(conversation: &[Message]) -> bool {
    conversation.first().is_some_and(|first| first.role != "assistant")
}

/// Whole conversations beside a prompt, which one of the messages that they share must say.
fn whole_conversations(
    prompt: &str,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    view: View<'_>,
) -> Result<Row, Fault> {
    let shared = split::common_messages(&chosen, &rejected);
    let says = |message: &Message| message.content.trim() == prompt.trim();
    if shared > 0 && !chosen.iter().take(shared).any(says) {
        return Err(Fault::new(
            Reason::PromptsDiffer,
            format!(
                "`{}` is {}, and no message that `{}` and `{}` begin with says it",
                view.name("prompt"),
                excerpt(prompt),
                view.name("chosen"),
                view.name("rejected")
            ),
        ));
    }
    implicit_prompt(Text::Chat(chosen), Text::Chat(rejected))
}

/// A pair whose prompt is what both sides begin with.
pub(super) fn implicit_prompt(chosen: Text, rejected: Text) -> Result<Row, Fault> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            if chosen == rejected {
                return Err(Fault::new(Reason::Identical, "`chosen` and `rejected` are the same string"));
            }
            let (prompt, chosen_end) = chosen.split_at(split::common_prompt(&chosen, &rejected));
            Ok(Row::Pair {
                prompt: Text::Plain(prompt.to_owned()),
                chosen: Text::Plain(chosen_end.to_owned()),
                rejected: Text::Plain(rejected.get(prompt.len()..).unwrap_or_default().to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    #[test]
    fn a_prompt_that_is_said_again_is_found_with_or_without_its_system_message() {
        let prompt = talk(&[("system", "s"), ("user", "q")]);
        let whole = talk(&[("system", "s"), ("user", "q"), ("assistant", "a")]);
        assert_eq!(said_again(&prompt, &whole), Some(2));
        assert_eq!(said_again(&prompt, &whole[1..]), Some(1));
        assert_eq!(said_again(&prompt, &whole[2..]), None);
        assert_eq!(said_again(&prompt, &whole[..2]), None);
        // A system message alone is no prompt that could be said again.
        assert_eq!(said_again(&prompt[..1], &whole[1..]), None);
    }
}
