//! Ids and boundaries that TRL's own tokenization gives for sentences of our own
//! (`tests/expected/tokenization_trl.json`, made by `tools/interop/make_tokenization.py`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Read;
use std::path::Path;

use candlewick_data::{Boundary, EncodeOptions, Encoder, Origin, Reason, Row, Text};

fn expected(tokenizer: &str) -> Vec<serde_json::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/expected/tokenization_trl.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file[tokenizer]["pairs"].as_array().unwrap().clone()
}

fn check(tokenizer: &str, directory: &Path) {
    let options = EncodeOptions { boundary: Boundary::CommonPrefix, ..EncodeOptions::default() };
    let encoder = Encoder::from_dir(directory, options).unwrap();
    let pairs = expected(tokenizer);
    for pair in &pairs {
        let text = |name: &str| Text::Plain(pair[name].as_str().unwrap().to_owned());
        let ids = |name: &str| serde_json::from_value::<Vec<u32>>(pair[name].clone()).unwrap();
        let row = Row::Pair { prompt: text("prompt"), chosen: text("chosen"), rejected: text("rejected") };
        let encoded = encoder.encode(&row, &Origin::memory(1));
        if ["chosen", "rejected"].iter().any(|name| pair[name].as_str().unwrap().trim().is_empty()) {
            // TRL trains on blanks and the end of sequence; here that row is reported.
            assert_eq!(encoded.unwrap_err().reason, Reason::EmptyCompletion);
            continue;
        }
        let example = encoded.unwrap();
        let context = &example.contexts[0];
        // Nothing predicts the first token after an empty prompt; here BOS stands in.
        let prompt = if ids("prompt_ids").is_empty() { vec![encoder.bos_id().unwrap()] } else { ids("prompt_ids") };
        assert_eq!(context.prompt, prompt, "{tokenizer}: {pair}");
        for (completion, name) in context.completions.iter().zip(["chosen_ids", "rejected_ids"]) {
            assert_eq!(completion.ids, ids(name), "{tokenizer}: {pair}");
            assert_eq!(completion.scored_tokens(), completion.ids.len(), "{tokenizer}: {pair}");
        }
    }
    assert!(pairs.len() >= 50);
}

#[test]
fn sentencepiece_layout() {
    let Some(directory) = common::asset("assets/weights/tinystories-656k") else { return };
    check("tinystories-656k", &directory);
}

#[test]
fn byte_level() {
    let Some(source) = common::asset("assets/tokenizers/gpt2") else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut json = String::new();
    let packed = std::fs::File::open(source.join("tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut json).unwrap();
    std::fs::write(directory.path().join("tokenizer.json"), json).unwrap();
    std::fs::copy(source.join("tokenizer_config.json"), directory.path().join("tokenizer_config.json")).unwrap();
    check("gpt2", directory.path());
}
