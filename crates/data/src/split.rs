//! Where the prompt ends in rows that do not say so.
//!
//! `{"chosen": "The sky is blue.", "rejected": "The sky is black."}` has the prompt `The sky is` and the completions
//! ` blue.` and ` black.`: the longest common beginning, cut where no word is cut, the space before a word going with it.

use crate::error::{Fault, Reason, excerpt, tail_excerpt};
use crate::row::Message;

/// The mark before an assistant's turn in an HH transcript.
pub(crate) const HH_ASSISTANT: &str = "\n\nAssistant:";
/// The mark every HH transcript begins with.
pub(crate) const HH_HUMAN: &str = "\n\nHuman:";

/// Byte length of the common prompt of two standard strings; both keep at least one character after it that is not space.
pub(crate) fn common_prompt(chosen: &str, rejected: &str) -> usize {
    let common = common_prefix(chosen.as_bytes(), rejected.as_bytes());
    let mut cut = common.min(last_character(chosen)).min(last_character(rejected));
    while cut > 0 && !(may_cut(chosen, cut) && may_cut(rejected, cut)) {
        cut -= 1;
    }
    // A space belongs to the word after it, as tokenizers have it.
    if chosen[..cut].ends_with(' ') { cut - 1 } else { cut }
}

/// Where the last character of a text begins that is not space.
fn last_character(text: &str) -> usize {
    text.char_indices().rev().find(|(_, character)| !character.is_whitespace()).map_or(0, |(at, _)| at)
}

/// How many messages two conversations share at their beginning; both keep at least one after them.
pub(crate) fn common_messages(chosen: &[Message], rejected: &[Message]) -> usize {
    let shortest = chosen.len().min(rejected.len());
    let common = chosen.iter().zip(rejected).take_while(|(left, right)| left == right).count();
    common.min(shortest.saturating_sub(1))
}

/// Splits an HH transcript after its last `\n\nAssistant:` into prompt and reply.
pub(crate) fn hh(transcript: &str, column: &str) -> Result<(String, String), Fault> {
    if !transcript.starts_with(HH_HUMAN) {
        return Err(Fault::new(
            Reason::NoAssistantTurn,
            format!("`{column}` begins with {}, expected {HH_HUMAN:?}", excerpt(transcript)),
        ));
    }
    let Some(mark) = transcript.rfind(HH_ASSISTANT) else {
        return Err(Fault::new(
            Reason::NoAssistantTurn,
            format!("`{column}` has no {HH_ASSISTANT:?}; it ends with {}", tail_excerpt(transcript)),
        ));
    };
    let (prompt, reply) = transcript.split_at(mark + HH_ASSISTANT.len());
    Ok((prompt.to_owned(), reply.to_owned()))
}

/// Length of the longest common beginning.
pub(crate) fn common_prefix<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// Whether a text may be cut at a byte: between characters, not inside a word nor inside a composed character.
fn may_cut(text: &str, at: usize) -> bool {
    if !text.is_char_boundary(at) {
        return false;
    }
    let (Some(before), Some(after)) = (text[..at].chars().next_back(), text[at..].chars().next()) else {
        return true;
    };
    !(joins(after) || before == ZERO_WIDTH_JOINER || (in_word(before) && in_word(after)))
}

const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// Characters that change the one before them.
fn joins(character: char) -> bool {
    matches!(character,
        ZERO_WIDTH_JOINER
        | '\u{0300}'..='\u{036f}'
        | '\u{0591}'..='\u{05c7}'
        | '\u{064b}'..='\u{065f}'
        | '\u{0900}'..='\u{0903}'
        | '\u{093a}'..='\u{094f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{3099}'..='\u{309a}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}'
        | '\u{1f3fb}'..='\u{1f3ff}')
}

/// Characters of words in scripts that separate words.
fn in_word(character: char) -> bool {
    let unseparated = matches!(character,
        '\u{0e00}'..='\u{0eff}' // Thai, Lao
        | '\u{1000}'..='\u{109f}' // Burmese
        | '\u{1780}'..='\u{17ff}' // Khmer
        | '\u{3040}'..='\u{30ff}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' // Han
        | '\u{20000}'..='\u{3ffff}');
    !unseparated && (character.is_alphanumeric() || matches!(character, '_' | '\'' | '’'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(chosen: &'a str, rejected: &'a str) -> (&'a str, &'a str, &'a str) {
        let cut = common_prompt(chosen, rejected);
        assert_eq!(chosen[..cut], rejected[..cut]);
        (&chosen[..cut], &chosen[cut..], &rejected[cut..])
    }

    #[test]
    fn words_stay_whole() {
        assert_eq!(split("The sky is blue.", "The sky is black."), ("The sky is", " blue.", " black."));
        assert_eq!(split("I don't", "I don'z"), ("I", " don't", " don'z"));
        assert_eq!(split("Q?\nYes", "Q?\nNo"), ("Q?\n", "Yes", "No"));
    }

    #[test]
    fn one_being_the_beginning_of_the_other_leaves_both_a_completion() {
        assert_eq!(split("abc", "abc def"), ("", "abc", "abc def"));
        assert_eq!(split("x abc", "x abc def"), ("x", " abc", " abc def"));
        assert_eq!(split("A. B.", "A. B. C."), ("A. B", ".", ". C."));
        // What is left of one must not be space alone.
        assert_eq!(split("A. B. ", "A. B.  C."), ("A. B", ". ", ".  C."));
        assert_eq!(split("a  ", "a  b"), ("", "a  ", "a  b"));
    }

    #[test]
    fn nothing_in_common_is_an_empty_prompt() {
        assert_eq!(split("x y ", "z"), ("", "x y ", "z"));
        assert_eq!(split("", "z"), ("", "", "z"));
    }

    #[test]
    fn characters_stay_whole() {
        // é and è share their first byte; 😀 and 😁 three of four.
        assert_eq!(split("caf é", "caf è"), ("caf", " é", " è"));
        assert_eq!(split("! 😀", "! 😁"), ("!", " 😀", " 😁"));
        assert_eq!(split("!e\u{301}", "!e\u{300}"), ("!", "e\u{301}", "e\u{300}"));
        assert_eq!(split("天气很好", "天气很坏"), ("天气很", "好", "坏"));
    }

    #[test]
    fn transcripts_split_at_the_last_reply() {
        let (prompt, reply) = hh("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "chosen").unwrap();
        assert_eq!((prompt.as_str(), reply.as_str()), ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d"));
        assert_eq!(hh("\n\nHuman: a", "chosen").unwrap_err().reason, Reason::NoAssistantTurn);
        assert_eq!(hh("Human: a\n\nAssistant: b", "chosen").unwrap_err().reason, Reason::NoAssistantTurn);
    }
}
