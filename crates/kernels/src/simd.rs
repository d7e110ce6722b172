//! Loops over rows, compiled for the vector units the machine turns out to have.
//!
//! No fused multiply-add is written and every reduction names its lanes, so all compilations give the same bits.
use crate::Float;

/// Lanes of a reduction: one AVX-512 register of `f32`.
const LANES: usize = 16;
/// Elements summed in `T` before the sum is carried on in `f64`.
const BLOCK: usize = 512;

/// Defines functions that are compiled three times (portable, AVX2, AVX-512) and choose at run time.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$t:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<$t: $crate::Float>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$t: $crate::Float>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2")]
                fn avx512<$t: $crate::Float>($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,bmi1,bmi2")]
                fn avx2<$t: $crate::Float>($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` found every feature named above.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use vectorised;

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Portable,
    Avx2,
    Avx512,
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    use std::sync::LazyLock;
    static LEVEL: LazyLock<Level> = LazyLock::new(|| {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (avx2, avx512) {
            (true, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            (false, _) => Level::Portable,
        }
    });
    *LEVEL
}

/// Σ f(i) over `0..n`: [`LANES`] sums in `T` within a block, blocks in `f64`, all in a fixed order.
///
/// Where `f` does more than load and multiply, write its values down first and use [`sum`]: compilers then vectorise both.
#[inline(always)]
pub(crate) fn sum_of<T: Float>(n: usize, mut f: impl FnMut(usize) -> T) -> f64 {
    let mut total = 0.0;
    let mut start = 0;
    while start < n {
        let end = (start + BLOCK).min(n);
        let mut lanes = [T::ZERO; LANES];
        let whole = start + (end - start) / LANES * LANES;
        let mut i = start;
        while i < whole {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += f(i + lane);
            }
            i += LANES;
        }
        for (sum, i) in lanes.iter_mut().zip(whole..end) {
            *sum += f(i);
        }
        total += fold(lanes);
        start = end;
    }
    total
}

/// Σ xᵢ, in the order of [`sum_of`].
#[inline(always)]
pub(crate) fn sum<T: Float>(x: &[T]) -> f64 {
    x.chunks(BLOCK).fold(0.0, |total, block| total + block_sum(block))
}

/// Σ of at most [`BLOCK`] elements.
#[inline(always)]
fn block_sum<T: Float>(block: &[T]) -> f64 {
    let mut lanes = [T::ZERO; LANES];
    let (whole, rest) = block.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, &v) in lanes.iter_mut().zip(chunk) {
            *sum += v;
        }
    }
    for (sum, &v) in lanes.iter_mut().zip(rest) {
        *sum += v;
    }
    fold(lanes)
}

#[inline(always)]
fn fold<T: Float>(mut lanes: [T; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0].to_f64()
}

vectorised! {
    /// Σ aᵢ·bᵢ.
    pub(crate) fn dot<T>(a: &[T], b: &[T]) -> f64 {
        let n = a.len().min(b.len());
        let mut total = 0.0;
        for (a, b) in a[..n].chunks(BLOCK).zip(b[..n].chunks(BLOCK)) {
            let mut lanes = [T::ZERO; LANES];
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in a.iter().zip(b) {
                for ((sum, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                    *sum += a * b;
                }
            }
            for ((sum, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
                *sum += a * b;
            }
            total += fold(lanes);
        }
        total
    }

    /// Σ xᵢ², in `f64` throughout, since the square of a small `f32` underflows and of a large one overflows.
    pub(crate) fn squares<T>(x: &[T]) -> f64 {
        sum_of(x.len(), |i| { let v = x[i].to_f64(); v * v })
    }

    /// The largest element, −∞ of none; NaN is passed over.
    pub(crate) fn max<T>(x: &[T]) -> T {
        let mut lanes = [T::NEG_INFINITY; LANES];
        let (whole, rest) = x.as_chunks::<LANES>();
        for chunk in whole {
            for (m, &v) in lanes.iter_mut().zip(chunk) {
                *m = if v > *m { v } else { *m };
            }
        }
        for (m, &v) in lanes.iter_mut().zip(rest) {
            *m = if v > *m { v } else { *m };
        }
        lanes.into_iter().fold(T::NEG_INFINITY, |m, v| if v > m { v } else { m })
    }

    /// xᵢ ← exp(xᵢ − shift); returns the sum.
    pub(crate) fn exp_in_place<T>(x: &mut [T], shift: T) -> f64 {
        let mut total = 0.0;
        for block in x.chunks_mut(BLOCK) {
            for v in block.iter_mut() {
                *v = (*v - shift).exp_fast();
            }
            total += block_sum(block);
        }
        total
    }

    /// Σ exp(xᵢ − shift), the same bits as of [`exp_in_place`].
    pub(crate) fn exp_sum<T>(x: &[T], shift: T) -> f64 {
        let mut total = 0.0;
        let mut exps = [T::ZERO; BLOCK];
        for block in x.chunks(BLOCK) {
            let exps = &mut exps[..block.len()];
            for (e, &v) in exps.iter_mut().zip(block) {
                *e = (v - shift).exp_fast();
            }
            total += block_sum(exps);
        }
        total
    }

    /// xᵢ ← factor·xᵢ.
    pub(crate) fn scale<T>(x: &mut [T], factor: T) {
        for v in x {
            *v *= factor;
        }
    }

    /// yᵢ ← yᵢ + factor·xᵢ.
    pub(crate) fn add_scaled<T>(y: &mut [T], x: &[T], factor: T) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += factor * x;
        }
    }

    /// yᵢ ← yᵢ + xᵢ.
    pub(crate) fn add<T>(y: &mut [T], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small integers are exact")]
mod tests {
    use super::*;

    #[test]
    fn reductions_cover_every_length() {
        for n in [0, 1, 15, 16, 17, 511, 512, 513, 1030] {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let expected: f64 = x.iter().map(|&v| f64::from(v * v)).sum();
            assert_eq!(dot(&x, &x), expected);
            assert_eq!(sum_of(n, |i| x[i] * x[i]), expected);
            assert_eq!(sum(&x), x.iter().map(|&v| f64::from(v)).sum::<f64>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn exps_are_summed_alike_whether_they_are_kept_or_not() {
        for n in [0, 1, 17, 512, 1030] {
            let x: Vec<f32> = (0..n).map(|i| (i % 23) as f32 * 0.37 - 5.0).collect();
            let sum = exp_sum(&x, 1.5);
            assert_eq!(sum, exp_in_place(&mut x.clone(), 1.5));
            let exact: f64 = x.iter().map(|&v| (f64::from(v) - 1.5).exp()).sum();
            assert!((sum - exact).abs() <= 1e-6 * exact, "{sum} {exact}");
        }
    }

    #[test]
    fn nan_is_not_lost_by_a_softmax() {
        let mut x = [1.0f32, f32::NAN, 2.0];
        let largest = max(&x);
        assert!(exp_in_place(&mut x, largest).is_nan());
    }
}
