//! A reference that follows the policy, under any loss that has one.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::loss::{Context, Objective, Phase, StepScores, forward_state};
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::Needs;

/// A trust region: any loss with a reference, and the reference follows the policy.
///
/// # Formula
/// That of the inner loss. The reference moves at optimizer steps as `update` says ([`ReferenceUpdate`]): softly, by
/// copies, as an average, or one step behind.
///
/// # Gradient
/// That of the inner loss; none flows through the update.
///
/// # When to use
/// For a loss that has no name of its own with a reference that moves: `tr_dpo`, `tr_ipo`, `tr_kto` and `tr_bco` are
/// this around `dpo`, `ipo`, `kto` and `bco`, with defaults of their own. Around `humanline` with `update = "lagged"`
/// it is the training of that paper.
///
/// The reference is a second copy of what is trained, all weights or an adapter, and part of every checkpoint. Of an adapter `A` and `B`
/// are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products; after a copy it is the policy's.
///
/// # Source
/// Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 and 5, for `dpo`, `ipo` and `kto`. Confidence A for the update; under
/// other losses it is this library's generalisation.
///
/// # Deviations
/// From the paper: any loss with a reference can be inside. TRL moves the reference of its DPO trainer alone.
///
/// # Checked by
/// Properties only, because the loss is the inner one's; the update: formulas: `tr-dpo soft alpha=0.6`.
///
/// # Example
/// ```
/// use candlewick_losses::{Objective, Recipe, ReferenceUpdate};
/// let nca: Recipe = serde_json::from_str(
///     r#"{ "type": "trust_region", "update": { "hard": { "every": 64 } }, "loss": { "type": "nca" } }"#,
/// )?;
/// nca.validate()?;
/// assert_eq!(nca.reference_update(), ReferenceUpdate::Hard { every: 64 });
/// let orpo: Recipe = serde_json::from_str(r#"{ "type": "trust_region", "loss": { "type": "orpo" } }"#)?;
/// assert!(orpo.validate().unwrap_err().to_string().starts_with("trust_region cannot wrap Orpo: it has no reference"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRegion<O = Box<Recipe>> {
    /// How the reference follows. Default [`ReferenceUpdate::soft`].
    #[serde(default = "ReferenceUpdate::soft")]
    pub update: ReferenceUpdate,
    /// The loss whose reference moves.
    pub loss: O,
}

impl<O> TrustRegion<O> {
    /// A loss with the published soft update.
    pub fn new(loss: O) -> Self {
        Self { update: ReferenceUpdate::soft(), loss }
    }
}

impl<O: Objective> Objective for TrustRegion<O> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        self.loss.needs()
    }

    fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        let refuse =
            |reason: &str| Err(Error::Wrapped { outer: NAME, inner: self.loss.name(), reason: reason.to_owned() });
        if !self.loss.needs().reference {
            return refuse("it has no reference that could follow; use it as it is, or choose a loss with one");
        }
        if self.loss.reference_update() != ReferenceUpdate::Frozen {
            return refuse("it says itself how its reference moves; set `update` there, or set that to \"frozen\"");
        }
        match self.update.fault() {
            None => Ok(()),
            Some((parameter, got, expected)) => {
                Err(Error::Parameter { loss: NAME.to_owned(), parameter, got, expected })
            }
        }
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        self.loss.prepare(step, phase)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        self.loss.evaluate(scores, context)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        self.update
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        self.loss.loss_at_zero_margin()
    }

    forward_state!(loss);
}

const NAME: &str = "trust_region";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bco, Dpo, Humanline, Mix, Part, Sft, TrDpo};

    #[test]
    fn losses_whose_reference_cannot_follow_are_refused_by_name() {
        let refused = |loss: Box<dyn Objective>| TrustRegion::new(loss).validate().unwrap_err().to_string();
        assert!(refused(Box::new(Sft {})).starts_with("trust_region cannot wrap Sft: it has no reference"));
        assert!(refused(Box::<TrDpo>::default()).starts_with("trust_region cannot wrap TrDpo: it says itself how"));
        TrustRegion::new(TrDpo { update: ReferenceUpdate::Frozen, ..TrDpo::default() }).validate().unwrap();
        let update = ReferenceUpdate::Ema { mu: 0.0 };
        let error = TrustRegion { update, loss: Dpo::default() }.validate().unwrap_err().to_string();
        assert!(error.starts_with("trust_region.update.mu: got 0"), "{error}");
        // The inner loss's own errors stay its own.
        let error = TrustRegion::new(Dpo { beta: 0.0, ..Dpo::default() }).validate().unwrap_err().to_string();
        assert!(error.starts_with("dpo.beta: got 0"), "{error}");
    }

    #[test]
    fn it_goes_around_and_into_other_objectives() {
        let part = |loss: Box<dyn Objective>| Part { weight: 1.0, loss };
        let mix = Mix { parts: vec![part(Box::<Dpo>::default()), part(Box::new(Sft {}))] };
        let around = TrustRegion { update: ReferenceUpdate::hard(), loss: mix };
        around.validate().unwrap();
        assert_eq!(around.reference_update(), ReferenceUpdate::hard());
        let lagged = TrustRegion { update: ReferenceUpdate::lagged(), loss: Humanline::new(Dpo::default()) };
        lagged.validate().unwrap();
        let inside = Humanline::new(TrustRegion::new(Bco::default()));
        inside.validate().unwrap();
        assert_eq!(inside.reference_update(), ReferenceUpdate::soft());
        assert!(inside.state().is_some());
    }
}
