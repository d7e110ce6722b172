//! Settings of TRL's `DPOTrainer` and `KTOTrainer`, as objectives of this library.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::builtin::Builtin;
use crate::error::{Error, Result};
use crate::mix::{Mix, Part};
use crate::recipe::Recipe;

/// The options of TRL's trainers that decide the loss, under TRL's names and with
/// TRL's defaults.
///
/// TRL drops in silence an option that a loss does not use, and so does this: for
/// example `label_smoothing` with `loss_type = "sigmoid"`. Ask for [`Cdpo`](crate::Cdpo)
/// to have it act.
///
/// ```
/// use candlewick_losses::{Builtin, Recipe, RobustDpo, trl::Options};
/// let options: Options = serde_json::from_str(r#"{ "loss_type": "robust", "label_smoothing": 0.2 }"#)?;
/// let expected = RobustDpo { beta: 0.1, label_smoothing: 0.2 };
/// assert_eq!(options.recipe()?, Recipe::Builtin(Builtin::RobustDpo(expected)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// One name or several, whose losses are added.
    #[serde(alias = "loss_types", deserialize_with = "one_or_many")]
    pub loss_type: Vec<String>,
    /// One factor a loss; 1 each if not given.
    pub loss_weights: Option<Vec<f64>>,
    /// `beta` of every loss that has one.
    pub beta: f64,
    /// `label_smoothing` of every loss that has one.
    pub label_smoothing: f64,
    /// The divergence of f-DPO.
    pub f_divergence_type: String,
    /// `α` of the alpha divergence.
    pub f_alpha_divergence_coef: f64,
    /// `α` of LD-DPO.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighted as in WPO.
    pub use_weighting: bool,
    /// `τ` of DiscoPOP.
    pub discopop_tau: f64,
    /// `λ_D` of KTO.
    pub desirable_weight: f64,
    /// `λ_U` of KTO.
    pub undesirable_weight: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            loss_type: vec!["sigmoid".to_owned()],
            loss_weights: None,
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: "reverse_kl".to_owned(),
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

impl Options {
    /// The objective that these options describe.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] names the first option or loss that nothing here computes;
    /// [`Error::Mix`] tells of weights that do not match the losses.
    pub fn recipe(&self) -> Result<Recipe> {
        let parts = self.loss_type.iter().map(|name| self.loss(name)).collect::<Result<Vec<_>>>()?;
        self.check_modifiers()?;
        let weights = self.loss_weights.clone().unwrap_or_else(|| vec![1.0; parts.len()]);
        if weights.len() != parts.len() {
            let (weights, losses) = (weights.len(), parts.len());
            return Err(Error::Mix(format!("loss_weights: got {weights}, expected one for each of {losses} losses")));
        }
        let mut parts: Vec<Part> =
            parts.into_iter().zip(weights).map(|(loss, weight)| Part { weight, loss: loss.into() }).collect();
        let single = parts.len() == 1 && (parts[0].weight - 1.0).abs() <= 0.0;
        match parts.pop() {
            Some(part) if single => Ok(part.loss),
            Some(part) => {
                parts.push(part);
                Ok(Mix { parts }.into())
            }
            None => Err(Error::Mix("loss_type: got no loss, expected at least one".to_owned())),
        }
    }

    // A loss has the fields that it uses: those are set, and no other option reaches it.
    fn loss(&self, name: &str) -> Result<Builtin> {
        let unknown = || Error::NotBuilt(name.to_owned());
        let mut fields = to_fields(&Builtin::from_name(name).ok_or_else(unknown)?)?;
        let options = to_fields(self)?;
        for (key, value) in &mut fields {
            if let Some(option) = options.get(key) {
                *value = option.clone();
            }
        }
        serde_json::from_value(Value::Object(fields)).map_err(|error| Error::Config(error.to_string()))
    }

    fn check_modifiers(&self) -> Result<()> {
        let modifier = if self.f_divergence_type != "reverse_kl" {
            format!("f_divergence_type = {}", self.f_divergence_type)
        } else if let Some(alpha) = self.ld_alpha {
            format!("ld_alpha = {alpha}")
        } else if self.use_weighting {
            "use_weighting".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::NotBuilt(modifier))
    }
}

fn to_fields(value: &impl Serialize) -> Result<serde_json::Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Error::Config(format!("got {other}, expected a table"))),
        Err(error) => Err(Error::Config(error.to_string())),
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error as _;
    match Value::deserialize(deserializer)? {
        Value::String(name) => Ok(vec![name]),
        many => serde_json::from_value(many)
            .map_err(|_| D::Error::custom("loss_type: expected the name of a loss or a list of names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dpo, Sft};

    fn recipe(options: &str) -> Result<Recipe> {
        serde_json::from_str::<Options>(options).unwrap().recipe()
    }

    #[test]
    fn sigmoid_ignores_label_smoothing_as_trl_does() {
        let expected = Recipe::Builtin(Builtin::Dpo(Dpo { beta: 0.3, ..Dpo::default() }));
        assert_eq!(recipe(r#"{ "beta": 0.3, "label_smoothing": 0.2 }"#).unwrap(), expected);
    }

    #[test]
    fn several_losses_become_a_mix() {
        let mix = recipe(r#"{ "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5] }"#).unwrap();
        let parts = vec![
            Part { weight: 1.0, loss: Builtin::from(Dpo::default()).into() },
            Part { weight: 0.5, loss: Builtin::from(Sft {}).into() },
        ];
        assert_eq!(mix, Recipe::Mix(Mix { parts }));
    }

    #[test]
    fn what_is_not_built_is_named() {
        for (options, expected) in [
            (r#"{ "loss_type": "no_such_loss" }"#, "no_such_loss not built"),
            (r#"{ "f_divergence_type": "no_such_kl" }"#, "f_divergence_type = no_such_kl not built"),
        ] {
            assert_eq!(recipe(options).unwrap_err().to_string(), expected);
        }
        let weights = recipe(r#"{ "loss_weights": [1.0, 2.0] }"#).unwrap_err();
        assert!(weights.to_string().contains("got 2, expected one for each of 1 losses"));
    }
}
