//! A learning rate that rises while evaluations improve and falls while they do not.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::plateau::ThresholdMode;
use super::{in_range, not_negative};
use crate::error::{Error, Result};

/// `greedy`: transformers' `GreedyLR` over the losses of evaluations, in its mode `min`
/// ([arXiv 2512.14527](https://arxiv.org/abs/2512.14527)).
///
/// After more than `patience` good evaluations in a row the rate is divided by `factor`, after more than `patience` bad ones
/// multiplied by it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Greedy {
    /// What the rate is multiplied or divided by; above 0 and below 1.
    pub factor: f64,
    /// Evaluations of one kind that are waited for.
    pub patience: u64,
    /// By how much a loss must be lower to be good.
    pub threshold: f64,
    /// What the threshold is a part of.
    pub threshold_mode: ThresholdMode,
    /// Evaluations after a fall in which none is counted.
    pub cooldown: u64,
    /// Evaluations after a rise in which none is counted.
    pub warmup: u64,
    /// The least rate.
    pub min_lr: f64,
    /// The largest rate.
    pub max_lr: f64,
    /// A change by less is not made.
    pub eps: f64,
    /// Whether the mean of the last `window_size` losses is looked at.
    pub smooth: bool,
    /// Losses in that mean.
    pub window_size: usize,
    /// Falls that find the rate at its least, after which all begins anew.
    pub reset_start: u64,
}

impl Default for Greedy {
    fn default() -> Self {
        Self {
            factor: 0.95,
            patience: 10,
            threshold: 1e-6,
            threshold_mode: ThresholdMode::Abs,
            cooldown: 0,
            warmup: 0,
            min_lr: 1e-3,
            max_lr: 1.0,
            eps: 1e-8,
            smooth: false,
            window_size: 50,
            reset_start: 500,
        }
    }
}

impl Greedy {
    pub(super) fn check(&self, peak: f64) -> Result<()> {
        in_range("factor", self.factor, self.factor > 0.0 && self.factor < 1.0, "a number above 0 and below 1")?;
        not_negative("threshold", self.threshold)?;
        let limits = format!("0 to optimizer.learning_rate, which is {peak:e}");
        in_range("min_lr", self.min_lr, (0.0..=peak).contains(&self.min_lr), &limits)?;
        let limits = format!("at least optimizer.learning_rate, which is {peak:e}");
        in_range("max_lr", self.max_lr, self.max_lr >= peak, &limits)?;
        not_negative("eps", self.eps)?;
        match self.window_size {
            0 => Err(Error::config("schedule.window_size", "0; expected at least 1")),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GreedyState {
    pub(super) learning_rate: f64,
    peak: f64,
    best: Option<f64>,
    bad: u64,
    good: u64,
    cooldown: u64,
    warmup: u64,
    until_reset: u64,
    /// The last losses and their sum, where they are averaged.
    window: VecDeque<f64>,
    sum: f64,
}

impl GreedyState {
    pub(super) fn new(options: Greedy, peak: f64) -> Self {
        Self {
            learning_rate: peak,
            peak,
            best: None,
            bad: 0,
            good: 0,
            cooldown: 0,
            warmup: 0,
            until_reset: options.reset_start,
            window: VecDeque::new(),
            sum: 0.0,
        }
    }

    pub(super) fn follow(&mut self, options: Greedy, loss: f64) {
        let loss = if options.smooth { self.averaged(options.window_size, loss) } else { loss };
        if self.cooldown > 0 || self.warmup > 0 {
            let waits = if self.cooldown > 0 { &mut self.cooldown } else { &mut self.warmup };
            *waits -= 1;
            (self.bad, self.good) = (0, 0);
            return;
        }
        if options.threshold_mode.is_better(loss, self.best, options.threshold) {
            self.best = Some(loss);
            (self.bad, self.good) = (0, self.good + 1);
        } else {
            (self.bad, self.good) = (self.bad + 1, 0);
        }
        if self.good > options.patience {
            let higher = (self.learning_rate / options.factor).min(options.max_lr);
            if higher - self.learning_rate > options.eps {
                self.learning_rate = higher;
            }
            self.until_reset = options.reset_start;
            self.warmup = options.warmup;
            self.good = 0;
        } else if self.bad > options.patience {
            self.fall(options);
        }
    }

    fn averaged(&mut self, size: usize, loss: f64) -> f64 {
        self.window.push_back(loss);
        self.sum += loss;
        if self.window.len() > size {
            self.sum -= self.window.pop_front().unwrap_or_default();
        }
        self.sum / self.window.len() as f64
    }

    fn fall(&mut self, options: Greedy) {
        let lower = (self.learning_rate * options.factor).max(options.min_lr);
        if self.learning_rate - lower > options.eps {
            self.learning_rate = lower;
        }
        if self.learning_rate <= options.min_lr {
            self.until_reset = self.until_reset.saturating_sub(1);
            if self.until_reset == 0 {
                *self = Self::new(options, self.peak);
            }
        }
        self.cooldown = options.cooldown;
        self.bad = 0;
    }
}
