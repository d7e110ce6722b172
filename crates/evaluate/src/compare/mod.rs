//! Comparisons of objectives: a matrix of objectives, settings and seeds on one model and the same rows.
//!
//! A [`Matrix`] says what is run, a [`Comparison`] which runs are still to be made, a [`CellRun`] makes one of them, and a
//! [`Report`] says what came out, with its uncertainty. Like a [`Run`](candlewick_train::Run), all of it is driven by its caller,
//! who has threads and a clock.
//!
//! # Protocol
//! 1. Where an arm has several settings, each runs on the tuning seeds, and the one with the highest mean accuracy on the tuning
//!    half of the held-out rows is chosen; of equal ones the first.
//! 2. The chosen settings of each arm run on all seeds.
//! 3. Everything reported is measured on the other half of the held-out rows, which no choice has seen; on all of them where
//!    nothing was chosen.
//!
//! A run of a seed sees the same rows in the same order in every arm that reads the same data, so that differences are taken seed
//! by seed.
//!
//! # Directory
//! - `reference-cache/`: reference log-probabilities, shared by all runs.
//! - `cells/NAME/`: the output directory of a run, with `cell.json`, what it has measured ([`CellResult`]). Its checkpoints and
//!   model are removed when it is over, unless they are to stay.

mod cell;
mod matrix;
mod report;
mod words;

pub use cell::{CellEvent, CellResult, CellRun, Common, Point};
pub use matrix::{Arm, Cell, Matrix, Variant};
pub use report::{ArmReport, CurvePoint, Difference, LengthBias, Report, SliceAccuracy, Tried};
pub use words::{ArmWords, CompareWords, Seeds};

use std::collections::BTreeSet;

use candlewick_losses::Objective;
use candlewick_train::{Plan, ReferencePlan};
use serde_json::json;

use crate::error::Result;
use crate::preferences::{Half, Preferences};
use crate::stats;

/// Which runs of a comparison are still to be made.
#[derive(Debug)]
pub struct Comparison {
    matrix: Matrix,
}

/// What is to be done next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Next {
    /// Runs that may be made in any order, also at the same time.
    Runs(Vec<Cell>),
    /// Nothing: everything has run.
    Nothing,
}

impl Comparison {
    /// Of a matrix.
    pub fn new(matrix: Matrix) -> Self {
        Self { matrix }
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Runs that between them meet all rows of which the reference's log-probabilities are shared. Each is to be opened and
    /// advanced until it is past [`CellEvent::Precomputed`], one after another in this order, before any other run: so what the
    /// file holds does not depend on which run is first.
    ///
    /// # Errors
    /// As [`Matrix::cell`].
    pub fn reference_cells(&self) -> Result<Vec<Cell>> {
        let mut met = BTreeSet::new();
        let mut cells = Vec::new();
        for cell in self.all()? {
            if matches!(&cell.plan.reference, ReferencePlan::Precomputed(path) if *path == self.matrix.reference_path())
                && met.insert(rows_of(&cell.plan))
            {
                cells.push(cell);
            }
        }
        Ok(cells)
    }

    fn all(&self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for (number, arm) in self.matrix.arms.iter().enumerate() {
            for variant in 0..arm.variants.len() {
                for seed in &self.matrix.seeds {
                    cells.push(self.matrix.cell(number, variant, *seed)?);
                }
            }
        }
        Ok(cells)
    }

    /// The runs that can be made now.
    ///
    /// # Errors
    /// Results that cannot be read or belong to another comparison.
    pub fn next(&self, held_out: &Preferences, reference: &[f64]) -> Result<Next> {
        let tuning = self.unfinished(|arm| {
            let variants = self.matrix.arms[arm].variants.len();
            let seeds = if variants > 1 { &self.matrix.tuning_seeds } else { &self.matrix.seeds };
            Ok((0..variants).flat_map(|variant| seeds.iter().map(move |seed| (variant, *seed))).collect())
        })?;
        if !tuning.is_empty() {
            return Ok(Next::Runs(tuning));
        }
        let chosen = self.unfinished(|arm| {
            let chosen = self.choose(arm, held_out, reference)?.0;
            Ok(chosen
                .into_iter()
                .flat_map(|variant| self.matrix.seeds.iter().map(move |seed| (variant, *seed)))
                .collect())
        })?;
        Ok(if chosen.is_empty() { Next::Nothing } else { Next::Runs(chosen) })
    }

    fn unfinished(&self, wanted: impl Fn(usize) -> Result<Vec<(usize, u64)>>) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for arm in 0..self.matrix.arms.len() {
            for (variant, seed) in wanted(arm)? {
                let cell = self.matrix.cell(arm, variant, seed)?;
                if !CellResult::read(&cell.plan)?.is_some_and(|result| result.finished) {
                    cells.push(cell);
                }
            }
        }
        Ok(cells)
    }

    /// The settings chosen for an arm, if any of them came to an end, and what was tried.
    fn choose(&self, arm: usize, held_out: &Preferences, reference: &[f64]) -> Result<(Option<usize>, Vec<Tried>)> {
        let variants = &self.matrix.arms[arm].variants;
        let mut tried = Vec::new();
        for (number, variant) in variants.iter().enumerate() {
            let seeds = if variants.len() > 1 { &self.matrix.tuning_seeds } else { &self.matrix.seeds };
            let mut accuracies = Vec::new();
            let mut failures = 0;
            for seed in seeds {
                match CellResult::read(&self.matrix.cell(arm, number, *seed)?.plan)? {
                    Some(result) if result.failure.is_some() => failures += 1,
                    Some(result) if result.finished => {
                        accuracies.extend(stats::mean(&agreement(held_out, reference, &result.scores, Half::Tuning)));
                    }
                    _ => {}
                }
            }
            // Settings that diverge on a seed are no choice.
            let accuracy = stats::mean(&accuracies).filter(|_| failures == 0);
            tried.push(Tried { settings: variant.name.clone(), accuracy, failures });
        }
        let mut best: Option<(usize, f64)> = None;
        for (number, accuracy) in tried.iter().enumerate().filter_map(|(i, tried)| Some((i, tried.accuracy?))) {
            if best.is_none_or(|(_, most)| accuracy > most) {
                best = Some((number, accuracy));
            }
        }
        let only = (variants.len() == 1).then_some(0);
        Ok((only.or(best.map(|(number, _)| number)), tried))
    }

    /// What came out so far: of arms whose settings are chosen, the runs that are over.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn report(&self, common: &Common) -> Result<Report> {
        Report::of(self, common)
    }
}

/// Agreement of the log-ratios with the items of a half.
fn agreement(held_out: &Preferences, reference: &[f64], scores: &[f64], half: Half) -> Vec<f64> {
    let ratios: Vec<f64> = scores.iter().zip(reference).map(|(a, b)| a - b).collect();
    let agreement = held_out.agreement(&ratios).into_iter().zip(held_out.items());
    agreement.filter(|(_, item)| item.half == half).map(|(value, _)| value).collect()
}

/// What decides which rows a run meets.
fn rows_of(plan: &Plan) -> String {
    let needs = plan.objective.needs();
    let all = plan.to_json();
    let mut train = all["train"].clone();
    if let Some(train) = train.as_object_mut() {
        train.remove("threads");
    }
    json!([all["data"], train, format!("{:?} {:?} {:?}", needs.rows, needs.step_wide, needs.scored)]).to_string()
}
