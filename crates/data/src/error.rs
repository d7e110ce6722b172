//! What can go wrong: an [`Error`] ends the run, a [`Rejection`] sets one row aside.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::row::Origin;

/// A failure that stops reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data file cannot be opened.
    #[error("{}: cannot open the data file: {source}; check the path", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading stopped in the middle of the file.
    #[error("{file}:{line}: cannot read on: {source}")]
    Read {
        /// The file.
        file: Arc<str>,
        /// The line being read, 1-based.
        line: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A compressed file that ends before its end mark.
    #[error("{file}:{line}: the gzip stream ends in the middle of its data; the file was cut short, copy it again")]
    GzipCutShort {
        /// The file.
        file: Arc<str>,
        /// The line being read, 1-based.
        line: u64,
    },
    /// The first row fits no known form.
    #[error("{origin}: found the columns {found}; {expected}{hint}")]
    UnknownForm {
        /// The row looked at.
        origin: Origin,
        /// The columns of that row.
        found: String,
        /// Which forms exist.
        expected: String,
        /// A mapping that would help, or nothing.
        hint: String,
    },
    /// The column mapping names a column that is not read.
    #[error(
        "columns.{name}: no form has a column of this name, and no number of this name is read; the names that can be mapped \
         are {known}"
    )]
    UnknownColumn {
        /// The name given.
        name: String,
        /// Names that exist.
        known: String,
    },
    /// A row cannot be used, and the source is strict (or nothing could be read from its first row).
    #[error("{0}")]
    Rejected(Rejection),
    /// Nothing to read.
    #[error(
        "{file}: no rows; expected JSON objects (one a line, or in one array), or rows of CSV, TSV, Parquet or Arrow"
    )]
    NoRows {
        /// The file.
        file: Arc<str>,
    },
    /// A whole pass gave nothing to train on.
    #[error("{file}: no {what} came out of a whole pass: {summary}")]
    NothingUsable {
        /// The file.
        file: Arc<str>,
        /// Row or full step.
        what: &'static str,
        /// Counts per reason.
        summary: String,
    },
    /// A reader that cannot start again.
    #[error(
        "{file}: a second pass was asked of a reader that can be read once; use a file, or set the number of epochs to 1"
    )]
    SinglePass {
        /// The name of the reader.
        file: Arc<str>,
    },
    /// A file of the tokenizer is missing or broken.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// Rows are conversations, and the tokenizer has no chat template.
    #[error(
        "{origin}: the row is a conversation and the tokenizer has no chat template; add `chat_template` to \
         tokenizer_config.json or a chat_template.jinja beside it, or use rows of plain strings"
    )]
    NoChatTemplate {
        /// The first such row.
        origin: Origin,
    },
    /// The tokenizer knows ids that the model does not.
    #[error(
        "the tokenizer does not fit the model: token {token:?} has id {id}, the model's vocabulary has {vocabulary} \
         entries (0 to {last}); use the tokenizer that came with the model"
    )]
    Vocabulary {
        /// The token with the highest id.
        token: String,
        /// Its id.
        id: u32,
        /// Entries of the model's embedding.
        vocabulary: usize,
        /// The model's highest id.
        last: usize,
    },
    /// An option outside its range.
    #[error("{name}: got {got}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// The value given.
        got: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Mismatched completions were asked of a step in which all prompts are one.
    #[error(
        "{origin}: mismatched completions need at least two different prompts in an optimizer step, this step has {examples} \
         example(s) of one prompt; use larger steps (train.batch_size times train.micro_batches of 2 or more) or rows in shuffled order"
    )]
    OnePrompt {
        /// The first row of the step.
        origin: Origin,
        /// Examples of the step.
        examples: usize,
    },
    /// Steps of both labels were asked of rows that have none.
    #[error(
        "{origin}: stratified steps hold labelled rows of both labels, and this row is not labelled; leave stratified off"
    )]
    NotLabelled {
        /// The first such row.
        origin: Origin,
    },
    /// The cursor points beyond the source.
    #[error(
        "{file}: the saved position is row {consumed} of epoch {epoch}, the source has only {rows} rows; it is not the \
         source this position was saved from"
    )]
    Cursor {
        /// The file.
        file: Arc<str>,
        /// Epoch of the cursor.
        epoch: u64,
        /// Rows the cursor has consumed.
        consumed: u64,
        /// Rows there are.
        rows: u64,
    },
    /// Rows were to be balanced by their verdicts, and there are none of one of them.
    #[error(
        "balance: found {desirable} desirable and {undesirable} undesirable rows, expected rows of both verdicts; leave \
         balance out"
    )]
    OneVerdict {
        /// Rows that are wanted.
        desirable: u64,
        /// Rows that are not.
        undesirable: u64,
    },
    /// The rows have no attribute or label of this name to decide by.
    #[error("{file}: criterion: got {criterion:?}, and {expected}")]
    Criterion {
        /// The file.
        file: String,
        /// The criterion given.
        criterion: String,
        /// What the rows have.
        expected: String,
    },
    /// A file cannot be written.
    #[error("{doing} {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file to write is there already.
    #[error("{}: the file is there already; name another one, or have it replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A row has a column that the file cannot hold.
    #[error("{}: {}`{column}` {message}", path.display(), if *row > 0 { format!("row {row}: ") } else { String::new() })]
    Unfit {
        /// The file being written.
        path: PathBuf,
        /// The row of that file, 1-based; 0 for all of them.
        row: u64,
        /// The column, with the keys below it.
        column: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The file is of no format that is read, or its format is broken as a whole.
    #[error("{file}: {message}")]
    Format {
        /// The file.
        file: Arc<str>,
        /// What it is and what to do.
        message: String,
    },
    /// The file cannot be read on from some row.
    #[error("{origin}: cannot read on: {message}")]
    Broken {
        /// The row that was being read.
        origin: Origin,
        /// What is wrong and what to do.
        message: String,
    },
    /// A place names no data file.
    #[error("{place}: {message}")]
    NoFiles {
        /// The directory, glob or file as it was given.
        place: String,
        /// What was found and what to do.
        message: String,
    },
    /// A saved position lies beyond the end of its file.
    #[error(
        "{file}: the saved position is {offset}, the end is at {length}; it is not the source this position was saved from"
    )]
    Position {
        /// The file.
        file: Arc<str>,
        /// The position, in bytes, rows or files.
        offset: u64,
        /// Where the file ends, in the same unit.
        length: u64,
    },
    /// The rows at the saved position are not those that it was saved from, or are met in another order.
    #[error(
        "{file}: the rows before the saved position (row {consumed} of epoch {epoch}) are not those it was saved from, or the \
         order is another; put the files and the order back as they were, or start anew"
    )]
    Changed {
        /// The source.
        file: Arc<str>,
        /// Epoch of the cursor.
        epoch: u64,
        /// Rows the cursor has consumed.
        consumed: u64,
    },
    /// The threads that encode rows cannot be started.
    #[error("workers: got {workers}, and a thread cannot be started: {source}; use fewer, or 0 for none")]
    Threads {
        /// How many were asked for.
        workers: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread failed at a row.
    #[error("encoding a row failed in a thread: {message}; this is a fault of the program, please report it")]
    Worker {
        /// What it said.
        message: String,
    },
}

/// Why a row was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// Not a JSON object.
    NotJson,
    /// A line longer than [`crate::MAX_LINE_BYTES`].
    LineTooLong,
    /// A column of the form is missing.
    MissingColumn,
    /// A column holds another type than the form's.
    WrongType,
    /// A completion without text.
    EmptyCompletion,
    /// Chosen and rejected are equal.
    Identical,
    /// Chosen and rejected are equal after truncation.
    IdenticalAfterTruncation,
    /// Chosen and rejected answer different prompts.
    PromptsDiffer,
    /// A transcript without an assistant's turn.
    NoAssistantTurn,
    /// The prompt leaves no room for a completion.
    PromptTooLong,
    /// The completion leaves no room for a prompt.
    CompletionTooLong,
    /// Longer than the limit of prompt and completion together, under [`crate::Truncation::Reject`].
    TooLong,
    /// No token stands before the completion, so its first token cannot be predicted.
    NoPromptToken,
    /// A conversation, and the tokenizer has no chat template.
    NoChatTemplate,
    /// The chat template failed.
    TemplateFailed,
    /// The chat template renders the prompt differently once the completion follows.
    PromptRewritten,
    /// The tokenizer failed.
    TokenizerFailed,
    /// A number outside its range.
    OutOfRange,
    /// Fewer than two completions to rank.
    TooFewCompletions,
    /// All completions to rank give the same tokens.
    AllAlike,
    /// A judgment without text.
    EmptyJudgment,
    /// The completion gives other tokens once a judgment stands before it.
    JudgmentChangesTokens,
    /// Something that only a pair has was asked of another row.
    NotAPair,
    /// A completion of which the edit script touches no token.
    NoEdit,
    /// A teacher's entries do not fit the scored tokens.
    TeacherMismatch,
    /// Completions too long to be compared token by token.
    TooLongToCompare,
    /// The votes, scores or ratings of a pair are even.
    Tied,
    /// The same as an earlier row.
    Duplicate,
    /// Nearly the same as an earlier row.
    NearDuplicate,
    /// Left out so that both labels are as frequent.
    Unbalanced,
    /// Longer than a limit, under a policy that ends the run.
    OverLimit,
    /// Something that only a labelled row has was asked of another row.
    NotLabelled,
    /// No other row of the same prompt to be paired with.
    NoPartner,
    /// Rows of this kind cannot be written as asked.
    OtherKind,
    /// A row that the format of its file does not allow.
    MalformedRow,
    /// Labels of safety that contradict each other.
    LabelsContradict,
    /// Both completions are unsafe, and one has to be preferred for being safe.
    BothUnsafe,
}

impl Reason {
    /// Whether such a row ends the run even where rows that cannot be used are set aside.
    #[must_use]
    pub fn ends_run(self) -> bool {
        self == Self::OverLimit
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not a JSON object",
            Self::LineTooLong => "line too long",
            Self::MissingColumn => "missing column",
            Self::WrongType => "wrong type",
            Self::EmptyCompletion => "empty completion",
            Self::Identical => "chosen equals rejected",
            Self::IdenticalAfterTruncation => "chosen equals rejected after truncation",
            Self::PromptsDiffer => "prompts differ",
            Self::NoAssistantTurn => "no assistant turn",
            Self::PromptTooLong => "prompt longer than the limit",
            Self::CompletionTooLong => "completion longer than the limit",
            Self::TooLong => "longer than the limit",
            Self::NoPromptToken => "no token before the completion",
            Self::NoChatTemplate => "no chat template",
            Self::TemplateFailed => "chat template failed",
            Self::PromptRewritten => "chat template rewrites the prompt",
            Self::TokenizerFailed => "tokenizer failed",
            Self::OutOfRange => "number out of range",
            Self::TooFewCompletions => "too few completions",
            Self::AllAlike => "all completions alike",
            Self::EmptyJudgment => "empty judgment",
            Self::JudgmentChangesTokens => "judgment changes the completion's tokens",
            Self::NotAPair => "not a pair",
            Self::NoEdit => "no edited token",
            Self::TeacherMismatch => "teacher does not fit",
            Self::TooLongToCompare => "completions too long to be compared",
            Self::Tied => "tie",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near duplicate",
            Self::Unbalanced => "left out for balance",
            Self::OverLimit => "over the limit",
            Self::NotLabelled => "not labelled",
            Self::NoPartner => "no partner",
            Self::OtherKind => "another kind of row",
            Self::MalformedRow => "malformed row",
            Self::LabelsContradict => "labels contradict each other",
            Self::BothUnsafe => "both completions unsafe",
        })
    }
}

/// One row that was set aside: where it stands, why, and what was seen. As JSON `{"file": …, "line": …, "unit": "line" or "row",
/// "reason": …, "detail": …}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{origin}: {reason}: {detail}")]
pub struct Rejection {
    /// File and line.
    #[serde(flatten)]
    pub origin: Origin,
    /// The kind of reason, for counting.
    pub reason: Reason,
    /// What was found and what was expected.
    pub detail: String,
}

/// A rejection before its place is known.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

impl Fault {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(crate) fn at(self, origin: &Origin) -> Rejection {
        Rejection { origin: origin.clone(), reason: self.reason, detail: self.detail }
    }
}

/// The first characters of a text, quoted, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut head: String = text.chars().take(SHOWN).collect();
    if head.len() < text.len() {
        head.push('…');
    }
    format!("{head:?}")
}

/// The last characters of a text, quoted, for messages.
pub(crate) fn tail_excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    let count = text.chars().count();
    let tail: String = text.chars().skip(count.saturating_sub(SHOWN)).collect();
    if count > SHOWN { format!("{:?}", format!("…{tail}")) } else { format!("{tail:?}") }
}
