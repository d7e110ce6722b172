//! DARE: drop elements of a task vector at random, and enlarge the rest by as much.
//!
//! Yu et al. 2023, arXiv 2311.03099.
//!
//! # The draw
//! Whether an element is kept follows from the seed, the position of the model among those that are merged, the name of
//! the tensor and the position of the element, and from nothing else. With `mix` the finaliser of SplitMix64 and all
//! sums modulo 2⁶⁴:
//!
//! ```text
//! key = mix(mix(seed) + model) + FNV-1a(name)
//! kept where mix(key + (element + 1) · 0x9E3779B97F4A7C15) >> 11  <  density · 2⁵³
//! ```

/// Sets elements to zero, each with probability `1 − density`, and where they are to `rescale` divides the others by
/// `density`.
///
/// `model` counts from 0; `tensor` is the tensor's name.
pub fn drop_out(delta: &mut [f64], density: f64, rescale: bool, seed: u64, model: usize, tensor: &str) {
    let key = mix(mix(seed).wrapping_add(model as u64)).wrapping_add(fnv(tensor));
    let factor = if rescale { 1.0 / density } else { 1.0 };
    let mut state = key;
    for x in delta {
        state = state.wrapping_add(GOLDEN);
        let draw = (mix(state) >> 11) as f64;
        *x = if draw < density * TWO_TO_53 { *x * factor } else { 0.0 };
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// 2⁶⁴ divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const TWO_TO_53: f64 = 9_007_199_254_740_992.0;
