//! Where the completion begins, what is scored, and which special tokens stand where.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candlewick_data::{
    Boundary, EncodeOptions, Encoder, EndOfSequence, Example, Origin, Reason, Row, Text, TokenizerFiles, Truncation,
};
use common::{BOS, EOS, SMALL, Small, chat, demonstration, encoder, plain_pair};

fn options(boundary: Boundary) -> EncodeOptions {
    EncodeOptions { boundary, ..EncodeOptions::default() }
}

fn encode(encoder: &Encoder, row: &Row) -> Example {
    encoder.encode(row, &Origin::memory(1)).unwrap()
}

/// Prompt and completion of a demonstration, decoded apart.
fn parts(encoder: &Encoder, prompt: &str, completion: &str) -> (String, String) {
    let example = encode(encoder, &demonstration(prompt, completion));
    let context = &example.contexts[0];
    assert!(context.completions[0].scored.iter().all(|scored| *scored));
    assert!(context.prompt_scored.iter().all(|scored| !scored));
    (encoder.decode(&context.prompt), encoder.decode(&context.completions[0].ids))
}

#[test]
fn the_completion_begins_where_its_characters_do() {
    for prepend in [true, false] {
        let encoder = encoder(Small { prepend, ..SMALL }, EncodeOptions::default());
        let space = if prepend { " " } else { "" };
        for (prompt, completion) in [("ab", " cd"), ("ab ", "cd"), ("é 😀", "é😀 "), ("a\n", "\tb")] {
            let (got_prompt, got_completion) = parts(&encoder, prompt, completion);
            let known = completion.replace('\t', "<unk>");
            assert_eq!(got_prompt, format!("<s>{space}{prompt}"), "prepend {prepend}");
            assert_eq!(got_completion, format!("{known}</s>"), "prepend {prepend}");
        }
    }
}

#[test]
fn a_token_on_both_sides_belongs_to_the_completion_and_is_counted() {
    // "l" + "ow": the tokenizer merges "lo".
    let encoder = encoder(SMALL, EncodeOptions::default());
    assert_eq!(parts(&encoder, "sl", "ow"), ("<s> s".to_owned(), "low</s>".to_owned()));
    let rows = vec![demonstration("sl", "ow"), demonstration("s", "low"), demonstration("a ", "xy")];
    let mut stream =
        candlewick_data::Stream::new(candlewick_data::Source::from_rows(rows), encoder, candlewick_data::Order::File)
            .unwrap();
    while stream.next_example().unwrap().is_some() {}
    // The third: "▁x" lies on both sides of "a " and "xy".
    assert_eq!(stream.report().counts.straddles, 2);
    assert_eq!(stream.report().counts.sequences, 3);
    assert_eq!(stream.report().counts.added_eos, 3);
}

#[test]
fn both_rules_agree_where_no_token_straddles_and_part_where_trl_parts() {
    let by_offsets = encoder(SMALL, options(Boundary::Offsets));
    let by_prefix = encoder(SMALL, options(Boundary::CommonPrefix));
    for (prompt, completion) in [("ab", " cd"), ("sl", "ow"), ("a ", "xy"), ("", "abc")] {
        assert_eq!(
            encode(&by_offsets, &demonstration(prompt, completion)),
            encode(&by_prefix, &demonstration(prompt, completion)),
            "{prompt:?} {completion:?}"
        );
    }
}

#[test]
fn a_pair_that_shares_less_tokens_than_text_keeps_the_rest_unscored() {
    // chosen "sl"+"ow" merges across the boundary, rejected "sl"+"im" does not: the shared prompt is "s".
    let encoder = encoder(SMALL, EncodeOptions::default());
    let example = encode(&encoder, &plain_pair("sl", "ow", "im"));
    let context = &example.contexts[0];
    assert_eq!(encoder.decode(&context.prompt), "<s> s");
    assert_eq!(encoder.decode(&context.completions[0].ids), "low</s>");
    assert_eq!(context.completions[0].scored, [true, true, true]);
    assert_eq!(encoder.decode(&context.completions[1].ids), "lim</s>");
    assert_eq!(context.completions[1].scored, [false, true, true, true]);
    let shown = encoder.describe(&example);
    assert_eq!(
        shown,
        "<memory>:1 (pair)\n  prompt, 3 tokens: \"<s> s\"\n  chosen, 3 tokens, 3 scored: ⟦\"low</s>\"⟧\n  \
         rejected, 4 tokens, 3 scored: \"l\"⟦\"im</s>\"⟧"
    );
}

#[test]
fn special_tokens_stand_once() {
    for (bos, eos) in [(true, true), (true, false), (false, true), (false, false)] {
        for boundary in [Boundary::Offsets, Boundary::CommonPrefix] {
            let encoder = encoder(Small { bos, eos, ..SMALL }, options(boundary));
            for (prompt, completion) in [("ab", " cd"), ("ab", " cd</s>"), ("<s>ab", " cd"), ("", "cd")] {
                let example = encode(&encoder, &demonstration(prompt, completion));
                let context = &example.contexts[0];
                let ids = [context.prompt.clone(), context.completions[0].ids.clone()].concat();
                let count = |id| ids.iter().filter(|other| **other == id).count();
                let case = format!("{bos} {eos} {boundary:?} {prompt:?} {completion:?} {ids:?}");
                assert_eq!(count(EOS), 1, "{case}");
                assert_eq!(*ids.last().unwrap(), EOS, "{case}");
                let wanted = usize::from(bos || prompt.starts_with("<s>") || prompt.is_empty());
                assert_eq!(count(BOS), wanted, "{case}");
                assert!(wanted == 0 || ids[0] == BOS, "{case}");
                assert!(context.completions[0].scored.iter().all(|scored| *scored), "{case}");
            }
        }
    }
}

#[test]
fn a_prompt_alone_is_how_training_begins() {
    for eos in [true, false] {
        let encoder = encoder(Small { eos, ..SMALL }, EncodeOptions::default());
        let example = encode(&encoder, &demonstration("ab", " cd"));
        assert_eq!(encoder.encode_prompt(&Text::Plain("ab".into())).unwrap(), example.contexts[0].prompt);
    }
    let encoder = encoder(Small { chat: true, ..SMALL }, EncodeOptions::default());
    let (prompt, completion) = (chat(&[("user", "hi")]), chat(&[("assistant", "yo")]));
    let example = encode(&encoder, &Row::Demonstration { prompt: prompt.clone(), completion });
    assert_eq!(encoder.encode_prompt(&prompt).unwrap(), example.contexts[0].prompt);
}

#[test]
fn end_of_sequence_can_be_left_to_the_tokenizer() {
    let keep = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
    let example = encode(&encoder(SMALL, keep), &demonstration("ab", "cd"));
    assert!(!example.contexts[0].completions[0].ids.contains(&EOS));
}

#[test]
fn the_limit_cuts_and_says_so() {
    let limit = |max_length| EncodeOptions { max_length: Some(max_length), ..EncodeOptions::default() };
    // <s> ▁ a b | c d e </s>
    let row = demonstration("ab", "cde");
    let length = |max_length| {
        let example = encode(&encoder(SMALL, limit(max_length)), &row);
        (example.contexts[0].prompt.len(), example.contexts[0].completions[0].ids.len())
    };
    assert_eq!(length(8), (4, 4));
    assert_eq!(length(7), (4, 3));
    assert_eq!(length(5), (4, 1));
    let reason = |options, row: &Row| encoder(SMALL, options).encode(row, &Origin::memory(3)).unwrap_err();
    let rejection = reason(limit(4), &row);
    assert_eq!(rejection.reason, Reason::PromptTooLong);
    assert!(rejection.to_string().starts_with("<memory>:3: prompt longer than the limit: 4 tokens"), "{rejection}");
    assert_eq!(reason(limit(6), &plain_pair("ab", "cde", "cdf")).reason, Reason::IdenticalAfterTruncation);
    let reject = EncodeOptions { truncation: Truncation::Reject, ..limit(7) };
    assert_eq!(reason(reject, &row).reason, Reason::TooLong);
}

#[test]
fn rows_without_an_answer_or_a_difference_are_set_aside() {
    let encoder = encoder(Small { chat: true, ..SMALL }, EncodeOptions::default());
    let reason = |row: &Row| encoder.encode(row, &Origin::memory(1)).unwrap_err().reason;
    assert_eq!(reason(&demonstration("ab", "")), Reason::EmptyCompletion);
    assert_eq!(reason(&demonstration("ab", " \n")), Reason::EmptyCompletion);
    assert_eq!(reason(&plain_pair("ab", "c", "")), Reason::EmptyCompletion);
    assert_eq!(reason(&plain_pair("ab", "c", "c")), Reason::Identical);
    // Two characters the tokenizer does not know give the same token.
    assert_eq!(reason(&plain_pair("ab", "ж", "я")), Reason::Identical);
    let empty_answer = Row::Demonstration { prompt: chat(&[("user", "a")]), completion: chat(&[("assistant", "")]) };
    assert_eq!(reason(&empty_answer), Reason::EmptyCompletion);
    let no_answer = Row::Demonstration { prompt: chat(&[("user", "a")]), completion: chat(&[("user", "b")]) };
    assert_eq!(reason(&no_answer), Reason::NoAssistantTurn);
}

#[test]
fn a_vocabulary_larger_than_the_models_is_refused() {
    let encoder = encoder(SMALL, EncodeOptions::default());
    assert!(encoder.check_vocabulary(encoder.vocab_size()).is_ok());
    let message = encoder.check_vocabulary(encoder.vocab_size() - 1).unwrap_err().to_string();
    assert!(message.contains("does not fit the model") && message.contains("\"\\n\\n\""), "{message}");
}

#[test]
fn tokenizer_files_that_do_not_serve_are_named() {
    let tokenizer = common::tokenizer_json(SMALL);
    let of = |files: TokenizerFiles<'_>| Encoder::from_files(&files, EncodeOptions::default()).unwrap_err().to_string();
    let bare = TokenizerFiles { tokenizer: &tokenizer, ..TokenizerFiles::default() };
    assert!(of(bare).contains("no eos_token"), "{}", of(bare));
    assert!(of(TokenizerFiles { tokenizer: b"{}", ..bare }).contains("tokenizer.json: not a tokenizer"));
    assert!(of(TokenizerFiles { tokenizer: b"{", ..bare }).contains("not JSON"));
    for other in [&b"[]"[..], b"3", b"\"text\"", b"null"] {
        assert!(of(TokenizerFiles { tokenizer: other, ..bare }).contains("tokenizer.json: expected a JSON object"));
    }
    assert!(of(TokenizerFiles { tokenizer_config: Some(b"["), ..bare }).contains("tokenizer_config.json: not JSON"));
    let broken_template =
        TokenizerFiles { model_config: Some(br#"{"eos_token_id": 2}"#), chat_template: Some("{% if %}"), ..bare };
    assert!(of(broken_template).contains("chat_template: "), "{}", of(broken_template));
    // The model's configuration names the token where nothing else does.
    let by_id = TokenizerFiles { chat_template: None, ..broken_template };
    assert_eq!(Encoder::from_files(&by_id, EncodeOptions::default()).unwrap().eos_id(), Some(2));
    let short = EncodeOptions { max_length: Some(1), ..EncodeOptions::default() };
    assert!(Encoder::from_files(&by_id, short).unwrap_err().to_string().contains("max_length: got 1"));
    let missing =
        Encoder::from_dir(std::path::Path::new("/nowhere"), EncodeOptions::default()).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/tokenizer.json") && missing.contains("no such file"), "{missing}");
}

#[test]
fn byte_level_offsets_keep_their_spaces() {
    let Some(encoder) = common::shared_tokenizer("gpt2", EncodeOptions::default()) else {
        return;
    };
    // gpt2 has no beginning-of-sequence token of its own, and " world" is one token.
    assert_eq!(parts(&encoder, "Hello", " world"), ("Hello".to_owned(), " world<|endoftext|>".to_owned()));
    assert_eq!(parts(&encoder, "Hello ", "world"), ("Hello".to_owned(), " world<|endoftext|>".to_owned()));
    // An emoji of several tokens, all of one character.
    assert_eq!(parts(&encoder, "Hi 🙃", "🙃"), ("Hi 🙃".to_owned(), "🙃<|endoftext|>".to_owned()));
    // No token stands before the completion: <|endoftext|> is also gpt2's beginning of sequence.
    assert_eq!(parts(&encoder, "", "Hello"), ("<|endoftext|>".to_owned(), "Hello<|endoftext|>".to_owned()));
}

#[test]
fn every_character_is_on_its_side_with_real_tokenizers() {
    let Some(inputs) = common::asset("assets/tokenizers/conformance/inputs.json") else {
        return;
    };
    let inputs: serde_json::Value = serde_json::from_slice(&std::fs::read(inputs).unwrap()).unwrap();
    let keep = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
    for name in ["gpt2", "mistral-7b-v0.2", "phi-3-mini"] {
        let Some(encoder) = common::shared_tokenizer(name, keep) else {
            return;
        };
        let mut checked = 0;
        for input in inputs["inputs"].as_array().unwrap() {
            let text = input["text"].as_str().unwrap();
            for (boundary, _) in text.char_indices().skip(1) {
                let (prompt, completion) = text.split_at(boundary);
                if completion.trim().is_empty() {
                    continue;
                }
                let example = encode(&encoder, &demonstration(prompt, completion));
                let context = &example.contexts[0];
                let ids = [context.prompt.clone(), context.completions[0].ids.clone()].concat();
                let shown = encoder.decode_text(&context.prompt);
                // The prompt's tokens never reach into the completion.
                let begins = |whole: &str| {
                    whole.strip_prefix(' ').unwrap_or(whole).starts_with(shown.strip_prefix(' ').unwrap_or(&shown))
                };
                assert!(begins(prompt) || shown.is_empty(), "{name}: {prompt:?} | {completion:?} gives {shown:?}");
                checked += usize::from(!ids.is_empty());
            }
        }
        assert!(checked > 100, "{name}: {checked}");
    }
}
