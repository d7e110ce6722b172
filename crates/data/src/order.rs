//! In which order the rows of an epoch are met.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::source::{Item, Pass};

/// The order of the rows of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they stand.
    #[default]
    File,
    /// At random through a bounded buffer: the next row is drawn from the next `buffer` rows not yet drawn. `seed` and the
    /// epoch decide it, nothing else. A buffer as large as the source is a full shuffle; memory is `buffer` lines.
    Shuffled {
        /// Decides the order together with the epoch's number.
        seed: u64,
        /// Rows held; at least 1.
        buffer: usize,
    },
}

impl Order {
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Shuffled { buffer: 0, .. } => {
                Err(Error::Option { name: "order.shuffled.buffer", got: "0".to_owned(), expected: "at least 1" })
            }
            _ => Ok(()),
        }
    }
}

/// The rows of a pass in order.
#[derive(Debug)]
pub(crate) struct Ordered {
    pass: Pass,
    shuffle: Option<Shuffle>,
}

#[derive(Debug)]
struct Shuffle {
    held: Vec<Item>,
    capacity: usize,
    random: SplitMix,
    exhausted: bool,
}

impl Ordered {
    pub(crate) fn new(pass: Pass, order: Order, epoch: u64) -> Self {
        let shuffle = match order {
            Order::File => None,
            Order::Shuffled { seed, buffer } => Some(Shuffle {
                held: Vec::new(),
                capacity: buffer,
                random: SplitMix::new(seed, epoch),
                exhausted: false,
            }),
        };
        Self { pass, shuffle }
    }

    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Error> {
        let Some(shuffle) = &mut self.shuffle else {
            return self.pass.next_item();
        };
        while !shuffle.exhausted && shuffle.held.len() < shuffle.capacity {
            match self.pass.next_item()? {
                Some(item) => shuffle.held.push(item),
                None => shuffle.exhausted = true,
            }
        }
        if shuffle.held.is_empty() {
            return Ok(None);
        }
        let drawn = shuffle.random.below(shuffle.held.len());
        Ok(Some(shuffle.held.swap_remove(drawn)))
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): its numbers are part of a run's identity, so they depend on no library's version.
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn new(seed: u64, epoch: u64) -> Self {
        let mut of_seed = Self(seed);
        // Mixed, so that epoch e + 1 of one seed is not epoch e of the next.
        Self(of_seed.next_u64() ^ Self(epoch.wrapping_mul(Self::STEP)).next_u64().rotate_left(32))
    }

    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform below a bound, to within bound / 2⁶⁴.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_paper() {
        // The published C code started at 1234567.
        let mut random = SplitMix(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn draws_are_even() {
        let mut random = SplitMix::new(1, 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7)] += 1;
        }
        // Seven standard deviations of a binomial with p = 1/7.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 650), "{counts:?}");
    }
}
