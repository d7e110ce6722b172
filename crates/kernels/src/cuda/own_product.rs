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
/// From so many large tiles on they are faster: about as many as a large device has multiprocessors.
const LARGE_TILES: usize = 128;
/// Where there are fewer small tiles than this, each is made in parts, until there are as many or a part is this deep. These are
/// constants, so that a product has the same bits on every device.
const PARTS: usize = 256;
const LEAST_PART: usize = 256;
/// The depth of parts is a multiple of that of a kernel's steps.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_of(m: usize, n: usize, k: usize, factors: Kind, stride: usize) -> (usize, usize) {
        let place = Place { address: 256, stride, is_transposed: false };
        let (size, c) = (Size { m, n, k }, place);
        cut(&Product { size, a: place, b: place, c, factors, result: factors, scale: 1.0, accumulate: false })
    }

    #[test]
    fn tiles_are_large_or_enough_parts_of_small_ones() {
        let bf16 = Kind::Bf16;
        assert_eq!(cut_of(16_384, 4_096, 4_096, bf16, 4_096), (128, 4_096));
        // Rows that do not begin on packs, or another type.
        assert_eq!(cut_of(16_384, 4_096, 4_096, bf16, 4_097), (64, 4_096));
        assert_eq!(cut_of(16_384, 4_096, 4_096, Kind::F32, 4_096), (64, 4_096));
        // The gradient of a LoRA factor: 64 tiles in 4 parts.
        assert_eq!(cut_of(16, 4_096, 16_384, bf16, 4_096), (64, 4_096));
        // One tile, of a depth that is no multiple of steps: 3 parts of 288, the last of which ends with the depth.
        assert_eq!(cut_of(8, 8, 801, bf16, 808), (64, 288));
        assert_eq!(cut_of(8, 8, 7, bf16, 8), (64, 32));
    }
}
