//! What a score model says of rows, and how well that agrees with what the rows say of themselves.

use std::collections::BTreeMap;

use candlewick_data::{Record, Row};
use candlewick_losses::preference::{
    SignAccuracy, area_under_curve, calibration_error, centred_log_sigmoid, quantile, ranking_accuracy,
};
use candlewick_train::RowValues;

use crate::error::{Error, Result};

/// Bins of a calibration error.
const BINS: usize = 10;

/// The record with what was said of it, as numbers under the names of the heads: `NAME_chosen` and `NAME_rejected` of a
/// pair, `NAME_1`, `NAME_2`, … of several completions, `NAME` of a single one.
///
/// ```
/// use candlewick_data::{Record, Row, Text};
/// use candlewick_evaluate::with_values;
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let row = Row::Pair { prompt: text("p"), chosen: text(" a"), rejected: text(" b") };
/// let record = with_values(row.into(), &["cost".to_owned()], &vec![vec![-1.5], vec![2.0]]);
/// assert_eq!((record.numbers["cost_chosen"], record.numbers["cost_rejected"]), (-1.5, 2.0));
/// ```
#[must_use]
pub fn with_values(mut record: Record, heads: &[String], values: &RowValues) -> Record {
    let suffix = |place: usize| match (&record.row, place) {
        (Row::Pair { .. }, 0) => "_chosen".to_owned(),
        (Row::Pair { .. }, _) => "_rejected".to_owned(),
        (Row::Ranked { .. }, place) => format!("_{}", place + 1),
        _ => String::new(),
    };
    // A judged row has its one completion in two contexts; the first is without the judgment.
    let completions = if matches!(record.row, Row::Judged { .. }) { 1 } else { values.len() };
    let suffixes: Vec<String> = (0..completions).map(suffix).collect();
    for (suffix, values) in suffixes.iter().zip(values) {
        for (head, value) in heads.iter().zip(values) {
            record.numbers.insert(format!("{head}{suffix}"), *value);
        }
    }
    record
}

/// Replaces numbers by the log-probabilities that each is above the usual of its prompt, `log σ(v − v_ref)` with the
/// `share`-quantile of the prompt's completions as `v_ref` ([`centred_log_sigmoid`]), and adds one number more: their sum, the
/// log-probability that all are. `prompts` tells the prompt of every row, as by [`prompt_hash`](candlewick_data::prompt_hash); rows of `[completions][heads]`.
///
/// ```
/// let mut rows = vec![vec![vec![0.0, 4.0]], vec![vec![2.0, 1.0]]];
/// candlewick_evaluate::centre(&mut rows, &[7, 7], 1.0);
/// // The second row's first number is the largest of the prompt: half likely above it.
/// assert!((rows[1][0][0] + 2f64.ln()).abs() < 1e-15);
/// assert_eq!(rows[1][0][2], rows[1][0][0] + rows[1][0][1]);
/// ```
pub fn centre(rows: &mut [RowValues], prompts: &[u128], share: f64) {
    let heads = rows.iter().flatten().map(Vec::len).next().unwrap_or(0);
    let mut by_prompt: BTreeMap<u128, Vec<Vec<f64>>> = BTreeMap::new();
    for (row, prompt) in rows.iter().zip(prompts) {
        let of = by_prompt.entry(*prompt).or_insert_with(|| vec![Vec::new(); heads]);
        for completion in row {
            of.iter_mut().zip(completion).for_each(|(all, value)| all.push(*value));
        }
    }
    let reference = |of: &Vec<Vec<f64>>| of.iter().map(|values| quantile(values, share).unwrap_or(0.0)).collect();
    let references: BTreeMap<u128, Vec<f64>> = by_prompt.iter().map(|(prompt, of)| (*prompt, reference(of))).collect();
    for (row, prompt) in rows.iter_mut().zip(prompts) {
        for completion in row {
            for (value, reference) in completion.iter_mut().zip(&references[prompt]) {
                *value = centred_log_sigmoid(*value, *reference);
            }
            completion.push(completion.iter().sum());
        }
    }
}

/// What one head said of rows, as far as the rows can tell whether it is right.
#[derive(Debug, Clone, Default)]
pub struct HeadTally {
    values: Vec<f64>,
    /// Of the chosen and the rejected completion.
    pairs: Vec<(f64, f64)>,
    /// Of single completions with a verdict; true is undesirable.
    labelled: Vec<(f64, bool)>,
    /// Of completions with a flag; true is unsafe.
    flagged: Vec<(f64, bool)>,
}

impl HeadTally {
    /// Adds a row: what the head said of each of its completions.
    pub fn add(&mut self, record: &Record, values: &[f64]) {
        // A judged row has its one completion in two contexts; the first is without the judgment.
        let values = if matches!(record.row, Row::Judged { .. }) { &values[..1.min(values.len())] } else { values };
        self.values.extend(values);
        let flag = |name: &str| record.numbers.get(name).map(|safe| *safe < 0.5);
        match (&record.row, values) {
            (Row::Pair { .. }, [chosen, rejected]) => {
                self.pairs.push((*chosen, *rejected));
                let flags = [(*chosen, flag("safe_chosen")), (*rejected, flag("safe_rejected"))];
                self.flagged.extend(flags.into_iter().filter_map(|(value, unsafe_)| Some((value, unsafe_?))));
            }
            (Row::Labelled { desirable, .. }, [value]) => {
                self.labelled.push((*value, !desirable));
                self.flagged.extend(flag("safe").map(|unsafe_| (*value, unsafe_)));
            }
            (_, [value, ..]) => self.flagged.extend(flag("safe").map(|unsafe_| (*value, unsafe_))),
            _ => {}
        }
    }

    /// The figures; `None` of no rows.
    pub fn figures(&self) -> Option<HeadFigures> {
        let count = self.values.len() as f64;
        let mean = (count > 0.0).then(|| self.values.iter().sum::<f64>() / count)?;
        let variance = self.values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let probability = |x: f64| 1.0 / (1.0 + (-x).exp());
        // A pair says that the chosen one is better; both orders of it say the same, and together they are balanced.
        let said = self.pairs.iter().flat_map(|(chosen, rejected)| {
            [(probability(chosen - rejected), true), (probability(rejected - chosen), false)]
        });
        let flagged = if self.flagged.is_empty() { &self.labelled } else { &self.flagged };
        let flags = flagged.iter().map(|(cost, unsafe_)| (probability(*cost), *unsafe_));
        Some(HeadFigures {
            completions: self.values.len(),
            mean,
            deviation: variance.sqrt(),
            above_zero: self.values.iter().filter(|value| **value > 0.0).count() as f64 / count,
            chosen_above: ranking_accuracy(&self.pairs),
            calibration_of_pairs: calibration_error(&said.collect::<Vec<_>>(), BINS),
            undesirable_above: area_under_curve(&self.labelled),
            unsafe_above: area_under_curve(&self.flagged),
            sign: SignAccuracy::of(flagged),
            calibration_of_flags: calibration_error(&flags.collect::<Vec<_>>(), BINS),
        })
    }
}

/// How well what one head says agrees with the rows. What they do not tell is absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadFigures {
    /// How many completions were scored.
    pub completions: usize,
    /// The mean of what was said.
    pub mean: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// The share of completions with a number above 0: of a cost, the rate of unsafe ones.
    pub above_zero: f64,
    /// How often the chosen completion of a pair has the larger number; a tie counts one half. Of a cost, one half and less
    /// is right where the chosen side is the safer one.
    pub chosen_above: Option<f64>,
    /// The expected calibration error of `σ(chosen − rejected)`, in ten bins, over both orders of each pair.
    pub calibration_of_pairs: Option<f64>,
    /// How likely an undesirable completion has a larger number than a desirable one. Of a reward, less than one half is right.
    pub undesirable_above: Option<f64>,
    /// How likely a completion that is flagged unsafe has a larger number than one flagged safe.
    pub unsafe_above: Option<f64>,
    /// How often the sign agrees with the flag, if the number is a cost; of rows without flags, with the verdict.
    pub sign: Option<SignAccuracy>,
    /// The expected calibration error of `σ(number)` as the probability of unsafe (or undesirable), in ten bins.
    pub calibration_of_flags: Option<f64>,
}

/// Tallies of every head, of all rows and by the words of one label.
#[derive(Debug, Clone)]
pub struct ScoreTally {
    heads: Vec<String>,
    slice: Option<String>,
    tallies: BTreeMap<Option<String>, Vec<HeadTally>>,
}

impl ScoreTally {
    /// Of heads by name; `slice` is the label by whose words rows are also told apart.
    ///
    /// # Errors
    /// If two heads have one name.
    pub fn new(heads: Vec<String>, slice: Option<String>) -> Result<Self> {
        if let Some((_, twice)) = heads.iter().enumerate().find(|(i, head)| heads[..*i].contains(head)) {
            let reason = format!("two heads are called {twice:?}; score with one of the models at a time");
            return Err(Error::Config { key: "model".to_owned(), reason });
        }
        Ok(Self { heads, slice, tallies: BTreeMap::new() })
    }

    /// Adds what was said of a row: `[completions][heads]`.
    pub fn add(&mut self, record: &Record, values: &RowValues) {
        let word = self.slice.as_ref().and_then(|slice| record.labels.get(slice)).cloned();
        for key in [None].into_iter().chain(word.map(Some)) {
            let tallies = self.tallies.entry(key).or_insert_with(|| vec![HeadTally::default(); self.heads.len()]);
            for (head, tally) in tallies.iter_mut().enumerate() {
                tally.add(record, &values.iter().map(|of| of[head]).collect::<Vec<_>>());
            }
        }
    }

    /// The word of the label (none for all rows), the head, and its figures; all rows first.
    pub fn figures(&self) -> Vec<(Option<&str>, &str, HeadFigures)> {
        let mut all = Vec::new();
        for (word, tallies) in &self.tallies {
            for (head, tally) in self.heads.iter().zip(tallies) {
                all.extend(tally.figures().map(|figures| (word.as_deref(), head.as_str(), figures)));
            }
        }
        all
    }
}
