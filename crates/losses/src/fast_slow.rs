//! Two modules that learn the same pairs at two speeds, each against the other.

use serde::{Deserialize, Serialize};

use crate::builtin::Dpo;
use crate::error::{Error, Result};
use crate::groups::{PairRows, Scores};
use crate::loss::{Context, Objective};
use crate::scores::TokenScores;
use crate::terms::LossTerms;
use crate::view::Needs;

/// Online fast-slow DPO (OFS-DPO): two modules on one base, `F` with a fast and `S` with a slow learning rate.
///
/// With `z` the log-ratio margin of a module to the reference, `L_FS = −log σ(β·(z_F − z_S))`, and the other module detached in each,
///
/// `L_F = −log σ(β·z_F) + α·L_FS`, `L_S = −log σ(β·z_S) − α·L_FS`, means over pairs: the fast module is driven ahead of the slow one, and
/// the slow one towards it. `z_F − z_S` needs no reference: it is the margin of the one module with the other in its place.
///
/// `L_S` has no lower bound, since `α·log σ(β·(z_F − z_S))` falls without end as `z_S` grows: keep `alpha` well below 1.
///
/// Source: the fast-slow chasing of OFS-DPO as a third party's trainer for diffusion models has it, which cites the paper's eq. 3 to 6;
/// the paper was not at hand. Confidence C; `alpha` of 0.1 is that of the recorded values and not the paper's.
///
/// Checked by formulas: `ofs-dpo fast`, `ofs-dpo slow`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{FastSlowDpo, Role, Scores, TokenScores};
/// let rows = |chosen: f64, rejected: f64| TokenScores::unmasked(Tensor::new(&[[chosen], [rejected]], &Device::Cpu)?);
/// let (fast, slow, reference) = (rows(-1.0, -3.0)?, rows(-1.5, -2.5)?, rows(-2.0, -2.0)?);
/// let ofs = FastSlowDpo { beta: 1.0, alpha: 0.5 };
/// let scores = Scores::of_pairs(fast, Some(reference));
/// let loss = ofs.terms(Role::Fast, &scores, &slow)?.loss(&scores.totals())?;
/// // z_F = 2 and z_F − z_S = 1.
/// let expected = (-2.0f64).exp().ln_1p() + 0.5 * (-1.0f64).exp().ln_1p();
/// assert!((loss.to_scalar::<f64>()? - expected).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FastSlowDpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// Weight of the term between the modules, at least 0. Default 0.1.
    pub alpha: f64,
}

/// What a module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It learns fast, and ahead of the other.
    Fast,
    /// It learns slowly, and after the other.
    Slow,
}

impl Default for FastSlowDpo {
    fn default() -> Self {
        Self { beta: 0.1, alpha: 0.1 }
    }
}

impl FastSlowDpo {
    /// Whether hyperparameters are in range.
    ///
    /// # Errors
    /// Names the hyperparameter, its value and its range.
    pub fn validate(&self) -> Result<()> {
        self.dpo().validate()?;
        if self.alpha.is_finite() && self.alpha >= 0.0 {
            return Ok(());
        }
        let expected = "a number of at least 0";
        Err(Error::Parameter { loss: NAME.to_owned(), parameter: "alpha", got: self.alpha, expected })
    }

    /// What it needs of data and model: what [`Dpo`] needs.
    pub fn needs(&self) -> Needs {
        self.dpo().needs()
    }

    /// The terms of a module in its role, of one micro-batch: `scores` hold its rows and those of the reference, `other` the other
    /// module's scores of the same rows, `[N, T]`. The first term is that of DPO alone.
    ///
    /// # Errors
    /// As [`Dpo`]; other shapes.
    pub fn terms(&self, role: Role, scores: &Scores, other: &TokenScores) -> Result<LossTerms> {
        let mut terms = self.dpo().evaluate(scores, &Context::default())?;
        let mut between = Scores { reference: Some(other.detach()), ..scores.clone() };
        let weight = match role {
            Role::Fast => self.alpha,
            // −log σ(β·(z_F − z_S)) of the slow module's side: the same margin with its sign turned.
            Role::Slow => {
                let turned = |pair: &PairRows| PairRows { chosen: pair.rejected, rejected: pair.chosen };
                between.groups.pairs = between.groups.pairs.iter().map(turned).collect();
                -self.alpha
            }
        };
        for mut term in self.dpo().evaluate(&between, &Context::default())?.terms {
            term.name = BETWEEN;
            term.weight *= weight;
            terms.terms.push(term);
        }
        Ok(terms)
    }

    fn dpo(&self) -> Dpo {
        Dpo { beta: self.beta, ..Dpo::default() }
    }
}

const NAME: &str = "fast_slow_dpo";
const BETWEEN: &str = "fast_slow";

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};
    use candlewick_testkit::{central_difference, error, worst};
    use serde_json::Value;

    use super::*;
    use crate::builtin::vectors::{pairs, vectors};

    /// The other module of the recorded formulas: its sums stand in the first token of each row.
    fn other(policy: &TokenScores) -> TokenScores {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formula-vectors.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let list = |name: &str| serde_json::from_value::<Vec<f64>>(file["inputs"][name].clone()).unwrap();
        let sums = [list("slow_chosen"), list("slow_rejected")].concat();
        let slots = policy.log_probs().dim(1).unwrap();
        let rows: Vec<Vec<f64>> =
            sums.iter().map(|sum| std::iter::once(*sum).chain(std::iter::repeat(0.0)).take(slots).collect()).collect();
        TokenScores::new(Tensor::new(rows, &Device::Cpu).unwrap(), policy.mask().clone()).unwrap()
    }

    #[test]
    fn both_roles_agree_with_the_formulas() {
        let recorded = vectors();
        for (role, name) in [(Role::Fast, "ofs-dpo fast"), (Role::Slow, "ofs-dpo slow")] {
            let (log_probs, scores) = pairs();
            let terms = FastSlowDpo::default().terms(role, &scores, &other(&scores.policy)).unwrap();
            let loss = terms.loss(&scores.totals()).unwrap();
            assert!(error(loss.to_scalar().unwrap(), recorded.number(name, "loss").unwrap()) < 1e-12, "{name}");
            // Of the first token of each row, as of all its scored ones; the recorded gradients are of the mean.
            let gradient: Vec<Vec<f64>> = loss.backward().unwrap().get(&log_probs).unwrap().to_vec2().unwrap();
            let first: Vec<f64> = gradient.iter().map(|row| row[0]).collect();
            let expected = [recorded.list(name, "grad_w").unwrap(), recorded.list(name, "grad_l").unwrap()].concat();
            assert!(worst(&first, &expected) < 1e-12, "{name}: {first:?} {expected:?}");
        }
    }

    #[test]
    fn the_gradient_is_the_central_difference_with_the_other_held() {
        let rows = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap().reshape((2, 2)).unwrap();
        let (slow, reference) = ([-1.0, -2.5, -0.5, -3.0], [-1.5, -2.0, -1.0, -2.0]);
        let fixed = |values: &[f64]| TokenScores::unmasked(rows(values)).unwrap();
        let ofs = FastSlowDpo { beta: 0.7, alpha: 0.4 };
        for role in [Role::Fast, Role::Slow] {
            let loss = |values: &[f64]| {
                let own = Var::from_tensor(&rows(values)).unwrap();
                let policy = TokenScores::unmasked(own.as_tensor().clone()).unwrap();
                let scores = Scores::of_pairs(policy, Some(fixed(&reference)));
                let loss = ofs.terms(role, &scores, &fixed(&slow)).unwrap().loss(&scores.totals()).unwrap();
                (own, loss)
            };
            let at = [-0.8, -1.9, -1.4, -2.2];
            let (own, value) = loss(&at);
            let gradient: Vec<f64> =
                value.backward().unwrap().get(&own).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let numeric = central_difference(|at| loss(at).1.to_scalar::<f64>().unwrap(), &at, 1e-5);
            assert!(worst(&gradient, &numeric) < 1e-9, "{role:?}: {gradient:?} {numeric:?}");
        }
        assert!(
            FastSlowDpo { alpha: -0.1, ..ofs }.validate().unwrap_err().to_string().starts_with("fast_slow_dpo.alpha")
        );
        assert!(FastSlowDpo { beta: 0.0, ..ofs }.validate().is_err());
    }
}
