//! Chunks of targets: gather their hidden rows, one product with the weight, row kernels in parallel.
use std::ops::Range;

use super::{Shape, automatic_chunk, row};
use crate::matmul::{Size, Whole, whole};
use crate::parallel::{Crew, Disjoint};
use crate::{Float, Workspace, simd};

#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    pub(super) hidden: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) shape: Shape,
}

#[derive(Clone, Copy)]
pub(super) struct Targets<'a> {
    pub(super) rows: &'a [u32],
    pub(super) ids: &'a [u32],
    pub(super) given: &'a [u32],
}

impl Targets<'_> {
    fn given_each(&self) -> usize {
        self.given.len().checked_div(self.ids.len()).unwrap_or(0)
    }

    fn given_of(&self, target: usize) -> &[u32] {
        let k = self.given_each();
        &self.given[target * k..][..k]
    }
}

/// Where the results of each target go.
pub(super) struct Rows<'a, T> {
    pub(super) lse: &'a mut [T],
    pub(super) log_probs: &'a mut [T],
    pub(super) mean_log_probs: Option<&'a mut [T]>,
    pub(super) log_sum_sq_probs: Option<&'a mut [T]>,
    pub(super) entropy: Option<&'a mut [T]>,
    pub(super) is_top1: Option<&'a mut [T]>,
    pub(super) given_log_probs: Option<&'a mut [T]>,
}

pub(super) struct RowCotangents<'a, T> {
    pub(super) log_probs: Option<&'a [T]>,
    pub(super) mean_log_probs: Option<&'a [T]>,
    pub(super) log_sum_sq_probs: Option<&'a [T]>,
    pub(super) entropy: Option<&'a [T]>,
    pub(super) given_log_probs: Option<&'a [T]>,
}

pub(super) struct Gradients<'a, T> {
    pub(super) hidden: &'a mut [T],
    pub(super) weight: Option<&'a mut [T]>,
}

/// Scratch of one chunk.
struct Chunk<T> {
    gathered: Vec<T>,
    logits: Vec<T>,
    targets: usize,
}

impl<T: Float> Chunk<T> {
    fn take(shape: Shape, ws: &mut Workspace) -> Self {
        let chunk = if shape.chunk == 0 { automatic_chunk(shape.vocab) } else { shape.chunk };
        let targets = chunk.min(shape.targets);
        Self { gathered: ws.take(targets * shape.hidden), logits: ws.take(targets * shape.vocab), targets }
    }

    fn give_back(self, ws: &mut Workspace) {
        ws.give_back(self.gathered);
        ws.give_back(self.logits);
    }

    fn ranges(&self, shape: Shape) -> impl Iterator<Item = Range<usize>> + use<T> {
        let step = self.targets.max(1);
        (0..shape.targets).step_by(step).map(move |start| start..(start + step).min(shape.targets))
    }

    fn compute(&mut self, head: Head<'_, T>, rows: &[u32], crew: &Crew) {
        let Shape { hidden, vocab, .. } = head.shape;
        if hidden > 0 {
            for (gathered, &row) in self.gathered.chunks_exact_mut(hidden).zip(rows) {
                gathered.copy_from_slice(&head.hidden[row as usize * hidden..][..hidden]);
            }
        }
        let size = Size { m: rows.len(), n: vocab, k: hidden };
        let gathered = Whole::new(&self.gathered, hidden);
        whole(crew, size, &mut self.logits, false, gathered, Whole::new(head.weight, hidden).transposed(), T::ONE);
    }
}

pub(super) fn forward<T: Float>(head: Head<'_, T>, targets: Targets<'_>, out: Rows<'_, T>, ws: &mut Workspace) {
    let vocab = head.shape.vocab;
    let crew = ws.crew();
    let mut chunk = Chunk::take(head.shape, ws);
    let statistics = out.mean_log_probs.is_some() || out.log_sum_sq_probs.is_some() || out.entropy.is_some();
    let out = SharedRows::new(out);
    for range in chunk.ranges(head.shape) {
        chunk.compute(head, &targets.rows[range.clone()], &crew);
        let (logits, first) = (&chunk.logits, range.start);
        crew.rows(range.len(), vocab, |rows| {
            for i in rows {
                let (logits, target) = (&logits[i * vocab..][..vocab], first + i);
                // SAFETY: each target is visited once.
                unsafe { out.write(logits, target, &targets, statistics) };
            }
        });
    }
    chunk.give_back(ws);
}

struct SharedRows<'a, T> {
    lse: Disjoint<'a, T>,
    log_probs: Disjoint<'a, T>,
    mean_log_probs: Option<Disjoint<'a, T>>,
    log_sum_sq_probs: Option<Disjoint<'a, T>>,
    entropy: Option<Disjoint<'a, T>>,
    is_top1: Option<Disjoint<'a, T>>,
    given_log_probs: Option<Disjoint<'a, T>>,
}

impl<'a, T: Float> SharedRows<'a, T> {
    fn new(rows: Rows<'a, T>) -> Self {
        Self {
            lse: Disjoint::new(rows.lse),
            log_probs: Disjoint::new(rows.log_probs),
            mean_log_probs: rows.mean_log_probs.map(Disjoint::new),
            log_sum_sq_probs: rows.log_sum_sq_probs.map(Disjoint::new),
            entropy: rows.entropy.map(Disjoint::new),
            is_top1: rows.is_top1.map(Disjoint::new),
            given_log_probs: rows.given_log_probs.map(Disjoint::new),
        }
    }

    /// # Safety
    /// Nobody else writes the results of this target.
    unsafe fn write(&self, logits: &[T], target: usize, targets: &Targets<'_>, statistics: bool) {
        let largest = simd::max(logits);
        let sums = row::sums(logits, largest, statistics);
        let id = targets.ids[target] as usize;
        // SAFETY: the caller's promise.
        let put = |to: &Disjoint<'_, T>, value: f64| unsafe { *to.at(target) = T::from_f64(value) };
        put(&self.lse, sums.lse());
        put(&self.log_probs, sums.log_prob(logits[id]));
        if let Some(to) = &self.mean_log_probs {
            put(to, sums.mean_log_prob());
        }
        if let Some(to) = &self.log_sum_sq_probs {
            put(to, sums.log_sum_sq_probs());
        }
        if let Some(to) = &self.entropy {
            put(to, sums.entropy());
        }
        if let Some(to) = &self.is_top1 {
            let first = logits[id] >= largest && logits[..id].iter().all(|&l| l < largest);
            put(to, f64::from(u8::from(first)));
        }
        if let Some(to) = &self.given_log_probs {
            let given = targets.given_of(target);
            // SAFETY: the caller's promise.
            let to = unsafe { to.part(target * given.len()..(target + 1) * given.len()) };
            for (to, &id) in to.iter_mut().zip(given) {
                *to = T::from_f64(sums.log_prob(logits[id as usize]));
            }
        }
    }
}

pub(super) fn backward<T: Float>(
    head: Head<'_, T>,
    targets: Targets<'_>,
    lse: &[T],
    d: RowCotangents<'_, T>,
    grads: Gradients<'_, T>,
    ws: &mut Workspace,
) {
    let Shape { hidden, vocab, .. } = head.shape;
    let Gradients { hidden: d_hidden, weight: mut d_weight } = grads;
    let crew = ws.crew();
    let mut chunk = Chunk::take(head.shape, ws);
    let mut d_gathered = ws.take(chunk.gathered.len());
    for range in chunk.ranges(head.shape) {
        chunk.compute(head, &targets.rows[range.clone()], &crew);
        let (logits, first) = (Disjoint::new(&mut chunk.logits), range.start);
        crew.rows(range.len(), vocab, |rows| {
            for i in rows {
                // SAFETY: each row of logits is visited once.
                let logits = unsafe { logits.part(i * vocab..(i + 1) * vocab) };
                d.write(logits, first + i, &targets, lse[first + i]);
            }
        });
        let size = Size { m: range.len(), n: hidden, k: vocab };
        let d_logits = Whole::new(&chunk.logits, vocab);
        whole(&crew, size, &mut d_gathered, false, d_logits, Whole::new(head.weight, hidden), T::ONE);
        if hidden > 0 {
            for (d, &row) in d_gathered.chunks_exact(hidden).zip(&targets.rows[range.clone()]) {
                simd::add(&mut d_hidden[row as usize * hidden..][..hidden], d);
            }
        }
        if let Some(d_weight) = d_weight.as_deref_mut() {
            let size = Size { m: vocab, n: hidden, k: range.len() };
            let gathered = Whole::new(&chunk.gathered, hidden);
            whole(&crew, size, d_weight, true, d_logits.transposed(), gathered, T::ONE);
        }
    }
    ws.give_back(d_gathered);
    chunk.give_back(ws);
}

impl<T: Float> RowCotangents<'_, T> {
    /// Turns a row of logits into the gradient with respect to it.
    fn write(&self, logits: &mut [T], target: usize, targets: &Targets<'_>, lse: T) {
        let of = |cotangents: Option<&[T]>| cotangents.map_or(T::ZERO, |cotangents| cotangents[target]);
        let log_prob = of(self.log_probs);
        let given = targets.given_of(target);
        let d_given = self.given_log_probs.map_or(&[][..], |d| &d[target * given.len()..][..given.len()]);
        let weights = row::Weights {
            direct: log_prob + d_given.iter().copied().sum(),
            mean_log_prob: of(self.mean_log_probs),
            log_sum_sq_probs: of(self.log_sum_sq_probs),
            entropy: of(self.entropy),
        };
        row::differentiate(logits, lse, weights);
        logits[targets.ids[target] as usize] += log_prob;
        for (&id, &d) in given.iter().zip(d_given) {
            logits[id as usize] += d;
        }
    }
}
