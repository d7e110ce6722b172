//! Spherical interpolation of two vectors.
//!
//! `slerp(a, b, t) = sin((1−t)·Ω)/sin Ω · a + sin(t·Ω)/sin Ω · b` with `cos Ω = a·b / (|a|·|b|)`: Shoemake 1985; over
//! task vectors, layer by layer, WARP (Ramé et al. 2024, arXiv 2406.16768). A vector is a tensor, or all tensors of a
//! layer one after another.

/// What has to be known of two vectors: it adds up over the tensors that make them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Angle {
    /// `a·a`.
    pub aa: f64,
    /// `b·b`.
    pub bb: f64,
    /// `a·b`.
    pub ab: f64,
}

/// How much of each vector goes into what lies between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// The factor of `a`.
    pub a: f64,
    /// The factor of `b`.
    pub b: f64,
    /// Whether the straight line was taken, because the angle is none: a vector is zero, or both lie on one line.
    pub straight: bool,
}

/// Vectors whose cosine is beyond this lie on one line; mergekit's bound.
pub const PARALLEL: f64 = 0.9995;

impl Angle {
    /// Adds one tensor of each vector.
    pub fn add(&mut self, a: &[f64], b: &[f64]) {
        for (a, b) in a.iter().zip(b) {
            self.aa += a * a;
            self.bb += b * b;
            self.ab += a * b;
        }
    }

    /// The factors at `t`: `a` itself at 0, `b` itself at 1.
    ///
    /// Where a vector is zero or `|cos Ω| > 0.9995` they are `1 − t` and `t`.
    ///
    /// ```
    /// use candlewick_model::merge::Angle;
    /// let mut angle = Angle::default();
    /// angle.add(&[2.0, 0.0], &[0.0, 3.0]); // a right angle
    /// let between = angle.at(0.5);
    /// assert!((between.a - 0.5f64.sqrt()).abs() < 1e-15 && !between.straight);
    /// ```
    pub fn at(&self, t: f64) -> Between {
        // The roots apart: the product of two squares may leave the range of f64.
        let cosine = self.ab / self.aa.sqrt() / self.bb.sqrt();
        // A zero vector makes it NaN.
        if cosine.is_nan() || cosine.abs() > PARALLEL {
            return Between { a: 1.0 - t, b: t, straight: true };
        }
        let angle = cosine.acos();
        Between { a: ((1.0 - t) * angle).sin() / angle.sin(), b: (t * angle).sin() / angle.sin(), straight: false }
    }
}
