//! Conversations through real templates and made-up ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candlewick_data::{
    Boundary, EncodeOptions, Encoder, Example, Message, Origin, Reason, Record, RenderOptions, Row, Text,
    TokenizerFiles,
};
use common::{SMALL, Small, chat};

fn with_template(template: &str, options: EncodeOptions) -> Encoder {
    let (tokenizer, config) = (common::tokenizer_json(SMALL), common::config_json(SMALL));
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        tokenizer_config: Some(&config),
        chat_template: Some(template),
        ..TokenizerFiles::default()
    };
    Encoder::from_files(&files, options).unwrap()
}

fn row(prompt: &[(&str, &str)], completion: &[(&str, &str)]) -> Row {
    Row::Demonstration { prompt: chat(prompt), completion: chat(completion) }
}

fn parts(encoder: &Encoder, row: &Row) -> (String, String) {
    let example = encode(encoder, row);
    let context = &example.contexts[0];
    (encoder.decode(&context.prompt), encoder.decode(&context.completions[0].ids))
}

fn encode(encoder: &Encoder, row: &Row) -> Example {
    encoder.encode(row, &Origin::memory(1)).unwrap()
}

#[test]
fn the_template_decides_on_special_tokens() {
    for boundary in [Boundary::Offsets, Boundary::CommonPrefix] {
        let options = EncodeOptions { boundary, ..EncodeOptions::default() };
        let encoder = with_template(common::CHAT_TEMPLATE, options);
        let (prompt, completion) = parts(&encoder, &row(&[("user", "hi")], &[("assistant", "yo")]));
        // One <s>, the template's; no </s>, for the template has none.
        assert_eq!(prompt, "<s><|user|> hi<|end|><|assistant|>");
        assert_eq!(completion, " yo<|end|>");
    }
}

#[test]
fn in_a_completion_of_several_turns_only_the_assistants_are_scored() {
    let several = row(&[("user", "a")], &[("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let scored = |boundary| {
        let encoder = with_template(common::CHAT_TEMPLATE, EncodeOptions { boundary, ..EncodeOptions::default() });
        let example = encode(&encoder, &several);
        encoder.describe(&example).lines().last().unwrap().to_owned()
    };
    assert_eq!(
        scored(Boundary::Offsets),
        "  completion, 11 tokens, 6 scored: ⟦\" b<|end|>\"⟧\"<|user|> c<|end|><|assistant|>\"⟦\" d<|end|>\"⟧"
    );
    assert_eq!(
        scored(Boundary::CommonPrefix),
        "  completion, 11 tokens, 11 scored: ⟦\" b<|end|><|user|> c<|end|><|assistant|> d<|end|>\"⟧"
    );
}

#[test]
fn a_template_that_rewrites_the_prompt_is_caught() {
    // Says something else about the prompt once an answer follows.
    let template =
        "{{ 'long' if messages | length > 1 else 'short' }}{% for m in messages %} {{ m.content }}{% endfor %}";
    let encoder = with_template(template, EncodeOptions::default());
    let rejection = encoder.encode(&row(&[("user", "q")], &[("assistant", "a")]), &Origin::memory(1)).unwrap_err();
    assert_eq!(rejection.reason, Reason::PromptRewritten);
    assert!(rejection.detail.contains("\"short q\"") && rejection.detail.contains("\"long q a\""), "{rejection}");
    assert!(rejection.detail.contains("boundary = \"common_prefix\""), "{rejection}");
    // TRL cuts where the two part.
    let options = EncodeOptions { boundary: Boundary::CommonPrefix, ..EncodeOptions::default() };
    let template = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|> think{% endif %}";
    let row = row(&[("user", "hi")], &[("assistant", "yo")]);
    let offsets = with_template(template, EncodeOptions::default()).encode(&row, &Origin::memory(1));
    assert_eq!(offsets.unwrap_err().reason, Reason::PromptRewritten);
    let (prompt, completion) = parts(&with_template(template, options), &row);
    let whole = format!("{prompt}{completion}").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(prompt.split_whitespace().eq(["<|user|>", "hi<|end|><|assistant|>"]), "{prompt}");
    assert_eq!(whole, "<|user|> hi<|end|><|assistant|> yo<|end|>");
    let nobody = self::row(&[("user", "hi")], &[("user", "yo")]);
    let refused = with_template(template, options).encode(&nobody, &Origin::memory(1));
    assert_eq!(refused.unwrap_err().reason, Reason::NoAssistantTurn);
}

#[test]
fn a_template_that_refuses_sets_the_row_aside() {
    let template = "{% if messages[0].role != 'user' %}{{ raise_exception('must begin with user') }}{% endif %}";
    let encoder = with_template(template, EncodeOptions::default());
    let rejection = encoder.encode(&row(&[("system", "q")], &[("assistant", "a")]), &Origin::memory(1)).unwrap_err();
    assert_eq!(rejection.reason, Reason::TemplateFailed);
    assert!(rejection.detail.contains("must begin with user"), "{rejection}");
}

#[test]
fn the_default_of_several_templates_is_taken() {
    let tokenizer = common::tokenizer_json(SMALL);
    let config = |name: &str| {
        serde_json::json!({"eos_token": "</s>", "chat_template": [
            {"name": "tool_use", "template": "x"}, {"name": name, "template": common::CHAT_TEMPLATE}]})
        .to_string()
    };
    let of = |config: &str| {
        let files = TokenizerFiles {
            tokenizer: &tokenizer,
            tokenizer_config: Some(config.as_bytes()),
            ..TokenizerFiles::default()
        };
        Encoder::from_files(&files, EncodeOptions::default())
    };
    assert!(of(&config("default")).unwrap().has_chat_template());
    assert!(of(&config("rag")).unwrap_err().to_string().contains("without an entry named \"default\""));
    assert!(!common::encoder(Small { chat: false, ..SMALL }, EncodeOptions::default()).has_chat_template());
}

#[test]
fn other_keys_of_a_message_reach_the_template() {
    let template = "{% for m in messages %}{{ m.name }}:{{ m.content }};{% endfor %}";
    let encoder = with_template(template, EncodeOptions::default());
    let mut asking = Message::new("user", "q");
    asking.extra.insert("name".into(), "ann".into());
    let row = Row::Demonstration { prompt: Text::Chat(vec![asking]), completion: chat(&[("assistant", "a")]) };
    assert_eq!(parts(&encoder, &row), ("▁ann:q;".replace('▁', " "), ":a;".to_owned()));
}

#[test]
fn templates_in_the_wild() {
    let talk = row(&[("user", "Hi there")], &[("assistant", "Hello.")]);
    let options = EncodeOptions::default();
    if let Some(encoder) = common::shared_tokenizer("phi-3-mini", options) {
        let (prompt, completion) = parts(&encoder, &talk);
        assert!(prompt.starts_with("<|user|>") && prompt.trim_end().ends_with("<|assistant|>"), "{prompt}");
        assert_eq!(completion, "Hello.<|end|><|endoftext|>");
    }
    if let Some(encoder) = common::shared_tokenizer("mistral-7b-v0.2", options) {
        // This template asks for a system message.
        let talk = row(&[("system", "Be kind."), ("user", "Hi there")], &[("assistant", "Hello.")]);
        let (prompt, completion) = parts(&encoder, &talk);
        assert!(
            prompt.starts_with("<s>") && prompt.ends_with("[/INST]") && prompt.matches("<s>").count() == 1,
            "{prompt}"
        );
        assert_eq!(completion, "Hello.</s>");
    }
    // Templates of tokenizers too large to be here, rendered by a small one.
    for name in ["qwen2.5", "qwen3", "smollm3"] {
        let Some(dir) = common::asset(&format!("assets/tokenizers/{name}")) else {
            return;
        };
        let (tokenizer, config) =
            (common::tokenizer_json(SMALL), std::fs::read(dir.join("tokenizer_config.json")).unwrap());
        let template = std::fs::read_to_string(dir.join("chat_template.jinja")).ok();
        let files = TokenizerFiles {
            tokenizer: &tokenizer,
            tokenizer_config: Some(&config),
            chat_template: template.as_deref(),
            model_config: Some(br#"{"eos_token_id": 2, "bos_token_id": 1}"#),
            ..TokenizerFiles::default()
        };
        let encoder = Encoder::from_files(&files, options).unwrap_or_else(|error| panic!("{name}: {error}"));
        thinking_of_earlier_turns_is_no_obstacle(name, &files);
        match encoder.encode(&talk, &Origin::memory(1)) {
            Ok(example) => {
                let completion = encoder.decode(&example.contexts[0].completions[0].ids);
                assert!(completion.contains("Hello.<|im_end|>"), "{name}: {completion}");
                let prompt = encoder.decode(&example.contexts[0].prompt);
                assert!(prompt.trim_end().ends_with("<|im_start|>assistant"), "{name}: {prompt}");
            }
            // SmolLM3's asks for the date, which nobody gave.
            Err(rejection) => {
                assert!(name == "smollm3" && rejection.detail.contains("give one, as date"), "{name}: {rejection}")
            }
        }
    }
}

/// Qwen3's template takes the reasoning out of turns before the last question: prompt and completion still fit together.
fn thinking_of_earlier_turns_is_no_obstacle(name: &str, files: &TokenizerFiles<'_>) {
    let options =
        EncodeOptions { date: Some("2026-03-07".parse().unwrap()), max_length: None, ..EncodeOptions::default() };
    let encoder = Encoder::from_files(files, options).unwrap();
    let talk = row(
        &[("user", "One?"), ("assistant", "<think>\nhm\n</think>\n\nYes."), ("user", "Two?")],
        &[("assistant", "<think>\nso\n</think>\n\nNo.")],
    );
    let example = encode(&encoder, &talk);
    let context = &example.contexts[0];
    let (prompt, completion) = (encoder.decode(&context.prompt), encoder.decode(&context.completions[0].ids));
    assert!(completion.contains("<think>\nso\n</think>\n\nNo.<|im_end|>"), "{name}: {completion}");
    assert_eq!(prompt.contains("hm"), name != "qwen3", "{name}: {prompt}");
}

#[test]
fn a_prompt_that_ends_with_the_assistant_is_continued() {
    let prompt = chat(&[("user", "q"), ("assistant", "Sure, ")]);
    let completions = [chat(&[("assistant", "it is")]), Text::Plain("it is".into())];
    for completion in completions {
        let row = Row::Demonstration { prompt: prompt.clone(), completion: completion.clone() };
        let encoder = with_template(common::CHAT_TEMPLATE, EncodeOptions::default());
        let (begun, rest) = parts(&encoder, &row);
        assert_eq!((begun.as_str(), rest.as_str()), ("<s><|user|> q<|end|><|assistant|> Sure, ", "it is<|end|>"));
        assert_eq!(encoder.encode_prompt(&prompt).unwrap(), encode(&encoder, &row).contexts[0].prompt);
        // TRL closes the message and opens another.
        let options = EncodeOptions { boundary: Boundary::CommonPrefix, ..EncodeOptions::default() };
        let (begun, rest) = parts(&with_template(common::CHAT_TEMPLATE, options), &row);
        assert_eq!(begun, "<s><|user|> q<|end|><|assistant|> Sure, <|end|><|assistant|>");
        assert_eq!(rest, " it is<|end|>");
    }
    // A message of the user after it closes the turn.
    let encoder = with_template(common::CHAT_TEMPLATE, EncodeOptions::default());
    let row = Row::Demonstration { prompt, completion: chat(&[("user", "and?"), ("assistant", "so")]) };
    assert_eq!(parts(&encoder, &row).1, " so<|end|>");
}

#[test]
fn tools_and_variables_of_a_row_reach_the_template() {
    let template = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let encoder = with_template(template, EncodeOptions::default());
    let row = row(&[("user", "q")], &[("assistant", "a")]);
    let mut record = Record::from(row.clone());
    record.tools = vec![serde_json::from_str(r#"{"name": "f", "args": {"z": 1, "a": null}}"#).unwrap()];
    record.template_arguments.insert("mood".into(), "calm".into());
    let example = encoder.encode_record(&record, &Origin::memory(1)).unwrap();
    let shown = encoder.decode(&example.contexts[0].prompt);
    // In the order of the row's own text.
    assert_eq!(shown, r#" {"name": "f", "args": {"z": 1, "a": null}}calmq"#);
    assert_eq!(parts(&encoder, &row).0, " q");
}

#[test]
fn a_turn_that_is_rewritten_once_others_follow_is_caught() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{% if loop.last %}I have thought about this at length: {% endif %}{{ m.content }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let encoder = with_template(template, EncodeOptions::default());
    let several = row(&[("user", "a")], &[("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let rejection = encoder.encode(&several, &Origin::memory(1)).unwrap_err();
    assert_eq!(rejection.reason, Reason::PromptRewritten);
    assert!(rejection.detail.contains("I have thought") && rejection.detail.contains("with"), "{rejection}");
}

#[test]
fn a_token_that_ends_the_whole_conversation_is_no_part_of_an_earlier_turn() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}";
    let encoder = with_template(template, EncodeOptions::default());
    let several = row(&[("user", "a")], &[("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let shown = encoder.describe(&encode(&encoder, &several)).lines().last().unwrap().to_owned();
    assert_eq!(
        shown,
        "  completion, 12 tokens, 7 scored: ⟦\" b<|end|>\"⟧\"<|user|> c<|end|><|assistant|>\"⟦\" d<|end|></s>\"⟧"
    );
}

/// What a model is asked is what a row with the same answer is trained on.
#[test]
fn a_prompt_alone_is_told_of_tools_and_variables_as_a_row_is() {
    const TEMPLATE: &str = "{% for tool in tools or [] %}<|user|> {{ tool.name }}{% endfor %}{% if mood %} {{ mood }}{% endif %}\
        {% for m in messages %}<|{{ m.role }}|> {{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let encoder = with_template(TEMPLATE, EncodeOptions::default());
    let prompt = chat(&[("user", "q")]);
    let row = Row::Demonstration { prompt: prompt.clone(), completion: chat(&[("assistant", "a")]) };
    let mut record = Record::from(row);
    record.tools = vec![serde_json::json!({"name": "b"})];
    record.template_arguments.insert("mood".to_owned(), "c".into());
    let told = encoder.encode_prompt_told(&prompt, &record.tools, &record.template_arguments).unwrap();
    let example = encoder.encode_record(&record, &Origin::memory(1)).unwrap();
    assert_eq!(told, example.contexts[0].prompt);
    assert!(told.len() > encoder.encode_prompt(&prompt).unwrap().len(), "{}", encoder.decode(&told));
}

#[test]
fn conversations_with_tools_have_a_template_of_their_own() {
    let tokenizer = common::tokenizer_json(SMALL);
    let config = common::config_json(SMALL);
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        tokenizer_config: Some(&config),
        chat_template: Some("plain"),
        tool_use_template: Some("with {{ tools | length }}"),
        ..TokenizerFiles::default()
    };
    let encoder = Encoder::from_files(&files, EncodeOptions::default()).unwrap();
    let user = [Message::new("user", "q")];
    let tools = [serde_json::json!({"name": "f"})];
    assert_eq!(encoder.render_chat(&user, RenderOptions::default()).unwrap(), "plain");
    let options = RenderOptions { tools: &tools, ..RenderOptions::default() };
    assert_eq!(encoder.render_chat(&user, options).unwrap(), "with 1");
}
