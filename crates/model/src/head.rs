//! The token head: log-probabilities of targets, and the way back.
use candlewick_kernels::{
    Buffer, Cuda, Element, Float, View, ViewMut, Workspace, elementwise, linear, token_log_probs,
};

use crate::adapter::{HEAD_MODULE, Lora, LoraPair};
use crate::causal_lm::{CausalLm, HeadCotangents, HeadScores, Statistics};
use crate::error::{Error, Result};
use crate::packed::Packed;
use crate::parameters::Gradients;
use crate::staged::Staged;
use crate::trunk::Adapter;

/// The kernel chooses how many rows a chunk has.
const AUTOMATIC: usize = 0;

/// Largest softmax (on a device: logits) that a forward pass keeps for its backward, in numbers: 1 GiB of f32. Beyond it the
/// logits are made again.
pub(crate) const MOST_KEPT: usize = 1 << 28;

/// Whether a backward follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    Nothing,
    ForBackward,
}

/// What the head's backward needs beside the hidden states.
#[derive(Debug)]
pub(crate) struct HeadSaved<T: Element> {
    lse: Buffer<T::Wide>,
    /// `W + s B A`, where the head itself has an adapter. It is made anew for each pass, and not taken from the workspace.
    adapted: Option<Buffer<T>>,
    kept: Kept<T>,
}

/// What spares the backward the logits.
#[derive(Debug)]
enum Kept<T> {
    Nothing,
    /// The exponentials are made anew for each pass, so that their memory goes back to the system after the head's backward: the
    /// gradients of the layers, most of which are not there before, take its place.
    Softmax {
        exps: Buffer<T>,
        factors: Buffer<T>,
    },
    /// On a device.
    Logits(Buffer<T>),
    Pulls(Buffer<T>),
}

impl<T: Element> Kept<T> {
    fn take(targets: usize, head: &token_log_probs::Shape, trained: bool, workspace: &mut Workspace) -> Result<Self> {
        let on_device = workspace.device().is_some();
        let stride = if on_device { token_log_probs::logits_stride::<T>(head.vocab) } else { head.vocab };
        Ok(match (trained, targets * stride <= MOST_KEPT) {
            (false, _) => Self::Pulls(workspace.lend(targets * head.hidden)?),
            (true, false) => Self::Nothing,
            (true, true) if on_device => Self::Logits(workspace.lend(targets * stride)?),
            (true, true) => Self::Softmax {
                exps: Buffer::zeros(targets * head.vocab, None)?,
                factors: workspace.lend(targets * token_log_probs::blocks(head.vocab))?,
            },
        })
    }

    fn release(self, workspace: &mut Workspace) {
        match self {
            Self::Nothing => {}
            Self::Softmax { factors, .. } => workspace.reclaim(factors),
            Self::Logits(buffer) | Self::Pulls(buffer) => workspace.reclaim(buffer),
        }
    }
}

impl<T: Element> HeadSaved<T> {
    /// Returns the buffers to the workspace.
    pub(crate) fn release(self, workspace: &mut Workspace) {
        self.kept.release(workspace);
        workspace.reclaim(self.lse);
    }
}

/// Scores that a pass writes, on a device perhaps only later: they are there once they are [`read`](Self::read). One kind lies behind
/// the other, so that those of a device come to the host at once.
#[derive(Debug)]
pub struct QueuedScores<W> {
    numbers: Buffer<W>,
    /// How many there are of each kind that is wanted, in the order of the fields of [`HeadScores`].
    lens: [Option<usize>; 6],
}

impl<W: Float> QueuedScores<W> {
    fn zeros(targets: usize, given: usize, want: Statistics, device: Option<&Cuda>) -> Result<Self> {
        let Statistics { mean_log_probs, log_sum_sq_probs, entropy, is_top1, given_log_probs } = want;
        let [mean, squares, entropy, top] =
            [mean_log_probs, log_sum_sq_probs, entropy, is_top1].map(|wanted| wanted.then_some(targets));
        let lens = [Some(targets), mean, squares, entropy, top, given_log_probs.then_some(given)];
        Ok(Self { numbers: Buffer::zeros(lens.iter().flatten().sum(), device)?, lens })
    }

    fn outputs(&mut self) -> Result<token_log_probs::Outputs<'_, W>> {
        let mut rest = self.numbers.view_mut();
        let mut next = |len: Option<usize>| -> Result<Option<ViewMut<'_, W>>> {
            let Some(len) = len else { return Ok(None) };
            let (part, behind) = std::mem::replace(&mut rest, ViewMut::from(&mut [][..])).split_at(len)?;
            rest = behind;
            Ok(Some(part))
        };
        let [log_probs, mean, squares, entropy, top, given] = self.lens;
        Ok(token_log_probs::Outputs {
            log_probs: next(log_probs)?.expect("log-probabilities are always wanted"),
            mean_log_probs: next(mean)?,
            log_sum_sq_probs: next(squares)?,
            entropy: next(entropy)?,
            is_top1: next(top)?,
            given_log_probs: next(given)?,
        })
    }

    /// The scores, on the host. A device is waited for until it has done all that was queued.
    ///
    /// # Errors
    /// The driver of the device reports an error, of anything that was queued.
    pub fn read(self) -> Result<HeadScores<W>> {
        let mut numbers = self.numbers.into_wide()?;
        // From the last on: what stays is not copied.
        let mut last = |len: Option<usize>| len.map(|len| numbers.split_off(numbers.len() - len));
        let [_, mean, squares, entropy, top, given] = self.lens;
        let given_log_probs = last(given);
        let is_top1 = last(top);
        let entropy = last(entropy);
        let log_sum_sq_probs = last(squares);
        let mean_log_probs = last(mean);
        Ok(HeadScores { log_probs: numbers, mean_log_probs, log_sum_sq_probs, entropy, is_top1, given_log_probs })
    }
}

/// Cotangents where the ops read them.
struct Read<'a, W> {
    /// In the order of the fields of [`HeadCotangents`].
    host: [Option<&'a [W]>; 5],
    /// All of them on a device, one kind behind the other: they go there at once.
    copies: Option<Buffer<W>>,
}

impl<'a, W: Float> Read<'a, W> {
    fn new(d: &'a HeadCotangents<W>, device: Option<&Cuda>) -> Result<Self> {
        let HeadCotangents { log_probs, mean_log_probs, log_sum_sq_probs, entropy, given_log_probs } = d;
        let host = [log_probs, mean_log_probs, log_sum_sq_probs, entropy, given_log_probs].map(Option::as_deref);
        let all = || host.iter().flatten().copied().collect::<Vec<_>>().concat();
        let copies = device.map(|device| Buffer::upload(&all(), device)).transpose()?;
        Ok(Self { host, copies })
    }

    fn cotangents(&self) -> Result<token_log_probs::Cotangents<'_, W>> {
        let mut start = 0;
        let mut next = |host: Option<&'a [W]>| -> Result<Option<View<'_, W>>> {
            let (Some(host), Some(copies)) = (host, &self.copies) else { return Ok(host.map(View::from)) };
            let part = copies.view().part(start..start + host.len())?;
            start += host.len();
            Ok(Some(part))
        };
        let [log_probs, mean, squares, entropy, given] = self.host;
        Ok(token_log_probs::Cotangents {
            log_probs: next(log_probs)?,
            mean_log_probs: next(mean)?,
            log_sum_sq_probs: next(squares)?,
            entropy: next(entropy)?,
            given_log_probs: next(given)?,
        })
    }
}

impl<T: Element> CausalLm<T> {
    /// Scores the targets from the hidden states `[rows, H]`.
    #[expect(clippy::too_many_arguments, reason = "the operands of one forward")]
    pub(crate) fn head(
        &self,
        hidden: &Buffer<T>,
        packed: &Packed,
        staged: &Staged,
        want: Statistics,
        adapter: Adapter,
        keeping: Keeping,
        workspace: &mut Workspace,
    ) -> Result<(QueuedScores<T::Wide>, HeadSaved<T>)> {
        let count = packed.targets().len();
        if want.given_log_probs && packed.given().is_empty() && count > 0 {
            return Err(Error::Input(
                "log-probabilities of further tokens are wanted, and the batch names none; add them by Packed::with_given"
                    .into(),
            ));
        }
        let mut scores = QueuedScores::<T::Wide>::zeros(count, packed.given().len(), want, hidden.device())?;
        let mut lse = workspace.lend(count)?;
        let adapted = self.adapted_head(adapter, workspace)?;
        let weight = adapted.as_ref().map_or_else(|| self.head_weight(), Buffer::view);
        let shape = self.head_shape(packed);
        // The gradients of statistics need the logits themselves; those of given tokens, their softmax.
        let statistics = want.mean_log_probs || want.log_sum_sq_probs || want.entropy;
        let trained = self.trunk.adapter.is_none() || adapted.is_some();
        let mut kept = match keeping {
            Keeping::ForBackward if !statistics && (trained || !want.given_log_probs) => {
                Kept::take(count, &shape, trained, workspace)?
            }
            _ => Kept::Nothing,
        };
        let keep = match &mut kept {
            Kept::Nothing => token_log_probs::Keep::Nothing,
            Kept::Softmax { exps, factors } => token_log_probs::Keep::Softmax(softmax(exps, factors)),
            Kept::Logits(logits) => token_log_probs::Keep::Logits(logits.view_mut()),
            Kept::Pulls(pulls) => token_log_probs::Keep::Pulls(pulls.view_mut()),
        };
        let targets = staged.targets(packed, want.given_log_probs);
        token_log_probs::forward(
            hidden.view(),
            weight,
            targets,
            scores.outputs()?,
            lse.view_mut(),
            keep,
            shape,
            workspace,
        )?;
        Ok((scores, HeadSaved { lse, adapted, kept }))
    }

    /// Adds to `d_hidden` `[rows, H]` and to the gradients of what of the head is trained.
    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    pub(crate) fn head_backward(
        &self,
        hidden: &Buffer<T>,
        mut saved: HeadSaved<T>,
        packed: &Packed,
        staged: &Staged,
        d: &HeadCotangents<T::Wide>,
        d_hidden: &mut Buffer<T>,
        gradients: &mut Gradients<T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let cotangents = Read::new(d, hidden.device())?;
        // The gradient of W + s B A, from which those of B and A follow.
        let mut d_adapted = match &saved.adapted {
            Some(weight) => Some(Buffer::<T::Wide>::zeros(weight.len(), weight.device())?),
            None => None,
        };
        let weight = saved.adapted.as_ref().map_or_else(|| self.head_weight(), Buffer::view);
        let d_weight = match (&mut d_adapted, self.trunk.adapter.is_none()) {
            (Some(d), _) => Some(d.view_mut()),
            (None, true) => Some(gradients.view_mut(self.trunk.places.head)),
            (None, false) => None,
        };
        let kept = match &mut saved.kept {
            Kept::Nothing => token_log_probs::Kept::Nothing,
            Kept::Softmax { exps, factors } => token_log_probs::Kept::Softmax(softmax(exps, factors)),
            Kept::Logits(logits) => token_log_probs::Kept::Logits(logits.view_mut()),
            Kept::Pulls(pulls) => token_log_probs::Kept::Pulls(pulls.view()),
        };
        token_log_probs::backward(
            hidden.view(),
            weight,
            staged.targets(packed, d.given_log_probs.is_some()),
            saved.lse.view(),
            kept,
            cotangents.cotangents()?,
            d_hidden.view_mut(),
            d_weight,
            self.head_shape(packed),
            workspace,
        )?;
        if let (Some(d), Some((lora, pair))) = (d_adapted, self.head_pair()) {
            // dB = s dW Aᵀ, dA = s Bᵀ dW; the rows are those of the vocabulary. On the host, where such adapters are.
            const OP: &str = "an adapter of the head";
            let (a, b) = (lora.parameters.view(pair.a).cpu(OP)?, lora.parameters.view(pair.b).cpu(OP)?);
            let scale = T::Wide::from_f64(pair.scale);
            let shape = linear::Shape {
                rows: self.config().vocab_size,
                in_features: self.config().hidden_size,
                out_features: pair.rank,
            };
            linear::forward(d.view(), a.into(), gradients.view_mut(pair.b), shape, scale, true, workspace)?;
            linear::backward_weight(d.view(), b.into(), gradients.view_mut(pair.a), shape, scale, true, workspace)?;
        }
        saved.release(workspace);
        Ok(())
    }

    /// `hidden Wᵀ`, `[rows, V]`.
    pub(crate) fn project(
        &self,
        hidden: View<'_, T>,
        rows: usize,
        mut logits: ViewMut<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let shape =
            linear::Shape { rows, in_features: self.config().hidden_size, out_features: self.config().vocab_size };
        linear::forward(hidden, self.head_weight(), logits.reborrow(), shape, T::Wide::ONE, false, workspace)?;
        let Some((lora, pair)) = self.head_pair() else { return Ok(()) };
        let mut low = workspace.lend(rows * pair.rank)?;
        let down = linear::Shape { out_features: pair.rank, ..shape };
        let up = linear::Shape { in_features: pair.rank, ..shape };
        let (a, b) = (lora.parameters.view(pair.a), lora.parameters.view(pair.b));
        linear::forward(hidden, a, low.view_mut(), down, T::Wide::ONE, false, workspace)?;
        linear::forward(low.view(), b, logits, up, T::Wide::from_f64(pair.scale), true, workspace)?;
        workspace.reclaim(low);
        Ok(())
    }

    fn adapted_head(&self, adapter: Adapter, workspace: &mut Workspace) -> Result<Option<Buffer<T>>> {
        let Some((lora, pair)) = self.head_pair().filter(|_| adapter == Adapter::On) else { return Ok(None) };
        let head = self.head_weight();
        let mut weight = Buffer::zeros(head.len(), self.trunk.base.device())?;
        elementwise::copy(weight.view_mut(), head)?;
        lora.add_product(pair, weight.view_mut(), workspace)?;
        Ok(Some(weight))
    }

    fn head_pair(&self) -> Option<(&Lora<T>, LoraPair)> {
        self.trunk.adapter.as_ref().and_then(|lora| Some((lora, lora.pair(HEAD_MODULE)?)))
    }

    fn head_weight(&self) -> View<'_, T> {
        self.trunk.base.view(self.trunk.places.head)
    }

    fn head_shape(&self, packed: &Packed) -> token_log_probs::Shape {
        token_log_probs::Shape {
            rows: packed.tokens(),
            hidden: self.config().hidden_size,
            vocab: self.config().vocab_size,
            targets: packed.targets().len(),
            chunk: AUTOMATIC,
        }
    }
}

fn softmax<'a, T>(exps: &'a mut Buffer<T>, factors: &'a mut Buffer<T>) -> token_log_probs::KeptSoftmax<'a, T> {
    token_log_probs::KeptSoftmax { exps: exps.into(), factors: factors.into() }
}
