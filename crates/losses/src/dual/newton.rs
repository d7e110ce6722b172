//! The minimum of the dual function of several constraints: projected Newton steps.

use super::table::{Moments, ScoreTable};
use crate::error::{Error, Result};

const STEPS: usize = 2000;

/// The multipliers that minimise `g(λ)` over `λ ≥ 0`; or, where `g` has no minimum, weights that show why: a mixture of
/// the costs whose lowest mean is no lower than that of the limits.
///
/// Multipliers at 0 that want to fall are held; the others take a Newton step with a damped curvature, which is halved
/// until `g` falls enough (Bertsekas 1982). Where the limits cannot be kept, `g` falls for ever, and soon the direction
/// of the multipliers is such a mixture, which proves it.
pub(super) fn minimum(table: &ScoreTable, beta: f64, limits: &[f64]) -> Result<Result<Vec<f64>, Vec<f64>>> {
    let count = limits.len();
    let mut at = vec![0.0; count];
    let mut damping = 1e-12;
    let mut height = table.dual(beta, &at, limits)?;
    for _ in 0..STEPS {
        let Moments { costs, covariance, .. } = table.moments(beta, &at)?;
        let slope: Vec<f64> = limits.iter().zip(&costs).map(|(limit, cost)| limit - cost).collect();
        if let Some(weights) = proof(table, &at, limits) {
            return Ok(Err(weights));
        }
        let free: Vec<usize> = (0..count).filter(|&k| at[k] > 0.0 || slope[k] < 0.0).collect();
        let scale = |k: usize| covariance[k][k].sqrt().max(costs[k].abs()).max(limits[k].abs());
        if free.iter().all(|&k| slope[k].abs() <= 1e-13 * scale(k)) {
            return Ok(Ok(at));
        }
        let curvature = |damping: f64| -> Vec<Vec<f64>> {
            let trace: f64 = free.iter().map(|&k| covariance[k][k]).sum();
            let row = |&k: &usize| {
                let entry = |&other: &usize| {
                    let diagonal = if k == other { damping * (trace + f64::MIN_POSITIVE) } else { 0.0 };
                    (covariance[k][other] + diagonal) / beta
                };
                free.iter().map(entry).collect()
            };
            free.iter().map(row).collect()
        };
        let downhill: Vec<f64> = free.iter().map(|&k| -slope[k]).collect();
        let mut moved = None;
        while moved.is_none() && damping < 1e12 {
            let step = solved(curvature(damping), downhill.clone());
            moved = step.and_then(|step| walk(table, beta, limits, &at, &free, &slope, &step, height).transpose());
            damping = if moved.is_none() { damping * 100.0 } else { (damping * 0.1).max(1e-14) };
        }
        match moved.transpose()? {
            Some((next, lower)) => (at, height) = (next, lower),
            // Nothing below: this is the minimum, to rounding.
            None if free.iter().all(|&k| slope[k].abs() <= 1e-7 * scale(k)) => return Ok(Ok(at)),
            None => break,
        }
    }
    Err(Error::Dual(format!(
        "score table: no minimum was found in {STEPS} steps, the last multipliers are {at:?}; give costs of similar sizes, \
         and limits that are not on the verge of what can be reached"
    )))
}

/// The point along a step, projected, at which the dual function is enough lower; `None` if there is none.
#[expect(clippy::too_many_arguments, reason = "the whole of a line search")]
fn walk(
    table: &ScoreTable,
    beta: f64,
    limits: &[f64],
    at: &[f64],
    free: &[usize],
    slope: &[f64],
    step: &[f64],
    height: f64,
) -> Result<Option<(Vec<f64>, f64)>> {
    let mut length = 1.0;
    for _ in 0..30 {
        let mut next = at.to_vec();
        for (&k, step) in free.iter().zip(step) {
            next[k] = (at[k] + length * step).max(0.0);
        }
        if next.iter().all(|multiplier| multiplier.is_finite()) {
            let gain: f64 = slope.iter().zip(at).zip(&next).map(|((slope, from), to)| slope * (from - to)).sum();
            let lower = table.dual(beta, &next, limits)?;
            if gain > 0.0 && lower < height - 1e-4 * gain {
                return Ok(Some((next, lower)));
            }
        }
        length *= 0.5;
    }
    Ok(None)
}

/// The direction of the multipliers, if no policy has a mean cost in it below that of the limits.
fn proof(table: &ScoreTable, at: &[f64], limits: &[f64]) -> Option<Vec<f64>> {
    let total: f64 = at.iter().sum();
    if total <= 0.0 {
        return None;
    }
    let weights: Vec<f64> = at.iter().map(|multiplier| multiplier / total).collect();
    let bound: f64 = weights.iter().zip(limits).map(|(weight, limit)| weight * limit).sum();
    (table.least(&weights) >= bound).then_some(weights)
}

/// The solution of a symmetric positive definite system by Cholesky's factors; `None` where it is not positive
/// definite.
fn solved(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let count = right.len();
    for column in 0..count {
        for row in column..count {
            let known: f64 = (0..column).map(|k| matrix[row][k] * matrix[column][k]).sum();
            let rest = matrix[row][column] - known;
            if row == column && !(rest > 0.0 && rest.is_finite()) {
                return None;
            }
            matrix[row][column] = if row == column { rest.sqrt() } else { rest / matrix[column][column] };
        }
    }
    for row in 0..count {
        let known: f64 = (0..row).map(|k| matrix[row][k] * right[k]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    for row in (0..count).rev() {
        let known: f64 = (row + 1..count).map(|k| matrix[k][row] * right[k]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved_or_refused() {
        let solution = solved(vec![vec![4.0, 2.0], vec![2.0, 3.0]], vec![2.0, 5.0]).unwrap();
        // 4x + 2y = 2, 2x + 3y = 5.
        assert!((solution[0] + 0.5).abs() < 1e-15 && (solution[1] - 2.0).abs() < 1e-15, "{solution:?}");
        assert_eq!(solved(vec![vec![1.0, 2.0], vec![2.0, 1.0]], vec![1.0, 1.0]), None);
    }
}
