//! Labelled rows of both verdicts in fair shares: by leaving rows out, or by weights in the loss.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Error;

/// Rows of the more frequent verdict are left out.
///
/// Which ones depends on what they say and on the seed alone, so that rows added to a file change little.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// At most so many rows of the more frequent verdict for each of the other; at least 1, the default.
    pub ratio: f64,
    /// Other seeds leave out other rows.
    pub seed: u64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { ratio: 1.0, seed: 0 }
    }
}

impl Balance {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.ratio >= 1.0 && self.ratio.is_finite() {
            return Ok(());
        }
        Err(Error::Option {
            name: "balance.ratio",
            got: self.ratio.to_string(),
            expected: "a finite number from 1: rows of the more frequent verdict for each of the other",
        })
    }
}

/// The labelled rows met: 16 bytes each.
#[derive(Debug)]
pub(crate) struct Balancer {
    balance: Balance,
    /// Hash and number of the rows that are not desirable, and of those that are.
    rows: [Vec<(u64, u64)>; 2],
}

impl Balancer {
    pub(crate) fn new(balance: Balance) -> Self {
        Self { balance, rows: [Vec::new(), Vec::new()] }
    }

    pub(crate) fn meet(&mut self, row: u64, desirable: bool, content: u128) {
        let hash = xxh3_64_with_seed(&content.to_le_bytes(), self.balance.seed);
        let [undesirable, wanted] = &mut self.rows;
        if desirable { wanted } else { undesirable }.push((hash, row));
    }

    /// The rows to leave out, in no order.
    pub(crate) fn finish(self) -> Result<Vec<u64>, Error> {
        let [mut fewer, mut more] = self.rows;
        if fewer.is_empty() || more.is_empty() {
            return Err(Error::OneVerdict { desirable: more.len() as u64, undesirable: fewer.len() as u64 });
        }
        if fewer.len() > more.len() {
            std::mem::swap(&mut fewer, &mut more);
        }
        let kept = (fewer.len() as f64 * self.balance.ratio) as usize;
        more.sort_unstable();
        Ok(more.into_iter().skip(kept).map(|(_, row)| row).collect())
    }
}

/// How many labelled rows there are of each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Rows that are wanted.
    pub desirable: u64,
    /// Rows that are not.
    pub undesirable: u64,
}

/// Weights of desirable and of undesirable rows in KTO's loss: w_D n_D / (w_U n_U) lies in [1, 4/3], as Ethayarajh et al.
/// (2024, §4.2) recommend. Both are 1 where the counts are in that range already; else the verdict with too little weight
/// gets just enough, and the other keeps 1. None where rows of one verdict are missing.
///
/// ```
/// use candlewick_data::{LabelCounts, label_weights};
/// let weights = |desirable, undesirable| label_weights(LabelCounts { desirable, undesirable });
/// assert_eq!(weights(100, 100), Some((1.0, 1.0)));
/// assert_eq!(weights(100, 400), Some((4.0, 1.0)));
/// assert_eq!(weights(400, 100), Some((1.0, 3.0)));
/// assert_eq!(weights(0, 100), None);
/// ```
#[must_use]
pub fn label_weights(counts: LabelCounts) -> Option<(f64, f64)> {
    const MOST: f64 = 4.0 / 3.0;
    if counts.desirable == 0 || counts.undesirable == 0 {
        return None;
    }
    let ratio = counts.desirable as f64 / counts.undesirable as f64;
    Some(if ratio < 1.0 {
        (counts.undesirable as f64 / counts.desirable as f64, 1.0)
    } else {
        (1.0, (ratio / MOST).max(1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(desirable: u64, undesirable: u64, ratio: f64, seed: u64) -> Vec<u64> {
        let mut balancer = Balancer::new(Balance { ratio, seed });
        for row in 0..desirable + undesirable {
            balancer.meet(row, row < desirable, u128::from(row) * 3);
        }
        let mut rows = balancer.finish().unwrap();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn the_more_frequent_verdict_loses_rows() {
        for (desirable, undesirable, ratio, expected) in
            [(10, 4, 1.0, 6), (10, 4, 1.5, 4), (4, 10, 1.5, 4), (5, 5, 1.0, 0), (5, 4, 1.3, 0), (3, 1, 100.0, 0)]
        {
            let rows = left_out(desirable, undesirable, ratio, 0);
            assert_eq!(rows.len(), expected, "{desirable} {undesirable} {ratio}");
            assert!(rows.iter().all(|row| (*row < desirable) == (desirable > undesirable)));
        }
    }

    #[test]
    fn which_rows_go_depends_on_the_seed_and_little_on_the_others() {
        assert_eq!(left_out(200, 100, 1.0, 7), left_out(200, 100, 1.0, 7));
        assert_ne!(left_out(200, 100, 1.0, 7), left_out(200, 100, 1.0, 8));
        // One desirable row less: the rows left out are those from before, all but one at most.
        let with = |dropped: Option<u64>| {
            let mut balancer = Balancer::new(Balance::default());
            for row in (0..300).filter(|row| Some(*row) != dropped) {
                balancer.meet(row, row < 200, u128::from(row));
            }
            balancer.finish().unwrap()
        };
        let (all, fewer) = (with(None), with(Some(17)));
        assert_eq!((all.len(), fewer.len()), (100, 99));
        assert!(fewer.iter().all(|row| all.contains(row)));
    }

    #[test]
    fn one_verdict_cannot_be_balanced() {
        let mut balancer = Balancer::new(Balance::default());
        balancer.meet(0, true, 1);
        let error = balancer.finish().unwrap_err().to_string();
        assert!(error.starts_with("balance: found 1 desirable and 0 undesirable rows"), "{error}");
        for ratio in [0.5, f64::NAN, f64::INFINITY, -1.0] {
            let error = Balance { ratio, seed: 0 }.check().unwrap_err().to_string();
            assert!(error.starts_with("balance.ratio: got"), "{error}");
        }
    }

    #[test]
    fn weights_are_in_the_recommended_range() {
        for desirable in 1..60u64 {
            for undesirable in 1..60u64 {
                let (wanted, not) = label_weights(LabelCounts { desirable, undesirable }).unwrap();
                let ratio = wanted * desirable as f64 / (not * undesirable as f64);
                assert!((1.0 - 1e-12..=4.0 / 3.0 + 1e-12).contains(&ratio), "{desirable} {undesirable} {ratio}");
                assert!(wanted >= 1.0 && not >= 1.0 && wanted.min(not) <= 1.0);
            }
        }
    }
}
