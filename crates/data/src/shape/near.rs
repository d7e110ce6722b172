//! Rows that say nearly the same as an earlier one, found by MinHash and banding (Broder 1997; Leskovec, Rajaraman and
//! Ullman, *Mining of Massive Datasets*, chapter 3).
//!
//! A row has two or three parts: its prompt without system messages, and its completions, those of a pair apart. Each part is
//! a set of shingles and is kept as the lowest 8 bits of 128 minima (Li and König 2010), so 128 bytes. Rows of one kind and
//! verdict whose parts are all similar are near duplicates. Candidates are the earlier rows that share a band, a run of
//! minima over all parts together: as the parts have no shingle in common, the whole of two rows is at least as similar
//! as their least similar part.

use std::collections::HashMap;
use std::ops::Range;

use minhash_rs::lsh::band_hash;
use minhash_rs::prelude::MinHash;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::row::{Record, Row, Text};
use crate::shape::shingles::shingles;

/// Minima of a part.
const MINIMA: usize = 128;
/// Rows of one band that a row is compared with, the latest: what keeps the time of a pass in proportion to its rows.
const COMPARED: usize = 64;
/// How likely two rows just similar enough share a band, at least.
const FOUND: f64 = 0.99;
const NONE: u32 = u32::MAX;

type Sketch = MinHash<u64, MINIMA>;

/// The rows kept so far.
#[derive(Debug)]
pub(crate) struct Near {
    similarity: f64,
    bands: Vec<Range<usize>>,
    kept: Vec<Kept>,
    /// The latest row of a band with the same minima.
    latest: HashMap<u32, u32>,
    /// For each kept row and band the row before it in that band.
    before: Vec<u32>,
}

#[derive(Debug)]
struct Kept {
    row: u64,
    kind: u8,
    parts: Box<[[u8; MINIMA]]>,
}

impl Near {
    /// For rows whose least similar parts are at least so similar: a Jaccard index between 0 and 1.
    pub(crate) fn new(similarity: f64) -> Self {
        Self { similarity, bands: bands(similarity), kept: Vec::new(), latest: HashMap::new(), before: Vec::new() }
    }

    /// The earliest kept row that a row resembles, and how much; else the row is kept.
    pub(crate) fn meet(&mut self, row: u64, record: &Record) -> Option<(u64, f64)> {
        let (kind, sketches) = sketches(&record.row);
        let parts: Box<[_]> = sketches.iter().map(lowest_bits).collect();
        let whole: [u64; MINIMA] = std::array::from_fn(|place| {
            sketches.iter().map(|sketch| sketch.as_words()[place]).min().unwrap_or(u64::MAX)
        });
        let keys: Vec<u32> = self.bands.iter().map(|band| key(band, &whole)).collect();
        let alike = self.candidates(&keys).into_iter().find_map(|candidate| {
            let kept = self.kept.get(candidate as usize).filter(|kept| kept.kind == kind)?;
            let similarity = similarity(&kept.parts, &parts);
            (similarity >= self.similarity).then_some((kept.row, similarity))
        });
        if alike.is_none() {
            self.keep(Kept { row, kind, parts }, &keys);
        }
        alike
    }

    /// Kept rows that share a band, the earliest first.
    fn candidates(&self, keys: &[u32]) -> Vec<u32> {
        let mut found = Vec::new();
        for (band, key) in keys.iter().enumerate() {
            let mut next = self.latest.get(key).copied().unwrap_or(NONE);
            for _ in 0..COMPARED {
                let Some(before) = self.before.get(next as usize * keys.len() + band).filter(|_| next != NONE) else {
                    break;
                };
                found.push(next);
                next = *before;
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn keep(&mut self, kept: Kept, keys: &[u32]) {
        // Four billion rows, for which no memory would do, are compared with the first ones only.
        let Some(index) = u32::try_from(self.kept.len()).ok().filter(|index| *index != NONE) else {
            return;
        };
        self.kept.push(kept);
        self.before.extend(keys.iter().map(|key| self.latest.insert(*key, index).unwrap_or(NONE)));
    }
}

/// What tells the kinds and verdicts of rows apart, and a sketch of every part.
fn sketches(row: &Row) -> (u8, Vec<Sketch>) {
    let (kind, judgment) = match row {
        Row::Pair { .. } => (0, None),
        Row::Labelled { desirable, .. } => (1 + u8::from(*desirable), None),
        Row::Demonstration { .. } => (3, None),
        Row::Ranked { .. } => (4, None),
        Row::Judged { positive, judgment, .. } => (5 + u8::from(*positive), Some(Text::Plain(judgment.clone()))),
    };
    let (prompt, completions) = row.texts();
    let mut parts = vec![sketch(0, [prompt], true)];
    match row {
        Row::Pair { chosen, rejected, .. } => {
            parts.push(sketch(1, [chosen], false));
            parts.push(sketch(2, [rejected], false));
        }
        _ => parts.push(sketch(1, completions.into_iter().chain(&judgment), false)),
    }
    (kind, parts)
}

fn sketch<'a>(part: u64, texts: impl IntoIterator<Item = &'a Text>, without_system: bool) -> Sketch {
    let mut found = Vec::new();
    let mut add = |text: &str| shingles(text, part, |shingle| found.push(shingle));
    for text in texts {
        match text {
            Text::Plain(text) => add(text),
            Text::Chat(messages) => {
                for message in messages.iter().filter(|message| !without_system || message.role != "system") {
                    add(&message.content);
                    message.extra.iter().for_each(|(key, value)| add(&format!("{key} {value}")));
                }
            }
        }
    }
    found.into_iter().collect()
}

fn lowest_bits(sketch: &Sketch) -> [u8; MINIMA] {
    sketch.as_words().map(|minimum| minimum as u8)
}

/// How similar the least similar parts of two rows are: the share of equal minima, less what chance makes equal.
fn similarity(left: &[[u8; MINIMA]], right: &[[u8; MINIMA]]) -> f64 {
    const CHANCE: f64 = 1.0 / 256.0;
    let of = |(left, right): (&[u8; MINIMA], &[u8; MINIMA])| {
        let equal = left.iter().zip(right).filter(|(left, right)| left == right).count();
        ((equal as f64 / MINIMA as f64 - CHANCE) / (1.0 - CHANCE)).max(0.0)
    };
    left.iter().zip(right).map(of).fold(1.0, f64::min)
}

/// A band and its minima as one number; two bands seldom share one, and then only compare in vain.
fn key(band: &Range<usize>, whole: &[u64; MINIMA]) -> u32 {
    let minima = whole.get(band.clone()).unwrap_or_default();
    xxh3_64_with_seed(&band_hash(minima).to_le_bytes(), band.start as u64) as u32
}

/// Bands as long as can be, and as many, so that rows of this similarity share one with a probability of [`FOUND`].
fn bands(similarity: f64) -> Vec<Range<usize>> {
    let found = |length: usize| 1.0 - (1.0 - similarity.powi(length as i32)).powi((MINIMA / length) as i32);
    let length = (1..=MINIMA).rev().find(|length| found(*length) >= FOUND).unwrap_or(1);
    (0..MINIMA / length).map(|band| band * length..(band + 1) * length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> Record {
        Row::Pair { prompt: text(prompt), chosen: text(chosen), rejected: text(rejected) }.into()
    }

    /// Words that no other seed gives.
    fn prose(seed: u64, words: usize) -> Vec<String> {
        (0..words as u64).map(|word| format!("w{:x}", xxh3_64_with_seed(&word.to_le_bytes(), seed))).collect()
    }

    #[test]
    fn bands_find_what_is_just_similar_enough() {
        // 1 − (1 − 0.8⁶)²¹ = 0.998, and with seven minima a band 1 − (1 − 0.8⁷)¹⁸ = 0.986.
        assert_eq!(bands(0.8).len(), 21);
        assert_eq!(bands(0.8)[20], 120..126);
        assert_eq!(bands(0.5).len(), 42);
        assert_eq!(bands(1.0), [0..128]);
    }

    #[test]
    fn the_estimate_is_close_to_the_share_of_common_shingles() {
        // Texts of 202 words that part after some: 200 shingles each, of which `common − 2` are shared.
        for (seed, common) in (0..40).map(|number| (number, 22 + 4 * number as usize)) {
            let (one, other) = (prose(seed, 202), prose(seed + 1000, 202));
            let other = [&one[..common], &other[common..]].concat();
            let parts = |words: &[String]| {
                let (_, sketches) = sketches(&pair(&words.join(" "), "a", "b").row);
                sketches.iter().map(lowest_bits).collect::<Vec<_>>()
            };
            let shared = (common - 2) as f64;
            let exact = shared / (400.0 - shared);
            let estimate = similarity(&parts(&one), &parts(&other));
            // Five standard deviations of a share of 128.
            assert!((estimate - exact).abs() <= 5.0 * (exact * (1.0 - exact) / 128.0).sqrt(), "{estimate} {exact}");
        }
    }

    #[test]
    fn rows_are_alike_when_every_part_is() {
        let long = prose(1, 300).join(" ");
        let edited = long.replacen("w", "x", 1);
        let other = prose(2, 300).join(" ");
        let mut near = Near::new(0.8);
        assert_eq!(near.meet(0, &pair(&long, &long, &other)), None);
        let found = near.meet(5, &pair(&edited, &long, &other)).unwrap();
        assert!(found.0 == 0 && found.1 > 0.9 && found.1 <= 1.0, "{found:?}");
        // The same prompt and another answer; another prompt and the same answers; the answers swapped.
        assert_eq!(near.meet(6, &pair(&long, &long, "No.")), None);
        assert_eq!(near.meet(7, &pair("Why?", &long, &other)), None);
        assert_eq!(near.meet(8, &pair(&long, &other, &long)), None);
        assert_eq!(near.meet(9, &pair(&edited, &other, &long)).map(|found| found.0), Some(8));
        // The same text with another verdict.
        let labelled =
            |desirable| -> Record { Row::Labelled { prompt: text("p"), completion: text(&long), desirable }.into() };
        assert_eq!(near.meet(10, &labelled(true)), None);
        assert_eq!(near.meet(11, &labelled(false)), None);
        assert_eq!(near.meet(12, &labelled(true)), Some((10, 1.0)));
    }

    #[test]
    fn a_system_message_makes_no_prompts_alike() {
        let system = prose(3, 400).join(" ");
        let row = |question: &str| -> Record {
            let prompt = ["system", "user"]
                .map(|role| crate::row::Message::new(role, if role == "system" { system.as_str() } else { question }));
            Row::Demonstration { prompt: Text::Chat(prompt.to_vec()), completion: text("Yes.") }.into()
        };
        let mut near = Near::new(0.8);
        assert_eq!(near.meet(0, &row("Is it so?")), None);
        assert_eq!(near.meet(1, &row("Was it ever?")), None);
        assert_eq!(near.meet(2, &row("is it  so ?")).map(|found| found.0), Some(0));
    }

    #[test]
    fn many_rows_in_one_band_are_compared_with_the_latest_only() {
        // 500 rows of one prompt and answers without a word in common share no band, 500 equal ones are one row.
        let mut near = Near::new(0.5);
        for number in 0..500 {
            assert_eq!(near.meet(number, &pair("p", &prose(number, 5).join(" "), "r")), None, "{number}");
            let keys: Vec<u32> = vec![7; near.bands.len()];
            assert!(near.candidates(&keys).len() <= COMPARED);
        }
        // All in one band: a chain longer than is walked.
        let mut chained = Near::new(1.0);
        for row in 0..200 {
            chained.keep(Kept { row, kind: 0, parts: Box::new([]) }, &[7]);
        }
        assert_eq!(chained.candidates(&[7]), (136..200).collect::<Vec<_>>());
        assert_eq!(chained.candidates(&[8]), [0u32; 0]);
    }
}
