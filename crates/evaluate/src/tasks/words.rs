//! The words of a task file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What is done with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskKind {
    /// The likeliest of several continuations.
    Choice,
    /// Which of two texts is likelier.
    Pair,
    /// The probability of yes against no.
    YesNo,
    /// A place on a scale.
    Rating,
    /// An answer, written out and scored.
    Generate,
    /// An answer, compared with another one.
    WinRate,
    /// Whether good completions are scored above bad ones.
    Rank,
}

impl TaskKind {
    /// As it is written in a task file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::Pair => "pair",
            Self::YesNo => "yes_no",
            Self::Rating => "rating",
            Self::Generate => "generate",
            Self::WinRate => "win_rate",
            Self::Rank => "rank",
        }
    }

    /// The keys of this kind beside the [`COMMON`] ones.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Choice => &[
                "prompt",
                "forms",
                "orders",
                "delimiter",
                "choices",
                "choices_list",
                "answer",
                "weights",
                "unconditional",
                "scores",
                "group",
                "bias",
            ],
            Self::Pair => &["prompt", "delimiter", "better", "worse", "unconditional", "scores", "group"],
            Self::YesNo => &["prompt", "forms", "delimiter", "yes", "no", "answer", "group"],
            Self::Rating => &["prompt", "forms", "orders", "delimiter", "options", "values", "dimension", "key"],
            Self::Generate => &[
                "prompt",
                "given",
                "max_new_tokens",
                "stop",
                "match",
                "answer",
                "extract",
                "should_refuse",
                "refusals",
                "criterion",
                "judge",
            ],
            Self::WinRate => &["prompt", "given", "max_new_tokens", "stop", "opponent", "by", "criterion", "judge"],
            Self::Rank => &["prompt", "delimiter", "chosen", "chosen_list", "rejected", "rejected_list", "by"],
        }
    }
}

/// Keys of every kind.
const COMMON: [&str; 7] = ["name", "kind", "description", "rows", "header", "only", "slices"];

/// How continuations of different length are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChoiceScore {
    /// Σ log p of the tokens: `acc` of lm-evaluation-harness.
    Sum,
    /// Their mean.
    Mean,
    /// The sum, divided by the characters of the choice: `acc_norm` of lm-evaluation-harness.
    PerCharacter,
    /// The sum, divided by the bytes of the choice in UTF-8: `acc_bytes` of lm-evaluation-harness.
    PerByte,
    /// The sum, less that under the unconditional prompt: pointwise mutual information.
    Pmi,
}

impl ChoiceScore {
    /// As it is written in a task file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::PerCharacter => "per_character",
            Self::PerByte => "per_byte",
            Self::Pmi => "pmi",
        }
    }
}

/// In which orders the options are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Orders {
    /// As they are given.
    #[default]
    Given,
    /// As they are given, and reversed.
    Both,
}

/// How a written answer is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Match {
    /// It is the reference, but for case, white space and a final full stop.
    Exact,
    /// Its number is that of the reference.
    Number,
    /// It contains the reference, or one of several, in any case.
    Contains,
    /// The reference is a regular expression that it matches.
    Regex,
    /// Whether it refuses, beside whether it should.
    Refusal,
    /// A judge gives it a number from 0 to 1.
    Judge,
}

/// By what completions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CompareBy {
    /// A judge is shown both, in both orders.
    Judge,
    /// log π(y|x) − log π_ref(y|x): the implicit reward of a model trained on preferences, but for β.
    LogRatio,
    /// log π(y|x).
    Sum,
    /// log π(y|x), divided by its tokens.
    Mean,
}

/// One way to ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FormWords {
    pub(super) name: Option<String>,
    pub(super) prompt: String,
    pub(super) labels: Option<Vec<String>>,
}

/// `[bias]`: which answers agree with a stereotype.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BiasWords {
    pub(super) target: String,
    pub(super) unknown: String,
    pub(super) ambiguous: String,
}

/// All keys of a task file; which of them a kind has is [`TaskKind::keys`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    pub(super) name: Option<String>,
    pub(super) kind: TaskKind,
    pub(super) description: Option<String>,
    pub(super) rows: Option<PathBuf>,
    pub(super) header: Option<Vec<String>>,
    pub(super) only: Option<String>,
    #[serde(default)]
    pub(super) slices: Vec<String>,
    pub(super) prompt: Option<String>,
    pub(super) forms: Option<Vec<FormWords>>,
    #[serde(default)]
    pub(super) orders: Orders,
    pub(super) delimiter: Option<String>,
    pub(super) choices: Option<Vec<String>>,
    pub(super) choices_list: Option<String>,
    pub(super) answer: Option<String>,
    pub(super) weights: Option<String>,
    pub(super) unconditional: Option<String>,
    pub(super) scores: Option<Vec<ChoiceScore>>,
    pub(super) group: Option<String>,
    pub(super) bias: Option<BiasWords>,
    pub(super) better: Option<String>,
    pub(super) worse: Option<String>,
    pub(super) yes: Option<Vec<String>>,
    pub(super) no: Option<Vec<String>>,
    pub(super) options: Option<Vec<String>>,
    pub(super) values: Option<Vec<f64>>,
    pub(super) dimension: Option<String>,
    pub(super) key: Option<String>,
    pub(super) given: Option<String>,
    pub(super) max_new_tokens: Option<usize>,
    #[serde(default)]
    pub(super) stop: Vec<String>,
    #[serde(rename = "match")]
    pub(super) matching: Option<Match>,
    pub(super) extract: Option<String>,
    pub(super) should_refuse: Option<String>,
    pub(super) refusals: Option<Vec<String>>,
    pub(super) criterion: Option<String>,
    pub(super) judge: Option<String>,
    pub(super) opponent: Option<String>,
    pub(super) by: Option<CompareBy>,
    pub(super) chosen: Option<String>,
    pub(super) chosen_list: Option<String>,
    pub(super) rejected: Option<String>,
    pub(super) rejected_list: Option<String>,
}

impl Words {
    /// Reads the text of a task file; `file` names it in messages.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self> {
        let wrong = |error: toml::de::Error| {
            let lines = |end: usize| text.bytes().take(end).filter(|byte| *byte == b'\n').count();
            let line = error.span().map(|span| 1 + lines(span.start));
            let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
            Error::config(place, error.message().to_owned())
        };
        let table: toml::Table = toml::from_str(text).map_err(wrong)?;
        let words: Self = toml::from_str(text).map_err(wrong)?;
        let kind = words.kind;
        let foreign = table.keys().find(|key| !COMMON.contains(&key.as_str()) && !kind.keys().contains(&key.as_str()));
        if let Some(key) = foreign {
            let reason = format!(
                "is no key of a task of kind {:?}, which has {}; leave it out, or choose another kind",
                kind.name(),
                kind.keys().join(", ")
            );
            return Err(Error::config(format!("{file}: {key}"), reason));
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Words::parse(text, "t.toml").expect_err("wrong words").to_string()
    }

    #[test]
    fn wrong_words_are_told_with_their_place() {
        assert!(refused("kind = \"choice\"\nprompt = 3\n").starts_with("t.toml:2: "));
        assert!(refused("kind = \"choise\"\n").contains("choise"));
        let found = refused("kind = \"choice\"\nprompts = \"x\"\n");
        assert!(found.starts_with("t.toml:2: ") && found.contains("prompts"), "{found}");
        let found = refused("kind = \"choice\"\nmax_new_tokens = 3\n");
        assert!(found.contains("t.toml: max_new_tokens") && found.contains("\"choice\""), "{found}");
        assert!(refused("prompt = \"x\"\n").contains("kind"));
        assert!(refused("kind = \"ch\u{fc}").starts_with("t.toml:1: "));
    }

    #[test]
    fn every_key_of_a_kind_is_a_word() {
        for kind in [
            TaskKind::Choice,
            TaskKind::Pair,
            TaskKind::YesNo,
            TaskKind::Rating,
            TaskKind::Generate,
            TaskKind::WinRate,
            TaskKind::Rank,
        ] {
            for key in kind.keys().iter().chain(&COMMON).filter(|key| **key != "kind") {
                // A value of a type that no key has: the message is not that the key is unknown.
                let found = refused(&format!("kind = {:?}\n{key} = 1979-05-27\n", kind.name()));
                assert!(!found.contains(&format!("unknown field `{key}`")), "{key}: {found}");
            }
        }
    }
}
