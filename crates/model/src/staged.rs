//! What kernels read of a batch beside numbers: ids, positions, who attends to whom, where targets are. On a device they read copies.
use std::ops::Range;

use candlewick_kernels::attention::{Layout, Tiles};
use candlewick_kernels::embedding::{BucketViews, Buckets};
use candlewick_kernels::token_log_probs::Targets;
use candlewick_kernels::{Cuda, CudaBuffer, View};

use crate::error::Result;
use crate::layout::HeadKind;
use crate::packed::Packed;

/// Words of 256 bytes: on multiples of them each part begins, as allocations do.
pub(crate) const LINE: usize = 64;

/// What a pass reads of a batch on a device beside ids, positions and what its queries see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reads {
    /// What is scored.
    pub(crate) targets: bool,
    /// Who sees a key, and the targets of a row: a backward follows.
    pub(crate) backward: bool,
    /// The rows of an id: the embedding has a gradient.
    pub(crate) rows_of_ids: bool,
}

impl Reads {
    /// What a pass of a model of such a head reads, `backward` where one follows.
    pub(crate) fn of(head: HeadKind, backward: bool, has_adapter: bool) -> Self {
        Self { targets: head == HeadKind::Tokens, backward, rows_of_ids: backward && !has_adapter }
    }
}

/// A batch where the ops of a pass read it.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Of each target: the row of its hidden state, and its id.
    rows: Vec<u32>,
    ids: Vec<u32>,
    copies: Option<Copies>,
}

/// Copies on a device, all in one buffer.
#[derive(Debug)]
struct Copies {
    words: CudaBuffer<u32>,
    tiles: Tiles,
    places: Places,
}

/// Where each part lies among the words; what the pass does not read is empty or absent.
#[derive(Debug)]
struct Places {
    ids: Range<usize>,
    positions: Range<usize>,
    tile_queries: Range<usize>,
    tile_keys: Range<usize>,
    tile_ranges: Range<usize>,
    target_rows: Range<usize>,
    target_ids: Range<usize>,
    given: Range<usize>,
    /// The targets of each row, for the gradient of the hidden states.
    by_row: Option<BucketPlaces>,
    /// The rows of each id, for the gradient of the embedding.
    by_id: Option<BucketPlaces>,
}

#[derive(Debug)]
struct BucketPlaces {
    ids: Range<usize>,
    starts: Range<usize>,
    members: Range<usize>,
}

/// Words that are laid one part behind the other.
#[derive(Default)]
struct Words(Vec<u32>);

impl Words {
    fn lay(&mut self, part: &[u32]) -> Range<usize> {
        let Self(words) = self;
        words.resize(words.len().next_multiple_of(LINE), 0);
        let start = words.len();
        words.extend_from_slice(part);
        start..words.len()
    }

    fn lay_if(&mut self, wanted: bool, part: &[u32]) -> Range<usize> {
        if wanted { self.lay(part) } else { 0..0 }
    }

    fn lay_buckets(&mut self, ids: &[u32]) -> BucketPlaces {
        let Buckets { ids, starts, members } = Buckets::of(ids);
        BucketPlaces { ids: self.lay(&ids), starts: self.lay(&starts), members: self.lay(&members) }
    }
}

impl Places {
    /// Lays out what a pass reads. `rows` and `ids` are those of the targets.
    fn of(packed: &Packed, rows: &[u32], ids: &[u32], tiles: &Tiles, reads: Reads) -> (Self, Vec<u32>) {
        let mut words = Words::default();
        let places = Self {
            ids: words.lay(packed.ids()),
            positions: words.lay(packed.positions()),
            tile_queries: words.lay(&tiles.queries),
            tile_keys: words.lay_if(reads.backward, &tiles.keys),
            tile_ranges: words.lay_if(reads.backward, &tiles.ranges),
            target_rows: words.lay_if(reads.targets, rows),
            target_ids: words.lay_if(reads.targets, ids),
            given: words.lay_if(reads.targets, packed.given()),
            by_row: (reads.targets && reads.backward).then(|| words.lay_buckets(rows)),
            by_id: reads.rows_of_ids.then(|| words.lay_buckets(packed.ids())),
        };
        (places, words.0)
    }
}

impl Copies {
    fn of(packed: &Packed, rows: &[u32], ids: &[u32], device: &Cuda, reads: Reads) -> Result<Self> {
        let tiles = Tiles::of(packed.segments(), packed.tokens())?;
        let (places, words) = Places::of(packed, rows, ids, &tiles, reads);
        Ok(Self { words: device.upload(&words)?, tiles, places })
    }

    fn view(&self, place: &Range<usize>) -> View<'_, u32> {
        self.words.view().part(place.clone()).expect("places lie among the words")
    }

    fn buckets(&self, places: &BucketPlaces) -> BucketViews<'_> {
        let BucketPlaces { ids, starts, members } = places;
        BucketViews { ids: self.view(ids), starts: self.view(starts), members: self.view(members) }
    }
}

impl Staged {
    /// The batch for ops on `device`, or on the host.
    pub(crate) fn new(packed: &Packed, device: Option<&Cuda>, reads: Reads) -> Result<Self> {
        let (rows, ids): (Vec<_>, Vec<_>) =
            packed.targets().iter().map(|target| (target.hidden_row, target.id)).unzip();
        let copies = device.map(|device| Copies::of(packed, &rows, &ids, device, reads)).transpose()?;
        Ok(Self { rows, ids, copies })
    }

    /// The ids of the computed rows.
    pub(crate) fn ids<'a>(&'a self, packed: &'a Packed) -> View<'a, u32> {
        self.copies.as_ref().map_or_else(|| packed.ids().into(), |copies| copies.view(&copies.places.ids))
    }

    /// The position of each computed row.
    pub(crate) fn positions<'a>(&'a self, packed: &'a Packed) -> View<'a, u32> {
        self.copies.as_ref().map_or_else(|| packed.positions().into(), |copies| copies.view(&copies.places.positions))
    }

    /// Who attends to whom; on a device who sees a key only where the pass reads it.
    pub(crate) fn layout<'a>(&'a self, packed: &'a Packed) -> Layout<'a> {
        let tiles = self.copies.as_ref().map(|copies| {
            let Places { tile_queries, tile_keys, tile_ranges, .. } = &copies.places;
            copies.tiles.views_of(copies.view(tile_queries), copies.view(tile_keys), copies.view(tile_ranges))
        });
        Layout { segments: packed.segments(), tiles }
    }

    /// What is scored; the further ids of the batch where they are wanted.
    pub(crate) fn targets<'a>(&'a self, packed: &'a Packed, with_given: bool) -> Targets<'a> {
        let given = |given: View<'a, u32>| if with_given { given } else { View::from(&[][..]) };
        match &self.copies {
            None => Targets::new(&self.rows, &self.ids, if with_given { packed.given() } else { &[] }),
            Some(copies) => Targets {
                rows: copies.view(&copies.places.target_rows),
                ids: copies.view(&copies.places.target_ids),
                given: given(copies.view(&copies.places.given)),
                by_row: copies.places.by_row.as_ref().map(|places| copies.buckets(places)),
            },
        }
    }

    /// The rows of each id, where they are on a device.
    pub(crate) fn by_id(&self) -> Option<BucketViews<'_>> {
        let copies = self.copies.as_ref()?;
        copies.places.by_id.as_ref().map(|places| copies.buckets(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{CompletionIds, ContextIds};

    fn laid_out(reads: Reads) -> (Places, Vec<u32>) {
        let completions = vec![CompletionIds::all_scored(&[5, 6]), CompletionIds::all_scored(&[6])];
        let packed = Packed::new(&[ContextIds { prompt: &[1, 7, 7], prompt_scored: &[], completions }]).unwrap();
        let tiles = Tiles::of(packed.segments(), packed.tokens()).unwrap();
        let (rows, ids): (Vec<_>, Vec<_>) = packed.targets().iter().map(|t| (t.hidden_row, t.id)).unzip();
        Places::of(&packed, &rows, &ids, &tiles, reads)
    }

    #[test]
    fn a_pass_copies_what_it_reads_and_nothing_else() {
        let forward = Reads { targets: false, backward: false, rows_of_ids: false };
        let (places, words) = laid_out(Reads { targets: true, backward: true, rows_of_ids: true });
        let parts = [&places.ids, &places.positions, &places.target_rows, &places.target_ids];
        let expected: [&[u32]; 4] = [&[1, 7, 7, 5, 6, 6], &[0, 1, 2, 3, 4, 3], &[2, 3, 2], &[5, 6, 6]];
        assert_eq!(parts.map(|place| &words[place.clone()]), expected);
        assert!(parts.iter().all(|place| place.start.is_multiple_of(LINE)));
        assert!(!places.tile_keys.is_empty() && !places.tile_ranges.is_empty());
        let buckets = |BucketPlaces { ids, starts, members }: &BucketPlaces| {
            [ids, starts, members].map(|place| words[place.clone()].to_vec())
        };
        assert_eq!(buckets(places.by_row.as_ref().unwrap()), [vec![2, 3], vec![0, 2, 3], vec![0, 2, 1]]);
        let [ids, starts, members] = buckets(places.by_id.as_ref().unwrap());
        assert_eq!((ids, starts, members), (vec![1, 5, 6, 7], vec![0, 1, 2, 4, 6], vec![0, 3, 4, 5, 1, 2]));

        let (scored, fewer) = laid_out(Reads { targets: true, ..forward });
        assert!(scored.by_row.is_none() && scored.by_id.is_none() && scored.tile_keys.is_empty());
        assert_eq!(fewer[..scored.tile_queries.end], words[..places.tile_queries.end]);
        assert_eq!((scored.target_rows.len(), scored.target_ids.len()), (3, 3));
        let (states, fewest) = laid_out(forward);
        assert!(states.target_rows.is_empty() && states.target_ids.is_empty());
        assert!(fewest.len() < fewer.len() && fewer.len() < words.len());
    }
}
