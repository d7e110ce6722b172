//! Where the rows of a pass stand, in little memory: only where the numbering jumps is something stored.

use crate::row::Origin;

/// Rows from `first` on stand in the file and unit of `origin`, from its line on without a gap.
#[derive(Clone, Debug)]
struct Stretch {
    first: u64,
    origin: Origin,
}

/// Origins by the number of the row in its pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Vec<Stretch>);

impl Places {
    /// Adds a row; rows come in ascending order.
    pub(crate) fn add(&mut self, row: u64, origin: &Origin) {
        if self.at(row).as_ref() != Some(origin) {
            self.0.push(Stretch { first: row, origin: origin.clone() });
        }
    }

    /// The place of a row that was added.
    pub(crate) fn at(&self, row: u64) -> Option<Origin> {
        let after = self.0.partition_point(|stretch| stretch.first <= row);
        let stretch = self.0.get(after.checked_sub(1)?)?;
        let line = stretch.origin.line.saturating_add(row - stretch.first);
        Some(Origin { line, ..stretch.origin.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_jumps_are_stored() {
        let file = |name: &str, line| Origin::line(Arc::from(name), line);
        let rows = [file("a", 1), file("a", 2), file("a", 4), file("a", 5), file("b", 1), file("b", 2)];
        let mut places = Places::default();
        for (row, origin) in rows.iter().enumerate() {
            places.add(row as u64, origin);
        }
        assert_eq!(places.0.len(), 3);
        for (row, origin) in rows.iter().enumerate() {
            assert_eq!(places.at(row as u64).as_ref(), Some(origin));
        }
        assert_eq!(Places::default().at(3), None);
    }
}
