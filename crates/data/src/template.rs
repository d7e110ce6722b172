//! Chat templates: the Jinja that ships with a tokenizer turns a conversation into text.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::row::Message;
use crate::tokens::SpecialTokens;

const NAME: &str = "chat_template";

/// A compiled chat template with the environment transformers gives it: `raise_exception`, `tojson` as Python writes it,
/// Python's string methods, trimmed blocks, `{% generation %}` marks, loop controls.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
}

impl ChatTemplate {
    pub(crate) fn new(source: &str, special: SpecialTokens) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|error| describe(&error))?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(|error| describe(&error))?;
        Ok(Self { environment, special })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant's answer begins.
    pub(crate) fn render(&self, messages: &[&Message], add_generation_prompt: bool) -> Result<String, String> {
        let messages: Vec<Value> = messages.iter().map(|message| Value::from(Serde(Turn(message)))).collect();
        let special = &self.special;
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt,
                    bos_token => special.bos.as_deref().unwrap_or(""),
                    eos_token => special.eos.as_deref().unwrap_or(""),
                    pad_token => special.pad.as_deref().unwrap_or(""),
                    unk_token => special.unk.as_deref().unwrap_or(""),
                })
            })
            .map_err(|error| describe(&error))
    }
}

/// A message as a template sees it: one map of role, content and the rest.
struct Turn<'a>(&'a Message);

impl Serialize for Turn<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2 + self.0.extra.len()))?;
        map.serialize_entry("role", &self.0.role)?;
        map.serialize_entry("content", &self.0.content)?;
        for (key, value) in &self.0.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// An error with the line of the template.
fn describe(error: &minijinja::Error) -> String {
    let mut text =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
}

/// transformers marks the assistant's turns with a tag of its own, which changes no text: it becomes a block that always runs.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (inside, end) = (&rest[start + 2..start + length], start + length + 2);
        out.push_str(&rest[..start]);
        let word = inside.trim_matches(|character: char| character.is_whitespace() || matches!(character, '-' | '+'));
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", inside.replacen(word, "if true", 1))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inside.replacen(word, "endif", 1))),
            _ => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// `tojson` as transformers has it: Python's separators, nothing escaped for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The two that change nothing here: keys come as they stand, and text is never escaped to ASCII.
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    if let Some(width) = indent.filter(|width| *width > WIDEST_INDENT) {
        let text = format!("tojson(indent={width}): expected at most {WIDEST_INDENT}");
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, text));
    }
    let failed = |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let spaces = vec![b' '; width];
            let mut serializer =
                serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(&spaces));
            value.serialize(&mut serializer).map_err(failed)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter);
            value.serialize(&mut serializer).map_err(failed)?;
        }
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// The greatest `indent` of `tojson`: a template cannot ask for more memory than its text is worth.
const WIDEST_INDENT: usize = 64;

/// `json.dumps` with its default separators.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() };
        ChatTemplate::new(source, special).unwrap()
    }

    #[test]
    fn chatml() {
        let template = template(
            "{% for message in messages %}\n<|{{ message.role }}|>{{ message['content'].strip() }}{{ eos_token }}\n{% endfor %}\n\
             {% if add_generation_prompt %}\n<|assistant|>\n{%- endif %}",
        );
        let user = Message::new("user", " hi ");
        assert_eq!(template.render(&[&user], true).unwrap(), "<|user|>hi</s>\n<|assistant|>");
        assert_eq!(template.render(&[&user], false).unwrap(), "<|user|>hi</s>\n");
    }

    #[test]
    fn generation_marks_change_no_text() {
        let marked =
            template("{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}{% endfor %}");
        assert_eq!(marked.render(&[&Message::new("user", "a"), &Message::new("user", "b")], false).unwrap(), "ab");
    }

    #[test]
    fn a_template_can_refuse() {
        let refusing = template("{{ raise_exception('roles must alternate') }}");
        assert!(refusing.render(&[], false).unwrap_err().contains("roles must alternate"));
        assert!(ChatTemplate::new("{% for %}", SpecialTokens::default()).unwrap_err().contains("line 1"));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let dumping = template("{{ messages[0].tools | tojson }}");
        let mut message = Message::new("user", "");
        message.extra.insert("tools".into(), serde_json::json!({"name": "<f>", "size": [1, 2.5, null]}));
        assert_eq!(dumping.render(&[&message], false).unwrap(), r#"{"name": "<f>", "size": [1, 2.5, null]}"#);
        let wide = template("{{ messages[0].tools | tojson(indent=9223372036854775807) }}");
        let text = wide.render(&[&message], false).unwrap_err();
        assert!(text.contains("tojson(indent=9223372036854775807): expected at most 64"), "{text}");
    }
}
