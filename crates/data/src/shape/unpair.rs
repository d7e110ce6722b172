//! Paired and ranked rows as labelled ones.
//!
//! `{prompt, chosen, rejected}` becomes `{prompt, chosen, desirable}` and `{prompt, rejected, not desirable}`.

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row, Text};
use crate::shape::joined;

/// A pair as two labelled rows, the chosen completion desirable and the rejected one not.
///
/// Tools, template arguments and each completion's teacher go along, and numbers that are named after a side, without that
/// name: `score_chosen` or `chosen_score` becomes `score` of the first. Numbers of the pair, such as its margin, say nothing
/// of one completion and are left behind.
///
/// # Errors
/// A row that is not a pair.
///
/// ```
/// use candlewick_data::{Origin, Record, Row, Text, unpair};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let pair = Row::Pair { prompt: text("p"), chosen: text(" a"), rejected: text(" b") };
/// let [first, second] = unpair(Record::from(pair).with_number("score_chosen", 8.0), &Origin::memory(1))?;
/// assert_eq!(first.row, Row::Labelled { prompt: text("p"), completion: text(" a"), desirable: true });
/// assert_eq!(second.row, Row::Labelled { prompt: text("p"), completion: text(" b"), desirable: false });
/// assert_eq!(first.numbers["score"], 8.0);
/// # Ok::<(), candlewick_data::Rejection>(())
/// ```
pub fn unpair(record: Record, origin: &Origin) -> Result<[Record; 2], Rejection> {
    let Row::Pair { prompt, chosen, rejected } = &record.row else {
        let detail = "only a pair has a chosen and a rejected completion to be parted";
        return Err(Fault::new(Reason::NotAPair, detail).at(origin));
    };
    let side = |index, completion: &Text, desirable| {
        let row = Row::Labelled { prompt: prompt.clone(), completion: completion.clone(), desirable };
        joined::alone(&record, index, row, joined::numbers_of_side(&record.numbers, index))
    };
    Ok([side(0, chosen, true), side(1, rejected, false)])
}

/// From which rating on a completion is desirable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// Above the mean of the row's ratings.
    #[default]
    Mean,
    /// Above a rating.
    At(f64),
}

/// A ranked row as labelled ones, in the order of its completions: those rated above the threshold desirable, those below not.
/// A completion right at the threshold is neither and is left out.
///
/// Each has its rating as the number `score`. Tools, template arguments and each completion's teacher go along; numbers of the
/// row do not.
///
/// # Errors
/// A row that is not ranked, a rating that is not finite, a row of which no completion is above or below.
pub fn unpair_ranked(record: Record, origin: &Origin, threshold: Threshold) -> Result<Vec<Record>, Rejection> {
    let (prompt, completions) = ranked(&record).map_err(|fault| fault.at(origin))?;
    let threshold = match threshold {
        // Each divided first, so that the sum of great ratings stays finite.
        Threshold::Mean => mean(completions),
        Threshold::At(rating) => rating,
    };
    let rows: Vec<Record> = completions
        .iter()
        .enumerate()
        .filter(|(_, (_, rating))| *rating < threshold || *rating > threshold)
        .map(|(index, (completion, rating))| {
            let desirable = *rating > threshold;
            let row = Row::Labelled { prompt: prompt.clone(), completion: completion.clone(), desirable };
            joined::alone(&record, index, row, [("score".to_owned(), *rating)].into())
        })
        .collect();
    if rows.is_empty() {
        let detail = format!("all {} ratings are {threshold}, expected some above or below", completions.len());
        return Err(Fault::new(Reason::Tied, detail).at(origin));
    }
    Ok(rows)
}

/// The prompt and the rated completions of a ranked row.
pub(crate) fn ranked(record: &Record) -> Result<(&Text, &[(Text, f64)]), Fault> {
    let Row::Ranked { prompt, completions } = &record.row else {
        return Err(Fault::new(Reason::WrongType, "only a ranked row has completions with ratings"));
    };
    match completions.iter().find(|(_, rating)| !rating.is_finite()) {
        Some((_, rating)) => {
            Err(Fault::new(Reason::OutOfRange, format!("a rating of {rating}, expected a finite number")))
        }
        None => Ok((prompt, completions)),
    }
}

/// The mean, exact where all ratings are equal.
fn mean(completions: &[(Text, f64)]) -> f64 {
    let ratings = || completions.iter().map(|(_, rating)| *rating);
    let (lowest, highest) =
        ratings().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), rating| (low.min(rating), high.max(rating)));
    let count = completions.len() as f64;
    ratings().map(|rating| rating / count).sum::<f64>().clamp(lowest.min(highest), highest.max(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::TeacherToken;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn ranked_row(ratings: &[f64]) -> Record {
        let completions = ratings.iter().enumerate().map(|(index, rating)| (text(&format!("c{index}")), *rating));
        Row::Ranked { prompt: text("p"), completions: completions.collect() }.into()
    }

    fn labels(ratings: &[f64], threshold: Threshold) -> Vec<(String, bool, f64)> {
        let rows = unpair_ranked(ranked_row(ratings), &Origin::memory(1), threshold).unwrap();
        let label = |record: Record| match record.row {
            Row::Labelled { completion: Text::Plain(text), desirable, .. } => {
                (text, desirable, record.numbers["score"])
            }
            other => panic!("{other:?}"),
        };
        rows.into_iter().map(label).collect()
    }

    #[test]
    fn each_side_takes_what_is_its_own() {
        let teacher = |id| vec![TeacherToken { ids: vec![id], log_probs: vec![0.0], reference_log_probs: vec![] }];
        let mut pair = Record::from(Row::Pair { prompt: text("p"), chosen: text("a"), rejected: text("b") })
            .with_number("margin", 2.0)
            .with_number("chosen_score", 7.0)
            .with_number("score_rejected", 5.0);
        pair.teacher = vec![teacher(3), teacher(4)];
        pair.tools = vec![serde_json::json!({"name": "t"})];
        let [first, second] = unpair(pair, &Origin::memory(1)).unwrap();
        assert_eq!((first.teacher, second.teacher), (vec![teacher(3)], vec![teacher(4)]));
        assert_eq!((first.numbers, second.numbers), ([("score".into(), 7.0)].into(), [("score".into(), 5.0)].into()));
        assert_eq!((first.tools.len(), second.tools.len()), (1, 1));
        let error = unpair(ranked_row(&[1.0, 2.0]), &Origin::memory(4)).unwrap_err();
        assert_eq!((error.reason, error.origin.line), (Reason::NotAPair, 4));
    }

    #[test]
    fn ranked_completions_are_wanted_above_the_threshold() {
        let named = |entries: &[(&str, bool, f64)]| {
            entries.iter().map(|(name, wanted, score)| ((*name).to_owned(), *wanted, *score)).collect::<Vec<_>>()
        };
        // The mean is 3: the second is right at it.
        let expected = named(&[("c0", true, 5.0), ("c2", false, 1.0)]);
        assert_eq!(labels(&[5.0, 3.0, 1.0], Threshold::Mean), expected);
        let expected = named(&[("c0", true, 5.0), ("c1", true, 3.0), ("c2", false, 1.0)]);
        assert_eq!(labels(&[5.0, 3.0, 1.0], Threshold::At(2.0)), expected);
        assert_eq!(labels(&[f64::MAX, -f64::MAX, f64::MAX], Threshold::Mean).len(), 3);
    }

    #[test]
    fn rows_without_a_difference_are_ties() {
        let reason = |ratings: &[f64], threshold| {
            unpair_ranked(ranked_row(ratings), &Origin::memory(1), threshold).unwrap_err().reason
        };
        // A third of 0.1 three times is not 0.1.
        assert_eq!(reason(&[0.1, 0.1, 0.1], Threshold::Mean), Reason::Tied);
        assert_eq!(reason(&[2.0, 2.0], Threshold::At(2.0)), Reason::Tied);
        assert_eq!(reason(&[f64::NAN, 2.0], Threshold::Mean), Reason::OutOfRange);
        assert_eq!(reason(&[], Threshold::Mean), Reason::Tied);
    }
}
