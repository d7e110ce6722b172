//! What the fuzz targets share: a small tokenizer, and a reader that takes whatever comes.

use std::sync::{Arc, LazyLock};

use candlewick_data::{BatchOptions, Batches, EncodeOptions, Encoder, Order, RowRange, Source, TokenizerFiles};
use serde_json::{Map, json};

/// A template of the usual shape, for conversations among the rows.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                             {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Byte-level BPE of 256 bytes, a few merges and two special tokens: every text has tokens.
fn tokenizer_json() -> Vec<u8> {
    let mut vocab = Map::new();
    let mut add = |token: &str| {
        let id = vocab.len();
        vocab.insert(token.to_owned(), json!(id));
    };
    for token in ["<s>", "</s>"] {
        add(token);
    }
    for byte in 0..=u8::MAX {
        add(&byte_char(byte).to_string());
    }
    for token in ["th", "he", "the", "Ġthe", "er", "ĊĊ"] {
        add(token);
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": [["t", "h"], ["h", "e"], ["th", "e"], ["Ġ", "the"], ["e", "r"], ["Ċ", "Ċ"]]},
    });
    json.to_string().into_bytes()
}

/// The character that stands for a byte in the vocabularies of byte-level tokenizers.
fn byte_char(byte: u8) -> char {
    let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..byte).filter(|byte| !own(*byte)).count() as u32;
    if own(byte) { char::from(byte) } else { char::from_u32(256 + others).unwrap_or_default() }
}

/// A tokenizer of words, of which it knows none: made in no time, where every input has a template and so an encoder of its own.
fn words_json() -> Vec<u8> {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "?": 2}, "unk_token": "?"},
    });
    json.to_string().into_bytes()
}

/// An encoder of words with a chat template.
pub fn words_encoder(template: &str, options: EncodeOptions) -> Result<Encoder, candlewick_data::Error> {
    static TOKENIZER: LazyLock<Vec<u8>> = LazyLock::new(words_json);
    encoder(&TOKENIZER, template, options)
}

fn encoder(tokenizer: &[u8], template: &str, options: EncodeOptions) -> Result<Encoder, candlewick_data::Error> {
    let files = TokenizerFiles {
        tokenizer,
        tokenizer_config: Some(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#),
        chat_template: Some(template),
        ..TokenizerFiles::default()
    };
    Encoder::from_files(&files, options)
}

/// The encoder of the targets that are about rows.
pub fn usual_encoder() -> Arc<Encoder> {
    static ENCODER: LazyLock<Arc<Encoder>> = LazyLock::new(|| {
        let options = EncodeOptions { max_length: Some(64), ..EncodeOptions::default() };
        Arc::new(encoder(&tokenizer_json(), CHAT_TEMPLATE, options).expect("the small tokenizer is sound"))
    });
    ENCODER.clone()
}

/// Lets panics of the readers of Parquet and Arrow unwind to where they are caught, in silence. Without it any panic ends the run
/// at once; those of other code still do.
pub fn contain_columnar_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or("", |location| location.file());
        // The last is the standard library on their behalf.
        if !["/arrow-", "/parquet-", "/flatbuffers-", "/rustc/"].iter().any(|part| place.contains(part)) {
            default(panic);
        }
    }));
}

/// A small file may stand for rows without end: nulls in columns take no room.
const ROWS: RowRange = RowRange { start: 0, end: Some(4096) };

/// Reads a source to its end or its first error, shuffled, as a run would.
pub fn read_all(source: Source) {
    let order = Order::Shuffled { seed: 0, buffer: 16 };
    let options = BatchOptions { order, ..BatchOptions::default() };
    let mut batches = Batches::new(source.select(ROWS), usual_encoder(), options).expect("the options are sound");
    let mut kept = 0;
    while let Ok(Some(step)) = batches.next_step() {
        kept += step.iter().map(|batch| batch.examples.len() as u64).sum::<u64>();
    }
    let report = batches.report();
    assert!(kept <= report.kept && report.kept + report.rejected_rows() == report.rows, "{report}");
}
