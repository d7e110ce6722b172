//! What came out of a task: numbers with their intervals, over all rows and by slice.

use serde::{Deserialize, Serialize};

use crate::stats::{Bootstrap, Interval, wilson};

/// The normal quantile of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// The form of [`TaskReport`].
pub(super) const VERSION: u32 = 1;

/// The result of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The form of this object, 1.
    pub version: u32,
    /// The task.
    pub task: String,
    /// Its kind.
    pub kind: super::TaskKind,
    /// Where the rows came from.
    pub rows: String,
    /// Rows that were measured.
    pub items: usize,
    /// Rows that could not be used; the first reasons stand in `reasons`.
    pub left_out: usize,
    /// Why rows were left out, with their places; at most ten.
    pub reasons: Vec<String>,
    /// Over all rows.
    pub metrics: Vec<Metric>,
    /// The same by the values of columns.
    pub slices: Vec<Slice>,
}

/// A number with its 95 % interval: Wilson's for a share of rows, else the bootstrap's over rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How many rows, groups or answers it is taken over.
    pub n: usize,
}

/// Rows with the same value of a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The column.
    pub column: String,
    /// Its value.
    pub value: String,
    /// Over these rows.
    pub metrics: Vec<Metric>,
}

impl TaskReport {
    /// A number over all rows by its name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// The same over the rows of a slice.
    pub fn of_slice(&self, column: &str, value: &str, name: &str) -> Option<&Metric> {
        let slice = self.slices.iter().find(|slice| slice.column == column && slice.value == value)?;
        slice.metrics.iter().find(|metric| metric.name == name)
    }
}

/// Collects numbers.
#[derive(Debug)]
pub(super) struct Measures {
    bootstrap: Bootstrap,
    pub(super) metrics: Vec<Metric>,
}

impl Measures {
    pub(super) fn new(bootstrap: Bootstrap) -> Self {
        Self { bootstrap, metrics: Vec::new() }
    }

    /// The mean of values: a share where all are 0, a half or 1. Nothing of no values.
    pub(super) fn mean(&mut self, name: impl Into<String>, values: &[f64]) {
        let is_share = values.iter().all(|value| [0.0, 0.5, 1.0].contains(value));
        let found = match is_share {
            true => wilson(values.iter().sum(), values.len() as f64, Z),
            false => self.bootstrap.mean(values),
        };
        self.put(name, found, values.len());
    }

    /// Any statistic of `n` rows, given their numbers.
    pub(super) fn of(&mut self, name: impl Into<String>, n: usize, statistic: impl FnMut(&[usize]) -> Option<f64>) {
        let found = self.bootstrap.of(n, statistic);
        self.put(name, found, n);
    }

    /// A number that has no uncertainty.
    pub(super) fn exact(&mut self, name: impl Into<String>, value: Option<f64>, n: usize) {
        self.put(name, value.map(|value| Interval { low: value, estimate: value, high: value }), n);
    }

    fn put(&mut self, name: impl Into<String>, found: Option<Interval>, n: usize) {
        let Some(Interval { low, estimate, high }) = found else { return };
        if [low, estimate, high].iter().all(|end| end.is_finite()) {
            self.metrics.push(Metric { name: name.into(), value: estimate, low, high, n });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_wilsons_interval_and_other_means_the_bootstraps() {
        let mut measures = Measures::new(Bootstrap::default());
        measures.mean("share", &[1.0, 0.0, 1.0, 1.0]);
        measures.mean("mean", &[0.25, 0.75]);
        measures.mean("none", &[]);
        measures.mean("broken", &[f64::NAN, 0.3]);
        let names: Vec<&str> = measures.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["share", "mean"]);
        let share = &measures.metrics[0];
        // statsmodels.stats.proportion.proportion_confint(3, 4, method="wilson")
        assert!(
            (share.low - 0.300_641_842_582_402_05).abs() < 1e-9 && (share.high - 0.954_412_739_175_304_4).abs() < 1e-9
        );
        let mean = &measures.metrics[1];
        assert!((mean.value, mean.low, mean.high) == (0.5, 0.25, 0.75));
    }
}
