//! Singular value decompositions, in f64 on one thread: the same bits on any number of threads.
use faer::{Mat, MatRef};

use crate::error::{Error, Result};

/// `A = U·diag(s)·Vᵀ`: `u [m, k]`, `values [k]` from the largest, `v [n, k]`, with `k = min(m, n)`.
pub(super) struct Svd {
    pub(super) u: Mat<f64>,
    pub(super) values: Vec<f64>,
    pub(super) v: Mat<f64>,
}

impl Svd {
    /// Of a matrix of finite numbers.
    pub(super) fn of(matrix: MatRef<'_, f64>) -> Result<Self> {
        let svd = matrix.thin_svd().map_err(|_| Error::Unsupported {
            what: format!("a matrix [{}, {}] whose singular values do not converge", matrix.nrows(), matrix.ncols()),
            instead: "use another method".into(),
        })?;
        let values = svd.S().column_vector().iter().copied().collect();
        Ok(Self { u: svd.U().to_owned(), values, v: svd.V().to_owned() })
    }

    /// How many singular values are larger than `floor`.
    pub(super) fn above(&self, floor: f64) -> usize {
        self.values.iter().take_while(|value| **value > floor).count()
    }
}

/// A row-major tensor `[rows, columns]` as a matrix.
pub(super) fn matrix(data: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(data, rows, columns)
}

/// A matrix as a row-major tensor.
pub(super) fn row_major(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)])).collect()
}

/// What rounding alone can make of a singular value that is zero, in matrices `[m, n]` made of others whose norm is
/// `norm`.
pub(super) fn rounding(m: usize, n: usize, norm: f64) -> f64 {
    m.max(n) as f64 * f64::EPSILON * norm
}
