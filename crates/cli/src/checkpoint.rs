//! `wick checkpoint`: what lies in the directory of a run.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candlewick::train::{self, Checkpoint, checkpoints};
use serde_json::json;

use crate::arguments::{CheckpointCommand, CheckpointExport, CheckpointPlace};
use crate::failure::{Failure, one_line};
use crate::memory::readable;
use crate::screen::columns;

/// Lists, verifies or exports.
pub(crate) fn checkpoint(command: &CheckpointCommand) -> Result<()> {
    match command {
        CheckpointCommand::List(arguments) => list(arguments),
        CheckpointCommand::Verify(arguments) => verify(arguments),
        CheckpointCommand::Export(arguments) => export(arguments),
    }
}

/// A checkpoint, or what is wrong with it.
type Found = (PathBuf, Result<Checkpoint, train::Error>);

/// The checkpoints of a run, or the one that is named.
fn found(place: &Path) -> Result<Vec<Found>> {
    if is_checkpoint(place) {
        return Ok(vec![(place.to_owned(), Checkpoint::open(place))]);
    }
    let found = Checkpoint::all(&checkpoints(place))?;
    if found.is_empty() {
        bail!(none_in(place));
    }
    Ok(found)
}

/// Whether the directory is one checkpoint, or was one.
pub(crate) fn is_checkpoint(place: &Path) -> bool {
    let has_its_name = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-"));
    place.join("state.json").exists() || (has_its_name && place.is_dir())
}

fn list(arguments: &CheckpointPlace) -> Result<()> {
    let found = found(&arguments.place)?;
    let lines = found.into_iter().map(|(path, checkpoint)| {
        let place = path.display().to_string();
        checkpoint.map_or_else(|error| Line::damaged(place.clone(), error), |whole| Line::whole(place.clone(), &whole))
    });
    let lines: Vec<Line> = lines.collect();
    if arguments.json {
        lines.iter().for_each(|line| println!("{}", line.json()));
        return Ok(());
    }
    let head = ["checkpoint", "step", "holds", "size", ""].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(lines.iter().map(Line::row)).collect();
    columns(&rows).iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// What is said of a checkpoint.
struct Line {
    place: String,
    step: Option<u64>,
    holds: &'static str,
    bytes: u64,
    damage: Option<String>,
}

impl Line {
    fn whole(place: String, checkpoint: &Checkpoint) -> Self {
        let files = &checkpoint.state.files;
        let is_adapter = files.iter().any(|file| file.name.starts_with("adapter_model"));
        Self {
            place,
            step: Some(checkpoint.state.step),
            holds: if is_adapter { "adapter" } else { "model" },
            bytes: files.iter().map(|file| file.length).sum(),
            damage: None,
        }
    }

    fn damaged(place: String, error: train::Error) -> Self {
        Self { place, step: None, holds: "", bytes: 0, damage: Some(one_line(&error.into())) }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.place.clone(),
            self.step.map(|step| step.to_string()).unwrap_or_default(),
            self.holds.to_owned(),
            if self.damage.is_none() { readable(self.bytes) } else { String::new() },
            self.damage.clone().unwrap_or_default(),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({ "checkpoint": self.place, "step": self.step, "holds": self.holds, "bytes": self.bytes, "damage": self.damage })
    }
}

fn verify(arguments: &CheckpointPlace) -> Result<()> {
    let found = found(&arguments.place)?;
    let (mut files, mut damaged) = (0, 0);
    for (path, checkpoint) in &found {
        let damage = match checkpoint {
            Ok(whole) => {
                files += whole.state.files.len() + 1;
                None
            }
            Err(error) => {
                damaged += 1;
                Some(error.to_string())
            }
        };
        match (arguments.json, damage) {
            (true, damage) => println!("{}", json!({ "checkpoint": path, "damage": damage })),
            (false, None) => println!("{}: whole", path.display()),
            (false, Some(damage)) => println!("{damage}"),
        }
    }
    match damaged {
        0 if arguments.json => Ok(()),
        0 => {
            println!("{} checkpoints, {files} files: all whole", found.len());
            Ok(())
        }
        _ => bail!(Failure::Model(format!(
            "{damaged} of {} checkpoints are damaged; resume from one that is whole",
            found.len()
        ))),
    }
}

fn export(arguments: &CheckpointExport) -> Result<()> {
    let (place, output) = (&arguments.place, &arguments.output);
    if output.exists() {
        bail!(Failure::Usage(format!(
            "--output {}: there is something already; name a directory that is not there",
            output.display()
        )));
    }
    let checkpoint = if is_checkpoint(place) {
        Checkpoint::open(place)?
    } else {
        let found = Checkpoint::latest(&checkpoints(place))?;
        for error in &found.damaged {
            eprintln!("wick: warning: passed over {error}");
        }
        match found.checkpoint {
            Some(checkpoint) => checkpoint,
            None if found.damaged.is_empty() => bail!(none_in(place)),
            None => bail!(Failure::Model(format!("{}: no checkpoint is whole", place.display()))),
        }
    };
    checkpoint.export(output)?;
    println!("what was trained in {} steps is in {}", checkpoint.state.step, output.display());
    Ok(())
}

fn none_in(place: &Path) -> Failure {
    Failure::Usage(format!(
        "{}: there is no checkpoint; name the --output of wick train, or the directory of one checkpoint",
        place.display()
    ))
}
