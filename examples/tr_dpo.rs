//! Fine-tunes local weights on pairs by DPO with a reference that follows the policy: softly, or by copies.
//!
//! ```console
//! cargo run --release --example tr_dpo -- --model DIR --data pairs.jsonl --output DIR --steps 200 --lora 16 --soft 0.6
//! cargo run --release --example tr_dpo -- --model DIR --data pairs.jsonl --output DIR --steps 200 --hard 64
//! ```
//!
//! Without `--model` and `--data` it makes a tiny model and some pairs of its own, so that it runs anywhere. The loss is one about
//! the reference of its step, and jumps back to ln 2 after a copy: what the policy has learned shows in the log-probabilities.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod pairs;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candlewick::losses::ReferenceUpdate;
use candlewick::train::{Event, Plan, Run, StepReport, Words};
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// Directory of a Hugging Face model
    #[arg(long, requires_all = ["data", "output"])]
    model: Option<PathBuf>,
    /// Pairs: JSON lines, plain or .gz
    #[arg(long, requires = "model")]
    data: Option<PathBuf>,
    /// Directory for the result; without --model a temporary one by default
    #[arg(long)]
    output: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// Train an adapter of this rank instead of all weights
    #[arg(long)]
    lora: Option<usize>,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Weight of the divergence from the reference
    #[arg(long, default_value_t = 0.05)]
    beta: f64,
    /// After every step the reference becomes so much of the policy and the rest of itself; 0.6 if --hard is not given
    #[arg(long, conflicts_with = "hard")]
    soft: Option<f64>,
    /// After every so many steps the reference becomes the policy
    #[arg(long)]
    hard: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let update = match (arguments.soft, arguments.hard) {
        (_, Some(every)) => ReferenceUpdate::Hard { every },
        (Some(alpha), None) => ReferenceUpdate::Soft { alpha, every: 1 },
        (None, None) => ReferenceUpdate::soft(),
    };
    let home = tempfile::tempdir()?;
    let given = arguments.model.zip(arguments.data);
    // Of rows that it knows the example can say how they end.
    let known = given.is_none();
    let (model, data) = match given {
        Some(both) => both,
        None => pairs::generate(home.path())?,
    };
    let mut words = Words::default();
    let output = arguments.output.unwrap_or_else(|| home.path().join("run"));
    for (key, path) in [("model.path", &model), ("data.path", &data), ("output.dir", &output)] {
        words.put(key, path.to_str().context("a path that is not text")?)?;
    }
    words.put("train.steps", &arguments.steps.to_string())?;
    words.put("optimizer.learning_rate", &format!("{:e}", arguments.lr))?;
    words.put_value("objective", &json!({ "type": "tr_dpo", "beta": arguments.beta, "update": update }))?;
    if let Some(rank) = arguments.lora {
        words.put("model.lora.rank", &rank.to_string())?;
    }

    let mut run = Run::start(Plan::resolve(words.config()?)?)?;
    let mut gaps = Vec::new();
    while let Some(event) = run.advance()? {
        match event {
            Event::Step(report) => {
                gaps.push(gap(&report));
                println!(
                    "step {:4}  loss {:.4}  log π(chosen) − log π(rejected) {:.3}",
                    report.step,
                    report.loss,
                    gap(&report)
                );
            }
            Event::Finished(summary) => println!("the result is in {}", summary.result.display()),
            _ => {}
        }
    }
    ensure!(!known || gaps.last() > gaps.first(), "what is preferred becomes likelier than what is not");
    Ok(())
}

fn gap(report: &StepReport) -> f64 {
    let mean = |side: &str| report.metrics.value(&format!("logps/{side}")).unwrap_or_default();
    mean("chosen") - mean("rejected")
}
