//! Fine-tunes local weights on pairs, in the few lines it takes.
//!
//! ```console
//! cargo run --release --example dpo -- --model DIR --data pairs.jsonl --output DIR --steps 200 --lora 16
//! ```
//!
//! Without `--model` and `--data` it makes a tiny model and some pairs of its own, so that it runs anywhere.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod pairs;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candlewick::train::{Event, Plan, Run, Words};
use clap::Parser;

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
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
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
    words.put("objective.type", "dpo")?;
    if let Some(rank) = arguments.lora {
        words.put("model.lora.rank", &rank.to_string())?;
    }

    let mut run = Run::start(Plan::resolve(words.config()?)?)?;
    let mut losses = Vec::new();
    while let Some(event) = run.advance()? {
        match event {
            Event::Step(report) => {
                let accuracy = report.metrics.value("rewards/accuracies").unwrap_or_default();
                println!("step {:4}  loss {:.4}  accuracy {accuracy:.2}", report.step, report.loss);
                losses.push(report.loss);
            }
            Event::Finished(summary) => println!("the result is in {}", summary.result.display()),
            _ => {}
        }
    }
    ensure!(!known || losses.last() < losses.first(), "the loss falls");
    Ok(())
}
