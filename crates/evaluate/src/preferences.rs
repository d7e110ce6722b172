//! Held-out preferences, and how well scores of their completions agree with them.
//!
//! What is measured here does not depend on the loss that was trained: any score of completions will do, such as
//! log π(y|x), its mean over tokens, or the log-ratio log π(y|x) − log π_ref(y|x), DPO's implicit reward but for β.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use candlewick_data::{Annotation, Batch, BatchOptions, Batches, Encoder, Order, Source};
use candlewick_train::{HeldOutRow, Policy, score_completions};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::stats;

/// Held-out rows with a preference, tokenized.
///
/// | row | an item | agrees where |
/// |---|---|---|
/// | a pair | the pair | the chosen completion has the higher score; level counts half |
/// | ranked completions | the group | of its pairs of different rating, the better rated has the higher score: their share |
/// | a completion with a verdict | each desirable one | its score is above that of the undesirable ones: their share (the mean over items is the area under the curve) |
#[derive(Debug, Clone)]
pub struct Preferences {
    batches: Vec<Batch>,
    items: Vec<Item>,
    /// Completions that are no item of their own: the undesirable ones.
    undesirable: Vec<Undesirable>,
    /// Scored tokens of each completion.
    tokens: Vec<usize>,
    prompts: Vec<Vec<u32>>,
}

/// An undesirable completion.
#[derive(Debug, Clone)]
struct Undesirable {
    row: usize,
    half: Half,
    labels: BTreeMap<String, String>,
}

/// One preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// `file:line`.
    pub place: String,
    /// The half it belongs to, by its prompt.
    pub half: Half,
    /// A hash of its prompt.
    pub(crate) prompt: u64,
    /// What tells its row apart, such as a category, by name.
    pub labels: BTreeMap<String, String>,
    preference: Preference,
}

/// Which completions are preferred to which, by their numbers among all completions.
#[derive(Debug, Clone, PartialEq)]
enum Preference {
    /// Better and worse, pair by pair.
    Among(Vec<(usize, usize)>),
    /// Better than all undesirable ones.
    Desirable(usize),
}

/// Two halves of the held-out rows, split by prompts: what is chosen on the one is reported on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Hyperparameters are chosen on it.
    Tuning,
    /// Results are reported on it.
    Report,
}

impl Preferences {
    /// Reads and encodes the rows. `examples` are scored at once.
    ///
    /// # Errors
    /// Rows that cannot be read, or that prefer nothing: demonstrations, judged completions, verdicts of one kind only.
    pub fn read(source: Source, encoder: Arc<Encoder>, examples: usize) -> Result<Self> {
        let options = BatchOptions { examples, micro_batches: 1, order: Order::File, ..BatchOptions::default() };
        let mut rows = Batches::new(source, encoder, options)?;
        let mut batches = Vec::new();
        while let Some(step) = rows.next_step()? {
            batches.extend(step);
        }
        Self::new(batches)
    }

    /// Of examples that are encoded already.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn new(batches: Vec<Batch>) -> Result<Self> {
        let mut read = Reading::default();
        let mut prompts = Vec::new();
        for example in batches.iter().flat_map(|batch| &batch.examples) {
            let tokens = example.contexts.iter().flat_map(|c| &c.completions).map(|c| c.scored_tokens());
            let prompt = hash(example.contexts.iter().flat_map(|context| &context.prompt).map(|id| id.to_le_bytes()));
            prompts.extend(example.contexts.first().map(|context| context.prompt.clone()));
            read.add(example.origin.to_string(), &example.annotation, &example.labels, prompt, tokens)?;
        }
        read.finish(batches, prompts)
    }

    /// Of the rows that a run has recorded. They have no prompts, and nothing scores them anew.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn recorded(rows: &[HeldOutRow]) -> Result<Self> {
        let mut read = Reading::default();
        for row in rows {
            let tokens = row.completions.iter().map(|completion| completion.tokens);
            let prompt = hash([row.prompt.as_bytes()]);
            read.add(format!("{}:{}", row.file, row.line), &row.annotation, &row.labels, prompt, tokens)?;
        }
        read.finish(Vec::new(), Vec::new())
    }

    /// The preferences.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Item] {
        &mut self.items
    }

    /// Items by the words of a label; those without it are left out.
    pub fn slices(&self, label: &str) -> BTreeMap<&str, Vec<usize>> {
        let mut slices: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, item) in self.items.iter().enumerate() {
            if let Some(word) = item.labels.get(label) {
                slices.entry(word).or_default().push(number);
            }
        }
        slices
    }

    /// The names of the labels that items have.
    pub fn labels(&self) -> BTreeSet<&str> {
        self.items.iter().flat_map(|item| item.labels.keys()).map(String::as_str).collect()
    }

    /// Those of a word of a label alone, and the numbers of its items: verdicts of other words are compared with none of them. Scores
    /// are those of all completions still. None where the word has no item, or verdicts of one kind only.
    pub fn slice(&self, label: &str, word: &str) -> Option<(Self, Vec<usize>)> {
        self.part(|labels, _| labels.get(label).is_some_and(|found| found == word))
    }

    /// Those of a half alone, and the numbers of its items.
    pub fn half(&self, half: Half) -> Option<(Self, Vec<usize>)> {
        self.part(|_, found| found == half)
    }

    fn part(&self, is_in: impl Fn(&BTreeMap<String, String>, Half) -> bool) -> Option<(Self, Vec<usize>)> {
        let numbers = (0..self.items.len()).filter(|i| is_in(&self.items[*i].labels, self.items[*i].half));
        let numbers: Vec<usize> = numbers.collect();
        let items: Vec<Item> = numbers.iter().map(|i| self.items[*i].clone()).collect();
        let undesirable: Vec<_> = self.undesirable.iter().filter(|one| is_in(&one.labels, one.half)).cloned().collect();
        let is_whole = !items.is_empty() && (self.undesirable.is_empty() || !undesirable.is_empty());
        let part = Self { batches: Vec::new(), items, undesirable, tokens: self.tokens.clone(), prompts: Vec::new() };
        is_whole.then_some((part, numbers))
    }

    /// How many completions there are.
    pub fn completions(&self) -> usize {
        self.tokens.len()
    }

    /// Scored tokens of each completion.
    pub fn tokens(&self) -> &[usize] {
        &self.tokens
    }

    /// Different prompts, in order of their first row.
    pub fn prompts(&self) -> Vec<&[u32]> {
        let mut seen = std::collections::HashSet::new();
        self.prompts.iter().map(Vec::as_slice).filter(|prompt| seen.insert(*prompt)).collect()
    }

    /// Σ log-probability of each completion.
    ///
    /// # Errors
    /// Token ids that the policy does not know.
    pub fn score<P: Policy + ?Sized>(&self, policy: &mut P) -> Result<Vec<f64>> {
        let mut sums = Vec::with_capacity(self.tokens.len());
        for batch in &self.batches {
            sums.extend(score_completions(policy, batch)?.into_iter().map(|score| score.log_prob));
        }
        Ok(sums)
    }

    /// How far the scores of all completions agree with each item, from 0 to 1.
    ///
    /// # Panics
    /// Another number of scores than there are completions.
    pub fn agreement(&self, scores: &[f64]) -> Vec<f64> {
        assert_eq!(scores.len(), self.tokens.len(), "a score for each completion");
        let mut worse: Vec<f64> = self.undesirable.iter().map(|one| scores[one.row]).collect();
        worse.sort_unstable_by(f64::total_cmp);
        let agrees = |item: &Item| match &item.preference {
            Preference::Among(pairs) => {
                let sum: f64 = pairs.iter().map(|(better, worse)| order(scores[*better], scores[*worse])).sum();
                sum / pairs.len() as f64
            }
            Preference::Desirable(row) => {
                let score = scores[*row];
                let below = worse.partition_point(|x| *x < score);
                let level = worse.partition_point(|x| *x <= score) - below;
                (below as f64 + level as f64 / 2.0) / worse.len() as f64
            }
        };
        self.items.iter().map(agrees).collect()
    }

    /// By how much each item's better completions have more than its worse ones, on average; those with a verdict, than the mean
    /// undesirable one.
    ///
    /// # Panics
    /// As [`agreement`](Self::agreement).
    pub fn margins(&self, values: &[f64]) -> Vec<f64> {
        assert_eq!(values.len(), self.tokens.len(), "a value for each completion");
        let of_undesirable: Vec<f64> = self.undesirable.iter().map(|one| values[one.row]).collect();
        let mean = stats::mean(&of_undesirable).unwrap_or_default();
        let margin = |item: &Item| match &item.preference {
            Preference::Among(pairs) => {
                pairs.iter().map(|(better, worse)| values[*better] - values[*worse]).sum::<f64>() / pairs.len() as f64
            }
            Preference::Desirable(row) => values[*row] - mean,
        };
        self.items.iter().map(margin).collect()
    }

    /// The mean value of each item's preferred completions.
    pub(crate) fn preferred_means(&self, values: &[f64]) -> Vec<f64> {
        let of = |item: &Item| match &item.preference {
            Preference::Among(pairs) => {
                pairs.iter().map(|(better, _)| values[*better]).sum::<f64>() / pairs.len() as f64
            }
            Preference::Desirable(row) => values[*row],
        };
        self.items.iter().map(of).collect()
    }

    /// The values of completions that are preferred to some other one, and of those to which some other one is preferred.
    pub fn sides(&self, values: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut better, mut worse) = (Vec::new(), Vec::new());
        for item in &self.items {
            match &item.preference {
                Preference::Among(pairs) => {
                    better.extend(pairs.iter().map(|(row, _)| values[*row]));
                    worse.extend(pairs.iter().map(|(_, row)| values[*row]));
                }
                Preference::Desirable(row) => better.push(values[*row]),
            }
        }
        worse.extend(self.undesirable.iter().map(|one| values[one.row]));
        (better, worse)
    }
}

/// Words of a column that are told apart at most.
const MOST_WORDS: usize = 100;

/// Which items have which word of which label, by their numbers: of a label with many words those of the most items.
pub(crate) fn members<'a>(
    labels: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
    let mut members: BTreeMap<String, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for (number, labels) in labels.enumerate() {
        for (name, word) in labels {
            members.entry(name.clone()).or_default().entry(word.clone()).or_default().push(number);
        }
    }
    for words in members.values_mut().filter(|words| words.len() > MOST_WORDS) {
        let mut sizes: Vec<(usize, String)> = words.iter().map(|(word, items)| (items.len(), word.clone())).collect();
        sizes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        sizes.drain(..MOST_WORDS);
        for (_, word) in sizes {
            words.remove(&word);
        }
    }
    members
}

/// 1 where the better has the higher score, half where they are level. What is no number is never higher.
fn order(better: f64, worse: f64) -> f64 {
    match better.partial_cmp(&worse) {
        Some(Ordering::Greater) => 1.0,
        Some(Ordering::Equal) => 0.5,
        _ => 0.0,
    }
}

/// Preferences as they are read, row by row.
#[derive(Debug, Default)]
struct Reading {
    items: Vec<Item>,
    undesirable: Vec<Undesirable>,
    tokens: Vec<usize>,
}

impl Reading {
    fn add(
        &mut self,
        place: String,
        annotation: &Annotation,
        labels: &BTreeMap<String, String>,
        prompt: u64,
        tokens: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let first = self.tokens.len();
        self.tokens.extend(tokens);
        // By the prompt, so that no prompt is in both halves.
        let half = if prompt.is_multiple_of(2) { Half::Tuning } else { Half::Report };
        let labels = labels.clone();
        match preference(&place, annotation, first..self.tokens.len())? {
            Some(preference) => self.items.push(Item { place, half, prompt, labels, preference }),
            None => self.undesirable.push(Undesirable { row: first, half, labels }),
        }
        Ok(())
    }

    fn finish(self, batches: Vec<Batch>, prompts: Vec<Vec<u32>>) -> Result<Preferences> {
        let Self { items, undesirable, tokens } = self;
        let compares_verdicts = items.iter().any(|item| matches!(item.preference, Preference::Desirable(_)));
        if items.is_empty() || compares_verdicts == undesirable.is_empty() {
            let found = match (items.is_empty(), undesirable.is_empty()) {
                (true, true) => "there are no rows",
                (true, false) => "all verdicts are undesirable",
                (false, _) => "all verdicts are desirable",
            };
            return Err(Error::Rows {
                place: "the held-out rows".into(),
                reason: format!(
                    "{found}, so that nothing is preferred to anything; hold out pairs, ranked completions or both verdicts"
                ),
            });
        }
        Ok(Preferences { batches, items, undesirable, tokens, prompts })
    }
}

fn preference(place: &str, annotation: &Annotation, rows: Range<usize>) -> Result<Option<Preference>> {
    let refuse = |what: &str| {
        Err(Error::Rows {
            place: place.to_owned(),
            reason: format!(
                "{what}, and held-out rows are to prefer something; hold out pairs, ranked completions or verdicts"
            ),
        })
    };
    match annotation {
        Annotation::Pair => Ok(Some(Preference::Among(vec![(rows.start, rows.start + 1)]))),
        Annotation::Labelled { desirable: true } => Ok(Some(Preference::Desirable(rows.start))),
        Annotation::Labelled { desirable: false } => Ok(None),
        Annotation::Ranked { ratings } => {
            let pairs: Vec<(usize, usize)> = rows
                .clone()
                .zip(ratings)
                .flat_map(|(one, a)| {
                    rows.clone().zip(ratings).filter(move |(_, b)| a > *b).map(move |(other, _)| (one, other))
                })
                .collect();
            if pairs.is_empty() {
                refuse("all completions of the row are rated alike")
            } else {
                Ok(Some(Preference::Among(pairs)))
            }
        }
        Annotation::Demonstration => refuse("the row is a demonstration"),
        Annotation::Judged { .. } => refuse("the row is a judged completion"),
    }
}

fn hash<B: AsRef<[u8]>>(prompt: impl IntoIterator<Item = B>) -> u64 {
    let mut hasher = Xxh3::new();
    prompt.into_iter().for_each(|bytes| hasher.update(bytes.as_ref()));
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_data::{Completion, Context, Example, Origin};

    fn example(prompt: u32, completions: usize, annotation: Annotation) -> Example {
        let context = Context {
            prompt: vec![prompt],
            prompt_scored: vec![false],
            completions: (0..completions).map(|i| Completion::all_scored(vec![1; i + 1])).collect(),
        };
        Example::new(Origin::memory(u64::from(prompt)), vec![context], annotation)
    }

    fn held_out(examples: Vec<Example>) -> Result<Preferences> {
        Preferences::new(
            examples.into_iter().map(|example| Batch { examples: vec![example], ..Batch::default() }).collect(),
        )
    }

    #[test]
    fn pairs_and_rankings_agree_by_their_order() {
        let rows =
            vec![example(1, 2, Annotation::Pair), example(2, 3, Annotation::Ranked { ratings: vec![1.0, 3.0, 1.0] })];
        let rows = held_out(rows).expect("preferences");
        assert_eq!(rows.tokens(), [1, 2, 1, 2, 3]);
        // The ranking prefers its second completion to both others.
        assert_eq!(rows.agreement(&[0.0, 1.0, 5.0, 5.0, 2.0]), [0.0, 0.75]);
        assert_eq!(rows.margins(&[0.0, 1.0, 5.0, 5.0, 2.0]), [-1.0, 1.5]);
        assert_eq!(rows.agreement(&[f64::NAN, 1.0, 0.0, 1.0, 0.0]), [0.0, 1.0]);
        assert_eq!(rows.prompts().len(), 2);
    }

    #[test]
    fn verdicts_agree_by_the_area_under_the_curve() {
        let row = |prompt, desirable| example(prompt, 1, Annotation::Labelled { desirable });
        let rows = held_out(vec![row(1, true), row(2, false), row(3, true), row(4, false)]).expect("both verdicts");
        let scores = [3.0, 1.0, 2.0, 2.0];
        let agreement = rows.agreement(&scores);
        assert_eq!(agreement, [1.0, 0.75]);
        assert_eq!(stats::mean(&agreement), stats::area_under_curve(&[3.0, 2.0], &[1.0, 2.0]));
        assert_eq!(rows.margins(&scores), [1.5, 0.5]);
        assert_eq!(rows.sides(&scores), (vec![3.0, 2.0], vec![1.0, 2.0]));
    }

    #[test]
    fn rows_that_prefer_nothing_are_refused() {
        let one_kind = held_out(vec![example(1, 1, Annotation::Labelled { desirable: true })]);
        assert!(one_kind.expect_err("one verdict").to_string().contains("all verdicts are desirable"));
        let level = held_out(vec![example(1, 2, Annotation::Ranked { ratings: vec![1.0, 1.0] })]);
        assert!(level.expect_err("level").to_string().contains("rated alike"));
        let shown = held_out(vec![example(7, 1, Annotation::Demonstration)]);
        assert!(shown.expect_err("nothing preferred").to_string().contains("demonstration"));
        assert!(held_out(Vec::new()).expect_err("none").to_string().contains("there are no rows"));
    }

    #[test]
    fn a_prompt_stays_in_one_half() {
        let rows: Vec<Example> = (0..400).map(|i| example(i / 2, 2, Annotation::Pair)).collect();
        let rows = held_out(rows).expect("pairs");
        let tuning = rows.items().iter().filter(|item| item.half == Half::Tuning).count();
        assert!((150..250).contains(&tuning), "{tuning}");
        assert!(rows.items().chunks(2).all(|same| same[0].half == same[1].half));
    }
}
