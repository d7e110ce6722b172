//! A small tokenizer made on the spot, and the real ones of the shared fixtures.
#![expect(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_data::{EncodeOptions, Encoder, Message, Row, Text, TokenizerFiles};
use serde_json::{Value, json};

pub const BOS: u32 = 1;
pub const EOS: u32 = 2;

/// What the small tokenizer does beside splitting into characters.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// "▁" before the text and for spaces, as Llama's; else spaces are tokens of their own.
    pub prepend: bool,
    /// `<s>` by the post-processor.
    pub bos: bool,
    /// `</s>` by the post-processor.
    pub eos: bool,
    pub chat: bool,
}

pub const SMALL: Small = Small { prepend: true, bos: true, eos: false, chat: false };

/// Characters, and the merges `l o`, `o w`→`ow`, `e r`, `▁ x`: enough for tokens that lie across a boundary.
pub fn tokenizer_json(small: Small) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    };
    for token in ["<unk>", "<s>", "</s>", "▁", "é", "😀", "<|user|>", "<|assistant|>", "<|end|>"] {
        add(token.to_owned());
    }
    for byte in (b' '..=b'~').chain([b'\n']) {
        add(char::from(byte).to_string());
    }
    for token in ["lo", "er", "▁x", "\n\n"] {
        add(token.to_owned());
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    if small.bos {
        single.insert(0, json!({"SpecialToken": {"id": "<s>", "type_id": 0}}));
    }
    if small.eos {
        single.push(json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    }
    let normalizer = if small.prepend {
        json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})
    } else {
        Value::Null
    };
    let json = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>"), special(6, "<|user|>"), special(7, "<|assistant|>"), special(8, "<|end|>")],
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": [["l", "o"], ["e", "r"], ["▁", "x"], ["\n", "\n"]]},
    });
    serde_json::to_vec(&json).unwrap()
}

pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                                 {% if add_generation_prompt %}<|assistant|>{% endif %}";

pub fn config_json(small: Small) -> Vec<u8> {
    let mut config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"});
    if small.chat {
        config["chat_template"] = json!(CHAT_TEMPLATE);
    }
    serde_json::to_vec(&config).unwrap()
}

pub fn encoder(small: Small, options: EncodeOptions) -> Arc<Encoder> {
    let (tokenizer, config) = (tokenizer_json(small), config_json(small));
    let files = TokenizerFiles { tokenizer: &tokenizer, tokenizer_config: Some(&config), ..TokenizerFiles::default() };
    Arc::new(Encoder::from_files(&files, options).unwrap())
}

pub fn plain_pair(prompt: &str, chosen: &str, rejected: &str) -> Row {
    let text = |text: &str| Text::Plain(text.to_owned());
    Row::Pair { prompt: text(prompt), chosen: text(chosen), rejected: text(rejected) }
}

pub fn demonstration(prompt: &str, completion: &str) -> Row {
    Row::Demonstration { prompt: Text::Plain(prompt.to_owned()), completion: Text::Plain(completion.to_owned()) }
}

pub fn labelled(prompt: &str, completion: &str, desirable: bool) -> Row {
    Row::Labelled { prompt: Text::Plain(prompt.to_owned()), completion: Text::Plain(completion.to_owned()), desirable }
}

pub fn chat(turns: &[(&str, &str)]) -> Text {
    Text::Chat(turns.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

/// A file of rows numbered from 0: prompt `q N`, completions `yes N` and `no N`.
pub fn numbered_pairs(dir: &Path, rows: usize) -> PathBuf {
    let mut text = String::new();
    for row in 0..rows {
        writeln!(text, r#"{{"prompt": "q {row}", "chosen": " yes {row}", "rejected": " no {row}"}}"#).unwrap();
    }
    let path = dir.join("numbered.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// A path under the shared fixtures; None (said on the screen) where they are absent.
pub fn asset(path: &str) -> Option<PathBuf> {
    let found = candlewick_testkit::shared().map(|shared| shared.join(path)).filter(|path| path.exists());
    if found.is_none() {
        #[expect(clippy::print_stdout, reason = "a test that checks nothing says so")]
        {
            println!("skipped: no {path} among the shared fixtures");
        }
    }
    found
}

/// A tokenizer of the shared fixtures, whose `tokenizer.json` is compressed.
pub fn shared_tokenizer(name: &str, options: EncodeOptions) -> Option<Encoder> {
    shared_with(name, options, None)
}

/// The same with the chat template of [`encoder`]'s.
pub fn shared_chat_tokenizer(name: &str, options: EncodeOptions) -> Option<Encoder> {
    shared_with(name, options, Some(CHAT_TEMPLATE))
}

fn shared_with(name: &str, options: EncodeOptions, template: Option<&str>) -> Option<Encoder> {
    let dir = asset(&format!("assets/tokenizers/{name}"))?;
    let compressed = std::fs::read(dir.join("tokenizer.json.gz")).unwrap();
    let mut tokenizer = Vec::new();
    flate2::read::GzDecoder::new(compressed.as_slice()).read_to_end(&mut tokenizer).unwrap();
    let config = std::fs::read(dir.join("tokenizer_config.json")).unwrap();
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        tokenizer_config: Some(&config),
        chat_template: template,
        ..TokenizerFiles::default()
    };
    Some(Encoder::from_files(&files, options).unwrap())
}
