//! Words of verdicts: what people write for wanted and not wanted, and for the better of two.

use serde_json::Value;

const WANTED: [&str; 22] = [
    "true",
    "1",
    "+1",
    "yes",
    "y",
    "safe",
    "good",
    "positive",
    "desirable",
    "up",
    "thumbs_up",
    "thumbs up",
    "👍",
    "accepted",
    "accept",
    "like",
    "liked",
    "chosen",
    "preferred",
    "correct",
    "desired",
    "upvote",
];

const UNWANTED: [&str; 23] = [
    "false",
    "0",
    "-1",
    "no",
    "n",
    "unsafe",
    "bad",
    "negative",
    "undesirable",
    "down",
    "thumbs_down",
    "thumbs down",
    "👎",
    "rejected",
    "reject",
    "dislike",
    "disliked",
    "dispreferred",
    "incorrect",
    "undesired",
    "downvote",
    "wrong",
    "not safe",
];

/// Words that [`label`] knows, for messages.
pub(super) const LABEL_WORDS: &str = "true (wanted) or false";

/// The verdict that a value says: a boolean, 1 or 0, 1 or −1, or a word of either, in any case.
pub(super) fn label(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => match number.as_f64()? {
            1.0 => Some(true),
            0.0 | -1.0 => Some(false),
            _ => None,
        },
        Value::String(text) => word(text),
        _ => None,
    }
}

fn word(text: &str) -> Option<bool> {
    // Skin tones change the thumb's colour, not what it says.
    let word: String = text.trim().chars().filter(|c| !matches!(c, '\u{1f3fb}'..='\u{1f3ff}' | '\u{fe0f}')).collect();
    let word = word.to_lowercase();
    match word.as_str() {
        word if WANTED.contains(&word) => Some(true),
        word if UNWANTED.contains(&word) => Some(false),
        "1.0" => Some(true),
        "0.0" | "-1.0" => Some(false),
        _ => None,
    }
}

/// One annotator's word on two completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    First,
    Second,
    Tie,
}

/// The vote that a value says of two completions whose columns end in these suffixes.
///
/// A number or letter names the completion of that suffix; the number that is no suffix is a tie: 0 beside 1 and 2 (or a and
/// b), 2 or −1 beside 0 and 1.
pub(super) fn vote(value: &Value, suffixes: [&str; 2]) -> Option<Vote> {
    let text = match value {
        Value::String(text) => text.trim().to_lowercase(),
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
            format!("{number:.0}")
        }
        _ => return None,
    };
    if is_tie(&text) {
        return Some(Vote::Tie);
    }
    let token = match text.rsplit(['_', ' ', '-']).next() {
        Some(token) if !token.is_empty() && !text.starts_with('-') => token,
        _ => text.as_str(),
    };
    of_token(token, suffixes).or_else(|| {
        // "response1" and "modela" have no separator.
        let stems = ["response", "model", "answer", "completion", "assistant", "output", "option"];
        let rest = stems.iter().find_map(|stem| token.strip_prefix(stem)).filter(|rest| !rest.is_empty())?;
        of_token(rest, suffixes)
    })
}

fn is_tie(text: &str) -> bool {
    const TIES: [&str; 10] =
        ["draw", "equal", "both", "neither", "same", "both bad", "both good", "bothbad", "about the same", "even"];
    text == "tie" || text.starts_with("tie ") || text.starts_with("tie(") || text == "tied" || TIES.contains(&text)
}

fn of_token(token: &str, suffixes: [&str; 2]) -> Option<Vote> {
    let [first, second] = suffixes;
    let from_zero = first == "0" && second == "1";
    match token {
        _ if token.eq_ignore_ascii_case(first) => Some(Vote::First),
        _ if token.eq_ignore_ascii_case(second) => Some(Vote::Second),
        "a" | "left" | "first" | "one" => Some(Vote::First),
        "b" | "right" | "second" | "two" => Some(Vote::Second),
        "2" | "-1" if from_zero => Some(Vote::Tie),
        "0" => Some(Vote::Tie),
        "1" if !from_zero => Some(Vote::First),
        "2" => Some(Vote::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_known_in_every_case_and_as_text() {
        for wanted in
            [json!(true), json!(1), json!(1.0), json!("True"), json!(" YES"), json!("👍🏽"), json!("+1"), json!("Safe")]
        {
            assert_eq!(label(&wanted), Some(true), "{wanted}");
        }
        for not in [json!(false), json!(0), json!(-1), json!("unsafe"), json!("👎"), json!("Rejected"), json!("0.0")]
        {
            assert_eq!(label(&not), Some(false), "{not}");
        }
        for neither in [json!(2), json!("maybe"), json!(null), json!([true]), json!("")] {
            assert_eq!(label(&neither), None, "{neither}");
        }
    }

    #[test]
    fn votes_name_a_completion_by_its_suffix() {
        let votes = |suffixes, words: &[Value]| -> Vec<Option<Vote>> {
            words.iter().map(|word| vote(word, suffixes)).collect()
        };
        let (first, second, tie) = (Some(Vote::First), Some(Vote::Second), Some(Vote::Tie));
        assert_eq!(
            votes(["1", "2"], &[json!(1), json!(2), json!(0), json!("response_2")]),
            [first, second, tie, second]
        );
        assert_eq!(votes(["0", "1"], &[json!(0), json!(1), json!(2), json!(-1)]), [first, second, tie, tie]);
        assert_eq!(
            votes(["a", "b"], &[json!("A"), json!("model_b"), json!("tie (bothbad)"), json!("left")]),
            [first, second, tie, first]
        );
        assert_eq!(
            votes(["a", "b"], &[json!("1"), json!(2), json!("0"), json!("Model B")]),
            [first, second, tie, second]
        );
        assert_eq!(
            votes(["1", "2"], &[json!("response1"), json!("x"), json!(3), json!(0.5)]),
            [first, None, None, None]
        );
    }
}
