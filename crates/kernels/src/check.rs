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

/// Refuses a decay that is not in [0, 1).
pub(crate) fn fraction(op: &'static str, name: &str, value: f64) -> Result<()> {
    shape(op, (0.0..1.0).contains(&value), || format!("{name} is {value}, expected at least 0 and below 1"))
}

/// Refuses to count steps from 0.
pub(crate) fn counted(op: &'static str, step: u64) -> Result<()> {
    shape(op, step > 0, || "step is 0, expected to count from 1".into())
}
