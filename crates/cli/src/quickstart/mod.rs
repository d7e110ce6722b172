//! `wick quickstart`: a small model learns to answer well, and every claim is checked on the spot.

mod answers;
mod baseline;
mod checks;
mod corpus;
mod findings;
mod pretrain;
pub(crate) mod recipe;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candlewick::data::{EncodeOptions, Encoder};
use candlewick::train::{EvalReport, Event, Plan, Run, StepReport, Words};

use crate::arguments::Quickstart;
use crate::drive::{Driven, drive};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{memory, screen, words};
use answers::Examiner;
use baseline::{BagOfWords, Share, length_rule};
use checks::Check;
use corpus::Corpus;

/// What was found, for the screen and the report.
#[derive(Debug)]
struct Findings {
    /// How this program was called.
    program: String,
    home: PathBuf,
    plan: Plan,
    baselines: Vec<(&'static str, Option<Share>)>,
    prompts: Vec<String>,
    before: Vec<String>,
    after: Vec<String>,
    right_before: Share,
    right_after: Share,
    steps: Vec<StepReport>,
    evaluations: Vec<EvalReport>,
    checks: Vec<Check>,
    pairs_per_s: f64,
    tokens_per_s: f64,
    parameters: usize,
    seconds: f64,
    first_change_s: Option<f64>,
    peak: Option<u64>,
}

/// Runs it all.
pub(crate) fn quickstart(arguments: &Quickstart) -> Result<()> {
    let began = Instant::now();
    let interrupt = Interrupt::listen()?;
    let threads = words::threads(arguments.threads);
    if let Some(directory) = &arguments.export {
        return export(directory, arguments.text_steps, threads, &interrupt);
    }
    let home = prepare(&arguments.output)?;
    let model_directory = home.join("model");
    make_directory(&model_directory)?;
    if arguments.from_scratch {
        pretrain::train(&home, &model_directory, arguments.text_steps, threads, &interrupt)?;
    } else {
        recipe::write_shipped_model(&model_directory)?;
    }
    let corpus = Corpus::generate(arguments.seed, recipe::TRAIN_PAIRS, recipe::HELD_OUT_PAIRS);
    corpus.write(&home)?;
    let found = align(arguments, &home, &corpus, threads, &interrupt, began)?;
    let report = home.join("report.html");
    recipe::write(&report, findings::html(&found).as_bytes())?;
    recipe::write(&home.join("summary.json"), format!("{:#}\n", findings::json(&found)).as_bytes())?;
    for line in findings::screen(&found) {
        println!("{line}");
    }
    match found.checks.iter().find(|check| !check.holds) {
        Some(check) => bail!(Failure::Check(format!("the check \"{}\" failed: {}", check.claim, check.seen))),
        None => Ok(()),
    }
}

/// Makes the untuned model and leaves it, and nothing else, in `directory`.
fn export(directory: &Path, steps: Option<u64>, threads: usize, interrupt: &Interrupt) -> Result<()> {
    make_directory(directory)?;
    // Ours alone: creating it fails where there is something of that name, and nothing else is ever removed.
    let work = directory.join(format!(".wick-export-{}", std::process::id()));
    std::fs::create_dir(&work).with_context(|| format!("creating {}", work.display()))?;
    let made = pretrain::train(&work, directory, steps, threads, interrupt);
    let removed = std::fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()));
    made?;
    removed?;
    recipe::readable_by_all(directory)?;
    println!("the untuned model is in {}", directory.display());
    Ok(())
}

/// Trains the model on pairs, with an eye on its answers.
fn align(
    arguments: &Quickstart,
    home: &Path,
    corpus: &Corpus,
    threads: usize,
    interrupt: &Interrupt,
    began: Instant,
) -> Result<Findings> {
    let steps = arguments.steps.unwrap_or(recipe::STEPS);
    let configuration = recipe::pairs_configuration(home, steps, arguments.seed, threads);
    recipe::write(&home.join("quickstart.toml"), configuration.as_bytes())?;
    let plan = Plan::resolve(Words::parse(&configuration, "quickstart.toml")?.config()?)?;
    let encoder = Encoder::from_dir(&home.join("model"), EncodeOptions::default())?;
    let examiner = Examiner::new(&encoder, &corpus.held_out, recipe::ANSWERED_PROMPTS);
    let (train, held_out) = (corpus::answers(&corpus.train), corpus::answers(&corpus.held_out));
    let baselines = vec![
        ("chance", None),
        ("length alone", Some(length_rule(&train, &held_out))),
        ("bag of words", Some(BagOfWords::fit(&train).score(&held_out))),
    ];

    let mut run = Run::start(plan.clone())?;
    let (model, workspace) = run.trainer_mut().policy_mut().causal_mut()?.model_and_workspace();
    let parameters = model.parameters().element_count();
    let before = examiner.show(model, workspace)?;
    let right_before = examiner.mark(model, workspace)?;
    eprintln!(
        "{parameters} parameters, {} pairs, {} held out, {threads} threads",
        corpus.train.len(),
        corpus.held_out.len()
    );

    let program = std::env::args().next().unwrap_or_else(|| "wick".into());
    let configuration = home.join("quickstart.toml");
    let go_on = format!("{program} train --config {} --resume goes on from there", configuration.display());
    let mut log = Log { steps: Vec::new(), evaluations: Vec::new(), reached: (0, 0), first_change_s: None };
    let driven = drive(&mut run, "aligning", interrupt, &go_on, &mut |run, event, progress| {
        log.take(run, event, progress, &examiner, &before, began)
    })?;
    let Log { steps: reports, evaluations, reached, first_change_s } = log;

    let (model, workspace) = run.trainer_mut().policy_mut().causal_mut()?.model_and_workspace();
    let after = examiner.show(model, workspace)?;
    let right_after = examiner.mark(model, workspace)?;
    eprintln!("killing and resuming a short run of the same kind, to compare the bits");
    let mut checks = Vec::new();
    checks.extend(reports.first().map(|report| checks::starts_at_ln_2(report.loss)));
    checks.push(checks::gradients_reach_all(reached.0, reached.1));
    checks.push(checks::killed_and_resumed(home, recipe::CHECK_STEPS.min(steps * 4), threads, interrupt)?);

    let Driven { stepping, .. } = driven;
    let stepping = stepping.as_secs_f64().max(1e-9);
    Ok(Findings {
        program,
        home: home.to_owned(),
        plan,
        baselines,
        prompts: examiner.shown().iter().map(|scene| scene.prompt.clone()).collect(),
        before,
        after,
        right_before,
        right_after,
        pairs_per_s: reports.iter().map(|report| report.rows / 2).sum::<u64>() as f64 / stepping,
        tokens_per_s: reports.iter().map(|report| report.tokens).sum::<u64>() as f64 / stepping,
        steps: reports,
        evaluations,
        checks,
        parameters,
        seconds: began.elapsed().as_secs_f64(),
        first_change_s,
        peak: memory::peak_bytes(),
    })
}

/// What is noted while the run goes.
struct Log {
    steps: Vec<StepReport>,
    evaluations: Vec<EvalReport>,
    /// Tensors that received a gradient on the first step, of how many.
    reached: (usize, usize),
    first_change_s: Option<f64>,
}

impl Log {
    fn take(
        &mut self,
        run: &mut Run,
        event: &Event,
        progress: &Progress,
        examiner: &Examiner<'_>,
        before: &[String],
        began: Instant,
    ) -> Result<()> {
        match event {
            Event::Step(report) => {
                if self.steps.is_empty() {
                    let policy = run.trainer().policy().causal()?;
                    let (gradients, tensors) = (policy.gradients(), policy.model().trainable().len());
                    let reached = (0..tensors).filter(|i| gradients.tensor(*i).iter().any(|x| *x != 0.0)).count();
                    self.reached = (reached, tensors);
                }
                self.steps.push(report.clone());
            }
            Event::Evaluated(report) => {
                let accuracy = report.metrics.value("rewards/accuracies").unwrap_or_default();
                if report.step > 0 {
                    progress.say(&format!("step {:3}: held-out accuracy {}", report.step, screen::percent(accuracy)));
                }
                if self.first_change_s.is_none() && report.step > 0 {
                    let (model, workspace) = run.trainer_mut().policy_mut().causal_mut()?.model_and_workspace();
                    let now = examiner.show(model, workspace)?;
                    let changed = now.iter().zip(before).position(|(now, before)| now != before);
                    if let Some(i) = changed {
                        let seconds = began.elapsed().as_secs_f64();
                        self.first_change_s = Some(seconds);
                        progress.say(&format!("after {seconds:.1} s the first answer changes:"));
                        progress.say(&format!("    {}", examiner.shown()[i].prompt));
                        progress.say(&screen::side_by_side(&before[i], &now[i]).join("\n"));
                    }
                }
                self.evaluations.push(report.clone());
            }
            _ => {}
        }
        Ok(())
    }
}

/// The directory for everything: a new one, or that of an earlier quickstart, emptied.
fn prepare(output: &Path) -> Result<PathBuf> {
    let ours = output.join(MARK);
    let occupied = std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !ours.exists() {
        bail!(Failure::Usage(format!(
            "--output: {} is not empty and no quickstart made it; name another directory",
            output.display()
        )));
    }
    if occupied {
        std::fs::remove_dir_all(output).with_context(|| format!("emptying {}", output.display()))?;
    }
    make_directory(output)?;
    recipe::write(&ours, b"")?;
    // Its children may be started from elsewhere, and a reader wants to know where things are.
    output.canonicalize().with_context(|| format!("finding {}", output.display()))
}

/// The file that says that a quickstart made the directory.
const MARK: &str = ".wick-quickstart";

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
}
