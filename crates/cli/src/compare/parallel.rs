//! Runs of a comparison, several at once where processors and memory allow.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use candlewick::evaluate::compare::{Cell, CellEvent, CellResult, CellRun, Common};

use super::Largest;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::memory;
use crate::progress::duration;

/// Share of the free memory that runs may take between them.
const SHARE: f64 = 0.8;

/// How many runs go at once: as many as asked for, else one a thread as far as memory allows. `bytes` is what one takes.
pub(super) fn at_once(asked: Option<usize>, threads: usize, runs: usize, bytes: u64) -> Result<usize> {
    let fits = memory::free_bytes().map(|free| ((free as f64 * SHARE) as u64 / bytes.max(1)).max(1) as usize);
    match (asked, fits) {
        (Some(asked), Some(fits)) if asked > fits => bail!(Failure::Usage(format!(
            "--parallel {asked}: a run takes {}, and {} are free, enough for {fits}; give at most that",
            memory::readable(bytes),
            memory::readable(memory::free_bytes().unwrap_or_default()),
        ))),
        (Some(asked), _) => Ok(asked.min(runs.max(1))),
        // Where the system does not tell what is free, one at a time is safe.
        (None, fits) => Ok(threads.min(fits.unwrap_or(1)).clamp(1, runs.max(1))),
    }
}

/// How many runs go at once on a device: one, which keeps it busy, unless more are asked for and there is room for them in the bytes
/// that are free there.
pub(super) fn on_device(asked: Option<usize>, runs: usize, largest: &Largest, free: u64) -> Result<usize> {
    let Some(asked) = asked.filter(|asked| *asked > 1) else { return Ok(1) };
    if largest.takes_all {
        bail!(Failure::Usage(format!(
            "--parallel {asked}: train.tokens = \"auto\" gives all memory of the device to one run; give a number of tokens, or leave \
             --parallel out"
        )));
    }
    let fits = ((free as f64 * SHARE) as u64 / largest.device.max(1)).max(1) as usize;
    if asked > fits {
        bail!(Failure::Usage(format!(
            "--parallel {asked}: a run takes {} of the device, and {} are free, enough for {fits}; give at most that",
            memory::readable(largest.device),
            memory::readable(free),
        )));
    }
    Ok(asked.min(runs.max(1)))
}

/// That nobody has asked to stop.
pub(super) fn check(interrupt: &Interrupt) -> Result<()> {
    if interrupt.asked() {
        bail!(Failure::Interrupted("interrupted; the same command goes on from there".into()));
    }
    Ok(())
}

/// Makes all runs, `at_once` of them at the same time, and says how each ended.
///
/// # Errors
/// That of the first run which fails; the others are saved and stop. An interruption, after saving.
pub(super) fn run(
    cells: &[Cell],
    common: &Common,
    at_once: usize,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let waiting: Mutex<VecDeque<&Cell>> = Mutex::new(cells.iter().collect());
    let (done, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let each = (threads / at_once).max(1);
    eprintln!("{} runs, {at_once} at a time", cells.len());
    let work = || -> Result<()> {
        loop {
            let next = waiting.lock().map_or(None, |mut waiting| waiting.pop_front());
            let Some(cell) = next.filter(|_| !failed.load(Ordering::SeqCst)) else { return Ok(()) };
            let mut cell = cell.clone();
            cell.plan.train.threads = each;
            match one(&cell, common, interrupt, &failed) {
                Ok(Some(result)) => {
                    let done = done.fetch_add(1, Ordering::SeqCst) + 1;
                    let left = began.elapsed().mul_f64((cells.len() - done) as f64 / done as f64);
                    eprintln!("{}", line(&cell, &result, done, cells.len(), left));
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    failed.store(true, Ordering::SeqCst);
                    return Err(error.context(cell.name.clone()));
                }
            }
        }
    };
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("a run ended in a panic, which is an error of wick; the others are saved")),
        });
        joined.collect()
    });
    results.into_iter().collect::<Result<Vec<()>>>()?;
    check(interrupt)
}

/// Drives a run to its end; nothing where it was stopped before, after saving.
fn one(cell: &Cell, common: &Common, interrupt: &Interrupt, failed: &AtomicBool) -> Result<Option<CellResult>> {
    let mut run = CellRun::open(cell, common)?;
    loop {
        let start = Instant::now();
        match run.advance()? {
            Some(CellEvent::Finished(result)) => return Ok(Some(*result)),
            Some(CellEvent::Step(_)) => run.add_seconds(start.elapsed().as_secs_f64()),
            Some(_) => {}
            None => bail!("the run was over before it was driven"),
        }
        if interrupt.asked() || failed.load(Ordering::SeqCst) {
            run.save()?;
            return Ok(None);
        }
    }
}

/// How a run ended, in a line.
fn line(cell: &Cell, result: &CellResult, done: usize, of: usize, left: Duration) -> String {
    let outcome = match (&result.failure, result.last()) {
        (Some(failure), _) => format!("stopped: {failure}"),
        (None, Some(point)) => format!("accuracy {:.3}, margin {:.2}", point.accuracy, point.margin),
        (None, None) => "over".to_owned(),
    };
    let left = if done < of { format!(", {} left", duration(left)) } else { String::new() };
    format!("{done}/{of} {}: {outcome}, {:.1} s{left}", cell.name, result.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_run_unless_more_are_asked_for() {
        let largest = Largest { host: 1, device: 30, takes_all: false };
        assert_eq!(on_device(None, 9, &largest, 100).expect("one"), 1);
        assert_eq!(on_device(Some(2), 9, &largest, 100).expect("two"), 2);
        assert_eq!(on_device(Some(2), 1, &largest, 100).expect("one"), 1);
        let text = on_device(Some(3), 9, &largest, 100).expect_err("too many").to_string();
        assert!(text.contains("--parallel 3") && text.contains("enough for 2"), "{text}");
        let all = Largest { takes_all: true, ..largest };
        assert_eq!(on_device(Some(1), 9, &all, 100).expect("one"), 1);
        let text = on_device(Some(2), 9, &all, 100).expect_err("all of it").to_string();
        assert!(text.contains("train.tokens") && text.contains("--parallel"), "{text}");
    }

    #[test]
    fn runs_are_as_many_as_asked_or_as_there_are_threads() {
        assert_eq!(at_once(Some(3), 8, 2, 1).expect("fits"), 2);
        assert_eq!(at_once(None, 1, 9, 1).expect("fits"), 1);
        if memory::free_bytes().is_some() {
            let text = at_once(Some(2), 8, 2, u64::MAX / 2).expect_err("too large").to_string();
            assert!(text.contains("--parallel 2") && text.contains("enough for 1"), "{text}");
        }
    }
}
