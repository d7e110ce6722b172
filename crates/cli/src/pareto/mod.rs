//! `wick pareto`: a sweep of settings, or policies that are there, by several objectives at once.

mod check;
mod measure;
mod policies;
mod scores;
mod show;
pub(crate) mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use candlewick::evaluate::pareto::ParetoReport;
use candlewick::evaluate::sweep::{Axis, PointResult, Sweep, SweepPoint};
use candlewick::model::{CausalLm, Config as ModelConfig};
use candlewick::train::{self, Fault, replace_file};
use serde_json::json;

use self::measure::{Measuring, Policy, shared};
use self::policies::Named;
use self::scores::Scores;
use self::words::Pareto;
use crate::data::words::DataRows;
use crate::drive::drive;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::places::{self, Kind};
use crate::{sample, words as configuration};

const GO_ON: &str = "the same command goes on from there";

/// Trains what is still to be trained, measures everything, and shows it.
pub(crate) fn pareto(arguments: &Pareto) -> Result<()> {
    check::words(arguments)?;
    let points = points(arguments)?;
    let threads = configuration::threads(match points.first() {
        Some(point) => point.plan.train.threads,
        None => arguments.common.threads.unwrap_or(0),
    });
    let prompts = sample::prompts(&DataRows::all(arguments.prompts.clone()), arguments.prompt_column.as_deref(), None)?;
    if prompts.len() < 2 {
        let place = arguments.prompts.display();
        bail!(Failure::Data(format!("{place}: one prompt; an error of a mean wants two or more, better a hundred")));
    }
    let swept = points.iter().map(Named::of_point).collect::<Result<Vec<_>>>()?;
    let base = arguments.common.model.as_deref().map(Path::new);
    let named = policies::of_places(&arguments.policies, base, &swept)?;
    let reference = arguments.reference.as_deref().map(reference).transpose()?;
    // What is wrong shows before the first run; a run has the memory to itself.
    let all: Vec<Named> = swept.iter().chain(&named).cloned().collect();
    check::policies(&all, &prompts, reference.as_deref(), arguments)?;
    let scores = Scores::load(arguments, threads)?;
    let aims = scores.aims(arguments)?;
    scores.check_prompts(&prompts, arguments)?;
    drop(scores);
    let interrupt = Interrupt::listen()?;
    let mut failures = train(&points, threads, &interrupt)?;
    // Of a run that ended, the directory now holds a model or an adapter.
    let swept = points.iter().filter(|point| failures.iter().all(|(name, _)| *name != point.name));
    let mut policies = swept.map(Named::of_point).collect::<Result<Vec<_>>>()?;
    policies.extend(named);
    if policies.is_empty() {
        bail!(Failure::Model("no run of the sweep came to its end; lower optimizer.learning_rate".into()));
    }
    let mut measuring = Measuring {
        prompts: &prompts,
        draws: &arguments.draws,
        scores: Scores::load(arguments, threads)?,
        reference: reference.as_deref().map(CausalLm::<f32>::load).transpose()?,
        threads,
        interrupt: &interrupt,
    };
    let (found, silent) = measure(&policies, &mut measuring, &arguments.output.join("answers"))?;
    if found.is_empty() {
        bail!(Failure::Data(format!(
            "every answer was empty ({}); are the policies trained on such prompts?",
            silent.join(", ")
        )));
    }
    failures.extend(silent.into_iter().map(|name| (name, "every answer was empty".to_owned())));
    let empty = found.iter().map(|policy| (policy.name.clone(), policy.empty)).collect();
    let missing = found.iter().map(|policy| (policy.name.clone(), policy.missing())).collect();
    let (measured, left_out) = shared(&found)?;
    let given = arguments.reference_point.iter().cloned().collect();
    let report = ParetoReport::of(aims, &measured, &given)?;
    let context =
        show::Context { arguments, left_out, missing, empty, failures, plan: points.first().map(|point| &point.plan) };
    write(arguments, &report, &context)
}

/// What each policy comes to, and the names of those that answered nothing; what they answer goes into a directory.
fn measure(policies: &[Named], measuring: &mut Measuring<'_>, directory: &Path) -> Result<(Vec<Policy>, Vec<String>)> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (number, (policy, file)) in policies.iter().zip(policies::files(policies)).enumerate() {
        let (count, prompts) = (policies.len(), measuring.prompts.len());
        eprintln!("{} of {count} answers {prompts} prompts: {}", number + 1, policy.name);
        let measured = measuring.measure(policy, &directory.join(file)).map_err(|error| match error.downcast_ref() {
            Some(Failure::Interrupted(_)) => {
                Failure::Interrupted(format!("interrupted; what was trained is kept, and {GO_ON}")).into()
            }
            _ => error.context(policy.name.clone()),
        });
        match measured? {
            Some(measured) => found.push(measured),
            None => silent.push(policy.name.clone()),
        }
    }
    Ok((found, silent))
}

/// The runs of the sweep.
fn points(arguments: &Pareto) -> Result<Vec<SweepPoint>> {
    if arguments.sweep.is_empty() {
        return Ok(Vec::new());
    }
    let axes = arguments.sweep.iter().map(|words| Ok(Axis::parse(words)?)).collect::<Result<Vec<_>>>()?;
    let mut words = configuration::of_common(&arguments.common)?;
    configuration::put_course(&mut words, &arguments.course)?;
    configuration::assign(&mut words, &arguments.common.set)?;
    let mut sweep = Sweep::resolve(&words, &axes, &arguments.output)?;
    for config in sweep.configs_mut() {
        configuration::put_flags_first(config, &arguments.common, &arguments.course);
        places::resolve(config)?;
    }
    Ok(sweep.points()?)
}

/// The directory of the model that policies are to stay near.
fn reference(place: &Path) -> Result<PathBuf> {
    let directory = places::directory(place, Kind::Model)?;
    if ModelConfig::from_dir(&directory)?.is_score_model() {
        bail!(Failure::Model(format!(
            "--reference {}: a score model; name the language model that the policies were trained from",
            place.display()
        )));
    }
    Ok(directory)
}

/// Makes the runs that are not over, one after another; names those that stopped, and why.
fn train(points: &[SweepPoint], threads: usize, interrupt: &Interrupt) -> Result<Vec<(String, String)>> {
    let mut failures = Vec::new();
    for (number, point) in points.iter().enumerate() {
        let result = match point.result()? {
            Some(result) => result,
            None => {
                eprintln!("{} of {} trains: {}", number + 1, points.len(), point.name);
                let mut point = point.clone();
                point.plan.train.threads = threads;
                one(&point, interrupt).with_context(|| point.name.clone())?
            }
        };
        failures.extend(result.failure.map(|failure| (point.name.clone(), format!("the run stopped: {failure}"))));
    }
    Ok(failures)
}

/// Drives a run to its end.
fn one(point: &SweepPoint, interrupt: &Interrupt) -> Result<PointResult> {
    let mut run = point.open()?;
    let driven = drive(&mut run, "training", interrupt, GO_ON, &mut |_, _, _| Ok(()));
    let steps = run.trainer().steps_done();
    drop(run);
    let is_stopped = |error: &anyhow::Error| {
        error.downcast_ref::<train::Error>().is_some_and(|error| error.fault() == Fault::Stopped)
    };
    match driven {
        Ok(_) => Ok(point.finish(steps, None)?),
        Err(error) if is_stopped(&error) => Ok(point.finish(steps, Some(error.to_string()))?),
        Err(error) => Err(error),
    }
}

/// The files, and what is printed.
fn write(arguments: &Pareto, report: &ParetoReport, context: &show::Context<'_>) -> Result<()> {
    let mut whole = serde_json::to_value(report)?;
    whole["left_out"] = json!(context.left_out);
    whole["failures"] = context.failures.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
    whole["sampling"] = context.sampling();
    let write =
        |name: &str, text: String| -> Result<()> { Ok(replace_file(&arguments.output.join(name), text.as_bytes())?) };
    write("pareto.json", format!("{}\n", serde_json::to_string_pretty(&whole)?))?;
    write("pareto.csv", show::csv(report))?;
    write("report.html", show::page(report, context))?;
    match arguments.json {
        true => println!("{whole}"),
        false => {
            for line in show::table(report, context) {
                println!("{line}");
            }
            println!("the page with all of it is {}", arguments.output.join("report.html").display());
        }
    }
    Ok(())
}
