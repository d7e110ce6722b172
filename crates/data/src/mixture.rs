//! Several sources as one, and one source in shares.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// When a pass over a mixture ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixtureEnd {
    /// At the turn of a part that has no more rows: no row comes twice in an epoch, and longer parts are not read to their
    /// end.
    #[default]
    FirstExhausted,
    /// When every part was read to its end once; shorter ones begin again, so that their rows come several times in an epoch.
    AllExhausted,
}

/// A share of the rows: of every `ranks` rows, counted over the whole source before shuffling, the one at `rank`. The shares
/// of all ranks are the source, and no row is in two. They differ by one row at most, and by the rows that are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which share, from 0.
    pub rank: u64,
    /// How many there are, at least 1.
    pub ranks: u64,
}

impl Default for Shard {
    /// All rows.
    fn default() -> Self {
        Self { rank: 0, ranks: 1 }
    }
}

impl Shard {
    pub(crate) fn check(self) -> Result<(), Error> {
        if self.rank < self.ranks {
            return Ok(());
        }
        Err(Error::Option {
            name: "shard",
            got: format!("rank {} of {}", self.rank, self.ranks),
            expected: "a rank below the number of ranks, counted from 0",
        })
    }

    pub(crate) fn takes(self, row: u64) -> bool {
        row % self.ranks == self.rank
    }
}

/// The part whose turn it is, of the rows that each has given and its weight: the one that another row brings least far ahead
/// of its share, the first of several. The shares come out to within a row at any time, and nothing is drawn at random.
pub(crate) fn next_part(parts: impl Iterator<Item = (u64, f64)>) -> usize {
    let mut next = (0, f64::INFINITY);
    for (index, (taken, weight)) in parts.enumerate() {
        let due = (taken as f64 + 1.0) / weight;
        if due < next.1 {
            next = (index, due);
        }
    }
    next.0
}

pub(crate) fn check_weights(weights: impl IntoIterator<Item = f64>) -> Result<(), Error> {
    match weights.into_iter().find(|weight| !(weight.is_finite() && *weight > 0.0)) {
        None => Ok(()),
        Some(weight) => Err(Error::Option {
            name: "mixture.weight",
            got: weight.to_string(),
            expected: "a finite number above 0; leave a part out that is not wanted",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_to_the_weights_at_any_time() {
        for weights in [vec![1.0], vec![1.0, 1.0], vec![3.0, 1.0], vec![0.5, 0.3, 0.2], vec![7.0, 2.0, 2.0, 0.1]] {
            let total: f64 = weights.iter().sum();
            let mut taken = vec![0u64; weights.len()];
            for row in 1..=2000u32 {
                let part = next_part(taken.iter().copied().zip(weights.iter().copied()));
                taken[part] += 1;
                for (count, weight) in taken.iter().zip(&weights) {
                    let share = f64::from(row) * weight / total;
                    assert!((*count as f64 - share).abs() <= weights.len() as f64, "{weights:?} {taken:?} at {row}");
                }
            }
        }
        assert_eq!(next_part([(1, 1.0), (0, 1.0), (0, 1.0)].into_iter()), 1);
    }

    #[test]
    fn shards_share_rows_out() {
        for ranks in 1..5 {
            for row in 0..50 {
                assert_eq!((0..ranks).filter(|rank| Shard { rank: *rank, ranks }.takes(row)).count(), 1);
            }
        }
        assert!(Shard { rank: 2, ranks: 2 }.check().is_err() && Shard { rank: 0, ranks: 0 }.check().is_err());
        assert!(check_weights([1.0, 0.0]).is_err() && check_weights([f64::NAN]).is_err());
        assert!(check_weights([0.5, 2.0]).is_ok());
    }
}
