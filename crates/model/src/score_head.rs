//! The score head: K numbers of a hidden state, and the way back.
//!
//! ```text
//! v[i,k] = ⟨hidden[r_i], W[k]⟩        dhidden[r_i] += Σ_k dv[i,k] W[k]        dW[k] += Σ_i dv[i,k] hidden[r_i]
//! ```
//!
//! The products are K·H numbers a row where a layer has some 12·H², and few rows are asked for: they are written out here, in one
//! order on any number of threads.
use candlewick_kernels::Float;

use crate::error::{Error, Result};
use crate::packed::Packed;

/// Sums that a product is cut into, so that it is not one long chain.
const LANES: usize = 8;

/// Which hidden states a [`ScoreModel`](crate::ScoreModel) makes numbers of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoredAt {
    /// That of the last token of each completion, the token that ends the text included; of the prompt's last token where the
    /// completion is empty: `[completions, K]`.
    Completions,
    /// That of the token before each target, from which the target is predicted, as the value of a state in which the
    /// target is the action: `[targets, K]`.
    Targets,
}

impl ScoredAt {
    /// The rows of the hidden states, in order.
    pub(crate) fn rows(self, packed: &Packed) -> Result<Vec<usize>> {
        if self == Self::Targets {
            return Ok(packed.targets().iter().map(|target| target.hidden_row as usize).collect());
        }
        let segments = packed.segments().iter();
        let last = segments.flat_map(|segment| {
            segment.completions.iter().map(|completion| completion.clone().last().or(segment.prompt.clone().last()))
        });
        let empty = || Error::Input("a completion and its prompt are both empty, and there is nothing to score".into());
        last.map(|row| row.ok_or_else(empty)).collect()
    }
}

/// The numbers `[rows, K]` of rows of `hidden` `[tokens, H]`, with `weight` `[K, H]`.
pub(crate) fn forward<T: Float>(hidden: &[T], rows: &[usize], weight: &[T], size: usize) -> Vec<T> {
    let of_row = |row: &usize| {
        let state = &hidden[row * size..][..size];
        weight.chunks_exact(size).map(move |weight| dot(state, weight))
    };
    rows.iter().flat_map(of_row).collect()
}

/// Those rows of `hidden`, `[rows, H]`.
pub(crate) fn states<T: Float>(hidden: &[T], rows: &[usize], size: usize) -> Vec<T> {
    rows.iter().flat_map(|row| &hidden[row * size..][..size]).copied().collect()
}

/// Adds to `d_hidden` `[tokens, H]` and to `d_weight` `[K, H]`, given `d` `[rows, K]`.
pub(crate) fn backward<T: Float>(
    hidden: &[T],
    rows: &[usize],
    weight: &[T],
    d: &[T],
    d_hidden: &mut [T],
    d_weight: &mut [T],
    size: usize,
) {
    let heads = weight.len() / size;
    for (row, d) in rows.iter().zip(d.chunks_exact(heads)) {
        let place = row * size..(row + 1) * size;
        for (k, d) in d.iter().enumerate() {
            add_scaled(&mut d_hidden[place.clone()], *d, &weight[k * size..][..size]);
            add_scaled(&mut d_weight[k * size..][..size], *d, &hidden[place.clone()]);
        }
    }
}

fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [T::ZERO; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let mut sum = T::ZERO;
    sums.into_iter().for_each(|lane| sum += lane);
    a_rest.iter().zip(b_rest).for_each(|(a, b)| sum += *a * *b);
    sum
}

fn add_scaled<T: Float>(to: &mut [T], scale: T, from: &[T]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += scale * *from);
}
