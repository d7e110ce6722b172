//! The merges of byte-pair encoding.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde_json::{Map, Value};

/// What two neighbouring tokens become, and how early.
#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    id: u32,
}

/// A vocabulary of byte strings and the order in which neighbours are merged.
#[derive(Debug)]
pub(super) struct Merges {
    bytes: Box<[u32; 256]>,
    pairs: HashMap<(u32, u32), Merge, BuildHasherDefault<Mix>>,
    /// Pieces that merge into one token: most of those that a text has.
    whole: HashMap<Box<[u8]>, u32, BuildHasherDefault<Mix>>,
}

impl Merges {
    /// None for a model that is not plain BPE of bytes.
    pub(super) fn new(model: &Value) -> Option<Self> {
        let is_off = |key: &str| matches!(&model[key], Value::Null | Value::Bool(false));
        let is_empty = |key: &str| model[key].as_str().unwrap_or("").is_empty();
        // A file may leave the type out.
        let is_bpe = model["type"] == "BPE" || model["type"].is_null();
        let has_dropout = model["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0);
        if !is_bpe
            || has_dropout
            || !is_off("byte_fallback")
            || !is_empty("continuing_subword_prefix")
            || !is_empty("end_of_word_suffix")
        {
            return None;
        }
        let vocab = model["vocab"].as_object()?;
        let chars = byte_chars();
        let mut bytes = Box::new([0; 256]);
        for (byte, character) in chars.iter().enumerate() {
            bytes[byte] = id(vocab, character.encode_utf8(&mut [0; 4]))?;
        }
        let mut own = Self { bytes, pairs: pairs(vocab, &model["merges"])?, whole: HashMap::default() };
        let byte_of: HashMap<char, u8> = (0..=u8::MAX).map(|byte| (chars[usize::from(byte)], byte)).collect();
        let ignores_merges = model["ignore_merges"] == true;
        for (token, number) in vocab {
            let Some(text) = token.chars().map(|c| byte_of.get(&c).copied()).collect::<Option<Vec<u8>>>() else {
                continue;
            };
            let number = as_id(number)?;
            if !text.is_empty()
                && text.len() <= super::MOST_PIECE_BYTES
                && (ignores_merges || own.is_reached(&text, number))
            {
                own.whole.insert(text.into(), number);
            }
        }
        Some(own)
    }

    fn is_reached(&self, text: &[u8], number: u32) -> bool {
        let mut first = None;
        self.merge(text, |id, _, to| {
            first.get_or_insert((id, to));
        });
        first == Some((number, text.len()))
    }

    /// Gives the id and the byte range of each token of a piece.
    pub(super) fn tokenize(&self, piece: &[u8], mut give: impl FnMut(u32, usize, usize)) {
        match self.whole.get(piece) {
            Some(id) => give(*id, 0, piece.len()),
            None => self.merge(piece, give),
        }
    }

    /// Merges the pair of the lowest rank, the leftmost of equals, until there is none.
    fn merge(&self, piece: &[u8], mut give: impl FnMut(u32, usize, usize)) {
        const NONE: u32 = u32::MAX;
        let rank = |left: u32, right: u32| self.pairs.get(&(left, right)).map_or(NONE, |merge| merge.rank);
        // Id and start of each token, and the rank of its merge with the next.
        let mut tokens: Vec<(u32, usize)> =
            piece.iter().enumerate().map(|(at, byte)| (self.bytes[usize::from(*byte)], at)).collect();
        let mut ranks: Vec<u32> = tokens.windows(2).map(|pair| rank(pair[0].0, pair[1].0)).collect();
        loop {
            let lowest = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank).map(|(at, rank)| (at, *rank));
            let Some((at, _)) = lowest.filter(|(_, rank)| *rank != NONE) else { break };
            let Some(merge) = self.pairs.get(&(tokens[at].0, tokens[at + 1].0)) else { break };
            tokens[at].0 = merge.id;
            tokens.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = rank(tokens[at - 1].0, tokens[at].0);
            }
            if at + 1 < tokens.len() {
                ranks[at] = rank(tokens[at].0, tokens[at + 1].0);
            }
        }
        for (index, (id, start)) in tokens.iter().enumerate() {
            give(*id, *start, tokens.get(index + 1).map_or(piece.len(), |next| next.1));
        }
    }
}

fn as_id(number: &Value) -> Option<u32> {
    number.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn id(vocab: &Map<String, Value>, token: &str) -> Option<u32> {
    vocab.get(token).and_then(as_id)
}

fn pairs(vocab: &Map<String, Value>, merges: &Value) -> Option<HashMap<(u32, u32), Merge, BuildHasherDefault<Mix>>> {
    let merges = merges.as_array()?;
    let mut pairs = HashMap::with_capacity_and_hasher(merges.len(), BuildHasherDefault::default());
    for (rank, merge) in merges.iter().enumerate() {
        // Written as "a b", in newer files as ["a", "b"].
        let (left, right) = match merge {
            Value::String(both) => both.split_once(' ')?,
            both => (both[0].as_str()?, both[1].as_str()?),
        };
        let merge = Merge { rank: u32::try_from(rank).ok()?, id: id(vocab, &format!("{left}{right}"))? };
        pairs.insert((id(vocab, left)?, id(vocab, right)?), merge);
    }
    Some(pairs)
}

/// The characters by which vocabularies write bytes: printable ones as themselves, the others from U+0100 on.
pub(super) fn byte_chars() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let own = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if own { byte as u32 } else { next };
        next += u32::from(!own);
        char::from_u32(code).unwrap_or_default()
    })
}

/// A hash of short keys that come from a file, not from an attacker who would gain by collisions.
#[derive(Default)]
struct Mix(u64);

impl Mix {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(chunk.try_into().map_or(0, u64::from_le_bytes));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(last));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.add(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes, then these tokens, merged in the order given.
    fn merges(merged: &[(&str, &str)], more: &[&str], ignore_merges: bool) -> Merges {
        let mut vocab: Map<String, Value> =
            byte_chars().iter().enumerate().map(|(id, c)| (c.to_string(), Value::from(id))).collect();
        for token in merged.iter().map(|(a, b)| format!("{a}{b}")).chain(more.iter().map(|token| (*token).to_owned())) {
            let next = vocab.len();
            vocab.entry(token).or_insert(Value::from(next));
        }
        let merges: Vec<Value> = merged.iter().map(|(a, b)| Value::from(format!("{a} {b}"))).collect();
        let model =
            serde_json::json!({"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": ignore_merges});
        Merges::new(&model).unwrap()
    }

    fn tokens(merges: &Merges, piece: &str) -> Vec<String> {
        let mut found = Vec::new();
        merges.tokenize(piece.as_bytes(), |_, from, to| found.push(piece[from..to].to_owned()));
        found
    }

    #[test]
    fn the_lowest_rank_goes_first_and_of_equals_the_leftmost() {
        let merges = merges(&[("b", "c"), ("a", "b"), ("a", "a"), ("aa", "aa")], &[], false);
        assert_eq!(tokens(&merges, "abc"), ["a", "bc"]);
        assert_eq!(tokens(&merges, "abab"), ["ab", "ab"]);
        assert_eq!(tokens(&merges, "aaaaa"), ["aaaa", "a"]);
        assert_eq!(tokens(&merges, "x"), ["x"]);
    }

    #[test]
    fn a_token_that_no_merge_reaches_is_found_only_where_merges_are_ignored() {
        assert_eq!(tokens(&merges(&[("a", "b")], &["abc"], false), "abc"), ["ab", "c"]);
        assert_eq!(tokens(&merges(&[("a", "b")], &["abc"], true), "abc"), ["abc"]);
    }

    #[test]
    fn bytes_are_written_as_in_the_published_vocabularies() {
        let chars = byte_chars();
        assert_eq!([chars[b' ' as usize], chars[b'\n' as usize], chars[b'a' as usize]], ['Ġ', 'Ċ', 'a']);
        assert_eq!([chars[0x7f], chars[0xad], chars[0xff]], ['ġ', 'Ń', 'ÿ']);
    }
}
