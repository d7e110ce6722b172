//! The library's tokens and ours, on real tokenizers and texts; without the shared fixtures only on a small tokenizer.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ByteLevel, Tokens};
use crate::encode::{EncodeOptions, Encoder};
use crate::tokens::TokenizerFiles;

fn compare(encoder: &Encoder, text: &str) -> bool {
    let own: &ByteLevel = encoder.byte_level.as_ref().expect("a tokenizer of this kind");
    let Some(tokens) = own.tokens(text, true) else { return false };
    let library = Tokens::from(encoder.tokenizer.encode(text, true).unwrap());
    assert_eq!(tokens, library, "{text:?}");
    true
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn shared(tokenizer: &str, config: &str) -> Option<(Encoder, std::path::PathBuf)> {
    let Some(shared) = candlewick_testkit::shared() else {
        println!("skipped: the shared fixtures are not here");
        return None;
    };
    let tokenizer = unpacked(&shared.join("assets/tokenizers").join(tokenizer));
    let config = std::fs::read(shared.join("assets/tokenizers").join(config)).unwrap();
    let files = TokenizerFiles { tokenizer: &tokenizer, tokenizer_config: Some(&config), ..TokenizerFiles::default() };
    Some((Encoder::from_files(&files, EncodeOptions::default()).unwrap(), shared))
}

/// Lines of real files in English and Chinese, JSON and all; every `step`-th.
fn lines(shared: &Path, step: usize) -> Vec<String> {
    let files =
        ["hh_harmless_base_test.jsonl", "lf_dpo_zh_demo.json", "oasst1_rm_zh.json", "stack_exchange_paired_tiny.json"];
    let mut found = Vec::new();
    for file in files {
        let text = unpacked(&shared.join("assets/preferences").join(format!("{file}.gz")));
        let text = String::from_utf8(text).unwrap();
        found.extend(
            text.lines().step_by(step).map(|line| line.chars().take(4000).collect::<String>().replace("\\n", "\n")),
        );
    }
    found
}

fn on_real_texts(tokenizer: &str, config: &str) {
    let Some((encoder, shared)) = shared(tokenizer, config) else { return };
    let lines = lines(&shared, 23);
    let done = lines.iter().filter(|line| compare(&encoder, line)).count();
    assert!(done * 10 > lines.len() * 9, "{done} of {} were done directly", lines.len());
    on_made_up_texts(&encoder);
}

/// Words, spaces, marks and line ends in any order: what the patterns are about.
fn on_made_up_texts(encoder: &Encoder) {
    const PARTS: [&str; 40] = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "a",
        "the",
        "'s",
        "'LL",
        "'",
        "ſ",
        "1",
        "22",
        "4444",
        "½",
        "Ⅷ",
        "é",
        "e\u{301}",
        "日本",
        "語",
        "한",
        "😀",
        "👍🏽",
        "\u{200d}",
        "!",
        "?!",
        "…",
        "—",
        "<|endoftext|>",
        "<|im_start|>",
        "<s>",
        "</s>",
        "\0",
        "\u{1}",
        "_",
        "xyz",
        "\u{2028}",
        "ÿĀ",
    ];
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % bound
    };
    let mut done = 0;
    for _ in 0..4000 {
        let text: String = (0..=below(12)).map(|_| PARTS[below(PARTS.len())]).collect();
        done += usize::from(compare(encoder, &text));
    }
    assert!(done > 400, "{done}");
}

#[test]
fn gpt2() {
    on_real_texts("gpt2/tokenizer.json.gz", "gpt2/tokenizer_config.json");
}

#[test]
fn qwen() {
    on_real_texts("qwen2.5/tokenizer.converted.json.gz", "qwen2.5/tokenizer_config.json");
}

#[test]
fn a_small_tokenizer_with_ids_around_the_text() {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let trimmed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let post_processor = json!({"type": "Sequence", "processors": [trimmed, template]});
    for ignore_merges in [true, false] {
        let encoder = small(&pre_tokenizer, &post_processor, ignore_merges);
        let tokens = encoder.byte_level.as_ref().unwrap().tokens("<s> the", true).unwrap();
        assert_eq!(tokens.get_special_tokens_mask()[..2], [1, 0], "one is added, the other stands in the text");
        on_made_up_texts(&encoder);
    }
}

fn small(pre_tokenizer: &Value, post_processor: &Value, ignore_merges: bool) -> Encoder {
    let mut vocab = Map::new();
    let bytes = super::merges::byte_chars().map(String::from);
    let more = ["th", "he", "the", "Ġthe", "ĊĊ", "xyz", "22"].map(str::to_owned);
    for token in ["<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).chain(more) {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocab,
            "merges": [["t", "h"], ["h", "e"], ["th", "e"], ["Ġ", "the"], ["Ċ", "Ċ"], ["2", "2"]]},
    });
    let tokenizer = serde_json::to_vec(&json).unwrap();
    let config = br#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    let files = TokenizerFiles { tokenizer: &tokenizer, tokenizer_config: Some(config), ..TokenizerFiles::default() };
    Encoder::from_files(&files, EncodeOptions::default()).unwrap()
}
