//! Chat templates against transformers: `fixtures/chat_templates.json`, which `tools/chat_templates.py` makes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Read;
use std::path::Path;

use candlewick_data::{EncodeOptions, Encoder, EndOfSequence, Ending, Message, RenderOptions, Text, TokenizerFiles};
use common::SMALL;
use serde_json::{Map, Value};

/// A conversation of the fixture, as a row would bring it.
struct Conversation {
    messages: Vec<Message>,
    tools: Vec<Value>,
    arguments: Map<String, Value>,
    ending: Ending,
}

fn conversation(made: &Value, tools: &Value) -> Conversation {
    let message = |value: &Value| {
        let field = |name: &str| value[name].as_str().unwrap().to_owned();
        let mut message = Message::new(field("role"), field("content"));
        let others = value.as_object().unwrap().iter().filter(|(key, _)| !matches!(key.as_str(), "role" | "content"));
        message.extra.extend(others.map(|(key, value)| (key.clone(), value.clone())));
        message
    };
    let indices = made["tools"].as_array().into_iter().flatten();
    Conversation {
        messages: made["messages"].as_array().unwrap().iter().map(message).collect(),
        tools: indices.map(|index| tools[index.as_u64().unwrap() as usize].clone()).collect(),
        arguments: made["arguments"].as_object().cloned().unwrap_or_default(),
        ending: match made["mode"].as_str().unwrap() {
            "closed" => Ending::Closed,
            "generation" => Ending::Generation,
            "continue" => Ending::Continued,
            other => panic!("the mode {other}"),
        },
    }
}

/// The templates of a tokenizer of the shared fixtures, over the small vocabulary: rendering asks for no other.
fn encoder(dir: &Path, date: &str) -> Encoder {
    let config = std::fs::read(dir.join("tokenizer_config.json")).unwrap();
    let template = std::fs::read_to_string(dir.join("chat_template.jinja")).ok();
    let files = TokenizerFiles {
        tokenizer: &common::tokenizer_json(SMALL),
        tokenizer_config: Some(&config),
        chat_template: template.as_deref(),
        ..TokenizerFiles::default()
    };
    let options = EncodeOptions {
        end_of_sequence: EndOfSequence::Keep,
        date: Some(date.parse().unwrap()),
        ..EncodeOptions::default()
    };
    Encoder::from_files(&files, options).unwrap()
}

#[test]
fn two_hundred_conversations_are_rendered_as_transformers_renders_them() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/chat_templates.json")).unwrap();
    let conversations: Vec<Conversation> =
        fixture["conversations"].as_array().unwrap().iter().map(|made| conversation(made, &fixture["tools"])).collect();
    assert_eq!(conversations.len(), 200);
    let renderings = fixture["renderings"].as_object().unwrap();
    assert_eq!(renderings.len(), 5);
    for (name, expected) in renderings {
        let Some(dir) = common::asset(&format!("assets/tokenizers/{name}")) else {
            return;
        };
        let encoder = encoder(&dir, fixture["date"].as_str().unwrap());
        for (index, (made, expected)) in conversations.iter().zip(expected.as_array().unwrap()).enumerate() {
            let options =
                RenderOptions { tools: &made.tools, template_arguments: Some(&made.arguments), ending: made.ending };
            let rendered = encoder.render_chat(&made.messages, options);
            let digest =
                rendered.as_ref().ok().map(|text| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())));
            assert_eq!(digest.as_deref(), expected.as_str(), "conversation {index} through {name}: {rendered:#?}");
        }
    }
}

#[test]
fn ids_are_those_of_transformers() {
    let Some(dir) = common::asset("assets/tokenizers") else {
        return;
    };
    let read = |path: &str| std::fs::read(dir.join(path)).unwrap();
    let parsed = |path: &str| -> Value { serde_json::from_slice(&read(path)).unwrap() };
    let inputs = parsed("conformance/inputs.json");
    // TinyLlama's tokenizer is not among the fixtures: its ids are not compared.
    let cases = [
        ("openai-community__gpt2", "gpt2", "tokenizer.json.gz"),
        ("Qwen__Qwen2.5-0.5B", "qwen2.5", "tokenizer.converted.json.gz"),
    ];
    for (expected, name, file) in cases {
        let expected = parsed(&format!("conformance/{expected}.json"));
        let mut tokenizer = Vec::new();
        flate2::read::GzDecoder::new(read(&format!("{name}/{file}")).as_slice()).read_to_end(&mut tokenizer).unwrap();
        let config = read(&format!("{name}/tokenizer_config.json"));
        let files =
            TokenizerFiles { tokenizer: &tokenizer, tokenizer_config: Some(&config), ..TokenizerFiles::default() };
        let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, ..EncodeOptions::default() };
        let encoder = Encoder::from_files(&files, options).unwrap();
        let inputs = inputs["inputs"].as_array().unwrap();
        for input in inputs {
            let id = input["id"].as_str().unwrap();
            let ids = encoder.encode_prompt(&Text::Plain(input["text"].as_str().unwrap().to_owned())).unwrap();
            let wanted: Vec<u32> = serde_json::from_value(expected["entries"][id]["input_ids"].clone()).unwrap();
            assert_eq!(ids, wanted, "{name}: {id}");
        }
        assert!(inputs.len() >= 20, "{}", inputs.len());
    }
}
