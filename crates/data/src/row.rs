//! The nouns of the crate: a [`Row`] is what a file says, an [`Example`] is what a model is shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Who speaks, as the chat template names it: `system`, `user`, `assistant`, …
    pub role: String,
    /// What is said.
    pub content: String,
    /// Every other key of the message (`name`, `tool_calls`, `reasoning_content`, …), handed to the chat template as it is.
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Message {
    /// A message of a role and its content.
    ///
    /// ```
    /// let message = candlewick_data::Message::new("user", "What is a candle?");
    /// assert_eq!(message.role, "user");
    /// ```
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: BTreeMap::new() }
    }
}

/// A string, or a conversation that a chat template turns into one.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// Standard form: the string is tokenized as it is.
    Plain(String),
    /// Conversational form.
    Chat(Vec<Message>),
}

impl Text {
    /// A string that is not empty, or a list of messages, each with a role and a content; `None` of anything else.
    ///
    /// ```
    /// use candlewick_data::{Message, Text};
    /// use serde_json::json;
    /// let asked = json!([{ "role": "user", "content": "Why?" }]);
    /// assert_eq!(Text::of_json(&asked), Some(Text::Chat(vec![Message::new("user", "Why?")])));
    /// assert_eq!(Text::of_json(&json!("")), None);
    /// ```
    #[must_use]
    pub fn of_json(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::String(text) => (!text.is_empty()).then(|| Self::Plain(text.clone())),
            serde_json::Value::Array(messages) => {
                let message = |message: &serde_json::Value| {
                    let word = |key: &str| message.get(key).and_then(serde_json::Value::as_str);
                    Some(Message::new(word("role")?, word("content")?))
                };
                let messages = messages.iter().map(message).collect::<Option<Vec<_>>>()?;
                (!messages.is_empty()).then_some(Self::Chat(messages))
            }
            _ => None,
        }
    }
}

/// One row of a data set, before tokenization.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// Two completions of one prompt, the first preferred.
    Pair {
        /// The prompt.
        prompt: Text,
        /// The preferred completion.
        chosen: Text,
        /// The other one.
        rejected: Text,
    },
    /// One completion with a verdict.
    Labelled {
        /// The prompt.
        prompt: Text,
        /// The completion.
        completion: Text,
        /// The verdict: true for wanted.
        desirable: bool,
    },
    /// One completion to imitate.
    Demonstration {
        /// The prompt.
        prompt: Text,
        /// The completion.
        completion: Text,
    },
    /// Several completions of one prompt, each with a rating.
    Ranked {
        /// The prompt.
        prompt: Text,
        /// The completions, at least two, with finite ratings: higher for better.
        completions: Vec<(Text, f64)>,
    },
    /// One completion with a judgment of it in words.
    ///
    /// It is encoded under two prompts: its own, and its own with the judgment put before it,
    ///
    /// ```text
    /// Judgment of the answer to the request below: {judgment}
    ///
    /// {prompt}
    /// ```
    ///
    /// and in a conversation before the last message of the user. What stands right before the completion, such as
    /// `Assistant:`, so stays what it was.
    Judged {
        /// The prompt.
        prompt: Text,
        /// The completion.
        completion: Text,
        /// What was said about the completion.
        judgment: String,
        /// Whether the judgment finds nothing wrong.
        positive: bool,
    },
}

impl Row {
    /// The prompt.
    #[must_use]
    pub fn prompt(&self) -> &Text {
        match self {
            Self::Pair { prompt, .. }
            | Self::Labelled { prompt, .. }
            | Self::Demonstration { prompt, .. }
            | Self::Ranked { prompt, .. }
            | Self::Judged { prompt, .. } => prompt,
        }
    }
}

/// A row with what its data set gives beside the texts.
///
/// ```
/// use candlewick_data::{Record, Row, Text};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let row = Row::Pair { prompt: text("p"), chosen: text(" a"), rejected: text(" b") };
/// let record = Record::from(row).with_number("margin", 0.5);
/// assert_eq!(record.numbers["margin"], 0.5);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The row.
    pub row: Row,
    /// Numbers by name, such as a margin; finite.
    pub numbers: BTreeMap<String, f64>,
    /// Words by name that tell rows apart, such as a category or an annotator; those that a source is asked for.
    pub labels: BTreeMap<String, String>,
    /// What a teacher says of each completion, one entry for each of its scored tokens; empty without a teacher.
    pub teacher: Vec<Vec<TeacherToken>>,
    /// Tools that the chat template is told of, each a JSON schema; empty for none.
    pub tools: Vec<serde_json::Value>,
    /// Further variables of the chat template by name, as `enable_thinking`; TRL's `chat_template_kwargs`.
    pub template_arguments: serde_json::Map<String, serde_json::Value>,
}

impl Record {
    /// The same with one number more.
    #[must_use]
    pub fn with_number(mut self, name: impl Into<String>, value: f64) -> Self {
        self.numbers.insert(name.into(), value);
        self
    }
}

impl From<Row> for Record {
    fn from(row: Row) -> Self {
        Self {
            row,
            numbers: BTreeMap::new(),
            labels: BTreeMap::new(),
            teacher: Vec::new(),
            tools: Vec::new(),
            template_arguments: serde_json::Map::new(),
        }
    }
}

/// What the numbers of rows count in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Lines of text.
    #[default]
    Line,
    /// Rows of a file in which a row is not a line: a JSON array, CSV, Parquet, Arrow.
    Row,
}

/// Where a row came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file as it was named, or `<memory>`.
    pub file: Arc<str>,
    /// Number of the line or row in the file, 1-based (for rows from memory: their number).
    pub line: u64,
    /// What `line` counts.
    pub unit: Unit,
}

impl Origin {
    /// A line of a file, 1-based.
    #[must_use]
    pub fn line(file: Arc<str>, line: u64) -> Self {
        Self { file, line, unit: Unit::Line }
    }

    /// The place of a row that an application holds in memory, 1-based.
    #[must_use]
    pub fn memory(number: u64) -> Self {
        Self::line(Arc::from("<memory>"), number)
    }
}

impl fmt::Display for Origin {
    /// `pairs.jsonl:7`, or `pairs.parquet: row 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Line => write!(f, "{}:{}", self.file, self.line),
            Unit::Row => write!(f, "{}: row {}", self.file, self.line),
        }
    }
}

/// Tokens that follow a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether each id is scored; as long as `ids`. False at the start where the completions of a pair share less of the
    /// prompt's tokens than its text, on the turns of others in a completion of several turns, and under
    /// [`ScoredTokens::Edits`](crate::ScoredTokens::Edits) on every token that no edit touches.
    pub scored: Vec<bool>,
    /// What a teacher says of each scored token's position, in order; empty where there is no teacher.
    pub teacher: Vec<TeacherToken>,
}

/// A teacher's distribution over the token at one position, in sparse form: some tokens and their log-probabilities.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeacherToken {
    /// Token ids, each once.
    pub ids: Vec<u32>,
    /// Their log-probabilities under the teacher in nats; as many.
    pub log_probs: Vec<f32>,
    /// Their log-probabilities under the teacher's own reference; as many, or none.
    pub reference_log_probs: Vec<f32>,
}

impl Completion {
    /// A completion of which every token is scored.
    #[must_use]
    pub fn all_scored(ids: Vec<u32>) -> Self {
        Self { scored: vec![true; ids.len()], ids, teacher: Vec::new() }
    }

    /// How many tokens are scored.
    #[must_use]
    pub fn scored_tokens(&self) -> usize {
        self.scored.iter().filter(|scored| **scored).count()
    }
}

/// A prompt with its completions: what a model computes at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Token ids of the prompt, shared by all completions; never empty when encoded here.
    pub prompt: Vec<u32>,
    /// Whether each prompt id is scored; as long as `prompt`.
    pub prompt_scored: Vec<bool>,
    /// The completions.
    pub completions: Vec<Completion>,
}

/// What is known about the completions of an [`Example`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Annotation {
    /// One context whose completions are `[chosen, rejected]`.
    Pair,
    /// One context with one completion and its verdict.
    Labelled {
        /// True for wanted.
        desirable: bool,
    },
    /// One context with one completion to imitate.
    Demonstration,
    /// One context with several completions.
    Ranked {
        /// A rating each, higher for better; as many as completions.
        ratings: Vec<f64>,
    },
    /// Two contexts with the same completion: the prompt alone, and the prompt with a judgment of the completion.
    Judged {
        /// Whether the judgment finds nothing wrong.
        positive: bool,
    },
}

/// A tokenized row.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Where it came from.
    pub origin: Origin,
    /// Its contexts: two of a judged row, one of every other.
    pub contexts: Vec<Context>,
    /// What is known about the completions.
    pub annotation: Annotation,
    /// Numbers that the row gives beside its texts, such as a margin, by name.
    pub numbers: BTreeMap<String, f64>,
    /// Words that tell rows apart, such as a category, by name.
    pub labels: BTreeMap<String, String>,
}

impl Example {
    /// An example without numbers and labels.
    #[must_use]
    pub fn new(origin: Origin, contexts: Vec<Context>, annotation: Annotation) -> Self {
        Self { origin, contexts, annotation, numbers: BTreeMap::new(), labels: BTreeMap::new() }
    }
}

/// The examples of one micro-batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The examples, in order.
    pub examples: Vec<Example>,
    /// Empty unless asked for; else one context for every labelled example and pair, in order: its prompt with the
    /// completions of an example of another prompt. Its completions correspond one to one to the example's own.
    pub mismatched: Vec<Context>,
}
