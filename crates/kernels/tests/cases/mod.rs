//! Every op that has a CUDA kernel, with what it has to come to: the tests of `tests/emulation` and of `tests/gpu` alike. Each of
//! the two has a `harness` that says what runs the cases and at which sizes.
use candlewick_kernels::{Cuda, Element, Result};

// One line a kernel: its tests then run in the emulation and on devices.
mod adamw;
mod attention;
mod clip;
mod elementwise;
mod linear;
mod lora;
mod memory;
mod optimizers;
mod product;
mod refusals;
mod rms_norm;
mod running_mean;
mod segment_sum;
mod survey;
mod token_log_probs;

/// An element type that tests make values of.
pub(crate) trait Sample: Element + PartialEq {
    /// Relative distance that a result in this type may have from one in `f64`.
    const BOUND: f64;
    fn of(value: f64) -> Self;
    fn value(self) -> f64;
}

impl Sample for f32 {
    const BOUND: f64 = 2e-6;
    fn of(value: f64) -> Self {
        value as Self
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Sample for f64 {
    const BOUND: f64 = 1e-13;
    fn of(value: f64) -> Self {
        value
    }
    fn value(self) -> f64 {
        self
    }
}

impl Sample for half::bf16 {
    const BOUND: f64 = 4e-3;
    fn of(value: f64) -> Self {
        // `from_f64` does not look at the low half of the bits, and so takes what is just beyond the middle for a tie.
        Self::from_f32(value as f32)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

/// Numbers in [−1, 1), which `T` holds.
pub(crate) fn numbers<T: Sample>(seed: u64, len: usize) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::of((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn wide<T: Sample>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.value()).collect()
}

/// What an op has written: a name, the numbers, and how far they may be from those of `f64`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<f64>,
    pub(crate) bound: f64,
}

impl Written {
    pub(crate) fn new<T: Sample>(name: &'static str, values: &[T]) -> Self {
        Self { name, values: wide(values), bound: T::BOUND }
    }

    fn has_bits_of(&self, other: &Self) -> bool {
        let bits = |one: &Self| one.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        bits(self) == bits(other)
    }
}

/// What a case does on a device.
pub(crate) type Run = Box<dyn Fn(&Cuda) -> Result<Vec<Written>>>;

/// An op on a device, and what it has to come to.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) run: Run,
    pub(crate) expected: Vec<Vec<f64>>,
}

impl Case {
    /// Why the case fails, if it does: an error, other bits on the second device than on the first, or wrong numbers.
    pub(crate) fn fault(&self, devices: &[Cuda; 2]) -> Option<String> {
        let [first, second] = match devices.each_ref().map(|device| (self.run)(device)) {
            [Ok(first), Ok(second)] => [first, second],
            [Err(error), _] | [_, Err(error)] => return Some(error.to_string()),
        };
        assert_eq!(first.len(), self.expected.len(), "{}: everything is compared", self.name);
        if let Some((one, _)) = first.iter().zip(&second).find(|(one, other)| !one.has_bits_of(other)) {
            return Some(format!("{} has other bits in the second run: a race", one.name));
        }
        first.iter().zip(&self.expected).find_map(|(one, expected)| {
            let distance = distance(&one.values, expected);
            // NaN is no small distance.
            let is_near = distance <= one.bound;
            (!is_near)
                .then(|| format!("{} is {distance:.1e} from what it is in f64, expected {:.0e}", one.name, one.bound))
        })
    }
}

/// Relative, in the Euclidean norm.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "as many numbers");
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = b.iter().map(|b| b.powi(2)).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}
