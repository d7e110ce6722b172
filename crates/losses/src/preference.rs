//! What is done with the numbers of score models: transformations before a policy is trained on them, and how good they are.

/// The log-probability that a reward is above a reference, `log σ(r − r_ref)`: concave, and flat where the reward is well above.
/// What it favours are improvements of the worst completions. The sum over several properties is the log-probability that
/// all hold, if they are independent.
///
/// Source: Wang et al. 2024 (Transforming and Combining Rewards), arXiv 2402.00742. Confidence C/D.
///
/// ```
/// use candlewick_losses::preference::centred_log_sigmoid;
/// assert!((centred_log_sigmoid(1.0, 1.0) + 2f64.ln()).abs() < 1e-15);
/// assert_eq!(centred_log_sigmoid(-1e4, 0.0), -1e4);
/// ```
pub fn centred_log_sigmoid(reward: f64, reference: f64) -> f64 {
    let x = reward - reference;
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// The `share`-quantile of values, between neighbours in proportion; `None` of no values or of a share outside \[0, 1\].
/// The reference of [`centred_log_sigmoid`] is the 0.85-quantile of the rewards of completions of the same prompt.
///
/// ```
/// use candlewick_losses::preference::quantile;
/// assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.75), Some(2.5));
/// ```
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    if !(0.0..=1.0).contains(&share) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (place - below as f64) * (sorted[above] - sorted[below]))
}

/// How often the first of two numbers is the larger one; a tie counts one half. `None` of no pairs.
///
/// ```
/// use candlewick_losses::preference::ranking_accuracy;
/// assert_eq!(ranking_accuracy(&[(1.0, 0.0), (0.0, 1.0), (2.0, 1.0), (1.0, 1.0)]), Some(0.625));
/// ```
pub fn ranking_accuracy(pairs: &[(f64, f64)]) -> Option<f64> {
    let right = |(first, second): &(f64, f64)| match first.partial_cmp(second) {
        Some(std::cmp::Ordering::Greater) => 1.0,
        Some(std::cmp::Ordering::Equal) => 0.5,
        _ => 0.0,
    };
    (!pairs.is_empty()).then(|| pairs.iter().map(right).sum::<f64>() / pairs.len() as f64)
}

/// How often the sign of a cost is right: above 0 where `unsafe_`, at most 0 elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignAccuracy {
    /// Of all responses.
    pub all: f64,
    /// Of the safe ones; `None` where there are none.
    pub of_safe: Option<f64>,
    /// Of the unsafe ones; `None` where there are none.
    pub of_unsafe: Option<f64>,
}

impl SignAccuracy {
    /// Of costs and flags, 1 for unsafe; `None` of no costs.
    ///
    /// ```
    /// use candlewick_losses::preference::SignAccuracy;
    /// let accuracy = SignAccuracy::of(&[(2.0, true), (-1.0, true), (-3.0, false)]).expect("there are costs");
    /// assert_eq!((accuracy.of_safe, accuracy.of_unsafe), (Some(1.0), Some(0.5)));
    /// ```
    pub fn of(costs: &[(f64, bool)]) -> Option<Self> {
        let share = |kept: &dyn Fn(bool) -> bool| {
            let of: Vec<bool> =
                costs.iter().filter(|(_, flag)| kept(*flag)).map(|(cost, flag)| (*cost > 0.0) == *flag).collect();
            (!of.is_empty()).then(|| of.iter().filter(|right| **right).count() as f64 / of.len() as f64)
        };
        Some(Self { all: share(&|_| true)?, of_safe: share(&|flag| !flag), of_unsafe: share(&|flag| flag) })
    }
}

/// How likely it is that a positive has a larger number than a negative: the area under the curve of hits against false
/// alarms. Ties count one half; `None` unless there are both.
///
/// ```
/// use candlewick_losses::preference::area_under_curve;
/// assert_eq!(area_under_curve(&[(0.1, false), (0.4, true), (0.4, false), (0.9, true)]), Some(0.875));
/// ```
pub fn area_under_curve(scored: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins) = (0.0, 0.0);
    let (mut positives, mut negatives) = (0.0, 0.0);
    let mut rest = sorted.as_slice();
    while let Some(first) = rest.first() {
        let equal = rest.iter().take_while(|(value, _)| value.total_cmp(&first.0).is_eq()).count();
        let hits = rest[..equal].iter().filter(|(_, flag)| *flag).count() as f64;
        let misses = equal as f64 - hits;
        wins += hits * (below + 0.5 * misses);
        below += misses;
        positives += hits;
        negatives += misses;
        rest = &rest[equal..];
    }
    (positives > 0.0 && negatives > 0.0).then(|| wins / (positives * negatives))
}

/// The expected calibration error of probabilities: the mean over equally wide bins, by their share of all, of the gap between
/// what was said and how often it was so. `None` of nothing or without bins.
///
/// Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
///
/// ```
/// use candlewick_losses::preference::calibration_error;
/// let said = [(0.75, true), (0.75, true), (0.75, false), (0.75, true), (0.25, true), (0.25, false)];
/// // The upper bin is right; the lower says 0.25 where it is 0.5, and holds a third.
/// assert!((calibration_error(&said, 2).expect("there are some") - 0.25 / 3.0).abs() < 1e-15);
/// ```
pub fn calibration_error(said: &[(f64, bool)], bins: usize) -> Option<f64> {
    if said.is_empty() || bins == 0 {
        return None;
    }
    let mut sums = vec![(0.0, 0.0); bins];
    for (probability, so) in said {
        let bin = ((probability * bins as f64) as usize).min(bins - 1);
        sums[bin].0 += probability;
        sums[bin].1 += f64::from(u8::from(*so));
    }
    Some(sums.iter().map(|(said, so)| (said - so).abs()).sum::<f64>() / said.len() as f64)
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::worst;

    use super::*;
    use crate::builtin::vectors::vectors;

    #[test]
    fn agrees_with_the_recorded_transformation() {
        let name = "log-sigmoid centring";
        let samples = [0.1, 0.4, -0.2, 0.9, 1.3, 0.0, 0.6, 0.7];
        let reference = quantile(&samples, 0.85).unwrap();
        assert!((reference - vectors().number(name, "reference").unwrap()).abs() < 1e-12);
        let got = [1.2, -0.3, 0.5, 2.0].map(|reward| centred_log_sigmoid(reward, reference));
        assert!(worst(&got, &vectors().list(name, "transformed").unwrap()) < 1e-12);
    }

    #[test]
    fn one_class_and_nothing_have_no_accuracy() {
        assert_eq!(SignAccuracy::of(&[]), None);
        assert_eq!(SignAccuracy::of(&[(1.0, true)]).unwrap().of_safe, None);
        assert_eq!(area_under_curve(&[(1.0, true), (2.0, true)]), None);
        assert_eq!(area_under_curve(&[(f64::NAN, true), (f64::NAN, false)]), Some(0.5));
        assert_eq!(
            (ranking_accuracy(&[]), calibration_error(&[], 10), calibration_error(&[(0.5, true)], 0)),
            (None, None, None)
        );
        assert_eq!((quantile(&[], 0.5), quantile(&[1.0], 1.5), quantile(&[7.0], 0.3)), (None, None, Some(7.0)));
    }
}
