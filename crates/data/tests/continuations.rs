//! A prompt and what may follow it: which tokens are scored.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candlewick_data::{Context, EncodeOptions, Encoder, EndOfSequence, Message, Origin, Text, TokenizerFiles};
use common::{BOS, EOS, SMALL, Small, encoder};

fn asked(encoder: &Encoder, prompt: &Text, texts: &[&str]) -> Result<Context, String> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    encoder.encode_continuations(prompt, &texts, &Origin::memory(1)).map_err(|rejection| rejection.to_string())
}

/// What is scored of each continuation, as text.
fn scored(encoder: &Encoder, prompt: &str, texts: &[&str]) -> Vec<String> {
    let context = asked(encoder, &Text::Plain(prompt.to_owned()), texts).expect("tokens");
    assert!(context.prompt_scored.iter().all(|scored| !scored));
    let of = |completion: &candlewick_data::Completion| {
        let ids: Vec<u32> =
            completion.ids.iter().zip(&completion.scored).filter(|(_, scored)| **scored).map(|(id, _)| *id).collect();
        encoder.decode(&ids)
    };
    context.completions.iter().map(of).collect()
}

#[test]
fn every_token_with_a_character_of_the_continuation_is_scored() {
    let encoder = encoder(SMALL, EncodeOptions::default());
    // Nothing is appended, and each choice has its own tokens, whatever they share.
    assert_eq!(scored(&encoder, "ab", &[" cd", " ce", " c"]), [" cd", " ce", " c"]);
    // `lo` lies across the boundary.
    assert_eq!(scored(&encoder, "al", &["ok", "k"]), ["lok", "k"]);
    // The same twice, and one alone: nothing is to be told apart.
    assert_eq!(scored(&encoder, "a", &[" b", " b"]), [" b", " b"]);
    assert_eq!(scored(&encoder, "a", &[" b"]), [" b"]);
}

#[test]
fn white_space_at_the_end_of_a_prompt_goes_with_the_continuation() {
    let encoder = encoder(SMALL, EncodeOptions::default());
    assert_eq!(scored(&encoder, "ab ", &["cd"]), scored(&encoder, "ab", &[" cd"]));
    assert_eq!(scored(&encoder, "ab\n\n", &["cd"]), ["\n\ncd"]);
}

#[test]
fn an_empty_prompt_is_the_first_token_of_a_text() {
    let context = |small: Small| {
        let encoder =
            encoder(small, EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() });
        asked(&encoder, &Text::Plain(String::new()), &["ab", "ac"]).expect("tokens")
    };
    assert_eq!(context(SMALL).prompt[0], BOS);
    // A tokenizer that ends every text: its end is no part of a continuation.
    let ended = context(Small { eos: true, ..SMALL });
    assert!(ended.completions.iter().all(|completion| !completion.ids.contains(&EOS)));
    // Even without a token that the tokenizer puts there.
    let bare = context(Small { bos: false, prepend: false, ..SMALL });
    assert_eq!(bare.prompt[0], BOS);
    assert_eq!(bare.completions[0].ids.len() + bare.prompt.len(), 3);
}

#[test]
fn a_conversation_is_continued_where_the_answer_begins() {
    let encoder = encoder(Small { chat: true, ..SMALL }, EncodeOptions::default());
    let prompt = Text::Chat(vec![Message::new("user", "ab")]);
    let context = asked(&encoder, &prompt, &["cd", "e"]).expect("tokens");
    assert_eq!(encoder.decode(&context.prompt).matches("<s>").count(), 1);
    assert!(encoder.decode(&context.prompt).ends_with("<|assistant|>"), "{}", encoder.decode(&context.prompt));
    let texts: Vec<String> = context.completions.iter().map(|completion| encoder.decode(&completion.ids)).collect();
    // After a special token this tokenizer begins a text anew, with its mark for a space.
    assert_eq!(texts, [" cd", " e"]);
}

#[test]
fn what_cannot_be_asked_is_told() {
    let encoder = encoder(SMALL, EncodeOptions::default());
    let plain = Text::Plain("ab".into());
    assert!(asked(&encoder, &plain, &["c", ""]).expect_err("empty").contains("no token of its own"));
    assert!(asked(&encoder, &plain, &[]).expect_err("none").contains("at least one"));
    let chat = Text::Chat(vec![Message::new("user", "ab")]);
    assert!(asked(&encoder, &chat, &["c"]).expect_err("no template").contains("no chat template"));
    let files = common::tokenizer_json(Small { bos: false, prepend: false, ..SMALL });
    let files = TokenizerFiles { tokenizer: &files, ..TokenizerFiles::default() };
    let nameless =
        Encoder::from_files(&files, EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() })
            .expect("a tokenizer");
    assert!(
        asked(&nameless, &Text::Plain(String::new()), &["c"])
            .expect_err("nothing before")
            .contains("the prompt is empty")
    );
}
