//! The `wick` command: preference optimisation of language models from the command line.
//!
//! Words come in ([`arguments`], [`words`]), a plan goes to the trainer, and what it reports is shown. Nothing is computed
//! here but what is shown.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its user")]
#![expect(
    clippy::disallowed_methods,
    reason = "clock and environment belong to the command; below it they are arguments"
)]

mod arguments;
mod bench;
mod bench_data;
mod checkpoint;
mod compare;
mod csv;
mod data;
mod drive;
mod eval;
mod eval_tasks;
mod failure;
mod generate;
mod interrupt;
mod memory;
mod merge;
mod objectives;
mod pareto;
mod places;
mod precompute;
mod preference;
mod progress;
mod quickstart;
mod report;
mod rows;
mod run_report;
mod safety;
mod sample;
mod score;
mod screen;
mod train;
mod why;
mod words;
mod world;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Bench, Command};

/// A reader of standard output that has seen enough, as `head`, is no failure: without it there is nobody to print for.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(failure::OK.into());
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    candlewick::kernels::return_freed_buffers();
    // clap itself ends the process on wrong words, with code 2.
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Train(arguments) => train::train(arguments),
        Command::Precompute(arguments) => precompute::precompute(arguments),
        Command::Eval(arguments) => eval::eval(arguments),
        Command::Safety(command) => safety::safety(command),
        Command::Sample(arguments) => sample::sample(arguments),
        Command::Score(arguments) => score::score(arguments),
        Command::Why(arguments) => why::why(arguments),
        Command::Compare(arguments) => compare::compare(arguments),
        Command::Pareto(arguments) => pareto::pareto(arguments),
        Command::Report(arguments) => run_report::report(arguments),
        Command::Checkpoint(command) => checkpoint::checkpoint(command),
        Command::Merge(arguments) => merge::merge(arguments),
        Command::Generate(arguments) => generate::generate(arguments),
        Command::Data(arguments) => data::data(arguments),
        Command::Bench(Bench::Step(arguments)) => bench::step(arguments),
        Command::Bench(Bench::Data(arguments)) => bench_data::data(arguments),
        Command::Objectives(arguments) => objectives::objectives(arguments),
        Command::Quickstart(arguments) => quickstart::quickstart(arguments),
    };
    match done {
        Ok(()) => ExitCode::from(failure::OK),
        Err(error) => {
            eprintln!("wick: error: {}", failure::one_line(&error));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
