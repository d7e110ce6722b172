//! Scored completions of prompts, and what a tilt of the reference makes of them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What of a cost is held below a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostMeasure {
    /// `E[c]`, in the units of whoever measured it. Safe completions make up for unsafe ones.
    #[default]
    Mean,
    /// `P(c > 0)`: the limit is a rate, no cost model needs a scale, and the variance is at most ¼.
    Rate,
    /// `E[max(c, 0)]`: nothing makes up for a cost above 0. RePO, arXiv 2410.19933.
    Rectified,
}

impl CostMeasure {
    /// What it makes of a cost.
    ///
    /// ```
    /// use candlewick_losses::dual::CostMeasure;
    /// let of = |cost| [CostMeasure::Mean, CostMeasure::Rate, CostMeasure::Rectified].map(|measure| measure.of(cost));
    /// assert_eq!((of(2.5), of(-2.5)), ([2.5, 1.0, 2.5], [-2.5, 0.0, 0.0]));
    /// ```
    pub fn of(self, cost: f64) -> f64 {
        match self {
            Self::Mean => cost,
            Self::Rate => f64::from(u8::from(cost > 0.0)),
            Self::Rectified => cost.max(0.0),
        }
    }
}

/// `K` completions of one prompt, with what they were scored at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptScores {
    /// Rewards, `[K]`.
    pub rewards: Vec<f64>,
    /// Costs, `[K]` for each constraint.
    pub costs: Vec<Vec<f64>>,
    /// `log π_ref(y) − log q(y)` of completions that `q` wrote and not the reference, `[K]`; `None` for completions of
    /// the reference. Differences of log-probabilities, never log-probabilities: those weigh completions by their
    /// length.
    pub log_weights: Option<Vec<f64>>,
}

/// Prompts with the scores of their completions: what the dual function is computed from.
///
/// ```
/// use candlewick_losses::dual::{PromptScores, ScoreTable, Solution};
/// // One prompt whose two completions are the whole world: the harmful one is the more rewarding.
/// let prompt = PromptScores { rewards: vec![0.0, 2.0], costs: vec![vec![-1.0, 1.0]], log_weights: None };
/// let table = ScoreTable::of_all(vec![prompt])?;
/// let Solution::Active(optimum) = table.solve(0.5, &[-0.5])? else { panic!("the limit binds") };
/// // (Δr − β·(logit ¼ − logit ½))/Δc = (2 + ½·ln 3)/2
/// assert!((optimum.multipliers[0] - (2.0 + 0.5 * 3f64.ln()) / 2.0).abs() < 1e-12);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreTable {
    prompts: Vec<Prompt>,
    constraints: usize,
    sampled: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Prompt {
    /// Logarithms of the weights of the completions under the reference; they add up to 1.
    log_prior: Vec<f64>,
    rewards: Vec<f64>,
    costs: Vec<Vec<f64>>,
    /// Whether each cost was above 0 as it was scored.
    harmful: Vec<Vec<bool>>,
}

/// Means under `π_λ ∝ π_ref·exp((r − λ·c)/β)`, each a mean over prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// `E[r]`.
    pub reward: f64,
    /// `E[c_k]` of every constraint, as measured.
    pub costs: Vec<f64>,
    /// `KL(π_λ ‖ π_ref)` in nats.
    pub kl: f64,
    /// `P(c_k > 0)` of every constraint.
    pub unsafe_share: Vec<f64>,
    /// Covariances of the costs under the policy, `[constraint][constraint]`.
    pub covariance: Vec<Vec<f64>>,
    /// `β·log E_{π_ref} exp((r − λ·c)/β)`.
    pub soft_maximum: f64,
}

/// What too few completions a prompt do to an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmallSample {
    /// The fewest completions of a prompt.
    pub completions: usize,
    /// About how much of a shift of the mean cost by one standard deviation such a table shows; the rest of it looks
    /// as if the policy were still the reference. A policy that was made safer seems more dangerous than it is, one
    /// that was made more dangerous seems safer.
    pub shown: f64,
}

/// Completions a prompt from which on [`ScoreTable::small_sample`] has nothing to say.
const ENOUGH: usize = 64;
/// Completions a prompt, and the share of a shift by one standard deviation that they show: Gaussian costs, weights by
/// their softmax. A test computes them.
const SHOWN: [(usize, f64); 6] = [(1, 0.0), (2, 0.36), (4, 0.61), (8, 0.77), (16, 0.87), (32, 0.93)];

impl ScoreTable {
    /// Of completions that were sampled: by the reference, or by another policy where they have weights. 64 a prompt or
    /// more, lest [`small_sample`](Self::small_sample) has something to say.
    ///
    /// # Errors
    /// If there is no prompt, a prompt without completions, or one whose lists do not have the same length, or a score
    /// that is not finite.
    pub fn of_samples(prompts: Vec<PromptScores>) -> Result<Self> {
        Self::new(prompts, true)
    }

    /// Of completions that are all there are, with `log π_ref` as their weights (equal, if there are none).
    ///
    /// # Errors
    /// As [`of_samples`](Self::of_samples).
    pub fn of_all(prompts: Vec<PromptScores>) -> Result<Self> {
        Self::new(prompts, false)
    }

    /// Of completions of the reference and their log-ratios under two policies that were trained with the same `beta`:
    /// in the place of rewards `log π_r − log π_ref` of a policy trained on helpfulness, in that of costs `log π_s −
    /// log π_ref` of policies trained on safety (higher is safer). Rewards become `β` times the former and costs `−β`
    /// times the latter: PeCAN, arXiv 2405.19544. Their zero is arbitrary, so that a limit is a margin over the
    /// reference: [`limit_for_margin`](Self::limit_for_margin).
    ///
    /// # Errors
    /// As [`of_samples`](Self::of_samples), or if `beta` is not positive.
    pub fn of_log_ratios(mut prompts: Vec<PromptScores>, beta: f64) -> Result<Self> {
        check_beta(beta)?;
        for prompt in &mut prompts {
            prompt.rewards.iter_mut().for_each(|ratio| *ratio *= beta);
            prompt.costs.iter_mut().flatten().for_each(|ratio| *ratio *= -beta);
        }
        Self::of_samples(prompts)
    }

    fn new(prompts: Vec<PromptScores>, sampled: bool) -> Result<Self> {
        let constraints = prompts.first().map_or(0, |prompt| prompt.costs.len());
        if constraints == 0 {
            let what = if prompts.is_empty() { "no prompts" } else { "no costs" };
            return Err(Error::Dual(format!(
                "score table: got {what}, expected prompts with a list of costs a constraint"
            )));
        }
        let prompts = prompts.into_iter().enumerate().map(|(index, prompt)| Prompt::new(index, prompt, constraints));
        Ok(Self { prompts: prompts.collect::<Result<_>>()?, constraints, sampled })
    }

    /// The same table with costs as they are measured, one measure a constraint. Shares of unsafe completions stay
    /// those of the costs as they were scored.
    ///
    /// # Errors
    /// If there are not as many measures as constraints.
    pub fn measured(mut self, measures: &[CostMeasure]) -> Result<Self> {
        self.check_count("measures", measures.len())?;
        for prompt in &mut self.prompts {
            for (costs, measure) in prompt.costs.iter_mut().zip(measures) {
                costs.iter_mut().for_each(|cost| *cost = measure.of(*cost));
            }
        }
        Ok(self)
    }

    /// How many constraints there are.
    pub fn constraints(&self) -> usize {
        self.constraints
    }

    /// `E[c_k]` of every constraint under the reference.
    pub fn reference_costs(&self) -> Vec<f64> {
        let of = |prompt: &Prompt, constraint: usize| {
            prompt.log_prior.iter().zip(&prompt.costs[constraint]).map(|(log, cost)| log.exp() * cost).sum::<f64>()
        };
        (0..self.constraints).map(|constraint| self.mean(|prompt| of(prompt, constraint))).collect()
    }

    /// The limits that ask for costs below those of the reference by `margins`, one a constraint: PeCAN's `b`.
    ///
    /// # Errors
    /// If there are not as many margins as constraints.
    pub fn limit_for_margin(&self, margins: &[f64]) -> Result<Vec<f64>> {
        self.check_count("margins", margins.len())?;
        Ok(self.reference_costs().iter().zip(margins).map(|(cost, margin)| cost - margin).collect())
    }

    /// The lowest mean of every cost, alone, that any policy over these completions has: `E_x min_i c_i`.
    pub fn least_costs(&self) -> Vec<f64> {
        (0..self.constraints).map(|constraint| self.least(&unit(constraint, self.constraints))).collect()
    }

    /// The lowest mean of `Σ_k direction_k·c_k`.
    pub(super) fn least(&self, direction: &[f64]) -> f64 {
        self.mean(|prompt| prompt.weighted(direction).into_iter().fold(f64::INFINITY, f64::min))
    }

    /// What is to be said of the number of completions: nothing of a table of all there are, nor of one of 64 or more a
    /// prompt.
    pub fn small_sample(&self) -> Option<SmallSample> {
        let completions = self.prompts.iter().map(|prompt| prompt.rewards.len()).min().filter(|_| self.sampled)?;
        let known = SHOWN.iter().rev().find(|&&(known, _)| known <= completions);
        (completions < ENOUGH).then(|| SmallSample { completions, shown: known.map_or(0.0, |&(_, shown)| shown) })
    }

    /// The probabilities of `π_λ`, one list a prompt.
    ///
    /// # Errors
    /// If `beta` is not positive or there are not as many multipliers as constraints.
    pub fn policy(&self, beta: f64, multipliers: &[f64]) -> Result<Vec<Vec<f64>>> {
        check_beta(beta)?;
        self.check_count("multipliers", multipliers.len())?;
        Ok(self.prompts.iter().map(|prompt| prompt.tilted(beta, multipliers).0).collect())
    }

    /// Means under `π_λ`.
    ///
    /// # Errors
    /// As [`policy`](Self::policy), or if they are beyond double precision.
    pub fn moments(&self, beta: f64, multipliers: &[f64]) -> Result<Moments> {
        check_beta(beta)?;
        self.check_count("multipliers", multipliers.len())?;
        let count = self.constraints;
        let mut sum = Moments {
            reward: 0.0,
            costs: vec![0.0; count],
            kl: 0.0,
            unsafe_share: vec![0.0; count],
            covariance: vec![vec![0.0; count]; count],
            soft_maximum: 0.0,
        };
        let share = 1.0 / self.prompts.len() as f64;
        for prompt in &self.prompts {
            let (policy, log_partition) = prompt.tilted(beta, multipliers);
            let mean = |of: &dyn Fn(usize) -> f64| policy.iter().enumerate().map(|(i, p)| p * of(i)).sum::<f64>();
            let costs: Vec<f64> = prompt.costs.iter().map(|costs| mean(&|i| costs[i])).collect();
            sum.reward += share * mean(&|i| prompt.rewards[i]);
            sum.kl += share * mean(&|i| if policy[i] > 0.0 { policy[i].ln() - prompt.log_prior[i] } else { 0.0 });
            sum.soft_maximum += share * beta * log_partition;
            for k in 0..count {
                sum.costs[k] += share * costs[k];
                sum.unsafe_share[k] += share * mean(&|i| f64::from(u8::from(prompt.harmful[k][i])));
                for other in 0..count {
                    let product = |i: usize| (prompt.costs[k][i] - costs[k]) * (prompt.costs[other][i] - costs[other]);
                    sum.covariance[k][other] += share * mean(&product);
                }
            }
        }
        let numbers = [sum.reward, sum.kl, sum.soft_maximum];
        if !numbers.iter().chain(&sum.costs).chain(sum.covariance.iter().flatten()).all(|value| value.is_finite()) {
            return Err(Error::Dual(format!(
                "score table: rewards less multipliers {multipliers:?} times costs, over β = {beta}, are beyond double \
                 precision; look for scores that are out of proportion, or raise β"
            )));
        }
        Ok(sum)
    }

    fn mean(&self, of: impl Fn(&Prompt) -> f64) -> f64 {
        self.prompts.iter().map(of).sum::<f64>() / self.prompts.len() as f64
    }

    pub(super) fn check_count(&self, what: &str, got: usize) -> Result<()> {
        if got == self.constraints {
            return Ok(());
        }
        Err(Error::Dual(format!(
            "score table: got {got} {what} for {} constraints, expected one each",
            self.constraints
        )))
    }
}

impl Prompt {
    fn new(index: usize, scores: PromptScores, constraints: usize) -> Result<Self> {
        let PromptScores { rewards, costs, log_weights } = scores;
        let refuse = |reason: String| Err(Error::Dual(format!("score table, prompt {index}: {reason}")));
        if rewards.is_empty() {
            return refuse(
                "it has no completions, expected at least one (64, for a trustworthy multiplier)".to_owned(),
            );
        }
        if costs.len() != constraints {
            return refuse(format!(
                "got costs of {} constraints, expected {constraints}, as the first has",
                costs.len()
            ));
        }
        let log_weights = log_weights.unwrap_or_else(|| vec![0.0; rewards.len()]);
        let lists = [("rewards", &rewards), ("log_weights", &log_weights)];
        for (name, list) in lists.into_iter().chain(costs.iter().map(|list| ("costs", list))) {
            if list.len() != rewards.len() {
                return refuse(format!("got {} {name} for {} rewards, expected one each", list.len(), rewards.len()));
            }
            if let Some((place, got)) = list.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                return refuse(format!("{name}, completion {place}: got {got}, expected a finite number"));
            }
        }
        let total = log_sum_exp(&log_weights);
        let log_prior = log_weights.iter().map(|log| log - total).collect();
        let harmful = costs.iter().map(|costs| costs.iter().map(|cost| *cost > 0.0).collect()).collect();
        Ok(Self { log_prior, rewards, costs, harmful })
    }

    /// `Σ_k direction_k·c_k` of every completion.
    fn weighted(&self, direction: &[f64]) -> Vec<f64> {
        let of = |i: usize| direction.iter().zip(&self.costs).map(|(weight, costs)| weight * costs[i]).sum();
        (0..self.rewards.len()).map(of).collect()
    }

    /// The probabilities of `π_λ`, and `log E_{π_ref} exp((r − λ·c)/β)`.
    fn tilted(&self, beta: f64, multipliers: &[f64]) -> (Vec<f64>, f64) {
        let costs = self.weighted(multipliers);
        let scores = self.log_prior.iter().zip(&self.rewards).zip(costs);
        let logits: Vec<f64> = scores.map(|((log, reward), cost)| log + (reward - cost) / beta).collect();
        let total = log_sum_exp(&logits);
        (logits.iter().map(|logit| (logit - total).exp()).collect(), total)
    }
}

pub(super) fn check_beta(beta: f64) -> Result<()> {
    if beta.is_finite() && beta > 0.0 {
        return Ok(());
    }
    let (loss, parameter, expected) = ("score table".to_owned(), "beta", "a positive number");
    Err(Error::Parameter { loss, parameter, got: beta, expected })
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    highest + values.iter().map(|value| (value - highest).exp()).sum::<f64>().ln()
}

fn unit(place: usize, count: usize) -> Vec<f64> {
    (0..count).map(|index| f64::from(u8::from(index == place))).collect()
}
