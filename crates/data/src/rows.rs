//! Which rows of a source are read: `..2000`, `2000..`, `100..200`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A half-open range of rows, counted from 0 over non-blank lines, before any row is rejected: `..2000` and `2000..` split
/// a file the same way whatever its rows hold.
///
/// ```
/// let rows: candlewick_data::RowRange = "..2000".parse()?;
/// assert_eq!((rows.start, rows.end), (0, Some(2000)));
/// # Ok::<(), candlewick_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowRange {
    /// The first row taken.
    pub start: u64,
    /// The first row no longer taken; None reads to the end.
    pub end: Option<u64>,
}

impl RowRange {
    /// Whether a row, counted from 0, is taken.
    #[must_use]
    pub fn contains(&self, row: u64) -> bool {
        row >= self.start && self.end.is_none_or(|end| row < end)
    }
}

impl FromStr for RowRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Option {
            name: "rows",
            got: format!("{text:?}"),
            expected: "a range such as \"..2000\", \"2000..\" or \"100..200\" that is not empty",
        };
        let (start, end) = text.trim().split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let start = if start.trim().is_empty() { 0 } else { number(start)? };
        let end = if end.trim().is_empty() { None } else { Some(number(end)?) };
        if end.is_some_and(|end| end <= start) {
            return Err(wrong());
        }
        Ok(Self { start, end })
    }
}

impl TryFrom<String> for RowRange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RowRange> for String {
    fn from(range: RowRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start > 0 {
            write!(f, "{}", self.start)?;
        }
        f.write_str("..")?;
        match self.end {
            Some(end) => write!(f, "{end}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written_alike() {
        for text in ["..2000", "2000..", "100..200", ".."] {
            assert_eq!(text.parse::<RowRange>().unwrap().to_string(), text);
        }
        for text in ["", "5", "5..5", "7..3", "a..b", "-1.."] {
            assert!(text.parse::<RowRange>().unwrap_err().to_string().contains("rows: got"), "{text}");
        }
        let range = RowRange { start: 2, end: Some(4) };
        assert_eq!((0..6).filter(|row| range.contains(*row)).collect::<Vec<_>>(), [2, 3]);
    }
}
