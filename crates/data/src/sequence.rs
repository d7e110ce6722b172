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
use crate::template::{Ending, RenderOptions};

/// The role whose turns are scored.
const ASSISTANT: &str = "assistant";

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
    told: RenderOptions<'_>,
    counts: &mut Counts,
) -> Result<Sequence, Fault> {
    let sequence = match (prompt, completion) {
        (Text::Plain(prompt), Text::Plain(completion)) => plain(encoder, prompt, completion, counts)?,
        (Text::Chat(prompt), Text::Chat(completion)) => chat(encoder, prompt, completion, told, counts)?,
        (Text::Chat(prompt), Text::Plain(completion)) => {
            chat(encoder, prompt, &[Message::new(ASSISTANT, completion)], told, counts)?
        }
        (Text::Plain(_), Text::Chat(_)) => {
            return Err(Fault::new(
                Reason::WrongType,
                "the prompt is a string and the completion a conversation; expected both alike",
            ));
        }
    };
    if sequence.cut() == sequence.ids.len() {
        return Err(Fault::new(Reason::EmptyCompletion, "the completion gives no token of its own"));
    }
    Ok(sequence)
}

pub(crate) fn prompt_alone(encoder: &Encoder, prompt: &Text, told: RenderOptions<'_>) -> Result<Vec<u32>, Fault> {
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
            let ending = if continues(encoder, messages) { Ending::Continued } else { Ending::Generation };
            let messages: Vec<&Message> = messages.iter().collect();
            let text = render(encoder, &messages, told.ending(ending))?;
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

fn chat(
    encoder: &Encoder,
    prompt: &[Message],
    completion: &[Message],
    told: RenderOptions<'_>,
    counts: &mut Counts,
) -> Result<Sequence, Fault> {
    if completion.iter().all(crate::check::is_silent) {
        return Err(Fault::new(Reason::EmptyCompletion, "no message of the completion has content"));
    }
    let (whole, scored) = match encoder.options.boundary {
        Boundary::Offsets => {
            let (text, turns) = scored_turns(encoder, prompt, completion, told)?;
            let whole = run(encoder, &text, false)?;
            cut_by_offsets(&whole, turns.first().map_or(text.len(), |turn| turn.start), counts);
            let in_turn =
                |&(from, to): &(usize, usize)| turns.iter().any(|turn| to > turn.start && to <= turn.end && from < to);
            let scored: Vec<bool> = whole.get_offsets().iter().map(in_turn).collect();
            (whole, scored)
        }
        // Where the template writes the prompt otherwise once an answer follows, the completion begins where it does.
        Boundary::CommonPrefix => {
            if completion.iter().all(|message| message.role != ASSISTANT) {
                return Err(no_turn());
            }
            let messages: Vec<&Message> = prompt.iter().chain(completion).collect();
            let whole = run(encoder, &render(encoder, &messages, told.ending(Ending::Closed))?, false)?;
            let prompt: Vec<&Message> = prompt.iter().collect();
            let alone = run(encoder, &render(encoder, &prompt, told.ending(Ending::Generation))?, false)?;
            let cut = cut_by_prefix(&alone, &whole, counts);
            let scored = (0..whole.len()).map(|index| index >= cut).collect();
            (whole, scored)
        }
    };
    Ok(Sequence { ids: whole.get_ids().to_vec(), scored })
}

/// Whether a completion goes on inside the last message of its prompt.
fn continues(encoder: &Encoder, prompt: &[Message]) -> bool {
    encoder.options.boundary == Boundary::Offsets && prompt.last().is_some_and(|last| last.role == ASSISTANT)
}

/// The last message of a prompt and the first of its completion as one.
fn joined(begun: &Message, rest: &Message) -> Message {
    let mut whole = begun.clone();
    whole.content.push_str(&rest.content);
    whole.extra.extend(rest.extra.clone());
    whole
}

/// The text of a conversation, and the byte ranges of the assistant's turns in its completion.
fn scored_turns(
    encoder: &Encoder,
    prompt: &[Message],
    completion: &[Message],
    told: RenderOptions<'_>,
) -> Result<(String, Vec<Range<usize>>), Fault> {
    let continued = match (prompt.split_last(), completion.split_first()) {
        (Some((begun, before)), Some((first, after))) if continues(encoder, prompt) && first.role == ASSISTANT => {
            Some((before, begun, joined(begun, first), after))
        }
        _ => None,
    };
    let (messages, first): (Vec<&Message>, usize) = match &continued {
        Some((before, _, whole, after)) => (before.iter().chain([whole]).chain(*after).collect(), before.len()),
        None => (prompt.iter().chain(completion).collect(), prompt.len()),
    };
    let text = render(encoder, &messages, told.ending(Ending::Closed))?;
    let mut turns = Vec::new();
    for (index, message) in messages.iter().enumerate().skip(first) {
        if message.role != ASSISTANT {
            continue;
        }
        let before = match &continued {
            Some((_, begun, ..)) if index == first => {
                let begun: Vec<&Message> = messages[..index].iter().copied().chain([*begun]).collect();
                render(encoder, &begun, told.ending(Ending::Continued))?
            }
            _ => render(encoder, &messages[..index], told.ending(Ending::Generation))?,
        };
        if !text.starts_with(&before) {
            return Err(rewritten("the prompt alone", &before, "with its completion", &text));
        }
        let end = if index + 1 == messages.len() {
            text.len()
        } else {
            end_of_turn(encoder, &messages[..=index], &text, told)?
        };
        if end > before.len() {
            turns.push(before.len()..end);
        }
    }
    if turns.is_empty() {
        return Err(no_turn());
    }
    Ok((text, turns))
}

/// Where the last of these messages ends in the text of the whole conversation, in which others follow it.
fn end_of_turn(encoder: &Encoder, messages: &[&Message], text: &str, told: RenderOptions<'_>) -> Result<usize, Fault> {
    let closed = render(encoder, messages, told.ending(Ending::Closed))?;
    // Some templates end the whole conversation with a token of its own, which is not part of the turn: it is not there when
    // another turn follows.
    let open = render(encoder, messages, told.ending(Ending::Generation))?;
    let own = common_prefix(closed.as_bytes(), open.as_bytes());
    let same = common_prefix(closed.as_bytes(), text.as_bytes());
    // Markers of what follows may begin alike, as `<|user|>` and `<|endoftext|>` do.
    const MARKER: usize = 24;
    if same + MARKER < own {
        return Err(rewritten("a turn of the completion", &closed, "with the turns after it", text));
    }
    Ok(same.min(own))
}

fn no_turn() -> Fault {
    let detail = format!("the completion has no message of role {ASSISTANT:?}, or the template leaves it out");
    Fault::new(Reason::NoAssistantTurn, detail)
}

fn rewritten(what: &str, before: &str, with: &str, after: &str) -> Fault {
    let same = common_prefix(before.as_bytes(), after.as_bytes());
    Fault::new(
        Reason::PromptRewritten,
        format!(
            "{what} is rendered as {}, {with} as {}; they part after {same} bytes; boundary = \"common_prefix\" \
             scores what comes after that, as TRL does",
            shown_around(before, same),
            shown_around(after, same)
        ),
    )
}

/// The text around a byte, for messages.
fn shown_around(text: &str, at: usize) -> String {
    const AROUND: usize = 40;
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{:?}", &text[floor(at.saturating_sub(AROUND))..floor(at + AROUND)])
}

/// The first token that reaches past a byte of the text; template tokens around it keep their places.
pub(crate) fn cut_by_offsets(encoding: &Tokens, boundary: usize, counts: &mut Counts) -> usize {
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
pub(crate) enum Bos {
    AsItWas,
    Added,
    Removed,
}

/// Exactly one beginning-of-sequence token, where the tokenizer has one to add.
pub(crate) fn one_bos(encoder: &Encoder, ids: &mut Vec<u32>) -> Bos {
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

pub(crate) fn ends_in_special(encoding: &Tokens) -> bool {
    encoding.get_special_tokens_mask().last() == Some(&1)
}

pub(crate) fn render(encoder: &Encoder, messages: &[&Message], options: RenderOptions<'_>) -> Result<String, Fault> {
    let templates = encoder.templates.as_ref().ok_or_else(|| {
        Fault::new(Reason::NoChatTemplate, "the row is a conversation and the tokenizer has no chat template")
    })?;
    templates.render(messages, options).map_err(|message| Fault::new(Reason::TemplateFailed, message))
}

pub(crate) fn run(encoder: &Encoder, text: &str, add_special_tokens: bool) -> Result<Tokens, Fault> {
    if let Some(tokens) = encoder.byte_level.as_ref().and_then(|own| own.tokens(text, add_special_tokens)) {
        return Ok(tokens);
    }
    encoder
        .tokenizer
        .encode(text, add_special_tokens)
        .map(Tokens::from)
        .map_err(|error| Fault::new(Reason::TokenizerFailed, error.to_string()))
}
