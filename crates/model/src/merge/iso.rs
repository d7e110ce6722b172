//! Iso-C and Iso-CTS: the sum of task matrices with all its singular values made equal.
//!
//! Marczak et al. 2025, arXiv 2502.04959, in the form of the authors' code. That code keeps every direction; where the
//! sum has less than full rank the directions of its null space are whatever the decomposition returns, so they are
//! left out here, and the mean is over those that are there. Of matrices of full rank the result is the same.
use faer::{Mat, MatRef};

use super::svd::{Svd, matrix, rounding, row_major};
use crate::error::Result;

/// `mean(s)·U·Vᵀ` of `Σ Δᵢ = U·diag(s)·Vᵀ`; row-major `[rows, columns]`, as each delta.
///
/// # Errors
/// Numbers that are not finite.
pub fn iso_c(deltas: &[Vec<f64>], rows: usize, columns: usize) -> Result<Vec<f64>> {
    let (sum, floor) = sum(deltas, rows, columns);
    let svd = Svd::of(sum.as_ref())?;
    let rank = svd.above(floor);
    let level = mean(&svd.values[..rank]);
    let flat = svd.u.subcols(0, rank) * svd.v.subcols(0, rank).transpose() * faer::Scale(level);
    Ok(row_major(flat.as_ref()))
}

/// Iso-C over directions of which the share `common` are the top ones of the sum, and the rest the top ones of each
/// delta's part beyond those, equally many a delta. Both sides are made orthogonal again by polar factors.
///
/// # Errors
/// Numbers that are not finite.
pub fn iso_cts(deltas: &[Vec<f64>], rows: usize, columns: usize, common: f64) -> Result<Vec<f64>> {
    let (sum, floor) = sum(deltas, rows, columns);
    let svd = Svd::of(sum.as_ref())?;
    let rank = svd.above(floor);
    let each = specific(rank, deltas.len(), common);
    let shared = rank - each * deltas.len();

    let common_u = svd.u.subcols(0, shared);
    let (mut left, mut right, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut take = |svd: &Svd, count: usize| {
        left.extend((0..count).map(|j| svd.u.col(j).to_owned()));
        right.extend((0..count).map(|j| svd.v.col(j).to_owned()));
        values.extend_from_slice(&svd.values[..count]);
    };
    for delta in deltas {
        let delta = matrix(delta, rows, columns);
        let own = Svd::of((delta - common_u * (common_u.transpose() * delta)).as_ref())?;
        take(&own, each.min(own.above(floor)));
    }
    take(&svd, shared);

    let count = values.len();
    let u = polar(Mat::from_fn(rows, count, |i, j| left[j][i]).as_ref())?;
    let v = polar(Mat::from_fn(columns, count, |i, j| right[j][i]).as_ref())?;
    Ok(row_major((u * v.transpose() * faer::Scale(mean(&values))).as_ref()))
}

/// How many directions each of `tasks` matrices has to itself, of `rank` in all: the authors' rounding, which is to
/// even at a half.
fn specific(rank: usize, tasks: usize, common: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the rank")]
    let shared = (rank as f64 * common) as usize;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the rank")]
    let each = ((rank - shared.min(rank)) as f64 / tasks as f64).round_ties_even() as usize;
    each.min(rank / tasks)
}

/// The sum, and what rounding can make of a singular value of it that is zero.
fn sum(deltas: &[Vec<f64>], rows: usize, columns: usize) -> (Mat<f64>, f64) {
    let mut sum = Mat::zeros(rows, columns);
    let mut largest = 0.0f64;
    for delta in deltas {
        let delta = matrix(delta, rows, columns);
        sum += delta;
        largest = largest.max(delta.norm_l2());
    }
    (sum, rounding(rows, columns, largest))
}

/// The nearest matrix with orthonormal columns: `P·Qᵀ` of `P·diag(s)·Qᵀ`; columns that depend on others stay within
/// their span.
fn polar(columns: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let svd = Svd::of(columns)?;
    let largest = svd.values.first().copied().unwrap_or(0.0);
    let rank = svd.above(rounding(columns.nrows(), columns.ncols(), largest));
    Ok(svd.u.subcols(0, rank) * svd.v.subcols(0, rank).transpose())
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}
