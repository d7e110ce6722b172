//! Rows that cannot be read: for every family of forms what is said of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Cursor;

use candlewick_data::{Reason, Source, SourceOptions};
use serde_json::{Value, json};

/// What is said of the second of two rows, of which the first tells the form.
fn said(good: &Value, bad: &Value) -> (Reason, String) {
    let text = format!("{good}\n{bad}\n");
    let source = Source::from_reader(Cursor::new(text), &SourceOptions::default()).unwrap();
    let mut rows = source.records().unwrap();
    assert!(rows.next().unwrap().unwrap().is_ok(), "{good}");
    let rejection = rows.next().unwrap().unwrap().unwrap_err();
    assert_eq!(rejection.origin.line, 2);
    (rejection.reason, rejection.detail)
}

fn check(good: &Value, cases: &[(Value, Reason, &str)]) {
    for (bad, reason, detail) in cases {
        assert_eq!(said(good, bad), (*reason, (*detail).to_owned()), "{bad}");
    }
}

const TYPE: Reason = Reason::WrongType;
const MISSING: Reason = Reason::MissingColumn;

#[test]
fn pairs() {
    check(
        &json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
        &[
            (
                json!({"prompt": "p", "chosen": "a"}),
                MISSING,
                "no `rejected`; found chosen (a string), prompt (a string)",
            ),
            (
                json!({"prompt": "p", "chosen": 1, "rejected": "b"}),
                TYPE,
                "`chosen` is a number, expected a string or a list of messages",
            ),
            (
                json!({"prompt": {}, "chosen": "a", "rejected": "b"}),
                TYPE,
                "`prompt` is an object, expected a string or a list of messages",
            ),
            (
                json!({"prompt": "p", "chosen": [], "rejected": "b"}),
                TYPE,
                "`chosen` is an empty list, expected messages",
            ),
            (
                json!({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}),
                TYPE,
                "`prompt[0]` has role (a string), expected {\"role\": string, \"content\": string}",
            ),
            (
                json!({"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}], "chosen": "a", "rejected": "b"}),
                TYPE,
                "`prompt[0].content[0]` is of type \"image\"; only text can be trained on, leave such rows out",
            ),
            (
                json!({"prompt": "p", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}),
                TYPE,
                "`prompt` is a string and `chosen` a list of messages; give the prompt as messages too",
            ),
            (
                json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": "none"}),
                TYPE,
                "`tools` is a string, expected a list of JSON schemas or a string that holds one",
            ),
            (
                json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": [1]}),
                TYPE,
                "`tools[0]` is a number, expected an object: the schema of a tool",
            ),
            (
                json!({"prompt": "p", "chosen": "a", "rejected": "b", "chat_template_kwargs": 3}),
                TYPE,
                "`chat_template_kwargs` is a number, expected an object of template variables",
            ),
        ],
    );
    check(
        &json!({"chosen": "it is a", "rejected": "it is b"}),
        &[
            (json!({"chosen": "x", "rejected": "x"}), Reason::Identical, "`chosen` and `rejected` are the same string"),
            (
                json!({"chosen": "x", "rejected": [{"role": "user", "content": "x"}]}),
                TYPE,
                "one of `chosen` and `rejected` is a string and the other a list of messages; give both alike",
            ),
            (
                json!({"chosen": [{"role": "user", "content": "x"}], "rejected": [{"role": "user", "content": "y"}]}),
                Reason::PromptsDiffer,
                "`chosen` and `rejected` share no message at their beginning; give a `prompt` column",
            ),
        ],
    );
}

#[test]
fn transcripts_and_conversations() {
    let transcript = |text: &str| format!("\n\nHuman: q\n\nAssistant: {text}");
    check(
        &json!({"chosen": transcript("a"), "rejected": transcript("b")}),
        &[
            (
                json!({"chosen": transcript("a"), "rejected": "b"}),
                Reason::NoAssistantTurn,
                "`rejected` begins with \"b\", expected \"\\n\\nHuman:\"",
            ),
            (
                json!({"chosen": transcript("a"), "rejected": "\n\nHuman: r\n\nAssistant: b"}),
                Reason::PromptsDiffer,
                "the prompt of `chosen` ends with \"\\n\\nHuman: q\\n\\nAssistant:\", that of `rejected` with \"\\n\\nHuman: r\\n\\nAssistant:\"",
            ),
        ],
    );
    let side = |weight: f64| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": format!("w{weight}"), "loss_weight": weight}]);
    let other = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]);
    check(
        &json!({"chosen_messages": side(1.0), "rejected_messages": other}),
        &[(
            json!({"chosen_messages": side(0.5), "rejected_messages": other}),
            TYPE,
            "`chosen_messages`: a turn of role \"assistant\" has loss_weight 0.5, expected 1: every turn of the assistant is scored \
             alike, and no other",
        )],
    );
    let talk = |from: &str, value: &str| json!({"conversations": [{"from": "human", "value": "q"}, {"from": from, "value": value}], "kto_tag": true});
    check(
        &talk("gpt", "a"),
        &[
            (
                talk("human", "a"),
                Reason::NoAssistantTurn,
                "`conversations` ends with a message of role \"user\", expected \"assistant\"",
            ),
            (
                talk("function_call", "f(1)"),
                TYPE,
                "`conversations[1]` is a call of a tool and holds no JSON of {\"name\": string, \"arguments\": object}",
            ),
        ],
    );
    check(
        &json!({"instruction": "i", "input": "", "history": [], "chosen": "a", "rejected": "b"}),
        &[
            (
                json!({"instruction": "i", "input": 4, "chosen": "a", "rejected": "b"}),
                TYPE,
                "`input` is a number, expected a string",
            ),
            (
                json!({"instruction": "i", "history": [["q"]], "chosen": "a", "rejected": "b"}),
                TYPE,
                "`history[0]` is a list, expected [question, answer]",
            ),
        ],
    );
}

#[test]
fn one_completion() {
    check(
        &json!({"prompt": "p", "response": "a", "label": true}),
        &[
            (
                json!({"prompt": "p", "response": "a", "label": "perhaps"}),
                TYPE,
                "`label` is \"perhaps\" (a string), expected true (wanted) or false",
            ),
            (
                json!({"prompt": "p", "response": "a", "label": 3}),
                TYPE,
                "`label` is 3 (a number), expected true (wanted) or false",
            ),
            (
                json!({"prompt": "p", "response": "a", "label": [true]}),
                TYPE,
                "`label` is a list, expected true (wanted) or false",
            ),
            (
                json!({"prompt": "p", "label": true}),
                MISSING,
                "no `response`; found label (a boolean), prompt (a string)",
            ),
        ],
    );
    check(
        &json!({"prompt": "p", "response": "a", "helpfulness": 1, "correctness": 2}),
        &[
            (
                json!({"prompt": "p", "response": "a", "helpfulness": "high"}),
                TYPE,
                "`helpfulness` is \"high\" (a string), expected a finite number",
            ),
            (
                json!({"prompt": "p", "response": "a"}),
                MISSING,
                "no `attributes`; found prompt (a string), response (a string)",
            ),
        ],
    );
    check(
        &json!({"prompt": "p", "completion": "a", "judgment": "j", "positive": true}),
        &[(
            json!({"prompt": "p", "completion": "a", "judgment": 7, "positive": true}),
            TYPE,
            "`judgment` is a number, expected a string",
        )],
    );
}

#[test]
fn rankings_and_comparisons() {
    check(
        &json!({"prompt": "p", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}),
        &[
            (json!({"prompt": "p", "answers": "none"}), TYPE, "`answers` is a string, expected a list"),
            (
                json!({"prompt": "p", "answers": [{"answer": "a"}]}),
                MISSING,
                "no `answers[0].rank`, expected the rank of the answer",
            ),
            (
                json!({"prompt": "p", "answers": [{"answer": "a", "rank": "best"}]}),
                TYPE,
                "`answers[0].rank` is a string, expected a finite number",
            ),
        ],
    );
    let two = |comparisons: Value| json!({"prompt": "p", "responses": ["a", "b"], "comparisons": comparisons});
    check(
        &two(json!([{"i": 0, "j": 1, "winner": 0}])),
        &[
            (
                two(json!([{"i": 0, "j": 2, "winner": 0}])),
                Reason::OutOfRange,
                "`comparisons[0].j` is 2, the completions are 0 to 1",
            ),
            (two(json!([{"i": 1, "j": 1}])), Reason::OutOfRange, "`comparisons[0]` compares completion 1 with itself"),
            (
                two(json!([{"i": 0, "j": 1, "winner": 7}])),
                TYPE,
                "`comparisons[0].winner` is 7 (a number), expected 0, 1 or null for a tie",
            ),
            (
                two(json!([{"i": "x", "j": 1}])),
                TYPE,
                "`comparisons[0].i` is a string, expected the index of a completion",
            ),
            (
                two(json!([1, 2])),
                TYPE,
                "`comparisons` has 2 entries, expected 1: one for each pair of the 2 completions",
            ),
            (
                two(json!([4])),
                TYPE,
                "`comparisons[0]` is 4 (a number), expected 1 for the first of two, 2 for the second or 0 for a tie",
            ),
        ],
    );
    let annotated =
        |value: Value| json!({"instruction": "p", "completions": [{"response": "a", "annotations": value}]});
    check(
        &annotated(json!({"honesty": {"Rating": "3"}})),
        &[(
            annotated(json!({"honesty": {"Rating": "N/A"}})),
            MISSING,
            "no number at the `overall_score` of every completion, nor at any `completions[0].annotations.….Rating`",
        )],
    );
}

#[test]
fn votes_and_labels_of_two() {
    let voted = |votes: Value| json!({"prompt": "p", "response_a": "a", "response_b": "b", "votes": votes});
    check(
        &voted(json!(["a"])),
        &[
            (
                voted(json!(["a", "c"])),
                TYPE,
                "`votes[1]` is \"c\" (a string), expected a vote for `response_a`, for `response_b` or for a tie",
            ),
            (
                voted(json!([])),
                MISSING,
                "no vote; found prompt (a string), response_a (a string), response_b (a string), votes (a list)",
            ),
            (
                json!({"prompt": "p", "response_a": "a", "response_b": true, "votes": ["a"]}),
                TYPE,
                "`response_b` is a boolean, expected a string or a list of messages",
            ),
            (
                json!({"prompt": "p", "response_a": "a", "votes": ["a"]}),
                MISSING,
                "no `response_b`; found prompt (a string), response_a (a string), votes (a list)",
            ),
        ],
    );
    let flags = |a: Value, b: Value| json!({"prompt": "p", "response_a": "a", "response_b": "b", "winner_model_a": a, "winner_model_b": b});
    check(
        &flags(json!(1), json!(0)),
        &[
            (flags(json!(1), json!(1)), TYPE, "winner_model_a, winner_model_b are all 1, expected one of them"),
            (flags(json!(0), json!(0)), TYPE, "none of the columns winner_… is 1, expected one of them"),
            (flags(json!(5), json!(0)), TYPE, "`winner_model_a` is 5 (a number), expected 0 or 1"),
        ],
    );
    let steered =
        |strength: Value| json!({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": strength});
    check(
        &steered(json!(1)),
        &[(
            steered(json!(-4)),
            TYPE,
            "`preference_strength` is -4 (a number), expected a number from -3 (the first is much better) to 3",
        )],
    );
    let safe = |better: Value| json!({"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": better, "is_response_0_safe": true});
    check(&safe(json!(1)), &[(safe(json!(4)), TYPE, "`better_response_id` is 4 (a number), expected 0 or 1")]);
    check(
        &json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_rating": 4, "rejected_rating": 2}),
        &[(
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_rating": "high", "rejected_rating": 2}),
            TYPE,
            "`chosen_rating` is \"high\" (a string), expected a finite number",
        )],
    );
}

/// Input made to hurt: deep nesting in strings, huge numbers of columns and entries, names that are not names.
#[test]
fn hostile_rows_are_answered() {
    let good = json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": []});
    let deep = "[".repeat(200_000);
    let (reason, _) = said(&good, &json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": deep}));
    assert_eq!(reason, TYPE);
    let wide: serde_json::Map<String, Value> =
        (0..5000).map(|n| (format!("{n}-{}", "x".repeat(200)), json!(n))).collect();
    let (reason, detail) = said(&good, &Value::Object(wide));
    assert!(reason == MISSING && detail.len() < 10_000 && detail.contains("and 4960 more"), "{detail}");
    let many: Vec<Value> = (0..20_000).map(|_| json!({"i": 0, "j": 1})).collect();
    let two = json!({"prompt": "p", "responses": ["a", "b"], "comparisons": many});
    let source = Source::from_reader(Cursor::new(two.to_string()), &SourceOptions::default()).unwrap();
    assert!(source.records().unwrap().all(|row| row.unwrap().is_ok()));
    for row in
        [json!({}), json!({"": ""}), json!({"response_": "a", "response_9999": "b"}), json!({"é": 1, "\u{0}": []})]
    {
        let error = Source::from_reader(Cursor::new(row.to_string()), &SourceOptions::default()).unwrap_err();
        assert!(error.to_string().contains("the forms are: trl_pair"), "{error}");
    }
}
