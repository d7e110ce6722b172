//! Work on several threads whose results come in the order in which it was given out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::error::Error;

/// More threads than this are a mistake.
pub(crate) const MOST_WORKERS: usize = 256;

/// Jobs given out and not yet taken back, a thread.
const JOBS_A_WORKER: usize = 64;

/// Bytes of the jobs given out and not yet taken back; a single job may be larger.
const BYTES: usize = 16 << 20;

type Outcome<R> = Result<R, String>;

/// Threads, and the jobs they have.
pub(crate) struct Pool<J, R> {
    jobs: Option<Sender<(u64, J)>>,
    results: Option<Receiver<(u64, Outcome<R>)>>,
    threads: Vec<JoinHandle<()>>,
    /// Results that came before their turn.
    early: BTreeMap<u64, Outcome<R>>,
    /// Sizes of the jobs given out, the oldest first.
    sizes: VecDeque<usize>,
    bytes: usize,
    given: u64,
    room: usize,
}

impl<J, R> fmt::Debug for Pool<J, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads.len())
            .field("given", &self.given)
            .field("in_flight", &self.sizes.len())
            .finish_non_exhaustive()
    }
}

impl<J: Send + 'static, R: Send + 'static> Pool<J, R> {
    /// Starts the threads; each does `work` on a job at a time.
    pub(crate) fn new(workers: usize, work: impl Fn(J) -> R + Send + Sync + 'static) -> Result<Self, Error> {
        let room = workers.saturating_mul(JOBS_A_WORKER);
        let (jobs, waiting) = channel();
        // As many places as jobs can be out: no thread ever waits to hand over a result.
        let (finished, results) = sync_channel(room);
        let (work, waiting) = (Arc::new(work), Arc::new(Mutex::new(waiting)));
        let mut pool = Self {
            jobs: Some(jobs),
            results: Some(results),
            threads: Vec::new(),
            early: BTreeMap::new(),
            sizes: VecDeque::new(),
            bytes: 0,
            given: 0,
            room,
        };
        for number in 0..workers {
            let (work, waiting, finished) = (work.clone(), waiting.clone(), finished.clone());
            let thread = Builder::new()
                .name(format!("rows {number}"))
                .spawn(move || serve(&waiting, &finished, &*work))
                .map_err(|source| Error::Threads { workers, source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Whether another job may be given out.
    pub(crate) fn has_room(&self) -> bool {
        self.sizes.is_empty() || (self.sizes.len() < self.room && self.bytes < BYTES)
    }

    /// Whether no job is out.
    pub(crate) fn is_idle(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Gives out a job that holds so many bytes.
    pub(crate) fn give(&mut self, job: J, bytes: usize) {
        if let Some(jobs) = &self.jobs {
            // The other end is held by the threads, which stay until this one is dropped.
            let _ = jobs.send((self.given, job));
        }
        self.given += 1;
        self.sizes.push_back(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The result of the oldest job that is out; None if none is.
    pub(crate) fn take(&mut self) -> Result<Option<R>, Error> {
        let next = self.given - self.sizes.len() as u64;
        let Some(bytes) = self.sizes.pop_front() else { return Ok(None) };
        self.bytes = self.bytes.saturating_sub(bytes);
        loop {
            if let Some(outcome) = self.early.remove(&next) {
                return outcome.map(Some).map_err(|message| Error::Worker { message });
            }
            let arrived = self.results.as_ref().and_then(|results| results.recv().ok());
            let (number, outcome) =
                arrived.ok_or_else(|| Error::Worker { message: "the threads have ended".to_owned() })?;
            self.early.insert(number, outcome);
        }
    }
}

impl<J, R> Drop for Pool<J, R> {
    /// Each thread finishes the job it is at; jobs that no thread has begun are left.
    fn drop(&mut self) {
        self.jobs = None;
        self.results = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve<J, R>(
    jobs: &Mutex<Receiver<(u64, J)>>,
    results: &SyncSender<(u64, Outcome<R>)>,
    work: &(impl Fn(J) -> R + ?Sized),
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, job)) = job else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(job))).map_err(|panic| message(&*panic));
        if results.send((number, outcome)).is_err() {
            return;
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Longer for some jobs than for others, so that they end out of order.
    fn slow_square(job: u64) -> u64 {
        let rounds = if job % 7 == 0 { 200_000 } else { 10 };
        let spun = (0..rounds).fold(job, |sum: u64, step| std::hint::black_box(sum ^ step) ^ step);
        spun * spun
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for workers in [1, 2, 5] {
            let mut pool = Pool::new(workers, slow_square).unwrap();
            let mut results = Vec::new();
            for job in 0..1000u64 {
                while !pool.has_room() {
                    results.extend(pool.take().unwrap());
                }
                pool.give(job, 1);
            }
            while let Some(result) = pool.take().unwrap() {
                results.push(result);
            }
            assert_eq!(results, (0..1000).map(|job| job * job).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_job_that_panics_is_an_error_and_the_others_go_on() {
        let mut pool = Pool::new(2, |job: u32| {
            assert!(job != 3, "job {job} is wrong");
            job
        })
        .unwrap();
        (0..6).for_each(|job| pool.give(job, 1));
        let results: Vec<_> = (0..6).map(|_| pool.take().map_err(|error| error.to_string())).collect();
        assert!(results[3].as_ref().unwrap_err().contains("job 3 is wrong"), "{results:?}");
        for (job, result) in results.iter().enumerate().filter(|(job, _)| *job != 3) {
            assert_eq!(*result, Ok(Some(job as u32)));
        }
        assert!(pool.take().unwrap().is_none());
    }

    #[test]
    fn jobs_out_are_bounded_by_number_and_by_bytes() {
        let mut pool = Pool::new(2, |job: usize| job).unwrap();
        let mut given = 0;
        while pool.has_room() {
            pool.give(given, 1);
            given += 1;
        }
        assert_eq!(given, 2 * JOBS_A_WORKER);
        while pool.take().unwrap().is_some() {}
        // One that is larger than all may be goes alone.
        pool.give(0, 2 * BYTES);
        assert!(!pool.has_room());
        assert_eq!(pool.take().unwrap(), Some(0));
        assert!(pool.has_room());
    }

    #[test]
    fn dropping_ends_the_threads() {
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let mut pool = Pool::new(1, move |_: u32| {
            let _ = wait.lock().unwrap().recv();
            counter.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        (0..50).for_each(|job| pool.give(job, 1));
        // The first job ends once this thread is on its way to drop the pool, or has.
        drop(go);
        drop(pool);
        assert!(Arc::strong_count(&done) == 1, "a thread still holds its work");
    }
}
