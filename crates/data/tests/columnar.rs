//! Forms whose columns are nested, from Parquet: every object of a column has every key there, null where a row had none.
#![cfg(feature = "columnar")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use arrow_json::reader::infer_json_schema_from_iterator;
use candlewick_data::{
    EncodeOptions, Encoder, Form, Message, Order, Record, Row, Source, SourceOptions, Stream, Text, TokenizerFiles,
};
use common::{SMALL, Small, chat, config_json, tokenizer_json};
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value, json};

/// The rows as a Parquet file, by the types that all of them together tell.
fn parquet(rows: &[Value]) -> tempfile::NamedTempFile {
    let schema = infer_json_schema_from_iterator(rows.iter().map(Ok::<_, arrow_schema::ArrowError>)).unwrap();
    let schema = Arc::new(schema);
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let batches = arrow_json::ReaderBuilder::new(Arc::clone(&schema)).build(text.as_bytes()).unwrap();
    let file = tempfile::Builder::new().suffix(".parquet").tempfile().unwrap();
    let mut writer = ArrowWriter::try_new(file.reopen().unwrap(), schema, None).unwrap();
    for batch in batches {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
    file
}

/// What rows become once they went through Parquet.
fn read(rows: &[Value], options: &SourceOptions) -> (Form, Vec<Record>) {
    let file = parquet(rows);
    let source = Source::open(&SourceOptions { path: file.path().into(), ..options.clone() }).unwrap();
    let records = source.records().unwrap().map(|row| row.unwrap().unwrap().1).collect();
    (source.form(), records)
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn with(row: Row, numbers: &[(&str, f64)]) -> Record {
    numbers.iter().fold(Record::from(row), |record, (name, value)| record.with_number(*name, *value))
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Row {
    Row::Pair { prompt: plain(prompt), chosen: plain(chosen), rejected: plain(rejected) }
}

fn spoken(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> Row {
    let answer = |text| chat(&[("assistant", text)]);
    Row::Pair { prompt: chat(prompt), chosen: answer(chosen), rejected: answer(rejected) }
}

fn turns(turns: &[(&str, &str)]) -> Value {
    turns.iter().map(|(role, content)| json!({"content": content, "role": role})).collect()
}

#[test]
fn ultrafeedback_binarized() {
    let row = |prompt: &str, chosen: &str, rejected: &str, scores: [f64; 2]| {
        let whole = |answer| turns(&[("user", prompt), ("assistant", answer)]);
        json!({"prompt": prompt, "prompt_id": "7f", "chosen": whole(chosen), "rejected": whole(rejected),
            "messages": whole(chosen), "score_chosen": scores[0], "score_rejected": scores[1]})
    };
    let rows = [row("Tea?", "Green.", "Black.", [8.5, 6.0]), row("Milk?", "No.", "Yes.", [7.0, 7.5])];
    let numbers = |chosen, rejected, margin, preference| {
        [("score_chosen", chosen), ("score_rejected", rejected), ("margin", margin), ("preference", preference)]
    };
    let expected = vec![
        with(spoken(&[("user", "Tea?")], "Green.", "Black."), &numbers(8.5, 6.0, 2.5, 1.0)),
        with(spoken(&[("user", "Milk?")], "No.", "Yes."), &numbers(7.0, 7.5, -0.5, 1.0)),
    ];
    assert_eq!(read(&rows, &SourceOptions::default()), (Form::UltrafeedbackBinarized, expected));
}

#[test]
fn ultrafeedback() {
    let aspect = |rating: &str| json!({"Rating": rating, "Rationale": "r", "Type": ["1"]});
    let completion = |text: &str, overall: f64, helpful: &str| {
        json!({"annotations": {"helpfulness": aspect(helpful), "honesty": {"Rating": "5", "Rationale": "r"}}, "model": "m",
            "overall_score": overall, "principle": "p", "response": text, "custom_system_prompt": "s"})
    };
    let rows = [json!({"source": "s", "instruction": "Tea?", "models": ["m", "n"], "correct_answers": ["None"],
        "completions": [completion("Green.", 7.5, "3"), completion("Black.", 6.0, "4")]})];
    let ranked = |ratings: [f64; 2]| {
        let completions = vec![(plain("Green."), ratings[0]), (plain("Black."), ratings[1])];
        vec![Record::from(Row::Ranked { prompt: plain("Tea?"), completions })]
    };
    assert_eq!(read(&rows, &SourceOptions::default()), (Form::Ultrafeedback, ranked([7.5, 6.0])));
    let helpful = SourceOptions { criterion: Some("helpfulness".to_owned()), ..SourceOptions::default() };
    assert_eq!(read(&rows, &helpful), (Form::Ultrafeedback, ranked([3.0, 4.0])));
}

#[test]
fn safe_rlhf() {
    let harm = json!({"Endangering National Security": false, "Insulting Behavior": true, "Violence": false});
    let row = |better: u8, safer: u8, safe: [bool; 2]| {
        json!({"prompt": "Tea?", "response_0": "Green.", "response_1": "Black.", "prompt_source": "s",
            "response_0_source": "Alpaca-7B", "response_1_source": "Alpaca2-7B", "is_response_0_safe": safe[0],
            "is_response_1_safe": safe[1], "response_0_harm_category": harm, "response_1_harm_category": harm,
            "response_0_severity_level": 2 * u8::from(!safe[0]), "response_1_severity_level": 2 * u8::from(!safe[1]),
            "better_response_id": better,
            "safer_response_id": safer, "response_0_sha256": "0a", "response_1_sha256": "0b"})
    };
    let rows = [row(1, 0, [true, false]), row(0, 0, [true, true])];
    let numbers = |better, safer, chosen: f64, rejected: f64| {
        [
            ("better", better),
            ("safer", safer),
            ("safe_chosen", chosen),
            ("safe_rejected", rejected),
            ("severity_chosen", 2.0 - 2.0 * chosen),
            ("severity_rejected", 2.0 - 2.0 * rejected),
            ("harms_chosen", 1.0),
            ("harms_rejected", 1.0),
            ("preference", 1.0),
        ]
    };
    let better = vec![
        with(pair("Tea?", "Black.", "Green."), &numbers(1.0, -1.0, 0.0, 1.0)),
        with(pair("Tea?", "Green.", "Black."), &numbers(1.0, 1.0, 1.0, 1.0)),
    ];
    assert_eq!(read(&rows, &SourceOptions::default()), (Form::SafeRlhf, better));
    let safer = SourceOptions { criterion: Some("safer".to_owned()), ..SourceOptions::default() };
    let expected = vec![
        with(pair("Tea?", "Green.", "Black."), &numbers(-1.0, 1.0, 1.0, 0.0)),
        with(pair("Tea?", "Green.", "Black."), &numbers(1.0, 1.0, 1.0, 1.0)),
    ];
    assert_eq!(read(&rows, &safer), (Form::SafeRlhf, expected));
}

#[test]
fn helpsteer_in_both_of_its_files() {
    let rows = [
        json!({"prompt": "Tea?", "response": "Green.", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1,
            "verbosity": 2}),
    ];
    let shown = Row::Demonstration { prompt: plain("Tea?"), completion: plain("Green.") };
    let attributes = [
        ("helpfulness", 3.0),
        ("correctness", 4.0),
        ("coherence", 4.0),
        ("complexity", 1.0),
        ("verbosity", 2.0),
        ("score", 3.0),
    ];
    assert_eq!(read(&rows, &SourceOptions::default()), (Form::HelpsteerRatings, vec![with(shown, &attributes)]));

    let opinion = |strength: i32| json!({"statement": "s", "elaboration": "e", "strength": strength});
    let row = |strength: i32, three: [i32; 3]| {
        json!({"split": "train", "prompt": "Tea?", "response_1": "Green.", "response_2": "Black.",
            "preference_strength": strength, "preference_statement": "s", "preference_elaboration": "e",
            "three_most_similar_preferences": three.map(opinion), "all_preferences_unprocessed": three.map(opinion)})
    };
    let rows = [row(2, [2, 3, 1]), row(-1, [-2, 1, 0])];
    let numbers = |margin, preference, [chosen, rejected, tied]: [f64; 3]| {
        [
            ("margin", margin),
            ("preference", preference),
            ("votes_chosen", chosen),
            ("votes_rejected", rejected),
            ("votes_tied", tied),
        ]
    };
    let expected = vec![
        with(pair("Tea?", "Black.", "Green."), &numbers(2.0, 1.0, [3.0, 0.0, 0.0])),
        with(pair("Tea?", "Green.", "Black."), &numbers(1.0, 0.5, [1.0, 1.0, 1.0])),
    ];
    assert_eq!(read(&rows, &SourceOptions::default()), (Form::HelpsteerPreferences, expected));
}

#[test]
fn nectar() {
    let answer = |text: &str, rank: f64| json!({"answer": text, "model": "m", "rank": rank});
    let prompt = "\n\nHuman: Tea?\n\nAssistant: ";
    let rows = [json!({"prompt": prompt, "turns": 1, "num_responses": 3, "source": ["s"], "good_natured": true,
        "answers": [answer("Green.", 2.0), answer("Black.", 1.0), answer("No.", 3.0)]})];
    let (form, records) = read(&rows, &SourceOptions::default());
    let Row::Ranked { completions, .. } = &records[0].row else { unreachable!("{records:?}") };
    let completions: Vec<_> = completions.iter().map(|(text, rating)| (text.clone(), *rating)).collect();
    assert_eq!(form, Form::Nectar);
    assert_eq!(completions, [(plain("Green."), -2.0), (plain("Black."), -1.0), (plain("No."), -3.0)]);
    assert!(matches!(&records[0].row, Row::Ranked { prompt: Text::Plain(text), .. } if text == prompt), "{records:?}");
}

#[test]
fn arena() {
    let moderation = json!({"categories": {"harassment": false, "self-harm": false}, "flagged": false});
    let row = |winner: &str, talks: [&[(&str, &str)]; 2]| {
        json!({"question_id": "5f", "model_a": "m", "model_b": "n", "winner": winner, "judge": "arena_user_1",
            "conversation_a": turns(talks[0]), "conversation_b": turns(talks[1]), "turn": 1, "anony": true,
            "language": "English", "tstamp": 1_682_351_654.654_6, "openai_moderation": moderation,
            "toxic_chat_tag": {"roberta-large": {"flagged": false, "probability": 0.01}}})
    };
    let green: &[_] = &[("user", "Tea?"), ("assistant", "Green.")];
    let black: &[_] = &[("user", "Tea?"), ("assistant", "Black.")];
    let long: &[_] = &[("user", "Tea?"), ("assistant", "Green."), ("user", "Milk?"), ("assistant", "No.")];
    let longer: &[_] = &[("user", "Tea?"), ("assistant", "Green."), ("user", "Milk?"), ("assistant", "Yes.")];
    let rows = [row("model_b", [green, black]), row("model_a", [long, longer])];
    let asked = [("user", "Tea?"), ("assistant", "Green."), ("user", "Milk?")];
    let (form, records) = read(&rows, &SourceOptions::default());
    assert_eq!(form, Form::Arena);
    let expected = [spoken(&[("user", "Tea?")], "Black.", "Green."), spoken(&asked, "No.", "Yes.")];
    let numbers = [("preference", 1.0), ("votes_chosen", 1.0), ("votes_rejected", 0.0), ("votes_tied", 0.0)];
    assert_eq!(records, expected.map(|row| with(row, &numbers)));

    let flags = |a: u8, b: u8| {
        json!({"id": 1, "model_a": "m", "model_b": "n", "prompt": "[\"Tea?\"]", "response_a": "[\"Green.\"]",
            "response_b": "[\"Black.\"]", "winner_model_a": a, "winner_model_b": b, "winner_tie": 0})
    };
    let (form, records) = read(&[flags(1, 0), flags(0, 1)], &SourceOptions::default());
    assert_eq!(form, Form::Arena);
    let expected = [("Green.", "Black."), ("Black.", "Green.")];
    let expected = expected.map(|(chosen, rejected)| with(spoken(&[("user", "Tea?")], chosen, rejected), &numbers));
    assert_eq!(records, expected);
}

/// Two tools with other parameters, and a row without any.
fn rows_with_tools() -> [Value; 3] {
    let tool = |name: &str, properties: Value, required: &[&str]| {
        let parameters = json!({"type": "object", "properties": properties, "required": required});
        json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
    };
    let weather = tool("weather", json!({"city": {"type": "string"}}), &["city"]);
    let clock = tool("clock", json!({"zone": {"type": "string", "enum": ["UTC", "CET"]}}), &[]);
    let call = |name: &str, arguments: Value| {
        json!([{"role": "assistant", "content": null,
            "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}])
    };
    let ask = json!([{"role": "user", "content": "q"}]);
    let answer = json!([{"role": "assistant", "content": "b"}]);
    [
        json!({"prompt": ask, "chosen": call("weather", json!({"city": "Oslo"})), "rejected": answer, "tools": [weather, clock]}),
        json!({"prompt": ask, "chosen": call("clock", json!({"zone": "UTC"})), "rejected": answer, "tools": [clock]}),
        json!({"prompt": ask, "chosen": [{"role": "assistant", "content": "a"}], "rejected": answer, "tools": null}),
    ]
}

/// As TRL's `remove_none_values` leaves them: no key is null, entries of lists stay.
#[test]
fn tools_lose_the_nulls_that_columns_fill_in() {
    let rows = rows_with_tools();
    let (form, records) = read(&rows, &SourceOptions::default());
    assert_eq!(form, Form::TrlPair);
    for (row, record) in rows.iter().zip(&records) {
        assert_eq!(json!(record.tools), if row["tools"].is_null() { json!([]) } else { row["tools"].clone() });
        let Row::Pair { chosen: Text::Chat(chosen), .. } = &record.row else { unreachable!("{record:?}") };
        let mut expected: Map<String, Value> = row["chosen"][0].as_object().unwrap().clone();
        // That nothing is said beside calls is kept: templates ask for it.
        expected.retain(|key, value| !value.is_null() || key == "content");
        let Message { role, content, extra } = &chosen[0];
        let mut found = json!({"role": role});
        let found = found.as_object_mut().unwrap();
        if !content.is_empty() {
            found.insert("content".to_owned(), json!(content));
        }
        found.extend(extra.clone());
        assert_eq!(*found, expected);
    }
}

/// What a chat template writes of tools and calls is the same whether the rows came from JSON or from Parquet.
#[test]
fn tools_are_rendered_without_nulls() {
    const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for message in messages %}<|{{ message.role }}|>\
                            {{ message.content or '' }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|end|>\
                            {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let small = Small { prepend: false, bos: false, ..SMALL };
    let (tokenizer, config) = (tokenizer_json(small), config_json(small));
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        tokenizer_config: Some(&config),
        chat_template: Some(TEMPLATE),
        ..TokenizerFiles::default()
    };
    let encoder =
        Arc::new(Encoder::from_files(&files, EncodeOptions { max_length: None, ..EncodeOptions::default() }).unwrap());
    let file = parquet(&rows_with_tools());
    let source = Source::open(&SourceOptions::new(file.path())).unwrap();
    let rendered: Vec<[String; 2]> = Stream::new(source, Arc::clone(&encoder), Order::File)
        .unwrap()
        .map(|example| {
            let context = example.unwrap().contexts.remove(0);
            [encoder.decode(&context.prompt), encoder.decode(&context.completions[0].ids)]
        })
        .collect();
    // The keys stand in the order of the columns.
    let weather = r#"{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}"#;
    let clock = r#"{"type": "function", "function": {"name": "clock", "description": "d", "parameters": {"type": "object", "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}}, "required": []}}}"#;
    let expected = [
        [
            format!("{weather}\n{clock}\n<|user|>q<|end|><|assistant|>"),
            r#"{"name": "weather", "arguments": {"city": "Oslo"}}<|end|>"#.to_owned(),
        ],
        [
            format!("{clock}\n<|user|>q<|end|><|assistant|>"),
            r#"{"name": "clock", "arguments": {"zone": "UTC"}}<|end|>"#.to_owned(),
        ],
        ["<|user|>q<|end|><|assistant|>".to_owned(), "a<|end|>".to_owned()],
    ];
    assert_eq!(rendered, expected);
}
