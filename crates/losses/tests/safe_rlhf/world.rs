//! Worlds of a few prompts and a few completions, and a policy that is a table.

use candle_core::{Device, Tensor};
use candlewick_losses::dual::{DualVariable, PromptScores, ScoreTable};
use candlewick_losses::policy_gradient::KlPlacement;

/// Prompts of equal weight, each with the same number of completions.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) rewards: Vec<Vec<f64>>,
    pub(crate) costs: Vec<Vec<f64>>,
    pub(crate) reference: Vec<Vec<f64>>,
}

impl World {
    /// A safe completion and an unsafe one.
    pub(crate) fn two_arms() -> Self {
        Self { rewards: vec![vec![0.0, 2.0]], costs: vec![vec![-1.0, 1.0]], reference: vec![vec![0.5, 0.5]] }
    }

    pub(crate) fn two_prompts() -> Self {
        Self {
            rewards: vec![vec![1.0, 0.5, 0.0], vec![2.0, 0.0, 1.0]],
            costs: vec![vec![1.0, 0.0, -1.0], vec![0.5, -0.5, 0.0]],
            reference: vec![vec![0.5, 0.3, 0.2], vec![0.2, 0.5, 0.3]],
        }
    }

    pub(crate) fn four_arms() -> Self {
        Self {
            rewards: vec![vec![1.0, 0.2, -0.5, 0.8]],
            costs: vec![vec![1.2, -0.3, -1.0, 0.1]],
            reference: vec![vec![0.4, 0.3, 0.2, 0.1]],
        }
    }

    pub(crate) fn table(&self) -> ScoreTable {
        let prompts = (0..self.rewards.len()).map(|x| PromptScores {
            rewards: self.rewards[x].clone(),
            costs: vec![self.costs[x].clone()],
            log_weights: Some(self.reference[x].iter().map(|p| p.ln()).collect()),
        });
        ScoreTable::of_all(prompts.collect()).unwrap()
    }

    /// The mean over prompts of the mean of values under a policy.
    pub(crate) fn mean(policy: &[Vec<f64>], values: &[Vec<f64>]) -> f64 {
        let of = |(policy, values): (&Vec<f64>, &Vec<f64>)| dot(policy, values);
        policy.iter().zip(values).map(of).sum::<f64>() / policy.len() as f64
    }

    /// Trains a table by exact policy gradients of the mixture, with a multiplier that moves beside it; gives the policy.
    pub(crate) fn train(
        &self,
        dual: &mut DualVariable,
        placement: KlPlacement,
        beta: f64,
        rate: f64,
        steps: usize,
    ) -> Vec<Vec<f64>> {
        let tensor = |rows: &[Vec<f64>]| Tensor::new(rows.to_vec(), &Device::Cpu).unwrap();
        let (rewards, costs) = (tensor(&self.rewards), tensor(&self.costs));
        let mut logits: Vec<Vec<f64>> = self.reference.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect();
        for _ in 0..steps {
            let policy: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
            dual.observe(&[Self::mean(&policy, &self.costs)]).unwrap();
            let multiplier = dual.step().multiplier;
            let ratios = policy
                .iter()
                .zip(&self.reference)
                .map(|(policy, reference)| policy.iter().zip(reference).map(|(p, q)| (p / q).ln()).collect());
            let ratios = tensor(&ratios.collect::<Vec<Vec<f64>>>());
            let mixed = placement.mixed_rewards(&rewards, &costs, &ratios, beta, multiplier).unwrap();
            for ((logits, policy), mixed) in logits.iter_mut().zip(&policy).zip(mixed.to_vec2::<f64>().unwrap()) {
                let mean = dot(policy, &mixed);
                for ((logit, p), value) in logits.iter_mut().zip(policy).zip(mixed) {
                    *logit += rate * p * (value - mean);
                }
            }
        }
        logits.iter().map(|row| softmax(row)).collect()
    }
}

pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let total: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / total).collect()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// Numbers in [0, 1) by SplitMix64: the same on every machine.
pub(crate) fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Normal numbers, by the method of Box and Muller.
pub(crate) fn normal(seed: u64) -> impl FnMut() -> f64 {
    let mut uniform = uniform(seed);
    move || {
        let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), std::f64::consts::TAU * uniform());
        radius * angle.cos()
    }
}

/// Whether two numbers agree within a tolerance; says which if not.
pub(crate) fn assert_near(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance, "{what}: got {got}, expected {expected}");
}
