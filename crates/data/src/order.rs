//! In which order the rows of an epoch are met, and the way back to a place in it.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::pass::{Item, Pass};
use crate::place::{Place, Slots, Trail};

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

    /// Decides what is drawn at random.
    pub(crate) fn seed(self) -> u64 {
        match self {
            Self::File => 0,
            Self::Shuffled { seed, .. } => seed,
        }
    }

    fn buffer(self) -> usize {
        match self {
            Self::File => 0,
            Self::Shuffled { buffer, .. } => buffer,
        }
    }
}

/// The items of a pass in order.
#[derive(Debug)]
pub(crate) struct Ordered {
    pass: Pass,
    shuffle: Option<Shuffle>,
    drawn: u64,
    trail: Trail,
}

#[derive(Debug)]
struct Shuffle {
    held: Vec<Item>,
    capacity: usize,
    random: SplitMix,
    exhausted: bool,
}

impl Ordered {
    /// From the start of an epoch.
    pub(crate) fn new(pass: Pass, order: Order, epoch: u64) -> Self {
        let trail = Trail::new(&pass, order.buffer());
        Self::with_trail(pass, order, epoch, trail)
    }

    fn with_trail(pass: Pass, order: Order, epoch: u64, trail: Trail) -> Self {
        let shuffle = match order {
            Order::File => None,
            Order::Shuffled { seed, buffer } => Some(Shuffle {
                held: Vec::new(),
                capacity: buffer,
                random: SplitMix::new(seed, epoch),
                exhausted: false,
            }),
        };
        Self { pass, shuffle, drawn: 0, trail }
    }

    /// Brings an order whose pass stands where a place begins to that place; None if the rows or the order are not those that
    /// the place was taken of.
    pub(crate) fn go_to(mut self, place: &Place) -> Result<Option<Self>, Error> {
        let mut waiting = Slots::new(place);
        while self.pass.items() < place.read {
            let Some(item) = self.read()? else { return Ok(None) };
            waiting.meet(item);
        }
        let Some(held) = waiting.all() else { return Ok(None) };
        if !place.fits(&self.pass) || place.consumed.checked_add(held.len() as u64) != Some(place.read) {
            return Ok(None);
        }
        self.drawn = place.consumed;
        self.trail.keep(place.clone());
        let Some(shuffle) = &mut self.shuffle else { return Ok(held.is_empty().then_some(self)) };
        shuffle.random.skip(place.consumed);
        shuffle.held = held;
        // Between two draws one row is missing, until the source has no more.
        let missing = shuffle.capacity.saturating_sub(shuffle.held.len());
        let fits = missing == 1 || (missing > 1 && self.read()?.is_none());
        Ok(fits.then_some(self))
    }

    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, Error> {
        let Some(item) = self.draw()? else { return Ok(None) };
        self.drawn += 1;
        let waiting = self.shuffle.as_ref().map_or(&[][..], |shuffle| &shuffle.held);
        self.trail.draw(self.drawn, &self.pass, waiting);
        Ok(Some(item))
    }

    /// The newest place at or before so many drawn rows.
    pub(crate) fn place(&self, consumed: u64) -> Option<&Place> {
        self.trail.place(consumed)
    }

    /// From now on no place before so many drawn rows is asked for.
    pub(crate) fn release(&mut self, consumed: u64) {
        self.trail.release(consumed);
    }

    fn draw(&mut self) -> Result<Option<Item>, Error> {
        if self.shuffle.is_none() {
            return self.read();
        }
        while self.shuffle.as_ref().is_some_and(Shuffle::has_room) {
            let item = self.read()?;
            if let Some(shuffle) = &mut self.shuffle {
                shuffle.exhausted = item.is_none();
                shuffle.held.extend(item);
            }
        }
        Ok(self.shuffle.as_mut().and_then(Shuffle::draw))
    }

    fn read(&mut self) -> Result<Option<Item>, Error> {
        let item = self.pass.next_item()?;
        self.trail.mark(&self.pass);
        Ok(item)
    }
}

impl Shuffle {
    fn has_room(&self) -> bool {
        !self.exhausted && self.held.len() < self.capacity
    }

    fn draw(&mut self) -> Option<Item> {
        if self.held.is_empty() {
            return None;
        }
        let drawn = self.random.below(self.held.len());
        Some(self.held.swap_remove(drawn))
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): its numbers are part of a run's identity, so they depend on no library's version.
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    /// The generator of a seed for one of its purposes, such as the order of an epoch.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut of_seed = Self(seed);
        // Mixed, so that epoch e + 1 of one seed is not epoch e of the next.
        Self(of_seed.next_u64() ^ Self(purpose.wrapping_mul(Self::STEP)).next_u64().rotate_left(32))
    }

    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// As after so many numbers more: the state is a counter.
    fn skip(&mut self, numbers: u64) {
        self.0 = self.0.wrapping_add(Self::STEP.wrapping_mul(numbers));
    }

    /// Uniform below a bound, to within bound / 2⁶⁴.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mixture::{MixtureEnd, Shard};
    use crate::row::{Row, Text};
    use crate::source::Source;

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

    fn source(count: usize) -> Arc<Source> {
        let text = |text: &str| Text::Plain(text.to_owned());
        let row = |_| Row::Demonstration { prompt: text("p"), completion: text(" a") };
        Arc::new(Source::from_rows((0..count).map(row).collect::<Vec<_>>()))
    }

    fn closely_marked(pass: Pass, order: Order) -> Ordered {
        let trail = Trail::with_spacing(&pass, 3, 2);
        Ordered::with_trail(pass, order, 1, trail)
    }

    fn rest(ordered: &mut Ordered) -> Vec<u64> {
        std::iter::from_fn(|| ordered.next_item().unwrap()).map(|item| item.at).collect()
    }

    /// One source; one of halves; a share of a mixture of both, of which one part is read again and again.
    fn sources(count: usize) -> [Arc<Source>; 3] {
        let plain = source(count);
        let halves = Source::clone(&plain).unpaired(true);
        let parts = vec![(Source::clone(&source(5)), 2.0), (halves.clone(), 1.0)];
        let mixture = Source::mixture(parts, MixtureEnd::AllExhausted).unwrap();
        let shard = mixture.sharded(Shard { rank: 1, ranks: 3 }).unwrap();
        [plain, Arc::new(halves), Arc::new(shard)]
    }

    #[test]
    fn every_place_leads_back_to_the_same_order() {
        let orders = [1, 2, 3, 7, 30, 200].map(|buffer| Order::Shuffled { seed: 4, buffer });
        for order in [Order::File].into_iter().chain(orders) {
            for source in [1, 2, 7, 29, 30, 31, 120].into_iter().flat_map(sources) {
                let whole = rest(&mut closely_marked(Pass::new(source.clone()).unwrap(), order));
                let mut drawn = closely_marked(Pass::new(source.clone()).unwrap(), order);
                for consumed in 0..=whole.len() as u64 {
                    if let Some(place) = drawn.place(consumed).cloned() {
                        assert!(place.consumed <= consumed && consumed - place.consumed < 2);
                        let pass = Pass::at(source.clone(), &place.pass).unwrap().unwrap();
                        let mut again = closely_marked(pass, order).go_to(&place).unwrap().unwrap();
                        assert_eq!(again.place(consumed), Some(&place));
                        assert_eq!(
                            rest(&mut again),
                            whole[place.consumed as usize..],
                            "{order:?} {source:?} {place:?}"
                        );
                    } else {
                        assert!(consumed < 2);
                    }
                    drawn.release(consumed);
                    drawn.next_item().unwrap();
                }
            }
        }
    }

    /// Twice interrupted is interrupted once: the places after a return are those of the run before it.
    #[test]
    fn places_after_a_return_are_the_same() {
        let (source, order) = (source(100), Order::Shuffled { seed: 9, buffer: 12 });
        let mut drawn = closely_marked(Pass::new(source.clone()).unwrap(), order);
        for _ in 0..41 {
            drawn.next_item().unwrap();
        }
        let place = drawn.place(41).unwrap().clone();
        let pass = Pass::at(source, &place.pass).unwrap().unwrap();
        let mut again = closely_marked(pass, order).go_to(&place).unwrap().unwrap();
        again.next_item().unwrap();
        for consumed in 42..=100 {
            drawn.next_item().unwrap();
            again.next_item().unwrap();
            assert_eq!(drawn.place(consumed), again.place(consumed));
        }
    }

    #[test]
    fn a_place_of_another_source_or_order_is_refused() {
        let order = Order::Shuffled { seed: 4, buffer: 10 };
        let mut drawn = closely_marked(Pass::new(source(100)).unwrap(), order);
        for _ in 0..50 {
            drawn.next_item().unwrap();
        }
        let place = drawn.place(50).unwrap().clone();
        let go = |rows, order, place: &Place| {
            let pass = Pass::at(source(rows), &place.pass).unwrap().unwrap();
            Ordered::new(pass, order, 1).go_to(place).unwrap().is_some()
        };
        assert!(go(100, order, &place) && go(60, order, &place));
        assert!(!go(55, order, &place), "fewer rows than were read");
        assert!(!go(100, Order::File, &place) && !go(100, Order::Shuffled { seed: 4, buffer: 9 }, &place));
        assert!(!go(100, Order::Shuffled { seed: 4, buffer: 11 }, &place));
        assert!(!go(100, order, &Place { consumed: 49, ..place.clone() }));
        assert!(!go(100, order, &Place { read: u64::MAX, ..place.clone() }));
        assert!(!go(100, order, &Place { waiting: vec![u32::MAX; 9], ..place.clone() }));
        assert!(!go(100, order, &Place { waiting: vec![0; 9], ..place.clone() }));
        assert!(!go(100, order, &Place { checksum: 1, ..place }));
    }
}
