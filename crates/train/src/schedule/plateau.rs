//! A learning rate that falls when evaluations stop to improve.
use serde::{Deserialize, Serialize};

use super::{in_range, not_negative};
use crate::error::Result;

/// `reduce_lr_on_plateau`: torch's `ReduceLROnPlateau` over the losses of evaluations, in its mode `min`.
///
/// An evaluation is good if its loss is below the best so far by the threshold. After more than `patience` bad ones in a row the
/// rate is multiplied by `factor`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plateau {
    /// What the rate is multiplied by; above 0 and below 1.
    pub factor: f64,
    /// Bad evaluations that are waited for.
    pub patience: u64,
    /// By how much a loss must be lower to count.
    pub threshold: f64,
    /// What the threshold is a part of.
    pub threshold_mode: ThresholdMode,
    /// Evaluations after a fall in which none is counted as bad.
    pub cooldown: u64,
    /// The least rate.
    pub min_lr: f64,
    /// A fall by less is not made.
    pub eps: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self {
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }
}

/// What a threshold is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMode {
    /// The best loss so far.
    Rel,
    /// Nothing: it is a difference of losses.
    Abs,
}

impl ThresholdMode {
    /// Whether a loss is below the best by the threshold.
    pub(super) fn is_better(self, loss: f64, best: Option<f64>, threshold: f64) -> bool {
        let best = best.unwrap_or(f64::INFINITY);
        match self {
            Self::Rel => loss < best * (1.0 - threshold),
            Self::Abs => loss < best - threshold,
        }
    }
}

impl Plateau {
    pub(super) fn check(&self, peak: f64) -> Result<()> {
        in_range("factor", self.factor, self.factor > 0.0 && self.factor < 1.0, "a number above 0 and below 1")?;
        not_negative("threshold", self.threshold)?;
        let limits = format!("0 to optimizer.learning_rate, which is {peak:e}");
        in_range("min_lr", self.min_lr, (0.0..=peak).contains(&self.min_lr), &limits)?;
        not_negative("eps", self.eps)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlateauState {
    pub(super) learning_rate: f64,
    best: Option<f64>,
    bad: u64,
    cooldown: u64,
}

impl PlateauState {
    pub(super) fn new(peak: f64) -> Self {
        Self { learning_rate: peak, best: None, bad: 0, cooldown: 0 }
    }

    pub(super) fn follow(&mut self, options: Plateau, loss: f64) {
        if options.threshold_mode.is_better(loss, self.best, options.threshold) {
            self.best = Some(loss);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad = 0;
        }
        if self.bad > options.patience {
            let lower = (self.learning_rate * options.factor).max(options.min_lr);
            if self.learning_rate - lower > options.eps {
                self.learning_rate = lower;
            }
            self.cooldown = options.cooldown;
            self.bad = 0;
        }
    }
}
