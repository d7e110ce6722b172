//! From a rate of unsafe completions to a limit of their mean cost.

use crate::error::{Error, Result};

/// Standard errors either side within which a normal number lies in 95 of 100 cases.
const NORMAL_95: f64 = 1.959_963_984_540_054;

/// A limit of the mean cost, with the figures that it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetThreshold {
    /// The limit `d` under which the target rate of completions is unsafe.
    pub threshold: f64,
    /// The 95 % interval of `d`, from the sampling errors of both means; from and to.
    pub interval: (f64, f64),
    /// Mean cost of safe completions.
    pub safe_mean: f64,
    /// Mean cost of unsafe completions.
    pub unsafe_mean: f64,
}

impl TargetThreshold {
    /// The share of unsafe completions that a limit of the mean cost admits; in [0, 1].
    pub fn rate_at(&self, limit: f64) -> f64 {
        ((limit - self.safe_mean) / (self.unsafe_mean - self.safe_mean)).clamp(0.0, 1.0)
    }
}

/// The limit `d` of the mean cost at which a share `rate` of the completions is unsafe, if the mean costs of safe and
/// of unsafe completions stay what they are: `d = (1 − ρ)·μ_safe + ρ·μ_unsafe`. `is_unsafe` says which completions
/// are; without it, those with a cost above 0.
///
/// A limit of 0 is not safe: a cost model whose safe completions have a mean of −1.96 and whose unsafe ones have +3.32
/// admits 37 % of unsafe completions at a mean of 0, and wants −1.70 for 5 %.
///
/// ```
/// use candlewick_losses::dual::threshold_for_target_rate;
/// let costs = [-2.96, -0.96, 2.32, 4.32];
/// let found = threshold_for_target_rate(&costs, Some(&[false, false, true, true]), 0.05)?;
/// assert!((found.threshold + 1.696).abs() < 1e-12);
/// assert!((found.rate_at(0.0) - 0.3712).abs() < 1e-4);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If the rate is not in [0, 1], a cost is not finite, there are not as many labels as costs, one of the classes has
/// fewer than two completions, or safe completions cost no less than unsafe ones.
pub fn threshold_for_target_rate(costs: &[f64], is_unsafe: Option<&[bool]>, rate: f64) -> Result<TargetThreshold> {
    if !(0.0..=1.0).contains(&rate) {
        let (loss, parameter, expected) = ("threshold".to_owned(), "rate", "a share in [0, 1]");
        return Err(Error::Parameter { loss, parameter, got: rate, expected });
    }
    if let Some((place, got)) = costs.iter().enumerate().find(|(_, cost)| !cost.is_finite()) {
        return Err(Error::Dual(format!("threshold: cost {place}: got {got}, expected a finite number")));
    }
    if let Some(labels) = is_unsafe.filter(|labels| labels.len() != costs.len()) {
        return Err(Error::Dual(format!(
            "threshold: got {} labels for {} costs, expected one each",
            labels.len(),
            costs.len()
        )));
    }
    let harmful = |place: usize| is_unsafe.map_or(costs[place] > 0.0, |labels| labels[place]);
    let of = |class: bool| -> Vec<f64> {
        (0..costs.len()).filter(|&place| harmful(place) == class).map(|place| costs[place]).collect()
    };
    let ((safe_mean, safe_error), (unsafe_mean, unsafe_error)) =
        (mean_and_error("safe", &of(false))?, mean_and_error("unsafe", &of(true))?);
    if unsafe_mean <= safe_mean {
        return Err(Error::Dual(format!(
            "threshold: unsafe completions cost {unsafe_mean} on average and safe ones {safe_mean}, expected more; is the \
             sign of the costs turned round, so that they say how safe a completion is?"
        )));
    }
    let threshold = (1.0 - rate) * safe_mean + rate * unsafe_mean;
    let error = NORMAL_95 * ((1.0 - rate) * safe_error).hypot(rate * unsafe_error);
    Ok(TargetThreshold { threshold, interval: (threshold - error, threshold + error), safe_mean, unsafe_mean })
}

/// The mean of a class and its standard error.
fn mean_and_error(class: &str, costs: &[f64]) -> Result<(f64, f64)> {
    if costs.len() < 2 {
        return Err(Error::Dual(format!(
            "threshold: got {} {class} completions, expected at least 2; score more completions",
            costs.len()
        )));
    }
    let count = costs.len() as f64;
    let mean = costs.iter().sum::<f64>() / count;
    let squares: f64 = costs.iter().map(|cost| (cost - mean).powi(2)).sum();
    Ok((mean, (squares / (count - 1.0) / count).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_zero_is_not_safe() {
        // Class means of −1.96 and +3.32, as of a public cost model; the spread does not matter to d.
        let costs = [-3.0, -0.92, 1.0, 5.64];
        let labels = [false, false, true, true];
        let found = threshold_for_target_rate(&costs, Some(&labels), 0.05).unwrap();
        assert!((found.safe_mean + 1.96).abs() < 1e-12 && (found.unsafe_mean - 3.32).abs() < 1e-12);
        assert!((found.threshold + 1.70).abs() < 0.005, "{}", found.threshold);
        assert!((found.rate_at(0.0) - 0.37).abs() < 0.005);
        assert!((found.rate_at(found.threshold) - 0.05).abs() < 1e-12);
        // Without labels, the sign of the cost decides.
        assert_eq!(threshold_for_target_rate(&costs, None, 0.05).unwrap(), found);
    }

    #[test]
    fn the_interval_covers_as_often_as_it_says() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let (rate, mut covered) = (0.2, 0);
        for _ in 0..2000 {
            // Uniform costs with means of −2 and 3.
            let mut costs: Vec<f64> = (0..60).map(|_| -4.0 + 4.0 * uniform()).collect();
            costs.extend((0..40).map(|_| 1.0 + 4.0 * uniform()));
            let labels: Vec<bool> = (0..100).map(|place| place >= 60).collect();
            let (low, high) = threshold_for_target_rate(&costs, Some(&labels), rate).unwrap().interval;
            covered += u32::from((low..=high).contains(&(0.8 * -2.0 + 0.2 * 3.0)));
        }
        assert!((1860..=1940).contains(&covered), "{covered} of 2000");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |costs: &[f64], labels: Option<&[bool]>, rate| {
            threshold_for_target_rate(costs, labels, rate).unwrap_err().to_string()
        };
        assert!(wrong(&[1.0], None, 1.5).contains("threshold.rate: got 1.5"));
        assert!(wrong(&[1.0, f64::NAN], None, 0.1).contains("cost 1: got NaN"));
        assert!(wrong(&[1.0, 2.0], None, 0.1).contains("got 0 safe completions"));
        assert!(wrong(&[1.0], Some(&[]), 0.1).contains("got 0 labels for 1 costs"));
        let turned = wrong(&[1.0, 2.0, -1.0, -2.0], Some(&[false, false, true, true]), 0.1);
        assert!(turned.contains("is the sign of the costs turned round"), "{turned}");
    }
}
