//! `wick train`: from words to a trained model.

use anyhow::{Result, bail};
use candlewick::train::{Checkpoint, Event, Plan, Run, checkpoints};

use crate::arguments::Train;
use crate::drive::{Driven, drive};
use crate::failure::{self, Failure};
use crate::interrupt::Interrupt;
use crate::{memory, places, progress, words};

/// Trains, or shows the plan.
pub(crate) fn train(arguments: &Train) -> Result<()> {
    let mut config = words::of_train(arguments)?.config()?;
    if arguments.print_plan {
        print!("{}", Plan::resolve(config)?);
        return Ok(());
    }
    places::resolve(&mut config)?;
    let mut plan = Plan::resolve(config)?;
    plan.train.threads = words::threads(plan.train.threads);
    let interrupt = Interrupt::listen()?;
    let mut run = if arguments.resume { resume(plan)? } else { Run::start(plan)? };
    let done = drive(
        &mut run,
        "training",
        &interrupt,
        "the same command with --resume goes on from there",
        &mut |_, event, progress| {
            if let Event::Evaluated(report) = event {
                let accuracy = report
                    .metrics
                    .value("rewards/accuracies")
                    .map(|a| format!(", accuracy {a:.3}"))
                    .unwrap_or_default();
                let margin =
                    report.metrics.value("rewards/margins").map(|m| format!(", margin {m:.3}")).unwrap_or_default();
                progress.say(&format!("step {}: held-out loss {:.4}{accuracy}{margin}", report.step, report.loss));
            }
            Ok(())
        },
    )?;
    report(&done);
    Ok(())
}

/// Goes on from the newest whole checkpoint, saying what was wrong with newer ones.
fn resume(plan: Plan) -> Result<Run> {
    let directory = checkpoints(&plan.output.dir);
    let found = Checkpoint::latest(&directory)?;
    let passed_over: Vec<String> = found.damaged.into_iter().map(|error| failure::one_line(&error.into())).collect();
    let Some(checkpoint) = found.checkpoint else {
        let reason = if passed_over.is_empty() { "there is none".to_owned() } else { passed_over.join("; ") };
        bail!(Failure::Model(format!(
            "--resume: no usable checkpoint in {}: {reason}; start without --resume",
            directory.display()
        )));
    };
    for reason in passed_over {
        eprintln!("wick: warning: passed over {reason}");
    }
    eprintln!("resuming from {}", checkpoint.path.display());
    Ok(Run::resume(plan, &checkpoint.path)?)
}

fn report(Driven { summary, stepping }: &Driven) {
    println!("{} steps done, {} tokens, {} in steps", summary.steps, summary.tokens, progress::duration(*stepping));
    if let Some(peak) = memory::peak_bytes() {
        println!("peak memory {}", memory::readable(peak));
    }
    if summary.rows.rows > summary.rows.kept || summary.rows.counts.truncated > 0 {
        println!("rows: {}", summary.rows.summary());
        for rejection in summary.rows.rejected.iter().take(SHOWN) {
            println!("    {rejection}");
        }
        if summary.rows.rejected.len() > SHOWN {
            println!("    …");
        }
    }
    println!("the result is in {}", summary.result.display());
}

/// Rejected rows shown in full.
const SHOWN: usize = 5;
