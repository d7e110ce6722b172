//! A loss on numbers: no model, no tokenizer, no trainer.
//!
//! ```text
//! cargo run --release --example loss_only
//! ```
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use candle_core::{Device, Tensor, Var};
use candlewick::losses::{Context, Objective, Recipe, Result, Rewards, Scores, TokenScores};

fn main() -> Result<()> {
    let device = Device::Cpu;

    // Two pairs of completions of up to three tokens: rows 0 and 1 were chosen, 2 and 3
    // rejected. What stands under mask 0 is never read.
    let log_probs = Var::new(
        &[[-0.5f64, -1.0, -0.5], [-2.0, -1.0, f64::NAN], [-1.0, -1.5, -2.0], [-0.5, f64::NAN, f64::NAN]],
        &device,
    )?;
    let reference = Tensor::new(
        &[[-1.0f64, -1.0, -1.0], [-1.5, -1.0, f64::NAN], [-1.0, -1.0, -1.0], [-1.0, f64::NAN, f64::NAN]],
        &device,
    )?;
    let mask = Tensor::new(&[[1.0f64, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], &device)?;

    let policy = TokenScores::new(log_probs.as_tensor().clone(), mask.clone())?;
    let reference = TokenScores::new(reference, mask)?;
    let scores = Scores::of_pairs(policy, Some(reference));

    // Any loss of the list, by its name.
    let objective = Recipe::from_name("dpo")?;
    let terms = objective.evaluate(&scores, &Context::default())?;
    let loss = terms.loss(&scores.totals())?;
    let value = loss.to_scalar::<f64>()?;
    println!("loss      {value:.6}");

    if let Some(Rewards::Pair { chosen, rejected }) = &terms.rewards {
        println!("rewards   chosen {:?}, rejected {:?}", chosen.to_vec1::<f64>()?, rejected.to_vec1::<f64>()?);
    }

    // candle's autograd gives the gradient of every token log-probability.
    let gradient = loss.backward()?.remove(&log_probs).map_or_else(|| log_probs.zeros_like(), Ok)?;
    let gradient = gradient.to_vec2::<f64>()?;
    for (row, slopes) in gradient.iter().enumerate() {
        println!("gradient  row {row}: {slopes:.6?}");
    }

    // The first pair's margin is 1 − (−1.5) = 2.5 nats, the second's −0.5 − 0.5 = −1.
    let dpo = |margin: f64| (-0.1 * margin).exp().ln_1p();
    assert!((value - 0.5 * (dpo(2.5) + dpo(-1.0))).abs() < 1e-15);
    // Each scored token of a chosen row has the slope −β·σ(−β·z)/B, a masked one has none.
    let slope = -0.1 / (1.0 + 0.25f64.exp()) / 2.0;
    assert!((gradient[0][2] - slope).abs() < 1e-15 && gradient[3][2].abs() <= 0.0);
    Ok(())
}
