//! Rows that say the same as an earlier one, and rows that say the opposite.

use std::collections::HashMap;

use crate::shape::content::Content;

/// How a row relates to the rows before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// To none of them.
    New,
    /// The same as an earlier row.
    Repeats(u64),
    /// The same as an earlier row with the opposite verdict, and the first that says so.
    Contradicts(u64),
}

/// The rows seen: 24 bytes each, in a hash table that is between 7/16 and 7/8 full.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<[u64; 2], u64>);

impl Seen {
    /// Looks a row up and keeps it.
    pub(crate) fn meet(&mut self, row: u64, content: &Content) -> Relation {
        // Half the alignment of a u128, so that an entry takes 24 bytes and not 32.
        let key = |hash: u128| [(hash >> 64) as u64, hash as u64];
        if let Some(first) = self.0.get(&key(content.own)) {
            return Relation::Repeats(*first);
        }
        self.0.insert(key(content.own), row);
        let opposite = content.opposite.and_then(|opposite| self.0.get(&key(opposite)));
        opposite.map_or(Relation::New, |of| Relation::Contradicts(*of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_rows_stays_and_opposites_are_named() {
        let content = |own, opposite| Content { own, opposite };
        let mut seen = Seen::default();
        assert_eq!(seen.meet(0, &content(7, Some(8))), Relation::New);
        assert_eq!(seen.meet(1, &content(7, Some(8))), Relation::Repeats(0));
        assert_eq!(seen.meet(2, &content(8, Some(7))), Relation::Contradicts(0));
        assert_eq!(seen.meet(3, &content(8, Some(7))), Relation::Repeats(2));
        assert_eq!(seen.meet(4, &content(1 << 64, None)), Relation::New);
        assert_eq!(seen.meet(5, &content(1, None)), Relation::New);
    }
}
