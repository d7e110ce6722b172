//! Segment after segment, elements in order: too few for threads to share.
use crate::Float;

pub(super) fn forward<T: Float>(values: &[T], starts: &[u32], weights: Option<&[T]>, sums: &mut [T]) {
    for (sum, segment) in sums.iter_mut().zip(starts.windows(2)) {
        let range = segment[0] as usize..segment[1] as usize;
        let total: f64 = match weights {
            Some(weights) => weights[range.clone()]
                .iter()
                .zip(&values[range])
                .filter(|(weight, _)| **weight != T::ZERO)
                .map(|(weight, value)| weight.to_f64() * value.to_f64())
                .sum(),
            None => values[range].iter().map(|value| value.to_f64()).sum(),
        };
        *sum = T::from_f64(total);
    }
}

pub(super) fn backward<T: Float>(dsums: &[T], starts: &[u32], weights: Option<&[T]>, dvalues: &mut [T]) {
    for (&dsum, segment) in dsums.iter().zip(starts.windows(2)) {
        let range = segment[0] as usize..segment[1] as usize;
        let dvalues = &mut dvalues[range.clone()];
        match weights {
            Some(weights) => dvalues.iter_mut().zip(&weights[range]).for_each(|(dvalue, &weight)| {
                *dvalue = if weight == T::ZERO { T::ZERO } else { weight * dsum };
            }),
            None => dvalues.fill(dsum),
        }
    }
}
