//! The shortest vector among the weighted means of some vectors.

/// Weights `λ ≥ 0` with `Σ λ_i = 1` for which `‖Σ_i λ_i·g_i‖` is smallest: the direction that lowers every one of several losses.
///
/// Frank and Wolfe's method with exact steps, to a gap of 1e-12 of the squared length, or 10,000 steps. Vectors of the same
/// length; none of them gives no weights.
///
/// Source: Désidéri 2012; Sener and Koltun 2018, arXiv 1810.04650, algorithm 2.
///
/// ```
/// use candlewick_losses::min_norm_weights;
/// let weights = min_norm_weights(&[vec![3.0, 0.0], vec![0.0, 1.0]]);
/// assert!((weights[0] - 0.1).abs() < 1e-12 && (weights[1] - 0.9).abs() < 1e-12);
/// ```
pub fn min_norm_weights(vectors: &[Vec<f64>]) -> Vec<f64> {
    let count = vectors.len();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let products: Vec<Vec<f64>> = vectors.iter().map(|a| vectors.iter().map(|b| dot(a, b)).collect()).collect();
    let mut weights = vec![1.0 / count as f64; count];
    for _ in 0..10_000 {
        let towards: Vec<f64> = products.iter().map(|row| dot(row, &weights)).collect();
        let here = dot(&towards, &weights);
        let Some((best, &least)) = towards.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)) else { break };
        if here - least <= 1e-12 * here.abs() {
            break;
        }
        // The length is smallest along the way to that vertex at this share of it.
        let curvature = here - 2.0 * least + products[best][best];
        let share = if curvature > 0.0 { ((here - least) / curvature).clamp(0.0, 1.0) } else { 1.0 };
        weights.iter_mut().for_each(|weight| *weight *= 1.0 - share);
        weights[best] += share;
    }
    weights
}

#[cfg(test)]
mod tests {
    use candlewick_testkit::worst;

    use super::*;
    use crate::builtin::vectors::vectors;

    #[test]
    fn agrees_with_the_recorded_weights() {
        let gradients = [[1.0, 0.2, 0.0], [-0.4, 1.0, 0.3], [0.1, -0.6, 0.9]];
        let unit = |gradient: &[f64; 3]| {
            let length = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            gradient.iter().map(|x| x / length).collect()
        };
        let unit: Vec<Vec<f64>> = gradients.iter().map(unit).collect();
        let weights = min_norm_weights(&unit);
        let name = "more min-norm weights";
        assert!(worst(&weights, &vectors().list(name, "weights").unwrap()) < 1e-6, "{weights:?}");
        let sum: Vec<f64> = (0..3).map(|k| (0..3).map(|i| weights[i] * unit[i][k]).sum()).collect();
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((length - vectors().number(name, "norm").unwrap()).abs() < 1e-9);
        // At the smallest, the sum leans on every vector that counts alike.
        let leans = |g: &Vec<f64>| g.iter().zip(&sum).map(|(a, b)| a * b).sum::<f64>();
        assert!(unit.iter().all(|g| leans(g) > length * length - 1e-9));
    }

    #[test]
    fn nothing_zero_and_one() {
        assert!(min_norm_weights(&[]).is_empty());
        assert!(worst(&min_norm_weights(&[vec![2.0, 1.0]]), &[1.0]) < 1e-15);
        assert!(min_norm_weights(&[vec![0.0], vec![0.0]]).iter().sum::<f64>() > 0.999);
    }
}
