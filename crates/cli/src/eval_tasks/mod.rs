//! `wick eval --task`: a model is asked the questions of task files.

mod judge;
mod show;
pub(crate) mod words;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use candlewick::data::{EncodeOptions, Encoder, EndOfSequence};
use candlewick::evaluate::stats::Bootstrap;
use candlewick::evaluate::tasks::{Judge, Parties, Subject, Task, TaskItem, TaskNeeds, TaskReport, TaskRows, run_task};
use candlewick::model::CausalLm;
use candlewick::train::{Config, Dtype, Hardware, replace_file};
use indicatif::ProgressBar;

use crate::arguments::Eval;
use crate::failure::Failure;
use crate::places::{self, Kind};
use crate::progress;

use judge::CommandJudge;
use words::TaskArguments;

/// Seconds that a judge may take for one answer.
const JUDGE_SECONDS: u64 = 60;

/// Asks, measures and prints.
pub(crate) fn eval(arguments: &Eval) -> Result<()> {
    let given = &arguments.tasks;
    check_data(arguments)?;
    let tasks = given.tasks.iter().map(|name| Task::open(name)).collect::<Result<Vec<_>, _>>()?;
    if let Some(rows) = given.preview {
        check_rows(given, tasks.len())?;
        return preview(&tasks, given, rows);
    }
    let needs: Vec<TaskNeeds> = tasks.iter().map(Task::needs).collect();
    check(arguments, &needs)?;
    // Before anything is read or run.
    let judges = tasks.iter().map(|task| judge_command(task, given)).collect::<Result<Vec<_>>>()?;
    if given.judge_timeout.is_some() && judges.iter().all(Option::is_none) {
        bail!(Failure::Usage("--judge-timeout: no judge is asked; name one by --judge, or leave it out".into()));
    }
    let all_rows = tasks
        .iter()
        .enumerate()
        .map(|(i, task)| Ok(TaskRows::read(task, given.task_rows.get(i).map(|path| path.as_path()), given.limit)?))
        .collect::<Result<Vec<_>>>()?;
    let mut models = Models::load(arguments, &needs)?;
    let (mut reports, mut items) = (Vec::new(), Vec::new());
    for ((task, rows), command) in tasks.iter().zip(all_rows).zip(judges) {
        eprintln!("{}: {} rows of {}", task.name(), rows.rows.len(), rows.name);
        let mut judge = match &command {
            Some(command) => Some(start(command, given)?),
            None => None,
        };
        let bar = progress::animated().then(|| ProgressBar::new(rows.rows.len() as u64));
        let mut parties = models.parties();
        parties.judge = judge.as_mut().map(|judge| judge as &mut dyn Judge);
        let run = run_task(task, rows, &mut parties, Bootstrap::default(), &mut |done| {
            bar.iter().for_each(|bar| bar.set_position(done as u64));
        });
        bar.iter().for_each(ProgressBar::finish_and_clear);
        let run = run?;
        if let Some(judge) = judge {
            judge.finish().map_err(|reason| Failure::Data(format!("{}: the judge: {reason}", task.name())))?;
        }
        show::left_out(&run.report).iter().for_each(|line| eprintln!("{line}"));
        items.push((task.name(), run.items));
        reports.push(run.report);
    }
    if let Some(path) = &given.task_items {
        write_items(path, &items)?;
    }
    print(&reports, arguments.json)
}

/// Tasks bring their own rows. (Of clap, a conflict with `--data` would also take away what other flags require.)
fn check_data(arguments: &Eval) -> Result<()> {
    let common = &arguments.common;
    let flags = [
        ("--data", common.data.is_some()),
        ("--subset", common.subset.is_some()),
        ("--split", common.split.is_some()),
        ("--objective", common.objective.is_some()),
        ("--batch", common.batch.is_some()),
        ("--max-length", common.max_length.is_some()),
        ("--rows", arguments.rows.is_some()),
        ("--slices", !arguments.slices.is_empty()),
    ];
    match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => bail!(Failure::Usage(format!(
            "{flag} is for preference data, and --task asks the questions of a task; leave one of them out"
        ))),
        None => Ok(()),
    }
}

/// What is given has to be of use, and what is needed has to be given.
fn check(arguments: &Eval, needs: &[TaskNeeds]) -> Result<()> {
    let given = &arguments.tasks;
    let refuse = |text: String| -> Result<()> { bail!(Failure::Usage(text)) };
    check_rows(given, needs.len())?;
    let any = |of: fn(&TaskNeeds) -> bool| needs.iter().any(of);
    let unused = [
        (given.judge.is_some(), any(|needs| needs.may_ask_judge), "--judge", "asks a judge"),
        (given.against.is_some(), any(|needs| needs.opponent), "--against", "lets another model answer"),
        (given.reward.is_some(), any(|needs| needs.reward), "--reward", "compares answers by rewards"),
        (arguments.reference.is_some(), any(|needs| needs.reference), "--reference", "compares with a reference"),
    ];
    if let Some((.., flag, does)) = unused.iter().find(|(given, used, ..)| *given && !used) {
        return refuse(format!("{flag}: none of the tasks {does}; leave it out"));
    }
    if any(|needs| needs.opponent) && given.against.is_none() {
        return refuse("a task lets another model answer: name it by --against DIR, or give the task an `opponent`, a template of the other answer".into());
    }
    if any(|needs| needs.reward) && given.reward.is_none() {
        return refuse("a task compares answers by rewards: name the model by --reward DIR and what it started from by --reward-reference DIR".into());
    }
    let counts = ["model.", "reference.", "train.threads", "train.device", "train.dtype"];
    let idle = arguments.common.set.iter().find(|one| !counts.iter().any(|key| one.trim_start().starts_with(key)));
    match idle {
        Some(one) => refuse(format!(
            "--set {one}: with --task only keys of [model] and [reference], train.threads, train.device and train.dtype count; leave it out"
        )),
        None => Ok(()),
    }
}

fn check_rows(given: &TaskArguments, tasks: usize) -> Result<()> {
    let files = given.task_rows.len();
    if files == 0 || files == tasks {
        return Ok(());
    }
    bail!(Failure::Usage(format!(
        "--task-rows: {files} files for {tasks} tasks; name one for each task, in order, or none"
    )))
}

/// Shows what the tasks ask, as JSON, one object a line.
fn preview(tasks: &[Task], given: &TaskArguments, rows: usize) -> Result<()> {
    let limit = Some(given.limit.map_or(rows, |limit| limit.min(rows)));
    for (i, task) in tasks.iter().enumerate() {
        let found = TaskRows::read(task, given.task_rows.get(i).map(|path| path.as_path()), limit)?;
        for row in &found.rows {
            for asked in task.preview(row)? {
                let place = row.origin.to_string();
                println!("{}", serde_json::json!({ "task": task.name(), "row": place, "asked": asked }));
            }
        }
    }
    Ok(())
}

/// The command that judges a task's answers. Nothing that only a file names is run unless the user allows it.
fn judge_command(task: &Task, given: &TaskArguments) -> Result<Option<String>> {
    let needs = task.needs();
    match (task.judge_command(), &given.judge) {
        (_, Some(command)) if needs.may_ask_judge => Ok(Some(command.clone())),
        (Some(command), None) if given.allow_commands => Ok(Some(command.to_owned())),
        (Some(command), None) => bail!(Failure::Usage(format!(
            "{}: the task file names a judge, `{command}`, which was not run: look at it and allow it with --allow-commands, or \
             name a judge of your own by --judge",
            task.name()
        ))),
        _ if needs.judge => {
            bail!(Failure::Usage(format!(
                "{}: the task is decided by a judge; name its command by --judge",
                task.name()
            )))
        }
        _ => Ok(None),
    }
}

fn start(command: &str, given: &TaskArguments) -> Result<CommandJudge> {
    let timeout = Duration::from_secs(given.judge_timeout.unwrap_or(JUDGE_SECONDS));
    CommandJudge::start(command, timeout).with_context(|| format!("starting the judge `{command}`"))
}

/// Everybody who is asked.
struct Models {
    subject: Subject,
    reference: Option<Subject>,
    opponent: Option<Subject>,
    reward: Option<(Subject, Option<Subject>)>,
}

impl Models {
    fn load(arguments: &Eval, needs: &[TaskNeeds]) -> Result<Self> {
        let config = configuration(arguments)?;
        let given = &arguments.tasks;
        let threads = crate::words::threads(config.train.threads);
        let dtype = Dtype::resolve(config.train.dtype, config.train.device)?;
        let hardware = Hardware::open(config.train.device)?;
        let load = |directory: &Path, adapter: Option<&Path>| -> Result<Subject> {
            // What the subject is compared with was told nothing.
            let preference = if adapter.is_some() { &arguments.preference[..] } else { &[] };
            let (model, encoder) = subject(directory, adapter, preference)?;
            let (model, workspace) = hardware.place(model, dtype, threads)?;
            let subject = Subject::placed(model, workspace, encoder);
            match given.chat {
                true => subject.in_chat().with_context(|| format!("--chat: {}", directory.display())),
                false => Ok(subject),
            }
        };
        let Some(directory) = &config.model.path else {
            bail!(Failure::Usage("model.path: nothing is measured; name a model by --model DIR".into()));
        };
        if config.model.lora.is_some() && config.model.adapter.is_none() {
            bail!(Failure::Usage(
                "model.lora makes a fresh adapter, which changes nothing; name a trained one with --adapter".into()
            ));
        }
        if !arguments.preference.is_empty() && config.model.adapter.is_none() {
            bail!(Failure::Usage("--preference: given, and no adapter to be told it; name one with --adapter".into()));
        }
        let subject = load(directory, config.model.adapter.as_deref())?;
        let is_needed = needs.iter().any(|needs| needs.reference);
        let reference = config.reference.path.as_deref().filter(|_| is_needed);
        if is_needed && reference.is_none() && !subject.has_adapter() {
            bail!(Failure::Usage(
                "a task compares with a reference: name what the model started from by --reference DIR, or load it with its \
                 --adapter"
                    .into()
            ));
        }
        Ok(Self {
            subject,
            reference: reference.map(|directory| load(directory, None)).transpose()?,
            opponent: given.against.as_deref().map(|directory| load(directory, None)).transpose()?,
            reward: match (&given.reward, &given.reward_reference) {
                (Some(reward), Some(reference)) => Some((load(reward, None)?, Some(load(reference, None)?))),
                _ => None,
            },
        })
    }

    fn parties(&mut self) -> Parties<'_> {
        Parties {
            reference: self.reference.as_mut(),
            opponent: self.opponent.as_mut(),
            reward: self.reward.as_mut().map(|(reward, reference)| (reward, reference.as_mut())),
            ..Parties::new(&mut self.subject)
        }
    }
}

fn configuration(arguments: &Eval) -> Result<Config> {
    let mut words = crate::words::of_common(&arguments.common)?;
    crate::words::put(&mut words, [("reference.path", arguments.reference.clone())])?;
    crate::words::assign(&mut words, &arguments.common.set)?;
    let mut config = words.config()?;
    // The configuration's adapter was a fresh one; the one that is named was trained.
    if arguments.common.adapter.is_some() && !crate::words::is_assigned(&arguments.common.set, "model.lora") {
        config.model.lora = None;
    }
    Ok(config)
}

fn subject(directory: &Path, adapter: Option<&Path>, preference: &[f64]) -> Result<(CausalLm, Encoder)> {
    let directory = places::directory(directory, Kind::Model)?;
    let mut model = CausalLm::<f32>::load(&directory)?;
    crate::preference::load_adapter(&mut model, adapter, preference)?;
    let options = EncodeOptions { end_of_sequence: EndOfSequence::Keep, max_length: None, ..EncodeOptions::default() };
    let encoder = Encoder::from_dir(&directory, options)?;
    encoder.check_vocabulary(model.config().vocab_size)?;
    Ok((model, encoder))
}

fn write_items(path: &Path, tasks: &[(&str, Vec<TaskItem>)]) -> Result<()> {
    let mut text = String::new();
    for (task, items) in tasks {
        for item in items {
            text += &serde_json::to_string(&serde_json::json!({ "version": 1, "task": task, "item": item }))?;
            text.push('\n');
        }
    }
    Ok(replace_file(path, text.as_bytes())?)
}

fn print(reports: &[TaskReport], as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::json!({ "version": 1, "tasks": reports }));
        return Ok(());
    }
    for report in reports {
        show::lines(report).iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}
