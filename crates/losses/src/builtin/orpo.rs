//! `NLL(y_w) − β·log σ(log-odds ratio)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::reference_free::{rewards, with_nll};
use super::{Named, check_beta};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::{log_sigmoid, log1m_exp};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Pair;

/// Odds ratio preference optimisation: imitation of the chosen completions and a logistic loss on odds, without a
/// reference.
///
/// # Formula
/// `NLL(y_w) − β·log σ(o)` with `o = log(p_w/(1 − p_w)) − log(p_l/(1 − p_l))` and `p = e^a`, `a = Σ_t log π / n`: the
/// geometric mean of a completion's token probabilities. The first term is a mean over the tokens of the chosen
/// completions of the step, the second over its pairs.
///
/// # Gradient
/// `−β·σ(−o)/(n_w·(1 − p_w))` for `log π(y_w)` and `β·σ(−o)/(n_l·(1 − p_l))` for `log π(y_l)`; the NLL adds `−1/N` to
/// every token of the chosen completions, `N` of them in the step. Held where `p` comes within 10⁻⁷ of 1.
///
/// # When to use
/// From a base model, in place of imitation and preference optimisation one after the other. `β` is the paper's `λ`.
///
/// # Source
/// Hong et al. 2024, arXiv 2403.07691, eqs. 6 and 7; the loss on odds as TRL's function. Confidence A✓.
///
/// # Deviations
/// From TRL: the NLL runs over the scored tokens of the chosen completions, where TRL's runs over their prompts too,
/// and is divided by the tokens of the step and not of a micro-batch. From the paper: a mean over tokens where it
/// averages means of completions. The probability is held at `1 − 10⁻⁷`, beyond which TRL gives infinities.
///
/// # Checked by
/// TRL: `orpo`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Orpo, Scores, TokenScores};
/// // Probabilities of ½ and ¼ a token: odds of 1 and ⅓.
/// let policy = TokenScores::unmasked(Tensor::new(&[[0.5f64.ln()], [0.25f64.ln()]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let loss = Orpo { beta: 1.0 }.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // log 2 of likelihood, and σ(log 3) = ¾.
/// assert!((loss.to_scalar::<f64>()? - 2f64.ln() - (4f64 / 3.0).ln()).abs() < 1e-14);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orpo {
    /// Weight of the loss on odds; positive. Default 0.1.
    pub beta: f64,
}

impl Default for Orpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Named for Orpo {
    const NAME: &'static str = "orpo";
    const ALIASES: &'static [&'static str] = &["odds_ratio"];
    const SUMMARY: &'static str =
        "odds ratio preference optimisation: imitation and −β·log σ(log-odds ratio), without a reference";
}

impl Loss for Orpo {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> Result<LossTerms> {
        let compared = input.log_probs(Reduction::Mean)?;
        let ratios = (log_odds(&compared.chosen)? - log_odds(&compared.rejected)?)?;
        let log_likelihoods = log_sigmoid(&ratios)?;
        let odds = Term { weight: self.beta, ..Term::per_item(Self::NAME, log_likelihoods.neg()?) };
        let terms = LossTerms::new([odds])
            .with_rewards(rewards(&compared, self.beta)?)
            .with_metric("log_odds_ratio", &log_likelihoods)
            .with_metric("log_odds_chosen", &ratios);
        with_nll(terms, input, 1.0)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)
    }
}

/// `log(p/(1 − p))` of log-probabilities.
fn log_odds(log_probs: &Tensor) -> Result<Tensor> {
    Ok((log_probs - log1m_exp(log_probs)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{Objective, Scores, TokenScores};

    #[test]
    fn certain_completions_have_finite_odds() {
        let log_probs = Var::new(&[[0.0f64], [-1e4]], &Device::Cpu).unwrap();
        let policy = TokenScores::unmasked(log_probs.as_tensor().clone()).unwrap();
        let scores = Scores::of_pairs(policy, None);
        let loss = Orpo::default().evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        assert!(loss.to_scalar::<f64>().unwrap().abs() < 1e-15);
        let gradient = loss.backward().unwrap().remove(&log_probs).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(gradient, [[-1.0], [0.0]]);
    }
}
