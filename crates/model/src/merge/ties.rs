//! TIES: trim each task vector, elect a sign for each element, average those that agree.
//!
//! Yadav et al. 2023, arXiv 2306.01708. With weights as mergekit has them: they take part in the election and in the
//! average.

/// Sets all but the largest `density` of the elements to zero, by magnitude; of equal ones the first are kept.
///
/// `⌊density · n⌋` of `n` elements stay, and one at least.
///
/// ```
/// let mut delta = vec![0.1, -0.4, 0.3, 0.2];
/// candlewick_model::merge::trim(&mut delta, 0.5);
/// assert_eq!(delta, [0.0, -0.4, 0.3, 0.0]);
/// ```
pub fn trim(delta: &mut [f64], density: f64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let kept = ((density * delta.len() as f64) as usize).max(1);
    if kept >= delta.len() {
        return;
    }
    let mut sizes: Vec<f64> = delta.iter().map(|x| x.abs()).collect();
    let (larger, smallest_kept, _) = sizes.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a));
    let bound = *smallest_kept;
    let mut equals = kept - larger.iter().filter(|size| **size > bound).count();
    for x in delta {
        let size = x.abs();
        if size > bound {
            continue;
        }
        // The comparison is of a number with itself as it was copied.
        if size.total_cmp(&bound).is_eq() && equals > 0 {
            equals -= 1;
            continue;
        }
        *x = 0.0;
    }
}

/// Of each element the weighted sum of those deltas whose sign is that of the weighted sum of all (a sum of zero counts
/// as positive), where it is to `normalize` divided by their weights.
///
/// ```
/// use candlewick_model::merge::elect;
/// let deltas = [vec![0.4, 1.0], vec![0.2, 0.0], vec![-0.1, -3.0]];
/// let merged = elect(&deltas, &[1.0, 1.0, 1.0], true);
/// assert!((merged[0] - 0.3).abs() < 1e-15 && merged[1] == -3.0);
/// ```
pub fn elect(deltas: &[Vec<f64>], weights: &[f64], normalize: bool) -> Vec<f64> {
    let length = deltas.first().map_or(0, Vec::len);
    let one = |i: usize| {
        let weighted = || deltas.iter().zip(weights).map(|(delta, weight)| (weight * delta[i], *weight));
        let sign = if weighted().map(|(x, _)| x).sum::<f64>() >= 0.0 { 1.0 } else { -1.0 };
        let agreeing = weighted().filter(|(x, _)| x * sign > 0.0);
        let (sum, total) = agreeing.fold((0.0, 0.0), |(sum, total), (x, weight)| (sum + x, total + weight));
        if normalize && total > 0.0 { sum / total } else { sum }
    };
    (0..length).map(one).collect()
}
