//! Drives a run to its end, or to the user's wish: steps, progress, a saved stop.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use candlewick::train::{self, CostFigures, CostReport, Event, Run, Skipped, Summary, checkpoints};

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// How a run went.
#[derive(Debug)]
pub(crate) struct Driven {
    /// What the run says at its end.
    pub(crate) summary: Summary,
    /// Time spent in steps, without evaluating and saving.
    pub(crate) stepping: Duration,
}

/// Calls the run until it is finished. `seen` is told of every event and may look into the run; `go_on` says how to resume.
///
/// # Errors
/// Those of the run and of `seen`; an interruption, after saving.
pub(crate) fn drive(
    run: &mut Run,
    label: &'static str,
    interrupt: &Interrupt,
    go_on: &str,
    seen: &mut dyn FnMut(&mut Run, &Event, &Progress) -> Result<()>,
) -> Result<Driven> {
    let mut progress = Progress::start(label, run.trainer().steps_done(), run.total_steps());
    let mut stepping = Duration::ZERO;
    let began = Instant::now();
    run.set_interrupt(interrupt.flag());
    loop {
        let start = Instant::now();
        run.tell_time(start - began);
        let event = match run.advance() {
            Err(train::Error::Interrupted) => {
                progress.finish();
                return Err(saved_stop(run, go_on)?);
            }
            Ok(Some(event)) => event,
            Ok(None) => bail!("the run was over before it was driven"),
            Err(error) => {
                progress.finish();
                return Err(error.into());
            }
        };
        if let Event::Step(report) = &event {
            let took = start.elapsed();
            stepping += took;
            progress.step(report, took);
        }
        for line in said_of(&event) {
            progress.say(&line);
        }
        seen(run, &event, &progress)?;
        if let Event::Finished(summary) = event {
            progress.finish();
            return Ok(Driven { summary, stepping });
        }
        if interrupt.asked() {
            progress.finish();
            if matches!(event, Event::Precomputed { done: false, .. }) {
                run.keep_precomputed()?;
                let saved = checkpoints(&run.plan().output.dir).exists();
                let how = if saved { go_on } else { "no checkpoint was saved; start again without --resume" };
                bail!(Failure::Interrupted(format!(
                    "interrupted while the reference scored the rows; its scores so far are kept; {how}"
                )));
            }
            return Err(saved_stop(run, go_on)?);
        }
    }
}

/// Saves, and says so.
fn saved_stop(run: &mut Run, go_on: &str) -> Result<anyhow::Error> {
    let checkpoint = run.save_now()?;
    let step = run.trainer().steps_done();
    let text = format!("interrupted after step {step}; saved to {}; {go_on}", checkpoint.display());
    Ok(Failure::Interrupted(text).into())
}

/// What is worth lines of its own, whatever the run is for.
fn said_of(event: &Event) -> Vec<String> {
    match event {
        Event::Precomputed { rows, done: true } => vec![format!("{rows} completions scored by the reference")],
        Event::TokensChosen(choice) => vec![choice.to_string()],
        Event::Answered(report) if report.step == 0 => of_first_answers(report),
        Event::Skipped(Skipped { step, what, value, rows, .. }) => {
            vec![format!("wick: warning: step {step} changed nothing: the {what} is {value} on {rows}")]
        }
        Event::Alarm { step, evaluated, alarm } => {
            let of = if *evaluated { ", held-out rows" } else { "" };
            vec![format!("wick: warning: step {step}{of}: {alarm}")]
        }
        _ => Vec::new(),
    }
}

/// What the policy's answers cost before the first step, and how fast multipliers may move.
fn of_first_answers(report: &CostReport) -> Vec<String> {
    let empty = if report.empty > 0 { format!(", {} more were empty", report.empty) } else { String::new() };
    if report.costs.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("costs of {} answers of the policy before the first step{empty}:", report.answers)];
    for (k, cost) in report.costs.iter().enumerate() {
        let CostFigures { limit, mean, unsafe_share, variance, rate, largest_rate, .. } = cost;
        let settles = match largest_rate.is_finite() {
            true => format!("multiplier and policy settle at rates below {largest_rate:.3e}"),
            false => "all answers to a prompt cost the same".to_owned(),
        };
        lines.push(format!(
            "  objective.dual[{k}]: mean {mean:.4} (limit {limit}), unsafe {:.1} %, variance {variance:.4}; {settles} (here {rate})",
            100.0 * unsafe_share
        ));
    }
    lines
}
