//! How far a policy has moved from its reference, on texts of its own.

use candlewick_kernels::{Element, Workspace};
use candlewick_model::{CausalLm, Sampling};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::stats;

/// KL(π ‖ π_ref) of whole answers, by sampling, and their length.
///
/// For each prompt an answer y is drawn from π at temperature 1, and Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)) is summed over its
/// tokens: its mean over y is the divergence of the answers' distributions (the chain rule), and it varies less than
/// log π(y|x) − log π_ref(y|x), which has the same mean (Amini, Vieira and Cotterell, *Better Estimation of the KL Divergence
/// Between Language Models*, 2025). An answer that is cut at [`DriftOptions::tokens`] counts as far as it goes, so that of longer
/// ones the value is a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The mean over prompts, in nats an answer.
    pub kl: f64,
    /// Its standard error over prompts; 0 of one prompt.
    pub standard_error: f64,
    /// Mean tokens of an answer, its end included.
    pub tokens: f64,
    /// Share of answers that were cut.
    pub cut: f64,
    /// Prompts.
    pub prompts: usize,
}

/// How drift is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftOptions {
    /// Prompts answered, each once.
    pub prompts: usize,
    /// Most tokens of an answer.
    pub tokens: usize,
    /// Decides the answers.
    pub seed: u64,
}

impl Drift {
    /// Of `policy` from `reference`, over the first prompts, both where `workspace` is. Nothing without a prompt. `stop` ends an answer.
    ///
    /// # Errors
    /// Token ids that a model does not know; an empty prompt.
    pub fn measure<T: Element<Wide = f32>>(
        policy: &CausalLm<T>,
        reference: &CausalLm<T>,
        prompts: &[&[u32]],
        stop: &[u32],
        options: DriftOptions,
        workspace: &mut Workspace,
    ) -> Result<Option<Self>> {
        let (mut divergences, mut lengths, mut cut) = (Vec::new(), Vec::new(), 0);
        for (number, prompt) in prompts.iter().take(options.prompts).enumerate() {
            let sampling = Sampling {
                max_new_tokens: options.tokens,
                temperature: 1.0,
                seed: options.seed.wrapping_add(number as u64),
                stop: stop.to_vec(),
                ..Sampling::default()
            };
            let answer = policy.generate(prompt, &sampling, workspace)?;
            cut += usize::from(answer.last().is_none_or(|id| !stop.contains(id)));
            lengths.push(answer.len() as f64);
            divergences.push(Self::of_answer(policy, reference, prompt, &answer, workspace)?);
        }
        let (Some(kl), Some(tokens)) = (stats::mean(&divergences), stats::mean(&lengths)) else { return Ok(None) };
        let prompts = divergences.len();
        let spread = stats::standard_deviation(&divergences).unwrap_or_default();
        let standard_error = spread / (prompts as f64).sqrt();
        Ok(Some(Self { kl, standard_error, tokens, cut: cut as f64 / prompts as f64, prompts }))
    }

    /// Σ_t KL(π(·|x, y_<t) ‖ π_ref(·|x, y_<t)) over the tokens of one answer y to the prompt x, in nats; 0 of an answer without
    /// tokens. Its mean over answers drawn from π at temperature 1 is their divergence.
    ///
    /// # Errors
    /// Token ids that a model does not know; an empty prompt.
    pub fn of_answer<T: Element<Wide = f32>>(
        policy: &CausalLm<T>,
        reference: &CausalLm<T>,
        prompt: &[u32],
        answer: &[u32],
        workspace: &mut Workspace,
    ) -> Result<f64> {
        if prompt.is_empty() {
            return Err(candlewick_model::Error::Input("an empty prompt, which no token follows".to_owned()).into());
        }
        // The last token says nothing about a next one.
        let Some((_, shown)) = answer.split_last() else { return Ok(0.0) };
        let text = [prompt, shown].concat();
        let from = prompt.len() - 1;
        let rows = |model: &CausalLm<T>, workspace: &mut Workspace| -> Result<Vec<Vec<f32>>> {
            let logits = model.logits(&text, workspace)?.to_vec2::<f32>().map_err(candlewick_train::Error::from)?;
            Ok(logits.into_iter().skip(from).collect())
        };
        let (ours, theirs) = (rows(policy, workspace)?, rows(reference, workspace)?);
        Ok(ours.iter().zip(&theirs).map(|(p, q)| divergence(p, q)).sum())
    }
}

/// KL of the distributions of two rows of logits, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_partition = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (of_p, of_q) = (log_partition(p), log_partition(q));
    p.iter()
        .zip(q)
        .map(|(a, b)| {
            let (log_p, log_q) = (f64::from(*a) - of_p, f64::from(*b) - of_q);
            log_p.exp() * (log_p - log_q)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_model::Config;

    #[test]
    fn the_divergence_of_two_rows_is_that_of_their_distributions() {
        let (p, q) = ([0.0, 2f32.ln(), 0.0], [0.0, 0.0, 0.0]);
        // (1/4, 1/2, 1/4) from thirds.
        let expected = 0.5 * (0.75f64).ln() + 0.5 * (1.5f64).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-7);
        assert!(divergence(&q, &q).abs() < 1e-12);
    }

    #[test]
    fn a_model_does_not_drift_from_itself_and_does_from_another() {
        let model = |seed| CausalLm::<f32>::random(Config::llama(16, 8, 1), seed).expect("a model");
        let mut workspace = Workspace::new(1);
        let options = DriftOptions { prompts: 400, tokens: 3, seed: 1 };
        let one_prompt: &[u32] = &[3];
        let prompts = vec![one_prompt; 400];
        let (one, other) = (model(1), model(2));
        let none = Drift::measure(&one, &one, &prompts, &[2], options, &mut workspace).expect("runs").expect("prompts");
        assert_eq!((none.kl, none.prompts), (0.0, 400));
        let some =
            Drift::measure(&one, &other, &prompts, &[2], options, &mut workspace).expect("runs").expect("prompts");
        let exact = exact(&one, &other, &[3], 3, &mut workspace);
        assert!((some.kl - exact).abs() < 4.0 * some.standard_error.max(1e-6), "{some:?} {exact}");
        assert!(some.tokens <= 3.0 && some.cut > 0.0);
        assert_eq!(Drift::measure(&one, &other, &[], &[2], options, &mut workspace).expect("runs"), None);
    }

    /// By all answers of so many tokens, of which 2 ends one.
    fn exact(p: &CausalLm, q: &CausalLm, text: &[u32], left: usize, workspace: &mut Workspace) -> f64 {
        if left == 0 {
            return 0.0;
        }
        let last = |model: &CausalLm, workspace: &mut Workspace| {
            model.logits(text, workspace).expect("logits").to_vec2::<f32>().expect("rows").pop().expect("a row")
        };
        let (ours, theirs) = (last(p, workspace), last(q, workspace));
        let largest = ours.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = ours.iter().map(|x| f64::from(x - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut total = divergence(&ours, &theirs);
        for (id, weight) in weights.iter().enumerate().filter(|(id, _)| *id != 2) {
            let more: Vec<u32> = text.iter().copied().chain([id as u32]).collect();
            total += weight / sum * exact(p, q, &more, left - 1, workspace);
        }
        total
    }
}
