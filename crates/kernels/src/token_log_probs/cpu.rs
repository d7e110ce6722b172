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

/// What is kept from forward to backward.
pub(super) enum Kept<'a, T> {
    Nothing,
    Softmax { exps: &'a mut [T], inverse_sums: &'a mut [T] },
    Pulls(&'a mut [T]),
}

impl<T> Kept<'_, T> {
    fn holds_softmax(&self) -> bool {
        matches!(self, Self::Softmax { .. })
    }
}

/// Scratch of one chunk: the hidden rows of its targets, and their logits unless those are kept elsewhere.
struct Chunk<T> {
    gathered: Vec<T>,
    logits: Vec<T>,
    targets: usize,
}

impl<T: Float> Chunk<T> {
    fn take(shape: Shape, logits_kept: bool, ws: &mut Workspace) -> Self {
        let chunk = if shape.chunk == 0 { automatic_chunk(shape.vocab) } else { shape.chunk };
        let targets = chunk.min(shape.targets);
        let logits = if logits_kept { 0 } else { targets * shape.vocab };
        Self { gathered: ws.take(targets * shape.hidden), logits: ws.take(logits), targets }
    }

    fn give_back(self, ws: &mut Workspace) {
        ws.give_back(self.gathered);
        ws.give_back(self.logits);
    }

    fn ranges(&self, shape: Shape) -> impl Iterator<Item = Range<usize>> + use<T> {
        let step = self.targets.max(1);
        (0..shape.targets).step_by(step).map(move |start| start..(start + step).min(shape.targets))
    }

    fn gather(&mut self, head: Head<'_, T>, rows: &[u32]) {
        let hidden = head.shape.hidden;
        if hidden > 0 {
            for (gathered, &row) in self.gathered.chunks_exact_mut(hidden).zip(rows) {
                gathered.copy_from_slice(&head.hidden[row as usize * hidden..][..hidden]);
            }
        }
    }

    /// The logits of the gathered rows.
    fn compute(&self, head: Head<'_, T>, rows: usize, logits: &mut [T], crew: &Crew) {
        let Shape { hidden, vocab, .. } = head.shape;
        let size = Size { m: rows, n: vocab, k: hidden };
        let gathered = Whole::new(&self.gathered, hidden);
        whole(crew, size, logits, false, gathered, Whole::new(head.weight, hidden).transposed(), T::ONE);
    }
}

pub(super) fn forward<T: Float>(
    head: Head<'_, T>,
    targets: Targets<'_>,
    out: Rows<'_, T>,
    mut kept: Kept<'_, T>,
    ws: &mut Workspace,
) {
    let Shape { hidden, vocab, .. } = head.shape;
    let crew = ws.crew();
    let mut chunk = Chunk::take(head.shape, kept.holds_softmax(), ws);
    let mut own_logits = std::mem::take(&mut chunk.logits);
    let statistics = out.mean_log_probs.is_some() || out.log_sum_sq_probs.is_some() || out.entropy.is_some();
    let out = SharedRows::new(out);
    for range in chunk.ranges(head.shape) {
        let (first, count) = (range.start, range.len());
        chunk.gather(head, &targets.rows[range.clone()]);
        let (logits, inverse_sums, after) = match &mut kept {
            Kept::Nothing => (&mut own_logits[..], &mut [][..], After::Nothing),
            Kept::Softmax { exps, inverse_sums } => {
                (&mut exps[first * vocab..range.end * vocab], &mut inverse_sums[range.clone()], After::Exps)
            }
            Kept::Pulls(_) => (&mut own_logits[..], &mut [][..], After::Gradient),
        };
        chunk.compute(head, count, logits, &crew);
        let (rows, inverses) = (Disjoint::new(logits), Disjoint::new(inverse_sums));
        crew.rows(count, vocab, |range| {
            for i in range {
                let target = first + i;
                // SAFETY: each row and target is visited once.
                let logits = unsafe { rows.part(i * vocab..(i + 1) * vocab) };
                // SAFETY: as above.
                let inverse = unsafe { out.write(logits, target, &targets, statistics, after) };
                match after {
                    After::Nothing => {}
                    // SAFETY: as above.
                    After::Exps => unsafe { *inverses.at(i) = inverse },
                    After::Gradient => {
                        simd::scale(logits, -inverse);
                        logits[targets.ids[target] as usize] += T::ONE;
                    }
                }
            }
        });
        if let Kept::Pulls(pulls) = &mut kept {
            let size = Size { m: count, n: hidden, k: vocab };
            let pulls = &mut pulls[first * hidden..range.end * hidden];
            let (d_logits, weight) = (Whole::new(&own_logits, vocab), Whole::new(head.weight, hidden));
            whole(&crew, size, pulls, false, d_logits, weight, T::ONE);
        }
    }
    ws.give_back(own_logits);
    chunk.give_back(ws);
}

/// What becomes of a row of logits when its results are written.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    /// exp(l − largest), for the backward.
    Exps,
    /// The gradient of the target's log-probability.
    Gradient,
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

    /// Writes the results of one row. Unless nothing follows, it is left as exp(l − largest l); returns 1/Σ of that.
    ///
    /// # Safety
    /// Nobody else writes the results of this target.
    unsafe fn write(
        &self,
        logits: &mut [T],
        target: usize,
        targets: &Targets<'_>,
        statistics: bool,
        after: After,
    ) -> T {
        let largest = simd::max(logits);
        let id = targets.ids[target] as usize;
        let of_target = logits[id];
        if let Some(to) = &self.is_top1 {
            let first = of_target >= largest && logits[..id].iter().all(|&l| l < largest);
            // SAFETY: the caller's promise.
            unsafe { *to.at(target) = T::from_f64(f64::from(u8::from(first))) };
        }
        let given = targets.given_of(target);
        let given_places = self.given_log_probs.as_ref().map_or(&mut [][..], |to| {
            // SAFETY: the caller's promise.
            unsafe { to.part(target * given.len()..(target + 1) * given.len()) }
        });
        given_places.iter_mut().zip(given).for_each(|(to, &id)| *to = logits[id as usize]);
        let kept = !matches!(after, After::Nothing);
        let mut sums = (statistics || !kept).then(|| row::sums(logits, largest, statistics));
        if kept {
            let sum = simd::exp_in_place(logits, largest);
            sums.get_or_insert(row::Sums::of_exps(largest, sum));
        }
        let sums = sums.expect("one of the two was made");
        for to in given_places {
            *to = T::from_f64(sums.log_prob(*to));
        }
        // SAFETY: the caller's promise.
        let put = |to: &Disjoint<'_, T>, value: f64| unsafe { *to.at(target) = T::from_f64(value) };
        put(&self.lse, sums.lse());
        put(&self.log_probs, sums.log_prob(of_target));
        if let Some(to) = &self.mean_log_probs {
            put(to, sums.mean_log_prob());
        }
        if let Some(to) = &self.log_sum_sq_probs {
            put(to, sums.log_sum_sq_probs());
        }
        if let Some(to) = &self.entropy {
            put(to, sums.entropy());
        }
        T::from_f64(sums.inverse())
    }
}

pub(super) fn backward<T: Float>(
    head: Head<'_, T>,
    targets: Targets<'_>,
    lse: &[T],
    mut kept: Kept<'_, T>,
    d: RowCotangents<'_, T>,
    grads: Gradients<'_, T>,
    ws: &mut Workspace,
) {
    let Shape { hidden, vocab, .. } = head.shape;
    let Gradients { hidden: d_hidden, weight: mut d_weight } = grads;
    let crew = ws.crew();
    let mut chunk = Chunk::take(head.shape, kept.holds_softmax(), ws);
    let mut own_logits = std::mem::take(&mut chunk.logits);
    let mut d_gathered = ws.take(chunk.gathered.len());
    for range in chunk.ranges(head.shape) {
        let (first, count) = (range.start, range.len());
        chunk.gather(head, &targets.rows[range.clone()]);
        let (logits, inverse_sums) = match &mut kept {
            Kept::Softmax { exps, inverse_sums } => {
                (&mut exps[first * vocab..range.end * vocab], Some(&inverse_sums[range.clone()]))
            }
            Kept::Nothing | Kept::Pulls(_) => {
                chunk.compute(head, count, &mut own_logits, &crew);
                (&mut own_logits[..], None)
            }
        };
        let rows = Disjoint::new(&mut *logits);
        crew.rows(count, vocab, |range| {
            for i in range {
                // SAFETY: each row of logits is visited once.
                let logits = unsafe { rows.part(i * vocab..(i + 1) * vocab) };
                match inverse_sums {
                    Some(inverse_sums) => d.write_from_exps(logits, first + i, &targets, inverse_sums[i]),
                    None => d.write(logits, first + i, &targets, lse[first + i]),
                }
            }
        });
        let size = Size { m: count, n: hidden, k: vocab };
        let d_logits = Whole::new(logits, vocab);
        whole(&crew, size, &mut d_gathered, false, d_logits, Whole::new(head.weight, hidden), T::ONE);
        if hidden > 0 {
            for (d, &row) in d_gathered.chunks_exact(hidden).zip(&targets.rows[range.clone()]) {
                simd::add(&mut d_hidden[row as usize * hidden..][..hidden], d);
            }
        }
        if let Some(d_weight) = d_weight.as_deref_mut() {
            let size = Size { m: vocab, n: hidden, k: count };
            let gathered = Whole::new(&chunk.gathered, hidden);
            whole(&crew, size, d_weight, true, d_logits.transposed(), gathered, T::ONE);
        }
    }
    ws.give_back(d_gathered);
    ws.give_back(own_logits);
    chunk.give_back(ws);
}

/// d_hidden\[row of i\] += d\[i\]·pulls\[i\]; without `d`, nothing.
pub(super) fn scatter<T: Float>(pulls: &[T], rows: &[u32], d: &[T], d_hidden: &mut [T], hidden: usize) {
    if hidden == 0 {
        return;
    }
    for ((pull, &row), &d) in pulls.chunks_exact(hidden).zip(rows).zip(d) {
        simd::add_scaled(&mut d_hidden[row as usize * hidden..][..hidden], pull, d);
    }
}

impl<T: Float> RowCotangents<'_, T> {
    /// Turns exp(l − largest l) of a row into the gradient with respect to l, of log-probabilities alone.
    fn write_from_exps(&self, exps: &mut [T], target: usize, targets: &Targets<'_>, inverse_sum: T) {
        let log_prob = self.log_probs.map_or(T::ZERO, |d| d[target]);
        let given = targets.given_of(target);
        let d_given = self.given_log_probs.map_or(&[][..], |d| &d[target * given.len()..][..given.len()]);
        let direct = log_prob + d_given.iter().copied().sum();
        simd::scale(exps, -direct * inverse_sum);
        exps[targets.ids[target] as usize] += log_prob;
        for (&id, &d) in given.iter().zip(d_given) {
            exps[id as usize] += d;
        }
    }

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
