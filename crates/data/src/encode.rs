//! From a [`Row`] to token ids and masks: what is scored is decided here and nowhere else.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::byte_level::ByteLevel;
use crate::edits;
use crate::error::{Error, Fault, Reason, Rejection};
use crate::judged;
use crate::moment::Moment;
use crate::report::Counts;
use crate::row::{Annotation, Completion, Context, Example, Message, Origin, Record, Row, TeacherToken, Text};
use crate::sequence::{self, Sequence};
use crate::split::common_prefix;
use crate::teacher;
use crate::template::{ChatTemplates, RenderOptions};
use crate::tokens::{OwnedFiles, Settings, TokenizerFiles};
use crate::truncate::{self, Rules};

/// Which token is the first of the completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Prompt and completion are tokenized once, together, as they stand when the model answers; a token belongs to the
    /// completion when any of its characters does. Tokens on both sides are counted ([`Counts::straddles`]). In a
    /// conversation only the assistant's turns are scored, and a prompt that ends with a message of the assistant is
    /// continued: the completion goes on inside that message, and what the message already says is not scored.
    #[default]
    Offsets,
    /// TRL 1.16's rule: the prompt is tokenized alone and again with its completion, and the completion begins where the
    /// two differ, for both completions of a pair where the first of them does. Everything after that is scored, other
    /// speakers' turns included. A prompt that ends with a message of the assistant is closed, and the completion is a
    /// message of its own.
    CommonPrefix,
}

/// What happens to sequences longer than [`EncodeOptions::max_length`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The end is cut off (a long completion loses its end-of-sequence token); a row whose prompt alone fills the limit is set
    /// aside. As TRL.
    #[default]
    KeepStart,
    /// The start of the prompt is cut off, its beginning-of-sequence token kept; a row whose completion alone fills the limit
    /// is set aside.
    KeepEndOfPrompt,
    /// The row is set aside.
    #[serde(alias = "drop")]
    Reject,
    /// The run ends, with the place of the row.
    #[serde(alias = "raise")]
    Error,
}

/// What happens to prompts longer than [`EncodeOptions::max_prompt_length`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptTruncation {
    /// The start of the prompt is cut off, its beginning-of-sequence token kept, as TRL did; what a chat template puts between
    /// the last message and the answer is never cut.
    #[default]
    KeepEnd,
    /// The row is set aside.
    #[serde(alias = "drop")]
    Reject,
    /// The run ends, with the place of the row.
    #[serde(alias = "raise")]
    Error,
}

/// What happens to completions longer than [`EncodeOptions::max_completion_length`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionTruncation {
    /// The end of the completion is cut off, with its end-of-sequence token. As TRL did.
    #[default]
    KeepStart,
    /// The row is set aside.
    #[serde(alias = "drop")]
    Reject,
    /// The run ends, with the place of the row.
    #[serde(alias = "raise")]
    Error,
}

/// Whether standard rows end with the end-of-sequence token. In conversations the chat template decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndOfSequence {
    /// It is appended unless it is there already; it is scored.
    #[default]
    Append,
    /// Ids stay as the tokenizer gives them.
    Keep,
}

/// Which tokens of a completion are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoredTokens {
    /// All of them.
    #[default]
    All,
    /// Of a pair in which `chosen` is a revision of `rejected`, the tokens by which they differ: of `chosen` those that the
    /// shortest edit script inserts or puts in the place of others, and its end-of-sequence token; of `rejected` those that
    /// it deletes or replaces. A pair of which one side has no such token is set aside, and so is every row that is no pair.
    Edits,
}

/// How rows become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeOptions {
    /// Most tokens of prompt and completion together; None for no limit. Default 1024.
    ///
    /// It is looked at last, after `max_prompt_length` and `max_completion_length`.
    pub max_length: Option<usize>,
    /// Most tokens of a prompt, special tokens and the template's own included; at least 2. None, the default, for no limit.
    pub max_prompt_length: Option<usize>,
    /// Most tokens of a completion, its end-of-sequence token included; at least 1. None, the default, for no limit.
    pub max_completion_length: Option<usize>,
    /// Where the completion begins.
    pub boundary: Boundary,
    /// What happens to longer sequences.
    pub truncation: Truncation,
    /// What happens to longer prompts.
    pub prompt_truncation: PromptTruncation,
    /// What happens to longer completions.
    pub completion_truncation: CompletionTruncation,
    /// How standard rows end.
    pub end_of_sequence: EndOfSequence,
    /// Which tokens of a completion are scored.
    pub scored: ScoredTokens,
    /// The date and time that a chat template is told when it asks for them (`strftime_now`). Nothing here reads a clock:
    /// without a date, a template that asks fails.
    pub date: Option<Moment>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            max_length: Some(1024),
            max_prompt_length: None,
            max_completion_length: None,
            boundary: Boundary::default(),
            truncation: Truncation::default(),
            prompt_truncation: PromptTruncation::default(),
            completion_truncation: CompletionTruncation::default(),
            end_of_sequence: EndOfSequence::default(),
            scored: ScoredTokens::default(),
            date: None,
        }
    }
}

/// A tokenizer with its special tokens, chat template and the rules of this crate. Shared freely between threads.
#[derive(Debug)]
pub struct Encoder {
    pub(crate) tokenizer: Tokenizer,
    /// The same, where it is of a kind that is done directly.
    pub(crate) byte_level: Option<ByteLevel>,
    pub(crate) templates: Option<ChatTemplates>,
    pub(crate) options: EncodeOptions,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) add_bos: bool,
    /// Tokens that the chat template puts after the last message of a prompt; found when first asked for.
    pub(crate) header: OnceLock<usize>,
    highest: (u32, String),
}

impl Encoder {
    /// Reads `tokenizer.json` and, where they are there, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja`, `generation_config.json` or `config.json` of a directory.
    ///
    /// # Errors
    /// A file that is missing or broken, a template that does not compile, an option outside its range, no
    /// end-of-sequence token where one is to be appended.
    pub fn from_dir(dir: &Path, options: EncodeOptions) -> Result<Self, Error> {
        let files = OwnedFiles::read(dir)?;
        Self::from_files(&files.borrow(), options).map_err(|error| match error {
            Error::Tokenizer { file, message } => {
                Error::Tokenizer { file: dir.join(file).display().to_string(), message }
            }
            other => other,
        })
    }

    /// The same from bytes.
    ///
    /// # Errors
    /// As [`Encoder::from_dir`].
    pub fn from_files(files: &TokenizerFiles<'_>, options: EncodeOptions) -> Result<Self, Error> {
        truncate::check(&options)?;
        let (tokenizer, byte_level) = load(files.tokenizer)?;
        let settings = Settings::read(files)?;
        let named = |name: &str| settings.special.named.get(name).and_then(|token| tokenizer.token_to_id(token));
        let bos = named("bos_token").or(settings.bos_id);
        let eos = named("eos_token").or(settings.eos_id);
        if eos.is_none() && options.end_of_sequence == EndOfSequence::Append {
            return Err(Error::Tokenizer {
                file: "tokenizer_config.json".to_owned(),
                message: "no eos_token that the tokenizer knows, here or in special_tokens_map.json or the model's configuration; \
                          name one, or set end_of_sequence = \"keep\""
                    .to_owned(),
            });
        }
        let templates = settings
            .chat_template
            .as_ref()
            .map(|sources| ChatTemplates::new(sources, settings.special.clone(), options.date))
            .transpose()
            .map_err(|message| Error::Tokenizer { file: "chat_template".to_owned(), message })?;
        let highest = tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).max().ok_or_else(|| {
            Error::Tokenizer { file: "tokenizer.json".to_owned(), message: "an empty vocabulary".to_owned() }
        })?;
        Ok(Self {
            tokenizer,
            byte_level,
            templates,
            options,
            bos,
            eos,
            add_bos: settings.add_bos,
            header: OnceLock::new(),
            highest,
        })
    }

    /// The rules it follows.
    #[must_use]
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// Id of the beginning-of-sequence token, where there is one.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Id of the end-of-sequence token, where there is one.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// Highest id + 1, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.highest.0 as usize + 1
    }

    /// Whether conversations can be encoded.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.templates.is_some()
    }

    /// Checks that every id of the tokenizer is a row of the model's embedding. A larger model is fine: many pad theirs.
    ///
    /// # Errors
    /// The first id out of range, by name.
    pub fn check_vocabulary(&self, model_vocabulary: usize) -> Result<(), Error> {
        if self.vocab_size() <= model_vocabulary {
            return Ok(());
        }
        Err(Error::Vocabulary {
            token: self.highest.1.clone(),
            id: self.highest.0,
            vocabulary: model_vocabulary,
            last: model_vocabulary.saturating_sub(1),
        })
    }

    /// Tokens and masks of a row.
    ///
    /// # Errors
    /// The reason to set the row aside.
    pub fn encode(&self, row: &Row, origin: &Origin) -> Result<Example, Rejection> {
        let (contexts, annotation) = self
            .contexts(row, &[], RenderOptions::default(), &mut Counts::default())
            .map_err(|fault| fault.at(origin))?;
        Ok(Example::new(origin.clone(), contexts, annotation))
    }

    /// The same of a row with numbers, a teacher, tools and variables of the chat template.
    ///
    /// # Errors
    /// The reason to set the row aside.
    pub fn encode_record(&self, record: &Record, origin: &Origin) -> Result<Example, Rejection> {
        self.encode_counted(record, origin).map(|(example, _)| example)
    }

    /// The text that the chat template makes of a conversation, as transformers' `apply_chat_template` gives it.
    ///
    /// ```no_run
    /// use candlewick_data::{EncodeOptions, Encoder, Ending, Message, RenderOptions};
    /// let encoder = Encoder::from_dir(std::path::Path::new("model"), EncodeOptions::default())?;
    /// let options = RenderOptions { ending: Ending::Generation, ..RenderOptions::default() };
    /// println!("{}", encoder.render_chat(&[Message::new("user", "Hello")], options)?);
    /// # Ok::<(), candlewick_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// No chat template, a template that fails or refuses, by its line, a conversation without messages.
    pub fn render_chat(&self, messages: &[Message], options: RenderOptions<'_>) -> Result<String, Error> {
        let messages: Vec<&Message> = messages.iter().collect();
        sequence::render(self, &messages, options).map_err(|fault| Error::Rejected(fault.at(&Origin::memory(1))))
    }

    /// Tokens of a prompt alone, ready to be continued: special tokens as for training, a conversation up to where the
    /// assistant's answer begins or, under [`Boundary::Offsets`], goes on.
    ///
    /// # Errors
    /// A conversation without a chat template, or a failure of template or tokenizer.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>, Error> {
        self.encode_prompt_told(prompt, &[], &serde_json::Map::new())
    }

    /// The same, where the chat template is told of tools and further variables, as those of a [`Record`].
    ///
    /// # Errors
    /// As [`encode_prompt`](Self::encode_prompt).
    pub fn encode_prompt_told(
        &self,
        prompt: &Text,
        tools: &[serde_json::Value],
        template_arguments: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Vec<u32>, Error> {
        let told = RenderOptions { tools, template_arguments: Some(template_arguments), ..RenderOptions::default() };
        sequence::prompt_alone(self, prompt, told).map_err(|fault| Error::Rejected(fault.at(&Origin::memory(1))))
    }

    /// The text of ids, special tokens shown.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        // Decoding fails only in decoders that reject tokens of their own vocabulary; ids unknown to it are skipped.
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// The text of ids as a reader wants it, special tokens left out.
    #[must_use]
    pub fn decode_text(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }

    pub(crate) fn encode_counted(&self, record: &Record, origin: &Origin) -> Result<(Example, Counts), Rejection> {
        let mut counts = Counts::default();
        let numbers = record.numbers.clone();
        let encoded = match numbers.iter().find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => {
                Err(Fault::new(Reason::OutOfRange, format!("the number `{name}` is {value}, expected a finite number")))
            }
            None => {
                let told = RenderOptions {
                    tools: &record.tools,
                    template_arguments: Some(&record.template_arguments),
                    ..RenderOptions::default()
                };
                self.contexts(&record.row, &record.teacher, told, &mut counts)
            }
        };
        let (contexts, annotation) = encoded.map_err(|fault| fault.at(origin))?;
        let labels = record.labels.clone();
        Ok((Example { numbers, labels, ..Example::new(origin.clone(), contexts, annotation) }, counts))
    }

    fn contexts(
        &self,
        row: &Row,
        teacher: &[Vec<TeacherToken>],
        told: RenderOptions<'_>,
        counts: &mut Counts,
    ) -> Result<(Vec<Context>, Annotation), Fault> {
        if self.options.scored == ScoredTokens::Edits && !matches!(row, Row::Pair { .. }) {
            return Err(Fault::new(
                Reason::NotAPair,
                "scored = \"edits\" scores what tells the completions of a pair apart; use pairs, or scored = \"all\"",
            ));
        }
        let (prompt, completions, annotation) = match row {
            Row::Pair { prompt, chosen, rejected } => (prompt, vec![chosen, rejected], Annotation::Pair),
            Row::Labelled { prompt, completion, desirable } => {
                (prompt, vec![completion], Annotation::Labelled { desirable: *desirable })
            }
            Row::Demonstration { prompt, completion } => (prompt, vec![completion], Annotation::Demonstration),
            Row::Ranked { prompt, completions } => {
                let ratings = ratings(completions)?;
                let completions = completions.iter().map(|(completion, _)| completion).collect();
                (prompt, completions, Annotation::Ranked { ratings })
            }
            Row::Judged { prompt, completion, judgment, positive } => {
                let annotation = Annotation::Judged { positive: *positive };
                no_teacher(teacher, &annotation)?;
                return Ok((judged::contexts(self, prompt, completion, judgment, told, counts)?, annotation));
            }
        };
        if matches!(annotation, Annotation::Pair) && completions[0] == completions[1] {
            return Err(Fault::new(Reason::Identical, "the two completions are the same text"));
        }
        let mut context = self.untruncated(prompt, &completions, told, counts)?;
        alike(&context, &annotation, None)?;
        let rules = Rules::new(self, prompt, &context);
        if self.options.scored == ScoredTokens::Edits {
            edits::score(&mut context, self.eos)?;
        }
        teacher::attach(&mut context, teacher, &annotation, self.vocab_size())?;
        let cut = rules.apply(&mut context)?;
        alike(&context, &annotation, truncate::limits(&self.options).as_deref())?;
        counts.add_cut(cut);
        counts.add_context(&context);
        Ok((vec![context], annotation))
    }

    /// One prompt with its completions: each tokenized with the prompt, then what they share taken out.
    pub(crate) fn untruncated(
        &self,
        prompt: &Text,
        completions: &[&Text],
        told: RenderOptions<'_>,
        counts: &mut Counts,
    ) -> Result<Context, Fault> {
        let mut sequences = completions
            .iter()
            .map(|completion| sequence::tokenize(self, prompt, completion, told, counts))
            .collect::<Result<Vec<_>, _>>()?;
        if self.options.boundary == Boundary::CommonPrefix {
            // TRL keeps one prompt for both completions: where the earlier one begins, the other is scored from too.
            let cut = sequences.iter().map(Sequence::cut).min().unwrap_or(0);
            sequences.iter_mut().for_each(|sequence| sequence.scored[cut..].fill(true));
        }
        let mut context = share_prompt(&sequences);
        if context.prompt.is_empty() {
            let bos = self.bos.ok_or_else(|| {
                Fault::new(
                    Reason::NoPromptToken,
                    "the prompt has no token of its own and the tokenizer no beginning-of-sequence token to stand in",
                )
            })?;
            context.prompt = vec![bos];
            context.prompt_scored = vec![false];
            counts.added_bos += completions.len() as u64;
        }
        Ok(context)
    }
}

/// The ratings of completions to rank.
fn ratings(completions: &[(Text, f64)]) -> Result<Vec<f64>, Fault> {
    if completions.len() < 2 {
        return Err(Fault::new(
            Reason::TooFewCompletions,
            format!("{} completion(s), expected at least two to rank", completions.len()),
        ));
    }
    let ratings: Vec<f64> = completions.iter().map(|(_, rating)| *rating).collect();
    match ratings.iter().find(|rating| !rating.is_finite()) {
        Some(rating) => Err(Fault::new(Reason::OutOfRange, format!("a rating of {rating}, expected a finite number"))),
        None => Ok(ratings),
    }
}

/// Completions that are to be told apart, and give the same tokens.
fn alike(context: &Context, annotation: &Annotation, limit: Option<&str>) -> Result<(), Fault> {
    let mut pairs = context.completions.windows(2);
    let same = context.completions.len() > 1
        && pairs.all(|pair| pair[0].ids == pair[1].ids && (limit.is_some() || pair[0].scored == pair[1].scored));
    if !same {
        return Ok(());
    }
    let (reason, detail) = match (annotation, limit) {
        (Annotation::Pair, None) => {
            (Reason::Identical, "the two completions differ as text and give the same tokens".to_owned())
        }
        (Annotation::Pair, Some(limit)) => {
            (Reason::IdenticalAfterTruncation, format!("the completions differ only beyond {limit}"))
        }
        (_, None) => (Reason::AllAlike, "all completions give the same tokens".to_owned()),
        (_, Some(limit)) => (Reason::AllAlike, format!("the completions differ only beyond {limit}")),
    };
    Err(Fault::new(reason, detail))
}

fn no_teacher(teacher: &[Vec<TeacherToken>], annotation: &Annotation) -> Result<(), Fault> {
    teacher::attach(&mut Context::default(), teacher, annotation, 0)
}

/// The prompt all sequences share, token by token; the rest of each prompt stays, unscored, before its completion.
pub(crate) fn share_prompt(sequences: &[Sequence]) -> Context {
    let (first, others) = sequences.split_first().expect("a row has at least one completion");
    let shared =
        others.iter().map(|other| common_prefix(&first.ids, &other.ids).min(other.cut())).fold(first.cut(), usize::min);
    Context {
        prompt: first.ids[..shared].to_vec(),
        prompt_scored: vec![false; shared],
        completions: sequences
            .iter()
            .map(|sequence| Completion {
                ids: sequence.ids[shared..].to_vec(),
                scored: sequence.scored[shared..].to_vec(),
                teacher: Vec::new(),
            })
            .collect(),
    }
}

/// A tokenizer whose offsets cover every character of its text and which neither cuts nor pads.
fn load(bytes: &[u8]) -> Result<(Tokenizer, Option<ByteLevel>), Error> {
    let failed = |message: String| Error::Tokenizer { file: "tokenizer.json".to_owned(), message };
    let mut json: Value = serde_json::from_slice(bytes).map_err(|error| failed(format!("not JSON: {error}")))?;
    if !json.is_object() {
        return Err(failed(
            "expected a JSON object, as the `tokenizers` library writes it; copy the file again".into(),
        ));
    }
    keep_whitespace_in_offsets(&mut json["post_processor"]);
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    let bytes = serde_json::to_vec(&json).map_err(|error| failed(error.to_string()))?;
    let tokenizer = Tokenizer::from_bytes(bytes)
        .map_err(|error| failed(format!("not a tokenizer of the `tokenizers` library: {error}")))?;
    let byte_level = ByteLevel::new(&json, &tokenizer);
    Ok((tokenizer, byte_level))
}

/// Byte-level tokenizers take the space before a word out of its offsets, which would hide on which side of the boundary it lies.
fn keep_whitespace_in_offsets(post_processor: &mut Value) {
    if let Some(trim) = post_processor.get_mut("trim_offsets") {
        *trim = Value::Bool(false);
    }
    if let Some(list) = post_processor.get_mut("processors").and_then(Value::as_array_mut) {
        list.iter_mut().for_each(keep_whitespace_in_offsets);
    }
}
