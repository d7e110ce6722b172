//! Work spread over threads so that the result does not depend on which thread did what.
use std::marker::PhantomData;
use std::ops::Range;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Elements below which handing a piece to another thread costs more than doing it.
const GRAIN: usize = 1 << 14;

/// Threads to share work with; empty where the caller works alone.
#[derive(Clone, Default)]
pub(crate) struct Crew {
    #[cfg(not(target_arch = "wasm32"))]
    pool: Option<Arc<rayon::ThreadPool>>,
}

#[cfg(not(target_arch = "wasm32"))]
impl Crew {
    pub(crate) fn new(threads: usize) -> Self {
        let pool = match threads {
            1 => None,
            _ => rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .ok()
                .filter(|p| p.current_num_threads() > 1),
        };
        Self { pool: pool.map(Arc::new) }
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Runs `work`, which may itself ask for `threads` threads.
    pub(crate) fn run(&self, work: impl FnOnce(usize) + Send) {
        match &self.pool {
            Some(pool) => pool.install(|| work(self.threads())),
            None => work(1),
        }
    }

    /// Calls `work(task, scratch)` for each task, each thread with its own part of `scratch`, `per_lane` elements long.
    ///
    /// Tasks are handed out in order to whoever is free, so `work` must not let its result depend on the scratch it is
    /// given or on what ran before.
    pub(crate) fn tasks_with<T: Send>(
        &self,
        tasks: usize,
        scratch: &mut [T],
        per_lane: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        use rayon::prelude::*;
        assert!(scratch.len() >= self.threads() * per_lane, "every thread has its part of the scratch");
        let Some(pool) = self.pool.as_ref().filter(|_| tasks > 1) else {
            return (0..tasks).for_each(|task| work(task, &mut scratch[..per_lane]));
        };
        let next = AtomicUsize::new(0);
        let lane = |scratch: &mut [T]| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                work(task, scratch);
            }
        };
        pool.install(|| scratch.par_chunks_exact_mut(per_lane.max(1)).for_each(lane));
    }

    fn each(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        use rayon::prelude::*;
        match self.pool.as_ref().filter(|_| pieces > 1) {
            Some(pool) => pool.install(|| (0..pieces).into_par_iter().for_each(&work)),
            None => (0..pieces).for_each(work),
        }
    }
}

#[cfg(target_arch = "wasm32")]
impl Crew {
    pub(crate) fn new(_threads: usize) -> Self {
        Self::default()
    }

    pub(crate) fn threads(&self) -> usize {
        1
    }

    pub(crate) fn run(&self, work: impl FnOnce(usize) + Send) {
        work(1);
    }

    pub(crate) fn tasks_with<T: Send>(
        &self,
        tasks: usize,
        scratch: &mut [T],
        per_lane: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        (0..tasks).for_each(|task| work(task, &mut scratch[..per_lane]));
    }

    fn each(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        (0..pieces).for_each(work);
    }
}

impl Crew {
    /// As [`Crew::tasks_with`], without scratch.
    pub(crate) fn tasks(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        self.tasks_with(tasks, &mut vec![(); self.threads()], 1, |task, _| work(task));
    }

    /// Calls `work` for consecutive ranges of rows that together are `0..rows`. Where they are cut depends on the size of
    /// a row alone, never on the number of threads.
    pub(crate) fn rows(&self, rows: usize, row_len: usize, work: impl Fn(Range<usize>) + Sync) {
        self.pieces(rows, GRAIN.div_ceil(row_len.max(1)), |_, range| work(range));
    }

    /// Calls `work(i, range)` for the `i`-th of consecutive ranges of `step` rows (the last may be shorter).
    pub(crate) fn pieces(&self, rows: usize, step: usize, work: impl Fn(usize, Range<usize>) + Sync) {
        self.each(rows.div_ceil(step), |i| work(i, i * step..((i + 1) * step).min(rows)));
    }
}

/// A mutable slice of which several threads write different parts.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a slice of `T: Send`; that they do not overlap is the obligation of `part` and `at`.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrowed: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    /// No element of it is reachable through another live part.
    #[expect(clippy::mut_from_ref, reason = "the point of the type; the obligation is stated")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed slice by the assertion; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Address of an element, for strided access.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len);
        // SAFETY: inside the borrowed slice or one past its end, by the assertion.
        unsafe { self.start.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once() {
        for threads in [1, 3] {
            let crew = Crew::new(threads);
            let mut seen = vec![0u32; 100_003];
            let parts = Disjoint::new(&mut seen);
            crew.rows(100_003, 5, |range| {
                // SAFETY: the ranges of `rows` do not overlap.
                unsafe { parts.part(range) }.iter_mut().for_each(|n| *n += 1);
            });
            assert!(seen.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 4] {
            let crew = Crew::new(threads);
            let mut seen = vec![0u32; 37];
            let parts = Disjoint::new(&mut seen);
            crew.tasks_with(37, &mut vec![0u8; 2 * crew.threads()], 2, |task, scratch| {
                assert_eq!(scratch.len(), 2);
                // SAFETY: each task owns its element.
                let own = unsafe { parts.part(task..task + 1) };
                own[0] += 1;
            });
            assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
