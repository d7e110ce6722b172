//! Elements in parallel.
use crate::parallel::{Crew, Disjoint};
use crate::simd;
use crate::{Element, Float};

pub(super) fn add_assign<T: Float>(y: &mut [T], x: &[T], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        simd::add(unsafe { y.part(range.clone()) }, &x[range]);
    });
}

pub(super) fn mix<T: Float>(y: &mut [T], x: &[T], weight: f64, crew: &Crew) {
    let (ours, theirs) = (T::from_f64(1.0 - weight), T::from_f64(weight));
    let is_copy = (weight - 1.0).abs() <= 0.0;
    let y = Disjoint::new(y);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { y.part(range.clone()) };
        if is_copy {
            y.copy_from_slice(&x[range]);
            return;
        }
        for (y, x) in y.iter_mut().zip(&x[range]) {
            *y = theirs * *x + ours * *y;
        }
    });
}

pub(super) fn narrow<T: Element>(y: &mut [T], x: &[T::Wide], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { y.part(range.clone()) };
        y.iter_mut().zip(&x[range]).for_each(|(y, x)| *y = T::narrow(*x));
    });
}

pub(super) fn widen<T: Element>(y: &mut [T::Wide], x: &[T], crew: &Crew) {
    let y = Disjoint::new(y);
    crew.rows(x.len(), 1, |range| {
        // SAFETY: the ranges do not overlap.
        let y = unsafe { y.part(range.clone()) };
        y.iter_mut().zip(&x[range]).for_each(|(y, x)| *y = x.widen());
    });
}
