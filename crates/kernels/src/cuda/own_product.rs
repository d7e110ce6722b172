//! Launches of the kernels in `product.cu`.
use super::Cuda;
use super::call::{Call, Grid};
use super::product::{Place, Product};
use crate::Result;
use crate::float::sealed::Kind;
use crate::matmul::Size;

/// Sides of the tiles of the result that a block makes.
const SIDE: usize = 128;
const SMALL_SIDE: usize = 64;
/// How many of the small tiles' parts are made at once where there are few of them, and the least depth of a part. Constants, so that a
/// product has the same bits on every device.
const PARTS: usize = 256;
const LEAST_PART: usize = 256;
/// Large tiles are worth their while from this number on: about as many as a large device has multiprocessors.
const LARGE_TILES: usize = 128;
/// Parts begin where packs of a factor do, and tiles' steps along the depth.
const STEP: usize = 32;
/// Threads of the kernels that make one element, or a few, each.
const THREADS: usize = 256;

/// See [`super::product::product`]: neither of the result's sides is 0, nor is the depth.
pub(super) fn multiply(op: &'static str, device: &Cuda, product: &Product) -> Result<()> {
    let Size { m, n, k } = product.size;
    let (side, part) = cut(product);
    let parts = k.div_ceil(part);
    if parts == 1 {
        return launch(op, device, product, side, part);
    }
    let sums = product.factors.sums();
    // Of the device's pool, which keeps what is freed for the next product.
    let scratch = device.unwritten::<u8>(parts * m * n * bytes(sums))?;
    let c = Place { address: scratch.address(0), stride: n, is_transposed: false };
    launch(op, device, &Product { c, result: sums, scale: 1.0, accumulate: false, ..*product }, side, part)?;
    Call::new(op, device)
        .word(scratch.address(0))
        .word(product.c.address)
        .index(product.c.stride)
        .flag(product.accumulate)
        .double(product.scale)
        .index(m)
        .index(n)
        .index(parts)
        .launch(&format!("product_sum_parts_{}", name(product.result)), Grid::line((m * n).div_ceil(THREADS), THREADS))
}

/// The side of tiles, and the depth that one block goes along.
fn cut(product: &Product) -> (usize, usize) {
    let Size { m, n, k } = product.size;
    let tiles = |side: usize| m.div_ceil(side) * n.div_ceil(side);
    let is_large = m > SMALL_SIDE && n > SMALL_SIDE && tiles(SIDE) >= LARGE_TILES;
    if is_large && product.factors == Kind::Bf16 && are_packed(product) {
        return (SIDE, k);
    }
    let parts = (PARTS / tiles(SMALL_SIDE)).clamp(1, (k / LEAST_PART).max(1));
    (SMALL_SIDE, k.div_ceil(parts).next_multiple_of(STEP))
}

/// Makes every part of `part` along the depth, the parts' results one after the other.
fn launch(op: &'static str, device: &Cuda, product: &Product, side: usize, part: usize) -> Result<()> {
    let Product { size: Size { m, n, k }, a, b, c, factors, result, scale, accumulate } = *product;
    let blocks = [(m.div_ceil(side) * n.div_ceil(side)) as u32, k.div_ceil(part) as u32, 1];
    let (call, kernel, threads) = if factors == Kind::Bf16 {
        let layout = |place: Place| if place.is_transposed { 't' } else { 'n' };
        let prefix = if are_packed(product) { "packed_" } else { "" };
        let call = Call::new(op, device)
            .word(a.address)
            .index(a.stride)
            .word(b.address)
            .index(b.stride)
            .word(c.address)
            .index(c.stride)
            .flag(is_packed(c, result) && (n * bytes(result)).is_multiple_of(16))
            .flag(result != factors);
        (call, format!("product_bf16_{prefix}{}{}_{side}", layout(a), layout(b)), 2 * side)
    } else {
        // Elements from a row to the next, and from a column.
        let steps = |place: Place| if place.is_transposed { (1, place.stride) } else { (place.stride, 1) };
        let ((a_rows, a_depth), (b_depth, b_columns)) = (steps(a), steps(b));
        let call = Call::new(op, device).word(a.address).index(a_rows).index(a_depth);
        let call = call.word(b.address).index(b_columns).index(b_depth).word(c.address).index(c.stride);
        (call, format!("product_{}", name(factors)), THREADS)
    };
    let call = call.flag(accumulate).double(scale).index(m).index(n).index(k).index(part);
    call.launch(&kernel, Grid { blocks, threads: [threads as u32, 1, 1], shared_bytes: 0 })
}

/// Whether rows begin on packs of 16 bytes.
fn is_packed(place: Place, kind: Kind) -> bool {
    place.address.is_multiple_of(16) && (place.stride * bytes(kind)).is_multiple_of(16)
}

fn are_packed(product: &Product) -> bool {
    is_packed(product.a, product.factors) && is_packed(product.b, product.factors)
}

fn bytes(kind: Kind) -> usize {
    match kind {
        Kind::F64 => 8,
        Kind::F32 => 4,
        Kind::Bf16 => 2,
    }
}

/// The type, as names of kernels have it.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::F64 => "f64",
        Kind::F32 => "f32",
        Kind::Bf16 => "bf16",
    }
}
