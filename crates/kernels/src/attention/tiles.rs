//! Who attends to whom, cut into the tiles of work of a device.
use super::segment::{self, Block, Segment};
use crate::{Error, Result, View};

/// Query rows of a tile.
pub(super) const QUERIES: usize = 128;
/// Key rows of a tile.
pub(super) const KEYS: usize = 128;
/// Twice a number of rows, and of what may be beyond them in a tile, has 32 bits.
const MOST_ROWS: usize = 1 << 30;
/// Numbers that say what a tile of queries is, a tile of keys, and a range of queries.
pub(super) const QUERY_TILE: usize = 5;
pub(super) const KEY_TILE: usize = 5;
pub(super) const QUERY_RANGE: usize = 3;

/// Tiles of queries and of keys, made on the host once for a batch.
///
/// A prompt, and a completion behind the prompt that it shares, is each a sequence of its own: its keys have numbers from 0 on, first those
/// of the prompt, and the query of number i sees the keys up to number i. So kernels know plain causal attention alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of all segments and between them, N.
    pub rows: usize,
    /// Rows of segments.
    pub covered: usize,
    /// At most 128 rows of one sequence that are queries, `[Q, 5]`, the tiles with the most work first: the first row, the number of rows,
    /// the sequence's own first row, the first of its prompt, and the number of the prompt's rows.
    pub queries: Vec<u32>,
    /// At most 128 rows that are keys, `[K, 5]`, the tiles with the most work first: the first row, the number of rows, the number of the
    /// first key in every sequence that has it, and where those sequences' queries begin and end in `ranges`.
    pub keys: Vec<u32>,
    /// Queries of one sequence that may see the keys of a tile, `[R, 3]`: the first row, the row behind the last, and the number of the first
    /// in its sequence.
    pub ranges: Vec<u32>,
}

/// [`Tiles`] where the operands are.
#[derive(Debug, Clone, Copy)]
pub struct TileViews<'a> {
    /// See [`Tiles::rows`].
    pub rows: usize,
    /// See [`Tiles::covered`].
    pub covered: usize,
    /// See [`Tiles::queries`].
    pub queries: View<'a, u32>,
    /// See [`Tiles::keys`].
    pub keys: View<'a, u32>,
    /// See [`Tiles::ranges`].
    pub ranges: View<'a, u32>,
}

impl Tiles {
    /// The tiles of segments among `rows` rows.
    ///
    /// # Errors
    /// Segments that overlap or leave the rows, 2³⁰ rows or more.
    pub fn of(segments: &[Segment], rows: usize) -> Result<Self> {
        const OP: &str = "attention::Tiles::of";
        segment::check(OP, segments, rows, &mut Vec::new())?;
        if rows >= MOST_ROWS {
            return Err(Error::Shape { op: OP, reason: format!("there are {rows} rows, expected fewer than 2³⁰") });
        }
        let blocks = || segments.iter().flat_map(Segment::blocks);
        let mut queries: Vec<_> = blocks().flat_map(query_tiles).collect();
        queries.sort_by_key(|tile| std::cmp::Reverse(tile.work));
        let mut keys: Vec<_> = segments.iter().flat_map(key_tiles).collect();
        keys.sort_by_key(|tile| std::cmp::Reverse(tile.work));
        let mut tiles = Self {
            rows,
            covered: blocks().map(|block| block.own.len()).sum(),
            queries: queries.iter().flat_map(|tile| tile.words).map(number).collect(),
            keys: Vec::with_capacity(KEY_TILE * keys.len()),
            ranges: Vec::new(),
        };
        for KeyTile { first, count, index, ranges, .. } in keys {
            let begin = tiles.ranges.len() / QUERY_RANGE;
            let end = begin + ranges.len();
            tiles.keys.extend([first, count, index, begin, end].map(number));
            tiles.ranges.extend(ranges.into_iter().flatten().map(number));
        }
        Ok(tiles)
    }

    /// As operands on the CPU.
    pub fn views(&self) -> TileViews<'_> {
        self.views_of((&self.queries).into(), (&self.keys).into(), (&self.ranges).into())
    }

    /// As operands on a device, given copies of `queries`, `keys` and `ranges` there.
    pub fn views_of<'a>(&self, queries: View<'a, u32>, keys: View<'a, u32>, ranges: View<'a, u32>) -> TileViews<'a> {
        TileViews { rows: self.rows, covered: self.covered, queries, keys, ranges }
    }
}

struct QueryTile {
    words: [usize; QUERY_TILE],
    /// Keys that the last row sees, for each row.
    work: usize,
}

fn query_tiles(block: Block) -> impl Iterator<Item = QueryTile> {
    let Block { own, shared } = block;
    own.clone().step_by(QUERIES).map(move |first| {
        let count = QUERIES.min(own.end - first);
        let keys = shared.len() + first + count - own.start;
        QueryTile { words: [first, count, own.start, shared.start, shared.len()], work: keys * count }
    })
}

struct KeyTile {
    first: usize,
    count: usize,
    index: usize,
    ranges: Vec<[usize; QUERY_RANGE]>,
    /// Rows of all ranges.
    work: usize,
}

fn key_tiles(segment: &Segment) -> impl Iterator<Item = KeyTile> + '_ {
    segment.blocks().flat_map(move |Block { own, shared }| {
        // Nobody but a prompt's completions sees rows of another sequence.
        let seen_by = if own == segment.prompt { &segment.completions[..] } else { &[] };
        own.clone().step_by(KEYS).map(move |first| {
            let index = shared.len() + first - own.start;
            let others = seen_by.iter().filter(|rows| !rows.is_empty());
            let ranges: Vec<_> = std::iter::once([first, own.end, index])
                .chain(others.map(|rows| [rows.start, rows.end, segment.prompt.len()]))
                .collect();
            let work = ranges.iter().map(|[first, end, _]| end - first).sum();
            KeyTile { first, count: KEYS.min(own.end - first), index, ranges, work }
        })
    })
}

fn number(row: usize) -> u32 {
    u32::try_from(row).expect("there are fewer than 2³⁰ rows")
}
