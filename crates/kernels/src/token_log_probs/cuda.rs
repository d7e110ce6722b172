//! The head on a device: chunks of targets, whose logits lie in one buffer that is used again.
use std::ops::Range;

use super::{Cotangents, Keep, Kept, Outputs, Shape, Targets, device_chunk, logits_stride};
use crate::cuda::{Call, Cuda, CudaBuffer, Factor, Grid, lanes, product};
use crate::embedding::{self, BucketViews};
use crate::matmul::Size;
use crate::{Element, Error, Float, Result, View, ViewMut};

const MOST_THREADS: usize = 512;
const WARP: usize = 32;
/// Blocks that look for the targets of a chunk among all rows: enough to fill a large device, few enough to cost nothing.
const MOST_BLOCKS: usize = 4096;

/// The operands of a head and the buffers of its chunks.
struct Head<'a, T> {
    op: &'static str,
    device: &'a Cuda,
    hidden: View<'a, T>,
    weight: View<'a, T>,
    targets: Targets<'a>,
    shape: Shape,
    /// Targets of a chunk.
    chunk: usize,
    /// The hidden rows of a chunk, `[chunk, H]`.
    gathered: CudaBuffer<T>,
    /// From a row of logits to the next.
    stride: usize,
}

impl<'a, T: Element> Head<'a, T> {
    fn new(
        op: &'static str,
        device: &'a Cuda,
        hidden: View<'a, T>,
        weight: View<'a, T>,
        targets: Targets<'a>,
        at_once: bool,
        shape: Shape,
    ) -> Result<Self> {
        let count = shape.targets;
        let chunk = match shape.chunk {
            0 if at_once => count,
            0 => device_chunk::<T>(shape.vocab, count),
            chunk => chunk.min(count),
        };
        let stride = logits_stride::<T>(shape.vocab);
        let gathered = device.unwritten(chunk * shape.hidden)?;
        Ok(Self { op, device, hidden, weight, targets, shape, chunk, gathered, stride })
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let (chunk, count) = (self.chunk, self.shape.targets);
        (0..count).step_by(chunk.max(1)).map(move |start| start..(start + chunk).min(count))
    }

    fn given_each(&self) -> usize {
        self.targets.given.len() / self.shape.targets
    }

    /// The given ids of some targets.
    fn given(&self, range: &Range<usize>) -> Result<View<'a, u32>> {
        self.targets.given.part(self.each_given(range))
    }

    fn each_given(&self, range: &Range<usize>) -> Range<usize> {
        range.start * self.given_each()..range.end * self.given_each()
    }

    /// Where the logits of some targets are among those of all.
    fn of_all(&self, range: &Range<usize>) -> Range<usize> {
        range.start * self.stride..range.end * self.stride
    }

    /// A buffer for the logits of a chunk.
    fn buffer(&self) -> Result<CudaBuffer<T>> {
        self.device.unwritten(self.chunk * self.stride)
    }

    fn gather(&mut self, range: &Range<usize>) -> Result<()> {
        let hidden = self.shape.hidden;
        let gathered = self.gathered.view_mut().part(0..range.len() * hidden)?;
        let rows = self.targets.rows.part(range.clone())?;
        embedding::cuda::gather(self.op, self.device, rows, self.hidden, gathered, hidden)
    }

    /// Makes the logits of the targets that are gathered, rounded to `T`.
    fn score(&self, range: &Range<usize>, logits: ViewMut<'_, T>) -> Result<()> {
        let Shape { hidden, vocab, .. } = self.shape;
        let size = Size { m: range.len(), n: vocab, k: hidden };
        let hidden_rows = Factor::new(self.gathered.view(), hidden);
        let weight = Factor::new(self.weight, hidden).transposed();
        product(self.op, self.device, size, logits, self.stride, false, hidden_rows, weight, T::Wide::ONE)
    }

    /// Makes the gradient of some targets' logits of them; `d` has the cotangents of all targets, or there is a one for each
    /// log-probability.
    fn differentiate(
        &self,
        range: &Range<usize>,
        mut logits: ViewMut<'_, T>,
        lse: View<'_, T::Wide>,
        d: Option<Cotangents<'_, T::Wide>>,
    ) -> Result<()> {
        let vocab = self.shape.vocab;
        let ones = d.is_none();
        let d = d.unwrap_or_default();
        let statistics = d.mean_log_probs.is_some() || d.log_sum_sq_probs.is_some() || d.entropy.is_some();
        let kernel = if statistics { "token_log_probs_statistics_gradient" } else { "token_log_probs_gradient" };
        let kernel = format!("{kernel}_{}", T::NAME);
        let given_each = self.given_each();
        let d_given = part(d.given_log_probs, &self.each_given(range))?;
        let mut kept = self.device.unwritten::<T::Wide>(range.len() * given_each)?;
        let (ids, given) = (self.targets.ids.part(range.clone())?, self.given(range)?);
        Call::new(self.op, self.device)
            .write(&mut logits)
            .read(ids)
            .read(given)
            .index(given_each)
            .read(lse.part(range.clone())?)
            .flag(ones)
            .read_if(part(d.log_probs, range)?)
            .read_if(part(d.mean_log_probs, range)?)
            .read_if(part(d.log_sum_sq_probs, range)?)
            .read_if(part(d.entropy, range)?)
            .read_if(d_given)
            .write(&mut kept.view_mut())
            .index(vocab)
            .index(self.stride)
            .launch(&kernel, by_rows::<T>(range.len(), vocab))
    }

    /// What the gradient of some targets' logits pulls their hidden rows to.
    fn pull(&self, range: &Range<usize>, logits: View<'_, T>, pulls: ViewMut<'_, T>) -> Result<()> {
        let Shape { hidden, vocab, .. } = self.shape;
        let size = Size { m: range.len(), n: hidden, k: vocab };
        let (logits, weight) = (Factor::new(logits, self.stride), Factor::new(self.weight, hidden));
        product(self.op, self.device, size, pulls, hidden, false, logits, weight, T::Wide::ONE)
    }
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn forward<T: Element>(
    op: &'static str,
    device: &Cuda,
    hidden: View<'_, T>,
    weight: View<'_, T>,
    targets: Targets<'_>,
    mut out: Outputs<'_, T::Wide>,
    mut lse: ViewMut<'_, T::Wide>,
    keep: Keep<'_, T>,
    shape: Shape,
) -> Result<()> {
    let (mut all, mut pulls) = match keep {
        Keep::Softmax(_) => return Err(no_softmax(op)),
        Keep::Logits(all) => (Some(all), None),
        Keep::Pulls(pulls) => (None, Some(pulls)),
        Keep::Nothing => (None, None),
    };
    if shape.targets == 0 {
        return Ok(());
    }
    // The same pieces whatever is kept: a library multiplies by another algorithm for another number of rows, and rounds otherwise.
    let mut head = Head::new(op, device, hidden, weight, targets, false, shape)?;
    let statistics = out.log_sum_sq_probs.is_some() || out.entropy.is_some();
    let kernel = if statistics { "token_log_probs_statistics" } else { "token_log_probs_score" };
    let kernel = format!("{kernel}_{}", T::NAME);
    let mut own = if all.is_some() { None } else { Some(head.buffer()?) };
    for range in head.chunks() {
        let mut logits = match (&mut all, &mut own) {
            (Some(all), _) => all.reborrow().part(head.of_all(&range))?,
            (None, own) => own.as_mut().expect("made where none are kept").view_mut(),
        };
        head.gather(&range)?;
        head.score(&range, logits.reborrow())?;
        Call::new(op, device)
            .write(&mut logits)
            .read(head.targets.ids.part(range.clone())?)
            .read(head.given(&range)?)
            .index(head.given_each())
            .write(&mut lse.reborrow().part(range.clone())?)
            .write(&mut out.log_probs.reborrow().part(range.clone())?)
            .write_if(part_mut(&mut out.mean_log_probs, &range)?.as_mut())
            .write_if(part_mut(&mut out.log_sum_sq_probs, &range)?.as_mut())
            .write_if(part_mut(&mut out.entropy, &range)?.as_mut())
            .write_if(part_mut(&mut out.is_top1, &range)?.as_mut())
            .write_if(part_mut(&mut out.given_log_probs, &head.each_given(&range))?.as_mut())
            .index(shape.vocab)
            .index(head.stride)
            .launch(&kernel, by_rows::<T>(range.len(), shape.vocab))?;
        if let Some(pulls) = &mut pulls {
            head.differentiate(&range, logits.reborrow(), lse.as_view(), None)?;
            let place = range.start * shape.hidden..range.end * shape.hidden;
            head.pull(&range, logits.as_view(), pulls.reborrow().part(place)?)?;
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Element>(
    op: &'static str,
    device: &Cuda,
    hidden: View<'_, T>,
    weight: View<'_, T>,
    targets: Targets<'_>,
    lse: View<'_, T::Wide>,
    kept: Kept<'_, T>,
    d: Cotangents<'_, T::Wide>,
    mut d_hidden: ViewMut<'_, T>,
    mut d_weight: Option<ViewMut<'_, T::Wide>>,
    shape: Shape,
) -> Result<()> {
    let Shape { hidden: width, vocab, targets: count, .. } = shape;
    if count == 0 {
        return Ok(());
    }
    let by_row = targets.by_row.ok_or_else(|| Error::Shape {
        op,
        reason: "targets on a device come with `by_row`, the buckets of their rows (embedding::Buckets::of)".into(),
    })?;
    let mut all = match kept {
        Kept::Softmax(_) => return Err(no_softmax(op)),
        Kept::Pulls(pulls) => {
            let Some(weights) = d.log_probs else { return Ok(()) };
            return scatter(op, device, by_row, pulls, Some(weights), d_hidden, 0..count, width);
        }
        Kept::Logits(all) => Some(all),
        Kept::Nothing => None,
    };
    // Logits that are there are not made again, and all of them make the gradient of the weight at once.
    let mut head = Head::new(op, device, hidden, weight, targets, all.is_some(), shape)?;
    let mut own = if all.is_some() { None } else { Some(head.buffer()?) };
    let mut pulls = device.unwritten::<T>(head.chunk * width)?;
    for range in head.chunks() {
        head.gather(&range)?;
        let mut logits = match (&mut all, &mut own) {
            (Some(all), _) => all.reborrow().part(head.of_all(&range))?,
            (None, own) => {
                let mut logits = own.as_mut().expect("made where none are kept").view_mut();
                head.score(&range, logits.reborrow())?;
                logits
            }
        };
        head.differentiate(&range, logits.reborrow(), lse, Some(d))?;
        head.pull(&range, logits.as_view(), pulls.view_mut().part(0..range.len() * width)?)?;
        if let Some(d_weight) = &mut d_weight {
            let size = Size { m: vocab, n: width, k: range.len() };
            let logits = Factor::new(logits.as_view(), head.stride).transposed();
            let rows = Factor::new(head.gathered.view(), width);
            product(op, device, size, d_weight.reborrow(), width, true, logits, rows, T::Wide::ONE)?;
        }
        scatter(op, device, by_row, pulls.view(), None, d_hidden.reborrow(), range, width)?;
    }
    Ok(())
}

/// Adds what the targets of `range` pull their rows to, times their weights: `pulls` `[range, H]`, `weights` of all targets.
#[expect(clippy::too_many_arguments, reason = "operands of one launch")]
fn scatter<T: Element>(
    op: &'static str,
    device: &Cuda,
    by_row: BucketViews<'_>,
    pulls: View<'_, T>,
    weights: Option<View<'_, T::Wide>>,
    mut d_hidden: ViewMut<'_, T>,
    range: Range<usize>,
    hidden: usize,
) -> Result<()> {
    if by_row.ids.is_empty() {
        return Ok(());
    }
    let (kernel, width) = lanes("token_log_probs_pull", hidden, &[Some(pulls), Some(d_hidden.as_view())]);
    let threads = hidden.div_ceil(width).next_multiple_of(WARP).min(MOST_THREADS);
    let buckets = by_row.ids.len();
    let blocks = [buckets.min(MOST_BLOCKS) as u32, hidden.div_ceil(threads * width) as u32, 1];
    Call::new(op, device)
        .read(by_row.ids)
        .read(by_row.starts)
        .read(by_row.members)
        .read(pulls)
        .read_if(weights)
        .write(&mut d_hidden)
        .index(buckets)
        .index(range.start)
        .index(range.end)
        .index(hidden)
        .launch(&kernel, Grid { blocks, ..Grid::line(1, threads) })
}

fn part<'a, W>(view: Option<View<'a, W>>, range: &Range<usize>) -> Result<Option<View<'a, W>>> {
    view.map(|view| view.part(range.clone())).transpose()
}

fn part_mut<'a, W>(view: &'a mut Option<ViewMut<'_, W>>, range: &Range<usize>) -> Result<Option<ViewMut<'a, W>>> {
    view.as_mut().map(|view| view.reborrow().part(range.clone())).transpose()
}

/// A block of threads for each row, which they read in packs.
fn by_rows<T>(rows: usize, vocab: usize) -> Grid {
    Grid::line(rows, vocab.div_ceil(16 / size_of::<T>()).next_multiple_of(WARP).min(MOST_THREADS))
}

fn no_softmax(op: &'static str) -> Error {
    let reason = "a device keeps no softmax; keep logits, or nothing, or pulls where the head is frozen".into();
    Error::Shape { op, reason }
}
