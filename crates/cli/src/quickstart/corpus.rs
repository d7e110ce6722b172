//! The quickstart's data: generated anew at every run, written as files anyone can read.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::baseline::Answers;
use crate::world::grammar::{Demonstration, Preference, Split};
use crate::world::random::{Random, mix};

/// Pairs to train on, and pairs about combinations that training never shows.
#[derive(Debug)]
pub(crate) struct Corpus {
    /// Pairs to train on.
    pub(crate) train: Vec<Preference>,
    /// Pairs to measure on; no prompt twice.
    pub(crate) held_out: Vec<Preference>,
}

impl Corpus {
    /// Draws both sides of the split; `seed` decides everything.
    pub(crate) fn generate(seed: u64, train: usize, held_out: usize) -> Self {
        let mut random = Random::new(mix(seed));
        let train = (0..train).map(|_| Preference::draw(&mut random, Split::Train)).collect();
        let mut random = Random::new(mix(seed ^ u64::MAX));
        let mut seen = HashSet::new();
        let held_out = std::iter::repeat_with(|| Preference::draw(&mut random, Split::HeldOut))
            .filter(|pair| seen.insert(pair.scene.prompt.clone()))
            .take(held_out)
            .collect();
        Self { train, held_out }
    }

    /// Writes `train.jsonl` and `held_out.jsonl` in TRL's standard pair form.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        for (name, pairs) in [("train.jsonl", &self.train), ("held_out.jsonl", &self.held_out)] {
            write_lines(&directory.join(name), pairs.iter().map(|pair| {
                json!({ "prompt": pair.scene.prompt, "chosen": continued(&pair.chosen), "rejected": continued(&pair.rejected) })
            }))?;
        }
        Ok(())
    }
}

/// Writes what the untuned model learns from, in TRL's prompt and completion form: three quarters teach the language, the
/// last quarter the manners of careful and careless writers.
pub(crate) fn write_text(path: &Path, seed: u64, count: usize) -> Result<()> {
    let mut random = Random::new(mix(seed ^ 0x7e87));
    let texts = (0..count).map(|i| {
        if i < count / 4 * 3 { Demonstration::draw_right(&mut random) } else { Demonstration::draw(&mut random) }
    });
    write_lines(path, texts.map(|text| json!({ "prompt": text.prompt, "completion": continued(&text.completion) })))
}

/// The answers of pairs, for rules that read nothing else.
pub(crate) fn answers(pairs: &[Preference]) -> Vec<Answers<'_>> {
    pairs.iter().map(|pair| Answers { chosen: &pair.chosen, rejected: &pair.rejected }).collect()
}

/// An answer as it follows a prompt: a space goes before it.
fn continued(answer: &str) -> String {
    format!(" {answer}")
}

fn write_lines(path: &Path, lines: impl Iterator<Item = serde_json::Value>) -> Result<()> {
    let told = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(told)?);
    for line in lines {
        writeln!(file, "{line}").with_context(told)?;
    }
    file.flush().with_context(told)
}

#[cfg(test)]
mod tests {
    use super::super::baseline::{BagOfWords, length_rule};
    use super::*;
    use crate::world::grammar::FAMILIES;
    use crate::world::lexicon::vocabulary;

    fn corpus() -> Corpus {
        Corpus::generate(5, 3000, 1000)
    }

    #[test]
    fn neither_length_nor_words_decide_the_preference() {
        let corpus = corpus();
        let (train, held_out) = (answers(&corpus.train), answers(&corpus.held_out));
        let length = length_rule(&train, &held_out).value();
        assert!((0.45..0.55).contains(&length), "{length}");
        let words = BagOfWords::fit(&train).score(&held_out).value();
        assert!((0.53..0.68).contains(&words), "{words}");
    }

    #[test]
    fn held_out_prompts_are_new_and_distinct_and_of_every_family() {
        let corpus = corpus();
        let train: HashSet<_> = corpus.train.iter().map(|pair| &pair.scene.prompt).collect();
        let held_out: HashSet<_> = corpus.held_out.iter().map(|pair| &pair.scene.prompt).collect();
        assert_eq!(held_out.len(), corpus.held_out.len());
        assert!(held_out.is_disjoint(&train));
        for family in FAMILIES {
            let share = corpus.held_out.iter().filter(|pair| pair.scene.family == family).count();
            assert!(share > 100, "{family:?}: {share}");
        }
    }

    #[test]
    fn chosen_answers_are_right_and_rejected_ones_are_not() {
        for pair in corpus().train {
            assert!(pair.scene.is_answered_by(&pair.chosen), "{pair:?}");
            assert!(!pair.scene.is_answered_by(&pair.rejected), "{pair:?}");
        }
    }

    #[test]
    fn every_word_is_in_the_vocabulary_and_every_word_is_used() {
        let known: HashSet<_> = vocabulary().into_iter().collect();
        let mut used = HashSet::new();
        for pair in corpus().train {
            for text in [&pair.scene.prompt, &pair.chosen, &pair.rejected] {
                used.extend(text.split(' ').map(str::to_owned));
            }
        }
        let unknown: Vec<_> = used.iter().filter(|word| !known.contains(word.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        // Three special tokens stand in no text.
        assert_eq!(known.len() - used.len(), 3);
    }

    #[test]
    fn a_seed_gives_the_same_corpus() {
        let (one, two) = (Corpus::generate(9, 20, 10), Corpus::generate(9, 20, 10));
        assert_eq!(one.train[19].chosen, two.train[19].chosen);
        assert_ne!(one.train[0].scene.prompt, Corpus::generate(10, 1, 1).train[0].scene.prompt);
    }
}
