//! `−m·log σ(r_w − r_l)`

use serde::{Deserialize, Serialize};

use super::Named;
use super::bradley_terry::of_sides;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Strength, With};
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedPair;

/// A reward model in which pairs count by how strongly one side was preferred.
///
/// # Formula
/// `−m·log σ(r_w − r_l)` with the pair's `strength` as `m`, summed and divided by the number of pairs; `r` is what one head of a
/// score model says of a completion at its last token.
///
/// # Gradient
/// `−m·σ(r_l − r_w)` for `r_w` and the opposite for `r_l`: as if a pair were there `m` times.
///
/// # When to use
/// Preferences with a strength (HelpSteer2's 1 to 3). The authors found it better than a margin, and best after a
/// regression on scores of the same trunk ([`ScoreRegression`](crate::ScoreRegression)).
///
/// # Source
/// Wang et al. 2024 (HelpSteer2-Preference), arXiv 2410.01257. Confidence B.
///
/// # Deviations
/// None known from the paper. TRL has no such loss.
///
/// # Checked by
/// Formulas: `bt scaled`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{BradleyTerryScaled, Context, Objective, Scores, TokenScores};
/// let values = Tensor::new(&[[1.0f64], [0.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// scores.groups.numbers.insert("strength".to_owned(), vec![2.0]);
/// let loss = BradleyTerryScaled::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!((loss.to_scalar::<f64>()? - 2.0 * 0.313_261_687_518_222_8).abs() < 1e-15); // 2·log(1 + e⁻¹)
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BradleyTerryScaled {
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

impl Named for BradleyTerryScaled {
    const NAME: &'static str = "bradley_terry_scaled";
    const ALIASES: &'static [&'static str] = &["reward_scaled"];
    const SUMMARY: &'static str = "a reward model of pairs that count by their `strength`: −m·log σ(r_w − r_l)";
}

impl Loss for BradleyTerryScaled {
    type Input = With<ValuedPair, Strength>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let rewards = input.of_head(self.head)?;
        let losses = log_sigmoid(&rewards.margins()?)?.mul(input.number())?.neg()?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, losses)]).with_rewards(of_sides(&rewards)))
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::check_values;
    use super::*;

    #[test]
    fn agrees_with_the_formulas() {
        check_values("bt scaled", BradleyTerryScaled::default(), &[("strength", vec![1.0, 2.0, 3.0, 1.0])]);
    }
}
