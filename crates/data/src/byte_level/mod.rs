//! Byte-level BPE, done directly.
//!
//! Tokenizers of the GPT-2, Llama 3 and Qwen kind are a regular expression and a table of merges. The `tokenizers` library keeps
//! track of every character's way through normalizers and pre-tokenizers; where none of them changes the text, the same ids and
//! offsets come out of a few lines in a fraction of the time. Whatever is not known to be the same goes to the library: other
//! kinds of tokenizers, text that a normalizer could change, pieces beyond [`MOST_PIECE_BYTES`].

#[cfg(test)]
mod agreement;
mod merges;
mod pieces;

use regex::Regex;
use serde_json::Value;
use tokenizers::Tokenizer;

use merges::Merges;
use pieces::Pieces;

/// Merging takes time in the square of a piece's length; longer ones (no word of any language) go to the library.
const MOST_PIECE_BYTES: usize = 512;

/// The tokens of a text, with the accessors of the library's `Encoding`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    special: Vec<u32>,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn get_ids(&self) -> &[u32] {
        &self.ids
    }

    /// Bytes of the text that each stands for, whole characters.
    pub(crate) fn get_offsets(&self) -> &[(usize, usize)] {
        &self.offsets
    }

    /// 1 for each that was added around the text and does not stand in it, else 0.
    pub(crate) fn get_special_tokens_mask(&self) -> &[u32] {
        &self.special
    }

    fn push(&mut self, id: u32, offsets: (usize, usize), special: u32) {
        self.ids.push(id);
        self.offsets.push(offsets);
        self.special.push(special);
    }
}

impl From<tokenizers::Encoding> for Tokens {
    fn from(encoding: tokenizers::Encoding) -> Self {
        Self {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            special: encoding.get_special_tokens_mask().to_vec(),
        }
    }
}

/// A tokenizer that is a splitting pattern and merges of bytes.
#[derive(Debug)]
pub(crate) struct ByteLevel {
    /// Text is put into Unicode's composed form first.
    composes: bool,
    added: Option<Added>,
    pieces: Pieces,
    merges: Merges,
    /// Ids that the post-processor puts before and after a text.
    around: (Vec<u32>, Vec<u32>),
}

/// Tokens that are found in the text before it is split.
#[derive(Debug)]
struct Added {
    pattern: Regex,
    ids: std::collections::HashMap<String, u32>,
}

impl ByteLevel {
    /// None for a tokenizer of another kind. `json` is the `tokenizer.json` that the library's tokenizer was made of.
    pub(crate) fn new(json: &Value, tokenizer: &Tokenizer) -> Option<Self> {
        let composes = match &json["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        let own = Self {
            composes,
            added: added(&json["added_tokens"], composes, tokenizer)?,
            pieces: Pieces::new(&json["pre_tokenizer"])?,
            merges: Merges::new(&json["model"])?,
            around: around(&json["post_processor"])?,
        };
        own.agrees_with(tokenizer).then_some(own)
    }

    /// The tokens that the library would give; None where only the library knows.
    pub(crate) fn tokens(&self, text: &str, add_special_tokens: bool) -> Option<Tokens> {
        if self.composes && !text.chars().all(is_composed) {
            return None;
        }
        let mut tokens = Tokens::default();
        let around = |tokens: &mut Tokens, ids: &[u32]| {
            if add_special_tokens {
                ids.iter().for_each(|id| tokens.push(*id, (0, 0), 1));
            }
        };
        around(&mut tokens, &self.around.0);
        let mut start = 0;
        if let Some(added) = &self.added {
            for found in added.pattern.find_iter(text) {
                self.between(text, start..found.start(), &mut tokens)?;
                tokens.push(*added.ids.get(found.as_str())?, (found.start(), found.end()), 0);
                start = found.end();
            }
        }
        self.between(text, start..text.len(), &mut tokens)?;
        around(&mut tokens, &self.around.1);
        Some(tokens)
    }

    /// The tokens of a stretch of text without added tokens.
    fn between(&self, text: &str, range: std::ops::Range<usize>, tokens: &mut Tokens) -> Option<()> {
        let mut start = range.start;
        while start < range.end {
            let length = self.pieces.first(&text[start..range.end])?;
            if length > MOST_PIECE_BYTES {
                return None;
            }
            let end = start + length;
            let piece = &text[start..end];
            self.merges.tokenize(piece.as_bytes(), |id, from, to| {
                let offsets = (start + floor(piece, from), start + ceil(piece, to));
                tokens.push(id, offsets, 0);
            });
            start = end;
        }
        Some(())
    }

    /// Whether a few texts give what the library gives: what is written above holds of this tokenizer.
    fn agrees_with(&self, tokenizer: &Tokenizer) -> bool {
        PROBES.iter().all(|text| {
            [true, false].into_iter().all(|add_special_tokens| {
                let Some(tokens) = self.tokens(text, add_special_tokens) else {
                    // Left to the library.
                    return self.composes && !text.chars().all(is_composed);
                };
                tokenizer.encode(*text, add_special_tokens).is_ok_and(|encoding| Tokens::from(encoding) == tokens)
            })
        })
    }
}

/// Texts by which a tokenizer is tried out.
const PROBES: [&str; 4] = [
    "",
    "\n\nHuman: It's 1234 o'clock,  isn't it?\tI'LL wait…\r\n   \n  Assistant:  naïve façade — “yes”!!  ",
    " x = [1,22,333];\n\t  // 日本語 текст 한국어 عربى 😀👍🏽 \u{a0}\u{3000} ½²Ⅷ \u{1}end   ",
    // Without what composition may change, for tokenizers that compose.
    " x = [1,22,333];\n\t  // 日本語 текст 한국어 😀👍🏽 \u{a0}½² \u{1}end   ",
];

/// Start of the character that holds a byte.
fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// End of the character whose byte stands before this place.
fn ceil(text: &str, at: usize) -> usize {
    (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

/// Characters that Unicode's composition leaves alone whatever stands beside them, as long as that is one of them too: no
/// combining marks, nothing that decomposes. There are others; texts that have them go to the library.
fn is_composed(character: char) -> bool {
    matches!(character,
        '\0'..='\u{2ff}'
        | '\u{400}'..='\u{482}'
        | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
        | '\u{3001}'..='\u{3029}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{ff01}'..='\u{ff5e}'
        | '\u{1f300}'..='\u{1f64f}')
}

/// The added tokens; Some(None) where there are none, None where they are found by rules that are not known here.
fn added(tokens: &Value, composes: bool, tokenizer: &Tokenizer) -> Option<Option<Added>> {
    let empty = Vec::new();
    let tokens = if tokens.is_null() { &empty } else { tokens.as_array()? };
    let is = |token: &Value, key: &str| token[key].as_bool().unwrap_or(true);
    let normalized = tokens.first().is_some_and(|token| is(token, "normalized"));
    let mut contents = Vec::new();
    for token in tokens {
        let content = token["content"].as_str()?;
        let by_rules = is(token, "single_word") || is(token, "lstrip") || is(token, "rstrip");
        if by_rules || is(token, "normalized") != normalized || content.is_empty() {
            return None;
        }
        contents.push((content.to_owned(), tokenizer.token_to_id(content)?));
    }
    if normalized && composes {
        return None;
    }
    if contents.is_empty() {
        return Some(None);
    }
    // Of several that begin at one place, the longest.
    contents.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    let pattern = contents.iter().map(|(content, _)| regex::escape(content)).collect::<Vec<_>>().join("|");
    Some(Some(Added { pattern: Regex::new(&pattern).ok()?, ids: contents.into_iter().collect() }))
}

/// Ids that a post-processor puts around one text.
fn around(post_processor: &Value) -> Option<(Vec<u32>, Vec<u32>)> {
    if post_processor.is_null() {
        return Some(Default::default());
    }
    match post_processor["type"].as_str()? {
        "ByteLevel" => (post_processor["trim_offsets"] == false).then(Default::default),
        "TemplateProcessing" => template(post_processor),
        "Sequence" => {
            let mut all = (Vec::new(), Vec::new());
            for processor in post_processor["processors"].as_array()? {
                let (before, after) = around(processor)?;
                all.0.splice(0..0, before);
                all.1.extend(after);
            }
            Some(all)
        }
        _ => None,
    }
}

fn template(processor: &Value) -> Option<(Vec<u32>, Vec<u32>)> {
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
    for part in processor["single"].as_array()? {
        if let Some(sequence) = part.get("Sequence") {
            if seen || sequence["id"] != "A" {
                return None;
            }
            seen = true;
            continue;
        }
        let token = &processor["special_tokens"][part["SpecialToken"]["id"].as_str()?];
        for id in token["ids"].as_array()? {
            let id = u32::try_from(id.as_u64()?).ok()?;
            if seen { after.push(id) } else { before.push(id) }
        }
    }
    seen.then_some((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_inside_a_character_stands_for_all_of_it() {
        assert_eq!((floor("aéb", 2), ceil("aéb", 2)), (1, 3));
        assert_eq!((floor("aéb", 3), ceil("aéb", 3)), (3, 3));
        assert_eq!((floor("é", 0), ceil("é", 1)), (0, 2));
    }

    #[test]
    fn tokenizers_that_compose_are_tried_out_too() {
        let composed = |text: &&&str| text.chars().all(is_composed);
        let probes: String = PROBES.iter().filter(composed).copied().collect();
        for part in ["日本語", "текст", "한국어", "👍🏽", "ï", "1234", "'LL", "\r\n", "\u{a0}", "\u{1}"]
        {
            assert!(probes.contains(part), "{part}");
        }
        assert!(probes.len() > 150 && PROBES.iter().any(|text| !text.chars().all(is_composed)));
    }

    #[test]
    fn templates_put_ids_around() {
        let special = serde_json::json!({"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}});
        let part = |name: &str| match name {
            "A" => serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}),
            other => serde_json::json!({"SpecialToken": {"id": other, "type_id": 0}}),
        };
        let processor = |parts: &[&str]| {
            let single: Vec<Value> = parts.iter().map(|name| part(name)).collect();
            serde_json::json!({"type": "TemplateProcessing", "single": single, "special_tokens": special})
        };
        assert_eq!(around(&processor(&["<s>", "A"])), Some((vec![7], vec![])));
        assert_eq!(around(&processor(&["A", "<s>", "<s>"])), Some((vec![], vec![7, 7])));
        assert_eq!(around(&processor(&["A", "A"])), None);
        assert_eq!(around(&processor(&["<s>"])), None);
        assert_eq!(around(&serde_json::json!({"type": "BertProcessing"})), None);
        assert_eq!(around(&Value::Null), Some((vec![], vec![])));
    }
}
