//! What kernels read of a batch beside numbers: ids, positions, who attends to whom, where targets are. On a device they read copies.
use candlewick_kernels::attention::{Layout, Tiles};
use candlewick_kernels::embedding::{BucketViews, Buckets};
use candlewick_kernels::token_log_probs::Targets;
use candlewick_kernels::{Cuda, CudaBuffer, View};

use crate::error::Result;
use crate::packed::Packed;

/// A batch where the ops of a pass read it.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Of each target: the row of its hidden state, and its id.
    rows: Vec<u32>,
    ids: Vec<u32>,
    copies: Option<Copies>,
}

/// Copies on a device.
#[derive(Debug)]
struct Copies {
    ids: CudaBuffer<u32>,
    positions: CudaBuffer<u32>,
    tiles: Tiles,
    tile_queries: CudaBuffer<u32>,
    tile_keys: CudaBuffer<u32>,
    tile_ranges: CudaBuffer<u32>,
    target_rows: CudaBuffer<u32>,
    target_ids: CudaBuffer<u32>,
    given: CudaBuffer<u32>,
    /// The rows of each id, for the gradient of the embedding.
    by_id: BucketCopies,
    /// The targets of each row, for the gradient of the hidden states.
    by_row: BucketCopies,
}

#[derive(Debug)]
struct BucketCopies {
    ids: CudaBuffer<u32>,
    starts: CudaBuffer<u32>,
    members: CudaBuffer<u32>,
}

impl BucketCopies {
    fn of(ids: &[u32], device: &Cuda) -> Result<Self> {
        let Buckets { ids, starts, members } = Buckets::of(ids);
        let (ids, starts, members) = (device.upload(&ids)?, device.upload(&starts)?, device.upload(&members)?);
        Ok(Self { ids, starts, members })
    }

    fn views(&self) -> BucketViews<'_> {
        BucketViews { ids: self.ids.view(), starts: self.starts.view(), members: self.members.view() }
    }
}

impl Staged {
    /// The batch for ops on `device`, or on the host.
    pub(crate) fn new(packed: &Packed, device: Option<&Cuda>) -> Result<Self> {
        let (rows, ids): (Vec<_>, Vec<_>) =
            packed.targets().iter().map(|target| (target.hidden_row, target.id)).unzip();
        let copies = device.map(|device| Copies::of(packed, &rows, &ids, device)).transpose()?;
        Ok(Self { rows, ids, copies })
    }

    /// The ids of the computed rows.
    pub(crate) fn ids<'a>(&'a self, packed: &'a Packed) -> View<'a, u32> {
        self.copies.as_ref().map_or_else(|| packed.ids().into(), |copies| copies.ids.view())
    }

    /// The position of each computed row.
    pub(crate) fn positions<'a>(&'a self, packed: &'a Packed) -> View<'a, u32> {
        self.copies.as_ref().map_or_else(|| packed.positions().into(), |copies| copies.positions.view())
    }

    /// Who attends to whom.
    pub(crate) fn layout<'a>(&'a self, packed: &'a Packed) -> Layout<'a> {
        let tiles = self.copies.as_ref().map(|copies| {
            let (queries, keys, ranges) = (&copies.tile_queries, &copies.tile_keys, &copies.tile_ranges);
            copies.tiles.views_of(queries.view(), keys.view(), ranges.view())
        });
        Layout { segments: packed.segments(), tiles }
    }

    /// What is scored; the further ids of the batch where they are wanted.
    pub(crate) fn targets<'a>(&'a self, packed: &'a Packed, with_given: bool) -> Targets<'a> {
        let given = |given: View<'a, u32>| if with_given { given } else { View::from(&[][..]) };
        match &self.copies {
            None => Targets::new(&self.rows, &self.ids, if with_given { packed.given() } else { &[] }),
            Some(copies) => Targets {
                rows: copies.target_rows.view(),
                ids: copies.target_ids.view(),
                given: given(copies.given.view()),
                by_row: Some(copies.by_row.views()),
            },
        }
    }

    /// The rows of each id, where they are on a device.
    pub(crate) fn by_id(&self) -> Option<BucketViews<'_>> {
        self.copies.as_ref().map(|copies| copies.by_id.views())
    }
}

impl Copies {
    fn of(packed: &Packed, rows: &[u32], ids: &[u32], device: &Cuda) -> Result<Self> {
        let tiles = Tiles::of(packed.segments(), packed.tokens())?;
        Ok(Self {
            ids: device.upload(packed.ids())?,
            positions: device.upload(packed.positions())?,
            tile_queries: device.upload(&tiles.queries)?,
            tile_keys: device.upload(&tiles.keys)?,
            tile_ranges: device.upload(&tiles.ranges)?,
            tiles,
            target_rows: device.upload(rows)?,
            target_ids: device.upload(ids)?,
            given: device.upload(packed.given())?,
            by_id: BucketCopies::of(packed.ids(), device)?,
            by_row: BucketCopies::of(rows, device)?,
        })
    }
}
