//! What makes a row unusable whatever the tokenizer.

use serde_json::Value;

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Message, Origin, Record, Row, Text};
use crate::template::REASONING;

impl Record {
    /// Checks the texts: completions that say nothing, pairs of one text twice, fewer than two completions to rank, an empty
    /// judgment. An encoder sets these rows aside too; this tells without one.
    ///
    /// # Errors
    /// The reason to set the row aside.
    pub fn check(&self, origin: &Origin) -> Result<(), Rejection> {
        check(&self.row).map_err(|fault| fault.at(origin))
    }
}

fn check(row: &Row) -> Result<(), Fault> {
    match row {
        Row::Pair { chosen, rejected, .. } => {
            says_something(chosen)?;
            says_something(rejected)?;
            if chosen == rejected {
                return Err(Fault::new(Reason::Identical, "the two completions are the same text"));
            }
            Ok(())
        }
        Row::Labelled { completion, .. } | Row::Demonstration { completion, .. } => says_something(completion),
        Row::Ranked { completions, .. } => {
            if completions.len() < 2 {
                let detail = format!("{} completion(s), expected at least two to rank", completions.len());
                return Err(Fault::new(Reason::TooFewCompletions, detail));
            }
            completions.iter().try_for_each(|(completion, _)| says_something(completion))?;
            if completions.windows(2).all(|pair| pair[0].0 == pair[1].0) {
                return Err(Fault::new(Reason::AllAlike, "all completions are the same text"));
            }
            Ok(())
        }
        Row::Judged { completion, judgment, .. } => {
            if judgment.trim().is_empty() {
                return Err(Fault::new(Reason::EmptyJudgment, format!("the judgment is {judgment:?}")));
            }
            says_something(completion)
        }
    }
}

/// Whether a message has no text, no call of a tool and no reasoning; what else it brings is said of it, not by it.
pub(crate) fn is_silent(message: &Message) -> bool {
    let filled = |key: &str| match message.extra.get(key) {
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(value) => !value.is_null(),
        None => false,
    };
    let calls = ["tool_calls", "function_call"];
    message.content.trim().is_empty() && !calls.into_iter().chain(REASONING).any(filled)
}

fn says_something(completion: &Text) -> Result<(), Fault> {
    let detail = match completion {
        Text::Plain(text) if text.trim().is_empty() => format!("the completion is {text:?}"),
        Text::Chat(messages) if messages.iter().all(is_silent) => "no message of the completion has content".to_owned(),
        _ => return Ok(()),
    };
    Err(Fault::new(Reason::EmptyCompletion, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_answer_is_not_said_by_it() {
        let with = |key: &str, value: Value| {
            let mut message = Message::new("assistant", " ");
            message.extra.insert(key.to_owned(), value);
            Record::from(Row::Demonstration {
                prompt: Text::Plain("p".to_owned()),
                completion: Text::Chat(vec![message]),
            })
        };
        for (key, value) in [("num_tokens", 7.into()), ("content", Value::Null), ("tool_calls", Value::Array(vec![]))] {
            let refused = with(key, value).check(&Origin::memory(1)).unwrap_err();
            assert_eq!(refused.reason, Reason::EmptyCompletion, "{key}");
        }
        for (key, value) in [("tool_calls", serde_json::json!([{"name": "f"}])), ("reasoning_content", "r".into())] {
            assert!(with(key, value).check(&Origin::memory(1)).is_ok(), "{key}");
        }
    }

    #[test]
    fn texts_that_cannot_be_used_are_told_without_a_tokenizer() {
        let text = |text: &str| Text::Plain(text.to_owned());
        let pair = |chosen: Text, rejected: Text| Row::Pair { prompt: text("p"), chosen, rejected };
        let ranked = |texts: &[&str]| Row::Ranked {
            prompt: text("p"),
            completions: texts.iter().map(|completion| (text(completion), 1.0)).collect(),
        };
        let said = |content: &str| Text::Chat(vec![Message::new("assistant", content)]);
        for (row, reason) in [
            (pair(text("a"), text(" \n")), Reason::EmptyCompletion),
            (pair(said("a"), said("")), Reason::EmptyCompletion),
            (pair(text("a"), text("a")), Reason::Identical),
            (ranked(&["a"]), Reason::TooFewCompletions),
            (ranked(&["a", "a"]), Reason::AllAlike),
        ] {
            assert_eq!(Record::from(row).check(&Origin::memory(3)).unwrap_err().reason, reason);
        }
        assert!(Record::from(pair(text("a"), text("b"))).check(&Origin::memory(1)).is_ok());
        assert!(Record::from(ranked(&["a", "a", "b"])).check(&Origin::memory(1)).is_ok());
    }
}
