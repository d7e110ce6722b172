//! The element types of kernels.
use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// What operands on a device may hold: `f32`, `f64`, or `bf16`, which is computed with in `f32`. Sealed.
pub trait Element: sealed::Plain + sealed::Lent + sealed::Multiplied<Sum = <Self as Element>::Wide> {
    /// The type of sums and statistics, and of the arithmetic itself.
    type Wide: Float;
    /// The name of the type, as in the names of CUDA kernels.
    const NAME: &'static str;

    /// The same elements where this is the type of its arithmetic, as the kernels of the CPU want it.
    fn wide(elements: &[Self]) -> Option<&[Self::Wide]>;
    /// As [`Element::wide`], for writing.
    fn wide_mut(elements: &mut [Self]) -> Option<&mut [Self::Wide]>;
    /// The same values in the type of the arithmetic; where they are of that type, the same elements.
    fn widened(elements: Vec<Self>) -> Vec<Self::Wide>;
}

impl Element for half::bf16 {
    type Wide = f32;
    const NAME: &'static str = "bf16";

    fn wide(_elements: &[Self]) -> Option<&[f32]> {
        None
    }

    fn wide_mut(_elements: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    fn widened(elements: Vec<Self>) -> Vec<f32> {
        elements.into_iter().map(Self::to_f32).collect()
    }
}

/// A type that is computed with: `f32` or `f64`. Sealed.
pub trait Float:
    Element<Wide = Self>
    + sealed::Packed
    + Copy
    + Send
    + Sync
    + Default
    + PartialEq
    + PartialOrd
    + Debug
    + Display
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
    /// e to this power.
    fn exp(self) -> Self;
    /// e to this power within 2 units in the last place, in a form that compilers turn into vector code.
    ///
    /// Below the least normal result it is 0; above e⁸⁸ the `f32` form stays at e⁸⁸. NaN stays NaN.
    fn exp_fast(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The absolute value.
    fn abs(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

pub(crate) mod sealed {
    use crate::matmul::{self, Kernel};
    use crate::pages::zeros;
    use crate::shelf::Shelf;
    use crate::{Error, Workspace};

    /// Types that are their bytes, and of which any bytes are one.
    pub trait Plain: Copy + Default + Send + Sync + std::fmt::Debug + 'static {}
    impl Plain for u8 {}
    impl Plain for u32 {}
    impl Plain for u64 {}
    impl Plain for f32 {}
    impl Plain for f64 {}
    impl Plain for half::bf16 {}

    /// The types of elements, where types are values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Kind {
        /// `f32`.
        F32,
        /// `f64`.
        F64,
        /// `bf16`.
        Bf16,
    }

    impl Kind {
        /// The type that products of factors of this type are summed in.
        pub fn sums(self) -> Self {
            match self {
                Self::Bf16 | Self::F32 => Self::F32,
                Self::F64 => Self::F64,
            }
        }
    }

    /// What products on a device need to know of an element type.
    pub trait Multiplied: Sized {
        /// The type of sums.
        type Sum;
        /// Which type it is.
        const KIND: Kind;
        /// The same value.
        fn widen(self) -> Self::Sum;
        /// The nearest value of this type, ties to even.
        fn narrow(sum: Self::Sum) -> Self;
    }

    macro_rules! multiplied {
        ($type:ty, $sum:ty, $kind:ident, $widen:expr, $narrow:expr) => {
            impl Multiplied for $type {
                type Sum = $sum;
                const KIND: Kind = Kind::$kind;

                fn widen(self) -> $sum {
                    $widen(self)
                }

                fn narrow(sum: $sum) -> Self {
                    $narrow(sum)
                }
            }
        };
    }
    multiplied!(f32, f32, F32, std::convert::identity, std::convert::identity);
    multiplied!(f64, f64, F64, std::convert::identity, std::convert::identity);
    multiplied!(half::bf16, f32, Bf16, half::bf16::to_f32, half::bf16::from_f32);

    /// Buffers of the host that a workspace lends.
    pub trait Lent: Sized {
        /// So many zeros.
        fn zeros(len: usize) -> Vec<Self>;
        /// A buffer of the host, of a type that it computes in.
        fn lend(workspace: &mut Workspace, len: usize) -> Result<Vec<Self>, Error>;
        /// Takes it back.
        fn reclaim(workspace: &mut Workspace, buffer: Vec<Self>);
    }

    macro_rules! lent {
        ($($type:ty),*) => {$(
            impl Lent for $type {
                fn zeros(len: usize) -> Vec<Self> {
                    zeros(len)
                }

                fn lend(workspace: &mut Workspace, len: usize) -> Result<Vec<Self>, Error> {
                    Ok(workspace.take(len))
                }

                fn reclaim(workspace: &mut Workspace, buffer: Vec<Self>) {
                    workspace.give_back(buffer);
                }
            }
        )*};
    }
    lent!(f32, f64);

    impl Lent for half::bf16 {
        fn zeros(len: usize) -> Vec<Self> {
            vec![Self::ZERO; len]
        }

        fn lend(_: &mut Workspace, _: usize) -> Result<Vec<Self>, Error> {
            Err(Error::Narrow { op: "Workspace::lend" })
        }

        fn reclaim(_: &mut Workspace, _: Vec<Self>) {}
    }

    /// What the crate needs to know of an element type and nobody else.
    pub trait Packed: Sized {
        /// The buffers of this type among the scratch of a workspace.
        fn buffers(scratch: &mut Scratch) -> &mut Shelf<Vec<Self>>;
        /// The buffer that factors of this type are packed into.
        fn packing(scratch: &mut Scratch) -> &mut Vec<Self>;
        /// How this machine multiplies large matrices, if it has a kernel for them.
        fn kernel() -> Option<&'static Kernel<Self>>;
    }

    /// Free buffers of each element type.
    #[derive(Debug, Default)]
    pub struct Scratch {
        f32: (Shelf<Vec<f32>>, Vec<f32>),
        f64: (Shelf<Vec<f64>>, Vec<f64>),
    }

    impl Packed for f32 {
        fn buffers(scratch: &mut Scratch) -> &mut Shelf<Vec<Self>> {
            &mut scratch.f32.0
        }

        fn packing(scratch: &mut Scratch) -> &mut Vec<Self> {
            &mut scratch.f32.1
        }

        fn kernel() -> Option<&'static Kernel<Self>> {
            matmul::kernel_for_f32()
        }
    }

    impl Packed for f64 {
        fn buffers(scratch: &mut Scratch) -> &mut Shelf<Vec<Self>> {
            &mut scratch.f64.0
        }

        fn packing(scratch: &mut Scratch) -> &mut Vec<Self> {
            &mut scratch.f64.1
        }

        fn kernel() -> Option<&'static Kernel<Self>> {
            None
        }
    }
}

macro_rules! float {
    ($type:ident, $exp_fast:expr) => {
        impl Element for $type {
            type Wide = Self;
            const NAME: &'static str = stringify!($type);

            fn wide(elements: &[Self]) -> Option<&[Self]> {
                Some(elements)
            }

            fn wide_mut(elements: &mut [Self]) -> Option<&mut [Self]> {
                Some(elements)
            }

            fn widened(elements: Vec<Self>) -> Vec<Self> {
                elements
            }
        }

        impl Float for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = Self::NEG_INFINITY;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                self.exp()
            }
            #[inline(always)]
            fn exp_fast(self) -> Self {
                $exp_fast(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                self.ln()
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

float!(f32, exp_f32);
float!(f64, f64::exp);

/// e^x = 2ⁿ·e^r with n = round(x/ln 2) and |r| ≤ ln 2 / 2; e^r by the polynomial of Cephes' `expf`.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const SMALLEST: f32 = -87.3;
    const LARGEST: f32 = 88.0;
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < SMALLEST { SMALLEST } else { x };
    let clamped = if clamped > LARGEST { LARGEST } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e_r = p * r * r + r + 1.0;
    let two_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < SMALLEST { 0.0 } else { e_r * two_n }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "results that are exact")]
mod tests {
    use super::*;

    #[test]
    fn fast_exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..=1_000_000 {
            let x = -87.2 + 175.0 * (i as f32) / 1e6;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(x.exp_fast()) - exact) / exact).abs());
        }
        assert!(worst < 2.4e-7, "{worst}");
    }

    #[test]
    fn fast_exp_at_the_edges() {
        assert_eq!(0.0f32.exp_fast(), 1.0);
        assert_eq!((-1e4f32).exp_fast(), 0.0);
        assert_eq!(f32::NEG_INFINITY.exp_fast(), 0.0);
        assert!(f32::NAN.exp_fast().is_nan());
        assert!(1e4f32.exp_fast().is_finite());
    }
}
