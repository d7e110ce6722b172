//! Pairs with labels of safety: what the labels say, where they contradict each other, and which completion they prefer.
//!
//! `{"safe_chosen": 0, "safe_rejected": 1}` is a mixed pair; ordered by safety its completions change places.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Fault, Reason, Rejection};
use crate::numbers::NumberColumn;
use crate::row::{Origin, Record, Row};
use crate::shape::joined::swapped;

/// Which label of a pair says which completion is the chosen one.
///
/// | order | the chosen completion | set aside |
/// |---|---|---|
/// | `helpful` | the one that `better` prefers; without that number the pair stays as it stands | `better` of 0 |
/// | `safer` | the one that `safer` prefers; where it is 0 or missing, the safe one of a mixed pair | pairs that neither tells apart; contradictions |
/// | `safe_dpo` | the more helpful one if it is safe, else the other one if that is safe | both unsafe; both safe with `better` of 0; contradictions |
///
/// A pair that is even in helpfulness is set aside only where helpfulness is to decide: under `safer`, and under `safe_dpo` of a safe and
/// an unsafe completion, it stays whatever [`Ties`](crate::Ties) says.
///
/// `safe_dpo` is the transform of SafeDPO (arXiv 2505.20065). A contradiction is a safer completion that is labelled unsafe
/// while the other is labelled safe, or a flag that a severity of harm denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyOrder {
    /// By helpfulness.
    Helpful,
    /// By safety.
    Safer,
    /// By helpfulness among safe completions: a safe one is above every unsafe one.
    SafeDpo,
}

impl SafetyOrder {
    /// Whether labels of safety decide.
    pub(crate) fn reads_safety(self) -> bool {
        self != Self::Helpful
    }

    /// The numbers that it looks at, where a row has them.
    pub(crate) fn numbers() -> [NumberColumn; 4] {
        let sign = |name: &str| NumberColumn { name: name.to_owned(), low: -1.0, high: 1.0 };
        [sign("better"), sign("safer"), NumberColumn::share("safe_chosen"), NumberColumn::share("safe_rejected")]
    }
}

/// A pair in another order. Where its completions change places, so do their teachers and the numbers of each side, and numbers
/// that compare the sides (`margin`, `better`, `safer`, `reward_gap`, `cost_gap`) change their sign. A `preference` that is
/// there is 1 where a label decided, since no votes did.
///
/// # Errors
/// A row that is not a pair, or lacks the labels; what the table of [`SafetyOrder`] says is set aside.
///
/// ```
/// use candlewick_data::{Origin, Reason, Record, Row, SafetyOrder, Text, order_by_safety};
/// let text = |text: &str| Text::Plain(text.to_owned());
/// let pair = |safe: [f64; 2]| {
///     Record::from(Row::Pair { prompt: text("p"), chosen: text("a"), rejected: text("b") })
///         .with_number("safe_chosen", safe[0])
///         .with_number("safe_rejected", safe[1])
/// };
/// let ordered = |safe| order_by_safety(pair(safe), &Origin::memory(1), SafetyOrder::SafeDpo);
/// let Row::Pair { chosen, .. } = ordered([0.0, 1.0])?.row else { unreachable!() };
/// assert_eq!(chosen, text("b"));
/// assert_eq!(ordered([0.0, 0.0]).unwrap_err().reason, Reason::BothUnsafe);
/// # Ok::<(), candlewick_data::Rejection>(())
/// ```
pub fn order_by_safety(record: Record, origin: &Origin, order: SafetyOrder) -> Result<Record, Rejection> {
    ordered(record, order).map_err(|fault| fault.at(origin))
}

pub(crate) fn ordered(record: Record, order: SafetyOrder) -> Result<Record, Fault> {
    if !matches!(record.row, Row::Pair { .. }) {
        return Err(Fault::new(Reason::NotAPair, "only a pair has a safer and a less safe completion"));
    }
    if order.reads_safety() {
        check(&record)?;
    }
    match order {
        SafetyOrder::Helpful => by_helpfulness(record),
        SafetyOrder::Safer => by_label(by_safety(&record)?, record),
        SafetyOrder::SafeDpo => {
            match flags(&record).ok_or_else(|| no_labels("the flags `safe_chosen` and `safe_rejected`"))? {
                [true, true] => by_helpfulness(record),
                // Which one is the more helpful does not matter.
                [true, false] if record.numbers.get("better").is_none_or(|better| *better > 0.0) => Ok(record),
                [true, false] => by_label(1.0, record),
                [false, true] => by_label(-1.0, record),
                [false, false] => Err(Fault::new(
                    Reason::BothUnsafe,
                    "both completions are labelled unsafe: SafeDPO prefers neither; safety_order = \"safer\" keeps such pairs",
                )),
            }
        }
    }
}

fn by_helpfulness(record: Record) -> Result<Record, Fault> {
    match record.numbers.get("better") {
        Some(0.0) => Err(Fault::new(Reason::Tied, "the number `better` is 0: neither completion is the more helpful")),
        Some(better) if *better < 0.0 => by_label(*better, record),
        _ => Ok(record),
    }
}

/// Above 0 where the chosen completion is the safer one, below where the other is.
fn by_safety(record: &Record) -> Result<f64, Fault> {
    let label = record.numbers.get("safer").copied();
    let decided = label.filter(|safer| *safer != 0.0).or_else(|| flags(record).map(difference));
    match decided.or(label) {
        Some(0.0) => Err(Fault::new(
            Reason::Tied,
            "neither completion is the safer one: no label says so, and both have the same flag",
        )),
        Some(safer) => Ok(safer),
        None => Err(no_labels("the number `safer`, or the flags `safe_chosen` and `safe_rejected`")),
    }
}

fn by_label(sign: f64, record: Record) -> Result<Record, Fault> {
    let mut record = if sign < 0.0 { swapped(record) } else { record };
    if let Some(preference) = record.numbers.get_mut("preference") {
        *preference = 1.0;
    }
    Ok(record)
}

fn no_labels(wanted: &str) -> Fault {
    Fault::new(
        Reason::MissingColumn,
        format!("no labels of safety to order the pair by; expected {wanted}; map their columns with `columns`"),
    )
}

/// Whether each completion of a pair is labelled safe.
fn flags(record: &Record) -> Option<[bool; 2]> {
    let flag = |name| record.numbers.get(name).map(|flag| *flag > 0.5);
    Some([flag("safe_chosen")?, flag("safe_rejected")?])
}

fn difference([chosen, rejected]: [bool; 2]) -> f64 {
    f64::from(u8::from(chosen)) - f64::from(u8::from(rejected))
}

/// Refuses labels that contradict each other.
pub(crate) fn check(record: &Record) -> Result<(), Fault> {
    contradiction(record).map_or(Ok(()), |detail| Err(Fault::new(Reason::LabelsContradict, detail)))
}

/// What labels of safety contradict each other in a pair.
fn contradiction(record: &Record) -> Option<String> {
    let [chosen, rejected] = flags(record)?;
    let safer = record.numbers.get("safer").copied().unwrap_or(0.0);
    if safer * difference([chosen, rejected]) < 0.0 {
        return Some(
            "the completion that is labelled the safer one is labelled unsafe, and the other one safe".to_owned(),
        );
    }
    [("chosen", chosen), ("rejected", rejected)].into_iter().find_map(|(side, safe)| {
        let severity = *record.numbers.get(&format!("severity_{side}"))?;
        (safe != (severity == 0.0)).then(|| {
            let flag = if safe { "safe" } else { "unsafe" };
            format!("the {side} completion is labelled {flag}, and the severity of its harm is {severity}; safe is a severity of 0")
        })
    })
}

/// How many pairs have which flags of safety, those set aside afterwards included, and how many other completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SafetyCounts {
    /// Pairs of two safe completions.
    pub both_safe: u64,
    /// Pairs of a safe and an unsafe completion.
    pub mixed: u64,
    /// Pairs of two unsafe completions.
    pub both_unsafe: u64,
    /// Pairs of these whose labels of safety contradict each other.
    pub contradictions: u64,
    /// Pairs of these in which the more helpful completion is the less safe one, by `better` and `safer`.
    pub conflicts: u64,
    /// Pairs of PKU-SafeRLHF without a label of helpfulness, which stand in the order of safety although that of helpfulness
    /// was to decide.
    pub without_better: u64,
    /// Single completions whose number `safe` says so.
    pub safe: u64,
    /// Single completions whose number `safe` denies it.
    pub not_safe: u64,
}

impl SafetyCounts {
    /// Of one row.
    pub(crate) fn of(record: &Record) -> Self {
        let mut counts = Self::default();
        match (&record.row, flags(record)) {
            (Row::Pair { .. }, Some(flags)) => {
                *match flags {
                    [true, true] => &mut counts.both_safe,
                    [false, false] => &mut counts.both_unsafe,
                    _ => &mut counts.mixed,
                } = 1;
                counts.contradictions = u64::from(contradiction(record).is_some());
                let sign = |name| record.numbers.get(name).copied().unwrap_or(0.0);
                counts.conflicts = u64::from(sign("better") * sign("safer") < 0.0);
            }
            (Row::Pair { .. }, None) => {}
            _ => match record.numbers.get("safe") {
                Some(flag) if *flag > 0.5 => counts.safe = 1,
                Some(_) => counts.not_safe = 1,
                None => {}
            },
        }
        counts
    }

    /// Pairs that have flags.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.both_safe + self.mixed + self.both_unsafe
    }

    /// Whether no row had a flag.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The one class that all flags are of: true for safe. None where there are both, or no flags.
    #[must_use]
    pub fn one_class(&self) -> Option<bool> {
        let safe = self.both_safe + self.mixed + self.safe > 0;
        let not = self.both_unsafe + self.mixed + self.not_safe > 0;
        (safe != not).then_some(safe)
    }
}

impl std::ops::AddAssign for SafetyCounts {
    fn add_assign(&mut self, other: Self) {
        self.both_safe += other.both_safe;
        self.mixed += other.mixed;
        self.both_unsafe += other.both_unsafe;
        self.contradictions += other.contradictions;
        self.conflicts += other.conflicts;
        self.without_better += other.without_better;
        self.safe += other.safe;
        self.not_safe += other.not_safe;
    }
}

impl fmt::Display for SafetyCounts {
    /// `32 pairs with flags of safety: both safe 34.4 %, mixed 15.6 %, both unsafe 50.0 %`, and what is to be seen to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let singles = self.safe + self.not_safe;
        if self.pairs() > 0 {
            let share = |part: u64| 100.0 * part as f64 / self.pairs() as f64;
            write!(
                f,
                "{} pairs with flags of safety: both safe {:.1} %, mixed {:.1} %, both unsafe {:.1} %",
                self.pairs(),
                share(self.both_safe),
                share(self.mixed),
                share(self.both_unsafe)
            )?;
        } else if singles > 0 {
            write!(f, "{singles} completions with flags of safety: {} safe, {} unsafe", self.safe, self.not_safe)?;
        } else {
            write!(f, "no flags of safety")?;
        }
        if self.contradictions > 0 {
            write!(f, "; {} with labels that contradict each other", self.contradictions)?;
        }
        if self.without_better > 0 {
            write!(f, "; {} without better_response_id, which stand in the order of safety", self.without_better)?;
        }
        if let Some(safe) = self.one_class() {
            let class = if safe { "safe" } else { "unsafe" };
            write!(f, "; every completion is labelled {class}, so that nothing tells safe from unsafe")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{TeacherToken, Text};

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn pair(numbers: &[(&str, f64)]) -> Record {
        let row = Row::Pair { prompt: text("p"), chosen: text("a"), rejected: text("b") };
        numbers.iter().fold(Record::from(row), |record, (name, value)| record.with_number(*name, *value))
    }

    /// `a` or `b`, or why it is set aside.
    fn chosen(order: SafetyOrder, numbers: &[(&str, f64)]) -> Result<String, Reason> {
        let ordered =
            order_by_safety(pair(numbers), &Origin::memory(1), order).map_err(|rejection| rejection.reason)?;
        match ordered.row {
            Row::Pair { chosen: Text::Plain(chosen), .. } => Ok(chosen),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_combination_of_labels_is_ordered_as_the_rules_say() {
        use SafetyOrder::{Helpful, SafeDpo, Safer};
        for better in [-1.0, 0.0, 1.0] {
            for safer in [-1.0, 0.0, 1.0] {
                for flags in [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] {
                    let numbers =
                        [("better", better), ("safer", safer), ("safe_chosen", flags[0]), ("safe_rejected", flags[1])];
                    let ab = |first: bool| Ok(if first { "a" } else { "b" }.to_owned());
                    let contradicts = safer * (flags[0] - flags[1]) < 0.0;
                    let helpful = if better == 0.0 { Err(Reason::Tied) } else { ab(better > 0.0) };
                    assert_eq!(chosen(Helpful, &numbers), helpful);
                    // Whatever the label leaves open the flags decide.
                    let sign = if safer == 0.0 { flags[0] - flags[1] } else { safer };
                    let expected = match () {
                        () if contradicts => Err(Reason::LabelsContradict),
                        () if sign == 0.0 => Err(Reason::Tied),
                        () => ab(sign > 0.0),
                    };
                    assert_eq!(chosen(Safer, &numbers), expected, "{numbers:?}");
                    // Keep a safe winner, swap an unsafe one with a safe loser, drop two unsafe ones.
                    let expected = match (better > 0.0, flags) {
                        _ if contradicts => Err(Reason::LabelsContradict),
                        (_, [0.0, 0.0]) => Err(Reason::BothUnsafe),
                        (_, [1.0, 1.0]) if better == 0.0 => Err(Reason::Tied),
                        (first, [1.0, 1.0]) => ab(first),
                        (_, flags) => ab(flags[0] > 0.0),
                    };
                    assert_eq!(chosen(SafeDpo, &numbers), expected, "{numbers:?}");
                }
            }
        }
    }

    #[test]
    fn pairs_without_labels_are_told_what_they_lack() {
        assert_eq!(chosen(SafetyOrder::Helpful, &[]), Ok("a".to_owned()));
        assert_eq!(chosen(SafetyOrder::Safer, &[("safe_chosen", 1.0)]), Err(Reason::MissingColumn));
        assert_eq!(chosen(SafetyOrder::SafeDpo, &[("safer", 1.0)]), Err(Reason::MissingColumn));
        let single = Record::from(Row::Demonstration { prompt: text("p"), completion: text("a") });
        let refused = order_by_safety(single, &Origin::memory(3), SafetyOrder::Safer).unwrap_err();
        assert_eq!((refused.reason, refused.origin.line), (Reason::NotAPair, 3));
    }

    #[test]
    fn what_belongs_to_a_side_goes_with_it() {
        let teacher = |id| vec![TeacherToken { ids: vec![id], log_probs: vec![0.0], reference_log_probs: vec![] }];
        let mut record = pair(&[
            ("better", 1.0),
            ("cost_chosen", 3.0),
            ("cost_rejected", -1.0),
            ("cost_gap", 4.0),
            ("margin", 0.0),
            ("preference", 0.75),
            ("safer", -1.0),
            ("votes_tied", 2.0),
            ("width", 5.0),
        ]);
        record.teacher = vec![teacher(1), teacher(2)];
        let ordered = order_by_safety(record, &Origin::memory(1), SafetyOrder::Safer).unwrap();
        assert_eq!(ordered.teacher, [teacher(2), teacher(1)]);
        let expected = pair(&[
            ("better", -1.0),
            ("cost_chosen", -1.0),
            ("cost_rejected", 3.0),
            ("cost_gap", -4.0),
            ("margin", 0.0),
            ("preference", 1.0),
            ("safer", 1.0),
            ("votes_tied", 2.0),
            ("width", 5.0),
        ]);
        assert_eq!(ordered.numbers, expected.numbers);
        // Once ordered, a pair stays.
        let again = order_by_safety(ordered.clone(), &Origin::memory(1), SafetyOrder::Safer).unwrap();
        assert_eq!(again, ordered);
    }

    #[test]
    fn flags_that_a_severity_denies_are_contradictions() {
        let severe = |safe: f64, severity: f64| {
            let numbers = [
                ("safe_chosen", safe),
                ("safe_rejected", 1.0),
                ("severity_chosen", severity),
                ("severity_rejected", 0.0),
            ];
            SafetyCounts::of(&pair(&numbers)).contradictions
        };
        assert_eq!([severe(1.0, 0.0), severe(1.0, 2.0), severe(0.0, 3.0), severe(0.0, 0.0)], [0, 1, 0, 1]);
    }

    #[test]
    fn one_class_is_told() {
        let flagged =
            |chosen, rejected| SafetyCounts::of(&pair(&[("safe_chosen", chosen), ("safe_rejected", rejected)]));
        let mut counts = flagged(0.0, 0.0);
        assert_eq!(counts.one_class(), Some(false));
        assert!(counts.to_string().ends_with("labelled unsafe, so that nothing tells safe from unsafe"), "{counts}");
        counts += flagged(0.0, 1.0);
        assert_eq!((counts.one_class(), counts.pairs()), (None, 2));
        assert_eq!(
            counts.to_string(),
            "2 pairs with flags of safety: both safe 0.0 %, mixed 50.0 %, both unsafe 50.0 %"
        );
        assert_eq!(SafetyCounts::default().one_class(), None);
        let single =
            Record::from(Row::Demonstration { prompt: text("p"), completion: text("a") }).with_number("safe", 1.0);
        assert_eq!(SafetyCounts::of(&single).one_class(), Some(true));
    }
}
