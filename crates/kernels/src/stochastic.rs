//! Rounding to bf16 up or down by chance, with the numbers of a generator that keeps no state.
use half::bf16;

/// Numbers for the elements of one step, each decided by the seed, the step and the element's index alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// Of the buffer.
    pub seed: u64,
    /// From 1.
    pub step: u64,
}

/// Elements that share a counter.
pub(crate) const BLOCK: u64 = 4;

impl Draws {
    /// The numbers of the elements from `4·block` to `4·block + 3`.
    pub(crate) fn of_block(self, block: u64) -> [u32; 4] {
        let ([b0, b1], [s0, s1]) = (halves(block), halves(self.step));
        philox4x32([b0, b1, s0, s1], halves(self.seed))
    }
}

/// One of the two neighbours of `x` in bf16, which on average is `x`: as often the upper one as `x` is near to it.
/// Values that bf16 holds stay, infinities among them, and what is finite stays so.
///
/// Dropping the low 16 bits of an `f32` rounds towards zero; adding 16 random bits before carries over with the
/// wanted probability.
pub(crate) fn round(x: f32, word: u32) -> bf16 {
    const LARGEST: u32 = 0x7f7f_0000;
    let (sign, size) = (x.to_bits() & 0x8000_0000, x.to_bits() & 0x7fff_ffff);
    if x.is_nan() {
        return bf16::from_bits(0x7fff);
    }
    let rounded = if x.is_finite() { (size + (word >> 16)).min(LARGEST | 0xffff) } else { size };
    bf16::from_bits(((sign | rounded) >> 16) as u16)
}

/// Philox4x32-10: a bijection of 128 bits for every key, whose outputs of consecutive counters pass as random.
///
/// After Salmon, Moraes, Dror and Shaw, “Parallel random numbers: as easy as 1, 2, 3” (SC 2011).
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for _ in 0..10 {
        let [c0, c1, c2, c3] = counter;
        let [low0, high0] = halves(MULTIPLIERS[0] * u64::from(c0));
        let [low1, high1] = halves(MULTIPLIERS[1] * u64::from(c2));
        counter = [high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The low word, then the high one.
fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123 (`kat_vectors`).
    #[test]
    fn the_generator_gives_the_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox4x32(pi, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn seed_step_and_block_are_all_of_their_bits() {
        let draws = |seed, step, block| Draws { seed, step }.of_block(block);
        let first = draws(1, 1, 1);
        for other in [draws(1 << 32, 1, 1), draws(1, 1 << 32, 1), draws(1, 1, 1 << 32), draws(2, 1, 1)] {
            assert_ne!(other, first);
        }
        assert_eq!(draws(1, 1, 1), first);
    }

    #[test]
    fn the_mean_of_rounded_values_is_the_value() {
        // 1 + k/16 of the way to its upper neighbour, a tiny number, and a large negative one.
        let (step, ulp) = (Draws { seed: 7, step: 3 }, 2f64.powi(-7));
        let share = |part: f64| (1.0 + part * ulp) as f32;
        let tiny = f32::from_bits(0x0000_5000);
        for (x, lower, upper) in [
            (share(1.0 / 16.0), 1.0, 1.0 + ulp),
            (share(0.5), 1.0, 1.0 + ulp),
            (share(0.9), 1.0, 1.0 + ulp),
            (-3.0e30, -2.990_923_7e30, -3.010_728_8e30),
            (tiny, 0.0, f64::from(f32::from_bits(0x0001_0000))),
        ] {
            let words = (0..50_000).flat_map(|block| step.of_block(block));
            let (lower, upper) = (bf16::from_f64(lower), bf16::from_f64(upper));
            let mut ups = 0;
            for word in words {
                let rounded = round(x, word);
                assert!(rounded == lower || rounded == upper, "{x}: {rounded}");
                ups += i32::from(rounded == upper);
            }
            let expected = (f64::from(x) - lower.to_f64()) / (upper.to_f64() - lower.to_f64());
            let deviation = (expected * (1.0 - expected) / 200_000.0).sqrt();
            let got = f64::from(ups) / 200_000.0;
            assert!((got - expected).abs() < 4.0 * deviation, "{x}: {got}, expected {expected} ± {deviation}");
        }
    }

    #[test]
    fn what_bf16_holds_stays_and_what_is_finite_stays_so() {
        for bits in 0..=u16::MAX {
            let x = bf16::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(round(x.to_f32(), !0).to_bits(), bits);
            }
        }
        assert!(round(f32::NAN, 5).is_nan() && round(-f32::from_bits(0x7f80_0001), !0).is_nan());
        assert_eq!(round(f32::MAX, !0), bf16::MAX);
        assert_eq!(round(f32::MIN, !0), bf16::MIN);
    }
}
