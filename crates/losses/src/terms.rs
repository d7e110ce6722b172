//! What a loss returns: numerators, and what each of them is divided by.

use std::borrow::Cow;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::groups::Totals;

/// The total of the whole optimizer step that a numerator is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normaliser {
    /// Pairs, labelled rows or demonstrations: [`Totals::items`].
    Items,
    /// Scored tokens of the demonstrations: [`Totals::demonstration_tokens`].
    DemonstrationTokens,
    /// Scored tokens of the rejected completions: [`Totals::rejected_tokens`].
    RejectedTokens,
    /// Rows labelled desirable: [`Totals::desirable`].
    Desirable,
    /// Rows labelled undesirable: [`Totals::undesirable`].
    Undesirable,
    /// Pairs of which at least one side is safe: [`Totals::safe_pairs`].
    SafePairs,
}

/// One addend of a loss: `weight · Σ_b numerator_b / total`.
#[derive(Debug, Clone)]
pub struct Term {
    /// Name under which the term is reported.
    pub name: &'static str,
    /// One value an item, `[B]`; differentiable. `[0]` where a micro-batch holds no item.
    pub numerator: Tensor,
    /// What the sum is divided by.
    pub normaliser: Normaliser,
    /// Factor of the term.
    pub weight: f64,
}

/// Implicit rewards, detached. Of a loss with a reference, `β·Σ_t (log π − log π_ref)` in nats, always made of sums over
/// tokens, whatever reduction or divergence the loss optimises; where that is another margin, a [`Metric`] reports it.
/// Of a loss without a reference, `β` times what the loss compares of a completion: its log-probability, a sum or a
/// mean over tokens as the loss has it, and of [`AlphaPo`](crate::AlphaPo) and of [`Cpo`](crate::Cpo) with `alpha` that
/// log-probability as transformed by them. `β` is 1 for [`Slic`](crate::Slic), which has none.
#[derive(Debug, Clone)]
pub enum Rewards {
    /// Rewards of both sides of every pair.
    Pair {
        /// Of the chosen completions, `[B]`.
        chosen: Tensor,
        /// Of the rejected completions, `[B]`.
        rejected: Tensor,
    },
    /// Rewards of labelled rows, in the order of [`Groups::labelled`](crate::Groups::labelled).
    Labelled {
        /// One a row, `[B]`.
        rewards: Tensor,
    },
}

/// A loss of one micro-batch before it is divided.
#[derive(Debug, Clone)]
pub struct LossTerms {
    /// The addends.
    pub terms: Vec<Term>,
    /// Implicit rewards, where the loss has them.
    pub rewards: Option<Rewards>,
    /// What else is worth reporting.
    pub metrics: Vec<Metric>,
}

/// A quantity that is reported as a mean and optimised by nobody.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its name in the log.
    pub name: Cow<'static, str>,
    /// The values whose mean is reported, `[M]`; detached.
    pub values: Tensor,
}

/// The mean of what a loss compares with its threshold, where that is not the difference of the implicit rewards.
pub(crate) const OPTIMISED_MARGINS: &str = "margins/optimised";
/// How often the margin that the loss optimises is above 0.
pub(crate) const OPTIMISED_ACCURACIES: &str = "accuracies/optimised";

impl Term {
    /// A term of weight 1 that is averaged over the items of the step.
    pub fn per_item(name: &'static str, numerator: Tensor) -> Self {
        Self { name, numerator, normaliser: Normaliser::Items, weight: 1.0 }
    }

    /// `weight · Σ_b numerator_b / total`, a scalar; exactly 0 where the total is 0.
    ///
    /// # Errors
    /// If the numerator is not a vector.
    pub fn value(&self, totals: &Totals) -> Result<Tensor> {
        if self.numerator.rank() != 1 {
            let got = self.numerator.dims().to_vec();
            return Err(Error::Shape { what: self.name, got, expected: "[B], one value an item".to_owned() });
        }
        let total = totals.of(self.normaliser);
        if total == 0.0 || self.numerator.elem_count() == 0 {
            return Ok(Tensor::zeros((), self.numerator.dtype(), self.numerator.device())?);
        }
        Ok((self.numerator.sum_all()? * (self.weight / total))?)
    }
}

impl LossTerms {
    /// Terms without rewards.
    pub fn new(terms: impl Into<Vec<Term>>) -> Self {
        Self { terms: terms.into(), rewards: None, metrics: Vec::new() }
    }

    /// Adds implicit rewards.
    #[must_use]
    pub fn with_rewards(mut self, rewards: Rewards) -> Self {
        self.rewards = Some(rewards);
        self
    }

    /// Adds a quantity to report: its values, `[M]`.
    #[must_use]
    pub fn with_metric(mut self, name: &'static str, values: &Tensor) -> Self {
        self.metrics.push(Metric { name: name.into(), values: values.detach() });
        self
    }

    /// Reports the margins that the loss optimises, `[B]`, and how often they are above 0: for losses whose margin is
    /// not the difference of the implicit rewards.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn with_optimised_margins(self, margins: &Tensor) -> Result<Self> {
        let margins = margins.detach();
        let right = margins.gt(&margins.zeros_like()?)?.to_dtype(margins.dtype())?;
        Ok(self.with_metric(OPTIMISED_MARGINS, &margins).with_metric(OPTIMISED_ACCURACIES, &right))
    }

    /// This micro-batch's share of the loss of the step, a differentiable scalar:
    /// `Σ_k weight_k · Σ_b numerator_kb / total_k`.
    ///
    /// The shares of all micro-batches add up to the loss of the step, so one
    /// micro-batch of eight items and eight of one give the same gradient. A
    /// total of 0 makes its term exactly 0 (and that term has no gradient).
    ///
    /// # Errors
    /// If there is no term or a numerator is not a vector.
    pub fn loss(&self, totals: &Totals) -> Result<Tensor> {
        let mut values = self.terms.iter().map(|term| term.value(totals));
        let first = values.next().ok_or(Error::NoTerms)??;
        values.try_fold(first, |sum, value| Ok((sum + value?)?))
    }
}

impl Totals {
    /// The total that a normaliser names.
    pub fn of(&self, normaliser: Normaliser) -> f64 {
        match normaliser {
            Normaliser::Items => self.items,
            Normaliser::DemonstrationTokens => self.demonstration_tokens,
            Normaliser::RejectedTokens => self.rejected_tokens,
            Normaliser::Desirable => self.desirable,
            Normaliser::Undesirable => self.undesirable,
            Normaliser::SafePairs => self.safe_pairs,
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use candle_core::Device;

    use super::*;

    fn term(normaliser: Normaliser, weight: f64) -> Term {
        let numerator = Tensor::new(&[1.0f64, 2.0, 3.0], &Device::Cpu).unwrap();
        Term { name: "test", numerator, normaliser, weight }
    }

    #[test]
    fn every_term_is_divided_by_its_own_total() {
        let totals = Totals { items: 2.0, demonstration_tokens: 12.0, undesirable: 1.0, ..Totals::default() };
        let terms = LossTerms::new([term(Normaliser::Items, 1.0), term(Normaliser::DemonstrationTokens, 0.5)]);
        assert_eq!(terms.loss(&totals).unwrap().to_scalar::<f64>().unwrap(), 3.0 + 0.25);
    }

    #[test]
    fn a_total_of_zero_makes_the_term_zero() {
        let terms = LossTerms::new([term(Normaliser::Desirable, 1.0)]);
        assert_eq!(terms.loss(&Totals::default()).unwrap().to_scalar::<f64>().unwrap(), 0.0);
        assert!(matches!(LossTerms::new([]).loss(&Totals::default()), Err(Error::NoTerms)));
    }
}
