//! When and how a reference follows the policy.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What becomes of the reference after optimizer steps.
///
/// The rule is `ref ← α·policy + (1 − α)·ref` on every parameter, after every `every`-th step;
/// nothing flows back through it. Log-probabilities computed before are void afterwards.
///
/// Source: Gorbatovski et al. 2024, arXiv 2404.09656, eq. 4 and 5; the rule is confidence A
/// (TRL's callback and the authors' library), the recommended ranges C.
///
/// ```
/// use candlewick_losses::ReferenceUpdate;
/// let soft = ReferenceUpdate::Soft { alpha: 0.6, every: 2 };
/// assert_eq!((soft.weight_after(1), soft.weight_after(2)), (None, Some(0.6)));
/// let mut reference = [0.0, 1.0, 0.25];
/// ReferenceUpdate::mix(0.6, &[1.0, -2.0, 0.5], &mut reference)?;
/// assert_eq!(reference, [0.6, 0.6 * -2.0 + 0.4, 0.6 * 0.5 + 0.4 * 0.25]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReferenceUpdate {
    /// It never changes.
    #[default]
    Frozen,
    /// It moves towards the policy.
    Soft {
        /// Weight of the policy, in (0, 1]; below 1 where `every` is 1.
        alpha: f64,
        /// Optimizer steps between updates, at least 1.
        every: u64,
    },
    /// It becomes a copy of the policy.
    Hard {
        /// Optimizer steps between updates, at least 2: a reference that becomes the policy after every step ties it to
        /// nothing.
        every: u64,
    },
}

impl ReferenceUpdate {
    /// The policy's weight in the update after `step` (counted from 1), if there is one.
    pub fn weight_after(self, step: u64) -> Option<f64> {
        let due = |every: u64| every > 0 && step > 0 && step.is_multiple_of(every);
        match self {
            Self::Frozen => None,
            Self::Soft { alpha, every } => due(every).then_some(alpha),
            Self::Hard { every } => due(every).then_some(1.0),
        }
    }

    /// `reference ← alpha·policy + (1 − alpha)·reference`, element by element; at `alpha` = 1 a copy, whatever the
    /// reference held.
    ///
    /// # Errors
    /// If they differ in length; the reference is as it was.
    pub fn mix(alpha: f64, policy: &[f64], reference: &mut [f64]) -> Result<()> {
        if policy.len() != reference.len() {
            let expected = format!("[{}], as many parameters as the policy has", policy.len());
            return Err(Error::Shape { what: "reference", got: vec![reference.len()], expected });
        }
        if is_copy(alpha) {
            reference.copy_from_slice(policy);
            return Ok(());
        }
        for (ours, theirs) in reference.iter_mut().zip(policy) {
            *ours = alpha * theirs + (1.0 - alpha) * *ours;
        }
        Ok(())
    }

    /// Why it cannot be carried out, if it cannot: the parameter, its value and its range.
    pub(crate) fn fault(self) -> Option<(&'static str, f64, &'static str)> {
        let every = match self {
            Self::Frozen => return None,
            Self::Soft { every, .. } | Self::Hard { every } => every,
        };
        match self {
            _ if every == 0 => Some(("update.every", 0.0, "at least 1 step")),
            Self::Soft { alpha, .. } if !(alpha > 0.0 && alpha <= 1.0) => {
                Some(("update.alpha", alpha, "a weight in (0, 1]"))
            }
            Self::Soft { alpha, .. } if every == 1 && is_copy(alpha) => Some(("update.every", 1.0, LAGGING)),
            Self::Hard { .. } if every == 1 => Some(("update.every", 1.0, LAGGING)),
            _ => None,
        }
    }
}

/// Whether the policy's weight leaves nothing of the reference.
fn is_copy(alpha: f64) -> bool {
    (alpha - 1.0).abs() <= 0.0
}

/// How often the policy may be copied.
const LAGGING: &str = "at least 2 steps between copies of the policy: a reference that equals the policy at every step \
                       ties it to nothing";

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use std::path::Path;

    use candlewick_testkit::{FormulaVectors, worst};

    use super::*;

    #[test]
    fn a_soft_update_agrees_with_the_formulas() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
        let expected = FormulaVectors::load(&path).unwrap().list("tr-dpo soft alpha=0.6", "ref").unwrap();
        let mut reference = [0.0, 1.0, 0.25];
        ReferenceUpdate::mix(0.6, &[1.0, -2.0, 0.5], &mut reference).unwrap();
        assert!(worst(&reference, &expected) < 1e-15, "{reference:?} {expected:?}");
    }

    #[test]
    fn updates_come_every_so_many_steps() {
        let weights = |update: ReferenceUpdate| (1..=6).map(|step| update.weight_after(step)).collect::<Vec<_>>();
        let (none, half) = (None, Some(0.5));
        assert_eq!(weights(ReferenceUpdate::Frozen), [None; 6]);
        assert_eq!(weights(ReferenceUpdate::Soft { alpha: 0.5, every: 3 }), [none, none, half, none, none, half]);
        assert_eq!(weights(ReferenceUpdate::Hard { every: 1 }), [Some(1.0); 6]);
        assert_eq!(ReferenceUpdate::Hard { every: 1 }.weight_after(0), None);
    }
    #[test]
    fn a_copy_holds_nothing_of_what_was_there() {
        let mut reference = [f64::NAN, f64::INFINITY];
        ReferenceUpdate::mix(1.0, &[1.0, -2.0], &mut reference).unwrap();
        assert_eq!(reference, [1.0, -2.0]);
    }

    #[test]
    fn other_parameters_than_those_of_the_policy_are_refused() {
        let mut reference = [0.0, 1.0];
        let error = ReferenceUpdate::mix(0.5, &[1.0], &mut reference).unwrap_err().to_string();
        assert_eq!(error, "reference: got shape [2], expected [1], as many parameters as the policy has");
        assert!(ReferenceUpdate::mix(1.0, &[1.0; 3], &mut reference).is_err());
        assert_eq!(reference, [0.0, 1.0]);
    }

    #[test]
    fn a_reference_that_equals_the_policy_at_every_step_is_refused() {
        for update in [ReferenceUpdate::Hard { every: 1 }, ReferenceUpdate::Soft { alpha: 1.0, every: 1 }] {
            let (parameter, got, expected) = update.fault().unwrap();
            assert_eq!((parameter, got), ("update.every", 1.0));
            assert!(expected.starts_with("at least 2 steps"), "{expected}");
        }
        for update in [
            ReferenceUpdate::Hard { every: 2 },
            ReferenceUpdate::Soft { alpha: 1.0, every: 2 },
            ReferenceUpdate::Soft { alpha: 0.999, every: 1 },
        ] {
            assert_eq!(update.fault(), None, "{update:?}");
        }
    }
}
