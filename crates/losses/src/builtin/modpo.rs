//! `−log σ((β·z − m)/w₀)`

use serde::{Deserialize, Serialize};

use super::{Named, check_beta, check_reduction, in_range};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Margin, With};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// Multi-objective DPO: the preferences of one objective, with the rewards of the others as a margin.
///
/// # Formula
/// `−log σ((β·z − m)/w₀)` with `z = Δ_w − Δ_l` in nats and `m` the pair's `margin`: `Σ_k w_k·(r_k(y_w) − r_k(y_l))`
/// over the other objectives, each with its weight. The mean over pairs. `w₀` is the weight of the objective whose
/// preferences the pairs show; the weights add up to 1.
///
/// # Gradient
/// `−(β/w₀)·σ((m − β·z)/w₀)` for `log π(y_w)` and the opposite for `log π(y_l)`. It grows without bound as `w₀ → 0`.
///
/// # When to use
/// A trade-off between objectives that is known in advance: preferences for one (say, helpfulness), reward models for
/// the others (say, harmlessness). One run gives one point of the front; the margins are computed once for every choice
/// of weights. With pairs of safety it is [`Sacpo`](crate::Sacpo) without a second reference: for a multiplier `λ`, `weight` is
/// `λ/(1 + λ)`, `beta` is `β/(1 + λ)` and `margin` `1/(1 + λ)` times the gap of rewards, which may be implicit ones of a
/// helpful model.
///
/// # Source
/// Zhou et al. 2023, arXiv 2310.03708. As the authors' function. Confidence A✓.
///
/// # Deviations
/// The weights of the other objectives stand in the data's `margin` and not here. With `w₀ = 1` the margin is still
/// subtracted: give zeros. The authors' hinge form is not there. TRL has no such loss.
///
/// # Checked by
/// Formulas: `modpo w0=0.5`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Modpo, Objective, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("margin".to_owned(), vec![0.75]);
/// let modpo = Modpo { beta: 0.5, weight: 0.25, ..Modpo::default() };
/// let loss = modpo.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // (½·2 − ¾)/¼ = 1: log(1 + e⁻¹).
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modpo {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `w₀`, the weight of the objective whose preferences the pairs show, in (0, 1]. Default 0.5.
    pub weight: f64,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Default for Modpo {
    fn default() -> Self {
        Self { beta: 0.1, weight: 0.5, reduction: Reduction::Sum }
    }
}

impl Named for Modpo {
    const NAME: &'static str = "modpo";
    const ALIASES: &'static [&'static str] = &["multi_objective_dpo"];
    const SUMMARY: &'static str =
        "multi-objective DPO, the other objectives' rewards as `margin`: −log σ((β·z − m)/w₀)";
}

impl Loss for Modpo {
    type Input = With<AnchoredPair, Margin>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let margins = (input.log_ratios(self.reduction)?.margins()? * self.beta)?;
        let margins = ((margins - input.number())? / self.weight)?;
        let losses = log_sigmoid(&margins)?.neg()?;
        LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&margins)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        let is_share = self.weight > 0.0 && self.weight <= 1.0;
        in_range::<Self>("weight", self.weight, is_share, "a weight in (0, 1]")?;
        check_reduction::<Self>(self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{check_pairs_with, pairs, vectors};
    use super::*;
    use crate::Objective;

    #[test]
    fn agrees_with_the_formulas() {
        let gaps = vectors().input("margins").unwrap();
        // One other objective, of weight 1 − w₀.
        let margins = gaps.iter().map(|gap| 0.5 * gap).collect();
        check_pairs_with("modpo w0=0.5", Modpo::default(), &[("margin", margins)]);
        check_pairs_with("dpo with external margin", Modpo { weight: 1.0, ..Modpo::default() }, &[("margin", gaps)]);
    }
    #[test]
    fn the_margins_that_are_compared_are_reported() {
        let (_, mut scores) = pairs();
        scores.groups.numbers.insert("margin".to_owned(), vec![0.5, -1.0, 0.0, 2.0]);
        let terms = Modpo::default().evaluate(&scores, &Context::default()).unwrap();
        let reported = &terms.metrics[0];
        assert_eq!(reported.name, "margins/optimised");
        let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        for (margin, loss) in reported.values.to_vec1::<f64>().unwrap().into_iter().zip(losses) {
            assert!(((-margin).exp().ln_1p() - loss).abs() < 1e-12, "{margin}: {loss}");
        }
    }
}
