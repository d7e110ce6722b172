//! Replays training runs that TRL recorded, and compares.
//!
//! ```text
//! cargo run --release --example parity -- --model DIR [--adapter DIR] [--save DIR] FIXTURE.json…
//! ```
//!
//! feeds the recorded token ids to our trainer and prints for each fixture the largest relative deviation of the losses of
//! micro-batches, of the gradient norms before clipping, and of the sums of squares of the final parameters. Exits 1 where
//! a loss is off by more than 1e-4, a norm by 1e-3, a parameter by 1e-4 (of an adapter: 1e-3); 2 where a file cannot be
//! read or used. What is not built yet is skipped by name. `--save` keeps the result of the last fixture, with logits of a
//! few ids for `tools/interop/check_logits.py`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod replay;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use candlewick::kernels::Workspace;
use candlewick::train::{CausalPolicy, Trainable};
use replay::{Replay, ReplayError};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1).map(PathBuf::from)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\nusage: parity --model DIR [--adapter DIR] [--save DIR] FIXTURE.json…");
            return ExitCode::from(UNREADABLE);
        }
    };
    let replay = Replay { model: arguments.model, adapter: arguments.adapter };
    let mut worst = 0;
    for fixture in &arguments.fixtures {
        worst = worst.max(match replay.run(fixture) {
            Ok((deviations, policy)) => {
                println!("{deviations}");
                match arguments.save.as_deref().map_or(Ok(()), |directory| keep(&policy, directory)) {
                    Ok(()) if deviations.are_small() => 0,
                    Ok(()) => DEVIATES,
                    Err(e) => {
                        eprintln!("{e}");
                        UNREADABLE
                    }
                }
            }
            Err(ReplayError::NotBuilt(what)) => {
                println!("{} skipped: {what}", fixture.display());
                0
            }
            Err(e) => {
                eprintln!("{}: {e}", fixture.display());
                UNREADABLE
            }
        });
    }
    ExitCode::from(worst)
}

/// Writes the trained weights or adapter, and the logits they give.
fn keep(policy: &CausalPolicy, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    policy.save(directory)?;
    let ids: Vec<u32> = vec![1, 17, 5, 30, 2, 2, 9, 23, 0, 31, 12];
    let logits = policy.model().logits(&ids, &mut Workspace::new(1))?.to_vec2::<f32>()?;
    let path = directory.join("logits.json");
    let document = serde_json::json!({ "sequences": [{ "ids": ids, "logits": logits }] });
    std::fs::write(&path, document.to_string()).with_context(|| format!("writing {}", path.display()))
}

struct Arguments {
    model: PathBuf,
    adapter: Option<PathBuf>,
    save: Option<PathBuf>,
    fixtures: Vec<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = PathBuf>) -> Result<Self, String> {
        let (mut model, mut adapter, mut save, mut fixtures) = (None, None, None, Vec::new());
        while let Some(word) = words.next() {
            let place = match word.to_str() {
                Some("--model") => &mut model,
                Some("--adapter") => &mut adapter,
                Some("--save") => &mut save,
                Some(flag) if flag.starts_with("--") => return Err(format!("unknown flag {flag}")),
                _ => {
                    fixtures.push(word);
                    continue;
                }
            };
            *place = Some(words.next().ok_or_else(|| format!("{} lacks its directory", word.display()))?);
        }
        if fixtures.is_empty() {
            return Err("no fixture given".into());
        }
        Ok(Self { model: model.ok_or("--model is missing")?, adapter, save, fixtures })
    }
}

const DEVIATES: u8 = 1;
const UNREADABLE: u8 = 2;
