//! What a run learned, in what order, and at what price, from what its held-out rows scored.

use std::collections::{BTreeMap, BTreeSet};

use candlewick_data::Annotation;
use candlewick_train::{HeldOutLog, HeldOutRow, HeldOutScores};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::preferences::{Item, Preferences, members};
use crate::stats::{Bootstrap, Interval, NORMAL, mean, of_a_share, quantile, spearman, wilson};

/// What the held-out rows of a run say of it.
///
/// Values are of log π(y|x) less that of [`against`](Self::against), in nats, whatever the loss. Intervals hold 95 % of bootstrap draws of
/// prompts, with all their items: those of one prompt, such as one pair judged by several, are not independent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// What log-probabilities are compared with.
    pub against: Against,
    /// Preferences: of rows with a verdict the desirable ones, each of which is compared with all undesirable ones.
    pub items: usize,
    /// Whether the rows have verdicts, so that accuracies are areas under the curve.
    pub verdicts: bool,
    /// All preferences, evaluation by evaluation.
    pub course: Vec<Moment>,
    /// Accuracy of the last evaluation.
    pub accuracy: Option<Interval>,
    /// What became of the log-probabilities since training began, or since the first evaluation; none where that is not known.
    pub change: Option<Change>,
    /// By the name of a label and its words, at most 100 of a label, those of the most items: the labels of the rows, and of pairs also
    ///
    /// - `length`: whether the preferred completion is the longer, the shorter, or as long,
    /// - `difference`: the share of the different tokens of both completions that only one of them has, in thirds of the rows,
    /// - `before`: which of the two had the higher log-probability a token before training, where that is known.
    pub slices: BTreeMap<String, Vec<SliceCourse>>,
    /// Of the last evaluation, item by item: tokens of the preferred completion less those of the other, and the margin.
    pub lengths: Vec<(f64, f64)>,
    /// Spearman's ρ of the two.
    pub margin_and_length: Option<Interval>,
    /// Pairs of the largest margins in the last evaluation, the largest first, as far as the policy prefers the chosen completion.
    pub best: Vec<Extreme>,
    /// Pairs of the smallest margins, the smallest first, as far as it prefers the rejected one.
    pub worst: Vec<Extreme>,
}

/// What log-probabilities are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The reference of the run, which stood still.
    Reference,
    /// The evaluation before the first step, of a run without a reference, or with one that moved.
    Start,
    /// Nothing: the run has no reference that stood still, and was not evaluated before its first step. Values are log-probabilities
    /// alone.
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

/// What became of log-probabilities, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Since after so many steps.
    pub since: u64,
    /// Of the margins.
    pub margin: Interval,
    /// Of the preferred completions.
    pub preferred: Interval,
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
    /// Accuracy at the last one: Wilson's interval for as many trials as there are prompts, which is honest of few as well.
    pub accuracy: Option<Interval>,
    /// Where it went from the first evaluation to the last.
    pub trend: Trend,
    /// Of a slice that rose, steps until the accuracy had come half the way from the first evaluation to its highest.
    pub halfway: Option<u64>,
    /// Of its pairs that stand in other slices of the same label too, such as those that several annotators judged: how many
    /// comparisons there are, and the share in which both prefer the same completion.
    pub with_others: Option<(usize, f64)>,
}

/// Where the accuracy of a slice went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// The interval of the last evaluation lies above the first one's accuracy.
    Rose,
    /// It holds it.
    Level,
    /// It lies below.
    Fell,
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

/// Whether the preferred completions became less likely while the margin grew, beyond doubt.
pub fn preferred_fall(margin: Interval, preferred: Interval) -> bool {
    margin.low > 0.0 && preferred.high < 0.0
}

impl Diagnostics {
    /// Of what a run has recorded; none before its first evaluation. `starts_at_reference`: whether the policy was its own reference
    /// before the first step ([`Plan::starts_at_reference`](candlewick_train::Plan::starts_at_reference)).
    ///
    /// # Errors
    /// Rows that prefer nothing.
    pub fn of(log: &HeldOutLog, starts_at_reference: bool) -> Result<Option<Self>> {
        let (Some(first), Some(last)) = (log.scores.first(), log.scores.last()) else { return Ok(None) };
        let mut preferences = Preferences::recorded(&log.rows)?;
        let baseline = Baseline::of(log, starts_at_reference);
        let values: Vec<Vec<f64>> = log.scores.iter().map(|one| baseline.values(one)).collect();
        let agreements: Vec<(u64, Vec<f64>)> =
            log.scores.iter().zip(&values).map(|(one, values)| (one.step, preferences.agreement(values))).collect();
        let course: Vec<Moment> = values
            .iter()
            .zip(&agreements)
            .map(|(values, (step, agreement))| {
                let (preferred, other) = preferences.sides(values);
                let of = |values: &[f64]| mean(values).unwrap_or(f64::NAN);
                Moment {
                    step: *step,
                    accuracy: of(agreement),
                    margin: of(&preferences.margins(values)),
                    preferred: of(&preferred),
                    other: of(&other),
                }
            })
            .collect();
        let prompts = Prompts::of(preferences.items().iter().map(|item| item.prompt));
        let tokens: Vec<f64> = preferences.tokens().iter().map(|tokens| *tokens as f64).collect();
        let longer = preferences.margins(&tokens);
        let before = baseline.at_start(log).map(|scores| {
            let means: Vec<f64> = scores.iter().zip(&tokens).map(|(sum, tokens)| sum / tokens).collect();
            preferences.agreement(&means)
        });
        label(preferences.items_mut(), &log.rows, &longer, before.as_deref());
        let steps: Vec<u64> = log.scores.iter().map(|one| one.step).collect();
        let last_values = baseline.values(last);
        let margins = preferences.margins(&last_values);
        let (best, worst) = extremes(&log.rows, &margins);
        let change = baseline.since(first, last).map(|(since, from)| {
            let changed: Vec<f64> = numbers(&last.log_probs).iter().zip(&from).map(|(a, b)| a - b).collect();
            let preferred = preferences.preferred_means(&changed);
            Some(Change {
                since,
                margin: prompts.mean(&preferences.margins(&changed))?,
                preferred: prompts.mean(&preferred)?,
            })
        });
        let rank = |items: &[usize]| {
            let pick = |values: &[f64]| items.iter().map(|item| values[*item]).collect::<Vec<_>>();
            spearman(&pick(&margins), &pick(&longer))
        };
        Ok(Some(Self {
            against: baseline.against,
            items: margins.len(),
            verdicts: log.rows.iter().any(|row| matches!(row.annotation, Annotation::Labelled { .. })),
            course,
            accuracy: agreements
                .last()
                .and_then(|(_, agreement)| prompts.mean(agreement))
                .map(|interval| of_a_share(interval, prompts.items.len())),
            change: change.flatten(),
            slices: courses(&preferences, &log.rows, &steps, &values),
            margin_and_length: prompts.statistic(rank),
            lengths: longer.into_iter().zip(margins).collect(),
            best,
            worst,
        }))
    }

    /// Whether the preferred completions have become less likely while the margin grew, beyond doubt.
    pub fn preferred_fall(&self) -> bool {
        self.change.is_some_and(|change| preferred_fall(change.margin, change.preferred))
    }
}

/// What scores are compared with.
struct Baseline {
    against: Against,
    starts_at_reference: bool,
    /// The scores before the first step, where the run was evaluated there.
    start: Option<Vec<f64>>,
}

impl Baseline {
    fn of(log: &HeldOutLog, starts_at_reference: bool) -> Self {
        let start = log.scores.first().filter(|first| first.step == 0).map(|first| numbers(&first.log_probs));
        let stands = log.scores.iter().all(|one| one.reference.is_some())
            && log.scores.windows(2).all(|two| two[0].reference == two[1].reference);
        let against = match (stands, &start) {
            (true, _) => Against::Reference,
            (false, Some(_)) => Against::Start,
            (false, None) => Against::Nothing,
        };
        Self { against, starts_at_reference, start }
    }

    fn values(&self, scores: &HeldOutScores) -> Vec<f64> {
        let policy = numbers(&scores.log_probs);
        let less = |other: &[f64]| policy.iter().zip(other).map(|(a, b)| a - b).collect();
        match (self.against, &scores.reference, &self.start) {
            (Against::Reference, Some(reference), _) => less(&numbers(reference)),
            (Against::Start, _, Some(start)) => less(start),
            _ => policy,
        }
    }

    /// Log-probabilities before training, where they are known.
    fn at_start(&self, log: &HeldOutLog) -> Option<Vec<f64>> {
        let reference = || log.scores.first().and_then(|one| one.reference.as_deref()).map(numbers);
        let is_start = self.against == Against::Reference && self.starts_at_reference;
        self.start.clone().or_else(|| reference().filter(|_| is_start))
    }

    /// Log-probabilities as early as they are known, and after how many steps.
    fn since(&self, first: &HeldOutScores, last: &HeldOutScores) -> Option<(u64, Vec<f64>)> {
        if let Some(start) = &self.start {
            return Some((0, start.clone())).filter(|_| last.step > 0);
        }
        if self.against == Against::Reference && self.starts_at_reference {
            return last.reference.as_deref().map(|reference| (0, numbers(reference)));
        }
        (first.step < last.step).then(|| (first.step, numbers(&first.log_probs)))
    }
}

/// Items by their prompts.
struct Prompts {
    items: Vec<Vec<usize>>,
}

impl Prompts {
    fn of(prompts: impl Iterator<Item = u64>) -> Self {
        let mut items: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, prompt) in prompts.enumerate() {
            items.entry(prompt).or_default().push(number);
        }
        Self { items: items.into_values().collect() }
    }

    /// A statistic of items, with all of each prompt that is drawn.
    fn statistic(&self, of: impl Fn(&[usize]) -> Option<f64>) -> Option<Interval> {
        Bootstrap::default().of(self.items.len(), |drawn| {
            of(&drawn.iter().flat_map(|prompt| &self.items[*prompt]).copied().collect::<Vec<_>>())
        })
    }

    fn mean(&self, values: &[f64]) -> Option<Interval> {
        self.statistic(|items| mean(&items.iter().map(|item| values[*item]).collect::<Vec<_>>()))
    }
}

fn numbers(scores: &[Option<f32>]) -> Vec<f64> {
    scores.iter().map(|score| score.map_or(f64::NAN, f64::from)).collect()
}

/// Gives pairs the labels that they have of themselves.
fn label(items: &mut [Item], rows: &[HeldOutRow], longer: &[f64], before: Option<&[f64]>) {
    if !rows.iter().all(|row| row.annotation == Annotation::Pair) {
        return;
    }
    let mut differences: Vec<f64> = rows.iter().filter_map(|row| row.difference).collect();
    differences.sort_unstable_by(f64::total_cmp);
    let thirds =
        quantile(&differences, 1.0 / 3.0).zip(quantile(&differences, 2.0 / 3.0)).filter(|(low, high)| low < high);
    for (number, (item, row)) in items.iter_mut().zip(rows).enumerate() {
        let mut put = |name: &str, word: &str| {
            // A column of that name says more.
            item.labels.entry(name.to_owned()).or_insert_with(|| word.to_owned());
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
}

fn three(value: f64, middle: f64, [below, level, above]: [&str; 3]) -> &str {
    if value > middle {
        above
    } else if value < middle {
        below
    } else {
        level
    }
}

fn courses(
    preferences: &Preferences,
    rows: &[HeldOutRow],
    steps: &[u64],
    values: &[Vec<f64>],
) -> BTreeMap<String, Vec<SliceCourse>> {
    let judged = Judged::of(rows);
    let of_slice = |name: &str, word: String| {
        let (slice, _) = preferences.slice(name, &word)?;
        let course: Vec<f64> = values.iter().map(|values| mean(&slice.agreement(values)).unwrap_or(f64::NAN)).collect();
        let prompts = slice.items().iter().map(|item| item.prompt).collect::<BTreeSet<_>>().len() as f64;
        let (first, last) = (course.first().copied(), course.last().copied().filter(|last| last.is_finite()));
        let accuracy = last.and_then(|last| wilson(last * prompts, prompts, NORMAL));
        let trend = match accuracy.zip(first) {
            Some((last, first)) if last.low > first => Trend::Rose,
            Some((last, first)) if last.high < first => Trend::Fell,
            _ => Trend::Level,
        };
        Some(SliceCourse {
            halfway: (trend == Trend::Rose).then(|| halfway(steps, &course)).flatten(),
            with_others: judged.with_others(name, &word),
            word,
            items: slice.items().len(),
            course,
            accuracy,
            trend,
        })
    };
    let labels = preferences.items().iter().map(|item| &item.labels);
    let slices = members(labels).into_iter().map(|(name, slices)| {
        let courses = slices.into_keys().filter_map(|word| of_slice(&name, word)).collect();
        (name, courses)
    });
    slices.collect()
}

fn halfway(steps: &[u64], course: &[f64]) -> Option<u64> {
    let first = *course.first()?;
    let middle = f64::midpoint(first, course.iter().copied().fold(first, f64::max));
    steps.iter().zip(course).find(|(_, accuracy)| **accuracy >= middle).map(|(step, _)| *step)
}

/// Pairs of the same prompt and the same two completions, in either order.
struct Judged<'a> {
    /// Of each such pair the rows about it, with whether the completion that sorts first is the chosen one.
    groups: Vec<Vec<(&'a HeldOutRow, bool)>>,
}

impl<'a> Judged<'a> {
    fn of(rows: &'a [HeldOutRow]) -> Self {
        let mut groups: BTreeMap<_, Vec<(&HeldOutRow, bool)>> = BTreeMap::new();
        for row in rows {
            let (Annotation::Pair, [chosen, rejected]) = (&row.annotation, &row.completions[..]) else { continue };
            let first = chosen.text <= rejected.text;
            let (a, b) = if first { (chosen, rejected) } else { (rejected, chosen) };
            groups.entry([&row.prompt, &a.text, &b.text]).or_default().push((row, first));
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
    let best = order.iter().take(SHOWN).filter(|row| margins[**row] > 0.0);
    let worst = order.iter().rev().take(SHOWN).filter(|row| margins[**row] < 0.0);
    (best.map(shown).collect(), worst.map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_train::HeldOutCompletion;

    fn row(line: u64, annotation: Annotation, completions: &[(&str, usize)]) -> HeldOutRow {
        let completion =
            |(text, tokens): &(&str, usize)| HeldOutCompletion { text: (*text).to_owned(), tokens: *tokens };
        HeldOutRow {
            file: "rows.jsonl".into(),
            line,
            annotation,
            labels: BTreeMap::new(),
            prompt: format!("prompt {line}"),
            completions: completions.iter().map(completion).collect(),
            difference: None,
        }
    }

    fn scores(step: u64, values: &[f32], reference: Option<&[f32]>) -> HeldOutScores {
        let all = |values: &[f32]| values.iter().copied().map(Some).collect();
        HeldOutScores { step, log_probs: all(values), reference: reference.map(all) }
    }

    /// Twenty pairs, each judged by two: `ann` is always right, `bob` in every other. The policy learns what is right, by making
    /// everything less likely.
    fn log() -> HeldOutLog {
        let mut rows = Vec::new();
        let (mut reference, mut after): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
        for number in 0..20 {
            for annotator in ["ann", "bob"] {
                let is_right = annotator == "ann" || number % 2 == 0;
                let (right, wrong) = (("right", 3), ("wrong", 2));
                let sides = if is_right { [right, wrong] } else { [wrong, right] };
                let mut row = row(number, Annotation::Pair, &sides);
                row.labels.insert("annotator".into(), annotator.into());
                row.difference = Some((number % 3) as f64 / 2.0);
                rows.push(row);
                reference.extend([-4.0, -4.0]);
                let depth = 1.0 + 0.01 * number as f32;
                after.extend(if is_right { [-4.0 - depth, -8.0 * depth] } else { [-8.0 * depth, -4.0 - depth] });
            }
        }
        let half: Vec<f32> = after.iter().zip(&reference).map(|(a, b)| (a + b) / 2.0).collect();
        let scores = vec![
            scores(0, &reference, Some(&reference)),
            scores(5, &half, Some(&reference)),
            scores(10, &after, Some(&reference)),
        ];
        HeldOutLog { rows, scores }
    }

    fn found(log: &HeldOutLog) -> Diagnostics {
        Diagnostics::of(log, true).expect("preferences").expect("evaluations")
    }

    fn slice<'a>(found: &'a Diagnostics, name: &str, word: &str) -> &'a SliceCourse {
        found.slices[name].iter().find(|slice| slice.word == word).expect("a slice")
    }

    #[test]
    fn slices_are_followed_through_the_run() {
        let found = found(&log());
        assert_eq!((found.against, found.items, found.verdicts), (Against::Reference, 40, false));
        let accuracies: Vec<f64> = found.course.iter().map(|moment| moment.accuracy).collect();
        assert_eq!(accuracies, [0.5, 0.75, 0.75]);
        let (ann, bob) = (slice(&found, "annotator", "ann"), slice(&found, "annotator", "bob"));
        assert_eq!((&ann.course[..], ann.trend, ann.halfway), (&[0.5, 1.0, 1.0][..], Trend::Rose, Some(5)));
        assert_eq!((&bob.course[..], bob.trend, bob.halfway), (&[0.5, 0.5, 0.5][..], Trend::Level, None));
        assert_eq!((ann.with_others, bob.with_others), (Some((20, 0.5)), Some((20, 0.5))));
        assert_eq!(slice(&found, "length", "chosen longer").items, 30);
        assert_eq!(slice(&found, "difference", "least").items, 14);
        // By log-probability a token, four nats over three tokens are more than over two.
        assert_eq!(slice(&found, "before", "chosen likelier").items, 30);
        // Two rows of a prompt are drawn together: an interval as of twenty, not of forty.
        let width = found.accuracy.map(|interval| interval.high - interval.low).expect("an interval");
        assert!((0.15..0.3).contains(&width), "{width}");
    }

    #[test]
    fn one_row_proves_nothing() {
        let mut log = log();
        log.rows[0].labels.insert("kind".into(), "rare".into());
        let rare = found(&log).slices.remove("kind").expect("a label").remove(0);
        assert_eq!((rare.items, rare.course[2], rare.trend), (1, 1.0, Trend::Level));
        assert!(rare.accuracy.is_some_and(|interval| interval.low < 0.5));
    }

    #[test]
    fn falling_completions_and_extremes_are_found() {
        let mut log = log();
        let before = found(&log);
        assert!(before.preferred_fall());
        assert!(before.best.iter().all(|pair| pair.margin > 0.0) && before.best.len() == SHOWN);
        assert!(before.worst.iter().all(|pair| pair.margin < 0.0 && pair.chosen == "wrong"), "{:?}", before.worst);
        assert!(before.best[0].margin >= before.best[1].margin && before.worst[0].margin <= before.worst[1].margin);
        let change = before.change.expect("a change");
        assert!((change.margin.estimate - (before.course[2].margin - before.course[0].margin)).abs() < 1e-6);
        // One evaluation suffices where the policy began as its reference, and does not where it did not.
        log.scores.drain(..2);
        assert!(found(&log).preferred_fall());
        let other = Diagnostics::of(&log, false).expect("pairs").expect("an evaluation");
        assert!(other.change.is_none() && !other.preferred_fall() && !other.slices.contains_key("before"));
    }

    #[test]
    fn a_reference_that_moves_is_not_measured_against() {
        let mut log = log();
        // It has become the policy.
        log.scores[2].reference = Some(log.scores[2].log_probs.clone());
        let moved = found(&log);
        assert_eq!((moved.against, moved.course[2].accuracy), (Against::Start, 0.75));
        assert!(moved.preferred_fall() && moved.slices.contains_key("before"));
        log.scores.remove(0);
        assert_eq!(found(&log).against, Against::Nothing);
    }

    #[test]
    fn without_a_reference_the_first_evaluation_serves() {
        let mut log = log();
        log.scores.iter_mut().for_each(|one| one.reference = None);
        let start = found(&log);
        assert_eq!((start.against, start.course[1].accuracy), (Against::Start, 0.75));
        log.scores.remove(0);
        let nothing = found(&log);
        assert_eq!(nothing.against, Against::Nothing);
        assert!(!nothing.slices.contains_key("before") && nothing.change.is_some_and(|change| change.since == 5));
        assert!(Diagnostics::of(&HeldOutLog { scores: vec![], ..log }, true).expect("pairs").is_none());
    }

    #[test]
    fn verdicts_and_rankings_are_measured_too() {
        let labelled = |line, desirable| row(line, Annotation::Labelled { desirable }, &[("x", 2)]);
        let rows = vec![labelled(1, true), labelled(2, false), labelled(3, true), labelled(4, false)];
        let log = HeldOutLog { rows, scores: vec![scores(3, &[-1.0, -2.0, -3.0, -4.0], Some(&[-2.0; 4]))] };
        let verdicts = found(&log);
        assert!(verdicts.verdicts && verdicts.items == 2 && verdicts.best.is_empty() && verdicts.slices.is_empty());
        assert!((verdicts.course[0].accuracy - 0.75).abs() < 1e-12, "{verdicts:?}");
        let ranked = row(1, Annotation::Ranked { ratings: vec![3.0, 1.0, 2.0] }, &[("a", 1), ("b", 1), ("c", 1)]);
        let log = HeldOutLog { rows: vec![ranked], scores: vec![scores(3, &[-1.0, -2.0, -3.0], None)] };
        assert!((found(&log).course[0].accuracy - 2.0 / 3.0).abs() < 1e-12);
        let shown = HeldOutLog { rows: vec![row(1, Annotation::Demonstration, &[("x", 1)])], ..log };
        assert!(Diagnostics::of(&shown, true).is_err());
    }
}
