//! Rows of one kind as rows of another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row, Text};
use crate::shape::{Pairing, ranked_pairs, unpair};
use crate::stats::is_tied;

/// What rows are written as.
///
/// | to | of a pair | of a labelled row | of ranked completions | of a judged row | of a demonstration |
/// |---|---|---|---|---|---|
/// | `pairs` | itself | see [`pair_up`](crate::pair_up) | [`ranked_pairs`] | – | – |
/// | `unpaired` | [`unpair`] | itself | – | its completion, labelled | – |
/// | `ranked` | its completions, rated as below | – | itself | – | – |
/// | `demonstrations` | the chosen one | the completion, if wanted | the one rated best | the completion, if judged well | itself |
///
/// Ratings of a pair are its `score_chosen` and `score_rejected`, else its `preference` and what is left of 1, else 1 and 0; those
/// of a tie are equal. Its other numbers stay beside them. To `unpaired` and `demonstrations` only numbers of one completion go
/// along (`score_chosen` as `score`): a margin, a preference and votes are lost.
///
/// A dash is [`Reason::OtherKind`]; a pair with an even verdict, and completions of one rating, are [`Reason::Tied`] where one
/// has to be preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Every row as what it is.
    #[default]
    Auto,
    /// Pairs.
    Pairs(Pairing),
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
        match (self, &record.row) {
            (Self::Auto, _)
            | (Self::Pairs(_), Row::Pair { .. })
            | (Self::Unpaired, Row::Labelled { .. })
            | (Self::Ranked, Row::Ranked { .. })
            | (Self::Demonstrations, Row::Demonstration { .. }) => Ok(vec![record]),
            (Self::Pairs(pairing), Row::Ranked { .. }) => Ok(ranked_pairs(record, origin, pairing)?.collect()),
            (Self::Unpaired, Row::Pair { .. }) => {
                not_even(&record).map_err(|fault| fault.at(origin))?;
                unpair(record, origin).map(Vec::from)
            }
            (Self::Demonstrations, Row::Pair { .. }) => {
                not_even(&record).map_err(|fault| fault.at(origin))?;
                let [chosen, _] = unpair(record, origin)?;
                Ok(vec![imitated(chosen).map_err(|fault| fault.at(origin))?])
            }
            _ => self.of_other(record).map(|record| vec![record]).map_err(|fault| fault.at(origin)),
        }
    }

    fn of_other(self, mut record: Record) -> Result<Record, Fault> {
        record.row = match (self, record.row) {
            (Self::Unpaired, Row::Judged { prompt, completion, positive, .. }) => {
                Row::Labelled { prompt, completion, desirable: positive }
            }
            (Self::Ranked, Row::Pair { prompt, chosen, rejected }) => {
                if !record.teacher.is_empty() {
                    return Err(Fault::new(Reason::TeacherMismatch, "ranked rows take no teacher; use pairs"));
                }
                let ratings = ratings(&mut record.numbers);
                Row::Ranked { prompt, completions: vec![(chosen, ratings.0), (rejected, ratings.1)] }
            }
            (Self::Demonstrations, row @ (Row::Labelled { .. } | Row::Judged { .. } | Row::Ranked { .. })) => {
                record.row = row;
                return imitated(record);
            }
            (_, row) => return Err(self.other_kind(&row)),
        };
        Ok(record)
    }

    fn other_kind(self, row: &Row) -> Fault {
        let kind = match row {
            Row::Pair { .. } => "a pair",
            Row::Labelled { .. } => "a labelled completion",
            Row::Demonstration { .. } => "a demonstration",
            Row::Ranked { .. } => "a row of ranked completions",
            Row::Judged { .. } => "a judged completion",
        };
        let (to, hint) = match (self, row) {
            (Self::Unpaired, Row::Ranked { .. }) => ("labelled rows", "; make pairs of them first"),
            (Self::Unpaired, _) => ("labelled rows", ""),
            (Self::Pairs(_), Row::Labelled { .. }) => ("a pair", "; two rows of one prompt can be paired up"),
            (Self::Pairs(_), _) => ("a pair", ""),
            (Self::Ranked, _) => ("ranked completions", ""),
            (Self::Demonstrations | Self::Auto, _) => ("a demonstration", ""),
        };
        Fault::new(Reason::OtherKind, format!("{kind} cannot be written as {to}{hint}"))
    }
}

/// Ratings that say of the completions of a pair what its numbers say; numbers that became ratings are taken away.
fn ratings(numbers: &mut BTreeMap<String, f64>) -> (f64, f64) {
    let tied = is_tied(numbers);
    let score = |name| numbers.get(name).copied();
    if let Some((chosen, rejected)) = score("score_chosen").zip(score("score_rejected"))
        && (!tied || chosen.total_cmp(&rejected).is_eq())
    {
        numbers.remove("score_chosen");
        numbers.remove("score_rejected");
        return (chosen, rejected);
    }
    match numbers.remove("preference") {
        _ if tied => (0.5, 0.5),
        Some(preference) => (preference, 1.0 - preference),
        None => (1.0, 0.0),
    }
}

/// The completion of a row that is worth imitating.
fn imitated(mut record: Record) -> Result<Record, Fault> {
    let unwanted = |what| Err(Fault::new(Reason::OtherKind, format!("the completion is {what}: nothing to imitate")));
    let (prompt, completion): (Text, Text) = match record.row {
        Row::Labelled { desirable: false, .. } => return unwanted("labelled as not wanted"),
        Row::Judged { positive: false, .. } => return unwanted("judged badly"),
        Row::Ranked { prompt, completions } => {
            // The first of those rated best.
            let best = completions.into_iter().reduce(|best, other| if other.1 > best.1 { other } else { best });
            match best {
                Some((completion, _)) => (prompt, completion),
                None => return Err(Fault::new(Reason::TooFewCompletions, "no completion to rank")),
            }
        }
        Row::Labelled { prompt, completion, .. }
        | Row::Judged { prompt, completion, .. }
        | Row::Demonstration { prompt, completion }
        | Row::Pair { prompt, chosen: completion, .. } => (prompt, completion),
    };
    record.row = Row::Demonstration { prompt, completion };
    Ok(record)
}

fn not_even(record: &Record) -> Result<(), Fault> {
    if is_tied(&record.numbers) {
        return Err(Fault::new(Reason::Tied, "the verdict is even, and one completion has to be preferred"));
    }
    Ok(())
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
        let record =
            pair().with_number("score_chosen", 4.0).with_number("score_rejected", 2.0).with_number("margin", 2.0);
        let rows = laid_out(Layout::Unpaired, &record).unwrap();
        let labelled =
            |completion: &str, desirable| Row::Labelled { prompt: text("p"), completion: text(completion), desirable };
        assert_eq!([&rows[0].row, &rows[1].row], [&labelled("a", true), &labelled("b", false)]);
        assert_eq!(rows[0].numbers, [("score".to_owned(), 4.0)].into());
        assert_eq!(rows[1].numbers.get("score"), Some(&2.0));
        let ranked = &laid_out(Layout::Ranked, &record).unwrap()[0];
        assert_eq!(
            ranked.row,
            Row::Ranked { prompt: text("p"), completions: vec![(text("a"), 4.0), (text("b"), 2.0)] }
        );
        let imitated = &laid_out(Layout::Demonstrations, &record).unwrap()[0];
        assert_eq!(imitated.row, Row::Demonstration { prompt: text("p"), completion: text("a") });
        let even = pair().with_number("preference", 0.5);
        assert_eq!(laid_out(Layout::Unpaired, &even), Err(Reason::Tied));
        assert_eq!(laid_out(Layout::Auto, &even), Ok(vec![even.clone()]));
    }

    #[test]
    fn a_tie_is_ranked_as_a_tie_and_numbers_stay() {
        let ranked = |record: &Record| {
            let record = laid_out(Layout::Ranked, record).unwrap().remove(0);
            let Row::Ranked { completions, .. } = &record.row else { panic!("{:?}", record.row) };
            ((completions[0].1, completions[1].1), record.numbers.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        let scored = |chosen, rejected| {
            pair()
                .with_number("score_chosen", chosen)
                .with_number("score_rejected", rejected)
                .with_number("margin", 1.0)
        };
        let votes = pair().with_number("votes_chosen", 1.0).with_number("votes_rejected", 1.0);
        for (record, ratings, left) in [
            (pair(), (1.0, 0.0), ""),
            (pair().with_number("preference", 0.5), (0.5, 0.5), ""),
            (pair().with_number("preference", 0.75).with_number("length", 3.0), (0.75, 0.25), "length"),
            (votes, (0.5, 0.5), "votes_chosen votes_rejected"),
            (scored(4.0, 2.0).with_number("preference", 1.0), (4.0, 2.0), "margin preference"),
            (scored(3.0, 3.0).with_number("preference", 0.5), (3.0, 3.0), "margin preference"),
            (scored(4.0, 2.0).with_number("preference", 0.5), (0.5, 0.5), "margin score_chosen score_rejected"),
        ] {
            assert_eq!(ranked(&record), (ratings, left.to_owned()), "{record:?}");
        }
    }

    #[test]
    fn ranked_completions_make_a_pair_of_every_two_ratings_that_differ() {
        let completions = vec![(text("a"), 1.0), (text("b"), 3.0), (text("c"), 1.0)];
        let record = Record::from(Row::Ranked { prompt: text("p"), completions });
        let rows = laid_out(Layout::Pairs(Pairing::All), &record).unwrap();
        let sides = |record: &Record| match &record.row {
            Row::Pair { chosen: Text::Plain(chosen), rejected: Text::Plain(rejected), .. } => {
                format!("{chosen}{rejected}")
            }
            _ => String::new(),
        };
        assert_eq!(rows.iter().map(sides).collect::<Vec<_>>(), ["ba", "bc"]);
        assert!(rows.iter().all(|record| record.numbers.get("margin") == Some(&2.0)));
        let best = &laid_out(Layout::Demonstrations, &record).unwrap()[0].row;
        assert_eq!(*best, Row::Demonstration { prompt: text("p"), completion: text("b") });
        let flat =
            Record::from(Row::Ranked { prompt: text("p"), completions: vec![(text("a"), 1.0), (text("b"), 1.0)] });
        assert_eq!(laid_out(Layout::Pairs(Pairing::All), &flat), Err(Reason::Tied));
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
