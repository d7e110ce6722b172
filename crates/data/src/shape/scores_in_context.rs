//! Rewards-in-Context: rows whose prompts say which scores their completions have.
//!
//! `{"prompt": "Tea?", "completion": " Green.", "reward": 2.5, "cost": -1.0}` becomes
//! `{"prompt": "Tea? <rm1_score> 0.7 <rm2_score> -1.3", "completion": " Green."}`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row};
use crate::shape::{asked, joined};

/// One score over a set of rows: what it is normalised by, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreScale {
    /// The name of its number; `-cost` for one of which less is better, whose negative is what is counted.
    pub name: String,
    /// Completions it was measured on.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, of the population as in the release.
    pub deviation: f64,
    /// The lowest score, normalised.
    pub low: f64,
    /// The highest, normalised.
    pub high: f64,
}

impl ScoreScale {
    /// (score − mean) / deviation, of a number as the rows have it.
    #[must_use]
    pub fn normalised(&self, number: f64) -> f64 {
        let (_, sign) = column(&self.name);
        (sign * number - self.mean) / self.deviation
    }
}

/// The column of a score, and the sign of its numbers.
fn column(name: &str) -> (&str, f64) {
    name.strip_prefix('-').map_or((name, 1.0), |column| (column, -1.0))
}

/// The names of the numbers that rows must bring for a score: of a pair one for each side.
#[must_use]
pub fn score_columns(name: &str, of_pairs: bool) -> Vec<String> {
    let (column, _) = column(name);
    match of_pairs {
        true => vec![format!("{column}_chosen"), format!("{column}_rejected")],
        false => vec![column.to_owned()],
    }
}

/// Measures scores, a row at a time, in constant memory (Welford's recurrence in f64).
///
/// ```
/// use candlewick_data::{Origin, Record, Row, ScoreMeter, Text};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let mut meter = ScoreMeter::new(&["reward".to_owned()])?;
/// for reward in [1.0, 3.0] {
///     let row = Row::Demonstration { prompt: text("p"), completion: text("a") };
///     meter.add(&Record::from(row).with_number("reward", reward), &Origin::memory(1)).unwrap();
/// }
/// let scales = meter.scales()?;
/// assert_eq!((scales[0].mean, scales[0].deviation, scales[0].low, scales[0].high), (2.0, 1.0, -1.0, 1.0));
/// # Ok::<(), candlewick_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScoreMeter {
    names: Vec<String>,
    count: u64,
    /// Mean, sum of squared deviations, lowest and highest of each.
    moments: Vec<[f64; 4]>,
}

impl ScoreMeter {
    /// Of the scores of these names.
    ///
    /// # Errors
    /// No names, an empty name, or one twice.
    pub fn new(names: &[String]) -> Result<Self, Error> {
        let refused = |got: String| Error::Option {
            name: "scores",
            got,
            expected: "names of numbers, each once, as reward; -cost where less is better",
        };
        for (index, name) in names.iter().enumerate() {
            let column = column(name).0;
            if column.is_empty() || names[..index].iter().any(|other| self::column(other).0 == column) {
                return Err(refused(format!("{name:?}")));
            }
        }
        if names.is_empty() {
            return Err(refused("none".to_owned()));
        }
        let moments = vec![[0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY]; names.len()];
        Ok(Self { names: names.to_vec(), count: 0, moments })
    }

    /// Adds the completions of a row.
    ///
    /// # Errors
    /// A row that has other completions than one or two, or lacks a score.
    pub fn add(&mut self, record: &Record, origin: &Origin) -> Result<(), Rejection> {
        let completions = scored(record, &self.names).map_err(|fault| fault.at(origin))?;
        for (_, numbers) in completions {
            self.count += 1;
            for ((name, number), [mean, squares, low, high]) in self.names.iter().zip(numbers).zip(&mut self.moments) {
                let score = column(name).1 * number;
                let before = score - *mean;
                *mean += before / self.count as f64;
                *squares += before * (score - *mean);
                (*low, *high) = (low.min(score), high.max(score));
            }
        }
        Ok(())
    }

    /// What was measured.
    ///
    /// # Errors
    /// Nothing was, or all values of a score are equal: it cannot tell completions apart.
    pub fn scales(&self) -> Result<Vec<ScoreScale>, Error> {
        let scale = |(name, &[mean, squares, low, high]): (&String, &[f64; 4])| {
            let deviation = (squares / self.count.max(1) as f64).sqrt();
            if !(deviation > 0.0 && deviation.is_finite()) {
                return Err(Error::Option {
                    name: "scores",
                    got: format!("{name}, of which {} values have a standard deviation of {deviation}", self.count),
                    expected: "scores that differ from completion to completion, and a finite spread",
                });
            }
            let normalised = |score: f64| (score - mean) / deviation;
            let (low, high) = (normalised(low), normalised(high));
            Ok(ScoreScale { name: name.clone(), count: self.count, mean, deviation, low, high })
        };
        self.names.iter().zip(&self.moments).map(scale).collect()
    }
}

/// A completion's place in its row, and its scores as the row has them.
type Scored = (usize, Vec<f64>);

fn scored(record: &Record, names: &[String]) -> Result<Vec<Scored>, Fault> {
    let of_pair = match record.row {
        Row::Pair { .. } => true,
        Row::Labelled { .. } | Row::Demonstration { .. } | Row::Judged { .. } => false,
        Row::Ranked { .. } => {
            let detail = "ranked completions have one rating each and no scores by name; make pairs of them first";
            return Err(Fault::new(Reason::OtherKind, detail));
        }
    };
    let number = |column: &String| {
        record.numbers.get(column).copied().ok_or_else(|| {
            Fault::new(Reason::MissingColumn, format!("no number `{column}`, by which the prompt is to be conditioned"))
        })
    };
    let of = |completion: usize| {
        let numbers = names.iter().map(|name| number(&score_columns(name, of_pair)[completion]));
        Ok((completion, numbers.collect::<Result<_, _>>()?))
    };
    (0..if of_pair { 2 } else { 1 }).map(of).collect()
}

/// The completions of a row as demonstrations whose prompts say their scores: one of a single completion, two of a pair. Tools,
/// template arguments and labels go along, numbers and teachers do not.
///
/// # Errors
/// A row of ranked completions, one that lacks a score, a conversation without a message of the user.
pub fn scores_in_context(record: Record, origin: &Origin, scales: &[ScoreScale]) -> Result<Vec<Record>, Rejection> {
    conditioned(&record, scales).map_err(|fault| fault.at(origin))
}

fn conditioned(record: &Record, scales: &[ScoreScale]) -> Result<Vec<Record>, Fault> {
    let names: Vec<String> = scales.iter().map(|scale| scale.name.clone()).collect();
    let demonstration = |(completion, numbers): Scored| {
        let normalised = scales.iter().zip(numbers).map(|(scale, number)| scale.normalised(number));
        let words = score_words(&normalised.collect::<Vec<_>>());
        let (prompt, completions) = record.row.texts();
        let text = completions.get(completion).copied().cloned();
        let text = text.ok_or_else(|| Fault::new(Reason::TooFewCompletions, "a completion is missing"))?;
        let row = Row::Demonstration { prompt: prompt.clone(), completion: text };
        let mut record = joined::alone(record, completion, row, std::collections::BTreeMap::new());
        record.teacher.clear();
        asked::put_after(&mut record, &words)?;
        Ok(record)
    };
    scored(record, &names)?.into_iter().map(demonstration).collect()
}

/// `<rm1_score> 0.7 <rm2_score> -1.3`: scores with one decimal, as the release of Rewards-in-Context writes them. A score that
/// rounds to 0 has no sign here; there it may be `-0.0`.
#[must_use]
pub fn score_words(scores: &[f64]) -> String {
    let word = |(index, score): (usize, &f64)| {
        let rounded = format!("{score:.1}");
        let rounded = if rounded == "-0.0" { "0.0" } else { rounded.as_str() };
        format!("<rm{}_score> {rounded}", index + 1)
    };
    scores.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
}

/// How a preference among scores becomes the scores to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredScores {
    /// `p / ‖p‖₂ · (high − low) + low`.
    #[default]
    Unit,
    /// `min(n·p, 1) · (high − low) + low` of n scores, where the preferences add up to 1: what is preferred at least as much as
    /// it would be among equals is asked for in full.
    Capped,
}

impl DesiredScores {
    /// The normalised scores to ask for, one for each scale.
    ///
    /// # Errors
    /// As many preferences as there are no scores, one below 0 or not finite, none above 0.
    ///
    /// ```
    /// use candlewick_data::{DesiredScores, ScoreScale};
    /// let scale = |name: &str| {
    ///     ScoreScale { name: name.to_owned(), count: 9, mean: 0.0, deviation: 1.0, low: -2.0, high: 3.0 }
    /// };
    /// let scales = [scale("reward"), scale("-cost")];
    /// let desired = DesiredScores::Unit.of(&[3.0, 4.0], &scales)?;
    /// assert!((desired[0] - 1.0).abs() < 1e-12 && (desired[1] - 2.0).abs() < 1e-12);
    /// let desired = DesiredScores::Capped.of(&[0.2, 0.8], &scales)?;
    /// assert!((desired[0] - 0.0).abs() < 1e-12 && (desired[1] - 3.0).abs() < 1e-12);
    /// # Ok::<(), candlewick_data::Error>(())
    /// ```
    pub fn of(self, preference: &[f64], scales: &[ScoreScale]) -> Result<Vec<f64>, Error> {
        let sum: f64 = preference.iter().sum();
        let is_good = |share: &f64| *share >= 0.0 && share.is_finite();
        if preference.len() != scales.len() || !preference.iter().all(is_good) || !(sum > 0.0 && sum.is_finite()) {
            let names: Vec<&str> = scales.iter().map(|scale| scale.name.as_str()).collect();
            return Err(Error::Option {
                name: "preference",
                got: format!("{preference:?} for the scores {}", names.join(", ")),
                expected: "a number from 0 for each score, one of them above 0",
            });
        }
        let norm = preference.iter().map(|share| (share / sum).powi(2)).sum::<f64>().sqrt();
        let part = |share: f64| match self {
            Self::Unit => share / norm,
            Self::Capped => (share * scales.len() as f64).min(1.0),
        };
        let desired = |(share, scale): (&f64, &ScoreScale)| part(share / sum) * (scale.high - scale.low) + scale.low;
        Ok(preference.iter().zip(scales).map(desired).collect())
    }
}

/// A row whose prompt asks for scores.
///
/// # Errors
/// A conversation without a message of the user.
pub fn ask_for_scores(mut record: Record, origin: &Origin, desired: &[f64]) -> Result<Record, Rejection> {
    asked::put_after(&mut record, &score_words(desired)).map_err(|fault| fault.at(origin))?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Text;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair(rewards: [f64; 2], costs: [f64; 2]) -> Record {
        let row = Row::Pair { prompt: text("Tea?"), chosen: text("a"), rejected: text("b") };
        Record::from(row)
            .with_number("reward_chosen", rewards[0])
            .with_number("reward_rejected", rewards[1])
            .with_number("cost_chosen", costs[0])
            .with_number("cost_rejected", costs[1])
    }

    fn names() -> Vec<String> {
        ["reward", "-cost"].map(str::to_owned).into()
    }

    fn prompt(record: &Record) -> String {
        match &record.row {
            Row::Demonstration { prompt: Text::Plain(prompt), .. } => prompt.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scales_are_those_of_two_passes() {
        // Large and close together: a sum of squares would lose the spread.
        let rewards: Vec<f64> = (0..50).map(|n| 1e8 + f64::from(n * n % 17)).collect();
        let mut meter = ScoreMeter::new(&names()).unwrap();
        for two in rewards.chunks(2) {
            meter.add(&pair([two[0], two[1]], [two[1] - 1e8, 2.0]), &Origin::memory(1)).unwrap();
        }
        let scales = meter.scales().unwrap();
        let mean = rewards.iter().map(|reward| reward - 1e8).sum::<f64>() / 50.0;
        let variance = rewards.iter().map(|reward| (reward - 1e8 - mean).powi(2)).sum::<f64>() / 50.0;
        assert!((scales[0].mean - 1e8 - mean).abs() < 1e-6 && (scales[0].deviation - variance.sqrt()).abs() < 1e-6);
        let highest = rewards.iter().copied().fold(f64::MIN, f64::max);
        assert!((scales[0].high - scales[0].normalised(highest)).abs() < 1e-9);
        // Of a cost the least is the best.
        assert!((scales[1].high - scales[1].normalised(0.0)).abs() < 1e-9 && scales[1].mean < 0.0);
        assert_eq!(scales[1].count, 50);
    }

    #[test]
    fn both_completions_of_a_pair_are_shown_with_their_scores() {
        let scale = |name: &str, mean, deviation| ScoreScale {
            name: name.to_owned(),
            count: 4,
            mean,
            deviation,
            low: -2.0,
            high: 2.0,
        };
        let scales = [scale("reward", 1.0, 2.0), scale("-cost", 0.0, 4.0)];
        let rows = scores_in_context(pair([2.5, 0.75], [-8.0, 1.0]), &Origin::memory(1), &scales).unwrap();
        assert_eq!(prompt(&rows[0]), "Tea? <rm1_score> 0.8 <rm2_score> 2.0");
        // −0.125 and −0.25: halves go to the even digit, as in Python.
        assert_eq!(prompt(&rows[1]), "Tea? <rm1_score> -0.1 <rm2_score> -0.2");
        // What rounds to 0 has no sign.
        assert_eq!(score_words(&[-0.04, 0.25, 10.0]), "<rm1_score> 0.0 <rm2_score> 0.2 <rm3_score> 10.0");
        assert!(matches!(&rows[1].row, Row::Demonstration { completion, .. } if *completion == text("b")));
        assert!(rows.iter().all(|row| row.numbers.is_empty()));
    }

    #[test]
    fn rows_without_scores_and_scores_without_spread_are_told() {
        let mut meter = ScoreMeter::new(&names()).unwrap();
        let single = Record::from(Row::Demonstration { prompt: text("p"), completion: text("a") });
        let refused = meter.add(&single, &Origin::memory(2)).unwrap_err();
        assert!(refused.reason == Reason::MissingColumn && refused.detail.contains("`reward`"), "{refused}");
        meter.add(&pair([1.0, 2.0], [3.0, 3.0]), &Origin::memory(1)).unwrap();
        let error = meter.scales().unwrap_err().to_string();
        assert!(error.contains("-cost, of which 2 values have a standard deviation of 0"), "{error}");
        for wrong in [vec![], vec!["-"], vec!["cost", "-cost"]] {
            let wrong: Vec<String> = wrong.into_iter().map(str::to_owned).collect();
            assert!(ScoreMeter::new(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn preferences_that_are_none_are_refused() {
        let scale = ScoreScale { name: "r".to_owned(), count: 1, mean: 0.0, deviation: 1.0, low: 0.0, high: 1.0 };
        let scales = [scale.clone(), scale];
        for wrong in [vec![1.0], vec![0.0, 0.0], vec![-1.0, 2.0], vec![f64::NAN, 1.0], vec![f64::MAX, f64::MAX]] {
            assert!(DesiredScores::Unit.of(&wrong, &scales).is_err(), "{wrong:?}");
        }
        // The capped rule is about shares, whatever they add up to.
        assert_eq!(DesiredScores::Capped.of(&[1.0, 3.0], &scales).unwrap(), [0.5, 1.0]);
        assert_eq!(DesiredScores::Unit.of(&[0.0, 5.0], &scales).unwrap(), [0.0, 1.0]);
    }
}
