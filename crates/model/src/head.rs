//! The token head: log-probabilities of targets, and the way back.
use candle_core::WithDType;
use candlewick_kernels::{Float, Workspace, copied, linear, token_log_probs, zeros};

use crate::adapter::{HEAD_MODULE, Lora, LoraPair};
use crate::causal_lm::{CausalLm, HeadCotangents, HeadScores, Statistics};
use crate::error::{Error, Result};
use crate::packed::Packed;
use crate::parameters::Gradients;
use crate::trunk::Adapter;

/// The kernel chooses how many rows a chunk has.
const AUTOMATIC: usize = 0;

/// Largest softmax that a forward pass keeps for its backward, in numbers: 1 GiB of f32. Beyond it the logits are made again.
pub(crate) const MOST_KEPT: usize = 1 << 28;

/// Whether a backward follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    Nothing,
    ForBackward,
}

/// What the head's backward needs beside the hidden states.
#[derive(Debug)]
pub(crate) struct HeadSaved<T> {
    lse: Vec<T>,
    /// `W + s B A`, where the head itself has an adapter. It is made anew for each pass, and not taken from the workspace.
    adapted: Option<Vec<T>>,
    kept: Kept<T>,
}

/// What spares the backward the logits.
#[derive(Debug)]
enum Kept<T> {
    Nothing,
    /// The exponentials are made anew for each pass, so that their memory goes back to the system after the head's backward: the
    /// gradients of the layers, most of which are not there before, take its place.
    Softmax {
        exps: Vec<T>,
        factors: Vec<T>,
    },
    Pulls(Vec<T>),
}

impl<T: Float> Kept<T> {
    fn take(targets: usize, head: &token_log_probs::Shape, trained: bool, workspace: &mut Workspace) -> Self {
        match trained {
            true if targets * head.vocab <= MOST_KEPT => Self::Softmax {
                exps: zeros(targets * head.vocab),
                factors: workspace.take(targets * token_log_probs::blocks(head.vocab)),
            },
            true => Self::Nothing,
            false => Self::Pulls(workspace.take(targets * head.hidden)),
        }
    }

    fn release(self, workspace: &mut Workspace) {
        match self {
            Self::Nothing => {}
            Self::Softmax { factors, .. } => workspace.give_back(factors),
            Self::Pulls(pulls) => workspace.give_back(pulls),
        }
    }
}

impl<T: Float> HeadSaved<T> {
    /// Returns the buffers to the workspace.
    pub(crate) fn release(self, workspace: &mut Workspace) {
        self.kept.release(workspace);
        workspace.give_back(self.lse);
    }
}

impl<T: Float + WithDType> CausalLm<T> {
    /// Scores the targets from the hidden states `[rows, H]`.
    pub(crate) fn head(
        &self,
        hidden: &[T],
        packed: &Packed,
        want: Statistics,
        adapter: Adapter,
        keeping: Keeping,
        workspace: &mut Workspace,
    ) -> Result<(HeadScores<T>, HeadSaved<T>)> {
        let count = packed.targets().len();
        let (rows, ids) = target_indices(packed);
        let wanted = |yes: bool| yes.then(|| vec![T::ZERO; count]);
        if want.given_log_probs && packed.given().is_empty() && count > 0 {
            return Err(Error::Input(
                "log-probabilities of further tokens are wanted, and the batch names none; add them by Packed::with_given"
                    .into(),
            ));
        }
        let given = if want.given_log_probs { packed.given() } else { &[] };
        let mut scores = HeadScores {
            log_probs: vec![T::ZERO; count],
            mean_log_probs: wanted(want.mean_log_probs),
            log_sum_sq_probs: wanted(want.log_sum_sq_probs),
            entropy: wanted(want.entropy),
            is_top1: wanted(want.is_top1),
            given_log_probs: want.given_log_probs.then(|| vec![T::ZERO; given.len()]),
        };
        let mut lse = workspace.take(count);
        let out = token_log_probs::Outputs {
            log_probs: (&mut scores.log_probs).into(),
            mean_log_probs: scores.mean_log_probs.as_mut().map(Into::into),
            log_sum_sq_probs: scores.log_sum_sq_probs.as_mut().map(Into::into),
            entropy: scores.entropy.as_mut().map(Into::into),
            is_top1: scores.is_top1.as_mut().map(Into::into),
            given_log_probs: scores.given_log_probs.as_mut().map(Into::into),
        };
        let adapted = self.adapted_head(adapter, workspace)?;
        let weight = adapted.as_deref().unwrap_or_else(|| self.head_weight());
        let shape = self.head_shape(packed);
        // The gradients of statistics need the logits themselves; those of given tokens, their softmax.
        let statistics = want.mean_log_probs || want.log_sum_sq_probs || want.entropy;
        let trained = self.trunk.adapter.is_none() || adapted.is_some();
        let mut kept = match keeping {
            Keeping::ForBackward if !statistics && (trained || !want.given_log_probs) => {
                Kept::take(count, &shape, trained, workspace)
            }
            _ => Kept::Nothing,
        };
        let keep = match &mut kept {
            Kept::Nothing => token_log_probs::Keep::Nothing,
            Kept::Softmax { exps, factors } => token_log_probs::Keep::Softmax(softmax(exps, factors)),
            Kept::Pulls(pulls) => token_log_probs::Keep::Pulls(pulls.into()),
        };
        token_log_probs::forward(
            hidden.into(),
            weight.into(),
            token_log_probs::Targets::new(&rows, &ids, given),
            out,
            (&mut lse).into(),
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
        hidden: &[T],
        mut saved: HeadSaved<T>,
        packed: &Packed,
        d: &HeadCotangents<T>,
        d_hidden: &mut [T],
        gradients: &mut Gradients<T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (rows, ids) = target_indices(packed);
        let cotangents = token_log_probs::Cotangents {
            log_probs: d.log_probs.as_ref().map(Into::into),
            mean_log_probs: d.mean_log_probs.as_ref().map(Into::into),
            log_sum_sq_probs: d.log_sum_sq_probs.as_ref().map(Into::into),
            entropy: d.entropy.as_ref().map(Into::into),
            given_log_probs: d.given_log_probs.as_ref().map(Into::into),
        };
        let given = if d.given_log_probs.is_some() { packed.given() } else { &[] };
        // The gradient of W + s B A, from which those of B and A follow.
        let mut d_adapted = saved.adapted.as_ref().map(|weight| zeros(weight.len()));
        let weight = saved.adapted.as_deref().unwrap_or_else(|| self.head_weight());
        let d_weight = match (&mut d_adapted, self.trunk.adapter.is_none()) {
            (Some(d), _) => Some(d.into()),
            (None, true) => Some(gradients.tensor_mut(self.trunk.places.head).into()),
            (None, false) => None,
        };
        let kept = match &mut saved.kept {
            Kept::Nothing => token_log_probs::Kept::Nothing,
            Kept::Softmax { exps, factors } => token_log_probs::Kept::Softmax(softmax(exps, factors)),
            Kept::Pulls(pulls) => token_log_probs::Kept::Pulls((&*pulls).into()),
        };
        token_log_probs::backward(
            hidden.into(),
            weight.into(),
            token_log_probs::Targets::new(&rows, &ids, given),
            (&saved.lse).into(),
            kept,
            cotangents,
            d_hidden.into(),
            d_weight,
            self.head_shape(packed),
            workspace,
        )?;
        if let (Some(d), Some((lora, pair))) = (d_adapted, self.head_pair()) {
            // dB = s dW Aᵀ, dA = s Bᵀ dW; the rows are those of the vocabulary.
            let (a, b, scale): (_, _, T) =
                (lora.parameters.tensor(pair.a), lora.parameters.tensor(pair.b), Float::from_f64(pair.scale));
            let shape = linear::Shape {
                rows: self.config().vocab_size,
                in_features: self.config().hidden_size,
                out_features: pair.rank,
            };
            linear::forward((&d).into(), a.into(), gradients.tensor_mut(pair.b).into(), shape, scale, true, workspace)?;
            linear::backward_weight(
                (&d).into(),
                b.into(),
                gradients.tensor_mut(pair.a).into(),
                shape,
                scale,
                true,
                workspace,
            )?;
        }
        saved.release(workspace);
        Ok(())
    }

    /// `hidden Wᵀ`, `[rows, V]`.
    pub(crate) fn project(&self, hidden: &[T], rows: usize, logits: &mut [T], workspace: &mut Workspace) -> Result<()> {
        let shape =
            linear::Shape { rows, in_features: self.config().hidden_size, out_features: self.config().vocab_size };
        linear::forward(
            hidden.into(),
            self.head_weight().into(),
            (&mut *logits).into(),
            shape,
            T::ONE,
            false,
            workspace,
        )?;
        let Some((lora, pair)) = self.head_pair() else { return Ok(()) };
        let mut low = vec![T::ZERO; rows * pair.rank];
        let down = linear::Shape { out_features: pair.rank, ..shape };
        let up = linear::Shape { in_features: pair.rank, ..shape };
        let (a, b, scale): (_, _, T) =
            (lora.parameters.tensor(pair.a), lora.parameters.tensor(pair.b), Float::from_f64(pair.scale));
        linear::forward(hidden.into(), a.into(), (&mut low).into(), down, T::ONE, false, workspace)?;
        linear::forward((&low).into(), b.into(), logits.into(), up, scale, true, workspace)?;
        Ok(())
    }

    fn adapted_head(&self, adapter: Adapter, workspace: &mut Workspace) -> Result<Option<Vec<T>>> {
        let Some((lora, pair)) = self.head_pair().filter(|_| adapter == Adapter::On) else { return Ok(None) };
        let mut weight = copied(self.head_weight());
        lora.add_product(pair, &mut weight, workspace)?;
        Ok(Some(weight))
    }

    fn head_pair(&self) -> Option<(&Lora<T>, LoraPair)> {
        self.trunk.adapter.as_ref().and_then(|lora| Some((lora, lora.pair(HEAD_MODULE)?)))
    }

    fn head_weight(&self) -> &[T] {
        self.trunk.base.tensor(self.trunk.places.head)
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

fn softmax<'a, T>(exps: &'a mut Vec<T>, factors: &'a mut Vec<T>) -> token_log_probs::KeptSoftmax<'a, T> {
    token_log_probs::KeptSoftmax { exps: exps.into(), factors: factors.into() }
}

fn target_indices(packed: &Packed) -> (Vec<u32>, Vec<u32>) {
    packed.targets().iter().map(|target| (target.hidden_row, target.id)).unzip()
}
