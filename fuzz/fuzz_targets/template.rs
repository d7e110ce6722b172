//! Any template over any conversation: text or an error, never a panic, in bounded time and memory.
//!
//! The input is parts with a zero byte between them: the template, the date it is told, tools (a JSON array), template
//! arguments (a JSON object), and messages. What does not parse is left out; a message that is no JSON object is a text,
//! of the user and the assistant in turn.
#![no_main]

use candlewick_data::{EncodeOptions, Ending, Message, Moment, Origin, Record, RenderOptions, Row, Text};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut parts = text.split('\0');
    let template = parts.next().unwrap_or_default();
    let date = parts.next().and_then(date);
    let Ok(encoder) = candlewick_fuzz::words_encoder(template, EncodeOptions { date, ..EncodeOptions::default() }) else {
        return;
    };
    let tools: Vec<Value> = parts.next().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let arguments: Map<String, Value> =
        parts.next().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let mut messages: Vec<Message> = parts.take(16).enumerate().map(|(index, text)| message(index, text)).collect();
    if messages.is_empty() {
        messages.push(Message::new("user", "Hello"));
    }

    for ending in [Ending::Closed, Ending::Generation, Ending::Continued] {
        let options = RenderOptions { tools: &tools, template_arguments: Some(&arguments), ending };
        if let Err(error) = encoder.render_chat(&messages, options) {
            assert!(!error.to_string().is_empty());
        }
    }
    let _ = encoder.encode_prompt(&Text::Chat(messages.clone()));
    let answer = messages.pop().unwrap_or_default();
    let prompt = if messages.is_empty() { Text::Chat(vec![answer.clone()]) } else { Text::Chat(messages) };
    let row =
        Row::Demonstration { prompt, completion: Text::Chat(vec![Message { role: "assistant".to_owned(), ..answer }]) };
    let record = Record { tools, template_arguments: arguments, ..Record::from(row) };
    if let Err(rejection) = encoder.encode_record(&record, &Origin::memory(1)) {
        assert!(!rejection.to_string().is_empty());
    }
});

/// A date as text or as seconds.
fn date(text: &str) -> Option<Moment> {
    text.parse().ok().or_else(|| Moment::from_unix_seconds(text.parse().ok()?).ok())
}

fn message(index: usize, text: &str) -> Message {
    let role = if index % 2 == 0 { "user" } else { "assistant" };
    let Ok(Value::Object(mut object)) = serde_json::from_str(text) else { return Message::new(role, text) };
    let mut take = |name: &str| object.remove(name).and_then(|value| value.as_str().map(str::to_owned));
    let (role, content) = (take("role").unwrap_or_else(|| role.to_owned()), take("content").unwrap_or_default());
    Message { role, content, extra: object.into_iter().collect() }
}
