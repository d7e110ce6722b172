//! Fine-tunes local weights on single completions with a verdict, by BCO with underlying-distribution matching.
//!
//! ```console
//! cargo run --release --example bco -- --model DIR --data rows.jsonl --held-out more.jsonl --out DIR --steps 200 --lora 16
//! ```
//!
//! Where liked and disliked completions answer different prompts, a loss could learn the prompts instead of the answers. A
//! classifier of prompts is therefore fitted before the first step, and undesirable rows count by how much their prompt looks
//! like those of desirable ones; `--no-matching` leaves that out. Without `--model` and `--data` it makes a tiny model and
//! some rows of its own, so that it runs anywhere.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod verdicts;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: verdicts::Shared,
    /// "policy" for prompts as the model itself represents them, or a file of embeddings by line
    #[arg(long, default_value = "policy")]
    embeddings: String,
    /// Every row counts alike
    #[arg(long, conflicts_with = "embeddings")]
    no_matching: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { shared, embeddings, no_matching } = Arguments::parse();
    let mut settings = vec![("objective.type", "bco")];
    if !no_matching {
        settings.extend([("objective.density_ratio", "{}"), ("udm.embeddings", &embeddings)]);
    }
    verdicts::train(shared, &settings)
}
