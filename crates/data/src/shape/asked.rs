//! The request in a prompt, and words that are put before or after it.
//!
//! Of `"\n\nHuman: Tea?\n\nAssistant:"` the request is `Tea?`, of a conversation the last message of the user.

use crate::error::{Fault, Reason};
use crate::row::{Record, Row, Text};
use crate::split::{HH_ASSISTANT, HH_HUMAN};

/// Puts words before the request.
pub(crate) fn put_before(record: &mut Record, words: &str) -> Result<(), Fault> {
    change(record, |request| format!("{words} {request}"))
}

/// Puts words after the request.
pub(crate) fn put_after(record: &mut Record, words: &str) -> Result<(), Fault> {
    change(record, |request| format!("{request} {words}"))
}

fn change(record: &mut Record, words: impl Fn(&str) -> String) -> Result<(), Fault> {
    let prompt = match &mut record.row {
        Row::Pair { prompt, .. }
        | Row::Labelled { prompt, .. }
        | Row::Demonstration { prompt, .. }
        | Row::Ranked { prompt, .. }
        | Row::Judged { prompt, .. } => prompt,
    };
    match prompt {
        Text::Plain(text) => {
            let (start, end) = request(text);
            text.replace_range(start..end, &words(&text[start..end]));
        }
        Text::Chat(messages) => {
            let asked = messages.iter_mut().rev().find(|message| message.role == "user").ok_or_else(|| {
                Fault::new(
                    Reason::WrongType,
                    "the prompt has no message of the user, whose request could be conditioned",
                )
            })?;
            asked.content = words(&asked.content);
        }
    }
    Ok(())
}

/// Where the request stands in a plain prompt: without space at its ends, and of a transcript in its last turn.
fn request(text: &str) -> (usize, usize) {
    let trimmed = text.trim_end();
    let trimmed = trimmed.strip_suffix(HH_ASSISTANT.trim_end()).unwrap_or(trimmed);
    let turn = if text.starts_with(HH_HUMAN) { trimmed.rfind(HH_HUMAN).map_or(0, |at| at + HH_HUMAN.len()) } else { 0 };
    let said = trimmed[turn..].trim();
    let start = turn + (trimmed[turn..].len() - trimmed[turn..].trim_start().len());
    (start, start + said.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Message;

    fn both(prompt: Text) -> Text {
        let mut record = Record::from(Row::Demonstration { prompt, completion: Text::Plain("a".to_owned()) });
        put_before(&mut record, "<x>").unwrap();
        put_after(&mut record, "<y>").unwrap();
        match record.row {
            Row::Demonstration { prompt, .. } => prompt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_stand_around_the_request_whatever_the_layout() {
        for (prompt, expected) in [
            ("Tea?", "<x> Tea? <y>"),
            (" Tea?\n", " <x> Tea? <y>\n"),
            ("\n\nHuman: Tea?\n\nAssistant:", "\n\nHuman: <x> Tea? <y>\n\nAssistant:"),
            (
                "\n\nHuman: Tea?\n\nAssistant: No.\n\nHuman: Milk?\n\nAssistant: ",
                "\n\nHuman: Tea?\n\nAssistant: No.\n\nHuman: <x> Milk? <y>\n\nAssistant: ",
            ),
            ("ü ü", "<x> ü ü <y>"),
        ] {
            assert_eq!(both(Text::Plain(prompt.to_owned())), Text::Plain(expected.to_owned()));
        }
        let said = |content: &str| {
            Text::Chat(vec![
                Message::new("system", "s"),
                Message::new("user", content),
                Message::new("assistant", "So"),
            ])
        };
        assert_eq!(both(said("Tea?")), said("<x> Tea? <y>"));
        let mut silent = Record::from(Row::Demonstration {
            prompt: Text::Chat(vec![Message::new("system", "s")]),
            completion: Text::Plain("a".to_owned()),
        });
        assert_eq!(put_after(&mut silent, "<y>").unwrap_err().reason, Reason::WrongType);
    }
}
