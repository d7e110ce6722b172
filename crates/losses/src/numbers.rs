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

/// Whether the chosen completion is flagged safe, 1, or unsafe, 0.
#[derive(Debug, Clone, Copy)]
pub struct SafeChosen;

/// Whether the rejected completion is flagged safe, 1, or unsafe, 0.
#[derive(Debug, Clone, Copy)]
pub struct SafeRejected;

/// Which side is the safer one: 1 the chosen, −1 the rejected, 0 neither.
#[derive(Debug, Clone, Copy)]
pub struct Safer;

/// Who preferred the chosen completion, as a whole number.
#[derive(Debug, Clone, Copy)]
pub struct Annotator;

/// Where a pair comes from: a person, a task or a file, as a whole number from 0 to 15.
#[derive(Debug, Clone, Copy)]
pub struct Origin;

impl Origin {
    /// How many sources there may be.
    pub const SOURCES: usize = 16;
}

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
        Self { name, low: f32::MIN as f64, high: f32::MAX as f64, meaning }
    }

    /// A number in [0, 1].
    pub const fn share(name: &'static str, meaning: &'static str) -> Self {
        Self { name, low: 0.0, high: 1.0, meaning }
    }

    /// Whether a value is one that it may have; NaN is not.
    pub fn admits(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Its range in words.
    pub fn range(&self) -> String {
        if self.low <= f64::from(f32::MIN) && self.high >= f64::from(f32::MAX) {
            "a finite number".to_owned()
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
        meaning: "how strongly the chosen completion is preferred",
    };
}

impl PerItem for Similarity {
    const NUMBER: Number =
        Number { name: "similarity", low: 0.0, high: f32::MAX as f64, meaning: "how alike both completions are" };
}

impl PerItem for SafeChosen {
    const NUMBER: Number = Number::share("safe_chosen", "whether the chosen completion is safe: 1 or 0");
}

impl PerItem for SafeRejected {
    const NUMBER: Number = Number::share("safe_rejected", "whether the rejected completion is safe: 1 or 0");
}

impl PerItem for Safer {
    const NUMBER: Number = Number {
        name: "safer",
        low: -1.0,
        high: 1.0,
        meaning: "which completion is the safer one: 1 the chosen, −1 the rejected, 0 neither",
    };
}

impl PerItem for Annotator {
    const NUMBER: Number =
        Number { name: "annotator", low: 0.0, high: u32::MAX as f64, meaning: "who preferred the chosen completion" };
}

impl PerItem for Origin {
    const NUMBER: Number = Number {
        name: "source",
        low: 0.0,
        high: (Self::SOURCES - 1) as f64,
        meaning: "which source the pair comes from",
    };
}

impl PerItem for Uncertainty {
    const NUMBER: Number = Number::share("uncertainty", "how uncertain the completion is");
}

impl Numbers {
    /// How many numbers an objective may read.
    pub const CAPACITY: usize = 6;
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
    pub fn union(self, other: Self) -> Option<Self> {
        let mut union = self;
        for number in other.iter() {
            let known = union.iter().find(|known| known.name == number.name).copied();
            match known {
                Some(known) if known == *number => {}
                Some(_) => return None,
                None => *union.0.iter_mut().find(|slot| slot.is_none())? = Some(*number),
            }
        }
        Some(union)
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

impl<V: View, N: PerItem> View for With<V, N> {
    const NEEDS: Needs = Needs { numbers: Numbers::of(N::NUMBER), ..V::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        let view = V::view(scores)?;
        let number = scores.number(N::NUMBER.name)?;
        Some(Self { view, number, kind: std::marker::PhantomData })
    }
}

impl<V, N> With<V, N> {
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
}
