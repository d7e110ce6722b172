//! What a row says, as 128-bit hashes (XXH3, seed 0).
//!
//! A text is fed as its length in bytes (8 bytes, little-endian) and its UTF-8 bytes, so that no two different rows feed
//! the same bytes.

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::row::{Message, Record, Row, Text};

/// A hash of the prompt of a row: equal for rows of the same prompt, whatever answers it and in whatever kind of row.
///
/// It is XXH3-128 with seed 0 over: for a plain prompt the byte 0 and the text; for a conversation the byte 1, the number
/// of messages and, for every message, role and content. A conversation of one message of the user is fed as its content
/// alone, since other files have the same prompt as a plain text. Each string goes in without the whitespace at its ends, as
/// its length in bytes followed by its UTF-8 bytes; lengths and numbers are 8 bytes, little-endian. A row without a prompt
/// shares it with no other: its hash is over the byte 2 and the completions in their order, each fed as a prompt is.
///
/// The values are part of the interface: they decide which rows a split holds out.
///
/// ```
/// use candlewick_data::{Row, Text, prompt_hash};
/// let row = |prompt: &str, completion: &str| Row::Demonstration {
///     prompt: Text::Plain(prompt.to_owned()),
///     completion: Text::Plain(completion.to_owned()),
/// };
/// assert_eq!(prompt_hash(&row("Why?", "a")), prompt_hash(&row(" Why?\n", "b")));
/// assert_ne!(prompt_hash(&row("Why?", "a")), prompt_hash(&row("How?", "a")));
/// ```
#[must_use]
pub fn prompt_hash(row: &Row) -> u128 {
    let (prompt, completions) = row.texts();
    let mut digest = Digest::default();
    if is_blank(prompt) {
        digest.byte(2);
        completions.iter().for_each(|completion| digest.trimmed(completion));
    } else {
        digest.trimmed(prompt);
    }
    digest.finish()
}

/// A hash of everything that makes two prompts the same to a model, whitespace and tools included; None without a prompt.
pub(crate) fn exact_prompt(record: &Record) -> Option<u128> {
    let (prompt, _) = record.row.texts();
    if is_blank(prompt) {
        return None;
    }
    let mut digest = Digest::default();
    digest.exact(prompt);
    digest.surroundings(record);
    Some(digest.finish())
}

/// A row as one hash, and the same row with the opposite verdict, where there is such a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) own: u128,
    pub(crate) opposite: Option<u128>,
}

impl Content {
    /// Over prompt, completions, verdict or ratings, tools and template arguments; numbers and teachers are left out.
    pub(crate) fn of(record: &Record) -> Self {
        let hash = |kind: u8, texts: &[&Text], ratings: &[f64]| {
            let mut digest = Digest::default();
            digest.byte(kind);
            texts.iter().for_each(|text| digest.exact(text));
            ratings.iter().for_each(|rating| digest.bytes(&rating.to_bits().to_le_bytes()));
            digest.surroundings(record);
            digest.finish()
        };
        let either = |verdict: bool, texts: &[&Text]| {
            let of = |verdict: bool| hash(if verdict { 2 } else { 1 }, texts, &[]);
            (of(verdict), Some(of(!verdict)))
        };
        let (own, opposite) = match &record.row {
            Row::Pair { prompt, chosen, rejected } => {
                (hash(0, &[prompt, chosen, rejected], &[]), Some(hash(0, &[prompt, rejected, chosen], &[])))
            }
            Row::Labelled { prompt, completion, desirable } => either(*desirable, &[prompt, completion]),
            Row::Demonstration { prompt, completion } => (hash(3, &[prompt, completion], &[]), None),
            Row::Ranked { prompt, completions } => {
                let texts: Vec<&Text> =
                    std::iter::once(prompt).chain(completions.iter().map(|(text, _)| text)).collect();
                let ratings: Vec<f64> = completions.iter().map(|(_, rating)| *rating).collect();
                (hash(4, &texts, &ratings), None)
            }
            Row::Judged { prompt, completion, judgment, positive } => {
                // Two judgments of one answer that differ in their words are two rows; the verdict alone contradicts.
                let judgment = Text::Plain(judgment.clone());
                either(*positive, &[prompt, completion, &judgment])
            }
        };
        // A pair of one text twice is no contradiction of itself.
        Self { own, opposite: opposite.filter(|opposite| *opposite != own) }
    }
}

impl Row {
    /// The prompt, and the completions in the order of the row.
    pub(crate) fn texts(&self) -> (&Text, Vec<&Text>) {
        match self {
            Self::Pair { prompt, chosen, rejected } => (prompt, vec![chosen, rejected]),
            Self::Labelled { prompt, completion, .. }
            | Self::Demonstration { prompt, completion }
            | Self::Judged { prompt, completion, .. } => (prompt, vec![completion]),
            Self::Ranked { prompt, completions } => (prompt, completions.iter().map(|(text, _)| text).collect()),
        }
    }
}

fn is_blank(text: &Text) -> bool {
    match text {
        Text::Plain(text) => text.trim().is_empty(),
        Text::Chat(messages) => {
            messages.iter().all(|message| message.content.trim().is_empty() && message.extra.is_empty())
        }
    }
}

#[derive(Default)]
struct Digest(Xxh3);

impl Digest {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    fn length(&mut self, length: usize) {
        self.bytes(&(length as u64).to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }

    /// The form that the documentation of [`prompt_hash`] fixes.
    fn trimmed(&mut self, text: &Text) {
        let plain = match text {
            Text::Plain(text) => Some(text),
            Text::Chat(messages) => match messages.as_slice() {
                [only] if only.role.trim() == "user" => Some(&only.content),
                _ => None,
            },
        };
        match (plain, text) {
            (Some(text), _) | (None, Text::Plain(text)) => {
                self.byte(0);
                self.string(text.trim());
            }
            (None, Text::Chat(messages)) => {
                self.byte(1);
                self.length(messages.len());
                for message in messages {
                    self.string(message.role.trim());
                    self.string(message.content.trim());
                }
            }
        }
    }

    fn exact(&mut self, text: &Text) {
        match text {
            Text::Plain(text) => {
                self.byte(0);
                self.string(text);
            }
            Text::Chat(messages) => {
                self.byte(1);
                self.length(messages.len());
                messages.iter().for_each(|message| self.message(message));
            }
        }
    }

    fn message(&mut self, message: &Message) {
        self.string(&message.role);
        self.string(&message.content);
        self.length(message.extra.len());
        for (key, value) in &message.extra {
            self.string(key);
            self.value(value);
        }
    }

    /// What a chat template is given beside the messages.
    fn surroundings(&mut self, record: &Record) {
        self.length(record.tools.len());
        record.tools.iter().for_each(|tool| self.value(tool));
        self.object(&record.template_arguments);
    }

    /// A value, the keys of objects in alphabetical order.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(values) => {
                self.byte(0);
                self.length(values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Object(object) => {
                self.byte(1);
                self.object(object);
            }
            Value::String(text) => {
                self.byte(2);
                self.string(text);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                self.byte(3);
                self.string(&value.to_string());
            }
        }
    }

    fn object(&mut self, object: &serde_json::Map<String, Value>) {
        let mut entries: Vec<_> = object.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        self.length(entries.len());
        for (key, value) in entries {
            self.string(key);
            self.value(value);
        }
    }

    fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> Record {
        Row::Pair { prompt: text(prompt), chosen: text(chosen), rejected: text(rejected) }.into()
    }

    fn chat(turns: &[(&str, &str)]) -> Text {
        Text::Chat(turns.iter().map(|(role, content)| Message::new(*role, *content)).collect())
    }

    #[test]
    fn prompts_are_hashed_without_the_whitespace_at_their_ends() {
        let hash = |prompt: Text| prompt_hash(&Row::Demonstration { prompt, completion: text("c") });
        assert_eq!(hash(text("\n\nHuman: hi\n\nAssistant:")), hash(text("Human: hi\n\nAssistant: ")));
        assert_ne!(hash(text("a b")), hash(text("a  b")));
        assert_eq!(hash(chat(&[("user", "hi")])), hash(chat(&[("user", " hi\n")])));
        assert_ne!(hash(chat(&[("user", "hi")])), hash(chat(&[("system", "hi")])));
        // One message of the user says what the text says.
        assert_eq!(hash(chat(&[("user", "hi")])), hash(text("hi")));
        assert_ne!(hash(chat(&[("user", "hi"), ("assistant", "ho"), ("user", "hi")])), hash(text("hi")));
        // Where one string ends and the next begins makes a difference.
        assert_ne!(hash(chat(&[("user", "ab"), ("user", "c")])), hash(chat(&[("user", "a"), ("user", "bc")])));
    }

    #[test]
    fn rows_without_a_prompt_are_told_apart_by_their_completions() {
        let hash =
            |completion: &str| prompt_hash(&Row::Demonstration { prompt: text(" "), completion: text(completion) });
        assert_eq!(hash("a"), hash("a "));
        assert_ne!(hash("a"), hash("b"));
        assert_eq!(exact_prompt(&pair(" ", "a", "b")), None);
    }

    #[test]
    fn the_opposite_of_a_pair_is_the_pair_swapped() {
        let (one, swapped) = (Content::of(&pair("p", "a", "b")), Content::of(&pair("p", "b", "a")));
        assert_eq!(one.opposite, Some(swapped.own));
        assert_eq!(swapped.opposite, Some(one.own));
        assert_eq!(Content::of(&pair("p", "a", "a")).opposite, None);
        let labelled = |desirable| -> Content {
            Content::of(&Row::Labelled { prompt: text("p"), completion: text("c"), desirable }.into())
        };
        assert_eq!(labelled(true).opposite, Some(labelled(false).own));
    }

    #[test]
    fn every_part_of_a_row_counts_and_numbers_do_not() {
        let own = |record: &Record| Content::of(record).own;
        let base = pair("p", "a", "b");
        assert_eq!(own(&base), own(&base.clone().with_number("margin", 1.0)));
        let others =
            [pair("q", "a", "b"), pair("p", "c", "b"), pair("p", "a", "c"), pair("p", "ab", ""), pair("pa", "", "b")];
        for other in &others {
            assert_ne!(own(&base), own(other));
        }
        let mut with_tool = base.clone();
        with_tool.tools.push(serde_json::json!({"name": "look_up"}));
        assert_ne!(own(&base), own(&with_tool));
        let ranked = |ratings: [f64; 2]| -> Record {
            let completions = vec![(text("a"), ratings[0]), (text("b"), ratings[1])];
            Row::Ranked { prompt: text("p"), completions }.into()
        };
        assert_ne!(own(&ranked([1.0, 2.0])), own(&ranked([2.0, 1.0])));
        let extra = |name: &str| -> Record {
            let mut message = Message::new("user", "hi");
            message.extra.insert("name".to_owned(), serde_json::json!(name));
            Row::Demonstration { prompt: Text::Chat(vec![message]), completion: text("c") }.into()
        };
        assert_ne!(own(&extra("x")), own(&extra("y")));
    }
}
