//! The shortest vector among the weighted means of some vectors.

/// Weights `λ ≥ 0` with `Σ λ_i = 1` for which `‖Σ_i λ_i·g_i‖` is smallest: the direction that lowers every one of several losses.
///
/// Weight goes from the vector that leans most on the sum to the one that leans least, by exact steps, until both lean alike to 1e-14 of a
/// squared length (or 10,000 steps). Vectors of the same
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
        let by_lean = |a: &usize, b: &usize| towards[*a].total_cmp(&towards[*b]);
        let Some(best) = (0..count).min_by(by_lean) else { break };
        let Some(worst) = (0..count).filter(|i| weights[*i] > 0.0).max_by(by_lean) else { break };
        let gain = towards[worst] - towards[best];
        if gain <= 1e-14 * products[worst][worst].max(products[best][best]) {
            break;
        }
        // Weight goes from the one to the other, as much as makes the length smallest and no more than there is.
        let curvature = products[best][best] + products[worst][worst] - 2.0 * products[best][worst];
        let moved = if curvature > 0.0 { (gain / curvature).min(weights[worst]) } else { weights[worst] };
        weights[worst] -= moved;
        weights[best] += moved;
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
    fn every_vector_that_counts_leans_alike_on_the_sum_and_no_other_less() {
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        for count in [2, 5, 9, 16] {
            let vectors: Vec<Vec<f64>> = (0..count).map(|_| (0..8).map(|_| uniform()).collect()).collect();
            let weights = min_norm_weights(&vectors);
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12 && weights.iter().all(|weight| *weight >= 0.0));
            let sum: Vec<f64> = (0..8).map(|k| (0..count).map(|i| weights[i] * vectors[i][k]).sum()).collect();
            let length: f64 = sum.iter().map(|x| x * x).sum();
            for (vector, weight) in vectors.iter().zip(&weights) {
                let lean: f64 = vector.iter().zip(&sum).map(|(a, b)| a * b).sum();
                assert!(lean > length - 1e-10 && (*weight <= 0.0 || lean < length + 1e-10), "{count}: {lean} {length}");
            }
        }
    }

    #[test]
    fn nothing_zero_and_one() {
        assert!(min_norm_weights(&[]).is_empty());
        assert!(worst(&min_norm_weights(&[vec![2.0, 1.0]]), &[1.0]) < 1e-15);
        assert!(min_norm_weights(&[vec![0.0], vec![0.0]]).iter().sum::<f64>() > 0.999);
    }
}
