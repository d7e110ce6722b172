//! `−log σ(r_w − r_l − m)`

use serde::{Deserialize, Serialize};

use super::Named;
use super::bradley_terry::of_sides;
use crate::error::Result;
use crate::loss::{Context, Loss};
use crate::math::log_sigmoid;
use crate::numbers::{Margin, With};
use crate::terms::{LossTerms, Term};
use crate::valued::ValuedPair;

/// A reward model whose pairs must differ by how strongly one side was preferred.
///
/// # Formula
/// `−log σ(r_w − r_l − m)` with the pair's `margin` as `m`, the mean over pairs; `r` is what one head of a score model says of
/// a completion at its last token.
///
/// # Gradient
/// `−σ(m − (r_w − r_l))` for `r_w` and the opposite for `r_l`. The margin moves the optimum; see
/// [`BradleyTerryScaled`](crate::BradleyTerryScaled) for one that leaves it.
///
/// # When to use
/// Preferences with a strength (HelpSteer2's 1 to 3).
///
/// # Source
/// Touvron et al. 2023 (Llama 2), arXiv 2307.09288, eq. 2; compared in Wang et al. 2024 (HelpSteer2-Preference), arXiv
/// 2410.01257. Confidence B.
///
/// # Deviations
/// TRL's reward trainer takes the margin from a column of the same name, as here, and the mean over the micro-batch.
///
/// # Checked by
/// Formulas: `bt margin`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{BradleyTerryMargin, Context, Objective, Scores, TokenScores};
/// let values = Tensor::new(&[[3.0f64], [0.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_pairs(TokenScores::of_values(values)?, None);
/// scores.groups.numbers.insert("margin".to_owned(), vec![2.0]);
/// let loss = BradleyTerryMargin::default().evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert!((loss.to_scalar::<f64>()? - 0.313_261_687_518_222_8).abs() < 1e-15); // log(1 + e⁻¹)
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BradleyTerryMargin {
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

impl Named for BradleyTerryMargin {
    const NAME: &'static str = "bradley_terry_margin";
    const ALIASES: &'static [&'static str] = &["reward_margin"];
    const SUMMARY: &'static str = "a reward model of pairs with a `margin`: −log σ(r_w − r_l − m)";
}

impl Loss for BradleyTerryMargin {
    type Input = With<ValuedPair, Margin>;

    fn terms(&self, input: &Self::Input, _: &Context) -> Result<LossTerms> {
        let rewards = input.of_head(self.head)?;
        let losses = log_sigmoid(&(rewards.margins()? - input.number())?)?.neg()?;
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
        check_values("bt margin", BradleyTerryMargin::default(), &[("margin", vec![1.0, 2.0, 3.0, 1.0])]);
    }
}
