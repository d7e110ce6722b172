//! The multipliers of a table of scores, once and for all.

use super::newton;
use super::table::{Moments, ScoreTable, SmallSample, check_beta};
use crate::error::{Error, Result};

/// What became of a constrained problem over a table of scores.
#[derive(Debug, Clone, PartialEq)]
pub enum Solution {
    /// A limit binds: at least one multiplier is above 0.
    Active(Optimum),
    /// The best policy without limits keeps them: all multipliers are 0.
    Slack(Optimum),
    /// No policy over these completions keeps the limits with anything to spare.
    Infeasible(Infeasible),
}

/// The policy `π_λ` at the right multipliers.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimum {
    /// `λ_k` of every constraint.
    pub multipliers: Vec<f64>,
    /// `E[r]`.
    pub reward: f64,
    /// `E[c_k]`, as measured.
    pub costs: Vec<f64>,
    /// `KL(π ‖ π_ref)` in nats.
    pub kl: f64,
    /// `P(c_k > 0)`.
    pub unsafe_share: Vec<f64>,
    /// `Var_π(c_k)`, on which the step of a multiplier depends: see
    /// [`DualSettings::largest_rate`](super::DualSettings::largest_rate).
    pub variances: Vec<f64>,
    /// `E[r] − β·KL`, of this policy.
    pub primal: f64,
    /// `g(λ)`, which no policy that keeps the limits exceeds.
    pub dual: f64,
    /// `dual − primal`: how far from the optimum this can be at most, but for rounding.
    pub gap: f64,
    /// The warning that goes with fewer than 64 completions a prompt.
    pub small_sample: Option<SmallSample>,
}

/// Why limits cannot be kept, and what could be.
#[derive(Debug, Clone, PartialEq)]
pub struct Infeasible {
    /// The lowest mean of every cost alone.
    pub least_costs: Vec<f64>,
    /// Weights of the constraints, adding up to 1, for which `Σ_k w_k·E[c_k]` is nowhere below `Σ_k w_k·d_k`.
    pub weights: Vec<f64>,
    /// By how much it is above, at least; 0 where the limits could be met only exactly.
    pub excess: f64,
}

impl ScoreTable {
    /// Solves for the multipliers under which `E[c_k] ≤ d_k`, for a policy that is held to its reference by `beta`.
    ///
    /// With one constraint by Newton's method within a bracket, with several by projected Newton steps. Both are exact
    /// to rounding for the table as it is; what the table says of the world is another matter:
    /// [`Optimum::small_sample`].
    ///
    /// # Errors
    /// If `beta` is not positive, there are not as many limits as constraints or one is not finite, or the search for
    /// several multipliers does not end, which scores of extremely different sizes can bring about.
    pub fn solve(&self, beta: f64, limits: &[f64]) -> Result<Solution> {
        check_beta(beta)?;
        self.check_count("limits", limits.len())?;
        if let Some((place, got)) = limits.iter().enumerate().find(|(_, limit)| !limit.is_finite()) {
            return Err(Error::Dual(format!("score table: limit {place}: got {got}, expected a finite number")));
        }
        let nothing = vec![0.0; limits.len()];
        let free = self.moments(beta, &nothing)?;
        if free.costs.iter().zip(limits).all(|(cost, limit)| cost <= limit) {
            return Ok(Solution::Slack(self.optimum(beta, limits, nothing)?));
        }
        let least_costs = self.least_costs();
        let alone = (0..limits.len()).find(|&k| least_costs[k] >= limits[k]);
        if let Some(k) = alone {
            let weights = (0..limits.len()).map(|other| f64::from(u8::from(other == k))).collect();
            let excess = least_costs[k] - limits[k];
            return Ok(Solution::Infeasible(Infeasible { least_costs, weights, excess }));
        }
        let found = match limits {
            &[limit] => one(|multiplier| {
                let Moments { costs, covariance, .. } = self.moments(beta, &[multiplier])?;
                Ok((costs[0] - limit, covariance[0][0] / beta))
            })?
            .map(|multiplier| vec![multiplier])
            .ok_or_else(|| vec![1.0]),
            _ => newton::minimum(self, beta, limits)?,
        };
        match found {
            Ok(multipliers) => Ok(Solution::Active(self.optimum(beta, limits, multipliers)?)),
            Err(weights) => {
                let bound: f64 = weights.iter().zip(limits).map(|(weight, limit)| weight * limit).sum();
                let excess = (self.least(&weights) - bound).max(0.0);
                Ok(Solution::Infeasible(Infeasible { least_costs, weights, excess }))
            }
        }
    }

    /// The dual function at multipliers: `g(λ) = β·E_x[log E_{π_ref} exp((r − λ·c)/β)] + λ·d`.
    ///
    /// # Errors
    /// If `beta` is not positive, or there are not as many multipliers and limits as constraints.
    pub fn dual(&self, beta: f64, multipliers: &[f64], limits: &[f64]) -> Result<f64> {
        self.check_count("limits", limits.len())?;
        let moments = self.moments(beta, multipliers)?;
        Ok(moments.soft_maximum + multipliers.iter().zip(limits).map(|(lambda, limit)| lambda * limit).sum::<f64>())
    }

    fn optimum(&self, beta: f64, limits: &[f64], multipliers: Vec<f64>) -> Result<Optimum> {
        let dual = self.dual(beta, &multipliers, limits)?;
        let Moments { reward, costs, kl, unsafe_share, covariance, .. } = self.moments(beta, &multipliers)?;
        let primal = reward - beta * kl;
        Ok(Optimum {
            multipliers,
            reward,
            costs,
            kl,
            unsafe_share,
            variances: covariance.iter().enumerate().map(|(k, row)| row[k]).collect(),
            primal,
            dual,
            gap: dual - primal,
            small_sample: self.small_sample(),
        })
    }
}

/// The root of a decreasing function that is positive at 0, given with the negative of its slope; `None` if it stays
/// positive.
fn one(mut at: impl FnMut(f64) -> Result<(f64, f64)>) -> Result<Option<f64>> {
    let (mut low, mut high) = (0.0, 1e-3);
    while at(high)?.0 > 0.0 {
        (low, high) = (high, 2.0 * high);
        if !high.is_finite() {
            return Ok(None);
        }
    }
    let mut here = 0.5 * (low + high);
    // A bisection alone ends within the bits of a double.
    for _ in 0..200 {
        let (violation, slope) = at(here)?;
        if violation > 0.0 {
            low = here;
        } else {
            high = here;
        }
        let newton = here + violation / slope;
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        if (next - here).abs() <= f64::EPSILON * next.abs() || violation == 0.0 {
            break;
        }
        here = next;
    }
    Ok(Some(here))
}
