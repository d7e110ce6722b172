//! What rules that understand nothing reach on the same pairs.
//!
//! A preference that a rule about lengths or single words can find would show nothing about a model:
//! the quickstart therefore prints both beside the model's accuracy.

use std::collections::BTreeMap;
use std::ops::Range;

/// The two answers of a pair, the preferred one first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers<'a> {
    /// The preferred answer.
    pub(crate) chosen: &'a str,
    /// The other one.
    pub(crate) rejected: &'a str,
}

/// A share of successes, with what is known about the true one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Successes; a tie counts one half.
    pub(crate) hits: f64,
    /// Trials.
    pub(crate) trials: usize,
}

impl Share {
    /// Counts one for a positive difference, one half for none.
    pub(crate) fn of_positive(differences: impl IntoIterator<Item = f64>) -> Self {
        let mut share = Self { hits: 0.0, trials: 0 };
        for difference in differences {
            share.trials += 1;
            share.hits += match difference.partial_cmp(&0.0) {
                Some(std::cmp::Ordering::Greater) => 1.0,
                Some(std::cmp::Ordering::Equal) => 0.5,
                _ => 0.0,
            };
        }
        share
    }

    /// The share itself, between 0 and 1.
    pub(crate) fn value(self) -> f64 {
        self.hits / self.trials.max(1) as f64
    }

    /// Wilson's 95 % interval of the true share (Wilson, 1927).
    pub(crate) fn interval(self) -> Range<f64> {
        const Z: f64 = 1.959_963_984_540_054;
        let n = self.trials.max(1) as f64;
        let p = self.value();
        let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        (centre - half).max(0.0)..(centre + half).min(1.0)
    }
}

/// Prefers the longer answer, or the shorter one, whichever fits the training pairs better.
pub(crate) fn length_rule(train: &[Answers<'_>], held_out: &[Answers<'_>]) -> Share {
    let words = |text: &str| text.split_whitespace().count() as f64;
    let longer = |pairs: &[Answers<'_>], sign: f64| {
        Share::of_positive(pairs.iter().map(|p| sign * (words(p.chosen) - words(p.rejected))))
    };
    let sign = if longer(train, 1.0).value() >= longer(train, -1.0).value() { 1.0 } else { -1.0 };
    longer(held_out, sign)
}

/// A logistic regression on the counts of words: P(chosen wins) = σ(w · (words(chosen) − words(rejected))).
#[derive(Debug)]
pub(crate) struct BagOfWords {
    weights: BTreeMap<String, f64>,
}

impl BagOfWords {
    /// Fits the weights to `train` by gradient descent on the mean log-loss, with a weak L2 penalty.
    pub(crate) fn fit(train: &[Answers<'_>]) -> Self {
        const ROUNDS: usize = 200;
        const RATE: f64 = 2.0;
        const PENALTY: f64 = 1e-4;
        let mut index = BTreeMap::new();
        let rows: Vec<Vec<(usize, f64)>> = train
            .iter()
            .map(|pair| {
                difference(*pair)
                    .into_iter()
                    .map(|(word, count)| {
                        let next = index.len();
                        (*index.entry(word.to_owned()).or_insert(next), count)
                    })
                    .collect()
            })
            .collect();
        let mut weights = vec![0.0; index.len()];
        for _ in 0..ROUNDS {
            let mut gradient: Vec<f64> = weights.iter().map(|w| -PENALTY * w).collect();
            for row in &rows {
                let score: f64 = row.iter().map(|(i, count)| weights[*i] * count).sum();
                let pull = 1.0 / (1.0 + score.exp()) / rows.len() as f64;
                for (i, count) in row {
                    gradient[*i] += pull * count;
                }
            }
            for (weight, slope) in weights.iter_mut().zip(gradient) {
                *weight += RATE * slope;
            }
        }
        Self { weights: index.into_iter().map(|(word, i)| (word, weights[i])).collect() }
    }

    /// How often the fitted weights prefer the chosen answer.
    pub(crate) fn score(&self, pairs: &[Answers<'_>]) -> Share {
        Share::of_positive(pairs.iter().map(|pair| {
            difference(*pair)
                .into_iter()
                .map(|(word, count)| self.weights.get(word).copied().unwrap_or_default() * count)
                .sum()
        }))
    }
}

/// How much oftener a word stands in the chosen answer than in the rejected one; words that differ only.
fn difference(pair: Answers<'_>) -> BTreeMap<&str, f64> {
    let mut counts = BTreeMap::new();
    for (text, sign) in [(pair.chosen, 1.0), (pair.rejected, -1.0)] {
        for word in text.split_whitespace() {
            *counts.entry(word).or_insert(0.0) += sign;
        }
    }
    counts.retain(|_, count| *count != 0.0);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_interval_of_known_counts() {
        // 81 of 263: (0.2553, 0.3662), the worked example of Newcombe (1998), method 3.
        let interval = Share { hits: 81.0, trials: 263 }.interval();
        assert!((interval.start - 0.2553).abs() < 1e-4, "{interval:?}");
        assert!((interval.end - 0.3662).abs() < 1e-4, "{interval:?}");
        let all = Share { hits: 20.0, trials: 20 }.interval();
        assert!(all.end <= 1.0 && all.start > 0.8 && all.start < 0.9);
    }

    #[test]
    fn ties_count_one_half() {
        assert!((Share::of_positive([1.0, 0.0, -1.0, f64::NAN]).value() - 0.375).abs() < 1e-12);
    }

    #[test]
    fn the_length_rule_learns_its_direction() {
        let shorter = Answers { chosen: "a b", rejected: "a b c" };
        assert!((length_rule(&[shorter; 3], &[shorter; 2]).value() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_bag_of_words_finds_a_telling_word_but_no_order() {
        let telling = [
            Answers { chosen: "please sit down", rejected: "sit down now" },
            Answers { chosen: "do come please", rejected: "now do come" },
        ];
        assert!((BagOfWords::fit(&telling).score(&telling).value() - 1.0).abs() < 1e-12);
        let order = [Answers { chosen: "anna leads tom", rejected: "tom leads anna" }];
        assert!((BagOfWords::fit(&order).score(&order).value() - 0.5).abs() < 1e-12);
    }
}
