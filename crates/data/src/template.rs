//! Chat templates: the Jinja that ships with a tokenizer turns a conversation into text, as transformers'
//! `apply_chat_template` does.

use serde_json::{Map, Value};

use crate::jinja::{Template, is_space};
use crate::moment::Moment;
use crate::row::Message;
use crate::tokens::{SpecialTokens, TemplateSources};

/// How a conversation ends once it is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With its last message, closed.
    #[default]
    Closed,
    /// With the beginning of an answer of the assistant: `add_generation_prompt` of transformers.
    Generation,
    /// Inside of its last message, which goes on: `continue_final_message` of transformers.
    Continued,
}

/// What a chat template is told beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// Tools, each a JSON schema; none where empty.
    pub tools: &'a [Value],
    /// Further variables by name, as `enable_thinking`. They go before special tokens of the same name.
    pub template_arguments: Option<&'a Map<String, Value>>,
    /// How the text ends.
    pub ending: Ending,
}

impl RenderOptions<'_> {
    pub(crate) fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }
}

/// The templates of a tokenizer with what they are told of it.
#[derive(Debug)]
pub(crate) struct ChatTemplates {
    default: ChatTemplate,
    tool_use: Option<ChatTemplate>,
    /// Special tokens by their names.
    special: Map<String, Value>,
    date: Option<Moment>,
}

#[derive(Debug)]
struct ChatTemplate {
    source: String,
    compiled: Template,
}

impl ChatTemplate {
    fn new(source: &str) -> Result<Self, String> {
        let compiled = Template::new(source).map_err(|fail| fail.to_string())?;
        Ok(Self { source: source.to_owned(), compiled })
    }
}

/// What transformers passes of its own; the rest are the tokenizer's and the row's.
const OWN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

impl ChatTemplates {
    pub(crate) fn new(sources: &TemplateSources, special: SpecialTokens, date: Option<Moment>) -> Result<Self, String> {
        let mut named: Map<String, Value> =
            special.named.into_iter().map(|(name, token)| (name.to_owned(), Value::String(token))).collect();
        if !special.additional.is_empty() {
            named.insert("additional_special_tokens".to_owned(), special.additional.into());
        }
        let default = ChatTemplate::new(&sources.default)?;
        let tool_use = sources.tool_use.as_deref().map(ChatTemplate::new).transpose()?;
        Ok(Self { default, tool_use, special: named, date })
    }

    /// The text of a conversation.
    pub(crate) fn render(&self, messages: &[&Message], options: RenderOptions<'_>) -> Result<String, String> {
        if messages.is_empty() {
            return Err("the conversation has no message".to_owned());
        }
        let template = self.tool_use.as_ref().filter(|_| !options.tools.is_empty()).unwrap_or(&self.default);
        let mut turns: Vec<Value> = messages.iter().map(|message| turn(message)).collect();
        if options.ending != Ending::Continued {
            return self.run(template, turns, options);
        }
        // As transformers: a mark behind the content shows where the text has to stop.
        if !template.source.contains("content") {
            return Err("the template never looks at `content`, so there is nothing to continue".to_owned());
        }
        let begun = messages.last().map_or("", |message| message.content.as_str());
        if let Some(last) = turns.last_mut() {
            last["content"] = Value::String(format!("{begun}{MARK} "));
        }
        let text = self.run(template, turns, options)?;
        let at = text.rfind(MARK).filter(|_| text.contains(begun.trim_matches(is_space))).ok_or_else(|| {
            format!("the template leaves out the message to continue, or part of it: {}", crate::error::excerpt(begun))
        })?;
        let (before, after) = text.split_at(at);
        let kept = if after[MARK.len()..].starts_with(' ') { before } else { before.trim_end_matches(is_space) };
        Ok(kept.to_owned())
    }

    fn run(&self, template: &ChatTemplate, turns: Vec<Value>, options: RenderOptions<'_>) -> Result<String, String> {
        let nothing = Map::new();
        let arguments = options.template_arguments.unwrap_or(&nothing);
        if let Some(name) = OWN.into_iter().find(|name| arguments.contains_key(*name)) {
            return Err(format!("template_arguments names `{name}`, which every template is given already"));
        }
        let tools = if options.tools.is_empty() { Value::Null } else { Value::Array(options.tools.to_vec()) };
        let own = [
            ("messages", Value::Array(turns)),
            ("tools", tools),
            ("documents", Value::Null),
            ("add_generation_prompt", Value::Bool(options.ending == Ending::Generation)),
        ];
        let named = self.special.iter().chain(arguments).map(|(name, value)| (name.as_str(), value));
        let variables = own.iter().map(|(name, value)| (*name, value)).chain(named);
        template.compiled.render(variables, self.date).map_err(|fail| fail.to_string())
    }
}

const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG";

/// The names that reasoning goes by; templates read the first, older data write the others.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as a template sees it: role, content, and what else is there and not null. The content is null where the row
/// says so, which some templates branch on.
fn turn(message: &Message) -> Value {
    let given = message.extra.iter().filter(|(_, value)| !value.is_null());
    let mut turn = Map::new();
    turn.insert("role".to_owned(), Value::String(message.role.clone()));
    let null = message.content.is_empty() && message.extra.get("content").is_some_and(Value::is_null);
    let content = if null { Value::Null } else { Value::String(message.content.clone()) };
    turn.insert("content".to_owned(), content);
    turn.extend(given.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(reasoning) = REASONING.into_iter().find_map(|name| turn.get(name)).cloned() {
        turn.entry("thinking").or_insert_with(|| reasoning.clone());
        turn.insert("reasoning_content".to_owned(), reasoning);
    }
    Value::Object(turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}\n<|{{ message.role }}|>{{ message['content'].strip() }}{{ eos_token }}\n\
                          {% endfor %}\n{% if add_generation_prompt %}\n<|assistant|>\n{%- endif %}";

    fn templates(default: &str, tool_use: Option<&str>) -> ChatTemplates {
        let special =
            SpecialTokens { named: [("eos_token", "</s>".to_owned())].into(), additional: vec!["<a>".to_owned()] };
        let sources = TemplateSources { default: default.to_owned(), tool_use: tool_use.map(str::to_owned) };
        ChatTemplates::new(&sources, special, None).unwrap()
    }

    fn ending(ending: Ending) -> RenderOptions<'static> {
        RenderOptions { ending, ..RenderOptions::default() }
    }

    #[test]
    fn chatml() {
        let template = templates(CHATML, None);
        let user = Message::new("user", " hi ");
        assert_eq!(template.render(&[&user], ending(Ending::Generation)).unwrap(), "<|user|>hi</s>\n<|assistant|>");
        assert_eq!(template.render(&[&user], ending(Ending::Closed)).unwrap(), "<|user|>hi</s>\n");
        assert_eq!(template.render(&[&user], ending(Ending::Continued)).unwrap(), "<|user|>hi");
        assert!(template.render(&[], ending(Ending::Closed)).unwrap_err().contains("no message"));
    }

    #[test]
    fn what_a_template_is_told() {
        let told = templates(
            "{{ tools is none }} {{ documents is none }} {{ bos_token is defined }} {{ additional_special_tokens }} {{ extra }}",
            Some("{{ tools }} {{ eos_token }}"),
        );
        let user = Message::new("user", "");
        let arguments = serde_json::json!({"extra": false, "eos_token": "E"});
        let options = RenderOptions { template_arguments: arguments.as_object(), ..RenderOptions::default() };
        assert_eq!(told.render(&[&user], options).unwrap(), "True True False ['<a>'] False");
        let tools = [serde_json::json!({"b": 1, "a": null})];
        assert_eq!(
            told.render(&[&user], RenderOptions { tools: &tools, ..options }).unwrap(),
            "[{'b': 1, 'a': None}] E"
        );
        let wrong = serde_json::json!({"messages": []});
        let options = RenderOptions { template_arguments: wrong.as_object(), ..options };
        assert!(told.render(&[&user], options).unwrap_err().contains("template_arguments names `messages`"));
    }

    #[test]
    fn reasoning_goes_by_several_names_and_null_is_not_there() {
        let told = templates(
            "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.name is defined }} {% endfor %}",
            None,
        );
        let mut message = Message::new("assistant", "a");
        message.extra.insert("reasoning".to_owned(), "r".into());
        message.extra.insert("name".to_owned(), Value::Null);
        assert_eq!(told.render(&[&message], ending(Ending::Closed)).unwrap(), "r|r|False ");
    }

    #[test]
    fn a_content_of_null_stays_null() {
        let calls = templates(
            "{% for m in messages %}{% if m['content'] is none %}call {{ m.tool_calls[0].name }}{% else %}said \
             {{ m['content'] }}{% endif %};{% endfor %}",
            None,
        );
        let mut message = Message::new("assistant", "");
        message.extra.insert("tool_calls".to_owned(), serde_json::json!([{"name": "f"}]));
        assert_eq!(calls.render(&[&message], ending(Ending::Closed)).unwrap(), "said ;");
        message.extra.insert("content".to_owned(), Value::Null);
        assert_eq!(calls.render(&[&message], ending(Ending::Closed)).unwrap(), "call f;");
        // A content that is there wins.
        message.content = "x".to_owned();
        assert_eq!(calls.render(&[&message], ending(Ending::Closed)).unwrap(), "said x;");
    }

    #[test]
    fn what_cannot_be_continued_is_named() {
        let message = Message::new("assistant", "Sure, it is");
        let found = |source| templates(source, None).render(&[&message], ending(Ending::Continued)).unwrap_err();
        assert!(found("{{ messages[0].role }}").contains("never looks at `content`"));
        assert!(found("{{ messages[0].content[:4] }}").contains("leaves out the message to continue"));
    }
}
