//! `−log σ(β·(T(a_w) − T(a_l)) − γ)` with `T(a) = (1 − e^{−α·a})/α`

use serde::{Deserialize, Serialize};

use super::reference_free::{rewards, shaped, with_nll};
use super::{Named, check_beta, check_label_smoothing, check_not_negative, in_range, smoothed_logistic};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Pair;

/// `AlphaPO`: [`Simpo`](crate::Simpo) on a reward whose shape is a power of the probability instead of its logarithm.
///
/// # Formula
/// `−(1−ε)·log σ(x) − ε·log σ(−x)` with `x = β·(T(a_w) − T(a_l)) − γ`, `T(a) = (1 − e^{−α·a})/α` and
/// `a = Σ_t log π / n` in nats a token; the mean over pairs. `T(a) = a` at `α = 0`. With `nll_weight`, that factor
/// times the negative log-likelihood of the chosen completions is added: a mean over their tokens in the whole step.
///
/// # Gradient
/// With `ε = 0`: `−(β/n_w)·σ(−x)·e^{−α·a_w}` for `log π(y_w)` and the same of the rejected side with the other sign.
/// A positive `α` gives the less likely side the larger slope, a negative one the more likely side.
///
/// # When to use
/// Where `SimPO` lowers the chosen log-probability too far or too little: `α` moves that. Tune it around 0.25 and
/// −0.25.
///
/// # Source
/// Gupta et al. 2025, arXiv 2501.03884; as TRL's function. The defaults are those that TRL quotes for the paper's
/// Mistral-Instruct run. Confidence A✓.
///
/// # Deviations
/// From TRL: `T` is computed without the loss of digits of `1 − p^{−α}` at small `α`, and its exponential is continued
/// by the tangent above an exponent of 31, where TRL's overflows; the NLL is divided by the tokens of the step and not
/// of a micro-batch. TRL's `simpo` adds it by default (`cpo_alpha = 1`), its `alphapo` does not.
///
/// # Checked by
/// TRL: `simpo` with `alpha`. Formulas: `simpo beta=10 ratio=0.3`, its limit.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{AlphaPo, Context, Objective, Scores, TokenScores};
/// // Probabilities of ½ and ¼ a token: T is 1 − 2 and 1 − 4 for α = 1.
/// let policy = TokenScores::unmasked(Tensor::new(&[[0.5f64.ln()], [0.25f64.ln()]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let alpha_po = AlphaPo { alpha: 1.0, beta: 1.0, gamma: 1.0, ..AlphaPo::default() };
/// let loss = alpha_po.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // −1 + 3 − 1 = 1: log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-14);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlphaPo {
    /// `α`, the shape of the reward; any finite number. Default 0.25; 0 is [`Simpo`](crate::Simpo).
    pub alpha: f64,
    /// Scale of the rewards; positive. Default 2.5.
    pub beta: f64,
    /// `γ`, by how much the rewards `β·T(a)` shall differ; at least 0. Default 0.1.
    #[serde(alias = "simpo_gamma")]
    pub gamma: f64,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`. Default 0.
    pub label_smoothing: f64,
    /// Weight of the negative log-likelihood of the chosen completions; at least 0. Default 0.
    #[serde(alias = "cpo_alpha")]
    pub nll_weight: f64,
}

impl Default for AlphaPo {
    fn default() -> Self {
        Self { alpha: 0.25, beta: 2.5, gamma: 0.1, label_smoothing: 0.0, nll_weight: 0.0 }
    }
}

impl Named for AlphaPo {
    const NAME: &'static str = "alpha_po";
    const ALIASES: &'static [&'static str] = &["alphapo"];
    const SUMMARY: &'static str = "SimPO on rewards (1 − p^{−α})/α of the mean token probability";
}

impl Loss for AlphaPo {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> Result<LossTerms> {
        let compared = shaped(input.log_probs(Reduction::Mean)?, self.alpha)?;
        let margins = compared.margins()?.affine(self.beta, -self.gamma)?;
        let losses = smoothed_logistic(&margins, self.label_smoothing)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(rewards(&compared, self.beta)?);
        if self.nll_weight > 0.0 { with_nll(terms, input, self.nll_weight) } else { Ok(terms) }
    }

    fn validate(&self) -> Result<()> {
        in_range::<Self>("alpha", self.alpha, self.alpha.is_finite(), "a finite number")?;
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("gamma", self.gamma)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        check_not_negative::<Self>("nll_weight", self.nll_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs, pairs};
    use super::*;
    use crate::Objective;

    #[test]
    fn its_limit_is_simpo() {
        let near = |alpha| AlphaPo { alpha, beta: 10.0, gamma: 3.0, ..AlphaPo::default() };
        for alpha in [0.0, 1e-13, 1e-11, -1e-11] {
            check_pairs("simpo beta=10 ratio=0.3", near(alpha));
        }
    }
    #[test]
    fn the_likelihood_is_a_mean_over_tokens() {
        let (_, scores) = pairs();
        let loss = |nll_weight| {
            let alpha_po = AlphaPo { nll_weight, ..AlphaPo::default() };
            let terms = alpha_po.evaluate(&scores, &Context::default()).unwrap();
            (terms.terms.len(), terms.loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap())
        };
        let ((one, without), (two, with)) = (loss(0.0), loss(2.0));
        assert_eq!((one, two), (1, 2));
        // 4.6 + 2.75 + 5.75 + 5.4 nats over 5 + 3 + 6 + 4 tokens.
        assert!((with - without - 2.0 * 18.5 / 18.0).abs() < 1e-12);
    }
}
