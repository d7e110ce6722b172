//! Checks of lengths and indices, made by every op before it touches an output.
use crate::{Error, Result};

/// Refuses an operand whose length is not the product of its dimensions.
pub(crate) fn length(
    op: &'static str,
    operand: &'static str,
    got: usize,
    dimensions: &[usize],
    dims: &'static str,
) -> Result<()> {
    let expected = dimensions.iter().fold(1usize, |product, &d| product.saturating_mul(d));
    if got == expected { Ok(()) } else { Err(Error::Length { op, operand, got, expected, dims }) }
}

/// Refuses an index that is not below `limit`.
pub(crate) fn indices(op: &'static str, operand: &'static str, ids: &[u32], limit: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= limit) {
        None => Ok(()),
        Some(position) => Err(Error::Index { op, operand, position, got: ids[position] as usize, limit }),
    }
}

/// Refuses what `reason` describes unless `holds`.
pub(crate) fn shape(op: &'static str, holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Shape { op, reason: reason() }) }
}
