//! One adapter out of those of several domains.
use candlewick_data::Batch;
use candlewick_kernels::Float;
use candlewick_losses::{Context, Dpo, Objective, Outputs, TokenScores, Totals};
use candlewick_model::Parameters;

use crate::error::{Error, Result};
use crate::leaves::Leaves;
use crate::pack::Micro;
use crate::policy::{CausalPolicy, Trainable};
use crate::tally::scalar;
use crate::tensor_file::Element;

/// What [`combine_adapters`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Combination {
    /// The coefficient of each adapter.
    pub coefficients: Vec<f64>,
    /// The loss on the rows of memory with equal coefficients, and after each step that lowered it.
    pub losses: Vec<f64>,
}

/// COFS-DPO's combination of the adapters of several domains, `θ = Σ wₖ·θₖ` number by number: fits `w` to DPO's loss on rows that were kept of
/// all domains, and puts `θ` into the policy. The reference is the base. `A` and `B` are combined each by itself, so that the product is not the
/// combination of the products.
///
/// From equal coefficients that add up to 1, each step goes along `∂L/∂wₖ = ⟨∂L/∂θ, θₖ⟩`, as far as halving finds the loss lower by a part of
/// what the slope promises (Armijo), `steps` times at most, and ends early where nothing lowers it any more.
///
/// Source: OFS-DPO and COFS-DPO, known from a third party's program; confidence C. That coefficients are fitted on data of memory is from there,
/// the way they are fitted is ours.
///
/// # Errors
/// No adapter, of the policy or to combine; one of other tensors than the policy's; rows that are no pairs; a loss that is not finite. The policy
/// is then as it was.
pub fn combine_adapters<T: Element>(
    policy: &mut CausalPolicy<T>,
    adapters: &[Parameters<T>],
    memory: &[Batch],
    objective: &Dpo,
    steps: usize,
) -> Result<Combination> {
    Objective::validate(objective)?;
    if !policy.model().has_adapter() || adapters.is_empty() {
        return Err(Error::Mismatch("combining adapters needs one in the policy, and one or more to combine".into()));
    }
    if let Some(k) = adapters.iter().position(|adapter| !is_like(adapter, policy.parameters())) {
        let reason = "has other tensors than that of the policy; give adapters of the same linears and ranks";
        return Err(Error::Mismatch(format!("adapter {} of those to combine {reason}", k + 1)));
    }
    let before = policy.parameters().clone();
    let fitted = Fit::new(policy, adapters, memory, objective).and_then(|mut fit| fit.run(steps));
    if fitted.is_err() {
        policy.tuning().parameters.data_mut().copy_from_slice(before.data());
    }
    fitted
}

/// Whether names and shapes are the same.
fn is_like<T: Element>(a: &Parameters<T>, b: &Parameters<T>) -> bool {
    a.len() == b.len() && (0..a.len()).all(|i| a.name(i) == b.name(i) && a.shape(i) == b.shape(i))
}

struct Fit<'a, T: Element> {
    policy: &'a mut CausalPolicy<T>,
    adapters: &'a [Parameters<T>],
    objective: &'a Dpo,
    micros: Vec<Micro>,
    /// What the base says of each micro-batch.
    base: Vec<TokenScores>,
    totals: Totals,
}

impl<'a, T: Element> Fit<'a, T> {
    fn new(
        policy: &'a mut CausalPolicy<T>,
        adapters: &'a [Parameters<T>],
        memory: &[Batch],
        objective: &'a Dpo,
    ) -> Result<Self> {
        let needs = objective.needs();
        let micros = memory.iter().map(|batch| Micro::new(batch, &needs)).collect::<Result<Vec<Micro>>>()?;
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals += micro.groups.totals(&micro.rows.lengths));
        let mut base = Vec::new();
        for micro in &micros {
            base.push(policy.queue_without_adapter(&micro.rows.packed, Outputs::default())?.read()?.detach());
        }
        Ok(Self { policy, adapters, objective, micros, base, totals })
    }

    fn run(&mut self, steps: usize) -> Result<Combination> {
        let mut at = vec![1.0 / self.adapters.len() as f64; self.adapters.len()];
        let (mut loss, mut slope) = self.loss_and_slope(&at)?;
        let mut losses = vec![loss];
        let mut rate = 1.0;
        'steps: for _ in 0..steps {
            let promised: f64 = slope.iter().map(|slope| slope * slope).sum();
            // Longer again than the last one that was good.
            rate *= 4.0;
            loop {
                let next: Vec<f64> = at.iter().zip(&slope).map(|(at, slope)| at - rate * slope).collect();
                let (lower, there) = self.loss_and_slope(&next)?;
                if lower <= loss - 1e-4 * rate * promised && lower < loss {
                    (at, loss, slope) = (next, lower, there);
                    losses.push(loss);
                    break;
                }
                rate /= 2.0;
                if rate * promised.sqrt() < 1e-9 {
                    break 'steps;
                }
            }
        }
        self.put(&at);
        Ok(Combination { coefficients: at, losses })
    }

    /// Puts the combination into the policy.
    fn put(&mut self, coefficients: &[f64]) {
        let numbers = self.policy.tuning().parameters.data_mut();
        for (i, number) in numbers.iter_mut().enumerate() {
            let parts = self.adapters.iter().zip(coefficients);
            *number = <T as Float>::from_f64(parts.map(|(adapter, w)| w * Float::to_f64(adapter.data()[i])).sum());
        }
    }

    /// DPO's loss of the combination, infinite where it is none, and its derivative by each coefficient.
    fn loss_and_slope(&mut self, coefficients: &[f64]) -> Result<(f64, Vec<f64>)> {
        self.put(coefficients);
        self.policy.tuning().gradients.clear()?;
        let mut sum = 0.0;
        for (micro, base) in self.micros.iter().zip(&self.base) {
            let (scores, saved) = self.policy.forward(&micro.rows.packed, self.objective.needs().outputs)?;
            let leaves = Leaves::new(&scores)?;
            let scores = micro.scores::<T>(leaves.scores.clone(), Some(base.clone()))?;
            let loss = self.objective.evaluate(&scores, &Context::default())?.loss(&self.totals)?;
            let cotangents = leaves.cotangents(&loss)?;
            self.policy.backward(&micro.rows.packed, saved, &cotangents)?;
            sum += scalar(&loss)?;
        }
        if !sum.is_finite() {
            return Ok((f64::INFINITY, vec![0.0; coefficients.len()]));
        }
        let gradients = self.policy.gradients().data();
        let along = |adapter: &Parameters<T>| {
            adapter.data().iter().zip(gradients).map(|(a, g)| Float::to_f64(*a) * Float::to_f64(*g)).sum()
        };
        Ok((sum, self.adapters.iter().map(along).collect()))
    }
}
