//! Scores of tokens: what every loss starts from.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Log-probabilities of the scored tokens of `N` rows, `T` token slots each.
///
/// A row is one completion. Slots beyond its length, and slots that are not
/// scored, carry mask 0 and value 0: whatever stood there (NaN and −∞ among it)
/// neither reaches a loss nor receives a gradient.
///
/// All tensors are `[N, T]`, `f32` or `f64`, and differentiable by candle's
/// autograd with respect to what they were made from.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::TokenScores;
/// let log_probs = Tensor::new(&[[-1.0f64, -2.0], [-4.0, f64::NAN]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1.0f64, 1.0], [1.0, 0.0]], &Device::Cpu)?;
/// let scores = TokenScores::new(log_probs, mask)?;
/// assert_eq!(scores.lengths(), [2, 1]);
/// assert_eq!(scores.sums()?.to_vec1::<f64>()?, [-3.0, -4.0]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TokenScores {
    log_probs: Tensor,
    mask: Tensor,
    lengths: Arc<[usize]>,
    mean_log_probs: Option<Tensor>,
    log_sum_sq_probs: Option<Tensor>,
    entropy: Option<Tensor>,
    is_top1: Option<Tensor>,
    given: Option<Tensor>,
    values: Option<Tensor>,
}

/// Statistics of a token's output distribution that a loss may ask for, beside
/// the log-probability of the token, which is always there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outputs {
    /// `Σ_v log p_v / V`: see [`TokenScores::mean_log_probs`].
    pub mean_log_probs: bool,
    /// `log Σ_v p_v²`: see [`TokenScores::log_sum_sq_probs`].
    pub log_sum_sq_probs: bool,
    /// `−Σ_v p_v log p_v`: see [`TokenScores::entropy`].
    pub entropy: bool,
    /// Whether the token has the highest probability: see [`TokenScores::is_top1`].
    pub is_top1: bool,
    /// Log-probabilities of tokens that a teacher named: see [`TokenScores::given`].
    pub given: bool,
    /// Numbers of whole rows, by the heads of a score model: see [`TokenScores::values`].
    pub values: bool,
}

impl TokenScores {
    /// Scores from log-probabilities `[N, T]` and a mask `[N, T]` of the same
    /// dtype that holds 1 where a token is scored and 0 elsewhere.
    ///
    /// # Errors
    /// If the shapes or dtypes differ, the dtype is not `f32` or `f64`, or the
    /// mask holds another value.
    pub fn new(log_probs: Tensor, mask: Tensor) -> Result<Self> {
        check_matrix("log_probs", &log_probs)?;
        check_like("mask", &mask, &log_probs)?;
        let mask = mask.detach();
        let lengths = lengths(&mask)?;
        let log_probs = keep_scored(&log_probs, &mask)?;
        Ok(Self {
            log_probs,
            mask,
            lengths: lengths.into(),
            mean_log_probs: None,
            log_sum_sq_probs: None,
            entropy: None,
            is_top1: None,
            given: None,
            values: None,
        })
    }

    /// Scores `[N, T]` of which every slot counts.
    ///
    /// # Errors
    /// If the tensor is not an `f32` or `f64` matrix.
    pub fn unmasked(log_probs: Tensor) -> Result<Self> {
        check_matrix("log_probs", &log_probs)?;
        let mask = log_probs.ones_like()?;
        Self::new(log_probs, mask)
    }

    /// Adds the mean over the vocabulary of the log-probabilities, `[N, T]`.
    ///
    /// # Errors
    /// If shape or dtype differ from those of the log-probabilities.
    pub fn with_mean_log_probs(mut self, values: Tensor) -> Result<Self> {
        self.mean_log_probs = Some(self.statistic("mean_log_probs", &values)?);
        Ok(self)
    }

    /// Adds `log Σ_v p_v²` of every slot, `[N, T]`.
    ///
    /// # Errors
    /// If shape or dtype differ from those of the log-probabilities.
    pub fn with_log_sum_sq_probs(mut self, values: Tensor) -> Result<Self> {
        self.log_sum_sq_probs = Some(self.statistic("log_sum_sq_probs", &values)?);
        Ok(self)
    }

    /// Adds the entropy of every slot's distribution in nats, `[N, T]`.
    ///
    /// # Errors
    /// If shape or dtype differ from those of the log-probabilities.
    pub fn with_entropy(mut self, values: Tensor) -> Result<Self> {
        self.entropy = Some(self.statistic("entropy", &values)?);
        Ok(self)
    }

    /// Adds 1 where the scored token is the most probable one and 0 elsewhere, `[N, T]`.
    ///
    /// # Errors
    /// If shape or dtype differ from those of the log-probabilities.
    pub fn with_is_top1(mut self, values: Tensor) -> Result<Self> {
        self.is_top1 = Some(self.statistic("is_top1", &values)?.detach());
        Ok(self)
    }

    /// Adds the log-probabilities of `K` given tokens at every slot, `[N, T, K]`; differentiable.
    ///
    /// # Errors
    /// If the first two dimensions or the dtype differ from those of the log-probabilities.
    pub fn with_given(mut self, values: Tensor) -> Result<Self> {
        let what = "given";
        if values.rank() != 3 || values.dims()[..2] != *self.log_probs.dims() {
            let expected = format!("[{}, {}, K]", self.rows(), self.slots());
            return Err(Error::Shape { what, got: values.dims().to_vec(), expected });
        }
        if values.dtype() != self.log_probs.dtype() {
            let expected = format!("{}, that of the log-probabilities", self.log_probs.dtype().as_str());
            return Err(Error::DType { what, got: values.dtype().as_str().to_owned(), expected });
        }
        let mask = self.mask.unsqueeze(2)?.broadcast_as(values.dims())?.contiguous()?;
        self.given = Some(keep_scored(&values, &mask)?);
        Ok(self)
    }

    /// Scores of rows of which a score model says `K` numbers each, `[N, K]`, and no log-probability: those are 0.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candlewick_losses::TokenScores;
    /// let scores = TokenScores::of_values(Tensor::new(&[[0.5f64, -1.0], [2.0, 3.0]], &Device::Cpu)?)?;
    /// assert_eq!((scores.rows(), scores.outputs().values), (2, true));
    /// # Ok::<(), candlewick_losses::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the tensor is not an `f32` or `f64` matrix.
    pub fn of_values(values: Tensor) -> Result<Self> {
        check_matrix("values", &values)?;
        let zeros = Tensor::zeros((values.dims()[0], 1), values.dtype(), values.device())?;
        Self::unmasked(zeros)?.with_values(values)
    }

    /// Adds `K` numbers of every row, `[N, K]`: what the heads of a score model say of it. Differentiable.
    ///
    /// # Errors
    /// If the first dimension or the dtype differ from those of the log-probabilities.
    pub fn with_values(mut self, values: Tensor) -> Result<Self> {
        let what = "values";
        if values.rank() != 2 || values.dims()[0] != self.rows() {
            let expected = format!("[{}, K]", self.rows());
            return Err(Error::Shape { what, got: values.dims().to_vec(), expected });
        }
        if values.dtype() != self.log_probs.dtype() {
            let expected = format!("{}, that of the log-probabilities", self.log_probs.dtype().as_str());
            return Err(Error::DType { what, got: values.dtype().as_str().to_owned(), expected });
        }
        self.values = Some(values);
        Ok(self)
    }

    /// Log-probabilities in nats, `[N, T]`; 0 where the mask is 0.
    pub fn log_probs(&self) -> &Tensor {
        &self.log_probs
    }

    /// 1 where a token is scored and 0 elsewhere, `[N, T]`.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// Mean over the vocabulary of the log-probabilities, `[N, T]`, if it was asked for.
    pub fn mean_log_probs(&self) -> Option<&Tensor> {
        self.mean_log_probs.as_ref()
    }

    /// `log Σ_v p_v²`, `[N, T]`, if it was asked for.
    pub fn log_sum_sq_probs(&self) -> Option<&Tensor> {
        self.log_sum_sq_probs.as_ref()
    }

    /// Entropy in nats, `[N, T]`, if it was asked for.
    pub fn entropy(&self) -> Option<&Tensor> {
        self.entropy.as_ref()
    }

    /// 1 where the scored token is the most probable one, `[N, T]`, if it was asked for.
    pub fn is_top1(&self) -> Option<&Tensor> {
        self.is_top1.as_ref()
    }

    /// Log-probabilities of `K` given tokens at every slot, `[N, T, K]`, if they were asked for; 0 where the mask is 0.
    pub fn given(&self) -> Option<&Tensor> {
        self.given.as_ref()
    }

    /// `K` numbers of every row, `[N, K]`, if it was asked for: rewards or costs by the heads of a score model.
    pub fn values(&self) -> Option<&Tensor> {
        self.values.as_ref()
    }

    /// Number of scored tokens of every row, `[N]`, on the host.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of rows, `N`.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Number of token slots, `T`.
    pub fn slots(&self) -> usize {
        self.log_probs.dims()[1]
    }

    /// The statistics that are there.
    pub fn outputs(&self) -> Outputs {
        Outputs {
            mean_log_probs: self.mean_log_probs.is_some(),
            log_sum_sq_probs: self.log_sum_sq_probs.is_some(),
            entropy: self.entropy.is_some(),
            is_top1: self.is_top1.is_some(),
            given: self.given.is_some(),
            values: self.values.is_some(),
        }
    }

    /// The same numbers, cut from the autograd graph.
    #[must_use]
    pub fn detach(&self) -> Self {
        let detach = |values: &Option<Tensor>| values.as_ref().map(Tensor::detach);
        Self {
            log_probs: self.log_probs.detach(),
            mask: self.mask.clone(),
            lengths: self.lengths.clone(),
            mean_log_probs: detach(&self.mean_log_probs),
            log_sum_sq_probs: detach(&self.log_sum_sq_probs),
            entropy: detach(&self.entropy),
            is_top1: detach(&self.is_top1),
            given: detach(&self.given),
            values: detach(&self.values),
        }
    }

    /// The given rows in the given order, `[rows.len(), T]`; differentiable.
    ///
    /// # Errors
    /// If a row is out of range.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let pick = |values: &Option<Tensor>| values.as_ref().map(|values| select_rows(values, rows)).transpose();
        let log_probs = select_rows(&self.log_probs, rows)?;
        Ok(Self {
            log_probs,
            mask: select_rows(&self.mask, rows)?,
            lengths: rows.iter().map(|&row| self.lengths[row]).collect(),
            mean_log_probs: pick(&self.mean_log_probs)?,
            log_sum_sq_probs: pick(&self.log_sum_sq_probs)?,
            entropy: pick(&self.entropy)?,
            is_top1: pick(&self.is_top1)?,
            given: pick(&self.given)?,
            values: pick(&self.values)?,
        })
    }

    /// Log-probability of every row, `Σ_t log p_t` in nats, `[N]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn sums(&self) -> Result<Tensor> {
        Ok(self.log_probs.sum(1)?)
    }

    /// The same rows and statistics with other log-probabilities of the scored tokens, `[N, T]`.
    pub(crate) fn with_log_probs(&self, log_probs: &Tensor) -> Result<Self> {
        check_like("log_probs", log_probs, &self.log_probs)?;
        Ok(Self { log_probs: keep_scored(log_probs, &self.mask)?, ..self.clone() })
    }

    fn statistic(&self, what: &'static str, values: &Tensor) -> Result<Tensor> {
        check_like(what, values, &self.log_probs)?;
        keep_scored(values, &self.mask)
    }
}

impl Outputs {
    /// None of the statistics.
    pub const NONE: Self = Self {
        mean_log_probs: false,
        log_sum_sq_probs: false,
        entropy: false,
        is_top1: false,
        given: false,
        values: false,
    };

    /// The statistics that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            mean_log_probs: self.mean_log_probs || other.mean_log_probs,
            log_sum_sq_probs: self.log_sum_sq_probs || other.log_sum_sq_probs,
            entropy: self.entropy || other.entropy,
            is_top1: self.is_top1 || other.is_top1,
            given: self.given || other.given,
            values: self.values || other.values,
        }
    }

    /// The names of those of `self` that `there` lacks.
    pub(crate) fn missing_from(self, there: Self) -> Vec<&'static str> {
        [
            ("mean_log_probs", self.mean_log_probs && !there.mean_log_probs),
            ("log_sum_sq_probs", self.log_sum_sq_probs && !there.log_sum_sq_probs),
            ("entropy", self.entropy && !there.entropy),
            ("is_top1", self.is_top1 && !there.is_top1),
            ("given", self.given && !there.given),
            ("values", self.values && !there.values),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect()
    }
}

/// Values on the host.
///
/// # Errors
/// If a tensor operation fails.
pub(crate) fn host(values: &Tensor) -> Result<Vec<f64>> {
    Ok(values.detach().to_dtype(DType::F64)?.to_vec1()?)
}

/// Numbers of rows, `[N]`, divided by the scored tokens of each; of an empty row, by 1. Differentiable.
pub(crate) fn per_token(rows: &Tensor, lengths: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let inverse = lengths.into_iter().map(|length| 1.0 / length.max(1) as f64);
    let inverse = Tensor::from_iter(inverse, rows.device())?.to_dtype(rows.dtype())?;
    Ok((rows * inverse)?)
}

/// Rows of an `[N, …]` tensor; an empty selection gives `[0, …]` outside the graph.
pub(crate) fn select_rows(values: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let count = values.dims()[0];
    if let Some(&row) = rows.iter().find(|&&row| row >= count) {
        return Err(Error::RowOutOfRange { group: "selection".to_owned(), row, rows: count });
    }
    if rows.is_empty() {
        let mut dims = values.dims().to_vec();
        dims[0] = 0;
        return Ok(Tensor::zeros(dims, values.dtype(), values.device())?);
    }
    // Row counts are far below 2³²: a batch is bounded by memory.
    let indices: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    let indices = Tensor::new(indices, values.device())?;
    Ok(values.index_select(&indices, 0)?)
}

fn check_matrix(what: &'static str, values: &Tensor) -> Result<()> {
    if values.rank() != 2 {
        let expected = "[N, T]".to_owned();
        return Err(Error::Shape { what, got: values.dims().to_vec(), expected });
    }
    match values.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other => Err(Error::DType { what, got: other.as_str().to_owned(), expected: "f32 or f64".to_owned() }),
    }
}

fn check_like(what: &'static str, values: &Tensor, like: &Tensor) -> Result<()> {
    if values.dims() != like.dims() {
        let expected = format!("{:?}, that of the log-probabilities", like.dims());
        return Err(Error::Shape { what, got: values.dims().to_vec(), expected });
    }
    if values.dtype() != like.dtype() {
        let expected = format!("{}, that of the log-probabilities", like.dtype().as_str());
        return Err(Error::DType { what, got: values.dtype().as_str().to_owned(), expected });
    }
    Ok(())
}

fn lengths(mask: &Tensor) -> Result<Vec<usize>> {
    let host = mask.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    host.iter().enumerate().map(|(row, slots)| row_length(row, slots)).collect()
}

#[expect(clippy::float_cmp, reason = "a mask holds exactly 0 or 1; anything else is an error")]
fn row_length(row: usize, slots: &[f64]) -> Result<usize> {
    if let Some((slot, &got)) = slots.iter().enumerate().find(|&(_, &value)| value != 0.0 && value != 1.0) {
        return Err(Error::Mask { row, slot, got });
    }
    Ok(slots.iter().filter(|&&value| value == 1.0).count())
}

// A product with the mask would keep NaN and turn −∞ into NaN; a selection does neither.
fn keep_scored(values: &Tensor, mask: &Tensor) -> Result<Tensor> {
    if values.elem_count() == 0 {
        return Ok(values.clone());
    }
    let zeros = values.detach().zeros_like()?;
    Ok(mask.gt(0.5)?.where_cond(values, &zeros)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn matrix(values: &[[f64; 2]; 2]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn what_stands_under_the_mask_reaches_nothing() {
        let raw = Var::from_tensor(&matrix(&[[-1.0, f64::NAN], [f64::NEG_INFINITY, -3.0]])).unwrap();
        let scores = TokenScores::new(raw.as_tensor().clone(), matrix(&[[1.0, 0.0], [0.0, 1.0]])).unwrap();
        assert_eq!(scores.sums().unwrap().to_vec1::<f64>().unwrap(), [-1.0, -3.0]);
        let grads = scores.sums().unwrap().sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&raw).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(grad, [[1.0, 0.0], [0.0, 1.0]]);
    }

    #[test]
    fn a_mask_is_zero_or_one() {
        let error = TokenScores::new(matrix(&[[0.0; 2]; 2]), matrix(&[[1.0, 0.0], [0.5, 1.0]])).unwrap_err();
        assert_eq!(error.to_string(), "mask, row 1, slot 0: got 0.5, expected 0 (not scored) or 1 (scored)");
    }

    #[test]
    fn shapes_and_dtypes_are_checked() {
        let ids = Tensor::zeros((2, 2), DType::U32, &Device::Cpu).unwrap();
        assert!(matches!(TokenScores::unmasked(ids.clone()), Err(Error::DType { .. })));
        let flat = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(TokenScores::unmasked(flat), Err(Error::Shape { .. })));
        let scores = TokenScores::unmasked(matrix(&[[0.0; 2]; 2])).unwrap();
        assert!(matches!(scores.with_entropy(ids), Err(Error::DType { .. })));
    }

    #[test]
    fn rows_are_selected_with_all_that_belongs_to_them() {
        let scores = TokenScores::unmasked(matrix(&[[-1.0, -2.0], [-3.0, -4.0]]))
            .unwrap()
            .with_entropy(matrix(&[[0.1, 0.2], [0.3, 0.4]]))
            .unwrap();
        let second = scores.select(&[1]).unwrap();
        assert_eq!(second.log_probs().to_vec2::<f64>().unwrap(), [[-3.0, -4.0]]);
        assert_eq!(second.entropy().unwrap().to_vec2::<f64>().unwrap(), [[0.3, 0.4]]);
        assert!(second.is_top1().is_none());
        assert!(matches!(scores.select(&[2]), Err(Error::RowOutOfRange { row: 2, rows: 2, .. })));
    }
}
