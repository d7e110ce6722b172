//! One prompt and one completion as token ids, and which of them are scored.
//!
//! Prompt `"Once"` and completion `" upon"` under [`Boundary::Offsets`]: the text `"Once upon"` is tokenized once, and the
//! tokens that reach past byte 4 belong to the completion.

use std::ops::Range;

use crate::byte_level::Tokens;
use crate::encode::{Boundary, Encoder, EndOfSequence};
use crate::error::{Fault, Reason};
use crate::report::Counts;
use crate::row::{Message, Text};
use crate::split::common_prefix;
use crate::template::ChatTemplate;

/// Ids of a prompt and its completion.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) ids: Vec<u32>,
    pub(crate) scored: Vec<bool>,
}

impl Sequence {
    /// Tokens before the first scored one: there is always one.
    pub(crate) fn cut(&self) -> usize {
        self.scored.iter().position(|scored| *scored).unwrap_or(self.ids.len())
    }
}

pub(crate) fn tokenize(
    encoder: &Encoder,
    prompt: &Text,
    completion: &Text,
    counts: &mut Counts,
) -> Result<Sequence, Fault> {
    let sequence = match (prompt, completion) {
        (Text::Plain(prompt), Text::Plain(completion)) => plain(encoder, prompt, completion, counts)?,
        (Text::Chat(prompt), Text::Chat(completion)) => chat(encoder, prompt, completion, counts)?,
        _ => {
            return Err(Fault::new(
                Reason::WrongType,
                "the prompt is a string and the completion a conversation, or the other way round; expected both alike",
            ));
        }
    };
    if sequence.cut() == sequence.ids.len() {
        return Err(Fault::new(Reason::EmptyCompletion, "the completion gives no token of its own"));
    }
    Ok(sequence)
}

pub(crate) fn prompt_alone(encoder: &Encoder, prompt: &Text) -> Result<Vec<u32>, Fault> {
    let mut ids = match prompt {
        Text::Plain(prompt) => {
            let encoding = run(encoder, prompt, true)?;
            let mut ids = encoding.get_ids().to_vec();
            if encoder.eos.is_some()
                && ids.len() > 1
                && ids.last() == encoder.eos.as_ref()
                && ends_in_special(&encoding)
            {
                ids.pop();
            }
            one_bos(encoder, &mut ids);
            ids
        }
        Text::Chat(messages) => {
            let messages: Vec<&Message> = messages.iter().collect();
            let text = render(template(encoder)?, &messages, true)?;
            run(encoder, &text, false)?.get_ids().to_vec()
        }
    };
    if ids.is_empty() {
        ids.extend(encoder.bos);
    }
    if ids.is_empty() {
        return Err(Fault::new(
            Reason::NoPromptToken,
            "the prompt gives no token, and the tokenizer has no beginning-of-sequence token",
        ));
    }
    Ok(ids)
}

fn plain(encoder: &Encoder, prompt: &str, completion: &str, counts: &mut Counts) -> Result<Sequence, Fault> {
    if completion.trim().is_empty() {
        return Err(Fault::new(Reason::EmptyCompletion, format!("the completion is {completion:?}")));
    }
    let whole = run(encoder, &format!("{prompt}{completion}"), true)?;
    let mut ids = whole.get_ids().to_vec();
    let mut cut = match encoder.options.boundary {
        Boundary::Offsets => cut_by_offsets(&whole, prompt.len(), counts),
        Boundary::CommonPrefix => {
            let alone = run(encoder, prompt, true)?;
            cut_by_prefix(&alone, &whole, counts)
        }
    };
    match one_bos(encoder, &mut ids) {
        Bos::AsItWas => {}
        Bos::Added => cut += 1,
        Bos::Removed => {
            counts.doubled_bos += 1;
            cut = cut.saturating_sub(1);
        }
    }
    let mut scored: Vec<bool> = (0..ids.len()).map(|index| index >= cut).collect();
    if let (EndOfSequence::Append, Some(eos)) = (encoder.options.end_of_sequence, encoder.eos)
        && cut < ids.len()
    {
        if ids.last() != Some(&eos) {
            ids.push(eos);
            counts.added_eos += 1;
        }
        // A text that ends with it, and a tokenizer that adds another.
        while ids[cut..].ends_with(&[eos, eos]) {
            ids.pop();
        }
        scored.resize(ids.len(), true);
    }
    Ok(Sequence { ids, scored })
}

fn chat(encoder: &Encoder, prompt: &[Message], completion: &[Message], counts: &mut Counts) -> Result<Sequence, Fault> {
    if completion.iter().all(|message| message.content.trim().is_empty() && message.extra.is_empty()) {
        return Err(Fault::new(Reason::EmptyCompletion, "no message of the completion has content"));
    }
    let template = template(encoder)?;
    let (text, turns) = scored_turns(template, prompt, completion)?;
    let whole = run(encoder, &text, false)?;
    let start = turns.first().map_or(text.len(), |turn| turn.start);
    let scored = match encoder.options.boundary {
        Boundary::Offsets => {
            cut_by_offsets(&whole, start, counts);
            let in_turn =
                |&(from, to): &(usize, usize)| turns.iter().any(|turn| to > turn.start && to <= turn.end && from < to);
            whole.get_offsets().iter().map(in_turn).collect()
        }
        Boundary::CommonPrefix => {
            let prompt: Vec<&Message> = prompt.iter().collect();
            let alone = run(encoder, &render(template, &prompt, true)?, false)?;
            let cut = cut_by_prefix(&alone, &whole, counts);
            (0..whole.len()).map(|index| index >= cut).collect()
        }
    };
    Ok(Sequence { ids: whole.get_ids().to_vec(), scored })
}

/// The text of a conversation, and the byte ranges of the assistant's turns in its completion.
fn scored_turns(
    template: &ChatTemplate,
    prompt: &[Message],
    completion: &[Message],
) -> Result<(String, Vec<Range<usize>>), Fault> {
    const ASSISTANT: &str = "assistant";
    let messages: Vec<&Message> = prompt.iter().chain(completion).collect();
    let text = render(template, &messages, false)?;
    let mut turns = Vec::new();
    for (index, message) in completion.iter().enumerate() {
        if message.role != ASSISTANT {
            continue;
        }
        let before = render(template, &messages[..prompt.len() + index], true)?;
        if !text.starts_with(&before) {
            let same = common_prefix(before.as_bytes(), text.as_bytes());
            return Err(Fault::new(
                Reason::PromptRewritten,
                format!(
                    "the prompt alone is rendered as {}, with its completion as {}; they part after {same} bytes",
                    shown_around(&before, same),
                    shown_around(&text, same)
                ),
            ));
        }
        let is_last = index + 1 == completion.len();
        let end = if is_last {
            text.len()
        } else {
            let after = render(template, &messages[..=prompt.len() + index], false)?;
            common_prefix(after.as_bytes(), text.as_bytes())
        };
        if end > before.len() {
            turns.push(before.len()..end);
        }
    }
    if turns.is_empty() {
        return Err(Fault::new(
            Reason::NoAssistantTurn,
            format!("the completion has no message of role {ASSISTANT:?}, or the template leaves it out"),
        ));
    }
    Ok((text, turns))
}

/// The text around a byte, for messages.
fn shown_around(text: &str, at: usize) -> String {
    const AROUND: usize = 40;
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{:?}", &text[floor(at.saturating_sub(AROUND))..floor(at + AROUND)])
}

/// The first token that reaches past a byte of the text; template tokens around it keep their places.
fn cut_by_offsets(encoding: &Tokens, boundary: usize, counts: &mut Counts) -> usize {
    let special = encoding.get_special_tokens_mask();
    let offsets = encoding.get_offsets();
    let cut = (0..encoding.len())
        .find(|&index| special[index] == 0 && (offsets[index].1 > boundary || boundary == 0))
        .unwrap_or(encoding.len());
    if offsets.get(cut).is_some_and(|offset| offset.0 < boundary) {
        counts.straddles += 1;
    }
    cut
}

/// Where the tokens of the prompt alone and with its completion part.
fn cut_by_prefix(alone: &Tokens, whole: &Tokens, counts: &mut Counts) -> usize {
    let cut = common_prefix(alone.get_ids(), whole.get_ids());
    let special = alone.get_special_tokens_mask();
    let own = (0..alone.len()).rev().find(|&index| special[index] == 0).map_or(0, |last| last + 1);
    if cut < own {
        counts.straddles += 1;
    }
    cut
}

/// What was done about the token a sequence begins with.
enum Bos {
    AsItWas,
    Added,
    Removed,
}

/// Exactly one beginning-of-sequence token, where the tokenizer has one to add.
fn one_bos(encoder: &Encoder, ids: &mut Vec<u32>) -> Bos {
    let Some(bos) = encoder.bos else {
        return Bos::AsItWas;
    };
    if ids.starts_with(&[bos, bos]) {
        ids.remove(0);
        Bos::Removed
    } else if encoder.add_bos && ids.first() != Some(&bos) {
        ids.insert(0, bos);
        Bos::Added
    } else {
        Bos::AsItWas
    }
}

fn ends_in_special(encoding: &Tokens) -> bool {
    encoding.get_special_tokens_mask().last() == Some(&1)
}

fn template(encoder: &Encoder) -> Result<&ChatTemplate, Fault> {
    encoder.template.as_ref().ok_or_else(|| {
        Fault::new(Reason::NoChatTemplate, "the row is a conversation and the tokenizer has no chat template")
    })
}

fn render(template: &ChatTemplate, messages: &[&Message], add_generation_prompt: bool) -> Result<String, Fault> {
    template.render(messages, add_generation_prompt).map_err(|message| Fault::new(Reason::TemplateFailed, message))
}

fn run(encoder: &Encoder, text: &str, add_special_tokens: bool) -> Result<Tokens, Fault> {
    if let Some(tokens) = encoder.byte_level.as_ref().and_then(|own| own.tokens(text, add_special_tokens)) {
        return Ok(tokens);
    }
    encoder
        .tokenizer
        .encode(text, add_special_tokens)
        .map(Tokens::from)
        .map_err(|error| Fault::new(Reason::TokenizerFailed, error.to_string()))
}
