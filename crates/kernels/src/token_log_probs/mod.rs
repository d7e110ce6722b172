//! Log-probabilities of target tokens under `softmax(hidden·weightᵀ)`, by blocks of the vocabulary and chunks of targets, so that no
//! `[M, V]` tensor exists unless it is kept on purpose, with a CUDA back end beside the CPU's.
mod cpu;
mod cuda;
mod row;
#[cfg(test)]
mod tests;

use crate::embedding::BucketViews;
use crate::{Element, Error, Float, Result, View, ViewMut, Workspace, check};

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
    /// Targets whose logits exist at once: on the CPU where gradients are made of them, on a device always. 0 chooses by
    /// [`automatic_chunk`], or [`automatic_device_chunk`]. It decides memory and speed, and results only in their rounding.
    pub chunk: usize,
}

/// What is scored, where the hidden states are.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// The row of the hidden states that predicts each target, `[M]`, in any order and repeated at will.
    pub rows: View<'a, u32>,
    /// The id of each target, `[M]`.
    pub ids: View<'a, u32>,
    /// Further ids whose log-probabilities are wanted, `[M, K]`, or nothing.
    pub given: View<'a, u32>,
    /// `rows` in [`Buckets`](crate::embedding::Buckets) of equal ones, which [`backward`] wants on a device and nobody else.
    pub by_row: Option<BucketViews<'a>>,
}

impl<'a> Targets<'a> {
    /// Targets on the CPU.
    pub fn new(rows: &'a [u32], ids: &'a [u32], given: &'a [u32]) -> Self {
        Self { rows: rows.into(), ids: ids.into(), given: given.into(), by_row: None }
    }
}

/// The chunk for a vocabulary: 512 targets, fewer where their logits would exceed 32 million elements.
pub fn automatic_chunk(vocab: usize) -> usize {
    const LOGITS: usize = 1 << 25;
    (LOGITS / vocab.max(1)).clamp(16, 512)
}

/// Chunks on a device are multiples of this.
const LEAST_CHUNK: usize = 128;

/// The largest chunk on a device for elements `T`: as many targets as have 512 MiB of logits, from 128 to 2048, in whole multiples of
/// 128. A batch is cut into chunks of about one size, none larger than this.
///
/// With fewer than 512 targets a product waits for the head's weight. The gradient of the weight is read and written once a chunk, which
/// more targets would make rarer.
pub fn automatic_device_chunk<T: Element>(vocab: usize) -> usize {
    const BYTES: usize = 1 << 29;
    (BYTES / size_of::<T>() / vocab.max(1)).clamp(LEAST_CHUNK, 2048) / LEAST_CHUNK * LEAST_CHUNK
}

/// Targets of a chunk on a device, of so many in all: as few chunks as [`automatic_device_chunk`] lets there be, of about one size.
pub fn device_chunk<T: Element>(vocab: usize, targets: usize) -> usize {
    let chunks = targets.div_ceil(automatic_device_chunk::<T>(vocab)).max(1);
    targets.div_ceil(chunks).next_multiple_of(LEAST_CHUNK).min(targets)
}

/// Elements from a row of logits to the next on a device: the vocabulary in whole packs of 16 bytes.
pub fn logits_stride<T: Element>(vocab: usize) -> usize {
    vocab.next_multiple_of(16 / size_of::<T>())
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

/// Numbers that [`forward`] needs for each target and block meanwhile on the CPU, for a plan of memory.
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
    /// The logits of all targets, `[M, S]` with S the [`logits_stride`], for a head that is trained: three products instead of four. On a
    /// device only. They are made chunk by chunk as where nothing is kept, so that scores have the same bits; unless [`Shape::chunk`]
    /// says otherwise, `backward` takes all of them at once.
    Logits(ViewMut<'a, T>),
    /// The softmax of every target's logits, for a head that is trained: two products in `backward` instead of three. On the CPU only.
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
    /// See [`Keep::Logits`]. They are overwritten.
    Logits(ViewMut<'a, T>),
    /// See [`Keep::Softmax`]. The rows are overwritten.
    Softmax(KeptSoftmax<'a, T>),
    /// See [`Keep::Pulls`].
    Pulls(View<'a, T>),
}

/// log p\[i\] = l\[target_ids\[i\]\] − log Σ over j of exp(l\[j\]), with l = hidden\[target_rows\[i\]\]·weightᵀ.
///
/// with `target_rows`, `target_ids` and the further ids those of [`Targets`]. `hidden` `[N, H]`; `weight` `[V, H]`. `lse` `[M]`, the
/// logarithm of each row's sum of exponentials, is what [`backward`] needs besides the inputs, and `keep` what it may have on top.
/// Sums are taken relative to the largest logit of each block, and put together in `f64`; on a device relative to the largest logit of
/// the row, of logits that are rounded to `T`. Logits are taken to be finite. On a device rows and ids are not looked at before they
/// are used: rows must be in range, and an id that is not has a log-probability of NaN.
///
/// # Errors
/// A length that is not its shape's, a row or id out of range on the CPU, given ids without a place for their log-probabilities, a kept
/// softmax on a device, or operands on different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn forward<T: Element>(
    hidden: View<'_, T>,
    weight: View<'_, T>,
    targets: Targets<'_>,
    out: Outputs<'_, T::Wide>,
    lse: ViewMut<'_, T::Wide>,
    keep: Keep<'_, T>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "token_log_probs::forward";
    check_inputs(OP, hidden, weight, targets, shape)?;
    check::length(OP, "lse", lse.len(), &[shape.targets], "targets")?;
    check::shape(OP, targets.given.is_empty() || out.given_log_probs.is_some(), || {
        "ids are given, but there is no buffer for given_log_probs".into()
    })?;
    let lens = [
        ("log_probs", Some(out.log_probs.len())),
        ("mean_log_probs", out.mean_log_probs.as_ref().map(ViewMut::len)),
        ("log_sum_sq_probs", out.log_sum_sq_probs.as_ref().map(ViewMut::len)),
        ("entropy", out.entropy.as_ref().map(ViewMut::len)),
        ("is_top1", out.is_top1.as_ref().map(ViewMut::len)),
    ];
    check_results(OP, &lens, out.given_log_probs.as_ref().map(ViewMut::len), targets, shape)?;
    match &keep {
        Keep::Pulls(pulls) => {
            check::length(OP, "keep.pulls", pulls.len(), &[shape.targets, shape.hidden], "targets × hidden")?;
        }
        Keep::Logits(logits) => check_logits(OP, "keep.logits", logits, shape)?,
        Keep::Nothing | Keep::Softmax(_) => {}
    }
    if let Some(device) = hidden.device() {
        return cuda::forward(OP, device, hidden, weight, targets, out, lse, keep, shape);
    }
    let targets = targets.cpu(OP, shape)?;
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
        Keep::Logits(_) => return Err(no_logits(OP)),
        Keep::Softmax(kept) => softmax(OP, kept, shape)?,
        Keep::Pulls(pulls) => cpu::Kept::Pulls(pulls.cpu(OP)?),
    };
    let head = cpu::Head { hidden: hidden.cpu(OP)?, weight: weight.cpu(OP)?, shape };
    cpu::forward(head, targets, rows, keep, ws);
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
/// zero to the precision of `T` however large the logits are, since p is normalised again. Only for `bf16` without cotangents of statistics
/// it is not: there p comes from `lse`, which is rounded to `f32`, and that is within the rounding of `bf16` while logits are below 2¹⁵.
///
/// From what [`Keep::Softmax`] kept come the gradients of log-probabilities, given ids included; from [`Keep::Pulls`] those of
/// the targets' log-probabilities with respect to the hidden states.
///
/// # Errors
/// As [`forward`]; a cotangent of given ids without ids; a cotangent or `d_weight` that what was kept does not serve; targets on a
/// device without [`Targets::by_row`].
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Element>(
    hidden: View<'_, T>,
    weight: View<'_, T>,
    targets: Targets<'_>,
    lse: View<'_, T::Wide>,
    kept: Kept<'_, T>,
    d: Cotangents<'_, T::Wide>,
    d_hidden: ViewMut<'_, T>,
    d_weight: Option<ViewMut<'_, T::Wide>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "token_log_probs::backward";
    check_inputs(OP, hidden, weight, targets, shape)?;
    check::length(OP, "lse", lse.len(), &[shape.targets], "targets")?;
    let len = |view: &Option<View<'_, T::Wide>>| view.as_ref().map(View::len);
    let lens = [
        ("d.log_probs", len(&d.log_probs)),
        ("d.mean_log_probs", len(&d.mean_log_probs)),
        ("d.log_sum_sq_probs", len(&d.log_sum_sq_probs)),
        ("d.entropy", len(&d.entropy)),
    ];
    check_results(OP, &lens, len(&d.given_log_probs), targets, shape)?;
    check::length(OP, "d_hidden", d_hidden.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    if let Some(d_weight) = &d_weight {
        check::length(OP, "d_weight", d_weight.len(), &[shape.vocab, shape.hidden], "vocab × hidden")?;
    }
    let statistics = d.mean_log_probs.is_some() || d.log_sum_sq_probs.is_some() || d.entropy.is_some();
    match &kept {
        Kept::Nothing => {}
        Kept::Logits(logits) => check_logits(OP, "kept.logits", logits, shape)?,
        Kept::Softmax(_) => check::shape(OP, !statistics, || {
            "a kept softmax gives the gradients of log-probabilities only; keep nothing where statistics have cotangents".into()
        })?,
        Kept::Pulls(pulls) => {
            check::shape(OP, !statistics && d.given_log_probs.is_none() && d_weight.is_none(), || {
                "kept pulls give the gradients of the targets' log-probabilities with respect to the hidden states only; keep nothing where there are other cotangents or the head is trained".into()
            })?;
            check::length(OP, "kept.pulls", pulls.len(), &[shape.targets, shape.hidden], "targets × hidden")?;
        }
    }
    if let Some(by_row) = &targets.by_row {
        check::length(OP, "by_row.members", by_row.members.len(), &[shape.targets], "targets")?;
        check::length(OP, "by_row.starts", by_row.starts.len(), &[by_row.ids.len() + 1], "buckets + 1")?;
    }
    if let Some(device) = hidden.device() {
        return cuda::backward(OP, device, hidden, weight, targets, lse, kept, d, d_hidden, d_weight, shape);
    }
    let targets = targets.cpu(OP, shape)?;
    let kept = match kept {
        Kept::Nothing => cpu::Kept::Nothing,
        Kept::Logits(_) => return Err(no_logits(OP)),
        Kept::Softmax(kept) => softmax(OP, kept, shape)?,
        Kept::Pulls(pulls) => {
            let d_log_probs = d.log_probs.map(|view| view.cpu(OP)).transpose()?.unwrap_or(&[]);
            cpu::scatter(pulls.cpu(OP)?, targets.rows, d_log_probs, d_hidden.cpu(OP)?, shape.hidden);
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
    cpu::backward(head, targets, lse.cpu(OP)?, kept, d, grads, ws);
    Ok(())
}

impl<'a> Targets<'a> {
    /// On the CPU, and looked at.
    fn cpu(self, op: &'static str, shape: Shape) -> Result<cpu::Targets<'a>> {
        let targets = cpu::Targets { rows: self.rows.host(op)?, ids: self.ids.host(op)?, given: self.given.host(op)? };
        check::indices(op, "target_rows", targets.rows, shape.rows)?;
        check::indices(op, "target_ids", targets.ids, shape.vocab)?;
        check::indices(op, "given", targets.given, shape.vocab)?;
        Ok(targets)
    }
}

fn check_logits<T: Element>(
    op: &'static str,
    name: &'static str,
    logits: &ViewMut<'_, T>,
    Shape { targets, vocab, .. }: Shape,
) -> Result<()> {
    check::length(op, name, logits.len(), &[targets, logits_stride::<T>(vocab)], "targets × logits_stride")
}

fn no_logits(op: &'static str) -> Error {
    let reason = "the CPU keeps no logits; keep their softmax, or nothing, or pulls where the head is frozen".into();
    Error::Shape { op, reason }
}

fn softmax<'a, T: Element>(op: &'static str, kept: KeptSoftmax<'a, T>, shape: Shape) -> Result<cpu::Kept<'a, T::Wide>> {
    check::length(op, "exps", kept.exps.len(), &[shape.targets, shape.vocab], "targets × vocab")?;
    check::length(op, "factors", kept.factors.len(), &[shape.targets, blocks(shape.vocab)], "targets × blocks")?;
    Ok(cpu::Kept::Softmax { exps: kept.exps.cpu(op)?, factors: kept.factors.cpu(op)? })
}

fn check_inputs<T: Element>(
    op: &'static str,
    hidden: View<'_, T>,
    weight: View<'_, T>,
    targets: Targets<'_>,
    shape: Shape,
) -> Result<()> {
    check::length(op, "hidden", hidden.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(op, "weight", weight.len(), &[shape.vocab, shape.hidden], "vocab × hidden")?;
    check::length(op, "target_rows", targets.rows.len(), &[shape.targets], "targets")?;
    check::length(op, "target_ids", targets.ids.len(), &[shape.targets], "targets")?;
    let given = targets.given.len();
    check::shape(op, given.is_multiple_of(shape.targets.max(1)) && (shape.targets > 0 || given == 0), || {
        format!("{given} ids are given, expected as many for each of the {} targets", shape.targets)
    })
}

fn check_results(
    op: &'static str,
    lens: &[(&'static str, Option<usize>)],
    given_results: Option<usize>,
    targets: Targets<'_>,
    shape: Shape,
) -> Result<()> {
    for &(name, len) in lens {
        if let Some(len) = len {
            check::length(op, name, len, &[shape.targets], "targets")?;
        }
    }
    match given_results {
        Some(len) => check::length(op, "given_log_probs", len, &[targets.given.len()], "as many as the given ids"),
        None => Ok(()),
    }
}
