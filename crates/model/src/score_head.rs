//! The score head: K numbers of a hidden state, and the way back.
//!
//! ```text
//! v[i,k] = ⟨hidden[r_i], W[k]⟩        dhidden[r_i] += Σ_k dv[i,k] W[k]        dW[k] += Σ_i dv[i,k] hidden[r_i]
//! ```
//!
//! The products are K·H numbers a row where a layer has some 12·H², and few rows are asked for: they are written out here, in one
//! order on any number of threads. On a device the rows are gathered first, and the products are made in the type of sums: the
//! numbers of a bf16 model are f32, and not rounded.
use candlewick_kernels::embedding::{self, BucketViews, Buckets};
use candlewick_kernels::{Buffer, Cuda, Element, Float, View, ViewMut, Workspace, elementwise, linear};

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
    pub(crate) fn rows(self, packed: &Packed) -> Result<Vec<u32>> {
        if self == Self::Targets {
            return Ok(packed.targets().iter().map(|target| target.hidden_row).collect());
        }
        let segments = packed.segments().iter();
        let last = segments.flat_map(|segment| {
            segment.completions.iter().map(|completion| completion.clone().last().or(segment.prompt.clone().last()))
        });
        let empty = || Error::Input("a completion and its prompt are both empty, and there is nothing to score".into());
        last.map(|row| row.map(|row| row as u32).ok_or_else(empty)).collect()
    }
}

/// What the heads of a model are and read: their weight `[K, H]`, hidden states `[tokens, H]`, and which rows of those.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a, T: Element> {
    pub(crate) weight: View<'a, T>,
    pub(crate) hidden: &'a Buffer<T>,
    pub(crate) rows: &'a [u32],
    /// The width of a hidden state, `H`.
    pub(crate) size: usize,
}

/// What works on the host.
const OP: &str = "score heads";

impl<T: Element> Operands<'_, T> {
    /// The numbers `[rows, K]`, and the states they are made of where those had to be gathered.
    pub(crate) fn forward(&self, workspace: &mut Workspace) -> Result<(Numbers<T>, GatheredStates<T::Wide>)> {
        let Some(device) = self.hidden.device() else {
            let (hidden, weight) = (self.hidden.view().cpu(OP)?, self.weight.cpu(OP)?);
            return Ok((host_forward(hidden, self.rows, weight, self.size), None));
        };
        let states = self.gather(device, workspace)?;
        let weight = self.wide_weight(workspace)?;
        let mut values = workspace.lend(self.rows.len() * self.heads())?;
        let (x, y) = (states.view(), values.view_mut());
        linear::forward(x, weight.view(), y, self.shape(), T::Wide::ONE, false, workspace)?;
        let numbers = values.to_host()?;
        workspace.reclaim_all([weight, values]);
        Ok((numbers, Some(states)))
    }

    /// The gradient of all hidden states, `[tokens, H]`; adds to that of the weight, `[K, H]`, given those of the numbers,
    /// `[rows, K]`.
    pub(crate) fn backward(
        &self,
        gathered: GatheredStates<T::Wide>,
        d: &[T::Wide],
        mut d_weight: ViewMut<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<Buffer<T>> {
        let (Some(states), Some(device)) = (gathered, self.hidden.device()) else {
            let (hidden, weight) = (self.hidden.view().cpu(OP)?, self.weight.cpu(OP)?);
            let mut d_hidden = workspace.lend_zeros(self.hidden.len())?;
            let to = d_hidden.view_mut().cpu(OP)?;
            host_backward(hidden, self.rows, weight, d, to, d_weight.reborrow().cpu(OP)?, self.size);
            return Ok(d_hidden);
        };
        let d = Buffer::upload(d, device)?;
        let (one, shape) = (T::Wide::ONE, self.shape());
        linear::backward_weight(states.view(), d.view(), d_weight, shape, one, true, workspace)?;
        // The gathered states are read no more: their gradients take their place.
        let mut d_states = states;
        let weight = self.wide_weight(workspace)?;
        linear::backward_input(d.view(), weight.view(), d_states.view_mut(), shape, one, false, workspace)?;
        let d_hidden = self.spread(device, &d_states, workspace)?;
        workspace.reclaim_all([d_states, weight]);
        Ok(d_hidden)
    }

    fn heads(&self) -> usize {
        self.weight.len() / self.size
    }

    fn shape(&self) -> linear::Shape {
        linear::Shape { rows: self.rows.len(), in_features: self.size, out_features: self.heads() }
    }

    fn wide_weight(&self, workspace: &mut Workspace) -> Result<Buffer<T::Wide>> {
        let mut weight = workspace.lend(self.weight.len())?;
        elementwise::widen::<T>(weight.view_mut(), self.weight, workspace)?;
        Ok(weight)
    }

    /// The states that the rows name, `[rows, H]`.
    fn gather(&self, device: &Cuda, workspace: &mut Workspace) -> Result<Buffer<T::Wide>> {
        let rows = device.upload(self.rows)?;
        let count = self.rows.len() * self.size;
        let (mut states, mut wide) = (workspace.lend::<T>(count)?, workspace.lend(count)?);
        embedding::gather(rows.view(), self.hidden.view(), states.view_mut(), self.size, workspace)?;
        elementwise::widen::<T>(wide.view_mut(), states.view(), workspace)?;
        workspace.reclaim(states);
        Ok(wide)
    }

    /// Gradients of all hidden states, `[tokens, H]`, of those of the rows, `[rows, H]`: a state that several rows name has their
    /// sum, in their order, and one that none names has zero.
    fn spread(&self, device: &Cuda, d_states: &Buffer<T::Wide>, workspace: &mut Workspace) -> Result<Buffer<T>> {
        let Buckets { ids: named, starts, members } = Buckets::of(self.rows);
        let places: Vec<u32> = (0..named.len() as u32).collect();
        let (ids, starts, members) = (device.upload(&places)?, device.upload(&starts)?, device.upload(&members)?);
        let buckets = BucketViews { ids: ids.view(), starts: starts.view(), members: members.view() };
        // One row more, which stays zero and is that of the states that no row names.
        let count = (named.len() + 1) * self.size;
        let (mut sums, mut narrow) = (workspace.lend_zeros(count)?, workspace.lend::<T>(count)?);
        embedding::scatter::<T::Wide>(buckets, d_states.view(), sums.view_mut(), self.size)?;
        elementwise::narrow::<T>(narrow.view_mut(), sums.view(), workspace)?;
        let mut place = vec![named.len() as u32; self.hidden.len() / self.size];
        named.iter().zip(places).for_each(|(&row, sum)| place[row as usize] = sum);
        let mut d_hidden = workspace.lend(self.hidden.len())?;
        let place = device.upload(&place)?;
        embedding::gather(place.view(), narrow.view(), d_hidden.view_mut(), self.size, workspace)?;
        workspace.reclaim(sums);
        workspace.reclaim(narrow);
        Ok(d_hidden)
    }
}

/// Numbers of a model of `T` on the host, in the type of its sums.
pub(crate) type Numbers<T> = Vec<<T as Element>::Wide>;

/// Of a device: the states that heads read, `[rows, H]`.
pub(crate) type GatheredStates<W> = Option<Buffer<W>>;

/// Rows of hidden states `[tokens, H]` on the host, `[rows, H]`, of which a forward pass may have gathered those of a device.
pub(crate) fn states<T: Element>(
    hidden: &Buffer<T>,
    rows: &[u32],
    size: usize,
    gathered: &GatheredStates<T::Wide>,
) -> Result<Vec<T::Wide>> {
    if let Some(states) = gathered {
        return Ok(states.to_host()?);
    }
    let hidden = hidden.view().cpu(OP)?;
    Ok(rows.iter().flat_map(|row| &hidden[*row as usize * size..][..size]).copied().collect())
}

/// The numbers `[rows, K]` of rows of `hidden` `[tokens, H]`, with `weight` `[K, H]`.
fn host_forward<T: Float>(hidden: &[T], rows: &[u32], weight: &[T], size: usize) -> Vec<T> {
    let of_row = |row: &u32| {
        let state = &hidden[*row as usize * size..][..size];
        weight.chunks_exact(size).map(move |weight| dot(state, weight))
    };
    rows.iter().flat_map(of_row).collect()
}

/// Adds to `d_hidden` `[tokens, H]` and to `d_weight` `[K, H]`, given `d` `[rows, K]`.
fn host_backward<T: Float>(
    hidden: &[T],
    rows: &[u32],
    weight: &[T],
    d: &[T],
    d_hidden: &mut [T],
    d_weight: &mut [T],
    size: usize,
) {
    let heads = weight.len() / size;
    for (row, d) in rows.iter().zip(d.chunks_exact(heads)) {
        let place = *row as usize * size..(*row as usize + 1) * size;
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
