//! What the micro-batches of a step or an evaluation add up to.
use std::collections::BTreeMap;

use candlewick_losses::{Collective, Context, LossTerms, Normaliser, Scores, Totals};

use crate::error::{Error, Result};
use crate::metrics::{Metrics, to_f64};
use crate::pack::Micro;
use crate::start::Start;
use crate::trainer::StepReport;

/// Sums of one step or evaluation.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) loss: f64,
    micro_losses: Vec<f64>,
    pub(crate) metrics: Metrics,
    pub(crate) tokens: u64,
    computed_tokens: u64,
    pub(crate) rows: u64,
    /// Rows of the micro-batches whose loss is not finite; those whose own scores are not, if any.
    pub(crate) suspects: Vec<String>,
    /// Whether no score pulls on the loss.
    pub(crate) flat: bool,
    /// How far policy and reference are apart before the first step, where that was compared.
    pub(crate) start: Start,
    /// Whether a rank saw them apart.
    pub(crate) apart: bool,
}

impl Tally {
    pub(crate) fn new(context: &Context) -> Self {
        let mut metrics = Metrics::default();
        // A mix has gathered those of its parts under names of their own.
        metrics.record_scalars(&context.scalars);
        Self {
            loss: 0.0,
            micro_losses: Vec::new(),
            metrics,
            tokens: 0,
            computed_tokens: 0,
            rows: 0,
            suspects: Vec::new(),
            flat: true,
            start: Start::default(),
            apart: false,
        }
    }

    pub(crate) fn add(&mut self, micro: &Micro, scores: &Scores, terms: &LossTerms, loss: f64) -> Result<()> {
        self.loss += loss;
        self.micro_losses.push(scalar(&terms.loss(&micro.groups.totals(&micro.rows.lengths))?)?);
        self.metrics.record(scores, &micro.groups, terms)?;
        self.tokens += micro.tokens;
        self.computed_tokens += micro.rows.packed.tokens() as u64;
        self.rows += micro.rows.packed.completions() as u64;
        let policy = to_f64(&scores.policy.sums()?.detach())?;
        if !loss.is_finite() {
            let odd: Vec<String> =
                policy.iter().zip(&micro.rows.places).filter(|(x, _)| !x.is_finite()).map(|(_, p)| p.clone()).collect();
            self.suspects.extend(if odd.is_empty() { micro.rows.places.clone() } else { odd });
        }
        Ok(())
    }

    pub(crate) fn sum_over_ranks(&mut self, collective: &dyn Collective) -> Result<()> {
        let mut flat = [
            self.loss,
            self.tokens as f64,
            self.computed_tokens as f64,
            self.rows as f64,
            f64::from(u8::from(!self.flat)),
            f64::from(u8::from(self.apart)),
        ];
        collective.sum(&mut flat)?;
        self.loss = flat[0];
        (self.tokens, self.computed_tokens, self.rows) = (flat[1] as u64, flat[2] as u64, flat[3] as u64);
        self.flat = flat[4] == 0.0;
        self.apart = flat[5] > 0.0;
        self.metrics.sum_over_ranks(collective)
    }

    /// Compares policy and reference token by token, before the first step of a policy that should be its own reference.
    pub(crate) fn compare(&mut self, number: usize, micro: &Micro, scores: &Scores) -> Result<()> {
        self.start.add(number, micro, scores)?;
        self.apart = self.start.is_off();
        Ok(())
    }

    /// The first loss of a policy that equals its reference, where the objective knows it.
    pub(crate) fn check_start(&self, expected: Option<f64>) -> Result<()> {
        match expected.filter(|expected| (self.loss - expected).abs() > 1e-4 * expected.abs().max(1.0)) {
            None => Ok(()),
            Some(expected) => Err(Error::NotAtReference { loss: self.loss, expected }),
        }
    }

    pub(crate) fn report(self, step: u64, grad_norm: f64, learning_rate: f64) -> StepReport {
        StepReport {
            step,
            loss: self.loss,
            micro_losses: self.micro_losses,
            grad_norm,
            learning_rate,
            metrics: self.metrics,
            tokens: self.tokens,
            computed_tokens: self.computed_tokens,
            rows: self.rows,
        }
    }
}

/// Sums of an evaluation's terms, divided once all totals are known.
#[derive(Debug, Default)]
pub(crate) struct TermSums {
    totals: Totals,
    /// By place in the list of terms.
    terms: BTreeMap<usize, (Normaliser, f64)>,
}

impl TermSums {
    pub(crate) fn add(&mut self, terms: &LossTerms, micro: &Micro) -> Result<()> {
        self.totals += micro.groups.totals(&micro.rows.lengths);
        for (i, term) in terms.terms.iter().enumerate() {
            let sum: f64 = to_f64(&term.numerator.detach())?.into_iter().sum();
            self.terms.entry(i).or_insert((term.normaliser, 0.0)).1 += term.weight * sum;
        }
        Ok(())
    }

    pub(crate) fn loss(&mut self, collective: &dyn Collective) -> Result<f64> {
        let totals = sum_totals(self.totals, collective)?;
        let mut sums: Vec<f64> = self.terms.values().map(|(_, sum)| *sum).collect();
        collective.sum(&mut sums)?;
        let divided = self.terms.values().zip(sums).map(|((normaliser, _), sum)| match totals.of(*normaliser) {
            0.0 => 0.0,
            total => sum / total,
        });
        Ok(divided.sum())
    }
}

pub(crate) fn sum_totals(totals: Totals, collective: &dyn Collective) -> Result<Totals> {
    let mut counts = totals.to_array();
    collective.sum(&mut counts)?;
    Ok(Totals::from_array(counts))
}

pub(crate) fn scalar(tensor: &candle_core::Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(candle_core::DType::F64)?.to_scalar()?)
}

/// The first few of a list, each once.
pub(crate) fn summary<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    const SHOWN: usize = 8;
    let mut seen: Vec<String> = Vec::new();
    for item in items {
        if !seen.iter().any(|s| s == item.as_ref()) {
            seen.push(item.as_ref().to_owned());
        }
    }
    match seen.len() {
        0 => "rows of another rank".into(),
        n if n <= SHOWN => seen.join(", "),
        n => format!("{} and {} more", seen[..SHOWN].join(", "), n - SHOWN),
    }
}
