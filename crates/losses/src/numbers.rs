//! Numbers that a data set gives beside its texts: one an item.

use std::fmt::Debug;
use std::ops::Deref;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::groups::{Groups, Scores};
use crate::view::{Needs, View};

/// A number that every item (pair, labelled row, …) must bring: a column of the data file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number {
    /// Its name in [`Groups::numbers`], and of the column.
    pub name: &'static str,
    /// The smallest value it may have.
    pub low: f64,
    /// The largest value it may have.
    pub high: f64,
    /// Whether it must be a whole number.
    pub whole: bool,
    /// What it says, for messages.
    pub meaning: &'static str,
}

/// The numbers that an objective reads; at most [`Numbers::CAPACITY`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Numbers([Option<Number>; Numbers::CAPACITY]);

/// A type that stands for a number, so that a loss can ask for it by type: see [`With`].
pub trait PerItem: Debug {
    /// The number.
    const NUMBER: Number;
}

/// By how much the chosen completion is better, in the units of whoever measured it: a gap of
/// reward models, of ratings, or a weighted sum of gaps.
#[derive(Debug, Clone, Copy)]
pub struct Margin;

/// How likely it is that the chosen completion is the better one: a share of votes, in [0, 1].
#[derive(Debug, Clone, Copy)]
pub struct Preference;

/// How good a completion is, as a real number.
#[derive(Debug, Clone, Copy)]
pub struct Score;

/// How uncertain a demonstration is, in [0, 1].
#[derive(Debug, Clone, Copy)]
pub struct Uncertainty;

/// How strongly the chosen completion is preferred, as HelpSteer's 1 to 3; at least 0.
#[derive(Debug, Clone, Copy)]
pub struct Strength;

/// How alike both sides of a pair are, in the units of whoever measured it; at least 0.
#[derive(Debug, Clone, Copy)]
pub struct Similarity;

/// Which side is the safer one: 1 the chosen, −1 the rejected, 0 neither.
#[derive(Debug, Clone, Copy)]
pub struct Safer;

/// Who preferred the chosen completion, as a whole number that single precision holds.
#[derive(Debug, Clone, Copy)]
pub struct Annotator;

/// Where a pair comes from: a person, a task or a file, as a whole number from 0 to 15.
#[derive(Debug, Clone, Copy)]
pub struct Origin;

impl Origin {
    /// How many sources there may be.
    pub const SOURCES: usize = 16;
}

/// By how much the reward of the chosen completion is higher, `r(y_w) − r(y_l)`, in the units of the reward model.
#[derive(Debug, Clone, Copy)]
pub struct RewardGap;

/// By how much the cost of the chosen completion is higher, `c(y_w) − c(y_l)`, in the units of the cost model.
/// `CONSTRAINT` is 0 for `cost_gap`; 1, 2 and 3 are further constraints, `cost_gap_2` to `cost_gap_4`.
#[derive(Debug, Clone, Copy)]
pub struct CostGap<const CONSTRAINT: usize = 0>;

/// Whether the chosen completion is safe: 1 or 0.
#[derive(Debug, Clone, Copy)]
pub struct SafeChosen;

/// Whether the rejected completion is safe: 1 or 0.
#[derive(Debug, Clone, Copy)]
pub struct SafeRejected;

/// A view with a number an item. It derefs to the view.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{AnchoredPair, Margin, Scores, TokenScores, View, With};
/// assert_eq!(<With<AnchoredPair, Margin>>::NEEDS.numbers.iter().next().map(|number| number.name), Some("margin"));
/// let rows = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(rows.clone(), Some(rows));
/// scores.groups.numbers.insert("margin".to_owned(), vec![0.5]);
/// let view = <With<AnchoredPair, Margin>>::view(&scores).expect("all is there");
/// assert_eq!(view.number().to_vec1::<f64>()?, [0.5]);
/// assert_eq!(view.policy().count(), 1);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct With<V, N> {
    view: V,
    number: Tensor,
    kind: std::marker::PhantomData<N>,
}

impl Number {
    /// A number that may have any value that is finite in single precision, in which models compute.
    pub const fn any(name: &'static str, meaning: &'static str) -> Self {
        Self { name, low: f32::MIN as f64, high: f32::MAX as f64, whole: false, meaning }
    }

    /// A number in [0, 1].
    pub const fn share(name: &'static str, meaning: &'static str) -> Self {
        Self { name, low: 0.0, high: 1.0, whole: false, meaning }
    }

    /// A label: 0 or 1.
    pub const fn label(name: &'static str, meaning: &'static str) -> Self {
        Self { name, low: 0.0, high: 1.0, whole: true, meaning }
    }

    /// Whether a value is one that it may have; NaN is not.
    pub fn admits(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value) && (!self.whole || value.fract() == 0.0)
    }

    // `==` of a const fn.
    #[expect(clippy::float_cmp, reason = "two numbers are the same or not")]
    const fn equals(&self, other: &Self) -> bool {
        same_text(self.name, other.name)
            && same_text(self.meaning, other.meaning)
            && self.low == other.low
            && self.high == other.high
            && self.whole == other.whole
    }

    /// Its range in words.
    pub fn range(&self) -> String {
        if self.low <= f64::from(f32::MIN) && self.high >= f64::from(f32::MAX) {
            "a finite number".to_owned()
        } else if self.whole && (self.low, self.high) == (0.0, 1.0) {
            "0 or 1".to_owned()
        } else if self.whole {
            format!("a whole number in [{}, {}]", self.low, self.high)
        } else {
            format!("a number in [{}, {}]", self.low, self.high)
        }
    }
}

impl PerItem for Margin {
    const NUMBER: Number = Number::any("margin", "how much better the chosen completion is");
}

impl PerItem for Preference {
    const NUMBER: Number = Number::share("preference", "how likely it is that the chosen completion is the better one");
}

impl PerItem for Score {
    const NUMBER: Number = Number::any("score", "how good the completion is");
}

impl PerItem for Strength {
    const NUMBER: Number = Number {
        name: "strength",
        low: 0.0,
        high: f32::MAX as f64,
        whole: false,
        meaning: "how strongly the chosen completion is preferred",
    };
}

impl PerItem for Similarity {
    const NUMBER: Number = Number {
        name: "similarity",
        low: 0.0,
        high: f32::MAX as f64,
        whole: false,
        meaning: "how alike both completions are",
    };
}

impl PerItem for Safer {
    const NUMBER: Number = Number {
        name: "safer",
        low: -1.0,
        high: 1.0,
        whole: true,
        meaning: "which completion is the safer one: 1 the chosen, −1 the rejected, 0 neither",
    };
}

impl PerItem for Annotator {
    const NUMBER: Number = Number {
        name: "annotator",
        low: 0.0,
        high: 16_777_216.0,
        whole: true,
        meaning: "who preferred the chosen completion",
    };
}

impl PerItem for Origin {
    const NUMBER: Number = Number {
        name: "source",
        low: 0.0,
        high: (Self::SOURCES - 1) as f64,
        whole: true,
        meaning: "which source the pair comes from",
    };
}

impl PerItem for Uncertainty {
    const NUMBER: Number = Number::share("uncertainty", "how uncertain the completion is");
}

impl PerItem for RewardGap {
    const NUMBER: Number = Number::any("reward_gap", "reward of the chosen completion less that of the rejected one");
}

impl<const CONSTRAINT: usize> PerItem for CostGap<CONSTRAINT> {
    const NUMBER: Number = COST_GAPS[CONSTRAINT];
}

/// The gaps of the costs, one a constraint.
pub(crate) const COST_GAPS: [Number; 4] = [
    Number::any("cost_gap", "cost of the chosen completion less that of the rejected one"),
    Number::any("cost_gap_2", "the same for the second constraint"),
    Number::any("cost_gap_3", "the same for the third constraint"),
    Number::any("cost_gap_4", "the same for the fourth constraint"),
];

impl PerItem for SafeChosen {
    const NUMBER: Number = Number::label("safe_chosen", "1 where the chosen completion is safe and 0 where not");
}

impl PerItem for SafeRejected {
    const NUMBER: Number = Number::label("safe_rejected", "1 where the rejected completion is safe and 0 where not");
}

impl Numbers {
    /// How many numbers an objective may read.
    pub const CAPACITY: usize = 8;
    /// No number.
    pub const NONE: Self = Self([None; Self::CAPACITY]);

    /// One number.
    pub const fn of(number: Number) -> Self {
        let mut numbers = [None; Self::CAPACITY];
        numbers[0] = Some(number);
        Self(numbers)
    }

    /// Several numbers; those beyond [`CAPACITY`](Self::CAPACITY) would not fit and are a mistake of the loss.
    pub(crate) fn of_all(all: &[Number]) -> Self {
        debug_assert!(all.len() <= Self::CAPACITY, "{all:?}");
        let mut numbers = [None; Self::CAPACITY];
        numbers.iter_mut().zip(all).for_each(|(slot, number)| *slot = Some(*number));
        Self(numbers)
    }

    /// The numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Number> {
        self.0.iter().flatten()
    }

    /// Those of both; `None` if they are too many, or if both name one number and mean another.
    pub const fn union(self, other: Self) -> Option<Self> {
        let mut union = self;
        let mut next = 0;
        while next < Self::CAPACITY {
            if let Some(number) = other.0[next]
                && !union.insert(number)
            {
                return None;
            }
            next += 1;
        }
        Some(union)
    }

    /// Adds a number unless it is there; says whether that went well.
    const fn insert(&mut self, number: Number) -> bool {
        let mut slot = 0;
        while slot < Self::CAPACITY {
            match self.0[slot] {
                None => {
                    self.0[slot] = Some(number);
                    return true;
                }
                Some(known) if same_text(known.name, number.name) => return known.equals(&number),
                Some(_) => slot += 1,
            }
        }
        false
    }

    /// Checks that every item has every number, in its range.
    pub(crate) fn check(&self, loss: &str, groups: &Groups) -> Result<()> {
        for number in self.iter() {
            let values = groups.numbers.get(number.name).filter(|values| values.len() == groups.items());
            let missing = || Error::MissingNumber {
                loss: loss.to_owned(),
                name: number.name,
                meaning: number.meaning,
                items: groups.items(),
                found: groups.numbers.get(number.name).map_or(0, Vec::len),
            };
            let values = values.ok_or_else(missing)?;
            if let Some((item, &got)) = values.iter().enumerate().find(|&(_, &value)| !number.admits(value)) {
                return Err(Error::NumberOutOfRange { name: number.name, item, got, expected: number.range() });
            }
        }
        Ok(())
    }
}

const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

impl<V: View, N: PerItem> View for With<V, N> {
    const NEEDS: Needs = Needs {
        numbers: match V::NEEDS.numbers.union(Numbers::of(N::NUMBER)) {
            Some(numbers) => numbers,
            None => panic!("a view has more numbers than there is room for, or one of them twice in two ranges"),
        },
        ..V::NEEDS
    };

    fn view(scores: &Scores) -> Option<Self> {
        let view = V::view(scores)?;
        let number = scores.number(N::NUMBER.name)?;
        Some(Self { view, number, kind: std::marker::PhantomData })
    }
}

impl<V, N> With<V, N> {
    /// The view without the number; of a view with several numbers, that with the others.
    pub fn inner(&self) -> &V {
        &self.view
    }

    /// The number of every item, `[B]`, in the dtype of the scores; detached.
    pub fn number(&self) -> &Tensor {
        &self.number
    }
}

impl<V, N> Deref for With<V, N> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_finite_in_single_precision() {
        let any = Number::any("margin", "a gap");
        for value in [0.0, -3.5, f64::from(f32::MAX), f64::from(f32::MIN)] {
            assert!(any.admits(value) && (value as f32).is_finite(), "{value}");
        }
        for value in [1e39, -1e300, f64::INFINITY, f64::NAN] {
            assert!(!any.admits(value), "{value}");
        }
        assert_eq!(any.range(), "a finite number");
        assert_eq!(Number::share("preference", "a share").range(), "a number in [0, 1]");
    }

    #[test]
    fn a_label_is_one_of_two_numbers() {
        let label = SafeChosen::NUMBER;
        assert!(label.admits(0.0) && label.admits(1.0));
        assert!(![0.5, -1.0, 2.0, f64::NAN].into_iter().any(|value| label.admits(value)));
        assert_eq!(label.range(), "0 or 1");
    }

    #[test]
    fn nested_views_need_the_numbers_of_both() {
        type Nested = With<With<With<crate::AnchoredPair, SafeChosen>, CostGap<1>>, SafeChosen>;
        let names: Vec<&str> = Nested::NEEDS.numbers.iter().map(|number| number.name).collect();
        assert_eq!(names, ["safe_chosen", "cost_gap_2"]);
    }

    #[test]
    fn one_name_in_two_ranges_has_no_union() {
        let (any, share) = (Number::any("margin", "a gap"), Number::share("margin", "a gap"));
        assert_eq!(Numbers::of(any).union(Numbers::of(share)), None);
        assert_eq!(Numbers::of(any).union(Numbers::of(any)), Some(Numbers::of(any)));
        let full = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| Numbers::of(Number::any(name, "")));
        let full = full.into_iter().try_fold(Numbers::NONE, Numbers::union).unwrap();
        assert_eq!(full.union(Numbers::of(any)), None);
    }
}
