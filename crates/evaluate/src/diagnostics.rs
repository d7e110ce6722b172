//! What a run learned, in what order, and at what price, from what its held-out rows scored.

use std::collections::BTreeMap;

use candlewick_data::Annotation;
use candlewick_train::{HeldOutLog, HeldOutRow, HeldOutScores};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::preferences::{Item, Preferences};
use crate::stats::{Bootstrap, Interval, mean, quantile, spearman};

/// What the held-out rows of a run say of it.
///
/// Values are of log π(y|x) less that of [`against`](Self::against), in nats, whatever the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// What log-probabilities are compared with.
    pub against: Against,
    /// Preferences.
    pub items: usize,
    /// All preferences, evaluation by evaluation.
    pub course: Vec<Moment>,
    /// Accuracy of the last evaluation.
    pub accuracy: Option<Interval>,
    /// By the name of a label and its words: those of the rows, and of pairs also
    ///
    /// - `length`: whether the preferred completion is the longer, the shorter, or as long,
    /// - `difference`: the share of the different tokens of both completions that only one of them has, in thirds of the rows,
    /// - `before`: which of the two had the higher log-probability a token, under the reference or else in the first evaluation of
    ///   the untrained model.
    pub slices: BTreeMap<String, Vec<SliceCourse>>,
    /// Of the last evaluation, item by item: tokens of the preferred completion less those of the other, and the margin.
    pub lengths: Vec<(f64, f64)>,
    /// Spearman's ρ of the two.
    pub margin_and_length: Option<f64>,
    /// Pairs of the largest margins in the last evaluation, the largest first.
    pub best: Vec<Extreme>,
    /// Pairs of the smallest margins, the smallest first.
    pub worst: Vec<Extreme>,
}

/// What log-probabilities are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The reference of the run.
    Reference,
    /// The evaluation before the first step, of a run without a reference.
    Start,
    /// Nothing: the run has no reference, and was not evaluated before its first step. Values are log-probabilities alone.
    Nothing,
}

/// All preferences at one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Steps done.
    pub step: u64,
    /// Share of the preferences that the values agree with; level counts half.
    pub accuracy: f64,
    /// Mean margin.
    pub margin: f64,
    /// Mean value of the preferred completions.
    pub preferred: f64,
    /// Mean value of the others.
    pub other: f64,
}

/// The preferences of a slice, evaluation by evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceCourse {
    /// Its word.
    pub word: String,
    /// Preferences.
    pub items: usize,
    /// Accuracy at each evaluation.
    pub course: Vec<f64>,
    /// Accuracy at the last one.
    pub accuracy: Option<Interval>,
    /// Steps until the accuracy had come half the way from the first evaluation to its highest; none where it never rose by more
    /// than the width of the last one's interval.
    pub halfway: Option<u64>,
    /// Of its pairs that stand in other slices of the same label too, such as those that several annotators judged: how many
    /// comparisons there are, and the share in which both prefer the same completion.
    pub with_others: Option<(usize, f64)>,
}

/// A pair with its texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extreme {
    /// `file:line`.
    pub place: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// In nats.
    pub margin: f64,
    /// The prompt, of a long one its beginning and its end.
    pub prompt: String,
    /// The preferred completion.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

/// Pairs shown of each end.
const SHOWN: usize = 6;

impl Diagnostics {
    /// Of what a run has recorded; none before its first evaluation.
    ///
    /// # Errors
    /// Rows that prefer nothing.
    pub fn of(log: &HeldOutLog) -> Result<Option<Self>> {
        let Some(last) = log.scores.last() else { return Ok(None) };
        let preferences = Preferences::recorded(&log.rows)?;
        let first = log.scores.first().unwrap_or(last);
        let against = match (&last.reference, first.step) {
            (Some(_), _) => Against::Reference,
            (None, 0) => Against::Start,
            (None, _) => Against::Nothing,
        };
        let baseline = |scores: &HeldOutScores| match against {
            Against::Reference => scores.reference.as_deref().map(numbers),
            Against::Start => Some(numbers(&first.log_probs)),
            Against::Nothing => None,
        };
        let values = |scores: &HeldOutScores| -> Vec<f64> {
            let policy = numbers(&scores.log_probs);
            match baseline(scores) {
                Some(baseline) => policy.iter().zip(baseline).map(|(a, b)| a - b).collect(),
                None => policy,
            }
        };
        let agreements: Vec<(u64, Vec<f64>)> =
            log.scores.iter().map(|one| (one.step, preferences.agreement(&values(one)))).collect();
        let course = log.scores.iter().zip(&agreements).map(|(one, (step, agreement))| {
            let values = values(one);
            let (preferred, other) = preferences.sides(&values);
            let of = |values: &[f64]| mean(values).unwrap_or(f64::NAN);
            Moment {
                step: *step,
                accuracy: of(agreement),
                margin: of(&preferences.margins(&values)),
                preferred: of(&preferred),
                other: of(&other),
            }
        });
        let last_values = values(last);
        let margins = preferences.margins(&last_values);
        let tokens: Vec<f64> = preferences.tokens().iter().map(|tokens| *tokens as f64).collect();
        let longer = preferences.margins(&tokens);
        let before = baseline(last).map(|baseline| {
            let means: Vec<f64> = baseline.iter().zip(&tokens).map(|(sum, tokens)| sum / tokens).collect();
            preferences.agreement(&means)
        });
        let items = labelled(preferences.items(), &log.rows, &longer, before.as_deref());
        let slices = courses(&items, &log.rows, &agreements);
        let (best, worst) = extremes(&log.rows, &margins);
        Ok(Some(Self {
            against,
            items: margins.len(),
            course: course.collect(),
            accuracy: agreements.last().and_then(|(_, agreement)| Bootstrap::default().mean(agreement)),
            slices,
            margin_and_length: spearman(&margins, &longer),
            lengths: longer.into_iter().zip(margins).collect(),
            best,
            worst,
        }))
    }

    /// Whether the preferred completions have become less likely while the margin grew, from the first evaluation to the last.
    pub fn preferred_fall(&self) -> bool {
        let ends = self.course.first().zip(self.course.last());
        ends.is_some_and(|(first, last)| match self.against {
            Against::Reference => last.margin > first.margin.max(0.0) && last.preferred < first.preferred.min(0.0),
            _ => last.margin > first.margin && last.preferred < first.preferred,
        })
    }
}

fn numbers(scores: &[Option<f32>]) -> Vec<f64> {
    scores.iter().map(|score| score.map_or(f64::NAN, f64::from)).collect()
}

/// The labels of each item, with those that pairs have of themselves.
fn labelled(
    items: &[Item],
    rows: &[HeldOutRow],
    longer: &[f64],
    before: Option<&[f64]>,
) -> Vec<BTreeMap<String, String>> {
    let mut labelled: Vec<BTreeMap<String, String>> = items.iter().map(|item| item.labels.clone()).collect();
    if !rows.iter().all(|row| row.annotation == Annotation::Pair) {
        return labelled;
    }
    let mut differences: Vec<f64> = rows.iter().filter_map(|row| row.difference).collect();
    differences.sort_unstable_by(f64::total_cmp);
    let thirds =
        quantile(&differences, 1.0 / 3.0).zip(quantile(&differences, 2.0 / 3.0)).filter(|(low, high)| low < high);
    for (number, (labels, row)) in labelled.iter_mut().zip(rows).enumerate() {
        let mut put = |name: &str, word: &str| {
            // A column of that name says more.
            labels.entry(name.to_owned()).or_insert_with(|| word.to_owned());
        };
        put("length", three(longer[number], 0.0, ["chosen shorter", "same", "chosen longer"]));
        if let Some(before) = before {
            put("before", three(before[number], 0.5, ["rejected likelier", "level", "chosen likelier"]));
        }
        if let (Some(difference), Some((low, high))) = (row.difference, thirds) {
            let word = if difference <= low {
                "least"
            } else if difference <= high {
                "middle"
            } else {
                "most"
            };
            put("difference", word);
        }
    }
    labelled
}

fn three<'a>(value: f64, middle: f64, [below, level, above]: [&'a str; 3]) -> &'a str {
    if value > middle {
        above
    } else if value < middle {
        below
    } else {
        level
    }
}

fn courses(
    labels: &[BTreeMap<String, String>],
    rows: &[HeldOutRow],
    agreements: &[(u64, Vec<f64>)],
) -> BTreeMap<String, Vec<SliceCourse>> {
    let mut members: BTreeMap<&str, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
    for (number, labels) in labels.iter().enumerate() {
        for (name, word) in labels {
            members.entry(name).or_default().entry(word).or_default().push(number);
        }
    }
    let judged = Judged::of(rows);
    let all = members.into_iter().map(|(name, slices)| {
        let courses = slices.into_iter().map(|(word, items)| {
            let pick = |agreement: &[f64]| items.iter().map(|item| agreement[*item]).collect::<Vec<_>>();
            let course: Vec<f64> =
                agreements.iter().map(|(_, agreement)| mean(&pick(agreement)).unwrap_or(f64::NAN)).collect();
            let accuracy = agreements.last().and_then(|(_, agreement)| Bootstrap::default().mean(&pick(agreement)));
            let steps = agreements.iter().map(|(step, _)| *step);
            SliceCourse {
                halfway: halfway(steps, &course, accuracy),
                with_others: judged.with_others(name, word),
                word: word.to_owned(),
                items: items.len(),
                course,
                accuracy,
            }
        });
        (name.to_owned(), courses.collect())
    });
    all.collect()
}

fn halfway(steps: impl Iterator<Item = u64>, course: &[f64], last: Option<Interval>) -> Option<u64> {
    let first = *course.first()?;
    let highest = course.iter().copied().fold(first, f64::max);
    let noise = last.map_or(0.0, |interval| interval.high - interval.low);
    let middle = f64::midpoint(first, highest);
    let reached = steps.zip(course).find(|(_, accuracy)| **accuracy >= middle).map(|(step, _)| step);
    reached.filter(|_| highest - first > noise.max(0.0) && highest > first)
}

/// Pairs of the same prompt and the same two completions, in either order.
struct Judged<'a> {
    /// Of each such pair the rows about it, with whether the completion that sorts first is the chosen one.
    groups: Vec<Vec<(&'a HeldOutRow, bool)>>,
}

impl<'a> Judged<'a> {
    fn of(rows: &'a [HeldOutRow]) -> Self {
        let mut groups: BTreeMap<(&str, &str, &str), Vec<(&HeldOutRow, bool)>> = BTreeMap::new();
        for row in rows {
            let (Annotation::Pair, [chosen, rejected]) = (&row.annotation, &row.completions[..]) else { continue };
            let first = chosen.text <= rejected.text;
            let (a, b) = if first { (chosen, rejected) } else { (rejected, chosen) };
            groups.entry((&row.prompt, &a.text, &b.text)).or_default().push((row, first));
        }
        Self { groups: groups.into_values().filter(|rows| rows.len() > 1).collect() }
    }

    fn with_others(&self, name: &str, word: &str) -> Option<(usize, f64)> {
        let has = |row: &HeldOutRow| row.labels.get(name).map(|found| found == word);
        let (mut count, mut same) = (0, 0);
        for group in &self.groups {
            let own = group.iter().filter(|(row, _)| has(row) == Some(true));
            for (_, ours) in own {
                let others = group.iter().filter(|(row, _)| has(row) == Some(false));
                for (_, theirs) in others {
                    count += 1;
                    same += usize::from(ours == theirs);
                }
            }
        }
        (count > 0).then(|| (count, same as f64 / count as f64))
    }
}

/// The pairs of the largest and of the smallest margins.
fn extremes(rows: &[HeldOutRow], margins: &[f64]) -> (Vec<Extreme>, Vec<Extreme>) {
    if !rows.iter().all(|row| row.annotation == Annotation::Pair) {
        return (Vec::new(), Vec::new());
    }
    let mut order: Vec<usize> = (0..rows.len()).filter(|row| margins[*row].is_finite()).collect();
    order.sort_by(|a, b| margins[*b].total_cmp(&margins[*a]));
    let shown = |number: &usize| {
        let row = &rows[*number];
        let text = |side: usize| row.completions.get(side).map(|one| one.text.clone()).unwrap_or_default();
        Extreme {
            place: format!("{}:{}", row.file, row.line),
            labels: row.labels.clone(),
            margin: margins[*number],
            prompt: row.prompt.clone(),
            chosen: text(0),
            rejected: text(1),
        }
    };
    let count = SHOWN.min(order.len() / 2);
    (order[..count].iter().map(shown).collect(), order[order.len() - count..].iter().rev().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_train::HeldOutCompletion;

    fn row(line: u64, annotator: &str, chosen: (&str, usize), rejected: (&str, usize), difference: f64) -> HeldOutRow {
        let completion = |(text, tokens): (&str, usize)| HeldOutCompletion { text: text.to_owned(), tokens };
        HeldOutRow {
            file: "rows.jsonl".into(),
            line,
            annotation: Annotation::Pair,
            labels: [("annotator".to_owned(), annotator.to_owned())].into(),
            prompt: "p".into(),
            completions: vec![completion(chosen), completion(rejected)],
            difference: Some(difference),
        }
    }

    fn scores(step: u64, values: &[f32], reference: Option<&[f32]>) -> HeldOutScores {
        let all = |values: &[f32]| values.iter().copied().map(Some).collect();
        HeldOutScores { step, log_probs: all(values), reference: reference.map(all) }
    }

    fn log() -> HeldOutLog {
        let rows = vec![
            row(1, "ann", ("a", 3), ("b", 1), 0.1),
            row(2, "bob", ("b", 1), ("a", 3), 0.1),
            row(3, "ann", ("c", 2), ("d", 2), 0.5),
            row(4, "bob", ("c", 2), ("d", 2), 0.9),
        ];
        let reference = [-3.0, -4.0, -4.0, -3.0, -2.0, -2.0, -2.0, -2.0];
        let scores = vec![
            scores(0, &reference, Some(&reference)),
            scores(5, &[-3.0, -5.0, -5.0, -3.0, -3.0, -6.0, -3.0, -6.0], Some(&reference)),
            scores(10, &[-4.0, -8.0, -8.0, -4.0, -3.0, -9.0, -3.0, -9.0], Some(&reference)),
        ];
        HeldOutLog { rows, scores }
    }

    #[test]
    fn slices_are_followed_through_the_run() {
        let found = Diagnostics::of(&log()).expect("pairs").expect("evaluations");
        assert_eq!((found.against, found.items), (Against::Reference, 4));
        let accuracies: Vec<f64> = found.course.iter().map(|moment| moment.accuracy).collect();
        assert_eq!(accuracies, [0.5, 0.75, 0.75]);
        // Row 2 is the opposite of row 1, and the policy sides with row 1.
        let slice =
            |name: &str, word: &str| found.slices[name].iter().find(|slice| slice.word == word).expect("a slice");
        assert_eq!(slice("annotator", "ann").course, [0.5, 1.0, 1.0]);
        assert_eq!(slice("annotator", "ann").halfway, Some(5));
        assert_eq!(slice("annotator", "bob").course, [0.5, 0.5, 0.5]);
        assert_eq!(slice("annotator", "bob").halfway, None);
        // Rows 3 and 4 are the same pair too, on which both agree.
        assert_eq!(slice("annotator", "bob").with_others, Some((2, 0.5)));
        assert_eq!(slice("length", "chosen longer").items, 1);
        assert_eq!(slice("length", "same").items, 2);
        assert_eq!((slice("difference", "least").items, slice("difference", "most").items), (2, 1));
        assert_eq!(slice("before", "chosen likelier").items, 2);
        assert_eq!(slice("before", "level").items, 2);
    }

    #[test]
    fn falling_completions_and_extremes_are_found() {
        let found = Diagnostics::of(&log()).expect("pairs").expect("evaluations");
        assert!(found.preferred_fall());
        assert_eq!(found.best.len(), 2);
        assert_eq!((found.best[0].margin, found.best[0].chosen.as_str()), (6.0, "c"));
        assert_eq!((found.worst[0].margin, found.worst[0].place.as_str()), (-3.0, "rows.jsonl:2"));
        let last = found.course[2];
        assert_eq!((last.margin, last.preferred), (3.0, -1.75));
    }

    #[test]
    fn without_a_reference_the_first_evaluation_serves() {
        let mut log = log();
        log.scores.iter_mut().for_each(|one| one.reference = None);
        let found = Diagnostics::of(&log).expect("pairs").expect("evaluations");
        assert_eq!(found.against, Against::Start);
        assert_eq!(found.course[1].accuracy, 0.75);
        log.scores.remove(0);
        let found = Diagnostics::of(&log).expect("pairs").expect("evaluations");
        assert_eq!(found.against, Against::Nothing);
        assert!(!found.slices.contains_key("before"));
        assert!(Diagnostics::of(&HeldOutLog { scores: vec![], ..log }).expect("pairs").is_none());
    }
}
