//! `wick compare`: objectives, settings and seeds on one model and the same rows, and what came out.

mod parallel;
mod show;

use anyhow::{Context as _, Result};
use candlewick::evaluate::compare::{Cell, CellRun, Common, Comparison, Matrix, Next};
use candlewick::train::{DeviceMemory, Hardware, MemoryPlan, TokenBudget, replace_file};

use crate::arguments::Compare;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::{places, words};

/// Runs what is still to be run, and reports.
pub(crate) fn compare(arguments: &Compare) -> Result<()> {
    let matrix = matrix(arguments)?;
    let train = matrix.cell(0, 0, matrix.seeds[0])?.plan.train;
    let threads = words::threads(train.threads);
    let directory = matrix.directory().to_owned();
    if arguments.report && !directory.join("cells").is_dir() {
        anyhow::bail!(Failure::Usage(format!(
            "--report: nothing was compared in {}; leave --report out to compare",
            directory.display()
        )));
    }
    // What is reported was made before, wherever that was.
    let hardware = if arguments.report { Hardware::default() } else { Hardware::open(train.device)? };
    std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let interrupt = Interrupt::listen()?;
    let comparison = Comparison::new(matrix);
    eprintln!("{}", show::plan(comparison.matrix()));
    let common = Common::load(comparison.matrix(), hardware, threads)?;
    if !arguments.report {
        run(&comparison, &common, arguments, threads, &interrupt)?;
    }
    let report = comparison.report(&common)?;
    let write = |name: &str, text: String| -> Result<()> { Ok(replace_file(&directory.join(name), text.as_bytes())?) };
    write("results.json", format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    write("results.csv", show::csv(&report))?;
    write("report.html", show::page(&report, comparison.matrix()))?;
    match arguments.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => {
            for line in show::table(&report) {
                println!("{line}");
            }
            println!("the page with all of it is {}", directory.join("report.html").display());
        }
    }
    Ok(())
}

fn matrix(arguments: &Compare) -> Result<Matrix> {
    if arguments.common.objective.is_some() {
        anyhow::bail!(Failure::Usage(
            "--objective: several are compared; name them in [compare] objectives, or by --objectives".into()
        ));
    }
    let mut words = words::of_common(&arguments.common)?;
    let directory = arguments.output.clone();
    if let Some(names) = &arguments.objectives {
        words.put_value("compare.objectives", names)?;
        words.put_value("compare.arms", &Vec::<String>::new())?;
    }
    if let Some(seeds) = arguments.seeds {
        words.put_value("compare.seeds", &seeds)?;
    }
    if let Some(steps) = arguments.steps {
        words.put_value("train.steps", &steps)?;
    }
    for assignment in &arguments.common.set {
        match assignment.split_once('=') {
            // A comparison's own keys are read as TOML; those of a run know their types.
            Some((key, value)) if key.trim().starts_with("compare.") => {
                words.put_value(key.trim(), &typed(value.trim()))?
            }
            _ => words.set(assignment)?,
        }
    }
    let mut matrix = Matrix::resolve(words, &directory)?;
    for config in matrix.configs_mut() {
        words::put_data_first(config, &arguments.common);
        places::resolve(config)?;
    }
    matrix.check()?;
    Ok(matrix)
}

/// A value as TOML reads it; what it cannot read is text.
fn typed(value: &str) -> toml::Value {
    let table = format!("value = {value}").parse::<toml::Table>().ok();
    table.and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(value.to_owned()))
}

fn run(
    comparison: &Comparison,
    common: &Common,
    arguments: &Compare,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let cells = comparison.reference_cells()?;
    let count = cells.len();
    for (number, cell) in cells.iter().enumerate() {
        let mut run = CellRun::open(cell, common)?;
        if run.run().is_precomputing() {
            eprintln!("the reference scores the rows of {} ({} of {count})", cell.name, number + 1);
        }
        while run.run().is_precomputing() {
            parallel::check(interrupt)?;
            run.advance()?;
        }
    }
    while let Next::Runs(cells) = comparison.next(common.held_out(), common.reference())? {
        let at_once = match common.hardware().device() {
            Some(device) => {
                device.synchronize()?;
                let free = device.memory()?.free as u64;
                parallel::on_device(arguments.parallel, cells.len(), &largest(&cells)?, free)?
            }
            None => parallel::at_once(arguments.parallel, threads, cells.len(), largest(&cells)?.host)?,
        };
        parallel::run(&cells, common, at_once, threads, interrupt)?;
    }
    Ok(())
}

/// What the largest of the runs takes, in bytes.
#[derive(Debug, Default)]
struct Largest {
    host: u64,
    device: u64,
    /// Whether the memory of the device that is free decides the tokens of a micro-batch.
    takes_all: bool,
}

fn largest(cells: &[Cell]) -> Result<Largest> {
    let mut met = std::collections::BTreeSet::new();
    let mut largest = Largest::default();
    for cell in cells.iter().filter(|cell| met.insert(cell.arm)) {
        if cell.plan.train.tokens == Some(TokenBudget::Auto) {
            largest.takes_all = true;
            continue;
        }
        let plan = MemoryPlan::of(&cell.plan)?;
        largest.host = largest.host.max(plan.total());
        largest.device = largest.device.max(plan.device.as_ref().map_or(0, DeviceMemory::total));
    }
    Ok(largest)
}
