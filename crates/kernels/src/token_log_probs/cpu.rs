//! Blocks of the vocabulary in parallel: each multiplies its rows of the weight with all hidden rows and takes their sums while the
//! logits are in the cache. Where gradients are made from logits that were not kept, they are made for a chunk of targets at a time.
use std::cmp::Ordering::{Equal, Greater, Less};
use std::ops::Range;

use super::{BLOCK, Shape, automatic_chunk, blocks, numbers_per_block, row};
use crate::matmul::{self, At, Factor, Factors, STRIP, Size, Whole, whole};
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
    Softmax { exps: &'a mut [T], factors: &'a mut [T] },
    Pulls(&'a mut [T]),
}

/// Hidden rows that are multiplied with a block of the weight at a time, so that their logits stay in the cache.
pub(super) const ROWS: usize = 80 * STRIP;
/// Rows of the weight whose gradient is multiplied at a time.
const WEIGHT_ROWS: usize = 40 * STRIP;

/// How a buffer for packed factors is shared out.
struct Packing {
    /// Elements for the factor that all threads read.
    shared: usize,
    /// Elements for each thread's own factor.
    of_factor: usize,
    /// Elements for each thread in all, at least one.
    per_lane: usize,
}

impl Packing {
    /// Hidden rows for all, a block of the weight for each thread and, where none are kept, the logits of some rows.
    fn of_scores<T: Float>(
        factors: &Factors<T>,
        Shape { hidden, vocab, .. }: Shape,
        count: usize,
        keeps: bool,
    ) -> Self {
        let widest = vocab.min(BLOCK);
        let logits = if keeps { 0 } else { count.min(ROWS) * widest };
        let of_factor = factors.right_len(hidden, widest);
        Self { shared: factors.left_len(count, hidden), of_factor, per_lane: (of_factor + logits).max(1) }
    }

    /// Hidden rows for all, some columns of the logits' gradient for each thread.
    fn of_weight_gradient<T: Float>(factors: &Factors<T>, vocab: usize, hidden: usize, count: usize) -> Self {
        let of_factor = factors.left_len(vocab.min(WEIGHT_ROWS), count);
        Self { shared: factors.right_len(count, hidden), of_factor, per_lane: of_factor.max(1) }
    }

    fn len(&self, threads: usize) -> usize {
        self.shared + threads * self.per_lane
    }
}

pub(super) fn most_packed<T: Float>(shape: Shape, keeps: bool, trains: bool, threads: usize) -> usize {
    let Shape { hidden, vocab, targets, .. } = shape;
    let (chunk, _) = chunks(shape);
    let of_scores = Factors::<T>::of(Size { m: targets, n: vocab.min(BLOCK), k: hidden });
    let forward = Packing::of_scores(&of_scores, shape, targets, keeps).len(threads);
    if !trains {
        return forward;
    }
    let count = if keeps { targets } else { chunk };
    let of_weight = Factors::<T>::of(Size { m: vocab.min(WEIGHT_ROWS), n: hidden, k: count });
    let d_weight = Packing::of_weight_gradient(&of_weight, vocab, hidden, count).len(threads);
    let of = |m: usize, n: usize, k: usize| matmul::packed::<T>(Size { m, n, k }, threads);
    let again = if keeps { 0 } else { of(count, vocab, hidden) };
    forward.max(d_weight).max(of(count, hidden, vocab)).max(again)
}

/// The hidden rows of some targets, one after the other.
fn gather<T: Float>(head: Head<'_, T>, rows: &[u32], gathered: &mut [T]) {
    let hidden = head.shape.hidden;
    if hidden > 0 {
        for (gathered, &row) in gathered.chunks_exact_mut(hidden).zip(rows) {
            gathered.copy_from_slice(&head.hidden[row as usize * hidden..][..hidden]);
        }
    }
}

/// `0..targets` in chunks.
fn chunks(shape: Shape) -> (usize, impl Iterator<Item = Range<usize>>) {
    let chunk = if shape.chunk == 0 { automatic_chunk(shape.vocab) } else { shape.chunk };
    let chunk = chunk.min(shape.targets);
    (chunk, (0..shape.targets).step_by(chunk.max(1)).map(move |start| start..(start + chunk).min(shape.targets)))
}

pub(super) fn forward<T: Float>(
    head: Head<'_, T>,
    targets: Targets<'_>,
    out: Rows<'_, T>,
    kept: Kept<'_, T>,
    ws: &mut Workspace,
) {
    let Shape { hidden, vocab, targets: count, .. } = head.shape;
    let crew = ws.crew();
    let statistics = out.mean_log_probs.is_some() || out.log_sum_sq_probs.is_some() || out.entropy.is_some();
    let out = SharedRows::new(out);
    let scorer = Scorer { head, targets, out: &out, statistics, crew: &crew };
    match kept {
        Kept::Nothing => scorer.score(0..count, None, ws),
        Kept::Softmax { exps, factors } => scorer.score(0..count, Some((exps, factors)), ws),
        Kept::Pulls(pulls) => {
            let (chunk, ranges) = chunks(head.shape);
            let blocks = blocks(vocab);
            let mut exps = ws.take(chunk * vocab);
            let mut factors = ws.take(chunk * blocks);
            for range in ranges {
                let exps = &mut exps[..range.len() * vocab];
                scorer.score(range.clone(), Some((&mut *exps, &mut factors)), ws);
                let rows = Disjoint::new(&mut *exps);
                crew.rows(range.len(), vocab, |rows_of| {
                    for i in rows_of {
                        // SAFETY: each row is visited once.
                        let row = unsafe { rows.part(i * vocab..(i + 1) * vocab) };
                        for (block, &factor) in row.chunks_mut(BLOCK).zip(&factors[i * blocks..]) {
                            simd::scale(block, -factor);
                        }
                        row[targets.ids[range.start + i] as usize] += T::ONE;
                    }
                });
                let size = Size { m: range.len(), n: hidden, k: vocab };
                let pulls = &mut pulls[range.start * hidden..range.end * hidden];
                whole(ws, size, pulls, false, Whole::new(exps, vocab), Whole::new(head.weight, hidden), T::ONE);
            }
            ws.give_back(factors);
            ws.give_back(exps);
        }
    }
}

/// The forward pass: logits block by block of the vocabulary, sums of each block, then those of each row.
struct Scorer<'a, T> {
    head: Head<'a, T>,
    targets: Targets<'a>,
    out: &'a SharedRows<'a, T>,
    statistics: bool,
    crew: &'a Crew,
}

impl<T: Float> Scorer<'_, T> {
    /// Writes the results of the targets of `range`, and where asked for exp(l − largest l of the row's block) `[range, V]` with
    /// the factors `[range, blocks]` that make probabilities of them.
    fn score(&self, range: Range<usize>, mut kept: Option<(&mut [T], &mut [T])>, ws: &mut Workspace) {
        let Shape { hidden, vocab, .. } = self.head.shape;
        let (count, blocks) = (range.len(), blocks(vocab));
        let mut gathered = ws.take(count * hidden);
        gather(self.head, &self.targets.rows[range.clone()], &mut gathered);
        let width = numbers_per_block(self.statistics);
        let mut sums: Vec<T> = ws.take(blocks * count * width);
        let places = Disjoint::new(&mut sums);
        let widest = vocab.min(BLOCK);
        let factors = Factors::of(Size { m: count, n: widest, k: hidden });
        let parts = Packing::of_scores(&factors, self.head.shape, count, kept.is_some());
        let mut packing = ws.take_packing(parts.len(self.crew.threads()));
        let Packing { shared, of_factor, per_lane } = parts;
        let (left, lanes) = packing.split_at_mut(shared);
        // SAFETY: the hidden rows of all targets, which are gathered before and only read from here on.
        let left = unsafe { factors.left(self.crew, At::rows(gathered.as_ptr(), hidden), count, hidden, left) };
        let of_block =
            |block: usize, columns: Range<usize>, right: &Factor<'_, T>, logits: Disjoint<'_, T>, keep: bool| {
                // What is kept has its place among all rows, scratch begins anew with each piece.
                let (offset, stride) = if keep { (columns.start, vocab) } else { (0, columns.len()) };
                for start in (0..count).step_by(ROWS) {
                    let rows = start..(start + ROWS).min(count);
                    let first = if keep { start } else { 0 };
                    let at = |i: usize| (first + i) * stride + offset;
                    let size = Size { m: rows.len(), n: columns.len(), k: hidden };
                    // SAFETY: the factors have these rows and columns, and each block writes its own columns of the logits.
                    unsafe { factors.multiply(size, At::rows(logits.at(at(0)), stride), false, (&left, start), right) };
                    for i in 0..rows.len() {
                        // SAFETY: as above; the columns of this row are nobody else's.
                        let logits = unsafe { logits.part(at(i)..at(i) + columns.len()) };
                        // SAFETY: the results of a target's id are written by the block that holds it.
                        let found = unsafe { self.block(logits, range.start + start + i, columns.start, keep) };
                        let to = (block * count + start + i) * width;
                        // SAFETY: each block and target has its own place.
                        found.write(unsafe { places.part(to..to + width) });
                    }
                }
            };
        let exps = kept.as_mut().map(|(exps, _)| Disjoint::new(exps));
        self.crew.tasks_with(blocks, &mut lanes[..self.crew.threads() * per_lane], per_lane, |block, lane| {
            let columns = block * BLOCK..((block + 1) * BLOCK).min(vocab);
            let (packed, logits) = lane.split_at_mut(of_factor);
            let rhs = At::rows(self.head.weight[columns.start * hidden..].as_ptr(), hidden).transposed();
            // SAFETY: the block's rows of the weight, which is only read.
            let right = unsafe { factors.right(&Crew::default(), rhs, hidden, columns.len(), packed) };
            match exps {
                Some(exps) => of_block(block, columns, &right, exps, true),
                None => of_block(block, columns, &right, Disjoint::new(logits), false),
            }
        });
        ws.give_back_packing(packing);
        let of_blocks = kept.map(|(_, factors)| Disjoint::new(factors));
        self.crew.rows(count, blocks * width, |rows| {
            for i in rows {
                let parts = (0..blocks)
                    .map(|block| row::Sums::read(&sums[(block * count + i) * width..][..width], self.columns(block)));
                // SAFETY: each target is visited once.
                let whole = unsafe { self.finish(range.start + i, parts.clone()) };
                if let Some(of_blocks) = &of_blocks {
                    // SAFETY: as above.
                    let factors = unsafe { of_blocks.part(i * blocks..(i + 1) * blocks) };
                    factors.iter_mut().zip(parts).for_each(|(factor, part)| *factor = T::from_f64(part.factor(&whole)));
                }
            }
        });
        ws.give_back(sums);
        ws.give_back(gathered);
    }

    fn columns(&self, block: usize) -> usize {
        BLOCK.min(self.head.shape.vocab - block * BLOCK)
    }

    /// The sums of one row's logits in one block, which begins at token `start`. The logits of the target and of the given ids
    /// are put where their log-probabilities will be.
    ///
    /// # Safety
    /// Nobody else writes the results of this target's ids that are in the block.
    unsafe fn block(&self, logits: &mut [T], target: usize, start: usize, keep: bool) -> row::Sums {
        let largest = simd::max(logits);
        let inside = |id: u32| (id as usize).checked_sub(start).filter(|&i| i < logits.len());
        if let Some(i) = inside(self.targets.ids[target]) {
            // SAFETY: the caller's promise.
            unsafe { *self.out.log_probs.at(target) = logits[i] };
            if let Some(to) = &self.out.is_top1 {
                let first = logits[i] >= largest && logits[..i].iter().all(|&l| l < largest);
                // SAFETY: the caller's promise.
                unsafe { *to.at(target) = T::from_f64(f64::from(u8::from(first))) };
            }
        }
        if let Some(to) = &self.out.given_log_probs {
            let given = self.targets.given_of(target);
            for (k, &id) in given.iter().enumerate() {
                if let Some(i) = inside(id) {
                    // SAFETY: the caller's promise.
                    unsafe { *to.at(target * given.len() + k) = logits[i] };
                }
            }
        }
        if !keep {
            return row::sums(logits, largest, self.statistics);
        }
        let sums = self.statistics.then(|| row::sums(logits, largest, true));
        let exp = simd::exp_in_place(logits, largest);
        sums.unwrap_or_else(|| row::Sums::of_exps(largest, exp, logits.len()))
    }

    /// Writes the results of a target from the sums of its row's blocks, which it returns together.
    ///
    /// # Safety
    /// Nobody else writes the results of this target.
    unsafe fn finish(&self, target: usize, parts: impl Iterator<Item = row::Sums> + Clone) -> row::Sums {
        let whole = row::Sums::together(parts.clone());
        let out = self.out;
        // SAFETY: the caller's promise.
        let put = |to: &Disjoint<'_, T>, value: f64| unsafe { *to.at(target) = T::from_f64(value) };
        if let Some(to) = &out.is_top1 {
            let own = self.targets.ids[target] as usize / BLOCK;
            // It is the first of its block; no block before may reach the same.
            let first = parts.enumerate().all(|(block, part)| match block.cmp(&own) {
                Less => part.shift() < whole.shift(),
                Equal => part.shift() >= whole.shift(),
                Greater => true,
            });
            if !first {
                put(to, 0.0);
            }
        }
        put(&out.lse, whole.lse());
        // SAFETY: the caller's promise.
        put(&out.log_probs, whole.log_prob(unsafe { *out.log_probs.at(target) }));
        if let Some(to) = &out.given_log_probs {
            let given = self.targets.given_of(target).len();
            // SAFETY: the caller's promise.
            let places = unsafe { to.part(target * given..(target + 1) * given) };
            places.iter_mut().for_each(|place| *place = T::from_f64(whole.log_prob(*place)));
        }
        if let Some(to) = &out.mean_log_probs {
            put(to, whole.mean_log_prob());
        }
        if let Some(to) = &out.log_sum_sq_probs {
            put(to, whole.log_sum_sq_probs());
        }
        if let Some(to) = &out.entropy {
            put(to, whole.entropy());
        }
        whole
    }
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
}

pub(super) fn backward<T: Float>(
    head: Head<'_, T>,
    targets: Targets<'_>,
    lse: &[T],
    kept: Kept<'_, T>,
    d: RowCotangents<'_, T>,
    mut grads: Gradients<'_, T>,
    ws: &mut Workspace,
) {
    let Shape { hidden, vocab, targets: count, .. } = head.shape;
    if count == 0 {
        return;
    }
    let crew = ws.crew();
    if let Kept::Softmax { exps, factors } = kept {
        let mut gathered = ws.take(count * hidden);
        gather(head, targets.rows, &mut gathered);
        let d_logits = Disjoint::new(&mut *exps);
        let blocks = blocks(vocab);
        let differentiate = |block: usize, columns: &Range<usize>| {
            for target in 0..count {
                let at = target * vocab;
                // SAFETY: each block visits its own columns of every row.
                let exps = unsafe { d_logits.part(at + columns.start..at + columns.end) };
                d.write_from_exps(exps, target, &targets, columns.start, factors[target * blocks + block]);
            }
        };
        match grads.weight.as_deref_mut() {
            Some(d_weight) => add_weight_gradient(d_logits, &gathered, d_weight, head.shape, differentiate, ws),
            None => crew.pieces(vocab, BLOCK, |block, columns| differentiate(block, &columns)),
        }
        let mut d_gathered = ws.take(count * hidden);
        let size = Size { m: count, n: hidden, k: vocab };
        whole(ws, size, &mut d_gathered, false, Whole::new(exps, vocab), Whole::new(head.weight, hidden), T::ONE);
        scatter_add(&d_gathered, targets.rows, grads.hidden, hidden);
        ws.give_back(d_gathered);
        ws.give_back(gathered);
        return;
    }
    let (chunk, ranges) = chunks(head.shape);
    let mut gathered = ws.take(chunk * hidden);
    let mut logits = ws.take(chunk * vocab);
    let mut d_gathered = ws.take(chunk * hidden);
    for range in ranges {
        let (first, count) = (range.start, range.len());
        let rows_of_hidden = &targets.rows[range];
        gather(head, rows_of_hidden, &mut gathered);
        let size = Size { m: count, n: vocab, k: hidden };
        let lhs = Whole::new(&gathered, hidden);
        whole(ws, size, &mut logits, false, lhs, Whole::new(head.weight, hidden).transposed(), T::ONE);
        let rows = Disjoint::new(&mut logits);
        crew.rows(count, vocab, |range| {
            for i in range {
                // SAFETY: each row of logits is visited once.
                let logits = unsafe { rows.part(i * vocab..(i + 1) * vocab) };
                d.write(logits, first + i, &targets, lse[first + i]);
            }
        });
        if let Some(d_weight) = grads.weight.as_deref_mut() {
            add_weight_gradient(rows, &gathered[..count * hidden], d_weight, head.shape, |_, _| {}, ws);
        }
        let size = Size { m: count, n: hidden, k: vocab };
        whole(ws, size, &mut d_gathered, false, Whole::new(&logits, vocab), Whole::new(head.weight, hidden), T::ONE);
        scatter_add(&d_gathered, rows_of_hidden, grads.hidden, hidden);
    }
    ws.give_back(d_gathered);
    ws.give_back(logits);
    ws.give_back(gathered);
}

/// d_weight `[V, H]` += d_logitsᵀ·gathered, block by block of the vocabulary; each block's columns of d_logits are ready when `before`
/// returns.
fn add_weight_gradient<T: Float>(
    d_logits: Disjoint<'_, T>,
    gathered: &[T],
    d_weight: &mut [T],
    Shape { hidden, vocab, .. }: Shape,
    before: impl Fn(usize, &Range<usize>) + Sync,
    ws: &mut Workspace,
) {
    let crew = ws.crew();
    let count = gathered.len().checked_div(hidden).unwrap_or(0);
    let factors = Factors::of(Size { m: vocab.min(WEIGHT_ROWS), n: hidden, k: count });
    let parts = Packing::of_weight_gradient(&factors, vocab, hidden, count);
    let mut packing = ws.take_packing(parts.len(crew.threads()));
    let Packing { shared, per_lane, .. } = parts;
    let (right, lanes) = packing.split_at_mut(shared);
    // SAFETY: it has these rows, and is only read.
    let right = unsafe { factors.right(&crew, At::rows(gathered.as_ptr(), hidden), count, hidden, right) };
    let d_weight = Disjoint::new(d_weight);
    crew.tasks_with(blocks(vocab), &mut lanes[..crew.threads() * per_lane], per_lane, |block, lane| {
        let columns = block * BLOCK..((block + 1) * BLOCK).min(vocab);
        before(block, &columns);
        for start in columns.clone().step_by(WEIGHT_ROWS) {
            let size = Size { m: WEIGHT_ROWS.min(columns.end - start), n: hidden, k: count };
            let lhs = At::rows(d_logits.at(start).cast_const(), vocab).transposed();
            let to = At::rows(d_weight.at(start * hidden), hidden);
            // SAFETY: each block reads its own columns, now that they are ready, and writes its own rows of the gradient.
            unsafe {
                let left = factors.left(&Crew::default(), lhs, size.m, count, lane);
                factors.multiply(size, to, true, (&left, 0), &right);
            }
        }
    });
    ws.give_back_packing(packing);
}

/// d_hidden\[row of i\] += d_gathered\[i\].
fn scatter_add<T: Float>(d_gathered: &[T], rows: &[u32], d_hidden: &mut [T], hidden: usize) {
    if hidden > 0 {
        for (d, &row) in d_gathered.chunks_exact(hidden).zip(rows) {
            simd::add(&mut d_hidden[row as usize * hidden..][..hidden], d);
        }
    }
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
    /// Turns exp(l − largest l) of a block of a row into the gradient with respect to l, of log-probabilities alone. The block
    /// begins at token `start`; the factor makes probabilities of what it holds.
    fn write_from_exps(&self, exps: &mut [T], target: usize, targets: &Targets<'_>, start: usize, factor: T) {
        let log_prob = self.log_probs.map_or(T::ZERO, |d| d[target]);
        let given = targets.given_of(target);
        let d_given = self.given_log_probs.map_or(&[][..], |d| &d[target * given.len()..][..given.len()]);
        let direct = log_prob + d_given.iter().copied().sum();
        if direct == T::ZERO {
            exps.fill(T::ZERO);
        } else {
            simd::scale(exps, -direct * factor);
        }
        let mut add = |id: u32, d: T| {
            if let Some(place) = (id as usize).checked_sub(start).and_then(|i| exps.get_mut(i)) {
                *place += d;
            }
        };
        add(targets.ids[target], log_prob);
        given.iter().zip(d_given).for_each(|(&id, &d)| add(id, d));
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
