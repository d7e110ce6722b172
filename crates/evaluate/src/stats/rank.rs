//! Statistics of order.

/// The chance that a value of the first kind is above one of the second, half of a tie counted (the area under the receiver's
/// curve; Mann and Whitney's U over the number of pairs). Nothing where a kind is missing.
pub fn area_under_curve(above: &[f64], below: &[f64]) -> Option<f64> {
    if above.is_empty() || below.is_empty() {
        return None;
    }
    let all: Vec<f64> = above.iter().chain(below).copied().collect();
    let ranks = ranks(&all);
    let sum: f64 = ranks[..above.len()].iter().sum();
    let (n, m) = (above.len() as f64, below.len() as f64);
    Some((sum - n * (n + 1.0) / 2.0) / (n * m))
}

/// Spearman's ρ: the correlation of ranks, ties sharing the mean of theirs. Nothing where a side does not vary or the sides
/// differ in number.
pub fn spearman(one: &[f64], other: &[f64]) -> Option<f64> {
    if one.len() != other.len() {
        return None;
    }
    correlation(&ranks(one), &ranks(other))
}

/// Pearson's correlation.
fn correlation(one: &[f64], other: &[f64]) -> Option<f64> {
    let (a, b) = (super::mean(one)?, super::mean(other)?);
    let products =
        |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum() };
    let spread = (products(one, a, one, a) * products(other, b, other, b)).sqrt();
    (spread > 0.0).then(|| products(one, a, other, b) / spread)
}

/// Ranks from 1, ties sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same =
            order[start..].iter().take_while(|i| values[**i].total_cmp(&values[order[start]]).is_eq()).count().max(1);
        let shared = start as f64 + (same as f64 + 1.0) / 2.0;
        order[start..start + same].iter().for_each(|i| ranks[*i] = shared);
        start += same;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 3.0]), [2.5, 1.0, 2.5, 4.0]);
        assert_eq!(ranks(&[f64::NAN, 1.0]), [2.0, 1.0]);
    }

    #[test]
    fn the_area_counts_pairs_in_order() {
        // 3 above 1, 3 above 2, 2 above 1, 2 level with 2: 3.5 of 4.
        assert_eq!(area_under_curve(&[3.0, 2.0], &[1.0, 2.0]), Some(0.875));
        assert_eq!(area_under_curve(&[1.0], &[]), None);
    }

    #[test]
    fn rank_correlation_is_that_of_scipy() {
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]).statistic
        let found = spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).expect("varies");
        assert!((found - 0.820_782_681_668_123_3).abs() < 1e-12, "{found}");
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0, 2.0]), None);
    }
}
