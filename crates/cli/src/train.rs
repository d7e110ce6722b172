//! `wick train`: from words to a trained model.

use anyhow::{Result, bail};
use candlewick::kernels::Cuda;
use candlewick::train::{
    Checkpoint, Event, Hardware, MemoryPlan, OutputPlan, Plan, ResultKind, Run, TokenBudget, checkpoints,
};

use crate::arguments::Train;
use crate::drive::{Driven, drive};
use crate::failure::{self, Failure};
use crate::interrupt::Interrupt;
use crate::{memory, places, progress, rows, run_report, screen, words};

/// Trains, or shows the plan.
pub(crate) fn train(arguments: &Train) -> Result<()> {
    let mut config = words::of_train(arguments)?;
    places::resolve(&mut config)?;
    let mut plan = Plan::resolve(config)?;
    plan.train.threads = words::threads(plan.train.threads);
    if arguments.print_plan {
        let (plan, chosen) = with_tokens(plan);
        // What a run takes is known once its micro-batches are.
        let is_decided = plan.train.tokens != Some(TokenBudget::Auto);
        print!("{plan}{chosen}{}", if is_decided { memory_of(&plan) } else { String::new() });
        return Ok(());
    }
    let interrupt = Interrupt::listen()?;
    let hardware = Hardware::open(plan.train.device)?;
    if let Some(device) = hardware.describe()? {
        eprintln!("on {device}; in {}", plan.train.dtype);
    }
    let mut run = if arguments.resume { resume(&hardware, plan)? } else { start(&hardware, plan)? };
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
    if arguments.resume && done.stepping.is_zero() {
        println!("no step was left to take: the last checkpoint is that of the last step");
    }
    let on_device = hardware.device().map(Cuda::memory).transpose()?.map(|memory| memory.most_used as u64);
    report(&done, &run.plan().output, on_device);
    Ok(())
}

/// The plan with the budget of tokens that would be chosen now where one is asked for, and a comment on it.
fn with_tokens(plan: Plan) -> (Plan, String) {
    let hardware = match plan.train.tokens {
        Some(TokenBudget::Auto) => Hardware::open(plan.train.device),
        _ => return (plan, String::new()),
    };
    match hardware.and_then(|hardware| plan.clone().with_token_budget(&hardware)) {
        Ok((plan, chosen)) => (plan, chosen.map(|chosen| format!("# {chosen}\n")).unwrap_or_default()),
        Err(error) => {
            let why = failure::one_line(&error.into());
            (plan, format!("# train.tokens is not decided: {why}; give a number to see the memory it takes\n"))
        }
    }
}

/// The plan of memory as comments below the plan.
fn memory_of(plan: &Plan) -> String {
    let text = match MemoryPlan::of(plan) {
        // By now the process holds what a run holds before its model: the tokenizer, and rows that were read.
        Ok(memory) => memory.with_process(memory::own_bytes(plan.train.threads)).to_string(),
        Err(error) => format!("memory is not planned: {}\n", failure::one_line(&error.into())),
    };
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// Begins, showing what will be trained on.
fn start(hardware: &Hardware, plan: Plan) -> Result<Run> {
    let run = Run::start_on(hardware, plan)?;
    if let Some(sample) = run.sample()? {
        eprintln!("the first row, as it is trained on (⟦…⟧ is scored):");
        for line in sample.lines() {
            eprintln!("  {}", rows::shortened(line));
        }
    }
    Ok(run)
}

/// Goes on from the newest whole checkpoint, saying what was wrong with newer ones.
fn resume(hardware: &Hardware, plan: Plan) -> Result<Run> {
    let directory = checkpoints(&plan.output.dir);
    let found = Checkpoint::latest(&directory)?;
    let passed_over: Vec<String> = found.damaged.into_iter().map(|error| failure::one_line(&error.into())).collect();
    let Some(checkpoint) = found.checkpoint else {
        let place = directory.display();
        bail!(Failure::Model(if passed_over.is_empty() {
            format!("--resume: no usable checkpoint in {place}: there is none; start without --resume")
        } else {
            // A run does not begin where another one left something.
            format!(
                "--resume: no usable checkpoint in {place}: {}; move that directory away and start without --resume, or name \
                 another --output",
                passed_over.join("; ")
            )
        }));
    };
    for reason in passed_over {
        eprintln!("wick: warning: passed over {reason}");
    }
    eprintln!("resuming from {}", checkpoint.path.display());
    Ok(Run::resume_on(hardware, plan, &checkpoint.path)?)
}

fn report(Driven { summary, stepping }: &Driven, OutputPlan { dir, result, .. }: &OutputPlan, on_device: Option<u64>) {
    let watched = &summary.watched;
    if let Some(stop) = &watched.stopped {
        println!("stopped after step {}: {stop}", summary.steps);
    }
    if watched.not_finite > 0 {
        println!("{} steps changed nothing: their loss or gradient was not finite", watched.not_finite);
    }
    println!("{} steps done, {} tokens, {} in steps", summary.steps, summary.tokens, progress::duration(*stepping));
    if let Some(peak) = memory::peak_bytes() {
        println!("peak memory {}", memory::readable(peak));
    }
    if let Some(peak) = on_device {
        println!("peak memory of the device {}", memory::readable(peak));
    }
    let held_out = summary.held_out.iter().flat_map(|report| rows::lines("held-out rows", report));
    for line in rows::lines("rows", &summary.rows).into_iter().chain(held_out) {
        println!("{line}");
    }
    let rejected = summary.result.with_file_name("rejected.jsonl");
    if rejected.exists() {
        println!("rows that were set aside are listed in {}", rejected.display());
    }
    match run_report::of_finished(dir) {
        Ok((page, notes)) => {
            for line in notes.iter().flat_map(|note| screen::wrap(note, 100)) {
                println!("{line}");
            }
            println!("what it learned is drawn in {}", page.display());
        }
        // The run itself is done, and its result written.
        Err(error) => eprintln!("wick: warning: no page was written: {}", failure::one_line(&error)),
    }
    match watched.best.filter(|_| *result == ResultKind::Best) {
        Some(best) => println!("the result is that of step {}, in {}", best.step, summary.result.display()),
        None if *result == ResultKind::Best => {
            println!("no evaluation had a best; the result is that of the last step, in {}", summary.result.display());
        }
        None => println!("the result is in {}", summary.result.display()),
    }
}
