//! Which training rows moved a policy towards what it says, and which of them seem wrongly labelled.
//!
//! A row's influence on a query is Σ_s ⟨∇ℓ(row), ∇ℓ(query)⟩ over some states s of the training, as its start and its end: how much
//! small steps on the row lower the loss of the query, to first order (TracIn: Pruthi et al. 2020, eq. 1,
//! [arXiv 2002.08484](https://arxiv.org/abs/2002.08484), with the same learning rate at each state). Positive rows speak for what the
//! query says, negative ones against it. One state does not tell it all: rows that are learnt by heart at the end have no gradient
//! left there, and at the start nothing is known of what was learnt in between.
//!
//! Gradients are sketched ([`Sketch`]), so that a cosine is known to about 1/√dimensions, and no row's sketch outlives its batch.

use candlewick_data::Batch;
use candlewick_model::Sketch;
use candlewick_train::{CausalPolicy, Element, Trainer};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much one training row moves a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Influence {
    /// The row, as `file:line`.
    pub place: String,
    /// Σ_s ⟨∇ℓ(row), ∇ℓ(query)⟩, each gradient that of the row's own loss.
    pub product: f64,
    /// The same over the lengths √(Σ_s ‖∇ℓ(row)‖²) and √(Σ_s ‖∇ℓ(query)‖²); 0 where one is 0. A row of a large loss is not first
    /// for every query by it.
    pub cosine: f64,
}

/// The mean gradient of rows at a state, sketched: what a query is. Nothing of no rows.
///
/// # Errors
/// As [`Trainer::sketch_examples`], and those of the batches.
pub fn query<T: Element, E>(
    trainer: &mut Trainer<CausalPolicy<T>>,
    batches: impl IntoIterator<Item = Result<Batch, E>>,
    sketch: Sketch,
) -> Result<Option<Vec<f64>>>
where
    Error: From<E>,
{
    let (mut sum, mut rows) = (vec![0.0; sketch.dimensions], 0usize);
    for batch in batches {
        let batch = batch?;
        let count = batch.examples.len();
        for row in trainer.sketch_examples(&[batch], sketch)? {
            // A row's share of its batch's mean, times the rows of the batch, is its own gradient.
            sum.iter_mut().zip(&row.values).for_each(|(sum, value)| *sum += value * count as f64);
        }
        rows += count;
    }
    sum.iter_mut().for_each(|sum| *sum /= rows.max(1) as f64);
    Ok((rows > 0).then_some(sum))
}

/// Influences of training rows on a query, added up over states.
#[derive(Debug, Clone, Default)]
pub struct Influences {
    rows: Vec<Row>,
    query: f64,
    states: usize,
}

#[derive(Debug, Clone)]
struct Row {
    place: String,
    product: f64,
    square: f64,
}

impl Influences {
    /// Adds a state: the rows' gradients there, beside that of the query there.
    ///
    /// # Errors
    /// As [`query`]; other rows than at the states before.
    pub fn add<T: Element, E>(
        &mut self,
        trainer: &mut Trainer<CausalPolicy<T>>,
        batches: impl IntoIterator<Item = Result<Batch, E>>,
        sketch: Sketch,
        query: &[f64],
    ) -> Result<()>
    where
        Error: From<E>,
    {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut number = 0;
        for batch in batches {
            let batch = batch?;
            let count = batch.examples.len() as f64;
            for row in trainer.sketch_examples(&[batch], sketch)? {
                let found = Row {
                    product: count * product(&row.values, query),
                    square: count * count * product(&row.values, &row.values),
                    place: row.place,
                };
                match self.rows.get_mut(number) {
                    Some(before) if before.place == found.place => {
                        before.product += found.product;
                        before.square += found.square;
                    }
                    None if self.states == 0 => self.rows.push(found),
                    _ => {
                        let reason = "the rows are other ones than at the state before".to_owned();
                        return Err(Error::Rows { place: found.place, reason });
                    }
                }
                number += 1;
            }
        }
        self.query += product(query, query);
        self.states += 1;
        Ok(())
    }

    /// The influence of each row, in their order.
    pub fn list(&self) -> Vec<Influence> {
        let influence = |row: &Row| {
            let lengths = (row.square * self.query).sqrt();
            let cosine = if lengths > 0.0 { row.product / lengths } else { 0.0 };
            Influence { place: row.place.clone(), product: row.product, cosine }
        };
        self.rows.iter().map(influence).collect()
    }
}
