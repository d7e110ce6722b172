//! The prompt of a row: one column, or a conversation put together from several.

use serde_json::{Map, Value};

use super::columns::View;
use super::messages::text;
use super::value::{kind, list, opened};
use crate::error::{Fault, Reason, excerpt};
use crate::row::{Message, Record, Row, Text};

/// The prompt, if there is a column for it. An alpaca `input` goes after its instruction, on a line of its own; `system` and
/// `history` make a conversation, in every row of a file that has the column.
pub(super) fn prompt(view: View<'_>) -> Result<Option<Text>, Fault> {
    let Some(value) = view.get("prompt") else { return Ok(None) };
    let mut prompt = text(value, view.name("prompt"))?;
    if let Text::Plain(instruction) = &mut prompt {
        append_input(view, instruction)?;
    }
    Ok(Some(before(view, prompt)?))
}

/// The prompt, which must be there.
pub(super) fn need_prompt(view: View<'_>) -> Result<Text, Fault> {
    prompt(view)?.ok_or_else(|| view.lacks("prompt"))
}

fn append_input(view: View<'_>, instruction: &mut String) -> Result<(), Fault> {
    if view.name("prompt") != "instruction" || view.columns.is_source("input") {
        return Ok(());
    }
    match view.plain("input") {
        None => {}
        Some(Value::String(input)) if input.is_empty() => {}
        Some(Value::String(input)) => {
            instruction.push('\n');
            instruction.push_str(input);
        }
        Some(other) => {
            return Err(Fault::new(Reason::WrongType, format!("`input` is {}, expected a string", kind(other))));
        }
    }
    Ok(())
}

/// System and history before a prompt, where the file has such columns.
fn before(view: View<'_>, prompt: Text) -> Result<Text, Fault> {
    let has = |name: &str| view.columns.holds(view.object, name);
    let (system, history) = (has("system"), has("history"));
    if !system && !history {
        return Ok(prompt);
    }
    let mut messages = Vec::new();
    let spoken = if system { view.string("system")?.filter(|system| !system.is_empty()) } else { None };
    let own_system = match &prompt {
        Text::Chat(chat) => chat.first().filter(|first| first.role == "system"),
        Text::Plain(_) => None,
    };
    match (spoken, own_system) {
        (Some(system), Some(own)) if system.trim() != own.content.trim() => {
            return Err(Fault::new(
                Reason::PromptsDiffer,
                format!(
                    "`{}` is {}, and the system message of `{}` is {}; leave one of them out",
                    view.name("system"),
                    excerpt(system),
                    view.name("prompt"),
                    excerpt(&own.content)
                ),
            ));
        }
        (Some(system), None) => messages.push(Message::new("system", system)),
        _ => {}
    }
    if history && let Some(value) = view.get("history") {
        past_turns(value, view.name("history"), &mut messages)?;
    }
    match prompt {
        Text::Plain(prompt) => messages.push(Message::new("user", prompt)),
        Text::Chat(chat) => messages.extend(chat),
    }
    Ok(Text::Chat(messages))
}

fn past_turns(value: &Value, name: &str, messages: &mut Vec<Message>) -> Result<(), Fault> {
    for (index, turn) in list(value, name)?.iter().enumerate() {
        let pair = turn.as_array().map(Vec::as_slice);
        let Some([Value::String(question), Value::String(answer)]) = pair else {
            return Err(Fault::new(
                Reason::WrongType,
                format!("`{name}[{index}]` is {}, expected [question, answer]", kind(turn)),
            ));
        };
        messages.push(Message::new("user", question.as_str()));
        messages.push(Message::new("assistant", answer.as_str()));
    }
    Ok(())
}

/// A completion of the same kind as its prompt.
pub(super) fn completion(prompt: &Text, completion: Text, name: &str) -> Result<Text, Fault> {
    match (prompt, completion) {
        (Text::Chat(_), Text::Plain(answer)) => Ok(Text::Chat(vec![Message::new("assistant", answer)])),
        (Text::Plain(_), Text::Chat(_)) => Err(Fault::new(
            Reason::WrongType,
            format!("`prompt` is a string and `{name}` a list of messages; give the prompt as messages too"),
        )),
        (_, completion) => Ok(completion),
    }
}

/// Prompt and completion of a row with one completion: two columns, or a conversation that ends with the assistant.
pub(super) fn with_completion(view: View<'_>) -> Result<(Text, Text), Fault> {
    let prompt = need_prompt(view)?;
    if let Some(value) = view.get("completion") {
        let answer = text(value, view.name("completion"))?;
        let answer = completion(&prompt, answer, view.name("completion"))?;
        return Ok((prompt, answer));
    }
    match prompt {
        Text::Chat(messages) => last_turns(messages, view.name("prompt")),
        Text::Plain(_) => Err(view.lacks("completion")),
    }
}

/// The assistant's messages at the end of a conversation, and what comes before them.
fn last_turns(mut messages: Vec<Message>, name: &str) -> Result<(Text, Text), Fault> {
    let spoken = messages.iter().rev().take_while(|message| message.role == "assistant").count();
    let start = messages.len() - spoken;
    if spoken == 0 || start == 0 {
        let last = messages.last().map_or("", |message| message.role.as_str());
        let what = if spoken == 0 {
            format!("`{name}` ends with a message of role {last:?}, expected \"assistant\"")
        } else {
            format!("`{name}` has only messages of the assistant, expected one of the user before them")
        };
        return Err(Fault::new(Reason::NoAssistantTurn, what));
    }
    let completion = messages.split_off(start);
    Ok((Text::Chat(messages), Text::Chat(completion)))
}

/// A record of a row with the tools and template arguments of its object.
pub(super) fn record(view: View<'_>, row: Row) -> Result<Record, Fault> {
    let media = |name: &&&str| !view.columns.is_source(name) && view.plain(name).is_some_and(is_filled);
    if let Some(name) = MEDIA.iter().find(media) {
        let detail = format!("`{name}` is not empty; only text can be trained on, leave such rows out");
        return Err(Fault::new(Reason::WrongType, detail));
    }
    Ok(Record { tools: tools(view)?, template_arguments: arguments(view)?, ..Record::from(row) })
}

/// Columns of what is no text.
const MEDIA: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];

/// Whether there is anything in a value: columnar files have lists and objects of nothing.
fn is_filled(value: &Value) -> bool {
    match value {
        Value::String(text) => !matches!(text.trim(), "" | "[]" | "{}" | "null"),
        Value::Array(list) => list.iter().any(is_filled),
        Value::Object(object) => object.values().any(is_filled),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn tools(view: View<'_>) -> Result<Vec<Value>, Fault> {
    let Some(value) = view.get("tools") else { return Ok(Vec::new()) };
    let name = view.name("tools");
    if value.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Ok(Vec::new());
    }
    let tools = list(value, name).map_err(|_| {
        Fault::new(
            Reason::WrongType,
            format!("`{name}` is {}, expected a list of JSON schemas or a string that holds one", kind(value)),
        )
    })?;
    for (index, tool) in tools.iter().enumerate() {
        if !tool.is_object() {
            return Err(Fault::new(
                Reason::WrongType,
                format!("`{name}[{index}]` is {}, expected an object: the schema of a tool", kind(tool)),
            ));
        }
    }
    Ok(tools.into_iter().map(super::value::without_nulls).collect())
}

fn arguments(view: View<'_>) -> Result<Map<String, Value>, Fault> {
    let Some(value) = view.get("chat_template_kwargs") else { return Ok(Map::new()) };
    match opened(value).into_owned() {
        Value::Object(arguments) => Ok(arguments.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => Err(Fault::new(
            Reason::WrongType,
            format!(
                "`{}` is {}, expected an object of template variables",
                view.name("chat_template_kwargs"),
                kind(&other)
            ),
        )),
    }
}
