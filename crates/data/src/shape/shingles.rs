//! A text as a set of short runs of words, to be compared with the set of another text.
//!
//! `A cat sat, then.` has the words `a`, `cat`, `sat`, `,`, `then`, `.` and the shingles `a cat sat`, `cat sat ,`,
//! `sat , then` and `, then .`. In scripts that put no space between words (Chinese, Japanese, Thai, …) a character is a
//! word.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Words of a shingle.
const WORDS: usize = 3;

/// Hashes of the shingles of a text, each hashed with a seed. A text of fewer words than a shingle has one shingle; one
/// without any has none.
pub(crate) fn shingles(text: &str, seed: u64, mut found: impl FnMut(u64)) {
    let mut last = [0u64; WORDS];
    let mut count = 0usize;
    words(text, |word| {
        last.rotate_left(1);
        last[WORDS - 1] = xxh3_64(word.as_bytes());
        count += 1;
        if count >= WORDS {
            found(of_words(&last, seed));
        }
    });
    if count > 0 && count < WORDS {
        found(of_words(&last, seed));
    }
}

fn of_words(words: &[u64; WORDS], seed: u64) -> u64 {
    let mut bytes = [0u8; WORDS * size_of::<u64>()];
    for (place, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, seed)
}

/// The words of a text in lower case; every mark and symbol is a word of its own.
fn words(text: &str, mut found: impl FnMut(&str)) {
    let mut word = String::new();
    for character in text.chars() {
        let joins = character.is_alphanumeric() && !is_unspaced(character);
        if !joins && !word.is_empty() {
            found(&word);
            word.clear();
        }
        if joins {
            word.extend(character.to_lowercase());
        } else if !character.is_whitespace() {
            found(character.encode_utf8(&mut [0; 4]));
        }
    }
    if !word.is_empty() {
        found(&word);
    }
}

/// Whether a character is of a script that puts no space between words.
fn is_unspaced(character: char) -> bool {
    matches!(
        u32::from(character),
        // Thai to Tibetan, Burmese, Khmer, kana, Han with its extensions and compatibility forms, half-width kana.
        0x0E00..=0x0FFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x31F0..=0x31FF | 0x3400..=0x4DBF
            | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0xFF66..=0xFF9F | 0x20000..=0x3FFFF
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn words_of(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(text, |word| found.push(word.to_owned()));
        found
    }

    fn set(text: &str, seed: u64) -> HashSet<u64> {
        let mut found = HashSet::new();
        shingles(text, seed, |shingle| {
            found.insert(shingle);
        });
        found
    }

    #[test]
    fn words_are_what_spaces_part_and_characters_where_there_are_none() {
        assert_eq!(words_of("A Cat\n sat, then."), ["a", "cat", "sat", ",", "then", "."]);
        assert_eq!(words_of("蜡烛 is光"), ["蜡", "烛", "is", "光"]);
        assert_eq!(words_of("ろうそく"), ["ろ", "う", "そ", "く"]);
        assert_eq!(words_of("양초는 밝다"), ["양초는", "밝다"]);
        assert_eq!(words_of("x+=1😀"), ["x", "+", "=", "1", "😀"]);
        assert_eq!(words_of(" \n"), [""; 0]);
    }

    #[test]
    fn shingles_are_runs_of_three_words() {
        assert_eq!(set("a b c d", 0).len(), 2);
        assert_eq!(set("a b c a b c a b c", 0).len(), 3);
        assert_eq!(set("a b", 0).len(), 1);
        assert_eq!(set("", 0).len(), 0);
        assert_eq!(set("A  B c\nD", 0), set("a b c d", 0));
        assert!(set("a b c d", 0).is_disjoint(&set("a b c d", 1)));
        assert_eq!(set("今天天气很好", 0).intersection(&set("今天天气不好", 0)).count(), 2);
    }
}
