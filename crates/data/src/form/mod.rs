//! From a JSON object to a [`Record`]: which layouts there are, which columns they have and how they are read.
//!
//! A new layout is a line in the table of `detect`, a variant of [`Form`] and, unless one of the families reads it, a parser:
//! `pair` (the better completion has a column), `two` (two completions and who won), `ranked` and `comparisons` (several),
//! `single` (one).

mod aliases;
mod columns;
mod comparisons;
mod detect;
mod hint;
mod messages;
mod pair;
mod prompt;
mod ranked;
mod single;
mod two;
mod value;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::columns::ColumnPath;
pub(crate) use self::columns::{Columns, column, missing};
pub(crate) use self::detect::{detect, detect_rows};
pub(crate) use self::value::{kind, number_cell};
pub(crate) use self::words::flag_cell;
use crate::error::{Error, Fault, Reason};
use crate::numbers::NumberColumn;
use crate::row::Record;

/// The layout of a data file.
///
/// | form | columns |
/// |---|---|
/// | `trl_pair` | chosen, rejected [, prompt] |
/// | `trl_unpaired` | prompt, completion, label |
/// | `prompt_completion` | prompt, completion |
/// | `hh_pair` | chosen, rejected as transcripts beginning with `\n\nHuman:` |
/// | `ranked` | prompt, completions, ratings; or prompt, best_first |
/// | `judged` | prompt, completion, judgment, positive or score |
/// | `conversation` | messages or conversations that end with the assistant |
/// | `messages_pair` | messages, chosen, rejected |
/// | `messages_unpaired` | messages, label |
/// | `sharegpt_pair` | conversations, chosen, rejected |
/// | `sharegpt_unpaired` | conversations, kto_tag or label |
/// | `alpaca_pair` | instruction, chosen, rejected [, input, system, history] |
/// | `alpaca_unpaired` | instruction, output, kto_tag [, input, system, history] |
/// | `llama_factory_pair` | chosen_messages, rejected_messages |
/// | `ultrafeedback_binarized` | prompt, chosen, rejected as whole conversations [, score_chosen, score_rejected] |
/// | `argilla_pair` | chosen, rejected, chosen_rating, rejected_rating or status [, prompt] |
/// | `orca_pair` | system, question, chosen, rejected |
/// | `stack_exchange_pair` | question, response_j, response_k |
/// | `safe_rlhf` | prompt, response_0, response_1, better_response_id, safer_response_id |
/// | `helpsteer_preferences` | prompt, response_1, response_2, preference_strength |
/// | `helpsteer_ratings` | prompt, response, helpfulness, correctness, … |
/// | `rated` | prompt, completion, scores as an object, or attributes by name |
/// | `votes` | prompt, response_a, response_b, votes or winner or annotator1, annotator2, … |
/// | `arena` | conversation_a, conversation_b, winner; or prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie |
/// | `comparisons` | prompt, responses, comparisons; or prompt, prediction 1, prediction 2, …, preference |
/// | `nectar` | prompt, answers with a rank each |
/// | `ultrafeedback` | instruction, completions with annotations |
/// | `oasst_ranked` | instruction, output as a list, the best first; or prompt, ranked_responses |
/// | `thumbs` | prompt, response, thumbs_up or liked or feedback or rating of 1 and -1 |
///
/// The first layout that fits is taken: a pair before votes, these before rankings, these before single completions. Other
/// names of our columns are known too (`question`, `instruction` or `query` for `prompt`; `response`, `answer` or `output` for
/// `completion`), as are completions and annotators numbered by a common stem (`response_a`, `prediction 1`, `annotator1`).
/// Where two columns could be the same thing and differ, opening the source fails and asks which is meant.
///
/// Each text is a string, or a list of messages `{"role": …, "content": …}` or `{"from": …, "value": …}`, or a string that
/// holds such a list as JSON. Content may be typed parts, of which text, reasoning and tool calls are read. A conversation may
/// be followed by a plain string, which then is the assistant's answer. A column `system` or `history` makes every prompt of
/// the file a conversation; the `input` of an `instruction` follows it on a new line. `tools` (a list, or a string that holds
/// one) and `chat_template_kwargs` go to the record. Labels are booleans, 1 and 0 or −1, or words (yes, unsafe, 👍, …).
/// A row with something in `images`, `videos` or `audios` is set aside: only text can be trained on. A column that is mapped to
/// one of ours is not read for another. Further columns are ignored, but for the numbers ([`NumberColumn`]) and the teacher
/// ([`TeacherColumn`](crate::TeacherColumn)) that a source is asked for.
///
/// Where a form says more than the row, the record has it as numbers:
///
/// | number | of | meaning |
/// |---|---|---|
/// | `preference` | votes, strengths, scores, labels | share of the votes for `chosen`, ties halved; 0.5 for a tie that is kept |
/// | `votes_chosen`, `votes_rejected`, `votes_tied` | votes; strengths of several annotators | how many of each |
/// | `margin` | `helpsteer_preferences`; scored pairs | size of the strength; `score_chosen` − `score_rejected` |
/// | `score_chosen`, `score_rejected` | `ultrafeedback_binarized`, `argilla_pair` | as in the file |
/// | `better`, `safer` | `safe_rlhf` | 1 where the label of that name prefers `chosen`, −1 where `rejected`, 0 where it names neither; of the label that decides 1 |
/// | `safe_chosen`, `safe_rejected` | `safe_rlhf` | 1 for safe, 0 for not |
/// | `severity_chosen`, `severity_rejected` | `safe_rlhf` of 2024 | how severe the harm is, 0 for none |
/// | `reward_chosen`, `reward_rejected`, `cost_chosen`, … | `safe_rlhf` | scores of its responses (`reward_0`, `reward_1`, `cost_0`, …; also `cost_2_0` to `cost_4_1`) |
/// | `harms_chosen`, `harms_rejected` | `safe_rlhf` of 2024 | in how many categories of harm the completion falls |
/// | the attributes, `score` | `helpsteer_ratings`, `rated` | as in the file (1 and 0 for booleans); that of the criterion again as `score` |
///
/// Votes of nothing but 0 and 1 say who won only where the names of the completions count from 0 or from 1, or are places in
/// a list; else opening the source fails and asks, as it does for a judgment's `score` on a scale that ends at 5.
///
/// The rating of a completion is what the file says (in `ultrafeedback` the `overall_score` where all of a row have one, else
/// the mean of the aspects), the negative rank in `nectar`, the place from the end where the best is
/// first, and in `comparisons` the Copeland score: comparisons won and half of the ties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Told from the columns of the first rows.
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
    /// `messages` or `conversations` alone: the assistant's last turns are to be imitated.
    Conversation,
    /// `messages`, `chosen`, `rejected`.
    MessagesPair,
    /// `messages`, `label`: the assistant's last turns are the completion.
    MessagesUnpaired,
    /// `conversations`, `chosen`, `rejected` in ShareGPT's `{"from", "value"}`.
    SharegptPair,
    /// `conversations`, `kto_tag` or `label`.
    SharegptUnpaired,
    /// `instruction`, `chosen`, `rejected`, with `input`, `system`, `history`.
    AlpacaPair,
    /// `instruction`, `output`, `kto_tag`, with `input`, `system`, `history`.
    AlpacaUnpaired,
    /// `chosen_messages`, `rejected_messages` with typed content.
    LlamaFactoryPair,
    /// `prompt` and whole conversations as `chosen`, `rejected`.
    UltrafeedbackBinarized,
    /// Pairs with a rating of each side, or a `status`.
    ArgillaPair,
    /// `system`, `question`, `chosen`, `rejected`.
    OrcaPair,
    /// `question`, `response_j` (better), `response_k`.
    StackExchangePair,
    /// Two responses with the better and the safer one named.
    SafeRlhf,
    /// Two responses with a strength in −3…3.
    HelpsteerPreferences,
    /// One response with `helpfulness` and further attributes.
    HelpsteerRatings,
    /// One response with scores of several attributes.
    Rated,
    /// Two responses with the votes of annotators.
    Votes,
    /// Two conversations or responses with a winner.
    Arena,
    /// Several responses compared two by two.
    Comparisons,
    /// `answers` with ranks, 1 for the best.
    Nectar,
    /// `completions` annotated on several aspects.
    Ultrafeedback,
    /// Responses in a list, the best one first.
    OasstRanked,
    /// One response with a thumb up or down.
    Thumbs,
}

impl Form {
    /// Every form with its name in configurations and the columns it needs.
    pub const ALL: [(Self, &'static str, &'static str); 29] = [
        (Self::TrlPair, "trl_pair", "chosen, rejected [, prompt]"),
        (Self::TrlUnpaired, "trl_unpaired", "prompt, completion, label"),
        (Self::PromptCompletion, "prompt_completion", "prompt, completion"),
        (Self::HhPair, "hh_pair", "chosen, rejected as transcripts beginning with \"\\n\\nHuman:\""),
        (Self::Ranked, "ranked", "prompt, completions, ratings; or prompt, best_first"),
        (Self::Judged, "judged", "prompt, completion, judgment, positive or score"),
        (Self::Conversation, "conversation", "messages or conversations that end with the assistant"),
        (Self::MessagesPair, "messages_pair", "messages, chosen, rejected"),
        (Self::MessagesUnpaired, "messages_unpaired", "messages, label"),
        (Self::SharegptPair, "sharegpt_pair", "conversations, chosen, rejected"),
        (Self::SharegptUnpaired, "sharegpt_unpaired", "conversations, kto_tag or label"),
        (Self::AlpacaPair, "alpaca_pair", "instruction, chosen, rejected [, input, system, history]"),
        (Self::AlpacaUnpaired, "alpaca_unpaired", "instruction, output, kto_tag [, input, system, history]"),
        (Self::LlamaFactoryPair, "llama_factory_pair", "chosen_messages, rejected_messages"),
        (
            Self::UltrafeedbackBinarized,
            "ultrafeedback_binarized",
            "prompt, chosen, rejected as whole conversations [, score_chosen, score_rejected]",
        ),
        (Self::ArgillaPair, "argilla_pair", "chosen, rejected, chosen_rating, rejected_rating or status [, prompt]"),
        (Self::OrcaPair, "orca_pair", "system, question, chosen, rejected"),
        (Self::StackExchangePair, "stack_exchange_pair", "question, response_j, response_k"),
        (Self::SafeRlhf, "safe_rlhf", "prompt, response_0, response_1, better_response_id, safer_response_id"),
        (Self::HelpsteerPreferences, "helpsteer_preferences", "prompt, response_1, response_2, preference_strength"),
        (Self::HelpsteerRatings, "helpsteer_ratings", "prompt, response, helpfulness, correctness, …"),
        (Self::Rated, "rated", "prompt, completion, scores as an object, or attributes by name"),
        (Self::Votes, "votes", "prompt, response_a, response_b, votes or winner or annotator1, annotator2, …"),
        (
            Self::Arena,
            "arena",
            "conversation_a, conversation_b, winner; or prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie",
        ),
        (
            Self::Comparisons,
            "comparisons",
            "prompt, responses, comparisons; or prompt, prediction 1, prediction 2, …, preference",
        ),
        (Self::Nectar, "nectar", "prompt, answers with a rank each"),
        (Self::Ultrafeedback, "ultrafeedback", "instruction, completions with annotations"),
        (
            Self::OasstRanked,
            "oasst_ranked",
            "instruction, output as a list, the best first; or prompt, ranked_responses",
        ),
        (Self::Thumbs, "thumbs", "prompt, response, thumbs_up or liked or feedback or rating of 1 and -1"),
    ];

    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(form, ..)| *form == self).map_or("auto", |(_, name, _)| *name)
    }
}

/// What becomes of two completions that were found even: as many votes, equal scores, a verdict of a tie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// They are set aside as [`Reason::Tied`].
    #[default]
    Drop,
    /// They stay as pairs whose first completion counts as chosen.
    Keep,
    /// The same, for objectives that read the number `preference`, which is 0.5; it has to be asked for.
    Soft,
}

/// How the rows of one file are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) form: Form,
    pub(crate) columns: Columns,
    pub(crate) criterion: Option<String>,
    pub(crate) ties: Ties,
    /// How votes count, told from the first rows; until then each row says it.
    counting: Option<words::Counting>,
}

impl Reading {
    /// What the options say, before a row is seen.
    pub(crate) fn new(
        form: Form,
        columns: Columns,
        criterion: Option<String>,
        ties: Ties,
        numbers: &[NumberColumn],
    ) -> Result<Self, Error> {
        if ties == Ties::Soft && !numbers.iter().any(|number| number.name == "preference") {
            return Err(Error::Option {
                name: "ties",
                got: "\"soft\" without the number `preference` asked for".to_owned(),
                expected: "an objective that reads the number `preference`, or ties = \"drop\" or \"keep\"",
            });
        }
        Ok(Self { form, columns, criterion, ties, counting: None })
    }

    /// The same, with something else becoming of ties.
    pub(crate) fn with_ties(&self, ties: Ties) -> Self {
        Self { ties, ..self.clone() }
    }

    /// Whether a pair of `safe_rlhf` with these numbers stands in the order of its label of safety.
    pub(crate) fn decides_by_safety(&self, numbers: &BTreeMap<String, f64>) -> bool {
        match self.criterion.as_deref() {
            Some(criterion) => criterion == "safer",
            None => !numbers.contains_key("better"),
        }
    }

    /// The same with form and columns told from the first rows of a file; `unknown` puts what no form is told of in its place.
    pub(crate) fn told_by(
        self,
        rows: &[Map<String, Value>],
        file: &str,
        unknown: impl FnOnce((String, String, String)) -> Error,
    ) -> Result<Self, Error> {
        let told = match self.form {
            Form::Auto => detect_rows(rows, &self.columns),
            form => Ok(form),
        };
        let form = match told {
            Ok(form) => form,
            Err(told) => return Err(unknown(told)),
        };
        let union = detect::union(rows);
        let columns = self.columns.resolved(&union);
        columns.check_given(rows, &union)?;
        let mut reading = Self { form, columns, ..self };
        reading.check_criterion(rows, file)?;
        match reading.settle(rows) {
            Ok(()) => Ok(reading),
            Err(asked) => Err(unknown((value::found(&union), asked, String::new()))),
        }
    }

    /// What numbers mean in the rows of a file; else what is asked.
    fn settle(&mut self, rows: &[Map<String, Value>]) -> Result<(), String> {
        match self.form {
            Form::Votes | Form::Arena if !rows.is_empty() => {
                self.counting = Some(two::counting(rows, &self.columns)?);
                Ok(())
            }
            Form::Judged => single::check_scale(rows, &self.columns),
            _ => Ok(()),
        }
    }

    fn check_criterion(&self, rows: &[Map<String, Value>], file: &str) -> Result<(), Error> {
        let Some(criterion) = &self.criterion else { return Ok(()) };
        let object = detect::union(rows);
        let view = columns::View { object: &object, columns: &self.columns };
        let known: Vec<String> = match self.form {
            Form::SafeRlhf => two::LABELS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            Form::HelpsteerRatings | Form::Rated => single::attribute_names(view),
            Form::Ultrafeedback => ranked::criteria(view),
            _ => Vec::new(),
        };
        if known.contains(criterion) {
            return Ok(());
        }
        let expected = if known.is_empty() {
            format!("rows of the form {} have nothing to choose from; leave it out", self.form.name())
        } else {
            format!("the rows have {}", known.join(", "))
        };
        Err(Error::Criterion { file: file.to_owned(), criterion: criterion.clone(), expected })
    }
}

/// Reads one object as a row of a form.
pub(crate) fn parse(reading: &Reading, object: &Map<String, Value>) -> Result<Record, Fault> {
    let view = columns::View { object, columns: &reading.columns };
    if let Some(layout) = detect::layout(reading.form) {
        return (layout.read)(view, reading);
    }
    let form = detect(object, &reading.columns).map_err(|(found, expected, hint)| {
        Fault::new(Reason::MissingColumn, format!("found the columns {found}; {expected}{hint}"))
    })?;
    parse(&Reading { form, columns: reading.columns.resolved(object), ..reading.clone() }, object)
}
