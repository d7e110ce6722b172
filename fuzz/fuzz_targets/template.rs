//! Any template over any conversation: text or an error, never a panic, in bounded time and memory.
//!
//! The input is a template, a zero byte, and messages parted by zero bytes that alternate between user and assistant.
#![no_main]

use candlewick_data::{EncodeOptions, Message, Origin, Row, Text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut parts = text.split('\0');
    let template = parts.next().unwrap_or_default();
    let Ok(encoder) = candlewick_fuzz::encoder(template, EncodeOptions::default()) else { return };
    let mut messages: Vec<Message> = parts
        .take(16)
        .enumerate()
        .map(|(index, content)| Message::new(if index % 2 == 0 { "user" } else { "assistant" }, content))
        .collect();
    if messages.is_empty() {
        messages.push(Message::new("user", "Hello"));
    }
    let prompt = Text::Chat(messages.clone());
    let _ = encoder.encode_prompt(&prompt);
    let answer = Text::Chat(vec![Message::new("assistant", messages[0].content.clone())]);
    let row = Row::Demonstration { prompt, completion: answer };
    if let Err(rejection) = encoder.encode(&row, &Origin::memory(1)) {
        assert!(!rejection.to_string().is_empty());
    }
});
