//! Conversations as files write them: `{role, content}`, ShareGPT's `{from, value}`, typed content parts.

use serde_json::{Map, Value, json};

use super::value::{found, kind, opened, without_nulls};
use crate::error::{Fault, Reason};
use crate::row::{Message, Text};

/// A string, a conversation, or one message of it. A string that holds a conversation as JSON is read as one: so text cells
/// and Parquet columns of strings have them.
pub(super) fn text(value: &Value, name: &str) -> Result<Text, Fault> {
    match value {
        Value::String(text) => match opened(value).as_ref() {
            Value::Array(list) if !list.is_empty() && list.iter().all(is_message) => chat(list, name),
            _ if is_printed(text) => Err(Fault::new(Reason::WrongType, format!("`{name}` is {PRINTED}"))),
            _ => Ok(Text::Plain(text.clone())),
        },
        Value::Array(list) => chat(list, name),
        Value::Object(object) if is_message(value) => Ok(Text::Chat(vec![message(object, name)?])),
        other => Err(Fault::new(
            Reason::WrongType,
            format!("`{name}` is {}, expected a string or a list of messages", kind(other)),
        )),
    }
}

const PRINTED: &str = "a list of messages as Python prints it, with single quotes, which is no JSON; write the column with \
                       json.dumps, or the whole file as JSON Lines or Parquet";

/// Whether a string is a conversation that `str` or a CSV writer of Python made of a list.
fn is_printed(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|inside| {
        ["{'role': '", "{'content': '", "{'from': '", "{'value': '"].iter().any(|key| inside.starts_with(key))
    })
}

/// Whether a value says who speaks.
pub(super) fn is_message(value: &Value) -> bool {
    let speaks = |key| value.get(key).is_some_and(Value::is_string);
    (speaks("role") || speaks("from")) && (value.get("content").is_some() || value.get("value").is_some())
}

fn chat(list: &[Value], name: &str) -> Result<Text, Fault> {
    if list.is_empty() {
        return Err(Fault::new(Reason::WrongType, format!("`{name}` is an empty list, expected messages")));
    }
    let messages = list.iter().enumerate().map(|(index, value)| {
        let name = format!("{name}[{index}]");
        let object = value
            .as_object()
            .ok_or_else(|| Fault::new(Reason::WrongType, format!("`{name}` is {}, {EXPECTED}", kind(value))))?;
        message(object, &name)
    });
    Ok(Text::Chat(messages.collect::<Result<_, _>>()?))
}

const EXPECTED: &str = r#"expected {"role": string, "content": string}"#;

fn message(object: &Map<String, Value>, name: &str) -> Result<Message, Fault> {
    let wrong = || Fault::new(Reason::WrongType, format!("`{name}` has {}, {EXPECTED}", found(object)));
    let field = |key: &str| object.get(key).filter(|value| !value.is_null());
    let (role, content) = match (field("role"), field("from")) {
        (Some(role), _) => (role, ["content", "value"]),
        (None, Some(role)) => (role, ["value", "content"]),
        (None, None) => return Err(wrong()),
    };
    let speaker = role.as_str().ok_or_else(wrong)?;
    let mut message = Message::new(if field("role").is_some() { speaker } else { role_of(speaker) }, "");
    message.extra = object
        .iter()
        .filter(|(key, value)| !matches!(key.as_str(), "role" | "from" | "content" | "value") && !value.is_null())
        .map(|(key, value)| (key.clone(), without_nulls(value.clone())))
        .collect();
    match content.iter().find_map(|key| field(key)) {
        Some(Value::String(text)) if is_call(speaker) => call(&mut message, text, name)?,
        Some(Value::String(text)) => message.content.clone_from(text),
        Some(Value::Array(parts)) => content_parts(&mut message, parts, name)?,
        // A turn that only calls a tool; templates tell one whose content is null from one that says nothing.
        None if message.extra.contains_key("tool_calls") => {
            if content.iter().any(|key| object.contains_key(*key)) {
                message.extra.insert("content".to_owned(), Value::Null);
            }
        }
        _ => return Err(wrong()),
    }
    Ok(message)
}

/// ShareGPT's speakers under the names of chat templates; others as they are.
fn role_of(speaker: &str) -> &str {
    match speaker {
        "human" | "user" | "User" | "Human" => "user",
        "gpt" | "bot" | "chatgpt" | "bing" | "bard" | "model" | "assistant" | "Assistant" | "function_call" => {
            "assistant"
        }
        "observation" | "tool" | "function" | "function_response" => "tool",
        "system" | "System" => "system",
        other => other,
    }
}

fn is_call(speaker: &str) -> bool {
    speaker == "function_call"
}

/// A call of a tool, `{"name": …, "arguments": …}` or a list of them in a string, in the form that chat templates read.
fn call(message: &mut Message, text: &str, name: &str) -> Result<(), Fault> {
    let wrong = || {
        Fault::new(
            Reason::WrongType,
            format!("`{name}` is a call of a tool and holds no JSON of {{\"name\": string, \"arguments\": object}}"),
        )
    };
    let calls = match serde_json::from_str(text).map_err(|_| wrong())? {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls = calls.into_iter().map(|call| {
        let function = call.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
        let arguments = call.get("arguments").map_or_else(|| json!({}), |value| opened(value).into_owned());
        Ok(json!({"type": "function", "function": {"name": function, "arguments": arguments}}))
    });
    let calls = calls.collect::<Result<Vec<_>, Fault>>()?;
    if calls.is_empty() {
        return Err(wrong());
    }
    message.extra.insert("tool_calls".to_owned(), Value::Array(calls));
    Ok(())
}

/// Content in typed parts: text is joined, reasoning and calls of tools go where templates look for them.
fn content_parts(message: &mut Message, parts: &[Value], name: &str) -> Result<(), Fault> {
    for (index, part) in parts.iter().enumerate() {
        let name = format!("{name}.content[{index}]");
        let kind_of = part.get("type").and_then(Value::as_str).unwrap_or("");
        let held = ["value", "text", "content"].iter().find_map(|key| part.get(key).and_then(Value::as_str));
        match (kind_of, held) {
            ("text" | "input_text" | "output_text", Some(text)) => message.content.push_str(text),
            ("reasoning", Some(text)) => {
                message.extra.insert("reasoning_content".to_owned(), Value::String(text.to_owned()));
            }
            ("tool_call", Some(text)) => call(message, text, &name)?,
            ("text" | "reasoning" | "tool_call", None) | ("", _) => {
                return Err(Fault::new(
                    Reason::WrongType,
                    format!("`{name}` is {}, expected {{\"type\": \"text\", \"text\": string}}", kind(part)),
                ));
            }
            (other, _) => {
                return Err(Fault::new(
                    Reason::WrongType,
                    format!("`{name}` is of type {other:?}; only text can be trained on, leave such rows out"),
                ));
            }
        }
    }
    Ok(())
}

/// Takes the weights of LLaMA-Factory's second generation away, where they say what is done here anyway: of a completion the
/// assistant's turns are scored, each alike, and no others. In a prompt they say nothing.
pub(super) fn settle_weights(prompt: &mut Text, completions: Vec<&mut Text>, name: &str) -> Result<(), Fault> {
    if let Text::Chat(messages) = prompt {
        messages.iter_mut().for_each(|message| drop(message.extra.remove(LOSS_WEIGHT)));
    }
    for completion in completions {
        let Text::Chat(messages) = completion else { continue };
        for message in messages {
            let Some(weight) = message.extra.remove(LOSS_WEIGHT) else { continue };
            let expected = if message.role == "assistant" { 1.0 } else { 0.0 };
            if !weight.as_f64().is_some_and(|weight| (weight - expected).abs() < f64::EPSILON) {
                return Err(Fault::new(
                    Reason::WrongType,
                    format!(
                        "`{name}`: a turn of role {:?} has loss_weight {weight}, expected {expected}: every turn of the \
                         assistant is scored alike, and no other",
                        message.role
                    ),
                ));
            }
        }
    }
    Ok(())
}

const LOSS_WEIGHT: &str = "loss_weight";

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &Value) -> Message {
        match text(value, "m").unwrap() {
            Text::Chat(messages) => messages.into_iter().next().unwrap(),
            Text::Plain(text) => panic!("{text}"),
        }
    }

    #[test]
    fn conversations_that_python_printed_are_told() {
        let printed = json!("[{'role': 'user', 'content': 'It\\'s late'}]");
        let fault = text(&printed, "prompt").unwrap_err();
        assert!(fault.detail.starts_with("`prompt` is a list of messages as Python prints it"), "{}", fault.detail);
        for plain in ["[{'a': 1}]", "{'role': 'user'}", "say [{'role': 'user'}]"] {
            assert_eq!(text(&json!(plain), "prompt").unwrap(), Text::Plain(plain.to_owned()));
        }
    }

    #[test]
    fn nulls_of_columnar_files_are_dropped() {
        let value = json!([{"role": "assistant", "content": null, "name": null,
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": null}}}]}]);
        let message = one(&value);
        assert_eq!(message.content, "");
        assert_eq!(message.extra["tool_calls"], json!([{"function": {"name": "f", "arguments": {"a": 1}}}]));
        // But for the content, which templates look at.
        assert_eq!(message.extra["content"], Value::Null);
        assert_eq!(message.extra.len(), 2);
        let silent = one(&json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]));
        assert_eq!(silent.extra.keys().collect::<Vec<_>>(), ["tool_calls"]);
    }

    #[test]
    fn speakers_of_sharegpt_get_the_roles_of_templates() {
        for (from, role) in [("human", "user"), ("gpt", "assistant"), ("observation", "tool"), ("narrator", "narrator")]
        {
            assert_eq!(one(&json!({"from": from, "value": "x"})).role, role);
        }
        let call = one(&json!({"from": "function_call", "value": r#"{"name": "f", "arguments": "{\"a\": 1}"}"#}));
        assert_eq!((call.role.as_str(), call.content.as_str()), ("assistant", ""));
        assert_eq!(
            call.extra["tool_calls"],
            json!([{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}])
        );
    }

    #[test]
    fn only_a_string_that_is_a_conversation_is_opened() {
        assert_eq!(text(&json!("[1]"), "m").unwrap(), Text::Plain("[1]".to_owned()));
        assert_eq!(text(&json!("[]"), "m").unwrap(), Text::Plain("[]".to_owned()));
        assert_eq!(one(&json!(r#"[{"role": "user", "content": "q"}]"#)), Message::new("user", "q"));
    }

    #[test]
    fn typed_parts_are_joined() {
        let parts =
            json!([{"type": "reasoning", "value": "r"}, {"type": "text", "value": "a"}, {"type": "text", "text": "b"}]);
        let message = one(&json!({"role": "assistant", "content": parts}));
        assert_eq!((message.content.as_str(), &message.extra["reasoning_content"]), ("ab", &json!("r")));
        let image =
            text(&json!([{"role": "user", "content": [{"type": "image", "value": "x.png"}]}]), "m").unwrap_err();
        assert!(image.detail.contains("`m[0].content[0]` is of type \"image\""), "{}", image.detail);
    }
}
