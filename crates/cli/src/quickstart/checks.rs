//! The checks that the quickstart makes and shows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::recipe;
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Something that was really tried, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// What was claimed.
    pub(crate) claim: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether the claim holds.
    pub(crate) holds: bool,
}

/// The first loss of a policy that equals its reference is ln 2.
pub(crate) fn starts_at_ln_2(first_loss: f64) -> Check {
    let expected = std::f64::consts::LN_2;
    Check {
        claim: "the loss starts at ln 2, its value where policy and reference agree".into(),
        seen: format!("{first_loss:.6} beside {expected:.6}"),
        holds: (first_loss - expected).abs() < 1e-4,
    }
}

/// Every tensor of the model received a gradient on the first step.
pub(crate) fn gradients_reach_all(reached: usize, tensors: usize) -> Check {
    Check {
        claim: "every trainable tensor receives a gradient".into(),
        seen: format!("{reached} of {tensors} on the first step"),
        holds: reached == tensors && tensors > 0,
    }
}

/// How long a child may take to its first checkpoint.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a short training in a process of its own twice: once through, once killed in the middle (SIGKILL) and resumed. The
/// final weights must be the same bits.
pub(crate) fn killed_and_resumed(directory: &Path, steps: u64, threads: usize, interrupt: &Interrupt) -> Result<Check> {
    let home = directory.join("check");
    std::fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let configuration = home.join("check.toml");
    recipe::write(&configuration, recipe::check_configuration(directory, steps, threads).as_bytes())?;
    let (whole, killed) = (home.join("whole"), home.join("killed"));

    finish(train(&configuration, &whole, false)?, &whole, interrupt)?;
    let kill_after = recipe::check_save_every(steps);
    let last = kill(train(&configuration, &killed, false)?, &killed, kill_after, interrupt)?;
    finish(train(&configuration, &killed, true)?, &killed, interrupt)?;

    let weights = |run: &Path| {
        let path = run.join("final").join("model.safetensors");
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let (one, two) = (weights(&whole)?, weights(&killed)?);
    Ok(Check {
        claim: "a run that is killed and resumed ends with the same bits as one that was not".into(),
        seen: format!(
            "killed (SIGKILL) after step {last} of {steps}, resumed: {} of {} bytes differ",
            one.iter().zip(&two).filter(|(a, b)| a != b).count() + one.len().abs_diff(two.len()),
            one.len()
        ),
        holds: one == two,
    })
}

/// Starts `wick train` with its words going to a file.
fn train(configuration: &Path, output: &Path, resume: bool) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let log = output.with_extension(if resume { "resumed.log" } else { "log" });
    let log = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = Command::new(program);
    command.arg("train").arg("--config").arg(configuration).arg("--output").arg(output);
    if resume {
        command.arg("--resume");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("starting a second wick")
}

/// The user's wish to stop reaches the children too, whose end then shows nothing.
fn stopped() -> Failure {
    Failure::Interrupted("interrupted during the last check; the aligned model is whole, the check was not made".into())
}

fn finish(mut child: Child, output: &Path, interrupt: &Interrupt) -> Result<()> {
    let status = child.wait()?;
    if interrupt.asked() {
        bail!(stopped());
    }
    if !status.success() {
        bail!(Failure::Check(format!(
            "the training in {} ended with {status}; its words are in the .log beside it",
            output.display()
        )));
    }
    Ok(())
}

/// Kills a run as soon as the checkpoint of `step` is there; the step of its last checkpoint.
fn kill(mut child: Child, output: &Path, step: u64, interrupt: &Interrupt) -> Result<u64> {
    let checkpoints = output.join("checkpoints");
    let awaited = checkpoints.join(format!("step-{step:08}"));
    let start = Instant::now();
    while !awaited.exists() {
        let ended = child.try_wait()?.is_some();
        if ended || interrupt.asked() || start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            if interrupt.asked() {
                bail!(stopped());
            }
            bail!(Failure::Check(format!(
                "no checkpoint came to {}; the run's words are in the .log beside it",
                awaited.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // On Unix this is SIGKILL: the process gets no chance to save anything.
    child.kill()?;
    child.wait()?;
    if interrupt.asked() {
        bail!(stopped());
    }
    if output.join("final").exists() {
        bail!(Failure::Check("the run was over before it could be killed; nothing is shown about resuming".into()));
    }
    latest(&checkpoints).context("no checkpoint is left")
}

fn latest(checkpoints: &PathBuf) -> Option<u64> {
    let names =
        std::fs::read_dir(checkpoints).ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max()
}
