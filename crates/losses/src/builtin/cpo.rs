//! `−log σ(β·(ℓ_w − ℓ_l)) + λ·NLL(y_w)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::reference_free::{rewards, shaped, with_nll};
use super::{
    Named, check_beta, check_label_smoothing, check_not_negative, check_reduction, in_range, smoothed_logistic,
};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::positive_part;
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::Pair;

/// Contrastive preference optimisation: DPO without a reference, and imitation of the chosen completions.
///
/// # Formula
/// With `u = ℓ_w − ℓ_l`, `ℓ = Σ_t log π` in nats, by `form`:
///
/// | `form` | loss of a pair |
/// |---|---|
/// | `sigmoid` | `−(1−ε)·log σ(β·u) − ε·log σ(−β·u)` |
/// | `hinge` | `max(0, 1 − β·u)` |
/// | `ipo` | `(u − 1/(2β))²` |
///
/// The mean over pairs, plus `λ` times the negative log-likelihood of the chosen completions, a mean over their tokens
/// in the whole step. With `alpha`, `u` is a difference of `(1 − e^{−α·ℓ})/α`, as in [`AlphaPo`](crate::AlphaPo).
///
/// # Gradient
/// Of the sigmoid form with `ε = 0`: `−β·σ(−β·u)` for `log π(y_w)` and the opposite for `log π(y_l)`; the NLL adds
/// `−λ/N` to every token of the chosen completions, `N` of them in the step. The hinge has none beyond its edge, the
/// `ipo` form's is linear in the residual.
///
/// # When to use
/// Pairs with two good completions, as in translation, where the chosen one is worth imitating. Without a reference the
/// NLL is what holds the policy: keep `λ` above 0.
///
/// # Source
/// Xu et al. 2024, arXiv 2401.08417; as TRL's function. Confidence A✓.
///
/// # Deviations
/// From the paper and TRL: the NLL is divided by the tokens of the step and not of a micro-batch. From TRL: its `ipo`
/// form takes means over tokens, here `reduction = "mean"` does; `label_smoothing` with a form that has none is an
/// error here and ignored there; the exponential of `alpha` is continued by its tangent above an exponent of 31.
///
/// # Checked by
/// TRL: `cpo` (`sigmoid`, `hinge`, `ipo`, each with and without `alpha`).
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Cpo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64, -2.0], [-2.0, -3.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, None);
/// let cpo = Cpo { beta: 0.5, nll_weight: 2.0, ..Cpo::default() };
/// let loss = cpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // u = −3 + 5 = 2: log(1 + e⁻¹), and twice the mean NLL of 1.5.
/// assert!((loss.to_scalar::<f64>()? - 3.313_261_687_518_222_8).abs() < 1e-14);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpo {
    /// Scale of the log-probabilities; positive. Default 0.1.
    pub beta: f64,
    /// The loss on their difference. Default [`CpoForm::Sigmoid`].
    pub form: CpoForm,
    /// `ε`, the share of flipped labels, in `[0, 0.5)`; 0 unless the form is the sigmoid. Default 0.
    pub label_smoothing: f64,
    /// `λ`, weight of the negative log-likelihood of the chosen completions; at least 0. Default 1.
    #[serde(alias = "cpo_alpha")]
    pub nll_weight: f64,
    /// `α`, the shape of what is compared; any finite number. Default 0, log-probabilities.
    pub alpha: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

/// The loss that [`Cpo`] takes on the difference of the log-probabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoForm {
    /// Logistic, with label smoothing.
    #[default]
    Sigmoid,
    /// `max(0, 1 − β·u)`.
    Hinge,
    /// `(u − 1/(2β))²`.
    Ipo,
}

impl Default for Cpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            form: CpoForm::Sigmoid,
            label_smoothing: 0.0,
            nll_weight: 1.0,
            alpha: 0.0,
            reduction: Reduction::Sum,
        }
    }
}

impl Named for Cpo {
    const NAME: &'static str = "cpo";
    const ALIASES: &'static [&'static str] = &["contrastive_po"];
    const SUMMARY: &'static str =
        "contrastive preference optimisation: DPO without a reference, and imitation of the chosen side";
}

impl Loss for Cpo {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> Result<LossTerms> {
        let compared = shaped(input.log_probs(self.reduction)?, self.alpha)?;
        let losses = self.losses(&compared.margins()?)?;
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(rewards(&compared, self.beta)?);
        if self.nll_weight > 0.0 { with_nll(terms, input, self.nll_weight) } else { Ok(terms) }
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_label_smoothing::<Self>(self.label_smoothing)?;
        let is_used = self.form == CpoForm::Sigmoid || self.label_smoothing <= 0.0;
        let expected = "0, since only form = \"sigmoid\" has label smoothing";
        in_range::<Self>("label_smoothing", self.label_smoothing, is_used, expected)?;
        check_not_negative::<Self>("nll_weight", self.nll_weight)?;
        in_range::<Self>("alpha", self.alpha, self.alpha.is_finite(), "a finite number")?;
        check_reduction::<Self>(self.reduction)
    }
}

impl Cpo {
    fn losses(&self, differences: &Tensor) -> Result<Tensor> {
        match self.form {
            CpoForm::Sigmoid => smoothed_logistic(&(differences * self.beta)?, self.label_smoothing),
            CpoForm::Hinge => positive_part(&differences.affine(-self.beta, 1.0)?),
            CpoForm::Ipo => Ok((differences - 1.0 / (2.0 * self.beta))?.sqr()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::pairs;
    use super::*;
    use crate::Objective;

    #[test]
    fn smoothing_that_a_form_does_not_have_is_refused() {
        let cpo = Cpo { form: CpoForm::Hinge, label_smoothing: 0.1, ..Cpo::default() };
        let error = Loss::validate(&cpo).unwrap_err().to_string();
        assert!(error.starts_with("cpo.label_smoothing: got 0.1, expected 0, since only form"), "{error}");
    }

    #[test]
    fn the_likelihood_is_a_mean_over_tokens() {
        let (_, scores) = pairs();
        let loss = |nll_weight| {
            let cpo = Cpo { nll_weight, ..Cpo::default() };
            let loss = cpo.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
            loss.to_scalar::<f64>().unwrap()
        };
        // 4.6 + 2.75 + 5.75 + 5.4 nats over 5 + 3 + 6 + 4 tokens.
        assert!((loss(2.0) - loss(0.0) - 2.0 * 18.5 / 18.0).abs() < 1e-12);
    }

    #[test]
    fn without_a_weight_nothing_is_imitated() {
        let (_, scores) = pairs();
        let terms = |nll_weight| {
            let terms = Cpo { nll_weight, ..Cpo::default() }.evaluate(&scores, &Context::default()).unwrap();
            (terms.terms.len(), terms.metrics.len())
        };
        assert_eq!((terms(0.0), terms(1.0)), ((1, 0), (2, 1)));
    }
}
