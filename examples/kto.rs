//! Fine-tunes local weights on single completions with a verdict, by KTO.
//!
//! ```console
//! cargo run --release --example kto -- --model DIR --data rows.jsonl --held-out more.jsonl --out DIR --steps 200 --lora 16
//! ```
//!
//! Without `--model` and `--data` it makes a tiny model and some rows of its own, so that it runs anywhere. Steps hold both
//! verdicts as long as there are both; the reference point `kl` comes from completions under prompts they do not answer.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod verdicts;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: verdicts::Shared,
    /// Weight of desirable rows; keep their number times their weight at 1 to 4/3 of that of the others
    #[arg(long, default_value_t = 1.0)]
    desirable_weight: f64,
    /// Weight of undesirable rows
    #[arg(long, default_value_t = 1.0)]
    undesirable_weight: f64,
}

fn main() -> anyhow::Result<()> {
    let Arguments { shared, desirable_weight, undesirable_weight } = Arguments::parse();
    let weights = [desirable_weight, undesirable_weight].map(|weight| format!("{weight:e}"));
    let settings = [
        ("objective.type", "kto"),
        ("objective.desirable_weight", &weights[0]),
        ("objective.undesirable_weight", &weights[1]),
    ];
    verdicts::train(shared, &settings)
}
