//! `−log σ(β·(a_w − a_l) − γ)`, `a` the mean log-probability of a token

use serde::{Deserialize, Serialize};

use super::reference_free::{rewards, with_nll};
use super::{Named, Preset, check_beta, check_label_smoothing, check_not_negative, smoothed_logistic};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Pair;

/// Simple preference optimisation: a logistic regression on mean log-probabilities, with a target margin and without a
/// reference.
///
/// # Formula
/// `−(1−ε)·log σ(x) − ε·log σ(−x)` with `x = β·(a_w − a_l) − γ`, `a = Σ_t log π / n` in nats a token; the mean over
/// pairs. With `nll_weight`, that factor times the negative log-likelihood of the chosen completions is added: a mean
/// over their tokens in the whole step.
///
/// # Gradient
/// With `ε = 0`: `−(β/n_w)·σ(−x)` for `log π(y_w)` and `(β/n_l)·σ(−x)` for `log π(y_l)`. The sides do not cancel unless
/// their lengths agree.
///
/// # When to use
/// Pairs, where a reference costs too much memory or time. Nothing ties the policy to where it started, so the learning
/// rate and a single epoch are what keeps it there. `β` is far larger than DPO's: means of log-probabilities differ by
/// tenths of a nat.
///
/// # Source
/// Meng et al. 2024, arXiv 2405.14734, eq. 6; as TRL's and HALOs' functions. With `nll_weight`: `CPO-SimPO`, as in TRL.
/// Confidence A✓.
///
/// # Deviations
/// `γ` is a margin of rewards, as in the paper and in TRL (`simpo_gamma`); HALOs and the authors' code set `γ/β`. The
/// defaults are those of the authors' code, `β = 2` and `γ/β = 0.25`; TRL's `β` of 0.1 is that of its DPO, and its `simpo`
/// adds the NLL with weight 1 unless `cpo_alpha` is 0 (the preset `cpo_simpo`). The NLL is divided by the tokens of the step and
/// not of a micro-batch.
///
/// # Checked by
/// TRL: `simpo`. Formulas: `simpo beta=10 ratio=0.3`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, Scores, Simpo, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-2.0, -3.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let simpo = Simpo { beta: 2.0, gamma: 1.0, ..Simpo::default() };
/// let loss = simpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // 2·(−1.5 + 2.5) − 1 = 1: log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simpo {
    /// Scale of the mean log-probabilities; positive. Default 2.
    pub beta: f64,
    /// `γ`, by how much the rewards `β·a` shall differ; at least 0. Default 0.5.
    #[serde(alias = "simpo_gamma")]
    pub gamma: f64,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`. Default 0.
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood of the chosen completions; at least 0. Default 0.
    #[serde(alias = "cpo_alpha")]
    pub nll_weight: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 2.0, gamma: 0.5, label_smoothing: 0.0, nll_weight: 0.0 }
    }
}

impl Named for Simpo {
    const NAME: &'static str = "simpo";
    const ALIASES: &'static [&'static str] = &[];
    const SUMMARY: &'static str =
        "simple preference optimisation, without a reference: −log σ(β·(a_w − a_l) − γ) of mean log-probabilities";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "cpo_simpo",
        aliases: &[],
        summary: "SimPO with the negative log-likelihood of the chosen completions",
        settings: r#"{ "nll_weight": 1.0 }"#,
    }];
}

impl Loss for Simpo {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> Result<LossTerms> {
        let compared = input.log_probs(Reduction::Mean)?;
        let margins = compared.margins()?.affine(self.beta, -self.gamma)?;
        let losses = smoothed_logistic(&margins, self.label_smoothing)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(rewards(&compared, self.beta)?);
        if self.nll_weight > 0.0 { with_nll(terms, input, self.nll_weight) } else { Ok(terms) }
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("gamma", self.gamma)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_not_negative::<Self>("nll_weight", self.nll_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_pairs;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_pairs("simpo beta=10 ratio=0.3", Simpo { beta: 10.0, gamma: 3.0, ..Simpo::default() });
    }
}
