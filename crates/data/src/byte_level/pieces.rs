//! Where a text is split before its bytes are merged.

use regex::Regex;
use serde_json::Value;

/// What these patterns end with: white space before a word leaves its last character to the word. It is looked ahead for, which
/// `regex` does not do, and [`Pieces::first`] does.
const SPACES: &str = r"|\s+(?!\S)|\s+";

/// GPT-2's, which is also what `ByteLevel` splits by of itself.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";

/// Llama 3's (and cl100k's) and Qwen's; they tell lines apart.
const BY_LINES: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
];

/// Splits a text into pieces, each of which is merged for itself.
#[derive(Debug)]
pub(super) struct Pieces {
    /// One piece at the start of a text, white space to its end.
    pattern: Regex,
    /// White space that ends a line is a piece as it is.
    by_lines: bool,
}

impl Pieces {
    /// None for a way to split that is not known here.
    pub(super) fn new(pre_tokenizer: &Value) -> Option<Self> {
        let byte_level = |step: &Value, use_regex: bool| {
            // Left out, it is true.
            let uses_regex = step["use_regex"].as_bool().unwrap_or(true);
            step["type"] == "ByteLevel" && step["add_prefix_space"] == false && uses_regex == use_regex
        };
        if byte_level(pre_tokenizer, true) {
            return Self::of(GPT2, false);
        }
        let [split, bytes] = pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
        let is_plain = pre_tokenizer["type"] == "Sequence"
            && split["type"] == "Split"
            && split["behavior"] == "Isolated"
            && split["invert"] == false
            && byte_level(bytes, false);
        let words = split["pattern"]["Regex"].as_str()?.strip_suffix(SPACES)?;
        match words {
            _ if !is_plain => None,
            GPT2 => Self::of(GPT2, false),
            _ if BY_LINES.contains(&words) => Self::of(words, true),
            _ => None,
        }
    }

    fn of(words: &str, by_lines: bool) -> Option<Self> {
        Some(Self { pattern: Regex::new(&format!(r"\A(?:{words}|\s+)")).ok()?, by_lines })
    }

    /// Bytes of the first piece of a text that is not empty. Every character begins one; None if this one does not.
    pub(super) fn first(&self, text: &str) -> Option<usize> {
        if let Some(length) = ascii_word(text.as_bytes()) {
            return Some(length);
        }
        let found = self.pattern.find(text)?.as_str();
        let mut backwards = found.chars().rev();
        let last = backwards.next()?;
        // Only the pattern's last part ends with white space, but for line ends where they are told apart.
        let is_spaces = last.is_whitespace() && !(self.by_lines && matches!(last, '\r' | '\n'));
        let leaves_one = is_spaces && backwards.next().is_some() && found.len() < text.len();
        Some(found.len() - if leaves_one { last.len_utf8() } else { 0 })
    }
}

/// The commonest piece: letters of English, perhaps after a space, with something else of ASCII behind them. All patterns agree
/// on it.
fn ascii_word(text: &[u8]) -> Option<usize> {
    let space = usize::from(text.first() == Some(&b' '));
    let letters = text[space..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let end = space + letters;
    (letters > 0 && text.get(end).is_none_or(u8::is_ascii)).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(pieces: &Pieces, mut text: &'a str) -> Vec<&'a str> {
        let mut found = Vec::new();
        while !text.is_empty() {
            let (first, rest) = text.split_at(pieces.first(text).unwrap());
            found.push(first);
            text = rest;
        }
        found
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word() {
        let gpt2 = Pieces::of(GPT2, false).unwrap();
        assert_eq!(split(&gpt2, "a  b\n\nc   "), ["a", " ", " b", "\n", "\n", "c", "   "]);
        assert_eq!(
            split(&gpt2, "it's  été 12 !?\u{a0}\u{a0}x"),
            ["it", "'s", " ", " été", " 12", " !?", "\u{a0}", "\u{a0}", "x"]
        );
        let qwen = Pieces::of(BY_LINES[1], true).unwrap();
        assert_eq!(split(&qwen, "a  b\n\nc \n  d"), ["a", " ", " b", "\n\n", "c", " \n", " ", " d"]);
        assert_eq!(split(&qwen, "IT'S 12!\n\n"), ["IT", "'S", " ", "1", "2", "!\n\n"]);
        let llama = Pieces::of(BY_LINES[0], true).unwrap();
        assert_eq!(split(&llama, "1234"), ["123", "4"]);
    }

    #[test]
    fn ways_to_split_that_are_not_known_are_not_guessed() {
        let bytes = |prefix: bool, regex: bool| serde_json::json!({"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": regex});
        assert!(Pieces::new(&bytes(false, true)).is_some());
        assert!(Pieces::new(&bytes(true, true)).is_none());
        let by_default = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        assert!(Pieces::new(&by_default).is_some());
        let sequence = |regex: &str, behavior: &str| {
            let split = serde_json::json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": false});
            serde_json::json!({"type": "Sequence", "pretokenizers": [split, bytes(false, false)]})
        };
        let known = format!("{}{SPACES}", BY_LINES[1]);
        assert!(Pieces::new(&sequence(&known, "Isolated")).is_some_and(|pieces| pieces.by_lines));
        let mut splits_twice = sequence(&known, "Isolated");
        splits_twice["pretokenizers"][1] = by_default;
        assert!(Pieces::new(&splits_twice).is_none());
        assert!(Pieces::new(&sequence(&known, "Removed")).is_none());
        assert!(Pieces::new(&sequence(BY_LINES[1], "Isolated")).is_none());
        assert!(Pieces::new(&sequence(r"\w+|\s+(?!\S)|\s+", "Isolated")).is_none());
        assert!(Pieces::new(&Value::Null).is_none());
    }
}
