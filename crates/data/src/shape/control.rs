//! Controllable preference optimisation: prompts that say how an answer is to be rated, and pairs ordered by how near each
//! completion comes.
//!
//! `{"prompt": "Tea?", "chosen": "a", "rejected": "b", "helpfulness_chosen": 5, "helpfulness_rejected": 2}` under a control of
//! helpfulness at 2 becomes `{"prompt": "<helpfulness: 2> Tea?", "chosen": "b", "rejected": "a"}`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Reason, Rejection};
use crate::row::{Origin, Record, Row};
use crate::shape::asked;
use crate::shape::joined::swapped;

/// What is asked of one aspect.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// More is better; the prompt does not speak of it.
    Free,
    /// This rating.
    At(f64),
    /// The rating of a completion of the row: of a pair of either, as is drawn.
    OfRow,
}

/// One aspect of a [`Control`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aspect {
    /// The name of its number, which is also what the prompt says.
    pub name: String,
    /// What is asked of it.
    pub level: Level,
    /// How much it counts, ω.
    pub weight: f64,
}

/// Several aspects, by which the completions of a pair are ordered (CDPO, arXiv 2402.19085).
///
/// `R = Σ ωᵢ gᵢ` with `gᵢ = −λ·|rᵢ − cᵢ|` of an aspect that is asked for at the level `cᵢ`, and `gᵢ = rᵢ` of a free one. The
/// completion with the larger R is the chosen one.
///
/// The released code computes another thing in two places: a completion that hits the level exactly counts by its raw rating
/// (`… and −|r − c| or r`), and the term of honesty is `−|h| − c`. Neither is done here. The words of the prompt are the same
/// whatever they are for; the release spells one aspect in two ways, so that its two phases ask differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The aspects, in the order in which the prompt names them.
    pub aspects: Vec<Aspect>,
    /// How much a distance from the level counts beside a rating, λ.
    pub distance: f64,
}

impl Control {
    /// Whether it can be followed.
    ///
    /// # Errors
    /// No aspects, none that is asked for at a level, one twice, a name that breaks the words of the prompt, a level or weight
    /// that is not finite, weights of 0, a distance that is not above 0.
    pub fn check(&self) -> Result<(), Error> {
        let refused = |got: String, expected| Err(Error::Option { name: "control", got, expected });
        for (index, aspect) in self.aspects.iter().enumerate() {
            let Aspect { name, level, weight } = aspect;
            if name.is_empty() || name.contains(['<', '>', ':']) || name.chars().any(char::is_whitespace) {
                return refused(format!("{name:?}"), "the name of a number, without spaces, <, > and :");
            }
            if self.aspects[..index].iter().any(|other| other.name == *name) {
                return refused(format!("{name} twice"), "each aspect once");
            }
            if matches!(level, Level::At(level) if !level.is_finite()) {
                return refused(format!("{name} at {level:?}"), "a finite level");
            }
            if !(*weight > 0.0 && weight.is_finite()) {
                return refused(format!("{name} with a weight of {weight}"), "a weight above 0");
            }
        }
        if self.aspects.iter().all(|aspect| aspect.level == Level::Free) {
            return refused("no aspect at a level".to_owned(), "at least one aspect that is asked for at a level");
        }
        if !(self.distance > 0.0 && self.distance.is_finite()) {
            return refused(format!("a distance of {}", self.distance), "a number above 0: how much a distance counts");
        }
        Ok(())
    }

    /// R of a completion with these ratings, one for each aspect, where these levels are asked for.
    ///
    /// ```
    /// use candlewick_data::{Aspect, Control, Level};
    /// let aspect = |name: &str, level, weight| Aspect { name: name.to_owned(), level, weight };
    /// let aspects = vec![aspect("honesty", Level::At(3.0), 2.0), aspect("helpfulness", Level::Free, 1.0)];
    /// let control = Control { aspects, distance: 0.5 };
    /// // 2 · (−0.5 · |5 − 3|) + 1 · 4
    /// assert_eq!(control.value(&[5.0, 4.0], &[Some(3.0), None]), 2.0);
    /// ```
    #[must_use]
    pub fn value(&self, ratings: &[f64], levels: &[Option<f64>]) -> f64 {
        let term = |((aspect, rating), level): ((&Aspect, &f64), &Option<f64>)| {
            let g = level.map_or(*rating, |level| -self.distance * (rating - level).abs());
            aspect.weight * g
        };
        self.aspects.iter().zip(ratings).zip(levels).map(term).sum()
    }

    /// The words that ask for these levels: `<helpfulness: 5> <honesty: 3>`.
    #[must_use]
    pub fn words(&self, levels: &[Option<f64>]) -> String {
        let said = self.aspects.iter().zip(levels);
        let said = said.filter_map(|(aspect, level)| Some(format!("<{}: {}>", aspect.name, (*level)?)));
        said.collect::<Vec<_>>().join(" ")
    }

    /// The names of the numbers that rows must bring: of a pair two for each aspect.
    #[must_use]
    pub fn columns(&self, of_pairs: bool) -> Vec<String> {
        let sides: &[&str] = if of_pairs { &["_chosen", "_rejected"] } else { &[""] };
        self.aspects.iter().flat_map(|aspect| sides.iter().map(|side| format!("{}{side}", aspect.name))).collect()
    }

    /// A row under this control. A pair is put in the order of R, with the difference as its `margin`; `draw` chooses the
    /// completion whose ratings are asked for where a level is that of the row, the first where it is even. A single
    /// completion is told its own ratings, and set aside where it misses a level that is asked for.
    ///
    /// # Errors
    /// A row of ranked completions, one that lacks a rating, a pair of equal R, a single completion of another level.
    pub fn apply(&self, record: Record, origin: &Origin, draw: u64) -> Result<Record, Rejection> {
        self.applied(record, draw).map_err(|fault| fault.at(origin))
    }

    fn applied(&self, mut record: Record, draw: u64) -> Result<Record, Fault> {
        let sides: &[&str] = match record.row {
            Row::Pair { .. } => &["_chosen", "_rejected"],
            Row::Labelled { .. } | Row::Demonstration { .. } | Row::Judged { .. } => &[""],
            Row::Ranked { .. } => {
                let detail = "ranked completions have one rating each and no aspects; make pairs of them first";
                return Err(Fault::new(Reason::OtherKind, detail));
            }
        };
        let ratings: Vec<Vec<f64>> = sides.iter().map(|side| self.ratings(&record, side)).collect::<Result<_, _>>()?;
        let of_row = &ratings[usize::from(draw % 2 == 1 && sides.len() > 1)];
        let levels: Vec<Option<f64>> =
            self.aspects.iter().zip(of_row).map(|(aspect, rating)| aspect.asked(*rating)).collect();
        if let [own] = ratings.as_slice() {
            self.check_single(own, &levels)?;
        }
        if let [chosen, rejected] = ratings.as_slice() {
            let margin = self.value(chosen, &levels) - self.value(rejected, &levels);
            if margin == 0.0 {
                let detail = format!("both completions are as near to {}", self.words(&levels));
                return Err(Fault::new(Reason::Tied, detail));
            }
            if margin < 0.0 {
                record = swapped(record);
            }
            record.numbers.insert("margin".to_owned(), margin.abs());
            if let Some(preference) = record.numbers.get_mut("preference") {
                *preference = 1.0;
            }
        }
        asked::put_before(&mut record, &self.words(&levels))?;
        Ok(record)
    }

    fn check_single(&self, ratings: &[f64], levels: &[Option<f64>]) -> Result<(), Fault> {
        let mut named = self.aspects.iter().zip(ratings).zip(levels);
        let missed = named.find(|((_, rating), level)| level.is_some_and(|level| level.total_cmp(rating).is_ne()));
        let Some(((aspect, rating), Some(level))) = missed else { return Ok(()) };
        let detail = format!("the completion is rated {rating} for `{}`, and {level} is asked for", aspect.name);
        Err(Fault::new(Reason::OutOfRange, detail))
    }

    fn ratings(&self, record: &Record, side: &str) -> Result<Vec<f64>, Fault> {
        let rating = |aspect: &Aspect| {
            let name = format!("{}{side}", aspect.name);
            record.numbers.get(&name).copied().ok_or_else(|| {
                Fault::new(Reason::MissingColumn, format!("no number `{name}`, a rating that the control looks at"))
            })
        };
        self.aspects.iter().map(rating).collect()
    }
}

impl Aspect {
    /// The level that is asked for, where the row's own rating is given.
    fn asked(&self, rating: f64) -> Option<f64> {
        match self.level {
            Level::Free => None,
            Level::At(level) => Some(level),
            Level::OfRow => Some(rating),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Text;

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn control(levels: &[(&str, Level, f64)], distance: f64) -> Control {
        let aspect = |(name, level, weight): &(&str, Level, f64)| Aspect {
            name: (*name).to_owned(),
            level: *level,
            weight: *weight,
        };
        Control { aspects: levels.iter().map(aspect).collect(), distance }
    }

    fn pair(helpfulness: [f64; 2], honesty: [f64; 2]) -> Record {
        let row = Row::Pair { prompt: text("Tea?"), chosen: text("a"), rejected: text("b") };
        Record::from(row)
            .with_number("helpfulness_chosen", helpfulness[0])
            .with_number("helpfulness_rejected", helpfulness[1])
            .with_number("honesty_chosen", honesty[0])
            .with_number("honesty_rejected", honesty[1])
    }

    fn prompt_and_chosen(record: &Record) -> (String, String) {
        match &record.row {
            Row::Pair { prompt: Text::Plain(prompt), chosen: Text::Plain(chosen), .. } => {
                (prompt.clone(), chosen.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pairs_of_every_rating_stand_in_the_order_of_the_formula() {
        let control = control(&[("helpfulness", Level::At(3.0), 1.5), ("honesty", Level::Free, 0.5)], 0.75);
        control.check().unwrap();
        for code in 0..256u32 {
            let digit = |place: u32| f64::from(code / 4u32.pow(place) % 4 + 1);
            let (helpfulness, honesty) = ([digit(0), digit(1)], [digit(2), digit(3)]);
            // Written out for these two aspects: the square root of a square for the distance.
            let r = |i: usize| 0.5 * honesty[i] - 1.125 * (helpfulness[i] - 3.0).powi(2).sqrt();
            let made = control.apply(pair(helpfulness, honesty), &Origin::memory(1), 0);
            match r(0) - r(1) {
                0.0 => assert_eq!(made.unwrap_err().reason, Reason::Tied),
                difference => {
                    let made = made.unwrap();
                    let expected = if difference > 0.0 { "a" } else { "b" };
                    assert_eq!(prompt_and_chosen(&made), ("<helpfulness: 3> Tea?".to_owned(), expected.to_owned()));
                    assert!((made.numbers["margin"] - difference.abs()).abs() < 1e-12);
                    let of_chosen = helpfulness[usize::from(expected == "b")];
                    assert!((made.numbers["helpfulness_chosen"] - of_chosen).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn an_exact_match_is_worth_no_less_than_a_miss_and_honesty_is_a_distance() {
        // The release counts a match by its rating, 1 here, and so puts it above everything for the wrong reason; of honesty it
        // takes |h| + c, by which 1 is nearer to 4 than 4 is.
        let control = control(&[("helpfulness", Level::At(1.0), 1.0), ("honesty", Level::At(4.0), 1.0)], 1.0);
        let levels = [Some(1.0), Some(4.0)];
        assert!(control.value(&[1.0, 4.0], &levels).abs() < 1e-12);
        assert!((control.value(&[1.0, 1.0], &levels) + 3.0).abs() < 1e-12);
        let made = control.apply(pair([1.0, 1.0], [1.0, 4.0]), &Origin::memory(1), 0).unwrap();
        assert_eq!(prompt_and_chosen(&made), ("<helpfulness: 1> <honesty: 4> Tea?".to_owned(), "b".to_owned()));
    }

    #[test]
    fn levels_of_the_row_are_those_of_the_completion_drawn() {
        let control = control(&[("helpfulness", Level::OfRow, 1.0)], 1.0);
        for (draw, expected) in [(0, ("<helpfulness: 5> Tea?", "a")), (7, ("<helpfulness: 2> Tea?", "b"))] {
            let made = control.apply(pair([5.0, 2.0], [1.0, 1.0]), &Origin::memory(1), draw).unwrap();
            assert_eq!(prompt_and_chosen(&made), (expected.0.to_owned(), expected.1.to_owned()));
        }
        let single = |rating| {
            Record::from(Row::Demonstration { prompt: text("Tea?"), completion: text("a") })
                .with_number("helpfulness", rating)
        };
        let told = control.apply(single(4.5), &Origin::memory(1), 1).unwrap();
        assert!(matches!(&told.row, Row::Demonstration { prompt, .. } if *prompt == text("<helpfulness: 4.5> Tea?")));
        let fixed = super::tests::control(&[("helpfulness", Level::At(5.0), 1.0)], 1.0);
        assert_eq!(fixed.apply(single(4.5), &Origin::memory(1), 0).unwrap_err().reason, Reason::OutOfRange);
        let lacking = Record::from(Row::Demonstration { prompt: text("p"), completion: text("a") });
        assert_eq!(fixed.apply(lacking, &Origin::memory(1), 0).unwrap_err().reason, Reason::MissingColumn);
    }

    #[test]
    fn controls_that_cannot_be_followed_are_refused() {
        let at = Level::At(5.0);
        for (wrong, said) in [
            (control(&[], 1.0), "no aspect at a level"),
            (control(&[("x", Level::Free, 1.0)], 1.0), "no aspect at a level"),
            (control(&[("x", at, 1.0), ("x", Level::Free, 1.0)], 1.0), "x twice"),
            (control(&[("x y", at, 1.0)], 1.0), "\"x y\""),
            (control(&[("x", Level::At(f64::NAN), 1.0)], 1.0), "x at"),
            (control(&[("x", at, 0.0)], 1.0), "a weight of 0"),
            (control(&[("x", at, 1.0)], f64::INFINITY), "a distance of inf"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
