//! When and how a reference follows the policy.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// What becomes of the reference at optimizer steps. Nothing flows back through it, and log-probabilities computed before a change are
/// void afterwards.
///
/// | variant | `θ_ref` after step `t` | source |
/// |---|---|---|
/// | `Frozen` | as it was | |
/// | `Soft` | `α·θ_t + (1 − α)·θ_ref`, every so many steps | TR-DPO, eq. 4 |
/// | `Hard` | `θ_t`, every so many steps | TR-DPO, eq. 5 |
/// | `Ema` | `μ·θ_t + (1 − μ)·θ_ref`, every step | WARP's anchor |
/// | `Bema` | `EMA_t + α_t·(θ_t − θ_0)`, every so many steps | BEMA |
/// | `Lagged` | `θ_{t−1}`, every so many steps | humanline |
///
/// Configuration gives a variant with all its keys, `{ soft = { alpha = 0.6, every = 8 } }`, or a word. The words stand for published
/// settings, which are not mixed: what is given with keys has no defaults of the others.
///
/// | word | is | source | confidence |
/// |---|---|---|---|
/// | `"frozen"` | [`Frozen`](Self::Frozen) | | |
/// | `"soft"` | [`soft`](Self::soft): `α = 0.6` after every step | Gorbatovski et al. 2024, arXiv 2404.09656 | rule A, numbers C |
/// | `"hard"` | [`hard`](Self::hard): a copy every 512 steps | the same | rule A, number C |
/// | `"ema"` | [`ema`](Self::ema): `μ = 0.01` | Ramé et al. 2024, arXiv 2406.16768 | B; one passage of the paper has 0.1 |
/// | `"bema"` | [`Bema::default`] | Block and Zhang 2025, arXiv 2508.00180, as in TRL | A for the rule of TRL's callback |
/// | `"lagged"` | [`lagged`](Self::lagged): one step behind | arXiv 2509.24207, as in HALOs | A |
///
/// ```
/// use candlewick_losses::ReferenceUpdate;
/// let soft = ReferenceUpdate::Soft { alpha: 0.6, every: 2 };
/// assert_eq!((soft.weight_after(1), soft.weight_after(2)), (None, Some(0.6)));
/// let mut reference = [0.0, 1.0, 0.25];
/// ReferenceUpdate::mix(0.6, &[1.0, -2.0, 0.5], &mut reference)?;
/// assert_eq!(reference, [0.6, 0.6 * -2.0 + 0.4, 0.6 * 0.5 + 0.4 * 0.25]);
/// assert_eq!(serde_json::from_str::<ReferenceUpdate>(r#""hard""#)?, ReferenceUpdate::Hard { every: 512 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceUpdate {
    /// It never changes.
    #[default]
    Frozen,
    /// It moves towards the policy.
    Soft {
        /// Weight of the policy, in (0, 1]; below 1 where `every` is 1. Where it is much below 0.1, `Ema` follows more faithfully: there
        /// what f32 cannot hold of a small addend is kept.
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
    /// It is the exponential moving average of the policy, from its own beginning, summed up in f64.
    Ema {
        /// Weight of the policy after every step, in (0, 1).
        mu: f64,
    },
    /// It is an average of the policy whose lag behind it is corrected.
    Bema(Bema),
    /// It becomes what the policy was before the step: the weights that the step's gradient was taken at.
    Lagged {
        /// Optimizer steps between copies, at least 1.
        every: u64,
    },
}

/// The bias-corrected exponential moving average of the policy.
///
/// With `θ_0` the policy after step `update_after` (its start, if that is 0) and `EMA = θ_0`, after every `every`-th step from there
///
/// `EMA ← (1 − β_t)·EMA + β_t·θ_t`, `β_t = max((lag + multiplier·t)^−ema_power, min_ema_multiplier)`;
/// `θ_ref ← EMA + α_t·(θ_t − θ_0)`, `α_t = (lag + multiplier·t)^−bias_power`.
///
/// Until its first update the reference stays where it began. `EMA` is summed up in f64.
///
/// Source: Block and Zhang 2025, arXiv 2508.00180; names and defaults are those of TRL's `BEMACallback`. That callback can copy the
/// average into the reference at other steps than it is updated (`ref_model_update_freq`): here both happen together. That it makes a
/// good reference is nobody's measurement.
///
/// ```
/// use candlewick_losses::Bema;
/// let bema = Bema { every: 2, ..Bema::default() };
/// assert_eq!((bema.is_due(1), bema.is_due(2)), (false, true));
/// assert_eq!(bema.ema_weight(6), 0.25); // 16^−½
/// assert!((bema.bias_weight(22) - 0.5).abs() < 1e-15); // 32^−⅕
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bema {
    /// Optimizer steps between updates, at least 1. Default 400.
    pub every: u64,
    /// The step whose policy is `θ_0`. Default 0.
    pub update_after: u64,
    /// How fast the average slows down, at least 0. At 0 it is the policy. Default 0.5.
    pub ema_power: f64,
    /// How fast the correction fades, at least 0. Default 0.2.
    pub bias_power: f64,
    /// Steps that the average is older than the run, at least 0. Default 10.
    pub lag: f64,
    /// Steps that a step counts for, positive. Default 1.
    pub multiplier: f64,
    /// The least weight of the policy in the average, in [0, 1]. Default 0.
    pub min_ema_multiplier: f64,
}

impl Default for Bema {
    fn default() -> Self {
        Self {
            every: 400,
            update_after: 0,
            ema_power: 0.5,
            bias_power: 0.2,
            lag: 10.0,
            multiplier: 1.0,
            min_ema_multiplier: 0.0,
        }
    }
}

impl Bema {
    /// Whether there is an update after `step`, counted from 1.
    pub fn is_due(&self, step: u64) -> bool {
        step > self.update_after && self.every > 0 && (step - self.update_after).is_multiple_of(self.every)
    }

    /// `β_t`, the policy's weight in the average.
    pub fn ema_weight(&self, step: u64) -> f64 {
        self.age(step).powf(-self.ema_power).max(self.min_ema_multiplier)
    }

    /// `α_t`, the weight of the way from `θ_0`.
    pub fn bias_weight(&self, step: u64) -> f64 {
        self.age(step).powf(-self.bias_power)
    }

    fn age(&self, step: u64) -> f64 {
        self.lag + self.multiplier * step as f64
    }

    fn fault(&self) -> Option<(&'static str, f64, &'static str)> {
        let not_negative = |number: f64| number.is_finite() && number >= 0.0;
        let numbers = [
            ("update.ema_power", self.ema_power, not_negative(self.ema_power), "a finite number of at least 0"),
            ("update.bias_power", self.bias_power, not_negative(self.bias_power), "a finite number of at least 0"),
            ("update.lag", self.lag, not_negative(self.lag), "a finite number of at least 0"),
            (
                "update.multiplier",
                self.multiplier,
                self.multiplier.is_finite() && self.multiplier > 0.0,
                "a finite number above 0",
            ),
            (
                "update.min_ema_multiplier",
                self.min_ema_multiplier,
                (0.0..=1.0).contains(&self.min_ema_multiplier),
                "a weight in [0, 1]",
            ),
            (
                "update.lag",
                self.lag,
                self.age(self.update_after.saturating_add(self.every)) >= 1.0,
                "so much that lag + multiplier·t is at least 1 at the first update: a mean's weight is at most 1",
            ),
        ];
        numbers
            .into_iter()
            .find(|(_, _, is_in, _)| !is_in)
            .map(|(parameter, got, _, expected)| (parameter, got, expected))
    }
}

impl ReferenceUpdate {
    /// The paper's soft update: `α = 0.6` after every step. Source: arXiv 2404.09656; confidence A for the rule, C for the numbers
    /// (`α` 0.5 to 0.7 and updates as often as every step are said to do best).
    pub const fn soft() -> Self {
        Self::Soft { alpha: 0.6, every: 1 }
    }

    /// The paper's hard update: a copy every 512 steps. Source: arXiv 2404.09656; confidence A for the rule, C for the number (results
    /// are said to rise from 32 to 512).
    pub const fn hard() -> Self {
        Self::Hard { every: 512 }
    }

    /// WARP's anchor: `μ = 0.01`. Source: arXiv 2406.16768; confidence B.
    pub const fn ema() -> Self {
        Self::Ema { mu: 0.01 }
    }

    /// Humanline's synchronisation: always one step behind. Source: arXiv 2509.24207 and the authors' library HALOs; confidence A.
    pub const fn lagged() -> Self {
        Self::Lagged { every: 1 }
    }

    /// The policy's weight in the update after `step` (counted from 1), if there is one: of `Bema` its weight in the average.
    pub fn weight_after(self, step: u64) -> Option<f64> {
        let due = |every: u64| every > 0 && step > 0 && step.is_multiple_of(every);
        match self {
            Self::Frozen | Self::Lagged { .. } => None,
            Self::Soft { alpha, every } => due(every).then_some(alpha),
            Self::Hard { every } => due(every).then_some(1.0),
            Self::Ema { mu } => (step > 0).then_some(mu),
            Self::Bema(bema) => bema.is_due(step).then(|| bema.ema_weight(step)),
        }
    }

    /// The first step, counted from 1, with which the reference moves.
    pub fn first_step(self) -> Option<u64> {
        match self {
            Self::Frozen => None,
            Self::Soft { every, .. } | Self::Hard { every } | Self::Lagged { every } => Some(every),
            Self::Ema { .. } => Some(1),
            Self::Bema(bema) => Some(bema.update_after.saturating_add(bema.every)),
        }
    }

    /// Whether the policy is copied before `step` (counted from 1) changes it.
    pub fn copies_before(self, step: u64) -> bool {
        matches!(self, Self::Lagged { every } if every > 0 && step > 0 && step.is_multiple_of(every))
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
            Self::Frozen | Self::Ema { .. } => 1,
            Self::Soft { every, .. } | Self::Hard { every } | Self::Lagged { every } => every,
            Self::Bema(bema) => bema.every,
        };
        match self {
            _ if every == 0 => Some(("update.every", 0.0, "at least 1 step")),
            Self::Soft { alpha, .. } if !(alpha > 0.0 && alpha <= 1.0) => {
                Some(("update.alpha", alpha, "a weight in (0, 1]"))
            }
            Self::Ema { mu } if !(mu > 0.0 && mu < 1.0) => Some(("update.mu", mu, "a weight in (0, 1)")),
            Self::Soft { alpha, .. } if every == 1 && is_copy(alpha) => Some(("update.every", 1.0, LAGGING)),
            Self::Hard { .. } if every == 1 => Some(("update.every", 1.0, LAGGING)),
            Self::Bema(bema) => bema.fault(),
            _ => None,
        }
    }
}

/// As it is written with all its keys.
#[derive(Deserialize)]
#[serde(rename = "ReferenceUpdate", rename_all = "snake_case", deny_unknown_fields)]
enum Written {
    Soft { alpha: f64, every: u64 },
    Hard { every: u64 },
    Ema { mu: f64 },
    Bema(Bema),
    Lagged { every: u64 },
}

impl<'de> Deserialize<'de> for ReferenceUpdate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Some(word) = value.as_str() {
            return match word {
                "frozen" => Ok(Self::Frozen),
                "soft" => Ok(Self::soft()),
                "hard" => Ok(Self::hard()),
                "ema" => Ok(Self::ema()),
                "bema" => Ok(Self::Bema(Bema::default())),
                "lagged" => Ok(Self::lagged()),
                _ => Err(D::Error::custom(format!("update: got \"{word}\", expected {FORMS}"))),
            };
        }
        match Written::deserialize(value) {
            Ok(Written::Soft { alpha, every }) => Ok(Self::Soft { alpha, every }),
            Ok(Written::Hard { every }) => Ok(Self::Hard { every }),
            Ok(Written::Ema { mu }) => Ok(Self::Ema { mu }),
            Ok(Written::Bema(bema)) => Ok(Self::Bema(bema)),
            Ok(Written::Lagged { every }) => Ok(Self::Lagged { every }),
            // Which key lacks or is unknown, in serde's words but one: whoever reads "missing field" into the path of a key takes it
            // for one of the loss.
            Err(error) => {
                let fault = error.to_string().replace("missing field", "lacks");
                Err(D::Error::custom(format!("update: {fault}; expected {FORMS}")))
            }
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

const FORMS: &str = "one of \"frozen\", \"soft\", \"hard\", \"ema\", \"bema\", \"lagged\", or a variant with all its keys: \
                     { soft = { alpha, every } }, { hard = { every } }, { ema = { mu } }, { bema = { every, … } }, \
                     { lagged = { every } }";

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

    #[test]
    fn words_are_published_settings_and_keys_are_given_together() {
        let read = |json: &str| serde_json::from_str::<ReferenceUpdate>(json);
        for (word, update) in [
            ("frozen", ReferenceUpdate::Frozen),
            ("soft", ReferenceUpdate::Soft { alpha: 0.6, every: 1 }),
            ("hard", ReferenceUpdate::Hard { every: 512 }),
            ("ema", ReferenceUpdate::Ema { mu: 0.01 }),
            ("bema", ReferenceUpdate::Bema(Bema::default())),
            ("lagged", ReferenceUpdate::Lagged { every: 1 }),
        ] {
            assert_eq!(read(&format!("\"{word}\"")).unwrap(), update);
            assert_eq!(update.fault(), None);
            // What is written down has no words for others to explain.
            assert_eq!(read(&serde_json::to_string(&update).unwrap()).unwrap(), update);
        }
        let refused = |json: &str| read(json).unwrap_err().to_string();
        let mixed = refused(r#"{ "soft": { "every": 8 } }"#);
        assert!(mixed.starts_with("update: lacks `alpha`; expected one of \"frozen\""), "{mixed}");
        assert!(refused(r#"{ "soft": { "alpha": 0.6 } }"#).contains("lacks `every`"));
        assert!(refused(r#"{ "hard": { "alpha": 1.0, "every": 4 } }"#).contains("unknown field `alpha`"));
        assert!(refused(r#""often""#).starts_with("update: got \"often\", expected one of"));
        assert!(refused("3").starts_with("update: "));
        let bema = read(r#"{ "bema": { "every": 5 } }"#).unwrap();
        assert_eq!(bema, ReferenceUpdate::Bema(Bema { every: 5, ..Bema::default() }));
    }

    #[test]
    fn an_anchor_of_warp_agrees_with_the_formulas() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
        let expected = FormulaVectors::load(&path).unwrap().list("warp ema anchor mu=0.01, 3 steps", "ema").unwrap();
        let mut reference = [0.0, 1.0, 0.25];
        for step in 1..=3 {
            let weight = ReferenceUpdate::ema().weight_after(step).unwrap();
            ReferenceUpdate::mix(weight, &[1.0, -2.0, 0.5], &mut reference).unwrap();
        }
        assert!(worst(&reference, &expected) < 1e-15, "{reference:?} {expected:?}");
    }

    #[test]
    fn copies_that_lag_come_before_the_step() {
        let lagged = ReferenceUpdate::Lagged { every: 2 };
        assert_eq!((1..=4).map(|step| lagged.copies_before(step)).collect::<Vec<_>>(), [false, true, false, true]);
        assert_eq!(lagged.weight_after(2), None);
        assert!(!ReferenceUpdate::Hard { every: 2 }.copies_before(2));
    }

    #[test]
    fn what_a_mean_cannot_be_is_refused() {
        let fault = |update: ReferenceUpdate| update.fault().map(|(parameter, _, _)| parameter);
        assert_eq!(fault(ReferenceUpdate::Ema { mu: 1.0 }), Some("update.mu"));
        assert_eq!(fault(ReferenceUpdate::Ema { mu: f64::NAN }), Some("update.mu"));
        assert_eq!(fault(ReferenceUpdate::Lagged { every: 0 }), Some("update.every"));
        let bema = |change: fn(&mut Bema)| {
            let mut bema = Bema::default();
            change(&mut bema);
            fault(ReferenceUpdate::Bema(bema))
        };
        assert_eq!(bema(|bema| bema.every = 0), Some("update.every"));
        assert_eq!(bema(|bema| bema.ema_power = -0.1), Some("update.ema_power"));
        assert_eq!(bema(|bema| bema.bias_power = f64::INFINITY), Some("update.bias_power"));
        assert_eq!(bema(|bema| bema.multiplier = 0.0), Some("update.multiplier"));
        assert_eq!(bema(|bema| bema.min_ema_multiplier = 1.5), Some("update.min_ema_multiplier"));
        // 0.1^−½ is above 1.
        let young = Bema { every: 1, lag: 0.0, multiplier: 0.1, ..Bema::default() };
        assert_eq!(fault(ReferenceUpdate::Bema(young)), Some("update.lag"));
        let late = Bema { every: 2, update_after: 3, ..Bema::default() };
        assert_eq!((1..=8).filter(|&step| late.is_due(step)).collect::<Vec<_>>(), [5, 7]);
    }
}
