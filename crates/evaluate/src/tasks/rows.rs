//! The rows that a task is measured on.

use std::path::Path;

use candlewick_data::RawRows;

use super::field::{TaskRow, Values};
use super::task::Task;
use crate::error::{Error, Result};

/// Reasons that are kept.
const REASONS: usize = 10;

/// Rows of a file, in order, and what was left out of them.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRows {
    /// The file, as it was named.
    pub name: String,
    /// The rows.
    pub rows: Vec<TaskRow>,
    /// Rows that cannot be read.
    pub left_out: usize,
    /// Why, with their places; at most ten.
    pub reasons: Vec<String>,
}

impl TaskRows {
    /// Reads the rows of a task: of `path`, or else of the file that the task names; at most `limit`.
    ///
    /// # Errors
    /// No file, or one without a usable row; a template of the task that does not suit a row.
    pub fn read(task: &Task, path: Option<&Path>, limit: Option<usize>) -> Result<Self> {
        let Some(path) = path.or_else(|| task.rows()) else {
            return Err(Error::config(
                task.place("rows"),
                "is missing; name the file of the rows in the task, or beside it",
            ));
        };
        let mut found = Self { name: path.display().to_string(), rows: Vec::new(), left_out: 0, reasons: Vec::new() };
        for (number, row) in (0..).zip(RawRows::open(path, task.header())?) {
            if limit.is_some_and(|limit| found.rows.len() >= limit) {
                break;
            }
            match row? {
                Ok((origin, columns)) => {
                    let row = TaskRow { origin, number, columns };
                    if task.takes(&Values::of(&row))? {
                        found.rows.push(row);
                    }
                }
                Err(rejection) => found.leave_out(rejection.to_string()),
            }
        }
        if found.rows.is_empty() {
            let because =
                found.reasons.first().map_or_else(|| "the file has none that the task takes".to_owned(), Clone::clone);
            return Err(Error::Rows { place: found.name, reason: format!("no row to measure: {because}") });
        }
        Ok(found)
    }

    pub(super) fn leave_out(&mut self, reason: String) {
        self.left_out += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(reason);
        }
    }
}
