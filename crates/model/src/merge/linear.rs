//! Weighted sums and means.
//!
//! `Σ wᵢ·xᵢ`, divided by `Σ wᵢ` where it is a mean: of weights a model soup (Wortsman et al. 2022, arXiv 2203.05482),
//! of task vectors task arithmetic (Ilharco et al. 2022, arXiv 2212.04089).

/// `Σ wᵢ·xᵢ` of tensors of one length, in f64, added in their order.
///
/// ```
/// let mean = candlewick_model::merge::weighted_sum(&[vec![1.0, 2.0], vec![3.0, 6.0]], &[0.75, 0.25]);
/// assert_eq!(mean, [1.5, 3.0]);
/// ```
///
/// # Panics
/// Never; tensors beyond the number of weights are left out.
pub fn weighted_sum(tensors: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; tensors.first().map_or(0, Vec::len)];
    for (tensor, weight) in tensors.iter().zip(weights) {
        for (sum, x) in sum.iter_mut().zip(tensor) {
            *sum += weight * x;
        }
    }
    sum
}

/// The weights as they are multiplied: divided by their sum where they `normalize`.
pub(super) fn shares(weights: &[f64], normalize: bool) -> Vec<f64> {
    let total: f64 = if normalize { weights.iter().sum() } else { 1.0 };
    weights.iter().map(|weight| weight / total).collect()
}
