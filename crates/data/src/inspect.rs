//! An example token by token: which text each stands for, and whether it is scored.
//!
//! Tokens that hold parts of one character only give their text together: `é` as the two tokens `Ã` `©` of a byte-level
//! vocabulary is one [`Span`] of two ids.

use crate::encode::Encoder;
use crate::row::{Annotation, Completion, Example};

/// A character has at most four bytes, each at most one token; some more for composed ones.
const MOST_TOKENS: usize = 8;

/// What the tokens of a span are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// Given.
    Prompt,
    /// Of a completion, and scored.
    Scored,
    /// Of a completion, and not scored.
    Unscored,
}

/// How the text of a span is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanText {
    /// Text as the model reads and writes it.
    Plain,
    /// A special token by its name.
    Special,
    /// Entries of the vocabulary as they are spelt there, since the tokens give no whole character.
    Pieces,
}

/// Tokens that give their text together: mostly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Their ids, at least one.
    pub ids: Vec<u32>,
    /// What they stand for.
    pub text: String,
    /// What they are for.
    pub kind: SpanKind,
    /// How the text is to be read.
    pub reading: SpanText,
}

/// A prompt or a completion in spans. The texts of a prompt's spans and a completion's, one after the other, are what
/// [`Encoder::decode`] gives for all their ids, as long as no character is split between kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanPart {
    /// `prompt`, `prompt with judgment`, `chosen`, `rejected`, `completion`, `completion rated 3`.
    pub name: String,
    /// Whether this is a prompt.
    pub is_prompt: bool,
    /// Its spans in order.
    pub spans: Vec<Span>,
}

impl SpanPart {
    /// How many tokens it has.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.ids.len()).sum()
    }

    /// How many of them are scored.
    #[must_use]
    pub fn scored_tokens(&self) -> usize {
        self.spans.iter().filter(|span| span.kind == SpanKind::Scored).map(|span| span.ids.len()).sum()
    }
}

/// An example in parts: each prompt, followed by its completions.
#[must_use]
pub fn spans(example: &Example, encoder: &Encoder) -> Vec<SpanPart> {
    let mut parts = Vec::new();
    for (place, context) in example.contexts.iter().enumerate() {
        let judged = place > 0 && matches!(example.annotation, Annotation::Judged { .. });
        let name = if judged { "prompt with judgment" } else { "prompt" };
        let kinds =
            context.prompt_scored.iter().map(|scored| if *scored { SpanKind::Scored } else { SpanKind::Prompt });
        let spans = split(encoder, &[], &context.prompt, &kinds.collect::<Vec<_>>());
        parts.push(SpanPart { name: name.to_owned(), is_prompt: true, spans });
        for (index, completion) in context.completions.iter().enumerate() {
            let spans = split(encoder, &context.prompt, &completion.ids, &kinds_of(completion));
            parts.push(SpanPart { name: completion_name(&example.annotation, index), is_prompt: false, spans });
        }
    }
    parts
}

fn kinds_of(completion: &Completion) -> Vec<SpanKind> {
    let kind = |scored: &bool| if *scored { SpanKind::Scored } else { SpanKind::Unscored };
    completion.scored.iter().map(kind).collect()
}

/// What the completion at a place is called.
pub(crate) fn completion_name(annotation: &Annotation, index: usize) -> String {
    match (annotation, index) {
        (Annotation::Pair, 0) => "chosen".to_owned(),
        (Annotation::Pair, _) => "rejected".to_owned(),
        (Annotation::Ranked { ratings }, _) => match ratings.get(index) {
            Some(rating) => format!("completion rated {rating}"),
            None => "completion".to_owned(),
        },
        _ => "completion".to_owned(),
    }
}

/// Spans of ids that follow others. Each is decoded behind what stands before it, since many decoders drop the space that a
/// text begins with.
fn split(encoder: &Encoder, before: &[u32], ids: &[u32], kinds: &[SpanKind]) -> Vec<Span> {
    let all = [before, ids].concat();
    let mut window = before.len().saturating_sub(MOST_TOKENS);
    let mut at = before.len();
    let mut spans = Vec::new();
    while let Some(&kind) = kinds.get(at - before.len()) {
        let span = match special(encoder, all[at]) {
            Some(text) => Span { ids: vec![all[at]], text, kind, reading: SpanText::Special },
            None => {
                let same = kinds[at - before.len()..].iter().take_while(|other| **other == kind).count();
                plain(encoder, &all[window..at], &all[at..at + same.min(MOST_TOKENS)], kind)
            }
        };
        // A window of one span is enough, and what is no whole character stays in it until one is there.
        if span.reading != SpanText::Pieces || at - window > MOST_TOKENS {
            window = at;
        }
        at += span.ids.len();
        spans.push(span);
    }
    spans
}

/// The fewest of these tokens that give whole characters; the first alone, as the vocabulary spells it, if none do.
fn plain(encoder: &Encoder, before: &[u32], ids: &[u32], kind: SpanKind) -> Span {
    const INCOMPLETE: char = '\u{fffd}';
    let so_far = encoder.decode(before);
    for count in 1..=ids.len() {
        let with = encoder.decode(&[before, &ids[..count]].concat());
        if let Some(text) = with.strip_prefix(so_far.as_str()).filter(|text| !text.ends_with(INCOMPLETE)) {
            return Span { ids: ids[..count].to_vec(), text: text.to_owned(), kind, reading: SpanText::Plain };
        }
        if count < ids.len() && special(encoder, ids[count]).is_some() {
            break;
        }
    }
    let piece = encoder.tokenizer.id_to_token(ids[0]).unwrap_or_else(|| format!("<{}>", ids[0]));
    Span { ids: vec![ids[0]], text: piece, kind, reading: SpanText::Pieces }
}

/// The name of a special token.
fn special(encoder: &Encoder, id: u32) -> Option<String> {
    let token = encoder.tokenizer.id_to_token(id)?;
    encoder.tokenizer.get_added_vocabulary().is_special_token(&token).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::encode::EncodeOptions;
    use crate::row::{Context, Origin, Record, Row, Text};
    use crate::tokens::TokenizerFiles;

    /// Every byte a token, as GPT-2 spells them, without merges; and two special ones.
    fn bytes() -> Encoder {
        let alphabet = tokenizers_alphabet();
        let vocab: BTreeMap<String, u32> =
            alphabet.iter().enumerate().map(|(id, letter)| (letter.to_string(), id as u32)).collect();
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [special(256, "<s>"), special(257, "</s>")],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        let tokenizer = tokenizer.to_string();
        let files = TokenizerFiles {
            tokenizer: tokenizer.as_bytes(),
            tokenizer_config: Some(br#"{"eos_token": "</s>", "bos_token": "<s>"}"#),
            ..TokenizerFiles::default()
        };
        Encoder::from_files(&files, EncodeOptions::default()).unwrap()
    }

    /// GPT-2's letter of every byte, in the order of bytes.
    fn tokenizers_alphabet() -> Vec<char> {
        let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        let letter = |byte: u32| {
            let code = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap()
        };
        (0..256).map(letter).collect()
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> Record {
        let text = |text: &str| Text::Plain(text.to_owned());
        Row::Pair { prompt: text(prompt), chosen: text(chosen), rejected: text(rejected) }.into()
    }

    #[test]
    fn texts_add_up_and_characters_stay_whole() {
        let encoder = bytes();
        let record = pair("Où est 猫 🙂?", " ici — là", " 北京🙂 x");
        let example = encoder.encode_record(&record, &Origin::memory(1)).unwrap();
        let parts = spans(&example, &encoder);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["prompt", "chosen", "rejected"]);
        let text = |part: &SpanPart| part.spans.iter().map(|span| span.text.as_str()).collect::<String>();
        assert_eq!(text(&parts[0]) + &text(&parts[1]), "Où est 猫 🙂? ici — là</s>");
        assert_eq!(text(&parts[0]) + &text(&parts[2]), "Où est 猫 🙂? 北京🙂 x</s>");
        let cat = parts[0].spans.iter().find(|span| span.text == "猫").unwrap();
        assert_eq!((cat.ids.as_slice(), cat.kind), (&[0xe7, 0x8c, 0xab][..], SpanKind::Prompt));
        assert!(
            parts.iter().flat_map(|part| &part.spans).all(|span| span.text.chars().count() == 1 || span.text == "</s>")
        );
        let end = parts[1].spans.last().unwrap();
        assert_eq!((end.reading, end.kind, end.ids.as_slice()), (SpanText::Special, SpanKind::Scored, &[257][..]));
        assert_eq!(parts[1].tokens(), example.contexts[0].completions[0].ids.len());
        assert_eq!(parts[1].scored_tokens(), parts[1].tokens());
    }

    #[test]
    fn half_a_character_is_spelt_as_the_vocabulary_has_it() {
        let encoder = bytes();
        // `é` is c3 a9: one byte given, the other to be answered; and a text that was cut in the middle of one.
        let completion = Completion { ids: vec![0xa9, 0x41, 0xe7], scored: vec![true; 3], teacher: Vec::new() };
        let context =
            Context { prompt: vec![0x61, 0xc3], prompt_scored: vec![false; 2], completions: vec![completion] };
        let example = Example::new(Origin::memory(1), vec![context], Annotation::Demonstration);
        let parts = spans(&example, &encoder);
        let shown =
            |part: &SpanPart| part.spans.iter().map(|span| (span.text.clone(), span.reading)).collect::<Vec<_>>();
        let plain = |text: &str| (text.to_owned(), SpanText::Plain);
        let piece = |text: &str| (text.to_owned(), SpanText::Pieces);
        assert_eq!(shown(&parts[0]), [plain("a"), piece("Ã")]);
        assert_eq!(shown(&parts[1]), [piece("©"), plain("A"), piece("ç")]);
    }

    #[test]
    fn kinds_follow_the_mask() {
        let encoder = bytes();
        let completion =
            Completion { ids: vec![0x61, 0x62, 0x63], scored: vec![true, false, true], teacher: Vec::new() };
        let context = Context { prompt: vec![256], prompt_scored: vec![false], completions: vec![completion] };
        let example = Example::new(Origin::memory(1), vec![context], Annotation::Ranked { ratings: vec![3.0] });
        let parts = spans(&example, &encoder);
        assert_eq!(parts[1].name, "completion rated 3");
        let kinds: Vec<SpanKind> = parts[1].spans.iter().map(|span| span.kind).collect();
        assert_eq!(kinds, [SpanKind::Scored, SpanKind::Unscored, SpanKind::Scored]);
        assert_eq!((parts[0].spans[0].text.as_str(), parts[0].spans[0].reading), ("<s>", SpanText::Special));
    }
}
