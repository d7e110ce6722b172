//! Names that files use for our columns, and columns numbered by a common stem.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::columns::{ColumnPath, Columns};
use super::value::{is_list, told_number};
use super::words::{self, Counting};

/// One of our columns, the names that others use for it (the first that is there counts), and what it must hold.
pub(super) struct Alias {
    pub(super) ours: &'static str,
    pub(super) names: &'static [&'static str],
    pub(super) accepts: fn(&Value) -> bool,
}

/// Every known name of another.
pub(super) const ALIASES: [Alias; 19] = [
    Alias {
        ours: "prompt",
        names: &["question", "instruction", "query", "messages", "conversations", "conversation", "context", "input"],
        accepts: is_text,
    },
    Alias {
        ours: "chosen",
        names: &[
            "chosen_response",
            "response_chosen",
            "chosen_messages",
            "preferred",
            "preferred_response",
            "response_j",
            "win",
            "answer_chosen",
            "chosen_answer",
        ],
        accepts: is_text,
    },
    Alias {
        ours: "rejected",
        names: &[
            "rejected_response",
            "response_rejected",
            "rejected_messages",
            "dispreferred",
            "dispreferred_response",
            "response_k",
            "lose",
            "answer_rejected",
            "rejected_answer",
        ],
        accepts: is_text,
    },
    Alias {
        ours: "completion",
        names: &["response", "answer", "output", "reply", "generated_text", "generation", "model_output"],
        accepts: is_text,
    },
    Alias {
        ours: "label",
        names: &[
            "kto_tag",
            "desirable",
            "is_desirable",
            "is_safe",
            "liked",
            "thumbs_up",
            "thumbs",
            "thumb",
            "feedback",
            "rating",
        ],
        accepts: is_label,
    },
    Alias {
        ours: "completions",
        names: &["responses", "candidates", "answers", "generations", "outputs", "replies"],
        accepts: is_list,
    },
    Alias { ours: "ratings", names: &["scores", "rewards", "rating"], accepts: is_list },
    Alias { ours: "best_first", names: &["ranked_responses", "output"], accepts: is_list },
    Alias { ours: "votes", names: &["winner", "preference", "preferred", "choice", "better"], accepts: is_vote },
    Alias { ours: "comparisons", names: &["preference", "pairwise"], accepts: is_list },
    Alias { ours: "attributes", names: &["scores", "ratings"], accepts: is_scores },
    Alias { ours: "system", names: &["system_prompt"], accepts: Value::is_string },
    Alias { ours: "tools", names: &["functions"], accepts: is_text },
    Alias {
        ours: "score_chosen",
        names: &[
            "chosen_score",
            "chosen-rating",
            "chosen_rating",
            "rating_chosen",
            "rating-chosen",
            "chosen_avg_rating",
        ],
        accepts: is_number,
    },
    Alias {
        ours: "score_rejected",
        names: &[
            "rejected_score",
            "rejected-rating",
            "rejected_rating",
            "rating_rejected",
            "rating-rejected",
            "rejected_avg_rating",
        ],
        accepts: is_number,
    },
    Alias {
        ours: "safe_chosen",
        names: &["is_chosen_safe", "chosen_is_safe", "chosen_safe", "is_safe_chosen"],
        accepts: is_label,
    },
    Alias {
        ours: "safe_rejected",
        names: &["is_rejected_safe", "rejected_is_safe", "rejected_safe", "is_safe_rejected"],
        accepts: is_label,
    },
    Alias { ours: "safe", names: &["is_safe", "is_response_safe"], accepts: is_label },
    Alias { ours: "chat_template_kwargs", names: &[], accepts: Value::is_object },
];

/// Stems of columns that are numbered completions: `response_a`, `prediction 1`.
const COMPLETION_STEMS: [&str; 14] = [
    "response",
    "completion",
    "answer",
    "output",
    "prediction",
    "conversation",
    "candidate",
    "generation",
    "reply",
    "summary",
    "text",
    "model_output",
    "generated_text",
    "solution",
];

/// Stems of columns that are annotators' votes: `annotator1`.
const ANNOTATOR_STEMS: [&str; 9] =
    ["annotator", "annotation", "rater", "labeler", "labeller", "judge", "vote", "label", "annotator_vote"];

fn is_text(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Array(_) | Value::Object(_))
}

fn is_label(value: &Value) -> bool {
    words::label(value).is_some()
}

fn is_number(value: &Value) -> bool {
    told_number(value).is_some()
}

/// Words of a vote between two, which a text is not.
fn is_vote(value: &Value) -> bool {
    [Counting::FromOne, Counting::FromZero].into_iter().any(|counting| words::vote(value, counting).is_some())
}

fn is_scores(value: &Value) -> bool {
    let value = super::value::opened(value);
    value.as_object().is_some_and(|scores| !scores.is_empty() && scores.values().all(is_score))
}

/// A number or a boolean.
pub(super) fn is_score(value: &Value) -> bool {
    value.is_boolean() || is_number(value)
}

/// Our columns that an object has under other names.
pub(super) fn told(object: &Map<String, Value>, columns: &Columns) -> BTreeMap<String, ColumnPath> {
    let mut told = BTreeMap::new();
    for alias in &ALIASES {
        if columns.is_given(alias.ours) || columns.value(object, alias.ours).is_some() {
            continue;
        }
        if let Some(name) = candidates(object, columns, alias).next() {
            told.insert(alias.ours.to_owned(), ColumnPath::from(name));
        }
    }
    let absent = |told: &BTreeMap<String, ColumnPath>, name: &str| {
        !told.contains_key(name) && !columns.is_given(name) && columns.value(object, name).is_none()
    };
    if absent(&told, "completions")
        && let Some(names) = numbered(object, &COMPLETION_STEMS, 2, |value| is_text(value) || value.is_boolean())
    {
        told.insert("completions".to_owned(), ColumnPath::from(names));
    }
    if absent(&told, "votes")
        && let Some(names) = numbered(object, &ANNOTATOR_STEMS, 1, is_vote)
    {
        told.insert("votes".to_owned(), ColumnPath::from(names));
    }
    told
}

/// The names under which an object has one of our columns, other than those that the user gave another meaning.
pub(super) fn candidates<'a>(
    object: &'a Map<String, Value>,
    columns: &'a Columns,
    alias: &'a Alias,
) -> impl Iterator<Item = &'static str> + 'a {
    let held = |name: &str| object.get(name).filter(|value| !value.is_null());
    alias.names.iter().copied().filter(move |name| held(name).is_some_and(alias.accepts) && !columns.is_source(name))
}

/// Columns that have a common stem and differ in a number or letter after it, in the order of these; at least `fewest`.
fn numbered(
    object: &Map<String, Value>,
    stems: &[&str],
    fewest: usize,
    accepts: impl Fn(&Value) -> bool,
) -> Option<Vec<String>> {
    stems.iter().find_map(|stem| {
        let mut columns: Vec<(u64, &String)> = object
            .iter()
            .filter(|(_, value)| value.is_null() || accepts(value))
            .filter_map(|(name, _)| Some((place(suffix(name, stem)?), name)))
            .collect();
        columns.sort_unstable();
        let first = columns.first()?.0;
        // Counted from 0, 1 or a, without a gap: else it is not one list.
        let in_order = first <= 1 && columns.iter().zip(first..).all(|((place, _), expected)| *place == expected);
        let columns: Vec<String> = columns.into_iter().map(|(_, name)| name.clone()).collect();
        (in_order && columns.len() >= fewest).then_some(columns)
    })
}

/// What a column has after its stem: a number, or one letter, after at most one separator.
fn suffix<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    let head = name.get(..stem.len()).filter(|head| head.eq_ignore_ascii_case(stem))?;
    let rest = name.get(head.len()..)?;
    let separated = rest.strip_prefix(['_', ' ', '-']);
    let rest = separated.unwrap_or(rest);
    let number = !rest.is_empty() && rest.len() <= 4 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let letter = rest.len() == 1 && rest.bytes().all(|byte| byte.is_ascii_alphabetic());
    // "answers" is a plural; a letter without a separator has to be a capital.
    let letter = letter && (separated.is_some() || rest.bytes().all(|byte| byte.is_ascii_uppercase()));
    (number || letter).then_some(rest)
}

fn place(suffix: &str) -> u64 {
    match suffix.parse() {
        Ok(number) => number,
        // a is the first, as 1 is; letters come alone.
        Err(_) => suffix.bytes().next().map_or(0, |byte| u64::from(byte.to_ascii_lowercase().wrapping_sub(b'a')) + 1),
    }
}

/// How votes count two completions, where their names say it: by the numbers they end in, or by their places in a list
/// (`texts[0]`, `summaries.1.text`).
pub(super) fn counting(first: &str, second: &str) -> Option<Counting> {
    let steps = |name| str::split(name, ['.', '[', ']']).filter(|step| !step.is_empty());
    if steps(first).count() == steps(second).count() {
        let mut differ = steps(first).zip(steps(second)).filter(|(one, two)| one != two);
        if differ.next() == Some(("0", "1")) && differ.next().is_none() {
            return Some(Counting::Places);
        }
    }
    let end = |name: &str| name.bytes().rev().take_while(u8::is_ascii_digit).collect::<Vec<_>>();
    match (end(first).as_slice(), end(second).as_slice()) {
        (b"0", b"1") => Some(Counting::FromZero),
        (b"1", b"2") => Some(Counting::FromOne),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(value: &Value) -> Option<Vec<String>> {
        numbered(value.as_object().unwrap(), &COMPLETION_STEMS, 2, is_text)
    }

    #[test]
    fn numbered_columns_are_one_list() {
        let named = |names: [&str; 2]| Some(names.map(str::to_owned).to_vec());
        assert_eq!(columns(&json!({"response_b": "x", "response_a": "y"})), named(["response_a", "response_b"]));
        assert_eq!(columns(&json!({"Answer 2": "x", "Answer 1": "y"})), named(["Answer 1", "Answer 2"]));
        assert_eq!(columns(&json!({"response_0": "x", "response_1": null})), named(["response_0", "response_1"]));
        assert_eq!(columns(&json!({"outputA": "x", "outputB": "z"})), named(["outputA", "outputB"]));
        let ten: Map<String, Value> = (1..=10).map(|n| (format!("prediction {n}"), json!("x"))).collect();
        assert_eq!(columns(&Value::Object(ten)).unwrap()[9], "prediction 10");
    }

    #[test]
    fn what_is_no_count_is_no_list() {
        for none in [
            json!({"response_1": "x"}),
            json!({"response_1": "x", "response_3": "y"}),
            json!({"response_j": "x", "response_k": "y"}),
            json!({"response_1": 1, "response_2": 2}),
            json!({"answers": "x", "answer": "y"}),
            json!({"response_1_source": "x", "response_2_source": "y"}),
        ] {
            assert_eq!(columns(&none), None, "{none}");
        }
    }

    #[test]
    fn names_say_how_votes_count() {
        for (first, second, expected) in [
            ("response_0", "response_1", Some(Counting::FromZero)),
            ("data.response_0", "data.response_1", Some(Counting::FromZero)),
            ("response1", "response2", Some(Counting::FromOne)),
            ("texts[0]", "texts[1]", Some(Counting::Places)),
            ("summaries.0.text", "summaries.1.text", Some(Counting::Places)),
            ("summaries.1.text", "summaries.0.text", None),
            ("a.0.x", "b.1.y", None),
            ("x10", "x11", None),
            ("human_ref_A", "human_ref_B", None),
            ("x.left", "ж", None),
            ("", "", None),
        ] {
            assert_eq!(counting(first, second), expected, "{first} {second}");
        }
    }
}
