//! Rows of one kind as rows of another.

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row, Text};

/// What rows are written as.
///
/// | to | of a pair | of a labelled row | of ranked completions | of a judged row | of a demonstration |
/// |---|---|---|---|---|---|
/// | `pairs` | itself | – | every two completions of different ratings, with their difference as `margin` | – | – |
/// | `unpaired` | two labelled rows | itself | – | its completion, labelled | – |
/// | `ranked` | its completions, rated `score_chosen` and `score_rejected`, or 1 and 0 | – | itself | – | – |
/// | `demonstrations` | the chosen one | the completion, if wanted | the one rated best | the completion, if judged well | itself |
///
/// A dash is [`Reason::OtherKind`]; a pair with an even verdict and completions of one rating are [`Reason::Tied`] where one has
/// to be preferred. Tools, arguments of the template and numbers are kept; where a pair is taken apart, `margin`, `preference`
/// and votes are left out, and `…_chosen` and `…_rejected` become `…` of their completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Every row as what it is.
    #[default]
    Auto,
    /// Pairs.
    Pairs,
    /// Labelled rows.
    Unpaired,
    /// Ranked completions.
    Ranked,
    /// Demonstrations.
    Demonstrations,
}

impl Layout {
    /// A row in this layout: one row or several.
    ///
    /// # Errors
    /// The row cannot be put so, and why.
    pub fn of(self, origin: &Origin, record: Record) -> Result<Vec<Record>, Rejection> {
        let laid_out = match self {
            Self::Auto => Ok(vec![record]),
            Self::Pairs => pairs(record),
            Self::Unpaired => unpaired(record),
            Self::Ranked => ranked(record),
            Self::Demonstrations => demonstrations(record),
        };
        laid_out.map_err(|fault| fault.at(origin))
    }
}

fn pairs(record: Record) -> Result<Vec<Record>, Fault> {
    let Row::Ranked { prompt, completions } = &record.row else {
        return match record.row {
            Row::Pair { .. } => Ok(vec![record]),
            _ => Err(other_kind(&record.row, "pairs", "")),
        };
    };
    let mut pairs = Vec::new();
    for (place, left) in completions.iter().enumerate() {
        for right in &completions[place + 1..] {
            let (better, worse) = if left.1 > right.1 { (left, right) } else { (right, left) };
            let margin = better.1 - worse.1;
            if margin > 0.0 && better.0 != worse.0 {
                let (chosen, rejected) = (better.0.clone(), worse.0.clone());
                let row = Row::Pair { prompt: prompt.clone(), chosen, rejected };
                pairs.push(Record { row, ..record.clone() }.with_number("margin", margin));
            }
        }
    }
    if pairs.is_empty() {
        return Err(Fault::new(Reason::Tied, "no two completions have different ratings"));
    }
    Ok(pairs)
}

fn unpaired(mut record: Record) -> Result<Vec<Record>, Fault> {
    match record.row {
        Row::Labelled { .. } => Ok(vec![record]),
        Row::Pair { .. } => {
            not_even(&record)?;
            let (chosen, rejected) = apart(record)?;
            let labelled = |(record, prompt, completion), desirable| Record {
                row: Row::Labelled { prompt, completion, desirable },
                ..record
            };
            Ok(vec![labelled(chosen, true), labelled(rejected, false)])
        }
        Row::Judged { prompt, completion, positive, .. } => {
            record.row = Row::Labelled { prompt, completion, desirable: positive };
            Ok(vec![record])
        }
        other => Err(other_kind(&other, "unpaired", if is_ranked(&other) { "; --to pairs makes pairs of them" } else { "" })),
    }
}

fn ranked(mut record: Record) -> Result<Vec<Record>, Fault> {
    match record.row {
        Row::Ranked { .. } => Ok(vec![record]),
        Row::Pair { prompt, chosen, rejected } => {
            if !record.teacher.is_empty() {
                return Err(Fault::new(Reason::TeacherMismatch, "ranked rows take no teacher; use pairs"));
            }
            let score = |name| record.numbers.get(name).copied();
            let ratings = score("score_chosen").zip(score("score_rejected")).unwrap_or((1.0, 0.0));
            record.numbers.retain(|name, _| !is_of_pairs(name) && !name.starts_with("score_"));
            record.row = Row::Ranked { prompt, completions: vec![(chosen, ratings.0), (rejected, ratings.1)] };
            Ok(vec![record])
        }
        other => Err(other_kind(&other, "ranked", "")),
    }
}

fn demonstrations(mut record: Record) -> Result<Vec<Record>, Fault> {
    let unwanted = |what| Err(Fault::new(Reason::OtherKind, format!("the completion is {what}: nothing to imitate")));
    let (prompt, completion) = match record.row {
        Row::Demonstration { .. } => return Ok(vec![record]),
        Row::Pair { .. } => {
            not_even(&record)?;
            let ((record, prompt, completion), _) = apart(record)?;
            return Ok(vec![Record { row: Row::Demonstration { prompt, completion }, ..record }]);
        }
        Row::Labelled { desirable: false, .. } => return unwanted("labelled as not wanted"),
        Row::Judged { positive: false, .. } => return unwanted("judged badly"),
        Row::Labelled { prompt, completion, .. } | Row::Judged { prompt, completion, .. } => (prompt, completion),
        Row::Ranked { prompt, completions } => {
            // The first of those rated best.
            let best = completions.into_iter().reduce(|best, other| if other.1 > best.1 { other } else { best });
            match best {
                Some((completion, _)) => (prompt, completion),
                None => return Err(Fault::new(Reason::TooFewCompletions, "no completion to rank")),
            }
        }
    };
    record.row = Row::Demonstration { prompt, completion };
    Ok(vec![record])
}

type Side = (Record, Text, Text);

/// The two completions of a pair, each with what belongs to it.
fn apart(record: Record) -> Result<(Side, Side), Fault> {
    let Row::Pair { prompt, chosen, rejected } = record.row.clone() else {
        return Err(other_kind(&record.row, "a pair", ""));
    };
    let side = |place: usize, ending: &str, completion: Text| {
        let mut own = record.clone();
        own.numbers = record.numbers.iter().filter_map(|(name, value)| Some((of_side(name, ending)?, *value))).collect();
        own.teacher = record.teacher.get(place).cloned().into_iter().collect();
        (own, prompt.clone(), completion)
    };
    Ok((side(0, "_chosen", chosen), side(1, "_rejected", rejected)))
}

/// What a pair's number is called of one of its completions, if it is about it.
fn of_side(name: &str, ending: &str) -> Option<String> {
    if is_of_pairs(name) {
        return None;
    }
    match name.strip_suffix("_chosen").or(name.strip_suffix("_rejected")) {
        Some(_) => name.strip_suffix(ending).map(str::to_owned),
        None => Some(name.to_owned()),
    }
}

fn is_of_pairs(name: &str) -> bool {
    matches!(name, "margin" | "preference") || name.starts_with("votes_")
}

fn not_even(record: &Record) -> Result<(), Fault> {
    if crate::stats::is_tied(&record.numbers) {
        return Err(Fault::new(Reason::Tied, "the verdict is even, and one completion has to be preferred"));
    }
    Ok(())
}

fn is_ranked(row: &Row) -> bool {
    matches!(row, Row::Ranked { .. })
}

fn other_kind(row: &Row, to: &str, hint: &str) -> Fault {
    let kind = match row {
        Row::Pair { .. } => "a pair",
        Row::Labelled { .. } => "a labelled completion",
        Row::Demonstration { .. } => "a demonstration",
        Row::Ranked { .. } => "a row of ranked completions",
        Row::Judged { .. } => "a judged completion",
    };
    Fault::new(Reason::OtherKind, format!("{kind} cannot be written as {to}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair() -> Record {
        Row::Pair { prompt: text("p"), chosen: text("a"), rejected: text("b") }.into()
    }

    fn laid_out(layout: Layout, record: &Record) -> Result<Vec<Record>, Reason> {
        layout.of(&Origin::memory(1), record.clone()).map_err(|rejection| rejection.reason)
    }

    #[test]
    fn a_pair_is_taken_apart_with_the_numbers_of_its_sides() {
        let record = pair()
            .with_number("score_chosen", 4.0)
            .with_number("score_rejected", 2.0)
            .with_number("margin", 2.0)
            .with_number("length", 7.0);
        let rows = laid_out(Layout::Unpaired, &record).unwrap();
        let labelled = |completion: &str, desirable| Row::Labelled { prompt: text("p"), completion: text(completion), desirable };
        assert_eq!([&rows[0].row, &rows[1].row], [&labelled("a", true), &labelled("b", false)]);
        assert_eq!(rows[0].numbers, [("length".to_owned(), 7.0), ("score".to_owned(), 4.0)].into());
        assert_eq!(rows[1].numbers["score"], 2.0);
        let ranked = &laid_out(Layout::Ranked, &record).unwrap()[0];
        assert_eq!(ranked.row, Row::Ranked { prompt: text("p"), completions: vec![(text("a"), 4.0), (text("b"), 2.0)] });
        let imitated = &laid_out(Layout::Demonstrations, &record).unwrap()[0];
        assert_eq!(imitated.row, Row::Demonstration { prompt: text("p"), completion: text("a") });
        let even = pair().with_number("preference", 0.5);
        assert_eq!(laid_out(Layout::Unpaired, &even), Err(Reason::Tied));
        assert_eq!(laid_out(Layout::Auto, &even), Ok(vec![even.clone()]));
    }

    #[test]
    fn ranked_completions_make_a_pair_of_every_two_ratings_that_differ() {
        let completions = vec![(text("a"), 1.0), (text("b"), 3.0), (text("c"), 1.0)];
        let record = Record::from(Row::Ranked { prompt: text("p"), completions });
        let rows = laid_out(Layout::Pairs, &record).unwrap();
        let sides = |record: &Record| match &record.row {
            Row::Pair { chosen: Text::Plain(chosen), rejected: Text::Plain(rejected), .. } => format!("{chosen}{rejected}"),
            _ => String::new(),
        };
        assert_eq!(rows.iter().map(sides).collect::<Vec<_>>(), ["ba", "bc"]);
        assert!(rows.iter().all(|record| record.numbers["margin"] == 2.0));
        let best = &laid_out(Layout::Demonstrations, &record).unwrap()[0].row;
        assert_eq!(*best, Row::Demonstration { prompt: text("p"), completion: text("b") });
        let flat = Record::from(Row::Ranked { prompt: text("p"), completions: vec![(text("a"), 1.0), (text("b"), 1.0)] });
        assert_eq!(laid_out(Layout::Pairs, &flat), Err(Reason::Tied));
        assert_eq!(laid_out(Layout::Unpaired, &flat), Err(Reason::OtherKind));
    }

    #[test]
    fn only_what_is_wanted_is_imitated() {
        let labelled = |desirable| Record::from(Row::Labelled { prompt: text("p"), completion: text("a"), desirable });
        assert_eq!(laid_out(Layout::Demonstrations, &labelled(true)).map(|rows| rows.len()), Ok(1));
        assert_eq!(laid_out(Layout::Demonstrations, &labelled(false)), Err(Reason::OtherKind));
        let judged = |positive| {
            let judgment = "ok".to_owned();
            Record::from(Row::Judged { prompt: text("p"), completion: text("a"), judgment, positive })
        };
        assert_eq!(laid_out(Layout::Demonstrations, &judged(false)), Err(Reason::OtherKind));
        assert_eq!(laid_out(Layout::Unpaired, &judged(false)).unwrap()[0], labelled(false));
    }
}
