//! Which training rows moved a policy towards what it now says, and which of them seem wrongly labelled.

use candlewick_data::Batch;
use candlewick_model::Sketch;
use candlewick_train::{CausalPolicy, Element, ExampleSketch, Trainer};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// How much each training row moves a query: the inner products of their gradients.
///
/// A row's influence on a query is ⟨∇ℓ(row), ∇ℓ(query)⟩ at the trained adapter: how much a small step on the row lowers the loss
/// of the query, to first order (TracIn at one checkpoint: Pruthi et al. 2020, eq. 1,
/// [arXiv 2002.08484](https://arxiv.org/abs/2002.08484)). Positive rows speak for what the query says, negative ones against it.
/// Gradients are sketched ([`Sketch`]), so that a cosine is known to about 1/√dimensions; [`Influence::cosine`] leaves the rows'
/// own sizes out, since a row of a large loss would otherwise be first for every query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Influence {
    /// The row, as `file:line`.
    pub place: String,
    /// ⟨∇ℓ(row), ∇ℓ(query)⟩, each gradient that of the row's own loss.
    pub product: f64,
    /// The same divided by both norms; 0 where a gradient is.
    pub cosine: f64,
}

/// Sketches of the gradients of rows.
#[derive(Debug, Clone)]
pub struct Gradients {
    rows: Vec<ExampleSketch>,
}

impl Gradients {
    /// Of every row of the batches, one batch at a time.
    ///
    /// # Errors
    /// As [`Trainer::sketch_examples`].
    pub fn of<T: Element>(
        trainer: &mut Trainer<CausalPolicy<T>>,
        batches: impl IntoIterator<Item = Result<Batch>>,
        sketch: Sketch,
    ) -> Result<Self> {
        let mut rows = Vec::new();
        for batch in batches {
            let batch = batch?;
            let count = batch.examples.len() as f64;
            // Each row's own loss, not its share of the batch's mean.
            let own = trainer.sketch_examples(&[batch], sketch)?.into_iter().map(|mut row| {
                row.values.iter_mut().for_each(|value| *value *= count);
                row
            });
            rows.extend(own);
        }
        Ok(Self { rows })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The mean gradient, as the query that a whole set of held-out rows is.
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.rows.first().map_or(0, |row| row.values.len())];
        for row in &self.rows {
            mean.iter_mut().zip(&row.values).for_each(|(sum, value)| *sum += value / self.rows.len() as f64);
        }
        mean
    }

    /// The influence of each row on a query, the sketch of its gradient, in the order of the rows.
    pub fn on(&self, query: &[f64]) -> Vec<Influence> {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let length = |a: &[f64]| product(a, a).sqrt();
        let of_query = length(query);
        let influence = |row: &ExampleSketch| {
            let product = product(&row.values, query);
            let lengths = length(&row.values) * of_query;
            Influence { place: row.place.clone(), product, cosine: if lengths > 0.0 { product / lengths } else { 0.0 } }
        };
        self.rows.iter().map(influence).collect()
    }
}
