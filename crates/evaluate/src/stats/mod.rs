//! Uncertainty: intervals by resampling, tests of paired differences, corrections for many tests, calibration, ranks.
//!
//! Draws come from a seed, so that the same results give the same intervals.

mod bootstrap;
mod calibration;
mod paired;
mod rank;

pub use bootstrap::{Bootstrap, Interval};
pub(crate) use calibration::NORMAL;
pub use calibration::{Bin, Calibration, of_a_share, wilson};
pub use paired::{PairedTest, holm};
pub use rank::{area_under_curve, spearman};

/// The mean; nothing of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample standard deviation, divided by n − 1; nothing of fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The value below which a share of sorted values lies, with straight lines between neighbours (Hyndman and Fan's type 7, the
/// default of NumPy and R); nothing of no values.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(last);
    Some(sorted[below] + part * (sorted[above] - sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8], [0, 0.25, 0.5, 0.9, 1])
        let values = [1.0, 2.0, 4.0, 8.0];
        for (share, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            let found = quantile(&values, share).expect("values");
            assert!((found - expected).abs() < 1e-12, "{share}: {found}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn spread_is_divided_by_one_less() {
        assert_eq!(standard_deviation(&[1.0, 3.0]), Some(2f64.sqrt()));
        assert_eq!(standard_deviation(&[1.0]), None);
        assert_eq!(mean(&[]), None);
    }
}
