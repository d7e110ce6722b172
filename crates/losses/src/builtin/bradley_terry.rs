//! `−log σ(r_w − r_l)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Named, Preset, check_not_negative};
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::terms::{LossTerms, Rewards, Term};
use crate::valued::ValuedPair;
use crate::view::Sides;

/// The model of Bradley and Terry: a reward model whose difference of rewards is the log-odds of the preference.
///
/// # Formula
/// `−log σ(r_w − r_l) + η·(r_w + r_l)² + μ·(r_w² + r_l²)/2`, the mean over pairs; `r` is what one head of a score model says
/// of a completion at its last token.
///
/// # Gradient
/// Of the first term `−σ(r_l − r_w)` for `r_w` and the opposite for `r_l`: only the difference is learned. The others pull
/// the rewards to zero, `η` their sum and `μ` each of them.
///
/// # When to use
/// A reward model from pairs. `centring` (0.01) where rewards of different prompts or models are compared, since the first
/// term leaves a constant of every prompt free.
///
/// # Source
/// Bradley and Terry 1952; as a loss of language models Stiennon et al. 2020, arXiv 2009.01325; `η` Eisenstein et al. 2023,
/// arXiv 2312.09244; `μ` the Safe-RLHF code. Confidence A.
///
/// # Deviations
/// TRL's reward trainer takes the mean over the micro-batch; here it runs over the whole optimizer step.
///
/// # Checked by
/// Formulas: `bt reward`, `bt + squared-score regulariser 1e-3`, `bt + centring 0.01`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{BradleyTerry, Context, Objective, Scores, TokenScores};
/// let values = Tensor::new(&[[1.5f64], [0.5]], &Device::Cpu)?;
/// let scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// let loss = BradleyTerry::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15); // log(1 + e⁻¹)
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BradleyTerry {
    /// `η`, the weight of the squared sum of both rewards, at least 0. Default 0.
    #[serde(alias = "center_rewards_coefficient")]
    pub centring: f64,
    /// `μ`, the weight of the mean of the squared rewards, at least 0. Default 0.
    pub l2: f64,
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

impl Named for BradleyTerry {
    const NAME: &'static str = "bradley_terry";
    const ALIASES: &'static [&'static str] = &["reward", "reward_model"];
    const SUMMARY: &'static str = "a reward model of pairs: −log σ(r_w − r_l)";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "safe_rlhf_reward",
        aliases: &[],
        summary: "the reward model of Safe RLHF: `bradley_terry` with `l2` 0.001",
        settings: r#"{ "l2": 0.001 }"#,
    }];
}

impl Loss for BradleyTerry {
    type Input = ValuedPair;

    fn terms(&self, input: &ValuedPair, _: &Context) -> Result<LossTerms> {
        let rewards = input.of_head(self.head)?;
        let mut losses = log_sigmoid(&rewards.margins()?)?.neg()?;
        if self.centring > 0.0 {
            losses = (losses + ((&rewards.chosen + &rewards.rejected)?.sqr()? * self.centring)?)?;
        }
        losses = with_l2(losses, &rewards, self.l2)?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(of_sides(&rewards)))
    }

    fn validate(&self) -> Result<()> {
        check_not_negative::<Self>("centring", self.centring)?;
        check_not_negative::<Self>("l2", self.l2)
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(std::f64::consts::LN_2)
    }
}

/// Adds `μ·(a² + b²)/2` of both sides to the losses, `[B]`.
pub(super) fn with_l2(losses: Tensor, values: &Sides, weight: f64) -> Result<Tensor> {
    if weight <= 0.0 {
        return Ok(losses);
    }
    Ok((losses + ((values.chosen.sqr()? + values.rejected.sqr()?)? * (0.5 * weight))?)?)
}

/// What a score model says of both sides, as rewards.
pub(super) fn of_sides(values: &Sides) -> Rewards {
    Rewards::Pair { chosen: values.chosen.detach(), rejected: values.rejected.detach() }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_values;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_values("bt reward", BradleyTerry::default(), &[]);
        let l2 = BradleyTerry { l2: 1e-3, ..BradleyTerry::default() };
        check_values("bt + squared-score regulariser 1e-3", l2, &[]);
        let centred = BradleyTerry { centring: 0.01, ..BradleyTerry::default() };
        check_values("bt + centring 0.01", centred, &[]);
    }
}
