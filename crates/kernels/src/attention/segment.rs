//! Who attends to whom.
use std::ops::Range;

use super::refuse;
use crate::Result;

/// A prompt and its completions, as ranges of rows. Any of them may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segment {
    /// Rows of the prompt.
    pub prompt: Range<usize>,
    /// Rows of each completion; each sees the prompt and itself, and nothing of the others.
    pub completions: Vec<Range<usize>>,
}

impl Segment {
    /// The prompt's block, then those of the completions.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let prompt = Block { own: self.prompt.clone(), shared: self.prompt.start..self.prompt.start };
        let completions = self.completions.iter().map(|own| Block { own: own.clone(), shared: self.prompt.clone() });
        std::iter::once(prompt).chain(completions).filter(|block| !block.own.is_empty())
    }
}

/// Rows that see each other causally, and rows that all of them see.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(super) own: Range<usize>,
    pub(super) shared: Range<usize>,
}

impl Block {
    /// Keys that the last row sees.
    pub(super) fn keys(&self) -> usize {
        self.shared.len() + self.own.len()
    }
}

/// Fills `blocks` with the blocks of all segments, in order, and refuses those that leave the rows or share one.
pub(super) fn check(op: &'static str, segments: &[Segment], rows: usize, blocks: &mut Vec<Block>) -> Result<()> {
    blocks.clear();
    for (i, segment) in segments.iter().enumerate() {
        for range in std::iter::once(&segment.prompt).chain(&segment.completions) {
            if range.start > range.end || range.end > rows {
                return refuse(
                    op,
                    format!("segment {i} has the rows {range:?}, expected a range within the {rows} rows"),
                );
            }
        }
        blocks.extend(segment.blocks());
    }
    // Sorted by first row, ranges that share a row are neighbours.
    blocks.sort_unstable_by_key(|block| block.own.start);
    for pair in blocks.windows(2) {
        let (a, b) = (&pair[0].own, &pair[1].own);
        if a.end > b.start {
            return refuse(
                op,
                format!("the rows {a:?} and {b:?} overlap; expected each row in one prompt or completion"),
            );
        }
    }
    Ok(())
}
