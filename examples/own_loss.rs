//! A loss of your own trains a model: implement one trait, and the trainer takes it.
//!
//! ```console
//! cargo run --release --example own_loss
//! ```
//!
//! What the loss needs (pairs, and a reference to compare with) is its input type; nothing is registered anywhere.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use anyhow::{Result, ensure};
use candlewick::data::{Annotation, Batch, Completion, Context as Prompt, Example, Origin};
use candlewick::losses::{self, AnchoredPair, Context, Loss, LossTerms, Reduction, Term};
use candlewick::model::{CausalLm, Config, Recompute};
use candlewick::train::{AdamWOptions, CausalPolicy, FrozenPolicy, Reference, Trainer, TrainerOptions};

/// `exp(−β (Δ_w − Δ_l))`: an exponential in the place of DPO's log-sigmoid, as boosting has it.
#[derive(Debug)]
struct Exponential {
    beta: f64,
}

impl Loss for Exponential {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> losses::Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        let values = (margins * -self.beta)?.exp()?;
        Ok(LossTerms::new([Term::per_item("exponential", values)]).with_rewards(input.rewards(self.beta)?))
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(1.0)
    }
}

fn main() -> Result<()> {
    let model = CausalLm::<f32>::random(Config::llama(40, 32, 2), 1)?;
    let reference = Reference::Frozen(Box::new(FrozenPolicy::new(model.frozen_copy(), 1)));
    let policy = CausalPolicy::new(model, Recompute::Nothing, 1);
    let options = TrainerOptions {
        optimizer: AdamWOptions { learning_rate: 1e-3, ..AdamWOptions::default() }.into(),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::new(policy, reference, Box::new(Exponential { beta: 0.5 }), options)?;

    let batch = Batch { examples: (0..8).map(pair).collect(), mismatched: Vec::new() };
    let mut losses = Vec::new();
    for _ in 0..20 {
        let report = trainer.step(std::slice::from_ref(&batch))?;
        let accuracy = report.metrics.value("rewards/accuracies").unwrap_or_default();
        println!("step {:2}  loss {:.4}  accuracy {accuracy:.2}", report.step, report.loss);
        losses.push(report.loss);
    }
    ensure!((losses[0] - 1.0).abs() < 1e-4, "the first loss is that of a policy equal to its reference");
    ensure!(losses[19] < 0.5 * losses[0], "the loss falls");
    Ok(())
}

/// A pair that prefers even tokens to odd ones, as token ids: the trainer asks for no text.
fn pair(number: u32) -> Example {
    let completion = |first: u32| {
        let ids: Vec<u32> = (0..3).map(|i| first + 2 * ((number + i) % 10)).collect();
        Completion::all_scored(ids)
    };
    let prompt = vec![1, 30 + number];
    let context =
        Prompt { prompt_scored: vec![false; prompt.len()], prompt, completions: vec![completion(2), completion(3)] };
    Example::new(Origin::memory(u64::from(number) + 1), vec![context], Annotation::Pair)
}
