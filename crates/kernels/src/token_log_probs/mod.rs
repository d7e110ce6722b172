//! Log-probabilities of target tokens under `softmax(hidden·weightᵀ)`, by blocks of the vocabulary and chunks of targets, so that no
//! `[M, V]` tensor exists unless it is kept on purpose.
mod cpu;
mod row;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The sizes of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the hidden states, `[N]`.
    pub rows: usize,
    /// Columns of the hidden states and of the weight, `[H]`.
    pub hidden: usize,
    /// Rows of the weight, `[V]`.
    pub vocab: usize,
    /// Targets, `[M]`.
    pub targets: usize,
    /// Targets whose logits exist at once where gradients are made of them; 0 chooses by [`automatic_chunk`]. It decides memory
    /// and speed, and results only in their rounding.
    pub chunk: usize,
}

/// The chunk for a vocabulary: 512 targets, fewer where their logits would exceed 32 million elements.
pub fn automatic_chunk(vocab: usize) -> usize {
    const LOGITS: usize = 1 << 25;
    (LOGITS / vocab.max(1)).clamp(16, 512)
}

/// Tokens of the vocabulary whose logits are computed together.
pub const BLOCK: usize = 512;

/// Blocks of [`BLOCK`] that a vocabulary has; the last may be smaller.
pub fn blocks(vocab: usize) -> usize {
    vocab.div_ceil(BLOCK)
}

/// Elements that [`forward`] packs factors into while it runs, with the logits that are in use meanwhile where none are kept; where
/// `trains` those of [`backward`] with a gradient of the weight too. For a plan of memory.
pub fn most_packed<T: Float>(shape: Shape, keeps: bool, trains: bool, threads: usize) -> usize {
    cpu::most_packed::<T>(shape, keeps, trains, threads)
}

/// Numbers that [`forward`] needs for each target and block meanwhile, for a plan of memory.
pub fn numbers_per_block(statistics: bool) -> usize {
    if statistics { row::Sums::ALL } else { row::Sums::FEW }
}

/// What [`forward`] writes: the log-probability of each target and, where a buffer is given, statistics of its row.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// log p(target), `[M]`.
    pub log_probs: ViewMut<'a, T>,
    /// (1/V) Σ over the vocabulary of log p, `[M]`.
    pub mean_log_probs: Option<ViewMut<'a, T>>,
    /// log Σ over the vocabulary of p², `[M]`.
    pub log_sum_sq_probs: Option<ViewMut<'a, T>>,
    /// −Σ over the vocabulary of p·log p in nats, `[M]`.
    pub entropy: Option<ViewMut<'a, T>>,
    /// 1 where the target is the most probable token (the first of equals), else 0, `[M]`. It has no gradient.
    pub is_top1: Option<ViewMut<'a, T>>,
    /// log p of the given ids, `[M, K]`.
    pub given_log_probs: Option<ViewMut<'a, T>>,
}

impl<'a, T> Outputs<'a, T> {
    /// Log-probabilities and no statistic.
    pub fn log_probs(log_probs: ViewMut<'a, T>) -> Self {
        Self {
            log_probs,
            mean_log_probs: None,
            log_sum_sq_probs: None,
            entropy: None,
            is_top1: None,
            given_log_probs: None,
        }
    }
}

/// Gradients of a loss with respect to what [`forward`] wrote; absent means zero.
#[derive(Debug)]
pub struct Cotangents<'a, T> {
    /// Of the log-probabilities, `[M]`.
    pub log_probs: Option<View<'a, T>>,
    /// Of the means of log p, `[M]`.
    pub mean_log_probs: Option<View<'a, T>>,
    /// Of log Σp², `[M]`.
    pub log_sum_sq_probs: Option<View<'a, T>>,
    /// Of the entropies, `[M]`.
    pub entropy: Option<View<'a, T>>,
    /// Of the log-probabilities of the given ids, `[M, K]`.
    pub given_log_probs: Option<View<'a, T>>,
}

impl<T> Default for Cotangents<'_, T> {
    fn default() -> Self {
        Self { log_probs: None, mean_log_probs: None, log_sum_sq_probs: None, entropy: None, given_log_probs: None }
    }
}

impl<T> Clone for Cotangents<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Cotangents<'_, T> {}

/// What [`forward`] keeps beside its results, to spare [`backward`] work.
#[derive(Debug)]
pub enum Keep<'a, T> {
    /// Nothing: `backward` makes the logits again, chunk by chunk.
    Nothing,
    /// The softmax of every target's logits, for a head that is trained: two products in `backward` instead of three.
    Softmax(KeptSoftmax<'a, T>),
    /// The gradients of the log-probabilities with respect to the hidden states, `[M, H]`, for a head that is frozen: made
    /// while the logits of a chunk are there, so that they are needed once. `backward` scales them.
    Pulls(ViewMut<'a, T>),
}

/// The softmax of logits, not yet normalised.
#[derive(Debug)]
pub struct KeptSoftmax<'a, T> {
    /// exp(l − largest l of the row's block), `[M, V]`.
    pub exps: ViewMut<'a, T>,
    /// What makes probabilities of them, `[M, B]` with B the number of [`blocks`].
    pub factors: ViewMut<'a, T>,
}

/// What [`backward`] takes of what [`forward`] kept.
#[derive(Debug)]
pub enum Kept<'a, T> {
    /// Nothing was kept.
    Nothing,
    /// See [`Keep::Softmax`]. The rows are overwritten.
    Softmax(KeptSoftmax<'a, T>),
    /// See [`Keep::Pulls`].
    Pulls(View<'a, T>),
}

/// log p\[i\] = l\[target_ids\[i\]\] − log Σ over j of exp(l\[j\]), with l = hidden\[target_rows\[i\]\]·weightᵀ.
///
/// `hidden` `[N, H]`; `weight` `[V, H]`; `target_rows` and `target_ids` `[M]`, rows in any order and repeated at will;
/// `given` `[M, K]` or empty: further ids whose log-probabilities are wanted. `lse` `[M]`, the logarithm of each row's sum
/// of exponentials, is what [`backward`] needs besides the inputs, and `keep` what it may have on top. Sums are taken
/// relative to the largest logit of each block, and put together in `f64`. Logits are taken to be finite.
///
/// # Errors
/// A length that is not its shape's, a row or id out of range, given ids without a place for their log-probabilities, or
/// operands that are not on the CPU.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn forward<T: Float>(
    hidden: View<'_, T>,
    weight: View<'_, T>,
    target_rows: &[u32],
    target_ids: &[u32],
    given: &[u32],
    out: Outputs<'_, T>,
    lse: ViewMut<'_, T>,
    keep: Keep<'_, T>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "token_log_probs::forward";
    check_inputs(OP, hidden, weight, target_rows, target_ids, given, shape)?;
    check::length(OP, "lse", lse.len(), &[shape.targets], "targets")?;
    check::shape(OP, given.is_empty() || out.given_log_probs.is_some(), || {
        "ids are given, but there is no buffer for given_log_probs".into()
    })?;
    let lens = [
        ("log_probs", Some(out.log_probs.len())),
        ("mean_log_probs", out.mean_log_probs.as_ref().map(ViewMut::len)),
        ("log_sum_sq_probs", out.log_sum_sq_probs.as_ref().map(ViewMut::len)),
        ("entropy", out.entropy.as_ref().map(ViewMut::len)),
        ("is_top1", out.is_top1.as_ref().map(ViewMut::len)),
    ];
    check_results(OP, &lens, out.given_log_probs.as_ref().map(ViewMut::len), given, shape)?;
    let rows = cpu::Rows {
        lse: lse.cpu(OP)?,
        log_probs: out.log_probs.cpu(OP)?,
        mean_log_probs: out.mean_log_probs.map(|view| view.cpu(OP)).transpose()?,
        log_sum_sq_probs: out.log_sum_sq_probs.map(|view| view.cpu(OP)).transpose()?,
        entropy: out.entropy.map(|view| view.cpu(OP)).transpose()?,
        is_top1: out.is_top1.map(|view| view.cpu(OP)).transpose()?,
        given_log_probs: out.given_log_probs.map(|view| view.cpu(OP)).transpose()?,
    };
    let keep = match keep {
        Keep::Nothing => cpu::Kept::Nothing,
        Keep::Softmax(kept) => softmax(OP, kept, shape)?,
        Keep::Pulls(pulls) => {
            check::length(OP, "keep.pulls", pulls.len(), &[shape.targets, shape.hidden], "targets × hidden")?;
            cpu::Kept::Pulls(pulls.cpu(OP)?)
        }
    };
    let head = cpu::Head { hidden: hidden.cpu(OP)?, weight: weight.cpu(OP)?, shape };
    cpu::forward(head, cpu::Targets { rows: target_rows, ids: target_ids, given }, rows, keep, ws);
    Ok(())
}

/// The gradients of [`forward`]. Where nothing was kept, logits are computed again chunk by chunk; with p their softmax, row
/// i has
///
/// dl\[j\] = g·(1\[j = target\] − p\[j\]) for the cotangent g of its log-probability; (1/V − p\[j\]) for that of the mean;
/// 2(p\[j\]²/Σp² − p\[j\]) for that of log Σp²; −p\[j\]·(log p\[j\] + entropy) for that of the entropy; 1\[j = id\] − p\[j\] for that
/// of a given id.
///
/// d_hidden += dl·weight at the target's row and d_weight += dlᵀ·hidden; both accumulate. Without `d_weight` (a frozen
/// head) that product is not made. Shapes as for [`forward`]; `d_hidden` `[N, H]`, `d_weight` `[V, H]`. Rows of dl sum to
/// zero to the precision of `T` however large the logits are, since p is normalised again.
///
/// From what [`Keep::Softmax`] kept come the gradients of log-probabilities, given ids included; from [`Keep::Pulls`] those of
/// the targets' log-probabilities with respect to the hidden states.
///
/// # Errors
/// As [`forward`]; a cotangent of given ids without ids; a cotangent or `d_weight` that what was kept does not serve.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Float>(
    hidden: View<'_, T>,
    weight: View<'_, T>,
    target_rows: &[u32],
    target_ids: &[u32],
    given: &[u32],
    lse: View<'_, T>,
    kept: Kept<'_, T>,
    d: Cotangents<'_, T>,
    d_hidden: ViewMut<'_, T>,
    d_weight: Option<ViewMut<'_, T>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "token_log_probs::backward";
    check_inputs(OP, hidden, weight, target_rows, target_ids, given, shape)?;
    check::length(OP, "lse", lse.len(), &[shape.targets], "targets")?;
    let len = |view: &Option<View<'_, T>>| view.as_ref().map(View::len);
    let lens = [
        ("d.log_probs", len(&d.log_probs)),
        ("d.mean_log_probs", len(&d.mean_log_probs)),
        ("d.log_sum_sq_probs", len(&d.log_sum_sq_probs)),
        ("d.entropy", len(&d.entropy)),
    ];
    check_results(OP, &lens, len(&d.given_log_probs), given, shape)?;
    check::length(OP, "d_hidden", d_hidden.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    if let Some(d_weight) = &d_weight {
        check::length(OP, "d_weight", d_weight.len(), &[shape.vocab, shape.hidden], "vocab × hidden")?;
    }
    let statistics = d.mean_log_probs.is_some() || d.log_sum_sq_probs.is_some() || d.entropy.is_some();
    let kept = match kept {
        Kept::Nothing => cpu::Kept::Nothing,
        Kept::Softmax(kept) => {
            check::shape(OP, !statistics, || {
                "a kept softmax gives the gradients of log-probabilities only; keep nothing where statistics have cotangents".into()
            })?;
            softmax(OP, kept, shape)?
        }
        Kept::Pulls(pulls) => {
            check::shape(OP, !statistics && d.given_log_probs.is_none() && d_weight.is_none(), || {
                "kept pulls give the gradients of the targets' log-probabilities with respect to the hidden states only; keep nothing where there are other cotangents or the head is trained".into()
            })?;
            check::length(OP, "kept.pulls", pulls.len(), &[shape.targets, shape.hidden], "targets × hidden")?;
            let d_log_probs = d.log_probs.map(|view| view.cpu(OP)).transpose()?.unwrap_or(&[]);
            cpu::scatter(pulls.cpu(OP)?, target_rows, d_log_probs, d_hidden.cpu(OP)?, shape.hidden);
            return Ok(());
        }
    };
    let d = cpu::RowCotangents {
        log_probs: d.log_probs.map(|view| view.cpu(OP)).transpose()?,
        mean_log_probs: d.mean_log_probs.map(|view| view.cpu(OP)).transpose()?,
        log_sum_sq_probs: d.log_sum_sq_probs.map(|view| view.cpu(OP)).transpose()?,
        entropy: d.entropy.map(|view| view.cpu(OP)).transpose()?,
        given_log_probs: d.given_log_probs.map(|view| view.cpu(OP)).transpose()?,
    };
    let grads = cpu::Gradients { hidden: d_hidden.cpu(OP)?, weight: d_weight.map(|view| view.cpu(OP)).transpose()? };
    let head = cpu::Head { hidden: hidden.cpu(OP)?, weight: weight.cpu(OP)?, shape };
    let targets = cpu::Targets { rows: target_rows, ids: target_ids, given };
    cpu::backward(head, targets, lse.cpu(OP)?, kept, d, grads, ws);
    Ok(())
}

fn softmax<'a, T: Float>(op: &'static str, kept: KeptSoftmax<'a, T>, shape: Shape) -> Result<cpu::Kept<'a, T>> {
    check::length(op, "exps", kept.exps.len(), &[shape.targets, shape.vocab], "targets × vocab")?;
    check::length(op, "factors", kept.factors.len(), &[shape.targets, blocks(shape.vocab)], "targets × blocks")?;
    Ok(cpu::Kept::Softmax { exps: kept.exps.cpu(op)?, factors: kept.factors.cpu(op)? })
}

fn check_inputs<T: Float>(
    op: &'static str,
    hidden: View<'_, T>,
    weight: View<'_, T>,
    target_rows: &[u32],
    target_ids: &[u32],
    given: &[u32],
    shape: Shape,
) -> Result<()> {
    check::length(op, "hidden", hidden.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(op, "weight", weight.len(), &[shape.vocab, shape.hidden], "vocab × hidden")?;
    check::length(op, "target_rows", target_rows.len(), &[shape.targets], "targets")?;
    check::length(op, "target_ids", target_ids.len(), &[shape.targets], "targets")?;
    check::shape(
        op,
        given.len().is_multiple_of(shape.targets.max(1)) && (shape.targets > 0 || given.is_empty()),
        || format!("{} ids are given, expected as many for each of the {} targets", given.len(), shape.targets),
    )?;
    check::indices(op, "target_rows", target_rows, shape.rows)?;
    check::indices(op, "target_ids", target_ids, shape.vocab)?;
    check::indices(op, "given", given, shape.vocab)
}

fn check_results(
    op: &'static str,
    lens: &[(&'static str, Option<usize>)],
    given_results: Option<usize>,
    given: &[u32],
    shape: Shape,
) -> Result<()> {
    for &(name, len) in lens {
        if let Some(len) = len {
            check::length(op, name, len, &[shape.targets], "targets")?;
        }
    }
    match given_results {
        Some(len) => check::length(op, "given_log_probs", len, &[given.len()], "as many as the given ids"),
        None => Ok(()),
    }
}
