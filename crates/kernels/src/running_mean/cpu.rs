//! Elements in parallel.
use crate::Float;
use crate::parallel::{Crew, Disjoint};

pub(super) fn begin<T: Float>(mean: &mut [f64], x: &[T], crew: &Crew) {
    let mean = Disjoint::new(mean);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let mean = unsafe { mean.part(range.clone()) };
        mean.iter_mut().zip(&x[range]).for_each(|(mean, x)| *mean = x.to_f64());
    });
}

pub(super) fn step<T: Float>(
    y: &mut [T],
    mean: &mut [f64],
    x: &[T],
    weight: f64,
    correction: Option<(&[T], f64)>,
    crew: &Crew,
) {
    let (y, mean) = (Disjoint::new(y), Disjoint::new(mean));
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let (y, mean) = unsafe { (y.part(range.clone()), mean.part(range.clone())) };
        for (i, at) in range.enumerate() {
            let now = x[at].to_f64();
            mean[i] = (1.0 - weight) * mean[i] + weight * now;
            let corrected = correction.map_or(0.0, |(start, weight)| weight * (now - start[at].to_f64()));
            y[i] = T::from_f64(mean[i] + corrected);
        }
    });
}
