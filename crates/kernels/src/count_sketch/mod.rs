//! Count sketches of gradients: short vectors whose inner products are, on average, those of what they were made of.
//!
//! With k dimensions, `s[b] = Σ sign(i)·g[i]` over the elements i that hash to the bucket b (Charikar, Chen and
//! Farach-Colton, "Finding frequent items in data streams", ICALP 2002; for inner products, as "feature hashing",
//! Weinberger et al. 2009, arXiv 0902.2206). It is linear in g, costs one addition an element whatever k is, and keeps no
//! random matrix: buckets and signs are computed from the name of the tensor.
mod cpu;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// Most dimensions of a [`Projection`]: beyond it 32 bits no longer choose a bucket evenly.
pub const MOST_DIMENSIONS: usize = 1 << 24;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where the elements of one tensor go, and with which signs.
///
/// Element i (row-major, from 0) has the hash h, the output number i of `SplitMix64` whose state begins at `mix(n ^ mix(seed +
/// g))`: n is the FNV-1a hash (64 bits) of the UTF-8 name, g = 0x9e3779b97f4a7c15 the generator's increment, `mix` its
/// output function, and additions wrap. Its bucket is `((h >> 32)·dimensions) >> 32`, its sign negative where h is odd.
/// That will not change, since sketches are kept and compared later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projection {
    key: u64,
    dimensions: usize,
}

impl Projection {
    /// The projection of the tensor called `name` to `dimensions` numbers, one of many by `seed`.
    ///
    /// # Errors
    /// No dimension, or more than [`MOST_DIMENSIONS`].
    pub fn new(name: &str, seed: u64, dimensions: usize) -> Result<Self> {
        check::shape("count_sketch", (1..=MOST_DIMENSIONS).contains(&dimensions), || {
            format!("a sketch of {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}")
        })?;
        let name = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(Self { key: mix(name ^ mix(seed.wrapping_add(GOLDEN))), dimensions })
    }

    /// How many numbers a sketch has.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The bucket of element `i`, and +1 or −1.
    pub fn place(&self, i: usize) -> (usize, f64) {
        let hash = hash(self.key, i as u64);
        (bucket(hash, self.dimensions), signed(1.0, hash))
    }
}

/// The sizes of a sum of outer products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of `u` and `v`, `[N]`.
    pub rows: usize,
    /// Columns of `u`, rows of the tensor, `[L]`.
    pub left: usize,
    /// Columns of `v` and of the tensor, `[R]`.
    pub right: usize,
}

/// out\[i\] += the sketch of scale·Σ over the rows t of item i of u\[t\]ᵀ·v\[t\].
///
/// `u` `[N, L]`, `v` `[N, R]`; `items` `[I]` are ranges of rows; the tensors that are sketched are `[L, R]`; `out`
/// `[I, dimensions]` accumulates. One tensor a thread exists at a time, in `T`; it is added up in `f64`. The result is the
/// same for every number of threads. N·L·R multiplications and I·L·R additions.
///
/// # Errors
/// A length that is not its shape's, a range that is not inside, operands that are not on the CPU.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn outer_products<T: Float>(
    u: View<'_, T>,
    v: View<'_, T>,
    items: &[Range<usize>],
    projection: Projection,
    scale: T,
    out: ViewMut<'_, f64>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "count_sketch::outer_products";
    check::length(OP, "u", u.len(), &[shape.rows, shape.left], "rows × left")?;
    check::length(OP, "v", v.len(), &[shape.rows, shape.right], "rows × right")?;
    check::length(OP, "out", out.len(), &[items.len(), projection.dimensions], "items × dimensions")?;
    if let Some(odd) = items.iter().find(|item| item.start > item.end || item.end > shape.rows) {
        check::shape(OP, false, || format!("an item has the rows {odd:?}, expected a range within {}", shape.rows))?;
    }
    cpu::outer_products(u.cpu(OP)?, v.cpu(OP)?, items, projection, scale, out.cpu(OP)?, shape, ws);
    Ok(())
}

/// out += the sketch of x, elements in order.
///
/// `x` of any length, `out` `[dimensions]` accumulates.
///
/// # Errors
/// `out` of another length, operands that are not on the CPU.
pub fn dense<T: Float>(x: View<'_, T>, projection: Projection, out: ViewMut<'_, f64>) -> Result<()> {
    const OP: &str = "count_sketch::dense";
    check::length(OP, "out", out.len(), &[projection.dimensions], "dimensions")?;
    cpu::scatter(x.cpu(OP)?, projection.key, out.cpu(OP)?);
    Ok(())
}

#[inline(always)]
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[inline(always)]
fn hash(key: u64, i: u64) -> u64 {
    mix(key.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
}

#[inline(always)]
fn bucket(hash: u64, dimensions: usize) -> usize {
    (((hash >> 32) * dimensions as u64) >> 32) as usize
}

#[inline(always)]
fn signed(x: f64, hash: u64) -> f64 {
    f64::from_bits(x.to_bits() ^ (hash << 63))
}
