//! Words of verdicts: what people write for wanted and not wanted, and for the better of two.

use serde_json::Value;

use super::value::{shown, told_number};
use crate::error::{Fault, Reason};

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

/// 1 for a verdict of wanted, which of a flag of safety is safe, and 0 for the other.
pub(crate) fn flag_cell(value: &Value, name: &str) -> Result<f64, Fault> {
    let flag = label(value).ok_or_else(|| {
        Fault::new(Reason::WrongType, format!("`{name}` is {}, expected true (safe) or false", shown(value)))
    })?;
    Ok(f64::from(u8::from(flag)))
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

/// How the numbers of votes count two completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// 1 and 2, and 0 for a tie.
    FromOne,
    /// 0 and 1, and 2 or −1 for a tie.
    FromZero,
    /// 0 and 1 as places in a list; no number says a tie.
    Places,
    /// No number is a vote.
    Words,
}

/// The vote that a value says of two completions: a number, a letter or word of the one or the other, alone or after what a
/// completion is called (`response_2`, `Model B`), or a word for a tie. A sentence is no vote.
pub(super) fn vote(value: &Value, counting: Counting) -> Option<Vote> {
    match said(value)? {
        Said::Vote(vote) => Some(vote),
        Said::Number { number, alone } => of_number(number, alone, counting),
    }
}

/// The number that a vote says.
pub(super) fn vote_number(value: &Value) -> Option<f64> {
    match said(value)? {
        Said::Number { number, .. } => Some(number),
        Said::Vote(_) => None,
    }
}

/// A vote before it is known how its numbers count.
enum Said {
    Vote(Vote),
    Number { number: f64, alone: bool },
}

/// What completions are called in votes.
const STEMS: [&str; 12] = [
    "response",
    "model",
    "answer",
    "completion",
    "assistant",
    "output",
    "option",
    "prediction",
    "candidate",
    "conversation",
    "summary",
    "generation",
];

fn said(value: &Value) -> Option<Said> {
    if let Some(number) = told_number(value) {
        return (number.fract() == 0.0).then_some(Said::Number { number, alone: true });
    }
    let text = value.as_str()?.trim().to_lowercase().replace(['_', '-'], " ");
    if is_tie(&text) {
        return Some(Said::Vote(Vote::Tie));
    }
    side(&text).map(Said::Vote).or_else(|| {
        STEMS.iter().find_map(|stem| {
            let rest = text.strip_prefix(stem)?;
            let token = rest.strip_prefix(' ').unwrap_or(rest);
            let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
            let number = || token.parse().ok().filter(|_| digits).map(|number| Said::Number { number, alone: false });
            side(token).map(Said::Vote).or_else(number)
        })
    })
}

fn is_tie(text: &str) -> bool {
    const TIES: [&str; 13] = [
        "tie",
        "tied",
        "tie both bad",
        "tie bothbad",
        "draw",
        "equal",
        "both",
        "neither",
        "same",
        "both bad",
        "both good",
        "bothbad",
        "about the same",
    ];
    text.starts_with("tie (") || text.starts_with("tie(") || text == "even" || TIES.contains(&text)
}

fn side(token: &str) -> Option<Vote> {
    match token {
        "a" | "left" | "first" | "one" => Some(Vote::First),
        "b" | "right" | "second" | "two" => Some(Vote::Second),
        _ => None,
    }
}

/// A number after the name of a completion is none of a tie.
fn of_number(number: f64, alone: bool, counting: Counting) -> Option<Vote> {
    match (counting, number) {
        (Counting::FromOne, 1.0) | (Counting::FromZero | Counting::Places, 0.0) => Some(Vote::First),
        (Counting::FromOne, 2.0) | (Counting::FromZero | Counting::Places, 1.0) => Some(Vote::Second),
        (Counting::FromOne, 0.0) | (Counting::FromZero, 2.0 | -1.0) if alone => Some(Vote::Tie),
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
    fn votes_name_a_completion_by_number_letter_or_word() {
        let votes = |counting, words: &[Value]| -> Vec<Option<Vote>> {
            words.iter().map(|word| vote(word, counting)).collect()
        };
        let (first, second, tie) = (Some(Vote::First), Some(Vote::Second), Some(Vote::Tie));
        assert_eq!(
            votes(Counting::FromOne, &[json!(1), json!(2), json!(0), json!("response_2"), json!("1.0")]),
            [first, second, tie, second, first]
        );
        assert_eq!(votes(Counting::FromZero, &[json!(0), json!(1), json!(2), json!(-1)]), [first, second, tie, tie]);
        assert_eq!(votes(Counting::Places, &[json!(0), json!("1"), json!(2), json!(-1)]), [first, second, None, None]);
        assert_eq!(
            votes(Counting::Words, &[json!("A"), json!("model_b"), json!("tie (bothbad)"), json!("left"), json!(1)]),
            [first, second, tie, first, None]
        );
        assert_eq!(
            votes(Counting::FromOne, &[json!("response1"), json!("x"), json!(3), json!(0.5), json!("response_0")]),
            [first, None, None, None, None]
        );
        for even in ["both_bad", "Both-Good", "tie-both-bad", "tie(bothbad)", "about_the_same"] {
            assert_eq!(vote(&json!(even), Counting::Words), tie, "{even}");
        }
    }

    #[test]
    fn a_sentence_is_no_vote() {
        for sentence in
            ["A > B", "Response B is better than A", "A = B", "not A", "A or B", "better than B", "tie A", ""]
        {
            for counting in [Counting::FromOne, Counting::FromZero, Counting::Words] {
                assert_eq!(vote(&json!(sentence), counting), None, "{sentence}");
            }
        }
    }
}
